"""What might an engine be asked?  Networks, pictures and truths that its tests share."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from ena24ssd.config import RunConfig, read_config
from ena24ssd.data import Batch
from ena24ssd.engine import Engine, load_engine

SPECIES = ("Bird", "Coyote", "Dog")
TINY = ("device=cpu", "model.width=0.04", "data.image_side=48", "precision=float32")

# What a box may be; the odd ones as often as the others.
BOXES = ("anywhere", "tiny", "at the border", "on the grid", "again", "without area", "outside", "no number")


def tiny_config(engine: str, *overrides: str, preset: str | None = None) -> RunConfig:
    return read_config(preset, [*TINY, f"engine={engine}", *overrides])


def tiny_engine(engine: str, *overrides: str, preset: str | None = None) -> Engine:
    return load_engine(tiny_config(engine, *overrides, preset=preset), SPECIES)


def a_batch(seed: int = 0, pictures: int = 3, side: int = 48) -> Batch:
    """Noise with up to four boxes a picture; the last picture of three and more is blank."""
    random = np.random.default_rng(seed)
    truth = np.full((pictures, 5, 5), -1, np.float32)
    for number, rows in enumerate(truth):
        for row in rows[: random.integers(1, 5)] if number < 2 or number < pictures - 1 else ():
            size = random.uniform(0.1, 0.9, 2)
            low = random.uniform(0, 1 - size)
            row[:] = random.integers(len(SPECIES)), *low, *(low + size)
    images = random.integers(0, 256, (pictures, side, side, 3), np.uint8)
    return Batch(images, truth, tuple(map(str, range(pictures))))


@st.composite
def truths(draw: st.DrawFn) -> np.ndarray:
    """Boxes of one to three pictures, (B, M, 5): blank, crowded, tiny, cut by the border, twice the same, degenerate.

    Every picture has a row of padding behind its boxes, or nothing but that.
    """
    pictures = draw(st.lists(st.lists(st.sampled_from(BOXES), max_size=7), min_size=1, max_size=3))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    truth = np.full((len(pictures), max(map(len, pictures)) + 1, 5), -1, np.float32)
    for rows, kinds in zip(truth, pictures):
        for place, kind in enumerate(kinds):
            rows[place] = random.integers(len(SPECIES)), *_corners(kind, random)
            if kind == "again" and place:
                rows[place, 1:] = rows[place - 1, 1:]
    return truth


def _corners(kind: str, random: np.random.Generator) -> np.ndarray:
    size = random.uniform(0.05, 0.95, 2)
    low = random.uniform(0, 1 - size)
    if kind == "tiny":
        size = random.uniform(1e-4, 1e-2, 2)
    elif kind == "at the border":
        low = np.where(random.random(2) < 0.5, 0, 1 - size)
    elif kind == "on the grid":  # of half a cell and an eighth: ties between anchors, and between boxes
        low, size = random.integers(0, 8, 2) / 10, random.integers(1, 3, 2) / 5
    elif kind == "without area":
        size[random.integers(2)] = 0
    elif kind == "outside":
        low = low + 2
    corners = np.concatenate([low, low + size])
    if kind == "no number":
        corners[random.integers(4)] = np.nan
    return corners


def assert_equal(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], least: float) -> None:
    """The same arrays, to this absolute difference."""
    assert ours.keys() == theirs.keys() and ours
    for name, values in ours.items():
        assert values.shape == theirs[name].shape, name
        assert np.abs(values - theirs[name]).max(initial=0) <= least, name
