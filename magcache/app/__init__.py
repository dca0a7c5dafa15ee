"""A Gradio app that makes videos, accelerated: FramePack, or small emoji. Extra `app`."""
