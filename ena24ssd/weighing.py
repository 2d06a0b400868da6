"""What do the figures come to, if some pictures count more than others?

Weights on pictures are all that it takes to ask about the pictures by night alone, or about a thousand draws of bursts.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ena24ssd.bootstrap import Measure
from ena24ssd.cases import Cases
from ena24ssd.matching import Matches
from ena24ssd.ranking import Ranking
from ena24ssd.tally import figures, species_figures, tally


def weigh(cases: Cases, matches: Matches, threshold: float) -> Measure:
    """A function of picture weights (b, P) that gives figures: (b,) by their flat names, and for each species (b, C)
    ``species/ap50`` and ``species/f1``.

    ``matches`` must hold COCO's overlaps; detections that score ``threshold`` or more count as shown.
    """
    ranking, sums = Ranking(cases, matches), tally(cases, matches, threshold).sums
    at_50, at_75 = matches.at(0.5), matches.at(0.75)

    def measure(weights: np.ndarray) -> dict[str, np.ndarray]:
        precisions, totals = ranking.average_precisions(weights), weights @ sums  # (b, C, O), (b, F)
        return {
            "detection/map50": mean_known(precisions[..., at_50]),
            "detection/map75": mean_known(precisions[..., at_75]),
            "detection/map": mean_known(precisions.mean(axis=-1)),
            **figures(totals, cases.class_names),
            "species/ap50": precisions[..., at_50],
            "species/f1": species_figures(totals, cases.class_names)["f1"],
        }

    return measure


def weigh_all(cases: Cases, matches: Matches, threshold: float) -> dict[str, float]:
    """The figures of all pictures, each once, without those of single species."""
    return take_single(weigh(cases, matches, threshold)(np.ones((1, len(cases)))))


def take_single(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The figures of the first weights, without those of single species."""
    return {name: float(value[0]) for name, value in values.items() if value.ndim == 1}


def mean_known(values: np.ndarray) -> np.ndarray:
    """The mean along the last axis of what is no NaN; NaN where nothing is."""
    known = ~np.isnan(values)
    total, count = np.where(known, values, 0.0).sum(axis=-1), known.sum(axis=-1)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
