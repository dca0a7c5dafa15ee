"""The folder of calibrations, and how the right one is found."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from .calibration import Calibration, CalibrationError
from .files import State, state_of, warn_once
from .identity import Identity
from .magnitude import shifted_sigmas
from .names import described, folded, named_after, numbered, plain, stem_of
from .nearness import at_least_as_good, distance, order

_FARTHEST = 1.0  # steps; a calibration farther from a run is not chosen automatically
_PATIENCE = 30  # seconds to wait for another process that is writing
_ROOM = 1 << 26  # bytes of files to keep in memory, where they take about twice that
_kept: dict[Path, dict[str, tuple[Path, State, Calibration | str]]] = {}
"""The calibrations in the folder that was read last, or why a file cannot be used. Each entry is
valid until its file changes."""


def home() -> Path:
    """The folder of calibrations: $MAGCACHE_HOME, or magcache in the platform's data folder."""
    if named := os.environ.get("MAGCACHE_HOME"):
        return Path(named).expanduser()
    import platformdirs  # not installed in ComfyUI, which passes its own folder

    return platformdirs.user_data_path("magcache", appauthor=False)


@dataclass(frozen=True)
class Found:
    """A calibration that was found for a model.

    Attributes:
        path: Its file.
        calibration: The calibration in the file.
        same_weights: Whether it was measured on the same weights.
        distance: Mean distance of its noise levels from the run's, in steps of the run.
        place, of: Its rank among the calibrations found (1 is the best), and their number.
    """

    path: Path
    calibration: Calibration
    same_weights: bool
    distance: float
    place: int = 1
    of: int = 1

    @property
    def reason(self) -> str:
        """Why it was chosen, for reports: "same weights, 50 steps, shift 3, CFG 3"."""
        known = "same weights" if self.same_weights else "same architecture, other weights"
        return f"{known}, {described(self.calibration)}"

    def __str__(self) -> str:
        name = self.calibration.name
        return f"calibration {name}: {self.reason}; {self.place} of {self.of} found"


