"""Trains the small emoji model under models/emoji (a developer's tool, not installed)."""
