"""The released code's pickles: read in every form they have, with nothing but arrays and containers let in."""

import collections
import os
import pickle
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from src.data.coco import COCO_CLASSES
from src.data.official import (
    read_array_pickle,
    read_coco_split,
    read_nus_wide_split,
    read_word_vectors_pickle,
)
from src.errors import UserError


def pickled(folder: Path, value: object, protocol: int = 4, name: str = "x.pickle") -> Path:
    path = folder / name
    path.write_bytes(pickle.dumps(value, protocol))
    return path


def as_numpy_1_wrote_it(data: bytes) -> bytes:
    """Rename the modules of a pickle from NumPy 2's ``numpy._core`` to NumPy 1's ``numpy.core``, without its frames."""
    if data[2:3] == pickle.FRAME:  # protocols 4 and 5; its length would be wrong, and it may be left out
        data = data[:2] + data[11:]
    data = data.replace(b"cnumpy._core.", b"cnumpy.core.")
    for name in (b"multiarray", b"numeric"):
        new, old = b"numpy._core." + name, b"numpy.core." + name
        data = data.replace(bytes([0x8C, len(new)]) + new, bytes([0x8C, len(old)]) + old)
    assert b"numpy._core" not in data
    return data


VALUES = {
    "float array": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half array in Fortran order": np.asfortranarray(np.ones((2, 3), dtype=np.float16)),
    "names": np.array(["cat", "dog"]),
    "objects": np.array(["cat", 3, None], dtype=object),
    "number": np.int64(7),
}


@pytest.mark.filterwarnings("ignore:numpy.core:DeprecationWarning")
@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("numpy_1", [False, True], ids=["numpy 2", "numpy 1"])
@pytest.mark.parametrize("name", list(VALUES))
def test_arrays_of_either_numpy_in_every_protocol(tmp_path, name, numpy_1, protocol):
    data = pickle.dumps(VALUES[name], protocol)
    path = tmp_path / "x.pickle"
    path.write_bytes(as_numpy_1_wrote_it(data) if numpy_1 else data)
    read = read_array_pickle(path)
    np.testing.assert_array_equal(read, VALUES[name])
    assert np.asarray(read).dtype == np.asarray(VALUES[name]).dtype


@pytest.mark.parametrize("protocol", range(6))
def test_containers_in_every_protocol(tmp_path, protocol):
    value = {
        "train": {1, 2},
        "test": frozenset([3]),
        5: [1.5, None, True, ("a", b"b")],
        "order": collections.OrderedDict(b=1, a=2),
    }
    assert read_array_pickle(pickled(tmp_path, value, protocol)) == value


def test_a_real_numpy_1_pickle(shared_data):
    path = shared_data / "open_images" / "unseen_labels.pkl"
    assert b"numpy.core.multiarray" in path.read_bytes()
    assert read_array_pickle(path)[:2].tolist() == ["/m/011_xr", "/m/011k_j"]


