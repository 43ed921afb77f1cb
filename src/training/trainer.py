"""Train a model: epochs, evaluation, checkpoints, and stopping in between."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from src.checkpoint import CheckpointInfo
from src.config.train import RunSettings
from src.data.order import MicroBatch, epoch_order, micro_batches, num_steps
from src.embedding import Embedded
from src.errors import NonFiniteRunError, UserError
from src.loss_functions.SDL_loss import diversity_weight
from src.metrics import summary
from src.models import SDLModel
from src.models.sdl_model import with_head
from src.training.batches import BatchSource
from src.training.engine import EpochSums, Learner, NonFiniteLossError, StepMetrics, TrainBatch, train_epoch
from src.training.epoch_evaluation import EpochEvaluator, EpochMetrics
from src.training.progress import TrainState, is_finished, without_improvement
from src.training.run_folder import Candidate, RunFolder
from src.training.state import RunIdentity, save_state
from src.training.tensorboard import Logger
from src.utils.distributed import Processes
from src.utils.progress import warn_about_bad_images
from src.utils.signals import StoppedBySignalError, StopRequest

_HISTOGRAM_EVERY = 50  # steps


@dataclass(frozen=True)
class TrainComponents:
    """Parts of a training run.

    Attributes:
        model: the whole model; ``learner.module`` is all of it, or its head.
        learner: module, loss and optimiser.
        source: training batches and embeddings.
        evaluator: evaluates weights.
        folder: output folder; only the first process writes.
        identity: settings and data, stored in the state.
        describe: epoch and metrics -> info of the checkpoint.
        max_bad_images: number of unreadable training images that are tolerated.
    """

    model: SDLModel
    learner: Learner
    source: BatchSource
    evaluator: EpochEvaluator
    folder: RunFolder
    identity: RunIdentity
    describe: Callable[[int, Mapping[str, float]], CheckpointInfo]
    max_bad_images: int


class Trainer:
    """Train from ``state`` to the end of the run.

    Args:
        settings: length of the run and size of its steps.
        components: of the run.
        state: where to start; it is updated.
        processes: the processes that train together.
        stop: request to stop the run.
        logger: TensorBoard or nothing.
    """

    def __init__(
        self,
        settings: RunSettings,
        components: TrainComponents,
        state: TrainState,
        processes: Processes,
        stop: StopRequest,
        logger: Logger,
    ) -> None:
        self._settings, self._parts, self.state = settings, components, state
        self._processes, self._stop, self._logger = processes, stop, logger
        self._num_steps = steps_per_epoch(components.source.count, settings, processes)
        self._warned: set[str] = set()
        self._evaluated: Embedded | None = None  # of the last epoch
        if not processes.is_first:  # ``sums`` of a restored state are those of all processes
            state.sums = EpochSums()

    def run(self) -> None:
        """Train to the end.

        Raises:
            StoppedBySignalError: a stop was requested; the state is saved.
            NonFiniteRunError: the loss is not finite.
            UserError: something cannot be read or written.
        """
        self._note_bad(self._parts.source.bad, quiet=not self._processes.is_first)  # known to every process
        while not self.state.finished:
            started = time.monotonic() - self.state.seconds
            self._train_epoch(started)
            self.state.seconds = time.monotonic() - started
            self._save()  # evaluation may fail or be stopped; it also needs equal batch norms in all processes
            self._evaluate_epoch(started)
            self._save()

    def final_embeddings(self) -> Embedded:
        """Return the embeddings of the evaluation images in the last epoch; every process must call this."""
        if self._evaluated is None:  # the run had already finished
            return self._parts.source.embeddings("test", self._parts.learner.module)
        return self._evaluated

    def _train_epoch(self, started: float) -> None:
        """Train for the rest of the epoch, which has started at this monotonic time."""
        state, settings, learner, source = self.state, self._settings, self._parts.learner, self._parts.source
        self._evaluated = None  # gigabytes for a large data set
        own_batches = micro_batches(
            epoch_order(source.count, state.seed, state.epoch),
            settings.batch_size,
            accumulate=settings.accumulate,
            process=self._processes.rank,
            processes=self._processes.count,
            start=state.step,
        )
        source.set_training()
        title, hidden = f"epoch {state.epoch}/{settings.num_epochs}", None if self._processes.is_first else True
        with tqdm(
            total=self._num_steps, initial=state.step, desc=title, unit="step", disable=hidden, leave=False
        ) as bar:

            def on_step(metrics: StepMetrics) -> None:
                state.step += 1
                state.lr = metrics.lr
                state.seconds = time.monotonic() - started
                bar.set_postfix_str(_format(metrics), refresh=False)
                bar.update()
                self._log_step(metrics)
                stopped_by = max(self._processes.gather(self._stop.signal_number))
                if stopped_by or (state.step % settings.save_steps == 0 and state.step < self._num_steps):
                    self._save()
                if stopped_by:
                    raise StoppedBySignalError(stopped_by)

            try:
                train_epoch(learner, self._load(own_batches), state.sums, on_step)
            except NonFiniteLossError as error:
                where, names = f"epoch {state.epoch}, step {state.step + 1}", ", ".join(source.names(error.rows))
                raise NonFiniteRunError(f"{where}: {error}; images: {names}") from error

    def _load(self, own_batches: list[MicroBatch]) -> Iterator[TrainBatch]:
        """Load the batches. Each step seeds the random numbers of dropout, to be independent of earlier steps."""
        state, step = self.state, self.state.step
        for index, batch in enumerate(self._parts.source.batches(state.epoch, own_batches)):
            if index == 0 or own_batches[index - 1].ends_step:
                seed = [state.seed % 2**64, state.epoch, step, self._processes.rank]
                torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
                step += 1
            self._note_bad(batch.bad)
            if self._logger.active and step % _HISTOGRAM_EVERY == 1:
                words = self._parts.learner.criterion.wordvec_array.cpu()
                omega = diversity_weight(words, batch.targets == 1)
                self._logger.histogram(self._global_step(step), "train/omega", omega)
            yield batch

    def _global_step(self, step: int) -> int:
        return (self.state.epoch - 1) * self._num_steps + step

    def _log_step(self, metrics: StepMetrics) -> None:
        values = metrics._asdict()
        rates = {f"lr/{name}": rate for name, rate in values.pop("lr").items()}
        scalars = {f"train/{name}": value for name, value in values.items()}
        self._logger.step(self._global_step(self.state.step), scalars | rates)

    def _note_bad(self, messages: Iterable[str], *, quiet: bool = False) -> None:
        """Count and print unreadable training images, each once per run, and stop if there are too many."""
        known = set(self.state.bad)
        new = [message for message in dict.fromkeys(messages) if message not in known]
        self.state.bad += new
        if not quiet:
            warn_about_bad_images(tuple(new), known)
        if len(self.state.bad) > self._parts.max_bad_images:
            raise UserError(
                f"--max_bad_images {self._parts.max_bad_images}: {len(self.state.bad)} training images cannot be read, "
                f"the last one: {self.state.bad[-1]}; repair the images, or allow more"
            )

    def _evaluate_epoch(self, started: float) -> None:
        """Evaluate the epoch, save its checkpoints, and advance the state to the next one."""
        state, parts = self.state, self._parts
        sums = self._total_sums()
        evaluated = [("", parts.model, parts.evaluator(parts.learner.module))]
        if parts.learner.average is not None:
            average = parts.learner.average.module
            evaluated.append(("-ema", with_head(parts.model, average), parts.evaluator(average)))
        result = evaluated[0][2]
        self._evaluated = result.embedded
        if self._processes.is_first:
            warn_about_bad_images(result.embedded.bad, self._warned)
            entry = self._log_entry(sums, [metrics for _, _, metrics in evaluated], time.monotonic() - started)
            state.entries.append(entry)
            candidates = [
                Candidate(suffix, model, parts.describe(state.epoch, metrics.metrics), metrics.criteria)
                for suffix, model, metrics in evaluated
            ]
            improved = parts.folder.record(state.entries, candidates, state.best)
            self._report_epoch(entry, improved)
            self._advance()
        self.state = self._processes.from_first(state)

    def _report_epoch(self, entry: dict[str, Any], improved: list[str]) -> None:
        """Print the epoch, and log it to TensorBoard."""
        epoch = entry["epoch"]
        ema = {f"ema.{name}": value for name, value in entry.get("ema_metrics", {}).items()}
        self._logger.epoch(epoch, {**entry["metrics"], **ema})
        if self._logger.active and self._evaluated is not None:
            self._logger.images(epoch, *self._parts.evaluator.samples(self._evaluated))
        best = f"  (best {' and '.join(improved)} so far)" if improved else ""
        print(
            f"epoch {epoch}/{self._settings.num_epochs}  loss {entry['train']['loss']:.3f}  "
            f"{summary(entry['metrics'])}  {entry['seconds']:.1f} s{best}",
            flush=True,
        )

    def _advance(self) -> None:
        """Go to the next epoch, or finish."""
        state, settings = self.state, self._settings
        state.finished = is_finished(state, state.epoch, settings.num_epochs, settings.early_stopping)
        if state.finished and state.epoch < settings.num_epochs:
            waited, criterion = without_improvement(state, state.epoch), next(iter(state.best), None)
            print(f"no better {criterion} for {waited} epochs: stopping early", flush=True)
        state.epoch += 1
        state.step, state.seconds = 0, 0.0
        state.sums = EpochSums()

    def _log_entry(self, sums: EpochSums, evaluated: list[EpochMetrics], seconds: float) -> dict[str, Any]:
        """Return the line of log.jsonl for the epoch."""
        entry: dict[str, Any] = {
            "epoch": self.state.epoch,
            "train": {**sums.means(), "bad": len(self.state.bad)},
            "lr": self.state.lr,
            "metrics": evaluated[0].metrics,
            "bad_evaluation_images": len(evaluated[0].embedded.bad),
            "seconds": round(seconds, 2),
        }
        for prefix, result in zip(("", "ema_"), evaluated, strict=False):
            entry[f"{prefix}metrics"] = result.metrics
            if result.selection:
                entry[f"{prefix}selection"] = result.selection
        return entry

    def _total_sums(self) -> EpochSums:
        """Sum over all processes; they take the same steps, so those of the first process count alone."""
        own = self.state.sums
        counted = own if self._processes.is_first else replace(own, gradient_norm=0.0, steps=0.0, skipped=0.0)
        return EpochSums(*self._processes.sum(counted.values()))

    def _save(self) -> None:
        """Save the state; batch norms then have the same statistics in every process, as after --resume."""
        state, learner, processes = self.state, self._parts.learner, self._processes
        processes.distribute_bn(learner.module, self._settings.dist_bn)
        if learner.average is not None:
            processes.distribute_bn(learner.average.module, self._settings.dist_bn)
        if processes.count > 1:
            state.bad[:] = dict.fromkeys(message for bad in processes.gather(state.bad) for message in bad)
        saved = replace(state, sums=self._total_sums())
        if processes.is_first:
            folder = self._parts.folder
            replaces = folder.holds_earlier_run
            save_state(folder.path, learner, saved, self._parts.identity, folder.manifest, replaces=replaces)
            folder.begin()


def steps_per_epoch(count: int, settings: RunSettings, processes: Processes) -> int:
    """Return the number of optimisation steps of an epoch over ``count`` images."""
    return num_steps(count, settings.batch_size, accumulate=settings.accumulate, processes=processes.count)


def _format(metrics: StepMetrics) -> str:
    """Format a step for the progress bar."""
    return (
        f"loss {metrics.loss:.2f} rank {metrics.rank:.2f} omega {metrics.diversity:.2f} "
        f"reg {metrics.regularizer:.2f} lr {max(metrics.lr.values()):.1e}"
    )
