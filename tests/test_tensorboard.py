"""TensorBoard files: scalars, histograms, images and settings, read back; errors of the disk."""

import io
import resource
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from src.errors import UserError
from src.tags import Tag
from src.training.tensorboard import Logger
from src.visualize import tagged_image
from tests.helpers import write_images

TAGS = [Tag("cat", 0.912, False), Tag("tiger", -0.25, True)]


@pytest.fixture(scope="module")
def accumulator():
    return pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


@pytest.fixture
def read(accumulator):
    """Return a reader of one of the two runs of a folder."""

    def of(folder: Path, run: str):
        everything = dict.fromkeys((accumulator.SCALARS, accumulator.IMAGES, accumulator.TENSORS), 0)
        events = accumulator.EventAccumulator(str(folder / run), {**everything, accumulator.HISTOGRAMS: 0})
        return events.Reload()

    return of


@pytest.fixture
def later(monkeypatch):
    """Return a function that sets the clock an hour forward: TensorBoard sorts files by the time in their names."""

    def passing():
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + 3600)

    return passing


def scalars(events, name):
    return [(event.step, round(event.value, 5)) for event in events.Scalars(name)]


def test_steps_and_epochs_are_logged_under_their_names(tmp_path, read):
    with Logger(tmp_path) as logger:
        assert logger.active
        for step in (1, 2, 3):
            logger.step(step, {"train/loss": 9.0 / step, "lr/head": 0.1 * step})
        logger.epoch(1, {"zero_shot.F1@3": 12.5, "generalized.mAP": 30.0})
        logger.epoch(2, {"zero_shot.F1@3": 13.5, "generalized.mAP": 31.0})
    steps, epochs = read(tmp_path, "steps"), read(tmp_path, "epochs")
    assert scalars(steps, "train/loss") == [(1, 9.0), (2, 4.5), (3, 3.0)]
    assert scalars(steps, "lr/head") == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert set(steps.Tags()["scalars"]) == {"train/loss", "lr/head"}
    assert scalars(epochs, "zero_shot/F1@3") == [(1, 12.5), (2, 13.5)]
    assert scalars(epochs, "generalized/mAP") == [(1, 30.0), (2, 31.0)]


def test_constants_of_the_data_are_not_logged(tmp_path, read):
    constant = ("num_images", "num_unknown", "labels_per_image", "ceiling.F1@3")
    with Logger(tmp_path) as logger:
        logger.epoch(1, {**{f"zero_shot.{name}": 5.0 for name in constant}, "zero_shot.mAP_skip": 1.0})
    assert read(tmp_path, "epochs").Tags()["scalars"] == ["zero_shot/mAP_skip"]


def test_histograms_count_finite_values(tmp_path, read):
    values = torch.tensor([[1.0, 1.25], [2.0, float("nan")], [float("inf"), 1.5]], requires_grad=True)
    with Logger(tmp_path) as logger:
        logger.histogram(4, "train/omega", values)
        logger.histogram(5, "train/omega", values[:0])
        logger.histogram(6, "train/omega", torch.tensor([float("nan")]))
    (event,) = read(tmp_path, "steps").Histograms("train/omega")
    assert event.step == 4
    assert (event.histogram_value.num, event.histogram_value.sum) == (4, 5.75)
    assert (event.histogram_value.min, event.histogram_value.max) == (1.0, 2.0)


@pytest.mark.parametrize("first", [0, 1])
def test_resumed_run_shows_no_step_twice(tmp_path, read, later, first):
    image = write_images(tmp_path / "images", 1)

    def log(steps, epochs, value):
        with Logger(tmp_path) as logger:
            logger.settings({"lr": value, "path_output": "a_b*"})
            for step in steps:
                logger.histogram(step, "train/omega", torch.ones(2))
                logger.step(step, {"train/loss": value})
            for epoch in epochs:
                logger.epoch(epoch, {"zero_shot.mAP": value})
                logger.images(epoch, image, [TAGS])

    log(range(first, 8), (1, 2), 1.0)
    later()
    log(range(5, 10), (2, 3), 2.0)  # from the state that was saved after step 4, in epoch 2
    steps, epochs = read(tmp_path, "steps"), read(tmp_path, "epochs")
    expected = [*((step, 1.0) for step in range(first, 5)), *((step, 2.0) for step in range(5, 10))]
    assert scalars(steps, "train/loss") == expected
    assert [event.step for event in steps.Histograms("train/omega")] == [step for step, _ in expected]
    assert scalars(epochs, "zero_shot/mAP") == [(1, 1.0), (2, 2.0), (3, 2.0)]
    assert [event.step for event in epochs.Images("images/1")] == [1, 2, 3]
    texts = steps.Tensors("settings/text_summary")
    assert [event.step for event in texts] == [first, 5]
    table = texts[1].tensor_proto.string_val[0].decode()
    assert table.splitlines() == ["|setting|value|", "|---|---|", "|lr|`2.0`|", "|path_output|`a_b*`|"]


