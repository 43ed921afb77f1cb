"""What the scripts write replaces neither their inputs nor files of the user; devices and FIFOs are written to."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from PIL import Image

import infer
import src.utils.manifest
from src.checkpoint.__main__ import main as checkpoint_main
from src.checkpoint.outputs import checkpoint_outputs, is_average, is_calibrated
from src.errors import UserError
from src.inference.contact_sheet import is_contact_sheet, open_contact_sheet
from src.inference.formats import IS_OWN
from src.inference.targets import OutputFolder, target_names
from src.utils.digest import side_file
from src.utils.files import write_json
from src.utils.manifest import NAME
from src.utils.outputs import NAME as OUTPUTS
from src.utils.outputs import Output, check_outputs, is_foreign, recording
from tests.conftest import ROOT
from tests.helpers import save_tiny, tiny_model, write_images
from tests.script_helpers import Finished, call, snapshot, succeeded, user_error


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with a checkpoint, images in ``in``, a list, and own words."""
    save_tiny(tmp_path / "m.ckpt", tiny_model())
    write_images(tmp_path / "in", 3)
    (tmp_path / "list.txt").write_text("in/0.png\n")
    (tmp_path / "words.txt").write_text("tag1\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tag(*flags: object, images: tuple[object, ...] = ("in",)) -> Finished:
    drawn = {"--annotate", "--path_output"} & set(flags)
    more = () if drawn else ("--no_picture",)
    return call(infer.main, "--model_path", "m.ckpt", "-j", 0, *more, *flags, "--pic_path", *images)


# Inputs


INPUTS = ["m.ckpt", "m.ckpt.sha256", "m.onnx", "list.txt", "words.txt", "in/0.png", "in/2.png", "labels/split.json",
          "vectors.npy", "vectors.txt", "vectors.zip"]  # fmt: skip


@pytest.mark.parametrize("way", ["itself", "symlink", "link"])
@pytest.mark.parametrize("flag", ["--json", "--html"])
@pytest.mark.parametrize("source", INPUTS)
def test_no_output_of_infer_is_an_input(place, source, flag, way):
    for name in INPUTS:
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).exists() or Path(name).write_text("x")
    output = source if way == "itself" else "other"
    if way != "itself":
        getattr(os, way)(source if way == "link" else place / source, output)
    vectors = "vectors.zip/words.txt" if source == "vectors.zip" else "vectors.npy"
    given = ("--dataset_path", "labels", "--tags_file", "words.txt", "--word_vectors", vectors)
    before = snapshot(place)
    if way == "link" and source == "labels/split.json":
        pytest.skip("a folder is not searched for other names of its files; the output is refused as foreign")
    finished = tag(*given, flag, output, "--overwrite", images=("in", "@list.txt"))
    assert f"{flag} {output}: would overwrite" in user_error(finished)
    assert snapshot(place) == before


def test_no_output_of_average_is_an_input(place):
    shutil.copy("m.ckpt", "n.ckpt")
    before = snapshot(place)
    for output in ("m.ckpt", "n.ckpt", "m.ckpt.sha256"):
        finished = call(checkpoint_main, "average", "m.ckpt", "n.ckpt", "--output", output, "--overwrite")
        assert f"--output {output}: would overwrite the input" in user_error(finished)
    assert snapshot(place) == before


# Files of the user


@pytest.mark.parametrize(
    ("flag", "content"),
    [
        ("--json", "my notes"),
        ("--json", '{"model": "x", "settings": {}}'),
        ("--csv", "image,tag\na,b\n"),
        ("--html", "<!DOCTYPE html>\n<title>mine</title>"),
        ("--csv", "\0\xff"),
    ],
)
def test_a_file_of_the_user_is_replaced_with_overwrite_only(place, flag, content):
    Path("mine").write_text(content)
    message = user_error(tag(flag, "mine"))
    assert f"{flag} mine: exists, and is not, or is no longer, an earlier output of this kind; choose an" in message
    assert Path("mine").read_text() == content
    succeeded(tag(flag, "mine", "--overwrite"))
    succeeded(tag(flag, "mine"))  # which is an output now


@pytest.mark.parametrize("flag", ["--json", "--csv", "--parquet", "--html"])
def test_an_output_that_the_user_changed_is_the_users(place, flag):
    if flag == "--parquet":
        pytest.importorskip("pyarrow")
    Path("sub").mkdir()
    os.symlink("sub/tags", "tags")  # its folder holds the record
    for _ in range(2):
        succeeded(tag(flag, "tags"))
    written = Path("sub/tags").read_bytes()
    changed = written.replace(b"0.png", b"9.png", 1)
    assert changed != written
    Path("sub/tags").write_bytes(changed)
    assert f"{flag} tags: exists, and is not, or is no longer" in user_error(tag(flag, "tags"))
    assert Path("sub/tags").read_bytes() == changed
    succeeded(tag(flag, "tags", "--overwrite"))
    assert Path("sub/tags").read_bytes() == written
    assert sorted(os.listdir("sub")) == [OUTPUTS, "tags"]


