"""Shared fixtures: golden files, optional real data, and small data sets."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

# The models of the tests are tiny: threads that wait for each other cost more than they save on a busy machine.
torch.set_num_threads(1)

# The compiler's cache does not distinguish vector instructions (ATEN_CPU_CAPABILITY): kernels compiled for others give
# wrong numbers.
os.environ.setdefault(
    "TORCHINDUCTOR_CACHE_DIR",
    str(Path(tempfile.gettempdir()) / f"torchinductor_{os.getuid()}_{torch.backends.cpu.get_cpu_capability()}"),
)

# A shell that starts the tests in the background has them ignore Ctrl-C, and so would the runs that get one.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets, which are not part of the project; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("SDL_SHARED", ROOT.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"needs real data sets: set SDL_SHARED to the folder that holds data/ (looked in {folder})")
    return folder


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn metadata folder: 24 training and 16 validation images."""
    from tests.prepare_helpers import prepare_sample

    folder = tmp_path_factory.mktemp("data") / "sample"
    prepare_sample(folder, num_train=24, num_val=16)
    return folder


def run_script(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run one of the scripts as a child process, as a user would."""
    script, *rest = (str(argument) for argument in arguments)
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(ROOT / script), *rest],
        capture_output=True,
        text=True,
        cwd=cwd or ROOT,
        env=environment,
        timeout=400,
        check=False,
    )
