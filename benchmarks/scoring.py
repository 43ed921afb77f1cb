#!/usr/bin/env python3
"""Measure the ten best of 400,000 labels for one image and for 32, against the matrix product alone, and loops.

One row per number of images. ``fast`` is score_labels and top_k_labels; ``product`` is the matrix product of its
blocks, the lower bound of any scoring; ``plain`` scores an image at a time, principal vector by principal vector, and
sorts all its labels. All take turns in one process. The memory is that of scoring and selecting, without embeddings and
word vectors, in a process of its own.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import benchmark_parser, median_ms, ratio, record, take_turns
from benchmarks.evaluation import DIM, NUM_ROWS, memory_mb, plain_scores
from src.scoring import MAX_BLOCK_ELEMENTS, principal_vectors, score_labels, top_k_labels

TOP = 10


def draw(images: int, labels: int) -> tuple[Tensor, Tensor]:
    """Draw embeddings [B, D*M] and word vectors [D, C] of whole numbers, whose products are exact in any order."""
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randint(-2047, 2048, (images, DIM * NUM_ROWS), generator=generator).float()
    words = torch.empty(DIM, labels)
    for part in words.split(8):
        part.copy_(torch.randint(-7, 8, part.shape, generator=generator))
    return embeddings, words


@torch.inference_mode()
def fast(embeddings: Tensor, words: Tensor) -> Tensor:
    """Return the indices of the best labels [B, 10], as tagging does."""
    return top_k_labels(score_labels(embeddings, words), TOP)[1]


@torch.inference_mode()
def product(embeddings: Tensor, words: Tensor) -> None:
    """Compute the products [B * M, c] of every block of labels."""
    flat = principal_vectors(embeddings, DIM).reshape(-1, DIM)
    for part in words.split(max(1, MAX_BLOCK_ELEMENTS // len(flat)), dim=1):
        torch.mm(flat, part)


@torch.inference_mode()
def plain(embeddings: Tensor, words: Tensor) -> Tensor:
    """Compute the same as :func:`fast` in loops."""
    return plain_scores(embeddings, words).sort(dim=1, descending=True, stable=True).indices[:, :TOP]


def memory_of_a_child(images: int, labels: int) -> int:
    """Return the MB that scoring and selecting need beside their input, in a fresh process."""
    command = [sys.executable, __file__, "--child", f"--images={images}", f"--labels={labels}"]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def memory_of_this_process(images: int, labels: int) -> int:
    """Return the same for this process, which must have done nothing else."""
    fast(*draw(images, 100))  # libraries allocate on first use
    problem = draw(images, labels)
    with suppress(OSError, AttributeError):  # no glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # memory freed by drawing would be reused, and not counted
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # proc(5): 5 resets VmHWM
    before = memory_mb("VmRSS")
    fast(*problem)
    return memory_mb("VmHWM") - before


def measure(images: int, labels: int, repeats: int) -> dict[str, object]:
    """Measure the row of one number of images."""
    problem = draw(images, labels)
    assert torch.equal(fast(*problem), plain(*problem))
    seconds = take_turns({run.__name__: partial(run, *problem) for run in (fast, product, plain)}, repeats)
    return {
        "images": images,
        "labels": labels,
        "rows": NUM_ROWS,
        "dim": DIM,
        "top": TOP,
        **{f"{name}_ms": median_ms(values) for name, values in seconds.items()},
        "fast_over_product": round(ratio(seconds, "fast", "product"), 2),
        "plain_over_fast": round(ratio(seconds, "plain", "fast"), 2),
        "memory_mb": memory_of_a_child(images, labels),
        "result_mb": round(4 * images * labels / 1e6),
        "all_products_mb": round(4 * images * NUM_ROWS * labels / 1e6),
    }


def main() -> None:
    """Measure the rows of the docs."""
    flags = benchmark_parser(__doc__)
    flags.add_argument("--images", type=int, nargs="+", default=[1, 32], help="numbers of images, one row each")
    flags.add_argument("--labels", type=int, default=400_000)
    flags.add_argument("--repeats", type=int, default=7, help="timed rounds")
    flags.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of PyTorch")
    flags.add_argument("--child", action="store_true", help="print the memory of this process and exit")
    args = flags.parse_args()
    torch.set_num_threads(args.threads)
    if args.child:
        print(memory_of_this_process(args.images[0], args.labels))
        return
    record("scoring", [measure(images, args.labels, args.repeats) for images in args.images], args.output)


if __name__ == "__main__":
    main()
