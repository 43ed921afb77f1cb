"""Corel5k: a small folder of the true form, and the real one where it is there."""

from pathlib import Path

import numpy as np
import pytest
import torch

import prepare_data
from src.data.coco import read_coco_labels
from src.data.labels import LabelledImages, LabelMatrix
from src.data.metadata import Metadata, load_metadata
from src.errors import UserError
from tests.prepare_helpers import prepare_source

WORDS = ["city", "mountain", "sky", "tree", "cat", "jet"]
TRAINING = "1000 1 2 3  \n1003 4  \n16001 5 1\n"
TEST = "1001 2 3 \n16002 6 \n1001 3 4 \n\n"  # a blank line at the end, 1001 twice
VECTORS = {word: [1.0, row, row * row] for row, word in enumerate([*WORDS, "the", "of", ","])}


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "corel5k"
    for number in (1000, 1001, 1003, 16001, 16002):
        path = folder / "images" / str(number // 1000 * 1000) / f"{number}.jpeg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (folder / "words").write_text("\n".join(WORDS) + "\n")
    (folder / "training_label").write_text(TRAINING)
    (folder / "test_label").write_text(TEST)
    return folder


def vectors(folder: Path, *without: str) -> Path:
    path = folder / "vectors.txt"
    path.write_text("".join(f"{w} {' '.join(map(str, v))}\n" for w, v in VECTORS.items() if w not in without))
    return path


def prepare(source: Path, output: Path, vectors: Path, *flags: object) -> tuple[Metadata, list[str]]:
    """(what was made, the report)."""
    arguments = ["--source", source, "--output", output, "--word-vectors", vectors, *flags]
    report = prepare_source("corel5k", *arguments)
    return load_metadata(output), report


def labelled(metadata: Metadata) -> tuple[LabelledImages, LabelledImages]:
    return tuple(read_coco_labels(path, metadata.split.labels) for path in (metadata.train, metadata.val))


def tags(targets: LabelMatrix, labels: tuple[str, ...]) -> list[str]:
    return [" ".join(labels[column] for column in row.nonzero()[:, 0].tolist()) for row in targets.dense()]


def names(folder: Path, *words: str) -> Path:
    path = folder / "unseen.txt"
    path.write_text("\n".join(words), encoding="utf-8")
    return path


def test_metadata_folder(source, tmp_path):
    metadata, report = prepare(source, tmp_path / "m", vectors(tmp_path))
    split = metadata.split
    assert split.labels == tuple(WORDS)
    assert split.names(split.unseen) == ["mountain", "sky", "tree", "cat"]  # of NUS-WIDE's 81 concepts
    assert split.names(split.seen) == ["city", "jet"]
    assert split.name == "corel5k_2_4"
    expected = np.array([VECTORS[word] for word in WORDS]).T
    np.testing.assert_allclose(split.word_vectors, expected / np.linalg.norm(expected, axis=0), rtol=1e-6)
    assert metadata.image_root == source / "images"
    train, val = labelled(metadata)
    assert train.file_names == ("1000/1000.jpeg", "1000/1003.jpeg", "16000/16001.jpeg")
    assert tags(train.targets, split.labels) == ["city", "", "city"]  # the unseen ones are hidden
    assert val.image_ids == (1001, 16002)
    assert tags(val.targets, split.labels) == ["mountain sky tree", "jet"]  # both lines of 1001
    assert "val: merged 1 repeated lines of test_label" in report
    assert "train: hid the unseen labels of 3 images" in report
    assert report == (tmp_path / "m" / "report.txt").read_text().splitlines()


def test_words_without_a_vector_are_an_error_unless_they_may_be_dropped(source, tmp_path):
    path = vectors(tmp_path, "mountain", "jet")
    with pytest.raises(UserError, match=r"mountain(.|\n)*jet(.|\n)*--missing drop"):
        prepare(source, tmp_path / "m", path)
    assert not (tmp_path / "m").exists()
    metadata, report = prepare(source, tmp_path / "m", path, "--missing", "drop")
    labels = metadata.split.labels
    assert labels == ("city", "sky", "tree", "cat")
    assert "dropped 2 labels without a word vector: mountain, jet" in report
    train, val = labelled(metadata)
    assert tags(train.targets, labels) == ["city", "", "city"]
    assert tags(val.targets, labels) == ["sky tree", ""]  # 16002 stays, without labels


def test_own_unseen_labels(source, tmp_path):
    metadata, _ = prepare(source, tmp_path / "m", vectors(tmp_path), "--unseen", names(tmp_path, "jet", "city"))
    split = metadata.split
    assert split.names(split.unseen) == ["city", "jet"]
    assert split.names(split.seen) == ["mountain", "sky", "tree", "cat"]
    with pytest.raises(UserError, match=r"--unseen .*: no such label: unicorn"):
        prepare(source, tmp_path / "n", vectors(tmp_path), "--unseen", names(tmp_path, "jet", "unicorn"))
    assert not (tmp_path / "n").exists()


def replace(name: str, text: str):
    return lambda source: (source / name).write_text(text)


def remove(name: str):
    return lambda source: (source / name).unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (remove("words"), ["--source", "no words in it", "Corel5k folder"]),
        (remove("training_label"), ["no training_label"]),
        (remove("test_label"), ["no test_label"]),
        (remove("images/1000/1003.jpeg"), ["1 of the 3 images of training_label", "(1000/1003.jpeg)"]),
        (remove("images/16000/16002.jpeg"), ["1 of the 2 images of test_label", "(16000/16002.jpeg)"]),
        (replace("training_label", "1000 1\n\n1003 7\n"), ["training_label, line 3", "tags 1..6", "'1003 7'"]),
        (replace("training_label", "1000 0\n"), ["training_label, line 1", "'1000 0'"]),
        (replace("training_label", "1000 -1\n"), ["training_label, line 1"]),
        (replace("training_label", f"{10**30} 1\n"), ["training_label, line 1"]),
        (replace("training_label", f"1000 1\n{'9' * 5000} 1\n"), ["training_label, line 2"]),
        (replace("training_label", f"1000 {'1 ' * 500} 9\n"), ["training_label, line 1"]),
        (replace("training_label", "-1000 1\n"), ["training_label, line 1"]),
        (replace("training_label", "1_000 1\n"), ["training_label, line 1"]),
        (replace("test_label", "1001 sky\n"), ["test_label, line 1", "'1001 sky'"]),
        (replace("words", "city\n\nsky\ntree\ncat\njet\n"), ["words, line 2", "no word"]),
        (replace("words", "city\ncity\nsky\ntree\ncat\njet\n"), ["repeated labels: city"]),
        (replace("words", "cat\nsky\ntree\nmap\nsun\ntoy\n"), ["no seen label"]),
        (replace("words", "cat\n"), ["training_label, line 1"]),
    ],
)
def test_faults_are_reported_and_nothing_is_written(source, tmp_path, damage, words):
    path = tmp_path / "vectors.txt"
    path.write_text("".join(f"{word} 1 {row} 2\n" for row, word in enumerate([*WORDS, "map", "sun", "toy"])))
    damage(source)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError) as caught:
        prepare(source, tmp_path / "m", path)
    assert all(word in str(caught.value) for word in words), caught.value
    assert sorted(tmp_path.rglob("*")) == before


