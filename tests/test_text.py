"""Text from outside: what of it reaches files, the terminal and our messages."""

from __future__ import annotations

import io
import json
import os
import pickle

import numpy as np
import pytest
import torch

from src.errors import first_line
from src.text import on_lines, on_screen, printable
from src.utils.files import atomic_write, write_json

HOSTILE = "a\x1b]0;title\x07\r\nb\x9b2J\u202egnp.exe\u2066\u2028\x00\u200f"
ADVICE = [
    "Weights only load failed. Re-running with `weights_only` set to `False` will likely succeed",
    "Please use `torch.serialization.add_safe_globals([Foo])` to allowlist this global",
    "Object arrays cannot be loaded when allow_pickle=False",
    "This file contains pickled data. If you trust the source, set allow_pickle=True",
    "The repository contains custom code; pass the argument `trust_remote_code=True` to allow it",
    "use pickle_module=dill instead",
    "it can result in arbitrary code execution\nDo it only if you got the file from a trusted source",
    "Cannot load: retry with\n\n--allow-pickle",
]


def test_nothing_that_steers_a_terminal_is_left_of_text():
    shown = on_screen(HOSTILE)
    assert shown.isprintable()
    assert shown.startswith("a\\x1b]0;title\\x07\\r\\nb\\x9b2J\\u202egnp.exe")


@pytest.mark.parametrize("name", ["日本", "می‌خواهم", "👩‍👩‍👧", "naïve café", "ไทย", "हिन्दी", "a b\u00a0c"])
def test_words_of_every_script_stay_as_they_are(name: str):
    assert on_screen(name) == printable(name) == name


@pytest.mark.parametrize("name", ["caf\udce9", "\ud800", "a\udc00"])
def test_lone_surrogates_become_text_that_any_file_holds(name: str):
    assert printable(name).encode("utf-8").decode().isprintable()


def test_further_lines_of_a_message_cannot_pass_for_another_message():
    assert (
        on_lines("two problems\n  one\n  two\ninfer.py: error: x") == "two problems\n  one\n  two\\ninfer.py: error: x"
    )


@pytest.mark.parametrize("advice", ADVICE)
def test_advice_to_load_unsafely_is_never_passed_on(advice: str):
    line = first_line(ValueError(advice))
    assert line == "it is damaged, or holds objects that are not loaded because they could run code"


class _Payload:
    def __reduce__(self):
        return os.system, ("true",)


def test_what_pytorch_and_numpy_say_of_payloads_names_the_culprit_only(tmp_path):
    torch.save({"x": _Payload()}, tmp_path / "x.pth")
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object))
    with pytest.raises(pickle.UnpicklingError) as caught:
        torch.load(tmp_path / "x.pth", weights_only=True)
    assert "(posix.system) that are not loaded" in first_line(caught.value)
    with pytest.raises(ValueError, match="allow_pickle") as refused:
        np.load(io.BytesIO((tmp_path / "x.npy").read_bytes()))
    assert "allow_pickle" not in first_line(refused.value)


def test_foreign_messages_are_one_short_printable_line():
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    errors = [ValueError("x" * 10_000), ValueError("\n\n  a \x1b[1m b\nc"), MuteError(), ValueError(), KeyError("k")]
    lines = [first_line(error) for error in errors]
    assert all(0 < len(line) <= 200 and line.isprintable() for line in lines)
    assert lines[1:] == ["a \\x1b[1m b", "MuteError", "ValueError", "no entry 'k'"]


def test_text_files_and_json_hold_names_that_are_not_utf8(tmp_path):
    value = {"caf\udce9": ["\ud800", "日本", 'a"\\b']}
    write_json(tmp_path / "x.json", value)
    read = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert read == {"caf\\xe9": ["\\ud800", "日本", 'a"\\b']}
    with atomic_write(tmp_path / "x.txt", "w") as stream:
        stream.write("caf\udce9 日本")
    assert (tmp_path / "x.txt").read_text(encoding="utf-8") == "caf\\xe9 日本"
