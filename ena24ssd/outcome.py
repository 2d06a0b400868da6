"""What was found on all these pictures, and in which files does it stand?

What a prediction noted down, picture by picture, is counted, and written in the formats that were asked for. Nothing is
held in memory: the notes are read once for each format.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ena24ssd import __version__
from ena24ssd.detections import ImageDetections, write_megadetector
from ena24ssd.models import Model
from ena24ssd.outputs.camtrapdp import write_camtrapdp
from ena24ssd.outputs.cocoresults import CocoResults, companion_of, write_coco_results
from ena24ssd.outputs.csvtable import write_csv
from ena24ssd.outputs.project import Project, read_project
from ena24ssd.pictures import EXTENSIONS
from ena24ssd.picturewalk import LeftOut
from ena24ssd.thresholds import Thresholds

FORMATS = ("megadetector", "csv", "coco", "camtrap-dp")
SHOWN = 20  # failures kept for showing; all of them stand in the files

Pictures = Callable[[], Iterator[ImageDetections]]
"""Gives every picture anew, each time it is called."""


@dataclass
class Outcome:
    """What was found. Pictures with animals are counted by what reaches the threshold of its species."""

    root: Path  # file names in the files start from it
    pictures: int = 0
    with_animals: int = 0
    failed: int = 0
    species: Counter[str] = field(default_factory=Counter)  # detections of each
    species_pictures: Counter[str] = field(default_factory=Counter)  # with at least one
    failures: list[ImageDetections] = field(default_factory=list)  # the first few
    files: list[Path] = field(default_factory=list)  # that were written
    notes: list[str] = field(default_factory=list)  # what a person should know of them
    left_out: LeftOut = field(default_factory=LeftOut)

    @property
    def blank(self) -> int:
        """Pictures on which nothing counts."""
        return self.pictures - self.with_animals - self.failed


@dataclass(frozen=True)
class Wanted:
    """In which formats the outcome is wanted, and what some of them need.

    ``annotations``: a COCO json whose ids COCO results shall use. ``deployment``: what Camtrap DP must know of
    cameras and people (`ena24ssd.outputs.project`); ``partial``: leave out pictures that lack something there, and say
    how many.
    Raises ValueError for a format that is not known, or lacks what it needs.
    """

    formats: Sequence[str] = ("megadetector",)
    annotations: Path | None = None
    deployment: Path | None = None
    partial: bool = False

    def __post_init__(self) -> None:
        unknown = [name for name in self.formats if name not in FORMATS]
        if unknown or not self.formats:
            raise ValueError(f"format {', '.join(unknown) or 'none'} is not known; choose of {', '.join(FORMATS)}")
        if "camtrap-dp" in self.formats and self.deployment is None:
            raise ValueError(
                "format camtrap-dp must know where and when the cameras stood, and whose project it is; describe that "
                "in a YAML file (README) and name it with --deployment"
            )

    def files(self, out: Path) -> list[Path]:
        """Where each format is written. Raises ValueError for a folder, a picture's name, or one for two formats."""
        files: dict[Path, str] = {}
        for name in dict.fromkeys(self.formats):
            file = file_of(name, out)
            if file in files:
                raise ValueError(f"{file}: would hold both {files[file]} and {name}; name --out otherwise, as x.json")
            if file.suffix.lower() in EXTENSIONS or (file.is_dir() and name != "camtrap-dp"):
                what = "a folder" if file.is_dir() else "the name of a picture"
                raise ValueError(f"{file}: is {what}, where {name} is to be written; name --out otherwise")
            files[file] = name
        return list(files)

    def prepare(self, class_names: Sequence[str]) -> Project | None:
        """What can be read before there is anything to write, so that a mistake in it is not found days later.

        Raises CamtrapError, or ValueError for annotations that are not there.
        """
        if self.annotations is not None and not self.annotations.is_file():
            raise ValueError(f"{self.annotations}: there are no such annotations; name a COCO json")
        if "camtrap-dp" not in self.formats or self.deployment is None:
            return None
        return read_project(self.deployment, class_names)


