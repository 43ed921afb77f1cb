"""Static 8-bit quantisation with ONNX Runtime: QDQ format, a scale per output channel, ranges from real images.

The choices were measured with a frozen EfficientNet-Lite0 on Corel5k (docs/export.md):

* Ranges are the minimum and maximum: percentiles and the entropy method were no better and took longer.
* Weights have 7 bits: processors without VNNI add products in 16 bits with saturation, which costs nearly 3 points of
  mAP with 8 bits.
* All layers up to the third convolution stay in float32: this small part loses most.
* Scores, if the graph has them, stay in float32 too.
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
QUANTISED = ["Conv", "Gemm", "MatMul", "Add", "Relu", "LeakyRelu", "Clip"]


def quantise(graph: Any, batches: Iterable[np.ndarray]) -> Any:
    """Quantise an ``onnx.ModelProto``.

    Args:
        graph: of :func:`src.exported.graph.trace`.
        batches: images [b, 3, S, S] float32 in [0, 1] that set the ranges; at least one batch; they are read once.

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
    """List the nodes that stay in float32: up to the third convolution (the first, if there are fewer), and scores."""
    nodes = list(graph.graph.node)  # in topological order
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
    """Wrap the batches for ONNX Runtime."""

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: batch}

    return Reader()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence output and warnings of ONNX Runtime's tools."""
    root = logging.getLogger()

    def is_error(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    root.addFilter(is_error)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.removeFilter(is_error)
