"""Write the tags of a run as JSON, CSV and Parquet, whole or not at all, and resume runs that were stopped."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import Any

from src.choices import OutputFormat
from src.errors import UserError, name_some
from src.inference.formats import WRITERS, ImageResult, RunFacts, TagRow, import_arrow, printable
from src.inference.record import Line, Record
from src.utils.files import atomic_write, check_writable


def check_outputs(outputs: Mapping[OutputFormat, Path]) -> None:
    """Check before a long run that its outputs can be written; existing files are not touched.

    Args:
        outputs: the values of ``--json``, ``--csv`` and ``--parquet``.

    Raises:
        UserError: one cannot be written, two are the same file, or pyarrow is not installed.
    """
    taken: dict[str, OutputFormat] = {}
    for form, path in outputs.items():
        check_writable(path, f"--{form}")
        other = taken.setdefault(os.path.realpath(path), form)
        if other != form:
            raise UserError(f"--{other} and --{form} {path}: the same file; give each its own")
    if "parquet" in outputs:
        import_arrow()


def record_path(output: Path) -> Path:
    """Return the path of an output's record: ``tags.json`` -> ``tags.json.record.jsonl``."""
    return output.with_name(f"{output.name}.record.jsonl")


class ResultWriter:
    """Writes the tags of many images; a context manager.

    Each image goes to a record (:mod:`src.inference.record`) beside the first output as soon as its tags are known.
    When the block ends without an exception, all outputs are made from the record under temporary names and then
    renamed; until then existing outputs stay whole. The record stays, so that finished runs can be resumed too.
    It is first changed when an image has tags: a run that fails before that leaves an earlier record as it was.

    Args:
        outputs: paths by format, at least one.
        model: path of the checkpoint, recorded but not compared.
        settings: everything that the tags depend on; must be representable in JSON.
        resume: continue the record that one of the outputs has.
        overwrite: drop the record of an interrupted run.

    Raises:
        UserError: an output cannot be written (see :func:`check_outputs`). On entering: another run is writing the
            record; it is of an interrupted run, and neither flag is given; what is to be resumed is damaged, was made
            with other settings, or has no record. On leaving: an output cannot be written.
    """

    def __init__(
        self,
        outputs: Mapping[OutputFormat, Path],
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
        self.settings: dict[str, Any] = json.loads(json.dumps(settings, allow_nan=False))  # as they will be read back
        self._model = printable(model)
        self._resume = resume
        self._overwrite = overwrite
        self._pending: dict[str, str] = {}  # skipped images that are not in the record yet

    @property
    def done(self) -> set[str]:
        """Images that have tags, as :func:`printable` writes them; on entering those of the resumed run."""
        return self._record.done if self._started else set()

    @property
    def skipped(self) -> dict[str, str]:
        """Messages about unreadable images, by path."""
        return self._record.skipped if self._started else self._pending

    def __enter__(self) -> ResultWriter:
        paths = [record_path(path) for path in self.outputs.values()]
        found = [path for path in paths if path.exists()]
        if self._resume:
            self._check_resumable(found)
        with ExitStack() as stack:
            records = [
                stack.enter_context(closing(Record(path, discard=self._overwrite))) for path in found or paths[:1]
            ]
            self._record = records[0]
            self._others = [record.path for record in records[1:]]
            self._started = self._resume and self._record.settings is not None
            if self._started:
                self._check_settings()
            elif not self._resume:
                for record in records:
                    if record.done and not record.finished:
                        raise UserError(
                            f"{record.path} holds {len(record.done):,} images of a run that was interrupted; give "
                            "--resume to continue it, or --overwrite to start over"
                        )
            self._open = stack.pop_all()
        return self

    def _check_resumable(self, records: list[Path]) -> None:
        if len(records) > 1:
            raise UserError(
                f"--resume: {' and '.join(map(str, records))} are records of two runs; give the output of one of them, "
                "or --overwrite instead of --resume to start over"
            )
        output = next((path for path in self.outputs.values() if path.exists()), None)
        if output is not None and not records:
            raise UserError(
                f"--resume: {output} exists, but not {record_path(output)}, the record of the run that wrote it; leave "
                "--resume out to write the output anew"
            )

    def _check_settings(self) -> None:
        earlier, now = self._record.settings or {}, self.settings
        changed = [
            f"{name}: {_short(earlier, name)} then, {_short(now, name)} now"
            for name in sorted({*earlier, *now})
            if (name in earlier, earlier.get(name)) != (name in now, now.get(name))
        ]
        if changed:
            raise UserError(
                f"--resume: {self._record.path} was made with other settings ({name_some(changed)}); give those, or "
                "other outputs, or --overwrite instead of --resume to start over"
            )

    def _start(self) -> None:
        if not self._started:
            self._record.start(self.settings)
            self._started = True
            for skipped in self._pending.items():
                self._record.append(Line(skipped=skipped))

    def write(self, result: ImageResult) -> None:
        """Write the tags of an image.

        Raises:
            UserError: the disk is full, for example; a score is not finite; the image has tags already.
        """
        annotated = None if result.annotated is None else printable(result.annotated)
        tags = [TagRow(printable(tag.label), tag.score, tag.unseen, tag.probability) for tag in result.tags]
        result = ImageResult(printable(result.image), tags, annotated)
        if result.image in self.done:
            raise UserError(f"--pic_path: two images are written as {result.image}; rename one, or tag it separately")
        for tag in tags:
            if not math.isfinite(tag.score) or not math.isfinite(tag.probability or 0.0):
                raise UserError(
                    f"--model_path: the score of {tag.label!r} for {result.image} is not a finite number; the "
                    "checkpoint is damaged, or its training diverged: give another"
                )
        self._start()
        self._record.append(Line(result=result))

    def skip(self, image: str, message: str) -> None:
        """Write that an image is unreadable; replaces an earlier message about it.

        Raises:
            UserError: the disk is full, for example.
        """
        skipped = printable(image), printable(message)
        if self._started:
            self._record.append(Line(skipped=skipped))
        else:
            self._pending[skipped[0]] = skipped[1]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._open:
            if kind is None:
                self._start()
                self._write_outputs()
                self._record.append(Line(finished=True))
                for path in self._others:  # of runs whose outputs have just been replaced
                    path.unlink()

    def _write_outputs(self) -> None:
        facts = RunFacts(self._model, self.settings, self.skipped)
        try:
            with ExitStack() as stack:  # renames the outputs when it unwinds, after all of them were written
                for form, path in self.outputs.items():
                    stream = stack.enter_context(atomic_write(path))
                    WRITERS[form](stream, facts, self._record.results())
                    stream.flush()
                    os.fsync(stream.fileno())  # a full disk shows here, before any output is replaced
        except UserError as error:
            raise UserError(
                f"{error}; make room, and continue with --resume: the {len(self.done):,} images are kept in "
                f"{self._record.path}"
            ) from error


def _short(settings: Mapping[str, Any], name: str) -> str:
    """Format a setting for a message, cut to 40 characters."""
    text = json.dumps(settings[name], ensure_ascii=False) if name in settings else "none"
    return text if len(text) <= 40 else f"{text[:37]}..."
