"""Ctrl-C and the signal of a cluster that wants its machine back: a run ends after the step that it is in."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType


class StoppedBySignalError(Exception):
    """The run was asked to end; all that it needs to go on is saved.

    Attributes:
        status: the exit status that shells have for it: 130 after Ctrl-C, 143 after SIGTERM.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.status = 128 + signal_number


class StopRequest:
    """Whether the run was asked to end.

    Attributes:
        signal_number: the signal, or 0.
    """

    def __init__(self) -> None:
        self.signal_number = 0

    def receive(self, number: int, frame: FrameType | None) -> None:
        """A signal handler: the first Ctrl-C asks, the second ends the run where it is."""
        if self.signal_number:
            raise KeyboardInterrupt
        self.signal_number = number
        with suppress(RuntimeError):  # the signal came while something else was being printed
            print("\nstopping after this step; once more to stop at once", file=sys.stderr, flush=True)


@contextmanager
def listening() -> Iterator[StopRequest]:
    """Within it SIGINT and SIGTERM only set a mark, since a step that is cut in two would leave weights half moved.

    Outside the main thread, which alone receives signals, nothing changes.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request.receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
