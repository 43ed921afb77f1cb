"""Expand ``--pic_path``: files, folders, patterns, and lists in files or on standard input."""

from __future__ import annotations

import codecs
import glob
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TextIO, TypeVar

from src.data.folders import EXCLUDED_FOLDERS, FolderWalk, matches
from src.data.image_formats import SUFFIXES
from src.errors import UserError

_FLAG = "--pic_path"
_Path = TypeVar("_Path", str, Path)


def expand(
    arguments: Sequence[str],
    stdin: TextIO,
    *,
    exclude: Sequence[str] = (),
    default_exclude: Sequence[str] = EXCLUDED_FOLDERS,
    made: Collection[str] = (),
    notes: list[str] | None = None,
) -> list[Path]:
    """Return the images that the values of ``--pic_path`` name, in the order of the values, each once.

    The first of these rules that applies decides:

    - ``-``: a list on standard input (a file of that name is ``./-``);
    - a folder: all images below it, sorted by path, without hidden and excluded ones;
    - a file that exists, even with ``*`` or ``@`` in its name: a list if it is a ``.txt`` file, else itself;
    - ``@`` and the path of a file of any kind: a list;
    - a value with ``*``, ``?`` or ``[``: the files that match, sorted; ``**`` stands for folders at any depth, and
      hidden files match only a part that begins with a dot;
    - anything else: an image that does not exist, or an error if it would be a ``.txt`` file.

    A list holds one path per line, relative to the working folder and taken literally (``#`` starts no comment): UTF-8,
    with or without a byte-order mark, blank lines and Windows line ends allowed. A list that holds NUL characters, as
    from ``find -print0``, is split at these only.

    Args:
        arguments: the values.
        stdin: read as bytes through its ``buffer``, and only for ``-``.
        exclude: patterns of files and folders to leave out, below folders, of patterns and in lists; see
            :func:`src.data.folders.matches`.
        default_exclude: more of them, which do not apply to lists.
        made: files, without links (``os.path.realpath``), that are passed over in folders and patterns: earlier runs
            made them of images.
        notes: receives a line for each folder and reason to pass something over.

    Returns:
        The paths. They include files that do not exist, unless that is the only value, and subfolders that cannot be
        listed: reading reports both.

    Raises:
        UserError: the only value is no file, a folder holds no image, a pattern matches none, a list cannot be read
            or is empty, or ``-`` is given twice.
    """
    if list(arguments).count("-") > 1:
        raise UserError(f"{_FLAG} -: standard input can be read once; give - once")
    finder = _Finder(exclude, default_exclude, made)
    paths: dict[str, Path] = {}
    here = os.getcwd()
    for argument in arguments:
        for path in map(Path, finder.expand(argument, stdin, alone=len(arguments) == 1)):
            paths.setdefault(os.path.join(here, path), path)
    if notes is not None:
        notes += finder.notes
    return list(paths.values())


