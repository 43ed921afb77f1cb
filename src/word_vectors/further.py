"""Words beyond the labels, for tagging with words that are none: those of a list, and the frequent ones of a source."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import torch

from src.data.metadata import ExtraWords
from src.errors import UserError
from src.word_vectors.base import WordSource
from src.word_vectors.finding import find_listed, read_forms, unit_vector

_WORD = re.compile(r"[a-z][a-z'-]+")


def frequent_words(source: WordSource, count: int, leave_out: Collection[str]) -> ExtraWords | None:
    """Return the first ``count`` words of letters, apostrophes and hyphens that are not in ``leave_out``, or None.

    Words whose vector is zero or damaged are passed over.

    Raises:
        UserError: the source has no list of words, or is damaged.
    """
    if count == 0:
        return None
    _check_list(source, f"--extra-words {count}")
    left_out = set(leave_out)
    vectors: dict[str, np.ndarray] = {}
    for word, vector in source.scan(lambda word: word not in left_out and _WORD.fullmatch(word) is not None):
        left_out.add(word)  # a repeated word counts once, with its first vector
        unit = unit_vector(vector)
        if unit is not None and np.isfinite(unit).all():
            vectors[word] = unit.astype(np.float32)
            if len(vectors) == count:
                break
    return _as_words(vectors, source.dim)


def listed_words(source: WordSource, texts: Iterable[str], most: int | None, leave_out: Collection[str]) -> ExtraWords:
    """Return the words that it takes to look up these texts again, most frequent first: in the source's order.

    Texts are looked up as labels are, without other numbers. A text that the source has, also in another case or with
    other separators, is kept as it is. A text that is found as the mean of its words' vectors is kept as these words,
    of which the same mean is made when it is a tag: means would take most of the room. Words whose vector is zero or
    damaged are passed over.

    Args:
        source: the words with vectors.
        texts: words, and tags of several words.
        most: how many words to return at most; None returns all.
        leave_out: words not to return.

    Raises:
        UserError: the source has no list of words, or is damaged.
    """
    _check_list(source, "--extra-words-file")
    texts = list(dict.fromkeys(texts))
    table, _ = read_forms(source, texts, loose=False)
    form_of: dict[str, str] = {}  # word to keep -> the word of the source that has its vector
    for text in texts:
        found = find_listed(text, table, loose=False)
        if found is not None:
            form_of |= {text: found.forms[0]} if len(found.forms) == 1 else {form: form for form in found.forms}
    rank_of = {form: rank for rank, form in enumerate(table)}
    kept = [word for word, form in form_of.items() if np.isfinite(table[form].vector).all()]
    kept = sorted({*kept}.difference(leave_out), key=lambda word: (rank_of[form_of[word]], word))[:most]
    return _as_words({word: table[form_of[word]].vector.astype(np.float32) for word in kept}, source.dim)


def _check_list(source: WordSource, flag: str) -> None:
    if not source.has_word_list:
        name = flag.partition(" ")[0]
        raise UserError(f"{flag}: {source.where} has no list of words; leave {name} out, or give --word-vectors")


def _as_words(vectors: Mapping[str, np.ndarray], dim: int) -> ExtraWords:
    matrix = np.stack(list(vectors.values()), axis=1) if vectors else np.empty((dim, 0), np.float32)
    return ExtraWords(tuple(vectors), torch.from_numpy(matrix))


def joined_words(parts: Sequence[ExtraWords]) -> ExtraWords | None:
    """Return the words of all parts, one part after another; None if there are none."""
    if not parts:
        return None
    words = tuple(word for part in parts for word in part.words)
    return ExtraWords(words, torch.cat([part.vectors for part in parts], dim=1))
