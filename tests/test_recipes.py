"""Recipes: those of the project, flags that override them, what a run writes down, and what is said to mistakes."""

import argparse
import itertools
from pathlib import Path

import pytest

from src.config import recipes
from src.config.arguments import ArgumentParser, positive_float, positive_int
from src.config.recipes import effective_settings, parse_with_recipe, read_recipe, recipe_names, write_settings
from src.config.train import train_parser
from src.errors import UserError

NAMES = ("coco_48_17", "corel5k", "nus_wide", "open_images")


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
    parser.add_argument("--tag", action="append", default=[])
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


# The project's own


def test_the_recipes_of_the_project():
    assert recipe_names() == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_arrives(name):
    recipe = read_recipe(name)
    args = parse("--recipe", name)
    assert (args.recipe, args.recipe_values) == (name, recipe.settings)
    for key, value in recipe.settings.items():
        assert getattr(args, key.replace("-", "_")) == value, key
    assert not recipe.paths


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_says_where_its_values_come_from(name):
    text = (recipes.RECIPES / f"{name}.toml").read_text(encoding="utf-8")
    content = recipes.tomllib.loads(text)
    assert content["description"]
    assert len(content["source"].split()) > 40
    assert max(map(len, text.splitlines())) <= 120


def test_the_coco_recipe_is_the_released_script():
    args = parse("--recipe", "coco_48_17")
    found = (args.lr, args.weight_decay, args.num_epochs, args.batch_size, args.num_rows, args.var_weight)
    assert found == (2.5e-5, 3e-4, 10, 32, 2, 0.01)
    assert (args.schedule, args.warm_up, args.optimizer, args.cutout) == ("one_cycle", 0.1, "adam", 0.5)
    plain = parse()
    differ = {
        key
        for key, value in vars(args).items()
        if value != getattr(plain, key) and key not in ("recipe", "recipe_values")
    }
    assert differ == {"model_name", "image_size", "num_rows", "lr"}  # the flags' own defaults are that script's too


# Overriding


def test_without_a_recipe():
    args = small("--lr", 2)
    assert (args.lr, args.recipe, args.recipe_values) == (2, None, {})


def test_flags_win_wherever_they_stand(write):
    file = write("lr = 0.5\nnum_rows = 7\nmode = 'fast'")
    for arguments in (("--lr", 2, "--recipe", file), ("--recipe", file, "--lr=2"), (f"--recipe={file}", "--lr", 2)):
        args = small(*arguments)
        assert (args.lr, args.num_rows, args.mode) == (2, 7, "fast")
        assert args.recipe_values == {"lr": 0.5, "num_rows": 7, "mode": "fast"}
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
    assert args.recipe_values == {"frozen": True, "wide": True}
    with pytest.raises(UserError, match="unrecognized arguments: --no-frozen"):
        small("--no-frozen", "--recipe", write("lr = 1"))


def test_the_switch_of_a_recipe_of_the_project_is_taken_back():
    assert parse("--recipe", "corel5k").freeze_backbone
    assert not parse("--recipe", "corel5k", "--no_freeze_backbone").freeze_backbone


def test_lists_are_repeated_flags(write):
    assert small("--recipe", write("tag = ['a', 'b c', '-d']")).tag == ["a", "b c", "-d"]
    assert small("--recipe", write("tag = []")).tag == []
    assert small("--recipe", write("tag = ['a']"), "--tag", "b").tag == ["a", "b"]


def test_values_that_look_like_flags_or_hold_signs(write):
    args = small("--recipe", write("level = -2\nshare = 'none'\ntag = ['--lr']"))
    assert (args.level, args.share, args.tag, args.lr) == (-2, None, ["--lr"], 1.0)


# What a run writes down


def written(folder: Path, parser: ArgumentParser, args: argparse.Namespace) -> dict[str, object]:
    """The settings that come back from settings.toml."""
    file = write_settings(folder, parser, args)
    assert file == folder / "settings.toml"
    start = recipes.tomllib.loads(file.read_text(encoding="utf-8")).get("paths", {}).get("model-path")
    again = parse_with_recipe(parser, ["--recipe", str(file), *([] if start is None else ["--model-path", start])])
    return {key: value for key, value in vars(again).items() if key not in ("recipe", "recipe_values")}


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--lr", "3e-7", "--num_rows", "4", "--mode", "fast", "--frozen", "--level", "-5"],
        ["--share", "none", "--tag", "a", "--tag", 'q"\\ \x7f\n\u00e9'],
        ["--share", "0.1", "--model-path", "none"],
        ["--model-path", "C:\\weights\\\udcff.pth", "--lr", "1e22"],
    ],
)
def test_a_run_can_be_made_again(tmp_path, arguments):
    args = small(*arguments)
    expected = {key: value for key, value in vars(args).items() if key not in ("recipe", "recipe_values")}
    if "\udcff" in expected["model_path"]:  # bytes that are no text are recorded as a question mark
        expected["model_path"] = expected["model_path"].replace("\udcff", "?")
    assert written(tmp_path, small_parser(), args) == expected


