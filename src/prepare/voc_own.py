"""Annotations of your own in Pascal VOC's form: other classes, other image names, with or without lists."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from src.config.data_sets import VocSettings
from src.config.sources import TableSettings
from src.errors import UserError, name_some
from src.prepare.collected import Collected
from src.prepare.files import list_files, list_images
from src.prepare.image_names import ImageNames
from src.prepare.table import collect_table
from src.prepare.table_files import Table, splits_of_folders
from src.prepare.voc_files import LIST_NAMES, LISTS, folders_with_lists, has_list
from src.prepare.voc_xml import Annotation, NoAnnotationError, read_annotation
from src.utils.files import read_lines

_MARKS = ("-1", "0", "1")  # second column of the lists of a class


def collect_own(settings: VocSettings) -> Collected:
    """Read annotations below ``--source``, wherever they lie; the classes are those that they name.

    Raises:
        UserError: there are none, or something is missing or malformed.
    """
    if settings.year is not None:
        raise UserError("--year is about VOC 2007 and 2012; leave it out with annotations of your own")
    source, base = settings.source, settings.images or settings.source
    files = _annotation_files(source)
    parts, notes = _parts(settings, files)
    found: list[_Annotated] = []
    strangers: list[str] = []
    for name in tqdm(
        sorted(files if parts is None else parts), desc=source.name, unit="file", disable=None, leave=False
    ):
        try:
            found.append(_Annotated(name, read_annotation(files[name])))
        except NoAnnotationError:
            strangers.append(f"{name}.xml")
    if strangers:
        notes.append(f"passed over {len(strangers):,} XML files that are no annotations: {name_some(strangers, 5)}")
    if not found:
        raise UserError(f"--source {source}: no XML file below it is an annotation of Pascal VOC's form")
    listing = list_images(base, "--source" if settings.images is None else "--images")
    paths, name_notes = _ImagesOfAnnotations(listing.names, base).find(found)
    splits = splits_of_folders([entry.name for entry in found])
    if parts is not None:
        splits = [parts[entry.name] for entry in found]
    if splits is not None and settings.val_fraction is not None:
        raise UserError(
            f"--val-fraction {settings.val_fraction}: the lists or folders of --source {source} define the images for "
            "validation; leave it out"
        )
    tags, unknown, num_difficult = _labels(found, settings.difficult)
    if num_difficult:
        notes.append(f"{num_difficult:,} labels taken as {settings.difficult}, as all their objects are difficult")
    table = Table(
        source,
        "file",
        [f"{entry.name}.xml" for entry in found],
        paths,
        list(tags),
        splits,
        [],
        [*listing.notes, *notes, *name_notes],
        unknown,
    )
    return collect_table(
        table,
        TableSettings(
            source=source,
            images=base,
            unseen=settings.unseen,
            unseen_fraction=0.2 if settings.unseen_fraction is None else settings.unseen_fraction,
            val_fraction=settings.val_fraction,
            seed=settings.seed or 0,
            missing_pictures=settings.missing_pictures,
        ),
    )


@dataclass(frozen=True)
class _Annotated:
    """An annotation and the path of its file, relative to the source, without the suffix."""

    name: str
    annotation: Annotation


def _annotation_files(source: Path) -> dict[str, Path]:
    """Find the XML files below a folder: path relative to it, without the suffix -> file."""
    listed = [path for paths in list_files(source, (".xml",)).values() for path in paths]
    if not listed:
        raise UserError(
            f"--source {source}: no folder in it has ImageSets/Main, and there is no XML file in it; give VOCdevkit, "
            "VOC2007 or VOC2012, or a folder of annotations of your own"
        )
    return {path.relative_to(source).with_suffix("").as_posix(): path for path in listed}


def _labels(found: Sequence[_Annotated], difficult: str) -> tuple[list[list[str]], list[list[str]], int]:
    """Return the classes of each annotation, those that are unknown, and how often all objects were difficult."""
    tags: list[list[str]] = []
    unknown: list[list[str]] = []
    num_difficult = 0
    for entry in found:
        clear = dict.fromkeys(name for name, is_difficult in entry.annotation.objects if not is_difficult)
        doubtful = dict.fromkeys(name for name, _ in entry.annotation.objects if name not in clear)
        num_difficult += len(doubtful)
        tags.append([*clear, *(doubtful if difficult == "positive" else ())])
        unknown.append(list(doubtful) if difficult == "unknown" else [])
    return tags, unknown, num_difficult


def _parts(settings: VocSettings, files: Mapping[str, Path]) -> tuple[dict[str, str] | None, list[str]]:
    """Return the part of each annotation that the lists in ImageSets/Main name; None without lists."""
    lists = _Lists(settings.source, files)
    for folder in folders_with_lists(settings.source):
        lists.read(folder)
    if not lists.of:
        for flag, value in (("--train-set", settings.train_set), ("--val-set", settings.val_set)):
            if value is not None:
                raise UserError(
                    f"{flag} {value}: no folder in --source {settings.source} has ImageSets/Main/{value}.txt"
                )
        return None, []
    val = settings.val_set or next((name for name in ("test", "val") if name in lists.of), None)
    train = settings.train_set or ("train" if val == "val" and "train" in lists.of else "trainval")
    if val is None:
        raise UserError(
            f"--val-set: --source {settings.source} has neither a list val nor a list test; write one of them"
        )
    if train == "trainval" and train not in lists.of:
        lists.of[train] = [*lists.of.get("train", []), *(lists.of.get("val", []) if val == "test" else [])]
    absent = [name for name in (train, val) if not lists.of.get(name)]
    if absent:
        raise UserError(f"--source {settings.source}: has no ImageSets/Main/{absent[0]}.txt, or it lists no image")
    shared = sorted(set(lists.of[train]) & set(lists.of[val]))
    if shared:
        raise UserError(
            f"--train-set {train} and --val-set {val} share {len(shared):,} images ({name_some(shared, 3)}); choose "
            "train and val, or trainval and test"
        )
    parts = {**dict.fromkeys(lists.of[train], "train"), **dict.fromkeys(lists.of[val], "val")}
    notes = [f"lists: {train} for training, {val} for validation", *lists.notes]
    if len(parts) < len(files):
        notes.append(f"passed over {len(files) - len(parts):,} XML files that these lists do not name")
    return parts, notes


class _Lists:
    """The lists of all folders together.

    Attributes:
        of: name of a list -> the annotations in it.
        notes: lines for the report.
    """

    def __init__(self, source: Path, files: Mapping[str, Path]) -> None:
        self.of: dict[str, list[str]] = {}
        self.notes: list[str] = []
        self._source, self._files = source, files

    def read(self, folder: Path) -> None:
        prefix = folder.relative_to(self._source).as_posix()
        for name in LIST_NAMES:
            if not has_list([folder], name):
                continue
            path = folder / LISTS / f"{name}.txt"
            lines = [line for line in read_lines(path, "--source") if line]
            named = {line: self._annotation(line, "" if prefix == "." else f"{prefix}/") for line in lines}
            absent = [line for line, found in named.items() if found is None]
            if absent and name == "test" and len(absent) == len(named):
                self.notes.append(f"{path} names images without annotations; it is not used")
            elif absent:
                raise UserError(
                    f"--source {path}: {len(absent):,} of the {len(named):,} images that it lists have no XML file "
                    f"({name_some(absent, 3)}); add them, or correct the list"
                )
            else:
                self.of.setdefault(name, []).extend(found for found in named.values() if found is not None)

    def _annotation(self, line: str, prefix: str) -> str | None:
        """Return the annotation that a line means: an id, a file name, or an id with a mark of a class."""
        words = line.rsplit(maxsplit=1)
        stems = [line, os.path.splitext(line)[0], *(words[:1] if words[-1] in _MARKS else [])]
        places = [f"{prefix}{below}{stem}" for stem in stems for below in ("Annotations/", "", "JPEGImages/")]
        return next((place for place in places if place in self._files), None)


@dataclass
class _ImagesOfAnnotations:
    """The images that annotations belong to.

    All tools name an annotation after its image, so the image of the same name counts, and of several the one that lies
    nearest. Only where there is none, ``<filename>`` does, which often is that of an earlier name of the image.
    """

    files: list[str]
    base: Path
    _by_stem: dict[str, list[str]] = field(default_factory=dict)

    def find(self, found: Sequence[_Annotated]) -> tuple[list[str], list[str]]:
        """Return the image of each annotation, or the name that it should have, and what to report."""
        for file in self.files:
            self._by_stem.setdefault(_stem(file), []).append(file)
        paths = [self._of_same_name(entry) for entry in found]
        rest = {entry.annotation.file_name for entry, path in zip(found, paths, strict=True) if path is None}
        named = ImageNames(self.files, self.base).find(sorted(rest - {""}))
        places = [
            path or named.place_of.get(entry.annotation.file_name) or entry.annotation.file_name or f"{entry.name}.jpg"
            for entry, path in zip(found, paths, strict=True)
        ]
        differing = [
            f"{entry.name}.xml ({entry.annotation.file_name})"
            for entry, path in zip(found, paths, strict=True)
            if path is not None and entry.annotation.file_name and _stem(entry.annotation.file_name) != _stem(path)
        ]
        notes = []
        if differing:
            notes.append(
                f"{len(differing):,} annotations have another <filename> than the image of their own name, which "
                f"counts: {name_some(differing, 3)}"
            )
        if named.place_of:
            notes.append(f"found {len(named.place_of):,} images by <filename>, as none has the name of the annotation")
        return places, notes

    def _of_same_name(self, entry: _Annotated) -> str | None:
        candidates = self._by_stem.get(_stem(entry.name), [])
        wanted = entry.name.split("/")[:-1]

        def nearness(file: str) -> tuple[int, bool]:
            folders = file.split("/")[:-1]
            same = [one == other for one, other in zip(folders, wanted, strict=False)]
            common = (same.index(False) if False in same else len(same)) * 2 - len(folders)
            return common, os.path.basename(entry.annotation.file_name.replace("\\", "/")) == os.path.basename(file)

        best = sorted(candidates, key=nearness, reverse=True)[:2]
        if len(best) == 2 and nearness(best[0]) == nearness(best[1]):
            raise UserError(
                f"--source: {best[0]} and {best[1]} could both be the image of {entry.name}.xml; remove one of them, "
                "or give --images with the folder that counts"
            )
        return best[0] if best else None


def _stem(path: str) -> str:
    return os.path.splitext(path.replace("\\", "/").rpartition("/")[2])[0].casefold()
