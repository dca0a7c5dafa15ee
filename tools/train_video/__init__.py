"""Trains the small video model in models/emoji-video (a developer tool, not installed)."""
