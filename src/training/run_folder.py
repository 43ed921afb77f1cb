"""Output folder of a training run: whose files are replaced, log, checkpoints and state."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

from src.checkpoint import CheckpointInfo, save_checkpoint
from src.config.train import OutputSettings
from src.errors import UserError
from src.models import SDLModel
from src.training.earlier_run import EarlierRun
from src.training.run_files import (
    LOG,
    PREVIOUS,
    STATE,
    epoch_checkpoint,
    files_of_earlier_version,
    is_epoch_checkpoint,
    is_event_file,
    remove_old_temporary,
    run_files,
)
from src.utils.distributed import Processes
from src.utils.files import atomic_write, check_writable, refuse_inputs
from src.utils.manifest import Manifest, digest_of


class Candidate(NamedTuple):
    """Weights of an epoch that may be the best: the model itself, or its moving average.

    Attributes:
        suffix: of the file name: empty, or ``-ema``.
        model: the weights.
        info: the rest of the checkpoint, with the metrics of these weights.
        criteria: name -> value, the larger the better, such as ``zero_shot`` -> F1@3 in percent.
    """

    suffix: str
    model: SDLModel
    info: CheckpointInfo
    criteria: Mapping[str, float]


class RunFolder:
    """Write the log and the checkpoints of a training run, and replace no file that is not a run's.

    ``log.jsonl``: one JSON line per epoch; ``model-last.ckpt``: the last epoch; ``model-best-<criterion>.ckpt``: the
    best epoch by each criterion; ``model-epoch-0005.ckpt``: further epochs; ``-ema`` in a name: the moving average.

    An earlier run that is replaced stays whole until the new run has saved its first state, before which it writes
    nothing else. From then on the folder holds the new run.

    Args:
        path: the folder.
        half: store weight matrices in half precision.
        every: keep the checkpoint of every N-th epoch; None: of none.
        keep: number of these to keep, the latest; None: all.

    Attributes:
        holds_earlier_run: whether it still holds the run that this one replaces.
        has_begun: whether it holds this run.
    """

    def __init__(self, path: Path, *, half: bool = False, every: int | None = None, keep: int | None = None) -> None:
        self.path = path
        self.manifest = Manifest(path)
        self._half, self._every, self._keep = half, every, keep
        self._earlier = EarlierRun(self.manifest)
        self.holds_earlier_run = self.has_begun = False
        self._awaiting: list[Callable[[], object]] = []

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out during the block, and record what is written; a folder without files is removed.

        Raises:
            UserError: another run holds the folder, or nothing can be written there.
        """
        is_new = not self.path.exists()
        check_writable(self.path / LOG, "--path_output")
        try:
            with self.manifest.lock("--path_output"):
                yield
        finally:
            if is_new:
                with suppress(OSError):
                    self.path.rmdir()

    def foreign_states(self) -> dict[str, str]:
        """Return the state files that no run in this folder left like this, and a message about each.

        Where there are no records, of an earlier version, their content has to prove what they are.
        """
        names = () if self._has_no_records() else (STATE, PREVIOUS)
        paths = self.manifest.foreign(self.path / name for name in names)
        return {path.name: f"{path} was damaged or replaced since a run wrote it" for path in paths}

    def _has_no_records(self) -> bool:
        return not any(self.manifest.knows(self.path / name) for name in run_files(self.path))

    def check(
        self,
        planned: Sequence[str],
        inputs: Iterable[tuple[str, Path]] = (),
        *,
        resumed: Path | None = None,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        """Check that a run can write here, before any work; the files of an earlier version's run are recorded.

        Args:
            planned: names that the run will write.
            inputs: (flag, file) that the run reads.
            resumed: state that the run goes on from, if any.
            resume, overwrite: the flags.

        Raises:
            UserError: the folder holds a run that would be lost, or a planned name is that of an input or of a file
                that no run wrote.
        """
        if self._has_no_records():
            for name in files_of_earlier_version(self.path):
                self.manifest.record(self.path / name, digest_of(self.path / name))
        # First what is in the way of every run, --overwrite or not
        paths = [self.path / name for name in planned if not self._will_be_put_aside(name)]
        self.manifest.refuse_foreign(paths, "--path_output")
        if resumed is None and not overwrite and self._holds_a_run():
            what = "without a state to resume from" if resume else "already"
            way = "" if resume else "--resume to resume it, or "
            raise UserError(
                f"--path_output {self.path} holds a training run {what}; choose another folder, or give {way}"
                "--overwrite to replace it"
            )
        replaced = {*planned, *(run_files(self.path) if resumed is None else ())}
        refuse_inputs({f"--path_output ({name})": self.path / name for name in sorted(replaced)}, inputs)

    def owns(self, name: str) -> bool:
        """Return whether a file was written by a run and is as it was then; TensorBoard's may have grown."""
        path = self.path / name
        if is_event_file(name):
            return self.manifest.knows(path) and not path.is_symlink()
        return self.manifest.owns(path)

    def _will_be_put_aside(self, name: str) -> bool:
        """Return whether a file is a state or log of this folder's run that is damaged, or was replaced."""
        return name in (STATE, PREVIOUS, LOG) and self.manifest.knows(self.path / name) and not self.owns(name)

    def start(self, *, resumed: Path | None, entries: Sequence[dict[str, Any]] = ()) -> None:
        """Make room for the run: put damaged files aside, and remove what a run without results left.

        What an earlier run has that is of use stays for :meth:`begin`.

        Args:
            resumed: state that the run goes on from, if any.
            entries: the log in it, which ``log.jsonl`` becomes.
        """
        remove_old_temporary(self.path)
        for name in (STATE, PREVIOUS, LOG):
            is_unfit = resumed is not None and name == STATE and name != resumed.name
            if is_unfit or self._will_be_put_aside(name):
                self._put_aside(self.path / name)
        self.holds_earlier_run = resumed is None and self._holds_a_run()
        if self.holds_earlier_run:
            self._earlier.note(filter(self.owns, run_files(self.path)))
        else:
            self._remove(self._earlier.left_over() if resumed is not None else list(run_files(self.path)))
            self._earlier.forget()
            self.write_log(entries)
            self.has_begun = True

    def begin(self) -> None:
        """Remove the earlier run, whose place the state of this run has taken; of use after the first state alone."""
        if self.holds_earlier_run:
            self.holds_earlier_run, self.has_begun = False, True
            self._remove(self._earlier.left_over())
            self._earlier.forget()
            self.write_log(())
            for action in self._awaiting:
                action()

    def when_begun(self, action: Callable[[], object]) -> None:
        """Call a function that writes files of this run: now, or once the folder holds it."""
        if self.holds_earlier_run:
            self._awaiting.append(action)
        else:
            action()

    def awaits_first_state(self) -> bool:
        """Return whether the last run here was to replace another, and stopped before its first state."""
        return self._earlier.is_there()

    def _holds_a_run(self) -> bool:
        """Return whether a run left more here than an empty log: what it is of use for."""
        return any(
            name.endswith((STATE, PREVIOUS, ".ckpt", LOG)) and (self.path / name).stat().st_size and self.owns(name)
            for name in run_files(self.path)
        )

    def _remove(self, names: Sequence[str]) -> None:
        for name in names:
            if self.owns(name):
                (self.path / name).unlink()
        for folder in {(self.path / name).parent for name in names if is_event_file(name)}:
            with suppress(OSError):  # something else is in it
                folder.rmdir()
                folder.parent.rmdir()

    def _put_aside(self, path: Path) -> None:
        """Rename a file that cannot be used: somebody may have a use for it, and a state must not become the backup."""
        number = 1
        while (aside := path.with_name(f"{path.stem}-damaged-{number}{path.suffix}")).exists():
            number += 1
        with suppress(FileNotFoundError):
            path.rename(aside)

    def record(
        self, entries: list[dict[str, Any]], candidates: list[Candidate], best: dict[str, tuple[float, int]]
    ) -> list[str]:
        """Log an epoch, the last of ``entries``, and save its checkpoints.

        Args:
            entries: the whole log.
            candidates: the weights of this epoch.
            best: criterion -> (value, epoch); updated here.

        Returns:
            The criteria by which this epoch is the best so far.
        """
        self.write_log(entries)
        epoch = entries[-1]["epoch"]
        for candidate in candidates:
            self._save(f"model-last{candidate.suffix}.ckpt", candidate)
            if self._every is not None and epoch % self._every == 0:
                self._save(f"{epoch_checkpoint(epoch)}{candidate.suffix}.ckpt", candidate)
        self._prune()
        improved = []
        for criterion in candidates[0].criteria:
            winner = max(candidates, key=lambda candidate: candidate.criteria[criterion])
            value = winner.criteria[criterion]
            if value > best.get(criterion, (-1.0, 0))[0]:
                best[criterion] = (value, epoch)
                self._save(f"model-best-{criterion}.ckpt", winner)
                improved.append(criterion)
        return improved

    def write_log(self, entries: Sequence[dict[str, Any]]) -> None:
        """Write ``log.jsonl``, unless it holds these entries already."""
        path = self.path / LOG
        content = "".join(json.dumps(entry, allow_nan=False) + "\n" for entry in entries).encode()
        if not path.is_file() or path.read_bytes() != content:
            with atomic_write(path) as stream:
                stream.write(content)

    def record_events(self, path: Path) -> None:
        """Note a file of TensorBoard, which grows during the run."""
        self.manifest.record(path, "")

    def _save(self, name: str, candidate: Candidate) -> None:
        save_checkpoint(self.path / name, candidate.model, candidate.info, half=self._half)

    def _prune(self) -> None:
        if self._keep is None:
            return
        written = [
            path.name
            for path in self.path.glob("model-epoch-*")
            if is_epoch_checkpoint(path.name) and self.manifest.knows(path)
        ]
        epochs = sorted({int(name.split("-")[2].partition(".")[0]) for name in written})
        outdated = {epoch_checkpoint(epoch) for epoch in epochs[: -self._keep]}
        for name in written:
            if name.partition(".")[0].removesuffix("-ema") in outdated:
                self.manifest.remove(self.path / name)


@contextmanager
def open_run_folder(settings: OutputSettings, processes: Processes) -> Iterator[RunFolder]:
    """Open the output folder of a run; the first process, which writes there, keeps other runs out during the block.

    Raises:
        UserError: as :meth:`RunFolder.locked`.
    """
    folder = RunFolder(settings.path_output, half=settings.half_weights, every=settings.save_epochs, keep=settings.keep)
    with folder.locked() if processes.is_first else nullcontext():
        yield folder
