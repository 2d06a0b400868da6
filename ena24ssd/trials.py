"""How does a process tell what it tries, if it may not outlive it?

Each engine's ``health`` is such a process: ``python -m ena24ssd.ENGINE.health STARTED PROBE...``, started by
`ena24ssd.probes`. A CUDA wheel on a card it holds no code for may compile for a quarter of an hour, and a library of
the wrong version takes its process down with it. STARTED is the time of the start in seconds since the epoch; a probe
is ``cpu``, ``cores``, ``board``, ``gpus`` (every GPU that the framework sees) or ``gpu:N`` (one that has to work).

Every line on stdout is one JSON object, written at once: before each trial ``{"probe", "what"}``, so that the last such
line names the culprit when nothing follows it; then its finding ``{"what", "state", "detail", "way_out"}``, where an
empty way out leaves it to the doctor. A last line with the probe ``""`` says that there is no more to come.

What both engines try alike, and how it is judged, is here too.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

SLOW = 30.0  # seconds for a first operation on a GPU: libraries load in less, so a compiler has been at work
CGROUP = Path("/sys/fs/cgroup")

Judgement = tuple[str, str, str]  # state, detail, way out, as in `ena24ssd.findings.Finding`
Trial = Callable[[], Judgement]  # may raise


def report_trials(
    arguments: Sequence[str], trials: Callable[[str], Iterator[tuple[str, Trial]]], describe: Callable[[Exception], str]
) -> None:
    """Try what the probes among the command line's ``arguments`` ask for, and print what comes of it.

    ``trials``: what a probe tries, by name, one thing after another. ``describe``: what a fault says, in one line.
    """
    started, *probes = arguments
    seconds = time.time() - float(started)
    _print(what="engine can be imported", state="ok", detail=f"in {seconds:.1f} s, Python's start included", way_out="")
    for probe in probes:
        for what, trial in trials(probe):
            _print(probe=probe, what=what)
            try:
                state, detail, way_out = trial()
            except Exception as fault:  # whatever it is, the next one has its turn
                state, detail, way_out = "cannot work", f"{type(fault).__name__}: {describe(fault)}", ""
            _print(what=what, state=state, detail=detail, way_out=way_out)
    _print(probe="", what="")


def _print(**row: str) -> None:
    print(json.dumps(row), flush=True)


def first_line(fault: Exception) -> str:
    """What most faults say of themselves."""
    return _lines(fault)[0]


def last_line(fault: Exception) -> str:
    """What a fault says that shows its stack first."""
    return _lines(fault)[-1]


def _lines(fault: Exception) -> list[str]:
    return [line.strip() for line in str(fault).splitlines() if line.strip()] or [""]


def judge_gradient(first: float, again: float, is_right: bool) -> Judgement:
    """A gradient on the CPU, by the seconds that it took."""
    times = _times(first, again)
    return ("ok", times, "") if is_right else ("cannot work", f"a wrong result, in {times}", "")


def judge_gpu(first: float, again: float, is_right: bool) -> Judgement:
    """A gradient on a GPU, where ``first`` includes whatever had to be made ready."""
    if is_right and first > SLOW:
        words = f"{_times(first, again)}: this wheel holds no code for the card and compiles it at every start"
        return "doubtful", words, ""
    return judge_gradient(first, again, is_right)


def judge_driver(count: int, fault: str | None) -> Judgement:
    """How many GPUs the framework sees, or why it sees none."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    said = "" if chosen is None else f"; CUDA_VISIBLE_DEVICES is '{chosen}'"
    if count:
        return "ok", f"{count}{said}", ""
    return "doubtful", f"{fault}{said}", "" if chosen is None else "unset CUDA_VISIBLE_DEVICES"


def _times(first: float, again: float) -> str:
    first_words, again_words = (f"{time * 1000:.0f} ms" if time < 1 else f"{time:.1f} s" for time in (first, again))
    return f"{first_words}, again in {again_words}"


def judge_cores(threads: int, wanted: int, work: Callable[[], object]) -> Judgement:
    """The number of threads, held against that ``wanted`` where nobody says one, and whether they get their cores."""
    quota = _quota()
    if quota is not None and threads > math.ceil(quota):
        crowded = f"{threads} threads share the {quota:g} cores that the container may use: they wait for each other"
        return "doubtful", crowded, f"export OMP_NUM_THREADS={max(int(quota), 1)}"
    allowed = wanted if quota is None else max(min(wanted, int(quota)), 1)
    if threads < allowed:
        return "doubtful", f"{threads} of {allowed}, as OMP_NUM_THREADS says", "unset OMP_NUM_THREADS"
    busy = _busy_cores(work)
    if busy < threads / 2:
        others = f"{threads} threads got {busy:.1f} cores' worth of time: other programs want them too"
        return "doubtful", others, "See with 'top' what else is running, and wait for it or end it"
    return "ok", f"{threads} threads kept {busy:.1f} cores busy", ""


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


def _busy_cores(work: Callable[[], object]) -> float:
    """How many cores some work keeps busy that uses every thread."""
    work()  # starts the threads
    wall, used = time.perf_counter(), time.process_time()
    while time.perf_counter() < wall + 0.3:
        work()
    return (time.process_time() - used) / (time.perf_counter() - wall)


def judge_board(open_board: Callable[[Path], Any], open_events: Callable[[str], Any]) -> Judgement:
    """Write an event file as training does, and read it as TensorBoard does.

    ``open_board`` makes an `ena24ssd.engine.Board` in a folder, ``open_events`` is TensorBoard's EventAccumulator.
    """
    with tempfile.TemporaryDirectory() as folder:
        board = open_board(Path(folder))
        board.scalars("loss", {"train": 0.5}, 3)
        board.histogram("weight", np.ones(4, np.float32), 3)
        board.picture("picture", np.zeros((4, 4, 3), np.uint8), 3)
        board.graph()
        board.close()
        found: set[float] = set()
        kinds: set[str] = set()
        for file in sorted(Path(folder).rglob("*tfevents*")):
            events = open_events(str(file))
            events.Reload()
            tags = events.Tags()
            found |= {point.value for tag in tags["scalars"] for point in events.Scalars(tag) if point.step == 3}
            kinds |= {kind for kind, some in tags.items() if some}
    missing = {"scalars", "histograms", "images", "graph"} - kinds
    if found != {0.5} or missing:
        return "cannot work", f"it found values {sorted(found)} for 0.5, and no {', '.join(sorted(missing))}", ""
    return "ok", "a curve, a histogram, a picture and a graph", ""
