"""Where does a camera hang, and what does it see there when nobody walks by?

A `Place` is one camera's fixed view, painted once: thousands of leaves, blades, stones and trunks, far ones first, at
twice the picture's resolution. Beside the colours it keeps, for every pixel, the row on which the thing seen there
stands. That one map says how far away it is (haze by day, flash fall-off by night) and whether it hides an animal
(whatever stands lower in the picture stands nearer).

Rows and sizes are shares of the picture's height, columns too: a 4:3 picture is 1.333 wide.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from math import cos, exp, pi, sin, sqrt
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Colour = tuple[float, float, float]  # 0 to 255
Palette = tuple[Colour, ...]


class Biome(NamedTuple):
    """What grows where. Counts are per picture, heights for a thing at the bottom edge."""

    name: str
    months: tuple[int, ...]
    warmth: int  # degrees Celsius around noon
    sky: Colour | None  # None: the backdrop is closed by a wood
    foliage: Palette
    soil: Colour
    litter: Palette
    leaves: int
    blades: int
    blade_height: float
    blade_colours: Palette
    trunks: int
    bark: Palette
    bushes: int
    stones: int
    water: bool
    canopy: float  # 0: open sky above the ground, 1: dappled shade everywhere
    haze: Colour  # the light scattered between the lens and far things, 0 to 1
    brightness: float  # what the camera's exposure meter settles on by day


GREENS = ((58, 88, 40), (76, 106, 46), (98, 128, 56), (46, 72, 36), (120, 142, 70))
BARKS = ((92, 80, 66), (74, 64, 54), (112, 100, 86))
STRAW = ((168, 150, 92), (146, 128, 74), (186, 170, 112), (120, 116, 62))
STONES = ((128, 122, 114), (104, 100, 96), (148, 140, 128))
BIOMES = (
    Biome(
        "Forest",
        (5, 6, 7, 8),
        22,
        None,
        GREENS,
        (104, 86, 62),
        ((138, 112, 78), (112, 88, 60), (160, 134, 98), (90, 72, 52), (84, 96, 50)),
        8000,
        1100,
        0.07,
        GREENS,
        13,
        BARKS,
        5,
        2,
        False,
        0.9,
        (0.26, 0.33, 0.21),
        0.34,
    ),
    Biome(
        "Meadow",
        (6, 7, 8),
        24,
        (186, 208, 224),
        GREENS,
        (86, 102, 50),
        ((96, 116, 52), (120, 130, 68), (150, 146, 84)),
        1500,
        8500,
        0.11,
        (*GREENS, (150, 156, 86), (172, 164, 104)),
        2,
        BARKS,
        3,
        1,
        False,
        0.1,
        (0.62, 0.70, 0.74),
        0.42,
    ),
    Biome(
        "Creek",
        (5, 6, 7, 8, 9),
        20,
        None,
        GREENS,
        (112, 102, 84),
        ((128, 118, 100), (98, 90, 76), (150, 142, 126), (84, 94, 60)),
        5000,
        1700,
        0.09,
        GREENS,
        8,
        BARKS,
        4,
        26,
        True,
        0.6,
        (0.28, 0.34, 0.25),
        0.34,
    ),
    Biome(
        "Snow",
        (1, 2, 12),
        -4,
        (206, 214, 224),
        ((60, 70, 62), (78, 84, 74), (48, 58, 54), (96, 98, 92)),
        (226, 229, 234),
        ((206, 214, 226), (232, 236, 242), (190, 198, 210), (150, 136, 118)),
        1300,
        300,
        0.09,
        ((150, 134, 102), (120, 106, 80)),
        10,
        ((74, 66, 60), (96, 88, 80), (60, 54, 50)),
        3,
        2,
        False,
        0.25,
        (0.70, 0.74, 0.80),
        0.80,
    ),
    Biome(
        "Autumn",
        (10, 11),
        11,
        None,
        ((160, 116, 50), (182, 138, 62), (134, 88, 44), (118, 106, 54), (196, 160, 86)),
        (120, 92, 62),
        ((170, 118, 64), (146, 96, 54), (190, 146, 84), (116, 82, 52), (200, 170, 112)),
        9500,
        350,
        0.06,
        STRAW,
        12,
        BARKS,
        2,
        2,
        False,
        0.6,
        (0.40, 0.35, 0.25),
        0.36,
    ),
    Biome(
        "Scrub",
        (4, 5, 9, 10),
        18,
        (196, 210, 222),
        ((104, 110, 66), (126, 126, 80), (88, 96, 60), (146, 140, 92)),
        (158, 138, 106),
        ((178, 158, 122), (142, 122, 92), (196, 180, 144), (120, 106, 82)),
        5000,
        3400,
        0.08,
        STRAW,
        2,
        BARKS,
        8,
        12,
        False,
        0.05,
        (0.66, 0.68, 0.68),
        0.45,
    ),
)


class Place(NamedTuple):
    """One camera's view, unlit. H x W are the picture's pixels.

    ``albedo`` (H, W, 3) and ``infrared`` (H, W): reflectance in [0, 1]. ``rows`` (2H, 2W) uint8: the row on which the
    thing seen there stands, 255 at the bottom edge, about 0 for the sky. ``distance`` (H, W): 1 at the bottom edge,
    growing towards the horizon. ``dapple`` (H, 2W): how much sun comes through the leaves, in [0, 1]. ``sky`` (H, W): 1
    where it is open. ``horizon`` is a row; ``sun_side`` is -1 with the sun on the left, 1 on the right; ``flash``
    (column, row) is where the infrared flash points; ``tint`` (3,) is the white balance of this camera.
    """

    biome: Biome
    horizon: float
    albedo: np.ndarray
    infrared: np.ndarray
    rows: np.ndarray
    distance: np.ndarray
    dapple: np.ndarray
    sky: np.ndarray
    sun_side: float
    flash: tuple[float, float]
    tint: np.ndarray

    @property
    def aspect(self) -> float:
        """Width over height."""
        return self.infrared.shape[1] / self.infrared.shape[0]


def paint_place(seed: int | Sequence[int], size: tuple[int, int], biome: Biome) -> Place:
    """Paint a view of a ``biome``, another one for each ``seed``; ``size`` is (width, height) in pixels."""
    rng = np.random.default_rng(seed)
    width, height = size
    shape = (height, width)
    more = np.exp(rng.normal(0, 0.25, 5))  # no two places of a kind are equally overgrown
    biome = biome._replace(
        leaves=int(biome.leaves * more[0]),
        blades=int(biome.blades * more[1]),
        trunks=round(biome.trunks * more[2]),
        bushes=round(biome.bushes * more[3]),
        stones=round(biome.stones * more[4]),
        soil=tuple(np.array(biome.soil) * np.exp(rng.normal(0, 0.05) + rng.normal(0, 0.03, 3))),
    )
    horizon = float(rng.uniform(0.28, 0.40) if biome.sky is None else rng.uniform(0.24, 0.36))
    painter = Painter(random.Random(int(rng.integers(2**62))), 2 * width, 2 * height, horizon)
    paint_backdrop(painter, biome)
    paint_ground(painter, biome)
    paint_growth(painter, biome, thickets=cloud(rng, (64, 96), 6, 3))

    stands = np.asarray(painter.rows.resize(size, Image.Resampling.BOX), dtype=np.float32) / 255
    sky = (stands < 0.004).astype(np.float32)
    colours = painter.colours.resize(size, Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(0.0008 * height))
    albedo = (np.asarray(colours, dtype=np.float32) / 255) ** 1.6  # painted as seen, lit as light
    mottle = 0.10 * cloud(rng, shape, 5) + 0.07 * cloud(rng, shape, 90, 2)
    albedo = np.clip(albedo * np.exp(mottle * (1 - sky))[..., None], 0, 1).astype(np.float32)
    luma = albedo @ np.float32([0.30, 0.59, 0.11])
    green = np.clip(albedo[..., 1] - 0.5 * (albedo[..., 0] + albedo[..., 2]), 0, None)
    infrared = np.clip(0.04 + 0.75 * luma + 1.5 * green, 0, 1)  # leaves glow in the near infrared
    lumps = cloud(rng, (height, 2 * width), 9, 4, stretch=1.8)
    shade = 1 / (1 + np.exp(3.0 * lumps - 2.7 * biome.canopy + 1.35))
    return Place(
        biome=biome,
        horizon=horizon,
        albedo=albedo,
        infrared=infrared,
        rows=np.asarray(painter.rows),
        distance=1 / np.maximum((stands - horizon) / (1 - horizon), 0.04),
        dapple=(1 - min(1.0, 0.25 + biome.canopy) * (1 - shade)).astype(np.float32),
        sky=sky,
        sun_side=float(rng.choice([-1, 1])),
        flash=(float(rng.uniform(0.42, 0.58)) * width / height, float(rng.uniform(0.60, 0.75))),
        tint=np.exp(rng.normal(0, 0.025, 3)).astype(np.float32),
    )


def cloud(
    rng: np.random.Generator, shape: tuple[int, int], cells: float, octaves: int = 3, stretch: float = 1.0
) -> np.ndarray:
    """Smooth noise of about unit variance, (h, w) float32; ``cells`` lumps to the height, ``stretch`` flattens them."""
    height, width = shape
    field, weight = np.zeros(shape, dtype=np.float32), 0.0
    for octave in range(octaves):
        rows = int(np.clip(cells * 2**octave, 2, height))
        columns = int(np.clip(cells * 2**octave * width / height / stretch, 2, width))
        coarse = rng.standard_normal((rows + 1, columns + 1), dtype=np.float32)
        field += 0.5**octave * np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
        weight += 0.25**octave
    return field / np.float32(0.75 * np.sqrt(weight))


def times(colour: Colour, factor: float) -> Colour:
    return colour[0] * factor, colour[1] * factor, colour[2] * factor


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """``share`` of the second colour in the first."""
    return tuple(a + share * (b - a) for a, b in zip(first, second))


class Painter:
    """A canvas of colours and, beside it, of the rows on which things stand. Coordinates are shares of the height."""

    def __init__(self, rng: random.Random, width: int, height: int, horizon: float):
        self.rng, self.horizon, self.scale = rng, horizon, height
        self.aspect = width / height
        self.slope, self.waves = rng.gauss(0, 0.018), (rng.uniform(0, 2 * pi), rng.uniform(0, 2 * pi))
        self.colours = Image.new("RGB", (width, height))
        self.rows = Image.new("L", (width, height))
        self._colour, self._row = ImageDraw.Draw(self.colours), ImageDraw.Draw(self.rows)

    def near(self, row: float) -> float:
        """The size of things standing at ``row``, relative to the bottom edge."""
        return max(0.02, (row - self.horizon) / (1 - self.horizon))

    def edge(self, x: float) -> float:
        """Where the ground begins in column ``x``: a sloping, wavy line about the horizon."""
        wave = 0.008 * sin(4 * x + self.waves[0]) + 0.004 * sin(11 * x + self.waves[1])
        return self.horizon + self.slope * (x - self.aspect / 2) + wave

    def somewhere(self, margin: float = 0.0) -> float:
        """A column."""
        return self.rng.uniform(-margin, self.aspect + margin)

    def ground_rows(self, count: int, top: float, crowd: float = 0.75) -> list[float]:
        """Rows for things lying about on the ground, far ones first; a smaller ``crowd`` puts more of them far off."""
        draw = self.rng.random
        return sorted(top + (1.04 - top) * draw() ** (1 / crowd) * 0.98 + 0.008 for _ in range(count))

    def pick(self, palette: Palette, spread: float = 0.16, light: float = 1.0) -> Colour:
        """One of the palette's colours, some a little lighter or darker."""
        return times(palette[int(self.rng.random() * len(palette))], light * exp(self.rng.gauss(0, spread)))

    def blur(self, radius: float) -> None:
        """Put the backdrop painted so far out of focus."""
        width, height = self.colours.size
        box = (0, 0, width, min(height, int((self.horizon + 0.12) * self.scale)))
        self.colours.paste(self.colours.crop(box).filter(ImageFilter.GaussianBlur(radius * self.scale)), box)

    def shape(self, points, colour: Colour, row: float | None = None) -> None:
        """Fill a polygon; with a ``row`` it stands there, without it lies on what is there."""
        scale = self.scale
        points = [(x * scale, y * scale) for x, y in points]
        r, g, b = colour
        self._colour.polygon(points, fill=(min(255, int(r)), min(255, int(g)), min(255, int(b))))
        if row is not None:
            self._row.polygon(points, fill=min(255, max(0, int(255 * row))))

    def fill_below(self, y: float, colour: Colour, row: float) -> None:
        self.shape([(0, y), (self.aspect, y), (self.aspect, 1), (0, 1)], colour, row)

    def ellipse(self, x: float, y: float, width: float, height: float, colour: Colour, rough: float = 0.0) -> list:
        """Fill an ellipse with a more or less ``rough`` outline."""
        bumps = [(a * pi / 8, 1 + rough * self.rng.uniform(-1, 0.3)) for a in range(16)]
        self.shape([(x + width * b * cos(a), y + height * b * sin(a)) for a, b in bumps], colour)

    def contact(self, x: float, row: float, width: float, soil: Colour) -> None:
        """The dark ground under a thing, fading outwards."""
        for k in range(6):
            size = width * (1.25 - 0.14 * k)
            self.ellipse(x, row, size, 0.2 * size, times(soil, 0.86 - 0.07 * k), rough=0.12)

    def leaf(
        self, x: float, y: float, size: float, colour: Colour, row: float | None = None, flat: float = 1.0
    ) -> None:
        turn, slim = self.rng.uniform(0, pi), self.rng.uniform(0.3, 0.6)
        c, s = cos(turn) * size, sin(turn) * size
        d, t = slim * c * flat, slim * s
        s *= flat
        self.shape(((x + c, y + s), (x - t, y + d), (x - c, y - s), (x + t, y - d)), colour, row)

    def blade(self, x: float, row: float, height: float, colour: Colour) -> None:
        lean = self.rng.gauss(0, 0.35) * height
        half = 0.032 * height + 0.0006
        bend, waist = x + 0.3 * lean, row - 0.6 * height
        self.shape(
            (
                (x - half, row),
                (bend - 0.7 * half, waist),
                (x + lean, row - height),
                (bend + 0.7 * half, waist),
                (x + half, row),
            ),
            colour,
            row,
        )

    def branch(
        self, x: float, y: float, angle: float, length: float, girth: float, colour: Colour, row: float, forks: int = 3
    ) -> None:
        angle += self.rng.gauss(0, 0.2)
        end_x, end_y = x + length * cos(angle), y - length * sin(angle)
        dx, dy = -sin(angle) * girth, -cos(angle) * girth
        self.shape(
            (
                (x + dx, y + dy),
                (end_x + 0.6 * dx, end_y + 0.6 * dy),
                (end_x - 0.6 * dx, end_y - 0.6 * dy),
                (x - dx, y - dy),
            ),
            colour,
            row,
        )
        if forks:
            for turn in (self.rng.gauss(0.05, 0.15), self.rng.choice((-1, 1)) * self.rng.uniform(0.4, 0.9)):
                self.branch(
                    end_x,
                    end_y,
                    angle + turn,
                    length * self.rng.uniform(0.5, 0.85),
                    0.58 * girth,
                    colour,
                    row,
                    forks - 1,
                )

    def trunk(self, x: float, row: float, girth: float, palette: Palette, branches: int = 3) -> None:
        """A tree that leaves the picture at the top: strips of bark shaded as a cylinder, cracks, a few branches."""
        rng = self.rng
        bark = self.pick(palette, 0.12)
        lean, wave, bow = rng.gauss(0, 0.07), rng.uniform(0, 2 * pi), rng.gauss(0, 0.012)

        def at(m, y):  # m runs from -1 at the left rim to 1 at the right one
            rise = max(0.0, row - y)
            half = 0.5 * girth * (1 - 0.35 * rise) * (1 + 0.5 * exp(-rise / (0.4 * girth + 1e-3)))
            return x + lean * (row - y) + bow * sin(4 * y + wave) + m * half, y

        for _ in range(branches):
            foot = at(0, rng.uniform(-0.05, 0.6 * row))
            self.branch(
                *foot,
                rng.choice((0.2, 0.8)) * pi + rng.gauss(0, 0.3),
                girth * rng.uniform(0.8, 2.0),
                girth * 0.10,
                times(bark, 0.75),
                row,
            )
        levels = [row * k / 8 for k in range(9)]
        self.shape_strips(at, levels, bark, girth, row)
        if girth * self.scale > 8:
            for _ in range(int(60 * min(1, girth / 0.05))):
                m = rng.uniform(-0.95, 0.95)
                px, y = at(m, rng.uniform(0, row))
                length, width = rng.uniform(0.05, 0.3) * girth, rng.uniform(0.008, 0.03) * girth
                tone = times(bark, rng.choice((0.45, 0.45, 0.6, 1.25)) * (1 - 0.25 * abs(m)))
                self.shape(((px - width, y), (px, y - length), (px + width, y), (px, y + length)), tone, row)

    def log(self, x: float, row: float, length: float, girth: float, palette: Palette, soil: Colour) -> None:
        """A fallen tree with its cut end."""
        bark, tilt = self.pick(palette, 0.12), self.rng.gauss(0, 0.10)

        def at(m, along):  # m runs from -1 at the upper rim to 1 at the lower one
            return x + along, row - 0.5 * girth + tilt * along + 0.5 * girth * m * (1 - 0.25 * along / length)

        self.contact(x + 0.5 * length, row + 0.5 * tilt * length, 0.52 * length, soil)
        self.shape_strips(at, [length * k / 6 for k in range(7)], bark, girth, row)
        for _ in range(50):
            (px, y), w = (
                at(self.rng.uniform(-0.9, 0.9), self.rng.uniform(0.05, 0.98) * length),
                self.rng.uniform(0.05, 0.5) * girth,
            )
            self.shape(
                ((px - w, y - tilt * w), (px, y - 0.02 * girth), (px + w, y + tilt * w), (px, y + 0.02 * girth)),
                times(bark, self.rng.choice((0.5, 0.7, 1.3))),
                row,
            )
        for k in range(4):
            self.ellipse(
                x,
                row - 0.5 * girth,
                0.22 * girth * (1 - 0.24 * k),
                0.48 * girth * (1 - 0.24 * k),
                times(mix(bark, (190, 160, 120), 0.6), 1.0 - 0.12 * (k % 2)),
            )

    def shape_strips(self, at, levels: Sequence[float], bark: Colour, girth: float, row: float) -> None:
        """A cylinder as strips along its length, the light one third off its middle."""
        strips = int(min(12, max(3, girth * self.scale / 3)))
        for k in range(strips):
            a, b = 2 * k / strips - 1, 2 * (k + 1) / strips - 1
            middle = 0.5 * (a + b)
            light = 0.42 + 0.66 * sqrt(max(0.0, 1 - (middle + 0.3) ** 2 / 1.75))
            outline = [at(a, level) for level in levels] + [at(b, level) for level in reversed(levels)]
            self.shape(outline, times(bark, light * exp(self.rng.gauss(0, 0.05))), row)

    def crown(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        leaf: float,
        count: int,
        palette: Palette,
        row: float,
        depth: float = 0.5,
    ) -> None:
        """A clump of leaves, dark within and bright on top: a bush, a spray, a far tree."""
        rng = self.rng
        for k in range(count):
            away, angle = sqrt(rng.random()) * rng.uniform(0.6, 1.0), rng.uniform(0, 2 * pi)
            dx, dy = away * cos(angle), away * sin(angle)
            light = (1 - depth) + depth * 0.85 * (k / count + 0.5 - 0.5 * dy)
            self.leaf(
                x + dx * width, y + dy * height, leaf * rng.uniform(0.6, 1.3), self.pick(palette, 0.14, light), row
            )

    def stone(self, x: float, row: float, size: float, colour: Colour, soil: Colour) -> None:
        rng = self.rng
        outline = [
            (size * rng.uniform(0.82, 1.08) * cos(a), 0.55 * size * rng.uniform(0.82, 1.08) * sin(a))
            for a in sorted(rng.uniform(0, 2 * pi) for _ in range(12))
        ]
        self.contact(x, row - 0.05 * size, 1.1 * size, soil)
        for k in range(7):  # from the dark foot to the light top
            f = 1 - 0.13 * k
            cx, cy = x - 0.03 * k * size, row - 0.34 * size - 0.045 * k * size
            self.shape([(cx + px * f, cy + py * f) for px, py in outline], times(colour, 0.50 + 0.09 * k), row)
        for _ in range(16):
            self.ellipse(
                x + rng.gauss(0, 0.35) * size,
                row - 0.4 * size + rng.gauss(0, 0.18) * size,
                0.06 * size,
                0.04 * size,
                self.pick((colour,), 0.2, 0.95),
            )


