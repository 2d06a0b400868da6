"""How did training go?

The post's four plots (log loss, accuracy, MAE, micro-F1, by epoch), and below them two figures that tell more: mAP, and
the offset error of only those anchors that have one. Names of runs come from folders that anybody may have named: none
is read as a formula, and a long one is broken, not cut, since what tells runs apart often stands at its end.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ena24ssd.charts import DPI, LIGHT, LONG_TAIL, WIDTH, hex_colour, to_png
from ena24ssd.comparison import History, Row, figure, read_history, tell_apart
from ena24ssd.draw import PALETTE
from ena24ssd.files import replace_file
from ena24ssd.runs import Run, RunError
from ena24ssd.splits import SIDES
from ena24ssd.tables import printable

FORMATS = (".png", ".svg")
PANEL = 2.0  # inches high
SIZE = 9  # points, of letters
LINE = 0.19  # inches a line of the legend takes
KEY = 40  # points that the line beside a name takes, with the room around it
CROWDED = 200  # epochs from which on lines are thin
BASELINE = "anchor/accuracy_all_background"


SPLIT_COLOURS = {"train": LIGHT.second, "validation": hex_colour(PALETTE[2]), "test": LIGHT.first}
RUN_COLOURS = tuple(
    hex_colour(PALETTE[place]) for place in (4, 5, 2, 6, 0, 1, 9, 11, 13, 14, 16, 7)
)  # none that is pale on white
STYLES = {"train": (0, (1, 1.2)), "validation": (0, (5, 1.5, 1, 1.5)), "test": "solid"}
DASHES = (0, (4, 3))
BOLD = FontProperties(size=SIZE, weight="bold")
OVER = {"clip_on": False}  # a line along the edge of its panel is drawn in its full width


class Panel(NamedTuple):
    """One of the plots."""

    title: str
    name: str  # of the figure, as rows have it
    most: float | None = None  # it can be
    from_zero: bool = False  # whether its axis starts there; accuracy is all near 1


PANELS = (
    Panel("Log loss", "anchor/log_loss"),
    Panel("Accuracy", "anchor/accuracy", 1.0),
    Panel("MAE", "anchor/mae"),
    Panel("Micro-F1", "anchor/micro_f1", 1.0, from_zero=True),
    Panel("mAP at IoU .5 (the figure to read)", "detection/map50", 1.0, from_zero=True),
    Panel("MAE of positive anchors alone", "anchor/mae_per_positive"),
)


class Curve(NamedTuple):
    """One split of one run, and how it is drawn."""

    split: str
    rows: dict[int, Row]  # by epoch
    kept: int | None
    colour: str
    style: Any
    is_main: bool  # drawn boldly: all of one run's, or the split that judges several

    def values(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The epochs (E,) whose rows have this figure, and the figure (E,), NaN where it was not finite."""
        values = {epoch: figure(row, name) for epoch, row in self.rows.items() if name in row}
        return np.array(list(values), dtype=int), np.array(list(values.values()), dtype=float)


def draw_curves(runs: Sequence[Run], file: Path | str, splits: Sequence[str] = SIDES) -> None:
    """Draw how the figures of one run, or of several, went by epoch, into a PNG or SVG file.

    One run: a colour for each split. Several: a colour for each run, a style of line for each split. Circles mark the
    epoch whose checkpoint is kept. The same rows give the same file, to the byte.

    Parameters: ``splits``, those to draw, of train, validation and test; many runs read better with one.
    Raises RunError where no run has an epoch to draw, rows are damaged, there are more runs than colours, or the file
    cannot be written; ValueError for a kind of file that is not drawn.
    """
    file = Path(file)
    kind = file.suffix.lower()
    if kind not in FORMATS:
        raise ValueError(
            f"{file}: {f'ends with {kind}' if kind else 'has no ending'}; curves are drawn as {' or '.join(FORMATS)}. "
            f"Name it {file.with_suffix('.png').name if file.name else 'curves.png'}"
        )
    sheet = plot_curves(runs, splits)
    content = to_png(sheet) if kind == ".png" else _to_svg(sheet)
    try:
        replace_file(file, content)
    except OSError as error:
        what = f"{file}: cannot be written ({error.strerror}); name another place" if error.strerror else str(error)
        raise RunError(what) from error


