"""The golden training run, the model to start from, the two feeds, and the output folder of a run."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from src.checkpoint import CheckpointInfo, ModelConfig, load_checkpoint
from src.cli import seed_everything
from src.data.images import read_picture
from src.data.labels import LabelMatrix
from src.data.parts import EvaluationSet, TrainingSet
from src.data.transforms import eval_transform, train_transform
from src.engine import TrainBatch, decay_groups, train_one_epoch
from src.errors import UserError
from src.loss_functions.SDL_loss import SDLLoss
from src.models import SDLModel
from src.run_folder import RunFolder
from src.training import (
    FeatureFeed,
    Feed,
    LoaderOptions,
    PictureFeed,
    present_rows,
    progress,
    starting_model,
    warn_about_bad_pictures,
)
from tests.conftest import GOLDEN
from tests.helpers import SIZE, TINY, golden_model, make_toy_split, save_tiny, tiny_model, write_pictures

CPU = torch.device("cpu")


def test_six_steps_equal_the_released_codes_losses():
    golden = np.load(GOLDEN / "tresnet_m_sdl.npz")
    model = copy.deepcopy(golden_model()).train()
    criterion = SDLLoss(weight=0.01, wordvec_array=golden["train_wordvec"])
    optimizer = torch.optim.Adam(decay_groups(model, 3e-4), lr=2.5e-5)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2.5e-5, total_steps=6, pct_start=0.1)
    batches = [
        TrainBatch(torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y))
        for x, y in zip(golden["train_x"], golden["train_y"], strict=True)
    ]
    losses: list[float] = []
    result = train_one_epoch(
        model, criterion, optimizer, scheduler, batches, device=CPU, on_step=lambda step: losses.append(step.loss)
    )
    expected = golden["train_loss"]
    assert losses[0] == pytest.approx(expected[0], rel=1e-5)
    # The first steps of Adam move every weight by the learning rate in the direction of its gradient's sign. Where a
    # gradient is rounding noise, that sign is the machine's own, so two right implementations drift apart.
    np.testing.assert_allclose(losses, expected, rtol=2e-2)
    assert result.loss == pytest.approx(np.mean(losses))
    assert result.num_pictures == 24


# The model to start from


def start(model_path: object, **flags: Any) -> tuple[SDLModel, str, CheckpointInfo | None]:
    defaults: dict[str, Any] = {"model_name": None, "num_rows": None, "wordvec_dim": 4, "image_size": SIZE}
    return starting_model(str(model_path), **{**defaults, **flags})


def equal_weights(first: nn.Module, second: nn.Module) -> bool:
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def save_backbone(path: Path, seed: int = 7) -> nn.Module:
    """A timm classifier with 9 classes."""
    torch.manual_seed(seed)
    backbone = timm.create_model(TINY, num_classes=9)
    torch.save(backbone.state_dict(), path)
    return backbone


def test_none_starts_from_random_weights():
    model, name, info = start("none", model_name=TINY, num_rows=3)
    assert (name, info, model.num_rows, model.wordvec_dim) == (TINY, None, 3, 4)
    assert not equal_weights(model, start("none", model_name=TINY, num_rows=3)[0])


def test_the_default_is_tresnet_m_with_two_principal_vectors():
    with torch.device("meta"):
        model, name, _ = start("none")
    assert (name, model.num_rows) == ("tresnet_m", 2)


def test_auto_starts_from_the_weights_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"--model-path auto: no weights for {TINY}"):
        start("auto", model_name=TINY)
    backbone = save_backbone(tmp_path / f"{TINY}.pth")
    model, _, info = start("auto", model_name=TINY)
    assert torch.equal(model.backbone.conv1[0].weight, backbone.conv1[0].weight)
    assert info is None


def test_timm_asks_timm_for_its_weights(monkeypatch):
    asked = []
    create = timm.create_model

    def fake(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
        asked.append((name, pretrained))
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", fake)
    start("timm", model_name=TINY)
    start("none", model_name=TINY)
    assert asked == [(TINY, True), (TINY, False)]


@pytest.mark.parametrize("pretrain_backbone", [None, 1])
def test_a_backbone_file_gets_a_fresh_head(pretrain_backbone, tmp_path):
    backbone = save_backbone(tmp_path / "b.pth")
    model, name, info = start(
        tmp_path / "b.pth", model_name=TINY, num_rows=5, pretrain_backbone=pretrain_backbone, num_classes=9
    )
    assert (name, info, model.embedding.weight.shape) == (TINY, None, (20, 96))
    for key, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensor, backbone.state_dict()[key]), key


@pytest.mark.parametrize("pretrain_backbone", [None, 0])
def test_an_sdl_checkpoint_is_continued(pretrain_backbone, tmp_path):
    saved = save_tiny(tmp_path / "x.ckpt", settings={"epoch": 4})
    model, name, info = start(tmp_path / "x.ckpt", pretrain_backbone=pretrain_backbone)
    assert equal_weights(model, saved)
    assert (name, info.settings, model.num_rows) == (TINY, {"epoch": 4}, 2)


@pytest.mark.parametrize("name", [None, TINY])
@pytest.mark.parametrize(("flag", "rows"), [(None, 3), (5, 5)])
def test_an_sdl_checkpoint_can_lend_its_backbone_to_a_fresh_head(name, flag, rows, tmp_path):
    saved = save_tiny(tmp_path / "x.ckpt", tiny_model(num_rows=3))
    # another word-vector length: the head could not be kept
    model, found, info = start(tmp_path / "x.ckpt", model_name=name, num_rows=flag, wordvec_dim=6, pretrain_backbone=1)
    assert equal_weights(model.backbone, saved.backbone)
    assert (found, info, model.num_rows, model.wordvec_dim) == (TINY, None, rows, 6)


def test_a_fresh_head_on_an_sdl_backbone_is_fresh(tmp_path):
    saved = save_tiny(tmp_path / "x.ckpt")
    model, _, _ = start(tmp_path / "x.ckpt", pretrain_backbone=1)
    assert model.embedding.weight.shape == saved.embedding.weight.shape
    assert not torch.equal(model.embedding.weight, saved.embedding.weight)


def test_a_backbone_made_for_another_size_is_refused(tmp_path):
    save_tiny(tmp_path / "vit.ckpt", name="test_vit")
    with pytest.raises(UserError, match=r"does not fit the model: 1 wrong shapes: pos_embed"):
        start(tmp_path / "vit.ckpt", pretrain_backbone=1, image_size=2 * SIZE)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"num_rows": 3}, "--num_rows 3: .* holds a model with 2"),
        ({"wordvec_dim": 5}, "--wordvec_dim 5: .* holds a model with 4"),
        ({"model_name": "tresnet_m"}, "--model-name tresnet_m: .* holds a model with test_resnet"),
        ({"model_name": "tresnet_m", "pretrain_backbone": 1}, "--model-name tresnet_m: .* holds a model with"),
    ],
)
def test_flags_that_contradict_an_sdl_checkpoint_are_refused(flags, message, tmp_path):
    save_tiny(tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=message):
        start(tmp_path / "x.ckpt", **flags)


def test_continuing_what_is_no_sdl_model_is_refused(tmp_path):
    save_backbone(tmp_path / "b.pth")
    for path in (tmp_path / "b.pth", "none", "auto", "timm"):
        with pytest.raises(UserError, match=r"--pretrain-backbone 0: .* is no SDL model; use --pretrain-backbone 1"):
            start(path, model_name=TINY, pretrain_backbone=0)


def test_a_missing_file_and_a_wrong_number_of_classes_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        start(tmp_path / "none.pth", model_name=TINY)
    save_backbone(tmp_path / "b.pth")
    with pytest.raises(UserError, match=r"--num-classes 1000: .*fc\.weight has 9"):
        start(tmp_path / "b.pth", model_name=TINY, num_classes=1000)


# Feeds: picture i has target row i, whatever the order and whichever pictures cannot be read

COUNT = 7
SIDE = 64  # pixels; at 32 a batch of one picture has too few values for batch norm
BROKEN = 3  # in the middle: a shift of the later rows would show
GOOD = [row for row in range(COUNT) if row != BROKEN]


def data_sets(folder: Path, broken: tuple[int, ...] = (BROKEN,)) -> tuple[TrainingSet, EvaluationSet]:
    """Seven pictures, one of them broken; target row i is the number i in binary."""
    paths = sorted(folder.glob("*.png")) or write_pictures(folder, COUNT, broken)
    targets = torch.tensor([[number >> bit & 1 for bit in range(3)] for number in range(COUNT)], dtype=torch.int8)
    wide = torch.cat([targets, 1 - targets], dim=1)
    in_zero_shot = torch.arange(COUNT) % 2 == 1
    seen, every = LabelMatrix.from_dense(targets), LabelMatrix.from_dense(wide)
    return TrainingSet(paths, seen, 0), EvaluationSet(paths, every, in_zero_shot, torch.ones(COUNT, dtype=torch.bool))


def options(seed: int | None = 0, batch_size: int = 2) -> LoaderOptions:
    return LoaderOptions(batch_size, workers=0, seed=seed, pin_memory=False)


def picture_feed(folder: Path, model: SDLModel, seed: int | None = 0, broken: tuple[int, ...] = (BROKEN,)) -> Feed:
    transforms = (eval_transform(SIDE), eval_transform(SIDE))
    return PictureFeed(model, *data_sets(folder, broken), transforms, options(seed), CPU, autocast=False)


def feature_feed(folder: Path, model: SDLModel, seed: int | None = 0, broken: tuple[int, ...] = (BROKEN,)) -> Feed:
    return FeatureFeed(
        model, *data_sets(folder, broken), eval_transform(SIDE), options(seed), CPU, False, folder / "cache", ("tiny",)
    )


FEEDS = pytest.mark.parametrize("make_feed", [picture_feed, feature_feed])


def tensors(folder: Path) -> Tensor:
    """The readable pictures as the model sees them, in order."""
    transform = eval_transform(SIDE)
    return torch.stack([transform(read_picture(folder / f"{row}.png")) for row in GOOD])


def inputs_in_order(feed: Feed, folder: Path, model: SDLModel) -> Tensor:
    """What the feed's batches should hold for the readable pictures, in order."""
    with torch.inference_mode():
        return model.forward_features(tensors(folder)) if isinstance(feed, FeatureFeed) else tensors(folder)


