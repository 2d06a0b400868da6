"""What do the figures of an evaluation look like?

Each plot is a function of `Scores` and a `Theme` that returns a figure; `PLOTS` names them all. They look like those of
`ena24ssd.plots`; the name of a species, which anybody may have written, is never read as a formula.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from ena24ssd.charts import LIGHT, MOST_ROWS, ROW, WIDTH, Theme, panels, percent, shorten, to_png
from ena24ssd.draw import text_colour
from ena24ssd.pages import two_digits
from ena24ssd.sampling import spread_evenly

if TYPE_CHECKING:
    from ena24ssd.ranking import Curve
    from ena24ssd.scores import Scores, SpeciesScores

MOST_PANELS = 30  # curves that get a panel of their own, that of all species among them
MOST_CELLS = 30  # species in the confusion matrix
POINTS = 1_000  # of a curve; more cannot be seen
SHORT = 20  # letters of a name above a panel
DASHES = (0, (4, 3))
MISTAKES = {  # kind: its name on the page, and what it is
    "species": ("wrong species", "a box at an animal (IoU .5 or more), under another name"),
    "box": ("poor box", "the right species, but the box fits badly (IoU .1 to .5)"),
    "species and box": ("wrong species, poor box", "near an animal (IoU .1 to .5), under another name"),
    "duplicate": ("duplicate", "one more box on an animal that was found already"),
    "background": ("nothing there", "a box where there is no animal"),
    "missed": ("missed", "an animal that no detection is about, not even a poor or misnamed one"),
}


def precision_recall(scores: Scores, theme: Theme) -> Figure:
    """Precision against recall of every species' boxes at IoU .5, the most frequent species first."""
    shown = _frequent(scores)[: MOST_PANELS - 1]
    total = len(shown) + (len(scores.class_names) > 1)
    columns = min(4 if total <= 12 else 5, total)
    rows = -(-total // columns)
    figure, grid = panels(theme, 1.75 * rows + 0.5 if total > 1 else 3.4, rows, columns, sharex=True, sharey=True)
    for axes in grid[total:]:
        axes.remove()
    titled: list[tuple[str, str, Curve]] = []
    if len(scores.class_names) > 1:
        titled.append(("all species", f"best F1 {two_digits(scores.pooled.best[1])}", scores.pooled))
    titled += [(one.name, f"AP {two_digits(one.ap50)} · {one.boxes:,} boxes", one.curve) for one in shown]
    for place, (axes, (name, words, curve)) in enumerate(zip(grid, titled)):
        colour = theme.second if place == 0 and total > 1 else theme.first
        recall, precision = _thin(curve.recall, curve.precision)
        start = [0.0] * min(len(recall), 1)  # of the axis; nothing found is no line at all
        axes.plot([*start, *recall], [*precision[:1], *precision], color=colour, linewidth=1.6, clip_on=False)
        at = np.sum(curve.scores >= scores.threshold) - 1
        if at >= 0:
            axes.plot(curve.recall[at], curve.precision[at], "o", color=theme.ink, markersize=4.5, clip_on=False)
        title = axes.set_title(shorten(name, SHORT), loc="left", fontsize=9, color=theme.ink, pad=14)
        title.set_parse_math(False)
        axes.annotate(
            words, (0, 1), (0, 4), xycoords="axes fraction", textcoords="offset points", fontsize=7.5, color=theme.ink
        )
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(0, 1.02)
        axes.set_xticks([0, 0.5, 1], ["0", ".5", "1"])
        for tick, side in zip(axes.get_xticklabels(), ("left", "center", "right")):  # else two of neighbours meet
            tick.set_horizontalalignment(side)
        axes.set_yticks([0, 0.5, 1], ["0", ".5", "1"])
        axes.grid(True, axis="x", color=theme.faint, linewidth=0.6)
        axes.tick_params(labelsize=8, labelbottom=place + columns >= total)
    figure.supxlabel("recall: share of the boxes that were found", fontsize=10, color=theme.ink)
    figure.supylabel("precision: share of the detections that are right", fontsize=10, color=theme.ink)
    return figure


def f1_by_threshold(scores: Scores, theme: Theme) -> Figure:
    """Precision, recall and F1 of all species together, by the score asked for."""
    figure, [axes] = panels(theme, 3.6)
    for one in scores.species:
        if one.boxes and len(scores.class_names) > 1:
            axes.step(*_by_threshold(one.curve, one.curve.f1), where="pre", color=theme.faint, linewidth=1, zorder=1)
    curve = scores.pooled
    for values, label, look in (
        (curve.precision, "precision", {"color": theme.second, "linestyle": "dashed", "linewidth": 1.4}),
        (curve.recall, "recall", {"color": theme.first, "linestyle": "dashdot", "linewidth": 1.4}),
        (curve.f1, "F1", {"color": theme.ink, "linewidth": 2.2}),
    ):
        axes.step(*_by_threshold(curve, values), where="pre", label=label, **look)
    if len(scores.class_names) > 1:
        axes.plot([], [], color=theme.faint, label="F1 of one species")
    best, f1 = curve.best
    axes.plot(best, f1, "D", color=theme.paper, markeredgecolor=theme.ink, markersize=7, label="best F1", zorder=5)
    axes.axvline(scores.threshold, color=theme.ink, linewidth=1, linestyle=DASHES, label="threshold in use")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.03)
    axes.set_xlabel("score that a detection needs in order to count")
    _legend(figure, theme, 6)
    return figure


