"""What the scripts of this folder share: a data set in, a metadata folder, a run, its metrics and a table out.

    OUTPUT/metadata/       prepare_data.py
    OUTPUT/run/            train.py with a recipe
    OUTPUT/validate*.json  validate.py under the protocol of the paper
    OUTPUT/results.md      the table, published beside measured, and results.json
    OUTPUT/stages.json     which of these are finished, with their arguments: these are not done again

A script that was stopped goes on where it was: preparation leaves its folder whole or not at all, and training resumes.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import prepare_data
import train
import validate
from reproduce.tables import Published, read_published, results, write_results
from src.config.arguments import ArgumentParser, run_script
from src.config.recipes import parse_with_recipe
from src.config.train import train_parser
from src.data.metadata import detect_kind
from src.errors import UserError
from src.utils.files import read_json, write_json

Main = Callable[[Sequence[str] | None], int]

ROOT = Path(__file__).resolve().parent.parent
# Of a run: how validate.py's file is called, and the checkpoint it is about. The second is there with --ema only.
CHECKPOINTS = {"last epoch": "model-last.ckpt", "moving average": "model-last-ema.ckpt"}
SET_HERE = ("--recipe", "--metadata", "--data", "--path-output", "--seed", "--overwrite", "--resume")


@dataclass(frozen=True)
class Experiment:
    """A table of a paper.

    Attributes:
        name: of its entry in published.toml, of its recipe and of its script.
        source: the sub-command of prepare_data.py.
        data_help: what ``--data`` has to hold.
        missing: the default of ``--missing``.
        prepare_flags: the script's arguments -> what that sub-command needs beside them.
        add_flags: adds flags that only this data set has.
    """

    name: str
    source: str
    data_help: str
    missing: str = "error"
    prepare_flags: Callable[[argparse.Namespace], list[str]] = lambda args: []
    add_flags: Callable[[argparse.ArgumentParser], None] = lambda parser: None


class StageFailedError(Exception):
    """One of the scripts ended with this exit status, and has said why."""

    def __init__(self, script: str, status: int) -> None:
        super().__init__(script, status)
        self.script, self.status = script, status


class Stages:
    """The stages of one output folder that are finished, and with which arguments: ``stages.json``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / "stages.json"
        self._done: dict[str, list[str]] = read_json(self._file) if self._file.exists() else {}

    def run(self, name: str, script: str, main: Main, argv: list[str], product: Path, once: Sequence[str] = ()) -> None:
        """Run ``main(argv + once)``, unless it has been and ``product`` is there.

        Args:
            name: of the stage.
            script: what ``main`` is the main function of.
            once: arguments that do not change the product.

        Raises:
            UserError: it has been run with other arguments.
            StageFailedError: it failed; nothing is recorded.
        """
        done = self._done.get(name)
        if done is not None and product.exists():
            if done != argv:
                raise UserError(
                    f"--output {self.folder}: {name} was done with other arguments ({_changes(done, argv)}); choose "
                    "another folder"
                )
            print(f"{name}: {product} is there already")
            return
        print(f"{name}: python {script} {' '.join(argv)}", flush=True)
        # what was made from an earlier product is to be made again
        self._done = dict(itertools.takewhile(lambda entry: entry[0] != name, self._done.items()))
        status = main([*argv, *once])
        if status != 0 and not (main is validate.main and status == 1):  # 1: some images could not be read
            raise StageFailedError(script, status)
        self._done[name] = argv
        write_json(self._file, self._done)


def _by_flag(arguments: Sequence[str]) -> list[str]:
    """Each flag with its values, as one text."""
    groups: list[str] = []
    for argument in arguments:
        if argument.startswith("-") or not groups:
            groups.append(argument)
        else:
            groups[-1] += f" {argument}"
    return groups


def _changes(before: Sequence[str], now: Sequence[str]) -> str:
    """How two argument lists differ."""
    old, new = _by_flag(before), _by_flag(now)
    left, added = ([flag for flag in own if flag not in other] for own, other in ((old, new), (new, old)))
    return f"{' '.join(left) or 'nothing'} before, {' '.join(added) or 'nothing'} now"


