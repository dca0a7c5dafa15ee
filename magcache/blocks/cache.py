"""The cache of one run's residuals by branch: their storage, dtype and byte budget."""

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal

import torch

from .stack import Residual

Store = Literal["device", "offload"]
_FP8_MAX = torch.finfo(torch.float8_e4m3fn).max


@dataclass
class _Packed:
    """One tensor in storage.

    Attributes:
        data: On the compute device, or in (pinned) host memory.
        scale: The factor to multiply fp8 data by.
        home, dtype: The device and dtype that it is restored to.
        back: A prefetched copy on `home`, and the event that marks its completion.
    """

    data: torch.Tensor
    scale: torch.Tensor | None
    home: torch.device
    dtype: torch.dtype
    back: tuple[torch.Tensor, torch.cuda.Event] | None = None

    @property
    def offloaded(self) -> bool:
        return self.data.device != self.home

    @property
    def nbytes(self) -> int:
        return self.data.nbytes + (0 if self.scale is None else self.scale.nbytes)


@dataclass
class _Entry:
    sigma: float
    tensors: tuple[_Packed, ...]

    @property
    def nbytes(self) -> int:
        return sum(packed.nbytes for packed in self.tensors)


class ResidualCache:
    """The last residuals of each branch.

    Args:
        keep: Number of residuals to keep per branch.
        store: "device" keeps them where they were computed; "offload" moves them to pinned
            host memory with asynchronous copies. On a CPU the two are the same.
        dtype: None keeps the blocks' dtype; bfloat16 or float8_e4m3fn (with one scale per
            tensor) take less memory.
        budget: Bytes for all residuals together, or None. Over budget, branches keep fewer
            residuals, but at least one each.

    Raises:
        ValueError: A setting is out of range.
    """

    def __init__(
        self,
        keep: int = 1,
        store: Store = "device",
        dtype: torch.dtype | None = None,
        budget: int | None = None,
    ) -> None:
        if keep < 1:
            raise ValueError(f"keep must be 1 or more, got {keep}")
        if store not in ("device", "offload"):
            raise ValueError(f'store must be "device" or "offload", got {store!r}')
        if dtype not in (None, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn):
            raise ValueError(f"residuals cannot be kept as {dtype}: use None, bfloat16 or fp8")
        self.keep = keep
        self.store = store
        self.dtype = dtype
        self.budget = budget
        self.peak_bytes = 0
        self._entries: dict[Hashable, list[_Entry]] = {}
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    @property
    def bytes_held(self) -> int:
        """Bytes of all residuals held now."""
        return sum(entry.nbytes for entries in self._entries.values() for entry in entries)

    def __contains__(self, branch: Hashable) -> bool:
        return branch in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def sigmas(self, branch: Hashable) -> list[float]:
        """Noise levels of a branch's residuals, newest last."""
        return [entry.sigma for entry in self._entries.get(branch, ())]

    def rooms(self) -> dict[Hashable, int]:
        """How many residuals each branch can keep within the budget."""
        sizes = {branch: entries[-1].nbytes for branch, entries in self._entries.items()}
        rooms, left = dict.fromkeys(sizes, 1), math.inf
        if self.budget is not None:
            left = self.budget - sum(sizes.values())
        for _ in range(1, self.keep):  # every branch gets a second one before any gets a third
            for branch, size in sizes.items():
                if size <= left:
                    rooms[branch], left = rooms[branch] + 1, left - size
        return rooms

    def put(self, branch: Hashable, sigma: float, residual: Residual) -> None:
        """Stores a residual, and drops the branch's oldest if there is no room for both."""
        entry = _Entry(sigma, tuple(self._pack(tensor) for tensor in residual))
        entries = self._entries.setdefault(branch, [])
        entries.append(entry)
        while self.budget is not None and len(entries) > 1 and self.bytes_held > self.budget:
            del entries[0]
        self.peak_bytes = max(self.peak_bytes, self.bytes_held)
        del entries[: -self.keep]

    def fits_one_more(self, branch: Hashable) -> bool:
        """Whether the budget leaves room for one more residual of a branch."""
        newest = self._entries[branch][-1].nbytes
        return self.budget is None or self.bytes_held + newest <= self.budget

    def make_room(self, branch: Hashable) -> None:
        """Frees the oldest residual of a full branch, before another one is computed."""
        entries = self._entries.get(branch, [])
        if len(entries) >= self.keep:
            self.drop_oldest(branch)

    def drop_oldest(self, branch: Hashable) -> None:
        entries = self._entries[branch]
        del entries[0]
        if not entries:
            del self._entries[branch]

    def prefetch(self, branch: Hashable) -> None:
        """Starts copying back to the compute device, so that `get` does not have to wait."""
        for entry in self._entries.get(branch, ()):
            for packed in entry.tensors:
                if packed.home.type == "cuda" and packed.offloaded and packed.back is None:
                    packed.back = self._copy_back(packed)

    def get(self, branch: Hashable) -> list[Residual]:
        """A branch's residuals on their original device and in their dtype, newest last."""
        self.prefetch(branch)
        return [tuple(map(self._unpack, entry.tensors)) for entry in self._entries[branch]]

    def drop(self, branch: Hashable) -> None:
        """Frees the residuals of a branch."""
        self._entries.pop(branch, None)

    def clear(self) -> None:
        """Frees everything."""
        self._entries.clear()
        self._streams.clear()

    def _pack(self, tensor: torch.Tensor) -> _Packed:
        data, scale = _quantise(tensor, self.dtype)
        packed = _Packed(data, scale, tensor.device, tensor.dtype)
        if self.store == "offload" and tensor.device.type == "cuda":
            # Both directions share one stream, so a copy back waits for its copy out.
            stream = self._stream(tensor.device)
            stream.wait_stream(torch.cuda.current_stream(tensor.device))
            packed.data = torch.empty_like(data, device="cpu", pin_memory=True)
            with torch.cuda.stream(stream):
                packed.data.copy_(data, non_blocking=True)
            data.record_stream(stream)
        elif self.store == "offload":
            packed.data = data.cpu()
        return packed

    def _copy_back(self, packed: _Packed) -> tuple[torch.Tensor, torch.cuda.Event]:
        stream = self._stream(packed.home)
        with torch.cuda.stream(stream):
            data = packed.data.to(packed.home, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record(stream)
        return data, arrived

    def _unpack(self, packed: _Packed) -> torch.Tensor:
        data = packed.data
        if packed.back is not None:
            (data, arrived), packed.back = packed.back, None
            current = torch.cuda.current_stream(packed.home)
            current.wait_event(arrived)
            data.record_stream(current)
        tensor = data.to(packed.home, packed.dtype)
        return tensor if packed.scale is None else tensor * packed.scale.to(packed.dtype)

    def _stream(self, device: torch.device) -> torch.cuda.Stream:
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)
        return self._streams[device]


def _quantise(
    tensor: torch.Tensor, dtype: torch.dtype | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    if dtype is None or dtype == tensor.dtype:
        return tensor, None
    if dtype != torch.float8_e4m3fn:
        return tensor.to(dtype), None
    low, high = tensor.aminmax()
    largest = torch.maximum(-low, high).float()
    # A power of two, so that scaling is exact in any dtype, and not below float16's smallest.
    scale = torch.exp2((largest / _FP8_MAX).log2().ceil()).clamp_min(2.0**-24)
    return (tensor / scale.to(tensor.dtype)).to(dtype), scale
