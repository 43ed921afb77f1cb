"""Run an experiment from its data set to its table: prepare, train, validate, compare.

    OUTPUT/metadata/       prepare_data.py
    OUTPUT/run/            train.py with a recipe
    OUTPUT/validate*.json  validate.py under the protocol of the paper, and under the other one
    OUTPUT/results.md      the table, published beside measured, and results.json
    OUTPUT/stages.json     the finished stages with their arguments: they are not run again

Several seeds have run/, validate*.json and stages.json in OUTPUT/seed_N each.

A script that was stopped continues where it stopped: preparation writes its folder completely or not at all, and
training resumes.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import prepare_data
import train
import validate
from reproduce.experiments import EXPERIMENTS, Experiment
from reproduce.tables import Published, Run, read_published, results, write_results
from src.config.arguments import ArgumentParser, file_name
from src.config.prepare import SOURCES, OutputSettings, VectorSettings
from src.config.recipes import parse_with_recipe
from src.config.settings import add_flags
from src.config.train_flags import train_parser
from src.data.metadata import detect_kind
from src.errors import UserError
from src.utils.files import write_json
from src.utils.json_files import read_json
from src.utils.script import run_script

Main = Callable[[Sequence[str] | None], int]

ROOT = Path(__file__).resolve().parent.parent
# Checkpoints of a run that are validated; the second exists with --ema only.
CHECKPOINTS = {"last epoch": "model-last.ckpt", "moving average": "model-last-ema.ckpt"}
SET_HERE = ("--recipe", "--metadata", "--data", "--path-output", "--seed", "--overwrite", "--resume")


class StageFailedError(Exception):
    """A script ended with this exit status, after printing the reason."""

    def __init__(self, script: str, status: int) -> None:
        super().__init__(script, status)
        self.script, self.status = script, status


class Stages:
    """Finished stages of an output folder and their arguments: ``stages.json``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / "stages.json"
        self._done: dict[str, list[str]] = read_json(self._file) if self._file.exists() else {}

    def run(self, name: str, script: str, main: Main, argv: list[str], product: Path, once: Sequence[str] = ()) -> None:
        """Run ``main(argv + once)``, unless that was done and ``product`` exists.

        Args:
            name: of the stage.
            script: file name of the script whose main function is ``main``.
            once: arguments that do not change the product.

        Raises:
            UserError: the stage was run with other arguments.
            StageFailedError: the stage failed; nothing is recorded.
        """
        done = self._done.get(name)
        if done is not None and product.exists():
            if done != argv:
                raise UserError(
                    f"--output {self.folder}: {name} was done with other arguments ({_changes(done, argv)}); choose "
                    "another folder"
                )
            print(f"{name}: {product} exists already")
            return
        print(f"{name}: python {script} {' '.join(argv)}", flush=True)
        # later stages depend on this one and are run again
        self._done = dict(itertools.takewhile(lambda entry: entry[0] != name, self._done.items()))
        status = main([*argv, *once])
        if status != 0 and not (main is validate.main and status == 1):  # 1: some images could not be read
            raise StageFailedError(script, status)
        self._done[name] = argv
        write_json(self._file, self._done)


def _by_flag(arguments: Sequence[str]) -> list[str]:
    """Join each flag and its values into one text."""
    groups: list[str] = []
    for argument in arguments:
        if argument.startswith("-") or not groups:
            groups.append(argument)
        else:
            groups[-1] += f" {argument}"
    return groups


def _changes(before: Sequence[str], now: Sequence[str]) -> str:
    """Describe how two argument lists differ."""
    old, new = _by_flag(before), _by_flag(now)
    left, added = ([flag for flag in own if flag not in other] for own, other in ((old, new), (new, old)))
    return f"{' '.join(left) or 'nothing'} before, {' '.join(added) or 'nothing'} now"


