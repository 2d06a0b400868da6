"""What is there to say about these detections?

`score` puts every figure of an evaluation together: what the field's own evaluator says, what an ecologist asks, how
far each figure could have come out otherwise, and what would be scored without looking. Every figure has one flat name
(``detection/map50``, ``presence/f1``, ``blank/specificity``, ...), so that tables, json and curves agree on them.
A figure that has no meaning for these pictures is NaN: recall without boxes, specificity without blank pictures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ena24ssd.baselines import constant_detector, nothing_found, random_detector
from ena24ssd.bootstrap import Groups, Measure, interval, resample
from ena24ssd.calibration import Calibration, Reliability, judged_scores, reliability
from ena24ssd.cameratraps import Image
from ena24ssd.cases import Cases
from ena24ssd.cocoeval import CocoFigures, SizeFigures, evaluate_coco
from ena24ssd.matching import Matches, match
from ena24ssd.mistakes import Mistakes, analyse, confuse
from ena24ssd.ranking import Curve, pooled_curve, species_curves
from ena24ssd.review import Review, apply, review_curve
from ena24ssd.sampling import spread_evenly
from ena24ssd.tally import figures as tally_figures
from ena24ssd.tally import species_figures, tally
from ena24ssd.weighing import take_single, weigh, weigh_all

Figures = dict[str, float]
LIKELY = 0.95  # of the intervals
POINTS = 200  # of a curve in json


class Range(NamedTuple):
    """Where a figure lies in 95 of 100 draws of whole groups of pictures; NaN where it has no meaning."""

    low: float
    high: float


@dataclass(frozen=True)
class SpeciesScores:
    """One species. ``precision``, ``recall`` and ``f1`` are of its presence on pictures, at the threshold."""

    name: str
    boxes: int
    pictures: int
    ap: float  # mean over IoU .5 to .95
    ap50: float
    ar: float
    precision: float
    recall: float
    f1: float
    ap50_range: Range
    f1_range: Range
    curve: Curve  # of its boxes, at IoU .5
    threshold: float  # that gives its best box F1 on these very pictures, so that F1 is flattered
    best_f1: float
    tuned_threshold: float | None  # the same, chosen on other pictures (`Calibration`)
    tuned_f1: float | None  # what that one gives here


@dataclass(frozen=True)
class Scores:
    """Every figure of one model on some pictures."""

    cases: Cases
    matches: Matches
    threshold: float  # detections that score this or more count as shown
    recall: float  # share of animal pictures that a person's review may not lose
    groups: Groups
    resamples: int  # draws behind the ranges; 0: none
    figures: Figures
    ranges: Mapping[str, Range]
    baselines: Mapping[str, Figures]  # what scores without looking: name -> some of the figures
    tuned: Figures | None  # figures at the threshold chosen on other pictures, where there is one
    species: tuple[SpeciesScores, ...]  # one a class
    sizes: Mapping[str, SizeFigures]  # small, medium, large
    light: Mapping[str, Figures]  # "day" and "night": some figures and "pictures"; empty where nobody looked
    light_ranges: Mapping[str, Mapping[str, Range]]  # of those that hang on the threshold
    pooled: Curve  # all species together, IoU .5
    confusion: np.ndarray  # (C + 1, C + 1) int64: truth by found; last row invented, last column missed
    mistakes: Mistakes
    reliability: Reliability
    calibrated: Reliability | None  # recalibrated by `calibration`
    calibration: Calibration | None
    review: Review

    @property
    def review_split(self) -> str | None:
        """What the review's threshold was chosen on; None: on these very pictures, so that it is flattered."""
        chosen = self.calibration is not None and self.calibration.review_threshold is not None
        return self.calibration.split if chosen else None

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.cases.class_names

    def to_json(self) -> dict[str, Any]:
        """Everything but the boxes, as plain values; NaN is null."""
        species = [
            {
                **{key: getattr(one, key) for key in ("name", "boxes", "pictures", "ap", "ap50", "ar")},
                "presence": {key: getattr(one, key) for key in ("precision", "recall", "f1")},
                "ap50_range": one.ap50_range,
                "presence_f1_range": one.f1_range,
                "best_threshold_here": one.threshold,
                "best_f1_here": one.best_f1,
                "tuned_threshold": one.tuned_threshold,
                "tuned_f1": one.tuned_f1,
                "curve": _curve(one.curve),
            }
            for one in self.species
        ]
        document = {
            "pictures": len(self.cases),
            "blanks": int(self.cases.blank.sum()),
            "class_names": self.class_names,
            "threshold": self.threshold,
            "figures": self.figures,
            "ranges": {"level": LIKELY, "draws": self.resamples, "of": self.groups.kind, "count": self.groups.count}
            | {"figures": self.ranges},
            "baselines": self.baselines,
            "at_tuned_threshold": self.tuned,
            "species": species,
            "sizes": {name: vars(size) for name, size in self.sizes.items()},
            "light": self.light,
            "light_ranges": self.light_ranges,
            "pooled_curve": _curve(self.pooled),
            "confusion": {"rows": [*self.class_names, "nothing there"], "columns": [*self.class_names, "missed"]}
            | {"counts": self.confusion},
            "mistakes": {key: getattr(self.mistakes, key) for key in ("right", "counts", "costs")},
            "reliability": vars(self.reliability),
            "reliability_calibrated": None if self.calibrated is None else vars(self.calibrated),
            "calibration": None if self.calibration is None else self.calibration.to_json(),
            "review": _thin(**vars(self.review)),
        }
        return plain(document)


