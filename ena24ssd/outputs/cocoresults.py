"""How are detections written for COCO's own evaluators?

Their results are one json list, an object for each detection: ``image_id``, ``category_id``, ``bbox`` (left, top,
width, height in pixels) and ``score``, the numbers unrounded, so that whoever evaluates the file gets the figures of
the network itself. It is `loadRes` of pycocotools and faster-coco-eval that opens it, on top of the annotations whose
ids it uses:

* Either somebody's annotations (COCO, or COCO Camera Traps): pictures are found by their names and species by theirs.
  Boxes are scaled where the annotations were drawn on copies of another size. pycocotools takes ids of any kind,
  faster-coco-eval only whole numbers.
* Or none: then pictures that could be read are numbered from 1 in their order, and a second file beside the first says
  which is which: ``COCO("STEM.images.json").loadRes("STEM.json")``. It is a COCO file without an annotation.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ena24ssd.boxes import Box
from ena24ssd.detections import Detection, ImageDetections
from ena24ssd.files import replacing
from ena24ssd.jsonfiles import JsonError, read_json
from ena24ssd.picturenames import PictureNames, relative_name

Add = Callable[[Any], None]


@dataclass(frozen=True)
class CocoResults:
    """What was written, and what could not be: counts of pictures, and of detections by species."""

    pictures: int  # that could be read and have an id
    detections: int
    failures: int  # pictures that could not be read
    strangers: int = 0  # pictures that the annotations do not have
    unknown: Mapping[str, int] | None = None  # detections of species that the annotations do not have


class _Known(NamedTuple):
    """A picture as annotations know it."""

    id: int | str
    width: int | None
    height: int | None


@dataclass(frozen=True)
class _Annotations:
    """The ids that somebody's annotations give to pictures and species."""

    name: str
    pictures: dict[str, _Known]
    categories: dict[str, int | str]


def companion_of(path: str | os.PathLike[str]) -> Path:
    """The file that says which picture and species each number means: ``results.json`` has ``results.images.json``."""
    return Path(path).with_suffix(".images.json")


def write_coco_results(
    path: str | os.PathLike[str],
    images: Iterable[ImageDetections],
    class_names: Sequence[str],
    *,
    root: Path,
    annotations: str | os.PathLike[str] | None = None,
) -> CocoResults:
    """Write ``images`` to ``path``, with the ids of ``annotations`` or with a companion (`companion_of`).

    ``images`` may be a generator. Both files appear when they are whole, the companion first; what a failure leaves is
    what was there before.

    Raises ValueError for detections that are not of ``class_names``, for annotations that cannot be read as such or
    share no species or no picture with the results, and for two results of one picture.
    """
    path = Path(path)
    with replacing(path) as results, _listing(results, "[", "\n]\n") as add:
        if annotations is not None:
            return _look_up(images, class_names, root, add, _read_annotations(Path(annotations)))
        categories = [{"id": label + 1, "name": name} for label, name in enumerate(class_names)]
        head = (
            f'{{"info": {{}}, "licenses": [], "annotations": [],\n"categories": {json.dumps(categories)},\n"images": ['
        )
        with replacing(companion_of(path)) as beside, _listing(beside, head, "\n]}\n") as add_picture:
            return _number(images, class_names, root, add, add_picture)


def _number(
    images: Iterable[ImageDetections], class_names: Sequence[str], root: Path, add: Add, add_picture: Add
) -> CocoResults:
    """Number the pictures that could be read, and write down which is which."""
    pictures = detections = failures = 0
    for image in images:
        if image.failure is not None:
            failures += 1
            continue
        pictures += 1
        size = {"width": image.width, "height": image.height}
        add_picture({"id": pictures, "file_name": relative_name(image.file, root)} | size)
        for found in image.detections:
            _check(found, image, class_names)
            add(_to_result(found, found.box, pictures, found.label + 1))
            detections += 1
    return CocoResults(pictures, detections, failures)


