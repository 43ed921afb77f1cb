"""Word vectors of every format."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from src.word_vectors.source import open_word_vectors
from tests.fuzz.harness import Target

_WORDS = ("sea", "boat", "cat")
_VECTORS = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
_TEXT = "".join(
    f"{word} {' '.join(f'{x:.4f}' for x in row)}\n" for word, row in zip(_WORDS, _VECTORS, strict=True)
).encode()


def _scan(path: Path) -> object:
    source = open_word_vectors(path)
    return list(source.scan(lambda word: True)), source.lookup(["sea", "boats"])


def _zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("glove.txt", _TEXT)
    return stream.getvalue()


def _word2vec() -> bytes:
    return b"3 4\n" + b"".join(
        word.encode() + b" " + struct.pack("<4f", *row) + b"\n" for word, row in zip(_WORDS, _VECTORS, strict=True)
    )


_FASTTEXT = {
    "start": [793712314, 12, 4, 5, 1, 1, 0, 1, 3, 2, 5, 2, 3, 100],  # magic, version, dim, ..., buckets, minn, maxn
    "counts": [3, 3, 0, 9, -1],  # entries, words, labels, tokens, pruned
    "entries": list(_WORDS),
    "matrix": [False, 8, 4],  # quantised, rows, columns
    "numbers": np.linspace(-1, 1, 32, dtype=np.float32),
}


def _fasttext(tree: dict[str, Any]) -> bytes:
    entries = b"".join(word.encode() + b"\0" + struct.pack("<qb", 1, 0) for word in tree["entries"])
    return b"".join(
        (
            struct.pack("<14id", *tree["start"], 1e-4),
            struct.pack("<3i2q", *tree["counts"]),
            entries,
            struct.pack("<?2q", *tree["matrix"]),
            np.asarray(tree["numbers"]).tobytes(),
        )
    )


def _word2vec_of(tree: list[Any]) -> bytes:
    return f"{tree[0]} {tree[1]}\n".encode() + b"".join(
        word.encode() + b" " + np.asarray(row).tobytes() + b"\n" for word, row in tree[2:]
    )


def _array() -> bytes:
    stream = io.BytesIO()
    np.save(stream, _VECTORS)
    return stream.getvalue()


def _arrays(tree: dict[str, np.ndarray]) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **tree)
    return stream.getvalue()


def _listed(path: Path) -> object:
    path.with_suffix(".txt").write_text("\n".join(_WORDS))
    return _scan(path)


def targets() -> tuple[Target, ...]:
    """Return the readers of word vectors."""
    arrays = {"words": np.array(_WORDS), "vectors": _VECTORS}
    wink = {
        "dimensions": 4,
        "words": list(_WORDS),
        "vectors": {word: [*row.tolist(), 1.5, 0] for word, row in zip(_WORDS, _VECTORS, strict=True)},
    }
    return (
        Target("vectors-text", "v.txt", (_TEXT, b"3 4\n" + _TEXT), _scan),
        Target(
            "vectors-packed",
            "v.gz",
            (gzip.compress(_TEXT), bz2.compress(_TEXT), lzma.compress(_TEXT), _zipped()),
            _scan,
        ),
        Target("vectors-word2vec", "v.bin", (_word2vec(),), _scan),
        Target(
            "vectors-word2vec-fields",
            "v.bin",
            ([3, 4, *zip(_WORDS, _VECTORS, strict=True)],),
            _scan,
            _word2vec_of,
        ),
        Target("vectors-fasttext", "v.bin", (_FASTTEXT,), _scan, _fasttext),
        Target("vectors-fasttext-bytes", "v.bin", (_fasttext(_FASTTEXT),), _scan),
        Target("vectors-npz", "v.npz", (arrays,), _scan, _arrays),
        Target("vectors-npz-bytes", "v.npz", (_arrays(arrays),), _scan),
        Target("vectors-npy", "v.npy", (_array(),), _listed),
        Target("vectors-wink", "v.json", (wink,), _scan, lambda tree: json.dumps(tree).encode()),
        Target("vectors-wink-bytes", "v.json", (json.dumps(wink).encode(),), _scan),
    )
