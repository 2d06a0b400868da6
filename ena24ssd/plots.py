"""What do the numbers look like?

Each plot is a function of an `Exploration` and a `Theme` that returns a figure; `PLOTS` names them all. Figures are
made without pyplot: nothing global changes, and no window opens. Species names come from files that anybody may have
written: no plot reads formulas in them, or lets a long one push the figure apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from PIL import Image as Pillow

from ena24ssd.anchors import REACH, Anchors
from ena24ssd.charts import LIGHT, LONG_TAIL, MOST_ROWS, ROW, Theme, panels, percent, shorten, to_png
from ena24ssd.draw import contact_sheet, draw_boxes
from ena24ssd.exploration import AREA_EDGES, FEW, Exploration, Species
from ena24ssd.pictures import PictureError, read_picture
from ena24ssd.sampling import spread_evenly

MOST_BARS = 20  # boxes a picture; pictures with more go into the last bar
SCATTERED = 4_000  # boxes drawn as dots
MOST_SIZES = 24  # groups of boxes of like size
CELL = (320, 240)  # pixels of a sample picture


def boxes_per_picture(found: Exploration, theme: Theme) -> Figure:
    """How many pictures have 0, 1, 2, ... boxes (the post's first plot, counted instead of listed)."""
    counts = found.box_counts
    shown = counts[: MOST_BARS + 1].copy()
    shown[-1] += counts[MOST_BARS + 1 :].sum()
    figure, axes = _axes(theme, 3.4)
    names = [str(number) for number in range(len(shown))]
    if len(counts) > len(shown):
        names[-1] += "+"
    bars = axes.bar(names, shown, color=[theme.second] + [theme.first] * (len(shown) - 1), width=0.8)
    _count_scale(axes, shown, "y", "pictures")
    axes.bar_label(
        bars, [f"{count:,}" if count else "" for count in shown.tolist()], color=theme.ink, fontsize=8, padding=2
    )
    axes.set_xlabel("boxes on a picture (0: blank)")
    return figure


def box_areas(found: Exploration, theme: Theme) -> Figure:
    """How much of the frame the boxes cover (the post's second plot)."""
    figure, axes = _axes(theme, 3.4)
    counts, filled = found.area_counts, np.flatnonzero(found.area_counts)
    axes.stairs(counts, AREA_EDGES, fill=True, color=theme.first)
    axes.set_xscale("log")
    axes.set_xlim(AREA_EDGES[max(filled[0] - 2, 0)], 1)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(percent))
    median = float(np.median(found.boxes.area))
    _mark(axes, theme, median, f"median {percent(median)}")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.set_ylim(0, counts.max() * 1.18)
    axes.set_xlabel("share of the frame that a box covers")
    axes.set_ylabel("boxes")
    return figure


def species_counts(found: Exploration, theme: Theme) -> Figure:
    """How often each species is seen."""
    rows = [row for row in found.species if row.boxes][:MOST_ROWS]
    figure, axes, places = _rows(theme, rows)
    axes.barh(places - 0.2, [row.boxes for row in rows], height=0.4, color=theme.first, label="boxes")
    axes.barh(places + 0.2, [row.pictures for row in rows], height=0.4, color=theme.second, label="pictures")
    _count_scale(axes, np.array([[row.boxes, row.pictures] for row in rows]), "x", "")
    for place, row in zip(places, rows):
        where = (row.boxes, place - 0.2)
        axes.annotate(
            f"{row.boxes:,}", where, (3, 0), textcoords="offset points", fontsize=7, va="center", color=theme.ink
        )
    _legend(axes, theme)
    return figure


def box_sizes(found: Exploration, theme: Theme) -> Figure:
    """How large the boxes of each species are, as the network sees them."""
    rows = sorted((row for row in found.species[:MOST_ROWS] if row.side), key=lambda row: row.side.median)
    figure, axes, places = _rows(theme, rows)
    _draw_spreads(axes, theme, places, np.array([row.side for row in rows]))
    axes.xaxis.set_major_formatter(FuncFormatter(percent))
    axes.set_xlabel("side of a square of the box's area, as a share of the frame's")
    return figure


