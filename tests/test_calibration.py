"""Calibration: thresholds against plain loops, and the promise that no unseen ground truth is used."""

import io
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import src.calibration.thresholds
from src.calibration.platt import fit_platt
from src.calibration.thresholds import (
    LEVEL_QUANTILES,
    MIN_POSITIVES,
    SHRINKAGE,
    Calibration,
    best_f1_thresholds,
    best_seen_bias,
    best_shared_threshold,
    fit_calibration,
    image_level,
    level_gap,
)
from src.checkpoint import load_checkpoint, save_with_calibration
from src.checkpoint.digest import save_with_digest
from src.errors import UserError
from tests.helpers import save_tiny
from tests.script_helpers import stored

SEEN, UNSEEN = [0, 2, 3, 5, 6, 8, 9, 11], [1, 7, 10]  # label 4 is on neither side
NUM_LABELS = 12


def problem(
    seed: int = 0, count: int = 60, labels: int = NUM_LABELS, unknown: float = 0.1, steps: int | None = None
) -> tuple[Tensor, Tensor]:
    """Scores that rise with the targets, each image at a level of its own; with ``steps`` many are equal."""
    generator = torch.Generator().manual_seed(seed)
    signal = torch.randn(count, labels, generator=generator)
    targets = (torch.rand(count, labels, generator=generator) < torch.sigmoid(2.5 * signal - 2)).int()
    targets[torch.rand(count, labels, generator=generator) < unknown] = -1
    scores = signal + torch.randn(count, 1, generator=generator)
    return (scores if steps is None else (steps * scores).round() / steps), targets


def same(one: Calibration, other: Calibration) -> bool:
    """Equal in every attribute, to the last bit."""
    left, right = one.to_dict(), other.to_dict()
    return torch.equal(left.pop("thresholds").nan_to_num(nan=1e9), right.pop("thresholds").nan_to_num(nan=1e9)) and (
        left == right
    )


def f1_above(pairs: list[tuple[float, int]], least: float) -> float:
    """F1 of keeping what scores at least ``least``; unknown pairs take no part."""
    kept = [target for score, target in pairs if target != -1 and score >= least]
    positives = sum(target == 1 for _, target in pairs)
    return 2 * sum(target == 1 for target in kept) / (len(kept) + positives)


def plain_threshold(pairs: list[tuple[float, int]]) -> tuple[float, float]:
    """Every known score tried as the lowest that is kept: the threshold of best F1, the highest such, and its F1."""
    known = sorted({score for score, target in pairs if target != -1}, reverse=True)
    if not any(target == 1 for _, target in pairs):
        return math.nan, 0.0
    f1 = [f1_above(pairs, score) for score in known]
    place = f1.index(max(f1))
    upper = known[place]
    lower = known[place + 1] if place + 1 < len(known) else -math.inf
    return (math.nextafter(upper, lower) if math.isinf(lower) else (upper + lower) / 2), f1[place]


def pairs_of(scores: Tensor, targets: Tensor) -> list[tuple[float, int]]:
    return list(zip(scores.double().flatten().tolist(), targets.flatten().tolist(), strict=True))


# Thresholds of best F1


@pytest.mark.parametrize("steps", [None, 2, 1])
@pytest.mark.parametrize("seed", range(3))
def test_thresholds_are_those_of_a_plain_loop(seed, steps):
    scores, targets = problem(seed, count=25, unknown=0.2, steps=steps)
    targets[:, 0] = 1
    targets[:, 1] = 0
    targets[:, 2] = -1
    targets[:, 3] = torch.where(targets[:, 3] == 0, -1, targets[:, 3])  # positives and unknown ones only
    found, counts = best_f1_thresholds(scores, targets)
    assert found.dtype == torch.float64
    expected = [plain_threshold(pairs_of(scores[:, c], targets[:, c]))[0] for c in range(NUM_LABELS)]
    assert found.tolist() == pytest.approx(expected, abs=0, rel=0, nan_ok=True)
    assert counts.tolist() == [int((targets[:, c] == 1).sum()) for c in range(NUM_LABELS)]
    assert found.isnan().tolist() == [int(count) == 0 for count in counts]


