"""The published rule against a straightforward implementation of its own, on the emoji model.

Written from the paper alone (arXiv 2506.09045): it counts steps, knows the printed ratios only, and
runs the model without its blocks by taking them out.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

import magcache
from magcache.curves import presets
from magcache.emoji import image as emoji
from tests.calibrations import ratios_of

STEPS = 28
SETTINGS = [
    {"threshold": 0.12, "max_skip": 2, "retention": 0.1},
    {"threshold": 0.24, "max_skip": 5, "retention": 0.1},
    {"threshold": 0.06, "max_skip": 3, "retention": 0.2},
    {"threshold": 1.5, "max_skip": 6, "retention": 0.05},
]


class Published:
    """The rule on one FLUX transformer; `schedule` tells what it did at each step.

    The branches of a step are called one after another; a step is skipped where both may be.
    """

    def __init__(self, model: nn.Module, ratios: list[list[float]], setting: dict) -> None:
        self.model, self.ratios, self.setting = model, ratios, setting
        self.schedule, self.calls = "", 0
        self.residuals: dict[int, torch.Tensor] = {}
        self.restart()

    def restart(self) -> None:
        self.products, self.errors = [1.0] * len(self.ratios), [0.0] * len(self.ratios)
        self.skipped = 0

    def decide(self, step: int) -> bool:
        if step < max(1, int(self.setting["retention"] * STEPS)):
            return False
        self.skipped += 1
        for branch, ratios in enumerate(self.ratios):
            self.products[branch] *= ratios[step]
            self.errors[branch] += abs(1 - self.products[branch])
        small = max(self.errors) <= self.setting["threshold"]
        if small and self.skipped <= self.setting["max_skip"]:
            return True
        self.restart()
        return False

    def forward(self, *args: object, **kwargs: object) -> object:
        step, branch = divmod(self.calls, len(self.ratios))
        self.calls += 1
        if branch == 0:
            self.schedule += "." if self.decide(step) else "#"
        tokens: list[torch.Tensor] = []
        hooks = [self.model.x_embedder.register_forward_hook(lambda _m, _a, o: tokens.append(o))]
        lists = "transformer_blocks", "single_transformer_blocks"
        blocks = {name: getattr(self.model, name) for name in lists}
        skips = self.schedule[-1] == "."

        def head(_module: nn.Module, given: tuple) -> tuple:
            if skips:
                return (given[0] + self.residuals[branch], *given[1:])
            self.residuals[branch] = given[0] - tokens[0]
            return given

        hooks.append(self.model.norm_out.register_forward_pre_hook(head))
        try:
            for name in lists if skips else ():
                setattr(self.model, name, nn.ModuleList())
            return type(self.model).forward(self.model, *args, **kwargs)
        finally:
            for name, own in blocks.items():
                setattr(self.model, name, own)
            for hook in hooks:
                hook.remove()


@contextmanager
def applied(model: nn.Module, ratios: list[list[float]], setting: dict) -> Iterator[Published]:
    published = Published(model, ratios, setting)
    model.forward = published.forward
    try:
        yield published
    finally:
        del model.forward


@pytest.fixture(scope="module")
def model() -> emoji.EmojiModel:
    return emoji.load(shift=1.0)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: f"K {s['max_skip']}")
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_images_and_schedules_are_those_of_the_published_method(
    model: emoji.EmojiModel, cfg: float, setting: dict
) -> None:
    printed = ratios_of(presets.load("emoji"))
    ratios = [list(printed[branch]) for branch in (["cond", "uncond"] if cfg > 1 else ["cond"])]

    def sampled() -> torch.Tensor:
        with torch.no_grad():
            return model.pipe(**model.arguments(model.prompts("test")[:2], [0, 1], STEPS, cfg))[0]

    with applied(model.pipe.transformer, ratios, setting) as published:
        expected = sampled()
    with magcache.apply(model.pipe, preset="emoji", **setting) as run:
        found = sampled()
        schedule = run.report().schedule.replace(" ", "")
    assert schedule == published.schedule and 6 < schedule.count(".") < STEPS - 3
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
