"""Weight files and ONNX files that are made to do harm, or damaged: nothing runs, nothing grows, one line says so."""

from __future__ import annotations

import base64
import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from src.checkpoint import load_checkpoint
from src.checkpoint.digest import write_digest
from src.checkpoint.info import info_of_dict
from src.errors import UserError
from src.exported.facts import ExportFacts, of_metadata, to_metadata
from src.models.state_files import read_state_file
from src.utils.digest import side_file
from tests.conftest import ROOT
from tests.helpers import save_tiny

MARK, STOP = b"(", b"."


class Payload:
    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


@pytest.mark.parametrize("form", ["zip", "older", "pickle", "protocol 0"])
@pytest.mark.parametrize("place", ["weights", "beside"])
@pytest.mark.parametrize("function", [os.system, eval, open, subprocess.call])
def test_a_payload_is_not_run_and_the_file_is_refused(function, place, form, tmp_path):
    mark = tmp_path / "mark"
    command = {eval: f"open({str(mark)!r}, 'w')", open: str(mark)}.get(function, f"touch {mark}")
    payload = Payload(function, command, "w") if function is open else Payload(function, command)
    content = {"model": {"a": payload if place == "weights" else torch.ones(1)}, "note": payload}
    path = tmp_path / "x.pth"
    if form in ("zip", "older"):
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    else:
        path.write_bytes(pickle.dumps({"note": payload}, protocol=0 if form == "protocol 0" else 4))
    with pytest.raises(UserError, match=r"it refers to \w+\.\w+, as harmful files do.*not safe to load"):
        read_state_file(path)
    assert not mark.exists()


def test_a_payload_of_an_innocent_name_stays_a_name(tmp_path):
    payload = Payload(Path.touch, tmp_path / "mark")
    torch.save({"model": {"a": torch.ones(1)}, "note": payload}, tmp_path / "x.pth")
    assert str(read_state_file(tmp_path / "x.pth")["note"]) == "builtins.getattr"
    assert not (tmp_path / "mark").exists()


TWICE = [b"](" + b"h" + bytes([n]) + (b"h" + bytes([n])) * 9 + b"eq" + bytes([n + 1]) for n in range(30)]
BOMBS = {
    "bytearray": b"\x80\x02c__builtin__\nbytearray\n\x8a\x05\x00\x00\x00\x60\x00\x85R.",
    "references": b"\x80\x02]q\x00" + b"".join(TWICE) + STOP,
    "nested lists": b"\x80\x02" + b"](" * 100_000 + b"e" * 100_000 + STOP,
    "nested tuples": b"\x80\x02)" + b"\x85" * 200_000 + STOP,
    "nested key": b"\x80\x02})" + b"\x85" * 200_000 + b"Ns.",
    "far place": b"\x80\x02}r\xff\xff\xff\x7f.",
    "long text": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x00.",
    "many sets": b"\x80\x04" + b"\x8f" * 500_000 + STOP,
    "itself": b"\x80\x02]q\x00h\x00a.",
    "long number": b"\x80\x02\x8b" + struct.pack("<I", 1_000_000) + b"\x7f" * 1_000_000 + STOP,
}


HARMLESS = ("nested key", "far place", "long number")  # stand-ins of a few bytes


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits memory as Linux can")
def test_pickles_that_grow_are_refused_in_little_memory(tmp_path):
    for bomb, content in BOMBS.items():
        (tmp_path / bomb).write_bytes(content)
    code = (
        "import resource, sys\n"
        "from src.models.state_files import read_state_file\n"
        "pages = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (pages + (1 << 29),) * 2)\n"
        "for path in sys.argv[1:]:\n"
        "    try: read_state_file(path)\n"
        "    except BaseException as error: print(f'{type(error).__name__}: {error}')\n"
        "    else: print('read')"
    )
    arguments = [sys.executable, "-c", code, *(str(tmp_path / bomb) for bomb in BOMBS)]
    child = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True)
    for bomb, line in zip(BOMBS, child.stdout.splitlines(), strict=True):
        assert line == "read" if bomb in HARMLESS else line.startswith("UserError: "), (bomb, line)
        assert len(line) < 500, bomb


