"""How do the curves reach TensorBoard?  Through mxboard, as in the post."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mxboard import SummaryWriter
from mxnet.gluon import HybridBlock


class MxBoard:
    """`ena24ssd.engine.Board` over mxboard's SummaryWriter."""

    def __init__(self, folder: Path, net: HybridBlock):
        self._net = net
        self._writer = SummaryWriter(logdir=str(folder), flush_secs=10, verbose=False)

    def scalars(self, tag: str, values: dict[str, float], step: int) -> None:
        self._writer.add_scalar(tag, values, global_step=step)

    def histogram(self, tag: str, values: np.ndarray, step: int) -> None:
        self._writer.add_histogram(tag, values, global_step=step, bins=50)

    def picture(self, tag: str, pixels: np.ndarray, step: int) -> None:
        # mxboard wants channels first, floats in [0, 1] or bytes
        self._writer.add_image(tag, np.ascontiguousarray(pixels.transpose(2, 0, 1)), global_step=step)

    def graph(self) -> None:
        self._writer.add_graph(self._net)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
