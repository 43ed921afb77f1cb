"""Corel5k: a small folder of the true form, and the real one where it is there."""

from pathlib import Path

import numpy as np
import pytest
import torch

import prepare_data
from src.data.coco import read_coco_labels
from src.data.corel5k import prepare_corel5k
from src.data.metadata import load_metadata
from src.errors import UserError

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


def tags(targets: torch.Tensor, labels: tuple[str, ...]) -> list[str]:
    return [" ".join(labels[column] for column in row.nonzero()[:, 0].tolist()) for row in targets]


def test_the_folder_that_is_made(source, tmp_path):
    report = prepare_corel5k(source, tmp_path / "m", vectors(tmp_path))
    metadata = load_metadata(tmp_path / "m")
    split = metadata.split
    assert split.labels == tuple(WORDS)
    assert split.names(split.unseen) == ["mountain", "sky", "tree", "cat"]  # of NUS-WIDE's 81 concepts
    assert split.names(split.seen) == ["city", "jet"]
    assert split.name == "corel5k_2_4"
    expected = np.array([VECTORS[word] for word in WORDS]).T
    np.testing.assert_allclose(split.word_vectors, expected / np.linalg.norm(expected, axis=0), rtol=1e-6)
    assert metadata.image_root == source / "images"
    train, val = (read_coco_labels(path, split.labels) for path in (metadata.train, metadata.val))
    assert train.file_names == ("1000/1000.jpeg", "1000/1003.jpeg", "16000/16001.jpeg")
    assert tags(train.targets, split.labels) == ["city mountain sky", "tree", "city cat"]
    assert val.image_ids == (1001, 16002)
    assert tags(val.targets, split.labels) == ["mountain sky tree", "jet"]  # both lines of 1001
    assert torch.equal(report.train.targets, train.targets)
    assert (report.repeated_lines, report.dropped, report.extra_words) == (1, [], None)


def test_words_without_a_vector_are_an_error_unless_they_may_be_dropped(source, tmp_path):
    path = vectors(tmp_path, "mountain", "jet")
    with pytest.raises(UserError, match=r"no vector for 2 of the 6 words \(mountain, jet\).*--missing drop"):
        prepare_corel5k(source, tmp_path / "m", path)
    assert not (tmp_path / "m").exists()
    report = prepare_corel5k(source, tmp_path / "m", path, drop_missing=True)
    labels = load_metadata(tmp_path / "m").split.labels
    assert labels == ("city", "sky", "tree", "cat")
    assert report.dropped == ["mountain", "jet"]
    assert tags(report.train.targets, labels) == ["city sky", "tree", "city cat"]
    assert tags(report.val.targets, labels) == ["sky tree", ""]  # 16002 stays, without labels


def test_own_unseen_labels(source, tmp_path):
    report = prepare_corel5k(source, tmp_path / "m", vectors(tmp_path), unseen=["jet", "city"])
    assert report.split.names(report.split.unseen) == ["city", "jet"]
    assert report.split.names(report.split.seen) == ["mountain", "sky", "tree", "cat"]
    with pytest.raises(UserError, match=r"--unseen .*: no such label: unicorn"):
        prepare_corel5k(source, tmp_path / "n", vectors(tmp_path), unseen=["jet", "unicorn"])
    with pytest.raises(UserError, match=r"--unseen \(words that have a vector\): no such label: jet"):
        prepare_corel5k(source, tmp_path / "n", vectors(tmp_path, "jet"), unseen=["jet"], drop_missing=True)
    assert not (tmp_path / "n").exists()


def test_further_words_leave_out_the_labels(source, tmp_path):
    prepare_corel5k(source, tmp_path / "m", vectors(tmp_path), extra_words=10)
    extra = load_metadata(tmp_path / "m").extra_words
    assert extra.words == ("the", "of")
    torch.testing.assert_close(extra.vectors.norm(dim=0), torch.ones(2))


def replace(name: str, text: str):
    return lambda source: (source / name).write_text(text)


