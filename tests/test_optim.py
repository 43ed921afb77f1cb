"""Parameter groups, schedules and the moving average."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from src.training.optim import MovingAverage, make_optimizer, make_schedule, parameter_groups
from tests.helpers import tiny_model

CPU = torch.device("cpu")


def test_weight_decay_excludes_biases_and_one_dimensional_weights():
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 5, bias=True), nn.PReLU(), nn.Linear(5, 2)
    )
    module[4].weight.requires_grad_(False)
    spared, decayed = parameter_groups(module, 0.1, 3e-4)
    assert (spared["weight_decay"], decayed["weight_decay"]) == (0.0, 3e-4)
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    assert [names[id(parameter)] for parameter in decayed["params"]] == ["0.weight", "2.weight"]
    assert [names[id(parameter)] for parameter in spared["params"]] == [
        "0.bias", "1.weight", "1.bias", "2.bias", "3.weight", "4.bias",
    ]  # fmt: skip
    assert {group["name"] for group in (spared, decayed)} == {"head"}


def test_backbone_and_head_have_separate_rates_and_cover_all_weights():
    model = tiny_model()
    groups = parameter_groups(model, 0.1, 3e-4, backbone_scale=0.25)
    assert {(group["name"], group["lr"]) for group in groups} == {("backbone", 0.025), ("head", 0.1)}
    [head] = [group["params"] for group in groups if group["name"] == "head"]
    assert [id(parameter) for parameter in head] == [id(model.embedding.weight)]
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())


def test_adam_adds_decay_to_the_gradient_and_adamw_does_not():
    moved = {}
    for name in ("adam", "adamw"):
        module = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            module.weight.fill_(1.0)
        optimizer = make_optimizer(name, parameter_groups(module, 0.1, 0.5), CPU)
        module.weight.grad = torch.full_like(module.weight, 1.0)
        optimizer.step()
        moved[name] = module.weight[0, 0].item()
    assert moved["adam"] == pytest.approx(1 - 0.1, abs=1e-6)  # Adam's first step is lr times the sign
    assert moved["adamw"] == pytest.approx((1 - 0.1 * 0.5) - 0.1, abs=1e-6)


def rates(kind: str, total: int, warm_up: float, peaks: tuple[float, ...] = (1.0,)) -> list[list[float]]:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": peak} for peak in peaks]
    optimizer = torch.optim.Adam(groups)
    schedule = make_schedule(kind, optimizer, total, warm_up)
    seen = []
    for _ in range(total):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return seen


def test_one_cycle_is_pytorchs_with_a_peak_for_each_group():
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=40, pct_start=0.1)
    expected = []
    for _ in range(40):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    ours = rates("one_cycle", 40, 0.1, (1.0, 0.5))
    assert [rate for rate, _ in ours] == pytest.approx(expected)
    assert [rate for _, rate in ours] == pytest.approx([rate / 2 for rate in expected])


@pytest.mark.parametrize("total", [1, 2, 3, 5, 10, 20, 24])
@pytest.mark.parametrize("warm_up", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["one_cycle", "cosine", "constant"])
def test_every_length_has_finite_rates_up_to_the_peak(kind, total, warm_up):
    seen = [rate for [rate] in rates(kind, total, warm_up)]
    assert all(math.isfinite(rate) and 0 <= rate <= 1 + 1e-9 for rate in seen)
    assert max(seen) > 0.03


def test_single_step_has_the_peak_rate():
    for kind in ("one_cycle", "cosine", "constant"):
        assert rates(kind, 1, 0.1) == [[1.0]]


def test_cosine_rises_linearly_and_falls_to_zero():
    seen = [rate for [rate] in rates("cosine", 50, 0.2)]
    assert seen[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert seen[10:] == pytest.approx([0.5 * (1 + math.cos(math.pi * step / 40)) for step in range(40)])


def test_constant_stays_after_the_warm_up():
    assert [rate for [rate] in rates("constant", 8, 0.25)] == [0.5, 1, 1, 1, 1, 1, 1, 1]


def test_moving_average_includes_batch_statistics_and_copies_counters():
    model = tiny_model()
    average = MovingAverage(model, 0.9)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    model.train()(torch.rand(4, 3, 32, 32))
    with torch.no_grad():
        model.embedding.weight.add_(1)
    average.update(model)
    for key, tensor in average.module.state_dict().items():
        now = model.state_dict()[key]
        expected = 0.9 * before[key] + 0.1 * now if tensor.is_floating_point() else now
        torch.testing.assert_close(tensor, expected)
    assert not average.module.training
    assert not any(parameter.requires_grad for parameter in average.module.parameters())
