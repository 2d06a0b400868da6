"""What was seen, and how is it written down?

`Detection` is one animal found, `ImageDetections` is all that is known about one picture. On disk they are MegaDetector
batch output (https://lila.science/megadetector-output-format), which Timelapse, AddaxAI and the other tools of the
field open. Two id spaces meet here: our ``label`` (0..C-1) is written as category ``str(label + 1)``, because those
tools read category "0" as an empty picture.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from ena24ssd.boxes import Box
from ena24ssd.files import replacing
from ena24ssd.picturenames import relative_name

FORMAT_VERSION = "1.6"
COORDINATE_DIGITS = 7  # 6 would move an edge of a 12,000 pixel picture by 0.006 px, a width by 0.012 px
FARTHEST = 100.0  # pictures away; a coordinate beyond is in pixels, or no number
SCORE_DIGITS = 7  # 5 make ties of the scores of a sure network, and mAP another


@dataclass(frozen=True)
class Detection:
    """One object found: its species ``label`` (0..C-1) and ``name``, a ``score`` in 0..1, and its `Box`."""

    label: int
    name: str
    score: float
    box: Box


@dataclass(frozen=True)
class ImageDetections:
    """All that was found in one picture.

    ``file`` names the picture as the caller did, or relative to the folder of a results file; ``width`` and ``height``
    are its pixels.
    A picture without animals has no ``detections`` and no ``failure``. A picture that could not be read has its reason
    in ``failure``, and neither a size nor detections. ``taken_at`` is when, by the camera's clock; None where the file
    does not say.
    """

    file: str
    width: int | None
    height: int | None
    detections: tuple[Detection, ...] = ()
    failure: str | None = None
    taken_at: datetime | None = None


def rows_to_detections(
    rows: np.ndarray, class_names: Sequence[str], width: int, height: int, threshold: float, view: Box | None = None
) -> tuple[Detection, ...]:
    """What an engine found in one picture, in pixels of the original, best first.

    Parameters: ``rows`` (N, 6), each ``[label, score, left, top, right, bottom]`` in unit corners; a negative label
    marks a row of padding. ``width`` and ``height`` of the original picture in pixels; ``threshold``, the lowest score
    to keep; ``view``, what the network's square showed, in pixels of the original (left out: exactly the picture, as
    squashing does). Returns the rows that reach the threshold, clipped to the picture; what has no area there is
    dropped. Equal scores keep the order of their rows.

    Raises ValueError for rows of another shape, for NaN (a diverged network must not read as "nothing found"), and for
    a label without a class name.
    """
    rows = np.asarray(rows, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] != 6:
        raise ValueError(f"rows have shape {rows.shape}; they must be (N, 6): label, score and four unit corners")
    if np.isnan(rows).any():
        row = int(np.isnan(rows).any(axis=1).argmax())
        raise ValueError(
            f"row {row} holds {rows[row].tolist()}; rows must be numbers. The network has probably diverged"
        )
    if rows.size and rows[:, 0].max() >= len(class_names):
        raise ValueError(
            f"label {rows[:, 0].max():.0f} has no name; {len(class_names)} class names allow labels below that. "
            "Use the class names stored with the weights"
        )
    rows = rows[(rows[:, 0] >= 0) & (rows[:, 1] >= threshold)]
    rows = rows[np.argsort(-rows[:, 1], kind="stable")]
    view = Box(0.0, 0.0, width, height) if view is None else view
    pixels = rows[:, 2:] * np.tile((view.width, view.height), 2) + np.tile((view.left, view.top), 2)  # (n, 4)
    pixels = np.clip(pixels, 0.0, (width, height, width, height))
    return tuple(
        Detection(int(label), class_names[int(label)], score, Box(*corners))
        for (label, score), corners in zip(rows[:, :2].tolist(), pixels.tolist(), strict=True)
        if corners[0] < corners[2] and corners[1] < corners[3]
    )


def write_megadetector(
    path: str | os.PathLike[str],
    results: Iterable[ImageDetections],
    class_names: Sequence[str],
    *,
    detector: str,
    detector_metadata: Mapping[str, Any] | None = None,
    root: str | os.PathLike[str] | None = None,
) -> None:
    """Write ``results`` to ``path`` as MegaDetector batch output 1.6, one line per picture.

    ``detector`` names the weights; ``detector_metadata`` is what tools may want to know about them, for example
    ``{"typical_detection_threshold": 0.5}``. A file below ``root`` is written relative to it, any other as it is.
    Pictures carry ``width``, ``height`` and ``datetime``, fields that the format leaves free and MegaDetector's own
    tools use under these names, so that `read_megadetector` gets back to pixels: to within 0.01 px up to 12,000 px a
    side.

    ``results`` may be a generator: pictures are written as they come. The file appears under its name when it is whole,
    so an interrupted call leaves what was there before.

    Raises ValueError for results the format cannot hold: a score outside 0..1, a label or name that is not that of
    ``class_names``, a blank class name, detections without a picture size.
    """
    path = Path(path)
    for label, name in enumerate(class_names):
        if not name.strip():
            raise ValueError(
                f"{path.name}: class {label} has the name {name!r}; names must not be blank. Name the class"
            )
    categories = {str(label + 1): name for label, name in enumerate(class_names)}
    info: dict[str, Any] = {"format_version": FORMAT_VERSION, "detector": detector}
    if detector_metadata is not None:
        info["detector_metadata"] = dict(detector_metadata)

    with replacing(path) as file:
        # json.dumps escapes all that is not ASCII: even a tool that guesses the encoding wrong reads the same names,
        # and so do names that are no valid UTF-8 on disk.
        file.write(f'{{"detection_categories": {json.dumps(categories)},\n"images": ['.encode())
        separator = "\n"
        for image in results:
            file.write((separator + json.dumps(_to_entry(image, class_names, root), allow_nan=False)).encode())
            separator = ",\n"
        # When this was is left out, as the format allows: the same pictures give the same file, whenever.
        file.write(f'\n],\n"info": {json.dumps(info, allow_nan=False)}}}\n'.encode())


def read_megadetector(
    path: str | os.PathLike[str], *, sizes: Mapping[str, tuple[int, int]] | None = None, relative: bool = False
) -> tuple[list[ImageDetections], tuple[str, ...]]:
    """Read MegaDetector batch output, of this package or of any other tool.

    ``sizes`` maps files to (width, height) in pixels; it is needed only where a file's author did not note them down,
    and not at all if boxes shall stay ``relative``: pictures then are 1 x 1 large.
    Returns the pictures in the file's order, and the class names in ascending order of their category ids: a label is
    the rank of its id, which undoes the ``label + 1`` of `write_megadetector`. Detections of a category the file does
    not list are left out, as the format asks. Classifications and video frames are not read.

    Raises ValueError, naming file and picture, for anything that is not MegaDetector batch output.
    """
    path = Path(path)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not UTF-8, or not JSON
        raise ValueError(f"{path.name}: is no JSON ({error}); detections are read from MegaDetector JSON") from error
    categories, images = _parts(document, path.name)
    ids = sorted(categories, key=int)
    class_names = tuple(categories[category] for category in ids)
    labels = {category: label for label, category in enumerate(ids)}

    results = []
    for index, entry in enumerate(images):
        try:
            results.append(_from_entry(entry, labels, class_names, sizes or {}, relative))
        except (KeyError, TypeError, ValueError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else error
            name = entry["file"] if isinstance(entry, dict) and "file" in entry else index
            raise ValueError(f"{path.name}: image {name!r}: {reason}") from error
    return results, class_names


def _to_entry(
    image: ImageDetections, class_names: Sequence[str], root: str | os.PathLike[str] | None
) -> dict[str, Any]:
    """One member of the format's ``images``."""
    name = Path(image.file).as_posix() if root is None else relative_name(image.file, root)
    entry: dict[str, Any] = {"file": name}
    if image.taken_at is not None:
        entry["datetime"] = image.taken_at.isoformat(" ", "seconds")
    if image.failure is not None:
        return entry | {"failure": image.failure, "detections": None}
    if image.width is not None and image.height is not None:
        entry |= {"width": image.width, "height": image.height}
    elif image.detections:
        raise ValueError(
            f"image {image.file!r} has {len(image.detections)} detections and the size {image.width} x {image.height}; "
            "boxes are written relative to the picture's size. Set its width and height"
        )
    return entry | {"detections": [_to_mapping(found, image, class_names) for found in image.detections]}


