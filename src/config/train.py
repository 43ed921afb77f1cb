"""The flags of train.py; those of the released train.py keep their names."""

from __future__ import annotations

import argparse
from pathlib import Path

from src.choices import (
    AUGMENTATIONS,
    DIST_BNS,
    IMAGES,
    NORMALIZATIONS,
    OPTIMIZERS,
    PRECISIONS,
    SCHEDULES,
    SELECTIONS,
    UNKNOWNS,
)
from src.config.arguments import (
    ArgumentParser,
    add_device_flag,
    add_exact_flag,
    add_workers_flag,
    fraction,
    non_negative_int,
    positive_float,
    positive_int,
)

IMAGE_SIZE = 224

LR_FINE_TUNING = 2.5e-5  # the released COCO script
LR_FROZEN = 1e-3  # a fresh head on fixed features bears more (chosen on Corel5k, docs/results.md)


def lambda_or_none(text: str) -> float | None:
    """An argparse type: 0 to 1, or ``none``."""
    return None if text == "none" else fraction(text)


def train_parser(description: str | None) -> ArgumentParser:
    """All flags of train.py, in the groups that its help shows."""
    parser = ArgumentParser(prog="train.py", description=description)
    recipe_help = (
        "flags from a recipe: the name of one in recipes/, or a file; flags given beside it win, and --no-FLAG takes a "
        "switch back"
    )
    parser.add_argument("--recipe", metavar="NAME", help=recipe_help)
    _add_data_flags(parser)
    _add_model_flags(parser)
    _add_loss_flags(parser)
    _add_optimisation_flags(parser)
    _add_speed_flags(parser)
    _add_selection_flags(parser)
    _add_output_flags(parser)
    return parser


def _add_data_flags(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    add = group.add_argument
    add("--data", metavar="DIR", help="image folder; the one that the metadata folder records if left out")
    add(
        "--metadata",
        metavar="DIR",
        help="metadata folder: labels, split, word vectors; --data itself if it is one, else ./data/COCO",
    )
    add("--wordvec_dim", type=positive_int, help="word-vector length D that the metadata must have")
    size_help = "side of the square that images are squashed to, in pixels (224, or that of an SDL checkpoint)"
    add("--image-size", type=positive_int, metavar="N", help=size_help)
    package_help = "randaugment: the package that the released code uses; torchvision: its RandAugment"
    add("--augmentation", choices=AUGMENTATIONS, default="randaugment", help=package_help)
    cutout_help = "side of the cutout square as a part of the image's side; 0: none"
    add("--cutout", type=fraction, default=0.5, metavar="PART", help=cutout_help)
    add_exact_flag(group)
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
        choices=NORMALIZATIONS,
        default="official",
        help="scale of the loss: the released code's, or the paper's",
    )
    add(
        "--unknown",
        choices=UNKNOWNS,
        default="negative",
        help="what the loss takes an unknown label for (Open Images, difficult objects): an absent one, as the "
        "released code does, or nothing",
    )


def below_one(text: str) -> float:
    """An argparse type: at least 0 and below 1."""
    value = fraction(text)
    if value == 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not below 1")
    return value


def _add_optimisation_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument_group("optimisation").add_argument
    add("--num-epochs", type=positive_int, default=10, metavar="N", help="passes over the training images")
    add("--optimizer", choices=OPTIMIZERS, default="adam", help="adam: decay as L2 in the gradient; adamw: decoupled")
    lr_help = f"peak learning rate ({LR_FINE_TUNING:g}, or {LR_FROZEN:g} with --freeze-backbone)"
    add("--lr", type=positive_float, help=lr_help)
    scale_help = "the backbone's learning rate as a multiple of --lr, which is the head's"
    add("--lr-backbone-scale", type=positive_float, default=1.0, metavar="X", help=scale_help)
    schedule_help = "learning rate after the warm-up: OneCycle (released code), a half cosine to 0, or constant"
    add("--schedule", choices=SCHEDULES, default="one_cycle", help=schedule_help)
    add("--warm-up", type=below_one, default=0.1, metavar="SHARE", help="part of all steps in which the rate rises")
    add("--weight-decay", type=fraction, default=3e-4, metavar="L2", help="on weight matrices only")
    add("-b", "--batch-size", type=positive_int, default=32, metavar="N", help="images a batch, in each process")
    accumulate_help = "batches whose gradients are added up for one step"
    add("--accumulate", type=positive_int, default=1, metavar="N", help=accumulate_help)
    clip_help = "scale a step's gradient down to this norm where it is longer"
    add("--clip-grad-norm", type=positive_float, metavar="NORM", help=clip_help)
    ema_help = (
        "also keep, evaluate and save a moving average of the weights, model-*-ema.ckpt; the part that stays at each "
        "step, such as 0.9997"
    )
    add("--ema", type=below_one, metavar="DECAY", help=ema_help)
    add("--seed", type=int, metavar="N", help="makes two runs on a CPU equal; drawn if left out")


