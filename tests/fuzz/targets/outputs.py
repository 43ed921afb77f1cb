"""Files that outputs replace or are added to: earlier outputs, and keywords in images and beside them."""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from src.exported.facts import FORMAT, is_export
from src.inference.contact_sheet import GENERATOR, is_contact_sheet
from src.inference.formats import IS_OWN, WRITERS, ImageResult, RunFacts
from src.inference.keywords import KeywordsError, KeywordWriter, SidecarWriter
from src.inference.results import is_record
from src.inference.xmp import NEW_PACKET, with_keywords
from src.options import OutputFormat
from src.tags import Tag
from src.utils.outputs import Output, is_foreign
from tests.fuzz.harness import Target

_RESULTS = (ImageResult("a.jpg", [Tag("sea", 1.5, False)]),)
_RECORD = b'{"settings":{"model":"m","top_k":2}}\n{"finished":true}\n'
_PAGE = f'<!doctype html><meta name="generator" content="{GENERATOR}">'.encode()
_EXPORT = b"\x08\x09:\x00sdl.checkpoint_sha256\x12" + FORMAT.encode()


def _written(form: OutputFormat) -> bytes:
    stream = io.BytesIO()
    WRITERS[form](stream, RunFacts("m.ckpt", {"top_k": 2}, {}), _RESULTS)
    return stream.getvalue()


def _own(form: OutputFormat) -> Target:
    return Target(f"own-{form}", f"a.{form}", (_written(form),), lambda path: is_foreign(Output(path, IS_OWN[form])))


def _photograph(form: str) -> bytes:
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.linear_gradient("L").resize((24, 16)).convert("RGB").save(stream, form, exif=exif, xmp=_PACKET)
    return stream.getvalue()


_PACKET = with_keywords(NEW_PACKET, ["boat"])


def _tagged_copy(path: Path) -> object:
    return KeywordWriter(path.parent / "copies").write(path, ["sea"])


def _tagged_beside(path: Path) -> object:
    image = path.with_suffix("")
    image.touch()
    return SidecarWriter().write(image, ["sea"])


def targets() -> tuple[Target, ...]:
    """Return the readers of files that outputs replace or are added to."""
    pictures = tuple(map(_photograph, ("JPEG", "PNG", "WEBP", "TIFF")))
    copies = Target("keywords-in-images", "a.jpg", pictures, _tagged_copy, errors=(KeywordsError,))
    return (
        *map(_own, IS_OWN),
        Target("own-record", "r.jsonl", (_RECORD,), lambda path: is_foreign(Output(path, is_record))),
        Target("own-page", "a.html", (_PAGE,), lambda path: is_foreign(Output(path, is_contact_sheet))),
        Target("own-export", "m.onnx", (_EXPORT,), lambda path: is_foreign(Output(path, is_export))),
        Target("sidecar", "a.jpg.xmp", (_PACKET,), _tagged_beside, errors=(KeywordsError,)),
        *((copies,) if find_spec("pyexiv2") else ()),
    )
