"""Do pictures become the same on a device as on the host?"""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="the pytorch extra is not installed")

import torch

from ena24ssd import augment
from ena24ssd.changes import CANVAS, Changes, draw_changes
from ena24ssd.config import AugmentConfig
from ena24ssd.pytorch import pictures
from ena24ssd.pytorch.pictures import Squares, normalise, render

OFF = {"flip": False, "crop": 0, "expand": 0, "light": 0, "colour": 0, "infrared": 0}
KINDS = {
    "mirrored": {"flip": True},
    "cut": {"crop": 1},
    "on a canvas": {"expand": 1},
    "in other light": {"light": 0.5},
    "in other colours": {"colour": 0.5},
    "by infrared flash": {"infrared": 1},
    "some by infrared flash": {"infrared": 0.5},
    "all together": {"flip": True, "crop": 0.5, "expand": 0.5, "light": 0.5, "colour": 0.5, "infrared": 0.5},
    "as the presets have it": AugmentConfig().model_dump(),
}


def noise(count: int, side: int) -> np.ndarray:
    """The hardest to resample."""
    return np.random.default_rng(side).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def slopes(count: int, side: int) -> np.ndarray:
    """Smooth pictures, each with its own tint, with bars above and below as letterboxed ones have."""
    down, across = np.mgrid[:side, :side] / (side - 1)
    colours = np.stack([across, down * across, 1 - down], axis=-1)
    images = (colours * np.random.default_rng(1).uniform(100, 255, (count, 1, 1, 3))).astype(np.uint8)
    images[:, : side // 5] = images[:, -side // 5 :] = CANVAS
    return images


def boxes(count: int) -> np.ndarray:
    truth = np.full((count, 2, 5), -1.0, dtype=np.float32)
    truth[::2, 0] = [1, 0.2, 0.3, 0.6, 0.7]  # every other picture is blank
    return truth


@pytest.mark.parametrize(
    "images", [noise(6, 61), slopes(6, 96), noise(1, 32)], ids=["noise", "slopes", "a batch of one"]
)
@pytest.mark.parametrize("choices", KINDS.values(), ids=KINDS)
def test_a_device_renders_what_pillow_renders(images, choices):
    config = AugmentConfig(**OFF | choices)
    for seed in range(3):
        changes, _ = draw_changes(boxes(len(images)), images.shape[1], np.random.default_rng(seed), config)
        found = render(torch.from_numpy(images), changes)
        assert found.shape == images.shape and found.dtype == torch.uint8
        difference = np.abs(found.numpy().astype(int) - augment.render(images, changes))
        assert difference.mean() < 0.02 and difference.max() <= 2


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(Changes(), id="nothing"),
        pytest.param(Changes(windows=np.tile([0.0, 0, 1, 1], (3, 1))), id="windows on the whole"),
        pytest.param(Changes(mixes=np.tile(np.eye(3), (3, 1, 1)), lifts=np.zeros(3)), id="light as it was"),
        pytest.param(Changes(mirrored=np.zeros(3, dtype=bool)), id="none mirrored"),
    ],
)
def test_what_changes_nothing_keeps_every_byte(changes):
    images = noise(3, 40)
    assert np.array_equal(render(torch.from_numpy(images), changes).numpy(), images)


def test_nothing_is_changed_in_place():
    images = torch.from_numpy(noise(4, 32))
    before = images.clone()
    for seed in range(3):
        config = AugmentConfig(**OFF | KINDS["all together"])
        render(images, draw_changes(boxes(4), 32, np.random.default_rng(seed), config)[0])
    assert torch.equal(images, before)


@pytest.mark.parametrize("choices", [{}, KINDS["all together"]], ids=["as they are", "changed"])
def test_a_batch_of_none_stays_one(choices):
    squares = Squares(noise(3, 32), "cpu").take(np.zeros(0, dtype=np.int64))
    changes, _ = draw_changes(boxes(0), 32, np.random.default_rng(0), AugmentConfig(**OFF | choices))
    found = render(squares, changes)
    assert found.shape == (0, 32, 32, 3) and found.dtype == torch.uint8
    assert normalise(found, (0.5, 0.5, 0.5), (1, 1, 1)).shape == (0, 3, 32, 32)


@pytest.mark.parametrize(
    "block", [1, 2 * 8 * 8 * 3, 2**26], ids=["smaller than a square", "two squares", "all at once"]
)
def test_squares_are_copied_block_by_block_and_taken_by_row(block, tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(pictures, "BLOCK", block)
    np.save(tmp_path / "squares.npy", noise(5, 8))
    mapped = np.load(tmp_path / "squares.npy", mmap_mode="r")
    squares = Squares(mapped, "cpu")
    assert len(squares) == 5 and np.array_equal(squares.pixels.numpy(), mapped)
    rows = np.array([4, 0, 4])
    for taken in (squares.take(rows), squares.take(torch.from_numpy(rows))):
        assert taken.dtype == torch.uint8 and np.array_equal(taken.numpy(), mapped[rows])
    assert not recwarn.list, "torch warns of arrays that it could write through to the file"


@pytest.mark.parametrize("row", [-1, 5])
def test_a_row_that_is_not_there_is_named(row):
    with pytest.raises(IndexError, match=f"rows are 0 to 4, and {row} was asked for"):
        Squares(noise(5, 8), "cpu").take(np.array([0, row]))


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize("as_tensors", [False, True], ids=["numbers", "tensors"])
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32], ids=["bytes", "floats"])
def test_normalising_is_the_formula_and_keeps_the_order_of_the_bytes(kind, as_tensors):
    images = noise(3, 16)
    mean, std = (np.array(each, dtype=np.float32) for each in (MEAN, STD))
    expected = ((images.astype(np.float32) / np.float32(255) - mean) / std).transpose(0, 3, 1, 2)
    by = (torch.from_numpy(mean), torch.from_numpy(std)) if as_tensors else (MEAN, STD)
    found = normalise(torch.from_numpy(images).to(kind), *by)
    assert found.dtype == torch.float32 and found.is_contiguous(memory_format=torch.channels_last)
    assert np.abs(found.numpy() - expected).max() <= 1e-6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_renders_what_pillow_renders_and_is_never_waited_for():
    images = noise(6, 61)
    squares, changes = Squares(images, "cuda"), None
    config = AugmentConfig(**OFF | KINDS["all together"])
    for seed in range(3):  # the first allocates
        changes, _ = draw_changes(boxes(6), 61, np.random.default_rng(seed), config)
        torch.cuda.set_sync_debug_mode("error" if seed else "default")
        try:
            shown = render(squares.take(np.arange(6)), changes)
            normalise(shown, MEAN, STD)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        difference = np.abs(shown.cpu().numpy().astype(int) - augment.render(images, changes))
        assert difference.mean() < 0.02 and difference.max() <= 2
