"""Which weights are steadier than those of the last step?

A running average of them (Polyak and Juditsky 1992; its name in many papers is EMA). Training goes on with the raw
weights, all else sees the average. The network holds one of the two and `Average` the other one; they change places
when training and measuring do, which is twice an epoch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from ena24ssd.engine import require_weights

RAW = "raw/"  # the names of raw weights in what an optimizer remembers begin with this
AVERAGED = "averaged"  # and this is how many updates the average has seen


def kept_share(decay: float, update: int) -> float:
    """The share of itself that the average keeps at an update, counted from 1: little while there is little to keep."""
    return min(decay, (1 + update) / (10 + update))


class Average(ABC):
    """The running average of a network's arrays, in the network's framework; without a ``decay`` there is none.

    ``decay`` is the share of itself that it keeps at an update, in the end. It costs nothing before the first update.
    """

    def __init__(self, decay: float | None):
        self._decay, self._count = decay, 0
        self._here: dict[str, Any] = {}  # in the network
        self._away: dict[str, Any] | None = None  # the other ones; None while both are the same
        self._is_shown = False  # whether the average is in the network

    def cover(self, arrays: Mapping[str, Any]) -> None:
        """These arrays of the network change from now on, too."""
        new = arrays.keys() - self._here.keys()
        self._here.update(arrays)
        if self._away is not None:
            self._away |= self._copy({name: array for name, array in arrays.items() if name in new})

    def begin(self) -> None:
        """Before an update."""
        if self._decay is not None and self._away is None:
            self._away = self._copy(self._here)
        self.show(False)

    def follow(self) -> None:
        """After an update."""
        if self._decay is not None:
            self._count += 1
            averages, share = [self._away[name] for name in self._here], 1 - kept_share(self._decay, self._count)
            self._approach(averages, list(self._here.values()), share)

    def show(self, average: bool) -> None:
        """Let the network hold the average, or else the raw weights."""
        if self._away is not None and self._is_shown != average:
            self._swap(list(self._here.values()), [self._away[name] for name in self._here])
            self._is_shown = average

    def forget(self) -> None:
        """What the network holds now is both."""
        self._away, self._is_shown = None, False

    def averaged(self) -> dict[str, Any]:
        """What is another array than the network's in the average."""
        return {} if self._is_shown or self._away is None else self._away

    def away(self) -> list[Any]:
        """Whatever is not in the network."""
        return [] if self._away is None else list(self._away.values())

    def state(self) -> dict[str, np.ndarray]:
        """What it takes to go on besides the average itself: how often it was taken, and the raw weights."""
        if self._decay is None:
            return {}
        raw = {} if self._away is None else self._away if self._is_shown else self._here
        count = {AVERAGED: np.array(self._count, dtype=np.int64)}
        return count | {RAW + name: self._read(array) for name, array in raw.items()}

    def load(self, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The inverse of `state`, where the network holds the average. Returns what is not about it.

        Raises ValueError for a state that was kept without an average, or of another network.
        """
        if self._decay is None:
            return dict(state)
        if AVERAGED not in state:
            raise ValueError("the state was kept without an average of the weights; go on with optim.average=null")
        raw = {name.removeprefix(RAW): array for name, array in state.items() if name.startswith(RAW)}
        self.forget()
        if raw:
            require_weights(raw, {name: tuple(array.shape) for name, array in self._here.items()})
            self.begin()
            self._write(raw)
        self._count = np.asarray(state[AVERAGED]).item()  # safetensors knows no number without a dimension
        return {name: array for name, array in state.items() if name != AVERAGED and not name.startswith(RAW)}

    @abstractmethod
    def _copy(self, arrays: Mapping[str, Any]) -> dict[str, Any]: ...

    @abstractmethod
    def _approach(self, averages: list[Any], weights: list[Any], share: float) -> None:
        """Bring each average this share of the way to its weights."""

    @abstractmethod
    def _swap(self, ours: list[Any], theirs: list[Any]) -> None: ...

    @abstractmethod
    def _read(self, array: Any) -> np.ndarray: ...

    @abstractmethod
    def _write(self, weights: Mapping[str, np.ndarray]) -> None:
        """Put these into the network, on all of its devices."""
