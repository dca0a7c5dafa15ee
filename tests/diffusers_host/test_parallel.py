"""Several processes sample one thing: diffusers' context parallelism, and CFG split over ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ContextParallelConfig, FlowMatchEulerDiscreteScheduler
from torch import Tensor, distributed
from torch.distributed.device_mesh import init_device_mesh

import magcache
import magcache.parallel.peers
from harness import PRESETS, counted, distance
from magcache.curves.calibration import Calibration
from processes import scenarios, together
from tests.toys import dry_calls
from tiny import TINY, Tiny, run

WAN, FLUX, QWEN = (TINY[name] for name in ("wan2.1_t2v", "flux", "qwen_image"))
STEPS = 12
EAGER = {"threshold": 0.5, "max_skip": 3, "retention": 0.2}
TOLERANCE = 1e-5
Found = list[dict[str, Any]]


def split(pipe: Any, **degrees: Any) -> Any:
    """The pipeline with its tokens split over processes."""
    pipe.transformer.enable_parallelism(config=ContextParallelConfig(**degrees))
    return pipe


def sampled(tiny: Tiny, pipe: Any, applied: Any, cfg: bool = True) -> dict[str, Any]:
    """A run: its latents, what its blocks show, and what was kept."""
    with counted(pipe, tiny) as seen:
        latents = run(pipe, **tiny.inputs(pipe, steps=STEPS, cfg=cfg))
    report = applied.report()
    return {
        "latents": latents.tolist(),
        "schedule": seen.schedule(tiny.calls_per_evaluation[cfg]),
        "reported": report.schedule,
        "bytes": report.runs[-1].bytes_held,
        "dry": dry_calls(applied.experts[-1].stack),
        "warnings": report.warnings,
    }


def ruled(tiny: Tiny, **degrees: Any) -> Callable[[int], dict[str, Any]]:
    """A run by the rule; with degrees, one whose tokens are split over processes."""

    def work(_rank: int) -> dict[str, Any]:
        pipe = split(tiny.build(), **degrees) if degrees else tiny.build()
        with magcache.apply(pipe, preset=PRESETS[tiny.name], **EAGER) as applied:
            return sampled(tiny, pipe, applied)

    return work


def applied_first(tiny: Tiny, **degrees: Any) -> Callable[[int], dict[str, Any]]:
    """The same with MagCache put on before the tokens are split."""

    def work(_rank: int) -> dict[str, Any]:
        pipe = tiny.build()
        with magcache.apply(pipe, preset=PRESETS[tiny.name], **EAGER) as applied:
            return sampled(tiny, split(pipe, **degrees), applied)

    return work


def measured(tiny: Tiny, **degrees: Any) -> Callable[[int], dict[str, Any]]:
    """A calibration, as a dictionary."""

    def work(_rank: int) -> dict[str, Any]:
        pipe = split(tiny.build(), **degrees) if degrees else tiny.build()
        with magcache.apply(pipe, calibrate=True) as applied:
            run(pipe, **tiny.inputs(pipe, steps=STEPS))
            return asdict(applied.calibration())

    return work


def planned(calibration: dict[str, Any], **degrees: Any) -> Callable[[int], dict[str, Any]]:
    """A run of Wan at a target speed."""

    def work(_rank: int) -> dict[str, Any]:
        pipe = split(WAN.build(), **degrees) if degrees else WAN.build()
        known = Calibration(**calibration)
        known = Calibration(
            **{**calibration, "branches": {b: _measurement(m) for b, m in known.branches.items()}}
        )
        with magcache.apply(pipe, calibration=known, speedup=2) as applied:
            return sampled(WAN, pipe, applied)

    return work


def _measurement(values: Any) -> Any:
    return magcache.curves.Measurement(**values)


class Loop:
    """A hand-written loop of Wan with CFG 3, of which a process may do one branch."""

    def __init__(self) -> None:
        self.model = WAN.build().transformer
        self.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
        draw = torch.Generator().manual_seed(0)
        self.noise = torch.randn(1, 16, 1, 8, 8, generator=draw)
        self.prompts = {
            "cond": torch.randn(1, 6, 8, generator=draw),
            "uncond": torch.randn(1, 6, 8, generator=draw),
        }

    def sample(self, branch: str | None = None, group: Any = None) -> Tensor:
        self.scheduler.set_timesteps(STEPS)
        latents = self.noise
        for timestep in self.scheduler.timesteps:
            at = timestep.expand(1)
            found = {
                name: self.model(latents, at, prompt, return_dict=False)[0]
                for name, prompt in self.prompts.items()
                if branch in (None, name)
            }
            if branch is not None:
                both = torch.stack(
                    [found.get(name, torch.zeros_like(latents)) for name in self.prompts]
                )
                distributed.all_reduce(both, group=group)
                found = dict(zip(self.prompts, both, strict=True))
            guided = found["uncond"] + 3 * (found["cond"] - found["uncond"])
            latents = self.scheduler.step(guided, timestep, latents, return_dict=False)[0]
        return latents


def looped(branch_of: Callable[[int], str | None], **settings: Any) -> Callable[[int], Any]:
    """A hand-written loop, of which each rank does a branch."""

    def work(rank: int) -> dict[str, Any]:
        loop, branch = Loop(), branch_of(rank)
        options = settings or {"preset": "wan2.1_t2v_14B", **EAGER}
        with magcache.apply(
            loop.model, scheduler=loop.scheduler, branch=branch, **options
        ) as applied:
            latents = loop.sample(branch)
            calibration = asdict(applied.calibration()) if settings else None
            return {
                "latents": latents.tolist(),
                "reported": applied.report().schedule,
                "calibration": calibration,
            }

    return work


def split_both_ways(rank: int) -> dict[str, Any]:
    """Four processes: two branches, each with its tokens split over two."""
    branch = ("cond", "uncond")[rank // 2]
    mesh = init_device_mesh("cpu", (2, 1, 2), mesh_dim_names=("cfg", "ring", "ulysses"))
    loop = Loop()
    config = ContextParallelConfig(ulysses_degree=2, mesh=mesh["ring", "ulysses"])
    loop.model.enable_parallelism(config=config)
    settings = {"preset": "wan2.1_t2v_14B", **EAGER}
    with magcache.apply(loop.model, scheduler=loop.scheduler, branch=branch, **settings) as applied:
        latents = loop.sample(branch, mesh["cfg"].get_group())
        return {"latents": latents.tolist(), "reported": applied.report().schedule}


def forecast(folder: Path, **degrees: Any) -> Callable[[int], dict[str, Any]]:
    """A first sampling at a target speed, by the model's output."""

    def work(rank: int) -> dict[str, Any]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MAGCACHE_HOME", str(folder / str(rank)))
            pipe = split(WAN.build(), **degrees) if degrees else WAN.build()
            with magcache.apply(pipe, speedup=2) as applied:
                latents = run(pipe, **WAN.inputs(pipe, steps=STEPS))
                return {"latents": latents.tolist(), "reported": applied.report().schedule}

    return work


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same in one process."""
    works = {
        "wan": ruled(WAN),
        "flux": ruled(FLUX),
        "qwen": ruled(QWEN),
        "measured": measured(WAN),
        "loop": looped(lambda _: None),
        "forecast": forecast(tmp_path_factory.mktemp("home")),
        "loop measured": looped(lambda _: None, calibrate=True),
    }
    found = {name: work(0) for name, work in works.items()}
    return found | {"planned": planned(found["measured"])(0)}


@pytest.fixture(scope="module")
def two(alone: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What two processes did."""
    branch = ("cond", "uncond")
    return scenarios(
        2,
        {
            "wan": ruled(WAN, ulysses_degree=2),
            "wan ring": ruled(WAN, ring_degree=2),
            "flux": ruled(FLUX, ring_degree=2),
            "qwen": ruled(QWEN, ulysses_degree=2),
            "wan later": applied_first(WAN, ulysses_degree=2),
            "flux later": applied_first(FLUX, ulysses_degree=2),
            "measured": measured(WAN, ulysses_degree=2),
            "planned": planned(alone["measured"], ulysses_degree=2),
            "loop": looped(lambda rank: branch[rank]),
            "loop measured": looped(lambda rank: branch[rank], calibrate=True),
            "forecast": forecast(tmp_path_factory.mktemp("home"), ulysses_degree=2),
        },
    )


