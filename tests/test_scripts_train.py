"""train.py end to end: what it writes, that it learns, that it repeats, and what it says to mistakes."""

import json
import shutil
from pathlib import Path

import pytest
import timm.models.efficientnet
import torch
from PIL import Image

import train
import validate
from src.checkpoint import load_checkpoint
from src.data.images import read_picture
from src.data.metadata import load_metadata
from src.data.parts import load_training_set
from src.data.transforms import eval_transform
from src.loss_functions.SDL_loss import SDLLoss
from src.train_flags import train_parser
from tests.script_helpers import (
    PLAIN,
    TINY,
    call,
    child,
    colour_wheel,
    copy_of,
    edit_json,
    edit_split,
    file_names,
    log_of,
    one_thread,
    same_weights,
    snapshot,
    stored,
    succeeded,
    user_error,
    weights_of,
    without_curves,
)

OUTPUTS = {"log.jsonl", "model-last.ckpt", "model-best-zero_shot.ckpt", "model-best-generalized.ckpt", "curves.png"}
SETTINGS = ("zero_shot", "generalized")


@pytest.fixture(scope="module")
def trained(sample, tmp_path_factory):
    """Three epochs end to end, as a user would run them: augmentation, two reading processes, a seed."""
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


def train_here(data: Path, folder: Path, *flags: object):
    with without_curves():
        return succeeded(call(train.main, "--data", data, *TINY, *PLAIN, "--seed", 3, "--path_output", folder, *flags))


def train_frozen(data: Path, folder: Path, cache: Path, seed: int, *flags: object):
    return train_here(
        data, folder, "--freeze-backbone", "--feature-cache", cache, "--num-epochs", 3, "--seed", seed, *flags
    )


def continue_frozen(data: Path, folder: Path, frozen: dict, *flags: object):
    """One more epoch from the last checkpoint of the frozen run."""
    start = ("--model-path", frozen["folder"] / "model-last.ckpt", "-b", 8, "--num-epochs", 1, *PLAIN)
    cached = ("--freeze-backbone", "--feature-cache", frozen["cache"], "--path_output", folder)
    with without_curves():
        return succeeded(call(train.main, "--data", data, *start, *cached, *flags))


def first_loss(data: Path, folder: Path, *flags: object) -> dict[str, float]:
    """The training part of the log after one epoch that changes nothing: a learning rate next to zero."""
    train_here(data, folder, "--num-epochs", 1, "--lr", 1e-20, "-b", 24, *flags)
    return log_of(folder)[0]["train"]


def test_a_run_leaves_the_documented_files_and_nothing_else(trained):
    assert {path.name for path in trained["folder"].iterdir()} == OUTPUTS
    assert [path.name for path in trained["home"].iterdir()] == ["out"]
    assert not trained["changed"]  # the data are as they were
    assert trained["finished"].stderr == ""


def test_curves_are_a_picture(trained):
    with Image.open(trained["folder"] / "curves.png") as curves:
        curves.load()
        assert curves.format == "PNG"
        assert curves.width > 600
        assert len(curves.convert("RGB").getcolors(1 << 24)) > 10  # something is drawn


def test_log_has_a_line_an_epoch_with_loss_parts_and_both_settings(trained):
    entries = log_of(trained["folder"])
    assert [entry["epoch"] for entry in entries] == [1, 2, 3]
    for entry in entries:
        part = entry["train"]
        assert set(part) == {"loss", "rank", "diversity", "regularizer", "num_pictures", "bad"}
        assert part["num_pictures"] == 24
        assert part["bad"] == 0
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
        assert f"best {setting}.F1@3: {best:.2f} in epoch" in out
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


