"""The average precision of every label in both conventions, exactly, from one sort of whole numbers a label.

An image's place in a label's ranking is a key: the score's bits in the upper half, so arranged that whole numbers
order as the scores do, best first, and the image's row in the lower half. No two keys are equal, so sorting them
needs no stability and carries no indices along, and both ranks of a positive are binary searches: that of its own key
(equal scores by row), and that of the last key with its score (equal scores as one).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# The released code's guard against division by zero, kept to reproduce its numbers to the last digit.
_OFFICIAL_EPSILON = 1e-8
_ROW_BITS = 32
_ROW_MASK = (1 << _ROW_BITS) - 1
_FEW_KEYS = 1 << 16  # one thread sorts so many before others have started
_BEHIND_ALL = torch.iinfo(torch.int64).max  # no score has this key, not even -inf


class AveragePrecisions(NamedTuple):
    """Average precisions of all labels, [C] float64 on the CPU: 0 (``official``), NaN (``skip``) without a positive."""

    official: Tensor
    skip: Tensor


def average_precisions(scores: Tensor, label: Tensor, row: Tensor, ignored: Tensor | None = None) -> AveragePrecisions:
    """Compute the average precision of every label over the rows, in both conventions, from one ranking.

    ``official``: AP = sum of precision@rank over the ranks of positives / (|positives| + 1e-8); equal scores keep the
    order of the rows. ``skip``: precision is read at the end of each run of equal scores
    (``sklearn.metrics.average_precision_score``).

    Args:
        scores: [n, c]. Working memory is about 40 bytes a score.
        label, row: [P] column and row of every positive, the columns in ascending order.
        ignored: [n, c] bool, where an image takes no part in a label's AP; no positive is ignored.

    Raises:
        ValueError: a score is NaN.
    """
    if scores.numel() and scores.max().isnan():  # max propagates NaN, and allocates nothing as large as the scores
        raise ValueError("scores contain NaN")
    totals = torch.bincount(label, minlength=scores.shape[1]).double()  # [c]
    keys = ranking_keys(scores)
    own = keys[label, row]
    if ignored is not None:
        keys.masked_fill_(ignored.t(), _BEHIND_ALL)
    ranked = _sort_rows(keys)  # [c, n], best first

    first = totals.long().cumsum(0) - totals.long()  # [c]: each label's first positive
    place = torch.arange(len(label), device=label.device) - first[label]
    width = int(place.max()) + 1 if len(place) else 0
    wanted = own.new_full((len(totals), width), _BEHIND_ALL)  # [c, width]: the positives' keys, filled up at the end
    wanted[label, place] = own
    wanted = _sort_rows(wanted)
    last_equal = wanted | _ROW_MASK  # not below any key with this score

    def mean(hits: Tensor, rank: Tensor, divisor: Tensor) -> Tensor:
        # AP = 1/|positives| sum over positives of precision at their rank. Summed one after the other, on the CPU, so
        # that neither other labels nor the cut into blocks change a digit. 0/0 is NaN: no positive.
        precision = (hits[label, place].double() / rank[label, place]).cpu()
        return torch.zeros(len(totals), dtype=torch.float64).index_add_(0, label.cpu(), precision) / divisor.cpu()

    by_row = torch.arange(1, width + 1, device=wanted.device).expand_as(wanted)
    return AveragePrecisions(
        official=mean(by_row, torch.searchsorted(ranked, wanted, right=True), totals + _OFFICIAL_EPSILON),
        skip=mean(
            torch.searchsorted(wanted, last_equal, right=True),
            torch.searchsorted(ranked, last_equal, right=True),
            totals,
        ),
    )


def ranking_keys(scores: Tensor) -> Tensor:
    """Map scores [n, c] without NaN to int64 keys [c, n] that ascend from best to worst score, by row among equals.

    The upper 32 bits are the same for equal scores only, the lower 32 bits are the row.
    """
    by_label = scores.t().contiguous()
    if scores.dtype in (torch.float32, torch.float16, torch.bfloat16):
        bits = (by_label.float() + 0.0).view(torch.int32)  # + 0.0 makes -0.0 the 0.0 that it equals
        # Of two negative floats the one with the larger bits is the smaller: flip all but the sign.
        descending = bits.bitwise_xor_((bits >> 31) & 0x7FFFFFFF).bitwise_not_()
    else:
        descending = ~torch.unique(by_label, return_inverse=True)[1]
    keys = descending.long()
    keys <<= _ROW_BITS
    keys |= torch.arange(keys.shape[1], device=keys.device)
    return keys


def _sort_rows(keys: Tensor) -> Tensor:
    """Sort every row in ascending order; on the CPU in place."""
    if keys.device.type != "cpu":
        return keys.sort(dim=1).values
    # Several times as fast as torch's sort, which carries an index along with every number; NumPy releases the GIL, so
    # that threads sort in parallel.
    rows = keys.numpy()
    threads = min(torch.get_num_threads(), len(rows))
    if threads < 2 or rows.size < _FEW_KEYS:
        rows.sort(axis=1)
    else:
        with ThreadPoolExecutor(threads, thread_name_prefix="ranking") as pool:
            list(pool.map(lambda part: part.sort(axis=1), np.array_split(rows, threads)))
    return keys


def mean_average_precision(per_label: Tensor) -> float:
    """Average the average precisions [C] of labels, leaving out NaN (``skip``: no positive); 0 where none is left."""
    kept = per_label[~per_label.isnan()]
    return float(kept.mean()) if kept.numel() else 0.0
