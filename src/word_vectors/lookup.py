"""Vectors of labels, messages about labels without one, and aliases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from src.errors import UserError, name_some, raise_collected
from src.text import shortened
from src.utils.files import read_lines
from src.word_vectors.base import WordSource
from src.word_vectors.finding import find_all, read_forms, suggest

_LONGEST_SHOWN = 80  # letters of a label in a message
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
        notes: flaws of the source, and words that it has more than once.
        source: name of the source of the vectors.
        where: start of error messages: the flag that named the source, and its name.
    """

    labels: list[str]
    vectors: Tensor
    missing: list[str]
    found_as: dict[str, str]
    suggestions: dict[str, list[str]]
    notes: list[str]
    source: str
    where: str


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
        UserError: an alias is for no label, the source is damaged, or a vector has numbers that are NaN or infinite.
    """
    texts = dict(labels) if isinstance(labels, Mapping) else {label: label for label in labels}
    strangers = sorted(alias.keys() - texts.keys())
    if strangers:
        raise UserError(f"--alias: no such label: {name_some(strangers)}; give aliases for labels, as tag=word")
    texts.update(alias)
    wanted = list(dict.fromkeys(texts.values()))
    table, repeated = read_forms(source, wanted, loose) if source.has_word_list else ({}, [])
    of_text = find_all(source, wanted, table, loose)
    found = {label: of_text[text] for label, text in texts.items() if text in of_text}
    missing = {label: text for label, text in texts.items() if text not in of_text}
    repeats = [f"has words more than once, of which the first vector counts: {name_some(repeated)}"] if repeated else []
    columns = [of_label.vector for of_label in found.values()]
    vectors = np.stack(columns, axis=1) if columns else np.empty((source.dim, 0))
    return LabelVectors(
        labels=list(found),
        vectors=torch.from_numpy(vectors.astype(np.float32)),
        missing=list(missing),
        found_as={
            label: f"alias {of_label.how}" if label in alias else of_label.how
            for label, of_label in found.items()
            if label in alias or of_label.how != texts[label]
        },
        suggestions=suggest(source, missing, table, loose) if missing and source.has_word_list else {},
        notes=[f"{source.name}: {note}" for note in (*source.notes, *repeats)],
        source=source.name,
        where=source.where,
    )


def missing_message(found: LabelVectors) -> str:
    """Return the message about all labels without a vector, each with words of similar spelling."""
    total = len(found.labels) + len(found.missing)
    lines = [f"{found.where}: no vector for {len(found.missing)} of the {total} labels:"]
    for label in found.missing:
        near = found.suggestions.get(label)
        shown = shortened(label, _LONGEST_SHOWN)
        lines.append(f"{shown} (similar: {', '.join(near)})" if near else shown)
    lines.append(
        "give --alias tag=word or --alias-file FILE to look up another word, --missing drop to leave these labels out, "
        "or other word vectors"
    )
    return "\n  ".join(lines)


def read_aliases(pairs: Sequence[str], file: Path | None) -> dict[str, str]:
    """Parse ``--alias tag=word`` and the lines of ``--alias-file``: label -> text to look up instead.

    A line of the file is ``tag=word``, or tag and word separated by a tab; blank lines are ignored. Of several words
    for a tag the last counts, those of ``--alias`` before those of the file.

    Raises:
        UserError: all entries without ``=``, tag or word at once.
    """
    lines = [] if file is None else read_lines(file, "--alias-file")
    entries = [(f"--alias-file {file}, line {number}", line) for number, line in enumerate(lines, start=1) if line]
    entries += [(f"--alias {pair}", pair) for pair in pairs]
    aliases: dict[str, str] = {}
    problems = []
    for where, entry in entries:
        tag, _, word = (part.strip() for part in entry.partition("\t" if "\t" in entry else "="))
        if tag and word:
            aliases[tag] = word
        else:
            problems.append(f"{where}: not of the form tag=word")
    raise_collected(problems)
    return aliases
