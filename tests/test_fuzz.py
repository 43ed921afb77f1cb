"""Readers take or refuse damaged and hostile files within limits of time and memory: a sample of the fuzzer."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.fuzz.harness import FOUND, Target
from tests.fuzz.targets import all_targets

CASES = 2000
TARGETS = all_targets()


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_mutated_files_are_read_or_refused(target: Target, tmp_path: Path):
    for found in target.found:  # they failed once
        target.check(found.read_bytes(), tmp_path)

    @settings(
        max_examples=-(-CASES // len(TARGETS)),
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(target.files())
    def attempt(content: bytes) -> None:
        target.check(content, tmp_path)

    attempt()


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_whole_files_are_read(target: Target, tmp_path: Path):
    for seed in target.seeds:
        path = tmp_path / target.file_name
        path.write_bytes(target.write(seed))
        target.read(path)


def test_found_inputs_belong_to_a_reader():
    assert {folder.name for folder in FOUND.glob("*")} <= {target.name for target in TARGETS}
