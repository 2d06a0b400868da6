"""Which boxes can the network propose, and which animals can they match?

The network looks from the cells of square grids, one for each of its feature maps, and every cell of a grid proposes
the same few shapes: MXNet's `multibox_prior`. A shape is a width and a height relative to the square,
``size * sqrt(ratio)`` and ``size / sqrt(ratio)``; every size comes at the first ratio, every further ratio at the first
size alone. An animal that no anchor overlaps well enough gets its best anchor all the same, and teaches little by it.

Everything here takes boxes as unit corners of the square that the network sees, and ``levels``: the anchors of each of
its feature maps, finest first. The post's network has one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial, reduce
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from ena24ssd.prior import LevelAnchors

STRIDE = 16  # pixels of the square between two cells of the post's one feature map: four convolutions of stride 2
BLOCK = 65_536  # boxes compared at a time; bounds the memory

# What `suggest` chooses from: steps of about 7 and 10 %, finer than annotators draw, in figures that read well.
SIZES = np.unique([float(f"{size:.2g}") for size in np.geomspace(0.02, 1.2, 61)])
FINER_SIZES = np.unique([float(f"{size:.2g}") for size in np.geomspace(0.02 / 60, 0.02, 61)[:-1]])
ALL_SIZES = np.concatenate([FINER_SIZES, SIZES])  # of several feature maps, the finest may need smaller ones
RATIOS = np.unique([float(f"{ratio:.2g}") for ratio in np.geomspace(1 / 5, 5, 33)])
SEARCHED = 4_000  # boxes that `suggest` searches with

# Of several feature maps, each is there for animals of a scale: large enough for its cells to tell, small enough to be
# seen whole by them. The finest takes smaller ones too, the coarsest larger ones, as no other map would.
REACH = (2.0, 8.0)  # cells that the side of an anchor spans
SMALLEST = 0.5  # cells, on the finest map
COARSE = 0.5  # of the square; anchors from here on are tried even where they span fewer cells
OWN_RATIOS = 0.01  # share of the boxes that must match in addition, for each map to get ratios of its own


class Anchors(NamedTuple):
    """The anchors of a grid of ``cells`` x ``cells``; ``sizes`` and ``ratios`` as in `ena24ssd.config.ModelConfig`."""

    cells: int
    sizes: tuple[float, ...]
    ratios: tuple[float, ...]

    @property
    def per_cell(self) -> int:
        return len(self.sizes) + len(self.ratios) - 1

    @property
    def shapes(self) -> np.ndarray:
        """(per_cell, 2) float64: width and height of each anchor of a cell, in sides of the square."""
        size, ratio = np.array(_pairs(self.sizes, self.ratios), dtype=np.float64).T
        return np.stack([size * np.sqrt(ratio), size / np.sqrt(ratio)], axis=1)

    @property
    def corners(self) -> np.ndarray:
        """(cells * cells * per_cell, 4) float64 unit corners, row by row, cell by cell; they may leave the square."""
        centre = (np.arange(self.cells) + 0.5) / self.cells
        y, x = np.meshgrid(centre, centre, indexing="ij")
        centres = np.stack([x, y], axis=-1).reshape(-1, 1, 2)  # (cells * cells, 1, 2)
        half = self.shapes / 2
        return np.concatenate([centres - half, centres + half], axis=-1).reshape(-1, 4)


class Suggestion(NamedTuple):
    """Anchors for the boxes at hand, and how many of the boxes they were searched with."""

    levels: tuple[Anchors, ...]
    searched: int


def count_cells(side: int, stride: int = STRIDE) -> int:
    """How many cells a grid has in each direction for pictures of ``side`` pixels square."""
    return -(-side // stride)


def lay_out(levels: Iterable[LevelAnchors], side: int) -> tuple[Anchors, ...]:
    """The anchors of a network (``config.model.anchors``) for pictures of ``side`` pixels square, finest map first."""
    return tuple(Anchors(count_cells(side, stride), tuple(sizes), tuple(ratios)) for stride, sizes, ratios in levels)


def as_choices(levels: Sequence[Anchors]) -> dict[str, list]:
    """``sizes`` and ``ratios`` as a config takes them: of several levels a list for each, but equal ratios once."""
    sizes, ratios = [list(level.sizes) for level in levels], [list(level.ratios) for level in levels]
    is_shared = all(each == ratios[0] for each in ratios)
    return {"sizes": sizes if len(levels) > 1 else sizes[0], "ratios": ratios[0] if is_shared else ratios}


def level_iou(boxes: np.ndarray, levels: Sequence[Anchors]) -> np.ndarray:
    """The IoU of every box with the anchor of each level that fits it best.

    Parameters: ``boxes`` (n, 4) unit corners. Returns (n, levels) float64 in [0, 1]; 0 for boxes without area.

    Of anchors of one shape, the one whose centre is nearest in x and in y overlaps a box the most. So each box is
    compared with one cell's anchors of a level, not with those of all the cells, and nothing is lost.
    """
    return np.stack([_by_block(boxes, level.cells, partial(_best_of, level.shapes)) for level in levels], axis=1)


def best_iou(boxes: np.ndarray, levels: Sequence[Anchors]) -> np.ndarray:
    """The IoU of every box with the anchor that fits it best, on whichever level: (n,), else as `level_iou`."""
    return level_iou(boxes, levels).max(axis=1)


def ideal_iou(boxes: np.ndarray, levels: Sequence[Anchors]) -> np.ndarray:
    """The IoU of every box with an anchor of the best shape there is for it, on the grids of ``levels``.

    What no sizes and ratios can exceed: only more cells can, and those come with a larger picture or a finer feature
    map. Parameters and result as for `best_iou`.
    """
    return np.max([_by_block(boxes, level.cells, _best_shape_iou) for level in levels], axis=0)


def suggest(boxes: np.ndarray, levels: Sequence[Anchors], *, overlap: float = 0.5, seed: int = 0) -> Suggestion:
    """Sizes and ratios that match the most boxes, and among those the closest.

    Parameters: ``boxes`` (n, 4) unit corners; ``levels``, the grids and what is configured now, as many anchors a cell
    on each; ``overlap``, the IoU above which an anchor matches. Returns as many anchors a cell (fewer where two came
    out the same, on every level), and never worse ones: where none are better for all the boxes, ``levels``.

    Every way to part the anchors into sizes and ratios starts from k-means of the boxes' shapes (`cluster_shapes`), of
    several levels those relative to the cells of each box's own; from there, and from what is configured, one size or
    ratio at a time is set to the best of `SIZES` or `RATIOS` until none changes. Every box is compared with all levels,
    where it lies on their grids, and a level's sizes stay within what its cells can see (`REACH`). The levels share
    their ratios, unless ratios of their own match `OWN_RATIOS` more of the boxes. Of more than `SEARCHED` boxes, that
    many, evenly spaced, are searched with.

    Raises ValueError for no boxes.
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    if not len(boxes):
        raise ValueError("no boxes to suggest anchors for; it takes one at least. 'ena24ssd check' counts a dataset's.")
    found = levels = tuple(levels)
    sample = boxes[np.linspace(0, len(boxes) - 1, min(len(boxes), SEARCHED)).round().astype(int)]
    grids = _size_grids(levels)
    places = [_sizes_and_offsets(sample, level.cells) for level in levels]
    tables = [_shape_table(*place, grid) for place, grid in zip(places, grids)]
    climb = partial(_climb, tables, grids, overlap)

    shapes = np.maximum(places[0][0], 1e-6)
    scales = np.array([levels[0].cells / level.cells for level in levels])  # of the cells, the finest ones' being 1
    clusters = cluster_shapes(shapes / scales[_own_level(shapes, levels), None], levels[0].per_cell, seed=seed)
    starts = [([level.sizes for level in levels], [levels[0].ratios])]
    for count in range(1, levels[0].per_cell + 1):
        sizes, ratios = _as_family(clusters, count)
        starts.append((np.outer(scales, sizes), [ratios]))
    _, sizes, ratios = max((climb(*start) for start in starts), key=lambda end: end[0])

    tried = [(sizes, ratios, 0.0)]
    if len(levels) > 1:
        tried.append((*climb(sizes, ratios * len(levels))[1:], OWN_RATIOS * len(boxes)))
    reached = _score(best_iou(boxes, levels), overlap)
    for sizes, ratios, least in tried:
        other = tuple(Anchors(level.cells, *own) for level, *own in zip(levels, sizes, _for_each(ratios, sizes)))
        score = _score(best_iou(boxes, other), overlap)
        if score > reached + least:
            found, reached = other, score
    return Suggestion(found, len(sample))


