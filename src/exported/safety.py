"""Checks of an ONNX file before a runtime sees it: what its graph may do, and that it is the one its metadata describe.

The graph is arithmetic on tensors in the file: no loops, functions, operations of other libraries or other files. Its
memory is bounded by the runtime (:mod:`src.exported.session`).
"""

from __future__ import annotations

import math
import struct

from src.errors import UserError, name_some
from src.exported.facts import EMBEDDING, INPUT, SCORES, ExportFacts
from src.exported.wire import Constant, Graph, Node, Port
from src.text import shortened

# Operators of ONNX that map tensors to tensors, as the exporter writes them for timm's backbones; no control flow,
# sequences, strings or random numbers
OPERATORS = frozenset(
    (  # noqa: SIM905 -- a list of a hundred short names
        "Abs Add And ArgMax ArgMin AveragePool BatchNormalization Cast CastLike Ceil Clip Concat Constant "
        "ConstantOfShape Conv ConvTranspose Cos CumSum DepthToSpace DequantizeLinear Div Einsum Elu Equal Erf Exp "
        "Expand Flatten Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater "
        "GreaterOrEqual GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization LRN "
        "LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax MatMul Max MaxPool Mean Min Mish Mod Mul Neg Not "
        "Or PRelu Pad Pow QuantizeLinear RMSNormalization Range Reciprocal ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax "
        "ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize Round ScatterElements ScatterND "
        "Selu Shape Sigmoid Sign Sin Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum "
        "Swish Tan Tanh Tile TopK Transpose Trilu Unsqueeze Where Xor"
    ).split()
)
_MAKE_FROM_SHAPE = ("ConstantOfShape", "Expand", "Tile")  # their last input is a shape or a number of copies
_MOST_NUMBERS = 1 << 26  # that one of these makes of a constant shape
_FLOAT, _INT64 = 1, 7  # types in onnx.proto


def check_graph(graph: Graph, source: str) -> None:
    """Check that a graph is arithmetic on tensors in the file.

    Raises:
        UserError: it is not; the message says what else it has.
    """
    constants = dict(graph.constants)
    for node in graph.nodes:
        if node.operator[1] == "Constant":
            constants |= dict(zip(node.outputs, node.constants, strict=False))
    every = [*graph.constants.values(), *(one for node in graph.nodes for one in node.constants)]
    others = sorted({_name(node) for node in graph.nodes if not _is_known(node)})
    sizes = [_name(node) for node in graph.nodes if _made(node, constants) > _MOST_NUMBERS]
    for problem, names in (
        ("operations that exported models do not need", others),
        ("loops or branches", [_name(node) for node in graph.nodes if node.has_graphs]),
        ("functions or sparse tensors", ["further parts"] * graph.has_more),
        ("weights in other files", ["external data"] * any(one.has_external_data for one in every)),
        ("giant constants", sizes),
    ):
        if names:
            raise UserError(f"{source} has {problem}: {name_some(names)}; use files of export.py")


def check_ports(graph: Graph, facts: ExportFacts, outputs: int, source: str) -> None:
    """Check that input and outputs of a graph are those that its metadata describe.

    Args:
        graph: of the file.
        facts: of its metadata.
        outputs: D*M.
        source: the file.

    Raises:
        UserError: they are not.
    """
    size = facts.image_size
    expected = [Port(INPUT, _FLOAT, (None, 3, size, size)), Port(EMBEDDING, _FLOAT, (None, outputs))]
    if facts.has_scores:
        expected.append(Port(SCORES, _FLOAT, (None,)))  # read by other runtimes only
    initial = set(graph.constants)  # which old files list as inputs too
    found = [port for port in (*graph.inputs, *graph.outputs) if port.name not in initial]
    found = [port._replace(sides=port.sides[:1]) if port.name == SCORES else port for port in found]
    if found != expected:
        described, has = (", ".join(map(_port, ports)) for ports in (expected, found[:4]))
        raise UserError(f"{source}: its metadata describe {described}, its graph has {has}; export it again")


def _is_known(node: Node) -> bool:
    domain, name = node.operator
    return domain in ("", "ai.onnx") and name in OPERATORS


def _name(node: Node) -> str:
    return shortened(".".join(filter(None, node.operator)), 60)


def _port(port: Port) -> str:
    sides = " x ".join("any" if side is None else str(side) for side in port.sides)
    return f"{shortened(port.name, 40)} [{sides}]" + ("" if port.type == _FLOAT else f" of type {port.type}")


def _made(node: Node, constants: dict[str, Constant]) -> int:
    """Return how many numbers a node makes of a constant shape; 0 if it makes none or its shape is computed."""
    shape = constants.get(node.inputs[-1]) if node.inputs and node.operator[1] in _MAKE_FROM_SHAPE else None
    if shape is None or shape.type != _INT64:
        return 0
    count = len(shape.raw) // 8
    return math.prod(max(1, side) for side in struct.unpack(f"<{count}q", bytes(shape.raw[: 8 * count])))
