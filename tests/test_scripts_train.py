"""train.py end to end: files, learning, repeatability."""

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

import train
import validate
from src.checkpoint import load_checkpoint
from src.data.images import read_image
from src.data.metadata import load_metadata
from src.data.parts import load_training_set
from src.data.transforms import eval_transform
from src.loss_functions.SDL_loss import SDLLoss
from tests.script_helpers import (
    FULL,
    PLAIN,
    RUN_FILES,
    SETTINGS,
    TINY,
    call,
    child,
    colour_wheel,
    copy_of,
    edit_json,
    edit_split,
    file_names,
    first_loss,
    log_of,
    one_thread,
    same_run,
    same_weights,
    snapshot,
    stored,
    succeeded,
    train_frozen,
    train_here,
    weights_of,
    without_curves,
)


@pytest.fixture(scope="module")
def trained(sample, tmp_path_factory):
    """Three epochs with augmentation, two workers and a seed, in a child process."""
    home = tmp_path_factory.mktemp("home")
    before = snapshot(sample)
    finished = child(
        "train.py", "--data", sample, *TINY, "--num-epochs", 3, "--seed", 3, "-j", 2, "--lr", 1e-3, "--path_output",
        "out", cwd=home,
    )  # fmt: skip
    succeeded(finished)
    return {"home": home, "folder": home / "out", "finished": finished, "changed": snapshot(sample) != before}


@pytest.fixture(scope="module")
def frozen(sample, tmp_path_factory):
    """Three epochs of a head on cached features."""
    home = tmp_path_factory.mktemp("frozen")
    finished = train_frozen(sample, home / "out", home / "cache", seed=5)
    return {"folder": home / "out", "cache": home / "cache", "finished": finished}


def continue_frozen(data: Path, folder: Path, frozen: dict, *flags: object):
    """Train one more epoch from the last checkpoint of the frozen run."""
    start = ("--model-path", frozen["folder"] / "model-last.ckpt", "-b", 8, "--num-epochs", 1, *PLAIN)
    cached = ("--freeze-backbone", "--feature-cache", frozen["cache"], "--path_output", folder)
    with without_curves():
        return succeeded(call(train.main, "--data", data, *start, *cached, *flags))


def validated(checkpoint: Path, folder: Path, *flags: object) -> dict[str, float]:
    """Return the metrics of validate.py."""
    report = folder / "report.json"
    succeeded(call(validate.main, "--model-path", checkpoint, "-j", 0, "-b", 8, "--json", report, *flags))
    return json.loads(report.read_text(encoding="utf-8"))["metrics"]


def test_run_writes_the_documented_files_and_nothing_else(trained):
    assert {path.name for path in trained["folder"].iterdir()} == RUN_FILES
    assert [path.name for path in trained["home"].iterdir()] == ["out"]
    assert not trained["changed"]  # the data are as they were
    assert trained["finished"].stderr == ""


def test_log_has_loss_parts_and_both_settings_of_each_epoch(trained):
    entries = log_of(trained["folder"])
    assert [entry["epoch"] for entry in entries] == [1, 2, 3]
    for entry in entries:
        assert set(entry) == {"epoch", "train", "lr", "metrics", "bad_evaluation_images"}
        part = entry["train"]
        assert set(part) == {
            "loss", "rank", "diversity", "regularizer", "gradient_norm", "num_images", "skipped_steps", "bad",
        }  # fmt: skip
        assert part["num_images"] == 24
        assert part["bad"] == part["skipped_steps"] == 0
        assert part["gradient_norm"] > 0
        assert set(entry["lr"]) == {"backbone", "head"}
        assert 1 <= part["diversity"] <= 2.5
        for setting in SETTINGS:
            for metric in ("P@3", "R@3", "F1@3", "P@5", "R@5", "F1@5", "mAP", "mAP_skip"):
                assert 0 <= entry["metrics"][f"{setting}.{metric}"] <= 100
            for k in (3, 5):
                assert entry["metrics"][f"{setting}.F1@{k}"] <= entry["metrics"][f"{setting}.ceiling.F1@{k}"]


def test_final_table_shows_the_last_epoch_and_the_best_ones(trained):
    out, entries = trained["finished"].stdout, log_of(trained["folder"])
    table = out.split("last epoch:\n")[1].splitlines()
    for line, setting, title in ((table[1], "zero_shot", "zero-shot"), (table[2], "generalized", "generalised")):
        cells = line.split()
        metrics = entries[-1]["metrics"]
        assert cells[0] == title
        assert int(cells[1]) == metrics[f"{setting}.num_images"]
        assert f"{metrics[f'{setting}.F1@3']:.2f}" in cells
        assert f"{metrics[f'{setting}.mAP']:.2f}" in cells
        best = max(entry["metrics"][f"{setting}.F1@3"] for entry in entries)
        assert re.search(rf"best {setting}\.F1@3: {best:.2f} in epoch \d \(selected on the evaluation images", out)
    assert "protocol: positive-only" in out
    assert sum(line.startswith("epoch ") for line in out.splitlines()) == 3


