"""The feature cache: what its key depends on, and that no state of the folder stops a run."""

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

SETTINGS = FeatureSettings("tiny", 32)
SHAPE = (4, 4)  # three images that can be read, one that cannot


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


def test_the_key_is_a_file_name_and_stays_while_nothing_changes(images):
    key = feature_key(images, weights(), SETTINGS)
    assert key == feature_key(list(images), weights(), SETTINGS)
    assert len(key) == 32
    assert key.isalnum()


def test_the_key_does_not_depend_on_how_a_path_is_written(images, monkeypatch):
    key = feature_key(images, weights(), SETTINGS)
    monkeypatch.chdir(Path(images[0]).parent)
    assert feature_key([os.path.basename(path) for path in images], weights(), SETTINGS) == key


def test_the_key_changes_with_an_images_content(images):
    key = feature_key(images, weights(), SETTINGS)
    stamp = os.stat(images[1])
    Path(images[1]).write_bytes(Path(images[1]).read_bytes() + b" ")
    os.utime(images[1], ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # size alone must do
    assert feature_key(images, weights(), SETTINGS) != key


def test_the_key_changes_with_an_images_time(images):
    key = feature_key(images, weights(), SETTINGS)
    stamp = os.stat(images[1])
    os.utime(images[1], ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1_000_000_000))
    assert feature_key(images, weights(), SETTINGS) != key


def test_the_key_changes_with_which_images_in_which_order(images):
    keys = {feature_key(paths, weights(), SETTINGS) for paths in (images, images[::-1], images[:2], images[1:], [])}
    assert len(keys) == 5


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
def test_the_key_changes_with_any_weight(other, images):
    assert feature_key(images, other, SETTINGS) != feature_key(images, weights(), SETTINGS)


def test_the_key_does_not_depend_on_the_order_or_layout_of_the_weights(images):
    key = feature_key(images, weights(), SETTINGS)
    reordered = dict(reversed(weights().items()))
    reordered["a"] = torch.full((3, 2), 1.0).t()  # not contiguous
    assert feature_key(images, reordered, SETTINGS) == key


OTHERS = {
    "backbone": "other",
    "image_size": 33,
    "interpolation": "bicubic",
    "exact": True,
    "dtype": torch.bfloat16,
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


def test_key_tells_the_half_precisions_apart(images):
    keys = {feature_key(images, {}, replace(SETTINGS, dtype=dtype)) for dtype in (torch.float16, torch.bfloat16)}
    assert len(keys) == 2


@pytest.mark.parametrize("package", ["torch", "timm", "PIL", "numpy"])
def test_key_has_the_versions_of_the_packages(package):
    assert f"{package} {sys.modules[package].__version__}" in SETTINGS.packages


def test_an_image_that_is_gone_has_a_key_too(images):
    # reading it fails later, and is reported as for any unreadable image
    key = feature_key(images, weights(), SETTINGS)
    os.unlink(images[1])
    assert feature_key(images, weights(), SETTINGS) != key


def test_features_are_computed_once(tmp_path):
    folder = tmp_path / "cache" / "deep"
    first = cached_features(folder, "key", SHAPE, features)
    assert same(first, features())
    assert same(cached_features(folder, "key", SHAPE, never), features())
    assert os.listdir(folder) == ["key.pt"]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("content", ["cut short", "text", "empty", "other keys"])
def test_damaged_file_is_computed_again_and_replaced(content, tmp_path, capsys):
    cached_features(tmp_path, "key", SHAPE, features)
    path = tmp_path / "key.pt"
    if content == "other keys":
        torch.save({"outputs": torch.zeros(1)}, path)
    else:
        whole = path.read_bytes()
        path.write_bytes({"cut short": whole[: len(whole) // 2], "text": b"hello", "empty": b""}[content])
    assert same(cached_features(tmp_path, "key", SHAPE, lambda: features(2.0)), features(2.0))
    assert capsys.readouterr().err.startswith("computing the features again: ")
    assert same(cached_features(tmp_path, "key", SHAPE, never), features(2.0))


@pytest.mark.parametrize(
    "stored",
    [
        Embedded(torch.zeros(3, 5), torch.tensor([0, 2, 3]), ("1.png: broken",)),
        Embedded(torch.zeros(2, 4), torch.tensor([0, 2, 3]), ("1.png: broken",)),
        Embedded(torch.zeros(3, 4), torch.tensor([0, 2, 3]), ()),
        Embedded(torch.zeros(3, 4, dtype=torch.float16), torch.tensor([0, 2, 3]), ("1.png: broken",)),
    ],
)
def test_file_of_another_shape_is_computed_again(stored, tmp_path, capsys):
    torch.save({"outputs": stored.outputs, "rows": stored.rows, "bad": list(stored.bad)}, tmp_path / "key.pt")
    assert same(cached_features(tmp_path, "key", SHAPE, features), features())
    assert "does not hold features of 4 images, 4 of each" in capsys.readouterr().err
    assert same(cached_features(tmp_path, "key", SHAPE, never), features())


def test_a_folder_that_cannot_be_written_to_is_reported_and_the_features_are_there(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert same(cached_features(tmp_path / "file" / "cache", "key", SHAPE, features), features())
    captured = capsys.readouterr()
    assert captured.err.startswith("the features are not kept for the next run: cannot write")
    assert captured.out == ""


def test_a_full_disk_is_reported_and_the_features_are_there(tmp_path, capsys):
    resource = pytest.importorskip("resource", reason="limits file sizes as POSIX systems can")
    large = Embedded(torch.zeros(1000, 100), torch.arange(1000), ())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        assert same(cached_features(tmp_path, "key", (1000, 100), lambda: large), large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "the features are not kept" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_a_failing_computation_leaves_no_file(tmp_path):
    def fail() -> Embedded:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        cached_features(tmp_path / "cache", "key", SHAPE, fail)
    assert not (tmp_path / "cache").exists()
