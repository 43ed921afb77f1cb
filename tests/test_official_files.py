"""The released code's files as this project writes them: read back equal, and as plain as the released code needs."""

import json
import pickle
import pickletools
from pathlib import Path

import numpy as np
import pytest
import torch

from src.data.coco import COCO_CLASSES, read_coco_labels
from src.data.labels import LabelledImages, LabelMatrix
from src.data.metadata import load_metadata
from src.data.metadata_writer import MetadataContent, write_metadata
from src.data.official import write_official
from src.data.parts import load_evaluation_set, load_training_set
from src.data.split import ZeroShotSplit, make_split
from src.errors import UserError


def split(labels: tuple[str, ...], seen: list[int], unseen: list[int]) -> ZeroShotSplit:
    vectors = torch.nn.functional.normalize(
        torch.randn(5, len(labels), generator=torch.Generator().manual_seed(0)), dim=0
    )
    return make_split(labels, seen, unseen, vectors, name="x", source="x")


OWN = split(("ant", "bee", "cat", "dog"), [0, 2], [1, 3])
COCO = split(COCO_CLASSES, [0, 2, 5], [7, 8])


def images(num_labels: int, first: int, rows: list[list[int]]) -> LabelledImages:
    targets = torch.zeros(len(rows), num_labels, dtype=torch.int8)
    for row, columns in enumerate(rows):
        targets[row, columns] = 1
    numbers = tuple(range(first, first + len(rows)))
    return LabelledImages(numbers, tuple(f"{number}.jpg" for number in numbers), LabelMatrix.from_dense(targets))


def parts(num_labels: int, unseen: int) -> dict[str, LabelledImages]:
    return {
        "train": images(num_labels, 1, [[0], [0, 2], []]),
        "val": images(num_labels, 10, [[2], [unseen], [0, unseen], []]),
    }


@pytest.mark.parametrize(("form", "kind", "unseen"), [(OWN, "NUS_WIDE", 3), (COCO, "COCO", 8)])
def test_read_back(tmp_path, form, kind, unseen):
    write_official(tmp_path / "official", form, parts(len(form.labels), unseen))
    metadata = load_metadata(tmp_path / "official")
    assert metadata.kind == kind
    assert metadata.split.labels == form.labels
    assert (metadata.split.seen, metadata.split.unseen) == (form.seen, form.unseen)
    tolerance = 5e-4 if kind == "COCO" else 0  # the released COCO vectors are in half precision
    torch.testing.assert_close(metadata.split.word_vectors, form.word_vectors, atol=tolerance, rtol=tolerance)
    for number in (1, 2, 3, 10, 11, 12, 13):
        (tmp_path / f"{number}.jpg").touch()
    training = load_training_set(metadata, tmp_path)
    assert [path.name for path in training.paths] == ["1.jpg", "2.jpg"]
    evaluation = load_evaluation_set(metadata, tmp_path)
    assert [path.name for path in evaluation.paths] == ["10.jpg", "11.jpg", "12.jpg", "13.jpg"]
    assert evaluation.in_zero_shot.tolist() == [False, True, True, False]
    assert torch.equal(evaluation.targets.dense(), parts(len(form.labels), unseen)["val"].targets.dense())


def test_the_shapes_and_types_of_the_released_files(tmp_path):
    write_official(tmp_path / "coco", COCO, {})
    with open(tmp_path / "coco" / "cls_ids.pickle", "rb") as stream:
        assert pickle.load(stream) == {"train": {0, 2, 5}, "test": {7, 8}, "val": set()}
    with open(tmp_path / "coco" / "wordvec_array.pickle", "rb") as stream:
        array = pickle.load(stream)["wordvec_array"]
    assert (array.shape, array.dtype) == ((1, 5, 80), np.float16)
    write_official(tmp_path / "own", OWN, {})
    contents = []
    for name in ("classes", "unseen_classes", "wordvec_array"):
        with open(tmp_path / "own" / f"{name}.pickle", "rb") as stream:
            contents.append(pickle.load(stream))
    assert contents[0] == {0: "ant", 1: "bee", 2: "cat", 3: "dog"}
    assert contents[1] == ["bee", "dog"]
    assert (contents[2].shape, contents[2].dtype) == ((5, 4), np.float32)


@pytest.mark.parametrize("form", [OWN, COCO])
def test_the_pickles_name_no_module_that_an_old_numpy_lacks(tmp_path, form):
    write_official(tmp_path / "x", form, {})
    for path in (tmp_path / "x").glob("*.pickle"):
        names = {arg for opcode, arg, _ in pickletools.genops(path.read_bytes()) if opcode.name == "GLOBAL"}
        assert names <= {
            "numpy.core.multiarray _reconstruct",
            "numpy ndarray",
            "numpy dtype",
            "_codecs encode",
            "__builtin__ set",
        }


def test_the_label_files_have_what_the_released_reader_asks_for(tmp_path):
    write_official(tmp_path / "x", COCO, parts(80, 8))
    content = json.loads((tmp_path / "x" / "zs_split" / "val_17_48.json").read_text())
    assert [category["name"] for category in content["categories"]] == list(COCO_CLASSES)
    assert {"area", "iscrowd", "category_id", "image_id", "id"} <= content["annotations"][0].keys()
    names = {path.name for path in (tmp_path / "x" / "zs_split").iterdir()}
    assert names == {"train_17_48.json", "val_17_48.json", "val_unseen.json"}


def test_unknown_labels_are_left_out(tmp_path):
    """The released reader would take an annotation to ignore for a positive label."""
    targets = LabelMatrix.from_entries(
        torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2]), torch.tensor([1, -1, 0]),
        unlisted=torch.tensor([0, -1], dtype=torch.int8), num_labels=4,
    )  # fmt: skip
    write_official(tmp_path / "x", OWN, {"train": LabelledImages((1, 2), ("a", "b"), targets)})
    read = read_coco_labels(tmp_path / "x" / "zs_split" / "train_17_48.json", OWN.labels)
    assert read.targets.dense().tolist() == [[1, 0, 0, 0], [0, 0, 0, 0]]


def test_a_label_on_neither_side_cannot_be_said_in_the_nus_wide_form(tmp_path):
    form = split(("ant", "bee", "cat", "dog"), [0], [1])
    with pytest.raises(UserError, match=r"--official: .*cat, dog; leave the flag out"):
        write_official(tmp_path / "x", form, {})
    with pytest.raises(UserError, match="--official"):
        write_metadata(tmp_path / "m", MetadataContent(form, {}), official=True)
    assert list(tmp_path.iterdir()) == []


def test_as_a_sub_folder_of_a_metadata_folder(tmp_path):
    content = MetadataContent(OWN, parts(4, 3), files={"report.txt": "one\ntwo ü\n".encode()})
    write_metadata(tmp_path / "m", content, official=True)
    assert load_metadata(tmp_path / "m").kind == "SDL"
    assert load_metadata(tmp_path / "m" / "official").kind == "NUS_WIDE"
    assert (tmp_path / "m" / "report.txt").read_text(encoding="utf-8") == "one\ntwo ü\n"
    assert not list(Path(tmp_path / "m").glob("*.pickle"))


def test_the_real_coco_vectors_come_back_bit_for_bit(tmp_path, shared_data):
    real = load_metadata(shared_data / "coco")
    write_official(tmp_path / "x", real.split, {})
    again = load_metadata(tmp_path / "x").split
    assert torch.equal(again.word_vectors, real.split.word_vectors)
    assert (again.seen, again.unseen) == (real.split.seen, real.split.unseen)