def box_shapes(found: Exploration, theme: Theme) -> Figure:
    """How wide the boxes of each species are for their height."""
    rows = sorted((row for row in found.species[:MOST_ROWS] if row.shape), key=lambda row: row.shape.median)
    figure, axes, places = _rows(theme, rows)
    axes.axvline(1, color=theme.ink, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    _draw_spreads(axes, theme, places, np.array([row.shape for row in rows]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("width / height, in pixels of the picture")
    return figure


def heat(found: Exploration, theme: Theme) -> Figure:
    """Where in the picture the boxes lie."""
    width, height, _ = found.picture_sizes[0]
    figure, axes = _axes(theme, float(np.clip(6.2 * height / width, 2.4, 5.0)) + 0.3)
    colours = LinearSegmentedColormap.from_list("heat", theme.heat)
    image = axes.imshow(
        found.heat, cmap=colours, extent=(0, 1, 1, 0), aspect=height / width, interpolation="bilinear", vmin=0
    )
    axes.grid(False)
    axes.set_xticks([0, 0.5, 1], ["left", "middle", "right"])
    axes.set_yticks([0, 0.5, 1], ["top", "middle", "bottom"])
    for label, side in zip(axes.get_xticklabels(), ("left", "center", "right")):  # else two labels meet in a corner
        label.set_horizontalalignment(side)
    for label, side in zip(axes.get_yticklabels(), ("top", "center", "bottom")):
        label.set_verticalalignment(side)
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    bar.set_label("boxes that cover the place", color=theme.ink)
    bar.ax.yaxis.set_major_formatter(FuncFormatter(percent))
    bar.ax.tick_params(colors=theme.ink, labelcolor=theme.ink, length=0, labelsize=9)
    bar.outline.set_visible(False)
    return figure


def coverage(found: Exploration, theme: Theme) -> Figure:
    """Which share of each species' boxes an anchor matches, configured and suggested."""
    rows = sorted((row for row in found.species[:MOST_ROWS] if row.covered is not None), key=lambda row: -row.covered)
    figure, axes, places = _rows(theme, rows)
    before, after = np.array([row.covered for row in rows]), np.array([row.suggested for row in rows])
    reachable = np.array([row.reachable for row in rows])
    axes.hlines(places, before, after, color=theme.faint, linewidth=3, zorder=2)
    axes.plot(
        reachable, places, "|", color=theme.ink, markersize=9, markeredgewidth=1.4, label="perfect shapes", zorder=3
    )
    axes.plot(before, places, "o", color=theme.second, markersize=7, label="configured anchors", zorder=4)
    axes.plot(after, places, "D", color=theme.first, markersize=5.5, label="suggested anchors", zorder=5)
    axes.set_xlim(-0.02, 1.02)
    axes.xaxis.set_major_formatter(FuncFormatter(percent))
    axes.set_xlabel(f"boxes that an anchor matches (IoU over {found.anchors.overlap:g})")
    _legend(axes, theme, 3)
    return figure


def coverage_by_size(found: Exploration, theme: Theme) -> Figure:
    """Which share of the boxes an anchor matches, from the smallest to the largest: as many boxes behind every dot."""
    figure, axes = _axes(theme, 3.8)
    fit, square = found.anchors, found.boxes.square
    side = np.sqrt((square[:, 2:] - square[:, :2]).prod(axis=1)) * found.image_side
    groups = np.array_split(np.argsort(side, kind="stable"), np.clip(len(side) // FEW, 1, MOST_SIZES))
    middle = [np.median(side[group]) for group in groups]
    shares = np.array([fit.matches[:, group].mean(axis=1) for group in groups]).T
    for share, colour, marker, label in zip(
        shares[[2, 0, 1]],
        (theme.ink, theme.second, theme.first),
        ("|", "o", "D"),
        ("perfect shapes", "configured anchors", "suggested anchors"),
    ):
        axes.plot(middle, share, marker=marker, color=colour, markersize=5, linewidth=1.2, label=label)
    axes.set_xscale("log")
    axes.set_xlim(middle[0] / 1.15, middle[-1] * 1.15)
    axes.set_ylim(0, 1.04)
    axes.yaxis.set_major_formatter(FuncFormatter(percent))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(f"side of a square of the box's area, in pixels of the network's {found.image_side}")
    axes.set_ylabel(f"boxes that match (IoU over {fit.overlap:g})")
    _mark_levels(axes, theme, fit.strides)
    _legend(axes, theme, 3)
    return figure


def shapes_and_anchors(found: Exploration, theme: Theme) -> Figure:
    """The width and height of the boxes in the network's square, and of the anchors."""
    figure, axes = _axes(theme, 6.0)
    square = found.boxes.square[spread_evenly(len(found.boxes), SCATTERED)]
    width, height = (square[:, 2:] - square[:, :2]).T
    axes.scatter(
        width, height, s=9, color=theme.ink, alpha=float(np.clip(60 / len(square) ** 0.8, 0.1, 0.6)), linewidths=0
    )
    for anchors, colour, marker, label in (
        (found.anchors.configured, theme.second, "o", "configured anchors"),
        (found.anchors.suggested, theme.first, "D", "suggested anchors"),
    ):
        for level in anchors:
            first, across, up = level.shapes[0], *level.shapes.T
            if len(anchors) > 1:  # a star for each level, its first anchor in the middle
                rays = np.stack([np.full((level.per_cell, 2), first), level.shapes])  # (2, per_cell, 2)
                axes.plot(rays[..., 0], rays[..., 1], color=colour, linewidth=1)
            size = {"markersize": 9 if len(anchors) == 1 else 7, "markeredgecolor": theme.paper}
            axes.plot(across, up, marker, color=colour, **size, label=label, linestyle="none")
            label = None
    low = max(min(width.min(), height.min()) * 0.8, 0.003)
    high = max(1.1, 1.1 * max(_longest(found.anchors.configured), _longest(found.anchors.suggested)))
    for axis, set_scale, set_limits in (
        (axes.xaxis, axes.set_xscale, axes.set_xlim),
        (axes.yaxis, axes.set_yscale, axes.set_ylim),
    ):
        set_scale("log")
        set_limits(low, high)
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(percent))
        axis.set_minor_locator(NullLocator())
    axes.set_aspect("equal")
    axes.set_xlabel("width, as a share of the network's square")
    axes.set_ylabel("height")
    axes.grid(True, color=theme.faint, linewidth=0.6)
    _legend(axes, theme)
    return figure


def hours(found: Exploration, theme: Theme) -> Figure:
    """When the cameras fired."""
    figure, axes = _axes(theme, 2.8)
    axes.bar(np.arange(24) + 0.5, found.places.by_hour, width=0.86, color=theme.first)
    axes.set_xlim(0, 24)
    axes.set_xticks(range(0, 25, 3), [f"{hour:02d}:00" for hour in range(0, 25, 3)])
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    axes.set_xlabel("by the camera's clock")
    axes.set_ylabel("pictures")
    return figure


PLOTS: dict[str, tuple[Callable[[Exploration, Theme], Figure], Callable[[Exploration], bool]]] = {
    "boxes-per-picture": (boxes_per_picture, lambda found: True),
    "box-areas": (box_areas, lambda found: len(found.boxes) > 0),
    "species": (species_counts, lambda found: len(found.boxes) > 0),
    "box-sizes": (box_sizes, lambda found: len(found.boxes) > 0),
    "box-shapes": (box_shapes, lambda found: len(found.boxes) > 0),
    "places-in-picture": (heat, lambda found: len(found.boxes) > 0),
    "anchor-coverage": (coverage, lambda found: found.anchors is not None),
    "anchor-coverage-by-size": (coverage_by_size, lambda found: found.anchors is not None),
    "anchors-and-boxes": (shapes_and_anchors, lambda found: found.anchors is not None),
    "hours": (hours, lambda found: found.places.by_hour is not None),
}
"""Every plot by the name of its file, and whether there is anything to draw."""


def draw_plots(found: Exploration, theme: Theme = LIGHT) -> dict[str, bytes]:
    """Every plot that has something to show, as PNG files."""
    return {name: to_png(draw(found, theme)) for name, (draw, has_data) in PLOTS.items() if has_data(found)}


def draw_samples(found: Exploration, count: int = 12) -> Pillow.Image | None:
    """Pictures with their boxes, first one of each species, the most frequent first, then evenly spread ones.

    None where no picture can be read.
    """
    dataset = found.dataset
    drawn, captions = [], []
    for place in _choose_samples(found):
        image = dataset.images[place]
        try:
            picture = read_picture(dataset.path(image), stored_size=(image.width, image.height), least=CELL[0])
        except PictureError:  # counted by `Light`
            continue
        picture.thumbnail(CELL)  # before drawing: words and lines stay as large as the sheet shows them
        scale = picture.width / image.width, picture.height / image.height
        boxes = [(label, dataset.class_names[label], box.scale(*scale)) for label, box in image.boxes]
        drawn.append(draw_boxes(picture, boxes))
        captions.append(image.file_name)
        if len(drawn) == count:
            break
    return contact_sheet(drawn, captions, columns=3, cell=CELL) if drawn else None


def _choose_samples(found: Exploration) -> list[int]:
    """Places of pictures to try, without repetition: a typical one of each species, a blank one, then others."""
    boxes = found.boxes
    chosen: dict[int, None] = {}
    for row in found.species[:8]:
        of_it = np.flatnonzero(boxes.label == row.label)
        if len(of_it):
            area = boxes.area[of_it]
            chosen.setdefault(int(boxes.picture[of_it[np.argsort(area, kind="stable")[len(area) // 2]]]))
    blank = np.flatnonzero(boxes.per_picture == 0)
    if len(blank):
        chosen.setdefault(int(blank[len(blank) // 2]))
    for number in (12, 60):  # the second for the case that many cannot be read
        for place in spread_evenly(len(found.dataset.images), number).tolist():
            chosen.setdefault(place)
    return list(chosen)


# -- what the plots share --------------------------------------------------------------------------------------------


def _axes(theme: Theme, height: float) -> tuple[Figure, Axes]:
    figure, (axes,) = panels(theme, height)
    return figure, axes


def _rows(theme: Theme, rows: Sequence[Species]) -> tuple[Figure, Axes, np.ndarray]:
    """A figure with one line for each species, the first on top."""
    figure, axes = _axes(theme, max(1.5, ROW * len(rows) + 1.1))
    places = np.arange(len(rows))
    axes.set_yticks(places, [shorten(row.name) for row in rows])
    for label in axes.get_yticklabels():
        label.set_parse_math(False)  # a name with two dollar signs is a name, not a formula
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(False, axis="y")
    axes.grid(True, axis="x", color=theme.faint, linewidth=0.6)
    return figure, axes, places


def _draw_spreads(axes: Axes, theme: Theme, places: np.ndarray, spreads: np.ndarray) -> None:
    """Thin line: 5 to 95 %; thick: the middle half; dot: the median."""
    low, lower, median, upper, high = spreads.T
    axes.hlines(places, low, high, color=theme.first, linewidth=1.2)
    axes.hlines(places, lower, upper, color=theme.first, linewidth=6)
    axes.plot(median, places, "o", color=theme.paper, markeredgecolor=theme.first, markersize=6)
    axes.set_xscale("log")
    axes.set_xlim(low.min() * 0.85, high.max() * 1.15)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _count_scale(axes: Axes, counts: np.ndarray, axis: str, what: str) -> None:
    """Counts from 0 on; where the tail is long, by powers of ten, and said so."""
    counts = counts[counts > 0]
    if len(counts) and counts.max() > LONG_TAIL * counts.min():
        what = f"{what} (each line ten times the last)".strip()
        getattr(axes, f"set_{axis}scale")("log")
        getattr(axes, f"set_{axis}lim")(0.7, counts.max() * 2)
        getattr(axes, f"{axis}axis").set_minor_locator(NullLocator())
    else:
        getattr(axes, f"set_{axis}lim")(0, counts.max(initial=1) * 1.12)
        getattr(axes, f"{axis}axis").set_major_locator(MaxNLocator(integer=True, nbins=6))
    getattr(axes, f"{axis}axis").set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    getattr(axes, f"set_{axis}label")(what)


def _mark(axes: Axes, theme: Theme, value: float, words: str) -> None:
    axes.axvline(value, color=theme.ink, linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate(
        words,
        (value, 1),
        (5, -4),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        va="top",
        fontsize=9,
        color=theme.ink,
    )


def _mark_levels(axes: Axes, theme: Theme, strides: Sequence[int]) -> None:
    """Where on an axis of pixels one feature map's scale ends and the next one's begins."""
    low, high = axes.get_xlim()
    middle = np.sqrt(np.prod(REACH))
    ends = np.array([low, *(np.sqrt(a * b) * middle for a, b in pairwise(strides)), high]).clip(low, high)
    for stride, begin, end in zip(strides, ends, ends[1:]):
        if len(strides) > 1 and end / begin > 1.2:  # else there is no room for the words
            if end < high:
                axes.axvline(end, color=theme.faint, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
            place = (np.sqrt(begin * end), 0.03)
            axes.text(
                *place,
                f"cells of {stride} px",
                color=theme.ink,
                fontsize=8,
                ha="center",
                transform=axes.get_xaxis_transform(),
            )


def _legend(axes: Axes, theme: Theme, columns: int = 2) -> None:
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        frameon=False,
        fontsize=9,
        labelcolor=theme.ink,
        borderaxespad=0.2,
    )


def _longest(levels: Sequence[Anchors]) -> float:
    return float(max(level.shapes.max() for level in levels))
