"""What tagging writes: JSON, CSV and Parquet, whole or not at all, and a killed run can be gone on with."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from src.errors import UserError, name_some
from src.inference.formats import SINKS, Add, Facts, Format, ImageResult, TagRow, import_arrow, written_name
from src.inference.journal import Entry, Journal, locked
from src.inference.readback import READERS
from src.utils.files import atomic_write, check_writable


def check_outputs(outputs: Mapping[Format, Path]) -> None:
    """Make sure before a long run that these can be written in the end; what is there stays as it is.

    Args:
        outputs: the values of ``--json``, ``--csv`` and ``--parquet``.

    Raises:
        UserError: one cannot be written, two are the same file, or pyarrow is not installed.
    """
    taken: dict[str, Format] = {}
    for form, path in outputs.items():
        check_writable(path, f"--{form}")
        other = taken.setdefault(os.path.realpath(path), form)
        if other != form:
            raise UserError(f"--{other} and --{form} {path}: the same file; give each its own")
    if "parquet" in outputs:
        import_arrow()


class ResultWriter:
    """Writes the tags of many images; a context manager.

    Results go to a journal, ``.NAME.journal`` beside the first output, as they come. When the block ends without an
    exception the outputs are made from it, all under temporary names, and put in place; then the journal is deleted.
    Whatever happens before that, the earlier outputs stay whole, and so does the journal, unless it holds nothing new.

    A run that resumes goes on from the journal if there is one. Else it begins with what the finished outputs hold.
    Both refuse other settings than those they were made with, but a CSV file does not say: that it fits is taken on
    trust, and said on standard error. Bad images are tried again, and if they are not given again the messages about
    them are kept; only JSON has a place for these.

    A killed process loses no result. A system that goes down loses those of its last half minute or so.

    Args:
        outputs: paths by format, at least one.
        model: the checkpoint, for readers of the outputs; it is not compared.
        settings: all that the tags of an image depend on, and that makes JSON.
        resume: go on from an earlier run.
        overwrite: drop what an interrupted run left.

    Raises:
        UserError: an output cannot be written (see :func:`check_outputs`). On entering: another run writes one of the
            outputs; an interrupted run's journal is there, and neither flag is given; what is to be resumed is damaged
            or was made with other settings. On leaving: an output cannot be written after all.
    """

    def __init__(
        self,
        outputs: Mapping[Format, Path],
        *,
        model: str,
        settings: Mapping[str, Any],
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        if not outputs:
            raise ValueError("no output")
        if resume and overwrite:
            raise UserError("--resume and --overwrite contradict each other; give one of them")
        check_outputs(outputs)
        self.outputs = dict(outputs)
        self.model = written_name(model)
        self.settings: dict[str, Any] = json.loads(json.dumps(settings, allow_nan=False))  # as they will be read back
        self.resume = resume
        self.overwrite = overwrite
        first = next(iter(self.outputs.values()))
        self.journal_path = first.with_name(f".{first.name}.journal")
        self._worth_keeping = False

    @property
    def done(self) -> set[str]:
        """The images that have tags, as :func:`written_name` writes them: in the beginning those of earlier runs."""
        return self._journal.done

    @property
    def skipped(self) -> dict[str, str]:
        """Messages about bad images, by path."""
        return self._journal.skipped

    def __enter__(self) -> ResultWriter:
        with ExitStack() as stack:
            for form, path in self.outputs.items():
                stack.enter_context(locked(path, f"--{form}"))
            self._journal = Journal(self.journal_path, empty=self.overwrite)
            stack.callback(self._journal.close)
            if self._journal.begun and self.done:
                self._take_up()
            else:
                self._begin()
            self._held = stack.pop_all()
        return self

    def _take_up(self) -> None:
        if not self.resume:
            raise UserError(
                f"{self.journal_path} holds {len(self.done):,} images of a run that was interrupted; give --resume "
                "to go on with it, or --overwrite to start anew"
            )
        self._check_settings(self._journal.settings, self.journal_path)
        self._worth_keeping = True

    def _begin(self) -> None:
        try:
            self._journal.begin(self.settings, self._finished() if self.resume else ())
        except BaseException:
            self._journal.remove()
            raise

    def _finished(self) -> Iterator[Entry]:
        """What the outputs of finished runs hold: images of several once, as the format has them that holds most."""
        for form, read in READERS.items():
            path = self.outputs.get(form)
            if path is None or not path.exists():
                continue
            settings, results, skipped = read(path)
            if settings is not None:
                self._check_settings(settings, path)
            count = 0
            for result in results:
                if result.image not in self.done:
                    count += 1
                    yield Entry(result=result)
            for image, message in skipped.items():
                yield Entry(skipped=(image, message))
            if settings is None and count:
                print(
                    f"--resume --{form} {path}: images taken from it: {count:,}. It does not say with which model "
                    "and settings it was made: make sure that they were these",
                    file=sys.stderr,
                )

    def _check_settings(self, earlier: Mapping[str, Any], path: Path) -> None:
        changed = [
            f"{name}: {_short(earlier, name)} then, {_short(self.settings, name)} now"
            for name in sorted({*earlier, *self.settings})
            if earlier.get(name) != self.settings.get(name) or (name in earlier) != (name in self.settings)
        ]
        if changed:
            raise UserError(
                f"--resume: {path} was made with other settings ({name_some(changed)}); give those, or other outputs, "
                "or --overwrite instead of --resume to start anew"
            )

    def write(self, result: ImageResult) -> None:
        """Write the tags of an image.

        Raises:
            UserError: the disk is full, say; a score is no number; the image has tags already.
        """
        result = _written(result)
        if result.image in self.done:
            raise UserError(f"--pic_path: two images are written as {result.image}; rename one, or give it alone")
        for tag in result.tags:
            if not math.isfinite(tag.score) or not math.isfinite(tag.probability or 0.0):
                raise UserError(
                    f"--model_path: of {result.image} the score of {tag.label!r} is no finite number; the checkpoint "
                    "is damaged, or its training failed: give another"
                )
        self._journal.append(Entry(result=result))
        self._worth_keeping = True

    def skip(self, image: str, message: str) -> None:
        """Write that an image is bad; it replaces an earlier message about it.

        Raises:
            UserError: the disk is full, say.
        """
        self._journal.append(Entry(skipped=(written_name(image), written_name(message))))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._held:
            if kind is None:
                self._journal.sync()
                self._put_in_place()
            elif self._worth_keeping:
                self._journal.sync()
                return
            self._journal.remove()

    def _put_in_place(self) -> None:
        facts = Facts(self.model, self.settings, self.skipped)
        try:
            with ExitStack() as stack:
                # The outputs are replaced when the stack unwinds, so after all of them are written
                streams = {form: stack.enter_context(atomic_write(path)) for form, path in self.outputs.items()}
                adds = [
                    stack.enter_context(_sink(form, self.outputs[form], stream, facts))
                    for form, stream in streams.items()
                ]
                for result in self._journal.results():
                    for add in adds:
                        add(result)
        except UserError as error:
            raise UserError(
                f"{error}; mend that, and go on with --resume: the {len(self.done):,} images are kept in "
                f"{self.journal_path}"
            ) from error


@contextmanager
def _sink(form: Format, path: Path, stream: IO[bytes], facts: Facts) -> Iterator[Add]:
    """As those of ``SINKS``, but what fails is said to be ``path``: several are open at once."""
    with _naming(path):
        with SINKS[form](stream, facts) as add:

            def add_named(result: ImageResult) -> None:
                with _naming(path):
                    add(result)

            yield add_named
        # A full disk shows here, so before any output is replaced
        stream.flush()
        os.fsync(stream.fileno())


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def _written(result: ImageResult) -> ImageResult:
    """The result with names that can be written."""
    annotated = None if result.annotated is None else written_name(result.annotated)
    tags = [
        tag if tag.label.isascii() else TagRow(written_name(tag.label), tag.score, tag.unseen, tag.probability)
        for tag in result.tags
    ]
    return ImageResult(written_name(result.image), tags, annotated)


def _short(settings: Mapping[str, Any], name: str) -> str:
    """A setting for a message, not longer than a digest needs to be told from another."""
    text = json.dumps(settings[name], ensure_ascii=False) if name in settings else "none"
    return text if len(text) <= 40 else f"{text[:37]}..."
