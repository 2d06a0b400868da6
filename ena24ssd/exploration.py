"""What is in these pictures, before anything is learnt from them?

`examine` counts and measures: boxes, species, sizes, shapes, places, light, and how well the configured anchors fit.
Pure numbers; `ena24ssd.plots` draws them and `ena24ssd.report` writes them up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from ena24ssd.ahead import Progress, run_ahead
from ena24ssd.anchors import Anchors, as_choices, ideal_iou, lay_out, level_iou, suggest
from ena24ssd.cameratraps import CameraTrapDataset, Image
from ena24ssd.config import RunConfig
from ena24ssd.pictures import THUMBNAIL, PictureError, is_grey, read_picture, view_of
from ena24ssd.sampling import spread_evenly
from ena24ssd.sources import Source, read_source, read_source_or_json

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)  # of every `Spread`
AREA_EDGES = 10.0 ** (np.arange(-40, 1) / 8)  # shares of the frame, eight steps a decade from 0.00001 to 1
GRID = (36, 48)  # rows and columns of the heat map
BORDER = 0.01  # share of the frame; a box that comes this close to an edge may be cut off by it
BLOCK = 65_536  # boxes laid over the heat map at a time; bounds the memory
FEW = 20  # boxes below which a share of them says little

# What makes a picture grey: colours that hardly differ from place to place. A cast over all of it is no colour, as
# some infrared pictures are pink throughout. The burnt-in strips, sometimes coloured, are left out of it.


class Spread(NamedTuple):
    """The quantiles of `LEVELS`."""

    low: float
    lower: float
    median: float
    upper: float
    high: float


class Species(NamedTuple):
    """One species: how often it is seen, how large, in which shape, and how well anchors fit it.

    ``side``: the square root of a box's share of the frame (0.1: a tenth as wide and high as the frame). ``shape``:
    width / height, in pixels of the picture. ``covered``, ``suggested``, ``reachable``: shares of the boxes that match
    one of the configured anchors, one of the suggested, and a perfectly shaped one on the same grid. All None without
    boxes.
    """

    label: int
    name: str
    pictures: int
    boxes: int
    side: Spread | None = None
    shape: Spread | None = None
    covered: float | None = None
    suggested: float | None = None
    reachable: float | None = None


class Fit(NamedTuple):
    """How the anchors fit the boxes: shares of all boxes as in `Species`; an IoU over ``overlap`` is a match."""

    overlap: float
    strides: tuple[int, ...]  # pixels of the square between two cells of each of the network's levels, finest first
    configured: tuple[Anchors, ...]  # of each level
    suggested: tuple[Anchors, ...]
    covered: float
    covered_by_suggested: float
    reachable: float
    served: tuple[float, ...]  # by each level: the boxes that match there best, of the configured anchors
    served_by_suggested: tuple[float, ...]
    matches: np.ndarray  # (3, n) bool: which boxes match configured, suggested and perfectly shaped anchors
    searched: int  # boxes that the suggestion was searched with


class Light(NamedTuple):
    """Grey pictures, as infrared flash gives them, and coloured ones, in a sample spread evenly over the dataset."""

    looked_at: int
    grey: int
    unreadable: tuple[tuple[str, str], ...]  # file name and reason

    @property
    def readable(self) -> int:
        return self.looked_at - len(self.unreadable)

    @property
    def grey_share(self) -> float:
        """Of the readable ones; NaN where there are none."""
        return self.grey / self.readable if self.readable else float("nan")


class Places(NamedTuple):
    """What the json tells of where and when; None or 0 where it does not.

    ``largest_location`` is the share of the pictures that the busiest camera took, ``largest_sequence`` the pictures of
    the longest one, ``by_hour`` (24,) the pictures of each hour, ``undated`` how many times could not be read as such.
    """

    locations: int
    largest_location: float | None
    sequences: int
    largest_sequence: int
    first: datetime | None
    last: datetime | None
    dated: int
    undated: int
    by_hour: np.ndarray | None


@dataclass(frozen=True, eq=False)
class BoxTable:
    """Every box of the dataset, one a row; n of them."""

    picture: np.ndarray  # (n,) which of the dataset's images it is on
    label: np.ndarray  # (n,)
    pixels: np.ndarray  # (n, 2) width and height in pixels of the picture
    frame: np.ndarray  # (n, 4) corners relative to the picture
    square: np.ndarray  # (n, 4) corners relative to the square that the network sees
    per_picture: np.ndarray  # (pictures,) how many boxes each picture has

    def __len__(self) -> int:
        return len(self.label)

    @property
    def area(self) -> np.ndarray:
        """(n,) share of the frame."""
        return (self.frame[:, 2] - self.frame[:, 0]) * (self.frame[:, 3] - self.frame[:, 1])

    @property
    def shorter_side(self) -> np.ndarray:
        """(n,) relative to the square's side."""
        return (self.square[:, 2:] - self.square[:, :2]).min(axis=1)


