"""Which weights are steadier than those of the last step?  On the device, a few calls for all of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy
import torch

from ena24ssd.averages import Average


class TorchAverage(Average):
    """`ena24ssd.averages.Average` of tensors that no gradient flows through."""

    def _copy(self, arrays: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in arrays.items()}

    def _approach(self, averages: list[torch.Tensor], weights: list[torch.Tensor], share: float) -> None:
        torch._foreach_lerp_(averages, weights, share)

    def _swap(self, ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
        before = [tensor.clone() for tensor in ours]
        torch._foreach_copy_(ours, theirs)
        torch._foreach_copy_(theirs, before)

    def _read(self, array: torch.Tensor) -> numpy.ndarray:
        return array.cpu().contiguous().numpy().copy()

    def _write(self, weights: Mapping[str, numpy.ndarray]) -> None:
        for name, values in weights.items():
            self._here[name].copy_(torch.from_numpy(values))
