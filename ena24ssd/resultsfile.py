"""What does a results file say about some pictures, whoever wrote it?

The file is MegaDetector's batch output. Its boxes are relative to the picture, so that it does not matter on copies of
what size they were found, and its names are matched by their ends, as every tool starts them at another folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ena24ssd.ahead import run_ahead
from ena24ssd.cameratraps import CameraTrapDataset, Image
from ena24ssd.cases import gather
from ena24ssd.choosing import read_split
from ena24ssd.config import DataConfig, RunConfig, override_config
from ena24ssd.detections import Detection, ImageDetections, read_megadetector
from ena24ssd.judged import Judged, checked_side
from ena24ssd.picturenames import PictureNames
from ena24ssd.pictures import THUMBNAIL, PictureError, is_grey, read_picture
from ena24ssd.runs import RunError
from ena24ssd.sources import read_source_or_json
from ena24ssd.splits import Split

KINDS = {"human": "person", "person": "person", "people": "person", "vehicle": "vehicle"}  # what MegaDetector calls it


@dataclass(frozen=True)
class ResultsFile:
    """Detections that somebody's model has written down, and the truth about the same pictures."""

    path: Path
    config: RunConfig
    dataset: CameraTrapDataset  # with every species that either side names
    results: dict[str, ImageDetections]  # by image id; boxes relative to the picture
    split: Split | None
    has_pictures: bool
    floor: float  # the lowest score in the file

    @property
    def name(self) -> str:
        return str(self.path)

    def ids(self, side: str | None) -> tuple[str, ...]:
        side = checked_side(side)
        if self.split is None:
            if side is not None:
                raise RunError(
                    f"{self.path}: a results file has no split '{side}'; name one that was saved with --split-file, or "
                    "leave out --split to judge every picture it has results for"
                )
            ids = tuple(image.id for image in self.dataset.images)
        else:
            ids = getattr(self.split, side or self.split.judging)
            if not ids:
                raise RunError(f"{self.path}: the split has no pictures on side '{side}'; name another with --split")
        return ids

    def judge(self, ids: Sequence[str], *, quiet: bool = False) -> Judged:
        known = {image.id: image for image in self.dataset.images}
        whole = [key for key in ids if key in self.results and self.results[key].failure is None]
        images = tuple(known[key] for key in whole if key in known)
        if not images:
            raise RunError(f"{self.path}: has no results for any of the {len(ids)} pictures to judge")
        labels = {name: label for label, name in enumerate(self.dataset.class_names)}
        found = ([_place(one, image, labels) for one in self.results[image.id].detections] for image in images)
        cases = gather(images, found, self.dataset.class_names)
        night = _look(self.dataset, images, quiet) if self.has_pictures else None
        return Judged(images, cases, night, len(ids) - len(images), floor=self.floor)


def open_results(path: Path, data: Path | None, split: Path | None, overrides: Sequence[str]) -> ResultsFile:
    """Raises RunError where file and data have no picture or no species in common, or a picture has two results.

    Where the file names "animal" and no species of the data, as MegaDetector's does, all species are judged as that.
    """
    if data is None:
        raise RunError(f"{path}: a results file says nothing about the truth; name the labelled pictures with --data")
    config = override_config(RunConfig(data=DataConfig(path=data)), overrides)
    if config.evaluation.protocol == "post":
        raise RunError(f"{path}: the post's protocol asks the network itself; a results file has none")
    source, doubt = read_source_or_json(config.data)
    dataset = source.dataset
    found, names = read_megadetector(path, relative=True)
    results = _by_id(path, dataset.images, found)
    if not results:
        raise RunError(
            f"{path}: names no picture of {dataset.name}; the first is {found[0].file!r} there and "
            f"{dataset.images[0].file_name!r} here"
            if found and dataset.images
            else f"{path}: names no picture"
        )
    if len(results) < len(found):
        tqdm.write(f"{path}: {len(found) - len(results):,} results are of pictures that {dataset.name} does not have")
    if not set(names) & set(dataset.class_names) and "animal" in names:
        tqdm.write(f"{path}: names no species; all of them are judged as 'animal'")
        dataset = _without_species(dataset)
    if not set(names) & set(dataset.class_names):
        raise RunError(
            f"{path}: its species ({', '.join(names)}) are none of those of {dataset.name} "
            f"({', '.join(dataset.class_names)}); names must be the same to the letter"
        )
    extra = tuple(name for name in names if name not in dataset.class_names)
    if extra:
        tqdm.write(f"{path}: {dataset.name} does not know {', '.join(extra)}; what is found of that counts as wrong")
    dataset = replace(dataset, class_names=dataset.class_names + extra)
    chosen = source.split if split is None else read_split(split)
    floor = min((one.score for some in found for one in some.detections), default=0.0)
    return ResultsFile(path, config, dataset, results, chosen, doubt is None, floor)


def _by_id(path: Path, images: Sequence[Image], found: Iterable[ImageDetections]) -> dict[str, ImageDetections]:
    """The results of each image, by name: the whole one, else as much of its end as no other picture shares."""
    ids = {image.file_name: image.id for image in images}
    names = PictureNames(ids)
    results: dict[str, ImageDetections] = {}
    for one in found:
        name = names.find(one.file)
        if name is None:
            continue
        key = ids[name]
        if key in results:
            raise RunError(
                f"{path}: has two results for one picture, {results[key].file!r} and {one.file!r}; leave one in it"
            )
        results[key] = one
    return results


def _place(one: Detection, image: Image, labels: dict[str, int]) -> Detection:
    """The relative detection in pixels of the annotated picture, under the label that its name has there."""
    return Detection(labels[one.name], one.name, one.score, one.box.scale(image.width, image.height))


def _without_species(dataset: CameraTrapDataset) -> CameraTrapDataset:
    """The same pictures as MegaDetector sees them: animals, persons and vehicles."""
    kinds = [KINDS.get(name.lower(), "animal") for name in dataset.class_names]
    class_names = tuple(dict.fromkeys(["animal", *kinds]))
    label = [class_names.index(kind) for kind in kinds]
    images = (
        image._replace(boxes=tuple(one._replace(label=label[one.label]) for one in image.boxes))
        for image in dataset.images
    )
    return replace(dataset, class_names=class_names, images=tuple(images))


def _look(dataset: CameraTrapDataset, images: Sequence[Image], quiet: bool) -> np.ndarray:
    """Whether each picture is grey, as those by infrared flash are; one that cannot be read counts as day."""

    def look(image: Image) -> bool:
        try:
            return is_grey(read_picture(dataset.path(image), least=THUMBNAIL))
        except PictureError:
            return False

    shown = tqdm(images, "day or night", leave=False, unit="picture", disable=quiet or None)
    return np.fromiter(run_ahead(look, shown, name="light"), dtype=bool, count=len(images))
