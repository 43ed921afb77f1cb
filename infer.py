#!/usr/bin/env python3
"""A checkpoint and images in, their best tags out: as text, JSON, CSV, Parquet, a web page, keywords, drawings."""

from __future__ import annotations

import hashlib
import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from src.choices import OutputFormat
from src.config.arguments import run_script
from src.config.infer import infer_parser
from src.errors import UserError, blaming
from src.inference.contact_sheet import ContactSheet
from src.inference.embedding import calls_at_once
from src.inference.explain import feature_map
from src.inference.formats import printable
from src.inference.input_paths import expand
from src.inference.keywords import KeywordWriter
from src.inference.results import ResultWriter, check_outputs
from src.inference.run import Outputs, Summary, tag_images
from src.inference.tagger import Tagger, TagRule
from src.models.sdl_model import check_image_size
from src.utils.device import choose_device
from src.utils.files import check_writable, read_lines

DEFAULT_TOP_K = 10
MANY_IMAGES = 50  # are not annotated without being asked for: drawing takes longer than tagging


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0, or 1 if some of several images could not be read."""
    return run_script("infer.py", _main, argv)


def _main(argv: Sequence[str] | None) -> int:
    args = infer_parser(__doc__).parse_args(argv)
    check_flags(args)
    if args.num_threads is not None:
        torch.set_num_threads(args.num_threads)
    paths = expand(args.pic_path, sys.stdin)
    tagger = load_tagger(args, len(paths))
    rule = rule_of(args, tagger)
    with ExitStack() as stack:
        outputs = open_outputs(args, tagger, rule, len(paths), stack)
        done = outputs.results.done if outputs.results is not None else set()
        left = [path for path in paths if printable(path) not in done]
        if len(left) < len(paths):
            print(f"{len(paths) - len(left):,} of {len(paths):,} images are done already", file=sys.stderr)
        summary = tag_images(
            tagger, rule, left, outputs, batch_size=args.batch_size, workers=args.workers, all_paths=paths
        )
        if summary.bad and not summary.tagged and len(left) == len(paths):
            raise UserError(f"--pic_path: none of the {len(summary.bad):,} images could be read")
    print_summary(summary, len(paths))
    return 1 if summary.bad or summary.without_keywords else 0


def check_flags(args: Namespace) -> None:
    """What can be said before anything is loaded.

    Raises:
        UserError: flags contradict each other, or an output cannot be written.
    """
    if args.pretrain_backbone:
        raise UserError(
            f"--pretrain-backbone 1: {args.model_path} would be a backbone without a head, which cannot tag; "
            "train one with train.py"
        )
    results = outputs_of(args)
    if args.resume and not results:
        raise UserError("--resume goes on with an output: give --json, --csv or --parquet")
    if args.resume and args.html is not None:
        raise UserError("--resume and --html: the page shows only what one run tags; leave one of them out")
    own_words = args.tags is not None or args.tags_file is not None
    for flag, given in (("--only_tags", args.only_tags), ("--word_vectors", args.word_vectors is not None)):
        if given and not own_words:
            raise UserError(f"{flag} is about own words: give --tags or --tags_file too")
    if args.overwrite and not results:
        raise UserError("--overwrite starts an output anew: give --json, --csv or --parquet")
    check_outputs(results)
    if args.html is not None:
        check_writable(args.html, "--html")
        for form, path in results.items():
            if os.path.realpath(path) == os.path.realpath(args.html):
                raise UserError(f"--{form} and --html {args.html}: the same file; give each its own")


def outputs_of(args: Namespace) -> dict[OutputFormat, Path]:
    """The machine-readable outputs that were asked for."""
    forms: tuple[OutputFormat, ...] = ("json", "csv", "parquet")
    return {form: path for form in forms if (path := getattr(args, form)) is not None}


def load_tagger(args: Namespace, num_images: int) -> Tagger:
    """The model with its labels and the user's own words, made ready for so many images.

    Raises:
        UserError: a file cannot be read or does not fit.
    """
    tags = [] if args.tags is None else args.tags.split(",")
    if args.tags_file is not None:
        tags += read_lines(args.tags_file, "--tags_file")
        if not any(tags):
            raise UserError(f"--tags_file {args.tags_file}: names no tag; write one a line")
    device = choose_device(args.device)
    with_weights = args.explain is not None and args.model_path.suffix.lower() != ".onnx"
    with blaming("--model_path" if args.dataset_path is None else "--model_path, --dataset_path"):
        tagger = Tagger.load(
            args.model_path,
            dataset_path=args.dataset_path,
            dataset_type=args.dataset_type,
            model_name=args.model_name,
            num_rows=args.num_rows,
            wordvec_dim=args.wordvec_dim,
            image_size=args.input_size,
            device=device,
            tags=tags if args.tags is not None or args.tags_file is not None else None,
            only_tags=args.only_tags,
            word_vectors=args.word_vectors,
            engine="torch" if args.engine == "auto" and with_weights else args.engine,
            exact_pictures=args.exact_pictures,
            calls_at_once=calls_at_once(num_images, batch_size=args.batch_size, workers=args.workers),
        )
    if args.input_size is not None and tagger.engine == "torch":  # an exported model takes one size, and says so
        check_image_size(tagger.model, args.input_size, "--input_size")
    if args.explain is not None:  # said before anything is written
        feature_map(tagger.model, torch.full((1, 3, tagger.image_size, tagger.image_size), 0.5, device=device))
    return tagger


def rule_of(args: Namespace, tagger: Tagger) -> TagRule:
    """Which labels become tags.

    Raises:
        UserError: there are fewer labels than ``--top_k``, or the checkpoint has no calibration.
    """
    top_k = args.top_k
    if top_k is None and args.threshold is None:
        top_k = min(DEFAULT_TOP_K, len(tagger.split.labels))
    rule = TagRule(top_k, args.threshold, args.scores, args.seen_bias)
    tagger.check(rule)
    return rule


def open_outputs(args: Namespace, tagger: Tagger, rule: TagRule, num_images: int, stack: ExitStack) -> Outputs:
    """All that is made of the tags; ``stack`` finishes what has to be finished.

    Raises:
        UserError: an output cannot be opened.
    """
    outputs = Outputs(print_tags=not args.quiet)
    results = outputs_of(args)
    if results:
        outputs.results = stack.enter_context(
            ResultWriter(
                results,
                model=str(args.model_path),
                settings=settings_of(args, tagger, rule),
                resume=args.resume,
                overwrite=args.overwrite,
            )
        )
    if args.html is not None:
        outputs.sheet = stack.enter_context(ContactSheet(args.html, args.html.stem))
    if args.write_keywords is not None:
        outputs.keywords = KeywordWriter(args.write_keywords)
    if args.annotate or (not args.no_picture and num_images <= MANY_IMAGES):
        outputs.annotated = args.path_output
    elif not args.no_picture:
        print(f"{num_images:,} images: none is annotated unless you give --annotate", file=sys.stderr)
    if args.explain is not None:
        outputs.explained = (args.path_output, args.explain)
    return outputs


def settings_of(args: Namespace, tagger: Tagger, rule: TagRule) -> dict[str, Any]:
    """All that the tags of an image depend on: a run that goes on must have the same."""
    split = tagger.split
    labels = hashlib.sha256("\n".join(split.labels).encode("utf-8", "surrogateescape"))
    labels.update(repr(sorted(split.seen)).encode())
    labels.update(split.word_vectors.contiguous().numpy().tobytes())
    with open(args.model_path, "rb") as stream:
        weights = hashlib.sha256(stream.read()).hexdigest()[:16]
    return {
        "checkpoint_sha256": weights,
        "engine": tagger.engine,
        "exact_pictures": args.exact_pictures,
        "labels_sha256": labels.hexdigest()[:16],  # with their vectors and sides
        "num_labels": len(split.labels),
        "image_size": tagger.image_size,
        "top_k": rule.top_k,
        "threshold": rule.threshold,
        "scores": rule.scores,
        "seen_bias": rule.seen_bias,
    }


def print_summary(summary: Summary, num_images: int) -> None:
    """One line on standard error about what went wrong, if anything did."""
    if summary.bad:
        print(f"{len(summary.bad):,} of {num_images:,} images could not be read and have no tags", file=sys.stderr)
    if summary.without_keywords:
        print(f"{len(summary.without_keywords):,} images can hold no keywords and have no copy", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
