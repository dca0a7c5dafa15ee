"""Ctrl+C and other requests to end, as an exception that lets a command clear up."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_NAMES = {
    "SIGINT": "Ctrl+C",
    "SIGTERM": "SIGTERM",
    "SIGHUP": "SIGHUP, its terminal was closed",
    "SIGBREAK": "Ctrl+Break",  # Windows, which has no SIGHUP
}
_PATIENCE = 10.0  # seconds in which a command clears up undisturbed


class Ended(KeyboardInterrupt):
    """The command was told to end.

    Attributes:
        number: The signal's.
        kept: What was finished by then and is kept, for the user; "" if nothing is.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.kept = ""

    @property
    def status(self) -> int:
        """The exit status that shells expect."""
        return 128 + self.number

    def __str__(self) -> str:
        return f"ended by {_NAMES[signal.Signals(self.number).name]}"


@contextmanager
def raised_as_ended() -> Iterator[None]:
    """Within this, signals that ask the process to end raise `Ended` in the main thread.

    A closed terminal or an impatient user sends several: others that follow within seconds do
    not disturb the clearing up. Signals that the parent has set to be ignored (nohup) stay so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    since = -_PATIENCE

    def end(number: int, _frame: Any) -> None:
        nonlocal since
        if time.monotonic() - since > _PATIENCE:
            since = time.monotonic()
            raise Ended(number)

    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    before = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) is not signal.SIG_IGN}
    try:
        for number in before:
            signal.signal(number, end)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
