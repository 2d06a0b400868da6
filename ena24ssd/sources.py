"""Which pictures does this run use, and which side of the split is each on?"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ena24ssd.boxes import LabelledBox
from ena24ssd.cameratraps import AnnotationError, CameraTrapDataset, Problem, read
from ena24ssd.config import DataConfig, SplitConfig
from ena24ssd.jsonfiles import read_json
from ena24ssd.splits import SIDES, Split, needs_groups, split_images

Progress = Callable[[Iterable], Iterable]

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

    def choose(
        self, config: SplitConfig, seed: int, cache: Path | None = None, progress: Progress | None = None
    ) -> Split:
        """The split of ``config.file``, else the one that came with the data, else one of ``config.kind``.

        Pictures are looked at only for a grouped split of data whose json names neither camera nor sequence; ``cache``
        keeps what was seen (left out: the user's cache folder). Raises ValueError for a file that is no split of this
        dataset.
        """
        if config.file is not None:
            return self._read_split(config.file)
        if self.split is not None:
            return self.split
        images, groups = self.dataset.images, None
        if config.kind == "grouped" and needs_groups(images):
            from ena24ssd.neighbours import find_neighbours  # SciPy and imagehash; most runs do without

            groups = find_neighbours(self.dataset, cache, progress).groups
        return split_images(images, config.kind, (config.train, config.validation, config.test), seed, groups)

    def _read_split(self, file: Path) -> Split:
        split = read_split(file)
        known = {image.id for image in self.dataset.images}
        strange = [key for side in SIDES for key in getattr(split, side) if key not in known]
        if strange:
            raise ValueError(
                f"{file}: {len(strange)} of its pictures (first: {strange[0]!r}) are not among the usable pictures of "
                f"{self.dataset.name}; it is of other data, or 'ena24ssd check' says why they are left out"
            )
        return split


def read_split(file: Path) -> Split:
    """The split that `Split.to_json` made and a file holds. Raises ValueError."""
    try:
        return Split.from_json(read_json(file))
    except ValueError as fault:
        raise ValueError(f"{file}: is not a saved split ({fault}); make one with 'ena24ssd split --out'") from fault


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
    dataset = source.dataset.without(*species)
    if source.split is None:
        return Source(dataset, None)
    kept = {image.id for image in dataset.images}
    sides = source.split.to_json()
    return Source(dataset, Split(*(tuple(key for key in sides[side] if key in kept) for side in SIDES)))
