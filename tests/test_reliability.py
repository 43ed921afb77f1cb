"""Platt scaling against scikit-learn's logistic regression, and reliability against its calibration curve."""

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression

from src.calibration.platt import fit_platt, reliability


def problem(seed: int = 0, count: int = 60, labels: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(count, labels, generator=generator) + 5
    noise = torch.rand(count, labels, generator=generator)
    targets = (noise < torch.sigmoid(0.8 * scores - 7)).int()
    targets[torch.rand(count, labels, generator=generator) < 0.1] = -1
    return scores, targets


@pytest.mark.parametrize("seed", range(4))
def test_platt_is_logistic_regression_on_smoothed_targets(seed):
    scores, targets = problem(seed)
    known = targets != -1
    x, positive = scores[known].numpy(), (targets[known] == 1).numpy()
    high, low = (positive.sum() + 1) / (positive.sum() + 2), 1 / ((~positive).sum() + 2)
    aim = np.where(positive, high, low)
    # A target of 0.9 is a positive of weight 0.9 and a negative of weight 0.1
    model = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000, solver="newton-cholesky")
    model.fit(np.tile(x, 2)[:, None], np.repeat([1, 0], len(x)), sample_weight=np.concatenate([aim, 1 - aim]))
    slope, offset = fit_platt(scores, targets)
    assert slope == pytest.approx(model.coef_[0, 0], rel=1e-4)
    assert offset == pytest.approx(model.intercept_[0], rel=1e-4)


def test_mean_probability_is_the_share_of_positives():
    """The condition of the maximum for the offset, up to the smoothing of the targets."""
    scores, targets = problem(9, count=2000)
    slope, offset = fit_platt(scores, targets)
    known = targets != -1
    mean = torch.sigmoid(slope * scores + offset)[known].mean().item()
    assert mean == pytest.approx((targets[known] == 1).float().mean().item(), abs=1e-3)


def test_separable_targets_give_a_finite_slope():
    scores = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    slope, offset = fit_platt(scores, torch.tensor([[0, 0, 1, 1]]))
    assert 0 < slope < 100
    assert torch.sigmoid(torch.tensor(slope * 1.5 + offset)) == pytest.approx(0.5, abs=1e-6)


def test_scale_and_shift_of_the_scores_do_not_matter():
    scores, targets = problem(2)
    slope, offset = fit_platt(scores, targets)
    other_slope, other_offset = fit_platt(1000 * scores - 77, targets)
    assert other_slope * 1000 == pytest.approx(slope, rel=1e-5)
    assert other_offset - 77 * other_slope == pytest.approx(offset, rel=1e-5)


def test_scores_that_do_not_rise_have_no_fit():
    with pytest.raises(ValueError, match="do not rise"):
        fit_platt(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1, 0, 0]]))


@pytest.mark.parametrize("bins", [5, 10])
def test_reliability_is_scikit_learns_curve(bins):
    scores, targets = problem(3, count=500)
    slope, offset = fit_platt(scores, targets)
    probabilities = torch.sigmoid(slope * scores + offset).double()
    found = reliability(probabilities, targets, bins)
    known = (targets != -1).numpy()
    share, mean = calibration_curve((targets.numpy() == 1)[known], probabilities.numpy()[known], n_bins=bins)
    np.testing.assert_allclose(found.observed, share)
    np.testing.assert_allclose(found.predicted, mean)
    expected = (found.counts.numpy() * np.abs(share - mean)).sum() / known.sum()
    assert found.error == pytest.approx(float(expected))
    assert int(found.counts.sum()) == known.sum()


def test_certain_and_impossible_ones_have_a_bin():
    found = reliability(torch.tensor([0.0, 1.0, 1.0]), torch.tensor([0, 1, 0]))
    assert found.counts.tolist() == [1, 2]
    assert found.observed.tolist() == [0, 0.5]
    assert found.error == pytest.approx(1 / 3)
