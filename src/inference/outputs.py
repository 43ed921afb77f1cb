"""Write everything that infer.py makes of one image: printed tags, results, drawings, keywords, the contact sheet."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from src.choices import Scores
from src.errors import UserError
from src.inference.contact_sheet import ContactSheet
from src.inference.explain import explain
from src.inference.formats import ImageResult, TagRow, printable
from src.inference.keywords import KeywordsError, KeywordWriter
from src.inference.results import ResultWriter
from src.inference.tagger import Tag, Tagger

_DRAWN_AS_IS = {".png", ".jpg", ".jpeg"}  # formats that drawings can be saved in


@dataclass
class Outputs:
    """Open outputs; None leaves one out.

    Attributes:
        results: JSON, CSV and Parquet.
        sheet: contact sheet.
        keywords: image copies with keywords.
        annotated: folder of annotated images.
        explained: folder of explanations, and number of tags to explain.
        print_tags: print tags to standard output.
    """

    results: ResultWriter | None = None
    sheet: ContactSheet | None = None
    keywords: KeywordWriter | None = None
    annotated: Path | None = None
    explained: tuple[Path, int] | None = None
    print_tags: bool = True

    @property
    def shows_images(self) -> bool:
        """Whether the images themselves are needed besides their tensors."""
        return self.sheet is not None or self.annotated is not None or self.explained is not None


class TargetNames(NamedTuple):
    """Names of the files made of an image.

    Attributes:
        copy: copy with keywords.
        drawing: annotated image.
        why: explanation.
    """

    copy: str
    drawing: str
    why: str


class TaggedImage(NamedTuple):
    """An image with its tags: path, tags best first, model input [3, S, S], and the image itself if it is shown."""

    path: Path
    tags: list[Tag]
    tensor: Tensor
    preview: Image.Image | None


def write_image(image: TaggedImage, names: TargetNames, outputs: Outputs, tagger: Tagger, scores: Scores) -> str | None:
    """Write one image to all outputs.

    Returns:
        A message if the image's format cannot hold keywords, else None.

    Raises:
        UserError: an output cannot be written.
    """
    path, tags, tensor, preview = image
    lines = [format_tags(path, tags, scores)]
    annotated = problem = None
    if preview is not None and outputs.annotated is not None:
        from src.visualize import save_tagged_image  # matplotlib is slow to import

        annotated = outputs.annotated / names.drawing
        save_tagged_image(preview, tags, annotated, show=scores)
        lines.append(f"      saved {printable(annotated)}")
    if preview is not None and outputs.explained is not None and tags:
        from src.visualize import save_explanation

        folder, count = outputs.explained
        explanation = explain(tagger.model, tensor.to(tagger.device), tagger.vectors_of(tags[:count]))
        save_explanation(preview, tags[:count], explanation, folder / names.why)
        lines.append(f"      saved {printable(folder / names.why)}")
    if preview is not None and outputs.sheet is not None:
        outputs.sheet.add(preview, tags, path)
    if outputs.keywords is not None:
        try:
            outputs.keywords.write(path, [tag.label for tag in tags], names.copy)
        except KeywordsError as error:
            problem = str(error)
            print(f"no keywords: {printable(problem)}", file=sys.stderr)
    if outputs.results is not None:  # last, so that an image in the record is done in all other ways too
        saved = None if annotated is None else str(annotated)
        outputs.results.write(ImageResult(str(path), [TagRow(*tag) for tag in tags], saved))
    if outputs.print_tags:
        print("\n".join(lines))
    return problem


def format_tags(path: Path, tags: Sequence[Tag], scores: Scores) -> str:
    """Format a table of rank, tag, and score or probability; unseen tags stand between asterisks."""
    if not tags:
        return f"{printable(path)}\n      no tag"
    width = max(len(tag.marked) for tag in tags)
    lines = [f"{rank:4d}  {tag.marked:<{width}}  {tag.shown(scores):>8}" for rank, tag in enumerate(tags, start=1)]
    return "\n".join([printable(path), *lines])


def refuse_overwriting(paths: Sequence[Path], names: Mapping[Path, TargetNames], outputs: Outputs) -> None:
    """Check that no output takes the place of an input image, whether it was read already or not.

    Raises:
        UserError: an image would be overwritten, or two kinds of output share a folder.
    """
    files: list[tuple[str, Path]] = []
    if outputs.results is not None:
        files += [(f"--{form} {path}", path) for form, path in outputs.results.outputs.items()]
    if outputs.sheet is not None:
        files.append((f"--html {outputs.sheet.path}", outputs.sheet.path))
    drawn = outputs.annotated or (outputs.explained[0] if outputs.explained is not None else None)
    copies = None if outputs.keywords is None else outputs.keywords.folder
    if drawn is not None and copies is not None and os.path.realpath(drawn) == os.path.realpath(copies):
        raise UserError(f"--write_keywords {copies}: is --path_output too; choose another folder for one of them")
    in_folders: list[tuple[str, Path]] = []
    if outputs.annotated is not None and outputs.annotated.is_dir():
        in_folders += [(f"--path_output {drawn}", outputs.annotated / names[path].drawing) for path in paths]
    if outputs.explained is not None and outputs.explained[0].is_dir():
        in_folders += [(f"--path_output {drawn}", outputs.explained[0] / names[path].why) for path in paths]
    if copies is not None:
        in_folders += [(f"--write_keywords {copies}", copies / names[path].copy) for path in paths]
    given = {os.path.realpath(path) for path in paths}
    for targets, remedy in ((files, "give another file"), (in_folders, "choose another folder")):
        for flag, target in targets:
            if os.path.realpath(target) in given:
                raise UserError(f"{flag}: would overwrite the image {os.path.realpath(target)}; {remedy}")


def target_names(paths: Sequence[Path]) -> dict[Path, TargetNames]:
    """Name the files made of each image after the image, with a number if an earlier image has taken the name."""
    copies, drawings = _FreeNames(), _FreeNames()
    # Drawings are PNG where the image's own format cannot be written; they share a folder with the explanations
    drawn = [drawings.take(path.name if path.suffix.lower() in _DRAWN_AS_IS else f"{path.stem}.png") for path in paths]
    return {
        path: TargetNames(copies.take(path.name), drawing, drawings.take(f"{Path(drawing).stem}-why.png"))
        for path, drawing in zip(paths, drawn, strict=True)
    }


class _FreeNames:
    """File names in one folder; some file systems do not tell A.jpg from a.jpg."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}  # each taken name in lower case, and the highest number given to it

    def take(self, name: str) -> str:
        """Return ``name``, or the first free one with a number: ``a-2.jpg``."""
        free, number = name, self._numbers.get(name.lower(), 1)
        while free.lower() in self._numbers:
            number += 1
            free = f"{Path(name).stem}-{number}{Path(name).suffix}"
        self._numbers[name.lower()] = number
        self._numbers.setdefault(free.lower(), 1)
        return free
