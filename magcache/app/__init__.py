"""A Gradio app that makes videos faster: with FramePack, or small emoji. Extra `app`."""
