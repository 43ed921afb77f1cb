"""What TensorBoard is told, read back from its files; and nothing of it where nobody watches."""

import builtins
import io
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from src.errors import UserError
from src.tags import Tag
from src.training.tensorboard import Logger, open_logger
from src.visualize import tagged_image
from tests.helpers import write_images

TAGS = [Tag("cat", 0.912, False), Tag("tiger", -0.25, True)]


@pytest.fixture(scope="module")
def accumulator():
    return pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


@pytest.fixture
def read(accumulator):
    """Reads one of the two runs of a folder whole."""

    def of(folder: Path, run: str):
        everything = dict.fromkeys((accumulator.SCALARS, accumulator.IMAGES, accumulator.TENSORS), 0)
        events = accumulator.EventAccumulator(str(folder / run), {**everything, accumulator.HISTOGRAMS: 0})
        return events.Reload()

    return of


@pytest.fixture
def later(monkeypatch):
    """Lets an hour pass: TensorBoard reads files in the order of the seconds in their names."""

    def passing():
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + 3600)

    return passing


def scalars(events, name):
    return [(event.step, round(event.value, 5)) for event in events.Scalars(name)]


def text_of(events) -> tuple[int, str]:
    (event,) = events.Tensors("settings/text_summary")
    return event.step, event.tensor_proto.string_val[0].decode()


def test_steps_and_epochs_are_logged_under_their_names(tmp_path, read):
    with open_logger(tmp_path) as logger:
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
    with open_logger(tmp_path) as logger:
        logger.epoch(1, {**{f"zero_shot.{name}": 5.0 for name in constant}, "zero_shot.mAP_skip": 1.0})
    assert read(tmp_path, "epochs").Tags()["scalars"] == ["zero_shot/mAP_skip"]


def test_histograms_count_the_values_that_are_finite(tmp_path, read):
    values = torch.tensor([[1.0, 1.25], [2.0, float("nan")], [float("inf"), 1.5]], requires_grad=True)
    with open_logger(tmp_path) as logger:
        logger.histogram(4, "train/omega", values)
        logger.histogram(5, "train/omega", values[:0])
        logger.histogram(6, "train/omega", torch.tensor([float("nan")]))
    (event,) = read(tmp_path, "steps").Histograms("train/omega")
    assert event.step == 4
    assert (event.histogram_value.num, event.histogram_value.sum) == (4, 5.75)
    assert (event.histogram_value.min, event.histogram_value.max) == (1.0, 2.0)


@pytest.mark.parametrize("first", [0, 1])
def test_a_resumed_run_shows_no_step_twice(tmp_path, read, later, first):
    def go(steps, epochs, value):
        with open_logger(tmp_path) as logger:
            logger.settings({"lr": value})
            for step in steps:
                logger.histogram(step, "train/omega", torch.ones(2))
                logger.step(step, {"train/loss": value})
            for epoch in epochs:
                logger.epoch(epoch, {"zero_shot.mAP": value})
                logger.images(epoch, [Image.new("RGB", (8, 8))], [TAGS])

    go(range(first, 8), (1, 2), 1.0)
    later()
    go(range(5, 10), (2, 3), 2.0)  # from the state that was saved after step 4, in epoch 2
    steps, epochs = read(tmp_path, "steps"), read(tmp_path, "epochs")
    expected = [*((step, 1.0) for step in range(first, 5)), *((step, 2.0) for step in range(5, 10))]
    assert scalars(steps, "train/loss") == expected
    assert [event.step for event in steps.Histograms("train/omega")] == [step for step, _ in expected]
    assert scalars(epochs, "zero_shot/mAP") == [(1, 1.0), (2, 2.0), (3, 2.0)]
    assert [event.step for event in epochs.Images("images/1")] == [1, 2, 3]
    assert [event.step for event in steps.Tensors("settings/text_summary")] == [first, 5]


def test_a_new_run_in_the_folder_hides_the_earlier_one(tmp_path, read, later):
    for value, last in ((1.0, 9), (2.0, 3)):
        with open_logger(tmp_path) as logger:
            for step in range(1, last):
                logger.step(step, {"train/loss": value})
        later()
    assert scalars(read(tmp_path, "steps"), "train/loss") == [(1, 2.0), (2, 2.0)]


def decoded(event) -> np.ndarray:
    with Image.open(io.BytesIO(event.encoded_image_string)) as image:
        return np.asarray(image.convert("RGB"))


def test_images_have_their_tags_beside_them(tmp_path, read):
    paths = write_images(tmp_path / "images", 3, broken=(1,))
    large = Image.new("RGB", (1200, 600), "red")
    with open_logger(tmp_path) as logger:
        logger.images(1, [*paths, large, Image.new("LA", (30, 30))], [TAGS, TAGS, [], TAGS, TAGS])
        logger.images(2, paths[:1], [TAGS[:1]])
    assert large.size == (1200, 600)
    events = read(tmp_path, "epochs")
    assert events.Tags()["images"] == ["images/1", "images/3", "images/4", "images/5"]
    first, second = events.Images("images/1")
    assert (first.step, second.step) == (1, 2)
    with Image.open(paths[0]) as image:
        np.testing.assert_array_equal(decoded(first), np.asarray(tagged_image(image.convert("RGB"), TAGS)))
        np.testing.assert_array_equal(decoded(second), np.asarray(tagged_image(image.convert("RGB"), TAGS[:1])))


def test_settings_are_a_table_of_plain_text(tmp_path, read):
    with open_logger(tmp_path) as logger:
        logger.settings({"lr": 0.1, "path_output": "a|b_c*\n<d>", "model": None})
        logger.step(7, {"train/loss": 1.0})
    step, text = text_of(read(tmp_path, "steps"))
    assert step == 7
    assert text.splitlines() == [
        "|setting|value|", "|---|---|", r"|lr|0\.1|", r"|path\_output|a\|b\_c\* \<d\>|", "|model|None|",
    ]  # fmt: skip


def test_inactive_logger_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.chdir(tmp_path)
    with open_logger(None) as logger:
        assert type(logger) is Logger
        assert not logger.active
        logger.settings({"lr": 1})
        logger.step(1, {"train/loss": 1.0})
        logger.histogram(1, "train/omega", torch.ones(2))
        logger.epoch(1, {"zero_shot.mAP": 1.0})
        logger.images(1, [Path("gone.jpg")], [[]])
    assert not list(tmp_path.iterdir())


def test_missing_package_is_a_user_error(tmp_path, monkeypatch):
    real = builtins.__import__

    def importing(name, *arguments, **options):
        if name.endswith("tensorboard"):
            raise ImportError(f"No module named {name!r}")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", importing)
    with pytest.raises(UserError, match=r"^--tensorboard: the tensorboard package .*; pip install tensorboard, or"):
        open_logger(tmp_path / "events")
    assert not (tmp_path / "events").exists()


def test_folder_that_cannot_be_written_is_a_user_error(tmp_path, accumulator):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(UserError, match=r"^--tensorboard: cannot write .*file.*; choose another output folder"):
            open_logger(path)


@pytest.mark.parametrize("method", ["add_scalar", "close"])
def test_full_disk_is_a_user_error(tmp_path, accumulator, monkeypatch, method):
    def full(self, *arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"torch.utils.tensorboard.SummaryWriter.{method}", full)
    with (
        pytest.raises(UserError, match=r"^--tensorboard: cannot write .*: No space left on device"),
        open_logger(tmp_path) as logger,
    ):
        logger.step(1, {"train/loss": 1.0})
