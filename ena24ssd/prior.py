"""Where do the anchors of a feature map lie?

MXNet's multibox_prior (apache/mxnet 1.9, src/operator/contrib/multibox_prior.cc), in float32 throughout and in the same
order of operations: NMS compares overlaps that the last bit may decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class LevelAnchors(NamedTuple):
    """The anchors of one feature map, ``stride`` pixels of the square from cell to cell."""

    stride: int
    sizes: tuple[float, ...]
    ratios: tuple[float, ...]

    @property
    def per_cell(self) -> int:
        return len(self.sizes) + len(self.ratios) - 1


def prior(height: int, width: int, sizes: Sequence[float], ratios: Sequence[float]) -> np.ndarray:
    """The anchors of a feature map, row by row, cell by cell: (N, 4) float32 unit corners.

    Every size at the first ratio, then the first size at every further ratio. They may leave the picture.
    """
    one, half = np.float32(1), np.float32(0.5)
    sizes, roots = np.asarray(sizes, np.float32), np.sqrt(np.asarray(ratios, np.float32))
    size = np.concatenate([sizes, np.repeat(sizes[:1], len(roots) - 1)])
    root = np.concatenate([np.repeat(roots[:1], len(sizes)), roots[1:]])
    across = size * np.float32(height) / np.float32(width) * root  # which is not always size * root
    extent = np.stack([across, size / root], axis=1) / np.float32(2)  # (A, 2)
    y = (np.arange(height, dtype=np.float32) + half) * (one / np.float32(height))
    x = (np.arange(width, dtype=np.float32) + half) * (one / np.float32(width))
    y, x = np.meshgrid(y, x, indexing="ij")
    middle = np.stack([x, y], axis=-1)[:, :, None]  # (height, width, 1, 2)
    return np.concatenate([middle - extent, middle + extent], axis=-1).reshape(-1, 4)