def confusion(scores: Scores, theme: Theme) -> Figure:
    """What was there, by rows, and what was found, by columns; colours are shares of the row."""
    counts, names = _fold(scores.confusion, scores.class_names)
    size = len(counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(0.56, (WIDTH - 2.1) / size)  # inches of a cell
    figure, [axes] = panels(theme, side * size + 1.9)
    colours = LinearSegmentedColormap.from_list("share", [theme.paper, theme.first])
    edges = np.arange(size + 1) - 0.5
    axes.pcolormesh(edges, edges, shares, cmap=colours, vmin=0, vmax=1, edgecolors=theme.faint, linewidth=0.4)
    axes.set_aspect("equal")
    axes.grid(False)
    axes.set_xlim(-0.5, size - 0.5)
    axes.set_ylim(size - 0.5, -0.5)
    letters = min(9.0, max(5.5, 24 * side))  # points
    for row, column in np.argwhere(counts):
        cell = tuple(int(255 * part) for part in colours(shares[row, column])[:3])
        axes.text(
            *(column, row, _short_count(int(counts[row, column]))),
            ha="center",
            va="center",
            fontsize=letters,
            color=tuple(part / 255 for part in text_colour(cell)),
        )
    for line in (axes.axhline, axes.axvline):
        line(size - 1.5, color=theme.ink, linewidth=1.2)
    axes.spines[:].set_visible(False)
    rows = [*names, "nothing there"]
    columns = [*names, "missed"]
    axes.set_yticks(range(size), [shorten(name) for name in rows])
    axes.set_xticks(range(size), [shorten(name) for name in columns], rotation=90)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_parse_math(False)
        label.set_fontsize(8 if size > 12 else 9)
    axes.set_xlabel("found as")
    axes.set_ylabel("truly")
    return figure


def species_scores(scores: Scores, theme: Theme) -> Figure:
    """Average precision and presence F1 of every species with their ranges, the best first."""
    rows = sorted(_frequent(scores)[:MOST_ROWS], key=lambda one: -one.ap50)
    figure, [axes] = panels(theme, max(1.6, 1.35 * ROW * len(rows) + 1.2))
    places = np.arange(len(rows))
    for values, ranges, shift, colour, marker, label in (
        ("ap50", "ap50_range", -0.16, theme.first, "o", "boxes found: AP at IoU .5"),
        ("f1", "f1_range", 0.16, theme.second, "D", "presence on pictures: F1"),
    ):
        value = np.array([getattr(one, values) for one in rows])
        low, high = np.array([getattr(one, ranges) for one in rows]).T
        axes.hlines(places + shift, low, high, color=colour, linewidth=2, alpha=0.6)
        axes.plot(value, places + shift, marker, color=colour, markersize=5.5, label=label, clip_on=False)
    if len(rows) > 1:
        overall = scores.figures["detection/map50"]
        axes.axvline(overall, color=theme.ink, linewidth=1, linestyle=DASHES, label=f"mAP50 {two_digits(overall)}")
    axes.set_yticks(places, [f"{shorten(one.name)} ({one.boxes:,})" for one in rows])
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(False, axis="y")
    axes.grid(True, axis="x", color=theme.faint, linewidth=0.6)
    _legend(figure, theme, 3)
    return figure


def mistakes(scores: Scores, theme: Theme) -> Figure:
    """How many mistakes of each kind there are, and how much mAP50 mending that kind alone would bring."""
    kinds = list(scores.mistakes.counts)
    counts = np.array([scores.mistakes.counts[kind] for kind in kinds])
    costs = np.array([scores.mistakes.costs[kind] for kind in kinds])
    lengths = np.nan_to_num(costs).clip(0)
    figure, (left, right) = panels(theme, ROW * len(kinds) + 1.2, 1, 2, sharey=True)
    for axes, values, words, colour, label in (
        (left, counts, [f"{count:,}" for count in counts.tolist()], theme.second, "how many, at the threshold"),
        (right, lengths, [two_digits(cost) for cost in costs], theme.first, "mAP50 that mending them brings"),
    ):
        bars = axes.barh(range(len(kinds)), values, height=0.6, color=colour)
        axes.bar_label(bars, words, color=theme.ink, fontsize=8, padding=3)
        axes.set_xlim(0, max(float(values.max()) * 1.18, 0.01))
        axes.set_xlabel(label)
        axes.grid(False, axis="y")
        axes.grid(True, axis="x", color=theme.faint, linewidth=0.6)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=axes is left))
    left.set_yticks(range(len(kinds)), [MISTAKES[kind][0] for kind in kinds])
    left.set_ylim(len(kinds) - 0.4, -0.6)
    return figure


