"""Reading beside the model: order, bounded memory, named problems, early ends, and the tensors of one transform."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from src.data.dataset import naming_dead_workers
from src.data.images import read_image
from src.data.transforms import eval_transform
from src.errors import UserError
from src.inference.reading import PREVIEW, ReadBatch, read_batches
from tests.helpers import write_images

TRANSFORM = eval_transform(32)


def read(paths: list[Path], transform=TRANSFORM, *, batch_size=4, workers=0, previews=False) -> list[ReadBatch]:
    return list(read_batches(paths, transform, batch_size=batch_size, workers=workers, previews=previews))


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> list[Path]:
    """18 images, of which the first, the sixth to the eighth and the last are bad; so a batch of 3 is bad whole."""
    return write_images(tmp_path_factory.mktemp("images"), 18, broken=(0, 6, 7, 8, 17))


@pytest.mark.parametrize("workers", [0, 1, 5])
@pytest.mark.parametrize("batch_size", [1, 3, 16, 100])
def test_images_come_in_their_order_and_problems_with_their_paths(paths, workers, batch_size):
    batches = read(paths, batch_size=batch_size, workers=workers)
    assert len(batches) == -(-len(paths) // batch_size)
    good = [path for path in paths if path.stem not in ("0", "6", "7", "8", "17")]
    assert [path for batch in batches for path in batch.paths] == good
    assert [path.stem for batch in batches for path, _ in batch.problems] == ["0", "6", "7", "8", "17"]
    for batch, start in zip(batches, range(0, len(paths), batch_size), strict=True):
        given = paths[start : start + batch_size]
        assert {*batch.paths, *(path for path, _ in batch.problems)} == set(given)
        assert all(problem.startswith(f"{path}: ") for path, problem in batch.problems)
        assert len(batch.images) == len(batch.paths)
        assert batch.previews == []
        for path, tensor in zip(batch.paths, batch.images, strict=True):
            assert torch.equal(tensor, TRANSFORM(read_image(path)))


def test_order_holds_where_later_images_are_read_sooner(tmp_path):
    paths = write_images(tmp_path, 12)

    def slow_first(image: Image.Image) -> torch.Tensor:
        time.sleep(0.03 if image.getpixel((0, 0))[0] % 2 else 0)
        return TRANSFORM(image)

    batches = read(paths, slow_first, workers=4)
    assert [path for batch in batches for path in batch.paths] == paths
    expected = torch.stack([TRANSFORM(read_image(path)) for path in paths])
    assert torch.equal(torch.cat([batch.images for batch in batches]), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_no_image_at_all(workers):
    assert read([], workers=workers) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_previews_are_the_images_themselves_but_no_larger_than_is_shown(tmp_path, workers):
    sizes = [(40, 30), (3200, 100), (90, 2000), (1600, 1600)] + [(8, 8)] * 6
    paths = []
    for number, size in enumerate(sizes):
        paths.append(tmp_path / f"{number:02d}.png")
        Image.new("L", size, 10 * number).save(paths[-1])
    paths[5].write_text("no image")
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


@pytest.mark.parametrize("name", ["small.png", "large.jpg"])
def test_the_tensor_is_the_same_whether_the_image_is_shown_or_not(tmp_path, name):
    path = tmp_path / name
    Image.effect_noise((60, 40) if name == "small.png" else (2400, 700), 80).convert("RGB").save(path)
    for transform in (TRANSFORM, eval_transform(32, exact=True), lambda image: eval_transform(32)(image)):
        (plain,) = read([path], transform)
        (shown,) = read([path], transform, previews=True)
        assert torch.equal(shown.images, plain.images)
        assert shown.previews[0].size == ((60, 40) if name == "small.png" else (1600, 467))
    (exact,) = read([path], eval_transform(32, exact=True), previews=True)
    assert torch.equal(exact.images[0], eval_transform(32, exact=True)(read_image(path)))


class Counting:
    """A transform that counts its calls and where they come from."""

    def __init__(self) -> None:
        self.calls, self.threads = 0, set()
        self._lock = threading.Lock()

    def __call__(self, image: Image.Image) -> torch.Tensor:
        with self._lock:
            self.calls += 1
            self.threads.add(threading.get_ident())
        return TRANSFORM(image)

    def wait_for(self, calls: int) -> None:
        """Until so many images were read, and as long again as more could be."""
        end = time.monotonic() + 20
        while self.calls < calls and time.monotonic() < end:
            time.sleep(0.005)
        time.sleep(0.05)


def test_one_batch_is_read_ahead_while_the_caller_works_and_no_more(tmp_path):
    paths, transform = write_images(tmp_path, 20), Counting()
    batches = read_batches(paths, transform, batch_size=4, workers=3, previews=False)
    for read_so_far in (8, 12, 16, 20, 20):
        next(batches)
        transform.wait_for(read_so_far)
        assert transform.calls == read_so_far
    assert next(batches, None) is None
    assert threading.get_ident() not in transform.threads


def test_without_workers_a_batch_is_read_when_it_is_asked_for(tmp_path):
    paths, transform = write_images(tmp_path, 6), Counting()
    batches = read_batches(paths, transform, batch_size=2, workers=0, previews=False)
    assert transform.calls == 0
    next(batches)
    assert transform.calls == 2
    assert transform.threads == {threading.get_ident()}


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("image-reader")]


@pytest.mark.parametrize("ended_by", [KeyboardInterrupt, ValueError, GeneratorExit])
def test_an_early_end_reads_no_more_than_what_is_in_hand(tmp_path, ended_by):
    paths, gate, started = write_images(tmp_path, 40), threading.Event(), []

    def slow(image: Image.Image) -> torch.Tensor:
        started.append(None)
        if image.getpixel((0, 0))[0] > 255 * 9 // 39:  # not of the first batch
            gate.wait(20)
        return TRANSFORM(image)

    batches = read_batches(paths, slow, batch_size=10, workers=2, previews=False)
    next(batches)
    threading.Timer(0.1, gate.set).start()
    if ended_by is GeneratorExit:
        batches.close()
    else:
        with pytest.raises(ended_by):
            batches.throw(ended_by())
    assert len(started) <= 10 + 2 + 2  # each thread may have taken one more before the rest was called off
    assert readers() == []


def test_a_fault_of_ours_shows_as_what_it_is_and_leaves_no_thread(paths):
    def faulty(image: Image.Image) -> torch.Tensor:
        raise ZeroDivisionError("ours")

    for workers in (0, 2):
        with pytest.raises(ZeroDivisionError, match="ours"):
            read(paths, faulty, workers=workers)
    assert readers() == []


def test_a_huge_image_is_refused_by_name(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    Image.new("RGB", (40, 40)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    (batch,) = read([path], workers=2)
    assert batch.paths == []
    assert batch.problems[0][0] == path
    assert "decompression bomb" in batch.problems[0][1]


def test_a_death_that_shows_elsewhere_is_said_too():
    with pytest.raises(UserError, match="perhaps for want of memory"), naming_dead_workers():
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    with pytest.raises(RuntimeError, match=r"^size mismatch$"), naming_dead_workers():
        raise RuntimeError("size mismatch")
