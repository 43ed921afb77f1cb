"""A zero-shot split: the labels, their seen and unseen sides, and a word vector for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from src.errors import UserError, name_some, raise_collected


@dataclass(frozen=True)
class ZeroShotSplit:
    """The C labels of a data set in their column order.

    Every target matrix, score matrix and word-vector matrix of the project has its columns in the order of ``labels``,
    never in the order of a data file.

    Attributes:
        labels: C names, unique.
        seen: columns of the labels that training may use.
        unseen: columns of the labels that only evaluation uses. A label may be on neither side (15 of COCO's 80 in the
            48/17 split).
        word_vectors: [D, C] float32.
        name: of the split, for reports.
    """

    labels: tuple[str, ...]
    seen: tuple[int, ...]
    unseen: tuple[int, ...]
    word_vectors: Tensor
    name: str = "split"

    @property
    def wordvec_dim(self) -> int:
        """D."""
        return self.word_vectors.shape[0]

    def names(self, columns: Sequence[int]) -> list[str]:
        """Return the labels of these columns."""
        return [self.labels[column] for column in columns]

    def select(self, columns: Sequence[int]) -> ZeroShotSplit:
        """Keep these labels, in this order: names, sides and word vectors together."""
        place = {column: new for new, column in enumerate(columns)}
        return replace(
            self,
            labels=tuple(self.names(columns)),
            seen=tuple(sorted(place[column] for column in self.seen if column in place)),
            unseen=tuple(sorted(place[column] for column in self.unseen if column in place)),
            word_vectors=self.word_vectors[:, list(columns)],
        )


def make_split(
    labels: Sequence[str], seen: Sequence[int], unseen: Sequence[int], word_vectors: Tensor, *, name: str, source: str
) -> ZeroShotSplit:
    """Check a split and sort its columns.

    Args:
        labels: C names.
        seen, unseen: columns of each side.
        word_vectors: [D, C].
        name: of the split, for reports.
        source: file or folder that the split was read from, for error messages.

    Raises:
        UserError: repeated labels, a label both seen and unseen, a column out of range, word vectors of the wrong
            shape, zero or not finite, or no seen label; all problems are reported at once.
    """
    problems = []
    repeated = [label for label, count in Counter(labels).items() if count > 1]
    if repeated:
        problems.append(f"{source}: repeated labels: {name_some(repeated)}")
    wrong = [str(column) for column in (*seen, *unseen) if not 0 <= column < len(labels)]
    if wrong:
        problems.append(f"{source}: label columns outside 0..{len(labels) - 1}: {name_some(wrong)}")
    both = sorted(set(seen) & set(unseen))
    if both and not wrong:
        problems.append(f"{source}: labels both seen and unseen: {name_some([labels[column] for column in both])}")
    if not seen:
        problems.append(f"{source}: no seen label, nothing to train on")
    if word_vectors.ndim != 2 or word_vectors.shape[1] != len(labels):
        problems.append(f"{source}: word vectors have shape {tuple(word_vectors.shape)}, not [D, {len(labels)}]")
    else:
        bad = ~torch.isfinite(word_vectors).all(dim=0) | (word_vectors == 0).all(dim=0)
        if bad.any():
            names = [labels[int(column)] for column in bad.nonzero()[:, 0]]
            problems.append(f"{source}: word vectors that are zero or not finite: {name_some(names)}")
    raise_collected(problems)
    return ZeroShotSplit(
        tuple(labels), tuple(sorted(set(seen))), tuple(sorted(set(unseen))), word_vectors.float().contiguous(), name
    )


def columns_of(names: Sequence[str], labels: Sequence[str], source: str) -> list[int]:
    """Return the columns of ``names`` in ``labels``.

    Raises:
        UserError: some names are no label; the message lists them.
    """
    column_of = {label: column for column, label in enumerate(labels)}
    strangers = [name for name in names if name not in column_of]
    if strangers:
        raise UserError(f"{source}: no such label: {name_some(strangers)}")
    return [column_of[name] for name in names]
