"""What is in this picture, or in this folder of pictures?"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np

from ena24ssd.config import RunConfig
from ena24ssd.detections import ImageDetections, rows_to_detections
from ena24ssd.engine import Engine, load_engine
from ena24ssd.pictures import EXTENSIONS, PictureError, Square, read_square
from ena24ssd.runs import CheckpointName, open_run


class Detector:
    """A trained network, ready for pictures.

    >>> detector = Detector.load("runs/demo")                                           # doctest: +SKIP
    >>> for picture in detector.detect(["a.jpg", "b.jpg"]): print(picture.detections)   # doctest: +SKIP
    """

    def __init__(self, engine: Engine, class_names: Sequence[str], config: RunConfig):
        self.class_names = tuple(class_names)
        self.threshold = config.evaluation.score  # the lowest score kept unless a call says otherwise
        self._engine, self._config = engine, config

    @classmethod
    def load(cls, folder: Path | str, checkpoint: CheckpointName = "best", *, device: str | None = None) -> Detector:
        """From a run folder. Raises RunError or EngineError."""
        run = open_run(folder)
        config = run.config.model_copy(update={"device": device}) if device else run.config
        engine = load_engine(config, len(run.class_names))
        engine.load_weights(run.load_checkpoint(checkpoint).weights)
        return cls(engine, run.class_names, config)

    def detect(
        self, files: Iterable[Path | str], threshold: float | None = None, *, batch_size: int = 8
    ) -> Iterator[ImageDetections]:
        """Detections of every file, in the order given, best first, in pixels of the original picture.

        Nothing found is an empty tuple. A file that gives no picture has its reason in ``failure``; the others go on.
        ``threshold`` is the lowest score kept (left out: the run's ``evaluation.score``). Decoding runs ahead of the
        network by a batch; memory does not grow with the number of files.
        """
        threshold = self.threshold if threshold is None else threshold
        todo = iter(files)
        with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="decode") as pool:

            def start() -> list:
                return [(file, pool.submit(self._decode, file)) for file in islice(todo, batch_size)]

            coming = start()
            while coming:
                portion, coming = coming, start()
                yield from self._detect_batch([(str(file), job.result()) for file, job in portion], threshold)

    def _decode(self, file: Path | str) -> Square | PictureError:
        try:
            return read_square(file, self._config.data.image_side)
        except PictureError as failure:
            return failure

    def _detect_batch(
        self, portion: Sequence[tuple[str, Square | PictureError]], threshold: float
    ) -> Iterator[ImageDetections]:
        squares = [square for _, square in portion if isinstance(square, Square)]
        rows = iter(self._engine.detect(np.stack([square.pixels for square in squares])) if squares else ())
        for file, square in portion:
            if isinstance(square, PictureError):
                yield ImageDetections(file, None, None, failure=str(square))
                continue
            found = rows_to_detections(next(rows), self.class_names, square.width, square.height, threshold)
            yield ImageDetections(file, square.width, square.height, found)


def find_pictures(paths: Iterable[Path | str]) -> list[Path]:
    """The pictures among files and, recursively, in folders; folders give what has a picture's extension, in any case.

    Sorted within each folder, without repetition. A file named outright is kept whatever its extension. Raises
    FileNotFoundError for a path that does not exist.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if path.is_dir():
            inside = (file for file in path.rglob("*") if file.suffix.lower() in EXTENSIONS and not file.is_dir())
            found |= dict.fromkeys(sorted(inside))
        elif path.exists():
            found[path] = None
        else:
            raise FileNotFoundError(f"{path}: no such picture or folder")
    return list(found)
