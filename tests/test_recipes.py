"""Recipes: those of the project, flags that override them, the settings that a run writes, and error messages."""

import argparse
import itertools
from pathlib import Path

import pytest

from src.config.arguments import ArgumentParser, positive_float, positive_int
from src.config.recipes import effective_settings, parse_with_recipe, read_recipe, write_settings
from src.config.train_flags import train_parser
from src.errors import UserError

NAMES = ("coco_48_17", "coco_small", "corel5k", "nus_wide", "open_images")


def parse(*arguments: object) -> argparse.Namespace:
    return parse_with_recipe(train_parser(None), [str(argument) for argument in arguments])


def small_parser() -> ArgumentParser:
    """One flag of each kind."""
    parser = ArgumentParser(prog="small.py")
    parser.add_argument("--recipe")
    parser.add_argument("--lr", type=positive_float, default=1.0)
    parser.add_argument("-n", "--num_rows", type=positive_int)
    parser.add_argument("--level", type=int, default=3)
    parser.add_argument("--mode", choices=("slow", "fast"), default="slow")
    parser.add_argument("--share", type=lambda text: None if text == "none" else float(text), default=0.5)
    parser.add_argument("--frozen", action="store_true")
    parser.add_argument("--wide", action="store_true")
    parser.add_argument("--data")
    parser.add_argument("--model-path", default="auto")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--overwrite", action="store_true")
    return parser


def small(*arguments: object) -> argparse.Namespace:
    return parse_with_recipe(small_parser(), [str(argument) for argument in arguments])


@pytest.fixture
def write(tmp_path):
    made = itertools.count()

    def file(settings: str, head: str = "") -> Path:
        path = tmp_path / f"own{next(made)}.toml"
        path.write_text(f"{head}\n[settings]\n{settings}\n", encoding="utf-8")
        return path

    return file


def message(*arguments: object) -> str:
    with pytest.raises(UserError) as caught:
        small(*arguments)
    return str(caught.value)


# Recipes of the project


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_parsed(name):
    recipe = read_recipe(name)
    args = parse("--recipe", name)
    assert args.recipe == name
    for key, value in recipe.settings.items():
        assert getattr(args, key.replace("-", "_")) == value, key
    assert not recipe.paths


def test_coco_recipe_is_the_released_script():
    args = parse("--recipe", "coco_48_17")
    found = (args.lr, args.weight_decay, args.num_epochs, args.batch_size, args.num_rows, args.var_weight)
    assert found == (2.5e-5, 3e-4, 10, 32, 2, 0.01)
    assert (args.schedule, args.warm_up, args.optimizer, args.cutout) == ("one_cycle", 0.1, "adam", 0.5)
    plain = parse()
    differ = {key for key, value in vars(args).items() if value != getattr(plain, key) and key != "recipe"}
    assert differ == {"model_name", "image_size", "num_rows", "lr"}  # the flags' own defaults are that script's too


# Overriding


def test_flags_win_in_any_order(write):
    file = write("lr = 0.5\nnum_rows = 7\nmode = 'fast'")
    for arguments in (("--lr", 2, "--recipe", file), ("--recipe", file, "--lr=2"), (f"--recipe={file}", "--lr", 2)):
        args = small(*arguments)
        assert (args.lr, args.num_rows, args.mode) == (2, 7, "fast")
        assert args.recipe == str(file)


def test_both_spellings(write):
    assert small("--recipe", write("num-rows = 7")).num_rows == 7
    assert small("--recipe", write("num_rows = 7"), "--num-rows", 8).num_rows == 8
    assert small("--recipe", write("num_rows = 7"), "-n", 9).num_rows == 9


def test_switches(write):
    assert small("--recipe", write("frozen = true")).frozen
    assert not small("--recipe", write("frozen = false")).frozen
    assert small("--recipe", write("frozen = false"), "--frozen").frozen
    file = write("frozen = true\nwide = true")
    args = small("--no-frozen", "--recipe", file)
    assert (args.frozen, args.wide) == (False, True)
    with pytest.raises(UserError, match="unrecognized arguments: --no-frozen"):
        small("--no-frozen", "--recipe", write("lr = 1"))


# Settings of a run


def written(folder: Path, parser: ArgumentParser, args: argparse.Namespace) -> dict[str, object]:
    """The settings that settings.toml gives."""
    file = write_settings(folder, parser, args)
    assert file == folder / "settings.toml"
    start = read_recipe(str(file)).paths.get("model-path")
    again = parse_with_recipe(parser, ["--recipe", str(file), *([] if start is None else ["--model-path", start])])
    return {key: value for key, value in vars(again).items() if key != "recipe"}


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--lr", "3e-7", "--num_rows", "4", "--mode", "fast", "--frozen", "--level", "-5"],
        ["--share", "none", "--mode", "fast"],
        ["--share", "0.1", "--model-path", "none"],
        ["--model-path", "C:\\weights\\日本\x7f.pth", "--lr", "1e22"],
        ["--model-path", "weights\udcff.pth"],
    ],
)
def test_settings_of_a_run_are_a_recipe(tmp_path, arguments):
    args = small(*arguments)
    expected = {key: value for key, value in vars(args).items() if key != "recipe"}
    expected["model_path"] = expected["model_path"].replace("\udcff", "\\xff")
    assert written(tmp_path, small_parser(), args) == expected


