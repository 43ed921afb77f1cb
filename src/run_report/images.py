"""The parts of the page that show images: the most frequent confusions, and samples with their tags."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from src.data.images import BadImageError, read_image
from src.data.split import ZeroShotSplit
from src.errors import name_some
from src.run_report.ranking import Confusion, Ranking
from src.run_report.text import escape

_SIZE = (300, 220)  # pixels; shown at about half the size, so that it is sharp on dense screens
_TAGS = 5  # of a sample
_MISSED = 6  # labels of a sample that are named


def thumbnail(path: Path) -> str:
    """The image inside the page, or a note that it is gone or cannot be read any more."""
    try:
        image = read_image(path)
    except BadImageError:
        return f'<div class="gone">{escape(path.name)} is gone or cannot be read</div>'
    image.thumbnail(_SIZE, Image.Resampling.LANCZOS, reducing_gap=2.0)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{escape(path.name)}" title="{escape(path.name)}" src="data:image/jpeg;base64,{data}">'


def confusion_cards(
    found: Sequence[Confusion], split: ZeroShotSplit, paths: Sequence[Path], with_image: int, shown: set[int]
) -> str:
    """A card a confusion for the first ``with_image``, a table of the others.

    Args:
        found: most frequent first.
        split: names the labels.
        paths: [N].
        with_image: how many have an example image.
        shown: rows of images that are on the page already; those shown here join them. A card takes another image
            where there is one.
    """
    unseen = set(split.unseen)
    cards = []
    for one in found[:with_image]:
        rows = one.rows.tolist()
        row = next((row for row in rows if row not in shown), rows[0])
        shown.add(row)
        cards.append(
            f'<div class="card image">{thumbnail(paths[row])}<p>{_tag(split, one.given, unseen, "wrong")} given, '
            f"{_tag(split, one.missed, unseen, 'missed')} missed</p><small>{_times(one, split)}</small></div>"
        )
    others = "".join(
        f"<li>{_tag(split, one.given, unseen, 'wrong')} given, {_tag(split, one.missed, unseen, 'missed')} missed: "
        f"{_times(one, split)}</li>"
        for one in found[with_image:]
    )
    return f'<div class="images">{"".join(cards)}</div>' + (f"<ol>{others}</ol>" if others else "")


def _times(one: Confusion, split: ZeroShotSplit) -> str:
    count = len(one.rows)
    noun = "image" if count == 1 else "images"
    return f"{count:,} {noun}, {100 * one.share:.0f}% of those with {escape(split.labels[one.missed])}"


def sample_rows(ranking: Ranking, zero_shot: Ranking | None, count: int) -> list[int]:
    """Places in the ranking of evenly spaced images, of those with an unseen label where there are any."""
    places = torch.arange(len(ranking.rows))
    if zero_shot is not None:
        of_both = torch.isin(ranking.rows, zero_shot.rows).nonzero()[:, 0]
        places = of_both if len(of_both) else places
    wanted = min(count, len(places))
    return places[torch.arange(wanted) * len(places) // max(wanted, 1)].tolist()


def sample_cards(
    places: Sequence[int], ranking: Ranking, targets: Tensor, split: ZeroShotSplit, paths: Sequence[Path]
) -> str:
    """Cards of images with their best tags, each marked right, wrong or of unknown verdict, and what they missed."""
    unseen, relevant = set(split.unseen), set(ranking.columns.tolist())
    verdicts = {1: "right", 0: "wrong", -1: "unknown"}
    cards = []
    for place in places:
        row, best = int(ranking.rows[place]), ranking.best[place].tolist()[:_TAGS]
        truth = targets[row]
        tags = " ".join(_tag(split, column, unseen, verdicts[int(truth[column])]) for column in best)
        missed = [c for c in (truth == 1).nonzero()[:, 0].tolist() if c in relevant and c not in best]
        names = [f"*{split.labels[column]}*" if column in unseen else split.labels[column] for column in missed]
        note = f"<small>missed: {escape(name_some(names, _MISSED))}</small>" if missed else ""
        cards.append(f'<div class="card image">{thumbnail(paths[row])}<p>{tags}</p>{note}</div>')
    return "".join(cards)


def _tag(split: ZeroShotSplit, column: int, unseen: set[int], verdict: str) -> str:
    """A label as a chip; an unseen one stands between asterisks, as everywhere in the project."""
    name = escape(split.labels[column])
    side, shown = (" unseen", f"*{name}*") if column in unseen else ("", name)
    return f'<span class="tag {verdict}{side}">{shown}</span>'
