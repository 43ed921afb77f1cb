"""Tags in tables: several in a cell, with white space, and in more than one spelling."""

from __future__ import annotations

import ast
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain

import msgspec
import numpy as np
import torch
from torch import Tensor

from src.errors import UserError, name_some
from src.prepare.table_files import Cell

SEPARATORS = (";", "|", ",")
# Lists as NumPy prints them: Python would read them as one long text.
_NO_COMMA = re.compile(r"""['"]\s+['"]""")


@dataclass(frozen=True)
class Tagging:
    """Tags of images.

    Attributes:
        labels: C tags, in alphabetical order regardless of case.
        rows, columns: [K] int64, the images and their tags, none twice.
        notes: repairs for the report, one line each.
    """

    labels: list[str]
    rows: Tensor
    columns: Tensor
    notes: list[str]


def split_cells(
    cells: Sequence[Cell], separator: str, place: Callable[[int], str]
) -> tuple[list[list[str]], list[str]]:
    """Split each cell into tags; return lines for the report too.

    Lists are kept. A cell in square brackets is a list in JSON or Python syntax. Any other text is split at the
    separator, with or without a blank after it.

    Args:
        cells: lists or text.
        separator: between tags; ``none`` takes a cell as one tag, and ``auto`` chooses the one of :data:`SEPARATORS`
            that most cells have.
        place: index of a cell -> its place, to begin a message with.

    Raises:
        UserError: a cell in square brackets is no list of texts, or the separator is empty.
    """
    if not separator:
        raise UserError("--tag-separator: is empty; give what stands between the tags of a cell, auto, or none")
    tags: list[list[str]] = []
    texts: dict[int, str] = {}
    for row, cell in enumerate(cells):
        text = cell.strip() if isinstance(cell, str) else ""
        if text.startswith("[") and text.endswith("]"):
            tags.append(_parse_list(text, place, row))
        elif isinstance(cell, str):
            tags.append([cell] if text else [])
            if text:
                texts[row] = text
        else:
            tags.append(cell)
    notes: list[str] = []
    if separator == "auto":
        counts = {mark: sum(mark in text for text in texts.values()) for mark in SEPARATORS}
        separator = max(SEPARATORS, key=counts.__getitem__)
        if counts[separator] == 0:
            return tags, notes
        counted = " and ".join(f"{mark!r} in {count:,}" for mark, count in counts.items() if count)
        notes.append(f"tags in a cell are split at {separator!r} (of {len(texts):,} cells, {counted})")
    if separator != "none":
        for row, text in texts.items():
            tags[row] = text.replace(f"{separator} ", separator).split(separator)
    return tags, notes


def _parse_list(text: str, place: Callable[[int], str], row: int) -> list[str]:
    value = None
    with suppress(ValueError, SyntaxError, MemoryError, RecursionError):  # ValueError includes msgspec's
        try:
            value = msgspec.json.decode(text)
        except msgspec.DecodeError:
            value = None if _NO_COMMA.search(text) else ast.literal_eval(text)
    if not (isinstance(value, list) and all(isinstance(tag, str) for tag in value)):
        raise UserError(
            f'{place(row)}: the tags {text[:80]} are in square brackets, but no list such as ["cat", "hot dog"]'
        )
    return value


def same_tag_key(tag: str) -> str:
    """Return a key that is equal for two spellings of a tag, which may differ in case, blanks, ``_`` and ``-``."""
    return " ".join(re.split(r"[\s_-]+", unicodedata.normalize("NFC", tag).casefold())).strip()


def join_tags(tags: Sequence[Sequence[str]], images: Sequence[int]) -> Tagging:
    """Collect the tags of images, each in its most frequent spelling (ties: lower case first, then blanks).

    Args:
        tags: tags of each row of a table.
        images: index of the image of each row; several rows may share one.
    """
    uses: Counter[str] = Counter()  # of each text as written
    images_of: dict[str, set[int]] = defaultdict(set)  # of each spelling without superfluous white space
    for row, image in zip(tags, images, strict=True):
        uses.update(row)
        for text in row:
            images_of[" ".join(text.split())].add(image)
    spellings_of: dict[str, list[str]] = defaultdict(list)  # of each tag, the most frequent first
    for name in sorted(images_of, key=lambda name: (-len(images_of[name]), name.swapcase(), name)):
        if key := same_tag_key(name):
            spellings_of[key].append(name)
    groups = [spellings_of[key] for key in sorted(spellings_of)]
    tagged = [sorted(set().union(*(images_of[name] for name in names))) for names in groups]
    rows = np.fromiter(chain.from_iterable(tagged), dtype=np.int64)
    columns = np.repeat(np.arange(len(groups)), [len(of_tag) for of_tag in tagged])
    notes = _repairs(uses, groups, num_entries=len(rows))
    return Tagging([names[0] for names in groups], torch.from_numpy(rows), torch.from_numpy(columns), notes)


def _repairs(uses: Mapping[str, int], groups: Sequence[Sequence[str]], num_entries: int) -> list[str]:
    """Report white space, empty tags, merged spellings and repeated tags of an image."""
    notes = []
    empty = [text for text in uses if not same_tag_key(text)]
    blank = [text for text in uses if text != " ".join(text.split()) and same_tag_key(text)]
    for texts, done, what in ((blank, "removed white space of", "tags"), (empty, "left out", "empty tags")):
        if texts:
            count = sum(uses[text] for text in texts)
            notes.append(f"{done} {count:,} {what}: {name_some(list(map(repr, texts)), 3)}")
    merged = [f"{first} (also {', '.join(others)})" for first, *others in groups if others]
    num_repeated = sum(uses.values()) - sum(uses[text] for text in empty) - num_entries
    if merged:
        notes.append(f"merged {len(merged):,} tags that differ only in case, blanks, - or _: {name_some(merged, 20)}")
    if num_repeated:
        notes.append(f"{num_repeated:,} times an image had the same tag again, which counts once")
    return notes
