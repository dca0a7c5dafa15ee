"""Distils the emoji model into models/emoji-turbo (a developer tool, not installed)."""
