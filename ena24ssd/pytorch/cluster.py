"""How do several workers act as one?

``torchrun`` starts them, tells each who it is, and ends all when one of them dies; `torch.distributed` does the sums:
NCCL between GPUs, Gloo between CPUs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta

import numpy
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ena24ssd.engine import EngineError

HOW = "start every worker with torchrun, for example: torchrun --nproc-per-node 2 scripts/train.py ..."
SILENCE = 3600  # seconds that an answer of the others may take: rank 0 measures meanwhile


def join_cluster(device: torch.device) -> Cluster | None:
    """Become one of the workers that torchrun has started; None where it has started none, or one alone.

    Returns when all are there. Raises EngineError where they do not meet.
    """
    if int(os.environ.get("WORLD_SIZE") or 1) < 2:
        return None
    silence = timedelta(seconds=int(os.environ.get("ENA24SSD_CLUSTER_SILENCE", SILENCE)))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        distributed.init_process_group(backend, timeout=silence)
    except (ValueError, RuntimeError) as fault:
        first = str(fault).strip().splitlines()[0]
        raise EngineError(f"cannot join the other workers: {first}; {HOW}") from fault
    return Cluster(device)


class Cluster:
    """One worker's view of all of them. Every worker must make the same calls in the same order."""

    def __init__(self, device: torch.device):
        self.rank, self.workers = distributed.get_rank(), distributed.get_world_size()
        self._device = device

    def agree(self, values: numpy.ndarray) -> numpy.ndarray:
        """The float64 sum of every worker's ``values`` (any one shape), the same to the bit on each of them.

        Waits for all workers. The sum is in the order of the ranks, whoever came first.
        """
        mine = torch.from_numpy(numpy.array(values, dtype=numpy.float64, order="C"))
        everyone = [torch.empty_like(mine) for _ in range(self.workers)]
        distributed.all_gather(everyone, mine)
        return torch.stack(everyone).numpy().sum(axis=0)

    def add_up(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of every worker's ``tensor``, on its device; on a GPU nothing waits."""
        total = tensor.clone()
        distributed.all_reduce(total)
        return total

    def share(self, tensors: Iterable[torch.Tensor]) -> None:
        """Give every worker rank 0's values of these."""
        for tensor in tensors:
            distributed.broadcast(tensor, 0)

    def spread(self, net: nn.Module) -> DistributedDataParallel:
        """The network, but its gradients become the mean of all workers' while they are worked out.

        Of what learns at this moment; every worker's weights become those of rank 0.
        """
        places = [self._device.index] if self._device.type == "cuda" else None
        # Statistics are each worker's own, until `share`; the option that says so has a new name.
        option = "forward_sync_buffers" if torch.__version__ >= (2, 13) else "broadcast_buffers"
        return DistributedDataParallel(net, device_ids=places, gradient_as_bucket_view=True, **{option: False})

    def close(self) -> None:
        """Wait until every worker has come to this call, and leave."""
        if distributed.is_initialized():
            distributed.barrier()
            distributed.destroy_process_group()


class Sum(torch.autograd.Function):
    """The sum of every worker's tensor, through which gradients flow: each of them adds to everybody's."""

    @staticmethod
    def forward(ctx, mine):
        total = mine.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient):
        total = gradient.contiguous().clone()
        distributed.all_reduce(total)
        return total