@pytest.mark.parametrize("name", [None, *NAMES])
def test_a_run_of_train_py_can_be_made_again(tmp_path, name):
    chosen = [] if name is None else ["--recipe", name]
    args = parse(*chosen, "--seed", 5, "--var_weight", "none", "--metadata", "m", "--path_output", tmp_path / "x")
    args.weight_decay = 0.25  # filled in later by the program
    parser = train_parser(None)
    again = written(tmp_path, parser, args)
    paths = {"metadata", "path_output", "data"}
    for key, value in vars(args).items():
        if key not in paths | {"recipe", "recipe_values"}:
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
        f"--recipe {file}: that run began with w.pth; give it, or another start, with --model-path"
    )
    assert small("--recipe", file, "--model_path", "auto").model_path == "auto"


def test_the_recipe_of_a_run_is_named(tmp_path):
    file = write_settings(tmp_path, train_parser(None), parse("--recipe", "nus_wide"))
    assert 'source = "train.py --recipe nus_wide"' in file.read_text(encoding="utf-8")


# Mistakes


def test_an_unknown_recipe_lists_the_names(tmp_path):
    assert message("--recipe", "coco") == (
        "--recipe coco: no such recipe; there are coco_48_17, corel5k, nus_wide, open_images, or give a .toml file"
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
        ("xyzzy = 7", "xyzzy: no such flag; see train.py --help"),
        ("lr = 'fast'", "lr = \"fast\": 'fast' is not a number above 0"),
        ("lr = -1", "lr = -1: '-1' is not a number above 0"),
        ("num_rows = 2.0", "num_rows = 2.0: '2.0' is not a whole number from 1"),
        ("level = 2.5", "level = 2.5: is no int"),
        ("mode = 'odd'", 'mode = "odd": must be one of slow, fast'),
        ("lr = true", "lr = true: takes a value, not a switch"),
        ("frozen = 1", "frozen = 1: is a switch: true or false"),
        ("lr = [1, 2]", "lr = [1, 2]: takes one value, not a list"),
        ("lr = 2024-01-01", 'lr = "2024-01-01": is no number and no text'),
        ("data = '/d'", 'data = "/d": a recipe is about the method; give --data on the command line instead'),
        ("cache = '/c'", 'cache = "/c": a recipe is about the method; give --cache on the command line instead'),
        ("overwrite = true", "overwrite = true: a recipe is about the method; give --overwrite on the command line"),
        ("recipe = 'x'", 'recipe = "x": a recipe is about the method'),
        ("model-path = 'a.pth'", 'model-path = "a.pth": a recipe is about the method; give --model-path on the'),
        ("num_rows = 2\nnum-rows = 3", "num-rows: the same flag as num_rows; keep one of them"),
    ],
)
def test_a_setting_that_is_wrong(write, settings, fault):
    file = write(settings)
    assert message("--recipe", file).startswith(f"{file}: {fault}")


def test_all_wrong_settings_are_named_together(write):
    file = write("lr = 0\nmode = 'odd'")
    assert message("--recipe", file).splitlines() == [
        f"{file}: lr = 0: '0' is not a number above 0",
        f'  {file}: mode = "odd": must be one of slow, fast',
    ]


def test_a_start_that_is_no_file_may_be_in_a_recipe(write):
    assert small("--recipe", write("model-path = 'timm'")).model_path == "timm"


def test_a_wrong_flag_beside_a_right_recipe_is_blamed_on_the_flag(write):
    assert message("--recipe", write("lr = 1"), "--mode", "odd").startswith("argument --mode: invalid choice: 'odd'")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("lr = 1\n[settings]", "lr stands outside [settings]; settings belong below that line"),
        ("source = 3\n[settings]", "source is no text; see recipes/coco_48_17.toml for the form"),
        ("settings = 3", "settings is no table; see recipes/coco_48_17.toml for the form"),
        ("", "has no [settings]; see recipes/coco_48_17.toml for the form"),
        ("[settings]\nlr = ", "not TOML ("),
        ("[settings]\nlr = 1\nlr = 2", "not TOML ("),
        (b"[settings]\n# \xff", "not TOML ("),
    ],
)
def test_a_file_of_another_form(tmp_path, content, fault):
    file = tmp_path / "own.toml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = message("--recipe", file)
    assert found.startswith(f"{file}: {fault}")
    assert len(found.splitlines()) == 1


def test_a_byte_order_mark_is_allowed(tmp_path):
    file = tmp_path / "own.toml"
    file.write_bytes("\ufeff[settings]\nlr = 3\n".encode())
    assert small("--recipe", file).lr == 3