def split_arguments(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate the arguments of the script from those after ``--``, which are for train.py.

    Raises:
        UserError: a flag that the script itself gives to train.py.
    """
    end = list(argv).index("--") if "--" in argv else len(argv)
    own, for_train = list(argv[:end]), list(argv[end + 1 :])
    for argument in for_train:
        flag = argument.partition("=")[0].replace("_", "-")
        if flag in SET_HERE:
            raise UserError(f"{flag} after --: the script sets it; see its own flags of this kind in its --help")
    return own, for_train


def add_data_flags(parser: argparse.ArgumentParser, experiment: Experiment) -> None:
    """Add ``--data``, ``--images``, ``--output`` and the flags of prepare_data.py."""
    add = parser.add_argument
    data_help = f"{experiment.data_help}, or a metadata folder that prepare_data.py made of it"
    add("--data", required=True, metavar="DIR", help=data_help)
    add("--images", metavar="DIR", help="image folder, if it is not below --data")
    words_help = "word vectors, as for prepare_data.py; needed unless --data is a metadata folder"
    add("--word-vectors", metavar="PATH", help=words_help)
    add_flags(parser, VectorSettings, only=("missing",))
    add_flags(parser, OutputSettings, only=("train_with_unseen",))
    add_flags(parser, SOURCES[experiment.source], only=experiment.flags)
    output = Path("outputs") / "reproduce" / experiment.name
    add("--output", type=Path, default=output, metavar="DIR", help="folder for everything; a second call resumes there")
    parser.set_defaults(**experiment.defaults)


def prepared(stages: Stages, experiment: Experiment, args: argparse.Namespace) -> list[str]:
    """Make the metadata folder, unless ``--data`` is one; return the flags for train.py and validate.py.

    Raises:
        UserError: word vectors are needed and not given, or flags have no effect.
        StageFailedError: preparing failed.
    """
    images = [] if args.images is None else [os.path.abspath(args.images)]
    names = ("missing", "train_with_unseen", *experiment.flags)
    if detect_kind(Path(args.data)) is not None:
        _check_unused(("word_vectors", *names), experiment, args)
        return ["--metadata", os.path.abspath(args.data), *(part for path in images for part in ("--data", path))]
    if args.word_vectors is None:
        raise UserError("--word-vectors is needed: --data is no metadata folder; see docs/data.md for the choices")
    folder = stages.folder / "metadata"
    data = os.path.abspath(args.data)
    # the name of an installed package stays as it is
    words = os.path.abspath(args.word_vectors) if os.path.exists(args.word_vectors) else args.word_vectors
    argv = [experiment.source, "--source", data, "--output", str(folder), "--word-vectors", words]
    images = images or [data] * experiment.images_in_data
    argv += [part for path in images for part in ("--images", path)]
    for name in names:
        value = getattr(args, name)
        if value is not None:
            argv += [f"--{name.replace('_', '-')}", os.path.abspath(value) if isinstance(value, Path) else value]
    argv += experiment.fixed
    # a folder without a record was written by a call that was stopped right after
    stages.run("prepare", "prepare_data.py", prepare_data.main, argv, folder / "split.json", once=["--overwrite"])
    return ["--metadata", str(folder)]


def _check_unused(names: Sequence[str], experiment: Experiment, args: argparse.Namespace) -> None:
    """Raise a :class:`UserError` if a flag of prepare_data.py is given although its folder is made already."""
    parser = ArgumentParser(add_help=False)
    add_data_flags(parser, experiment)
    for name in names:
        if getattr(args, name) != parser.get_default(name):
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{flag}: --data {args.data} is a metadata folder, made already; leave {flag} out")


def trained(
    stages: Stages, recipe: str, published: Published, data_flags: list[str], seed: int, for_train: list[str]
) -> Run:
    """Train and validate.

    Raises:
        UserError: a flag of train.py is wrong, or the folder holds another run.
        StageFailedError: training or validating failed.
    """
    folder = stages.folder / "run"
    argv = ["--recipe", recipe, *data_flags, "--path_output", str(folder), "--seed", str(seed), *for_train]
    args = parse_with_recipe(train_parser(None), argv)
    stages.run("train", "train.py", train.main, argv, folder / CHECKPOINTS["last epoch"], once=["--resume"])
    files = {}
    for name, checkpoint in CHECKPOINTS.items():
        if not (folder / checkpoint).exists():
            continue
        files[name] = stages.folder / ("validate.json" if name == "last epoch" else "validate-ema.json")
        argv = ["--model-path", str(folder / checkpoint), *data_flags, "--images", published.images]
        argv += ["--top_k", *map(str, published.ks), "--json", str(files[name])]
        argv += ["--device", args.device, "--workers", str(args.workers)]
        stages.run(f"validate, {name}", "validate.py", validate.main, argv, files[name])
    return Run(folder, files, args)


def run_reproduction(name: str, description: str, argv: Sequence[str] | None = None) -> int:
    """Run the script of an experiment, from its data set to its table; return the exit status."""
    return run_stages(f"reproduce/{name}.py", lambda arguments: _reproduce(name, description, arguments), argv)


def _reproduce(name: str, description: str, argv: Sequence[str]) -> int:
    experiment, published = EXPERIMENTS[name], read_published(name)
    own, for_train = split_arguments(argv)
    parser = _reproduction_parser(experiment, description)
    args = parser.parse_args(own)
    parse_with_recipe(train_parser(None), ["--recipe", args.recipe, *for_train])  # before hours of preparing
    output = Path(os.path.abspath(args.output))
    data_flags = prepared(Stages(output), experiment, args)
    runs = []
    for seed in args.seed:
        stages = Stages(output / f"seed_{seed}" if len(args.seed) > 1 else output)
        runs.append(trained(stages, args.recipe, published, data_flags, seed, for_train))
    print(write_results(output, results(published, experiment.recipe, runs)))
    return 0


def _reproduction_parser(experiment: Experiment, description: str) -> ArgumentParser:
    parser = ArgumentParser(
        prog=f"reproduce/{experiment.name}.py", description=description, epilog="Flags of train.py go after --."
    )
    add_data_flags(parser, experiment)
    add = parser.add_argument
    recipe_help = "recipe of the training runs, a name from recipes/ or a TOML file; the table lists what differs"
    add("--recipe", type=file_name, default=experiment.recipe, metavar="NAME", help=recipe_help)
    seed_help = "random seeds of the training runs; the table of several has means and standard deviations"
    add("--seed", type=int, nargs="+", default=[0], metavar="N", help=seed_help)
    return parser


def run_stages(name: str, main: Callable[[Sequence[str]], int], argv: Sequence[str] | None) -> int:
    """:func:`src.config.arguments.run_script` for a script that runs others; a failed stage returns its own status."""

    def guarded(arguments: Sequence[str] | None) -> int:
        try:
            return main(sys.argv[1:] if arguments is None else arguments)
        except StageFailedError as error:
            print(f"{name}: {error.script} stopped; the same command continues from there", file=sys.stderr)
            return error.status

    return run_script(name, guarded, argv)
