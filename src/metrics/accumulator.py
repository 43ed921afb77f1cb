"""Metrics of one set of images and labels, accumulated while the labels' scores come block by block."""

from __future__ import annotations

import torch
from torch import Tensor

from src.metrics.average_precision import average_precisions, mean_average_precision
from src.metrics.inputs import blocks
from src.metrics.precision_recall import BestLabels, PrecisionRecall, best_labels, best_possible_f1_at_k, ratio
from src.options import DEFAULT_PROTOCOL, Protocol


class RankingAccumulator:
    """Accumulate counts, best labels and average precisions of some images over labels that come in ascending order.

    Of the labels added so far it keeps a few numbers an image (its k best scores) and a label (its average
    precisions), never the scores.

    Attributes:
        rows: as given.

    Args:
        rows: [n] indices of the images that count among those of every block, on the scores' device.
        num_labels: C, all labels that will be added.
        protocol: the K of P/R/F1@K, of which those above C are left out, and the threshold. Which images count is
            decided by ``rows``.
    """

    def __init__(self, rows: Tensor, num_labels: int, protocol: Protocol = DEFAULT_PROTOCOL) -> None:
        self._ks = [k for k in protocol.ks if k <= num_labels]
        self.rows, self._num_labels, self._threshold = rows, num_labels, protocol.threshold
        self._parts = blocks(len(rows), num_labels)
        self._best: list[BestLabels | None] = [None] * len(self._parts)
        self._positives = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)  # of every image
        self._above = self._hits_above = 0
        self._unknown = 0
        # [3, c] of every block: official, skip, and skip over the verified images
        self._precisions = [torch.zeros(3, 0, dtype=torch.float64)]
        self._label_positives = [torch.zeros(0, dtype=torch.int64)]  # [c] of every block

    def add(self, scores: Tensor, targets: Tensor) -> None:
        """Add the next labels.

        Args:
            scores: [N, c].
            targets: [N, c], 1 positive, 0 negative, -1 unknown.

        Raises:
            ValueError: a score of an image that counts is NaN.
        """
        positives = [self._add_images(part, scores, targets) for part in range(len(self._parts))]
        row, label = torch.cat(positives or [self.rows.new_empty(2, 0)], dim=1)
        label, order = label.sort(stable=True)
        row = row[order]
        any_unknown = bool((targets == -1).any())
        for labels in blocks(scores.shape[1], len(self.rows)):
            first, end = torch.searchsorted(label, label.new_tensor([labels.start, labels.stop])).tolist()
            self._add_labels(
                scores[:, labels].index_select(0, self.rows),
                label[first:end] - labels.start,
                row[first:end],
                targets[:, labels].index_select(0, self.rows) == -1 if any_unknown else None,
            )

    def _add_images(self, index: int, scores: Tensor, targets: Tensor) -> Tensor:
        """Add the labels for a part of the images; return where positives are: rows among all that count, labels."""
        part = self._parts[index]
        rows = self.rows[part]
        scores, positive = scores[rows], targets[rows] == 1
        # Positives are few: counting where they are reads the block once, a sum of booleans widens every one of them.
        row, label = positive.nonzero(as_tuple=True)
        self._positives[part] += torch.bincount(row, minlength=len(rows))
        if self._ks:
            # The list of a smaller k is the beginning of the list of the largest.
            first = sum(len(block) for block in self._label_positives)
            self._best[index] = best_labels(scores, positive, max(self._ks), self._best[index], first)
        if self._threshold is not None:
            above = scores > self._threshold
            self._above += int(above.sum())
            self._hits_above += int((above & positive).sum())
        return torch.stack([row + part.start, label])

    def _add_labels(self, scores: Tensor, label: Tensor, row: Tensor, unknown: Tensor | None) -> None:
        both = average_precisions(scores, label, row)
        verified = both.skip
        if unknown is not None:
            verified = average_precisions(scores, label, row, unknown).skip
            self._unknown += int(unknown.sum())
        self._precisions.append(torch.stack([both.official, both.skip, verified]))
        self._label_positives.append(torch.bincount(label, minlength=scores.shape[1]).cpu())

    @property
    def average_precision(self) -> Tensor:
        """[C] of every label as scikit-learn computes it, between 0 and 1; NaN without a positive."""
        return torch.cat(self._precisions, dim=1)[1]

    @property
    def positives_per_label(self) -> Tensor:
        """[C] images that each label is positive for."""
        return torch.cat(self._label_positives)

    @property
    def best_labels(self) -> Tensor:
        """[n, K] the best labels of each image that counts, best first; K is the largest of the ``ks`` up to C."""
        best = [part.labels for part in self._best if part is not None]
        return torch.cat(best) if best else self.rows.new_empty(0, max(self._ks, default=0))

    def report(self) -> dict[str, float]:
        """Return all metrics in percent, and the counts, keyed as :func:`src.metrics.zero_shot.ranking_report` does."""
        positives = int(self._positives.sum())
        official, skip, verified = torch.cat(self._precisions, dim=1)
        report: dict[str, float] = {
            "num_images": len(self.rows),
            "num_labels": self._num_labels,
            "num_labels_with_positive": int((~skip.isnan()).sum()),  # skip has a number for exactly these
            "num_positives": positives,
            "labels_per_image": ratio(positives, len(self.rows)),
        }
        for k in self._ks:
            hits = sum(int(best.relevant[:, :k].sum()) for best in self._best if best is not None)
            _add_percent(report, "", f"@{k}", PrecisionRecall.of_counts(hits, len(self.rows) * k, positives))
            _add_percent(report, "ceiling.", f"@{k}", best_possible_f1_at_k(self._positives, k))
        if self._threshold is not None:
            above = PrecisionRecall.of_counts(self._hits_above, self._above, positives)
            _add_percent(report, "", "@threshold", above)
        report["mAP"] = 100 * mean_average_precision(official)
        report["mAP_skip"] = 100 * mean_average_precision(skip)
        if self._unknown:
            report["num_unknown"] = self._unknown
            report["mAP_verified"] = 100 * mean_average_precision(verified)
        return report


def _add_percent(report: dict[str, float], prefix: str, suffix: str, result: PrecisionRecall) -> None:
    for name, value in zip(("P", "R", "F1"), result, strict=True):
        report[f"{prefix}{name}{suffix}"] = 100 * value
