"""Tables of a paper: published numbers beside measured ones, and every known difference between the two settings."""

from __future__ import annotations

import argparse
import json
import statistics
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
        """Return key of validate.py -> percent, of what is published."""
        return {
            f"{setting}.{metric}": value
            for setting, values in (("zero_shot", self.zero_shot), ("generalized", self.generalized))
            for metric, value in values.items()
        }

    def shown(self) -> list[str]:
        """Return the keys of the metrics in a table: P/R/F1@K, mAP, and what else is published."""
        usual = [*(f"{metric}@{k}" for k in self.ks for metric in ("P", "R", "F1")), "mAP"]
        return [
            f"{setting}.{metric}"
            for setting, values in (("zero_shot", self.zero_shot), ("generalized", self.generalized))
            for metric in dict.fromkeys([*usual, *values])
        ]


@dataclass(frozen=True)
class Run:
    """A finished training run.

    Attributes:
        folder: its folder.
        files: checkpoint -> validate.py's file about it; the first one is compared with the reference.
        args: its flags of train.py.
    """

    folder: Path
    files: Mapping[str, Path]
    args: argparse.Namespace


def read_published(name: str) -> Published:
    """Read an entry of published.toml."""
    entry = tomllib.loads(PUBLISHED.read_text(encoding="utf-8"))[name]
    return Published(**{"zero_shot": {}, "generalized": {}, **entry})


def results(published: Published, recipe: str, runs: Sequence[Run]) -> dict[str, Any]:
    """Collect the content of a table as plain values; percentages are not rounded.

    Args:
        published: the reference.
        recipe: name of the recipe of the reference.
        runs: they differ in their seed only; the table has their means.
    """
    reports = {name: [read_json(run.files[name]) for run in runs] for name in runs[0].files}
    measured = {name: [report["metrics"] for report in own] for name, own in reports.items()}
    first = next(iter(reports.values()))
    metrics, args = first[0]["metrics"], runs[0].args
    # a file of an earlier version has the protocol of the paper only
    others = {
        name: [report["other_protocols"][name] for report in first] for name in first[0].get("other_protocols", ())
    }
    logs = [_log(run) for run in runs]
    reference = published.metrics()
    return {
        "title": published.title,
        "whose": published.whose,
        "source": published.source,
        "rows": [
            {
                "key": key,
                "reference": reference.get(key),
                "measured": {name: _mean(key, own) for name, own in measured.items()},
                "deviation": {name: _deviation(key, own) for name, own in measured.items()},
                "best_possible": metrics.get(key.replace(".", ".ceiling.")),
                "other_protocols": {name: _mean(key, own) for name, own in others.items()},
            }
            for key in published.shown()
            if key in reference or key in metrics
        ],
        "protocol": {"images": published.images, "known": published.protocol.strip()},
        "images": {setting: _images(setting, published, metrics) for setting in SETTINGS},
        "counts": {key: {"whole": whole, "found": metrics.get(key)} for key, whole in published.counts.items()},
        "checkpoint": {"rule": "last epoch", "epoch": logs[0][-1]["epoch"], "num_epochs": args.num_epochs},
        "recipe": args.recipe,
        "other_than_recipe": other_than_recipe(recipe, args),
        "seeds": [run.args.seed for run in runs],
        "training_seconds": round(sum(entry["seconds"] for log in logs for entry in log), 1),
        "bad_images": len(first[0]["bad_images"]),
        "versions": first[0]["versions"],
    }


def _log(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def _mean(key: str, metrics: Sequence[Mapping[str, float]]) -> float | None:
    """Return the mean of a metric over the seeds, or None if the data set lacks it."""
    return statistics.mean(own[key] for own in metrics) if key in metrics[0] else None


def _deviation(key: str, metrics: Sequence[Mapping[str, float]]) -> float | None:
    """Return the standard deviation of a metric over the seeds (n - 1), or None if there is none."""
    return statistics.stdev(own[key] for own in metrics) if key in metrics[0] and len(metrics) > 1 else None


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
    names, others = (list(found["rows"][0][kind]) for kind in ("measured", "other_protocols"))
    recipe, checkpoint, reasons, seeds = found["recipe"], found["checkpoint"], differences(found), found["seeds"]
    header = ["setting", "metric", found["whose"], *(f"measured, {name}" for name in names), "difference"]
    header += ["best possible", *(f"{names[0]}, {name}" for name in others)]
    notes = [
        f"{found['whose'].capitalize()}: {found['source']}.",
        f"Protocol: {found['protocol']['images']}, micro P/R/F1@K. {' '.join(found['protocol']['known'].split())}",
        *(_images_line(SETTINGS[setting], of_setting) for setting, of_setting in found["images"].items()),
        f"Checkpoint: epoch {checkpoint['epoch']} of {checkpoint['num_epochs']}, the last one, not the best.",
        f"Recipe: {recipe}, {_seeds(seeds)}; {found['training_seconds']:,.0f} s in its epochs. "
        f"The recipe's file marks what is published and what was chosen.",
        "No difference from the setting of the reference is known, except those that the recipe lists."
        if not reasons
        else "**Not the setting of the reference:** " + "; ".join(reasons) + ".",
    ]
    table = markdown_table(header, [_row(row) for row in found["rows"]])
    return "\n".join([f"# {found['title']}", "", table, "", *(f"- {note}" for note in notes)])


def _row(row: Mapping[str, Any]) -> list[str]:
    """Format the cells of a metric."""
    setting, _, metric = row["key"].partition(".")
    reference, measured = row["reference"], row["measured"]
    first = next(iter(measured.values()))
    return [
        SETTINGS[setting],
        metric,
        "-" if reference is None else f"{reference:g}",
        *(_percent(value, row["deviation"][name]) for name, value in measured.items()),
        "-" if first is None or reference is None else f"{first - reference:+.2f}",
        _percent(row["best_possible"]),
        *map(_percent, row["other_protocols"].values()),
    ]


def _seeds(seeds: Sequence[int]) -> str:
    """Name the seeds, and what ± means if there are several."""
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    return f"mean and standard deviation of the seeds {', '.join(map(str, seeds))}"


def _images_line(setting: str, of_setting: Mapping[str, float | None]) -> str:
    labels, implied = of_setting["labels_per_image"], of_setting["labels_per_image_of_reference"]
    if labels is None:
        return f"{setting.capitalize()}: no label is unseen."
    reference = "" if implied is None else f"; the reference's P and R imply {implied:.4f}"
    return f"{setting.capitalize()}: {of_setting['num_images']:,.0f} images, {labels:.4f} labels each{reference}."


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))


def _percent(value: float | None, deviation: float | None = None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if deviation is None else f"{value:.2f} ± {deviation:.2f}"


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