@pytest.mark.parametrize("steps", [None, 2, 1])
@pytest.mark.parametrize("seed", range(3))
def test_shared_threshold_is_that_of_a_plain_loop(seed, steps):
    scores, targets = problem(seed, count=12, unknown=0.2, steps=steps)
    assert best_shared_threshold(scores, targets) == plain_threshold(pairs_of(scores, targets))
    assert best_shared_threshold(scores, torch.ones_like(targets)) == (math.nextafter(scores.min(), -math.inf), 1.0)


@pytest.mark.parametrize(
    ("scores", "targets", "threshold"),
    [
        ([3.0, 2.0, 1.0], [1, 0, 0], 2.5),
        ([3.0, 2.0, 1.0], [1, 1, 1], math.nextafter(1.0, -math.inf)),  # below all, by as little as can be
        ([3.0, 2.0, 1.0, 0.0], [1, 0, 0, 1], 2.5),  # F1 is 2/3 for one tag and for all four: the highest threshold
        ([3.0, 3.0, 1.0], [1, 0, 0], 2.0),  # equal scores are kept or left together
        ([3.0, 3.0, 1.0, 1.0], [0, 1, 1, 0], math.nextafter(1.0, -math.inf)),
        ([3.0, 2.5, 1.0], [1, -1, 0], 2.0),  # an unknown one does not stand between
        ([3.0, 1.0], [1, -1], math.nextafter(3.0, -math.inf)),
    ],
)
def test_thresholds_worked_by_hand(scores, targets, threshold):
    column, truth = torch.tensor(scores)[:, None], torch.tensor(targets)[:, None]
    assert best_f1_thresholds(column, truth)[0].tolist() == [threshold]
    assert best_shared_threshold(column, truth)[0] == threshold
    assert best_shared_threshold(column.T, truth.T)[0] == threshold


@pytest.mark.parametrize("fit", [best_f1_thresholds, best_shared_threshold])
def test_scores_of_unknown_targets_change_no_threshold(fit):
    scores, targets = problem(unknown=0.3)
    changed = torch.where(targets == -1, 100 * torch.rand(scores.shape), scores)
    for one, other in zip(fit(scores, targets), fit(changed, targets), strict=True):
        assert torch.as_tensor(one).tolist() == torch.as_tensor(other).tolist()


@pytest.mark.parametrize("elements", [1, 7, 100])
def test_blocks_equal_the_whole(monkeypatch, elements):
    scores, targets = problem(3)
    own = best_f1_thresholds(scores, targets)[0]
    monkeypatch.setattr(src.calibration.thresholds, "_BLOCK_ELEMENTS", elements)
    assert torch.equal(best_f1_thresholds(scores, targets)[0], own)


# The parts of a calibration


@pytest.mark.parametrize(("quantile", "rank"), [(0.0, 0), (0.5, 2), (0.74, 2), (0.75, 3), (0.97, 3), (1.0, 4)])
def test_level_is_an_order_statistic_of_the_scores(quantile, rank):
    scores = torch.rand(6, 5, generator=torch.Generator().manual_seed(0))
    expected = [[sorted(row)[rank]] for row in scores.tolist()]
    assert image_level(scores, quantile).tolist() == expected
    assert image_level(scores[:, [3, 1, 0, 4, 2]], quantile).tolist() == expected


def test_level_gap_worked_by_hand():
    seen = torch.tensor([[1.0, 5.0], [2.0, 0.0], [9.0, 9.0]])
    unseen = torch.tensor([[4.0, 2.0, 0.0], [5.0, 1.0, 1.0], [2.0, 2.0, 2.0]])
    assert level_gap(seen, unseen) == 1  # of the gaps 1, -3 and 7
    assert level_gap(seen[:2], unseen[:2]) == -1  # between the two in the middle
    assert level_gap(seen + 4, unseen) == 5


