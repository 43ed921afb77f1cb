"""Finding the best form of a text among the words of a source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from src.word_vectors.forms import joined, part_forms, parts_of, spellings
from src.word_vectors.source import WordSource


@dataclass(frozen=True)
class Found:
    """A vector and the word or words that it belongs to."""

    vector: np.ndarray  # [D] float64, of length 1
    how: str  # the form that has it, or the words it was computed from


_ROUNDING = 1e-6  # tolerance for float32 vectors of length 1

Table = Mapping[str, Found]  # form -> its vector


def unit_vector(vector: np.ndarray) -> np.ndarray | None:
    """Scale a vector to length 1 in float64; None if it is zero. A vector of length 1 is not changed."""
    vector = vector.astype(np.float64)
    norm = np.linalg.norm(vector)
    if abs(norm - 1) < _ROUNDING:
        return vector
    return vector / norm if norm > 0 else None


def read_forms(source: WordSource, texts: Sequence[str], loose: bool = True) -> tuple[dict[str, Found], list[str]]:
    """Read the forms of the texts that have a vector; return them and notes for the report.

    Stops once each text is found verbatim: no form is better, and of a repeated word the first counts.
    """
    forms = {form for text in texts for form in _all_forms(text, loose)}
    table: dict[str, Found] = {}
    seen: set[str] = set()
    waiting = set(texts)
    repeats = 0
    for word, vector in source.scan(forms.__contains__):
        if word in seen:
            repeats += 1
            continue
        seen.add(word)
        unit = unit_vector(vector)
        if unit is not None:
            table[word] = Found(unit, word)
            waiting.discard(word)
            if not waiting:
                break
    notes = [f"{source.name}: repeats {repeats:,} of the words that were looked up; the first of each counts"]
    return table, notes if repeats else []


def _all_forms(text: str, loose: bool) -> Iterator[str]:
    yield from spellings(text)
    yield from joined(text)
    for part in parts_of(text):
        yield from part_forms(part, loose)


def find_all(source: WordSource, texts: Sequence[str], table: Table, loose: bool = True) -> dict[str, Found]:
    """Return the vector of each text that has one, from the table or computed by the source."""
    if not source.has_word_list:
        vectors = source.lookup(texts)
        found = [
            (text, _computed(vector, " ".join(parts_of(text)))) for text, vector in zip(texts, vectors, strict=True)
        ]
        return {text: of_text for text, of_text in found if of_text is not None}
    listed = {text: of_text for text in texts if (of_text := _find(text, table, {}, loose)) is not None}
    unknown = [part for text in texts if text not in listed for part in unknown_parts(text, table, loose)]
    unknown = list(dict.fromkeys(part.lower() for part in unknown))
    computed = {
        word: of_word
        for word, vector in zip(unknown, source.lookup(unknown), strict=True)
        if (of_word := _computed(vector, f"sub-words of {word}")) is not None
    }
    rest = {text: of_text for text in texts if text not in listed and (of_text := _find(text, table, computed, loose))}
    return {**listed, **rest}


def _computed(vector: np.ndarray | None, how: str) -> Found | None:
    unit = None if vector is None else unit_vector(vector)
    return None if unit is None else Found(unit, how)


def _find(text: str, table: Table, computed: Table, loose: bool) -> Found | None:
    """Return the best form of the text that has a vector; ``computed`` has the vectors of unlisted words."""
    whole = next((table[form] for form in spellings(text) if form in table), None)
    if whole is not None:
        return whole
    parts = [_find_part(part, table, loose) or computed.get(part.lower()) for part in parts_of(text)]
    known = [part for part in parts if part is not None]
    if known and len(known) == len(parts):
        mean = unit_vector(np.mean([part.vector for part in known], axis=0))
        names = ", ".join(part.how for part in known)
        return None if mean is None else Found(mean, f"mean of {names}" if len(known) > 1 else names)
    return next((table[form] for form in joined(text) if form in table), None) if loose else None


def _find_part(part: str, table: Table, loose: bool) -> Found | None:
    return next((table[form] for form in part_forms(part, loose) if form in table), None)


def unknown_parts(text: str, table: Table, loose: bool = True) -> list[str]:
    """Return the words of the text that have no vector in any form."""
    return [part for part in parts_of(text) if _find_part(part, table, loose) is None]
