"""Embedding the images of a data set: read beside the model, behind a progress bar, in one process or several."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from src.data.dataset import Batch, ImageDataset, image_loader
from src.utils.distributed import ALONE, Processes
from src.utils.progress import progress


class Embedded(NamedTuple):
    """Model outputs [n, K] of the readable images, their rows [n] in the data set, and messages about the others."""

    outputs: Tensor
    rows: Tensor
    bad: tuple[str, ...]


@torch.inference_mode()
def embed(
    forward: Callable[[Tensor], Tensor],
    loader: Iterable[Batch],
    *,
    device: torch.device,
    precision: torch.dtype | None = None,
    on_batch: Callable[[int], None] = lambda n: None,
) -> Embedded:
    """Run images through ``forward`` (a model or its ``forward_features``); the outputs are float32 on the CPU.

    Args:
        precision: dtype under autocast; None computes in float32.
        on_batch: called after each batch with the number of images it held, unreadable ones included.

    Returns:
        Outputs [n, K]; where no image can be read, n is 0 and K too, since nothing says what it is.
    """
    outputs: list[Tensor] = []
    rows: list[Tensor] = []
    bad: list[str] = []
    for batch in loader:
        bad.extend(batch.bad)
        if len(batch.images):
            with torch.autocast(device.type, dtype=precision, enabled=precision is not None):
                output = forward(batch.images.to(device, non_blocking=True))
            outputs.append(output.float().cpu())
            rows.append(batch.rows)
        on_batch(len(batch.rows) + len(batch.bad))
    return Embedded(
        torch.cat(outputs) if outputs else torch.empty(0, 0),
        torch.cat(rows) if rows else torch.empty(0, dtype=torch.long),
        tuple(bad),
    )


@dataclass(frozen=True)
class Reading:
    """How images are read and brought to the model.

    Attributes:
        batch_size: images a batch, in each process.
        workers: processes that read.
        device: where the model is.
        precision: dtype under autocast; None computes in float32.
        processes: how many read and compute together.
        on_progress: called while the evaluation images are embedded; what it raises ends that.
    """

    batch_size: int
    workers: int
    device: torch.device
    precision: torch.dtype | None = None
    processes: Processes = ALONE
    on_progress: Callable[[], None] = lambda: None


def embed_images(
    forward: Callable[[Tensor], Tensor], dataset: ImageDataset, reading: Reading, title: str, every: int = 1
) -> Embedded:
    """Run images through a model behind a progress bar; with several processes each takes a share of the batches.

    The batches are those of a single process, so the outputs are too, to the last bit.

    Args:
        forward: images [b, 3, S, S] to outputs [b, K].
        dataset: the images.
        reading: how.
        title: of the progress bar.
        every: batches between two updates of it.

    Returns:
        All outputs in the first process, in the others their own.
    """
    processes, size = reading.processes, reading.batch_size
    batches = torch.arange(len(dataset)).split(size)[processes.rank :: processes.count]
    rows = torch.cat(batches).tolist() if batches else []
    loader = image_loader(
        dataset, batch_size=size, workers=reading.workers, pin_memory=reading.device.type == "cuda", rows=rows
    )
    with progress(len(rows), title, every * size) as advance:

        def on_batch(count: int) -> None:
            advance(count)
            reading.on_progress()

        own = embed(forward, loader, device=reading.device, precision=reading.precision, on_batch=on_batch)
    return own if processes.count == 1 else _joined(processes, own)


def _joined(processes: Processes, own: Embedded) -> Embedded:
    bad = tuple(message for of_process in processes.gather(own.bad) for message in of_process)
    outputs, rows = processes.tensors_to_first(own.outputs), processes.tensors_to_first(own.rows)
    if not processes.is_first:
        return own
    outputs = [output for output in outputs if len(output)]
    order = torch.cat(rows).argsort()
    joined = torch.cat(outputs) if outputs else own.outputs
    return Embedded(joined[order], torch.cat(rows)[order], bad)
