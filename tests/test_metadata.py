"""Metadata folders: round trips, detection of kinds, and other people's files stay untouched."""

import json
import os
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from src.data import metadata_folder
from src.data import metadata_writer as module
from src.data.coco import COCO_CLASSES, read_coco_labels
from src.data.labels import LabelledImages, LabelMatrix
from src.data.metadata import ExtraWords, detect_kind, load_metadata
from src.data.metadata_folder import check_output_folder
from src.data.metadata_writer import MetadataContent, write_metadata
from src.data.split import ZeroShotSplit, make_split
from src.errors import UserError
from src.utils.manifest import NAME

LABELS = ("cat", "hot dog", "naïve", "fish")


def split(name: str = "tiny") -> ZeroShotSplit:
    vectors = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    return make_split(LABELS, [0, 2], [3], vectors, name=name, source="here")


def part(first: int) -> LabelledImages:
    targets = torch.tensor([[1, 0, 0, 1], [0, 0, 0, 0]], dtype=torch.int8)
    return LabelledImages((first, first + 1), (f"{first}.jpg", f"{first + 1}.jpg"), LabelMatrix.from_dense(targets))


def write(folder: Path, **options: object) -> Path:
    settings = {"split": split(), "image_root": "images", "word_vector_source": "a test", **options}
    overwrite = settings.pop("overwrite", False)
    write_metadata(folder, MetadataContent(parts={"train": part(1), "val": part(5)}, **settings), overwrite=overwrite)
    return folder


