"""Static 8-bit quantisation with ONNX Runtime: QDQ format, a scale per output channel, ranges from real images.

The choices were measured with a frozen EfficientNet-Lite0 on Corel5k (docs/export.md):

* Ranges are the minimum and maximum: percentiles and the entropy method were no better and took longer.
* Weights have 7 bits: processors without VNNI add products in 16 bits with saturation, which costs nearly 3 points of
  mAP with 8 bits.
* All layers up to the third convolution stay in float32: this small part loses most.
* Scores, if the graph has them, stay in float32 too.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from src.data.dataset import ImageDataset, image_loader
from src.data.transforms import Transform
from src.errors import UserError
from src.exported.facts import EMBEDDING, INPUT
from src.exported.graph import quiet
from src.exported.session import run_session
from src.utils.optional import import_extra

BATCH_SIZE = 8
FLOAT_CONVOLUTIONS = 3
QUANTISED = ["Conv", "Gemm", "MatMul", "Add", "Relu", "LeakyRelu", "Clip"]


def calibration_batches(
    paths: Sequence[Path], transform: Transform, workers: int, bad: list[str]
) -> Iterator[np.ndarray]:
    """Yield batches of images [b, 3, S, S] float32 in [0, 1]; messages about unreadable ones are added to ``bad``."""
    loader = image_loader(ImageDataset(paths, transform), batch_size=BATCH_SIZE, workers=workers)
    with tqdm(total=len(paths), desc="calibration", unit="img", disable=None, leave=False) as bar:
        for batch in loader:
            bad.extend(batch.bad)
            if len(batch.images):
                yield batch.images.numpy()
            bar.update(len(batch.rows) + len(batch.bad))


def to_int8(graph: Any, batches: Iterator[np.ndarray], float_model: bytes) -> tuple[Any, float]:
    """Quantise a graph, and compare it with the float32 file on the first batch.

    Returns:
        (the quantised ``onnx.ModelProto``, the relative norm of the difference of the embeddings).

    Raises:
        UserError: none of the images can be read.
    """
    first = next(batches, None)
    if first is None:
        raise UserError("--calibration: none of the images can be read; give others")
    small = quantise(graph, itertools.chain([first], batches))
    found, expected = (
        run_session(model, "export.py").run([EMBEDDING], {INPUT: first})[0]
        for model in (small.SerializeToString(), float_model)
    )
    return small, float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def quantise(graph: Any, batches: Iterable[np.ndarray]) -> Any:
    """Quantise an ``onnx.ModelProto``.

    Args:
        graph: of :func:`src.exported.graph.trace`.
        batches: images [b, 3, S, S] float32 in [0, 1] that set the ranges; at least one batch; they are read once.

    Raises:
        UserError: a package is missing.
    """
    onnx = import_extra("onnx", "onnx", "--int8")
    quantization = import_extra("onnxruntime.quantization", "onnxruntime", "--int8")
    preparation = import_extra("onnxruntime.quantization.shape_inference", "onnxruntime", "--int8")
    with tempfile.TemporaryDirectory() as folder, quiet():
        plain, prepared, small = (Path(folder) / name for name in ("plain.onnx", "prepared.onnx", "int8.onnx"))
        onnx.save(graph, plain)
        preparation.quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared,
            small,
            _Reader(iter(batches)),
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


class _Reader:
    """The batches as ONNX Runtime asks for them."""

    def __init__(self, batches: Iterator[np.ndarray]) -> None:
        self.batches = batches

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(({INPUT: batch} for batch in self.batches), None)


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
