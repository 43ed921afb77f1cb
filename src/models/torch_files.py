"""Read the files of ``torch.save``, in its zip form and the older one, plain pickles, and safetensors; run nothing.

Tensors are views of storages that lie in the file, so that nothing grows beyond a small multiple of the file's size.
PyTorch writes a CRC-32 of every part of the zip form but does not verify it; this reader does.
"""

from __future__ import annotations

import io
import math
import sys
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch import Tensor

from src.errors import first_line
from src.utils.inert_numpy import NUMPY
from src.utils.inert_pickle import InertUnpickler
from src.utils.inert_values import CONTAINERS, Builders, Global, PickleError

MOST_GROWTH = 8  # bytes of all tensors, or of all parts of an archive, for a byte of the file
_FREE_BYTES = 1 << 20  # that a small file may grow to in any case
_LONGEST_PICKLE = 1 << 27  # bytes
_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of the older form
_PROTOCOL = 1001
_LONGEST_HEADER = 100_000_000  # bytes; safetensors' own limit
_MOST_SIDES = 64  # of a tensor

_DTYPES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexDouble": torch.complex128,
    "ComplexFloat": torch.complex64,
    # Quantised tensors are not built, but their bytes are passed over, and so the file's reader can name them
    "QInt8": torch.qint8,
    "QUInt8": torch.quint8,
    "QInt32": torch.qint32,
}
_CONSTANTS: dict[str, torch.dtype] = {
    **{f"torch.{name}Storage": dtype for name, dtype in _DTYPES.items()},
    **{f"torch.cuda.{name}Storage": dtype for name, dtype in _DTYPES.items()},
    "torch.storage.UntypedStorage": torch.uint8,
    **{f"torch.{name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)},
}


@dataclass(frozen=True)
class _Storage:
    """The bytes of one or several tensors, and the type of their numbers."""

    data: Tensor
    dtype: torch.dtype


def read_torch_file(stream: BinaryIO, size: int) -> Any:
    """Read a file: tensors, builtin containers, NumPy arrays, and stand-ins for all else.

    Args:
        stream: at its start.
        size: of the file in bytes.

    Raises:
        PickleError: the file is of another kind, made to do harm, or grows too much.
        Exception: of many kinds, for damaged files.
    """
    start = stream.read(9)
    stream.seek(0)
    if start.startswith(b"PK"):
        return _read_archive(stream, size)
    if len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") <= min(size, _LONGEST_HEADER):
        return _read_safetensors(stream)
    if zipfile.is_zipfile(stream):
        raise PickleError("it is an archive with something before it; nothing is read from such a file")
    stream.seek(0)
    return _read_older(stream, size)


class _Tensors:
    """Builders of tensors as views of storages, with bounds for what they add up to."""

    def __init__(self, size: int) -> None:
        self.left = MOST_GROWTH * size + _FREE_BYTES

    def builders(self) -> Builders:
        """Return the builders of tensors, containers and NumPy's values."""
        tensors: dict[str, Callable[..., Any]] = {
            "torch._utils._rebuild_tensor": self._view,
            "torch._utils._rebuild_tensor_v2": self._view,
            "torch._utils._rebuild_tensor_v3": self._typed_view,
            "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
            "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: tensor,
        }

        def rebuild_with_attributes(function: Any, kind: Any, arguments: Any, state: Any) -> Any:
            return tensors[function.name](*arguments)

        return {
            **CONTAINERS,
            **NUMPY,
            **tensors,
            "torch._tensor._rebuild_from_type_v2": rebuild_with_attributes,
            "torch.storage._load_from_bytes": _storage_of_bytes,
            "torch.Size": tuple,
        }

    def _typed_view(
        self, storage: Any, offset: Any, shape: Any, stride: Any, gradient: Any, hooks: Any, dtype: Any, *_: Any
    ) -> Tensor:
        return self._view(_Storage(storage.data, dtype), offset, shape, stride)

    def _view(self, storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> Tensor:
        """Return the tensor, which must lie in its storage and have no more numbers than it."""
        flat = storage.data.view(storage.dtype)
        sides = (*shape, *stride, offset)
        if len(shape) != len(stride) or len(shape) > _MOST_SIDES or any(type(n) is not int or n < 0 for n in sides):
            raise ValueError("a tensor with an impossible shape")
        count = math.prod(shape)
        last = offset + sum((side - 1) * step for side, step in zip(shape, stride, strict=True))
        if count > len(flat) or (count and last >= len(flat)):
            raise ValueError(f"a tensor of {str(count)[:20]} numbers in a storage of {len(flat)}")
        self.left -= count * flat.element_size()
        if self.left < 0:
            raise PickleError("its tensors repeat the same numbers over and over")
        return flat.as_strided(shape, stride, offset)


def _storage_of_bytes(content: bytes) -> Any:
    """Read a storage within a plain pickle: a file of the older form, which holds nothing else."""
    return _read_storages(io.BytesIO(content), len(content), {})


def _read_pickle(stream: BinaryIO, builders: Builders, storage: Callable[[Any], Any] | None) -> Any:
    return InertUnpickler(stream, builders, _CONSTANTS, storage).load()


def _read_archive(stream: BinaryIO, size: int) -> Any:
    """Read the zip form: ``NAME/data.pkl``, and a part ``NAME/data/KEY`` for each storage."""
    archive = zipfile.ZipFile(stream)
    parts = {part.filename: part for part in archive.infolist()}
    if sum(part.file_size for part in parts.values()) > MOST_GROWTH * size + _FREE_BYTES:
        raise PickleError("it is an archive that grows to many times its size")
    mains = [name for name in parts if name.rpartition("/")[2] == "data.pkl"]
    if len(mains) != 1:
        raise PickleError("it is an archive of something else than weights" if parts else "it is an empty archive")
    root = mains[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in parts:
        raise PickleError(
            "it is a TorchScript archive, which holds a program; save the state_dict() of the model that it was made of"
        )
    order = f"{root}byteorder"
    if order in parts and bytes(_read_part(archive, parts[order]).numpy()) != sys.byteorder.encode():
        raise PickleError("it was saved on a machine with another byte order; save it again on this kind of machine")
    storages: dict[str, Tensor] = {}

    def storage_of(identifier: Any) -> _Storage:
        key, dtype, count = _storage_facts(identifier)
        if key not in storages:
            storages[key] = _read_part(archive, parts[f"{root}data/{key}"])
        if len(storages[key]) < count * dtype.itemsize:
            raise PickleError(f"its part data/{key[:20]} is too short")
        return _Storage(storages[key], dtype)

    if parts[mains[0]].file_size > _LONGEST_PICKLE:
        raise PickleError("it holds too many objects beside its tensors")
    main = io.BytesIO(_read_part(archive, parts[mains[0]]).numpy().data)
    return _read_pickle(main, _Tensors(size).builders(), storage_of)


def _read_part(archive: zipfile.ZipFile, part: zipfile.ZipInfo) -> Tensor:
    """Read a part of an archive into a new tensor of bytes; zipfile checks the CRC-32 at the end."""
    if part.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise PickleError("its parts are compressed in an unusual way; save it again with torch.save")
    if part.CRC == 0:  # not computed: torch.serialization.set_crc32_options(False)
        part.CRC = None  # type: ignore[assignment]  # zipfile then checks nothing
    data = torch.empty(part.file_size, dtype=torch.uint8)
    left = data.numpy().data
    try:
        with archive.open(part) as stream:
            while len(left):
                count = stream.readinto(left[: 1 << 22])  # type: ignore[attr-defined]  # zipfile's class has it
                if not count:
                    raise PickleError(f"its part {part.filename[:80]} is cut short")
                left = left[count:]
            stream.read(1)  # at the end of a part its checksum is compared
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise PickleError(f"it is damaged ({first_line(error)}); copy or download it again") from error
    return data


def _storage_facts(identifier: Any) -> tuple[str, torch.dtype, int]:
    """Return (key, type of number, count) of a persistent id: ("storage", type, key, device, count, ...)."""
    kind, dtype, key, _, count, *view = identifier
    if kind not in ("storage", b"storage") or not isinstance(dtype, torch.dtype) or type(count) is not int or count < 0:
        name = dtype.name if isinstance(dtype, Global) else dtype
        raise PickleError(f"it holds tensors of a kind that is not read: {str(name)[:80]}")
    if any(part is not None for part in view):
        raise PickleError("it was saved by a PyTorch older than 0.4; load it there and save it again")
    return str(key), dtype, count


def _read_older(stream: BinaryIO, size: int) -> Any:
    """Read the form before PyTorch 1.6, one pickle after another and then the storages; or one plain pickle."""
    return _read_storages(stream, size, _Tensors(size).builders())


def _read_storages(stream: BinaryIO, size: int, builders: Builders) -> Any:
    storages: dict[str, _Storage] = {}
    left = size

    def storage_of(identifier: Any) -> _Storage:
        nonlocal left
        key, dtype, count = _storage_facts(identifier)
        if key not in storages:
            left -= count * dtype.itemsize
            if left < 0:
                raise PickleError("it is cut short")
            storages[key] = _Storage(torch.empty(count * dtype.itemsize, dtype=torch.uint8), dtype)
        return _Storage(storages[key].data, dtype)

    first = _read_pickle(stream, builders, None)
    if first != _MAGIC:
        return first
    protocol, system = (_read_pickle(stream, builders, None) for _ in range(2))
    if protocol != _PROTOCOL or system["little_endian"] is not (sys.byteorder == "little"):
        raise PickleError("it was saved by another version of PyTorch or on another kind of machine")
    content = _read_pickle(stream, builders, storage_of)
    for key in _read_pickle(stream, builders, None):
        storage = storages[str(key)]
        count = int.from_bytes(stream.read(8), "little")
        if count * storage.dtype.itemsize != len(storage.data):
            raise PickleError("it is damaged: a storage in it has another size than its tensors say")
        if stream.readinto(storage.data.numpy().data) != len(storage.data):  # type: ignore[attr-defined]
            raise PickleError("it is cut short")
    return content


def _read_safetensors(stream: BinaryIO) -> Any:
    """Read safetensors: its library checks that the tensors lie side by side and fill the file."""
    from safetensors.torch import load

    return load(stream.read())
