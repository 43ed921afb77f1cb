"""The best form of a text among the words of a source, or else words of similar spelling."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import OSA

from src.errors import UserError
from src.word_vectors.base import WordSource
from src.word_vectors.forms import all_forms, joined, part_forms, parts_of, spellings

MOST = 3  # suggestions per word
_LONGEST_QUERY = 200  # letters of a word that is compared with others
_MOST_PARTS = 8  # words of a label that gets suggestions
_ROUNDING = 1e-6  # tolerance for float32 vectors of length 1


@dataclass(frozen=True)
class Found:
    """A vector and the word or words that it belongs to."""

    vector: np.ndarray  # [D] float64, of length 1
    how: str  # the form that has it, or the words it was computed from
    forms: tuple[str, ...] = ()  # the listed words that it is, or is the mean of


Table = Mapping[str, Found]  # form -> its vector


def unit_vector(vector: np.ndarray) -> np.ndarray | None:
    """Scale a vector to length 1 in float64; None if it is zero. One of length 1 or with NaN is not changed."""
    with np.errstate(invalid="ignore"):
        vector = vector.astype(np.float64)
    norm = np.linalg.norm(vector)
    if abs(norm - 1) < _ROUNDING or not np.isfinite(norm):
        return vector
    return vector / norm if norm > 0 else None


def read_forms(source: WordSource, texts: Sequence[str], loose: bool) -> tuple[dict[str, Found], list[str]]:
    """Read the forms of the texts that have a vector; of a repeated word the first counts.

    The scan always goes to the end, so that the same files are refused whatever the texts are.

    Returns:
        form -> its vector, and the words that the source has more than once.
    """
    forms = {form for text in texts for form in all_forms(text, loose)}
    units: dict[str, np.ndarray | None] = {}
    repeated: dict[str, None] = {}
    for word, vector in source.scan(forms.__contains__):
        if word in units:
            repeated[word] = None
        else:
            units[word] = unit_vector(vector)
    return {word: Found(unit, word, (word,)) for word, unit in units.items() if unit is not None}, list(repeated)


def find_all(source: WordSource, texts: Sequence[str], table: Table, loose: bool) -> dict[str, Found]:
    """Return the vector of each text that has one, from the table or computed by the source.

    Raises:
        UserError: a vector has numbers that are NaN or infinite.
    """
    found = _find_all(source, texts, table, loose)
    for text, of_text in found.items():
        if not np.isfinite(of_text.vector).all():
            how = f" ({of_text.how})" if of_text.how != text else ""
            raise UserError(
                f"{source.where}: the vector of {text!r}{how} has numbers that are NaN, infinite or unreadable; look "
                "up another word, or give other vectors"
            )
    return found


def _find_all(source: WordSource, texts: Sequence[str], table: Table, loose: bool) -> dict[str, Found]:
    if not source.has_word_list:
        return _compute(source, texts, {text: " ".join(parts_of(text)) for text in texts})
    listed = {text: found for text in texts if (found := find_listed(text, table, loose))}
    rest = [text for text in texts if text not in listed]
    unknown = list(dict.fromkeys(part.lower() for text in rest for part in unknown_parts(text, table, loose)))
    computed = _compute(source, unknown, {word: f"sub-words of {word}" for word in unknown})
    return {**listed, **{text: found for text in rest if (found := _find(text, table, computed, loose))}}


def _compute(source: WordSource, texts: Sequence[str], how: Mapping[str, str]) -> dict[str, Found]:
    units = {
        text: None if vector is None else unit_vector(vector)
        for text, vector in zip(texts, source.lookup(texts), strict=True)
    }
    return {text: Found(unit, how[text]) for text, unit in units.items() if unit is not None}


def find_listed(text: str, table: Table, loose: bool) -> Found | None:
    """Return the best form of the text that has a vector, or the mean of its words if all are listed."""
    return _find(text, table, {}, loose)


def _find(text: str, table: Table, computed: Table, loose: bool) -> Found | None:
    """Return the best form of the text that has a vector; ``computed`` has the vectors of unlisted words."""
    whole = _first(spellings(text), table)
    if whole is not None:
        return whole
    parts = [_first(part_forms(part, loose), table) or computed.get(part.lower()) for part in parts_of(text)]
    known = [part for part in parts if part is not None]
    if known and len(known) == len(parts):
        mean = unit_vector(np.mean([part.vector for part in known], axis=0))
        names = ", ".join(part.how for part in known)
        forms = tuple(form for part in known for form in part.forms)
        return None if mean is None else Found(mean, f"mean of {names}" if len(known) > 1 else names, forms)
    return _first(joined(text), table) if loose else None


def _first(forms: Sequence[str], table: Table) -> Found | None:
    return next((table[form] for form in forms if form in table), None)


def unknown_parts(text: str, table: Table, loose: bool) -> list[str]:
    """Return the words of the text that have no vector in any form."""
    return [part for part in parts_of(text) if _first(part_forms(part, loose), table) is None]


def suggest(source: WordSource, missing: Mapping[str, str], table: Table, loose: bool) -> dict[str, list[str]]:
    """Suggest texts for missing labels (label -> text), in which words of similar spelling replace the unknown ones.

    Very long labels get none.
    """
    unknown = {
        label: unknown_parts(text, table, loose)
        for label, text in missing.items()
        if len(parts_of(text)) <= _MOST_PARTS  # each takes a pass through all words
    }
    near = nearest_spellings(source, {part for parts in unknown.values() for part in parts})
    suggestions: dict[str, list[str]] = {}
    for label, parts in unknown.items():
        most = max((len(near[part]) for part in parts), default=0) if all(near[part] for part in parts) else 0
        choices = [near[part] if part in parts else [part] for part in parts_of(missing[label])]
        suggestions[label] = [" ".join(words[min(rank, len(words) - 1)] for words in choices) for rank in range(most)]
    return suggestions


def nearest_spellings(source: WordSource, words: Collection[str]) -> dict[str, list[str]]:
    """Find at most :data:`MOST` words of ``source`` for each of ``words``, nearest first, then in the source's order.

    Near is one edit for words of up to four letters and two for longer ones, regardless of case. An edit inserts,
    deletes or replaces a letter, or swaps two neighbours (optimal string alignment).

    Raises:
        UserError: the source is damaged.
    """
    listed: dict[str, str] = {}  # lower case -> first spelling in the source

    def collect(word: str) -> bool:
        listed.setdefault(word.lower(), word)
        return False

    list(source.scan(collect))  # yields nothing: only the spelling of the words matters
    choices = list(listed)
    longest = max(map(len, choices), default=0)
    found = {}
    for word in words:
        query = word.lower()
        reach = 1 if len(query) <= 4 else 2
        # Comparing two texts of n letters takes time n^2, and no word is that long
        comparable = choices if len(query) <= min(longest, _LONGEST_QUERY) + reach else []
        near = process.extract(query, comparable, scorer=OSA.distance, score_cutoff=reach, limit=None)
        found[word] = [listed[choice] for choice, distance, _ in near if distance > 0][:MOST]
    return found
