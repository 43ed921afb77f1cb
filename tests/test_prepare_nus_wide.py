"""NUS-WIDE: small copies of the true form, and the real labels where they are there."""

import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

import prepare_data
from src.data.coco import read_coco_labels
from src.data.metadata import load_metadata
from src.data.official import read_array_pickle
from src.errors import UserError
from src.prepare import nus_wide_files
from src.prepare.nus_wide import CONCEPTS_81
from src.prepare.nus_wide_files import find_photos, photo_id, read_flags, read_image_list
from tests.helpers import write_images
from tests.prepare_helpers import collect_source
from tests.script_helpers import call, succeeded

TAGS = ("night", "sky", "cat", "red", "sun", "new")  # sky, cat and sun are concepts too
CONCEPTS = ("cat", "sky", "sun", "zebra")
TRAIN = ("actor/0001_2124494179.jpg", "actor/0002_174174086.jpg", "zoo/0001_2220993.jpg")
TEST = ("actor/0003_9000001.jpg", "zoo/0002_9000002.jpg")
KINDS = {"train": "Train", "val": "Test"}


@dataclass
class Form:
    """Layout and spelling of a copy of the distribution."""

    list_folder: str = "ImageList"
    tag_folder: str = "NUS_WID_Tags"
    tag_list: str = "NUS_WID_Tags/TagList1k.txt"
    concept_list: str = "ConceptsList/Concepts81.txt"
    truth_folder: str = "Groundtruth/TrainTestLabels"
    slash: str = "\\"
    separator: str = "\t"
    end: str = "\n"
    bom: bool = False
    file_end: str = ""


@dataclass
class Distribution:
    """Content of a copy of the distribution: images, and zeros and ones for tags [N, T] and concepts [N, C]."""

    tags: tuple[str, ...] = TAGS
    concepts: tuple[str, ...] = CONCEPTS
    names: dict[str, tuple[str, ...]] = field(default_factory=lambda: {"train": TRAIN, "val": TEST})
    tag_flags: dict[str, np.ndarray] = field(default_factory=dict)
    truth: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self):
        random = np.random.default_rng(0)
        for part, names in self.names.items():
            self.tag_flags.setdefault(part, (random.random((len(names), len(self.tags))) < 0.3).astype(int))
            self.truth.setdefault(part, (random.random((len(names), len(self.concepts))) < 0.4).astype(int))

    def write(self, folder: Path, form: Form | None = None) -> Path:
        form = form or Form()

        def save(path, lines):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            text = form.end.join(lines) + form.end + form.file_end
            (folder / path).write_bytes(b"\xef\xbb\xbf" * form.bom + text.encode())

        save(form.tag_list, self.tags)
        save(form.concept_list, self.concepts)
        for part, kind in KINDS.items():
            save(f"{form.list_folder}/{kind}Imagelist.txt", [n.replace("/", form.slash) for n in self.names[part]])
            rows = self.tag_flags[part].astype(str)
            save(f"{form.tag_folder}/{kind}_Tags1k.dat", [form.separator.join(row) for row in rows])
            for concept, column in zip(self.concepts, self.truth[part].T.astype(str), strict=True):
                save(f"{form.truth_folder}/Labels_{concept}_{kind}.txt", column)
        return folder

    def labels(self, part: str) -> dict[int, set[str]]:
        """Photo id -> names of its labels, flag by flag; of a photo that is listed again, the labels of all lines."""
        found: dict[int, set[str]] = {}
        for row, name in enumerate(self.names[part]):
            own = found.setdefault(int(name[:-4].split("_")[-1]), set())
            for column, tag in enumerate(self.tags):
                if tag not in self.concepts and self.tag_flags[part][row][column]:
                    own.add(tag)
            for column, concept in enumerate(self.concepts):
                if self.truth[part][row][column]:
                    own.add(concept)
        return found


def official_distribution(**changes) -> Distribution:
    """1,000 tags, 75 of them concepts, and the 81 concepts."""
    made_up = tuple(f"tag{number:03d}" for number in range(925))
    tags = np.random.default_rng(1).permutation([*made_up, *CONCEPTS_81[:75]])
    return Distribution(tuple(str(tag) for tag in tags), CONCEPTS_81, **changes)


@pytest.fixture
def source(tmp_path):
    return Distribution().write(tmp_path / "nus")


