"""Tables of a paper: published numbers beside measured ones, and every known difference between the two settings."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.config.recipes import effective_settings, parse_with_recipe
from src.config.train_flags import train_parser
from src.utils.files import atomic_write, write_json
from src.utils.json_files import read_json

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PUBLISHED = Path(__file__).resolve().parent / "published.toml"
SETTINGS = {"zero_shot": "zero-shot", "generalized": "generalised"}
# Flags that do not change the experiment.
_OF_THE_MACHINE = ("seed", "device", "workers")


@dataclass(frozen=True)
class Published:
    """An entry of published.toml.

    Attributes:
        title: of the table.
        whose: ``published``, or another origin of the reference.
        source: publication and table of the reference.
        images: the protocol, for validate.py.
        protocol: known details of the published protocol.
        ks: the K of P/R/F1@K.
        counts: validate.py's counts on a complete copy of the data set.
        zero_shot, generalized: metric -> percent, under validate.py's names.
    """

    title: str
    whose: str
    source: str
    images: str
    protocol: str
    ks: list[int]
    counts: dict[str, float]
    zero_shot: dict[str, float]
    generalized: dict[str, float]

    def metrics(self) -> dict[str, float]:
        """Return key of validate.py -> percent."""
        return {
            f"{setting}.{metric}": value
            for setting, values in (("zero_shot", self.zero_shot), ("generalized", self.generalized))
            for metric, value in values.items()
        }


def read_published(name: str) -> Published:
    """Read an entry of published.toml."""
    entry = tomllib.loads(PUBLISHED.read_text(encoding="utf-8"))[name]
    return Published(**{"generalized": {}, **entry})


def results(
    published: Published, recipe: str, run: Path, files: Mapping[str, Path], args: argparse.Namespace
) -> dict[str, Any]:
    """Collect the content of a table as plain values; percentages are not rounded.

    Args:
        published: the reference.
        recipe: its name.
        run: folder of the training run.
        files: checkpoint -> validate.py's file about it; the first one is compared with the reference.
        args: flags of train.py.
    """
    reports = {name: read_json(file) for name, file in files.items()}
    metrics = {name: report["metrics"] for name, report in reports.items()}
    first = next(iter(metrics.values()))
    log = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    counts = {key: {"whole": whole, "found": first.get(key)} for key, whole in published.counts.items()}
    return {
        "title": published.title,
        "whose": published.whose,
        "source": published.source,
        "rows": [
            {"key": key, "reference": value, "measured": {name: own.get(key) for name, own in metrics.items()}}
            for key, value in published.metrics().items()
        ],
        "protocol": {"images": published.images, "known": published.protocol.strip()},
        "images": {setting: _images(setting, published, first) for setting in SETTINGS},
        "counts": counts,
        "checkpoint": {"rule": "last epoch", "epoch": log[-1]["epoch"], "num_epochs": args.num_epochs},
        "recipe": recipe,
        "other_than_recipe": other_than_recipe(recipe, args),
        "seed": args.seed,
        "training_seconds": round(sum(entry["seconds"] for entry in log), 1),
        "bad_images": len(next(iter(reports.values()))["bad_images"]),
        "versions": next(iter(reports.values()))["versions"],
    }


def _images(setting: str, published: Published, metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Return the number of images, the labels per image, and the labels per image that the reference implies.

    P = hits / (N K) and R = hits / positives, so K P / R is the number of positives per image in any measurement.
    """
    reference = published.metrics()
    implied = [
        k * reference[f"{setting}.P@{k}"] / reference[f"{setting}.R@{k}"]
        for k in published.ks
        if f"{setting}.P@{k}" in reference and f"{setting}.R@{k}" in reference
    ]
    return {
        "num_images": metrics.get(f"{setting}.num_images"),
        "labels_per_image": metrics.get(f"{setting}.labels_per_image"),
        "labels_per_image_of_reference": implied[0] if implied else None,
    }


def other_than_recipe(recipe: str, args: argparse.Namespace) -> dict[str, list[Any]]:
    """Return flag -> [value of the recipe or default, value used], for the settings that differ."""
    parser = train_parser(None)
    plain = effective_settings(parser, parse_with_recipe(parser, ["--recipe", recipe]))[0]
    used = effective_settings(parser, args)[0]
    return {
        key: [plain.get(key), used.get(key)]
        for key in sorted({*plain, *used})
        if plain.get(key) != used.get(key) and key not in _OF_THE_MACHINE
    }


def differences(found: Mapping[str, Any]) -> list[str]:
    """List the reasons why :func:`results` are not comparable with the reference; empty if no difference is known."""
    reasons = [
        f"{key} is {_count(count['found'])}, on the complete data set {_count(count['whole'])}"
        for key, count in found["counts"].items()
        if count["found"] != count["whole"]
    ]
    reasons += [f"--{key} {used} instead of {plain}" for key, (plain, used) in found["other_than_recipe"].items()]
    if found["bad_images"]:
        reasons.append(f"{found['bad_images']:,} test images could not be read")
    return reasons


def as_markdown(found: Mapping[str, Any]) -> str:
    """Format the table, with notes below it that qualify the comparison."""
    names = list(found["rows"][0]["measured"])
    recipe, checkpoint, reasons = found["recipe"], found["checkpoint"], differences(found)
    header = ["setting", "metric", found["whose"], *(f"measured, {name}" for name in names), "difference"]
    rows = []
    for row in found["rows"]:
        setting, _, metric = row["key"].partition(".")
        measured = [row["measured"][name] for name in names]
        gap = "-" if measured[0] is None else f"{measured[0] - row['reference']:+.2f}"
        rows.append([SETTINGS[setting], metric, f"{row['reference']:g}", *map(_percent, measured), gap])
    notes = [
        f"{found['whose'].capitalize()}: {found['source']}.",
        f"Protocol: {found['protocol']['images']}, micro P/R/F1@K. {' '.join(found['protocol']['known'].split())}",
        *(_images_line(SETTINGS[setting], of_setting) for setting, of_setting in found["images"].items()),
        f"Checkpoint: epoch {checkpoint['epoch']} of {checkpoint['num_epochs']}, the last one, not the best.",
        f"Recipe: {recipe}, seed {found['seed']}; {found['training_seconds']:,.0f} s in its epochs. "
        f"recipes/{recipe}.toml marks what is published and what was chosen.",
        "No difference from the setting of the reference is known, except those that the recipe lists."
        if not reasons
        else "**Not the setting of the reference:** " + "; ".join(reasons) + ".",
    ]
    return "\n".join([f"# {found['title']}", "", markdown_table(header, rows), "", *(f"- {note}" for note in notes)])


def _images_line(setting: str, of_setting: Mapping[str, float | None]) -> str:
    labels, implied = of_setting["labels_per_image"], of_setting["labels_per_image_of_reference"]
    if labels is None:
        return f"{setting.capitalize()}: no label is unseen."
    reference = "" if implied is None else f"; the reference's P and R imply {implied:.4f}"
    return f"{setting.capitalize()}: {of_setting['num_images']:,.0f} images, {labels:.4f} labels each{reference}."


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _count(value: float | None) -> str:
    return "not there" if value is None else f"{value:,.0f}"


def write_results(output: Path, found: Mapping[str, Any]) -> str:
    """Write ``results.json`` and ``results.md``; return the text of the latter."""
    text = as_markdown(found)
    write_json(output / "results.json", found)
    write_text(output / "results.md", text)
    return f"\n{text}\n\nwritten to {output / 'results.md'} and {output / 'results.json'}"


def write_text(file: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_write(file, "w") as stream:
        stream.write(text + "\n")
