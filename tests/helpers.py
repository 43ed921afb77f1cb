"""Small models, splits, images and the golden weights, shared by the tests of models, checkpoints and training."""

from __future__ import annotations

import importlib.util
import json
import tempfile
from functools import cache
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from src.checkpoint import CheckpointInfo, ModelConfig, load_checkpoint, save_checkpoint
from src.data.metadata_writer import MetadataContent, write_metadata
from src.data.split import ZeroShotSplit, make_split
from src.models import SDLModel, create_model
from tests.conftest import GOLDEN

# The models here are small: threads gain little, and on a busy machine waiting for each other costs them threefold.
torch.set_num_threads(1)

TINY = "test_resnet"  # timm's model for tests: 0.4 million weights
SIZE = 32  # pixels
KEY_LISTS = ("tresnet_m_sdl", "tresnet_m_imagenet", "tresnet_l_imagenet", "tresnet_xl_imagenet")


def golden_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Key -> shape of a state dict of the released code."""
    return {key: tuple(shape) for key, shape in json.loads((GOLDEN / f"{name}_keys.json").read_text()).items()}


@cache
def golden_state(name: str = "tresnet_m_sdl") -> dict[str, Tensor]:
    """A state dict of the released code with the weights that the golden outputs were made with; not to be changed."""
    spec = importlib.util.spec_from_file_location("fill_weights", GOLDEN / "fill_weights.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.fill({key: torch.empty(shape) for key, shape in golden_shapes(name).items()}, seed=0)


def save_golden(path: Path, **release_keys: object) -> Path:
    """The released SDL model (tresnet_m, M=7, D=300): a bare state dict, or a release file with those further keys."""
    torch.save({"model": golden_state(), **release_keys} if release_keys else golden_state(), path)
    return path


@cache
def golden_model() -> SDLModel:
    """The released SDL model in eval mode, built once a session; not to be changed."""
    with tempfile.TemporaryDirectory() as folder:
        return load_checkpoint(save_golden(Path(folder) / "bare.pth"))[0]


def make_toy_split(num_labels: int = 6, dim: int = 4, num_unseen: int = 2, seed: int = 0) -> ZeroShotSplit:
    """Labels ``tag0``, ``tag1``, ... with random unit vectors; the last ones are unseen."""
    vectors = torch.randn(dim, num_labels, generator=torch.Generator().manual_seed(seed))
    return make_split(
        [f"tag{column}" for column in range(num_labels)],
        range(num_labels - num_unseen),
        range(num_labels - num_unseen, num_labels),
        vectors / vectors.norm(dim=0),
        name="toy",
        source="toy",
    )


def tiny_model(name: str = TINY, num_rows: int = 2, wordvec_dim: int = 4, seed: int = 0, size: int = SIZE) -> SDLModel:
    """A small model whose norm layers have lived statistics, in eval mode."""
    torch.manual_seed(seed)
    model = create_model(name, num_rows, wordvec_dim, image_size=size)
    live_norms(model)
    return model.eval()


def live_norms(model: nn.Module) -> None:
    """Scales, shifts and statistics as after training: a fresh layer's ones and zeros would hide a mix-up."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.1)
            layer.running_mean.normal_(std=0.1)
            layer.running_var.uniform_(0.5, 1.5)


def save_tiny(
    path: Path, model: SDLModel | None = None, *, name: str = TINY, half: bool = False, **facts: object
) -> SDLModel:
    """A checkpoint of a small model."""
    model = tiny_model(name) if model is None else model
    config = ModelConfig(name, model.num_rows, model.wordvec_dim, SIZE)
    facts.setdefault("split", make_toy_split(dim=model.wordvec_dim))
    save_checkpoint(path, model, CheckpointInfo("sdl", config, **facts), half=half)
    return model


def write_folder(folder: Path, split: ZeroShotSplit) -> Path:
    """A metadata folder with that split and no images."""
    write_metadata(folder, MetadataContent(split, {}, word_vector_source="drawn"))
    return folder


def write_images(folder: Path, count: int, broken: tuple[int, ...] = ()) -> list[Path]:
    """Plain-coloured images, each of its own grey; ``broken`` ones are cut short."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        grey = 255 * number // max(count - 1, 1)
        Image.new("RGB", (40, 30), (grey, 255 - grey, 128)).save(path)
        if number in broken:
            path.write_bytes(path.read_bytes()[:40])
    return paths


class InPlaceABN(nn.BatchNorm2d):
    """The layer's semantics, written out: (x - mean) / sqrt(var + eps) * (|w| + 1e-5) + b, then the activation."""

    def __init__(self, num_features, eps=1e-5, momentum=0.1, *, activation="leaky_relu", activation_param=0.01):
        super().__init__(num_features, eps, momentum)
        self.slope = {"leaky_relu": activation_param, "identity": 1.0}[activation]

    def forward(self, x: Tensor) -> Tensor:
        self.num_batches_tracked += self.training
        scale = self.weight.abs() + 1e-5
        normalized = nn.functional.batch_norm(
            x, self.running_mean, self.running_var, scale, self.bias, self.training, self.momentum, self.eps
        )
        return nn.functional.leaky_relu(normalized, self.slope)
