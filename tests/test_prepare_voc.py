"""Pascal VOC: small folders of the true form, against a plain parse of every file."""

import random
from pathlib import Path
from xml.etree import ElementTree

import pytest

from src.data.coco import read_coco_labels
from src.data.metadata import load_metadata
from src.data.parts import load_evaluation_set, load_training_set
from src.errors import UserError
from src.prepare import voc
from src.prepare.voc_files import read_objects
from tests.prepare_helpers import prepare_source

WORDS = [word for name in voc.CLASSES for word in voc.TEXTS.get(name, name).split()]
OBJECT = """\t<object>
\t\t<name>{name}</name>
\t\t<pose>Frontal</pose>
\t\t<truncated>1</truncated>
\t\t<difficult>{difficult}</difficult>
\t\t<bndbox>
\t\t\t<xmin>141</xmin>
\t\t</bndbox>{parts}
\t</object>
"""
PART = "\n\t\t<part>\n\t\t\t<name>head</name>\n\t\t\t<difficult>9</difficult>\n\t\t</part>"
ANNOTATION = """<annotation>
\t<folder>{year}</folder>
\t<filename>{number}.jpg</filename>
\t<owner>
\t\t<name>the name of whoever took it &amp; friends</name>
\t</owner>
{objects}</annotation>
"""


def annotate(folder: Path, number: str, *objects: tuple[str, int]) -> None:
    """Write an image and its annotation; the objects are (name, difficult)."""
    text = "".join(
        OBJECT.format(name=name, difficult=difficult, parts=PART if name == "person" else "")
        for name, difficult in objects
    )
    for part, suffix, content in (
        ("Annotations", "xml", ANNOTATION.format(year=folder.name, number=number, objects=text)),
        ("JPEGImages", "jpg", ""),
    ):
        (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / part / f"{number}.{suffix}").write_text(content)


def write_lists(folder: Path, **ids: list[str]) -> None:
    main = folder / "ImageSets" / "Main"
    main.mkdir(parents=True, exist_ok=True)
    for name, listed in ids.items():
        (main / f"{name}.txt").write_text("".join(f"{number}\n" for number in listed))
    (main / "cat_train.txt").write_text("000005 -1\n")


def write_year(folder: Path, year: int, seed: int = 0) -> Path:
    """Twelve images of drawn objects: five train, three val, four test (which 2012 lists without annotations)."""
    chance = random.Random(seed)
    ids = [f"{number:06d}" if year == 2007 else f"20{number % 5 + 8:02d}_{number:06d}" for number in range(5, 17)]
    for number in ids if year == 2007 else ids[:8]:
        drawn = [(chance.choice(voc.CLASSES[::2]), int(chance.random() < 0.4)) for _ in range(chance.randrange(1, 7))]
        annotate(folder, number, *drawn)
    write_lists(folder, train=ids[:5], val=ids[5:8], trainval=ids[:8], test=ids[8:])
    return folder


@pytest.fixture
def devkit(tmp_path):
    for year in (2007, 2012):
        write_year(tmp_path / "VOCdevkit" / f"VOC{year}", year, seed=year)
    return tmp_path / "VOCdevkit"


def prepare(source: Path, *flags: object, unseen: str | None = "cat\ncow\n") -> list[str]:
    """Make the folder ``m`` beside ``source``: the report."""
    beside = source.parent
    (beside / "vectors.txt").write_text("".join(f"{word} 1 {row} {row * row}\n" for row, word in enumerate(WORDS)))
    arguments = ["--source", source, "--output", beside / "m", "--word-vectors", beside / "vectors.txt", *flags]
    if unseen is not None:
        (beside / "unseen.txt").write_text(unseen)
        arguments += ["--unseen", beside / "unseen.txt"]
    return prepare_source("voc", *arguments)


def made(source: Path, part: str) -> dict[str, list[int]]:
    """File name -> labels of a part of the folder that was made."""
    metadata = load_metadata(source.parent / "m")
    images = read_coco_labels(getattr(metadata, part), voc.CLASSES)
    assert len(set(images.image_ids)) == len(images)
    return dict(zip(images.file_names, images.targets.dense().tolist(), strict=True))


def plainly_parsed(folder: Path, listed: str, difficult: int) -> dict[str, list[int]]:
    expected = {}
    for number in (folder / "ImageSets" / "Main" / f"{listed}.txt").read_text().split():
        row = [0] * 20
        for entry in ElementTree.parse(folder / "Annotations" / f"{number}.xml").getroot().findall("object"):
            column = voc.CLASSES.index(entry.findtext("name"))
            if entry.findtext("difficult") == "0":
                row[column] = 1
            elif row[column] == 0:
                row[column] = difficult
        expected[f"{folder.name}/JPEGImages/{number}.jpg"] = row
    return expected


