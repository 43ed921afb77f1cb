"""Communication between the processes that ``torchrun`` starts. With a single process every method is trivial."""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore  # torch.distributed does not export them to mypy
from torch.nn.parallel import DistributedDataParallel

from src.errors import NonFiniteRunError, UserError, first_line
from src.options import DistBN
from src.utils.device import choose_device
from src.utils.ranks import QUIET

_T = TypeVar("_T")
# The others wait while the first computes the features of a large data set. A dead process is noticed at once anyway.
_TIMEOUT = timedelta(days=1)
_TIME_TO_TELL = 2.0  # seconds; when the first process ends, torchrun ends the others
_LOST_PEER = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited", "gloo")
# PyTorch 2.14 deprecates the older name.
_OPTIONS = inspect.signature(DistributedDataParallel.__init__).parameters
_SYNC_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _OPTIONS else "broadcast_buffers"


@dataclass(frozen=True)
class Processes:
    """The processes of a run.

    Attributes:
        rank: of this process; only rank 0 writes files and prints.
        count: number of processes.
        local_rank: rank on this machine, which is also the index of its GPU.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Return whether this process writes files and prints."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sum over the processes; the result is equal in all of them, to the last bit."""
        return [sum(of_process) for of_process in zip(*self.gather(list(values)), strict=True)]

    def gather(self, value: _T) -> list[_T]:
        """Return the values of all processes, by rank."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def from_first(self, value: _T) -> _T:
        """Return the value of the first process."""
        if self.count == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def to_first(self, value: _T) -> list[_T]:
        """Return the values of all processes, by rank, in the first one; nothing in the others."""
        values: list[Any] | None = [None] * self.count if self.is_first else None
        dist.gather_object(value, values, dst=0)
        return values or []

    def wrap(self, module: nn.Module, device: torch.device) -> DistributedDataParallel | None:
        """Return a wrapper that averages the module's gradients over the processes; None where there is one process.

        Every process keeps running statistics of its own until :meth:`distribute_bn` makes them equal.
        """
        if self.count == 1:
            return None
        device_ids = [device.index] if device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=device_ids, **{_SYNC_BUFFERS: False})  # type: ignore[arg-type]

    @torch.no_grad()
    def distribute_bn(self, module: nn.Module, how: DistBN) -> None:
        """Make the floating-point buffers of ``module`` (running batch-norm statistics) equal in all processes.

        Like timm's ``distribute_bn``, but with one transfer. Running averages are linear, so it does not matter how
        often this is called between two evaluations.

        Args:
            module: the model, or a moving average of it.
            how: ``reduce`` to the mean over the processes, or ``broadcast`` from the first one.
        """
        buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
        if self.count == 1 or not buffers:
            return
        flat = torch.cat([buffer.double().flatten() for buffer in buffers])  # the mean of equal values is exact
        if how == "reduce":
            dist.all_reduce(flat)
            flat /= self.count
        else:
            dist.broadcast(flat, src=0)
        for buffer, value in zip(buffers, flat.split([buffer.numel() for buffer in buffers]), strict=True):
            buffer.copy_(value.view_as(buffer))


ALONE = Processes()


@contextmanager
def first_goes_ahead(processes: Processes) -> Iterator[None]:
    """Run the block in the first process, then in the others, which find its results in a cache."""
    if not processes.is_first:
        dist.barrier()
    yield
    if processes.is_first and processes.count > 1:
        dist.barrier()


def device_of(name: str, processes: Processes) -> torch.device:
    """Choose the device of this process: several processes on one machine have a GPU each.

    Raises:
        UserError: CUDA is requested but not available.
    """
    device = choose_device(name)
    return torch.device("cuda", processes.local_rank) if device.type == "cuda" and processes.count > 1 else device


def _store_of_this_attempt() -> Store | None:
    """Return a store with its own prefix for this attempt of torchrun; None if torchrun offers no store.

    torchrun keeps its store when it restarts processes. PyTorch 2.14 then reads the addresses of the dead ones from it,
    and the connection is refused.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, is_master=False)
    return PrefixStore(f"sdl/attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


@contextmanager
def joined(device_name: str) -> Iterator[Processes]:
    """Join the processes of ``torchrun`` (gloo on a CPU, NCCL on GPUs), and leave at the end of the block.

    Args:
        device_name: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        UserError: there are more processes than GPUs on this machine, or another process has died.
        SystemExit: another process has failed, and has said why.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1 or "RANK" not in os.environ:
        yield ALONE
        return
    processes = Processes(int(os.environ["RANK"]), count, int(os.environ.get("LOCAL_RANK", "0")))
    on_gpu = device_name != "cpu" and torch.cuda.is_available()
    if on_gpu:
        if processes.local_rank >= torch.cuda.device_count():
            raise UserError(
                f"torchrun --nproc_per_node: more processes than GPUs ({torch.cuda.device_count()}) on this machine; "
                "start as many as there are, or give --device cpu"
            )
        torch.cuda.set_device(processes.local_rank)
    # Objects (flags, metrics, embeddings) go over gloo, gradients over NCCL where there are GPUs
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    store = _store_of_this_attempt()
    if store is None:
        dist.init_process_group(backend, timeout=_TIMEOUT)
    else:
        dist.init_process_group(backend, timeout=_TIMEOUT, store=store, rank=processes.rank, world_size=count)
    try:
        with _one_message():
            yield processes
    finally:
        dist.destroy_process_group()


@contextmanager
def _one_message() -> Iterator[None]:
    """Let only the first process that fails say why; the others end quietly, also where they lose their peer by it.

    Raises:
        SystemExit: another process has failed before.
        UserError: another process has died without a word.
    """
    try:
        yield
    except Exception as error:
        is_told = not _is_first_failure()
        is_lost = isinstance(error, RuntimeError) and any(words in str(error) for words in _LOST_PEER)
        if is_told and (is_lost or isinstance(error, (UserError, NonFiniteRunError))):
            time.sleep(_TIME_TO_TELL)
            raise SystemExit(QUIET) from None
        if is_lost:
            raise UserError(
                f"torchrun: another process of the run has ended ({first_line(error)}); see its message, and resume "
                "with the same command and --resume"
            ) from error
        raise


def _is_first_failure() -> bool:
    """Note that this process has failed, where all processes see it; return whether none had before."""
    try:
        return bool(dist.distributed_c10d._get_default_store().add("sdl/failures", 1) == 1)
    except RuntimeError:  # the store is that of a process that has ended
        return False
