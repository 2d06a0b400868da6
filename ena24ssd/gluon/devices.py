"""Can MXNet run on this device?

Asking whether a GPU is there is not enough: MXNet counts GPUs for which its wheel holds no code. So each candidate must
do a real operation before a run starts on it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import mxnet
from mxnet import np

from ena24ssd.engine import EngineError

CPU_HINT = "or set device=cpu"


def open_devices(names: str | Sequence[str]) -> list[mxnet.Context]:
    """The MXNet contexts of one or several of the names that `open_device` takes. Raises EngineError."""
    contexts = [open_device(name) for name in ([names] if isinstance(names, str) else names)]
    if len({context.device_type for context in contexts}) > 1:
        raise EngineError(f"device {list(names)}: GPUs and CPUs together; a batch is spread over devices of one kind")
    for context in contexts:
        if contexts.count(context) > 1:
            raise EngineError(f"device {list(names)}: {context} is named twice; name each device once")
    return contexts


def open_device(name: str) -> mxnet.Context:
    """The MXNet context of ``cpu``, ``cpu:N``, ``gpu``, ``gpu:N`` or ``auto``: the first GPU if it works, else the CPU.

    Raises EngineError with one sentence that says what to install or change.
    """
    if name.startswith("cpu"):  # cpu:1 is the same processor with memory of its own: a second device to try things on
        return mxnet.cpu(int(name.partition(":")[2] or 0))
    index = int(name.partition(":")[2] or 0)
    fault = check_gpu(index)
    if fault is None:
        return mxnet.gpu(index)
    if name == "auto":
        if mxnet.runtime.Features().is_enabled("CUDA"):  # a user who installed a CUDA build expects its GPU to work
            warnings.warn(f"training and detecting on the CPU: {fault}", stacklevel=2)
        return mxnet.cpu()
    raise EngineError(f"device '{name}': {fault}")


def check_gpu(index: int) -> str | None:
    """Why GPU number ``index`` cannot be used, in one sentence with the way out; None if it can."""
    if not mxnet.runtime.Features().is_enabled("CUDA"):
        return (
            "this MXNet is a CPU build; for a GPU up to RTX 40 install the extra gluon-cu112 in place of gluon "
            f"(H100 and newer, unknown to MXNet: set engine=pytorch), {CPU_HINT}"
        )
    try:
        count = mxnet.context.num_gpus()
    except mxnet.MXNetError as fault:
        return f"the CUDA driver does not answer ({_first_line(fault)}); check nvidia-smi, {CPU_HINT}"
    if count == 0:
        return f"MXNet sees no GPU on this machine; check nvidia-smi and CUDA_VISIBLE_DEVICES, {CPU_HINT}"
    if index >= count:
        return f"MXNet sees {count} GPU(s), numbered from 0; choose one of them, {CPU_HINT}"
    try:
        ones = np.ones((8, 8), ctx=mxnet.gpu(index))
        total = float(np.dot(ones, ones).sum())
    except mxnet.MXNetError as fault:
        return (
            f"MXNet {mxnet.__version__} has no working code for this GPU ({_first_line(fault)}); see the GPU table in "
            f"the README for the wheel that fits, {CPU_HINT}"
        )
    return (
        None if total == 512.0 else f"a matrix product on it gave {total} instead of 512; do not trust it, {CPU_HINT}"
    )


def _first_line(fault: Exception) -> str:
    lines = [line.strip() for line in str(fault).splitlines() if line.strip()]
    return lines[-1] if lines else type(fault).__name__
