"""Tags in tables: several in a cell, with white space, and in more than one spelling."""

from __future__ import annotations

import ast
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
    """Split each cell into tags.

    A cell in square brackets is a list in JSON or Python syntax. Any other text is split at the separator, with or
    without a blank after it.

    Args:
        cells: lists, which are kept, or text.
        separator: between tags; ``none`` takes a cell as one tag, and ``auto`` chooses the one of :data:`SEPARATORS`
            that most cells have.
        place: index of a cell -> its place, to begin a message with.

    Returns:
        The tags of each cell, and lines for the report.

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
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        try:
            value = None if _NO_COMMA.search(text) else ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            value = None
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
    number_of: dict[str, int] = {}
    numbers = [number_of.setdefault(tag, len(number_of)) for row in tags for tag in row]
    written = np.array(numbers, dtype=np.int64)  # [K] index of each text
    image = np.repeat(np.array(images, dtype=np.int64), [len(row) for row in tags])
    texts = list(number_of)
    uses = np.bincount(written, minlength=len(texts))

    tidy = [" ".join(text.split()) for text in texts]
    keys = [same_tag_key(text) for text in texts]
    spellings = sorted(set(tidy), key=lambda name: (name.swapcase(), name))
    groups = sorted({key for key in keys if key})
    spelling_of = _numbered(spellings, tidy)[written]
    group_of = _numbered(groups, keys)[written]
    named = group_of >= 0
    image, spelling_of, group_of = image[named], spelling_of[named], group_of[named]

    pairs = np.unique(image * len(spellings) + spelling_of) % max(len(spellings), 1)
    frequency = np.bincount(pairs, minlength=len(spellings))
    variants: dict[str, list[str]] = {key: [] for key in groups}
    for column in np.argsort(-frequency, kind="stable").tolist():
        if key := same_tag_key(spellings[column]):
            variants[key].append(spellings[column])
    order = sorted(range(len(groups)), key=lambda group: (groups[group], variants[groups[group]][0]))
    labels = [variants[groups[group]][0] for group in order]
    column_of = np.empty(len(groups), dtype=np.int64)
    column_of[order] = np.arange(len(groups))

    entries = np.unique(image * len(groups) + column_of[group_of])
    notes = _repairs(texts, tidy, keys, uses, len(group_of) - len(entries), list(variants.values()))
    rows, columns = np.divmod(entries, max(len(groups), 1))
    return Tagging(labels, torch.from_numpy(rows), torch.from_numpy(columns), notes)


def _numbered(names: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """Return the index in ``names`` of each wanted name, or -1."""
    number_of = {name: number for number, name in enumerate(names)}
    return np.array([number_of.get(name, -1) for name in wanted], dtype=np.int64)


def _repairs(
    texts: Sequence[str],
    tidy: Sequence[str],
    keys: Sequence[str],
    uses: np.ndarray,
    num_repeated: int,
    variants: Sequence[Sequence[str]],
) -> list[str]:
    notes = []
    blank = [number for number, key in enumerate(keys) if key and texts[number] != tidy[number]]
    empty = [number for number, key in enumerate(keys) if not key]
    joined = [f"{first} (also {', '.join(others)})" for first, *others in variants if others]
    if blank:
        shown = name_some([repr(texts[number]) for number in blank], 3)
        notes.append(f"removed white space of {uses[blank].sum():,} tags: {shown}")
    if empty:
        shown = name_some([repr(texts[number]) for number in empty], 3)
        notes.append(f"left out {uses[empty].sum():,} empty tags: {shown}")
    if joined:
        notes.append(f"merged {len(joined):,} tags that differ only in case, blanks, - or _: {name_some(joined, 20)}")
    if num_repeated:
        notes.append(f"{num_repeated:,} times an image had the same tag again, which counts once")
    return notes