def test_outputs_beside_the_record_of_another_user_are_written_but_not_recorded(place, monkeypatch):
    def denied(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(src.utils.manifest, "open_journal", denied)
    succeeded(tag("--html", "page.html"))
    assert OUTPUTS not in os.listdir()
    assert "--html page.html: exists" in user_error(tag("--html", "page.html"))
    succeeded(tag("--html", "page.html", "--overwrite"))


def test_a_planted_link_in_place_of_the_record_is_not_followed(place):
    Path("notes").write_text("mine")
    os.symlink("notes", OUTPUTS)
    assert f"{OUTPUTS}: it is a link; choose another folder" in user_error(tag("--html", "page.html", "--top_k", 999))
    assert Path("notes").read_text() == "mine"


@pytest.mark.parametrize("flag", ["--json", "--csv", "--html"])
def test_a_file_is_not_named_like_a_folder(place, flag):
    message = user_error(tag(flag, "new/"))
    assert f"argument {flag}: 'new/' is a folder; add the name of a file" in message
    assert not Path("new").exists()


def test_links_in_a_circle_are_no_output(place):
    os.symlink("loop", "loop")
    assert "--json loop: cannot be written: Too many levels of symbolic links" in user_error(tag("--json", "loop"))


@pytest.mark.parametrize(("form", "other"), [("json", "csv"), ("csv", "parquet"), ("parquet", "json")])
def test_an_output_of_another_kind_is_not_replaced(place, form, other):
    if "parquet" in (form, other):
        pytest.importorskip("pyarrow")
    succeeded(tag(f"--{form}", "tags"))
    assert IS_OWN[form](Path("tags"))
    os.unlink("tags.record.jsonl")
    assert f"--{other} tags: exists" in user_error(tag(f"--{other}", "tags"))


def test_a_record_of_the_user_stays(place):
    Path("tags.json.record.jsonl").write_text("my record\n")
    assert "--json, its record tags.json.record.jsonl: exists" in user_error(tag("--json", "tags.json"))


def test_an_empty_file_is_nobodys(tmp_path):
    (tmp_path / "x").touch()
    assert not is_foreign(Output(tmp_path / "x", lambda _: False))
    (tmp_path / "x").write_text(" ")
    assert is_foreign(Output(tmp_path / "x", lambda path: bool(1 / 0)))


def test_own_files_in_a_folder_that_is_read_are_replaced_and_others_never(tmp_path):
    with recording([tmp_path / "r.json"]):
        write_json(tmp_path / "r.json", {})
    for is_own in (True, False):
        outputs = {"--json": Output(tmp_path / "r.json", lambda _, own=is_own: own)}
        if is_own:
            check_outputs(outputs, [("--metadata", tmp_path)], overwrite=False)
        else:
            with pytest.raises(UserError, match="would overwrite --metadata"):
                check_outputs(outputs, [("--metadata", tmp_path)], overwrite=True)


def test_a_trained_checkpoint_is_no_output_of_fit_or_average(place):
    for is_own in (is_average, is_calibrated):
        outputs = checkpoint_outputs("--output", Path("m.ckpt"), is_own)
        assert [flag for flag, output in outputs.items() if is_foreign(output)] == ["--output", "--output, its digest"]
    finished = call(checkpoint_main, "average", "m.ckpt", "--output", "mean.ckpt")
    succeeded(finished)
    succeeded(call(checkpoint_main, "average", "m.ckpt", "--output", "mean.ckpt"))
    os.unlink("mean.ckpt")
    side_file("mean.ckpt").write_text("my notes")
    assert "--output, its digest mean.ckpt.sha256: exists" in user_error(
        call(checkpoint_main, "average", "m.ckpt", "--output", "mean.ckpt")
    )


def test_a_page_is_recognised(tmp_path):
    with open_contact_sheet(tmp_path / "x.html", "x" * 300):
        pass
    assert is_contact_sheet(tmp_path / "x.html")


# Folders


def test_what_an_earlier_run_made_is_no_image_of_the_next(place):
    shutil.copytree("in", "in/more")
    for images in ("in", "in", "in/**/*.png"):
        finished = succeeded(tag("--path_output", "in/out", images=(images,)))
        assert len(list(Path("in/out").glob("*.png"))) == 6
    assert "in/**/*.png: passed over 6 files that an earlier run made of images" in finished.stderr
    shutil.copy("in/1.png", "in/out/0.png")  # the user's now
    assert "would overwrite the image" in user_error(tag("--path_output", "in/out"))


def test_files_of_the_user_in_a_folder_keep_their_names(place):
    Path("drawn").mkdir()
    Image.new("RGB", (5, 5)).save("drawn/0.png")
    Path("drawn/1.png").symlink_to("../in/1.png")
    Path("drawn/2.png").mkdir()
    before = {name: content for name, content in snapshot(place / "drawn").items() if name != NAME}
    for _ in range(2):  # its own files are replaced
        finished = succeeded(tag("--annotate", "--path_output", "drawn", images=("in/0.png", "in/2.png")))
        assert "saved drawn/0-2.png" in finished.stdout
        assert {*os.listdir("drawn")} == {NAME, "0.png", "1.png", "2.png", "0-2.png", "2-2.png"}
    assert before.items() <= snapshot(place / "drawn").items()
    Path("drawn/0-2.png").write_text("edited")
    succeeded(tag("--annotate", "--path_output", "drawn", images=("in/0.png",)))
    assert Path("drawn/0-2.png").read_text() == "edited"
    assert Path("drawn/0-3.png").exists()


def test_a_number_given_for_the_user_is_not_that_of_another_image(tmp_path):
    (tmp_path / "a.jpg").write_text("mine")
    folder = OutputFolder(tmp_path, ["a.jpg", "a-2.jpg"])
    assert folder.place("a.jpg").name == "a-3.jpg"
    assert folder.place("a-2.jpg").name == "a-2.jpg"


@pytest.mark.parametrize("letter", ["n", "é", "日", "\udce9"])
def test_names_made_of_long_names_fit(letter):
    stem = letter * (251 // len(os.fsencode(letter)))
    paths = [Path("a") / f"{stem}.jpg", Path("b") / f"{stem}.jpg", Path("c") / f"{stem}.gif"]
    made = [name for names in target_names(paths).values() for name in names[1:]]
    assert len({name.lower() for name in made}) == len(made)
    assert all(len(os.fsencode(name)) <= 255 for name in made)


def test_images_with_the_longest_names_are_drawn_and_explained(place):
    name = "n" * 251 + ".png"
    os.rename("in/0.png", f"in/{name}")
    succeeded(tag("--annotate", "--explain", 1, "--path_output", "o", "--json", "o.json"))
    assert len(os.listdir("o")) == 7
    assert Path("o", name).exists()


def test_an_image_that_cannot_be_drawn_ends_no_run(place, monkeypatch):
    from src import visualize

    normal = visualize.save_tagged_image

    def failing(image, tags, path, **options):
        if path.name == "1.png":
            raise ValueError("the font is broken")
        normal(image, tags, path, **options)

    monkeypatch.setattr("src.visualize.save_tagged_image", failing)
    finished = tag("--annotate", "--path_output", "o", "--json", "o.json", "--html", "o.html")
    assert finished.returncode == 1
    assert finished.stderr.splitlines() == [
        "not written: in/1.png: no annotated image: the font is broken",
        "1 images lack a file that could not be written",
    ]
    annotated = [one.get("annotated") for one in json.loads(Path("o.json").read_text())["results"]]
    assert annotated == ["o/0.png", None, "o/2.png"]
    assert Path("o.html").read_text().count("<figure") == 3


# Devices


@pytest.mark.parametrize("flag", ["--json", "--csv", "--html"])
def test_a_device_stays_one_and_has_no_record(place, flag):
    before = {*os.listdir()}
    succeeded(tag(flag, "/dev/null"))
    assert {*os.listdir()} == before
    assert not os.path.exists("/dev/null.record.jsonl")
    assert "cannot write /dev/full: No space left on device" in user_error(tag(flag, "/dev/full"))
    if flag != "--html":
        assert "--resume: a device has no record" in user_error(tag(flag, "/dev/null", "--resume"))


@pytest.mark.parametrize("form", ["json", "csv", "parquet", "html"])
def test_a_fifo_gets_the_whole_output(place, form):
    if form == "parquet":
        pytest.importorskip("pyarrow")
    os.mkdir("other")
    succeeded(tag(f"--{form}", "other/pipe"))
    os.mkfifo("pipe")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(Path("pipe").read_bytes()), daemon=True)
    reader.start()
    succeeded(tag(f"--{form}", "pipe"))
    reader.join()
    assert got == [Path("other/pipe").read_bytes().replace(b"../in/", b"in/")]
    assert not os.path.exists("pipe.record.jsonl")


def test_results_on_the_standard_output_are_alone_there(place):
    command = [sys.executable, ROOT / "infer.py", "--model_path", "m.ckpt", "--pic_path", "in", "--no_picture"]
    with open("out", "w") as stream:
        finished = subprocess.run(
            [*command, "--json", "/dev/stdout", "--csv", "tags.csv"],
            stdout=stream,
            stderr=subprocess.PIPE,
            text=True,
            check=True,
        )
    assert len(json.loads(Path("out").read_text())["results"]) == 3
    assert "in/0.png" in finished.stderr
    assert os.path.exists("tags.csv.record.jsonl")


# Full and locked


@contextlib.contextmanager
def files_of_at_most(size: int):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("output", ["--annotate", "--html"])
def test_a_full_disk_ends_the_run_in_one_line_and_resume_continues(place, output):
    flags = ("--annotate", "--path_output", "o") if output == "--annotate" else ("--html", "o.html")
    with files_of_at_most(1500):
        message = user_error(tag(*flags, "--json", "t.json"))
    assert "File too large" in message
    assert not [name for name in os.listdir() if name.endswith(".tmp")]
    if output == "--annotate":
        assert "make room" in message
        succeeded(tag(*flags, "--json", "t.json", "--resume"))
        assert {*os.listdir("o")} == {NAME, "0.png", "1.png", "2.png"}
        assert len(json.loads(Path("t.json").read_text())["results"]) == 3