@FEEDS
def test_training_batches_keep_pictures_and_targets_together(make_feed, tmp_path):
    model = tiny_model()
    feed = make_feed(tmp_path, model)
    expected = inputs_in_order(feed, tmp_path, model).flatten(1)
    batches = list(feed.batches())
    inputs = torch.cat([batch.inputs.flatten(1) for batch in batches if len(batch.inputs)])
    targets = torch.cat([batch.targets for batch in batches if len(batch.inputs)])
    assert [len(batch.inputs) for batch in batches if len(batch.inputs)] != []
    nearest = torch.cdist(inputs, expected).argmin(dim=1)
    torch.testing.assert_close(inputs, expected[nearest], rtol=1e-4, atol=1e-5)
    assert sorted(nearest.tolist()) == list(range(len(GOOD)))  # each readable picture once
    numbers = (targets * torch.tensor([1, 2, 4])).sum(dim=1)
    assert numbers.tolist() == [GOOD[index] for index in nearest.tolist()]
    bad = [message for batch in batches for message in batch.bad]
    assert len(bad) == 1
    assert f"{BROKEN}.png" in bad[0]


@FEEDS
def test_evaluation_embeddings_are_the_models_and_name_their_rows(make_feed, tmp_path):
    model = tiny_model()
    feed = make_feed(tmp_path, model)
    feed.set_training()
    embedded = feed.embeddings()
    assert embedded.rows.tolist() == GOOD
    with torch.inference_mode():
        torch.testing.assert_close(embedded.outputs, model.eval()(tensors(tmp_path)), rtol=1e-4, atol=1e-5)
    assert len(embedded.bad) == 1
    _, evaluation = data_sets(tmp_path)
    present = present_rows(evaluation, embedded.rows)
    assert torch.equal(present["targets"], evaluation.targets.dense()[GOOD])
    assert [GOOD[row] for row in present["zero_shot_rows"].tolist()] == [1, 5]  # row 3 is broken
    assert present["generalized_rows"].tolist() == list(range(len(GOOD)))


