"""How do I start them all on one machine?

Training on several machines (``kvstore: dist_sync``) takes one scheduler, at least one server, which holds the sums,
and the workers, which train. `launch` starts all of them here, on 127.0.0.1, and ends all of them::

    python -m ena24ssd.cluster --workers 2 -- ena24ssd train config.yaml kvstore=dist_sync

For several machines, set on every one of them the same four variables, with an address of the scheduler's machine that
the others reach::

    export DMLC_PS_ROOT_URI=10.0.0.5 DMLC_PS_ROOT_PORT=9091 DMLC_NUM_WORKER=2 DMLC_NUM_SERVER=1

and start, in any order, on 10.0.0.5 the first two and the third once per worker, each where it shall train::

    DMLC_ROLE=scheduler python -m ena24ssd.cluster
    DMLC_ROLE=server    python -m ena24ssd.cluster
    DMLC_ROLE=worker    ena24ssd train config.yaml kvstore=dist_sync

They find each other, and end together: with the last worker, or with the first process that dies. Rank 0, which writes
the run folder, is the worker whose address comes last in the order of text (10.0.0.9 rather than
10.0.0.5, and 10.0.0.5 rather than 10.0.0.20).

Every process listens on one port: the scheduler on DMLC_PS_ROOT_PORT, the others on any free one, and only on the
address by which it reaches the scheduler (or DMLC_NODE_HOST). **None of them asks who is there**: whoever reaches these
ports can read and change what is trained. Keep them on loopback or inside a network you trust.

ENA24SSD_CLUSTER_TIMEOUT (20): a process without a sign of life for so many seconds counts as dead; the others end at
most twice that later. ENA24SSD_CLUSTER_SILENCE (3600): so many seconds may an answer of the others take at all, while
rank 0 measures for instance. Both may be set per process, and should be the same everywhere.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import ipaddress
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from ena24ssd.engine import EngineError

ROLES = ("scheduler", "server", "worker")
LOOPBACK = "127.0.0.1"
HOW = "'python -m ena24ssd.cluster --help' shows how the processes of a cluster are started"

_FORWARDED = {signal.SIGINT: signal.SIGINT, signal.SIGTERM: signal.SIGTERM, signal.SIGHUP: signal.SIGTERM}
_LAST_STEP = 60.0  # seconds for workers that were told to stop, from the first that did
_FAREWELL = 10.0  # seconds for scheduler and servers to notice that all workers have left
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Membership:
    """What its environment tells a process of its cluster."""

    role: str
    host: str  # the scheduler's IPv4 address
    port: int
    workers: int
    servers: int
    timeout: int  # seconds without a heartbeat after which a process counts as dead
    silence: int  # seconds that an answer of the others may take


def role_environment(role: str, host: str, port: int, workers: int, servers: int = 1) -> dict[str, str]:
    """The variables that make a process the ``scheduler``, a ``server`` or a ``worker`` of a cluster."""
    variables = {
        "DMLC_ROLE": role,
        "DMLC_PS_ROOT_URI": host,
        "DMLC_PS_ROOT_PORT": str(port),
        "DMLC_NUM_WORKER": str(workers),
        "DMLC_NUM_SERVER": str(servers),
    }
    read_membership(variables)
    return variables


def read_membership(environment: Mapping[str, str]) -> Membership:
    """What the DMLC_* variables say. Raises EngineError naming each that is missing or wrong."""
    faults = []
    values = {}
    for field, (name, parse, rule, default) in _VARIABLES.items():
        text = environment.get(name, default)
        try:
            if text is None:
                faults.append(f"{name} is not set, it must be {rule}")
            else:
                values[field] = parse(text)
        except ValueError:
            faults.append(f"{name} is '{text}', it must be {rule}")
    if faults:
        raise EngineError(f"kvstore 'dist_sync': {'; '.join(faults)}. {HOW}")
    return Membership(**values)


def _role(text: str) -> str:
    if text not in ROLES:
        raise ValueError
    return text


def _number(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
            raise ValueError
        return int(text)

    return parse


_VARIABLES = {
    "role": ("DMLC_ROLE", _role, f"one of {', '.join(ROLES)}", None),
    "host": (
        "DMLC_PS_ROOT_URI",
        lambda text: str(ipaddress.IPv4Address(text)),
        "the IPv4 address of the scheduler's machine (MXNet takes no name)",
        None,
    ),
    "port": ("DMLC_PS_ROOT_PORT", _number(1, 65535), "a free port there, from 1 to 65535", None),
    "workers": ("DMLC_NUM_WORKER", _number(1, 1000), "the number of workers, from 1 to 1000", None),
    "servers": ("DMLC_NUM_SERVER", _number(1, 1000), "the number of servers, from 1 to 1000", None),
    "timeout": ("ENA24SSD_CLUSTER_TIMEOUT", _number(2, 86400), "whole seconds, from 2 to 86400", "20"),
    "silence": ("ENA24SSD_CLUSTER_SILENCE", _number(2, 31536000), "whole seconds, from 2 on", "3600"),
}


def prepare_environment(membership: Membership) -> None:
    """Set what MXNet will read besides: heartbeats, and the address on which this process listens.

    Raises EngineError where MXNet would abort the process instead.
    """
    os.environ["PS_HEARTBEAT_INTERVAL"] = "1"
    own, interface = os.environ.get("DMLC_NODE_HOST"), os.environ.get("DMLC_INTERFACE")
    if membership.role == "scheduler":
        _try_to_listen("DMLC_PS_ROOT_URI and DMLC_PS_ROOT_PORT", membership.host, membership.port)
    elif own:
        _try_to_listen("DMLC_NODE_HOST", own, 0)
    elif interface:
        known = [name for _, name in socket.if_nameindex()]
        if interface not in known:
            raise EngineError(f"DMLC_INTERFACE is '{interface}', this machine has {', '.join(known)}")
    else:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # sends nothing: it only asks for the route
            try:
                probe.connect((membership.host, membership.port))
            except OSError as fault:
                raise EngineError(
                    f"DMLC_PS_ROOT_URI is '{membership.host}', this machine has no way there ({fault.strerror}): check "
                    "the address and the network"
                ) from fault
            os.environ["DMLC_NODE_HOST"] = probe.getsockname()[0]


def _try_to_listen(name: str, host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as MXNet does: a port just left is free
        try:
            probe.bind((host, port))
        except OSError as fault:
            raise EngineError(
                f"cannot listen on {host}, port {port or 'any'} ({fault.strerror}): {name} must be an address of this "
                "machine, and a port that is free"
            ) from fault


@dataclass(frozen=True)
class _Process:
    name: str
    popen: subprocess.Popen[bytes]
    output: BinaryIO | None  # None: it writes where this process does

    @property
    def works(self) -> bool:
        return self.name.startswith("worker")

    def runs(self) -> bool:
        return self.popen.poll() is None

    def last_words(self) -> str:
        if self.output is None:
            return ""
        end = os.fstat(self.output.fileno()).st_size  # pread: the position is shared with the process that writes
        lines = os.pread(self.output.fileno(), 4000, max(end - 4000, 0)).decode(errors="replace").splitlines()
        return "".join(f"\n  {self.name} | {line}" for line in lines[-25:] if line.strip())


def launch(command: Sequence[str], workers: int, servers: int = 1, patience: float = 5.0) -> int:
    """Run ``command`` as ``workers`` workers of one cluster on this machine, and wait for all of them.

    Rank 0 writes where this process does; what the others wrote is shown if they fail. SIGINT, SIGTERM and SIGHUP
    reach the workers, which then stop together; a second signal ends everything at once. When a process dies, the
    others get ``patience`` seconds to end by themselves, and as long again after SIGTERM. Nothing that was started
    outlives this process, on Linux not even where it is killed.

    Returns 0, or the exit code of the first process that failed (128 + n where signal n killed it), as a shell does.
    To be called from the main thread.
    """
    if workers < 1 or servers < 1:
        raise ValueError(f"a cluster of {workers} workers and {servers} servers; it needs at least one of each")
    port, *ports = _free_ports(1 + servers + workers)
    serve = [sys.executable, "-m", "ena24ssd.cluster"]
    names = [
        "scheduler",
        *(f"server {rank}" for rank in range(servers)),
        *(f"worker {rank}" for rank in range(workers)),
    ]
    common = {name: value for name, value in os.environ.items() if not name.startswith(("DMLC_", "PS_"))}
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    common.setdefault("OMP_NUM_THREADS", str(max(cores // workers, 1)))
    processes: list[_Process] = []
    received: list[int] = []

    def forward(number: int, _frame: object = None) -> None:
        received.append(number)
        for process in processes:
            if process.works:
                process.popen.send_signal(_FORWARDED[number])

    before = {number: signal.signal(number, forward) for number in _FORWARDED}
    failed = None
    try:
        for name, own in zip(names, [port, *ports], strict=True):
            role = name.split()[0]
            # ps-lite numbers the processes of one address in the order of their ports, which PORT sets.
            environment = common | role_environment(role, LOOPBACK, port, workers, servers)
            environment |= {"DMLC_NODE_HOST": LOOPBACK, "PORT": str(own)}
            try:
                processes.append(_start(name, command if role == "worker" else serve, environment))
            except OSError as fault:
                _tell(f"cannot start '{shlex.join(command)}': {fault.strerror}")
                return 127
            if received:  # perhaps before this worker was there to hear it
                return 128 + received[0]
        failed = _wait(processes, received, patience)
    finally:
        _end(processes, _FAREWELL if failed is None and not received else 0.0, 0.0 if len(received) > 1 else patience)
        for number, handler in before.items():
            signal.signal(number, handler)
        words = failed.last_words() if failed else ""
        for process in processes:
            if process.output:
                process.output.close()
    if failed is None:
        return 0
    code = failed.popen.returncode
    if not received:
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        _tell(f"{failed.name} (process {failed.popen.pid}) {how}; all others were ended.{words}")
    return 128 - code if code < 0 else code


def _start(name: str, command: Sequence[str], environment: dict[str, str]) -> _Process:
    output = None if name == "worker 0" else tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
    parent, prctl = os.getpid(), ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    def bind_to_parent() -> None:
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # it died before that was said
                os._exit(1)

    popen = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C of a terminal goes to this process alone, which forwards it to the workers
        preexec_fn=bind_to_parent,
    )
    return _Process(name, popen, output)


def _wait(processes: Sequence[_Process], received: Sequence[int], patience: float) -> _Process | None:
    """Until all workers have ended, or one process has failed and the others had their time. The first that failed."""
    failed, limit = None, float("inf")
    while True:
        working = any([process.works and process.runs() for process in processes])
        if failed is None:
            fallen = [process for process in processes if process.popen.poll()]
            if fallen:
                failed = max(fallen, key=lambda process: process.works)  # at one time: a worker is the likelier cause
                limit = time.monotonic() + (_LAST_STEP if received else patience)
        if not working or time.monotonic() > limit or len(received) > 1:
            return failed
        time.sleep(0.1)


def _end(processes: Sequence[_Process], farewell: float, patience: float) -> None:
    """Leave no process: wait, then SIGTERM, then SIGKILL, with so many seconds in between."""
    _join(processes, farewell)
    for process in processes:
        if process.runs():
            process.popen.terminate()
    _join(processes, patience)
    for process in processes:
        if process.runs():
            os.killpg(process.popen.pid, signal.SIGKILL)  # it leads its session, with whatever it started
    for process in processes:
        process.popen.wait()


def _join(processes: Sequence[_Process], seconds: float) -> None:
    limit = time.monotonic() + seconds
    while any(process.runs() for process in processes) and time.monotonic() < limit:
        time.sleep(0.05)


def _free_ports(count: int) -> list[int]:
    """Ports on loopback that are free now, in rising order."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind((LOOPBACK, 0))
        return sorted(probe.getsockname()[1] for probe in probes)
    finally:
        for probe in probes:
            probe.close()


