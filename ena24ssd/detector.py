"""What is in this picture?"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image as Pillow

from ena24ssd.ahead import run_ahead
from ena24ssd.boxes import Box
from ena24ssd.config import change_config
from ena24ssd.detections import Detection, ImageDetections, rows_to_detections
from ena24ssd.engine import EngineError, Network
from ena24ssd.memory import is_shortage
from ena24ssd.models import Model, load_network, open_model
from ena24ssd.pictures import PictureError, read_picture, upright, view_of
from ena24ssd.picturewalk import PictureWalk
from ena24ssd.runs import CheckpointName
from ena24ssd.thresholds import Thresholds
from ena24ssd.tiles import Tiling, cut, merge

WHOLE = Tiling(1, 1)  # pictures as they are

Picture = Path | str | Pillow.Image | np.ndarray  # a file, or a picture in memory: RGB, (H, W, 3) uint8


class Seen(NamedTuple):
    """A picture as it goes to the network, or why it does not."""

    image: ImageDetections  # without detections yet
    squares: np.ndarray | tuple[()]  # (T, S, S, 3) uint8: the whole picture, and its tiles
    views: Sequence[Box]  # which part of the picture each square is made from


class Detector:
    """A trained network, ready for pictures.

    >>> detector = Detector.load("runs/demo")                                           # doctest: +SKIP
    >>> for picture in detector.detect("cards/7"): print(picture.file, picture.detections)   # doctest: +SKIP
    """

    def __init__(
        self,
        network: Network,
        model: Model,
        tiling: Tiling = WHOLE,
        opening: Callable[[str], BinaryIO] | None = None,
        threads: int | None = None,
    ):
        self.model = model
        self.class_names = model.class_names
        self.thresholds: Thresholds = model.thresholds()
        self.device = network.device
        self.batch = network.batch  # pictures at once that suit the network
        self._network, self._tiling, self._opening, self._threads = network, tiling, opening, threads
        self._side, self._fit = model.config.data.image_side, model.config.data.fit

    @classmethod
    def load(
        cls,
        model: Path | str | Model,
        checkpoint: CheckpointName = "best",
        *,
        device: str | None = None,
        engine: str | None = None,
        threads: int | None = None,
        precision: str | None = None,
        reading: Mapping[str, Any] | None = None,
        tiling: Tiling = WHOLE,
        opening: Callable[[str], BinaryIO] | None = None,
    ) -> Detector:
        """From a run folder or an exported model.

        Parameters: ``device``, ``engine``, ``threads`` and ``precision`` as of `ena24ssd.models.load_network`;
        ``reading``, fields of the config's evaluation section that say how boxes are read off the network (``nms``,
        ``class_agnostic_nms``); ``tiling``, into which parts pictures are cut as well, for animals that are small on
        them; ``opening``, what opens a file by its name where that is no path.
        Raises RunError, ExportedError, ConfigError or EngineError.
        """
        model = model if isinstance(model, Model) else open_model(model, checkpoint)
        if reading:
            changes = {f"evaluation.{name}": value for name, value in reading.items()}
            model = replace(model, config=change_config(model.config, changes))
        network = load_network(model, device=device, engine=engine, threads=threads, precision=precision)
        return cls(network, model, tiling, opening, threads)

    def detect(
        self,
        pictures: Picture | Iterable[Picture],
        threshold: float | None = None,
        *,
        batch_size: int | None = None,
    ) -> Iterator[ImageDetections]:
        """Detections of every picture, in the order given, best first, in pixels of the original.

        ``pictures`` is a file, a folder (with all that lies in it), a picture in memory, or any number of these.
        Nothing found is an empty tuple. A file that gives no picture has its reason in ``failure``; the others go on.
        ``threshold`` is the lowest score kept (left out: those of ``thresholds``). Memory does not grow with the
        number of pictures.
        """
        counting = self.thresholds if threshold is None else Thresholds(threshold)
        for portion in self.detect_portions(_listed(pictures), batch_size, counting.lowest):
            yield from map(counting.select, portion)

    def detect_portions(
        self, pictures: Iterable[Picture], size: int | None = None, keep: float = 0.0
    ) -> Iterator[list[ImageDetections]]:
        """The same in portions of ``size`` pictures, as the network gets them, with detections that score ``keep``.

        Which pictures share a portion decides the last bits of their scores, with some engines. Files are read by
        ``threads`` threads (left out: one a core), a portion ahead of the network. Raises EngineError where memory does
        not last.
        """
        size = size or self.batch
        lead = max(2 * size, 2 * (self._threads or os.cpu_count() or 1))
        seen = run_ahead(self._look_at, pictures, self._threads, "decode", lead)
        while portion := list(islice(seen, size)):
            yield list(self._detect_portion(portion, keep))

    def _look_at(self, picture: Picture) -> Seen:
        file = os.fspath(picture) if isinstance(picture, (str, Path)) else ""
        try:
            whole = self._decode(file) if file else _in_memory(picture)
            width, height = whole.info["full_size"]
            views = self._tiling.views(width, height)
            squares = cut(whole, views, self._side, self._fit)
        except PictureError as failure:
            return Seen(ImageDetections(file, None, None, failure=str(failure)), (), ())
        return Seen(ImageDetections(file, width, height, taken_at=whole.info["taken_at"]), squares, views)

    def _decode(self, file: str) -> Pillow.Image:
        least = self._tiling.least(self._side)
        if self._opening is None:
            return read_picture(file, least=least)
        with self._opening(file) as stream:
            return read_picture(stream, least=least)

    def _detect_portion(self, portion: Sequence[Seen], keep: float) -> Iterator[ImageDetections]:
        squares = [square for seen in portion for square in seen.squares]
        rows = self._ask(squares, len(portion))
        for image, own, views in portion:
            if image.failure is None:
                found = [self._read(next(rows), view, keep) for view, _ in zip(views, own)]
                image = replace(image, detections=self._merge(found, views))
            yield image

    def _ask(self, squares: Sequence[np.ndarray], size: int) -> Iterator[np.ndarray]:
        """What the network says of each square, asked ``size`` at a time."""
        for start in range(0, len(squares), size):
            try:
                yield from self._network.detect(np.stack(squares[start : start + size]))
            except Exception as fault:
                if not is_shortage(fault):
                    raise
                raise EngineError(
                    f"memory does not last for {size} pictures at once ({fault}); lower --batch"
                ) from fault

    def _read(self, rows: np.ndarray, view: Box, keep: float) -> tuple[Detection, ...]:
        """What the network found in one view, in pixels of the view."""
        shown = view_of(view.width, view.height, self._side, self._fit)
        return rows_to_detections(rows, self.class_names, view.width, view.height, keep, shown)

    def _merge(self, found: Sequence[tuple[Detection, ...]], views: Sequence[Box]) -> tuple[Detection, ...]:
        evaluation = self.model.config.evaluation
        return merge(found, views, evaluation.nms, evaluation.class_agnostic_nms)


def _listed(pictures: Picture | Iterable[Picture]) -> Iterator[Picture]:
    """Every picture, of folders too."""
    if isinstance(pictures, (str, Path)):
        yield from PictureWalk([pictures])
    elif isinstance(pictures, (Pillow.Image, np.ndarray)):
        yield pictures
    else:
        for each in pictures:
            if isinstance(each, (str, Path)) and not os.path.isdir(each):
                yield each  # under the name it was given; one that is not there is a failure of its own
            else:
                yield from _listed(each)


def _in_memory(picture: Pillow.Image | np.ndarray) -> Pillow.Image:
    """A picture in memory as `read_picture` gives it. Raises ValueError for an array that is no picture."""
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
            raise ValueError(
                f"an array of {picture.dtype} and shape {picture.shape} is no picture; give RGB as (H, W, 3) uint8"
            )
        picture = Pillow.fromarray(picture)
    return upright(picture)
