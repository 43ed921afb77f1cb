"""Named choices of the programs: the values that flags offer and functions take.

Free of PyTorch, so that ``--help`` and mistakes in flags are answered at once.
"""

from __future__ import annotations

from typing import Literal, get_args

Augmentation = Literal["randaugment", "torchvision", "none"]
DatasetKind = Literal["SDL", "COCO", "NUS_WIDE"]  # of a metadata folder
Device = Literal["auto", "cpu", "cuda"]
DistBN = Literal["reduce", "broadcast"]  # how batch-norm statistics become equal over processes
Engine = Literal["auto", "torch", "onnx"]
Images = Literal["positive-only", "all-images"]  # which images a metric counts, see src.metrics
Normalization = Literal["official", "paper"]  # scale of the loss
Optimizer = Literal["adam", "adamw"]
OutputFormat = Literal["json", "csv", "parquet"]  # of infer.py
Precision = Literal["float32", "bf16", "fp16"]
Schedule = Literal["one_cycle", "cosine", "constant"]
Scores = Literal["raw", "probability"]
SeenBias = Literal["labels", "gap"]  # how validate.py fits the bias of seen labels
Selection = Literal["test", "seen", "held-out"]  # images that select the best epoch
Unknown = Literal["negative", "ignore"]  # how the loss treats an unknown label

AUGMENTATIONS: tuple[Augmentation, ...] = get_args(Augmentation)
DATASET_KINDS: tuple[DatasetKind, ...] = get_args(DatasetKind)
DEVICES: tuple[Device, ...] = get_args(Device)
DIST_BNS: tuple[DistBN, ...] = get_args(DistBN)
ENGINES: tuple[Engine, ...] = get_args(Engine)
IMAGES: tuple[Images, ...] = get_args(Images)
NORMALIZATIONS: tuple[Normalization, ...] = get_args(Normalization)
OPTIMIZERS: tuple[Optimizer, ...] = get_args(Optimizer)
OUTPUT_FORMATS: tuple[OutputFormat, ...] = get_args(OutputFormat)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)
SCORES: tuple[Scores, ...] = get_args(Scores)
SEEN_BIASES: tuple[SeenBias, ...] = get_args(SeenBias)
SELECTIONS: tuple[Selection, ...] = get_args(Selection)
UNKNOWNS: tuple[Unknown, ...] = get_args(Unknown)
