"""--pic_path: files, folders, patterns and lists become the images that are meant, once each and in order."""

import io
import os
from pathlib import Path
from typing import Any

import pytest

from src.errors import UserError
from src.inference import input_paths as inputs
from src.inference.input_paths import expand

TREE = (
    "a.jpg", "B.JPG", "notes.txt.bak", "z/deep/c.png", "z/d.WebP", "z/readme.md", "m-n/e.tif", "m/f.jpeg",
    ".hidden.jpg", "._a.jpg", "z/._d.WebP", ".cache/g.jpg", "z/.thumbs/h.jpg", "odd [1].jpg",
)  # fmt: skip
SEEN = ["B.JPG", "a.jpg", "m-n/e.tif", "m/f.jpeg", "odd [1].jpg", "z/d.WebP", "z/deep/c.png"]


@pytest.fixture(autouse=True)
def tree(tmp_path, monkeypatch) -> Path:
    """The working folder, with the images of ``TREE`` in ``photos``."""
    monkeypatch.chdir(tmp_path)
    for name in TREE:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def expanded(*arguments: str, stdin: bytes = b"") -> list[str]:
    found = expand(arguments, io.TextIOWrapper(io.BytesIO(stdin)))
    assert all(isinstance(path, Path) for path in found)
    return [str(path) for path in found]


def below(*names: str) -> list[str]:
    return [f"photos/{name}" for name in names]


def mistake(*arguments: str, stdin: bytes = b"") -> str:
    with pytest.raises(UserError) as caught:
        expanded(*arguments, stdin=stdin)
    message = str(caught.value)
    assert message.startswith("--pic_path ")
    assert "\n" not in message
    return message


def test_files_are_taken_as_they_are_and_in_their_order():
    names = below("z/d.WebP", "a.jpg", "z/readme.md")
    assert expanded(*names) == names
    assert expanded("photos/z/readme.md") == ["photos/z/readme.md"]


def test_several_may_miss_some_but_a_single_one_must_be_there():
    assert expanded("photos/a.jpg", "nowhere.jpg") == ["photos/a.jpg", "nowhere.jpg"]
    assert "nowhere.jpg: no such file; give" in mistake("nowhere.jpg")
    assert "no such file" in mistake("x" * 5000)


def test_folder_gives_the_images_below_it_sorted_without_hidden_ones():
    assert expanded("photos") == below(*SEEN) == sorted(below(*SEEN))
    assert expanded("photos/") == expanded("./photos") == below(*SEEN)
    assert expanded("photos/.cache") == below(".cache/g.jpg")  # named, so meant


def test_working_folder_gives_plain_names(tree, monkeypatch):
    monkeypatch.chdir(tree / "photos")
    assert expanded(".") == SEEN
    assert expanded("*.jpg") == ["a.jpg", "odd [1].jpg"]


def test_links_to_folders_are_followed_once_and_circles_end(tree):
    photos = tree / "photos"
    (tree / "other").mkdir()
    (tree / "other" / "o.jpg").touch()
    (photos / "0loop").symlink_to(photos)
    (photos / "z" / "up").symlink_to(photos)
    (photos / "self").symlink_to("self")
    for name in ("y-other", "x-other"):
        (photos / name).symlink_to(tree / "other")
    (photos / "link.jpg").symlink_to("a.jpg")
    (photos / "nowhere.jpg").symlink_to("gone.jpg")
    assert expanded("photos") == sorted(below(*SEEN, "link.jpg", "x-other/o.jpg"))
    matched = expanded("photos/**/*.jpg")
    assert len(matched) == len(set(matched))  # ** does not walk in a circle
    assert set(below("a.jpg", "link.jpg", "odd [1].jpg")) <= set(matched)
    assert not any("0loop" in str(path) for path in matched)


