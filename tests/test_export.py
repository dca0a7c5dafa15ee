"""What other programs are given: the exact keys, and ratios at the run's own noise levels."""

import json
import math
from typing import Any

import pytest

from magcache import cli
from magcache.curves import presets
from magcache.decide import Window, rule_of
from magcache.export import COMPUTE, ENGINES, WRAPPER_ENTRIES, compose, export
from tests.calibrations import calibration, ratios_of, switch_of

_WHOLE, _REAL, _TRUTH, _RATIOS = (int,), (int, float), (bool,), (list,)
SCHEMAS: dict[str, dict[str, tuple[type, ...]]] = {
    "lightx2v": {
        "infer_steps": _WHOLE,
        "feature_caching": (str,),
        "magcache_calibration": _TRUTH,
        "magcache_thresh": _REAL,
        "magcache_K": _WHOLE,
        "magcache_retention_ratio": _REAL,
        "magcache_ratios": _RATIOS,
    },
    "vllm-omni": {
        "mag_threshold": _REAL,
        "mag_max_skip_steps": _WHOLE,
        "mag_retention_ratio": _REAL,
        "mag_ratios": _RATIOS,
        "num_inference_steps": _WHOLE,
    },
    "diffusers": {
        "threshold": _REAL,
        "max_skip_steps": _WHOLE,
        "retention_ratio": _REAL,
        "num_inference_steps": _WHOLE,
        "mag_ratios": _RATIOS,
    },
    "wanvideowrapper": {"cache_args": (dict,), "magcache_ratios": _RATIOS},
}
OPTIONAL = {"lightx2v": {"sample_shift": _REAL}}
CACHE_ARGS = {
    "cache_type": (str,),
    "magcache_thresh": _REAL,
    "magcache_K": _WHOLE,
    "start_step": _WHOLE,
    "end_step": _WHOLE,
    "cache_device": (str,),
}
PARTS = {"diffusers": ("transformer", "transformer_2"), "wanvideowrapper": ("high", "low")}
KNOWN = [
    (engine, name)
    for engine, program in ENGINES.items()
    for name in presets.names()
    if program.fits(presets.load(name))
]


def exported(engine: str, preset: str, steps: int | None = None, **changes: Any) -> dict[str, Any]:
    source = presets.load(preset)
    shift = changes.pop("shift", None)
    composed = compose(source, rule_of(source, **changes), source.trajectory(steps, shift), shift)
    return json.loads(json.dumps(export(engine, source, composed)))


def check(settings: dict[str, Any], schema: dict[str, tuple[type, ...]], may: Any = None) -> None:
    """Exactly the keys of a schema, each of its type; a bool is no number."""
    may = may or {}
    assert set(schema) <= set(settings) <= set(schema) | set(may)
    for name, value in settings.items():
        assert type(value) in {**schema, **may}[name], name


def check_ratios(ratios: list[Any], length: int) -> None:
    assert len(ratios) == length
    assert all(type(ratio) is float and math.isfinite(ratio) and ratio >= 0 for ratio in ratios)


@pytest.mark.parametrize(("engine", "preset"), KNOWN)
def test_an_export_has_exactly_the_programs_keys(engine: str, preset: str) -> None:
    settings, source = exported(engine, preset, steps=20), presets.load(preset)
    parts = [settings]
    if switch_of(source) and engine in PARTS:
        assert tuple(settings) == PARTS[engine]
        parts = list(settings.values())
    steps = 0
    for part in parts:
        check(part, SCHEMAS[engine], OPTIONAL.get(engine))
        if engine == "lightx2v":
            assert (part["infer_steps"], part["feature_caching"]) == (20, "Mag")
            assert part["magcache_calibration"] is False and len(part["magcache_ratios"]) == 2
            for ratios in part["magcache_ratios"]:
                check_ratios(ratios, 20)
        elif engine == "wanvideowrapper":
            check(part["cache_args"], CACHE_ARGS)
            assert part["cache_args"]["cache_type"] == "MagCache"
            check_ratios(part["magcache_ratios"], WRAPPER_ENTRIES)
        else:
            steps += part["num_inference_steps"]
            check_ratios(part["mag_ratios"], part["num_inference_steps"])
    assert steps in (0, 20)


def test_at_the_lists_own_steps_the_export_is_the_list() -> None:
    ratios = ratios_of(presets.load("wan2.1_t2v_1.3B"))
    rows = exported("lightx2v", "wan2.1_t2v_1.3B")["magcache_ratios"]
    assert rows[0] == pytest.approx(ratios["cond"], abs=1e-6)
    assert rows[1] == pytest.approx(ratios["uncond"], abs=1e-6)


def test_at_fewer_steps_ratios_are_composed_and_not_copied() -> None:
    ratios = ratios_of(presets.load("wan2.1_t2v_1.3B"))["cond"]
    composed = exported("lightx2v", "wan2.1_t2v_1.3B", steps=25)["magcache_ratios"][0]
    assert composed[10] == pytest.approx(ratios[19] * ratios[20], abs=1e-6)  # two steps of 50
    assert composed[-1] == pytest.approx(ratios[47] * ratios[48], abs=1e-6)


