"""Pickles of the released code's metadata."""

from __future__ import annotations

import pickle

import numpy as np

from src.data.official import read_array_pickle, read_word_vectors_pickle
from tests.fuzz.harness import Target


def targets() -> tuple[Target, ...]:
    """Return the readers of pickles."""
    vectors = np.linspace(0, 1, 12, dtype=np.float32).reshape(4, 3)
    names = {0: "sea", 1: "boat", 2: "cat"}
    as_bytes = tuple(pickle.dumps(value, protocol) for value in (vectors, names, ["sea"]) for protocol in (0, 2, 4, 5))
    return (
        Target("pickle-bytes", "a.pickle", as_bytes, read_array_pickle),
        Target("pickle", "a.pickle", (names, ["sea", "boat"]), read_array_pickle, pickle.dumps),
        Target("vectors-pickle", "a.pickle", (vectors,), read_word_vectors_pickle, pickle.dumps),
    )
