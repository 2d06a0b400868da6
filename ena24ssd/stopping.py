"""Has somebody asked for an end?

Ctrl-C and a system that shuts down or takes a machine away ask a process to end; they do not ask for lost work. While
somebody is `listening`, the first request is noted and work goes on to the next safe point. A second one ends the
process as if nobody were listening.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StoppedError(RuntimeError):
    """Work ended early because somebody asked for it; the message says how to go on."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number


class Request:
    """A request to end, once somebody has made it."""

    signal_number: int | None = None

    def __bool__(self) -> bool:
        return self.signal_number is not None


@contextmanager
def listening() -> Iterator[Request]:
    """Note the first SIGINT or SIGTERM instead of ending on it, and say so on stderr.

    Outside the main thread, where Python gives nobody signals, the request stays empty.
    """
    request = Request()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    before: dict[int, object] = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, _frame: object) -> None:
        request.signal_number = number
        restore()
        words = f"\n{signal.Signals(number).name}: stopping at the next safe point; once more ends at once\n"
        with suppress(OSError):  # not through a stream: the main thread may be in the middle of writing to it
            os.write(2, words.encode())

    try:
        for number in SIGNALS:
            before[number] = signal.getsignal(number)
            signal.signal(number, note)
        yield request
    finally:
        restore()
