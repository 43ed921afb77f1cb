"""Flags in both spellings, one-line errors with exit status 2, types, devices, seeds."""

import argparse
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

import infer
import prepare_data
import src.config.train_flags
import train
import validate
from src.config.arguments import (
    ArgumentParser,
    fraction,
    non_negative_int,
    positive_float,
    positive_int,
)
from src.config.infer import infer_parser
from src.config.prepare import prepare_parser
from src.config.train_flags import lambda_or_none, train_parser
from src.config.validate import validate_parser
from src.errors import UserError, prefix_errors
from src.utils.device import choose_device, seed_everything
from src.utils.script import run_script
from tests.conftest import ROOT

PARSERS = {
    "train.py": lambda: train_parser(None),
    "infer.py": lambda: infer_parser(None),
    "validate.py": lambda: validate_parser(None),
}
REQUIRED = {"train.py": [], "infer.py": ["--pic_path", "a.jpg"], "validate.py": ["--model-path", "m.pth"]}
ORIGINAL = {
    "train.py": """
        --data --metadata --lr --var_weight --num-epochs --model-name --pretrain-backbone --model-path --num-classes
        --autocast-enabled --num_rows --seed --wordvec_dim -j --workers --image-size -b --batch-size --path_output
    """,
    "infer.py": """
        --model_path --pic_path --model_name --num_rows --pretrain-backbone --wordvec_dim --input_size --dataset_path
        --dataset_type --path_output --top_k
    """,
    "validate.py": "--data --metadata --model-name --model-path -j --image-size -b --thre -p --print-freq",
}


def flags_of(script: str) -> list[tuple[str, argparse.Action]]:
    """Every spelling of every flag that takes part in a run."""
    return [
        (option, action)
        for action in PARSERS[script]()._actions
        if not isinstance(action, argparse._HelpAction)
        for option in action.option_strings
    ]


def given(option: str, action: argparse.Action) -> list[str]:
    if action.nargs == 0:
        return [option]
    below_one = action.type in (src.config.train_flags.below_one, src.config.train_flags.share)
    return [option, str(action.choices[0]) if action.choices else "0.5" if below_one else "1"]


CASES = [
    pytest.param(script, option, action, id=f"{script} {option}")
    for script in PARSERS
    for option, action in flags_of(script)
]


@pytest.mark.parametrize(("script", "option", "action"), CASES)
def test_every_flag_is_accepted_in_both_spellings_and_with_an_equals_sign(script, option, action):
    def parse(*arguments: str) -> argparse.Namespace:
        others = [] if action.required else REQUIRED[script]
        parser = PARSERS[script]()
        parser.checks_needs = False
        return parser.parse_args([*others, *arguments])

    expected = parse(*given(option, action))
    assert getattr(expected, action.dest) is not None
    name = option.lstrip("-")
    prefix = option[: len(option) - len(name)]
    for spelling in {name.replace("-", "_"), name.replace("_", "-"), name}:
        arguments = given(prefix + spelling, action)
        assert parse(*arguments) == expected
        if prefix == "--" and len(arguments) == 2:
            assert parse("=".join(arguments)) == expected


@pytest.mark.parametrize(
    ("script", "flag"), [(script, flag) for script, flags in ORIGINAL.items() for flag in flags.split()]
)
def test_the_original_flags_are_there(script, flag):
    assert flag in [option for option, _ in flags_of(script)]


def test_the_original_positional_folder_of_validate():
    assert validate_parser(None).parse_args(["images", "--model_path", "m.pth"]).positional_data == "images"


@pytest.mark.parametrize("make", [*PARSERS.values(), prepare_parser])
def test_help_can_be_shown_and_says_no_empty_defaults(make):
    text = make().format_help()
    assert "default: None" not in text
    assert "default: False" not in text


