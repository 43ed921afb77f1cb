"""The evaluation protocol: what a metric counts."""

from __future__ import annotations

from dataclasses import dataclass

from src.choices import IMAGES, Images


@dataclass(frozen=True)
class Protocol:
    """What a metric counts; two protocols give one model different numbers, so that every table names its own.

    Attributes:
        ks: the K of P/R/F1@K.
        images: ``positive-only`` counts the images with at least one relevant positive label (the released code,
            DualCoOp, ML-Decoder); ``all-images`` counts every image (LESA, BiAM, Gen-MLZSL).
        threshold: also measure P/R/F1 of the labels that score above it; None: no such metrics.

    Raises:
        ValueError: a K is below 1, or ``images`` is not a known protocol.
    """

    ks: tuple[int, ...] = (3, 5)
    images: Images = "positive-only"
    threshold: float | None = None

    def __post_init__(self) -> None:
        if any(k < 1 for k in self.ks):
            raise ValueError(f"k must be at least 1, got {min(self.ks)}")
        if self.images not in IMAGES:
            raise ValueError(f"images must be one of {IMAGES}, got {self.images!r}")


DEFAULT_PROTOCOL = Protocol()
