"""Own tables: every format gives the same folder, repairs are reported, mistakes are named."""

import csv
import json
import random
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from src.data.coco import read_coco_labels
from src.data.metadata import load_metadata
from src.data.parts import load_evaluation_set, load_training_set
from src.errors import UserError
from src.prepare.choosing import stratified_validation
from src.prepare.table_tags import join_tags, same_tag_key, split_cells
from src.utils.manifest import NAME
from tests.prepare_helpers import collect_source, prepare_source
from tests.script_helpers import PLAIN, TINY, call, succeeded, without_curves

TAGS = ["animal", "bird", "boat", "cat", "city", "dog", "hot dog", "night", "park", "sea", "snow", "tree"]
Rows = list[tuple[str, list[str]]]


def drawn_rows(count: int = 40) -> Rows:
    """Images whose folders are their tags, so that they can also be given as a folder."""
    chance = random.Random(5)
    tags = [chance.sample(TAGS, chance.randrange(1, 4)) for _ in range(count)]
    return [("/".join([*own, f"{number}.jpg"]), own) for number, own in enumerate(tags)]


def prepare(folder: Path, source: Path, *flags: object, output: str = "m", **columns: list[float]) -> list[str]:
    """Make ``folder / output`` from ``source``: the report."""
    numbers = np.random.default_rng(3).normal(size=(len(TAGS), 5)).round(3).tolist()
    vectors = {**dict(zip(TAGS, numbers, strict=True)), **columns}
    lines = [" ".join([tag.replace(" ", "-"), *map(str, vector)]) for tag, vector in vectors.items()]
    (folder / "vectors.txt").write_text("\n".join(lines))
    arguments = ["--source", source, "--output", folder / output, "--word-vectors", folder / "vectors.txt", *flags]
    return prepare_source("table", *arguments)


def made(folder: Path) -> dict[str, tuple[str, frozenset[str]]]:
    """Image -> (part, tags); training images have their seen tags alone."""
    metadata = load_metadata(folder)
    found = {}
    for part in ("train", "val"):
        images = read_coco_labels(getattr(metadata, part), metadata.split.labels)
        for name, row in zip(images.file_names, images.targets.dense().tolist(), strict=True):
            assert name not in found
            tags = (label for label, value in zip(metadata.split.labels, row, strict=True) if value == 1)
            found[name] = (part, frozenset(tags))
    return found


def without_parts(folder: Path) -> dict[str, frozenset[str]]:
    return {name: tags for name, (_, tags) in made(folder).items()}


