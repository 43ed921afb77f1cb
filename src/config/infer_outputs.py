"""Flags of infer.py about what it writes."""

# ruff: noqa: RUF009 -- flag() declares a dataclass field, as dataclasses.field() does

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from src.config.arguments import output_file, positive_int
from src.config.settings import flag
from src.options import OUTPUT_FORMATS, OutputFormat


@dataclass(frozen=True)
class OutputOptions:
    """Outputs of infer.py; the fields are the flags of the same names."""

    json: Path | None = flag(None, type=output_file, metavar="FILE", help="write tags as JSON")
    csv: Path | None = flag(None, type=output_file, metavar="FILE", help="write tags as CSV, one row per tag")
    parquet: Path | None = flag(
        None, type=output_file, metavar="FILE", help="write tags as Parquet, one row per tag; needs pyarrow"
    )
    resume: bool = flag(
        False,
        action="store_true",
        help="continue a stopped or finished run from FILE.record.jsonl, which is kept beside the first of these "
        "files: skip images that have tags",
    )
    overwrite: bool = flag(
        False,
        action="store_true",
        help="start over, dropping the tags of an interrupted run, and replace files of these names that infer.py did "
        "not write",
    )
    html: Path | None = flag(
        None, type=output_file, metavar="FILE", help="write a web page of thumbnails that can be filtered by tag"
    )
    write_keywords: Path | None = flag(
        None,
        type=Path,
        metavar="DIR",
        help="copy the images to this folder and add the tags as XMP and IPTC keywords; needs pyexiv2",
    )
    write_xmp: bool = flag(
        False,
        action="store_true",
        help="add the tags as keywords to an XMP sidecar beside each image, photo.jpg.xmp, which photo managers read; "
        "the image is not touched, and what a sidecar holds already is kept, also that of photo.xmp",
    )
    path_output: Path = flag(Path("outputs"), type=Path, metavar="DIR", help="folder of annotated images")
    no_picture: bool = flag(False, exclusive="annotated", action="store_true", help="do not save annotated images")
    annotate: bool = flag(
        False,
        exclusive="annotated",
        action="store_true",
        help="save annotated images even of many images (drawing them is slow)",
    )
    explain: int | None = flag(
        None,
        type=positive_int,
        nargs="?",
        const=6,
        metavar="N",
        help="save maps that show where in the image the scores of the N best tags come from (N: 6)",
    )
    quiet: bool = flag(False, action="store_true", help="do not print tags")

    @property
    def results(self) -> dict[OutputFormat, Path]:
        """Paths of the machine-readable outputs, by format."""
        return {form: path for form in OUTPUT_FORMATS if (path := getattr(self, form)) is not None}

    @property
    def files(self) -> dict[str, Path]:
        """Paths of the single files to write, by flag."""
        page = {} if self.html is None else {"--html": self.html}
        return {**{f"--{form}": path for form, path in self.results.items()}, **page}

    @property
    def draws(self) -> bool:
        """Return whether annotated images or explanations are written."""
        return self.annotate or self.explain is not None
