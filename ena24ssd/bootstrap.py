"""How far could these figures have come out otherwise?

With other pictures every figure would be another one. The bootstrap (Efron 1979) draws such other pictures from those
at hand, with replacement, and measures again. Pictures of one burst show the same animal and tell the same thing twice,
so whole groups are drawn, never single pictures: a thousand pictures of fifty bursts know about as much as fifty.

A picture drawn twice counts twice, so a draw is nothing but a weight for each picture, and whatever can be computed
with weights needs no copy of them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from ena24ssd.cameratraps import Image
from ena24ssd.splits import name_holders

Measure = Callable[[np.ndarray], Mapping[str, np.ndarray]]  # weights (b, P) -> figures (b, ...) each

WEIGHTS_AT_ONCE = 4_000_000  # 32 MB
FEWEST_GROUPS = 5  # of fewer, all draws together still span too little: of 3, three quarters of the truth
FEWEST_DRAWS = 100  # below, the ends of an interval are but the odd draw
SHARE_DEFINED = (
    0.9  # of the draws; a figure that rests on two groups is undefined in an eighth, on three in a twentieth
)
ROUNDING = 1e-12  # figures are in 0..1; what differs by less does not


@dataclass(frozen=True)
class Groups:
    """Which of P pictures belong together: those with the same number in ``of``."""

    of: np.ndarray  # (P,) int64
    kind: str  # what holds them together: "sequences", "cameras", "near-duplicates" or "pictures"

    @property
    def words(self) -> str:
        """What they are, after a number."""
        return {"near-duplicates": "groups of near-duplicates"}.get(self.kind, self.kind)

    @property
    def count(self) -> int:
        return len(np.unique(self.of))


def group_by(keys: Iterable[Hashable], kind: str) -> Groups:
    """Pictures with equal ``keys`` belong together; groups are numbered in the order they come."""
    numbers: dict[Hashable, int] = {}
    return Groups(np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64), kind)


def group_by_names(images: Sequence[Image], kind: str = "bursts") -> Groups | None:
    """The bursts, or the cameras, as the json names them: as bursts sequences, or whole cameras where a picture is
    without a sequence.

    Sequences of the same name on two cameras are two, as each camera may number its own. A picture without a camera
    of its own is of the camera that the rest of its sequence is from, as in `ena24ssd.splits`. None where the json
    leaves it open for some picture, so that one has to look at the pictures.
    """
    holders = name_holders(images)
    if None in holders or (kind == "cameras" and any(held_by != "location" for held_by, _ in holders)):
        return None
    if kind == "bursts" and all(image.sequence is not None for image in images):
        return group_by(((holder, image.sequence) for holder, image in zip(holders, images)), "sequences")
    return group_by(holders, "cameras")


def group_singly(count: int) -> Groups:
    """Every one of ``count`` pictures for itself: right only where no two show the same animal on the same visit."""
    return Groups(np.arange(count), "pictures")


def draw_weights(groups: Groups, resamples: int = 1000, seed: int = 0) -> Iterator[np.ndarray]:
    """How often each picture is drawn, in blocks of draws: (b, P) float64 of whole numbers, ``resamples`` rows in all.

    Every draw takes as many groups as there are, with replacement; pictures of one group always have the same weight.
    The same ``seed`` gives the same draws, so that models can be compared draw by draw.
    """
    _, of = np.unique(groups.of, return_inverse=True)
    count, block = groups.count, max(1, WEIGHTS_AT_ONCE // max(1, len(of)))
    random = np.random.Generator(np.random.PCG64(seed))
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = random.integers(0, max(1, count), (rows, count)) + count * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        yield times.astype(np.float64)[:, of]


def resample(measure: Measure, groups: Groups, resamples: int = 1000, seed: int = 0) -> dict[str, np.ndarray]:
    """Every figure in every draw: name -> (B, ...), B = ``resamples``.

    Parameters: ``measure`` takes how often each picture was drawn, (b, P) float64, and returns its figures, (b, ...)
    each, NaN where a draw leaves one without meaning. Raises ValueError for fewer than one draw.
    """
    if resamples < 1:
        raise ValueError(f"bootstrap: resamples is {resamples}; it must be 1 or more, and 1000 is a good choice")
    blocks = [measure(weights) for weights in draw_weights(groups, resamples, seed)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def interval(values: np.ndarray, groups: Groups, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Where a figure lies in ``level`` of all draws, the rest cut off half above and half below.

    Parameters: ``values`` (B, ...), a figure in every draw of ``groups``; draws that leave it NaN are not counted.
    Returns the low and the high end, (...) each. From few groups such percentiles come out too narrow, so the cut is
    made further out, as far as Student's distribution with one degree of freedom less than groups is wider than the
    normal one (the expanded percentile interval of Hesterberg 2015, "What Teachers Should Know About the Bootstrap").
    Shares of pictures and boxes are then held as often as promised. Average precision, and means over species, are
    not: they flatter small samples, and draws more so, which lifts both ends. In simulations (8 species, bursts of 5)
    the true mAP50 lay below the range in 24 of 100 splits of 200 pictures, 10 of 500, 5 of 1,000, where 2.5 was
    promised. Differences between models are free of that.

    NaN, NaN where the draws cannot tell: there are fewer than `FEWEST_GROUPS`; or fewer than `FEWEST_DRAWS` draws, or
    less than `SHARE_DEFINED`, give the figure a meaning (it then rests on one or two groups); or it came out the same
    in all of them, as a specificity of 1 does on three blank pictures, which is no proof that it will on others.
    """
    values = np.asarray(values, dtype=np.float64)
    columns = values.reshape(len(values), int(np.prod(values.shape[1:])))
    highest, lowest = np.fmax.reduce(columns, initial=-np.inf), np.fmin.reduce(columns, initial=np.inf)
    told = _defined(columns) & (highest - lowest > ROUNDING)
    ends = np.full((2, columns.shape[1]), np.nan)
    if groups.count >= FEWEST_GROUPS and told.any():
        tail = _expand((1 - level) / 2, groups.count)
        ends[:, told] = np.nanquantile(columns[:, told], (tail, 1 - tail), axis=0)
    low, high = ends.reshape(2, *values.shape[1:])
    return low, high


