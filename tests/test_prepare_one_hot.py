"""One-hot tables: a column per tag. Every spelling of them gives the labels of a plain table, in any order."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from src.data.coco import read_coco_labels
from src.data.metadata import load_metadata
from src.errors import UserError
from src.prepare.table_one_hot import ABSENT, EMPTY, PRESENT, UNKNOWN, judge
from tests.prepare_helpers import prepare_source

TAGS = ["boat", "cat", "hot dog", "no", "sea", "1", "file"]
NAMES = [f"{letter}.jpg" for letter in "abcdefgh"]
CHANCE = random.Random(4)
TRUTH = {name: {tag for tag in TAGS if CHANCE.random() < 0.4} for name in NAMES}
Cell = Callable[[bool], object]


@pytest.fixture
def photos(tmp_path):
    for name in NAMES:
        (tmp_path / name).touch()
    numbers = np.random.default_rng(0).normal(size=(len(TAGS) + 1, 4)).round(3).tolist()
    lines = (
        f"{tag.replace(' ', '-')} {' '.join(map(str, row))}" for tag, row in zip([*TAGS, "dog"], numbers, strict=True)
    )
    (tmp_path / "vectors.txt").write_text("\n".join(lines))
    return tmp_path


def prepare(source: Path, *flags: object) -> list[str]:
    beside = source.parent
    common = ["--source", source, "--output", beside / "m", "--word-vectors", beside / "vectors.txt", "--overwrite"]
    unseen = [] if "--unseen" in flags else ["--unseen-fraction", 0.5]
    return prepare_source("table", *common, *unseen, *flags)


def labels(folder: Path) -> dict[str, dict[str, int]]:
    """Image -> label -> 1, 0 or -1; unseen labels of training images count as 0, as they are hidden."""
    metadata = load_metadata(folder / "m")
    found = {}
    for path in (metadata.train, metadata.val):
        images = read_coco_labels(path, metadata.split.labels)
        for name, row in zip(images.file_names, images.targets.dense().tolist(), strict=True):
            found[name] = dict(zip(metadata.split.labels, row, strict=True))
    return found


def expected(folder: Path, truth: dict[str, set[str]]) -> dict[str, dict[str, int]]:
    metadata = load_metadata(folder / "m")
    unseen = set(metadata.split.names(metadata.split.unseen))
    train = read_coco_labels(metadata.train, metadata.split.labels).file_names
    return {
        name: {tag: int(tag in tags and not (name in train and tag in unseen)) for tag in metadata.split.labels}
        for name, tags in truth.items()
    }


def write(path: Path, header: list[str], rows: list[list[object]], **form: object) -> Path:
    with open(path, "w", newline="", encoding=str(form.pop("encoding", "utf-8"))) as stream:
        stream.write(str(form.pop("first", "")))
        csv.writer(stream, **form).writerows([header, *rows])
    return path


SPELLINGS: dict[str, Cell] = {
    "0 1": lambda here: int(here),
    "0.0 1.0": lambda here: f"{float(here)}",
    "TRUE FALSE": lambda here: str(here).upper(),
    "yes no": lambda here: "Yes" if here else "no",
    "x and nothing": lambda here: "x" if here else "",
    "1 and nothing": lambda here: "1" if here else " ",
    "blanks": lambda here: f"  {int(here)} ",
    "t f": lambda here: "t" if here else "f",
}


@pytest.mark.parametrize(
    "words",
    [
        *(
            "WAHR FALSCH",
            "Vrai Faux",
            "VERDADERO FALSO",
            "vero falso",
            "VERDADEIRO FALSO",
            "WAAR ONWAAR",
            "PRAWDA FAŁSZ",
        ),
        *("SANT FALSKT", "ИСТИНА ЛОЖЬ", "DOĞRU YANLIŞ", "doğru yanlış", "IGAZ HAMIS", "TOSI EPÄTOSI", "ΑΛΗΘΗΣ ΨΕΥΔΗΣ"),
        *(
            "ja nein",
            "Ja Nee",
            "OUI NON",
            "sí no",
            "si\u0301 no",
            "Sì No",
            "sim não",
            "tak nie",
            "да нет",
            "是 否",
            "Y N",
        ),
        *("✓ ✗", "✔ ✘", "✔\ufe0f ❌", "☑ ☐", "☒ ☐", "on off", "1,0 0,0", "1,00 0", "+1 0"),
    ],
)
def test_truth_values_of_other_languages(words):
    yes, no = words.split()
    assert judge([yes, no, f" {yes} ", no.upper(), ""]).states == [PRESENT, ABSENT, PRESENT, ABSENT, EMPTY]


@pytest.mark.parametrize("cell", SPELLINGS.values(), ids=SPELLINGS)
def test_every_spelling_in_any_order_of_rows_and_columns(photos, cell):
    chance = random.Random(str(cell(True)))
    for _ in range(3):
        columns, rows = chance.sample(TAGS, len(TAGS)), chance.sample(NAMES, len(NAMES))
        at = chance.randrange(len(columns) + 1)  # of the path
        header = [*columns[:at], "Filename", *columns[at:]]
        body = [[name if column == "Filename" else cell(column in TRUTH[name]) for column in header] for name in rows]
        report = prepare(write(photos / "t.csv", header, body))
        assert labels(photos) == expected(photos, TRUTH)
        assert f"tags are columns of 0 and 1: {', '.join(columns)}" in report


FORMATS: dict[str, Callable[[Path, list[str], list[list[int]]], Path]] = {
    "semicolons": lambda home, header, rows: write(home / "t.csv", header, rows, delimiter=";"),
    "hint of Excel": lambda home, header, rows: write(home / "t.csv", header, rows, delimiter="|", first="sep=|\r\n"),
    "tabs in csv": lambda home, header, rows: write(home / "t.csv", header, rows, delimiter="\t"),
    "tsv": lambda home, header, rows: write(home / "t.tsv", header, rows, delimiter="\t"),
    "Unicode text of Excel": lambda home, header, rows: write(
        home / "t.txt", header, rows, delimiter="\t", encoding="utf-16"
    ),
    "byte-order mark": lambda home, header, rows: write(home / "t.csv", header, rows, encoding="utf-8-sig"),
    "Roboflow": lambda home, header, rows: write(
        home / "_classes.csv", [f" {name}" for name in header], [[f" {cell}" for cell in row] for row in rows]
    ),
    "index of pandas": lambda home, header, rows: write(
        home / "t.csv", ["", *header], [[number, *row] for number, row in enumerate(rows)]
    ),
    "fields after the last column": lambda home, header, rows: write(
        home / "t.csv", header, [[*row, "", ""] for row in rows]
    ),
    "repeated and blank rows": lambda home, header, rows: write(
        home / "t.csv", header, [*rows, [], *rows[::2], [""] * len(header)]
    ),
    "further columns": lambda home, header, rows: write(
        home / "t.csv", [*header, "width", "author"], [[*row, 640 + k, "me, no"] for k, row in enumerate(rows)]
    ),
    "jsonl of truth values": lambda home, header, rows: lines(
        home / "t.jsonl", [dict(zip(header, [row[0], *map(bool, row[1:])], strict=True)) for row in rows]
    ),
    "jsonl of what is present": lambda home, header, rows: lines(
        home / "t.jsonl", [{key: cell for key, cell in zip(header, row, strict=True) if cell} for row in rows]
    ),
    "parquet": lambda home, header, rows: parquet(home / "t.parquet", header, rows),
}  # fmt: skip


def lines(path: Path, entries: list[dict[str, object]]) -> Path:
    path.write_text("\n".join(map(json.dumps, entries)))
    return path


def parquet(path: Path, header: list[str], rows: list[list[int]]) -> Path:
    columns = dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))
    pyarrow.parquet.write_table(pyarrow.table({**columns, "jpeg": [b"a picture"] * len(rows)}), path)
    return path


@pytest.mark.parametrize("write_form", FORMATS.values(), ids=FORMATS)
def test_every_format(photos, write_form):
    rows = [[name, *(int(tag in TRUTH[name]) for tag in TAGS)] for name in NAMES]
    prepare(write_form(photos, ["image", *TAGS], rows))
    assert labels(photos) == expected(photos, TRUTH)


def table(photos: Path, *lines: str, name: str = "t.csv") -> Path:
    (photos / name).write_text("".join(f"{line}\n" for line in lines))
    return photos / name


UNKNOWNS = [
    "file,cat,boat,sea",
    "a.jpg,1,0,1",
    "b.jpg,-1,1,0",
    "c.jpg,,1,nan",
    "d.jpg,0,0,1",
    "e.jpg,1,1,1",
    "a.jpg,-1,,0",
]


def test_unknown_labels(photos):
    """-1 and words for it; an empty cell beside cells that say 0; what any row gives an image counts most."""
    (photos / "unseen.txt").write_text("boat\n")
    report = prepare(table(photos, *UNKNOWNS), "--unseen", photos / "unseen.txt")
    found = labels(photos)
    assert [found["b.jpg"][tag] for tag in ("cat", "sea")] == [-1, 0]
    assert [found["c.jpg"][tag] for tag in ("cat", "sea")] == [-1, -1]
    assert [found["a.jpg"][tag] for tag in ("cat", "sea")] == [1, 1]
    assert "2 empty cells of these columns are taken as unknown, as other cells say 0" in report
    assert "5 cells of these columns are unknown labels" in report


def test_tags_without_an_image_are_left_out(photos):
    report = prepare(table(photos, "file,cat,boat,sea", "a.jpg,1,0,0", "b.jpg,0,0,1", "c.jpg,1,0,1", "d.jpg,0,0,1"))
    assert load_metadata(photos / "m").split.labels == ("cat", "sea")
    assert "left out 1 tags that no row has: boat" in report


BOTH = ["file,tags,cat,boat", "a.jpg,sea,1,0", "b.jpg,dog,0,1", "c.jpg,sea,1,0", "d.jpg,dog,1,1", "e.jpg,sea,0,0"]


def test_a_table_with_a_column_of_tags_and_columns_of_flags_asks(photos):
    with pytest.raises(UserError, match=r"a column 'tags' and columns of 0 and 1 \(cat, boat\).*--tags-column tags"):
        prepare(table(photos, *BOTH))
    for flags, expected_labels in (
        (["--tags-column", "tags"], ("dog", "sea")),
        (["--tag-columns", "all"], ("boat", "cat")),
        (["--tag-columns", "Cat", "boat"], ("boat", "cat")),
    ):
        prepare(table(photos, *BOTH), *flags)
        assert load_metadata(photos / "m").split.labels == expected_labels


def test_one_column_of_flags_beside_tags_is_not_used(photos):
    report = prepare(
        table(photos, "file,tags,ok", "a.jpg,sea,1", "b.jpg,dog,0", "c.jpg,sea,1", "d.jpg,dog,1", "e.jpg,sea,0")
    )
    assert load_metadata(photos / "m").split.labels == ("dog", "sea")
    assert "columns not used: ok" in report


TWO = ["file,cat,boat", "a.jpg,1,0", "b.jpg,0,1"]
SLIP = ["file,cat,boat", "a.jpg,1,0", "b.jpg,0,O", "c.jpg,1,1", "d.jpg,1,1"]
OTHERS = ["file,who,what", "a.jpg,me,it", "b.jpg,you,that"]


@pytest.mark.parametrize(
    ("lines", "flags", "words"),
    [
        (SLIP, [], ["line 3: 'O' in column 'boat' is neither 0 nor 1", "--tag-columns"]),
        ([line.replace("O", "2") for line in SLIP], [], ["line 3: '2' in column 'boat'"]),
        (TWO, ["--tag-columns", "cat", "dog"], ["--tag-columns dog", "no such column"]),
        (TWO, ["--tag-columns", "cat", "file"], ["line 2: 'a.jpg' in column 'file'"]),
        (TWO, ["--tag-columns", "cat", "--tags-column", "cat"], ["not allowed with"]),
        (["file,cat,boat", "a.jpg,1,0.5"], ["--tag-columns", "cat", "boat"], ["line 2: '0.5' in column 'boat'"]),
        (["file,cat,boat", "1,1,0", "0,0,1"], ["--tag-columns", "file", "cat"], ["--path-column"]),
        (["file,cat,cat ", "a.jpg,1,0", "b.jpg,0,1"], [], ["two columns of tags have the same name"]),
        (["file,cat", "a.jpg,1", "b.jpg,0"], [], ["only one tag, cat"]),
        (["file,cat,sea", "a.jpg,0,0", "b.jpg,0,0"], [], ["no tags at all"]),
        (OTHERS, [], ["--tags-column", "no such column"]),
        (OTHERS, ["--tag-columns", "all"], ["--tag-columns all", "no column of 0 and 1"]),
        (["cat,boat", "1,0", "0,1"], [], ["--path-column", "'cat', 'boat'"]),
        ([",,", ",,,"], [], ["holds separators only"]),
        (["file,cat,boat", "a.jpg,1\0,0"], [], ["line 2: holds a NUL character"]),
        (["file,cat,boat", "a.jpg,1"], [], ["line 2: has 2 fields, but there are 3 columns"]),
    ],
)
def test_doubtful_tables_are_named_and_nothing_is_written(photos, lines, flags, words):
    with pytest.raises(UserError) as caught:
        prepare(table(photos, *lines), *flags)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)
    assert not (photos / "m").exists()


def test_numbers_of_rows_are_no_tag(photos):
    rows = [f"{number},{name},{number % 2},{number // 2 % 2},{number % 3}00" for number, name in enumerate(NAMES)]
    report = prepare(table(photos, "row,file,cat,boat,width", *rows))
    assert "tags are columns of 0 and 1: cat, boat" in report
    assert "columns not used: row, width" in report


def test_paths_of_other_machines_find_their_images(photos):
    (photos / "sub").mkdir()
    (photos / "sub" / "z z.jpg").touch()
    rows = [r"C:\data\a.jpg,1,0", "/mnt/x/b.jpg,0,1", "./c.jpg,1,1", "y/sub/z%20z.jpg,0,1", "D.JPG,1,0"]
    report = prepare(table(photos, "image,cat,boat", *rows))
    assert set(labels(photos)) == {"a.jpg", "b.jpg", "c.jpg", "d.jpg", "sub/z z.jpg"}
    assert any("by their base name" in line or "by the end of their path" in line for line in report)


@pytest.mark.parametrize("name", ["Image Name", "file-name", "FILE_PATH", "imagePath", " img ", "image id", "Name"])
def test_names_of_the_column_of_paths(photos, name):
    prepare(table(photos, f"cat,{name},boat", "1,a.jpg,0", "0,b.jpg,1", "1,c.jpg,1", "1,d.jpg,0"))
    assert labels(photos).keys() == {"a.jpg", "b.jpg", "c.jpg", "d.jpg"}
    assert load_metadata(photos / "m").split.labels == ("boat", "cat")


def test_states_of_cells():
    words = ["1", 1, True, 1.0, "Yes", "0", 0, False, "no", "-1", -1, -1.0, "NaN", "", None, float("nan"), " "]
    assert judge(words).states == [*[PRESENT] * 5, *[ABSENT] * 4, *[UNKNOWN] * 4, *[EMPTY] * 4]
    for stranger in ("2", "jain", 0.5, [], {"a": 1}, 10**30, "1e999", b"1"):
        assert judge([1, 0, stranger, 1, 0, 0]).stranger == (2, stranger)


def test_parquet_that_unfolds_far_beyond_its_size_is_refused(photos):
    count = 5_000
    source = photos / "t.parquet"
    constant = pyarrow.array(["a.jpg"]).dictionary_encode().take(pyarrow.array(np.zeros(count, dtype=np.int32)))
    tags = pyarrow.array(["sea " * 3_000]).dictionary_encode().take(pyarrow.array(np.zeros(count, dtype=np.int32)))
    pyarrow.parquet.write_table(pyarrow.table({"path": constant.cast("string"), "tags": tags.cast("string")}), source)
    assert source.stat().st_size < 100_000
    with pytest.raises(UserError, match=r"column 'tags' unfolds to more than 32 MB"):
        prepare(source)


def test_numbers_that_are_nan_in_json_lines_are_unknown_or_not_read(photos):
    rows = [{"file": name, "cat": float(number % 2), "sea": 1 - number % 2} for number, name in enumerate(NAMES)]
    rows[3]["cat"] = rows[4]["area"] = float("nan")
    (photos / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    prepare(photos / "t.jsonl")
    metadata = load_metadata(photos / "m")
    images = [read_coco_labels(path, ("cat", "sea")) for path in (metadata.train, metadata.val)]
    unknown = [
        (name, row.index(-1))
        for part in images
        for name, row in zip(part.file_names, part.targets.dense().tolist(), strict=True)
        if -1 in row
    ]
    assert unknown in ([(NAMES[3], 0)], [])  # an unseen label of a training image is hidden
    assert judge([{}, 1, 0]).states == [EMPTY, PRESENT, ABSENT]
