"""Fitting and measuring: the parts are disjoint, the numbers are those of plain loops, and thresholds help."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from src.calibration.fit import FittedCalibration, fit_and_measure, format_fit
from src.calibration.thresholds import Calibration, best_seen_bias, fit_calibration
from src.data.labels import LabelMatrix
from src.data.parts import GroundTruth
from src.data.split import ZeroShotSplit, make_split
from src.errors import UserError
from src.evaluation import evaluate
from src.metrics import DEFAULT_PROTOCOL, Protocol, f1_of_choice
from src.options import IMAGES, FitOptions
from src.scoring import score_labels

DIM, ROWS, NUM_LABELS = 16, 2, 20
SEEN, UNSEEN = range(13), range(14, 20)  # label 13 is on neither side


def make_words() -> ZeroShotSplit:
    vectors = torch.randn(DIM, NUM_LABELS, generator=torch.Generator().manual_seed(7))
    labels = [f"tag{column}" for column in range(NUM_LABELS)]
    return make_split(labels, SEEN, UNSEEN, vectors / vectors.norm(dim=0), name="drawn", source="drawn")


SPLIT = make_words()


def images(count: int = 120, seed: int = 0, unknown: float = 0.05, noise: float = 0.35) -> tuple[Tensor, Tensor]:
    """Embeddings that point to the words of an image's labels, of which it has one to six, and seen ones more so."""
    generator = torch.Generator().manual_seed(seed)
    shares = torch.rand(count, 1, generator=generator) * 0.3
    targets = (torch.rand(count, NUM_LABELS, generator=generator) < shares).int()
    targets[torch.arange(count), torch.randint(0, NUM_LABELS, (count,), generator=generator)] = 1
    strength = torch.ones(NUM_LABELS)
    strength[list(SEEN)] = 1.3
    summed = (targets * strength).float() @ SPLIT.word_vectors.T  # [N, D]
    matrices = summed[:, :, None] + noise * torch.randn(count, DIM, ROWS, generator=generator)
    targets[torch.rand(count, NUM_LABELS, generator=generator) < unknown] = -1
    return matrices.flatten(1), targets  # A [D, M] in row-major order


def fit(
    embeddings: Tensor, targets: Tensor, split: ZeroShotSplit, protocol: Protocol = DEFAULT_PROTOCOL, **options
) -> FittedCalibration:
    return fit_and_measure(embeddings, split, GroundTruth(targets), FitOptions(**options), protocol)


def same(one: Calibration, other: Calibration) -> bool:
    """Equal but for rounding."""
    left, right = one.to_dict(), other.to_dict()
    thresholds = pytest.approx(right.pop("thresholds").tolist(), rel=1e-6, nan_ok=True)
    if left.pop("level_quantile") != right.pop("level_quantile") or left.pop("thresholds").tolist() != thresholds:
        return False
    return left == pytest.approx(right, rel=1e-6)


