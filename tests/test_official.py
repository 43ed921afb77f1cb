"""The released code's folders: reading their pickles, admitting arrays and containers only, and writing them."""

import collections
import functools
import importlib
import os
import pickle
import pickletools
import struct
import subprocess
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from src.data.coco import COCO_CLASSES, read_coco_labels
from src.data.labels import LabelledImages, LabelMatrix
from src.data.metadata import load_metadata
from src.data.metadata_writer import MetadataContent, write_metadata
from src.data.official import (
    read_array_pickle,
    read_coco_split,
    read_nus_wide_split,
    read_word_vectors_pickle,
    write_official,
)
from src.data.parts import load_evaluation_set, load_training_set
from src.data.split import ZeroShotSplit, make_split
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


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("place", ["alone", "in a dict", "in an object array"])
@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.system, "system"),
        (eval, "eval"),
        (subprocess.Popen, "Popen"),
        (getattr, "getattr"),
        (functools.partial, "partial"),
        (importlib.import_module, "import_module"),
        (np.save, "save"),
        (np.memmap, "memmap"),
        (torch.load, "load"),
    ],
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


def raw(*instructions: bytes | int) -> bytes:
    """A pickle of instructions of which numbers are pushed."""
    pushed = (
        one if isinstance(one, bytes) else pickle.LONG1 + b"\x08" + struct.pack("<q", one) for one in instructions
    )
    return pickle.PROTO + b"\x02" + b"".join(pushed) + pickle.STOP


def named(name: str) -> bytes:
    return pickle.GLOBAL + name.replace(" ", "\n").encode() + b"\n"


def state(shape: int, dtype: bytes, content: bytes) -> bytes:
    """An array of that shape with other content than it needs."""
    made = named("numpy.core.multiarray _reconstruct") + named("numpy ndarray") + b")U\x01b\x87R"
    kind = named("numpy dtype") + b"U" + bytes([len(dtype)]) + dtype + b"\x85R(K\x03U\x01|NNNK\x00K\x00K\x00tb"
    return raw(made, b"(K\x01", shape, b"\x85", kind, b"K\x00", content, b"tb")


HUGE = 10**12
BOMBS = {
    "lists in lists": raw(b"]", *[b"q\x00]q\x01(" + b"h\x00" * 10 + b"eq\x00"] * 30),
    "tuples as a key": raw(b"})", *[b"2\x86"] * 60, b"Ns"),
    "tuples in a set": raw(named("__builtin__ set"), b"](", b")", *[b"2\x86"] * 60, b"e\x85R"),
    "a list in itself": raw(b"]q\x00h\x00a"),
    "a bytearray": raw(named("__builtin__ bytearray"), HUGE, b"\x85R"),
    "bytes": raw(named("__builtin__ bytes"), HUGE, b"\x85R"),
    "an array that is called": raw(named("numpy ndarray"), HUGE, b"\x85\x85R"),
    "an array without content": state(HUGE, b"f4", b"U\x00"),
    "an array of objects": state(HUGE, b"O8", b"](Ne"),
    "an array of empty strings": state(HUGE, b"U0", b"U\x00"),
    "a wide type": raw(named("numpy.core.multiarray scalar"), named("numpy dtype"), b"U\x0bV1000000000\x85R\x85R"),
    "copies": raw(
        named("__builtin__ set"), b"q\x00](", *[b"N"] * 5000, b"eq\x01", *[b"h\x00h\x01\x85R0"] * 20_000, b"N"
    ),
    "an array without a state": state(1, b"f4", b"U\x00")[:-3] + b"0.",
    "a place in the memo": raw(b"Nr\xff\xff\xff\x7f"),
    "a long integer": raw(b"\x8b" + struct.pack("<i", 1 << 20) + b"\x7f" * (1 << 20)),
    "a promised string": raw(b"\x8e" + struct.pack("<Q", HUGE) + b"x"),
    "digits": raw(b"L" + b"9" * 100_000 + b"L\n"),
}