def collect(source: Path, *flags: object, own_split: bool = True):
    """Read a copy; the small one is not the 925/81 split."""
    if own_split:
        path = source.parent / "unseen.txt"
        path.write_text("sky\nzebra\n")
        flags = ("--unseen", path, *flags)
    return collect_source("nus-wide", "--source", source, *flags)


def message(source: Path, *flags: object, own_split: bool = True) -> str:
    with pytest.raises(UserError) as caught:
        collect(source, *flags, own_split=own_split)
    return str(caught.value)


def labels_of(collected, part: str) -> dict[int, set[str]]:
    images = collected.parts[part]
    rows = images.targets.dense()
    return {
        number: {collected.labels[column] for column in row.nonzero()[:, 0].tolist()}
        for number, row in zip(images.image_ids, rows, strict=True)
    }


def same(one, other) -> bool:
    """Return whether two copies give the same images and labels."""
    return list(one.labels) == list(other.labels) and all(
        one.parts[part].file_names == other.parts[part].file_names
        and one.parts[part].image_ids == other.parts[part].image_ids
        and torch.equal(one.parts[part].targets.dense(), other.parts[part].targets.dense())
        for part in KINDS
    )


def test_tags_and_ground_truth_become_labels(source):
    collected = collect(source)
    assert collected.labels == ["cat", "new", "night", "red", "sky", "sun", "zebra"]
    assert collected.unseen == ["sky", "zebra"]
    assert (collected.name, collected.seen, collected.image_root) == ("nus_wide", None, None)
    for part, names in (("train", TRAIN), ("val", TEST)):
        assert collected.parts[part].file_names == names
        assert labels_of(collected, part) == Distribution().labels(part)
        assert not collected.parts[part].targets.num_unknown()
    assert collected.parts["train"].image_ids == (2124494179, 174174086, 2220993)
    assert collected.notes == [
        "3 of the 4 concepts are tags too: they have their ground truth",
        "train: 3 images in TrainImagelist.txt, 161,789 were published",
        "val: 2 images in TestImagelist.txt, 107,859 were published",
    ]


def test_a_concepts_own_tag_does_not_count(tmp_path):
    distribution = Distribution()
    for part in KINDS:
        distribution.tag_flags[part][:] = 1
        distribution.truth[part][:] = 0
    collected = collect(distribution.write(tmp_path / "nus"))
    assert set(map(frozenset, labels_of(collected, "val").values())) == {frozenset({"night", "red", "new"})}


@pytest.mark.parametrize(
    "form",
    [
        Form("a", "b", "TagList1k.txt", "Concepts81.txt", "TrainTestLabels"),
        Form("x", "NUS_WIDE_Tags", "ConceptsList/taglist1k.TXT", "ConceptsList/concepts81.txt", "GroundTruth/T"),
        Form(slash="/"),
        Form(separator=" \t "),
        Form(end=" \t\r\n", bom=True),
        Form(bom=True, file_end="\n\n \n"),
    ],
)
def test_variants_of_the_distribution(source, tmp_path, form):
    copy = Distribution().write(tmp_path / "copy", form)
    assert same(collect(copy), collect(source))


def test_the_order_of_tags_and_concepts_does_not_matter(source, tmp_path):
    tags, concepts = [4, 2, 0, 5, 1, 3], [3, 1, 0, 2]
    one = Distribution()
    other = Distribution(
        tuple(TAGS[column] for column in tags),
        tuple(CONCEPTS[column] for column in concepts),
        tag_flags={part: flags[:, tags] for part, flags in one.tag_flags.items()},
        truth={part: flags[:, concepts] for part, flags in one.truth.items()},
    )
    assert same(collect(other.write(tmp_path / "other")), collect(source))
    # a tag list that is permuted alone is another matter
    (tmp_path / "other" / "NUS_WID_Tags" / "TagList1k.txt").write_text("\n".join(TAGS))
    assert not same(collect(tmp_path / "other"), collect(source))


def plain_loop(text: str) -> list[tuple[int, int]]:
    """Row and column of every one."""
    lines = text.rstrip().split("\n")
    return [(row, column) for row, line in enumerate(lines) for column, flag in enumerate(line.split()) if flag == "1"]


