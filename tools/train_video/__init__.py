"""How the small video model in models/emoji-video was trained; not needed to use it."""
