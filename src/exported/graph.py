"""Convert an SDL model to an ONNX graph, and check that both compute the same."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from src.errors import UserError, first_line
from src.exported.facts import EMBEDDING, INPUT, SCORES
from src.exported.session import checked_graph, run_session
from src.models import SDLModel
from src.scoring import score_labels

OPSET = 18
TOLERANCE = 1e-4  # relative to the largest number of an output; rounding gives 1e-6
_BATCHES = (1, 3)  # other sizes than the batch for tracing


class EmbeddingAndScores(nn.Module):
    """Map images [B, 3, S, S] to (embedding [B, D*M], scores [B, C]).

    Args:
        model: images to embeddings.
        word_vectors: [D, C]; they become a constant of the graph.
    """

    word_vectors: Tensor

    def __init__(self, model: SDLModel, word_vectors: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("word_vectors", word_vectors)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the embedding and the scores."""
        embedding = self.model(images)
        return embedding, score_labels(embedding, self.word_vectors, max_block_elements=None)


def with_outputs(model: SDLModel, word_vectors: Tensor | None) -> tuple[nn.Module, list[str]]:
    """Return the module to export and its outputs; word vectors [D, C] add the scores."""
    if word_vectors is None:
        return model.eval(), [EMBEDDING]
    return EmbeddingAndScores(model, word_vectors).eval(), [EMBEDDING, SCORES]


def trace(module: nn.Module, outputs: Sequence[str], image_size: int) -> Any:
    """Export ``module`` as ``onnx.ModelProto`` for any batch size, with batch norms folded into the convolutions.

    Args:
        module: maps images [B, 3, S, S] in [0, 1] to tensors; in eval mode, on the CPU.
        outputs: names of its outputs.
        image_size: S in pixels.

    Raises:
        UserError: PyTorch cannot export the backbone.
    """
    images = torch.rand(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    try:
        with quiet(), torch.inference_mode(False):
            program = torch.onnx.export(
                module,
                (images,),
                dynamo=True,
                input_names=[INPUT],
                output_names=list(outputs),
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError, AssertionError, ValueError) as error:
        raise UserError(
            f"PyTorch cannot export this backbone for images of {image_size} pixels ({first_line(error)}); give an "
            "--image_size that it takes, or use the checkpoint with --engine torch"
        ) from error
    assert program is not None
    return program.model_proto


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence output and warnings of the export tools, which are about operators that the model does not have."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def set_metadata(graph: Any, metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of the file: ``graph`` with this metadata instead of any other."""
    del graph.metadata_props[:]
    for key, value in metadata.items():
        graph.metadata_props.add(key=key, value=value)
    return graph.SerializeToString()


@torch.inference_mode()
def check_parity(content: bytes, module: nn.Module, outputs: Sequence[str], image_size: int) -> float:
    """Compare an exported file with PyTorch on random images, in batches of 1 and 3.

    Returns:
        The largest difference, relative to the largest number of its output.

    Raises:
        UserError: the difference is above 1e-4.
    """
    generator = torch.Generator().manual_seed(1)
    checked_graph(content, "the exported graph")  # as those who open the file do
    session = run_session(content, "the exported graph")
    worst = 0.0
    for batch in _BATCHES:
        images = torch.rand(batch, 3, image_size, image_size, generator=generator)
        expected = module(images)
        found = session.run(list(outputs), {INPUT: images.numpy()})
        for ours, theirs in zip([expected] if isinstance(expected, Tensor) else expected, found, strict=True):
            difference = relative_difference(theirs, ours.numpy())
            if not difference <= TOLERANCE:  # NaN is refused too
                raise UserError(
                    f"the exported graph differs from PyTorch by {difference:.2g} of the output's size, more than "
                    f"{TOLERANCE:g}; nothing is written; use the checkpoint with --engine torch"
                )
            worst = max(worst, difference)
    return worst


def relative_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Compute max |found - expected| / max |expected|; NaN if a number is NaN."""
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), np.finfo(np.float32).tiny))
