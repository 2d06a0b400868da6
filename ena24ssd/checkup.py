"""What is wrong with this dataset, and what does it cost?

`check_dataset` reads the annotations, looks for the pictures, and on request decodes every one of them. The answer is
counted by rule; nothing is changed on disk.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

from ena24ssd.ahead import Progress
from ena24ssd.cameratraps import NOTICES, RULES, CameraTrapDataset, Problem
from ena24ssd.config import DataConfig
from ena24ssd.inspection import PICTURE_NOTICES, PICTURE_RULES, inspect_pictures
from ena24ssd.sources import read_source, read_source_or_json

EVERY_RULE = RULES | PICTURE_RULES
EVERY_NOTICE = NOTICES | PICTURE_NOTICES


@dataclass(frozen=True)
class Checkup:
    """What was found: the dataset less what was left out, and every problem of json and files."""

    dataset: CameraTrapDataset
    problems: tuple[Problem, ...]
    looked_at: str  # "the json alone", "the json and which pictures exist" or "the json and every picture"
    not_found: str | None = None  # why pictures were not looked at, though they should have been

    @property
    def by_rule(self) -> dict[str, list[Problem]]:
        """The problems of each rule that was needed, in the order of the rules."""
        found: dict[str, list[Problem]] = defaultdict(list)
        for problem in self.problems:
            found[problem.rule].append(problem)
        return {rule: found[rule] for rule in EVERY_RULE if rule in found}

    @property
    def passed(self) -> bool:
        """Whether nothing was left out, and everything that should be looked at was."""
        return self.lossless and self.not_found is None

    @property
    def lossless(self) -> bool:
        """Whether every problem is a mere notice: no picture, box or animal was left out."""
        return all(problem.rule in EVERY_NOTICE for problem in self.problems)

    def boxes_by_species(self) -> dict[str, int]:
        """How many boxes each species has, the most frequent first."""
        counts = dict.fromkeys(self.dataset.class_names, 0)
        for image in self.dataset.images:
            for label, _ in image.boxes:
                counts[self.dataset.class_names[label]] += 1
        return dict(sorted(counts.items(), key=lambda item: -item[1]))

    def to_json(self, examples: int = 5) -> dict[str, Any]:
        """The checkup as plain data; each rule with its count and its first ``examples``."""
        dataset, species = self.dataset, self.boxes_by_species()
        return {
            "dataset": dataset.name,
            "root": str(dataset.root),
            "looked_at": self.looked_at,
            "pictures": len(dataset.images),
            "blank": dataset.blanks,
            "mixed_species": dataset.mixed,
            "boxes": sum(species.values()),
            "most_boxes": dataset.max_boxes,
            "species": species,
            "lossless": self.lossless,
            "not_found": self.not_found,
            "problems": [
                {
                    "rule": rule,
                    "count": len(problems),
                    "notice": rule in EVERY_NOTICE,
                    "meaning": EVERY_RULE[rule],
                    "examples": [
                        {"image_id": p.image_id, "file_name": p.file_name, "detail": p.detail}
                        for p in problems[:examples]
                    ],
                }
                for rule, problems in self.by_rule.items()
            ],
        }


def check_dataset(
    config: DataConfig,
    *,
    json_alone: bool = False,
    deep: bool = False,
    progress: Progress | None = None,
) -> Checkup:
    """Check the dataset of ``config.path``.

    ``json_alone``: do not look for pictures. Where there are none near the json, and ``config.pictures`` names no
    folder, that is what happens anyway, and ``not_found`` says why. ``deep``: decode every picture, wrapped in
    ``progress``.

    Raises AnnotationError where the annotations cannot be used at all, ValueError for ``deep`` without pictures.
    """
    if json_alone and deep:
        raise ValueError(f"{config.path}: no picture can be decoded without looking for it; leave out one option")
    if json_alone:
        return _look(read_source(config, check_files=False).dataset, "the json alone")
    if deep:
        dataset = read_source(config).dataset
        return _look(dataset, "the json and every picture", inspect_pictures(dataset, progress))
    source, not_found = read_source_or_json(config)
    if not_found is not None:
        return replace(_look(source.dataset, "the json alone"), not_found=not_found)
    return _look(source.dataset, "the json and which pictures exist")


def _look(dataset: CameraTrapDataset, looked_at: str, found: tuple[Problem, ...] = ()) -> Checkup:
    lost = {problem.image_id for problem in found if problem.rule not in EVERY_NOTICE}
    usable = tuple(image for image in dataset.images if image.id not in lost)
    return Checkup(replace(dataset, images=usable), dataset.problems + found, looked_at)
