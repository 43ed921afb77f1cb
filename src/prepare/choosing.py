"""Automatic choice of unseen labels and of validation images for a user's own data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from heapq import heapify, heappop, heappush

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from src.errors import UserError
from src.utils.optional import import_extra


def unseen_by_clusters(labels: Sequence[str], vectors: Tensor, fraction: float, seed: int) -> list[str]:
    """Hold out a share of each cluster of related labels, so that each unseen label has seen relatives.

    After Bansal et al., Zero-Shot Object Detection, ECCV 2018: k-means on the word vectors, here scaled to length 1,
    with about sqrt(C) clusters; each holds out labels in proportion to its size (largest remainder), drawn at random,
    and keeps at least one.

    Args:
        labels: C names, unique. Their order does not matter for the choice.
        vectors: [D, C], a column per label.
        fraction: share of the labels; exactly ``round(fraction * C)`` are held out; 0 for none.
        seed: random seed of the clusters and of the draw.

    Returns:
        The labels held out, in the order of ``labels``.

    Raises:
        UserError: ``fraction`` leaves no label unseen or none seen, or scikit-learn is not installed.
    """
    if fraction == 0:
        return []
    count = len(labels)
    held = _part_of(count, fraction, "--unseen-fraction", "labels")
    k_means = import_extra("sklearn.cluster", "scikit-learn", f"--unseen-fraction {fraction}").KMeans

    order = sorted(range(count), key=labels.__getitem__)
    points = normalize(vectors.detach().cpu().double()[:, order].t(), dim=1).numpy()
    # More clusters than different vectors: k-means would leave some empty, with a warning.
    clusters = min(round(math.sqrt(count)), held, count - held, len(np.unique(points, axis=0)))
    cluster_of = k_means(clusters, n_init=10, random_state=seed % 2**32).fit_predict(points)

    sizes = np.bincount(cluster_of, minlength=clusters)
    quotas = held * np.where(sizes > 1, sizes, 0) / sizes[sizes > 1].sum()
    shares = np.minimum(np.floor(quotas), np.maximum(sizes - 1, 0)).astype(int)
    while shares.sum() < held:  # there is always room: the clusters can give C - clusters >= held labels
        shares[np.where(shares < sizes - 1, quotas - shares, -np.inf).argmax()] += 1

    random = np.random.default_rng(seed)
    chosen: set[int] = set()
    for cluster, share in enumerate(shares):
        chosen.update(order[i] for i in random.choice(np.flatnonzero(cluster_of == cluster), share, replace=False))
    return [label for column, label in enumerate(labels) if column in chosen]


def stratified_validation(
    rows: Tensor, columns: Tensor, num_rows: int, num_labels: int, fraction: float, seed: int
) -> Tensor:
    """Choose rows for validation, such that each label has about the same share of positives there as everywhere.

    Iterative stratification (Sechidis, Tsoumakas, Vlahavas, On the Stratification of Multi-Label Data, ECML PKDD 2011)
    on sparse targets, then exchanges that make the size exact. Images without labels are treated as a label of their
    own. In order of precedence:

    1. a label with at least 2 positives has one in training;
    2. ``round(fraction * num_rows)`` rows are for validation; fewer only where every further row would break 1;
    3. a label with at least ``1 / fraction`` positives has one in validation, as far as one exchange of two images
       per label achieves that;
    4. the shares of positives are as even as the method makes them.

    Args:
        rows: [nnz] int64, the rows of the positive targets, in any order; repeated entries count once.
        columns: [nnz] int64, their labels.
        num_rows: N images.
        num_labels: C.
        fraction: share of the images.
        seed: random seed of the order of rows and labels where the method leaves it open.

    Returns:
        [about ``fraction * N``] int64, ascending; all other rows are for training.

    Raises:
        UserError: ``fraction`` leaves no image for validation or none for training.
    """
    size = _part_of(num_rows, fraction, "--val-fraction", "images")
    # Rows and labels in random order, so that ties can be broken by number.
    random = np.random.default_rng(seed)
    row_at, label_at = random.permutation(num_rows), random.permutation(num_labels + 1)
    unlabelled = np.setdiff1d(np.arange(num_rows), rows.numpy())
    all_rows = np.argsort(row_at)[np.concatenate([rows.numpy(), unlabelled])]
    all_labels = label_at[np.concatenate([columns.numpy(), np.full(len(unlabelled), num_labels)])]
    all_rows, all_labels = np.divmod(np.unique(all_rows * (num_labels + 1) + all_labels), num_labels + 1)

    in_val = _stratify(all_rows, all_labels, num_rows, num_labels + 1, size)
    due = np.bincount(all_labels) * fraction > 1 - 1e-9  # 49 positives times 1/49 are less than 1
    _exchange(in_val, all_rows, all_labels, size, due)
    return torch.from_numpy(np.sort(row_at[in_val]))


def _part_of(total: int, fraction: float, flag: str, things: str) -> int:
    """Return ``round(fraction * total)``; raise :class:`UserError` if that is none or all."""
    part = round(fraction * total) if 0 < fraction < 1 else 0
    if not 0 < part < total:
        raise UserError(
            f"{flag} {fraction}: must choose at least 1 of the {total:,} {things} and leave at least 1; give "
            f"{1 / max(total, 2):.2g} to 0.5"
        )
    return part


def _stratify(rows: np.ndarray, labels: np.ndarray, num_rows: int, num_labels: int, size: int) -> np.ndarray:
    """Run algorithm 1 of the paper for two parts; the last chance of a label to be in training is always taken.

    ``rows`` ascend, and each has a label. Return [num_rows] bool, True for validation: about ``size`` rows.
    """
    totals = np.bincount(labels, minlength=num_labels)
    labels_of = _cut(labels, np.bincount(rows, minlength=num_rows))
    rows_of = _cut(rows[np.argsort(labels, kind="stable")], totals)
    share = size / num_rows
    train_wants, val_wants = ((1 - share) * totals).tolist(), (share * totals).tolist()
    train_room, val_room = num_rows - size, size
    scarce = (totals * min(share, 1 - share) < 0.5).tolist()  # too few rows to be shared: all would go to one side
    left = totals.tolist()  # rows of each label that are on no side yet
    needs_train = (totals > 1).tolist()  # labels with more than one row, none of them in training yet
    in_val: list[bool | None] = [None] * num_rows
    queue = [(count, label) for label, count in enumerate(left) if count]
    heapify(queue)
    while queue:
        count, rarest = heappop(queue)
        if count != left[rarest]:
            continue  # rows of it went with other labels since; an entry with the smaller count stands for it
        for row in rows_of[rarest]:
            if in_val[row] is not None:
                continue
            to_val = (val_wants[rarest], val_room) > (train_wants[rarest], train_room)
            if scarce[rarest] and min(val_room, train_room) <= 0:
                to_val = val_room > 0
            mine = labels_of[row]
            to_val = to_val and not any(needs_train[label] and left[label] == 1 for label in mine)
            in_val[row] = to_val
            val_room -= to_val
            train_room -= not to_val
            wants = val_wants if to_val else train_wants
            for label in mine:
                wants[label] -= 1
                left[label] -= 1
                needs_train[label] &= to_val
                if left[label]:
                    heappush(queue, (left[label], label))
    return np.array(in_val, dtype=bool)


def _cut(values: np.ndarray, lengths: np.ndarray) -> list[list[int]]:
    """Cut ``values`` into consecutive lists of these lengths."""
    ends, flat = np.cumsum(lengths).tolist(), values.tolist()
    return [flat[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _exchange(in_val: np.ndarray, rows: np.ndarray, labels: np.ndarray, size: int, due: np.ndarray) -> None:
    """Move rows, in place, until ``size`` are for validation, then give due labels that have none there one.

    Each move minimises the sum over the labels of (positives in validation - even share)^2. ``due`` [C] are the labels
    that should have a row in validation.
    """
    totals = np.bincount(labels)
    even = totals * (size / len(in_val))
    counts = np.bincount(labels[in_val[rows]], minlength=len(totals))

    def move(to_val: bool, candidates: np.ndarray) -> bool:
        step = 1 if to_val else -1
        cost = 2 * step * (counts - even) + 1
        cost[due & (counts == (0 if to_val else 1))] -= step * 1e12  # more than all squares: missing labels first
        if to_val:
            cost[(totals > 1) & (counts == totals - 1)] = np.inf  # the last one in training
        costs = np.bincount(rows, weights=cost[labels])[candidates]
        row = candidates[costs.argmin()]
        if costs.min() < np.inf:
            in_val[row] = to_val
            counts[labels[rows == row]] += step
        return bool(costs.min() < np.inf)

    while (missing := size - in_val.sum()) and move(missing > 0, np.flatnonzero(in_val != (missing > 0))):
        pass
    for label in np.flatnonzero(due & (counts == 0)):
        # The second move may take the first back, so that an exchange makes nothing worse.
        if counts[label] == 0 and move(True, rows[labels == label]):
            move(False, np.flatnonzero(in_val))
