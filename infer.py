#!/usr/bin/env python3
"""A checkpoint and pictures in, their best tags out: as text, JSON and annotated pictures."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from src.cli import ArgumentParser, add_device_flag, choose_device, positive_int, run_script
from src.data.images import BadPictureError, read_picture
from src.data.metadata import KINDS
from src.engine import check_image_size
from src.errors import UserError, blaming
from src.files import check_writable, write_json
from src.tagger import Tag, Tagger

QUICK_START = Path(__file__).resolve().parent / "models" / "sdl_lite0_corel5k.pth"


def parser() -> ArgumentParser:
    """The flags; those of the released infer.py keep their names."""
    flags = ArgumentParser(prog="infer.py", description=__doc__)
    flags.add_argument(
        "--model_path", type=Path, default=QUICK_START, help="a checkpoint of train.py or of the released code"
    )
    flags.add_argument("--pic_path", type=Path, nargs="+", required=True, metavar="FILE", help="one picture or several")
    flags.add_argument("--top_k", type=positive_int, default=10, help="number of tags a picture")
    flags.add_argument("--path_output", type=Path, default=Path("outputs"), help="folder for the annotated pictures")
    flags.add_argument("--no_picture", action="store_true", help="save no annotated picture")
    flags.add_argument("--json", type=Path, metavar="FILE", help="also write the tags and scores as JSON")
    flags.add_argument("--batch_size", type=positive_int, default=16, help="pictures that go through the model at once")
    flags.add_argument(
        "--dataset_path",
        type=Path,
        help="metadata folder whose labels to use instead of the checkpoint's (released checkpoints: ./data/NUS_WIDE)",
    )
    flags.add_argument("--dataset_type", choices=KINDS, help="the kind of --dataset_path; recognised if left out")
    flags.add_argument("--model_name", help="the backbone that the checkpoint must hold")
    flags.add_argument(
        "--num_rows", type=positive_int, help="the number of principal vectors M that the checkpoint must hold"
    )
    flags.add_argument(
        "--wordvec_dim", type=positive_int, help="the word-vector length D that the checkpoint must hold"
    )
    flags.add_argument(
        "--input_size", type=positive_int, help="side of the model's input in pixels; the checkpoint's if left out"
    )
    flags.add_argument(
        "--pretrain-backbone",
        type=int,
        choices=(0, 1),
        default=0,
        help="1 says that --model_path is a bare backbone, which cannot tag",
    )
    add_device_flag(flags)
    return flags


def readable(paths: Sequence[Path], bad: list[str]) -> Iterator[tuple[Path, Image.Image]]:
    """The pictures that can be read; the others are named on standard error and in ``bad``."""
    for path in paths:
        try:
            yield path, read_picture(path)
        except BadPictureError as error:
            print(f"skipped: {error}", file=sys.stderr)
            bad.append(str(error))


def batches(items: Iterator[tuple[Path, Image.Image]], size: int) -> Iterator[list[tuple[Path, Image.Image]]]:
    """Lists of up to ``size`` items."""
    batch: list[tuple[Path, Image.Image]] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def format_tags(path: Path, tags: Sequence[Tag]) -> str:
    """A table: rank, tag, score; unseen tags between asterisks."""
    width = max(len(tag.marked) for tag in tags)
    lines = [f"{rank:4d}  {tag.marked:<{width}}  {tag.score:8.4f}" for rank, tag in enumerate(tags, start=1)]
    return "\n".join([str(path), *lines])


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0, or 1 if some of several pictures could not be read."""
    return run_script("infer.py", _main, argv)


def _main(argv: Sequence[str] | None) -> int:
    args = parser().parse_args(argv)
    if args.pretrain_backbone:
        raise UserError(
            f"--pretrain-backbone 1: {args.model_path} would be a backbone without a head, which cannot tag; "
            "train one with train.py"
        )
    if len(args.pic_path) == 1 and not args.pic_path[0].is_file():
        problem = (
            "is a folder; give its pictures" if args.pic_path[0].is_dir() else "no such file; give a picture's path"
        )
        raise UserError(f"--pic_path {args.pic_path[0]}: {problem}")
    if args.json is not None:
        check_writable(args.json, "--json")
    device = choose_device(args.device)
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
        )
    if args.input_size is not None:
        check_image_size(tagger.model, args.input_size, "--input_size")
    bad: list[str] = []
    taken: set[Path] = set()
    results = []
    for batch in batches(readable(args.pic_path, bad), args.batch_size):
        for (path, picture), tags in zip(batch, tagger.tag([picture for _, picture in batch], args.top_k), strict=True):
            print(format_tags(path, tags))
            entry: dict[str, object] = {"picture": str(path), "tags": [tag._asdict() for tag in tags]}
            if not args.no_picture:
                entry["annotated"] = str(save(picture, tags, path, args, taken))
            results.append(entry)
    if args.json is not None:
        write_json(args.json, {"model": str(args.model_path), "results": results, "skipped": bad})
    if bad and not results:
        raise UserError(f"--pic_path: none of the {len(bad)} pictures could be read")
    return 1 if bad else 0


def save(picture: Image.Image, tags: Sequence[Tag], source: Path, args: Namespace, taken: set[Path]) -> Path:
    """Save the annotated picture under its own name, or with a number where a picture of this run has that name."""
    from src.visualize import picture_path, save_tagged_picture  # matplotlib is slow to import

    first = target = picture_path(args.path_output, source)
    number = 1
    while target in taken:
        number += 1
        target = first.with_stem(f"{first.stem}-{number}")
    taken.add(target)
    if target.resolve() in {path.resolve() for path in args.pic_path}:
        raise UserError(
            f"--path_output {args.path_output}: would overwrite the picture {target}; choose another folder"
        )
    save_tagged_picture(picture, tags, target)
    print(f"      saved {target}")
    return target


if __name__ == "__main__":
    sys.exit(main())
