"""Runs that were killed, and runs that go on: nothing is lost, done twice, mixed up or written by two at once."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from src.inference.formats import ImageResult
from src.inference.readback import READERS
from tests.conftest import ROOT
from tests.tagging_helpers import (
    FORMS,
    SETTINGS,
    contents,
    interrupt,
    message_of,
    results,
    table_of,
    write,
    writer,
)

NAMES = ["a.jpg", "b é.jpg", "c\n.jpg", "d.jpg"]
BAD = ("bad.jpg", "bäd.jpg")
JOURNAL, LOCK = ".tags.json.journal", ".tags.json.lock"


def restore(folder: Path, files: dict[str, bytes]) -> None:
    for path in folder.iterdir():
        path.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("earlier", [0, 2], ids=["first run", "after a finished run"])
def test_a_journal_that_was_cut_at_any_byte_is_gone_on_with(tmp_path, monkeypatch, earlier):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # a thousand runs
    made = results(NAMES, most=1)
    if earlier:
        write(writer(tmp_path, "json"), made[:earlier])
    before = contents(tmp_path)
    interrupt(writer(tmp_path, "json", resume=True), made, BAD)
    assert {name: content for name, content in contents(tmp_path).items() if name != JOURNAL} == before
    whole = contents(tmp_path)[JOURNAL]
    assert whole.count(b"\n") == 8  # settings, begun, two bad images, four good ones
    write(writer(tmp_path, "json", resume=True), made, BAD)
    expected = contents(tmp_path)
    assert expected.keys() == {"tags.json"}
    for length in range(len(whole) + 1):
        restore(tmp_path, {**before, JOURNAL: whole[:length]})
        write(writer(tmp_path, "json", resume=True), made, BAD)
        assert contents(tmp_path) == expected, length


CHILD = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.tagging_helpers import results, write, writer
names = [f"{number}.jpg" for number in range(20)]
steps, last = 0, int(sys.argv[3])

def step(frame, event, argument):
    global steps
    name = frame.f_code.co_filename
    if "tagging" not in name and not name.endswith("files.py") and "contextlib" not in name:
        return None
    steps += event == "line"
    if steps == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return step

target = writer(Path(sys.argv[2]), "json", "csv", resume=True)
sys.settrace(step)
write(target, results(names), ("bad.jpg",))
sys.settrace(None)
print(steps)
"""


