"""COCO-format label files: columns come from the split, whatever the file's order, and faults are named."""

import contextlib
import io
import json
import random
from pathlib import Path

import pytest
import torch
from pycocotools.coco import COCO

from src.data.coco import COCO_CLASSES, read_coco_labels, write_coco_labels
from src.data.labels import LabelledImages, LabelMatrix
from src.errors import UserError

LABELS = ("cat", "dog", "bird", "fish")
# image id -> its labels; 20 has none
IMAGES = {30: ["dog", "fish"], 10: ["cat"], 20: [], 40: ["cat", "dog", "bird"]}
TARGETS = [[1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 1], [1, 1, 1, 0]]  # by ascending id
CATEGORY_IDS = {"cat": 7, "dog": 3, "bird": 90, "fish": 1}


def content(**changes: object) -> dict:
    pairs = [(image, label) for image, labels in IMAGES.items() for label in labels]
    return {
        "images": [{"id": image, "file_name": f"{image}.jpg"} for image in IMAGES],
        "annotations": [
            {"id": number, "image_id": image, "category_id": CATEGORY_IDS[label], "iscrowd": 0}
            for number, (image, label) in enumerate(pairs)
        ],
        "categories": [{"id": number, "name": name} for name, number in CATEGORY_IDS.items()],
        **changes,
    }


def file(folder: Path, value: object) -> Path:
    path = folder / "instances.json"
    text = value if isinstance(value, (str, bytes)) else json.dumps(value)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_labels_of_all_images_in_ascending_id(tmp_path):
    read = read_coco_labels(file(tmp_path, content()), LABELS)
    assert read.image_ids == (10, 20, 30, 40)
    assert read.file_names == ("10.jpg", "20.jpg", "30.jpg", "40.jpg")
    assert read.targets.dense().tolist() == TARGETS
    assert read.targets.dense().dtype == torch.int8
    assert len(read) == 4


@pytest.mark.parametrize("seed", range(5))
def test_order_in_the_file_does_not_matter(tmp_path, seed):
    shuffled = content()
    for section in shuffled.values():
        random.Random(seed).shuffle(section)
    read = read_coco_labels(file(tmp_path, shuffled), LABELS)
    assert read.targets.dense().tolist() == TARGETS
    assert read.image_ids == (10, 20, 30, 40)


def test_category_ids_do_not_matter(tmp_path):
    changed = content()
    for entry in (*changed["annotations"], *changed["categories"]):
        key = "category_id" if "category_id" in entry else "id"
        entry[key] = 1000 - entry[key]
    assert read_coco_labels(file(tmp_path, changed), LABELS).targets.dense().tolist() == TARGETS


def test_columns_follow_the_split(tmp_path):
    order = ("fish", "cat", "bird", "dog")
    read = read_coco_labels(file(tmp_path, content()), order)
    columns = [LABELS.index(label) for label in order]
    assert read.targets.dense().tolist() == [[row[column] for column in columns] for row in TARGETS]


def test_fewer_categories_than_labels_leave_their_columns_in_place(tmp_path):
    """The released code numbers the categories of the file, so that a missing one shifts all labels after it."""
    reduced = content()
    reduced["categories"] = [entry for entry in reduced["categories"] if entry["name"] != "cat"]
    reduced["annotations"] = [entry for entry in reduced["annotations"] if entry["category_id"] != CATEGORY_IDS["cat"]]
    read = read_coco_labels(file(tmp_path, reduced), LABELS)
    assert read.targets.dense().tolist() == [[0, *row[1:]] for row in TARGETS]


def test_crowds_and_repeated_annotations_count_once(tmp_path):
    doubled = content()
    doubled["annotations"] += [{**entry, "id": 100 + entry["id"], "iscrowd": 1} for entry in doubled["annotations"]]
    doubled["annotations"].append({"id": 999, "image_id": 20, "category_id": 3, "iscrowd": 1})
    expected = [row.copy() for row in TARGETS]
    expected[1][1] = 1
    assert read_coco_labels(file(tmp_path, doubled), LABELS).targets.dense().tolist() == expected