def test_best_checkpoints_hold_the_best_epochs(trained):
    entries = log_of(trained["folder"])
    for setting in SETTINGS:
        values = [entry["metrics"][f"{setting}.F1@3"] for entry in entries]
        info = load_checkpoint(trained["folder"] / f"model-best-{setting}.ckpt")[1]
        assert info.settings["epoch"] == 1 + values.index(max(values))
        assert info.metrics == entries[info.settings["epoch"] - 1]["metrics"]
    last = load_checkpoint(trained["folder"] / "model-last.ckpt")[1]
    assert last.settings["epoch"] == 3
    assert last.metrics == entries[-1]["metrics"]


def test_checkpoint_describes_itself(trained, sample):
    model, info = load_checkpoint(trained["folder"] / "model-last.ckpt")
    split = load_metadata(sample).split
    assert (info.config.model_name, info.config.num_rows, info.config.image_size) == ("test_efficientnet", 2, 32)
    assert info.split.labels == split.labels
    assert (info.split.seen, info.split.unseen) == (split.seen, split.unseen)
    assert torch.equal(info.split.word_vectors, split.word_vectors)
    assert info.settings["seed"] == 3
    assert info.settings["metadata"] == str(sample)
    assert not model.training


def test_runs_with_the_same_seed_are_equal(trained, sample, tmp_path):
    """Runs with different numbers of workers are equal."""
    flags = (*FULL, "--num-epochs", 3, "--lr", 1e-3)
    train_here(sample, tmp_path / "same", *flags)
    train_here(sample, tmp_path / "other", *flags, "--seed", 4)
    same_run(trained["folder"], tmp_path / "same")
    one, other = (log_of(folder)[0]["train"]["loss"] for folder in (trained["folder"], tmp_path / "other"))
    assert one != other


def test_evaluation_is_not_augmented(trained, tmp_path):
    """Compare the log of an augmented run with validate.py."""
    assert validated(trained["folder"] / "model-last.ckpt", tmp_path) == log_of(trained["folder"])[-1]["metrics"]


def test_runs_without_a_seed_differ_and_can_be_repeated(sample, tmp_path):
    """The state holds the seed that was drawn."""
    for name in ("one", "two"):
        train_here(sample, tmp_path / name, "--num-epochs", 1, seed=None)
    seed = stored(tmp_path / "one" / "state.pt")["progress"]["seed"]
    train_here(sample, tmp_path / "again", "--num-epochs", 1, seed=seed)
    assert log_of(tmp_path / "one")[0]["train"]["loss"] != log_of(tmp_path / "two")[0]["train"]["loss"]
    same_run(tmp_path / "one", tmp_path / "again")


def test_frozen_run_computes_features_once(frozen, sample, tmp_path, monkeypatch):
    cache = frozen["cache"]
    before = snapshot(cache)
    assert len(before) == 2  # training and evaluation images

    def backbone_runs(*arguments, **options):
        raise AssertionError("the backbone must not run again")

    monkeypatch.setattr("src.training.batches.embed_images", backbone_runs)
    train_frozen(sample, tmp_path / "out", cache, seed=5)
    assert snapshot(cache) == before
    assert log_of(tmp_path / "out") == log_of(frozen["folder"])
    assert same_weights(
        weights_of(tmp_path / "out" / "model-last.ckpt"), weights_of(frozen["folder"] / "model-last.ckpt")
    )


def test_frozen_run_trains_the_head_only(frozen, sample, tmp_path):
    train_frozen(sample, tmp_path / "out", frozen["cache"], 5, "--num-epochs", 1)
    after_one, after_three = (weights_of(folder / "model-last.ckpt") for folder in (tmp_path / "out", frozen["folder"]))
    backbone = [key for key in after_one if key.startswith("backbone.")]
    assert len(backbone) == len(after_one) - 1 > 50  # batch statistics included
    assert all(torch.equal(after_one[key], after_three[key]) for key in backbone)
    assert not torch.equal(after_one["embedding.weight"], after_three["embedding.weight"])


def test_features_are_cached_in_the_metadata_folder_and_follow_the_images(sample, tmp_path):
    data = copy_of(sample, tmp_path / "data")
    flags = ("--freeze-backbone", "--num-epochs", 1)
    train_here(data, tmp_path / "one", *flags)
    first = snapshot(data / "feature_cache")
    assert len(first) == 2
    image = data / "images" / file_names(data, "train")[0]
    Image.new("RGB", (64, 48), "red").save(image)
    train_here(data, tmp_path / "two", *flags)
    after = snapshot(data / "feature_cache")
    assert len(after) == 3  # new features of the training images; those of the evaluation images were kept
    assert first.items() <= after.items()
    assert log_of(tmp_path / "one")[0]["train"]["rank"] != log_of(tmp_path / "two")[0]["train"]["rank"]


