"""Names of the files of a training run, and how to recognise those of versions that kept no manifest."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from src.config.recipes import SETTINGS_HEAD
from src.config.train import OutputSettings, SelectionSettings
from src.errors import UserError
from src.models.state_files import read_state_file
from src.utils.digest import SUFFIX, check_digest

LOG, STATE, PREVIOUS = "log.jsonl", "state.pt", "state-previous.pt"
SETTINGS, CURVES, REPORT = "settings.toml", "curves.png", "report.html"
EVENTS = "tensorboard"
EMA = "-ema"
_FIXED = (STATE, PREVIOUS, LOG, SETTINGS, CURVES, REPORT)
_CHECKPOINT = re.compile(rf"model-(last|epoch-\d+|best-[\w-]+)({EMA})?\.ckpt")
_EVENT = re.compile(rf"{EVENTS}/(steps|epochs)/events\.out\.tfevents\.[^/]+")
_OLD_TEMPORARY = re.compile(rf"\.({'|'.join(map(re.escape, _FIXED))}|{_CHECKPOINT.pattern}({SUFFIX})?)\.\w+\.tmp")


def is_run_file(name: str) -> bool:
    """Return whether a training run writes files of this name, relative to its folder, with slashes."""
    return name in _FIXED or is_event_file(name) or bool(_CHECKPOINT.fullmatch(name.removesuffix(SUFFIX)))


def is_event_file(name: str) -> bool:
    """Return whether a file of this name grows while TensorBoard events are logged."""
    return bool(_EVENT.fullmatch(name))


def is_epoch_checkpoint(name: str) -> bool:
    """Return whether a file of this name is the checkpoint of ``--save-epochs``, or its side file."""
    return name.startswith("model-epoch-") and bool(_CHECKPOINT.fullmatch(name.removesuffix(SUFFIX)))


def epoch_checkpoint(epoch: int) -> str:
    """Return the name of the checkpoint of an epoch, without suffixes."""
    return f"model-epoch-{epoch:04d}"


def planned_files(output: OutputSettings, selection: SelectionSettings, num_epochs: int, ema: bool) -> list[str]:
    """List the names that a run will write, but for those of TensorBoard, which are new in every run."""
    suffixes = ("", EMA) if ema else ("",)
    stems = [f"model-last{suffix}" for suffix in suffixes]
    criteria = ("zero_shot", "generalized") if selection.select_on == "test" else (selection.select_on,)
    stems += [f"model-best-{criterion}" for criterion in criteria]
    if output.save_epochs is not None:
        epochs = range(output.save_epochs, num_epochs + 1, output.save_epochs)
        stems += [epoch_checkpoint(epoch) + suffix for epoch in epochs for suffix in suffixes]
    return [*_FIXED, *(f"{stem}.ckpt{suffix}" for stem in stems for suffix in ("", SUFFIX))]


def run_files(folder: Path) -> Iterator[str]:
    """Yield the files of a folder, by name, that a run may have written."""
    for pattern in ("*", f"{EVENTS}/*/*"):
        for path in sorted(folder.glob(pattern)):
            name = path.relative_to(folder).as_posix()
            if is_run_file(name) and path.is_file() and not path.is_symlink():
                yield name


def files_of_earlier_version(folder: Path) -> list[str]:
    """List the files, by name, that are provably those of a run of a version that kept no manifest."""
    found = [name for name in run_files(folder) if _is_recognised(folder / name, name)]
    held_a_run = any(name in (STATE, PREVIOUS) or (name == LOG and (folder / name).stat().st_size) for name in found)
    return found if held_a_run else []


def remove_old_temporary(folder: Path) -> None:
    """Remove temporary files that killed runs of earlier versions left."""
    for file in folder.glob(".*.tmp"):
        if _OLD_TEMPORARY.fullmatch(file.name):
            file.unlink(missing_ok=True)


def _is_recognised(path: Path, name: str) -> bool:
    """Return whether the content of a file proves that a training run wrote it."""
    if is_event_file(name):
        return True
    with suppress(OSError, UserError, ValueError, RecursionError):
        if name in (STATE, PREVIOUS):
            return str(read_state_file(path).get("format")).startswith("sdl-training-state/")
        if name == LOG:
            return all(_is_log_line(line) for line in path.read_text(encoding="utf-8").splitlines())
        if name.endswith(SUFFIX):
            stem = re.escape(name.removesuffix(SUFFIX))
            return bool(re.fullmatch(rf"[0-9a-f]{{64}}  {stem}\n", path.read_text(encoding="utf-8")))
        if _CHECKPOINT.fullmatch(name):
            return check_digest(path)[1] is True
        with path.open("rb") as stream:
            start = stream.read(8192)
        marks = {SETTINGS: SETTINGS_HEAD.encode(), CURVES: b"\0Matplotlib version", REPORT: b"--unseen: #c4501b;"}
        return marks[name] in start
    return False


def _is_log_line(line: str) -> bool:
    entry = json.loads(line)
    return isinstance(entry, dict) and {"epoch", "train", "metrics"} <= entry.keys()