def test_storages_and_archives_that_grow_are_refused(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"a": torch.zeros(1).expand(10**9)}, path)
    with pytest.raises(UserError, match="a tensor of 1000000000 numbers in a storage of 1"):
        load_checkpoint(path)
    big = torch.zeros(1 << 20)
    torch.save({str(n): big[n:] for n in range(100)}, path)
    with pytest.raises(UserError, match="repeat the same numbers"):
        load_checkpoint(path)
    torch.save({"a": torch.zeros(1 << 22)}, path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(tmp_path / "y.pth", "w", zipfile.ZIP_DEFLATED) as target:
        for part in source.infolist():
            target.writestr(part.filename, source.read(part))
    with pytest.raises(UserError, match="grows to many times its size"):
        load_checkpoint(tmp_path / "y.pth")


# Flipped bits


def test_a_flipped_bit_of_any_part_is_found_without_a_side_file(tmp_path):
    path = tmp_path / "x.ckpt"
    model = save_tiny(path)
    side_file(path).unlink()
    whole = path.read_bytes()
    for place in range(50, len(whole), len(whole) // 31):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        try:
            state = load_checkpoint(path)[0].state_dict()
        except UserError:
            continue
        assert all(torch.equal(one, state[key]) for key, one in model.state_dict().items()), place  # unused bytes


def test_a_flipped_bit_is_found_by_the_side_file_whatever_the_format(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"a": torch.ones(100)}, path, _use_new_zipfile_serialization=False)
    write_digest(path)
    assert read_state_file(path)["a"].sum() == 100
    damaged = bytearray(path.read_bytes())
    damaged[-50] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"differs from its side file .*x\.pth\.sha256: .*copy both again, or delete"):
        read_state_file(path)
    assert read_state_file(path, verify=False)["a"].sum() != 100


def test_archives_without_checksums_are_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(3)}, tmp_path / "x.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_state_file(tmp_path / "x.pth")["a"].tolist() == [1, 1, 1]


# ONNX


@pytest.fixture(scope="module")
def metadata(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    path = tmp_path_factory.mktemp("tiny") / "x.ckpt"
    save_tiny(path)
    info = info_of_dict(torch.load(path, weights_only=True), "x")
    return to_metadata(info, ExportFacts("0" * 64, 32, "float32", False))


def packed(value: object) -> str:
    stream = io.BytesIO()
    torch.save(value, stream)
    return base64.b64encode(stream.getvalue()).decode()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sdl.checkpoint", packed(Payload(os.system, "true"))),
        ("sdl.checkpoint", packed([1])),
        ("sdl.checkpoint", base64.b64encode(BOMBS["bytearray"]).decode()),
        ("sdl.checkpoint", "no base64!"),
        ("sdl.input", "[" * 100_000),
        ("sdl.input", '{"image_size": 1e18}'),
        ("sdl.input", '{"image_size": 100000}'),
        ("sdl.model", '{"precision": "float1"}'),
        ("sdl.output", "{}"),
        ("sdl.format", "x" * 100_000),
    ],
)
def test_odd_metadata_are_one_line(name, value, metadata):
    with pytest.raises(UserError, match=r"^x\.onnx is (incomplete|not an ONNX file|an incomplete)") as caught:
        of_metadata({**metadata, name: value}, "x.onnx")
    assert len(str(caught.value)) < 500
    assert "weights_only" not in str(caught.value)


