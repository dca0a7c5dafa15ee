"""The examples that run anywhere: the small models that come with MagCache."""

from collections.abc import Callable

from . import parts
from .graph import BLUE, GREEN, YELLOW, Group, Node, Output, Workflow

SIDE, SHOWN = 128, 256  # a latent for 32x32 pixels, and how large they are shown
SPEEDUP = 2.0
Show = Callable[[Output, str], Node]
_STORY = f"""**Press Run.** Nothing has to be downloaded, and any CPU will do.

The model is small but real, and comes with MagCache. The upper half samples without MagCache, \
the lower half with it, from the same seed.

The lower half computes every second step and predicts the others. It takes half the time, and the \
result is nearly the same: group 5 shows how near.

{{}} Up to eight words; one that the model does not know is left out.

Try `speedup` 2.8, or 4 to see where it ends.

{parts.LOG}"""

_MEASURED = """**Press Run.** It takes about ten times as long as one picture.

MagCache Benchmark samples without MagCache, at each speed, and with as few plain steps as that \
speed costs. In the report compare each MagCache row with the plain row below it.

For your own model, put the node in the place of MagCache in a workflow of yours, with MagCache \
Report behind the sampler. Picture and text are also in ComfyUI's output folder, in `magcache`: \
the text can be sent to others, it holds no prompt, path or name.

You may cancel it. What is done is kept, and the same workflow goes on from there."""


def emoji(w: Workflow) -> None:
    model = w.node("MagCacheEmojiModel", makes="pictures (FLUX)")
    latent = w.node("EmptySD3LatentImage", "Size", width=SIDE, height=SIDE, batch_size=4)

    def show(images: Output, name: str) -> Node:
        prefix = f"magcache/emoji_{name}"
        return w.node("SaveImage", images=images, filename_prefix=prefix, wide=320, high=380)

    about = (
        "32x32 pixels each, shown eight times as large. Other words: `butterfly`, `dog`, `ghost`."
    )
    _with_and_without(w, [model], latent, ("fox face", about), show)


def emoji_video(w: Workflow) -> None:
    model = w.node("MagCacheEmojiModel", makes="clips (Wan 2.1)")
    shifted = w.node("ModelSamplingSD3", "Shift", model=model[0], shift=3.0)
    latent = w.node(
        "EmptyHunyuanLatentVideo", "Size: eight frames", width=SIDE, height=SIDE, length=29
    )

    def show(images: Output, name: str) -> Node:
        prefix = f"magcache/emoji_video_{name}"
        return w.node(
            "SaveAnimatedWEBP", images=images, filename_prefix=prefix, fps=8.0, lossless=True,
            wide=320, high=500,
        )  # fmt: skip

    about = "Eight frames of 32x32 pixels. Other words: `rat`, `owl`, `green heart`."
    _with_and_without(w, [model, shifted], latent, ("guide dog", about), show)


def emoji_benchmark(w: Workflow) -> None:
    model = w.node("MagCacheEmojiModel", makes="pictures (FLUX)")
    text = w.node("CLIPTextEncode", "Keywords", clip=model[1], text="fox face", wide=300, high=100)
    none = w.node("CLIPTextEncode", "Negative: nothing", clip=model[1], text="", wide=300, high=90)
    latent = w.node("EmptySD3LatentImage", "Size", width=SIDE, height=SIDE, batch_size=1)
    measured = w.node("MagCacheBenchmark", model=model[0], vae=model[2], wide=460, high=260)
    sampler = w.node(
        "KSampler", model=measured[0], positive=text[0], negative=none[0], latent_image=latent[0],
        seed=1, control="increment", steps=28, cfg=3.0, sampler_name="euler", scheduler="simple",
    )  # fmt: skip
    report = w.node("MagCacheReport", model=measured[0], after=sampler[0], wide=480, high=1000)
    told = w.node("PreviewAny", "Text to send", source=report[1], wide=900, high=420)
    w.lay_out(
        [parts.start(w, w.note("What happens here", _MEASURED))],
        [
            Group("1 · Model", BLUE, [[model]]),
            Group("2 · What to make", YELLOW, [[text, none, latent]]),
        ],
        [Group("3 · Measure", GREEN, [[measured, sampler]])],
        [Group("4 · Result", GREEN, [[report], [told]])],
    )


def _with_and_without(
    w: Workflow, models: list[Node], latent: Node, prompt: tuple[str, str], show: Show
) -> None:
    """Samples twice with the same seed: as it is, and with MagCache."""
    clip, vae, model = models[0][1], models[0][2], models[-1][0]
    text = w.node("CLIPTextEncode", "Keywords", clip=clip, text=prompt[0], wide=300, high=100)
    none = w.node("CLIPTextEncode", "Negative: nothing", clip=clip, text="", wide=300, high=90)
    seed = w.node("PrimitiveInt", "Seed of both", control="increment", value=1, wide=300)

    def branch(model: Output, name: str) -> list[Node]:
        sampler = w.node(
            "KSampler", model=model, positive=text[0], negative=none[0], latent_image=latent[0],
            seed=seed[0], steps=28, cfg=3.0, sampler_name="euler", scheduler="simple",
        )  # fmt: skip
        decoded = w.node("VAEDecode", samples=sampler[0], vae=vae)
        larger = w.node(
            "ImageScale", image=decoded[0], upscale_method="nearest-exact", width=SHOWN,
            height=SHOWN,
        )  # fmt: skip
        return [sampler, decoded, larger, show(larger[0], name)]

    plain = branch(model, "without")
    cached = w.node("MagCacheTargetSpeed", model=model, speedup=SPEEDUP)
    fast = branch(cached[0], "with")
    report = parts.report(w, cached, fast[0][0])
    compared = w.node(
        "MagCacheCompare", image_a=plain[1][0], image_b=fast[1][0], wide=460, high=500
    )
    w.lay_out(
        [parts.start(w, w.note("What happens here", _STORY.format(prompt[1])))],
        [
            Group("1 · Model", BLUE, [models]),
            Group("2 · What to make", YELLOW, [[text, none, latent, seed]]),
        ],
        [
            Group("3 · Without MagCache", BLUE, [plain[:1], plain[1:3], plain[3:]]),
            Group("4 · With MagCache", GREEN, [[cached, *fast[:1]], fast[1:3], fast[3:]]),
        ],
        [Group("5 · Difference and gain", GREEN, [[compared, report]])],
    )
