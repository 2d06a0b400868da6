"""How are labels written in COCO json, and in its extension COCO Camera Traps?

Both list ``images``, ``annotations`` and ``categories``, and both are read by `ena24ssd.cameratraps.read` with its
rules; here is what those records do not hold, and the two ways to write. Camera Traps adds text ids, where and when a
picture was taken, and the category ``empty`` for pictures that show nothing; plain COCO wants whole numbers for ids,
an ``area`` and an ``iscrowd``, and simply has no annotation for a blank picture.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from ena24ssd.cameratraps import CameraTrapDataset, Image
from ena24ssd.cameratraps import read as read_dataset
from ena24ssd.formats.reading import Conflict, Reading, odd_classes
from ena24ssd.formats.writing import Writing
from ena24ssd.jsonfiles import read_json

HELD = {  # the keys that a dataset holds, or that follow from what it holds
    "images": frozenset({"id", "file_name", "width", "height", "location", "seq_id", "datetime", "date_captured"}),
    "annotations": frozenset({"image_id", "category_id", "bbox", "area", "iscrowd"}),
    "categories": frozenset({"id", "name"}),
}

ONE = {"images": "picture", "annotations": "annotation", "categories": "category"}


def read(source: Path, *, root: Path | None = None, check_files: bool = True) -> Reading:
    """Read a COCO or COCO Camera Traps json by the rules of `ena24ssd.cameratraps.read`, whose parameters these are.

    What those rules had to do is among the conflicts. Raises `ena24ssd.cameratraps.AnnotationError`.
    """
    dataset = read_dataset(source, root, check_files=check_files)
    conflicts = [
        Conflict(dataset.name, problem.rule, f"image {problem.image_id!r}: {problem.detail}")
        for problem in dataset.problems
    ]
    losses: Counter[str] = Counter()
    document = read_json(source)
    for part, one in ONE.items():
        for entry in filter(_is_object, document[part]):
            losses.update(f"{one} {key}" for key, value in entry.items() if value and key not in HELD[part])
    losses.update({key: 1 for key in document if key not in HELD and document[key]})
    for entry in filter(_is_object, document["annotations"]):
        if entry.get("iscrowd"):
            detail = (
                f"annotation {entry.get('id')!r} of image {entry.get('image_id')!r} has iscrowd {entry['iscrowd']!r}"
            )
            conflicts.append(Conflict(dataset.name, "crowd", detail))
    # A json lists its classes on purpose, and keeps those that no box uses.
    conflicts += [odd for odd in odd_classes(dataset, dataset.name) if odd.rule != "unused-class"]
    return Reading(dataset, tuple(conflicts), losses)


def write_camera_traps(dataset: CameraTrapDataset, name: str) -> Writing:
    """One COCO Camera Traps json called ``name``; it holds all that a dataset does."""
    return _writing(dataset, name, partial(_to_camera_traps, dataset), {})


def write_coco(dataset: CameraTrapDataset, name: str) -> Writing:
    """One plain COCO json called ``name``. Where ids are not all whole numbers, pictures are numbered from 1.

    Location, sequence and time are kept under the keys of COCO Camera Traps, which other tools pass over.
    """
    whole = _whole_ids(dataset.images)
    losses = {} if whole else {"picture id (text; numbered from 1 instead)": len(dataset.images)}
    return _writing(dataset, name, partial(_to_coco, dataset), losses)


def _writing(dataset: CameraTrapDataset, name: str, document: Any, losses: dict[str, int]) -> Writing:
    files = {name: lambda: json.dumps(document(), indent=1, allow_nan=False)}
    pictures = {image.file_name: f"images/{image.file_name}" for image in dataset.images}
    return Writing(dataset, files, pictures, (), losses)


def _to_camera_traps(dataset: CameraTrapDataset) -> dict[str, Any]:
    annotations = []
    for image in dataset.images:
        if not image.boxes:
            annotations.append({"id": f"{image.id}-0", "image_id": image.id, "category_id": 0})
        for number, (label, box) in enumerate(image.boxes):
            annotation = {"id": f"{image.id}-{number}", "image_id": image.id, "category_id": label + 1}
            annotations.append(annotation | {"bbox": list(box.xywh)})
    species = [{"id": label + 1, "name": name} for label, name in enumerate(dataset.class_names)]
    return {
        "info": {"version": "1.0", "description": f"converted from {dataset.name}"},
        "images": [{"id": image.id} | _describe(image) for image in dataset.images],
        "annotations": annotations,
        "categories": [{"id": 0, "name": "empty"}, *species],
    }


def _to_coco(dataset: CameraTrapDataset) -> dict[str, Any]:
    ids = _whole_ids(dataset.images) or range(1, len(dataset.images) + 1)
    annotations: list[dict[str, Any]] = []
    for image_id, image in zip(ids, dataset.images):
        for label, box in image.boxes:
            annotation = {"id": len(annotations) + 1, "image_id": image_id, "category_id": label + 1}
            annotations.append(annotation | {"bbox": list(box.xywh), "area": box.area, "iscrowd": 0})
    return {
        "info": {"version": "1.0", "description": f"converted from {dataset.name}"},
        "licenses": [],
        "images": [{"id": image_id} | _describe(image) for image_id, image in zip(ids, dataset.images)],
        "annotations": annotations,
        "categories": [{"id": label + 1, "name": name} for label, name in enumerate(dataset.class_names)],
    }


def _describe(image: Image) -> dict[str, Any]:
    """What both formats say of a picture, less its id."""
    context = {"location": image.location, "seq_id": image.sequence, "datetime": image.taken_at}
    entry = {"file_name": image.file_name, "width": image.width, "height": image.height}
    return entry | {key: value for key, value in context.items() if value is not None}


def _whole_ids(images: tuple[Image, ...]) -> list[int] | None:
    """The ids as whole numbers, where all are written as such."""
    ids = [int(image.id) for image in images if image.id.isascii() and image.id.isdigit()]
    return ids if [str(image_id) for image_id in ids] == [image.id for image in images] else None


def _is_object(entry: Any) -> bool:
    return isinstance(entry, dict)
