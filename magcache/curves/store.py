"""Where calibrations live, and how the right one is found again."""

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

_FARTHEST = 1.0  # steps; a calibration farther from a run is not taken by itself
_PATIENCE = 30  # seconds to wait for another process that is writing
_ROOM = 1 << 26  # bytes of files that are kept in memory, which takes about twice that
_kept: dict[Path, dict[str, tuple[Path, State, Calibration | str]]] = {}
"""What the files of the latest folder hold, or why they cannot be used, for as long as they are
unchanged."""


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
            CalibrationError: No file can have that name, see `names.stem_of`.
        """
        try:
            return self.folder / f"{stem_of(name)}.json"
        except ValueError as error:
            raise CalibrationError(str(error)) from None

    def names(self) -> list[str]:
        """Names of all calibrations, broken ones too, the newest first."""
        return [file.removesuffix(".json") for file in self._files()]

    def load(self, name: str) -> Calibration:
        """Reads a calibration.

        Raises:
            CalibrationError: There is none of that name, or it cannot be used.
        """
        path = self.path(name)
        if not os.path.lexists(path):
            there = ", ".join(self.names()) or "none yet"
            raise CalibrationError(f"no calibration {name} in {self.folder}; there is {there}")
        return Calibration.load(path)

    def calibrations(self) -> dict[Path, Calibration]:
        """All calibrations that can be used, the newest first; of each other one a warning."""
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
            elif os.path.lexists(path):  # else another process has just removed it
                warn_once(path, f"{held}; it is left out")
        _kept.clear()
        _kept[self.folder] = kept
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

    def prepare(self, name: str | None = None) -> None:
        """Makes sure, before a measurement, that it can be saved, by this name if one is given.

        Raises:
            CalibrationError: `name` is taken, or is no name.
            OSError: The folder cannot be written.
        """
        with self._locked():
            if name is not None:
                self._new(name)

    def save(self, calibration: Calibration, name: str | None = None) -> Path:
        """Writes a calibration in one move; the path that it then has.

        Without `name` it is named after model and settings. It replaces an older one of the same
        model and settings that it is at least as good as (see `nearness.at_least_as_good`), else
        it is put beside it under a number.

        Raises:
            CalibrationError: `name` is taken or is no name, or the calibration cannot be used.
            OSError: The file cannot be written; older ones are as they were.
        """
        with self._locked():
            path = self._free(calibration) if name is None else self._new(name)
            return replace(calibration, name=path.stem).save(path)

    def add(self, calibration: Calibration, text: str) -> Path:
        """Writes a calibration under a name made of `text`; the path that it then has.

        The name gets a number where another calibration has it.

        Raises:
            CalibrationError: The calibration cannot be used.
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
        """Copies a calibration from elsewhere, in today's format; the path that it then has.

        Raises:
            CalibrationError, OSError: See `add`.
        """
        path = Path(path)
        return self.add(Calibration.load(path), path.stem)

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

    def _files(self) -> dict[str, State]:
        """The names of all files and their states, the newest first, whatever they hold."""
        found: dict[str, State] = {}
        try:
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    if entry.name.endswith(".json") and entry.name[0] != ".":
                        found[entry.name] = _state(entry)
        except FileNotFoundError:
            pass
        except OSError as error:
            warn_once(self.folder, f"calibrations are left out: {error}")
        newest = sorted(found, key=lambda file: (-found[file][0], file))
        return {file: found[file] for file in newest if self._is_named(file)}

    def _is_named(self, file: str) -> bool:
        try:
            return bool(stem_of(file))
        except ValueError as error:
            path = self.folder / file
            warn_once(path, f"{str(path)!a} is left out, rename it: {error}")
            return False

    def _taken(self) -> dict[str, Path]:
        return {folded(name): self.path(name) for name in self.names()}

    def _new(self, name: str) -> Path:
        path = self.path(name)
        if there := self._taken().get(folded(path.stem)):
            alike = "" if there == path else f", which some systems do not tell from {path.stem}"
            raise CalibrationError(f"there is a calibration {there.stem} already{alike}: {there}")
        return path

    def _free(self, calibration: Calibration) -> Path:
        """A path that is not taken, or is by one that this calibration may replace."""
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
            raise OSError(f"no calibration was written to {self.folder}: {error}") from error


_KIND = ("steps", "shift", "sampler", "scheduler", "cfg", "latent")


def _same_kind(one: Calibration, other: Calibration) -> bool:
    """Whether both are of one model, made with the same settings."""
    made = [[c.settings.get(name) for name in _KIND] for c in (one, other)]
    return one.model == other.model and one.identity == other.identity and made[0] == made[1]


def _state(entry: os.DirEntry[str]) -> State:
    try:
        return state_of(entry.stat())
    except OSError:  # a link that leads nowhere
        return 0, 0, 0


def _attempt(path: Path) -> Calibration | str:
    """The file's calibration, or why it cannot be used."""
    try:
        return Calibration.load(path)
    except CalibrationError as error:
        return str(error)
