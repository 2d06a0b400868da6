"""Whose detections are judged, and on which pictures?

A subject is a trained run, whose network is asked, or a results file in MegaDetector's format, written by this package
or by any other tool. Either way the outcome is the same: `Judged` pictures with their truth and what was found.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
from tqdm import tqdm

from ena24ssd.ahead import run_ahead
from ena24ssd.cache import cache_pictures
from ena24ssd.cameratraps import CameraTrapDataset, Image
from ena24ssd.cases import Cases, gather
from ena24ssd.choosing import read_split
from ena24ssd.config import ConfigError, DataConfig, RunConfig, change_config, override_config
from ena24ssd.data import Examples, read_examples
from ena24ssd.detections import Detection, ImageDetections, read_megadetector
from ena24ssd.engine import Engine, load_engine
from ena24ssd.evaluation import max_boxes, measure
from ena24ssd.inspection import PICTURE_RULES
from ena24ssd.metrics import AnchorSums
from ena24ssd.pictures import THUMBNAIL, PictureError, is_grey, read_picture, uncover
from ena24ssd.runs import Checkpoint, CheckpointName, Run, RunError, open_run
from ena24ssd.sources import read_source, read_source_or_json
from ena24ssd.splits import SIDES, Split

KINDS = {"human": "person", "person": "person", "people": "person", "vehicle": "vehicle"}  # what MegaDetector calls it


@dataclass(frozen=True)
class Judged:
    """What one model found on some pictures."""

    images: tuple[Image, ...]  # P
    cases: Cases
    night: np.ndarray | None  # (P,) bool; None where no picture could be looked at
    unreadable: int = 0  # pictures that were left out
    sums: AnchorSums | None = None  # what only the network itself can tell
    floor: float = 0.0  # score below which nothing was noted down


class Subject(Protocol):
    """A model that can be judged."""

    name: str
    config: RunConfig
    dataset: CameraTrapDataset

    @property
    def split(self) -> Split | None:
        """Who learnt, who chose, who judges; None where nobody says."""

    def ids(self, side: str | None) -> tuple[str, ...]:
        """The pictures of a side of the split (None: the one to judge on). Raises RunError where there are none."""

    def judge(self, ids: Sequence[str], *, quiet: bool = False) -> Judged:
        """Compare what is found on these pictures with the truth. Raises RunError where none can be used."""


def open_subject(
    path: Path | str,
    *,
    data: Path | None = None,
    checkpoint: CheckpointName = "best",
    device: str | None = None,
    split: Path | None = None,
    overrides: Sequence[str] = (),
) -> Subject:
    """The run in a folder, or the results file.

    Parameters: ``data``, where the dataset lies now (a results file needs it); ``overrides``
    (``evaluation.field=value``) change how detections are read off a run's network, and from which score on they count;
    ``split``, a saved split for a results file.

    Raises RunError, ConfigError, AnnotationError or ValueError, each saying the way out.
    """
    path = Path(path)
    strange = [word for word in overrides if not word.startswith("evaluation.")]
    if strange:
        raise ConfigError(f"{strange[0]}: a run is measured as it was trained; only evaluation.* may change")
    if not path.exists():
        raise RunError(f"{path}: there is no such run folder or results file")
    if path.is_file():
        return open_results(path, data, split, overrides)
    if split is not None:
        raise RunError(f"{path}: a run has its own split; a saved one is for results files")
    return open_trained(path, data, checkpoint, device, overrides)


def _checked(side: str | None) -> str | None:
    if side is not None and side not in SIDES:
        raise RunError(f"there is no side {side!r} of a split; name one of {', '.join(SIDES)}")
    return side


# -- a trained run -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainedRun:
    """A run folder, its data and the weights to measure."""

    run: Run
    config: RunConfig
    dataset: CameraTrapDataset
    checkpoint: CheckpointName
    kept: Checkpoint  # read once: a run in training may replace the file meanwhile

    @property
    def name(self) -> str:
        return str(self.run.folder)

    @property
    def split(self) -> Split:
        return self.run.split

    @property
    def epoch(self) -> int:
        return self.kept.epoch

    @cached_property
    def engine(self) -> Engine:
        engine = load_engine(self.config, self.run.class_names)
        engine.load_weights(self.kept.weights)
        return engine

    def ids(self, side: str | None) -> tuple[str, ...]:
        side = _checked(side) or self.split.judging
        ids = getattr(self.split, side)
        absent = set(ids).difference(image.id for image in self.dataset.images)
        if absent or not ids:
            why = "it has no pictures; name another with --split"
            if absent:
                why = (
                    f"{len(absent)} of its {len(ids)} pictures (first: {min(absent)!r}) are no longer usable; "
                    f"'ena24ssd check' says why, --data names another place for the data"
                )
            raise RunError(f"{self.name}: split '{side}' cannot be measured: {why}")
        return ids

    def examples(self, ids: Sequence[str]) -> Examples:
        """The pictures ready for the network, without those that give none. Raises RunError where that is all."""
        cache = cache_pictures(self.dataset, self.config.data.image_side, self.config.data.fit, self.config.data.cache)
        boxes = max_boxes(self.dataset, self.config)
        examples, problems = read_examples(self.dataset, cache, ids, boxes, self.config.data.fit)
        if not len(examples):
            raise RunError(
                f"{self.name}: none of the {len(ids)} pictures can be used. The first, {problems[0].file_name}: "
                f"{problems[0].detail}. {PICTURE_RULES[problems[0].rule]}"
            )
        return examples

    def judge(self, ids: Sequence[str], *, quiet: bool = False) -> Judged:
        examples = self.examples(ids)
        measured = measure(self.engine, examples, self.config, self.run.class_names, "measuring", show=not quiet)
        unreadable, floor = len(ids) - len(examples), self.config.evaluation.floor
        return Judged(examples.images, measured.cases, self._night(examples), unreadable, measured.sums, floor)

    def _night(self, examples: Examples) -> np.ndarray:
        def look(position: int) -> bool:
            image = examples.images[position]
            square = examples.pixels[examples.rows[position]]
            return is_grey(uncover(square, image.width, image.height, self.config.data.fit))

        return np.array([look(position) for position in range(len(examples))], dtype=bool)


def open_trained(
    folder: Path, data: Path | None, checkpoint: CheckpointName, device: str | None, overrides: Sequence[str]
) -> TrainedRun:
    """Raises RunError where folder, weights or data are not as they must be."""
    run = open_run(folder)
    changes = {"kvstore": None} | ({"device": device} if device else {})  # measuring is one process's work
    if data is not None:
        changes |= {"data.path": data, "data.pictures": None}
    config = override_config(change_config(run.config, changes), overrides)
    dataset = read_source(config.data).dataset
    if dataset.class_names != run.class_names:
        different = sorted(set(dataset.class_names) ^ set(run.class_names))
        what = f"differ in {', '.join(different)}" if different else "stand in another order"
        raise RunError(
            f"{run.folder}: its species and those of {dataset.name} {what}; a label must mean the same to both. "
            "Name the data it was trained on with --data"
        )
    return TrainedRun(run, config, dataset, checkpoint, run.load_checkpoint(checkpoint))


# -- a results file ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ResultsFile:
    """Detections that somebody's model has written down, and the truth about the same pictures."""

    path: Path
    config: RunConfig
    dataset: CameraTrapDataset  # with every species that either side names
    results: dict[str, ImageDetections]  # by image id; boxes relative to the picture
    split: Split | None
    has_pictures: bool
    floor: float  # the lowest score in the file

    @property
    def name(self) -> str:
        return str(self.path)

    def ids(self, side: str | None) -> tuple[str, ...]:
        side = _checked(side)
        if self.split is None:
            if side is not None:
                raise RunError(
                    f"{self.path}: a results file has no split '{side}'; name one that was saved with --split-file, or "
                    "leave out --split to judge every picture it has results for"
                )
            ids = tuple(image.id for image in self.dataset.images)
        else:
            ids = getattr(self.split, side or self.split.judging)
            if not ids:
                raise RunError(f"{self.path}: the split has no pictures on side '{side}'; name another with --split")
        return ids

    def judge(self, ids: Sequence[str], *, quiet: bool = False) -> Judged:
        known = {image.id: image for image in self.dataset.images}
        whole = [key for key in ids if key in self.results and self.results[key].failure is None]
        images = tuple(known[key] for key in whole if key in known)
        if not images:
            raise RunError(f"{self.path}: has no results for any of the {len(ids)} pictures to judge")
        labels = {name: label for label, name in enumerate(self.dataset.class_names)}
        found = ([_place(one, image, labels) for one in self.results[image.id].detections] for image in images)
        cases = gather(images, found, self.dataset.class_names)
        night = _look(self.dataset, images, quiet) if self.has_pictures else None
        return Judged(images, cases, night, len(ids) - len(images), floor=self.floor)


