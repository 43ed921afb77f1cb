"""Bad values of every flag, generated from all parsers; ``python -m tests.bad_values`` tries them all."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import export
import infer
import prepare_data
import train
import validate
from src.checkpoint import __main__ as checkpoint
from src.config import arguments
from src.config.export import export_parser
from src.config.infer import fitted_or_float, infer_parser
from src.config.prepare import prepare_parser
from src.config.train_flags import below_one, lambda_or_none, share, train_parser
from src.config.validate import validate_parser
from tests.helpers import write_images
from tests.prepare_helpers import prepare_sample
from tests.script_helpers import PLAIN, TINY, call
from tests.test_tag_rule import save_calibrated

LONG, HUGE = "a" * 300, "9" * 20
_WORDS = ["", "x", "1,5", "0x10", "nan", LONG]
_WHOLE = [*_WORDS, "1.5", "1e3", "inf", "-" + HUGE, HUGE]
_REAL = [*_WORDS, "inf", "-inf", "1e39", "1e999"]
_SHARE = [*_REAL, "-0.1", "1.1", HUGE]
NUMBERS = {  # argparse type -> what it must refuse
    arguments.positive_int: [*_WHOLE, "0", "-1"],
    arguments.non_negative_int: [*_WHOLE, "-1"],
    arguments.seed_number: [*_WHOLE, "-1"],
    arguments.signed_seed_number: _WHOLE,
    arguments.thread_count: [*_WHOLE, "0", "-1", "100000"],
    arguments.worker_count: [*_WHOLE, "-1", "100000"],
    arguments.finite_float: _REAL,
    arguments.positive_float: [*_REAL, "0", "-1"],
    arguments.fraction: _SHARE,
    below_one: [*_SHARE, "1"],
    share: [*_SHARE, "0", "1"],
    lambda_or_none: _SHARE,
    fitted_or_float: _REAL,
    int: [*_WHOLE, "-1", "2"],  # with choices
}
_PATHS = ["", " ", LONG, f"x/{LONG}/y", "a/" * 3000]
FILE_IN, FOLDER_IN = ["{folder}", "{missing}", "{empty}", "{missing}/x"], ["{file}", "{missing}", "{empty}"]
FILE_OUT, FOLDER_OUT = ["{folder}", "{file}/x", "/dev/null/x"], ["{file}", "{file}/x", "/proc/none"]
PATHS = {  # flag -> what it must refuse besides names that no file has
    "calibration": ["{missing}", "{empty}"], "csv": FILE_OUT, "html": FILE_OUT, "json": FILE_OUT, "parquet": FILE_OUT,
    "fit-thresholds": FILE_OUT, "output": ["{file}/x"], "path-output": FOLDER_OUT, "write-keywords": FOLDER_OUT,
    "feature-cache": FOLDER_OUT, "write-xmp": FOLDER_OUT,
    "model-path": FILE_IN, "tags-file": FILE_IN, "alias-file": FILE_IN,
    "recipe": ["{folder}", "{missing}", "{missing}.toml"],
    "train": FILE_IN, "val": FILE_IN, "unseen": FILE_IN, "seen": FILE_IN, "test-ids": FILE_IN, "tags": FILE_IN,
    "data": FOLDER_IN, "metadata": FOLDER_IN, "DATA": FOLDER_IN, "dataset-path": FOLDER_IN, "images": FOLDER_IN,
    "source": ["{missing}", "{empty}"], "pic-path": ["{missing}", "{empty}"], "word-vectors": ["{missing}", "{empty}"],
    "FILE": ["{missing}", "{folder}"], "DIR": FOLDER_IN, "extra-words-file": ["{missing}", "{empty}"],
}  # fmt: skip
_ANY_TEXT = ("exclude", "tag-separator", "encoder-prompt", "tag-columns")  # patterns, separators, lists: not LONG

BASE = {
    "train.py": [
        "--data",
        "{sample}",
        *map(str, TINY),
        *map(str, PLAIN),
        "--num-epochs",
        "1",
        "--path_output",
        "{out}",
    ],
    "infer.py": ["--model_path", "{tagger}", "--pic_path", "{photos}", "--no_picture", "--tags", "sea", "-j", "0"],
    "validate.py": ["--model-path", "{tagger}", "--metadata", "{sample}", "-j", "0"],
    "export.py": ["--model_path", "{tagger}", "--output", "{out}/m.onnx"],
    "prepare_data.py": ["--output", "{out}/m"],
    "prepare_data.py combine": ["--output", "{out}/m", "{sample}", "{other}"],
    "python -m src.checkpoint average": ["--output", "{out}/a.ckpt", "{tagger}"],
    "python -m src.checkpoint inspect": ["{tagger}"],
    "python -m src.checkpoint verify": ["{tagger}"],
}


class Row(NamedTuple):
    """A value that a flag of a script must refuse."""

    script: str
    flag: str
    value: str
    named: bool  # the message must name the flag


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of every script and sub-command, by its name on the command line."""
    found = {
        one.prog: one for one in (make(None) for make in (train_parser, infer_parser, validate_parser, export_parser))
    }
    for parent in (prepare_parser(), checkpoint.parser()):
        (commands,) = (action for action in parent._actions if isinstance(action, argparse._SubParsersAction))
        found |= {f"{parent.prog} {name}": one for name, one in commands.choices.items()}
    return found


