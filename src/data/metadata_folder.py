"""The folder that prepare_data.py fills: it changes in one step, and nobody else's file in it is touched.

The folder may be in use, and may hold files of the user's, which stay. So it is not replaced as a whole:

1. All new files are written into a hidden sub-folder, ``.sdl-new-0``.
2. ``split.json``, which names all other files, is replaced by one that names those in the hidden sub-folder. Before
   this step a reader finds the old files whole, after it the new ones.
3. The new files get their usual places, as hard links or copies: nobody reads the old ones any more.
4. ``split.json`` is replaced by one that names the usual places; then the hidden sub-folder and the files of the
   earlier data set that have no successor are removed.

Without an earlier ``split.json`` there is nothing to read, and step 2 is left out. Of a run that was killed, the next
one finishes steps 3 and 4, or removes what step 1 left. The manifest (``src/utils/manifest.py``) says which files are
ours: others are never replaced or removed, and it keeps a second run out.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.utils.files import write_json
from src.utils.json_files import read_json
from src.utils.manifest import NAME as MANIFEST
from src.utils.manifest import Manifest, digest_of
from src.utils.temporary import sweep_temporary

SPLIT_FILE = "split.json"
_STAGING = re.compile(r"\.sdl-new-[0-9]+")
FILES = {
    SPLIT_FILE, "word_vectors.npy", "train.json", "val.json", "extra_words.json", "extra_words.npy", "report.txt",
    "missing_pictures.txt",
}  # fmt: skip
_SUBFOLDERS = ("official", "images")  # all below them is ours, as far as it is recorded


def is_hidden_part(path: Path) -> bool:
    """Return whether a path leads into a hidden sub-folder, which the next run will remove."""
    return any(_STAGING.fullmatch(part) for part in path.parts)


class MetadataFolder:
    """A locked output folder; see the description of this module.

    Attributes:
        path: absolute, without links.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self._manifest = path, manifest

    def recover(self) -> None:
        """Finish the replacement that a killed run began, or remove what it left hidden."""
        staging = self._staging_in_use()
        if staging is not None:
            self.refuse_foreign([self.path / path.relative_to(staging) for path in self._owned_below(staging)])
            self._put_in_place(staging)
        self.clear()

    def clear(self) -> None:
        """Remove hidden sub-folders that are not in use."""
        in_use = self._staging_in_use()
        for entry in list(self.path.iterdir()):
            if _STAGING.fullmatch(entry.name) and entry != in_use and not entry.is_symlink():
                self._remove(entry)

    def is_empty(self) -> bool:
        """Return whether nothing but the manifest lies in the folder."""
        return all(entry.name == MANIFEST for entry in self.path.iterdir())

    def is_free(self) -> bool:
        """Return whether the folder holds no data set, and nothing but what a killed run left."""
        if os.path.lexists(self.path / SPLIT_FILE):
            return False
        own = {self._manifest.path, *self._manifest.files()}
        return all(path in own for path in _files_below(self.path))

    def refuse_foreign(self, paths: Collection[Path] | None = None) -> None:
        """Raise :class:`UserError` if files would be replaced that are not ours, or changed since we wrote them.

        Args:
            paths: the files to write; None: those that are written for every data set.
        """
        self._manifest.refuse_foreign([self.path / name for name in FILES] if paths is None else paths, "--output")

    def replace(
        self, write: Callable[[Path], None], describe: Callable[[str], dict[str, Any]], keep: Collection[Path] = ()
    ) -> None:
        """Replace the data set in the folder.

        Args:
            write: writes all files but ``split.json`` into the folder that it gets.
            describe: makes the content of ``split.json``, given what to put before the names of files.
            keep: folders in which no earlier file is removed.

        Raises:
            UserError: a file is in the way that is not ours.
            OSError: the folder cannot be written.
        """
        names = (self.path / f".sdl-new-{number}" for number in count())
        staging = next(path for path in names if not os.path.lexists(path))
        staging.mkdir()
        write(staging)
        write_json(staging / SPLIT_FILE, describe(""))
        new = {self.path / path.relative_to(staging) for path in _files_below(staging)}
        self.refuse_foreign(new)
        is_first = not os.path.lexists(self.path / SPLIT_FILE)
        if not is_first:
            write_json(self.path / SPLIT_FILE, describe(f"{staging.name}/"))
        try:
            self._put_in_place(staging)
        except BaseException:
            if is_first:
                self._remove_files(new)
            raise
        self._remove_earlier(new, keep)

    def _staging_in_use(self) -> Path | None:
        """Return the hidden sub-folder whose files ``split.json`` names, if a killed run left it so."""
        if not self._manifest.owns(self.path / SPLIT_FILE):
            return None
        with suppress(UserError, LookupError, TypeError):
            staging = self.path / str(read_json(self.path / SPLIT_FILE)["word_vectors"]).partition("/")[0]
            if _STAGING.fullmatch(staging.name) and not staging.is_symlink():
                return staging
        return None

    def _owned_below(self, staging: Path) -> list[Path]:
        return [path for path in _files_below(staging) if self._manifest.owns(path)]

    def _put_in_place(self, staging: Path) -> None:
        """Give the files of a hidden sub-folder their usual places, ``split.json`` last, and remove it."""
        for path in sorted(self._owned_below(staging), key=lambda path: path == staging / SPLIT_FILE):
            target = self.path / path.relative_to(staging)
            if os.path.exists(target) and os.path.samefile(path, target):
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            self._manifest.record(target, digest_of(path))
            copy = staging / ".sdl-placing_.tmp"  # a name that is swept
            copy.unlink(missing_ok=True)
            try:
                os.link(path, copy)
            except OSError:  # a file system without hard links
                shutil.copyfile(path, copy)
            os.replace(copy, target)
        self._remove(staging)

    def _remove(self, staging: Path) -> None:
        """Remove a hidden sub-folder, except for what is not ours."""
        for place, _, _ in os.walk(staging):
            sweep_temporary(place)
        self._remove_files(_files_below(staging))
        _remove_empty(staging)

    def _remove_earlier(self, new: Collection[Path], keep: Collection[Path]) -> None:
        """Remove the files of an earlier data set, except for the new ones and those below some folders."""
        for path in self._manifest.files():
            first = path.relative_to(self.path).parts[0]
            is_metadata = path.name in FILES if path.parent == self.path else first in _SUBFOLDERS
            if is_metadata and path not in new and not any(folder in path.parents for folder in keep):
                self._remove_files([path])
        for folder in self._manifest.folders():  # also those that a killed run emptied
            if folder.relative_to(self.path).parts[0] in _SUBFOLDERS and os.path.realpath(folder) == str(folder):
                with suppress(OSError):  # not empty
                    folder.rmdir()

    def _remove_files(self, paths: Collection[Path]) -> None:
        """Remove those files that are ours, and the folders that become empty."""
        for path in paths:
            if self._manifest.remove(path):
                for parent in path.parents:
                    if parent == self.path:
                        break
                    with suppress(OSError):  # not empty
                        parent.rmdir()