def _look_up(
    images: Iterable[ImageDetections], class_names: Sequence[str], root: Path, add: Add, annotations: _Annotations
) -> CocoResults:
    """Give pictures and species the ids that the annotations give them."""
    if not set(class_names) & set(annotations.categories):
        raise ValueError(
            f"{annotations.name}: its species ({', '.join(annotations.categories)}) are none of those of the detector "
            f"({', '.join(class_names)}); names must be the same to the letter. Name the annotations of these species"
        )
    names = PictureNames(annotations.pictures)
    seen: dict[str, str] = {}
    unknown: Counter[str] = Counter()
    detections = failures = strangers = 0
    first = None
    for image in images:
        first = image.file if first is None else first
        name = names.find(relative_name(image.file, root))
        if name is None:
            strangers += 1
            continue
        if name in seen:
            raise ValueError(
                f"{annotations.name}: picture {name!r} has two results, {seen[name]!r} and {image.file!r}; "
                "leave one of them out"
            )
        seen[name] = image.file
        if image.failure is not None:
            failures += 1
            continue
        known = annotations.pictures[name]
        for found in image.detections:
            _check(found, image, class_names)
            if found.name not in annotations.categories:
                unknown[found.name] += 1
                continue
            add(_to_result(found, _scale(found.box, image, known), known.id, annotations.categories[found.name]))
            detections += 1
    if first is not None and not seen:
        raise ValueError(
            f"{annotations.name}: has none of the {strangers} pictures; the first is {first!r} here and "
            f"{next(iter(annotations.pictures), None)!r} there. Name the annotations of these pictures"
        )
    return CocoResults(len(seen) - failures, detections, failures, strangers, dict(unknown))


def _check(found: Detection, image: ImageDetections, class_names: Sequence[str]) -> None:
    if not 0 <= found.label < len(class_names) or found.name != class_names[found.label]:
        raise ValueError(
            f"image {image.file!r} has a detection with label {found.label} and name {found.name!r}; both must be "
            f"those of {list(class_names)}. Pass the class names the detector was trained with"
        )


def _to_result(found: Detection, box: Box, image_id: int | str, category_id: int | str) -> dict[str, Any]:
    bbox = [float(value) for value in box.xywh]
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": float(found.score)}


def _scale(box: Box, image: ImageDetections, known: _Known) -> Box:
    """The box on the copy of the picture that was annotated."""
    if not known.width or not known.height or not image.width or not image.height:
        return box
    if (known.width, known.height) == (image.width, image.height):
        return box
    return box.scale(known.width / image.width, known.height / image.height)


@contextmanager
def _listing(file: BinaryIO, head: str, tail: str) -> Iterator[Add]:
    """A function that adds members, a line each, to the json list that ``head`` opens and ``tail`` ends."""
    file.write(head.encode())
    separator = "\n"

    def add(member: Any) -> None:
        nonlocal separator
        # json.dumps escapes all that is not ASCII, and so gets names through that are no valid UTF-8 on disk
        file.write((separator + json.dumps(member, allow_nan=False)).encode())
        separator = ",\n"

    yield add
    file.write(tail.encode())


def _read_annotations(path: Path) -> _Annotations:
    """The ids in a COCO or COCO Camera Traps json. Of two entries for one name, the first counts."""
    try:
        document = read_json(path)
    except JsonError as error:
        raise ValueError(f"{path.name}: {error}") from error
    parts = []
    for key, word in (("images", "file_name"), ("categories", "name")):
        entries = document.get(key) if isinstance(document, dict) else None
        if not isinstance(entries, list):
            raise ValueError(f"{path.name}: has no list {key!r}; name a COCO or COCO Camera Traps json")
        for number, entry in enumerate(entries, start=1):
            if not (isinstance(entry, dict) and isinstance(entry.get(word), str) and _is_id(entry.get("id"))):
                raise ValueError(
                    f"{path.name}: entry {number} of {key!r} is {entry!r:.120}; it must have an 'id' (text or a whole "
                    f"number) and a {word!r} (text). 'ena24ssd check' lists all such entries"
                )
        parts.append(entries)
    pictures: dict[str, _Known] = {}
    for entry in parts[0]:
        name = entry["file_name"].replace("\\", "/")
        pictures.setdefault(name, _Known(entry["id"], _side(entry.get("width")), _side(entry.get("height"))))
    categories: dict[str, int | str] = {}
    for entry in parts[1]:
        categories.setdefault(entry["name"].strip(), entry["id"])
    return _Annotations(path.name, pictures, categories)


def _is_id(value: object) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _side(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
