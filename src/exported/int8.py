"""Static 8-bit quantisation with ONNX Runtime: QDQ form, a scale for every output channel, ranges from real images.

What is chosen here was measured with a frozen EfficientNet-Lite0 on Corel5k; docs/export.md has the numbers.

* Ranges are the least and largest value seen: percentiles and the entropy method were no better and took longer.
* Weights have 7 bits. The instruction that processors without VNNI add products with saturates at 16 bits, which cost
  nearly 3 points of mAP with 8 bits.
* Everything up to the third convolution stays float32: it is the part that suffers most, and a small one.
* Scores, where the graph has them, stay float32 too.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from src.exported.facts import EMBEDDING, INPUT
from src.exported.packages import need

FLOAT_CONVOLUTIONS = 3
QUANTISED = ["Conv", "Gemm", "MatMul", "Add", "Relu", "LeakyRelu", "Clip"]  # what has weights, and what lies between


def quantise(graph: Any, batches: Iterable[np.ndarray]) -> Any:
    """An ``onnx.ModelProto`` in float32 -> the same in 8 bits.

    Args:
        graph: of :func:`src.exported.graph.trace`.
        batches: images [b, 3, S, S] float32 in [0, 1] that set the ranges; at least one, each read once.

    Raises:
        UserError: a package is missing.
    """
    onnx = need("onnx", "--int8")
    need("onnxruntime", "--int8")
    quantization = need("onnxruntime.quantization", "--int8")
    preparation = need("onnxruntime.quantization.shape_inference", "--int8")
    with tempfile.TemporaryDirectory() as folder, _quiet():
        plain, prepared, small = (Path(folder) / name for name in ("plain.onnx", "prepared.onnx", "int8.onnx"))
        onnx.save(graph, plain)
        preparation.quant_pre_process(plain, prepared)
        quantization.quantize_static(
            prepared,
            small,
            _reader(quantization, batches),
            quant_format=quantization.QuantFormat.QDQ,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            op_types_to_quantize=QUANTISED,
            nodes_to_exclude=float_nodes(onnx.load(prepared)),
        )
        return onnx.load(small)


def float_nodes(graph: Any) -> list[str]:
    """The nodes that stay float32: all up to the third convolution (the first, if there are fewer), and the scores'."""
    nodes = list(graph.graph.node)  # ONNX demands topological order
    places = [place for place, node in enumerate(nodes) if node.op_type == "Conv"]
    last = places[FLOAT_CONVOLUTIONS - 1] if len(places) > FLOAT_CONVOLUTIONS else (places[0] if places else -1)
    names = [node.name for node in nodes[: last + 1]]
    after = {EMBEDDING}
    for node in nodes:
        if after & set(node.input):
            after |= set(node.output)
            names.append(node.name)
    return names


def _reader(quantization: Any, batches: Iterable[np.ndarray]) -> Any:
    """The batches as ONNX Runtime asks for them."""

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: batch}

    return Reader()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """ONNX Runtime's tools print, and warn through the root logger, about what is decided above."""
    root = logging.getLogger()

    def is_error(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    root.addFilter(is_error)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.removeFilter(is_error)
