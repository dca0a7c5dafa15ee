"""Measures speed and memory of full-size models on one GPU."""
