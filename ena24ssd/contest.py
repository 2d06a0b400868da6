"""Which of these models is best on the pictures that none of them has seen?

Every model is judged on the same pictures: those that the split of each leaves to the judge, and that all could read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ena24ssd.assessment import group_pictures, side_of
from ena24ssd.bootstrap import Groups
from ena24ssd.cases import Cases
from ena24ssd.comparison import tell_apart
from ena24ssd.judged import Subject
from ena24ssd.runs import CheckpointName, RunError
from ena24ssd.scores import plain
from ena24ssd.significance import Contender, Verdict, conclude, find_verdicts
from ena24ssd.subjects import TrainedRun, open_subject


@dataclass(frozen=True)
class Contest:
    """What came of it."""

    models: tuple[str, ...]  # names, in the order given
    split: str
    pictures: int  # that all models were judged on
    left_out: int  # of the pictures that any of them has for judging
    floor: float  # score below which no detection counts, as one of the models has noted down no lower ones
    groups: Groups
    verdicts: tuple[Verdict, ...]  # of the best against each other

    @property
    def conclusions(self) -> tuple[str, ...]:
        return conclude(self.verdicts)

    def to_json(self) -> dict[str, Any]:
        about = {key: getattr(self, key) for key in ("models", "split", "pictures", "left_out", "floor", "conclusions")}
        drawn = {"groups": self.groups.count, "grouped_by": self.groups.kind}
        return plain(about | drawn | {"verdicts": [vars(verdict) for verdict in self.verdicts]})


def compare_models(
    models: Sequence[Path | str],
    split: str | None = None,
    checkpoint: CheckpointName = "best",
    *,
    data: Path | None = None,
    device: str | None = None,
    overrides: Sequence[str] = (),
    split_file: Path | None = None,
    quiet: bool = False,
) -> Contest:
    """Put run folders and results files side by side; the parameters are those of `ena24ssd.assessment.evaluate`.

    ``data`` left out: results files are judged by the data of the first run. Each model's detections count as shown
    from its own ``evaluation.score`` on, and for mAP from the lowest score that all of them have noted down.

    Raises RunError where they have no picture in common that none of them learnt from, nor on test was chosen by.
    """
    if split == "train":
        raise RunError("compare: on the train split the models would be judged by what they have learnt by heart")
    _require_several(models)
    subjects = _open(models, data, checkpoint, device, split_file, overrides)
    side = _side(subjects, split)
    ids = [subject.ids(split) for subject in subjects]
    seen = {key for subject in subjects for key in _known(subject, side)}
    common = set.intersection(*map(set, ids)) - seen
    if not common:
        raise RunError(
            "the models have no picture in common to be judged on: what one has for that, another has learnt from, or "
            "does not have. Train them on one split (split.file=RUN/split.json)"
        )
    chosen = [key for key in ids[0] if key in common]
    judged = [subject.judge(chosen, quiet=quiet) for subject in subjects]
    readable = set.intersection(*(set(one.cases.ids) for one in judged))
    if not readable:
        raise RunError(f"none of the {len(common):,} pictures that all models have for judging could be read by all")
    floor = max(one.floor for one in judged)
    class_names = tuple(dict.fromkeys(name for subject in subjects for name in subject.dataset.class_names))
    names = tell_apart(Path(subject.name) for subject in subjects)
    contenders = [
        Contender(
            names[Path(subject.name)], _on(one.cases, readable, class_names, floor), subject.config.evaluation.score
        )
        for subject, one in zip(subjects, judged)
    ]
    images = [image for image in judged[0].images if image.id in readable]
    first, choices = subjects[0], subjects[0].config.evaluation
    groups = group_pictures(first.dataset, images, first.config, quiet=quiet)
    verdicts = find_verdicts(contenders, groups, choices.resamples, first.config.seed)
    left_out = len(set().union(*ids)) - len(readable)
    return Contest(tuple(names.values()), side, len(readable), left_out, floor, groups, verdicts)


def _open(
    models: Sequence[Path | str],
    data: Path | None,
    checkpoint: CheckpointName,
    device: str | None,
    split_file: Path | None,
    overrides: Sequence[str],
) -> list[Subject]:
    """The runs first: they know where the data lie."""
    options = {"checkpoint": checkpoint, "device": device, "overrides": overrides}
    runs = {path: open_subject(path, data=data, **options) for path in models if Path(path).is_dir()}
    if data is None and runs:
        data = next(iter(runs.values())).config.data.path
    options["split"] = split_file
    return [runs[path] if path in runs else open_subject(path, data=data, **options) for path in models]


def _require_several(models: Sequence[Path | str]) -> None:
    """Raise RunError before anything is measured that cannot be compared."""
    places = [Path(path).resolve() for path in models]
    if len(places) < 2:
        raise RunError(f"compare: {len(places)} model is named; it takes two or more")
    twice = [str(path) for path, place in zip(models, places) if places.count(place) > 1]
    if twice:
        raise RunError(f"compare: {' and '.join(twice)} are the same; a model cannot be better than itself")


def _side(subjects: Sequence[Subject], split: str | None) -> str:
    """The side that all models are judged on. Raises RunError where each would take another."""
    if split is not None:
        return split
    sides = sorted({side_of(subject) for subject in subjects if subject.split is not None})
    if len(sides) > 1:
        raise RunError(f"compare: of the models' splits one ends in {' and another in '.join(sides)}; name a --split")
    return sides[0] if sides else "all"


def _known(subject: Subject, side: str) -> tuple[str, ...]:
    """The pictures that a model had a share in: it learnt from them, or its checkpoint was chosen by them.

    Where validation judges, the latter is so for every model, and nobody is better off than another.
    """
    if not isinstance(subject, TrainedRun):
        return ()
    before = ("train",) if side == "validation" else ("train", "validation")
    return tuple(key for one in before for key in getattr(subject.split, one))


def _on(cases: Cases, ids: set[str], class_names: tuple[str, ...], floor: float) -> Cases:
    """The cases of some pictures, with labels by the names of all models together, and scores from ``floor`` on."""
    cases = cases.take(np.array([key in ids for key in cases.ids], dtype=bool))
    label = np.array([class_names.index(name) for name in cases.class_names], dtype=np.int64)
    truth, found = (rows._replace(label=label[rows.label]) for rows in (cases.truth, cases.found))
    cases = replace(cases, class_names=class_names, truth=truth, found=found)
    return cases.keep_found(found.score >= floor)