def run_child(folder: Path, last: int = -1) -> subprocess.CompletedProcess[str]:
    """A run in a process of its own, which is killed at line ``last`` that it comes to within the package."""
    command = [sys.executable, "-c", CHILD, str(ROOT), str(folder), str(last)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("earlier", [0, 7], ids=["first run", "after a finished run"])
def test_a_run_that_is_killed_leaves_whole_outputs_and_is_gone_on_with(tmp_path, earlier):
    made = results([f"{number}.jpg" for number in range(20)])
    if earlier:
        write(writer(tmp_path, "json", "csv"), made[:earlier])
    before = contents(tmp_path)
    finished = run_child(tmp_path)
    assert finished.returncode == 0, finished.stderr
    expected = contents(tmp_path)
    assert expected.keys() == {"tags.json", "tags.csv"}
    steps = int(finished.stdout)
    chosen = random.Random(earlier)
    # The end, where outputs are replaced one after another, is short: half of the moments are there
    for moment in [*chosen.sample(range(1, steps), 3), *chosen.sample(range(steps * 9 // 10, steps), 3)]:
        restore(tmp_path, before)
        assert run_child(tmp_path, moment).returncode == -signal.SIGKILL
        for name, content in expected.items():
            assert contents(tmp_path).get(name) in (before.get(name), content), moment
        write(writer(tmp_path, "json", "csv", resume=True), made, ("bad.jpg",))
        left = contents(tmp_path)
        assert {name: left.pop(name) for name in expected} == expected, moment
        assert all(name.endswith(".tmp") for name in left)  # unfinished outputs


@pytest.mark.parametrize("form", FORMS)
def test_finished_outputs_are_gone_on_with(tmp_path, form, capsys):
    made = results(["a.jpg", "b.jpg", "c\r.jpg", 'd "é".jpg', "e.jpg", "f.jpg"])
    write(writer(tmp_path, form), made[2:])
    target = writer(tmp_path, resume=True)
    with target:
        kept = made[2:] if form == "json" else table_of(made[2:])
        assert target.done == {result.image for result in kept}
        target.write(made[1])
    expected = [*kept, made[1]]
    assert list(READERS["json"](tmp_path / "tags.json").results) == expected
    for other in FORMS[1:]:
        assert list(READERS[other](tmp_path / f"tags.{other}").results) == table_of(expected)
    noted = capsys.readouterr().err
    assert ("taken from it: 3." in noted and "--csv" in noted) if form == "csv" else noted == ""


def test_several_finished_outputs_give_each_image_once(tmp_path, capsys):
    made = results(["a.jpg", "b.jpg", "c.jpg", "d.jpg"])
    write(writer(tmp_path, "json"), made[:3])
    write(writer(tmp_path, "csv"), made[2:])
    write(writer(tmp_path, "json", "csv", resume=True), [])
    expected = [*made[:3], ImageResult("d.jpg", made[3].tags)]
    assert list(READERS["json"](tmp_path / "tags.json").results) == expected
    assert "taken from it: 1." in capsys.readouterr().err
    write(writer(tmp_path, "json", "csv", resume=True), [])
    assert capsys.readouterr().err == ""  # all of it is in the JSON file too


def test_resuming_where_nothing_is_begins(tmp_path):
    write(writer(tmp_path, resume=True), results(NAMES))
    assert list(READERS["json"](tmp_path / "tags.json").results) == results(NAMES)


def test_an_interrupted_run_is_not_forgotten(tmp_path):
    made = results(NAMES)
    interrupt(writer(tmp_path, "json"), made[:2])
    before = contents(tmp_path)
    message = message_of(lambda: write(writer(tmp_path, "json"), made))
    assert str(tmp_path / JOURNAL) in message
    assert "2 images" in message
    assert "--resume" in message
    assert "--overwrite" in message
    assert contents(tmp_path) == before
    write(writer(tmp_path, "json", overwrite=True), made[3:])
    assert list(READERS["json"](tmp_path / "tags.json").results) == made[3:]


@pytest.mark.parametrize("form", ["journal", *(form for form in FORMS if form != "csv")])
def test_other_settings_are_refused(tmp_path, form):
    made = results(NAMES)
    if form == "journal":
        interrupt(writer(tmp_path, "json"), made[:2])
    else:
        write(writer(tmp_path, form), made[:2])
    before = contents(tmp_path)
    forms = ("json",) if form == "journal" else (form,)
    for changed, named in (
        ({"top_k": 5}, "(top_k: 3 then, 5 now)"),
        ({"threshold": 0.5, "top_k": 4}, "(threshold: null then, 0.5 now, top_k: 3 then, 4 now)"),
        ({"tags": "x" * 99}, 'tags: none then, "xxx'),
    ):
        target = writer(tmp_path, *forms, settings={**SETTINGS, **changed}, resume=True)
        message = message_of(lambda target=target: write(target, []))
        assert message.startswith("--resume: ")
        assert named in message
        assert "or --overwrite instead of --resume" in message
        assert contents(tmp_path) == before
    write(writer(tmp_path, *forms, settings={"weights": "5f0e", "threshold": None, "top_k": 3}, resume=True), made)


def test_bad_images_are_tried_again(tmp_path):
    made = results(NAMES)

    def skipped() -> list[str]:
        return json.loads((tmp_path / "tags.json").read_text(encoding="utf-8"))["skipped"]

    write(writer(tmp_path, "json"), made[:1], ("b é.jpg", "x.jpg", "d.jpg", "y.jpg"))
    with writer(tmp_path, "json", resume=True) as target:
        assert target.done == {"a.jpg"}
        assert list(target.skipped) == ["b é.jpg", "x.jpg", "d.jpg", "y.jpg"]
        target.write(made[1])
        target.skip("x.jpg", "x.jpg: no such file")
    assert skipped() == ["d.jpg: broken", "y.jpg: broken", "x.jpg: no such file"]
    interrupt(writer(tmp_path, "json", resume=True), [made[3]])
    write(writer(tmp_path, "json", resume=True), [])
    assert skipped() == ["y.jpg: broken", "x.jpg: no such file"]


def rows(*lines: str) -> str:
    return "".join(f"{line}\r\n" for line in ("image,rank,tag,score,probability,unseen", *lines))


@pytest.mark.parametrize(
    ("form", "content", "problem"),
    [
        ("json", "", "no whole document"),
        ("json", "[1]", "no whole document"),
        ("json", '{"model": "m", "results": [], "skipped": []}', "with which settings"),  # of before there was --resume
        ("json", '{"results": [{"image": 1}], "settings": {}}', "result 1 is none"),
        ("csv", "a,b\r\n", "the header must be image,rank"),
        ("csv", rows("a.jpg,1,dog,0.5,,maybe"), "in line 2: 'maybe'"),
        ("csv", rows("a.jpg,1,dog,0.5,,true", "a.jpg,2,dog"), "in line 3: "),
        ("csv", rows("a,1,dog,0.5,,true", "b,1,dog,0.5,,true", "a,2,cat,0.5,,true"), "the rows of a are not together"),
        ("csv", rows('a.jpg,1,"dog'), "in line 2: "),
        ("parquet", "PAR1PAR1", "no whole Parquet file"),
        ("journal", '{"settings":{}}\nx\n{"begun":true}\n', "is damaged in line 2"),
    ],
)
def test_what_cannot_be_gone_on_with_is_named_and_stays(tmp_path, form, content, problem):
    if form not in (*FORMS, "journal"):
        pytest.skip("needs pyarrow")
    path = tmp_path / (JOURNAL if form == "journal" else f"tags.{form}")
    path.write_text(content, encoding="utf-8", newline="")
    settings = {} if form == "json" else SETTINGS
    forms = ("json",) if form == "journal" else (form,)
    message = message_of(lambda: write(writer(tmp_path, *forms, settings=settings, resume=True), []))
    assert str(path) in message
    assert problem in message
    assert "--overwrite" in message
    assert contents(tmp_path) == {path.name: content.encode()}
    write(writer(tmp_path, *forms, overwrite=True), results(NAMES))


def test_a_parquet_file_of_another_program_is_refused(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    table = arrow.table({"image": ["a.jpg"]}).replace_schema_metadata({"settings": json.dumps(SETTINGS)})
    pytest.importorskip("pyarrow.parquet").write_table(table, tmp_path / "tags.parquet")
    assert "other columns" in message_of(lambda: write(writer(tmp_path, "parquet", resume=True), []))


def test_a_spreadsheets_byte_order_mark_is_no_part_of_the_csv_header(tmp_path):
    write(writer(tmp_path, "csv"), results(NAMES))
    content = (tmp_path / "tags.csv").read_bytes()
    (tmp_path / "tags.csv").write_bytes(b"\xef\xbb\xbf" + content)
    write(writer(tmp_path, "csv", resume=True), [])
    assert (tmp_path / "tags.csv").read_bytes() == content
