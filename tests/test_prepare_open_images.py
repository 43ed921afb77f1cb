"""Open Images: small copies of the true form against csv.DictReader, and the true class lists where they are there."""

import csv
import json
import pickle
import random
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

import prepare_data
from src.data import label_cache
from src.data.coco import read_coco_labels
from src.data.label_cache import cached_coco_labels
from src.data.labels import LabelledImages
from src.data.metadata import Metadata, load_metadata
from src.data.official import read_array_pickle
from src.errors import UserError
from src.prepare import open_images_files
from src.prepare.collected import Collected
from src.prepare.open_images_files import Verdicts, read_verdicts
from tests.prepare_helpers import collect_source, prepare_source
from tests.script_helpers import call, snapshot, succeeded, user_error

# Two classes are called Bat, one of them unseen; the last two are on neither side.
NAMES = {
    "/m/01h44": "Bat",
    "/m/03by7wj": "Bat",
    "/m/0bt9lr": "Dog",
    "/m/0cl56": "Crème, fraîche",
    "/m/01yrx": "Cat",
    "/m/06rrc": 'The "Shoe"',
    "/m/0zzz1": "Axolotl",
    "/m/0zzz2": "Dog",
}
SEEN = ("/m/0bt9lr", "/m/01h44", "/m/0cl56")
NOT_TRAINABLE = ("/m/0zzz1", "/m/06rrc", "/m/03by7wj", "/m/01yrx")
PLACES = (3, 2, 1)  # of the unseen ones in that list
LABELS = ("Dog", "Bat (/m/01h44)", "Crème, fraîche", "Cat", "Bat (/m/03by7wj)", 'The "Shoe"')
MIDS = (*SEEN, "/m/01yrx", "/m/03by7wj", "/m/06rrc")
VECTORS = ("bat", "dog", "crème,_fraîche", "cat", 'the_"shoe"', "axolotl")
HEADER = "ImageID,Source,LabelName,Confidence"

Row = tuple[int, str, str]  # image, MID, confidence
TRAIN: tuple[Row, ...] = (
    (0xFFFFFFFFFFFFFFFF, "/m/0bt9lr", "1"),
    (0xFFFFFFFFFFFFFFFF, "/m/01h44", "0"),
    (0x00000000000000A1, "/m/0cl56", "1"),
    (0x00000000000000A1, "/m/01yrx", "1"),
    (0x00000000000000A1, "/m/0zzz1", "1"),
    (0x8000000000000000, "/m/0zzz2", "1"),
)
VAL: tuple[Row, ...] = (
    (0x0123456789ABCDEF, "/m/06rrc", "1"),
    (0x0123456789ABCDEF, "/m/01yrx", "0"),
    (0xBB, "/m/0bt9lr", "1"),
    (0xCC, "/m/0zzz1", "0"),
)
Labels = dict[str, dict[str, int]]  # image -> label -> 1 or 0


def file_of(part: str, kind: str = "human") -> str:
    return f"{part}-annotations-{kind}-imagelabels.csv"