def test_a_seed_makes_runs_in_two_processes_equal(trained, sample, tmp_path):
    flags = ("--data", sample, *TINY, "--num-epochs", 3, "-j", 2, "--lr", 1e-3)
    succeeded(call(train.main, *flags, "--seed", 3, "--path_output", tmp_path / "same"))
    succeeded(call(train.main, *flags, "--seed", 4, "--path_output", tmp_path / "other"))
    logs = [log_of(folder) for folder in (trained["folder"], tmp_path / "same", tmp_path / "other")]
    weights = [
        weights_of(folder / "model-last.ckpt") for folder in (trained["folder"], tmp_path / "same", tmp_path / "other")
    ]
    assert logs[0] == logs[1]
    assert same_weights(weights[0], weights[1])
    assert logs[0][0]["train"]["loss"] != logs[2][0]["train"]["loss"]
    assert not same_weights(weights[0], weights[2])


def test_evaluation_is_not_augmented(trained, tmp_path):
    """The log of an augmented run holds what validate.py finds."""
    report = tmp_path / "report.json"
    ckpt = trained["folder"] / "model-last.ckpt"
    succeeded(call(validate.main, "--model-path", ckpt, "-j", 0, "-b", 8, "--json", report))
    assert json.loads(report.read_text(encoding="utf-8"))["metrics"] == log_of(trained["folder"])[-1]["metrics"]


def test_without_a_seed_runs_differ(sample, tmp_path):
    for name in ("one", "two"):
        flags = ("--data", sample, *TINY, *PLAIN, "--num-epochs", 1, "--path_output", tmp_path / name)
        succeeded(call(train.main, *flags))
    assert log_of(tmp_path / "one")[0]["train"]["loss"] != log_of(tmp_path / "two")[0]["train"]["loss"]


def test_frozen_run_computes_features_once(frozen, sample, tmp_path, monkeypatch):
    cache = frozen["cache"]
    before = snapshot(cache)
    assert len(before) == 2  # training and evaluation pictures

    def backbone_runs(*arguments, **options):
        raise AssertionError("the backbone must not run again")

    monkeypatch.setattr("src.training.embed", backbone_runs)
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


def test_frozen_run_with_another_seed_differs(frozen, sample, tmp_path):
    # The same weights in another order: only the seed of the order may make the difference.
    for seed in (1, 2):
        continue_frozen(sample, tmp_path / str(seed), frozen, "--seed", seed)
    assert log_of(tmp_path / "1")[0]["train"]["loss"] != log_of(tmp_path / "2")[0]["train"]["loss"]
    assert len(snapshot(frozen["cache"])) == 2  # the backbone is the same: no further features


def test_features_lie_in_the_metadata_folder_and_follow_the_pictures(sample, tmp_path):
    data = copy_of(sample, tmp_path / "data")
    flags = ("--freeze-backbone", "--num-epochs", 1)
    train_here(data, tmp_path / "one", *flags)
    first = snapshot(data / "feature_cache")
    assert len(first) == 2
    picture = data / "images" / file_names(data, "train")[0]
    Image.new("RGB", (64, 48), "red").save(picture)
    train_here(data, tmp_path / "two", *flags)
    after = snapshot(data / "feature_cache")
    assert len(after) == 3  # new features of the training pictures; those of the evaluation pictures were kept
    assert first.items() <= after.items()
    assert log_of(tmp_path / "one")[0]["train"]["rank"] != log_of(tmp_path / "two")[0]["train"]["rank"]


def test_damaged_cache_is_computed_anew(frozen, sample, tmp_path):
    cache = copy_of(frozen["cache"], tmp_path / "cache")
    for path in cache.iterdir():
        path.write_bytes(path.read_bytes()[:100])
    finished = train_frozen(sample, tmp_path / "out", cache, seed=5)
    assert finished.stderr.count("computing the features anew") == 2
    assert log_of(tmp_path / "out") == log_of(frozen["folder"])
    assert {name: size for name, (size, _) in snapshot(cache).items()} == {
        name: size for name, (size, _) in snapshot(frozen["cache"]).items()
    }


