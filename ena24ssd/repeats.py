"""Is this an animal, or the same stump again?

What a detector takes for an animal once, it takes for one on every picture of that camera: a stump, a stone, a shadow.
An animal does not come back to the same place to within a few pixels, time after time, except to its nest. So a
`Repeat` is nearly one and the same box on many pictures of a camera, over more visits than an animal would stay for.
Which species it was taken for plays no part: a stump may be a deer by day and a boar by night.

A visit is all that happens within `Rule.rest` of its first picture. Where not all pictures of a box say when they were
taken, it is `Rule.rest_pictures` pictures of the camera in the order they come, which is that of their names: a deer
that rests before the camera fills pictures in a row, and one visit or two, a stump those of weeks. Boxes above
`Rule.largest` are let pass: what fills the picture always has about the same box.

Nothing here says that a repeat is no animal. A person should look at each (`ena24ssd.repeatspage`).
"""

from __future__ import annotations

import itertools
import math
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from ena24ssd.boxes import Box
from ena24ssd.detections import Detection, ImageDetections
from ena24ssd.thresholds import Thresholds

ROUNDS = 8  # at most, in which the middle of a group is looked for; two or three are usual
SMALLEST = 1e-4  # of a picture's side; a box thinner than that shows nothing
KINDS = 1000  # classes of size below 1, at most: ln(SMALLEST) / ln(.99) = 917; a side then has 2,000,000 cells
BORDER = 0.01  # of the picture's side; an edge this near to its border is where the animal is cut
CHANCE = 1e-4  # that boxes of a camera heap up that much without a cause
MANY = 1000  # boxes that may be near one, from which on they are not counted
AT_ONCE = 512  # boxes whose neighbours are looked for together, which takes 100 MB at most
BEGINNING = datetime(1970, 1, 1)


