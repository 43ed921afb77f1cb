"""COCO: small files of the true form, and all of COCO 2014's labels where they are there; pycocotools reads along."""

import contextlib
import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pycocotools.coco import COCO

from src.data.coco import COCO_CLASSES, read_coco_labels
from src.data.labels import LabelledImages
from src.data.metadata import Metadata, load_metadata
from src.data.official import read_array_pickle
from src.data.parts import load_evaluation_set, load_training_set
from src.errors import UserError
from src.prepare.coco_facts import SEEN_48_17, UNSEEN_48_17, UNSEEN_65_15
from src.prepare.coco_images import identity, number_in
from tests.coco_helpers import (
    CATEGORIES,
    NUM_ANNOTATIONS,
    file_name_of,
    read_labels_2014,
    write_instances,
    write_word_vectors,
)
from tests.conftest import ROOT
from tests.metric_oracles import dense_report
from tests.prepare_helpers import prepare_source
from tests.script_helpers import edit_json

# Columns: 0 person, 1 bicycle, 15 cat (unseen), 16 dog (unseen), 9 traffic light (neither).
IMAGES = {
    "train": {9: (45, 49), 25: (23, 15), 36: (0, 9), 49: (15, 16), 61: ()},
    "val": {42: (16,), 73: (3,), 74: (0, 1, 16), 133: (), 136: (0, 9)},
}


def instances(folder: Path, part: str, year: int = 2014) -> Path:
    return folder / "annotations" / f"instances_{part}{year}.json"


def write_images(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def make_source(folder: Path, year: int = 2014, with_images: bool = True) -> Path:
    """COCO's own layout."""
    for seed, (part, images) in enumerate(IMAGES.items()):
        release = f"{part}{year}"
        write_instances(instances(folder, part, year), images, release=release, seed=seed)
        if with_images:
            write_images(folder / release, [file_name_of(release, image_id) for image_id in images])
    return folder


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path / "coco")


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return write_word_vectors(tmp_path_factory.mktemp("words") / "vectors.txt", dim=8)


@pytest.fixture
def prepare(tmp_path, words):
    """``prepare_data.py coco``: (metadata, report); each call makes another folder."""
    made = iter(range(100))

    def run(*flags: object) -> tuple[Metadata, list[str]]:
        output = tmp_path / f"m{next(made)}"
        report = run_coco("--output", output, "--word-vectors", words, *flags)
        assert (output / "report.txt").read_text().splitlines() == report
        return load_metadata(output), report

    return run


def run_coco(*flags: object) -> list[str]:
    return prepare_source("coco", *flags)


def read_part(metadata: Metadata, part: str) -> LabelledImages:
    path = getattr(metadata, part)
    assert path is not None
    return read_coco_labels(path, metadata.split.labels)


def columns_of(metadata: Metadata, part: str, value: int = 1) -> dict[int | str, tuple[int, ...]]:
    """Image id -> the columns of its labels."""
    images = read_part(metadata, part)
    rows = (images.targets.dense() == value).tolist()
    return {
        image_id: tuple(column for column, there in enumerate(row) if there)
        for image_id, row in zip(images.image_ids, rows, strict=True)
    }


def names_of(metadata: Metadata, part: str) -> dict[int | str, str]:
    images = read_part(metadata, part)
    return dict(zip(images.image_ids, images.file_names, strict=True))


def by_pycocotools(path: Path) -> dict[int, set[str]]:
    """Image id -> names of the categories that it has annotations of, as the public reader finds them."""
    with contextlib.redirect_stdout(io.StringIO()):
        index = COCO(str(path))
    return {
        image_id: {index.cats[item["category_id"]]["name"] for item in index.imgToAnns.get(image_id, ())}
        for image_id in index.imgs
    }


def without(images: dict[int, tuple[int, ...]], *columns: int) -> dict[int, tuple[int, ...]]:
    return {number: tuple(sorted(set(of_image) - set(columns))) for number, of_image in images.items()}


