"""Trains the small U-Net under models/emoji-unet (a developer's tool, not installed)."""
