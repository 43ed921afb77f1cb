"""Run infer.py: load the model, read and tag the images, write the outputs."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from src.config.infer import InferSettings
from src.config.infer_outputs import OutputOptions
from src.data.folders import EXCLUDED_FOLDERS
from src.errors import UserError, prefix_errors
from src.inference.contact_sheet import open_contact_sheet
from src.inference.explain import feature_map
from src.inference.input_paths import expand
from src.inference.keywords import KeywordWriter, SidecarWriter
from src.inference.outputs import Outputs, Summary, TaggedImage, write_image
from src.inference.pipeline import Loading, parallel_calls, read_and_embed
from src.inference.results import open_results
from src.inference.tagger import Tagger
from src.inference.targets import OutputFolder, TargetNames, check_files, check_images, made_of_images, target_names
from src.models.sdl_model import check_image_size
from src.options import TagRule
from src.text import on_screen, printable
from src.utils.device import choose_device
from src.utils.digest import file_digest
from src.utils.outputs import recording
from src.utils.streams import messages_beside

DEFAULT_TOP_K = 10
MANY_IMAGES = 50  # more are annotated on request only: drawing takes longer than tagging


def run(settings: InferSettings) -> int:
    """Tag the images and write the outputs.

    Returns:
        0, or 1 if some of several images could not be read or their keywords not be written.

    Raises:
        UserError: a file cannot be read or written, does not fit, or no image can be read.
    """
    with messages_beside(settings.outputs.files), recording(settings.outputs.files.values()):
        return _run(settings)


def _run(settings: InferSettings) -> int:
    if settings.num_threads is not None:
        torch.set_num_threads(settings.num_threads)
    paths = find_images(settings)
    check_files(settings.outputs, [*(("the image", path) for path in paths), *settings.reads])
    settings = replace(settings, outputs=decide_annotation(settings.outputs, len(paths)))
    names = target_names(paths)
    check_images(settings.outputs, paths, names)
    loading = Loading(settings.batch_size, settings.workers)
    loading = replace(loading, parallel_calls=parallel_calls(len(paths), loading))
    tagger = load_tagger(settings, loading.parallel_calls)
    rule = settings.rule
    if rule.top_k is None and rule.threshold is None:
        rule = replace(rule, top_k=min(DEFAULT_TOP_K, len(tagger.split.labels)))
    tagger.check(rule)
    with ExitStack() as stack:
        outputs = open_outputs(settings, tagger, rule, names, stack)
        done = outputs.results.done if outputs.results is not None else set()
        left = [path for path in paths if printable(path) not in done]
        if len(left) < len(paths):
            print(f"{len(paths) - len(left):,} of {len(paths):,} images are done already", file=sys.stderr)
        summary = tag_images(tagger, rule, left, outputs, loading, names)
        if summary.bad and not summary.tagged and len(left) == len(paths):
            raise UserError(f"--pic_path: none of the {len(summary.bad):,} images could be read")
    if summary.bad:
        print(f"{len(summary.bad):,} of {len(paths):,} images could not be read and have no tags", file=sys.stderr)
    if summary.without_keywords:
        print(f"{summary.without_keywords:,} images have no keywords, which could not be written", file=sys.stderr)
    if summary.unwritten:
        print(f"{summary.unwritten:,} images lack a file that could not be written", file=sys.stderr)
    return 1 if summary.bad or summary.without_keywords or summary.unwritten else 0


def decide_annotation(options: OutputOptions, num_images: int) -> OutputOptions:
    """Decide whether images are annotated, if no flag does; says so on standard error if many are not."""
    if options.no_picture or options.annotate:
        return options
    if num_images > MANY_IMAGES:
        print(f"{num_images:,} images: none is annotated unless you give --annotate", file=sys.stderr)
    return replace(options, annotate=num_images <= MANY_IMAGES)


def find_images(settings: InferSettings) -> list[Path]:
    """Expand ``--pic_path``, and report on standard error what is passed over and why."""
    notes: list[str] = []
    default = EXCLUDED_FOLDERS if settings.default_exclude else ()
    made = made_of_images(settings.outputs)
    paths = expand(
        settings.images, sys.stdin, exclude=settings.exclude, default_exclude=default, made=made, notes=notes
    )
    for note in notes:
        print(on_screen(note), file=sys.stderr)
    return paths


def load_tagger(settings: InferSettings, threads: int) -> Tagger:
    """Load the model with its labels and the user's own words, to be called by ``threads`` threads.

    Raises:
        UserError: a file cannot be read or does not fit.
    """
    path, image_size = settings.model_path, settings.runtime.image_size
    runtime = replace(settings.runtime, device=choose_device(str(settings.runtime.device)), parallel_calls=threads)
    explains = settings.outputs.explain is not None
    if explains and runtime.engine == "auto" and path.suffix.lower() != ".onnx":
        runtime = replace(runtime, engine="torch")
    with prefix_errors("--model_path" if settings.labels.dataset_path is None else "--model_path, --dataset_path"):
        tagger = Tagger.load(
            path,
            labels=settings.labels,
            expected=settings.expected,
            runtime=runtime,
            exact=settings.exact,
            reading=settings.reading,
        )
    if image_size is not None and isinstance(tagger.model, torch.nn.Module):
        check_image_size(tagger.model, image_size, "--input_size")
    if explains:  # raises for other models, before anything is written
        size = tagger.transform.image_size
        feature_map(tagger.model, torch.full((1, 3, size, size), 0.5, device=tagger.device))
    return tagger


def open_outputs(
    settings: InferSettings, tagger: Tagger, rule: TagRule, names: Mapping[Path, TargetNames], stack: ExitStack
) -> Outputs:
    """Open all outputs; leaving ``stack`` finishes them.

    Raises:
        UserError: an output cannot be opened.
    """
    options = settings.outputs
    outputs = Outputs(options)
    if options.results:
        recorded = recorded_settings(settings, tagger, rule)
        outputs.results = stack.enter_context(open_results(options, model=str(settings.model_path), settings=recorded))
    if options.html is not None:
        outputs.sheet = stack.enter_context(open_contact_sheet(options.html, options.html.stem))
    if options.write_keywords is not None:
        outputs.keywords = KeywordWriter(options.write_keywords)
        copies = OutputFolder(options.write_keywords, (name.copy for name in names.values()))
        outputs.copies = stack.enter_context(copies.recording())
    if options.write_xmp:
        outputs.sidecars = SidecarWriter()
    if options.draws:
        drawn = (name for one in names.values() for name in (one.drawing, one.why))
        outputs.drawings = stack.enter_context(OutputFolder(options.path_output, drawn).recording())
    return outputs


def recorded_settings(settings: InferSettings, tagger: Tagger, rule: TagRule) -> dict[str, Any]:
    """Return everything that the tags of an image depend on; a resumed run must have the same."""
    split = tagger.split
    labels = hashlib.sha256("\n".join(split.labels).encode())
    labels.update(repr(sorted(split.seen)).encode())
    labels.update(split.word_vectors.contiguous().numpy().tobytes())
    return {
        "checkpoint_sha256": file_digest(settings.model_path)[:16],
        "engine": tagger.engine,
        "exact_pictures": settings.exact,
        "labels_sha256": labels.hexdigest()[:16],  # with word vectors, seen and unseen
        "num_labels": len(split.labels),
        "image_size": tagger.transform.image_size,
        "top_k": rule.top_k,
        "threshold": rule.threshold,
        "scores": rule.scores,
        "seen_bias": rule.seen_bias,
    }


def tag_images(
    tagger: Tagger,
    rule: TagRule,
    paths: Sequence[Path],
    outputs: Outputs,
    loading: Loading,
    names: Mapping[Path, TargetNames] | None = None,
) -> Summary:
    """Tag images and write each to the outputs. Unreadable ones are reported on standard error and skipped.

    Args:
        tagger: model and labels.
        rule: selection of tags.
        paths: the images.
        outputs: open outputs.
        loading: batch size and threads.
        names: names of the files made of each image, among all images of the run; None: of ``paths``.

    Raises:
        UserError: an output cannot be written.
    """
    summary = Summary()
    names = target_names(paths) if names is None else names
    loading = replace(loading, parallel_calls=tagger.parallel_calls, previews=outputs.shows_images)
    hidden = None if len(paths) > loading.batch_size else True
    with tqdm(total=len(paths), unit="img", disable=hidden, leave=False) as bar:
        for batch, embeddings in read_and_embed(paths, tagger.transform, tagger.embed, loading):
            for path, problem in batch.problems:
                with bar.external_write_mode(sys.stderr):
                    print(f"skipped: {on_screen(problem)}", file=sys.stderr)
                summary.bad.append(problem)
                if outputs.results is not None:
                    outputs.results.skip(str(path), problem)
            tags_of = [] if embeddings is None else tagger.choose(embeddings, rule)
            for place, (path, tags) in enumerate(zip(batch.paths, tags_of, strict=True)):
                preview = batch.previews[place] if batch.previews else None
                image = TaggedImage(path, tags, batch.images[place], preview)
                with bar.external_write_mode(sys.stdout):
                    write_image(image, names[path], outputs, tagger, rule.scores, summary)
            bar.update(len(batch.paths) + len(batch.problems))
    return summary