def remove(name: str):
    return lambda source: (source / name).unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (remove("words"), ["--source", "cannot read words", "Corel5k folder"]),
        (remove("training_label"), ["cannot read training_label"]),
        (remove("test_label"), ["cannot read test_label"]),
        (remove("images/1000/1003.jpeg"), ["1 of the 3 pictures of training_label", "(1000/1003.jpeg)"]),
        (remove("images/16000/16002.jpeg"), ["1 of the 2 pictures of test_label", "(16000/16002.jpeg)"]),
        (replace("training_label", "1000 1\n\n1003 7\n"), ["training_label, line 3", "tags 1..6", "'1003 7'"]),
        (replace("training_label", "1000 0\n"), ["training_label, line 1", "'1000 0'"]),
        (replace("training_label", "1000 -1\n"), ["training_label, line 1"]),
        (replace("test_label", "1001 sky\n"), ["test_label, line 1", "'1001 sky'"]),
        (replace("words", "city\n\nsky\ntree\ncat\njet\n"), ["words, line 2", "no word"]),
        (replace("words", "city\ncity\nsky\ntree\ncat\njet\n"), ["repeated labels: city"]),
        (replace("words", "cat\n"), ["no seen label"]),
    ],
)
def test_faults_are_named_and_nothing_is_written(source, tmp_path, damage, words):
    path = vectors(tmp_path)
    damage(source)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError) as caught:
        prepare_corel5k(source, tmp_path / "m", path)
    assert all(word in str(caught.value) for word in words), caught.value
    assert sorted(tmp_path.rglob("*")) == before


def test_an_output_folder_in_the_way_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "photo.jpg").touch()
    with pytest.raises(UserError, match="is not empty"):
        prepare_corel5k(tmp_path / "gone", tmp_path / "m", tmp_path / "gone")


def test_the_sub_command(source, tmp_path, capsys):
    path = vectors(tmp_path, "jet")
    (tmp_path / "unseen.txt").write_text("\ufeffcat\n\n tree \n", encoding="utf-8")
    flags = ["corel5k", "--source", source, "--output", tmp_path / "m", "--word_vectors", path, "--missing", "drop"]
    arguments = [str(flag) for flag in [*flags, "--unseen", tmp_path / "unseen.txt", "--extra-words", "1"]]
    assert prepare_data.main(arguments) == 0
    output = capsys.readouterr().out.splitlines()
    assert output[0].endswith("m: 3 seen and 2 unseen labels, word vectors of length 3")
    assert output[1:] == [
        "  train: 3 pictures, 6 labels, 0 pictures without any",
        "  val: 2 pictures, 3 labels, 1 pictures without any",
        "  merged 1 repeated lines of the label files",
        "  dropped 1 words without a vector: jet",
        "  1 further words",
    ]
    assert prepare_data.main(arguments) == 2
    assert "is not empty" in capsys.readouterr().err
    assert prepare_data.main([*arguments, "--overwrite"]) == 0
    assert prepare_data.main([*arguments, "--overwrite", "--unseen", str(tmp_path / "none.txt")]) == 2
    assert "--unseen" in capsys.readouterr().err


def test_the_real_corel5k_with_the_nus_wide_vectors(shared_data, tmp_path):
    source, words = shared_data / "corel5k", shared_data / "nus_wide"
    with pytest.raises(UserError, match="no vector for 73 of the 374 words"):
        prepare_corel5k(source, tmp_path / "m", words)
    report = prepare_corel5k(source, tmp_path / "m", words, drop_missing=True)
    split = load_metadata(tmp_path / "m").split
    assert (len(split.seen), len(split.unseen), len(split.labels)) == (242, 59, 301)
    assert split.word_vectors.shape == (300, 301)
    assert (len(report.train), len(report.val), len(report.dropped), report.repeated_lines) == (4500, 499, 73, 1)
    names = (source / "words").read_text().split()
    first = (source / "training_label").read_text().splitlines()[0].split()
    expected = {names[int(tag) - 1] for tag in first[1:]} & set(split.labels)
    assert {split.labels[column] for column in report.train.targets[0].nonzero()[:, 0].tolist()} == expected
    assert report.train.file_names[0] == f"{int(first[0]) // 1000 * 1000}/{first[0]}.jpeg"