@pytest.mark.parametrize("block", [40, 64, 1000, 1 << 23])
@pytest.mark.parametrize("width", [1, 7])
def test_flags_equal_a_plain_loop(tmp_path, monkeypatch, block, width):
    monkeypatch.setattr(nus_wide_files, "_BLOCK", block)
    random = np.random.default_rng(block + width)
    lines = []
    for flags in (random.random((200, width)) < 0.3).astype(int).astype(str):
        white = random.choice([" ", "\t", "  ", "\t "], width)
        lines.append("".join(f"{flag}{blank}" for flag, blank in zip(flags, white, strict=True)))
    text = "\n".join(line.rstrip() if row % 3 else f" {line}\r" for row, line in enumerate(lines))
    path = tmp_path / "flags.dat"
    for end in ("", "\n", "\r\n\n \n\n"):
        path.write_text(text + end, newline="")
        rows, columns, num_lines = read_flags(path, width)
        assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == plain_loop(text)
        assert num_lines == 200


@pytest.mark.parametrize("block", [16, 1 << 23])
@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("0 1 0\n1 0\n", "line 2: 2 flags, not 3"),
        ("0 1 0\n1 0 0 1\n", "line 2: 4 flags, not 3"),
        ("0 1 0\n0 1\n1 0 1 0\n", "line 2: 2 flags, not 3"),  # six flags in two lines all the same
        ("0 1 0\n1 0 1\n\n0 0 1\n", "line 3: 0 flags, not 3"),
        ("\n0 1 0\n", "line 1: 0 flags, not 3"),
        ("0 1 0\n1 2 1\n", "line 2: flag 2 is '2', neither 0 nor 1"),
        ("0 1 0\n1 01 1\n", "line 2: flag 2 is '01', neither 0 nor 1"),
        ("0,1,0\n", "line 1: flag 1 is '0,1,0', neither 0 nor 1"),
        ("0 1 0\n1 0 \u00bd\n", "line 2: flag 3 is '\\xc2\\xbd', neither 0 nor 1"),
        ("0 1 0\n" * 20 + "0 1 x\n", "line 21: flag 3 is 'x', neither 0 nor 1"),
    ],
)
def test_faulty_flags_are_reported(tmp_path, monkeypatch, block, text, fault):
    monkeypatch.setattr(nus_wide_files, "_BLOCK", block)
    path = tmp_path / "flags.dat"
    path.write_text(text, encoding="utf-8", newline="")
    with pytest.raises(UserError, match=re.escape(f"--source {path}, {fault}; copy the file again")):
        read_flags(path, 3)


@pytest.mark.parametrize("line", ["", "actor\\0001_12.txt", "actor\\12a.jpg"])
def test_a_malformed_line_of_a_list_is_named(tmp_path, line):
    path = tmp_path / "TrainImagelist.txt"
    path.write_text(f"actor\\0001_5.jpg\n{line}\nactor\\0002_6.jpg\n")
    with pytest.raises(UserError) as caught:
        read_image_list(path)
    assert f"--source {path}, line 2: {line!r} is not of the form concept\\0001_2124494179.jpg" in str(caught.value)
    path.write_text("\n\n")
    with pytest.raises(UserError, match="lists no image"):
        read_image_list(path)


def remove(*names: str):
    return lambda source: [path.unlink() for name in names for path in source.rglob(name)]


