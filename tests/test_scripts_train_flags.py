"""The flags of train.py: numbers that they change, and messages for mistakes."""

import json
from pathlib import Path

import pytest
import timm.models.efficientnet
import torch

import train
import validate
from src.checkpoint import load_checkpoint
from src.config.train_flags import train_parser
from src.errors import UserError
from src.training.mixed_precision import check_compiler
from src.utils.digest import SUFFIX
from tests.script_helpers import (
    SETTINGS,
    TINY,
    attempt,
    call,
    copy_of,
    edit_split,
    first_loss,
    log_of,
    remove_image,
    stored,
    succeeded,
    train_frozen,
    train_here,
    user_error,
    weights_of,
    without_curves,
)


@pytest.fixture(scope="module")
def frozen(sample, tmp_path_factory):
    """Three epochs of a head on cached features."""
    home = tmp_path_factory.mktemp("frozen")
    train_frozen(sample, home / "out", home / "cache", seed=5)
    return {"folder": home / "out", "cache": home / "cache"}


def close_weights(one: Path, other: Path, **tolerance: float) -> None:
    torch.testing.assert_close(
        weights_of(one / "model-last.ckpt"), weights_of(other / "model-last.ckpt"), check_dtype=True, **tolerance
    )


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
    # 12 seen labels, of which every image has 2 to 5: the paper also divides by the 7 to 10 others
    assert ranking_alone["rank"] / 10 <= paper_zero["rank"] <= ranking_alone["rank"] / 7


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


@pytest.mark.parametrize(
    ("flags", "left"),
    [
        (("--save-epochs", 2), ["0002", "0004"]),
        (("--save-epochs", 1, "--keep", 2), ["0004", "0005"]),
        (("--save-epochs", 1, "--keep", 9), ["0001", "0002", "0003", "0004", "0005"]),
        ((), []),
    ],
)
def test_save_epochs_and_keep(frozen, sample, tmp_path, flags, left):
    ema = ("--ema", 0.5)  # its checkpoints go with the others
    train_frozen(sample, tmp_path / "out", frozen["cache"], 5, "--num-epochs", 5, *ema, *flags)
    ends = [f"{average}.ckpt{side}" for average in ("", "-ema") for side in ("", SUFFIX)]
    expected = {f"model-epoch-{epoch}{end}" for epoch in left for end in ends}
    assert {path.name for path in (tmp_path / "out").glob("model-epoch-*")} == expected
    for epoch in left:
        assert stored(tmp_path / "out" / f"model-epoch-{epoch}.ckpt")["settings"]["epoch"] == int(epoch)


def test_accumulated_batches_are_one_larger_batch(sample, tmp_path):
    """With stored batch statistics; a batch's own depend on its size."""
    flags = ("--freeze-bn", "--num-epochs", 2, "--lr", 1e-3)
    train_here(sample, tmp_path / "one", *flags, "-b", 10)
    train_here(sample, tmp_path / "two", *flags, "-b", 5, "--accumulate", 2)
    for one, two in zip(log_of(tmp_path / "one"), log_of(tmp_path / "two"), strict=True):
        assert two["train"] == pytest.approx(one["train"], rel=1e-5)
        assert two["lr"] == one["lr"]
    close_weights(tmp_path / "one", tmp_path / "two", rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "constant"])
def test_log_has_the_learning_rates_of_the_last_step(frozen, sample, tmp_path, schedule):
    train_frozen(sample, tmp_path / "out", frozen["cache"], 5, "--schedule", schedule, "--lr", 1e-3, "--warm-up", 0.3)
    rates = [entry["lr"]["head"] for entry in log_of(tmp_path / "out")]
    assert max(rates) == pytest.approx(1e-3, rel=1e-2 if schedule == "one_cycle" else 1e-6)
    assert (rates[2] < rates[1] < rates[0]) == (schedule != "constant")


def test_bf16_computes_nearly_the_loss_of_float32(sample, tmp_path):
    exact = first_loss(sample, tmp_path / "exact", "--precision", "float32")
    half = first_loss(sample, tmp_path / "half", "--precision", "bf16")
    assert half["loss"] != exact["loss"]
    assert half["loss"] == pytest.approx(exact["loss"], rel=0.05)
    dtypes = {tensor.dtype for tensor in weights_of(tmp_path / "half" / "model-last.ckpt").values()}
    assert dtypes == {torch.float32, torch.int64}  # the weights stay as they are


