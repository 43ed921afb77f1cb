"""Word vectors from the files people have, for labels as people write them."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from src.data.metadata import write_metadata
from src.data.split import make_split
from src.data.word_vectors import Vocabulary, frequent_words, label_vectors, read_vocabulary
from src.errors import UserError

WORDS = {"the": [3, 4, 0], "dog": [0, 0, 2], "hot": [1, 0, 0], "Zürich": [0.5, -1e-3, 2]}
TEXT = "".join(f"{word} {' '.join(map(str, numbers))}\n" for word, numbers in WORDS.items())


def glove(folder: Path, text: str, name: str = "vectors.txt") -> Path:
    path = folder / name
    data = text.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def wink(folder: Path, content: object) -> Path:
    path = folder / "wink-embeddings-sg-3d.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


WINK = {
    "precision": 6,
    "dimensions": 3,
    "words": list(WORDS),
    "vectors": {word: [*numbers, 1.0, row] for row, (word, numbers) in reversed(list(enumerate(WORDS.items())))},
}


def assert_is_the_vocabulary(read: Vocabulary) -> None:
    assert read.words == list(WORDS)
    assert read.vectors.dtype == np.float32
    np.testing.assert_array_equal(read.vectors, np.array(list(WORDS.values()), dtype=np.float32))


@pytest.mark.parametrize("name", ["vectors.txt", "vectors.txt.gz", "glove.vec"])
@pytest.mark.parametrize(
    "text",
    [TEXT, "4 3\n" + TEXT, TEXT.replace("\n", " \n"), TEXT.replace("\n", "\r\n"), TEXT.rstrip("\n")],
    ids=["plain", "header line", "trailing spaces", "windows", "no last newline"],
)
def test_glove_text(tmp_path, name, text):
    path = glove(tmp_path, text, name)
    assert_is_the_vocabulary(read_vocabulary(path))
    assert read_vocabulary(str(path)).source == name


def test_a_first_word_that_is_a_number_is_no_header(tmp_path):
    read = read_vocabulary(glove(tmp_path, "400000 1 2\n7 3 4\n"))
    assert read.words == ["400000", "7"]


def test_words_with_spaces_as_in_glove_840b(tmp_path):
    read = read_vocabulary(glove(tmp_path, TEXT + ". . . 1 2 3\nat name@domain.com 4 5 6\n"))
    assert read.words[-2:] == [". . .", "at name@domain.com"]
    np.testing.assert_array_equal(read.vectors[-1], [4, 5, 6])


def test_wink_json(tmp_path):
    read = read_vocabulary(wink(tmp_path, WINK))
    assert_is_the_vocabulary(read)
    assert read.source == "wink-embeddings-sg-3d.json"


def test_a_metadata_folder_gives_its_labels(tmp_path):
    vectors = torch.randn(3, 2)
    split = make_split(("cat", "traffic light"), [0], [1], vectors, name="x", source="x")
    write_metadata(tmp_path / "m", split, {}, image_root=None, word_vector_source="x")
    read = read_vocabulary(tmp_path / "m")
    assert read.words == ["cat", "traffic light"]
    np.testing.assert_array_equal(read.vectors, vectors.t().numpy())


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a 1 2 3\nb 1 2\n", 2, "2 numbers, but the first line has 3"),
        ("a 1 2 3\nb 1 2 3\nc 1 2 3 4\n", 3, "4 numbers, but the first line has 3"),
        ("a 1 2 3\n\nb 1 2 3\n", 2, "0 numbers"),
        ("a 1 2 3\nb 1 x 3\n", 2, "'x'"),
        ("2 3\na 1 2 3\nb one two three\n", 3, "'one'"),
        ("a\n", 1, "0 numbers"),
        ("this is a text file\nwith words in it\n", 1, "'is'"),
    ],
)
@pytest.mark.parametrize("name", ["vectors.txt", "vectors.txt.gz"])
def test_a_wrong_line_is_named_with_its_number(tmp_path, name, text, line, words):
    with pytest.raises(UserError) as caught:
        read_vocabulary(glove(tmp_path, text, name))
    assert f"--word-vectors {tmp_path / name}, line {line}: " in str(caught.value)
    assert words in str(caught.value)


COMPRESSED = gzip.compress((TEXT * 200).encode())


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.txt", b""),
        ("x.txt", b"caf\xe9 1 2 3\n"),
        ("x.txt.gz", COMPRESSED[:-40]),
        ("x.txt.gz", COMPRESSED[:40] + b"\xff" * 40 + COMPRESSED[80:]),
        ("x.txt.gz", b"not compressed 1 2\n"),
        ("x.txt.gz", b""),
        ("x.json", b"{"),
        ("x.json", b"[1, 2]"),
        ("x.json", b'{"dimensions": 3, "words": ["a"], "vectors": {}}'),
        ("x.json", b'{"dimensions": 3, "words": ["a", "b"], "vectors": {"a": [1, 2, 3], "b": [1]}}'),
        ("x.json", b'{"dimensions": 3, "words": ["a"], "vectors": {"a": ["x", "y", "z"]}}'),
        ("x.json", b"\xff\xfe"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        read_vocabulary(path)
    assert str(caught.value).startswith(f"--word-vectors {path}: ")
    assert "\n" not in str(caught.value)


def test_no_file_and_no_metadata_folder(tmp_path):
    with pytest.raises(UserError, match=r"--word-vectors .*gone: no such file or folder"):
        read_vocabulary(tmp_path / "gone")
    with pytest.raises(UserError, match=r"the folder is no metadata folder"):
        read_vocabulary(tmp_path)


def vocabulary(**vectors: list[float]) -> Vocabulary:
    return Vocabulary([word.replace("__", "-") for word in vectors], np.array(list(vectors.values()), "f4"), "test")


def unit(*vector: float) -> np.ndarray:
    return np.array(vector) / np.linalg.norm(vector)


def test_a_word_is_found_as_it_stands_before_lower_case():
    words = vocabulary(Apple=[1, 0], apple=[0, 2], pear=[3, 3])
    np.testing.assert_allclose(words.find("Apple"), [1, 0])
    np.testing.assert_allclose(words.find("apple"), [0, 1])
    np.testing.assert_allclose(words.find("PEAR"), unit(1, 1), rtol=1e-6)
    assert words.find("plum") is None


def test_of_a_repeated_word_the_first_vector_counts():
    words = Vocabulary(["a", "a"], np.array([[1, 0], [0, 1]], dtype=np.float32), "test")
    np.testing.assert_allclose(words.find("a"), [1, 0])


@pytest.mark.parametrize(
    "label", ["traffic light", "traffic_light", "traffic-light", "Traffic Light", "traffic  light"]
)
def test_several_words_are_the_mean_of_their_unit_vectors(label):
    words = vocabulary(traffic=[10, 0, 0], light=[0, 0, 0.1])  # their lengths shall not weigh
    np.testing.assert_allclose(words.find(label), unit(1, 0, 1), rtol=1e-6)


@pytest.mark.parametrize("label", ["t-shirt", "T-shirt", "t shirt", "T_Shirt"])
def test_a_word_with_a_hyphen_is_preferred_to_its_parts(label):
    np.testing.assert_allclose(vocabulary(t=[1, 0], shirt=[1, 0], t__shirt=[0, 5]).find(label), [0, 1])


@pytest.mark.parametrize("label", ["hot_dog", "tennis-racket", "", "-", "hot unknown"])
def test_a_label_with_an_unknown_part_has_no_vector(label):
    assert vocabulary(hot=[1, 0], tennis=[1, 0]).find(label) is None


def test_label_vectors_are_unit_columns_in_the_labels_order():
    words = vocabulary(hot=[3, 4], dog=[0, 7], cat=[1, 1], null=[0, 0])
    found, vectors, missing = label_vectors(words, ["dog", "unicorn", "hot_dog", "null", "cat", "so-so"])
    assert found == ["dog", "hot_dog", "cat"]
    assert missing == ["unicorn", "null", "so-so"]
    assert vectors.dtype == torch.float32
    expected = np.stack([[0, 1], unit(0.6, 1.8), unit(1, 1)], axis=1)
    np.testing.assert_allclose(vectors.numpy(), expected, rtol=1e-6)
    torch.testing.assert_close(vectors.norm(dim=0), torch.ones(3))


def test_no_label_with_a_vector_is_an_error():
    with pytest.raises(UserError, match=r"--word-vectors test: none of the labels has a vector \(red, blue\)"):
        label_vectors(vocabulary(cat=[1, 0]), ["red", "blue"])


def test_frequent_words_keep_the_files_order_and_leave_out_what_is_no_word():
    words = Vocabulary(
        ["the", ",", "dog", "2010", "don't", "u.s.", "NATO", "a", "so-so", "zero", "naïve", "late"],
        np.array([[2, 0]] * 9 + [[0, 0]] + [[0, 3]] * 2, dtype=np.float32),
        "test",
    )
    extra = frequent_words(words, 100, ["dog"])
    assert extra.words == ("the", "don't", "so-so", "late")
    np.testing.assert_array_equal(extra.vectors.numpy(), [[1, 1, 1, 0], [0, 0, 0, 1]])
    assert frequent_words(words, 2, ["dog"]).words == ("the", "don't")


def test_no_frequent_words():
    words = vocabulary(the=[1, 0])
    assert frequent_words(words, 0, []) is None
    none_left = frequent_words(words, 5, ["the"])
    assert none_left.words == ()
    assert none_left.vectors.shape == (2, 0)


def test_real_nus_wide_vectors_as_a_vocabulary(shared_data):
    read = read_vocabulary(shared_data / "nus_wide")
    found, vectors, missing = label_vectors(read, ["zebra", "Sunset", "tennis racket", "unicorn"])
    assert (found[:2], missing[-1]) == (["zebra", "Sunset"], "unicorn")
    np.testing.assert_allclose(vectors[:, 0].numpy(), read.vectors[read.words.index("zebra")], rtol=1e-5)
