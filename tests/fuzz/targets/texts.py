"""Lists, recipes, records and other small text files."""

from __future__ import annotations

import io
from pathlib import Path

from src.config.recipes import read_recipe
from src.inference.input_paths import expand
from src.inference.results import Record
from src.inference.xmp import BadPacketError, with_keywords
from src.utils.digest import check_digest
from src.utils.files import read_lines
from src.utils.json_files import read_json_as
from src.utils.manifest import Manifest
from src.word_vectors.lookup import read_aliases
from tests.conftest import ROOT
from tests.fuzz.harness import Target

_RECORD = (
    b'{"settings":{"model":"m","top_k":2}}\n'
    b'{"result":{"image":"a.jpg","tags":[{"label":"sea","score":1.5,"unseen":false}]}}\n'
    b'{"skipped":["b.jpg","b.jpg: damaged"]}\n{"finished":true}\n'
)
_MANIFEST = b'{"name":"a.png","sha256":"%s"}\n' % (b"0" * 64)
_XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:subject><rdf:Bag><rdf:li>cat</rdf:li>'
    b"</rdf:Bag></dc:subject></rdf:Description></rdf:RDF></x:xmpmeta>"
)


def _digest(path: Path) -> object:
    path.with_suffix("").write_bytes(b"x")
    return check_digest(path.with_suffix(""))


def _record(path: Path) -> object:
    record = Record(path)
    try:
        return list(record.results())
    finally:
        record.close()


def targets() -> tuple[Target, ...]:
    """Return the readers of small text files."""
    recipes = tuple(path.read_bytes() for path in sorted((ROOT / "recipes").glob("*.toml"))[:2])
    return (
        Target("recipe", "r.toml", recipes, lambda path: read_recipe(str(path))),
        Target("record", "r.jsonl", (_RECORD,), _record),
        Target("image-list", "l.txt", (b"a.jpg\nb c.jpg\r\n", b"a.jpg\0b.jpg\0"), _list),
        Target("alias-file", "a.txt", (b"tag=word\nother\tword\n",), lambda path: read_aliases([], path)),
        Target("manifest", ".sdl-manifest.jsonl", (_MANIFEST,), lambda path: Manifest(path.parent).files()),
        Target("digest", "m.ckpt.sha256", (f"{'0' * 64}  m.ckpt\n".encode(),), _digest),
        Target(
            "xmp", "a.xmp", (_XMP,), lambda path: with_keywords(path.read_bytes(), ["sea"]), errors=(BadPacketError,)
        ),
        Target("lines", "t.txt", (b"sea\nboat # x\n\n",), lambda path: read_lines(path, "--tags_file")),
        Target(
            "json", "a.json", (b'{"a": [1, 2.5, "x", null, true]}',), lambda path: read_json_as(path, dict, "JSON file")
        ),
    )


def _list(path: Path) -> object:
    return expand([f"@{path}"], io.TextIOWrapper(io.BytesIO()))
