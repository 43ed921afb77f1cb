"""The choice of unseen labels and of validation images: what it guarantees, and how even it is."""

import itertools
import random
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from src.errors import UserError
from src.prepare.choosing import _exchange, stratified_validation, unseen_by_clusters

# Unseen labels


def make_families(sizes: list[int], seed: int = 0) -> tuple[list[str], Tensor]:
    """Labels ``0.0``, ``0.1``, ... of families that lie far apart, not of length 1."""
    random_numbers = torch.Generator().manual_seed(seed)
    vectors = [
        (torch.eye(16)[family] + 0.05 * torch.randn(16, generator=random_numbers)) * (1 + member)
        for family, size in enumerate(sizes)
        for member in range(size)
    ]
    return [f"{family}.{member}" for family, size in enumerate(sizes) for member in range(size)], torch.stack(
        vectors, 1
    )


def per_family(names: list[str], families: int) -> list[int]:
    return [sum(name.startswith(f"{family}.") for name in names) for family in range(families)]


@pytest.mark.parametrize("seed", range(5))
def test_each_cluster_gives_its_share(seed):
    labels, vectors = make_families([8, 4, 4])  # sqrt(16) = 4 clusters, but only 3 are held out
    assert per_family(unseen_by_clusters(labels, vectors, 3 / 16, seed), 3) == [1, 1, 1]
    labels, vectors = make_families([8, 4, 12, 4, 4])  # sqrt(32) = 6 clusters: one family is cut in two
    shares = np.array(per_family(unseen_by_clusters(labels, vectors, 0.25, seed), 5))
    assert shares.sum() == 8
    assert np.abs(shares - [2, 1, 3, 1, 1]).max() <= 1


@pytest.mark.parametrize(
    ("sizes", "held", "shares"),
    [
        ([5, 9, 1, 1], 4, [1, 3, 0, 0]),  # quotas 1.4 and 2.6: labels without relatives have none
        ([2, 2, 2, 10], 12, [1, 1, 1, 9]),  # quotas 1.5, 1.5, 1.5, 7.5: each family keeps a label
    ],
)
def test_largest_remainder(sizes, held, shares):
    labels, vectors = make_families(sizes)  # as many families as clusters
    for seed in range(5):
        assert per_family(unseen_by_clusters(labels, vectors, held / len(labels), seed), 4) == shares


def test_a_label_without_relatives_stays_seen():
    labels, vectors = make_families([8, 1, 7])
    for seed in range(10):
        unseen = unseen_by_clusters(labels, vectors, 0.25, seed)
        assert len(unseen) == 4
        assert "1.0" not in unseen


@pytest.mark.parametrize("count", [2, 3, 4, 7, 12, 30])
def test_exact_number_of_unseen_labels(count):
    vectors = torch.randn(5, count, generator=torch.Generator().manual_seed(count))
    labels = [f"tag{i}" for i in range(count)]
    for held in range(1, count):
        assert len(set(unseen_by_clusters(labels, vectors, held / count, 0))) == held


def test_the_order_of_the_labels_does_not_matter():
    labels, vectors = make_families([9, 7, 5, 1, 8])
    unseen = unseen_by_clusters(labels, vectors, 0.3, 7)
    assert unseen == [label for label in labels if label in unseen]
    assert unseen == unseen_by_clusters(labels, vectors, 0.3, 7)
    for seed in range(5):
        order = random.Random(seed).sample(range(len(labels)), len(labels))
        shuffled = [labels[column] for column in order]
        again = unseen_by_clusters(shuffled, vectors[:, order], 0.3, 7)
        assert set(again) == set(unseen)
        assert again == [label for label in shuffled if label in unseen]
    assert len({tuple(unseen_by_clusters(labels, vectors, 0.3, seed)) for seed in range(5)}) > 1


def test_a_share_of_zero_holds_out_none():
    assert list(unseen_by_clusters([str(i) for i in range(10)], torch.eye(10), 0.0, 0)) == []