def test_metadata_folder(source, prepare):
    metadata, report = prepare("--source", source)
    split = metadata.split
    assert split.labels == COCO_CLASSES
    assert (split.names(split.seen), split.names(split.unseen)) == (
        [name for name in COCO_CLASSES if name in SEEN_48_17],
        [name for name in COCO_CLASSES if name in UNSEEN_48_17],
    )
    assert split.name == "coco_48_17"
    assert metadata.image_root == source
    assert columns_of(metadata, "train") == without(IMAGES["train"], 15, 16)  # cat and dog are hidden
    assert columns_of(metadata, "val") == without(IMAGES["val"])
    assert names_of(metadata, "val")[42] == "val2014/COCO_val2014_000000000042.jpg"
    assert "train: 1 images have no label in instances_train2014.json; they are kept" in report
    assert "val: 2 images with an unseen label, 2 unseen labels" in report
    assert "train: hid the unseen labels of 2 images" in report
    assert "5 val2014 images; published: 40,504; is the file complete?" in report
    training, evaluation = load_training_set(metadata, None), load_evaluation_set(metadata, None)
    assert [path.name[-6:-4] for path in training.paths] == ["09", "25", "36"]
    assert training.num_without_label == 2
    assert len(evaluation.paths) == 5


@pytest.mark.parametrize("year", [2014, 2017])
def test_labels_equal_pycocotools(tmp_path, prepare, year):
    source = make_source(tmp_path / "coco", year)
    metadata, _ = prepare("--source", source)
    for part, images in IMAGES.items():
        expected = {number: {COCO_CLASSES[column] for column in columns} for number, columns in images.items()}
        assert by_pycocotools(instances(source, part, year)) == expected
        hidden = set(UNSEEN_48_17) if part == "train" else set()
        written = {number: names - hidden for number, names in expected.items()}
        assert by_pycocotools(getattr(metadata, part)) == written


def test_documented_filter_with_pycocotools(tmp_path, monkeypatch, words):
    make_source(tmp_path / "coco")
    shutil.copy(words, tmp_path / "vectors.txt")
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    scope: dict[str, Any] = {}
    exec(text.partition("```python\n")[2].partition("```")[0], scope)
    metadata = load_metadata(tmp_path / "data" / "coco_pets")
    assert scope["report"] == (metadata.folder / "report.txt").read_text().splitlines()
    for part, hidden in (("train", {"cat", "dog"}), ("val", set())):
        whole = by_pycocotools(instances(tmp_path / "coco", part))
        pets = {number: names for number, names in whole.items() if names & {"cat", "dog"}}
        found = columns_of(metadata, part)
        assert {number: set(metadata.split.names(columns)) for number, columns in found.items()} == {
            number: names - hidden for number, names in pets.items()
        }
        assert 0 < len(found) < len(whole)


def test_crowds_are_labels_unless_dropped(source, prepare):
    def make_crowds(content):
        for item in content["annotations"]:
            item["iscrowd"] = int((item["image_id"], item["category_id"]) in {(42, 18), (74, 2)})
        content["annotations"].append({**content["annotations"][0], "image_id": 73, "category_id": 4, "iscrowd": 1})
        return content

    edit_json(instances(source, "val"), make_crowds)
    num_crowds = sum(item["iscrowd"] for item in json.loads(instances(source, "val").read_text())["annotations"])
    metadata, report = prepare("--source", source)
    assert columns_of(metadata, "val") == IMAGES["val"]
    assert f"val: {num_crowds} annotations of crowds, counted as labels (--crowd drop leaves them out)" in report
    metadata, report = prepare("--source", source, "--crowd", "drop")
    # The motorcycle of image 73 has another annotation; the dog of 42 and the bicycle of 74 were crowds alone.
    assert columns_of(metadata, "val") == {**IMAGES["val"], 42: (), 74: (0, 16)}
    assert f"val: {num_crowds} annotations of crowds, left out" in report


def test_annotations_to_ignore_are_unknown_labels(source, prepare):
    def ignore(content):
        for item in content["annotations"]:
            item["ignore"] = int(item["image_id"] == 42)
        return content

    edit_json(instances(source, "val"), ignore)
    metadata, report = prepare("--source", source)
    assert columns_of(metadata, "val")[42] == ()
    assert columns_of(metadata, "val", -1)[42] == (16,)
    assert "val: 1 unknown labels" in report


