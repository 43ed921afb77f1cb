"""A whole training run: epochs, evaluation, choosing the best, saving, stopping, going on."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from src.checkpoint import CheckpointInfo
from src.choices import DistBN
from src.data.order import EpochOrder, Portion, num_steps, portions
from src.embedding import Embedded
from src.errors import NonFiniteRunError, UserError
from src.loss_functions.SDL_loss import diversity_weight
from src.metrics import summary
from src.models import SDLModel
from src.models.sdl_model import with_head
from src.training.batches import Feed
from src.training.engine import EpochSums, NonFiniteLossError, Step, TrainBatch, Trained, train_epoch
from src.training.epoch_evaluation import Judge, Verdict
from src.training.run_folder import Candidate, RunFolder
from src.training.state import Progress, save_state
from src.training.tensorboard import Watcher
from src.utils.distributed import Processes
from src.utils.signals import StoppedBySignalError, StopRequest

_HISTOGRAM_EVERY = 50  # steps


@dataclass(frozen=True)
class Plan:
    """How long a run is and how its steps are made up.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a batch, in each process.
        accumulate: batches a step, in each process.
        early_stopping: end after this many epochs without a better one by the first choice; None: never.
        save_steps: save the state every so many steps.
        max_bad: unreadable training images at which the run ends.
        dist_bn: how running batch-norm statistics become equal over the processes before evaluating and saving.
    """

    epochs: int
    batch_size: int
    accumulate: int
    early_stopping: int | None
    save_steps: int
    max_bad: int
    dist_bn: DistBN = "reduce"


class Trainer:
    """One run, from where ``progress`` says to the end.

    Args:
        model: the whole model, of which ``trained.module`` is all or the head.
        trained: what a step works on.
        feed: batches and embeddings.
        judge: evaluates weights.
        plan: how long.
        progress: how far the run has come.
        folder: where everything goes; only the first process writes.
        describe: epoch and metrics -> the rest of a checkpoint.
        facts: settings and data, by which a state that is read later is known to fit.
        processes: those that train together.
        stop: whether the user asked to end.
        watcher: TensorBoard, or nothing.
    """

    def __init__(
        self,
        model: SDLModel,
        trained: Trained,
        feed: Feed,
        judge: Judge,
        plan: Plan,
        progress: Progress,
        folder: RunFolder,
        describe: Callable[[int, Mapping[str, float]], CheckpointInfo],
        facts: tuple[Mapping[str, Any], Mapping[str, Any]],
        processes: Processes,
        stop: StopRequest,
        watcher: Watcher,
    ) -> None:
        self._model, self._trained, self._feed, self._judge = model, trained, feed, judge
        self._plan, self._folder, self._describe, self._facts = plan, folder, describe, facts
        self._processes, self._stop, self._watcher = processes, stop, watcher
        self.progress = progress
        self._order = EpochOrder(feed.count, progress.seed)
        self.steps = steps_of(feed.count, plan, processes)
        self._shown: set[str] = set()
        self._evaluated: Embedded | None = None  # in the last epoch
        if not processes.is_first:  # a stored state has the first process's sums in their place
            progress.sums = EpochSums(*(progress.sums_elsewhere[processes.rank - 1] if progress.sums_elsewhere else ()))

    def run(self) -> None:
        """Train to the end.

        Raises:
            StoppedBySignalError: the user asked to end; the state is saved.
            NonFiniteRunError: the loss stopped being finite.
            UserError: something cannot be read or written.
        """
        self._note_bad(self._feed.bad, say=self._processes.is_first)  # every process knows all of them
        while not self.progress.finished:
            started = time.monotonic() - self.progress.seconds
            self._train(started)
            self.progress.seconds = time.monotonic() - started
            self._save()  # evaluation may be stopped, or fail; its batch norms are now equal in all processes
            self._judge_epoch(started)
            self._save()

    def final_embeddings(self) -> Embedded:
        """The last epoch's embeddings of the evaluation images, in the first process; every process must ask."""
        if self._evaluated is None:  # the run was over before
            return self._feed.embeddings("test", self._trained.module)
        return self._evaluated

    def _train(self, started: float) -> None:
        progress, plan = self.progress, self._plan
        self._evaluated = None  # gigabytes, on a large data set
        parts = portions(
            self._order.of(progress.epoch),
            plan.batch_size,
            accumulate=plan.accumulate,
            process=self._processes.rank,
            processes=self._processes.count,
            start=progress.step,
        )
        self._feed.set_training()
        hidden = None if self._processes.is_first else True
        title = f"epoch {progress.epoch}/{plan.epochs}"
        with tqdm(total=self.steps, initial=progress.step, desc=title, unit="step", disable=hidden, leave=False) as bar:

            def on_step(step: Step) -> None:
                progress.step += 1
                progress.lr = step.lr
                progress.seconds = time.monotonic() - started
                _show(bar, step)
                self._watch(step)
                stop = self._processes.any(bool(self._stop.signal_number))
                if stop or (progress.step % plan.save_steps == 0 and progress.step < self.steps):
                    self._save()
                if stop:
                    raise StoppedBySignalError(max(self._processes.gather(self._stop.signal_number)))

            try:
                train_epoch(self._trained, self._batches(parts), progress.sums, on_step)
            except NonFiniteLossError as error:
                names = ", ".join(self._feed.names(error.rows))
                raise NonFiniteRunError(
                    f"epoch {progress.epoch}, step {progress.step + 1}: {error}; images: {names}"
                ) from error

    def _batches(self, parts: list[Portion]) -> Iterator[TrainBatch]:
        """The epoch's batches. Each step has random numbers of its own for dropout, whatever came before it."""
        step = self.progress.step
        for index, batch in enumerate(self._feed.batches(self.progress.epoch, parts)):
            if index == 0 or parts[index - 1].ends_step:
                seed = [self.progress.seed % 2**64, self.progress.epoch, step, self._processes.rank]
                torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
                step += 1
            self._note_bad(batch.bad)
            if self._watcher.active and step % _HISTOGRAM_EVERY == 1:
                words = self._trained.criterion.wordvec_array.cpu()
                self._watcher.histogram(
                    self._global_step(step), "train/omega", diversity_weight(words, batch.targets == 1)
                )
            yield batch

    def _global_step(self, step: int) -> int:
        return (self.progress.epoch - 1) * self.steps + step

    def _watch(self, step: Step) -> None:
        values = step._asdict()
        rates = {f"lr/{name}": rate for name, rate in values.pop("lr").items()}
        self._watcher.step(
            self._global_step(self.progress.step), {f"train/{name}": value for name, value in values.items()} | rates
        )

    def _note_bad(self, messages: tuple[str, ...], *, say: bool = True) -> None:
        """Name unreadable images, each once a run, and end it where they are too many."""
        known = set(self.progress.bad)
        for message in messages:
            if message not in known:
                known.add(message)
                self.progress.bad.append(message)
                if say:
                    print(f"skipped: {message}", file=sys.stderr)
        if len(self.progress.bad) > self._plan.max_bad:
            raise UserError(
                f"--max_bad_images {self._plan.max_bad}: {len(self.progress.bad)} training images cannot be read, "
                f"the last one: {self.progress.bad[-1]}; mend the images, or allow more"
            )

    def _judge_epoch(self, started: float) -> None:
        """Evaluate, log and save the epoch, and go on to the next."""
        progress, epoch = self.progress, self.progress.epoch
        sums = self._total()
        verdicts = [("", self._model, self._judge(self._trained.module))]
        if self._trained.average is not None:
            average = self._trained.average.module
            verdicts.append(("-ema", with_head(self._model, average), self._judge(average)))
        self._evaluated = verdicts[0][2].embedded
        if self._processes.is_first:
            self._note_evaluation_bad(self._evaluated.bad)
            entry = self._entry(epoch, sums, [verdict for _, _, verdict in verdicts], time.monotonic() - started)
            progress.entries.append(entry)
            candidates = [
                Candidate(suffix, model, self._describe(epoch, verdict.metrics), verdict.choices)
                for suffix, model, verdict in verdicts
            ]
            improved = self._folder.record(progress.entries, candidates, progress.best)
            ema = {f"ema.{name}": value for name, value in entry.get("ema_metrics", {}).items()}
            self._watcher.epoch(epoch, {**entry["metrics"], **ema})
            if self._watcher.active:
                self._watcher.images(epoch, *self._judge.samples(self._evaluated))
            best = f"  (best {' and '.join(improved)} so far)" if improved else ""
            print(
                f"epoch {epoch}/{self._plan.epochs}  loss {entry['train']['loss']:.3f}  "
                f"{summary(entry['metrics'])}  {entry['seconds']:.1f} s{best}",
                flush=True,
            )
            self._advance(next(iter(verdicts[0][2].choices), None))
        self.progress = self._processes.from_first(progress)

    def _advance(self, first_choice: str | None) -> None:
        progress, plan = self.progress, self._plan
        best_epoch = 0 if first_choice is None else progress.best.get(first_choice, (0.0, 0))[1]
        waited = progress.epoch - best_epoch
        if progress.epoch < plan.epochs and plan.early_stopping is not None and waited >= plan.early_stopping:
            print(f"no better {first_choice} for {waited} epochs: stopping early", flush=True)
            progress.finished = True
        progress.finished = progress.finished or progress.epoch >= plan.epochs
        progress.epoch += 1
        progress.step = 0
        progress.sums, progress.sums_elsewhere = EpochSums(), []
        progress.seconds = 0.0

    def _entry(self, epoch: int, sums: EpochSums, verdicts: list[Verdict], seconds: float) -> dict[str, Any]:
        """The line of log.jsonl for one epoch."""
        entry: dict[str, Any] = {
            "epoch": epoch,
            "train": {**sums.means(), "bad": len(self.progress.bad)},
            "lr": self.progress.lr,
            "metrics": verdicts[0].metrics,
            "bad_evaluation_images": len(verdicts[0].embedded.bad),
            "seconds": round(seconds, 2),
        }
        if verdicts[0].selection:
            entry["selection"] = verdicts[0].selection
        if len(verdicts) > 1:
            entry["ema_metrics"] = verdicts[1].metrics
            if verdicts[1].selection:
                entry["ema_selection"] = verdicts[1].selection
        return entry

    def _note_evaluation_bad(self, messages: tuple[str, ...]) -> None:
        for message in messages:
            if message not in self._shown:
                self._shown.add(message)
                print(f"skipped: {message}", file=sys.stderr)

    def _total(self) -> EpochSums:
        """The epoch's sums over all processes. Each has taken the same steps, so those of the first count alone."""
        own = self.progress.sums
        counted = own if self._processes.is_first else replace(own, gradient_norm=0.0, steps=0.0, skipped=0.0)
        return EpochSums(*self._processes.sum(counted.values()))

    def _save(self) -> None:
        """Save the state, in which the first process has what all of them know.

        Batch norms and their moving average then have the same statistics in every process, here and after --resume.
        """
        progress = self.progress
        self._processes.distribute_bn(self._trained.module, self._plan.dist_bn)
        if self._trained.average is not None:
            self._processes.distribute_bn(self._trained.average.module, self._plan.dist_bn)
        if self._processes.count > 1:
            _, *progress.sums_elsewhere = self._processes.gather(progress.sums.values())
            bad = [message for of_process in self._processes.gather(progress.bad) for message in of_process]
            progress.bad[:] = dict.fromkeys(bad)  # each once
        if self._processes.is_first:
            save_state(self._folder.path, self._trained, progress, *self._facts)


def steps_of(count: int, plan: Plan, processes: Processes) -> int:
    """Steps an epoch."""
    return num_steps(count, plan.batch_size, accumulate=plan.accumulate, processes=processes.count)


def _show(bar: Any, step: Step) -> None:
    """One step on the progress bar."""
    rate = max(step.lr.values())
    bar.set_postfix_str(
        f"loss {step.loss:.2f} rank {step.rank:.2f} omega {step.diversity:.2f} reg {step.regularizer:.2f} "
        f"lr {rate:.1e}",
        refresh=False,
    )
    bar.update()
