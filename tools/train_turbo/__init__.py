"""Distils the emoji model into models/emoji-turbo (a developer's tool, not installed)."""
