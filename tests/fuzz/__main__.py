"""Fuzz readers of files: ``python -m tests.fuzz --cases 100000``. Failing inputs are kept for the tests."""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import FlakyFailure

from tests.conftest import ROOT
from tests.fuzz.harness import Target
from tests.fuzz.targets import all_targets

_ADDRESS_SPACE = 8 << 30  # bytes; a bomb ends in a MemoryError, not in a machine that swaps


def fuzz(target: Target, cases: int, number: int) -> str | None:
    """Try mutated files; return what fails first, made as small as hypothesis can, or None."""
    failed: list[tuple[bytes, AssertionError]] = []

    @seed(number)
    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(target.files())
    def attempt(content: bytes) -> None:
        try:
            target.check(content, folder)
        except AssertionError as error:
            failed[:] = [(content, error)]
            raise

    with tempfile.TemporaryDirectory(prefix="sdl-fuzz-") as name:
        folder = Path(name)
        try:
            attempt()
        except (AssertionError, FlakyFailure):
            content, error = failed[0]
            cause = error.__cause__ or error
            where = traceback.extract_tb(cause.__traceback__)[-1]
            return f"{error}\n    at {where.filename}:{where.lineno}\n    kept as {target.keep(content)}"
    return None


def _in_a_child(name: str, cases: int, number: int) -> bool:
    """Fuzz one reader in a process of its own, which may die or hold memory; print the result."""
    command = [sys.executable, "-m", "tests.fuzz", "--cases", str(cases), "--seed", str(number), name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    died = f"{name}: the process ended with status {done.returncode}\n{done.stderr[-2000:]}"
    print(done.stdout.rstrip() if done.returncode in (0, 1) and done.stdout else died, flush=True)
    return done.returncode == 0


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0 if every reader takes or refuses every file within the limits, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=2000, help="files to try, divided among the readers")
    parser.add_argument("--seed", type=int, default=0, help="other files")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="readers that are tried at once")
    parser.add_argument("names", nargs="*", metavar="READER", help="readers to try (default: all)")
    args = parser.parse_args(argv)
    targets = {target.name: target for target in all_targets()}
    if strangers := set(args.names) - targets.keys():
        parser.error(f"no such reader: {', '.join(sorted(strangers))}; there are {', '.join(targets)}")
    names = args.names or list(targets)
    cases = -(-args.cases // len(names))
    if len(names) > 1:
        with ThreadPoolExecutor(args.jobs) as pool:
            return 0 if all(list(pool.map(lambda name: _in_a_child(name, cases, args.seed), names))) else 1
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    failure = fuzz(targets[names[0]], cases, args.seed)
    print(f"{names[0]}: {cases:,} cases, {'ok' if failure is None else failure}")
    return 0 if failure is None else 1


if __name__ == "__main__":
    sys.exit(main())
