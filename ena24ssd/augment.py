"""What may be changed without changing the truth?

Boxes follow their pixels and none appears from nothing. Nothing changes in place, and what is switched off draws no
random number and touches no byte.

SSD's own recipe (Liu et al. 2016) cuts anywhere and keeps the boxes whose centre stays inside: an animal whose front
half still shows is then learnt as background. Here a window shows an animal nearly whole or not at all, and where no
such window is found, the picture stays whole.

What is done to light and colour never looks at the boxes. An animal made brighter with the help of its box would teach
the network to look for the help.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import log

import numpy as np
from PIL import Image

from ena24ssd.config import AugmentConfig
from ena24ssd.pictures import BAR

KEPT = 0.75  # of the area of its box must show, or the animal may not show at all
LEAST_OVERLAPS = (0.0, 0.1, 0.3, 0.5)  # IoU of window and every animal in it; one is drawn for each window, as in SSD
TRIES = 30  # windows drawn before a picture stays whole
SMALLEST_WINDOW = 0.4  # of the picture's side
ASPECT = 1.5  # a window stretches the picture by at most this much more one way than the other
LARGEST_CANVAS = 2.0  # times the picture's side
SMALLEST_BOX = 4  # pixels: no canvas makes an animal narrower, for nothing could be seen of it
CANVAS = BAR

LUMA = (0.299, 0.587, 0.114)
TO_YIQ = np.array([LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)])  # luma, and two axes of colour
FROM_YIQ = np.linalg.inv(TO_YIQ)
NEAR_INFRARED = (0.45, 0.5, 0.05, 0)  # of red, green, blue, and nothing added: leaves and fur are light, sky is dark


def augment(
    images: np.ndarray, truth: np.ndarray, random: np.random.Generator, config: AugmentConfig
) -> tuple[np.ndarray, np.ndarray]:
    """A batch as it might also have been taken.

    Parameters: ``images`` (B, S, S, 3) uint8; ``truth`` (B, M, 5) float32, [label, unit corners], rows of -1 at the
    end. Returns both in the same shapes and types; the order of the boxes stays.
    """
    count = len(images)
    if config.flip:
        images, truth = mirror(images, truth, random.random(count) < 0.5)
    if config.infrared:
        night = random.random(count) < config.infrared
        images = _stack(look_infrared(image, random) if dark else image for image, dark in zip(images, night))
    if config.light or config.colour:
        spread = np.array([[config.light], [config.light], [config.colour], [config.colour / 2]])
        images = recolour(images, *([[1], [1], [1], [0]] + spread * random.uniform(-1, 1, (4, count))))
    if config.crop or config.expand:
        images, truth = images.copy(), truth.copy()
        for i, kind in enumerate(random.random(count)):
            if kind < config.crop:
                images[i], truth[i] = show(images[i], truth[i], choose_window(truth[i], random))
            elif kind < config.crop + config.expand:
                images[i], truth[i] = show(images[i], truth[i], choose_canvas(truth[i], len(images[i]), random))
    return images, truth


# -- what the square shows ---------------------------------------------------------------------------------------------


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


def choose_window(truth: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A part of a picture that may be shown instead of it: (4,) unit corners; the whole where no other will do.

    Parameters: ``truth`` (M, 5), the picture's boxes.
    """
    least = random.choice(LEAST_OVERLAPS, TRIES)
    scale = random.uniform(SMALLEST_WINDOW, 1, TRIES)
    stretch = np.exp(random.uniform(-log(ASPECT) / 2, log(ASPECT) / 2, TRIES))
    size = np.stack([scale * stretch, scale / stretch], axis=1).clip(None, 1)
    low = random.random((TRIES, 2)) * (1 - size)
    windows = np.concatenate([low, low + size], axis=1)
    good = allowed(windows, truth, least)
    return windows[good.argmax()] if good.any() else np.array([0.0, 0.0, 1.0, 1.0])


def allowed(windows: np.ndarray, truth: np.ndarray, least: np.ndarray) -> np.ndarray:
    """Which windows show every animal nearly whole or not at all, and, of a picture with animals, at least one.

    Parameters: ``windows`` (T, 4) unit corners inside the picture; ``truth`` (M, 5); ``least`` (T,): the IoU
    that each window must have with every box it shows. Returns (T,) bool. Every window of a blank picture is allowed.
    """
    boxes = truth[truth[:, 0] >= 0, 1:].astype(np.float64)
    if not len(boxes):
        return np.ones(len(windows), dtype=bool)
    windows = windows[:, None]  # (T, 1, 4), to be compared with (M, 4)
    inside = np.minimum(windows[..., 2:], boxes[:, 2:]) - np.maximum(windows[..., :2], boxes[:, :2])  # (T, M, 2)
    shown = inside.clip(0).prod(axis=-1)
    area, whole = (np.prod(some[..., 2:] - some[..., :2], axis=-1) for some in (boxes, windows))
    touched = (inside > 0).all(axis=-1)
    good = (shown >= KEPT * area) & (shown >= np.reshape(least, (-1, 1)) * (area + whole - shown))
    return (good | ~touched).all(axis=1) & touched.any(axis=1)