def write(name: str, text: str):
    return lambda source: next(source.rglob(name)).write_text(text)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda source: shutil.rmtree(source), ["--source", "no such folder"]),
        (
            remove("TrainImagelist.txt", "Test_Tags1k.dat", "Labels_cat_Train.txt"),
            [
                "3 files are missing: TrainImagelist.txt, Test_Tags1k.dat, Labels_cat_Train.txt;",
                "unpack ImageList",
            ],
        ),
        # without the list of concepts it is known which ones there should be
        (
            remove("*81.txt", "Labels_*"),
            ["163 files are missing: Concepts81.txt, Labels_airport_Train.txt, ", " and 151 more;"],
        ),
        (
            write("Train_Tags1k.dat", "0 0 0 0 0 0\n" * 4),
            ["TrainImagelist.txt lists 3 images, one per line, but", "Train_Tags1k.dat has 4; copy"],
        ),
        (write("Train_Tags1k.dat", "0 0 0 0 0 0\n" * 2), ["lists 3 images", "Train_Tags1k.dat has 2;"]),
        (write("Train_Tags1k.dat", "0 0 0 0 0 0\n0 1\n"), ["Train_Tags1k.dat, line 2: 2 flags, not 6"]),
        (write("Test_Tags1k.dat", ""), ["TestImagelist.txt lists 2 images", "Test_Tags1k.dat has 0;"]),
        (write("Labels_sun_Test.txt", "0\n1\n1\n"), ["TestImagelist.txt lists 2", "Labels_sun_Test.txt has 3;"]),
        (write("Labels_sun_Test.txt", "0\n5\n"), ["Labels_sun_Test.txt, line 2: flag 1 is '5'"]),
        (
            write("TestImagelist.txt", "a\\1_5.jpg\n"),
            ["lists 1 images", "_Tags1k.dat has 2, ", "Labels_zebra_Test.txt has 2;"],
        ),
        (write("TestImagelist.txt", "image\n"), ["TestImagelist.txt, line 1: 'image'"]),
        (write("TagList1k.txt", "sky\ncat\nsky\n"), ["--source", "TagList1k.txt: named more than once: sky"]),
        (write("TagList1k.txt", "\n"), ["TagList1k.txt: names nothing"]),
        (write("TagList1k.txt", "sky\ncat\nsun\nred\nnew\n"), ["Train_Tags1k.dat, line 1: 6 flags, not 5"]),
        (write("Concepts81.txt", "cat\ncat\n"), ["Concepts81.txt: named more than once: cat"]),
    ],
)
def test_faults_are_reported(source, damage, words):
    damage(source)
    found = message(source)
    assert all(word in found for word in words), found


def test_different_files_of_the_same_name_are_named(source):
    copy = source / "copy" / "TagList1k.txt"
    copy.parent.mkdir()
    shutil.copy(source / "NUS_WID_Tags" / "TagList1k.txt", copy)
    shutil.copy(source / "ConceptsList" / "Concepts81.txt", source)
    (source / ".cache").mkdir()
    (source / ".cache" / "Concepts81.txt").write_text("cat\n")  # a hidden folder is no part of it
    (source / "ImageList" / "trainimagelist.txt").symlink_to(source / "gone")  # nor is a link to nothing
    collect(source)
    copy.write_text("sky\n")
    (source / "copy" / "labels_cat_train.txt").write_text("0\n")
    lines = message(source).split("\n  ")
    assert len(lines) == 2
    assert all(line.endswith("have the same name and different content; remove one of them") for line in lines)
    assert f"{source / 'NUS_WID_Tags' / 'TagList1k.txt'} and {copy} have" in lines[0]
    assert "labels_cat_train.txt" in lines[1]
    assert "Labels_cat_Train.txt" in lines[1]


def test_lists_that_do_not_make_the_split(tmp_path):
    distribution = official_distribution()
    source = distribution.write(tmp_path / "nus")
    collected = collect(source, own_split=False)
    assert list(collected.unseen) == list(CONCEPTS_81)
    assert len(collected.labels) == 1006
    assert labels_of(collected, "train") == distribution.labels("train")
    tags = tuple(tag for tag in distribution.tags if tag != "tag000")
    other = Distribution(tags, ("jet", *CONCEPTS_81[:79])).write(tmp_path / "other")
    found = message(other, own_split=False)
    assert found == (
        f"--source {other}: not the 925/81 split: TagList1k.txt has 999 tags, 924 of them no concept, not 1,000 and "
        "925; Concepts81.txt has 80 concepts (only in published: window, zebra; only in this: jet); copy the lists "
        "again, or give --unseen FILE for a split of your own"
    )
    (tmp_path / "unseen.txt").write_text("tag001\njet\n")
    assert collect(other, "--unseen", tmp_path / "unseen.txt", own_split=False).unseen == ["tag001", "jet"]


