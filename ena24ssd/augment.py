"""What does a changed picture look like?

`ena24ssd.changes` draws what is done to a batch and moves the boxes; here Pillow does it to the pixels. Nothing changes
in place, and what is switched off touches no byte.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from ena24ssd.changes import CANVAS, DARKEST, LUMA, NEAR_INFRARED, WHOLE, Changes, Infrared, draw_changes, place_parts
from ena24ssd.config import AugmentConfig


def augment(
    images: np.ndarray, truth: np.ndarray, random: np.random.Generator, config: AugmentConfig
) -> tuple[np.ndarray, np.ndarray]:
    """A batch as it might also have been taken.

    Parameters: ``images`` (B, S, S, 3) uint8; ``truth`` (B, M, 5) float32, [label, unit corners], rows of -1 at the
    end. Returns both in the same shapes and types; the order of the boxes stays.
    """
    changes, truth = draw_changes(truth, images.shape[1], random, config)
    return render(images, changes), truth


def render(images: np.ndarray, changes: Changes) -> np.ndarray:
    """The pictures (B, S, S, 3) uint8 with ``changes`` done to them, in the same shape and type."""
    if changes.mirrored is not None:
        images = mirror(images, changes.mirrored)
    if changes.infrared is not None:
        images = look_infrared(images, changes.infrared)
    if changes.mixes is not None:
        images = recolour(images, changes.mixes, changes.lifts)
    if changes.windows is not None:
        images = show(images, changes.windows)
    return images


def mirror(images: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The pictures (B, S, S, 3), the ``chosen`` (B,) of them mirrored left to right."""
    images = images.copy()
    images[chosen] = images[chosen, :, ::-1]
    return images


def look_infrared(images: np.ndarray, infrared: Infrared) -> np.ndarray:
    """The pictures (B, S, S, 3), those that ``infrared`` names as if taken by flash."""
    images, places = images.copy(), np.linspace(0, 1, images.shape[1])
    levels = np.linspace(0, 1, 256, dtype=np.float32)
    for i, row in enumerate(infrared.rows):
        across, down = ((places - infrared.centres[i, :, None]) ** 2).astype(np.float32)
        grey = Image.fromarray(images[row]).convert("L", (*NEAR_INFRARED, 0))
        lit = (levels ** infrared.gamma[i])[np.asarray(grey)]  # (S, S)
        lit /= 1 + infrared.falloff[i] * (across + down[:, None])
        lit *= infrared.exposure[i] / max(lit.mean(), DARKEST)
        lit += infrared.grain[i] * infrared.noise[i]
        images[row] = lit.clip(0, 255).astype(np.uint8)[..., None]
    return images


def recolour(images: np.ndarray, mixes: np.ndarray, lifts: np.ndarray) -> np.ndarray:
    """Red, green and blue of every picture (B, S, S, 3) mixed anew, as `Changes` says, and its mean luma lifted."""
    mixed = np.empty_like(images)
    for i, (image, mix, lift) in enumerate(zip(images, mixes, lifts)):
        picture = Image.fromarray(image)
        mean = picture.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
        added = [[lift * np.dot(LUMA, mean)]] * 3
        mixed[i] = np.asarray(picture.convert("RGB", tuple(np.hstack([mix, added]).ravel().tolist())))
    return mixed


def show(images: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Every picture (B, S, S, 3) seen through its window (B, 4), unit corners; beyond the picture is `CANVAS`."""
    images, side = images.copy(), images.shape[1]
    parts, places = (each.tolist() for each in place_parts(windows, side))
    for i in np.flatnonzero((windows != WHOLE).any(axis=1)):
        left, top, right, bottom = places[i]
        seen = Image.fromarray(images[i]).resize((right - left, bottom - top), Image.Resampling.BILINEAR, parts[i])
        square = Image.new("RGB", (side, side), CANVAS)
        square.paste(seen, (left, top))
        images[i] = np.asarray(square)
    return images
