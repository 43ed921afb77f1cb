"""The record and the outputs made of it: exact JSON, CSV and Parquet, resuming, mistakes."""

from __future__ import annotations

import csv
import errno
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import numpy as np
import pytest

from src.config.infer_outputs import OutputOptions
from src.errors import UserError
from src.inference import formats
from src.inference.formats import COLUMNS, ImageResult
from src.inference.results import Record, open_results, record_path
from src.inference.targets import check_files
from src.tags import Tag
from src.text import printable

ROOT = Path(__file__).resolve().parent.parent  # child processes import this file: without tests.conftest and its torch
SETTINGS = {"top_k": 3, "threshold": None, "weights": "5f0e"}
FORMS = ("json", "csv", "parquet") if importlib.util.find_spec("pyarrow") else ("json", "csv")
NAMES = ["a.jpg", "b é.jpg", "c\n.jpg", "d.jpg"]
ODD_NAMES = [
    "plain.jpg", 'say "cheese", twice.jpg', "two\nlines\r.jpg", "=SUM(A1).jpg", "-x.jpg", "@a", " padded ", "🌅/☃é.jpg",
    "tab\t;.jpg", "C:\\photos\\a.jpg", "null", "1e5", "\u2028.jpg",
]  # fmt: skip
RECORD = "tags.json.record.jsonl"


def outputs(folder: Path, *forms: str) -> dict[str, Path]:
    return {form: folder / f"tags.{form}" for form in forms or FORMS}


def writer(folder: Path, *forms: str, settings: dict = SETTINGS, **options: bool) -> AbstractContextManager[Record]:
    return open_results(OutputOptions(**outputs(folder, *forms), **options), model="models/m.ckpt", settings=settings)


def drawn(names: list[str], most: int = 3) -> list[ImageResult]:
    """Results with 0 to ``most`` tags, float32 scores of all magnitudes, some with probabilities."""
    generator = np.random.default_rng(0)
    made = []
    for number, name in enumerate(names):
        scores = np.float32(generator.standard_normal(number % (most + 1)) * 10.0 ** generator.integers(-30, 30))
        tags = [
            Tag(f"tag, {place} ü", score, place % 2 == 1, float(np.float32(generator.random())) if number % 3 else None)
            for place, score in enumerate(scores.tolist())
        ]
        made.append(ImageResult(name, tags, f"out/{number}.png" if number % 4 == 1 else None))
    return made


def write(target: AbstractContextManager[Record], made: list[ImageResult], bad: tuple[str, ...] = ()) -> None:
    """Run to the end: skip the bad images and write the results that are not there yet."""
    with target as record:
        _write_all(record, made, bad)


def interrupt(target: AbstractContextManager[Record], made: list[ImageResult], bad: tuple[str, ...] = ()) -> None:
    """Stop after these."""
    with suppress(KeyboardInterrupt), target as record:
        _write_all(record, made, bad)
        raise KeyboardInterrupt


def _write_all(target: Record, made: list[ImageResult], bad: tuple[str, ...]) -> None:
    for name in bad:
        target.skip(name, f"{name}: broken")
    for result in made:
        if result.image not in target.done:
            target.write(result)


def check(options: OutputOptions) -> None:
    check_files(options, [])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def document(folder: Path) -> dict:
    return json.loads((folder / "tags.json").read_text(encoding="utf-8"))


def rows_of(path: Path) -> list[tuple]:
    """The rows of an output by an independent reader: (image, rank, tag, score, probability, unseen)."""
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        unseen = {"true": True, "false": False}
        optional = [float(row["probability"]) if row["probability"] else None for row in rows]
        return [
            (row["image"], int(row["rank"]), row["tag"], float(row["score"]), probability, unseen[row["unseen"]])
            for row, probability in zip(rows, optional, strict=True)
        ]
    if path.suffix == ".parquet":
        table = pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()
        return [tuple(row[column] for column in COLUMNS) for row in table]
    return [
        (result["image"], rank, tag["label"], tag["score"], tag.get("probability"), tag["unseen"])
        for result in document(path.parent)["results"]
        for rank, tag in enumerate(result["tags"], start=1)
    ]


