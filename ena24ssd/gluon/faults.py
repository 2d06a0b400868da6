"""Which layer was the first to give something that is no number?"""

from __future__ import annotations

from collections.abc import Callable

import mxnet
import numpy
from mxnet import autograd, gluon, np


def find_fault(
    net: gluon.HybridBlock, forward: Callable[[], tuple[np.ndarray, dict[str, np.ndarray]]], learns: bool
) -> str | None:
    """The first place, in the order of forward and then of backward, where a value is not finite.

    ``forward`` runs the net on the pictures in question and returns the loss to differentiate and, by name, the values
    computed after the net. It is run layer by layer, as in training where ``learns``, else as in measuring. The net can
    only be thrown away afterwards.

    None where everything is finite.
    """
    parameters = net._collect_params_with_prefix()
    for name, parameter in parameters.items():
        if not _is_finite(parameter.list_data()[0]):
            return f"the weights {name}"
        for gradient in parameter.list_grad() if parameter.grad_req != "null" else ():
            gradient[:] = 0  # Gluon's own zero_grad knows no NumPy arrays
    order: list[str] = []  # layers as they ran
    found: list[str] = []
    net.hybridize(False)

    def watch(name: str, block: gluon.Block) -> None:
        def look(_block, _inputs, output) -> None:
            order.append(name)
            if not found and not _is_finite(output):
                found.append(f"the output of {name}")

        for child_name, child in block._children.items():
            watch(f"{name}.{child_name}".lstrip("."), child)
        if not block._children:
            block.register_forward_hook(look)

    watch("", net)
    try:
        with autograd.record(train_mode=learns):
            loss, values = forward()
        found += [f"the {name}" for name, value in values.items() if not _is_finite(value)]
        if found or not learns:
            return found[0] if found else None
        loss.backward()
        for layer in reversed(order):
            for name, parameter in parameters.items():
                learnt = name.rpartition(".")[0] == layer and parameter.grad_req != "null"
                if learnt and not _is_finite(parameter.list_grad()[0]):
                    return f"the gradient of {name}"
    except mxnet.MXNetError as fault:
        return f"a layer that could not be looked for ({str(fault).strip().splitlines()[-1]})"
    return None


def _is_finite(array: np.ndarray) -> bool:
    return bool(numpy.isfinite(array.asnumpy()).all())
