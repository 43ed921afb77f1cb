"""Annotations of your own in Pascal VOC's form: every layout of the usual tools, and hostile XML."""

from __future__ import annotations

import random
import resource
from contextlib import suppress
from pathlib import Path

import pytest

from src.data.coco import read_coco_labels
from src.data.metadata import load_metadata
from src.errors import UserError
from src.prepare.voc_files import read_objects
from src.prepare.voc_xml import NoAnnotationError, read_annotation
from tests.prepare_helpers import prepare_source

WORDS = ["helmet", "vest", "cat", "dog", "traffic", "light"]
CLASSES = ["helmet", "vest", "cat", "traffic light"]
CHANCE = random.Random(2)
TRUTH = {f"site_{number}": sorted(CHANCE.sample(CLASSES, CHANCE.randrange(1, 4))) for number in range(12)}


def xml(*objects: str, file_name: str = "", prolog: str = "") -> str:
    entries = "".join(f"<object>{one if one.startswith('<') else f'<name>{one}</name>'}</object>" for one in objects)
    return f"{prolog}<annotation>{f'<filename>{file_name}</filename>' if file_name else ''}{entries}</annotation>"


def put(path: Path, content: str | bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.fixture
def home(tmp_path):
    put(tmp_path / "vectors.txt", "".join(f"{word} 1 {row} {row * row}\n" for row, word in enumerate(WORDS)))
    put(tmp_path / "unseen.txt", "cat\n")
    return tmp_path


def prepare(home: Path, *flags: object) -> list[str]:
    unseen = [] if {"--unseen-fraction", "--unseen"} & set(flags) else ["--unseen", home / "unseen.txt"]
    common = ["--source", home / "data", "--output", home / "m", "--word-vectors", home / "vectors.txt"]
    return prepare_source("voc", *common, *unseen, *flags)


def made(home: Path) -> dict[str, tuple[str, dict[str, int]]]:
    """Stem of an image -> (part, label -> value); unseen labels of training images are hidden."""
    metadata = load_metadata(home / "m")
    found = {}
    for part in ("train", "val"):
        images = read_coco_labels(getattr(metadata, part), metadata.split.labels)
        for name, row in zip(images.file_names, images.targets.dense().tolist(), strict=True):
            assert (metadata.image_root / name).is_file()
            found[Path(name).stem] = (part, dict(zip(metadata.split.labels, row, strict=True)))
    return found


def check(home: Path, truth: dict[str, list[str]], val: set[str] | None = None) -> None:
    found = made(home)
    assert found.keys() == truth.keys()
    for stem, (part, labels) in found.items():
        expected = {label: int(label in truth[stem] and (label != "cat" or part == "val")) for label in labels}
        assert labels == expected, stem
        assert val is None or (part == "val") == (stem in val)


VAL = {stem for number, stem in enumerate(TRUTH) if number % 3 == 0}


def flat(home: Path) -> None:
    for stem, names in TRUTH.items():
        put(home / "data" / f"{stem}.xml", xml(*names, file_name=f"{stem}.png"))
        put(home / "data" / f"{stem}.png")


def roboflow(home: Path) -> None:
    for stem, names in TRUTH.items():
        folder = home / "data" / ("valid" if stem in VAL else "train")
        put(folder / f"{stem}.xml", xml(*names, file_name=f"{stem}.jpg"))
        put(folder / f"{stem}.jpg")


def cvat(home: Path) -> None:
    """Sub-folders in both trees, <filename> with the path, an own list."""
    for stem, names in TRUTH.items():
        put(home / "data" / "Annotations" / "day 1" / f"{stem}.xml", xml(*names, file_name=f"day 1/{stem}.JPG"))
        put(home / "data" / "JPEGImages" / "day 1" / f"{stem}.JPG")
    lists(home / "data", "day 1/", suffix=".JPG")


def voc_layout(home: Path, names: tuple[str, str] = ("train", "val"), year: str = "VOC2007") -> None:
    root = home / "data" / year
    for stem, objects in TRUTH.items():
        put(root / "Annotations" / f"{stem}.xml", xml(*objects, file_name="C:\\other\\old name.jpg"))
        put(root / "JPEGImages" / f"{stem}.jpg")
    lists(root, names=names)


def lists(root: Path, prefix: str = "", suffix: str = "", names: tuple[str, str] = ("train", "val")) -> None:
    for name, stems in zip(names, (TRUTH.keys() - VAL, VAL), strict=True):
        put(root / "ImageSets" / "Main" / f"{name}.txt", "\r\n".join(f"{prefix}{stem}{suffix}" for stem in stems))


def by_filename(home: Path) -> None:
    """Annotations that are not named after their image."""
    for number, (stem, names) in enumerate(TRUTH.items()):
        put(home / "data" / "xml" / f"{number}.xml", xml(*names, file_name=f"D:\\work\\images\\{stem}.jpg"))
        put(home / "data" / "images" / f"{stem}.jpg")


@pytest.mark.parametrize(
    ("write", "val"),
    [
        (flat, None), (roboflow, VAL), (cvat, VAL), (by_filename, None), (voc_layout, VAL),
        (lambda home: voc_layout(home, ("trainval", "test")), VAL),
        (lambda home: voc_layout(home, ("train", "test"), "2012"), VAL),
        (lambda home: voc_layout(home, year="no year"), VAL),
    ],
    ids=["LabelImg", "Roboflow", "CVAT", "filename", "VOC", "VOC, trainval and test", "VOC, train and test", "no year"],
)  # fmt: skip
def test_layouts_of_the_usual_tools(home, write, val):
    write(home)
    prepare(home)
    assert load_metadata(home / "m").split.labels == tuple(sorted(CLASSES))
    check(home, TRUTH, val)


def test_classes_and_images_are_chosen_as_for_tables(home):
    flat(home)
    report = prepare(home, "--unseen-fraction", 0.25, "--val-fraction", 0.5, "--seed", 3)
    assert len(load_metadata(home / "m").split.unseen) == 1
    assert sum(part == "val" for part, _ in made(home).values()) == 6
    assert "chose 6 images for validation (--val-fraction 0.5, --seed 3)" in report


def test_images_in_another_folder(home):
    flat(home)
    for stem in TRUTH:
        (home / "photos").mkdir(exist_ok=True)
        (home / "data" / f"{stem}.png").rename(home / "photos" / f"{stem}.png")
    with pytest.raises(UserError, match=r"12 of the 12 images of .* are not there"):
        prepare(home)
    prepare(home, "--images", home / "photos")
    check(home, TRUTH)


def test_the_nearest_image_of_the_same_name_counts(home):
    flat(home)
    put(home / "data" / "thumbs" / "site_0.png")
    report = prepare(home)
    check(home, TRUTH)
    assert load_metadata(home / "m").image_root == home / "data"
    put(home / "data" / "site_0.jpg")
    (home / "data" / "site_0.xml").write_text(xml("cat", file_name="x.gif"))
    with pytest.raises(UserError, match=r"site_0\..* and site_0\..* could both be the image of site_0\.xml"):
        prepare(home, "--overwrite")
    assert not any("another <filename>" in line for line in report)


def test_another_filename_does_not_count_and_is_reported(home):
    voc_layout(home)
    report = prepare(home)
    assert any(line.startswith("12 annotations have another <filename>") for line in report)


def test_difficult_objects(home):
    flat(home)
    hard = "<name>vest</name><difficult>1</difficult>"
    for text in (xml(hard, "helmet"), xml(hard, "helmet", "vest")):
        put(home / "data" / "site_0.xml", text)
        for choice, value in (("unknown", -1), ("positive", 1), ("negative", 0)):
            prepare(home, "--difficult", choice, "--overwrite")
            labels = made(home)["site_0"][1]
            assert (labels["helmet"], labels["vest"]) == (1, value if text == xml(hard, "helmet") else 1)


def test_own_classes_among_ids_like_those_of_voc(home):
    root = home / "data" / "VOC2007"
    ids = [f"{number:06d}" for number in range(6)]
    for number, name in enumerate(ids):
        put(root / "Annotations" / f"{name}.xml", xml(("helmet", "vest", "cat")[number % 3]))
        put(root / "JPEGImages" / f"{name}.jpg")
    put(root / "ImageSets/Main/trainval.txt", "\n".join(ids[:3]))
    put(root / "ImageSets/Main/test.txt", "\n".join(ids[3:]))
    prepare(home)
    assert load_metadata(home / "m").split.labels == ("cat", "helmet", "vest")
    for name in ids[1::3]:  # now most classes are those of VOC: a stranger is a fault
        put(root / "Annotations" / f"{name}.xml", xml("dog"))
    with pytest.raises(UserError, match=r"'helmet', which is none of VOC's 20 classes; .* give --classes own"):
        prepare(home, "--overwrite")
    prepare(home, "--overwrite", "--classes", "own")
    assert load_metadata(home / "m").split.labels == ("cat", "dog", "helmet")


@pytest.mark.parametrize(
    ("change", "flags", "words"),
    [
        (lambda home: None, ["--year", 2007], ["no folder in it has ImageSets/Main"]),
        (lambda home: None, ["--year", 2007, "--classes", "own"], ["--year is about VOC 2007"]),
        (lambda home: None, ["--val-set", "val"], ["--val-set val", "has ImageSets/Main/val.txt"]),
        (lambda home: put(home / "data/ImageSets/Main/train.txt", "site_0\n"), [], ["--val-set", "neither a list val"]),
        (lambda home: [lists(home / "data"), put(home / "data/ImageSets/Main/val.txt", "gone\n")], [],
         ["val.txt: 1 of the 1 images", "(gone)"]),
        (lambda home: lists(home / "data"), ["--val-fraction", 0.5], ["--val-fraction 0.5", "lists or folders"]),
        (lambda home: [lists(home / "data"), put(home / "data/ImageSets/Main/val.txt", "site_1\n")], [],
         ["share 1 images (site_1)"]),
        (lambda home: put(home / "unseen.txt", "car\n"), [], ["--unseen", "no such tag: car"]),
        (lambda home: put(home / "data/site_3.xml", "<annotation><object>"), [], ["site_3.xml: is not complete XML"]),
        (lambda home: put(home / "data/site_3.xml", xml("<pose>up</pose>")), [], ["site_3.xml: an object's name is"]),
    ],
)  # fmt: skip
def test_faults_are_named_and_nothing_is_written(home, change, flags, words):
    flat(home)
    change(home)
    with pytest.raises(UserError) as caught:
        prepare(home, *flags)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)
    assert not (home / "m").exists()


