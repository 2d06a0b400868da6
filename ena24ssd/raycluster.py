"""What of a Ray cluster is ours to work with?"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

from ena24ssd.engine import EngineError

THREADS = 4  # cores of a worker, where its machine has twice as many

ROOM = 2**28  # bytes of shared memory for a Ray of our own: for the network, and what was found in some shards


@dataclass(frozen=True)
class Pool:
    """Of how many workers, and with what each."""

    workers: int
    threads: int  # cores
    gpus: int


@contextmanager
def connected(
    address: str | None, workers: int | None, threads: int | None, device: str | Sequence[str]
) -> Iterator[Pool]:
    """Ray, and what of it is ours. Raises EngineError."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # else whoever waits for a row when it ends starts another one
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if address.startswith("ray://"):
        raise EngineError(
            f"{address}: is for Ray Client, which this is not; give host:port of the head on a machine of the cluster"
        )
    is_ours = address == "local" and not (sys.modules.get("ray") and sys.modules["ray"].is_initialized())
    if is_ours:  # whoever reaches its ports could do anything in our name
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # so on Linux too it listens on loopback only
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else Ray leaves one in the home folder
    require("ray.data")
    import ray

    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(sys.stderr))  # Ray says there what becomes of workers
        if not ray.is_initialized():
            place: dict[str, Any] = {}
            if is_ours:
                cores = os.cpu_count() or 1
                threads = threads or _suiting(cores)
                slots = (workers or max(cores // threads, 1)) * threads
                place = {"num_cpus": slots + 1, "object_store_memory": ROOM, "include_dashboard": False}
                place["_temp_dir"] = stack.enter_context(_short_folder())
                workers = None  # as there is room for
            try:
                with _quietly():
                    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **place)
            except (ConnectionError, RuntimeError, ValueError, TimeoutError) as fault:
                raise EngineError(
                    f"no Ray at {address} ({_last_line(fault)}); 'ray status' on its head says whether it is there"
                ) from fault
            stack.callback(ray.shutdown)
        yield _measure([node["Resources"] for node in ray.nodes() if node["Alive"]], workers, threads, device)


def _measure(
    nodes: Sequence[Mapping[str, float]], workers: int | None, threads: int | None, device: str | Sequence[str]
) -> Pool:
    """How many workers fit, and with what each. Raises EngineError where not one does."""
    said = {each.partition(":")[0] for each in ([device] if isinstance(device, str) else device)}
    has_gpus = any(node.get("GPU", 0) >= 1 for node in nodes)
    gpus = int("gpu" in said or ("auto" in said and has_gpus))
    cores = [int(node.get("CPU", 0)) for node in nodes]
    threads = threads or _suiting(min((count for count in cores if count), default=1))
    slots = sum(
        min(count // threads, int(node.get("GPU", 0)) // gpus if gpus else count) for node, count in zip(nodes, cores)
    )
    if workers is None:
        if not slots:
            what = "a GPU" if gpus and not has_gpus else f"{threads} cores" + (" and a GPU" if gpus else "")
            raise EngineError(
                f"no machine of the cluster has {what} for a worker; --device cpu and fewer --threads ask for less, "
                "and where machines come when they are needed, --ray-workers says for how many to ask"
            )
        workers = max(slots - (slots * threads >= sum(cores)), 1)  # Ray's own tasks want a core, or nothing moves
    return Pool(workers, threads, gpus)


def _suiting(cores: int) -> int:
    """Threads of a worker on a machine with so many: two at least shall fit, one reads while the other computes."""
    return min(THREADS, max(cores // 2, 1))


@contextmanager
def _quietly() -> Iterator[None]:
    """Nothing on stderr, not even by who does not ask Python: Ray tells there of its log levels."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def _short_folder() -> Iterator[str]:
    """A folder for Ray's sockets, whose names must not be long, and its logs; gone afterwards."""
    place = "/tmp" if os.path.isdir("/tmp") else None
    folder = tempfile.mkdtemp(prefix="ena24ssd-ray-", dir=place)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def require(module: str) -> None:
    """Raise EngineError unless this module can be imported."""
    try:
        __import__(module)
    except ImportError as fault:  # PyArrow's too, of a NumPy that it is too new for
        raise EngineError(
            f"a cluster or an object store takes Ray ({_last_line(fault)}): pip install 'ena24ssd[ray]'"
        ) from fault


def translate(fault: BaseException) -> EngineError:
    return EngineError(
        f"Ray gave up: {_last_line(fault)}. ena24ssd, with the same engine, must be installed on every machine; "
        "finished shards stay, and --resume goes on"
    )


def _last_line(fault: BaseException) -> str:
    return ([line.strip() for line in str(fault).splitlines() if line.strip()] or [type(fault).__name__])[-1]