def open_results(path: Path, data: Path | None, split: Path | None, overrides: Sequence[str]) -> ResultsFile:
    """Raises RunError where file and data have no picture or no species in common, or a picture has two results.

    Where the file names "animal" and no species of the data, as MegaDetector's does, all species are judged as that.
    """
    if data is None:
        raise RunError(f"{path}: a results file says nothing about the truth; name the labelled pictures with --data")
    config = override_config(RunConfig(data=DataConfig(path=data)), overrides)
    if config.evaluation.protocol == "post":
        raise RunError(f"{path}: the post's protocol asks the network itself; a results file has none")
    source, doubt = read_source_or_json(config.data)
    dataset = source.dataset
    found, names = read_megadetector(path, relative=True)
    results = _by_id(path, dataset.images, found)
    if not results:
        raise RunError(
            f"{path}: names no picture of {dataset.name}; the first is {found[0].file!r} there and "
            f"{dataset.images[0].file_name!r} here"
            if found and dataset.images
            else f"{path}: names no picture"
        )
    if len(results) < len(found):
        tqdm.write(f"{path}: {len(found) - len(results):,} results are of pictures that {dataset.name} does not have")
    if not set(names) & set(dataset.class_names) and "animal" in names:
        tqdm.write(f"{path}: names no species; all of them are judged as 'animal'")
        dataset = _without_species(dataset)
    if not set(names) & set(dataset.class_names):
        raise RunError(
            f"{path}: its species ({', '.join(names)}) are none of those of {dataset.name} "
            f"({', '.join(dataset.class_names)}); names must be the same to the letter"
        )
    extra = tuple(name for name in names if name not in dataset.class_names)
    if extra:
        tqdm.write(f"{path}: {dataset.name} does not know {', '.join(extra)}; what is found of that counts as wrong")
    dataset = replace(dataset, class_names=dataset.class_names + extra)
    chosen = source.split if split is None else read_split(split)
    floor = min((one.score for some in found for one in some.detections), default=0.0)
    return ResultsFile(path, config, dataset, results, chosen, doubt is None, floor)


