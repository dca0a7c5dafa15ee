"""Where calibrations live, and how the right one is found again."""

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from .calibration import Calibration, CalibrationError
from .identity import Identity
from .magnitude import shifted_sigmas
from .nearness import at_least_as_good, distance, order

log = logging.getLogger("magcache")
_FARTHEST = 1.0  # steps; a calibration farther from a run is not taken by itself
_PATIENCE = 30  # seconds to wait for another process that is writing
_warned: set[tuple[Path, int]] = set()


def home() -> Path:
    """The folder of calibrations: $MAGCACHE_HOME, else magcache in the platform's data folder."""
    if named := os.environ.get("MAGCACHE_HOME"):
        return Path(named).expanduser()
    import platformdirs  # ComfyUI, which names its own folder, does without it

    return platformdirs.user_data_path("magcache", appauthor=False)


@dataclass(frozen=True)
class Found:
    """A calibration of the wanted model.

    Attributes:
        path: Its file.
        calibration: What the file holds.
        same_weights: Whether it was measured on the very weights.
        distance: How many of the run's steps its noise levels are from the run's, on average.
        place, of: Which of the found ones it is, from 1, the best first.
    """

    path: Path
    calibration: Calibration
    same_weights: bool
    distance: float
    place: int = 1
    of: int = 1

    @property
    def reason(self) -> str:
        """What speaks for it, for reports: "same weights, 50 steps, shift 3, CFG 3"."""
        known = "same weights" if self.same_weights else "same architecture, other weights"
        return f"{known}, {described(self.calibration)}"

    def __str__(self) -> str:
        name = self.calibration.name
        return f"calibration {name}: {self.reason}; {self.place} of {self.of} found"


