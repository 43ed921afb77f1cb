"""The words of a list that are spelled most like words it does not have."""

from __future__ import annotations

from bisect import insort
from collections import defaultdict
from collections.abc import Collection
from itertools import combinations

from src.word_vectors.source import WordSource

MOST = 3  # suggestions for a word


def nearest_spellings(source: WordSource, words: Collection[str]) -> dict[str, list[str]]:
    """At most :data:`MOST` words of ``source`` for each of ``words``, nearest first, the earlier of the equally near.

    Near is one edit for words of up to four letters and two for longer ones; upper and lower case are the same. An edit
    leaves out, puts in or replaces a letter, or exchanges two neighbours.

    Words with an edit between them become equal by leaving out a letter of each, so that they are found through what is
    left: the time depends on the length of the list, hardly on how many ``words`` there are. Two letters are left out
    of ``words``, but only one of those of the list. That finds all that are one edit away; of those that are two edits
    away it misses the ones with two letters which the other word lacks.

    Raises:
        UserError: the file is damaged.
    """
    queries = {word.lower() for word in words}
    of_remains: dict[str, list[str]] = defaultdict(list)
    for query in queries:
        for remains in _leaving_out(query, _reach(query)):
            of_remains[remains].append(query)
    lengths = {len(remains) + change for remains in of_remains for change in (0, 1)}
    best: dict[str, list[tuple[int, int, str]]] = {query: [] for query in queries}
    place = 0

    def look(word: str) -> bool:
        nonlocal place
        place += 1
        if len(word) in lengths:
            lower = word.lower()
            near = {query for remains in _leaving_out(lower, 1) for query in of_remains.get(remains, ())}
            for query in near:
                _keep_if_near(best[query], query, lower, word, place)
        return False

    list(source.scan(look))  # yields nothing: only the spelling of the words matters
    return {word: [near for _, _, near in best[word.lower()]] for word in words}


def _reach(word: str) -> int:
    return 1 if len(word) <= 4 else 2


def _leaving_out(word: str, most: int) -> set[str]:
    """``word`` and what is left of it without up to ``most`` of its letters."""
    if most == 1:  # done for every word of a list
        return {word, *(word[:place] + word[place + 1 :] for place in range(len(word)))}
    return {"".join(kept) for count in range(most + 1) for kept in combinations(word, len(word) - count)}


def _keep_if_near(best: list[tuple[int, int, str]], query: str, lower: str, word: str, place: int) -> None:
    if len(best) == MOST and best[-1][0] == 1:
        return  # none is nearer, and of the equally near the earlier count
    distance = edit_distance(query, lower)
    if 0 < distance <= _reach(query) and all(lower != kept.lower() for _, _, kept in best):
        insort(best, (distance, place, word))
        del best[MOST:]


def edit_distance(first: str, second: str) -> int:
    """The fewest edits from one word to the other, where no letter is edited twice.

    >>> edit_distance("aeroplane", "airplane"), edit_distance("teh", "the")
    (2, 1)
    """
    before: list[int] = []
    row = list(range(len(second) + 1))
    for i, letter in enumerate(first, start=1):
        earlier, before, row = before, row, [i]
        for j, other in enumerate(second, start=1):
            edits = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == second[j - 2] and other == first[i - 2]:
                edits = min(edits, earlier[j - 2] + 1)
            row.append(edits)
    return row[-1]
