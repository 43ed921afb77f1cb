"""Read and write files; writing goes to a temporary name, is flushed to disk and renamed over the target."""

from __future__ import annotations

import codecs
import errno
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from src.errors import UserError
from src.text import printable_json, text_options
from src.utils.streams import is_stream, write_through
from src.utils.temporary import sweep_temporary, temporary_file

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
_MAX_TEXT = 256 << 20  # bytes of a text file that is read at once; a device may have no end
_noted: list[tuple[Path, Callable[[Path, Path], None]]] = []  # place -> what is told of files that will appear there


@contextmanager
def atomic_write(path: str | Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file that replaces ``path`` if the block ends without an exception.

    A killed or failed run leaves the previous file untouched; :func:`src.utils.temporary.sweep_temporary` removes the
    temporary file. A file keeps its mode. A link stays, and the file that it points to is replaced. A device, a FIFO
    or an open file such as ``/dev/stdout`` is written to when the block ends.

    Args:
        path: the file to write; its folder is created if missing.
        mode: ``"wb"`` or ``"w"`` (UTF-8).

    Raises:
        UserError: the folder cannot be created or written to, the disk is full, or ``path`` is a folder.
    """
    path = Path(path)
    write = write_through if is_stream(path) else _write_and_rename
    try:
        with write(path, mode) as stream:
            yield stream
    except BaseException as error:
        # torch.save raises a RuntimeError of its own from an OSError of the stream
        failure = error.__context__ if isinstance(error, RuntimeError) else error
        # A broken pipe is that of the standard output, to which the block may print
        if isinstance(failure, OSError) and not isinstance(failure, BrokenPipeError):
            raise UserError(f"cannot write {path}: {failure.strerror or failure}") from error
        raise


@contextmanager
def _write_and_rename(path: Path, mode: str) -> Iterator[IO[Any]]:
    target = Path(os.path.realpath(path))
    with ExitStack() as stack:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = stack.enter_context(temporary_file(target.parent))
        except OSError as error:
            raise UserError(
                f"cannot write {path}: {error.strerror or error}; choose an output folder that is writable"
            ) from error
        with os.fdopen(descriptor, mode, **text_options(mode)) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        _give_mode(temporary, target)
        for place, note in list(_noted):
            if place == target or place in target.parents:
                note(Path(temporary), target)
        os.replace(temporary, target)


@contextmanager
def noting(place: Path, note: Callable[[Path, Path], None]) -> Iterator[None]:
    """Call ``note(temporary, target)`` before :func:`atomic_write` renames anything to a place; see the manifest.

    Args:
        place: a file, or a folder with all files below it; without links (``os.path.realpath``).
        note: called with the finished temporary file, and the file that it will replace.
    """
    entry = (place, note)
    _noted.append(entry)
    try:
        yield
    finally:
        _noted.remove(entry)


def check_writable(path: str | Path, flag: str) -> None:
    """Check before a long run that ``path``, the value of ``flag``, can be written; an existing file stays as it is.

    Temporary files that killed runs left in its folder are removed.

    Raises:
        UserError: it is a folder or read-only, or its folder cannot be created or written to.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{flag} {path}: is a folder; give the path of a file")
    try:
        if os.path.exists(path) and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if os.path.islink(os.path.realpath(path)):  # a circle of links
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if not is_stream(path):
            folder = Path(os.path.realpath(path)).parent
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                sweep_temporary(folder)
    except OSError as error:
        raise UserError(f"{flag} {path}: cannot be written: {error.strerror or error}; choose another place") from error


def check_folder(folder: str | Path, flag: str) -> None:
    """Check before a long run that files can be written to a folder, the value of ``flag``, which may be missing yet.

    Raises:
        UserError: it is a file, or it or the folder that it would be made in cannot be written to.
    """
    nearest = Path(os.path.realpath(folder))
    try:
        while not os.path.lexists(nearest):
            nearest = nearest.parent
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise UserError(
            f"{flag} {folder}: cannot be written to: {error.strerror or error}; choose an output folder that is "
            "writable"
        ) from error


def full_disk(error: BaseException | None) -> str | None:
    """Return the system's message if an error came of a disk that takes no more, also through other errors; or None."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return error.strerror
        error = error.__cause__ or error.__context__
    return None


def refuse_inputs(outputs: Mapping[str, Path], inputs: Iterable[tuple[str, Path]]) -> None:
    """Check before any work that no output takes the place of an input or of another output.

    Links and hard links are resolved. Devices may be given several times.

    Args:
        outputs: flag -> the file to write.
        inputs: (flag, file that is read). A folder stands for all files in it and below.

    Raises:
        UserError: one would; the message names both flags.
    """
    taken: dict[object, str] = {}
    for name, path in outputs.items():
        if not _is_character_device(path) and (other := taken.setdefault(_identity(path), name)) != name:
            raise UserError(f"{other} and {name} {path}: the same file; give each its own")
    for flag, source in inputs:
        if os.path.isdir(source):
            within = [name for name, path in outputs.items() if _is_below(path, source)]
        else:
            within = [taken[_identity(source)]] if _identity(source) in taken else []
        if within:
            raise UserError(f"{within[0]} {outputs[within[0]]}: would overwrite {flag} {source}; choose another file")


def _is_below(path: Path, folder: Path) -> bool:
    """Return whether a file that exists lies in a folder or below it."""
    return path.is_file() and Path(os.path.realpath(folder)) in Path(os.path.realpath(path)).parents


def _identity(path: Path) -> object:
    """Return a value that two paths share if they are one file, which need not exist yet."""
    with suppress(OSError):
        facts = os.stat(path)
        return facts.st_dev, facts.st_ino
    return os.path.normcase(os.path.realpath(path))


def _is_character_device(path: Path) -> bool:
    with suppress(OSError):
        return stat.S_ISCHR(os.stat(path).st_mode)
    return False


def _give_mode(temporary: str, target: Path) -> None:
    """Give a temporary file the mode of the file that it replaces, or else the usual one."""
    try:
        os.chmod(temporary, stat.S_IMODE(os.stat(target).st_mode))
    except FileNotFoundError:
        mask = os.umask(0)  # the only way to read it
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)


def write_json(path: str | Path, value: object) -> None:
    """Write ``value`` as indented UTF-8 JSON, atomically.

    Raises:
        ValueError: it contains NaN or infinity, which JSON does not have.
        UserError: the file cannot be written.
    """
    with atomic_write(path, "w") as stream:
        stream.write(printable_json(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)) + "\n")


def read_text(path: str | Path, flag: str) -> str:
    """Read a UTF-8 text file, or UTF-16 with a byte-order mark (Excel's Unicode text); the mark is left out.

    Raises:
        UserError: the file cannot be read or is neither; the message begins with ``flag``.
    """
    try:
        with open(path, "rb") as stream:
            content = stream.read(_MAX_TEXT + 1)
    except OSError as error:
        raise UserError(f"{flag} {path}: cannot be read: {error.strerror or error}") from error
    if len(content) > _MAX_TEXT:
        raise UserError(f"{flag} {path}: has more than {_MAX_TEXT:,} bytes; is it the right file?")
    try:
        is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{flag} {path}, line {line}: not UTF-8 text; save the file as UTF-8 (in Excel: CSV UTF-8)"
        ) from error


def read_lines(path: str | Path, flag: str) -> list[str]:
    """Read the stripped lines of a UTF-8 text file, without blank lines at the end.

    Raises:
        UserError: as :func:`read_text`.
    """
    text = read_text(path, flag)
    return [line.strip() for line in text.rstrip().split("\n")] if text.strip() else []