@pytest.mark.parametrize("name", list(BOMBS))
def test_small_files_take_little_memory_and_short_messages(tmp_path, name):
    nus_folder(tmp_path, dict(enumerate(NAMES)), ["dog"])
    for file in ("classes.pickle", "unseen_classes.pickle", "wordvec_array.pickle"):
        content = (tmp_path / file).read_bytes()
        (tmp_path / file).write_bytes(BOMBS[name])
        tracemalloc.start()
        try:
            with pytest.raises(UserError) as caught:
                read_nus_wide_split(tmp_path)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert str(tmp_path / file) in str(caught.value)
        assert len(str(caught.value)) < 500
        assert peak < 30e6
        (tmp_path / file).write_bytes(content)


def test_files_of_python_2(tmp_path):
    """Arrays and strings as bytes, in each of its protocols; names are UTF-8."""
    numbers = np.arange(6, dtype="<f4") - 0.1
    head = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I3\nI2\nt"
    kind = b"cnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\n"
    escaped = "".join(f"\\x{byte:02x}" for byte in numbers.tobytes()).encode()
    for content in (b"S'" + escaped + b"'\n", b"T\x18\0\0\0" + numbers.tobytes(), b"U\x18" + numbers.tobytes()):
        (tmp_path / "wordvec_array.pickle").write_bytes(head + kind + content + b"tb.")
        np.testing.assert_array_equal(read_array_pickle(tmp_path / "wordvec_array.pickle"), numbers.reshape(3, 2))
    (tmp_path / "classes.pickle").write_bytes(b"(dI0\nS'caf\\xc3\\xa9'\nsI1\nS'dog'\ns.")
    (tmp_path / "unseen_classes.pickle").write_bytes(b"(lS'caf\\xc3\\xa9'\na.")
    split = read_nus_wide_split(tmp_path)
    assert (split.labels, split.unseen) == (("café", "dog"), (0,))


def test_a_fifo_in_place_of_a_pickle(tmp_path):
    os.mkfifo(tmp_path / "x.pickle")
    with pytest.raises(UserError, match=r"cannot read .*x\.pickle: it is a FIFO"):
        read_array_pickle(tmp_path / "x.pickle")


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
def test_nus_wide_columns_are_the_keys_in_any_order(tmp_path, classes, kind):
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


# Writing


def split(labels: tuple[str, ...], seen: list[int], unseen: list[int]) -> ZeroShotSplit:
    vectors = torch.nn.functional.normalize(
        torch.randn(5, len(labels), generator=torch.Generator().manual_seed(0)), dim=0
    )
    return make_split(labels, seen, unseen, vectors, name="x", source="x")


OWN = split(("ant", "bee", "cat", "dog"), [0, 2], [1, 3])
COCO = split(COCO_CLASSES, [0, 2, 5], [7, 8])


def images(num_labels: int, first: int, rows: list[list[int]]) -> LabelledImages:
    targets = torch.zeros(len(rows), num_labels, dtype=torch.int8)
    for row, columns in enumerate(rows):
        targets[row, columns] = 1
    numbers = tuple(range(first, first + len(rows)))
    return LabelledImages(numbers, tuple(f"{number}.jpg" for number in numbers), LabelMatrix.from_dense(targets))


def parts(num_labels: int, unseen: int) -> dict[str, LabelledImages]:
    return {
        "train": images(num_labels, 1, [[0], [0, 2], []]),
        "val": images(num_labels, 10, [[2], [unseen], [0, unseen], []]),
    }


@pytest.mark.parametrize(("form", "kind", "unseen"), [(OWN, "NUS_WIDE", 3), (COCO, "COCO", 8)])
def test_read_back(tmp_path, form, kind, unseen):
    write_official(tmp_path / "official", form, parts(len(form.labels), unseen))
    metadata = load_metadata(tmp_path / "official")
    assert metadata.kind == kind
    assert metadata.split.labels == form.labels
    assert (metadata.split.seen, metadata.split.unseen) == (form.seen, form.unseen)
    tolerance = 5e-4 if kind == "COCO" else 0  # the released COCO vectors are in half precision
    torch.testing.assert_close(metadata.split.word_vectors, form.word_vectors, atol=tolerance, rtol=tolerance)
    for number in (1, 2, 3, 10, 11, 12, 13):
        (tmp_path / f"{number}.jpg").touch()
    training = load_training_set(metadata, tmp_path)
    assert [path.name for path in training.paths] == ["1.jpg", "2.jpg"]
    evaluation = load_evaluation_set(metadata, tmp_path)
    assert [path.name for path in evaluation.paths] == ["10.jpg", "11.jpg", "12.jpg", "13.jpg"]
    assert evaluation.in_zero_shot.tolist() == [False, True, True, False]
    assert torch.equal(evaluation.targets.dense(), parts(len(form.labels), unseen)["val"].targets.dense())


