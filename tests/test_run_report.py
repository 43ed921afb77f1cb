"""The report of a run: its numbers against plain loops, its page in an HTML parser and in a real browser."""

import base64
import html
import io
import math
import re
import subprocess
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from src.data.labels import LabelMatrix
from src.data.parts import GroundTruth
from src.data.split import make_split
from src.errors import UserError
from src.evaluation import evaluate
from src.metrics import Protocol
from src.run_report import Evaluated, RunReport, write_report
from src.run_report.charts import Line, histogram, label_bars, line_chart, number
from src.run_report.curves import curves
from src.run_report.ranking import Confusion, Ranking, confusions, examples, rank_labels, samples
from src.run_report.tables import measured
from src.run_report.vectors import measure_spread
from src.scoring import score_labels, top_k_labels
from tests.helpers import write_images
from tests.metric_oracles import average_precision
from tests.test_contact_sheet import CHROMIUM, Elements

ODD = "<b>'\"&amp;</script>$x{{ y }}"
DIM = 4


def problem(num_images=14, labels=9, unseen=3, rows=3, seed=0):
    """Embeddings, split and targets."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randn(DIM, labels, generator=generator)
    embeddings = torch.randn(num_images, DIM * rows, generator=generator)
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


def evaluated_of(*, paths=(), images="positive-only", zero_shot_rows=None, generalized_rows=None, **sizes):
    embeddings, split, targets = problem(**sizes)
    truth = GroundTruth(LabelMatrix.from_dense(targets), zero_shot_rows, generalized_rows)
    protocol = Protocol((2, 3), images)
    metrics = evaluate(embeddings, split, truth, protocol)
    return Evaluated(
        split, paths or [Path(f"{row}.png") for row in range(len(targets))], embeddings, truth, protocol, metrics
    )


def report_of(folder, *, epochs=3, **options):
    evaluated = evaluated_of(**options)
    evaluated = replace(evaluated, paths=write_images(folder / "images", len(evaluated.embeddings)))
    settings = {"lr": 0.1, "model": None, "path": ODD}
    return RunReport(f"run {ODD}", f"Epoch {ODD}.", settings, entries_of(epochs), evaluated)


def changed(report, **changes):
    """The same report of other targets, paths and the like."""
    return replace(report, evaluated=replace(report.evaluated, **changes))


def page_of(report, folder) -> tuple[str, Elements]:
    path = folder / "out" / "report.html"
    write_report(path, report)
    text = path.read_text(encoding="utf-8")
    return text, Elements(text)


# --- the numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("images", ["positive-only", "all-images"])
@pytest.mark.parametrize("listed", [False, True])
def test_rankings_agree_with_the_whole_matrix_and_average_to_the_headline_numbers(images, listed):
    lists = {"zero_shot_rows": torch.tensor([1, 4, 5, 9]), "generalized_rows": torch.arange(2, 14)} if listed else {}
    evaluated = evaluated_of(images=images, **lists)
    split, targets = evaluated.split, evaluated.truth.targets.dense()
    rankings = rank_labels(evaluated, 3)
    assert list(rankings) == ["zero_shot", "generalized"]
    for name, columns in (("zero_shot", split.unseen), ("generalized", (*split.seen, *split.unseen))):
        found, columns = rankings[name], torch.tensor(columns)
        scores = score_labels(evaluated.embeddings, split.word_vectors)[found.rows][:, columns]
        truth = targets[found.rows][:, columns]
        assert torch.equal(found.columns, columns)
        assert torch.equal(found.best, columns[top_k_labels(scores, 3)[1]])
        assert torch.equal(found.positives, (truth == 1).sum(dim=0))
        torch.testing.assert_close(found.precision, average_precision(scores, truth, "skip"), equal_nan=True)
        mean = float(found.precision[~found.precision.isnan()].mean())
        assert 100 * mean == pytest.approx(evaluated.metrics[f"{name}.mAP_skip"])
        assert len(found.rows) == evaluated.metrics[f"{name}.num_images"]
        hits = (targets[found.rows].gather(1, found.best) == 1).sum()
        assert 100 * hits / found.best.numel() == pytest.approx(evaluated.metrics[f"{name}.P@3"])


def test_fewer_labels_than_best_labels_are_ranked_all():
    rankings = rank_labels(evaluated_of(labels=4, unseen=2), 5)
    assert rankings["zero_shot"].best.shape[1] == 2
    assert rankings["generalized"].best.shape[1] == 3


def plain_confusions(ranking, targets, k):
    counts = {}
    for image, given in zip(ranking.rows.tolist(), ranking.best.tolist(), strict=True):
        for wrong in given[:k]:
            for missed in ranking.columns.tolist():
                if targets[image, wrong] == 0 and targets[image, missed] == 1 and missed not in given[:k]:
                    counts.setdefault((wrong, missed), []).append(image)
    return counts


@pytest.mark.parametrize("k", [1, 2, 3, 50])
def test_confusions_equal_a_plain_loop(monkeypatch, k):
    monkeypatch.setattr("src.run_report.ranking.ROWS", 4)
    evaluated = evaluated_of(num_images=40, generalized_rows=torch.arange(3, 40))
    ranking, targets = rank_labels(evaluated, 4)["generalized"], evaluated.truth.targets.dense()
    found = confusions(ranking, evaluated, k, most=10_000)
    assert {(one.given, one.missed): one.rows.tolist() for one in found} == plain_confusions(ranking, targets, k)
    assert all(len(one.rows) >= len(other.rows) for one, other in pairwise(found))
    for one in found:
        assert one.share == pytest.approx(len(one.rows) / int((targets[ranking.rows, one.missed] == 1).sum()))
    few = confusions(ranking, evaluated, k, most=3)
    assert [(one.given, one.missed) for one in few] == [(one.given, one.missed) for one in found[:3]]


def test_labels_of_unknown_verdict_are_no_confusion():
    evaluated = evaluated_of()
    targets = evaluated.truth.targets.dense()
    unknown = replace(evaluated, truth=GroundTruth(targets.masked_fill(targets == 0, -1)))
    assert confusions(rank_labels(unknown, 3)["generalized"], unknown, 3, most=99) == []


def ranking_of(rows, best=None):
    """Rankings of these images; only the rows and the best labels count."""
    best = torch.zeros(len(rows), 1, dtype=torch.int64) if best is None else best
    return Ranking(torch.arange(9), torch.tensor(rows, dtype=torch.int64), torch.zeros(9), torch.zeros(9), best)


def test_spread_equals_a_plain_loop(monkeypatch):
    monkeypatch.setattr("src.run_report.vectors.ROWS", 4)
    evaluated = evaluated_of(num_images=11, rows=3)
    embeddings, words = evaluated.embeddings, evaluated.split.word_vectors
    rows = [0, 2, 3, 4, 7, 8, 10]
    best = torch.randint(0, 9, (7, 2), generator=torch.Generator().manual_seed(1))
    found = measure_spread(evaluated, ranking_of(rows, best))
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
    for row, labels in zip(rows, best.tolist(), strict=True):
        for label in labels:
            products = [float(embeddings[row, m::3] @ words[:, label]) for m in range(3)]
            wins[products.index(max(products)), label] += 1
    torch.testing.assert_close(found.variances, torch.tensor(variances), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.mean_cosines, cosines, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.cosines.sort().values, torch.tensor(sorted(between)), rtol=1e-4, atol=1e-5)
    assert torch.equal(found.wins, wins)


def test_cosines_are_measured_on_some_images_of_many(monkeypatch):
    monkeypatch.setattr("src.run_report.vectors._COSINE_IMAGES", 5)
    found = measure_spread(evaluated_of(num_images=23), ranking_of([0, 1]))
    assert len(found.cosines) <= 5 * 3
    assert len(found.variances) == 23


def test_vectors_of_zeros_have_a_cosine_of_zero():
    evaluated = evaluated_of()
    found = measure_spread(replace(evaluated, embeddings=torch.zeros(14, 12)), ranking_of([0]))
    assert torch.equal(found.mean_cosines, torch.zeros(3, 3))


@pytest.mark.parametrize(
    ("zero_shot", "expected"), [(None, [0, 2, 4, 6, 8]), ([3, 9], [3, 9]), ([77], [0, 2, 4, 6, 8])]
)
def test_samples_are_evenly_spaced_and_have_an_unseen_label_where_some_do(zero_shot, expected):
    rankings = {"generalized": ranking_of(range(10))} | ({"zero_shot": ranking_of(zero_shot)} if zero_shot else {})
    assert [int(one.path.stem) for one in samples(rankings, evaluated_of(), 5)] == expected
    assert samples({"generalized": ranking_of([])}, evaluated_of(), 5) == []


# --- the page --------------------------------------------------------------------------------------------------------


def sections(page: Elements) -> list[str | None]:
    return [one.get("id") for one in page.of("section")]


def test_a_page_with_every_part(tmp_path):
    _, page = page_of(report_of(tmp_path), tmp_path)
    assert sections(page) == ["results", "training", "labels", "confusions", "vectors", "samples", "settings"]
    shown = " ".join(page.texts)
    for fact in ("toy & co", "5 seen and 3 unseen labels (1 on neither side)", "3 principal vectors of length 4"):
        assert fact in shown
    assert "14 evaluation images" in shown
    assert "3 epochs of 1,234 training images" in shown
    assert "positive-only" in shown


@pytest.mark.parametrize("images", ["positive-only", "all-images"])
def test_every_metric_is_beside_its_ceiling(tmp_path, images):
    report = report_of(tmp_path, images=images)
    text, metrics = page_of(report, tmp_path)[0], report.evaluated.metrics
    for setting, title in (("zero_shot", "Zero-shot"), ("generalized", "Generalised")):
        card = next(part for part in text.split('<div class="card">') if title in part)
        for name in ("F1@2", "P@2", "R@2", "F1@3", "P@3", "R@3", "mAP_skip"):
            value = metrics[f"{setting}.{name}"]
            ceiling = metrics.get(f"{setting}.ceiling.{name}", 100.0)
            row = re.search(rf"<tr><th>{re.escape(name)}</th>.*?</tr>", card)[0]
            assert f'<i style="width:{ceiling:.2f}%">' in row
            assert f'<b style="width:{value:.2f}%">' in row
            assert f"<td>{value:.2f}</td><td>{ceiling:.1f}</td><td>{100 * value / ceiling:.0f}%</td>" in row
        assert f"{metrics[f'{setting}.num_images']:.0f} images" in card
        assert f"<b>{metrics[f'{setting}.F1@2']:.1f}</b> F1@2" in card
    assert "mAP_verified" in text  # some verdicts are unknown
    assert "verdicts unknown" in text
    assert images in text


def test_the_ceiling_of_map_counts_labels_without_a_positive_as_zero():
    metrics = {"num_labels": 8, "num_labels_with_positive": 6, "mAP": 30.0, "mAP_skip": 40.0, "F1@threshold": 12.5}
    found = measured({f"generalized.{name}": value for name, value in metrics.items()}, "generalized")
    assert found == [("F1@threshold", 12.5, 100.0), ("mAP", 30.0, 75.0), ("mAP_skip", 40.0, 100.0)]


def rows_of_table(text: str) -> list[tuple[str, ...]]:
    body = text.split('<table id="table">')[1].split("<tbody>")[1].split("</tbody>")[0]
    return [tuple(re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)) for row in re.findall(r"<tr.*?</tr>", body)]


def test_the_table_has_every_label_of_either_side_highest_first(tmp_path):
    report = report_of(tmp_path)
    split, ranked = report.evaluated.split, rank_labels(report.evaluated, 3)["generalized"]
    rows = rows_of_table(page_of(report, tmp_path)[0])
    assert {html.unescape(row[0]) for row in rows} == set(split.labels[:-1])
    values = [float(row[3]) for row in rows]
    assert values == sorted(values, reverse=True)
    for name, side, positives, precision, zero_shot in rows:
        column = split.labels.index(html.unescape(name))
        assert side == ("unseen" if column in split.unseen else "seen")
        assert int(positives) == int(ranked.positives[column])
        assert float(precision) == pytest.approx(100 * float(ranked.precision[column]), abs=0.051)
        assert bool(zero_shot) == (side == "unseen")


def test_labels_without_a_positive_have_no_precision_and_stand_last(tmp_path):
    report = report_of(tmp_path)
    targets = report.evaluated.truth.targets.dense()
    targets[:, 2] = 0
    text, _ = page_of(changed(report, truth=GroundTruth(targets)), tmp_path)
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
    for path in report.evaluated.paths:
        Image.new("RGB", (800, 450), "red").save(path)
    text, page = page_of(report, tmp_path)
    assert 8 < len(images_of(page)) <= 20
    assert all(image.format == "JPEG" and max(image.size) <= 300 for image in images_of(page))
    confusing = Elements(text.split('id="confusions"')[1].split("</section>")[0])
    assert len(confusing.of("img")) <= 12


def test_confusions_show_other_images_where_there_are_others():
    found = [Confusion(0, 1, 0.5, torch.tensor(rows)) for rows in ([3, 5], [3, 5, 6], [3])]
    shown = {9}
    assert examples(found, shown) == [3, 5, 3]
    assert shown == {9, 3, 5}


def test_unreadable_images_are_named(tmp_path):
    report = report_of(tmp_path)
    for row, path in enumerate(report.evaluated.paths):
        path.write_bytes(b"") if row % 2 else path.unlink()
    text, page = page_of(report, tmp_path)
    assert not page.of("img")
    assert re.search(r"\d\.png is gone or cannot be read", text)


def test_tags_of_samples_are_marked(tmp_path):
    report = report_of(tmp_path)
    split, targets = report.evaluated.split, report.evaluated.truth.targets.dense()
    text, _ = page_of(report, tmp_path)
    cards = text.split('id="samples"')[1].split("</section>")[0].split('<div class="card image">')[1:]
    ranked = rank_labels(report.evaluated, 5)["generalized"]
    row_of = {path.name: row for row, path in enumerate(report.evaluated.paths)}
    assert len(cards) == 8
    for card in cards:
        row = row_of[re.search(r'alt="(.*?)"', card)[1]]
        best = ranked.best[ranked.rows.tolist().index(row)].tolist()
        expected = []
        for column in best:
            side = " unseen" if column in split.unseen else ""
            verdict = {1: "right", 0: "wrong", -1: "unknown"}[int(targets[row, column])]
            name = split.labels[column]
            expected.append((f"tag {verdict}{side}", f"*{name}*" if side else name))
        tags = re.findall(r'<span class="(.*?)">(.*?)</span>', card)
        assert [(kind, html.unescape(name)) for kind, name in tags] == expected
        missed = [column for column in range(8) if targets[row, column] == 1 and column not in best]
        assert ("missed:" in card) == bool(missed)


def test_names_are_escaped(tmp_path):
    report = report_of(tmp_path)
    split, paths = report.evaluated.split, report.evaluated.paths
    names = [ODD, f"a\udc80{ODD}", *split.labels[2:]]
    odd = make_split(names, split.seen, split.unseen, split.word_vectors, name=ODD, source="x")
    moved = [path.rename(path.with_name(f"{ODD.replace('/', '')}{number}.png")) for number, path in enumerate(paths)]
    report = replace(changed(report, split=odd, paths=moved), settings={ODD: f"\udcff{ODD}"})
    text, page = page_of(report, tmp_path)
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
    report = report_of(tmp_path, rows=rows, images=images)
    evaluated = report.evaluated
    truth = GroundTruth(LabelMatrix.from_dense(torch.zeros(evaluated.truth.targets.shape, dtype=torch.int8)))
    metrics = evaluate(evaluated.embeddings, evaluated.split, truth, evaluated.protocol)
    text, _ = page_of(changed(report, truth=truth, metrics=metrics), tmp_path)
    assert text.count("<p>None.</p>") == 2
    assert all(row[3] == "–" for row in rows_of_table(text))


def test_fewer_labels_than_k(tmp_path):
    report = report_of(tmp_path, labels=3, unseen=1, num_images=6)
    assert "generalized.F1@3" not in report.evaluated.metrics
    page_of(report, tmp_path)


def test_unreadable_training_images_and_the_duration_are_facts(tmp_path):
    report = report_of(tmp_path)
    entries = entries_of(2, seconds=4000.0)
    entries[-1]["train"]["bad"] = 7
    text, _ = page_of(replace(report, entries=entries), tmp_path)
    assert "7 training images could not be read" in text
    assert "2 h 13 min" in text
    assert "10 minutes" in page_of(replace(report, entries=entries_of(2, seconds=300.0)), tmp_path)[0]
    assert "60 seconds" in page_of(replace(report, entries=entries_of(2)), tmp_path)[0]


def test_more_labels_than_bars_are_evenly_spaced(tmp_path, monkeypatch):
    monkeypatch.setattr("src.run_report.tables._BARS", 2)
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
        write_report(path, changed(report, embeddings=report.evaluated.embeddings * float("nan")))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_sizes_that_do_not_fit(tmp_path):
    report = report_of(tmp_path)
    embeddings = report.evaluated.embeddings
    for wrong in (embeddings[1:], embeddings[:, :-1], embeddings[:, :0], embeddings[0]):
        with pytest.raises(ValueError, match=r"\[N, C\]|embedding"):
            write_report(tmp_path / "x.html", changed(report, embeddings=wrong))


# --- curves and charts -----------------------------------------------------------------------------------------------


def last_values(entries) -> dict[str, dict[str, float]]:
    """Chart -> line -> its last value."""
    return {chart.title: {line.name: line.points[-1][1] for line in chart.lines} for chart in curves(entries)}


def test_curves_of_the_log():
    parts = {
        "Training loss": {"loss": 2.25}, "Ranking term": {"L_rank": 2.0}, "Diversity weight": {"ω": 1.5},
        "Regulariser": {"L_reg": 0.0},
    }  # fmt: skip
    both = {"zero-shot": 14.0, "generalised": 14.0}
    assert last_values(entries_of(4)) == {"F1@3 (%)": both, "mAP (%)": both, **parts}
    everything = entries_of(
        4, lr={"backbone": 1e-4, "head": 1e-3}, ema_metrics={"zero_shot.F1@3": 33.25},
        selection={"name": "held-out", "metric": "F1@3", "value": 21.75}, ema_selection={"name": "x", "value": 22.5},
    )  # fmt: skip
    everything[3]["train"]["gradient_norm"] = 3.5
    assert last_values(everything) == {
        "F1@3 (%)": {**both, "zero-shot, averaged weights": 33.25},
        "mAP (%)": both,
        "Metric that selects the best epoch": {"held-out F1@3": 21.75, "held-out F1@3, averaged weights": 22.5},
        **parts,
        "Learning rate": {"backbone": 1e-4, "head": 1e-3},
        "Gradient norm": {"norm": 3.5},
    }
    assert curves([]) == []


def titles(chart) -> list[str]:
    return [title.text for title in ElementTree.fromstring(chart.svg).iter("title")]


def test_points_and_bars_say_their_values():
    drawn = line_chart("x", [Line("a", [(1, 10), (2, 20)]), Line("b", [(2, 1500.5)], "unseen", dashed=True)])
    assert titles(drawn) == ["a, epoch 1: 10", "a, epoch 2: 20", "b, epoch 2: 1,500"]
    bars = histogram("x", np.array([0.0, 1.0, 1.0, 4.0]), "note", bins=4)
    assert titles(bars) == ["0 to 1: 1", "1 to 2: 2", "2 to 3: 0", "3 to 4: 1"]
    labels = label_bars("x", [(ODD, 80.0, 1234), ("b", 20.0, 0)], "seen", "note")
    assert titles(labels) == [f"{ODD}: 80.0 from 1,234", "b: 20.0 from 0"] * 2


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
def test_any_line_can_be_drawn_with_few_ticks(points):
    chart = line_chart("x", [Line("a", points)])
    texts = [text.text for text in ElementTree.fromstring(chart.svg).iter("text")]
    assert 3 <= len(texts) <= 16
    assert all(re.fullmatch(r"-?[\d.,]+(e[-+]\d+)?", text) for text in texts)
    assert len(chart.svg) < 60_000


def test_values_of_different_magnitude_have_a_log_scale():
    assert line_chart("x", [Line("a", [(1, 100), (2, 10), (3, 1)])]).log
    assert not line_chart("x", [Line("a", [(1, 100), (2, 50)])]).log
    assert not line_chart("x", [Line("a", [(1, 100), (2, 0)])]).log


def test_values_that_are_not_finite_are_left_out():
    points = [(1, float("nan")), (2, 3.0), (3, float("inf")), (4, 5.0)]
    assert line_chart("x", [Line("a", points)]).lines[0].points == [(2, 3.0), (4, 5.0)]
    assert line_chart("x", [Line("a", points[:1])]) is None


def test_charts_have_the_colours_of_the_page_and_no_others():
    charts = [
        line_chart("x", [Line("a", [(1, 100), (2, 10)], "unseen", dashed=True)]),
        histogram("x", np.arange(9.0), "note"),
        label_bars("x", [("a", 80.0, 100)], "seen", "note"),
    ]
    for chart in charts:
        assert set(re.findall(r"(?:fill|stroke): ([^;\"]+)", chart.svg)) <= {
            "none", "var(--seen)", "var(--unseen)", "var(--line)",
        }  # fmt: skip
        assert "font" not in chart.svg


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
        counts = [int(row[2]) for row in rows_of_table(in_browser(changed_page))]
        assert counts == sorted(counts, reverse=not ascending)