def test_it_learns_labels_that_it_never_saw(tmp_path):
    data = colour_wheel(tmp_path / "wheel")
    train_here(data, tmp_path / "out", "-b", 12, "--num-epochs", 8, "--lr", 3e-3)
    entries = log_of(tmp_path / "out")
    losses = [entry["train"]["loss"] for entry in entries]
    assert losses[-1] < losses[0] / 2
    report = tmp_path / "report.json"
    ckpt = tmp_path / "out" / "model-last.ckpt"
    succeeded(call(validate.main, "--model-path", ckpt, "-j", 0, "--top_k", 1, "--json", report))
    metrics = json.loads(report.read_text(encoding="utf-8"))["metrics"]
    train_here(data, tmp_path / "untrained", "-b", 12, "--num-epochs", 1, "--lr", 1e-20)
    untrained = log_of(tmp_path / "untrained")[0]["metrics"]
    assert metrics["zero_shot.P@1"] > 80  # chance is 25
    assert metrics["zero_shot.mAP"] > untrained["zero_shot.mAP"] + 20
    assert metrics["generalized.mAP"] > untrained["generalized.mAP"] + 10


def test_logged_loss_is_the_loss_of_the_pictures(sample, tmp_path):
    """One step over all pictures without augmentation, against the same made by hand."""
    logged = first_loss(sample, tmp_path / "out")
    metadata = load_metadata(sample)
    training = load_training_set(metadata, None)
    model = load_checkpoint(tmp_path / "out" / "model-last.ckpt")[0]  # the weights that the step started from
    transform = eval_transform(32)
    pictures = torch.stack([transform(read_picture(path)) for path in training.paths])
    criterion = SDLLoss(weight=0.01, wordvec_array=metadata.split.word_vectors[:, list(metadata.split.seen)])
    with torch.no_grad(), one_thread():
        loss, parts = criterion.with_parts(model.train()(pictures), training.targets.dense())
    assert logged["loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert logged["rank"] == pytest.approx(parts.rank.item(), rel=1e-4)
    assert logged["diversity"] == pytest.approx(parts.diversity.item(), rel=1e-6)
    assert logged["regularizer"] == pytest.approx(parts.regularizer.item(), rel=1e-4)


def test_unknown_labels_are_absent_or_nothing_to_the_loss(sample, tmp_path):
    """All labels of the pictures but the positive ones made unknown: then no pair is left to rank."""
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


def test_lambda_and_normalisation_scale_the_loss_as_documented(sample, tmp_path):
    def loss_of(name: str, *flags: object) -> dict[str, float]:
        return first_loss(sample, tmp_path / name, *flags)

    ranking_alone = loss_of("none", "--var_weight", "none")
    lambda_zero = loss_of("zero", "--var_weight", 0)
    lambda_one = loss_of("one", "--var_weight", 1)
    paper_one = loss_of("paper-one", "--var_weight", 1, "--normalization", "paper")
    paper_zero = loss_of("paper-zero", "--var_weight", 0, "--normalization", "paper")
    assert lambda_zero["loss"] == pytest.approx(2 * ranking_alone["loss"], rel=1e-5)
    assert lambda_one["loss"] == pytest.approx(2 * lambda_one["regularizer"], rel=1e-5)
    assert paper_one["loss"] == pytest.approx(paper_one["regularizer"], rel=1e-5)
    assert paper_one["regularizer"] == pytest.approx(lambda_one["regularizer"], rel=1e-5)
    # 12 seen labels, of which every picture has 2 to 5: the paper also divides by the 7 to 10 others
    assert ranking_alone["rank"] / 10 <= paper_zero["rank"] <= ranking_alone["rank"] / 7


def test_one_principal_vector_has_no_regulariser(sample, tmp_path):
    one = first_loss(sample, tmp_path / "one", "--num_rows", 1)
    assert one["regularizer"] == 0
    assert one["loss"] > 0
    state = weights_of(tmp_path / "one" / "model-last.ckpt")
    assert state["embedding.weight"].shape[0] == 100
    assert stored(tmp_path / "one" / "model-last.ckpt")["config"]["num_rows"] == 1


def test_augmentations_change_what_is_trained_on(sample, tmp_path):
    losses = {
        name: first_loss(sample, tmp_path / name, "--augmentation", augmentation, "--cutout", cutout)["loss"]
        for name, augmentation, cutout in (
            ("none", "none", 0),
            ("cutout", "none", 0.5),
            ("torchvision", "torchvision", 0),
            ("randaugment", "randaugment", 0),
        )
    }
    assert len(set(losses.values())) == 4


def test_half_weights_are_half_the_size_and_give_nearly_the_same_metrics(frozen, sample, tmp_path):
    train_frozen(sample, tmp_path / "half", frozen["cache"], 5, "--half-weights")
    full_path, half_path = frozen["folder"] / "model-last.ckpt", tmp_path / "half" / "model-last.ckpt"
    full, half = weights_of(full_path), weights_of(half_path)
    assert {tensor.dtype for tensor in half.values() if tensor.ndim >= 2} == {torch.float16}
    assert all(torch.equal(half[key], full[key]) for key in full if full[key].ndim < 2)
    assert half_path.stat().st_size < 0.65 * full_path.stat().st_size
    assert {p.dtype for p in load_checkpoint(half_path)[0].parameters()} == {torch.float32}
    report = tmp_path / "report.json"
    succeeded(call(validate.main, "--model-path", half_path, "-j", 0, "--json", report))
    metrics = json.loads(report.read_text(encoding="utf-8"))["metrics"]
    expected = log_of(frozen["folder"])[-1]["metrics"]
    assert metrics["generalized.mAP"] == pytest.approx(expected["generalized.mAP"], abs=2)


def test_grad_checkpointing_changes_memory_not_numbers(sample, tmp_path, monkeypatch):
    calls = []
    original = timm.models.efficientnet.checkpoint_seq

    def counted(*arguments, **options):
        calls.append(1)
        return original(*arguments, **options)

    monkeypatch.setattr(timm.models.efficientnet, "checkpoint_seq", counted)
    plain = first_loss(sample, tmp_path / "plain", "--lr", 1e-3)
    assert not calls
    saving = first_loss(sample, tmp_path / "saving", "--lr", 1e-3, "--grad-checkpointing")
    assert calls
    assert saving["loss"] == pytest.approx(plain["loss"], rel=1e-6)
    heads = [weights_of(tmp_path / name / "model-last.ckpt")["embedding.weight"] for name in ("plain", "saving")]
    torch.testing.assert_close(heads[0], heads[1])


@pytest.mark.parametrize("freeze", [True, False])
def test_freeze_bn_keeps_the_stored_statistics_and_trains_the_rest(frozen, sample, tmp_path, freeze):
    start = frozen["folder"] / "model-last.ckpt"
    flags = ("--data", sample, *PLAIN, "-b", 8, "--num-epochs", 1, "--lr", 1e-3, "--model-path", start)
    with without_curves():
        succeeded(call(train.main, *flags, *["--freeze-bn"] * freeze, "--path_output", tmp_path / "out"))
    before, after = weights_of(start), weights_of(tmp_path / "out" / "model-last.ckpt")
    statistics = [key for key in before if "running_" in key]
    assert len(statistics) > 20
    assert all(torch.equal(before[key], after[key]) == freeze for key in statistics)
    convolutions = [key for key in before if before[key].ndim == 4]
    assert not any(torch.equal(before[key], after[key]) for key in convolutions)


@pytest.mark.parametrize("flags", [(), ("--pretrain-backbone", 0)])
def test_continuing_takes_model_rows_and_size_from_the_checkpoint(frozen, sample, tmp_path, flags):
    start = frozen["folder"] / "model-last.ckpt"
    continue_frozen(sample, tmp_path / "out", frozen, *flags, "--lr", 1e-20)
    assert stored(tmp_path / "out" / "model-last.ckpt")["config"] == stored(start)["config"]
    assert same_weights(weights_of(tmp_path / "out" / "model-last.ckpt"), weights_of(start))
    assert log_of(tmp_path / "out")[0]["metrics"] == log_of(frozen["folder"])[-1]["metrics"]


def test_pretrain_backbone_keeps_the_backbone_of_a_checkpoint_and_makes_a_fresh_head(frozen, sample, tmp_path):
    continue_frozen(sample, tmp_path / "out", frozen, "--pretrain-backbone", 1, "--num_rows", 3, "--image-size", 32)
    before, after = (weights_of(folder / "model-last.ckpt") for folder in (frozen["folder"], tmp_path / "out"))
    assert after["embedding.weight"].shape[0] == 300
    assert all(torch.equal(before[key], after[key]) for key in before if key.startswith("backbone."))


def test_an_earlier_run_is_replaced_only_with_overwrite(frozen, sample, tmp_path):
    folder = Path(shutil.copytree(frozen["folder"], tmp_path / "out"))
    before = snapshot(folder)
    flags = (
        "--data",
        sample,
        *TINY,
        *PLAIN,
        "--freeze-backbone",
        "--feature-cache",
        frozen["cache"],
        "--num-epochs",
        1,
    )
    message = user_error(call(train.main, *flags, "--path_output", folder))
    assert f"--path_output {folder}" in message
    assert "--overwrite" in message
    assert snapshot(folder) == before
    train_frozen(sample, folder, frozen["cache"], 5, "--overwrite", "--num-epochs", 1)
    assert [entry["epoch"] for entry in log_of(folder)] == [1]
    for name in ("last", "best-zero_shot", "best-generalized"):
        assert stored(folder / f"model-{name}.ckpt")["settings"]["epoch"] == 1


@pytest.mark.parametrize("frozen_backbone", [False, True])
def test_broken_pictures_are_named_once_counted_and_left_out(sample, tmp_path, frozen_backbone):
    data = copy_of(sample, tmp_path / "data")
    bad_train, bad_val = (data / "images" / file_names(data, part)[2] for part in ("train", "val"))
    bad_train.write_bytes(bad_train.read_bytes()[:200])  # cut short
    bad_val.write_text("not a picture")
    flags = ("--freeze-backbone",) if frozen_backbone else ("-j", 2)
    for attempt in ("first", "second"):  # the second frozen run reads them from the cache
        finished = train_here(data, tmp_path / attempt, "--num-epochs", 2, *flags)
        for path in (bad_train, bad_val):
            assert finished.stderr.count(str(path)) == 1
        assert len(finished.stderr.splitlines()) == 2
        for entry in log_of(tmp_path / attempt):
            assert entry["train"]["num_pictures"] == 23
            assert entry["train"]["bad"] == 1
            assert entry["bad_evaluation_pictures"] == 1


@pytest.mark.parametrize("part", ["train", "val"])
@pytest.mark.parametrize("flags", [(), ("--freeze-backbone",)])
def test_no_readable_picture_is_an_error(sample, tmp_path, part, flags):
    data = copy_of(sample, tmp_path / "data")
    for name in file_names(data, part):
        (data / "images" / name).write_bytes(b"")
    finished = call(
        train.main, "--data", data, *TINY, *PLAIN, *flags, "--num-epochs", 1, "--path_output", tmp_path / "out"
    )
    message = user_error(finished)
    assert "--data" in message
    assert "none of the" in message
    assert not (tmp_path / "out" / "model-last.ckpt").exists()


def test_ten_steps_in_all(sample, tmp_path):
    """PyTorch's OneCycle divides by zero where its warm-up of a tenth is one step: one step an epoch, ten epochs."""
    train_frozen(sample, tmp_path / "out", tmp_path / "cache", 5, "-b", 32, "--num-epochs", 10)
    assert len(log_of(tmp_path / "out")) == 10


def test_loss_that_is_not_finite_stops_the_run(sample, tmp_path):
    flags = ("--data", sample, *TINY, *PLAIN, "--lr", 1e30, "--path_output", tmp_path / "out")
    finished = call(train.main, *flags)
    assert finished.returncode == 1
    assert len(finished.stderr.splitlines()) == 1
    for word in ("not finite", "step", "rank nan", "--lr"):
        assert word in finished.stderr
    assert not (tmp_path / "out" / "model-last.ckpt").exists()


def test_split_without_unseen_labels_trains_and_reports_one_setting(sample, tmp_path):
    data = edit_split(copy_of(sample, tmp_path / "data"), unseen=[])
    finished = train_here(data, tmp_path / "out", "--num-epochs", 1)
    assert not any(key.startswith("zero_shot") for key in log_of(tmp_path / "out")[0]["metrics"])
    assert not (tmp_path / "out" / "model-best-zero_shot.ckpt").exists()
    assert "zero-shot" not in finished.stdout


def test_images_and_best_metric_are_honoured(sample, tmp_path):
    finished = train_here(sample, tmp_path / "out", "--num-epochs", 2, "--images", "all-images", "--best-metric", "mAP")
    entries = log_of(tmp_path / "out")
    assert {entry["metrics"][f"{setting}.num_images"] for entry in entries for setting in SETTINGS} == {16}
    assert "protocol: all-images" in finished.stdout
    assert "best zero_shot.mAP: " in finished.stdout
    best = stored(tmp_path / "out" / "model-best-zero_shot.ckpt")["metrics"]["zero_shot.mAP"]
    assert best == max(entry["metrics"]["zero_shot.mAP"] for entry in entries)


def test_released_flags_are_known_in_both_spellings():
    flags = {
        "--data": "d", "--metadata": "m", "--lr": 0.1, "--var_weight": 0.2, "--num-epochs": 3,
        "--model-name": "tresnet_l", "--pretrain-backbone": 1, "--model-path": "p", "--num-classes": 80,
        "--autocast-enabled": 0, "--num_rows": 7, "--seed": 5, "--wordvec_dim": 300, "--workers": 1,
        "--image-size": 448, "--batch-size": 16, "--path_output": Path("o"),
    }  # fmt: skip
    for exchanged in (str, lambda flag: "--" + flag[2:].replace("-", "_"), lambda flag: flag.replace("_", "-")):
        argv = [word for flag, value in flags.items() for word in (exchanged(flag), str(value))]
        parsed = vars(train_parser(None).parse_args(argv))
        assert {flag: parsed[flag[2:].replace("-", "_")] for flag in flags} == flags
    short = train_parser(None).parse_args(["-j", "1", "-b", "16"])
    assert (short.workers, short.batch_size) == (1, 16)


def test_help_is_shown(capsys):
    with pytest.raises(SystemExit) as stop:
        train.main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "--freeze-backbone" in out
    assert "feature_cache" in out


def test_mistake_in_a_child_process_is_one_line(tmp_path):
    finished = child("train.py", "--metadata", tmp_path / "nowhere", cwd=tmp_path)
    assert str(tmp_path / "nowhere") in user_error(finished)
    assert finished.stdout == ""
    assert list(tmp_path.iterdir()) == []


MISTAKES = [
    # flags, what the message names
    ("--model-path none", ["--metadata", "data/COCO", "prepare_data.py"]),
    ("--data nowhere --model-path none", ["--data nowhere", "--metadata", "prepare_data.py"]),
    ("--metadata nowhere", ["nowhere", "split.json", "prepare_data.py"]),
    ("--metadata {sample}/images", ["{sample}/images", "split.json", "prepare_data.py"]),
    ("--metadata {sample} --data nowhere", ["--data nowhere", "no such folder"]),
    ("--metadata {sample} --data {tmp}", ["--data {tmp}", "24 of the 24 pictures", "give the folder"]),
    ("--data {sample} --model-name no_such_net --model-path none", ["--model-name no_such_net", "tresnet_m"]),
    ("--data {sample}", ["--model-path auto", "tresnet_m", "./models/tresnet_m.pth", "'timm'", "'none'"]),
    ("--data {sample} --model-name test_efficientnet", ["--model-path auto", "test_efficientnet", "'none'"]),
    ("--data {sample} --model-path nothing.pth", ["nothing.pth", "no such file", "give the path"]),
    ("--data {sample} --model-path {sample}/split.json", ["{sample}/split.json", "no checkpoint"]),
    ("--data {sample} --model-path {ckpt} --num_rows 5", ["--num_rows 5", "{ckpt}", "with 2", "leave the flag out"]),
    ("--data {sample} --model-path {ckpt} --model-name tresnet_m", ["--model-name tresnet_m", "leave the flag out"]),
    ("--data {sample} --model-path none --pretrain-backbone 0", ["--pretrain-backbone 0", "--pretrain-backbone 1"]),
    ("--data {sample} --wordvec_dim 300 --model-path none", ["--wordvec_dim 300", "100", "leave the flag out"]),
    ("--data {sample} --model-name test_vit --model-path none --image-size 50", ["--image-size 50", "leave the flag"]),
    ("--data {sample} --model-name test_vit --model-path none --inplace-abn", ["--inplace-abn"]),
    ("--data {sample} --lr 0", ["--lr", "'0'", "above 0"]),
    ("--data {sample} --lr fast", ["--lr", "'fast'"]),
    ("--data {sample} --var_weight 2", ["--var_weight", "'2'", "from 0 to 1"]),
    ("--data {sample} --cutout 1.5", ["--cutout", "'1.5'"]),
    ("--data {sample} --num-epochs 0", ["--num-epochs", "'0'", "from 1"]),
    ("--data {sample} --batch-size none", ["--batch-size", "'none'"]),
    ("--data {sample} --workers -1", ["--workers", "'-1'"]),
    ("--data {sample} --seed 99999999999999999999", ["--seed 99999999999999999999", "must be from"]),
    ("--data {sample} --num_row 3", ["--num_row", "--help"]),
    ("--data {sample} --best-metric F1", ["--best-metric", "'F1'", "F1@3"]),
    ("--data {sample} --augmentation much", ["--augmentation", "'much'", "randaugment"]),
    ("--data {sample} {tiny} --path_output {sample}/split.json", ["{sample}/split.json", "choose an output folder"]),
]


@pytest.mark.parametrize(("flags", "named"), MISTAKES, ids=[flags for flags, _ in MISTAKES])
def test_a_mistake_is_one_line_that_names_flag_value_and_remedy(frozen, sample, tmp_path, monkeypatch, flags, named):
    monkeypatch.chdir(tmp_path)
    values = {
        "sample": sample,
        "tmp": tmp_path,
        "ckpt": frozen["folder"] / "model-last.ckpt",
        "tiny": "--model-name test_efficientnet --model-path none --image-size 32",
    }
    message = user_error(call(train.main, *flags.format(**values).split()))
    for words in named:
        assert words.format(**values) in message
    assert list(tmp_path.iterdir()) == []  # found before anything was written


def test_device_that_is_not_there_is_an_error(sample, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    message = user_error(call(train.main, "--data", sample, "--device", "cuda"))
    assert "--device cuda" in message
    assert "--device cpu" in message


def test_folder_without_training_labels_is_an_error(sample, tmp_path):
    data = edit_split(copy_of(sample, tmp_path / "data"), train=None)
    message = user_error(call(train.main, "--data", data, *TINY))
    assert "train.json" in message
    assert str(data) in message
