"""Where infer.py writes: names of the files made of each image, and the check that nothing else is replaced."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from src.config.infer_outputs import OutputOptions
from src.errors import UserError
from src.inference.contact_sheet import is_contact_sheet
from src.inference.formats import IS_OWN, import_arrow
from src.inference.results import is_record, record_path
from src.utils.files import check_folder
from src.utils.manifest import Manifest
from src.utils.outputs import Output, check_outputs
from src.utils.streams import is_stream

_DRAWN_AS_IS = {".png", ".jpg", ".jpeg"}  # formats that drawings can be saved in
_MAX_NAME = 255  # bytes of a file name on most file systems


class TargetNames(NamedTuple):
    """Names of the files made of an image: copy with keywords, annotated image, and explanation."""

    copy: str
    drawing: str
    why: str


class OutputFolder:
    """A folder of files made of images. It replaces only files that this program wrote there.

    Args:
        folder: the folder.
        planned: names of all files of the run.
    """

    def __init__(self, folder: Path, planned: Iterable[str] = ()) -> None:
        self.folder = folder
        self._manifest = Manifest(folder)
        self._numbers = dict.fromkeys((name.lower() for name in planned), 1)

    @contextmanager
    def recording(self) -> Iterator[OutputFolder]:
        """Record what is written to the folder during the block."""
        with self._manifest.recording():
            yield self

    def place(self, name: str) -> Path:
        """Return the path for a file of a planned name; with a number if something of the user's has that name."""
        place = self.folder / name
        while self._manifest.foreign([place]):
            place = self.folder / _free_name(name, self._numbers)
        return place


def check_files(options: OutputOptions, reads: Sequence[tuple[str, Path]]) -> None:
    """Check before a long run that its output files can be written; existing ones are not touched.

    Args:
        options: the outputs.
        reads: (flag, file or folder that is read).

    Raises:
        UserError: one cannot be written, is an input, another output or no output of this program, or pyarrow is not
            installed.
    """
    if options.parquet is not None:
        import_arrow()
    outputs = {f"--{form}": Output(path, IS_OWN[form]) for form, path in options.results.items()}
    if options.html is not None:
        outputs["--html"] = Output(options.html, is_contact_sheet)
    for form, path in options.results.items():
        if not is_stream(path):
            outputs[f"--{form}, its record"] = Output(record_path(path), is_record, grows=True)
    check_outputs(outputs, reads, overwrite=options.overwrite)


def made_of_images(options: OutputOptions) -> frozenset[str]:
    """Return the files of the run's folders, without links, that earlier runs made of images: they are no photographs.

    The folder of the outputs may lie among the images, where a second run would find them.
    """
    folders = [folder for folder in (options.path_output, options.write_keywords) if folder is not None]
    return frozenset(os.path.realpath(path) for folder in folders for path in Manifest(folder).files())


def check_images(options: OutputOptions, paths: Sequence[Path], names: Mapping[Path, TargetNames]) -> None:
    """Check that no file made of an image takes the place of an image, whether that was read already or not.

    Raises:
        UserError: an image would be overwritten, two kinds of output share a folder, or one cannot be written to.
    """
    drawings, copies = options.path_output, options.write_keywords
    if options.draws and copies is not None and os.path.realpath(drawings) == os.path.realpath(copies):
        raise UserError(f"--write_keywords {copies}: is --path_output too; choose another folder for one of them")
    if options.draws:
        written = {names[path].drawing for path in paths} if options.annotate else set()
        written |= {names[path].why for path in paths} if options.explain is not None else set()
        _check_folder("--path_output", drawings, written, paths, options)
    if copies is not None:
        _check_folder("--write_keywords", copies, {names[path].copy for path in paths}, paths, options)


def _check_folder(flag: str, folder: Path, written: set[str], paths: Iterable[Path], options: OutputOptions) -> None:
    """Check that a folder can be written to, and that no name written there is that of an image or another output."""
    check_folder(folder, flag)
    for other, path in options.files.items():
        if path.name in written and os.path.realpath(path.parent) == os.path.realpath(folder):
            raise UserError(f"{other} {path}: an image of {flag} has this name; choose another file")
    there = sorted(written.intersection(os.listdir(folder))) if folder.is_dir() else []
    if not there:
        return
    given = set(map(os.path.realpath, paths))
    for name in there:
        if (real := os.path.realpath(folder / name)) in given:
            raise UserError(f"{flag} {folder}: would overwrite the image {real}; choose another folder")


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
    """Return ``name``, or the first free one with a number: ``a-2.jpg``. A name that is too long loses letters.

    ``numbers`` holds each taken name, in lower case because some file systems do not tell A.jpg from a.jpg, and the
    highest number given to it.
    """
    name = free = _shortened(name, "")
    number = numbers.get(name.lower(), 1)
    while free.lower() in numbers:
        number += 1
        free = _shortened(name, f"-{number}")
    numbers[name.lower()] = number
    numbers.setdefault(free.lower(), 1)
    return free


def _shortened(name: str, addition: str) -> str:
    """Put ``addition`` before the suffix of a name, and shorten what stands before it to what a file system takes."""
    stem, suffix = Path(name).stem, Path(name).suffix
    ending = f"{addition}{suffix}"
    while len(stem) > 1 and len(os.fsencode(stem + ending)) > _MAX_NAME:
        stem = stem[:-1]
    return stem + ending
