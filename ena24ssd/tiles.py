"""How are small animals in a large picture seen?

A network sees squares of a few hundred pixels. Of a picture of 2592 x 1944, an animal a tenth as wide is 20 pixels
there, and one half as wide again is lost. With a `Tiling` the picture is cut into overlapping parts besides, each
fitted into a square like a picture of its own; what was found in all of them is merged in pixels of the original.

A view that cuts an animal sees a fragment of it. So of each box it is known how far it can be trusted: up to the
border that cuts it, or, where none does, anywhere. Two views show one animal when their boxes agree on all that both
know.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image as Pillow

from ena24ssd.boxes import Box, iou
from ena24ssd.detections import Detection
from ena24ssd.pictures import BAR, view_of

MOST_TILES = 8  # across, and down
MOST_OVERLAP = 0.75  # of a tile's side; beyond, neighbours show nearly the same
TOUCHING = 0.05  # of a tile's side; a box that ends this near to a border may go on behind it
ROWS_AT_ONCE = 128  # of sightings compared with all others, so that memory stays below 100 MB
INSIDE = 0.7  # share of a fragment that lies in a better box of its species, from which on it is a part of it


@dataclass(frozen=True)
class Tiling:
    """How many tiles lie side by side and one below the other, 1 to 8 each, and by which share of its own side a tile
    overlaps its neighbour, 0 to .75. 1 x 1 is the picture by itself. Raises ValueError for anything else.
    """

    across: int
    down: int
    overlap: float = 0.25

    def __post_init__(self) -> None:
        if not (1 <= self.across <= MOST_TILES and 1 <= self.down <= MOST_TILES):
            raise ValueError(
                f"tiles are {self}; a picture is cut into 1 to {MOST_TILES} across and 1 to {MOST_TILES} down. "
                "Try 2x2 first: every tile costs as much time as a picture"
            )
        if not 0 <= self.overlap <= MOST_OVERLAP:
            raise ValueError(
                f"tiles overlap by {self.overlap}; it must be a share of a tile's side, 0 to {MOST_OVERLAP}. "
                "At .25, an animal up to a quarter as large as a tile is whole in one of them"
            )

    @classmethod
    def parse(cls, text: str, overlap: float = 0.25) -> Tiling:
        """The tiling that a person writes as ``3x2``: three across, two down. Raises ValueError."""
        numbers = re.fullmatch(r"\s*([0-9]{1,4})\s*[xX×]\s*([0-9]{1,4})\s*", text)  # noqa: RUF001
        if numbers is None:
            raise ValueError(f"tiles are {text!r}; write how many across and how many down, as in 3x2")
        return cls(*map(int, numbers.groups()), overlap)

    def __str__(self) -> str:
        return f"{self.across}x{self.down}"

    @property
    def squares(self) -> int:
        """How many squares the network gets to see of a picture, at most."""
        return 1 if self.across == self.down == 1 else self.across * self.down + 1

    def least(self, side: int) -> int:
        """What to ask `ena24ssd.pictures.read_picture` for, that tiles fill squares of ``side`` pixels as sharply as
        pictures do.
        """
        return math.ceil(side * max(_parts(count, self.overlap) for count in (self.across, self.down)))

    def views(self, width: int, height: int) -> tuple[Box, ...]:
        """What each square shall show of a picture of ``width`` x ``height``: first all of it, then the tiles, row by
        row, in whole pixels.

        Tiles cover every pixel and are equally large. Pictures of a few pixels give fewer.
        """
        columns = _spans(width, self.across, self.overlap)
        rows = _spans(height, self.down, self.overlap)
        tiles = [Box(left, top, right, bottom) for top, bottom in rows for left, right in columns]
        return tuple(dict.fromkeys([Box(0.0, 0.0, float(width), float(height)), *tiles]))


def cut(picture: Pillow.Image, views: Sequence[Box], side: int, fit: str) -> np.ndarray:
    """A picture as the network sees it: the whole and its tiles, each fitted into a square like a picture of its own.

    Parameters: ``picture``, RGB, decoded as small as `Tiling.least` allows; ``views``, of its full size
    (`Tiling.views`), the whole picture first. Returns (T, side, side, 3) uint8; the first is what
    `ena24ssd.pictures.fit_square` makes of the picture. A square shows its view as `view_of` says of a picture that is
    as large as the view.
    """
    x, y = picture.width / views[0].width, picture.height / views[0].height
    squares = [_fit(picture, view.scale(x, y).clip(*picture.size), view, side, fit) for view in views]
    return np.stack(squares)


def merge(
    found: Sequence[Sequence[Detection]], views: Sequence[Box], nms: float, class_agnostic: bool = False
) -> tuple[Detection, ...]:
    """What was found in all views, each animal once, in pixels of the original, best first.

    Parameters: ``found``, for each view what was found in it, best first, in pixels of that view, as
    `ena24ssd.detections.rows_to_detections` gives it for a picture as large as the view; ``views``, the whole picture
    first; ``nms``, the IoU from which on two boxes of one species (where ``class_agnostic``: of any) are one.

    A box that no border cuts falls to a better one from another view, as in the engines. One that is cut falls to a
    whole one that it agrees with, however that one scored; fragments that agree with one another and with no whole
    box are joined; a fragment that lies mostly in a better box goes; any other stays, since half an animal is one. An
    animal keeps the best score, and name, that a view gave it: whatever counts at some threshold before still counts
    there. Boxes from one view are never compared, the engine has done that. The order of the tiles plays no part.
    Raises ValueError where there are not as many views as lists.
    """
    if len(found) != len(views):
        raise ValueError(f"there are {len(views)} views and detections of {len(found)}; each view needs its own")
    if len(views) == 1:
        return tuple(found[0])
    seen = _Sightings.gather(found, views)
    agreement = _agreement(seen, class_agnostic)
    animals: dict[int, _Animal] = {}  # by the sighting that they are known by
    is_animal = np.zeros(len(seen.found), dtype=bool)
    fragments = []
    for one in np.argsort(seen.is_cut, kind="stable").tolist():  # those that nothing cuts first
        choice = np.where(is_animal, agreement[one], 0.0)
        best = int(choice.argmax())
        if choice[best] >= nms:
            animals[best].hear(one, seen)
        elif seen.is_cut[one]:
            fragments.append(one)
        else:
            animals[one] = _Animal(one, one, Box(*seen.box[one].tolist()), frozenset({int(seen.view[one])}))
            is_animal[one] = True

    for animal in _join(seen, fragments, agreement, nms):
        owner = _owner(animal, list(animals.values()), seen, nms, class_agnostic)
        if owner is None:
            animals[animal.shape] = animal
        else:
            owner.hear(animal.best, seen)
    kept = sorted(animals.values(), key=lambda animal: (-seen.score[animal.best], animal.shape))
    return tuple(
        Detection(said.label, said.name, said.score, animal.box)
        for animal, said in ((animal, seen.found[animal.best]) for animal in kept)
    )


@dataclass(frozen=True)
class _Sightings:
    """All detections of all views, the best score first; of equals, those of the larger view, then of the upper left.

    A sighting is known by its place in this order, which hangs on no order of the views.
    """

    found: list[Detection]  # (n,), boxes in pixels of their view
    score: np.ndarray  # (n,)
    label: np.ndarray  # (n,)
    view: np.ndarray  # (n,) a number for each view
    box: np.ndarray  # (n, 4) in pixels of the picture
    known: np.ndarray  # (n, 4) where it is known what belongs to the animal: up to the borders that cut it
    is_cut: np.ndarray  # (n,) bool, by a border inside the picture

    @classmethod
    def gather(cls, found: Sequence[Sequence[Detection]], views: Sequence[Box]) -> _Sightings:
        order = sorted(range(len(views)), key=lambda view: (-views[view].area, views[view]))
        pairs = [(rank, detection) for rank, view in enumerate(order) for detection in found[view]]
        pairs.sort(key=lambda pair: (-pair[1].score, pair[0]))  # stable: within a view as they came
        view = np.array([rank for rank, _ in pairs], dtype=np.int64)
        frame = np.array([views[place] for place in order], dtype=np.float64).reshape(-1, 4)[view]  # (n, 4)
        box = np.array([detection.box for _, detection in pairs], dtype=np.float64).reshape(-1, 4)
        box = box + np.tile(frame[:, :2], 2)
        near = TOUCHING * np.tile(frame[:, 2:] - frame[:, :2], 2)
        outer = np.array(views[0], dtype=np.float64)
        cut_off = (frame != outer) & (np.abs(box - frame) <= near)  # (n, 4) which sides are cut
        known = np.where(cut_off, frame, np.array([-np.inf, -np.inf, np.inf, np.inf]))
        score = np.array([detection.score for _, detection in pairs], dtype=np.float64)
        label = np.array([detection.label for _, detection in pairs], dtype=np.int64)
        return cls([one for _, one in pairs], score, label, view, box, known, cut_off.any(axis=1))


@dataclass
class _Animal:
    """What is taken to be one animal."""

    shape: int  # the sighting that it is known by
    best: int  # the sighting with the best score
    box: Box
    views: frozenset[int]  # that its box is from

    def hear(self, other: int, seen: _Sightings) -> None:
        """It was also seen as ``other``."""
        if seen.score[other] > seen.score[self.best]:
            self.best = other


def _agreement(seen: _Sightings, class_agnostic: bool) -> np.ndarray:
    """IoU, (n, n), of any two sightings, of what lies where both are known; 0 where they are not to be compared."""
    agreement = np.zeros((len(seen.found), len(seen.found)))
    for start in range(0, len(agreement), ROWS_AT_ONCE):
        some = slice(start, start + ROWS_AT_ONCE)
        first, second, shared = 1.0, 1.0, 1.0  # areas, (rows, n)
        for low, high in ((0, 2), (1, 3)):
            known_from = np.maximum(seen.known[some, None, low], seen.known[:, low])
            known_to = np.minimum(seen.known[some, None, high], seen.known[:, high])
            from_one = np.maximum(seen.box[some, None, low], known_from)
            to_one = np.minimum(seen.box[some, None, high], known_to)
            from_other, to_other = np.maximum(seen.box[:, low], known_from), np.minimum(seen.box[:, high], known_to)
            first = first * np.maximum(to_one - from_one, 0.0)
            second = second * np.maximum(to_other - from_other, 0.0)
            shared = shared * np.maximum(np.minimum(to_one, to_other) - np.maximum(from_one, from_other), 0.0)
        union = first + second - shared
        allowed = (union > 0) & (seen.view[some, None] != seen.view)
        if not class_agnostic:
            allowed &= seen.label[some, None] == seen.label
        np.divide(shared, union, out=agreement[some], where=allowed)
    return agreement


def _join(seen: _Sightings, fragments: Sequence[int], agreement: np.ndarray, nms: float) -> list[_Animal]:
    """Fragments that agree, as one animal each; those that agree most first, and from every view one at most."""
    some = np.array(fragments, dtype=np.int64)
    close = np.triu(agreement[np.ix_(some, some)], 1)
    one, other = np.nonzero(close >= nms)
    pairs = zip((-close[one, other]).tolist(), some[one].tolist(), some[other].tolist())
    group = {one: [one] for one in fragments}
    for _, one, other in sorted(pairs):
        first, second = group[one], group[other]
        if first is not second and not {*seen.view[first].tolist()} & {*seen.view[second].tolist()}:
            first += second
            group |= dict.fromkeys(second, first)
    animals = []
    for members in {id(members): members for members in group.values()}.values():
        low, high = seen.box[members, :2].min(axis=0), seen.box[members, 2:].max(axis=0)
        best = min(members)  # sightings are in the order of their scores
        animals.append(_Animal(best, best, Box(*low.tolist(), *high.tolist()), frozenset(seen.view[members].tolist())))
    return sorted(animals, key=lambda animal: animal.best)


def _owner(
    part: _Animal, kept: Sequence[_Animal], seen: _Sightings, nms: float, class_agnostic: bool
) -> _Animal | None:
    """The animal that a fragment is of: the one it overlaps most like a twin, or else a better one that it lies in."""
    rivals = [
        animal
        for animal in kept
        if not animal.views & part.views and (class_agnostic or seen.label[animal.best] == seen.label[part.best])
    ]
    if not rivals:
        return None
    boxes, own = np.array([animal.box for animal in rivals]), np.array(part.box)
    overlap = iou(own, boxes)[0]
    if overlap.max() >= nms:
        return rivals[int(overlap.argmax())]
    better = seen.score[[animal.best for animal in rivals]] >= seen.score[part.best]
    extent = np.minimum(own[2:], boxes[:, 2:]) - np.maximum(own[:2], boxes[:, :2])
    inside = np.where(better, np.clip(extent, 0.0, None).prod(axis=1), 0.0)  # pixels of the fragment
    return rivals[int(inside.argmax())] if inside.max() >= INSIDE * part.box.area else None


def _parts(count: int, overlap: float) -> float:
    """How many times as long as one of ``count`` overlapping tiles the whole side is."""
    return 1 + (count - 1) * (1 - overlap)


def _spans(length: int, count: int, overlap: float) -> list[tuple[float, float]]:
    """Where ``count`` tiles of one size begin and end on a side of ``length`` pixels."""
    if count == 1:
        return [(0.0, float(length))]
    size = min(length, math.ceil(length / _parts(count, overlap) - 1e-9))
    # Beginnings are whole pixels, so that two of them may lie a pixel farther apart than they would have to.
    while size < length and -(-(length - size) // (count - 1)) > size * (1 - overlap) + 1e-9:
        size += 1
    starts = [place * (length - size) // (count - 1) for place in range(count)]
    return [(float(start), float(start + size)) for start in dict.fromkeys(starts)]


def _fit(picture: Pillow.Image, part: Box, view: Box, side: int, fit: str) -> np.ndarray:
    """``part`` of a picture, in its pixels, in a square, as if it were a picture as large as ``view``."""
    whole = Box(0.0, 0.0, view.width, view.height)
    place = whole.relative_to(view_of(view.width, view.height, side, fit)).scale(side, side)
    left, top, right, bottom = map(round, place)
    shown = picture
    if part != (0, 0, *picture.size):  # cut out first: resizing looks beyond the part
        low_x, low_y = math.floor(part.left), math.floor(part.top)
        shown = picture.crop((low_x, low_y, math.ceil(part.right), math.ceil(part.bottom)))
        part = Box(part.left - low_x, part.top - low_y, part.right - low_x, part.bottom - low_y)
    shown = shown.resize((right - left, bottom - top), Pillow.Resampling.BILINEAR, box=part)
    if shown.size == (side, side):
        return np.asarray(shown)
    square = Pillow.new("RGB", (side, side), BAR)
    square.paste(shown, (left, top))
    return np.asarray(square)
