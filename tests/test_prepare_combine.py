"""prepare_data.py combine: every label of every image is what a plain loop over the folders says."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

import prepare_data
from src.data.coco import read_coco_labels
from src.data.labels import LabelledImages, LabelMatrix
from src.data.metadata import ExtraWords, Metadata, load_metadata
from src.data.metadata_writer import MetadataContent, write_metadata
from src.data.parts import load_evaluation_set, load_training_set
from src.data.split import make_split
from src.errors import UserError
from src.prepare import combine
from src.prepare.table_tags import same_tag_key
from tests.prepare_helpers import prepare_source
from tests.script_helpers import call

Shown = Mapping[str, Mapping[str, int]]  # image file -> label -> 1, 0 or -1
_WORDS = ("cat", "dog", "sea", "sun", "car", "cars", "hot dog", "Hot-Dog", "tree", "jet")
_DIM = 6


def vector_of(word: str, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *same_tag_key(word).encode()]).normal(size=_DIM)


@dataclass
class Folder:
    """A metadata folder to write: labels, and what they are on the images of each part."""

    labels: Sequence[str]
    train: Shown
    val: Shown = field(default_factory=dict)
    unseen: Sequence[str] = ()
    aside: Sequence[str] = ()  # labels on neither side
    extra: Sequence[str] = ()
    seed: int = 0
    source: str = "words.txt"

    def write(self, path: Path, images: Path) -> Path:
        """Write the folder, and an empty file for each image."""
        columns = {side: [self.labels.index(name) for name in self._side(side)] for side in ("seen", "unseen")}
        vectors = torch.tensor(np.stack([vector_of(label, self.seed) for label in self.labels], axis=1))
        split = make_split(self.labels, columns["seen"], columns["unseen"], vectors, name=path.name, source="test")
        parts, first = {}, 1
        for part, shown in (("train", self.train), ("val", self.val)):
            dense = torch.tensor([[of[label] for label in self.labels] for of in shown.values()], dtype=torch.int8)
            targets = LabelMatrix.from_dense(dense.reshape(len(shown), len(self.labels)))
            parts[part] = LabelledImages(tuple(range(first, first + len(shown))), tuple(shown), targets)
            first += len(shown)
            for name in shown:
                (images / name).parent.mkdir(parents=True, exist_ok=True)
                if not (images / name).exists():
                    (images / name).touch()
        extra = None
        if self.extra:
            matrix = torch.tensor(np.stack([vector_of(word, self.seed) for word in self.extra], axis=1)).float()
            extra = ExtraWords(tuple(self.extra), matrix)
        write_metadata(path, MetadataContent(split, parts, images, self.source, extra))
        return path

    def _side(self, side: str) -> list[str]:
        shown = [label for label in self.labels if label not in self.aside]
        return [label for label in shown if (label in self.unseen) == (side == "unseen")]


def shown_in(metadata: Metadata, part: str) -> dict[str, dict[str, int]]:
    """Real path of each image -> label -> value, as training and validation read it."""
    path = getattr(metadata, part)
    images = read_coco_labels(path, metadata.split.labels)
    rows = images.targets.dense().tolist()
    assert metadata.image_root is not None
    return {
        str((metadata.image_root / name).resolve()): dict(zip(metadata.split.labels, row, strict=True))
        for name, row in zip(images.file_names, rows, strict=True)
    }


def combined(output: Path, *arguments: object) -> tuple[Metadata, list[str]]:
    report = prepare_source("combine", *arguments, "--output", output)
    return load_metadata(output), report


def everything(*names: str, **values: int) -> dict[str, int]:
    return {name: values.get(name.replace(" ", "_"), 0) for name in names}


def write_two(home: Path) -> tuple[Path, Path]:
    one = Folder(
        ("cat", "sea", "Hot Dog"),
        {"1.jpg": everything("cat", "sea", "Hot Dog", cat=1), "2.jpg": everything("cat", "sea", "Hot Dog", sea=1)},
        {"3.jpg": everything("cat", "sea", "Hot Dog", cat=1)},
        unseen=("sea",),
    )
    other = Folder(
        ("hot-dog", "jet", "sea"),
        {"1.jpg": {"hot-dog": 1, "jet": 0, "sea": 1}, "2.jpg": {"hot-dog": 0, "jet": 1, "sea": -1}},
        {"3.jpg": {"hot-dog": 0, "jet": 1, "sea": 1}},
    )
    return one.write(home / "one", home / "a"), other.write(home / "other", home / "b")


def test_labels_are_joined_and_unknown_where_a_folder_lacks_them(tmp_path):
    metadata, report = combined(tmp_path / "both", *write_two(tmp_path), "--unseen", "none")
    assert metadata.split.labels == ("cat", "sea", "Hot Dog", "jet")
    assert metadata.split.seen == (0, 1, 2, 3)
    assert metadata.split.name == "one+other_4_0"
    assert metadata.image_root == tmp_path
    train = {Path(path).relative_to(tmp_path).as_posix(): row for path, row in shown_in(metadata, "train").items()}
    assert train == {
        "a/1.jpg": {"cat": 1, "sea": -1, "Hot Dog": 0, "jet": -1},  # sea was hidden there, which says nothing
        "a/2.jpg": {"cat": 0, "sea": -1, "Hot Dog": 0, "jet": -1},
        "b/1.jpg": {"cat": -1, "sea": 1, "Hot Dog": 1, "jet": 0},
        "b/2.jpg": {"cat": -1, "sea": -1, "Hot Dog": 0, "jet": 1},
    }
    val = shown_in(metadata, "val")
    assert list(val.values()) == [
        {"cat": 1, "sea": 0, "Hot Dog": 0, "jet": -1},
        {"cat": -1, "sea": 1, "Hot Dog": 0, "jet": 1},
    ]
    assert len(load_training_set(metadata, None).paths) == 3  # those with a label
    assert len(load_evaluation_set(metadata, None).paths) == 2
    text = "\n".join(report)
    assert f"{tmp_path / 'one'}: 2 train and 1 val images, 2 seen and 1 unseen labels" in text
    assert "merged 1 labels that differ only in case, blanks, - or _: Hot Dog (also hot-dog)" in text
    assert "2 labels are in several folders: sea, Hot Dog" in text
    assert "1 labels are hidden in its training images: unknown there" in text


def test_label_unseen_in_one_folder_is_unseen_in_all(tmp_path):
    metadata, report = combined(tmp_path / "both", *write_two(tmp_path))
    assert metadata.split.names(metadata.split.unseen) == ["sea"]
    assert all(row["sea"] != 1 for row in shown_in(metadata, "train").values())
    assert [row["sea"] for row in shown_in(metadata, "val").values()] == [0, 1]
    assert any(line.startswith("1 labels are seen in one folder and unseen in another: unseen here") for line in report)
    (tmp_path / "held").write_text("HOT_dog\n")
    metadata, _ = combined(tmp_path / "held_out", *write_two(tmp_path / "x"), "--unseen", tmp_path / "held")
    assert metadata.split.names(metadata.split.unseen) == ["Hot Dog"]
    assert [row["sea"] for row in shown_in(metadata, "train").values()] == [-1, -1, 1, -1]


def test_label_on_neither_side_is_seen_where_a_folder_has_it_so(tmp_path):
    labels = ("cat", "sun", "jet")
    one = Folder(labels, {"1.jpg": everything(*labels, sun=1, jet=1)}, aside=("sun", "jet"))
    other = Folder(labels[:2], {"2.jpg": everything(*labels[:2], cat=1)})
    paths = one.write(tmp_path / "one", tmp_path / "a"), other.write(tmp_path / "other", tmp_path / "b")
    metadata, _ = combined(tmp_path / "both", *paths)
    assert (metadata.split.names(metadata.split.seen), metadata.split.unseen) == (["cat", "sun"], ())
    expected = [{"cat": 0, "sun": 1, "jet": 1}, {"cat": 1, "sun": 0, "jet": -1}]  # nothing was hidden
    assert list(shown_in(metadata, "train").values()) == expected
    metadata, _ = combined(tmp_path / "all", *paths, "--unseen", "none")
    assert metadata.split.seen == (0, 1, 2)
    assert list(shown_in(metadata, "train").values()) == expected


def test_other_word_vectors_leave_unknown_labels_unknown(tmp_path):
    metadata, _ = combined(tmp_path / "both", *write_two(tmp_path), "--unseen", "none")
    (tmp_path / "new.txt").write_text("cat 1 2\njet 2 1\nsea 1 0\nhot 1 3\ndog 2 5\n")
    flags = ("--metadata", tmp_path / "both", "--word-vectors", tmp_path / "new.txt", "--output", tmp_path / "new")
    prepare_source("word-vectors", *flags)
    for part in ("train", "val"):
        assert shown_in(load_metadata(tmp_path / "new"), part) == shown_in(metadata, part)


def draw(random_numbers: random.Random, images: Sequence[str]) -> Folder:
    labels = random_numbers.sample(_WORDS, random_numbers.randint(2, 6))
    values = {
        name: {label: random_numbers.choice((1, 0, 0, -1)) for label in labels}
        for name in random_numbers.sample(images, random_numbers.randint(2, 6))
    }
    num_val = random_numbers.randint(0, 1)
    names = list(values)
    return Folder(
        labels,
        {name: values[name] for name in names[num_val:]},
        {name: values[name] for name in names[:num_val]},
        unseen=random_numbers.sample(labels, random_numbers.randint(0, 1)),
    )


def expected_of(folders: Iterable[Folder], root: Path) -> tuple[list[str], dict[str, dict[str, dict[str, int]]]]:
    """Put folders together with plain loops: labels by key, and values by part, image and key."""
    folders = list(folders)
    keys = list(dict.fromkeys(same_tag_key(label) for folder in folders for label in folder.labels))
    tested = {name for folder in folders for name in folder.val}
    parts: dict[str, dict[str, dict[str, int]]] = {"train": {}, "val": {}}
    for folder in folders:
        for part, shown in (("train", folder.train), ("val", folder.val)):
            for name, values in shown.items():
                place = parts["val" if name in tested else "train"]
                row = place.setdefault(str(root / name), dict.fromkeys(keys, -1))
                for label, value in values.items():
                    if part == "val" or label not in folder.unseen:
                        key = same_tag_key(label)
                        row[key] = max(row[key], value)
    return keys, parts


@pytest.mark.parametrize("first", range(0, 20, 10))
def test_random_folders_combine_as_a_plain_loop_does(first, tmp_path, monkeypatch):
    monkeypatch.setattr(combine, "_BLOCK", 12)  # blocks of a few images
    for seed in range(first, first + 10):
        numbers = random.Random(seed)
        home = tmp_path / str(seed)
        folders = [draw(numbers, [f"{n % 3}/{n}.jpg" for n in range(8)]) for _ in range(numbers.randint(2, 3))]
        keys, parts = expected_of(folders, home / "images")
        paths = [folder.write(home / f"f{number}", home / "images") for number, folder in enumerate(folders)]
        if not parts["train"]:
            continue
        metadata, _ = combined(home / "all", *paths, "--unseen", "none")
        assert [same_tag_key(label) for label in metadata.split.labels] == keys
        for part, expected in parts.items():
            found = {
                path: {same_tag_key(label): value for label, value in row.items()}
                for path, row in shown_in(metadata, part).items()
            }
            assert found == expected, (seed, part)
        for label, vector in zip(metadata.split.labels, metadata.split.word_vectors.t(), strict=True):
            np.testing.assert_allclose(vector, vector_of(label), rtol=1e-6)


def test_combination_can_be_combined_again(tmp_path):
    numbers = random.Random(5)
    folders = [draw(numbers, [f"{n}.jpg" for n in range(9)]) for _ in range(3)]
    paths = [folder.write(tmp_path / f"f{number}", tmp_path / "images") for number, folder in enumerate(folders)]
    at_once, _ = combined(tmp_path / "at_once", *paths, "--unseen", "none")
    combined(tmp_path / "first", *paths[:2], "--unseen", "none")
    in_steps, _ = combined(tmp_path / "in_steps", tmp_path / "first", paths[2], "--unseen", "none")
    assert in_steps.split.labels == at_once.split.labels
    for part in ("train", "val"):
        assert shown_in(in_steps, part) == shown_in(at_once, part)


def test_same_file_by_a_link_is_one_image_and_validation_wins(tmp_path):
    Folder(("cat",), {"1.jpg": {"cat": 1}, "2.jpg": {"cat": 0}}).write(tmp_path / "one", tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "link.jpg").symlink_to(tmp_path / "a" / "1.jpg")
    Folder(("dog",), {"3.jpg": {"dog": 1}}, {"link.jpg": {"dog": 0}}).write(tmp_path / "other", tmp_path / "b")
    metadata, report = combined(tmp_path / "both", tmp_path / "one", tmp_path / "other")
    assert shown_in(metadata, "val") == {str(tmp_path / "a" / "1.jpg"): {"cat": 1, "dog": 0}}
    assert list(shown_in(metadata, "train").values()) == [{"cat": 0, "dog": -1}, {"cat": -1, "dog": 1}]
    assert "1 times an image was listed again, which became one image with the labels of all" in report
    assert "train: left out 1 images that are in val of one of the folders (b/link.jpg)" in report


def test_named_labels_are_joined(tmp_path):
    one = Folder(("cars", "dog"), {"1.jpg": {"cars": 1, "dog": 0}}).write(tmp_path / "one", tmp_path / "a")
    labels = ("car", "automobile", "dog")
    shown = {"2.jpg": {"car": -1, "automobile": 0, "dog": 1}, "3.jpg": {"car": 0, "automobile": 1, "dog": 0}}
    other = Folder(labels, shown).write(tmp_path / "other", tmp_path / "b")
    joins = ("--same", "cars=car", "--same", "automobile=cars")
    metadata, report = combined(tmp_path / "both", one, other, *joins)
    assert metadata.split.labels == ("car", "dog")
    assert [row["car"] for row in shown_in(metadata, "train").values()] == [1, 0, 1]
    np.testing.assert_allclose(metadata.split.word_vectors[:, 0], vector_of("car"), rtol=1e-6)
    assert "merged 2 labels by --same: cars = car, automobile = car" in report


def test_vectors_and_further_words_are_those_of_the_folders_unless_named(tmp_path):
    one = Folder(("cat",), {"1.jpg": {"cat": 1}}, extra=("sun", "jet")).write(tmp_path / "one", tmp_path / "a")
    other = Folder(("jet",), {"2.jpg": {"jet": 1}}, extra=("tree", "sun")).write(tmp_path / "other", tmp_path / "b")
    metadata, _ = combined(tmp_path / "both", one, other)
    assert metadata.extra_words is not None
    assert metadata.extra_words.words == ("sun", "tree")  # jet is a label
    np.testing.assert_allclose(metadata.extra_words.vectors[:, 1], vector_of("tree"), rtol=1e-6)
    assert metadata.word_vector_source == "words.txt"
    (tmp_path / "new.txt").write_text("cat 1 2\njet 2 1\nsky 1 0\n")
    flags = ("--word-vectors", tmp_path / "new.txt", "--extra-words", 1)
    metadata, _ = combined(tmp_path / "new", one, other, *flags)
    assert metadata.split.wordvec_dim == 2
    assert metadata.extra_words is not None
    assert metadata.extra_words.words == ("sky",)


def _write_broken(home: Path) -> None:
    """Write folders that cannot be combined with ``one``, each for a reason of its own."""
    write_two(home)
    plain = {"9.jpg": {"cat": 1}}
    Folder(("cat",), plain, seed=1).write(home / "other_vectors", home / "c")
    Folder(("jet",), {"9.jpg": {"jet": 1}}, source="others.txt").write(home / "unrelated", home / "c")
    Folder(("cat",), plain).write(home / "gone", home / "d")
    (home / "d" / "9.jpg").unlink()
    split = make_split(("cat",), (0,), (), torch.ones(_DIM, 1), name="x", source="x")
    images = LabelledImages((1,), ("9.jpg",), LabelMatrix.from_dense(torch.ones(1, 1, dtype=torch.int8)))
    write_metadata(home / "rootless", MetadataContent(split, {"train": images}))
    short = make_split(("cat",), (0,), (), torch.ones(2, 1), name="x", source="x")
    write_metadata(home / "short", MetadataContent(short, {"train": images}, home / "c"))
    Folder(("cat",), {}, {"1.jpg": {"cat": 1}, "2.jpg": {"cat": 0}}).write(home / "tested", home / "a")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("one", "is only one metadata folder"),
        ("one one", "is named twice"),
        ("one nowhere", "is no metadata folder"),
        ("one rootless", "records no image folder.*--images DIR"),
        ("one gone", "1 of 1 images are not in the image folder that it records"),
        ("one short", "word vectors of length 2, but .* has length 6.*--word-vectors"),
        ("one other_vectors", "1 of 1 common labels and words have other word vectors than in .*--word-vectors"),
        ("one unrelated", "shares no label with .*words.txt; others.txt.*--word-vectors"),
        ("one tested", "every training image is a validation image"),
        ("one other --same cat", "--same cat: not of the form OTHER=LABEL"),
        ("one other --same cat=zebra", "--same cat=zebra: no folder has the label zebra"),
        ("one other --same hot_dog=hot-dog", "is one label already"),
        ("one other --same cat=sea --same cat=jet", "cat is sea already"),
        ("one other --same cat=sea --same sea=cat", "goes round in a circle: cat = sea = cat"),
        ("one other --alias cat=dog", "--alias: has no effect without --word-vectors or --encoder"),
        ("one other --extra-words 5", "--extra-words: has no effect without --word-vectors or --encoder"),
        ("one other --output one --overwrite", "would replace it while it is read"),
    ],
)
def test_mistakes_are_refused_in_a_line_and_nothing_is_written(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _write_broken(tmp_path)
    before = (tmp_path / "one" / "train.json").read_bytes()
    with pytest.raises(UserError, match=message) as raised:
        prepare_source("combine", "--output", "new", *arguments.split())
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "one" / "train.json").read_bytes() == before


def test_combine_runs_from_the_command_line_and_again_with_overwrite(tmp_path):
    one, other = write_two(tmp_path)
    for flags in ((), ("--overwrite",)):
        finished = call(prepare_data.main, "combine", one, other, "--output", tmp_path / "both", *flags)
        assert finished.returncode == 0, finished.stderr
    assert f"written to {tmp_path / 'both'}" in finished.stdout
