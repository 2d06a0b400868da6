"""How does a person who knows animals, and no metrics, see how good a model is?

One HTML page from `Scores`: what each figure means for whoever has pictures to sort, how far it could have come out
otherwise, what scores without looking, and the pictures on which the model does worst and best
(`ena24ssd.pages` says what such a page is).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image as Pillow

from ena24ssd.boxes import Box, LabelledBox
from ena24ssd.cameratraps import Image
from ena24ssd.charts import DARK, LIGHT
from ena24ssd.detections import Detection
from ena24ssd.draw import PAPER, draw_detections, draw_truth, read_thumbnail
from ena24ssd.evaluationplots import MISTAKES, PLOTS, draw_plots
from ena24ssd.files import replace_file
from ena24ssd.mistakes import KINDS
from ena24ssd.pages import is_known, render_page, write_plots
from ena24ssd.protocol import PUBLISHED, TITLES, ProtocolRow
from ena24ssd.tables import ENOUGH_GROUPS

if TYPE_CHECKING:
    from ena24ssd.scores import Scores, SpeciesScores

FEW = 20  # boxes, below which a figure of a species says little
FEW_GROUPS = 30  # below which a range is itself a guess
MOST_NAMED = 4  # species named in a caption
GAP = 6  # pixels between truth and detections

MAIN = {  # what the table at the top shows, by whether it hangs on the threshold
    "at any score": {
        "detection/map50": "mAP at IoU .5",
        "detection/map75": "mAP at IoU .75",
        "detection/map": "mAP, mean of IoU .5 to .95",
    },
    "at the threshold": {
        "detection/precision": "boxes: precision",
        "detection/recall": "boxes: recall",
        "detection/f1": "boxes: F1",
        "presence/precision": "species on pictures: precision",
        "presence/recall": "species on pictures: recall",
        "presence/f1": "species on pictures: F1",
        "presence/macro_f1": "species on pictures: F1, mean over species",
        "presence/exact": "pictures with exactly the right species",
        "blank/sensitivity": "animal pictures with a detection",
        "blank/specificity": "blank pictures without a detection",
        "blank/false_boxes_per_100": "false boxes on 100 blank pictures",
    },
}


class Heading(NamedTuple):
    """What was measured on what: the words at the head of the page."""

    model: str  # a run's or a model file's name
    data: str
    split: str | None = None
    epoch: int | None = None
    unreadable: int = 0  # pictures that were left out
    knows_training: bool = True  # whether it is known what the model learnt from
    is_best: bool = False  # whether its checkpoint was chosen on validation


class Pair(NamedTuple):
    """A picture twice, side by side: with the annotators' boxes, and with the detections."""

    caption: str
    picture: Pillow.Image


def write_page(
    out: Path,
    scores: Scores,
    heading: Heading,
    *,
    worst: Sequence[Pair] = (),
    best: Sequence[Pair] = (),
    anchors: Mapping[str, float] | None = None,
    protocol: Sequence[ProtocolRow] = (),
) -> Path:
    """Write ``out/report.html`` and ``out/plots/*.png``; returns the path of the page.

    Parameters: ``worst`` and ``best``, pictures to show (`choose_pictures`, `draw_pairs`). ``anchors``, the
    ``anchor/...`` figures of the same pictures, and ``protocol``, what the post's way to measure makes of the model,
    where a network was measured.
    """
    light, dark = draw_plots(scores, LIGHT), draw_plots(scores, DARK)
    write_plots(out / "plots", light, PLOTS)
    path = out / "report.html"
    replace_file(path, render(scores, heading, light, dark, worst, best, anchors, protocol))
    return path


