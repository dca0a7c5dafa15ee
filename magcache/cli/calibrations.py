"""The commands `magcache calibrations list | show | merge | remove | import`."""

import argparse
import json
from pathlib import Path
from typing import Any

from ..calibrate import merge
from ..curves import Calibration, CalibrationError, Store, described
from .values import a_path, check_new_file, given


def add_to(commands: Any) -> None:
    """Adds `calibrations` to the commands of the command line's parser."""
    text = "list, show, merge, remove and import measured curves"
    parser = commands.add_parser("calibrations", help=text)
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    shared = argparse.ArgumentParser(add_help=False)
    add_home(shared)
    shared.add_argument("--json", action="store_true")
    shared.set_defaults(extra="plot")

    listed = actions.add_parser("list", parents=[shared], help="list all, newest first")
    listed.set_defaults(run=_list)

    shown = actions.add_parser("show", parents=[shared], help="show the contents of one")
    shown.add_argument("name", type=given, help="a stored calibration, or a file")
    shown.add_argument(
        "--picture", type=a_path, metavar="FILE", help="draw its curves into this file"
    )
    shown.set_defaults(run=_show)

    merged = actions.add_parser(
        "merge", parents=[shared], help="average several of one model, from different prompts"
    )
    text = "stored calibrations, or files"
    merged.add_argument("names", nargs="+", type=given, metavar="NAME", help=text)
    merged.add_argument("-o", "--output", required=True, metavar="NAME", help="name of the new one")
    merged.set_defaults(run=_merge)

    removed = actions.add_parser("remove", parents=[shared], help="delete one")
    removed.add_argument("name", type=given)
    removed.set_defaults(run=_remove)

    imported = actions.add_parser("import", parents=[shared], help="check a file and store a copy")
    imported.add_argument("file", type=a_path)
    imported.set_defaults(run=_import)


def add_home(parser: argparse.ArgumentParser) -> None:
    """Adds the option that names the folder of the stored calibrations."""
    text = "default: $MAGCACHE_HOME, else the platform's data folder"
    parser.add_argument("--home", type=a_path, metavar="FOLDER", help=text)


def stored_or_file(name: str, home: Path | None = None) -> Calibration:
    """Loads a calibration by its path or, if there is no such file, by its name in the store.

    Raises:
        CalibrationError: There is neither, or it cannot be used.
    """
    looks_like_path = Path(name).name != name or name.endswith(".json")
    if Path(name).is_file() or (looks_like_path and home is None):
        return Calibration.load(name)
    return Store(home).load(name)


def _list(arguments: argparse.Namespace) -> None:
    store = Store(arguments.home)
    rows = [_row(store, name) for name in store.names()]
    if arguments.json:
        _print_json(rows)
    elif not rows:
        print(f"no calibrations in {store.folder}")
    else:
        wide = max(len(row["name"]) for row in rows)
        for row in rows:
            problem = f"cannot be used: {row.get('problem')}"
            known = f"{row['model']}, {row['made_with']}" if "model" in row else problem
            print(f"{row['name']:{wide}}  {known}")


def _row(store: Store, name: str) -> dict[str, Any]:
    try:
        return {**_head(store.load(name)), "name": name}
    except CalibrationError as error:
        return {"name": name, "problem": str(error)}


def _show(arguments: argparse.Namespace) -> None:
    calibration = stored_or_file(arguments.name, arguments.home)
    if arguments.picture:
        check_new_file(arguments.picture)
        _save_picture(calibration, arguments.picture)
    if arguments.json:
        _print_json(_figures(calibration))
    else:
        print(_text(calibration))
        if arguments.picture:
            print(f"wrote {arguments.picture}")


def _merge(arguments: argparse.Namespace) -> None:
    store = Store(arguments.home)
    store.prepare(arguments.output)
    merged = merge([stored_or_file(name, arguments.home) for name in arguments.names])
    _wrote(store.save(merged, arguments.output), arguments)


def _import(arguments: argparse.Namespace) -> None:
    _wrote(Store(arguments.home).import_file(arguments.file), arguments)


def _remove(arguments: argparse.Namespace) -> None:
    path = Store(arguments.home).remove(arguments.name)
    print(json.dumps({"removed": str(path)}) if arguments.json else f"removed {path}")


def _wrote(path: Path, arguments: argparse.Namespace) -> None:
    calibration = Calibration.load(path)
    if arguments.json:
        _print_json({"path": str(path), **_figures(calibration)})
    else:
        print(f"stored as {path}\n{_text(calibration)}")


def _print_json(data: Any) -> None:
    print(json.dumps(data, indent=1))


def _head(calibration: Calibration) -> dict[str, Any]:
    return {
        "name": calibration.name,
        "model": calibration.model,
        "made_with": described(calibration),
        "identity": calibration.identity,
    }


def _figures(calibration: Calibration) -> dict[str, Any]:
    branches = {}
    for branch, curve in calibration.curves.items():
        measured = calibration.branches[branch]
        ratios = measured.ratios[1:] or [1.0]  # the first compares a residual with itself
        branches[branch] = {
            "noise_levels": len(curve.positions),
            "sigmas": [curve.positions[0], curve.positions[-1]],
            "ratios": [min(ratios), max(ratios)],
            "spread_at_most": max(measured.spreads),
            "cosine_distance_at_most": max(measured.cosine_distances),
            "gram_curve": branch in calibration.grams,
        }
    own = {"settings": calibration.settings, "switch_at": calibration.switch_at}
    return {**_head(calibration), **own, "branches": branches}


def _text(calibration: Calibration) -> str:
    known = calibration.known_as()
    model = f"model: {calibration.model}"
    if known:
        weights = f"weights {known.weights or 'not read'}"
        model += f", {known.parameters:,} parameters, shapes {known.shapes}, {weights}"
        model += f", {known.patches}" if known.patches else ""
    else:
        model += ", weights unknown, so it is used only if you name it"
    settings = {k: v for k, v in calibration.settings.items() if k != "sigmas" and v is not None}
    lines = [
        f"{calibration.name}: {described(calibration)}",
        model,
        "made with: " + (", ".join(f"{k} {v}" for k, v in settings.items()) or "not known"),
    ]
    if calibration.switch_at is not None:
        lines.append(f"the second expert takes over at noise level {calibration.switch_at:.4g}")
    for branch, row in _figures(calibration)["branches"].items():
        (high, low), (least, most) = row["sigmas"], row["ratios"]
        gram = "" if row["gram_curve"] else ", no Gram curve"
        lines.append(
            f"{branch}: {row['noise_levels']} noise levels from {high:.4g} to {low:.4g}, ratio "
            f"{least:.4f} to {most:.4f}, spread at most {row['spread_at_most']:.4f}, cosine "
            f"distance at most {row['cosine_distance_at_most']:.4f}{gram}"
        )
    return "\n".join(lines)


def _save_picture(calibration: Calibration, path: Path) -> None:
    from ..pictures import draw_calibration

    title = f"{calibration.name} ({calibration.model}): {described(calibration)}"
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_calibration(title, calibration.curves, calibration.grams).save(path)
