"""Tests that need a CUDA GPU: half precision with a scaler, pinned copies, equal numbers on both devices."""

from __future__ import annotations

import math

import pytest
import torch

import train
import validate
from src.checkpoint import load_checkpoint
from src.data.parts import GroundTruth
from src.data.split import make_split
from src.evaluation import evaluate
from src.loss_functions.SDL_loss import SDLLoss
from src.training.optim import make_optimizer, parameter_groups
from tests.helpers import tiny_model
from tests.script_helpers import PLAIN, TINY, call, colour_wheel, log_of, succeeded

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
GPU = torch.device("cuda")


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_loss_and_gradient_are_those_of_the_cpu():
    x, words, y = draw(6, 35), torch.nn.functional.normalize(draw(5, 9), dim=0), (draw(6, 9, seed=1) > 0.5).int()
    results = []
    for device in (torch.device("cpu"), GPU):
        embedding = x.detach().clone().to(device).requires_grad_()
        loss = SDLLoss(0.3, wordvec_array=words).to(device)(embedding, y.to(device))
        loss.backward()
        results.append((loss.detach().cpu(), embedding.grad.cpu()))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_evaluation_is_that_of_the_cpu():
    x, words, targets = draw(50, 35), draw(5, 12), (draw(50, 12, seed=1) > 1).to(torch.int8)
    split = make_split("abcdefghijkl", range(8), range(8, 12), words, name="drawn", source="test")
    expected = evaluate(x, split, GroundTruth(targets))
    assert evaluate(x, split, GroundTruth(targets), device=GPU) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("precision", ["fp16", "bf16", "float32"])
def test_a_run_on_the_gpu_gives_a_checkpoint_for_the_cpu(tmp_path, precision):
    folder = colour_wheel(tmp_path / "wheel")
    flags = (*TINY, *PLAIN, "--num-epochs", 2, "--seed", 0, "--precision", precision, "--channels-last")
    run = tmp_path / "run"
    succeeded(call(train.main, "--metadata", folder, "--device", "cuda", "--path_output", run, *flags))
    assert all(math.isfinite(entry["train"]["loss"]) for entry in log_of(run))
    model, info = load_checkpoint(run / "model-last.ckpt")
    assert next(model.parameters()).device.type == "cpu"
    assert info.settings["precision"] == precision
    for device in ("cpu", "cuda"):
        succeeded(call(validate.main, "--model-path", run / "model-last.ckpt", folder, "--device", device, "-j", 0))


def test_adam_is_fused_on_the_gpu():
    model = tiny_model().to(GPU)
    assert make_optimizer("adamw", parameter_groups(model, 1e-3, 1e-2), GPU).defaults["fused"]
