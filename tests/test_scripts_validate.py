"""validate.py: its numbers are those of training and of an independent computation; messages for mistakes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import src.metrics.zero_shot
import src.run_report.ranking
import src.validation
import train
import validate
from src.checkpoint import load_checkpoint
from src.data.images import read_image
from src.data.labels import LabelMatrix
from src.data.transforms import eval_transform
from src.utils.outputs import NAME as OUTPUTS
from tests.script_helpers import (
    PLAIN,
    TINY,
    call,
    child,
    copy_of,
    edit_json,
    edit_split,
    file_names,
    log_of,
    one_thread,
    succeeded,
    user_error,
    without_curves,
)

SETTINGS = ("zero_shot", "generalized")


@pytest.fixture(scope="module")
def trained(sample, tmp_path_factory):
    """Train for two epochs end to end, keeping the checkpoints of both."""
    folder = tmp_path_factory.mktemp("validate") / "out"
    flags = ("--data", sample, *TINY, *PLAIN, "--num-epochs", 2, "--seed", 1, "--lr", 3e-3)
    with without_curves():
        succeeded(call(train.main, *flags, "--path_output", folder))
    return folder


@pytest.fixture(scope="module")
def last(trained):
    return trained / "model-last.ckpt"


def report_of(*flags: object, json_file: Path, status: int = 0) -> dict:
    """Return the JSON that validate.py writes."""
    finished = call(validate.main, "-j", 0, "-b", 8, *flags, "--json", json_file)
    assert finished.returncode == status, finished.stderr
    return json.loads(json_file.read_text(encoding="utf-8"))


def metrics_of(*flags: object, json_file: Path) -> dict[str, float]:
    return report_of(*flags, json_file=json_file)["metrics"]


def plain_scores(checkpoint: Path, data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Scores and targets [N, C] of the validation images, computed label by label from the equation."""
    model, info = load_checkpoint(checkpoint)
    transform = eval_transform(info.config.image_size)
    content = json.loads((data / "val.json").read_text(encoding="utf-8"))
    column_of = {category["id"]: info.split.labels.index(category["name"]) for category in content["categories"]}
    words = info.split.word_vectors
    scores, targets = [], []
    for image in content["images"]:
        with torch.no_grad(), one_thread():
            embedding = model(transform(read_image(data / "images" / image["file_name"]))[None])[0]
        matrix = embedding.view(info.config.wordvec_dim, info.config.num_rows)  # A [D, M]
        scores.append([max(float(matrix[:, m] @ words[:, c]) for m in range(matrix.shape[1])) for c in range(18)])
        row = np.zeros(18, dtype=bool)
        for item in content["annotations"]:
            if item["image_id"] == image["id"]:
                row[column_of[item["category_id"]]] = True
        targets.append(row)
    return np.array(scores), np.array(targets)


def plain_f1(chosen: np.ndarray, targets: np.ndarray) -> tuple[float, float, float]:
    hits = (chosen & targets).sum()
    precision, recall = 100 * hits / max(chosen.sum(), 1), 100 * hits / targets.sum()
    return precision, recall, 2 * precision * recall / (precision + recall) if hits else 0.0


def top(scores: np.ndarray, k: int) -> np.ndarray:
    chosen = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(chosen, np.argsort(-scores, axis=1)[:, :k], True, axis=1)
    return chosen


def plain_ap(scores: np.ndarray, targets: np.ndarray) -> float:
    relevant = targets[np.argsort(-scores)]
    precision = np.cumsum(relevant) / np.arange(1, len(relevant) + 1)
    return 100 * precision[relevant].mean() if relevant.any() else 0.0


def test_validate_alone_finds_its_data_and_repeats_the_log(trained, last, tmp_path):
    """A child process in another folder, given nothing but the checkpoint, against the last line of the log."""
    report = tmp_path / "report.json"
    finished = child("validate.py", "--model-path", last, "-b", 8, "--json", report, cwd=tmp_path)
    succeeded(finished)
    content = json.loads(report.read_text(encoding="utf-8"))
    assert content["metrics"] == pytest.approx(log_of(trained)[-1]["metrics"])
    assert content["bad_images"] == []
    assert content["protocol"]["images"] == "positive-only"
    assert content["checkpoint"] == str(last)
    assert {"torch", "timm", "python"} <= content["versions"].keys()
    assert sorted(path.name for path in tmp_path.iterdir()) == [OUTPUTS, "report.json"]
    assert finished.stderr == ""