def test_another_shift_gives_other_ratios_and_is_part_of_the_run() -> None:
    own = exported("lightx2v", "wan2.1_t2v_14B", steps=30)
    other = exported("lightx2v", "wan2.1_t2v_14B", steps=30, shift=3.0)
    assert (own["sample_shift"], other["sample_shift"]) == (5.0, 3.0)
    assert own["magcache_ratios"] != other["magcache_ratios"]


def test_an_unknown_schedule_names_no_shift() -> None:
    assert "sample_shift" not in exported("lightx2v", "hunyuan_video_1.5_20steps")


def test_no_ratio_is_composed_across_the_switch_of_experts() -> None:
    rows = exported("lightx2v", "wan2.2_t2v_14B")["magcache_ratios"]
    assert [row.index(COMPUTE) for row in rows] == [26, 26]
    low = exported("diffusers", "wan2.2_t2v_14B")["transformer_2"]
    assert (low["mag_ratios"][0], low["num_inference_steps"]) == (COMPUTE, 14)


def test_steps_that_the_rule_always_computes_have_no_ratio() -> None:
    ratios = exported("vllm-omni", "flux", window=Window(5, 20))["mag_ratios"]
    fixed = [step for step, ratio in enumerate(ratios) if ratio == COMPUTE]
    assert fixed == [1, 2, 3, 4, 11, 21, 22, 23, 24, 25, 26, 27]  # 11: FLUX's own


@pytest.mark.parametrize("steps", range(9, 60))
def test_protected_steps_survive_each_programs_rounding(steps: int) -> None:
    protected = int(steps * 0.2)
    settings = exported("diffusers", "flux", steps=steps, retention=0.2)
    assert int(settings["retention_ratio"] * steps + 0.5) == protected
    settings = exported("lightx2v", "wan2.1_t2v_14B", steps=steps)
    assert int(steps * settings["magcache_retention_ratio"]) == protected
    settings = exported("wanvideowrapper", "wan2.1_t2v_14B", steps=steps)
    assert settings["cache_args"]["start_step"] == protected - 1


def test_vllm_omni_takes_no_retention_of_zero() -> None:
    retention = exported("vllm-omni", "flux", steps=20, retention=0.0)["mag_retention_ratio"]
    assert 0 < retention < 1 and int(retention * 20 + 0.5) == 0


@pytest.mark.parametrize(
    ("engine", "preset", "known"),
    [
        ("vllm-omni", "wan2.1_t2v_14B", "it supports flux, flux2 (presets emoji, flux)"),
        ("vllm-omni", "flux_kontext", "it supports flux, flux2"),
        ("lightx2v", "flux", "it supports wan, hunyuan_video_1.5"),
        ("lightx2v", "wan2.1_vace_14B", "it supports wan, hunyuan_video_1.5"),
        ("diffusers", "chroma", "it supports flux, hunyuan_video, qwen_image, wan, wan_vace"),
        ("wanvideowrapper", "hunyuan_video", "it supports wan, wan_vace"),
    ],
)
def test_a_model_that_the_program_does_not_know(
    engine: str, preset: str, known: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["export", "--to", engine, "--preset", preset]) == 2
    said = capsys.readouterr()
    assert said.out == "" and known in said.err and preset in said.err


def test_a_calibration_is_exported_by_the_class_it_was_measured_on(tmp_path, capsys) -> None:
    path = calibration(50, model="WanModel", shift=5.0).save(tmp_path / "mine.json")
    options = ["--calibration", str(path), "--steps=30", "--threshold=0.2"]
    assert cli.main(["export", "--to=lightx2v", *options]) == 0
    printed = capsys.readouterr()
    settings = json.loads(printed.out)
    assert (settings["infer_steps"], settings["sample_shift"]) == (30, 5.0)
    assert "30 steps, shift 5: ######" in printed.err
    assert cli.main(["export", "--to=vllm-omni", *options]) == 2
    assert "no MagCache for calibration (WanModel)" in capsys.readouterr().err


def test_a_file_is_written_where_asked(tmp_path, capsys) -> None:
    path = tmp_path / "flux.json"
    assert cli.main(["export", "--to=diffusers", "--preset=flux", f"--output={path}"]) == 0
    assert len(json.loads(path.read_text(encoding="utf-8"))["mag_ratios"]) == 28
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ("--threshold=0", "skip nothing: turn off the other program's cache"),
        ("--max-skip=0", "skip nothing: turn off the other program's cache"),
        ("--threshold=1", "a threshold of 1 cannot be exported"),
        ("--steps=0", "--steps: give a whole number from 1 to 1,000"),
    ],
)
def test_settings_that_make_no_export(option: str, why: str, capsys) -> None:
    assert cli.main(["export", "--to=diffusers", "--preset=flux", option]) == 2
    assert why in capsys.readouterr().err


def test_more_steps_than_wanvideowrapper_can_look_up(capsys) -> None:
    options = ["--preset=wan2.1_t2v_14B", "--steps=101"]
    assert cli.main(["export", "--to=wanvideowrapper", *options]) == 2
    assert "at most 100 steps, not 101" in capsys.readouterr().err
