"""Rankings by integer keys, and metrics accumulated over blocks of labels, against plain sorts and loops."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import src.metrics.average_precision
import src.metrics.inputs
import src.metrics.zero_shot
from src.metrics import LabelBlocks, Protocol, rank_settings, ranking_report, zero_shot_report
from src.metrics.accumulator import RankingAccumulator
from src.metrics.average_precision import average_precisions, ranking_keys
from src.metrics.precision_recall import best_labels
from src.options import IMAGES
from src.scoring import top_k_labels
from tests.metric_oracles import (
    average_precision,
    dense_report,
    loop_average_precision,
    plain_report,
    sorted_average_precision,
)
from tests.test_metrics import problem

CONVENTIONS = ("official", "skip")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def equal(ours: Tensor, theirs: Tensor) -> bool:
    return torch.allclose(ours, theirs, rtol=0, atol=1e-12, equal_nan=True)


# --- keys ---


@pytest.mark.parametrize("dtype", DTYPES)
def test_keys_order_as_a_stable_sort_does(dtype):
    scores = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    scores[::5, 0] = 0.25  # ties
    scores[::7, 1] = -0.0
    scores[3::7, 1] = 0.0  # equal to -0.0
    scores[:4, 2] = torch.tensor([math.inf, -math.inf, math.inf, -math.inf])
    scores[4:8, 2] = torch.tensor([1e-7, -1e-7, 6e-8, 1e-42]).to(dtype)  # subnormal numbers of the small types
    keys = ranking_keys(scores)
    assert torch.equal(keys.sort(dim=1).indices, scores.sort(dim=0, descending=True, stable=True).indices.t())
    for label in range(3):
        same_score = scores[:, label, None] == scores[None, :, label]
        assert torch.equal(keys[label, :, None] >> 32 == keys[label, None, :] >> 32, same_score)
        assert torch.equal(keys[label] & 0xFFFFFFFF, torch.arange(500))


# --- average precision ---


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("levels", [None, 7])
def test_average_precision_equals_a_stable_sort_of_every_label(dtype, levels):
    scores, targets = problem(3000, 13, seed=1, levels=levels)
    scores = scores.to(dtype)  # in the small types nearly every score is tied
    scores[:, 5] = 1.5
    targets[:, 7] = 1
    targets[:, 8] = 0
    targets[17, 8] = 1
    for convention in CONVENTIONS:
        ours = average_precision(scores, targets, convention)
        assert equal(ours, sorted_average_precision(scores, targets == 1, convention)), convention


@pytest.mark.parametrize("levels", [None, 3])
def test_images_that_are_ignored_might_not_be_there(levels):
    scores, targets = problem(60, 9, seed=2, levels=levels)
    for convention in CONVENTIONS:
        ours = average_precision(scores, targets, convention, ignore_unknown=True)
        for label in range(9):
            known = targets[:, label] != -1
            kept = scores[known, label].tolist(), targets[known, label].tolist()
            expected = torch.tensor(loop_average_precision(*kept, convention), dtype=torch.float64)
            assert torch.allclose(ours[label], expected, atol=1e-7, equal_nan=True)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_an_ignored_image_does_not_share_the_last_place_with_a_score_of_minus_infinity(convention):
    scores = torch.tensor([[1.0], [-math.inf], [-math.inf], [0.5]])
    targets = torch.tensor([[1], [-1], [1], [0]])
    expected = torch.tensor([(1 / 1 + 2 / 3) / 2], dtype=torch.float64)
    torch.testing.assert_close(average_precision(scores, targets, convention, ignore_unknown=True), expected)


def test_average_precision_of_a_label_does_not_depend_on_other_labels():
    scores, targets = problem(700, 9, seed=3, levels=50)
    targets[:, 4] = (scores[:, 4] > 20).int()  # many positives beside few
    for convention in CONVENTIONS:
        alone = [average_precision(scores[:, [label]], targets[:, [label]], convention) for label in range(9)]
        together = average_precision(scores, targets, convention)
        assert torch.equal(torch.cat(alone).nan_to_num(2), together.nan_to_num(2))  # to the last bit


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("labels", [3, 4, 7])
def test_threads_that_share_a_ranking_change_nothing(monkeypatch, threads, labels):
    scores, targets = problem(800, labels, seed=13, levels=90)
    expected = average_precisions(scores, *(targets == 1).t().nonzero(as_tuple=True))
    monkeypatch.setattr(src.metrics.average_precision, "_FEW_KEYS", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    found = average_precisions(scores, *(targets == 1).t().nonzero(as_tuple=True))
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours.nan_to_num(2), theirs.nan_to_num(2))


def test_no_images_no_labels_and_no_positives():
    for shape in ((0, 3), (4, 0), (0, 0), (4, 3)):
        official, skip = average_precisions(torch.zeros(shape), *torch.zeros(2, 0, dtype=torch.int64))
        assert official.tolist() == [0.0] * shape[1]
        assert skip.isnan().all()
        assert len(skip) == shape[1]
        assert official.dtype == skip.dtype == torch.float64


# --- the best labels, block by block ---


@pytest.mark.parametrize("k", [1, 3, 5, 12])
@pytest.mark.parametrize("levels", [1, 3, 1000])
def test_best_labels_of_blocks_are_those_of_the_whole(k, levels):
    generator = torch.Generator().manual_seed(5)
    scores = torch.randint(0, levels, (30, 12), generator=generator).float()
    scores[scores == 0] = -math.inf
    positive = torch.rand(30, 12, generator=generator) < 0.4
    values, labels = top_k_labels(scores, k)
    for cuts in ([], [1], [6], [2, 3, 11], list(range(1, 12))):
        best = None
        for start, stop in itertools.pairwise([0, *cuts, 12]):
            best = best_labels(scores[:, start:stop], positive[:, start:stop], k, best, start)
        assert best is not None
        assert torch.equal(best.scores, values)
        assert torch.equal(best.labels, labels)
        assert torch.equal(best.relevant, positive.gather(1, labels))


@pytest.mark.parametrize("images", IMAGES)
def test_metrics_accumulated_over_blocks_are_the_report_of_the_whole(monkeypatch, images):
    scores, targets = problem(50, 11, seed=6, levels=6)
    expected = ranking_report(scores, targets, Protocol(images=images, threshold=3.0))
    rows = src.metrics.inputs.select_images(targets, images)
    for elements, cuts in itertools.product((1 << 21, 40, 1), ([], [4], [1, 2, 3, 7, 10])):
        monkeypatch.setattr(src.metrics.inputs, "_BLOCK_ELEMENTS", elements)
        accumulator = RankingAccumulator(rows, 11, Protocol(threshold=3.0))
        for start, stop in itertools.pairwise([0, *cuts, 11]):
            accumulator.add(scores[:, start:stop], targets[:, start:stop])
        assert accumulator.report() == expected


def test_without_ks_labels_are_ranked_and_nan_is_found():
    scores, targets = problem(seed=7)
    assert ranking_report(scores, targets, Protocol(ks=()))["mAP"] == ranking_report(scores, targets)["mAP"]
    scores[1, 1] = math.nan
    with pytest.raises(ValueError, match="scores contain NaN"):
        ranking_report(scores, targets, Protocol(ks=(), images="all-images"))


# --- both settings, block by block ---


def drawn_rows(count: int, seed: int) -> Tensor:
    """Draw images in random order, a few of them more than once."""
    return torch.randint(0, count, (2 * count // 3,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("images", IMAGES)
@pytest.mark.parametrize("elements", [1 << 26, 90, 1])
@pytest.mark.parametrize("levels", [None, 3])
def test_both_settings_equal_plain_loops_however_labels_are_cut(monkeypatch, elements, images, levels):
    scores, targets = problem(45, 12, seed=8, levels=levels)
    seen, unseen = [11, 0, 3, 4, 9], [2, 7, 10, 5]
    rows = drawn_rows(45, 9), drawn_rows(45, 10)
    monkeypatch.setattr(src.metrics.zero_shot, "_SCORE_BLOCK_ELEMENTS", elements)
    report = dense_report(scores, targets, seen, unseen, rows, ks=(1, 3, 5), images=images, threshold=0.5)
    expected: dict[str, float] = {}
    for name, columns, own in (("zero_shot", unseen, rows[0]), ("generalized", [*seen, *unseen], rows[1])):
        part = plain_report(scores, targets, columns, own.tolist(), (1, 3, 5), images, 0.5)
        expected |= {f"{name}.{key}": value for key, value in part.items()}
    assert report.keys() == expected.keys()
    assert report == pytest.approx(expected, rel=0, abs=1e-6)  # the official epsilon; see the next line for the rest
    others = {key: value for key, value in expected.items() if not key.endswith(".mAP")}
    assert {key: report[key] for key in others} == pytest.approx(others, rel=1e-12)


def test_labels_are_asked_for_once_in_order_and_few_at_a_time(monkeypatch):
    scores, targets = problem(20, 10, seed=11)
    monkeypatch.setattr(src.metrics.zero_shot, "_SCORE_BLOCK_ELEMENTS", 79)  # 3 labels of 20 images
    asked: list[list[int]] = []

    def scores_of(labels: Tensor) -> Tensor:
        asked.append(labels.tolist())
        return scores[:, labels]

    blocks = LabelBlocks(20, torch.device("cpu"), scores_of, lambda labels: targets[:, labels])
    report = zero_shot_report(rank_settings(blocks, [9, 0, 1, 4, 5], [3, 8]))
    assert list(itertools.chain(*asked)) == [0, 1, 3, 4, 5, 8, 9]
    assert max(map(len, asked)) == 3
    assert report == dense_report(scores, targets, [9, 0, 1, 4, 5], [3, 8])


@pytest.mark.parametrize(
    ("images", "labels", "widths"),
    [
        (20, 10, [3, 3, 3, 1]),
        (1, 200, [64, 64, 64, 8]),  # 79 would fit: cut at multiples of 64
    ],
)
def test_labels_are_cut_into_parts_that_fit(monkeypatch, images, labels, widths):
    monkeypatch.setattr(src.metrics.zero_shot, "_SCORE_BLOCK_ELEMENTS", 79)
    monkeypatch.setattr(src.metrics.zero_shot, "_LABEL_STEP", 64)
    blocks = LabelBlocks(images, torch.device("cpu"), lambda _: torch.empty(0), lambda _: torch.empty(0))
    parts = blocks.split(torch.arange(labels))
    assert torch.equal(torch.cat(parts), torch.arange(labels))
    assert [len(part) for part in parts] == widths
