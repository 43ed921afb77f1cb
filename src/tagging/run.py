"""Tagging many pictures: reading, scoring and all that is written about each, in the order of the pictures."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from PIL import Image
from torch import Tensor
from tqdm import tqdm

from src.errors import UserError
from src.explain import explain
from src.tagger import Tag, Tagger, TagRule
from src.tagging.contact_sheet import ContactSheet
from src.tagging.formats import PictureResult, TagRow, written_name
from src.tagging.keywords import KeywordsError, KeywordWriter
from src.tagging.reading import read_batches
from src.tagging.results import ResultWriter


@dataclass
class Outputs:
    """What is made of each picture's tags; None leaves it out.

    Attributes:
        results: JSON, CSV and Parquet.
        sheet: the page of thumbnails.
        keywords: copies with keywords.
        annotated: the folder of annotated pictures.
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
    def shows_pictures(self) -> bool:
        """Whether the pictures themselves are needed, beside their tensors."""
        return self.sheet is not None or self.annotated is not None or self.explained is not None


@dataclass
class Summary:
    """What became of the pictures.

    Attributes:
        tagged: how many have tags now.
        bad: messages about those that could not be read.
        without_keywords: messages about those whose format holds no keywords.
    """

    tagged: int = 0
    bad: list[str] = field(default_factory=list)
    without_keywords: list[str] = field(default_factory=list)


def tag_pictures(
    tagger: Tagger,
    rule: TagRule,
    paths: Sequence[Path],
    outputs: Outputs,
    *,
    batch_size: int,
    workers: int,
    all_paths: Sequence[Path],
) -> Summary:
    """Tag pictures and write what ``outputs`` says. Bad pictures are named on standard error, and left out.

    Args:
        tagger, rule: how.
        paths: the pictures.
        outputs: what is written.
        batch_size: pictures that go through the model at once.
        workers: processes that read pictures.
        all_paths: those of a whole run that this one goes on with, so that copies are called what they would have been.

    Raises:
        UserError: an output cannot be written.
    """
    summary = Summary()
    names = target_names(all_paths)
    refuse_overwriting(all_paths, names, outputs)
    batches = read_batches(
        paths, tagger.transform, batch_size=batch_size, workers=workers, previews=outputs.shows_pictures
    )
    with tqdm(total=len(paths), unit="img", disable=None if len(paths) > batch_size else True, leave=False) as bar:
        for batch in batches:
            for path, problem in batch.problems:
                with bar.external_write_mode(sys.stderr):
                    print(f"skipped: {written_name(problem)}", file=sys.stderr)
                summary.bad.append(problem)
                if outputs.results is not None:
                    outputs.results.skip(str(path), problem)
            if batch.paths:
                of_pictures = tagger.tag_tensors(batch.pictures, rule=rule)
                for place, (path, tags) in enumerate(zip(batch.paths, of_pictures, strict=True)):
                    preview = batch.previews[place] if batch.previews else None
                    with bar.external_write_mode(sys.stdout):
                        _write(tagger, rule, path, names[path], tags, preview, batch.pictures[place], outputs, summary)
            bar.update(len(batch.paths) + len(batch.problems))
    return summary


def _write(
    tagger: Tagger,
    rule: TagRule,
    path: Path,
    name: str,
    tags: list[Tag],
    preview: Image.Image | None,
    tensor: Tensor,
    outputs: Outputs,
    summary: Summary,
) -> None:
    """All that is written about one picture."""
    summary.tagged += 1
    lines = [format_tags(path, tags, rule.scores)]
    annotated = None
    if preview is not None and outputs.annotated is not None:
        from src.visualize import save_tagged_picture  # matplotlib is slow to import

        annotated = outputs.annotated / _drawn_name(name)
        save_tagged_picture(preview, tags, annotated, show=rule.scores)
        lines.append(f"      saved {written_name(annotated)}")
    if preview is not None and outputs.explained is not None and tags:
        lines.append(f"      saved {written_name(_explain(tagger, name, tags, preview, tensor, *outputs.explained))}")
    if preview is not None and outputs.sheet is not None:
        outputs.sheet.add(preview, tags, path)
    if outputs.keywords is not None:
        try:
            outputs.keywords.write(path, [tag.label for tag in tags], name)
        except KeywordsError as error:
            summary.without_keywords.append(str(error))
            print(f"no keywords: {written_name(str(error))}", file=sys.stderr)
    if outputs.results is not None:  # last: what is in the results is done in all other ways too
        result = PictureResult(str(path), [TagRow(*tag) for tag in tags], None if annotated is None else str(annotated))
        outputs.results.write(result)
    if outputs.print_tags:
        print("\n".join(lines))


def _explain(
    tagger: Tagger, name: str, tags: list[Tag], preview: Image.Image, tensor: Tensor, folder: Path, most: int
) -> Path:
    from src.visualize import save_explanation  # matplotlib is slow to import

    target = folder / _why_name(name)
    explanation = explain(tagger.model, tensor.to(tagger.device), tagger.vectors_of(tags[:most]))
    save_explanation(preview, tags[:most], explanation, target)
    return target


def refuse_overwriting(paths: Sequence[Path], names: Mapping[Path, str], outputs: Outputs) -> None:
    """Make sure that nothing which is saved takes the place of a picture that was given, be it read already or not.

    Raises:
        UserError: a picture would be overwritten.
    """
    folders: list[tuple[Path | None, Callable[[str], str], str]] = [(outputs.annotated, _drawn_name, "--path_output")]
    folders += [] if outputs.explained is None else [(outputs.explained[0], _why_name, "--path_output")]
    folders += [] if outputs.keywords is None else [(outputs.keywords.folder, str, "--write_keywords")]
    given = {os.path.realpath(path) for path in paths}
    for folder, name_of, flag in folders:
        if folder is None or not folder.is_dir():
            continue
        for path in paths:
            target = os.path.realpath(folder / name_of(names[path]))
            if target in given:
                raise UserError(f"{flag} {folder}: would overwrite the picture {target}; choose another folder")


def target_names(paths: Sequence[Path]) -> dict[Path, str]:
    """What the copies of pictures are called: by their own name, with a number where an earlier one has that name."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in paths:
        name, number = path.name, 1
        while name.lower() in taken:  # some file systems do not tell A.jpg from a.jpg
            number += 1
            name = f"{path.stem}-{number}{path.suffix}"
        taken.add(name.lower())
        names[path] = name
    return names


def _drawn_name(name: str) -> str:
    """The name of a drawing of that picture: PNG where its own format cannot be written."""
    return name if Path(name).suffix.lower() in (".png", ".jpg", ".jpeg") else f"{Path(name).stem}.png"


def _why_name(name: str) -> str:
    """The name of the explanation of that picture."""
    return f"{Path(name).stem}-why.png"


def format_tags(path: Path, tags: Sequence[Tag], scores: Literal["raw", "probability"]) -> str:
    """A table: rank, tag, score or probability; unseen tags between asterisks."""
    if not tags:
        return f"{written_name(path)}\n      no tag"
    width = max(len(tag.marked) for tag in tags)
    lines = [f"{rank:4d}  {tag.marked:<{width}}  {tag.shown(scores):>8}" for rank, tag in enumerate(tags, start=1)]
    return "\n".join([written_name(path), *lines])
