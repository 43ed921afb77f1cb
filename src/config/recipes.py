"""Recipes: flags of train.py as data, so that a table of a paper is one name and every value can be overridden.

    description = "..."
    source = "where the values come from"

    [settings]                  # long flags without dashes
    lr = 2.5e-5
    freeze-backbone = true

    [paths]                     # only in the settings.toml of a run: recorded, not applied
    data = "/data/coco"

``--recipe NAME`` reads recipes/NAME.toml, ``--recipe FILE.toml`` any such file, and the ``settings.toml`` that a run
leaves in its folder is one: it gives the same settings again.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.config.arguments import ArgumentParser
from src.errors import UserError, raise_collected
from src.utils.files import atomic_write

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Value = bool | int | float | str | list[Any]

RECIPES = Path(__file__).resolve().parent.parent.parent / "recipes"
SETTINGS_FILE = "settings.toml"
# Flags that say where things are, though argparse takes them for text, and flags about one run rather than the method.
_PLACES = ("data", "metadata")
_OF_A_RUN = ("help", "recipe", "overwrite", "resume")
# What --model-path may be beside a file; a recipe may say these, and only these.
_STARTS = ("auto", "timm", "none")


@dataclass(frozen=True)
class Recipe:
    """A recipe as its file has it.

    Attributes:
        file: where it was read from.
        settings: flag without dashes -> value.
        paths: the same for paths, which a run records and a recipe does not have.
    """

    file: Path
    settings: Mapping[str, Value]
    paths: Mapping[str, Value] = field(default_factory=dict)


def recipe_names() -> list[str]:
    """The recipes that come with the project."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def parse_with_recipe(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """``parser.parse_args``, with the settings of ``--recipe`` as flags before the user's own, which therefore win.

    A flag without a value that the recipe switches on is taken back by ``--no-FLAG``.

    Args:
        parser: declares ``--recipe`` and all flags that a recipe may set.
        argv: the arguments; None takes those of the process.

    Returns:
        The namespace; ``recipe`` is what was given, or None, and ``recipe_values`` the recipe's settings.

    Raises:
        UserError: there is no such recipe, it is malformed, names a flag that there is not or a path, or has a value
            that the flag does not take.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    given = _peek(arguments, parser.prog)
    if given.recipe is None:
        args = parser.parse_args(arguments)
        args.recipe_values = {}
        return args
    recipe = read_recipe(given.recipe)
    actions = _actions(parser)
    _check(recipe, actions)
    if "model-path" in recipe.paths and given.model_path is None:
        raise UserError(
            f"--recipe {given.recipe}: that run began with {recipe.paths['model-path']}; give it, or another start, "
            "with --model-path"
        )
    arguments, taken_back = _without_taken_back(arguments, recipe, actions)
    kept = {key: value for key, value in recipe.settings.items() if _plain(key) not in taken_back}
    flags = [flag for key, value in kept.items() for flag in _flags(actions[_plain(key)], value)]
    args = parser.parse_args([*flags, *arguments])
    args.recipe_values = dict(recipe.settings)
    return args