def small_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="tool.py")
    parser.add_argument("--num_rows", type=positive_int)
    parser.add_argument("--file-name")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("rest", nargs="*")
    return parser


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--file_name=--num-rows"], {"file_name": "--num-rows"}),
        (["--file_name=a_b-c=d_e"], {"file_name": "a_b-c=d_e"}),
        (["--file-name", "my_file-name"], {"file_name": "my_file-name"}),
        (["--file_name", " "], {"file_name": " "}),
        (["--file_name=a\nb"], {"file_name": "a\nb"}),
        (["--num-rows", "3", "--", "--num-rows", "--file_name"], {"rest": ["--num-rows", "--file_name"]}),
        (["dry_run", "--dry_run"], {"rest": ["dry_run"], "dry_run": True}),
    ],
)
def test_values_are_left_as_they_are(arguments, expected):
    parsed = vars(small_parser().parse_args(arguments))
    assert {name: parsed[name] for name in expected} == expected


def test_sub_commands_accept_both_spellings():
    arguments = ["--source", "s", "--output", "o", "--word_vectors", "v", "--extra_words=3", "--overwrite"]
    parsed = prepare_parser().parse_args(["corel5k", *arguments])
    assert (str(parsed.word_vectors), parsed.extra_words, parsed.overwrite) == ("v", 3, True)
    assert prepare_parser().parse_args(["sample", "--output", "o", "--train_images", "5"]).train_images == 5
    with pytest.raises(UserError, match=r"unrecognized arguments: --word_vectors.*prepare_data\.py"):
        prepare_parser().parse_args(["sample", "--output", "o", "--word_vectors", "v"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num", "3"], "unrecognized arguments: --num"),  # no abbreviations
        (["--num_rows"], "argument --num_rows: expected one argument"),
        (["--num-rows", "x"], "argument --num_rows: 'x' is not a whole number from 1"),
        (["--dry-run=1"], "argument --dry-run: ignored explicit argument '1'"),
    ],
)
def test_parser_errors_are_one_line(arguments, message):
    with pytest.raises(UserError) as caught:
        small_parser().parse_args(arguments)
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith("(see tool.py --help)")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "good", "bad", "message"),
    [
        (positive_int, {"1": 1, "400": 400}, ["0", "-1", "1.5", "x", "", "1e3"], "is not a whole number from 1"),
        (non_negative_int, {"0": 0, "7": 7}, ["-1", "0.5", "x"], "is not a whole number from 0"),
        (fraction, {"0": 0, "1": 1, "1e-3": 0.001}, ["-0.1", "1.01", "nan", "inf", "x", "50%"], "number from 0 to 1"),
        (positive_float, {"1e-9": 1e-9, "3": 3}, ["0", "-2", "nan", "inf", "-inf", "x"], "is not a number above 0"),
        (lambda_or_none, {"none": None, "0.3": 0.3, "0": 0}, ["None", "-1", "2", ""], "number from 0 to 1"),
    ],
)
def test_types(kind, good, bad, message):
    assert {text: kind(text) for text in good} == good
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match=message) as caught:
            kind(text)
        assert repr(text) in str(caught.value)


def test_negative_numbers_in_scientific_notation_are_values_of_flags():
    for text in ("-1e-3", "-2.5E4", "-.5"):
        assert infer_parser("").parse_args(["--pic_path", "a", "--seen_bias", text]).seen_bias == float(text)