def test_unlistable_subfolder_is_reported_at_reading(monkeypatch):
    listed = os.scandir

    def refusing(path):
        if str(path).endswith("m-n"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(inputs.os, "scandir", refusing)
    assert expanded("photos") == below(*("m-n" if name == "m-n/e.tif" else name for name in SEEN))


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("photos/*.jpg", ["a.jpg", "odd [1].jpg"]),
        ("photos/*.[jJ][pP]*", ["B.JPG", "a.jpg", "odd [1].jpg"]),
        ("photos/**/*.jp*g", ["a.jpg", "m/f.jpeg", "odd [1].jpg"]),
        ("photos/z/*", ["z/d.WebP", "z/readme.md"]),
        ("photos/m*/**", ["m-n/e.tif", "m/f.jpeg"]),
        ("photos/?/deep/*", ["z/deep/c.png"]),
        ("photos/.cache/*", [".cache/g.jpg"]),
        ("photos/*/.thumbs/*", ["z/.thumbs/h.jpg"]),
        ("../{here}/photos/m/*", None),
        ("{absolute}/photos/m/*", None),
    ],
)
def test_patterns_match_files_sorted(tree, pattern, names):
    found = expanded(pattern.format(here=tree.name, absolute=tree))
    if names is None:
        assert [Path(path).resolve() for path in found] == [tree / "photos" / "m" / "f.jpeg"]
    else:
        assert found == below(*names)


def test_existing_file_is_neither_pattern_nor_list(tree):
    (tree / "@a.jpg").touch()
    assert expanded("photos/odd [1].jpg") == ["photos/odd [1].jpg"]
    assert expanded("@a.jpg") == ["@a.jpg"]


def test_patterns_that_match_nothing_are_refused():
    assert "photos/*.heic: no file matches this pattern; check it" in mistake("photos/*.heic")
    assert "no file matches" in mistake("photos/*.heic", "photos/a.jpg")
    assert "nowhere/**/*.jpg" in mistake("nowhere/**/*.jpg")


LISTED = ["photos/a.jpg", "# 1.jpg", " lead.jpg", "café/☃.jpg", "trail.jpg "]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize(
    ("ends", "last"), [("\n", "\n"), ("\r\n", "\r\n"), ("\n", ""), ("\n\n \n", "\n"), ("\0", "\0")]
)
@pytest.mark.parametrize("form", ["list.txt", "LIST.TXT", "@list", "@list.txt", "-"])
def test_lists_hold_one_path_per_line(tree, mark, ends, last, form):
    content = mark + (ends.join(LISTED) + last).encode()
    if form == "-":
        assert expanded("-", stdin=content) == LISTED
    else:
        (tree / form.removeprefix("@")).write_bytes(content)
        assert expanded(form) == LISTED


def test_lists_may_hold_names_that_are_not_utf8(tree):
    name = b"photos/caf\xe9\n1.jpg"
    (tree / os.fsdecode(name)).touch()
    assert expanded("-", stdin=name + b"\0photos/a.jpg\0") == [os.fsdecode(name), "photos/a.jpg"]
    assert os.fsdecode(name) in expanded("photos")


def test_unreadable_and_empty_lists_are_refused(tree):
    assert "gone.txt: no such list; give" in mistake("gone.txt", "photos/a.jpg")
    assert "@gone: the list cannot be read" in mistake("@gone")
    assert "@photos: the list cannot be read: Is a directory; give" in mistake("@photos")
    for content in (b"", b"\r\n \n", b"\xef\xbb\xbf", b"\0\0"):
        (tree / "list.txt").write_bytes(content)
        assert "list.txt: the list holds no path; write" in mistake("list.txt")
        assert "-: the list holds no path" in mistake("-", stdin=content)
    for encoding in ("utf-16-le", "utf-16-be"):
        (tree / "list.txt").write_bytes("\ufeffphotos/a.jpg\n".encode(encoding))
        assert "UTF-16 text; save it as UTF-8" in mistake("list.txt")
    assert "once" in mistake("-", "photos", "-", stdin=b"a.jpg\n")


