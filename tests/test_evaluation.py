"""Embedding images and evaluating embeddings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import src.evaluation
import src.metrics.inputs
import src.metrics.zero_shot
from src.data.dataset import Batch
from src.data.labels import LabelMatrix
from src.data.parts import GroundTruth
from src.data.split import ZeroShotSplit
from src.embedding import embed
from src.evaluation import evaluate
from src.metrics import Protocol
from src.scoring import score_labels
from tests.conftest import GOLDEN
from tests.metric_oracles import dense_report, plain_report
from tests.test_scoring import largest_tensor

CPU = torch.device("cpu")
DIM, ROWS, LABELS = 4, 2, 5


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def image_batch(rows: list[int], bad: tuple[str, ...] = ()) -> Batch:
    """Images whose every pixel is their row's number."""
    images = torch.tensor(rows).float().view(-1, 1, 1, 1).expand(-1, 3, 2, 2).contiguous()
    return Batch(images, torch.tensor(rows, dtype=torch.long), bad)


# --- embedding ---


def mean_of_image(images: Tensor) -> Tensor:
    return images.flatten(1).mean(dim=1, keepdim=True) * torch.tensor([[1.0, 10.0]])


def test_embedding_drops_unreadable_images_and_keeps_the_rows_of_the_others():
    loader = [image_batch([0, 2], ("row 1",)), image_batch([], ("row 3", "row 4")), image_batch([5])]
    counts: list[int] = []
    embedded = embed(mean_of_image, loader, device=CPU, on_batch=counts.append)
    assert embedded.rows.tolist() == [0, 2, 5]
    assert embedded.outputs.tolist() == [[0, 0], [2, 20], [5, 50]]
    assert embedded.bad == ("row 1", "row 3", "row 4")
    assert counts == [3, 2, 1]


@pytest.mark.parametrize("loader", [[], [image_batch([], ("row 0", "row 1"))]])
def test_embedding_nothing(loader):
    embedded = embed(mean_of_image, loader, device=CPU)
    assert (len(embedded.outputs), embedded.rows.tolist()) == (0, [])
    assert embedded.rows.dtype == torch.long
    assert len(embedded.bad) == 2 * len(loader)


@pytest.mark.parametrize("autocast", [True, False])
def test_embeddings_are_float32_and_computed_under_autocast_if_asked(autocast):
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    seen: list[torch.dtype] = []

    def forward(images: Tensor) -> Tensor:
        output = module(images)
        seen.append(output.dtype)
        return output

    embedded = embed(forward, [image_batch([1, 2])], device=CPU, precision=torch.bfloat16 if autocast else None)
    assert seen == [torch.bfloat16 if autocast else torch.float32]
    assert embedded.outputs.dtype == torch.float32
    assert not embedded.outputs.requires_grad


# --- evaluation ---


def split_of(words: Tensor, seen: Sequence[int] = (0, 3), unseen: Sequence[int] = (1, 4)) -> ZeroShotSplit:
    return ZeroShotSplit(tuple(f"label {number}" for number in range(words.shape[1])), (*seen,), (*unseen,), words)


def evaluation_problem() -> tuple[Tensor, Tensor, Tensor]:
    return draw(23, DIM * ROWS, seed=8), draw(DIM, LABELS, seed=9), (draw(23, LABELS, seed=10) > 0.7).int()


def test_evaluation_is_the_report_of_the_scores():
    x, words, targets = evaluation_problem()
    rows = torch.arange(23) % 2 == 0, torch.arange(23) % 3 > 0
    protocol, truth = Protocol((1, 2), "all-images", threshold=0.4), GroundTruth(targets, *rows)
    report = evaluate(x, split_of(words), truth, protocol)
    keywords = {"ks": (1, 2), "images": "all-images", "threshold": 0.4}
    assert report == pytest.approx(dense_report(score_labels(x, words), targets, [0, 3], [1, 4], rows, **keywords))
    for name, value in (("ks", (2,)), ("images", "positive-only"), ("threshold", 0.0)):
        assert report != evaluate(x, split_of(words), truth, replace(protocol, **{name: value})), name
    for name in ("zero_shot_rows", "generalized_rows"):
        assert report != evaluate(x, split_of(words), replace(truth, **{name: None}), protocol), name


@pytest.mark.parametrize("block", [1, 7, 23, 100])
def test_blocks_of_images_do_not_change_the_report(monkeypatch, block):
    x, words, targets = evaluation_problem()
    split, truth = split_of(words), GroundTruth(targets)
    expected = evaluate(x, split, truth)
    sizes: list[int] = []

    def counting(embedding: Tensor, word_vectors: Tensor, out: Tensor) -> Tensor:
        sizes.append(len(embedding))
        return score_labels(embedding, word_vectors, out=out)

    monkeypatch.setattr(src.evaluation, "score_labels", counting)
    assert evaluate(x, split, truth, block_size=block, device=CPU) == pytest.approx(expected, rel=1e-9)
    assert max(sizes) <= block
    assert sum(sizes) == 23


