"""From a picture to the model's input: geometry, range, filters, cutout, augmentation."""

import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from src.cli import seed_everything
from src.data import transforms as module_under_test
from src.data.transforms import (
    AUGMENTATIONS,
    Cutout,
    eval_transform,
    packaged_randaugment,
    train_transform,
)

PILLOW_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.RandomState(seed).randint(0, 256, (height, width, 3), dtype=np.uint8))


def as_tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).float() / 255


@pytest.mark.parametrize("interpolation", list(PILLOW_FILTERS))
@pytest.mark.parametrize("size", [(70, 30), (30, 70), (20, 20), (8, 100)])
def test_equals_pillows_own_resize_to_a_square(size, interpolation):
    picture = noise(*size)
    expected = as_tensor(picture.resize((32, 32), PILLOW_FILTERS[interpolation]))
    torch.testing.assert_close(eval_transform(32, interpolation)(picture), expected)


def test_bilinear_is_the_default_and_differs_from_bicubic():
    picture = noise(70, 30)
    default = eval_transform(32)(picture)
    assert torch.equal(default, eval_transform(32, "bilinear")(picture))
    assert (default - eval_transform(32, "bicubic")(picture)).abs().max() > 0.02


def test_squashes_and_crops_nothing():
    picture = Image.new("RGB", (200, 40), "black")  # five times as wide as high, with marked ends
    picture.paste((255, 0, 0), (0, 0, 20, 40))
    picture.paste((0, 0, 255), (180, 0, 200, 40))
    tensor = eval_transform(40)(picture)
    assert tensor.shape == (3, 40, 40)
    assert tensor.dtype == torch.float32
    assert (tensor[0, :, :3] == 1).all()  # 20 of 200 columns are 4 of 40; the filter softens the last
    assert (tensor[2, :, -3:] == 1).all()
    assert (tensor[:, :, 6:-6] == 0).all()


def test_values_are_in_0_1_and_not_normalised():
    tensor = eval_transform(16)(Image.new("RGB", (5, 9), (0, 128, 255)))
    assert torch.equal(tensor[0], torch.zeros(16, 16))
    torch.testing.assert_close(tensor[1], torch.full((16, 16), 128 / 255))
    assert torch.equal(tensor[2], torch.ones(16, 16))


def test_an_unknown_filter_is_refused():
    with pytest.raises(ValueError, match="lanczos9"):
        eval_transform(8, "lanczos9")


def painted_box(before: Image.Image, after: Image.Image) -> tuple[int, int, int, int]:
    """Left, top, right, bottom (exclusive) of what changed."""
    rows, columns = np.nonzero((np.asarray(before) != np.asarray(after)).any(axis=2))
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def painted(side: float, width: int, height: int, seed: int) -> tuple[Image.Image, tuple[int, int, int, int]]:
    torch.manual_seed(seed)
    picture = Image.new("RGB", (width, height), (1, 2, 3))
    result = Cutout(side)(picture)
    assert picture.tobytes() == Image.new("RGB", (width, height), (1, 2, 3)).tobytes()  # the input is left alone
    return result, painted_box(picture, result)


@pytest.mark.parametrize("seed", range(8))
def test_cutout_paints_one_colour_and_nothing_else(seed):
    result, (left, top, right, bottom) = painted(0.5, 40, 40, seed)
    values = np.asarray(result)
    inside = values[top:bottom, left:right].reshape(-1, 3)
    assert len(np.unique(inside, axis=0)) == 1
    values = values.copy()
    values[top:bottom, left:right] = (1, 2, 3)
    assert (values == (1, 2, 3)).all()


def test_cutout_has_the_right_size_and_may_hang_over_every_edge():
    boxes = [painted(0.5, 60, 40, seed)[1] for seed in range(150)]
    assert max(right - left for left, _, right, _ in boxes) == 30
    assert max(bottom - top for _, top, _, bottom in boxes) == 20
    inner = [box for box in boxes if box[0] > 0 and box[1] > 0 and box[2] < 60 and box[3] < 40]
    assert {(right - left, bottom - top) for left, top, right, bottom in inner} == {(30, 20)}
    for edge, at in ((0, 0), (1, 0), (2, 60), (3, 40)):
        hanging = [box for box in boxes if box[edge] == at]
        lengths = {box[2] - box[0] if edge % 2 == 0 else box[3] - box[1] for box in hanging}
        assert min(lengths) < (30 if edge % 2 == 0 else 20)  # cut off at that edge, not pushed inside


