"""Embedding pictures and evaluating embeddings."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import src.evaluation
from src.data.dataset import Batch
from src.evaluation import embed, evaluate
from src.metrics import zero_shot_report
from src.scoring import score_labels
from tests.conftest import GOLDEN

CPU = torch.device("cpu")
DIM, ROWS, LABELS = 4, 2, 5


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def picture_batch(rows: list[int], bad: tuple[str, ...] = ()) -> Batch:
    """Pictures whose every pixel is their row's number."""
    pictures = torch.tensor(rows).float().view(-1, 1, 1, 1).expand(-1, 3, 2, 2).contiguous()
    return Batch(pictures, torch.tensor(rows, dtype=torch.long), bad)


# --- embedding ---


def mean_of_picture(pictures: Tensor) -> Tensor:
    return pictures.flatten(1).mean(dim=1, keepdim=True) * torch.tensor([[1.0, 10.0]])


def test_embedding_drops_unreadable_pictures_and_keeps_the_rows_of_the_others():
    loader = [picture_batch([0, 2], ("row 1",)), picture_batch([], ("row 3", "row 4")), picture_batch([5])]
    counts: list[int] = []
    embedded = embed(mean_of_picture, loader, device=CPU, on_batch=counts.append)
    assert embedded.rows.tolist() == [0, 2, 5]
    assert embedded.outputs.tolist() == [[0, 0], [2, 20], [5, 50]]
    assert embedded.bad == ("row 1", "row 3", "row 4")
    assert counts == [3, 2, 1]


@pytest.mark.parametrize("loader", [[], [picture_batch([], ("row 0", "row 1"))]])
def test_embedding_nothing(loader):
    embedded = embed(mean_of_picture, loader, device=CPU)
    assert (len(embedded.outputs), embedded.rows.tolist()) == (0, [])
    assert embedded.rows.dtype == torch.long
    assert len(embedded.bad) == 2 * len(loader)


@pytest.mark.parametrize("autocast", [True, False])
def test_embeddings_are_float32_and_computed_under_autocast_if_asked(autocast):
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    seen: list[torch.dtype] = []

    def forward(pictures: Tensor) -> Tensor:
        output = module(pictures)
        seen.append(output.dtype)
        return output

    embedded = embed(forward, [picture_batch([1, 2])], device=CPU, precision=torch.bfloat16 if autocast else None)
    assert seen == [torch.bfloat16 if autocast else torch.float32]
    assert embedded.outputs.dtype == torch.float32
    assert not embedded.outputs.requires_grad


# --- evaluation ---


def evaluation_problem() -> tuple[Tensor, Tensor, Tensor]:
    return draw(23, DIM * ROWS, seed=8), draw(DIM, LABELS, seed=9), (draw(23, LABELS, seed=10) > 0.7).int()


def test_evaluation_is_the_report_of_the_scores():
    x, words, targets = evaluation_problem()
    rows = torch.arange(23) % 2 == 0, torch.arange(23) % 3 > 0
    keywords = {"ks": (1, 2), "images": "all-images", "threshold": 0.4, "zero_shot_rows": rows[0]}
    keywords["generalized_rows"] = rows[1]
    report = evaluate(x, words, targets, [0, 3], [1, 4], **keywords)
    assert report == zero_shot_report(score_labels(x, words), targets, [0, 3], [1, 4], **keywords)
    for name, value in (("ks", (2,)), ("images", "positive-only"), ("threshold", 0.0), ("zero_shot_rows", rows[1])):
        assert report != evaluate(x, words, targets, [0, 3], [1, 4], **(keywords | {name: value})), name


def test_evaluation_has_the_defaults_of_the_report():
    x, words, targets = evaluation_problem()
    assert evaluate(x, words, targets, [0, 3], [1, 4]) == zero_shot_report(
        score_labels(x, words), targets, [0, 3], [1, 4]
    )


@pytest.mark.parametrize("block", [1, 7, 23, 100])
def test_blocks_of_pictures_do_not_change_the_report(monkeypatch, block):
    x, words, targets = evaluation_problem()
    expected = evaluate(x, words, targets, [0, 3], [1, 4])
    sizes: list[int] = []

    def counting(embedding: Tensor, word_vectors: Tensor) -> Tensor:
        sizes.append(len(embedding))
        return score_labels(embedding, word_vectors)

    monkeypatch.setattr(src.evaluation, "score_labels", counting)
    assert evaluate(x, words, targets, [0, 3], [1, 4], block=block, device=CPU) == pytest.approx(expected, rel=1e-9)
    assert max(sizes) <= block
    assert sum(sizes) == 23


@pytest.mark.parametrize("setting", ["zero_shot", "generalized"])
def test_evaluation_gives_the_percentages_of_the_released_code(setting):
    golden = np.load(GOLDEN / "metrics.npz")
    unseen = golden["zero_shot_class_ids"].tolist()
    seen = [label for label in golden["generalized_class_ids"].tolist() if label not in unseen]
    report = evaluate(
        torch.from_numpy(golden[f"{setting}_embedding"]),
        torch.from_numpy(golden["wordvec"]),
        torch.from_numpy(golden[f"{setting}_target"]),
        seen,
        unseen,
        block=64,
    )
    for ours, theirs in (("P@3", "P3"), ("R@3", "R3"), ("F1@3", "F3"), ("F1@5", "F5"), ("mAP", "mAP")):
        assert report[f"{setting}.{ours}"] == pytest.approx(float(golden[f"{setting}_{theirs}"]), rel=1e-6), ours


@pytest.mark.parametrize("images", ["positive-only", "all-images"])
def test_evaluation_of_no_pictures_counts_none(images):
    report = evaluate(
        torch.empty(0, DIM * ROWS), draw(DIM, LABELS, seed=9), torch.empty(0, LABELS), [0, 3], [1, 4], images=images
    )
    assert report["zero_shot.num_images"] == report["generalized.num_images"] == 0
    assert report["zero_shot.mAP"] == report["generalized.F1@3"] == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, words, targets: (x, words, targets[:-1]), r"\(23, 5\) and \(22, 5\)"),
        (lambda x, words, targets: (x, words, targets[:, :-1]), r"\(23, 5\) and \(23, 4\)"),
        (lambda x, words, targets: (x[:, :-1], words, targets), "embedding length 7 is not a positive multiple"),
        (lambda x, words, targets: (x * math.nan, words, targets), "scores contain NaN"),
    ],
)
def test_evaluation_refuses_what_does_not_fit(change: Callable, message: str):
    with pytest.raises(ValueError, match=message):
        evaluate(*change(*evaluation_problem()), [0, 3], [1, 4])
