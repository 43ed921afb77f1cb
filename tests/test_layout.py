"""Structure of the code: imports in one direction, short ways to the equation, and a start without PyTorch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import deque
from pathlib import Path

import pytest

from tests.conftest import ROOT

# From top to bottom: a room imports only from rooms below it.
ROOMS = (
    ("train", "validate", "infer", "export", "prepare_data"),
    ("training", "validation"),
    ("run_report", "inference"),
    ("visualize",),
    ("exported",),
    ("checkpoint", "prepare"),
    ("evaluation", "calibration", "word_vectors", "embedding"),
    ("data", "config"),
    ("metrics", "models", "loss_functions", "tags"),
    ("utils",),
    ("scoring", "options", "errors"),
    ("text",),
)
LEVEL = {room: level for level, rooms in enumerate(reversed(ROOMS)) for room in rooms}
SCRIPTS = ("train", "validate", "infer", "export", "prepare_data")


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in [*ROOT.glob("src/**/*.py"), *(ROOT / f"{name}.py" for name in SCRIPTS)]}


def imports_of(module: str) -> set[str]:
    """Return the project's modules that a module imports anywhere, within functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return (found & MODULES.keys()) - {module, "src"}


def room_of(module: str) -> str:
    return module.removeprefix("src.").split(".")[0]


def test_rooms_import_only_from_rooms_below_them():
    upwards = [
        f"{module} imports {imported}"
        for module in sorted(MODULES)
        if module != "src"
        for imported in sorted(imports_of(module))
        if room_of(module) != room_of(imported) and LEVEL[room_of(module)] <= LEVEL[room_of(imported)]
    ]
    assert upwards == []


def test_modules_of_a_room_do_not_import_each_other_in_a_circle():
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, f"circle: {' -> '.join((*way[way.index(module) :], module))}"
        if module not in done:
            for imported in imports_of(module):
                visit(imported, (*way, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


@pytest.mark.parametrize(
    ("script", "target"),
    [("train", "src.loss_functions.SDL_loss"), ("infer", "src.scoring"), ("validate", "src.scoring")],
)
def test_the_method_is_at_most_four_files_from_a_script(script: str, target: str):
    ways = deque([(script,)])
    while ways:
        way = ways.popleft()
        if way[-1] == target:
            assert len(way) <= 4, way
            return
        ways.extend((*way, imported) for imported in imports_of(way[-1]) if imported not in way)
    pytest.fail(f"{script} does not reach {target}")


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_imports_neither_torch_nor_numpy(script: str):
    code = (
        f"import sys, {script}\n"
        f"try: {script}.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(*{'torch', 'timm', 'numpy', 'matplotlib'} & sys.modules.keys(), file=sys.stderr)"
    )
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert finished.stdout.startswith("usage: ")
    assert finished.stderr.strip() == ""
