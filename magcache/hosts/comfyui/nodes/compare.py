"""MagCache Compare: how far two images, or two videos, are from each other."""

from typing import Any

from ....pictures import as_batch
from ....pictures.comparison import draw
from .. import host
from ..compare import compare


class MagCacheCompare:
    """PSNR, SSIM and FLIP of two batches of images, as text and as a picture."""

    CATEGORY = "MagCache"
    FUNCTION = "compare"
    OUTPUT_NODE = True
    RETURN_TYPES = ("IMAGE", "STRING")
    RETURN_NAMES = ("picture", "text")
    OUTPUT_TOOLTIPS = (
        "A, B and where they differ; of several frames the one that differs most, and curves.",
        "PSNR, SSIM and FLIP, and of several frames which differs most.",
    )
    DESCRIPTION = (
        "Measures how far two images or videos of one size are from each other, for instance one "
        "sampled with MagCache and one without, of the same seed."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "image_a": (
                    "IMAGE",
                    {"tooltip": "A: an image or the frames of a video, the original for instance."},
                ),
                "image_b": (
                    "IMAGE",
                    {"tooltip": "B: as many of the same size. A and B may be exchanged."},
                ),
            },
            "hidden": {"node_id": "UNIQUE_ID"},
        }

    def compare(self, image_a: Any, image_b: Any, node_id: str | None = None) -> dict[str, Any]:
        from comfy import model_management
        from comfy.utils import ProgressBar

        progress = ProgressBar(len(image_a))

        def done() -> None:
            model_management.throw_exception_if_processing_interrupted()
            progress.update(1)

        found = compare(image_a, image_b, model_management.get_torch_device(), done)
        picture = as_batch(draw(image_a[found.worst], image_b[found.worst], found))
        host.show(str(found), node_id)
        ui = {**host.preview(picture), "text": [str(found)]}
        return {"ui": ui, "result": (picture, str(found))}
