"""The output folder of a run: last, best and further checkpoints, the log, and files of an earlier run."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from src.checkpoint import CheckpointInfo, ModelConfig, load_checkpoint
from src.errors import UserError
from src.training.run_folder import Candidate, RunFolder
from src.utils.files import atomic_write
from src.utils.manifest import NAME as MANIFEST
from tests.helpers import SIZE, TINY, make_toy_split, tiny_model
from tests.script_helpers import snapshot
from tests.state_helpers import log_entry

PLANNED = ("log.jsonl", "state.pt", "state-previous.pt", "report.html", "model-last.ckpt", "model-last.ckpt.sha256")


class Run:
    """A run folder with its log and its best epochs."""

    def __init__(self, path: Path, **options: Any) -> None:
        entries = options.pop("entries", ())
        flags = {name: options.pop(name) for name in ("resume", "overwrite", "resumed", "inputs") if name in options}
        self.path = path
        self.folder = RunFolder(path, half=True, **options)
        self._open = ExitStack()
        self._open.enter_context(self.folder.locked())
        try:
            self.folder.check(PLANNED, **flags)
            self.folder.start(resumed=flags.get("resumed"), entries=entries)
        except UserError:
            self._open.close()
            raise
        self.entries: list[dict[str, Any]] = []
        self.best: dict[str, tuple[float, int]] = {}

    def end(self) -> Run:
        self._open.close()
        return self

    def save(self) -> Run:
        """Save the first state, with which the folder holds this run."""
        with atomic_write(self.path / "state.pt") as stream:
            stream.write(b"state of the new run")
        self.folder.begin()
        return self

    def record(self, epoch: int, ema: dict[str, float] | None = None, **choices: float) -> list[str]:
        self.entries.append({"epoch": epoch})
        candidates = [
            Candidate(suffix, tiny_model(), info(epoch, suffix), values)
            for suffix, values in (("", choices), ("-ema", ema))
            if values is not None
        ]
        return self.folder.record(self.entries, candidates, self.best)

    def files(self) -> list[str]:
        return files(self.path)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".sha256" and path.name != MANIFEST)


def earlier_run(folder: Path, **options: Any) -> Path:
    """Write a run of one epoch that is over."""
    run = Run(folder, **options)
    run.record(1, {"seen": 1.0}, seen=50.0)
    for name in ("state.pt", "state-previous.pt", "curves.png", "report.html"):
        with atomic_write(folder / name) as stream:
            stream.write(b"x")
    run.end()
    return folder


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
    earlier_run(tmp_path)
    before = (tmp_path / "log.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"--path_output .* holds a training run already; .*--resume .*--overwrite"):
        Run(tmp_path)
    assert (tmp_path / "log.jsonl").read_bytes() == before
    run = Run(tmp_path, overwrite=True).save()
    assert (tmp_path / "log.jsonl").read_text() == ""
    assert run.record(7, seen=1.0) == ["seen"]  # the old run's best does not count


def whole(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder with their content, but for the record of what the program wrote."""
    return {name: (folder / name).read_bytes() for name in snapshot(folder) if not Path(name).name.startswith(".sdl-")}


RESUMED = {"resume": True, "resumed": Path("state.pt"), "entries": [{"epoch": 1}]}


@pytest.mark.parametrize("flags", [{"overwrite": True}, RESUMED])
def test_earlier_run_stays_whole_until_the_new_one_has_a_state(flags, tmp_path):
    before = whole(earlier_run(tmp_path, every=1))
    written = []
    run = Run(tmp_path, overwrite=True)
    run.folder.when_begun(lambda: written.append("settings"))
    run.end()
    assert whole(tmp_path) == before
    assert written == []
    run = Run(tmp_path, **flags)  # it stays what it was for the next run
    assert whole(tmp_path) == before
    run.folder.when_begun(lambda: written.append("settings"))
    assert written == (["settings"] if "resume" in flags else [])
    if "overwrite" in flags:
        run.save()
        assert run.files() == ["log.jsonl", "state.pt"]
        assert written == ["settings"]
    run.end()
    assert sorted(path.name for path in tmp_path.glob(".sdl-*")) == [MANIFEST]


def test_run_killed_between_its_first_state_and_the_removal_of_the_earlier_one_removes_it_when_resumed(tmp_path):
    earlier_run(tmp_path, every=1)
    run = Run(tmp_path, overwrite=True)
    (tmp_path / "notes.txt").write_text("mine")
    run.folder.begin = lambda: None
    run.save().end()
    assert "model-epoch-0001.ckpt" in run.files()
    assert not run.folder.awaits_first_state()
    run = Run(tmp_path, resume=True, resumed=tmp_path / "state.pt")
    assert run.files() == ["log.jsonl", "notes.txt", "state.pt"]
    assert (tmp_path / "state.pt").read_bytes() == b"state of the new run"


