#!/usr/bin/env python3
"""SDL loss, forward and backward: the vectorised form against the plain loop over images that the formula suggests.

Both run in turn in one process, so the ratio holds on a noisy machine. Prints one JSON line a setting.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from src.loss_functions.SDL_loss import SDLLoss


def plain_loss(x: Tensor, y: Tensor, words: Tensor, weight: float) -> Tensor:
    """The official loss, one image and one principal vector at a time."""
    dim = words.shape[0]
    losses = []
    for flat, target in zip(x, y, strict=True):
        matrix = flat.view(dim, -1)  # [D, M]
        scores = torch.stack([(vector.unsqueeze(1) * words).sum(0) for vector in matrix.T]).max(0).values  # [C]
        positive, negative = scores[target == 1], scores[target != 1]
        rank = torch.log(1 + torch.exp(negative.unsqueeze(0) - positive.unsqueeze(1))).sum() / len(positive)
        omega = 1 + words[:, target == 1].var(dim=1).sum()
        losses.append(2 * ((1 - weight) * omega * rank + weight * matrix.var(dim=1).sum()))
    return torch.stack(losses).mean()


def seconds(run: Callable[[], Tensor], x: Tensor) -> float:
    """Time of one forward and backward pass."""
    x.grad = None
    started = time.perf_counter()
    run().backward()
    return time.perf_counter() - started


def measure(batch: int, labels: int, rows: int, dim: int, positives: int, repeats: int) -> dict[str, object]:
    """Medians over ``repeats`` alternating runs."""
    generator = torch.Generator().manual_seed(0)
    words = torch.nn.functional.normalize(torch.randn(dim, labels, generator=generator), dim=0)
    x = torch.randn(batch, dim * rows, generator=generator).requires_grad_()
    y = torch.zeros(batch, labels, dtype=torch.int8)
    y.scatter_(1, torch.rand(batch, labels, generator=generator).topk(positives).indices, 1)
    criterion = SDLLoss(weight=0.3, wordvec_array=words)
    fast, plain = (lambda: criterion(x, y)), (lambda: plain_loss(x, y, words, 0.3))
    torch.testing.assert_close(fast(), plain(), rtol=1e-4, atol=1e-4)
    pairs = [(seconds(fast, x), seconds(plain, x)) for _ in range(repeats)]
    return {
        "batch": batch,
        "labels": labels,
        "rows": rows,
        "dim": dim,
        "positives": positives,
        "vectorised_ms": round(1000 * statistics.median(a for a, _ in pairs), 2),
        "plain_ms": round(1000 * statistics.median(b for _, b in pairs), 2),
        "ratio": round(statistics.median(b / a for a, b in pairs), 1),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
    }


def main() -> None:
    """Measure the settings of the docs."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--repeats", type=int, default=7)
    repeats = flags.parse_args().repeats
    for batch, labels in ((32, 48), (64, 925), (64, 1850), (128, 925)):
        print(json.dumps(measure(batch, labels, rows=7, dim=300, positives=5, repeats=repeats)), flush=True)


if __name__ == "__main__":
    main()
