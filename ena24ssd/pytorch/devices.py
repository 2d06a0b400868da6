"""Can PyTorch run on this device, in which precision, with how many threads?"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import torch

from ena24ssd.engine import EngineError
from ena24ssd.threads import count_threads

CPU_HINT = "or set device=cpu"
NATIVE = ("amx_bf16", "avx512_bf16")  # what a CPU has that multiplies bfloat16 faster than float32


def open_devices(names: str | Sequence[str]) -> list[torch.device]:
    """The one device of the names that `open_device` takes, in a list. Raises EngineError."""
    names = [names] if isinstance(names, str) else list(names)
    if len(names) > 1:
        raise EngineError(
            f"device {names}: engine 'pytorch' takes one device a process; start one for each with 'torchrun "
            f"--nproc-per-node {len(names)} scripts/train.py ...' and device=gpu"
        )
    return [open_device(names[0])]


def open_device(name: str) -> torch.device:
    """The device ``cpu``, ``cpu:N``, ``gpu``, ``gpu:N`` or ``auto``: the first GPU if it works, else the CPU.

    Under torchrun, ``gpu`` and ``auto`` are the GPU of this process's LOCAL_RANK. Raises EngineError with one sentence
    that says what to install or change.
    """
    kind, _, number = name.partition(":")
    if kind == "cpu":
        return torch.device("cpu")
    index = int(number or os.environ.get("LOCAL_RANK", 0))
    fault = check_gpu(index)
    if fault is None:
        return torch.device("cuda", index)
    # Of several workers on a machine with GPUs, none may quietly become a CPU.
    if kind == "auto" and not (int(os.environ.get("WORLD_SIZE") or 1) > 1 and torch.cuda.is_available()):
        return torch.device("cpu")
    raise EngineError(f"device '{name}': {fault}")


def check_gpu(index: int) -> str | None:
    """Why GPU number ``index`` cannot be used, in one sentence with the way out; None if it can."""
    if not torch.backends.cuda.is_built() and torch.version.hip is None:
        return f"this PyTorch ({torch.__version__}) is a CPU build; install one for CUDA, {CPU_HINT}"
    if not torch.cuda.is_available():
        return f"PyTorch sees no GPU on this machine; check nvidia-smi and CUDA_VISIBLE_DEVICES, {CPU_HINT}"
    count = torch.cuda.device_count()
    if index >= count:
        return f"PyTorch sees {count} GPU(s), numbered from 0; choose one of them, {CPU_HINT}"
    try:
        ones = torch.ones((8, 8), device=torch.device("cuda", index))
        total = float((ones @ ones).sum())
    except RuntimeError as fault:
        said, version = str(fault).strip().splitlines()[0], torch.__version__
        return f"PyTorch {version} has no working code for this GPU ({said}); install a newer one, {CPU_HINT}"
    return (
        None if total == 512.0 else f"a matrix product on it gave {total} instead of 512; do not trust it, {CPU_HINT}"
    )


def describe(device: torch.device) -> str:
    """``cpu``, or ``gpu:0 (its name)``."""
    return "cpu" if device.type == "cpu" else f"gpu:{device.index} ({torch.cuda.get_device_name(device)})"


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32 there: the device multiplies it itself, rather than convert it."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    known = getattr(torch.cpu, "get_capabilities", dict)()  # since torch 2.9
    if known:
        return any(known.get(name) for name in NATIVE)
    try:
        flags = Path("/proc/cpuinfo").read_text().split("flags", 1)[-1].splitlines()[0].split()
    except OSError:
        return False
    return any(name in flags for name in NATIVE)


def can_compile(device: torch.device) -> bool:
    """Whether Triton can write code for a GPU: it takes capability 7 or more, a C compiler and Python's headers."""
    has_compiler = any(shutil.which(name) for name in (os.environ.get("CC"), "gcc", "clang") if name)
    has_headers = Path(sysconfig.get_path("include"), "Python.h").exists()
    is_there = importlib.util.find_spec("triton") is not None
    return is_there and has_compiler and has_headers and torch.cuda.get_device_capability(device) >= (7, 0)


def use_all_cores() -> None:
    """Let CPU operators use every core. `import mxnet` in the same process leaves PyTorch a single thread."""
    threads = count_threads()
    if threads is not None:
        torch.set_num_threads(threads)