def test_restart_of_a_run_that_had_no_state_yet_does_not_resume_the_one_it_is_to_replace(tmp_path):
    earlier_run(tmp_path)
    Run(tmp_path, overwrite=True).end()
    again = RunFolder(tmp_path)
    assert again.awaits_first_state()
    with again.locked():
        again.check(PLANNED, resume=True, overwrite=True)
        again.start(resumed=None)
        assert again.holds_earlier_run
    assert (tmp_path / "state.pt").exists()


def test_note_about_an_earlier_run_that_a_stranger_made_removes_nothing(tmp_path):
    earlier_run(tmp_path)
    (tmp_path / "mine.json").write_text('{"state": "x", "files": ["model-last.ckpt", "../mine", 3]}')
    (tmp_path / ".sdl-earlier-run.json").symlink_to("mine.json")
    before = whole(tmp_path)
    Run(tmp_path, **RESUMED).end()
    assert whole(tmp_path) == before
    with pytest.raises(UserError, match=r"--path_output .*: \.sdl-earlier-run\.json would be replaced"):
        Run(tmp_path, overwrite=True)
    assert whole(tmp_path) == before


def test_checkpoints_without_state_and_log_are_an_earlier_run_too(tmp_path):
    earlier_run(tmp_path)
    for name in ("state.pt", "state-previous.pt", "log.jsonl"):
        (tmp_path / name).unlink()
    before = whole(tmp_path)
    for flags in ({}, {"resume": True}):
        with pytest.raises(UserError, match=r"holds a training run .*--overwrite"):
            Run(tmp_path, **flags)
        assert whole(tmp_path) == before


@pytest.mark.parametrize("damage", ["", "{\n", '{"epoch": 1}\nmy notes'])
def test_damaged_log_is_put_aside_and_written_again_from_the_state(damage, tmp_path):
    earlier_run(tmp_path)
    (tmp_path / "log.jsonl").write_text(damage)
    with pytest.raises(UserError, match=r"holds a training run already; .*--resume .*--overwrite"):
        Run(tmp_path)
    assert (tmp_path / "log.jsonl").read_text() == damage
    Run(tmp_path, resumed=tmp_path / "state.pt", resume=True, entries=[{"epoch": 1}]).end()
    assert (tmp_path / "log.jsonl").read_text() == '{"epoch": 1}\n'
    (tmp_path / "log.jsonl").write_text("mine")
    Run(tmp_path, overwrite=True).save()
    assert (tmp_path / "log.jsonl").read_text() == ""
    aside = sorted(path.read_text() for path in tmp_path.glob("log-damaged-*.jsonl"))
    assert aside == sorted([damage, "mine"] if damage else ["mine"])  # a log is empty before its first line


@pytest.mark.parametrize("name", ["report.html", "model-last.ckpt"])
def test_message_advises_overwrite_only_where_that_would_be_accepted(name, tmp_path):
    earlier_run(tmp_path)
    (tmp_path / name).write_text("annotated by hand")
    for flags in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(UserError, match=rf"{name} would be replaced.*; move it away, or choose another folder"):
            Run(tmp_path, **flags)
    (tmp_path / name).rename(tmp_path / "mine")
    with pytest.raises(UserError, match=r"holds a training run already; .*--overwrite"):
        Run(tmp_path)
    Run(tmp_path, overwrite=True).save()


MINE = (
    "notes.txt",
    "holiday.png",
    "model-precious.ckpt",
    "model-epoch-0009.ckpt",
    "model-best-mine.ckpt",
    "state-old.pt",
)


def test_overwrite_removes_files_of_the_earlier_run_and_nothing_else(tmp_path):
    earlier_run(tmp_path, every=1)
    events = tmp_path / "tensorboard" / "steps" / "events.out.tfevents.1"
    events.parent.mkdir(parents=True)
    events.write_text("first step")
    run = Run(tmp_path, overwrite=True)
    run.folder.record_events(events)
    run.end()
    for name in (*MINE, "tensorboard/steps/events.out.tfevents.2"):
        (tmp_path / name).write_text("mine")
    events.write_text("first step, second step")
    Run(tmp_path, overwrite=True).save()
    assert files(tmp_path) == sorted([*MINE, "log.jsonl", "state.pt", "tensorboard"])
    assert [path.name for path in events.parent.iterdir()] == ["events.out.tfevents.2"]


@pytest.mark.parametrize("flags", [{}, {"overwrite": True}, {"resume": True}])
@pytest.mark.parametrize("name", PLANNED)
def test_file_that_no_run_wrote_is_named_before_anything_is_changed(flags, name, tmp_path):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=rf"--path_output .*: {name} would be replaced.*; move it away, or choose ano"):
        Run(tmp_path, **flags)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("flags", [{"overwrite": True}, {"resume": True, "resumed": Path("state.pt")}])
def test_file_that_was_edited_since_the_run_is_named(flags, tmp_path):
    earlier_run(tmp_path)
    (tmp_path / "report.html").write_text("annotated by hand")
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match=r"--path_output .*: report\.html would be replaced"):
        Run(tmp_path, **flags)
    assert snapshot(tmp_path) == before


