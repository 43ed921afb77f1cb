"""The feature cache: its key, damaged files and folders that cannot be written."""

from __future__ import annotations

import os
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from src.embedding import Embedded
from src.training.feature_cache import FeatureSettings, cached_features, feature_key
from tests.helpers import write_images

SETTINGS = FeatureSettings("tiny", 32, dtype=torch.bfloat16)


def features(value: float = 1.0) -> Embedded:
    return Embedded(torch.full((3, 4), value), torch.tensor([0, 2, 3]), ("1.png: broken",))


def weights(value: float = 1.0) -> dict[str, Tensor]:
    return {"a": torch.full((2, 3), value), "b": torch.tensor(5), "c": torch.ones(3, dtype=torch.bfloat16)}


def never() -> Embedded:
    return pytest.fail("computed, though the cache has it")


def same(first: Embedded, second: Embedded) -> bool:
    return (
        torch.equal(first.outputs, second.outputs) and torch.equal(first.rows, second.rows) and first.bad == second.bad
    )


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    return [str(path) for path in write_images(tmp_path / "images", 3)]


def test_key_depends_on_the_images_and_not_on_the_spelling_of_their_paths(images, monkeypatch):
    key = feature_key(images, weights(), SETTINGS)
    monkeypatch.chdir(Path(images[0]).parent)
    assert feature_key([os.path.basename(path) for path in images], weights(), SETTINGS) == key
    keys = {feature_key(paths, weights(), SETTINGS) for paths in (images, images[::-1], images[:2], images[1:], [])}
    assert len(keys) == 5


def test_key_changes_with_size_time_and_absence_of_an_image(images):
    stamp = os.stat(images[1])
    keys = [feature_key(images, weights(), SETTINGS)]
    Path(images[1]).write_bytes(Path(images[1]).read_bytes() + b" ")
    os.utime(images[1], ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    keys.append(feature_key(images, weights(), SETTINGS))
    os.utime(images[1], ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1_000_000_000))
    keys.append(feature_key(images, weights(), SETTINGS))
    os.unlink(images[1])  # reading it fails later, and is reported as for any unreadable image
    keys.append(feature_key(images, weights(), SETTINGS))
    assert len(set(keys)) == 4


@pytest.mark.parametrize(
    "other",
    [
        {**weights(), "a": weights()["a"] + 1e-6},
        {**weights(), "b": torch.tensor(6)},
        {**weights(), "c": -torch.ones(3, dtype=torch.bfloat16)},
        {**weights(), "d": torch.ones(1)},
        {"a": weights()["a"], "b": torch.tensor(5)},
        {"aa": weights()["a"], "b": torch.tensor(5), "c": torch.ones(3, dtype=torch.bfloat16)},
    ],
)
def test_key_changes_with_any_weight(other, images):
    assert feature_key(images, other, SETTINGS) != feature_key(images, weights(), SETTINGS)


def test_key_does_not_depend_on_the_order_or_layout_of_the_weights(images):
    key = feature_key(images, weights(), SETTINGS)
    reordered = dict(reversed(weights().items()))
    reordered["a"] = torch.full((3, 2), 1.0).t()  # not contiguous
    assert feature_key(images, reordered, SETTINGS) == key


OTHERS = {
    "backbone": "other",
    "image_size": 33,
    "interpolation": "bicubic",
    "exact": True,
    "dtype": torch.float16,
    "device": "cuda",
    "channels_last": True,
    "inplace_abn": True,
    "transform_version": SETTINGS.transform_version + 1,
    "packages": ("timm 99",),
}


@pytest.mark.parametrize("name", [field.name for field in fields(FeatureSettings)])
def test_key_changes_with_each_setting(name, images):
    other = replace(SETTINGS, **{name: OTHERS[name]})
    assert feature_key(images, weights(), other) != feature_key(images, weights(), SETTINGS)


@pytest.mark.parametrize("package", ["torch", "timm", "PIL", "numpy"])
def test_key_has_the_versions_of_the_packages(package):
    assert f"{package} {sys.modules[package].__version__}" in SETTINGS.packages


def test_features_are_computed_once(tmp_path):
    folder = tmp_path / "cache" / "deep"
    first = cached_features(folder, "key", 4, 4, features)
    assert same(first, features())
    assert same(cached_features(folder, "key", 4, 4, never), features())
    assert os.listdir(folder) == ["key.pt"]


NAN = torch.full((3, 4), torch.nan)
ROWS = torch.tensor([0, 2, 3])


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    "content",
    [
        b"", b"hello", 0.5, [], {"outputs": None}, {"outputs": [1, 2, 3]}, {"outputs": torch.ones(3, 3)},
        {"outputs": torch.ones(3)}, {"outputs": torch.ones(3, 4, 1)}, {"outputs": torch.ones(3, 4).double()},
        {"outputs": torch.ones(3, 4).to_sparse()}, {"outputs": NAN}, {"outputs": 1 / torch.zeros(3, 4)},
        {"rows": ROWS[:2]}, {"rows": ROWS.float()}, {"rows": ROWS - 1}, {"rows": ROWS + 1}, {"rows": ROWS.flip(0)},
        {"rows": torch.tensor([0, 2, 2])}, {"rows": torch.tensor(3)}, {"rows": None}, {"bad": "text"}, {"bad": [1]},
        {"bad": None}, {"rows": ROWS[:0]}, {"outputs": torch.ones(0, 9)},
    ],
)  # fmt: skip
def test_file_of_another_form_is_computed_again_and_replaced(content, tmp_path, capsys):
    cached_features(tmp_path, "key", 4, 4, features)
    path = tmp_path / "key.pt"
    whole = path.read_bytes()
    if isinstance(content, dict):
        torch.save({**torch.load(path, weights_only=True), **content}, path)
    elif isinstance(content, list):
        torch.save(content, path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else whole[: int(len(whole) * content)])
    assert same(cached_features(tmp_path, "key", 4, 4, lambda: features(2.0)), features(2.0))
    assert capsys.readouterr().err.startswith("computing the features again: ")
    assert same(cached_features(tmp_path, "key", 4, 4, never), features(2.0))


def test_features_of_no_readable_image_are_kept(tmp_path):
    none = Embedded(torch.empty(0, 0), torch.empty(0, dtype=torch.long), ("1.png: broken",))
    cached_features(tmp_path, "key", 4, 4, lambda: none)
    assert same(cached_features(tmp_path, "key", 4, 4, never), none)


@pytest.mark.parametrize("kind", ["folder", "fifo"])
def test_name_that_is_taken_by_another_thing_is_reported(kind, tmp_path, capsys):
    path = tmp_path / "key.pt"
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    assert same(cached_features(tmp_path, "key", 4, 4, features), features())
    assert capsys.readouterr().err.startswith("the features are not kept for the next run: cannot write")


def test_unwritable_folder_is_reported_and_features_are_returned(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert same(cached_features(tmp_path / "file" / "cache", "key", 4, 4, features), features())
    captured = capsys.readouterr()
    assert captured.err.startswith("the features are not kept for the next run: cannot write")
    assert captured.out == ""


def test_full_disk_is_reported_and_features_are_returned(tmp_path, capsys):
    resource = pytest.importorskip("resource", reason="limits file sizes as POSIX systems can")
    large = Embedded(torch.zeros(1000, 100), torch.arange(1000), ())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        assert same(cached_features(tmp_path, "key", 1000, 100, lambda: large), large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "the features are not kept" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []
