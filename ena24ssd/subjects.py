"""Whose detections are judged, and on which pictures?

A subject is a trained run, whose network is asked, or a results file in MegaDetector's format, written by this package
or by any other tool. Either way the outcome is the same: `Judged` pictures with their truth and what was found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ena24ssd.cache import cache_pictures
from ena24ssd.cameratraps import CameraTrapDataset
from ena24ssd.config import ConfigError, RunConfig, change_config, override_config
from ena24ssd.data import Examples, read_examples
from ena24ssd.engine import Engine, choose_engine, load_engine
from ena24ssd.evaluation import max_boxes, measure
from ena24ssd.inspection import PICTURE_RULES
from ena24ssd.judged import Judged, Subject, checked_side
from ena24ssd.pictures import is_grey, uncover
from ena24ssd.resultsfile import open_results
from ena24ssd.runs import Checkpoint, CheckpointName, Run, RunError, open_run
from ena24ssd.sources import read_source
from ena24ssd.splits import Split


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
        side = checked_side(side) or self.split.judging
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
    changes = {"engine": "auto"} | ({"device": device} if device else {})
    if data is not None:
        changes |= {"data.path": data, "data.pictures": None}
    config = override_config(change_config(run.config, changes), overrides)
    # With the engine that trained it; where that cannot run here, with the other.
    config = change_config(config, {"engine": choose_engine(config, run.config.engine).engine})
    dataset = read_source(config.data).dataset
    if dataset.class_names != run.class_names:
        different = sorted(set(dataset.class_names) ^ set(run.class_names))
        what = f"differ in {', '.join(different)}" if different else "stand in another order"
        raise RunError(
            f"{run.folder}: its species and those of {dataset.name} {what}; a label must mean the same to both. "
            "Name the data it was trained on with --data"
        )
    return TrainedRun(run, config, dataset, checkpoint, run.load_checkpoint(checkpoint))
