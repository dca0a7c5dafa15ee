"""What ComfyUI's own templates sample with, and what MagCache gains on each in its first run.

    pip download --no-deps comfyui-workflow-templates-json==0.1.50     # and the newest
    python -m tools.templates comfyui_workflow_templates_json-*.whl

Reads every local image and video template and weighs it by the use that the package publishes.
Writes docs/templates.md, a section a version, and a picture of the first.
"""

import argparse
import json
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magcache.curves import Trajectory, shifted_sigmas
from magcache.decide import Course, Target, decider_for

from .graphs import Graph, Node

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PACKAGE = "comfyui_workflow_templates_json"
PAGE = Path("docs/templates.md")
PICTURE = PAGE.with_suffix(".png")
SPEEDUP = 2.0
GAIN = 1.1  # a speed-up that counts
SHOWN = 0.002  # of the use, from which a family has a row of its own
VENDORS = {"Lightricks", "Stability", "Tencent", "Nvidia", "Qwen", "Wan", "Flux", "FLUX"}
LOADERS = ("UNETLoader", "CheckpointLoaderSimple", "ImageOnlyCheckpointLoader")
SAMPLERS = ("KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced")


@dataclass(frozen=True)
class Sampling:
    """One sampler of a template.

    Attributes:
        steps: How many it runs.
        whole: Steps of the trajectory that it is a part of.
        sampler: By ComfyUI's name, or that of the node that makes it.
        lora: Whether a LoRA lies between the loader and the sampler.
    """

    steps: int
    whole: int
    sampler: str
    lora: bool


@dataclass(frozen=True)
class Template:
    """A template with what it samples.

    Attributes:
        family: The model's name, as the package has it.
        use: How often it was used.
    """

    name: str
    family: str
    use: int
    samplings: tuple[Sampling, ...]

    @property
    def steps(self) -> int:
        return sum(each.steps for each in self.samplings)

    @property
    def computed(self) -> int:
        """How many of its steps a first run computes."""
        return sum(computed(each.steps, each.whole) for each in self.samplings)

    @property
    def speedup(self) -> float:
        return self.steps / self.computed

    @property
    def whole(self) -> int:
        """Steps of the longest trajectory."""
        return max(each.whole for each in self.samplings)


@cache
def computed(steps: int, whole: int) -> int:
    """How many evaluations a first run computes when asked for twice the speed.

    Args:
        steps: Of the run: the last ones of its trajectory.
        whole: Of the trajectory.
    """
    levels = shifted_sigmas(whole, 3.0)
    course = Course(Trajectory(levels), steps, levels[-steps:], range(steps))
    return decider_for(Target(SPEEDUP), course).schedule().computed


def templates(folder: Any) -> list[Template]:
    """The local image and video templates that sample, each once.

    Args:
        folder: The package's, on disk or in a wheel.

    Raises:
        ValueError: A workflow is not understood.
    """
    found = {}
    for category in json.loads((folder / "index.json").read_text("utf-8")):
        for told in category["templates"] if category["type"] in ("image", "video") else ():
            name = told["name"]
            workflow = json.loads((folder / f"{name}.json").read_text("utf-8"))
            try:
                sampled = tuple(samplings(workflow))
            except (LookupError, TypeError, ValueError) as error:
                raise ValueError(f"the workflow {name} is not understood: {error!r}") from error
            if sampled:
                family = _family(told.get("models") or [name])
                found[name] = Template(name, family, told.get("usage") or 0, sampled)
    return [*found.values()]


def _family(names: Sequence[str]) -> str:
    own = [name for name in names if name not in VENDORS]
    return (own or names)[0].replace("FLUX", "Flux")


def samplings(workflow: Mapping[str, Any]) -> Iterator[Sampling]:
    """Each sampler of a workflow."""
    for node in Graph.of(workflow).nodes():
        if node.kind in SAMPLERS:
            yield Sampling(*_steps(node), _sampler(node), _has_lora(node))


def _steps(node: Node, output: int = 0) -> tuple[int, int]:
    """Steps of a sampler or of noise levels, and of their whole trajectory."""
    if sigmas := node.source("sigmas"):
        steps, whole = _steps(*sigmas)
        if node.kind != "SplitSigmas":
            return steps, whole
        split = node.value("step")
        return (split if output == 0 else steps - split), whole
    if node.kind == "ManualSigmas":
        steps = len(node.value("sigmas").replace(",", " ").split()) - 1
        return steps, steps
    steps = node.value("steps")
    if node.kind == "KSamplerAdvanced":
        return min(steps, node.value("end_at_step")) - node.value("start_at_step"), steps
    return steps, int(steps / (node.value("denoise") or 1))


def _sampler(node: Node) -> str:
    source = node.source("sampler")
    at = source[0] if source else node
    return at.value("sampler_name") or at.kind


def _has_lora(node: Node) -> bool:
    source, lora = node.source("guider") or (node, 0), False
    while source[0].kind not in LOADERS:
        model = source[0].source(source[0].first_of("MODEL"))
        if model is None:
            raise ValueError(f"there is no model at {source[0].kind}")
        source, lora = model, lora or "Lora" in model[0].kind
    return lora


BANDS: Mapping[str, Callable[[Template], bool]] = {
    "more than 15 steps": lambda t: t.whole > 15,
    "9 to 15 steps": lambda t: 9 <= t.whole <= 15,
    "7 or 8 steps": lambda t: 7 <= t.whole <= 8,
    "6 steps or fewer": lambda t: t.whole <= 6,
}


