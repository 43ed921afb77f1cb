"""What reaches the terminal, and the exit status, whatever becomes of the streams, signals and libraries."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings

import pytest
import torch

from src.errors import UserError
from src.utils.script import run_script
from tests.conftest import ROOT

SCRIPT = """
import os, sys, warnings
from src.errors import UserError
from src.utils.script import run_script
def main(argv):
    {body}
    return 0
sys.exit(run_script("x.py", main))
"""
posix = pytest.mark.skipif(os.name != "posix", reason="streams of POSIX")


def run_in_shell(body: str, redirections: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" {redirections}', sys.executable, SCRIPT.format(body=body)],
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        encoding="utf-8",
        check=False,
    )


@posix
@pytest.mark.parametrize("body", ["print('y')", "print('y', flush=True)", "print('y' * 99_999)"])
def test_a_full_disk_behind_standard_output_is_one_line(body):
    run = run_in_shell(body, ">/dev/full")
    assert run.returncode == 2
    assert run.stderr.startswith("x.py: error: standard output cannot be written: No space left on device; ")
    assert run.stderr.count("\n") == 1


@posix
@pytest.mark.parametrize("redirections", ["2>/dev/full", ">&- 2>&-", "<&- >&- 2>&-", "<&- 2>&-"])
def test_streams_that_cannot_be_written_or_are_closed_change_no_status(redirections):
    body = "print('said', file=sys.stderr); print('out'); assert open(os.devnull).fileno() > 2"
    assert run_in_shell(body, redirections).returncode == 0
    assert run_in_shell("raise UserError('a mistake')", redirections).returncode == 2
    assert run_in_shell("sys.stdin.read() and 1 / 0", "<&-").returncode == 0


@posix
def test_a_full_standard_output_is_not_taken_for_an_error_of_a_file(tmp_path):
    body = "from src.utils.files import atomic_write\n    with atomic_write({!r}): print('y', flush=True)"
    run = run_in_shell(body.format(str(tmp_path / "page.html")), ">/dev/full")
    assert run.returncode == 2
    assert "page.html" not in run.stderr


@posix
@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"PYTHONIOENCODING": "ascii"}, "caf\\xe9 \\u65e5 \\xff \\ud800 a\n"),
        ({"PYTHONIOENCODING": "cp1252:strict", "PYTHONUTF8": "0"}, "\\u65e5 \\xff \\ud800 a\n"),
        ({"LC_ALL": "C"}, "café 日 \\xff \\ud800 a\n"),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "caf\\xe9 \\u65e5 \\xff \\ud800 a\n"),
        ({}, "café 日 \\xff \\ud800 a\n"),
    ],
)
def test_what_an_encoding_does_not_hold_is_escaped(environment, expected):
    text = "'caf\\xe9 \\u65e5 \\udcff \\ud800 a'"
    if "cp1252" in str(environment):
        text = "'\\u65e5 \\udcff \\ud800 a'"
    run = run_in_shell(f"print({text}); print({text}, file=sys.stderr)", **environment)
    assert (run.stdout, run.stderr, run.returncode) == (expected, expected, 0)


@posix
def test_nothing_that_anyone_prints_steers_the_terminal():
    run = run_in_shell("print('a\\x1b[2J\\x07\\u202e日\\tb\\nc'); print('\\rbar\\x9b', file=sys.stderr)")
    assert run.stdout == "a\\x1b[2J\\x07\\u202e日\tb\nc\n"
    assert run.stderr.endswith("bar\\x9b\n")


def test_text_that_steers_the_terminal_is_escaped_in_messages(capsys):
    def mistaken(argv: object) -> int:
        raise UserError("--data a\x1b[2J\nx.py: done\u202e: no such folder\n  --lr \udce9: no number")

    assert run_script("x.py", mistaken) == 2
    expected = "x.py: error: --data a\\x1b[2J\\nx.py: done\\u202e: no such folder\n  --lr \\xe9: no number\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (ZeroDivisionError("\x1b[31m"), 70, "please report it"),
        (OSError("no errno"), 70, "please report it"),
        (PermissionError(13, "Permission denied", "/a\nb"), 2, "x.py: error: /a\\nb: Permission denied; "),
        (MemoryError(), 2, "not enough memory (MemoryError); give smaller batches"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), 2, "smaller"),
        (torch.OutOfMemoryError("CUDA out of memory"), 2, "smaller batches"),
        (SystemExit(5), 5, ""),
        (SystemExit(), 0, ""),
    ],
)
def test_every_exception_becomes_a_message_and_a_status(capsys, error, status, words):
    def main(argv: object) -> int:
        raise error

    assert run_script("x.py", main) == status
    errors = capsys.readouterr().err
    assert words in errors
    assert "\x1b" not in errors
    assert ("Traceback" in errors) == (status == 70)


def test_a_warning_is_one_line_and_comes_once(capsys):
    def main(argv: object) -> int:
        for number in (1, 2):
            warnings.warn(f"odd\x1b image\nand so on {number}", UserWarning, stacklevel=number)
        return 0

    shown = warnings.showwarning
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert run_script("x.py", main) == 0
        assert capsys.readouterr().err == "warning: odd\\x1b image\n"
    assert warnings.showwarning is shown


def send(number: int, body: str) -> tuple[int, str]:
    """Send a signal to a script once it has said that it is there."""
    code = SCRIPT.format(body=body)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, text=True
    ) as process:
        process.stdout.readline()
        time.sleep(0.2)  # it sleeps, too
        process.send_signal(number)
        return process.wait(), process.stderr.read()


SAY = "import time; print(flush=True)\n    "
SWALLOWED = """
    try: time.sleep(60)
    except KeyboardInterrupt: raise ImportError('a library could not be loaded')"""
DROPPED = """
    class Holder:
        def __del__(self): time.sleep(60)
    Holder()
    time.sleep(60)"""


@posix
@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
@pytest.mark.parametrize("body", ["time.sleep(60)", SWALLOWED, DROPPED], ids=["sleeping", "swallowed", "in __del__"])
def test_signals_are_one_line_wherever_they_arrive(number, status, word, body):
    assert send(number, SAY + body) == (status, f"x.py: {word}\n")


@posix
@pytest.mark.parametrize("module", ["train", "infer", "validate", "export", "prepare_data", "src.checkpoint"])
def test_scripts_import_next_to_nothing_before_ctrl_c_is_one_line(module):
    code = f"import sys; import {module}; print(*sorted(name for name in sys.modules if name.startswith('src')))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert set(run.stdout.split()) <= {"src", "src.utils", "src.utils.script", "src.checkpoint"}


@posix
@pytest.mark.parametrize("seconds", [0.05, 0.3, 0.9])
def test_ctrl_c_while_a_script_imports_pytorch_is_one_line(seconds):
    code = "import sys, infer; print(flush=True); sys.exit(infer.main(['--pic_path', 'pics', '--no_picture']))"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, text=True) as process:
        process.stdout.readline()
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        errors = process.communicate()[1]
    assert (process.returncode, errors) == (130, "infer.py: interrupted\n")