def content(folder: Path) -> dict[str, bytes]:
    """The files of a metadata folder but for the report, which names the source, and the record of the files."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in ("report.txt", NAME)}


def write_images(folder: Path, rows: Rows) -> None:
    for path, _ in rows:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()


def write_csv(path: Path, header: list[str], rows: list[list[str]], **form: object) -> Path:
    with open(path, "w", newline="", encoding=form.pop("encoding", "utf-8")) as stream:
        csv.writer(stream, **form).writerows([header, *rows])
    return path


def write_lines(path: Path, *lines: str, end: str = "\n") -> Path:
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


def long(rows: Rows) -> list[list[str]]:
    return [[path, tag] for path, tags in rows for tag in tags]


def write_parquet(path: Path, /, **columns: object) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


FORMS = {
    "csv": lambda f, rows: write_csv(f / "photos.csv", ["path", "tags"], [[p, ", ".join(t)] for p, t in rows]),
    "semicolons between columns": lambda f, rows: write_csv(
        f / "photos.csv", ["Image", "Keywords"], [[p, ",".join(t)] for p, t in rows], delimiter=";"
    ),
    "semicolons within cells": lambda f, rows: write_csv(
        f / "photos.csv", ["file_name", "labels"], [[p, "; ".join(t)] for p, t in rows]
    ),
    "byte-order mark, Windows line ends": lambda f, rows: write_csv(
        f / "photos.csv", ["path", "tags"], [[p, "|".join(t)] for p, t in rows], encoding="utf-8-sig"
    ),
    "csv of JSON lists": lambda f, rows: write_csv(
        f / "photos.csv", ["path", "tags"], [[p, json.dumps(t)] for p, t in rows]
    ),
    "csv of pandas's lists": lambda f, rows: write_csv(
        f / "photos.csv", ["", "path", "tags"], [["7", p, str(t)] for p, t in rows]
    ),
    "backslashes": lambda f, rows: write_csv(
        f / "photos.csv", ["path", "tags"], [[p.replace("/", "\\"), ", ".join(t)] for p, t in rows]
    ),
    "absolute paths": lambda f, rows: write_csv(
        f / "photos.csv", ["path", "tags"], [[f / "photos" / p, ", ".join(t)] for p, t in rows]
    ),
    "detours": lambda f, rows: write_csv(
        f / "photos.csv", ["path", "tags"], [[f" ./x/../{p}", ", ".join(t)] for p, t in rows]
    ),
    "tsv": lambda f, rows: write_csv(
        f / "photos.tsv", ["PATH", "Tags"], [[p, ", ".join(t)] for p, t in rows], delimiter="\t"
    ),
    "tsv of JSON lists": lambda f, rows: write_lines(
        f / "photos.tsv", "path\ttags", *(f"{p}\t{json.dumps(t)}" for p, t in rows)
    ),
    "long csv": lambda f, rows: write_csv(f / "photos.csv", ["path", "tag"], long(rows)),
    "jsonl": lambda f, rows: write_lines(
        f / "photos.jsonl", *(json.dumps({"path": p, "tags": t}) for p, t in rows), end="\r\n"
    ),
    "jsonl of texts": lambda f, rows: write_lines(
        f / "photos.ndjson", *(json.dumps({"tags": "|".join(t), "size": 3, "path": p}) for p, t in rows), ""
    ),
    "long jsonl": lambda f, rows: write_lines(
        f / "photos.jsonl", *(json.dumps({"file": p, "label": t}) for p, t in long(rows))
    ),
    "parquet": lambda f, rows: write_parquet(
        f / "photos.parquet", path=[p for p, _ in rows], tags=[t for _, t in rows], n=[1] * len(rows)
    ),
    "parquet of texts": lambda f, rows: write_parquet(
        f / "photos.parquet",
        path=[p for p, _ in rows],
        tags=pyarrow.array([";".join(t) for _, t in rows]).dictionary_encode(),
    ),
    "folder": lambda f, rows: f / "photos",
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A folder with images in ``photos``, and what is made of it; not to be changed."""
    home = tmp_path_factory.mktemp("reference")
    write_images(home / "photos", drawn_rows())
    prepare(home, FORMS["csv"](home, drawn_rows()), "--images", home / "photos")
    return home


@pytest.mark.parametrize("form", FORMS)
def test_every_format_gives_the_same_folder(reference, tmp_path, form):
    rows = drawn_rows()
    random.Random(1).shuffle(rows)
    source = FORMS[form](reference, rows)
    images = [] if source.is_dir() else ["--images", reference / "photos"]
    prepare(tmp_path, source, *images)
    assert content(tmp_path / "m") == content(reference / "m")


def test_folder_has_the_content_of_the_rows(reference):
    metadata = load_metadata(reference / "m")
    split, parts = metadata.split, made(reference / "m")
    assert list(split.labels) == TAGS
    assert (split.name, len(split.unseen)) == ("photos_10_2", 2)
    unseen = set(split.names(split.unseen))
    assert parts == {
        path: (parts[path][0], frozenset(tags) - (unseen if parts[path][0] == "train" else set()))
        for path, tags in drawn_rows()
    }
    assert sum(part == "val" for part, _ in parts.values()) == 8
    assert metadata.image_root == reference / "photos"
    assert len(load_evaluation_set(metadata, None).paths) == 8
    assert 0 < len(load_training_set(metadata, None).paths) <= 32


