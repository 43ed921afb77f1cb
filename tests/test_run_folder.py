"""The output folder of a run: last, best and further checkpoints, the log, and files of an earlier run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from src.checkpoint import CheckpointInfo, ModelConfig, load_checkpoint
from src.errors import UserError
from src.training.run_folder import Candidate, RunFolder
from tests.helpers import SIZE, TINY, make_toy_split, tiny_model


class Run:
    """A run folder with its log and its best epochs."""

    def __init__(self, path: Path, *, overwrite: bool = False, **options: Any) -> None:
        self.path = path
        self.folder = RunFolder(path, half=True, **options)
        self.folder.check(has_state=False, resume=False, overwrite=overwrite)
        self.folder.start(resumed=False)
        self.entries: list[dict[str, Any]] = []
        self.best: dict[str, tuple[float, int]] = {}

    def record(self, epoch: int, ema: dict[str, float] | None = None, **choices: float) -> list[str]:
        self.entries.append({"epoch": epoch})
        candidates = [
            Candidate(suffix, tiny_model(), info(epoch, suffix), values)
            for suffix, values in (("", choices), ("-ema", ema))
            if values is not None
        ]
        return self.folder.record(self.entries, candidates, self.best)

    def files(self) -> list[str]:
        return sorted(path.name for path in self.path.iterdir() if path.suffix != ".sha256")


def info(epoch: int, weights: str = "") -> CheckpointInfo:
    settings = {"epoch": epoch, "weights": weights}
    return CheckpointInfo("sdl", ModelConfig(TINY, 2, 4, SIZE), make_toy_split(), settings=settings)


def settings_in(path: Path) -> dict[str, Any]:
    return load_checkpoint(path)[1].settings


def test_last_epoch_and_best_by_each_criterion_are_kept(tmp_path):
    run = Run(tmp_path / "run")
    improved = [
        run.record(1, zero_shot=10.0, generalized=5.0),
        run.record(2, zero_shot=9.0, generalized=6.0),
        run.record(3, zero_shot=10.0, generalized=5.5),  # a tie is no improvement
    ]
    assert improved == [["zero_shot", "generalized"], ["generalized"], []]
    assert run.best == {"zero_shot": (10.0, 1), "generalized": (6.0, 2)}
    names = ("model-best-zero_shot.ckpt", "model-best-generalized.ckpt", "model-last.ckpt")
    assert [settings_in(tmp_path / "run" / name)["epoch"] for name in names] == [1, 2, 3]
    assert run.files() == sorted([*names, "log.jsonl"])


def test_value_of_zero_is_an_improvement(tmp_path):
    assert Run(tmp_path).record(1, zero_shot=0.0) == ["zero_shot"]


def test_moving_average_has_its_own_last_file_and_may_be_the_best(tmp_path):
    run = Run(tmp_path)
    run.record(1, {"seen": 7.0}, seen=6.0)
    assert settings_in(tmp_path / "model-best-seen.ckpt") == {"epoch": 1, "weights": "-ema"}
    run.record(2, {"seen": 6.5}, seen=8.0)
    assert settings_in(tmp_path / "model-best-seen.ckpt") == {"epoch": 2, "weights": ""}
    assert settings_in(tmp_path / "model-last-ema.ckpt") == {"epoch": 2, "weights": "-ema"}
    assert settings_in(tmp_path / "model-last.ckpt") == {"epoch": 2, "weights": ""}
    assert run.best == {"seen": (8.0, 2)}


def test_earlier_run_is_replaced_only_with_overwrite(tmp_path):
    Run(tmp_path).record(1, seen=50.0)
    before = (tmp_path / "log.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"--path_output .* holds a training run already; .*--resume .*--overwrite"):
        Run(tmp_path)
    assert (tmp_path / "log.jsonl").read_bytes() == before
    run = Run(tmp_path, overwrite=True)
    assert (tmp_path / "log.jsonl").read_text() == ""
    assert run.record(7, seen=1.0) == ["seen"]  # the old run's best does not count


def test_overwrite_removes_files_of_the_earlier_run_and_nothing_else(tmp_path):
    Run(tmp_path, every=1).record(1, {"seen": 1.0}, seen=50.0)
    for name in ("state.pt", "state-previous.pt", "curves.png", "report.html", "notes.txt"):
        (tmp_path / name).write_text("x")
    Run(tmp_path, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "notes.txt"]


def test_run_without_a_finished_epoch_is_replaced(tmp_path):
    Run(tmp_path)
    Run(tmp_path).record(1, seen=50.0)


def test_resume_removes_only_temporary_files(tmp_path):
    run = Run(tmp_path)
    run.record(1, seen=50.0)
    whole = run.files()
    (tmp_path / ".model-last.ckpt.abc.tmp").write_text("half")
    (tmp_path / "mine.tmp").write_text("mine")
    run.folder.check(has_state=True, resume=True, overwrite=False)
    run.folder.start(resumed=True)
    assert run.files() == sorted([*whole, "mine.tmp"])


def test_output_folder_below_a_file_is_a_user_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--path_output .*: cannot be written: .*; choose another place"):
        Run(tmp_path / "file" / "run")
