"""NumPy's array files from outside: real numbers, or one line without advice to load objects."""

import os
import pickle
import struct

import numpy as np
import pytest

from src.errors import UserError
from src.utils.arrays import read_array


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "i1", "<i8", "u2"])
@pytest.mark.parametrize("shape", [(2, 3), (6,), (1, 2, 3), (0, 3), ()])
def test_real_numbers(tmp_path, dtype, shape):
    array = np.asfortranarray(np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype))
    np.save(tmp_path / "x.npy", array)
    read = read_array(tmp_path / "x.npy")
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)


def promised(header: str) -> bytes:
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header.encode() + bytes(100)


def header(shape: str, dtype: str = "'<f4'") -> bytes:
    return promised(f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}}}\n")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is no .npy file"),
        (b"\x93NUMPY", "is damaged or cut short"),
        (pickle.dumps([1]), "is no .npy file"),
        (b"PK\x03\x04 and so on", "is no .npy file"),
        (header("(10**12,)"), "is damaged"),
        (header("(1000000000000, 300)"), "is damaged or cut short"),
        (header("(99999999999999999999999, 99999999999999)"), "is damaged"),
        (header("(-5, 3)"), "is damaged"),
        (header("(1.5, 3)"), "is damaged"),
        (header("(" * 3000), "is damaged"),
        (header("(1,)", "'|O'"), "is damaged"),
        (header("(1,)", "'<U4'"), "holds <U4, no real numbers"),
        (header("(1,)", "[('a', '<f4'), ('b', '<i4')]"), "no real numbers"),
        (header("(1,)", "'<c8'"), "holds complex64, no real numbers"),
        (header("(1,)", "__import__('os').mkdir('planted')"), "is damaged"),
        (promised("{" + "'a': 1, " * 4000 + "}"), "is damaged"),
    ],
)
def test_other_files(tmp_path, monkeypatch, data, words):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.npy"
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        read_array(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "allow_pickle" not in str(caught.value)
    assert not (tmp_path / "planted").exists()


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "x.npy")
    for path in (tmp_path, tmp_path / "x.npy", tmp_path / "gone.npy"):
        with pytest.raises(UserError, match=r"^cannot read "):
            read_array(path)