def test_report_lists_the_choices(reference, tmp_path):
    report = prepare(tmp_path, FORMS["csv"](reference, drawn_rows()), "--images", reference / "photos")
    split = load_metadata(tmp_path / "m").split
    counts = Counter(tag for _, tags in drawn_rows() for tag in tags)
    most = sorted(counts, key=lambda tag: (-counts[tag], tag))[:5]
    frequent = ", ".join(f"{tag} ({counts[tag]})" for tag in most)
    source = reference / "photos.csv"
    assert f"{source}: 40 lines, 40 images, 12 tags; most frequent: {frequent}" in report
    unseen = f"unseen tags: {', '.join(split.names(split.unseen))} (--unseen-fraction 0.2, --seed 0)"
    assert unseen in report
    assert "chose 8 images for validation (--val-fraction 0.2, --seed 0)" in report
    assert (tmp_path / "m" / "report.txt").read_text().splitlines() == report


def test_another_seed_and_other_shares(reference, tmp_path):
    source = FORMS["csv"](reference, drawn_rows())
    flags = ["--images", reference / "photos", "--val-fraction", 0.5, "--unseen-fraction", 0.25]
    for seed in (1, 2):
        prepare(tmp_path, source, *flags, "--seed", seed, output=f"m{seed}")
    one, two = (content(tmp_path / f"m{seed}") for seed in (1, 2))
    assert one != two
    assert len(load_metadata(tmp_path / "m1").split.unseen) == 3
    for seed in (1, 2):
        rows = [(row, TAGS.index(tag)) for row, (_, tags) in enumerate(sorted(drawn_rows())) for tag in tags]
        chosen = stratified_validation(*torch.tensor(rows).unbind(dim=1), 40, len(TAGS), 0.5, seed)
        expected = {sorted(drawn_rows())[row][0] for row in chosen.tolist()}
        assert {name for name, (part, _) in made(tmp_path / f"m{seed}").items() if part == "val"} == expected


@pytest.fixture
def photos(tmp_path):
    """A folder with a.jpg to d.jpg, and a function that writes a table beside them."""
    for name in "abcd":
        (tmp_path / f"{name}.jpg").touch()
    return lambda *lines, name="t.csv": write_lines(tmp_path / name, *lines)


BOTH = ("--split-column", "split", "--unseen", "unseen.txt")  # nothing is left to chance


def plain(tmp_path: Path, source: Path, *flags: object, unseen: str = "dog") -> list[str]:
    """Four images, of which b.jpg and d.jpg are for validation."""
    (tmp_path / "unseen.txt").write_text(unseen)
    return prepare(tmp_path, source, "--split-column", "split", "--unseen", tmp_path / "unseen.txt", *flags)


def test_repairs_are_reported(tmp_path, photos):
    source = photos(
        "path,tags,split,author",
        'a.jpg," Hot  Dog,cat , cat",train,me',
        'b.jpg,"hot_dog,,-,dog",val,me',
        "b.jpg,hot dog,val,",
        "./c.jpg,hot dog,train,you",
        'd.jpg,"Cat, dog",val,you',
        "c.jpg,,train,",
        ",,,",
    )
    report = plain(tmp_path, source)
    assert load_metadata(tmp_path / "m").split.labels == ("cat", "dog", "hot dog")
    assert made(tmp_path / "m") == {
        "a.jpg": ("train", {"cat", "hot dog"}),
        "b.jpg": ("val", {"hot dog", "dog"}),
        "c.jpg": ("train", {"hot dog"}),
        "d.jpg": ("val", {"cat", "dog"}),
    }
    for line in (
        f"{source}: 6 lines, 4 images, 3 tags; most frequent: hot dog (3), cat (2), dog (2)",
        "columns not used: author",
        "tags in a cell are split at ',' (of 5 cells, ',' in 3)",
        "removed white space of 2 tags: 'Hot  Dog', 'cat '",
        "left out 2 empty tags: '', '-'",
        "merged 2 tags that differ only in case, blanks, - or _: cat (also Cat), hot dog (also hot_dog, Hot Dog)",
        "2 times an image had the same tag again, which counts once",
        "lines by split: train 3, val 3; all but train are for validation",
        "unseen tags: dog",
    ):
        assert line in report, "\n".join(report)


