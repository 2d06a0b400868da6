"""How do files become batches?

Every picture stands ready as a square of uint8 pixels (`ena24ssd.cache`). Every epoch, a few threads slice batches from
them and augment those, a little ahead of the device. Nothing here touches a framework or a device, so there is nothing
to fork and nothing that a worker could leak.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ena24ssd.ahead import run_ahead
from ena24ssd.augment import augment
from ena24ssd.boxes import truth_rows
from ena24ssd.cache import Cache
from ena24ssd.cameratraps import CameraTrapDataset, Image, Problem
from ena24ssd.config import AugmentConfig
from ena24ssd.pictures import view_of


class Batch(NamedTuple):
    """What a network learns from in one step."""

    images: np.ndarray  # (B, S, S, 3) uint8, RGB
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

    def take(self, chosen: np.ndarray) -> Batch:
        """The batch of the examples at positions ``chosen``."""
        ids = tuple(self.images[i].id for i in chosen)
        return Batch(np.ascontiguousarray(self.pixels[self.rows[chosen]]), self.truth[chosen], ids)


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


def count_batches(examples: int, batch_size: int, drop_last: bool) -> int:
    """How many batches `iterate_batches` gives for that many examples."""
    return examples // batch_size if drop_last else -(-examples // batch_size)


def iterate_batches(examples: Examples, batch_size: int, *, workers: int = 0) -> Iterator[Batch]:
    """The examples in their order, in batches; the last one may be smaller. For measuring."""
    orders = np.array_split(np.arange(len(examples)), np.arange(batch_size, len(examples), batch_size))
    yield from run_ahead(examples.take, orders, workers, "batches")


def shuffle_batches(
    examples: Examples,
    batch_size: int,
    augmentation: AugmentConfig,
    *,
    seed: int,
    epoch: int,
    drop_last: bool,
    workers: int = 0,
) -> Iterator[Batch]:
    """One epoch of training batches; order and augmentation depend on ``seed`` and ``epoch`` alone."""
    shuffled = np.random.default_rng((seed, epoch)).permutation(len(examples))
    orders = np.array_split(shuffled, np.arange(batch_size, len(examples), batch_size))
    orders = orders[: count_batches(len(examples), batch_size, drop_last)]

    def prepare(step: int) -> Batch:
        batch = examples.take(orders[step])
        random = np.random.default_rng((seed, epoch, step + 1))  # (seed, epoch, 0) is (seed, epoch)
        return Batch(*augment(batch.images, batch.truth, random, augmentation), batch.ids)

    yield from run_ahead(prepare, range(len(orders)), workers, "batches")
