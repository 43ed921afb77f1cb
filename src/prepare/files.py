"""Finding the files of a data set, and reading lists of names."""

from __future__ import annotations

import filecmp
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import torch
from tqdm import tqdm

from src.data.folders import FolderWalk
from src.data.labels import LabelledImages
from src.data.split import columns_of
from src.errors import UserError, name_some, raise_collected
from src.text import printable
from src.utils.files import read_lines


def read_names(path: Path, flag: str) -> list[str]:
    """Read a list of names, one per line; blank lines are left out.

    Raises:
        UserError: the file cannot be read, is empty, or repeats a name.
    """
    names = [line for line in read_lines(path, flag) if line]
    if not names:
        raise UserError(f"{flag} {path}: names nothing; give one name per line")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UserError(f"{flag} {path}: named more than once: {name_some(repeated)}")
    return names


def read_label_names(path: Path, flag: str, labels: Sequence[str]) -> list[str]:
    """Read a list of labels as :func:`read_names` does.

    Raises:
        UserError: as ``read_names``, or a name is no label.
    """
    names = read_names(path, flag)
    columns_of(names, labels, f"{flag} {path}")
    return names


def holds_out_none(unseen: Path | None) -> bool:
    """Return whether ``--unseen`` is the word ``none``; a file of that name has to be given with its folder."""
    return unseen == Path("none")


def read_unseen(path: Path, labels: Sequence[str]) -> list[str]:
    """Read the labels that ``--unseen`` holds out: those that a file lists, or ``none``.

    Raises:
        UserError: as :func:`read_label_names`.
    """
    return [] if holds_out_none(path) else read_label_names(path, "--unseen", labels)


def differences(one: Sequence[str], other: Sequence[str], name: str, other_name: str) -> str:
    """Describe the names that only one of two lists has."""
    only = ((name, set(one) - set(other), one), (other_name, set(other) - set(one), other))
    return "; ".join(
        f"only in {who}: {name_some([item for item in order if item in alone])}" for who, alone, order in only if alone
    )


