"""Run an exported file, without building a PyTorch model."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.errors import UserError, first_line
from src.exported.facts import EMBEDDING, INPUT, of_metadata
from src.exported.safety import check_graph, check_ports
from src.exported.wire import Graph, read_graph
from src.utils.digest import open_verified
from src.utils.optional import import_extra

_LARGEST_FOLDED = 1 << 26  # bytes of a constant that is computed when a file is opened
_MEMORY_SHARE = 0.5  # of the machine's memory


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
        if not os.path.isfile(path):
            raise UserError(f"no such file: {path}; give the path of a checkpoint or of a file that export.py wrote")
        self.path = path
        self.parallel_calls = parallel_calls
        with open_verified(path) as stream:
            content = stream.read()
        graph = checked_graph(content, str(path))
        self.info, self.facts = of_metadata(graph.metadata, path)
        config = self.info.config
        self.width = config.num_rows * config.wordvec_dim
        check_ports(graph, self.facts, self.width, str(path))
        self.session = run_session(content, str(path), max(1, torch.get_num_threads() // parallel_calls))
        self(torch.zeros(1, 3, self.facts.image_size, self.facts.image_size))

    def __call__(self, images: Tensor) -> Tensor:
        """Map [B, 3, S, S] to [B, D*M], on the device of ``images``.

        Raises:
            UserError: the graph cannot be run, or gives something else.
        """
        try:
            (embedding,) = self.session.run([EMBEDDING], {INPUT: images.float().cpu().contiguous().numpy()})
        except Exception as error:  # pybind gives ONNX Runtime's errors no common class but Exception
            raise UserError(
                f"{self.path}: ONNX Runtime cannot run it on {len(images)} images ({first_line(error)}); use smaller "
                "batches, or export it again"
            ) from error
        if embedding.shape != (len(images), self.width) or embedding.dtype != np.float32:
            raise UserError(f"{self.path} gives {embedding.dtype} of shape {embedding.shape}; export it again")
        return torch.from_numpy(embedding).to(images.device)


def checked_graph(content: bytes, source: str) -> Graph:
    """Read a file and check what its graph may do (:func:`src.exported.safety.check_graph`).

    Raises:
        UserError: it is no ONNX file, or may do more.
    """
    try:
        graph = read_graph(content)
    except Exception as error:  # of many kinds, for other files
        raise UserError(f"{source} is no whole ONNX file ({first_line(error)}); export it again") from error
    check_graph(graph, source)
    return graph


def run_session(content: bytes, source: str, num_threads: int | None = None) -> Any:
    """Open an ``onnxruntime.InferenceSession`` on the CPU.

    Args:
        content: an ONNX file.
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
    options.add_session_config_entry("optimization.constant_folding_max_output_size_in_bytes", str(_LARGEST_FOLDED))
    _bound_memory()
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.log_severity_level = 4  # none: errors are raised too
    try:
        return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # pybind gives ONNX Runtime's errors no common class but Exception
        raise UserError(f"{source}: ONNX Runtime cannot load it ({first_line(error)}); export it again") from error


@cache
def _bound_memory() -> None:
    """Bound the memory of all sessions of the process: a small graph may ask for any amount."""
    runtime = import_extra("onnxruntime", "onnxruntime", "an exported model")
    memory = runtime.OrtMemoryInfo("Cpu", runtime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, runtime.OrtMemType.DEFAULT)
    most = int(_MEMORY_SHARE * _machine_memory())
    runtime.create_and_register_allocator(memory, runtime.OrtArenaCfg({"max_mem": most}))


def _machine_memory() -> int:
    """Return the bytes of memory of the machine; 8 GiB where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 8 << 30