def test_own_unseen_labels_must_be_labels(source, tmp_path):
    path = tmp_path / "held_out.txt"
    path.write_text("new\nunicorn\n")
    assert f"--unseen {path}: no such label: unicorn" in message(source, "--unseen", path, own_split=False)
    assert "not the 925/81 split" in message(source, own_split=False)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("0001_2124494179.jpg", 2124494179),
        ("2124494179.jpg", 2124494179),
        ("2124494179.JPEG", 2124494179),
        ("actor_0001_2124494179.jpg", 2124494179),
        ("2124494179_0a1b2c3d4e_m.jpg", 2124494179),
        ("2124494179_0a1b2c3d4e.jpg", 2124494179),  # the size that has no letter
        ("140016_2124494179_422b79b4d7_m.jpg", 2124494179),  # a running number that happens to be a listed id
        ("140016_215548610_422b79b4d7_m.jpg", None),  # the photo itself is not listed
        ("2124494179_4224794170_m.jpg", 2124494179),  # a secret without letters
        ("2124494179_9000000001_m.jpg", 2124494179),  # one that happens to be a listed id: the letter decides
        ("1234_9000000001.jpg", 9000000001),  # without it the last number is the id, though 1234 is one too
        ("1234_2124494170_m.jpg", 1234),
        ("actor_2124494179_m.jpg", 2124494179),
        ("0001_5.jpg", None),
        ("actor.jpg", None),
    ],
)
def test_the_photo_id_in_a_file_name(name, number):
    assert photo_id(name, {2124494179, 1234, 140016, 9000000001}) == number


def test_of_several_files_of_a_photo_the_listed_one_is_taken():
    names = {5: "zoo/0001_5.jpg", 6: "zoo/0002_6.jpg", 7: "zoo/0003_7.jpg"}
    places = [
        "Flickr/ant/0009_5.jpg",
        "Flickr/zoo/0001_5.jpg",
        "Flickr/zoo/5.jpg",
        "a/6.jpg",
        "b/6.jpg",
        "azoo/1_8.jpg",
    ]
    assert find_photos(places, names) == ({5: "Flickr/zoo/0001_5.jpg", 6: "a/6.jpg"}, [5, 6])


def layouts(kind: str) -> list[str]:
    """Return the folder of the five images."""
    numbers = [name[:-4].split("_")[-1] for name in (*TRAIN, *TEST)]
    return {
        "Flickr": [f"Flickr/{name}" for name in (*TRAIN, *TEST)],
        "flat": [f"{number}.jpg" for number in numbers],
        "nested": [f"deep/er/{number}.JPG" for number in numbers],
        "flickr.com": [f"{number}_0a1b2c3d4e_m.jpg" for number in numbers],
        "concept": [f"c{row}/actor_{number}_012345678{row}_m.jpg" for row, number in enumerate(numbers)],
    }[kind]


def put(folder: Path, places: list[str]) -> Path:
    for place in ["readme.txt", "other_1.jpg", *places]:
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).touch()
    return folder


@pytest.mark.parametrize("kind", ["Flickr", "flat", "nested", "flickr.com", "concept"])
def test_images_are_found_by_photo_id(source, tmp_path, kind):
    places = layouts(kind)
    collected = collect(source, "--images", put(tmp_path / "images", places))
    assert collected.parts["train"].file_names == tuple(places[:3])
    assert collected.parts["val"].file_names == tuple(places[3:])
    assert collected.image_root == str(tmp_path / "images")
    assert labels_of(collected, "train") == Distribution().labels("train")
    assert "passed over 1 files that are no images by their suffix: .txt (1)" in collected.notes[3]
    assert (len(collected.notes), collected.missing_pictures) == (4, [])


def test_missing_pictures(source, tmp_path, monkeypatch):
    places = layouts("flat")
    monkeypatch.chdir(tmp_path)
    folder = put(Path("images"), [places[0], places[2], places[4]])
    assert message(source, "--images", folder) == (
        "--images: 1 of the 3 images of TrainImagelist.txt are not there (actor/0002_174174086.jpg); searched 4 "
        "image files below images, such as 2124494179.jpg and 2220993.jpg; give the folder that holds them, or "
        "--missing-pictures drop to leave them out"
    )
    collected = collect(source, "--images", folder, "--missing-pictures", "drop")
    assert collected.image_root == str(tmp_path / "images")
    assert collected.missing_pictures == ["actor/0002_174174086.jpg", "actor/0003_9000001.jpg"]
    assert collected.parts["train"].file_names == (places[0], places[2])
    assert labels_of(collected, "train").items() < Distribution().labels("train").items()
    assert labels_of(collected, "val").items() < Distribution().labels("val").items()
    assert collected.notes[-2:] == [
        "left out 1 images of TrainImagelist.txt that are not on disk, listed in missing_pictures.txt",
        "left out 1 images of TestImagelist.txt that are not on disk, listed in missing_pictures.txt",
    ]
    (folder / places[4]).unlink()
    assert "2 of the 2 images of TestImagelist.txt" in message(source, "--images", folder, "--missing-pictures", "drop")
    assert "--missing-pictures drop: has no effect without --images" in message(source, "--missing-pictures", "drop")
    assert "--images gone: no such folder" in message(source, "--images", "gone")


