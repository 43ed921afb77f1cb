#!/usr/bin/env python3
"""Measure the SDL loss, forward and backward, against a plain loop, its score products alone, and a whole step.

* The plain loop takes one image and one principal vector at a time, as in the formula.
* The lower bound is the two matrix products that scores and their gradient need.
* ``--step`` also measures the loss's share of a training step of TResNet-M (half a minute per repeat).

Prints one JSON line for each setting.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import benchmark_parser, median_ms, ratio, record, take_turns
from src.loss_functions.SDL_loss import SDLLoss
from src.models import create_model

ROWS, DIM, POSITIVES, WEIGHT = 7, 300, 5, 0.3
SETTINGS = ((32, 48), (16, 925), (32, 925), (64, 925), (128, 925), (64, 1850), (64, 3700), (64, 7186))


def plain_loss(x: Tensor, y: Tensor, words: Tensor) -> Tensor:
    """Compute the official loss, one image and one principal vector at a time."""
    losses = []
    for flat, target in zip(x, y, strict=True):
        matrix = flat.view(words.shape[0], -1)  # [D, M]
        scores = torch.stack([(vector.unsqueeze(1) * words).sum(0) for vector in matrix.T]).max(0).values  # [C]
        positive, negative = scores[target == 1], scores[target != 1]
        rank = torch.log(1 + torch.exp(negative.unsqueeze(0) - positive.unsqueeze(1))).sum() / len(positive)
        omega = 1 + words[:, target == 1].var(dim=1).sum()
        losses.append(2 * ((1 - WEIGHT) * omega * rank + WEIGHT * matrix.var(dim=1).sum()))
    return torch.stack(losses).mean()


def problem(batch: int, labels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw embeddings [B, D*M] that require a gradient, targets [B, C], unit word vectors [D, C]."""
    generator = torch.Generator().manual_seed(0)
    words = torch.nn.functional.normalize(torch.randn(DIM, labels, generator=generator), dim=0)
    x = torch.randn(batch, DIM * ROWS, generator=generator).requires_grad_()
    y = torch.zeros(batch, labels, dtype=torch.int8)
    y.scatter_(1, torch.rand(batch, labels, generator=generator).topk(POSITIVES).indices, 1)
    return x, y, words


def measure(batch: int, labels: int, repeats: int) -> dict[str, object]:
    """Measure one setting."""
    x, y, words = problem(batch, labels)
    criterion = SDLLoss(weight=WEIGHT, wordvec_array=words)
    torch.testing.assert_close(criterion(x, y), plain_loss(x, y, words), rtol=1e-4, atol=1e-4)
    vectors, slope = torch.randn(batch * ROWS, DIM), torch.randn(batch * ROWS, labels)

    def run(loss: Tensor) -> None:
        x.grad = None
        loss.backward()

    seconds = take_turns(
        {
            "fast": lambda: run(criterion(x, y)),
            "plain": lambda: run(plain_loss(x, y, words)),
            "products": lambda: (vectors @ words, slope @ words.T),
        },
        repeats,
    )
    return {
        "batch": batch,
        "labels": labels,
        "rows": ROWS,
        "dim": DIM,
        "positives": POSITIVES,
        **{f"{name}_ms": median_ms(values) for name, values in seconds.items()},
        "plain_over_fast": round(ratio(seconds, "plain", "fast"), 1),
        "fast_over_products": round(ratio(seconds, "fast", "products"), 2),
        "plain_over_products": round(ratio(seconds, "plain", "products"), 1),
    }


def share_of_a_step(batch: int, labels: int, repeats: int) -> dict[str, object]:
    """Measure the loss within a step of TResNet-M at 224 pixels: forward, loss, backward and Adam."""
    x, y, words = problem(batch, labels)
    model = create_model("tresnet_m", ROWS, DIM).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    criterion = SDLLoss(weight=WEIGHT, wordvec_array=words)
    images = torch.rand(batch, 3, 224, 224)

    def step() -> None:
        optimizer.zero_grad()
        criterion(model(images), y).backward()
        optimizer.step()

    def loss() -> None:
        x.grad = None
        criterion(x, y).backward()

    seconds = take_turns({"step": step, "loss": loss}, repeats)
    share = 100 / ratio(seconds, "step", "loss")
    return {
        "batch": batch, "labels": labels, "rows": ROWS, "step_ms": median_ms(seconds["step"]),
        "loss_ms": median_ms(seconds["loss"]), "percent_of_step": round(share, 3),
    }  # fmt: skip


def main() -> None:
    """Measure the settings of the docs."""
    flags = benchmark_parser(__doc__)
    flags.add_argument("--repeats", type=int, default=9)
    flags.add_argument("--step", action="store_true", help="also measure the share of a training step of TResNet-M")
    args = flags.parse_args()
    rows = [measure(batch, labels, args.repeats) for batch, labels in SETTINGS]
    if args.step:
        rows.append(share_of_a_step(32, 925, 3))
    record("loss", rows, args.output)


if __name__ == "__main__":
    main()