def read_blocks(path: Path, size: int) -> Iterator[bytes]:
    """Yield a large file in blocks of whole lines, about ``size`` bytes, without a byte-order mark; show the progress.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with (
            open(path, "rb") as stream,
            tqdm(
                total=path.stat().st_size, desc=path.name, unit="B", unit_scale=True, disable=None, leave=False
            ) as bar,
        ):
            if stream.read(3) != b"\xef\xbb\xbf":
                stream.seek(0)
            while block := stream.read(size) + stream.readline():
                yield block
                bar.update(len(block))
    except OSError as error:
        raise UserError(f"--source {path}: cannot be read: {error.strerror or error}") from error


def _walk(root: Path, flag: str) -> FolderWalk:
    """Return a walk through ``root``, or raise :class:`UserError` if there is no such folder."""
    if not root.is_dir():
        raise UserError(f"{flag} {root}: no such folder")
    return FolderWalk(root)


def list_files(root: Path, suffixes: Collection[str], flag: str = "--source") -> dict[str, list[Path]]:
    """Find files below ``root`` by suffix: name in lower case (copies differ in case and nesting) -> paths."""
    found: dict[str, list[Path]] = {}
    for folder, names in _walk(root, flag):
        for name in names:
            if os.path.splitext(name)[1].lower() in suffixes and (root / folder / name).is_file():
                found.setdefault(name.lower(), []).append(root / folder / name)
    return found


def pick_files(listed: Mapping[str, list[Path]], names: Iterable[str], where: str, remedy: str) -> dict[str, Path]:
    """Return the file of each of these names, in any case; of several with the same content the first.

    Args:
        listed: see :func:`list_files`.
        names: of the files.
        where, remedy: beginning and end of the message about missing files.

    Raises:
        UserError: files are missing, or different ones have the same name: all are listed.
    """
    files, absent, problems = {}, [], []
    for name in names:
        if name.lower() not in listed:
            absent.append(name)
            continue
        files[name], *others = listed[name.lower()]
        problems += [
            f"{where}: {files[name]} and {other} have the same name and different content; remove one of them"
            for other in others
            if not _is_copy(files[name], other)
        ]
    if absent:
        problems.append(f"{where}: {len(absent)} files are missing: {name_some(absent, 12)}; {remedy}")
    raise_collected(problems)
    return files


def _is_copy(one: Path, other: Path) -> bool:
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:  # one of them cannot be read: nobody knows whether it is a copy
        return False


class ImageListing(NamedTuple):
    """Image files below a folder.

    Attributes:
        names: by suffix, in either case; sorted, relative to the folder, with ``/``.
        notes: lines for the report: what was passed over, and why.
    """

    names: list[str]
    notes: list[str]


def list_images(root: Path, flag: str = "--images") -> ImageListing:
    """List all image files below ``root``.

    Raises:
        UserError: there is no such folder.
    """
    walk = _walk(root, flag)
    with tqdm(desc=f"images in {root.name}", unit="file", disable=None, leave=False) as bar:
        found = walk.images(bar.update)
    notes = walk.notes()
    odd = sorted(name for name in found if not name.isascii() and printable(name) != name)
    if odd:
        notes.append(
            f"passed over {len(odd):,} images whose paths are not UTF-8, which label files cannot hold: "
            f"{name_some(list(map(printable, odd)), 3)}; rename them"
        )
        found = sorted(set(found) - set(odd))
    return ImageListing(found, [f"{flag} {root}: {note}" for note in notes])


def images_below(images: Path | None, missing_pictures: str) -> ImageListing | None:
    """List the image files below ``--images``; None without that flag."""
    if images is not None:
        return list_images(images)
    if missing_pictures == "drop":
        raise UserError("--missing-pictures drop needs --images, the folder to look in")
    return None


def keep_apart(
    parts: dict[str, LabelledImages], identity: Callable[[int | str, str], int | str], where: str
) -> list[str]:
    """Leave validation images out of ``train``, if there are both parts; return what to report.

    Args:
        parts: ``train`` is replaced.
        identity: image id, file name -> a key that is equal for the same image.
        where: flag and file of the training images, for the message.

    Raises:
        UserError: no training image is left.
    """
    if len(parts) < 2:
        return []
    train, val = parts["train"], parts["val"]
    tested = set(map(identity, val.image_ids, val.file_names))
    is_shared = [key in tested for key in map(identity, train.image_ids, train.file_names)]
    if all(is_shared):
        raise UserError(
            f"{where}: every training image is a validation image too; give another file, or, if other images have the "
            "same names, write the sub-folders into them"
        )
    parts["train"] = train.rows([row for row, shared in enumerate(is_shared) if not shared])
    names = [name for name, shared in zip(train.file_names, is_shared, strict=True) if shared]
    return [f"train: left out {len(names):,} images that are in val too ({name_some(names, 3)})"] if names else []


class ImageFilter:
    """Keep the images that are on disk, under the names that they have there.

    Attributes:
        missing: names of the images that were left out, with ``--missing-pictures drop``.
        notes: lines for the report.
    """

    def __init__(self, missing_pictures: str, where: str, searched: str = "") -> None:
        """Keep what the messages say.

        Args:
            missing_pictures: ``error`` or ``drop``.
            where: flag and image folder.
            searched: what was searched, see ``ImageNames.searched``.
        """
        self._drop, self._where, self._searched = missing_pictures == "drop", where, searched
        self.missing: list[str] = []
        self.notes: list[str] = []

    def keep(
        self,
        images: LabelledImages,
        places: Sequence[str | None],
        source: str,
        doubtful: Mapping[str, str] = MappingProxyType({}),
    ) -> LabelledImages:
        """Return the images of the list ``source`` that have a place [N], relative to the image folder.

        Args:
            images: N of them.
            places: [N], None where there is no such file.
            source: name of the list.
            doubtful: name -> the files that it could mean, for those of the missing images that have several.

        Raises:
            UserError: images are missing and may not be left out, or all are.
        """
        absent = [name for name, place in zip(images.file_names, places, strict=True) if place is None]
        unclear = [f"{name}: {doubtful[name]}" for name in absent if name in doubtful]
        if absent and (not self._drop or len(absent) == len(images)):
            remedy = "" if len(absent) == len(images) else ", or --missing-pictures drop to leave them out"
            if unclear:
                raise UserError(
                    f"{self._where}: {len(unclear):,} of the {len(images):,} file names of {source} could mean several "
                    f"images ({name_some(unclear, 2)}); write the sub-folder into each name, or give a folder that "
                    f"holds each name once{remedy}"
                )
            searched = f"{self._searched}; " if self._searched else ""
            raise UserError(
                f"{self._where}: {len(absent):,} of the {len(images):,} images of {source} are not there "
                f"({name_some(absent, 3)}); {searched}give the folder that holds them{remedy}"
            )
        if absent:
            self.notes.append(
                f"left out {len(absent):,} images of {source} that are not on disk, listed in missing_pictures.txt"
            )
        if unclear:
            self.notes.append(f"{len(unclear):,} of them could be several files ({name_some(unclear, 3)})")
        self.missing += absent
        kept = torch.tensor([row for row, place in enumerate(places) if place is not None], dtype=torch.int64)
        found = images.rows(kept)
        return LabelledImages(found.image_ids, tuple(place for place in places if place is not None), found.targets)
