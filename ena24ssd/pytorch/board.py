"""How do the curves reach TensorBoard?  Through torch's own writer, into the same files as in the gluon engine."""

from __future__ import annotations

import copy
import io
import os
import socket
import time
import warnings
from contextlib import suppress
from pathlib import Path
from queue import Queue
from threading import Thread

import numpy as np
import torch
from tensorboard.compat.proto.event_pb2 import Event
from torch.utils.tensorboard import FileWriter, RecordWriter, SummaryWriter

from ena24ssd import summaries


class Pen:
    """Writes to the files of a board, from a thread of its own.

    A fault of the disk ends neither the thread, for which whoever flushes would wait for ever, nor the program: the
    rest is left unwritten, and `flush` says why.
    """

    def __init__(self) -> None:
        self._queue: Queue[tuple[RecordWriter, bytes] | None] = Queue()  # without a limit: nobody waits to put
        self._fault: Exception | None = None
        self._thread = Thread(target=self._write, daemon=True)
        self._thread.start()

    def write(self, file: RecordWriter, record: bytes) -> None:
        self._queue.put((file, record))

    def flush(self) -> None:
        """Wait until all is written. Raises what kept it from being so, mostly OSError."""
        self._queue.join()
        if self._fault:
            raise self._fault

    def close(self) -> None:
        """Write all, or what goes, and put the pen down."""
        self._queue.put(None)
        self._thread.join()

    def _write(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                if not self._fault:  # what follows half a record could not be read
                    file, record = item
                    file.write(record)
            except Exception as fault:
                self._fault = fault
            finally:
                self._queue.task_done()
        self._queue.task_done()


class Unbuffered(io.FileIO):
    """A file that holds nothing back that it would try to write when the interpreter ends."""

    def write(self, content: bytes) -> int:
        rest = memoryview(content)
        while rest:
            rest = rest[super().write(rest) :]
        return len(content)


class EventFile(FileWriter):
    """torch's maker of events, with a file whose name sorts behind those from before.

    TensorBoard reads files in the order of their names, and its own writer names them by the second, and by what is in
    no order within that: a run resumed within a second must neither overwrite the files it had nor come before them.
    The names are those of `ena24ssd.gluon.board`, so that runs can go on in the other engine.
    """

    def __init__(self, folder: Path, pen: Pen):
        folder.mkdir(parents=True, exist_ok=True)
        now = time.time_ns()
        name = f"events.out.tfevents.{now // 10**9:010d}.{socket.gethostname()}.{now}.{os.getpid()}"
        self._folder, self._pen = folder, pen
        self._file = Unbuffered(folder / name, "xb")
        self._records = RecordWriter(self._file)
        self.add_event(Event(file_version="brain.Event:2"))

    def get_logdir(self) -> str:
        return str(self._folder)

    def add_event(self, event: Event, step: int | None = None, walltime: float | None = None) -> None:
        event.wall_time = time.time() if walltime is None else walltime
        if step is not None:
            event.step = int(step)
        self._pen.write(self._records, event.SerializeToString())

    def flush(self) -> None:
        self._pen.flush()

    def close(self) -> None:
        """After the pen was put down."""
        self._file.close()


class Curves(SummaryWriter):
    """torch's SummaryWriter on such a file."""

    def __init__(self, folder: Path, pen: Pen):
        self.events = EventFile(folder, pen)
        super().__init__(str(folder))

    def _get_file_writer(self) -> EventFile:
        return self.events


class TorchBoard:
    """`ena24ssd.engine.Board` over torch's SummaryWriter.

    ``pixels`` is one normalised picture (1, 3, S, S) to follow through ``net`` for its graph.
    """

    def __init__(self, folder: Path, net: torch.nn.Module, pixels: torch.Tensor):
        self._folder, self._net, self._pixels = folder, net, pixels
        self._pen = Pen()
        self._curves: dict[str, Curves] = {}  # by sub-folder, as mxboard has one for every curve of several
        try:
            self._curves_in("")
        except OSError:
            self._pen.close()
            raise

    def _curves_in(self, folder: str) -> Curves:
        if folder not in self._curves:
            self._curves[folder] = Curves(self._folder / folder, self._pen)
        return self._curves[folder]

    def scalars(self, tag: str, values: dict[str, float], step: int) -> None:
        for key, value in values.items():
            self._curves_in(f"{tag}/{key}").add_scalar(tag, value, step)

    def scalar(self, tag: str, value: float, step: int) -> None:
        self._curves_in("").add_scalar(summaries.plain(tag), value, step)

    def histogram(self, tag: str, values: np.ndarray, step: int) -> None:
        self._curves_in("").add_histogram(tag, values, step, bins=50)

    def pr_curve(self, tag: str, right: np.ndarray, wrong: np.ndarray, boxes: int, step: int) -> None:
        self._curves_in("").events.add_summary(summaries.pr_curve(tag, right, wrong, boxes), step)

    def picture(self, tag: str, pixels: np.ndarray, step: int) -> None:
        self._curves_in("").add_image(tag, pixels, step, dataformats="HWC")

    def text(self, tag: str, markdown: str, step: int) -> None:
        self._curves_in("").events.add_summary(summaries.text(tag, markdown), step)

    def graph(self) -> None:
        net = copy.deepcopy(self._net).eval()  # tracing leaves its marks in what layers keep
        with torch.no_grad(), warnings.catch_warnings():
            # Of what a trace leaves out for other pictures, and of torch's plans with tracing.
            warnings.simplefilter("ignore")
            # Without the check that the writer's own tracing comes with: seconds, for a picture of a network.
            trace = torch.jit.trace(net, self._pixels, check_trace=False)
            self._curves_in("").add_graph(trace, self._pixels)

    def flush(self) -> None:
        self._pen.flush()

    def close(self) -> None:
        self._pen.close()
        for curves in self._curves.values():
            with suppress(OSError):  # flush has said so
                curves.events.close()
        self._curves.clear()
