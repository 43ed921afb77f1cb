"""Tags as JSON, CSV and Parquet: the three agree, read back exactly, and are whole or not there; mistakes are named."""

import csv
import errno
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from src.inference import formats
from src.inference.formats import COLUMNS, ImageResult, TagRow, written_name
from src.inference.readback import READERS
from src.inference.results import ResultWriter, check_outputs
from tests.tagging_helpers import (
    FORMS,
    SETTINGS,
    contents,
    interrupt,
    message_of,
    outputs,
    results,
    table_of,
    write,
    writer,
)

ODD_NAMES = [
    "plain.jpg", 'say "cheese", twice.jpg', "two\nlines\r.jpg", "=SUM(A1).jpg", "-x.jpg", "@a", " padded ", "🌅/☃é.jpg",
    "tab\t;.jpg", "C:\\photos\\a.jpg", "null", "1e5", "\u2028.jpg",
]  # fmt: skip


def test_the_three_formats_hold_the_same_and_read_back_exactly(tmp_path):
    made = results(ODD_NAMES)
    write(writer(tmp_path), made)
    assert contents(tmp_path).keys() == {f"tags.{form}" for form in FORMS}
    read = {form: READERS[form](path) for form, path in outputs(tmp_path).items()}
    assert list(read["json"].results) == made
    for form in FORMS[1:]:
        assert list(read[form].results) == table_of(made)
    assert {form: read[form].settings for form in FORMS} == dict.fromkeys(FORMS, SETTINGS) | {"csv": None}


def test_the_json_document_has_the_keys_that_other_programs_know(tmp_path):
    made = results(["a.jpg", "b.jpg"])
    with writer(tmp_path, "json") as target:
        target.skip("bad.jpg", "bad.jpg: no such file")
        for result in made:
            target.write(result)
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
        "skipped": ["bad.jpg: no such file"],
        "skipped_images": ["bad.jpg"],
    }
    assert text.count('"image"') == len([line for line in text.splitlines() if '"image"' in line])  # one a line


