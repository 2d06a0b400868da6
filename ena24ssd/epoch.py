"""What happens in one pass over a split?  Every batch takes a step; the steps' sums are added up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tqdm import tqdm

from ena24ssd.data import Batch
from ena24ssd.engine import Step
from ena24ssd.metrics import AnchorSums


class DivergedError(RuntimeError):
    """The loss or its gradient is no longer a number; the message names step, pictures and layer."""


@dataclass(frozen=True)
class Pass:
    """What a pass came to, or has come to so far."""

    sums: AnchorSums
    steps: int = 0
    seconds: float = 0.0
    waiting: float = 0.0  # seconds of these in which the next batch was not ready


def run_epoch(
    step: Callable[[Batch], Step],
    batches: Iterable[Batch],
    total: int,
    so_far: Pass,
    name: str,
    *,
    until: Callable[[], bool] = lambda: False,
    show: bool = True,
) -> Pass:
    """Take a step with every batch: `Engine.train_step` to learn, `Engine.measure_step` to measure.

    A step is read while the device already works on the next one, so that neither waits for the other. All steps taken
    have been read when this returns.

    Parameters: ``batches`` are the rest of a pass of ``total`` steps that has come to ``so_far``; ``name`` says in
    messages which pass it is; ``until`` is asked after every step whether to leave the rest to another call; ``show``
    a progress bar, on a terminal. Returns the pass as it then is: the same, however often it was left.

    Raises DivergedError where a loss or gradient is not finite.
    """
    sums, steps, waiting = so_far.sums, so_far.steps, so_far.waiting
    started, behind, batches = time.monotonic(), None, iter(batches)
    with tqdm(total=total, initial=steps, desc=name, disable=not show or None, leave=False, unit="batch") as bar:
        while True:
            asked = time.monotonic()
            batch = next(batches, None)
            waiting += time.monotonic() - asked
            ahead = None if batch is None else (step(batch), batch, steps)
            if behind is not None:
                sums += _read(*behind, name)
                bar.update()
                bar.set_postfix(loss=f"{sums.loss:.4g}", refresh=False)
            behind = ahead
            if ahead is None:
                break
            steps += 1
            if until():
                sums += _read(*behind, name)
                break
    return Pass(sums, steps, so_far.seconds + time.monotonic() - started, waiting)


def _read(step: Step, batch: Batch, number: int, name: str) -> AnchorSums:
    sums, fault = step.read(), step.fault()
    if fault is not None:
        raise DivergedError(
            f"{name}, step {number + 1}: {fault}, in a batch with pictures {', '.join(batch.ids)}. A lower optim.lr or "
            "optim.clip_norm usually mends it, and 'ena24ssd check' looks for broken boxes"
        )
    return sums
