"""Which of MXNet's works does this machine really do?

``python -m ena24ssd.gluon.health STARTED PROBE...`` is started by `ena24ssd.doctor`, in a process of its own: a CUDA
wheel on a card it holds no code for may compile for a quarter of an hour, and a library of the wrong version takes its
process down with it. STARTED is the time of the start in seconds since the epoch; a probe is ``cpu``, ``cores``,
``board``, ``gpus`` (every GPU that MXNet sees) or ``gpu:N`` (one that has to work).

Every line on stdout is one JSON object, written at once: before each trial ``{"probe", "what"}``, so that the last such
line names the culprit when nothing follows it; then its finding ``{"what", "state", "detail", "way_out"}``, where an
empty way out leaves it to the doctor. A last line with the probe ``""`` says that there is no more to come.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mxnet
from mxnet import autograd, np, npx
from mxnet.gluon import nn

from ena24ssd.gluon import use_all_cores
from ena24ssd.gluon.devices import CPU_HINT, check_gpu

SLOW = 30.0  # seconds for a first operation: libraries load in less, so a compiler has been at work
CGROUP = Path("/sys/fs/cgroup")

Trial = Callable[[], tuple[str, str, str]]  # gives state, detail, way out; or raises


def main(arguments: list[str]) -> None:
    started, *probes = arguments
    seconds = time.time() - float(started)
    _print(what="engine can be imported", state="ok", detail=f"in {seconds:.1f} s, Python's start included", way_out="")
    for probe in probes:
        for what, trial in _trials(probe):
            _print(probe=probe, what=what)
            try:
                state, detail, way_out = trial()
            except Exception as fault:  # whatever it is, the next one has its turn
                state, detail, way_out = "cannot work", _describe(fault), ""
            _print(what=what, state=state, detail=detail, way_out=way_out)
    _print(probe="", what="")


def _print(**row: str) -> None:
    print(json.dumps(row), flush=True)


def _trials(probe: str) -> Iterator[tuple[str, Trial]]:
    """What a probe tries, one thing after another."""
    if probe == "cpu":
        yield "CPU: a gradient", _try_cpu
    elif probe == "cores":
        yield "CPU: cores in use", _try_cores
    elif probe == "board":
        yield "TensorBoard reads mxboard", _try_board
    elif probe != "gpus":
        index = int(probe.partition(":")[2] or 0)
        yield f"gpu:{index}: a gradient", lambda: _try_gpu(index, "cannot work")
    elif mxnet.runtime.Features().is_enabled("CUDA"):
        yield "GPUs that MXNet sees", _try_driver
        for index in range(_gpu_count()):
            yield f"gpu:{index}: a gradient", lambda index=index: _try_gpu(index, "doubtful")


def _try_cpu() -> tuple[str, str, str]:
    (first, right), (second, _) = _gradient(mxnet.cpu()), _gradient(mxnet.cpu())
    times = f"{_time(first)}, again in {_time(second)}"
    return ("ok", times, "") if right else ("cannot work", f"a wrong result, in {times}", "")


def _try_gpu(index: int, failure: str) -> tuple[str, str, str]:
    started = time.perf_counter()
    fault = check_gpu(index)
    if fault is not None:
        return failure, fault.removesuffix(f", {CPU_HINT}"), ""
    product = time.perf_counter() - started
    (first, right), (second, _) = _gradient(mxnet.gpu(index)), _gradient(mxnet.gpu(index))
    times = f"{_time(product + first)}, again in {_time(second)}"
    if not right:
        return "cannot work", f"a wrong result, in {times}", ""
    if product + first > SLOW:
        return "doubtful", f"{times}: this wheel holds no code for the card and compiles it at every start", ""
    return "ok", times, ""


def _try_driver() -> tuple[str, str, str]:
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    said = "" if chosen is None else f"; CUDA_VISIBLE_DEVICES is '{chosen}'"
    count = _gpu_count()
    if count:
        return "ok", f"{count}{said}", ""
    fault = (check_gpu(0) or "none").removesuffix(f", {CPU_HINT}")
    return "doubtful", f"{fault}{said}", "" if chosen is None else "unset CUDA_VISIBLE_DEVICES"


def _gpu_count() -> int:
    try:
        return mxnet.context.num_gpus()
    except mxnet.MXNetError:  # the driver does not answer; `check_gpu` says so
        return 0


def _gradient(context: mxnet.Context) -> tuple[float, bool]:
    """Seconds of a convolution and its gradient on ``context``, and whether the result is right."""
    started = time.perf_counter()
    images, weight = np.ones((4, 3, 32, 32), ctx=context), np.ones((8, 3, 3, 3), ctx=context)
    weight.attach_grad()
    with autograd.record():
        total = npx.convolution(images, weight, kernel=(3, 3), num_filter=8, no_bias=True).sum()
    total.backward()
    # Each weight has met 4 x 30 x 30 ones. Fast convolutions round a little, even ones.
    right = abs(float(total) / (4 * 8 * 30 * 30 * 27) - 1) < 1e-3
    right = right and float(abs(weight.grad / (4 * 30 * 30) - 1).max()) < 1e-3
    return time.perf_counter() - started, right


def _try_cores() -> tuple[str, str, str]:
    given = re.match(r"\d+", os.environ.get("OMP_NUM_THREADS", ""))
    if given is None:
        return "ok", "left to MXNet; this system does not say", ""
    threads, wanted, quota = int(given[0]), _threads_wanted(), _quota()
    if quota is not None and threads > math.ceil(quota):
        crowded = f"{threads} threads share the {quota:g} cores that the container may use: they wait for each other"
        return "doubtful", crowded, f"export OMP_NUM_THREADS={max(int(quota), 1)}"
    allowed = wanted if quota is None else max(min(wanted, int(quota)), 1)
    if threads < allowed:
        return "doubtful", f"{threads} of {allowed}, as OMP_NUM_THREADS says", "unset OMP_NUM_THREADS"
    busy = _busy_cores()
    if busy < threads / 2:
        others = f"{threads} threads got {busy:.1f} cores' worth of time: other programs want them too"
        return "doubtful", others, "See with 'top' what else is running, and wait for it or end it"
    return "ok", f"{threads} threads kept {busy:.1f} cores busy", ""


def _threads_wanted() -> int:
    """As many threads as `use_all_cores` chooses where OMP_NUM_THREADS does not."""
    given = os.environ.pop("OMP_NUM_THREADS")
    use_all_cores()
    wanted = os.environ.get("OMP_NUM_THREADS", given)
    os.environ["OMP_NUM_THREADS"] = given
    return int(wanted)


def _quota() -> float | None:
    """The cores a container may keep busy, where it is limited; a container sees its own control group at the root."""
    try:
        share, period = (CGROUP / "cpu.max").read_text().split()  # version 2
    except (OSError, ValueError):
        try:
            share, period = ((CGROUP / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        except OSError:
            return None
    limited = share.strip().isdigit()  # else 'max', or -1
    return int(share) / int(period) if limited else None


def _busy_cores() -> float:
    """How many cores a product of matrices keeps busy."""
    left = np.ones((1024, 1024))
    np.dot(left, left).wait_to_read()  # starts the threads
    wall, used = time.perf_counter(), time.process_time()
    while time.perf_counter() < wall + 0.3:
        np.dot(left, left).wait_to_read()
    return (time.process_time() - used) / (time.perf_counter() - wall)


def _try_board() -> tuple[str, str, str]:
    """Write an event file as training does, and read it as TensorBoard does."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from ena24ssd.gluon.board import MxBoard  # not above: mxboard may be what breaks

    net = nn.HybridSequential()
    net.add(nn.Dense(1))
    net.initialize()
    net.hybridize()
    net(np.ones((1, 2))).wait_to_read()
    with tempfile.TemporaryDirectory() as folder:
        board = MxBoard(Path(folder), net)
        board.scalars("loss", {"train": 0.5}, 3)
        board.histogram("weight", np.ones(4).asnumpy(), 3)
        board.picture("picture", np.zeros((4, 4, 3), dtype="uint8").asnumpy(), 3)
        board.graph()
        board.close()
        found: set[float] = set()
        kinds: set[str] = set()
        for file in sorted(Path(folder).rglob("*tfevents*")):
            events = EventAccumulator(str(file))
            events.Reload()
            tags = events.Tags()
            found |= {point.value for tag in tags["scalars"] for point in events.Scalars(tag) if point.step == 3}
            kinds |= {kind for kind, some in tags.items() if some}
    missing = {"scalars", "histograms", "images", "graph"} - kinds
    if found != {0.5} or missing:
        return "cannot work", f"it found values {sorted(found)} for 0.5, and no {', '.join(sorted(missing))}", ""
    return "ok", "a curve, a histogram, a picture and a graph", ""


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _describe(fault: Exception) -> str:
    """The kind of the fault, and the line that says most: the first, but MXNet's last, below its stack."""
    lines = [line.strip() for line in str(fault).splitlines() if line.strip()] or [""]
    return f"{type(fault).__name__}: {lines[-1 if isinstance(fault, mxnet.MXNetError) else 0]}"


if __name__ == "__main__":
    main(sys.argv[1:])
