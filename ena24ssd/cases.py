"""What was there, and what was found, over many pictures?

All boxes of a split as flat columns, truth beside detections: what every figure of an evaluation is computed from,
whichever model found them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ena24ssd.boxes import Box
from ena24ssd.cameratraps import Image
from ena24ssd.detections import Detection


class Truth(NamedTuple):
    """The annotators' boxes, T of them, in the order of their pictures."""

    picture: np.ndarray  # (T,) int64, position among the pictures, rising
    label: np.ndarray  # (T,) int64, 0..C-1
    box: np.ndarray  # (T, 4) float64, left, top, right, bottom in pixels of the picture


class Found(NamedTuple):
    """The detections, D of them, in the order of their pictures; within a picture best first."""

    picture: np.ndarray  # (D,) int64, position among the pictures, rising
    label: np.ndarray  # (D,) int64, 0..C-1
    score: np.ndarray  # (D,) float64 in 0..1
    box: np.ndarray  # (D, 4) float64, left, top, right, bottom in pixels of the picture


@dataclass(frozen=True)
class Cases:
    """P pictures with their T true boxes and D detections of C species."""

    class_names: tuple[str, ...]
    ids: tuple[str, ...]  # P image ids
    sizes: np.ndarray  # (P, 2) float64, width and height in pixels
    truth: Truth
    found: Found

    def __len__(self) -> int:
        """Pictures."""
        return len(self.ids)

    @property
    def blank(self) -> np.ndarray:
        """Whether a picture shows no animal, (P,) bool."""
        return np.bincount(self.truth.picture, minlength=len(self)) == 0

    @property
    def best_score(self) -> np.ndarray:
        """The highest score on each picture, (P,); 0 where nothing was found."""
        best = np.zeros(len(self))
        np.maximum.at(best, self.found.picture, self.found.score)
        return best

    @property
    def boxes_of_species(self) -> np.ndarray:
        """True boxes of each species, (C,) int64."""
        return np.bincount(self.truth.label, minlength=len(self.class_names))

    def take(self, chosen: np.ndarray) -> Cases:
        """The cases of some pictures: ``chosen`` (P,) bool."""
        position = np.cumsum(chosen) - 1
        truth, found = (
            type(rows)(*(column[chosen[rows.picture]] for column in rows)) for rows in (self.truth, self.found)
        )
        return replace(
            self,
            ids=tuple(key for key, wanted in zip(self.ids, chosen.tolist()) if wanted),
            sizes=self.sizes[chosen],
            truth=truth._replace(picture=position[truth.picture]),
            found=found._replace(picture=position[found.picture]),
        )

    def detections(self, picture: int, threshold: float = 0.0) -> tuple[Detection, ...]:
        """What was found on the picture at that position and scores ``threshold`` or more, best first."""
        start, stop = np.searchsorted(self.found.picture, (picture, picture + 1))
        return tuple(
            Detection(label, self.class_names[label], score, Box(*corners))
            for label, score, corners in zip(*(column[start:stop].tolist() for column in self.found[1:]))
            if score >= threshold
        )

    def keep_found(self, chosen: np.ndarray) -> Cases:
        """The same pictures and truth with some of the detections: ``chosen`` (D,) bool."""
        return replace(self, found=Found(*(column[chosen] for column in self.found)))

    def with_found(self, found: Found) -> Cases:
        """The same pictures and truth with other detections, put in order."""
        order = np.lexsort((-found.score, found.picture))
        return replace(self, found=Found(*(column[order] for column in found)))


def gather(images: Sequence[Image], detections: Iterable[Sequence[Detection]], class_names: Sequence[str]) -> Cases:
    """The cases of ``images`` and of what was found on each of them, in the same order, boxes in pixels."""
    truth = [(place, label, *box) for place, image in enumerate(images) for label, box in image.boxes]
    found = [(place, one.label, one.score, *one.box) for place, some in enumerate(detections) for one in some]
    real, seen = np.array(truth, dtype=float).reshape(-1, 6), np.array(found, dtype=float).reshape(-1, 7)
    sizes = np.array([(image.width, image.height) for image in images], dtype=float).reshape(-1, 2)
    cases = Cases(
        tuple(class_names),
        tuple(image.id for image in images),
        sizes,
        Truth(real[:, 0].astype(np.int64), real[:, 1].astype(np.int64), real[:, 2:]),
        Found(seen[:, 0].astype(np.int64), seen[:, 1].astype(np.int64), seen[:, 2], seen[:, 3:]),
    )
    return cases.with_found(cases.found)
