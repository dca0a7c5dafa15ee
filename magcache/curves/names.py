"""Names of calibrations, valid as file names on every system, and short descriptions of them."""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from .calibration import Calibration

_MOST = 250  # bytes; file systems allow 255, including ".json"
_KEPT = 200  # bytes of a generated name, which leaves room for a number
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\..*)?", re.I)


def stem_of(name: str) -> str:
    """A calibration's name, without ".json".

    Raises:
        ValueError: It is not a valid name; the message says why.
    """
    stem = name.removesuffix(".json") if isinstance(name, str) else ""
    if reason := _fault(stem):
        raise ValueError(f"{name!r} cannot be the name of a calibration: it {reason}")
    return stem


@lru_cache(1 << 12)  # the names in a folder are checked again and again
def _fault(stem: str) -> str | None:
    if not stem:
        return "is empty"
    if stem[0] == "." or stem[-1] in ". ":
        return "begins with a dot, or ends with a dot or a space"
    if re.search(r'[\0-\x1f\x7f/\\:<>"|?*]', stem):
        return r'holds one of / \ : < > " | ? * or a control character'
    if stem.lower().endswith(".json"):
        return "ends with .json twice"
    if _RESERVED.fullmatch(stem):
        return "is the name of a device on Windows"
    if any(0xD800 <= ord(letter) <= 0xDFFF for letter in stem):  # a lone surrogate
        return "is not valid Unicode"
    if len(stem.encode()) > _MOST:
        return f"is longer than {_MOST} bytes"
    return None


def plain(text: str) -> str:
    """A name made from a text, safe in file systems and on command lines."""
    stem = re.sub(r"[^\w.+-]+", "_", text).lstrip(".").encode()[:_KEPT].decode(errors="ignore")
    while stem.lower().endswith((".json", ".")):
        stem = stem[: stem.rindex(".")]
    return f"{stem}_" if _RESERVED.fullmatch(stem) else stem or "calibration"


def numbered(name: str) -> Iterator[str]:
    """Yields the name, then the name with "-2", "-3" and so on appended."""
    yield name
    for number in range(2, 10**9):
        yield f"{name}-{number}"


def folded(name: str) -> str:
    """A form that is equal for two names that some file systems treat as the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def described(calibration: Calibration) -> str:
    """How it was made, in a few words: "50 steps, shift 3, euler, CFG 3, 2 prompts"."""
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


def named_after(calibration: Calibration) -> str:
    """A name made from a calibration's model and settings."""
    known, made = calibration.known_as(), calibration.settings
    hashed = (known.weights or known.shapes)[:8] if known else "unknown"
    texts = [("{}steps", "steps"), ("shift{}", "shift"), ("{}", "sampler"), ("cfg{}", "cfg")]
    parts = _told(made, texts)
    if calibration.prompts > 1:
        parts.append(f"{calibration.prompts}prompts")
    return plain("-".join([calibration.model, hashed, *parts]))


def _told(made: Mapping[str, Any], texts: Sequence[tuple[str, str]]) -> list[str]:
    """The texts of the settings that are known."""
    known = [(text, made[name]) for text, name in texts if made.get(name) is not None]
    return [text.format(f"{v:g}" if isinstance(v, float) else v) for text, v in known]
