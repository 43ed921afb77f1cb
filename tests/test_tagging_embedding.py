"""Reading and embedding side by side: the same embeddings in the same order, few in hand, and early ends."""

import threading
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from src.data.transforms import eval_transform
from src.inference.embedding import EmbeddedBatch, embed_images
from tests.helpers import write_images

TRANSFORM = eval_transform(16)


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


def embed(paths: list[Path], model, *, batch_size=4, workers=0, at_once=1, previews=False):
    return embed_images(
        paths, TRANSFORM, model, batch_size=batch_size, workers=workers, at_once=at_once, previews=previews
    )


def flat(batches: list[EmbeddedBatch]) -> tuple[list[Path], list[Path], Tensor]:
    """Paths of the good and of the bad images, and all embeddings."""
    return (
        [path for batch, _ in batches for path in batch.paths],
        [path for batch, _ in batches for path, _ in batch.problems],
        torch.cat([embeddings for _, embeddings in batches if embeddings is not None]),
    )


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> list[Path]:
    """18 images, of which the first, the sixth to the eighth and the last are bad; so a batch of 3 is bad whole."""
    return write_images(tmp_path_factory.mktemp("images"), 18, broken=(0, 6, 7, 8, 17))


@pytest.mark.parametrize(("at_once", "workers"), [(1, 2), (2, 0), (3, 2), (7, 2)])
@pytest.mark.parametrize("batch_size", [1, 3, 6, 100])
def test_embeddings_are_the_same_however_many_are_made_at_once(paths, at_once, workers, batch_size):
    good, bad, expected = flat(list(embed(paths, Embed())))
    assert [path.stem for path in bad] == ["0", "6", "7", "8", "17"]
    model = Embed()
    found = flat(list(embed(paths, model, batch_size=batch_size, workers=workers, at_once=at_once)))
    assert found[:2] == (good, bad)
    torch.testing.assert_close(found[2], expected)
    assert sum(model.sizes) == 13
    assert max(model.sizes) <= -(-batch_size // at_once)


def test_order_holds_where_later_images_are_embedded_sooner(tmp_path):
    paths = write_images(tmp_path, 24)  # the brighter an image, the longer the model takes
    model = Embed(seconds=0.05)
    batches = list(embed(paths[::-1], model, batch_size=8, at_once=4))
    assert flat(batches)[0] == paths[::-1]
    assert 2 <= model.most <= 4


def test_a_batch_without_a_readable_image_does_not_reach_the_model(paths):
    for at_once in (1, 3):
        model = Embed()
        batches = list(embed(paths, model, batch_size=3 * at_once, at_once=at_once))
        assert any(embeddings is None for _, embeddings in batches)
        for batch, embeddings in batches:
            assert (embeddings is None) == (not batch.paths)
        assert 0 not in model.sizes


def test_each_thread_begins_with_a_single_image(tmp_path):
    paths = write_images(tmp_path, 20)
    batches = list(embed(paths, Embed(), batch_size=12, at_once=3))
    assert [len(batch.paths) for batch, _ in batches] == [1, 1, 1, 4, 4, 4, 4, 1]
    assert [len(batch.paths) for batch, _ in embed(paths[:2], Embed(), batch_size=12, at_once=3)] == [1, 1]


def test_torch_computes_with_one_thread_where_each_has_work_of_its_own_and_with_all_afterwards(paths):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        shared, own = Embed(), Embed()
        list(embed(paths, shared))
        list(embed(paths, own, at_once=2))
        assert torch.get_num_threads() == 2
        early = embed(paths, own, at_once=2)
        next(early)
        early.close()
        assert torch.get_num_threads() == 2
        assert (shared.torch_threads, own.torch_threads) == ({2}, {1})
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("ended_by", [KeyboardInterrupt, ValueError, GeneratorExit])
def test_an_early_end_embeds_no_more_than_what_is_in_hand(tmp_path, ended_by):
    model = Embed(seconds=0.02)
    batches = embed(write_images(tmp_path, 40), model, batch_size=4, at_once=2)
    next(batches)
    if ended_by is GeneratorExit:
        batches.close()
    else:
        with pytest.raises(ended_by):
            batches.throw(ended_by())
    assert sum(model.sizes) <= 2 * (2 * 2 + 2)  # twice two shares of two on their way, and two in hand
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("image-reader")]


def test_a_fault_of_the_model_shows_as_what_it_is(paths):
    def faulty(images: Tensor) -> Tensor:
        raise ZeroDivisionError("a fault of ours")

    for at_once in (1, 2):
        with pytest.raises(ZeroDivisionError, match="a fault of ours"):
            list(embed(paths, faulty, at_once=at_once))


def test_images_that_are_shown_travel_along(paths):
    for at_once in (1, 2):
        batches = list(embed(paths, Embed(), at_once=at_once, previews=True))
        assert all(len(batch.previews) == len(batch.paths) for batch, _ in batches)