def score(
    cases: Cases,
    groups: Groups,
    *,
    threshold: float,
    recall: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    calibration: Calibration | None = None,
    learnt: Sequence[Image] = (),
    night: np.ndarray | None = None,
) -> Scores:
    """All figures of ``cases``.

    Parameters: ``groups``, pictures that are no independent witnesses (bursts) and are drawn together; ``threshold``,
    the lowest score that counts as shown; ``recall``, the share of animal pictures a review may not lose;
    ``resamples`` draws give the ranges, none where it is 0; ``calibration``, what was chosen on other pictures;
    ``learnt``, the pictures that the model learnt from, for the baselines; ``night`` (P,) bool, where it is known.
    """
    matches = match(cases)
    coco, review, weighed = evaluate_coco(cases), review_curve(cases), weigh(cases, matches, threshold)
    watched = None if calibration is None else calibration.review_threshold
    watched = review.at(recall)[0] if watched is None else watched

    def measure(weights: np.ndarray) -> dict[str, np.ndarray]:
        reviewed = apply(cases, watched, weights)
        return weighed(weights) | dict(zip(("review/recall", "review/skipped"), reviewed))

    before, after = _reliabilities(cases, matches, calibration)
    figures = (
        take_single(measure(np.ones((1, len(cases)))))
        | _coco_figures(coco)
        | {"review/threshold": watched, "calibration/ece": before.ece}
    )
    if calibration is not None:
        figures |= {"calibration/temperature": calibration.temperature, "calibration/shift": calibration.shift}
        figures |= {"calibration/ece_calibrated": after.ece}
    ranges = _ranges(measure, groups, resamples, seed)
    if calibration is None or calibration.review_threshold is None:  # chosen anew in every draw it would vary more
        ranges = {name: both for name, both in ranges.items() if not name.startswith("review/")}
    draws = groups, resamples, seed
    return Scores(
        cases=cases,
        matches=matches,
        threshold=threshold,
        recall=recall,
        groups=groups,
        resamples=resamples,
        figures=figures,
        ranges={name: both for name, both in ranges.items() if name in figures},
        baselines=_baselines(cases, learnt, threshold, seed),
        tuned=_tuned(cases, matches, calibration),
        species=_species(cases, matches, coco, ranges, threshold, calibration),
        sizes=coco.sizes,
        light={} if night is None else _by_light(measure, night),
        light_ranges={} if night is None else _light_ranges(cases, matches, threshold, night, draws),
        pooled=pooled_curve(cases, matches),
        confusion=confuse(cases, threshold),
        mistakes=analyse(cases, matches, threshold),
        reliability=before,
        calibrated=after,
        calibration=calibration,
        review=review,
    )


def quick_figures(cases: Cases, threshold: float) -> Figures:
    """The figures that training logs after every epoch, with ``ap50/<species>`` for every species that is there.

    Their mAP is that of the evaluator but for rounding, in a fraction of its time.
    """
    values = weigh(cases, match(cases), threshold)(np.ones((1, len(cases))))
    by_species = zip(cases.class_names, values["species/ap50"][0].tolist())
    return take_single(values) | {f"ap50/{name}": value for name, value in by_species if not math.isnan(value)}


def closing_figures(cases: Cases, threshold: float) -> Figures:
    """The figures of the weights that are kept, mAP and AR by the evaluator itself."""
    return quick_figures(cases, threshold) | _coco_figures(evaluate_coco(cases))


# -- parts of a `Scores` -----------------------------------------------------------------------------------------------


def _coco_figures(coco: CocoFigures) -> Figures:
    """With an entry ``ap50/<species>`` for every species that is there."""
    plainly = {name: getattr(coco, name) for name in ("map", "map50", "map75", "ar1", "ar10", "ar100")}
    by_size = {f"map_{name}": size.map for name, size in coco.sizes.items()}
    by_species = {f"ap50/{one.name}": one.ap50 for one in coco.species if one.boxes}
    return {f"detection/{name}": value for name, value in (plainly | by_size).items()} | by_species


def _reliabilities(
    cases: Cases, matches: Matches, calibration: Calibration | None
) -> tuple[Reliability, Reliability | None]:
    """How far scores can be taken at their word, as they are and recalibrated."""
    scores, right = judged_scores(cases, matches)
    after = None if calibration is None else reliability(calibration.apply(scores), right)
    return reliability(scores, right), after