@dataclass(frozen=True, eq=False)
class Exploration:
    """What `examine` found. Whatever is measured on boxes is None or empty where there are no boxes."""

    dataset: CameraTrapDataset
    boxes: BoxTable
    image_side: int
    fit: str  # squash or letterbox
    blanks: int
    mixed: int  # pictures with more than one species
    species: tuple[Species, ...]  # most boxes first
    picture_sizes: tuple[tuple[int, int, int], ...]  # width, height, how many pictures; most frequent first
    area_counts: np.ndarray  # (len(AREA_EDGES) - 1,) boxes by share of the frame; the first takes all that are smaller
    heat: np.ndarray  # GRID, the share of the boxes that cover a cell, on average over the cell
    side_pixels: Spread | None  # the shorter side of the boxes, in pixels of the network's square
    smallest_pixels: float | None
    near_border: float | None  # share of the boxes
    places: Places
    anchors: Fit | None
    light: Light | None  # None where no picture was looked at
    sides: dict[str, int]  # pictures on each side of a split that the dataset brings along

    @property
    def has_pictures(self) -> bool:
        return self.light is not None

    @property
    def box_counts(self) -> np.ndarray:
        """How many pictures have 0, 1, 2, ... boxes."""
        return np.bincount(self.boxes.per_picture)

    def to_json(self) -> dict[str, Any]:
        """The figures as plain data; shares are in 0..1."""
        places, light, anchors = self.places, self.light, self.anchors
        return {
            "dataset": self.dataset.name,
            "pictures": len(self.dataset.images),
            "boxes": len(self.boxes),
            "blank": self.blanks,
            "mixed_species": self.mixed,
            "pictures_by_boxes": self.box_counts.tolist(),
            "picture_sizes": [list(size) for size in self.picture_sizes],
            "boxes_by_area": {"edges": AREA_EDGES.tolist(), "boxes": self.area_counts.tolist()},
            "shorter_side_px_at_network": self.side_pixels and self.side_pixels._asdict(),
            "near_border": self.near_border,
            "split": self.sides,
            "places": {
                "locations": places.locations,
                "sequences": places.sequences,
                "first": places.first and places.first.isoformat(sep=" "),
                "last": places.last and places.last.isoformat(sep=" "),
            },
            "light": light and {"looked_at": light.looked_at, "grey": light.grey, "unreadable": len(light.unreadable)},
            "anchors": anchors
            and {
                "image_side": self.image_side,
                "fit": self.fit,
                "overlap": anchors.overlap,
                "configured": as_choices(anchors.configured),
                "suggested": as_choices(anchors.suggested),
                "covered": anchors.covered,
                "covered_by_suggested": anchors.covered_by_suggested,
                "reachable": anchors.reachable,
                "levels": [
                    {"stride": stride, "served": served, "served_by_suggested": by_suggested}
                    for stride, served, by_suggested in zip(
                        anchors.strides, anchors.served, anchors.served_by_suggested
                    )
                ],
            },
            "species": [
                row._asdict()
                | {key: value and value._asdict() for key, value in (("side", row.side), ("shape", row.shape))}
                for row in self.species
            ],
        }


def read_for_exploration(config: RunConfig, *, json_alone: bool = False) -> tuple[Source, bool]:
    """The dataset of ``config.data``, and whether its pictures are at hand.

    Where no pictures are near the json, and ``config.data.pictures`` names no folder, the json is read alone.
    """
    if json_alone:
        return read_source(config.data, check_files=False), False
    source, not_found = read_source_or_json(config.data)
    return source, not_found is None


