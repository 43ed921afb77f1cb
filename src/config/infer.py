"""Flags of infer.py, and the settings made from them; flags of the released infer.py keep their names."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from src.config.arguments import (
    ArgumentParser,
    add_device_flag,
    add_engine_flag,
    add_exact_flag,
    add_reading_flags,
    add_workers_flag,
    file_name,
    finite_float,
    positive_int,
    thread_count,
)
from src.config.infer_outputs import OutputOptions
from src.config.inputs import list_inputs, model_inputs, vector_inputs
from src.config.settings import add_flags, settings_of
from src.errors import UserError
from src.options import (
    DATASET_KINDS,
    SCORES,
    ExpectedModel,
    LabelOptions,
    Reading,
    Runtime,
    TagRule,
)
from src.text import printable
from src.utils.files import read_lines

QUICK_START = Path(__file__).resolve().parent.parent.parent / "models" / "sdl_lite0_corel5k.pth"


@dataclass(frozen=True)
class InferSettings:
    """Everything that a run of infer.py depends on.

    Attributes:
        images: values of ``--pic_path``; see :func:`src.inference.input_paths.expand`.
        exclude: patterns of files and folders to leave out of them.
        default_exclude: whether the folders of :data:`src.data.folders.EXCLUDED_FOLDERS` are left out.
        reading: limits of reading images.
        model_path: checkpoint or exported model.
        expected: properties that the model must have.
        runtime: engine, device and input size.
        exact: resize exactly as the released code does.
        num_threads: threads that PyTorch and ONNX Runtime compute with; None for PyTorch's default.
        labels: labels to choose tags from.
        rule: selection of tags. Without ``top_k`` and ``threshold``, the best ten.
        outputs: files to write.
        reads: (flag, file or folder that is read), except for images.
        batch_size: images per forward pass.
        workers: threads that read images.
    """

    images: tuple[str, ...]
    exclude: tuple[str, ...]
    default_exclude: bool
    reading: Reading
    model_path: Path
    expected: ExpectedModel
    runtime: Runtime
    exact: bool
    num_threads: int | None
    labels: LabelOptions
    rule: TagRule
    outputs: OutputOptions
    reads: tuple[tuple[str, Path], ...]
    batch_size: int
    workers: int


def infer_parser(description: str | None) -> ArgumentParser:
    """Build the parser with all flags, in groups."""
    parser = ArgumentParser(prog="infer.py", description=description)
    parser.add_argument(
        "--pic_path",
        nargs="+",
        type=file_name,
        required=True,
        metavar="PATH",
        help="images, folders (searched recursively), quoted patterns, .txt files or @FILE with one path per line, or "
        "- to read paths from standard input",
    )
    _add_reading_flags(parser)
    _add_model_flags(parser)
    _add_tag_flags(parser)
    add_flags(parser.add_argument_group("output"), OutputOptions, separator="_")
    _add_speed_flags(parser)
    return parser


def infer_settings(args: argparse.Namespace) -> InferSettings:
    """Check the flags against each other and group them.

    Raises:
        UserError: flags contradict each other, or the file of own words cannot be read.
    """
    if args.pretrain_backbone:
        raise UserError(
            f"--pretrain-backbone 1: {args.model_path} would be a backbone without a head, which cannot tag; "
            "train one with train.py"
        )
    outputs = settings_of(OutputOptions, args)
    if args.resume and not outputs.results:
        raise UserError("--resume needs an output: give --json, --csv or --parquet")
    if args.overwrite and not outputs.files:
        raise UserError("--overwrite needs an output: give --json, --csv, --parquet or --html")
    if outputs.no_picture and outputs.explain is None and outputs.path_output != OutputOptions.path_output:
        raise UserError(f"--path_output {outputs.path_output}: has no effect with --no_picture; leave one of them out")
    if args.resume and args.overwrite:
        raise UserError("--resume and --overwrite contradict each other; give one of them")
    if args.resume and args.html is not None:
        raise UserError("--resume and --html: the page holds the images of one run only; leave one of them out")
    return InferSettings(
        images=tuple(args.pic_path),
        exclude=tuple(args.exclude),
        default_exclude=not args.no_default_exclude,
        reading=Reading(args.max_pixels, args.truncated),
        model_path=args.model_path,
        expected=ExpectedModel(args.model_name, args.num_rows, args.wordvec_dim),
        runtime=Runtime(args.engine, args.device, args.input_size),
        exact=args.exact_pictures,
        num_threads=args.num_threads,
        labels=LabelOptions(
            args.dataset_path, args.dataset_type, _own_words(args), args.only_tags, word_vectors=args.word_vectors
        ),
        rule=TagRule(args.top_k, args.threshold, args.scores, args.seen_bias),
        outputs=outputs,
        reads=_reads(args),
        batch_size=args.batch_size,
        workers=args.workers,
    )


def _reads(args: argparse.Namespace) -> tuple[tuple[str, Path], ...]:
    """Return the files and folders that flags name to be read."""
    reads = [*model_inputs("--model_path", args.model_path), *list_inputs("--pic_path", args.pic_path)]
    if args.tags_file is not None:
        reads.append(("--tags_file", args.tags_file))
    if args.dataset_path is not None:
        reads.append(("--dataset_path", args.dataset_path))
    if args.word_vectors is not None:
        reads += vector_inputs("--word_vectors", args.word_vectors)
    return tuple(reads)


def _own_words(args: argparse.Namespace) -> list[str] | None:
    """Collect the words of ``--tags`` and ``--tags_file``; None if neither is given."""
    if args.tags is None and args.tags_file is None:
        if args.only_tags or args.word_vectors is not None:
            name = "--only_tags" if args.only_tags else "--word_vectors"
            raise UserError(f"{name} needs own words: give --tags or --tags_file too")
        return None
    words = [] if args.tags is None else printable(args.tags).split(",")
    if args.tags_file is not None:
        lines = read_lines(args.tags_file, "--tags_file")
        words += lines
        if not any(lines):
            raise UserError(f"--tags_file {args.tags_file}: holds no word; write one per line")
    return words


def fitted_or_float(text: str) -> float | str:
    """Parse a finite number or ``fitted`` (an argparse type)."""
    if text == "fitted":
        return text
    try:
        return finite_float(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is neither 'fitted' nor a number that float32 holds") from error


def _add_model_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument_group("model").add_argument
    add(
        "--model_path",
        type=Path,
        default=QUICK_START,
        metavar="FILE",
        help="checkpoint of train.py or of the released code, or exported model of export.py",
    )
    add(
        "--dataset_path",
        type=Path,
        metavar="DIR",
        help="metadata folder whose labels replace the checkpoint's; required for checkpoints of the released code "
        "unless ./data/NUS_WIDE exists",
    )
    add("--dataset_type", choices=DATASET_KINDS, help="kind of --dataset_path (default: detected)")
    add("--model_name", metavar="NAME", help="backbone that the checkpoint must have (default: any)")
    add("--num_rows", type=positive_int, metavar="M", help="number of principal vectors it must have (default: any)")
    add("--wordvec_dim", type=positive_int, metavar="D", help="word-vector length it must have (default: any)")
    add(
        "--input_size",
        type=positive_int,
        metavar="PIXELS",
        help="side of the square that images are resized to (default: the checkpoint's)",
    )
    add(
        "--pretrain-backbone",
        type=int,
        choices=(0, 1),
        default=0,
        help="accepted for compatibility with the released code; 1, a backbone without a head, cannot tag",
    )


def _add_reading_flags(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("images")
    group.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="GLOB",
        help="leave out files and folders of this name, or with a slash of this end of the path, below folders, of "
        "patterns and in lists: '*.gif', 'drafts', '2019/raw'; may be repeated. Hidden ones are left out of folders "
        "anyhow",
    )
    group.add_argument(
        "--no_default_exclude",
        action="store_true",
        help="do not leave out the folders of thumbnails, caches and deleted files that file servers, photo managers "
        "and systems make, such as @eaDir, #recycle and '*.lrdata' (docs/tagging.md)",
    )
    add_reading_flags(group)


def _add_tag_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument_group("tags").add_argument
    add(
        "--top_k",
        type=positive_int,
        metavar="K",
        help="maximum number of tags per image (default: 10; unlimited with --threshold)",
    )
    add(
        "--threshold",
        type=fitted_or_float,
        metavar="SCORE",
        help="minimum score of a tag, or 'fitted' for each label's own threshold from validate.py --fit-thresholds",
    )
    add(
        "--scores",
        choices=SCORES,
        default="raw",
        help="scores to show and to compare with --threshold: dot products, or calibrated probabilities (needs "
        "validate.py --fit-thresholds)",
    )
    add(
        "--seen_bias",
        type=fitted_or_float,
        metavar="BIAS",
        help="number to subtract from the scores of seen labels when ranking, or 'fitted' for the calibrated one "
        "(default: 0, or fitted with --scores probability)",
    )
    add("--tags", metavar="WORDS", help="own words to choose from too, separated by commas: 'sea turtle, sunset'")
    add("--tags_file", type=Path, metavar="FILE", help="file of own words, one per line")
    add("--only_tags", action="store_true", help="choose from the own words only, not from the checkpoint's labels")
    add(
        "--word_vectors",
        type=file_name,
        metavar="PATH",
        help="word vectors for the own words, as for prepare_data.py --word-vectors (default: the words in the "
        "checkpoint)",
    )


def _add_speed_flags(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("speed")
    group.add_argument(
        "--batch_size",
        type=positive_int,
        default=16,
        metavar="N",
        help="images per forward pass; with ONNX Runtime a batch is divided among threads",
    )
    group.add_argument(
        "--num_threads", type=thread_count, metavar="N", help="number of CPU threads to compute with (default: all)"
    )
    add_engine_flag(group)
    add_exact_flag(group)
    add_workers_flag(group)
    add_device_flag(group)
