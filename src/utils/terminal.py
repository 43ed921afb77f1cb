"""Standard streams that cannot fail a run in odd ways, warnings on one line, and signals."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from types import FrameType
from typing import Any

from src.errors import first_line
from src.text import PRINTABLE, on_stream

_received: list[int] = []


class OutputError(Exception):
    """Standard output cannot be written; no OSError, so that nobody takes it for one of a file being written."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(cause.strerror)
        self.errno, self.strerror = cause.errno, cause.strerror


@contextlib.contextmanager
def guarded_terminal() -> Iterator[None]:
    """Guard standard streams, warnings and signals within the block.

    - Output that fails raises :class:`OutputError`, once; standard error that fails is dropped.
    - What an encoding does not hold is escaped. Closed streams are those of the null device.
    - A warning is one line, once; SIGTERM ends the program like Ctrl-C.
    """
    _guard_streams()
    del _received[:]
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.showwarning = _Warnings()
        stack.callback(setattr, sys, "unraisablehook", sys.unraisablehook)
        sys.unraisablehook = _send_interrupt_again(sys.unraisablehook)
        if threading.current_thread() is threading.main_thread():
            for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
                if (before := signal.getsignal(number)) is default:  # else ignored, or somebody else's
                    signal.signal(number, _receive)
                    stack.callback(signal.signal, number, before)
        yield


def signal_received() -> int:
    """Return the number of the signal that came within :func:`guarded_terminal`: of Ctrl-C, of SIGTERM, or 0."""
    return _received[-1] if _received else 0


def _receive(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    if getattr(getattr(sys.modules.get("torch"), "__spec__", None), "_initializing", False):
        _send_again()  # an exception within the C++ code of PyTorch's import would abort the process
        return
    raise KeyboardInterrupt


def _send_again() -> None:
    threading.Timer(0.05, os.kill, (os.getpid(), signal_received() or signal.SIGINT)).start()


def _send_interrupt_again(hook: Any) -> Any:
    """Return a hook for exceptions that Python has to drop: Ctrl-C in a destructor must not be lost."""

    def send(dropped: Any) -> None:
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            _send_again()
        else:
            hook(dropped)

    return send


class _Warnings:
    """Prints each text of a library's warnings once, on one line."""

    def __init__(self) -> None:
        self._shown: set[str] = set()

    def __call__(self, message: Warning | str, *where: object, **more: object) -> None:
        text = first_line(message) if isinstance(message, Warning) else message
        if text not in self._shown:
            self._shown.add(text)
            print(f"warning: {text}", file=sys.stderr)


class _Raw(io.FileIO):
    """A standard stream that reports at most one failure."""

    def __init__(self, descriptor: int, *, may_fail: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._may_fail, self._has_failed = may_fail, False

    def write(self, data: Any) -> int:
        """Write; after a failure nothing is written any more, not even at the interpreter's end."""
        if not self._has_failed:
            try:
                return super().write(data)
            except OSError as error:
                self._has_failed = True
                if self._may_fail:
                    raise OutputError(error) from error
        return len(data)


class _Text(io.TextIOWrapper):
    """A standard stream on which no name or tag steers the terminal, whoever prints it."""

    def write(self, text: str) -> int:
        """Write the text with escapes."""
        super().write(on_stream(text))
        return len(text)


def _guard_streams() -> None:
    """Replace the process's own streams; those that a caller has put in their place keep their form."""
    for descriptor in (0, 1, 2):  # a closed one would be given to the next file that is opened
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 -- the process's own
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None or (stream is getattr(sys, f"__{name}__") and stream.fileno() == descriptor):
            setattr(sys, name, _guarded(stream, descriptor))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=PRINTABLE)
    if isinstance(sys.stdin, io.TextIOWrapper):
        with contextlib.suppress(io.UnsupportedOperation):  # somebody has read from it
            sys.stdin.reconfigure(errors="surrogateescape")  # names need not be UTF-8


def _guarded(stream: Any, descriptor: int) -> io.TextIOWrapper:
    if stream is not None:
        with contextlib.suppress(OSError):
            stream.flush()
    raw = _Raw(descriptor, may_fail=descriptor == 1)
    return _Text(
        io.BufferedWriter(raw),
        encoding=getattr(stream, "encoding", "utf-8"),
        errors=PRINTABLE,
        line_buffering=getattr(stream, "line_buffering", True),
        write_through=getattr(stream, "write_through", False),
    )