@pytest.fixture(scope="module")
def four() -> Found:
    """What four processes did."""
    works = {
        "wan": ruled(WAN, ulysses_degree=2, ring_degree=2),
        "flux": ruled(FLUX, ring_degree=4),
        "loop": split_both_ways,
    }
    return scenarios(4, works)


def check(found: Found, name: str, expected: dict[str, Any]) -> None:
    for theirs in found:
        result = theirs[name]
        assert result["reported"] == expected["reported"] and "." in result["reported"]
        latents, own = torch.tensor(result["latents"]), torch.tensor(expected["latents"])
        assert distance(latents, own) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("wan", "wan"),
        ("wan ring", "wan"),
        ("wan later", "wan"),
        ("flux", "flux"),
        ("flux later", "flux"),
        ("qwen", "qwen"),
    ],
)
def test_two_processes_sample_what_one_does(
    two: Found, alone: dict[str, Any], name: str, reference: str
) -> None:
    expected = alone[reference]
    check(two, name, expected)
    for theirs in two:
        assert theirs[name]["schedule"] == expected["schedule"]
        assert theirs[name]["warnings"] == []
        assert theirs[name]["bytes"] == expected["bytes"] / 2  # its own tokens only
        assert theirs[name]["dry"] == expected["dry"]  # the base is known, not found each time


