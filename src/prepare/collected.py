"""The content of a data source, as every reader returns it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from src.data.labels import LabelledImages
from src.data.metadata import ExtraWords
from src.word_vectors.lookup import LabelVectors


@dataclass
class Collected:
    """Labels and images of a data source, read and checked, before word vectors.

    Attributes:
        name: of the data set, for reports.
        labels: C names, in the column order of the parts.
        parts: ``train`` and ``val`` images with all their labels.
        image_root: the image folder, or None.
        seen, unseen: the labels of each side; a label may be on neither. ``seen`` of None: all that are not unseen.
        own_vectors: used where no flag names word vectors: returns those that the source brings, and further words.
        choose_unseen: used where ``unseen`` is None: (labels, their vectors [D, C]) -> the unseen labels.
        texts: label -> text to look up instead of the label itself.
        notes: findings, repairs and omissions for the report, one line each.
        missing_pictures: images that the label files list and the image folder lacks.
        files: path in the metadata folder -> content of further files.
    """

    name: str
    labels: Sequence[str]
    parts: dict[str, LabelledImages]
    image_root: str | Path | None
    unseen: Sequence[str] | None = None
    seen: Sequence[str] | None = None
    own_vectors: Callable[[], tuple[LabelVectors, ExtraWords | None]] | None = None
    choose_unseen: Callable[[Sequence[str], Tensor], Sequence[str]] | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    missing_pictures: list[str] = field(default_factory=list)
    files: Mapping[str, bytes] = field(default_factory=dict)