def cluster_shapes(shapes: np.ndarray, count: int, *, seed: int = 0, restarts: int = 3) -> np.ndarray:
    """K-means of widths and heights with the distance 1 - IoU (YOLO9000, Redmon and Farhadi 2016, section 2).

    The two of a comparison lie on the same centre. Starts as k-means++ does; of several such starts, the best.
    Parameters: ``shapes`` (n, 2), positive, one at least. Returns (count, 2), largest area last; a shape may stand
    twice where there are fewer different ones than ``count``.
    """
    random = np.random.default_rng(seed)
    best, best_fit = shapes[:0], -1.0
    for _ in range(restarts):
        centres = shapes[random.integers(len(shapes), size=1)]
        while len(centres) < count:
            distance = np.clip(1 - _centred_iou(shapes, centres).max(axis=1), 0, None) ** 2 + 1e-12
            centres = np.concatenate([centres, random.choice(shapes, 1, p=distance / distance.sum())])
        for _ in range(50):
            nearest = _centred_iou(shapes, centres).argmax(axis=1)
            members = np.bincount(nearest, minlength=count)[:, None]
            sums = np.stack([np.bincount(nearest, axis, count) for axis in shapes.T], axis=1)
            moved = np.where(members > 0, sums / np.maximum(members, 1), centres)
            if np.allclose(moved, centres, rtol=1e-4):
                break
            centres = moved
        fit = _centred_iou(shapes, centres).max(axis=1).mean()
        if fit > best_fit:
            best, best_fit = centres, fit
    return best[np.argsort(best.prod(axis=1))]


