"""COCO-format label files: which ones the settings mean, and their content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from src.config.sources import CocoSettings
from src.data.coco import COCO_CLASSES, CocoFile, image_level_labels, name_of, read_coco_file
from src.data.labels import LabelledImages
from src.errors import UserError, name_some, prefix_errors
from src.prepare.files import differences

if TYPE_CHECKING:
    from pycocotools.coco import COCO


@dataclass(frozen=True)
class LabelFile:
    """A label file, or an open ``COCO`` object, and the flag that it comes from."""

    flag: str
    content: Path | COCO

    @property
    def name(self) -> str:
        """The path, for messages."""
        return name_of(self.content)

    @property
    def short_name(self) -> str:
        """The name without its folder, for reports."""
        return self.content.name if isinstance(self.content, Path) else self.name

    @property
    def release(self) -> str:
        """The release by its file name, for instance ``train2014``."""
        return self.content.stem.removeprefix("instances_") if isinstance(self.content, Path) else ""


def label_files(settings: CocoSettings) -> dict[str, LabelFile]:
    """Return the label files of ``train`` and ``val``, or of one of them.

    Raises:
        UserError: the flags contradict each other, or the --source folder lacks a file or has both releases.
    """
    given = {"train": settings.train, "val": settings.val}
    files = {part: LabelFile(f"--{part}", content) for part, content in given.items() if content is not None}
    source = settings.source
    if source is None:
        if settings.year is not None:
            raise UserError(f"--year {settings.year} is about a --source folder; leave it out with --train and --val")
        if not files:
            raise UserError("give --train FILE and --val FILE, or --source DIR")
        return files
    if files:
        raise UserError(f"--source {source} stands for --train and --val; give either that or these")
    years = ("2014", "2017") if settings.year is None else (settings.year,)
    names = {year: [f"instances_{part}{year}.json" for part in given] for year in years}
    folder = source / "annotations"
    there = [year for year in years if any((folder / name).is_file() for name in names[year])]
    if len(there) > 1:
        raise UserError(f"--source {source}: annotations/ has both 2014 and 2017; choose one with --year")
    absent = [name for name in names[(there or years)[0]] if not (folder / name).is_file()]
    if absent:
        raise UserError(
            f"--source {source}: there is no annotations/{absent[0]} in it; is this the COCO folder? To prepare one "
            "part only, name its file with --train or --val"
        )
    return {part: LabelFile("--source", folder / name) for part, name in zip(given, names[there[0]], strict=True)}


def read_parts(
    files: Mapping[str, LabelFile], *, drop_crowds: bool, notes: list[str]
) -> tuple[tuple[str, ...], dict[str, LabelledImages]]:
    """Read all images of each file with their labels; findings are added to ``notes``.

    Returns:
        The labels (COCO's classes in their order, or own categories in order of their ids), and the parts.

    Raises:
        UserError: a file is missing or malformed, or their categories differ.
    """
    labels: tuple[str, ...] = ()
    parts: dict[str, LabelledImages] = {}
    for part, file in files.items():
        with prefix_errors(file.flag):
            content = read_coco_file(file.content)
            own = _labels_of(content, file.name)
            labels = labels or own
            if set(own) != set(labels):
                raise UserError(
                    f"{file.name} has other categories than the training file "
                    f"({differences(labels, own, 'train', part)}); both must list the same"
                )
            crowds = sum(bool(annotation.iscrowd) for annotation in content.annotations)
            if crowds and drop_crowds:
                content.annotations = [item for item in content.annotations if not item.iscrowd]
            parts[part] = image_level_labels(content, labels, file.name)
        del content  # hundreds of megabytes, not to be kept while the next file is read
        if crowds:
            done = "left out" if drop_crowds else "counted as labels (--crowd drop leaves them out)"
            notes.append(f"{part}: {crowds:,} annotations of crowds, {done}")
        bare = int((parts[part].targets.positives_per_image() == 0).sum())
        if bare:
            notes.append(f"{part}: {bare:,} images have no label in {file.short_name}; they are kept")
    return labels, parts


def _labels_of(content: CocoFile, name: str) -> tuple[str, ...]:
    categories = sorted(content.categories, key=lambda category: (isinstance(category.id, str), category.id))
    names = [category.name for category in categories]
    if not names:
        raise UserError(f"{name} lists no categories; is it an instances file?")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(f"{name}: categories with several ids: {name_some(repeated)}; give each one id")
    return COCO_CLASSES if set(names) == set(COCO_CLASSES) else tuple(names)
