"""How long does reading the annotations take, and how much memory do they need?

Files of COCO Camera Traps are made up, with one box a picture, and each is read twice over, every time by a process of
its own: by `json.load` alone, and by `ena24ssd.cameratraps.read`, which checks every record. Four kinds of file:

* lean (as ENA24: id, file_name, width, height) and full (location, sequence, frame and time as well);
* annotations in the order of the pictures, and shuffled, which is harder on the processor's caches.

Time is the processor's, so that other programs on the machine disturb it little. Memory is counted from before the
reading: held is what the process still has when only the dataset is left, peak the most it ever had; Linux only.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import multiprocessing
import os
import platform
import random
import re
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from prettytable import PrettyTable
from tqdm import tqdm

from ena24ssd.cameratraps import read

SPECIES = 23
BURST = 3  # pictures of one sequence
CAMERA = 5_000  # pictures of one camera


class Cost(NamedTuple):
    """What one reading took: seconds of processor and of clock, bytes held and at the most."""

    processor: float
    clock: float
    held: int
    peak: int


def write_json(path: Path, images: int, *, full: bool, shuffled: bool) -> None:
    """Write a made-up file, record by record, for it may be larger than memory likes."""
    draw = random.Random(0)
    order = list(range(images))
    if shuffled:
        draw.shuffle(order)
    name = "{:08d}" if full else "{}"
    categories = [{"id": label, "name": f"Species {label}"} for label in range(SPECIES)]
    with path.open("w", encoding="utf-8") as file:
        file.write('{"info": {"version": "1", "description": "Made up, for timing"},\n"images": [')
        for number in range(images):
            file.write(",\n" if number else "\n")
            key, camera = name.format(number), f"cam{number // CAMERA:03d}"
            if not full:
                file.write(f'{{"id": "{key}", "file_name": "{key}.jpg", "width": 1920, "height": 1080}}')
                continue
            minute, second = divmod(number // BURST, 60)
            moment = f"2019-{minute // 40320 % 12 + 1:02d}-{minute // 1440 % 28 + 1:02d} "
            moment += f"{minute // 60 % 24:02d}:{minute % 60:02d}:{second:02d}"
            file.write(
                f'{{"id": "{key}", "file_name": "{camera}/IMG_{key}.JPG", "width": 1920, "height": 1080, '
                f'"location": "{camera}", "seq_id": "6f0f5c2e-{number // BURST:08x}", "seq_num_frames": {BURST}, '
                f'"frame_num": {number % BURST}, "datetime": "{moment}"}}'
            )
        file.write('],\n"annotations": [')
        for number, image in enumerate(order):
            file.write(",\n" if number else "\n")
            x, y, side = 1400 * draw.random(), 700 * draw.random(), 20 + 300 * draw.random()
            file.write(
                f'{{"id": "d8e94bd2-1df9-11ea-8572-{number:012x}", "image_id": "{name.format(image)}", '
                f'"category_id": {number % SPECIES}, "bbox": [{x!r}, {y!r}, {1.3 * side!r}, {side!r}]}}'
            )
        file.write(f'],\n"categories": {json.dumps(categories)}}}\n')


def measure(path: Path, everything: bool) -> Cost:
    """Read the file in this process, by `read` (everything), or by `json.load` alone."""
    gc.collect()
    before = _memory("VmRSS")
    clock, processor = time.perf_counter(), time.process_time()
    if everything:
        result = read(path, check_files=False)
    else:
        with path.open(encoding="utf-8") as file:
            result = json.load(file)
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    gc.collect()
    held, peak = _memory("VmRSS") - before, _memory("VmHWM") - before
    del result
    return Cost(processor, clock, held, peak)


def _memory(kind: str) -> int:
    """Bytes of this process, as Linux counts them: VmRSS in use now, VmHWM the most so far."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"^{kind}:\s*(\d+) kB", status, re.MULTILINE)[1])


def measure_alone(path: Path, everything: bool) -> Cost:
    """`measure` in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (path, everything))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--images", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="sizes of the files"
    )
    parser.add_argument("--repeats", type=int, default=3, help="timed readings of each side")
    choices = parser.parse_args(arguments)
    heading = ["pictures", "fields", "boxes", "json.load", "read", "ratio", "by the clock", "held", "peak", "its peak"]
    table = PrettyTable(heading, align="r")
    kinds = list(itertools.product(choices.images, (False, True), (False, True)))
    for images, full, shuffled in tqdm(kinds, "kinds of file", leave=False):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "traps.json"
            write_json(path, images, full=full, shuffled=shuffled)
            turns = [(measure_alone(path, False), measure_alone(path, True)) for _ in range(choices.repeats)]
        alone, whole = (Cost(*map(statistics.median, zip(*side))) for side in zip(*turns))
        seconds = f"{alone.processor:.2f} s", f"{whole.processor:.2f} s"
        ratios = (whole.processor / alone.processor, whole.clock / alone.clock)
        memory = (whole.held, whole.peak, alone.peak)
        table.add_row(
            [f"{images:,}", "full" if full else "lean", "shuffled" if shuffled else "in order", *seconds]
            + [f"{ratio:.2f} x" for ratio in ratios]
            + [f"{size / images:,.0f}" for size in memory]
        )
    print(table)
    print(f"Medians of {choices.repeats}. held, peak: bytes a picture; its peak: json.load's own")
    print(f"Python {platform.python_version()} on {platform.machine()}, {os.cpu_count()} cores")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