def test_no_images_and_no_annotations(tmp_path):
    read = read_coco_labels(file(tmp_path, content(annotations=[])), LABELS)
    assert read.targets.shape == (4, 4)
    assert not read.targets.dense().any()
    read = read_coco_labels(file(tmp_path, content(images=[], annotations=[])), LABELS)
    assert read.targets.shape == (0, 4)


def without(section: str, key: str) -> dict:
    changed = content()
    del changed[section][1][key]
    return changed


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (content(categories=[{"id": 1, "name": "unicorn"}, {"id": 2, "name": "cat"}]), ["no label", "unicorn"]),
        (content(annotations=[{"id": 1, "image_id": 77, "category_id": 7}]), ["annotation", "77"]),
        (content(annotations=[{"id": 1, "image_id": 10, "category_id": 55}]), ["annotation", "55"]),
        (json.dumps(content())[:-30], ["not whole JSON", "truncated"]),
        ("", ["not whole JSON"]),
        ("[]", ["no COCO-format file", "`object`"]),
        ({"images": [], "categories": []}, ["no COCO-format file", "`annotations`"]),
        ({"images": {}, "annotations": [], "categories": "all"}, ["no COCO-format file", "$.images"]),
        (without("images", "file_name"), ["file_name"]),
        (without("images", "id"), ["`id`", "$.images[1]"]),
        (without("annotations", "image_id"), ["image_id"]),
        (without("annotations", "category_id"), ["category_id"]),
        (without("categories", "name"), ["name"]),
        (content(images=[5]), ["$.images[0]"]),
        (content(images=[{"id": [1], "file_name": "a"}]), ["$.images[0].id"]),
        (content(images=[{"id": 10, "file_name": "a", "neg_category_ids": [55]}], annotations=[]), ["neg_cat", "55"]),
        (json.dumps(content()).replace("10.jpg", "\xff").encode("latin-1"), ["UTF-8"]),
        (content(images=[{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}]), ["id 1", "'a'", "'b'"]),
        (content(categories=[{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}]), ["id 1", "'cat'", "'dog'"]),
    ],
)
def test_faults_are_named_with_the_file(tmp_path, value, words):
    path = file(tmp_path, value)
    with pytest.raises(UserError) as caught:
        read_coco_labels(path, LABELS)
    message = str(caught.value)
    assert str(path) in message
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.json: No such file"):
        read_coco_labels(tmp_path / "gone.json", LABELS)


def test_round_trip_of_written_labels(tmp_path):
    generator = torch.Generator().manual_seed(0)
    targets = (torch.rand(9, 4, generator=generator) < 0.4).to(torch.int8)
    images = LabelledImages(
        tuple(range(100, 109)), tuple(f"d/ü{n}.jpg" for n in range(9)), LabelMatrix.from_dense(targets)
    )
    path = tmp_path / "new" / "train.json"
    write_coco_labels(path, images, LABELS)
    read = read_coco_labels(path, LABELS)
    assert (read.image_ids, read.file_names) == (images.image_ids, images.file_names)
    assert torch.equal(read.targets.dense(), targets)
    written = json.loads(path.read_text(encoding="utf-8"))
    assert [category["name"] for category in written["categories"]] == list(LABELS)
    assert len(written["annotations"]) == int(targets.sum())
    assert len({annotation["id"] for annotation in written["annotations"]}) == len(written["annotations"])