def _tell(message: str) -> None:
    print(f"ena24ssd: {message}", file=sys.stderr, flush=True)


def _serve() -> None:
    """Be what DMLC_ROLE says."""
    membership = read_membership(os.environ)
    if membership.role == "worker":
        raise EngineError(f"DMLC_ROLE is 'worker': start the training itself with it. {HOW}")
    del os.environ["DMLC_ROLE"]  # else `import mxnet` would itself be the server, and watch nobody
    importlib.import_module("ena24ssd.gluon.cluster").serve(membership)


def main(arguments: Sequence[str] | None = None) -> int:
    """Start a cluster on this machine (``--workers``), or be its scheduler or a server (``DMLC_ROLE``)."""
    parser = argparse.ArgumentParser(
        prog="python -m ena24ssd.cluster", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, metavar="N", help="start COMMAND N times, as the workers of one cluster")
    parser.add_argument("--servers", type=int, default=1, metavar="N", help="servers that hold the sums (1)")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what a worker runs, after --")
    options = parser.parse_args(arguments)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    try:
        if options.workers is None:
            if command:
                parser.error("--workers is missing: how many of the command?")
            _serve()
            return 0
        if not command or options.workers < 1 or options.servers < 1:
            parser.error("name a command after --, and at least one worker and one server")
        return launch(command, options.workers, options.servers)
    except EngineError as fault:
        _tell(str(fault))
        return 2


if __name__ == "__main__":
    sys.exit(main())
