"""Run an exported file, without building a PyTorch model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.errors import UserError, first_line
from src.exported.facts import EMBEDDING, INPUT, of_metadata
from src.utils.optional import import_extra


class ExportedModel:
    """Map images [B, 3, S, S] in [0, 1] to embeddings [B, D*M] with ONNX Runtime on the CPU.

    Args:
        path: a file of export.py.
        parallel_calls: number of threads that call the model at the same time; each call gets its share of PyTorch's
            number of threads.

    Attributes:
        info: everything in the checkpoint except its weights.
        facts: origin of the file.

    Raises:
        UserError: onnxruntime is missing, the file cannot be read, or it was not made by export.py.
    """

    def __init__(self, path: str | Path, parallel_calls: int = 1) -> None:
        if not Path(path).is_file():
            raise UserError(f"no such file: {path}; give the path of a checkpoint or of a file that export.py wrote")
        self.parallel_calls = parallel_calls
        self.session = run_session(str(path), str(path), max(1, torch.get_num_threads() // parallel_calls))
        self.info, self.facts = of_metadata(self.session.get_modelmeta().custom_metadata_map, path)

    def __call__(self, images: Tensor) -> Tensor:
        """Map [B, 3, S, S] to [B, D*M], on the device of ``images``."""
        (embedding,) = self.session.run([EMBEDDING], {INPUT: images.float().cpu().contiguous().numpy()})
        return torch.from_numpy(embedding).to(images.device)


def run_session(model: str | bytes, source: str, num_threads: int | None = None) -> Any:
    """Open an ``onnxruntime.InferenceSession`` on the CPU.

    Args:
        model: path of an ONNX file, or its bytes.
        source: its name in error messages.
        num_threads: threads per call; None takes PyTorch's number.

    Raises:
        UserError: onnxruntime is missing, or cannot load the model.
    """
    runtime = import_extra("onnxruntime", "onnxruntime", source)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads() if num_threads is None else num_threads
    options.inter_op_num_threads = 1  # the graphs are chains without parallel branches
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL  # NCHWc, fused activations
    # Spinning threads would take the processor from those that read images between runs
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3  # errors only
    try:
        return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # pybind gives ONNX Runtime's errors no common class but Exception
        raise UserError(f"{source}: ONNX Runtime cannot load it ({first_line(error)}); export it again") from error
