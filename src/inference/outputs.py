"""Write everything that infer.py makes of one image: printed tags, results, drawings, keywords, the contact sheet."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from src.config.infer import OutputOptions
from src.errors import UserError
from src.inference.contact_sheet import ContactSheet
from src.inference.explain import explain
from src.inference.formats import ImageResult
from src.inference.keywords import KeywordsError, KeywordWriter, SidecarWriter
from src.inference.results import Record
from src.inference.tagger import Tagger
from src.options import Scores
from src.tags import Tag
from src.text import on_screen, printable

_DRAWN_AS_IS = {".png", ".jpg", ".jpeg"}  # formats that drawings can be saved in


@dataclass
class Outputs:
    """Outputs of a run, and those of them that are open files.

    Attributes:
        options: what to write; ``annotate`` alone decides on annotated images.
        results: record of JSON, CSV and Parquet.
        sheet: contact sheet.
        keywords: image copies with keywords, and XMP files beside the images.
    """

    options: OutputOptions = field(default_factory=OutputOptions)
    results: Record | None = None
    sheet: ContactSheet | None = None
    keywords: KeywordWriter | None = None
    sidecars: SidecarWriter | None = None

    @property
    def shows_images(self) -> bool:
        """Return whether the images themselves are needed besides their tensors."""
        return self.sheet is not None or self.options.annotate or self.options.explain is not None


class TargetNames(NamedTuple):
    """Names of the files made of an image: copy with keywords, annotated image, and explanation."""

    copy: str
    drawing: str
    why: str


class TaggedImage(NamedTuple):
    """An image with its tags: path, tags best first, model input [3, S, S], and the image itself if it is shown."""

    path: Path
    tags: list[Tag]
    tensor: Tensor
    preview: Image.Image | None


def write_image(image: TaggedImage, names: TargetNames, outputs: Outputs, tagger: Tagger, scores: Scores) -> bool:
    """Write one image to all outputs.

    Returns:
        False if keywords were left out because they cannot be written.

    Raises:
        UserError: an output cannot be written.
    """
    path, tags, tensor, preview = image
    options = outputs.options
    lines = [format_tags(path, tags, scores)]
    annotated, is_whole = None, True
    if preview is not None and options.annotate:
        from src.visualize import save_tagged_image  # matplotlib is slow to import

        annotated = options.path_output / names.drawing
        save_tagged_image(preview, tags, annotated, show=scores)
        lines.append(f"      saved {printable(annotated)}")
    if preview is not None and options.explain is not None and tags:
        from src.visualize import save_explanation

        explained = tags[: options.explain]
        explanation = explain(tagger.model, tensor.to(tagger.device), tagger.vectors_of(explained))
        save_explanation(preview, explained, explanation, options.path_output / names.why)
        lines.append(f"      saved {printable(options.path_output / names.why)}")
    if preview is not None and outputs.sheet is not None:
        outputs.sheet.add(preview, tags, path)
    for writer in (outputs.keywords, outputs.sidecars):
        if writer is not None:
            try:
                writer.write(path, [tag.label for tag in tags], names.copy)
            except KeywordsError as error:
                is_whole = False
                print(f"no keywords: {on_screen(error)}", file=sys.stderr)
    if outputs.results is not None:  # last, so that an image in the record is done in all other ways too
        outputs.results.write(ImageResult(str(path), tags, None if annotated is None else str(annotated)))
    if not options.quiet:
        print("\n".join(lines))
    return is_whole


def format_tags(path: Path, tags: Sequence[Tag], scores: Scores) -> str:
    """Format a table of rank, tag, and score or probability; unseen tags stand between asterisks."""
    if not tags:
        return f"{printable(path)}\n      no tag"
    width = max(len(tag.marked) for tag in tags)
    lines = [f"{rank:4d}  {tag.marked:<{width}}  {tag.shown(scores):>8}" for rank, tag in enumerate(tags, start=1)]
    return "\n".join([printable(path), *lines])


def refuse_overwriting(paths: Sequence[Path], names: Mapping[Path, TargetNames], options: OutputOptions) -> None:
    """Check that no output takes the place of an input image, whether it was read already or not.

    Raises:
        UserError: an image would be overwritten, or two kinds of output share a folder.
    """
    folder, copies = options.path_output, options.write_keywords
    draws = options.annotate or options.explain is not None
    if draws and copies is not None and os.path.realpath(folder) == os.path.realpath(copies):
        raise UserError(f"--write_keywords {copies}: is --path_output too; choose another folder for one of them")
    targets = [(f"--{form} {path}", path) for form, path in options.results.items()]
    if options.html is not None:
        targets.append((f"--html {options.html}", options.html))
    if options.annotate and folder.is_dir():
        targets += [(f"--path_output {folder}", folder / names[path].drawing) for path in paths]
    if options.explain is not None and folder.is_dir():
        targets += [(f"--path_output {folder}", folder / names[path].why) for path in paths]
    if copies is not None and copies.is_dir():
        targets += [(f"--write_keywords {copies}", copies / names[path].copy) for path in paths]
    given = {os.path.realpath(path) for path in paths}
    for flag, target in targets:
        if os.path.realpath(target) in given:
            raise UserError(
                f"{flag}: would overwrite the image {os.path.realpath(target)}; choose another folder or file"
            )


def target_names(paths: Sequence[Path]) -> dict[Path, TargetNames]:
    """Name the files made of each image after the image, with a number if an earlier image has taken the name."""
    copies: dict[str, int] = {}
    drawings: dict[str, int] = {}  # explanations share their folder
    # Drawings are PNG where the image's own format cannot be written
    drawn = [
        _free_name(path.name if path.suffix.lower() in _DRAWN_AS_IS else f"{path.stem}.png", drawings) for path in paths
    ]
    return {
        path: TargetNames(_free_name(path.name, copies), drawing, _free_name(f"{Path(drawing).stem}-why.png", drawings))
        for path, drawing in zip(paths, drawn, strict=True)
    }


def _free_name(name: str, numbers: dict[str, int]) -> str:
    """Return ``name``, or the first free one with a number: ``a-2.jpg``.

    ``numbers`` holds each taken name, in lower case because some file systems do not tell A.jpg from a.jpg, and the
    highest number given to it.
    """
    free, number = name, numbers.get(name.lower(), 1)
    while free.lower() in numbers:
        number += 1
        free = f"{Path(name).stem}-{number}{Path(name).suffix}"
    numbers[name.lower()] = number
    numbers.setdefault(free.lower(), 1)
    return free
