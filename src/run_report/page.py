"""The page: one HTML file with everything in it, readable without the run, the project or a network."""

from __future__ import annotations

from pathlib import Path

import jinja2

from src.checkpoint.info import package_versions
from src.data.images import BadImageError, data_url, read_image
from src.metrics.table import SETTINGS
from src.run_report.charts import number
from src.run_report.curves import curves
from src.run_report.ranking import confusions, examples, rank_labels, samples
from src.run_report.report import RunReport
from src.run_report.tables import label_charts, label_rows, measured
from src.run_report.vectors import measure_spread, spread_charts, vector_rows
from src.text import PRINTABLE
from src.utils.files import atomic_write

_BEST = 5  # labels of an image that are examined, at least
_CONFUSIONS = 14  # of each setting
_CONFUSION_IMAGES = 12  # of all settings
_SAMPLES = 8
_THUMBNAIL = (300, 220)  # pixels; shown at about half the size, so that it is sharp on dense screens


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
    evaluated = report.evaluated
    k = min(evaluated.protocol.ks, default=3)
    rankings = rank_labels(evaluated, max(k, _BEST))
    found = {setting: confusions(ranking, evaluated, k, _CONFUSIONS) for setting, ranking in rankings.items()}
    shown: set[int] = set()
    with_image = _CONFUSION_IMAGES // len(rankings)
    rows = label_rows(evaluated.split, rankings)
    spread = measure_spread(evaluated, rankings["generalized"])
    text = _template().render(
        report=report,
        evaluated=evaluated,
        facts=_facts(report),
        measured=measured,
        settings=SETTINGS,
        curves=curves(report.entries),
        label_rows=rows,
        label_charts=label_charts(rows),
        k=k,
        confusions={
            setting: (list(zip(pairs, examples(pairs[:with_image], shown), strict=False)), pairs[with_image:])
            for setting, pairs in found.items()
        },
        spread=spread,
        spread_charts=spread_charts(spread) if spread else [],
        vector_rows=vector_rows(spread) if spread else [],
        num_best=rankings["generalized"].best.shape[1],
        samples=samples(rankings, evaluated, _SAMPLES),
        versions=package_versions(),
    )
    with atomic_write(path) as stream:
        stream.write(text.encode("utf-8", PRINTABLE))  # a file name need not be Unicode


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.globals["thumbnail"] = _thumbnail
    return environment.get_template("page.html")


def _thumbnail(path: Path) -> str | None:
    """Return the image as a small data URL; None if it is gone or cannot be read any more."""
    try:
        return data_url(read_image(path, at_least=2 * max(_THUMBNAIL)), _THUMBNAIL)
    except BadImageError:
        return None


def _facts(report: RunReport) -> list[str]:
    """List the facts below the heading: data, model, length of the training."""
    evaluated, split = report.evaluated, report.evaluated.split
    neither = len(split.labels) - len(split.seen) - len(split.unseen)
    vectors = evaluated.num_vectors
    facts = [
        split.name,
        f"{len(split.seen):,} seen and {len(split.unseen):,} unseen labels"
        + f" ({neither:,} on neither side)" * (neither > 0),
        f"{vectors} principal vector{'s' * (vectors > 1)} of length {split.wordvec_dim}",
        f"{len(evaluated.paths):,} evaluation images",
    ]
    if report.entries:
        train = report.entries[-1]["train"]
        epochs = len(report.entries)
        facts.append(f"{epochs:,} epoch{'s' * (epochs > 1)} of {train['num_images']:,} training images")
        facts.append(_duration(sum(entry["seconds"] for entry in report.entries)))
        if train["bad"]:
            facts.append(f"{train['bad']:,} training images could not be read")
    return facts


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{minutes} minutes" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
