"""Trains the small U-Net in models/emoji-unet (a developer tool, not installed)."""
