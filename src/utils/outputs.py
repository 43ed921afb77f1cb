"""The check of all files that a run will write, before any work: nothing of the user's is replaced by accident."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from src.errors import UserError
from src.utils.files import check_writable, refuse_inputs
from src.utils.streams import is_stream


class Output(NamedTuple):
    """A file to write.

    Attributes:
        path: may be a device, a FIFO or a link.
        is_own: says of an existing file whether this program wrote it as the same kind of output; may raise anything.
    """

    path: Path
    is_own: Callable[[Path], bool]


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
                f"{flag} {path}: exists, and is no earlier output of this kind; choose another file, or give "
                "--overwrite to replace it"
            )


def is_foreign(output: Output) -> bool:
    """Return whether something lies at an output's place that is not this program's; an empty file is nobody's."""
    if is_stream(output.path) or not output.path.exists() or output.path.stat().st_size == 0:
        return False
    with suppress(Exception):  # whatever a reader says of a file of another kind
        return not output.is_own(output.path)
    return True