# -- from the horizon to the lens --------------------------------------------------------------------------------------


def paint_backdrop(p: Painter, biome: Biome) -> None:
    """Everything behind the ground, a little out of focus: open sky over a far wood, or the wood itself."""
    if biome.sky is None:
        paint_wood(p, biome)
    else:
        paint_sky(p, biome)
    p.blur(0.0016)


def paint_sky(p: Painter, biome: Biome) -> None:
    rng, hz, sky = p.rng, p.horizon, biome.sky
    for k in range(40):
        p.fill_below(k / 40 * (hz + 0.05), times(sky, 0.86 + 0.14 * k / 40), 0)
    for _ in range(60):  # clouds
        w = rng.uniform(0.05, 0.3)
        p.ellipse(p.somewhere(), hz * rng.betavariate(1.2, 1.6), w, 0.12 * w, times(sky, rng.uniform(0.97, 1.08)))
    p.blur(0.012)
    phase = [rng.uniform(0, 2 * pi) for _ in range(3)]
    for k in range(2):  # far hills, then the edge of the wood
        tone = mix(times(sky, 0.86), biome.foliage[0], 0.34 + 0.26 * k)
        columns = [p.aspect * j / 40 for j in range(41)]
        ridge = [
            (x, p.edge(x) - 0.085 + 0.04 * k + 0.03 * sin(3 * x + phase[k]) + 0.012 * sin(9 * x + phase[2] + k))
            for x in columns
        ]
        p.shape([*ridge, (p.aspect, hz + 0.08), (0, hz + 0.08)], tone, 0.01)
    palette = tuple(mix(times(c, 0.8), sky, 0.28) for c in biome.foliage)
    for _ in range(44):
        tall, x = rng.uniform(0.05, 0.17), p.somewhere()
        y = p.edge(x)
        if biome.name == "Snow" and rng.random() < 0.6:  # a spruce
            tone = p.pick(palette, 0.12)
            for k in range(9):
                w, rise = tall * 0.22 * (1 - k / 9) * rng.uniform(0.8, 1.2), tall * k / 8
                p.shape(
                    ((x - w, y - rise + 0.008), (x, y - rise - 0.22 * tall), (x + w, y - rise + 0.008)),
                    times(tone, rng.uniform(0.85, 1.15)),
                    0.012,
                )
        else:
            p.crown(x, y - 0.45 * tall, 0.7 * tall, 0.6 * tall, 0.007, 110, palette, 0.012)
    for _ in range(90):  # shrubs along the edge of the field
        x = p.somewhere()
        p.crown(x, p.edge(x) - 0.006, rng.uniform(0.02, 0.06), 0.018, 0.005, 30, palette, 0.012)


