"""What does a network see in a picture that has seen a million others?

`EfficientNetLite`, built from the table in `ena24ssd.efficientnet`: (B, 3, S, S) -> maps of strides 8, 16 and 32.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ena24ssd.efficientnet import EPSILON, STEM, Block, blocks_of, map_ends
from ena24ssd.pytorch.layers import BatchNorm


class ConvNorm(nn.Module):
    """A convolution without bias and the BatchNorm behind it, with TensorFlow's "same" padding, for even sides.

    ``groups`` as in PyTorch. Where BatchNorm uses its running statistics, both are one convolution.
    """

    def __init__(
        self, entering: int, leaving: int, kernel: int = 1, stride: int = 1, groups: int = 1, frozen: bool = False
    ):
        super().__init__()
        self.conv = nn.Conv2d(entering, leaving, kernel, stride, groups=groups, bias=False)
        self.norm = BatchNorm(leaving, frozen, EPSILON)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, shift = self.conv.weight, None
        is_folded = self.norm.uses_running_statistics
        if is_folded:
            scale, shift = self.norm.as_scale_and_shift()
            weight = weight * scale.view(-1, 1, 1, 1)
        x = convolve(x, weight, shift, self.conv.stride[0], self.conv.groups)
        return x if is_folded else self.norm(x)


def convolve(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, stride: int, groups: int
) -> torch.Tensor:
    """A convolution that gives a map of ceil(side / stride), for odd kernels.

    TensorFlow begins at the first pixel where a stride of 2 meets an even side, so one pixel less is padded before it
    than behind it. A kernel with one more row and column of zeros in front does so with as much on either side.
    """
    size = weight.shape[-1]
    if stride == 2:
        weight, size = F.pad(weight, (1, 0, 1, 0)), size + 1
    return F.conv2d(x, weight, bias, stride, (size - 1) // 2, 1, groups)


class InvertedResidual(nn.Module):
    """One `Block` of the table."""

    def __init__(self, block: Block, frozen: bool):
        super().__init__()
        if block.expands:
            self.expand = ConvNorm(block.entering, block.inner, frozen=frozen)
        self.depthwise = ConvNorm(block.inner, block.inner, block.kernel, block.stride, block.inner, frozen)
        self.project = ConvNorm(block.inner, block.leaving, frozen=frozen)
        self.expands, self.is_residual = block.expands, block.is_residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu6(self.expand(x), inplace=True) if self.expands else x
        y = self.project(F.relu6(self.depthwise(y), inplace=True))
        return x + y if self.is_residual else y


class EfficientNetLite(nn.Module):
    """A variant of `ena24ssd.efficientnet.VARIANTS`.

    ``frozen_statistics``: BatchNorm uses its running statistics in training too, and leaves them as they are.
    ``channels`` of each map by its stride.
    """

    def __init__(self, variant: str, frozen_statistics: bool = False):
        super().__init__()
        table = blocks_of(variant)
        self.stem = ConvNorm(3, STEM, 3, 2, frozen=frozen_statistics)
        self.blocks = nn.Sequential(*(InvertedResidual(block, frozen_statistics) for block in table))
        self._strides = {end: stride for stride, end in map_ends(variant).items()}
        self.channels = {stride: table[end].leaving for end, stride in self._strides.items()}

    def forward(self, x: torch.Tensor) -> dict[int, torch.Tensor]:
        """The maps (B, c, ceil(S / stride), ceil(S / stride)) by stride."""
        x, maps = F.relu6(self.stem(x), inplace=True), {}
        for place, block in enumerate(self.blocks):
            x = block(x)
            if place in self._strides:
                maps[self._strides[place]] = x
        return maps
