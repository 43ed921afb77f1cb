#!/usr/bin/env python3
"""Evaluate a problem of NUS-WIDE's full size: all metrics of both settings, against plain loops over the formulas.

107,859 images with 7 principal vectors of 300 numbers, 1,006 labels, 81 of them unseen. The plain loops score an
image at a time, principal vector by principal vector; sort an image's labels for each setting and K; and sort a
label's images for each setting and mAP convention. Both take turns in one process with the lower bounds of any
evaluation: the score products alone, and one sort per label, with torch and with NumPy. All images and labels are
timed; nothing is extrapolated. Embeddings and word vectors are whole numbers whose products are exact in float32 in any
order of summation, so that both must agree in every hit.

Peak memory is measured in a process that only draws the problem and evaluates it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import benchmark_parser, ratio, record, take_turns
from src.data.labels import LabelMatrix
from src.data.parts import GroundTruth
from src.data.split import ZeroShotSplit, make_split
from src.evaluation import evaluate
from src.metrics import Protocol

DIM, NUM_ROWS = 300, 7
KS = (3, 5)
POSITIVE_SHARE = 0.002


class Problem(NamedTuple):
    """Embeddings [N, D*M], the split with its word vectors [D, C], and sparse targets [N, C]."""

    embeddings: Tensor
    split: ZeroShotSplit
    targets: LabelMatrix


def draw(images: int, seen: int, unseen: int) -> Problem:
    """Draw a problem with a few frequent labels and many rare ones; no temporary is as large as the embeddings."""
    generator = torch.Generator().manual_seed(0)
    labels = seen + unseen
    embeddings = torch.empty(images, DIM * NUM_ROWS)
    for part in embeddings.split(4096):
        part.copy_(torch.randint(-2047, 2048, part.shape, generator=generator))
    words = torch.randint(-7, 8, (DIM, labels), generator=generator).float()  # |sums| < 300 * 2047 * 7 < 2**24
    order = torch.randperm(labels, generator=generator)
    positives = int(POSITIVE_SHARE * images * labels)
    columns = torch.multinomial(1 / (order + 10), positives, replacement=True, generator=generator)
    rows = torch.randint(images, (positives,), generator=generator)
    targets = LabelMatrix.from_positives(rows, columns, num_rows=images, num_labels=labels)
    sides = torch.randperm(labels, generator=generator).tolist()
    names = [f"label {number}" for number in range(labels)]
    split = make_split(names, sides[unseen:], sides[:unseen], words, name="drawn", source="benchmark")
    return Problem(embeddings, split, targets)


def plain_scores(embeddings: Tensor, words: Tensor) -> Tensor:
    """Score an image at a time: the best of its principal vectors' products."""
    scores = []
    for flat in embeddings:
        best = torch.full((words.shape[1],), -torch.inf)
        for vector in flat.view(DIM, NUM_ROWS).t():
            best = torch.maximum(best, vector @ words)
        scores.append(best)
    return torch.stack(scores)


def plain_f1_at_k(scores: Tensor, targets: Tensor, k: int) -> tuple[float, float, float]:
    """Take the k first of each image's sorted labels."""
    hits = 0
    for row, target in zip(scores, targets, strict=True):
        best = row.sort(descending=True, stable=True).indices[:k]
        hits += int((target[best] == 1).sum())
    precision, recall = hits / (len(scores) * k), hits / int((targets == 1).sum())
    return precision, recall, 2 * precision * recall / (precision + recall)


def plain_average_precision(scores: Tensor, target: Tensor, convention: str) -> float:
    """Sort the images of one label, and average the precision at the place of every positive."""
    ranked, order = scores.sort(descending=True, stable=True)
    relevant = target[order] == 1
    hits = relevant.cumsum(0)
    precision = hits.double() / torch.arange(1, len(scores) + 1)
    place = relevant.nonzero()[:, 0]
    if convention == "skip":  # equal scores are let in at once: read at the end of their run
        is_end = torch.ones_like(relevant)
        is_end[:-1] = ranked[1:] != ranked[:-1]
        ends = is_end.nonzero()[:, 0]
        place = ends[torch.searchsorted(ends, place)]
    positives = len(place) + (1e-8 if convention == "official" else 0)
    return float(precision[place].sum() / positives) if positives else float("nan")