def plain_generalised_f1(scores: Tensor, targets: Tensor, bias: float, k: int) -> float:
    columns = [*SEEN, *UNSEEN]
    hits = 0
    for row, truth in zip(scores.tolist(), targets.tolist(), strict=True):
        best = sorted(columns, key=lambda column: -(row[column] - (bias if column in SEEN else 0.0)))[:k]
        hits += sum(truth[column] == 1 for column in best)
    return 2 * hits / (k * len(scores) + int((targets[:, columns] == 1).sum()))


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_best_bias_is_that_of_a_plain_loop(seed, k):
    scores, targets = problem(seed)
    scores = scores.double()
    scores[:, SEEN] += 1.5
    gaps = sorted((scores[:, SEEN].amax(dim=1) - scores[:, UNSEEN].amax(dim=1)).tolist())
    tried = [0.0]
    for step in range(21):
        place = step / 20 * (len(gaps) - 1)
        low = math.floor(place)
        tried.append(gaps[low] + (place - low) * (gaps[min(low + 1, len(gaps) - 1)] - gaps[low]))
    f1 = [plain_generalised_f1(scores, targets, bias, k) for bias in tried]
    found = best_seen_bias(scores, targets, SEEN, UNSEEN, k=k)
    assert min(abs(found - bias) for bias in tried) < 1e-12
    # At the smallest and the largest gap two labels of an image are equal but for rounding: one hit more or less
    assert plain_generalised_f1(scores, targets, found, k) == pytest.approx(max(f1), abs=2 / (k * len(scores)))
    assert k == 1 or plain_generalised_f1(scores, targets, found, k) > f1[0] + 0.01
    ignored = scores.clone()
    ignored[:, 4] += 100  # on neither side
    assert best_seen_bias(ignored, targets, SEEN, UNSEEN, k=k) == found


def test_no_bias_is_best_where_nothing_gains_by_one():
    scores, targets = problem()
    targets[:, UNSEEN] = 0
    scores[:, UNSEEN] -= 100
    assert best_seen_bias(scores, targets, SEEN, UNSEEN) == 0
    assert best_seen_bias(scores, torch.zeros_like(targets), SEEN, UNSEEN) == 0  # of equals, the first


def test_a_bias_that_is_given_is_kept_and_changes_nothing_else(fitted):
    assert same(fit_calibration(*problem(), SEEN, UNSEEN, seen_bias=-2.5), replace(fitted, seen_bias=-2.5))
    assert fit_calibration(*problem(), SEEN, UNSEEN, seen_bias=0.0).seen_bias == 0


@pytest.fixture(scope="module")
def fitted() -> Calibration:
    return fit_calibration(*problem(), SEEN, UNSEEN)


def plain_fit(scores: Tensor, targets: Tensor, min_positives: int, shrinkage: float) -> Calibration:
    """The docstrings of src/calibration/thresholds.py, in plain loops over the columns that are seen."""
    rows = [row for row in range(len(scores)) if any(int(targets[row, c]) != -1 for c in SEEN)]
    best = (-1.0, None, 0.0, scores)
    for quantile in LEVEL_QUANTILES:
        calibrated = scores.clone()
        for row in rows:
            ordered = sorted(scores[row, SEEN].tolist())
            calibrated[row] -= 0.0 if quantile is None else ordered[math.floor(quantile * (len(SEEN) - 1))]
        threshold, f1 = plain_threshold(pairs_of(calibrated[rows][:, SEEN], targets[rows][:, SEEN]))
        if f1 > best[0]:
            best = (f1, quantile, threshold, calibrated)
    _, quantile, shared, calibrated = best
    thresholds = torch.full((scores.shape[1],), math.nan, dtype=torch.float64)
    for column in SEEN:
        pairs = pairs_of(calibrated[rows][:, column], targets[rows][:, column])
        count = sum(target == 1 for _, target in pairs)
        if count >= min_positives:
            thresholds[column] = (count * plain_threshold(pairs)[0] + shrinkage * shared) / (count + shrinkage)
    gaps = sorted(float(scores[row, SEEN].max() - scores[row, UNSEEN].max()) for row in rows)
    middle = len(gaps) // 2
    bias = gaps[middle] if len(gaps) % 2 else (gaps[middle - 1] + gaps[middle]) / 2
    slope, offset = fit_platt(calibrated[rows][:, SEEN], targets[rows][:, SEEN])
    positives = sum(int(targets[row, c]) == 1 for row in rows for c in SEEN)
    return Calibration(thresholds, shared, quantile, bias, slope, offset, len(rows), positives)


