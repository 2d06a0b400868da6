"""What came of asking a model about pictures whose truth is known?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ena24ssd.cameratraps import CameraTrapDataset, Image
from ena24ssd.cases import Cases
from ena24ssd.config import RunConfig
from ena24ssd.metrics import AnchorSums
from ena24ssd.runs import RunError
from ena24ssd.splits import SIDES, Split


@dataclass(frozen=True)
class Judged:
    """What one model found on some pictures."""

    images: tuple[Image, ...]  # P
    cases: Cases
    night: np.ndarray | None  # (P,) bool; None where no picture could be looked at
    unreadable: int = 0  # pictures that were left out
    sums: AnchorSums | None = None  # what only the network itself can tell
    floor: float = 0.0  # score below which nothing was noted down


class Subject(Protocol):
    """A model that can be judged."""

    name: str
    config: RunConfig
    dataset: CameraTrapDataset

    @property
    def split(self) -> Split | None:
        """Who learnt, who chose, who judges; None where nobody says."""

    def ids(self, side: str | None) -> tuple[str, ...]:
        """The pictures of a side of the split (None: the one to judge on). Raises RunError where there are none."""

    def judge(self, ids: Sequence[str], *, quiet: bool = False) -> Judged:
        """Compare what is found on these pictures with the truth. Raises RunError where none can be used."""


def checked_side(side: str | None) -> str | None:
    """The side of a split that was asked for. Raises RunError for one that no split has."""
    if side is not None and side not in SIDES:
        raise RunError(f"there is no side {side!r} of a split; name one of {', '.join(SIDES)}")
    return side
