"""Image-level labels of many images, stored sparsely: Open Images (9 million images, 7,586 labels) fits into memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LabelMatrix:
    """Labels [N, C]: 1 positive, 0 negative, -1 unknown. Each row has a default, and only other entries are stored.

    Attributes:
        offsets: [N + 1] int64; the entries of row i are ``offsets[i]`` to ``offsets[i + 1] - 1``.
        columns: [K] int32, ascending within a row, none twice.
        values: [K] int8, each 1, 0 or -1.
        unlisted: [N] int8, the default of each row: 0 if an image is labelled completely, -1 if only the listed labels
            were verified.
        num_labels: C.
    """

    offsets: Tensor
    columns: Tensor
    values: Tensor
    unlisted: Tensor
    num_labels: int

    @classmethod
    def from_entries(
        cls, rows: Tensor, columns: Tensor, values: Tensor, *, unlisted: Tensor, num_labels: int
    ) -> LabelMatrix:
        """Build from entries in any order; of several for the same label of an image the largest value is kept.

        Args:
            rows, columns: [K] whole numbers within [N, C].
            values: [K], each 1, 0 or -1.
            unlisted: [N].
            num_labels: C.
        """
        # One number per entry, sorted in place: its place in the matrix, and 1 - value in the last two bits, so
        # that the largest value of each place comes first.
        key = rows.to(torch.int64, copy=True).mul_(num_labels).add_(columns)
        key.mul_(4).add_(1 - values.to(torch.int8))
        key.numpy().sort()  # several times as fast as torch's, which sorts an index along with every number
        first = torch.ones(len(key), dtype=torch.bool)
        first[1:] = (key[1:] ^ key[:-1]) > 3
        if not first.all():
            key = key[first]
        values = 1 - (key & 3).to(torch.int8)
        place = key.bitwise_right_shift_(2)
        width = max(num_labels, 1)  # without labels there are no entries either
        offsets = torch.searchsorted(place, torch.arange(len(unlisted) + 1) * width)
        return cls(offsets, place.remainder_(width).int(), values, unlisted.to(torch.int8), num_labels)

    @classmethod
    def from_positives(cls, rows: Tensor, columns: Tensor, *, num_rows: int, num_labels: int) -> LabelMatrix:
        """Build from the positive entries of completely labelled images; all others are 0."""
        unlisted = torch.zeros(num_rows, dtype=torch.int8)
        ones = torch.ones(len(rows), dtype=torch.int8)
        return cls.from_entries(rows, columns, ones, unlisted=unlisted, num_labels=num_labels)

    @classmethod
    def from_dense(cls, targets: Tensor) -> LabelMatrix:
        """Build from a matrix [N, C] of 1, 0 and -1."""
        rows, columns = targets.nonzero(as_tuple=True)
        unlisted = torch.zeros(targets.shape[0], dtype=torch.int8)
        return cls.from_entries(rows, columns, targets[rows, columns], unlisted=unlisted, num_labels=targets.shape[1])

    def check(self) -> None:
        """Raise ValueError unless the arrays are of the form above, as those that come from a file may not be."""
        kinds = {"offsets": torch.int64, "columns": torch.int32, "values": torch.int8, "unlisted": torch.int8}
        if any(getattr(self, name).dtype != kind or getattr(self, name).ndim != 1 for name, kind in kinds.items()):
            raise ValueError("arrays of other types")
        if not len(self.columns) == len(self.values) or len(self.offsets) != len(self) + 1:
            raise ValueError("arrays of other lengths")
        ends_fit = self.offsets[0] == 0 and self.offsets[-1] == len(self.columns)
        if not (ends_fit and bool((self.offsets.diff() >= 0).all())):
            raise ValueError("rows that are no part of the entries")
        rows, columns, values = self.entries()
        within = bool(((columns >= 0) & (columns < self.num_labels)).all())
        if not (within and bool(((rows.diff() > 0) | (columns.diff() > 0)).all())):
            raise ValueError("columns that are outside or out of order")
        if not (
            bool(((values >= -1) & (values <= 1)).all()) and bool(((self.unlisted == 0) | (self.unlisted == -1)).all())
        ):
            raise ValueError("labels that are none of 1, 0 and -1")

    def __len__(self) -> int:
        return len(self.unlisted)

    @property
    def shape(self) -> tuple[int, int]:
        """(N, C)."""
        return len(self), self.num_labels

    def entries(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the stored entries (rows, columns, values), each [K], by row and column."""
        rows = torch.repeat_interleave(torch.arange(len(self)), self.offsets.diff())
        return rows, self.columns.long(), self.values

    def positives(self) -> tuple[Tensor, Tensor]:
        """Return (rows, columns) of the positive labels, by row and column."""
        rows, columns, values = self.entries()
        return rows[values == 1], columns[values == 1]

    def positives_per_image(self) -> Tensor:
        """Count the positive labels of each image: [N] int64."""
        return torch.bincount(self.positives()[0], minlength=len(self))

    def positives_per_label(self) -> Tensor:
        """Count the positive images of each label: [C] int64."""
        return torch.bincount(self.positives()[1], minlength=self.num_labels)

    def num_unknown(self) -> int:
        """Count the unknown ones of the N*C labels."""
        listed_per_row = self.offsets.diff()
        partly = self.unlisted == -1
        return int((self.values == -1).sum() + (self.num_labels - listed_per_row[partly]).sum())

    def dense(self, rows: Tensor | None = None) -> Tensor:
        """Return some rows, or all, as a dense matrix [len(rows), C] int8."""
        rows = torch.arange(len(self)) if rows is None else rows
        which, entry = self._entries_of(rows)
        matrix = self.unlisted[rows][:, None].repeat(1, self.num_labels)
        matrix[which, self.columns[entry].long()] = self.values[entry]
        return matrix

    def select_rows(self, rows: Tensor) -> LabelMatrix:
        """Keep these rows, in this order."""
        _, entry = self._entries_of(rows)
        offsets = torch.zeros(len(rows) + 1, dtype=torch.int64)
        offsets[1:] = self.offsets.diff()[rows].cumsum(0)
        return LabelMatrix(offsets, self.columns[entry], self.values[entry], self.unlisted[rows], self.num_labels)

    def select_columns(self, columns: Sequence[int] | Tensor) -> LabelMatrix:
        """Keep these columns, in this order; each at most once."""
        chosen = torch.as_tensor(columns, dtype=torch.int64)
        new_column = torch.full((self.num_labels,), -1, dtype=torch.int32)
        new_column[chosen] = torch.arange(len(chosen), dtype=torch.int32)
        moved = new_column.index_select(0, self.columns)
        kept = moved >= 0
        if bool((chosen[1:] > chosen[:-1]).all()):  # the entries are in order already
            return self._only(kept, moved, len(chosen))
        rows = torch.repeat_interleave(torch.arange(len(self)), self.offsets.diff())[kept]
        return LabelMatrix.from_entries(
            rows, moved[kept], self.values[kept], unlisted=self.unlisted, num_labels=len(chosen)
        )

    def forget_columns(self, columns: Sequence[int]) -> LabelMatrix:
        """Drop all entries in these columns; the shape stays."""
        kept = torch.ones(self.num_labels, dtype=torch.bool)
        kept[torch.as_tensor(columns, dtype=torch.int64)] = False
        return self._only(kept.index_select(0, self.columns), self.columns, self.num_labels)

    def _only(self, kept: Tensor, columns: Tensor, num_labels: int) -> LabelMatrix:
        """Keep the entries ``kept`` [K] bool, in ``columns`` [K] that ascend within a row among those."""
        before = torch.zeros(len(kept) + 1, dtype=torch.int64)  # number kept before each entry
        torch.cumsum(kept, dim=0, out=before[1:])
        return LabelMatrix(before[self.offsets], columns[kept], self.values[kept], self.unlisted, num_labels)

    def _entries_of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return for each entry of these rows: (which of ``rows`` it belongs to, its place in the stored arrays)."""
        counts = self.offsets.diff()[rows]
        which = torch.repeat_interleave(torch.arange(len(rows)), counts)
        within = torch.arange(len(which)) - (counts.cumsum(0) - counts)[which]
        return which, self.offsets[rows][which] + within


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Image-level labels of one part of a data set.

    Attributes:
        image_ids: [N], as in the file.
        file_names: [N], relative to the image folder.
        targets: [N, C] in the split's column order.
    """

    image_ids: tuple[int | str, ...]
    file_names: tuple[str, ...]
    targets: LabelMatrix

    def __len__(self) -> int:
        return len(self.file_names)

    def rows(self, rows: Sequence[int] | Tensor) -> LabelledImages:
        """Keep some images, in this order."""
        rows = torch.as_tensor(rows, dtype=torch.int64)
        kept = rows.tolist()
        return LabelledImages(
            tuple(self.image_ids[row] for row in kept),
            tuple(self.file_names[row] for row in kept),
            self.targets.select_rows(rows),
        )

    def with_targets(self, targets: LabelMatrix) -> LabelledImages:
        """Replace the labels; the images stay."""
        return LabelledImages(self.image_ids, self.file_names, targets)