def reliability(scores: Scores, theme: Theme) -> Figure:
    """How often detections of a score are right, and how many there are of that score."""
    before, after = scores.reliability, scores.calibrated
    figure, (top, bottom) = panels(theme, 4.6, 2, 1, sharex=True, height_ratios=[3, 1])
    top.plot([0, 1], [0, 1], color=theme.ink, linewidth=1, linestyle=DASHES, label="as good as its word")
    drawn = [(before, theme.second, "o", "as trained"), (after, theme.first, "D", "recalibrated")]
    for which, (some, colour, marker, label) in enumerate(drawn):
        if some is None:
            continue
        filled = some.count > 0
        ece = f"{label} (error {some.ece:.3f})"
        top.plot(
            some.score[filled], some.right[filled], f"{marker}-", color=colour, markersize=5, label=ece, clip_on=False
        )
        middle, width = (some.edges[1:] + some.edges[:-1]) / 2, np.diff(some.edges)
        shift, narrow = (0.0, 0.8) if after is None else (0.2 - 0.4 * (which == 0), 0.38)
        bottom.bar(middle + shift * width, some.count, narrow * width, color=colour)
    top.set_ylim(0, 1.02)
    top.set_ylabel("share that is right")
    top.grid(True, axis="x", color=theme.faint, linewidth=0.6)
    bottom.set_xlim(-0.01, 1.01)
    bottom.set_yscale("log")
    bottom.set_ylim(bottom=0.7)
    bottom.yaxis.set_minor_locator(NullLocator())
    bottom.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    bottom.set_ylabel("detections")
    bottom.set_xlabel("score")
    _legend(figure, theme, 3)
    return figure


def review(scores: Scores, theme: Theme) -> Figure:
    """How many pictures need nobody to look at them, by how many animal pictures must not be lost."""
    figure, [axes] = panels(theme, 3.2)
    curve = scores.review
    skipped, recall = _thin(curve.skipped, curve.recall)
    axes.step(skipped, recall, where="post", color=theme.first, linewidth=2)
    saved, kept = scores.figures["review/skipped"], scores.figures["review/recall"]
    words = f"{percent(saved)} skipped, {percent(kept)} of the animal pictures kept"
    blank = float(scores.cases.blank.mean())
    axes.axvline(blank, color=theme.ink, linewidth=1, linestyle=DASHES, label=f"blank pictures: {percent(blank)}")
    axes.plot([0, 1], [1, 0], color=theme.faint, linewidth=1.4, label="skipping at random", zorder=1)
    axes.plot(
        *(saved, kept, "o"),
        color=theme.second,
        markersize=9,
        markeredgecolor=theme.paper,
        label=words,
        zorder=5,
        clip_on=False,
    )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.03)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(percent))
    axes.set_xlabel("pictures that nobody looks at")
    axes.set_ylabel("animal pictures kept")
    axes.tick_params(axis="x", pad=6)
    _legend(figure, theme, 3)
    return figure


