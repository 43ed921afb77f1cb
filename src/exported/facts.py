"""Metadata of an exported file: strings under names that begin with ``sdl.``.

Other runtimes read plain JSON: inputs, outputs, labels. The rest that tagging needs (word vectors, calibration, further
words) is in ``sdl.checkpoint``: tensors and builtin containers in the format of ``torch.save``, as base64, which
:mod:`src.models.torch_files` reads; nothing in a file is executed.
"""

from __future__ import annotations

import base64
import io
import json
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import torch
from msgspec import Meta
from torch import Tensor

from src.checkpoint.form import MAX_IMAGE_SIZE
from src.checkpoint.further_words import is_exact
from src.checkpoint.info import CheckpointInfo, info_of_dict, info_to_dict, package_versions
from src.errors import UserError, first_line
from src.models.torch_files import read_torch_file
from src.text import printable_json, shortened

FORMAT = "sdl-onnx/1"
INPUT, EMBEDDING, SCORES = "images", "embedding", "scores"

Precision = Literal["float32", "int8"]


@dataclass(frozen=True)
class ExportFacts:
    """Origin of an exported file.

    Attributes:
        checkpoint_sha256: digest of the checkpoint file.
        image_size: side of the square input, in pixels.
        precision: type of weights and activations.
        has_scores: True if the graph has a second output ``scores``.
    """

    checkpoint_sha256: str
    image_size: int
    precision: Precision
    has_scores: bool


def is_export(path: Path) -> bool:
    """Return whether export.py made a file; all its metadata is plain text in it."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(b"sdl.checkpoint_sha256") >= 0 and content.find(FORMAT.partition("/")[0].encode()) >= 0


def to_metadata(info: CheckpointInfo, facts: ExportFacts) -> dict[str, str]:
    """Convert to the metadata of an exported file; :func:`of_metadata` reads them back. ``info.split`` is required."""
    assert info.split is not None
    config, split = info.config, info.split
    plain: dict[str, object] = {
        "input": {
            "name": INPUT,
            "shape": ["batch", 3, facts.image_size, facts.image_size],
            "type": "float32",
            "image_size": facts.image_size,
            "resize": "squash: both sides to image_size, no crop, averaged over the source area",
            "interpolation": config.interpolation,
            "channel_order": "RGB",
            "value_range": [0, 1],
            "normalization": "none to be done: the graph does it",
        },
        "output": {
            "name": EMBEDDING,
            "shape": ["batch", config.wordvec_dim * config.num_rows],
            "layout": "A [wordvec_dim, num_rows], rows one after the other; score of a label = max over m of "
            "<A[:, m], its word vector>",
            "wordvec_dim": config.wordvec_dim,
            "num_rows": config.num_rows,
            "scores": SCORES if facts.has_scores else None,
        },
        "labels": {"names": list(split.labels), "seen": list(split.seen), "unseen": list(split.unseen)},
        "model": {"backbone": config.model_name, "split": split.name, "precision": facts.precision},
        "versions": package_versions(),
    }
    return {
        "sdl.format": FORMAT,
        "sdl.checkpoint_sha256": facts.checkpoint_sha256,
        **{f"sdl.{name}": printable_json(json.dumps(value, ensure_ascii=False)) for name, value in plain.items()},
        "sdl.checkpoint": _packed(info),
    }


class _Input(msgspec.Struct):
    image_size: Annotated[int, Meta(ge=1, le=MAX_IMAGE_SIZE)]


class _Output(msgspec.Struct):
    scores: str | None


class _Model(msgspec.Struct):
    precision: Precision


def of_metadata(metadata: Mapping[str, str], source: str | Path) -> tuple[CheckpointInfo, ExportFacts]:
    """Convert the result of :func:`to_metadata` back; ``source`` names the file in error messages.

    Raises:
        UserError: the file was not made by export.py, or is incomplete.
    """
    form = metadata.get("sdl.format")
    if form != FORMAT:
        raise UserError(
            f"{source} is not an ONNX file of this version's export.py: its metadata sdl.format is "
            f"{shortened(repr(form), 80)}, not {FORMAT!r}"
        )
    try:
        inputs = msgspec.json.decode(metadata["sdl.input"], type=_Input)
        output = msgspec.json.decode(metadata["sdl.output"], type=_Output)
        model = msgspec.json.decode(metadata["sdl.model"], type=_Model)
        digest = metadata["sdl.checkpoint_sha256"]
        facts = ExportFacts(digest, inputs.image_size, model.precision, output.scores is not None)
        raw = base64.b64decode(metadata["sdl.checkpoint"], validate=True)
        content = read_torch_file(io.BytesIO(raw), len(raw))
    except Exception as error:  # of a dozen kinds, for damaged metadata
        raise UserError(f"{source} is incomplete ({first_line(error)}); export it again") from error
    return info_of_dict(content if isinstance(content, Mapping) else {}, str(source)), facts


def _packed(info: CheckpointInfo) -> str:
    """Encode everything as base64; word vectors in the smallest type that is exact, that of ``--half-weights``."""
    assert info.split is not None
    dtype = _smallest(info.split.word_vectors, torch.float16)
    further = torch.float32 if info.extra_vectors is None else _smallest(info.extra_vectors, torch.int8, torch.float16)
    stream = io.BytesIO()
    torch.save(info_to_dict(info, dtype=dtype, further=further), stream)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def _smallest(vectors: Tensor, *dtypes: torch.dtype) -> torch.dtype:
    return next((dtype for dtype in dtypes if is_exact(vectors.float(), dtype)), torch.float32)
