"""Metadata folders made of a source: columns, hidden labels, reports, and nothing half-written."""

from pathlib import Path

import pytest
import torch

from src.config.prepare import OutputSettings, VectorSettings
from src.data.coco import read_coco_labels
from src.data.labels import LabelledImages, LabelMatrix
from src.data.metadata import load_metadata
from src.data.metadata_writer import write_metadata
from src.errors import UserError
from src.prepare.collected import Collected
from src.prepare.run import content_of
from src.prepare.word_vectors import OpenVectors, open_vectors

LABELS = ["ant", "bee", "cat", "dog"]
VECTORS = {"ant": "1 0 0", "bee": "0 2 0", "cat": "0 0 3", "dog": "1 1 0", "the": "5 5 5", "beetle": "0 1 1"}
TRAIN = [[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
VAL = [[1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]]


@pytest.fixture
def vectors(tmp_path):
    def options(*without: str, **keywords: object) -> OpenVectors:
        path = tmp_path / "vectors.txt"
        path.write_text("".join(f"{word} {numbers}\n" for word, numbers in VECTORS.items() if word not in without))
        return open_vectors(VectorSettings(word_vectors=str(path), **keywords))

    return options


def part(targets: list[list[int]]) -> LabelledImages:
    numbers = tuple(range(1, len(targets) + 1))
    matrix = LabelMatrix.from_dense(torch.tensor(targets, dtype=torch.int8))
    return LabelledImages(numbers, tuple(f"{number}.jpg" for number in numbers), matrix)


def collected(**changes: object) -> Collected:
    settings = {"unseen": ["cat"], "image_root": None, **changes}
    return Collected("zoo", LABELS, {"train": part(TRAIN), "val": part(VAL)}, **settings)


def prepare(source: Collected, vectors: OpenVectors, output: Path, **options: object) -> list[str]:
    content, report = content_of(source, vectors, OutputSettings(output=output, **options))
    write_metadata(output, content, official=options.get("official", False))
    return report


def targets(folder: Path, name: str) -> list[list[int]]:
    metadata = load_metadata(folder)
    return read_coco_labels(getattr(metadata, name), metadata.split.labels).targets.dense().tolist()


def test_unseen_labels_of_training_images_are_hidden(tmp_path, vectors):
    report = prepare(collected(), vectors(), tmp_path / "m")
    assert targets(tmp_path / "m", "train") == [[1, 0, 0, 1], [0, 1, 0, 0], [0] * 4, [0, 1, 0, 0], [0, 0, 0, 1]]
    assert targets(tmp_path / "m", "val") == VAL
    assert report == [
        "zoo_3_1: 3 seen and 1 unseen labels",
        "word vectors of length 3 from vectors.txt",
        "train: 5 images, 5 labels (1.0000 per image), 1 images without any",
        "val: 3 images, 3 labels (1.0000 per image), 1 images without any",
        "val: 1 labels without any image: bee",
        "val: 1 images with an unseen label, 1 unseen labels",
        "train: 4 images with a seen label, 3 of them without any unseen label",
        "train: hid the unseen labels of 1 images",
    ]
    assert (tmp_path / "m" / "report.txt").read_text().splitlines() == report


def test_training_images_with_unseen_labels_are_dropped(tmp_path, vectors):
    report = prepare(collected(), vectors(), tmp_path / "m", train_with_unseen="drop")
    assert targets(tmp_path / "m", "train") == [row for row in TRAIN if not row[2]]
    assert targets(tmp_path / "m", "val") == VAL
    assert report[-1] == "train: left out 1 images with an unseen label"


def test_dropped_labels_lose_their_columns(tmp_path, vectors):
    """Labels keep their own columns."""
    report = prepare(collected(unseen=["dog"]), vectors("bee", "the", "beetle", missing="drop"), tmp_path / "m")
    assert load_metadata(tmp_path / "m").split.labels == ("ant", "cat", "dog")
    assert targets(tmp_path / "m", "val") == [[row[0], row[2], row[3]] for row in VAL]
    assert targets(tmp_path / "m", "train") == [[row[0], row[2], 0] for row in TRAIN]
    assert "dropped 1 labels without a word vector: bee" in report


def test_a_missing_vector_is_an_error_that_writes_nothing(tmp_path, vectors):
    options = vectors("bee", "beetle")
    with pytest.raises(UserError, match="bee"):
        prepare(collected(), options, tmp_path / "m")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vectors.txt"]


def test_texts_and_aliases_are_looked_up(tmp_path, vectors):
    renamed = Collected(
        "zoo",
        ["ant", "Bee (/m/0x)", "cat", "dog"],
        {"val": part(VAL)},
        None,
        unseen=["cat"],
        texts={"Bee (/m/0x)": "bee"},
    )
    prepare(renamed, vectors(alias=["dog=ant"]), tmp_path / "m")
    split = load_metadata(tmp_path / "m").split
    assert split.labels[1] == "Bee (/m/0x)"
    assert split.word_vectors.t().tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]]


