"""Formatted reports: protocol, counts, ceilings and both settings."""

from __future__ import annotations

import pytest
import torch

from src.metrics import format_report, summary
from src.options import IMAGES
from tests.metric_oracles import dense_report

SEEN, UNSEEN = [0, 1, 4], [2, 3, 6]


def report_of(seen: list[int] = SEEN, unseen: list[int] = UNSEEN, **keywords) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(1200, 8, generator=generator)
    targets = (torch.rand(1200, 8, generator=generator) < 0.3).int()
    targets[:, [0, 3]] = 0  # labels without a positive, so that the two kinds of mAP differ
    return dense_report(scores, targets, seen, unseen, **keywords)


def table(text: str) -> dict[str, list[tuple[str, str]]]:
    """The rows of the table by setting, as (column title, cell)."""
    header, *lines = text.splitlines()
    titles = header.split()[1:]
    rows = {}
    for line in lines:
        setting, *cells = line.split()
        if setting in ("zero-shot", "generalised"):
            rows[setting] = list(zip(titles, cells, strict=True))
    return rows


@pytest.mark.parametrize("images", IMAGES)
def test_protocol_and_its_meaning_are_printed(images):
    text = format_report(report_of(images=images), images=images)
    assert f"protocol: {images}; micro P/R/F1@K; (best) is the F1@K of a perfect ranking" in text.splitlines()
    assert "mAP counts a label without a positive as 0; mAP_skip leaves such labels out" in text


@pytest.mark.parametrize("images", IMAGES)
def test_every_number_is_under_its_column_title(images):
    report = report_of(images=images, ks=(1, 3), threshold=0.5)
    rows = table(format_report(report, images=images))
    assert list(rows) == ["zero-shot", "generalised"]
    for key, title in (("zero_shot", "zero-shot"), ("generalized", "generalised")):
        expected = [
            ("images", f"{report[f'{key}.num_images']:,}"),
            ("labels", str(report[f"{key}.num_labels"])),
            ("labels/img", f"{report[f'{key}.labels_per_image']:.4f}"),
        ]
        for k in (1, 3):
            expected += [(f"{name}@{k}", f"{report[f'{key}.{name}@{k}']:.2f}") for name in ("P", "R", "F1")]
            expected.append(("(best)", f"{report[f'{key}.ceiling.F1@{k}']:.2f}"))
        expected += [(f"{name}@thre", f"{report[f'{key}.{name}@threshold']:.2f}") for name in ("P", "R", "F1")]
        expected += [(name, f"{report[f'{key}.{name}']:.2f}") for name in ("mAP", "mAP_skip")]
        assert rows[title] == expected


def test_a_report_with_unknown_labels_has_a_column_more():
    report = report_of()
    report |= {"zero_shot.mAP_verified": 12.345, "zero_shot.num_unknown": 7}
    text = format_report(report, images="positive-only")
    rows = table(text)
    assert rows["zero-shot"][-1] == ("mAP_verified", "12.35")
    assert rows["generalised"][-1] == ("mAP_verified", "-")
    assert "unknown labels count as absent; mAP_verified leaves them out" in text
    assert "mAP_verified" not in format_report(report_of(), images="positive-only")


def test_counts_have_thousands_separators_and_both_settings_their_own():
    rows = table(format_report(report_of(images="all-images"), images="all-images"))
    assert dict(rows["zero-shot"])["images"] == "1,200"
    assert dict(rows["zero-shot"])["labels"] == "3"
    assert dict(rows["generalised"])["labels"] == "6"


def test_columns_are_aligned():
    first, second, third = format_report(report_of(), images="positive-only").splitlines()[:3]
    assert len(first) == len(second) == len(third)
    assert first.index("images") + len("images") == second.index(second.split()[1]) + len(second.split()[1])


def test_without_a_threshold_its_columns_are_absent():
    assert "thre" not in format_report(report_of(), images="positive-only")


def test_a_k_that_one_setting_lacks_is_a_dash_there():
    rows = table(format_report(report_of(ks=(3, 5)), images="positive-only"))  # three unseen labels
    assert [cell for title, cell in rows["zero-shot"] if title in ("P@5", "R@5", "F1@5")] == ["-"] * 3
    assert rows["zero-shot"][10] == ("(best)", "-")
    assert "-" not in [cell for _, cell in rows["generalised"]]


def test_ks_are_in_order_of_size():
    report = report_of(seen=[0, 1, 4, 5, 7], ks=(8, 3, 1))
    titles = [title for title, _ in table(format_report(report, images="positive-only"))["generalised"]]
    assert [title for title in titles if title.startswith("F1@")] == ["F1@1", "F1@3", "F1@8"]


def test_a_split_without_unseen_labels_has_one_row():
    assert list(table(format_report(report_of(unseen=[]), images="positive-only"))) == ["generalised"]


@pytest.mark.parametrize("k", [1, 3])
def test_summary_is_one_line_of_both_settings(k):
    report = report_of(ks=(1, 3))
    zero_shot, generalized = summary(report, k).split(" | ")
    assert zero_shot == f"zero-shot F1@{k} {report[f'zero_shot.F1@{k}']:.2f} mAP {report['zero_shot.mAP']:.2f}"
    assert generalized == (
        f"generalised F1@{k} {report[f'generalized.F1@{k}']:.2f} mAP {report['generalized.mAP']:.2f}"
    )
    assert summary(report) == summary(report, 3)


def test_summary_leaves_out_missing_metrics():
    report = report_of(unseen=[2], ks=(3,))
    assert summary(report) == (
        f"zero-shot mAP {report['zero_shot.mAP']:.2f} | "
        f"generalised F1@3 {report['generalized.F1@3']:.2f} mAP {report['generalized.mAP']:.2f}"
    )
    assert summary(report_of(unseen=[])).startswith("generalised")
    assert summary({}) == ""