def test_continued_checkpoint_keeps_its_interpolation(frozen, sample, tmp_path):
    """The training transform, the evaluation transform and the saved checkpoint agree."""
    content = stored(frozen["folder"] / "model-last.ckpt")
    losses = []
    for interpolation in ("bilinear", "bicubic"):
        start, folder = tmp_path / f"{interpolation}.ckpt", tmp_path / interpolation
        torch.save({**content, "config": {**content["config"], "interpolation": interpolation}}, start)
        losses.append(first_loss(sample, folder, "--model-path", start, "--freeze-bn")["loss"])
        saved = folder / "model-last.ckpt"
        assert load_checkpoint(saved)[1].config.interpolation == interpolation
        assert validated(saved, tmp_path) == pytest.approx(log_of(folder)[-1]["metrics"])
    assert losses[0] != pytest.approx(losses[1], rel=1e-6)


def test_labels_never_seen_are_learnt(tmp_path):
    data = colour_wheel(tmp_path / "wheel")
    train_here(data, tmp_path / "out", "-b", 12, "--num-epochs", 8, "--lr", 3e-3)
    entries = log_of(tmp_path / "out")
    losses = [entry["train"]["loss"] for entry in entries]
    assert losses[-1] < losses[0] / 2
    metrics = validated(tmp_path / "out" / "model-last.ckpt", tmp_path, "--top_k", 1)
    train_here(data, tmp_path / "untrained", "-b", 12, "--num-epochs", 1, "--lr", 1e-20)
    untrained = log_of(tmp_path / "untrained")[0]["metrics"]
    assert metrics["zero_shot.P@1"] > 80  # chance is 25
    assert metrics["zero_shot.mAP"] > untrained["zero_shot.mAP"] + 20
    assert metrics["generalized.mAP"] > untrained["generalized.mAP"] + 10


def test_logged_loss_is_the_loss_of_the_images(sample, tmp_path):
    """Compare one step over all images, without augmentation, with a loop written by hand."""
    logged = first_loss(sample, tmp_path / "out")
    metadata = load_metadata(sample)
    training = load_training_set(metadata, None)
    model = load_checkpoint(tmp_path / "out" / "model-last.ckpt")[0]  # the weights that the step started from
    transform = eval_transform(32)
    images = torch.stack([transform(read_image(path)) for path in training.paths])
    criterion = SDLLoss(weight=0.01, wordvec_array=metadata.split.word_vectors[:, list(metadata.split.seen)])
    with torch.no_grad(), one_thread():
        loss, parts = criterion.with_parts(model.train()(images), training.targets.dense())
    assert logged["loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert logged["rank"] == pytest.approx(parts.rank.item(), rel=1e-4)
    assert logged["diversity"] == pytest.approx(parts.diversity.item(), rel=1e-6)
    assert logged["regularizer"] == pytest.approx(parts.regularizer.item(), rel=1e-4)


def test_unknown_labels_are_negative_or_ignored(sample, tmp_path):
    """Make all labels unknown but the positive ones, so that no pair is left to rank."""
    data = copy_of(sample, tmp_path / "m")
    edit_json(
        data / "train.json",
        lambda content: {**content, "images": [{**image, "neg_category_ids": []} for image in content["images"]]},
    )
    known = first_loss(sample, tmp_path / "known")
    absent = first_loss(data, tmp_path / "absent", "--unknown", "negative")
    nothing = first_loss(data, tmp_path / "nothing", "--unknown", "ignore", "--normalization", "paper")
    assert absent["rank"] == pytest.approx(known["rank"], rel=1e-6)
    assert nothing["rank"] == 0
    assert known["rank"] > 0


def test_one_principal_vector_has_no_regulariser(sample, tmp_path):
    one = first_loss(sample, tmp_path / "one", "--num_rows", 1)
    assert one["regularizer"] == 0
    assert one["loss"] > 0
    state = weights_of(tmp_path / "one" / "model-last.ckpt")
    assert state["embedding.weight"].shape[0] == 100
    assert stored(tmp_path / "one" / "model-last.ckpt")["config"]["num_rows"] == 1


@pytest.mark.parametrize("flags", [(), ("--pretrain-backbone", 0)])
def test_continuing_takes_model_rows_and_size_from_the_checkpoint(frozen, sample, tmp_path, flags):
    start = frozen["folder"] / "model-last.ckpt"
    continue_frozen(sample, tmp_path / "out", frozen, *flags, "--lr", 1e-20)
    assert stored(tmp_path / "out" / "model-last.ckpt")["config"] == stored(start)["config"]
    assert same_weights(weights_of(tmp_path / "out" / "model-last.ckpt"), weights_of(start))
    assert log_of(tmp_path / "out")[0]["metrics"] == log_of(frozen["folder"])[-1]["metrics"]


def test_split_without_unseen_labels_trains_and_reports_one_setting(sample, tmp_path):
    data = edit_split(copy_of(sample, tmp_path / "data"), unseen=[])
    finished = train_here(data, tmp_path / "out", "--num-epochs", 1)
    assert not any(key.startswith("zero_shot") for key in log_of(tmp_path / "out")[0]["metrics"])
    assert not (tmp_path / "out" / "model-best-zero_shot.ckpt").exists()
    assert "zero-shot" not in finished.stdout
