"""Quantise an exported graph with the number ranges of real images."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from src.data.dataset import ImageDataset, image_loader
from src.data.transforms import eval_transform
from src.errors import UserError
from src.exported.facts import EMBEDDING, INPUT
from src.exported.int8 import quantise
from src.exported.session import run_session

BATCH_SIZE = 8


class CalibrationImages:
    """Iterate once over batches of images [b, 3, S, S] float32 in [0, 1], with a progress bar.

    Attributes:
        bad: messages about unreadable images.
    """

    def __init__(self, paths: Sequence[Path], image_size: int, interpolation: str, workers: int) -> None:
        self.bad: list[str] = []
        self._num_images = len(paths)
        dataset = ImageDataset(paths, eval_transform(image_size, interpolation))
        self._loader = image_loader(dataset, batch_size=BATCH_SIZE, workers=workers)

    def __len__(self) -> int:
        return self._num_images

    def __iter__(self) -> Iterator[np.ndarray]:
        with tqdm(total=len(self), desc="calibration", unit="img", disable=None, leave=False) as bar:
            for batch in self._loader:
                self.bad.extend(batch.bad)
                if len(batch.images):
                    yield batch.images.numpy()
                bar.update(len(batch.rows) + len(batch.bad))


def to_int8(graph: Any, images: CalibrationImages, float_model: bytes) -> tuple[Any, float]:
    """Quantise a graph, and compare it with the float32 file on the first batch.

    Returns:
        (the quantised ``onnx.ModelProto``, the relative norm of the difference of the embeddings).

    Raises:
        UserError: none of the images can be read.
    """
    batches = iter(images)
    first = next(batches, None)
    if first is None:
        raise UserError(f"--calibration: none of the {len(images)} images can be read")
    small = quantise(graph, itertools.chain([first], batches))
    found, expected = (
        run_session(model, "export.py").run([EMBEDDING], {INPUT: first})[0]
        for model in (small.SerializeToString(), float_model)
    )
    return small, float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