def test_images_without_tags_are_kept(tmp_path, photos):
    source = photos('{"path": "a.jpg", "split": "train", "tags": ["cat"]}', '{"path": "b.jpg", "split": "Test"}',
                    '{"path": "c.jpg", "split": "train", "tags": null}',
                    '{"path": "d.jpg", "split": "validation", "tags": "dog"}', name="t.jsonl")  # fmt: skip
    report = plain(tmp_path, source)
    assert without_parts(tmp_path / "m") == {"a.jpg": {"cat"}, "b.jpg": set(), "c.jpg": set(), "d.jpg": {"dog"}}
    assert "2 images without a tag are kept; training does not use them" in report
    assert "lines by split: test 1, train 2, validation 1; all but train are for validation" in report


def test_rare_tags_are_left_out_if_asked(tmp_path, photos):
    lines = ["path,tags,split", 'a.jpg,"cat,sea",train', "b.jpg,dog,val", "c.jpg,cat,train", 'd.jpg,"dog,city",val']
    plain(tmp_path, photos(*lines), "--overwrite")
    assert len(load_metadata(tmp_path / "m").split.labels) == 4
    report = plain(tmp_path, photos(*lines), "--min-pictures", 2, "--overwrite")
    assert load_metadata(tmp_path / "m").split.labels == ("cat", "dog")
    assert without_parts(tmp_path / "m") == {"a.jpg": {"cat"}, "b.jpg": {"dog"}, "c.jpg": {"cat"}, "d.jpg": {"dog"}}
    assert "left out 2 tags of fewer than 2 images: city, sea" in report


def test_missing_pictures_are_left_out_if_asked_and_so_are_their_tags(tmp_path, photos):
    (tmp_path / "x").mkdir()
    source = photos("path,tags,split", "a.jpg,cat,train", "aa.jpg,sea,train", "b.jpg,dog,val", "x,dog,val",
                    "./aa.jpg,sea,train")  # fmt: skip
    report = plain(tmp_path, source, "--missing-pictures", "drop")
    assert made(tmp_path / "m") == {"a.jpg": ("train", {"cat"}), "b.jpg": ("val", {"dog"})}
    assert load_metadata(tmp_path / "m").split.labels == ("cat", "dog")
    assert any(line.startswith("left out 2 images of ") for line in report)
    assert "left out 1 tags of fewer than 1 images: sea" in report
    assert (tmp_path / "m" / "missing_pictures.txt").read_text() == "aa.jpg\nx\n"


def test_images_beside_the_table_and_elsewhere(tmp_path, photos):
    """The recorded folder then holds both."""
    other = tmp_path / "tables"
    other.mkdir()
    (other / "e.jpg").touch()
    source = write_lines(
        other / "t.csv", "path,tags,split", "e.jpg,cat,train", f"{tmp_path}/a.jpg,dog,val", "../b.jpg,cat,val"
    )
    plain(tmp_path, source)
    assert without_parts(tmp_path / "m") == {"tables/e.jpg": {"cat"}, "a.jpg": {"dog"}, "b.jpg": {"cat"}}
    assert load_metadata(tmp_path / "m").image_root == tmp_path


def test_unseen_tags_may_be_named_in_another_spelling(tmp_path, photos):
    source = photos("path,tags,split", "a.jpg,Cat,train", "b.jpg,hot-dog,val")
    report = plain(tmp_path, source, unseen="Hot dog\nHOT_DOG\n")
    assert "unseen tags: hot-dog" in report
    split = load_metadata(tmp_path / "m").split
    assert (split.names(split.seen), split.names(split.unseen)) == (["Cat"], ["hot-dog"])


