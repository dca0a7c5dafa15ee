"""What the cache holds, how much, in which precision, and that it lets go."""

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from magcache.blocks.cache import ResidualCache
from tests.toys import CPU, tokens

FP8 = torch.float8_e4m3fn
LOSSY = [torch.bfloat16, torch.float16, FP8]


def only(cache: ResidualCache, branch: str = "cond") -> Tensor:
    """The one tensor of a branch's one residual."""
    ((tensor,),) = cache.get(branch)
    return tensor


def noise(dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (scale * torch.randn(1, 64, 16, generator=generator)).to(dtype)


def filled(keep: int, count: int, **settings: Any) -> ResidualCache:
    """A cache given residuals of value 0, 1, 2, ... at σ 0.0, 0.1, 0.2, ..."""
    cache = ResidualCache(keep, **settings)
    for index in range(count):
        cache.put("cond", index / 10, (tokens(index),))
    return cache


def test_a_residual_comes_back_as_it_went() -> None:
    cache = ResidualCache()
    kept = noise()
    cache.put("cond", 0.5, (kept,))
    assert torch.equal(only(cache), kept) and cache.sigmas("cond") == [0.5]


@pytest.mark.parametrize("keep", [1, 2, 3, 4, 7])
def test_the_last_k_are_kept_the_newest_last(keep: int) -> None:
    for count in range(1, 10):
        cache = filled(keep, count)
        first = max(0, count - keep)
        assert cache.sigmas("cond") == [index / 10 for index in range(first, count)]
        assert [int(r[0][0, 0, 0]) for r in cache.get("cond")] == list(range(first, count))


def test_branches_are_apart() -> None:
    cache = filled(2, 3)
    cache.put("uncond", 0.7, (tokens(9),))
    assert len(cache) == 2 and cache.sigmas("uncond") == [0.7]
    cache.drop("uncond")
    assert "uncond" not in cache and cache.sigmas("cond") == [0.1, 0.2]


def test_every_stream_of_a_residual_is_kept() -> None:
    cache = ResidualCache()
    cache.put("cond", 0.5, (tokens(1), tokens(2, count=5)))
    ((image, text),) = cache.get("cond")
    assert image.shape == (1, 2, 3) and text.shape == (1, 5, 3) and text[0, 0, 0] == 2


@pytest.mark.parametrize(
    ("dtype", "size"), [(None, 4), (torch.float32, 4), (torch.bfloat16, 2), (torch.float16, 2)]
)
def test_bytes_held_are_tokens_by_channels_by_size(dtype: torch.dtype | None, size: int) -> None:
    cache = ResidualCache(dtype=dtype)
    cache.put("cond", 0.5, (tokens(1, count=64, channels=16),))
    assert cache.bytes_held == 64 * 16 * size
    cache.put("uncond", 0.5, (tokens(1, count=64, channels=16),))
    assert cache.bytes_held == 2 * 64 * 16 * size


def test_bytes_held_of_fp8_count_the_scale_too() -> None:
    cache = ResidualCache(dtype=FP8)
    cache.put("cond", 0.5, (tokens(1, count=64, channels=16), tokens(1, count=8, channels=16)))
    assert cache.bytes_held == 64 * 16 + 4 + 8 * 16 + 4


def test_peak_bytes_stay_when_residuals_go() -> None:
    cache = ResidualCache()
    for branch in ("cond", "uncond"):
        cache.put(branch, 0.5, (tokens(1, count=64, channels=16),))
    cache.clear()
    assert cache.bytes_held == 0 and cache.peak_bytes == 2 * 64 * 16 * 4
    cache.put("cond", 0.4, (tokens(1, count=1, channels=16),))
    assert cache.bytes_held == 16 * 4 and cache.peak_bytes == 2 * 64 * 16 * 4


def held(cache: ResidualCache) -> list["weakref.ref[Tensor]"]:
    """References to tensors that only the cache holds."""
    residuals = {branch: tokens(1) for branch in ("cond", "uncond")}
    for branch, tensor in residuals.items():
        cache.put(branch, 0.5, (tensor,))
    return [weakref.ref(tensor) for tensor in residuals.values()]


def alive(references: list["weakref.ref[Tensor]"]) -> list[bool]:
    gc.collect()
    return [reference() is not None for reference in references]


def test_drop_frees_a_branch() -> None:
    cache = ResidualCache()
    references = held(cache)
    cache.drop("cond")
    assert alive(references) == [False, True]
    cache.drop("never kept")


def test_clear_frees_all() -> None:
    cache = ResidualCache()
    references = held(cache)
    cache.clear()
    assert alive(references) == [False, False]
    assert len(cache) == 0 and "cond" not in cache


def test_a_new_residual_frees_the_oldest() -> None:
    cache = ResidualCache()
    references = held(cache)
    cache.put("cond", 0.4, (tokens(2),))
    assert alive(references) == [False, True]


def test_make_room_frees_the_oldest_before_the_next_is_there() -> None:
    cache = ResidualCache(keep=1)
    references = held(cache)
    cache.make_room("cond")
    assert alive(references) == [False, True]
    assert "cond" not in cache and "uncond" in cache


def test_make_room_frees_nothing_where_there_is_room() -> None:
    cache = filled(3, 2)
    cache.make_room("cond")
    cache.make_room("never kept")
    assert cache.sigmas("cond") == [0.0, 0.1]
    cache.put("cond", 0.2, (tokens(),))
    cache.make_room("cond")
    assert cache.sigmas("cond") == [0.1, 0.2]


def test_make_room_keeps_the_peak_at_k_residuals() -> None:
    cache = ResidualCache(keep=2)
    for index in range(5):
        cache.make_room("cond")
        cache.put("cond", index / 10, (tokens(),))
    assert cache.peak_bytes == 2 * 2 * 3 * 4


@pytest.mark.parametrize("home", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", [None, torch.float32, *LOSSY])
def test_a_residual_comes_back_in_its_own_dtype(
    home: torch.dtype, dtype: torch.dtype | None
) -> None:
    cache = ResidualCache(dtype=dtype)
    cache.put("cond", 0.5, (noise(home),))
    assert only(cache).dtype == home and only(cache).device == CPU


@pytest.mark.parametrize("home", [torch.float32, torch.bfloat16, torch.float16])
def test_kept_without_a_dtype_nothing_is_lost(home: torch.dtype) -> None:
    cache = ResidualCache()
    cache.put("cond", 0.5, (noise(home),))
    assert torch.equal(only(cache), noise(home))


@pytest.mark.parametrize(("dtype", "bits"), [(torch.bfloat16, 8), (torch.float16, 11)])
def test_half_precision_errs_by_half_a_unit_in_the_last_place(
    dtype: torch.dtype, bits: int
) -> None:
    cache = ResidualCache(dtype=dtype)
    cache.put("cond", 0.5, (noise(),))
    assert ((only(cache) - noise()).abs() <= noise().abs() * 2.0**-bits + 2**-25).all()


@pytest.mark.parametrize("home", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_fp8_errs_by_a_sixteenth_at_most_at_any_scale(home: torch.dtype, scale: float) -> None:
    """Three mantissa bits round by 1/16, and next to zero by half of 2⁻⁹ of the scale."""
    cache = ResidualCache(dtype=FP8)
    tensor = noise(home, scale).double()
    cache.put("cond", 0.5, (tensor.to(home),))
    step = 2 * tensor.abs().max() / 448 * 2**-9  # the scale is a power of two, rounded up
    assert ((only(cache).double() - tensor).abs() <= tensor.abs() / 16 + step / 2).all()


@pytest.mark.parametrize("home", [torch.float32, torch.bfloat16, torch.float16])
def test_fp8_keeps_what_it_can_hold_exactly(home: torch.dtype) -> None:
    """The largest, 448·2⁻ⁿ, and others of up to four bits."""
    kept = torch.tensor([[[448.0, -416.0, 30.0, -1.125, 2.0**-6, 0.0]]], dtype=home) * 2**-7
    cache = ResidualCache(dtype=FP8)
    cache.put("cond", 0.5, (kept,))
    assert torch.equal(only(cache), kept)


@pytest.mark.parametrize("largest", [448.0, 449.0, 895.9, 60000.0])
def test_fp8_does_not_overflow(largest: float) -> None:
    cache = ResidualCache(dtype=FP8)
    cache.put("cond", 0.5, (torch.tensor([[[-largest, 1.0]]]),))
    assert only(cache)[0, 0, 0] == pytest.approx(-largest, rel=1 / 16)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0])
def test_fp8_of_a_small_float16_residual(scale: float) -> None:
    """The scale, amax/448, must not be lost in float16, whose smallest number is 6e-8."""
    tensor = torch.full((1, 2, 3), scale, dtype=torch.float16)
    cache = ResidualCache(dtype=FP8)
    cache.put("cond", 0.5, (tensor,))
    assert only(cache).float() == pytest.approx(tensor.float(), rel=1 / 16)


def test_fp8_of_nothing_is_nothing() -> None:
    cache = ResidualCache(dtype=FP8)
    cache.put("cond", 0.5, (tokens(0),))
    assert torch.equal(only(cache), tokens(0))


@pytest.mark.parametrize("dtype", [None, *LOSSY])
def test_offload_on_a_cpu_is_the_same_as_on_the_device(dtype: torch.dtype | None) -> None:
    caches = [ResidualCache(2, store, dtype) for store in ("device", "offload")]
    for cache in caches:
        for sigma in (0.9, 0.8, 0.7):
            cache.put("cond", sigma, (sigma * noise(),))
        cache.prefetch("cond")
    (on_device, offloaded) = (cache.get("cond") for cache in caches)
    assert all(torch.equal(a, b) for (a,), (b,) in zip(on_device, offloaded, strict=True))
    assert caches[0].bytes_held == caches[1].bytes_held


def test_a_residual_that_cannot_be_kept_leaves_the_older_ones() -> None:
    cache = filled(2, 2)
    with pytest.raises(AttributeError):
        cache.put("cond", 0.2, (None,))  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        cache.put("uncond", 0.2, (None,))  # type: ignore[arg-type]
    assert cache.sigmas("cond") == [0.0, 0.1] and "uncond" not in cache


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": 0}, "keep must be 1 or more, got 0"),
        ({"store": "disk"}, 'store must be "device" or "offload", got \'disk\''),
        ({"dtype": torch.int8}, "residuals cannot be kept as torch.int8"),
        ({"dtype": torch.float8_e5m2}, "residuals cannot be kept as torch.float8_e5m2"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResidualCache(**settings)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("dtype", [None, *LOSSY])
def test_offload_from_a_gpu(dtype: torch.dtype | None) -> None:
    """Pinned host memory out, back on the device by `prefetch`, and the same values."""
    cuda = torch.device("cuda", torch.cuda.current_device())
    device, offload = (ResidualCache(2, store, dtype) for store in ("device", "offload"))
    tensors = [sigma * noise().to(cuda) for sigma in (0.9, 0.8)]
    for cache in (device, offload):
        for tensor in tensors:
            cache.put("cond", 0.5, (tensor,))
    wanted = [tensor.clone() for (tensor,) in device.get("cond")]
    for tensor in tensors:
        tensor.zero_()  # what was copied out must have been copied before this
    packed = [entry.tensors[0] for entry in offload._entries["cond"]]
    assert all(p.data.is_pinned() and p.data.device == CPU for p in packed)
    for prefetched in (True, False):
        if prefetched:
            offload.prefetch("cond")
            assert all(p.back is not None for p in packed)
        found = [tensor for (tensor,) in offload.get("cond")]
        assert all(p.back is None for p in packed)
        assert all(
            torch.equal(a, b) and a.device == cuda for a, b in zip(found, wanted, strict=True)
        )
    assert offload.bytes_held == device.bytes_held


def test_rooms_are_what_put_leaves_room_for() -> None:
    one = tokens(1).nbytes
    for keep in (1, 2, 3):
        for residuals in range(7):
            cache = ResidualCache(keep, budget=residuals * one)
            assert cache.rooms() == {}
            for branch in "ab":
                cache.put(branch, 1.0, (tokens(1),))
            rooms = cache.rooms()
            for sigma in (0.9, 0.8, 0.7):
                for branch in "ab":
                    cache.make_room(branch)
                    cache.put(branch, sigma, (tokens(1),))
            assert {branch: len(cache.sigmas(branch)) for branch in "ab"} == rooms
            assert max(2, min(residuals, 2 * keep)) == sum(rooms.values())
