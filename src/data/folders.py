"""Walking through folders of other people's files: every script sees the same files below a folder."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase, translate
from functools import lru_cache
from pathlib import Path

from src.data.image_formats import SUFFIXES
from src.errors import name_some

# Folders of copies that file systems and photo managers make beside the photographs. A pattern with a slash is that of
# the end of a path.
EXCLUDED_FOLDERS = (
    *("@eaDir", "@tmp", "@SynoEAStream", "#recycle", "#snapshot"),  # Synology
    *("@Recycle", "@Recently-Snapshot", "@Transcode"),  # QNAP, whose .@__thumb is hidden
    *("$RECYCLE.BIN", "RECYCLER", "System Volume Information", "lost+found", "__MACOSX"),
    *("*.lrdata", "*.lrcat-data", "iPod Photo Cache", "CaptureOne/Cache", "mipmaps-*.d"),  # Lightroom, ..., darktable
    *("*.photoslibrary/resources", "*.photolibrary/Thumbnails", "*.aplibrary/Thumbnails"),  # Apple
    *("appdata_*/preview", "photoprism/cache", "photoprism/storage/cache"),  # Nextcloud, PhotoPrism
)


# Suffixes of the unprocessed files of cameras
RAW_SUFFIXES = frozenset(
    {".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dng", ".erf", ".iiq", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf"}
    | {".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"}
)
_SPECIAL = {stat.S_IFIFO: "FIFOs", stat.S_IFSOCK: "sockets", stat.S_IFCHR: "devices", stat.S_IFBLK: "devices"}


class FolderWalk:
    """The regular files below a folder; iterating yields each folder, relative to the root, with its sorted file names.

    Hidden files and folders, and those that match a pattern, are passed over. Links to folders are followed
    after all real folders, so that a folder inside the root goes by its own name and not by that of a link; each real
    folder is entered once, and a link to a folder that holds the root is passed over, so that circular links end.

    Attributes:
        passed_over: reason -> paths relative to the root, of what the walk so far did not enter or yield.
        unreadable: those of them that are folders which cannot be listed.
    """

    def __init__(self, root: str | Path, exclude: Sequence[str] = EXCLUDED_FOLDERS) -> None:
        """Prepare a walk below ``root``; for ``exclude`` see :func:`matches`."""
        self.passed_over: dict[str, list[str]] = {}
        self.unreadable: list[str] = []
        self._root = os.fspath(root)
        self._exclude = exclude
        self._others: Counter[str] = Counter()  # suffixes that files() passed over

    def __iter__(self) -> Iterator[tuple[str, list[str]]]:
        self.passed_over.clear()
        self.unreadable.clear()
        entered: set[tuple[int, int]] = set()
        queue, links = [""], list[str]()  # links to folders wait until the real ones are done
        above = _identities_above(self._root)
        while queue or links:
            is_link = not queue
            folder = queue.pop() if queue else links.pop(0)
            try:
                status = os.stat(os.path.join(self._root, folder))
                identity = (status.st_dev, status.st_ino)
                if identity in entered or (is_link and identity in above):
                    self._pass_over("links to a folder that is listed already, or above", folder)
                    continue
                entered.add(identity)
                with os.scandir(os.path.join(self._root, folder)) as entries:
                    found = sorted(entries, key=lambda entry: entry.name)
            except OSError as error:
                self._pass_over(f"folders that cannot be read ({error.strerror or error})", folder or ".")
                self.unreadable.append(folder or ".")
                continue
            files: list[str] = []
            folders: list[str] = []
            for entry in found:
                path = f"{folder}/{entry.name}" if folder else entry.name
                kind = self._kind(entry, path)
                if kind == "file":
                    files.append(entry.name)
                elif kind == "folder":
                    (links if entry.is_symlink() else folders).append(path)
                elif not entry.name.startswith(".sdl-"):  # notes of this program
                    self._pass_over(kind, path)
            queue += reversed(folders)
            yield folder or ".", files

    def _kind(self, entry: os.DirEntry[str], path: str) -> str:
        """Return ``file``, ``folder``, or the reason to pass it over."""
        if entry.name.startswith("."):
            return "hidden files and folders"
        if matches(path, self._exclude):
            return "excluded files and folders"
        try:
            if entry.is_dir():
                return "folder"
            if entry.is_file():
                return "file"
            mode = entry.stat().st_mode
        except OSError:
            return "links to nothing, or that cannot be followed"
        return _SPECIAL.get(stat.S_IFMT(mode), "special files")

    def _pass_over(self, reason: str, path: str) -> None:
        self.passed_over.setdefault(reason, []).append(path)

    def images(self, on_folder: Callable[[int], None] = lambda count: None) -> list[str]:
        """Walk, and return the image files by their suffix in either case: relative to the root, with ``/``, sorted.

        Args:
            on_folder: called with the number of files of each folder.
        """
        self._others.clear()
        found: list[str] = []
        for folder, names in self:
            prefix = "" if folder == "." else f"{folder}/"
            for name in names:
                suffix = os.path.splitext(name)[1].lower()
                if suffix in SUFFIXES:
                    found.append(prefix + name)
                else:
                    self._others[suffix] += 1
            on_folder(len(names))
        return sorted(found)

    def notes(self) -> list[str]:
        """Return a line for each reason to pass something over, with the number and some names."""
        notes = [
            f"passed over {len(paths):,} {reason}: {name_some(paths, 5)}" for reason, paths in self.passed_over.items()
        ]
        return notes + ([_note_of_others(self._others)] if self._others else [])


def _note_of_others(suffixes: Counter[str]) -> str:
    counted = [f"{suffix or 'no suffix'} ({count:,})" for suffix, count in suffixes.most_common()]
    raw = sorted(RAW_SUFFIXES & suffixes.keys())
    advice = f"; RAW files ({', '.join(raw)}) are not read, export them as JPEG" if raw else ""
    total = sum(suffixes.values())
    return f"passed over {total:,} files that are no images by their suffix: {name_some(counted)}{advice}"


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Return whether one of the patterns is that of a file or folder, regardless of case.

    Args:
        path: relative to the folder that is walked through.
        patterns: of its name, or with a slash of the whole path or of its end.
    """
    whole = path.replace(os.sep, "/").casefold()
    name = whole.rpartition("/")[2]
    if not _last_parts(tuple(patterns)).match(name):
        return False
    for pattern in patterns:
        wanted = pattern.casefold().strip("/")
        if fnmatchcase(name, wanted) or ("/" in wanted and fnmatchcase(f"/{whole}", f"*/{wanted}")):
            return True
    return False


@lru_cache(maxsize=16)
def _last_parts(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """Return one expression for the names that may match a pattern: nearly all files are done after one look."""
    wanted = (pattern.casefold().strip("/").rpartition("/")[2] for pattern in patterns)
    return re.compile("|".join(map(translate, dict.fromkeys(wanted))) or "(?!)")


def _identities_above(root: str) -> set[tuple[int, int]]:
    """Return device and number of all folders that hold ``root``."""
    found = set()
    for folder in Path(os.path.realpath(root)).parents:
        try:
            status = os.stat(folder)
        except OSError:
            continue
        found.add((status.st_dev, status.st_ino))
    return found