def p_value(differences: np.ndarray, groups: Groups) -> np.ndarray:
    """How often two models this far apart would come out so by the luck of the draw, were they equally good.

    Parameters: ``differences`` (B, ...), of one figure of two models in the same draws of ``groups``; NaN draws are not
    counted. Returns (...) in (0, 1], two-sided: the least 1 - level at which `interval` leaves 0 out, with one draw
    more held against the difference than there were. 1 if there is but one group; NaN where fewer than `FEWEST_DRAWS`
    draws, or less than `SHARE_DEFINED`, are defined.
    """
    differences = np.asarray(differences, dtype=np.float64)
    columns = differences.reshape(len(differences), int(np.prod(differences.shape[1:])))
    against = np.minimum((columns <= ROUNDING).sum(axis=0), (columns >= -ROUNDING).sum(axis=0))
    tail = np.minimum((against + 1) / (np.isfinite(columns).sum(axis=0) + 1), 0.5)
    p = np.where(_defined(columns), 2 * _shrink(tail, groups.count), np.nan)
    return p.reshape(differences.shape[1:])[()]


def _defined(columns: np.ndarray) -> np.ndarray:
    """Which columns of (B, K) have enough draws with a meaning, (K,) bool."""
    return np.isfinite(columns).sum(axis=0) >= max(FEWEST_DRAWS, SHARE_DEFINED * len(columns))


def _expand(tail: float, groups: int) -> float:
    """The share of draws to cut off at one end so that a share ``tail`` of the luck lies beyond it."""
    return float(ndtr(np.sqrt(groups / (groups - 1)) * stdtrit(groups - 1, tail)))


def _shrink(tail: np.ndarray, groups: int) -> np.ndarray:
    """The inverse of `_expand`."""
    if groups < 2:
        return np.full_like(tail, 0.5)
    return stdtr(groups - 1, np.sqrt((groups - 1) / groups) * ndtri(tail))
