"""Run functions in forks of this process, which has imported what they need; a fork may be told to die on its way.

``python -m tests.kill_driver MODULE...`` imports modules, then reads one order a line, and answers with the number of
the process when it has started, and with its status, calls and seconds when it has ended. This process computes
nothing itself: threads of PyTorch do not survive a fork.
"""

from __future__ import annotations

import _pyio
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

# Audit events of calls that change files; Python announces them whichever library makes them
_EVENTS = {
    "os.chmod", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate", "os.utime"
}  # fmt: skip
# Calls without such an event
_PATCHED = ("fsync", "pwrite", "sendfile", "write")


def _watch(last: int | None) -> Callable[[], int]:
    """Count the calls that change files from now on, and die before the last one; returns a reader of the count."""
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1
        if calls == last:
            os.kill(os.getpid(), signal.SIGKILL)

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        is_change = event in _EVENTS or (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        )
        if is_change:
            count()

    def counted(original: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            count()
            return original(*arguments, **options)

        return call

    for name in _PATCHED:
        if hasattr(os, name):
            setattr(os, name, counted(getattr(os, name)))
    # Files in Python instead of C, which call the functions above
    os.fdopen = _pyio.open  # type: ignore[assignment]
    io.FileIO = _pyio.FileIO  # type: ignore[misc, assignment]
    sys.addaudithook(hear)
    return lambda: calls


def _run(order: dict[str, Any], counts: int) -> None:
    os.setpgid(0, 0)  # a signal to all processes of the run
    for number, name in ((0, os.devnull), (1, order["out"]), (2, order["err"])):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666), number)
    module, _, function = order["target"].partition(":")
    run, write, calls = getattr(import_module(module), function), os.write, _watch(order["kill_before"])
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # which kills the process as SIGKILL does, and nothing waits for it
    signal.setitimer(signal.ITIMER_REAL, order["kill_after"] or 0)
    status = run(order["argv"])
    signal.setitimer(signal.ITIMER_REAL, 0)
    sys.stdout.flush()
    sys.stderr.flush()
    write(counts, b"%d" % calls())
    os._exit(status)


def main() -> None:
    """Carry out orders until there are no more."""
    for name in sys.argv[1:]:
        import_module(name)
    for line in sys.stdin:
        order = json.loads(line)
        reader, writer = os.pipe()
        started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            try:
                _run(order, writer)
            finally:
                os._exit(70)
        print(json.dumps(["pid", pid]), flush=True)
        os.close(writer)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with open(reader) as pipe:
            calls = pipe.read()
        print(json.dumps(["ended", status, int(calls or 0), time.monotonic() - started]), flush=True)


if __name__ == "__main__":
    main()
