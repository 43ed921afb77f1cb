"""Write a page of thumbnails that any browser filters by tag: one HTML file that needs no network."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from PIL import Image

from src.data.images import data_url
from src.tags import Tag
from src.text import printable
from src.utils.files import atomic_write

GENERATOR = "infer.py of sdl-zero-shot-tagging"
THUMBNAIL = (320, 240)  # pixels; shown at half the size, so that it is sharp on dense screens


@dataclass(frozen=True)
class ContactSheet:
    """An open page; see :func:`open_contact_sheet`."""

    folder: Path
    stream: IO[str]
    template: Any

    def add(self, image: Image.Image, tags: Sequence[Tag], source: Path) -> None:
        """Add an RGB image with its tags; the thumbnail links to the file ``source``."""
        relative = os.path.relpath(os.path.abspath(source), os.path.abspath(self.folder))
        link = quote(os.fsencode(relative.replace(os.sep, "/")))  # bytes, because a file name need not be UTF-8
        self.stream.write(self.template.figure(printable(source.name), link, data_url(image, THUMBNAIL), tags))


@contextmanager
def open_contact_sheet(path: Path, title: str) -> Iterator[ContactSheet]:
    """Write a page image by image; it appears whole when the block ends without an exception.

    Args:
        path: the ``.html`` file.
        title: heading of the page.

    Raises:
        UserError: on entering or leaving the block: the file cannot be written.
    """
    from jinja2 import Environment, FileSystemLoader  # not needed for other outputs

    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    template: Any = environment.get_template("contact_sheet.html").module
    with atomic_write(path, "w") as stream:
        stream.write(template.head(printable(title), GENERATOR))
        yield ContactSheet(path.parent, stream, template)
        stream.write(template.tail())


def is_contact_sheet(path: Path) -> bool:
    """Return whether a file is a page of :func:`open_contact_sheet`."""
    with path.open("rb") as stream:
        return f'content="{GENERATOR}"'.encode() in stream.read(1000)
