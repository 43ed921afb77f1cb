"""Exported models: their metadata and their graph."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import onnx

from src.checkpoint import CheckpointInfo, ModelConfig
from src.exported.facts import ExportFacts, of_metadata, to_metadata
from src.exported.session import checked_graph
from tests.fuzz.harness import Target
from tests.helpers import SIZE, TINY, make_toy_split

_FACTS = ExportFacts("0" * 64, SIZE, "float32", False)


@cache
def _metadata() -> dict[str, str]:
    return to_metadata(CheckpointInfo("sdl", ModelConfig(TINY, 2, 4, SIZE), make_toy_split()), _FACTS)


@cache
def _graph() -> bytes:
    """A graph with the operations that exported models have."""
    made = onnx.helper
    weights = onnx.numpy_helper.from_array(np.ones((8, 3), np.float32), "w")
    nodes = [
        made.make_node("GlobalAveragePool", ["images"], ["pooled"]),
        made.make_node("Flatten", ["pooled"], ["flat"]),
        made.make_node("Gemm", ["flat", "w"], ["embedding"], transB=1),
    ]
    inputs = [made.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])]
    outputs = [made.make_tensor_value_info("embedding", onnx.TensorProto.FLOAT, ["batch", 8])]
    model = made.make_model(made.make_graph(nodes, "g", inputs, outputs, [weights]), ir_version=9)
    made.set_model_props(model, _metadata())
    return model.SerializeToString()


def _of_json(path: Path) -> object:
    try:
        content = dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError, RecursionError):  # ONNX's own form of the metadata is that of the graph below
        return None
    return of_metadata({str(name): str(value) for name, value in content.items()}, path)


def targets() -> tuple[Target, ...]:
    """Return the readers of exported models."""
    return (
        Target("onnx-metadata", "m.json", (_metadata(),), _of_json, lambda tree: json.dumps(tree).encode()),
        Target("onnx-graph", "m.onnx", (_graph(),), lambda path: checked_graph(path.read_bytes(), str(path))),
    )