def paint_wood(p: Painter, biome: Biome) -> None:
    rng, hz = p.rng, p.horizon
    glow = mix(biome.foliage[0], (196, 204, 184), 0.45)
    for k in range(30):  # the light behind the trees is strongest at eye level
        y = k / 30 * (hz + 0.06)
        p.fill_below(y, times(glow, 0.30 + 0.42 * exp(-(((y - 0.72 * hz) / (0.4 * hz)) ** 2))), 0.01)
    for _ in range(int(700 * p.aspect)):  # gaps of sky and lit leaves far behind
        tone = (206, 216, 200) if rng.random() < 0.20 else p.pick(biome.foliage, 0.35, rng.uniform(0.5, 1.3))
        p.leaf(p.somewhere(), hz * rng.betavariate(1.2, 1.4), rng.uniform(0.004, 0.016), tone, 0.01)
    p.blur(0.006)
    for depth in (0.45, 0.7, 0.9):  # trunks and leaves, paler the farther
        bark = tuple(mix(times(b, 0.75), times(glow, 0.6), 1 - depth) for b in biome.bark)
        leaf = tuple(mix(times(c, 0.85), times(glow, 0.85), 0.5 * (1 - depth)) for c in biome.foliage)
        for _ in range(14):
            x = p.somewhere()
            p.trunk(x, p.edge(x) + 0.01, depth * rng.uniform(0.010, 0.026), bark, 0)
        for _ in range(22):
            p.crown(
                p.somewhere(0.05),
                hz * rng.uniform(-0.05, 0.9),
                rng.uniform(0.05, 0.16),
                rng.uniform(0.02, 0.07),
                0.004 + 0.003 * depth,
                90,
                leaf,
                0.012,
                0.7,
            )
        for _ in range(26):  # undergrowth hides the seam between wood and floor
            x = p.somewhere()
            p.crown(
                x, p.edge(x) - 0.01, rng.uniform(0.03, 0.10), rng.uniform(0.012, 0.035), 0.006, 60, leaf, 0.012, 0.7
            )
        p.blur(0.0022)


