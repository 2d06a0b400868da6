"""What is EfficientNet-Lite made of?

A stem, then blocks of three convolutions: the first widens (1x1), the second looks around (depthwise), the third
narrows (1x1); where a block keeps the shape, what went in is added to what comes out. EfficientNet (Tan and Le 2019)
without what small devices do badly: no squeeze-and-excite, ReLU6 for swish. Every convolution has a BatchNorm behind it
and no bias. The classifier that belongs to it, ``conv_head`` and ``fc``, is left out.

The engines and the exported graph are built from this table, and are held equal in tests.
"""

from __future__ import annotations

import math
from typing import NamedTuple

# What the pretrained weights expect: bytes less 127, divided by 128.
MEAN = (0.498, 0.498, 0.498)
STD = (0.502, 0.502, 0.502)
EPSILON = 1e-3  # of BatchNorm
STEM = 32  # channels
LIMIT = 6.0  # of ReLU6

# Stages of Lite0: repeats, kernel, stride of the first, expansion, channels.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
# Width and depth of the others, in multiples of Lite0's; the first and the last stage stay as deep as they are.
VARIANTS = {"efficientnet_lite0": (1.0, 1.0), "efficientnet_lite1": (1.0, 1.1), "efficientnet_lite2": (1.1, 1.2)}
MAPS = (8, 16, 32)  # strides of the maps that a detector can use


class Block(NamedTuple):
    """An inverted residual: entering -> inner -> leaving channels."""

    entering: int
    inner: int
    leaving: int
    kernel: int  # of the depthwise convolution
    stride: int

    @property
    def expands(self) -> bool:
        return self.inner != self.entering

    @property
    def is_residual(self) -> bool:
        return self.stride == 1 and self.entering == self.leaving


def blocks_of(backbone: str) -> tuple[Block, ...]:
    """The blocks of a variant of `VARIANTS`, in order."""
    width, depth = VARIANTS[backbone]
    blocks, entering = [], STEM
    for number, (repeats, kernel, stride, expansion, channels) in enumerate(STAGES):
        leaving = _round_channels(channels * width)
        is_end = number in (0, len(STAGES) - 1)
        for repeat in range(repeats if is_end else math.ceil(repeats * depth)):
            blocks.append(Block(entering, entering * expansion, leaving, kernel, stride if repeat == 0 else 1))
            entering = leaving
    return tuple(blocks)


def map_ends(backbone: str) -> dict[int, int]:
    """The last block of each stride of `MAPS`, whose output is that map: its place among `blocks_of`."""
    stride, ends = 2, {}
    for place, block in enumerate(blocks_of(backbone)):
        stride *= block.stride
        ends[stride] = place
    return {stride: ends[stride] for stride in MAPS}


def _round_channels(channels: float) -> int:
    """To a multiple of 8, as TensorFlow's models do: the nearest one that loses no more than a tenth."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
