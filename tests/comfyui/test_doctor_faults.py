"""`magcache doctor` sees what MagCache could do wrong on a family."""

import runpy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import comfy.utils
import folder_paths
import pytest
import torch
from tiny_models import TINY

from magcache.blocks.families import Family as Names
from magcache.blocks.stack import BlockStack, Residual
from magcache.doctor.conflicts import suspects
from magcache.doctor.families import Pack, check
from magcache.doctor.findings import FAILS, UNCACHED, UNKNOWN, WORKS, Family
from magcache.hosts.comfyui import models
from magcache.hosts.comfyui.nodes import NODE_CLASS_MAPPINGS
from magcache.hosts.comfyui.nodes.magcache import MagCache

FLUX = TINY["flux"]


@pytest.fixture(autouse=True)
def _user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path))


def checked(change: Callable[[Any, Any], Any] | None = None) -> Family:
    """FLUX, with a node that does something to its input and what MagCache makes of it."""

    class Changed(MagCache):
        def apply(self, model: Any, **widgets: Any) -> tuple[Any]:
            (accelerated,) = super().apply(model, **widgets)
            return (change(model, accelerated) if change else accelerated,)

    return check(FLUX, Pack("", {**NODE_CLASS_MAPPINGS, "MagCache": Changed}, "magcache"))


def test_what_works_is_seen_to_skip_and_to_be_exact() -> None:
    found = checked()
    assert (found.result, found.reason, found.curve) == (WORKS, "", "published")
    assert (found.skipped, found.evaluations) == (4, 8)
    assert found.error is not None and 0 < found.error < 1e-6


def test_a_skip_that_is_not_exact_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    skip = BlockStack.skip

    def longer(self: BlockStack, call: Any, residual: Residual) -> Any:
        return skip(self, call, tuple(1.01 * tensor for tensor in residual))

    monkeypatch.setattr(BlockStack, "skip", longer)
    found = checked()
    assert found.result == FAILS
    assert "a skipped evaluation is off by" in found.reason


def test_a_hook_that_is_left_behind_fails() -> None:
    def leave(model: Any, accelerated: Any) -> Any:
        model.model.diffusion_model.img_in.register_forward_hook(lambda *_: None)
        return accelerated

    assert (checked(leave).result, checked(leave).reason) == (
        FAILS, "the model was not restored",
    )  # fmt: skip


def test_a_changed_weight_fails() -> None:
    def change(model: Any, accelerated: Any) -> Any:
        with torch.no_grad():
            model.model.diffusion_model.img_in.bias.add_(0.1)
        return accelerated

    assert checked(change).reason == "the model was not restored"


def test_a_result_with_nan_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(residuals: Sequence[Residual], _factors: Sequence[float]) -> Residual:
        return tuple(torch.full_like(tensor, torch.nan) for tensor in residuals[-1])

    monkeypatch.setattr("magcache.run.combine", broken)
    assert (checked().result, checked().reason) == (FAILS, "the result holds NaN or Inf")


def test_an_exception_fails_and_is_named() -> None:
    def fail(_model: Any, _accelerated: Any) -> Any:
        raise KeyError("timestep_zero_index")

    assert (checked(fail).result, checked(fail).reason) == (
        FAILS,
        "KeyError: 'timestep_zero_index'",
    )


def test_skipping_nothing_without_a_reason_fails() -> None:
    found = checked(lambda model, _: model)
    assert (found.result, found.reason) == (FAILS, "nothing is skipped, and no reason is given")


def test_another_result_without_skipping_fails() -> None:
    def disturb(model: Any, _accelerated: Any) -> Any:
        changed = model.clone()
        changed.add_wrapper_with_key(
            "apply_model", "disturb", lambda executor, *args, **more: 1.1 * executor(*args, **more)
        )
        return changed

    assert checked(disturb).reason == "nothing is skipped, but the result differs"


def test_a_model_that_is_known_not_to_fit_runs_uncached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.UNFIT, "Flux", "it is the example")
    found = checked()
    assert (found.result, found.known) == (UNCACHED, True)
    assert found.reason == "Flux's blocks cannot be skipped: it is the example"
    assert (found.skipped, found.evaluations, found.error) == (0, 8, None)


def test_a_model_that_is_built_in_another_way_runs_uncached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(models.FAMILIES, "Flux", Names("flux", ("layers",), ("final_layer",)))
    found = checked()
    assert (found.result, found.known) == (UNCACHED, False)
    assert found.reason == "Flux has no block list named layers"


def test_a_model_that_fails_without_magcache_is_not_checked() -> None:
    broken = replace(FLUX, name="broken", sizes={**FLUX.sizes, "hidden_size": 120})
    found = check(broken, Pack("", NODE_CLASS_MAPPINGS, "magcache"))
    assert found.result == UNKNOWN
    assert found.reason.startswith("fails without MagCache: ")


CALLS = """
def wrapper(function):
    return function()
"""


def custom_node(folder: Path, name: str, ours: bool = False) -> dict[str, Any]:
    """One whose code calls a function."""
    path = folder / name
    path.mkdir()
    (path / "__init__.py").write_text(CALLS, encoding="utf-8")
    return {"name": name, "path": str(path), "ours": ours, "loaded": True, "reason": ""}


def failing(*packs: dict[str, Any]) -> Exception:
    """What is raised where each pack calls the next one, and the last one ComfyUI."""

    def call() -> None:
        comfy.utils.load_torch_file("there is no such file")

    for pack in reversed(packs):
        wrapper = runpy.run_path(str(Path(pack["path"]) / "__init__.py"))["wrapper"]
        call = partial(wrapper, call)
    with pytest.raises(Exception, match="there is no such file") as caught:
        call()
    return caught.value


def test_the_pack_whose_code_ran_last_is_to_blame(tmp_path: Path) -> None:
    one, other = (custom_node(tmp_path, name) for name in ("One", "Other"))
    ours = custom_node(tmp_path, "ComfyUI-MagCache", ours=True)
    packs = [one, other, ours]
    assert suspects(failing(one, other), None, [], packs) == ("Other",)
    assert suspects(failing(ours, one), None, [], packs) == ("One",)
    assert suspects(failing(one, ours), None, [], packs) == ()
    assert suspects(failing(), None, [], packs) == ()


def test_a_pack_that_replaces_functions_is_to_blame_for_the_models_that_have_them() -> None:
    model = FLUX.build()
    replaced = [
        {"class": "Flux", "function": "forward", "pack": "Of Flux"},
        {"class": "BaseModel", "function": "apply_model", "pack": "Of Every Model"},
        {"class": "WanModel", "function": "forward", "pack": "Of Wan"},
    ]
    assert suspects(None, model, replaced, []) == ("Of Every Model", "Of Flux")
    assert suspects(None, TINY["wan_vace"].build(), replaced, []) == ("Of Every Model", "Of Wan")


def test_a_family_that_fails_names_the_pack(tmp_path: Path) -> None:
    """Its node calls a function of another pack, which raises."""
    other = custom_node(tmp_path, "Other")

    class Changed(MagCache):
        def apply(self, model: Any, **widgets: Any) -> tuple[Any]:
            raise failing(other)

    nodes = {**NODE_CLASS_MAPPINGS, "MagCache": Changed}
    found = check(FLUX, Pack("", nodes, "magcache"), [other])
    assert (found.result, found.suspects) == (FAILS, ("Other",))
