"""Batches keep rows right when pictures are bad, loaders repeat by seed, pictures are found where people keep them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from src.cli import seed_everything
from src.data.dataset import PictureDataset, collate, locate_pictures, picture_loader
from src.data.transforms import Cutout, eval_transform, train_transform
from src.errors import UserError


def grey_pictures(folder: Path, count: int) -> list[Path]:
    """Picture i is plain grey of shade 10 * i, so that a batch shows which pictures it holds."""
    paths = [folder / f"{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        Image.new("RGB", (12, 9), (10 * number,) * 3).save(path)
    return paths


def shades(pictures: torch.Tensor) -> list[int]:
    """What :func:`grey_pictures` drew: the number of each picture."""
    assert (pictures.amax(dim=(1, 2, 3)) == pictures.amin(dim=(1, 2, 3))).all()
    return (pictures[:, 0, 0, 0] * 25.5).round().int().tolist()


def test_items_are_tensor_row_and_reason(tmp_path):
    paths = grey_pictures(tmp_path, 2)
    paths[0].write_text("no picture")
    dataset = PictureDataset(paths, eval_transform(8))
    assert len(dataset) == 2
    tensor, row, reason = dataset[0]
    assert (tensor, row) == (None, 0)
    assert str(paths[0]) in reason
    tensor, row, reason = dataset[1]
    assert (tensor.shape, row, reason) == ((3, 8, 8), 1, "")


def test_other_errors_are_not_taken_for_bad_pictures(tmp_path):
    def broken_transform(picture: Image.Image) -> torch.Tensor:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError):
        PictureDataset(grey_pictures(tmp_path, 1), broken_transform)[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_picture_in_the_middle_keeps_the_rows_right(tmp_path, workers):
    paths = grey_pictures(tmp_path, 7)
    paths[1].unlink()
    paths[4].write_bytes(paths[4].read_bytes()[:40])
    loader = picture_loader(PictureDataset(paths, eval_transform(8)), batch_size=3, workers=workers)
    batches = list(loader)
    assert [batch.rows.tolist() for batch in batches] == [[0, 2], [3, 5], [6]]
    assert [shades(batch.pictures) for batch in batches] == [[0, 2], [3, 5], [6]]
    assert [len(batch.bad) for batch in batches] == [1, 1, 0]
    assert str(paths[1]) in batches[0].bad[0]
    assert str(paths[4]) in batches[1].bad[0]
    assert batches[0].rows.dtype == torch.long


def test_a_batch_of_bad_pictures_only_is_empty(tmp_path):
    paths = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    [batch] = picture_loader(PictureDataset(paths, eval_transform(8)), batch_size=4, workers=0)
    assert batch.pictures.shape[0] == 0
    assert batch.rows.tolist() == []
    assert batch.rows.dtype == torch.long
    assert ["a.jpg" in batch.bad[0], "b.jpg" in batch.bad[1]] == [True, True]


def test_collate_keeps_the_order_of_its_items():
    items = [(torch.full((3, 2, 2), value), row, "") for value, row in ((0.5, 9), (0.1, 3))]
    batch = collate([items[0], (None, 7, "bad one"), items[1]])
    assert batch.rows.tolist() == [9, 3]
    assert batch.pictures[:, 0, 0, 0].tolist() == pytest.approx([0.5, 0.1])
    assert batch.bad == ("bad one",)


def test_without_shuffle_pictures_come_in_order(tmp_path):
    dataset = PictureDataset(grey_pictures(tmp_path, 5), eval_transform(8))
    rows = [row for batch in picture_loader(dataset, batch_size=2, workers=0) for row in batch.rows.tolist()]
    assert rows == [0, 1, 2, 3, 4]


def epochs(loader, count: int) -> list[tuple[list[int], torch.Tensor]]:
    drawn = []
    for _ in range(count):
        batches = list(loader)
        drawn.append((torch.cat([batch.rows for batch in batches]).tolist(), torch.cat([b.pictures for b in batches])))
    return drawn


@pytest.mark.parametrize("workers", [0, 2])
def test_equal_seeds_give_equal_order_and_augmentation_in_every_epoch(tmp_path, workers):
    rng = np.random.RandomState(0)
    paths = [tmp_path / f"{number}.png" for number in range(12)]
    for path in paths:
        Image.fromarray(rng.randint(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    dataset = PictureDataset(paths, train_transform(16))

    def run(seed: int) -> list[tuple[list[int], torch.Tensor]]:
        seed_everything(seed)
        return epochs(picture_loader(dataset, batch_size=4, workers=workers, shuffle=True, seed=seed), 2)

    first, again, other = run(5), run(5), run(6)
    for (rows, pictures), (rows_again, pictures_again) in zip(first, again, strict=True):
        assert rows == rows_again
        assert torch.equal(pictures, pictures_again)
    assert sorted(first[0][0]) == list(range(12))
    assert first[0][0] != first[1][0]  # another order in the second epoch
    assert first[0][0] != other[0][0]
    by_row = [dict(zip(rows, pictures, strict=True)) for rows, pictures in first]
    assert not all(torch.equal(by_row[0][row], by_row[1][row]) for row in range(12))  # and other augmentation


def test_workers_augment_differently_from_each_other_and_need_no_global_seed(tmp_path):
    """With workers the loader's own seed governs everything, whatever state this process is in."""
    paths = grey_pictures(tmp_path, 1) * 4
    dataset = PictureDataset(paths, train_transform(16, augmentation="none"))
    runs = []
    for state in (1, 2):
        torch.manual_seed(state)
        [(_, pictures)] = epochs(picture_loader(dataset, batch_size=1, workers=2, shuffle=True, seed=9), 1)
        runs.append(pictures)
    assert torch.equal(runs[0], runs[1])
    assert len({picture.numpy().tobytes() for picture in runs[0]}) == 4