class _Finder:
    """Expands values; ``notes`` tells what is passed over."""

    def __init__(self, exclude: Sequence[str], default_exclude: Sequence[str], made: Collection[str]) -> None:
        self.notes: list[str] = []
        self._made = made
        self._exclude, self._exclude_below = exclude, [*exclude, *default_exclude]

    def expand(self, argument: str, stdin: TextIO, *, alone: bool) -> Iterable[str | Path]:
        if argument == "-":
            return self._of_list(_listed(stdin.buffer.read(), "-"), "-")
        if os.path.isdir(argument):
            return self._below(argument)
        is_list = argument.lower().endswith(".txt")
        if os.path.exists(argument):
            if is_list:
                return self._of_list(_listed(_read_list(argument, argument), argument), argument)
            return [argument]
        if argument.startswith("@"):
            return self._of_list(_listed(_read_list(argument[1:], argument), argument), argument)
        if glob.has_magic(argument):
            return self._matching(argument)
        if is_list:
            raise UserError(f"{_FLAG} {argument}: no such list; give a text file with one image path per line")
        if alone:
            raise UserError(f"{_FLAG} {argument}: no such file; give the path of an image")
        return [argument]

    def _below(self, root: str) -> list[str]:
        """Return all image files below ``root``, sorted; see :class:`FolderWalk`."""
        walk = FolderWalk(root, self._exclude_below)
        found = [os.path.join(root, name) for name in (*walk.images(), *walk.unreadable)]  # reading reports the latter
        notes = walk.notes()
        self.notes += [f"{root}: {note}" for note in notes]
        found = self._not_made(root, found)
        if not found:
            raise UserError(
                f"{_FLAG} {root}: no image in this folder or below it; give a folder that holds "
                f"{', '.join(sorted(SUFFIXES))} files{''.join(f' ({note})' for note in notes)}"
            )
        return sorted(found)

    def _matching(self, pattern: str) -> list[str]:
        """Return the files that a pattern matches, sorted by path; hidden ones need a part that begins with a dot."""
        first, found = _matching(pattern)
        kept = [path for path in found if not _is_excluded(path.parts[first:], self._exclude_below)]
        self._note_excluded(pattern, len(found) - len(kept))
        kept = self._not_made(pattern, kept)
        if not kept:
            raise UserError(f"{_FLAG} {pattern}: no file matches this pattern; check it, or give a folder or files")
        return sorted(map(str, kept))

    def _of_list(self, paths: list[str], value: str) -> list[str]:
        kept = [path for path in paths if not _is_excluded(Path(path).parts, self._exclude)]
        self._note_excluded(value, len(paths) - len(kept))
        return kept

    def _not_made(self, value: str, paths: list[_Path]) -> list[_Path]:
        kept = [path for path in paths if os.path.realpath(path) not in self._made] if self._made else paths
        if len(kept) < len(paths):
            self.notes.append(
                f"{value}: passed over {len(paths) - len(kept):,} files that an earlier run made of images"
            )
        return kept

    def _note_excluded(self, value: str, count: int) -> None:
        if count:
            self.notes.append(f"{value}: passed over {count:,} excluded files")


def _is_excluded(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    """Return whether a pattern matches a file or a folder above it."""
    return any(matches("/".join(parts[: end + 1]), patterns) for end in range(len(parts)))


def _matching(pattern: str) -> tuple[int, list[Path]]:
    """Return the number of parts before the first one with a wildcard, and the files that match."""
    parts = Path(pattern).parts
    first = next(place for place, part in enumerate(parts) if glob.has_magic(part))
    root, rest = Path(*parts[:first]), list(parts[first:])
    if rest[-1] == "**":
        rest.append("*")  # Python versions differ in whether ** alone matches files
    hidden = any(part.startswith(".") for part in rest)
    try:
        # Unlike glob.glob, pathlib's ** does not follow links, which may form a circle
        matched = [path for path in root.glob("/".join(rest)) if not path.is_dir()]
    except (ValueError, OSError) as error:
        raise UserError(f"{_FLAG} {pattern}: {error}; write ** between slashes only") from error
    return first, [path for path in matched if hidden or not any(part.startswith(".") for part in path.parts[first:])]


def _read_list(path: str, value: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(
            f"{_FLAG} {value}: the list cannot be read: {error.strerror or error}; give a text file with one image "
            "path per line"
        ) from error


def _listed(content: bytes, value: str) -> list[str]:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"{_FLAG} {value}: the list is UTF-16 text; save it as UTF-8")
    content = content.removeprefix(codecs.BOM_UTF8)
    if b"\0" in content:
        lines = content.split(b"\0")
    else:
        lines = [line for line in content.replace(b"\r\n", b"\n").split(b"\n") if line.strip()]
    paths = [os.fsdecode(line) for line in lines if line]
    if not paths:
        raise UserError(f"{_FLAG} {value}: the list holds no path; write one image path per line")
    return paths
