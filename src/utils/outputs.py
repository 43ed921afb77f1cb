"""Single files that a run writes, checked before any work: nothing of the user's is replaced by accident.

A run records what it writes in ``.sdl-outputs.jsonl`` beside it, a manifest. An existing file is replaced only if it
is of the right kind and has the content that was recorded: a file that the user edited since is the user's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from src.errors import UserError
from src.utils.files import check_writable, noting, refuse_inputs
from src.utils.manifest import Manifest, digest_of
from src.utils.streams import is_stream

NAME = ".sdl-outputs.jsonl"


class Output(NamedTuple):
    """A file to write.

    Attributes:
        path: may be a device, a FIFO or a link.
        is_own: says of an existing file whether it is of the kind that this program writes here; may raise anything.
        grows: the file is appended to, so that its kind alone is checked.
    """

    path: Path
    is_own: Callable[[Path], bool]
    grows: bool = False


def check_outputs(outputs: Mapping[str, Output], inputs: Iterable[tuple[str, Path]], *, overwrite: bool) -> None:
    """Check that outputs can be written, and replace neither an input nor anything that this program did not write.

    Temporary files that killed runs left beside them are removed.

    Args:
        outputs: flag -> output.
        inputs: (flag, file or folder that is read). In a folder, only own outputs are replaced.
        overwrite: ``--overwrite`` is given: files that are no inputs may be replaced, whoever wrote them.

    Raises:
        UserError: one cannot be written, or would replace something; the message begins with its flag.
    """
    paths = {flag: output.path for flag, output in outputs.items()}
    for flag, path in paths.items():
        check_writable(path, flag)
        if not is_stream(path):
            _is_recorded(path)  # raises now what would end the run when it writes
    foreign = {flag: output.path for flag, output in outputs.items() if is_foreign(output)}
    files: list[tuple[str, Path]] = []
    folders: list[tuple[str, Path]] = []
    for flag, path in inputs if any(map(os.path.exists, paths.values())) else ():
        (folders if os.path.isdir(path) else files).append((flag, path))
    refuse_inputs(paths, files)
    refuse_inputs(foreign, folders)
    for flag, path in foreign.items():
        if not overwrite:
            raise UserError(
                f"{flag} {path}: exists, and is not, or is no longer, an earlier output of this kind; choose another "
                "file, move it away, or give --overwrite to replace it"
            )


def is_foreign(output: Output) -> bool:
    """Return whether something lies at an output's place that is not this program's; an empty file is nobody's."""
    if is_stream(output.path) or not output.path.exists() or output.path.stat().st_size == 0:
        return False
    with suppress(Exception):  # whatever a reader says of a file of another kind
        return not (output.is_own(output.path) and (output.grows or _is_recorded(output.path)))
    return True


@contextmanager
def recording(outputs: Iterable[Path]) -> Iterator[None]:
    """Record the files that :func:`src.utils.files.atomic_write` writes at some paths during the block.

    Where another user's manifest is in the way, as may happen in a shared temporary folder, nothing is recorded: the
    next run asks for ``--overwrite``.
    """
    with ExitStack() as stack:
        for path in outputs:
            if not is_stream(path):
                stack.enter_context(noting(_real(path), _record))
        yield


def _is_recorded(path: Path) -> bool:
    with _unless_of_another_user():
        return Manifest(_real(path).parent, NAME).owns(_real(path))
    return False


def _record(temporary: Path, target: Path) -> None:
    with _unless_of_another_user():
        Manifest(target.parent, NAME).record(target, digest_of(temporary))


@contextmanager
def _unless_of_another_user() -> Iterator[None]:
    """Leave the block if the manifest belongs to another user."""
    try:
        yield
    except UserError as error:
        if not isinstance(error.__cause__, PermissionError):
            raise


def _real(path: Path) -> Path:
    """Return the file that an output replaces: a link at its place stays."""
    return Path(os.path.realpath(path))
