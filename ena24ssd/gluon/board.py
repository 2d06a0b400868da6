"""How do the curves reach TensorBoard?  Through mxboard, as in the post."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from mxboard import SummaryWriter, event_file_writer
from mxnet.gluon import HybridBlock
from tensorboard.compat.proto.summary_pb2 import Summary

from ena24ssd import summaries

Writing = event_file_writer._EventLoggerThread


class PersistentWriting(Writing):
    """mxboard's writing thread, but a full disk does not end it: whoever flushes would then wait for it for ever."""

    fault: OSError | None = None

    def run(self) -> None:
        while True:
            try:
                return super().run()
            except OSError as fault:
                self.fault = fault


event_file_writer._EventLoggerThread = PersistentWriting


@contextmanager
def _telling_of_files() -> Iterator[None]:
    """mxboard says ValueError where it cannot open a file."""
    try:
        yield
    except ValueError as fault:
        raise OSError(str(fault)) from fault


class MxBoard:
    """`ena24ssd.engine.Board` over mxboard's SummaryWriter."""

    def __init__(self, folder: Path, net: HybridBlock):
        self._net = net
        # mxboard names its files by the second, and TensorBoard reads them in the order of their names: a run resumed
        # within a second must neither overwrite those it had nor come before them.
        suffix = f".{time.time_ns()}.{os.getpid()}"
        # Without a limit to its queue (0), nothing here waits for the disk but `flush`.
        options = {"flush_secs": 10, "verbose": False, "filename_suffix": suffix, "max_queue": 0}
        with _telling_of_files():
            self._writer = SummaryWriter(logdir=str(folder), **options)

    def scalars(self, tag: str, values: dict[str, float], step: int) -> None:
        with _telling_of_files():
            self._writer.add_scalar(tag, values, global_step=step)

    def scalar(self, tag: str, value: float, step: int) -> None:
        self._writer.add_scalar(summaries.plain(tag), value, global_step=step)

    def histogram(self, tag: str, values: np.ndarray, step: int) -> None:
        self._writer.add_histogram(tag, values, global_step=step, bins=50)

    def pr_curve(self, tag: str, right: np.ndarray, wrong: np.ndarray, boxes: int, step: int) -> None:
        self._add(summaries.pr_curve(tag, right, wrong, boxes), step)

    def picture(self, tag: str, pixels: np.ndarray, step: int) -> None:
        # mxboard wants channels first, floats in [0, 1] or bytes
        self._writer.add_image(tag, np.ascontiguousarray(pixels.transpose(2, 0, 1)), global_step=step)

    def text(self, tag: str, markdown: str, step: int) -> None:
        self._add(summaries.text(tag, markdown), step)

    def _add(self, summary: Summary, step: int) -> None:
        self._writer._file_writer.add_summary(summary, step)

    def graph(self) -> None:
        self._writer.add_graph(self._net)

    def flush(self) -> None:
        for file_writer in list(self._writer._all_writers.values()):
            file_writer.flush()
            if fault := file_writer._event_writer._worker.fault:
                raise fault

    def close(self) -> None:
        for file_writer in self._writer._all_writers.values():
            try:
                file_writer.close()
            except OSError:  # flush has said so; now nothing shall try again when the interpreter ends
                events = file_writer._event_writer._ev_writer
                events._recordio_writer._writer = events._recordio_writer = None
        self._writer._all_writers.clear()
