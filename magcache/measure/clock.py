"""Measures wall time and memory of work on a device."""

import time
from collections.abc import Callable
from typing import TypeVar

import torch

_T = TypeVar("_T")


def clocked(device: torch.device, work: Callable[[], _T]) -> tuple[_T, float, int]:
    """Returns the result of `work`, its wall seconds, and the peak bytes on a CUDA device (else 0).

    Waits for the device before and after.
    """
    cuda = device.type == "cuda"
    _wait(device)
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    result = work()
    _wait(device)
    seconds = time.perf_counter() - began
    return result, seconds, torch.cuda.max_memory_allocated(device) if cuda else 0


def _wait(device: torch.device) -> None:
    module = getattr(torch, device.type, None)  # torch.cuda, torch.xpu, torch.mps
    synchronize = getattr(module, "synchronize", None)
    if synchronize is not None and device.type != "cpu":
        synchronize()