def without_unseen(labels: dict[str, list[int]]) -> dict[str, list[int]]:
    """Labels as training sees them: cat and cow are hidden."""
    return {
        name: [0 if column in (7, 9) else value for column, value in enumerate(row)] for name, row in labels.items()
    }


@pytest.mark.parametrize(("difficult", "value"), [("unknown", -1), ("positive", 1), ("negative", 0)])
def test_labels_are_those_of_a_plain_parse_of_both_years(devkit, difficult, value):
    report = prepare(devkit, "--difficult", difficult)
    old, new = devkit / "VOC2007", devkit / "VOC2012"
    train = plainly_parsed(old, "trainval", value) | plainly_parsed(new, "train", value)
    val = plainly_parsed(old, "test", value) | plainly_parsed(new, "val", value)
    assert made(devkit, "train") == without_unseen(train)
    assert made(devkit, "val") == val
    assert report[0] == "voc2007_2012_18_2: 18 seen and 2 unseen labels"
    doubtful = sum(row.count(-1) for row in (plainly_parsed(old, "test", -1) | plainly_parsed(new, "val", -1)).values())
    assert doubtful > 0
    expected = f"val: {doubtful} labels taken as {difficult}, as all objects of that class are difficult"
    assert expected in report


@pytest.mark.parametrize(
    ("mark", "is_difficult"),
    [
        *((mark, False) for mark in ("Unspecified", "", "maybe", " 0 ", "x" * 5000, "0.0", "-1x")),
        *((mark, True) for mark in ("1", " TRUE\n", "yes", "2", "1.0")),
    ],
)
def test_marks_of_objects(tmp_path, mark, is_difficult):
    path = tmp_path / "a.xml"
    others = "<pose>Unspecified</pose><truncated>Unspecified</truncated><occluded/><bndbox></bndbox>"
    path.write_text(f"<annotation><object><name>cat</name>{others}<difficult>{mark}</difficult></object></annotation>")
    assert read_objects(path, {"cat": 0}) == [(0, is_difficult)]


def test_an_object_that_is_not_marked_is_not_difficult(tmp_path):
    objects = "<object><name>cat</name><difficult>1</difficult></object><object><name> dog\n</name></object>"
    (tmp_path / "1.xml").write_text(f"<annotation>{objects}</annotation>")
    assert read_objects(tmp_path / "1.xml", {"cat": 0, "dog": 1}) == [(0, True), (1, False)]


def test_content_of_the_folder(devkit):
    prepare(devkit, "--year", "2007")
    metadata = load_metadata(devkit.parent / "m")
    assert metadata.split.labels == voc.CLASSES
    assert metadata.split.names(metadata.split.unseen) == ["cat", "cow"]
    assert metadata.image_root == devkit
    assert read_coco_labels(metadata.val, voc.CLASSES).image_ids == (13, 14, 15, 16)
    assert len(load_training_set(metadata, None).paths) > 0
    assert load_evaluation_set(metadata, None).paths[0] == devkit / "VOC2007" / "JPEGImages" / "000013.jpg"


def test_classes_that_only_voc_spells_so_have_the_vectors_of_their_words(devkit):
    report = prepare(devkit)
    [line] = [line for line in report if line.startswith("word vectors found under another form")]
    assert all(name in line for name in ("diningtable", "pottedplant", "tvmonitor"))


@pytest.mark.parametrize(("source", "prefix"), [("", "VOC2007/"), ("VOC2007", ""), ("..", "VOCdevkit/VOC2007/")])
def test_the_source_may_be_the_year_or_anything_that_holds_it(devkit, source, prefix):
    given = devkit / source
    prepare(given, "--year", "2007")
    assert set(made(given, "val")) == {f"{prefix}JPEGImages/{number:06d}.jpg" for number in range(13, 17)}


