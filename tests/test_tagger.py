"""Tagger: labels and scores as by hand, any image mode, batches, and which word vectors a model may be used with."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from src.checkpoint import CheckpointInfo, ModelConfig, save_checkpoint
from src.checkpoint.info import check_same_space
from src.data.images import read_image
from src.data.split import ZeroShotSplit, make_split
from src.data.transforms import eval_transform
from src.errors import UserError
from src.inference.tagger import Tagger
from src.inference.vocabulary import labels_for
from src.options import ExpectedModel, LabelOptions, Runtime
from src.scoring import score_labels
from src.tags import Tag
from tests.conftest import GOLDEN
from tests.helpers import SIZE, TINY, make_toy_split, save_golden, save_tiny, tiny_model, write_folder


@pytest.fixture
def tagger(tmp_path: Path) -> Tagger:
    save_tiny(tmp_path / "x.ckpt")
    return Tagger.load(tmp_path / "x.ckpt")


def drawn(count: int = 5) -> list[Image.Image]:
    """Images of noise, each of another size."""
    random = np.random.default_rng(0)
    return [
        Image.fromarray(random.integers(0, 256, (30 + 7 * number, 50 - 3 * number, 3), dtype=np.uint8))
        for number in range(count)
    ]


def info_of(split: ZeroShotSplit | None, dim: int = 4) -> CheckpointInfo:
    return CheckpointInfo("release" if split is None else "sdl", ModelConfig(TINY, 2, dim, SIZE), split)


def test_tags_are_the_best_scores_of_score_labels(tagger):
    model, split = tiny_model(), make_toy_split()
    tags = tagger.tag(drawn(), top_k=len(split.labels))
    transform = eval_transform(SIZE)
    with torch.inference_mode():
        embedding = model(torch.stack([transform(image) for image in drawn()]))
        scores = score_labels(embedding, split.word_vectors)
        # and the equation itself: the best inner product of a word vector with a column of the matrix
        plain = torch.einsum("bdm,dc->bcm", embedding.view(5, 4, 2), split.word_vectors).amax(dim=2)
    torch.testing.assert_close(scores, plain)
    for row, of_image in enumerate(tags):
        order = scores[row].argsort(descending=True).tolist()
        assert [tag.label for tag in of_image] == [split.labels[column] for column in order]
        assert [tag.score for tag in of_image] == pytest.approx(scores[row, order].tolist(), abs=1e-5)
        assert [tag.unseen for tag in of_image] == [column in split.unseen for column in order]


def test_top_k_takes_the_head_of_the_list(tagger):
    everything = tagger.tag(drawn(), top_k=6)
    assert tagger.tag(drawn(), top_k=1) == [tags[:1] for tags in everything]
    assert tagger.tag(drawn(), top_k=4) == [tags[:4] for tags in everything]


@pytest.mark.parametrize("top_k", [0, -1, 7])
def test_top_k_out_of_range_is_a_user_error(top_k, tagger):
    with pytest.raises(UserError, match=rf"--top_k {top_k}: must be from 1 to the number of labels, 6"):
        tagger.tag(drawn(1), top_k=top_k)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_a_user_error(value):
    tagger = Tagger(
        lambda images: torch.full((len(images), 8), value), make_toy_split(), transform=eval_transform(SIZE)
    )
    with pytest.raises(UserError, match=r"--model_path: gives scores that are not finite"):
        tagger.tag(drawn(2), top_k=3)


def test_no_images_no_tags(tagger):
    assert tagger.tag([]) == []


def test_batch_equals_its_images_alone(tagger):
    together = tagger.tag(drawn(), top_k=6)
    for image, tags in zip(drawn(), together, strict=True):
        (alone,) = tagger.tag([image], top_k=6)
        assert [tag.label for tag in alone] == [tag.label for tag in tags]
        assert [tag.score for tag in alone] == pytest.approx([tag.score for tag in tags], abs=1e-5)


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA", "P", "CMYK", "1"])
def test_images_of_other_modes_are_tagged_as_their_rgb_form(mode, tagger):
    image = drawn(1)[0].convert(mode)
    assert tagger.tag([image], 6) == tagger.tag([image.convert("RGB")], 6)


def test_transparent_parts_count_as_white(tagger):
    image = drawn(1)[0]
    clear = image.copy()
    clear.putalpha(0)
    white = Image.new("RGB", image.size, "white")
    assert tagger.tag([clear], 6) == tagger.tag([white], 6) != tagger.tag([image], 6)


def test_grey_image_equals_its_rgb_form(tagger):
    grey = drawn(1)[0].convert("L")
    assert tagger.tag([grey], 6) == tagger.tag([Image.merge("RGB", (grey, grey, grey))], 6)


def test_tag_tensors_is_tag_on_transformed_images(tagger):
    x = torch.stack([tagger.transform(image) for image in drawn()])
    assert tagger.tag_tensors(x, 3) == tagger.tag(drawn(), 3)
    assert tagger.embed(x).shape == (5, 8)


def test_model_is_put_into_eval_mode(tagger):
    model = tiny_model().train()
    other = Tagger(model, make_toy_split(), transform=eval_transform(SIZE))
    assert other.tag(drawn(), 6) == tagger.tag(drawn(), 6)
    assert not model.training


def test_size_and_interpolation_come_from_the_checkpoint_unless_given(tmp_path):
    save_tiny(tmp_path / "x.ckpt")
    assert Tagger.load(tmp_path / "x.ckpt").transform(drawn(1)[0]).shape == (3, SIZE, SIZE)
    assert Tagger.load(tmp_path / "x.ckpt", runtime=Runtime(image_size=64)).transform(drawn(1)[0]).shape == (3, 64, 64)
    image = drawn(1)[0]
    bicubic = Tagger(tiny_model(), make_toy_split(), transform=eval_transform(SIZE, "bicubic"))
    assert torch.equal(bicubic.transform(image), eval_transform(SIZE, "bicubic")(image))
    assert not torch.equal(bicubic.transform(image), eval_transform(SIZE)(image))


def test_loaded_tagger_resizes_as_the_checkpoint_and_the_caller_say(tmp_path):
    """Interpolation comes from the checkpoint; ``exact`` turns the fast resize off."""
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    for interpolation in ("bilinear", "bicubic"):
        path = tmp_path / f"{interpolation}.ckpt"
        config = ModelConfig(TINY, 2, 4, SIZE, interpolation)
        save_checkpoint(path, tiny_model(), CheckpointInfo("sdl", config, make_toy_split()))
        for exact in (False, True):
            transform = Tagger.load(path, exact=exact).transform
            assert torch.equal(transform(image), eval_transform(SIZE, interpolation, exact=exact)(image))
            assert not torch.equal(transform(image), eval_transform(SIZE, interpolation, exact=not exact)(image))


def test_expected_model_is_checked(tmp_path):
    save_tiny(tmp_path / "x.ckpt")
    for flag, value in (("num_rows", 3), ("wordvec_dim", 5), ("model_name", "tresnet_m")):
        with pytest.raises(UserError, match=f"--{flag.replace('model_name', 'model-name')} {value}"):
            Tagger.load(tmp_path / "x.ckpt", expected=ExpectedModel(**{flag: value}))


def test_unseen_tags_are_marked():
    assert Tag("boat", 1.0, unseen=True).marked == "*boat*"
    assert Tag("boat", 1.0, unseen=False).marked == "boat"


# Labels


def test_checkpoint_labels_are_the_default():
    split = make_toy_split()
    assert labels_for(info_of(split), None) is split


def test_dataset_type_without_a_folder_is_refused():
    with pytest.raises(UserError, match=r"--dataset_type SDL: is the kind of --dataset_path"):
        labels_for(info_of(make_toy_split()), None, "SDL")


def test_folder_labels_replace_the_checkpoints(tmp_path):
    ours = make_toy_split()
    words = torch.cat([ours.word_vectors[:, [4, 0]], torch.full((4, 1), 0.5)], dim=1)
    theirs = make_split(["tag4", "tag0", "river"], [0, 1], [2], words, name="new", source="new")
    folder = write_folder(tmp_path / "new", theirs)
    found = labels_for(info_of(ours), folder)
    assert (found.labels, found.unseen) == (("tag4", "tag0", "river"), (2,))
    assert torch.equal(found.word_vectors, words)
    save_tiny(tmp_path / "x.ckpt")
    (tags,) = Tagger.load(tmp_path / "x.ckpt", labels=LabelOptions(folder, "SDL")).tag(drawn(1), 3)
    assert {tag.label: tag.unseen for tag in tags} == {"tag4": False, "tag0": False, "river": True}


def test_folder_of_another_kind_is_refused(tmp_path):
    folder = write_folder(tmp_path / "new", make_toy_split())
    with pytest.raises(UserError, match="is a metadata folder of kind SDL, not NUS_WIDE"):
        labels_for(info_of(make_toy_split()), folder, "NUS_WIDE")


def test_vectors_of_another_space_are_refused(tmp_path):
    folder = write_folder(tmp_path / "new", make_toy_split(seed=1))  # the same labels, other vectors
    with pytest.raises(UserError, match=r"new: 6 of 6 labels have other word vectors .*same word vectors"):
        labels_for(info_of(make_toy_split()), folder)


def test_one_label_with_another_vector_is_refused_by_name(tmp_path):
    split = make_toy_split()
    vectors = split.word_vectors.clone()
    vectors[:, 2] = -vectors[:, 2]
    folder = write_folder(tmp_path / "new", dataclasses.replace(split, word_vectors=vectors))
    with pytest.raises(UserError, match=r"1 of 6 labels have other word vectors .*\(tag2\)"):
        labels_for(info_of(split), folder)


def test_vectors_of_another_length_are_refused(tmp_path):
    folder = write_folder(tmp_path / "new", make_toy_split(dim=5))
    with pytest.raises(UserError, match=r"new: word vectors of length 5, but the model was trained with length 4"):
        labels_for(info_of(make_toy_split()), folder)
    with pytest.raises(UserError, match="length 5, but the model was trained with length 4"):
        labels_for(info_of(None), folder)  # all that can be checked of a released file


def test_half_precision_or_scaled_vectors_are_the_same_space():
    split = make_toy_split()
    halved = make_split(
        split.labels, split.seen, split.unseen, split.word_vectors.half().float(), name="half", source="half"
    )
    scaled = make_split(split.labels, split.seen, split.unseen, 3 * split.word_vectors, name="big", source="big")
    for other in (halved, scaled):
        check_same_space(info_of(split), other, "x")


def test_labels_without_a_common_name_pass():
    split = make_toy_split()
    strangers = make_split(
        [f"new{column}" for column in range(6)], split.seen, split.unseen, -split.word_vectors, name="n", source="n"
    )
    check_same_space(info_of(split), strangers, "x")


def test_released_checkpoint_needs_a_folder_and_has_a_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"--dataset_path is required: the checkpoint holds no word vectors"):
        labels_for(info_of(None), None)
    write_folder(tmp_path / "data" / "NUS_WIDE", make_toy_split())
    assert labels_for(info_of(None), None).labels == make_toy_split().labels
    with pytest.raises(UserError, match="kind SDL, not COCO"):
        labels_for(info_of(None), None, "COCO")


def test_tags_equal_the_released_inference(shared_data, tmp_path):
    path = save_golden(tmp_path / "release.pth", num_classes=1006, idx_to_class={})
    tagger = Tagger.load(path, labels=LabelOptions(shared_data / "nus_wide", "NUS_WIDE"))
    golden = json.loads((GOLDEN / "infer_nus_top10.json").read_text())
    for name, expected in golden.items():
        (tags,) = tagger.tag([read_image(shared_data / "nus_wide" / "pics" / name)], top_k=10)
        assert [tag.label for tag in tags] == [label for label, _ in expected]
        assert [tag.score for tag in tags] == pytest.approx([score for _, score in expected], abs=1e-3)


def test_label_on_neither_side_of_the_split_is_unseen():
    split = dataclasses.replace(make_toy_split(), seen=(0, 1))  # 4 and 5 are unseen, 2 and 3 on neither side
    tags = Tagger(tiny_model(), split, transform=eval_transform(SIZE)).tag(drawn()[:1], top_k=6)[0]
    assert {tag.label for tag in tags if not tag.unseen} == {"tag0", "tag1"}
    assert {tag.marked for tag in tags if tag.label == "tag2"} == {"*tag2*"}


def test_exif_orientation_is_applied(tmp_path, tagger):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    drawn()[0].convert("RGB").resize((40, 20)).save(tmp_path / "turned.png", exif=exif)
    from_file = tagger.tag([read_image(tmp_path / "turned.png")], top_k=6)
    with Image.open(tmp_path / "turned.png") as opened:
        assert opened.size == (40, 20)
        assert tagger.tag([opened], top_k=6) == from_file
        assert tagger.tag([Image.fromarray(np.asarray(opened)).rotate(270, expand=True)], top_k=6) == from_file
