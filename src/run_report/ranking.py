"""One setting's labels ranked for its images: average precision label by label, best labels, confusions.

Scores are made in blocks: nothing of the size [N, C] exists beside the targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from src.choices import Images
from src.metrics import average_precision, select_images
from src.run_report.report import RunReport
from src.scoring import score_labels, top_k_labels

ROWS = 4096  # images that are scored or looked at in one go
_BLOCK_ELEMENTS = 1 << 26  # the largest [n, c] block of scores: 256 MiB


@dataclass(frozen=True, eq=False)
class Ranking:
    """The labels of one setting, ranked for the images that it evaluates.

    Attributes:
        columns: [c], the setting's labels, ascending.
        rows: [n], its images under the protocol, ascending.
        precision: [c] float64, the average precision of each label over these images, between 0 and 1, as
            scikit-learn computes it; NaN without a positive.
        positives: [c], images that each label is positive for.
        best: [n, min(k, c)], the best labels of each image, best first, as columns of the split.
    """

    columns: Tensor
    rows: Tensor
    precision: Tensor
    positives: Tensor
    best: Tensor


class Confusion(NamedTuple):
    """A label that was given wrongly where another was missed.

    Attributes:
        given: the column of the label that is among the best and is no label of the image.
        missed: the column of the image's label that is not among the best.
        share: of the images with the missed label, those on which this happened; between 0 and 1.
        rows: the images on which it happened, ascending.
    """

    given: int
    missed: int
    share: float
    rows: Tensor


def rank_zero_shot(report: RunReport, k: int) -> Ranking | None:
    """The unseen labels on their own; None if there is none."""
    return _rank_setting(report, report.split.unseen, report.zero_shot_rows, k) if report.split.unseen else None


def rank_generalized(report: RunReport, k: int) -> Ranking:
    """Seen and unseen labels together."""
    return _rank_setting(report, (*report.split.seen, *report.split.unseen), report.generalized_rows, k)


def _rank_setting(report: RunReport, columns: Sequence[int], rows: Tensor | None, k: int) -> Ranking:
    ordered = torch.tensor(sorted(columns))
    given = torch.arange(len(report.targets)) if rows is None else rows.sort().values
    return rank_labels(
        report.embeddings,
        report.split.word_vectors,
        report.targets,
        columns=ordered,
        rows=_evaluated(report.targets, ordered, given, report.images),
        k=min(k, len(ordered)),
    )


def _evaluated(targets: Tensor, columns: Tensor, rows: Tensor, images: Images) -> Tensor:
    """Those of ``rows`` that the protocol evaluates on the labels ``columns``."""
    return torch.cat([part[select_images(targets[part][:, columns], images)] for part in rows.split(ROWS)])


@torch.inference_mode()
def rank_labels(
    embeddings: Tensor,
    word_vectors: Tensor,
    targets: Tensor,
    *,
    columns: Tensor,
    rows: Tensor,
    k: int,
    block_elements: int = _BLOCK_ELEMENTS,
) -> Ranking:
    """Rank some labels for some images, a block of labels at a time; each score is computed once.

    Args:
        embeddings: [N, D*M].
        word_vectors: [D, C].
        targets: [N, C].
        columns: [c] ascending, at least one.
        rows: [n].
        k: 1 <= k <= c.
        block_elements: the largest number of scores held at once.
    """
    precision = torch.full((len(columns),), torch.nan, dtype=torch.float64)
    positives = torch.zeros(len(columns), dtype=torch.int64)
    best = [(torch.empty(len(part), 0), torch.empty(len(part), 0, dtype=torch.int64)) for part in rows.split(ROWS)]
    step = max(1, block_elements // max(1, len(rows)))
    for start in range(0, len(columns), step):
        block = columns[start : start + step]
        words = word_vectors[:, block]
        scores = torch.empty(len(rows), len(block))
        for number, (part, into) in enumerate(zip(rows.split(ROWS), scores.split(ROWS), strict=True)):
            score_labels(embeddings[part].float(), words, out=into)
            best[number] = _better(*best[number], into, block, k)
        truth = targets[:, block][rows]
        precision[start : start + step] = average_precision(scores, truth, "skip")
        positives[start : start + step] = (truth == 1).sum(dim=0)
    return Ranking(columns, rows, precision, positives, torch.cat([labels for _, labels in best]))


def _better(scores: Tensor, labels: Tensor, new_scores: Tensor, columns: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best of ``labels`` [b, i], ordered as they are, and of ``columns`` [c], which all come after them.

    Among equal scores the one that stands first wins, as in :func:`src.scoring.top_k_labels`: whether labels come in
    one block or in many, the result is the same.
    """
    best, chosen = top_k_labels(new_scores, min(k, len(columns)))
    all_scores, all_labels = torch.cat([scores, best], dim=1), torch.cat([labels, columns[chosen]], dim=1)
    kept_scores, kept = top_k_labels(all_scores, min(k, all_scores.shape[1]))
    return kept_scores, all_labels.gather(1, kept)


def confusions(ranking: Ranking, targets: Tensor, k: int, most: int) -> list[Confusion]:
    """The pairs (label given wrongly, label missed) that most images have, most frequent first.

    A label is given if it is among an image's k best; wrongly, if its target is 0. One whose target is unknown is not
    known to be wrong.

    Args:
        ranking: of one setting.
        targets: [N, C].
        k: at least 1; a ranking that has fewer labels an image counts those.
        most: the number of pairs.
    """
    num_labels = targets.shape[1]
    relevant = torch.zeros(num_labels, dtype=torch.bool)
    relevant[ranking.columns] = True
    pairs, images = [torch.empty(0, dtype=torch.int64)], [torch.empty(0, dtype=torch.int64)]
    for rows, best in zip(ranking.rows.split(ROWS), ranking.best.split(ROWS), strict=True):
        given, truth = best[:, :k], targets[rows]  # [b, k], [b, C]
        wrong = truth.gather(1, given) == 0
        missed = ((truth == 1) & relevant).scatter(1, given, False)
        image, label = missed.nonzero(as_tuple=True)  # [t]: every missed label of every image
        happened = wrong[image]  # [t, k]
        pairs.append((given[image] * num_labels + label.unsqueeze(1))[happened])
        images.append(rows[image].unsqueeze(1).expand_as(happened)[happened])
    pair, image = torch.cat(pairs), torch.cat(images)
    kinds, counts = pair.unique(return_counts=True)
    order = counts.argsort(descending=True, stable=True)[:most]
    positives = torch.zeros(num_labels, dtype=torch.int64)
    positives[ranking.columns] = ranking.positives
    return [
        Confusion(kind // num_labels, kind % num_labels, count / int(positives[kind % num_labels]), image[pair == kind])
        for kind, count in zip(kinds[order].tolist(), counts[order].tolist(), strict=True)
    ]