def test_scores_equal_the_float32_values_for_every_reader(tmp_path):
    scores = np.frombuffer(np.random.default_rng(1).bytes(4000), np.float32)
    scores = scores[np.isfinite(scores)]
    tags = [TagRow(str(place), score, False) for place, score in enumerate(scores.tolist())]
    write(writer(tmp_path), [ImageResult("a.jpg", tags)])
    with (tmp_path / "tags.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    document = json.loads((tmp_path / "tags.json").read_text(encoding="utf-8"))
    found = [[float(row["score"]) for row in rows], [tag["score"] for tag in document["results"][0]["tags"]]]
    ranks = [[int(row["rank"]) for row in rows]]
    if "parquet" in FORMS:
        table = pytest.importorskip("pyarrow.parquet").read_table(tmp_path / "tags.parquet")
        found.append(table["score"].to_pylist())
        ranks.append(table["rank"].to_pylist())
    for values in found:
        assert values == scores.tolist()
        assert np.array_equal(np.float32(values), scores)
    assert all(numbers == list(range(1, len(scores) + 1)) for numbers in ranks)


def test_csv_is_rfc_4180_and_leaves_cells_as_they_are(tmp_path):
    tag = TagRow('the "best"', 0.5, True)
    write(writer(tmp_path, "csv"), [ImageResult("=a,b.jpg", [tag, TagRow("dog", -1.0, False, 0.25)])])
    assert (tmp_path / "tags.csv").read_bytes().decode() == (
        "image,rank,tag,score,probability,unseen\r\n"
        '"=a,b.jpg",1,"the ""best""",0.5,,true\r\n'
        '"=a,b.jpg",2,dog,-1.0,0.25,false\r\n'
    )


def test_parquet_columns_metadata_and_bounded_row_groups(tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(formats, "ROW_GROUP", 10)
    tags = [TagRow(f"tag {place}", 0.5, False) for place in range(4)]
    write(writer(tmp_path, "parquet"), [ImageResult(f"{number}.jpg", tags) for number in range(10)])
    file = parquet.ParquetFile(tmp_path / "tags.parquet")
    groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
    assert [group.num_rows for group in groups] == [12, 12, 12, 4]
    assert tuple(file.schema_arrow.names) == COLUMNS
    assert file.schema_arrow.metadata[b"model"] == b"models/m.ckpt"
    for column in (0, 2):
        assert "RLE_DICTIONARY" in groups[0].column(column).encodings
    assert "RLE_DICTIONARY" not in groups[0].column(3).encodings


def test_no_image_at_all(tmp_path):
    with writer(tmp_path) as target:
        target.skip("a.jpg", "a.jpg: broken")
    assert json.loads((tmp_path / "tags.json").read_text())["skipped"] == ["a.jpg: broken"]
    for form, path in outputs(tmp_path).items():
        assert list(READERS[form](path).results) == []


def test_names_that_are_not_utf8_are_escaped_in_the_same_way_everywhere(tmp_path):
    name = os.fsdecode(b"caf\xe9/\xff\xfe.jpg")
    assert written_name(Path(name)) == written_name(written_name(name)) == "caf\\xe9/\\xff\\xfe.jpg"
    assert written_name("\ud800é") == "\\ud800é"
    tags = [TagRow("l\udcfc", 0.5, False)]
    with writer(tmp_path) as target:
        target.write(ImageResult(name, tags, f"out/{name}"))
        target.skip(f"bad{name}", f"bad{name}: broken")
        assert written_name(name) in target.done
    written = ImageResult(written_name(name), [TagRow("l\\xfc", 0.5, False)], f"out/{written_name(name)}")
    read = {form: READERS[form](path) for form, path in outputs(tmp_path).items()}
    assert list(read["json"].results) == [written]
    assert read["json"].skipped == {f"bad{written_name(name)}": f"bad{written_name(name)}: broken"}
    for form in FORMS[1:]:
        assert list(read[form].results) == table_of([written])
    with writer(tmp_path, resume=True) as target:
        assert written_name(name) in target.done


def test_an_exception_leaves_earlier_outputs_and_no_journal_that_holds_nothing(tmp_path):
    write(writer(tmp_path), results(["a.jpg", "b.jpg"]))
    before = contents(tmp_path)
    for options in ({}, {"resume": True}, {"overwrite": True}):
        interrupt(writer(tmp_path, **options), [])
        assert contents(tmp_path) == before
    interrupt(writer(tmp_path), results(["c.jpg"]))
    assert contents(tmp_path).keys() == {*before, ".tags.json.journal"}
    write(writer(tmp_path, overwrite=True), results(["e.jpg"]))
    assert contents(tmp_path).keys() == set(before)
    assert json.loads((tmp_path / "tags.json").read_text())["results"] == [{"image": "e.jpg", "tags": []}]


def test_pyarrow_is_asked_for_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    message = message_of(lambda: writer(tmp_path, "json", "parquet"))
    assert message.startswith("--parquet: ")
    assert message.endswith("run: pip install pyarrow")
    assert contents(tmp_path).keys() == set()
    write(writer(tmp_path, "json", "csv"), results(["a.jpg"]))


def test_outputs_that_cannot_be(tmp_path):
    (tmp_path / "file").touch()
    message = message_of(lambda: writer(tmp_path / "file", "csv"))
    assert message.startswith(f"--csv {tmp_path / 'file' / 'tags.csv'}: cannot be written: ")
    assert "is a folder" in message_of(lambda: check_outputs({"json": tmp_path}))
    same = {"json": tmp_path / "tags", "csv": tmp_path / "x" / ".." / "tags"}
    assert "--json and --csv" in message_of(lambda: check_outputs(same))
    assert "give one of them" in message_of(lambda: writer(tmp_path, resume=True, overwrite=True))
    with pytest.raises(ValueError, match="no output"):
        ResultWriter({}, model="m", settings={})


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_json_has_no_word_for(tmp_path, score):
    for tag in (TagRow("dog", score, False), TagRow("dog", 0.5, False, score)):
        with writer(tmp_path) as target:
            message = message_of(lambda target=target, tag=tag: target.write(ImageResult("a.jpg", [tag])))
        assert "a.jpg" in message
        assert "'dog' is no finite number" in message


def test_a_image_is_written_once(tmp_path):
    with writer(tmp_path, "csv") as target:
        target.write(ImageResult("caf\\xe9", []))
        assert "caf\\xe9; rename" in message_of(lambda: target.write(ImageResult("caf\udce9", [])))


class FullDisk:
    """A file that takes half of what it is given, and then nothing."""

    def __init__(self, file) -> None:
        self.file = file
        self.left = 1

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        if not self.left:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.left -= 1
        return self.file.write(data[: len(data) // 2])


def test_a_disk_that_fills_up_during_the_run_loses_nothing(tmp_path):
    made = results(ODD_NAMES)

    def run() -> None:
        with writer(tmp_path) as target:
            for result in made[:5]:
                target.write(result)
            target._journal._file = FullDisk(target._journal._file)
            target.write(made[5])

    message = message_of(run)
    assert ".tags.json.journal" in message
    assert "No space left on device; mend that, and go on with --resume" in message
    assert contents(tmp_path).keys() == {".tags.json.journal"}
    target = writer(tmp_path, resume=True)
    with target:
        assert target.done == {result.image for result in made[:5]}
        for result in made[5:]:
            target.write(result)
    assert list(READERS["json"](tmp_path / "tags.json").results) == made


@pytest.mark.filterwarnings("error")  # of what is left unclosed
@pytest.mark.parametrize("call", ["fsync", "fdopen"])
@pytest.mark.parametrize("form", FORMS)
def test_a_disk_that_fills_up_at_the_end_loses_nothing(tmp_path, monkeypatch, form, call):
    """Each of three outputs fails in turn, the earlier ones stay, and the message names the one that failed."""
    made = results(ODD_NAMES)
    write(writer(tmp_path), made[:2])
    before = contents(tmp_path)
    normal = getattr(os, call)

    def full(descriptor: int, *arguments: str, **options: str) -> object:
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        if f"/.tags.{form}." not in name or name.endswith(".journal"):
            return normal(descriptor, *arguments, **options)
        if call == "fsync":
            raise OSError(errno.ENOSPC, "No space left on device")
        os.close(descriptor)
        return open("/dev/full", "wb")

    with monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        message = message_of(lambda: write(writer(tmp_path), made))
    assert message.startswith(f"cannot write {tmp_path / f'tags.{form}'}: No space left on device; mend")
    assert ".tags.json.journal" in message
    after = contents(tmp_path)
    assert after.pop(".tags.json.journal")
    assert after == before
    with writer(tmp_path, resume=True) as target:
        assert len(target.done) == len(made)
    assert list(READERS["json"](tmp_path / "tags.json").results) == made