class Store:
    """The calibrations in one folder. Processes and threads may share it.

    Args:
        folder: The folder, made when something is saved; `home()` by default.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = home() if folder is None else Path(folder)

    def path(self, name: str) -> Path:
        """The file of a calibration, whether or not it is there.

        Raises:
            CalibrationError: The name would lead out of the folder, or is no file name.
        """
        stem = name.removesuffix(".json")
        if not stem or stem.startswith(".") or re.search(r'[\0-\x1f/\\:<>"|?*]', stem):
            raise CalibrationError(f"{name!r} is not the name of a calibration in {self.folder}")
        return self.folder / f"{stem}.json"

    def names(self) -> list[str]:
        """Names of all calibrations, broken ones too, the newest first."""
        return [path.stem for path in self._paths()]

    def load(self, name: str) -> Calibration:
        """Reads a calibration.

        Raises:
            CalibrationError: There is none of that name, or it cannot be used.
        """
        path = self.path(name)
        if not path.is_file():
            there = ", ".join(self.names()) or "none yet"
            raise CalibrationError(f"no calibration {name} in {self.folder}; there is {there}")
        return Calibration.load(path)

    def calibrations(self) -> dict[Path, Calibration]:
        """All calibrations that can be used, the newest first; of each other one a warning."""
        found = {}
        for path in self._paths():
            try:
                found[path] = Calibration.load(path)
            except CalibrationError as error:
                _warn_once(path, f"{error}; it is left out")
        return found

    def find(
        self,
        identity: Identity,
        sigmas: Sequence[float] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> list[Found]:
        """The calibrations of a model, the best first.

        Only those of the same class and shapes are any good; those of the same weights come
        first, then the nearest (see `nearness.order`), then the newest. A file without identity
        is never found: it has to be named.

        Args:
            identity: The model, see `identity_of`.
            sigmas: Noise levels of the run.
            settings: What else is known of it, by the names that calibrations have it under:
                steps, shift, sampler, cfg, latent. Steps and shift stand in for `sigmas`.
        """
        wanted = dict(settings or {})
        if sigmas is None and wanted.get("steps"):
            sigmas = shifted_sigmas(wanted["steps"], wanted.get("shift") or 1.0)
        found = []
        for path, calibration in self.calibrations().items():
            known = calibration.known_as()
            if known and known.same_architecture(identity):
                far = distance(calibration, sigmas or ())
                found.append(Found(path, calibration, known.same_weights(identity), far))
        found.sort(key=lambda f: (not f.same_weights, *order(f.calibration, f.distance, wanted)))
        return [replace(one, place=p, of=len(found)) for p, one in enumerate(found, start=1)]

    def nearest(
        self,
        identity: Identity,
        sigmas: Sequence[float],
        settings: Mapping[str, Any],
    ) -> Found | None:
        """The first one found that can be planned with and is near enough to be taken by itself.

        One that is known to be of other weights is not.

        Args:
            identity, sigmas, settings: See `find`.
        """
        for found in self.find(identity, sigmas, settings):
            known = found.calibration.known_as()
            own = known is not None and identity.may_be(known)
            if own and found.calibration.grams and found.distance <= _FARTHEST:
                return found
        return None

    def save(self, calibration: Calibration, name: str | None = None) -> Path:
        """Writes a calibration in one move; the path that it then has.

        Without `name` it is named after model and settings. It replaces an older one of the same
        model and settings that it is at least as good as (see `nearness.at_least_as_good`), else
        it is put beside it under a number.

        Raises:
            CalibrationError: `name` is taken, or is no name.
            OSError: The file cannot be written; older ones are as they were.
        """
        try:
            with self._locked():
                path = self._free(calibration) if name is None else self.path(name)
                if name is not None and path.exists():
                    raise CalibrationError(f"there is a calibration {path.stem} already: {path}")
                return replace(calibration, name=path.stem).save(path)
        except OSError as error:
            raise OSError(f"no calibration was written to {self.folder}: {error}") from error

    def import_file(self, path: str | Path) -> Path:
        """Copies a calibration from elsewhere, in today's format; the path that it then has.

        It keeps its name, with a number behind it where another calibration has it.

        Raises:
            CalibrationError: It cannot be used.
            OSError: The file cannot be written.
        """
        path = Path(path)
        calibration = Calibration.load(path)
        taken = self.names()
        for name in _numbered(_plain(path.stem)):
            named = replace(calibration, name=name)
            if name not in taken:
                return self.save(named, name)
            if _loaded(self.path(name)) == named:
                return self.path(name)
        raise AssertionError("numbers do not end")

    def remove(self, name: str) -> Path:
        """Deletes a calibration, also a broken one.

        Raises:
            CalibrationError: There is none of that name.
        """
        path = self.path(name)
        try:
            path.unlink()
        except FileNotFoundError:
            raise CalibrationError(f"no calibration {name} in {self.folder}") from None
        return path

    def _paths(self) -> list[Path]:
        times = {}
        for path in self.folder.glob("[!.]*.json") if self.folder.is_dir() else []:
            try:
                times[path] = path.stat().st_mtime_ns
            except FileNotFoundError:  # another process has just removed it
                continue
        return sorted(times, key=lambda path: (-times[path], path.name))

    def _free(self, calibration: Calibration) -> Path:
        """A path that is not taken, or is by one that this calibration may replace."""
        for name in _numbered(_named_after(calibration)):
            path = self.path(name)
            if not path.exists():
                return path
            older = _loaded(path)
            if older and _same_kind(calibration, older) and at_least_as_good(calibration, older):
                return path
        raise AssertionError("numbers do not end")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / ".lock")
        with lock.acquire(timeout=_PATIENCE, poll_interval=0.01):
            yield


def described(calibration: Calibration) -> str:
    """What it was made with, in a few words: "50 steps, shift 3, euler, CFG 3, 2 prompts"."""
    made = calibration.settings
    texts = [("{} steps", "steps"), ("shift {}", "shift"), ("{}", "sampler"), ("CFG {}", "cfg")]
    parts = _told(made, texts)
    if made.get("steps") is None:
        parts.insert(0, f"{len(next(iter(calibration.curves.values())).positions)} noise levels")
    if calibration.prompts > 1:
        parts.append(f"{calibration.prompts} prompts")
    if calibration.switch_at is not None:
        parts.append("two experts")
    if len(calibration.grams) < len(calibration.branches):
        parts.append("no Gram curve")
    return ", ".join(parts)


_KIND = ("steps", "shift", "sampler", "scheduler", "cfg", "latent")


def _same_kind(one: Calibration, other: Calibration) -> bool:
    """Whether both are of one model, made with the same settings."""
    made = [[c.settings.get(name) for name in _KIND] for c in (one, other)]
    return one.model == other.model and one.identity == other.identity and made[0] == made[1]


def _named_after(calibration: Calibration) -> str:
    known, made = calibration.known_as(), calibration.settings
    hashed = (known.weights or known.shapes)[:8] if known else "unknown"
    texts = [("{}steps", "steps"), ("shift{}", "shift"), ("{}", "sampler"), ("cfg{}", "cfg")]
    parts = _told(made, texts)
    if calibration.prompts > 1:
        parts.append(f"{calibration.prompts}prompts")
    return _plain("-".join([calibration.model, hashed, *parts]))


def _told(made: Mapping[str, Any], texts: Sequence[tuple[str, str]]) -> list[str]:
    """The texts of the settings that are known."""
    known = [(text, made[name]) for text, name in texts if made.get(name) is not None]
    return [text.format(f"{v:g}" if isinstance(v, float) else v) for text, v in known]


def _plain(name: str) -> str:
    """The name with nothing that a file system or a command line minds."""
    return re.sub(r"[^\w.+-]+", "_", name).lstrip(".") or "calibration"


def _numbered(name: str) -> Iterator[str]:
    yield name
    for number in range(2, 10**9):
        yield f"{name}-{number}"


def _loaded(path: Path) -> Calibration | None:
    try:
        return Calibration.load(path)
    except CalibrationError:
        return None


def _warn_once(path: Path, message: str) -> None:
    try:
        state = path, path.stat().st_mtime_ns
    except FileNotFoundError:  # removed since it was listed
        return
    if state not in _warned:
        _warned.add(state)
        log.warning("MagCache: %s", message)