@pytest.fixture
def dense_sizes(monkeypatch) -> list[int]:
    """The sizes of all targets that are made dense, where blocks have 4 labels of 16 images, or 18 of 3."""
    sizes: list[int] = []
    dense = LabelMatrix.dense

    def recorded(self: LabelMatrix, rows: torch.Tensor | None = None) -> torch.Tensor:
        matrix = dense(self, rows)
        sizes.append(matrix.numel())
        return matrix

    monkeypatch.setattr(LabelMatrix, "dense", recorded)
    monkeypatch.setattr(src.metrics.zero_shot, "_SCORE_BLOCK_ELEMENTS", 4 * 16)
    monkeypatch.setattr(src.run_report.ranking, "ROWS", 3)
    return sizes


# Production takes the sparse path that benchmarks/evaluation.py measures: [N, C] dense targets never exist.


def test_validation_makes_targets_dense_for_a_block_of_labels_at_most(trained, last, dense_sizes, tmp_path):
    metrics = metrics_of("--model-path", last, json_file=tmp_path / "blocks.json")
    assert metrics == pytest.approx(log_of(trained)[-1]["metrics"])
    assert max(dense_sizes) <= 4 * 16  # of 18 labels


def test_training_makes_targets_dense_for_a_block_of_labels_at_most(sample, dense_sizes, tmp_path):
    flags = ("--data", sample, *TINY, *PLAIN, "--freeze-backbone", "--feature-cache", tmp_path / "cache", "-b", 4)
    succeeded(call(train.main, *flags, "--num-epochs", 1, "--path_output", tmp_path / "out"))
    assert max(dense_sizes) <= 4 * 16


@pytest.mark.parametrize("setting", SETTINGS)
def test_best_checkpoint_has_the_metrics_of_its_epoch(trained, tmp_path, setting):
    path = trained / f"model-best-{setting}.ckpt"
    epoch = load_checkpoint(path)[1].settings["epoch"]
    metrics = metrics_of("--model-path", path, json_file=tmp_path / "r.json")
    assert metrics == pytest.approx(log_of(trained)[epoch - 1]["metrics"])


def test_frozen_run_is_repeated_from_the_images(sample, tmp_path):
    flags = ("--data", sample, *TINY, *PLAIN, "--freeze-backbone", "--feature-cache", tmp_path / "cache")
    with without_curves():
        succeeded(call(train.main, *flags, "--num-epochs", 2, "--path_output", tmp_path / "out"))
    metrics = metrics_of("--model-path", tmp_path / "out" / "model-last.ckpt", json_file=tmp_path / "r.json")
    assert metrics == pytest.approx(log_of(tmp_path / "out")[-1]["metrics"], abs=1e-4)


def test_numbers_are_those_of_an_independent_computation(sample, last, tmp_path):
    scores, targets = plain_scores(last, sample)
    threshold = float(np.median(scores))
    metrics = metrics_of("--model-path", last, "--thre", threshold, "--top_k", 1, 3, 5, json_file=tmp_path / "r.json")
    split = load_checkpoint(last)[1].split
    for setting, columns in (("zero_shot", list(split.unseen)), ("generalized", [*split.seen, *split.unseen])):
        rows = targets[:, columns].any(axis=1)
        part_scores, part_targets = scores[np.ix_(rows, columns)], targets[np.ix_(rows, columns)]
        assert metrics[f"{setting}.num_images"] == rows.sum()
        assert metrics[f"{setting}.labels_per_image"] == pytest.approx(part_targets.sum() / rows.sum())
        for k in (1, 3, 5):
            expected = plain_f1(top(part_scores, k), part_targets)
            assert [metrics[f"{setting}.{name}@{k}"] for name in ("P", "R", "F1")] == pytest.approx(expected)
        expected = plain_f1(part_scores > threshold, part_targets)
        assert [metrics[f"{setting}.{name}@threshold"] for name in ("P", "R", "F1")] == pytest.approx(expected)
        mean_ap = np.mean([plain_ap(part_scores[:, c], part_targets[:, c]) for c in range(len(columns))])
        assert metrics[f"{setting}.mAP"] == pytest.approx(mean_ap)


