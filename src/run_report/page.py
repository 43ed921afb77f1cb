"""The page: one HTML file with everything in it, readable without the run, the project or a network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from src.checkpoint.info import package_versions
from src.run_report.curves import curves
from src.run_report.images import confusion_cards, sample_cards, sample_rows
from src.run_report.labels import label_charts, label_rows
from src.run_report.ranking import Ranking, confusions, rank_generalized, rank_zero_shot
from src.run_report.report import RunReport
from src.run_report.results import PROTOCOLS, SETTINGS, ks_of, results
from src.run_report.spread import measure_spread
from src.run_report.text import escape
from src.run_report.vectors import vector_charts, vector_rows
from src.utils.files import atomic_write

_PAGE = Path(__file__).with_name("page.html")
_BEST = 5  # labels of an image that are looked at, at least
_CONFUSIONS = 14  # of each setting
_CONFUSION_IMAGES = 12  # of all settings
_SAMPLES = 8


def write_report(path: str | Path, report: RunReport) -> None:
    """Write the page.

    Scores are made in blocks: beside the report's own tensors about 1 GiB is held at most, whatever N and C are.

    Args:
        path: the ``.html`` file.
        report: what it shows.

    Raises:
        UserError: the file cannot be written.
        ValueError: a score is NaN.
    """
    k = min(ks_of(report.metrics), default=3)
    generalized = rank_generalized(report, max(k, _BEST))
    zero_shot = rank_zero_shot(report, k)
    charts = curves(report.entries)
    parts = {
        "title": escape(report.title),
        "chosen": escape(report.chosen),
        "facts": _facts(report),
        "results": results(report.metrics),
        "protocol": escape(PROTOCOLS[report.images]),
        "training": _part("training", "Training", "By epoch; the last value of each curve stands below it.", charts),
        "label_charts": label_charts(report.split, generalized),
        "label_rows": label_rows(report.split, generalized, zero_shot),
        "label_note": _means(report.metrics),
        "confusions": _confusions(report, generalized, zero_shot, k),
        "k": str(k),
        "vectors": _vectors(report, generalized),
        "samples": sample_cards(
            sample_rows(generalized, zero_shot, _SAMPLES), generalized, report.targets, report.split, report.paths
        ),
        "settings": _table(report.settings),
        "versions": _table(package_versions()),
    }
    text = Template(_PAGE.read_text(encoding="utf-8")).substitute(parts)
    with atomic_write(path, "w") as stream:
        stream.write(text)


def _facts(report: RunReport) -> str:
    """Chips below the heading: data, model, length of the training."""
    split = report.split
    neither = len(split.labels) - len(split.seen) - len(split.unseen)
    labels = f"{len(split.seen):,} seen and {len(split.unseen):,} unseen labels"
    facts = [
        split.name,
        labels + (f" ({neither:,} on neither side)" if neither else ""),
        f"{report.num_rows} principal vector{'s' * (report.num_rows > 1)} of length {split.wordvec_dim}",
        f"{len(report.paths):,} evaluation images",
    ]
    if report.entries:
        train = report.entries[-1]["train"]
        epochs = len(report.entries)
        facts.append(f"{epochs:,} epoch{'s' * (epochs > 1)} of {train['num_images']:,} training images")
        facts.append(_duration(sum(entry["seconds"] for entry in report.entries)))
        if train["bad"]:
            facts.append(f"{train['bad']:,} training images could not be read")
    return "".join(f"<li>{escape(fact)}</li>" for fact in facts)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{minutes} minutes" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def _part(anchor: str, heading: str, lead: str, figures: str, after: str = "") -> str:
    """A part that is left out where it has no figure."""
    if not figures:
        return ""
    return (
        f'<section id="{anchor}"><h2>{heading}</h2><p>{lead}</p><div class="figures">{figures}</div>{after}</section>'
    )


def _means(metrics: Mapping[str, float]) -> str:
    """Which of the headline numbers the two columns of the table average to."""
    means = [
        f"The mean of {column} is the {SETTINGS[setting]} mAP_skip, {metrics[f'{setting}.mAP_skip']:.2f}."
        for column, setting in (("AP", "generalized"), ("the zero-shot column", "zero_shot"))
        if f"{setting}.mAP_skip" in metrics
    ]
    return escape(" ".join(means))


def _confusions(report: RunReport, generalized: Ranking, zero_shot: Ranking | None, k: int) -> str:
    """The most frequent confusions of each setting."""
    rankings = {"generalized": generalized} if zero_shot is None else {
        "zero_shot": zero_shot, "generalized": generalized
    }  # fmt: skip
    shown: set[int] = set()
    parts = []
    for setting, ranking in rankings.items():
        found = confusions(ranking, report.targets, k, _CONFUSIONS)
        cards = confusion_cards(found, report.split, report.paths, _CONFUSION_IMAGES // len(rankings), shown)
        parts.append(f"<h3>{SETTINGS[setting].capitalize()}</h3>{cards if found else '<p>None.</p>'}")
    return "".join(parts)


def _vectors(report: RunReport, ranking: Ranking) -> str:
    """How the principal vectors spread; nothing where there is but one, or no image."""
    if report.num_rows == 1 or not len(report.paths):
        return ""
    spread = measure_spread(report.embeddings, report.split.word_vectors, ranking.rows, ranking.best)
    k = ranking.best.shape[1]
    table = (
        f'<div class="card"><h3>Which vector gives the {k} best tags of an image</h3>'
        '<table class="measured wins"><thead><tr><th>vector</th><td></td><td>share</td><td>most frequent tags</td></tr>'
        f"</thead><tbody>{vector_rows(spread, report.split)}</tbody></table></div>"
    )
    lead = "A label's score is its best match among these vectors of an image."
    return _part("vectors", "Principal vectors", lead, vector_charts(spread), table)


def _table(values: Mapping[str, Any]) -> str:
    """Names and values, a row each."""
    return "".join(
        f"<tr><th>{escape(name)}</th><td>{'–' if value is None else escape(value)}</td></tr>"
        for name, value in values.items()
    )
