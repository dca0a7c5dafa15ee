"""Several `gloo` processes on this machine, forked from the one that runs the tests."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

LIMIT = 60.0  # seconds after which processes are taken to hang

Work = Callable[[int], Any]
"""What one process does, given its rank."""


def together(count: int, work: Work) -> list[Any]:
    """What each process returns, or the text of what it raises; fails where one hangs."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "store")
        processes = [
            context.Process(target=_run, args=(rank, count, store, work, results), daemon=True)
            for rank in range(count)
        ]
        for process in processes:
            process.start()
        found: dict[int, Any] = {}
        ends = time.monotonic() + LIMIT
        while len(found) < count and time.monotonic() < ends:
            if not results.empty():
                rank, result = results.get()
                found[rank] = result
            elif not any(process.is_alive() for process in processes):
                break
            else:
                time.sleep(0.01)
        for process in processes:
            process.kill()
            process.join()
    missing = [rank for rank in range(count) if rank not in found]
    assert not missing, f"rank {missing} did not end within {LIMIT:g} s"
    return [found[rank] for rank in range(count)]


def scenarios(count: int, works: Mapping[str, Work]) -> list[dict[str, Any]]:
    """Several works one after another in the same processes: a result a name, for each rank."""
    found = together(count, lambda rank: {name: work(rank) for name, work in works.items()})
    assert all(isinstance(results, dict) for results in found), "\n".join(map(str, found))
    return found


def _run(rank: int, count: int, store: str, work: Work, results: Any) -> None:
    torch.set_num_threads(1)
    torch.accelerator.device_count = lambda: 1  # diffusers divides by it
    _give_the_cpu_ring_attention()
    # Forked processes do not share what the parent's connections hold.
    distributed.init_process_group(
        "gloo", rank=rank, world_size=count, init_method=f"file://{store}"
    )
    try:
        results.put((rank, work(rank)))
    except BaseException:
        results.put((rank, traceback.format_exc()))
        os._exit(1)  # as a script that fails: its connections close
    distributed.destroy_process_group()


def _give_the_cpu_ring_attention() -> None:
    """Ring attention needs a kernel that returns logsumexp; diffusers has none for a CPU."""
    from diffusers.models import attention_dispatch

    vars(attention_dispatch)["_native_attention_forward_op"] = _attention


def _attention(
    _context: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    return_lse: bool = False,
    *_: Any,
    **__: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """Softmax attention of (B, tokens, heads, channels) and its logsumexp (B, tokens, heads)."""
    assert not (dropout_p or is_causal or enable_gqa)
    q, k, v = (tensor.transpose(1, 2) for tensor in (query, key, value))
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    output = (scores.softmax(-1) @ v).transpose(1, 2)
    return (output, scores.logsumexp(-1).transpose(1, 2)) if return_lse else output
