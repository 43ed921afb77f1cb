"""The labels of several metadata folders as one list: alike spellings, ``--same``, seen and unseen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from src.data.metadata import Metadata
from src.errors import UserError, name_some, raise_collected
from src.prepare.table_tags import same_tag_key


@dataclass
class CombinedLabels:
    """Labels of several folders.

    Attributes:
        names: C labels: those of the first folder, then the new ones of the next, and so on.
        columns: of each folder, the column of each of its labels among ``names``.
        seen, unseen: a label that is unseen in any folder is unseen; else one that is seen in any is seen.
        notes: findings for the report, one line each.
        notes_on_sides: further ones if these sides are taken.
        notes_on_hidden: further ones if others are taken.
    """

    names: list[str]
    columns: list[list[int]]
    seen: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    notes_on_sides: list[str] = field(default_factory=list)
    notes_on_hidden: list[str] = field(default_factory=list)


def combine_labels(sources: Sequence[Metadata], same: Sequence[str]) -> CombinedLabels:
    """Join the labels of folders.

    Args:
        sources: the folders.
        same: values of ``--same``.

    Raises:
        UserError: a value of ``--same`` is malformed, contradicts another, or names no label.
    """
    spellings: dict[str, list[str]] = {}  # of each label, as the folders write it
    for metadata in sources:
        for label in metadata.split.labels:
            known = spellings.setdefault(_key(label), [])
            if label not in known:
                known.append(label)
    target_of = _targets(same, spellings)
    column_of: dict[str, int] = {}
    columns = [
        [
            column_of.setdefault(target_of.get(_key(label), _key(label)), len(column_of))
            for label in metadata.split.labels
        ]
        for metadata in sources
    ]
    labels = CombinedLabels([spellings[key][0] for key in column_of], columns)
    _note_merged(labels, spellings, target_of)
    _divide(labels, sources)
    return labels


def _key(label: str) -> str:
    return same_tag_key(label) or label


def _targets(same: Sequence[str], known: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return for each label that ``--same`` joins to another what it is in the end, both as keys."""
    step: dict[str, str] = {}
    problems = []
    for pair in same:
        written = [part.strip() for part in pair.partition("=")[::2]]
        other, label = map(_key, written)
        absent = [name for name, key in zip(written, (other, label), strict=True) if key not in known]
        if not all(written):
            problems.append(f"--same {pair}: not of the form OTHER=LABEL")
        elif absent:
            problems.append(f"--same {pair}: no folder has the label {name_some(absent)}")
        elif other == label:
            problems.append(f"--same {pair}: is one label already; leave it out")
        elif step.setdefault(other, label) != label:
            problems.append(f"--same {pair}: {written[0]} is {known[step[other]][0]} already; name it once")
    raise_collected(problems)
    target_of = {}
    for start in step:
        passed = [start]
        while passed[-1] in step:
            passed.append(step[passed[-1]])
            if passed[-1] in passed[:-1]:
                circle = " = ".join(known[key][0] for key in passed)
                raise UserError(f"--same: goes round in a circle: {circle}; leave one of these out")
        target_of[start] = passed[-1]
    return target_of


def _note_merged(labels: CombinedLabels, spellings: Mapping[str, Sequence[str]], target_of: Mapping[str, str]) -> None:
    shared = [
        name for column, name in enumerate(labels.names) if sum(column in own for own in map(set, labels.columns)) > 1
    ]
    labels.notes.append(f"{len(shared):,} labels are in several folders: {name_some(shared, 20) or 'none'}")
    alike = [f"{first} (also {', '.join(others)})" for first, *others in spellings.values() if others]
    if alike:
        labels.notes.append(
            f"merged {len(alike):,} labels that differ only in case, blanks, - or _: {name_some(alike, 20)}"
        )
    if target_of:
        joined = [f"{spellings[other][0]} = {spellings[key][0]}" for other, key in target_of.items()]
        labels.notes.append(f"merged {len(joined):,} labels by --same: {name_some(joined, 20)}")


def _divide(labels: CombinedLabels, sources: Sequence[Metadata]) -> None:
    """Set the sides, and what to report about them."""
    of_side: dict[str, set[int]] = {"seen": set(), "unseen": set()}
    for metadata, columns in zip(sources, labels.columns, strict=True):
        for side, found in of_side.items():
            found.update(columns[column] for column in getattr(metadata.split, side))
        if metadata.split.unseen:
            labels.notes_on_hidden.append(
                f"{metadata.folder}: {len(metadata.split.unseen):,} labels are hidden in its training images: unknown "
                "there"
            )
    unseen, seen = of_side["unseen"], of_side["seen"]
    labels.unseen = [name for column, name in enumerate(labels.names) if column in unseen]
    labels.seen = [name for column, name in enumerate(labels.names) if column in seen - unseen]
    both = [name for column, name in enumerate(labels.names) if column in seen & unseen]
    if both:
        labels.notes_on_sides.append(
            f"{len(both):,} labels are seen in one folder and unseen in another: unseen here, and hidden in all "
            f"training images (--unseen none trains on them): {name_some(both, 20)}"
        )
