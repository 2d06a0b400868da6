"""Which split does a run get, and what is doubtful about it?

A saved one, the one that the data brings along, or one made now. A grouped split keeps together what the json says
belongs together; where it does not say, or where all of it is of one camera, the pictures themselves are looked at.
What could not be kept apart is a `Problem` by one of the `SPLIT_RULES`: a split that leaks must not look like one that
does not.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ena24ssd.ahead import Progress
from ena24ssd.cameratraps import Image, Problem
from ena24ssd.config import SplitConfig
from ena24ssd.jsonfiles import read_json
from ena24ssd.sources import Source
from ena24ssd.splits import SIDES, Split, count_groups, split_images

SPLIT_RULES: dict[str, str] = {
    "too-few-cameras": "There are fewer cameras (or sequences) than sides; what is smaller is kept together instead, "
    "and the test shows no new place. Set split.validation or split.test to 0, or bring pictures of more cameras.",
    "twins-in-train": "Groups of near-duplicates were too large for one side and had to be cut; the test is not free "
    "of twins. 'ena24ssd split --report' shows them; bring pictures of more places.",
    "on-no-side": "The saved split names no side for some pictures; nobody learns from them or measures them. Split "
    "anew, if they are to take part.",
}
"""Every `Problem.rule` of a split, and a sentence on what is doubtful about it and the way out."""


class Chosen(NamedTuple):
    """A split, and what is doubtful about it."""

    split: Split
    problems: tuple[Problem, ...]


def choose_split(
    source: Source, config: SplitConfig, seed: int, cache: Path | None = None, progress: Progress | None = None
) -> Chosen:
    """The split of ``config.file``, else the one that came with the data, else one of ``config.kind``.

    ``cache`` keeps what was seen of the pictures, if they have to be looked at (left out: the user's cache folder);
    ``progress`` wraps the pictures still to be looked at.

    Raises ValueError for a file that is no split of this dataset, or a dataset that cannot be split as asked.
    """
    if config.file is not None:
        return _read_chosen(source, config.file)
    if source.split is not None:
        return Chosen(source.split, ())
    shares = config.train, config.validation, config.test
    if config.kind != "grouped":
        return Chosen(split_images(source.dataset.images, config.kind, shares, seed), ())
    images, problems = _enough_groups(source, sum(share > 0 for share in shares))
    if count_groups(images) is not None:
        return Chosen(split_images(images, "grouped", shares, seed), tuple(problems))
    from ena24ssd.neighbours import find_neighbours  # SciPy and imagehash; most runs do without

    neighbours = find_neighbours(source.dataset, cache, progress)
    split = split_images(images, "grouped", shares, seed, neighbours.groups)
    twins, judged = neighbours.count_twins(split), len(split.validation) + len(split.test)
    if twins:
        detail = (
            f"{twins} of {judged} pictures for validation and test have a near-duplicate in train: "
            f"{neighbours.cut} links in large groups were cut"
        )
        problems.append(Problem(None, "twins-in-train", detail))
    return Chosen(split, tuple(problems))


def read_split(file: Path) -> Split:
    """The split that `Split.to_json` made and a file holds. Raises ValueError."""
    try:
        return Split.from_json(read_json(file))
    except ValueError as fault:
        raise ValueError(f"{file}: is not a saved split ({fault}); make one with 'ena24ssd split --out'") from fault


def _enough_groups(source: Source, sides: int) -> tuple[list[Image], list[Problem]]:
    """The pictures with as much of their context as gives every side a group: less of it where cameras are too few."""
    images, problems = list(source.dataset.images), []
    for field, named in (("location", "cameras"), ("sequence", "sequences")):
        count = count_groups(images)
        if count is None or count >= sides:
            break
        named = named if count > 1 else named[:-1]
        detail = f"{source.dataset.name} has {count} {named} for {sides} sides, so not every side gets one of its own"
        problems.append(Problem(None, "too-few-cameras", detail))
        images = [image._replace(**{field: None}) for image in images]
    return images, problems


def _read_chosen(source: Source, file: Path) -> Chosen:
    split, known = read_split(file), {image.id for image in source.dataset.images}
    named = {key for side in SIDES for key in getattr(split, side)}
    strange = sorted(named - known - source.excluded)
    if strange:
        raise ValueError(
            f"{file}: {len(strange)} of its pictures (first: {strange[0]!r}) are not among the usable pictures of "
            f"{source.dataset.name}; it is of other data, or 'ena24ssd check' says why they are left out"
        )
    problems = []
    if known - named:
        detail = f"{len(known - named)} of {len(known)} pictures of {source.dataset.name} are on no side of {file}"
        problems.append(Problem(None, "on-no-side", detail))
    kept = (tuple(key for key in getattr(split, side) if key in known) for side in SIDES)
    return Chosen(Split(*kept), tuple(problems))