def test_cutout_draws_place_and_colour_anew():
    results = [painted(0.3, 50, 50, seed) for seed in range(6)]
    assert len({box for _, box in results}) > 3
    assert len({picture.getpixel((box[0], box[1])) for picture, box in results}) > 3


@pytest.mark.parametrize("side", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 5)])
def test_cutout_of_tiny_pictures(side, size):
    for seed in range(5):
        torch.manual_seed(seed)
        assert Cutout(side)(Image.new("RGB", size)).size == size


@pytest.mark.parametrize("cutout", [0.5, 0])
def test_augmentation_sees_the_squashed_and_cut_out_picture(monkeypatch, cutout):
    seen = []

    def augment(picture: Image.Image) -> Image.Image:
        seen.append(picture.copy())
        return Image.new("RGB", picture.size, (255, 0, 0))

    monkeypatch.setattr(module_under_test, "packaged_randaugment", lambda: augment)
    result = train_transform(16, cutout=cutout)(Image.new("RGB", (40, 20), (1, 2, 3)))
    assert [picture.size for picture in seen] == [(16, 16)]
    colours = {colour for _, colour in seen[0].getcolors()}
    assert len(colours) == (2 if cutout else 1)
    assert torch.equal(result[0], torch.ones(16, 16))  # nothing is painted after it


def test_torchvisions_augmentation_is_torchvisions():
    step = train_transform(16, augmentation="torchvision").transforms[2]
    assert isinstance(step, transforms.RandAugment)


def test_without_cutout_and_augmentation_training_equals_evaluation():
    picture = noise(50, 20)
    plain = train_transform(24, cutout=0, augmentation="none")(picture)
    assert torch.equal(plain, eval_transform(24)(picture))


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_equal_seeds_give_equal_pictures_and_stay_in_range(augmentation):
    transform = train_transform(32, augmentation=augmentation)
    pictures = [noise(40, 30, seed) for seed in range(20)]
    runs = []
    for seed in (3, 3, 4):
        seed_everything(seed)
        runs.append(torch.stack([transform(picture) for picture in pictures]))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    assert runs[0].shape == (20, 3, 32, 32)
    assert runs[0].min() >= 0
    assert runs[0].max() <= 1


def test_every_operation_of_the_package_runs_with_this_numpy():
    augment = packaged_randaugment().augment
    from randaugment import randaugment as module

    picture = noise(24, 20)
    names = augment.get_trans_list()
    assert len(names) == 15
    random.seed(0)
    np.random.seed(0)
    changed = set()
    for name in names:
        for magnitude in range(1, 10):
            result = module.SubPolicy(1.0, name, magnitude, 0.0, name, magnitude)(picture)
            assert (result.mode, result.size) == ("RGB", picture.size)
            if result.tobytes() != picture.tobytes():
                changed.add(name)
    assert changed >= set(names) - {"AutoContrast", "Equalize"}  # those two may find nothing to do in noise


def test_numpy_itself_is_left_alone():
    packaged_randaugment()
    from randaugment import randaugment as module

    assert "int" not in vars(np)
    stand_in = module.np
    assert stand_in is not np
    assert stand_in.int is int
    assert stand_in.linspace is np.linspace
    packaged_randaugment()
    assert module.np is stand_in  # mended once


def test_the_repair_travels_to_a_worker_that_imports_the_package_anew(monkeypatch):
    """A spawned loader worker (macOS, Windows) unpickles the transform in a fresh interpreter."""
    sent = pickle.dumps(train_transform(16))
    from randaugment import randaugment as module

    monkeypatch.setattr(module, "np", np)  # as a fresh import has it
    received = pickle.loads(sent)
    seed_everything(0)
    assert received(noise(20, 20)).shape == (3, 16, 16)
