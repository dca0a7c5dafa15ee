"""Benchmarks that anyone can run; not installed."""
