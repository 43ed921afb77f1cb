"""benchmarks/training_memory.py: what its figures rest on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from benchmarks import training_memory
from benchmarks.training_memory import TrainingStep, available, measure_memory, peak_of
from tests.helpers import SIZE, TINY

CPU = torch.device("cpu")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells a process's peak memory")
def test_peak_counts_freed_memory_of_the_run_only():
    large = torch.ones(256 << 18)  # 256 MiB before, which must not count
    del large
    before, peak = peak_of(lambda: torch.ones(64 << 18).sum())  # 64 MiB, freed at once
    assert 60 < peak - before < 100
    before, peak = peak_of(lambda: None)
    assert peak - before < 10


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells a process's peak memory")
def test_row_names_its_measurement():
    row = measure_memory("plain", 4, TINY, SIZE, CPU)
    assert {name: row[name] for name in ("measured", "way", "batch")} == {
        "measured": "memory",
        "way": "plain",
        "batch": 4,
    }
    assert row["peak_mib"] >= row["baseline_mib"] > 0
    assert abs(row["peak_mib"] - row["baseline_mib"] - row["step_mib"]) <= 1


def test_all_ways_take_the_same_step():
    ways = [TrainingStep(way, TINY, SIZE, CPU) for way in ("plain", "checkpointing", "channels_last")]
    losses = torch.tensor([[way.run(4), way.run(4)] for way in ways])
    torch.testing.assert_close(losses, losses[:1].expand_as(losses), rtol=1e-4, atol=0)
    assert (losses[:, 1] < losses[:, 0]).all()  # and it is a step downwards
    start = TrainingStep("plain", TINY, SIZE, CPU).model.state_dict()
    moved = ways[0].model.state_dict()
    assert not torch.equal(start["embedding.weight"], moved["embedding.weight"])


def test_inplace_abn_is_measured_where_it_is_installed(monkeypatch):
    monkeypatch.setattr(training_memory.importlib.util, "find_spec", lambda name: None)
    assert available() == ["plain", "checkpointing", "channels_last"]
    monkeypatch.setattr(training_memory.importlib.util, "find_spec", lambda name: sys)
    assert available() == list(training_memory.WAYS)
