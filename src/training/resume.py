"""Resume a training run from its saved state."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from src.errors import UserError, first_line
from src.models.state_files import read_state_file
from src.options import PRECISIONS
from src.training.engine import Learner
from src.training.learner_state import fit_learner
from src.training.progress import TrainState, check_plain, parse_progress
from src.training.run_files import PREVIOUS, STATE
from src.training.state import FORMAT, RunIdentity, StoredState
from src.utils.distributed import ALONE, Processes

_PARTS = ("module", "average", "optimizer", "scheduler", "scaler", "progress", "settings", "data")


class UnfitStateError(UserError):
    """A saved state is of another model than its settings say, or is damaged."""


def read_state(folder: Path, unfit: Mapping[str, str] = MappingProxyType({})) -> StoredState | None:
    """Read the latest intact state of a run; None if the folder has none.

    A file that is damaged or lacks a part is reported on standard error, and the one before it is used.

    Args:
        folder: of the run.
        unfit: file name -> why this file cannot be used, which is known already.

    Raises:
        UserError: there are files, but none can be used.
    """
    problems: list[str] = []
    for name in (STATE, PREVIOUS):
        path = folder / name
        if not path.is_file():
            continue
        try:
            if name in unfit:
                raise UserError(unfit[name])
            stored = _read_whole(path)
        except UserError as error:
            problems.append(str(error))
            continue
        if problems:
            print(f"resuming from {path}: {'; '.join(problems)}", file=sys.stderr)
        return stored
    if problems:
        raise _none_left(folder, problems)
    return None


def _none_left(folder: Path, problems: list[str]) -> UserError:
    return UserError(
        f"--resume: no state in {folder} can be read ({'; '.join(problems)}); to start a new run, move "
        "these files away and give --overwrite, or choose another --path_output"
    )


def _read_whole(path: Path) -> StoredState:
    content = read_state_file(path)
    if content.get("format") != FORMAT:
        raise UserError(f"{path} is no training state of this version")
    try:
        if missing := [part for part in _PARTS if part not in content]:
            raise ValueError(f"no {missing[0]}")
        for part in ("scheduler", "scaler", "settings", "data"):
            check_plain(content[part])
            if not isinstance(content[part], dict):
                raise ValueError(f"{part} of another form")
        if content["settings"].get("precision") not in PRECISIONS:
            raise ValueError("no precision")
        return StoredState(path, content, parse_progress(content["progress"]))
    except ValueError as error:
        raise UserError(f"{path} is no whole training state: {first_line(error)}") from error


def restore(stored: StoredState, learner: Learner, identity: RunIdentity, num_steps: int | None = None) -> TrainState:
    """Load a saved state into the learner, which stays as it is if the state does not fit.

    Args:
        stored: the state.
        learner: as at the start of the run.
        identity: settings and data of now.
        num_steps: of an epoch; None does not check the progress against it.

    Raises:
        UserError: flags, data or precision are not those of the run.
        UnfitStateError: the state is of another model, or is damaged.
    """
    content, progress = stored.content, stored.progress
    identity.check(stored)
    if bool(content["scaler"]) != learner.scaler.is_enabled():
        with_or_without = "with" if content["scaler"] else "without"
        raise UserError(
            f"--resume: the state was saved {with_or_without} a loss scaler; give the --precision of the run's start"
        )
    try:
        fitted = fit_learner(content, learner)
        steps = fitted.scheduler["last_epoch"]
        if num_steps is not None and steps != (progress.epoch - 1) * num_steps + progress.step:
            raise ValueError(f"{steps} steps in all, {progress.step} of {num_steps} in epoch {progress.epoch}")
    except Exception as error:  # odd kinds of tensors raise any type
        raise UnfitStateError(f"{stored.path} does not fit the run: {first_line(error)}") from error
    fitted.load(learner)
    return copy.deepcopy(progress)


def planned_epochs(stored: StoredState | None, num_epochs: int) -> int:
    """Return the number of epochs that the schedule is made for: that of the run's start.

    Under a constant schedule the run may go on for more; its warm-up stays as long as it was.
    """
    if stored is None:
        return num_epochs
    at_save = stored.content["settings"].get("num_epochs")
    return stored.progress.planned_epochs or (at_save if isinstance(at_save, int) and at_save > 0 else num_epochs)


def restore_latest(
    stored: StoredState, learner: Learner, identity: RunIdentity, num_steps: int, processes: Processes = ALONE
) -> tuple[StoredState, TrainState]:
    """Load a saved state into the learner, or the one before it if this one does not fit; every process calls this.

    Returns:
        (the state that was taken, the progress).

    Raises:
        UserError: flags, data or precision are not those of the run, or no state fits.
    """
    try:
        return stored, restore(stored, learner, identity, num_steps)
    except UnfitStateError as error:
        unfit = {stored.path.name: str(error)}
    earlier = processes.from_first(read_state(stored.path.parent, unfit) if processes.is_first else None)
    try:
        if earlier is None or _start_of(earlier) != _start_of(stored):
            raise UnfitStateError(f"{stored.path.parent / PREVIOUS} is of another run")
        return earlier, restore(earlier, learner, identity, num_steps)
    except UnfitStateError as error:
        raise _none_left(stored.path.parent, [*unfit.values(), str(error)]) from error


def _start_of(stored: StoredState) -> tuple[object, ...]:
    """Return what was used of a state before it was found unfit."""
    return stored.progress.seed, stored.content["settings"]["precision"], planned_epochs(stored, 0)
