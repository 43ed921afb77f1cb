"""Flags of train.py, in groups; those of the released train.py keep their names."""

from __future__ import annotations

import argparse
from pathlib import Path

from src.config.arguments import (
    ArgumentParser,
    add_device_flag,
    add_exact_flag,
    add_reading_flags,
    add_workers_flag,
    file_name,
    fraction,
    needing,
    non_negative_int,
    positive_float,
    positive_int,
    signed_seed_number,
)
from src.config.train import LR_FINE_TUNING, LR_FROZEN
from src.options import (
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

_FROZEN = ("--freeze-backbone",)
_FIXED_BN = (*_FROZEN, "--freeze-bn")
_NO_FILE = ("--model-path none|timm",)


def lambda_or_none(text: str) -> float | None:
    """Parse a number from 0 to 1, or ``none``; an argparse type."""
    return None if text == "none" else fraction(text)


def below_one(text: str) -> float:
    """Parse a number from 0 to below 1; an argparse type."""
    value = fraction(text)
    if value == 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not below 1")
    return value


def share(text: str) -> float:
    """Parse a number between 0 and 1, both excluded; an argparse type."""
    value = fraction(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 1")
    return value


def train_parser(description: str | None) -> ArgumentParser:
    """Create the parser of train.py; its help shows the flags in groups."""
    parser = ArgumentParser(prog="train.py", description=description)
    recipe_help = (
        "recipe with settings: a name from recipes/ or a TOML file; flags on the command line take precedence, and "
        "--no-FLAG turns a switch of the recipe off"
    )
    parser.add_argument("--recipe", type=file_name, metavar="NAME", help=recipe_help)
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
    add("--data", type=file_name, metavar="DIR", help="image folder (default: the one recorded in the metadata folder)")
    metadata_help = "metadata folder with labels, split and word vectors (default: --data if it is one, else data/COCO)"
    add("--metadata", type=file_name, metavar="DIR", help=metadata_help)
    dim_help = "expected length of the word vectors; train.py stops if the metadata folder has others"
    add("--wordvec_dim", type=positive_int, metavar="D", help=dim_help)
    size_help = "images are resized to N x N pixels (default: 224, or the size of the SDL checkpoint in --model-path)"
    add("--image-size", type=positive_int, metavar="N", help=size_help)
    augmentation_help = "randaugment: the package that the released code uses; torchvision: its RandAugment"
    augmentation = add("--augmentation", choices=AUGMENTATIONS, default="randaugment", help=augmentation_help)
    needing(augmentation, excluded=_FROZEN, harmless=["none"])
    cutout_help = "side of the cutout square as a fraction of the image side; 0 disables cutout"
    cutout = add("--cutout", type=fraction, default=0.5, metavar="FRACTION", help=cutout_help)
    needing(cutout, excluded=_FROZEN, harmless=[0])
    add_exact_flag(group)
    add_reading_flags(group)
    add_workers_flag(group)


def _add_model_flags(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    add = group.add_argument
    name_help = (
        "backbone: tresnet_m, tresnet_l, tresnet_xl or any timm model (default: tresnet_m, or the backbone of the SDL "
        "checkpoint in --model-path)"
    )
    add("--model-name", metavar="NAME", help=name_help)
    path_help = (
        "initial weights: a file with an ImageNet backbone or an SDL checkpoint; auto: an installed package, or a file "
        "in ./ or ./models/; timm: download; none: random"
    )
    add("--model-path", type=file_name, default="auto", metavar="FILE", help=path_help)
    average_help = "take the moving average of the weights in --model-path, which timm and other tools save beside them"
    needing(add("--use-ema", action="store_true", help=average_help), excluded=_NO_FILE)
    pretrain_help = (
        "1: take only the backbone of --model-path and add a new head; 0: continue training an SDL model (default: "
        "detected from the file)"
    )
    needing(add("--pretrain-backbone", type=int, choices=(0, 1), help=pretrain_help), excluded=["--model-path none"])
    classes_help = "expected number of classes of the backbone file's own classifier, which is not used"
    needing(add("--num-classes", type=positive_int, metavar="N", help=classes_help), excluded=_NO_FILE)
    rows_help = "number of principal vectors M (default: 2, or that of the SDL checkpoint in --model-path)"
    add("--num_rows", type=positive_int, metavar="M", help=rows_help)
    words_help = (
        "also score labels by the classes of the backbone file's own classifier, as words, with this weight (6, say); "
        "the metadata folder needs their word vectors (prepare_data.py --extra-words). Not part of the paper"
    )
    needing(add("--class-words", type=positive_float, metavar="BETA", help=words_help), excluded=_NO_FILE)
    freeze_help = "train only the head, on features that are computed once, without augmentation"
    add("--freeze-backbone", action="store_true", help=freeze_help)
    cache_help = "folder where --freeze-backbone stores features (default: feature_cache in the metadata folder)"
    needing(add("--feature-cache", type=Path, metavar="DIR", help=cache_help), *_FROZEN)
    bn_help = "normalise with the stored batch-norm statistics, which stay fixed; useful for fine-tuning on few images"
    needing(add("--freeze-bn", action="store_true", help=bn_help), excluded=_FROZEN)
    checkpointing_help = (
        "recompute activations in the backward pass: less memory, more time; running batch-norm statistics are updated "
        "twice per step"
    )
    needing(add("--grad-checkpointing", action="store_true", help=checkpointing_help), excluded=_FROZEN)
    abn_help = "use InPlaceABN in TResNet: less memory; needs the inplace-abn package"
    add("--inplace-abn", action="store_true", help=abn_help)
    add_device_flag(group)


def _add_loss_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument_group("loss").add_argument
    lambda_help = "weight lambda of the regulariser, from 0 to 1, or none for the weighted ranking term alone"
    add("--var_weight", type=lambda_or_none, default=0.01, metavar="LAMBDA", help=lambda_help)
    normalization_help = "scale of the loss: as in the released code, or as in the paper"
    add("--normalization", choices=NORMALIZATIONS, default="official", help=normalization_help)
    unknown_help = (
        "how to treat unknown labels (Open Images, difficult objects): as negative like the released code, or ignore "
        "them"
    )
    add("--unknown", choices=UNKNOWNS, default="negative", help=unknown_help)


def _add_optimisation_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument_group("optimisation").add_argument
    add("--num-epochs", type=positive_int, default=10, metavar="N", help="number of epochs")
    optimizer_help = "adam: weight decay as L2 in the gradient; adamw: decoupled weight decay"
    add("--optimizer", choices=OPTIMIZERS, default="adam", help=optimizer_help)
    lr_help = f"peak learning rate (default: {LR_FINE_TUNING:g}, or {LR_FROZEN:g} with --freeze-backbone)"
    add("--lr", type=positive_float, help=lr_help)
    scale_help = "learning rate of the backbone as a multiple of --lr"
    scale = add("--lr-backbone-scale", type=positive_float, default=1.0, metavar="X", help=scale_help)
    needing(scale, excluded=_FROZEN, harmless=[1.0])
    schedule_help = "learning rate after the warm-up: OneCycle (released code), half a cosine to 0, or constant"
    add("--schedule", choices=SCHEDULES, default="one_cycle", help=schedule_help)
    warm_up_help = "fraction of all steps in which the learning rate rises"
    add("--warm-up", type=below_one, default=0.1, metavar="FRACTION", help=warm_up_help)
    decay_help = "weight decay of weight matrices; biases and one-dimensional weights have none"
    add("--weight-decay", type=fraction, default=3e-4, metavar="DECAY", help=decay_help)
    add("-b", "--batch-size", type=positive_int, default=32, metavar="N", help="batch size per process")
    accumulate_help = "number of batches whose gradients are accumulated for one step"
    add("--accumulate", type=positive_int, default=1, metavar="N", help=accumulate_help)
    add("--clip-grad-norm", type=positive_float, metavar="NORM", help="maximum norm of the gradient (default: none)")
    ema_help = (
        "decay of an exponential moving average of the weights, such as 0.9997; it is also evaluated, and saved as "
        "model-*-ema.ckpt (default: no average)"
    )
    add("--ema", type=below_one, metavar="DECAY", help=ema_help)
    seed_help = "random seed; on a CPU, runs with the same seed are equal (default: drawn at random)"
    add("--seed", type=signed_seed_number, metavar="N", help=seed_help)


def _add_speed_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument_group("speed").add_argument
    precision_help = (
        "precision of the forward pass; the loss is always computed in float32 (default: fp16 with loss scaling on a "
        "GPU, float32 on a CPU; with --resume, the precision of the run)"
    )
    add("--precision", choices=PRECISIONS, help=precision_help)
    autocast_help = "flag of the released code: 0 makes float32 the default of --precision"
    autocast = add("--autocast-enabled", type=int, choices=(0, 1), default=1, help=autocast_help)
    needing(autocast, excluded=["--precision bf16|fp16"], harmless=[1])
    channels_help = "use the channels-last memory layout: faster on most machines; results differ by rounding"
    add("--channels-last", action="store_true", help=channels_help)
    compile_help = "compile the model with torch.compile: slow start, faster steps; results differ by rounding"
    add("--compile", action="store_true", help=compile_help)
    sync_help = "synchronise batch norm over all processes (torchrun, GPUs only)"
    needing(add("--sync-bn", action="store_true", help=sync_help), excluded=_FIXED_BN)
    dist_help = (
        "how to make running batch-norm statistics equal in all processes of torchrun before evaluating and saving: "
        "their mean, or those of the first process"
    )
    dist = add("--dist-bn", choices=DIST_BNS, default="reduce", help=dist_help)
    needing(dist, excluded=_FIXED_BN, harmless=["reduce"])


def _add_selection_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument_group("selection of the best epoch").add_argument
    images_help = "evaluation images that count: those with a positive label, or all"
    add("--images", choices=IMAGES, default="positive-only", help=images_help)
    select_help = (
        "images and labels to select the best epoch on. test: the evaluation images, like the released code, which "
        "biases the result; seen: seen labels of held-out training images; held-out: seen labels that are excluded "
        "from training as pseudo-unseen labels, on held-out training images"
    )
    add("--select-on", choices=SELECTIONS, default="test", help=select_help)
    val_help = "fraction of the training images to hold out for --select-on seen and held-out"
    val_share = add("--val-share", type=share, default=0.1, metavar="FRACTION", help=val_help)
    needing(val_share, "--select-on seen|held-out")
    labels_help = "fraction of the seen labels to use as pseudo-unseen labels for --select-on held-out"
    labels = add("--held-out-labels", type=share, default=0.2, metavar="FRACTION", help=labels_help)
    needing(labels, "--select-on held-out")
    metric_help = (
        "metric that selects the best epoch; mAP_verified leaves out unknown labels, which the others take for absent: "
        "for folders that prepare_data.py combine made"
    )
    metrics = ("F1@3", "F1@5", "mAP", "mAP_skip", "mAP_verified")
    add("--best-metric", choices=metrics, default="F1@3", help=metric_help)
    stopping_help = "stop after this many epochs without improvement (default: never)"
    add("--early-stopping", type=positive_int, metavar="EPOCHS", help=stopping_help)


def _add_output_flags(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    add = group.add_argument
    output_help = "output folder for checkpoints, log.jsonl, curves.png and report.html"
    add("--path_output", type=Path, default=Path("outputs"), metavar="DIR", help=output_help)
    earlier_run = group.add_mutually_exclusive_group()
    earlier_run.add_argument("--overwrite", action="store_true", help="replace an earlier run in --path_output")
    resume_help = "resume the run in --path_output exactly where it stopped; start a new one if there is none"
    earlier_run.add_argument("--resume", action="store_true", help=resume_help)
    steps_help = "save the training state for --resume every N steps, and after each epoch"
    add("--save-steps", type=positive_int, default=1000, metavar="N", help=steps_help)
    epochs_help = "keep a checkpoint of every N-th epoch (default: only the last and the best epochs)"
    add("--save-epochs", type=positive_int, metavar="N", help=epochs_help)
    keep_help = "number of --save-epochs checkpoints to keep, latest first (default: all)"
    needing(add("--keep", type=positive_int, metavar="K", help=keep_help), "--save-epochs")
    bad_help = (
        "stop when more than N training images are unreadable; each is replaced by another image until then (default: "
        "a tenth of the images, at least 10)"
    )
    add("--max_bad_images", type=non_negative_int, metavar="N", help=bad_help)
    add("--tensorboard", action="store_true", help="write TensorBoard events; needs the tensorboard package")
    add(
        "--half-weights",
        action="store_true",
        help="store weight matrices of checkpoints in half precision, and vectors of further words in 8 bits",
    )