def _files_below(folder: Path) -> list[Path]:
    """Return all but real folders below ``folder``; links to folders are not followed."""
    found = []
    for place, folders, names in os.walk(folder):
        links = (name for name in folders if os.path.islink(os.path.join(place, name)))
        found += [Path(place, name) for name in (*names, *links)]
    return sorted(found)


def _remove_empty(folder: Path) -> None:
    """Remove a folder and its sub-folders as far as they are empty; links are not followed."""
    for place, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):
            os.rmdir(place)


def check_output_folder(folder: Path, overwrite: bool) -> None:
    """Raise :class:`UserError` where the folder holds anything that prepare_data.py did not write, unless asked to."""
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise UserError(f"--output {folder} is a file; choose a folder")
    if not os.path.isdir(folder) or not os.listdir(folder) or os.path.isfile(folder / MANIFEST):
        return
    if not overwrite:
        raise UserError(f"--output {folder} is not empty; choose another folder or give --overwrite")
    raise UserError(
        f"--output {folder}: --overwrite replaces only folders that prepare_data.py made and recorded in {MANIFEST} "
        "(earlier versions kept no record); move it away or choose another folder"
    )


@contextmanager
def open_output(path: Path, overwrite: bool) -> Iterator[MetadataFolder]:
    """Make an output folder and lock it; if it stays empty, it is removed in the end.

    Args:
        path: the folder; a link to one is followed.
        overwrite: an earlier data set may be replaced.

    Raises:
        UserError: the folder cannot be made, another run writes it, or it holds something and may not be changed.
    """
    check_output_folder(path, overwrite)
    folder = Path(os.path.realpath(path))
    missing = [place for place in (folder, *folder.parents) if not os.path.lexists(place)]
    try:
        with _making(folder, path).lock("--output") as manifest:
            output = MetadataFolder(folder, manifest)
            output.recover()
            if not overwrite and not output.is_free():
                raise UserError(f"--output {path} is not empty; choose another folder or give --overwrite")
            output.refuse_foreign()
            try:
                yield output
            finally:
                with suppress(OSError, UserError):  # what is left is removed by the next run
                    output.clear()
                    if output.is_empty():
                        manifest.path.unlink(missing_ok=True)
    finally:
        for place in missing:
            with suppress(OSError):  # it is not empty
                place.rmdir()


def _making(folder: Path, path: Path) -> Manifest:
    """Make a folder, which ``--output path`` names, and return its manifest."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.listdir(folder)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"--output {path}: cannot be written: {reason}; choose another folder") from error
    return Manifest(folder)
