"""The metrics against the released code, scikit-learn, plain loops, and counts of real test lists."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, precision_recall_fscore_support
from torch import Tensor

from src.data.official import read_array_pickle
from src.metrics import (
    Protocol,
    best_possible_f1_at_k,
    f1_at_k,
    f1_of_choice,
    mean_average_precision,
    ranking_report,
    select_images,
)
from src.options import IMAGES
from src.scoring import score_labels, top_k_labels
from tests.conftest import GOLDEN
from tests.metric_oracles import average_precision, dense_report, loop_average_precision, loop_f1_at_k

COUNTS = ("num_images", "num_labels", "num_labels_with_positive", "num_positives", "labels_per_image")


def problem(images: int = 40, labels: int = 9, *, seed: int = 0, levels: int | None = None) -> tuple[Tensor, Tensor]:
    """Scores and targets with unknown labels, images without positives, and a label (column 2) without any.

    With ``levels``, scores take so few values that many are equal.
    """
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(images, labels, generator=generator)
    if levels is not None:
        scores = torch.randint(0, levels, (images, labels), generator=generator).float()
    draw = torch.rand(images, labels, generator=generator)
    targets = (draw < 0.2).int() - (draw > 0.9).int()  # 1, 0, -1
    targets[:, 2] = targets[:, 2].clamp(max=0)
    targets[::7] = targets[::7].clamp(max=0)
    return scores, targets


def same(ours: Tensor, theirs: Sequence[float], tolerance: float = 1e-7) -> bool:
    return torch.allclose(ours, torch.tensor(theirs, dtype=torch.float64), rtol=0, atol=tolerance, equal_nan=True)


# --- plain loops ---


@pytest.mark.parametrize("k", [1, 3, 5, 9])
@pytest.mark.parametrize("levels", [None, 3])
def test_f1_at_k_equals_the_plain_loop(k, levels):
    scores, targets = problem(seed=k, levels=levels)
    assert f1_at_k(scores, targets, k) == pytest.approx(loop_f1_at_k(scores, targets, k), rel=1e-12)


@pytest.mark.parametrize("convention", ["official", "skip"])
@pytest.mark.parametrize("levels", [None, 2, 5, 1])
def test_average_precision_equals_the_plain_loop(convention, levels):
    scores, targets = problem(seed=10, levels=levels)
    expected = [
        loop_average_precision(scores[:, label].tolist(), targets[:, label].tolist(), convention) for label in range(9)
    ]
    ours = average_precision(scores, targets, convention)
    assert ours.dtype == torch.float64
    assert same(ours, expected)


def test_average_precision_of_numbers_worked_by_hand():
    scores = torch.tensor([[0.9], [0.8], [0.8], [0.1]])
    targets = torch.tensor([[0], [0], [1], [1]])
    assert float(average_precision(scores, targets)) == pytest.approx((1 / 3 + 2 / 4) / 2)
    assert float(average_precision(scores, targets[[0, 2, 1, 3]])) == pytest.approx((1 / 2 + 2 / 4) / 2)  # tie order
    for order in ([0, 1, 2, 3], [0, 2, 1, 3]):
        assert float(average_precision(scores, targets[order], "skip")) == pytest.approx((1 / 3 + 2 / 4) / 2)


def test_f1_at_k_of_numbers_worked_by_hand():
    scores = torch.tensor([[4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 2.0, 2.0]])
    targets = torch.tensor([[1, 0, 1, 1], [0, 0, 1, 1]])
    result = f1_at_k(scores, targets, 2)  # the first image: labels 0, 1; the second: 1, 2
    assert result == pytest.approx((2 / 4, 2 / 5, 4 / 9))
    assert best_possible_f1_at_k(targets.sum(dim=1), 2) == pytest.approx((4 / 4, 4 / 5, 8 / 9))


# --- the released code and scikit-learn ---


@pytest.mark.parametrize("setting", ["zero_shot", "generalized"])
def test_percentages_of_the_released_code(setting):
    golden = np.load(GOLDEN / "metrics.npz")
    ids, unseen = golden[f"{setting}_class_ids"].tolist(), golden["zero_shot_class_ids"].tolist()
    seen = [label for label in ids if label not in unseen]
    scores = score_labels(torch.from_numpy(golden[f"{setting}_embedding"]), torch.from_numpy(golden["wordvec"]))
    report = dense_report(scores, torch.from_numpy(golden[f"{setting}_target"]), seen, unseen)
    for ours, theirs in {"P": "P", "R": "R", "F1": "F"}.items():
        for k in (3, 5):
            expected = float(golden[f"{setting}_{theirs}{k}"])
            assert report[f"{setting}.{ours}@{k}"] == pytest.approx(expected, rel=1e-6), f"{ours}@{k}"
    assert report[f"{setting}.mAP"] == pytest.approx(float(golden[f"{setting}_mAP"]), rel=1e-6)


@pytest.mark.parametrize("levels", [None, 2, 4])
def test_skip_agrees_with_scikit_learn(levels):
    scores, targets = problem(80, 7, seed=11, levels=levels)
    ours = average_precision(scores, targets, "skip")
    assert math.isnan(ours[2])
    kept = [label for label in range(7) if label != 2]
    expected = [average_precision_score((targets[:, label] == 1).numpy(), scores[:, label].numpy()) for label in kept]
    assert same(ours[kept], expected, 1e-12)
    assert mean_average_precision(ours) == pytest.approx(float(np.mean(expected)), rel=1e-12)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("images", IMAGES)
def test_micro_precision_and_recall_agree_with_scikit_learn(k, images):
    scores, targets = problem(seed=12)
    rows = select_images(targets, images)
    chosen = torch.zeros_like(targets).scatter_(1, top_k_labels(scores, k)[1], 1)[rows].numpy()
    expected = precision_recall_fscore_support((targets[rows] == 1).numpy(), chosen, average="micro")[:3]
    report = ranking_report(scores, targets, Protocol(ks=(k,), images=images))
    assert [report[f"{name}@{k}"] for name in ("P", "R", "F1")] == pytest.approx([100 * value for value in expected])


@pytest.mark.parametrize("threshold", [-10.0, -0.3, 0.0, 1.0, 10.0])
def test_threshold_metrics_agree_with_scikit_learn(threshold):
    scores, targets = problem(seed=13)
    predicted, positive = (scores > threshold).numpy(), (targets == 1).numpy()
    expected = precision_recall_fscore_support(positive, predicted, average="micro", zero_division=0)[:3]
    assert f1_of_choice(scores > threshold, targets) == pytest.approx(expected)
    report = ranking_report(scores, targets, Protocol(images="all-images", threshold=threshold))
    assert [report[f"{name}@threshold"] / 100 for name in ("P", "R", "F1")] == pytest.approx(expected)


def test_a_score_at_the_threshold_is_not_above_it():
    report = ranking_report(torch.tensor([[0.5, 0.6]]), torch.tensor([[1, 1]]), Protocol(threshold=0.5))
    assert [report[f"{name}@threshold"] for name in ("P", "R", "F1")] == pytest.approx([100, 50, 200 / 3])


# --- protocols ---


def test_protocols_select_their_images():
    _, targets = problem(seed=14)
    with_positive = [row for row, target in enumerate(targets.tolist()) if 1 in target]
    assert 0 not in with_positive
    assert select_images(targets, "positive-only").tolist() == with_positive
    assert select_images(targets, "all-images").tolist() == list(range(40))


def test_defaults_are_the_released_codes_protocol():
    assert Protocol() == Protocol(ks=(3, 5), images="positive-only", threshold=None)


def test_images_without_positives_lower_precision_but_not_recall():
    scores, targets = problem(seed=15)
    some, every = (ranking_report(scores, targets, Protocol(ks=(3,), images=images)) for images in IMAGES)
    assert some["num_images"] < every["num_images"] == 40
    assert every["R@3"] == some["R@3"]
    assert every["P@3"] * every["num_images"] == pytest.approx(some["P@3"] * some["num_images"])
    assert every["mAP_skip"] < some["mAP_skip"]


def test_a_label_without_positives_is_zero_or_left_out():
    scores, targets = problem(seed=17)
    official, skip = (average_precision(scores, targets, convention) for convention in ("official", "skip"))
    assert official[2] == 0
    assert math.isnan(skip[2])
    assert mean_average_precision(official) == pytest.approx(float(official.sum()) / 9)
    assert mean_average_precision(skip) == pytest.approx(float(skip.nansum()) / 8)
    # Without ties the two conventions differ in nothing else.
    assert mean_average_precision(official) == pytest.approx(mean_average_precision(skip) * 8 / 9)


def test_unknown_labels_count_as_negative():
    scores, targets = problem(seed=18)
    assert (targets == -1).any()
    for images in IMAGES:
        report = ranking_report(scores, targets, Protocol(images=images))
        assert {report.pop(name) > 0 for name in ("num_unknown", "mAP_verified")} == {True}
        assert report == ranking_report(scores, targets.clamp(min=0), Protocol(images=images))


@pytest.mark.parametrize("levels", [None, 3])
def test_verified_map_is_scikit_learns_over_the_images_whose_label_is_known(levels):
    scores, targets = problem(seed=22, levels=levels)
    expected = []
    for column in range(targets.shape[1]):
        known = targets[:, column] != -1
        relevant = targets[known, column] == 1
        if relevant.any():
            expected.append(average_precision_score(relevant.numpy(), scores[known, column].numpy()))
    report = ranking_report(scores, targets, Protocol(images="all-images"))
    assert report["mAP_verified"] == pytest.approx(100 * np.mean(expected), abs=1e-9)
    assert report["mAP_verified"] > report["mAP_skip"]
    assert report["num_unknown"] == int((targets == -1).sum())


@pytest.mark.parametrize("dtype", [torch.int8, torch.float32])
def test_targets_of_any_dtype(dtype):
    scores, targets = problem(seed=19)
    assert ranking_report(scores, targets.to(dtype)) == ranking_report(scores, targets)
    assert ranking_report(scores, targets == 1) == ranking_report(scores, targets.clamp(min=0))


def test_counts():
    scores, targets = problem(seed=20)
    report = ranking_report(scores, targets, Protocol(images="all-images"))
    positives = sum(value == 1 for row in targets.tolist() for value in row)
    assert [report[name] for name in COUNTS] == [40, 9, 8, positives, positives / 40]


def test_no_images_and_no_positives_give_zeros():
    scores, targets = problem(seed=21)
    for rows in (slice(0, 0), slice(0, 1)):  # no image; one image without positives
        for images in IMAGES:
            report = ranking_report(scores[rows], targets[rows], Protocol(ks=(3,), images=images, threshold=0.0))
            ratios = {key: value for key, value in report.items() if not key.startswith("num_")}
            assert set(ratios.values()) == {0.0}
            assert report["num_images"] == (1 if images == "all-images" and rows.stop else 0)


# --- ceilings ---


@pytest.mark.parametrize("k", [1, 2, 4, 9])
def test_ceiling_is_reached_by_a_perfect_ranking_and_never_exceeded(k):
    scores, targets = problem(seed=22)
    positives = (targets == 1).sum(dim=1)
    ceiling = best_possible_f1_at_k(positives, k)
    assert f1_at_k((targets == 1).float(), targets, k) == pytest.approx(ceiling)
    for seed in range(5):
        reached = f1_at_k(problem(seed=seed)[0], targets, k)
        assert all(value <= best for value, best in zip(reached, ceiling, strict=True))
    assert f1_at_k(scores, targets, 9).recall == best_possible_f1_at_k(positives, 9).recall == 1.0


def coco_test_list(shared_data: Path) -> tuple[Tensor, list[int], list[int]]:
    """Targets [6392, 80] of the circulating 48/17 test list, the seen and the unseen columns."""
    folder = shared_data / "coco"
    rows = {int(line): row for row, line in enumerate((folder / "zs_test_ids_48_17.txt").read_text().split())}
    targets = torch.zeros(len(rows), 80, dtype=torch.int8)
    for line in (folder / "labels_2014.txt").read_text().splitlines():
        part, image, *labels = line.split()
        if part == "val" and int(image) in rows:
            targets[rows[int(image)], [int(label) for label in labels]] = 1
    classes = read_array_pickle(folder / "cls_ids.pickle")
    return targets, sorted(classes["train"]), sorted(classes["test"])


def test_counts_and_ceilings_of_the_coco_test_list(shared_data):
    targets, seen, unseen = coco_test_list(shared_data)
    assert (len(targets), len(seen), len(unseen)) == (6392, 48, 17)
    scores = torch.rand(targets.shape, generator=torch.Generator().manual_seed(0))
    report = dense_report(scores, targets, seen, unseen)
    zero_shot, generalized = (
        [report[f"{setting}.{name}"] for name in ("num_images", "num_positives", "labels_per_image")]
        for setting in ("zero_shot", "generalized")
    )
    assert zero_shot == [2729, 3295, pytest.approx(1.2074, abs=5e-5)]
    assert generalized == [6392, 16429, pytest.approx(2.5702, abs=5e-5)]
    assert report["zero_shot.ceiling.P@3"] == pytest.approx(40.2, abs=0.05)
    assert report["zero_shot.ceiling.F1@3"] == pytest.approx(57.3, abs=0.05)
    assert report["generalized.ceiling.F1@3"] == pytest.approx(76.7, abs=0.05)
    for setting in ("zero_shot", "generalized"):
        ratio = 3 * report[f"{setting}.P@3"] / report[f"{setting}.R@3"]
        assert ratio == pytest.approx(report[f"{setting}.labels_per_image"])


def test_counts_of_the_nus_wide_test_images(shared_data):
    with np.load(shared_data / "nus_wide" / "labels81.npz") as packed:
        targets = torch.from_numpy(np.unpackbits(packed["test"], axis=1)[:, :81])
    scores = torch.rand(targets.shape, generator=torch.Generator().manual_seed(0))
    every, some = (select_images(targets, images) for images in ("all-images", "positive-only"))
    assert (len(every), len(some), int((targets == 1).sum())) == (107_859, 83_898, 202_389)
    for rows, labels_per_image in ((every, 1.8764), (some, 202_389 / 83_898)):
        result = f1_at_k(scores[rows], targets[rows], 3)
        assert 3 * result.precision / result.recall == pytest.approx(labels_per_image, abs=5e-5)


# --- what must not matter ---


@pytest.mark.parametrize("images", IMAGES)
def test_order_of_images_and_labels_changes_nothing(images):
    scores, targets = problem(seed=23)
    seen, unseen = [0, 2, 5, 7], [1, 3, 8]
    expected = dense_report(scores, targets, seen, unseen, images=images, threshold=0.1)
    generator = torch.Generator().manual_seed(24)
    rows, columns = torch.randperm(40, generator=generator), torch.randperm(9, generator=generator)
    place = columns.argsort().tolist()  # where each old column went
    moved = dense_report(
        scores[rows][:, columns],
        targets[rows][:, columns],
        [place[column] for column in seen],
        [place[column] for column in unseen],
        images=images,
        threshold=0.1,
    )
    assert moved == pytest.approx(expected, rel=1e-12)


def test_order_of_images_does_not_change_skip_where_scores_are_equal():
    scores, targets = problem(seed=25, levels=3)
    rows = torch.randperm(40, generator=torch.Generator().manual_seed(26))
    before, after = (average_precision(scores[r], targets[r], "skip") for r in (slice(None), rows))
    assert torch.allclose(before, after, rtol=0, atol=1e-12, equal_nan=True)
    before, after = (average_precision(scores[r], targets[r]) for r in (slice(None), rows))
    assert not torch.allclose(before, after, rtol=0, atol=1e-3)  # why the convention is named


# --- the two settings ---

# Columns: 0 and 2 unseen, 1 and 4 seen, 3 on neither side. The first two images have an unseen positive.
SPLIT_SCORES = torch.tensor(
    [
        [5.0, 4.0, 1.0, 9.0, 3.0],
        [1.0, 5.0, 4.0, 9.0, 2.0],
        [2.0, 1.0, 3.0, 9.0, 4.0],
    ]
)
SPLIT_TARGETS = torch.tensor([[1, 0, 0, 1, 1], [1, 1, 0, 1, 0], [0, 0, 0, 1, 1]])
SEEN, UNSEEN = [1, 4], [0, 2]
# zero-shot, among columns 0 and 2: image 0 is right, image 1 wrong; image 2 does not count.
# generalised, among 0, 1, 2, 4, two best: {0, 1} hits 1 of 2; {1, 2} hits 1 of 2; {4, 2} hits 1 of 1.
SPLIT_EXPECTED = {
    "zero_shot.num_images": 2, "zero_shot.num_labels": 2, "zero_shot.num_positives": 2,
    "zero_shot.P@1": 50.0, "zero_shot.R@1": 50.0,
    "zero_shot.mAP": 50.0,  # column 0: both images positive, AP 1; column 2: none, AP 0
    "zero_shot.mAP_skip": 100.0,
    "generalized.num_images": 3, "generalized.num_labels": 4, "generalized.num_positives": 5,
    "generalized.P@1": 100.0, "generalized.R@1": 60.0,  # the best labels are 0, 1, 4: all right
    "generalized.P@2": 50.0, "generalized.R@2": 60.0,
    # AP of column 0: order 0, 2, 1 -> (1 + 2/3) / 2; 1: order 1 -> 1; 2: none; 4: order 2, 0 -> 1
    "generalized.mAP_skip": 100 * (5 / 6 + 1 + 1) / 3,
}  # fmt: skip


def split_report(scores: Tensor, targets: Tensor, seen: list[int], unseen: list[int]) -> dict[str, float]:
    report = dense_report(scores, targets, seen, unseen, ks=(1, 2))
    return {key: report.get(key, math.nan) for key in SPLIT_EXPECTED}


def test_both_settings_of_numbers_worked_by_hand():
    assert split_report(SPLIT_SCORES, SPLIT_TARGETS, SEEN, UNSEEN) == pytest.approx(SPLIT_EXPECTED)


@pytest.mark.parametrize(
    ("seen", "unseen"),
    [(UNSEEN, SEEN), ([1], [0, 2, 4]), ([1, 4, 2], [0]), ([1, 3], [0, 2]), ([1, 4], [0, 3]), ([1, 4, 3], [0, 2])],
    ids=["swapped", "seen as unseen", "unseen as seen", "neither for seen", "neither for unseen", "neither added"],
)
def test_a_label_on_the_wrong_side_shows(seen, unseen):
    assert split_report(SPLIT_SCORES, SPLIT_TARGETS, seen, unseen) != pytest.approx(SPLIT_EXPECTED, nan_ok=True)


@pytest.mark.parametrize(
    "columns", [[2, 1, 0, 3, 4], [0, 2, 1, 3, 4], [1, 0, 2, 3, 4], [0, 1, 3, 2, 4], [4, 1, 2, 3, 0]]
)
def test_a_label_in_the_wrong_column_shows(columns):
    assert split_report(SPLIT_SCORES[:, columns], SPLIT_TARGETS, SEEN, UNSEEN) != pytest.approx(SPLIT_EXPECTED)
    assert split_report(SPLIT_SCORES, SPLIT_TARGETS[:, columns], SEEN, UNSEEN) != pytest.approx(SPLIT_EXPECTED)


def test_labels_on_neither_side_take_no_part():
    scores, targets = SPLIT_SCORES.clone(), SPLIT_TARGETS.clone()
    scores[:, 3], targets[:, 3] = torch.tensor([-7.0, math.nan, math.inf]), torch.tensor([0, -1, 1])
    assert split_report(scores, targets, SEEN, UNSEEN) == pytest.approx(SPLIT_EXPECTED)


@pytest.mark.parametrize("images", IMAGES)
def test_each_setting_is_the_ranking_report_of_its_columns(images):
    scores, targets = problem(seed=29, levels=4)
    seen, unseen = [8, 0, 4], [6, 1, 3]
    report = dense_report(scores, targets, seen, unseen, images=images, threshold=1.0)
    for setting, columns in (("zero_shot", [1, 3, 6]), ("generalized", [0, 1, 3, 4, 6, 8])):
        part = ranking_report(scores[:, columns], targets[:, columns], Protocol(images=images, threshold=1.0))
        assert {f"{setting}.{key}": value for key, value in part.items()} == {
            key: value for key, value in report.items() if key.startswith(f"{setting}.")
        }
    # Ties go to the lower column, so the order in which a split names its labels cannot matter.
    assert report == dense_report(scores, targets, sorted(seen), sorted(unseen), images=images, threshold=1.0)


@pytest.mark.parametrize("as_mask", [True, False])
def test_each_setting_has_its_own_images(as_mask):
    scores, targets = problem(seed=30)
    seen, unseen = [0, 1, 2, 3], [4, 5, 6, 7]
    masks = torch.arange(40) < 25, torch.arange(40) > 10
    rows = masks if as_mask else tuple(mask.nonzero()[:, 0] for mask in masks)
    report = dense_report(scores, targets, seen, unseen, (rows[0], rows[1]))
    first = dense_report(scores[:25], targets[:25], seen, unseen)
    second = dense_report(scores[11:], targets[11:], seen, unseen)
    assert report == {
        **{key: value for key, value in first.items() if key.startswith("zero_shot.")},
        **{key: value for key, value in second.items() if key.startswith("generalized.")},
    }
    whole = dense_report(scores, targets, seen, unseen)
    only_first = dense_report(scores, targets, seen, unseen, (rows[0], None))
    assert all(only_first[key] == whole[key] for key in whole if key.startswith("generalized."))


def test_ks_above_the_number_of_labels_are_left_out():
    scores, targets = problem(seed=31)
    report = dense_report(scores, targets, [0, 1], [3, 4, 5], ks=(3, 4, 5, 6))
    found = {key.rpartition("@")[2] for key in report if key.startswith("zero_shot.") and "@" in key}
    assert found == {"3"}
    found = {key.rpartition("@")[2] for key in report if key.startswith("generalized.") and "@" in key}
    assert found == {"3", "4", "5"}


def test_a_split_without_unseen_labels_has_no_zero_shot_setting():
    scores, targets = problem(seed=32)
    report = dense_report(scores, targets, [0, 1, 3], [])
    assert {key.partition(".")[0] for key in report} == {"generalized"}


# --- mistakes ---


@pytest.mark.parametrize(
    "measure",
    [
        lambda scores, targets: f1_at_k(scores, targets, 1),
        ranking_report,
        lambda scores, targets: dense_report(scores, targets, [0], [1]),
    ],
    ids=["f1_at_k", "ranking", "zero_shot"],
)
def test_every_measure_refuses_nan_and_shapes_that_differ(measure):
    targets = torch.ones(5, 3)
    for shape in ((5, 4), (6, 3), (4, 3), (5,)):
        with pytest.raises(ValueError, match=r"scores and targets must both be \[N, C\], got \("):
            measure(torch.zeros(shape), targets)
    with pytest.raises(ValueError, match=r"got \(5,\) and \(5,\)"):
        measure(torch.zeros(5), torch.ones(5))
    scores = torch.zeros(5, 3)
    scores[2, 1] = math.nan
    with pytest.raises(ValueError, match="scores contain NaN"):
        measure(scores, targets)


@pytest.mark.parametrize("k", [-1, 0, 4])
def test_k_out_of_range_is_named(k):
    with pytest.raises(ValueError, match=f"k must be between 1 and the number of labels 3, got {k}"):
        f1_at_k(torch.zeros(0, 3), torch.zeros(0, 3), k)


def test_k_below_one_is_no_k_above_the_number_of_labels():
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        Protocol(ks=(3, 0))


def test_unknown_protocol_is_named():
    with pytest.raises(ValueError, match=r"images must be one of \('positive-only', 'all-images'\), got 'some'"):
        Protocol(images="some")


@pytest.mark.parametrize(("seen", "unseen"), [([0, 1], [1, 2]), ([0, 0], [1]), ([0], [1, 1])])
def test_a_label_listed_twice_is_refused(seen, unseen):
    with pytest.raises(ValueError, match="a label is listed twice among seen and unseen"):
        dense_report(torch.zeros(2, 3), torch.ones(2, 3), seen, unseen)