def bad_values(action: argparse.Action) -> list[str]:
    """Return the values that a flag must refuse.

    Raises:
        KeyError: a path or a type without a row above.
    """
    name = name_of(action).replace("_", "-")
    if action.nargs == 0:
        return ["=x"]
    if action.choices is not None:
        return ["", "nonsense", LONG, *(NUMBERS[action.type] if action.type is int else [])]
    if action.type in (Path, arguments.file_name):
        return [*_PATHS, *PATHS[name]]
    if action.type is arguments.output_file:
        return [*_PATHS, *PATHS[name], "new/"]
    if action.type is None:
        return [""] if name in (*_ANY_TEXT, "tags", "alias") else ["", LONG]
    return NUMBERS[action.type]


def pairs() -> Iterator[tuple[str, list[str]]]:
    """Yield flags that have no effect as they are given: without what they need, or with what excludes them."""
    for script, parser in parsers().items():
        for action in parser._actions:
            rule = getattr(action, "needs", None)
            if rule is None:
                continue
            number = "0.5" if action.type in (share, arguments.fraction) else "2"
            choices = [choice for choice in action.choices or [number] if choice not in rule.harmless]
            good = [] if action.nargs == 0 else [str(choices[0])]
            if rule.flags:
                yield script, [action.option_strings[-1], *good]
            for other in rule.excluded:
                flag, _, values = other.partition(" ")
                value = ["open_clip:a/b"] if other == "--encoder" else values.split("|")[:1] if values else []
                yield script, [action.option_strings[-1], *good, flag, *value]


def name_of(action: argparse.Action) -> str:
    return next((option[2:] for option in action.option_strings if option.startswith("--")), str(action.metavar))


def rows() -> Iterator[Row]:
    for script, parser in parsers().items():
        for action in parser._actions:
            if isinstance(action, argparse._HelpAction):
                continue
            flag = action.option_strings[-1] if action.option_strings else ""
            for value in bad_values(action):
                reaches_parser = value != LONG or action.type is not None or action.choices is not None
                yield Row(script, flag, value, "{" not in value and bool(flag) and reaches_parser)


def make_places(home: Path) -> dict[str, Path]:
    """Make the files that the table names, and an empty folder ``out``."""
    places = {name: home / name for name in ("sample", "other", "photos", "folder", "file", "empty", "missing", "out")}
    prepare_sample(places["sample"], num_train=8, num_val=6)
    prepare_sample(places["other"], num_train=2, num_val=1, seed=1)
    write_images(places["photos"], 2)
    for name in ("folder", "out"):
        places[name].mkdir()
    places["file"].write_text("some text\n")
    places["empty"].touch()
    places["tagger"] = save_calibrated(home / "tagger.ckpt")
    return places


MAINS = {
    "train.py": train.main, "infer.py": infer.main, "validate.py": validate.main, "export.py": export.main,
    "prepare_data.py": prepare_data.main, "python -m src.checkpoint": checkpoint.main,
}  # fmt: skip


def fault_of(row: Row, places: dict[str, Path]) -> str | None:
    """Call a script with one bad value; return what is wrong with its answer, or None."""
    program = next(name for name in MAINS if row.script.startswith(name))
    command = row.script.removeprefix(program).split()
    base = BASE.get(row.script, BASE.get(program, []))
    equals = "" if row.value == "=x" else "="  # one word, since a value may begin with a dash
    given = [f"{row.flag}{equals}{row.value}"] if row.flag else [row.value]
    words = [word.format(**places) for word in (*command, *base, *given)]
    before = listing(places["out"].parent)
    finished = call(MAINS[program], *words)
    errors = finished.stderr
    shown = f"{row.script} {row.flag} {row.value[:40]!r}: status {finished.returncode}, {errors[-300:]!r}"
    if finished.returncode != 2 or "Traceback" in errors or f"{program}: error: " not in errors:
        return shown
    if row.named and row.flag.replace("_", "-") not in errors.replace("_", "-"):
        return f"{shown}: does not name the flag"
    if len(errors) > 2000 or listing(places["out"].parent) != before:
        return f"{shown}: too long, or made {listing(places['out'].parent) - before}"
    return None


def listing(folder: Path) -> set[str]:
    return {os.path.join(where, name) for where, folders, files in os.walk(folder) for name in (*folders, *files)}


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        places = make_places(Path(folder))
        os.chdir(places["out"])
        faults, count = [], 0
        for row in rows():
            count += 1
            if fault := fault_of(row, places):
                faults.append(fault)
                print(fault, flush=True)
    print(f"{count} values, {len(faults)} faults")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