LAYOUTS: dict[str, Callable[[str, int], str]] = {
    "own folders": lambda part, number: f"{part}2014/{file_name_of(f'{part}2014', number)}",
    "flat": lambda part, number: file_name_of(f"{part}2014", number),
    "below images": lambda part, number: f"images/{file_name_of(f'{part}2014', number)}",
    "names of 2017": lambda part, number: f"{part}2017/{number:012d}.jpg",
    "all in train2017": lambda part, number: f"train2017/{number:012d}.jpg",
    "names of 2017, flat": lambda part, number: f"{number:012d}.jpg",
    "capital suffix": lambda part, number: f"all/{number:012d}.JPG",
    "other suffix": lambda part, number: f"all/{number:012d}.jpeg",
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("year", [2014, 2017])
def test_images_are_found_in_every_layout(tmp_path, prepare, layout, year):
    source = make_source(tmp_path / "coco", year, with_images=False)
    place = LAYOUTS[layout]
    expected = {part: {number: place(part, number) for number in images} for part, images in IMAGES.items()}
    write_images(tmp_path / "images", [name for names in expected.values() for name in names.values()])
    metadata, _ = prepare("--source", source, "--images", tmp_path / "images")
    assert metadata.image_root == tmp_path / "images"
    for part in IMAGES:
        assert names_of(metadata, part) == expected[part]
    assert load_evaluation_set(metadata, None).paths == [
        tmp_path / "images" / name for _, name in sorted(expected["val"].items())
    ]


def test_names_are_kept_without_images(tmp_path, prepare):
    source = make_source(tmp_path / "coco", with_images=False)
    metadata, report = prepare("--source", source)
    assert metadata.image_root is None
    assert names_of(metadata, "val") == {number: file_name_of("val2014", number) for number in IMAGES["val"]}
    assert any(line.startswith("images were not looked up") for line in report)
    named, _ = prepare("--train", instances(source, "train"), "--val", instances(source, "val"))
    assert named.image_root is None
    assert (named.folder / "val.json").read_bytes() == (metadata.folder / "val.json").read_bytes()


def test_missing_pictures(source, prepare, tmp_path):
    (source / "val2014" / "COCO_val2014_000000000074.jpg").unlink()
    with pytest.raises(UserError, match=r"^--source .*: 1 of the 5 images of instances_val2014.json are not there "):
        prepare("--source", source)
    metadata, report = prepare("--source", source, "--missing-pictures", "drop")
    assert sorted(names_of(metadata, "val")) == [42, 73, 133, 136]
    assert "left out 1 images of instances_val2014.json that are not on disk, listed in missing_pictures.txt" in report
    listed = (metadata.folder / "missing_pictures.txt").read_text()
    assert listed == "COCO_val2014_000000000074.jpg\n"
    shutil.rmtree(source / "val2014")
    with pytest.raises(UserError, match="5 of the 5 images"):
        prepare("--source", source, "--missing-pictures", "drop")
    with pytest.raises(UserError, match=r"--images .*: there are no images in it"):
        prepare("--source", source, "--images", source / "annotations")
    with pytest.raises(UserError, match="--missing-pictures drop needs the images"):
        prepare("--val", instances(source, "val"), "--missing-pictures", "drop")


def test_several_files_of_an_id(source, prepare):
    """The exact name goes first; masks, which have the ids too, are no photographs."""
    write_images(source / "a", ["000000000042.jpg", "COCO_val2014_000000000073.jpg", "000000000073.jpg"])
    write_images(source / "annotations" / "masks", [f"{number:012d}.png" for number in IMAGES["val"]])
    (source / "val2014" / "COCO_val2014_000000000073.jpg").unlink()
    (source / "val2014" / "COCO_val2014_000000000074.jpg").rename(source / "val2014" / "000000000074.jpg")
    write_images(source / "b", ["000000000074.jpg"])
    metadata, report = prepare("--source", source)
    found = names_of(metadata, "val")
    assert found[42] == "val2014/COCO_val2014_000000000042.jpg"
    assert found[73] == "a/COCO_val2014_000000000073.jpg"
    assert found[74] == "b/000000000074.jpg"
    notes = [line for line in report if "several files of their id" in line]
    assert len(notes) == 1
    assert notes[0].startswith("val: 3 images")


def test_the_id_in_a_file_name():
    assert number_in("val2014/COCO_val2014_000000000042.jpg") == number_in("000000000042.JPG") == 42
    assert number_in("20210101120000.jpg") is None  # fourteen digits are no id
    assert number_in("42.jpg") is None
    assert identity(42, "a/000000000042.jpg") == identity("42", "COCO_train2014_000000000042.jpg") == 42
    assert identity(7, "000000000042.jpg") == "000000000042.jpg"  # ids of own data say nothing


def permute(content):
    """The same data in another order: images, annotations and categories, which get other ids."""
    shuffle = random.Random(1).shuffle
    for section in ("images", "annotations", "categories"):
        shuffle(content[section])
    new_id = {category["id"]: number for number, category in enumerate(content["categories"], start=301)}
    for category in content["categories"]:
        category["id"] = new_id[category["id"]]
    for item in content["annotations"]:
        item["category_id"] = new_id[item["category_id"]]
    return content


def test_order_and_ids_of_categories_do_not_matter(source, prepare):
    before, _ = prepare("--source", source)
    edit_json(instances(source, "val"), permute)
    after, _ = prepare("--source", source)
    edit_json(instances(source, "train"), permute)
    again, _ = prepare("--source", source)
    names = {path.name for path in before.folder.iterdir()}
    assert {"train.json", "val.json", "split.json", "word_vectors.npy", "report.txt"} <= names
    for folder in (after.folder, again.folder):
        assert {path.name for path in folder.iterdir()} == names
        for name in names:
            assert (folder / name).read_bytes() == (before.folder / name).read_bytes(), name


def change(section: str, edit: Callable[[list], object]):
    """A damage to the validation file: ``edit`` changes a section in place."""

    def damage(path):
        def apply(content):
            edit(content[section])
            return content

        edit_json(path, apply)

    return damage


def drop_key(section: str, key: str):
    return change(section, lambda entries: entries[0].pop(key))


def drop_section(section: str):
    return lambda path: edit_json(path, lambda content: {k: v for k, v in content.items() if k != section})


DAMAGES = [
    (lambda path: path.write_bytes(path.read_bytes()[:-700]), ["--source", "is not whole JSON", "download it again"]),
    (lambda path: path.unlink(), ["--source", "instances_val2014.json", "--train or --val"]),
    (lambda path: path.write_text("[]"), ["is no COCO-format file", "Expected `object`"]),
    (drop_section("images"), ["is no COCO-format file", "`images`"]),
    (drop_section("annotations"), ["is no COCO-format file", "`annotations`"]),
    (drop_section("categories"), ["is no COCO-format file", "`categories`"]),
    (
        change("images", lambda items: [items[1].pop(key) for key in ("file_name", "coco_url")]),
        ["images[1]", "file_name"],
    ),
    (drop_key("annotations", "category_id"), ["`category_id`"]),
    (drop_key("annotations", "image_id"), ["`image_id`"]),
    (change("annotations", lambda items: [item.update(image_id=4711) for item in items]), ["all annotations", "4711"]),
    (change("annotations", lambda items: [item.update(category_id=12) for item in items]), ["all annotations", "12"]),
    (change("images", lambda items: items[0].update(id=items[1]["id"])), ["images: the id", "stands for"]),
    (change("images", lambda items: items.append({**items[0], "id": 5})), ["several image ids", "merge"]),
    (change("categories", lambda items: items[0].update(name="people")), ["only in train: person", "val: people"]),
    (change("categories", lambda items: items.clear()), ["lists no categories"]),
]


@pytest.mark.parametrize(("damage", "wanted"), DAMAGES)
def test_faults_are_reported_and_nothing_is_written(source, tmp_path, words, damage, wanted):
    damage(instances(source, "val"))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError) as caught:
        run_coco("--output", tmp_path / "m", "--word-vectors", words, "--source", source)
    assert all(word in str(caught.value) for word in wanted), caught.value
    assert str(caught.value).startswith("--source")
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def write_lines(path: Path, *lines: object) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_a_test_list(source, prepare, tmp_path):
    path = write_lines(tmp_path / "ids.txt", 136, 42, "", 133, 42)
    metadata, report = prepare("--source", source, "--test-ids", path)
    assert columns_of(metadata, "val") == {number: IMAGES["val"][number] for number in (42, 133, 136)}
    assert columns_of(metadata, "train").keys() == IMAGES["train"].keys()
    assert "val: 3 of the 5 images, those that ids.txt lists" in report
    assert "val: ids.txt repeats 1 of its ids" in report
    for ids, message in (
        ((42, 9, 8, 8), r"2 of the 3 ids are not among the validation images \(9, 8\)"),
        (("x",), r"1 of the 1 ids .*\(x\)"),
        (("", ""), "is empty"),
    ):
        with pytest.raises(UserError, match=f"--test-ids .*ids.txt: {message}"):
            prepare("--source", source, "--test-ids", write_lines(path, *ids))
    with pytest.raises(UserError, match=r"--test-ids .*give --val too"):
        prepare("--train", instances(source, "train"), "--test-ids", path)
    with pytest.raises(UserError, match=r"--test-ids .*cannot be read"):
        prepare("--source", source, "--test-ids", tmp_path / "gone.txt")


