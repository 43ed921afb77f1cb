"""Words of a list that are spelled most like words it does not have."""

from __future__ import annotations

from collections.abc import Collection

from rapidfuzz import process
from rapidfuzz.distance import OSA

from src.word_vectors.source import WordSource

MOST = 3  # suggestions per word


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
    found = {}
    for word in words:
        query = word.lower()
        reach = 1 if len(query) <= 4 else 2
        near = process.extract(query, choices, scorer=OSA.distance, score_cutoff=reach, limit=None)
        ranked = sorted((distance, rank) for _, distance, rank in near if distance > 0)
        found[word] = [listed[choices[rank]] for _, rank in ranked[:MOST]]
    return found
