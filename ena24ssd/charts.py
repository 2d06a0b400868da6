"""What do all plots of this package have in common?

Their colours, sizes and axes. Figures are made without pyplot: nothing global changes, and no window opens.
"""

from __future__ import annotations

import io
import warnings
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image as Pillow

from ena24ssd.draw import PALETTE

WIDTH = 8.0  # inches
DPI = 144
COLOURS = 256  # of a file; no plot has many more, and it takes a third of the space
ROW = 0.27  # inches a species takes
MOST_ROWS = 60  # species in a plot; a page's table has all of them
LONGEST_NAME = 28  # letters
LONG_TAIL = 50  # times the smallest the largest bar must be to be drawn on a logarithmic scale


class Theme(NamedTuple):
    """The colours of a plot. ``first`` and ``second`` differ in brightness as well as in hue."""

    paper: str
    ink: str
    faint: str
    first: str
    second: str
    heat: tuple[str, ...]


def hex_colour(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


LIGHT = Theme(
    "#ffffff",
    "#24292f",
    "#d8dce0",
    hex_colour(PALETTE[4]),
    hex_colour(PALETTE[0]),
    ("#ffffff", "#fde0b0", "#f0a35a", "#c8553d", "#7a1f4b", "#2c0f3a"),
)
DARK = Theme(
    "#16191d",
    "#e4e6e8",
    "#3a4047",
    hex_colour(PALETTE[1]),
    hex_colour(PALETTE[0]),
    ("#16191d", "#4b1a52", "#93304f", "#d5653d", "#f4ad5c", "#fff3d0"),
)


def panels(
    theme: Theme, height: float, rows: int = 1, columns: int = 1, **options: object
) -> tuple[Figure, list[Axes]]:
    """A figure ``height`` inches high, with its axes row by row; ``options`` are those of `Figure.subplots`."""
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained", facecolor=theme.paper)
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False, **options).ravel().tolist()
    for axes in grid:
        axes.set_facecolor(theme.paper)
        axes.set_axisbelow(True)
        axes.tick_params(which="both", colors=theme.ink, labelcolor=theme.ink, length=0, labelsize=9)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(theme.faint)
        axes.xaxis.label.set_color(theme.ink)
        axes.yaxis.label.set_color(theme.ink)
        axes.grid(True, axis="y", color=theme.faint, linewidth=0.6)
    return figure, grid


def shorten(name: str, letters: int = LONGEST_NAME) -> str:
    """The name on one line, of at most so many letters."""
    name = " ".join(name.split())
    return name if len(name) <= letters else name[: letters - 1].rstrip() + "…"


def percent(value: float, _: object = None) -> str:
    """As the label of a tick: 0.05 %, 12.5 %."""
    return f"{value * 100:.3g} %"


def to_png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a box stands for the letter; the table has it
        figure.canvas.draw()  # once; savefig would do it twice
    picture = Pillow.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
    picture.quantize(COLOURS, Pillow.Quantize.MEDIANCUT, dither=Pillow.Dither.NONE).save(file, "PNG", optimize=True)
    return file.getvalue()