def plain_evaluation(problem: Problem) -> dict[str, float]:
    """Compute every metric separately, from the whole matrix of scores."""
    split = problem.split
    scores, targets = plain_scores(problem.embeddings, split.word_vectors), problem.targets.dense()
    report = {}
    for setting, labels in (("zero_shot", split.unseen), ("generalized", sorted(split.seen + split.unseen))):
        own_targets = targets[:, labels]
        rows = (own_targets == 1).any(dim=1)
        own_scores, own_targets = scores[:, labels][rows], own_targets[rows]
        for k in KS:
            for name, value in zip("PRF", plain_f1_at_k(own_scores, own_targets, k), strict=True):
                report[f"{setting}.{name}{'1' if name == 'F' else ''}@{k}"] = 100 * value
        for key, convention in (("mAP", "official"), ("mAP_skip", "skip")):
            columns = zip(own_scores.t(), own_targets.t(), strict=True)
            each = [plain_average_precision(*column, convention) for column in columns]
            report[f"{setting}.{key}"] = 100 * float(torch.tensor(each, dtype=torch.float64).nanmean())
    return report


def fast_evaluation(problem: Problem) -> dict[str, float]:
    """Evaluate as train.py and validate.py do."""
    return evaluate(problem.embeddings, problem.split, GroundTruth(problem.targets), Protocol(KS))


def products_alone(problem: Problem, block: int = 512) -> None:
    """Compute the score products [N * M, D] by [D, C] in blocks of images, and keep nothing."""
    flat = problem.embeddings[:block].view(-1, DIM, NUM_ROWS).transpose(1, 2).reshape(-1, DIM)
    for part in problem.embeddings.split(block):
        torch.mm(flat[: len(part) * NUM_ROWS], problem.split.word_vectors)


def sorts_alone(images: int, labels: int, library: str) -> None:
    """Sort ``images`` numbers per label; NumPy's sort carries no indices."""
    scores = torch.randn(images, generator=torch.Generator().manual_seed(1))
    for _ in range(labels):
        if library == "numpy":
            scores.clone().numpy().sort()
        else:
            scores.sort(descending=True)


def peak_of_a_child(images: int, seen: int, unseen: int) -> int:
    """Return the peak resident memory in MB of a process that only draws and evaluates."""
    sizes = [f"--{name}={value}" for name, value in (("images", images), ("seen", seen), ("unseen", unseen))]
    done = subprocess.run([sys.executable, __file__, "--child", *sizes], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def memory_mb(field: str) -> int:
    """Return the resident memory of this process in MB: current (``VmRSS``) or peak (``VmHWM``); Linux only."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(rf"^{field}:\s*(\d+) kB", status, re.MULTILINE)
    assert found is not None, f"no {field}"
    return round(int(found[1]) * 1024 / 1e6)


def measure(images: int, seen: int, unseen: int, repeats: int) -> dict[str, object]:
    """Measure the row: seconds and ratios of the ways that take turns."""
    problem = draw(images, seen, unseen)
    found: dict[str, dict[str, float]] = {}

    def keep(name: str, run: Callable[[Problem], dict[str, float]]) -> None:
        found[name] = run(problem)

    runs: dict[str, Callable[[], object]] = {
        "fast": partial(keep, "fast", fast_evaluation),
        "plain": partial(keep, "plain", plain_evaluation),
        "products": partial(products_alone, problem),
        "torch_sorts": partial(sorts_alone, images, seen + unseen, "torch"),
        "numpy_sorts": partial(sorts_alone, images, seen + unseen, "numpy"),
    }
    seconds = take_turns(runs, repeats)
    difference = max(abs(found["fast"][key] - value) for key, value in found["plain"].items())
    assert difference < 1e-9, difference
    return {
        "images": images,
        "labels": seen + unseen,
        "unseen": unseen,
        "rows": NUM_ROWS,
        "dim": DIM,
        "positives": len(problem.targets.values),
        "seconds": {name: [round(value, 2) for value in values] for name, values in seconds.items()},
        "plain_over_fast": round(ratio(seconds, "plain", "fast"), 1),
        "fast_over_products": round(ratio(seconds, "fast", "products"), 2),
        "torch_sorts_over_products": round(ratio(seconds, "torch_sorts", "products"), 2),
        "numpy_sorts_over_products": round(ratio(seconds, "numpy_sorts", "products"), 2),
        "largest_difference_in_percent": difference,
    }


def main() -> None:
    """Measure the row of the docs."""
    flags = benchmark_parser(__doc__)
    flags.add_argument("--images", type=int, default=107_859)
    flags.add_argument("--seen", type=int, default=925)
    flags.add_argument("--unseen", type=int, default=81)
    flags.add_argument("--repeats", type=int, default=3, help="timed rounds, of some minutes each")
    flags.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of PyTorch")
    flags.add_argument("--child", action="store_true", help="print the peak memory of this process and exit")
    args = flags.parse_args()
    sizes = args.images, args.seen, args.unseen
    if args.child:
        fast_evaluation(draw(*sizes))
        print(memory_mb("VmHWM"))
        return
    peak = peak_of_a_child(*sizes)
    torch.set_num_threads(args.threads)
    record("evaluation", [{**measure(*sizes, args.repeats), "peak_mb": peak}], args.output)


if __name__ == "__main__":
    main()
