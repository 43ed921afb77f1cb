"""The words of ``--extra-words-file``: a plain list, or WordNet's index of nouns, verbs, adjectives or adverbs.

A line of an index (wndb(5WN) of WordNet 3) is ``lemma part-of-speech synset-count pointers... offsets...`` with ``_``
for blanks; the licence stands above it, in lines that begin with two blanks. Whether a synset is the name of one person
or place is in the data file beside the index, as a pointer ``@i`` (instance of).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from src.errors import UserError
from src.utils.files import read_text

_FLAG = "--extra-words-file"
_ENTRY = re.compile(r"\S+ [nvar] [1-9]\d* \d+ .*\d{8}\s*")
_LICENCE = "  "
_TAG = re.compile(r"[a-z][a-z'. -]+")  # leaves out numbers and single letters, which are nouns too
_INSTANCE = re.compile(r"^(\d{8}) [^|\n]* @i ", re.MULTILINE)


@dataclass(frozen=True)
class WordList:
    """Words of a file in its order, and notes for the report."""

    words: list[str]
    notes: list[str]


def read_word_list(path: Path) -> WordList:
    """Read words, one per line, or the lemmas of an index file of WordNet.

    Of an index, numbers and single letters are left out, and, if the data file is beside it, names of persons and
    places: lemmas all of whose meanings are instances.

    Raises:
        UserError: the file cannot be read, or holds no words.
    """
    lines = read_text(path, _FLAG).splitlines()
    entries = [line for line in lines if line.strip() and not line.startswith(_LICENCE)]
    if entries and _ENTRY.fullmatch(entries[0]):
        found = _lemmas(path, entries)
    else:
        found = WordList([line.strip() for line in lines if line.strip()], [])
    if not found.words:
        raise UserError(f"{_FLAG} {path}: holds no words; give one per line, or index.noun of WordNet")
    return found


def _lemmas(path: Path, entries: list[str]) -> WordList:
    if bad := next((line for line in entries if not _ENTRY.fullmatch(line)), None):
        raise UserError(f"{_FLAG} {path}: is an index of WordNet, but not in the line {bad[:80]!r}; get the file again")
    instances, notes = _instances(path)
    words, names = [], 0
    for fields in map(str.split, entries):
        is_name = instances.issuperset(fields[-int(fields[2]) :])
        word = fields[0].replace("_", " ")
        names += is_name
        if not is_name and _TAG.fullmatch(word):
            words.append(word)
    if names:
        notes.append(
            f"{_FLAG}: left out {names:,} of the {len(entries):,} lemmas, which are names of persons and places"
        )
    return WordList(words, notes)


def _instances(index: Path) -> tuple[set[str], list[str]]:
    """Return the offsets of the synsets that are instances; and a note if nobody knows them."""
    data = index.with_name("data." + index.name.partition(".")[2])
    try:
        return set(_INSTANCE.findall(read_text(data, _FLAG))), []
    except UserError:
        return set(), [f"{_FLAG}: names of persons and places are not left out, as {data} is not there to tell them"]
