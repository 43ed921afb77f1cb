"""COCO-format files as people and tools write them: the labels are those of a plain reading, or one line of error."""

from __future__ import annotations

import copy
import json
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from src.config.data_sets import CocoSettings
from src.data.coco_files import is_set
from src.errors import UserError
from src.prepare import coco
from src.prepare.coco_images import identity
from src.prepare.collected import Collected

NAMES = {1: "sea", 3: "boat", 7: "cat", 90: "sun"}
Contents = dict[str, dict[str, Any]]  # train, val -> content of the file
Labels = dict[int | str, dict[str, int]]  # image id -> label -> 1, 0 or -1


def drawn(first: int, num_images: int, prefix: str) -> dict[str, Any]:
    """A valid file: images in descending id, and annotations of a regular pattern."""
    ids = range(first, first + num_images)
    return {
        "info": {"year": 2024},
        "images": [{"id": number, "file_name": f"{prefix}{number}.jpg", "width": 4} for number in reversed(ids)],
        "annotations": [
            {"id": at, "image_id": ids[at % num_images], "category_id": list(NAMES)[(at + at // 5) % 4], **UNREAD}
            for at in range(2 * num_images)
        ],
        "categories": [{"id": number, "name": name, "supercategory": "thing"} for number, name in NAMES.items()],
    }


UNREAD = {"iscrowd": 0, "area": 1.5, "bbox": [0, 0, 1, 1], "segmentation": []}


def base() -> Contents:
    return {"train": drawn(1, 6, "t"), "val": drawn(101, 4, "v")}


def collect(folder: Path, contents: Contents, **settings: Any) -> Collected:
    for part, content in contents.items():
        (folder / f"{part}.json").write_text(json.dumps(content))
    (folder / "unseen.txt").write_text("sun\n")
    files = {part: folder / f"{part}.json" for part in contents}
    return coco.collect(CocoSettings(**files, unseen=folder / "unseen.txt", **settings))


def labels_of(collected: Collected, part: str) -> Labels:
    images = collected.parts[part]
    return {
        number: dict(zip(collected.labels, row, strict=True))
        for number, row in zip(images.image_ids, images.targets.dense().tolist(), strict=True)
    }


def plain_id(written: object) -> int | str:
    if isinstance(written, str):
        number = re.fullmatch(r"0|-?[1-9][0-9]*", written)
        return int(written) if number else re.sub("[\ud800-\udfff]", "\ufffd", written)
    assert type(written) in (int, float)
    return int(written) if written == int(written) else f"no id: {written}"


def plain_key(name: str) -> str:
    return " ".join(name.split()).casefold()


def plain_reading(contents: Contents, drop_crowds: bool = False) -> dict[str, Labels]:
    """Read the labels in a loop, by the rules of the documentation: image id -> category in lower case -> value."""
    read: dict[str, Labels] = {}
    for part, content in contents.items():
        key_of = {plain_id(category["id"]): plain_key(category["name"]) for category in content["categories"]}
        said: dict[int | str, list[tuple[object, int]]] = {}  # image id -> what is said of which category id
        partly = {}
        for image in content["images"]:
            negative, unsure = (image.get(f"{key}_category_ids") for key in ("neg", "not_exhaustive"))
            image_id = plain_id(image["id"])
            said[image_id] = [(number, 0) for number in negative or ()] + [(number, -1) for number in unsure or ()]
            partly[image_id] = negative is not None
        for item in content["annotations"]:
            if plain_id(item["image_id"]) in said and not (drop_crowds and is_set(item.get("iscrowd"))):
                value = -1 if is_set(item.get("ignore")) else 1
                said[plain_id(item["image_id"])].append((item["category_id"], value))
        read[part] = {
            image_id: {
                key: max(
                    [value for number, value in of_image if key_of.get(plain_id(number)) == key],
                    default=-1 if partly[image_id] else 0,
                )
                for key in key_of.values()
            }
            for image_id, of_image in said.items()
        }
    return read


def assert_as_plainly_read(collected: Collected, contents: Contents, drop_crowds: bool = False) -> None:
    keys = list(map(plain_key, collected.labels))
    assert len(set(keys)) == len(keys)
    for part, expected in plain_reading(contents, drop_crowds).items():
        found = labels_of(collected, part)
        left_out = expected.keys() - found.keys()  # training images that are validation images too
        if left_out:
            assert part == "train"
            val = collected.parts["val"]
            in_val = set(map(identity, val.image_ids, val.file_names))
            names = {plain_id(one["id"]): one.get("file_name") or one["coco_url"] for one in contents[part]["images"]}
            assert all(identity(number, names[number]) in in_val for number in left_out)
        assert found.keys() <= expected.keys()
        for number, values in found.items():
            assert {plain_key(label): value for label, value in values.items()} == {
                key: value for key, value in expected[number].items() if key in keys
            }
            assert all(value <= 0 for key, value in expected[number].items() if key not in keys)  # a root


def everywhere(*change: Callable[[dict[str, Any]], object]) -> Callable[[Contents], None]:
    """Apply changes to the content of each file."""

    def apply(contents: Contents) -> None:
        for content in contents.values():
            for one in change:
                one(content)

    return apply


def each(section: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Contents], None]:
    return everywhere(lambda content: [change(entry) for entry in content[section]])


def set_ids(kind: Callable[[Any], Any], *places: str) -> Callable[[Contents], None]:
    """Write the ids of some places, such as ``annotations.image_id``, in another form."""

    def apply(content: dict[str, Any]) -> None:
        for place in places:
            section, _, key = place.partition(".")
            for entry in content[section]:
                entry[key] = kind(entry[key])

    return everywhere(apply)


NAN = float("nan")
UNREAD_VALUES = (NAN, float("inf"), None, "1", "", [], {}, [[NAN]], True, -(10**400), chr(0xD800), {"a": [None, NAN]})
ALL_IDS = ("images.id", "annotations.image_id", "annotations.category_id", "categories.id")

# Changes after which the labels are the same.
SAME: dict[str, Callable[[Contents], None]] = {
    **{
        f"{key} {value!r:.20}": each("annotations", lambda item, key=key, value=value: item.update({key: value}))
        for key in ("area", "bbox", "segmentation", "id", "keypoints", "attributes", "score")
        for value in UNREAD_VALUES
    },
    **{
        f"iscrowd {value!r}": each("annotations", lambda item, value=value: item.update(iscrowd=value))
        for value in (None, "0", 0.0, False, 1, "1", True, NAN, "", [], "no")
    },
    **{
        f"ignore {value!r}": each("annotations", lambda item, value=value: item.update(ignore=value))
        for value in (None, "0", "0.0", 0.0, False, NAN, "", [], {}, "false")
    },
    "no unread keys": each("annotations", lambda item: [item.pop(key) for key in ("id", *UNREAD)]),
    **{
        f"image {key} {value!r:.20}": each("images", lambda item, key=key, value=value: item.update({key: value}))
        for key in ("width", "height", "license", "date_captured", "flickr_url", "coco_url")
        for value in UNREAD_VALUES
    },
    "no width": each("images", lambda image: image.pop("width")),
    **{
        f"info {value!r:.20}": everywhere(lambda content, value=value: content.update(info=value, licenses=value))
        for value in UNREAD_VALUES
    },
    "no info": everywhere(lambda content: content.pop("info")),
    "no supercategory": each("categories", lambda category: category.pop("supercategory")),
    "supercategory of a number": each("categories", lambda category: category.update(supercategory=NAN)),
    "blanks around names": each("categories", lambda category: category.update(name=f" {category['name']}\t")),
    "text ids": set_ids(str, *ALL_IDS),
    "text ids of annotations": set_ids(str, "annotations.image_id", "annotations.category_id"),
    "text ids of images and categories": set_ids(str, "images.id", "categories.id"),
    "ids as floats": set_ids(float, *ALL_IDS),
    "annotations' ids as floats": set_ids(float, "annotations.image_id", "annotations.category_id"),
    "repeated images": everywhere(lambda content: content["images"].extend(copy.deepcopy(content["images"]))),
    "images again with text ids": everywhere(
        lambda content: content["images"].extend({**one, "id": str(one["id"])} for one in content["images"][:2])
    ),
    "repeated annotations": everywhere(lambda content: content["annotations"].extend(content["annotations"])),
    "repeated categories": everywhere(lambda content: content["categories"].extend(content["categories"])),
    "reversed": everywhere(lambda content: [content[key].reverse() for key in ("images", "annotations", "categories")]),
    "categories of val reversed": lambda contents: contents["val"]["categories"].reverse(),
    "other case in val": lambda contents: [
        one.update(name=one["name"].upper()) for one in contents["val"]["categories"]
    ],
    "unknown image": everywhere(lambda content: content["annotations"].append({"image_id": 4711, "category_id": 1})),
    "unknown category": everywhere(
        lambda content: content["annotations"].append({"image_id": content["images"][0]["id"], "category_id": 4711})
    ),
    "root": everywhere(
        lambda content: content["categories"].insert(0, {"id": 0, "name": "things", "supercategory": "none"}),
        lambda content: [one.update(supercategory="things") for one in content["categories"][1:]],
    ),
    "root called as a class": everywhere(
        lambda content: content["categories"].insert(0, {"id": 0, "name": "cat", "supercategory": "none"}),
        lambda content: [one.update(supercategory="cat") for one in content["categories"][1:]],
    ),
    "root in train alone": lambda contents: [
        contents["train"]["categories"].insert(0, {"id": 0, "name": "things", "supercategory": "none"}),
        [one.update(supercategory="things") for one in contents["train"]["categories"][1:]],
    ],
}


@pytest.mark.parametrize("change", SAME)
def test_labels_do_not_depend_on_the_dialect(tmp_path, change):
    contents = base()
    expected = plain_reading(contents)
    SAME[change](contents)
    collected = collect(tmp_path, contents)
    assert set(collected.labels) == set(NAMES.values())
    assert {part: labels_of(collected, part) for part in contents} == expected


def test_crowds_of_any_type_are_dropped(tmp_path):
    marks = [0, 1, None, "0", "1", 0.0, 1.0, True, False, "true"]
    contents = base()
    for content in contents.values():
        for mark, item in zip(marks * 2, content["annotations"], strict=False):
            item["iscrowd"] = mark
    assert_as_plainly_read(collect(tmp_path, contents, crowd="drop"), contents, drop_crowds=True)
    assert_as_plainly_read(collect(tmp_path, contents), contents)


def test_ids_of_any_size_stay_apart(tmp_path):
    """Neither leading zeros nor digits beyond 64 bits or a float's precision are lost."""
    ids = [0, -5, 2**53, 2**53 + 1, 2**64, 2**64 + 1, 10**90, "01", "1", "001", "1.0", " 1", "٣", "-0", "b", ""]
    contents = {"train": drawn(1, 4, "t"), "val": base()["val"]}
    contents["train"]["images"] = [{"id": number, "file_name": f"{at}.jpg"} for at, number in enumerate(ids)]
    contents["train"]["annotations"] = [
        {"image_id": number, "category_id": list(NAMES)[at % 4]} for at, number in enumerate(ids)
    ]
    collected = collect(tmp_path, contents)
    assert set(collected.parts["train"].image_ids) == {plain_id(number) for number in ids}
    assert_as_plainly_read(collected, contents)


def test_an_id_that_is_no_exact_number_is_refused(tmp_path):
    for number in (1.5, 2.0**60, True, None, [1], NAN):
        contents = base()
        contents["train"]["images"][0]["id"] = number
        with pytest.raises(UserError, match=r"--train: .*(id|images)"):
            collect(tmp_path, contents)


def test_lvis_images_are_labelled_in_part(tmp_path):
    contents = base()
    for content in contents.values():
        for at, image in enumerate(content["images"]):
            image["coco_url"] = f"http://images.cocodataset.org/train2017/{image.pop('file_name')}"
            image |= {"neg_category_ids": list(NAMES)[:at], "not_exhaustive_category_ids": list(NAMES)[at:3]}
            content["images"][at] = image
    collected = collect(tmp_path, contents)
    assert_as_plainly_read(collected, contents)
    assert {value for row in labels_of(collected, "train").values() for value in row.values()} == {1, 0, -1}
    assert all(name.startswith("train2017/") for name in collected.parts["train"].file_names)
    (tmp_path / "images" / "val2017").mkdir(parents=True)
    for content in contents.values():
        for image in content["images"]:
            (tmp_path / "images" / "val2017" / image["coco_url"].rpartition("/")[2]).touch()
    collected = collect(tmp_path, contents, images=tmp_path / "images")
    assert all(name.startswith("val2017/") for name in collected.parts["train"].file_names)


def test_images_whose_paths_label_files_cannot_hold_are_named(tmp_path):
    """A folder from an old system: its name is Latin-1."""
    contents = base()
    for part, folder in (("train", b"images"), ("val", b"images/caf\xe9")):
        os.makedirs(os.fsencode(tmp_path) + b"/" + folder)
        for image in contents[part]["images"]:
            (tmp_path / os.fsdecode(folder) / image["file_name"]).touch()
    with pytest.raises(UserError, match=r"4 of the 4 images of val\.json are not there"):
        collect(tmp_path, contents, images=tmp_path / "images")
    contents["val"]["images"][0]["file_name"] = contents["train"]["images"].pop()["file_name"]
    collected = collect(tmp_path, contents, images=tmp_path / "images", missing_pictures="drop")
    assert len(collected.parts["val"]) == 1
    assert any("4 images whose paths are not UTF-8" in note and "caf\\xe9/v101.jpg" in note for note in collected.notes)


def test_categories_not_exhaustively_annotated_are_unknown_without_any_annotation(tmp_path):
    contents = base()
    contents["val"]["images"][0]["not_exhaustive_category_ids"] = list(NAMES)
    collected = collect(tmp_path, contents)
    assert set(labels_of(collected, "val")[104].values()) == {1, -1}


def test_a_root_with_annotations_stays(tmp_path):
    contents = base()
    SAME["root"](contents)
    contents["val"]["annotations"].append({"image_id": 101, "category_id": 0})
    collected = collect(tmp_path, contents)
    assert "things" in collected.labels
    assert_as_plainly_read(collected, contents)


def test_what_was_left_out_is_reported(tmp_path):
    contents = base()
    for name in ("unknown image", "unknown category", "root"):
        SAME[name](contents)
    contents["val"]["categories"].append({"id": 91, "name": "Cat ", "supercategory": "things"})
    notes = collect(tmp_path, contents).notes
    assert (
        "val: left out 2 of the 10 annotations, which refer to images that it does not list (4711) and categories "
        in ("\n".join(notes))
    )
    assert "left out the category 'things': it only groups the others, and no image shows it" in notes
    assert "val: categories that differ in case or blanks only are one label: 'cat' (id 7), 'Cat ' (id 91)" in notes


def repeat_image(**changes: object) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["images"].append({**content["images"][0], **changes})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (repeat_image(file_name="other.jpg"), "images: the id 6 stands for .*'t6.jpg'.*'other.jpg'"),
        (repeat_image(neg_category_ids=[1]), "images: the id 6 stands for"),
        (repeat_image(id="6", file_name="other.jpg"), "images: the id 6 stands for"),
        (lambda content: content["categories"].append({"id": "7", "name": "dog"}), "categories: the id 7 stands for"),
        (
            lambda content: content.update(images={"1": "a.jpg"}),
            r"at `\$.images`; expected \{\"images\": \[\{\"id\": 1",
        ),
        (lambda content: content.update(annotations=None), r"at `\$.annotations`; expected"),
        (lambda content: content.pop("categories"), "`categories`; expected"),
        (lambda content: content["images"][2].update(file_name=5), r"at `\$.images\[2\].file_name`"),
        (
            lambda content: content["images"][2].update(file_name=None),
            r"images\[2\] has neither file_name nor coco_url",
        ),
        (lambda content: content["images"][2].update(file_name=" "), r"images\[2\] has neither file_name nor"),
        (lambda content: content["categories"][1].update(name=" "), "name of the category with the id 3 is empty"),
        (lambda content: content["categories"][1].update(name=5), r"at `\$.categories\[1\].name`"),
        (lambda content: content["annotations"][1].update(image_id=NAN), r"at `\$.annotations\[1\].image_id`"),
    ],
)
def test_contradictions_are_refused(tmp_path, change, message):
    contents = base()
    change(contents["train"])
    with pytest.raises(UserError, match=f"^--train: .*train.json.*{message}") as caught:
        collect(tmp_path, contents)
    assert "\n" not in str(caught.value)


