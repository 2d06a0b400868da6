"""How many threads suit this machine?"""

from __future__ import annotations

import os
from pathlib import Path


def count_threads() -> int | None:
    """As many as OMP_NUM_THREADS says, or one for every core. None where that is not known."""
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(given) if given.isdigit() and int(given) else count_cores()


def count_cores() -> int | None:
    """The cores that this process may use; None where the system does not say.

    Two hardware threads of one core count as one where they come in pairs, and as two where a machine, or the part of
    it a container is given, has no such pairs.
    """
    try:
        paired = Path("/sys/devices/system/cpu/smt/active").read_text().strip() == "1"
        cores = len(os.sched_getaffinity(0))
    except (OSError, AttributeError):  # not Linux
        return None
    return max(cores // 2 if paired else cores, 1)