class Calls:
    """Pickles as a call of ``function``."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("place", ["alone", "in a dict", "in an object array"])
@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, "system"), (eval, "eval"), (subprocess.Popen, "Popen"), (getattr, "getattr"), (np.save, "save")],
)
def test_any_other_global_is_refused_and_not_called(tmp_path, function, name, place, protocol):
    marker = tmp_path / "called"
    argument = f"open({str(marker)!r}, 'w')" if function is eval else f"touch '{marker}'"
    call = Calls(function, argument, True) if function is subprocess.Popen else Calls(function, argument)
    value = {"alone": call, "in a dict": {"a": [call]}, "in an object array": np.array([call, 1], dtype=object)}[place]
    path = pickled(tmp_path, value, protocol)
    with pytest.raises(UserError, match=rf"x\.pickle is not a pickle of arrays.*refers to [\w.]+\.{name}"):
        read_array_pickle(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04\x8c\x05numpy\x8c\x0fndarray.tofile\x93.",  # an attribute of an admitted class
        b"\x80\x04\x8c\x05numpy\x8c\x0edtype.__init__\x93.",
        b"\x80\x02cnumpy\nload\n.",
        b"\x80\x02c__builtin__\nexec\n.",
        b"\x80\x02cbuiltins\n__import__\n.",
        b"\x80\x04\x8c\x02id\x94Q.",  # a persistent id
    ],
)
def test_nothing_beyond_the_admitted_names(tmp_path, data):
    path = tmp_path / "x.pickle"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"x\.pickle is not a pickle of arrays"):
        read_array_pickle(path)


@pytest.mark.parametrize(
    "data", [b"", b"no pickle", pickle.dumps(np.ones(50))[:-60], b"\x80\x09.", b"version https://git-lfs\n"]
)
def test_damaged_files_are_named(tmp_path, data):
    path = tmp_path / "x.pickle"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"x\.pickle is not a pickle of arrays"):
        read_array_pickle(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.pickle: No such file"):
        read_array_pickle(tmp_path / "gone.pickle")


ARRAY = np.random.RandomState(0).rand(3, 80).astype(np.float16)


@pytest.mark.parametrize(
    "value", [ARRAY, ARRAY[None], {"wordvec_array": ARRAY[None]}, {"wordvec_array": ARRAY, "other": 1}]
)
def test_word_vectors_in_each_form(tmp_path, value):
    read = read_word_vectors_pickle(pickled(tmp_path, value))
    assert read.dtype == torch.float32
    np.testing.assert_array_equal(read.numpy(), ARRAY.astype(np.float32))


@pytest.mark.parametrize("value", [[1, 2], {"other": ARRAY}, np.array(["a"]), np.arange(3), None])
def test_no_word_vectors(tmp_path, value):
    with pytest.raises(UserError, match=r"x\.pickle holds no array of word vectors"):
        read_word_vectors_pickle(pickled(tmp_path, value))


def coco_folder(folder: Path, ids: object, vectors: object = ARRAY) -> Path:
    pickled(folder, ids, name="cls_ids.pickle")
    pickled(folder, vectors, name="wordvec_array.pickle")
    return folder


@pytest.mark.parametrize("kind", [set, list, tuple, np.array, lambda ids: dict.fromkeys(ids)])
def test_coco_split_from_any_container(tmp_path, kind):
    split = read_coco_split(coco_folder(tmp_path, {"train": kind([5, 2, 70]), "test": kind([79, 0])}))
    assert (split.seen, split.unseen) == ((2, 5, 70), (0, 79))
    assert (split.labels, split.name) == (COCO_CLASSES, "coco_3_2")


@pytest.mark.parametrize(
    ("ids", "vectors", "message"),
    [
        ({"train": {1}}, ARRAY, "cls_ids.pickle must hold a dict"),
        ([1, 2], ARRAY, "cls_ids.pickle must hold a dict"),
        ({"train": ["person"], "test": [1]}, ARRAY, "cls_ids.pickle must hold a dict"),
        ({"train": None, "test": [1]}, ARRAY, "cls_ids.pickle must hold a dict"),
        ({"train": {1, 2}, "test": {2}}, ARRAY, "both seen and unseen: car"),
        ({"train": {1, 80}, "test": {2}}, ARRAY, "outside 0..79: 80"),
        ({"train": {1}, "test": {2}}, ARRAY[:, :79], "(3, 79), not [D, 80]"),
    ],
)
def test_a_wrong_coco_folder(tmp_path, ids, vectors, message):
    with pytest.raises(UserError) as caught:
        read_coco_split(coco_folder(tmp_path, ids, vectors))
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)


NAMES = ["apple", "boat", "cat", "dog"]


def nus_folder(folder: Path, classes: object, unseen: object) -> Path:
    pickled(folder, classes, name="classes.pickle")
    pickled(folder, unseen, name="unseen_classes.pickle")
    pickled(folder, ARRAY[:, :4], name="wordvec_array.pickle")
    return folder


@pytest.mark.parametrize(
    "classes",
    [
        dict(enumerate(NAMES)),
        {3: "dog", 0: "apple", 2: "cat", 1: "boat"},
        {np.int64(column): np.str_(name) for column, name in enumerate(NAMES)},
    ],
    ids=["in order", "scrambled", "numpy"],
)
@pytest.mark.parametrize("kind", [list, set, np.array])
def test_nus_wide_columns_are_the_keys_whatever_the_order(tmp_path, classes, kind):
    split = read_nus_wide_split(nus_folder(tmp_path, classes, kind(["dog", "boat"])))
    assert split.labels == tuple(NAMES)
    assert all(type(label) is str for label in split.labels)
    assert (split.unseen, split.seen) == ((1, 3), (0, 2))
    assert split.name == "nus_wide_2_2"
    np.testing.assert_array_equal(split.word_vectors.numpy(), ARRAY[:, :4].astype(np.float32))


@pytest.mark.parametrize(
    ("classes", "unseen", "message"),
    [
        ({0: "apple", 2: "boat"}, [], "classes.pickle must hold a dict"),
        ({"apple": 0, "boat": 1}, [], "classes.pickle must hold a dict"),
        ({0: "apple", "b": "boat"}, [], "classes.pickle must hold a dict"),
        (NAMES, [], "classes.pickle must hold a dict"),
        (dict(enumerate(NAMES)), ["cat", "unicorn"], "no such label"),
        (dict(enumerate(NAMES)), 3, "unseen_classes.pickle must hold a list"),
        (dict(enumerate(NAMES)), "cat", "unseen_classes.pickle must hold a list"),
        (dict(enumerate(["a", "a", "b", "c"])), ["b"], "repeated labels: a"),
        (dict(enumerate(NAMES)), NAMES, "no seen label"),
    ],
)
def test_a_wrong_nus_wide_folder(tmp_path, classes, unseen, message):
    with pytest.raises(UserError) as caught:
        read_nus_wide_split(nus_folder(tmp_path, classes, unseen))
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("name", ["classes.pickle", "unseen_classes.pickle", "wordvec_array.pickle"])
def test_a_missing_pickle_is_named(tmp_path, name):
    nus_folder(tmp_path, dict(enumerate(NAMES)), ["cat"])
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=name):
        read_nus_wide_split(tmp_path)


def test_the_real_coco_folder(shared_data):
    split = read_coco_split(shared_data / "coco")
    assert (len(split.seen), len(split.unseen)) == (48, 17)
    assert len(set(range(80)) - set(split.seen) - set(split.unseen)) == 15
    assert split.word_vectors.shape == (300, 80)
    torch.testing.assert_close(split.word_vectors.norm(dim=0), torch.ones(80), atol=1e-3, rtol=0)
    raw = pickle.loads((shared_data / "coco" / "cls_ids.pickle").read_bytes())
    assert (set(split.seen), set(split.unseen)) == (raw["train"], raw["test"])
    assert {"person", "bicycle"} <= set(split.names(split.seen))
    assert {"cat", "dog", "airplane", "bus"} <= set(split.names(split.unseen))


def test_the_real_nus_wide_folder(shared_data):
    folder = shared_data / "nus_wide"
    split = read_nus_wide_split(folder)
    assert (len(split.seen), len(split.unseen), len(split.labels)) == (925, 81, 1006)
    assert list(split.labels) == sorted(split.labels)
    assert split.word_vectors.shape == (300, 1006)
    torch.testing.assert_close(split.word_vectors.norm(dim=0), torch.ones(1006), atol=1e-4, rtol=0)
    concepts = set((folder / "concepts81.txt").read_text().split())
    tags = set((folder / "TagList1k.txt").read_text().split())
    assert set(split.names(split.unseen)) == concepts
    assert set(split.names(split.seen)) == tags - concepts
    raw = pickle.loads((folder / "wordvec_array.pickle").read_bytes())
    column = split.labels.index("zebra")
    torch.testing.assert_close(split.word_vectors[:, column], torch.from_numpy(raw[:, column].astype(np.float32)))