def test_train_and_val_folders_are_the_split(tmp_path):
    for path in (
        "train/cat/1.jpg",
        "train/dog/2.PNG",
        "Val/cat/1.jpg",
        "test/sea/1.jpg",
        "test/notes.txt",
        ".x/y/1.jpg",
    ):
        write_images(tmp_path / "zoo", [(path, [])])
    (tmp_path / "unseen.txt").write_text("dog")
    report = prepare(tmp_path, tmp_path / "zoo", "--unseen", tmp_path / "unseen.txt")
    assert made(tmp_path / "m") == {
        "train/cat/1.jpg": ("train", {"cat"}),
        "train/dog/2.PNG": ("train", set()),
        "Val/cat/1.jpg": ("val", {"cat"}),
        "test/sea/1.jpg": ("val", {"sea"}),
    }
    assert load_metadata(tmp_path / "m").image_root == tmp_path / "zoo"
    assert "images by split: test 1, train 2, val 1; all but train are for validation" in report
    with pytest.raises(UserError, match=r"--val-fraction 0.5: the folders .* leave it out"):
        prepare(tmp_path, tmp_path / "zoo", "--val-fraction", 0.5, output="n")


@pytest.mark.parametrize("tags", [["boat", "city", "train"], ["test", "val"], ["train"]])
def test_other_folders_of_such_names_are_tags(tmp_path, tags):
    write_images(tmp_path / "zoo", [(f"{tag}/cat/{number}.jpg", []) for tag in tags for number in range(3)])
    (tmp_path / "unseen.txt").write_text("cat")
    numbers = dict(zip(("train", "test", "val"), np.eye(3, 5).tolist(), strict=True))
    prepare(tmp_path, tmp_path / "zoo", "--unseen", tmp_path / "unseen.txt", **numbers)
    assert load_metadata(tmp_path / "m").split.labels == tuple(sorted(["cat", *tags]))


@pytest.mark.parametrize(
    "pair", [("Straße", "STRASSE"), ("Café", "cafe\u0301"), ("t-shirt", "T_Shirt"), (" a\tb ", "A - b")]
)
def test_spellings_of_the_same_tag(pair):
    assert same_tag_key(pair[0]) == same_tag_key(pair[1])
    assert same_tag_key("tshirt") != same_tag_key("t-shirt")


@pytest.mark.parametrize(
    ("cells", "separator", "expected"),
    [
        (["a, b", "c;d,e", "f,g"], "auto", [["a", "b"], ["c;d", "e"], ["f", "g"]]),  # most cells have a comma
        (["a, b", "c;d"], "auto", [["a, b"], ["c", "d"]]),  # of as many the first of ; | ,
        (["a, b", "c;d"], ",", [["a", "b"], ["c;d"]]),
        (["a, b", "c;d"], "none", [["a, b"], ["c;d"]]),
        (["a  b", " c "], " ", [["a", "b"], ["c"]]),
        (["a b", "c"], "auto", [["a b"], ["c"]]),
        (['["a,b"]', "['c', 'd;e']", ["f,g"], "", "h,i"], "auto", [["a,b"], ["c", "d;e"], ["f,g"], [], ["h", "i"]]),
        (["a->b"], "->", [["a", "b"]]),
    ],
)
def test_cells_are_divided(cells, separator, expected):
    assert split_cells(cells, separator, str)[0] == expected


@pytest.mark.parametrize("cell", ["[cat]", "['cat' 'dog']", "[1, 2]", "[" * 5000 + "]", '["a", null]', "[nan]"])
def test_square_brackets_need_a_list(cell):
    with pytest.raises(UserError, match=r"^7: the tags .* are in square brackets, but no list such as"):
        split_cells([""] * 7 + [cell], "auto", str)


def test_spellings_equal_a_plain_loop():
    """The vectorised counting against counting in dictionaries."""
    chance = random.Random(2)
    spellings = ["Sea", "sea", "SEA", "hot dog", "Hot-Dog", "hot_dog", " hot  dog", "", "é", "e\u0301", "É", "-", "cat"]
    tags = [chance.choices(spellings, k=chance.randrange(5)) for _ in range(60)]
    images = [chance.randrange(30) for _ in tags]
    frequency: dict[str, dict[str, set[int]]] = {}
    expected: dict[int, set[str]] = {}
    for image, row in zip(images, tags, strict=True):
        for tag in filter(same_tag_key, row):
            frequency.setdefault(same_tag_key(tag), {}).setdefault(" ".join(tag.split()), set()).add(image)
            expected.setdefault(image, set()).add(same_tag_key(tag))
    best = {key: min(found, key=lambda name: (-len(found[name]), name.swapcase())) for key, found in frequency.items()}
    tagging = join_tags(tags, images)
    assert tagging.labels == [best[key] for key in sorted(best)]
    got: dict[int, set[str]] = {}
    for row, column in zip(tagging.rows.tolist(), tagging.columns.tolist(), strict=True):
        got.setdefault(row, set()).add(same_tag_key(tagging.labels[column]))
    assert got == expected
    assert len(tagging.rows) == sum(map(len, expected.values()))