@pytest.mark.parametrize(("min_positives", "shrinkage"), [(MIN_POSITIVES, SHRINKAGE), (1, 0.0), (12, 3.0)])
@pytest.mark.parametrize("seed", range(3))
def test_a_calibration_is_that_of_plain_loops(monkeypatch, seed, min_positives, shrinkage):
    monkeypatch.setattr(src.calibration.thresholds, "MIN_POSITIVES", min_positives)
    monkeypatch.setattr(src.calibration.thresholds, "SHRINKAGE", shrinkage)
    scores, targets = problem(seed, count=41)
    targets[5, SEEN] = -1
    found = fit_calibration(scores, targets, SEEN, UNSEEN)
    expected = plain_fit(scores, targets, min_positives, shrinkage)
    assert (found.num_images, found.num_positives) == (expected.num_images, expected.num_positives)
    assert found.num_images < 41
    assert found.level_quantile == expected.level_quantile
    for name in ("shared_threshold", "seen_bias", "slope", "offset"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-9)
    assert found.thresholds.tolist() == pytest.approx(expected.thresholds.tolist(), rel=1e-9, nan_ok=True)


# The zero-shot promise


@pytest.mark.parametrize("value", [0, 1, -1, None])
def test_ground_truth_of_labels_that_are_not_seen_changes_nothing(fitted, value):
    scores, targets = problem()
    others = [column for column in range(NUM_LABELS) if column not in SEEN]
    assert len(others) > len(UNSEEN)
    changed = targets.clone()
    drawn = torch.randint(-1, 2, (len(targets), len(others)), generator=torch.Generator().manual_seed(5)).int()
    changed[:, others] = drawn if value is None else torch.full_like(drawn, value)
    assert not torch.equal(changed, targets)
    assert same(fit_calibration(scores, changed, SEEN, UNSEEN), fitted)


def test_labels_on_neither_side_take_no_part(fitted):
    scores, targets = problem()
    scores[:, 4] += 100
    assert same(fit_calibration(scores, targets, SEEN, UNSEEN), fitted)


def test_scores_of_unseen_labels_decide_only_the_bias(fitted):
    scores, targets = problem()
    scores[:, UNSEEN] -= 3
    found = fit_calibration(scores, targets, SEEN, UNSEEN)
    assert found.seen_bias == pytest.approx(fitted.seen_bias + 3, abs=1e-5)
    assert same(replace(found, seen_bias=fitted.seen_bias), fitted)
    assert same(fit_calibration(scores, targets, SEEN, []), replace(fitted, seen_bias=0.0))


def test_images_without_a_known_seen_label_take_no_part(fitted):
    scores, targets = problem()
    more, truth = problem(1, count=20)
    truth[:, SEEN] = -1
    truth[:, UNSEEN] = 1
    found = fit_calibration(torch.cat([more, scores]), torch.cat([truth, targets]), SEEN, UNSEEN)
    assert same(found, fitted)


# Order


def test_order_of_the_images_changes_nothing(fitted):
    scores, targets = problem()
    order = torch.randperm(len(scores), generator=torch.Generator().manual_seed(1))
    found = fit_calibration(scores[order], targets[order], SEEN, UNSEEN)
    assert (found.slope, found.offset) == pytest.approx((fitted.slope, fitted.offset), rel=1e-9)
    assert same(replace(found, slope=fitted.slope, offset=fitted.offset), fitted)


