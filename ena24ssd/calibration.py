"""Does a score of .8 mean right eight times in ten?

`reliability` says how often detections of each score are right. `fit` chooses on validation pictures what is kept with
a run: a temperature after which scores read as probabilities, and the thresholds that suit this network. Chosen on the
pictures that are reported, they would flatter it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, logit

from ena24ssd.cases import Cases
from ena24ssd.files import replace_file
from ena24ssd.jsonfiles import JsonError, read_json
from ena24ssd.matching import Matches
from ena24ssd.ranking import Curve, pooled_curve, species_curves
from ena24ssd.review import review_curve
from ena24ssd.runs import CALIBRATION

OVERLAP = 0.5  # IoU from which a detection is right
COLDEST, HOTTEST = 0.05, 20.0  # temperatures tried
LOWEST = 0.1  # score of the detections that are asked about; below are the most, nearly all wrong, and nobody sees them
LUCK = 3.84  # twice the log likelihood that a temperature must gain: a 1 in 20 chance, were it 1 (chi-square)
FURTHEST = 20.0  # shifts tried
FEWEST = 20  # detections from which a temperature is fitted
LARGEST_GAP = 0.05  # between mean score and share right, up to which recalibrated scores pass for probabilities


@dataclass(frozen=True)
class Reliability:
    """How often detections are right, in K bins of equal width over the scores.

    Bin k holds the scores above ``edges[k]`` up to ``edges[k + 1]``; a score of 0 is in the first. ``score`` and
    ``right`` are NaN in an empty bin; both errors are NaN without any detection.
    """

    edges: np.ndarray  # (K + 1,) from 0 to 1
    count: np.ndarray  # (K,) int64, detections
    score: np.ndarray  # (K,) mean score
    right: np.ndarray  # (K,) share that is right
    ece: float  # expected calibration error: mean of |right - score| over the bins, weighted by count
    max_error: float  # the largest |right - score| of any bin


Score = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Calibration:
    """What was chosen for one checkpoint on one split. Thresholds are scores as the network gives them."""

    temperature: Annotated[float, Field(ge=COLDEST, le=HOTTEST)]
    shift: Annotated[float, Field(ge=-FURTHEST, le=FURTHEST)]  # of the log odds; 0 where a temperature does
    note: str | None  # why no temperature was fitted, or why there is a shift; None where all is well
    threshold: Score | None  # with the best F1 of boxes, all species together; None where nothing is right
    species_thresholds: dict[str, Score | None]  # the same for each species
    review_threshold: Score | None  # the highest to still show a person ``recall`` of the pictures with animals
    recall: Annotated[float, Field(gt=0, le=1)]  # asked for
    split: str
    pictures: Count
    detections: Count  # that score `LOWEST` or more
    epoch: Annotated[int, Field(ge=-1)]  # of the checkpoint; -1 is before any step
    reading: dict[str, float | bool]  # how detections were read off the network: NMS and the like

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Scores (D,) in 0..1 of this checkpoint as probabilities to be right."""
        return recalibrate(scores, self.temperature, self.shift)

    def to_json(self) -> dict[str, Any]:
        """The fields as plain values of json."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Any, name: str = CALIBRATION) -> Calibration:
        """The inverse of `to_json`; fields that nobody knows are passed over.

        Raises ValueError, naming ``name``, for anything else.
        """
        try:
            # As text: strict about "0.5" and true, where a number is due, yet content with an object for a record.
            return TypeAdapter(cls).validate_json(json.dumps(document), strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the whole of it"
            value = "" if first["type"] == "missing" else f" (it is {str(first['input'])[:80]!r})"
            raise ValueError(
                f"{name}: {where}{value}: {first['msg']}. Delete it; 'ena24ssd evaluate' makes it anew"
            ) from error


def reliability(scores: np.ndarray, right: np.ndarray, bins: int = 10) -> Reliability:
    """How far scores are from being probabilities (Guo et al. 2017, "On calibration of modern neural networks").

    Parameters: ``scores`` (D,) in 0..1 and ``right`` (D,) bool, whether each detection is right. What the network or
    a floor dropped before is not asked about: the answer holds for the scores that are there.
    """
    scores, right = np.asarray(scores, dtype=np.float64), np.asarray(right, dtype=bool)
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, scores, side="left") - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    score, share = (
        np.divide(np.bincount(place, values, bins), count, out=np.full(bins, np.nan), where=count > 0)
        for values in (scores, right)
    )
    error = np.abs(share - score)[count > 0]
    ece = float(np.average(error, weights=count[count > 0])) if len(scores) else np.nan
    return Reliability(edges, count, score, share, ece, float(error.max(initial=0)) if len(scores) else np.nan)


def fit_temperature(scores: np.ndarray, right: np.ndarray) -> float:
    """The temperature T from .05 to 20 that makes ``sigmoid(logit(score) / T)`` the likeliest: above 1 the network
    is too sure of itself, below 1 too timid.

    Parameters: ``scores`` (D,) in 0..1, ``right`` (D,) bool. Scores of exactly 0 and 1 are left out, as no temperature
    moves them. Returns 1 where `nothing_to_fit` names a reason.
    """
    scores, right = _movable(scores, right)
    if nothing_to_fit(scores, right):
        return 1.0
    evidence = np.where(right, -1.0, 1.0) * logit(scores)  # for the wrong answer, in log odds

    def surprise(log_temperature: float) -> float:
        return float(np.mean(np.logaddexp(0, evidence * np.exp(-log_temperature))))

    # The surprise is convex in 1 / T, so it has a single valley.
    valley = minimize_scalar(
        surprise, bounds=(np.log(COLDEST), np.log(HOTTEST)), method="bounded", options={"xatol": 1e-6}
    )
    return float(np.clip(np.exp(valley.x), COLDEST, HOTTEST))


def fit_temperature_and_shift(scores: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """The T and s that make ``sigmoid(logit(score) / T + s)`` the likeliest (Platt 1999, "Probabilistic outputs for
    support vector machines"), for scores whose even odds are not at .5. Otherwise as `fit_temperature`; the shift is
    from -20 to 20, and 0 where there is nothing to fit.
    """
    scores, right = _movable(scores, right)
    if nothing_to_fit(scores, right):
        return 1.0, 0.0
    evidence, sign = logit(scores), np.where(right, -1.0, 1.0)

    def surprise(choice: np.ndarray) -> float:
        return float(np.mean(np.logaddexp(0, sign * (evidence * np.exp(-choice[0]) + choice[1]))))

    bounds = ((np.log(COLDEST), np.log(HOTTEST)), (-FURTHEST, FURTHEST))
    log_temperature, shift = minimize(surprise, (0.0, 0.0), bounds=bounds, method="L-BFGS-B").x
    return float(np.clip(np.exp(log_temperature), COLDEST, HOTTEST)), float(shift)


def nothing_to_fit(scores: np.ndarray, right: np.ndarray) -> str | None:
    """Why there is no temperature to fit; None where there is."""
    _, right = _movable(scores, right)
    if len(right) < FEWEST:
        return f"only {len(right)} detections, and {FEWEST} are the fewest to fit a temperature to"
    if right.all() or not right.any():
        return (
            f"all {len(right)} detections are {'right' if right.all() else 'wrong'}, which any temperature may explain"
        )
    return None


def recalibrate(scores: np.ndarray, temperature: float, shift: float = 0.0) -> np.ndarray:
    """Scores in 0..1 after a ``temperature`` > 0 and a ``shift`` of the log odds; their order, and 0 and 1, stay."""
    scores = np.asarray(scores, dtype=np.float64)
    return scores if (temperature, shift) == (1, 0) else expit(logit(scores) / temperature + shift)


def judged_scores(cases: Cases, matches: Matches) -> tuple[np.ndarray, np.ndarray]:
    """The scores (n,) of the detections whose word is taken, those of `LOWEST` or more, and whether each is right."""
    chosen = matches.counted & (cases.found.score >= LOWEST)
    return cases.found.score[chosen], matches.right[matches.at(OVERLAP)][chosen]


def fit(
    cases: Cases,
    matches: Matches,
    recall: float,
    split: str,
    epoch: int,
    reading: Mapping[str, float | bool] = MappingProxyType({}),
) -> Calibration:
    """Choose temperature and thresholds for the network that found ``cases``.

    Parameters: ``matches`` of the cases, IoU .5 among them; ``recall`` in 0..1, the share of pictures with animals that
    a person's review may not lose; ``split`` and ``epoch`` say on what and for which checkpoint, ``reading`` how
    detections were read off the network. Where a choice has nothing to go by (no animals, no detections) it is None;
    the temperature is 1 where it might as well be.
    """
    scores, right = judged_scores(cases, matches)
    temperature, shift, note = fit_temperature(scores, right), 0.0, nothing_to_fit(scores, right)
    if note is None and (note := _remains(recalibrate(scores, temperature), right)) is not None:
        temperature, shift = fit_temperature_and_shift(scores, right)
    elif note is None and _gain(scores, right, temperature) < LUCK:
        temperature, note = 1.0, f"{len(scores)} detections cannot tell a temperature of {temperature:.2f} from 1"
    review_threshold = review_curve(cases).at(recall)[0]
    curves = species_curves(cases, matches, OVERLAP)
    return Calibration(
        temperature=temperature,
        shift=shift,
        note=note,
        threshold=_best_score(pooled_curve(cases, matches, OVERLAP)),
        species_thresholds={name: _best_score(curve) for name, curve in zip(cases.class_names, curves)},
        review_threshold=None if np.isnan(review_threshold) else float(review_threshold),
        recall=recall,
        split=split,
        pictures=len(cases),
        detections=len(scores),
        epoch=epoch,
        reading=dict(reading),
    )


def save_calibration(folder: Path | str, calibration: Calibration) -> Path:
    """Write ``calibration`` as calibration.json into a run's folder, in the place of an earlier one."""
    path = Path(folder) / CALIBRATION
    replace_file(path, json.dumps(calibration.to_json(), indent=1, allow_nan=False) + "\n")
    return path


def load_calibration(folder: Path | str) -> Calibration | None:
    """What `save_calibration` wrote; None where a run has no calibration.json. Raises ValueError for a broken one."""
    path = Path(folder) / CALIBRATION
    if not path.exists():
        return None
    try:
        document = read_json(path)
    except JsonError as error:
        raise ValueError(f"{path}: {error}. Delete it; 'ena24ssd evaluate' makes it anew") from error
    return Calibration.from_json(document, str(path))


def _gain(scores: np.ndarray, right: np.ndarray, temperature: float) -> float:
    """Twice the log likelihood that the temperature gains over none."""
    scores, right = _movable(scores, right)
    before, after = (np.where(right, some, 1 - some) for some in (scores, recalibrate(scores, temperature)))
    return float(2 * np.sum(np.log(after) - np.log(before)))


def _movable(scores: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The detections whose score a temperature changes."""
    scores, right = np.asarray(scores, dtype=np.float64), np.asarray(right, dtype=bool)
    between = (scores > 0) & (scores < 1)
    return scores[between], right[between]


def _best_score(curve: Curve) -> float | None:
    score, f1 = curve.best
    return float(score) if f1 > 0 else None  # NaN is not above 0


def _remains(scores: np.ndarray, right: np.ndarray) -> str | None:
    """What to say of recalibrated scores that promise too much or too little all the same."""
    promised, kept = scores.mean(), right.mean()
    chance = 3 * np.sqrt(np.sum(scores * (1 - scores))) / len(scores)  # three standard errors of ``kept``
    if abs(promised - kept) <= max(LARGEST_GAP, chance):
        return None
    return (
        f"a temperature alone left scores of {promised:.2f} on average, where {kept:.2f} of the detections are right, "
        "as after training with a heavy foreground weight: the log odds are shifted as well"
    )
