"""Which weights are steadier than those of the last step?  On the device that measures."""

from __future__ import annotations

from collections.abc import Mapping

import mxnet
import numpy
from mxnet import nd, np

from ena24ssd.averages import Average


class GluonAverage(Average):
    """`ena24ssd.averages.Average` of arrays of ``parameters``, by structural name, on the first of their devices."""

    def __init__(self, decay: float | None, parameters: Mapping[str, mxnet.gluon.Parameter]):
        super().__init__(decay)
        self._parameters = parameters

    def _copy(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: array.copy() for name, array in arrays.items()}

    def _approach(self, averages: list[np.ndarray], weights: list[np.ndarray], share: float) -> None:
        # One operator instead of three, made for w - lr * (scale * gradient + wd * w): a - share * (-w + a) is meant.
        for ours, theirs in zip(averages, weights):
            classic = ours.as_nd_ndarray()
            nd.sgd_update(classic, theirs.as_nd_ndarray(), out=classic, lr=share, wd=1.0, rescale_grad=-1.0)

    def _swap(self, ours: list[np.ndarray], theirs: list[np.ndarray]) -> None:
        for mine, other in zip(ours, theirs):
            before = mine.copy()
            other.copyto(mine)
            before.copyto(other)

    def _read(self, array: np.ndarray) -> numpy.ndarray:
        return array.asnumpy()

    def _write(self, weights: Mapping[str, numpy.ndarray]) -> None:
        for name, values in weights.items():
            self._parameters[name].set_data(np.array(values))
