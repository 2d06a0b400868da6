"""What happens in one pass over a split?  Every batch takes a step; the steps' sums are added up."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from tqdm import tqdm

from ena24ssd.data import Batch
from ena24ssd.engine import Step
from ena24ssd.metrics import AnchorSums


class DivergedError(RuntimeError):
    """The loss is no longer a number; the message names the pictures."""


def run_epoch(
    step: Callable[[Batch], Step], batches: Iterable[Batch], total: int, class_count: int, title: str | None
) -> AnchorSums:
    """Take a step with every batch: `Engine.train_step` to learn, `Engine.measure_step` to measure.

    A step is read while the device already works on the next one, so that neither waits for the other.
    ``title`` labels the progress bar; None shows none. Raises DivergedError where a loss is not finite.
    """
    sums, behind = AnchorSums.zero(class_count), None
    with tqdm(total=total, desc=title, disable=title is None, leave=False, unit="batch") as bar:
        for batch in batches:
            ahead = step(batch), batch
            sums, behind = _add(sums, behind, bar), ahead
        return _add(sums, behind, bar)


def _add(sums: AnchorSums, taken: tuple[Step, Batch] | None, bar: tqdm) -> AnchorSums:
    if taken is None:
        return sums
    step, batch = taken
    more = step.read()
    if not math.isfinite(more.loss):
        raise DivergedError(
            f"the loss became {more.loss} in a batch with pictures {', '.join(batch.ids)}; "
            "a lower optim.lr usually mends it, and 'ena24ssd check' looks for broken boxes"
        )
    sums += more
    bar.update()
    bar.set_postfix(loss=f"{sums.loss:.4g}", refresh=False)
    return sums
