"""Is there room for a run, on the disks and in memory?"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import platformdirs

from ena24ssd.config import RunConfig
from ena24ssd.findings import Finding
from ena24ssd.memory import available_memory

# The network of the post, whose values grow with model.width squared at most; its extractor alone is surely needed.
LEAST_BYTES = 4 * 5_987_000
RUN_BYTES = 40 * 9_702_740  # checkpoints with the optimizer's state, twice while one is replaced, and the curves
# Measured while training it on a CPU, alike for both engines; the second grows with model.width.
PROCESS_BYTES = 400_000_000
BYTES_PER_PIXEL = 15_000


def judge_room(config: RunConfig, out: Path, pictures: int | None) -> list[Finding]:
    """Disk and memory for a run into ``out``, over so many ``pictures`` where that is known."""
    scale = config.model.width**2
    run = _place(
        *("run folder", out, round(LEAST_BYTES * scale), round(RUN_BYTES * scale)),
        "Make room, or name a folder elsewhere with --out",
    )
    cache = config.data.cache or platformdirs.user_cache_path("ena24ssd")
    squares = _squares_to_come(config, cache, pictures)
    way_out = "Make room, or name a folder elsewhere: data.cache=FOLDER"
    return [run, _place("picture cache", cache, squares, squares, way_out), _temporary(), _memory(config)]


def devices_of(config: RunConfig) -> Sequence[str]:
    """The devices that a config names, one or several."""
    return (config.device,) if isinstance(config.device, str) else config.device


def _squares_to_come(config: RunConfig, cache: Path, pictures: int | None) -> int:
    """Bytes that the picture cache will need; 0 where it looks filled, or where nobody knows."""
    side = config.data.image_side
    needed = 3 * side * side * (pictures or 0)
    with suppress(OSError):  # another run may be sweeping
        if any(file.stat().st_size >= needed for file in cache.glob(f"*-{side}px-{config.data.fit}-*.npy")):
            return 0
    return needed


def _place(what: str, folder: Path, needed: int, comfortable: int, way_out: str) -> Finding:
    """Whether files can be written to a folder, which need not exist yet, and whether ``needed`` bytes fit."""
    there = Path(os.path.abspath(folder))
    while not os.path.exists(there) and there != there.parent:
        there = there.parent
    try:
        _write_a_little(there)
        free = shutil.disk_usage(there).free
    except OSError as fault:
        return Finding(what, "cannot work", f"{there} cannot be written to: {fault.strerror}", way_out)
    said = f"{folder}: {_size(free)} free"
    if free < needed:
        return Finding(what, "cannot work", f"{said}, {_size(needed)} needed", way_out)
    if free < comfortable:
        return Finding(what, "doubtful", f"{said}, about {_size(comfortable)} needed", way_out)
    return Finding(what, "ok", said + (f", about {_size(comfortable)} needed" if comfortable else ""))


def _write_a_little(folder: Path) -> None:
    file = folder / f".ena24ssd-{secrets.token_hex(4)}"  # not by tempfile, which tries for ever where Windows refuses
    file.touch(exist_ok=False)
    try:
        file.write_bytes(bytes(4096))
    finally:
        file.unlink(missing_ok=True)


def _temporary() -> Finding:
    what, way_out = "temporary files", "Make room, or name a folder elsewhere: export TMPDIR=FOLDER"
    try:
        folder = Path(tempfile.gettempdir())
    except OSError as fault:
        return Finding(what, "doubtful", str(fault.strerror), way_out)
    finding = _place(what, folder, 0, 0, way_out)
    return finding if finding.state == "ok" else finding._replace(state="doubtful")  # training needs none


def _memory(config: RunConfig) -> Finding:
    free = available_memory()
    batch = config.train.batch if isinstance(config.train.batch, int) else 1
    picture = BYTES_PER_PIXEL * config.model.width * config.data.image_side**2
    needed, said = PROCESS_BYTES, f"{_size(free)} free"
    if all(device == "auto" or device.startswith("cpu") for device in devices_of(config)):
        needed += round(picture * -(-batch // config.train.accumulate))
        said += f"; on the CPU a batch of {batch} needs about {_size(needed)}"
    if needed <= free:
        return Finding("memory", "ok", said)
    portions = next((n for n in range(2, batch + 1) if PROCESS_BYTES + picture * -(-batch // n) <= free), None)
    way_out = "End other programs, or lower model.width or data.image_side"
    if portions is not None:
        way_out = f"Set train.accumulate={portions}: the same batch in {portions} portions"
    return Finding("memory", "doubtful", said, way_out)


def _size(bytes_: int) -> str:
    return f"{bytes_ / 1e9:.3g} GB" if bytes_ >= 1e9 else f"{bytes_ / 1e6:.3g} MB"