def _pairs(sizes: Sequence[Any], ratios: Sequence[Any]) -> list[tuple[Any, Any]]:
    """The size and the ratio of each anchor of a cell, in MXNet's order."""
    return [(size, ratios[0]) for size in sizes] + [(sizes[0], ratio) for ratio in ratios[1:]]


def _by_block(boxes: np.ndarray, cells: int, measure: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """(n,) float64: what ``measure`` says of the boxes' `_sizes_and_offsets`, `BLOCK` boxes at a time."""
    boxes = np.asarray(boxes).reshape(-1, 4)
    result = np.empty(len(boxes))
    for start in range(0, len(boxes), BLOCK):
        block = boxes[start : start + BLOCK].astype(np.float64)
        result[start : start + BLOCK] = measure(*_sizes_and_offsets(block, cells))
    return result


def _sizes_and_offsets(boxes: np.ndarray, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, 2) width and height, and (n, 2) how far the nearest cell's centre lies from the box's, in x and y."""
    size = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    nearest = (np.clip(np.floor(centre * cells), 0, cells - 1) + 0.5) / cells
    return size, np.abs(centre - nearest)


def _best_of(shapes: np.ndarray, size: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """(n,) IoU of n boxes with the best of K shapes whose centres lie ``offset`` away."""
    return _shape_iou(size, offset, shapes).max(axis=1)


def _shape_iou(size: np.ndarray, offset: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """(n, K) IoU of n boxes with K shapes whose centres lie ``offset`` (n, 2) away."""
    common, own, other = 1.0, size.prod(axis=1)[:, None], shapes.prod(axis=1)
    for axis in (0, 1):
        extent, away, span = size[:, axis, None], offset[:, axis, None], shapes[:, axis]
        common = common * np.clip(np.minimum((extent + span) / 2 - away, np.minimum(extent, span)), 0, None)
    return common / (own + other - common)  # no anchor is without area


def _best_shape_iou(size: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """(n,) IoU of n boxes with the best of all shapes whose centres lie ``offset`` away."""
    # With the other side given, IoU goes one way all along from the widest anchor inside the box's edges to the
    # narrowest that holds them, and falls beyond either; so the best shape is one of these four.
    inside, around = np.clip(size - 2 * offset, 0, None), size + 2 * offset
    best = np.zeros(len(size))
    for width, common_width in ((inside[:, 0], inside[:, 0]), (around[:, 0], size[:, 0])):
        for height, common_height in ((inside[:, 1], inside[:, 1]), (around[:, 1], size[:, 1])):
            common = common_width * common_height
            union = size.prod(axis=1) + width * height - common
            best = np.maximum(best, np.divide(common, union, out=np.zeros_like(union), where=union > 0))
    return best


def _centred_iou(shapes: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """(n, K) IoU of widths and heights laid on one centre."""
    return _shape_iou(shapes, np.zeros_like(shapes), centres)


def _score(best: np.ndarray, overlap: float) -> np.ndarray:
    """How many boxes of the last axis match; the mean IoU, always below one more match, decides between equals."""
    return (best > overlap).sum(axis=-1) + 0.999 * best.mean(axis=-1)


def _size_grids(levels: Sequence[Anchors]) -> list[np.ndarray]:
    """The sizes to choose from on each level: ascending, in the steps of `SIZES`."""
    if len(levels) == 1:
        return [SIZES]
    lowest = [SMALLEST / levels[0].cells] + [min(REACH[0] / level.cells, COARSE) for level in levels[1:]]
    highest = [REACH[1] / level.cells for level in levels[:-1]] + [SIZES[-1]]
    return [ALL_SIZES[(low <= ALL_SIZES) & (high >= ALL_SIZES)] for low, high in zip(lowest, highest)]


def _own_level(shapes: np.ndarray, levels: Sequence[Anchors]) -> np.ndarray:
    """(n,) which level is of a shape's scale: the one whose `REACH` has the shape nearest to its middle."""
    side = np.sqrt(shapes.prod(axis=1))[:, None] * [level.cells for level in levels]
    return np.abs(np.log(side / np.sqrt(np.prod(REACH)))).argmin(axis=1)


def _shape_table(size: np.ndarray, offset: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """(len(grid), ratios, n) float32: the IoU of every box with every shape to choose from."""
    table = np.empty((len(grid), len(RATIOS), len(size)), dtype=np.float32)
    for row, side in zip(table, grid):
        row[:] = _shape_iou(size, offset, np.stack([side * np.sqrt(RATIOS), side / np.sqrt(RATIOS)], axis=1)).T
    return table


def _as_family(shapes: np.ndarray, count: int) -> tuple[Sequence[float], Sequence[float]]:
    """K shapes as ``count`` sizes, the middle one first, at one ratio, and K - count more ratios."""
    size, ratio = np.sqrt(shapes.prod(axis=1)), shapes[:, 0] / shapes[:, 1]
    first = np.median(ratio)
    by_likeness = np.argsort(np.abs(np.log(ratio / first)), kind="stable")
    sizes, odd_ratios = np.sort(size[by_likeness[:count]]), ratio[by_likeness[count:]]
    return [sizes[count // 2], *np.delete(sizes, count // 2)], [first, *odd_ratios]


def _climb(
    tables: Sequence[np.ndarray],
    grids: Sequence[np.ndarray],
    overlap: float,
    sizes: Sequence[Sequence[float]],
    ratios: Sequence[Sequence[float]],
) -> tuple[float, list[tuple[float, ...]], list[tuple[float, ...]]]:
    """Set one size or ratio at a time to the best there is, until none changes.

    Parameters: a table, a grid of sizes and sizes for each level; ratios for each level, or one list for all of them.
    Returns the score reached, the sizes and the ratios; all but the first of each list ascend, and none stands twice.
    """
    own_sizes: list[list[Any]] = [_nearest(values, grid) for values, grid in zip(sizes, grids)]
    own_ratios: list[list[Any]] = [_nearest(values, RATIOS) for values in ratios]
    levels = list(zip(tables, own_sizes, _for_each(own_ratios, own_sizes)))
    reached, before = 0.0, -1.0
    while reached > before:
        before = reached
        for part in (*own_sizes, *own_ratios):
            for place, kept in enumerate(part):
                part[place] = slice(None)  # all there are, side by side
                ious = (table[pair] for table, *own in levels for pair in _pairs(*own))
                scores = _score(reduce(np.maximum, sorted(ious, key=np.ndim)), overlap)  # (n,) first, then (all, n)
                part[place] = kept if scores[kept] == scores.max() else int(scores.argmax())
                reached = float(scores.max())
    return reached, _in_order(own_sizes, grids), _in_order(own_ratios, [RATIOS] * len(own_ratios))


def _for_each(lists: list, levels: Sequence) -> list:
    """One list for each level, where there may be one for all."""
    return lists * len(levels) if len(lists) == 1 else lists


def _in_order(parts: Sequence[list[int]], grids: Sequence[np.ndarray]) -> list[tuple[float, ...]]:
    """What stands at the places of each part: the first stays first, the others ascend, none stands twice.

    All get as many: where a part has less than another, what stands next to its first fills it up.
    """
    count = min(max(len(set(part)) for part in parts), *map(len, grids))
    ordered = []
    for part, grid in zip(parts, grids):
        spare = sorted(set(range(len(grid))) - set(part), key=lambda place: abs(place - part[0]))
        first, *others = [*dict.fromkeys(part), *spare][:count]
        ordered.append(tuple(grid[[first, *sorted(others)]].tolist()))
    return ordered


def _nearest(values: Sequence[float], grid: np.ndarray) -> list[int]:
    return [int(np.abs(np.log(grid / value)).argmin()) for value in values]
