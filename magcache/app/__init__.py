"""A Gradio app that turns an image into a video with FramePack, accelerated. Extra `app`."""