def paint_ground(p: Painter, biome: Biome) -> None:
    """The floor with what lies flat on it: litter, a stream, snow."""
    rng, hz, soil = p.rng, p.horizon, biome.soil
    columns = [p.aspect * k / 40 for k in range(41)]
    p.shape([*((x, p.edge(x)) for x in columns), (p.aspect, 1), (0, 1)], times(soil, 0.8), hz)
    for k in range(1, 130):
        y = (1 - hz) * k / 130
        outline = [(x, max(hz, p.edge(x)) + y) for x in columns]
        p.shape([*outline, (p.aspect, 1.1), (0, 1.1)], times(soil, 0.80 + 0.20 * k / 130), hz + y)
    for row in p.ground_rows(260, hz + 0.03):  # patches
        w = rng.uniform(0.05, 0.25) * p.near(row)
        p.ellipse(p.somewhere(0.1), row, w, min(0.22 * w, 0.5 * (row - hz - 0.02)), p.pick((soil,), 0.10), rough=0.35)
    if biome.water:
        paint_stream(p, biome)
    for row in p.ground_rows(biome.leaves, hz, 0.7):
        x = p.somewhere()
        if row > p.edge(x):
            p.leaf(x, row, 0.014 * p.near(row) * rng.uniform(0.5, 1.4) + 0.0008, p.pick(biome.litter, 0.2), flat=0.45)
    for row in p.ground_rows(60, hz + 0.03):  # twigs
        x, turn, length, girth = (
            p.somewhere(),
            rng.gauss(0, 0.5),
            rng.uniform(0.03, 0.16) * p.near(row),
            0.004 * p.near(row),
        )
        p.shape(
            ((x, row - girth), (x + length * cos(turn), row + 0.4 * length * sin(turn)), (x, row + girth)),
            p.pick(biome.bark, 0.3),
        )