def decoded(event) -> np.ndarray:
    with Image.open(io.BytesIO(event.encoded_image_string)) as image:
        return np.asarray(image.convert("RGB"))


def test_sample_images_are_drawn_with_their_tags(tmp_path, read):
    paths = write_images(tmp_path / "images", 3, broken=(1,))
    Image.new("RGB", (1200, 600), "red").save(tmp_path / "large.png")
    with Logger(tmp_path) as logger:
        logger.images(1, [*paths, tmp_path / "large.png"], [TAGS, TAGS, [], TAGS])
        logger.images(2, paths[:1], [TAGS[:1]])
    events = read(tmp_path, "epochs")
    assert events.Tags()["images"] == ["images/1", "images/3", "images/4"]
    first, second = events.Images("images/1")
    assert (first.step, second.step) == (1, 2)
    with Image.open(paths[0]) as image:
        np.testing.assert_array_equal(decoded(first), np.asarray(tagged_image(image.convert("RGB"), TAGS)))
        np.testing.assert_array_equal(decoded(second), np.asarray(tagged_image(image.convert("RGB"), TAGS[:1])))


def test_missing_package_is_a_user_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"^--tensorboard: .*; run: pip install tensorboard"):
        Logger(tmp_path / "events")
    assert not (tmp_path / "events").exists()


def test_folder_that_cannot_be_written_is_a_user_error(tmp_path, accumulator):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(UserError, match=r"^--tensorboard .*: cannot be written: .*; choose another place"):
            Logger(path)


@pytest.mark.parametrize("method", ["add_scalar", "close"])
def test_full_disk_is_a_user_error(tmp_path, accumulator, monkeypatch, method):
    def full(self, *arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"torch.utils.tensorboard.SummaryWriter.{method}", full)
    with (
        pytest.raises(UserError, match=r"^--tensorboard: cannot write .*: No space left on device"),
        Logger(tmp_path) as logger,
    ):
        logger.step(1, {"train/loss": 1.0})


def log_epochs(logger: Logger, count: int) -> None:
    for epoch in range(1, count + 1):
        logger.epoch(epoch, {"zero_shot.F1@3": 1.0})


def test_full_disk_in_the_thread_that_writes_is_one_user_error_and_no_traceback(tmp_path, accumulator, monkeypatch):
    heard: list[threading.ExceptHookArgs] = []
    hook = heard.append
    monkeypatch.setattr(threading, "excepthook", hook)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with (
            pytest.raises(UserError, match=r"^--tensorboard: cannot write .*; choose another output folder, or leave"),
            Logger(tmp_path) as logger,
        ):
            log_epochs(logger, 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert heard == []
    assert threading.excepthook is hook


def test_error_of_another_thread_is_still_reported(tmp_path, accumulator, monkeypatch):
    heard: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", heard.append)
    with Logger(tmp_path):
        thread = threading.Thread(target=lambda: 1 / 0)
        thread.start()
        thread.join()
    assert [one.exc_type for one in heard] == [ZeroDivisionError]


def test_steps_that_were_held_back_are_written_when_the_folder_is_the_runs_own(tmp_path, read):
    with Logger(tmp_path) as logger:
        release = logger.hold()
        logger.settings({"lr": 1})
        logger.histogram(1, "train/omega", torch.ones(2))
        logger.step(1, {"train/loss": 3.0})
        assert list(tmp_path.iterdir()) == []
        release()
        logger.step(2, {"train/loss": 2.0})
    steps = read(tmp_path, "steps")
    assert scalars(steps, "train/loss") == [(1, 3.0), (2, 2.0)]
    assert [event.step for event in steps.Histograms("train/omega")] == [1]
    with Logger(tmp_path / "other") as logger:
        logger.hold()
        logger.step(1, {"train/loss": 3.0})
    assert list((tmp_path / "other").iterdir()) == []
