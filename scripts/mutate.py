#!/usr/bin/env python3
"""Plant chosen mistakes in the code, one at a time, and check that the tests catch each.

scripts/mutations.toml lists them: a sign, an axis, an order, a K, a protocol, a flag that is ignored. Every mistake is
made in a copy of the project and must fail the tests listed beside it; those tests pass without it. The exit status is
1 if a mistake survives, 2 if the list no longer fits the code.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
LIST = Path(__file__).with_name("mutations.toml")
LIMIT = 600  # seconds for the tests of one mutation: an endless loop counts as caught


@dataclass(frozen=True)
class Mutation:
    """A mistake.

    Attributes:
        name: what is wrong, in a few words.
        file: the file, relative to the project.
        find: text that occurs once in the file.
        replace: the text that takes its place.
        tests: arguments of pytest; at least one of these tests must fail.
    """

    name: str
    file: str
    find: str
    replace: str
    tests: tuple[str, ...]

    def problem(self, root: Path) -> str | None:
        """Return why the mutation does not fit the code below ``root``, or None."""
        path = root / self.file
        if not path.is_file():
            return f"no file {self.file}"
        count = path.read_text(encoding="utf-8").count(self.find)
        if count != 1:
            return f"{self.file} has the text {count} times, not once: {self.find!r}"
        missing = [test for test in self.tests if not (root / test.partition("::")[0]).exists()]
        return f"no test {', '.join(missing)}" if missing else None


def read_mutations(path: Path = LIST) -> list[Mutation]:
    """Read the list; a file's table gives the tests of its mutations unless they name their own."""
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    return [
        Mutation(name, group["file"], entry["find"], entry["replace"], tuple(entry.get("tests", group["tests"])))
        for group in content["group"]
        for name, entry in group["mutations"].items()
    ]


def copy_project(target: Path) -> None:
    """Copy the files that git knows or would add, as they are now; ignored ones have no part in the tests."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in os.fsdecode(listed.stdout).split("\0"):
        source = ROOT / name
        if name and source.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)


def run_tests(project: Path, tests: Sequence[str]) -> bool:
    """Return whether these tests pass in a copy of the project."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, cwd=project, env=environment, capture_output=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return False
    if done.returncode not in (0, 1, 2):  # 2: a module of tests cannot be imported, which is caught too
        raise SystemExit(f"mutate.py: pytest ends with status {done.returncode}: {' '.join(command)}")
    return done.returncode == 0


def is_caught(mutation: Mutation, project: Path) -> bool:
    """Make the mistake in a copy of the project, run its tests, and take it back."""
    path = project / mutation.file
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole.replace(mutation.find, mutation.replace), encoding="utf-8")
    try:
        return not run_tests(project, mutation.tests)
    finally:
        path.write_text(whole, encoding="utf-8")


def survivors(mutations: Iterable[Mutation], jobs: int) -> list[Mutation]:
    """Try all mutations in ``jobs`` copies of the project, and return those that no test catches."""
    with tempfile.TemporaryDirectory(prefix="sdl-mutate-") as folder:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(jobs):
            copy_project(Path(folder, str(number)))
            copies.put(Path(folder, str(number)))

        def attempt(mutation: Mutation) -> bool:
            project = copies.get()
            try:
                caught = is_caught(mutation, project)
            finally:
                copies.put(project)
            print(f"{'caught  ' if caught else 'SURVIVED'}  {mutation.file}: {mutation.name}", flush=True)
            return caught

        listed = list(mutations)
        with ThreadPoolExecutor(jobs) as pool:
            return [one for one, caught in zip(listed, pool.map(attempt, listed), strict=True) if not caught]


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0 if all mutations are caught, 1 if one survives, 2 if the list does not fit the code."""
    parser = argparse.ArgumentParser(prog="mutate.py", description=__doc__.partition("\n")[0])
    parser.add_argument("words", nargs="*", help="try only mutations whose file or name contains one of these")
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count() or 1, help="copies that are tested at once")
    parser.add_argument("--check", action="store_true", help="only check that the list fits the code")
    args = parser.parse_args(argv)
    mutations = [
        one
        for one in read_mutations()
        if not args.words or any(word in f"{one.file} {one.name}" for word in args.words)
    ]
    problems = [f"{one.name}: {problem}" for one in mutations if (problem := one.problem(ROOT))]
    if problems:
        print("\n".join(problems), file=sys.stderr)
        return 2
    if args.check:
        print(f"{len(mutations)} mutations fit the code")
        return 0
    alive = survivors(mutations, max(1, args.jobs))
    print(f"{len(mutations) - len(alive)} of {len(mutations)} mutations caught")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
