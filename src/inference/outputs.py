"""Write everything that infer.py makes of one image: printed tags, results, drawings, keywords, the contact sheet."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from src.config.infer_outputs import OutputOptions
from src.errors import UserError, first_line
from src.inference.contact_sheet import ContactSheet
from src.inference.explain import explain
from src.inference.formats import ImageResult
from src.inference.keywords import KeywordsError, KeywordWriter, SidecarWriter
from src.inference.results import Record
from src.inference.tagger import Tagger
from src.inference.targets import OutputFolder, TargetNames
from src.options import Scores
from src.tags import Tag
from src.text import on_screen
from src.utils.files import full_disk


@dataclass
class Outputs:
    """Outputs of a run, and those of them that are open files.

    Attributes:
        options: what to write; ``annotate`` alone decides on annotated images.
        results: record of JSON, CSV and Parquet.
        sheet: contact sheet.
        keywords: image copies with keywords.
        sidecars: XMP files beside the images.
        drawings: folder of annotated images and explanations.
        copies: folder of image copies.
    """

    options: OutputOptions = field(default_factory=OutputOptions)
    results: Record | None = None
    sheet: ContactSheet | None = None
    keywords: KeywordWriter | None = None
    sidecars: SidecarWriter | None = None
    drawings: OutputFolder | None = None
    copies: OutputFolder | None = None

    @property
    def shows_images(self) -> bool:
        """Return whether the images themselves are needed besides their tensors."""
        return self.sheet is not None or self.options.annotate or self.options.explain is not None


@dataclass
class Summary:
    """Counts and problems of a run.

    Attributes:
        tagged: number of images that were tagged.
        bad: messages about unreadable images.
        without_keywords: number of images whose keywords could not be written.
        unwritten: number of tagged images of which another file could not be written.
    """

    tagged: int = 0
    bad: list[str] = field(default_factory=list)
    without_keywords: int = 0
    unwritten: int = 0


class TaggedImage(NamedTuple):
    """An image with its tags: path, tags best first, model input [3, S, S], and the image itself if it is shown."""

    path: Path
    tags: list[Tag]
    tensor: Tensor
    preview: Image.Image | None


def write_image(
    image: TaggedImage, names: TargetNames, outputs: Outputs, tagger: Tagger, scores: Scores, summary: Summary
) -> None:
    """Write one image to all outputs, and count it; what cannot be made of it is reported on standard error.

    Raises:
        UserError: no further image could be written either.
    """
    path, tags, tensor, preview = image
    options, drawings = outputs.options, outputs.drawings
    lines = [format_tags(path, tags, scores)]
    problems: list[str] = []
    annotated: Path | None = None
    if preview is not None and drawings is not None and options.annotate:
        with _of_one_image(path, "annotated image", problems):
            from src.visualize import save_tagged_image  # matplotlib is slow to import

            place = drawings.place(names.drawing)
            save_tagged_image(preview, tags, place, show=scores)
            annotated = place
            lines.append(f"      saved {on_screen(place)}")
    if preview is not None and drawings is not None and options.explain is not None and tags:
        with _of_one_image(path, "explanation", problems):
            from src.visualize import save_explanation

            place = drawings.place(names.why)
            explained = tags[: options.explain]
            explanation = explain(tagger.model, tensor.to(tagger.device), tagger.vectors_of(explained))
            save_explanation(preview, explained, explanation, place)
            lines.append(f"      saved {on_screen(place)}")
    if preview is not None and outputs.sheet is not None:
        with _of_one_image(path, "place on the page", problems):
            outputs.sheet.add(preview, tags, path)
    with _of_one_image(path, "keywords", problems):
        summary.without_keywords += not _write_keywords(image, names.copy, outputs)
    if outputs.results is not None:  # last, so that an image in the record is done in all other ways too
        outputs.results.write(ImageResult(str(path), tags, None if annotated is None else str(annotated)))
    if not options.quiet:
        print("\n".join(lines))
    for problem in problems:
        print(f"not written: {on_screen(problem)}", file=sys.stderr)
    summary.tagged += 1
    summary.unwritten += bool(problems)


def _write_keywords(image: TaggedImage, name: str, outputs: Outputs) -> bool:
    """Write the keywords of an image to its copy and its sidecar, the one even if not the other; returns whether."""
    labels = [tag.label for tag in image.tags]
    is_whole = True
    for writer in (outputs.keywords, outputs.sidecars):
        try:
            if writer is not None:
                writer.write(image.path, labels, name if outputs.copies is None else outputs.copies.place(name).name)
        except KeywordsError as error:
            print(f"no keywords: {on_screen(error)}", file=sys.stderr)
            is_whole = False
    return is_whole


@contextmanager
def _of_one_image(path: Path, what: str, problems: list[str]) -> Iterator[None]:
    """Note whatever goes wrong in the block as a problem of one image, unless the disk takes no more."""
    try:
        yield
    except Exception as error:
        if (reason := full_disk(error)) is not None:
            raise UserError(
                f"{path}: the {what} cannot be written: {reason}; make room, and repeat the command, with --resume if "
                "it writes --json, --csv or --parquet"
            ) from error
        problems.append(f"{path}: no {what}: {first_line(error)}")


def format_tags(path: Path, tags: Sequence[Tag], scores: Scores) -> str:
    """Format a table of rank, tag, and score or probability; unseen tags stand between asterisks."""
    if not tags:
        return f"{on_screen(path)}\n      no tag"
    names = [on_screen(tag.marked) for tag in tags]
    width = max(map(len, names))
    rows = enumerate(zip(names, tags, strict=True), start=1)
    lines = [f"{rank:4d}  {name:<{width}}  {tag.shown(scores):>8}" for rank, (name, tag) in rows]
    return "\n".join([on_screen(path), *lines])