HEAD = "path,tags,split"
GOOD = [HEAD, "a.jpg,cat,train", "b.jpg,dog,val"]


@pytest.mark.parametrize(
    ("name", "lines", "words"),
    [
        ("t.csv", [], ["t.csv: is empty"]),
        ("t.csv", ["", " "], ["t.csv: is empty"]),
        ("t.csv", [HEAD], ["t.csv: has no row of data"]),
        ("t.csv", ["who,tags,split", "a.jpg,cat,train"], ["--path-column", "'who', 'tags', 'split'", "image_path"]),
        ("t.csv", ["path,what,split", "a.jpg,cat,train"], ["--tags-column", "'path', 'what', 'split'", "keywords"]),
        ("t.csv", ["path,tags", "a.jpg,cat"], ["--split-column split", "'path', 'tags'"]),
        ("t.csv", ["path,file,tags,split", "a.jpg,x,cat,val"], ["--path-column", "several", "'path', 'file'"]),
        ("t.csv", [HEAD, "a.jpg,cat,dog,train"], ["t.csv, line 2: has 4 fields", "3 columns", "quotation marks"]),
        ("t.csv", [HEAD, 'a.jpg,"two\nlines",train', "", "b.jpg"], ["t.csv, line 5: has 1 fields"]),
        ("t.csv", [HEAD, 'a.jpg,"cat,train', "b.jpg,dog,val"], ["t.csv, line 2: unexpected end of data", "both ends"]),
        ("t.csv", [HEAD, "a.jpg,caf\udce9,train"], ["t.csv, line 2: not UTF-8", "CSV UTF-8"]),
        ("t.csv", [*GOOD, ",cat,val"], ["t.csv, line 4: has no image path"]),
        ("t.csv", [*GOOD, "c.jpg,cat,later"], ["t.csv, line 4: the split is 'later'", "val, valid, validation"]),
        ("t.csv", [*GOOD, "./a.jpg,cat,val"], ["t.csv, line 4: ./a.jpg is val here, but train before"]),
        ("t.csv", [*GOOD, "c.jpg,[cat],val"], ["t.csv, line 4: the tags [cat] are in square brackets"]),
        ("t.csv", [HEAD, "a.jpg,,train", "b.jpg,-,val"], ["t.csv: has no tags at all"]),
        ("t.csv", [HEAD, "a.jpg,cat,train", "b.jpg,Cat,val"], ["t.csv: has only one tag, cat"]),
        ("t.csv", [HEAD, "a.jpg,cat,train", "b.jpg,dog,train"], ["--split-column split: no val image"]),
        ("t.csv", [HEAD, "a.jpg,cat,test", "b.jpg,dog,val"], ["--split-column split: no train image"]),
        ("t.csv", [*GOOD, *(f"no{i}.jpg,cat,val" for i in range(4))],
         ["--images", "4 of the 6 images", "(no0.jpg, no1.jpg, no2.jpg and 1 more)", "--missing-pictures drop"]),
        ("t.csv", [HEAD, "no.jpg,cat,train", "\\e.jpg\\,dog,val"], ["2 of the 2 images", "no.jpg"]),
        ("t.csv", [HEAD, "a.jpg,cat,train", "b.jpg,sea,val"], ["--unseen", "no such tag: dog"]),
        ("t.csv", [HEAD, "a.jpg,dog,train", "b.jpg,unicorn,val"], ["unicorn"]),
        ("t.jsonl", ['{"path": "a.jpg", "tags": ["cat"]}', "", '{"path": '], ["t.jsonl, line 3", "no JSON object"]),
        ("t.jsonl", ['["a.jpg", "cat"]'], ["t.jsonl, line 1", "no JSON object"]),
        ("t.jsonl", ['{"path": "a.jpg", "tags": [1], "split": "val"}'], ["t.jsonl, line 1: tags [1] is not text"]),
        ("t.jsonl", ['{"path": "a.jpg", "tags": 0, "split": "val"}'], ["t.jsonl, line 1: tags 0 is not text"]),
        ("t.jsonl", ['{"path": 5, "tags": ["cat"], "split": "val"}'], ["t.jsonl, line 1: path 5 is not text"]),
        ("t.jsonl", ['{"tags": ["cat"], "split": "val"}', '{"path": "a.jpg"}'], ["t.jsonl, line 1: has no image"]),
        ("t.parquet", ["no Parquet"], ["t.parquet: cannot be read as Parquet"]),
        ("t.xlsx", ["no table"], ["t.xlsx: is none of .csv, .tsv", "save the table as CSV"]),
    ],
)  # fmt: skip
def test_faults_of_a_table_are_named_and_nothing_is_written(tmp_path, photos, name, lines, words):
    source = tmp_path / name
    source.write_bytes("".join(f"{line}\n" for line in lines).encode(errors="surrogateescape"))
    with pytest.raises(UserError) as caught:
        plain(tmp_path, source)
    assert all(word in str(caught.value) for word in words), caught.value
    assert not [path for path in tmp_path.iterdir() if path.name.startswith((".", "m"))]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--images", "gone"], ["--images gone: no such folder"]),
        (["--images", "unseen.txt"], ["--images", "no such folder"]),
        (["--path-column", "pic"], ["t.csv has no such column", "'path', 'tags', 'split'"]),
        (["--path-column", "tags"], ["one column cannot be several"]),
        (["--tag-separator", ""], ["--tag-separator: '' is empty"]),
        (["--min-pictures", 2], ["--min-pictures 2: leaves 0 of 2 tags"]),
        (["--unseen-fraction", 0.5], ["--unseen-fraction", "not allowed with"]),
        (["--val-fraction", 0.5], ["--val-fraction", "not allowed with"]),
        (["--source", "gone.csv"], ["--source gone.csv: cannot be read"]),
    ],
)
def test_faults_of_flags(tmp_path, photos, flags, words):
    with pytest.raises(UserError) as caught:
        plain(tmp_path, photos(*GOOD), *flags)
    assert all(word in str(caught.value) for word in words), caught.value


