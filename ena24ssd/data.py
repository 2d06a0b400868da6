"""How do files become batches?

Every picture stands ready as a square of uint8 pixels (`ena24ssd.cache`). Every epoch, a few threads slice batches from
them and augment those, a little ahead of the device. Where the engine holds the squares on its device, batches only say
which, and what is to be changed (`Held`). Nothing here touches a framework or a device, so there is nothing to fork and
nothing that a worker could leak.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ena24ssd.ahead import run_ahead
from ena24ssd.augment import augment
from ena24ssd.balance import repeated_positions
from ena24ssd.boxes import truth_rows
from ena24ssd.cache import Cache
from ena24ssd.cameratraps import CameraTrapDataset, Image, Problem
from ena24ssd.changes import Changes, draw_changes
from ena24ssd.config import AugmentConfig
from ena24ssd.pictures import view_of


@dataclass(frozen=True)
class Held:
    """A batch's pictures, for an engine that holds all squares: which they are, and what is yet to be done to them."""

    rows: np.ndarray  # (B,) int64, of the squares
    changes: Changes | None = None  # None: they are shown as they are

    def __len__(self) -> int:
        return len(self.rows)


class Batch(NamedTuple):
    """What a network learns from in one step."""

    images: np.ndarray | Held  # (B, S, S, 3) uint8, RGB
    truth: np.ndarray  # (B, M, 5) float32, [label, left, top, right, bottom] in unit corners; rows of -1 at the end
    ids: tuple[str, ...]  # B image ids, for messages


@dataclass(frozen=True)
class Examples:
    """The pictures of one split, ready to be sliced: ``pixels[rows[i]]`` belongs to ``images[i]``."""

    images: tuple[Image, ...]
    pixels: np.ndarray  # (all cached pictures, S, S, 3) uint8, on disk
    rows: np.ndarray  # (n,) int64
    truth: np.ndarray  # (n, M, 5) float32

    def __len__(self) -> int:
        return len(self.images)

    def take(self, chosen: np.ndarray, held: bool = False) -> Batch:
        """The batch of the examples at positions ``chosen``; without pixels where ``pixels`` are ``held``."""
        rows = self.rows[chosen]
        images = Held(rows) if held else np.ascontiguousarray(self.pixels[rows])
        return Batch(images, self.truth[chosen], tuple(self.images[i].id for i in chosen))


def read_examples(
    dataset: CameraTrapDataset, cache: Cache, ids: Sequence[str], max_boxes: int, fit: str = "squash"
) -> tuple[Examples, tuple[Problem, ...]]:
    """The examples of the given image ids, in that order, and what was odd about their files.

    ``fit`` is how the cache's squares were made. A picture that gave none is left out, and among the problems.
    """
    position = {image.id: row for row, image in enumerate(dataset.images)}
    left_out = cache.left_out
    rows = np.array([position[key] for key in ids if key not in left_out], dtype=np.int64)
    images = tuple(dataset.images[row] for row in rows)
    truth = np.full((len(images), max_boxes, 5), -1.0, dtype=np.float32)
    for block, image in zip(truth, images):
        if len(image.boxes) > max_boxes:
            raise ValueError(
                f"{dataset.name}: image '{image.id}' has {len(image.boxes)} boxes, data.max_boxes is {max_boxes}; "
                "raise it, or set it to null for as many as needed"
            )
        view = view_of(image.width, image.height, cache.pixels.shape[1], fit)
        block[:] = truth_rows(image.boxes, view, max_boxes)
    wanted = set(ids)
    problems = tuple(problem for problem in cache.problems if problem.image_id in wanted)
    return Examples(images, cache.pixels, rows, truth), problems


def count_batches(pictures: int, batch_size: int, drop_last: bool) -> int:
    """How many batches an epoch that shows that many pictures has (with repeats: `ena24ssd.balance.epoch_length`)."""
    return pictures // batch_size if drop_last else -(-pictures // batch_size)


def iterate_batches(examples: Examples, batch_size: int, *, workers: int = 0, held: bool = False) -> Iterator[Batch]:
    """The examples in their order, in batches; the last one may be smaller. For measuring.

    Parameters: ``workers`` threads prepare ahead. ``held``: the engine holds the squares, so batches bring `Held`.
    """
    orders = np.array_split(np.arange(len(examples)), np.arange(batch_size, len(examples), batch_size))

    def prepare(step: int) -> Batch:
        with _naming(f"batch {step}", examples, orders[step]):
            return examples.take(orders[step], held)

    yield from run_ahead(prepare, range(len(orders)), workers, "batches")


def shuffle_batches(
    examples: Examples,
    batch_size: int,
    augmentation: AugmentConfig,
    *,
    seed: int,
    epoch: int,
    drop_last: bool,
    workers: int = 0,
    factors: np.ndarray | None = None,
    start: int = 0,
    shard: tuple[int, int] = (0, 1),
    held: bool = False,
) -> Iterator[Batch]:
    """One epoch of training batches, or the rest of one; they depend on ``seed``, ``epoch`` and step alone.

    Parameters: ``workers`` threads prepare ahead. ``factors`` (n,), how often each example is shown on average
    (`ena24ssd.balance.repeat_factors`); None: once. ``start``, the first step to give. ``shard``, rank and number of
    those who train together: each gets its part of every joint batch of ``batch_size``. The parts lie side by side
    and differ by one picture at most; where the joint batch has fewer pictures than there are parts, the last parts
    are batches of none, so that all take equally many steps. ``held``: the engine holds the squares, so batches bring
    `Held`, with the very changes that would else have been done here.

    Raises what preparing a batch raised, with the step and the ids of its pictures in front.
    """
    # Streams of random numbers, none of which is another's: (seed, epoch) shuffles, (seed, epoch, 0, 1) repeats, and
    # (seed, epoch, step + 1, rank) augments. Zeros at the end make no difference.
    shown = np.arange(len(examples))
    if factors is not None:
        shown = repeated_positions(factors, np.random.default_rng((seed, epoch, 0, 1)))
    shuffled = shown[np.random.default_rng((seed, epoch)).permutation(len(shown))]
    orders = np.array_split(shuffled, np.arange(batch_size, len(shuffled), batch_size))
    rank, parts = shard

    def prepare(step: int) -> Batch:
        chosen = np.array_split(orders[step], parts)[rank]
        with _naming(f"epoch {epoch}, step {step}", examples, chosen):
            images, truth, ids = examples.take(chosen, held)
            random = np.random.default_rng((seed, epoch, step + 1, rank))
            if not held:
                return Batch(*augment(images, truth, random, augmentation), ids)
            changes, truth = draw_changes(truth, examples.pixels.shape[1], random, augmentation)
            return Batch(Held(images.rows, changes), truth, ids)

    steps = range(start, count_batches(len(shuffled), batch_size, drop_last))
    yield from run_ahead(prepare, steps, workers, "batches")


@contextmanager
def _naming(where: str, examples: Examples, chosen: np.ndarray) -> Iterator[None]:
    """An exception from in here says which pictures it is about, and stays of its kind."""
    try:
        yield
    except Exception as fault:
        ids = ", ".join(examples.images[i].id for i in chosen)
        message = f"{where}: the batch of pictures {ids} could not be prepared ({type(fault).__name__}: {fault})"
        raise _like(fault, message) from fault


def _like(fault: Exception, message: str) -> Exception:
    """An exception of the same type; of the nearest base, where that takes more than a message (as NumPy's do)."""
    for kind in type(fault).__mro__:
        try:
            return kind(message)
        except TypeError:
            continue
    return fault
