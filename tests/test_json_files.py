"""JSON files as they occur, and one-line errors with the place for those that are none."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from src.errors import UserError
from src.utils.json_files import read_json, read_json_as
from tests.conftest import ROOT

VALUE = {"a": [1, 2.5, -3, True, None], "ü 日本": 'x "\\ y', "c": {}}
HIGH, LOW = chr(0xD83D), chr(0xDE00)  # the halves of a surrogate pair


class Entry(msgspec.Struct):
    id: int
    name: str = ""
    more: Any = None


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "x.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_every_encoding_of_json_is_read(tmp_path, encoding, ascii_only):
    text = json.dumps(VALUE, ensure_ascii=ascii_only, indent=1)
    assert read_json(write(tmp_path, text.encode(encoding))) == VALUE


def test_a_pipe_is_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_text(json.dumps(VALUE)))
    writer.start()
    assert read_json(tmp_path / "pipe") == VALUE
    writer.join()


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "[NaN, -Infinity,NaN]", '{"x":Infinity}', "1e999"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_numbers_that_json_lacks_are_accepted_where_nothing_is_read(tmp_path, number, mark):
    text = f'{{"id": 1, "area": {number} , "name": "NaN, -Infinity: \\\\ \\"NaN\\"", "area2":{number}}}'
    entry = read_json_as(write(tmp_path, mark + text.encode()), Entry, "list")
    assert entry == Entry(1, 'NaN, -Infinity: \\ "NaN"')


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_lacks_are_no_values(tmp_path, number):
    with pytest.raises(UserError, match=r"x\.json is no list: Expected `int`, got `object` - at `\$\.id`$"):
        read_json_as(write(tmp_path, f'{{"id": {number}}}'), Entry, "list")
    assert not read_json_as(write(tmp_path, f'{{"id": 1, "more": {number}}}'), Entry, "list").more


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (HIGH, "\ufffd"),
        (f"a{LOW}b", "a\ufffdb"),
        (LOW + HIGH, "\ufffd\ufffd"),
        (HIGH + HIGH + LOW, "\ufffd😀"),
        ("\\" + HIGH, "\\\ufffd"),
        (HIGH + "\\ud83d", "\ufffd\\ud83d"),
    ],
)
def test_halves_of_surrogate_pairs_become_the_replacement_character(tmp_path, text, read):
    entry = read_json_as(write(tmp_path, json.dumps({"other": text, "id": 1, "name": text})), Entry, "list")
    assert entry.name == read


def test_repairs_change_nothing_else(tmp_path):
    """Python's own reader, with its NaN, against ours on drawn values."""
    draw = random.Random(0)

    def value(depth: int) -> Any:
        kind = draw.randrange(8 if depth < 4 else 6)
        if kind < 3:
            return draw.choice([math.nan, math.inf, -math.inf, 1, -2.5, None, True])
        if kind < 6:
            return "".join(draw.choices(["NaN", "Infinity", "-", '"', "\\", ",", ":", "é", "😀", "N", "I", "\n"], k=4))
        items = [value(depth + 1) for _ in range(draw.randrange(4))]
        return items if kind == 6 else {f"k{number}": item for number, item in enumerate(items)}

    def plain(item: Any) -> Any:
        if isinstance(item, float) and not math.isfinite(item):
            return {}
        if isinstance(item, list):
            return [plain(one) for one in item]
        return {key: plain(one) for key, one in item.items()} if isinstance(item, dict) else item

    for _ in range(300):
        drawn = [value(0) for _ in range(4)]
        text = json.dumps(drawn, ensure_ascii=draw.random() < 0.5, indent=draw.choice([None, 1]))
        assert read_json(write(tmp_path, text)) == plain(drawn)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": [1, 2', r"x\.json is not whole JSON: it ends too early .*; copy or download it again$"),
        ('{"a": NaN, "b": "', r"x\.json is not whole JSON: .*; copy or download it again$"),
        ("", r"x\.json is empty, not whole JSON; copy or download it again$"),
        (" \n", "is empty"),
        ('{"a": 1,\n "b": }', r"x\.json, line 2, column 7: not JSON: invalid character at '}'; mend it there$"),
        ('\ufeff{"a": 1,\n "b": }', r"x\.json, line 2, column 7: not JSON"),
        ("[1,\n2,\n]", r"line 3, column 1: not JSON: trailing comma in array"),
        ('{"a": 1,}', "line 1, column 9: not JSON: trailing comma in object"),
        ('{\n// note\n"a": 1}', "line 2, column 1: not JSON: .* at '// note"),
        ('{"a": 1 /* x */}', r"column 9: not JSON: .* at '/\* x"),
        ('{"a": 1}\n{"a": 2}', "line 2, column 2: not JSON: trailing characters"),
        ("{'a': 1}", "column 2: not JSON: object keys must be strings"),
        ('{"a": nan}', "line 1, column 11: not JSON: invalid character"),
        ('{"a": NaNs}', "line 1, column 10: not JSON"),
        (b'{"id": 1,\n "a": "\xe9"}', r"x\.json, line 2: not UTF-8 text; is it a JSON file"),
        (b'{"a": "' + b"\xc3\xa9" * 600_000 + b'",\n"b": "\xc3"}', r"x\.json, line 2: not UTF-8 text"),
        (b"\x1f\x8b\x08\x00\x00\x00", "compressed file, not JSON; unpack it"),
        (b"PK\x03\x04abcdefg", "compressed file"),
        (b"\xff\xfe{\x00\x00", "neither UTF-8 nor UTF-16 text"),
        (b"\x00\x01\x02\x03\x00\x00", "is no JSON file|not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
    ],
)
def test_faults_are_named_with_their_place(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(UserError, match=message) as caught:
        read_json(path)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 400
    assert ("download" in text) == ("whole JSON" in text)


def test_missing_file_and_folder_are_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*none\.json: No such file"):
        read_json(tmp_path / "none.json")
    with pytest.raises(UserError, match=r"cannot read .*: Is a directory"):
        read_json(tmp_path)


def test_another_form_is_described(tmp_path):
    with pytest.raises(UserError, match=r"is no list of names: Expected `array`, got `object`; expected \[\"cat\"\]$"):
        read_json_as(write(tmp_path, "{}"), list[str], "list of names", expected='["cat"]')


@pytest.mark.parametrize("beginning", ['"', '{"a": NaN, "b": "'])
def test_repairs_of_hostile_strings_take_bounded_memory(tmp_path, beginning):
    path = write(tmp_path, beginning + '\\"' * 2_000_000 + ("" if beginning == '"' else '"}'))
    code = (
        "import resource, sys\n"
        "from src.errors import UserError\n"
        "from src.utils.json_files import read_json\n"
        "resource.setrlimit(resource.RLIMIT_AS, (300 << 20,) * 2)\n"
        "try: read_json(sys.argv[1])\n"
        "except UserError: pass\n"
    )
    subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, check=True, timeout=60)