class Store:
    """The calibrations in one folder. Processes and threads may share it.

    Args:
        folder: The folder, `home()` by default. It is created when something is saved.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = home() if folder is None else Path(folder)

    def path(self, name: str) -> Path:
        """The path of a calibration's file, whether or not it exists.

        Raises:
            CalibrationError: The name is not valid, see `names.stem_of`.
        """
        try:
            return self.folder / f"{stem_of(name)}.json"
        except ValueError as error:
            raise CalibrationError(str(error)) from None

    def names(self) -> list[str]:
        """Names of all calibrations, including broken ones, newest first."""
        return [file.removesuffix(".json") for file in self._files()]

    def load(self, name: str) -> Calibration:
        """Reads a calibration.

        Raises:
            CalibrationError: There is no calibration of that name, or it cannot be used.
        """
        path = self.path(name)
        if not os.path.lexists(path):
            there = ", ".join(self.names()) or "none yet"
            raise CalibrationError(f"no calibration {name} in {self.folder}; it holds {there}")
        return Calibration.load(path)

    def calibrations(self) -> dict[Path, Calibration]:
        """All calibrations that can be used, newest first. Warns about each of the others."""
        known, kept, room = _kept.get(self.folder, {}), {}, _ROOM
        found = {}
        for file, state in self._files().items():
            path, before, held = known.get(file) or (self.folder / file, None, "")
            held = held if before == state else _attempt(path)
            room -= state[1] if isinstance(held, Calibration) else 0
            if room >= 0:
                kept[file] = path, state, held
            if isinstance(held, Calibration):
                found[path] = held
            elif os.path.lexists(path):  # otherwise another process has just removed it
                warn_once(path, f"{held}; it was ignored")
        _kept.clear()
        _kept[self.folder] = kept
        return found

    def find(
        self,
        identity: Identity,
        sigmas: Sequence[float] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> list[Found]:
        """The calibrations of a model, best first.

        Only calibrations of the same architecture are returned. Those of the same weights come
        first, then the closest (see `nearness.order`), then the newest. A file without an
        identity is never found; load it by name.

        Args:
            identity: The model, see `identity_of`.
            sigmas: Noise levels of the run.
            settings: What else is known about the run, under the names that calibrations use:
                steps, shift, sampler, cfg, latent. Steps and shift are used if there are no
                `sigmas`.
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
        """The best calibration that is good enough to choose automatically, or None.

        It has a Gram curve, lies within a step of the run, and is not known to be of other
        weights.

        Args:
            identity, sigmas, settings: See `find`.
        """
        for found in self.find(identity, sigmas, settings):
            known = found.calibration.known_as()
            own = known is not None and identity.may_be(known)
            if own and found.calibration.grams and found.distance <= _FARTHEST:
                return found
        return None

    def prepare(self, name: str | None = None) -> None:
        """Checks, before measuring, that the result can be saved (under `name`, if given).

        Raises:
            CalibrationError: `name` is taken or not valid.
            OSError: The folder is not writable.
        """
        with self._locked():
            if name is not None:
                self._new(name)

    def save(self, calibration: Calibration, name: str | None = None) -> Path:
        """Writes a calibration atomically and returns its path.

        Without `name` it is named after its model and settings. It replaces an older calibration
        of the same model and settings if it is at least as good (see
        `nearness.at_least_as_good`); otherwise its name gets a number.

        Raises:
            CalibrationError: `name` is taken or not valid, or the calibration is not valid.
            OSError: The file cannot be written. Older files stay intact.
        """
        with self._locked():
            path = self._free(calibration) if name is None else self._new(name)
            return replace(calibration, name=path.stem).save(path)

    def add(self, calibration: Calibration, text: str) -> Path:
        """Writes a calibration under a name made from `text` and returns its path.

        The name gets a number if another calibration has it.

        Raises:
            CalibrationError: The calibration is not valid.
            OSError: The file cannot be written.
        """
        with self._locked():
            taken = self._taken()
            for name in numbered(plain(text)):
                there, named = taken.get(folded(name)), replace(calibration, name=name)
                if there is None:
                    return named.save(self.path(name))
                if _attempt(there) == named:
                    return there
        raise AssertionError("numbers do not end")

    def import_file(self, path: str | Path) -> Path:
        """Copies a calibration file into the folder, in the current format; returns its path.

        Raises:
            CalibrationError, OSError: See `add`.
        """
        path = Path(path)
        return self.add(Calibration.load(path), path.stem)

    def remove(self, name: str) -> Path:
        """Deletes a calibration, even a broken one, and returns the path it had.

        Raises:
            CalibrationError: There is no calibration of that name.
        """
        path = self.path(name)
        try:
            path.unlink()
        except FileNotFoundError:
            raise CalibrationError(f"no calibration {name} in {self.folder}") from None
        return path

    def _files(self) -> dict[str, State]:
        """The names and states of all files, newest first, without reading them."""
        found: dict[str, State] = {}
        try:
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    if entry.name.endswith(".json") and entry.name[0] != ".":
                        found[entry.name] = _state(entry)
        except FileNotFoundError:
            pass
        except OSError as error:
            warn_once(self.folder, f"calibrations could not be listed: {error}")
        newest = sorted(found, key=lambda file: (-found[file][0], file))
        return {file: found[file] for file in newest if self._is_named(file)}

    def _is_named(self, file: str) -> bool:
        try:
            return bool(stem_of(file))
        except ValueError as error:
            path = self.folder / file
            warn_once(path, f"{str(path)!a} was ignored: {error}; rename it")
            return False

    def _taken(self) -> dict[str, Path]:
        return {folded(name): self.path(name) for name in self.names()}

    def _new(self, name: str) -> Path:
        path = self.path(name)
        if there := self._taken().get(folded(path.stem)):
            alike = "" if there == path else f", the same name as {path.stem} on some systems"
            raise CalibrationError(f"calibration {there.stem} already exists{alike}: {there}")
        return path

    def _free(self, calibration: Calibration) -> Path:
        """A path that is free, or whose calibration this one may replace."""
        taken = self._taken()
        for name in numbered(named_after(calibration)):
            path = taken.get(folded(name))
            if path is None:
                return self.path(name)
            older = _attempt(path)
            if isinstance(older, str):
                continue
            if _same_kind(calibration, older) and at_least_as_good(calibration, older):
                return path
        raise AssertionError("numbers do not end")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / ".lock")
            with lock.acquire(timeout=_PATIENCE, poll_interval=0.01):
                yield
        except OSError as error:
            raise OSError(f"no calibration was saved in {self.folder}: {error}") from error


_KIND = ("steps", "shift", "sampler", "scheduler", "cfg", "latent")


def _same_kind(one: Calibration, other: Calibration) -> bool:
    """Whether both are of the same model and were made with the same settings."""
    made = [[c.settings.get(name) for name in _KIND] for c in (one, other)]
    return one.model == other.model and one.identity == other.identity and made[0] == made[1]


def _state(entry: os.DirEntry[str]) -> State:
    try:
        return state_of(entry.stat())
    except OSError:  # a dangling link
        return 0, 0, 0


def _attempt(path: Path) -> Calibration | str:
    """The calibration in a file, or why it cannot be used."""
    try:
        return Calibration.load(path)
    except CalibrationError as error:
        return str(error)
