"""COCO-format label files: which ones the flags mean, and what they hold."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.data.coco import COCO_CLASSES, CocoFile, image_level_labels, read_coco_file
from src.data.labels import LabelledImages
from src.errors import UserError, blaming, name_some

Parts = dict[str, LabelledImages]


@dataclass(frozen=True)
class LabelFile:
    """A label file and the flag that it comes from."""

    flag: str
    path: Path

    @property
    def release(self) -> str:
        """What its name says it is, for instance ``train2014``."""
        return self.path.stem.removeprefix("instances_")


def label_files(args: argparse.Namespace) -> dict[str, LabelFile]:
    """``train`` and ``val``, or one of them.

    Raises:
        UserError: the flags contradict each other, or the --source folder lacks a file or has both releases.
    """
    given = {"train": args.train, "val": args.val}
    if args.source is None:
        if args.year is not None:
            raise UserError(f"--year {args.year} is about a --source folder; leave it out with --train and --val")
        files = {part: LabelFile(f"--{part}", path) for part, path in given.items() if path is not None}
        if not files:
            raise UserError("give --train FILE and --val FILE, or --source DIR")
        return files
    if any(given.values()):
        raise UserError(f"--source {args.source} stands for --train and --val; give either that or these")
    folder = args.source / "annotations"
    paths = {
        year: {part: folder / f"instances_{part}{year}.json" for part in given}
        for year in (("2014", "2017") if args.year is None else (args.year,))
    }
    years = [year for year, pair in paths.items() if any(path.is_file() for path in pair.values())]
    if not years:
        wanted = " or ".join(f"instances_{{train,val}}{year}.json" for year in paths)
        raise UserError(f"--source {args.source}: there is no annotations/{wanted} in it; is this the COCO folder?")
    if len(years) > 1:
        raise UserError(f"--source {args.source}: annotations/ has both 2014 and 2017; choose one with --year")
    pair = paths[years[0]]
    absent = [path.name for path in pair.values() if not path.is_file()]
    if absent:
        raise UserError(
            f"--source {args.source}: there is no annotations/{absent[0]} in it; to prepare one part only, name its "
            "file with --train or --val"
        )
    return {part: LabelFile("--source", path) for part, path in pair.items()}


def read_parts(files: Mapping[str, LabelFile], *, drop_crowds: bool, notes: list[str]) -> tuple[tuple[str, ...], Parts]:
    """The labels, and all images of each file with theirs.

    Labels are COCO's classes in their order, or own categories in order of their ids.

    Args:
        files: part -> file.
        drop_crowds: leave out annotations with ``iscrowd``.
        notes: what was found is added here.

    Raises:
        UserError: a file is missing or malformed, or their categories differ.
    """
    labels: tuple[str, ...] = ()
    parts: Parts = {}
    for part, file in files.items():
        with blaming(file.flag):
            content = read_coco_file(file.path)
            own = _labels_of(content, file.path)
            labels = labels or own
            if set(own) != set(labels):
                raise UserError(
                    f"{file.path} has other categories than the training file "
                    f"({differences(labels, own, 'train', part)}); both must list the same"
                )
            crowds = sum(bool(annotation.iscrowd) for annotation in content.annotations)
            if crowds and drop_crowds:
                content.annotations = [item for item in content.annotations if not item.iscrowd]
            parts[part] = image_level_labels(content, labels, str(file.path))
        del content  # hundreds of megabytes, not to be kept while the next file is read
        if crowds:
            done = "left out" if drop_crowds else "counted as labels (--crowd drop leaves them out)"
            notes.append(f"{part}: {crowds:,} annotations of crowds, {done}")
        bare = int((parts[part].targets.positives_per_image() == 0).sum())
        if bare:
            notes.append(f"{part}: {bare:,} images have no label in {file.path.name}; they are kept")
    return labels, parts


def _labels_of(content: CocoFile, path: Path) -> tuple[str, ...]:
    """COCO's classes in their order, or own categories in order of id."""
    categories = sorted(content.categories, key=lambda category: (isinstance(category.id, str), category.id))
    names = [category.name for category in categories]
    if not names:
        raise UserError(f"{path} lists no categories; is it an instances file?")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(f"{path}: categories with several ids: {name_some(repeated)}; give each one id")
    return COCO_CLASSES if set(names) == set(COCO_CLASSES) else tuple(names)


def differences(one: Sequence[str], other: Sequence[str], name: str, other_name: str) -> str:
    """What each of two lists of names has alone, in words."""
    only = ((name, set(one) - set(other), one), (other_name, set(other) - set(one), other))
    return "; ".join(
        f"only in {who}: {name_some([item for item in order if item in alone])}" for who, alone, order in only if alone
    )
