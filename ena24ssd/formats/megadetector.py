"""How do the reviewed results of a detector become labels?

MegaDetector batch output (https://lila.science/megadetector-output-format), as Timelapse, AddaxAI and this package
write it, holds whatever a detector saw, down to scores of a few per cent. It becomes labels once a person has gone
through it. The format has no mark for that, so the ``threshold`` says what was agreed: 1 where reviewers set the score
of what they confirmed to 1, 0 where they deleted what was wrong, something between for results nobody has reviewed.
Boxes that reach it are labels, pictures without any are blank.

A box is called by its best classification, where it has any, else by its detection category (animal, person, vehicle).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

from ena24ssd.ahead import Progress
from ena24ssd.boxes import Box
from ena24ssd.cameratraps import EMPTY_NAMES, Image
from ena24ssd.formats.pairs import picture_size
from ena24ssd.formats.reading import (
    Conflict,
    LabelError,
    Labelled,
    Reading,
    is_portable,
    is_unicode,
    odd_boxes,
    odd_classes,
    to_dataset,
    to_number,
)
from ena24ssd.jsonfiles import JsonError, read_json

CATEGORIES = {"1": "animal", "2": "person", "3": "vehicle"}  # of files that list none: the first versions


def read(source: Path, threshold: float, *, root: Path | None = None, progress: Progress | None = None) -> Reading:
    """Read batch output; detections whose ``conf`` is at least ``threshold`` (0 to 1) become boxes.

    Boxes are relative to the picture's size, which is taken from ``width`` and ``height`` where an entry has them, else
    from the picture below ``root`` (left out: the json's folder). Ids of the pictures are their file names.

    Raises ValueError for a threshold outside 0 to 1, and for a file that is no batch output.
    """
    if not 0.0 <= threshold <= 1.0:
        raise ValueError(f"threshold {threshold}: must lie between 0 and 1, as scores do")
    document = parse(source)
    root = source.parent if root is None else root
    detected = document.get("detection_categories") or CATEGORIES
    classified = document.get("classification_categories") or {}
    losses: Counter[str] = Counter()
    pictures: list[Labelled] = []
    conflicts: list[Conflict] = []
    seen: set[str] = set()
    unclassified = 0

    def boxes_of(entry: dict[str, Any]) -> list[tuple[str, Box, bool]]:
        """Class, box in parts of the picture, and whether the class is the classifier's."""
        boxes = []
        for number, found in enumerate(entry["detections"], start=1):
            category, score = _get(found, "category"), to_number(_get(found, "conf"))
            bbox = _get(found, "bbox")
            sides = [to_number(side) for side in bbox] if isinstance(bbox, list) else []
            if score is None or len(sides) != 4 or None in sides:
                raise LabelError("unusable-box", f"detection {number} is {found!r:.120}")
            if score < threshold:
                losses["detection below the threshold"] += 1
                continue
            best = _best(found)
            name = classified.get(best) if best is not None else detected.get(str(category))
            if best is not None and name is None:
                raise LabelError("unknown-class", f"detection {number} is classified as {best!r}, which has no name")
            if name is None:  # the format: treat as no detection
                losses["detection of a category that is not listed"] += 1
            elif name.strip().lower() in EMPTY_NAMES:
                losses["detection called empty"] += 1
            else:
                boxes.append((name, Box.from_xywh(*sides), best is not None))
        return boxes

    entries = document["images"]
    for number, entry in enumerate(progress(entries) if progress else entries, start=1):
        file = _get(entry, "file")
        where = file if isinstance(file, str) else f"{source.name}, image {number}"
        try:
            name = _name_below(root, entry)
            if name in seen:
                raise LabelError("unusable-entry", f"{name!r} is listed before; the first entry is believed")
            seen.add(name)
            boxes = boxes_of(entry)
            width, height = _size(entry, root / name)
        except LabelError as error:
            conflicts.append(Conflict(where, error.rule, str(error)))
            continue
        taken_at = entry.get("datetime")
        image = Image(
            name,
            name,
            width,
            height,
            taken_at=taken_at if isinstance(taken_at, str) and taken_at and is_unicode(taken_at) else None,
        )
        pictures.append(Labelled(image, [(species, box.scale(width, height)) for species, box, _ in boxes]))
        unclassified += sum(not by_classifier for *_, by_classifier in boxes)
    used = {species for picture in pictures for species, _ in picture.boxes}
    listed = [categories[key] for categories in (detected, classified) for key in sorted(categories, key=_by_number)]
    names = [name for name in dict.fromkeys(listed) if name in used]
    losses["category without a box"] = len(dict.fromkeys(listed)) - len(names)
    boxes = sum(len(picture.boxes) for picture in pictures)
    if 0 < unclassified < boxes:
        conflicts.append(
            Conflict(source.name, "unclassified", f"{unclassified} of {boxes} boxes have no classification")
        )
    dataset = to_dataset(pictures, names, root, source.name)
    conflicts += [*odd_boxes(dataset), *odd_classes(dataset, source.name)]
    return Reading(dataset, tuple(conflicts), +losses)


def parse(source: Path) -> dict[str, Any]:
    """The file as batch output at first sight. Raises ValueError for anything else."""
    try:
        document = read_json(source)
    except JsonError as error:
        raise ValueError(f"{source.name}: {error}. Name the file that MegaDetector or Timelapse wrote") from error
    if not is_batch_output(document):
        raise ValueError(
            f"{source.name}: has no list 'images' with 'file' and 'detections'; name a file in MegaDetector's format"
        )
    for key in ("detection_categories", "classification_categories"):
        categories = document.get(key) or {}
        if not isinstance(categories, dict) or not all(
            isinstance(name, str) and name.strip() and is_unicode(name) for name in categories.values()
        ):
            raise ValueError(
                f"{source.name}: {key!r} is {categories!r:.80}; it must map ids to names: write the file again"
            )
    return document


def scores(document: dict[str, Any]) -> list[float]:
    """Every score in the file that is a number."""
    found = (_get(entry, "detections") for entry in document["images"])
    each = (
        to_number(_get(detection, "conf"))
        for detections in found
        if isinstance(detections, list)
        for detection in detections
    )
    return [score for score in each if score is not None]


def is_batch_output(document: Any) -> bool:
    """Whether a json is MegaDetector batch output, and not COCO."""
    images = _get(document, "images")
    if not isinstance(images, list) or "annotations" in document:
        return False
    return "detection_categories" in document or any(_get(entry, "detections") is not None for entry in images[:100])


def _get(entry: Any, key: str) -> Any:
    return entry.get(key) if isinstance(entry, dict) else None


def _best(found: dict[str, Any]) -> str | None:
    """The id of the classification with the highest score, None where there is none. Raises LabelError."""
    classifications = found.get("classifications")
    if not classifications:
        return None
    try:
        return str(max(classifications, key=lambda pair: float(pair[1]))[0])
    except (TypeError, ValueError, IndexError, KeyError, OverflowError) as error:
        raise LabelError("unknown-class", f"the classifications are {classifications!r:.120}") from error


def _name_below(root: Path, entry: Any) -> str:
    """The picture's name relative to ``root``. Raises LabelError where the entry shows no picture below it."""
    file = _get(entry, "file")
    if not isinstance(file, str) or not file.strip():
        raise LabelError("unusable-entry", f"it names no file: {entry!r:.120}")
    if entry.get("failure") is not None:
        raise LabelError("failed-picture", str(entry["failure"]))
    if not isinstance(entry.get("detections"), list):
        raise LabelError("unusable-entry", f"its detections are {entry.get('detections')!r:.120}, no list")
    if "frame_rate" in entry or any(
        "frame_number" in found for found in entry["detections"] if isinstance(found, dict)
    ):
        raise LabelError("not-a-still", "it has frames")
    path = PurePosixPath(file.replace("\\", "/"))
    if path.is_absolute() and path.is_relative_to(root.resolve().as_posix()):
        path = path.relative_to(root.resolve().as_posix())
    if not path.parts or path.is_absolute() or ".." in path.parts or path.parts[0].endswith(":"):
        raise LabelError("outside-root", f"{file!r} does not lie in {root}")
    if not is_portable(str(path)):
        raise LabelError("unusable-name", f"{file!r} is no Unicode text")
    return str(path)


def _size(entry: dict[str, Any], picture: Path) -> tuple[int, int]:
    sides = entry.get("width"), entry.get("height")
    if all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides):
        return sides
    return picture_size(picture)


def _by_number(key: str) -> tuple[int, str]:
    return (int(key), key) if key.isdecimal() else (10**9, key)
