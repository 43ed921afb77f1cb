"""The earlier run of a folder that a new one replaces: it stays whole until the new run has a state."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from src.training.run_files import STATE, is_run_file
from src.utils.files import write_json
from src.utils.manifest import Manifest, digest_of

_NOTE, _MAX_NOTE = ".sdl-earlier-run.json", 16 << 20  # bytes


class EarlierRun:
    """The files of an earlier run, named in a note in the folder while it is being replaced.

    The new run's first state takes the place of the earlier run's ``state.pt`` in one step: before it, the folder holds
    the earlier run, with all its files; after it, the new one, and the files named in the note are left-overs.

    Args:
        manifest: of the folder; a note that it does not know is ignored.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._note, self._state = manifest.folder / _NOTE, manifest.folder / STATE

    def note(self, names: Iterable[str]) -> None:
        """Note the files of the earlier run, before the new one begins.

        Raises:
            UserError: the note cannot be written, or something of the user's has its name.
        """
        self._manifest.refuse_foreign([self._note], "--path_output")
        write_json(self._note, {"state": self._digest_of_state(), "files": sorted(names)})

    def is_there(self) -> bool:
        """Return whether an earlier run was to be replaced, and the new one has no state yet."""
        note = self._read()
        return note is not None and self._digest_of_state() in (None, note.get("state"))

    def left_over(self) -> list[str]:
        """List the files of an earlier run whose place a new one has taken, but for the state."""
        note = self._read()
        if note is None or self.is_there():
            return []
        return [name for name in note["files"] if name != STATE and isinstance(name, str) and is_run_file(name)]

    def forget(self) -> None:
        """Remove the note."""
        self._manifest.remove(self._note)

    def _digest_of_state(self) -> str | None:
        return digest_of(self._state) if self._manifest.owns(self._state) else None

    def _read(self) -> dict[str, Any] | None:
        if self._manifest.owns(self._note) and self._note.stat().st_size < _MAX_NOTE:
            with suppress(ValueError, RecursionError):
                note = json.loads(self._note.read_bytes())
                if isinstance(note, dict) and isinstance(note.get("files"), list):
                    return note
        return None
