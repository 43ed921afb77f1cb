"""Further words in a checkpoint: 8 bits a number with --half-weights, older forms, copies, damage."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from src.calibration.thresholds import Calibration
from src.checkpoint import load_checkpoint
from src.checkpoint.average import average_checkpoints
from src.checkpoint.digest import save_with_digest
from src.checkpoint.further_words import is_exact, read_vectors, read_words, stored_further_words
from src.checkpoint.info import info_of_dict, info_to_dict
from src.checkpoint.inspect import inspect_file
from src.checkpoint.own import save_with_calibration
from src.errors import UserError
from src.exported.facts import ExportFacts, of_metadata, to_metadata
from src.scoring import score_labels
from tests.helpers import save_tiny, tiny_model

WORDS = ("sea", "hot dog", "crème brûlée")
VECTORS = torch.nn.functional.normalize(torch.randn(4, 3, generator=torch.Generator().manual_seed(1)), dim=0)
ENTRIES = ("extra_words", "extra_vectors", "extra_scales")


def shrunk(vectors: Tensor) -> Tensor:
    stored = stored_further_words(["w"] * vectors.shape[1], vectors, torch.int8)
    return read_vectors(stored["extra_vectors"], stored["extra_scales"])


def content_of(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def same_entries(one: dict[str, Any], other: dict[str, Any]) -> bool:
    pairs = [(one.get(name), other.get(name)) for name in ENTRIES]
    return all((a.dtype, a.tolist()) == (b.dtype, b.tolist()) if isinstance(a, Tensor) else a == b for a, b in pairs)


@pytest.fixture
def half(tmp_path: Path) -> Path:
    save_tiny(tmp_path / "half.ckpt", half=True, extra_words=WORDS, extra_vectors=VECTORS)
    return tmp_path / "half.ckpt"


def test_rankings_agree_with_float32():
    draw = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(100, 5000, generator=draw), dim=0)
    found = shrunk(vectors)
    assert torch.cosine_similarity(found, vectors, dim=0).min() > 0.9999
    embedding = torch.randn(2000, 300, generator=draw)  # of images, M = 3
    best, best_found = (score_labels(embedding, each).topk(10).indices for each in (vectors, found))
    overlap = (best[:, :, None] == best_found[:, None]).any(dim=2).float().mean()
    assert overlap >= 0.98


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_what_was_read_is_stored_as_the_same_numbers(scale):
    vectors = torch.randn(50, 400, generator=torch.Generator().manual_seed(2)) * scale
    vectors[:, :3] = torch.tensor([0.0, 1e-40, 1.0])  # nothing, too little for any scale, and equal numbers
    found = shrunk(vectors)
    assert found.isfinite().all()
    assert torch.equal(shrunk(found), found)
    assert is_exact(found, torch.int8)
    assert not is_exact(vectors, torch.int8)
    torch.testing.assert_close(found, vectors, rtol=0, atol=0.005 * float(vectors.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int8])
@pytest.mark.parametrize("words", [WORDS, (), ("two\nlines", "b", "")])
def test_every_form_is_read(dtype, words):
    vectors = VECTORS[:, : len(words)].half().float()
    stored = stored_further_words(words, vectors, dtype)
    assert read_words(stored["extra_words"]) == words
    found = read_vectors(stored["extra_vectors"], stored.get("extra_scales"))
    torch.testing.assert_close(found, vectors, rtol=0, atol=0 if dtype.is_floating_point else 0.005)


def test_copies_keep_every_bit(half, tmp_path):
    before = content_of(half)
    assert before["extra_words"] == "sea\nhot dog\ncrème brûlée"
    average_checkpoints([half, half], tmp_path / "mean.ckpt")
    calibration = Calibration(torch.zeros(6, dtype=torch.float64), 0.5, 0.9, 0.1, 1.0, 0.0, 10, 20)
    save_with_calibration(half, tmp_path / "fitted.ckpt", calibration)
    _, info = load_checkpoint(half)
    assert info.extra_words == WORDS
    again = info_to_dict(info, dtype=torch.float16, further=torch.int8)
    for copy in (content_of(tmp_path / "mean.ckpt"), content_of(tmp_path / "fitted.ckpt"), again):
        assert same_entries(copy, before)
        assert copy["space"] == before["space"]
    assert inspect_file(half)["words"]["further"] == 3


def test_files_of_several_forms_are_averaged_if_their_words_are_the_same(half, tmp_path):
    save_tiny(tmp_path / "full.ckpt", extra_words=WORDS, extra_vectors=VECTORS)
    average_checkpoints([tmp_path / "full.ckpt", half], tmp_path / "mean.ckpt")
    assert torch.equal(content_of(tmp_path / "mean.ckpt")["extra_vectors"], VECTORS)
    save_tiny(tmp_path / "other.ckpt", extra_words=WORDS, extra_vectors=VECTORS.roll(1, dims=1))
    for pair in ([half, tmp_path / "other.ckpt"], [tmp_path / "other.ckpt", half]):
        with pytest.raises(UserError, match="different vectors of further words"):
            average_checkpoints(pair, tmp_path / "mean.ckpt")


def test_exported_file_keeps_words_and_space(half):
    _, expected = load_checkpoint(half)
    metadata = to_metadata(expected, ExportFacts("0" * 64, 32, "float32", has_scores=False))
    stored = torch.load(io.BytesIO(base64.b64decode(metadata["sdl.checkpoint"])), weights_only=True)
    assert same_entries(stored, content_of(half))
    found, _ = of_metadata(metadata, "m.onnx")
    assert (found.extra_words, found.space) == (WORDS, expected.space)
    assert torch.equal(found.extra_vectors, expected.extra_vectors)
    assert info_of_dict(info_to_dict(replace(expected, space=None)), "x").space.dim == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra_scales": None}, "no row of numbers, one per word"),
        ({"extra_scales": torch.ones(2)}, "no row of numbers, one per word"),
        ({"extra_scales": torch.ones(3, 1)}, "no row of numbers, one per word"),
        ({"extra_scales": torch.ones(3, dtype=torch.int64)}, "no row of numbers, one per word"),
        ({"extra_scales": [1.0] * 3}, "no row of numbers, one per word"),
        ({"extra_scales": torch.tensor([1, torch.nan, 1])}, "NaN, infinite or not positive"),
        ({"extra_scales": torch.tensor([1, torch.inf, 1])}, "NaN, infinite or not positive"),
        ({"extra_scales": torch.tensor([1, 3e38, 1])}, "NaN, infinite or not positive"),
        ({"extra_scales": torch.tensor([1.0, 0, 1])}, "NaN, infinite or not positive"),
        ({"extra_scales": torch.tensor([1.0, -1, 1])}, "NaN, infinite or not positive"),
        ({"extra_vectors": torch.ones(4, 3)}, "scales or are one text, but their vectors are not of 8 bits"),
        ({"extra_vectors": None}, "scales or are one text, but their vectors are not of 8 bits"),
        ({"extra_vectors": torch.ones(4, 3, dtype=torch.uint8)}, "no matrix of numbers"),
        ({"extra_vectors": torch.ones(4, 3, 1, dtype=torch.int8)}, "no matrix of numbers"),
        ({"extra_vectors": torch.ones(5, 3, dtype=torch.int8)}, "lengths"),
        ({"extra_vectors": torch.ones(4, 2, dtype=torch.int8)}, "are 2 for 3 words"),
        ({"extra_vectors": torch.ones(0, 3, dtype=torch.int8)}, "lengths"),
        ({"extra_words": "sea\nsun"}, "are 3 for 2 words"),
        ({"extra_words": "\n" * 50_000_000}, "are 3 for 50000001 words"),
        ({"extra_words": torch.ones(3)}, "its further words are a tensor"),
    ],
)
def test_damaged_words_are_refused_in_one_line(change, message, half, tmp_path):
    save_with_digest(tmp_path / "bad.ckpt", {**content_of(half), **change})
    for read in (load_checkpoint, inspect_file):
        assert_refused(read, tmp_path / "bad.ckpt", message)


def assert_refused(read: Callable[[Path], object], path: Path, message: str) -> None:
    with pytest.raises(UserError) as caught:
        read(path)
    text = str(caught.value)
    assert message in text
    assert str(path) in text
    assert "\n" not in text


def test_words_without_vectors_stay(tmp_path):
    save_tiny(tmp_path / "m.ckpt", tiny_model(), half=True)
    assert load_checkpoint(tmp_path / "m.ckpt")[1].extra_words == ()