def test_unknown_labels_come_back(tmp_path):
    """A single unknown label is an annotation to ignore; a partly labelled image lists what it was searched for."""
    rows, columns, values = torch.tensor([[0, 0, 0, 2, 2], [0, 2, 3, 3, 1], [1, -1, 1, 1, 0]])
    targets = LabelMatrix.from_entries(rows, columns, values, unlisted=torch.tensor([0, 0, -1, -1]), num_labels=4)
    write_coco_labels(tmp_path / "x.json", LabelledImages((1, 2, 3, 4), tuple("abcd"), targets), LABELS)
    written = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert [image.get("neg_category_ids") for image in written["images"]] == [None, None, [2], []]
    assert [annotation.get("ignore") for annotation in written["annotations"]] == [None, 1, None, None]
    read = read_coco_labels(tmp_path / "x.json", LABELS).targets
    assert read.dense().tolist() == [[1, 0, -1, 1], [0, 0, 0, 0], [-1, 0, -1, 1], [-1, -1, -1, -1]]
    assert read.num_unknown() == 1 + 2 + 4


def test_many_unknown_labels_are_listed_by_their_image(tmp_path):
    labels = [f"label {column}" for column in range(30)]
    dense = torch.zeros(2, 30, dtype=torch.int8)
    dense[0, 3:14], dense[0, 20], dense[1, 5:8] = -1, 1, -1
    path = tmp_path / "x.json"
    write_coco_labels(path, LabelledImages((1, 2), ("a", "b"), LabelMatrix.from_dense(dense)), labels)
    written = json.loads(path.read_text(encoding="utf-8"))
    assert [image.get("not_exhaustive_category_ids") for image in written["images"]] == [list(range(4, 15)), None]
    marks = [(annotation["image_id"], annotation.get("ignore")) for annotation in written["annotations"]]
    assert marks == [(1, None), (2, 1), (2, 1), (2, 1)]
    assert torch.equal(read_coco_labels(path, labels).targets.dense(), dense)


@pytest.mark.parametrize("true", [1, True])
def test_an_object_to_ignore_beside_a_sure_one_leaves_the_label_positive(tmp_path, true):
    """Pascal VOC's difficult objects, as converters write them."""
    annotations = [
        {"id": 1, "image_id": 10, "category_id": 7, "ignore": true},
        {"id": 2, "image_id": 10, "category_id": 7, "ignore": 0, "iscrowd": not true},
        {"id": 3, "image_id": 20, "category_id": 7, "ignore": true},
    ]
    column = LABELS.index(next(one["name"] for one in content()["categories"] if one["id"] == 7))
    read = read_coco_labels(file(tmp_path, content(annotations=annotations)), LABELS)
    assert read.targets.dense()[:, column].tolist() == [1, -1, 0, 0]


def test_ids_may_be_strings_or_both(tmp_path):
    images = [{"id": number, "file_name": f"{number}.jpg"} for number in ("b", 7, "a")]
    annotations = [{"image_id": number, "category_id": "x"} for number in ("a", 7)]
    categories = [{"id": "x", "name": "cat"}]
    path = file(tmp_path, {"images": images, "annotations": annotations, "categories": categories})
    read = read_coco_labels(path, ["cat"])
    assert read.image_ids == (7, "a", "b")
    assert read.targets.dense().tolist() == [[1], [1], [0]]


def test_annotations_carry_further_keys(tmp_path):
    images = LabelledImages((1,), ("a.jpg",), LabelMatrix.from_dense(torch.ones(1, 2, dtype=torch.int8)))
    write_coco_labels(tmp_path / "x.json", images, ["a", "b"], {"area": 0.0})
    assert all(one["area"] == 0 for one in json.loads((tmp_path / "x.json").read_text())["annotations"])


