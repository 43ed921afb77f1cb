"""Validate a checkpoint: embed the images of a zero-shot split, measure, and fit a calibration on request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from src.calibration.fit import FittedCalibration, fit_and_measure, format_fit
from src.checkpoint import CheckpointInfo, package_versions, save_with_calibration
from src.checkpoint.info import check_same_space
from src.checkpoint.outputs import checkpoint_outputs, is_calibrated
from src.config.validate import ImageSettings, ValidateSettings
from src.data.dataset import ImageDataset, guard_workers
from src.data.metadata import Metadata, detect_kind, load_metadata
from src.data.parts import EvaluationSet, load_evaluation_set
from src.data.transforms import eval_transform
from src.embedding import Embedded, LoaderConfig, embed_images
from src.errors import UserError, prefix_errors
from src.evaluation import evaluate
from src.exported.engines import Opened, open_model
from src.metrics import format_report
from src.models.sdl_model import check_image_size
from src.options import IMAGES, Reading, Runtime
from src.text import printable
from src.utils.digest import file_digest
from src.utils.distributed import Processes, device_of, joined
from src.utils.files import write_json
from src.utils.json_files import read_json
from src.utils.outputs import Output, check_outputs, recording
from src.utils.progress import warn_about_bad_images
from src.utils.streams import is_stream, messages_beside

_LARGE = 1 << 24  # bytes; reports are smaller


def validate(settings: ValidateSettings) -> int:
    """Measure a checkpoint, print a table and write what the settings ask for.

    Several processes (``torchrun``) embed the images together; the first one measures.

    Returns:
        The exit status: 0, or 1 if some images could not be read.

    Raises:
        UserError: the checkpoint, the labels or the images do not fit, or cannot be read.
    """
    outputs = outputs_of(settings)
    check_outputs(outputs, settings.reads, overwrite=settings.overwrite)
    paths = {flag: output.path for flag, output in outputs.items()}
    with messages_beside(paths), recording(paths.values()):
        return _validate(settings, outputs)


def outputs_of(settings: ValidateSettings) -> dict[str, Output]:
    """Return the files that a validation writes, by flag."""
    outputs: dict[str, Output] = {}
    if settings.json is not None:
        outputs["--json"] = Output(settings.json, _is_report)
    if (target := settings.fit_thresholds) is not None:
        outputs |= checkpoint_outputs("--fit-thresholds", target, is_calibrated)
        if not is_stream(target):
            outputs["--fit-thresholds, its plot"] = Output(_plot_of(target), _is_plot)
    return outputs


def _validate(settings: ValidateSettings, outputs: Mapping[str, Output]) -> int:
    with joined(str(settings.runtime.device)) as processes, guard_workers():
        device = device_of(str(settings.runtime.device), processes)
        runtime = replace(settings.runtime, device=device)
        with prefix_errors("--model-path"):
            digest = file_digest(settings.model_path) if settings.fit_thresholds is not None else None
            opened = open_model(settings.model_path, runtime, settings.expected)
        with prefix_errors("--metadata"):
            metadata = _find_metadata(settings.images, opened.info)
        _check_labels(settings, opened.info, metadata)
        folder = settings.images.data or _images_of_training(metadata, opened.info)
        evaluation = load_evaluation_set(metadata, folder)
        read = [("--metadata", metadata.folder), *(("the image", path) for path in evaluation.paths)]
        check_outputs(outputs, read, overwrite=settings.overwrite)
        embedded = _embed(settings.images, runtime, opened, evaluation, processes)
        if not processes.is_first:
            return 0
    warn_about_bad_images(embedded.bad, set())
    if len(embedded.rows) == 0:
        raise UserError(f"--data: none of the {len(evaluation.paths)} images can be read")
    if not embedded.outputs.isfinite().all():
        raise UserError(
            f"--model-path {settings.model_path}: gives numbers that are NaN or infinite; the checkpoint is damaged, "
            "or its training diverged: give another"
        )
    split, truth, protocol = metadata.split, evaluation.ground_truth(embedded.rows), settings.protocol
    report = evaluate(embedded.outputs, split, truth, protocol, device=device)
    print(
        f"{printable(settings.model_path)} on {printable(split.name)} ({printable(metadata.folder)}): "
        f"{len(split.seen)} seen and {len(split.unseen)} unseen labels"
    )
    print(format_report(report, images=protocol.images))
    if embedded.bad:
        print(f"{len(embedded.bad)} of {len(evaluation.paths)} images could not be read and were left out")
    content: dict[str, object] = {
        "checkpoint": printable(settings.model_path),
        "engine": opened.engine,
        "split": printable(split.name),
        "protocol": {"images": protocol.images, "mAP": "official", "mAP_skip": "skip"},
        "metrics": report,
        "bad_images": [printable(message) for message in embedded.bad],
        "versions": package_versions(),
    }
    if settings.fit_thresholds is not None:
        fitted = fit_and_measure(embedded.outputs, split, truth, settings.fit, protocol)
        _save_fit(settings.model_path, settings.fit_thresholds, fitted, digest)
        content["calibration"] = {"protocol": {"images": protocol.images, "ECE": "all-images"}, **fitted.metrics}
    if settings.json is not None:
        others = [replace(protocol, images=images) for images in IMAGES if images != protocol.images]
        content["other_protocols"] = {
            other.images: evaluate(embedded.outputs, split, truth, other, device=device) for other in others
        }
        write_json(settings.json, content)
    return 1 if embedded.bad else 0


def _embed(
    settings: ImageSettings, runtime: Runtime, opened: Opened, evaluation: EvaluationSet, processes: Processes
) -> Embedded:
    """Run the evaluation images through the model."""
    model, config, device = opened.embedder, opened.info.config, torch.device(runtime.device)
    if runtime.image_size is not None and isinstance(model, nn.Module):
        check_image_size(model, runtime.image_size, "--image-size")
    transform = eval_transform(
        runtime.image_size or config.image_size,
        config.interpolation,
        exact=settings.exact_pictures,
        reading=Reading(settings.max_pixels, settings.truncated),
    )
    precision = torch.float16 if settings.autocast_enabled and device.type == "cuda" else None
    loader = LoaderConfig(settings.batch_size, settings.workers, device, precision, processes)
    images = ImageDataset(evaluation.paths, transform)
    return embed_images(model, images, loader, "images", every=settings.print_freq)


def _check_labels(settings: ValidateSettings, info: CheckpointInfo, metadata: Metadata) -> None:
    """Raise a :class:`UserError` if the labels of a metadata folder do not suit the checkpoint and the settings."""
    split, most = metadata.split, max(settings.protocol.ks)
    num_labels = len(split.seen) + len(split.unseen)
    if most > num_labels:
        raise UserError(f"--top_k {most}: must be from 1 to the number of labels, {num_labels}")
    with prefix_errors("--metadata"):
        check_same_space(info, split, metadata.folder)
    if settings.fit_thresholds is not None and (
        info.split is None or (info.split.labels, info.split.seen) != (split.labels, split.seen)
    ):
        raise UserError(
            f"--fit-thresholds: the labels of {metadata.folder} are not those of the checkpoint; validate with the "
            "folder that it was trained with"
        )


def _find_metadata(settings: ImageSettings, info: CheckpointInfo) -> Metadata:
    """Load ``--metadata``; else ``--data`` if it is a metadata folder; else the folder that the checkpoint records."""
    if settings.metadata is not None:
        return load_metadata(settings.metadata)
    recorded = info.settings.get("metadata") or info.settings.get("data")
    for folder in (settings.data, recorded):
        if folder is not None and detect_kind(Path(folder)) is not None:
            return load_metadata(folder)
    raise UserError(
        "--metadata is needed: a folder with the labels of the images to validate on"
        + (f" ({recorded}, where the checkpoint was trained, is not there)" if recorded else "")
    )


def _images_of_training(metadata: Metadata, info: CheckpointInfo) -> str | None:
    """Return ``--data`` of the training run, if ``metadata`` is that run's folder and the images are still there."""
    recorded = info.settings.get("data")
    same = info.settings.get("metadata") == str(metadata.folder)
    return recorded if same and recorded is not None and Path(recorded).is_dir() else None


def _save_fit(checkpoint: Path, target: Path, fitted: FittedCalibration, digest: str | None) -> None:
    """Write a copy of a checkpoint of this digest with a calibration, and the plot beside it; print the metrics."""
    from src.visualize import save_reliability  # matplotlib is slow to import

    save_with_calibration(checkpoint, target, fitted.calibration, digest)
    plot = ""
    if not is_stream(target):
        save_reliability(fitted.curve, _plot_of(target))
        plot = f"; plot: {printable(_plot_of(target))}"
    print(f"\n{format_fit(fitted)}\n  written to {printable(target)}{plot}")


def _plot_of(target: Path) -> Path:
    return target.with_name(f"{target.stem}-reliability.png")


def _is_plot(path: Path) -> bool:
    from src.visualize import is_own_plot  # matplotlib is slow to import

    return is_own_plot(path)


def _is_report(path: Path) -> bool:
    """Return whether a file is a report of ``--json``."""
    return path.stat().st_size < _LARGE and {"checkpoint", "protocol", "metrics", "versions"} <= read_json(path).keys()