def write_rows(path: Path, rows: Iterable[Row], end: str = "\n") -> Path:
    """A label file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [HEADER, *(f"{image:016x},verification,{mid},{confidence}" for image, mid, confidence in rows)]
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


def write_classes(folder: Path, names: dict[str, str] = NAMES) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "class-descriptions.csv", "w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(names.items())
    (folder / "classes-trainable.txt").write_text("".join(f"{mid}\n" for mid in SEEN))
    (folder / "unseen_labels.pkl").write_bytes(np.array(NOT_TRAINABLE, dtype=object).dumps())
    (folder / "top_400_unseen.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(map(str, PLACES)).encode())
    return folder


@pytest.fixture
def source(tmp_path):
    folder = write_classes(tmp_path / "oi")
    write_rows(folder / file_of("train"), TRAIN)
    write_rows(folder / "deep" / "er" / file_of("test"), VAL)
    return folder


@pytest.fixture
def words(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(len(VECTORS), 4)).round(4)
    path = tmp_path / "vectors.txt"
    path.write_text("".join(f"{word} {' '.join(map(str, v))}\n" for word, v in zip(VECTORS, vectors, strict=True)))
    return path


def run(source: Path, *flags: object) -> list[str]:
    given = ["--source", source, "--output", source.parent / "m", "--word-vectors", source.parent / "vectors.txt"]
    return prepare_source("open-images", *given, *flags)


def collect(source: Path, *flags: object) -> Collected:
    return collect_source("open-images", "--source", source, *flags)


def message(source: Path, *flags: object) -> str:
    """Return the error message; check that nothing was left behind."""
    before = snapshot(source.parent)
    with pytest.raises(UserError) as caught:
        run(source, *flags)
    assert snapshot(source.parent) == before
    assert not (source.parent / "m").exists()
    return str(caught.value)


def prepare(source: Path, *flags: object) -> tuple[Metadata, list[str]]:
    report = run(source, "--overwrite", *flags)
    metadata = load_metadata(source.parent / "m")
    assert (metadata.folder / "report.txt").read_text(encoding="utf-8").splitlines() == report
    return metadata, report


def verdicts_of(images: LabelledImages, labels: Sequence[str]) -> Labels:
    """Return the known labels."""
    return {
        name: {labels[column]: row[column] for column in range(len(labels)) if row[column] != -1}
        for name, row in zip(images.file_names, images.targets.dense().tolist(), strict=True)
    }


def read_part(metadata: Metadata, part: str) -> Labels:
    path = getattr(metadata, part)
    return verdicts_of(read_coco_labels(path, metadata.split.labels), metadata.split.labels)


def oracle(path: Path) -> Labels:
    """A plain loop over a label file; present wins. Images without a verdict about ``MIDS`` have an empty dict."""
    label_of = dict(zip(MIDS, LABELS, strict=True))
    found: Labels = {}
    with open(path, encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            own = found.setdefault(f"{row['ImageID']}.jpg", {})
            label = label_of.get(row["LabelName"])
            if label is not None:
                own[label] = max(int(row["Confidence"]), own.get(label, 0))
    return dict(sorted(found.items()))


def without(labels: Labels, hidden: Iterable[str]) -> Labels:
    return {name: {label: value for label, value in own.items() if label not in hidden} for name, own in labels.items()}


def random_rows(count: int, seed: int, images: int = 300) -> list[Row]:
    generator = random.Random(seed)
    ids = [generator.getrandbits(64) for _ in range(images)]
    mids = [*NAMES, "/m/foreign", "/t/ünknown"]
    return [(generator.choice(ids), generator.choice(mids), generator.choice("01")) for _ in range(count)]


def same(one: Verdicts, other: Verdicts) -> bool:
    names = ("images", "rows", "columns", "values")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


def columns_of() -> dict[str, int]:
    return {mid: column for column, mid in enumerate(MIDS)}


# The true class lists


@pytest.fixture(scope="module")
def real_classes(shared_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("open_images") / "oi"
    folder.mkdir()
    for path in (shared_data / "open_images").iterdir():
        (folder / path.name).symlink_to(path)
    for part in ("train", "test"):
        write_rows(folder / file_of(part), [(1, "/m/01h44", "1")])
    return folder


def test_published_classes(real_classes):
    collected = collect(real_classes)
    seen = (real_classes / "classes-trainable.txt").read_text().split()
    every = read_array_pickle(real_classes / "unseen_labels.pkl")
    places = (real_classes / "top_400_unseen.csv").read_text(encoding="utf-8-sig").split()
    mids = [*seen, *(str(every[int(place)]) for place in places)]
    assert (len(collected.seen), len(collected.unseen), len(set(mids))) == (7_186, 400, 7_586)
    assert list(collected.labels) == [*collected.seen, *collected.unseen]
    assert len(set(collected.labels)) == 7_586
    with open(real_classes / "class-descriptions.csv", encoding="utf-8", newline="") as stream:
        name_of = {mid: name.strip() for mid, name in csv.reader(stream)}
    names = [name_of[mid] for mid in mids]
    for mid, name, label in zip(mids, names, collected.labels, strict=True):
        assert label == (name if names.count(name) == 1 else f"{name} ({mid})")
        assert collected.texts.get(label, label) == name
    assert len(collected.texts) == sum(names.count(name) > 1 for name in names) == 225
    assert "Bat (/m/01h44)" in collected.seen
    assert collected.notes[:3] == [
        "7,186 seen classes, as published",
        "400 unseen classes, as published",
        "225 classes share their name with another and have their MID appended",
    ]
    column = collected.labels.index("Bat (/m/01h44)")
    assert collected.parts["train"].targets.positives()[1].tolist() == [column]


def test_published_classes_by_name(real_classes, tmp_path):
    published = collect(real_classes)
    with open(real_classes / "class-descriptions.csv", encoding="utf-8", newline="") as stream:
        names = [name.strip() for _, name in csv.reader(stream)]
    alone = [label for label in published.unseen if names.count(label) == 1]
    assert 300 < len(alone) < 400
    path = tmp_path / "unseen"
    path.write_text("\n".join(alone), encoding="utf-8")
    assert list(collect(real_classes, "--unseen", path).unseen) == alone
    path.write_text("\n".join(published.unseen), encoding="utf-8")
    with pytest.raises(UserError, match=r"names of several classes, give their MIDs: "):
        collect(real_classes, "--unseen", path)


# Reading


def test_classes_and_verdicts(source):
    collected = collect(source)
    assert (collected.name, collected.image_root) == ("open_images", None)
    assert tuple(collected.labels) == LABELS
    assert (tuple(collected.seen), tuple(collected.unseen)) == (LABELS[:3], LABELS[3:])
    assert collected.texts == {"Bat (/m/01h44)": "Bat", "Bat (/m/03by7wj)": "Bat"}
    train, val = (verdicts_of(collected.parts[part], LABELS) for part in ("train", "val"))
    assert train == {
        "00000000000000a1.jpg": {"Crème, fraîche": 1, "Cat": 1},
        "ffffffffffffffff.jpg": {"Dog": 1, "Bat (/m/01h44)": 0},
    }
    assert val == {
        "00000000000000bb.jpg": {"Dog": 1},
        "00000000000000cc.jpg": {},  # kept: protocols that count all images count it
        "0123456789abcdef.jpg": {'The "Shoe"': 1, "Cat": 0},
    }
    assert collected.parts["val"].image_ids == (1, 2, 3)
    assert collected.notes == [
        "3 seen classes; published: 7,186",
        "3 unseen classes; published: 400",
        "2 classes share their name with another and have their MID appended",
        "train: 6 verified labels of 3 images",
        "train: left out 2 verified labels of other classes",
        "train: left out 1 images that have labels of other classes only",
        "val: 4 verified labels of 3 images",
        "val: left out 1 verified labels of other classes",
    ]


@pytest.mark.parametrize("seed", range(3))
def test_labels_equal_a_plain_loop(source, words, monkeypatch, seed):
    rows = random_rows(4_000, seed)
    train = write_rows(source / file_of("train"), rows)
    val = write_rows(source / "deep" / "er" / file_of("test"), random_rows(2_000, seed + 100, images=1_500))
    metadata, report = prepare(source)
    expected = {part: oracle(path) for part, path in (("train", train), ("val", val))}
    assert any(not own for own in expected["val"].values())
    trained_on = {name: own for name, own in expected["train"].items() if own}
    unseen = LABELS[3:]
    assert read_part(metadata, "train") == without(trained_on, unseen)
    assert read_part(metadata, "val") == expected["val"]
    monkeypatch.setattr(label_cache, "MIN_CACHED_BYTES", 0)
    for _ in range(2):  # made, then read
        for part in ("train", "val"):
            cached = cached_coco_labels(getattr(metadata, part), LABELS, source.parent / "cache")
            assert verdicts_of(cached, LABELS) == read_part(metadata, part)
    assert len(list((source.parent / "cache").iterdir())) == 2

    known = [(image, mid, value) for image, mid, value in rows if mid in MIDS]
    both = {(image, mid) for image, mid, value in known if value == "1"}
    both &= {(image, mid) for image, mid, value in known if value == "0"}
    assert f"train: {len(both):,} classes of an image are both present and absent; taken as present" in report
    assert f"train: left out {4_000 - len(known):,} verified labels of other classes" in report
    for part, labels in (("train", without(trained_on, unseen)), ("val", expected["val"])):
        unknown = len(labels) * len(LABELS) - sum(map(len, labels.values()))
        assert f"{part}: {unknown:,} unknown labels" in report
    shows = sum(any(own.get(label) for label in unseen) for own in trained_on.values())
    assert f"train: hid the unseen labels of {shows:,} images" in report


@pytest.mark.parametrize("block", [1, 64])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_block_size_does_not_matter(tmp_path, monkeypatch, block, end):
    path = write_rows(tmp_path / "rows.csv", random_rows(300, 0))
    expected = read_verdicts(path, columns_of())
    write_rows(path, random_rows(300, 0), end=end)
    monkeypatch.setattr(open_images_files, "BLOCK_BYTES", block)
    assert same(read_verdicts(path, columns_of()), expected)


# Conflicts, machines


def test_present_overrides_absent(source):
    dog, cat, shoe = "/m/0bt9lr", "/m/01yrx", "/m/06rrc"
    rows = [(1, dog, "0"), (1, dog, "1"), (1, dog, "0"), (2, dog, "1"), (2, dog, "0"), (3, dog, "0"), (3, dog, "0")]
    write_rows(source / file_of("train"), [*rows, (4, cat, "1"), (4, cat, "1"), (4, shoe, "0"), (5, dog, "1")])
    collected = collect(source)
    assert list(verdicts_of(collected.parts["train"], LABELS).values()) == [
        {"Dog": 1},
        {"Dog": 1},
        {"Dog": 0},
        {"Cat": 1, 'The "Shoe"': 0},
        {"Dog": 1},
    ]
    assert "train: 2 classes of an image are both present and absent; taken as present" in collected.notes


def write_machine(source: Path, train: Iterable[Row], test: Iterable[Row] = ()) -> None:
    write_rows(source / file_of("train", "machine"), train)
    write_rows(source / file_of("test", "machine"), test)


def test_machine_labels_fill_unverified_classes(source):
    machine = [
        (0xFFFFFFFFFFFFFFFF, "/m/0bt9lr", "0.1"),  # a person says present
        (0xFFFFFFFFFFFFFFFF, "/m/01h44", "1"),  # a person says absent
        (0xFFFFFFFFFFFFFFFF, "/m/0cl56", "0.8"),
        (0xFFFFFFFFFFFFFFFF, "/m/01yrx", "0.7999"),
        (0xA1, "/m/01h44", "0.9"),
        (0xA1, "/m/01h44", "1.0"),
        (0xA1, "/m/0zzz1", "1"),
        (0x5, "/m/0bt9lr", "0.80"),  # an image without verdicts by people
        (0x6, "/m/0bt9lr", "0.5"),
        (0x7, "/m/0zzz1", "1"),
    ]
    write_machine(source, machine, [(0xCC, "/m/01yrx", "1"), (0xDD, "/m/0zzz2", "1"), (0xEE, "/m/0bt9lr", "8e-1")])
    collected = collect(source, "--machine-labels", 0.8)
    assert verdicts_of(collected.parts["train"], LABELS) == {
        "0000000000000005.jpg": {"Dog": 1},
        "00000000000000a1.jpg": {"Crème, fraîche": 1, "Cat": 1, "Bat (/m/01h44)": 1},
        "ffffffffffffffff.jpg": {"Dog": 1, "Bat (/m/01h44)": 0, "Crème, fraîche": 1},
    }
    assert verdicts_of(collected.parts["val"], LABELS) == {
        "00000000000000bb.jpg": {"Dog": 1},
        "00000000000000cc.jpg": {"Cat": 1},
        "00000000000000ee.jpg": {"Dog": 1},
        "0123456789abcdef.jpg": {'The "Shoe"': 1, "Cat": 0},
    }
    assert "train: 3 machine-generated labels of confidence 0.8 or more" in collected.notes
    assert "val: 2 machine-generated labels of confidence 0.8 or more" in collected.notes


@pytest.mark.parametrize("least", [0, 0.35, 1])
def test_machine_labels_equal_a_plain_loop(source, least):
    generator = random.Random(3)
    people, machine = random_rows(1_500, 4), []
    for image, mid, _ in random_rows(3_000, 4, images=400):
        machine.append((image, mid, str(round(generator.random(), 2))))
    write_machine(source, machine, [(0xBB, "/m/0bt9lr", "1")])
    expected = oracle(write_rows(source / file_of("train"), people))
    said = without(expected, ())
    added = 0
    for image, mid, confidence in machine:
        if mid in MIDS and float(confidence) >= least:
            label, own = LABELS[MIDS.index(mid)], expected.setdefault(f"{image:016x}.jpg", {})
            if label not in said.get(f"{image:016x}.jpg", {}):
                added += label not in own
                own[label] = 1
    collected = collect(source, "--machine-labels", least)
    assert verdicts_of(collected.parts["train"], LABELS) == {n: own for n, own in sorted(expected.items()) if own}
    assert f"train: {added:,} machine-generated labels of confidence {least:g} or more" in collected.notes


# Malformed label files

GOOD = "00000000000000a1,verification,/m/0bt9lr,1"


def with_line(source: Path, line: str | bytes, kind: str = "human", after: str = f"{GOOD}\n") -> Path:
    """A train file whose third line is ``line``."""
    line = line if isinstance(line, bytes) else line.encode()
    path = source / file_of("train", kind)
    path.write_bytes(f"{HEADER}\n{GOOD}\n".encode() + line + b"\n" + after.encode())
    return path


@pytest.mark.parametrize(
    "line",
    [
        "00000000000000a1,verification,/m/0bt9lr",
        "00000000000000a1,verification,/m/0bt9lr,1,0",
        "00000000000000a,verification,/m/0bt9lr,1",
        "000000000000000a1,verification,/m/0bt9lr,1",
        "0000_000_00000a1,verification,/m/0bt9lr,1",
        "00000000000000g1,verification,/m/0bt9lr,1",
        "00000000000000a1,verification,Dog,1",
        "train_0/00000000000000a1.gif,verification,/m/0bt9lr,1",
        "00000000000000a1/,verification,/m/0bt9lr,1",
        "00000000000000a1,verification,/m/0bt9lr ,1",
        "00000000000000a1,verification,/m/0bt9lr,",
        "00000000000000a1,verification,/m/0bt9lr,yes",
        "00000000000000a1,verification,/m/0bt9lr,nan",
        "00000000000000a1,verification,/m/0bt9lr,-1",
        "00000000000000a1,verification,/m/0bt9lr,1.5",
        "",
        "\r",
        HEADER,
    ],
)
@pytest.mark.parametrize("kind", ["human", "machine"])
def test_a_malformed_row(source, words, kind, line):
    write_machine(source, TRAIN)
    path = with_line(source, line, kind)
    said = message(source, *(("--machine-labels", 0.5) if kind == "machine" else ()))
    confidence = "1 or 0" if kind == "human" else "a confidence from 0 to 1"
    line = line.rstrip("\r")
    expected = f"line 3: not '16 hexadecimal digits,source,MID,{confidence}': {line!r}; get the file again"
    assert said == f"{path}, {expected}"


def test_verified_labels_have_a_confidence_of_0_or_1(source, words):
    write_machine(source, TRAIN, VAL)
    for value in ("0.5", "0.999", "1e-9"):
        with_line(source, f"00000000000000a1,verification,/m/0bt9lr,{value}")
        assert f"MID,1 or 0': '00000000000000a1,verification,/m/0bt9lr,{value}'" in message(source)
    with_line(source, "00000000000000b1,verification,/m/0bt9lr,1.0", after="00000000000000b2,,/m/0bt9lr,0.0\n")
    with_line(source, "00000000000000a1,machine,/m/0bt9lr,0.5", "machine")
    assert list(verdicts_of(collect(source).parts["train"], LABELS).values()) == [{"Dog": 1}, {"Dog": 1}, {"Dog": 0}]
    assert collect(source, "--machine-labels", 0.5).parts["train"].file_names[0] == "00000000000000a1.jpg"


@pytest.mark.parametrize(
    ("before", "end", "after"),
    [(b"\xef\xbb\xbf", b"\r\n", b"\r\n"), (b"", b"\n", b"\n \n\t\r\n\n")],
)
@pytest.mark.parametrize("last_end", [True, False])
def test_variants_of_a_file(tmp_path, before, end, after, last_end):
    path = write_rows(tmp_path / "rows.csv", TRAIN)
    expected = read_verdicts(path, columns_of())
    content = path.read_bytes().replace(b"\n", end)
    path.write_bytes(before + (content + after if last_end else content[: -len(end)]))
    assert same(read_verdicts(path, columns_of()), expected)


@pytest.mark.parametrize(
    ("pattern", "written"),
    [
        (r"[^,\n]+", r'"\g<0>"'),  # a writer that quotes every field
        (r"(?m)^[0-9a-f]{16}", r"\g<0>.jpg"),
        (r"(?m)^[0-9a-f]{16}", r"train_0/\g<0>"),  # the archives of the release
        (r"(?m)^[0-9a-f]{16}", r"..\\validation\\\g<0>.JPG"),
        ("ImageID", "imageid"),
    ],
)
def test_forms_of_a_row(tmp_path, pattern, written):
    path = write_rows(tmp_path / "rows.csv", TRAIN)
    expected = read_verdicts(path, columns_of())
    text = path.read_text()
    path.write_text(re.sub(pattern, written, text))
    assert path.read_text() != text
    assert same(read_verdicts(path, columns_of()), expected)


@pytest.mark.parametrize("header", [GOOD, "", f"{HEADER},x", "x" * 5000])
def test_wrong_header(source, words, header):
    (source / file_of("train")).write_text(f"{header}\n{GOOD}\n")
    expected = f"{source / file_of('train')}: begins with {header[:80]!r}, not with {HEADER!r}; get the file again"
    assert message(source) == expected


@pytest.mark.parametrize("content", ["", f"{HEADER}", f"{HEADER}\n", f"{HEADER}\n00000000000000a1,,/m/0zzz1,1\n"])
def test_files_without_labels(source, words, content):
    path = source / file_of("train")
    path.write_text(content)
    if content:
        assert message(source) == f"{path}: says nothing about the seen and unseen classes; get it again"
    else:
        assert "begins with '', not with" in message(source)


# Class files


def test_all_missing_files_are_reported(tmp_path, words, source):
    (tmp_path / "empty").mkdir()
    said = message(source, "--source", tmp_path / "empty", "--machine-labels", 0.9)
    assert said == (
        f"--source {tmp_path / 'empty'}: 8 files are missing: class-descriptions.csv, {file_of('train')}, "
        f"{file_of('test')}, {file_of('train', 'machine')}, {file_of('test', 'machine')}, classes-trainable.txt, "
        "unseen_labels.pkl, top_400_unseen.csv; is this the Open Images folder?"
    )
    assert message(source, "--source", tmp_path / "gone") == f"--source {tmp_path / 'gone'}: no such folder"
    assert f"1 files are missing: {file_of('validation')}; is this" in message(source, "--val-part", "validation")


def test_duplicate_files(source, words):
    write_rows(source / "copy" / file_of("train"), TRAIN)
    write_rows(source / "copy" / file_of("test"), VAL)
    (source / "other").mkdir()
    (source / "other" / "top_400_unseen.csv").write_text("0\n")
    (source / "classes-trainable.txt").unlink()
    *differing, absent = message(source).split("\n  ")
    assert absent == f"--source {source}: 1 files are missing: classes-trainable.txt; is this the Open Images folder?"
    assert differing == [
        f"--source {source}: {source / 'top_400_unseen.csv'} and {source / 'other' / 'top_400_unseen.csv'} have the "
        "same name and different content; remove one of them"
    ]  # the copies of the label files have the same content


def test_the_other_evaluation_part(source, words):
    write_rows(source / file_of("validation"), [(9, "/m/0bt9lr", "1")])
    assert collect(source, "--val-part", "validation").parts["val"].file_names == ("0000000000000009.jpg",)
    assert len(collect(source).parts["val"]) == 3


@pytest.mark.parametrize("line", ["/m/0abc", "Dog,/m/0abc", "/m/0abc,", '/m/0abc,"Dog'])
def test_a_malformed_class_description(source, words, line):
    path = source / "class-descriptions.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*lines[:2], line, *lines[2:]]), encoding="utf-8")
    assert message(source) == f"{path}, line 3: not 'MID,name': {line!r}; get the file again"


def test_a_class_that_is_described_twice(source, words):
    path = source / "class-descriptions.csv"
    content = path.read_text(encoding="utf-8")
    path.write_text(content + "/m/01yrx,Cat\n", encoding="utf-8")
    assert collect(source).labels == LABELS
    path.write_text(content + "/m/01yrx,Kitten\n", encoding="utf-8")
    assert message(source) == f"{path}, line 9: /m/01yrx is 'Kitten' here and 'Cat' before; get it again"


def test_trainable_classes(source, words):
    path = source / "classes-trainable.txt"
    path.write_bytes(b"\xef\xbb\xbf/m/0bt9lr\r\n\r\n/m/01h44\r\n")
    assert collect(source).seen == ("Dog", "Bat (/m/01h44)")
    path.write_text("/m/0bt9lr\n/m/nope\n")
    assert message(source) == f"--source {source}, seen classes: not in class-descriptions.csv: /m/nope"
    path.write_text("/m/0bt9lr\n/m/0bt9lr\n")
    assert message(source) == f"--source {path}: named more than once: /m/0bt9lr"
    path.write_text("/m/0bt9lr\n/m/01yrx\n")
    assert message(source) == ("--unseen: classes that are seen as well: /m/01yrx; take them out of one list")


@pytest.mark.parametrize("text", ["4", "-1", "x"])
def test_indices_out_of_range(source, words, text):
    path = source / "top_400_unseen.csv"
    path.write_text(f"0\n{text}\n", encoding="utf-8")
    assert message(source) == f"{path}: not indices from 0 to 3: {text}; get the file again"


@pytest.mark.parametrize("value", ["/m/01yrx", [1, 2]])
def test_pickle_of_another_type(source, words, value):
    path = source / "unseen_labels.pkl"
    path.write_bytes(pickle.dumps(value))
    assert message(source) == f"{path}: holds no list of MIDs; get the file again"
    path.write_bytes(b"no pickle")
    assert "is not a pickle of arrays and plain containers" in message(source)


# Lists of one's own


def test_own_lists(source, tmp_path):
    (tmp_path / "seen").write_text("Axolotl\n/m/0zzz2\n\n/m/01h44\n")
    (tmp_path / "unseen").write_text('Crème, fraîche\nThe "Shoe"\n', encoding="utf-8")
    collected = collect(source, "--seen", tmp_path / "seen", "--unseen", tmp_path / "unseen")
    assert collected.seen == ("Axolotl", "Dog", "Bat")  # names are theirs alone among these
    assert collected.unseen == ("Crème, fraîche", 'The "Shoe"')
    assert not collected.texts
    assert not any("published" in note or "share their name" in note for note in collected.notes)
    assert verdicts_of(collected.parts["train"], collected.labels) == {
        "00000000000000a1.jpg": {"Crème, fraîche": 1, "Axolotl": 1},
        "8000000000000000.jpg": {"Dog": 1},
        "ffffffffffffffff.jpg": {"Bat": 0},
    }
    assert collect(source, "--unseen", tmp_path / "unseen", "--seen", tmp_path / "seen").labels == collected.labels


@pytest.mark.parametrize("flag", ["--seen", "--unseen"])
def test_mistakes_in_own_lists(source, words, tmp_path, flag):
    path = tmp_path / "list"

    def said(text: str) -> str:
        path.write_text(text)
        return message(source, flag, path)

    assert said("/m/0zzz1\nKitten\n/m/nope\n") == f"{flag} {path}: not in class-descriptions.csv: Kitten, /m/nope"
    assert said("Dog\nAxolotl\n") == f"{flag} {path}: names of several classes, give their MIDs: Dog"
    assert said("Axolotl\nAxolotl\n") == f"{flag} {path}: named more than once: Axolotl"
    assert said("Axolotl\n/m/0zzz1\n") == f"{flag} {path}: named more than once: /m/0zzz1"
    assert said("\n \n") == f"{flag} {path}: names nothing; give one name per line"
    both = "Cat" if flag == "--seen" else "/m/0bt9lr"
    mid = "/m/01yrx" if flag == "--seen" else "/m/0bt9lr"
    assert said(f"{both}\n") == f"--unseen: classes that are seen as well: {mid}; take them out of one list"
    path.unlink()
    assert f"{flag} {path}: cannot be read" in message(source, flag, path)
    path.write_bytes(b"\xff")
    assert f"{flag} {path}, line 1: not UTF-8" in message(source, flag, path)


# Images


def put(folder: Path, *places: str) -> Path:
    for place in places:
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).touch()
    return folder


ALL_IMAGES = (
    "train_a/00000000000000a1.jpg",
    "train_f/x/y/ffffffffffffffff.jpg",
    "00000000000000bb.jpg",
    "test/00000000000000cc.jpg",
    "test/0123456789abcdef.jpg",
)


def test_images_are_found_at_any_depth(source, words, tmp_path):
    folder = put(tmp_path / "images", *ALL_IMAGES, "zz/00000000000000a1.jpg", "other/1.jpg", "README.txt")
    metadata, _ = prepare(source, "--images", folder)
    assert metadata.image_root == folder
    assert list(read_part(metadata, "train")) == list(ALL_IMAGES[:2])
    assert list(read_part(metadata, "val")) == list(ALL_IMAGES[2:])
    assert not (metadata.folder / "missing_pictures.txt").exists()


def test_missing_pictures(source, words, tmp_path):
    folder = put(tmp_path / "images", *ALL_IMAGES[1:4])
    assert message(source, "--images", folder) == (
        "--images: 1 of the 2 images of train labels are not there (00000000000000a1.jpg); searched 3 image "
        f"files below {folder}, such as 00000000000000bb.jpg and test/00000000000000cc.jpg; give the folder that holds "
        "them, or --missing-pictures drop to leave them out"
    )
    metadata, report = prepare(source, "--images", folder, "--missing-pictures", "drop")
    for part in ("train", "test"):
        assert f"left out 1 images of {part} labels that are not on disk, listed in missing_pictures.txt" in report
    missing = (metadata.folder / "missing_pictures.txt").read_text().splitlines()
    assert missing == ["00000000000000a1.jpg", "0123456789abcdef.jpg"]
    assert read_part(metadata, "train") == {ALL_IMAGES[1]: {"Dog": 1, "Bat (/m/01h44)": 0}}
    assert list(read_part(metadata, "val")) == list(ALL_IMAGES[2:4])


# The metadata folder


def test_label_with_mid_has_the_vector_of_its_name(source, words):
    metadata, report = prepare(source)
    vectors = metadata.split.word_vectors
    assert torch.equal(vectors[:, 1], vectors[:, 4])
    assert any("Bat (/m/01h44) = Bat (/m/03by7wj)" in line for line in report)
    (source.parent / "vectors.txt").write_text("dog 1 0\ncat 0 1\nbat 1 1\n")
    metadata, report = prepare(source, "--missing", "drop")
    assert metadata.split.labels == ("Dog", "Bat (/m/01h44)", "Cat", "Bat (/m/03by7wj)")
    assert read_part(metadata, "val")["0123456789abcdef.jpg"] == {"Cat": 0}


def test_script(source, words, tmp_path):
    def script(*flags):
        return call(prepare_data.main, "open-images", *flags)

    flags = ("--source", source, "--word-vectors", words, "--output", tmp_path / "out")
    report, _, written = succeeded(script(*flags)).stdout.rpartition("written to")
    assert (report, written.strip()) == (
        (tmp_path / "out" / "report.txt").read_text(encoding="utf-8"),
        str(tmp_path / "out"),
    )
    assert "is not empty; choose another folder or give --overwrite" in user_error(script(*flags))
    before = snapshot(tmp_path / "out")
    with_line(source, "cut")
    assert "line 3: not '16 hex" in user_error(script(*flags, "--overwrite"))
    assert snapshot(tmp_path / "out") == before
    entry = json.loads((tmp_path / "out" / "train.json").read_text(encoding="utf-8"))["images"][1]
    assert entry == {"id": 2, "file_name": "ffffffffffffffff.jpg", "neg_category_ids": [2]}