def test_no_seed_draws_a_fresh_order_even_under_one_global_seed(tmp_path):
    dataset = PictureDataset(grey_pictures(tmp_path, 20), eval_transform(4))
    orders = []
    for _ in range(2):
        torch.manual_seed(0)
        orders.append(epochs(picture_loader(dataset, batch_size=20, workers=0, shuffle=True), 1)[0][0])
    assert orders[0] != orders[1]


def test_a_dataset_can_be_sent_to_another_process(tmp_path):
    import pickle

    dataset = PictureDataset(grey_pictures(tmp_path, 2), train_transform(8, augmentation="none"))
    received = pickle.loads(pickle.dumps(dataset))
    assert received[1][0].shape == (3, 8, 8)
    assert isinstance(received.transform.transforms[1], Cutout)


@pytest.mark.parametrize("folder", ["", "images", "train2014", "val2014", "train2017", "val2017"])
def test_pictures_are_found_in_the_usual_sub_folders(tmp_path, folder):
    (tmp_path / folder).mkdir(exist_ok=True)
    path = tmp_path / folder / "1.jpg"
    path.touch()
    assert locate_pictures(["1.jpg"], tmp_path, "train.json") == [path]


def test_pictures_of_several_folders_and_names_with_folders(tmp_path):
    paths = [tmp_path / name for name in ("train2014/a.jpg", "val2014/b.jpg", "images/1000/c.jpg", "deep/d.jpg")]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.touch()
    assert locate_pictures(["a.jpg", "b.jpg", "1000/c.jpg", "deep/d.jpg", "a.jpg"], tmp_path, "x") == [*paths, paths[0]]


def test_the_folder_itself_comes_before_its_sub_folders(tmp_path):
    (tmp_path / "images").mkdir()
    for path in (tmp_path / "1.jpg", tmp_path / "images" / "1.jpg"):
        path.touch()
    assert locate_pictures(["1.jpg"], tmp_path, "x") == [tmp_path / "1.jpg"]


def test_missing_pictures_are_counted_and_some_are_named(tmp_path):
    (tmp_path / "there.jpg").touch()
    names = ["there.jpg", *(f"gone{number}.jpg" for number in range(5))]
    with pytest.raises(UserError) as caught:
        locate_pictures(names, tmp_path, "labels/train.json")
    message = str(caught.value)
    assert message.startswith(f"--data {tmp_path}: 5 of the 6 pictures that labels/train.json lists are not there")
    assert "gone0.jpg, gone1.jpg, gone2.jpg and 2 more" in message
    assert "\n" not in message


def test_every_folder_is_listed_once(tmp_path, monkeypatch):
    import os

    for number in range(50):
        (tmp_path / f"{number}.jpg").touch()
    listed = []
    real = os.scandir
    monkeypatch.setattr("src.data.dataset.os.scandir", lambda folder: listed.append(str(folder)) or real(folder))
    assert len(locate_pictures([f"{number}.jpg" for number in range(50)], tmp_path, "x")) == 50
    assert listed == [str(tmp_path)]
