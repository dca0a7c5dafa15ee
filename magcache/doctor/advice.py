"""Turns findings into problems and advice."""

from collections.abc import Iterator
from typing import Any

from ..hosts.comfyui.neighbours import in_numbers
from .findings import FAILS, NOTE, PROBLEM, UNCACHED, UNCHECKED, UNKNOWN, Family, Findings, Problem
from .installation import GUESSED

_GIB = 1024**3
_LITTLE = 2 * _GIB
_LITTLE_DISK = _GIB // 10
_LISTED = 4
_LOADING = "while loading the custom node "
_CAUSES = {FAILS: "", UNCACHED: "nothing is skipped: ", UNKNOWN: ""}


def problems(findings: Findings) -> list[Problem]:
    """Everything that the user should know, failures first."""
    found = [
        *_unfinished(findings),
        *_families(findings),
        *_double_ids(findings),
        *_own_pack(findings),
        *_replaced(findings),
        *_other_packs(findings),
        *_memory(findings),
    ]
    return sorted(found, key=lambda problem: (PROBLEM, UNCHECKED, NOTE).index(problem.kind))


def status(found: list[Problem]) -> int:
    """The exit status: 0 if all is fine, 1 if something fails, 2 if not all could be checked."""
    kinds = {problem.kind for problem in found}
    return 1 if PROBLEM in kinds else 2 if UNCHECKED in kinds else 0


def _unfinished(findings: Findings) -> Iterator[Problem]:
    reason = findings.unfinished
    if not reason:
        return
    if findings.refused:
        advice = ""
    elif _LOADING in reason:
        name = reason.rpartition(_LOADING)[2]
        longer = "allow more time with --timeout, or " if reason.startswith("not done") else ""
        advice = (
            f"{longer}try without {name}: rename its folder in custom_nodes to end in .disabled"
        )
    elif "No module named" in reason and findings.python_from == GUESSED:
        advice = "name the Python that you start ComfyUI with: --python PATH"
    elif "No module named" in reason:
        requirements = f"{findings.comfyui}/requirements.txt"
        advice = f"install what ComfyUI needs: {findings.python} -m pip install -r {requirements}"
    elif reason.startswith("not done"):
        advice = "allow more time with --timeout"
    elif "CUDA" in reason or "NVIDIA" in reason:
        advice = "add --cpu if there is no such GPU or it is busy"
    else:
        start = f"{findings.python} {findings.comfyui}/main.py"
        advice = f"check whether ComfyUI itself starts: {start}"
    yield Problem(reason, advice, UNCHECKED)


def _families(findings: Findings) -> Iterator[Problem]:
    """Families with the same reason are one problem."""
    for result, kind in ((FAILS, PROBLEM), (UNCACHED, PROBLEM), (UNKNOWN, UNCHECKED)):
        by_reason: dict[tuple[str, tuple[str, ...]], list[Family]] = {}
        for family in findings.families:
            if family.result == result and not family.known:
                by_reason.setdefault((family.reason, tuple(family.suspects)), []).append(family)
        for (reason, suspects), families in by_reason.items():
            names = ", ".join(family.name for family in families)
            yield Problem(
                f"{names}: {_CAUSES[result]}{reason}", _for_family(suspects, result), kind
            )


def _for_family(suspects: tuple[str, ...], result: str) -> str:
    if suspects:
        return f"try again without {', '.join(suspects)}, whose code runs in these models"
    if result == UNKNOWN:
        return (
            "the model fails without MagCache too: try one of its workflows; if that works, this "
            "MagCache is too old for your ComfyUI, so update it"
        )
    if result == UNCACHED:
        return "update MagCache: it does not know how this ComfyUI builds them"
    return "update MagCache; if that does not help, do not use it on these models and report this"


def _double_ids(findings: Findings) -> Iterator[Problem]:
    """Ids that the same packs register are one problem."""
    name, version = findings.pack.get("name") or "MagCache", findings.pack.get("version", "")
    by_packs: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for each in findings.double_ids:
        by_packs.setdefault((each["in_force"], *each["packs"]), []).append(each)
    for (in_force, *packs), found in by_packs.items():
        versions = {**found[0]["versions"], name: version}
        newest = max(map(in_numbers, versions.values()))
        older = [each for each, version in versions.items() if in_numbers(version) < newest]
        ids = ", ".join(each["id"] for each in found)
        said = [
            f"{each} (MagCache {v})" if (v := versions.get(each)) else each
            for each in (name, *packs)
        ]
        yield Problem(
            f"{ids}: registered by {' and by '.join(said)}",
            f"rename the folder of {'the older one, ' if older else ''}"
            f"{', '.join(older) or 'one of them'} in custom_nodes to end in .disabled; "
            f"until then, workflows use the nodes of {in_force}",
            PROBLEM,
        )


def _own_pack(findings: Findings) -> Iterator[Problem]:
    name, version = findings.pack.get("name"), findings.pack.get("version")
    if version is None:
        return
    if not name:
        yield Problem(
            "MagCache is not among the custom nodes, so this command's own copy was tested",
            f"put the pack into the custom_nodes folder of {findings.comfyui}",
        )
    elif version != findings.own_version:
        newer = in_numbers(version) > in_numbers(findings.own_version)
        yield Problem(
            f"custom_nodes/{name} is MagCache {version}, but this command is "
            f"{findings.own_version}, so {version} was tested",
            f"update {'the command' if newer else 'the custom node'}, the older of the two",
        )


def _replaced(findings: Findings) -> Iterator[Problem]:
    packs: dict[str, list[str]] = {}
    for each in findings.replaced:
        packs.setdefault(each["pack"], []).append(f"{each['class']}.{each['function']}")
    for pack, functions in packs.items():
        more = f" and {len(functions) - _LISTED} more" if len(functions) > _LISTED else ""
        yield Problem(
            f"{pack} replaces ComfyUI's {', '.join(functions[:_LISTED])}{more} for every model",
            "the table shows how MagCache works with it; if a family fails or images look wrong, "
            "disable that pack",
        )


def _other_packs(findings: Findings) -> Iterator[Problem]:
    for each in findings.custom_nodes:
        if not each["loaded"]:
            what = f"the custom node {each['name']} cannot be loaded: {each['reason']}"
            if each["ours"]:
                yield Problem(what, "reinstall it and its requirements", PROBLEM)
            else:
                yield Problem(what, "MagCache is not affected")


def _memory(findings: Findings) -> Iterator[Problem]:
    vram, ram, disk = (findings.memory.get(name) for name in ("vram", "ram", "disk"))
    if vram and vram["free"] < _LITTLE:
        yield Problem(
            f"only {size(vram['free'])} of GPU memory is free",
            "close other programs that use the GPU, or set `residuals` to `offload device`",
        )
    if ram and ram["free"] < _LITTLE:
        yield Problem(f"only {size(ram['free'])} of RAM is free", "close other programs")
    if disk and (disk["free"] < _LITTLE_DISK or not disk["writable"]):
        why = f"has only {size(disk['free'])} left" if disk["writable"] else "is not writable"
        yield Problem(
            f"the folder for calibrations, {disk['device']}, {why}",
            "free some space there or make it writable; otherwise MagCache cannot store what it "
            "measures",
        )


def size(count: float) -> str:
    """A number of bytes in readable form."""
    return f"{count / _GIB:.1f} GiB"