def _by_id(path: Path, images: Sequence[Image], found: Iterable[ImageDetections]) -> dict[str, ImageDetections]:
    """The results of each image, by name: the whole one, else as much of its end as no other picture shares."""
    by_name = {image.file_name: image.id for image in images}
    endings: dict[str, set[str]] | None = None
    results: dict[str, ImageDetections] = {}
    for one in found:
        name = one.file.replace("\\", "/")
        key = by_name.get(name)
        if key is None:
            endings = _ids_by_ending(images) if endings is None else endings
            keys = next((endings[ending] for ending in _endings(name) if ending in endings), ())
            key = next(iter(keys)) if len(keys) == 1 else None
        if key is None:
            continue
        if key in results:
            raise RunError(
                f"{path}: has two results for one picture, {results[key].file!r} and {one.file!r}; leave one in it"
            )
        results[key] = one
    return results


def _ids_by_ending(images: Sequence[Image]) -> dict[str, set[str]]:
    endings: dict[str, set[str]] = defaultdict(set)
    for image in images:
        for ending in _endings(image.file_name):
            endings[ending].add(image.id)
    return endings


def _endings(name: str) -> list[str]:
    """``a/b/c.jpg``, ``b/c.jpg``, ``c.jpg``."""
    parts = PurePosixPath(name).parts
    return ["/".join(parts[start:]) for start in range(len(parts))]


def _place(one: Detection, image: Image, labels: dict[str, int]) -> Detection:
    """The relative detection in pixels of the annotated picture, under the label that its name has there."""
    return Detection(labels[one.name], one.name, one.score, one.box.scale(image.width, image.height))


def _without_species(dataset: CameraTrapDataset) -> CameraTrapDataset:
    """The same pictures as MegaDetector sees them: animals, persons and vehicles."""
    kinds = [KINDS.get(name.lower(), "animal") for name in dataset.class_names]
    class_names = tuple(dict.fromkeys(["animal", *kinds]))
    label = [class_names.index(kind) for kind in kinds]
    images = (
        image._replace(boxes=tuple(one._replace(label=label[one.label]) for one in image.boxes))
        for image in dataset.images
    )
    return replace(dataset, class_names=class_names, images=tuple(images))


def _look(dataset: CameraTrapDataset, images: Sequence[Image], quiet: bool) -> np.ndarray:
    """Whether each picture is grey, as those by infrared flash are; one that cannot be read counts as day."""

    def look(image: Image) -> bool:
        try:
            return is_grey(read_picture(dataset.path(image), least=THUMBNAIL))
        except PictureError:
            return False

    shown = tqdm(images, "day or night", leave=False, unit="picture", disable=quiet or None)
    return np.fromiter(run_ahead(look, shown, name="light"), dtype=bool, count=len(images))
