"""Further words and their vectors as a checkpoint stores them: as they are, or compactly.

Compactly, the words are one text, a word per line, and the vector v of a word is 8-bit integers q and one scale s:

    v = s q,    s = max |v| / 127, in bfloat16

The scale has the range of float32, and its product with q is exact there, so that a vector that was read is stored as
the same numbers again. A word of 100 numbers takes 102 bytes instead of 400, and its direction changes by less than
half a degree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_MOST = 127


def stored_further_words(words: Sequence[str], vectors: Tensor | None, dtype: torch.dtype) -> dict[str, Any]:
    """Return the entries of a checkpoint for V words and their vectors [D, V], or None.

    Args:
        words: the words.
        vectors: their vectors.
        dtype: ``torch.int8`` for the compact form, or a floating type.
    """
    if vectors is None or dtype != torch.int8:
        as_they_are = None if vectors is None else vectors.cpu().to(dtype).contiguous()
        return {"extra_words": list(words), "extra_vectors": as_they_are}
    integers, scales = _shrink(vectors.cpu().float())
    is_lines = all(word and "\n" not in word for word in words)
    return {
        "extra_words": "\n".join(words) if is_lines else list(words),
        "extra_vectors": integers,
        "extra_scales": scales,
    }


def read_words(stored: str | Sequence[str]) -> tuple[str, ...]:
    """Return the words of either form."""
    if isinstance(stored, str):
        return tuple(stored.split("\n")) if stored else ()
    return tuple(stored)


def read_vectors(vectors: Tensor, scales: Tensor | None) -> Tensor:
    """Return the vectors [D, V] of either form in float32."""
    return vectors.float() if scales is None else vectors.float().mul_(scales.float())


def is_exact(vectors: Tensor, dtype: torch.dtype) -> bool:
    """Return whether float32 vectors [D, V] can be stored so that they are read back as they are."""
    found = read_vectors(*_shrink(vectors)) if dtype == torch.int8 else vectors.to(dtype).float()
    return torch.equal(found, vectors)


def count_words(stored: str | Sequence[str]) -> int:
    """Return V of either form; a text is not taken apart, as damaged ones may have millions of lines."""
    return stored.count("\n") + 1 if isinstance(stored, str) and stored else len(stored)


def check_form(words: str | Sequence[str], vectors: Tensor | None, scales: Any) -> None:
    """Check that stored words, vectors [D, V] and scales are of one form.

    Raises:
        ValueError: 8-bit vectors without V positive scales, or one text or scales beside other vectors.
    """
    if vectors is None or vectors.dtype != torch.int8:
        if scales is not None or isinstance(words, str):
            raise ValueError("its further words have scales or are one text, but their vectors are not of 8 bits")
        return
    if not (isinstance(scales, Tensor) and scales.is_floating_point() and scales.shape == vectors.shape[1:]):
        raise ValueError("the scales of its vectors of further words are no row of numbers, one per word")
    if not ((scales > 0).all() and (scales.float() * (_MOST + 1)).isfinite().all()):
        raise ValueError("the scales of its vectors of further words are NaN, infinite or not positive")


def same_vectors(ours: tuple[Tensor | None, Tensor | None], theirs: tuple[Tensor | None, Tensor | None]) -> bool:
    """Return whether two files' vectors and scales are the same, as far as the coarser of the two stores can tell."""
    (a, a_scales), (b, b_scales) = ours, theirs
    if a is None or b is None:
        return a is b
    if a.shape != b.shape:
        return False
    if a_scales is not None and b_scales is not None:
        return torch.equal(a, b) and torch.equal(a_scales.float(), b_scales.float())
    steps = a_scales if a_scales is not None else b_scales
    if steps is not None:
        return bool(((read_vectors(a, a_scales) - read_vectors(b, b_scales)).abs() <= steps.float()).all())
    return torch.equal(a, b) if a.dtype == b.dtype else torch.equal(a.half(), b.half())


def _shrink(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return the 8-bit integers [D, V] and the scales [V] of float32 vectors."""
    largest = vectors.abs().amax(dim=0) if vectors.numel() else vectors.new_zeros(vectors.shape[1])
    scales = (largest / _MOST).clamp_min(torch.finfo(torch.float32).tiny).bfloat16()
    integers = (vectors / scales.float()).round_().clamp_(-_MOST, _MOST).to(torch.int8)
    return integers.contiguous(), scales
