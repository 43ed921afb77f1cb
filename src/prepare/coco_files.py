"""COCO-format label files: which ones the settings mean, and their content."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from src.config.data_sets import CocoSettings
from src.data.coco import COCO_CLASSES, by_written_id, image_level_labels
from src.data.coco_files import CocoCategory, CocoFile, is_set, name_of, read_coco_file
from src.data.labels import LabelledImages
from src.errors import UserError, name_some, prefix_errors
from src.prepare.files import differences
from src.text import shortened

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


@dataclass(frozen=True)
class _Part:
    """Content of a label file, in columns of its own.

    Attributes:
        labels: names of its categories in order of their ids, each once.
        root: that of them which only groups the others, as Roboflow's exports have it, or None.
        images: with their labels in these columns.
    """

    labels: list[str]
    root: str | None
    images: LabelledImages

    def is_root(self, label: str) -> bool:
        """Return whether a label is the root and that of no annotation, or is not among the categories."""
        columns = [column for column, own in enumerate(self.labels) if same_label(own, label)]
        if not columns:
            return True
        _, entries, values = self.images.targets.entries()
        shown = ((entries == columns[0]) & (values != 0)).any()
        return self.root is not None and same_label(self.root, label) and not bool(shown)


def read_parts(
    files: Mapping[str, LabelFile], *, drop_crowds: bool, notes: list[str]
) -> tuple[tuple[str, ...], dict[str, LabelledImages]]:
    """Read all images of each file with their labels; findings are added to ``notes``.

    Returns:
        The labels (COCO's classes in their order, or own categories in order of their ids), and the parts.

    Raises:
        UserError: a file is missing or malformed, or their categories differ.
    """
    read: dict[str, _Part] = {}
    for part, file in files.items():
        with prefix_errors(file.flag):
            read[part] = _read_part(part, file, drop_crowds, notes)
    _leave_out_roots(read, notes)
    labels: tuple[str, ...] = ()
    parts: dict[str, LabelledImages] = {}
    for part, content in read.items():
        labels = labels or _in_order(content.labels)
        column_of = {label_key(label): column for column, label in enumerate(content.labels)}
        if column_of.keys() != set(map(label_key, labels)):
            raise UserError(
                f"{files[part].flag}: {files[part].name} has other categories than the training file "
                f"({differences(labels, content.labels, 'train', part)}); both must list the same"
            )
        columns = [column_of[label_key(label)] for label in labels]
        parts[part] = content.images.with_targets(content.images.targets.select_columns(columns))
        bare = int((parts[part].targets.positives_per_image() == 0).sum())
        if bare:
            notes.append(f"{part}: {bare:,} images have no label in {files[part].short_name}; they are kept")
    return labels, parts


def label_key(name: str) -> str:
    """Return what is equal for two spellings of a category: blanks and case do not count."""
    return " ".join(name.split()).casefold()


def same_label(one: str, other: str) -> bool:
    """Return whether two names are spellings of a category."""
    return label_key(one) == label_key(other)


def _in_order(labels: Sequence[str]) -> tuple[str, ...]:
    same = set(map(label_key, labels)) == set(map(label_key, COCO_CLASSES))
    return COCO_CLASSES if same else tuple(labels)


def _read_part(part: str, file: LabelFile, drop_crowds: bool, notes: list[str]) -> _Part:
    """Read a label file; what it holds beside the labels, hundreds of megabytes, is not kept."""
    content = read_coco_file(file.content)
    if not content.categories:
        raise UserError(f"{file.name} lists no categories; is it an instances file?")
    crowds = {number for number, item in enumerate(content.annotations) if item.iscrowd and is_set(item.iscrowd)}
    if crowds:
        done = "left out" if drop_crowds else "counted as labels (--crowd drop leaves them out)"
        notes.append(f"{part}: {len(crowds):,} annotations of crowds, {done}")
        if drop_crowds:
            content.annotations = [item for number, item in enumerate(content.annotations) if number not in crowds]
    _leave_out_strangers(part, file, content, notes)
    labels = _name_categories(part, content, notes)
    return _Part(labels, _root(content), image_level_labels(content, labels, file.name))


def _leave_out_strangers(part: str, file: LabelFile, content: CocoFile, notes: list[str]) -> None:
    """Leave out annotations of images or categories that are not listed, as in a file that was filtered by hand.

    Raises:
        UserError: none fits: ids of another file.
    """
    images, categories = (
        by_written_id(dict.fromkeys((entry.id for entry in entries), True))
        for entries in (content.images, content.categories)
    )
    before = content.annotations
    known = [item for item in before if item.image_id in images and item.category_id in categories]
    if len(known) < len(before):
        strangers = {
            what: [str(number) for number in dict.fromkeys(ids) if number not in listed]
            for what, ids, listed in (
                ("images", (item.image_id for item in before), images),
                ("categories", (item.category_id for item in before), categories),
            )
        }
        named = " and ".join(
            f"{what} that it does not list ({shortened(name_some(ids, 3), 120)})"
            for what, ids in strangers.items()
            if ids
        )
        if not known:
            raise UserError(f"{file.name}: all annotations refer to {named}; do the parts of the file belong together?")
        notes.append(
            f"{part}: left out {len(before) - len(known):,} of the {len(before):,} annotations, which refer to {named}"
        )
        content.annotations = known
    unlisted = 0
    for image in content.images:
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            ids = getattr(image, key)
            if ids and not all(number in categories for number in ids):
                kept = [number for number in ids if number in categories]
                unlisted += len(ids) - len(kept)
                setattr(image, key, kept)
    if unlisted:
        notes.append(f"{part}: left out {unlisted:,} entries of neg_category_ids and the like, of unlisted categories")


def _name_categories(part: str, content: CocoFile, notes: list[str]) -> list[str]:
    """Give categories the names of labels, and return these in order of the ids.

    Blanks at the ends of a name do not count; categories whose names differ in nothing else than blanks or case are
    one label.
    """
    content.categories.sort(key=lambda category: (isinstance(category.id, str), category.id))
    same: dict[str, list[CocoCategory]] = {}
    for category in content.categories:
        same.setdefault(label_key(category.name), []).append(category)
    for spelt in same.values():
        if len(spelt) > 1:
            listed = name_some([f"{category.name!r} (id {category.id})" for category in spelt])
            notes.append(f"{part}: categories that differ in case or blanks only are one label: {listed}")
        label = " ".join(spelt[0].name.split())
        for category in spelt:
            category.name = label
    return [spelt[0].name for spelt in same.values()]


def _root(content: CocoFile) -> str | None:
    """Return the label of the category that is every other's supercategory, None if there is none."""
    members = Counter(label_key(category.supercategory) for category in content.categories)
    for category in content.categories:
        key = label_key(category.name)
        others = members[key] - (label_key(category.supercategory) == key)
        if others == len(content.categories) - 1 > 0:
            return category.name
    return None


def _leave_out_roots(parts: dict[str, _Part], notes: list[str]) -> None:
    """Leave out a root category that no image of any part shows: it is a group, not a label."""
    for root in {label_key(part.root): part.root for part in parts.values() if part.root is not None}.values():
        kept = {name: [label for label in part.labels if not same_label(label, root)] for name, part in parts.items()}
        if all(part.is_root(root) for part in parts.values()) and all(kept.values()):
            for name, part in parts.items():
                targets = part.images.targets.select_columns([part.labels.index(label) for label in kept[name]])
                parts[name] = _Part(kept[name], None, part.images.with_targets(targets))
            notes.append(f"left out the category {root!r}: it only groups the others, and no image shows it")
