"""Runs of train.py that can be killed, whose steps are counted in a file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

import train
from src.training import tensorboard
from tests.kill_helpers import Ended, KillableRun, KillableRuns


class _Counting(tensorboard.Logger):
    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def step(self, global_step: int, scalars: Mapping[str, float]) -> None:
        os.pwrite(self._descriptor, b"%12d" % global_step, 0)


def counted(argv: list[str]) -> int:
    """Run train.py; argv begins with the file for the number of steps."""
    descriptor = os.open(argv[0], os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    tensorboard.Logger = lambda *_: _Counting(descriptor)  # type: ignore[misc, assignment]
    return train.main(argv[1:])


class TrainingRuns(KillableRuns):
    """Start runs of train.py, one at a time."""

    def __init__(self, home: Path) -> None:
        super().__init__("tests.training_kills", "src.training.setup", "src.run_report")
        self._counter = home / "steps"

    def begin(self, *arguments: object, kill_before: int | None = None) -> TrainingRun:
        self._counter.unlink(missing_ok=True)
        run = self.start("tests.training_kills:counted", self._counter, *arguments, kill_before=kill_before)
        return TrainingRun(run, self._counter)


class TrainingRun:
    """A run that :class:`TrainingRuns` has started.

    Attributes:
        process: the run.
    """

    def __init__(self, process: KillableRun, counter: Path) -> None:
        self.process, self._counter = process, counter

    def wait(self) -> int:
        """Return the exit status, or the negative number of the signal."""
        return self.process.wait().status

    def kill(self) -> Ended:
        return self.process.kill()

    def steps(self) -> int:
        """Return the number of steps over all epochs; 0 if there was none since the start."""
        return int(self._counter.read_bytes() or 0) if self._counter.exists() else 0

    def wait_for_step(self, step: int) -> None:
        self.process.wait_until(lambda: self.steps() >= step)

    def wait_for_states(self, folder: Path, count: int) -> None:
        """Wait until the run has written so many states."""
        seen: set[int] = set()

        def written() -> bool:
            with contextlib.suppress(FileNotFoundError):
                seen.add((folder / "state.pt").stat().st_mtime_ns)
            return len(seen) > count

        if count:
            self.process.wait_until(written)

    def wait_at_most(self, seconds: float) -> None:
        self.process.wait_until(lambda: False, seconds)
