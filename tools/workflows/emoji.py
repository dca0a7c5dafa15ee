"""The examples that run anywhere: the small models that come with MagCache."""

from collections.abc import Callable

from . import parts
from .graph import BLUE, GREEN, GREY, YELLOW, Group, Node, Output, Workflow

SIDE, SHOWN = 128, 256  # latent size for 32x32 pixels, and their size on the page
STEPS = 28
PICTURES, CLIPS = "pictures (FLUX)", "clips (Wan 2.1)"
Show = Callable[[Output, str], Node]
_ANYWHERE = """## Press Run
No download, no GPU: {} comes with MagCache."""
_STORY = """{anywhere} The same seed is sampled twice:

- **without MagCache**: all {steps} steps
- **with MagCache**: {computed} steps, the others are predicted

That takes half the time, in the first run too. {shown}

## Then try
- `speedup` 2.8, and 4 to see how far it goes
- other words: {words}. The model ignores words it does not know"""

_MEASURED = f"""{_ANYWHERE.format("this small trained model")} **MagCache Benchmark** repeats the \
sampling without MagCache, at each of its `speeds`, and with fewer steps that take as long.

That takes about ten times as long as one picture. You can cancel it at any time: finished runs \
are kept, and the same workflow continues from there.

## Then measure your own model
Put the node in place of **MagCache** and connect the VAE. **Text to send** contains versions, \
device and settings, and nothing private."""


def emoji(w: Workflow) -> None:
    model = w.node("MagCacheEmojiModel", "Emoji Model", high=100, makes=PICTURES)
    latent = w.node("EmptySD3LatentImage", "Size", width=SIDE, height=SIDE, batch_size=4)

    def show(images: Output, name: str) -> Node:
        prefix = f"magcache/emoji_{name}"
        return w.node("SaveImage", images=images, filename_prefix=prefix, high=310)

    def last(plain: list[Node], cached: Node, fast: list[Node]) -> Node:
        return w.node(
            "MagCacheCompare", image_a=plain[1][0], image_b=fast[1][0], wide=390, high=440
        )

    story = "**Compare** shows how close the two are.", "`butterfly`, `dog`, `ghost`"
    _with_and_without(w, [model], latent, "fox face", story, show, ("Difference", last))


def emoji_video(w: Workflow) -> None:
    model = w.node("MagCacheEmojiModel", "Emoji Model", high=100, makes=CLIPS)
    shifted = w.node("ModelSamplingSD3", "Shift", model=model[0], shift=3.0)
    latent = w.node(
        "EmptyHunyuanLatentVideo", "Size: eight frames", width=SIDE, height=SIDE, length=29
    )

    def show(images: Output, name: str) -> Node:
        prefix = f"magcache/emoji_video_{name}"
        return w.node(
            "SaveAnimatedWEBP", images=images, filename_prefix=prefix, fps=8.0, lossless=True,
            high=410,
        )  # fmt: skip

    def last(plain: list[Node], cached: Node, fast: list[Node]) -> Node:
        return w.node("MagCacheReport", model=cached[0], after=fast[0][0], wide=400, high=600)

    story = "**Report** shows what was computed.", "`owl`, `airplane arriving`, `droplet`"
    _with_and_without(w, [model, shifted], latent, "green heart", story, show, ("Report", last))


def calibration(w: Workflow) -> None:
    model = w.node("MagCacheEmojiModel", "Emoji Model", high=100, makes=PICTURES)
    measured = w.node("MagCacheCalibration", model=model[0])
    text, none = _prompts(w, model[1], "fox face")
    latent = w.node("EmptySD3LatentImage", "Size", width=SIDE, height=SIDE, batch_size=4)
    sampler = parts.sampled(w, measured[0], (text[0], none[0]), latent[0], STEPS, 3.0)
    decoded, larger = _enlarged(w, sampler, model[2])
    saved = w.node(
        "SaveImage", images=larger[0], filename_prefix="magcache/emoji_measured", high=350
    )
    story = (
        f"{_ANYWHERE.format('this small trained model')}\n\nMagCache needs no calibration. Make "
        "one for results closer to the original, or to use the published rule with a model that "
        "has no published list.\n\n**MagCache Calibration** measures the model during one "
        "ordinary run and skips nothing. The node shows the name of the file it has saved.\n\n"
        "## Then use it\nReplace the node with **MagCache**. With `calibration` on `automatic`, it "
        "finds the file of this model. One file serves other prompts, steps and shifts."
    )
    w.lay_out(
        [Group("Start here", GREY, [[w.note("How to use this", story)]])],
        [Group("Model", BLUE, [[model]]), parts.ours(measured)],
        [parts.prompt(text, none, latent)],
        [parts.sample([sampler, decoded, larger, saved])],
    )


