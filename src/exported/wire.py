"""Read ONNX files field by field, as far as their safety needs, without the onnx package, which tagging does not need.

An ONNX file is a protocol-buffers message: fields of a number and a value, which is an integer or bytes, and bytes may
be a message again (https://protobuf.dev/programming-guides/encoding, onnx/onnx.proto). Nothing is copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

_FIXED = {1: 8, 5: 4}  # wire types of numbers of fixed size -> bytes
_BYTES = 2
_LONGEST_INTEGER = 10  # bytes
_MOST_FIELDS = 500_000  # of one message


class Constant(NamedTuple):
    """A tensor in the file.

    Attributes:
        sides: its shape.
        has_external_data: its numbers lie in another file.
        type: number of its type in onnx.proto.
        raw: the bytes of its numbers, empty if they are stored otherwise.
    """

    sides: tuple[int, ...]
    has_external_data: bool
    type: int
    raw: bytes | memoryview


class Port(NamedTuple):
    """An input or output of the graph: name, number of its type, and shape with None for a side that varies."""

    name: str
    type: int
    sides: tuple[int | None, ...]


@dataclass(frozen=True)
class Node:
    """An operation.

    Attributes:
        operator: domain and name; the domain of ONNX itself is empty.
        inputs, outputs: names of tensors.
        attributes: their names.
        constants: tensors in attributes.
        has_graphs: an attribute is a graph, as for loops.
    """

    operator: tuple[str, str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: tuple[Constant, ...]
    has_graphs: bool


@dataclass(frozen=True)
class Graph:
    """A model file: its graph, its metadata, and whether it has more parts than these."""

    nodes: tuple[Node, ...]
    constants: dict[str, Constant]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    metadata: dict[str, str]
    has_more: bool


def read_graph(content: bytes | memoryview) -> Graph:
    """Read a model file.

    Raises:
        ValueError: it is no whole protocol-buffers message of this form.
    """
    model = _fields(memoryview(content))
    graph = _fields(_only(model.get(7, [])))
    return Graph(
        nodes=tuple(map(_node, graph.get(1, []))),
        constants=dict(map(_named_constant, graph.get(5, []))),
        inputs=tuple(map(_port, graph.get(11, []))),
        outputs=tuple(map(_port, graph.get(12, []))),
        metadata={_text(_fields(one), 1): _text(_fields(one), 2) for one in model.get(14, [])},
        has_more=any(model.get(part) for part in (20, 25)) or bool(graph.get(15)),  # training, functions, sparse
    )


Fields = dict[int, list[int | memoryview]]


def _fields(message: int | memoryview) -> Fields:
    """Return the values of a message by field number."""
    found: Fields = {}
    for count, (number, value) in enumerate(_walk(_bytes(message))):
        if count > _MOST_FIELDS:
            raise ValueError("it has too many parts")
        found.setdefault(number, []).append(value)
    return found


def _walk(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    place = 0
    while place < len(message):
        tag, place = _integer(message, place)
        kind = tag & 7
        if kind == 0:
            value, place = _integer(message, place)
            yield tag >> 3, value
            continue
        if kind == _BYTES:
            length, place = _integer(message, place)
        elif kind in _FIXED:
            length = _FIXED[kind]
        else:
            raise ValueError(f"it has a field of the unknown kind {kind}")
        if length > len(message) - place:
            raise ValueError("it is cut short")
        yield tag >> 3, message[place : place + length]
        place += length


def _integer(message: memoryview, place: int) -> tuple[int, int]:
    """Return the integer of 7 bits a byte at a place, and the place after it."""
    value = 0
    for count in range(_LONGEST_INTEGER):
        if place + count >= len(message):
            raise ValueError("it is cut short")
        byte = message[place + count]
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value, place + count + 1
    raise ValueError("it has an integer that is too long")


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a message in it is a number")
    return value


def _only(values: list[int | memoryview]) -> memoryview:
    if len(values) != 1:
        raise ValueError(f"it has {len(values)} graphs")
    return _bytes(values[0])


def _text(fields: Fields, number: int) -> str:
    return (_texts(fields, number) or ("",))[-1]


def _texts(fields: Fields, number: int) -> tuple[str, ...]:
    return tuple(str(_bytes(value), "utf-8", "surrogateescape") for value in fields.get(number, []))


def _integers(fields: Fields, number: int) -> tuple[int, ...]:
    """Return repeated integers, which are stored one by one or packed."""
    found: list[int] = []
    for value in fields.get(number, []):
        if isinstance(value, int):
            found.append(value)
        else:
            place = 0
            while place < len(value):
                one, place = _integer(value, place)
                found.append(one)
    return tuple(found)


def _whole(fields: Fields, number: int) -> int:
    return (_integers(fields, number) or (0,))[-1]


def _constant(message: int | memoryview) -> Constant:
    fields = _fields(message)
    is_external = bool(fields.get(13)) or _whole(fields, 14) != 0
    return Constant(_integers(fields, 1), is_external, _whole(fields, 2), _bytes(fields.get(9, [memoryview(b"")])[-1]))


def _named_constant(message: int | memoryview) -> tuple[str, Constant]:
    return _text(_fields(message), 8), _constant(message)


def _node(message: int | memoryview) -> Node:
    fields = _fields(message)
    attributes = [_fields(one) for one in fields.get(5, [])]
    tensors = [tensor for one in attributes for number in (5, 10) for tensor in one.get(number, [])]
    return Node(
        operator=(_text(fields, 7), _text(fields, 4)),
        inputs=_texts(fields, 1),
        outputs=_texts(fields, 2),
        constants=tuple(map(_constant, tensors)),
        has_graphs=any(one.get(number) for one in attributes for number in (6, 11, 22, 23)),
    )


def _port(message: int | memoryview) -> Port:
    fields = _fields(message)
    form = _fields(fields[2][-1]) if 2 in fields else {}
    tensor = _fields(form[1][-1]) if 1 in form else {}
    shape = _fields(tensor[2][-1]) if 2 in tensor else {}
    sides = [_fields(side) for side in shape.get(1, [])]
    return Port(_text(fields, 1), _whole(tensor, 1), tuple(_whole(side, 1) if 1 in side else None for side in sides))
