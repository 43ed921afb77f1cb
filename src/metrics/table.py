"""Format metrics as text tables that name their protocol."""

from __future__ import annotations

from collections.abc import Mapping

SETTINGS = {"zero_shot": "zero-shot", "generalized": "generalised"}  # key: as it is printed


def ks_of(report: Mapping[str, float]) -> list[int]:
    """Return the K of F1@K among the metrics, ascending."""
    return sorted({int(key.rpartition("@")[2]) for key in report if ".F1@" in key and key.rpartition("@")[2].isdigit()})


def format_report(report: Mapping[str, float], *, images: str) -> str:
    """Format the metrics of :func:`src.metrics.zero_shot.zero_shot_report`, with protocol, counts and ceilings.

    Args:
        report: percentages and counts.
        images: the protocol, ``positive-only`` or ``all-images``.
    """
    ks = ks_of(report)
    has_threshold = any(key.endswith("F1@threshold") for key in report)
    header = ["setting", "images", "labels", "labels/img"]
    for k in ks:
        header += [f"P@{k}", f"R@{k}", f"F1@{k}", "(best)"]
    has_unknown = any(key.endswith(".mAP_verified") for key in report)
    header += ["P@thre", "R@thre", "F1@thre"] * has_threshold + ["mAP", "mAP_skip"] + ["mAP_verified"] * has_unknown
    rows = [header]
    for key, title in SETTINGS.items():
        if f"{key}.mAP" not in report:
            continue
        row = [
            title,
            f"{report[f'{key}.num_images']:,.0f}",
            f"{report[f'{key}.num_labels']:,.0f}",
            f"{report[f'{key}.labels_per_image']:.4f}",
        ]
        for k in ks:
            names = (f"P@{k}", f"R@{k}", f"F1@{k}", f"ceiling.F1@{k}")
            row += [f"{report[f'{key}.{name}']:.2f}" if f"{key}.{name}" in report else "-" for name in names]
        if has_threshold:
            row += [f"{report[f'{key}.{name}@threshold']:.2f}" for name in ("P", "R", "F1")]
        row += [f"{report[f'{key}.mAP']:.2f}", f"{report[f'{key}.mAP_skip']:.2f}"]
        if has_unknown:
            row.append(f"{report[f'{key}.mAP_verified']:.2f}" if f"{key}.mAP_verified" in report else "-")
        rows.append(row)
    notes = [
        f"protocol: {images}; micro P/R/F1@K; (best) is the F1@K of a perfect ranking",
        "mAP counts a label without a positive as 0; mAP_skip leaves such labels out and treats ties as "
        "scikit-learn does",
    ]
    if has_unknown:
        notes.append("unknown labels count as absent; mAP_verified leaves them out, label by label")
    return "\n".join([_align(rows), *notes])


def _align(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def summary(report: Mapping[str, float], k: int = 3) -> str:
    """Return F1@K and mAP of both settings as one line."""
    parts = []
    for key, title in SETTINGS.items():
        if f"{key}.mAP" in report:
            f1 = f"F1@{k} {report[f'{key}.F1@{k}']:.2f} " if f"{key}.F1@{k}" in report else ""
            parts.append(f"{title} {f1}mAP {report[f'{key}.mAP']:.2f}")
    return " | ".join(parts)
