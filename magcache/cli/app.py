"""The command `magcache app`: FramePack in the browser."""

import argparse
import importlib
import os
import signal
import sys
from typing import Any

PORT = 7860


def add_to(commands: Any) -> None:
    """Adds `app` to the commands of the command line's parser."""
    parser = commands.add_parser("app", help="make videos with FramePack in the browser")
    text = "serve on this address, 0.0.0.0 if none is named; default 127.0.0.1, this computer only"
    parser.add_argument(
        "--listen", nargs="?", const="0.0.0.0", default="127.0.0.1", metavar="ADDRESS", help=text
    )
    parser.add_argument("--port", type=int, default=PORT, help=f"default {PORT}")
    text = "a tiny model with random weights, which draws noise, on any computer"
    parser.add_argument("--tiny", action="store_true", help=text)
    text = "a video has about the square of this in pixels; default 640"
    parser.add_argument("--resolution", type=int, metavar="PIXELS", help=text)
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    parser.set_defaults(run=_app, extra="app")


def _app(arguments: argparse.Namespace) -> None:
    if not 0 < arguments.port < 65536:
        raise ValueError(f"there is no port {arguments.port}: choose one from 1 to 65535")
    if arguments.resolution is not None and not 32 <= arguments.resolution <= 2048:
        raise ValueError(f"--resolution is from 32 to 2048, got {arguments.resolution}")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns of a missing torchvision
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from ..app.files import workspace

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the folder is removed
    with workspace() as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(folder / "gradio")  # read when gradio is imported
        _serve(arguments, folder)


def _serve(arguments: argparse.Namespace, folder: Any) -> None:
    for needed in ("diffusers", "gradio", "imageio_ffmpeg"):  # what is missing is told at once
        importlib.import_module(needed)
    import torch

    from ..app.engine import Engine
    from ..app.models import Models
    from ..app.ui import Page

    subtitle = "An image and a sentence become a video; what can be predicted is not computed."
    if arguments.tiny:
        torch.set_num_threads(1)  # so small a model is slower on more
        subtitle = "A tiny model with random weights: it shows how the app works, and draws noise."
    page = Page(Engine(Models(arguments.tiny, arguments.resolution)), folder, subtitle)
    address, port = arguments.listen, arguments.port
    try:
        page.launch(address, port, open_browser=arguments.open)
    except OSError as error:
        raise OSError(
            f"cannot serve on {address}, port {port}: it is in use or not allowed; "
            "choose another with --port"
        ) from error
    print(f"MagCache: serving on http://{address}:{port} (Ctrl+C ends it)", flush=True)
    page.blocks.block_thread()
