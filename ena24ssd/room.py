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

from ena24ssd.config import ModelConfig, RunConfig
from ena24ssd.efficientnet import blocks_of, map_ends
from ena24ssd.findings import Finding
from ena24ssd.memory import available_memory
from ena24ssd.stages import stage_of
from ena24ssd.wheels import version_of

# The network of the post: values of its extractor, and of the rest. They grow with model.width squared at most.
EXTRACTOR, REST = 5_987_000, 3_715_740
# Bytes, measured while training on a CPU. What a picture takes is in proportion to the pixels of its square.
PROCESS_BYTES = 400_000_000
BYTES_PER_PIXEL = 15_000  # of the post's network, alike for both engines; it grows with model.width
# Of an efficientnet_lite0: where the heads alone learn (pyramid: 128), and in addition where the whole backbone does.
HEADS_BYTES_PER_PIXEL = {"gluon": 3_200, "pytorch": 420}
BACKBONE_BYTES_PER_PIXEL = {"gluon": 1_900, "pytorch": 1_500}
LARGER = {"efficientnet_lite0": 1.0, "efficientnet_lite1": 1.3, "efficientnet_lite2": 1.3}  # backbones


def judge_room(config: RunConfig, out: Path, pictures: int | None) -> list[Finding]:
    """Disk and memory for a run into ``out``, over so many ``pictures`` where that is known."""
    least, comfortable = _run_bytes(config)
    run = _place("run folder", out, least, comfortable, "Make room, or name a folder elsewhere with --out")
    cache = config.data.cache or platformdirs.user_cache_path("ena24ssd")
    squares = _squares_to_come(config, cache, pictures)
    way_out = "Make room, or name a folder elsewhere: data.cache=FOLDER"
    return [run, _place("picture cache", cache, squares, squares, way_out), _temporary(), _memory(config)]


def devices_of(config: RunConfig) -> Sequence[str]:
    """The devices that a config names, one or several."""
    return (config.device,) if isinstance(config.device, str) else config.device


def _run_bytes(config: RunConfig) -> tuple[int, int]:
    """What the values of the backbone take, once, and what a run folder takes at most.

    The state to go on from holds all values, and two averages of Adam and, with optim.average, the raw value of each
    that learns. There are three such states while one is replaced, and the best values by themselves.
    """
    backbone, rest = _count_values(config.model)
    learning = rest + (backbone if _late_share(config) else 0)
    besides = 2 + (config.optim.average is not None)
    return 4 * backbone, 4 * (4 * (backbone + rest) + 3 * besides * learning)


def _count_values(model: ModelConfig) -> tuple[int, int]:
    """About how many values the backbone has, and how many all that is behind it."""
    if model.backbone == "custom_conv":
        return round(EXTRACTOR * model.width**2), round(REST * model.width**2)
    blocks = blocks_of(model.backbone)
    wide = sum(block.inner * ((block.entering if block.expands else 0) + block.leaving) for block in blocks)
    deep = sum(block.inner * block.kernel**2 for block in blocks)
    separable = 1 + 2 * model.towers  # convolutions of the pyramid and of both towers
    lateral = sum(blocks[end].leaving for end in map_ends(model.backbone).values())
    return wide + deep, model.pyramid * (model.pyramid * separable + lateral)


def _late_share(config: RunConfig) -> float:
    """How much of the backbone learns in the last stage, in which the most does."""
    epochs = config.train.epochs
    return stage_of(config.optim, epochs - 1, epochs).share


def _picture_bytes(config: RunConfig) -> float:
    """Memory that a picture takes while training on a CPU."""
    model = config.model
    if model.backbone == "custom_conv":
        return BYTES_PER_PIXEL * model.width * config.data.image_side**2
    # Of 'auto', as `ena24ssd.engine.choose_engine` has it, as far as that can be said without loading either.
    is_gluon = config.engine == "gluon" or (config.engine == "auto" and version_of("torch") is None)
    engine = "gluon" if is_gluon else "pytorch"
    heads = HEADS_BYTES_PER_PIXEL[engine] * max(1, model.pyramid / 128)
    # The last blocks look at coarse maps: half of the blocks take a quarter of the memory.
    backbone = BACKBONE_BYTES_PER_PIXEL[engine] * LARGER[model.backbone] * _late_share(config) ** 2
    return (heads + backbone) * config.data.image_side**2


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
    picture = _picture_bytes(config)
    needed, said = PROCESS_BYTES, f"{_size(free)} free"
    if all(device == "auto" or device.startswith("cpu") for device in devices_of(config)):
        needed += round(picture * -(-batch // config.train.accumulate))
        said += f"; on the CPU a batch of {batch} needs about {_size(needed)}"
    if needed <= free:
        return Finding("memory", "ok", said)
    portions = next((n for n in range(2, batch + 1) if PROCESS_BYTES + picture * -(-batch // n) <= free), None)
    smaller = "model.width or " if config.model.backbone == "custom_conv" else ""
    way_out = f"End other programs, or lower {smaller}data.image_side"
    if portions is not None:
        way_out = f"Set train.accumulate={portions}: the same batch in {portions} portions"
    return Finding("memory", "doubtful", said, way_out)


def _size(bytes_: int) -> str:
    return f"{bytes_ / 1e9:.3g} GB" if bytes_ >= 1e9 else f"{bytes_ / 1e6:.3g} MB"
