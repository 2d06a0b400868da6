"""Is the memory that may be taken, and that was taken, told rightly?"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from ena24ssd import memory
from ena24ssd.memory import available_memory, peak_memory

MACHINE = 10_000  # bytes the machine has left in these tests

V2 = {"proc/self/cgroup": "0::/jobs/7\n"}
V1 = {"proc/self/cgroup": "9:cpu:/x\n4:memory,hugetlb:/jobs/7\n1:name=systemd:/\n0::/\n"}
LARGEST = "9223372036854771712\n"


def v2(folder: str, limit: str, used: str, **more: str) -> dict[str, str]:
    files = {"memory.max": limit, "memory.current": used} | {k.replace("_", ".", 1): v for k, v in more.items()}
    return {f"sys/fs/cgroup/{folder}/{name}": text for name, text in files.items()}


def v1(folder: str, limit: str, used: str, stat: str = "") -> dict[str, str]:
    files = {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": used, "memory.stat": stat}
    return {f"sys/fs/cgroup/memory/{folder}/{name}": text for name, text in files.items()}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, MACHINE, id="no control groups at all, as on macOS"),
        pytest.param(V2, MACHINE, id="a group whose files are absent"),
        pytest.param(V2 | v2("jobs/7", "max", "50"), MACHINE, id="v2: max is no limit"),
        pytest.param(V2 | v2("jobs/7", "900", "200"), 700, id="v2: the limit less what is used"),
        pytest.param(V2 | v2("jobs/7", "90000", "200"), MACHINE, id="v2: more than the machine has left is not there"),
        pytest.param(V2 | v2("jobs/7", "max", "50") | v2("jobs", "400", "100"), 300, id="v2: a limit further up"),
        pytest.param(V2 | v2("jobs/7", "900", "100") | v2("jobs", "400", "390"), 10, id="v2: the narrowest counts"),
        pytest.param(V2 | v2("jobs/7", "900", "100", memory_high="600"), 500, id="v2: throttled before it is killed"),
        pytest.param(
            V2 | v2("jobs/7", "900", "800", memory_stat="anon 100\nfile 700\nactive_file 300\ninactive_file 350\n"),
            750,
            id="v2: files that were read can go",
        ),
        pytest.param(V2 | v2("jobs/7", "900", "950"), 0, id="v2: over the limit leaves nothing, and not less"),
        pytest.param({"proc/self/cgroup": "0::/\n"} | v2(".", "900", "200"), 700, id="v2: a container's own tree"),
        pytest.param(V2 | v2(".", "900", "200"), 700, id="v2: a path that only exists outside the container"),
        pytest.param(V1 | v1("jobs/7", LARGEST, "200"), MACHINE, id="v1: the largest number is no limit"),
        pytest.param(V1 | v1("jobs/7", "900", "200"), 700, id="v1: the limit less what is used"),
        pytest.param(V1 | v1("jobs", "900", "200"), 700, id="v1: a limit further up"),
        pytest.param(
            V1 | v1("jobs/7", "900", "800", "inactive_file 9\ntotal_inactive_file 350\ntotal_active_file 50\n"),
            500,
            id="v1: files read by the groups within can go",
        ),
        pytest.param(V1 | v1("other", "900", "800"), MACHINE, id="v1: somebody else's group"),
    ],
)
def test_available_memory_is_what_the_machine_and_every_control_group_leave(tmp_path, monkeypatch, files, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    groups = memory._left_by_groups
    monkeypatch.setattr(memory, "_left_by_groups", lambda _: groups(tmp_path))
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=MACHINE))
    assert available_memory() == expected


def test_on_this_machine_some_memory_is_available():
    assert 2**20 < available_memory() <= psutil.virtual_memory().total


def test_the_peak_is_at_least_what_is_held_and_stays_when_it_is_given_back():
    held = bytearray(os.urandom(1024)) * (64 * 1024)  # 64 MiB, really touched
    with_it = peak_memory()
    assert with_it >= len(held)
    del held
    assert peak_memory() >= with_it - 2**22  # the kernel counts pages roughly while threads run


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_a_child_does_not_inherit_its_parents_peak():
    held = bytearray(b"1") * (300 << 20)
    code = "from ena24ssd.memory import peak_memory; print(peak_memory())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert int(said.stdout) < len(held) // 2


def test_without_a_status_file_the_system_is_asked(monkeypatch):
    pytest.importorskip("resource")

    def gone(_):
        raise FileNotFoundError

    monkeypatch.setattr(memory.Path, "read_text", gone)
    assert 2**20 < peak_memory() < 2**40
