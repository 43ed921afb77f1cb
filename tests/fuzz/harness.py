"""Mutated files for a reader, and the limits that reading them must keep.

A target is a reader with whole files to start from. Its seeds are either bytes, which are flipped, cut, repeated and
spliced, or trees of Python values, whose parts are dropped, repeated and replaced by odd ones before they are written
in the target's format: most mutations of bytes stop at a checksum, those of trees reach the code behind it.
"""

from __future__ import annotations

import hashlib
import math
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from src.data.images import BadImageError
from src.errors import UserError

FOUND = Path(__file__).with_name("found")  # inputs that failed once, by target; they are tried first
MAX_SECONDS = 2.0  # of the processor, so that a busy machine does not count
MAX_MEGABYTES = 500

# Numbers and texts that programs trip over
INTERESTING = (
    None, True, False, 0, 1, -1, 2, 255, 2**31 - 1, 2**31, -(2**31) - 1, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1,
    2**64, 10**30, 0.0, -0.0, 0.5, 1e-320, 1e308, math.nan, math.inf, -math.inf, "", " ", "0", "1", "-1", "nan", "a",
    "\0", "\n", "../x", "/", "\udcff", "\x1b[31m", "日本", "<b>", "x" * 3000, [], {}, [[]], [None], {"": None}, b"",
    b"\x80",
)  # fmt: skip
TOKENS = (
    b"", b"\0", b"\xff", b"\n", b"\r\n", b" ", b"\t", b",", b";", b'"', b"'", b"[", b"]", b"{", b"}", b"<", b">", b"&",
    b"=", b":", b"0", b"-1", b"1e999", b"NaN", b"Infinity", b"null", b"true", b"99999999999999999999",
    b"\xef\xbb\xbf", b"\xff\xfe", b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f", b"\x80", b"[" * 2000, b"(" * 200, b"A" * 4096, b"<a>" * 500, b"\xed\xa0\x80",
    "é".encode("latin-1"), "日本".encode(),
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A reader with files to start from.

    Attributes:
        name: of the target, and of its folder of found inputs.
        file_name: name of the file; readers look at suffixes.
        seeds: whole files: bytes, or trees of values for ``write``.
        read: reads a file, and whatever the program does with it at once.
        write: makes a file of a tree.
        errors: exceptions that say what is wrong with a file.
    """

    name: str
    file_name: str
    seeds: tuple[Any, ...]
    read: Callable[[Path], object]
    write: Callable[[Any], bytes] = bytes
    errors: tuple[type[Exception], ...] = field(default=(UserError, BadImageError))

    @property
    def found(self) -> list[Path]:
        """Inputs of this target that failed once."""
        return sorted((FOUND / self.name).glob("*"))

    def files(self) -> st.SearchStrategy[bytes]:
        """Return a strategy of mutated files."""
        return st.composite(self._draw)()

    def _draw(self, draw: Callable[[Any], Any]) -> bytes:
        seed = draw(st.sampled_from(self.seeds))
        if isinstance(seed, bytes):
            return mutate_bytes(draw, seed, self.seeds)
        for _ in range(draw(st.integers(1, 3))):
            seed = mutate_tree(draw, seed)
        try:
            content = self.write(seed)
        except Exception:  # noqa: BLE001 -- a tree that the format cannot hold
            content = self.write(self.seeds[0])
        return mutate_bytes(draw, content, ()) if draw(st.integers(0, 9)) == 0 else content

    def check(self, content: bytes, folder: Path) -> None:
        """Read a file; raise AssertionError for anything but success or the project's error within the limits."""
        path = folder / self.file_name
        path.write_bytes(content)
        memory, started = _peak_megabytes(), time.process_time()
        try:
            self.read(path)
        except self.errors as error:
            message = str(error)
            assert len(message) < 20_000, f"a message of {len(message)} characters"
            assert "weights_only" not in message, f"advice to load unsafely: {message[:300]}"
        except (Exception, SystemExit) as error:
            raise AssertionError(f"{type(error).__name__}: {str(error)[:300]}") from error
        seconds, megabytes = time.process_time() - started, _peak_megabytes() - memory
        assert seconds < MAX_SECONDS, f"{seconds:.1f} s"
        assert megabytes < MAX_MEGABYTES, f"{megabytes} MB"

    def keep(self, content: bytes) -> Path:
        """Keep a failing input for the tests."""
        path = FOUND / self.name / f"{hashlib.sha256(content).hexdigest()[:16]}{Path(self.file_name).suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path


def mutate_bytes(draw: Callable[[Any], Any], content: bytes, others: Sequence[Any]) -> bytes:
    """Make one to four edits: flip a bit, replace, insert, drop, repeat or splice a piece, or cut the end off."""
    result = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        first = draw(st.integers(0, len(result)))
        last = min(len(result), first + draw(st.sampled_from((0, 1, 1, 2, 4, 8, 64, 1024))))
        edit = draw(st.sampled_from(("flip", "token", "insert", "drop", "repeat", "splice", "cut", "number")))
        if edit == "flip" and first < len(result):
            result[first] ^= 1 << draw(st.integers(0, 7))
        elif edit == "token":
            result[first:last] = draw(st.sampled_from(TOKENS))
        elif edit == "insert":
            result[first:first] = draw(st.binary(max_size=8))
        elif edit == "drop":
            del result[first:last]
        elif edit == "repeat":
            result[first:first] = bytes(result[first:last]) * draw(st.sampled_from((1, 2, 100)))
        elif edit == "splice" and others:
            other = draw(st.sampled_from([one for one in others if isinstance(one, bytes)]))
            start = draw(st.integers(0, len(other)))
            result[first:last] = other[start : start + 64]
        elif edit == "cut":
            del result[first:]
        elif edit == "number":  # lengths and offsets of binary formats
            size = draw(st.sampled_from((1, 2, 4, 8)))
            value = draw(st.sampled_from((0, 1, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), 2 ** (8 * size - 1) - 1)))
            result[first : first + size] = value.to_bytes(size, draw(st.sampled_from(("little", "big"))))
    return bytes(result)


def mutate_tree(draw: Callable[[Any], Any], tree: Any) -> Any:
    """Change one place of a tree of dictionaries, lists, arrays and values; the tree itself stays."""
    if isinstance(tree, dict) and tree and draw(st.integers(0, 9)):
        key = draw(st.sampled_from(list(tree)))
        edit = draw(st.integers(0, 9))
        if edit == 0:
            return {name: value for name, value in tree.items() if name != key}
        if edit == 1:
            return {**tree, draw(st.sampled_from(("", "x", "../x", "\udcff", 1, None))): tree[key]}
        if edit == 2:
            return {(draw(_odd_keys()) if name == key else name): value for name, value in tree.items()}
        return {**tree, key: mutate_tree(draw, tree[key])}
    if isinstance(tree, (list, tuple)) and tree and draw(st.integers(0, 9)):
        place = draw(st.integers(0, len(tree) - 1))
        edit = draw(st.integers(0, 9))
        items = list(tree)
        if edit == 0:
            del items[place]
        elif edit == 1:
            items.insert(place, items[place])
        elif edit == 2:
            items.reverse()
        else:
            items[place] = mutate_tree(draw, items[place])
        return type(tree)(items) if type(tree) in (list, tuple) else items
    if isinstance(tree, torch.Tensor) and draw(st.booleans()):
        return _odd_tensor(draw, tree)
    if isinstance(tree, np.ndarray) and tree.dtype.kind in "biuf" and draw(st.booleans()):
        return _odd_tensor(draw, torch.from_numpy(tree.copy())).numpy()
    if isinstance(tree, str) and draw(st.booleans()):
        return draw(st.sampled_from((tree * 2, tree[:-1], tree.upper(), f" {tree}", f"../{tree}", tree + "\n")))
    return draw(_odd())


def _odd() -> st.SearchStrategy[Any]:
    return st.sampled_from(INTERESTING)


def _odd_keys() -> st.SearchStrategy[Any]:
    return st.sampled_from([value for value in INTERESTING if not isinstance(value, (list, dict))])


def _odd_tensor(draw: Callable[[Any], Any], tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of another shape, type or content."""
    changed = tensor.clone()
    edit = draw(st.integers(0, 6))
    if edit == 0 and changed.numel() and changed.is_floating_point():
        changed.view(-1)[0] = draw(st.sampled_from((math.nan, math.inf, 0.0, 1e38)))
    elif edit == 1:
        changed = changed.reshape(-1)
    elif edit == 2:
        changed = changed[..., :-1] if changed.ndim and changed.shape[-1] else changed[None]
    elif edit == 3:
        changed = changed.to(
            draw(st.sampled_from((torch.int64, torch.float16, torch.bool, torch.float64, torch.uint8)))
        )
    elif edit == 4:
        changed = changed[None]
    elif edit == 5:
        changed = torch.empty(0)
    return changed


def _peak_megabytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
