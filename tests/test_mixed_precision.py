"""Precision, compiler and batch norms of a run; signals."""

from __future__ import annotations

import signal

import pytest
import torch
from torch import nn

import src.training.mixed_precision
from src.errors import UserError
from src.training.mixed_precision import DTYPES, check_compiler, choose_precision, use_sync_bn
from src.utils.signals import StoppedBySignalError, listening

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("name", "autocast", "device", "expected"),
    [
        (None, True, CPU, None),
        (None, True, GPU, torch.float16),
        (None, False, GPU, None),
        ("float32", True, GPU, None),
        ("bf16", False, CPU, torch.bfloat16),
        ("fp16", True, GPU, torch.float16),
    ],
)
def test_precision_follows_flag_and_device(name, autocast, device, expected):
    assert DTYPES[choose_precision(name, autocast, device)] == expected


@pytest.mark.parametrize("device", [CPU, GPU])
@pytest.mark.parametrize("started_with", ["float32", "bf16"])
def test_resumed_run_keeps_its_precision_on_another_device(started_with, device):
    assert choose_precision(None, True, device, started_with) == started_with


@pytest.mark.parametrize("flag", [None, "fp16"])
def test_half_precision_run_is_not_resumed_on_a_cpu(flag):
    with pytest.raises(UserError, match=r"--resume: .* --precision fp16, .*; resume it on a GPU, or .* --overwrite"):
        choose_precision(flag, True, CPU, "fp16")
    assert choose_precision(None, True, GPU, "fp16") == "fp16"


def test_cpu_refuses_half_precision():
    with pytest.raises(UserError, match="--precision fp16: a CPU trains in float32 or bf16; choose one of them"):
        choose_precision("fp16", True, CPU)


@pytest.mark.parametrize(("device", "processes"), [(CPU, 2), (GPU, 1), (CPU, 1)])
def test_sync_bn_needs_several_processes_and_gpus(device, processes):
    with pytest.raises(UserError, match="--sync-bn: needs several processes on GPUs"):
        use_sync_bn(nn.BatchNorm2d(2), device, processes)


def test_sync_bn_replaces_batch_norms():
    module = use_sync_bn(nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)), GPU, 2)
    assert isinstance(module[1], nn.SyncBatchNorm)


def test_missing_compiler_is_a_user_error(monkeypatch):
    def failing(function: object) -> object:
        raise RuntimeError("\nNo working C++ compiler found\nmore")

    monkeypatch.setattr(src.training.mixed_precision.torch, "compile", failing)
    with pytest.raises(UserError, match=r"--compile: .* \(No working C\+\+ compiler found\); install a C\+\+ compiler"):
        check_compiler()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_first_signal_requests_a_stop_and_the_second_stops_at_once(number, status, capsys):
    before = signal.getsignal(number)
    with listening() as stop:
        assert stop.signal_number == 0
        signal.raise_signal(number)
        assert stop.signal_number == number
        assert "stopping after this step; interrupt again to stop at once" in capsys.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before
    assert StoppedBySignalError(stop.signal_number).status == status