def test_order_of_the_labels_permutes_the_thresholds_and_nothing_else(fitted):
    scores, targets = problem()
    order = torch.randperm(NUM_LABELS, generator=torch.Generator().manual_seed(1))
    place = order.argsort().tolist()  # where each label is now
    seen, unseen = [[place[column] for column in side] for side in (SEEN[::-1], UNSEEN)]
    found = fit_calibration(scores[:, order], targets[:, order], seen, unseen)
    assert (found.slope, found.offset) == pytest.approx((fitted.slope, fitted.offset), rel=1e-9)
    assert not torch.equal(found.thresholds.nan_to_num(), fitted.thresholds.nan_to_num())
    back = replace(found, thresholds=found.thresholds[place], slope=fitted.slope, offset=fitted.offset)
    assert same(back, fitted)


# Thresholds of rare labels, shrinkage


def test_rare_labels_and_those_never_seen_have_the_shared_threshold(monkeypatch):
    scores, targets = problem(unknown=0)
    rare, enough = SEEN[0], SEEN[1]
    for column, count in ((rare, MIN_POSITIVES - 1), (enough, MIN_POSITIVES)):
        targets[:, column] = 0
        targets[:count, column] = 1
    found = fit_calibration(scores, targets, SEEN, UNSEEN)
    assert found.thresholds.isnan().nonzero()[:, 0].tolist() == sorted([rare, *UNSEEN, 4])
    given = found.threshold_of(range(NUM_LABELS))
    assert given.dtype == torch.float64
    for column in range(NUM_LABELS):
        own = column in SEEN and column != rare
        assert float(given[column]) == (float(found.thresholds[column]) if own else found.shared_threshold)
    assert found.threshold_of([-1, enough, -1]).tolist() == [
        found.shared_threshold,
        float(found.thresholds[enough]),
        found.shared_threshold,
    ]
    assert found.threshold_of([]).tolist() == []
    monkeypatch.setattr(src.calibration.thresholds, "MIN_POSITIVES", 10**6)
    assert fit_calibration(scores, targets, SEEN, UNSEEN).thresholds.isnan().all()


# Calibrated scores and probabilities


def test_calibrated_scores_worked_by_hand():
    made = Calibration(torch.tensor([math.nan] * 3).double(), 0.5, 0.5, 2.0, 1.0, 0.0, 1, 1)
    scores = torch.tensor([[1.0, 4.0, 3.0], [0.0, 0.0, 0.0]])
    seen_scores = torch.tensor([[9.0, 1.0, 4.0], [2.0, 0.0, -2.0]])  # levels 4 and 0
    is_seen = torch.tensor([True, True, False])
    assert made.calibrated(scores, seen_scores, is_seen).tolist() == [[-3.0, 0.0, 1.0], [0.0, 0.0, 2.0]]
    assert made.stacked(scores, is_seen).tolist() == [[-1.0, 2.0, 3.0], [-2.0, -2.0, 0.0]]
    without = replace(made, level_quantile=None)
    assert without.calibrated(scores, seen_scores, is_seen).tolist() == [[1.0, 4.0, 5.0], [0.0, 0.0, 2.0]]


def test_calibrated_scores_do_not_depend_on_the_level_of_an_image_or_the_order_of_seen_scores(fitted):
    made = replace(fitted, level_quantile=0.9)
    scores, _ = problem(7)
    is_seen = torch.zeros(NUM_LABELS, dtype=torch.bool)
    is_seen[SEEN] = True
    found = made.calibrated(scores, scores[:, SEEN], is_seen)
    torch.testing.assert_close(made.calibrated(scores + 8, scores[:, SEEN[::-1]] + 8, is_seen), found)


