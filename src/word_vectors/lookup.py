"""Vectors of labels, messages about labels without one, aliases, and the frequent words of a vocabulary."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from src.data.metadata import ExtraWords
from src.errors import UserError, name_some, raise_collected
from src.utils.files import read_lines
from src.word_vectors.finding import Table, find_all, read_forms, unit_vector, unknown_parts
from src.word_vectors.forms import parts_of
from src.word_vectors.source import WordSource
from src.word_vectors.suggestions import nearest_spellings

_WORD = re.compile(r"[a-z][a-z'-]+")
_NO_ALIAS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class LabelVectors:
    """Result of :func:`label_vectors`.

    Attributes:
        labels: C labels that have a vector, in the given order.
        vectors: [D, C] float32, unit columns.
        missing: labels without a vector.
        found_as: label -> the form that was found, for labels that were not found verbatim.
        suggestions: missing label -> at most three texts of similar spelling that would be found.
        source: name of the source of the vectors.
        flag: the flag that named the source.
        notes: further lines for the report.
    """

    labels: list[str]
    vectors: Tensor
    missing: list[str]
    found_as: dict[str, str]
    suggestions: dict[str, list[str]]
    source: str
    flag: str = "--word-vectors"
    notes: list[str] = field(default_factory=list)


def label_vectors(
    source: WordSource,
    labels: Mapping[str, str] | Sequence[str],
    *,
    alias: Mapping[str, str] = _NO_ALIAS,
    loose: bool = True,
) -> LabelVectors:
    """Find the vectors of labels in one pass over ``source``.

    The first of these forms that ``source`` has is used: the text verbatim; in lower case; its words joined by a
    hyphen in lower case; joined by hyphens, underscores or spaces; with capitals, or in capitals alone; the mean of the
    unit vectors of its words, each in lower case, verbatim, or in the other number (a single word: that word in the
    other number); its words run together; and if ``source`` computes vectors from sub-words, the mean that includes
    those of unlisted words. An encoder gets the whole text. A zero vector counts as none.

    Args:
        source: the words.
        labels: the labels, or label -> the text to look up for it.
        alias: label -> the text to look up instead.
        loose: let plurals, singulars and words run together stand in for words that ``source`` lacks.

    Raises:
        UserError: an alias is for no label, or the source is damaged.
    """
    text_of = list(labels.items()) if isinstance(labels, Mapping) else [(label, label) for label in labels]
    strangers = sorted(alias.keys() - {label for label, _ in text_of})
    if strangers:
        raise UserError(f"--alias: no such label: {name_some(strangers)}; give aliases for labels, as tag=word")
    pairs = [(label, alias.get(label, text)) for label, text in text_of]
    texts = list(dict.fromkeys(text for _, text in pairs))
    table, notes = read_forms(source, texts, loose) if source.has_word_list else ({}, [])
    found = find_all(source, texts, table, loose)
    there = [(label, found[text]) for label, text in pairs if text in found]
    missing = {label: text for label, text in pairs if text not in found}
    columns = [of_label.vector for _, of_label in there]
    vectors = np.stack(columns, axis=1) if columns else np.empty((source.dim or 0, 0))
    found_as = {}
    for label, text in pairs:
        if text in found and (label in alias or found[text].how != text):
            how = found[text].how
            found_as[label] = f"alias {how}" if label in alias else how
    return LabelVectors(
        [label for label, _ in there],
        torch.from_numpy(vectors.astype(np.float32)),
        list(missing),
        found_as,
        _suggest(source, missing, table, loose) if missing and source.has_word_list else {},
        source.name,
        source.flag,
        notes,
    )


def _suggest(source: WordSource, missing: Mapping[str, str], table: Table, loose: bool) -> dict[str, list[str]]:
    """Suggest texts for missing labels (label -> text), in which words of similar spelling replace the unknown ones."""
    unknown = {label: unknown_parts(text, table, loose) for label, text in missing.items()}
    near = nearest_spellings(source, {part for parts in unknown.values() for part in parts})
    suggestions: dict[str, list[str]] = {}
    for label, parts in unknown.items():
        of_parts = [near[part] for part in parts]
        most = max(map(len, of_parts), default=0) if all(of_parts) else 0
        suggestions[label] = [
            " ".join(
                near[part][min(rank, len(near[part]) - 1)] if part in parts else part
                for part in parts_of(missing[label])
            )
            for rank in range(most)
        ]
    return suggestions


def frequent_words(source: WordSource, count: int, leave_out: Collection[str]) -> ExtraWords | None:
    """Return the first ``count`` words of letters, apostrophes and hyphens that are not in ``leave_out``, or None.

    Raises:
        UserError: the source has no list of words, or is damaged.
    """
    if count == 0:
        return None
    if not source.has_word_list:
        raise UserError(
            f"--extra-words {count}: {source.flag} {source.name} has no list of words; leave --extra-words out, or "
            "give --word-vectors"
        )
    left_out = set(leave_out)
    vectors: dict[str, np.ndarray] = {}
    for word, vector in source.scan(lambda word: word not in left_out and _WORD.fullmatch(word) is not None):
        left_out.add(word)  # a repeated word counts once, with its first vector
        unit = unit_vector(vector)
        if unit is not None:
            vectors[word] = unit.astype(np.float32)
            if len(vectors) == count:
                break
    matrix = np.stack(list(vectors.values()), axis=1) if vectors else np.empty((source.dim or 0, 0), np.float32)
    return ExtraWords(tuple(vectors), torch.from_numpy(matrix))


def missing_message(found: LabelVectors) -> str:
    """Return the message about all labels without a vector, each with words of similar spelling."""
    total = len(found.labels) + len(found.missing)
    how_many = (
        f"no vector for {len(found.missing)} of the {total} labels"
        if found.labels
        else "none of the labels has a vector"
    )
    lines = [f"{found.flag} {found.source}: {how_many}:"]
    for label in found.missing:
        near = found.suggestions.get(label)
        lines.append(f"{label} (similar: {', '.join(near)})" if near else label)
    lines.append(
        "give --alias tag=word or --alias-file FILE to look up another word, --missing drop to leave these labels out, "
        "or other word vectors"
    )
    return "\n  ".join(lines)


def read_aliases(pairs: Sequence[str], file: Path | None) -> dict[str, str]:
    """Parse ``--alias tag=word`` and the lines of ``--alias-file``: label -> text to look up instead.

    A line of the file is ``tag=word``, or tag and word separated by a tab; blank lines are ignored. ``--alias``
    overrides the file.

    Raises:
        UserError: all mistakes at once: an entry without ``=``, tag or word, or a tag with two different words.
    """
    flags = [(f"--alias {pair}", pair) for pair in pairs]
    lines = [] if file is None else read_lines(file, "--alias-file")
    in_file = [(f"--alias-file {file}, line {n}", line) for n, line in enumerate(lines, start=1) if line]
    problems: list[str] = []
    aliases = {**_parse_aliases(in_file, problems), **_parse_aliases(flags, problems)}
    raise_collected(problems)
    return aliases


def _parse_aliases(entries: Sequence[tuple[str, str]], problems: list[str]) -> dict[str, str]:
    aliases: dict[str, str] = {}
    for where, entry in entries:
        tag, _, word = (part.strip() for part in entry.partition("\t" if "\t" in entry else "="))
        if not tag or not word:
            problems.append(f"{where}: not of the form tag=word")
        elif aliases.setdefault(tag, word) != word:
            problems.append(f"{where}: {tag!r} has another word already, {aliases[tag]!r}; give one")
    return aliases