def test_the_shapes_and_types_of_the_released_files(tmp_path):
    write_official(tmp_path / "coco", COCO, {})
    with open(tmp_path / "coco" / "cls_ids.pickle", "rb") as stream:
        assert pickle.load(stream) == {"train": {0, 2, 5}, "test": {7, 8}, "val": set()}
    with open(tmp_path / "coco" / "wordvec_array.pickle", "rb") as stream:
        array = pickle.load(stream)["wordvec_array"]
    assert (array.shape, array.dtype) == ((1, 5, 80), np.float16)
    write_official(tmp_path / "own", OWN, {})
    contents = []
    for name in ("classes", "unseen_classes", "wordvec_array"):
        with open(tmp_path / "own" / f"{name}.pickle", "rb") as stream:
            contents.append(pickle.load(stream))
    assert contents[0] == {0: "ant", 1: "bee", 2: "cat", 3: "dog"}
    assert contents[1] == ["bee", "dog"]
    assert (contents[2].shape, contents[2].dtype) == ((5, 4), np.float32)


@pytest.mark.parametrize("form", [OWN, COCO])
def test_the_pickles_name_no_module_that_an_old_numpy_lacks(tmp_path, form):
    write_official(tmp_path / "x", form, {})
    for path in (tmp_path / "x").glob("*.pickle"):
        names = {arg for opcode, arg, _ in pickletools.genops(path.read_bytes()) if opcode.name == "GLOBAL"}
        assert names <= {
            "numpy.core.multiarray _reconstruct",
            "numpy ndarray",
            "numpy dtype",
            "_codecs encode",
            "__builtin__ set",
        }


def test_unknown_labels_are_left_out(tmp_path):
    """The released reader would take an annotation to ignore for a positive label."""
    targets = LabelMatrix.from_entries(
        torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2]), torch.tensor([1, -1, 0]),
        unlisted=torch.tensor([0, -1], dtype=torch.int8), num_labels=4,
    )  # fmt: skip
    write_official(tmp_path / "x", OWN, {"train": LabelledImages((1, 2), ("a", "b"), targets)})
    read = read_coco_labels(tmp_path / "x" / "zs_split" / "train_17_48.json", OWN.labels)
    assert read.targets.dense().tolist() == [[1, 0, 0, 0], [0, 0, 0, 0]]


def test_label_on_neither_side_does_not_fit_the_nus_wide_form(tmp_path):
    form = split(("ant", "bee", "cat", "dog"), [0], [1])
    with pytest.raises(UserError, match=r"--official: .*cat, dog; leave the flag out"):
        write_official(tmp_path / "x", form, {})
    with pytest.raises(UserError, match="--official"):
        write_metadata(tmp_path / "m", MetadataContent(form, {}), official=True)
    assert list(tmp_path.iterdir()) == []


def test_as_a_sub_folder_of_a_metadata_folder(tmp_path):
    content = MetadataContent(OWN, parts(4, 3), files={"report.txt": "one\ntwo ü\n".encode()})
    write_metadata(tmp_path / "m", content, official=True)
    assert load_metadata(tmp_path / "m").kind == "SDL"
    assert load_metadata(tmp_path / "m" / "official").kind == "NUS_WIDE"
    assert (tmp_path / "m" / "report.txt").read_text(encoding="utf-8") == "one\ntwo ü\n"
    assert not list(Path(tmp_path / "m").glob("*.pickle"))


def test_the_real_coco_vectors_come_back_bit_for_bit(tmp_path, shared_data):
    real = load_metadata(shared_data / "coco")
    write_official(tmp_path / "x", real.split, {})
    again = load_metadata(tmp_path / "x").split
    assert torch.equal(again.word_vectors, real.split.word_vectors)
    assert (again.seen, again.unseen) == (real.split.seen, real.split.unseen)