def count_outcome(pictures: Pictures, thresholds: Thresholds, root: Path) -> Outcome:
    """What counts of all that was found."""
    outcome = Outcome(root)
    for image in map(thresholds.select, pictures()):
        outcome.pictures += 1
        outcome.with_animals += bool(image.detections)
        outcome.species.update(found.name for found in image.detections)
        outcome.species_pictures.update({found.name for found in image.detections})
        if image.failure is not None:
            outcome.failed += 1
            if len(outcome.failures) < SHOWN:
                outcome.failures.append(image)
    return outcome


def write_outcome(
    pictures: Pictures,
    out: Path,
    root: Path,
    model: Model,
    thresholds: Thresholds,
    keep: float,
    wanted: Wanted,
    project: Project | None,
) -> Outcome:
    """Write every format that is wanted, and say what was found.

    MegaDetector JSON goes to ``out``, whatever its name; the others beside it, under names that follow from it. JSON
    and COCO results hold all that scores ``keep``, for others to choose from; CSV and Camtrap DP what counts.
    ``project`` is what `Wanted.prepare` gave.
    """
    outcome = count_outcome(pictures, thresholds, root)
    names = model.class_names
    for name in dict.fromkeys(wanted.formats):
        path = file_of(name, out)
        if name == "megadetector":
            write_json(path, pictures(), root, model, thresholds, keep)
        elif name == "csv":
            write_csv(path, map(thresholds.select, pictures()), names, root=root)
        elif name == "coco":
            written = write_coco_results(path, pictures(), names, root=root, annotations=wanted.annotations)
            outcome.notes += _strangers(written, path)
        else:
            counting = map(thresholds.select, pictures())
            if project.unnamed:
                outcome.notes.append(f"{path.name}: no scientific name is known for {', '.join(project.unnamed)}")
            who = signature(model)
            package = write_camtrapdp(
                path, counting, names, root=root, project=project, detector=who, partial=wanted.partial
            )
            left_out = package.left_out.items()
            outcome.notes += [f"{path.name}: left out {count:,} pictures with {lack}" for lack, count in left_out]
            if package.outside:
                outcome.notes.append(
                    f"{path.name}: {package.outside:,} pictures are from before or after their deployment: is the "
                    "camera's clock right?"
                )
        outcome.files.append(path)
        if name == "coco" and wanted.annotations is None:
            outcome.files.append(companion_of(path))
    return outcome


def _strangers(written: CocoResults, path: Path) -> list[str]:
    """What COCO results do not hold, because somebody else's annotations do not know of it."""
    notes = []
    if written.strangers:
        notes.append(f"{path.name}: left out {written.strangers:,} pictures that the annotations do not have")
    for name, count in (written.unknown or {}).items():
        notes.append(f"{path.name}: left out {count:,} detections of {name}, which the annotations do not have")
    return notes


def file_of(name: str, out: Path) -> Path:
    """Where a format is written: MegaDetector JSON to ``out`` itself, the others beside it."""
    if name == "megadetector":
        return out
    ending = {"csv": ".csv", "coco": ".coco.json", "camtrap-dp": "-camtrap-dp"}[name]
    return out.with_name(out.stem + ending)


def write_json(
    path: Path, images: Iterable[ImageDetections], root: Path, model: Model, thresholds: Thresholds, keep: float
) -> None:
    """Write MegaDetector JSON, with what other tools may want to know of the scores in it."""
    advice = threshold_advice(model, thresholds, keep)
    who = signature(model)
    write_megadetector(path, images, model.class_names, detector=who, detector_metadata=advice, root=root)


def signature(model: Model) -> str:
    """The name that results are signed with."""
    return f"ena24ssd {model.path.name}"


def threshold_advice(model: Model, thresholds: Thresholds, keep: float) -> dict[str, object]:
    """What a results file tells other tools about the scores in it, and about the network that gave them."""
    advice: dict[str, object] = {
        "typical_detection_threshold": thresholds.overall,
        "conservative_detection_threshold": keep,
        "model_sha256": model.digest,
        "epoch": model.epoch,
        "image_size": model.config.data.image_side,
        "ena24ssd_version": __version__,
    }
    if thresholds.species:
        advice["species_thresholds"] = dict(thresholds.species)
    return advice
