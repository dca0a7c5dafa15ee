"""Tests MagCache on a tiny random model of every family, inside a running ComfyUI."""

import importlib
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from . import conflicts
from .findings import FAILS, UNCACHED, UNKNOWN, WORKS, Family
from .tiny import EVERY, Tiny, flat, sample, skip_errors

STEPS = 8
_TABLE = "hosts.comfyui.models"
_EXACT = 1e-4
"""Largest relative error of a skipped evaluation with the true residual: float32 rounding."""


@dataclass(frozen=True)
class Pack:
    """The MagCache under test: the one in the installation, or the command's own.

    Attributes:
        name: Its folder among the custom nodes; "" for the command's own.
        nodes: Its nodes by id.
        package: Name of its Python package.
    """

    name: str
    nodes: Mapping[str, type]
    package: str

    def module(self, name: str) -> ModuleType:
        """A module of its package."""
        return importlib.import_module(f"{self.package}.{name}")

    @property
    def version(self) -> str:
        return importlib.import_module(self.package).__version__


@dataclass(frozen=True)
class _Ran:
    """One sampling with MagCache.

    Attributes:
        output: The latent.
        skipped: Number of evaluations that ran no block.
        evaluations: Number of evaluations.
        reason: MagCache's last warning.
    """

    output: torch.Tensor
    skipped: int
    evaluations: int
    reason: str


class _Fault(Exception):
    """MagCache does something wrong on a family; the message says what."""


def check_all(
    channel: Any, registrations: Any, packs: list[dict[str, Any]], asked: Mapping[str, Any]
) -> None:
    """Runs all checks and sends the findings.

    Args:
        channel: Receives the findings, see `inside.Channel`.
        registrations: Every registered node, see `inside.Registrations`.
        packs: The custom nodes.
        asked: "comfyui", its folder, and "families", the names of those to check (all if empty).
    """
    torch.set_num_threads(1)  # models this small run slower on several threads
    pack = _find_pack(registrations.all, packs)
    channel.send("found", pack={"name": pack.name, "version": pack.version})
    replaced = conflicts.replaced_forwards(Path(asked["comfyui"]), packs)
    channel.send(
        "found",
        double_ids=conflicts.double_ids(pack.nodes, registrations.all, packs),
        replaced=replaced,
        memory=_memory(),
    )
    unknown = [name for name in asked["families"] if name not in EVERY]
    if unknown:
        there = ", ".join(EVERY)
        channel.end("refused", text=f"no family {', '.join(unknown)}: this ComfyUI has {there}")
    chosen = [EVERY[name] for name in asked["families"] or EVERY]
    for number, tiny in enumerate(chosen, 1):
        channel.send("step", text=f"trying {tiny.name}", number=number, total=len(chosen))
        channel.send("family", **asdict(check(tiny, pack, packs, replaced)))


def check(
    tiny: Tiny, pack: Pack, packs: Sequence[dict[str, Any]] = (), replaced: Sequence[Any] = ()
) -> Family:
    """Tests MagCache on one family, with the custom nodes and the functions they replace."""
    start, model = time.perf_counter(), None

    def result(
        result: str, reason: str = "", raised: Exception | None = None, **found: Any
    ) -> Family:
        seconds = round(time.perf_counter() - start, 2)
        if result != WORKS:
            found["suspects"] = conflicts.suspects(raised, model, replaced, packs)
        return Family(tiny.name, tiny.network, result, reason, seconds=seconds, **found)

    try:
        model = tiny.build()
        plain = flat(sample(model, tiny, STEPS))
    except Exception as error:
        return result(UNKNOWN, f"fails without MagCache: {_said(error)}", error)
    before = _state(model)
    found: dict[str, Any] = {"known": tiny.network in pack.module(_TABLE).UNFIT}
    try:
        ran, found["curve"] = _accelerated(tiny, model, pack)
        found |= {"evaluations": ran.evaluations, "skipped": ran.skipped}
        found["error"] = _skip_error(tiny, model, pack) if ran.skipped else None
        same = before == _state(model) and _samples_again(model, tiny, plain)
        _find_fault(ran, found["error"], plain, same)
    except Exception as error:
        return result(FAILS, _said(error), error, **found)
    return result(WORKS if ran.skipped else UNCACHED, ran.reason, **found)


def _samples_again(model: Any, tiny: Tiny, plain: torch.Tensor) -> bool:
    """Whether a sampling gives the same result as before, if the model is deterministic."""
    again = flat(sample(model, tiny, STEPS))
    return torch.equal(again, plain) or not torch.equal(again, flat(sample(model, tiny, STEPS)))


def _find_fault(ran: _Ran, error: float | None, plain: torch.Tensor, same: bool) -> None:
    if not same:
        raise _Fault("the model was not restored")
    if not torch.isfinite(ran.output).all():
        raise _Fault("the result holds NaN or Inf")
    if error is not None and not error <= _EXACT:
        raise _Fault(f"a skipped evaluation is off by {error:.1e}, given the true residual")
    if not ran.skipped and not torch.equal(ran.output, plain):
        raise _Fault("nothing is skipped, but the result differs")
    if not ran.skipped and not ran.reason:
        raise _Fault("nothing is skipped, and no reason is given")


