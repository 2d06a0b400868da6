"""How might a picture also have been taken?

Here every change is drawn and the boxes follow it; the pixels follow elsewhere, by the same record of `Changes`: on the
host (`ena24ssd.augment`), or on a device that holds the pictures (`ena24ssd.pytorch.pictures`). NumPy is all it takes.

Nothing changes in place, no box appears from nothing, and what is switched off draws no random number.

SSD's own recipe (Liu et al. 2016) cuts anywhere and keeps the boxes whose centre stays inside: an animal whose front
half still shows is then learnt as background. Here a window shows an animal nearly whole or not at all, and where no
such window is found, the picture stays whole.

What is done to light and colour never looks at the boxes. An animal made brighter with the help of its box would teach
the network to look for the help.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # it needs pydantic
    from ena24ssd.config import AugmentConfig

KEPT = 0.75  # of the area of its box must show, or the animal may not show at all
LEAST_OVERLAPS = (0.0, 0.1, 0.3, 0.5)  # IoU of window and every animal in it; one is drawn for each window, as in SSD
TRIES = 30  # windows drawn before a picture stays whole
SMALLEST_WINDOW = 0.4  # of the picture's side
ASPECT = 1.5  # a window stretches the picture by at most this much more one way than the other
LARGEST_CANVAS = 2.0  # times the picture's side
SMALLEST_BOX = 4  # pixels: no canvas makes an animal narrower, for nothing could be seen of it
WHOLE = (0.0, 0.0, 1.0, 1.0)  # the window that shows the picture as it is
CANVAS = (124, 116, 104)  # what lies beyond the picture: `ena24ssd.pictures.BAR`, for that room needs Pillow

LUMA = (0.299, 0.587, 0.114)
TO_YIQ = np.array([LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)])  # luma, and two axes of colour
FROM_YIQ = np.linalg.inv(TO_YIQ)
NEAR_INFRARED = (0.45, 0.5, 0.05)  # of red, green, blue: leaves and fur are light, sky is dark
DARKEST = 0.15  # of white: the camera makes a dark night lighter, but no mean below this


@dataclass(frozen=True)
class Infrared:
    """What infrared flash makes of some pictures of a batch: grey, lit from the camera, dark at the rim, grainy."""

    rows: np.ndarray  # (K,) int64, which pictures of the batch
    centres: np.ndarray  # (K, 2) float64, where the light falls, x and y in units of the square
    falloff: np.ndarray  # (K,) float32: the light is divided by 1 + falloff * (squared distance from the centre)
    gamma: np.ndarray  # (K,) float32, the power that grey in [0, 1] is raised to
    exposure: np.ndarray  # (K,) float32, levels: the mean of the picture, where that was not too dark
    grain: np.ndarray  # (K,) float32, levels: the standard deviation of the noise
    noise: np.ndarray  # (K, S, S) float32, standard normal


@dataclass(frozen=True)
class Changes:
    """What is done to each picture of a batch, in this order; None: nothing, to none of them."""

    mirrored: np.ndarray | None = None  # (B,) bool
    infrared: Infrared | None = None
    mixes: np.ndarray | None = None  # (B, 3, 3) float64, of red, green and blue
    lifts: np.ndarray | None = None  # (B,) float64, added with the mixes: this times the picture's mean luma
    windows: np.ndarray | None = None  # (B, 4) float64, what is shown: unit corners that may reach beyond the picture


def draw_changes(
    truth: np.ndarray, side: int, random: np.random.Generator, config: AugmentConfig
) -> tuple[Changes, np.ndarray]:
    """Changes for a batch of pictures, and where their boxes are then.

    Parameters: ``truth`` (B, M, 5) float32, [label, unit corners], rows of -1 at the end; ``side``: S, the pictures'
    side in pixels. Returns the truth in the same shape and type; the order of the boxes stays.
    """
    count = len(truth)
    mirrored = infrared = mixes = lifts = windows = None
    if config.flip:
        mirrored = random.random(count) < 0.5
        truth = mirror_boxes(truth, mirrored)
    if config.infrared:
        infrared = draw_infrared(np.flatnonzero(random.random(count) < config.infrared), side, random)
    if config.light or config.colour:
        spread = np.array([[config.light], [config.light], [config.colour], [config.colour / 2]])
        mixes, lifts = mix_colours(*([[1], [1], [1], [0]] + spread * random.uniform(-1, 1, (4, count))))
    if config.crop or config.expand:
        kinds = random.random(count)
        cut, seen = kinds < config.crop, kinds < config.crop + config.expand
        windows, drawn = np.tile(WHOLE, (count, 1)), np.empty((count, TRIES, 5))
        for i in np.flatnonzero(seen):
            if cut[i]:
                drawn[i] = draw_windows(random)
            else:
                windows[i] = choose_canvas(truth[i], side, random)
        windows[cut] = choose_windows(truth[cut], drawn[cut])
        truth = truth.copy()
        truth[seen] = show_boxes(truth[seen], windows[seen])
    return Changes(mirrored, infrared, mixes, lifts, windows), truth


# -- what the square shows ---------------------------------------------------------------------------------------------


def mirror_boxes(truth: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The boxes (B, M, 5), unit corners, of pictures of which the ``chosen`` (B,) are mirrored left to right."""
    truth = truth.copy()
    mirrored = truth[chosen]
    real = mirrored[..., 0] >= 0
    mirrored[real] = np.stack(
        [mirrored[real, 0], 1 - mirrored[real, 3], mirrored[real, 2], 1 - mirrored[real, 1], mirrored[real, 4]], axis=-1
    )
    truth[chosen] = mirrored
    return truth


