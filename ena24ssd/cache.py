"""Where are the squares of pixels kept, and are they still those of the files?

Decoding a camera-trap picture takes ten milliseconds, reading its square back takes none. So every picture is decoded
once, and its square kept on disk as plain bytes that an epoch maps into memory. For each square a mark of the file it
came from is kept too; squares of files that have changed since are made anew, the others are taken over. And for each
there is a checksum, looked at whenever a cache is opened: squares that a disk has damaged are made anew as well.

One process fills a cache, others that want it wait; one that is killed half-way leaves nothing behind that passes for
whole. Caches nobody has asked for in a month are deleted.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
import platformdirs
from filelock import FileLock, Timeout

from ena24ssd.ahead import Progress, run_ahead
from ena24ssd.cameratraps import CameraTrapDataset, Problem
from ena24ssd.files import naming, replacing
from ena24ssd.inspection import PICTURE_NOTICES, examine

LOG = logging.getLogger(__name__)

CACHE_VERSION = 3  # of notes and squares: raise it when pictures.read_square gives other pixels for the same file
KEPT_DAYS = 30  # since a cache was last asked for
# What a cache's files are called: pixels, their notes, and the hashes of `ena24ssd.neighbours`.
OURS = re.compile(r".+-(?:\d+px-(?:squash|letterbox)-[0-9a-f]{16}(?:-[0-9a-f]{8})?\.np[yz]|scenes-[0-9a-f]{16}\.npz)")
NO_MARK = 0  # the mark of a file that is not there
BLOCK = 2**22  # bytes that a thread reads at a time to check them: what its core's cache holds


class Cache(NamedTuple):
    """Every picture of a dataset as a square of pixels, and what was odd about the files."""

    pixels: np.ndarray  # (images, S, S, 3) uint8, memory-mapped; all zeros where a picture is left out
    problems: tuple[Problem, ...]

    @property
    def left_out(self) -> frozenset[str]:
        """The ids of pictures without a usable square."""
        return frozenset(problem.image_id for problem in self.problems if problem.rule not in PICTURE_NOTICES)


class _Kept(NamedTuple):
    """A cache on disk with its notes, row by row."""

    cache: Cache
    marks: np.ndarray  # (images,) uint64, of the files that the squares were made from
    checksums: np.ndarray  # (images,) uint32, CRC-32 of the squares


def cache_pictures(
    dataset: CameraTrapDataset,
    side: int,
    fit: str = "squash",
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Cache:
    """The dataset's squares at ``side`` pixels, from ``folder`` (left out: the user's cache) or decoded into it now.

    Every square is read once and compared with its checksum; that takes half a second a gigabyte, or what the
    disk takes. ``progress`` wraps the list of what there is to decode, if anything. Raises OSError where the disk is
    too full: a picture takes 3 * side * side bytes.
    """
    folder = folder or platformdirs.user_cache_path("ena24ssd")
    name = f"{dataset.name[:80]}-{side}px-{fit}-{_key(dataset, side, fit)}"
    with _only_one(folder / f".{name}.lock"):
        with suppress(FileNotFoundError):
            os.utime(folder / f"{name}.npz")  # asked for now: no other run shall sweep it away meanwhile
        marks = np.fromiter((_mark(dataset.path(image)) for image in dataset.images), np.uint64, len(dataset.images))
        kept = _open(folder, name, (len(marks), side, side, 3))
        _sweep(folder, name, kept)
        if kept is None:
            kept, stale = _nothing(len(marks), side), np.arange(len(marks))
        else:
            stale = np.flatnonzero((kept.marks != marks) | _is_damaged(kept))
            if not len(stale):
                stale = _recovered(dataset, kept.cache)
        if len(stale):
            kept = _fill(dataset, fit, folder, name, marks, stale, kept, progress)
            _sweep(folder, name, kept)
    return kept.cache


def _key(dataset: CameraTrapDataset, side: int, fit: str) -> str:
    """What the squares are of: which records of which folder, made how."""
    digest = hashlib.sha256(f"{CACHE_VERSION} {side} {fit} {dataset.root.resolve()}".encode(errors="surrogateescape"))
    for image in dataset.images:
        digest.update(repr((image.id, image.file_name, image.width, image.height)).encode())
    return digest.hexdigest()[:16]


def _mark(path: Path) -> int:
    """A number that changes with the file, as far as its size and time of change tell."""
    try:
        status = os.stat(path)
    except OSError:
        return NO_MARK
    state = f"{status.st_size} {status.st_mtime_ns}".encode()
    return int.from_bytes(hashlib.blake2b(state, digest_size=8).digest(), "little")


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """One process at a time; the system takes the lock back from one that is killed."""
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        LOG.warning("waiting: another run is filling or checking the picture cache in %s", path.parent)
        lock.acquire()
    except OSError as error:
        raise OSError(
            f"{path.parent}: the picture cache cannot be written ({error.strerror}); name another folder (data.cache)"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _open(folder: Path, name: str, shape: tuple[int, ...]) -> _Kept | None:
    """The cache as it is, squares not yet checked; None where there is none or its notes cannot be trusted."""
    try:
        with np.load(folder / f"{name}.npz") as notes:  # a zip file, which checks itself
            marks, checksums = notes["marks"], notes["checksums"]
            problems = tuple(Problem(*problem) for problem in json.loads(notes["problems"].tobytes()))
            pixels_file = folder / str(notes["pixels"])
        pixels = np.load(pixels_file, mmap_mode="r")
    except FileNotFoundError:
        return None
    except Exception as fault:  # damaged bytes make NumPy and zipfile raise nearly anything
        LOG.warning("%s: the picture cache is damaged (%s); every picture is decoded anew", folder / name, fault)
        return None
    if pixels.shape != shape or pixels.dtype != np.uint8 or not pixels.flags.c_contiguous:
        LOG.warning(
            "%s: the picture cache is damaged (it is another array); every picture is decoded anew", pixels_file
        )
        return None
    return _Kept(Cache(pixels, problems), marks, checksums)


def _is_damaged(kept: _Kept) -> np.ndarray:
    """Which squares are not what was written, (images,) bool."""
    pixels = kept.cache.pixels
    size = int(np.prod(pixels.shape[1:]))
    rows = max(1, BLOCK // size)

    def compare(start: int) -> np.ndarray:
        expected = kept.checksums[start : start + rows]
        try:
            with open(pixels.filename, "rb") as file:  # not through the map: a failing disk would end the process
                file.seek(pixels.offset + start * size)
                block = memoryview(file.read(len(expected) * size))
        except OSError:
            return np.ones(len(expected), bool)
        found = [zlib.crc32(block[at : at + size]) for at in range(0, len(expected) * size, size)]
        return expected != np.array(found, np.uint32)

    damaged = np.concatenate(list(run_ahead(compare, range(0, len(pixels), rows), name="check")))
    if damaged.any():
        LOG.warning(
            "%s: %d of %d squares in the picture cache are damaged; their pictures are decoded anew. If that happens "
            "again, the disk or the memory is failing",
            *(pixels.filename, damaged.sum(), len(damaged)),
        )
    return damaged


def _nothing(count: int, side: int) -> _Kept:
    pixels = np.broadcast_to(np.uint8(0), (count, side, side, 3))
    return _Kept(Cache(pixels, ()), np.zeros(count, np.uint64), np.zeros(count, np.uint32))


def _recovered(dataset: CameraTrapDataset, cache: Cache) -> np.ndarray:
    """Rows of unchanged files that could not be read once and can be now: a disk that had a bad day, say."""
    unreadable = {problem.image_id for problem in cache.problems if problem.rule == "picture-unreadable"}
    side = cache.pixels.shape[1]
    rows = [row for row, image in enumerate(dataset.images) if image.id in unreadable]

    def is_readable(row: int) -> bool:
        image = dataset.images[row]
        return examine(image, dataset.path(image), side)[0] is not None

    return np.array([row for row, readable in zip(rows, run_ahead(is_readable, rows)) if readable], np.int64)


def _fill(
    dataset: CameraTrapDataset,
    fit: str,
    folder: Path,
    name: str,
    marks: np.ndarray,
    stale: np.ndarray,
    kept: _Kept,
    progress: Progress | None,
) -> _Kept:
    """The cache made anew: ``stale`` rows from their files, the others as they were ``kept``."""
    pixels_file = folder / f"{name}-{secrets.token_hex(4)}.npy"
    try:
        problems, checksums = _write_squares(dataset, fit, pixels_file, stale, kept, progress)
        # These notes are what says that the pixels are whole, and of which files; without them they are rubbish.
        with replacing(folder / f"{name}.npz") as file:
            written = np.frombuffer(json.dumps(problems).encode(), np.uint8)
            names = {"pixels": np.array(pixels_file.name), "problems": written}
            np.savez(file, marks=marks, checksums=checksums, **names)
    except BaseException:
        pixels_file.unlink(missing_ok=True)
        raise
    return _Kept(Cache(np.load(pixels_file, mmap_mode="r"), problems), marks, checksums)


def _write_squares(
    dataset: CameraTrapDataset, fit: str, file: Path, stale: np.ndarray, kept: _Kept, progress: Progress | None
) -> tuple[tuple[Problem, ...], np.ndarray]:
    """Write the pixels of `_fill`. Returns what is odd about the pictures, in the order of the dataset, and the
    squares' checksums.
    """
    known = kept.cache
    pixels, checksums = _make_room(file, known.pixels.shape), kept.checksums.copy()
    is_stale = np.zeros(len(pixels), dtype=bool)
    is_stale[stale] = True
    good = np.flatnonzero(~is_stale)
    for start in range(0, len(good), 256):
        rows = good[start : start + 256]
        pixels[rows] = known.pixels[rows]

    def decode(row: int) -> Problem | None:
        image = dataset.images[row]
        square, problem = examine(image, dataset.path(image), pixels.shape[1], fit)
        pixels[row] = 0 if square is None else square.pixels
        checksums[row] = zlib.crc32(pixels[row])
        return problem

    outcomes = run_ahead(decode, (progress or iter)(stale.tolist()), name="decode")  # Pillow decodes without the GIL
    found = [problem for problem in outcomes if problem is not None]
    pixels.flush()
    row_of = {image.id: row for row, image in enumerate(dataset.images)}
    old = [problem for problem in known.problems if not is_stale[row_of[problem.image_id]]]
    return tuple(sorted(old + found, key=lambda problem: row_of[problem.image_id])), checksums


def _make_room(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """An empty array on disk whose room is really there: a full disk would else kill the process on writing to it."""
    needed, free = int(np.prod(shape, dtype=np.int64)), shutil.disk_usage(path.parent).free
    if needed > free:
        raise OSError(
            f"{path.parent}: the picture cache needs {needed / 1e9:.3g} GB and {free / 1e9:.3g} GB are free; "
            "make room, lower data.image_side, or name a folder on another disk (data.cache)"
        )
    pixels = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    if hasattr(os, "posix_fallocate"):
        try:
            with naming(path), path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            raise OSError(f"{error}: no room for the picture cache; name a folder elsewhere (data.cache)") from error
    return pixels


def _sweep(folder: Path, name: str, kept: _Kept | None) -> None:
    """Delete pixels of this cache that are not ``kept``'s, and caches that nobody asked for in a month."""
    used = None if kept is None else Path(kept.cache.pixels.filename).name
    rubbish = [file for file in folder.glob(f"{escape(name)}-*.npy") if file.name != used]
    unused_since = time.time() - KEPT_DAYS * 86_400
    for file in folder.glob("*.np[yz]"):
        if not OURS.fullmatch(file.name):  # the folder may be one that a person keeps other things in
            continue
        notes = file if file.suffix == ".npz" else file.with_name(f"{file.stem.rpartition('-')[0]}.npz")
        with suppress(FileNotFoundError):  # another run is sweeping, too
            if (notes if notes.exists() else file).stat().st_mtime < unused_since:
                rubbish.append(file)
    for file in rubbish:
        # Windows keeps a file that another process has open: it goes the next time.
        with suppress(OSError):
            file.unlink()