def test_archives_that_were_unpacked_apart(tmp_path):
    """Both have a folder VOC2007, with lists, annotations and images of its own."""
    whole = write_year(tmp_path / "whole" / "VOC2007", 2007)
    for archive, lists, numbers in (
        ("trainval", ["train", "val", "trainval"], range(5, 13)),
        ("test", ["test"], range(13, 17)),
    ):
        folder = tmp_path / "all" / f"VOC{archive}_06-Nov-2007" / "VOCdevkit" / "VOC2007"
        for name, suffix in (("Annotations", "xml"), ("JPEGImages", "jpg")):
            (folder / name).mkdir(parents=True)
            for number in numbers:
                content = (whole / name / f"{number:06d}.{suffix}").read_bytes()
                (folder / name / f"{number:06d}.{suffix}").write_bytes(content)
        write_lists(folder, **{name: (whole / f"ImageSets/Main/{name}.txt").read_text().split() for name in lists})
    prepare(tmp_path / "all")
    expected = plainly_parsed(whole, "test", -1)
    prefix = "VOCtest_06-Nov-2007/VOCdevkit/"
    assert made(tmp_path / "all", "val") == {prefix + name: row for name, row in expected.items()}
    assert len(made(tmp_path / "all", "train")) == 8


@pytest.mark.parametrize(
    ("year", "flags", "expected"),
    [
        (2007, (None, None), {"train": "trainval", "val": "test"}),
        (2007, (None, "val"), {"train": "train", "val": "val"}),
        (2007, ("train", None), {"train": "train", "val": "test"}),
        (2007, ("train", "val"), {"train": "train", "val": "val"}),
        (2007, ("trainval", "test"), {"train": "trainval", "val": "test"}),
        (2012, (None, None), {"train": "train", "val": "val"}),
        (2012, ("train", None), {"train": "train", "val": "val"}),
        (2012, ("trainval", None), {"train": "trainval"}),
        (2012, ("train", "test"), {"train": "train"}),
        (2012, (None, "test"), {"train": "trainval"}),
        (2012, (None, "val"), {"train": "train", "val": "val"}),
    ],
)
def test_which_lists_are_used(devkit, year, flags, expected):
    """2012 lists test images, but there are no annotations of them."""
    lists, notes = voc._sets(year, [devkit / f"VOC{year}"], *flags)
    assert lists == expected
    assert (f"VOC{year}: its test set has no public annotations" in notes) == (year == 2012 and flags[1] != "val")
    assert (f"VOC{year}: used for training alone" in notes) == ("val" not in expected)


def test_a_year_without_its_test_set_is_divided_into_train_and_val(devkit):
    (devkit / "VOC2007" / "ImageSets" / "Main" / "test.txt").unlink()
    report = prepare(devkit, "--year", "2007")
    assert (len(made(devkit, "train")), len(made(devkit, "val"))) == (5, 3)
    assert "VOC2007: has no list of test images" in report


def test_the_report_compares_with_the_published_numbers(devkit, monkeypatch):
    monkeypatch.setitem(voc.PUBLISHED[2007], "test", 4)
    main = devkit / "VOC2007" / "ImageSets" / "Main"
    (main / "test.txt").write_text("\ufeff000013\r\n000014\r\n000013\r\n000015\r\n\r\n000016\r\n", encoding="utf-8")
    report = prepare(devkit, "--year", "2007")
    assert "train: VOC2007 trainval lists 8 images, not 5,011 as published" in report
    assert "val: VOC2007 test lists 4 images, as published" in report
    assert "val: VOC2007 test repeats 1 lines, which count once" in report
    assert len(made(devkit, "val")) == 4


def test_images_that_are_not_there_may_be_left_out(devkit):
    (devkit / "VOC2007" / "JPEGImages" / "000014.jpg").unlink()
    with pytest.raises(UserError, match=r"--source .*: 1 of the 4 images of VOC2007 test .*--missing-pictures drop"):
        prepare(devkit, "--year", "2007")
    report = prepare(devkit, "--year", "2007", "--missing-pictures", "drop")
    expected = plainly_parsed(devkit / "VOC2007", "test", -1)
    del expected["VOC2007/JPEGImages/000014.jpg"]
    assert made(devkit, "val") == expected
    assert "left out 1 images of VOC2007 test that are not on disk, listed in missing_pictures.txt" in report
    assert (devkit.parent / "m" / "missing_pictures.txt").read_text() == "VOC2007/JPEGImages/000014.jpg\n"


def test_unseen_classes_are_needed_before_annotations_are_read(devkit):
    for path in devkit.rglob("*.xml"):
        path.unlink()
    with pytest.raises(UserError, match="--unseen is needed") as caught:
        prepare(devkit, unseen=None)
    assert ", ".join(voc.CLASSES) in str(caught.value)


def xml(text: str, number: str = "000014"):
    return lambda devkit: (devkit / "VOC2007" / "Annotations" / f"{number}.xml").write_text(text)


