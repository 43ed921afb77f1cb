"""Runs that can be killed: before a call of the system, at a moment, or by the test; see :mod:`tests.kill_driver`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Ended(NamedTuple):
    """How a run ended.

    Attributes:
        status: its exit status, or the negative number of its signal.
        calls: calls of the system that change files, if it was not killed.
        seconds: from its start.
    """

    status: int
    calls: int
    seconds: float

    @property
    def is_killed(self) -> bool:
        return self.status in (-signal.SIGKILL, -signal.SIGALRM)


class KillableRuns:
    """Start runs, one at a time, as forks of one process, because scripts take seconds to import.

    Args:
        imports: names of modules that the runs need.
    """

    def __init__(self, *imports: str) -> None:
        self._imports = imports

    def __enter__(self) -> KillableRuns:
        self._home = tempfile.TemporaryDirectory()
        self._driver = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.kill_driver", *self._imports],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        return self

    def __exit__(self, *error: object) -> None:
        self._driver.kill()
        self._driver.communicate()
        self._home.cleanup()

    def start(
        self, target: str, *arguments: object, kill_before: int | None = None, kill_after: float | None = None
    ) -> KillableRun:
        """Start ``module:function`` with a list of arguments.

        Args:
            target: the function.
            arguments: its arguments, as text.
            kill_before: the run is killed before this call of the system that changes a file, counted from 1.
            kill_after: seconds after which it is killed.
        """
        assert self._driver.stdin is not None
        out, err = (os.path.join(self._home.name, name) for name in ("out", "err"))
        order = {
            "target": target,
            "argv": [str(argument) for argument in arguments],
            "kill_before": kill_before,
            "kill_after": kill_after,
            "out": out,
            "err": err,
        }
        self._driver.stdin.write(json.dumps(order) + "\n")
        self._driver.stdin.flush()
        return KillableRun(self._answer("pid")[0], self._answer, Path(err))

    def run(self, target: str, *arguments: object, **kill: Any) -> Ended:
        """Start a run and wait for its end; see :meth:`start`."""
        return self.start(target, *arguments, **kill).wait()

    def errors(self) -> str:
        """Return what the last run wrote to its standard error."""
        return Path(self._home.name, "err").read_text(encoding="utf-8")

    def _answer(self, name: str) -> list[Any]:
        """Read an answer; the end of a run that a failed test did not wait for is passed over."""
        assert self._driver.stdout is not None
        kind, *values = json.loads(self._driver.stdout.readline())
        while name == "pid" and kind == "ended":
            kind, *values = json.loads(self._driver.stdout.readline())
        assert kind == name, values
        return values


class KillableRun:
    """A run that :class:`KillableRuns` has started."""

    def __init__(self, pid: int, answer: Callable[[str], list[Any]], errors: Path) -> None:
        self._pid, self._answer, self._errors = pid, answer, errors

    def wait(self) -> Ended:
        return Ended(*self._answer("ended"))

    def kill(self) -> Ended:
        """Kill the run unless it has just ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        return self.wait()

    def signal_all(self, number: int) -> None:
        """Signal the run and its children, as a terminal does."""
        os.killpg(self._pid, number)

    def children(self) -> list[int]:
        text = "".join(path.read_text() for path in Path(f"/proc/{self._pid}/task").glob("*/children"))
        return [int(word) for word in text.split()]

    def kill_child(self) -> None:
        os.kill(self.children()[0], signal.SIGKILL)

    def errors(self) -> str:
        """Return what it wrote to its standard error."""
        return self._errors.read_text(encoding="utf-8")

    def wait_until(self, done: Callable[[], bool], seconds: float = 120) -> None:
        """Wait until ``done()``, the end of the run, or a timeout."""
        end = time.monotonic() + seconds
        while not done() and time.monotonic() < end and self._is_running():
            time.sleep(0.001)

    def _is_running(self) -> bool:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            return Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        return False
