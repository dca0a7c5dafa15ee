"""The command `magcache app`: makes videos in the browser."""

import argparse
import importlib
import os
import secrets
import time
from typing import Any

from ..app.address import check_address, is_local
from .values import given, whole

PORT = 7860


def add_to(commands: Any) -> None:
    """Adds `app` to the commands of the command line's parser."""
    parser = commands.add_parser("app", help="make videos in the browser")
    text = (
        "address to serve on, 0.0.0.0 if you give none; visitors need the password that is printed "
        "at the start. Default: 127.0.0.1, for this computer only, without a password"
    )
    parser.add_argument(
        "--listen",
        nargs="?",
        type=given,
        const="0.0.0.0",
        default="127.0.0.1",
        metavar="ADDRESS",
        help=text,
    )
    parser.add_argument("--port", type=whole(1, 65_535), default=PORT, help=f"default {PORT}")
    text = (
        "start with the small model that comes with MagCache, which draws emoji on any computer; "
        "this is the default without a GPU"
    )
    parser.add_argument("--tiny", action="store_true", help=text)
    text = "size of FramePack's videos: each frame has about this many pixels squared; default 640"
    parser.add_argument("--resolution", type=whole(32, 2048), metavar="PIXELS", help=text)
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    parser.set_defaults(run=_app, extra="app")


def _app(arguments: argparse.Namespace) -> None:
    check_address(arguments.listen, arguments.port)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns of a missing torchvision
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from ..app.files import workspace

    with workspace() as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(folder / "gradio")  # read when gradio is imported
        _serve(arguments, folder)


def _serve(arguments: argparse.Namespace, folder: Any) -> None:
    for needed in ("diffusers", "gradio", "imageio_ffmpeg"):  # fail early if one is missing
        importlib.import_module(needed)
    import torch

    from ..app.engine import Engine
    from ..app.form import WORDS
    from ..app.models import Models
    from ..app.settings import EMOJI, Settings
    from ..app.ui import USER, Page

    start = Settings()
    if arguments.tiny or not torch.cuda.is_available():
        torch.set_num_threads(1)  # such a small model is slower with more
        start = Settings(model=EMOJI, prompt=WORDS[0], compare=True)
    page = Page(Engine(Models(resolution=arguments.resolution)), folder, start)
    address, port = arguments.listen, arguments.port
    password = None if is_local(address) else secrets.token_urlsafe(12)
    try:
        page.launch(address, port, password=password, open_browser=arguments.open)
        print(f"MagCache: serving on http://{address}:{port} (Ctrl+C ends it)", flush=True)
        if password:
            print(f"MagCache: visitors sign in as {USER}, password {password}", flush=True)
        while True:
            time.sleep(1)  # Ctrl+C interrupts this on Windows too, unlike an endless wait
    finally:
        page.close()
