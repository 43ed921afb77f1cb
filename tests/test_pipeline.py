"""Reading and embedding in threads: order, bounded memory, reported problems, early ends, one transform's tensors."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from src.data.images import read_image
from src.data.transforms import eval_transform
from src.inference.pipeline import PREVIEW, Loading, ReadBatch, read_and_embed, read_batches
from tests.helpers import write_images

TRANSFORM = eval_transform(32)


def read(paths: list[Path], transform=TRANSFORM, *, batch_size=4, workers=0, previews=False) -> list[ReadBatch]:
    return list(read_batches(paths, transform, Loading(batch_size, workers, previews=previews)))


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> list[Path]:
    """18 images, of which the first, the sixth to the eighth and the last are bad; so a batch of 3 is bad whole."""
    return write_images(tmp_path_factory.mktemp("images"), 18, broken=(0, 6, 7, 8, 17))


@pytest.mark.parametrize("workers", [0, 1, 5])
@pytest.mark.parametrize("batch_size", [1, 3, 16, 100])
def test_images_keep_their_order_and_problems_have_paths(paths, workers, batch_size):
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


def test_order_is_kept_if_later_images_are_read_sooner(tmp_path):
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
def test_previews_are_the_images_scaled_down(tmp_path, workers):
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
def test_previews_do_not_change_the_tensor(tmp_path, name):
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


def test_exactly_one_batch_is_read_ahead(tmp_path):
    paths, transform = write_images(tmp_path, 20), Counting()
    batches = read_batches(paths, transform, Loading(4, workers=3))
    for read_so_far in (8, 12, 16, 20, 20):
        next(batches)
        transform.wait_for(read_so_far)
        assert transform.calls == read_so_far
    assert next(batches, None) is None
    assert threading.get_ident() not in transform.threads


def test_without_workers_batches_are_read_on_demand(tmp_path):
    paths, transform = write_images(tmp_path, 6), Counting()
    batches = read_batches(paths, transform, Loading(2))
    assert transform.calls == 0
    next(batches)
    assert transform.calls == 2
    assert transform.threads == {threading.get_ident()}


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("image-reader")]


@pytest.mark.parametrize("ended_by", [KeyboardInterrupt, ValueError, GeneratorExit])
def test_early_end_reads_only_images_in_progress(tmp_path, ended_by):
    paths, gate, started = write_images(tmp_path, 40), threading.Event(), []

    def slow(image: Image.Image) -> torch.Tensor:
        started.append(None)
        if image.getpixel((0, 0))[0] > 255 * 9 // 39:  # not of the first batch
            gate.wait(20)
        return TRANSFORM(image)

    batches = read_batches(paths, slow, Loading(10, workers=2))
    next(batches)
    threading.Timer(0.1, gate.set).start()
    if ended_by is GeneratorExit:
        batches.close()
    else:
        with pytest.raises(ended_by):
            batches.throw(ended_by())
    assert len(started) <= 10 + 2 + 2  # each thread may have taken one more before the rest was called off
    assert readers() == []


def test_exception_of_the_transform_is_raised_and_no_thread_left(paths):
    def faulty(image: Image.Image) -> torch.Tensor:
        raise ZeroDivisionError("ours")

    for workers in (0, 2):
        with pytest.raises(ZeroDivisionError, match="ours"):
            read(paths, faulty, workers=workers)
    assert readers() == []


def test_decompression_bomb_is_a_problem(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    Image.new("RGB", (40, 40)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    (batch,) = read([path], workers=2)
    assert batch.paths == []
    assert batch.problems[0][0] == path
    assert "decompression bomb" in batch.problems[0][1]


# Embedding


class Embed:
    """Means of the channels; counts its calls and how many run at a time."""

    def __init__(self, seconds: float = 0) -> None:
        self.sizes: list[int] = []
        self.torch_threads: set[int] = set()
        self.most = self._now = 0
        self._seconds, self._lock = seconds, threading.Lock()

    def __call__(self, images: Tensor) -> Tensor:
        with self._lock:
            self.sizes.append(len(images))
            self.torch_threads.add(torch.get_num_threads())
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(self._seconds * float(images[0, 0, 0, 0]))
        with self._lock:
            self._now -= 1
        return images.mean(dim=(2, 3))


def embed(paths: list[Path], model, *, batch_size=4, workers=0, threads=1, previews=False):
    return read_and_embed(paths, TRANSFORM, model, Loading(batch_size, workers, threads, previews))


def flat(batches: list[tuple[ReadBatch, Tensor | None]]) -> tuple[list[Path], list[Path], Tensor]:
    """Paths of the good and of the bad images, and all embeddings."""
    return (
        [path for batch, _ in batches for path in batch.paths],
        [path for batch, _ in batches for path, _ in batch.problems],
        torch.cat([embeddings for _, embeddings in batches if embeddings is not None]),
    )


@pytest.mark.parametrize(("threads", "workers"), [(1, 2), (2, 0), (3, 2), (7, 2)])
@pytest.mark.parametrize("batch_size", [1, 3, 6, 100])
def test_embeddings_do_not_depend_on_threads_and_batches(paths, threads, workers, batch_size):
    good, bad, expected = flat(list(embed(paths, Embed())))
    assert [path.stem for path in bad] == ["0", "6", "7", "8", "17"]
    model = Embed()
    found = flat(list(embed(paths, model, batch_size=batch_size, workers=workers, threads=threads)))
    assert found[:2] == (good, bad)
    torch.testing.assert_close(found[2], expected)
    assert sum(model.sizes) == 13
    assert max(model.sizes) <= -(-batch_size // threads)


def test_order_is_kept_if_later_images_are_embedded_sooner(tmp_path):
    paths = write_images(tmp_path, 24)  # the brighter an image, the longer the model takes
    model = Embed(seconds=0.05)
    batches = list(embed(paths[::-1], model, batch_size=8, threads=4))
    assert flat(batches)[0] == paths[::-1]
    assert 2 <= model.most <= 4


def test_batch_without_readable_images_is_not_embedded(paths):
    for threads in (1, 3):
        model = Embed()
        batches = list(embed(paths, model, batch_size=3 * threads, threads=threads))
        assert any(embeddings is None for _, embeddings in batches)
        for batch, embeddings in batches:
            assert (embeddings is None) == (not batch.paths)
        assert 0 not in model.sizes


def test_each_thread_starts_with_a_single_image(tmp_path):
    paths = write_images(tmp_path, 20)
    batches = list(embed(paths, Embed(), batch_size=12, threads=3))
    assert [len(batch.paths) for batch, _ in batches] == [1, 1, 1, 4, 4, 4, 4, 1]
    assert [len(batch.paths) for batch, _ in embed(paths[:2], Embed(), batch_size=12, threads=3)] == [1, 1]


def test_torch_uses_one_thread_during_parallel_calls_only(paths):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        shared, own = Embed(), Embed()
        list(embed(paths, shared))
        list(embed(paths, own, threads=2))
        assert torch.get_num_threads() == 2
        early = embed(paths, own, threads=2)
        next(early)
        early.close()
        assert torch.get_num_threads() == 2
        assert (shared.torch_threads, own.torch_threads) == ({2}, {1})
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("ended_by", [KeyboardInterrupt, ValueError, GeneratorExit])
def test_early_end_embeds_only_images_in_progress(tmp_path, ended_by):
    model = Embed(seconds=0.02)
    batches = embed(write_images(tmp_path, 40), model, batch_size=4, threads=2)
    next(batches)
    if ended_by is GeneratorExit:
        batches.close()
    else:
        with pytest.raises(ended_by):
            batches.throw(ended_by())
    assert sum(model.sizes) <= 2 * (2 * 2 + 2)  # two threads with two shares of two in progress each
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("image-reader")]


def test_exception_of_the_model_is_raised(paths):
    def faulty(images: Tensor) -> Tensor:
        raise ZeroDivisionError("a fault of ours")

    for threads in (1, 2):
        with pytest.raises(ZeroDivisionError, match="a fault of ours"):
            list(embed(paths, faulty, threads=threads))


def test_previews_are_returned_with_embeddings(paths):
    for threads in (1, 2):
        batches = list(embed(paths, Embed(), threads=threads, previews=True))
        assert all(len(batch.previews) == len(batch.paths) for batch, _ in batches)