@pytest.mark.parametrize("quantile", LEVEL_QUANTILES)
def test_stacking_ranks_the_labels_of_an_image_as_calibrated_scores_do(fitted, quantile):
    made = replace(fitted, level_quantile=quantile, seen_bias=0.75)
    scores, _ = problem(7)
    scores = scores.double()
    is_seen = torch.zeros(NUM_LABELS, dtype=torch.bool)
    is_seen[SEEN] = True
    calibrated = made.calibrated(scores, scores[:, SEEN], is_seen)
    stacked = made.stacked(scores, is_seen)
    assert torch.equal(stacked.argsort(dim=1), calibrated.argsort(dim=1))
    assert torch.equal(stacked.argsort(dim=1), made.probability(calibrated).argsort(dim=1))
    assert not torch.equal(stacked.argsort(dim=1), scores.argsort(dim=1))


def test_probability_rises_and_is_the_sigmoid(fitted):
    calibrated = torch.linspace(-4, 4, 60, dtype=torch.float64)
    found = fitted.probability(calibrated.view(6, 10)).flatten()
    assert (found.diff() > 0).all()
    expected = [1 / (1 + math.exp(-(fitted.slope * r + fitted.offset))) for r in calibrated.tolist()]
    assert found.tolist() == pytest.approx(expected)
    extreme = fitted.probability(torch.tensor([-1e30, 1e30]))
    assert extreme.tolist() == [0.0, 1.0]


# Storing


def test_a_stored_calibration_is_the_same(fitted):
    stream = io.BytesIO()
    torch.save(fitted.to_dict(), stream)
    stream.seek(0)
    found = Calibration.from_dict(torch.load(stream, weights_only=True))
    assert same(found, fitted)
    assert same(
        Calibration.from_dict({**fitted.to_dict(), "level_quantile": None}), replace(fitted, level_quantile=None)
    )
    halved = Calibration.from_dict({**fitted.to_dict(), "thresholds": fitted.thresholds.half()})
    assert halved.thresholds.dtype == torch.float64


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 1.0},
        {"thresholds": [0.0, 1.0]},
        {"thresholds": torch.zeros(2, 2)},
        {"thresholds": torch.tensor([0.0, math.inf])},
        {"shared_threshold": math.nan},
        {"seen_bias": "1"},
        {"slope": 0.0},
        {"offset": None},
        {"level_quantile": 1.5},
    ],
)
def test_a_damaged_calibration_is_refused(fitted, changes):
    with pytest.raises(ValueError, match=r"of another version|missing or out of range"):
        Calibration.from_dict({**fitted.to_dict(), **changes})


# Mistakes


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_scores_must_be_numbers(value):
    scores, targets = problem()
    scores[3, 4] = value
    with pytest.raises(ValueError, match="NaN or infinity"):
        fit_calibration(scores, targets, SEEN, UNSEEN)
    with pytest.raises(ValueError, match="NaN or infinity"):
        best_seen_bias(scores, targets, SEEN, UNSEEN)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1, "have [1-9][0-9]* positives and 0 negatives"),
        (0, "have 0 positives and [1-9][0-9]* negatives"),
        (-1, "have 0 positives and 0 negatives"),
    ],
)
def test_seen_labels_need_both_kinds(value, message):
    scores, targets = problem()
    targets[:, SEEN] = value  # the unseen ones have both, and are not looked at
    with pytest.raises(ValueError, match=message):
        fit_calibration(scores, targets, SEEN, UNSEEN)


def test_scores_that_do_not_rise_are_refused():
    scores, targets = problem()
    with pytest.raises(ValueError, match="do not rise"):
        fit_calibration(-scores, targets, SEEN, UNSEEN)


# In a checkpoint


@pytest.fixture
def six(fitted) -> Calibration:
    """For the six labels of ``make_toy_split``."""
    return replace(fitted, thresholds=torch.tensor([0.5, -1.25, math.nan, 2.0, math.nan, math.nan]).double())