def test_channels_last_does_not_change_the_numbers(sample, tmp_path):
    flags = ("--num-epochs", 2, "--lr", 1e-3)
    train_here(sample, tmp_path / "plain", *flags)
    train_here(sample, tmp_path / "last", *flags, "--channels-last")
    for plain, last in zip(log_of(tmp_path / "plain"), log_of(tmp_path / "last"), strict=True):
        assert last["train"] == pytest.approx(plain["train"], rel=1e-4)


def test_compiled_model_gives_the_same_numbers(frozen, sample, tmp_path):
    try:
        check_compiler()
    except UserError as error:
        pytest.skip(str(error))
    train_frozen(sample, tmp_path / "out", frozen["cache"], 5, "--compile")
    for plain, compiled in zip(log_of(frozen["folder"]), log_of(tmp_path / "out"), strict=True):
        assert compiled["train"] == pytest.approx(plain["train"], rel=1e-3)
    close_weights(frozen["folder"], tmp_path / "out", rtol=1e-3, atol=1e-5)  # under the keys of a plain model


def test_flags_win_over_a_recipe(sample, tmp_path):
    """Take rows and lambda from the recipe, and the rest from the command line."""
    cached = ("--feature-cache", tmp_path / "cache", "--num-epochs", 2, "-b", 6)
    train_here(sample, tmp_path / "out", "--recipe", "corel5k", *cached)
    settings = stored(tmp_path / "out" / "model-last.ckpt")["settings"]
    recipe = {"num_rows": 7, "var_weight": 0.3, "freeze_backbone": True, "lr": 1e-3, "recipe": "corel5k"}
    ours = {"model_name": "test_efficientnet", "image_size": 32, "num_epochs": 2, "batch_size": 6}
    assert settings.items() >= {**recipe, **ours}.items()
    assert weights_of(tmp_path / "out" / "model-last.ckpt")["embedding.weight"].shape[0] == 7 * 100
    # The settings that the run has written repeat it
    again = ("--recipe", tmp_path / "out" / "settings.toml", "--feature-cache", tmp_path / "cache")
    with without_curves():
        start = ("--data", sample, "--model-path", "none", "--path_output", tmp_path / "again")
        succeeded(call(train.main, *again, *start))
    assert log_of(tmp_path / "again") == log_of(tmp_path / "out")


def test_images_and_best_metric_take_effect(sample, tmp_path):
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