def test_link_in_place_of_an_output_is_named_and_its_target_stays(tmp_path):
    (tmp_path / "mine.ckpt").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model-last.ckpt").symlink_to(tmp_path / "mine.ckpt")
    with pytest.raises(UserError, match=r"model-last\.ckpt would be replaced"):
        Run(tmp_path / "out")
    assert (tmp_path / "mine.ckpt").read_text() == "mine"


@pytest.mark.parametrize("flags", [{"overwrite": True}, {"resume": True, "resumed": Path("state-previous.pt")}])
def test_damaged_state_is_put_aside(flags, tmp_path):
    earlier_run(tmp_path)
    (tmp_path / "state.pt").write_text("damaged")
    assert list(Run(tmp_path, **flags).folder.foreign_states()) == []
    assert (tmp_path / "state-damaged-1.pt").read_text() == "damaged"
    assert not (tmp_path / "state.pt").exists()
    assert (tmp_path / "state-previous.pt").exists()


def test_input_of_the_run_is_not_replaced(tmp_path):
    earlier_run(tmp_path, every=1)
    for name in ("model-last.ckpt", "model-epoch-0001.ckpt"):  # one is written again, the other would be removed
        (tmp_path / "link").symlink_to(tmp_path / name)
        for path in (tmp_path / name, tmp_path / "link"):
            before = snapshot(tmp_path)
            with pytest.raises(UserError, match=rf"--path_output \({name}\) .*: would overwrite --model-path"):
                Run(tmp_path, overwrite=True, inputs=[("--model-path", path)])
            assert snapshot(tmp_path) == before
        (tmp_path / "link").unlink()


def test_second_run_is_refused_while_the_first_lives(tmp_path):
    first = Run(tmp_path / "out")
    for flags in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(UserError, match=r"--path_output .*: another run is writing this folder"):
            Run(tmp_path / "out", **flags)
    first.record(1, seen=1.0)
    first.end()
    Run(tmp_path / "out", overwrite=True).end()


def test_folder_of_a_run_that_was_refused_is_not_left_behind(tmp_path):
    (tmp_path / "mine").touch()
    with pytest.raises(UserError), RunFolder(tmp_path / "out").locked():
        raise UserError("a mistake")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_pruning_removes_only_what_the_run_wrote(tmp_path):
    run = Run(tmp_path, every=1, keep=2)
    (tmp_path / "model-epoch-0007.ckpt").write_text("mine")
    for epoch in (1, 2, 3):
        run.record(epoch, seen=1.0)
    (tmp_path / "model-epoch-0002.ckpt").write_text("mine too")
    run.record(4, seen=1.0)
    kept = [name for name in run.files() if name.startswith("model-epoch")]
    assert kept == [f"model-epoch-000{epoch}.ckpt" for epoch in (2, 3, 4, 7)]


def test_run_without_a_finished_epoch_is_replaced(tmp_path):
    Run(tmp_path).end()
    Run(tmp_path).record(1, seen=50.0)


def test_resume_removes_only_temporary_files(tmp_path):
    earlier_run(tmp_path)
    whole = files(tmp_path)
    for name in (".model-last.ckpt.abc.tmp", ".sdl-abcd1234.tmp"):  # of an earlier version, and of this one
        (tmp_path / name).write_text("half")
    (tmp_path / "mine.tmp").write_text("mine")
    (tmp_path / ".mine.abc.tmp").write_text("mine")
    run = Run(tmp_path, resumed=tmp_path / "state.pt")
    assert run.files() == sorted([*whole, "mine.tmp", ".mine.abc.tmp"])


# Folders of versions that kept no manifest


def folder_of_an_earlier_version(folder: Path) -> Path:
    """Write the files of a run that can be recognised, and two that cannot."""
    run = Run(folder)
    run.record(1, seen=50.0)
    run.folder.write_log([log_entry(1)])
    run.end()
    (folder / MANIFEST).unlink()
    torch.save({"format": "sdl-training-state/2"}, folder / "state.pt")
    Figure().savefig(folder / "curves.png")  # today's curves name this program instead
    (folder / "model-best-mine.ckpt").write_text("mine")
    (folder / "holiday.png").write_text("mine")
    return folder


def test_run_of_an_earlier_version_is_replaced_by_what_its_files_hold(tmp_path):
    folder_of_an_earlier_version(tmp_path)
    with pytest.raises(UserError, match=r"holds a training run already"):
        Run(tmp_path)
    run = Run(tmp_path, overwrite=True).save()
    assert run.files() == ["holiday.png", "log.jsonl", "model-best-mine.ckpt", "state.pt"]


@pytest.mark.parametrize("name", ["report.html", "log.jsonl", "model-last.ckpt", "state.pt"])
def test_file_in_a_folder_of_an_earlier_version_that_no_run_wrote_is_named(name, tmp_path):
    folder_of_an_earlier_version(tmp_path)
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=rf"--path_output .*: {name} would be replaced"):
        Run(tmp_path, overwrite=True)
    assert (tmp_path / name).read_text() == "mine"
    assert (tmp_path / "model-best-seen.ckpt").exists()


def test_output_folder_below_a_file_is_a_user_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--path_output .*: cannot be written: .*; choose another place"):
        Run(tmp_path / "file" / "run")
