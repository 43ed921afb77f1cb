r"""Finding the images that annotations name among the files of an image folder.

Annotations come from other machines and tools: ``./a.jpg``, ``..\img\a.jpg``, ``C:\data\img\a.jpg``,
``https://host/img/a%20b.jpg``, ``train2017/a.jpg`` where there are no sub-folders. A name is compared with the files by
its exact text, then by the parts of its path from the end, where separators, case, Unicode form, surrounding blanks and
the ``e`` of ``.jpeg`` do not count. Only files below the image folder are ever found, whatever a name says.
"""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from src.errors import name_some

EXACT, SPELLING, PATH, NAME = "exact", "spelling", "path", "name"
# How a name was matched -> how the report says it.
_WAYS = {
    SPELLING: "by another spelling of their path",
    PATH: "by the end of their path",
    NAME: "by their base name alone, in another folder",
}


@dataclass
class FoundImages:
    """What became of the names.

    Attributes:
        place_of: name as listed -> file, relative to the image folder; names without an image are absent.
        way_of: name -> how it was matched: one of ``EXACT``, ``SPELLING``, ``PATH``, ``NAME``.
        doubtful: name -> why none of the files that it could mean was taken.
    """

    place_of: dict[str, str] = field(default_factory=dict)
    way_of: dict[str, str] = field(default_factory=dict)
    doubtful: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, file: str, way: str) -> None:
        """Record the file of a name."""
        self.place_of[name], self.way_of[name] = file, way

    def notes(self, names: Iterable[str], part: str) -> list[str]:
        """Describe how those of ``names`` were matched that are not in the image folder exactly so."""
        examples: dict[str, list[str]] = {way: [] for way in _WAYS}
        for name in names:
            way = self.way_of.get(name, EXACT)
            if way != EXACT:
                examples[way].append(name)
        return [
            f"{part}: found {len(found):,} images {_WAYS[way]} ({found[0]} is {self.place_of[found[0]]})"
            for way, found in examples.items()
            if found
        ]


class ImageNames:
    """The image files below a folder, to be found by the names that annotations give them.

    Attributes:
        searched: what is searched, for the message about images that are not there.
    """

    def __init__(self, files: Sequence[str], root: str | Path) -> None:
        """Index the files.

        Args:
            files: sorted, relative to ``root``, with ``/``.
            root: the image folder.
        """
        self._files = files
        self._exact = set(files)
        self.searched = searched(files, root)
        self._roots = {tidy(place(root)) + "/" for place in (os.path.abspath, os.path.realpath)}
        self._by_base: dict[str, list[str]] = {}  # made when the first name has no exact match

    def find(self, names: Iterable[str], *, copies: bool = False) -> FoundImages:
        """Find the images of these names; all of a data set at once, because no file is the image of two names.

        In order of precedence: the exact name; the same path in another spelling; the longest common end of both
        paths, first where one contains the other, then the base name alone. A name is in doubt, and not matched, where
        several files are equally near, or where several names are nearest to one file and none is its very path.

        Args:
            names: as listed; repeated ones count once.
            copies: base names are unique over the data set, so that several files of a name are copies of one image:
                the first is taken, and nothing is in doubt.
        """
        found = FoundImages()
        rest: list[str] = []
        for name in dict.fromkeys(names):
            if name in self._exact:
                found.add(name, name, EXACT)
            else:
                rest.append(name)
        if rest and not self._by_base:
            for file in self._files:
                self._by_base.setdefault(_fold(file.rpartition("/")[2]), []).append(file)
        taken = set(found.place_of)  # files whose very path is listed
        claims: dict[str, str] = {}  # file -> tidied name that is nearest to it
        contested: set[str] = set()
        for name in rest:
            files = self._by_base.get(_fold(name), [])
            if len(files) == 1 and files[0].endswith(f"/{name}"):  # most are just names: millions, in Open Images
                path, way = name, PATH
            else:
                path, candidates = self._candidates(name)
                if not candidates:
                    continue
                files, way = _nearest(path, candidates)
            if len(files) > 1 and not copies:
                found.doubtful[name] = f"{' or '.join(files[:2])}{' or others' if len(files) > 2 else ''}"
                continue
            found.add(name, files[0], way)
            if path == files[0]:
                taken.add(path)
            elif claims.setdefault(files[0], path) != path:
                contested.add(files[0])
        if not copies:
            self._give_up(found, contested | (claims.keys() & taken))
        return found

    def _give_up(self, found: FoundImages, contested: Collection[str]) -> None:
        """Give files that several names claim to those of their very path, or to none."""
        claims: dict[str, list[str]] = {file: [] for file in contested}
        for name, file in found.place_of.items():
            if file in contested:
                claims[file].append(name)
        for file, names in claims.items():
            for name in names:
                if name != file and self._candidates(name)[0] != file:
                    del found.place_of[name], found.way_of[name]
                    rivals = [rival for rival in names if rival != name]
                    found.doubtful[name] = f"{file}, which could as well be that of {name_some(rivals, 2)}"

    def _candidates(self, name: str) -> tuple[str, list[str]]:
        """Return the tidied name and the files of its base name; URL escapes count where it has none as it stands."""
        path = self._below_root(tidy(name))
        files = self._by_base.get(_fold(path.rpartition("/")[2]), [])
        if not files and "%" in path:
            path = self._below_root(tidy(unquote(path)))
            files = self._by_base.get(_fold(path.rpartition("/")[2]), [])
        return path, files

    def _below_root(self, path: str) -> str:
        return next((path[len(root) :] for root in self._roots if path.startswith(root)), path)