@pytest.mark.parametrize("count", [0, 1, 5])
def test_pycocotools_reads_written_labels(tmp_path, count):
    targets = LabelMatrix.from_dense((torch.arange(4 * count).view(count, 4) % 3 == 0).to(torch.int8))
    images = LabelledImages(tuple(range(1, count + 1)), tuple(f"{row}.jpg" for row in range(count)), targets)
    write_coco_labels(tmp_path / "x.json", images, LABELS)
    with contextlib.redirect_stdout(io.StringIO()):
        read = COCO(tmp_path / "x.json")
    assert [read.cats[number]["name"] for number in sorted(read.cats)] == list(LABELS)
    for row, number in enumerate(images.image_ids):
        columns = [read.anns[one]["category_id"] - 1 for one in read.getAnnIds(imgIds=[number])]
        assert sorted(columns) == targets.dense()[row].nonzero()[:, 0].tolist()
        assert read.imgs[number]["file_name"] == f"{row}.jpg"


def test_rows_picks_in_the_given_order(tmp_path):
    read = read_coco_labels(file(tmp_path, content()), LABELS)
    some = read.rows([3, 0])
    assert (some.image_ids, some.file_names) == ((40, 10), ("40.jpg", "10.jpg"))
    assert some.targets.dense().tolist() == [TARGETS[3], TARGETS[0]]
    assert len(read.rows([])) == 0


@pytest.mark.parametrize("part", ["train2017", "val2017"])
def test_real_coco_annotations(shared_data, part):
    path = shared_data / "coco_tiny" / "annotations" / f"instances_{part}.json"
    real = json.loads(path.read_text())
    names = {category["id"]: category["name"] for category in real["categories"]}
    assert tuple(names[number] for number in sorted(names)) == COCO_CLASSES
    read = read_coco_labels(path, COCO_CLASSES)
    assert len(read) == 50
    file_names = {image["id"]: image["file_name"] for image in real["images"]}
    assert dict(zip(read.image_ids, read.file_names, strict=True)) == file_names
    expected = {image: set() for image in file_names}
    for annotation in real["annotations"]:
        expected[annotation["image_id"]].add(names[annotation["category_id"]])
    for image, row in zip(read.image_ids, read.targets.dense(), strict=True):
        assert {COCO_CLASSES[column] for column in row.nonzero()[:, 0].tolist()} == expected[image]
    assert any(annotation["iscrowd"] for annotation in real["annotations"])  # or the test says less than it seems


def open_quietly(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def test_coco_object_equals_its_file(tmp_path):
    ignored = content()
    ignored["annotations"].append({"id": 99, "image_id": 20, "category_id": CATEGORY_IDS["bird"], "ignore": 1})
    ignored["images"][0]["neg_category_ids"] = [CATEGORY_IDS["cat"]]
    path = file(tmp_path, ignored)
    by_object, by_path = (read_coco_labels(source, LABELS) for source in (open_quietly(path), path))
    assert (by_object.image_ids, by_object.file_names) == (by_path.image_ids, by_path.file_names)
    assert torch.equal(by_object.targets.dense(), by_path.targets.dense())
    assert -1 in by_path.targets.dense()


def test_filtered_coco_object_gives_the_filtered_labels(tmp_path):
    coco = open_quietly(file(tmp_path, content()))
    dogs = sorted(coco.getImgIds(catIds=coco.getCatIds(catNms=["dog"])))
    filtered = COCO()
    filtered.dataset = {
        "images": coco.loadImgs(dogs),
        "annotations": coco.loadAnns(coco.getAnnIds(imgIds=dogs, catIds=coco.getCatIds(catNms=["dog", "fish"]))),
        "categories": coco.loadCats(coco.getCatIds()),
    }
    read = read_coco_labels(filtered, LABELS)
    assert read.image_ids == (30, 40)
    assert read.targets.dense().tolist() == [[0, 1, 0, 1], [0, 1, 0, 0]]


def test_faulty_coco_object_is_named():
    with pytest.raises(UserError, match=r"the COCO object is no COCO-format data set: .*images"):
        read_coco_labels(COCO(), LABELS)
    broken = COCO()
    broken.dataset = content(categories=[])
    with pytest.raises(UserError, match="the COCO object: an annotation refers to the image or category"):
        read_coco_labels(broken, LABELS)
