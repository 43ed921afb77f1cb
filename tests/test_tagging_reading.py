"""Reading beside the model: order, bounded previews, named problems, and a process that dies is no riddle."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from src.data.images import read_picture
from src.data.transforms import eval_transform
from src.errors import UserError
from src.tagging.reading import _WORTH_WORKERS, PREVIEW, ReadBatch, naming_dead_workers, read_batches
from tests.helpers import write_pictures

TRANSFORM = eval_transform(32)


def read(paths: list[Path], transform=TRANSFORM, *, batch_size=4, workers=0, previews=False) -> list[ReadBatch]:
    return list(read_batches(paths, transform, batch_size=batch_size, workers=workers, previews=previews))


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> list[Path]:
    """18 pictures, of which the first, the sixth to the eighth and the last are bad; so a batch of 3 is bad whole."""
    return write_pictures(tmp_path_factory.mktemp("pictures"), 18, broken=(0, 6, 7, 8, 17))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 3, 16, 100])
def test_pictures_come_in_their_order_and_problems_with_their_paths(paths, workers, batch_size):
    batches = read(paths, batch_size=batch_size, workers=workers)
    assert len(batches) == -(-len(paths) // batch_size)
    good = [path for path in paths if path.stem not in ("0", "6", "7", "8", "17")]
    assert [path for batch in batches for path in batch.paths] == good
    assert [path.stem for batch in batches for path, _ in batch.problems] == ["0", "6", "7", "8", "17"]
    for batch, start in zip(batches, range(0, len(paths), batch_size), strict=True):
        given = paths[start : start + batch_size]
        assert {*batch.paths, *(path for path, _ in batch.problems)} == set(given)
        assert all(problem.startswith(f"{path}: ") for path, problem in batch.problems)
        assert len(batch.pictures) == len(batch.paths)
        assert batch.previews == []
        for path, tensor in zip(batch.paths, batch.pictures, strict=True):
            assert torch.equal(tensor, TRANSFORM(read_picture(path)))


@pytest.mark.parametrize("workers", [0, 2])
def test_no_picture_at_all(workers):
    assert read([], workers=workers) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_previews_are_the_pictures_themselves_but_no_larger_than_is_shown(tmp_path, workers):
    sizes = [(40, 30), (3200, 100), (90, 2000), (1600, 1600)] + [(8, 8)] * (_WORTH_WORKERS - 4)
    paths = []
    for number, size in enumerate(sizes):
        paths.append(tmp_path / f"{number:02d}.png")
        Image.new("L", size, 10 * number).save(paths[-1])
    paths[5].write_text("no picture")
    previews = {
        path: preview
        for batch in read(paths, workers=workers, previews=True)
        for path, preview in zip(batch.paths, batch.previews, strict=True)
    }
    assert list(previews) == [*paths[:5], *paths[6:]]
    assert [previews[path].size for path in paths[:5]] == [(40, 30), (1600, 50), (72, 1600), PREVIEW, (8, 8)]
    for number, path in enumerate(paths):
        if number != 5:
            assert previews[path].mode == "RGB"
            assert (np.asarray(previews[path]) == 10 * number).all()


def test_the_tensor_is_made_of_the_whole_picture_and_not_of_the_preview(tmp_path):
    path = tmp_path / "a.png"
    Image.effect_noise((2400, 40), 80).save(path)
    (batch,) = read([path], previews=True)
    assert torch.equal(batch.pictures[0], TRANSFORM(read_picture(path)))


class Dying:
    """A transform whose process ends as if the system had ended it."""

    def __init__(self, how: str) -> None:
        self.how, self.parent = how, os.getpid()

    def __call__(self, picture: Image.Image) -> torch.Tensor:
        if os.getpid() != self.parent:
            if self.how == "exit":
                os._exit(3)
            os.kill(os.getpid(), signal.SIGKILL)
        return TRANSFORM(picture)


@pytest.mark.parametrize("how", ["exit", "kill"])
def test_a_process_that_dies_is_said_with_a_remedy_that_works(paths, how):
    with pytest.raises(UserError, match=r"--workers: a process that reads pictures died.*-j 0") as caught:
        read(paths, Dying(how), workers=2)
    assert "\n" not in str(caught.value)
    assert len(read(paths, Dying(how), workers=0)) == 5


def test_a_death_that_shows_elsewhere_is_said_too():
    with pytest.raises(UserError, match="perhaps for want of memory"), naming_dead_workers():
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    with pytest.raises(RuntimeError, match=r"^size mismatch$"), naming_dead_workers():
        raise RuntimeError("size mismatch")


def test_a_fault_of_ours_in_a_worker_shows_as_what_it_is(paths):
    def faulty(picture: Image.Image) -> torch.Tensor:
        raise ZeroDivisionError("ours")

    for workers in (0, 2):
        with pytest.raises(ZeroDivisionError, match="ours"):
            read(paths, faulty, workers=workers)