@pytest.mark.parametrize("name", ["wan", "flux"])
def test_four_processes_sample_what_one_does(four: Found, alone: dict[str, Any], name: str) -> None:
    check(four, name, alone[name])
    assert {theirs[name]["bytes"] for theirs in four} == {alone[name]["bytes"] / 4}


def test_a_target_speed_is_planned_alike(two: Found, alone: dict[str, Any]) -> None:
    check(two, "planned", alone["planned"])


def test_a_calibration_is_that_of_the_whole(two: Found, alone: dict[str, Any]) -> None:
    expected = alone["measured"]
    assert two[0]["measured"] == {**two[1]["measured"]}
    for branch, own in expected["branches"].items():
        pooled = two[0]["measured"]["branches"][branch]
        for name in ("sigmas", "ratios", "spreads", "cosine_distances"):
            assert pooled[name] == pytest.approx(own[name], abs=2e-5), name
        # These are of random samples of the entries, other ones in each process.
        assert pooled["norms"] == pytest.approx(own["norms"], rel=0.02)
        for row, theirs in zip(pooled["correlations"], own["correlations"], strict=True):
            assert row == pytest.approx(theirs, abs=0.01)


def test_processes_forecast_alike(two: Found, alone: dict[str, Any]) -> None:
    check(two, "forecast", alone["forecast"])


def test_cfg_split_over_two_processes(two: Found, alone: dict[str, Any]) -> None:
    check(two, "loop", alone["loop"])


def test_cfg_and_tokens_split_over_four_processes(four: Found, alone: dict[str, Any]) -> None:
    check(four, "loop", alone["loop"])


def test_a_calibration_of_split_cfg_has_both_branches(two: Found, alone: dict[str, Any]) -> None:
    expected = alone["loop measured"]["calibration"]["branches"]
    for theirs in two:
        found = theirs["loop measured"]["calibration"]["branches"]
        assert set(found) == {"cond", "uncond"}
        for branch, own in expected.items():
            assert found[branch]["ratios"] == pytest.approx(own["ratios"], abs=1e-5)


