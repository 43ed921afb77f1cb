"""Words beyond the labels that prepare_data.py stores: those of a list, WordNet's nouns, and frequent words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from src.data.metadata import load_metadata
from src.errors import UserError
from src.prepare.word_list import read_word_list
from src.word_vectors.arrays import ArrayVectors
from src.word_vectors.encoders import TextEncoder
from src.word_vectors.further import listed_words
from src.word_vectors.lookup import label_vectors
from tests.prepare_helpers import prepare_source
from tests.test_prepare_flag_effects import write_tables

LICENCE = "  1 This software and database is being provided to you, the LICENSEE, by  \n  2 Princeton University\n"
INDEX = """\
'hood n 1 2 @ ; 1 0 00000007
10 n 1 1 @ 1 1 00000001
a n 1 1 @ 1 1 00000001
cat n 2 5 @ ~ #m + ; 2 1 00000001 00000002
hot_dog n 1 1 @ 1 0 00000003
london n 2 5 @ #p %m %p + 2 1 00000004 00000005
mercury n 2 2 @ ~ 2 1 00000004 00000001
st._bernard n 1 1 @ 1 0 00000001
"""
DATA = """\
00000001 05 n 02 cat 0 true_cat 0 001 @ 00000009 n 0000 | feline; "an @i cat"
00000002 05 n 01 cat 1 001 @ 00000009 n 0000 | not @i a pointer
00000004 15 n 01 London 0 002 @i 00000009 n 0000 #p 00000008 n 0000 | the capital
00000005 18 n 01 London 1 001 @i 00000009 n 0000 | a writer
"""


def source(*words: str) -> ArrayVectors:
    vectors = np.random.default_rng(0).normal(size=(len(words), 5)).astype(np.float32)
    return ArrayVectors(words, vectors, "test", "--word-vectors test")


def wordnet(folder: Path, index: str = LICENCE + INDEX, data: str | None = LICENCE + DATA) -> Path:
    (folder / "index.noun").write_text(index)
    if data is not None:
        (folder / "data.noun").write_text(data)
    return folder / "index.noun"


def test_plain_list_has_a_tag_per_line(tmp_path):
    (tmp_path / "words").write_text("\ufeffcat\n\n  hot dog  \r\nCrème brûlée\ncat\n", encoding="utf-8")
    assert read_word_list(tmp_path / "words").words == ["cat", "hot dog", "Crème brûlée", "cat"]


def test_wordnet_without_numbers_letters_and_names(tmp_path):
    found = read_word_list(wordnet(tmp_path))
    assert found.words == ["cat", "hot dog", "mercury", "st. bernard"]
    assert found.notes == ["--extra-words-file: left out 1 of the 8 lemmas, which are names of persons and places"]


def test_wordnet_without_its_data_keeps_names(tmp_path):
    found = read_word_list(wordnet(tmp_path, INDEX, None))
    assert found.words == ["cat", "hot dog", "london", "mercury", "st. bernard"]
    assert "names of persons and places are not left out, as " in found.notes[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no words; give one per line"),
        (b"\n \n", "holds no words; give one per line"),
        ((LICENCE + "cat n 1 1 @ 1 0 00000001\ncat\n").encode(), "but not in the line 'cat'; get the file again"),
        (b"caf\xe9\n", "line 1: not UTF-8 text"),
    ],
)
def test_a_list_that_is_none_is_refused(content, message, tmp_path):
    (tmp_path / "words").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_word_list(tmp_path / "words")
    assert str(caught.value).startswith(f"--extra-words-file {tmp_path / 'words'}")
    with pytest.raises(UserError, match=r"--extra-words-file .*no: cannot be read"):
        read_word_list(tmp_path / "no")


def test_listed_words_are_in_the_order_of_the_source_and_phrases_are_their_words():
    words = source("the", "dog", "ice-cream", "sky", "cat", "hot", "rare", "dog")
    texts = ["rare", "hot dog", "ice cream", "Cat", "sky blue", "none", "cat", "hot dog"]
    kept = listed_words(words, texts, None, ["rare"])
    assert kept.words == ("dog", "ice cream", "Cat", "cat", "hot")
    assert listed_words(words, texts, 2, ["dog"]).words == ("ice cream", "Cat")
    stored = ArrayVectors(kept.words, kept.vectors.t().numpy(), "stored", "--tags")
    labels = ["hot dog", "ice cream", "cat"]
    expected = label_vectors(words, labels).vectors
    torch.testing.assert_close(label_vectors(stored, labels).vectors, expected)


def test_damaged_and_zero_vectors_are_passed_over():
    words = ArrayVectors(["dog", "hot", "cat", "sky"], np.float32([[1, 2], [np.nan, 1], [0, 0], [2, 1]]), "test", "")
    assert listed_words(words, ["hot dog", "cat", "sky", "hot"], None, []).words == ("dog", "sky")


def test_no_word_of_the_list_has_a_vector():
    kept = listed_words(source("dog"), ["cat"], None, [])
    assert (kept.words, tuple(kept.vectors.shape)) == ((), (5, 0))


def test_an_encoder_has_no_list_of_words():
    encoder = TextEncoder("sentence-transformers:x", lambda texts: np.ones((len(texts), 2)))
    with pytest.raises(UserError, match=r"^--extra-words-file: .* leave --extra-words-file out, or give"):
        listed_words(encoder, ["dog"], None, [])


def test_list_comes_before_frequent_words(tmp_path):
    table = write_tables(tmp_path / "table") / "tags.csv"
    words = ["the", "of", "sea", "night", "dog", "boat", "park", "snow", "cat", "tree", "hot", "frisbee", "london"]
    rows = zip(words, np.random.default_rng(0).normal(size=(len(words), 8)).tolist(), strict=True)
    (tmp_path / "v.txt").write_text("".join(f"{word} {' '.join(map(str, row))}\n" for word, row in rows))
    base = ("--source", table, "--word-vectors", tmp_path / "v.txt", "--extra-words", "2")
    report = prepare_source("table", *base, "--extra-words-file", wordnet(tmp_path), "--output", tmp_path / "m")
    assert load_metadata(tmp_path / "m").extra_words.words == ("hot", "the", "of")
    assert "--extra-words-file: kept 1 words for a list of 4" in report
    (tmp_path / "few").write_text("frisbee\nhot\nlondon\n")
    limit = ("--extra-words-file", tmp_path / "few", "--extra-words-limit", "2", "--output", tmp_path / "n")
    prepare_source("table", *base, *limit)
    assert load_metadata(tmp_path / "n").extra_words.words == ("hot", "frisbee", "the", "of")