def split_arguments(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments of the script, and those behind ``--``, which are train.py's.

    Raises:
        UserError: train.py is given what the script gives it.
    """
    end = list(argv).index("--") if "--" in argv else len(argv)
    own, for_train = list(argv[:end]), list(argv[end + 1 :])
    for argument in for_train:
        flag = argument.partition("=")[0].replace("_", "-")
        if flag in SET_HERE:
            raise UserError(f"{flag} behind --: the script sets it; see its --help for --data, --output and --seed")
    return own, for_train


def add_data_flags(parser: argparse.ArgumentParser, experiment: Experiment) -> None:
    """``--data``, ``--images``, ``--word-vectors``, ``--output``, ``--seed`` and those of the data set."""
    add = parser.add_argument
    add(
        "--data",
        required=True,
        metavar="DIR",
        help=f"{experiment.data_help}, or a metadata folder that prepare_data.py made of it",
    )
    add("--images", metavar="DIR", help="image folder, where it lies elsewhere")
    add(
        "--word-vectors",
        metavar="PATH",
        help="what prepare_data.py takes for it; needed unless --data is a metadata folder",
    )
    add(
        "--missing",
        choices=("error", "drop"),
        default=experiment.missing,
        help="what to do with labels without a vector",
    )
    add(
        "--output",
        type=Path,
        default=Path("outputs") / "reproduce" / experiment.name,
        metavar="DIR",
        help="where everything goes; a second call goes on there",
    )
    add("--seed", type=int, default=0, metavar="N", help="of the training run")
    experiment.add_flags(parser)


def add_missing_pictures(parser: argparse.ArgumentParser) -> None:
    """``--missing-pictures``, for data sets whose images may have vanished."""
    parser.add_argument(
        "--missing-pictures", choices=("error", "drop"), default="error", help="what to do with images that are gone"
    )


def prepared(stages: Stages, experiment: Experiment, args: argparse.Namespace) -> list[str]:
    """Make the metadata folder, or take ``--data`` if it is one: the flags for train.py and validate.py.

    Raises:
        UserError: word vectors are not given.
        StageFailedError: preparing failed.
    """
    if detect_kind(Path(args.data)) is not None:
        images = [] if args.images is None else ["--data", os.path.abspath(args.images)]
        return ["--metadata", os.path.abspath(args.data), *images]
    if args.word_vectors is None:
        raise UserError("--word-vectors is needed: --data is no metadata folder; see docs/data.md for what there is")
    folder = stages.folder / "metadata"
    argv = [experiment.source, "--source", os.path.abspath(args.data), "--output", str(folder)]
    # the name of an installed package stays as it is
    words = os.path.abspath(args.word_vectors) if os.path.exists(args.word_vectors) else args.word_vectors
    argv += ["--word-vectors", words, "--missing", args.missing, *experiment.prepare_flags(args)]
    # a folder that is there without being recorded is of a call that was stopped just then
    stages.run("prepare", "prepare_data.py", prepare_data.main, argv, folder / "split.json", once=["--overwrite"])
    return ["--metadata", str(folder)]


def trained(
    stages: Stages, recipe: str, published: Published, data_flags: list[str], seed: int, for_train: list[str]
) -> tuple[Path, dict[str, Path], argparse.Namespace]:
    """Train and validate: (the run's folder, validate.py's file of each checkpoint, the flags of train.py).

    Raises:
        UserError: a flag of train.py is wrong, or the folder holds another run.
        StageFailedError: training or validating failed.
    """
    run = stages.folder / "run"
    argv = ["--recipe", recipe, *data_flags, "--path_output", str(run), "--seed", str(seed), *for_train]
    args = parse_with_recipe(train_parser(None), argv)
    stages.run("train", "train.py", train.main, argv, run / CHECKPOINTS["last epoch"], once=["--resume"])
    files = {}
    for name, checkpoint in CHECKPOINTS.items():
        if not (run / checkpoint).exists():
            continue
        files[name] = stages.folder / ("validate.json" if name == "last epoch" else "validate-ema.json")
        argv = ["--model-path", str(run / checkpoint), *data_flags, "--images", published.images]
        argv += ["--top_k", *map(str, published.ks), "--json", str(files[name])]
        argv += ["--device", args.device, "--workers", str(args.workers)]
        stages.run(f"validate, {name}", "validate.py", validate.main, argv, files[name])
    return run, files, args


def reproduce(experiment: Experiment, description: str | None, argv: Sequence[str]) -> int:
    """A script of this folder, from its arguments to its table: the exit status."""
    own, for_train = split_arguments(argv)
    parser = ArgumentParser(
        prog=f"reproduce/{experiment.name}.py", description=description, epilog="Flags of train.py go behind --."
    )
    add_data_flags(parser, experiment)
    args = parser.parse_args(own)
    parse_with_recipe(train_parser(None), ["--recipe", experiment.name, *for_train])  # before hours of preparing
    published = read_published(experiment.name)
    output = Path(os.path.abspath(args.output))
    stages = Stages(output)
    data_flags = prepared(stages, experiment, args)
    run, files, train_args = trained(stages, experiment.name, published, data_flags, args.seed, for_train)
    print(write_results(output, results(published, experiment.name, run, files, train_args)))
    return 0


def run_reproduction(experiment: Experiment, description: str | None, argv: Sequence[str] | None) -> int:
    """Run :func:`reproduce` as a script: mistakes are one line and status 2, a failed stage gives its own status."""
    return run_stages(
        f"reproduce/{experiment.name}.py", lambda arguments: reproduce(experiment, description, arguments), argv
    )


def run_stages(name: str, main: Callable[[Sequence[str]], int], argv: Sequence[str] | None) -> int:
    """:func:`src.config.arguments.run_script` for a script that runs others."""

    def guarded(arguments: Sequence[str] | None) -> int:
        try:
            return main(sys.argv[1:] if arguments is None else arguments)
        except StageFailedError as error:
            print(f"{name}: {error.script} stopped; the same command goes on from there", file=sys.stderr)
            return error.status

    return run_script(name, guarded, argv)
