"""Write a page of thumbnails that any browser filters by tag: one HTML file that needs no network."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

from PIL import Image

from src.inference.formats import printable
from src.tags import Tag
from src.utils.files import atomic_write

THUMBNAIL = (320, 240)  # pixels; shown at half the size, so that it is sharp on dense screens


class ContactSheet:
    """Writes the page image by image; it appears whole when the block ends without an exception.

    Args:
        path: the ``.html`` file.
        title: heading of the page.

    Raises:
        UserError: on entering or leaving the block: the file cannot be written.
    """

    def __init__(self, path: str | Path, title: str) -> None:
        from jinja2 import Environment, FileSystemLoader  # not needed for other outputs

        self.path = Path(path)
        self._title = title
        loader = FileSystemLoader(Path(__file__).parent)
        self._parts: Any = Environment(loader=loader, autoescape=True).get_template("contact_sheet.html").module
        self._writing = atomic_write(self.path, "w")

    def __enter__(self) -> ContactSheet:
        self._stream = self._writing.__enter__()
        self._stream.write(self._parts.head(self._title))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self._stream.write(self._parts.tail())
        self._writing.__exit__(kind, error, traceback)

    def add(self, image: Image.Image, tags: Sequence[Tag], source: Path) -> None:
        """Add an RGB image with its tags; the thumbnail links to the file ``source``."""
        relative = os.path.relpath(os.path.abspath(source), os.path.abspath(self.path.parent))
        link = quote(os.fsencode(relative.replace(os.sep, "/")))  # bytes, because a file name need not be UTF-8
        thumbnail = image.copy()
        thumbnail.thumbnail(THUMBNAIL, Image.Resampling.LANCZOS, reducing_gap=2.0)
        buffer = io.BytesIO()
        thumbnail.save(buffer, "JPEG", quality=82)
        data = base64.b64encode(buffer.getvalue()).decode()
        self._stream.write(self._parts.figure(printable(source.name), link, data, tags))