def paint_stream(p: Painter, biome: Biome) -> None:
    """Water winding from the horizon to a lower corner, with ripples that mirror the sky."""
    rng, hz = p.rng, p.horizon
    start, end, bend = rng.uniform(0.3, 0.7) * p.aspect, rng.choice((0.05, 0.95)) * p.aspect, rng.gauss(0, 0.22)
    levels = [hz + 0.03 + (0.99 - hz) * k / 40 for k in range(41)]

    def at(m, y):  # m runs from -1 at the left bank to 1 at the right one
        t = (y - hz) / (1 - hz)
        half = (0.02 + 0.24 * p.near(y)) * (1 + 0.18 * sin(17 * y + m) + 0.10 * sin(53 * y + 2 * m))
        return start + (end - start) * t + bend * sin(5 * t) + m * half, y

    water = (88, 102, 100)
    for m, tone in ((1.15, times(biome.soil, 0.55)), (1.0, times(water, 0.7)), (0.88, water)):
        p.shape([at(-m, y) for y in levels] + [at(m, y) for y in reversed(levels)], tone)
    for row in p.ground_rows(700, hz + 0.03, 0.8):
        x, y = at(rng.uniform(-0.9, 0.9), row)
        length = min(0.05 * p.near(row) * rng.uniform(0.4, 1.5), abs(at(1, y)[0] - x), abs(at(-1, y)[0] - x))
        thick = 0.004 * p.near(row)
        p.shape(
            ((x - length, y), (x, y - thick), (x + length, y), (x, y + thick)),
            times(water, rng.choice((0.6, 0.75, 0.85, 1.25, 1.7))),
        )


