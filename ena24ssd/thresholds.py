"""From which score on does a detection count?

Two things are asked of a score. What is written down for others to choose from may be doubtful; what is drawn, sorted
and counted must be believed. `Thresholds` is the second: one score for all species, or one for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from numbers import Real
from types import MappingProxyType

from ena24ssd.detections import ImageDetections


@dataclass(frozen=True)
class Thresholds:
    """The lowest score, 0..1, at which a detection counts: ``overall``, but for the ``species`` that have their own.

    Raises ValueError for a score that is none.
    """

    overall: float
    species: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for of, score in [("", self.overall), *((f" of {name}", score) for name, score in self.species.items())]:
            if not (isinstance(score, Real) and 0 <= score <= 1):  # nor is NaN
                raise ValueError(f"threshold{of} is {score}; a score lies between 0 and 1. Name one that does")
        species = {name: float(score) for name, score in self.species.items()}
        object.__setattr__(self, "overall", float(self.overall))  # of NumPy's, too
        object.__setattr__(self, "species", MappingProxyType(species))

    def of(self, name: str) -> float:
        """The lowest score that counts for this species."""
        return self.species.get(name, self.overall)

    @property
    def lowest(self) -> float:
        """Below this nothing counts, whatever it is."""
        return min([self.overall, *self.species.values()])

    def select(self, image: ImageDetections) -> ImageDetections:
        """The picture with what counts of its detections."""
        return replace(image, detections=tuple(d for d in image.detections if d.score >= self.of(d.name)))

    def __reduce__(self) -> tuple:  # a mapping proxy does not travel to other processes
        return Thresholds, (self.overall, dict(self.species))
