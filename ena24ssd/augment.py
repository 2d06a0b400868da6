"""What may be changed without changing the truth?

Boxes follow their pixels; none appears, none vanishes while its animal can still be seen. Nothing changes in place.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

KEPT = 0.75  # the share of every box's area that a crop must leave inside


def augment(
    images: np.ndarray, truth: np.ndarray, random: np.random.Generator, *, flip: bool, crop: float, light: float
) -> tuple[np.ndarray, np.ndarray]:
    """A batch as it might also have been taken.

    Parameters: ``images`` (B, S, S, 3) uint8; ``truth`` (B, M, 5) unit corners, rows of -1 are padding. ``flip``:
    mirror half of the pictures. ``crop``: cut up to this share off each picture's width and height. ``light``: change
    brightness and contrast by up to this share.
    """
    count = len(images)
    if flip:
        images, truth = mirror(images, truth, random.random(count) < 0.5)
    if crop:
        images, truth = images.copy(), truth.copy()
        for i, (cut, place) in enumerate(zip(random.uniform(0, crop, (count, 2)), random.random((count, 2)))):
            window = np.concatenate([cut * place, 1 - cut * (1 - place)])
            if keeps_boxes(truth[i], window):
                images[i], truth[i] = crop_to(images[i], truth[i], window)
    if light:
        images = relight(images, *random.uniform(1 - light, 1 + light, (2, count)))
    return images, truth


def mirror(images: np.ndarray, truth: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mirror the ``chosen`` pictures left to right.

    Parameters: ``images`` (B, S, S, 3); ``truth`` (B, M, 5) unit corners, rows of -1 are padding; ``chosen`` (B,) bool.
    """
    images, truth = images.copy(), truth.copy()
    images[chosen] = images[chosen, :, ::-1]
    mirrored = truth[chosen]
    real = mirrored[..., 0] >= 0
    mirrored[real] = np.stack(
        [mirrored[real, 0], 1 - mirrored[real, 3], mirrored[real, 2], 1 - mirrored[real, 1], mirrored[real, 4]], axis=-1
    )
    truth[chosen] = mirrored
    return images, truth


def keeps_boxes(truth: np.ndarray, window: np.ndarray) -> bool:
    """Whether ``window`` (4,), unit corners, shows at least `KEPT` of every box of one picture's ``truth`` (M, 5)."""
    boxes = truth[truth[:, 0] >= 0, 1:]
    inside = np.minimum(boxes[:, 2:], window[2:]) - np.maximum(boxes[:, :2], window[:2])
    shown = np.prod(np.clip(inside, 0, None), axis=1)
    return bool(np.all(shown >= KEPT * np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)))


def crop_to(image: np.ndarray, truth: np.ndarray, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One picture (S, S, 3) cut to ``window`` and resized back to its size; boxes (M, 5) clipped to it."""
    side = len(image)
    cut = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR, box=tuple(window * side))
    moved = truth.copy()
    real = truth[:, 0] >= 0
    size = np.tile(window[2:] - window[:2], 2)
    moved[real, 1:] = np.clip((truth[real, 1:] - np.tile(window[:2], 2)) / size, 0, 1)
    return np.asarray(cut), moved


def relight(images: np.ndarray, brightness: np.ndarray, contrast: np.ndarray) -> np.ndarray:
    """Every picture (B, S, S, 3) times its ``brightness`` (B,), its contrast round its mean times ``contrast`` (B,)."""
    pixels = images.astype(np.float32)
    mean = pixels.mean(axis=(1, 2, 3), keepdims=True)
    per_picture = (-1, 1, 1, 1)
    lit = (mean + (pixels - mean) * contrast.reshape(per_picture)) * brightness.reshape(per_picture)
    return np.clip(lit, 0, 255).astype(np.uint8)