def everything_below(folder: Path) -> dict[str, bytes]:
    """The content of all files but the record of them."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != NAME)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def edit(folder: Path, **changes: object) -> None:
    path = folder / "split.json"
    content = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}), encoding="utf-8")


def test_round_trip(tmp_path):
    extra = ExtraWords(("the", "of"), torch.randn(5, 2))
    read = load_metadata(write(tmp_path / "new" / "folder", extra_words=extra))
    assert (read.kind, read.folder) == ("SDL", tmp_path / "new" / "folder")
    expected = split()
    assert (read.split.labels, read.split.name) == (LABELS, "tiny")
    assert (read.split.seen, read.split.unseen) == (expected.seen, expected.unseen)
    assert torch.equal(read.split.word_vectors, expected.word_vectors)
    assert read.image_root == read.folder / "images"
    assert read.extra_words.words == extra.words
    assert torch.equal(read.extra_words.vectors, extra.vectors)
    for path, written in ((read.train, part(1)), (read.val, part(5))):
        images = read_coco_labels(path, LABELS)
        assert (images.image_ids, images.file_names) == (written.image_ids, written.file_names)
        assert torch.equal(images.targets.dense(), written.targets.dense())
    assert read.val_unseen is None


def test_the_folder_holds_no_pickle(tmp_path):
    write(tmp_path / "m", extra_words=ExtraWords(("the",), torch.ones(5, 1)))
    for name in ("word_vectors.npy", "extra_words.npy"):
        np.load(tmp_path / "m" / name, allow_pickle=False)
    names = {path.name for path in (tmp_path / "m").iterdir()}
    assert names == {
        "split.json", "word_vectors.npy", "train.json", "val.json", "extra_words.json", "extra_words.npy", NAME
    }  # fmt: skip


def test_only_existing_parts_are_recorded(tmp_path):
    write_metadata(tmp_path / "m", MetadataContent(split(), {"val": part(1)}))
    read = load_metadata(tmp_path / "m")
    assert (read.train, read.image_root, read.extra_words) == (None, None, None)
    assert read.val is not None


def test_an_absolute_image_folder_stays_absolute_and_a_relative_one_moves_along(tmp_path):
    write(tmp_path / "a", image_root=tmp_path / "images")
    write(tmp_path / "b", image_root="images")
    shutil.move(tmp_path / "a", tmp_path / "deeper" / "a")
    shutil.move(tmp_path / "b", tmp_path / "deeper" / "b")
    assert load_metadata(tmp_path / "deeper" / "a").image_root == tmp_path / "images"
    assert load_metadata(tmp_path / "deeper" / "b").image_root == tmp_path / "deeper" / "b" / "images"


def released_folder(folder: Path, kind: str) -> Path:
    folder.mkdir()
    files = {
        "COCO": {"cls_ids": {"train": {0}, "test": {1}}, "wordvec_array": np.ones((2, 80), dtype=np.float32)},
        "NUS_WIDE": {"classes": {0: "a", 1: "b"}, "unseen_classes": ["b"], "wordvec_array": np.ones((2, 2))},
    }[kind]
    for name, value in files.items():
        (folder / f"{name}.pickle").write_bytes(pickle.dumps(value))
    return folder


def test_three_kinds_are_detected(tmp_path):
    assert detect_kind(write(tmp_path / "own")) == "SDL"
    for kind in ("COCO", "NUS_WIDE"):
        folder = released_folder(tmp_path / kind, kind)
        assert detect_kind(folder) == kind
        assert load_metadata(folder, kind).kind == kind
        assert load_metadata(str(folder)).kind == kind
    assert load_metadata(tmp_path / "COCO").split.labels == COCO_CLASSES
    for nothing in (tmp_path, tmp_path / "gone", tmp_path / "own" / "split.json"):
        assert detect_kind(nothing) is None


@pytest.mark.parametrize("name", ["gone", "empty"])
def test_no_metadata_folder(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as caught:
        load_metadata(tmp_path / name)
    for words in (str(tmp_path / name), "split.json", "prepare_data.py", "cls_ids.pickle", "classes.pickle"):
        assert words in str(caught.value)


@pytest.mark.parametrize("missing", [None, "train_17_48", "val_17_48", "val_unseen"])
def test_the_released_codes_label_files_are_found_where_they_are(tmp_path, missing):
    folder = released_folder(tmp_path / "coco", "COCO")
    names = ("train_17_48", "val_17_48", "val_unseen")
    (folder / "zs_split").mkdir()
    for name in names:
        if name != missing:
            (folder / "zs_split" / f"{name}.json").touch()
    read = load_metadata(folder)
    found = dict(zip(names, (read.train, read.val, read.val_unseen), strict=True))
    for name, path in found.items():
        assert path == (None if name == missing else folder / "zs_split" / f"{name}.json")
    assert read.image_root is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "zero-shot-split/99"}, "not of the format 'zero-shot-split/1'"),
        ({"format": ...}, "required field `format`"),
        ({"labels": ...}, "required field `labels`"),
        ({"seen": ["cat", "unicorn"]}, "unicorn"),
        ({"seen": None}, "`$.seen`"),
        ({"seen": []}, "no seen label"),
        ({"unseen": ["cat"]}, "both seen and unseen: cat"),
        ({"labels": ["cat", "cat", "naïve", "fish"]}, "repeated labels: cat"),
        ({"word_vectors": "other.npy"}, "other.npy"),
        ({"word_vectors": ["a"]}, "`$.word_vectors`"),
        ({"train": "other.json"}, "names other.json, which is not there"),
        ({"extra_words": {}}, "required field `words`"),
        ({"extra_words": {"words": "none.json", "vectors": "none.npy"}}, "none.json"),
    ],
)
def test_a_wrong_split_file_is_named(tmp_path, changes, words):
    folder = write(tmp_path / "m")
    edit(folder, **changes)
    with pytest.raises(UserError) as caught:
        load_metadata(folder)
    assert words in str(caught.value)
    assert str(folder) in str(caught.value)


def save_archive(path: Path) -> None:
    with path.open("wb") as stream:
        np.savez(stream, a=np.ones(3))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:100]),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
        lambda path: np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True),
        lambda path: np.save(path, np.array(["text"])),
        lambda path: np.save(path, np.ones((5, 3))),
        save_archive,
    ],
    ids=["truncated", "empty", "missing", "pickle inside", "text", "too few", "archive"],
)
@pytest.mark.parametrize("name", ["word_vectors.npy", "extra_words.npy"])
def test_damaged_vectors_are_named(tmp_path, name, damage):
    folder = write(tmp_path / "m", extra_words=ExtraWords(("a", "b"), torch.ones(5, 2)))
    damage(folder / name)
    with pytest.raises(UserError, match=str(folder)):
        load_metadata(folder)


def test_a_folder_that_is_not_empty_is_refused(tmp_path):
    write(tmp_path / "m")
    before = everything_below(tmp_path)
    with pytest.raises(UserError, match=r"--output .*m is not empty; .*--overwrite"):
        write(tmp_path / "m", split=split("other"))
    assert everything_below(tmp_path) == before


def test_overwrite_replaces_the_whole_folder_and_leaves_nothing_beside_it(tmp_path):
    write(tmp_path / "m", extra_words=ExtraWords(("the",), torch.ones(5, 1)))
    write(tmp_path / "m", split=split("other"), overwrite=True)
    assert load_metadata(tmp_path / "m").split.name == "other"
    assert not (tmp_path / "m" / "extra_words.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def make_foreign(folder: Path, kind: str) -> Path:
    if kind in ("COCO", "NUS_WIDE"):
        return released_folder(folder, kind)
    folder.mkdir()
    (folder / "precious.jpg").write_text("a photograph")
    content = {"another program's split": '{"train": [1], "val": [2]}', "damaged": "{", "list": "[]"}
    if kind in content:
        (folder / "split.json").write_text(content[kind])
    return folder


@pytest.mark.parametrize("kind", ["images", "COCO", "NUS_WIDE", "another program's split", "damaged", "list"])
def test_overwrite_refuses_a_folder_that_is_not_ours(tmp_path, kind):
    folder = make_foreign(tmp_path / "m", kind)
    before = everything_below(folder)
    with pytest.raises(UserError, match=r"replaces only folders that prepare_data\.py made"):
        write(folder, overwrite=True)
    with pytest.raises(UserError, match=r"replaces only folders that prepare_data\.py made"):
        check_output_folder(folder, overwrite=True)
    assert everything_below(folder) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_in_the_way_is_refused(tmp_path, overwrite):
    (tmp_path / "m").write_text("a file")
    with pytest.raises(UserError, match=r"m is a file"):
        write(tmp_path / "m", overwrite=overwrite)
    with pytest.raises(UserError, match=r"--output .*cannot be written"):
        write(tmp_path / "m" / "below", overwrite=overwrite)
    assert (tmp_path / "m").read_text() == "a file"


@pytest.mark.parametrize("at", ["word vectors", "first part", "second part", "split file", "changing over"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["error", "interrupt"])
@pytest.mark.parametrize("earlier", [False, True], ids=["new", "overwrite"])
def test_a_failing_write_leaves_no_half_made_folder_and_the_earlier_one_whole(
    tmp_path, monkeypatch, at, error, earlier
):
    target = tmp_path / "out" / "m"
    target.parent.mkdir()
    if earlier:
        write(target)
    before = everything_below(target.parent)
    calls = []

    def failing(real, from_call: int):
        def call(*arguments: object, **options: object) -> object:
            calls.append(arguments)
            if len(calls) == from_call:
                raise error
            return real(*arguments, **options)

        return call

    owner, name, from_call = {
        "word vectors": (np, "save", 1),
        "first part": (module, "write_coco_labels", 1),
        "second part": (module, "write_coco_labels", 2),
        "split file": (metadata_folder, "write_json", 1),
        "changing over": (os, "replace", 5),  # after those of the files in the hidden folder
    }[at]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, failing(getattr(owner, name), from_call))
        with pytest.raises(UserError if isinstance(error, OSError) else KeyboardInterrupt) as caught:
            write(target, split=split("other"), overwrite=earlier)
    assert len(calls) >= from_call
    if isinstance(error, OSError):
        assert re.match(rf"--output {target}: .*disk full", str(caught.value))
    assert everything_below(target.parent) == before
    assert [path.name for path in target.parent.iterdir()] == (["m"] if earlier else [])


def test_further_files_become_part_of_the_folder(tmp_path):
    write(tmp_path / "m", files={"report.txt": b"one\n", "images/1.jpg": b"drawn"})
    assert (tmp_path / "m" / "report.txt").read_bytes() == b"one\n"
    assert (tmp_path / "m" / "images" / "1.jpg").read_bytes() == b"drawn"


def test_folder_is_readable_by_others(tmp_path):
    write(tmp_path / "m")
    assert (tmp_path / "m").stat().st_mode & 0o777 == 0o755


def test_link_to_a_folder_is_kept(tmp_path):
    write(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write(tmp_path / "link", split=split("other"), overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert load_metadata(tmp_path / "real").split.name == "other"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_the_real_folders(shared_data):
    assert load_metadata(shared_data / "coco").kind == "COCO"
    assert load_metadata(shared_data / "nus_wide").kind == "NUS_WIDE"
    with pytest.raises(UserError, match="of kind COCO, not NUS_WIDE"):
        load_metadata(shared_data / "coco", "NUS_WIDE")