@pytest.mark.parametrize("name", [None, *NAMES])
def test_settings_of_train_py_are_a_recipe(tmp_path, name):
    chosen = [] if name is None else ["--recipe", name]
    args = parse(*chosen, "--seed", 5, "--var_weight", "none", "--metadata", "m", "--path_output", tmp_path / "x")
    args.weight_decay = 0.25  # filled in later by the program
    parser = train_parser(None)
    again = written(tmp_path, parser, args)
    paths = {"metadata", "path_output", "data"}
    for key, value in vars(args).items():
        if key not in paths | {"recipe"}:
            assert again[key] == value, key
    assert (again["metadata"], again["path_output"]) == (None, Path("outputs"))
    first = (tmp_path / "settings.toml").read_text(encoding="utf-8")
    write_settings(tmp_path, parser, argparse.Namespace(**{**vars(args), **again, "recipe": name}))
    assert (
        first.partition("[paths]")[0]
        == (tmp_path / "settings.toml").read_text(encoding="utf-8").partition("[paths]")[0]
    )


def test_paths_are_recorded_and_not_applied(tmp_path):
    parser = small_parser()
    args = small("--data", "/d", "--cache", "/c", "--model-path", "w.pth", "--overwrite")
    settings, paths = effective_settings(parser, args)
    assert paths == {"data": "/d", "cache": "/c", "model-path": "w.pth"}
    assert "overwrite" not in settings
    file = write_settings(tmp_path, parser, args)
    again = small("--recipe", file, "--model-path", "other.pth")
    assert (again.data, again.cache, again.model_path, again.overwrite) == (None, None, "other.pth", False)
    assert message("--recipe", file) == (
        f"--recipe {file}: its run started from w.pth; give this file, or another start, with --model-path"
    )
    assert small("--recipe", file, "--model_path", "auto").model_path == "auto"


# Mistakes


def test_an_unknown_recipe_lists_the_names(tmp_path):
    assert message("--recipe", "coco") == (
        f"--recipe coco: no such recipe; choose from {', '.join(NAMES)}, or give a .toml file"
    )
    assert message("--recipe", tmp_path / "x.toml") == (
        f"--recipe {tmp_path / 'x.toml'}: cannot be read: No such file or directory"
    )
    assert "cannot be read" in message("--recipe", tmp_path)
    assert message("--lr", 1, "--recipe") == "argument --recipe: expected one argument (see small.py --help)"


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ("num-rowz = 7", "num-rowz: no such flag; did you mean num-rows?"),
        ("xyzzy = 7", "xyzzy: no such flag; see --help"),
        ("lr = 'fast'", "argument --lr: 'fast' is not a number above 0"),
        ("lr = -1", "argument --lr: '-1' is not a number above 0"),
        ("num_rows = 2.0", "argument -n/--num_rows: '2.0' is not a whole number from 1"),
        ("level = 2.5", "argument --level: invalid int value: '2.5'"),
        ("mode = 'odd'", "argument --mode: invalid choice: 'odd' (choose from"),
        ("lr = true", "lr: needs a value"),
        ("frozen = 1", "frozen: must be true or false"),
        ("data = '/d'", "data: does not belong in a recipe; give --data on the command line"),
        ("cache = '/c'", "cache: does not belong in a recipe; give --cache on the command line"),
        ("overwrite = true", "overwrite: does not belong in a recipe; give --overwrite on the command line"),
        ("model-path = 'a.pth'", "model-path: does not belong in a recipe; give --model-path on the command line"),
    ],
)
def test_wrong_setting_is_one_line(write, settings, fault):
    file = write(settings)
    assert message("--recipe", file).startswith(f"--recipe {file}: {fault}")


def test_wrong_settings_are_reported_together(write):
    file = write("lr = 0\nmode = 'odd'")
    first, second = message("--recipe", file).splitlines()
    assert first == f"--recipe {file}: argument --lr: '0' is not a number above 0 (see small.py --help)"
    assert second.startswith(f"  --recipe {file}: argument --mode: invalid choice: 'odd'")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("lr = 1\n[settings]", "Object contains unknown field `lr`"),
        ("source = 3\n[settings]", "Expected `str`, got `int` - at `$.source`"),
        ("", "Object missing required field `settings`"),
        ("[settings]\nlr = ", "Invalid value"),
        (b"[settings]\n# \xff", "'utf-8' codec can't decode"),
    ],
)
def test_malformed_file_is_one_line(tmp_path, content, fault):
    file = tmp_path / "own.toml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = message("--recipe", file)
    assert found.startswith(f"{file} is no recipe: {fault}")
    assert found.endswith("; see recipes/coco_48_17.toml for the format")
    assert len(found.splitlines()) == 1
