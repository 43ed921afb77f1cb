"""Word vectors for labels, from the files people have."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from src.data.metadata import ExtraWords, detect_kind, load_metadata
from src.errors import UserError, name_some

_WORD = re.compile(r"[a-z][a-z'-]+")
_SEPARATORS = re.compile(r"[\s_-]+")


@dataclass
class Vocabulary:
    """Words and their vectors in the order of the file: most frequent first, in files that are trained on a corpus.

    Attributes:
        words: V words.
        vectors: [V, D] float32.
        source: where they are from.
    """

    words: list[str]
    vectors: np.ndarray
    source: str
    row_of: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.row_of = {}
        for row, word in enumerate(self.words):
            self.row_of.setdefault(word, row)

    def find(self, label: str) -> np.ndarray | None:
        """The unit vector [D] of a label, or None if it is unknown.

        That of the word as it stands, of the word in lower case, or the mean of its parts' ("traffic light").
        """
        for word in (label, label.lower(), _SEPARATORS.sub("-", label.lower())):
            if word in self.row_of:
                return _unit(self.vectors[self.row_of[word]])
        parts = [part for part in _SEPARATORS.split(label.lower()) if part]
        if len(parts) > 1 and all(part in self.row_of for part in parts):
            return _unit(np.mean([_unit(self.vectors[self.row_of[part]]) for part in parts], axis=0))
        return None


def _unit(vector: np.ndarray) -> np.ndarray:
    norm = float(np.linalg.norm(vector))
    return vector / norm if norm > 0 else vector


def read_vocabulary(path: str | Path) -> Vocabulary:
    """Read word vectors.

    Args:
        path: a metadata folder (its labels and their vectors), a GloVe text file (``word number number ...`` a line,
            plain or ``.gz``), or the JSON file of the ``wink-embeddings-sg-*`` packages of npm.

    Raises:
        UserError: the path is none of these, or the file is damaged.
    """
    path = Path(path)
    if path.is_dir():
        if detect_kind(path) is None:
            raise UserError(
                f"--word-vectors {path}: the folder is no metadata folder; give one, or a file of word vectors"
            )
        split = load_metadata(path).split
        return Vocabulary(list(split.labels), split.word_vectors.t().numpy().copy(), str(path))
    if not path.is_file():
        raise UserError(f"--word-vectors {path}: no such file or folder")
    try:
        if path.suffix == ".json":
            return _read_wink(path)
        return _read_glove(path)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, EOFError, zlib.error) as error:
        raise UserError(f"--word-vectors {path}: damaged or of another format: {error}") from error


def _read_wink(path: Path) -> Vocabulary:
    """{"dimensions": D, "words": [...], "vectors": {word: [D numbers, norm, index]}}."""
    content = json.loads(path.read_text(encoding="utf-8"))
    try:
        dim, words, vectors = content["dimensions"], content["words"], content["vectors"]
        array = np.array([vectors[word][:dim] for word in words], dtype=np.float32)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"--word-vectors {path}: not the JSON of a wink-embeddings package: {error}") from error
    return Vocabulary(words, array, path.name)


def _read_glove(path: Path) -> Vocabulary:
    words: list[str] = []
    rows: list[np.ndarray] = []
    dim = 0
    for number, line in _lines(path):
        word, *numbers = line.rstrip().split(" ")
        if 0 < dim < len(numbers) and not any(map(_is_number, numbers[:-dim])):
            word, numbers = " ".join([word, *numbers[:-dim]]), numbers[-dim:]  # glove.840B has words with spaces
        if number == 1 and len(numbers) == 1:
            continue  # the "V D" line of word2vec's text format
        try:
            row = np.array(numbers, dtype=np.float32)
        except ValueError as error:
            raise UserError(f"--word-vectors {path}, line {number}: not 'word number number ...': {error}") from error
        dim = dim or len(row)
        if len(row) != dim or dim == 0:
            raise UserError(f"--word-vectors {path}, line {number}: {len(row)} numbers, but the first line has {dim}")
        words.append(word)
        rows.append(row)
    if not words:
        raise UserError(f"--word-vectors {path}: the file is empty")
    return Vocabulary(words, np.stack(rows), path.name)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as stream:
        yield from enumerate(stream, start=1)


def label_vectors(vocabulary: Vocabulary, labels: Iterable[str]) -> tuple[list[str], Tensor, list[str]]:
    """Unit vectors of labels.

    Returns:
        (labels that have one, their vectors [D, C], labels that have none).
    """
    found: list[str] = []
    vectors: list[np.ndarray] = []
    missing: list[str] = []
    for label in labels:
        vector = vocabulary.find(label)
        if vector is None or not np.any(vector):
            missing.append(label)
        else:
            found.append(label)
            vectors.append(vector)
    if not found:
        raise UserError(f"--word-vectors {vocabulary.source}: none of the labels has a vector ({name_some(missing)})")
    return found, torch.from_numpy(np.stack(vectors, axis=1).astype(np.float32)), missing


def frequent_words(vocabulary: Vocabulary, count: int, leave_out: Sequence[str]) -> ExtraWords | None:
    """The first ``count`` words of letters, apostrophes and hyphens that are not in ``leave_out``.

    None if ``count`` is 0.
    """
    if count == 0:
        return None
    skipped = set(leave_out)
    rows = [
        row
        for row, word in enumerate(vocabulary.words)
        if _WORD.fullmatch(word) and word not in skipped and np.any(vocabulary.vectors[row])
    ][:count]
    vectors = (
        np.stack([_unit(vocabulary.vectors[row]) for row in rows], axis=1)
        if rows
        else np.empty((vocabulary.vectors.shape[1], 0))
    )
    return ExtraWords(tuple(vocabulary.words[row] for row in rows), torch.from_numpy(vectors.astype(np.float32)))
