"""Recipes: settings of train.py as TOML, so that a table of a paper is one name and every value can be overridden.

    description = "..."
    source = "where the values come from"

    [settings]                  # long flags without dashes
    lr = 2.5e-5
    freeze-backbone = true

    [paths]                     # only in the settings.toml of a run: recorded, not applied
    data = "/data/coco"

``--recipe NAME`` reads recipes/NAME.toml, ``--recipe FILE.toml`` any such file. Every run writes its settings to
``settings.toml`` in its folder; this file is a recipe that gives the same settings again.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from src.config.arguments import ArgumentParser, file_name
from src.errors import UserError, raise_collected
from src.text import printable_json
from src.utils.files import atomic_write

RECIPES = Path(__file__).resolve().parent.parent.parent / "recipes"
_NOT_SETTINGS = ("help", "recipe", "overwrite", "resume")  # flags of a single command
_PATHS = ("data", "metadata")  # paths that the parser keeps as text
SETTINGS_HEAD = 'description = "settings of a run, defaults included"'  # first line of settings.toml
_STARTS = ("auto", "timm", "none")  # values of --model-path that are not files


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of a recipe file.

    Attributes:
        settings: flag without dashes -> value.
        paths: the same for the paths of a run.
        description, source: see above.
    """

    settings: dict[str, Any]
    paths: dict[str, Any] = {}
    description: str = ""
    source: str = ""


def parse_with_recipe(parser: ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line with the settings of its ``--recipe`` as defaults.

    ``--no-FLAG`` switches off a flag that the recipe switches on.

    Args:
        parser: declares ``--recipe``, ``--model-path`` and all flags that a recipe may set.
        argv: the arguments; None takes those of the process.

    Raises:
        UserError: the recipe does not exist or is malformed, has an unknown flag or a path, or a value that the flag
            does not take; or the command line is wrong.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    peek = ArgumentParser(prog=parser.prog, add_help=False)
    peek.add_argument("--recipe", type=file_name)
    peek.add_argument("--model-path")
    given, _ = peek.parse_known_args(arguments)
    if given.recipe is None:
        return parser.parse_args(arguments)
    recipe = read_recipe(given.recipe)
    defaults = _defaults(parser, recipe, given.recipe)
    if "model-path" in recipe.paths and given.model_path is None:
        raise UserError(
            f"--recipe {given.recipe}: its run started from {recipe.paths['model-path']}; give this file, or another "
            "start, with --model-path"
        )
    switches = {f"--no-{_dashed(key)}": key for key, value in recipe.settings.items() if isinstance(value, bool)}
    for argument in arguments:
        if key := switches.get(_dashed(argument)):
            setattr(defaults, key.replace("-", "_"), False)
    return parser.parse_args([argument for argument in arguments if _dashed(argument) not in switches], defaults)


def read_recipe(name_or_file: str) -> Recipe:
    """Read a recipe of the project by its name, or from a file.

    Args:
        name_or_file: a file if it ends with ``.toml`` or contains a folder.

    Raises:
        UserError: it does not exist or is malformed.
    """
    is_file = name_or_file.endswith(".toml") or os.sep in name_or_file
    file = Path(name_or_file) if is_file else RECIPES / f"{name_or_file}.toml"
    if not is_file and not file.is_file():
        names = ", ".join(sorted(path.stem for path in RECIPES.glob("*.toml")))
        raise UserError(f"--recipe {name_or_file}: no such recipe; choose from {names}, or give a .toml file")
    try:
        return msgspec.toml.decode(file.read_text(encoding="utf-8-sig"), type=Recipe)
    except OSError as error:
        raise UserError(f"--recipe {name_or_file}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # not UTF-8, not TOML, or of another form
        raise UserError(f"{file} is no recipe: {error}; see recipes/coco_48_17.toml for the format") from error


def _defaults(parser: ArgumentParser, recipe: Recipe, source: str) -> argparse.Namespace:
    """Parse the settings of a recipe as flags; all mistakes are reported together."""
    actions = {_dashed(name): action for name, action in parser.long_flags().items()}
    namespace = argparse.Namespace()
    problems = []
    parser.checks_needs = False
    for key, value in recipe.settings.items():
        name = _dashed(key)
        action = actions.get(name)
        if action is None:
            similar = difflib.get_close_matches(name, actions, n=1)
            problems.append(f"{key}: no such flag; " + (f"did you mean {similar[0]}?" if similar else "see --help"))
        elif name in _NOT_SETTINGS or _is_path(name, action, value):
            problems.append(f"{key}: does not belong in a recipe; give --{name} on the command line")
        elif isinstance(value, bool) != (action.nargs == 0):
            problems.append(f"{key}: " + ("must be true or false" if action.nargs == 0 else "needs a value"))
        else:
            flag = [f"--{name}"] if value is True else [] if value is False else [f"--{name}={value}"]
            try:
                parser.parse_args(flag, namespace)
            except UserError as error:
                problems.append(str(error))
    parser.checks_needs = True
    raise_collected([f"--recipe {source}: {problem}" for problem in problems])
    return namespace


def _dashed(key: str) -> str:
    return key.replace("_", "-")


def _is_path(name: str, action: argparse.Action, value: object) -> bool:
    return name in _PATHS or action.type is Path or (name == "model-path" and value not in _STARTS)


def effective_settings(parser: ArgumentParser, args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the parsed flags, defaults included, into settings that reproduce the run as a recipe, and paths.

    Args:
        parser: the parser of the flags.
        args: its result; values that the script filled in later, such as ``lr``, are taken as they are now.
    """
    settings: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    for name, action in parser.long_flags().items():
        value = getattr(args, action.dest, None)
        if name in _NOT_SETTINGS or (value is None and action.default is None):
            continue
        target = paths if _is_path(_dashed(name), action, value) else settings
        target[name] = "none" if value is None else str(value) if isinstance(value, Path) else value
    return settings, paths


def write_settings(folder: Path, parser: ArgumentParser, args: argparse.Namespace) -> Path:
    """Write :func:`effective_settings` to ``settings.toml`` in a run folder, as a recipe; returns its path.

    Raises:
        UserError: it cannot be written.
    """
    settings, paths = effective_settings(parser, args)
    source = f"train.py --recipe {args.recipe}" if args.recipe else "train.py"
    file = Path(folder) / "settings.toml"
    with atomic_write(file, "w") as stream:
        stream.write(f"{SETTINGS_HEAD}\nsource = {_toml(source)}\n")
        for title, values in (("[settings]", settings), ("[paths]  # recorded, not applied", paths)):
            stream.write(f"\n{title}\n")
            stream.writelines(f"{name} = {_toml(value)}\n" for name, value in values.items())
    return file


def _toml(value: bool | int | float | str) -> str:
    """Format a value as JSON, which is TOML but for one control character."""
    return printable_json(json.dumps(value, ensure_ascii=False)).replace("\x7f", "\\u007f")