def _to_mapping(found: Detection, image: ImageDetections, class_names: Sequence[str]) -> dict[str, Any]:
    if not 0 <= found.label < len(class_names) or found.name != class_names[found.label]:
        raise ValueError(
            f"image {image.file!r} has a detection with label {found.label} and name {found.name!r}; both must be "
            f"those of {list(class_names)}. Pass the class names the detector was trained with"
        )
    score = round(float(found.score), SCORE_DIGITS)
    if not 0.0 <= score <= 1.0:
        raise ValueError(
            f"image {image.file!r} has a detection with score {found.score}; scores must lie in 0..1. "
            "Use a score that is a probability, such as the softmax"
        )
    # Both edges are rounded and the extent is what lies between them, so an edge on the picture's border stays there.
    left, right = (round(float(x) / image.width, COORDINATE_DIGITS) for x in (found.box.left, found.box.right))
    top, bottom = (round(float(y) / image.height, COORDINATE_DIGITS) for y in (found.box.top, found.box.bottom))
    extent = (round(right - left, COORDINATE_DIGITS), round(bottom - top, COORDINATE_DIGITS))
    return {"category": str(found.label + 1), "conf": score, "bbox": [left, top, *extent]}


def _parts(document: Any, file_name: str) -> tuple[dict[str, str], list[Any]]:
    """The categories and the images of a document that is MegaDetector batch output at first sight."""
    way_out = "Pass the JSON that MegaDetector or 'write_megadetector' wrote"
    for key, kind in (("info", dict), ("detection_categories", dict), ("images", list)):
        if not isinstance(document, dict) or not isinstance(document.get(key), kind):
            raise ValueError(
                f"{file_name}: has no {kind.__name__} {key!r}; MegaDetector output must have one. {way_out}"
            )
    version = document["info"].get("format_version")
    if not str(version).startswith("1."):
        raise ValueError(f"{file_name}: has format_version {version!r}; only 1.x can be read. {way_out}")
    for category, name in document["detection_categories"].items():
        if not category.isdecimal() or not isinstance(name, str):
            raise ValueError(
                f"{file_name}: has the category {category!r}: {name!r}; ids must be whole numbers. {way_out}"
            )
    return document["detection_categories"], document["images"]


