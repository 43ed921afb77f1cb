"""Batches keep rows right when images are bad, loaders repeat by seed, images are found where people keep them."""

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from src.data.dataset import (
    ImageDataset,
    TrainingImages,
    TrainingLoader,
    guard_workers,
    image_loader,
    locate_images,
    seeded,
)
from src.data.images import read_image
from src.data.transforms import as_floats, eval_transform, train_transform
from src.errors import UserError
from src.utils.device import seed_everything
from tests.conftest import ROOT


def grey_images(folder: Path, count: int) -> list[Path]:
    """Image i is plain grey of shade 10 * i, so that a batch shows which images it holds."""
    paths = [folder / f"{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        Image.new("RGB", (12, 9), (10 * number,) * 3).save(path)
    return paths


def shades(images: torch.Tensor) -> list[int]:
    """Return the number of each image that :func:`grey_images` drew."""
    assert (images.amax(dim=(1, 2, 3)) == images.amin(dim=(1, 2, 3))).all()
    return (images[:, 0, 0, 0] * 25.5).round().int().tolist()


def test_items_are_tensor_row_and_reason(tmp_path):
    paths = grey_images(tmp_path, 2)
    paths[0].write_text("no image")
    dataset = ImageDataset(paths, eval_transform(8))
    assert len(dataset) == 2
    tensor, row, [reason] = dataset[0]
    assert (tensor, row) == (None, 0)
    assert str(paths[0]) in reason
    tensor, row, reasons = dataset[1]
    assert (tensor.shape, row, reasons) == ((3, 8, 8), 1, ())


def test_other_errors_are_not_taken_for_bad_images(tmp_path):
    def broken_transform(image: Image.Image) -> torch.Tensor:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError):
        ImageDataset(grey_images(tmp_path, 1), broken_transform)[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_in_the_middle_keeps_the_rows_right(tmp_path, workers):
    paths = grey_images(tmp_path, 7)
    paths[1].unlink()
    paths[4].write_bytes(paths[4].read_bytes()[:40])
    loader = image_loader(ImageDataset(paths, eval_transform(8)), batch_size=3, workers=workers)
    batches = list(loader)
    assert [batch.rows.tolist() for batch in batches] == [[0, 2], [3, 5], [6]]
    assert [shades(batch.images) for batch in batches] == [[0, 2], [3, 5], [6]]
    assert [len(batch.bad) for batch in batches] == [1, 1, 0]
    assert str(paths[1]) in batches[0].bad[0]
    assert str(paths[4]) in batches[1].bad[0]
    assert batches[0].rows.dtype == torch.long


def test_a_batch_of_bad_images_only_is_empty(tmp_path):
    paths = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    [batch] = image_loader(ImageDataset(paths, eval_transform(8)), batch_size=4, workers=0)
    assert batch.images.shape[0] == 0
    assert batch.rows.tolist() == []
    assert batch.rows.dtype == torch.long
    assert ["a.jpg" in batch.bad[0], "b.jpg" in batch.bad[1]] == [True, True]


def test_a_loader_can_read_some_rows_only(tmp_path):
    dataset = ImageDataset(grey_images(tmp_path, 5), eval_transform(8))
    loader = image_loader(dataset, batch_size=2, workers=0, rows=[3, 0, 4])
    assert [batch.rows.tolist() for batch in loader] == [[3, 0], [4]]


# Training images


def noisy_images(folder: Path, count: int) -> list[Path]:
    rng = np.random.RandomState(0)
    paths = [folder / f"{number}.png" for number in range(count)]
    for path in paths:
        Image.fromarray(rng.randint(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    return paths


def read(dataset: TrainingImages, epoch: int, rows: list[list[int]], workers: int = 0) -> dict[int, torch.Tensor]:
    batches = list(TrainingLoader(dataset, workers=workers).batches(epoch, rows))
    assert [batch.rows.tolist() for batch in batches] == rows
    return {row: image for batch in batches for row, image in zip(batch.rows.tolist(), batch.images, strict=True)}


@pytest.mark.parametrize("augmentation", ["none", "randaugment", "torchvision"])  # "none" leaves the cutout
def test_augmentation_follows_from_seed_epoch_and_row_alone(tmp_path, augmentation):
    paths = noisy_images(tmp_path, 8)
    dataset = TrainingImages(paths, train_transform(16, augmentation=augmentation), seed=3)
    first = read(dataset, 2, [[0, 1, 2, 3], [4, 5, 6, 7]])
    random.random(), np.random.rand(), torch.rand(1)  # whatever was drawn meanwhile
    with_workers = read(dataset, 2, [[6, 1], [0], [7, 5, 4], [2, 3]], workers=2)
    assert all(torch.equal(first[row], with_workers[row]) for row in range(8))
    for other in (
        read(dataset, 3, [list(range(8))]),
        read(TrainingImages(paths, dataset.transform, 4), 2, [list(range(8))]),
    ):
        assert sum(torch.equal(first[row], other[row]) for row in range(8)) < 4


def test_images_of_an_epoch_are_augmented_differently_from_each_other(tmp_path):
    dataset = TrainingImages(grey_images(tmp_path, 1) * 6, train_transform(16, augmentation="none"), seed=0)
    assert len({image.numpy().tobytes() for image in read(dataset, 1, [list(range(6))]).values()}) == 6


def test_reading_leaves_the_random_numbers_of_this_process_alone(tmp_path):
    dataset = TrainingImages(noisy_images(tmp_path, 2), train_transform(16), seed=3)

    def drawn(read_one: bool) -> tuple[object, ...]:
        seed_everything(9)
        if read_one:
            dataset[1, 0]
        return random.random(), np.random.rand(), torch.rand(2).tolist()

    assert drawn(True) == drawn(False)


def test_an_unreadable_image_is_replaced_by_another_the_same_in_every_run(tmp_path):
    paths = noisy_images(tmp_path, 6)
    for broken in (1, 4):
        paths[broken].write_bytes(b"no image")
    dataset = TrainingImages(paths, eval_transform(16), seed=3)
    stood_in = set()
    for epoch in range(1, 30):
        tensor, row, reasons = dataset[epoch, 1]
        assert row in (0, 2, 3, 5)
        assert torch.equal(as_floats(tensor), eval_transform(16)(read_image(paths[row])))
        assert str(paths[1]) in reasons[0]
        assert all(str(paths[1]) in reason or str(paths[4]) in reason for reason in reasons)
        assert dataset[epoch, 1][1:] == (row, reasons)
        stood_in.add(row)
    assert len(stood_in) > 1  # another one in other epochs
    assert dataset[1, 0][1:] == (0, ())


def test_without_any_readable_image_there_is_no_replacement(tmp_path):
    tensor, _, reasons = TrainingImages([tmp_path / "a.jpg"], eval_transform(8), seed=0)[1, 0]
    assert tensor is None
    assert set(reasons) == {f"{tmp_path / 'a.jpg'}: No such file or directory"}


def test_seeds_of_any_size_and_sign_are_taken():
    drawn = []
    for seed in (0, 1, -1, 2**63, 2**64 - 2):
        with seeded(seed, 1, 0):
            drawn.append((random.random(), float(np.random.rand()), torch.rand(1).item()))
    assert len(set(drawn)) == 5


@pytest.mark.parametrize("folder", ["", "images", "train2014", "val2014", "train2017", "val2017"])
def test_images_are_found_in_the_usual_sub_folders(tmp_path, folder):
    (tmp_path / folder).mkdir(exist_ok=True)
    path = tmp_path / folder / "1.jpg"
    path.touch()
    assert locate_images(["1.jpg"], tmp_path, "train.json") == [path]


def test_images_of_several_folders_and_names_with_folders(tmp_path):
    paths = [tmp_path / name for name in ("train2014/a.jpg", "val2014/b.jpg", "images/1000/c.jpg", "deep/d.jpg")]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.touch()
    assert locate_images(["a.jpg", "b.jpg", "1000/c.jpg", "deep/d.jpg", "a.jpg"], tmp_path, "x") == [*paths, paths[0]]


def test_the_folder_itself_comes_before_its_sub_folders(tmp_path):
    (tmp_path / "images").mkdir()
    for path in (tmp_path / "1.jpg", tmp_path / "images" / "1.jpg"):
        path.touch()
    assert locate_images(["1.jpg"], tmp_path, "x") == [tmp_path / "1.jpg"]


def test_missing_pictures_are_counted_and_some_are_named(tmp_path):
    (tmp_path / "there.jpg").touch()
    names = ["there.jpg", *(f"gone{number}.jpg" for number in range(5))]
    with pytest.raises(UserError) as caught:
        locate_images(names, tmp_path, "labels/train.json")
    message = str(caught.value)
    assert message.startswith(f"--data {tmp_path}: 5 of the 6 images that labels/train.json lists are not there")
    assert "gone0.jpg, gone1.jpg, gone2.jpg and 2 more" in message
    assert "\n" not in message


def test_dead_worker_is_a_user_error():
    with pytest.raises(UserError, match="perhaps for lack of memory"), guard_workers():
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    with pytest.raises(RuntimeError, match=r"^size mismatch$"), guard_workers():
        raise RuntimeError("size mismatch")


def test_program_ends_although_workers_are_left(tmp_path):
    grey_images(tmp_path, 4)
    code = f"""
from pathlib import Path
from src.data.dataset import ImageDataset, guard_workers, image_loader
from src.data.transforms import eval_transform
with guard_workers():
    paths = sorted(Path({str(tmp_path)!r}).glob("*.png"))
    batches = iter(image_loader(ImageDataset(paths, eval_transform(8)), batch_size=1, workers=2))
    print(next(batches).rows.tolist())
"""  # the iterator lives until the interpreter ends
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert finished.stdout == "[0]\n"
    assert "Traceback" not in finished.stderr