def test_empty_folder_is_refused(tree):
    (tree / "empty" / "below").mkdir(parents=True)
    (tree / "empty" / ".x.jpg").touch()
    message = mistake("photos", "empty")
    assert "empty: no image in this folder or below it; give" in message
    assert ".jpg" in message


def test_repeated_path_keeps_its_first_place(tree):
    last = "photos/z/deep/c.png"
    found = expanded(last, "./photos/a.jpg", "photos", f"{tree}/photos/a.jpg", "photos/*.JPG", "-", stdin=b"new.jpg\n")
    rest = [path for path in below(*SEEN) if path not in (last, "photos/a.jpg")]
    assert found == [last, "photos/a.jpg", *rest, "new.jpg"]


def noted(*arguments: str, stdin: bytes = b"", **options: Any) -> tuple[list[str], list[str]]:
    """Paths, and lines about what is passed over."""
    notes: list[str] = []
    paths = expand(arguments, io.TextIOWrapper(io.BytesIO(stdin)), notes=notes, **options)
    return list(map(str, paths)), notes


def test_what_a_folder_run_passes_over_is_told(tree):
    thumbs = ("@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", "p.lrdata/q.jpg", "Fotos.photoslibrary/resources/d.jpg")
    for name in ("x.cr2", "x.JXL", *thumbs):
        path = tree / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tree / "photos" / "gone.jpg").symlink_to("nowhere")
    paths, notes = noted("photos", "photos/m")
    assert paths == below(*SEEN)
    assert sorted(notes) == [
        "photos: passed over 1 links to nothing, or that cannot be followed: gone.jpg",
        "photos: passed over 3 excluded files and folders: @eaDir, p.lrdata, Fotos.photoslibrary/resources",
        "photos: passed over 4 files that are no images by their suffix: .bak (1), .jxl (1), .cr2 (1), .md (1); "
        "RAW files (.cr2) are not read, export them as JPEG",
        "photos: passed over 5 hidden files and folders: ._a.jpg, .cache, .hidden.jpg, z/._d.WebP, z/.thumbs",
    ]
    paths, _ = noted("photos", default_exclude=())
    assert set(paths) - set(below(*SEEN)) == set(below(*thumbs))


@pytest.mark.parametrize(
    ("patterns", "gone"),
    [
        (["*.jpg"], ["B.JPG", "a.jpg", "odd [1].jpg"]),
        (["Z"], ["z/d.WebP", "z/deep/c.png"]),
        (["deep/*"], ["z/deep/c.png"]),
        (["z/*", "m"], ["m/f.jpeg", "z/d.WebP", "z/deep/c.png"]),
        (["deep/"], ["z/deep/c.png"]),
        (["photos"], []),
    ],
)
def test_excluded_files_and_folders(patterns, gone):
    assert noted("photos", exclude=patterns)[0] == [path for path in below(*SEEN) if path not in below(*gone)]


def test_exclusion_in_patterns_and_lists(tree):
    (tree / "photos" / "@eaDir").mkdir()
    (tree / "photos" / "@eaDir" / "t.png").touch()
    assert noted("photos/**/*.png") == (below("z/deep/c.png"), ["photos/**/*.png: passed over 1 excluded files"])
    listed = b"photos/@eaDir/t.png\nphotos/a.jpg\nphotos/z/x.jpg\n"
    assert noted("-", stdin=listed)[0] == below("@eaDir/t.png", "a.jpg", "z/x.jpg")
    assert noted("-", stdin=listed, exclude=["z", "@eaDir"]) == (below("a.jpg"), ["-: passed over 2 excluded files"])
    assert noted("photos/a.jpg", exclude=["a.jpg"])[0] == below("a.jpg")  # named, so meant


def test_nothing_is_told_where_nothing_is_passed_over():
    assert noted("photos/m", "photos/a.jpg") == (below("m/f.jpeg", "a.jpg"), [])


def test_folder_of_other_files_only_says_what_they_are(tree):
    (tree / "raw").mkdir()
    (tree / "raw" / "a.NEF").touch()
    assert "RAW files (.nef) are not read" in mistake("raw")
