"""The flags of train.py; those of the released train.py keep their names."""

from __future__ import annotations

from pathlib import Path

from src.cli import (
    ArgumentParser,
    add_device_flag,
    add_workers_flag,
    fraction,
    positive_float,
    positive_int,
)
from src.data.transforms import AUGMENTATIONS
from src.metrics import IMAGES

IMAGE_SIZE = 224
LR_FINE_TUNING = 2.5e-5  # the released COCO script
LR_FROZEN = 1e-3  # a fresh head on fixed features bears more (chosen on Corel5k, docs/results.md)


def lambda_or_none(text: str) -> float | None:
    """An argparse type: 0 to 1, or ``none``."""
    return None if text == "none" else fraction(text)


def train_parser(description: str | None) -> ArgumentParser:
    """All flags of train.py, in the groups that its help shows."""
    parser = ArgumentParser(prog="train.py", description=description)
    _add_data_flags(parser)
    _add_model_flags(parser)
    _add_loss_flags(parser)
    _add_optimisation_flags(parser)
    _add_output_flags(parser)
    return parser


def _add_data_flags(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    add = group.add_argument
    add("--data", metavar="DIR", help="picture folder; the one that the metadata folder records if left out")
    add(
        "--metadata",
        metavar="DIR",
        help="metadata folder: labels, split, word vectors; --data itself if it is one, else ./data/COCO",
    )
    add("--wordvec_dim", type=positive_int, help="word-vector length D that the metadata must have")
    size_help = "side of the square that pictures are squashed to, in pixels (224, or that of an SDL checkpoint)"
    add("--image-size", type=positive_int, metavar="N", help=size_help)
    package_help = "randaugment: the package that the released code uses; torchvision: its RandAugment"
    add("--augmentation", choices=AUGMENTATIONS, default="randaugment", help=package_help)
    cutout_help = "side of the cutout square as a part of the picture's side; 0: none"
    add("--cutout", type=fraction, default=0.5, metavar="PART", help=cutout_help)
    add_workers_flag(group)


def _add_model_flags(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    add = group.add_argument
    name_help = "backbone: tresnet_m, tresnet_l, tresnet_xl or any timm model (tresnet_m, or that of an SDL checkpoint)"
    add("--model-name", metavar="NAME", help=name_help)
    add(
        "--model-path",
        default="auto",
        metavar="FILE",
        help="what to start from: an ImageNet backbone or an SDL checkpoint; auto: weights that are installed or lie "
        "in ./ or ./models/; timm: download; none: random",
    )
    add(
        "--pretrain-backbone",
        type=int,
        choices=(0, 1),
        help="1: --model-path gives a backbone, put a fresh head on it; 0: continue an SDL model; told from the file "
        "if left out",
    )
    classes_help = "number of classes that the backbone file's own classifier must have; it is checked and left out"
    add("--num-classes", type=positive_int, metavar="N", help=classes_help)
    rows_help = "number of principal vectors M (2, or that of an SDL checkpoint)"
    add("--num_rows", type=positive_int, metavar="M", help=rows_help)
    freeze_help = "train the head only, on features that are computed once (no augmentation)"
    add("--freeze-backbone", action="store_true", help=freeze_help)
    cache_help = "where --freeze-backbone keeps features (feature_cache in the metadata folder if left out)"
    add("--feature-cache", type=Path, metavar="DIR", help=cache_help)
    bn_help = (
        "train with the batch norms' stored statistics instead of each batch's: for fine-tuning on little data, where "
        "the model then starts as the one that was loaded"
    )
    add("--freeze-bn", action="store_true", help=bn_help)
    checkpointing_help = (
        "recompute activations in the backward pass: less memory, more time; running batch-norm statistics move twice "
        "a step"
    )
    add("--grad-checkpointing", action="store_true", help=checkpointing_help)
    abn_help = "TResNet with InPlaceABN: less memory; needs the inplace-abn package"
    add("--inplace-abn", action="store_true", help=abn_help)
    add_device_flag(group)


def _add_loss_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument_group("loss").add_argument
    lambda_help = "lambda, the share of the regulariser, or none"
    add("--var_weight", type=lambda_or_none, default=0.01, metavar="LAMBDA", help=lambda_help)
    add(
        "--normalization",
        choices=("official", "paper"),
        default="official",
        help="scale of the loss: the released code's, or the paper's",
    )
    add(
        "--unknown",
        choices=("negative", "ignore"),
        default="negative",
        help="what the loss takes an unknown label for (Open Images, difficult objects): an absent one, as the "
        "released code does, or nothing",
    )


def _add_optimisation_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument_group("optimisation").add_argument
    add("--num-epochs", type=positive_int, default=10, metavar="N", help="passes over the training pictures")
    lr_help = f"peak learning rate ({LR_FINE_TUNING:g}, or {LR_FROZEN:g} with --freeze-backbone)"
    add("--lr", type=positive_float, help=lr_help)
    add("--weight-decay", type=fraction, default=3e-4, metavar="L2", help="L2 on weight matrices")
    add("-b", "--batch-size", type=positive_int, default=32, metavar="N", help="pictures a step")
    add("--seed", type=int, metavar="N", help="makes two runs on a CPU equal")
    autocast_help = "mixed precision on a GPU; a CPU always computes in float32"
    add("--autocast-enabled", type=int, choices=(0, 1), default=1, help=autocast_help)


def _add_output_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument_group("evaluation and output").add_argument
    output_help = "where checkpoints, log.jsonl and curves.png go"
    add("--path_output", type=Path, default=Path("outputs"), metavar="DIR", help=output_help)
    add("--overwrite", action="store_true", help="replace an earlier run in --path_output")
    add("--images", choices=IMAGES, default="positive-only", help="which evaluation pictures count")
    best_help = "what the best checkpoints are chosen by, on the evaluation pictures"
    add("--best-metric", choices=("F1@3", "F1@5", "mAP", "mAP_skip"), default="F1@3", help=best_help)
    add("--half-weights", action="store_true", help="store weight matrices in half precision")
