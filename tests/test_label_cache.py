"""Cached labels equal the file's, follow its content, and can be deleted or damaged at any time."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from src.data import label_cache
from src.data.coco import read_coco_labels, write_coco_labels
from src.data.label_cache import cached_coco_labels
from src.data.labels import LabelledImages, LabelMatrix
from tests.test_labels import matrix

LABELS = [f"label {column}" for column in range(7)]


@pytest.fixture(autouse=True)
def cache_small_files(monkeypatch):
    monkeypatch.setattr(label_cache, "MIN_CACHED_BYTES", 0)


@pytest.fixture
def reads(monkeypatch) -> list[Path]:
    """The JSON files that were read."""
    paths = []

    def read(path, labels):
        paths.append(path)
        return read_coco_labels(path, labels)

    monkeypatch.setattr(label_cache, "read_coco_labels", read)
    return paths


def images(seed: int = 0) -> LabelledImages:
    ids = (1, 2, 3, "04", "fünf", 6, 7, 8, 9, 10, 11, 12)
    ordered = tuple(sorted(ids, key=lambda number: (isinstance(number, str), number)))
    return LabelledImages(ordered, tuple(f"ü/{number}\n.jpg" for number in ordered), matrix(seed=seed)[0])


def assert_equal(read: LabelledImages, expected: LabelledImages) -> None:
    assert read.image_ids == expected.image_ids
    assert read.file_names == expected.file_names
    assert torch.equal(read.targets.dense(), expected.targets.dense())
    assert read.targets.shape == expected.targets.shape


def test_the_second_read_is_equal_and_leaves_the_json_alone(tmp_path, reads):
    path = tmp_path / "train.json"
    write_coco_labels(path, images(), LABELS)
    first = cached_coco_labels(path, LABELS, tmp_path / "cache")
    again = cached_coco_labels(path, LABELS, tmp_path / "cache")
    assert reads == [path]
    for read in (first, again):
        assert_equal(read, images())


def test_changed_content_of_the_same_size_and_time_is_read_anew(tmp_path, reads):
    path = tmp_path / "train.json"
    write_coco_labels(path, images(), LABELS)
    before = path.stat()
    cached_coco_labels(path, LABELS, tmp_path / "cache")
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"image_id":1,', '"image_id":2,', 1), encoding="utf-8")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert_equal(cached_coco_labels(path, LABELS, tmp_path / "cache"), read_coco_labels(path, LABELS))
    assert len(reads) == 2
    assert len(list((tmp_path / "cache").iterdir())) == 1  # the outdated one is gone


def test_other_labels_are_other_columns(tmp_path, reads):
    path = tmp_path / "train.json"
    write_coco_labels(path, images(), LABELS)
    cached_coco_labels(path, LABELS, tmp_path / "cache")
    turned = cached_coco_labels(path, LABELS[::-1], tmp_path / "cache")
    assert torch.equal(turned.targets.dense(), images().targets.dense().flip(1))
    assert len(reads) == 2


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"PK" + data[2:30]]
)
def test_a_damaged_file_is_reported_and_made_anew(tmp_path, reads, capsys, damage):
    path = tmp_path / "train.json"
    write_coco_labels(path, images(), LABELS)
    cached_coco_labels(path, LABELS, tmp_path / "cache")
    (cached,) = (tmp_path / "cache").iterdir()
    cached.write_bytes(damage(cached.read_bytes()))
    assert_equal(cached_coco_labels(path, LABELS, tmp_path / "cache"), images())
    assert "reading train.json again" in capsys.readouterr().err
    assert_equal(cached_coco_labels(path, LABELS, tmp_path / "cache"), images())
    assert len(reads) == 2


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("offsets", lambda array: array[:-1]),
        ("offsets", lambda array: array[::-1]),
        ("offsets", lambda array: array * 2),
        ("columns", lambda array: array + 7),
        ("columns", lambda array: array - 7),
        ("columns", lambda array: array[::-1]),
        ("columns", lambda array: array.astype(np.int64)),
        ("values", lambda array: array[1:]),
        ("values", lambda array: np.full_like(array, -128)),
        ("unlisted", lambda array: array + 1),
        ("unlisted", lambda array: array[:, None]),
        ("image_ids", lambda array: np.frombuffer(b"[1]", np.uint8)),
        ("image_ids", lambda array: np.frombuffer(json.dumps([1] * 12).encode(), np.uint8)),
        ("file_names", lambda array: np.frombuffer(json.dumps([None] * 12).encode(), np.uint8)),
    ],
)
def test_arrays_of_another_form_are_read_anew(tmp_path, reads, capsys, name, change):
    path = tmp_path / "train.json"
    write_coco_labels(path, images(), LABELS)
    cached_coco_labels(path, LABELS, tmp_path / "cache")
    (cached,) = (tmp_path / "cache").iterdir()
    with np.load(cached) as content:
        arrays = dict(content)
    np.savez(cached, **{**arrays, name: change(arrays[name])})
    assert_equal(cached_coco_labels(path, LABELS, tmp_path / "cache"), images())
    assert "reading train.json again" in capsys.readouterr().err
    np.savez_compressed(cached, **arrays)  # which may grow to any size
    assert_equal(cached_coco_labels(path, LABELS, tmp_path / "cache"), images())
    assert "its arrays are packed" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_reported_and_the_labels_are_read(tmp_path, capsys):
    path = tmp_path / "train.json"
    write_coco_labels(path, images(), LABELS)
    (tmp_path / "cache").write_text("a file is in the way")
    assert_equal(cached_coco_labels(path, LABELS, tmp_path / "cache"), images())
    assert "the labels are not cached" in capsys.readouterr().err


def test_only_files_of_the_same_part_are_replaced(tmp_path):
    for name in ("train", "val", "train-more"):
        write_coco_labels(tmp_path / f"{name}.json", images(len(name)), LABELS)
        cached_coco_labels(tmp_path / f"{name}.json", LABELS, tmp_path / "cache")
    (tmp_path / "cache" / "train-notes.npz").touch()
    write_coco_labels(tmp_path / "train.json", images(9), LABELS)
    cached_coco_labels(tmp_path / "train.json", LABELS, tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_small_files_are_not_cached(tmp_path, monkeypatch):
    monkeypatch.setattr(label_cache, "MIN_CACHED_BYTES", 1 << 20)
    write_coco_labels(tmp_path / "train.json", images(), LABELS)
    cached_coco_labels(tmp_path / "train.json", LABELS, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_partly_labelled_images_stay_partly_labelled(tmp_path):
    unlisted = torch.tensor([-1, 0], dtype=torch.int8)
    targets = LabelMatrix.from_entries(
        torch.tensor([0]), torch.tensor([3]), torch.tensor([0]), unlisted=unlisted, num_labels=7
    )
    path = tmp_path / "train.json"
    write_coco_labels(path, LabelledImages((1, 2), ("a", "b"), targets), LABELS)
    for _ in range(2):
        read = cached_coco_labels(path, LABELS, tmp_path / "cache")
        assert read.targets.dense().tolist() == [[-1, -1, -1, 0, -1, -1, -1], [0] * 7]
