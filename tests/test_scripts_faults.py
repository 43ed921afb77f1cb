"""train.py under failures: damaged states, full disks, broken images, signals, killed processes."""

import contextlib
import itertools
import random
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch

from src.checkpoint import load_checkpoint
from src.data.dataset import TrainingImages
from src.data.images import read_image
from src.data.metadata import load_metadata
from src.data.parts import load_training_set
from src.data.transforms import eval_transform
from src.loss_functions.SDL_loss import SDLLoss
from src.models import SDLModel
from src.training.resume import read_state
from src.utils.digest import SUFFIX, check_digest
from src.utils.signals import StoppedBySignalError
from tests.script_helpers import (
    FULL,
    RUN_FILES,
    TINY,
    StopAt,
    attempt,
    copy_of,
    file_names,
    first_loss,
    log_of,
    logged_by,
    one_thread,
    same_run,
    snapshot,
    stored,
    train_frozen,
    train_here,
    user_error,
    weights_of,
)
from tests.training_kills import TrainingRuns

RUN = ("-b", 5, "--num-epochs", 3, "--lr", 1e-3)
STEPS = 5  # an epoch of the 24 training images


@pytest.fixture(scope="module")
def uninterrupted(sample, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted") / "out"
    train_here(sample, folder, *RUN)
    return folder


@pytest.fixture
def stopped(sample, tmp_path):
    """The same run, stopped in its second epoch with two states in its folder."""
    with logged_by(StopAt(STEPS + 3)):
        attempt(sample, tmp_path / "out", *RUN)
    assert {"state.pt", "state-previous.pt"} <= set(snapshot(tmp_path / "out"))
    return tmp_path / "out"


# The state


def test_damaged_state_falls_back_to_the_previous_one(stopped, uninterrupted, sample):
    content = bytearray((stopped / "state.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (stopped / "state.pt").write_bytes(content)
    finished = train_here(sample, stopped, *RUN, "--resume")
    (line,) = finished.stderr.splitlines()
    assert line.startswith(f"resuming from {stopped / 'state-previous.pt'}")
    assert f"{stopped / 'state.pt'} was damaged or replaced" in line
    same_run(stopped, uninterrupted)
    assert (stopped / "state-damaged-1.pt").read_bytes() == content  # kept, and it did not become the backup


# The output folder


@pytest.mark.parametrize(
    "mistake",
    [
        ("--model-path", "nothing.pth"),
        ("--model-name", "no_such_net"),
        ("--precision", "fp16"),
        ("--select-on", "seen", "--val-share", 0.01),
        ("--sync-bn",),
    ],
)
def test_mistake_costs_no_earlier_run(uninterrupted, sample, tmp_path, mistake):
    folder = Path(shutil.copytree(uninterrupted, tmp_path / "out"))
    before = snapshot(folder)
    user_error(attempt(sample, folder, *RUN, "--overwrite", *mistake))
    assert snapshot(folder) == before


def test_run_that_fails_before_its_first_state_costs_no_earlier_run(uninterrupted, sample, tmp_path):
    folder = Path(shutil.copytree(uninterrupted, tmp_path / "out"))
    before = snapshot(folder)
    failed = attempt(sample, folder, *RUN, "--lr", 1e20, "--overwrite", "--tensorboard")
    assert failed.returncode == 3
    after = snapshot(folder)
    assert {name: after[name] for name in before if not name.startswith(".sdl-")} == {
        name: facts for name, facts in before.items() if not name.startswith(".sdl-")
    }
    assert all(name.startswith(".sdl-") for name in after.keys() - before.keys())
    train_here(sample, folder, *RUN, "--resume")  # it had finished
    assert log_of(folder) == log_of(uninterrupted)
    assert not (folder / ".sdl-earlier-run.json").exists()


def test_restart_by_torchrun_before_the_first_state_does_not_resume_the_run_to_be_replaced(
    uninterrupted, sample, tmp_path, monkeypatch
):
    folder = Path(shutil.copytree(uninterrupted, tmp_path / "out"))
    command = (*RUN, "--num-epochs", 1, "--overwrite")
    assert attempt(sample, folder, *command, "--lr", 1e20).returncode == 3
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    train_here(sample, folder, *command)
    assert len(log_of(folder)) == 1
    before = snapshot(folder)
    train_here(sample, folder, *command)  # now it has a state of its own
    assert snapshot(folder)["model-last.ckpt"] == before["model-last.ckpt"]


@pytest.mark.parametrize("begun", [False, True])
def test_advice_after_ctrl_c_fits_what_the_folder_holds(uninterrupted, sample, tmp_path, monkeypatch, begun):
    folder = Path(shutil.copytree(uninterrupted, tmp_path / "out"))
    before = snapshot(folder)

    def stop(*arguments, **options):
        raise StoppedBySignalError(signal.SIGINT)

    with monkeypatch.context() as patch:
        if not begun:
            patch.setattr("src.training.setup.build_model", stop)
        with logged_by(StopAt(1)):
            stopped = attempt(sample, folder, *RUN, "--overwrite")
    assert stopped.returncode == 130
    assert ("--resume in place of --overwrite" if begun else "repeat the command") in stopped.stderr
    assert (snapshot(folder) == before) != begun


class Killed(BaseException):
    """Stand-in for SIGKILL: nothing catches it."""


def test_run_killed_while_replacing_another_does_not_resume_it(uninterrupted, sample, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(uninterrupted, tmp_path / "out"))
    unlink = Path.unlink

    def mortal(self, missing_ok=False):
        if self.suffix == ".ckpt":
            raise Killed
        unlink(self, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", mortal)
        with pytest.raises(Killed):
            attempt(sample, folder, *RUN, "--num-epochs", 1, "--overwrite")
    train_here(sample, folder, *RUN, "--num-epochs", 1, "--resume")
    assert {path.name for path in folder.iterdir()} == RUN_FILES - {"curves.png"}  # which are not drawn here
    for path in folder.glob("*.ckpt"):
        assert stored(path)["settings"]["epoch"] == 1


@contextlib.contextmanager
def files_of_at_most(size: int):
    """Fail writing larger files, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk_while_saving_a_state_keeps_the_previous_one(stopped, uninterrupted, sample):
    latest = (stopped / "state.pt").read_bytes()
    with files_of_at_most(len(latest) // 2):
        message = user_error(attempt(sample, stopped, *RUN, "--resume"))
    assert f"cannot write {stopped / 'state.pt'}: " in message
    assert (stopped / "state-previous.pt").read_bytes() == latest
    assert not list(stopped.glob(".*.tmp"))
    train_here(sample, stopped, *RUN, "--resume")
    same_run(stopped, uninterrupted)


def test_full_disk_while_saving_a_checkpoint_keeps_the_previous_one(sample, tmp_path):
    """The state of a head alone is smaller than the checkpoint of the whole model."""
    cache, folder = tmp_path / "cache", tmp_path / "out"
    train_frozen(sample, tmp_path / "uninterrupted", cache, 3, *RUN)
    with logged_by(StopAt(STEPS + 3)):
        frozen = ("--freeze-backbone", "--feature-cache", cache)
        assert attempt(sample, folder, *RUN, *frozen).returncode == 130
    sizes = [(folder / name).stat().st_size for name in ("state.pt", "model-last.ckpt")]
    before = weights_of(folder / "model-last.ckpt")
    with files_of_at_most(sum(sizes) // 2):
        message = user_error(attempt(sample, folder, *RUN, *frozen, "--resume"))
    assert f"cannot write {folder / 'model-last.ckpt'}: " in message
    assert not list(folder.glob(".*.tmp"))
    assert all(torch.equal(weights_of(folder / "model-last.ckpt")[key], before[key]) for key in before)
    train_frozen(sample, folder, cache, 3, *RUN, "--resume")
    same_run(folder, tmp_path / "uninterrupted")


# Images


def broken(data: Path, part: str, *numbers: int) -> list[Path]:
    """Make some images unreadable: the first one is truncated, the others are no images."""
    paths = [data / "images" / file_names(data, part)[number] for number in numbers]
    for index, path in enumerate(paths):
        path.write_bytes(path.read_bytes()[:200] if index == 0 else b"not an image")
    return paths


@pytest.mark.parametrize("frozen", [False, True])
def test_broken_images_are_reported_once_and_counted(sample, tmp_path, frozen):
    data = copy_of(sample, tmp_path / "data")
    bad = broken(data, "train", 2) + broken(data, "val", 2)
    flags = ("--freeze-backbone",) if frozen else ("-j", 2)
    for name in ("first", "second"):  # the second frozen run reads their names from the cache
        finished = train_here(data, tmp_path / name, "--num-epochs", 2, *flags)
        for path in bad:
            assert finished.stderr.count(str(path)) == 1
        assert len(finished.stderr.splitlines()) == 2
        for entry in log_of(tmp_path / name):
            assert entry["train"]["num_images"] == (23 if frozen else 24)  # left out, or another one in its place
            assert entry["train"]["bad"] == 1
            assert entry["bad_evaluation_images"] == 1
    if not frozen:
        same_run(tmp_path / "first", tmp_path / "second")


def test_replacement_image_has_its_own_labels(sample, tmp_path):
    """Compare one step over all images with a loop written by hand."""
    data = copy_of(sample, tmp_path / "data")
    broken(data, "train", 2, 7, 11)
    logged = first_loss(data, tmp_path / "out")
    metadata = load_metadata(data)
    training = load_training_set(metadata, None)
    images = TrainingImages(training.paths, eval_transform(32), seed=3)
    items = [images[(1, row)] for row in range(24)]
    rows = torch.tensor([row for _, row, _ in items])
    assert (rows != torch.arange(24)).sum() == 3
    transform = eval_transform(32)
    inputs = torch.stack([transform(read_image(training.paths[row])) for row in rows.tolist()])
    criterion = SDLLoss(weight=0.01, wordvec_array=metadata.split.word_vectors[:, list(metadata.split.seen)])
    model = load_checkpoint(tmp_path / "out" / "model-last.ckpt")[0]  # the weights that the step started from
    with torch.no_grad(), one_thread():
        loss = criterion(model.train()(inputs), training.targets.dense(rows))
    assert logged["loss"] == pytest.approx(loss.item(), rel=1e-4)


@pytest.mark.parametrize("frozen", [(), ("--freeze-backbone",)])
def test_too_many_broken_images_stop_the_run(sample, tmp_path, frozen):
    data = copy_of(sample, tmp_path / "data")
    bad = broken(data, "train", 2, 7, 11)
    message = user_error(attempt(data, tmp_path / "out", *RUN, *frozen, "--max_bad_images", 2))
    assert "--max_bad_images 2: 3 training images cannot be read" in message
    assert any(str(path) in message for path in bad)
    assert "repair the images, or allow more" in message
    train_here(data, tmp_path / "out", *RUN, *frozen, "--max_bad_images", 3, "--resume")
    train_here(data, tmp_path / "uninterrupted", *RUN, *frozen)  # ten are allowed at least
    same_run(tmp_path / "out", tmp_path / "uninterrupted")


def test_resumed_run_does_not_repeat_warnings_of_images(sample, tmp_path):
    data = copy_of(sample, tmp_path / "data")
    (path,) = broken(data, "train", 2)
    with logged_by(StopAt(STEPS + 2)):  # every image was read once
        assert attempt(data, tmp_path / "out", *RUN).stderr.count(str(path)) == 1
    finished = train_here(data, tmp_path / "out", *RUN, "--resume")
    assert finished.stderr == ""
    assert [entry["train"]["bad"] for entry in log_of(tmp_path / "out")] == [1, 1, 1]


# Numbers that are not finite


def test_non_finite_loss_stops_the_run(sample, tmp_path):
    finished = attempt(sample, tmp_path / "out", "--lr", 1e30)
    assert finished.returncode == 3
    (line,) = finished.stderr.splitlines()
    for word in ("not finite in epoch 1, step 2: ", "rank nan", "diversity ", "regularizer ", "lower --lr"):
        assert word in line
    _, names = line.split("images: ")
    assert names.count(".jpg") == 8  # the batch
    assert not (tmp_path / "out" / "model-last.ckpt").exists()


# Signals


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_stops_the_run_after_the_step(uninterrupted, sample, tmp_path, number, status):
    with logged_by(StopAt(7, number=number)):
        finished = attempt(sample, tmp_path / "out", *RUN)
    assert finished.returncode == status
    asked, ended = finished.stderr.split("\n\n")[-1].strip().splitlines()
    assert asked == "stopping after this step; interrupt again to stop at once"
    assert ended == f"train.py: stopped ({number.name}); resume with the same command and --resume"
    progress = stored(tmp_path / "out" / "state.pt")["progress"]
    assert (progress["epoch"], progress["step"]) == (2, 2)
    assert signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL)  # as before the run
    train_here(sample, tmp_path / "out", *RUN, "--resume")
    same_run(tmp_path / "out", uninterrupted)


def test_ctrl_c_while_features_are_computed(sample, tmp_path, monkeypatch):
    forward, calls = SDLModel.forward_features, []

    def interrupted(self, images):
        calls.append(len(images))
        if calls == [1, 8]:  # the size is tried with one image, then come the batches
            StopAt(0).step(0, {})
        return forward(self, images)

    monkeypatch.setattr(SDLModel, "forward_features", interrupted)
    finished = attempt(sample, tmp_path / "out", "--freeze-backbone", "--feature-cache", tmp_path / "cache")
    assert finished.returncode == 130
    assert calls == [1, 8]
    assert not (tmp_path / "cache").exists()


def test_second_ctrl_c_stops_at_once(uninterrupted, sample, tmp_path):
    with logged_by(StopAt(7, times=2)):
        finished = attempt(sample, tmp_path / "out", *RUN)
    assert finished.returncode == 130
    assert finished.stderr.splitlines()[-1] == "train.py: interrupted"
    progress = stored(tmp_path / "out" / "state.pt")["progress"]
    assert (progress["epoch"], progress["step"]) == (2, 0)  # nothing was saved in the second epoch
    train_here(sample, tmp_path / "out", *RUN, "--resume")
    same_run(tmp_path / "out", uninterrupted)


# Deaths


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    if not Path("/proc/self/task").is_dir():
        pytest.skip("finds the processes of a run in Linux's /proc")
    with TrainingRuns(tmp_path_factory.mktemp("forks")) as forks:
        yield forks


LONG = ("--augmentation", "none", "--cutout", 0, "-b", 5, "--num-epochs", 40, "--seed", 3)


def long_run(data: Path, folder: Path, *flags: object) -> tuple[object, ...]:
    """Return flags of a run that is long enough to be interrupted."""
    return ("--data", data, *TINY, *LONG, "--path_output", folder, *flags)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_to_all_processes_lets_workers_finish_the_step(forks, sample, tmp_path, number, status):
    run = forks.begin(*long_run(sample, tmp_path / "out", "-j", 2))
    run.wait_for_step(7)
    assert len(run.process.children()) >= 2
    run.process.signal_all(number)
    assert run.wait() == status
    assert run.process.errors().strip().splitlines() == [
        "stopping after this step; interrupt again to stop at once",
        f"train.py: stopped ({number.name}); resume with the same command and --resume",
    ]
    assert stored(tmp_path / "out" / "state.pt")["scheduler"]["last_epoch"] == run.steps()


def test_dead_worker_is_a_user_error(forks, sample, tmp_path):
    run = forks.begin(*long_run(sample, tmp_path / "out", "-j", 2))
    run.wait_for_step(7)
    run.process.kill_child()
    assert run.wait() == 2
    # Python prints exceptions in destructors, and PyTorch raises this one anywhere
    (line,) = (line for line in run.process.errors().splitlines() if line.startswith("train.py"))
    assert line.startswith("train.py: error: --workers: a worker process died")
    assert "-j 0" in line
    steps = stored(tmp_path / "out" / "state.pt")["scheduler"]["last_epoch"]
    with logged_by(StopAt(steps + 1)):  # it can be resumed
        finished = attempt(sample, tmp_path / "out", *LONG, "-j", 0, "--resume")
    assert finished.returncode == 130
    assert stored(tmp_path / "out" / "state.pt")["scheduler"]["last_epoch"] == steps + 1


def test_second_run_is_refused_and_a_killed_one_leaves_the_folder_free(forks, sample, tmp_path):
    """Also where the first one has workers, which outlive it for a moment."""
    folder = tmp_path / "out"
    run = forks.begin(*long_run(sample, folder, "-j", 2))
    run.wait_for_step(7)
    for flags in ((), ("--resume",), ("--overwrite",)):
        message = user_error(attempt(sample, folder, *LONG, *flags))
        assert f"--path_output {folder}: another run is writing this folder" in message
    assert run.kill().status == -signal.SIGKILL
    with logged_by(StopAt(run.steps() + 1)):
        assert attempt(sample, folder, *LONG, "-j", 0, "--resume").returncode == 130


SAVE_STEPS = 2
KILLED = (*FULL, "-b", 5, "--num-epochs", 6, "--seed", 3, "-j", 0)


def test_run_killed_twenty_times_equals_uninterrupted_run(forks, sample, tmp_path):
    folder = tmp_path / "out"
    command = ("--data", sample, *TINY, *KILLED, "--path_output", folder, "--resume", "--save-steps", SAVE_STEPS)
    moments, kills = random.Random(5), 0
    saved = 0
    while kills < 20:
        run = forks.begin(*command)
        run.wait_for_states(folder, moments.choice((0, 1, 1)))
        run.wait_at_most(moments.uniform(0, 0.15))
        if run.kill().status == 0:
            break  # it has finished
        kills += 1
        saved = after_a_kill(folder, run.steps(), saved)
    assert kills > 10
    assert forks.begin(*command).wait() == 0
    train_here(sample, tmp_path / "uninterrupted", *KILLED)
    same_run(folder, tmp_path / "uninterrupted")
    assert {path.name for path in folder.iterdir()} == RUN_FILES


def test_run_killed_before_any_change_of_a_file_equals_uninterrupted_run(forks, sample, tmp_path):
    """Each run is killed before a later change than the one that it resumes."""
    folder, cache = tmp_path / "out", ("--freeze-backbone", "--feature-cache", tmp_path / "cache")
    flags = (*LONG, "-j", 0, *cache, "--num-epochs", 2, "--save-epochs", 1, "--keep", 1)
    train_here(sample, tmp_path / "uninterrupted", *flags)
    command = ("--data", sample, *TINY, *flags, "--path_output", folder, "--resume", "--save-steps", SAVE_STEPS)
    saved = 0
    for call in itertools.count(1, 9):
        run = forks.begin(*command, kill_before=call)
        if run.wait() == 0:
            break
        saved = after_a_kill(folder, run.steps(), saved)
    assert call > 20
    same_run(folder, tmp_path / "uninterrupted")
    assert {path.name for path in folder.iterdir()} == RUN_FILES | {
        f"model-epoch-0002.ckpt{suffix}" for suffix in ("", SUFFIX)
    }


def after_a_kill(folder: Path, steps: int, saved: int) -> int:
    """Check the folder of a killed run; returns the number of steps in its state.

    Args:
        folder: of the run.
        steps: all steps before the run was killed.
        saved: steps in the state that the run resumed.
    """
    for path in folder.glob("*.ckpt"):
        load_checkpoint(path)
        assert check_digest(path)[1] is not False
    if (folder / "log.jsonl").exists():
        entries = log_of(folder)
        assert [entry["epoch"] for entry in entries] == list(range(1, len(entries) + 1))
    with contextlib.redirect_stderr(None):
        state = read_state(folder)
    now = 0 if state is None else state.content["scheduler"]["last_epoch"]
    assert now >= saved  # no state is lost
    assert steps - now <= SAVE_STEPS or steps <= SAVE_STEPS
    return now
