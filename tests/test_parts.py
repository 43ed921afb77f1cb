"""The images of training and evaluation: which are used, with which labels, and where they are found."""

import dataclasses
from pathlib import Path

import pytest
import torch

from src.data.coco import write_coco_labels
from src.data.labels import LabelledImages, LabelMatrix
from src.data.metadata import Metadata
from src.data.parts import EvaluationSet, find_image_root, load_evaluation_set, load_training_set
from src.data.split import make_split
from src.errors import UserError

LABELS = ("cat", "dog", "bird", "fish", "cow")
SPLIT = make_split(LABELS, [4, 1], [0, 3], torch.ones(2, 5), name="x", source="x")  # seen dog, cow; bird is neither


def labels(path: Path, rows: dict[str, str]) -> Path:
    """A label file: file name -> its labels."""
    targets = torch.zeros(len(rows), len(LABELS), dtype=torch.int8)
    for row, names in enumerate(rows.values()):
        targets[row, [LABELS.index(name) for name in names.split()]] = 1
    write_coco_labels(
        path, LabelledImages(tuple(range(1, len(rows) + 1)), tuple(rows), LabelMatrix.from_dense(targets)), LABELS
    )
    return path


TRAIN = {"a.jpg": "dog cat", "b.jpg": "cat fish", "c.jpg": "cow dog bird", "d.jpg": "", "e.jpg": "cow"}


@pytest.fixture
def folder(tmp_path):
    """A metadata folder ``m`` that records its images in ``m/images``."""
    (tmp_path / "m" / "images").mkdir(parents=True)
    for name in "abcdefgh":
        (tmp_path / "m" / "images" / f"{name}.jpg").touch()
    return tmp_path / "m"


def own(folder: Path, **changes: object) -> Metadata:
    return dataclasses.replace(Metadata(folder, "SDL", SPLIT, image_root=folder / "images"), **changes)


def test_training_has_the_images_with_a_seen_label_and_the_seen_columns_in_order(folder):
    training = load_training_set(own(folder, train=labels(folder / "train.json", TRAIN)), None)
    assert [path.name for path in training.paths] == ["a.jpg", "c.jpg", "e.jpg"]
    assert SPLIT.names(SPLIT.seen) == ["dog", "cow"]
    assert training.targets.dense().tolist() == [[1, 0], [1, 1], [0, 1]]
    assert training.targets.dense().dtype == torch.int8
    assert training.num_without_label == 2


def test_images_left_out_of_training_need_not_exist(folder):
    (folder / "images" / "b.jpg").unlink()
    assert len(load_training_set(own(folder, train=labels(folder / "train.json", TRAIN)), None).paths) == 3


def test_training_without_any_seen_label_is_an_error(folder):
    path = labels(folder / "train.json", {"a.jpg": "cat", "b.jpg": "bird"})
    with pytest.raises(UserError, match=r"train\.json: no image has a seen label"):
        load_training_set(own(folder, train=path), None)


def test_target_columns_and_word_vectors_are_selected_together(folder):
    split = dataclasses.replace(SPLIT, word_vectors=torch.tensor([[1.0, 2, 3, 4, 5], [0, 0, 0, 0, 1]]))
    training = load_training_set(own(folder, split=split, train=labels(folder / "train.json", TRAIN)), None)
    assert (training.split.labels, training.split.seen, training.split.unseen) == (("dog", "cow"), (0, 1), ())
    assert training.split.word_vectors.tolist() == [[2, 5], [0, 1]]
    chosen = training.select_labels([1]).select_rows(torch.tensor([2, 0]))
    assert (chosen.split.labels, chosen.split.seen) == (("cow",), (0,))
    assert chosen.split.word_vectors.tolist() == [[5], [1]]
    assert chosen.targets.dense().tolist() == [[1], [0]]
    assert [path.name for path in chosen.paths] == ["e.jpg", "a.jpg"]


def test_evaluation_has_all_images_and_all_columns(folder):
    evaluation = load_evaluation_set(own(folder, val=labels(folder / "val.json", TRAIN)), None)
    assert [path.name for path in evaluation.paths] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"]
    expected = [[1, 1, 0, 0, 0], [1, 0, 0, 1, 0], [0, 1, 1, 0, 1], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1]]
    assert evaluation.targets.dense().tolist() == expected
    for mask in (evaluation.in_zero_shot, evaluation.in_generalized):
        assert mask.dtype == torch.bool
        assert mask.tolist() == [True] * 5


VAL = {"a.jpg": "dog cat", "b.jpg": "dog", "c.jpg": "cow fish"}


@pytest.mark.parametrize(
    ("unseen", "names", "zero_shot", "generalized"),
    [
        ({"c.jpg": "cow fish", "a.jpg": "dog cat"}, "abc", [True, False, True], [True] * 3),
        ({"f.jpg": "fish", "a.jpg": "dog cat"}, "abcf", [True, False, False, True], [True, True, True, False]),
        ({"g.jpg": "fish", "f.jpg": "cat"}, "abcgf", [False] * 3 + [True] * 2, [True] * 3 + [False] * 2),
        ({}, "abc", [False] * 3, [True] * 3),
    ],
    ids=["a subset", "one more", "none in common", "empty"],
)
def test_the_two_lists_of_the_released_code_are_merged(folder, unseen, names, zero_shot, generalized):
    metadata = own(
        folder,
        kind="COCO",
        val=labels(folder / "val_17_48.json", VAL),
        val_unseen=labels(folder / "val_unseen.json", unseen),
    )
    evaluation = load_evaluation_set(metadata, None)
    assert [path.stem for path in evaluation.paths] == list(names)
    assert evaluation.in_zero_shot.dtype == evaluation.in_generalized.dtype == torch.bool
    assert evaluation.in_zero_shot.tolist() == zero_shot
    assert evaluation.in_generalized.tolist() == generalized
    expected = {**VAL, **unseen}
    for path, row in zip(evaluation.paths, evaluation.targets.dense(), strict=True):
        assert {LABELS[column] for column in row.nonzero()[:, 0]} == set(expected[path.name].split())