def fuzz(folder: Path, seed: int, cases: int) -> int:
    """Change files at random: the labels are as plainly read, or it is one line of an error. Return the successes."""
    draw = random.Random(seed)
    successes = 0
    for _ in range(cases):
        contents = base()
        for _ in range(draw.choice([1, 1, 2, 3, 6])):
            mutate(draw, draw.choice(list(contents.values())))
        drop = draw.random() < 0.3
        try:
            collected = collect(folder, contents, crowd="drop" if drop else "keep")
        except UserError as error:
            if "\n" in str(error) or len(str(error)) > 1500:
                raise AssertionError("a message of more than a line") from error
        else:
            assert_as_plainly_read(collected, contents, drop)
            successes += 1
    return successes


def mutate(draw: random.Random, content: dict[str, Any]) -> None:
    """Change one thing: a value, a key, an entry, the order, or the form of an id."""
    section = draw.choice(["images", "annotations", "annotations", "categories"])
    entries = content.get(section)
    if not isinstance(entries, list) or not entries or draw.random() < 0.05:
        content[draw.choice(["images", "annotations", "categories", "info"])] = draw.choice(
            [[], {}, None, 5, [5], [{}]]
        )
        return
    entry = draw.choice(entries)
    kind = draw.randrange(8)
    if not isinstance(entry, dict) or not entry or kind == 0:
        entries.remove(entry)
    elif kind == 1:
        entries.append(copy.deepcopy(entry))
    elif kind == 2:
        draw.shuffle(entries)
    elif kind == 3:
        del entry[draw.choice(list(entry))]
    elif kind == 4:
        other = draw.choice(entries)
        key = draw.choice(list(entry))
        if isinstance(other, dict) and key in other:
            entry[key] = other[key]
    elif kind == 5:
        key = draw.choice(["id", "image_id", "category_id"])
        if isinstance(entry.get(key), int):
            entry[key] = draw.choice([str, float, lambda number: f"0{number}", lambda number: number + 2**64])(
                entry[key]
            )
    else:
        keys = [*entry, "ignore", "iscrowd", "neg_category_ids", "not_exhaustive_category_ids", "coco_url"]
        entry[draw.choice(keys)] = draw.choice(
            [
                *UNREAD_VALUES,
                0,
                1,
                7,
                "7",
                7.0,
                1.5,
                "0",
                "true",
                False,
                "Cat",
                " cat",
                "ü",
                [1],
                ["7", 90.0],
                [4711],
                1e300,
            ]
        )


def test_random_changes(tmp_path):
    assert 50 < fuzz(tmp_path, seed=0, cases=300) < 250
