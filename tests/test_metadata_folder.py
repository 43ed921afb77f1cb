"""Output folders of prepare_data.py: changed in one step, and nothing of the user's is lost."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest
import torch

import prepare_data
from src.config.prepare import OutputSettings
from src.config.sources import SampleSettings
from src.data.coco import read_coco_labels
from src.data.labels import LabelledImages, LabelMatrix
from src.data.metadata import ExtraWords, load_metadata
from src.data.metadata_folder import open_output
from src.data.metadata_writer import MetadataContent, write_metadata
from src.data.split import make_split
from src.errors import UserError
from src.prepare.run import prepare
from src.utils.manifest import NAME
from tests.kill_helpers import Ended, KillableRuns
from tests.prepare_helpers import prepare_sample
from tests.script_helpers import call

LABELS = ("cat", "dog", "fish")


def write(folder: Path, name: str = "old", *, overwrite: bool = False, official: bool = False) -> None:
    """Write a data set that consists of files which all depend on its name; ``old`` has some that ``new`` has not."""
    seed = sum(map(ord, name))
    vectors = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))
    count = 2 if name == "old" else 1
    targets = torch.tensor([[seed % 2, row % 2, 0] for row in range(count)], dtype=torch.int8)
    numbers = tuple(range(seed, seed + count))
    files = tuple(f"{row}.jpg" for row in range(count))
    part = LabelledImages(numbers, files, LabelMatrix.from_dense(targets))
    content = MetadataContent(
        make_split(LABELS, [0, 1], [2], vectors, name=name, source="here"),
        {"train": part, "val": part} if name == "old" else {"val": part},
        image_root="images",
        extra_words=ExtraWords(("the",), vectors[:, :1]) if name == "old" else None,
        files={"report.txt": name.encode(), **{f"images/{file}": f"{name} {file}".encode() for file in files}},
    )
    write_metadata(folder, content, overwrite=overwrite, official=official)


def seen_by_a_reader(folder: Path) -> str | None:
    """Return the name of the data set if all that its readers get belongs together; None if there is none."""
    if not (folder / "split.json").exists():
        return None
    metadata = load_metadata(folder)
    name = metadata.split.name
    seed = sum(map(ord, name))
    vectors = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(metadata.split.word_vectors, vectors)
    assert (metadata.train is not None, metadata.extra_words is not None) == (name == "old",) * 2
    for path in filter(None, (metadata.train, metadata.val)):
        images = read_coco_labels(path, metadata.split.labels)
        assert images.image_ids[0] == seed
        for file in images.file_names:
            assert (metadata.image_root / file).read_text() == f"{name} {file}"
    return name


def below(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != NAME)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


MINE = {"notes.txt": b"mine", "images/holiday.jpg": b"a photograph", "images/trip/1.jpg": b"another", "more/x": b"x"}


def add_mine(folder: Path) -> None:
    for name, data in MINE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def whole(name: str, folder: Path, *, official: bool = False) -> dict[str, bytes]:
    """The files of a data set that was written into an empty folder."""
    write(folder, name, official=official)
    return below(folder)


def test_overwriting_replaces_our_files_and_keeps_all_others(tmp_path):
    write(tmp_path / "m", "old", official=True)
    add_mine(tmp_path / "m")
    write(tmp_path / "m", "new", overwrite=True)
    assert below(tmp_path / "m") == {**whole("new", tmp_path / "other"), **MINE}
    assert not (tmp_path / "m" / "official").exists()
    assert seen_by_a_reader(tmp_path / "m") == "new"
    write(tmp_path / "m", "old", overwrite=True)
    assert below(tmp_path / "m") == {**whole("old", tmp_path / "third"), **MINE}


@pytest.mark.parametrize("name", ["train.json", "split.json", "report.txt", "word_vectors.npy", "images/0.jpg"])
@pytest.mark.parametrize("what", ["edited", "link", "folder"])
def test_files_that_the_user_changed_are_refused_by_name_and_nothing_changes(tmp_path, name, what):
    write(tmp_path / "m", "old")
    path = tmp_path / "m" / name
    if what == "edited":
        path.write_bytes(path.read_bytes() + b" ")
    else:
        shutil.move(path, tmp_path / "elsewhere")
    if what == "link":
        path.symlink_to(tmp_path / "elsewhere")
    elif what == "folder":
        path.mkdir()
    before, entries = below(tmp_path), sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=rf"^--output .*m: {name} would be replaced, but is not, or is no longer"):
        write(tmp_path / "m", "old", overwrite=True)
    assert (below(tmp_path), sorted(tmp_path.rglob("*"))) == (before, entries)


def test_folders_that_a_killed_run_emptied_are_removed(tmp_path):
    write(tmp_path / "m", "old", official=True)
    for file in (tmp_path / "m" / "official").glob("**/*.*"):
        file.unlink()
    assert {path.is_dir() for path in (tmp_path / "m" / "official").glob("**/*")} == {True}
    (tmp_path / "m" / "mine").mkdir()
    write(tmp_path / "m", "new", overwrite=True)
    assert not (tmp_path / "m" / "official").exists()
    assert (tmp_path / "m" / "mine").is_dir()


@pytest.mark.parametrize("name", ["images", "official"])
def test_a_sub_folder_that_is_now_a_link_or_a_file_is_refused(tmp_path, name):
    write(tmp_path / "m", "old", official=True)
    for make in (lambda path: path.symlink_to(tmp_path / "elsewhere"), Path.touch):
        shutil.move(tmp_path / "m" / name, tmp_path / "elsewhere")
        make(tmp_path / "m" / name)
        with pytest.raises(UserError, match=rf"^--output .*m: {name}.* would be replaced"):
            write(tmp_path / "m", "old", overwrite=True, official=True)
        (tmp_path / "m" / name).unlink()
        shutil.move(tmp_path / "elsewhere", tmp_path / "m" / name)
    write(tmp_path / "m", "old", overwrite=True, official=True)


def test_a_changed_file_without_successor_stays(tmp_path):
    write(tmp_path / "m", "old")
    (tmp_path / "m" / "images" / "1.jpg").write_bytes(b"painted over")
    write(tmp_path / "m", "new", overwrite=True)
    assert below(tmp_path / "m") == {**whole("new", tmp_path / "other"), "images/1.jpg": b"painted over"}


def test_folders_without_a_record_are_refused(tmp_path):
    """Those of earlier versions too: nothing tells which of their files the user has edited."""
    write(tmp_path / "m", "old")
    (tmp_path / "m" / NAME).unlink()
    before = below(tmp_path)
    with pytest.raises(UserError, match="earlier versions kept no record"):
        write(tmp_path / "m", "new", overwrite=True)
    assert below(tmp_path) == before


def test_a_folder_that_holds_files_of_others_only_is_refused(tmp_path):
    add_mine(tmp_path / "m")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="--output"):
            write(tmp_path / "m", overwrite=overwrite)
    assert below(tmp_path / "m") == MINE


def test_two_runs_at_once(tmp_path):
    with open_output(tmp_path / "m", overwrite=False), pytest.raises(UserError, match="another run is writing"):
        write(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / "m")
    with open_output(tmp_path / "m", overwrite=True), pytest.raises(UserError, match="another run is writing"):
        write(tmp_path / "m", "new", overwrite=True)
    assert seen_by_a_reader(tmp_path / "m") == "old"


def written(argv: list[str]) -> int:
    """Write in a process that may be killed: argv is (folder, name, whether to overwrite, whether there are links)."""
    folder, name, overwrite, links = argv

    def no_links(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    if links == "False":
        os.link = no_links
    write(Path(folder), name, overwrite=overwrite == "True")
    return 0


@pytest.fixture(scope="module")
def runs():
    with KillableRuns("tests.test_metadata_folder") as runs:
        yield runs


@pytest.mark.parametrize(
    ("earlier", "links", "kills"),
    [(False, True, 9), (True, True, 14), (True, False, 9)],
    ids=["new folder", "overwrite", "overwrite without hard links"],
)
def test_killed_before_any_call_of_the_system(runs, tmp_path, earlier, links, kills):
    """A reader finds the old or the new data set whole, nothing of the user's is lost, the next run ends the matter."""
    before = tmp_path / "before"
    if earlier:
        write(before, "old")
        add_mine(before)
    mine = MINE if earlier else {}
    expected = {**whole("new", tmp_path / "fresh"), **mine}
    home, states = tmp_path / "home", []

    def start_over() -> None:
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        if earlier:
            shutil.copytree(before, home / "m")

    def killed_before(number: int | None, overwrite: bool) -> Ended:
        return runs.run("tests.test_metadata_folder:written", home / "m", "new", overwrite, links, kill_before=number)

    start_over()
    status, calls, _ = killed_before(None, earlier)
    assert status == 0
    for number in (1 + calls * kill // kills for kill in range(kills + 1)):
        start_over()
        killed = killed_before(number, earlier).is_killed
        assert killed == (number <= calls)
        states.append(seen_by_a_reader(home / "m"))
        assert below(home).items() >= {f"m/{name}": data for name, data in mine.items()}.items()
        if len(states) % 4 == 0 and killed:  # the next run is killed too
            killed_before(number // 2, True)
            assert seen_by_a_reader(home / "m") in ("old" if earlier else None, "new")
        # A new folder that is not complete may be written again without --overwrite
        write(home / "m", "new", overwrite=seen_by_a_reader(home / "m") is not None)
        assert below(home / "m") == expected
        assert seen_by_a_reader(home / "m") == "new"
        assert [entry.name for entry in home.iterdir()] == ["m"]
        assert [entry.name for entry in (home / "m").iterdir() if entry.name.startswith(".")] == [NAME]
    assert states == sorted(states, key=["old" if earlier else None, "new"].index)
    assert set(states) == {"old" if earlier else None, "new"}


def test_a_disk_that_is_full_leaves_the_old_data_set(tmp_path, monkeypatch):
    write(tmp_path / "m")
    before, real = below(tmp_path), os.fsync
    for failing in range(1, 7):
        calls = []

        def full(descriptor: int, calls: list[int] = calls, failing: int = failing) -> None:
            calls.append(descriptor)
            if len(calls) == failing:
                raise OSError(28, "No space left on device")
            real(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(UserError, match=r"^--output .*No space left"):
                write(tmp_path / "m", "new", overwrite=True)
        assert below(tmp_path) == before


def sample(output: Path, *flags: object) -> object:
    return call(prepare_data.main, "sample", "--output", output, "--train-images", 5, "--val-images", 3, *flags)


def sample_directly(folder: Path) -> None:
    prepare(SampleSettings(train_images=3, val_images=1), None, OutputSettings(output=folder, overwrite=True))


def test_other_vectors_for_the_same_folder_keep_the_images_it_drew(tmp_path):
    folder = tmp_path / "photos"
    prepare_sample(folder, num_train=5, num_val=3)
    (folder / "notes.txt").write_text("mine")
    images = {path.name: path.read_bytes() for path in (folder / "images").iterdir()}
    arguments = ["--metadata", folder, "--word-vectors", folder, "--output", folder]
    assert call(prepare_data.main, "word-vectors", *arguments, "--overwrite").returncode == 0
    assert {path.name: path.read_bytes() for path in (folder / "images").iterdir()} == images
    assert (folder / "notes.txt").read_text() == "mine"
    shutil.move(folder, tmp_path / "moved")
    assert load_metadata(tmp_path / "moved").image_root == tmp_path / "moved" / "images"
    assert sample(tmp_path / "moved", "--overwrite", "--train-images", 1).returncode == 0
    assert len(list((tmp_path / "moved" / "images").iterdir())) == 4


def test_images_that_a_killed_run_left_half_way_are_not_recorded_elsewhere(tmp_path, monkeypatch):
    folder = tmp_path / "m"
    prepare_sample(folder, num_train=5, num_val=3)

    def killed_at_once(path: Path, target: Path) -> None:
        raise KeyboardInterrupt  # after split.json names the files in the hidden sub-folder

    monkeypatch.setattr(os, "link", killed_at_once)
    with pytest.raises(KeyboardInterrupt):
        sample_directly(folder)
    monkeypatch.undo()
    assert len(list(load_metadata(folder).image_root.iterdir())) == 4
    arguments = ["--metadata", folder, "--word-vectors", folder, "--output"]
    finished = call(prepare_data.main, "word-vectors", *arguments, tmp_path / "other")
    assert (finished.returncode, "run it again first" in finished.stderr) == (2, True)
    assert call(prepare_data.main, "word-vectors", *arguments, folder, "--overwrite").returncode == 0
    assert load_metadata(folder).image_root == folder / "images"
    assert len(list((folder / "images").iterdir())) == 8  # those of the earlier run stay, as the new labels name some


@pytest.mark.parametrize(
    "arguments",
    [
        "word-vectors --metadata {other} --word-vectors {m} --output {m}",
        "word-vectors --metadata {m} --word-vectors {m}/word_vectors.npy --output {m}",
        "coco --train {m}/train.json --val {m}/val.json --word-vectors {other} --output {m}",
        "coco --train {m}/link --val {m}/link --word-vectors {other} --output {m}",
        "table --source {other} --unseen {m}/report.txt --word-vectors {other} --output {link}",
        "table --source {other} --word-vectors {m}/official --output {m}",
    ],
)
def test_inputs_that_would_be_replaced_are_refused_before_work(tmp_path, arguments):
    for name in ("m", "other"):
        write(tmp_path / name, official=True)
    (tmp_path / "link").symlink_to("m")
    (tmp_path / "m" / "link").symlink_to("train.json")
    before = below(tmp_path)
    places = {name: str(tmp_path / name) for name in ("m", "other", "link")}
    finished = call(prepare_data.main, *arguments.format(**places).split(), "--overwrite")
    assert (finished.returncode, finished.stderr.count("\n")) == (2, 1), finished.stderr
    assert "would replace it" in finished.stderr
    assert below(tmp_path) == before


@pytest.mark.parametrize("output", ["a" * 300, "there/" + "b" * 256, "file/m", "file", "loop"])
def test_an_output_that_cannot_be_is_one_line(tmp_path, output):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    finished = sample(tmp_path / output)
    assert (finished.returncode, finished.stderr.count("\n")) == (2, 1), finished.stderr
    assert "--output" in finished.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "loop"]


def test_a_failed_source_leaves_no_folder(tmp_path):
    arguments = ["--source", tmp_path / "gone.csv", "--word-vectors", "x", "--output", tmp_path / "a/b/c"]
    assert call(prepare_data.main, "table", *arguments).returncode == 2
    assert list(tmp_path.iterdir()) == []


def test_readers_meanwhile_find_whole_data_sets(tmp_path):
    """Readers load again and again while the folder changes from one data set to the other."""
    folder = tmp_path / "m"
    write(folder, "old")
    done, found = threading.Event(), set()

    def change() -> None:
        try:
            for name in ("new", "old") * 5:
                write(folder, name, overwrite=True)
        finally:
            done.set()

    writer = threading.Thread(target=change)
    writer.start()
    while not done.is_set():
        found.add(load_metadata(folder).split.name)
    writer.join()
    assert found == {"old", "new"}
