"""Runs that are killed before a call of the system, as forks of one process, which is faster than new processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent  # the driver imports this file: without tests.conftest and its torch
# The driver itself computes nothing: threads of PyTorch do not survive a fork.
_DRIVER = """
import importlib, json, os, signal, sys

CALLS = ("chmod", "close", "dup", "fsync", "lseek", "mkdir", "open", "replace", "unlink", "write")

def watch(name, moment, count):
    original = getattr(os, name)
    def watched(*arguments, **options):
        count[0] += 1
        if count[0] == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)
    setattr(os, name, watched)

module, *_ = map(importlib.import_module, sys.argv[1:])
for line in sys.stdin:
    argv, moment = json.loads(line)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        count, write = [0], os.write
        for name in CALLS:
            watch(name, moment, count)
        status = module.main(argv)
        sys.stdout.flush()
        write(writer, b"%d" % count[0])
        os._exit(status)
    os.close(writer)
    with open(reader) as pipe:
        calls = pipe.read()
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), int(calls or 0)]), flush=True)
"""


class Ended(NamedTuple):
    """The exit status of a run, or the negative number of its signal, and the calls of the system that it made."""

    status: int
    calls: int


class KilledRuns:
    """Start runs of a module's ``main``, one at a time.

    Args:
        module: its name.
        imports: names of modules that its ``main`` imports, which takes time.
    """

    def __init__(self, module: str, *imports: str) -> None:
        self._modules = (module, *imports)

    def __enter__(self) -> KilledRuns:
        self._driver = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _DRIVER, *self._modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env={"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )
        return self

    def __exit__(self, *error: object) -> None:
        self._driver.kill()
        self._driver.communicate()

    def run(self, *arguments: object, kill_before: int = -1) -> Ended:
        """Run ``main`` with arguments; it is killed before its ``kill_before``-th call of the system."""
        assert self._driver.stdin is not None
        assert self._driver.stdout is not None
        self._driver.stdin.write(json.dumps([[str(argument) for argument in arguments], kill_before]) + "\n")
        self._driver.stdin.flush()
        return Ended(*json.loads(self._driver.stdout.readline()))


def write_file(argv: list[str]) -> int:
    """Write ``new`` to a file, recorded in the manifest of a folder: argv is (folder, file)."""
    from src.utils.files import atomic_write
    from src.utils.manifest import Manifest

    folder, path = argv
    with Manifest(Path(folder)).recording(), atomic_write(path) as stream:
        stream.write(b"new")
    return 0


main = write_file
