"""How good is this run on this split?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from ena24ssd import draw
from ena24ssd.boxes import LabelledBox
from ena24ssd.cache import cache_pictures
from ena24ssd.cameratraps import CameraTrapDataset, Image
from ena24ssd.config import RunConfig, change_config
from ena24ssd.data import Batch, Examples, count_batches, iterate_batches, read_examples
from ena24ssd.detections import Detection, ImageDetections, rows_to_detections
from ena24ssd.engine import Engine, load_engine
from ena24ssd.epoch import Pass, run_epoch
from ena24ssd.files import replacing
from ena24ssd.inspection import PICTURE_RULES
from ena24ssd.metrics import AnchorSums, detection_metrics
from ena24ssd.pictures import PictureError, read_picture, view_of
from ena24ssd.runs import CheckpointName, Run, RunError, open_run
from ena24ssd.sources import read_source
from ena24ssd.splits import SIDES


@dataclass(frozen=True)
class Report:
    """What one set of weights does on one split; ``metrics`` holds the figures of `measure`."""

    split: str
    epoch: int
    pictures: int
    unreadable: int  # pictures of the split that were left out
    metrics: dict[str, float]


def evaluate(
    folder: Path | str,
    split: str | None = None,
    checkpoint: CheckpointName = "best",
    *,
    data: Path | None = None,
    device: str | None = None,
    sheet: Path | None = None,
    quiet: bool = False,
) -> Report:
    """Measure a run's checkpoint on one of its splits; training's closing figures come from the same code.

    Parameters: ``split`` is train, validation or test (left out: test, or validation where there is no test split);
    ``data`` says where the dataset lies now, if it moved; ``sheet`` is where to draw detections beside the truth.
    """
    run = open_run(folder)
    changes = {"kvstore": None} | ({"device": device} if device else {})  # measuring is one process's work
    if data is not None:
        changes |= {"data.path": data, "data.pictures": None}
    config = change_config(run.config, changes)
    split = split or closing_split(run)
    dataset = read_source(config.data).dataset
    if dataset.class_names != run.class_names:
        different = sorted(set(dataset.class_names) ^ set(run.class_names))
        what = f"differ in {', '.join(different)}" if different else "stand in another order"
        raise RunError(
            f"{run.folder}: its species and those of {dataset.name} {what}; a label must mean the same to both. "
            "Name the data it was trained on with --data"
        )
    ids = getattr(run.split, split)
    absent = set(ids).difference(image.id for image in dataset.images)
    if absent or not ids:
        why = "it has no pictures; name another with --split"
        if absent:
            why = (
                f"{len(absent)} of its {len(ids)} pictures (first: {min(absent)!r}) are no longer usable; "
                f"'ena24ssd check' says why, --data names another place for the data"
            )
        raise RunError(f"{run.folder}: split '{split}' cannot be measured: {why}")
    cache = cache_pictures(dataset, config.data.image_side, config.data.fit, config.data.cache)
    examples, problems = read_examples(dataset, cache, ids, max_boxes(dataset, config), config.data.fit)
    if not len(examples):
        raise RunError(
            f"{run.folder}: split '{split}' cannot be measured: none of its pictures can be used. The first, "
            f"{problems[0].file_name}: {problems[0].detail}. {PICTURE_RULES[problems[0].rule]}"
        )
    engine = load_engine(config, run.class_names)
    kept = run.load_checkpoint(checkpoint)
    engine.load_weights(kept.weights)
    metrics = measure(engine, examples, config, run.class_names, split, show=not quiet)
    if sheet is not None:
        save_sheet(draw_sheet(engine, dataset, examples, config, 12), sheet)
    return Report(split, kept.epoch, len(examples), len(ids) - len(examples), metrics)


def measure(
    engine: Engine,
    examples: Examples,
    config: RunConfig,
    class_names: Sequence[str],
    name: str,
    *,
    show: bool = True,
    until: Callable[[], bool] = lambda: False,
) -> dict[str, float] | None:
    """Figures of a split: ``anchor/...``, ``detection/...`` and, for the species it shows, ``f1/<species>``.

    None where ``until``, which is asked after every batch, ended the measuring early.
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
    batches = iterate_batches(examples, size, workers=config.data.workers)
    total = count_batches(len(examples), size, False)
    nothing = Pass(AnchorSums.zero(len(class_names)))
    passed = run_epoch(Collecting, batches, total, nothing, name, until=until, show=show)
    if passed.steps < total:
        return None
    truths = [image.boxes for image in examples.images]
    detected = detection_metrics(truths, found, len(class_names), config.evaluation.score)
    return anchor_figures(passed.sums, class_names) | {f"detection/{key}": value for key, value in detected.items()}


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
    drawn, captions = [], []
    for position, found in zip(chosen, rows):
        image = examples.images[position]
        try:
            picture = read_picture(dataset.path(image), stored_size=(image.width, image.height), least=width)
        except PictureError:  # it could be read when the cache was made; no drawing is worth stopping for
            picture = Pillow.new("RGB", (width, max(1, round(width * image.height / image.width))), draw.PAPER)
        picture.thumbnail((width, width))  # before drawing: words and lines stay as large as the sheet shows them
        detections = ImageDetections(
            image.file_name,
            image.width,
            image.height,
            _detections(found, image, dataset.class_names, config, config.evaluation.score),
        )
        scale = picture.width / image.width, picture.height / image.height
        scaled = [LabelledBox(label, box.scale(*scale)) for label, box in image.boxes]
        drawn.append(draw.draw_detections(draw.draw_truth(picture, scaled, dataset.class_names), detections))
        captions.append(image.file_name)
    return draw.contact_sheet(drawn, captions, columns=3, cell=(width, width * 3 // 4))


def save_sheet(sheet: Pillow.Image, path: Path) -> None:
    """Write a drawing in the format of its name's extension, whole or not at all."""
    with replacing(path) as file:
        sheet.save(file, Pillow.registered_extensions().get(path.suffix.lower(), "PNG"))


def closing_split(run: Run) -> str:
    """The split a run is judged on: test, else validation, else train."""
    return next(side for side in reversed(SIDES) if getattr(run.split, side))


def _detections(
    rows: np.ndarray, image: Image, class_names: Sequence[str], config: RunConfig, threshold: float
) -> tuple[Detection, ...]:
    """What the network's rows say about a picture, in its own pixels."""
    view = view_of(image.width, image.height, config.data.image_side, config.data.fit)
    return rows_to_detections(rows, class_names, image.width, image.height, threshold, view)


def max_boxes(dataset: CameraTrapDataset, config: RunConfig) -> int:
    """Truth rows a picture gets: the config's, or the most boxes any picture has (at least one row)."""
    return config.data.max_boxes or max(dataset.max_boxes, 1)