def exact_problem(images: int, labels: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Whole numbers, whose products have the same sums in any order: scores are exact, and many are equal."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-3, 4, (images, DIM * ROWS), generator=generator).float()
    words = torch.randint(-2, 3, (DIM, labels), generator=generator).float()
    draw_of_target = torch.rand(images, labels, generator=generator)
    return x, words, (draw_of_target < 0.15).to(torch.int8) - (draw_of_target > 0.8).to(torch.int8)


@pytest.mark.parametrize("images", ["positive-only", "all-images"])
@pytest.mark.parametrize("elements", [1 << 26, 130, 1])
def test_evaluation_equals_plain_loops_however_labels_and_images_are_cut(monkeypatch, elements, images):
    x, words, targets = exact_problem(43, 9, seed=20)
    seen, unseen = [8, 0, 3, 5], [1, 7, 6]  # 2 and 4 on neither side
    rows = torch.arange(43) % 4 > 0, torch.arange(43) % 5 > 1
    monkeypatch.setattr(src.metrics.zero_shot, "_SCORE_BLOCK_ELEMENTS", elements)
    keywords = {"ks": (1, 3), "images": images, "threshold": 2.0}
    report = evaluate(
        x, split_of(words, seen, unseen), GroundTruth(targets, *rows), Protocol(**keywords), block_size=10
    )
    scores = torch.stack([torch.stack([vector @ words for vector in one.view(DIM, ROWS).t()]).amax(0) for one in x])
    expected: dict[str, float] = {}
    for name, columns, own in (("zero_shot", unseen, rows[0]), ("generalized", [*seen, *unseen], rows[1])):
        own_rows = own.nonzero()[:, 0].tolist()
        part = plain_report(scores, targets, columns, own_rows, **keywords)
        expected |= {f"{name}.{key}": value for key, value in part.items()}
    assert report.keys() == expected.keys()
    assert report == pytest.approx(expected, rel=1e-7)  # the released code's 1e-8 beside the number of positives
    others = {key: value for key, value in expected.items() if not key.endswith(".mAP")}
    assert {key: report[key] for key in others} == pytest.approx(others, rel=1e-12)


@pytest.mark.parametrize("elements", [1 << 26, 130])
def test_sparse_targets_give_the_report_of_dense_ones(monkeypatch, elements):
    x, words, targets = exact_problem(43, 9, seed=21)
    monkeypatch.setattr(src.metrics.zero_shot, "_SCORE_BLOCK_ELEMENTS", elements)
    partly = LabelMatrix.from_entries(  # of some images only the positives and a few negatives were verified
        *(targets != -1).nonzero().unbind(1), targets[targets != -1], unlisted=-(torch.arange(43) % 2), num_labels=9
    )
    for sparse in (LabelMatrix.from_dense(targets), partly):
        split, some = split_of(words, [8, 0, 3, 5], [1, 7, 6]), torch.arange(43) > 3
        dense = evaluate(x, split, GroundTruth(sparse.dense(), generalized_rows=some))
        assert evaluate(x, split, GroundTruth(sparse, generalized_rows=some)) == dense
    assert "zero_shot.mAP_verified" in dense


def test_neither_scores_nor_targets_exist_whole(monkeypatch):
    x, words, targets = exact_problem(200, 40, seed=22)
    sparse = LabelMatrix.from_dense(targets.clamp(min=0))
    monkeypatch.setattr(src.metrics.zero_shot, "_SCORE_BLOCK_ELEMENTS", 200 * 8)
    monkeypatch.setattr(src.metrics.inputs, "_BLOCK_ELEMENTS", 200 * 4)
    split, protocol = split_of(words, range(30), range(30, 40)), Protocol(images="all-images")
    run = partial(evaluate, x, split, GroundTruth(sparse), protocol, block_size=20)
    assert largest_tensor(run) <= 200 * 8  # [200, 40] would be five times as much; the products [200, 2, 40] ten times


def test_embeddings_of_another_precision_are_scored_in_it():
    x, words, targets = exact_problem(30, 5, seed=23)
    split, truth, protocol = split_of(words), GroundTruth(targets), Protocol(threshold=1.0)
    expected = evaluate(x, split, truth, protocol)
    for dtype in (torch.float64, torch.bfloat16, torch.float16):  # whole numbers this small are exact in all of them
        assert evaluate(x.to(dtype), split, truth, protocol) == expected


@pytest.mark.parametrize("setting", ["zero_shot", "generalized"])
def test_evaluation_gives_the_percentages_of_the_released_code(setting):
    golden = np.load(GOLDEN / "metrics.npz")
    unseen = golden["zero_shot_class_ids"].tolist()
    seen = [label for label in golden["generalized_class_ids"].tolist() if label not in unseen]
    report = evaluate(
        torch.from_numpy(golden[f"{setting}_embedding"]),
        split_of(torch.from_numpy(golden["wordvec"]), seen, unseen),
        GroundTruth(torch.from_numpy(golden[f"{setting}_target"])),
        block_size=64,
    )
    for ours, theirs in (("P@3", "P3"), ("R@3", "R3"), ("F1@3", "F3"), ("F1@5", "F5"), ("mAP", "mAP")):
        assert report[f"{setting}.{ours}"] == pytest.approx(float(golden[f"{setting}_{theirs}"]), rel=1e-6), ours


@pytest.mark.parametrize("images", ["positive-only", "all-images"])
def test_evaluation_of_no_images_counts_none(images):
    split, truth = split_of(draw(DIM, LABELS, seed=9)), GroundTruth(torch.empty(0, LABELS))
    report = evaluate(torch.empty(0, DIM * ROWS), split, truth, Protocol(images=images))
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
def test_evaluation_rejects_wrong_shapes_and_nan(change: Callable, message: str):
    x, words, targets = change(*evaluation_problem())
    with pytest.raises(ValueError, match=message):
        evaluate(x, split_of(words), GroundTruth(targets))
