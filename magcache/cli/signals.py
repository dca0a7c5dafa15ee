"""Turns Ctrl+C and other requests to end into an exception, so that a command can clean up."""

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
_PATIENCE = 10.0  # seconds in which a command can clean up undisturbed


class Ended(KeyboardInterrupt):
    """A signal told the command to end.

    Attributes:
        number: Number of the signal.
        kept: Tells the user which finished work is kept; "" if none is.
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
    """Within this context, signals that end the process raise `Ended` in the main thread.

    A closed terminal or an impatient user sends several signals. Those that follow within seconds
    do not disturb the clean-up. Signals that the parent process ignores (nohup) stay ignored.
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
