"""Names of annotation files find their images, however written; where two files fit equally, neither is taken."""

from __future__ import annotations

import unicodedata

import pytest

from src.prepare.image_names import EXACT, NAME, PATH, SPELLING, ImageNames

ROOT = "/data/photos"


def find(names: list[str], files: list[str], **options: bool) -> dict[str, str]:
    return ImageNames(sorted(files), ROOT).find(names, **options).place_of


@pytest.mark.parametrize(
    ("name", "file", "way"),
    [
        ("a/b.jpg", "a/b.jpg", EXACT),
        ("./a/b.jpg", "a/b.jpg", SPELLING),
        ("a//./c/../b.jpg", "a/b.jpg", SPELLING),
        ("a\\b.jpg", "a/b.jpg", SPELLING),
        ("  a/b.jpg \r\n", "a/b.jpg", SPELLING),
        ("a/b%20c.jpg", "a/b c.jpg", SPELLING),
        ("a%2Fb.jpg", "a/b.jpg", SPELLING),
        ("a%5Cb.jpg", "a/b.jpg", SPELLING),
        ("A/B.JPG", "a/b.jpg", SPELLING),
        ("a/b.jpeg", "a/b.jpg", SPELLING),
        ("x/b.jpg", "b.JPEG", PATH),
        ("a/b.jpg", "A/B.JPG", SPELLING),
        (unicodedata.normalize("NFC", "é/ü.jpg"), unicodedata.normalize("NFD", "é/ü.jpg"), SPELLING),
        (unicodedata.normalize("NFD", "é/ü.jpg"), unicodedata.normalize("NFC", "é/Ü.jpg"), SPELLING),
        (f"{ROOT}/a/b.jpg", "a/b.jpg", SPELLING),
        (f"file://{ROOT}/a/b.jpg", "a/b.jpg", PATH),
        ("..\\photos\\b.jpg", "b.jpg", PATH),
        ("../../b.jpg", "b.jpg", SPELLING),
        ("b.jpg", "x/y/b.jpg", PATH),
        ("y/b.jpg", "x/y/b.jpg", PATH),
        ("/home/other/x/b.jpg", "b.jpg", PATH),
        ("C:\\Users\\Other\\x\\b.jpg", "x/b.jpg", PATH),
        ("\\\\server\\share\\b.jpg", "b.jpg", PATH),
        ("https://host/bucket/a%20b.jpg?sig=1/2#x", "a b.jpg", PATH),
        ("http://images.cocodataset.org/train2017/000000000009.jpg", "train2017/000000000009.jpg", PATH),
        ("s3://bucket/train_0/b.jpg", "train_0/b.jpg", PATH),
        ("/data/local-files/?d=x/b.jpg", "x/b.jpg", NAME),
        ("images/v1/patch8/b.jpg", "train/patch8/b.jpg", PATH),
        ("train/b.jpg", "all/b.jpg", NAME),
    ],
)
def test_a_name_finds_its_image(name, file, way):
    others = ["zz/other.jpg", "other/photo.jpg", "b.png"]
    found = ImageNames(sorted([file, *others]), ROOT).find([name])
    assert found.place_of == {name: file}
    assert found.way_of == {name: way}
    assert found.doubtful == {}
    assert len(found.notes([name], "val")) == (way != EXACT)


@pytest.mark.parametrize("name", ["", ".", "/", "..", "c.jpg", "b", "b.jpgg", "b.jpe", "%zz", "\0", "://", "?", "a"])
def test_names_of_no_image(name):
    found = ImageNames(["a/b.jpg"], ROOT).find([name])
    assert (found.place_of, found.doubtful) == ({}, {})


@pytest.mark.parametrize(
    ("name", "files", "expected"),
    [
        ("a%20b.jpg", ["a b.jpg", "a%20b.jpg"], "a%20b.jpg"),  # the literal name first
        ("x/b.jpg", ["x/b.jpg", "x/X/b.jpg", "y/x/b.jpg"], "x/b.jpg"),
        ("./x/B.jpg", ["x/B.jpg", "x/b.jpg"], "x/B.jpg"),
        ("y/x/b.jpeg", ["x/b.jpg", "x/b.jpeg"], "x/b.jpeg"),
        ("/home/x/b.jpg", ["b.jpg", "x/b.jpg"], "x/b.jpg"),
        ("/home/x/b.jpg", ["b.jpg", "z/b.jpg"], "b.jpg"),  # that of z contradicts the name
        ("./x/b.JPG", ["x/b.jpg", "y/x/b.jpg", "y/x/b.JPG"], "x/b.jpg"),
        ("z/b.jpg", ["x/b.jpg", "y/B.JPG"], "x/b.jpg"),
        (f"{ROOT}/x/b.jpg", ["x/b.jpg", "photos/x/b.jpg"], "x/b.jpg"),
    ],
)
def test_the_nearest_file_is_taken(name, files, expected):
    assert find([name], files) == {name: expected}


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("b.jpg", ["x/b.jpg", "y/b.jpg"]),
        ("z/b.jpg", ["x/b.jpg", "y/b.jpg"]),
        ("q/x/b.jpg", ["1/x/b.jpg", "2/x/b.jpg"]),
        ("train/x/b.jpg", ["val/x/b.jpg", "b.jpg"]),
        ("./b.JPG", ["b.jpg", "B.jpg"]),
    ],
)
def test_equally_near_files_are_named_and_none_is_taken(name, files):
    found = ImageNames(sorted(files), ROOT).find([name])
    assert (found.place_of, found.way_of) == ({}, {})
    assert all(file in found.doubtful[name] for file in files)


def test_no_file_is_the_image_of_two_names():
    """Numbers that start again in each folder: the cat's image is not there, and the dog's is not hers."""
    found = ImageNames(["dogs/1.jpg", "x/2.jpg", "3.jpg"], ROOT).find(
        ["cats/1.jpg", "dogs/1.jpg", "a/2.jpg", "b/2.jpg", "./3.jpg", "3.JPG", ".\\3.jpg"]
    )
    assert found.place_of == {"dogs/1.jpg": "dogs/1.jpg", "./3.jpg": "3.jpg", ".\\3.jpg": "3.jpg"}
    assert found.doubtful.keys() == {"cats/1.jpg", "a/2.jpg", "b/2.jpg", "3.JPG"}
    assert "dogs/1.jpg" in found.doubtful["cats/1.jpg"]
    assert "b/2.jpg" in found.doubtful["a/2.jpg"]


def test_copies_of_an_image_are_no_doubt_where_names_are_unique():
    files = ["train/1.jpg", "train_0/1.jpg", "train_0/2.JPG"]
    names = ["1.jpg", "2.jpg", "train_0/1", "https://host/2.jpg"]
    assert find(names, files, copies=True) == {
        "1.jpg": "train/1.jpg",
        "2.jpg": "train_0/2.JPG",
        "https://host/2.jpg": "train_0/2.JPG",
    }


def test_what_was_searched():
    assert ImageNames(["a.jpg", "b.jpg", "c.jpg"], ROOT).searched == (
        f"searched 3 image files below {ROOT}, such as a.jpg and b.jpg"
    )
    assert ImageNames([], ROOT).searched == f"there is no image file below {ROOT}"
