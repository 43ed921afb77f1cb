"""The engine against loops written by hand: accumulation, shares of a step, clipping, half precision, NaN."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from src.loss_functions.SDL_loss import SDLLoss
from src.training.engine import EpochSums, Learner, NonFiniteLossError, StepMetrics, TrainBatch, train_epoch
from src.training.optim import MovingAverage, make_optimizer, make_schedule, parameter_groups
from src.utils.distributed import Processes
from tests.conftest import GOLDEN
from tests.helpers import golden_model

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


def batch(size: int, seed: int, weight: float = 1.0, ends_step: bool = True) -> TrainBatch:
    targets = (draw(size, LABELS, seed=seed + 50) > 0).int()
    return TrainBatch(draw(size, INPUTS, seed=seed), targets, torch.arange(size), weight, ends_step)


def trained(module: nn.Module, loss: SDLLoss | None = None, **options: Any) -> Learner:
    optimizer = torch.optim.Adam(parameter_groups(module, 0.02, 0.05))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.02, total_steps=8, pct_start=0.3)
    return Learner(module, loss or criterion(), optimizer, schedule, CPU, **options)


def run_epoch(module: nn.Module, batches: Iterable[TrainBatch], on_step=lambda step: None, **options: Any) -> EpochSums:
    sums = EpochSums()
    train_epoch(trained(module, **options), batches, sums, on_step)
    return sums


def same_weights(ours: nn.Module, theirs: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize("precision", [None, torch.bfloat16, torch.float16])
def test_epoch_equals_a_loop_written_by_hand(precision):
    ours, theirs = linear(), linear()
    batches = [batch(4, 2), batch(4, 3), batch(1, 4), batch(3, 5)]
    steps: list[StepMetrics] = []
    sums = run_epoch(ours, batches, steps.append, precision=precision)

    loss_of = criterion()
    by_hand = trained(theirs)
    optimizer, scheduler = by_hand.optimizer, by_hand.scheduler
    scaler = torch.amp.GradScaler("cpu", enabled=precision == torch.float16)
    expected = []
    for one in batches:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=precision, enabled=precision is not None):
            embedding = theirs(one.inputs)
        loss, parts = loss_of.with_parts(embedding, one.targets)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        norm = math.sqrt(sum(float(parameter.grad.square().sum()) for parameter in theirs.parameters()))
        scaler.step(optimizer)
        scaler.update()
        expected.append((loss.item(), *(part.item() for part in parts), norm, scheduler.get_last_lr()[0]))
        scheduler.step()

    assert same_weights(ours, theirs)
    assert not same_weights(ours, linear())
    for step, values in zip(steps, expected, strict=True):
        assert step[:4] == values[:4]
        assert step.gradient_norm == pytest.approx(values[4], rel=1e-5)
        assert step.lr == {"head": values[5]}
    sizes = [len(one.inputs) for one in batches]
    means = sums.means()
    for place, name in enumerate(("loss", "rank", "diversity", "regularizer")):
        mean = sum(size * values[place] for size, values in zip(sizes, expected, strict=True)) / sum(sizes)
        assert means[name] == pytest.approx(mean, rel=1e-12)
    norms = [values[4] for values in expected if math.isfinite(values[4])]  # half precision begins with overflows
    assert means["gradient_norm"] == pytest.approx(np.mean(norms), rel=1e-5)
    assert (means["num_images"], means["skipped_steps"]) == (12, len(batches) - len(norms))


def one_cycle_by_hand(step: int, total: int, peak: float, warm_up: float) -> tuple[float, float]:
    """Return Adam's learning rate and first momentum of a step after the warm-up.

    The rate falls along a cosine to 1e-4 of its start, 1/25 of the peak; the momentum rises from 0.85 to 0.95.
    """
    top = warm_up * total - 1
    weight = (1 + math.cos(math.pi * (step - top) / (total - 1 - top))) / 2
    return peak / 25e4 + (peak - peak / 25e4) * weight, 0.95 - 0.1 * weight


class AdamByHand:
    """Adam (Kingma & Ba, algorithm 1) for one weight; decay is L2 in the gradient or, decoupled, that of AdamW."""

    def __init__(self, decay: float, *, decoupled: bool = False) -> None:
        self._decay, self._decoupled = decay, decoupled
        self.steps, self._mean, self._square = 0, torch.zeros(()), torch.zeros(())

    def update(self, weight: Tensor, gradient: Tensor, rate: float, beta: float) -> Tensor:
        """Return the change of ``weight``."""
        decay = self._decay if weight.ndim > 1 else 0.0
        if not self._decoupled:
            gradient = gradient + decay * weight
        self.steps += 1
        self._mean = beta * self._mean + (1 - beta) * gradient
        self._square = 0.999 * self._square + 0.001 * gradient**2
        mean, square = self._mean / (1 - beta**self.steps), self._square / (1 - 0.999**self.steps)
        return -rate * mean / (square.sqrt() + 1e-8) - (rate * decay * weight if self._decoupled else 0)


def golden_steps() -> tuple[nn.Module, SDLLoss, list[TrainBatch]]:
    golden = np.load(GOLDEN / "tresnet_m_sdl.npz")
    batches = [
        TrainBatch(torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y), torch.arange(len(y)))
        for x, y in zip(golden["train_x"], golden["train_y"], strict=True)
    ]
    return copy.deepcopy(golden_model()).train(), SDLLoss(0.01, wordvec_array=golden["train_wordvec"]), batches


def test_six_steps_equal_the_released_code_and_adam_by_hand():
    """Compare the losses, and the updates, which unlike losses differ between Adam, AdamW and ten times the decay."""
    model, loss, batches = golden_steps()
    losses: list[float] = []
    weights = list(model.parameters())[::9]
    assert {weight.ndim for weight in weights} == {1, 2, 4}
    recipes: dict[str, dict[str, Any]] = {
        "adam": {"decay": 3e-4},
        "adamw": {"decay": 3e-4, "decoupled": True},
        "ten times the decay": {"decay": 3e-3},
        "no decay": {"decay": 0.0},
    }
    by_hand = {name: [AdamByHand(**recipe) for _ in weights] for name, recipe in recipes.items()}
    worst = dict.fromkeys(recipes, 0.0)
    before = [weight.detach().clone() for weight in weights]
    model_before = copy.deepcopy(model)

    def compare(step: StepMetrics) -> None:
        losses.append(step.loss)
        count = next(iter(by_hand.values()))[0].steps
        rate, beta = one_cycle_by_hand(count, len(batches), 2.5e-5, 0.1)
        assert step.lr["head"] == pytest.approx(rate)
        if count == len(batches) - 1:
            return  # a rate of 1e-10: float32 rounds these updates away
        if count == 0:
            first = loss(model_before(batches[0].inputs), batches[0].targets)
            expected = torch.autograd.grad(first, list(model_before.parameters())[::9])
            torch.testing.assert_close([weight.grad for weight in weights], list(expected))
        for name, optimizers in by_hand.items():
            for old, weight, optimizer in zip(before, weights, optimizers, strict=True):
                expected = optimizer.update(old, weight.grad, rate, beta)
                error = (weight.detach() - old - expected).norm() / expected.norm()
                worst[name] = max(worst[name], float(error))
        for old, weight in zip(before, weights, strict=True):
            old.copy_(weight.detach())

    optimizer = make_optimizer("adam", parameter_groups(model, 2.5e-5, 3e-4), CPU)
    sums = EpochSums()
    schedule = make_schedule("one_cycle", optimizer, len(batches), 0.1)
    train_epoch(Learner(model, loss, optimizer, schedule, CPU), batches, sums, compare)
    expected_losses = np.load(GOLDEN / "tresnet_m_sdl.npz")["train_loss"]
    assert losses[0] == pytest.approx(expected_losses[0], rel=1e-5)
    # The first steps of Adam move every weight by the learning rate in the direction of its gradient's sign. Where a
    # gradient is rounding noise, that sign is the machine's own, so two right implementations drift apart.
    np.testing.assert_allclose(losses, expected_losses, rtol=2e-2)
    assert sums.means()["loss"] == pytest.approx(np.mean(losses))
    assert sums.images == 24
    assert worst.pop("adam") < 0.03 < min(worst.values())  # float32 rounds weights of 1 to 6e-8, an update of 1e-6


def test_accumulated_batches_equal_one_large_batch():
    whole = batch(9, 2)
    parts = [
        TrainBatch(whole.inputs[rows], whole.targets[rows], whole.rows[rows], len(whole.rows[rows]) / 9, last)
        for rows, last in ((slice(0, 4), False), (slice(4, 6), False), (slice(6, 9), True))
    ]
    ours, theirs = linear(), linear()
    steps: list[StepMetrics] = []
    sums = run_epoch(ours, [*parts, batch(3, 4)], steps.append)
    expected: list[StepMetrics] = []
    expected_sums = run_epoch(theirs, [whole, batch(3, 4)], expected.append)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    assert len(steps) == 2
    assert steps[0].loss == pytest.approx(expected[0].loss, rel=1e-6)
    assert sums.values() == pytest.approx(expected_sums.values(), rel=1e-5)


def test_averaged_gradients_of_two_processes_equal_those_of_one():
    """Average the gradients of two shares of the images, as DistributedDataParallel does."""
    whole = batch(7, 2)
    expected = linear()
    run_epoch(expected, [whole])
    gradients = []
    for rows in (slice(0, 5), slice(5, 7)):
        module = linear()
        share = TrainBatch(whole.inputs[rows], whole.targets[rows], whole.rows[rows], len(whole.rows[rows]) / 7)
        run_epoch(module, [share], processes=2)
        gradients.append([parameter.grad for parameter in module.parameters()])
    together = linear()
    optimizer = trained(together).optimizer
    for parameter, one, other in zip(together.parameters(), *gradients, strict=True):
        parameter.grad = (one + other) / 2
    optimizer.step()
    for one, other in zip(together.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_repeated_image_of_an_idle_process_does_not_count():
    ours = linear()
    idle = batch(1, 3, weight=0.0, ends_step=False)
    sums = run_epoch(ours, [idle, batch(4, 2)])
    theirs = linear()
    expected = run_epoch(theirs, [batch(4, 2)])
    assert same_weights(ours, theirs)
    assert sums == expected


def test_gradients_are_clipped_and_logged_unclipped():
    free, clipped = linear(), linear()
    free_steps: list[StepMetrics] = []
    steps: list[StepMetrics] = []
    run_epoch(free, [batch(4, 2)], free_steps.append)
    run_epoch(clipped, [batch(4, 2)], steps.append, clip_norm=0.01)
    assert steps[0].gradient_norm == pytest.approx(free_steps[0].gradient_norm)
    length = math.sqrt(sum(float(parameter.grad.square().sum()) for parameter in clipped.parameters()))
    assert length == pytest.approx(0.01, rel=1e-3)
    loose = linear()
    run_epoch(loose, [batch(4, 2)], clip_norm=1e6)
    assert same_weights(loose, free)


def test_overflowing_gradient_of_half_precision_is_skipped_and_counted():
    module = linear()
    state = trained(module, precision=torch.float16)
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)  # the scaled gradient overflows float32 too
    sums = EpochSums()
    steps: list[StepMetrics] = []
    train_epoch(state, [batch(4, 2)], sums, steps.append)
    assert same_weights(module, linear())
    assert (sums.steps, sums.skipped, sums.gradient_norm) == (1, 1, 0)
    assert math.isfinite(steps[0].loss)
    assert sums.means()["skipped_steps"] == 1


def test_moving_average_follows_each_step():
    module = linear()
    average = MovingAverage(module, 0.75)
    expected = [parameter.detach().clone() for parameter in module.parameters()]

    def follow(step: StepMetrics) -> None:
        for mean, parameter in zip(expected, module.parameters(), strict=True):
            mean.mul_(0.75).add_(parameter.detach(), alpha=0.25)

    run_epoch(module, [batch(4, 2), batch(4, 3)], follow, average=average)
    for mean, parameter in zip(expected, average.module.parameters(), strict=True):
        torch.testing.assert_close(parameter, mean)
    assert not same_weights(average.module, module)


def test_sums_continue_from_a_state():
    whole = run_epoch(linear(), [batch(4, 2), batch(3, 3)])
    state, sums = trained(linear()), EpochSums()
    train_epoch(state, [batch(4, 2)], sums)
    train_epoch(state, [batch(3, 3)], again := EpochSums(*sums.values()))
    assert again == whole


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("precision", [None, torch.float16])
def test_non_finite_loss_stops_before_the_step_and_names_parts_and_images(value, precision):
    spoiled = batch(4, 3)._replace(rows=torch.tensor([5, 9, 7, 8]))
    spoiled.inputs[1, 2] = value
    module, untouched = linear(), linear()
    run_epoch(untouched, [batch(4, 2)], precision=precision)
    steps: list[StepMetrics] = []
    with pytest.raises(
        NonFiniteLossError, match=r"^loss (nan|inf), rank (nan|inf), diversity \d[\d.]*, regularizer (nan|inf)$"
    ) as caught:
        run_epoch(module, [batch(4, 2), spoiled, batch(4, 4)], steps.append, precision=precision)
    assert caught.value.rows.tolist() == [5, 9, 7, 8]
    assert same_weights(module, untouched)  # the first step was taken, the second was not
    assert len(steps) == 1


def test_message_names_the_non_finite_one_of_accumulated_batches():
    spoiled = batch(2, 3, 0.5, ends_step=False)._replace(rows=torch.tensor([5, 9]))
    spoiled.inputs[0, 0] = math.nan
    module = linear()
    with pytest.raises(NonFiniteLossError, match=r"^loss nan, ") as caught:
        run_epoch(module, [batch(2, 2, 0.25, ends_step=False), spoiled, batch(2, 4, 0.25)])
    assert caught.value.rows.tolist() == [5, 9]
    assert same_weights(module, linear())


@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.1}])
def test_step_reads_from_the_device_once(monkeypatch, options):
    """Read once however many batches are accumulated, so that a GPU does not wait for the host."""
    reads: list[str] = []

    def counted(name: str, plain: Any) -> Any:
        def method(*arguments: Any) -> Any:
            reads.append(name)
            return plain(*arguments)

        return method

    for name in ("cpu", "item", "tolist", "numpy", "__float__", "__int__", "__bool__"):
        monkeypatch.setattr(Tensor, name, counted(name, getattr(Tensor, name)))
    module = linear()
    optimizer = torch.optim.SGD(parameter_groups(module, 0.02, 0.05))  # Adam counts its steps on the CPU
    state = Learner(module, criterion(), optimizer, make_schedule("constant", optimizer, 2), CPU, **options)
    parts = [batch(2, seed, 0.25, ends_step=seed == 3) for seed in range(4)]
    reads.clear()
    train_epoch(state, parts * 2, EpochSums())
    assert reads == ["tolist", "tolist"]


@pytest.fixture
def process_group(tmp_path):
    """A group of one process: DistributedDataParallel needs one."""
    dist = pytest.importorskip("torch.distributed")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("compiled", [False, True])
def test_processes_exchange_gradients_once_a_step(process_group, monkeypatch, compiled):
    """A compiled module is no DistributedDataParallel, and must not lose no_sync."""
    entered = []
    no_sync = DistributedDataParallel.no_sync
    monkeypatch.setattr(DistributedDataParallel, "no_sync", lambda self: entered.append(1) or no_sync(self))
    ours, theirs = linear(), linear()
    ddp = Processes(0, 2).wrap(ours, CPU)
    forward = torch.compile(ddp, backend="eager") if compiled else ddp
    parts = [batch(2, seed, 0.25, ends_step=seed == 3) for seed in range(4)]
    run_epoch(ours, parts, forward=forward, ddp=ddp)
    assert len(entered) == 3
    run_epoch(theirs, parts)
    torch.testing.assert_close(list(ours.parameters()), list(theirs.parameters()))


def test_message_names_the_non_finite_part():
    loss = SDLLoss(1.0, wordvec_array=torch.eye(2))
    module = nn.Linear(2, 4, bias=False)
    with torch.no_grad():  # principal vectors (2e20, 0) and (-2e20, 0): finite scores, an infinite variance
        module.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]))
    one = TrainBatch(torch.tensor([[2e20, 0.0]]), torch.tensor([[1, 0]]), torch.tensor([3]))
    with pytest.raises(NonFiniteLossError, match=r"^loss inf, rank 0, diversity 1, regularizer inf$"):
        run_epoch(module, [one], loss=loss)


def test_non_finite_gradient_stops_without_a_scaler():
    module = nn.Sequential(linear(), nn.Identity())
    module[1].register_full_backward_pre_hook(lambda layer, gradients: (gradients[0] * math.inf,))
    with pytest.raises(NonFiniteLossError, match=r"^the loss is finite, the norm of its gradient is (nan|inf)"):
        run_epoch(module, [batch(4, 2)])
    assert same_weights(module[0], linear())
