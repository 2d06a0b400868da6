"""Is one model better than another, or was it luck?

The models look at the same pictures, so luck strikes them together: a draw of hard pictures is hard for both. The
paired bootstrap draws the same groups of pictures for all models and asks how often the difference between two of them
turns round (`ena24ssd.bootstrap`). The best one stands against each other one. As the best was read off these very
pictures, every pair counts as tested when p is adjusted, not only the pairs that are shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from prettytable import PrettyTable

from ena24ssd.bootstrap import Groups, Measure, interval, p_value, resample
from ena24ssd.cases import Cases
from ena24ssd.matching import match
from ena24ssd.tables import printable
from ena24ssd.weighing import weigh

CHOSEN_BY = "detection/map50"  # the best model has the most of it
TITLES = {
    CHOSEN_BY: "mAP50",
    "detection/map": "mAP50-95",
    "presence/f1": "presence F1",
    "blank/specificity": "blank specificity",
    "blank/sensitivity": "blank sensitivity",
    "detection/f1": "box F1",
}
"""The figures that models are compared by; of each, more is better."""

SIGNIFICANT = 0.05
DRAWS_A_PAIR = 200  # p is no less than about 2 / draws, and has to stay small when multiplied by the number of pairs
MOST_DRAWS = 5_000  # of each model; from 16 models on, p can no longer get that small


@dataclass(frozen=True)
class Contender:
    """A model, by what it found; detections that score ``threshold`` or more count as shown."""

    name: str
    cases: Cases
    threshold: float = 0.5


@dataclass(frozen=True)
class Verdict:
    """How one figure, in 0..1, differs between two models."""

    figure: str  # one of `TITLES`
    first: str  # the one model
    second: str  # and the other, the best of all
    first_value: float
    second_value: float
    difference: float  # second - first
    interval: tuple[float, float]  # of the difference, 95 %; NaN, NaN where draws cannot tell: `bootstrap.interval`
    p: float  # in (0, 1], see `bootstrap.p_value`
    p_adjusted: float  # of this figure, for all pairs of contenders (Holm)

    @property
    def certain(self) -> bool:
        """Whether the difference is more than luck explains."""
        return self.p_adjusted < SIGNIFICANT


def find_verdicts(
    contenders: Sequence[Contender], groups: Groups, resamples: int = 1000, seed: int = 0
) -> tuple[Verdict, ...]:
    """Put the best contender, by mAP50, against each other one: a verdict for every figure, pair by pair.

    Parameters: ``groups`` of the pictures, which all contenders have looked at; ``resamples``, how often to draw from
    them, or `DRAWS_A_PAIR` times the pairs of contenders if that is more (`MOST_DRAWS` at most). Figures are left out
    that these pictures do not define, or that too few of the groups do. Where mAP50 itself is undefined, or equal, the
    contender named first counts as the best.

    Raises ValueError for fewer than two contenders, two of one name, or any difference in pictures, species or truth.
    """
    _check(contenders, groups)
    pairs = list(combinations(range(len(contenders)), 2))
    resamples = max(resamples, min(DRAWS_A_PAIR * len(pairs), MOST_DRAWS))
    everything = np.ones((1, len(groups.of)))
    values: list[dict[str, float]] = []  # of each contender, as its pictures are
    draws: list[dict[str, np.ndarray]] = []  # in every draw, (B,)
    for contender in contenders:
        measure = _measure(contender)
        values.append({name: float(value[0]) for name, value in measure(everything).items()})
        draws.append(resample(measure, groups, resamples, seed))
    best = int(np.argmax([np.nan_to_num(of[CHOSEN_BY], nan=-1.0) for of in values]))
    verdicts: list[list[Verdict]] = [[] for _ in contenders]  # of each against the best
    for figure in TITLES:
        p = np.array([p_value(draws[one][figure] - draws[other][figure], groups) for one, other in pairs])
        for pair, alone, together in zip(pairs, p.tolist(), holm(p).tolist()):
            rival = sum(pair) - best
            if best not in pair or np.isnan(alone):
                continue
            low, high = interval(draws[best][figure] - draws[rival][figure], groups)
            first, second = values[rival][figure], values[best][figure]
            names, ends = (contenders[rival].name, contenders[best].name), (float(low), float(high))
            verdicts[rival].append(Verdict(figure, *names, first, second, second - first, ends, alone, together))
    return tuple(verdict for some in verdicts for verdict in some)


def holm(p: np.ndarray) -> np.ndarray:
    """Adjust the p values (K,) of K tests, so that several give no more false alarms than one would (Holm 1979).

    NaN counts as a test that was not made.
    """
    p = np.asarray(p, dtype=np.float64)
    adjusted = np.full_like(p, np.nan)
    order = np.argsort(p, kind="stable")[: np.isfinite(p).sum()]  # NaN last
    tests = np.arange(len(order), 0, -1)  # still undecided
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * tests), 1.0)
    return adjusted


def verdict_table(verdicts: Sequence[Verdict]) -> PrettyTable:
    """Every verdict in a row."""
    table = PrettyTable(align="r")
    table.field_names = ["best", "against", "figure", "best has", "other has", "by", "95 % interval", "p", "p (Holm)"]
    for column in table.field_names[:3]:
        table.align[column] = "l"
    for one in verdicts:
        values = [f"{one.second_value:.4f}", f"{one.first_value:.4f}", f"{one.difference:+.4f}"]
        ends = "" if np.isnan(one.interval[0]) else "{:+.4f} to {:+.4f}".format(*one.interval)
        names = [printable(one.second), printable(one.first), TITLES[one.figure]]
        table.add_row([*names, *values, ends, _probability(one.p), _probability(one.p_adjusted)])
    return table


def conclude(verdicts: Sequence[Verdict]) -> tuple[str, ...]:
    """One sentence for each pair: whether the best model is better by mAP50, which is the question asked.

    Of the other figures those that differ are named as hints: who asks six questions finds an answer to one by luck.
    """
    pairs: dict[tuple[str, str], list[Verdict]] = {}
    for one in verdicts:
        pairs.setdefault((one.first, one.second), []).append(one)
    return tuple(_sentence(some) for some in pairs.values())


def _sentence(verdicts: Sequence[Verdict]) -> str:
    first, second = printable(verdicts[0].first), printable(verdicts[0].second)
    asked = [one for one in verdicts if one.figure == CHOSEN_BY]
    others = [one for one in verdicts if one.figure != CHOSEN_BY and one.certain]
    if not asked:
        words = f"{second} and {first} cannot be told apart: these pictures do not define their mAP50"
    elif asked[0].certain:
        words = f"{second} is better than {first}: {_by(asked[0])}"
    else:
        words = f"{second} and {first} cannot be told apart: {_by(asked[0], 'differs by')}"
    hints = [
        f"that {second} is {kind} on {_listed([_by(one) for one in some], 'and')}"
        for kind, some in (
            ("better", [one for one in others if one.difference > 0]),
            ("worse", [one for one in others if one.difference <= 0]),
        )
        if some
    ]
    return f"{words}. Hints, no more: {', and '.join(hints)}." if hints else f"{words}."


def _by(one: Verdict, verb: str = "by") -> str:
    """By how much, with what certainty: ``mAP50 by .031 (95 % interval .010 to .052, p = .004)``."""
    turned = -1 if one.certain and one.difference < 0 else 1  # "worse by .03", not by -.03
    ends = sorted(turned * end for end in one.interval)
    between = "" if np.isnan(ends[0]) else f"95 % interval {_short(ends[0])} to {_short(ends[1])}, "
    p = _probability(one.p_adjusted)
    return (
        f"{TITLES[one.figure]} {verb} {_short(turned * one.difference)} ({between}p {p if p[0] == '<' else f'= {p}'})"
    )


def _short(value: float) -> str:
    """Three digits without the 0 in front, and no -.000."""
    return f"{round(value, 3) + 0.0:.3f}".replace("0.", ".", 1)


def _probability(p: float) -> str:
    return "< .001" if p < 0.0005 else f"{p:.3f}".replace("0.", ".", 1)


def _listed(words: Sequence[str], last: str) -> str:
    return f" {last} ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _measure(contender: Contender) -> Measure:
    """The figures of `TITLES` that a contender reaches under weights on its pictures."""
    weighed = weigh(contender.cases, match(contender.cases), contender.threshold)

    def measure(weights: np.ndarray) -> Mapping[str, np.ndarray]:
        known = weighed(weights)
        return {figure: known[figure] for figure in TITLES}

    return measure


def _check(contenders: Sequence[Contender], groups: Groups) -> None:
    if len(contenders) < 2:
        raise ValueError(f"compare: there are {len(contenders)} models; it takes two or more to compare: name another")
    (name, times), *_ = Counter(one.name for one in contenders).most_common(1)
    if times > 1:
        raise ValueError(f"compare: {name!r} is named {times} times; every model is named once: drop it or rename it")
    first, *others = contenders
    for other in others:
        mine, theirs = first.cases, other.cases
        pair = f"compare: {first.name!r} and {other.name!r}"
        if mine.class_names != theirs.class_names:
            raise ValueError(
                f"{pair} know different species ({_apart(mine.class_names, theirs.class_names)}); "
                "only models of the same species can be compared: train both on the same data"
            )
        if mine.ids != theirs.ids:
            raise ValueError(
                f"{pair} looked at different pictures ({_apart(mine.ids, theirs.ids)}); "
                "only figures of the same pictures can be compared: evaluate both on the same split"
            )
        if not all(np.array_equal(*columns) for columns in zip(mine.truth, theirs.truth)):
            raise ValueError(
                f"{pair} are judged by different boxes on the same pictures; "
                "only figures against the same truth can be compared: evaluate both with the same annotation file"
            )
    if len(groups.of) != len(first.cases):
        raise ValueError(
            f"compare: there are groups for {len(groups.of)} pictures, and {len(first.cases)} pictures; "
            "every picture is in one group: make the groups of these very pictures"
        )


def _apart(first: Sequence[str], second: Sequence[str]) -> str:
    """What one has and the other lacks; where nothing, it is the order."""
    for some, others, side in ((first, second, "first"), (second, first, "second")):
        lone = sorted(set(some) - set(others))
        if lone:
            more = f" and {len(lone) - 1} more" if len(lone) > 1 else ""
            return f"only the {side} has {lone[0]!r}{more}"
    return "they are the same, but in another order"