def test_damaged_parquet_page_is_one_error(tmp_path, photos):
    source = write_parquet(tmp_path / "t.parquet", path=["a.jpg"] * 500, tags=["sea"] * 500, split=["val"] * 500)
    content = bytearray(source.read_bytes())
    content[4:40] = bytes(36)  # the header of the first page; the footer stays whole
    source.write_bytes(content)
    with pytest.raises(UserError, match=r"t\.parquet: cannot be read as Parquet"):
        plain(tmp_path, source)


def test_random_damage_is_a_table_or_one_error(tmp_path):
    """A compact version of what was tried with many more cases, for all formats."""
    rows = drawn_rows(12)
    write_images(tmp_path, rows)
    sources = [FORMS[form](tmp_path, rows) for form in ("csv", "tsv", "jsonl", "parquet")]
    wide = write_csv(tmp_path / "wide.csv", ["file", *TAGS], [[p, *(int(t in own) for t in TAGS)] for p, own in rows])
    originals = [(source.suffix, source.read_bytes()) for source in (*sources, wide)]
    pieces = [b'"', b",", b"\n", b"\0", b"\xff\xfe", b"[[[[", b"{", b"-1", b"9" * 30, b"\xed\xa0\x80", b"nan", b"path"]
    chance = random.Random(0)
    for _ in range(120):
        suffix, whole = chance.choice(originals)
        content = bytearray(whole)
        for _ in range(chance.choice((1, 1, 2, 5))):
            at = chance.randrange(len(content) + 1)
            content[at : at + chance.choice((0, 0, 1, 20))] = chance.choice(
                [b"", *pieces, bytes([chance.randrange(256)])]
            )
        (tmp_path / f"damaged{suffix}").write_bytes(content)
        with suppress(UserError):
            collect_source("table", "--source", tmp_path / f"damaged{suffix}")


