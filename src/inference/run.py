"""Tagging many images: reading, scoring and all that is written about each, in the order of the images."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from PIL import Image
from torch import Tensor
from tqdm import tqdm

from src.errors import UserError
from src.inference.contact_sheet import ContactSheet
from src.inference.embedding import embed_images
from src.inference.explain import explain
from src.inference.formats import ImageResult, TagRow, printable
from src.inference.keywords import KeywordsError, KeywordWriter
from src.inference.results import ResultWriter
from src.inference.tagger import Tag, Tagger, TagRule

_DRAWN_AS_IS = {".png", ".jpg", ".jpeg"}  # formats that drawings can be saved in


@dataclass
class Outputs:
    """What is made of each image's tags; None leaves it out.

    Attributes:
        results: JSON, CSV and Parquet.
        sheet: the page of thumbnails.
        keywords: copies with keywords.
        annotated: the folder of annotated images.
        explained: the folder of explanations, and for how many tags.
        print_tags: on standard output.
    """

    results: ResultWriter | None = None
    sheet: ContactSheet | None = None
    keywords: KeywordWriter | None = None
    annotated: Path | None = None
    explained: tuple[Path, int] | None = None
    print_tags: bool = True

    @property
    def shows_images(self) -> bool:
        """Whether the images themselves are needed, beside their tensors."""
        return self.sheet is not None or self.annotated is not None or self.explained is not None


@dataclass
class Summary:
    """What became of the images.

    Attributes:
        tagged: how many have tags now.
        bad: messages about those that could not be read.
        without_keywords: messages about those whose format holds no keywords.
    """

    tagged: int = 0
    bad: list[str] = field(default_factory=list)
    without_keywords: list[str] = field(default_factory=list)


class TargetNames(NamedTuple):
    """The names of the files that are made of an image.

    Attributes:
        copy: with keywords.
        drawing: with its tags beside it.
        why: the explanation.
    """

    copy: str
    drawing: str
    why: str


def tag_images(
    tagger: Tagger,
    rule: TagRule,
    paths: Sequence[Path],
    outputs: Outputs,
    *,
    batch_size: int,
    workers: int,
    all_paths: Sequence[Path],
) -> Summary:
    """Tag images and write what ``outputs`` says. Bad images are named on standard error, and left out.

    Args:
        tagger, rule: how.
        paths: the images.
        outputs: what is written.
        batch_size: images that go through the model at once.
        workers: threads that read images.
        all_paths: those of a whole run that this one goes on with, so that copies are called what they would have been.

    Raises:
        UserError: an output cannot be written, or would be an image that was given.
    """
    summary = Summary()
    names = target_names(all_paths)
    refuse_overwriting(all_paths, names, outputs)
    embedded = embed_images(
        paths,
        tagger.transform,
        tagger.embed,
        batch_size=batch_size,
        workers=workers,
        at_once=tagger.calls_at_once,
        previews=outputs.shows_images,
    )
    hidden = None if len(paths) > batch_size else True
    with tqdm(total=len(paths), unit="img", disable=hidden, leave=False) as bar:
        for batch, embeddings in embedded:
            for path, problem in batch.problems:
                with bar.external_write_mode(sys.stderr):
                    print(f"skipped: {printable(problem)}", file=sys.stderr)
                summary.bad.append(problem)
                if outputs.results is not None:
                    outputs.results.skip(str(path), problem)
            if embeddings is not None:
                of_images = tagger.choose(embeddings, rule)
                for place, (path, tags) in enumerate(zip(batch.paths, of_images, strict=True)):
                    preview = batch.previews[place] if batch.previews else None
                    with bar.external_write_mode(sys.stdout):
                        _write(tagger, rule, path, names[path], tags, preview, batch.images[place], outputs, summary)
            bar.update(len(batch.paths) + len(batch.problems))
    return summary


def _write(
    tagger: Tagger,
    rule: TagRule,
    path: Path,
    names: TargetNames,
    tags: list[Tag],
    preview: Image.Image | None,
    tensor: Tensor,
    outputs: Outputs,
    summary: Summary,
) -> None:
    """All that is written about one image."""
    summary.tagged += 1
    lines = [format_tags(path, tags, rule.scores)]
    annotated = None
    if preview is not None and outputs.annotated is not None:
        from src.visualize import save_tagged_image  # matplotlib is slow to import

        annotated = outputs.annotated / names.drawing
        save_tagged_image(preview, tags, annotated, show=rule.scores)
        lines.append(f"      saved {printable(annotated)}")
    if preview is not None and outputs.explained is not None and tags:
        folder, most = outputs.explained
        _explain(tagger, tags[:most], preview, tensor, folder / names.why)
        lines.append(f"      saved {printable(folder / names.why)}")
    if preview is not None and outputs.sheet is not None:
        outputs.sheet.add(preview, tags, path)
    if outputs.keywords is not None:
        try:
            outputs.keywords.write(path, [tag.label for tag in tags], names.copy)
        except KeywordsError as error:
            summary.without_keywords.append(str(error))
            print(f"no keywords: {printable(str(error))}", file=sys.stderr)
    if outputs.results is not None:  # last: what is in the results is done in all other ways too
        result = ImageResult(str(path), [TagRow(*tag) for tag in tags], None if annotated is None else str(annotated))
        outputs.results.write(result)
    if outputs.print_tags:
        print("\n".join(lines))


def _explain(tagger: Tagger, tags: list[Tag], preview: Image.Image, tensor: Tensor, target: Path) -> None:
    from src.visualize import save_explanation  # matplotlib is slow to import

    explanation = explain(tagger.model, tensor.to(tagger.device), tagger.vectors_of(tags))
    save_explanation(preview, tags, explanation, target)


def refuse_overwriting(paths: Sequence[Path], names: Mapping[Path, TargetNames], outputs: Outputs) -> None:
    """Make sure that nothing which is saved takes the place of an image that was given, be it read already or not.

    Raises:
        UserError: an image would be overwritten, by what is made of the images or by the results.
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
    """What is made of images is called as they are, with a number where an earlier one has that name."""
    copies, drawings = _FreeNames(), _FreeNames()
    # Drawings are PNG where the image's own format cannot be written, and have one folder with the explanations
    drawn = [drawings.take(path.name if path.suffix.lower() in _DRAWN_AS_IS else f"{path.stem}.png") for path in paths]
    return {
        path: TargetNames(copies.take(path.name), drawing, drawings.take(f"{Path(drawing).stem}-why.png"))
        for path, drawing in zip(paths, drawn, strict=True)
    }


class _FreeNames:
    """The names of files in a folder. Some file systems do not tell A.jpg from a.jpg."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}  # each taken name in lower case, and the highest number given to it

    def take(self, name: str) -> str:
        """``name``, or with the first number that makes it a free one: ``a-2.jpg``."""
        free, number = name, self._numbers.get(name.lower(), 1)
        while free.lower() in self._numbers:
            number += 1
            free = f"{Path(name).stem}-{number}{Path(name).suffix}"
        self._numbers[name.lower()] = number
        self._numbers.setdefault(free.lower(), 1)
        return free


def format_tags(path: Path, tags: Sequence[Tag], scores: Literal["raw", "probability"]) -> str:
    """A table: rank, tag, score or probability; unseen tags between asterisks."""
    if not tags:
        return f"{printable(path)}\n      no tag"
    width = max(len(tag.marked) for tag in tags)
    lines = [f"{rank:4d}  {tag.marked:<{width}}  {tag.shown(scores):>8}" for rank, tag in enumerate(tags, start=1)]
    return "\n".join([printable(path), *lines])
