"""Every flag of prepare_data.py has an effect: see tests/test_flag_effects.py.

The flags of output folder and word vectors are the same for all sources and are tried with ``table``.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import prepare_data
from src.config.prepare import OutputSettings, VectorSettings, prepare_parser
from src.data.coco import COCO_CLASSES, read_coco_labels
from src.data.metadata import load_metadata
from src.prepare import voc
from tests.coco_helpers import write_instances
from tests.flag_helpers import Effect, observe
from tests.test_prepare_coco import IMAGES, instances, make_source
from tests.test_prepare_nus_wide import CONCEPTS, TAGS, TEST, TRAIN, Distribution
from tests.test_prepare_open_images import TRAIN as OPEN_IMAGES_TRAIN
from tests.test_prepare_open_images import VAL, file_of, write_classes, write_rows
from tests.test_prepare_open_images import VECTORS as OPEN_IMAGES_WORDS
from tests.test_prepare_voc import WORDS as VOC_WORDS
from tests.test_prepare_voc import write_year
from tests.test_word_vector_encoders import FakeSentenceTransformer

Places = dict[str, Path | str]

BASE = {
    "coco": "--source {coco} --word-vectors {vectors}",
    "nus-wide": "--source {nus} --unseen {nus_unseen} --word-vectors {vectors}",
    "open-images": "--source {open_images} --word-vectors {vectors}",
    "voc": "--source {voc} --unseen {voc_unseen} --word-vectors {vectors}",
    "corel5k": "--source {corel} --word-vectors {vectors}",
    "table": "--source {table}/tags.csv --missing drop --word-vectors {vectors}",
    "sample": "--train-images 4 --val-images 3",
    "word-vectors": "--word-vectors {vectors}",
    "combine": "{corel_metadata} {table_metadata}",
}
SHARED = {
    "alias": Effect("--alias sea=night", "content"),
    "alias-file": Effect("--alias-file {aliases}", "content"),
    "encoder": Effect("--encoder sentence-transformers:model", "status", drop="--word-vectors {vectors}"),
    "encoder-prompt": Effect(
        "--encoder-prompt {prompt}", "content", "--encoder sentence-transformers:model", "--word-vectors {vectors}"
    ),
    "extra-words": Effect("--extra-words 2", "content"),
    "extra-words-file": Effect("--extra-words-file {words}", "content"),
    "extra-words-limit": Effect("--extra-words-limit 1", "content", base="--extra-words-file {words}"),
    "forms": Effect("--forms strict", "content", base="--source {table}/plural.csv"),
    "missing": Effect("--missing error", "status", base="--source {table}/plural.csv --forms strict"),
    "official": Effect("--official", "files"),
    "output": Effect("--output {out}/other", "files"),
    "overwrite": Effect("--overwrite", "status", before=""),
    "train-with-unseen": Effect("--train-with-unseen drop", "content"),
    "word-vectors": Effect("--word-vectors {other_vectors}", "content"),
}
VOC_OWN = "--source {voc_own}"
COCO_FILES = "--train {coco_train} --val {coco_val}"
TABLES = {
    "coco": {
        "crowd": Effect("--crowd drop", "content"),
        "images": Effect("--images {coco_images}", "content"),
        "missing-pictures": Effect("--missing-pictures drop", "status", base="--source {coco_without_one}"),
        "seen": Effect("--seen {coco_seen}", "content", base="--unseen {coco_unseen}"),
        "source": Effect("--source {coco_without_one}", "status"),
        "split": Effect("--split 65_15", "content"),
        "test-ids": Effect("--test-ids {coco_ids}", "content"),
        "train": Effect("--train {coco_train_2017}", "content", COCO_FILES, "--source {coco}"),
        "unseen": Effect("--unseen {coco_unseen}", "content"),
        "val": Effect("--val {coco_val_2017}", "content", COCO_FILES, "--source {coco}"),
        "year": Effect("--year 2014", "status", base="--source {coco_of_two_years}"),
    },
    "nus-wide": {
        "images": Effect("--images {nus_images}", "content"),
        "missing-pictures": Effect("--missing-pictures drop", "status", base="--images {nus_images_without_one}"),
        "source": Effect("--source {nowhere}", "status"),
        "unseen": Effect("--unseen {nus_other_unseen}", "content"),
    },
    "open-images": {
        "images": Effect("--images {open_images_files}", "content"),
        "machine-labels": Effect("--machine-labels 0.5", "content"),
        "missing-pictures": Effect("--missing-pictures drop", "status", base="--images {open_images_without_one}"),
        "seen": Effect("--seen {open_images_seen}", "content"),
        "source": Effect("--source {nowhere}", "status"),
        "unseen": Effect("--unseen {open_images_unseen}", "content"),
        "val-part": Effect("--val-part validation", "content"),
    },
    "voc": {
        "classes": Effect("--classes own", "status"),
        "images": Effect("--images {voc_own_images}", "content", VOC_OWN, "--unseen {voc_unseen}"),
        "seed": Effect("--seed 1", "content", VOC_OWN, "--unseen {voc_unseen}"),
        "unseen-fraction": Effect("--unseen-fraction 0.5", "content", VOC_OWN, "--unseen {voc_unseen}"),
        "val-fraction": Effect("--val-fraction 0.5", "content", VOC_OWN, "--unseen {voc_unseen}"),
        "difficult": Effect("--difficult positive", "content"),
        "missing-pictures": Effect("--missing-pictures drop", "status", base="--source {voc_without_one}"),
        "source": Effect("--source {voc_without_one}", "status"),
        "train-set": Effect("--train-set train", "content", base="--year 2007"),
        "unseen": Effect("--unseen {voc_other_unseen}", "content"),
        "val-set": Effect("--val-set val", "content", base="--year 2007 --train-set train"),
        "year": Effect("--year 2007", "content"),
    },
    "corel5k": {
        "source": Effect("--source {nowhere}", "status"),
        "unseen": Effect("--unseen {corel_unseen}", "content"),
    },
    "table": {
        "images": Effect("--images {table_images}", "content"),
        "min-pictures": Effect("--min-pictures 11", "content"),
        "missing-pictures": Effect("--missing-pictures drop", "status", base="--source {table}/missing.csv"),
        "path-column": Effect("--path-column elsewhere", "content"),
        "seed": Effect("--seed 1", "content"),
        "source": Effect("--source {table}/plural.csv", "content"),
        "split-column": Effect("--split-column part", "content"),
        "tag-separator": Effect("--tag-separator none", "status", base="--missing error"),
        "tag-columns": Effect("--tag-columns sea boat night dog", "content", base="--source {table}/one_hot.csv"),
        "tags-column": Effect("--tags-column others", "content"),
        "unseen": Effect("--unseen {table_unseen}", "content"),
        "unseen-fraction": Effect("--unseen-fraction 0.5", "content"),
        "val-fraction": Effect("--val-fraction 0.5", "content"),
    },
    "sample": {
        "seed": Effect("--seed 1", "content"),
        "train-images": Effect("--train-images 5", "content"),
        "val-images": Effect("--val-images 4", "content"),
    },
    "word-vectors": {
        "metadata": Effect("--metadata {corel_metadata}", "status"),
        "tags": Effect("--tags {coco_unseen} --output {out}/words.npy", "status"),
    },
    "combine": {
        "same": Effect("--same jet=cat", "content"),
        "unseen": Effect("--unseen none", "content"),
        "word-vectors": Effect("--word-vectors {other_vectors}", "content"),
    },
}
CASES = [(source, flag) for source, table in TABLES.items() for flag in table] + [("table", flag) for flag in SHARED]
WORDS = {
    *(word for name in COCO_CLASSES for word in name.split()), *VOC_WORDS, *OPEN_IMAGES_WORDS, *TAGS, *CONCEPTS,
    "city", "mountain", "sky", "tree", "cat", "jet", "sea", "night", "dog", "boat", "park", "snow",
}  # fmt: skip
TABLE_TAGS = ["sea", "night", "dog", "boat", "park", "snow", "cat", "tree"]


def commands() -> dict[str, argparse.ArgumentParser]:
    action = next(a for a in prepare_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(action.choices)


def names_of(*settings: type) -> set[str]:
    return {field.name.replace("_", "-") for one in settings for field in fields(one)}


@pytest.mark.parametrize("source", TABLES)
def test_every_flag_has_an_entry(source):
    assert set(SHARED) == names_of(OutputSettings, VectorSettings)
    shared = names_of(OutputSettings) if source == "sample" else set(SHARED)
    assert set(commands()[source].long_flags()) - {"help"} == set(TABLES[source]) | shared


def write_lines(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def write_vectors(path: Path, seed: int) -> Path:
    vectors = np.random.default_rng(seed).normal(size=(len(WORDS), 8)).round(3).tolist()
    rows = zip(sorted(WORDS), vectors, strict=True)
    return write_lines(path, *(f"{word} {' '.join(map(str, vector))}" for word, vector in rows))


def write_corel(folder: Path) -> Path:
    for number in (1000, 1001, 1003, 16001, 16002):
        write_lines(folder / "images" / str(number // 1000 * 1000) / f"{number}.jpeg")
    write_lines(folder / "words", "city", "mountain", "sky", "tree", "cat", "jet")
    write_lines(folder / "training_label", "1000 1 2 3", "1003 4", "16001 5 1")
    write_lines(folder / "test_label", "1001 2 3", "16002 6", "1001 3 4")
    return folder


def write_tables(folder: Path) -> Path:
    """``tags.csv``, one with a tag that has no vector but a singular, and one with an image that is not there."""
    rows = []
    for number in range(60):
        tags = [TABLE_TAGS[number % 8], TABLE_TAGS[(number * 3 + 1) % 8]]
        if number >= 40:  # the first six tags have more images
            tags = TABLE_TAGS[number % 5 :][:2]
        part = "val" if number % 3 == 0 else "train"
        rows.append((f"{number}.jpg", f"b/{number}.jpg", ",".join(tags), TABLE_TAGS[number * 5 % 8], part))
        for name in rows[-1][:2]:
            write_lines(folder / name)
    header = "path,elsewhere,tags,others,part"
    lines = [f'{path},{elsewhere},"{tags}",{others},{part}' for path, elsewhere, tags, others, part in rows]
    write_lines(folder / "tags.csv", header, *lines)
    write_lines(folder / "plural.csv", header, *(line.replace("boat", "boats") for line in lines))
    shown = [[str(int(tag in tags.split(","))) for tag in TABLE_TAGS] for _, _, tags, _, _ in rows]
    one_hot = [",".join([path, *flags]) for (path, *_), flags in zip(rows, shown, strict=True)]
    write_lines(folder / "one_hot.csv", ",".join(["path", *TABLE_TAGS]), *one_hot)
    write_lines(folder / "missing.csv", header, *lines, "gone.jpg,gone.jpg,sea,sea,train")
    return folder


def _coco_places(home: Path) -> Places:
    """Write folders of COCO."""
    places: Places = {}
    places["coco"] = make_source(home / "coco")
    write_instances(instances(home / "coco", "train"), IMAGES["train"], release="train2014", crowd_every=2)
    places["coco_without_one"] = make_source(home / "coco_without_one")
    next((home / "coco_without_one").rglob("*.jpg")).unlink()
    places["coco_of_two_years"] = make_source(make_source(home / "coco_of_two_years"), 2017)
    for part in ("train", "val"):
        places[f"coco_{part}_2017"] = instances(home / "coco_of_two_years", part, 2017)
    places["coco_images"] = make_source(home / "coco_images")
    places["coco_train"], places["coco_val"] = (instances(home / "coco", part) for part in ("train", "val"))
    places["coco_unseen"] = write_lines(home / "coco_unseen", "cat", "dog")
    places["coco_seen"] = write_lines(home / "coco_seen", "person", "bicycle")
    places["coco_ids"] = write_lines(home / "coco_ids", "42", "74")
    return places


def _nus_wide_places(home: Path) -> Places:
    """Write folders of NUS-WIDE."""
    places: Places = {}
    places["nus"] = Distribution().write(home / "nus")
    for name in (*TRAIN, *TEST):
        for copy in ("nus_images", "nus_images_without_one"):
            places[copy] = home / copy
            write_lines(home / copy / name)
    (home / "nus_images_without_one" / TRAIN[0]).unlink()
    places["nus_unseen"] = write_lines(home / "nus_unseen", "sky", "zebra")
    places["nus_other_unseen"] = write_lines(home / "nus_other_unseen", "sky", "cat")
    return places


def _open_images_places(home: Path) -> Places:
    """Write folders of Open Images."""
    places: Places = {}
    places["open_images"] = write_classes(home / "open_images")
    write_rows(home / "open_images" / file_of("train"), OPEN_IMAGES_TRAIN)
    write_rows(home / "open_images" / file_of("train", "machine"), [(0xA1, "/m/0bt9lr", "0.7")])
    write_rows(home / "open_images" / file_of("test"), VAL)
    write_rows(home / "open_images" / file_of("test", "machine"), [(0xBB, "/m/01yrx", "0.7")])
    write_rows(home / "open_images" / file_of("validation"), VAL[:3])
    for image in {row[0] for row in (*OPEN_IMAGES_TRAIN, *VAL)}:
        for copy in ("open_images_files", "open_images_without_one"):
            places[copy] = home / copy
            write_lines(home / copy / f"{image:016x}.jpg")
    (home / "open_images_without_one" / f"{0xA1:016x}.jpg").unlink()
    places["open_images_seen"] = write_lines(home / "open_images_seen", "/m/0bt9lr", "/m/01h44")
    places["open_images_unseen"] = write_lines(home / "open_images_unseen", "/m/01yrx", "/m/06rrc")
    return places


def _voc_places(home: Path) -> Places:
    """Write folders of VOC."""
    places: Places = {}
    for name in ("voc", "voc_without_one"):
        places[name] = home / name
        for year in (2007, 2012):
            write_year(home / name / f"VOC{year}", year, seed=year)
    next((home / "voc_without_one").rglob("*.jpg")).unlink()
    places["voc_unseen"] = write_lines(home / "voc_unseen", "cat", "cow")
    places["voc_other_unseen"] = write_lines(home / "voc_other_unseen", voc.CLASSES[0], voc.CLASSES[2])
    for number in range(20):
        classes = (voc.CLASSES[number % 6], voc.CLASSES[number * 5 % 7])
        objects = "".join(f"<object><name>{name}</name></object>" for name in classes)
        write_lines(home / "voc_own" / f"{number}.xml", f"<annotation>{objects}</annotation>")
        for folder in ("voc_own", "voc_own_images"):
            write_lines(home / folder / f"{number}.jpg")
    places["voc_own"], places["voc_own_images"] = home / "voc_own", home / "voc_own_images"
    return places


def _table_places(home: Path, vectors: Path) -> Places:
    """Write folders of Corel5k and tables."""
    places: Places = {}
    places["corel"] = write_corel(home / "corel")
    places["corel_unseen"] = write_lines(home / "corel_unseen", "jet", "sky")
    places["corel_metadata"] = home / "corel_metadata"
    prepare_data.main(
        ["corel5k", "--source", str(places["corel"]), "--output", str(home / "corel_metadata"), "--word-vectors",
         str(vectors)]
    )  # fmt: skip
    places["table"] = write_tables(home / "table")
    places["table_metadata"] = home / "table_metadata"
    prepare_data.main(
        ["table", "--source", str(home / "table" / "tags.csv"), "--output", str(home / "table_metadata"),
         "--word-vectors", str(vectors)]
    )  # fmt: skip
    places["table_images"] = write_tables(home / "table_images")
    places["table_unseen"] = write_lines(home / "table_unseen", "sea", "cat")
    return places


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Places:
    """The files that the flags in the tables name."""
    home = tmp_path_factory.mktemp("places")
    vectors = write_vectors(home / "vectors.txt", seed=0)
    return {
        "nowhere": home / "nowhere",
        "prompt": "photo:{}",
        "vectors": vectors,
        "other_vectors": write_vectors(home / "other_vectors.txt", seed=1),
        "aliases": write_lines(home / "aliases", "sea=night"),
        "words": write_lines(home / "words", "city", "jet", "mountain sky"),
        **_coco_places(home),
        **_nus_wide_places(home),
        **_open_images_places(home),
        **_voc_places(home),
        **_table_places(home, vectors),
    }


@pytest.fixture(scope="module")
def run(places, tmp_path_factory):
    """Observe a run for a source with these flags; equal runs are made once."""
    seen: dict[tuple[str | None, ...], dict[str, Any]] = {}

    def observed(source: str, flags: str, before: str | None = None, drop: str | None = None) -> dict[str, Any]:
        key = (source, flags, before, drop)
        if key not in seen:
            out = tmp_path_factory.mktemp("out")
            own = f"{source} --output {{out}}/m {BASE[source]}"
            for more in (flags,) if before is None else (before, flags):
                words = (own if drop is None else own.replace(drop, "")).split() + more.split()
                seen[key] = observe(prepare_data.main, [word.format(**places, out=out) for word in words], out)
        return seen[key]

    with pytest.MonkeyPatch.context() as patch:
        fake = SimpleNamespace(SentenceTransformer=FakeSentenceTransformer)
        patch.setitem(sys.modules, "sentence_transformers", fake)
        yield observed


@pytest.mark.parametrize(("source", "flag"), CASES)
def test_flag_has_an_effect(source, flag, run):
    effect = TABLES[source].get(flag) or SHARED[flag]
    before = None if effect.before is None else f"{effect.base} {effect.before}"
    without = run(source, effect.base, before, effect.drop)
    with_flag = run(source, f"{effect.base} {effect.flags}", before, effect.drop)
    if effect.changes != "status":
        assert with_flag["status"] == without["status"] == (0, [])
    assert with_flag[effect.changes] != without[effect.changes]
    assert (0, []) in (with_flag["status"], without["status"])


@pytest.mark.parametrize("source", [source for source in TABLES if source != "word-vectors"])
def test_equal_runs_are_observed_alike(source, run):
    assert run(source, " ") == run(source, "  ")


ALL_SEEN = [
    *(
        (source, BASE[source].replace("{voc_unseen}", "{voc_other_unseen}"), "--unseen none")
        for source in TABLES
        if "unseen" in TABLES[source]
    ),
    ("table", BASE["table"], "--unseen-fraction 0"),
    ("voc", VOC_OWN + " --word-vectors {vectors}", "--unseen none"),
    ("voc", VOC_OWN + " --word-vectors {vectors}", "--unseen-fraction 0"),
]


@pytest.mark.parametrize(("source", "base", "flags"), ALL_SEEN, ids=lambda words: words.split()[0])
def test_no_label_is_held_out_or_hidden(source, base, flags, places, tmp_path):
    found = []
    for name, more in (("some", ""), ("none", flags)):
        words = [word.format(**places) for word in f"{source} {base} {more}".split()]
        assert prepare_data.main([*words, "--output", str(tmp_path / name)]) == 0
        metadata = load_metadata(tmp_path / name)
        targets = read_coco_labels(metadata.train, metadata.split.labels).targets
        found.append((metadata.split, dict(zip(metadata.split.labels, targets.positives_per_label(), strict=True))))
    (some, before), (none, after) = found
    assert some.unseen
    assert (none.unseen, none.seen) == ((), tuple(range(len(none.labels))))
    if source == "open-images":  # the unseen classes have a list of their own
        assert len(none.labels) == len(some.seen)
    else:
        assert none.labels == some.labels
    if source not in ("open-images", "combine"):  # a combination knows no more than its folders, which hid these
        assert any(after[label] > before[label] for label in some.names(some.unseen))
    assert all(after[label] == before[label] for label in some.names(some.seen) if label in after)