def test_splits(source, prepare, tmp_path):
    split = prepare("--source", source, "--split", "65_15")[0].split
    assert split.name == "coco_65_15"
    assert split.names(split.unseen) == [name for name in COCO_CLASSES if name in UNSEEN_65_15]
    assert sorted((*split.seen, *split.unseen)) == list(range(80))
    unseen = write_lines(tmp_path / "unseen.txt", "cat", "traffic light")
    split = prepare("--source", source, "--unseen", unseen)[0].split
    assert (split.unseen, len(split.seen)) == ((9, 15), 78)
    seen = write_lines(tmp_path / "seen.txt", "dog", "person")
    metadata, _ = prepare("--source", source, "--unseen", unseen, "--seen", seen)
    assert (metadata.split.unseen, metadata.split.seen) == ((9, 15), (0, 16))
    assert columns_of(metadata, "train") == without(IMAGES["train"], 9, 15)


@pytest.mark.parametrize(
    ("unseen", "seen", "message"),
    [
        (["cat", "unicorn"], None, "--unseen .*unseen.txt: no such label: unicorn"),
        (["cat", "dog", "cat"], None, "--unseen .*unseen.txt: named more than once: cat"),
        ([], None, "--unseen .*unseen.txt: names nothing"),
        (["cat"], ["dog", "unicorn"], "--seen .*seen.txt: no such label: unicorn"),
        (["cat"], ["dog", "dog"], "--seen .*seen.txt: named more than once: dog"),
        (["cat", "dog"], ["person", "dog"], "--seen .*seen.txt: --unseen names these too: dog"),
        (None, ["person"], "--seen .*seen.txt needs --unseen"),
        (list(COCO_CLASSES), None, "no seen label"),
    ],
)
def test_wrong_sides(source, prepare, tmp_path, unseen, seen, message):
    sides = {"unseen": unseen, "seen": seen}
    flags = [
        flag
        for side, names in sides.items()
        if names is not None
        for flag in (f"--{side}", write_lines(tmp_path / f"{side}.txt", *names))
    ]
    with pytest.raises(UserError, match=message):
        prepare("--source", source, *flags)
    assert not list(tmp_path.glob("m*"))