def examine(
    source: Source,
    config: RunConfig,
    *,
    sample: int = 500,
    progress: Progress | None = None,
) -> Exploration:
    """Measure a dataset as a network of ``config`` would see it.

    Parameters: ``sample``, how many pictures to decode at most, for their light; 0: none. ``progress`` wraps them.
    """
    dataset = source.dataset
    data = config.data
    boxes = tabulate(dataset.images, data.image_side, data.fit)
    species, anchors = _fit(boxes, dataset.class_names, config)
    shorter = boxes.shorter_side * data.image_side
    return Exploration(
        dataset=dataset,
        boxes=boxes,
        image_side=data.image_side,
        fit=data.fit,
        blanks=dataset.blanks,
        mixed=dataset.mixed,
        species=species,
        picture_sizes=_picture_sizes(dataset.images),
        area_counts=np.histogram(np.clip(boxes.area, AREA_EDGES[0], 1.0), AREA_EDGES)[0],
        heat=heat_map(boxes.frame),
        side_pixels=spread(shorter) if len(boxes) else None,
        smallest_pixels=float(shorter.min()) if len(boxes) else None,
        near_border=float(_near_border(boxes.frame).mean()) if len(boxes) else None,
        places=_places(dataset.images),
        anchors=anchors,
        light=measure_light(dataset, sample, progress) if sample else None,
        sides={} if source.split is None else {side: len(ids) for side, ids in source.split.to_json().items() if ids},
    )


def tabulate(images: Sequence[Image], side: int, fit: str) -> BoxTable:
    """Every box of the pictures, relative to its picture and to the square of ``side`` pixels that shows it."""
    count = len(images)
    per_picture = np.fromiter((len(image.boxes) for image in images), np.int64, count)
    total = int(per_picture.sum())
    picture = np.repeat(np.arange(count), per_picture)
    label = np.fromiter((label for image in images for label, _ in image.boxes), np.int64, total)
    numbers = chain.from_iterable(box for image in images for _, box in image.boxes)
    corners = np.fromiter(numbers, np.float64, 4 * total).reshape(-1, 4)
    size = np.fromiter(chain.from_iterable((i.width, i.height) for i in images), np.int64, 2 * count).reshape(-1, 2)
    kinds, kind = np.unique(size[:, 0] << 32 | size[:, 1], return_inverse=True)  # few: a camera has one size
    views = np.array([view_of(key >> 32, key & 0xFFFFFFFF, side, fit) for key in kinds.tolist()]).reshape(-1, 4)
    view, size = views[kind][picture], size[picture]
    view_size = view[:, 2:] - view[:, :2]
    return BoxTable(
        picture=picture,
        label=label,
        pixels=corners[:, 2:] - corners[:, :2],
        frame=corners / np.tile(size, 2),
        square=(corners - np.tile(view[:, :2], 2)) / np.tile(view_size, 2),
        per_picture=per_picture,
    )


def spread(values: np.ndarray) -> Spread:
    return Spread(*np.quantile(values, LEVELS).tolist())


def heat_map(frame: np.ndarray, grid: tuple[int, int] = GRID) -> np.ndarray:
    """Where boxes lie: for each cell of a grid over the picture, the share of the boxes that cover it.

    A box that covers half of a cell counts there as half a box. Parameters: ``frame`` (n, 4), corners relative to the
    picture. Returns ``grid`` (rows, columns) float64 in [0, 1]; zeros for no boxes.
    """
    rows, columns = grid
    heat = np.zeros(grid)
    for start in range(0, len(frame), BLOCK):
        left, top, right, bottom = frame[start : start + BLOCK].T[..., None]
        down = np.clip(
            np.minimum(bottom * rows - np.arange(rows), 1) - np.clip(top * rows - np.arange(rows), 0, 1), 0, 1
        )
        along = np.minimum(right * columns - np.arange(columns), 1) - np.clip(left * columns - np.arange(columns), 0, 1)
        heat += down.T @ np.clip(along, 0, 1)
    return heat / max(len(frame), 1)


def measure_light(dataset: CameraTrapDataset, sample: int, progress: Progress | None = None) -> Light:
    """Decode at most ``sample`` pictures, as many at once as there are cores, and tell grey ones from coloured ones."""

    def look(image: Image) -> bool | str:
        try:
            return is_grey(read_picture(dataset.path(image), least=THUMBNAIL))
        except PictureError as fault:
            return str(fault)

    images = [dataset.images[place] for place in spread_evenly(len(dataset.images), sample)]
    outcomes = list(run_ahead(look, (progress or iter)(images), name="explore"))
    failures = tuple((image.file_name, found) for image, found in zip(images, outcomes) if isinstance(found, str))
    return Light(len(images), sum(found is True for found in outcomes), failures)