@pytest.mark.parametrize(
    ("name", "main", "arguments", "words"),
    [
        ("train.py", train.main, ["--metadata", "gone"], "gone is no metadata folder"),
        ("train.py", train.main, ["--lr", "0"], "argument --lr: '0' is not a number above 0 (see train.py --help)"),
        ("train.py", train.main, ["--no-such-flag"], "unrecognized arguments: --no-such-flag"),
        ("infer.py", infer.main, ["--pic_path", "gone.jpg"], "--pic_path gone.jpg: no such file"),
        ("infer.py", infer.main, [], "the following arguments are required: --pic_path"),
        (
            "infer.py",
            infer.main,
            ["--pic_path", "a", "--dataset_type", "VOC"],
            "argument --dataset_type: invalid choice",
        ),
        ("validate.py", validate.main, ["--model-path", "gone.pth"], "gone.pth"),
        ("validate.py", validate.main, ["a", "--data", "b", "--model-path", "m"], "a and --data b; give one"),
        ("prepare_data.py", prepare_data.main, [], "the following arguments are required: SOURCE"),
        ("prepare_data.py", prepare_data.main, ["imagenet"], "invalid choice: 'imagenet'"),
        ("prepare_data.py", prepare_data.main, ["sample"], "--output (see prepare_data.py sample --help)"),
    ],
)
def test_mistake_exits_with_status_2_and_one_line(capsys, monkeypatch, tmp_path, name, main, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith(f"{name}: error: ")
    assert words in errors
    assert errors.count("\n") == 1
    assert "usage:" not in errors
    assert list(tmp_path.iterdir()) == []


def test_run_script_returns_the_status_and_raises_other_errors(capsys):
    assert run_script("x", lambda argv: len(argv), ["a", "b", "c"]) == 3

    def mistaken(argv: object) -> int:
        raise UserError("first\n  second")

    assert run_script("x", mistaken) == 2
    assert capsys.readouterr().err == "x: error: first\n  second\n"
    assert run_script("x", lambda argv: 1 // 0) == 70  # a bug of ours shows its traceback
    errors = capsys.readouterr().err
    assert "ZeroDivisionError" in errors
    assert errors.endswith("\nx: a bug of this program, not of yours: please report it with the lines above\n")


def test_ctrl_c_is_one_line_with_status_130(capsys):
    def interrupted(argv: object) -> int:
        raise KeyboardInterrupt

    assert run_script("x.py", interrupted) == 130
    assert capsys.readouterr() == ("", "x.py: interrupted\n")


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_closed_output_pipe_ends_the_run_silently():
    code = (
        "import sys; from src.utils.script import run_script;"
        "sys.exit(run_script('x', lambda argv: [print('y' * 99) for _ in range(9999)] and 0))"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.parametrize("script", ["train", "infer", "validate", "export", "prepare_data"])
def test_help_starts_without_pytorch(script):
    code = (
        f"import contextlib, sys, {script}\n"
        f"with contextlib.suppress(SystemExit): {script}.main(['--help'])\n"
        "print(sorted({'torch', 'timm', 'numpy', 'PIL'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert run.stdout.startswith("usage:")
    assert run.stdout.endswith("\n[]\n")


@pytest.mark.parametrize("gpu", [False, True])
def test_the_device(monkeypatch, gpu):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto") == torch.device("cuda" if gpu else "cpu")
    if gpu:
        assert choose_device("cuda") == torch.device("cuda")
    else:
        with pytest.raises(UserError, match=r"--device cuda: .* --device cpu"):
            choose_device("cuda")


def draws() -> list[float]:
    return [random.random(), float(np.random.rand()), float(torch.rand(()))]


@pytest.mark.parametrize("seed", [0, -1, 2**40])
def test_seed_sets_all_three_generators(seed):
    seed_everything(seed)
    first = draws()
    seed_everything(seed)
    assert draws() == first
    seed_everything(seed + 1)
    assert all(a != b for a, b in zip(draws(), first, strict=True))


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1])
def test_seed_out_of_range_is_a_user_error(seed):
    with pytest.raises(UserError, match=f"--seed {seed}: must be from"):
        seed_everything(seed)


def test_prefix_errors_prefixes_the_flag_unless_the_message_has_one():
    with pytest.raises(UserError, match=r"^--metadata: x is no folder$"), prefix_errors("--metadata"):
        raise UserError("x is no folder")
    with pytest.raises(UserError, match=r"^--data x: no such folder$"), prefix_errors("--metadata"):
        raise UserError("--data x: no such folder")
