"""Format metrics as text tables that name their protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
    columns = [
        ("images", "num_images", ",.0f"),
        ("labels", "num_labels", ",.0f"),
        ("labels/img", "labels_per_image", ".4f"),
    ]
    for k in ks_of(report):
        columns += [(f"{name}@{k}", f"{name}@{k}", ".2f") for name in ("P", "R", "F1")]
        columns.append(("(best)", f"ceiling.F1@{k}", ".2f"))
    if any(key.endswith(".F1@threshold") for key in report):
        columns += [(f"{name}@thre", f"{name}@threshold", ".2f") for name in ("P", "R", "F1")]
    columns += [("mAP", "mAP", ".2f"), ("mAP_skip", "mAP_skip", ".2f")]
    notes = [
        f"protocol: {images}; micro P/R/F1@K; (best) is the F1@K of a perfect ranking",
        "mAP counts a label without a positive as 0; mAP_skip leaves such labels out and treats ties as "
        "scikit-learn does",
    ]
    if any(key.endswith(".mAP_verified") for key in report):
        columns.append(("mAP_verified", "mAP_verified", ".2f"))
        notes.append("unknown labels count as absent; mAP_verified leaves them out, label by label")
    rows = [["setting", *(title for title, _, _ in columns)]]
    for key, title in SETTINGS.items():
        if f"{key}.mAP" in report:
            values = [(report.get(f"{key}.{name}"), form) for _, name, form in columns]
            rows.append([title, *("-" if value is None else format(value, form) for value, form in values)])
    return "\n".join([*align(rows), *notes])


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Format rows of cells as lines with aligned columns, of which only the first is aligned to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]


def summary(report: Mapping[str, float], k: int = 3) -> str:
    """Return F1@K and mAP of both settings as one line."""
    parts = []
    for key, title in SETTINGS.items():
        if f"{key}.mAP" in report:
            f1 = f"F1@{k} {report[f'{key}.F1@{k}']:.2f} " if f"{key}.F1@{k}" in report else ""
            parts.append(f"{title} {f1}mAP {report[f'{key}.mAP']:.2f}")
    return " | ".join(parts)