def _accelerated(tiny: Tiny, model: Any, pack: Pack) -> tuple[_Ran, str]:
    """A sampling with MagCache's `auto`, and the origin of the curve that it follows.

    If there is no published curve, the first sampling measures one, stores it in a temporary user
    folder, and the next sampling follows it.
    """
    with _warnings() as warnings:
        accelerated = _magcache(model, pack)
        ran = _sampled(tiny, accelerated, warnings)
        if ran.skipped:
            return ran, "published"
        ran = _sampled(tiny, accelerated, warnings)
        return ran, "measured" if ran.skipped else ""


def _magcache(model: Any, pack: Pack) -> Any:
    """A model with the MagCache node, set to skip every other evaluation."""
    node = pack.nodes["MagCache"]
    widgets: dict[str, Any] = {}
    for name, entry in [e for kind in node.INPUT_TYPES().values() for e in kind.items()]:
        options, more = entry[0], entry[1] if len(entry) > 1 else {}
        if "default" in more or isinstance(options, list):
            widgets[name] = more.get("default", options[0])
    chosen = {"magcache_thresh": 9.0, "retention_ratio": 0.1, "magcache_K": 1}
    if "recommended" in widgets:  # would override the settings above
        widgets["recommended"] = False
    return node().apply(**{**widgets, "model_type": "auto", **chosen, "model": model})[0]


def _sampled(tiny: Tiny, model: Any, warnings: list[str]) -> _Ran:
    model = model.clone()
    with _watch_blocks(model, tiny) as computed:
        output = flat(sample(model, tiny, STEPS))
    # The first evaluation is never skipped: if no block was seen in it, blocks cannot be seen.
    skipped = computed.count(False) if computed[0] else 0
    reason = re.sub(r"^MagCache: (.* uncached.*?: )?", "", warnings[-1]) if warnings else ""
    return _Ran(output, skipped, len(computed), reason)


@contextmanager
def _watch_blocks(model: Any, tiny: Tiny) -> Iterator[list[bool]]:
    """For each evaluation, whether any part of a block ran. Some models call only the parts."""
    computed: list[bool] = []

    def begin(executor: Any, *args: Any, **kwargs: Any) -> Any:
        computed.append(False)
        return executor(*args, **kwargs)

    def ran(*_: Any) -> None:
        computed[-1] = True

    parts = {part for block in tiny.blocks(model) for part in block.modules()}
    handles = [part.register_forward_pre_hook(ran) for part in parts]
    model.add_wrapper_with_key("predict_noise", "magcache_doctor", begin)
    try:
        yield computed
    finally:
        for handle in handles:
            handle.remove()


def _skip_error(tiny: Tiny, model: Any, pack: Pack) -> float:
    """Largest relative error of skipped evaluations with the true residual."""
    network, table = model.model.diffusion_model, pack.module(_TABLE).FAMILIES
    stack = pack.module("blocks").find_stack(network, table)
    return max(skip_errors(model, tiny, stack, 2).errors)


def _state(model: Any) -> list[Any]:
    """What MagCache must restore: modules, hooks, attributes, and the patcher's options."""
    options = model.model_options.get("transformer_options", {})
    state: list[Any] = [sorted(options), sorted(map(str, model.wrappers))]
    for name, module in model.model.named_modules():
        hooks = len(module._forward_pre_hooks), len(module._forward_hooks)
        state.append((name, id(module), hooks, sorted(vars(module))))
    return state


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collects MagCache's warnings."""
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())
    log = logging.getLogger("magcache")
    log.addHandler(handler)
    try:
        yield said
    finally:
        log.removeHandler(handler)


def _said(error: Exception) -> str:
    if isinstance(error, _Fault):
        return str(error)
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]


def _find_pack(registered: list[tuple[str, type]], packs: list[dict[str, Any]]) -> Pack:
    """The MagCache of the installation, or the command's own if none of them loads.

    If there are several, it is the last that ComfyUI loads, because its nodes are the ones in use.
    """
    for pack in reversed(packs):
        if not (pack["loaded"] and pack["ours"]):
            continue
        own = {
            name: node
            for name, node in registered
            if conflicts.pack_of(conflicts.file_of(node), [pack]) == pack["name"]
        }
        if "MagCache" in own:
            return Pack(pack["name"], own, own["MagCache"].__module__.partition(".hosts.")[0])
    nodes = importlib.import_module("magcache.hosts.comfyui.nodes").NODE_CLASS_MAPPINGS
    return Pack("", nodes, "magcache")


def _memory() -> dict[str, Any]:
    """Free and total memory in bytes, of the machine and of ComfyUI's compute device."""
    from comfy import model_management

    def memory_of(device: torch.device) -> dict[str, Any]:
        free = int(model_management.get_free_memory(device))
        whole = int(model_management.get_total_memory(device))
        return {"device": str(device), "free": free, "whole": whole}

    device = model_management.get_torch_device()
    memory = {"ram": memory_of(torch.device("cpu"))}
    if device.type != "cpu":
        name = model_management.get_torch_device_name(device)
        memory["vram"] = {**memory_of(device), "device": name}
    return memory