def _add_speed_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument_group("speed").add_argument
    precision_help = (
        "precision of the model's forward pass (fp16 on a GPU, float32 on a CPU, that of the start with --resume); the "
        "loss is always computed in float32, and scaled with fp16"
    )
    add("--precision", choices=PRECISIONS, help=precision_help)
    autocast_help = "the released code's flag: 0 is --precision float32"
    add("--autocast-enabled", type=int, choices=(0, 1), default=1, help=autocast_help)
    channels_help = "store activations channel by channel last: faster on most machines, numbers differ by rounding"
    add("--channels-last", action="store_true", help=channels_help)
    compile_help = "torch.compile the model: a minute at the start, faster steps; numbers differ by rounding"
    add("--compile", action="store_true", help=compile_help)
    add("--sync-bn", action="store_true", help="with torchrun on GPUs: batch norm over the images of all processes")
    dist_help = (
        "with torchrun: how running batch-norm statistics become equal in all processes before evaluating and saving: "
        "their mean, or those of the first process"
    )
    add("--dist-bn", choices=DIST_BNS, default="reduce", help=dist_help)


def _add_selection_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument_group("choosing an epoch").add_argument
    add("--images", choices=IMAGES, default="positive-only", help="which evaluation images count")
    select_help = (
        "what the best epoch is chosen on. test: the evaluation images themselves, as the released code does, which "
        "flatters the result; seen: seen labels of training images that are held back; held-out: some seen labels "
        "that training does not get and that pose as unseen, on images that are held back"
    )
    add("--select-on", choices=SELECTIONS, default="test", help=select_help)
    share_help = "of the training images that are held back for --select-on seen and held-out"
    add("--val-share", type=share, default=0.1, metavar="SHARE", help=share_help)
    labels_help = "of the seen labels that pose as unseen for --select-on held-out"
    add("--held-out-labels", type=share, default=0.2, metavar="SHARE", help=labels_help)
    add("--best-metric", choices=("F1@3", "F1@5", "mAP", "mAP_skip"), default="F1@3", help="what is best")
    stopping_help = "end the run after this many epochs without a better one"
    add("--early-stopping", type=positive_int, metavar="EPOCHS", help=stopping_help)


def _add_output_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument_group("output").add_argument
    output_help = "where checkpoints, log.jsonl, curves.png and report.html go"
    add("--path_output", type=Path, default=Path("outputs"), metavar="DIR", help=output_help)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--overwrite", action="store_true", help="replace an earlier run in --path_output")
    resume_help = "go on exactly where the run in --path_output stopped, or start if there is none"
    which.add_argument("--resume", action="store_true", help=resume_help)
    steps_help = "save the state that --resume needs every N steps, and at each epoch's end"
    add("--save-steps", type=positive_int, default=1000, metavar="N", help=steps_help)
    epochs_help = "also keep the checkpoint of every N-th epoch"
    add("--save-epochs", type=positive_int, metavar="N", help=epochs_help)
    keep_help = "how many checkpoints of --save-epochs stay, the latest ones (all)"
    add("--keep", type=positive_int, metavar="K", help=keep_help)
    bad_help = "unreadable training images, each replaced by another, at which to stop (a tenth of them, at least 10)"
    add("--max_bad_images", type=non_negative_int, metavar="N", help=bad_help)
    add("--tensorboard", action="store_true", help="write TensorBoard events too; needs the tensorboard package")
    add("--half-weights", action="store_true", help="store weight matrices in half precision")


def share(text: str) -> float:
    """An argparse type: above 0 and below 1."""
    value = fraction(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 1")
    return value