def plot_curves(runs: Sequence[Run], splits: Sequence[str] = SIDES) -> Figure:
    """The figure that `draw_curves` writes. Raises RunError."""
    runs = list({run.folder.resolve(): run for run in runs}.values())
    if len(runs) > len(RUN_COLOURS):
        raise RunError(
            f"{len(runs)} runs: the eye tells {len(RUN_COLOURS)} colours apart at most; name fewer of them. "
            "'ena24ssd runs' compares any number in a table"
        )
    histories = [read_history(run) for run in runs]
    curves = _curves(histories, splits)
    if not curves:
        raise RunError(
            f"{', '.join(str(run.folder) for run in runs) or 'curves'}: no finished epoch of {' or '.join(splits)}, so "
            "there is nothing to draw; wait for the first, or name another run"
        )
    names = [_break(name) for name in _names(runs, histories)]
    width = max(_length(line) for name in names for line in name.splitlines()) + KEY
    lines = -(-len(names) // max(int(WIDTH * 72 / width), 1))  # of the legend that names runs
    columns = -(-len(names) // lines)
    lines *= max(name.count("\n") + 1 for name in names)
    sheet = Figure((WIDTH, 3 * PANEL + (2.5 + lines) * LINE), DPI, facecolor=LIGHT.paper, layout="constrained")
    FigureCanvasAgg(sheet)
    sheet.get_layout_engine().set(h_pad=0.07, w_pad=0.07)  # inches; else titles touch the epochs above them
    marks = set()
    for axes, panel in zip(sheet.subplots(3, 2, sharex=True).flat, PANELS):
        _style(axes, panel.title)
        marks |= _draw(axes, panel, curves)
    _scale_epochs(sheet.axes, curves)
    entries = _explain(curves, marks, len(runs) == 1)
    top = _legend(sheet, "outside upper left", entries, len(entries))
    if len(runs) == 1:
        top.set_title("?", {"size": SIZE, "weight": "bold"})
        _write(top.get_title(), names[0])
    else:
        colours = [Line2D([], [], color=colour, linewidth=3) for colour in RUN_COLOURS]
        _legend(sheet, "outside lower left", list(zip(names, colours)), columns)
    return sheet


# -- what is drawn ---------------------------------------------------------------------------------------------------


def _names(runs: Sequence[Run], histories: Sequence[History]) -> list[str]:
    """What the runs are called, and how far those came that have not ended."""
    called = tell_apart(run.folder.resolve() for run in runs)
    return [
        printable(called[run.folder.resolve()])
        + ("" if history.finished else f" ({history.epochs_done} of {run.config.train.epochs} epochs so far)")
        for run, history in zip(runs, histories)
    ]


def _break(name: str) -> str:
    """The name in lines that are no longer than the sheet is wide."""
    lines = [""]
    for letter in name:
        if _length(lines[-1] + letter) > WIDTH * 72 - KEY:
            lines.append("")
        lines[-1] += letter
    return "\n".join(lines)


def _length(words: str) -> float:
    """Points from end to end."""
    with unknown_letters():
        return text_to_path.get_text_width_height_descent(words, BOLD, ismath=False)[0]


def _curves(histories: Sequence[History], splits: Sequence[str]) -> list[Curve]:
    """Every split of every run that has rows; training first, so that it lies below."""
    drawn = [split for split in SIDES if split in splits and any(split in history.epochs for history in histories)]
    one = len(histories) == 1
    return [
        Curve(
            split,
            history.epochs[split],
            history.kept,
            SPLIT_COLOURS[split] if one else colour,
            "solid" if one else STYLES[split],
            one or split == drawn[-1],
        )
        for split in drawn
        for history, colour in zip(histories, RUN_COLOURS)
        if split in history.epochs
    ]


def _draw(axes: Axes, panel: Panel, curves: Sequence[Curve]) -> set[str]:
    """Draw the curves of a panel; returns which marks it took."""
    marks, seen = set(), [np.empty(0)]
    for curve in curves:
        epochs, values = curve.values(panel.name)
        finite = np.isfinite(values)
        whole = np.pad(finite, 1)
        alone = finite & ~whole[:-2] & ~whole[2:]  # a line takes two
        width, alpha = (1.4, 1.0) if curve.is_main else (1.0, 0.6)
        width *= 0.6 if len(epochs) > CROWDED else 1
        if finite.any():  # what is empty and not clipped would confuse the layout
            axes.plot(epochs, values, color=curve.colour, linestyle=curve.style, linewidth=width, alpha=alpha, **OVER)
        if alone.any():
            axes.plot(epochs[alone], values[alone], ".", color=curve.colour, markersize=5, alpha=alpha, **OVER)
        if not finite.all():
            marks.add("not finite")
            places = epochs[~finite], np.full(np.sum(~finite), 0.96 - 0.08 * SIDES.index(curve.split))
            axes.plot(*places, "x", color=curve.colour, markersize=4, transform=axes.get_xaxis_transform())
        kept = finite & (epochs == curve.kept)
        if kept.any() and curve.is_main:
            marks.add("kept")
            axes.plot(epochs[kept], values[kept], **_kept(curve.colour), **OVER)
        seen.append(values[finite])
    if panel.name == "anchor/accuracy":
        floors = _draw_floors(axes, curves)
        marks |= {"floor"} if floors else set()
        seen += floors
    _scale(axes, panel, np.concatenate(seen))
    return marks


def _draw_floors(axes: Axes, curves: Sequence[Curve]) -> list[np.ndarray]:
    """What answering "background" everywhere scores, on the split that judges; once where it is the same for all.

    It lies over the curves: a network that answers just that would hide it.
    """
    judge = max((curve.split for curve in curves), key=SIDES.index)
    floors = [(curve.colour, *curve.values(BASELINE)) for curve in curves if curve.split == judge]
    floors = [(colour, epochs, values) for colour, epochs, values in floors if np.isfinite(values).any()]
    if len({value for _, _, values in floors for value in values[np.isfinite(values)]}) == 1:
        axes.axhline(np.nanmax(floors[0][2]), color=LIGHT.ink, linewidth=0.9, linestyle=DASHES, zorder=3)
    else:
        for colour, epochs, values in floors:
            axes.plot(epochs, values, color=colour, linewidth=0.9, linestyle=DASHES, zorder=3)
    return [values[np.isfinite(values)] for _, _, values in floors]


def _kept(colour: str) -> dict[str, Any]:
    look = {"marker": "o", "linestyle": "none", "markersize": 5, "markeredgewidth": 1.2, "zorder": 4}
    return look | {"color": colour, "markerfacecolor": LIGHT.paper}


# -- how it looks ----------------------------------------------------------------------------------------------------


def _style(axes: Axes, title: str) -> None:
    axes.set_facecolor(LIGHT.paper)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=LIGHT.ink, labelcolor=LIGHT.ink, length=0, labelsize=SIZE, labelbottom=True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set(color=LIGHT.faint, zorder=1)  # below a line of zeros
    axes.xaxis.label.set_color(LIGHT.ink)
    axes.grid(True, axis="y", color=LIGHT.faint, linewidth=0.6)
    axes.set_title(title, loc="left", fontsize=SIZE + 1, color=LIGHT.ink)


def _scale(axes: Axes, panel: Panel, values: np.ndarray) -> None:
    """An axis that shows all of the values, and no place where none can be."""
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
    if not len(values):
        axes.set_yticks([])
        words = "measured on validation and test alone" if panel.name.startswith("detection") else "no value"
        axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", fontsize=SIZE, color=LIGHT.ink)
        return
    low, high = float(values.min()), float(values.max())
    if panel.most is None and 0 < low < high / LONG_TAIL:
        axes.set_yscale("log")
        axes.set_title(f"{panel.title} (logarithmic)", loc="left", fontsize=SIZE + 1, color=LIGHT.ink)
        return
    if panel.from_zero:
        low, high = 0.0, max(high, 0.1)
    room = max(0.05 * (high - low), 0.01 * abs(high)) or 1.0  # the second, lest noise fill the panel
    if panel.most is not None:
        room = min(room, 0.03)
    axes.set_ylim(low if panel.from_zero else low - room, high + room)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))