def test_all_images_counts_images_without_an_unseen_label(sample, last, tmp_path):
    content = json.loads((sample / "val.json").read_text(encoding="utf-8"))
    unseen_names = json.loads((sample / "split.json").read_text(encoding="utf-8"))["unseen"]
    unseen = {category["id"] for category in content["categories"] if category["name"] in unseen_names}
    pairs = {(item["image_id"], item["category_id"]) for item in content["annotations"]}
    positives = [pair for pair in pairs if pair[1] in unseen]
    with_unseen = len({image for image, _ in positives})
    assert with_unseen < 16  # else the protocols could not differ
    some, every = (
        metrics_of("--model-path", last, "--images", images, json_file=tmp_path / f"{images}.json")
        for images in ("positive-only", "all-images")
    )
    for images, other, metrics in (("positive-only", "all-images", every), ("all-images", "positive-only", some)):
        assert json.loads((tmp_path / f"{images}.json").read_text())["other_protocols"] == {other: metrics}
    assert (some["zero_shot.num_images"], every["zero_shot.num_images"]) == (with_unseen, 16)
    assert some["zero_shot.num_positives"] == every["zero_shot.num_positives"] == len(positives)
    assert every["zero_shot.labels_per_image"] == pytest.approx(len(positives) / 16)
    assert every["zero_shot.P@3"] == pytest.approx(some["zero_shot.P@3"] * with_unseen / 16)
    assert every["zero_shot.R@3"] == pytest.approx(some["zero_shot.R@3"])


def test_every_way_to_name_the_data_is_the_same(sample, last, tmp_path):
    ways = [
        ("--data", sample),
        (sample,),
        ("--metadata", sample),
        ("--metadata", sample, "--data", sample / "images"),
        (),
    ]
    reports = [metrics_of("--model-path", last, *way, json_file=tmp_path / "r.json") for way in ways]
    assert all(report == pytest.approx(reports[0]) for report in reports)


def test_images_beside_the_metadata_are_found_again(sample, tmp_path):
    """A folder that records no images, as the released code's: the checkpoint knows the run's --data."""
    data = copy_of(sample, tmp_path / "metadata")
    shutil.move(data / "images", tmp_path / "images")
    edit_split(data, images=None)
    flags = ("--data", tmp_path / "images", "--metadata", data, *TINY, *PLAIN, "--num-epochs", 1)
    with without_curves():
        succeeded(call(train.main, *flags, "--path_output", tmp_path / "out"))
    ckpt = tmp_path / "out" / "model-last.ckpt"
    expected = log_of(tmp_path / "out")[0]["metrics"]
    assert metrics_of("--model-path", ckpt, json_file=tmp_path / "r.json") == pytest.approx(expected)
    shutil.move(tmp_path / "images", tmp_path / "moved")
    message = user_error(call(validate.main, "--model-path", ckpt, "-j", 0))
    assert "--data is needed" in message
    assert str(data) in message


def test_order_of_the_labels_does_not_matter(sample, last, tmp_path):
    """Labels, vectors and category ids in another order: names decide, not columns."""
    data = copy_of(sample, tmp_path / "data")
    labels = json.loads((data / "split.json").read_text(encoding="utf-8"))["labels"]
    order = np.random.default_rng(1).permutation(len(labels))
    vectors = np.load(data / "word_vectors.npy")
    np.save(data / "word_vectors.npy", vectors[:, order])
    edit_split(data, labels=[labels[column] for column in order])
    edit_json(
        data / "val.json",
        lambda content: {
            **content,
            "categories": [{**entry, "id": 100 - entry["id"]} for entry in content["categories"]],
            "annotations": [{**entry, "category_id": 100 - entry["category_id"]} for entry in content["annotations"]],
        },
    )
    expected = metrics_of("--model-path", last, json_file=tmp_path / "r.json")
    metrics = metrics_of("--model-path", last, "--metadata", data, json_file=tmp_path / "r.json")
    assert metrics == pytest.approx(expected, abs=1e-9)


def test_other_word_vectors_are_refused(sample, last, tmp_path):
    data = copy_of(sample, tmp_path / "data")
    vectors = np.load(data / "word_vectors.npy")
    for changed, words in ((vectors[::-1], "18 of 18 labels have other word vectors"), (vectors[:50], "length 50")):
        np.save(data / "word_vectors.npy", changed)
        message = user_error(call(validate.main, "--model-path", last, "--metadata", data, "-j", 0))
        assert str(data) in message
        assert words in message


def test_broken_image_is_named_counted_and_status_1(sample, last, tmp_path):
    data = copy_of(sample, tmp_path / "data")
    bad = data / "images" / file_names(data, "val")[4]
    bad.write_bytes(bad.read_bytes()[:300])
    report = tmp_path / "r.json"
    finished = call(validate.main, "--model-path", last, data, "-j", 2, "-b", 4, "--json", report)
    assert finished.returncode == 1
    assert finished.stderr.count(str(bad)) == 1
    assert len(finished.stderr.splitlines()) == 1
    assert "1 of 16 images could not be read" in finished.stdout
    content = json.loads(report.read_text(encoding="utf-8"))
    assert len(content["bad_images"]) == 1
    assert str(bad) in content["bad_images"][0]
    assert content["metrics"]["generalized.num_images"] == 15