def test_which_files(source, prepare, tmp_path):
    make_source(source, 2017)
    with pytest.raises(UserError, match=r"--source .*both 2014 and 2017; choose one with --year"):
        prepare("--source", source)
    one, _ = prepare("--source", source, "--year", 2014)
    other, _ = prepare("--source", source, "--year", 2017)
    assert names_of(one, "train")[9] == "train2014/COCO_train2014_000000000009.jpg"
    assert names_of(other, "train")[9] == "train2017/000000000009.jpg"
    train, val = instances(source, "train"), instances(source, "val")
    (tmp_path / "empty").mkdir()
    for flags, message in (
        (["--source", source, "--train", train], r"--source .* stands for --train and --val"),
        (["--train", train, "--val", val, "--year", "2014"], "--year 2014 is about a --source folder"),
        ([], "give --train FILE and --val FILE, or --source DIR"),
        (["--source", tmp_path / "empty"], r"--source .*empty: there is no annotations/instances_"),
        (["--source", tmp_path / "gone"], r"--source .*gone: there is no annotations/instances_"),
        (["--train", tmp_path / "gone.json"], r"--train: cannot read .*gone.json"),
        (["--source", source, "--year", 2014, "--images", tmp_path / "gone"], r"--images .*gone: no such folder"),
    ):
        with pytest.raises(UserError, match=message):
            prepare(*flags)


