"""Random changes of valid files: they are read, or refused in one short line, and no warning is printed."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from src.data.official import read_coco_split, read_nus_wide_split
from src.errors import UserError
from src.word_vectors.further import frequent_words
from src.word_vectors.lookup import label_vectors
from src.word_vectors.source import open_word_vectors
from src.word_vectors.space import check_space, space_of
from tests.test_word_vector_files import MATRIX, TEXT, WINK, WORDS, binary_rows, hand_made_model, npy, zipped

CASES = 50  # of each format
BITS = [b"\xff" * 4, b"\xff\xff\xff\x7f", b"\0" * 8, b"99999999999", b"-1", b"nan", b"\n", b" ", b"[", b"(", b"."]


def npz() -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, a=MATRIX, w=np.array(list(WORDS)))
    return stream.getvalue()


FILES = {
    "text.vec": b"4 3\n" + TEXT.encode(),
    "text.txt": TEXT.encode(),
    "text.gz": gzip.compress(TEXT.encode()),
    "text.bz2": bz2.compress(TEXT.encode()),
    "text.xz": lzma.compress(TEXT.encode()),
    "text.zip": zipped("one.txt", TEXT.encode()),
    "word2vec.bin": b"4 3\n" + binary_rows(),
    "fasttext.bin": hand_made_model()[0],
    "wink.json": json.dumps(WINK).encode(),
    "map.json": json.dumps(WORDS).encode(),
    "array.npy": npy(MATRIX),
    "arrays.npz": npz(),
}


def changed(data: bytes, draw: random.Random) -> bytes:
    content = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 5])):
        place, bits = draw.randrange(len(content) + 1), draw.choice([*BITS, draw.randbytes(3)])
        kind = draw.randrange(5)
        if kind == 0:
            content[place:place] = bits
        elif kind == 1:
            content[place : place + len(bits)] = bits
        elif kind == 2:
            del content[place : place + draw.choice([1, 4, 40])]
        elif kind == 3:
            content[place:place] = content[draw.randrange(len(content) + 1) :][:200]
        else:
            del content[place:]
    return bytes(content)


def use(path: Path) -> None:
    source = open_word_vectors(path)
    label_vectors(source, ["dog", "Zürich", "hot dogs", "doog", "-"])
    frequent_words(source, 2, ["the"])
    check_space(space_of(["dog", "hot"], torch.from_numpy(MATRIX[1:3].T.copy())), source)


def read_or_refused(read, path: Path, data: bytes) -> None:
    path.write_bytes(data)
    message = ""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            read()
        except UserError as error:
            message = str(error)
    assert len(message) < 2000


@pytest.mark.parametrize("name", list(FILES))
def test_changed_vector_files(tmp_path, name):
    (tmp_path / "array.txt").write_text("\n".join(WORDS))
    path = tmp_path / name
    draw = random.Random(name)
    for _ in range(CASES):
        data = changed(FILES[name], draw)
        read_or_refused(lambda: use(path), path, data)
    if path.suffix in (".gz", ".zip"):
        for _ in range(CASES):
            text = changed(TEXT.encode(), draw)
            read_or_refused(
                lambda: use(path), path, gzip.compress(text) if name == "text.gz" else zipped("a.txt", text)
            )


@pytest.mark.parametrize("protocol", range(6))
def test_changed_pickles(tmp_path, protocol):
    draw = random.Random(protocol)
    names = ["apple", "boat", "cat"]
    folders = {
        read_nus_wide_split: {
            "classes.pickle": dict(enumerate(names)),
            "unseen_classes.pickle": np.array(["cat"], dtype=object),
            "wordvec_array.pickle": np.ones((2, 3), np.float16),
        },
        read_coco_split: {
            "cls_ids.pickle": {"train": {0, np.int64(1)}, "test": [2]},
            "wordvec_array.pickle": {"wordvec_array": np.ones((1, 2, 80), np.float32)},
        },
    }
    for read, files in folders.items():
        contents = {tmp_path / name: pickle.dumps(value, protocol) for name, value in files.items()}
        for path, content in contents.items():
            path.write_bytes(content)
        read(tmp_path)
        for path, content in contents.items():
            for _ in range(CASES // 2):
                read_or_refused(lambda read=read: read(tmp_path), path, changed(content, draw))
            path.write_bytes(content)