def render(
    scores: Scores,
    heading: Heading,
    light: Mapping[str, bytes],
    dark: Mapping[str, bytes],
    worst: Sequence[Pair] = (),
    best: Sequence[Pair] = (),
    anchors: Mapping[str, float] | None = None,
    protocol: Sequence[ProtocolRow] = (),
) -> str:
    """The page; ``light`` and ``dark`` hold the plots as PNG files by name. The rest is as for `write_page`."""
    shown = [one for one in scores.species if one.boxes]
    elsewhere = scores.calibration is not None and scores.calibration.split != heading.split
    return render_page(
        "evaluation.html",
        light,
        dark,
        scores=scores,
        heading=heading,
        figures=_or_nan(scores.figures),
        tuned=scores.tuned and _or_nan(scores.tuned),
        baselines={name: _or_nan(figures) for name, figures in scores.baselines.items()},
        by_light={name: _or_nan(figures) for name, figures in scores.light.items()},
        main=_known_rows(scores.figures, scores.tuned or {}),
        meanings=MISTAKES,
        pictures=len(scores.cases),
        blanks=int(scores.cases.blank.sum()),
        boxes=len(scores.cases.truth.label),
        shown=sorted(shown, key=lambda one: -one.boxes),
        absent=[one.name for one in scores.species if not one.boxes],
        extremes=_extremes(shown),
        mix_up=_mix_up(scores),
        missed=int(scores.confusion[:, -1].sum()),
        invented=int(scores.confusion[-1].sum()),
        surest=_surest(scores),
        costliest=_costliest(scores),
        worst=worst,
        best=best,
        anchors=anchors and _or_nan(anchors),
        protocol=protocol,
        protocol_titles=TITLES,
        published=PUBLISHED,
        elsewhere=elsewhere,
        chosen_on=scores.calibration.split if elsewhere else "these very pictures, which flatters it",
        few=FEW,
        few_groups=FEW_GROUPS,
        enough_groups=ENOUGH_GROUPS,
    )


def choose_pictures(scores: Scores, worst: int = 6, best: int = 3) -> tuple[list[int], list[int]]:
    """Places of the pictures that the model does worst and best on, the most telling first.

    A picture's mistakes, at the threshold: 1 for each box that was not found, the score for each wrong detection. The
    best have none, and animals; their boxes fit best and score highest. As long as there are others, the worst are of
    different groups (bursts), the best of different species.
    """
    cases, matches = scores.cases, scores.matches
    level, count = matches.at(0.5), len(cases)
    shown = matches.counted & (cases.found.score >= scores.threshold)
    wrong = shown & ~matches.right[level]
    finder = matches.found_by[level]
    missed = ~np.append(shown, False)[finder]  # a finder of -1 is nobody
    cost = np.bincount(cases.found.picture[wrong], cases.found.score[wrong], minlength=count)
    cost += np.bincount(cases.truth.picture[missed], minlength=count)
    boxes = np.bincount(cases.truth.picture, minlength=count)
    found = shown & matches.right[level]
    fit = np.bincount(cases.found.picture[found], (cases.found.score * matches.iou)[found], minlength=count)
    fit = fit / np.maximum(boxes, 1)
    species = np.full(count, -1)
    species[cases.truth.picture[::-1]] = cases.truth.label[::-1]  # of a picture's first box
    order = np.argsort(-cost, kind="stable")
    bad = _vary(order[cost[order] > 0].tolist(), scores.groups.of, worst)
    order = np.argsort(-fit, kind="stable")
    return bad, _vary(order[(cost[order] == 0) & (boxes[order] > 0)].tolist(), species, best)


def draw_pairs(
    scores: Scores,
    images: Sequence[Image],
    chosen: Sequence[int],
    find_file: Callable[[Image], Path],
    width: int = 640,
) -> list[Pair]:
    """The ``chosen`` pictures (places in the cases) with truth on the left, and on the right what was found.

    Parameters: ``images``, those of the cases, in their order; ``find_file`` says where each lies; ``width``, pixels of
    each half. A picture that cannot be read any more is drawn as its boxes alone.
    """
    return [
        Pair(_caption(scores, images[place], place), _draw_pair(scores, images[place], place, find_file, width))
        for place in chosen
    ]


# -- pictures ---------------------------------------------------------------------------------------------------------


def _vary(ranked: Sequence[int], kind: np.ndarray, count: int) -> list[int]:
    """The first ``count`` of ``ranked``, but one of each kind before there is a second of any."""
    first: dict[int, int] = {}
    for place in ranked:
        first.setdefault(int(kind[place]), place)
    early = set(first.values())
    return sorted(ranked, key=lambda place: place not in early)[:count]


