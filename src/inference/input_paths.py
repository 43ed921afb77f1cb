"""Which images ``--pic_path`` means: files, folders, patterns, and lists in files or on standard input."""

from __future__ import annotations

import glob
import heapq
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TextIO

from src.data.images import SUFFIXES
from src.errors import UserError

_FLAG = "--pic_path"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def expand(arguments: Sequence[str], stdin: TextIO) -> list[Path]:
    """The images that the values of ``--pic_path`` mean, in the order of the values, each once.

    A value is, by the first of these rules that fits:

    - ``-``: a list on standard input (a file of that name is ``./-``);
    - a folder: all images below it, sorted by path; see :func:`_images_below`;
    - a file that exists, even with ``*`` or ``@`` in its name: a list if it is a ``.txt`` file, else itself;
    - ``@`` and the path of a file of any kind: a list;
    - a value with ``*``, ``?`` or ``[``: the files that the pattern matches, sorted; ``**`` stands for folders at any
      depth; hidden ones match only a part of the pattern that begins with a dot itself;
    - anything else: an image that does not exist, or an error if it would be a ``.txt`` file.

    A list holds one path a line, relative to the working folder and taken literally: UTF-8 with or without a byte-order
    mark, blank lines left out, Windows line ends allowed. ``#`` begins no comment, since a file's name may begin with
    it. A list that holds NUL characters, as of ``find -print0``, is split there and nowhere else.

    Args:
        arguments: the values.
        stdin: read as bytes through its ``buffer``, and only for ``-``.

    Returns:
        The paths. Files that do not exist are among them, unless the only value names one, and so are folders below
        the named ones that cannot be listed: reading will report both.

    Raises:
        UserError: the only value names no file; a folder holds no image; a pattern matches none; a list cannot be
            read or is empty; ``-`` is given twice.
    """
    if list(arguments).count("-") > 1:
        raise UserError(f"{_FLAG} -: standard input can be read once; give - once")
    paths: dict[str, Path] = {}
    here = os.getcwd()
    for argument in arguments:
        for path in map(Path, _expand_one(argument, stdin, alone=len(arguments) == 1)):
            paths.setdefault(os.path.join(here, path), path)
    return list(paths.values())


def _expand_one(argument: str, stdin: TextIO, *, alone: bool) -> Iterable[str | Path]:
    if argument == "-":
        return _listed(stdin.buffer.read(), "-")
    if os.path.isdir(argument):
        return _images_below(argument)
    is_list = argument.lower().endswith(".txt")
    if os.path.exists(argument):
        return _listed(_read_list(argument, argument), argument) if is_list else [argument]
    if argument.startswith("@"):
        return _listed(_read_list(argument[1:], argument), argument)
    if glob.has_magic(argument):
        return _matching(argument)
    if is_list:
        raise UserError(f"{_FLAG} {argument}: no such list; give a text file of one image's path a line")
    if alone:
        raise UserError(f"{_FLAG} {argument}: no such file; give an image's path")
    return [argument]


def _images_below(root: str) -> list[str]:
    """All image files below ``root`` by their suffix in either case, sorted; hidden files and folders left out.

    Links to folders are followed, but every folder is entered once, by the way without links if there is one: links in
    a circle end, and no image comes twice.
    """
    found: list[str] = []
    entered: set[tuple[int, int]] = set()
    folders = [root]
    links: list[str] = []  # a heap, so that their order is the same on every file system
    while folders or links:
        folder = folders.pop() if folders else heapq.heappop(links)
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.is_symlink() and os.path.isdir(entry.path):
                        heapq.heappush(links, entry.path)
                    elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
                        found.append(entry.path)
        except OSError as error:
            if folder == root:
                raise UserError(
                    f"{_FLAG} {root}: cannot be listed: {error.strerror or error}; give a folder that you may read"
                ) from error
            found.append(folder)
    if not found:
        raise UserError(
            f"{_FLAG} {root}: no image in this folder or below it; give a folder that holds "
            f"{', '.join(sorted(SUFFIXES))} files"
        )
    return sorted(found)


def _matching(pattern: str) -> list[Path]:
    parts = Path(pattern).parts
    first = next(place for place, part in enumerate(parts) if glob.has_magic(part))
    root, rest = Path(*parts[:first]), list(parts[first:])
    if rest[-1] == "**":
        rest.append("*")  # Python versions differ in whether ** alone means files
    hidden = any(part.startswith(".") for part in rest)
    try:
        # pathlib's ** does not walk through links, so that links in a circle end
        found = [
            path
            for path in root.glob("/".join(rest))
            if (hidden or not any(part.startswith(".") for part in path.parts[first:])) and not path.is_dir()
        ]
    except ValueError as error:
        raise UserError(
            f"{_FLAG} {pattern}: is no file, and as a pattern: {error}; write ** between slashes only"
        ) from error
    if not found:
        raise UserError(f"{_FLAG} {pattern}: no file matches this pattern; check it, or give a folder or files")
    return sorted(found, key=str)


def _read_list(path: str, value: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(
            f"{_FLAG} {value}: the list cannot be read: {error.strerror or error}; give a text file of one image's "
            "path a line"
        ) from error


def _listed(content: bytes, value: str) -> list[str]:
    if content.startswith(_UTF16_MARKS):
        raise UserError(f"{_FLAG} {value}: the list is UTF-16 text; save it as UTF-8")
    content = content.removeprefix(b"\xef\xbb\xbf")
    if b"\0" in content:
        lines = content.split(b"\0")
    else:
        lines = [line for line in content.replace(b"\r\n", b"\n").split(b"\n") if line.strip()]
    # Names on disk need not be UTF-8: bytes that are not pass through as Python passes them everywhere
    paths = [line.decode("utf-8", "surrogateescape") for line in lines if line]
    if not paths:
        raise UserError(f"{_FLAG} {value}: the list holds no path; write one image's path a line")
    return paths