@pytest.mark.parametrize("fraction", [0.04, 0.96, 1.5])
def test_refuses_to_round_to_none_or_to_hold_out_all(fraction):
    message = rf"--unseen-fraction {fraction}: must choose .* of the 10 labels and leave .*; give 0\.1 to 0\.5$"
    with pytest.raises(UserError, match=message):
        unseen_by_clusters([str(i) for i in range(10)], torch.eye(10), fraction, 0)


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(UserError, match=r"^--unseen-fraction 0\.5: .*sklearn.*; run: pip install scikit-learn$"):
        unseen_by_clusters(["cat", "dog"], torch.eye(2), 0.5, 0)


# Validation images


def make_targets(num_rows: int, num_labels: int, skew: float, seed: int) -> np.ndarray:
    """[N, C] bool, three labels a row in the mean, none in some; label j is drawn in proportion to (j + 1)^-skew."""
    random_numbers = np.random.default_rng(seed)
    share = np.arange(1, num_labels + 1) ** -float(skew)
    targets = np.zeros((num_rows, num_labels), dtype=bool)
    for row, count in enumerate(random_numbers.poisson(3, num_rows)):
        targets[row, random_numbers.choice(num_labels, count, p=share / share.sum())] = True
    return targets


def validation_rows(targets: np.ndarray, fraction: float, seed: int = 0) -> np.ndarray:
    """[N] bool, after checking that the rows are distinct and ascending."""
    rows, columns = torch.from_numpy(targets).nonzero(as_tuple=True)
    chosen = stratified_validation(rows, columns, *targets.shape, fraction, seed)
    assert chosen.dtype == torch.int64
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    in_val = np.zeros(len(targets), dtype=bool)
    in_val[chosen.numpy()] = True
    return in_val


def label_distribution(targets: np.ndarray, in_val: np.ndarray) -> float:
    """LD of Sechidis et al. 2011: how far the labels' odds in the two parts are from the whole's, in the mean."""

    def odds(part: np.ndarray) -> np.ndarray:
        positives = part.sum(axis=0)
        return positives / (len(part) - positives)

    targets = targets[:, targets.any(axis=0)]
    return float(np.mean([np.abs(odds(targets[part]) - odds(targets)) for part in (in_val, ~in_val)]))


SHAPES = [(2000, 100, 0.8, 0.2), (1500, 150, 1.2, 0.1), (1000, 60, 0.0, 0.3), (1000, 100, 0.5, 0.7)]


@pytest.mark.parametrize(("num_rows", "num_labels", "skew", "fraction"), SHAPES)
def test_much_more_even_than_a_random_split(num_rows, num_labels, skew, fraction):
    targets = make_targets(num_rows, num_labels, skew, 0)
    in_val = validation_rows(targets, fraction)
    at_random = [label_distribution(targets, np.random.default_rng(seed).permutation(in_val)) for seed in range(5)]
    assert label_distribution(targets, in_val) < 0.5 * min(at_random)


@pytest.mark.parametrize(("num_rows", "num_labels", "skew", "fraction"), SHAPES)
def test_as_even_as_the_library(num_rows, num_labels, skew, fraction):
    stratifiers = pytest.importorskip("iterstrat.ml_stratifiers", reason="needs pip install iterative-stratification")
    ours, theirs = [], []
    for seed in range(4):
        targets = make_targets(num_rows, num_labels, skew, seed)
        splitter = stratifiers.MultilabelStratifiedShuffleSplit(1, test_size=fraction, random_state=seed)
        in_val = np.zeros(num_rows, dtype=bool)
        in_val[next(splitter.split(targets, targets))[1]] = True
        theirs.append(label_distribution(targets, in_val))
        ours.append(label_distribution(targets, validation_rows(targets, fraction, seed)))
    assert np.mean(ours) <= 1.1 * np.mean(theirs)


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.25, 0.5, 0.8])
@pytest.mark.parametrize("skew", [0.0, 0.8, 1.5])
def test_size_and_labels_on_both_sides(fraction, skew):
    for seed in range(3):
        targets = make_targets(400, 80, skew, seed)
        in_val = validation_rows(targets, fraction, seed)
        assert in_val.sum() == round(fraction * 400)
        positives = targets.sum(axis=0)
        assert targets[~in_val][:, positives >= 2].any(axis=0).all()
        assert targets[in_val][:, positives >= np.ceil(1 / fraction)].any(axis=0).all()
        without = ~targets.any(axis=1)
        assert in_val[without].sum() == pytest.approx(fraction * without.sum(), abs=3)