def _draw_pair(
    scores: Scores, image: Image, place: int, find_file: Callable[[Image], Path], width: int
) -> Pillow.Image:
    picture = read_thumbnail(find_file(image), (image.width, image.height), (width, width * 7 // 8))
    x, y = picture.width / image.width, picture.height / image.height
    names, found = scores.class_names, scores.cases.found
    truth = [LabelledBox(label, box.scale(x, y)) for label, box in image.boxes]
    seen = [
        Detection(label, names[label], score, Box(*box).scale(x, y))
        for label, score, box in zip(*(column[_shown_on(scores, place)].tolist() for column in found[1:]))
    ]
    pair = Pillow.new("RGB", (2 * picture.width + GAP, picture.height), PAPER)
    pair.paste(draw_truth(picture, truth, names), (0, 0))
    pair.paste(draw_detections(picture, seen), (picture.width + GAP, 0))
    return pair


def _caption(scores: Scores, image: Image, place: int) -> str:
    """The file and, in words, what is right and wrong."""
    shown = _shown_on(scores, place)
    kinds = scores.mistakes.kind_of[shown]
    boxes, right = len(image.boxes), int(np.sum(kinds == 0))
    if boxes:
        words = f"{right} of {boxes} found" if boxes > 1 else "found" if right else "not found"
        there = list(dict.fromkeys(scores.class_names[label] for label, _ in image.boxes))
        names = ", ".join(there[:MOST_NAMED]) + (", ..." if len(there) > MOST_NAMED else "")
        words = f"{names}: {words}"
    else:
        words = "blank"
    wrong = [
        f"{scores.class_names[label]} {score:.2f} ({MISTAKES[KINDS[kind - 1]][0]})"
        for label, score, kind in zip(scores.cases.found.label[shown], scores.cases.found.score[shown], kinds)
        if kind > 0
    ]
    if wrong:
        words += "; wrong: " + ", ".join(wrong[:MOST_NAMED])
        words += f" and {len(wrong) - MOST_NAMED} more" if len(wrong) > MOST_NAMED else ""
    return f"{image.file_name}. {words}"


def _shown_on(scores: Scores, place: int) -> np.ndarray:
    """Which detections are shown on a picture, (n,) positions."""
    found = scores.cases.found
    first, end = np.searchsorted(found.picture, [place, place + 1])
    return first + np.flatnonzero((found.score[first:end] >= scores.threshold) & scores.matches.counted[first:end])


# -- what the sentences say -------------------------------------------------------------------------------------------


def _or_nan(figures: Mapping[str, float]) -> defaultdict[str, float]:
    return defaultdict(lambda: math.nan, figures)


def _known_rows(*figures: Mapping[str, float]) -> dict[str, dict[str, str]]:
    """The rows of `MAIN` that any of the figures has a number for."""
    known = {name for some in figures for name, value in some.items() if is_known(value)}
    parts = {part: {name: title for name, title in rows.items() if name in known} for part, rows in MAIN.items()}
    return {part: rows for part, rows in parts.items() if rows}


def _extremes(shown: Sequence[SpeciesScores]) -> tuple[SpeciesScores, SpeciesScores] | None:
    """The species that is found best and the one found worst, of those with boxes enough to say so.

    None where all are found alike.
    """
    enough = [one for one in shown if one.boxes >= FEW]
    ranked = sorted(enough if len(enough) > 1 else shown, key=lambda one: -one.ap50)
    return (ranked[0], ranked[-1]) if ranked and ranked[0].ap50 > ranked[-1].ap50 else None


class _MixUp(NamedTuple):
    count: int
    truly: str
    found: str
    of: int  # boxes of the true species


def _mix_up(scores: Scores) -> _MixUp | None:
    """The species most often taken for another one."""
    among = scores.confusion[:-1, :-1].copy()
    np.fill_diagonal(among, 0)
    if not among.any():
        return None
    truly, found = np.unravel_index(np.argmax(among), among.shape)
    names = scores.class_names
    return _MixUp(int(among[truly, found]), names[truly], names[found], int(scores.confusion[truly].sum()))


class _Bin(NamedTuple):
    low: float
    high: float
    count: int
    score: float
    right: float


def _surest(scores: Scores) -> _Bin | None:
    """The highest scores that there are enough detections of."""
    some = scores.reliability
    filled = np.flatnonzero(some.count >= FEW)
    if not len(filled):
        return None
    last = filled[-1]
    values = (some.edges[last], some.edges[last + 1], some.count[last], some.score[last], some.right[last])
    return _Bin(*(value.item() for value in values))


def _costliest(scores: Scores) -> tuple[str, float] | None:
    """The kind of mistake that mending would bring most for, and how much."""
    known = {kind: cost for kind, cost in scores.mistakes.costs.items() if cost > 0}
    return max(known.items(), key=lambda one: one[1], default=None)