def test_frozen_features_are_the_eval_features_whatever_the_mode(tmp_path):
    model = tiny_model().train()
    feed = feature_feed(tmp_path, model)
    before = copy.deepcopy(model.backbone.state_dict())
    train(feed, epochs=1)
    assert feed.module is model.embedding
    with torch.inference_mode():
        expected = model.embedding(model.eval().forward_features(tensors(tmp_path)))
    torch.testing.assert_close(feed.embeddings().outputs, expected, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in model.backbone.state_dict().items())


def test_a_second_frozen_run_takes_the_features_from_the_cache(tmp_path, monkeypatch):
    model = tiny_model()
    first = feature_feed(tmp_path, model).embeddings()
    monkeypatch.setattr(SDLModel, "forward_features", lambda self, pictures: pytest.fail("computed again"))
    again = feature_feed(tmp_path, model).embeddings()
    assert torch.equal(again.outputs, first.outputs)
    assert (again.rows.tolist(), again.bad) == (GOOD, first.bad)


def train(feed: Feed, epochs: int = 2) -> None:
    criterion = SDLLoss(weight=0.1, wordvec_array=make_toy_split(num_labels=3, num_unseen=1).word_vectors)
    optimizer = torch.optim.Adam(decay_groups(feed.module, 3e-4), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    for _ in range(epochs):
        feed.set_training()
        train_one_epoch(feed.module, criterion, optimizer, scheduler, feed.batches(), device=CPU)


def trained(make_feed: Any, folder: Path, seed: int) -> SDLModel:
    seed_everything(seed)
    model = tiny_model(seed=seed)
    train(make_feed(folder, model, seed))
    return model


@FEEDS
def test_runs_of_one_seed_are_equal_and_of_another_are_not(make_feed, tmp_path):
    first = trained(make_feed, tmp_path, 1)
    assert equal_weights(first, trained(make_feed, tmp_path, 1))
    assert not equal_weights(first, trained(make_feed, tmp_path, 2))


@FEEDS
def test_the_seed_alone_decides_the_order(make_feed, tmp_path):
    model = tiny_model()

    def order(seed: int | None) -> list[Tensor]:
        torch.rand(3)  # whatever was drawn before
        feed = make_feed(tmp_path, model, seed)
        return [batch.targets for _ in range(3) for batch in feed.batches()]

    def same(first: list[Tensor], second: list[Tensor]) -> bool:
        return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))

    assert same(order(5), order(5))
    assert not same(order(5), order(6))
    assert not same(order(None), order(None))


def test_each_epoch_has_its_own_order(tmp_path):
    feed = feature_feed(tmp_path, tiny_model())
    epochs = [torch.cat([batch.targets for batch in feed.batches()]) for _ in range(4)]
    assert any(not torch.equal(epochs[0], epoch) for epoch in epochs[1:])


def test_seeded_augmentation_is_equal_in_two_runs(tmp_path):
    training, evaluation = data_sets(tmp_path)
    transforms = (train_transform(SIDE, augmentation="torchvision"), eval_transform(SIDE))
    runs = []
    for _ in range(2):
        seed_everything(3)
        feed = PictureFeed(tiny_model(), training, evaluation, transforms, options(3), CPU, autocast=False)
        runs.append(torch.cat([batch.inputs for batch in feed.batches()]))
    assert torch.equal(runs[0], runs[1])


@FEEDS
def test_steps_is_the_number_of_batches_with_a_picture_or_more(make_feed, tmp_path):
    feed = make_feed(tmp_path, tiny_model())
    assert feed.steps >= sum(len(batch.inputs) > 0 for batch in feed.batches())
    clean = make_feed(tmp_path / "clean", tiny_model(), broken=())
    assert clean.steps == sum(len(batch.inputs) > 0 for batch in clean.batches()) == 4


@FEEDS
def test_no_readable_evaluation_picture_is_a_user_error(make_feed, tmp_path):
    with pytest.raises(UserError, match=f"--data: none of the {COUNT} .*pictures can be read"):
        make_feed(tmp_path, tiny_model(), broken=tuple(range(COUNT))).embeddings()


def test_bad_pictures_are_named_once_a_run(capsys):
    known: set[str] = set()
    warn_about_bad_pictures(("a.jpg: broken", "b.jpg: broken"), known)
    warn_about_bad_pictures(("b.jpg: broken", "c.jpg: broken", "c.jpg: broken"), known)
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [f"skipped: {name}.jpg: broken" for name in "abc"]
    assert captured.out == ""


def test_progress_is_silent_where_there_is_no_terminal(capsys):
    with progress(3, "reading") as advance:
        advance(2)
    assert capsys.readouterr() == ("", "")


# The output folder


def record(folder: RunFolder, epoch: int, **values: float) -> list[str]:
    metrics = {name.replace("__", "."): value for name, value in values.items()}
    info = CheckpointInfo("sdl", ModelConfig(TINY, 2, 4, SIZE), make_toy_split(), settings={"epoch": epoch})
    return folder.record({"epoch": epoch, "metrics": metrics}, tiny_model(), info, half=True)


def epoch_in(path: Path) -> int:
    return load_checkpoint(path)[1].settings["epoch"]