def sizes(scores: Scores, theme: Theme) -> Figure:
    """How well small, medium and large animals are found."""
    rows = list(scores.sizes.items())
    figure, [axes] = panels(theme, 2.6)
    places = np.arange(len(rows))
    for field, shift, colour, label in (
        ("map50", -0.2, theme.first, "mAP50"),
        ("ar", 0.2, theme.second, "average recall"),
    ):
        values = np.array([getattr(size, field) for _, size in rows])
        bars = axes.bar(places + shift, np.nan_to_num(values), width=0.38, color=colour, label=label)
        axes.bar_label(bars, [two_digits(value) for value in values], color=theme.ink, fontsize=8, padding=2)
    axes.set_xticks(places, [f"{name} ({size.boxes:,} boxes)" for name, size in rows])
    axes.set_ylim(0, 1.08)
    axes.yaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
    _legend(figure, theme)
    return figure


PLOTS: dict[str, tuple[Callable[[Scores, Theme], Figure], Callable[[Scores], bool]]] = {
    "species": (species_scores, lambda scores: bool(_frequent(scores))),
    "precision-recall": (precision_recall, lambda scores: bool(_frequent(scores))),
    "f1-by-threshold": (f1_by_threshold, lambda scores: bool(scores.pooled.boxes and len(scores.pooled.scores))),
    "confusion": (confusion, lambda scores: bool(scores.confusion.any())),
    "mistakes": (mistakes, lambda scores: any(scores.mistakes.counts.values())),
    "sizes": (sizes, lambda scores: any(size.boxes for size in scores.sizes.values())),
    "review": (review, lambda scores: bool(np.isfinite(scores.review.recall).any())),
    "reliability": (reliability, lambda scores: bool(scores.reliability.count.any())),
}
"""Every plot by the name of its file, and whether there is anything to draw."""


def draw_plots(scores: Scores, theme: Theme = LIGHT) -> dict[str, bytes]:
    """Every plot that has something to show, as PNG files."""
    return {name: to_png(draw(scores, theme)) for name, (draw, has_data) in PLOTS.items() if has_data(scores)}


# -- what the plots share --------------------------------------------------------------------------------------------


def _legend(figure: Figure, theme: Theme, columns: int = 2) -> None:
    figure.legend(
        loc="outside upper left", ncols=columns, frameon=False, fontsize=9, labelcolor=theme.ink, columnspacing=1.4
    )


def _frequent(scores: Scores) -> list[SpeciesScores]:
    """The species with boxes, the most frequent first."""
    return sorted((one for one in scores.species if one.boxes), key=lambda one: -one.boxes)


def _fold(counts: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """The confusion of the species that were there or were found, the most frequent first, the rarest in one row."""
    there, seen = counts[:-1].sum(axis=1), counts[:, :-1].sum(axis=0)
    order = [label for label in np.lexsort((-seen, -there)).tolist() if there[label] or seen[label]]
    shown, rest = order, []
    if len(order) > MOST_CELLS:
        shown, rest = order[: MOST_CELLS - 1], order[MOST_CELLS - 1 :]
    last = len(names)
    groups = [[label] for label in shown] + [rest] * bool(rest) + [[last]]
    folded = np.array([[counts[np.ix_(truly, found)].sum() for found in groups] for truly in groups])
    return folded, [names[label] for label in shown] + [f"{len(rest)} other species"] * bool(rest)


def _by_threshold(curve: Curve, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a threshold from 0 to the highest score gives, rising; what holds at a score holds down to the next one."""
    rising, values = _thin(curve.scores[::-1], values[::-1])
    return np.concatenate([[0.0], rising]), np.concatenate([values[:1], values])


def _thin(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two columns of the same length with `POINTS` rows at most, the first and the last among them."""
    rows = spread_evenly(len(first), POINTS)
    return first[rows], second[rows]


def _short_count(count: int) -> str:
    return f"{count}" if count < 10_000 else f"{count / 1000:.0f}k"
