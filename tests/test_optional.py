"""Packages that are not required: without one, the flag that needs it says how to install it."""

from __future__ import annotations

import ast
import importlib
import sys

import pytest

from src.errors import UserError
from src.utils.optional import import_extra
from tests.conftest import ROOT

REQUIRED_WITH_TORCH = ("torch", "sklearn")


def calls() -> list[tuple[str, str]]:
    """Module and package of every call of import_extra with constant names."""
    found = set()
    for path in [*ROOT.glob("*.py"), *(ROOT / "src").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "import_extra":
                names = [part.value for part in node.args[:2] if isinstance(part, ast.Constant)]
                found |= {tuple(names)} if len(names) == 2 else set()
    return sorted(found)


CALLS = calls()


def test_the_calls_are_found():
    assert {"pyarrow", "pyexiv2", "onnxruntime", "tensorboard", "sentence-transformers"} <= {name for _, name in CALLS}


@pytest.mark.parametrize(("module", "package"), CALLS)
def test_a_missing_package_is_one_line_with_its_install_command(monkeypatch, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"^--flag x: .*; run: pip install {package}$"):
        import_extra(module, package, "--flag x")


@pytest.mark.parametrize("error", [OSError("libssl.so.1: cannot open\nand more"), AttributeError("x"), SystemError()])
def test_a_broken_package_is_one_line_too(monkeypatch, error):
    def broken(name: str) -> None:
        raise error

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(UserError, match=r"^--flag x: onnx is installed but broken \(.+\); run: pip install "):
        import_extra("onnx", "onnx", "--flag x")


def test_packages_of_extras_are_imported_where_they_are_needed_only():
    extras = {module.split(".")[0] for module, _ in CALLS} - set(REQUIRED_WITH_TORCH)
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                assert not {name.split(".")[0] for name in names} & extras, path