def test_guarantees_on_small_targets_against_all_splits():
    """Training keeps an image of each label always; the size is as wanted where any split of that size does so."""
    random_numbers = np.random.default_rng(0)
    tried = worse = 0
    for seed in range(150):
        targets = random_numbers.random((8, 5)) < random_numbers.choice([0.1, 0.25, 0.5])
        fraction = float(random_numbers.choice([0.125, 0.25, 0.375]))
        in_val = validation_rows(targets, fraction, seed)
        positives = targets.sum(axis=0)
        assert targets[~in_val][:, positives >= 2].any(axis=0).all()
        splits = [np.isin(range(8), chosen) for chosen in itertools.combinations(range(8), round(fraction * 8))]
        allowed = [split for split in splits if targets[~split][:, positives >= 2].any(axis=0).all()]
        if not allowed:
            continue
        assert in_val.sum() == round(fraction * 8)
        due = positives * fraction >= 1
        best = max(targets[split][:, due].any(axis=0).sum() for split in allowed)
        tried += 1
        worse += int(targets[in_val][:, due].any(axis=0).sum() < best)
    assert tried > 100
    assert worse <= 0.05 * tried


def test_size_gives_way_where_training_needs_the_images():
    targets = np.zeros((6, 15), dtype=bool)  # a label for each two images: training can spare only one
    for column, pair in enumerate(itertools.combinations(range(6), 2)):
        targets[pair, column] = True
    assert validation_rows(targets, 0.5).sum() == 1


@pytest.mark.parametrize("in_val", [[3, 4], [], [3, 4, 5], [0, 1, 2, 3, 4, 5]])
def test_an_exchange_gives_a_missing_label_its_image(in_val):
    targets = np.eye(2, dtype=bool).repeat(3, axis=0)  # images 0 to 2 show label 0, the others label 1
    chosen = np.isin(range(6), in_val)
    _exchange(chosen, *targets.nonzero(), 2, np.array([True, True]))
    assert targets[chosen].sum(axis=0).tolist() == [1, 1]


def test_labels_of_one_image_go_to_training_as_far_as_there_is_room():
    targets = np.concatenate([np.eye(60, 10), np.ones((60, 1))], axis=1) > 0
    assert not validation_rows(targets, 0.2)[:10].any()
    assert validation_rows(np.eye(50) > 0, 0.2).sum() == 10


def test_deterministic_and_independent_of_the_order_of_entries():
    targets = make_targets(300, 30, 0.8, 0)
    rows, columns = torch.from_numpy(targets).nonzero(as_tuple=True)
    chosen = stratified_validation(rows, columns, 300, 30, 0.2, 5)
    assert torch.equal(chosen, stratified_validation(rows, columns, 300, 30, 0.2, 5))
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).repeat(2)  # and each entry twice
    assert torch.equal(chosen, stratified_validation(rows[order], columns[order], 300, 30, 0.2, 5))
    assert not torch.equal(chosen, stratified_validation(rows, columns, 300, 30, 0.2, 6))


def test_images_without_labels_only():
    nothing = torch.empty(0, dtype=torch.int64)
    assert len(stratified_validation(nothing, nothing, 20, 0, 0.1, 0)) == 2
    assert len(stratified_validation(nothing, nothing, 20, 4, 0.25, 0)) == 5


@pytest.mark.parametrize("fraction", [0.0, 0.04, 0.96, 1.5])
def test_refuses_to_take_no_image_or_all(fraction):
    message = rf"--val-fraction {fraction}: must choose .* of the 10 images and leave .*; give 0\.1 to 0\.5$"
    with pytest.raises(UserError, match=message):
        stratified_validation(torch.arange(10), torch.zeros(10, dtype=torch.int64), 10, 1, fraction, 0)