def test_ground_truth_of_readable_images_keeps_the_images_of_each_setting():
    targets = LabelMatrix.from_dense(torch.tensor([[1, 0], [0, 1], [1, 1], [0, 0]]))
    in_zero_shot, in_generalized = torch.tensor([True, False, True, False]), torch.tensor([False, True, True, True])
    evaluation = EvaluationSet([Path(name) for name in "abcd"], targets, in_zero_shot, in_generalized)
    truth = evaluation.ground_truth(torch.tensor([1, 2, 3]))  # the first image cannot be read
    assert truth.zero_shot_rows.tolist() == [1]
    assert truth.generalized_rows.tolist() == [0, 1, 2]
    assert truth.dense().tolist() == [[0, 1], [1, 1], [0, 0]]


def test_lists_are_merged_by_file_name_not_by_id(folder):
    """Both lists number their images from 1."""
    metadata = own(
        folder, val=labels(folder / "v.json", {"a.jpg": "dog"}), val_unseen=labels(folder / "u.json", {"b.jpg": "cat"})
    )
    assert [path.name for path in load_evaluation_set(metadata, None).paths] == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize(
    ("kind", "load", "name"),
    [
        ("SDL", load_training_set, "train.json"),
        ("SDL", load_evaluation_set, "val.json"),
        ("COCO", load_training_set, "zs_split/train_17_48.json"),
        ("COCO", load_evaluation_set, "zs_split/val_17_48.json"),
        ("NUS_WIDE", load_evaluation_set, "zs_split/val_17_48.json"),
    ],
)
def test_a_missing_label_file_is_named_as_the_folder_would_have_it(folder, kind, load, name):
    with pytest.raises(UserError) as caught:
        load(own(folder, kind=kind), None)
    assert f"{folder} has no {name}" in str(caught.value)


@pytest.mark.parametrize("load", [load_training_set, load_evaluation_set])
def test_missing_images_are_named_with_their_label_file(folder, load):
    (folder / "images" / "c.jpg").unlink()
    path = labels(folder / "labels.json", TRAIN)
    with pytest.raises(UserError) as caught:
        load(own(folder, train=path, val=path), None)
    assert f"--data {folder / 'images'}: 1 of the " in str(caught.value)
    assert "labels.json lists are not there (c.jpg)" in str(caught.value)


def test_data_takes_precedence_over_the_recorded_folder(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    assert find_image_root(own(folder), tmp_path / "elsewhere") == tmp_path / "elsewhere"
    assert find_image_root(own(folder), str(tmp_path / "elsewhere")) == tmp_path / "elsewhere"


def test_data_that_is_the_metadata_folder_means_its_recorded_images(folder, monkeypatch):
    for spelling in (folder, str(folder) + "/", folder / "images" / ".."):
        assert find_image_root(own(folder), spelling) == folder / "images"
    monkeypatch.chdir(folder.parent)
    assert find_image_root(own(folder), "m") == folder / "images"


def test_data_that_is_a_released_metadata_folder_holds_the_images(folder):
    assert find_image_root(own(folder, kind="COCO", image_root=None), folder) == folder


def test_no_image_folder(folder):
    with pytest.raises(UserError, match=rf"--data is needed: {folder} does not say where its images are"):
        find_image_root(own(folder, image_root=None), None)


def test_a_missing_image_folder_is_named(folder, tmp_path):
    with pytest.raises(UserError, match=r"--data .*gone: no such folder$"):
        find_image_root(own(folder), tmp_path / "gone")
    with pytest.raises(UserError, match=rf"--data .*moved: no such folder \(recorded in {folder}; give --data\)"):
        find_image_root(own(folder, image_root=tmp_path / "moved"), None)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file: no such folder"):
        find_image_root(own(folder), tmp_path / "file")


def test_real_images_with_real_labels(shared_data):
    """The released layout over the real miniature of COCO: every image is found and opens."""
    from src.data.images import read_image
    from src.data.official import read_coco_split

    tiny = shared_data / "coco_tiny"
    split = read_coco_split(shared_data / "coco")
    metadata = Metadata(
        tiny,
        "COCO",
        split,
        train=tiny / "annotations" / "instances_train2017.json",
        val=tiny / "annotations" / "instances_val2017.json",
    )
    training = load_training_set(metadata, tiny)
    assert len(training.paths) + training.num_without_label == 50
    assert training.targets.shape == (len(training.paths), 48)
    assert (training.targets.dense().sum(dim=1) > 0).all()
    evaluation = load_evaluation_set(metadata, tiny)
    assert len(evaluation.paths) == 50
    assert read_image(evaluation.paths[0]).mode == "RGB"


def test_an_image_in_both_lists_has_the_labels_of_either(folder):
    metadata = own(
        folder,
        val=labels(folder / "v.json", {"a.jpg": "dog", "b.jpg": ""}),
        val_unseen=labels(folder / "u.json", {"b.jpg": "cat", "a.jpg": "fish"}),
    )
    evaluation = load_evaluation_set(metadata, None)
    assert [path.stem for path in evaluation.paths] == ["a", "b"]
    assert evaluation.targets.dense().tolist() == [[0, 1, 0, 1, 0], [1, 0, 0, 0, 0]]