def _scale_epochs(panels: Sequence[Axes], curves: Sequence[Curve]) -> None:
    first = min(min(curve.rows) for curve in curves)
    last = max(max(curve.rows) for curve in curves)
    room = max(0.02 * (last - first), 0.5 if first == last else 0.1)
    panels[0].set_xlim(first - room, last + room)  # the others share it
    panels[0].xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    for axes in panels[-2:]:
        axes.set_xlabel("epoch", fontsize=SIZE)


def _explain(curves: Sequence[Curve], marks: set[str], one: bool) -> list[tuple[str, Line2D]]:
    """What the lines and marks mean that were drawn."""
    looks = {curve.split: (curve.colour if one else LIGHT.ink, curve.style) for curve in curves}
    entries = [
        (split, Line2D([], [], color=colour, linestyle=style, linewidth=1.4))
        for split, (colour, style) in looks.items()
    ]
    if "floor" in marks:
        entries.append(("all background", Line2D([], [], color=LIGHT.ink, linestyle=DASHES, linewidth=0.9)))
    if "kept" in marks:
        entries.append(("checkpoint kept", Line2D([], [], **_kept(LIGHT.ink))))
    if "not finite" in marks:
        entries.append(("not finite", Line2D([], [], color=LIGHT.ink, linestyle="none", marker="x", markersize=4)))
    return entries


def _legend(sheet: Figure, place: str, entries: Sequence[tuple[str, Line2D]], columns: int) -> Legend:
    legend = sheet.legend(
        [line for _, line in entries],
        ["?"] * len(entries),  # a label that starts with an underscore would be left out
        loc=place,
        ncols=columns,
        frameon=False,
        fontsize=SIZE,
        borderaxespad=0.2,
        columnspacing=1.6,
        handletextpad=0.6,
        alignment="left",
    )
    for text, (words, _) in zip(legend.get_texts(), entries):
        _write(text, words)
    return legend


def _write(text: Text, words: str) -> None:
    text.set_parse_math(False)
    text.set_text(words)
    text.set_color(LIGHT.ink)


def _to_svg(sheet: Figure) -> bytes:
    file = io.BytesIO()
    steady = {"svg.hashsalt": "ena24ssd", "svg.fonttype": "none"}  # letters stay letters: the reader has all of them
    with matplotlib.rc_context(steady), unknown_letters():
        sheet.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()


@contextmanager
def unknown_letters() -> Iterator[None]:
    """No word about letters that the font has not got: a PNG shows boxes for them, an SVG leaves them to its reader."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield
