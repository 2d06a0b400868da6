"""What is in this picture, or in this folder of pictures?"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ena24ssd import draw
from ena24ssd.config import RunConfig, change_config
from ena24ssd.detections import ImageDetections, rows_to_detections, write_megadetector
from ena24ssd.engine import Engine, choose_engine, load_engine
from ena24ssd.pictures import EXTENSIONS, PictureError, Square, read_picture, read_square, view_of
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
    def load(
        cls,
        folder: Path | str,
        checkpoint: CheckpointName = "best",
        *,
        device: str | None = None,
        engine: str | None = None,
    ) -> Detector:
        """From a run folder, with the engine that trained it; where that cannot run here, with the other.

        ``device`` and ``engine`` (``gluon``, ``pytorch``) overrule that. Raises RunError or EngineError.
        """
        run = open_run(folder)
        config = change_config(run.config, {"engine": engine or "auto"} | ({"device": device} if device else {}))
        config = change_config(config, {"engine": choose_engine(config, run.config.engine).engine})
        engine = load_engine(config, run.class_names)
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
            return read_square(file, self._config.data.image_side, self._config.data.fit)
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
            size = square.width, square.height
            view = view_of(*size, self._config.data.image_side, self._config.data.fit)
            found = rows_to_detections(next(rows), self.class_names, *size, threshold, view)
            yield ImageDetections(file, *size, found)


@dataclass
class Summary:
    """What `predict` did."""

    root: Path  # file names in the results start from it
    pictures: int = 0
    detections: int = 0
    failures: list[ImageDetections] = field(default_factory=list)


def predict(
    run: Path | str,
    paths: Sequence[Path | str],
    out: Path,
    *,
    draw_into: Path | None = None,
    threshold: float | None = None,
    checkpoint: CheckpointName = "best",
    device: str | None = None,
    engine: str | None = None,
    quiet: bool = False,
) -> Summary:
    """Detect in pictures and folders; write MegaDetector JSON to ``out`` and drawn pictures into ``draw_into``.

    File names start from the deepest folder that holds all of ``paths``. A picture that gives none is a recorded
    failure. Raises RunError, EngineError, FileNotFoundError for a path that is not there, ValueError for no pictures.
    """
    drawings = draw_into and Path(os.path.abspath(draw_into))
    files = [file for file in find_pictures(paths) if not (drawings and file.is_relative_to(drawings))]
    if not files:
        raise ValueError(f"no pictures in {', '.join(map(str, paths))}; known are {', '.join(sorted(EXTENSIONS))}")
    detector = Detector.load(run, checkpoint, device=device, engine=engine)
    threshold = detector.threshold if threshold is None else threshold
    summary = Summary(common_folder(paths))

    def results() -> Iterator[ImageDetections]:
        found = detector.detect(files, threshold)
        for result in tqdm(found, "detecting", len(files), leave=False, unit="picture", disable=quiet or None):
            summary.pictures += 1
            summary.detections += len(result.detections)
            if result.failure is not None:
                summary.failures.append(result)
            elif drawings:
                target = drawings / Path(result.file).relative_to(summary.root)
                target.parent.mkdir(parents=True, exist_ok=True)
                drawn = draw.draw_detections(read_picture(result.file), result)
                drawn.save(target.with_name(target.name + ".jpg"), quality=90)  # a.jpg and a.png stay apart
            yield result

    advice = {"typical_detection_threshold": threshold}
    name = f"ena24ssd {Path(run).name}"
    root = summary.root
    write_megadetector(out, results(), detector.class_names, detector=name, detector_metadata=advice, root=root)
    return summary


def find_pictures(paths: Iterable[Path | str]) -> list[Path]:
    """The pictures among files and, recursively, in folders; folders give what has a picture's extension, in any case.

    Absolute paths, sorted within each folder, without repetition. A file named outright is kept whatever its extension.
    Raises FileNotFoundError for a path that does not exist.
    """
    found: dict[Path, None] = {}
    for path in map(Path, map(os.path.abspath, paths)):
        if path.is_dir():
            inside = (file for file in path.rglob("*") if file.suffix.lower() in EXTENSIONS and not file.is_dir())
            found |= dict.fromkeys(sorted(inside))
        elif path.exists():
            found[path] = None
        else:
            raise FileNotFoundError(f"{path}: no such picture or folder")
    return list(found)


def common_folder(paths: Sequence[Path | str]) -> Path:
    """The deepest folder that holds all of the pictures and folders."""
    folders = [path if os.path.isdir(path) else os.path.dirname(path) for path in map(os.path.abspath, paths)]
    return Path(os.path.commonpath(folders))
