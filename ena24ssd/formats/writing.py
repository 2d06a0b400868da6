"""What is to be written, and what does it leave out?

A format turns a dataset into a `Writing`: file names with functions that give their text. Nothing touches the disk
here; `ena24ssd.conversion` looks first whether any of the files exists.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ena24ssd.cameratraps import CameraTrapDataset, Image
from ena24ssd.formats.pairs import without_suffix
from ena24ssd.formats.reading import Conflict


class Writing(NamedTuple):
    """The files of one dataset in one format, relative to the target folder, with forward slashes.

    ``dataset`` holds what is written: without the pictures that the format cannot take. ``pictures`` says where the
    format expects each picture, by its file name. ``losses`` counts what the format cannot hold, by kind.
    ``largest_move`` is the farthest an edge was moved by rounding, in pixels.
    """

    dataset: CameraTrapDataset
    files: Mapping[str, Callable[[], str]]
    pictures: Mapping[str, str]
    conflicts: tuple[Conflict, ...]
    losses: Mapping[str, int]
    largest_move: float = 0.0


def context_losses(images: tuple[Image, ...]) -> Counter[str]:
    """What formats with one label file a picture have no place for."""
    return Counter(
        {
            "location": sum(image.location is not None for image in images),
            "sequence": sum(image.sequence is not None for image in images),
            "date and time": sum(image.taken_at is not None for image in images),
            "picture id (other than the file's name)": sum(
                image.id != without_suffix(image.file_name) for image in images
            ),
        }
    )


def one_label_each(images: tuple[Image, ...], ending: str) -> tuple[dict[str, Image], list[Conflict]]:
    """The picture of each label file, called like it with another ``ending``; and those that came second."""
    taken: dict[str, Image] = {}
    conflicts = []
    for image in images:
        name = without_suffix(image.file_name) + ending
        if name in taken:
            detail = f"{name} is already the label of {taken[name].file_name}"
            conflicts.append(Conflict(image.file_name, "shared-label-file", detail))
        else:
            taken[name] = image
    return taken, conflicts