def rows_for(made: list[ImageResult]) -> list[tuple]:
    return [
        (result.image, rank, tag.label, tag.score, tag.probability, tag.unseen)
        for result in made
        for rank, tag in enumerate(result.tags, start=1)
    ]


def assert_hold(folder: Path, made: list[ImageResult], *forms: str) -> None:
    """The outputs hold exactly these results, in this order."""
    for path in outputs(folder, *forms).values():
        assert rows_of(path) == rows_for(made)
    if not forms or "json" in forms:
        found = [(result["image"], result.get("annotated")) for result in document(folder)["results"]]
        assert found == [(result.image, result.annotated) for result in made]


def message_of(act: Callable[[], object]) -> str:
    """The one-line message of a UserError."""
    with pytest.raises(UserError) as caught:
        act()
    message = str(caught.value)
    assert "\n" not in message
    return message


# Formats


def test_formats_agree_and_are_exact(tmp_path):
    made = drawn(ODD_NAMES)
    write(writer(tmp_path), made)
    assert contents(tmp_path).keys() == {RECORD, *(f"tags.{form}" for form in FORMS)}
    assert_hold(tmp_path, made)


def test_json_document_has_the_documented_keys(tmp_path):
    made = drawn(["a.jpg", "b.jpg"])
    write(writer(tmp_path, "json"), made, bad=("bad.jpg",))
    text = (tmp_path / "tags.json").read_text(encoding="utf-8")
    tag = made[1].tags[0]
    assert json.loads(text) == {
        "model": "models/m.ckpt",
        "settings": SETTINGS,
        "results": [
            {"image": "a.jpg", "tags": []},
            {
                "image": "b.jpg",
                "tags": [{"label": "tag, 0 ü", "score": tag.score, "unseen": False, "probability": tag.probability}],
                "annotated": "out/1.png",
            },
        ],
        "skipped": ["bad.jpg: broken"],
        "skipped_images": ["bad.jpg"],
    }
    assert text.count('"image"') == len([line for line in text.splitlines() if '"image"' in line])  # one per line


def test_every_float32_score_is_kept_exactly(tmp_path):
    scores = np.frombuffer(np.random.default_rng(1).bytes(4000), np.float32)
    scores = scores[np.isfinite(scores)]
    write(writer(tmp_path), [ImageResult("a.jpg", [Tag("x", score, False) for score in scores.tolist()])])
    for path in outputs(tmp_path).values():
        assert np.array_equal(np.float32([row[3] for row in rows_of(path)]), scores)


def test_csv_is_rfc_4180_and_leaves_cells_as_they_are(tmp_path):
    tag = Tag('the "best"', 0.5, True)
    write(writer(tmp_path, "csv"), [ImageResult("=a,b.jpg", [tag, Tag("dog", -1.0, False, 0.25)])])
    assert (tmp_path / "tags.csv").read_bytes().decode() == (
        "image,rank,tag,score,probability,unseen\r\n"
        '"=a,b.jpg",1,"the ""best""",0.5,,true\r\n'
        '"=a,b.jpg",2,dog,-1.0,0.25,false\r\n'
    )


def test_parquet_columns_metadata_and_bounded_row_groups(tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(formats, "ROW_GROUP", 10)
    tags = [Tag(f"tag {place}", 0.5, False) for place in range(4)]
    write(writer(tmp_path, "parquet"), [ImageResult(f"{number}.jpg", tags) for number in range(10)])
    file = parquet.ParquetFile(tmp_path / "tags.parquet")
    groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
    assert [group.num_rows for group in groups] == [10, 10, 10, 10]
    assert tuple(file.schema_arrow.names) == COLUMNS
    assert file.schema_arrow.metadata[b"model"] == b"models/m.ckpt"
    assert json.loads(file.schema_arrow.metadata[b"settings"]) == SETTINGS
    for column in (0, 2):
        assert "RLE_DICTIONARY" in groups[0].column(column).encodings
    assert "RLE_DICTIONARY" not in groups[0].column(3).encodings


def test_no_image_at_all(tmp_path):
    write(writer(tmp_path), [], bad=("a.jpg",))
    assert document(tmp_path)["skipped"] == ["a.jpg: broken"]
    assert_hold(tmp_path, [])


def test_names_that_are_not_utf8_are_escaped_alike_everywhere(tmp_path):
    name = "caf\udce9 ü.jpg"
    write(writer(tmp_path), [ImageResult(name, [Tag("x", 0.5, False)], name)], bad=("b\udce9",))
    assert_hold(tmp_path, [ImageResult("caf\\xe9 ü.jpg", [Tag("x", 0.5, False)], "caf\\xe9 ü.jpg")])
    assert document(tmp_path)["skipped"] == ["b\\xe9: broken"]
    with writer(tmp_path, resume=True) as target:
        assert target.done == {printable(name)}


# Resuming


CHILD = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.test_results import drawn, write, writer
names = [f"{number}.jpg" for number in range(20)]
steps, last = 0, int(sys.argv[3])

def step(frame, event, argument):
    global steps
    name = frame.f_code.co_filename
    if "inference" not in name and not name.endswith("files.py") and "contextlib" not in name:
        return None
    steps += event == "line"
    if steps == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return step

target = writer(Path(sys.argv[2]), "json", "csv", resume=True)
sys.settrace(step)
write(target, drawn(names), ("bad.jpg",))
sys.settrace(None)
print(steps)
"""


def run_child(folder: Path, last: int = -1) -> subprocess.CompletedProcess[str]:
    """Write 20 results in a process that kills itself at the ``last`` line that it executes in the package."""
    command = [sys.executable, "-c", CHILD, str(ROOT), str(folder), str(last)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("earlier", [0, 7], ids=["first run", "after a finished run"])
def test_killed_run_leaves_whole_outputs_and_resumes(tmp_path, earlier):
    made = drawn([f"{number}.jpg" for number in range(20)])
    if earlier:
        write(writer(tmp_path, "json", "csv"), made[:earlier])
    before = contents(tmp_path)
    finished = run_child(tmp_path)
    assert finished.returncode == 0, finished.stderr
    expected = contents(tmp_path)
    assert expected.keys() == {RECORD, "tags.json", "tags.csv"}
    steps = int(finished.stdout)
    chosen = random.Random(earlier)
    # Half of the moments are near the end, where outputs are replaced one after another
    for moment in [*chosen.sample(range(1, steps), 2), *chosen.sample(range(steps * 9 // 10, steps), 2)]:
        for path in tmp_path.iterdir():
            path.unlink()
        for name, content in before.items():
            (tmp_path / name).write_bytes(content)
        assert run_child(tmp_path, moment).returncode == -signal.SIGKILL
        for name in ("tags.json", "tags.csv"):
            assert contents(tmp_path).get(name) in (before.get(name), expected[name]), moment
        write(writer(tmp_path, "json", "csv", resume=True), made, ("bad.jpg",))
        assert_hold(tmp_path, made, "json", "csv")
        assert document(tmp_path)["skipped_images"] == ["bad.jpg"]
        assert all(name in expected or name.endswith(".tmp") for name in contents(tmp_path))  # unfinished outputs


def test_cut_last_line_is_dropped(tmp_path):
    made = drawn(NAMES)
    interrupt(writer(tmp_path, "json"), made)
    record = tmp_path / RECORD
    record.write_bytes(record.read_bytes()[:-5])
    with writer(tmp_path, "json", resume=True) as target:
        assert target.done == {result.image for result in made[:3]}
        target.write(made[3])
    assert_hold(tmp_path, made, "json")


@pytest.mark.parametrize("form", FORMS)
def test_finished_run_resumes_with_more_outputs(tmp_path, form):
    made = drawn(NAMES)
    write(writer(tmp_path, form), made[2:])
    with writer(tmp_path, resume=True) as target:
        assert target.done == {result.image for result in made[2:]}
        target.write(made[1])
    assert_hold(tmp_path, [*made[2:], made[1]])


def test_resume_without_an_earlier_run_starts_one(tmp_path):
    write(writer(tmp_path, resume=True), drawn(NAMES))
    assert_hold(tmp_path, drawn(NAMES))


def test_output_without_its_record_is_not_resumed(tmp_path):
    write(writer(tmp_path, "csv"), drawn(NAMES))
    record_path(tmp_path / "tags.csv").unlink()
    before = contents(tmp_path)
    message = message_of(lambda: write(writer(tmp_path, "csv", resume=True), []))
    assert message.startswith(f"--resume: {tmp_path / 'tags.csv'} exists, but not {tmp_path / 'tags.csv.record.jsonl'}")
    assert contents(tmp_path) == before


def test_records_of_two_runs_are_not_merged_and_replaced_with_their_outputs(tmp_path):
    made = drawn(NAMES)
    write(writer(tmp_path, "json"), made[:1])
    write(writer(tmp_path, "csv"), made[1:2])
    assert "records of two runs" in message_of(lambda: write(writer(tmp_path, "json", "csv", resume=True), made))
    write(writer(tmp_path, "json", "csv", overwrite=True), made)
    assert contents(tmp_path).keys() == {RECORD, "tags.json", "tags.csv"}
    write(writer(tmp_path, "json", "csv", resume=True), made)
    assert_hold(tmp_path, made, "json", "csv")


def test_interrupted_run_is_not_dropped_silently(tmp_path):
    made = drawn(NAMES)
    interrupt(writer(tmp_path, "json"), made[:2])
    before = contents(tmp_path)
    message = message_of(lambda: write(writer(tmp_path, "json"), made))
    assert f"{tmp_path / RECORD} holds 2 images" in message
    assert "--resume" in message
    assert "--overwrite" in message
    assert contents(tmp_path) == before
    write(writer(tmp_path, "json", overwrite=True), made[3:])
    assert_hold(tmp_path, made[3:], "json")


@pytest.mark.parametrize("stop", [interrupt, write], ids=["interrupted", "finished"])
def test_resume_with_other_settings_is_refused(tmp_path, stop):
    made = drawn(NAMES)
    stop(writer(tmp_path, "json"), made[:2])
    before = contents(tmp_path)
    for changed, named in (
        ({"top_k": 5}, "(top_k: 3 then, 5 now)"),
        ({"threshold": 0.5, "top_k": 4}, "(threshold: null then, 0.5 now, top_k: 3 then, 4 now)"),
        ({"tags": "x"}, 'tags: null then, "x" now'),
    ):
        target = writer(tmp_path, "json", settings={**SETTINGS, **changed}, resume=True)
        message = message_of(lambda target=target: write(target, []))
        assert message.startswith("--resume: ")
        assert named in message
        assert "or --overwrite instead of --resume" in message
        assert contents(tmp_path) == before
    write(writer(tmp_path, "json", settings=dict(reversed(SETTINGS.items())), resume=True), made)


def test_unreadable_images_are_tried_again(tmp_path):
    made = drawn(NAMES)
    write(writer(tmp_path, "json"), made[:1], ("b é.jpg", "x.jpg", "d.jpg", "y.jpg"))
    with writer(tmp_path, "json", resume=True) as target:
        assert target.done == {"a.jpg"}
        assert list(target.skipped) == ["b é.jpg", "x.jpg", "d.jpg", "y.jpg"]
        target.write(made[1])
        target.skip("x.jpg", "x.jpg: no such file")
    assert document(tmp_path)["skipped"] == ["d.jpg: broken", "y.jpg: broken", "x.jpg: no such file"]
    interrupt(writer(tmp_path, "json", resume=True), [made[3]])
    write(writer(tmp_path, "json", resume=True), [])
    assert document(tmp_path)["skipped"] == ["y.jpg: broken", "x.jpg: no such file"]


def test_damaged_record_is_named_and_stays(tmp_path):
    (tmp_path / RECORD).write_text('{"settings":{}}\nx\n{"finished":true}\n')
    before = contents(tmp_path)
    message = message_of(lambda: write(writer(tmp_path, "json", resume=True), []))
    assert f"{tmp_path / RECORD}, the record of an earlier run, is damaged in line 2" in message
    assert "--overwrite" in message
    assert contents(tmp_path) == before
    write(writer(tmp_path, "json", overwrite=True), drawn(NAMES))
    assert_hold(tmp_path, drawn(NAMES), "json")


def test_run_that_tags_nothing_leaves_everything_as_it_was(tmp_path):
    interrupt(writer(tmp_path), [], bad=("x.jpg",))
    assert contents(tmp_path) == {}
    write(writer(tmp_path), drawn(NAMES))
    before = contents(tmp_path)
    for options in ({}, {"resume": True}):
        interrupt(writer(tmp_path, **options), [])
        assert contents(tmp_path) == before


HOLDER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.test_results import drawn, writer
with writer(Path(sys.argv[2]), "json") as target:
    target.write(drawn(["a.jpg"])[0])
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs fcntl")
def test_second_run_on_one_output_is_refused(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(ROOT), str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        try:
            holder.stdout.readline()
            before = contents(tmp_path)
            for options in ({}, {"resume": True}, {"overwrite": True}):
                message = message_of(lambda options=options: write(writer(tmp_path, "json", **options), []))
                assert message.startswith(f"{tmp_path / RECORD}: another run is writing this record")
            assert contents(tmp_path) == before
        finally:
            holder.kill()
    with writer(tmp_path, "json", resume=True) as target:
        assert target.done == {"a.jpg"}


# Mistakes and failures


def test_pyarrow_is_needed_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    message = message_of(lambda: check(OutputOptions(**outputs(tmp_path, "json", "parquet"))))
    assert message.startswith("--parquet: ")
    assert message.endswith("run: pip install pyarrow")
    assert contents(tmp_path) == {}
    check(OutputOptions(**outputs(tmp_path, "json", "csv")))


def test_unusable_outputs_are_refused(tmp_path):
    (tmp_path / "file").touch()
    message = message_of(lambda: check(OutputOptions(**outputs(tmp_path / "file", "csv"))))
    assert message.startswith(f"--csv {tmp_path / 'file' / 'tags.csv'}: cannot be written: ")
    assert "is a folder" in message_of(lambda: check(OutputOptions(json=tmp_path)))
    same = {"json": tmp_path / "tags", "csv": tmp_path / "x" / ".." / "tags"}
    assert "--json and --csv" in message_of(lambda: check(OutputOptions(**same)))


class FullDisk:
    """A file that takes half of one line."""

    def __init__(self, file) -> None:
        self.file = file

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        return self.file.write(data[: len(data) // 2])


def test_disk_full_during_the_run_loses_nothing(tmp_path):
    made = drawn(ODD_NAMES)

    def run() -> None:
        with writer(tmp_path) as target:
            for result in made[:5]:
                target.write(result)
            target._file = FullDisk(target._file)
            target.write(made[5])

    message = message_of(run)
    assert RECORD in message
    assert "the disk is full; make room, and continue with --resume" in message
    assert contents(tmp_path).keys() == {RECORD}
    with writer(tmp_path, resume=True) as target:
        assert target.done == {result.image for result in made[:5]}
        for result in made[5:]:
            target.write(result)
    assert_hold(tmp_path, made)


@pytest.mark.filterwarnings("error")  # files left open
@pytest.mark.parametrize("call", ["fsync", "fdopen"])
@pytest.mark.parametrize("form", FORMS)
def test_disk_full_at_the_end_loses_nothing(tmp_path, monkeypatch, form, call):
    """Each output fails in turn: the existing ones stay, and the message names the one that failed."""
    made = drawn(ODD_NAMES)
    write(writer(tmp_path), made[:2])
    before = contents(tmp_path)
    normal = getattr(os, call)
    seen: list[str] = []  # temporary files, in the order of the forms

    def full(descriptor: int, *arguments: str, **options: str) -> object:
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        seen.extend({name} - {*seen})
        if seen.index(name) != FORMS.index(form):
            return normal(descriptor, *arguments, **options)
        if call == "fsync":
            raise OSError(errno.ENOSPC, "No space left on device")
        os.close(descriptor)
        return open("/dev/full", "wb")

    with monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        message = message_of(lambda: write(writer(tmp_path), made))
    assert message.startswith(f"cannot write {tmp_path / f'tags.{form}'}: No space left on device; make room")
    assert RECORD in message
    after = contents(tmp_path)
    assert {**after, RECORD: b""} == {**before, RECORD: b""}
    with writer(tmp_path, resume=True) as target:
        assert len(target.done) == len(made)
    assert_hold(tmp_path, made)