def _from_entry(
    entry: dict[str, Any],
    labels: Mapping[str, int],
    class_names: Sequence[str],
    sizes: Mapping[str, tuple[int, int]],
    relative: bool,
) -> ImageDetections:
    file, failure, taken_at = entry["file"], entry.get("failure"), _moment(entry.get("datetime"))
    if not isinstance(file, str):
        raise ValueError("has a file name that is no text; name the picture")
    if failure is not None:
        return ImageDetections(file, None, None, failure=failure, taken_at=taken_at)
    width, height = (entry["width"], entry["height"]) if "width" in entry else sizes.get(file, (None, None))
    width, height = (1, 1) if relative else (width, height)
    if not isinstance(entry["detections"], list):
        raise ValueError(f"has the detections {entry['detections']!r}; a picture without failure must list them")
    listed = [found for found in entry["detections"] if found["category"] in labels]
    if listed and (width is None or height is None):
        raise ValueError("has no width and height; boxes are read into pixels. Pass 'sizes' with the picture's size")
    detections = []
    for found in listed:
        label, score = labels[found["category"]], float(found["conf"])
        x, y, w, h = (float(value) for value in found["bbox"])
        if not (0.0 <= score <= 1.0 and w >= 0.0 and h >= 0.0 and max(abs(x), abs(y), w, h) <= FARTHEST):
            raise ValueError(
                f"has the conf {score} and the bbox {[x, y, w, h]}; conf must lie in 0..1, no extent be negative, and "
                "the box be relative to the picture. Write the file again"
            )
        box = Box(x * width, y * height, (x + w) * width, (y + h) * height)
        detections.append(Detection(label, class_names[label], score, box))
    return ImageDetections(file, width, height, tuple(detections), taken_at=taken_at)


def _moment(said: Any) -> datetime | None:
    """A time as this package writes it, or as EXIF does, which MegaDetector copies; None for anything else."""
    for form in ("%Y-%m-%d %H:%M:%S", "%Y:%m:%d %H:%M:%S"):
        with suppress(ValueError, TypeError):
            return datetime.strptime(said, form)
    return None
