"""What does a network say about these pictures?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image as Pillow

from ena24ssd import draw
from ena24ssd.boxes import LabelledBox
from ena24ssd.cameratraps import CameraTrapDataset, Image
from ena24ssd.cases import Cases, gather
from ena24ssd.config import RunConfig
from ena24ssd.data import Batch, Examples, count_batches, iterate_batches
from ena24ssd.detections import Detection, ImageDetections, rows_to_detections
from ena24ssd.engine import Engine
from ena24ssd.epoch import Pass, run_epoch
from ena24ssd.files import replacing
from ena24ssd.metrics import AnchorSums
from ena24ssd.pictures import view_of
from ena24ssd.scores import closing_figures, quick_figures


class Measured(NamedTuple):
    """What a network said about some pictures."""

    sums: AnchorSums
    cases: Cases


def measure(
    engine: Engine,
    examples: Examples,
    config: RunConfig,
    class_names: Sequence[str],
    name: str,
    *,
    show: bool = True,
    until: Callable[[], bool] = lambda: False,
) -> Measured | None:
    """Ask the network about every example, with detections of any score.

    ``name`` is what progress and messages call the pictures. None where ``until``, which is asked after every batch,
    ended the measuring early.
    """
    found: list[tuple[Detection, ...]] = []

    class Collecting:
        """A step that also hands over its detections when it is read."""

        def __init__(self, batch: Batch):
            self._step = engine.measure_step(batch)
            self.fault = self._step.fault

        def read(self) -> AnchorSums:
            for rows in self._step.rows():
                image = examples.images[len(found)]
                found.append(_detections(rows, image, class_names, config, 0.0))
            return self._step.read()

    size = portion_size(config)
    batches = iterate_batches(examples, size, workers=config.data.workers, held=engine.holds(examples.pixels))
    total = count_batches(len(examples), size, False)
    nothing = Pass(AnchorSums.zero(len(class_names)))
    passed = run_epoch(Collecting, batches, total, nothing, name, until=until, show=show)
    if passed.steps < total:
        return None
    return Measured(passed.sums, gather(examples.images, found, class_names))


def figures_of(measured: Measured, threshold: float, *, closing: bool = False) -> dict[str, float]:
    """What training logs: ``anchor/...``, ``f1/<species>``, and the figures of `ena24ssd.scores`: the quick ones after
    an epoch, all of them when it is ``closing``.
    """
    of_animals = (closing_figures if closing else quick_figures)(measured.cases, threshold)
    return anchor_figures(measured.sums, measured.cases.class_names) | of_animals


def anchor_figures(sums: AnchorSums, class_names: Sequence[str]) -> dict[str, float]:
    """``anchor/...`` and ``f1/<species>``."""
    per_species = zip(class_names, sums.species_f1())
    return {f"anchor/{key}": value for key, value in sums.metrics().items()} | {
        f"f1/{name}": float(value) for name, value in per_species if not np.isnan(value)
    }


def portion_size(config: RunConfig) -> int:
    """Pictures to measure at once: whoever measures a run, on whatever devices, adds up the same portions."""
    return max(1, min(16, -(-config.train.batch // config.train.accumulate)))


def draw_sheet(
    engine: Engine, dataset: CameraTrapDataset, examples: Examples, config: RunConfig, count: int, width: int = 480
) -> Pillow.Image:
    """Some pictures of a split, evenly spread, with the truth in white dashes and the detections in colour."""
    chosen = np.array(
        sorted({round(i * (len(examples) - 1) / max(count - 1, 1)) for i in range(min(count, len(examples)))})
    )
    portions = np.array_split(chosen, range(portion_size(config), len(chosen), portion_size(config)))
    rows = (row for portion in portions for row in engine.detect(examples.take(portion).images))
    images = [examples.images[position] for position in chosen]
    found = [
        _detections(row, image, dataset.class_names, config, config.evaluation.score)
        for row, image in zip(rows, images)
    ]
    return lay_out(dataset, images, found, width)


def lay_out(
    dataset: CameraTrapDataset, images: Sequence[Image], found: Sequence[Sequence[Detection]], width: int = 480
) -> Pillow.Image:
    """A sheet of pictures, each with its truth in white dashes and what was found on it in colour."""
    drawn, captions = [], []
    for image, some in zip(images, found):
        picture = draw.read_thumbnail(dataset.path(image), (image.width, image.height), (width, width))
        detections = ImageDetections(image.file_name, image.width, image.height, tuple(some))
        scale = picture.width / image.width, picture.height / image.height
        scaled = [LabelledBox(label, box.scale(*scale)) for label, box in image.boxes]
        drawn.append(draw.draw_detections(draw.draw_truth(picture, scaled, dataset.class_names), detections))
        captions.append(image.file_name)
    return draw.contact_sheet(drawn, captions, columns=3, cell=(width, width * 3 // 4))


def save_sheet(sheet: Pillow.Image, path: Path) -> None:
    """Write a drawing in the format of its name's extension, whole or not at all."""
    with replacing(path) as file:
        sheet.save(file, Pillow.registered_extensions().get(path.suffix.lower(), "PNG"))


def _detections(
    rows: np.ndarray, image: Image, class_names: Sequence[str], config: RunConfig, threshold: float
) -> tuple[Detection, ...]:
    """What the network's rows say about a picture, in its own pixels."""
    view = view_of(image.width, image.height, config.data.image_side, config.data.fit)
    return rows_to_detections(rows, class_names, image.width, image.height, threshold, view)


def max_boxes(dataset: CameraTrapDataset, config: RunConfig) -> int:
    """Truth rows a picture gets: the config's, or the most boxes any picture has (at least one row)."""
    return config.data.max_boxes or max(dataset.max_boxes, 1)
