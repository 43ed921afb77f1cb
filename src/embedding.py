"""Compute the embeddings of a data set, in one process or several."""

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
    """Run images through a model; the outputs are float32 on the CPU.

    Args:
        forward: images [b, 3, S, S] to outputs [b, K].
        loader: batches of images.
        device: of the model.
        precision: dtype under autocast; None computes in float32.
        on_batch: called after each batch with its number of images, including unreadable ones.

    Returns:
        Outputs [n, K]; [0, 0] if no image can be read.
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
class LoaderConfig:
    """Dataloader and device for running images through the model.

    Attributes:
        batch_size: images of a batch, in each process.
        workers: processes that read images.
        device: of the model.
        precision: dtype under autocast; None computes in float32.
        processes: the processes that share the images.
        on_batch: called after each batch of :func:`embed_images`; it may raise to stop.
    """

    batch_size: int
    workers: int
    device: torch.device
    precision: torch.dtype | None = None
    processes: Processes = ALONE
    on_batch: Callable[[], None] = lambda: None


def embed_images(
    forward: Callable[[Tensor], Tensor], dataset: ImageDataset, config: LoaderConfig, title: str, every: int = 1
) -> Embedded:
    """Run images through a model behind a progress bar; several processes share the batches.

    The batches are those of a single process, so the outputs are equal to the last bit.

    Args:
        forward: images [b, 3, S, S] to outputs [b, K].
        dataset: the images.
        config: of the loader and the processes.
        title: of the progress bar.
        every: batches between two updates of the bar.

    Returns:
        All outputs in the first process, in the others only their own.
    """
    processes, size = config.processes, config.batch_size
    batches = torch.arange(len(dataset)).split(size)[processes.rank :: processes.count]
    rows = torch.cat(batches).tolist() if batches else []
    loader = image_loader(
        dataset, batch_size=size, workers=config.workers, pin_memory=config.device.type == "cuda", rows=rows
    )
    with progress(len(rows), title, every * size) as advance:

        def on_batch(count: int) -> None:
            advance(count)
            config.on_batch()

        own = embed(forward, loader, device=config.device, precision=config.precision, on_batch=on_batch)
    return own if processes.count == 1 else _join(processes, own)


def _join(processes: Processes, own: Embedded) -> Embedded:
    """Collect the outputs of all processes in the first one, in the order of the rows."""
    parts = processes.to_first(own)
    if not processes.is_first:
        return own
    rows = torch.cat([part.rows for part in parts])
    outputs = [part.outputs for part in parts if len(part.outputs)]  # [0, 0] if a process has read no image
    order = rows.argsort()
    joined = torch.cat(outputs)[order] if outputs else own.outputs
    return Embedded(joined, rows[order], tuple(message for part in parts for message in part.bad))
