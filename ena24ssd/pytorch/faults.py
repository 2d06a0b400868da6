"""Which layer was the first to give something that is no number?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ena24ssd.pytorch.layers import BatchNorm


def find_fault(
    net: nn.Module, forward: Callable[[], tuple[torch.Tensor, dict[str, torch.Tensor]]], learns: bool
) -> str | None:
    """The first place, in the order of forward and then of backward, where a value is not finite.

    ``forward`` runs the net on the pictures in question and returns the loss to differentiate and, by name, the values
    computed after the net. It is run layer by layer in float32, as in training where ``learns``, else as in measuring;
    alone, without the other workers. The net is afterwards as it was: its modes, its statistics and its gradients.

    None where everything is finite.
    """
    for name, tensor in net.state_dict().items():
        if not _is_finite(tensor):
            return f"the weights {name}"
    order: list[str] = []  # layers as they ran
    found: list[str] = []

    def watch(name: str, layer: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def look(_layer, _inputs, output) -> None:
            order.append(name)
            if not found and not _is_finite(output):
                found.append(f"the output of {name}")

        return layer.register_forward_hook(look)

    learnt = {name: parameter for name, parameter in net.named_parameters() if parameter.requires_grad}
    with _unchanged(net):
        watches = [watch(name, layer) for name, layer in net.named_modules() if not any(layer.children())]
        try:
            net.train(learns)
            for layer in net.modules():
                if isinstance(layer, BatchNorm):
                    layer.workers = 1
            with torch.set_grad_enabled(learns), torch.autocast(_device_of(net).type, enabled=False):
                loss, values = forward()
            found += [f"the {name}" for name, value in values.items() if not _is_finite(value)]
            if found or not learns:
                return found[0] if found else None
            gradients = dict(zip(learnt, torch.autograd.grad(loss, list(learnt.values()), allow_unused=True)))
        except RuntimeError as fault:
            return f"a layer that could not be looked for ({str(fault).strip().splitlines()[-1]})"
        finally:
            for each in watches:
                each.remove()
    for layer in reversed(order):
        for name, gradient in gradients.items():
            if name.rpartition(".")[0] == layer and gradient is not None and not _is_finite(gradient):
                return f"the gradient of {name}"
    return None


@contextmanager
def _unchanged(net: nn.Module) -> Iterator[None]:
    """Put the modes and the statistics of all layers back at the end."""
    modes = {layer: layer.training for layer in net.modules()}
    workers = {layer: layer.workers for layer in net.modules() if isinstance(layer, BatchNorm)}
    statistics = [(buffer, buffer.clone()) for buffer in net.buffers()]
    try:
        yield
    finally:
        for layer, mode in modes.items():
            layer.training = mode
        for layer, count in workers.items():
            layer.workers = count
        for buffer, before in statistics:
            buffer.copy_(before)


def _device_of(net: nn.Module) -> torch.device:
    return next(net.parameters()).device


def _is_finite(tensor: torch.Tensor) -> bool:
    return bool(tensor.isfinite().all())
