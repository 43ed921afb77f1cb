"""Walking through folders: each real folder once, regular files only, and what was passed over is named."""

import os
import socket

import pytest

from src.data.folders import FolderWalk
from src.prepare.files import list_images


@pytest.fixture
def tree(tmp_path):
    """A folder below ``tmp_path``, so that there is something above it."""
    root = tmp_path / "photos"
    for name in ("sea/a.jpg", "sky/b.jpg", "sky/deep/c.jpg", "d.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (tmp_path / "above.jpg").touch()
    return root


ALL = {"sea/a.jpg", "sky/b.jpg", "sky/deep/c.jpg", "d.jpg"}


def files(walk: FolderWalk) -> list[str]:
    return [name if folder == "." else f"{folder}/{name}" for folder, names in walk for name in names]


@pytest.mark.parametrize("links", [1, 2, 3, 12])
@pytest.mark.parametrize("target", [".", "..", "../..", "../sea", "/", "self"])
def test_links_in_a_circle_end_and_change_nothing(tree, links, target):
    for number in range(links):
        for folder in (tree / "sky", tree / "sea"):
            name = f"a{number}"  # before the real names in alphabetical order
            (folder / name).symlink_to(name if target == "self" else target)
    assert sorted(files(FolderWalk(tree))) == sorted(ALL)


def test_a_linked_folder_is_entered_once_and_real_folders_keep_their_names(tree, tmp_path):
    (tmp_path / "other" / "more").mkdir(parents=True)
    (tmp_path / "other" / "more" / "e.jpg").touch()
    (tmp_path / "other" / "back").symlink_to(tree)
    (tree / "a_link").symlink_to(tree / "sky" / "deep")
    (tree / "b_link").symlink_to(tmp_path / "other")
    (tree / "c_link").symlink_to(tmp_path / "other")
    (tree / "f.jpg").symlink_to(tree / "d.jpg")
    walk = FolderWalk(tree)
    found = files(walk)
    assert sorted(found) == sorted({*ALL, "b_link/more/e.jpg", "f.jpg"})
    assert walk.passed_over == {
        "links to a folder that is listed already, or above": ["a_link", "c_link", "b_link/back"]
    }
    assert files(walk) == found  # again, without counting anything twice
    assert len(walk.notes()) == 1


def test_what_is_no_file_is_passed_over_and_named(tree):
    os.mkfifo(tree / "fifo.jpg")
    (tree / "gone.jpg").symlink_to(tree / "nothing")
    (tree / "null.jpg").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as listener:
        before = os.getcwd()
        os.chdir(tree)
        listener.bind("socket.jpg")
        os.chdir(before)
        walk = FolderWalk(tree)
        assert sorted(files(walk)) == sorted(ALL)
    assert walk.passed_over == {
        "FIFOs": ["fifo.jpg"], "links to nothing, or that cannot be followed": ["gone.jpg"], "devices": ["null.jpg"],
        "sockets": ["socket.jpg"],
    }  # fmt: skip


def test_hidden_and_excluded_folders_are_passed_over(tree):
    for name in (
        ".thumbs/x.jpg",
        "sea/._a.jpg",
        "sea/@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg",
        "#RECYCLE/y.jpg",
        "c.lrdata/z.jpg",
    ):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).touch()
    walk = FolderWalk(tree)
    assert sorted(files(walk)) == sorted(ALL)
    assert walk.passed_over == {
        "excluded files and folders": ["#RECYCLE", "c.lrdata", "sea/@eaDir"],
        "hidden files and folders": [".thumbs", "sea/._a.jpg"],
    }
    assert "sky/b.jpg" not in files(FolderWalk(tree, exclude=["SK*"]))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_an_unreadable_folder_is_named(tree):
    (tree / "sky").chmod(0)
    walk = FolderWalk(tree)
    assert sorted(files(walk)) == ["d.jpg", "sea/a.jpg"]
    assert walk.passed_over == {"folders that cannot be read (Permission denied)": ["sky"]}
    (tree / "sky").chmod(0o755)


def test_a_folder_that_fails_to_list_is_named(tree, monkeypatch):
    real = os.scandir

    def scandir(path):
        if str(path).endswith("sky"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    walk = FolderWalk(tree)
    assert sorted(files(walk)) == ["d.jpg", "sea/a.jpg"]
    assert walk.notes() == ["passed over 1 folders that cannot be read (Permission denied): sky"]


def test_other_suffixes_are_counted(tree):
    for name in ("notes.txt", "sea/more.TXT", "sky/README"):
        (tree / name).touch()
    names, notes = list_images(tree)
    assert names == sorted(ALL)
    assert notes == [
        f"--images {tree}: passed over 3 files that are no images by their suffix: .txt (2), no suffix (1)"
    ]
