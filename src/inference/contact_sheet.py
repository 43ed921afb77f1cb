"""A page of thumbnails with their tags, filtered by tag in any browser: one HTML file that needs no network."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Sequence
from pathlib import Path
from string import Template
from types import TracebackType
from urllib.parse import quote

from PIL import Image

from src.inference.tagger import Tag
from src.utils.files import atomic_write

THUMBNAIL = (320, 240)  # pixels; shown at half the size, so that it is sharp on dense screens
_PAGE = Path(__file__).with_name("contact_sheet.html")


class ContactSheet:
    """Writes the page image by image; it appears whole when the block ends without an exception.

    Args:
        path: the ``.html`` file.
        title: its heading.

    Raises:
        UserError: on entering or leaving the block: the file cannot be written.
    """

    def __init__(self, path: str | Path, title: str) -> None:
        self.path = Path(path)
        head, tail = _PAGE.read_text(encoding="utf-8").split("$images")
        self._head, self._tail = (Template(part).substitute(title=html.escape(title)) for part in (head, tail))
        self._writing = atomic_write(self.path, "w")

    def __enter__(self) -> ContactSheet:
        self._stream = self._writing.__enter__()
        self._stream.write(self._head)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self._stream.write(self._tail)
        self._writing.__exit__(kind, error, traceback)

    def add(self, image: Image.Image, tags: Sequence[Tag], source: Path) -> None:
        """One image, RGB, with its tags; the thumbnail links to the file ``source``."""
        relative = os.path.relpath(os.path.abspath(source), os.path.abspath(self.path.parent))
        link = quote(os.fsencode(relative.replace(os.sep, "/")))  # bytes: a name need not be UTF-8
        buttons = "".join(
            f'<button data-tag="{html.escape(tag.label)}" title="{tag.score:.3f}"{" class=unseen" * tag.unseen}>'
            f"{html.escape(tag.label)}</button>"
            for tag in tags
        )
        name = html.escape(os.fsencode(source.name).decode("utf-8", "replace"))
        self._stream.write(
            f'<figure><a href="{link}"><img loading="lazy" alt="{name}" src="{_data_url(image)}"></a>'
            f"<figcaption><b>{name}</b>{buttons}</figcaption></figure>\n"
        )


def _data_url(image: Image.Image) -> str:
    thumbnail = image.copy()
    thumbnail.thumbnail(THUMBNAIL, Image.Resampling.LANCZOS, reducing_gap=2.0)
    buffer = io.BytesIO()
    thumbnail.save(buffer, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