def listed(name: str, text: str):
    return lambda devkit: (devkit / "VOC2007" / "ImageSets" / "Main" / f"{name}.txt").write_text(text)


def nothing(devkit):
    pass


def move(old: str, new: str):
    def rename(devkit):
        (devkit / new).parent.mkdir(parents=True, exist_ok=True)
        (devkit / old).rename(devkit / new)

    return rename


BOMB = '<!DOCTYPE annotation [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><annotation><object>&b;</object></annotation>'


@pytest.mark.parametrize(
    ("damage", "flags", "words"),
    [
        (xml("<annotation>\n<object>\n<name>ca"), [], ["000014.xml", "not complete XML", "line 3"]),
        (xml(""), [], ["000014.xml", "not complete XML", "no element found"]),
        (xml('<?xml version="1.0" encoding="foo"?><annotation/>'), [], ["000014.xml", "not complete XML", "encoding"]),
        (xml('<?xml version="1.0" encoding="utf-7"?><annotation/>'), [], ["000014.xml", "not complete XML", "encod"]),
        (xml(BOMB), [], ["000014.xml", "document type"]),
        (xml("<kml></kml>"), [], ["000014.xml", "no annotation of VOC", "<kml>"]),
        (xml(ANNOTATION.format(year=1, number=1, objects=OBJECT.format(name="unicorn", difficult=0, parts=""))), [],
         ["000014.xml", "'unicorn'", "none of VOC's 20 classes"]),
        (xml("<annotation><object><pose>Left</pose></object></annotation>"), [], ["000014.xml", "name is ''"]),
        (lambda devkit: (devkit / "VOC2007/Annotations/000015.xml").unlink(), [],
         ["1 of the 4 images of VOC2007 test", "no XML file", "(000015)"]),
        (move("VOC2007/JPEGImages", "photos"), [], ["8 of the 8 images of VOC2007 trainval", "000005.jpg"]),
        (move("VOC2007/JPEGImages", "photos"), ["--missing-pictures", "drop"], ["8 of the 8 images"]),
        (listed("trainval", "000005\n000006  1\n"), [], ["trainval.txt, line 2", "'000006  1'", "no image id"]),
        (listed("test", "2008_000005\n"), [], ["test.txt, line 1", "'2008_000005'"]),
        (listed("test", "\n\n"), [], ["test.txt", "lists no image"]),
        (listed("test", "000014\n000005\n000006\n"), [], ["--val-set test", "share 2 images (000005, 000006)"]),
        (nothing, ["--train-set", "trainval", "--val-set", "val"], ["share 3 images", "(000010, 000011, 000012)"]),
        (move("VOC2007/ImageSets/Main/trainval.txt", "x"), [], ["--train-set", "no ImageSets/Main/trainval.txt"]),
        (move("VOC2007/ImageSets/Main/test.txt", "x"), ["--val-set", "test"], ["--val-set test", "Main/test.txt"]),
        (nothing, ["--year", 2012, "--train-set", "trainval"], ["--val-set", "nothing to validate on", "VOC2012"]),
        (nothing, ["--year", 2012, "--val-set", "test"], ["--val-set", "nothing to validate on"]),
        (lambda devkit: write_year(devkit / "copy" / "VOC2007", 2007), [], ["two such lists", "copy/VOC2007"]),
        (move("VOC2007", "voc"), [], ["VOCdevkit/voc", "rename the folder to VOC2007 or VOC2012"]),
        (move("VOC2007", "../elsewhere"), [], ["--year 2007", "which holds", "VOC2012"]),
        (move("VOC2007/ImageSets", "sets"), [], ["--year 2007", "VOC2012"]),
    ],
)  # fmt: skip
def test_faults_are_reported_and_nothing_is_written(devkit, damage, flags, words):
    damage(devkit)
    with pytest.raises(UserError) as caught:
        prepare(devkit, *([] if "--year" in flags else ["--year", 2007]), *flags)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)
    assert not [path for path in devkit.parent.iterdir() if path.name.startswith((".", "m"))]


def test_other_folders_are_refused(tmp_path, devkit):
    with pytest.raises(UserError, match=r"--source .*gone: no such folder"):
        prepare(tmp_path / "gone")
    (tmp_path / "photos" / "a").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no folder in it has ImageSets/Main, .* no XML file.* give VOCdevkit"):
        prepare(tmp_path / "photos")
    with pytest.raises(UserError, match=r"--unseen .*: no such label: unicorn"):
        prepare(devkit, unseen="unicorn\ncat\n")
