"""How much memory is there, and how much was used?"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

UNLIMITED = 2**60  # version 1 writes the largest page-aligned number there is where nothing is limited

SPEAKS_OF_MEMORY = re.compile(r"memory|bad_alloc|cudaMalloc|ALLOC_FAILED", re.IGNORECASE)


def is_shortage(fault: Exception) -> bool:
    """Whether an error is about too little memory: frameworks have no kind of their own for it, only words."""
    return isinstance(fault, MemoryError) or SPEAKS_OF_MEMORY.search(str(fault)) is not None


def available_memory() -> int:
    """Bytes that a new process could take now without swapping.

    That is what the machine has, and no more than a limit on this process's control group leaves: a container or a job
    of a cluster's queue. What a group holds of files that were read counts as free, for it is given back when needed.
    """
    return max(0, min([psutil.virtual_memory().available, *_left_by_groups(Path("/"))]))


def peak_memory() -> int:
    """The most bytes of memory that this process has held at once so far (resident, not merely reserved)."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except FileNotFoundError:
        pass
    import resource  # Windows has none

    # Only where the line above is missing: a new process's ru_maxrss begins at what its parent held.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _left_by_groups(root: Path) -> Iterator[int]:
    """What each control group that limits this process leaves, in bytes; ``root`` is where /proc and /sys are."""
    mount = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        number, kinds, path = line.split(":", 2)
        if number == "0":  # version 2: one tree for everything
            yield from _left_on_the_way(mount, path, ("memory.max", "memory.high"), "memory.current", "")
        elif "memory" in kinds.split(","):
            names = ("memory.limit_in_bytes",)
            yield from _left_on_the_way(mount / "memory", path, names, "memory.usage_in_bytes", "total_")


def _left_on_the_way(mount: Path, path: str, limits: tuple[str, ...], usage: str, prefix: str) -> Iterator[int]:
    """What the group at ``path`` and each group around it leaves.

    In a container the path may be the one outside, which is not there: the container's own group is then the mount.
    """
    inner = mount / path.lstrip("/")
    for folder in (inner, *inner.parents):
        if not folder.is_relative_to(mount):
            break
        limit = min((_number(folder / name) for name in limits), default=UNLIMITED)
        if limit < UNLIMITED and (folder / usage).exists():
            yield limit - _number(folder / usage) + _files_held(folder / "memory.stat", prefix)


def _number(file: Path) -> int:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # not there, or 'max'
        return UNLIMITED


def _files_held(file: Path, prefix: str) -> int:
    """Bytes of files that were read and can be read again, by a group's memory.stat."""
    try:
        pairs = [line.split() for line in file.read_text().splitlines()]
    except OSError:
        return 0
    return sum(int(value) for name, value in pairs if name in (f"{prefix}inactive_file", f"{prefix}active_file"))