def test_parquet_columns_of_other_types_are_named(tmp_path, photos):
    source = write_parquet(
        tmp_path / "t.parquet", path=["a.jpg", None], tags=[["cat"], ["dog"]], split=["train", "val"]
    )
    with pytest.raises(UserError, match=r"t.parquet, row 2: has no image path; write one, or remove the row"):
        plain(tmp_path, source)
    source = write_parquet(tmp_path / "t.parquet", path=["a.jpg", "b.jpg"], tags=[[1], [2]], split=["train", "val"])
    with pytest.raises(UserError, match=r"t.parquet, row 1: tags \[1\] is not text or a list"):
        plain(tmp_path, source)


def test_without_pyarrow_the_error_names_the_install_command(tmp_path, monkeypatch):
    source = write_parquet(tmp_path / "t.parquet", path=["a.jpg"], tags=[["cat"]])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"t\.parquet.*pip install pyarrow"):
        prepare(tmp_path, source)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--images", "x"),
        ("--path-column", "x"),
        ("--tags-column", "x"),
        ("--tag-columns", "x"),
        ("--split-column", "x"),
        ("--tag-separator", ";"),
    ],
)
def test_flags_about_tables_do_not_go_with_a_folder(reference, tmp_path, flag, value):
    with pytest.raises(UserError, match=rf"{flag} {value}: --source .* is a folder, not a table; leave {flag} out"):
        prepare(tmp_path, reference / "photos", flag, value)


def test_folders_that_hold_too_little(tmp_path):
    (tmp_path / "zoo").mkdir()
    with pytest.raises(UserError, match=r"--source .*zoo: there is no image in it"):
        prepare(tmp_path, tmp_path / "zoo")
    write_images(tmp_path / "zoo", [("1.jpg", [])])
    with pytest.raises(UserError, match=r"zoo: has no tags at all; .* a folder with a folder of images for each tag"):
        prepare(tmp_path, tmp_path / "zoo")
    write_images(tmp_path / "zoo", [("images/2.jpg", [])])
    with pytest.raises(UserError, match=r"zoo: has only one tag, images; .* give a table"):
        prepare(tmp_path, tmp_path / "zoo")


def test_from_a_table_to_tags(tmp_path):
    """Prepare, train and tag: what the documentation says first."""
    import infer
    import train

    colours = {
        "sea": (20, 60, 160),
        "snow": (235, 240, 250),
        "night": (10, 10, 30),
        "park": (40, 140, 50),
        "city": (128,) * 3,
    }
    rows = []
    for number in range(30):
        tag = list(colours)[number % 5]
        Image.new("RGB", (40, 32), colours[tag]).save(tmp_path / f"{number}.png")
        rows.append([f"{number}.png", tag])
    source = write_csv(tmp_path / "photos.csv", ["path", "tags"], rows)
    report = prepare(tmp_path, source)
    assert report[0] == "photos_4_1: 4 seen and 1 unseen labels"
    out = tmp_path / "out"
    flags = ["--metadata", tmp_path / "m", *TINY, *PLAIN, "--num-epochs", 1, "--seed", 1, "--path_output", out]
    with without_curves():
        succeeded(call(train.main, *flags))
    tags = tmp_path / "tags.json"
    model = out / "model-last.ckpt"
    succeeded(
        call(
            infer.main,
            "--model_path",
            model,
            "--pic_path",
            tmp_path / "0.png",
            "--top_k",
            5,
            "--json",
            tags,
            "--no_picture",
        )
    )
    found = {tag["label"] for tag in json.loads(tags.read_text())["results"][0]["tags"]}
    assert found == set(colours)