@dataclass(frozen=True)
class Rule:
    """When boxes of one camera are a repeat. Raises ValueError for numbers that make no sense."""

    overlap: float = 0.85  # IoU with the middle of them, .5 to .99
    pictures: int = 10  # on that many at least
    visits: int = 3  # over that many at least
    rest: timedelta = timedelta(hours=12)  # the longest that an animal stays for
    rest_pictures: int = 50  # the most pictures that a camera takes meanwhile; asked where times are not known
    largest: float = 0.2  # share of the picture's area
    camera_folders: int | None = None  # how many leading folders name a camera; None: all that the file lies in

    def __post_init__(self) -> None:
        for name, low, high in (
            ("overlap", 0.5, 0.99),
            ("pictures", 2, math.inf),
            ("visits", 1, math.inf),
            ("rest_pictures", 1, math.inf),
            ("largest", SMALLEST, 1.0),
            ("camera_folders", 0, math.inf),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                limits = f"{low:g} or more" if high == math.inf else f"{low:g} to {high:g}"
                raise ValueError(f"repeats: {name} is {value}; it must be {limits}. Leave it out for what is usual")
        if self.rest < timedelta(0):
            raise ValueError(f"repeats: rest is {self.rest}; it must not be negative. Leave it out for what is usual")


@dataclass(frozen=True)
class Repeat:
    """Nearly one and the same box on many pictures of one camera."""

    camera: str  # folders, joined by slashes; empty for pictures that lie in none
    box: Box  # the middle one, in units of the picture: 0 to 1
    files: tuple[str, ...]  # of the pictures, as they were named, in the order they came
    taken_at: tuple[datetime | None, ...]  # of each
    visits: int
    names: tuple[tuple[str, int], ...]  # species it was taken for, and how often, most often first
    scores: tuple[float, float, float]  # least, median, best

    @property
    def first(self) -> datetime | None:
        """When it was first seen; None where no picture says."""
        return min(filter(None, self.taken_at), default=None)

    @property
    def last(self) -> datetime | None:
        """When it was last seen; None where no picture says."""
        return max(filter(None, self.taken_at), default=None)


def find_repeats(
    images: Iterable[ImageDetections],
    thresholds: Thresholds,
    rule: Rule | None = None,
    *,
    root: str | os.PathLike[str] | None = None,
    time_of: Callable[[str], datetime | None] | None = None,
) -> tuple[Repeat, ...]:
    """The repeats among what counts, by camera in the order of their names, those on most pictures first.

    Parameters: ``images``, in the order they were taken, camera by camera or mixed; they are walked through once.
    ``root``, the folder that absolute names start from. ``time_of``: what says of a file when it was taken where
    ``taken_at`` does not; it is asked only about pictures whose boxes come back often enough.

    Memory: 56 bytes for each detection that counts, and 24 and its name for each picture that has one; no more of the
    others. Time grows with the number of detections, and hardly faster where all are of one camera.
    """
    rule = rule or Rule()
    cameras: dict[str, _Camera] = {}
    species: dict[str, int] = {}
    for image in images:
        name = camera_of(image.file, root, rule.camera_folders)
        camera = cameras.get(name) or cameras.setdefault(name, _Camera())
        camera.length += 1
        found = [one for one in image.detections if one.score >= thresholds.of(one.name)]
        if found:
            camera.add(image, found, species, rule.largest)
    names = list(species)
    repeats = []
    for name in sorted(cameras):
        found = [_describe(name, cameras[name], group, names) for group in _group(cameras[name], rule, time_of)]
        repeats += sorted(found, key=lambda one: (-len(one.files), one.box))
    return tuple(repeats)


def without_repeats(
    images: Iterable[ImageDetections],
    repeats: Iterable[Repeat],
    rule: Rule | None = None,
    *,
    root: str | os.PathLike[str] | None = None,
) -> Iterator[ImageDetections]:
    """The same pictures without the boxes that are repeats of their camera, whatever they score.

    ``rule`` and ``root`` as for `find_repeats`. The stump that was found with .9 in the sun is the same one with .2 in
    the rain: who lowers the threshold later shall not meet it again.
    """
    return map(RepeatFilter(repeats, rule, root=root).clean, images)


class RepeatFilter:
    """Tells which boxes of a picture are repeats of its camera; parameters as of `without_repeats`."""

    def __init__(
        self,
        repeats: Iterable[Repeat],
        rule: Rule | None = None,
        *,
        root: str | os.PathLike[str] | None = None,
    ):
        self._rule, self._root = rule or Rule(), root
        self._of: dict[str, list[Box]] = {}
        for one in repeats:
            self._of.setdefault(one.camera, []).append(one.box)

    def clean(self, image: ImageDetections) -> ImageDetections:
        """The picture without them."""
        keep = self.keep(image.file, [unit_box(one.box, image) for one in image.detections])
        return image if all(keep) else replace(image, detections=tuple(itertools.compress(image.detections, keep)))

    def keep(self, file: str, boxes: Sequence[Box]) -> list[bool]:
        """Which of ``boxes``, in units of the picture, are not."""
        known = self._of.get(camera_of(file, self._root, self._rule.camera_folders)) if boxes and self._of else None
        if not known:
            return [True] * len(boxes)
        overlap = _iou(np.array(boxes)[:, None], np.array(known))
        return (overlap < self._rule.overlap).all(axis=1).tolist()


def camera_of(file: str, root: str | os.PathLike[str] | None = None, folders: int | None = None) -> str:
    """The camera that took a picture: the folders it lies in, from ``root`` on, joined by slashes.

    ``folders``: how many of them, from the left, name a camera; the others tell its cards or days apart.
    """
    file = file.replace("\\", "/")  # results written on Windows
    if root is not None:
        file = file.removeprefix(Path(root).as_posix().rstrip("/") + "/")
    parts = [part for part in file.split("/")[:-1] if part not in ("", ".")]
    return "/".join(parts if folders is None else parts[:folders])


def unit_box(box: Box, image: ImageDetections) -> Box:
    """A box in units of its picture, 0 to 1."""
    width, height = image.width or 1, image.height or 1
    return box.clip(width, height).scale(1 / width, 1 / height)


@dataclass
class _Camera:
    """What counts of one camera's detections, as columns."""

    length: int = 0  # pictures so far, whatever they show
    files: list[str] = field(default_factory=list)  # (P,) those with a detection that counts
    place: array = field(default_factory=lambda: array("q"))  # (P,) of the picture among all of the camera
    taken: array = field(default_factory=lambda: array("d"))  # (P,) seconds, NaN where not known
    picture: array = field(default_factory=lambda: array("q"))  # (D,) index into files
    corners: array = field(default_factory=lambda: array("d"))  # (D, 4) units of the picture
    score: array = field(default_factory=lambda: array("d"))  # (D,)
    name: array = field(default_factory=lambda: array("q"))  # (D,) number of the species
    asked: set[int] = field(default_factory=set)  # pictures whose file was asked for its time

    def add(self, image: ImageDetections, found: Sequence[Detection], species: dict[str, int], largest: float) -> None:
        self.files.append(image.file)
        self.place.append(self.length - 1)
        self.taken.append(_seconds(image.taken_at))
        for one in found:
            box = unit_box(one.box, image)
            if min(box.width, box.height) >= SMALLEST and box.area <= largest:
                self.picture.append(len(self.files) - 1)
                self.corners.extend(box)
                self.score.append(one.score)
                self.name.append(species.setdefault(one.name, len(species)))


@dataclass(frozen=True)
class _Group:
    box: np.ndarray  # (4,)
    members: np.ndarray  # (n,) detections of a camera, ascending
    pictures: np.ndarray  # (p,) that they are on, ascending
    visits: int


def _describe(name: str, camera: _Camera, group: _Group, names: Sequence[str]) -> Repeat:
    taken = [camera.taken[picture] for picture in group.pictures]
    scores = np.frombuffer(camera.score)[group.members]
    tally = Counter(names[camera.name[member]] for member in group.members)
    return Repeat(
        camera=name,
        box=Box(*group.box.tolist()),
        files=tuple(camera.files[picture] for picture in group.pictures),
        taken_at=tuple(None if math.isnan(one) else BEGINNING + timedelta(seconds=one) for one in taken),
        visits=group.visits,
        names=tuple(sorted(tally.items(), key=lambda pair: (-pair[1], pair[0]))),
        scores=(float(scores.min()), float(np.median(scores)), float(scores.max())),
    )


def _group(camera: _Camera, rule: Rule, time_of: Callable[[str], datetime | None] | None) -> Iterator[_Group]:
    """The repeats of one camera: groups round a middle box that all of them overlap enough.

    Starting from the box that has most others near it, the middle is moved to the median of all that lie near, until it
    stays. No detection is in two groups.
    """
    if len(camera.picture) < rule.pictures:
        return
    box, picture = np.frombuffer(camera.corners).reshape(-1, 4), np.frombuffer(camera.picture, dtype=np.int64)
    cells, around = _Cells(box, rule.overlap), _Cells(box, rule.overlap**2)
    crowd = cells.count_near(rule.pictures)
    free, promising = np.ones(len(box), dtype=bool), crowd >= rule.pictures
    for start in np.argsort(-crowd, kind="stable")[: np.count_nonzero(promising)].tolist():
        if not (free[start] and promising[start]):
            continue
        middle, members = box[start], _free_near(cells, box[start], free)
        for _ in range(ROUNDS):
            moved = np.median(box[members], axis=0) if len(members) >= rule.pictures else middle
            if (moved == middle).all():
                break
            middle, members = moved, _free_near(cells, moved, free)
        pictures = np.unique(picture[members])
        if len(pictures) >= rule.pictures:
            promising[members] = False
            beside = len(_free_near(around, middle, free)) - len(members)
            if not _is_chance(middle, len(members), beside, len(box)):
                visits = _visits(camera, pictures, rule, time_of)
                if visits >= rule.visits:
                    free[members] = False
                    yield _Group(middle, np.sort(members), pictures, visits)
        promising[cells.beside(start)] = False


def _free_near(cells: _Cells, box: np.ndarray, free: np.ndarray) -> np.ndarray:
    near = cells.near(box)
    return near[free[near]]


def _is_chance(middle: np.ndarray, members: int, beside: int, everything: int) -> bool:
    """Whether so many boxes may lie near ``middle`` only because boxes are many thereabouts, as along a path.

    ``beside``: how many lie round them, up to the square of the overlap. Evenly spread, they would be about twice as
    many for each edge of the box that can move, since at the border of the picture animals are cut alike. Counts that
    chance spreads are Poisson's; the bound is Chernoff's, for ``everything`` that was looked at.
    """
    edges = np.count_nonzero((middle > BORDER) & (middle < 1 - BORDER))
    expected = beside / (2 ** max(edges, 1) - 1)
    if expected == 0 or members <= expected:
        return members <= expected
    return members * math.log(members / expected) - members + expected < math.log(everything / CHANCE)


def _visits(camera: _Camera, pictures: np.ndarray, rule: Rule, time_of: Callable[[str], datetime | None] | None) -> int:
    """How many visits of an animal it would take to be on all these pictures."""
    for one in pictures.tolist() if time_of else ():
        if math.isnan(camera.taken[one]) and one not in camera.asked:
            camera.asked.add(one)
            camera.taken[one] = _seconds(time_of(camera.files[one]))
    moments = np.sort(np.array([camera.taken[one] for one in pictures.tolist()]))
    length = rule.rest.total_seconds()
    if np.isnan(moments).any():
        moments, length = np.array([camera.place[one] for one in pictures.tolist()]), rule.rest_pictures - 1
    visits, place = 0, 0
    while place < len(moments):
        visits += 1
        place = int(np.searchsorted(moments, moments[place] + length, side="right"))
    return visits


def _seconds(moment: datetime | None) -> float:
    return math.nan if moment is None else (moment.replace(tzinfo=None) - BEGINNING).total_seconds()


class _Cells:
    """Boxes, (n, 4) in units of the picture, by where they are, to find those that overlap a given one enough.

    Two boxes of IoU ``overlap`` differ in width and height by the factor 1 / overlap at most, and their middles lie
    apart by the share (1 - overlap) / (1 + overlap) of their mean width or height at most. So boxes are sorted into
    classes of size, each by that factor above the next, and the boxes of one class into a grid as fine as that share.
    """

    def __init__(self, box: np.ndarray, overlap: float):
        self._overlap, self._step, self._share = overlap, -math.log(overlap), (1 - overlap) / (1 + overlap)
        size = box[:, 2:] - box[:, :2]
        kind = np.floor(np.log(size) / self._step)  # (n, 2)
        cell = np.floor((box[:, :2] + size / 2) / self._pitch(kind))  # (n, 2)
        key = _key_x(kind[:, 0], cell[:, 0]) + _key_y(kind[:, 1], cell[:, 1])
        self._order = np.argsort(key, kind="stable")  # (n,) cell by cell
        self._key, self._box = key[self._order], box[self._order]
        self._key_of = key

    def near(self, box: np.ndarray) -> np.ndarray:
        """Positions of all that overlap ``box`` (4,) enough."""
        first, last = self._spans(box[None])
        some = _ranges(first[0], last[0])
        return self._order[some[_iou(box, self._box[some]) >= self._overlap]]

    def beside(self, place: int) -> np.ndarray:
        """Positions of all in the cell of the box at ``place``."""
        first, last = np.searchsorted(self._key, self._key_of[place] + np.array([0, 1]))
        return self._order[first:last]

    def count_near(self, least: int) -> np.ndarray:
        """How many overlap each box enough, (n,), itself among them.

        Not counted, but estimated from above, where they are surely fewer than ``least`` or probably very many.
        """
        crowd = np.empty(len(self._box), dtype=np.int64)
        for start in range(0, len(crowd), AT_ONCE):
            some = self._box[start : start + AT_ONCE]
            first, last = self._spans(some)
            count = (last - first).sum(axis=1)
            sure = (count < least) | (count > MANY)
            last[sure] = first[sure]
            place = _ranges(first.ravel(), last.ravel())
            asked = np.repeat(np.arange(len(some)), (last - first).sum(axis=1))
            close = _iou(some[asked], self._box[place]) >= self._overlap
            counted = np.bincount(asked[close], minlength=len(some))
            crowd[self._order[start : start + AT_ONCE]] = np.where(sure, count, counted)
        return crowd

    def _pitch(self, kind: np.ndarray) -> np.ndarray:
        """The side of a cell for boxes of these classes."""
        return np.exp((kind + 1) * self._step) * self._share

    def _spans(self, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where, (q, r) and (q, r), runs of cells begin and end that may hold what overlaps ``boxes`` (q, 4) enough."""
        kinds, first, last = [], [], []  # for each axis (q, 3)
        for axis in (0, 1):
            low, high = boxes[:, axis, None], boxes[:, axis + 2, None]
            kind = np.floor(np.log(high - low) / self._step) + np.array([-1, 0, 1])
            pitch = self._pitch(kind)
            far = ((high - low) * self._share + pitch) / 2 + 1e-9  # the largest of a class is as long as pitch / share
            kinds.append(kind)
            first.append(np.maximum(np.floor(((low + high) / 2 - far) / pitch), 0))
            last.append(np.floor(((low + high) / 2 + far) / pitch))
        most = math.ceil(1 / self._overlap + 1) + 1  # cells that so long a stretch can touch
        column = first[0][:, :, None] + np.arange(most)  # (q, 3, most)
        keys = _key_x(kinds[0][:, :, None], column)[:, :, :, None]
        low, high = (_key_y(kinds[1], rows)[:, None, None] for rows in (first[1], last[1]))
        start = np.searchsorted(self._key, keys + low, "left")  # (q, 3, most, 3)
        stop = np.searchsorted(self._key, keys + high, "right")
        stop = np.where((column <= last[0][:, :, None])[:, :, :, None], stop, start)
        return start.reshape(len(boxes), -1), stop.reshape(len(boxes), -1)


def _key_x(kind: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Class and cell along x as a number; that along y is added to it."""
    return (kind.astype(np.int64) + KINDS << 52) + (cell.astype(np.int64) << 21)


def _key_y(kind: np.ndarray, cell: np.ndarray) -> np.ndarray:
    return (kind.astype(np.int64) + KINDS << 42) + cell.astype(np.int64)  # the cells of one column follow one another


def _ranges(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """All numbers from each ``first`` on up to each ``last``, which are left out themselves."""
    length = last - first
    ends = np.cumsum(length)
    return np.arange(ends[-1]) + np.repeat(first - (ends - length), length)


def _iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union row by row, (..., 4) and (..., 4)."""
    shared, one, other = 1.0, 1.0, 1.0
    for low, high in ((0, 2), (1, 3)):
        extent = np.minimum(first[..., high], second[..., high]) - np.maximum(first[..., low], second[..., low])
        shared = shared * np.maximum(extent, 0.0)
        one, other = one * (first[..., high] - first[..., low]), other * (second[..., high] - second[..., low])
    return shared / np.maximum(one + other - shared, np.finfo(float).tiny)