def test_a_photo_that_is_listed_again_keeps_one_row_with_all_labels(tmp_path):
    names = {"train": (*TRAIN, "zoo/0007_174174086.jpg", TRAIN[0]), "val": TEST}
    distribution = Distribution(names=names)
    collected = collect(distribution.write(tmp_path / "nus"))
    assert collected.parts["train"].file_names == TRAIN
    assert labels_of(collected, "train") == distribution.labels("train")
    assert labels_of(collected, "train") != Distribution().labels("train")
    assert "train: merged 2 repeated lines" in collected.notes


def test_a_photo_in_both_lists_is_no_training_image(tmp_path):
    distribution = Distribution(names={"train": TRAIN, "val": (*TEST, "zoo/0001_174174086.jpg")})
    collected = collect(distribution.write(tmp_path / "nus"))
    assert collected.parts["train"].file_names == (TRAIN[0], TRAIN[2])
    expected = distribution.labels("train")
    del expected[174174086]
    assert labels_of(collected, "train") == expected
    assert labels_of(collected, "val") == distribution.labels("val")
    assert collected.notes[-1] == "train: left out 1 images that are in val too (actor/0002_174174086.jpg)"
    source = Distribution(names={"train": TRAIN, "val": TRAIN}).write(tmp_path / "same")
    assert "every training image is a validation image too" in message(source)


def word_vectors(path: Path, labels: list[str]) -> Path:
    vectors = np.random.default_rng(2).normal(size=(len(labels), 3))
    path.write_text("".join(f"{label} {' '.join(map(str, v))}\n" for label, v in zip(labels, vectors, strict=True)))
    return path


def run(*arguments: object):
    return call(prepare_data.main, "nus-wide", *arguments)


@pytest.fixture
def flags(tmp_path):
    """A copy with the official lists, its images, and vectors for all labels."""
    distribution = official_distribution()
    source = distribution.write(tmp_path / "nus", Form(end="\r\n", separator=" "))
    images = write_images(tmp_path / "images", 5)
    for path, place in zip(images, layouts("flat"), strict=True):
        path.rename(tmp_path / "images" / place)
    vectors = word_vectors(tmp_path / "vectors.txt", sorted({*distribution.tags, *CONCEPTS_81}))
    return [
        "--source",
        source,
        "--images",
        tmp_path / "images",
        "--word-vectors",
        vectors,
        "--output",
        tmp_path / "m",
    ]


def test_sub_command(flags, tmp_path):
    (tmp_path / "images" / "174174086.jpg").unlink()
    finished = succeeded(run(*flags, "--official", "--missing-pictures", "drop"))
    distribution = official_distribution()
    assert finished.stdout.splitlines()[:-1] == (tmp_path / "m" / "report.txt").read_text().splitlines()
    assert finished.stdout.startswith("nus_wide_925_81: 925 seen and 81 unseen labels\n")
    assert "75 of the 81 concepts are tags too" in finished.stdout
    assert "left out 1 images of TrainImagelist.txt that are not on disk" in finished.stdout
    assert (tmp_path / "m" / "missing_pictures.txt").read_text() == "actor/0002_174174086.jpg\n"
    metadata = load_metadata(tmp_path / "m")
    labels = metadata.split.labels
    assert labels == tuple(sorted({*distribution.tags, *CONCEPTS_81}))
    assert metadata.split.names(metadata.split.unseen) == list(CONCEPTS_81)
    assert metadata.image_root == tmp_path / "images"
    train, val = (read_coco_labels(path, labels) for path in (metadata.train, metadata.val))
    for images, part, hidden in ((train, "train", {*CONCEPTS_81}), (val, "val", set())):
        expected = distribution.labels(part)
        for number, row in zip(images.image_ids, images.targets.dense(), strict=True):
            assert {labels[column] for column in row.nonzero()[:, 0].tolist()} == expected[number] - hidden
    assert sorted(train.image_ids) == [2220993, 2124494179]
    assert val.file_names == ("9000001.jpg", "9000002.jpg")

    official = load_metadata(tmp_path / "m" / "official")
    assert official.kind == "NUS_WIDE"
    assert official.split.labels == labels
    assert (official.split.seen, official.split.unseen) == (metadata.split.seen, metadata.split.unseen)
    assert torch.equal(official.split.word_vectors, metadata.split.word_vectors)
    for path, own in ((official.train, train), (official.val, val)):
        assert torch.equal(read_coco_labels(path, labels).targets.dense(), own.targets.dense())