def emoji_benchmark(w: Workflow) -> None:
    model = w.node("MagCacheEmojiModel", "Emoji Model", high=100, makes=PICTURES)
    text, none = _prompts(w, model[1], "fox face")
    latent = w.node("EmptySD3LatentImage", "Size", width=SIDE, height=SIDE, batch_size=1)
    measured = w.node("MagCacheBenchmark", model=model[0], vae=model[2], high=240)
    sampler = parts.sampled(w, measured[0], (text[0], none[0]), latent[0], STEPS, 3.0)
    report = w.node("MagCacheReport", model=measured[0], after=sampler[0], wide=480, high=660)
    told = w.node("PreviewAny", "Text to send", source=report[1], wide=480, high=260)
    w.lay_out(
        [Group("Start here", GREY, [[w.note("How to use this", _MEASURED)]])],
        [Group("Model", BLUE, [[model]]), parts.prompt(text, none, latent)],
        [parts.ours(measured), parts.sample([sampler])],
        [Group("Result", GREEN, [[report, told]])],
    )


def _with_and_without(
    w: Workflow, models: list[Node], latent: Node, prompt: str, story: tuple[str, str],
    show: Show, last: tuple[str, Callable[[list[Node], Node, list[Node]], Node]],
) -> None:  # fmt: skip
    """Samples twice with the same seed: without MagCache, and with it."""
    clip, vae, model = models[0][1], models[0][2], models[-1][0]
    text, none = _prompts(w, clip, prompt)
    seed = w.node("PrimitiveInt", "Seed of both", control="increment", value=1)

    def branch(model: Output, name: str) -> list[Node]:
        sampler = w.node(
            "KSampler", model=model, positive=text[0], negative=none[0], latent_image=latent[0],
            seed=seed[0], steps=STEPS, cfg=3.0, sampler_name="euler", scheduler="simple",
        )  # fmt: skip
        decoded, larger = _enlarged(w, sampler, vae)
        return [sampler, decoded, larger, show(larger[0], name)]

    plain = branch(model, "without")
    cached = parts.faster(w, model)
    fast = branch(cached[0], "with")
    title, make = last
    told = _STORY.format(
        anywhere=_ANYWHERE.format("this small trained model"), steps=STEPS, computed=STEPS // 2,
        shown=story[0], words=story[1],
    )  # fmt: skip
    w.lay_out(
        [Group("Start here", GREY, [[w.note("How to use this", told)]])],
        [
            Group("Model", BLUE, [models]),
            Group("What to make", YELLOW, [[text, none, latent, seed]]),
        ],
        [Group("Without MagCache", BLUE, [plain])],
        [Group("With MagCache", GREEN, [[cached, *fast]])],
        [Group(title, GREEN, [[make(plain, cached, fast)]])],
    )


def _prompts(w: Workflow, clip: Output, prompt: str) -> tuple[Node, Node]:
    text = w.node("CLIPTextEncode", "Keywords", clip=clip, text=prompt, high=100)
    return text, w.node("CLIPTextEncode", "Negative: nothing", clip=clip, text="", collapsed=True)


def _enlarged(w: Workflow, sampler: Node, vae: Output) -> tuple[Node, Node]:
    decoded = w.node("VAEDecode", samples=sampler[0], vae=vae, collapsed=True)
    larger = w.node(
        "ImageScale", image=decoded[0], upscale_method="nearest-exact", width=SHOWN, height=SHOWN,
        collapsed=True,
    )  # fmt: skip
    return decoded, larger
