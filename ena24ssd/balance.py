"""How do rare species get their say?

A camera trap sees twenty deer for one bobcat. Two remedies, each by itself or both together: pictures of rare species
are shown more often (repeat-factor sampling: Gupta, Dollar, Girshick, "LVIS", 2019), or their anchors weigh more in
the loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Literal

import numpy as np

from ena24ssd.cameratraps import Image
from ena24ssd.config import ConfigError


def repeat_factors(images: Sequence[Image], class_count: int, below: float) -> np.ndarray:
    """How often an epoch shows each picture, on average: (n,) float64, 1 or above.

    A species that is on a share f of the pictures asks for max(1, sqrt(below / f)); a picture gets what the
    neediest of its species asks for, a blank picture 1.
    """
    shown = [list({label for label, _ in image.boxes}) for image in images]
    pictures = np.bincount([label for labels in shown for label in labels], minlength=class_count)
    asked = np.sqrt(np.maximum(below * len(images) / np.maximum(pictures, 1), 1.0))  # (C,)
    return np.array([asked[labels].max(initial=1.0) for labels in shown], dtype=np.float64)


def epoch_length(factors: np.ndarray) -> int:
    """How many pictures every epoch shows: the sum of the factors, rounded down."""
    return math.floor(math.fsum(factors))  # fsum: the same to the bit on every machine that trains along


def repeated_positions(factors: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Which pictures one epoch shows: (`epoch_length`,) int64, ascending, a repeated one as often as it is shown.

    Each comes up floor or ceil of its factor times, and its factor on average; where the factors do not add up to a
    whole number, their fractions are first shrunk by the same share until they do, so that all epochs are equally long.

    Systematic sampling: one number is drawn, and neighbours in the list (a burst, say) rarely repeat together.
    """
    certain = np.floor(factors).astype(np.int64)
    chances = np.cumsum(factors - certain)
    extra = epoch_length(factors) - int(certain.sum())
    if extra == 0:
        return np.repeat(np.arange(len(factors)), certain)
    drawn = random.random(dtype=np.float32)  # so few digits that below nothing is rounded up to the next whole number
    marks = np.ceil(chances / chances[-1] * extra - drawn).astype(np.int64)
    return np.repeat(np.arange(len(factors)), certain + np.diff(marks, prepend=0))


def species_weights(
    images: Sequence[Image],
    class_names: Sequence[str],
    choice: Literal["equal", "balanced"] | Mapping[str, float],
) -> np.ndarray | None:
    """What an anchor of each species weighs in the cross-entropy: (C,) float32, None where all weigh the same.

    Parameters: ``images``, those the network learns from; ``choice`` is ``loss.species_weights``. "balanced": in
    proportion to 1 / boxes, and 1 on average over the boxes. A species without boxes, or without a weight, weighs 1.

    Raises ConfigError for a weight of a species that is not there.
    """
    if choice == "equal":
        return None
    if choice == "balanced":
        boxes = np.bincount([label for image in images for label, _ in image.boxes], minlength=len(class_names))
        present = np.count_nonzero(boxes)
        return np.where(boxes, boxes.sum() / np.maximum(boxes * present, 1), 1.0).astype(np.float32)
    for name in choice:
        if name not in class_names:
            raise ConfigError(_unknown(name, class_names))
    return np.array([choice.get(name, 1.0) for name in class_names], dtype=np.float32)


def _unknown(name: str, class_names: Sequence[str]) -> str:
    known = {other.casefold(): other for other in class_names}
    near = [known[other] for other in get_close_matches(name.casefold(), known)]
    way_out = f"did you mean {' or '.join(map(repr, near))}?" if near else "'ena24ssd check' lists them."
    return (
        f"loss.species_weights: no species is called {name!r}; a weight needs one of the {len(class_names)} "
        f"species of the data, as it is written there; {way_out}"
    )
