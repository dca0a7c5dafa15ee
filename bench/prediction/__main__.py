"""Measures what docs/prediction.md says, and writes its tables and pictures.

    python -m bench.prediction [PART ...]

Each result is saved in bench/results at once, so an interrupted run resumes where it stopped.
Needs matplotlib; from nothing, all parts take a few hours on one core.
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from bench.quality.counting import quiet
from tools.tables import filled

from . import (
    carried,
    expected,
    first_runs,
    forecasts,
    hedge,
    norms,
    outputs,
    partial,
    plans,
    propagation,
)

PARTS: Mapping[str, Callable[[], Mapping[str, str]]] = {
    "first_runs": first_runs.tables,
    "propagation": propagation.tables,
    "hedge": hedge.tables,
    "plans": plans.tables,
    "forecasts": forecasts.tables,
    "partial": partial.tables,
    "outputs": outputs.tables,
    "norms": norms.tables,
    "carried": carried.tables,
    "expected": expected.tables,
}
"""Each measures what has not been saved, and gives the text for each comment in the page."""
PAGES = {"expected": Path("docs/method.md")}
PAGE = Path("docs/prediction.md")  # of all others


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar=f"{{{','.join(PARTS)}}}")
    names = parser.parse_args().parts or [*PARTS]
    if unknown := {*names} - {*PARTS}:
        parser.error(f"no part is called {', '.join(unknown)}")
    quiet()
    for name in names:
        tables, page = PARTS[name](), PAGES.get(name, PAGE)
        page.write_text(filled(page.read_text(encoding="utf-8"), tables), encoding="utf-8")
        print(f"{name}: written to {page}")


if __name__ == "__main__":
    main()