def draw_windows(random: np.random.Generator) -> np.ndarray:
    """Windows that a picture may be cut to, (TRIES, 5): unit corners inside it, and behind them the least IoU of each
    with every animal that it shows.
    """
    least = np.array(LEAST_OVERLAPS)[random.integers(len(LEAST_OVERLAPS), size=TRIES)]
    scale = random.uniform(SMALLEST_WINDOW, 1, TRIES)
    stretch = np.exp(random.uniform(-log(ASPECT) / 2, log(ASPECT) / 2, TRIES))
    size = np.stack([scale * stretch, scale / stretch], axis=1).clip(None, 1)
    low = random.random((TRIES, 2)) * (1 - size)
    return np.column_stack([low, low + size, least])


def choose_windows(truth: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """The first good window of those ``drawn`` (B, T, 5) for each picture, (B, 4); the whole where no other will do.

    Parameters: ``truth`` (B, M, 5), the pictures' boxes.
    """
    good = allowed(drawn[..., :4], truth, drawn[..., 4])
    first = drawn[np.arange(len(drawn)), good.argmax(axis=1), :4]
    return np.where(good.any(axis=1, keepdims=True), first, WHOLE)


def allowed(windows: np.ndarray, truth: np.ndarray, least: np.ndarray) -> np.ndarray:
    """Which windows show every animal nearly whole or not at all, and, of a picture with animals, at least one.

    Parameters: ``windows`` (B, T, 4) unit corners inside the picture; ``truth`` (B, M, 5); ``least`` (B, T): the IoU
    that each window must have with every box it shows. Returns (B, T) bool. Every window of a blank picture is allowed.
    """
    real = truth[:, None, :, 0] >= 0  # (B, 1, M)
    boxes = truth[:, None, :, 1:].astype(np.float64)  # (B, 1, M, 4)
    windows = windows[:, :, None]  # (B, T, 1, 4)
    inside = np.minimum(windows[..., 2:], boxes[..., 2:]) - np.maximum(windows[..., :2], boxes[..., :2])
    shown = inside.clip(0).prod(axis=-1)  # (B, T, M)
    area, whole = (np.prod(some[..., 2:] - some[..., :2], axis=-1) for some in (boxes, windows))
    touched = (inside > 0).all(axis=-1) & real
    good = (shown >= KEPT * area) & (shown >= least[..., None] * (area + whole - shown))
    return (good | ~touched).all(axis=-1) & touched.any(axis=-1) | ~real.any(axis=-1)


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


def show_boxes(truth: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """The boxes (B, M, 5) of pictures seen through their windows (B, 4), unit corners that may reach beyond them.

    Boxes are clipped; those of which nothing shows are gone, and the rest moves up.
    """
    low, size = windows[:, None, :2], windows[:, None, 2:] - windows[:, None, :2]
    corners = [((truth[..., i : i + 2].astype(np.float64) - low) / size).clip(0, 1) for i in (1, 3)]
    there = (truth[..., 0] >= 0) & (corners[1] > corners[0]).all(axis=-1)  # (B, M)
    moved = np.where(there[..., None], np.concatenate([truth[..., :1], *corners], axis=-1), -1)
    order = np.argsort(~there, axis=1, kind="stable")
    return np.take_along_axis(moved, order[..., None], axis=1).astype(truth.dtype)


def place_parts(windows: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Which part of each picture its window (B, 4) shows, and where in the square of ``side`` pixels that comes to lie.

    Returns two (B, 4), left, top, right and bottom in pixels: the parts float64, the places int64.
    """
    corners = windows.reshape(-1, 2, 2)
    low, size = corners[:, :1], corners[:, 1:] - corners[:, :1]
    parts = corners.clip(0, 1)
    places = np.rint((parts - low) / size * side).astype(np.int64)
    return (parts * side).reshape(-1, 4), places.reshape(-1, 4)


# -- light and colour --------------------------------------------------------------------------------------------------


def draw_infrared(rows: np.ndarray, side: int, random: np.random.Generator) -> Infrared | None:
    """How flash lights the pictures at ``rows`` (K,) of a batch, of ``side`` pixels; None for none."""
    low, high = [0.0, 1.0, 0.0, 50.0], [5.0, 1.6, 7.0, 105.0]
    centres, lights = np.empty((len(rows), 2)), np.empty((len(rows), 4), dtype=np.float32)
    noise = np.empty((len(rows), side, side), dtype=np.float32)
    for i in range(len(rows)):
        centres[i] = random.uniform([0.35, 0.45], [0.65, 0.75])  # the flash lights the ground more than the sky
        lights[i] = random.uniform(low, high)
        random.standard_normal(dtype=np.float32, out=noise[i])
    falloff, gamma, grain, exposure = lights.T
    return Infrared(rows, centres, falloff, gamma, exposure, grain, noise) if len(rows) else None


def mix_colours(
    brightness: np.ndarray, contrast: np.ndarray, saturation: np.ndarray, hue: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The ``mixes`` and ``lifts`` of `Changes` that show pictures in other light; what is grey stays grey.

    Parameters, all (B,): ``brightness`` multiplies everything, ``contrast`` the distance from the picture's mean luma,
    ``saturation`` the distance from grey; ``hue`` turns the colours, in radians.
    """
    colour = np.zeros((len(hue), 3, 3))  # in YIQ, all of it is one small matrix
    colour[:, 0, 0] = 1
    colour[:, 1, 1] = colour[:, 2, 2] = saturation * np.cos(hue)
    colour[:, 2, 1] = saturation * np.sin(hue)
    colour[:, 1, 2] = -colour[:, 2, 1]
    return (brightness * contrast)[:, None, None] * (FROM_YIQ @ colour @ TO_YIQ), brightness * (1 - contrast)
