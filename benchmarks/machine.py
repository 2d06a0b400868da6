"""On what was it measured?"""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import mxnet
import numpy
import PIL


def machine() -> str:
    """One line on the processor, the threads and the versions."""
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    threads = os.environ.get("OMP_NUM_THREADS", "MXNet's choice of")
    return (
        f"{found[1] if found else platform.processor()}, {os.cpu_count()} cores, {threads} threads; "
        f"Python {platform.python_version()}, NumPy {numpy.__version__}, Pillow {PIL.__version__}, "
        f"MXNet {mxnet.__version__}"
    )