def test_labels_on_neither_side(tmp_path, vectors):
    report = prepare(collected(seen=["dog"]), vectors(), tmp_path / "m")
    split = load_metadata(tmp_path / "m").split
    assert (split.names(split.seen), split.names(split.unseen)) == (["dog"], ["cat"])
    assert report[0] == "zoo_1_1: 1 seen and 1 unseen labels (2 more on neither side)"


def test_unseen_labels_may_be_chosen_by_their_vectors(tmp_path, vectors):
    def farthest(labels, matrix):
        assert matrix.shape == (3, len(labels))
        return [labels[int(matrix[2].argmax())]]

    prepare(collected(unseen=None, choose_unseen=farthest), vectors(), tmp_path / "m")
    split = load_metadata(tmp_path / "m").split
    assert split.names(split.unseen) == ["cat"]
    assert split.names(split.seen) == ["ant", "bee", "dog"]


def test_further_words_notes_and_missing_pictures(tmp_path, vectors):
    source = collected(notes=["one note"], missing_pictures=["7.jpg", "ü.jpg"])
    report = prepare(source, vectors(extra_words=2), tmp_path / "m")
    assert load_metadata(tmp_path / "m").extra_words.words == ("the", "beetle")
    assert report[1] == "word vectors of length 3 from vectors.txt, and of 2 further words"
    assert "one note" in report
    assert (tmp_path / "m" / "missing_pictures.txt").read_text(encoding="utf-8") == "7.jpg\nü.jpg\n"


def test_unknown_labels_stay_unknown_and_are_counted(tmp_path, vectors):
    partly = LabelMatrix.from_entries(
        torch.tensor([0, 0]), torch.tensor([0, 2]), torch.tensor([0, 1]),
        unlisted=torch.tensor([-1], dtype=torch.int8), num_labels=4,
    )  # fmt: skip
    source = Collected("zoo", LABELS, {"train": LabelledImages((1,), ("a",), partly)}, None, unseen=["cat"])
    report = prepare(source, vectors(), tmp_path / "m")
    assert targets(tmp_path / "m", "train") == [[0, -1, -1, -1]]  # cat is hidden: as unknown as the others
    assert "train: 3 unknown labels" in report


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": ["ant", "bee", "ant", "dog"]}, ["repeated labels: ant"]),
        ({"seen": ["ant", "cat"]}, ["both seen and unseen: cat"]),
        ({"unseen": ["unicorn"]}, ["no such label: unicorn"]),
        ({"seen": ["unicorn"]}, ["no such label: unicorn"]),
        ({"unseen": LABELS}, ["no seen label"]),
    ],
)
def test_faults_of_the_split_are_named_and_nothing_is_written(tmp_path, vectors, changes, words):
    source = collected()
    for name, value in changes.items():
        setattr(source, name, value)
    options = vectors()
    with pytest.raises(UserError) as caught:
        prepare(source, options, tmp_path / "m")
    assert all(word in str(caught.value) for word in words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vectors.txt"]


def test_permuting_the_labels_permutes_the_columns_and_nothing_else(tmp_path, vectors):
    order = [2, 0, 3, 1]
    permuted = Collected(
        "zoo",
        [LABELS[column] for column in order],
        {
            "train": part([[row[c] for c in order] for row in TRAIN]),
            "val": part([[row[c] for c in order] for row in VAL]),
        },
        None,
        unseen=["cat"],
    )
    prepare(collected(), vectors(), tmp_path / "a")
    prepare(permuted, vectors(), tmp_path / "b")
    for name in ("train", "val"):
        assert targets(tmp_path / "b", name) == [[row[c] for c in order] for row in targets(tmp_path / "a", name)]
    one, other = (load_metadata(tmp_path / name).split for name in "ab")
    assert torch.equal(other.word_vectors, one.word_vectors[:, order])


def test_labels_with_equal_vectors_are_reported(tmp_path, vectors):
    report = prepare(collected(), vectors(alias=["dog=ant"]), tmp_path / "m")
    assert "labels with one and the same word vector, which no model can tell apart: ant = dog" in report


def test_plurals_replace_unknown_words_unless_strict(tmp_path, vectors):
    source = Collected("zoo", ["ants", "bee", "cat", "dog"], {"val": part(VAL)}, None, unseen=["cat"])
    report = prepare(source, vectors(), tmp_path / "m")
    assert "word vectors found under another form for 1 labels: ants (ant)" in report
    with pytest.raises(UserError, match="ants"):
        prepare(source, vectors(forms="strict"), tmp_path / "n")
