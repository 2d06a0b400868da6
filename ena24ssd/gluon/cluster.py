"""How do several workers act as one?

MXNet's own parameter server does the arithmetic: what every worker pushes under a key comes back to all of them as one
float32 sum. What it lacks is an end: left alone, the processes wait for one that died for ever. So the scheduler, the
only process that hears every heartbeat, ends with the first worker or server that falls silent, and every other process
ends with the scheduler.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import mxnet
import numpy
from mxnet import autograd, np
from mxnet.base import _LIB, KVStoreHandle, check_call

from ena24ssd.cluster import Membership, prepare_environment, read_membership
from ena24ssd.engine import EngineError

FIRST_KEY = 1 << 20  # a store's keys are all of one type, and gluon.Trainer numbers its parameters from 0
SCHEDULER = 1  # node ids are ps-lite's
RESUME = "The last checkpoint of worker 0 is kept: start all again, every worker with 'ena24ssd train --resume RUN'."


def join_cluster() -> Cluster:
    """Become one of the workers that the DMLC_* variables describe; returns when all processes are there.

    Raises EngineError where a variable is missing or wrong, or the others do not come within
    ENA24SSD_CLUSTER_SILENCE seconds. To be left with `Cluster.close`: a process that ends any other way counts as
    failed, ends with code 1 without waiting for anybody, and so ends the others.
    """
    membership = read_membership(os.environ)
    if membership.role != "worker":
        raise EngineError(f"DMLC_ROLE is '{membership.role}': only a worker trains. Start it with DMLC_ROLE=worker")
    prepare_environment(membership)
    atexit.register(_fall)  # MXNet's own end of a worker waits for the others
    answers: queue.Queue = queue.Queue()
    # Not in this thread: the wait is inside MXNet, where no signal would be heard.
    threading.Thread(target=_create_store, args=(answers,), name="join cluster", daemon=True).start()
    expected = (
        f"the scheduler at {membership.host}:{membership.port}, {membership.servers} server(s) and "
        f"{membership.workers} worker(s) in all"
    )
    deadline, patient = time.monotonic() + membership.silence, time.monotonic() + 10
    while True:
        try:
            answer = answers.get(timeout=0.2)
            break
        except queue.Empty:
            if time.monotonic() > deadline:
                raise EngineError(
                    f"no cluster after {membership.silence} s (ENA24SSD_CLUSTER_SILENCE): {expected} must be "
                    "started, with the same DMLC_* variables, and reach each other"
                ) from None
            if time.monotonic() > patient:
                _tell(f"waiting for {expected}; Ctrl-C ends the wait")
                patient = deadline
    if isinstance(answer, Exception):
        atexit.unregister(_fall)
        raise EngineError(f"cannot join the cluster: {answer}")
    return Cluster(answer, membership)


class SettledStore(mxnet.kvstore.KVStore):
    """MXNet's ``dist_sync`` store, without its race between a parameter's first value and its first gradient.

    Nothing makes a push wait for a pull that came before it: the server may answer the pull with the sum of gradients,
    and gluon.Trainer then takes that for the parameter.
    """

    def __init__(self):
        handle = KVStoreHandle()
        check_call(_LIB.MXKVStoreCreate(b"dist_sync", ctypes.byref(handle)))
        super().__init__(handle)

    def broadcast(self, key, value, out, priority=0):
        super().broadcast(key, value, out, priority)
        for array in out if isinstance(out, list) else [out]:
            array.wait_to_read()


class Cluster:
    """One worker's view of all of them. Every worker must make the same calls in the same order."""

    def __init__(self, kvstore: mxnet.kvstore.KVStore, membership: Membership):
        self.kvstore = kvstore  # for gluon.Trainer(..., kvstore=cluster.kvstore, update_on_kvstore=False)
        self.rank: int = kvstore.rank  # 0..workers-1
        self.workers: int = kvstore.num_workers
        self._membership = membership
        self._buffers: dict[tuple, tuple[int, np.ndarray]] = {}
        self._awaited: float | None = None  # since when
        self._open, self._closed, self._lock = True, threading.Event(), threading.Lock()
        threading.Thread(target=self._watch, name="cluster watch", daemon=True).start()

    def agree(self, values: numpy.ndarray) -> numpy.ndarray:
        """The float64 sum of every worker's ``values`` (any one shape), the same to the bit on each of them.

        Waits for all workers. Meant for small vectors. The sum is in the order of the ranks, whoever came first.
        """
        values = numpy.array(values, dtype=numpy.float64, order="C")
        if values.size == 0:
            return values
        # MXNet's servers sum in float32 and in the order of arrival. So each worker fills its own row of a table of
        # zeros, with numbers that float32 holds: the four 16-bit words of every value.
        words = numpy.zeros((self.workers, values.size * 4), dtype=numpy.float32)
        words[self.rank] = values.reshape(-1).view(numpy.uint16)
        with self.awaiting():
            words = self.add_up(np.array(words, ctx=mxnet.cpu())).asnumpy()
        table = words.astype(numpy.uint16).view(numpy.float64)  # (workers, size)
        return table.sum(axis=0).reshape(values.shape)

    def add_up(self, array: np.ndarray) -> np.ndarray:
        """The sum of every worker's ``array``, on its device and of its dtype. Nothing waits: it is one more operation.

        Only the first call for a shape, dtype and device meets the others at once. The sum is made in float32,
        whatever the dtype; with three workers and more, its last bits may depend on who came first.
        """
        kind = (array.shape, str(array.dtype), str(array.ctx))
        with autograd.pause():
            if kind not in self._buffers:
                # One buffer per key for good: MXNet orders operations by the arrays they touch, and two sums under one
                # key must not overtake each other. The store also overwrites what is pushed.
                number, buffer = FIRST_KEY + len(self._buffers), np.zeros_like(array).reshape(-1)
                with self.awaiting():
                    self.kvstore.init(number, buffer)
                self._buffers[kind] = number, buffer
            number, buffer = self._buffers[kind]
            buffer[:] = array.reshape(-1)
            self.kvstore.pushpull(number, buffer)
            return buffer.copy().reshape(array.shape)

    def share(self, array: np.ndarray) -> np.ndarray:
        """Rank 0's ``array`` (any values of a float32), for every worker; nothing waits.

        For weights and optimizer states before the first step: gluon.Trainer itself shares rank 0's weights only in
        its first step, after the others have made gradients with their own.
        """
        return self.add_up(array if self.rank == 0 else np.zeros_like(array))

    @contextmanager
    def awaiting(self) -> Iterator[None]:
        """While this lasts, the answer of the others is awaited: for ENA24SSD_CLUSTER_SILENCE seconds, then it ends.

        For the places that read a result which depends on the others, such as a step's sums.
        """
        before, self._awaited = self._awaited, time.monotonic()
        try:
            yield
        finally:
            self._awaited = before

    def close(self) -> None:
        """Wait until every worker has come to this call, and leave; scheduler and servers end with the last worker.

        Afterwards the kvstore must not be used.
        """
        if not self._open:
            return
        with self.awaiting():
            mxnet.npx.waitall()
            check_call(_LIB.MXKVStoreBarrier(self.kvstore.handle))
            with self._lock:
                self._open, self._awaited = False, time.monotonic()
            self._buffers.clear()
            # Here, not when the last reference goes: this waits for the others, and somebody must watch it.
            check_call(_LIB.MXKVStoreFree(self.kvstore.handle))
            self.kvstore.handle = KVStoreHandle()  # freeing this again is nothing
        self._closed.set()
        atexit.unregister(_fall)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()

    def _watch(self) -> None:
        """End this process when the scheduler, and so the cluster, is gone."""
        place = self._membership
        who = f"worker {self.rank} of {self.workers}"
        while not self._closed.wait(1.0):
            with self._lock:
                dead = self._open and _is_dead(self.kvstore, SCHEDULER, place.timeout)
            if dead:
                _end(
                    f"{who} ends: the scheduler at {place.host}:{place.port} has not answered for {place.timeout} s. "
                    f"It ends with the first worker or server that dies, and its output says which. {RESUME}"
                )
            since, limit = self._awaited, place.silence if self._open else 2 * place.timeout
            if since is not None and time.monotonic() - since > limit:
                _end(
                    f"{who} ends: the others did not answer for {limit} s, though the scheduler hears them all. "
                    f"Where a worker may take longer, raise ENA24SSD_CLUSTER_SILENCE (seconds). {RESUME}"
                )


