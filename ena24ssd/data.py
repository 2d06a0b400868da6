"""How do files become batches?

Once: every picture is decoded, squashed and written to a cache of uint8 pixels on disk. Every epoch: batches are sliced
from that cache by a few threads, a little ahead of the device. Nothing here touches a framework or a device, so there
is nothing to fork and nothing that a worker could leak.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import platformdirs

from ena24ssd.augment import augment
from ena24ssd.boxes import truth_rows
from ena24ssd.cameratraps import CameraTrapDataset, Image, Problem
from ena24ssd.config import DataConfig
from ena24ssd.pictures import PictureError, read_square

CACHE_VERSION = 1  # of the pixels' meaning: raise it when pictures.read_square gives other pixels for the same file

Progress = Callable[[Iterable], Iterable]


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


class Cache(NamedTuple):
    """Every readable picture of a dataset as a square of pixels."""

    pixels: np.ndarray  # (images, S, S, 3) uint8, memory-mapped; a picture that failed is all zeros
    failures: dict[str, str]  # image id -> why there are no pixels


def cache_pictures(
    dataset: CameraTrapDataset, side: int, folder: Path | None = None, progress: Progress | None = None
) -> Cache:
    """The dataset's pixels at ``side``, from the cache in ``folder`` or decoded into it now.

    The cache is keyed by the file names, sizes and modification times it was made from, and appears under its name only
    when it is whole: a run that is killed half-way leaves nothing that another would take for complete.
    """
    folder = folder or platformdirs.user_cache_path("ena24ssd")
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{dataset.name}-{side}px-{_fingerprint(dataset, side)}"
    pixels_file, failures_file = folder / f"{name}.npy", folder / f"{name}.json"
    if not pixels_file.exists() or _some_recovered(dataset, side, failures_file):
        _fill_cache(dataset, side, pixels_file, failures_file, progress)
    return Cache(np.load(pixels_file, mmap_mode="r"), json.loads(failures_file.read_text(encoding="utf-8")))


def read_examples(
    dataset: CameraTrapDataset, cache: Cache, ids: Sequence[str], max_boxes: int
) -> tuple[Examples, tuple[Problem, ...]]:
    """The examples of the given image ids, in that order, and a Problem for each picture that could not be read."""
    position = {image.id: row for row, image in enumerate(dataset.images)}
    readable = [image_id for image_id in ids if image_id not in cache.failures]
    rows = np.array([position[image_id] for image_id in readable], dtype=np.int64)
    images = tuple(dataset.images[row] for row in rows)
    truth = np.full((len(images), max_boxes, 5), -1.0, dtype=np.float32)
    for block, image in zip(truth, images):
        if len(image.boxes) > max_boxes:
            raise ValueError(
                f"{dataset.name}: image '{image.id}' has {len(image.boxes)} boxes, data.max_boxes is {max_boxes}; "
                "raise it, or set it to null for as many as needed"
            )
        block[:] = truth_rows(image.boxes, image.width, image.height, max_boxes)
    problems = tuple(
        Problem(image_id, "picture-unreadable", f"{cache.failures[image_id]}; the picture is left out")
        for image_id in ids
        if image_id in cache.failures
    )
    return Examples(images, cache.pixels, rows, truth), problems


def count_batches(examples: int, batch_size: int, drop_last: bool) -> int:
    """How many batches `iterate_batches` gives for that many examples."""
    return examples // batch_size if drop_last else -(-examples // batch_size)


def iterate_batches(examples: Examples, batch_size: int, *, workers: int = 0) -> Iterator[Batch]:
    """The examples in their order, in batches; the last one may be smaller. For measuring."""
    orders = np.array_split(np.arange(len(examples)), np.arange(batch_size, len(examples), batch_size))
    yield from _ahead([lambda order=order: examples.take(order) for order in orders], workers)


def shuffle_batches(
    examples: Examples, batch_size: int, config: DataConfig, *, seed: int, epoch: int, drop_last: bool
) -> Iterator[Batch]:
    """One epoch of training batches; order and augmentation depend on ``seed`` and ``epoch`` alone."""
    shuffled = np.random.default_rng((seed, epoch)).permutation(len(examples))
    orders = np.array_split(shuffled, np.arange(batch_size, len(examples), batch_size))
    orders = orders[: count_batches(len(examples), batch_size, drop_last)]

    def prepare(step: int) -> Batch:
        batch = examples.take(orders[step])
        random = np.random.default_rng((seed, epoch, step + 1))  # (seed, epoch, 0) is (seed, epoch)
        changes = {"flip": config.flip, "crop": config.crop, "light": config.light}
        return Batch(*augment(batch.images, batch.truth, random, **changes), batch.ids)

    yield from _ahead([lambda step=step: prepare(step) for step in range(len(orders))], config.workers)


def _ahead(jobs: Sequence[Callable[[], Batch]], workers: int) -> Iterator[Batch]:
    """Run the jobs in order, up to two per worker ahead of whoever iterates; a job's exception surfaces at its turn."""
    if workers == 0:
        yield from (job() for job in jobs)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="batches") as pool:
        waiting: deque[Future[Batch]] = deque()
        try:
            for job in jobs:
                waiting.append(pool.submit(job))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _fingerprint(dataset: CameraTrapDataset, side: int) -> str:
    digest = hashlib.sha256(f"{CACHE_VERSION} {side} {dataset.root.resolve()}".encode())
    for image in dataset.images:
        try:
            status = os.stat(dataset.path(image))
            state = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:
            state = "absent"
        digest.update(f"\n{image.id}\t{image.file_name}\t{image.width}x{image.height}\t{state}".encode())
    return digest.hexdigest()[:16]


def _decode(dataset: CameraTrapDataset, image: Image, side: int) -> np.ndarray:
    return read_square(dataset.path(image), side, stored_size=(image.width, image.height)).pixels


def _some_recovered(dataset: CameraTrapDataset, side: int, failures_file: Path) -> bool:
    """Whether a picture that could not be read when the cache was made can be read now (a disk that was away, say)."""
    failures = json.loads(failures_file.read_text(encoding="utf-8"))
    for image in dataset.images:
        if image.id in failures:
            try:
                _decode(dataset, image, side)
            except PictureError:
                continue
            return True
    return False


def _fill_cache(
    dataset: CameraTrapDataset, side: int, pixels_file: Path, failures_file: Path, progress: Progress | None
) -> None:
    with tempfile.TemporaryDirectory(prefix=".filling-", dir=pixels_file.parent) as room:
        filling, noting = Path(room) / pixels_file.name, Path(room) / failures_file.name
        pixels = np.lib.format.open_memmap(filling, "w+", np.uint8, (len(dataset.images), side, side, 3))

        def decode(row: int) -> tuple[str, str] | None:
            image = dataset.images[row]
            try:
                pixels[row] = _decode(dataset, image, side)
            except PictureError as failure:
                return image.id, str(failure)
            return None

        with ThreadPoolExecutor(
            os.cpu_count() or 1, thread_name_prefix="decode"
        ) as pool:  # Pillow decodes without the GIL
            outcomes = pool.map(decode, range(len(dataset.images)))
            failures = dict(failure for failure in (progress or iter)(outcomes) if failure is not None)
        pixels.flush()
        noting.write_text(json.dumps(failures, indent=1), encoding="utf-8")
        os.replace(noting, failures_file)
        os.replace(filling, pixels_file)  # last: its presence is what says that the cache is whole