MISTAKES = [
    # flags, what the message names
    ("--model-path none", ["--metadata", "data/COCO", "prepare_data.py"]),
    ("--data nowhere --model-path none", ["--data nowhere", "--metadata", "prepare_data.py"]),
    ("--metadata nowhere", ["nowhere", "split.json", "prepare_data.py"]),
    ("--metadata {sample}/images", ["{sample}/images", "split.json", "prepare_data.py"]),
    ("--metadata {sample} --data nowhere", ["--data nowhere", "no such folder"]),
    ("--metadata {sample} --data {tmp}", ["--data {tmp}", "24 of the 24 images", "give the folder"]),
    ("--data {sample} --model-name no_such_net --model-path none", ["--model-name no_such_net", "tresnet_m"]),
    ("--data {sample}", ["--model-path auto", "tresnet_m", "./models/tresnet_m.pth", "'timm'", "'none'"]),
    ("--data {sample} --model-name test_efficientnet", ["--model-path auto", "test_efficientnet", "'none'"]),
    ("--data {sample} --model-path nothing.pth", ["nothing.pth", "no such file", "give the path"]),
    ("--data {sample} --model-path {sample}/split.json", ["{sample}/split.json", "no PyTorch file"]),
    ("--data {sample} --model-path {ckpt} --num_rows 5", ["--num_rows 5", "{ckpt}", "with 2", "leave the flag out"]),
    ("--data {sample} --model-path {ckpt} --model-name tresnet_m", ["--model-name tresnet_m", "leave the flag out"]),
    ("--data {sample} --model-path none --pretrain-backbone 0", ["--pretrain-backbone 0", "--model-path none"]),
    ("--data {sample} --model-path none --pretrain_backbone 1", ["--pretrain-backbone 1", "--model-path none"]),
    ("--data {sample} --model-path timm --use-ema", ["--use-ema", "no effect", "--model-path timm", "one of the two"]),
    ("--data {sample} --model-path timm --pretrain-backbone 0", ["--pretrain-backbone 0", "--pretrain-backbone 1"]),
    ("--data {sample} --autocast-enabled 0 --precision bf16", ["--autocast-enabled 0", "--precision bf16"]),
    ("--data {sample} --freeze-bn --dist-bn broadcast", ["--dist-bn broadcast", "no effect with --freeze-bn"]),
    ("--data {sample} --wordvec_dim 300 --model-path none", ["--wordvec_dim 300", "100", "leave the flag out"]),
    ("--data {sample} --model-name test_vit --model-path none --image-size 50", ["--image-size 50", "leave the flag"]),
    ("--data {sample} --model-name test_vit --model-path none --inplace-abn", ["--inplace-abn"]),
    ("--data {sample} --lr 0", ["--lr", "'0'", "above 0"]),
    ("--data {sample} --lr 1e38", ["--lr 1e+38", "above 1e+30"]),
    ("--data {sample} --lr fast", ["--lr", "'fast'"]),
    ("--data {sample} --var_weight 2", ["--var_weight", "'2'", "from 0 to 1"]),
    ("--data {sample} --cutout 1.5", ["--cutout", "'1.5'"]),
    ("--data {sample} --num-epochs 0", ["--num-epochs", "'0'", "from 1"]),
    ("--data {sample} --batch-size none", ["--batch-size", "'none'"]),
    ("--data {sample} --workers -1", ["--workers", "'-1'"]),
    ("--data {sample} {tiny} --precision fp16", ["--precision fp16", "bf16"]),
    ("--data {sample} {tiny} --sync-bn", ["--sync-bn", "torchrun", "leave the flag out"]),
    ("--data {sample} --ema 1", ["--ema", "'1'"]),
    ("--data {sample} --warm-up 1.5", ["--warm-up", "'1.5'"]),
    ("--data {sample} --accumulate 0", ["--accumulate", "'0'"]),
    ("--data {sample} --clip-grad-norm 0", ["--clip-grad-norm", "'0'"]),
    ("--data {sample} --val-share 1", ["--val-share", "'1'", "between 0 and 1"]),
    ("--data {sample} --select-on both", ["--select-on", "'both'", "held-out"]),
    ("--data {sample} --overwrite --resume", ["--overwrite", "--resume", "not allowed"]),
    ("--data {sample} --recipe nothing", ["--recipe nothing", "corel5k"]),
    ("--data {sample} --seed 99999999999999999999", ["--seed: '99999999999999999999'", "smaller number"]),
    ("--data {sample} --num_row 3", ["--num_row", "--help"]),
    ("--data {sample} --best-metric F1", ["--best-metric", "'F1'", "F1@3"]),
    ("--data {sample} --augmentation much", ["--augmentation", "'much'", "randaugment"]),
    (
        "--data {sample} {tiny} --path_output {sample}/split.json",
        ["--path_output {sample}/split.json", "choose another place"],
    ),
]


@pytest.mark.parametrize(("flags", "named"), MISTAKES, ids=[flags for flags, _ in MISTAKES])
def test_mistake_is_one_line_with_flag_value_and_remedy(frozen, sample, tmp_path, monkeypatch, flags, named):
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


def test_missing_gpu_is_a_user_error(sample, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    message = user_error(call(train.main, "--data", sample, "--device", "cuda"))
    assert "--device cuda" in message
    assert "--device cpu" in message


def test_folder_without_training_labels_is_a_user_error(sample, tmp_path):
    data = edit_split(copy_of(sample, tmp_path / "data"), train=None)
    message = user_error(call(train.main, "--data", data, *TINY))
    assert "train.json" in message
    assert str(data) in message


def test_feature_cache_tells_precisions_apart(sample, tmp_path):
    """Cache the features of bfloat16 and of float32 side by side."""
    cache = tmp_path / "cache"
    for count, precision in ((2, "float32"), (4, "bf16"), (4, "bf16")):
        train_frozen(sample, tmp_path / "out", cache, 5, "--num-epochs", 1, "--precision", precision, "--overwrite")
        assert len(list(cache.iterdir())) == count


# The size of a batch


def test_batch_of_one_image_with_features_of_one_pixel_is_a_user_error(sample, tmp_path):
    message = user_error(attempt(sample, tmp_path / "out", "-b", 1, "--num-epochs", 1))
    assert "--batch-size 1: batch norm cannot train on a single image" in message
    for remedy in ("larger --batch-size or --image-size", "--freeze-bn"):
        assert remedy in message
    train_here(sample, tmp_path / "out", "-b", 1, "--num-epochs", 1, "--freeze-bn")


@pytest.mark.parametrize("flags", [("-b", 23), ("-b", 3, "--accumulate", 3), ("-b", 2, "--accumulate", 6)])
def test_single_image_that_is_left_over_joins_others(sample, tmp_path, flags):
    data = copy_of(sample, tmp_path / "data")
    if flags[1] == 2:
        remove_image(data)
    train_here(data, tmp_path / "out", *flags, "--num-epochs", 1)
