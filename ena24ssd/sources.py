"""Which pictures may this run use, and did they come with a split?"""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass
from pathlib import Path

from ena24ssd.boxes import LabelledBox
from ena24ssd.cameratraps import AnnotationError, CameraTrapDataset, NoPicturesError, Problem, read
from ena24ssd.config import DataConfig
from ena24ssd.jsonfiles import JsonError, read_json
from ena24ssd.splits import SIDES, Split

# The names a folder may give to the parts of a split it brings along.
SPLIT_FILES = {
    "train": ("train.json",),
    "validation": ("valid.json", "validation.json", "val.json"),
    "test": ("test.json",),
}


@dataclass(frozen=True)
class Source:
    """The pictures of a dataset that a run may use, and the split it brings along or None."""

    dataset: CameraTrapDataset
    split: Split | None
    excluded: frozenset[str] = frozenset()  # ids of pictures left out for the species they show


def read_source(config: DataConfig, *, check_files: bool = True) -> Source:
    """Read ``config.path``: a COCO Camera Traps json, a folder with one, or a folder with train.json and valid.json.

    ``check_files``: leave out pictures that are not on disk (see `ena24ssd.cameratraps.read`).

    Raises AnnotationError where no annotations are found or they cannot be used.
    """
    if config.path is None:
        raise AnnotationError("no data: say where it is with --data FOLDER, or draw some with 'ena24ssd synth FOLDER'")
    path = Path(config.path)
    if path.is_dir():
        parts = {
            side: path / name for side, names in SPLIT_FILES.items() for name in names[::-1] if (path / name).exists()
        }
        if "train" in parts and len(parts) > 1:
            source = _join(
                path, {side: read(file, config.pictures, check_files=check_files) for side, file in parts.items()}
            )
        else:
            source = Source(read(_only_json(path), config.pictures, check_files=check_files), None)
    elif path.exists():
        source = Source(read(path, config.pictures, check_files=check_files), None)
    else:
        raise AnnotationError(f"{path}: no such file or folder; name a dataset folder or its json")
    return _without(source, config.exclude_species)


def read_source_or_json(config: DataConfig) -> tuple[Source, str | None]:
    """As `read_source`; but the json alone where no pictures are near it and ``config.pictures`` names no folder.

    Returns with it why no pictures were found, or None where they were.
    """
    try:
        return read_source(config), None
    except NoPicturesError as error:
        return read_source(config, check_files=False), str(error)


def _only_json(folder: Path) -> Path:
    files = sorted(file for file in folder.glob("*.json") if not file.name.startswith("."))
    candidates = files if len(files) < 2 else [file for file in files if _is_annotations(file)]
    if len(candidates) == 1:
        return candidates[0]
    found = "none" if not files else ", ".join(file.name for file in files)
    raise AnnotationError(
        f"{folder}: needs one json of annotations, or train.json with valid.json; found {found}. Name the file itself"
    )


def _is_annotations(file: Path) -> bool:
    """Whether a json beside others is the one with the annotations, and no split or report that was put there."""
    try:
        document = read_json(file)
    except JsonError:
        return True  # who knows; a person has to say
    return isinstance(document, dict) and {"images", "annotations", "categories"} <= document.keys()


def _join(folder: Path, parts: dict[str, CameraTrapDataset]) -> Source:
    """One dataset of several files; ids and file names are told apart by the side they are on."""
    names = parts["train"].class_names
    images, problems, sides, seen = [], [], {}, {}
    for side, part in parts.items():
        if sorted(part.class_names) != sorted(names):
            different = sorted(set(part.class_names) ^ set(names))
            raise AnnotationError(
                f"{part.name}: its species differ from train.json's in {', '.join(different)}; "
                "all files of a split must list the same species"
            )
        labels = [names.index(name) for name in part.class_names]
        below = Path(os.path.relpath(part.root, folder)).as_posix()
        for problem in part.problems:
            image_id = problem.image_id and f"{side}/{problem.image_id}"
            file_name = problem.file_name and posixpath.normpath(f"{below}/{problem.file_name}")
            problems.append(problem._replace(image_id=image_id, file_name=file_name))
        sides[side] = []
        for image in part.images:
            image_id, file_name = f"{side}/{image.id}", posixpath.normpath(f"{below}/{image.file_name}")
            if file_name in seen:
                detail = f"{file_name} is on two sides of the split, {seen[file_name]} and {side}; left out of {side}"
                problems.append(Problem(image_id, "duplicate-file-name", detail, file_name))
                continue
            seen[file_name] = side
            sides[side].append(image_id)
            boxes = tuple(LabelledBox(labels[label], box) for label, box in image.boxes)
            images.append(image._replace(id=image_id, file_name=file_name, boxes=boxes))
    dataset = CameraTrapDataset(names, tuple(images), folder, tuple(problems), folder.resolve().name)
    return Source(dataset, Split(*(tuple(sides.get(side, ())) for side in SIDES)))


def _without(source: Source, species: tuple[str, ...]) -> Source:
    if not species:
        return source
    dataset, split = source.dataset.without(*species), source.split
    kept = {image.id for image in dataset.images}
    if split is not None:
        split = Split(*(tuple(key for key in getattr(split, side) if key in kept) for side in SIDES))
    return Source(dataset, split, frozenset(image.id for image in source.dataset.images if image.id not in kept))