def _tuned(cases: Cases, matches: Matches, calibration: Calibration | None) -> Figures | None:
    if calibration is None or calibration.threshold is None:
        return None
    totals = tally(cases, matches, calibration.threshold).sums.sum(axis=0)
    return {name: float(value) for name, value in tally_figures(totals, cases.class_names).items()}


def _by_light(measure: Measure, night: np.ndarray) -> dict[str, Figures]:
    """The figures of the pictures by day and by night, and how many these are."""
    return {
        light: {"pictures": float(chosen.sum())} | take_single(measure(chosen[None].astype(np.float64)))
        for light, chosen in _lights(night).items()
    }


def _light_ranges(
    cases: Cases, matches: Matches, threshold: float, night: np.ndarray, draws: tuple[Groups, int, int]
) -> dict[str, dict[str, Range]]:
    """How far the figures at the threshold may be off, by day and by night."""
    sums = tally(cases, matches, threshold).sums

    def measure(weights: np.ndarray) -> Figures:
        return {
            f"{light} {name}": value
            for light, chosen in _lights(night).items()
            for name, value in tally_figures(weights[:, chosen] @ sums[chosen], cases.class_names).items()
        }

    ranges = _ranges(measure, *draws)
    return {
        light: {name.removeprefix(f"{light} "): both for name, both in ranges.items() if name.startswith(f"{light} ")}
        for light in _lights(night)
    }


def _lights(night: np.ndarray) -> dict[str, np.ndarray]:
    return {light: chosen for light, chosen in (("day", ~night), ("night", night)) if chosen.any()}


def _ranges(measure: Measure, groups: Groups, resamples: int, seed: int) -> dict[str, Range]:
    """The range of every figure that has one; of a figure by species, two lists with NaN where there is none."""
    drawn = resample(measure, groups, resamples, seed) if resamples else {}
    ends = {name: interval(values, groups, LIKELY) for name, values in drawn.items()}
    ranges = {name: Range(*(np.asarray(end).tolist() for end in both)) for name, both in ends.items()}
    return {name: both for name, both in ranges.items() if np.ndim(both.low) or not math.isnan(both.low)}


def _baselines(cases: Cases, learnt: Sequence[Image], threshold: float, seed: int) -> dict[str, Figures]:
    """What scores without looking. The constant detector shows all it has; the random one as much as the model."""
    nothing, constant = nothing_found(cases), constant_detector(cases, learnt)
    guesses = random_detector(cases, learnt, seed)
    return {
        "all background": weigh_all(nothing, match(nothing), threshold),
        "most frequent species": weigh_all(constant, match(constant), 0.0),
        "random boxes": weigh_all(guesses, match(guesses), threshold),
    }


def _species(
    cases: Cases,
    matches: Matches,
    coco: CocoFigures,
    ranges: Mapping[str, Range],
    threshold: float,
    calibration: Calibration | None,
) -> tuple[SpeciesScores, ...]:
    presence = species_figures(tally(cases, matches, threshold).sums.sum(axis=0), cases.class_names)
    thresholds = {} if calibration is None else calibration.species_thresholds
    unknown = [math.nan] * len(cases.class_names), [math.nan] * len(cases.class_names)
    ap50_ranges, f1_ranges = (zip(*ranges.get(name, unknown)) for name in ("species/ap50", "species/f1"))
    return tuple(
        SpeciesScores(
            name=one.name,
            boxes=one.boxes,
            pictures=int(presence["pictures"][label]),
            ap=one.ap,
            ap50=one.ap50,
            ar=one.ar,
            precision=float(presence["precision"][label]),
            recall=float(presence["recall"][label]),
            f1=float(presence["f1"][label]),
            ap50_range=Range(*ap50_range),
            f1_range=Range(*f1_range),
            curve=curve,
            threshold=curve.best[0],
            best_f1=curve.best[1],
            tuned_threshold=(tuned := thresholds.get(one.name)),
            tuned_f1=None if tuned is None else curve.f1_at(tuned),
        )
        for label, (one, curve, ap50_range, f1_range) in enumerate(
            zip(coco.species, species_curves(cases, matches), ap50_ranges, f1_ranges)
        )
    )


def _thin(**columns: np.ndarray) -> dict[str, np.ndarray]:
    """The columns of a curve at `POINTS` of its points, evenly spread: a file need not hold every detection."""
    chosen = spread_evenly(min(map(len, columns.values())), POINTS)
    return {name: column[chosen] for name, column in columns.items()}


def _curve(curve: Curve) -> dict[str, np.ndarray]:
    return _thin(score=curve.scores, precision=curve.precision, recall=curve.recall)


def plain(value: Any) -> Any:
    """The value as json has it: no NumPy, and null for what is no number."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