def section(version: str, found: Sequence[Template]) -> str:
    """What is told of one version of the package."""
    total = sum(template.use for template in found)
    gaining = [template for template in found if template.speedup >= GAIN]
    lines = [
        f"## {PACKAGE.replace('_', '-')} {version}\n",
        f"{len(found)} local image and video templates. **{_share(gaining, total)} of their use "
        "gains in the first run.**\n",
        "| | share of use | gains | speed-up, mean |",
        "|---|--:|--:|--:|",
    ]
    for title, belongs in BANDS.items():
        own = [template for template in found if belongs(template)]
        lines.append(f"| {title} | {' | '.join(_figures(own, total))} |")
    lines += [
        f"| all | {' | '.join(_figures(found, total))} |\n",
        "| model | share of use | gains | speed-up, mean | most used with |",
        "|---|--:|--:|--:|---|",
    ]
    for family, own in families(found).items():
        lines.append(f"| {family} | {' | '.join(_figures(own, total))} | {_most_used(own)} |")
    return "\n".join(lines) + "\n"


def families(found: Sequence[Template]) -> dict[str, list[Template]]:
    """Templates by family, the most used first; those that are hardly used together."""
    total, by_name = sum(template.use for template in found), defaultdict(list)
    for template in found:
        by_name[template.family].append(template)
    grouped: dict[str, list[Template]] = defaultdict(list)
    for family, own in sorted(by_name.items(), key=lambda item: -_use(item[1])):
        grouped[family if _use(own) >= SHOWN * total else "others"] += own
    return dict(grouped)


def _use(found: Sequence[Template]) -> int:
    return sum(template.use for template in found)


def _share(found: Sequence[Template], total: int) -> str:
    return f"{_use(found) / total:.1%}"


def _figures(found: Sequence[Template], total: int) -> list[str]:
    gaining = [template for template in found if template.speedup >= GAIN]
    weighed = sum(template.speedup * template.use for template in found) / max(_use(found), 1)
    return [_share(found, total), _share(gaining, total), f"{weighed:.2f}x"]


def _most_used(found: Sequence[Template]) -> str:
    """How the most used template samples: "8 + 3 steps, euler, LoRA: 9 computed"."""
    template = max(found, key=lambda each: each.use)
    counts = " + ".join(str(each.steps) for each in template.samplings[:2])
    more = " + …" if len(template.samplings) > 2 else ""
    plural = "step" if counts == "1" else "steps"
    samplers = ", ".join(dict.fromkeys(each.sampler for each in template.samplings))
    lora = ", LoRA" if any(each.lora for each in template.samplings) else ""
    return f"{counts}{more} {plural}, {samplers}{lora}: {template.computed} computed"


HEAD = """# What ComfyUI's templates gain

ComfyUI ships workflow templates and publishes how often each is used. For every local image and
video template, this page counts how many steps **MagCache** computes in a first run at 2x, and
so how much faster it samples at most.

- Steps are counted, not seconds. In a template of two stages, such as LTX-2's 8 + 3, the second
  stage works on a larger picture and takes longer a step, so less time is saved than the table
  says. Its 3 steps count as computed; where they are the end of a longer run, one is skipped.
- A template with 6 steps or fewer is computed whole, since [fewer steps are as
  good](few-steps.md).
- Twelve templates were sampled in ComfyUI 0.33.0, with its own nodes and a tiny model in place
  of the large one (tests/comfyui/test_templates.py).
- How close the results come was measured on [small models](emoji.md) only.

Made by `python -m tools.templates`. A test compares it with the templates that ComfyUI 0.33.0
brings.

![Share of use by model, and how much faster each samples]({picture})
"""


def draw(found: Sequence[Template]) -> "Figure":
    """A bar a family, as long as its share of use, coloured by speed-up."""
    from matplotlib.figure import Figure

    total = _use(found)
    bands = {"1.8x and more": (1.8, "#0072B2"), "1.1x to 1.8x": (GAIN, "#56B4E9")}
    bands["nothing"] = (0.0, "0.8")
    figure = Figure(figsize=(8, 6), layout="constrained")
    axes, names = figure.subplots(), families(found)
    left, rest = dict.fromkeys(names, 0.0), {family: [*own] for family, own in names.items()}
    for title, (least, colour) in bands.items():
        shares = {}
        for family, own in rest.items():
            shares[family] = _use([each for each in own if each.speedup >= least]) / total * 100
            rest[family] = [each for each in own if each.speedup < least]
        axes.barh([*names], [*shares.values()], left=[*left.values()], color=colour, label=title)
        left = {family: left[family] + shares[family] for family in names}
    axes.invert_yaxis()
    axes.set_xlabel("share of use, %")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.legend(title="faster in the first run", loc="lower right", frameon=False)
    return figure


def installed() -> list[Template]:
    """Those of the installed package."""
    return templates(files(PACKAGE) / "templates")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("wheel", nargs="+", type=Path, help="the pinned version's first")
    parts, first = [HEAD.format(picture=PICTURE.name)], None
    for wheel in parser.parse_args().wheel:
        found = templates(zipfile.Path(wheel, f"{PACKAGE}/templates/"))
        first = first or found
        parts.append(section(wheel.name.split("-")[1], found))
    assert first is not None
    PAGE.write_text("\n".join(parts), "utf-8")
    draw(first).savefig(PICTURE, dpi=110, facecolor="white")
    print(f"written: {PAGE}, {PICTURE}")


if __name__ == "__main__":
    main()