def test_other_xml_files_are_passed_over(home):
    flat(home)
    put(home / "data" / "annotations.xml", "<annotations><image/></annotations>")
    report = prepare(home)
    check(home, TRUTH)
    assert "passed over 1 XML files that are no annotations: annotations.xml" in report


@pytest.mark.parametrize("flag", ["--val-fraction", "--unseen-fraction", "--seed", "--images"])
def test_flags_of_own_annotations_do_not_go_with_voc(home, flag):
    with pytest.raises(UserError, match=rf"^{flag} (1|1\.0): is about annotations of your own"):
        prepare(home, "--classes", "voc", flag, 1)


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        *((encoding, "Stra\u00dfe") for encoding in ("utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252")),
        *((encoding, "\u4eba") for encoding in ("gb2312", "GBK", "gb18030", "big5", "shift_jis", "euc-jp")),
        ("euc-kr", "\uac1c"),
    ],
)
def test_encodings_of_tools(tmp_path, encoding, name):
    declared = f'<?xml version="1.0" encoding="{encoding.removesuffix("-sig")}"?>\n'
    path = put(tmp_path / "a.xml", xml(name, prolog=declared).encode(encoding))
    assert read_annotation(path).objects == [(name, False)]


BOMB = "<!DOCTYPE annotation [" + "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(9)) + "]>"
HOSTILE = {
    "bomb": BOMB + "<annotation>&e9;</annotation>",
    "bomb in utf-16": (BOMB + "<annotation>&e9;</annotation>").encode("utf-16"),
    "external entity": '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><object><name>&x;</name></object></annotation>',
    "external subset": '<!DOCTYPE annotation SYSTEM "http://localhost/x.dtd"><annotation/>',
    "parameter entity": '<!DOCTYPE a [<!ENTITY % p SYSTEM "/dev/zero"> %p;]><annotation/>',
    "deep": "<annotation>" + "<a>" * 100_000,
    "long name": xml("x" * 2_000_000),
    "undefined entity": xml("&nbsp;"),
    "unknown encoding": '<?xml version="1.0" encoding="foo"?><annotation/>',
    "utf-7": '<?xml version="1.0" encoding="utf-7"?><annotation/>',
    "idna": '<?xml version="1.0" encoding="idna"?><annotation/>',
    "utf-32": '<annotation/>'.encode("utf-32"),
    "wrong gbk": b'<?xml version="1.0" encoding="gbk"?><annotation>\xff\xff</annotation>',
    "wrong utf-8": b"<annotation>\xe9\xe9</annotation>",
    "NUL": b"<annotation>\0</annotation>",
    "nothing": b"",
    "binary": bytes(range(256)),
    "another kind": "<html></html>",
}  # fmt: skip


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_xml_is_one_line(tmp_path, content):
    path = put(tmp_path / "a.xml", content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError) as caught:
        read_objects(path, {})
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes


def test_a_huge_file_is_not_read(tmp_path):
    with open(tmp_path / "a.xml", "wb") as stream:
        stream.truncate(1 << 33)  # takes no room on the disk
    with pytest.raises(UserError, match="more than 67,108,864"):
        read_annotation(tmp_path / "a.xml")


def test_random_damage_is_an_annotation_or_one_error(tmp_path):
    """A compact version of what was tried with many more cases."""
    chance = random.Random(0)
    hard = "<name>cat</name><difficult>1</difficult>"
    whole = xml("helmet", hard, file_name="a.jpg", prolog='<?xml version="1.0"?>').encode()
    pieces = [b"<!DOCTYPE", b"<![CDATA[", b"]]>", b"&#0;", b"&lt;", b"encoding='gbk'", b"</object>", b"\xff\xfe"]
    for _ in range(500):
        content = bytearray(whole)
        for _ in range(chance.randrange(1, 6)):
            at = chance.randrange(len(content) + 1)
            kind = chance.randrange(4)
            if kind == 0:
                content[at:at] = chance.choice(pieces)
            elif kind == 1:
                del content[at : at + chance.randrange(20)]
            elif kind == 2:
                content[at : at + 1] = bytes([chance.randrange(256)])
            else:
                content[at:at] = content[: chance.randrange(len(content) + 1)]
        with suppress(NoAnnotationError, UserError):
            read_annotation(put(tmp_path / "a.xml", bytes(content)))
