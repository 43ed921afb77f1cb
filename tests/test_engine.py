"""The engine: a training epoch against a hand-written loop, and batches."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn

from src.data.dataset import Batch
from src.engine import (
    NonFiniteLossError,
    Step,
    TrainBatch,
    decay_groups,
    feature_batches,
    picture_batches,
    train_one_epoch,
)
from src.evaluation import embed
from src.loss_functions.SDL_loss import SDLLoss

CPU = torch.device("cpu")
INPUTS, DIM, ROWS, LABELS = 6, 4, 2, 5


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def linear(seed: int = 0) -> nn.Linear:
    module = nn.Linear(INPUTS, DIM * ROWS)
    with torch.no_grad():
        module.weight.copy_(0.3 * draw(DIM * ROWS, INPUTS, seed=seed))
        module.bias.zero_()
    return module


def criterion() -> SDLLoss:
    return SDLLoss(0.3, wordvec_array=nn.functional.normalize(draw(DIM, LABELS, seed=1), dim=0))


def batch(size: int, seed: int, bad: tuple[str, ...] = ()) -> TrainBatch:
    return TrainBatch(draw(size, INPUTS, seed=seed), (draw(size, LABELS, seed=seed + 50) > 0).int(), bad)


def optimizer_and_scheduler(module: nn.Module) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    optimizer = torch.optim.Adam(decay_groups(module, 0.05), lr=0.02)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.02, total_steps=8, pct_start=0.3)


def run_epoch(module: nn.Module, batches: Iterable[TrainBatch], **keywords):
    return train_one_epoch(module, criterion(), *optimizer_and_scheduler(module), batches, device=CPU, **keywords)


def same_weights(ours: nn.Module, theirs: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


# --- training ---


@pytest.mark.parametrize("mixed", [False, True])
def test_an_epoch_equals_a_loop_written_by_hand(mixed):
    ours, theirs = linear(), linear()
    batches = [batch(4, 2), batch(4, 3), batch(1, 4), batch(3, 5)]
    steps: list[Step] = []
    scaler = torch.amp.GradScaler("cpu") if mixed else None
    result = run_epoch(ours, batches, scaler=scaler, on_step=steps.append)

    loss_of = criterion()
    optimizer, scheduler = optimizer_and_scheduler(theirs)
    scaler = torch.amp.GradScaler("cpu", enabled=mixed)
    expected = []
    for inputs, targets, _ in batches:
        optimizer.zero_grad()
        with torch.autocast("cpu", enabled=mixed):
            embedding = theirs(inputs)
        loss, parts = loss_of.with_parts(embedding, targets)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        expected.append((loss.item(), *(part.item() for part in parts), optimizer.param_groups[0]["lr"]))
        scheduler.step()

    assert same_weights(ours, theirs)
    assert not same_weights(ours, linear())
    assert [tuple(step) for step in steps] == expected
    sizes = [len(inputs) for inputs, _, _ in batches]
    for place, name in enumerate(("loss", "rank", "diversity", "regularizer")):
        mean = sum(size * values[place] for size, values in zip(sizes, expected, strict=True)) / sum(sizes)
        assert getattr(result, name) == pytest.approx(mean, rel=1e-12)
    assert result.num_pictures == 12
    assert result.bad == ()


def test_batches_without_a_picture_are_passed_over():
    full = [batch(4, 2), batch(3, 3)]
    empty = TrainBatch(torch.empty(0, INPUTS), torch.empty(0, LABELS), ("a.jpg: cut short",))
    ours, theirs = linear(), linear()
    steps: list[Step] = []
    result = run_epoch(ours, [empty, full[0], empty, full[1], empty], on_step=steps.append)
    expected = run_epoch(theirs, full)
    assert same_weights(ours, theirs)
    assert len(steps) == 2
    assert result == expected._replace(bad=("a.jpg: cut short",) * 3)


def test_messages_about_unreadable_pictures_are_kept_in_order():
    batches = [batch(2, 2, bad=("first", "second")), batch(2, 3), batch(1, 4, bad=("third",))]
    assert run_epoch(linear(), batches).bad == ("first", "second", "third")


def test_an_epoch_without_pictures_changes_nothing():
    module = linear()
    steps: list[Step] = []
    result = run_epoch(module, [], on_step=steps.append)
    assert same_weights(module, linear())
    assert result == (0.0, 0.0, 0.0, 0.0, 0, ())
    assert steps == []


@pytest.mark.parametrize("training", [True, False])
def test_train_or_eval_mode_is_left_to_the_caller(training):
    module = nn.Sequential(nn.BatchNorm1d(INPUTS), linear())
    module.train(training)
    run_epoch(module, [batch(4, 2)])
    assert module.training == module[0].training == training
    assert (module[0].running_mean != 0).any() == training


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("mixed", [False, True])
def test_a_loss_that_is_not_finite_stops_before_the_step_and_names_step_and_parts(value, mixed):
    spoiled = batch(4, 3)
    spoiled.inputs[1, 2] = value
    module, untouched = linear(), linear()
    run_epoch(untouched, [batch(4, 2)], scaler=torch.amp.GradScaler("cpu") if mixed else None)
    steps: list[Step] = []
    with pytest.raises(
        NonFiniteLossError, match=r"^step 2: loss (nan|inf), rank (nan|inf), diversity \d[\d.]*, regularizer (nan|inf)$"
    ):
        run_epoch(
            module,
            [batch(4, 2), spoiled, batch(4, 4)],
            scaler=torch.amp.GradScaler("cpu") if mixed else None,
            on_step=steps.append,
        )
    assert same_weights(module, untouched)  # the first step was taken, the second was not
    assert len(steps) == 1


def test_the_message_tells_the_part_that_is_at_fault():
    loss = SDLLoss(1.0, wordvec_array=torch.eye(2))
    module = nn.Linear(2, 4, bias=False)
    with torch.no_grad():  # principal vectors (2e20, 0) and (-2e20, 0): finite scores, an infinite variance
        module.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    one = TrainBatch(torch.tensor([[2e20, 0.0]]), torch.tensor([[1, 0]]))
    with pytest.raises(NonFiniteLossError, match=r"^step 1: loss inf, rank 0, diversity 1, regularizer inf$"):
        train_one_epoch(module, loss, optimizer, scheduler, [one], device=CPU)


def test_decay_spares_biases_and_one_dimensional_weights():
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 5, bias=True), nn.PReLU(), nn.Linear(5, 2)
    )
    module[4].weight.requires_grad_(False)
    spared, decayed = decay_groups(module, 3e-4)
    assert (spared["weight_decay"], decayed["weight_decay"]) == (0.0, 3e-4)
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    assert [names[id(parameter)] for parameter in decayed["params"]] == ["0.weight", "2.weight"]
    assert [names[id(parameter)] for parameter in spared["params"]] == [
        "0.bias", "1.weight", "1.bias", "2.bias", "3.weight", "4.bias",
    ]  # fmt: skip
    assert {p.ndim for p in spared["params"]} == {1}


def test_weight_decay_reaches_the_weights_and_not_the_biases():
    module = nn.Linear(3, 2)
    before = copy.deepcopy(module)
    optimizer = torch.optim.SGD(decay_groups(module, 0.1), lr=1.0)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(module.weight, 0.9 * before.weight)
    assert torch.equal(module.bias, before.bias)


# --- batches ---


def numbered(count: int) -> tuple[Tensor, Tensor]:
    """Features and targets whose rows tell their number."""
    return torch.arange(count).float().view(-1, 1).repeat(1, 3), torch.arange(count).view(-1, 1)


@pytest.mark.parametrize(("count", "size"), [(10, 4), (8, 4), (3, 5), (1, 1)])
def test_feature_batches_cover_every_row_once_with_its_targets(count, size):
    features, targets = numbered(count)
    batches = list(feature_batches(features, targets.__getitem__, size, torch.Generator().manual_seed(0)))
    assert [len(one.inputs) for one in batches] == [size] * (count // size) + [count % size] * (count % size > 0)
    assert all(torch.equal(one.inputs[:, 0].long(), one.targets[:, 0]) for one in batches)
    assert sorted(row for one in batches for row in one.targets[:, 0].tolist()) == list(range(count))
    assert all(one.bad == () for one in batches)


def test_feature_batches_are_shuffled_by_their_generator():
    features, targets = numbered(30)

    def order(generator: torch.Generator) -> list[int]:
        return torch.cat(
            [one.targets[:, 0] for one in feature_batches(features, targets.__getitem__, 7, generator)]
        ).tolist()

    generator = torch.Generator().manual_seed(3)
    first, second = order(generator), order(generator)
    assert first != second  # another order every epoch
    assert first != list(range(30))
    assert order(torch.Generator().manual_seed(3)) == first
    assert order(torch.Generator().manual_seed(4)) != first


def test_feature_batches_of_nothing():
    features, targets = numbered(0)
    batches = list(feature_batches(features, targets.__getitem__, 4, torch.Generator()))
    assert sum(len(one.inputs) for one in batches) == 0
    assert run_epoch(linear(), batches).num_pictures == 0


def picture_batch(rows: list[int], bad: tuple[str, ...] = ()) -> Batch:
    """Pictures whose every pixel is their row's number."""
    pictures = torch.tensor(rows).float().view(-1, 1, 1, 1).expand(-1, 3, 2, 2).contiguous()
    return Batch(pictures, torch.tensor(rows, dtype=torch.long), bad)


def test_picture_batches_join_each_picture_with_its_own_targets():
    _, targets = numbered(6)
    loader = [picture_batch([4, 1]), picture_batch([], ("row 2",)), picture_batch([5, 0, 3], ("more",))]
    batches = list(picture_batches(loader, targets.__getitem__))
    assert [one.targets[:, 0].tolist() for one in batches] == [[4, 1], [], [5, 0, 3]]
    assert [one.inputs[:, 0, 0, 0].tolist() for one in batches] == [[4, 1], [], [5, 0, 3]]
    assert [one.bad for one in batches] == [(), ("row 2",), ("more",)]


def test_embedded_features_can_be_trained_on():
    embedded = embed(lambda pictures: pictures.flatten(1)[:, :INPUTS], [picture_batch([1, 2, 3, 0])], device=CPU)
    targets = (draw(4, LABELS, seed=7) > 0).int()
    module = linear()
    result = run_epoch(
        module, feature_batches(embedded.outputs, targets.__getitem__, 2, torch.Generator().manual_seed(0))
    )
    assert result.num_pictures == 4
    assert not same_weights(module, linear())