def choose_canvas(truth: np.ndarray, side: int, random: np.random.Generator) -> np.ndarray:
    """A window (4,) with the whole picture somewhere in it, up to `LARGEST_CANVAS` times as wide.

    Parameters: ``truth`` (M, 5), the picture's boxes; ``side``: S. No box gets narrower than `SMALLEST_BOX` pixels; a
    picture with a box that is so already is not shrunk. The picture comes to lie on whole pixels.
    """
    boxes = truth[truth[:, 0] >= 0, 1:]
    narrowest = (boxes[:, 2:] - boxes[:, :2]).min(initial=1.0) * side
    largest = min(max(narrowest / SMALLEST_BOX, 1.0), LARGEST_CANVAS)
    inner = int(np.ceil(side / random.uniform(1, largest)))  # the picture's side in pixels
    low = -random.integers(0, side - inner, 2, endpoint=True) / inner
    return np.concatenate([low, low + side / inner])


def show(image: np.ndarray, truth: np.ndarray, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One picture (S, S, 3) seen through ``window`` (4,), unit corners that may reach beyond it, and its boxes (M, 5).

    Beyond the picture is `CANVAS`. Boxes are clipped; those of which nothing shows are gone, and the rest moves up.
    """
    low, size, side = window[:2], window[2:] - window[:2], len(image)
    part = window.clip(0, 1)  # of the picture, and where in the square it comes to lie
    place = np.rint((part.reshape(2, 2) - low) / size * side).astype(int).ravel()
    seen = Image.fromarray(image).resize(tuple(place[2:] - place[:2]), Image.Resampling.BILINEAR, tuple(part * side))
    square = Image.new("RGB", (side, side), CANVAS)
    square.paste(seen, tuple(place[:2]))

    boxes = truth[truth[:, 0] >= 0].astype(np.float64)
    corners = ((boxes[:, 1:].reshape(-1, 2, 2) - low) / size).clip(0, 1).reshape(-1, 4)
    there = (corners[:, 2:] > corners[:, :2]).all(axis=1)
    moved = np.full_like(truth, -1)
    moved[: there.sum()] = np.column_stack([boxes[:, 0], corners])[there]
    return np.asarray(square), moved


# -- light and colour --------------------------------------------------------------------------------------------------


def recolour(
    images: np.ndarray, brightness: np.ndarray, contrast: np.ndarray, saturation: np.ndarray, hue: np.ndarray
) -> np.ndarray:
    """Every picture (B, S, S, 3) in other light; what is grey stays grey.

    Parameters, all (B,): ``brightness`` multiplies everything, ``contrast`` the distance from the picture's mean luma,
    ``saturation`` the distance from grey; ``hue`` turns the colours, in radians.
    """
    colour = np.zeros((len(images), 3, 3))  # in YIQ, all of it is one small matrix
    colour[:, 0, 0] = 1
    colour[:, 1, 1] = colour[:, 2, 2] = saturation * np.cos(hue)
    colour[:, 2, 1] = saturation * np.sin(hue)
    colour[:, 1, 2] = -colour[:, 2, 1]
    mixes = (brightness * contrast)[:, None, None] * (FROM_YIQ @ colour @ TO_YIQ)
    lifts = brightness * (1 - contrast)
    return _stack(_mix(image, mix, lift) for image, mix, lift in zip(images, mixes, lifts))


def look_infrared(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """One picture (S, S, 3) as if taken by infrared flash: grey, lit from the camera, dark towards the rim, grainy."""
    side = len(image)
    centre = random.uniform([0.35, 0.45], [0.65, 0.75])  # x and y: the flash lights the ground more than the sky
    low, high = [0.0, 1.0, 0.0, 50.0], [5.0, 1.6, 7.0, 105.0]
    falloff, gamma, grain, exposure = random.uniform(low, high).astype(np.float32)
    across, down = ((np.linspace(0, 1, side) - centre[:, None]) ** 2).astype(np.float32)
    curve = np.linspace(0, 1, 256, dtype=np.float32) ** gamma
    lit = curve[np.asarray(Image.fromarray(image).convert("L", NEAR_INFRARED))]  # (S, S)
    lit /= 1 + falloff * (across + down[:, None])
    lit *= exposure / max(lit.mean(), 0.15)  # the camera makes a dark night lighter, but not any night
    lit += grain * random.standard_normal((side, side), dtype=np.float32)
    return np.asarray(Image.fromarray(lit.clip(0, 255).astype(np.uint8)).convert("RGB"))


def _mix(image: np.ndarray, mix: np.ndarray, lift: float) -> np.ndarray:
    """Red, green and blue (S, S, 3) mixed by a (3, 3) matrix, and ``lift`` times the picture's mean luma added."""
    picture = Image.fromarray(image)
    mean = picture.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    added = [[lift * np.dot(LUMA, mean)]] * 3
    return np.asarray(picture.convert("RGB", tuple(np.hstack([mix, added]).ravel().tolist())))


def _stack(images: Iterable[np.ndarray]) -> np.ndarray:
    return np.stack(list(images))
