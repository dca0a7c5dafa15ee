"""Trains the small emoji model in models/emoji (a developer tool, not installed)."""