def test_one_part_alone(source, prepare):
    metadata, _ = prepare("--val", instances(source, "val"), "--images", source)
    assert (metadata.train, columns_of(metadata, "val")) == (None, IMAGES["val"])
    metadata, _ = prepare("--train", instances(source, "train"), "--train-with-unseen", "drop")
    assert (metadata.val, sorted(columns_of(metadata, "train"))) == (None, [9, 36, 61])


def test_images_of_val_are_left_out_of_train(tmp_path, prepare):
    """Training on 2017 and validating on 2014 shares most of val2014."""
    train, val = tmp_path / "instances_train2017.json", tmp_path / "instances_val2014.json"
    write_instances(train, {**IMAGES["train"], 42: (16,), 74: (0,)}, release="train2017")
    write_instances(val, IMAGES["val"], release="val2014")
    write_images(tmp_path / "p", [f"{number:012d}.jpg" for images in IMAGES.values() for number in images])
    metadata, report = prepare("--train", train, "--val", val, "--images", tmp_path / "p")
    assert columns_of(metadata, "train").keys() == IMAGES["train"].keys()
    assert columns_of(metadata, "val").keys() == IMAGES["val"].keys()
    assert "train: left out 2 images that are in val too (000000000042.jpg, 000000000074.jpg)" in report
    ids = write_lines(tmp_path / "ids.txt", 74, 136)
    metadata, report = prepare("--train", train, "--val", val, "--test-ids", ids)
    assert columns_of(metadata, "train").keys() == {*IMAGES["train"], 42}  # a val2014 image that is not tested on
    assert "train: left out 1 images that are in val too (000000000074.jpg)" in report
    with pytest.raises(UserError, match=r"--train .*every training image is a validation image too"):
        prepare("--train", val, "--val", val)


OWN = {
    "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "sub/b.png"}, {"id": 3, "file_name": "c.png"}],
    "annotations": [{"image_id": image, "category_id": category} for image, category in ((1, 7), (2, 3), (2, 9))],
    "categories": [{"id": 9, "name": "toilet"}, {"id": 3, "name": "zebra"}, {"id": 7, "name": "dog"}],
}


def write_own(tmp_path: Path) -> tuple[object, ...]:
    """Own data: ids begin at 1 in either file."""
    renamed = [{**image, "file_name": f"test_{image['id']}.png"} for image in OWN["images"]]
    (tmp_path / "train.json").write_text(json.dumps(OWN))
    (tmp_path / "instances_val2017.json").write_text(json.dumps({**OWN, "images": renamed}))
    return "--train", tmp_path / "train.json", "--val", tmp_path / "instances_val2017.json"


def test_own_categories(tmp_path, prepare):
    files = write_own(tmp_path)
    with pytest.raises(UserError, match=r"--split 48_17 .*only in COCO: person, .* give the labels to hold out with"):
        prepare(*files)
    unseen = write_lines(tmp_path / "unseen.txt", "dog")
    metadata, report = prepare(*files, "--unseen", unseen)
    split = metadata.split
    assert (split.labels, split.unseen, split.name) == (("zebra", "dog", "toilet"), (1,), "coco_format_2_1")
    assert columns_of(metadata, "val") == {1: (1,), 2: (0, 2), 3: ()}  # the same ids as in train, other images
    assert columns_of(metadata, "train") == {1: (), 2: (0, 2), 3: ()}
    assert not any("published" in line for line in report)  # though the file has the name of COCO's