def division(count: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """The images to fit on, and the others."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    size = round(share * count)
    return sorted(order[:size]), sorted(order[size:])


@pytest.fixture(scope="module")
def fitted() -> FittedCalibration:
    return fit(*images(), SPLIT)


# The division


@pytest.mark.parametrize("bias", ["labels", "gap"])
@pytest.mark.parametrize(("share", "seed"), [(0.5, 0), (0.5, 3), (0.3, 1)])
def test_the_fit_is_the_calibration_of_its_part(share, seed, bias):
    embeddings, targets = images()
    fitting, _ = division(len(targets), share, seed)
    scores = score_labels(embeddings[fitting], SPLIT.word_vectors)
    best = best_seen_bias(scores, targets[fitting], SEEN, UNSEEN) if bias == "labels" else None
    expected = fit_calibration(scores, targets[fitting], SEEN, UNSEEN, seen_bias=best)
    found = fit(embeddings, targets, SPLIT, share=share, seed=seed, bias=bias).calibration
    assert found.num_images == expected.num_images
    assert found.thresholds.tolist() == pytest.approx(expected.thresholds.tolist(), abs=1e-5, nan_ok=True)
    for name in ("shared_threshold", "seen_bias", "slope", "offset"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), abs=1e-4)


def test_seed_decides(fitted):
    again = fit(*images(), SPLIT, share=0.5, seed=0)
    assert same(again.calibration, fitted.calibration)
    assert again.metrics == pytest.approx(fitted.metrics)
    other = fit(*images(), SPLIT, seed=1)
    assert not same(other.calibration, fitted.calibration)
    assert other.metrics != fitted.metrics


@pytest.mark.parametrize("value", [0, 1, -1])
def test_the_measured_part_does_not_change_the_fit(fitted, value):
    embeddings, targets = images()
    _, rest = division(len(targets), 0.5, 0)
    changed = targets.clone()
    changed[rest] = value
    changed[rest[0], 0] = 1  # else there is nothing to measure
    changed[rest[1], 0] = 0
    found = fit(embeddings, changed, SPLIT)
    assert same(found.calibration, fitted.calibration)
    assert found.metrics != fitted.metrics
    moved = embeddings.clone()
    moved[rest] = torch.randn(len(rest), embeddings.shape[1], generator=torch.Generator().manual_seed(1))
    assert same(fit(moved, targets, SPLIT).calibration, fitted.calibration)


@pytest.mark.parametrize("bias", ["labels", "gap"])
def test_ground_truth_of_unseen_labels_decides_the_bias_at_most(bias):
    """With ``gap`` nothing that is fitted looks at it: it is measured with only."""
    embeddings, targets = images()
    others = [column for column in range(NUM_LABELS) if column not in SEEN]
    changed = targets.clone()
    changed[:, others] = 1 - targets[:, others].clamp(min=0)
    before, after = (fit(embeddings, truth, SPLIT, bias=bias) for truth in (targets, changed))
    assert (after.calibration.seen_bias == before.calibration.seen_bias) == (bias == "gap")
    assert same(replace(after.calibration, seen_bias=before.calibration.seen_bias), before.calibration)
    for name, number in after.metrics.items():
        if not name.endswith("num_images"):
            assert (number == pytest.approx(before.metrics[name])) == name.startswith(("seen", "num")), name


# The numbers


def plain_f1(chosen: list[list[bool]], targets: list[list[int]]) -> float:
    """Unknown labels count as negative, as in src/metrics/zero_shot.py."""
    pairs = [pair for row in zip(chosen, targets, strict=True) for pair in zip(*row, strict=True)]
    hits = sum(kept and target == 1 for kept, target in pairs)
    total = sum(kept for kept, _ in pairs) + sum(target == 1 for _, target in pairs)
    return 200 * hits / total if total else 0.0


def top(row: list[float], k: int) -> list[bool]:
    best = sorted(range(len(row)), key=lambda column: -row[column])[:k]
    return [column in best for column in range(len(row))]


def plain_ece(probabilities: list[list[float]], targets: list[list[int]]) -> float:
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(10)]
    for row in zip(probabilities, targets, strict=True):
        for p, target in zip(*row, strict=True):
            if target != -1:
                bins[min(int(10 * p), 9)].append((p, target == 1))
    known = sum(len(entries) for entries in bins)
    return 100 / known * sum(abs(sum(p for p, _ in entries) - sum(right for _, right in entries)) for entries in bins)


@pytest.mark.parametrize("protocol", [Protocol(images=images) for images in IMAGES], ids=IMAGES)
@pytest.mark.parametrize(("share", "seed"), [(0.5, 0), (0.7, 2)])
def test_metrics_are_those_of_plain_loops_on_the_other_part(share, seed, protocol):
    embeddings, targets = images(80)
    found = fit(embeddings, targets, SPLIT, protocol, share=share, seed=seed)
    made = found.calibration
    _, rest = division(len(targets), share, seed)
    truth = targets[rest].tolist()
    scores, calibrated = [], []
    for row in rest:
        matrix = embeddings[row].view(DIM, ROWS)
        scores.append([max(float(matrix[:, m] @ word) for m in range(ROWS)) for word in SPLIT.word_vectors.T])
        ordered = sorted(scores[-1][column] for column in SEEN)
        quantile = made.level_quantile
        level = 0.0 if quantile is None else ordered[math.floor(quantile * (len(SEEN) - 1))]
        calibrated.append(
            [s - level + (0.0 if column in SEEN else made.seen_bias) for column, s in enumerate(scores[-1])]
        )
    limits = made.thresholds.nan_to_num(nan=made.shared_threshold).tolist()
    chosen = [[r > limit for r, limit in zip(row, limits, strict=True)] for row in calibrated]
    stacked = [[s - made.seen_bias * (column in SEEN) for column, s in enumerate(row)] for row in scores]
    probabilities = [[1 / (1 + math.exp(-(made.slope * r + made.offset))) for r in row] for row in calibrated]
    expected = {"num_fitted_on": float(len(targets) - len(rest)), "num_measured_on": float(len(rest))}
    sides = {"seen": list(SEEN), "unseen": list(UNSEEN), "generalized": [*SEEN, *UNSEEN]}
    for side, columns in sides.items():

        def part(rows: list[list], columns: list[int] = columns) -> list[list]:
            return [[row[column] for column in columns] for row in rows]

        if side != "generalized":
            expected[f"{side}.ECE"] = plain_ece(part(probabilities), part(truth))
        counted = [protocol.images == "all-images" or any(row[column] == 1 for column in columns) for row in truth]
        expected[f"{side}.num_images"] = sum(counted)

        def part(rows: list[list], columns: list[int] = columns, counted: list[bool] = counted) -> list[list]:
            return [[row[column] for column in columns] for row, keep in zip(rows, counted, strict=True) if keep]

        for k in (3, 5):
            expected[f"{side}.F1@{k}"] = plain_f1([top(row, k) for row in part(scores)], part(truth))
        expected[f"{side}.F1@fitted"] = plain_f1(part(chosen), part(truth))
        if side == "generalized":
            for k in (3, 5):
                expected[f"{side}.stacked_F1@{k}"] = plain_f1([top(row, k) for row in part(stacked)], part(truth))
    assert found.metrics == pytest.approx(expected, abs=1e-3)
    seen_truth = targets[rest][:, list(SEEN)]
    assert int(found.curve.counts.sum()) == int((seen_truth != -1).sum())
    assert 100 * found.curve.error == pytest.approx(found.metrics["seen.ECE"])


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("protocol", [Protocol((1, 3), images) for images in IMAGES], ids=IMAGES)
def test_the_best_labels_have_the_f1_of_the_evaluation_of_the_same_images(protocol, sparse):
    """One protocol for both tables of validate.py, the image lists of the settings included."""
    embeddings, targets = images(150)
    lists = torch.arange(150) % 3 > 0, torch.arange(150) % 5 > 0
    truth = GroundTruth(LabelMatrix.from_dense(targets) if sparse else targets, *(one.nonzero()[:, 0] for one in lists))
    found = fit_and_measure(embeddings, SPLIT, truth, FitOptions(0.4, seed=6), protocol)
    _, rest = division(150, 0.4, 6)
    own = GroundTruth(targets[rest], *(one[rest].nonzero()[:, 0] for one in lists))
    report = evaluate(embeddings[rest], SPLIT, own, protocol)
    of_seen = evaluate(embeddings[rest], replace(SPLIT, unseen=()), own, protocol)
    for side, expected, setting in (
        ("unseen", report, "zero_shot"), ("generalized", report, "generalized"), ("seen", of_seen, "generalized"),
    ):  # fmt: skip
        for name in ("num_images", "F1@1", "F1@3"):
            assert found.metrics[f"{side}.{name}"] == pytest.approx(expected[f"{setting}.{name}"]), (side, name)


def test_the_protocols_differ_in_the_images_of_unseen_labels_alone():
    some, every = (fit(*images(), SPLIT, Protocol(images=images_)).metrics for images_ in IMAGES)
    assert some["unseen.num_images"] < every["unseen.num_images"] == every["num_measured_on"]
    assert some["unseen.F1@3"] > every["unseen.F1@3"] + 1
    assert some["unseen.ECE"] == every["unseen.ECE"]


@pytest.mark.parametrize("seed", range(3))
def test_fitted_thresholds_do_better_than_five_tags_each(seed):
    """An image has between one and many labels; and calibrated stacking helps unseen ones to their place."""
    metrics = fit(*images(600, seed, unknown=0), SPLIT, seed=seed).metrics
    for side in ("seen", "unseen", "generalized"):
        assert metrics[f"{side}.F1@fitted"] > max(metrics[f"{side}.F1@5"], metrics[f"{side}.F1@3"]) + 2
    assert metrics["seen.ECE"] < 5


def test_probabilities_of_many_images_are_calibrated():
    """Logistic regression's own world: scores decide the odds of a label."""
    generator = torch.Generator().manual_seed(0)
    split = make_split(list("abcdef"), range(5), [5], torch.eye(6), name="x", source="x")
    embeddings = torch.randn(3000, 6, generator=generator)
    targets = (torch.rand(3000, 6, generator=generator) < torch.sigmoid(2 * embeddings - 1)).int()
    found = fit(embeddings, targets, split)
    assert found.calibration.level_quantile is None
    assert found.calibration.slope == pytest.approx(2, abs=0.1)
    assert found.calibration.offset == pytest.approx(-1, abs=0.1)
    assert found.metrics["seen.ECE"] < 2


# Splits of other shapes


def test_few_labels_have_no_top_five():
    split = replace(SPLIT, seen=tuple(range(10)), unseen=(10, 11, 12, 13))
    metrics = fit(*images(), split).metrics
    assert "unseen.F1@3" in metrics
    assert "unseen.F1@5" not in metrics
    assert {"generalized.F1@5", "generalized.stacked_F1@5"} <= metrics.keys()
    fewer = replace(SPLIT, seen=(0, 1), unseen=(2,))
    names = fit(*images(), fewer).metrics.keys()
    assert {"seen.F1@3", "unseen.F1@3", "generalized.F1@5"}.isdisjoint(names)
    assert {"generalized.F1@3", "generalized.stacked_F1@3", "unseen.F1@fitted"} <= names


def test_a_split_without_unseen_labels():
    split = replace(SPLIT, unseen=())
    found = fit(*images(), split)
    assert found.calibration.seen_bias == 0
    assert not any(name.startswith("unseen") or "stacked" in name for name in found.metrics)
    assert found.metrics["generalized.F1@fitted"] == found.metrics["seen.F1@fitted"]
    text = format_fit(found)
    assert "unseen" not in text.split("stacking")[0]


@pytest.mark.parametrize("value", [0, -1])
def test_unseen_labels_without_a_positive_are_not_measured(value):
    embeddings, targets = images()
    targets[:, list(UNSEEN)] = value
    with pytest.raises(UserError, match=r"--fit-bias labels: .* no unseen label; give --fit-bias gap"):
        fit(embeddings, targets, SPLIT)
    found = fit(embeddings, targets, SPLIT, bias="gap")
    assert not any(name.startswith("unseen") for name in found.metrics)
    assert found.metrics["generalized.F1@fitted"] > 0
    assert "nan" not in format_fit(found)


# The table


def test_the_table_shows_the_metrics(fitted):
    metrics = fitted.metrics
    lines = format_fit(fitted).splitlines()
    assert "fitted on 60 images, measured on the other 60" in lines[0]
    rows = {line.split()[0]: line.split()[1:] for line in lines[2:5]}
    for title, side in (("seen", "seen"), ("unseen", "unseen"), ("both", "generalized")):
        names = ("F1@3", "F1@5", "F1@fitted", "stacked_F1@3", "stacked_F1@5")
        numbers = [metrics.get(f"{side}.{name}") for name in names]
        cells = ["-" if number is None else f"{number:.2f}" for number in numbers]
        assert rows[title] == [str(metrics[f"{side}.num_images"]), *cells]
    assert rows["seen"][4:] == rows["unseen"][4:] == ["-", "-"]
    assert lines[5] == "  protocol: positive-only; micro-F1 in percent"
    assert f"seen {metrics['seen.ECE']:.2f}, unseen {metrics['unseen.ECE']:.2f}" in lines[6]
    assert f"subtracts {fitted.calibration.seen_bias:.3f} from" in lines[7]
    assert len({len(line) for line in lines[1:5]}) == 1  # columns in line
    assert max(map(len, lines)) <= 120


# Mistakes


@pytest.mark.parametrize("part", ["fit", "measure"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_part_without_a_seen_label_is_named(part, value):
    embeddings, targets = images()
    fitting, rest = division(len(targets), 0.25, 0)
    rows = fitting if part == "fit" else rest
    empty = targets.clone()
    for row in rows:
        empty[row, list(SEEN)] = value  # unseen labels do not help
    message = f"--fit-thresholds: none of the {len(rows)} images to {part} on has a seen label; give more"
    with pytest.raises(UserError, match=message):
        fit(embeddings, empty, SPLIT, share=0.25)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_images(count):
    embeddings, targets = images(count)
    with pytest.raises(UserError, match=r"^--fit-thresholds: "):
        fit(embeddings, targets, SPLIT, share=0.1)


def test_labels_without_a_known_negative_are_a_mistake():
    embeddings, targets = images()
    targets = torch.where(targets == 0, -1, targets)
    with pytest.raises(UserError, match=r"--fit-thresholds: nothing to fit: .* positives and 0 negatives"):
        fit(embeddings, targets, SPLIT)


def test_scores_that_do_not_rise_are_a_mistake():
    embeddings, targets = images()
    with pytest.raises(UserError, match="--fit-thresholds: scores do not rise"):
        fit(-embeddings, targets, SPLIT)


def test_a_model_that_gives_nan_is_a_mistake():
    embeddings, targets = images()
    embeddings[:, 0] = math.nan
    with pytest.raises(UserError, match="--fit-thresholds: scores contain NaN"):
        fit(embeddings, targets, SPLIT)


# F1 of a choice, which the thresholds are measured with


@pytest.mark.parametrize("seed", range(3))
def test_f1_of_a_choice_is_that_of_a_plain_loop(seed):
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand(9, 5, generator=generator) < 0.4
    targets = torch.randint(-1, 2, (9, 5), generator=generator)
    found = f1_of_choice(chosen, targets)
    hits = sum(bool(chosen[row, column]) and int(targets[row, column]) == 1 for row in range(9) for column in range(5))
    assert found.precision == pytest.approx(hits / int(chosen.sum()))
    assert found.recall == pytest.approx(hits / int((targets == 1).sum()))
    assert 100 * found.f1 == pytest.approx(plain_f1(chosen.tolist(), targets.tolist()))


def test_f1_of_a_choice_where_a_denominator_is_zero():
    nothing, everything = torch.zeros(2, 3, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool)
    ones = torch.ones(2, 3)
    assert f1_of_choice(nothing, ones) == (0, 0, 0)
    assert f1_of_choice(everything, torch.zeros(2, 3)) == (0, 0, 0)
    assert f1_of_choice(everything, ones) == (1, 1, 1)
    assert f1_of_choice(nothing[:0], ones[:0]) == (0, 0, 0)
    with pytest.raises(ValueError, match=r"must both be \[N, C\]"):
        f1_of_choice(everything, ones[:1])
