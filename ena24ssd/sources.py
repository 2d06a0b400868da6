"""Which pictures does this run use, and which side of the split is each on?"""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass
from pathlib import Path

from ena24ssd.boxes import LabelledBox
from ena24ssd.cameratraps import AnnotationError, CameraTrapDataset, Problem, read
from ena24ssd.config import DataConfig, SplitConfig
from ena24ssd.splits import SIDES, Split, split_images

# The names a folder may give to the parts of a split it brings along.
SPLIT_FILES = {
    "train": ("train.json",),
    "validation": ("valid.json", "validation.json", "val.json"),
    "test": ("test.json",),
}


@dataclass(frozen=True)
class Source:
    """A dataset, and the split it brings along or None."""

    dataset: CameraTrapDataset
    split: Split | None

    def choose(self, config: SplitConfig, seed: int) -> Split:
        """The split that came with the data, else the one the config asks for."""
        if self.split is not None:
            return self.split
        shares = config.train, config.validation, config.test
        return split_images(self.dataset.images, config.kind, shares=shares, seed=seed)


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
        raise AnnotationError(f"{path}: no such file or folder; name a dataset folder or its json with --data")
    return _without(source, config.exclude_species)


def _only_json(folder: Path) -> Path:
    files = sorted(file for file in folder.glob("*.json") if not file.name.startswith("."))
    if len(files) == 1:
        return files[0]
    found = "none" if not files else ", ".join(file.name for file in files)
    raise AnnotationError(
        f"{folder}: needs one json of annotations, or train.json with valid.json; found {found}. Name the file itself"
    )


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
        problems += [Problem(p.image_id and f"{side}/{p.image_id}", p.rule, p.detail) for p in part.problems]
        sides[side] = []
        for image in part.images:
            image_id, file_name = f"{side}/{image.id}", posixpath.normpath(f"{below}/{image.file_name}")
            if file_name in seen:
                detail = f"{file_name} is on two sides of the split, {seen[file_name]} and {side}; left out of {side}"
                problems.append(Problem(image_id, "duplicate-file-name", detail))
                continue
            seen[file_name] = side
            sides[side].append(image_id)
            boxes = tuple(LabelledBox(labels[label], box) for label, box in image.boxes)
            images.append(image._replace(id=image_id, file_name=file_name, boxes=boxes))
    dataset = CameraTrapDataset(names, tuple(images), folder, tuple(problems), folder.name)
    return Source(dataset, Split(*(tuple(sides.get(side, ())) for side in SIDES)))


def _without(source: Source, species: tuple[str, ...]) -> Source:
    if not species:
        return source
    dataset = source.dataset.without(*species)
    if source.split is None:
        return Source(dataset, None)
    kept = {image.id for image in dataset.images}
    sides = source.split.to_json()
    return Source(dataset, Split(*(tuple(key for key in sides[side] if key in kept) for side in SIDES)))
