"""How many pictures fit into memory at once?

The network is tried on made-up pictures, one at first and then twice as many each time, each time in a process of its
own: one that runs out of memory, or is ended by the system for taking too much, harms nobody, and all it took is given
back. A trial is an epoch in small: a batch, the smaller one at an epoch's end, measuring, a batch again: MXNet keeps
part of what other numbers of pictures took, and the first batch alone would promise too much.

On a CPU memory grows with the pictures along a straight line. It is followed, so that a trial stays below the limit,
and drawn on where trials would take too long. On a GPU a trial that does not fit fails, and the search goes on between
the last that ran and the first that did not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from ena24ssd.config import RunConfig, change_config, check_config
from ena24ssd.data import Batch
from ena24ssd.engine import Engine, EngineError, load_engine
from ena24ssd.memory import available_memory, is_shortage, peak_memory
from ena24ssd.programs import lone_environment
from ena24ssd.stages import stage_of

LARGEST = 1024  # pictures an update: more of them would make too few updates
SHARE = 0.8  # of the memory that is free on a CPU: the rest is for the pictures' cache, and for others
LEFT_OVER = 0.1  # of what was found, where the limit itself was not measured against
BUDGET = 300.0  # seconds for all trials together
PATIENCE = 600.0  # seconds until a trial counts as hung, at least: loading a framework for a GPU may take minutes
CHILD = (sys.executable, "-m", "ena24ssd.fitting")


class FitError(ValueError):
    """No batch could be found; the message says why, and to name one."""


@dataclass(frozen=True)
class Trial:
    """What became of so many pictures at once on one device."""

    pictures: int
    peak: int | None  # bytes, the most there were; None where it did not get that far
    seconds: float
    failure: str | None = None  # why it did not fit, where it did not


@dataclass(frozen=True)
class Fit:
    """How many pictures fit, and how that was found."""

    batch: int  # for train.batch: over all devices and portions
    pictures: int  # on one device at once
    device: str  # that was tried
    per_picture: float | None  # bytes; None where no line could be drawn
    fixed: float | None  # bytes besides
    limit: int | None  # bytes that one device may fill; None on a GPU, which has its own
    is_tried: bool  # whether so many pictures at once have been tried; else the line was drawn on to them
    trials: tuple[Trial, ...]

    def __str__(self) -> str:
        words = f"train.batch is {self.batch}: {self.pictures} pictures at once on {self.device}"
        if self.per_picture is not None and self.fixed is not None:
            need = self.fixed + self.pictures * self.per_picture
            words += f" take {_gb(need)} ({self.per_picture / 1e6:.3g} MB a picture, {_gb(max(self.fixed, 0))} besides)"
        if self.limit is not None:
            words += f" of {_gb(self.limit)}"
        tried = ", ".join(str(trial.pictures) + (" (too many)" if trial.failure else "") for trial in self.trials)
        return f"{words}; tried {tried}" + ("" if self.is_tried else "; more would have taken too long to try")


def find_batch(config: RunConfig, class_count: int, max_boxes: int, limit: int, *, quiet: bool = False) -> Fit:
    """The largest joint batch that fits, but no more than ``limit`` (the pictures there are to learn from).

    What counts is how many pictures a device sees at once; they are tried on the first of the configured devices, and
    the others are believed to be like it. On a CPU the limit is train.memory_gb (and what is free, if that is less), or
    four fifths of what is free where that is null; devices that are CPUs share it.

    Takes about `BUDGET` seconds at most. Raises FitError where not even one picture fits or a trial fails for another
    reason than memory, EngineError where the engine cannot be made.
    """
    devices = 1 if isinstance(config.device, str) else len(config.device)
    portions = devices * config.train.accumulate
    most = max(1, min(limit, LARGEST) // portions)
    first = config.device if isinstance(config.device, str) else config.device[0]
    alone = {"device": first, "train.batch": 1, "train.accumulate": 1, "loss.species_weights": "equal"}
    alone["compile"] = "eager"  # to compile takes longer than a trial, and less memory afterwards
    choices = change_config(config, alone).model_dump(mode="json")
    task = {"config": choices, "class_count": class_count, "max_boxes": max_boxes}
    free = available_memory()
    memory = int(SHARE * free) if config.train.memory_gb is None else int(min(config.train.memory_gb * 1e9, free))
    search = Search(task, memory // devices, (lambda line: None) if quiet else tqdm.write)
    pictures, is_tried = search.run(most)
    slope, fixed = search.line() or (None, None)
    return Fit(
        batch=max(1, min(pictures * portions, limit)),
        pictures=pictures,
        device=search.device,
        per_picture=slope,
        fixed=fixed,
        limit=search.limit,
        is_tried=is_tried,
        trials=tuple(search.trials),
    )


class Search:
    """What is known so far, and what to try next."""

    def __init__(self, task: Mapping[str, Any], memory: int, say: Callable[[str], None]):
        self._task, self._memory, self._say = task, memory, say
        self._begun = time.monotonic()
        self._seconds = (0.0, 0.0)  # of the last trial that ran: to get ready, and for each picture
        self._peaks: dict[int, int] = {}  # bytes by pictures, of what ran; 0 is the engine alone
        self._too_many = LARGEST + 1  # the fewest pictures that did not fit
        self.device = ""
        self.limit: int | None = None  # bytes, on a CPU
        self.trials: list[Trial] = []

    def run(self, most: int) -> tuple[int, bool]:
        """The largest number of pictures at once, ``most`` or fewer, and whether it was tried."""
        fits = 0
        while True:
            reach = self._reach()
            bound = min(most, self._too_many - 1, reach)
            if bound <= fits + fits // 8:  # near enough
                is_tight = self.limit is None and self._too_many <= most
                return (max(1, int(fits * (1 - LEFT_OVER))) if is_tight else fits), True
            has_line = self.limit is not None and len(self._peaks) > 3  # three trials, and the engine alone
            more = 2 * fits if self._too_many > most else (fits + self._too_many) // 2
            more = max(fits + 1, min(more, bound))
            if has_line and self._expected(more) + self._expected(bound) > self._left():
                more = bound  # there is no time for steps between
            if fits and self._expected(more) > self._left():
                drawn = max(fits, int(bound * (1 - LEFT_OVER))) if has_line and self._too_many > most else fits
                return drawn, drawn == fits
            if self._take(more):
                fits = more
            elif more == 1:
                raise FitError(
                    f"train.batch=auto: not even 1 picture at once fits ({self.trials[-1].failure}); lower "
                    "data.image_side or custom_conv's model.width, give more with train.memory_gb, or name a number as "
                    "train.batch"
                )

    def line(self) -> tuple[float, float] | None:
        """Bytes a picture and bytes besides, by the largest trial and one of half its size; None where flat."""
        last = max(self._peaks, default=0)
        if not last:
            return None
        before = max(pictures for pictures in self._peaks if pictures <= last // 2)
        slope = (self._peaks[last] - self._peaks[before]) / (last - before)
        return (slope, self._peaks[last] - slope * last) if slope > 0 else None

    def _reach(self) -> int:
        """How many pictures stay below the limit by the line; `LARGEST` where there is no limit or no line yet."""
        line = self.line()
        if self.limit is None or line is None:
            return LARGEST
        slope, fixed = line
        return max(max(self._peaks), min(LARGEST, int((self.limit - fixed) / slope)))

    def _left(self) -> float:
        """Seconds of the budget that are left."""
        return BUDGET - (time.monotonic() - self._begun)

    def _expected(self, pictures: int) -> float:
        """Seconds that a trial would take."""
        ready, each = self._seconds
        return ready + each * pictures

    def _take(self, pictures: int) -> bool:
        """Try so many pictures at once; whether they fit."""
        begun = time.monotonic()
        answer = _ask({**self._task, "pictures": pictures}, PATIENCE + 5 * self._expected(pictures))
        seconds, peak, failure = time.monotonic() - begun, answer.get("peak"), answer.get("failure")
        if answer.get("is_engine"):
            raise EngineError(failure)
        if failure is not None and not answer["is_memory"]:
            raise FitError(
                f"train.batch=auto: a trial with {pictures} pictures failed: {failure}; name a number as train.batch"
            )
        if failure is None:
            self.device = answer["device"]
            self.limit = self._memory if self.device.startswith("cpu") else None
            if self.limit is not None and peak > self.limit:
                failure = f"{_gb(peak)}, and {_gb(self.limit)} are the limit"
        if failure is None:
            self._peaks |= {0: answer["start"], pictures: peak}
            self._seconds = max(0.0, seconds - answer["seconds"]), answer["seconds"] / pictures
        else:
            self._too_many = pictures
        self.trials.append(Trial(pictures, peak, seconds, failure))
        self._say(f"{pictures} at once: " + (failure or f"{_gb(peak)}, {seconds:.0f} s"))
        return failure is None


def _ask(task: Mapping[str, Any], patience: float) -> dict[str, Any]:
    """What becomes of a trial within so many seconds; that the process died or hung is a failure, too."""
    environment = lone_environment()  # a worker of several must not join the others a second time
    try:
        done = subprocess.run(
            CHILD, input=json.dumps(task).encode(), capture_output=True, timeout=patience, env=environment
        )
    except subprocess.TimeoutExpired:  # the process has been ended
        return {"failure": f"it was not done after {patience:.0f} s", "is_memory": True}
    try:
        answer = json.loads(done.stdout)
        if answer.keys() >= {"failure", "is_memory"} or answer.keys() >= {"device", "start", "peak", "seconds"}:
            return answer
    except (ValueError, AttributeError):
        pass
    if done.returncode:
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        said = [line.strip() for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
        last = f": {said[-1][:200]}" if said else ""
        return {"failure": f"the process ended with {how}{last}", "is_memory": True}
    return {"failure": f"the process answered {done.stdout[:80]!r}", "is_memory": False}


def main() -> None:
    """The other process: one trial, told of on the standard input as JSON, and answered likewise."""
    # What the framework prints goes where errors go; the answer has the way out to itself.
    way_out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    _volunteer()
    task = json.load(sys.stdin)
    try:
        answer = _try(check_config(task["config"]), task["class_count"], task["max_boxes"], task["pictures"])
    except Exception as fault:  # whatever it is, the asking process decides
        answer = {
            "failure": str(fault) if isinstance(fault, EngineError) else _in_one_line(fault),
            "is_engine": isinstance(fault, EngineError) and not is_shortage(fault),
            "is_memory": is_shortage(fault),
        }
    with way_out:
        json.dump(answer, way_out)


def _try(config: RunConfig, class_count: int, max_boxes: int, pictures: int) -> dict[str, Any]:
    """An epoch in small, and the next one's beginning."""
    engine = load_engine(config, [f"species {label}" for label in range(class_count)])
    epochs = config.train.epochs
    engine.begin_stage(stage_of(config.optim, epochs - 1, epochs))  # in the last one the most learns
    engine.learning_rate = 1e-12  # made-up pictures must not drive the weights to infinity
    start, begun = _peak(engine), time.monotonic()
    batch = _made_up(config.data.image_side, class_count, max_boxes, pictures)
    smaller = Batch(*(part[: max(1, pictures // 2)] for part in batch))
    engine.train_step(batch).read()
    engine.train_step(smaller).read()
    measured = engine.measure_step(batch)
    measured.rows()
    measured.read()
    engine.train_step(batch).read()
    return {"device": engine.device, "start": start, "peak": _peak(engine), "seconds": time.monotonic() - begun}


def _made_up(side: int, class_count: int, max_boxes: int, pictures: int) -> Batch:
    """Noise, with one to ``max_boxes`` boxes a picture."""
    random = np.random.default_rng(pictures)
    truth = np.full((pictures, max_boxes, 5), -1.0, np.float32)
    for rows in truth:
        for row in rows[: random.integers(1, max_boxes + 1)]:
            width, height = random.uniform(0.1, 0.9, 2)
            left, top = random.uniform(0, 1 - width), random.uniform(0, 1 - height)
            row[:] = random.integers(class_count), left, top, left + width, top + height
    images = random.integers(0, 256, (pictures, side, side, 3), np.uint8)
    return Batch(images, truth, tuple(f"made up {number}" for number in range(pictures)))


def _peak(engine: Engine) -> int:
    return peak_memory() if engine.device.startswith("cpu") else engine.peak_memory()


def _volunteer() -> None:
    """Where memory runs out all the same, Linux shall end this process and no other."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError:  # another system, or not allowed
        pass


def _in_one_line(fault: Exception) -> str:
    return " ".join(f"{type(fault).__name__}: {fault}".split())[:400]


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB"


if __name__ == "__main__":
    main()