def test_own_images_in_sub_folders(tmp_path, prepare):
    files = (*write_own(tmp_path), "--unseen", write_lines(tmp_path / "unseen.txt", "dog"))
    edit_json(tmp_path / "train.json", lambda content: json.loads(json.dumps(content).replace("sub/b", "sub\\\\b")))
    images = tmp_path / "images"
    write_images(images, ["x/a.png", "x/sub/b.png", "y/b.png", "c.png", "y/c.png"])
    write_images(images / "y", [f"test_{number}.png" for number in (1, 2, 3)])
    metadata, _ = prepare(*files, "--images", images)
    assert names_of(metadata, "train") == {1: "x/a.png", 2: "x/sub/b.png", 3: "c.png"}
    assert names_of(metadata, "val")[1] == "y/test_1.png"
    write_images(images / "y", ["a.png"])
    with pytest.raises(UserError, match=r"--images .*: 1 of the 3 file names .*\(a.png: x/a.png or y/a.png\)"):
        prepare(*files, "--images", images)


def test_official_files(source, prepare):
    metadata, _ = prepare("--source", source, "--official")
    folder = metadata.folder / "official"
    released = load_metadata(folder)
    assert released.kind == "COCO"
    assert (released.split.seen, released.split.unseen) == (metadata.split.seen, metadata.split.unseen)
    assert released.train == folder / "zs_split" / "train_17_48.json"
    assert released.val == folder / "zs_split" / "val_17_48.json"
    assert released.val_unseen == folder / "zs_split" / "val_unseen.json"
    for part in IMAGES:
        assert columns_of(released, part) == columns_of(metadata, part)
    assert columns_of(released, "val_unseen") == {number: IMAGES["val"][number] for number in (42, 74)}


# From here on: with the real data sets.


def test_the_splits_are_those_in_circulation(shared_data):
    released = read_array_pickle(shared_data / "coco" / "cls_ids.pickle")
    for names, side in ((SEEN_48_17, "train"), (UNSEEN_48_17, "test")):
        assert {COCO_CLASSES.index(name) for name in names} == released[side]
        assert len(names) == len(released[side])
    tables = (
        [line.rpartition(",")[0] for line in (shared_data / "coco_65_15" / name).read_text().splitlines()]
        for name in ("cls_names_seen_coco.csv", "cls_names_test_coco.csv")
    )
    seen, both = tables
    assert (len(seen), len(both)) == (65, 80)
    assert both[-15:] == list(UNSEEN_65_15)
    assert set(seen) == set(COCO_CLASSES) - set(UNSEEN_65_15)


def test_real_label_files(shared_data, prepare):
    """50 + 50 images of COCO 2017 with their true files, and the categories that the other tests write."""
    source = shared_data / "coco_tiny"
    metadata, report = prepare("--source", source)
    for part in IMAGES:
        path = instances(source, part, 2017)
        hidden = set(UNSEEN_48_17) if part == "train" else set()
        assert json.loads(path.read_text())["categories"] == CATEGORIES
        expected = {number: names - hidden for number, names in by_pycocotools(path).items()}
        assert by_pycocotools(getattr(metadata, part)) == expected
    assert "50 train2017 images; published: 118,287; is the file complete?" in report
    assert all(path.is_file() for path in load_evaluation_set(metadata, None).paths)
    assert all(path.is_file() for path in load_training_set(metadata, None).paths)


@pytest.fixture(scope="module")
def full(shared_data, tmp_path_factory):
    """COCO 2014's labels in files of the true form and number of annotations, beside empty image files."""
    folder = tmp_path_factory.mktemp("full")
    labels = read_labels_2014(shared_data / "coco" / "labels_2014.txt")
    for release, images in labels.items():
        path = folder / "annotations" / f"instances_{release}.json"
        total = NUM_ANNOTATIONS[release]
        write_instances(path, images, release=release, num_annotations=total, crowd_every=90)
        write_images_at_once(folder / release, [file_name_of(release, number) for number in images])
    yield folder, labels
    shutil.rmtree(folder)


def write_images_at_once(folder: Path, names: list[str]) -> None:
    folder.mkdir()
    for name in names:
        (folder / name).touch()


