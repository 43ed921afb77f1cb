"""The report of a run: its numbers against plain loops, its page in an HTML parser and in a real browser."""

import base64
import io
import json
import math
import re
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image

from src.data.parts import GroundTruth
from src.data.split import make_split
from src.errors import UserError
from src.evaluation import evaluate
from src.metrics import Protocol, average_precision
from src.run_report import RunReport, ranking, write_report
from src.run_report.curves import curves
from src.run_report.images import confusion_cards, sample_rows
from src.run_report.ranking import Confusion, Ranking, confusions, rank_generalized, rank_labels, rank_zero_shot
from src.run_report.results import results
from src.run_report.spread import measure_spread, pairwise_cosines
from src.run_report.svg import Line, heat_map, histogram, label_bars, line_chart, log_ticks, nice_ticks
from src.run_report.text import escape, number
from src.scoring import score_labels, top_k_labels
from tests.helpers import write_images
from tests.test_contact_sheet import CHROMIUM, Elements

ODD = "<b>'\"&amp;</script>$x"
DIM = 4


def problem(num_images=14, labels=9, unseen=3, rows=3, seed=0, levels=None):
    """Embeddings, split and targets; with ``levels`` scores are whole numbers, so that many of them are equal."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randn(DIM, labels, generator=generator)
    embeddings = torch.randn(num_images, DIM * rows, generator=generator)
    if levels is not None:
        words, embeddings = (torch.randint(-levels, levels + 1, one.shape).float() for one in (words, embeddings))
        words[0] += 10 * (words == 0).all(dim=0)
    targets = torch.randint(-1, 2, (num_images, labels), generator=generator).to(torch.int8)
    names = [ODD, *(f"tag{number}" for number in range(1, labels))]
    known = labels - 1  # the last label is on neither side
    split = make_split(names, range(known - unseen), range(known - unseen, known), words, name="toy & co", source="t")
    return embeddings, split, targets


def entries_of(count, **further):
    return [
        {
            "epoch": epoch,
            "train": {
                "loss": 9.0 / epoch, "rank": 2.0, "diversity": 1.5, "regularizer": 0.0, "num_images": 1234, "bad": 0,
            },
            "metrics": {f"{s}.{m}": 10.0 + epoch for s in ("zero_shot", "generalized") for m in ("F1@3", "mAP")},
            "seconds": 30.0,
            **further,
        }
        for epoch in range(1, count + 1)
    ]  # fmt: skip


def report_of(folder, *, epochs=3, images="positive-only", zero_shot_rows=None, generalized_rows=None, **sizes):
    embeddings, split, targets = problem(**sizes)
    truth = GroundTruth(targets, zero_shot_rows, generalized_rows)
    metrics = evaluate(embeddings, split, truth, Protocol(ks=(2, 3), images=images))
    return RunReport(
        f"run {ODD}", {"lr": 0.1, "model": None, "path": ODD}, entries_of(epochs), split, embeddings, targets,
        write_images(folder / "images", len(embeddings)), images, metrics, f"Epoch {ODD}.",
        zero_shot_rows, generalized_rows,
    )  # fmt: skip


def changed(report, **changes):
    return RunReport(**{name: getattr(report, name) for name in RunReport.__dataclass_fields__} | changes)


def page_of(report, folder) -> tuple[str, Elements]:
    path = folder / "out" / "report.html"
    write_report(path, report)
    text = path.read_text(encoding="utf-8")
    return text, Elements(text)


# --- the numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [None, 1])
@pytest.mark.parametrize("block", [1, 20, 10**6])
def test_rankings_in_blocks_are_those_of_the_whole_matrix(monkeypatch, block, levels):
    monkeypatch.setattr(ranking, "ROWS", 5)
    embeddings, split, targets = problem(num_images=17, levels=levels)
    columns, rows = torch.tensor([0, 2, 3, 5, 7]), torch.tensor([0, 1, 2, 4, 5, 8, 9, 11, 12, 13, 16])
    found = rank_labels(
        embeddings, split.word_vectors, targets, columns=columns, rows=rows, k=3, block_elements=block
    )  # fmt: skip
    scores = score_labels(embeddings, split.word_vectors)[rows][:, columns]
    truth = targets[rows][:, columns]
    assert torch.equal(found.best, columns[top_k_labels(scores, 3)[1]])
    torch.testing.assert_close(found.precision, average_precision(scores, truth, "skip"), equal_nan=True)
    assert torch.equal(found.positives, (truth == 1).sum(dim=0))


def plain_confusions(best, rows, columns, targets, k):
    counts = {}
    for image, given in zip(rows.tolist(), best.tolist(), strict=True):
        for wrong in given[:k]:
            for missed in columns.tolist():
                if targets[image, wrong] == 0 and targets[image, missed] == 1 and missed not in given[:k]:
                    counts.setdefault((wrong, missed), []).append(image)
    return counts


@pytest.mark.parametrize("k", [1, 2, 3, 50])
def test_confusions_by_a_plain_loop(monkeypatch, k):
    monkeypatch.setattr(ranking, "ROWS", 4)
    embeddings, split, targets = problem(num_images=40)
    columns, rows = torch.arange(1, 9), torch.arange(3, 40)
    ranked = rank_labels(embeddings, split.word_vectors, targets, columns=columns, rows=rows, k=4)
    found = confusions(ranked, targets, k, most=10_000)
    expected = plain_confusions(ranked.best, rows, columns, targets, k)
    assert {(one.given, one.missed): one.rows.tolist() for one in found} == expected
    assert all(len(one.rows) >= len(other.rows) for one, other in pairwise(found))
    for one in found:
        assert one.share == pytest.approx(len(one.rows) / int((targets[rows, one.missed] == 1).sum()))
    few = confusions(ranked, targets, k, most=3)
    assert [(one.given, one.missed) for one in few] == [(one.given, one.missed) for one in found[:3]]


def test_tags_of_unknown_verdict_are_no_confusion():
    embeddings, split, targets = problem()
    ranked = rank_labels(
        embeddings, split.word_vectors, targets, columns=torch.arange(9), rows=torch.arange(14), k=3
    )  # fmt: skip
    assert confusions(ranked, targets.masked_fill(targets == 0, -1), 3, most=99) == []


def test_the_spread_by_a_plain_loop(monkeypatch):
    monkeypatch.setattr("src.run_report.spread.ROWS", 4)
    embeddings, split, _ = problem(num_images=11, rows=3)
    rows = torch.tensor([0, 2, 3, 4, 7, 8, 10])
    best = torch.randint(0, 9, (7, 2), generator=torch.Generator().manual_seed(1))
    found = measure_spread(embeddings, split.word_vectors, rows, best)
    variances, cosines, between = [], torch.zeros(3, 3), []
    for embedding in embeddings:
        vectors = [embedding[m::3] for m in range(3)]  # A[:, m]
        means = sum(vectors) / 3
        variances.append(float(sum(((one - means) ** 2).sum() for one in vectors)) / 2)
        for a in range(3):
            for b in range(3):
                cosine = float(vectors[a] @ vectors[b] / (vectors[a].norm() * vectors[b].norm()))
                cosines[a, b] += cosine / 11
                between += [cosine] if a < b else []
    wins = torch.zeros(3, 9, dtype=torch.int64)
    for row, labels in zip(rows.tolist(), best.tolist(), strict=True):
        for label in labels:
            products = [float(embeddings[row, m::3] @ split.word_vectors[:, label]) for m in range(3)]
            wins[products.index(max(products)), label] += 1
    torch.testing.assert_close(found.variances, torch.tensor(variances), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.mean_cosines, cosines, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.cosines.sort().values, torch.tensor(sorted(between)), rtol=1e-4, atol=1e-5)
    assert torch.equal(found.wins, wins)


def test_cosines_are_looked_at_on_some_images_of_many(monkeypatch):
    monkeypatch.setattr("src.run_report.spread._COSINE_IMAGES", 5)
    embeddings, split, _ = problem(num_images=23)
    found = measure_spread(embeddings, split.word_vectors, torch.arange(2), torch.zeros(2, 1, dtype=torch.int64))
    assert len(found.cosines) <= 5 * 3
    assert len(found.variances) == 23


def test_vectors_of_zeros_have_a_cosine_of_zero():
    assert torch.equal(pairwise_cosines(torch.zeros(2, 8), 4), torch.zeros(2, 2, 2))


@pytest.mark.parametrize("images", ["positive-only", "all-images"])
@pytest.mark.parametrize("apart", [False, True])
def test_the_labels_average_to_the_headline_numbers(tmp_path, images, apart):
    lists = {"zero_shot_rows": torch.tensor([9, 1, 4, 5]), "generalized_rows": torch.arange(2, 14)} if apart else {}
    report = report_of(tmp_path, images=images, **lists)
    for name, found in (("generalized", rank_generalized(report, 3)), ("zero_shot", rank_zero_shot(report, 3))):
        mean = float(found.precision[~found.precision.isnan()].mean())
        assert 100 * mean == pytest.approx(report.metrics[f"{name}.mAP_skip"])
        assert len(found.rows) == report.metrics[f"{name}.num_images"]
        assert int(found.positives.sum()) == report.metrics[f"{name}.num_positives"]
        hits = (report.targets[found.rows].gather(1, found.best) == 1).sum()
        assert 100 * hits / found.best.numel() == pytest.approx(report.metrics[f"{name}.P@3"])


def test_samples_stand_at_even_distances_and_have_an_unseen_label_where_some_do():
    def of_rows(rows):
        return Ranking(torch.arange(2), torch.tensor(rows), torch.zeros(2), torch.zeros(2), torch.zeros(len(rows), 1))

    everything = of_rows(list(range(10)))
    assert sample_rows(everything, None, 5) == [0, 2, 4, 6, 8]
    assert sample_rows(everything, of_rows([3, 9]), 5) == [3, 9]
    assert sample_rows(everything, of_rows([77]), 2) == [0, 5]
    assert sample_rows(of_rows([]), None, 5) == []


# --- the page --------------------------------------------------------------------------------------------------------


def sections(page: Elements) -> list[str | None]:
    return [one.get("id") for one in page.of("section")]


def test_a_page_with_every_part(tmp_path):
    text, page = page_of(report_of(tmp_path), tmp_path)
    assert sections(page) == ["results", "training", "labels", "confusions", "vectors", "samples", "settings"]
    shown = " ".join(page.texts)
    for fact in ("toy & co", "5 seen and 3 unseen labels (1 on neither side)", "3 principal vectors of length 4"):
        assert fact in shown
    assert "14 evaluation images" in shown
    assert "3 epochs of 1,234 training images" in shown
    assert "positive-only" in shown
    assert "$" not in re.sub(r"<script>.*", "", text, flags=re.S).replace(escape(ODD), "")


@pytest.mark.parametrize("images", ["positive-only", "all-images"])
def test_every_metric_stands_beside_its_ceiling(tmp_path, images):
    report = report_of(tmp_path, images=images)
    text = results(report.metrics)
    for setting, title in (("zero_shot", "Zero-shot"), ("generalized", "Generalised")):
        card = next(part for part in text.split('<div class="card">') if title in part)
        for name in ("F1@2", "P@2", "R@2", "F1@3", "P@3", "R@3", "mAP_skip"):
            value = report.metrics[f"{setting}.{name}"]
            ceiling = report.metrics.get(f"{setting}.ceiling.{name}", 100.0)
            row = re.search(rf"<tr><th>{re.escape(name)}</th>.*?</tr>", card)[0]
            assert f'<i style="width:{ceiling:.2f}%">' in row
            assert f'<b style="width:{value:.2f}%">' in row
            assert f"<td>{value:.2f}</td><td>{ceiling:.1f}</td><td>{100 * value / ceiling:.0f}%</td>" in row
        assert f"{report.metrics[f'{setting}.num_images']:.0f} images" in card
    assert images in page_of(report, tmp_path)[0]


def test_the_ceiling_of_map_counts_labels_without_a_positive_as_zero():
    counts = {"num_images": 9, "num_labels": 8, "num_labels_with_positive": 6, "num_positives": 9}
    metrics = {f"generalized.{name}": value for name, value in counts.items()}
    metrics |= {"generalized.labels_per_image": 1.0, "generalized.mAP": 30.0, "generalized.mAP_skip": 40.0}
    text = results(metrics)
    assert "<td>30.00</td><td>75.0</td><td>40%</td>" in text
    assert "<td>40.00</td><td>100.0</td><td>40%</td>" in text
    assert "Zero-shot" not in text


def test_thresholds_and_unknown_verdicts_are_shown_where_they_were_measured(tmp_path):
    report = report_of(tmp_path)
    further = {"generalized.F1@threshold": 12.5, "generalized.P@threshold": 1.0, "generalized.R@threshold": 2.0}
    text = results({**report.metrics, **further})
    assert "<th>F1@threshold</th>" in text
    assert "<th>mAP_verified</th>" in text
    assert "verdicts unknown" in text
    assert "threshold" not in results(report.metrics)


def rows_of_table(text: str) -> list[tuple[str, ...]]:
    body = text.split('<table id="table">')[1].split("<tbody>")[1].split("</tbody>")[0]
    return [tuple(re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)) for row in body.strip().splitlines()]


def test_the_table_has_every_label_of_either_side_highest_first(tmp_path):
    report = report_of(tmp_path)
    ranked = rank_generalized(report, 3)
    rows = rows_of_table(page_of(report, tmp_path)[0])
    assert {row[0] for row in rows} == {escape(name) for name in report.split.labels[:-1]}
    values = [float(row[3]) for row in rows]
    assert values == sorted(values, reverse=True)
    for name, side, positives, precision, zero_shot in rows:
        column = [escape(label) for label in report.split.labels].index(name)
        assert side == ("unseen" if column in report.split.unseen else "seen")
        assert int(positives) == int(ranked.positives[column])
        assert float(precision) == pytest.approx(100 * float(ranked.precision[column]), abs=0.051)
        assert bool(zero_shot) == (side == "unseen")


def test_labels_without_a_positive_have_no_precision_and_stand_last(tmp_path):
    report = report_of(tmp_path)
    report.targets[:, 2] = 0
    text, _ = page_of(report, tmp_path)
    assert rows_of_table(text)[-1][0] == "tag2"
    assert rows_of_table(text)[-1][2:4] == ("0", "–")
    assert "Left out: 1 without a positive image" in text


def images_of(page: Elements) -> list[Image.Image]:
    found = []
    for one in page.of("img"):
        data = one["src"].removeprefix("data:image/jpeg;base64,")
        found.append(Image.open(io.BytesIO(base64.b64decode(data))))
    return found


def test_images_are_small_few_and_inside_the_page(tmp_path):
    report = report_of(tmp_path, num_images=60, seed=3)
    for path in report.paths:
        Image.new("RGB", (800, 450), "red").save(path)
    text, page = page_of(report, tmp_path)
    assert 8 < len(images_of(page)) <= 20
    assert all(image.format == "JPEG" and max(image.size) <= 300 for image in images_of(page))
    confusing = Elements(text.split('id="confusions"')[1].split("</section>")[0])
    assert len(confusing.of("img")) <= 12


def test_confusions_show_other_images_where_there_are_others(tmp_path):
    report = report_of(tmp_path)
    found = [Confusion(0, 1, 0.5, torch.tensor(rows)) for rows in ([3, 5], [3, 5, 6], [3], [7])]
    shown = {9}
    text = confusion_cards(found, report.split, report.paths, 3, shown)
    assert re.findall(r'alt="(\d+)\.png"', text) == ["3", "5", "3"]
    assert shown == {9, 3, 5}
    assert "2 images, 50% of those with tag1" in text
    assert len(re.findall("<li>", text)) == 1
    assert "1 image, 50% of those with tag1</li>" in text


def test_images_that_are_gone_or_damaged_are_said_to_be(tmp_path):
    report = report_of(tmp_path)
    for row, path in enumerate(report.paths):
        path.write_bytes(b"") if row % 2 else path.unlink()
    text, page = page_of(report, tmp_path)
    assert not page.of("img")
    assert re.search(r"\d\.png is gone or cannot be read", text)


def test_tags_of_samples_are_marked(tmp_path):
    report = report_of(tmp_path)
    text, _ = page_of(report, tmp_path)
    cards = text.split('id="samples"')[1].split("</section>")[0].split('<div class="card image">')[1:]
    ranked = rank_generalized(report, 5)
    row_of = {path.name: row for row, path in enumerate(report.paths)}
    assert len(cards) == 8
    for card in cards:
        row = row_of[re.search(r'alt="(.*?)"', card)[1]]
        best = ranked.best[ranked.rows.tolist().index(row)].tolist()
        expected = []
        for column in best:
            side = " unseen" if column in report.split.unseen else ""
            verdict = {1: "right", 0: "wrong", -1: "unknown"}[int(report.targets[row, column])]
            name = escape(report.split.labels[column])
            expected.append((f"tag {verdict}{side}", f"*{name}*" if side else name))
        assert re.findall(r'<span class="(.*?)">(.*?)</span>', card) == expected
        missed = [column for column in range(8) if report.targets[row, column] == 1 and column not in best]
        assert ("missed:" in card) == bool(missed)


def test_names_are_text_whatever_they_hold(tmp_path):
    report = report_of(tmp_path)
    names = [ODD, f"a\udc80{ODD}", *report.split.labels[2:]]
    odd = make_split(names, report.split.seen, report.split.unseen, report.split.word_vectors, name=ODD, source="x")
    moved = [
        path.rename(path.with_name(f"{ODD.replace('/', '')}{number}.png")) for number, path in enumerate(report.paths)
    ]
    text, page = page_of(changed(report, split=odd, paths=moved, settings={ODD: f"\udcff{ODD}"}), tmp_path)
    assert len(page.of("script")) == 1
    assert page.of("h1") == [{}]
    assert ODD in "".join(page.texts)
    assert "<b>'" not in text
    assert page.of("img")


def test_the_page_needs_no_network_and_may_use_none(tmp_path):
    text, page = page_of(report_of(tmp_path), tmp_path)
    assert not re.findall(r"https?:|//[a-z]+\.|@import|url\(", re.sub(r'src="data:[^"]*"', "", text))
    assert not page.of("link")
    policy = next(one["content"] for one in page.of("meta") if one.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_settings_and_versions(tmp_path):
    text, _ = page_of(report_of(tmp_path), tmp_path)
    folded = text.split('<section id="settings">')[1]
    assert "<tr><th>lr</th><td>0.1</td></tr>" in folded
    assert "<tr><th>model</th><td>–</td></tr>" in folded
    assert f"<tr><th>torch</th><td>{torch.__version__}</td></tr>" in folded


def test_without_unseen_labels(tmp_path):
    report = report_of(tmp_path, unseen=0)
    text, page = page_of(report, tmp_path)
    assert "<h3>Zero-shot" not in text
    assert "8 seen and 0 unseen labels" in " ".join(page.texts)
    assert all(row[1] == "seen" and row[4] == "" for row in rows_of_table(text))


def test_with_one_principal_vector_there_is_no_spread(tmp_path):
    _, page = page_of(report_of(tmp_path, rows=1), tmp_path)
    assert "vectors" not in sections(page)
    assert "1 principal vector of length 4" in " ".join(page.texts)


@pytest.mark.parametrize("epochs", [0, 1])
def test_with_one_epoch_or_none(tmp_path, epochs):
    text, page = page_of(report_of(tmp_path, epochs=epochs), tmp_path)
    assert ("training" in sections(page)) == (epochs == 1)
    assert ("1 epoch of 1,234" in text) == (epochs == 1)
    drawn = re.sub(r"data:[^\"]*|<script>.*", "", text, flags=re.S)
    assert not re.search(r"\b(nan|inf|None)\b", drawn)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("images", ["positive-only", "all-images"])
def test_where_no_label_is_positive(tmp_path, images, rows):
    report = report_of(tmp_path, rows=rows)
    targets = torch.zeros_like(report.targets)
    metrics = evaluate(report.embeddings, report.split, GroundTruth(targets), Protocol(images=images))
    text, _ = page_of(changed(report, targets=targets, metrics=metrics, images=images), tmp_path)
    assert text.count("<p>None.</p>") == 2
    assert all(row[3] == "–" for row in rows_of_table(text))


def test_fewer_labels_than_k(tmp_path):
    report = report_of(tmp_path, labels=3, unseen=1, num_images=6)
    assert "generalized.F1@3" not in report.metrics
    page_of(report, tmp_path)


def test_unreadable_training_images_and_a_long_run_are_said(tmp_path):
    report = report_of(tmp_path)
    entries = entries_of(2, seconds=4000.0)
    entries[-1]["train"]["bad"] = 7
    text, _ = page_of(changed(report, entries=entries), tmp_path)
    assert "7 training images could not be read" in text
    assert "2 h 13 min" in text
    assert "10 minutes" in page_of(changed(report, entries=entries_of(2, seconds=300.0)), tmp_path)[0]
    assert "60 seconds" in page_of(changed(report, entries=entries_of(2)), tmp_path)[0]


def test_more_labels_than_bars_are_drawn_at_even_distances(tmp_path, monkeypatch):
    monkeypatch.setattr("src.run_report.labels._BARS", 2)
    text, _ = page_of(report_of(tmp_path), tmp_path)
    assert "One label in 3 is drawn" in text  # 5 seen labels
    assert "One label in 2 is drawn" in text  # 3 unseen ones


def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path):
    report = report_of(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*report\.html"):
        write_report(tmp_path / "file" / "report.html", report)
    path = tmp_path / "out" / "report.html"
    write_report(path, report)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="NaN"):
        write_report(path, changed(report, embeddings=report.embeddings * float("nan")))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_sizes_that_do_not_fit(tmp_path):
    report = report_of(tmp_path)
    with pytest.raises(ValueError, match=r"targets must be \[N, C\] = \(13, 9\), got \(14, 9\)"):
        changed(report, paths=report.paths[1:])
    for wrong in (report.embeddings[1:], report.embeddings[:, :-1], report.embeddings[:, :0], report.embeddings[0]):
        with pytest.raises(ValueError, match=r"embeddings must be \[N, D\*M\] with N = 14 and D = 4, got"):
            changed(report, embeddings=wrong)


# --- curves and charts -----------------------------------------------------------------------------------------------


def titles(figures: str) -> list[str]:
    return [re.sub(" <small>.*", "", one) for one in re.findall(r"<figcaption>(.*?)</figcaption>", figures)]


def test_curves_of_what_the_log_has():
    plain = entries_of(4)
    parts = ["Training loss", "Ranking term", "Diversity weight", "Regulariser"]
    assert titles(curves(plain)) == ["F1@3 (%)", "mAP (%)", *parts]
    everything = entries_of(
        4, lr={"backbone": 1e-4, "head": 1e-3}, gradient_norm=2.0, ema_metrics={"zero_shot.F1@3": 33.25},
        selection={"name": "held-out", "metric": "F1@3", "value": 21.75}, ema_selection={"name": "x", "value": 22.5},
    )  # fmt: skip
    found = curves(everything)
    assert titles(found) == [
        "F1@3 (%)", "mAP (%)", "What chooses the best epoch", *parts, "Learning rate", "Gradient norm",
    ]  # fmt: skip
    for last in ("zero-shot <b>14</b>", "zero-shot, averaged weights <b>33.25</b>", "held-out F1@3 <b>21.75</b>"):
        assert last in found
    assert "averaged weights <b>22.5</b>" in found
    assert "backbone <b>0.0001</b>" in found
    assert "head <b>0.001</b>" in found
    assert curves([]) == ""


def test_the_gradient_norm_may_stand_among_the_means_of_training():
    entries = entries_of(2)
    entries[1]["train"]["gradient_norm"] = 3.5
    assert "norm <b>3.5</b>" in curves(entries)


def test_the_real_lines_of_a_log_are_read(tmp_path):
    lines = [json.dumps(entry) for entry in entries_of(2)]
    assert curves([json.loads(line) for line in lines]) == curves(entries_of(2))


def places_of(chart: str) -> list[tuple[float, float]]:
    path = re.search(r'<g class="line [^"]*"><path d="M([^"]*)"', chart)[1]
    return [tuple(float(part) for part in place.split()) for place in path.split("L")]


def test_a_line_is_drawn_to_scale():
    places = places_of(line_chart("x", [Line("a", [(1, 10), (2, 20), (4, 25)], "seen")], from_zero=True))
    assert (places[2][0] - places[0][0]) == pytest.approx(3 * (places[1][0] - places[0][0]), abs=0.3)
    assert (places[0][1] - places[2][1]) == pytest.approx(1.5 * (places[0][1] - places[1][1]), abs=0.3)
    chart = line_chart("x", [Line("a", [(1, 100), (2, 10), (3, 1)], "seen")])
    assert "log scale" in chart
    high, middle, low = (up for _, up in places_of(chart))
    assert (middle - high) == pytest.approx(low - middle, abs=0.3)


@pytest.mark.parametrize(
    "points",
    [
        [(1, 5.0)],
        [(1, 0.0), (2, 0.0)],
        [(1, -3.0), (2, 1e9)],
        [(1, 1e-9), (2, 3e-9)],
        [(1, 1e-12), (2, 1e12)],
        [(1, 1.3667427), (2, 1.3667428)],
        [(float(x), math.sin(x) + 2) for x in range(1, 1001)],
    ],
)
def test_any_line_stays_inside_its_chart(points):
    chart = line_chart("x", [Line("a", points, "seen")])
    assert len(places_of(chart)) == len(points)
    assert all(40 <= x <= 340 and 0 <= y <= 190 for x, y in places_of(chart))
    labels = [float(y) for y in re.findall(r'<text x="[\d.]+" y="([-\d.]+)"', chart)]
    assert labels
    assert all(0 <= y <= 190 for y in labels)
    assert len(re.findall('class="grid"', chart)) <= 7


def test_a_line_that_rounding_moves_is_flat():
    (_, first), (_, second) = places_of(line_chart("x", [Line("a", [(1, 1.3667427), (2, 1.3667428)], "seen")]))
    assert first == pytest.approx(second, abs=0.2)


def test_undefined_values_are_left_out():
    points = [(1, float("nan")), (2, 3.0), (3, float("inf")), (4, 5.0)]
    assert len(places_of(line_chart("x", [Line("a", points, "seen")]))) == 2
    assert line_chart("x", [Line("a", points[:1], "seen")]) == ""


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 97), (-3, 5), (1e-5, 3e-5), (99.9, 100.1), (0, 1e7), (1, 1000)])
def test_ticks_are_round_few_and_inside(low, high):
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 7
    assert all(low <= tick <= high for tick in ticks)
    steps = {round(second - first, 10) for first, second in pairwise(ticks)}
    assert len(steps) == 1
    assert f"{steps.pop():.1e}"[0] in "125"
    assert all(tick == int(tick) for tick in nice_ticks(low, high, whole=True))


def test_ticks_of_a_log_scale():
    assert log_ticks(10, 300) == [10, 20, 50, 100, 200]
    assert log_ticks(3, 4) == [3]
    assert 2 <= len(log_ticks(1e-9, 1e9)) <= 7


def test_bars_and_cells_are_to_scale():
    text = histogram("x", [1, 4, 0], [0.0, 0.5, 1.0, 1.5])
    heights = [float(found) for found in re.findall(r'<rect [^>]*height="([\d.]+)"', text)]
    assert heights[1] == pytest.approx(4 * heights[0], abs=0.3)
    assert heights[2] == 0
    cells = heat_map("x", [[1.0, -0.25], [-0.25, 1.0]])
    assert re.findall(r'class="cell (\w+)"[^>]*fill-opacity="([\d.]+)"', cells) == [
        ("seen", "1.00"), ("unseen", "0.25"), ("unseen", "0.25"), ("seen", "1.00"),
    ]  # fmt: skip
    bars = label_bars("x", ["a", "b"], [80.0, 20.0], [100, 10], "seen", "note")
    up = [float(found) for found in re.findall(r'<g><title>.*?height="([\d.]+)"', bars)]
    assert up[0] == pytest.approx(4 * up[1], abs=0.3)
    down = [float(found) for found in re.findall(r'class="count".*?height="([\d.]+)"', bars)]
    assert down[0] > down[1] > 5


@pytest.mark.parametrize(
    ("value", "shown"), [(float("nan"), "–"), (0, "0"), (-2.5, "-2.5"), (999.96, "1000"), (1234567.8, "1,234,568")]
)
def test_numbers(value, shown):
    assert number(value) == shown


# --- in a browser ----------------------------------------------------------------------------------------------------


def in_browser(path: Path, fragment: str = "") -> str:
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", f"{path.as_uri()}{fragment}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)")
def test_search_and_order_in_a_browser(tmp_path):
    path = tmp_path / "report.html"
    write_report(path, report_of(tmp_path))
    text = in_browser(path, "#label=TAG1")
    body = text.split('<table id="table">')[1].split("<tbody>")[1].split("</tbody>")[0]
    assert len(re.findall("<tr", body)) - len(re.findall(r"<tr[^>]* hidden", body)) == 1
    assert "1 of 8 labels" in text
    links = re.findall(r'<a href="#(\w+)">', text)
    assert links == ["results", "training", "labels", "confusions", "vectors", "samples", "settings"]
    # the third heading, positives, is pressed by a line at the end of the page's script: once downwards, twice upwards
    for presses, ascending in ((1, False), (2, True)):
        press = 'document.querySelectorAll("#table thead button")[2].click();' * presses
        changed_page = tmp_path / f"pressed{presses}.html"
        changed_page.write_text(
            path.read_text(encoding="utf-8").replace("</script>\n</body>", f"{press}</script></body>")
        )
        counts = [int(row[2]) for row in rows_of_dom(in_browser(changed_page))]
        assert counts == sorted(counts, reverse=not ascending)


def rows_of_dom(text: str) -> list[tuple[str, ...]]:
    body = text.split('<table id="table">')[1].split("<tbody>")[1].split("</tbody>")[0]
    return [tuple(re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)) for row in re.findall(r"<tr.*?</tr>", body)]