def read_recipe(name_or_file: str) -> Recipe:
    """A recipe of the project by name, or any file that ends with ``.toml`` or has a folder in its path.

    Raises:
        UserError: there is none, or it is not of the form above.
    """
    is_file = name_or_file.endswith(".toml") or os.sep in name_or_file
    file = Path(name_or_file) if is_file else RECIPES / f"{name_or_file}.toml"
    if not is_file and name_or_file not in recipe_names():
        raise UserError(
            f"--recipe {name_or_file}: no such recipe; there are {', '.join(recipe_names())}, or give a .toml file"
        )
    try:
        content = tomllib.loads(file.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise UserError(f"--recipe {name_or_file}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # of the decoder of UTF-8 or of TOML
        raise UserError(f"{file}: not TOML ({error}); mend it") from error
    return _recipe(file, content)


def _recipe(file: Path, content: Mapping[str, Any]) -> Recipe:
    """The parts of a recipe's file, each of its kind."""
    kinds = {"description": str, "source": str, "settings": dict, "paths": dict}
    unknown = [key for key in content if key not in kinds]
    if unknown:
        raise UserError(f"{file}: {unknown[0]} stands outside [settings]; settings belong below that line")
    wrong = [key for key, value in content.items() if not isinstance(value, kinds[key])]
    if wrong or "settings" not in content:
        fault = f"{wrong[0]} is no {'table' if kinds[wrong[0]] is dict else 'text'}" if wrong else "has no [settings]"
        raise UserError(f"{file}: {fault}; see recipes/coco_48_17.toml for the form")
    return Recipe(file, content["settings"], content.get("paths", {}))


def _peek(arguments: Sequence[str], prog: str) -> argparse.Namespace:
    """``--recipe`` and ``--model-path`` as given, whatever else there is."""
    peek = ArgumentParser(add_help=False, prog=prog)
    peek.add_argument("--recipe")
    peek.add_argument("--model-path")
    return peek.parse_known_args(arguments)[0]


def _plain(key: str) -> str:
    return key.replace("_", "-")


def _actions(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Long flag without dashes and with ``-`` for ``_`` -> the action."""
    return {
        _plain(option[2:]): action
        for action in parser._actions
        for option in action.option_strings
        if option.startswith("--")
    }


def _is_switch(action: argparse.Action) -> bool:
    return action.nargs == 0


def _is_place(key: str, action: argparse.Action) -> bool:
    return key in _PLACES or action.type is Path


def _check(recipe: Recipe, actions: Mapping[str, argparse.Action]) -> None:
    """Raise :class:`UserError` for every setting that is no flag of the method or has a wrong value."""
    raise_collected([f"{recipe.file}: {fault}" for fault in _faults(recipe, actions)])


def _faults(recipe: Recipe, actions: Mapping[str, argparse.Action]) -> Iterator[str]:
    spelled: dict[str, str] = {}
    for key, value in recipe.settings.items():
        plain = _plain(key)
        action = actions.get(plain)
        if action is None:
            similar = difflib.get_close_matches(plain, actions, n=1)
            yield f"{key}: no such flag" + (f"; did you mean {similar[0]}?" if similar else "; see train.py --help")
        elif plain in _OF_A_RUN or _is_place(plain, action) or (plain == "model-path" and value not in _STARTS):
            yield f"{key} = {_toml(value)}: a recipe is about the method; give --{plain} on the command line instead"
        elif spelled.setdefault(plain, key) != key:
            yield f"{key}: the same flag as {spelled[plain]}; keep one of them"
        else:
            fault = _value_fault(action, value)
            if fault:
                yield f"{key} = {_toml(value)}: {fault}"


def _value_fault(action: argparse.Action, value: Value) -> str | None:
    """What is wrong with a value, or None."""
    if _is_switch(action) or isinstance(value, bool):
        fits = _is_switch(action) and isinstance(value, bool)
        return None if fits else ("is a switch: true or false" if _is_switch(action) else "takes a value, not a switch")
    if not isinstance(value, (str, int, float, list)):
        return "is no number and no text"
    if isinstance(value, list) and not isinstance(action, argparse._AppendAction):
        return "takes one value, not a list"
    for item in value if isinstance(value, list) else [value]:
        try:
            read = str(item) if action.type is None else action.type(str(item))  # type: ignore[operator]
        except argparse.ArgumentTypeError as error:
            return str(error)
        except ValueError:
            return f"is no {getattr(action.type, '__name__', 'value of it')}"
        if action.choices is not None and read not in action.choices:
            return f"must be one of {', '.join(map(str, action.choices))}"
    return None


def _flags(action: argparse.Action, value: Value) -> list[str]:
    """A setting as arguments: true is the bare flag, false nothing, a list the flag repeated."""
    option = next(option for option in action.option_strings if option.startswith("--"))
    if isinstance(value, bool):
        return [option] if value else []
    return [f"{option}={item}" for item in (value if isinstance(value, list) else [value])]


def _without_taken_back(
    arguments: Sequence[str], recipe: Recipe, actions: Mapping[str, argparse.Action]
) -> tuple[list[str], set[str]]:
    """The arguments without ``--no-FLAG`` for the recipe's switches, and those switches."""
    switches = {f"--no-{_plain(key)}": _plain(key) for key in recipe.settings if _is_switch(actions[_plain(key)])}
    end = arguments.index("--") if "--" in arguments else len(arguments)  # what follows is no flag
    taken_back = {switches[plain] for plain in map(_plain, arguments[:end]) if plain in switches}
    kept = [argument for argument in arguments[:end] if _plain(argument) not in switches]
    return [*kept, *arguments[end:]], taken_back


def effective_settings(
    parser: argparse.ArgumentParser, args: argparse.Namespace
) -> tuple[dict[str, Value], dict[str, Value]]:
    """What a run was made with, defaults included: (settings that make it again as a recipe, paths).

    Args:
        parser: the parser of the flags.
        args: what it parsed; values that the program filled in later, such as ``lr``, count as they are now.
    """
    settings: dict[str, Value] = {}
    paths: dict[str, Value] = {}
    for action in parser._actions:
        option = next((option for option in action.option_strings if option.startswith("--")), None)
        key = "" if option is None else option[2:]
        if option is None or key in _OF_A_RUN:
            continue
        value = getattr(args, action.dest)
        is_place = _is_place(_plain(key), action) or (_plain(key) == "model-path" and value not in _STARTS)
        if value is None and action.default is None:
            continue  # as if the flag had been left out
        target = paths if is_place else settings
        target[key] = "none" if value is None else str(value) if isinstance(value, Path) else value
    return settings, paths


def write_settings(folder: Path, parser: argparse.ArgumentParser, args: argparse.Namespace) -> Path:
    """Write :func:`effective_settings` to ``settings.toml`` in the folder of a run, a recipe: the file.

    Raises:
        UserError: it cannot be written.
    """
    settings, paths = effective_settings(parser, args)
    recipe = getattr(args, "recipe", None)
    lines = [
        f"description = {_toml('the settings of a run, defaults included')}",
        f"source = {_toml('train.py' + (f' --recipe {recipe}' if recipe else ''))}",
        "",
        "[settings]",
        *(f"{key} = {_toml(value)}" for key, value in settings.items()),
        "",
        "[paths]  # recorded, not applied: give them again",
        *(f"{key} = {_toml(value)}" for key, value in paths.items()),
    ]
    file = Path(folder) / SETTINGS_FILE
    with atomic_write(file, "w") as stream:
        stream.writelines(f"{line}\n" for line in lines)
    return file


def _toml(value: Any) -> str:
    """A value of TOML: the strings of JSON are strings of TOML, but for one control character."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, (int, float)):
        return repr(value)
    text = str(value).encode("utf-8", "replace").decode()  # a path may hold bytes that are no text
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