def serve(membership: Membership) -> None:
    """Be the scheduler or a server until the workers have left. The process ends with code 1 when one of them dies."""
    prepare_environment(membership)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the wait is inside MXNet, where Python hears no signal
    os.environ["DMLC_ROLE"] = membership.role
    kvstore = mxnet.kvstore.create("dist")
    done = threading.Event()
    watch = threading.Thread(target=_watch_others, args=(kvstore, membership, done), name="cluster watch", daemon=True)
    watch.start()
    check_call(_LIB.MXKVStoreRunServer(kvstore.handle, _refuse, None))
    done.set()


def _others_of(membership: Membership) -> dict[int, str]:
    """Whose heartbeats this process hears: name by ps-lite's node id."""
    if membership.role == "server":
        return {SCHEDULER: f"the scheduler at {membership.host}:{membership.port}"}
    servers = {8 + 2 * rank: f"server {rank} of {membership.servers}" for rank in range(membership.servers)}
    return servers | {9 + 2 * rank: f"worker {rank} of {membership.workers}" for rank in range(membership.workers)}


def _watch_others(kvstore: mxnet.kvstore.KVStore, membership: Membership, done: threading.Event) -> None:
    """End this process when one of those that it hears falls silent."""
    # ps-lite reports nobody before that time has passed, and must not be asked before it has started.
    wait = float(membership.timeout)
    while not done.wait(wait):
        wait = 1.0
        for node, name in _others_of(membership).items():
            try:
                dead = _is_dead(kvstore, node, membership.timeout)
            except mxnet.MXNetError:  # all have left a moment ago, and MXNet has forgotten who they were
                return
            if dead and not done.is_set():
                _end(
                    f"the {membership.role} ends, and the workers with it: {name} has not answered for "
                    f"{membership.timeout} s; it died, or its machine or the network is down. {RESUME}"
                )


def _is_dead(kvstore: mxnet.kvstore.KVStore, node: int, timeout: int) -> bool:
    count = ctypes.c_int()
    check_call(_LIB.MXKVStoreGetNumDeadNode(kvstore.handle, node, ctypes.byref(count), timeout))
    return count.value > 0


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def _refuse(command: int, _body: bytes, _handle: int) -> None:
    """MXNet's own server unpickles what it is sent: whoever reaches its port could run code. This training needs it
    for nothing."""
    _tell(f"refused command {command} to the server: only sums are served here")


def _create_store(answers: queue.Queue) -> None:
    try:
        answers.put(SettledStore())
    except Exception as fault:
        answers.put(fault)


def _tell(message: str) -> None:
    os.write(2, f"\nena24ssd: {message}\n".encode())  # not through a buffer that another thread may hold


def _end(message: str) -> None:
    _tell(message)
    os._exit(1)  # nothing less ends a thread that waits inside MXNet


def _fall() -> None:
    """The end of a worker that did not close its cluster: the error is already told."""
    try:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    finally:
        os._exit(1)
