"""The labels of each setting ranked for its images, frequent confusions between labels, and sample images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from src.errors import name_some
from src.evaluation import rank
from src.metrics import Protocol
from src.run_report.report import Evaluated

ROWS = 4096  # images whose targets are dense at the same time
_TAGS = 5  # of a sample
_MISSED = 6  # labels of a sample that are named
_VERDICTS = {1: "right", 0: "wrong", -1: "unknown"}


@dataclass(frozen=True, eq=False)
class Ranking:
    """The labels of one setting, ranked for the images that it evaluates.

    Attributes:
        columns: [c], the setting's labels, ascending.
        rows: [n], its images under the protocol.
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


class Sample(NamedTuple):
    """An image, its best labels each with a verdict on it, and the names of the labels that are missing among them."""

    path: Path
    tags: Sequence[tuple[int, str]]
    missed: str


def rank_labels(evaluated: Evaluated, k: int) -> dict[str, Ranking]:
    """Rank the labels of ``zero_shot`` (left out if nothing is unseen) and ``generalized``, the k best for each image.

    Raises:
        ValueError: a score is NaN.
    """
    split = evaluated.split
    columns = {"zero_shot": split.unseen, "generalized": (*split.seen, *split.unseen)}
    # Every K up to k, since a K above the number of labels is left out
    protocol = Protocol(ks=tuple(range(1, k + 1)), images=evaluated.protocol.images)
    rankings = {}
    for setting, found in rank(evaluated.embeddings.float(), split, evaluated.truth, protocol).items():
        labels = torch.tensor(sorted(columns[setting]))
        rankings[setting] = Ranking(
            labels, found.rows, found.average_precision, found.positives_per_label, labels[found.best_labels]
        )
    return rankings


def confusions(ranking: Ranking, evaluated: Evaluated, k: int, most: int) -> list[Confusion]:
    """Find the pairs (label given wrongly, label missed) that most images have, most frequent first.

    A label is given if it is among an image's k best; wrongly, if its target is 0. One whose target is unknown is not
    known to be wrong.

    Args:
        ranking: of one setting.
        evaluated: has the targets.
        k: at least 1; a ranking of fewer labels for each image counts those.
        most: the number of pairs.
    """
    num_labels = len(evaluated.split.labels)
    positives = torch.zeros(num_labels, dtype=torch.int64)
    positives[ranking.columns] = ranking.positives
    pairs, images = [torch.empty(0, dtype=torch.int64)], [torch.empty(0, dtype=torch.int64)]
    for rows, best in zip(ranking.rows.split(ROWS), ranking.best.split(ROWS), strict=True):
        given, truth = best[:, :k], evaluated.targets(rows)  # [b, k], [b, C]
        wrong = truth.gather(1, given) == 0
        missed = ((truth == 1) & (positives > 0)).scatter(1, given, False)
        image, label = missed.nonzero(as_tuple=True)  # [t]: every missed label of every image
        happened = wrong[image]  # [t, k]
        pairs.append((given[image] * num_labels + label.unsqueeze(1))[happened])
        images.append(rows[image].unsqueeze(1).expand_as(happened)[happened])
    pair, image = torch.cat(pairs), torch.cat(images)
    kinds, counts = pair.unique(return_counts=True)
    order = counts.argsort(descending=True, stable=True)[:most]
    found = []
    for kind, count in zip(kinds[order].tolist(), counts[order].tolist(), strict=True):
        given, missed = divmod(kind, num_labels)
        found.append(Confusion(given, missed, count / int(positives[missed]), image[pair == kind]))
    return found


def examples(found: Sequence[Confusion], shown: set[int]) -> list[int]:
    """Choose an image of each confusion, where there is one another than those ``shown``, to which it is added."""
    chosen = []
    for rows in (one.rows.tolist() for one in found):
        chosen.append(next((row for row in rows if row not in shown), rows[0]))
        shown.add(chosen[-1])
    return chosen


def samples(rankings: dict[str, Ranking], evaluated: Evaluated, count: int) -> list[Sample]:
    """Choose evenly spaced images, of those with an unseen label where there are any, with their best labels."""
    ranking = rankings["generalized"]
    places = torch.arange(len(ranking.rows))
    if "zero_shot" in rankings:
        of_both = torch.isin(ranking.rows, rankings["zero_shot"].rows).nonzero()[:, 0]
        places = of_both if len(of_both) else places
    count = min(count, len(places))
    found = []
    for place in places[torch.arange(count) * len(places) // max(count, 1)].tolist():
        row, best = ranking.rows[place], ranking.best[place].tolist()[:_TAGS]
        truth = evaluated.targets(row[None])[0]
        missed = [column for column in ranking.columns.tolist() if truth[column] == 1 and column not in best]
        tags = [(column, _VERDICTS[int(truth[column])]) for column in best]
        names = name_some([evaluated.marked(column) for column in missed], _MISSED)
        found.append(Sample(evaluated.paths[int(row)], tags, names))
    return found