@pytest.fixture
def plain(tmp_path) -> Path:
    vectors = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    facts = {"extra_words": ("sea", "sun"), "extra_vectors": vectors, "metrics": {"F1": 12.5}, "settings": {"lr": 0.1}}
    save_tiny(tmp_path / "plain.ckpt", **facts)
    return tmp_path / "plain.ckpt"


def identical(one: Any, other: Any) -> bool:
    """Equal to the last bit, in containers and in order, NaN included."""
    if isinstance(one, Tensor):
        return (
            one.dtype == other.dtype and one.shape == other.shape and one.numpy().tobytes() == other.numpy().tobytes()
        )
    if isinstance(one, dict):
        return list(one) == list(other) and all(identical(one[key], other[key]) for key in one)
    return type(one) is type(other) and one == other


def test_a_calibration_is_put_in_and_all_else_stays(plain, six, tmp_path):
    before = plain.read_bytes()
    save_with_calibration(plain, tmp_path / "new" / "fitted.ckpt", six)
    assert plain.read_bytes() == before
    old, new = stored(plain), stored(tmp_path / "new" / "fitted.ckpt")
    assert old.pop("calibration") is None
    assert identical(new.pop("calibration"), six.to_dict())
    assert identical(new, old)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["fitted.ckpt", "fitted.ckpt.sha256"]


def test_a_stored_calibration_is_loaded_and_can_be_replaced(plain, six, tmp_path):
    assert load_checkpoint(plain)[1].calibration is None
    save_with_calibration(plain, tmp_path / "one.ckpt", replace(six, slope=9.0, level_quantile=None))
    save_with_calibration(tmp_path / "one.ckpt", tmp_path / "two.ckpt", six)
    model, info = load_checkpoint(tmp_path / "two.ckpt")
    assert info.calibration is not None
    assert same(info.calibration, six)
    assert (info.extra_words, info.metrics, info.settings) == (("sea", "sun"), {"F1": 12.5}, {"lr": 0.1})
    save_tiny(tmp_path / "again.ckpt", model, calibration=info.calibration)  # save_checkpoint stores it too
    again = load_checkpoint(tmp_path / "again.ckpt")[1].calibration
    assert again is not None
    assert same(again, six)


def test_half_precision_weights_stay_as_they_are(plain, six, tmp_path):
    content = stored(plain)
    content["state_dict"] = {key: tensor.half() for key, tensor in content["state_dict"].items()}
    save_with_digest(plain, content)
    save_with_calibration(plain, tmp_path / "fitted.ckpt", six)
    assert identical(stored(tmp_path / "fitted.ckpt")["state_dict"], content["state_dict"])


def test_files_from_before_calibrations_load(plain):
    content = stored(plain)
    del content["calibration"]
    save_with_digest(plain, content)
    assert load_checkpoint(plain)[1].calibration is None


def test_the_released_codes_files_hold_no_calibration(six, tmp_path):
    torch.save(
        {"layer1.0.conv1.0.weight": torch.zeros(1), "embedding.weight": torch.zeros(1, 1)}, tmp_path / "released"
    )
    with pytest.raises(UserError, match="released is no checkpoint of this project"):
        save_with_calibration(tmp_path / "released", tmp_path / "x.ckpt", six)
    assert not (tmp_path / "x.ckpt").exists()


def incomplete(**changes: object) -> Callable[[dict[str, Any]], object]:
    return lambda content: {**content, **changes}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (incomplete(thresholds=torch.zeros(5)), "calibration has 5 labels, its split 6"),
        (incomplete(slope=-1.0), "out of range"),
        (lambda content: {}, "of another version"),
        (lambda content: 5, ""),
    ],
)
def test_a_calibration_that_does_not_fit_makes_an_incomplete_checkpoint(plain, six, change, message):
    content = stored(plain)
    save_with_digest(plain, {**content, "calibration": change(six.to_dict())})
    with pytest.raises(UserError, match=rf"plain\.ckpt is an incomplete checkpoint of this project: .*{message}"):
        load_checkpoint(plain)
