"""Stop a run after its current step on Ctrl-C, or on the SIGTERM of a cluster."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from src.utils.ranks import is_other_rank


class StoppedBySignalError(Exception):
    """A signal has stopped the run; its state is saved.

    Attributes:
        status: exit status by convention: 130 for Ctrl-C, 143 for SIGTERM.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.status = 128 + signal_number


class StopRequest:
    """Request to stop the run.

    Attributes:
        signal_number: the signal that was received, or 0.
    """

    def __init__(self) -> None:
        self.signal_number = 0

    def check(self) -> None:
        """Raise :class:`StoppedBySignalError` if a stop was requested; for places where there is nothing to save."""
        if self.signal_number:
            raise StoppedBySignalError(self.signal_number)

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: the first one requests a stop, the second one stops at once."""
        if self.signal_number:
            raise KeyboardInterrupt
        self.signal_number = number
        if is_other_rank():
            return  # torchrun passes signals on to all processes
        with suppress(RuntimeError):  # the signal interrupted another print
            print("\nstopping after this step; interrupt again to stop at once", file=sys.stderr, flush=True)


@contextmanager
def listening() -> Iterator[StopRequest]:
    """Record SIGINT and SIGTERM within the block instead of interrupting a step, which would leave weights half moved.

    Does nothing outside the main thread, the only one to receive signals.
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