def test_a_run_keeps_the_last_epoch_and_the_best_of_each_setting(tmp_path):
    folder = RunFolder(tmp_path / "run", "mAP")
    improved = [
        record(folder, 1, zero_shot__mAP=10.0, generalized__mAP=5.0),
        record(folder, 2, zero_shot__mAP=9.0, generalized__mAP=6.0),
        record(folder, 3, zero_shot__mAP=10.0, generalized__mAP=5.5),  # a tie is no improvement
    ]
    assert improved == [["zero_shot", "generalized"], ["generalized"], []]
    assert folder.best == {"zero_shot": (10.0, 1), "generalized": (6.0, 2)}
    names = ("model-best-zero_shot.ckpt", "model-best-generalized.ckpt", "model-last.ckpt")
    assert [epoch_in(tmp_path / "run" / name) for name in names] == [1, 2, 3]
    assert {path.name for path in (tmp_path / "run").iterdir()} == {*names, "log.jsonl"}


def test_best_means_best_by_the_chosen_metric_even_at_zero(tmp_path):
    folder = RunFolder(tmp_path, "F1@3")
    info = CheckpointInfo("sdl", ModelConfig(TINY, 2, 4, SIZE), make_toy_split())
    metrics = {"zero_shot.F1@3": 0.0, "zero_shot.mAP": 50.0, "generalized.mAP": 50.0}
    assert folder.record({"epoch": 1, "metrics": metrics}, tiny_model(), info, half=False) == ["zero_shot"]
    assert not (tmp_path / "model-best-generalized.ckpt").exists()  # the metric was not measured


def test_the_log_is_one_json_line_an_epoch_and_always_whole(tmp_path):
    folder = RunFolder(tmp_path, "mAP")
    assert (tmp_path / "log.jsonl").read_text() == ""
    for epoch in (1, 2):
        record(folder, epoch, zero_shot__mAP=float(epoch))
        lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
        assert lines == folder.entries
        assert [line["epoch"] for line in lines] == list(range(1, epoch + 1))


def test_an_earlier_run_is_replaced_only_on_request(tmp_path):
    record(RunFolder(tmp_path, "mAP"), 1, zero_shot__mAP=50.0)
    before = (tmp_path / "log.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"--path_output .* holds a training run already; .*--overwrite"):
        RunFolder(tmp_path, "mAP")
    assert (tmp_path / "log.jsonl").read_bytes() == before
    folder = RunFolder(tmp_path, "mAP", overwrite=True)
    assert (tmp_path / "log.jsonl").read_text() == ""
    assert record(folder, 7, zero_shot__mAP=1.0) == ["zero_shot"]  # the old run's best does not count
    assert epoch_in(tmp_path / "model-best-zero_shot.ckpt") == 7


def test_an_output_folder_below_a_file_is_a_user_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        RunFolder(tmp_path / "file" / "run", "mAP")


@pytest.mark.parametrize("freeze_bn", [False, True])
def test_frozen_batch_norms_keep_their_statistics(freeze_bn, tmp_path):
    training, evaluation = data_sets(tmp_path)
    transforms = (eval_transform(32), eval_transform(32))
    model = tiny_model()
    feed = PictureFeed(model, training, evaluation, transforms, options(0), CPU, autocast=False, freeze_bn=freeze_bn)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items() if "running_" in key}
    feed.set_training()
    with torch.no_grad():
        pictures = next(iter(feed.batches())).inputs
        output = model(pictures)
    after = model.state_dict()
    assert before
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items()) == freeze_bn
    model.eval()
    with torch.no_grad():
        assert torch.allclose(model(pictures), output, atol=1e-5) == freeze_bn
    assert model.training is False
    feed.set_training()
    assert model.training


def test_a_run_that_stopped_in_its_first_epoch_does_not_block_the_next(tmp_path):
    RunFolder(tmp_path, "mAP")
    assert (tmp_path / "log.jsonl").read_text() == ""
    record(RunFolder(tmp_path, "mAP"), 1, zero_shot__mAP=50.0)


def test_overwriting_removes_what_the_new_run_may_not_write(tmp_path):
    record(RunFolder(tmp_path, "mAP"), 1, zero_shot__mAP=50.0)
    (tmp_path / "notes.txt").write_text("mine")
    RunFolder(tmp_path, "mAP", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "notes.txt"]


@pytest.mark.parametrize("model_path", ["none", "timm", "sdl"])
def test_a_number_of_classes_needs_a_classifier(model_path, tmp_path):
    if model_path == "sdl":
        save_tiny(tmp_path / "x.ckpt")
        model_path = str(tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=r"--num-classes 1000: .*has no classifier"):
        start(model_path, model_name=TINY, num_classes=1000)