@pytest.fixture(scope="session")
def real_labels(shared_data, tmp_path_factory):
    """The true lists and ground truth in files of the true form; ids and tags are made up, three tags an image."""
    real = shared_data / "nus_wide"
    source = tmp_path_factory.mktemp("nus_wide")
    shutil.copy(real / "TagList1k.txt", source)
    shutil.copy(real / "concepts81.txt", source)
    concepts = (real / "concepts81.txt").read_text().split()
    packed = np.load(real / "labels81.npz")
    truth = {}
    for kind, first in (("train", 1_000_000), ("test", 2_000_000)):
        truth[kind] = np.unpackbits(packed[kind], axis=1)[:, :81]
        name, count = kind.capitalize(), len(truth[kind])
        lines = (f"c{row % 704}\\{row % 1000:04d}_{first + row}.jpg\n" for row in range(count))
        (source / f"{name}Imagelist.txt").write_text("".join(lines))
        for concept, column in zip(concepts, truth[kind].T, strict=True):
            text = np.full((count, 2), ord("\n"), dtype=np.uint8)
            text[:, 0] = column + ord("0")
            (source / f"Labels_{concept}_{name}.txt").write_bytes(text.tobytes())
        with open(source / f"{name}_Tags1k.dat", "wb") as stream:
            for start in range(0, count, 4096):
                rows = np.arange(start, min(start + 4096, count))
                text = np.full((len(rows), 2001), ord("\t"), dtype=np.uint8)
                text[:, :-1:2] = ord("0")
                text[:, -1] = ord("\n")
                for step in (7, 11, 13):
                    text[np.arange(len(rows)), 2 * (rows * step % 1000)] = ord("1")
                stream.write(text.tobytes())
    return source, truth


def test_the_real_labels(real_labels, shared_data, tmp_path):
    source, truth = real_labels
    released = shared_data / "nus_wide"
    succeeded(run("--source", source, "--word-vectors", released, "--output", tmp_path / "m"))
    metadata = load_metadata(tmp_path / "m")
    split = metadata.split
    classes = read_array_pickle(released / "classes.pickle")
    assert split.labels == tuple(classes[column] for column in range(1006))
    assert split.labels == tuple(sorted(split.labels))
    unseen = split.names(split.unseen)
    assert set(unseen) == set(read_array_pickle(released / "unseen_classes.pickle")) == set(CONCEPTS_81)
    assert (len(split.seen), len(split.unseen)) == (925, 81)
    # column by column; scaling unit vectors to unit length may change the last bit
    expected_vectors = read_array_pickle(released / "wordvec_array.pickle")
    np.testing.assert_allclose(split.word_vectors, expected_vectors, rtol=0, atol=3e-8)

    report = (tmp_path / "m" / "report.txt").read_text()
    assert "75 of the 81 concepts are tags too" in report
    assert "train: 161,789 images in TrainImagelist.txt, 161,789 were published" in report
    assert "val: 83,898 images with an unseen label, 202,389 unseen labels" in report
    val = read_coco_labels(metadata.val, split.labels)
    zero_shot = val.targets.select_columns(split.unseen)
    counts = zero_shot.positives_per_image()
    assert (len(val), int(counts.sum()), int((counts > 0).sum())) == (107_859, 202_389, 83_898)
    assert round(float(counts.double().mean()), 4) == 1.8764  # = K * P / R at any K, all images counted
    concepts = (released / "concepts81.txt").read_text().split()
    sorted_truth = truth["test"][:, [concepts.index(name) for name in unseen]]
    np.testing.assert_array_equal(zero_shot.dense().numpy(), sorted_truth)

    train = read_coco_labels(metadata.train, split.labels)
    assert len(train) == len(truth["train"]) == 161_789
    assert not train.targets.select_columns(split.unseen).positives_per_label().any()
    tags = (released / "TagList1k.txt").read_text().split()
    row = 12_345
    expected = {tags[row * step % 1000] for step in (7, 11, 13)} - {*CONCEPTS_81}
    columns = train.targets.dense(torch.tensor([row]))[0].nonzero()[:, 0].tolist()
    assert {split.labels[column] for column in columns} == expected