def paint_growth(p: Painter, biome: Biome, thickets: np.ndarray) -> None:
    """What stands on the ground, from the horizon to the lens: trunks, bushes, stones, grass. ``thickets`` (h, w) is
    noise: where it is high the grass grows thick."""
    rng, hz = p.rng, p.horizon
    deep = 1 - hz
    things = [(row, "blade") for row in p.ground_rows(biome.blades, hz, 0.55)]
    things += [(hz + deep * rng.betavariate(1.0, 2.6) * 0.9 + 0.01, "trunk") for _ in range(biome.trunks)]
    things += [(hz + deep * rng.betavariate(1.1, 2.0), "bush") for _ in range(biome.bushes)]
    things += [(hz + deep * rng.betavariate(1.5, 1.5) + 0.02, "stone") for _ in range(biome.stones)]
    things += [(hz + deep * rng.uniform(0.15, 0.6), "log")] * (biome.trunks > 4 and rng.random() < 0.45)
    things += [(rng.uniform(0.97, 1.12), "tuft") for _ in range(10 if biome.blades > 300 else 3)]
    trees: list[float] = []
    for row, kind in sorted(things):
        near, x = p.near(row), p.somewhere(0.03)
        if kind == "blade":
            thick = float(thickets[min(63, int(row * 63)), min(95, max(0, int(x / p.aspect * 95)))])
            if row > p.edge(x) and (thick > -0.4 or rng.random() < 0.4):
                p.blade(
                    x,
                    row,
                    biome.blade_height * near * rng.uniform(0.4, 1.2),
                    p.pick(biome.blade_colours, 0.15, 0.9 + 0.12 * thick),
                )
        elif kind == "trunk":
            if near > 0.3:  # thick ones keep to the sides and leave the view open
                x = rng.choice((rng.uniform(-0.02, 0.2), rng.uniform(0.8, 1.02))) * p.aspect
            girth = 0.17 * near * rng.uniform(0.55, 1.25)
            if all(abs(x - other) > 0.05 for other in trees):
                trees.append(x)
                p.contact(x, row, 1.2 * girth, biome.soil)
                p.trunk(x, row, girth, biome.bark)
                for _ in range(14 if biome.blades > 300 else 4):
                    p.blade(
                        x + rng.gauss(0, 0.7) * girth,
                        row + 0.1 * girth,
                        biome.blade_height * near * rng.uniform(0.4, 1.0),
                        p.pick(biome.blade_colours),
                    )
        elif kind == "bush":
            w = 0.30 * near * rng.uniform(0.5, 1.0)
            h = w * rng.uniform(0.4, 0.7)
            p.contact(x, row, 0.9 * w, biome.soil)
            p.crown(x, row - 0.7 * h, w, h, 0.016 * near + 0.003, int(200 + 600 * near), biome.foliage, row, 0.75)
        elif kind == "stone":
            p.stone(x, row, 0.13 * near * rng.uniform(0.3, 1.2), p.pick(STONES, 0.1), biome.soil)
        elif kind == "log":
            p.log(
                x - 0.3 * near,
                row,
                near * rng.uniform(0.6, 1.2),
                near * rng.uniform(0.08, 0.14),
                biome.bark,
                biome.soil,
            )
        else:
            side = rng.choice((rng.gauss(0.12, 0.1), rng.gauss(0.88, 0.1))) * p.aspect
            for _ in range(26):
                p.blade(side + rng.gauss(0, 0.05), row, 0.24 * rng.uniform(0.3, 1.0), p.pick(biome.blade_colours, 0.2))
