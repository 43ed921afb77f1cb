"""The first part of the page: the metrics of both settings, each beside the best that any ranking could reach."""

from __future__ import annotations

from collections.abc import Mapping

from src.choices import Images
from src.run_report.text import number

SETTINGS = {"zero_shot": "zero-shot", "generalized": "generalised"}
_RANKED = {"zero_shot": "unseen labels only", "generalized": "seen and unseen labels together"}
PROTOCOLS: dict[Images, str] = {
    "positive-only": "positive-only: images without any positive label of the setting are left out",
    "all-images": "all-images: every image counts, also without any positive label",
}


def ks_of(metrics: Mapping[str, float]) -> list[int]:
    """The K of F1@K among the metrics, ascending."""
    tails = {key.rpartition("@")[2] for key in metrics if ".F1@" in key}
    return sorted(int(tail) for tail in tails if tail.isdigit())


def results(metrics: Mapping[str, float]) -> str:
    """A card a setting."""
    return "".join(_card(metrics, setting) for setting in SETTINGS if f"{setting}.mAP" in metrics)


def _card(metrics: Mapping[str, float], setting: str) -> str:
    own = {key.removeprefix(f"{setting}."): value for key, value in metrics.items() if key.startswith(f"{setting}.")}
    measured = [(name, own[name], _ceiling(own, name)) for name in _names(metrics) if name in own]
    first = [one for one in measured if one[0].startswith("F1@")][:1]
    mean_ap = [one for one in measured if one[0] == "mAP"]
    big = "".join(
        f"<div><b>{value:.1f}</b> {name}<small>{number(round(ceiling, 1))} can be reached</small></div>"
        for name, value, ceiling in first + mean_ap
    )
    rows = "".join(_row(name, value, ceiling) for name, value, ceiling in measured)
    return (
        f'<div class="card"><h3>{SETTINGS[setting].capitalize()} <small>{_RANKED[setting]}</small></h3>'
        f'<div class="big">{big}</div><table class="measured"><thead><tr><th></th><td></td><td>reached</td>'
        f"<td>ceiling</td><td>share</td></tr></thead><tbody>{rows}</tbody></table><p>{_counts(own)}</p></div>"
    )


def _names(metrics: Mapping[str, float]) -> list[str]:
    """The metrics that are shown, in their order."""
    at_k = [f"{name}@{k}" for k in ks_of(metrics) for name in ("F1", "P", "R")]
    return [*at_k, "F1@threshold", "P@threshold", "R@threshold", "mAP", "mAP_skip", "mAP_verified"]


def _ceiling(own: Mapping[str, float], name: str) -> float:
    """What a perfect ranking reaches, in percent."""
    if name == "mAP" and own.get("num_labels"):  # a label without any positive counts as 0
        return 100 * own.get("num_labels_with_positive", own["num_labels"]) / own["num_labels"]
    return own.get(f"ceiling.{name}", 100.0)


def _row(name: str, value: float, ceiling: float) -> str:
    share = f"{100 * value / ceiling:.0f}%" if ceiling else "–"
    return (
        f'<tr><th>{name}</th><td class="bar"><span><i style="width:{ceiling:.2f}%"></i>'
        f'<b style="width:{value:.2f}%"></b></span></td><td>{value:.2f}</td><td>{ceiling:.1f}</td><td>{share}</td></tr>'
    )


def _counts(own: Mapping[str, float]) -> str:
    text = (
        f"{own['num_images']:,.0f} images, {own['num_labels']:,.0f} labels "
        f"({own['num_labels_with_positive']:,.0f} with a positive), {own['num_positives']:,.0f} positives, "
        f"{own['labels_per_image']:.2f} an image"
    )
    return text + (f"; {own['num_unknown']:,.0f} verdicts unknown" if "num_unknown" in own else "")