def test_the_counts_of_the_test_list(full, shared_data, tmp_path):
    folder, labels = full
    ids = shared_data / "coco" / "zs_test_ids_48_17.txt"
    vectors = ["--output", tmp_path / "m", "--word-vectors", shared_data / "coco"]
    report = run_coco("--source", folder, "--test-ids", ids, *vectors)
    for line in (
        "82,783 train2014 images, as published",
        "40,504 val2014 images, as published",
        "train2014: 75,406 images with a seen label, as expected",
        "train2014: 44,909 images with a seen and without any unseen label, as expected",
        "val2014: 16,799 images with an unseen label, as expected",
        "test list: 2,729 images with an unseen label, as expected",
        "test list: 3,295 unseen labels, as expected",
        "test list: 16,429 seen and unseen labels, as expected",
        "train: 702 images have no label in instances_train2014.json; they are kept",
        "val: 2,729 images with an unseen label, 3,295 unseen labels",
    ):
        assert line in report
    metadata = load_metadata(tmp_path / "m")
    split = metadata.split
    training, evaluation = load_training_set(metadata, None), load_evaluation_set(metadata, None)
    assert len(training.paths) == 75_406
    assert training.num_without_label == 82_783 - 75_406
    of_seen = {column: place for place, column in enumerate(split.seen)}
    rows, places = training.targets.positives()
    found = [(int(path.stem[-12:]), []) for path in training.paths]
    for row, place in zip(rows.tolist(), places.tolist(), strict=True):
        found[row][1].append(place)
    assert dict(found) == {
        number: seen
        for number, columns in labels["train2014"].items()
        if (seen := sorted(of_seen[column] for column in columns if column in of_seen))
    }
    wanted = sorted(int(number) for number in ids.read_text().split())
    assert [int(path.stem[-12:]) for path in evaluation.paths] == wanted
    targets = evaluation.targets.dense()
    expected = torch.zeros(len(wanted), 80, dtype=torch.int8)
    for row, number in enumerate(wanted):
        expected[row, list(labels["val2014"][number])] = 1
    assert torch.equal(targets, expected)
    scores = torch.rand(targets.shape, generator=torch.Generator().manual_seed(0))
    facts = dense_report(scores, targets, split.seen, split.unseen, ks=(3,))
    assert (facts["zero_shot.num_images"], facts["zero_shot.num_positives"]) == (2_729, 3_295)
    assert (facts["generalized.num_images"], facts["generalized.num_positives"]) == (6_392, 16_429)
    assert facts["zero_shot.labels_per_image"] == pytest.approx(1.2074, abs=5e-5)
    assert facts["generalized.labels_per_image"] == pytest.approx(2.5702, abs=5e-5)
    ceilings = [
        facts[f"{name}@3"] for name in ("zero_shot.ceiling.P", "zero_shot.ceiling.F1", "generalized.ceiling.F1")
    ]
    assert ceilings == pytest.approx([40.2, 57.3, 76.7], abs=0.06)


def test_the_counts_of_all_of_val_and_the_official_files(full, shared_data, tmp_path):
    folder, labels = full
    vectors = ["--output", tmp_path / "m", "--word-vectors", shared_data / "coco"]
    run_coco("--source", folder, "--train-with-unseen", "drop", "--official", *vectors)
    metadata, released = load_metadata(tmp_path / "m"), load_metadata(tmp_path / "m" / "official")
    original = read_array_pickle(shared_data / "coco" / "cls_ids.pickle")
    written = read_array_pickle(tmp_path / "m" / "official" / "cls_ids.pickle")
    assert {side: set(columns) for side, columns in written.items()} == {
        side: set(columns) for side, columns in original.items()
    }
    assert released.split.labels == COCO_CLASSES
    unseen = set(released.split.unseen)
    for form in (metadata, released):
        training, evaluation = (load(form, folder) for load in (load_training_set, load_evaluation_set))
        assert len(training.paths) == 44_909
        assert len(evaluation.paths) == 40_504
        of_unseen = evaluation.targets.select_columns(sorted(unseen)).positives_per_image()
        assert int((of_unseen > 0).sum()) == 16_799
    assert int(evaluation.in_zero_shot.sum()) == 16_799
    assert int(evaluation.in_generalized.sum()) == 40_504
    by_other_reader = by_pycocotools(released.val)
    assert by_other_reader == {
        number: {COCO_CLASSES[column] for column in columns} for number, columns in labels["val2014"].items()
    }
    assert by_pycocotools(released.val_unseen) == {
        number: by_other_reader[number] for number, columns in labels["val2014"].items() if unseen & set(columns)
    }