def _fit(boxes: BoxTable, class_names: Sequence[str], config: RunConfig) -> tuple[tuple[Species, ...], Fit | None]:
    """Every species, most boxes first, and how the anchors fit."""
    classes = len(class_names)
    pairs = np.unique(boxes.picture * classes + boxes.label)  # one for each species on each picture
    pictures = np.bincount(pairs % classes, minlength=classes).tolist()
    counts = np.bincount(boxes.label, minlength=classes)
    if not len(boxes):
        return tuple(Species(label, name, 0, 0) for label, name in enumerate(class_names)), None
    levels, overlap = lay_out(config.model.anchors, config.data.image_side), config.loss.overlap
    found = suggest(boxes.square, levels, overlap=overlap, seed=config.seed)
    before, after = level_iou(boxes.square, levels), level_iou(boxes.square, found.levels)
    best = np.stack([before.max(axis=1), after.max(axis=1), ideal_iou(boxes.square, levels)])
    matched = best > overlap
    side, shape = np.sqrt(boxes.area), boxes.pixels[:, 0] / boxes.pixels[:, 1]
    rows = []
    in_order = np.argsort(boxes.label, kind="stable")
    for label, of_it in enumerate(np.split(in_order, np.cumsum(counts)[:-1])):
        row = Species(label, class_names[label], pictures[label], len(of_it))
        if len(of_it):
            shares = matched[:, of_it].mean(axis=1).tolist()
            row = Species(*row[:4], spread(side[of_it]), spread(shape[of_it]), *shares)
        rows.append(row)
    rows.sort(key=lambda row: (-row.boxes, -row.pictures, row.label))
    covered, covered_by_suggested, reachable = matched.mean(axis=1).tolist()
    return tuple(rows), Fit(
        overlap=overlap,
        strides=config.model.levels,
        configured=levels,
        suggested=found.levels,
        covered=covered,
        covered_by_suggested=covered_by_suggested,
        reachable=reachable,
        served=_served(before, overlap),
        served_by_suggested=_served(after, overlap),
        matches=matched,
        searched=found.searched,
    )


def _served(ious: np.ndarray, overlap: float) -> tuple[float, ...]:
    """Of (n, levels) IoU, the share of the boxes that match on each level and on none better; of equals, the finest."""
    best = ious.argmax(axis=1)[ious.max(axis=1) > overlap]
    return tuple((np.bincount(best, minlength=ious.shape[1]) / len(ious)).tolist())


def _picture_sizes(images: Sequence[Image]) -> tuple[tuple[int, int, int], ...]:
    counts = Counter((image.width, image.height) for image in images)
    return tuple((width, height, count) for (width, height), count in counts.most_common())


def _near_border(frame: np.ndarray) -> np.ndarray:
    return (frame[:, :2] < BORDER).any(axis=1) | (frame[:, 2:] > 1 - BORDER).any(axis=1)


def _places(images: Sequence[Image]) -> Places:
    locations = Counter(image.location for image in images if image.location is not None)
    sequences = Counter(image.sequence for image in images if image.sequence is not None)
    times = [image.taken_at for image in images if image.taken_at is not None]
    read = [moment for moment in map(_moment, times) if moment is not None]
    by_hour = np.bincount([moment.hour for moment in read], minlength=24) if read else None
    if read and all(moment.time() == datetime.min.time() for moment in read):
        by_hour = None  # dates without a time of day
    return Places(
        locations=len(locations),
        largest_location=max(locations.values()) / len(images) if locations else None,
        sequences=len(sequences),
        largest_sequence=max(sequences.values(), default=0),
        first=min(read, default=None),
        last=max(read, default=None),
        dated=len(read),
        undated=len(times) - len(read),
        by_hour=by_hour,
    )


def _moment(text: str) -> datetime | None:
    """The time a camera wrote: ISO 8601, or with colons in the date as EXIF has it; its own clock, no time zone."""
    text = text.strip().removesuffix("Z")
    if text[4:5] == ":" and text[7:8] == ":":
        text = f"{text[:4]}-{text[5:7]}-{text[8:]}"
    try:
        return datetime.fromisoformat(text).replace(tzinfo=None)
    except ValueError:
        return None
