"""On what was it measured, and what did it take there?"""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path

NAMES = {"numpy": "NumPy", "PIL": "Pillow", "mxnet": "MXNet", "torch": "PyTorch"}


def machine() -> str:
    """One line on the processor, the GPU if one is in use, the threads, and the versions of what is loaded."""
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    parts = [f"{found[1] if found else platform.processor() or platform.machine()}, {os.cpu_count()} cores"]
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else os.environ.get("OMP_NUM_THREADS", "as many as libraries choose")
    parts[0] += f", threads: {threads}"
    if torch and torch.cuda.is_initialized():
        where = torch.cuda.get_device_properties(torch.cuda.current_device())
        parts.append(f"{where.name}, {where.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}")
    loaded = [f"{name} {sys.modules[module].__version__}" for module, name in NAMES.items() if module in sys.modules]
    return "; ".join([*parts, ", ".join([f"Python {platform.python_version()}", *loaded])])


def memory(field: str) -> float:
    """``VmRSS`` (now) or ``VmHWM`` (at the peak) of this process in bytes; nan where there is no /proc."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024.0


def forget_peak() -> None:
    """Let ``VmHWM`` begin anew, where there is one."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return