def test_an_output_folder_in_the_way_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "photo.jpg").touch()
    with pytest.raises(UserError, match="is not empty"):
        prepare(tmp_path / "gone", tmp_path / "m", tmp_path / "gone")


def test_sub_command(source, tmp_path, capsys):
    path = vectors(tmp_path, "jet")
    (tmp_path / "unseen.txt").write_bytes("\ufeffcat\r\n\r\n tree \r\n".encode())
    flags = ["corel5k", "--source", source, "--output", tmp_path / "m", "--word_vectors", path, "--missing", "drop"]
    arguments = [str(flag) for flag in [*flags, "--unseen", tmp_path / "unseen.txt", "--extra-words", "1"]]
    assert prepare_data.main(arguments) == 0
    assert capsys.readouterr().out.splitlines() == [
        "corel5k_3_2: 3 seen and 2 unseen labels",
        "word vectors of length 3 from vectors.txt, and of 1 further words",
        "train: 3 images, 4 labels (1.3333 per image), 1 images without any",
        "val: 2 images, 3 labels (1.5000 per image), 1 images without any",
        "val: 2 labels without any image: city, cat",
        "val: 1 images with an unseen label, 1 unseen labels",
        "val: merged 1 repeated lines of test_label",
        "dropped 1 labels without a word vector: jet",
        "train: 2 images with a seen label, 1 of them without any unseen label",
        "train: hid the unseen labels of 2 images",
        f"written to {tmp_path / 'm'}",
    ]
    assert prepare_data.main(arguments) == 2
    assert "is not empty" in capsys.readouterr().err
    assert prepare_data.main([*arguments, "--overwrite"]) == 0
    assert prepare_data.main([*arguments, "--overwrite", "--unseen", str(tmp_path / "none.txt")]) == 2
    assert "--unseen" in capsys.readouterr().err


def test_the_real_corel5k_with_the_nus_wide_vectors(shared_data, tmp_path):
    source, words = shared_data / "corel5k", shared_data / "nus_wide"
    with pytest.raises(UserError, match="73 of the 374"):
        prepare(source, tmp_path / "m", words, "--forms", "strict")
    metadata, _ = prepare(source, tmp_path / "m", words, "--forms", "strict", "--missing", "drop")
    split = metadata.split
    assert (len(split.seen), len(split.unseen), len(split.labels)) == (242, 59, 301)
    assert split.word_vectors.shape == (300, 301)
    train, val = labelled(metadata)
    assert (len(train), len(val)) == (4500, 499)
    all_words = (source / "words").read_text().split()
    lines = (source / "training_label").read_text().splitlines()
    seen = set(split.names(split.seen))
    for number, line in enumerate(lines[:200]):
        image, *numbers = line.split()
        row = train.image_ids.index(int(image))
        expected = {all_words[int(tag) - 1] for tag in numbers} & seen
        assert set(tags(train.targets.select_rows(torch.tensor([row])), split.labels)[0].split()) == expected, number
        assert train.file_names[row] == f"{int(image) // 1000 * 1000}/{image}.jpeg"