def test_the_other_images_keep_their_labels_where_one_is_broken(sample, last, tmp_path):
    """Leaving an image out of the list, or not being able to read it, gives the same numbers."""
    data = copy_of(sample, tmp_path / "data")
    first = file_names(data, "val")[0]
    (data / "images" / first).write_bytes(b"")
    flags = ("--model-path", last, "--metadata", data)
    unreadable = report_of(*flags, json_file=tmp_path / "r.json", status=1)["metrics"]

    def without_first(content):
        number = next(image["id"] for image in content["images"] if image["file_name"] == first)
        return {
            **content,
            "images": [image for image in content["images"] if image["id"] != number],
            "annotations": [item for item in content["annotations"] if item["image_id"] != number],
        }

    edit_json(data / "val.json", without_first)
    assert metrics_of(*flags, json_file=tmp_path / "r.json") == pytest.approx(unreadable)


def test_no_readable_image_is_an_error(sample, last, tmp_path):
    data = copy_of(sample, tmp_path / "data")
    for name in file_names(data, "val"):
        (data / "images" / name).write_bytes(b"")
    message = user_error(call(validate.main, "--model-path", last, data, "-j", 0))
    assert "none of the 16 images" in message


def test_too_large_k_is_found_before_images_are_read(last, monkeypatch):
    monkeypatch.setattr(src.validation, "embed_images", lambda *arguments: pytest.fail("the images were read"))
    message = user_error(call(validate.main, "--model-path", last, "--top_k", 3, 19))
    assert "--top_k 19" in message
    assert "18" in message


MISTAKES = [
    ("", ["--model-path", "--help"]),
    ("--model-path nothing.ckpt", ["nothing.ckpt", "no such file", "give the path"]),
    ("--model-path {sample}/split.json", ["{sample}/split.json", "no PyTorch file"]),
    ("--model-path {short}", ["{short}", "cut short"]),
    ("{last} {sample} --data {sample}", ["{sample}", "--data", "twice", "give one"]),
    ("{last} --metadata nowhere", ["nowhere", "split.json", "prepare_data.py"]),
    ("{last} --data nowhere", ["--data nowhere", "no such folder"]),
    ("{last} --data {tmp}", ["--data {tmp}", "16 of the 16 images", "give the folder"]),
    ("{last} --model-name tresnet_m", ["--model-name tresnet_m", "test_efficientnet", "leave the flag out"]),
    ("{last} --num_rows 7", ["--num_rows 7", "with 2", "leave the flag out"]),
    ("{last} --wordvec_dim 300", ["--wordvec_dim 300", "with 100", "leave the flag out"]),
    ("{last} --top_k 0", ["--top_k", "'0'", "from 1"]),
    ("{last} --thre high", ["--thre", "'high'"]),
    ("{last} --images some", ["--images", "'some'", "all-images"]),
    ("{last} --print-freq 0", ["--print-freq", "'0'"]),
    ("{last} --json {sample}/split.json/r.json", ["{sample}/split.json/r.json", "choose another place"]),
    ("{orphan}", ["--metadata is needed", "gone"]),
]


@pytest.mark.parametrize(("flags", "named"), MISTAKES, ids=[flags or "nothing" for flags, _ in MISTAKES])
def test_a_mistake_is_one_line_that_names_flag_value_and_remedy(sample, last, tmp_path, monkeypatch, flags, named):
    monkeypatch.chdir(tmp_path)
    short, orphan = tmp_path / "short.ckpt", tmp_path / "orphan.ckpt"
    short.write_bytes(last.read_bytes()[:1000])
    content = torch.load(last, weights_only=True)
    content["settings"].update(metadata="gone", data=None)
    torch.save(content, orphan)
    values = {
        "sample": sample, "tmp": tmp_path, "last": f"--model-path {last} -j 0", "short": short,
        "orphan": f"--model-path {orphan}",
    }  # fmt: skip
    message = user_error(call(validate.main, *flags.format(**values).split()))
    for words in named:
        assert words.format(**values) in message


def test_metadata_without_validation_labels_is_an_error(sample, last, tmp_path):
    data = edit_split(copy_of(sample, tmp_path / "data"), val=None)
    message = user_error(call(validate.main, "--model-path", last, data, "-j", 0))
    assert "val.json" in message
    assert str(data) in message


def test_a_model_that_overflows_is_refused(sample, last, tmp_path):
    content = torch.load(last, weights_only=True)
    content["state_dict"]["embedding.weight"] = torch.full_like(content["state_dict"]["embedding.weight"].float(), 3e38)
    torch.save(content, tmp_path / "x.ckpt")
    finished = call(validate.main, "--model-path", tmp_path / "x.ckpt", "--metadata", sample, "-j", 0)
    assert "gives numbers that are NaN or infinite" in user_error(finished)