def test_other_settings_on_one_rank_are_an_error_on_all() -> None:
    def work(rank: int) -> str:
        pipe = split(WAN.build(), ulysses_degree=2)
        settings = {**EAGER, "threshold": 0.1 + 0.1 * rank}
        with (
            magcache.apply(pipe, preset="wan2.1_t2v_14B", **settings),
            pytest.raises(magcache.parallel.ParallelError) as error,
        ):
            run(pipe, **WAN.inputs(pipe, steps=STEPS))
        return str(error.value)

    messages = together(2, work)
    assert len(set(messages)) == 1
    assert "settings (threshold 0.1, K 3" in messages[0] and "on rank 1" in messages[0]
    assert "Apply MagCache in the same way on all of them" in messages[0]


@pytest.mark.parametrize("other", ["wan2.1_t2v_1.3B", "steps"])
def test_another_curve_or_schedule_on_one_rank_is_an_error_on_all(other: str) -> None:
    def work(rank: int) -> str:
        loop = Loop()
        preset = other if rank and other != "steps" else "wan2.1_t2v_14B"
        branch = ("cond", "uncond")[rank]
        loop.scheduler.set_timesteps(STEPS + rank if other == "steps" else STEPS)
        settings = {"preset": preset, "scheduler": loop.scheduler, **EAGER}
        at = loop.scheduler.timesteps[0].expand(1)
        with (
            magcache.apply(loop.model, branch=branch, **settings),
            pytest.raises(magcache.parallel.ParallelError) as error,
        ):
            loop.model(loop.noise, at, loop.prompts[branch])
        return str(error.value)

    messages = together(2, work)
    assert len(set(messages)) == 1
    assert ("noise levels (" if other == "steps" else "curve (") in messages[0]


def test_no_process_waits_for_one_that_has_failed_in_a_model_call() -> None:
    def work(rank: int) -> None:
        pipe = split(WAN.build(), ulysses_degree=2)
        calls = 0

        def fail(*_: Any) -> None:
            nonlocal calls
            calls += 1
            if rank == 1 and calls == 5:
                raise MemoryError("out of memory")

        pipe.transformer.blocks[2].register_forward_pre_hook(fail)
        with magcache.apply(pipe, preset="wan2.1_t2v_14B", **EAGER):
            run(pipe, **WAN.inputs(pipe, steps=STEPS))

    first, second = together(2, work)
    assert "out of memory" in second and "Error" in first  # the connection was closed


def test_no_process_waits_for_one_that_has_failed_between_two_samplings() -> None:
    def work(rank: int) -> str:
        magcache.parallel.peers.GRACE = 0.1
        loop, branch = Loop(), ("cond", "uncond")[rank]
        settings = {"preset": "wan2.1_t2v_14B", "scheduler": loop.scheduler, **EAGER}
        with magcache.apply(loop.model, branch=branch, **settings):
            loop.sample(branch)
            if rank == 1:
                raise MemoryError("out of memory")
            with pytest.raises(magcache.parallel.ParallelError) as error:
                loop.sample(branch)
        return str(error.value)

    first, second = together(2, work)
    assert "MemoryError" in second
    assert first == "rank 1 failed: MemoryError('out of memory')"


def test_a_process_without_magcache_is_an_error_and_not_a_wait() -> None:
    def work(rank: int) -> str:
        magcache.parallel.peers.PATIENCE = 0.5
        loop, branch = Loop(), ("cond", "uncond")[rank]
        if rank == 1:
            return "no MagCache"
        with (
            magcache.apply(
                loop.model,
                scheduler=loop.scheduler,
                branch=branch,
                preset="wan2.1_t2v_14B",
                **EAGER,
            ),
            pytest.raises(magcache.parallel.ParallelError) as error,
        ):
            loop.sample(branch)
        return str(error.value)

    first, _ = together(2, work)
    assert "rank 1 did not answer within 0.5 s: apply MagCache on all processes" in first


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"branch": "uncond"}, "call init_process_group first"),
        ({"branch": "negative"}, 'branch must be "cond", "uncond" or "ref", got'),
        ({"group": object()}, "group= needs branch="),
    ],
)
def test_a_branch_needs_processes(options: dict[str, Any], why: str) -> None:
    loop = Loop()
    with pytest.raises(ValueError, match=why):
        magcache.apply(loop.model, scheduler=loop.scheduler, preset="wan2.1_t2v_14B", **options)