def searched(files: Sequence[str], root: str | Path) -> str:
    """Say what was searched, for the message about images that are not there."""
    if not files:
        return f"there is no image file below {root}"
    return f"searched {len(files):,} image files below {root}, such as {' and '.join(files[:2])}"


def tidy(name: str) -> str:
    """Return a path or URL with ``/`` only, relative, and without ``.``, ``..``, a query, and surrounding blanks."""
    path = name.strip()
    if "://" in path:
        path = path.partition("?")[0].partition("#")[0]
    path = path.replace("\\", "/").lstrip("/")
    return posixpath.normpath("/" + path)[1:]


def _fold(text: str) -> str:
    """Return a form that does not depend on case, Unicode composition (macOS decomposes accents) and ``.jpeg``."""
    folded = text.lower() if text.isascii() else unicodedata.normalize("NFC", text).casefold()
    return f"{folded[:-5]}.jpg" if folded.endswith(".jpeg") else folded


def _nearest(path: str, candidates: Sequence[str]) -> tuple[list[str], str]:
    """Return those of several files with the base name of ``path`` that have most of its end, and how they match."""
    wanted = _fold(path).split("/")[::-1]
    whole: list[str] = []  # files that have the very path
    common: list[int] = []
    contained: list[bool] = []  # one path is the end of the other
    for file in candidates:
        parts = _fold(file).split("/")[::-1]
        shorter = min(len(parts), len(wanted))
        equal = next((at for at in range(shorter) if parts[at] != wanted[at]), shorter)
        common.append(equal)
        contained.append(equal == shorter)
        if parts == wanted:
            whole.append(file)
    if whole:
        return [path] if path in whole else whole, SPELLING
    longest = max(common)
    best = [at for at, length in enumerate(common) if length == longest]
    best = [at for at in best if contained[at]] or best
    ending = path.split("/")[-longest:]
    best = [at for at in best if candidates[at].split("/")[-longest:] == ending] or best
    way = PATH if longest > 1 or contained[best[0]] else NAME
    if not contained[best[0]]:  # a shorter path that contradicts nothing is as near
        best += [at for at in range(len(candidates)) if contained[at]]
    return [candidates[at] for at in best], way
