"""What would one score without looking?

Two detectors that never see a picture, only how animals are spread over the training pictures. What a trained network
scores beyond theirs, it has learnt from the pictures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ena24ssd.cameratraps import Image
from ena24ssd.cases import Cases, Found


def constant_detector(cases: Cases, learnt: Sequence[Image]) -> Cases:
    """The cases as found by one who always gives the same answer: on every picture one box of the species with the most
    boxes (of two alike the first), where its boxes lie on average.

    Parameters: ``learnt``, the training pictures; where there are none the cases' own truth takes their place, and the
    caller should say so. The score is that species' share of all boxes, on every picture: to see the answer, count
    from a threshold of 0. Where the training pictures show no animal, nothing is found.
    """
    label, share = _animals(cases, learnt)
    if not len(label):
        return nothing_found(cases)
    boxes_of = np.bincount(label)
    commonest = int(np.argmax(boxes_of))
    usual = share[label == commonest].mean(axis=0)  # (4,)
    pictures = len(cases)
    return cases.with_found(
        Found(
            picture=np.arange(pictures),
            label=np.full(pictures, commonest),
            score=np.full(pictures, boxes_of[commonest] / len(label)),
            box=usual * np.tile(cases.sizes, 2),
        )
    )


def random_detector(cases: Cases, learnt: Sequence[Image], seed: int = 0) -> Cases:
    """The cases as found by one who guesses: every detection keeps its picture and its score, so that as many are left
    at any threshold, but takes species and size from a random training animal and a random place inside the picture.

    Parameters: ``learnt`` as for `constant_detector`; the same ``seed`` gives the same guesses.
    """
    label, share = _animals(cases, learnt)
    if not len(label):
        return nothing_found(cases)
    random = np.random.default_rng(seed)
    found = cases.found
    model = random.integers(len(label), size=len(found.score))  # the animal each detection is made after
    frame = cases.sizes[found.picture]  # (D, 2)
    extent = (share[model, 2:] - share[model, :2]) * frame
    corner = random.random(extent.shape) * (frame - extent)
    return cases.with_found(found._replace(label=label[model], box=np.hstack([corner, corner + extent])))


def _animals(cases: Cases, learnt: Sequence[Image]) -> tuple[np.ndarray, np.ndarray]:
    """Labels (A,) and boxes (A, 4) as shares of the frame, of the training pictures or, without any, of the cases."""
    if not learnt:
        return cases.truth.label, cases.truth.box / np.tile(cases.sizes[cases.truth.picture], 2)
    rows = [(label, *box.scale(1 / image.width, 1 / image.height)) for image in learnt for label, box in image.boxes]
    animals = np.array(rows, dtype=np.float64).reshape(-1, 5)
    return animals[:, 0].astype(np.int64), animals[:, 1:]


def nothing_found(cases: Cases) -> Cases:
    """The cases as found by one who calls everything background."""
    return cases.keep_found(np.zeros(len(cases.found.score), dtype=bool))