def graph_file(path: Path, metadata: dict[str, str], nodes: list[Any], **changes: Any) -> Path:
    onnx = pytest.importorskip("onnx")
    helper, numbers = onnx.helper, onnx.TensorProto
    ports = {"input": ("images", ["b", 3, 32, 32]), "output": ("embedding", ["b", 8]), **changes}
    source, target = (
        helper.make_tensor_value_info(name, numbers.FLOAT, sides) for name, sides in (ports["input"], ports["output"])
    )
    initial = changes.get("initial", [])
    graph = helper.make_graph(nodes, "g", [source], [target], initial)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("evil", 1)])
    model.ir_version = 9
    helper.set_model_props(model, metadata)
    path.write_bytes(model.SerializeToString())
    return path


def onnx_error(path: Path) -> str:
    pytest.importorskip("onnxruntime")
    from src.exported.session import ExportedModel

    with pytest.raises(UserError) as caught:
        ExportedModel(path)
    return str(caught.value)


def test_graphs_that_do_more_than_arithmetic_are_refused(metadata, tmp_path):
    onnx = pytest.importorskip("onnx")
    node, array = onnx.helper.make_node, onnx.numpy_helper.from_array
    body = onnx.helper.make_graph([], "body", [], [])
    outside = array(torch.zeros(3).numpy(), "w")
    outside.data_location = onnx.TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="../../etc/passwd")
    huge = array(torch.tensor([10**9]).numpy(), "s")
    for nodes, changes, message in (
        ([node("Loop", ["a"], ["embedding"], body=body)], {}, "operations that exported models do not need: Loop"),
        ([node("Identity", ["images"], ["embedding"], body=body)], {}, "has loops or branches"),
        ([node("Run", ["images"], ["embedding"], domain="evil")], {}, "do not need: evil.Run"),
        ([node("RandomNormal", [], ["embedding"], shape=[10**9])], {}, "do not need: RandomNormal"),
        ([node("Add", ["images", "w"], ["embedding"])], {"initial": [outside]}, "weights in other files"),
        ([node("ConstantOfShape", ["s"], ["embedding"])], {"initial": [huge]}, "giant constants: ConstantOfShape"),
        (
            [node("Identity", ["pictures"], ["embedding"])],
            {"input": ("pictures", ["b", 3, 32, 32])},
            "its graph has pictures",
        ),
        ([node("Identity", ["images"], ["embedding"])], {"input": ("images", ["b", 3, 64, 64])}, "x 64"),
        ([node("Identity", ["images"], ["embedding"])], {"output": ("embedding", [1, 5])}, r"embedding [1 x 5]"),
        ([node("Identity", ["images"], ["embedding"])], {}, "gives float32 of shape (1, 3, 32, 32)"),
        ([node("Flatten", ["images"], ["embedding"])], {}, "export it again"),
    ):
        path = graph_file(tmp_path / "x.onnx", metadata, nodes, **changes)
        assert message in onnx_error(path)


def test_a_graph_cannot_take_more_memory_than_half_of_the_machine(metadata, tmp_path):
    onnx = pytest.importorskip("onnx")
    node, array = onnx.helper.make_node, onnx.numpy_helper.from_array
    nodes = [
        node("Concat", ["s", "s"], ["square"], axis=0),  # the shape is computed, which no check of constants sees
        node("ConstantOfShape", ["square"], ["x"]),
        node("ReduceSum", ["x"], ["y"]),
        node("Mul", ["y", "zero"], ["z"]),
        node("Expand", ["z", "shape"], ["embedding"]),
    ]
    initial = [
        array(torch.tensor([2**20]).numpy(), "s"),
        array(torch.zeros(1).numpy(), "zero"),
        array(torch.tensor([1, 8]).numpy(), "shape"),
    ]
    message = onnx_error(graph_file(tmp_path / "x.onnx", metadata, nodes, initial=initial))
    assert "ONNX Runtime cannot run it" in message


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_cut_onnx_files_are_named(share, metadata, tmp_path):
    onnx = pytest.importorskip("onnx")
    path = graph_file(tmp_path / "x.onnx", metadata, [onnx.helper.make_node("Identity", ["images"], ["embedding"])])
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert "is no whole ONNX file" in onnx_error(path) or "not an ONNX file of this version" in onnx_error(path)
