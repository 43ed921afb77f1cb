"""Fingerprints of word-vector spaces: vectors of another space than the model's give meaningless scores."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from src.errors import UserError
from src.word_vectors.base import WordSource

MAX_PROBES = 64


@dataclass(frozen=True)
class Space:
    """A fingerprint of a word-vector space.

    Attributes:
        dim: D.
        probes: probe word -> hash of the signs of its vector's D numbers. Signs are invariant to half precision and
            scaling, and those of 50 numbers agree by chance once in 10^15.
    """

    dim: int
    probes: Mapping[str, str]


def space_of(words: Sequence[str], vectors: Tensor) -> Space:
    """Return the fingerprint of a space by its first single words: the vector of a longer tag may be a mean.

    Args:
        words: V words.
        vectors: [D, V].
    """
    rows = [row for row, word in enumerate(words) if word.isalpha()][:MAX_PROBES]
    return Space(vectors.shape[0], {words[row]: _hash_of_signs(vectors[:, row].numpy()) for row in rows})


def _hash_of_signs(vector: np.ndarray) -> str:
    return hashlib.sha256(np.packbits(vector > 0).tobytes()).hexdigest()[:16]


def check_space(space: Space, source: WordSource) -> None:
    """Raise an error if word vectors are of another space.

    A label may have its vector under another name, so more than half of the probes that ``source`` has must agree,
    not all.

    Raises:
        UserError: the vectors have another length, are of another space, or have no word in common with the model's.
    """
    found: dict[str, np.ndarray] = {}
    for word, vector in source.scan(lambda word: word in space.probes):
        found.setdefault(word, vector)  # of a word that the file repeats the first counts
    if not source.has_word_list:
        computed = zip(space.probes, source.lookup(list(space.probes)), strict=True)
        found = {word: vector for word, vector in computed if vector is not None}
    found = {word: vector for word, vector in found.items() if np.isfinite(vector).all()}
    dim = next((len(vector) for vector in found.values()), source.dim)
    if dim not in (0, space.dim):
        raise UserError(f"{source.where}: vectors of length {dim}, but the model was trained with length {space.dim}")
    agreeing = sum(_hash_of_signs(vector) == space.probes[word] for word, vector in found.items())
    if 2 * agreeing <= len(found):
        raise UserError(
            f"{source.where}: {agreeing} of {len(space.probes)} probe words have the vectors that the model was "
            "trained with; give the file that the model's word vectors are from"
        )
