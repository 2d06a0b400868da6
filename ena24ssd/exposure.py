"""What does the camera record when animals walk through its place?

From a `Place` without anybody and a list of `Walker`: who stands where and what of them can be seen (`stage`), the
light of the hour or the infrared flash (`light_at`), the light that reaches the lens (`expose`), and what sensor and
firmware make of it (`develop`, `stamp_strip`). All light is linear until `develop`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from math import cos, pi
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from ena24ssd.boxes import Box
from ena24ssd.fauna import ALL_SPECIES, Sprite, draw_animal
from ena24ssd.scenery import Place

NOON = 12.75  # the hour at which the sun stands highest
SHOWN_AT_LEAST = 0.25  # of an animal's area, else it is left out


class Walker(NamedTuple):
    """One animal's passage through a burst. Columns and rows are shares of the picture's height."""

    species: int
    postures: tuple[str, ...]  # one a frame
    column: float
    row: float
    speed: float  # columns a frame
    phase: float
    faces_left: bool
    squeeze: float
    seed: int
    hidden_by_things: bool = True  # False: nothing in the scene stands before it

    def column_at(self, frame: int) -> float:
        return self.column + self.speed * frame


def sprite_of(walker: Walker, frame: int, place: Place, height: float) -> Sprite:
    kind = ALL_SPECIES[walker.species]
    near = (walker.row - place.horizon) / (1 - place.horizon)
    return draw_animal(
        kind,
        walker.postures[frame],
        walker.phase + 1.1 * frame,
        kind.size * near * height,
        np.random.default_rng(walker.seed),
        faces_left=walker.faces_left,
        squeeze=walker.squeeze,
    )


class Light(NamedTuple):
    """``infrared``: lit by the camera's own flash. ``ambient`` and ``sun`` are irradiances, RGB or one grey value."""

    infrared: bool
    ambient: np.ndarray
    sun: np.ndarray
    haze: np.ndarray


# -- light -------------------------------------------------------------------------------------------------------------


def half_day(month: int) -> float:
    """Hours from noon to sunset: 4.6 in December, 7.4 in June."""
    return 6.0 - 1.4 * cos(2 * pi * month / 12)


def hours_past_noon(moment: datetime) -> float:
    """Between -12 and 12."""
    return (moment.hour + moment.minute / 60 + moment.second / 3600 - NOON + 12) % 24 - 12


def light_at(moment: datetime, place: Place, rng: np.random.Generator) -> Light:
    """Daylight by the hour, or the infrared flash once the sun is down (for half an hour both)."""
    half, hour = half_day(moment.month), hours_past_noon(moment)
    height = cos(0.5 * pi * min(1.0, abs(hour) / half))
    if abs(hour) < half - 0.3:
        clear = float(rng.choice([0.25, 1.0, 1.0]))  # overcast now and then
        warm = np.float32([1.0, 0.80 + 0.17 * height, 0.55 + 0.37 * height])
        ambient = np.float32([0.50, 0.55, 0.60]) * (1.25 - 0.35 * clear)
        return Light(False, ambient, 1.25 * clear * (0.35 + 0.65 * height) * warm, np.float32(place.biome.haze))
    grey = np.float32([1.0])
    dusk = max(0.0, 1 - abs(abs(hour) - half) / 0.5)
    return Light(True, grey * (0.015 + 0.5 * dusk), grey * 0.0, grey * 0.0)


def flash_on(place: Place, distance: np.ndarray) -> np.ndarray:
    """The infrared flash at each pixel, (H, W): a hot spot that falls off to the corners and with ``distance``."""
    height, width = place.infrared.shape
    y, x = pixel_centres(height, width)
    column, row = place.flash
    spot = 0.18 + 0.90 * np.exp(-((x / height - column) ** 2) / 0.30) * np.exp(-((y / height - row) ** 2) / 0.20)
    return spot * 2.3 / (0.5 + distance) ** 1.3


def pixel_centres(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (H, 1) and columns (1, W)."""
    return np.arange(0.5, height, dtype=np.float32)[:, None], np.arange(0.5, width, dtype=np.float32)[None, :]


# -- exposure ----------------------------------------------------------------------------------------------------------


class Staged(NamedTuple):
    """An animal put into the picture, before it is lit.

    ``left`` and ``top`` place its sprite, in pixels; ``window`` is the part of the picture it falls on, ``cut`` the
    part of the sprite that falls there. ``free`` (h, w) is 1 where nothing of the scene stands before it, ``shown``
    (h, w) in [0, 1] is what can be seen of it.
    """

    walker: Walker
    sprite: Sprite
    left: int
    top: int
    window: tuple[slice, slice]
    cut: tuple[slice, slice]
    free: np.ndarray
    shown: np.ndarray


def stage(place: Place, walkers: Sequence[Walker], frame: int) -> list[Staged]:
    """Put the animals into the picture, far ones first; those mostly hidden or outside stay away."""
    height, width = place.infrared.shape
    bar = round(STRIP * height)
    uncovered = np.ones((height, width), dtype=np.float32)  # by nearer animals and by the strip
    uncovered[:bar] = uncovered[height - bar :] = 0
    staged: list[Staged] = []
    for walker in sorted(walkers, key=lambda w: -w.row):
        sprite = sprite_of(walker, frame, place, height)
        left = round(walker.column_at(frame) * height - sprite.foot[0])
        top = round(walker.row * height - sprite.foot[1])
        h, w = sprite.alpha.shape
        x0, x1, y0, y1 = max(0, left), min(width, left + w), max(0, top), min(height, top + h)
        if x0 >= x1 or y0 >= y1:
            continue
        window, cut = (slice(y0, y1), slice(x0, x1)), (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
        free = np.ones((y1 - y0, x1 - x0), dtype=np.float32)
        if walker.hidden_by_things:
            before = place.rows[2 * y0 : 2 * y1, 2 * x0 : 2 * x1] > 255 * walker.row + 3
            free -= before.reshape(y1 - y0, 2, x1 - x0, 2).mean(axis=(1, 3), dtype=np.float32)
        shown = sprite.alpha[cut] * free * uncovered[window]
        if shown.sum() < SHOWN_AT_LEAST * sprite.alpha.sum():
            continue
        uncovered[window] *= 1 - sprite.alpha[cut] * free
        staged.append(Staged(walker, sprite, left, top, window, cut, free, shown))
    return staged[::-1]


def expose(place: Place, staged: Sequence[Staged], light: Light, rng: np.random.Generator) -> np.ndarray:
    """The linear picture, (H, W, 3) by day and (H, W, 1) in infrared."""
    height, width = place.infrared.shape
    start = int(0.25 * width) + int(rng.integers(-width // 40, width // 40 + 1))  # the leaves overhead stir
    dapple = place.dapple[:, start : start + width, None]
    if light.infrared:
        flash = flash_on(place, place.distance) * (1 - place.sky)
        scene = place.infrared[..., None] * (light.ambient + flash[..., None])
    else:
        scene = place.albedo * (light.ambient + light.sun * dapple)
        scene += place.sky[..., None] * (place.albedo * 1.25 - scene)
        scene += (haze_before(place.distance) * (1 - place.sky))[..., None] * (light.haze - scene)
    for animal in staged:
        cast_shadow(scene, animal, place, light)
        cover = animal.sprite.alpha[animal.cut][..., None]
        lit = light_animal(animal, place, light, dapple[animal.window])
        blur = abs(animal.walker.speed) * height * (0.10 if light.infrared else 0.02) * rng.uniform(0, 1.6)
        lit, cover = smear(lit * cover, cover, blur)
        patch = scene[animal.window]
        patch += animal.free[..., None] * (lit - cover * patch)
    return scene


def haze_before(distance):
    """The share of the light from ``distance`` that is lost to haze."""
    return 1 - np.exp(-0.007 * (distance - 1))


def light_animal(animal: Staged, place: Place, light: Light, dapple: np.ndarray) -> np.ndarray:
    """The light that comes from an animal, (h, w, 3 or 1), its eyes included."""
    sprite, row = animal.sprite, animal.walker.row
    colour, normal = sprite.colour[animal.cut] ** 1.6, sprite.normal[animal.cut]
    distance = np.float32((1 - place.horizon) / (row - place.horizon))
    up = normal[..., 1:2]
    if light.infrared:
        tone = 0.018 + 0.9 * (colour @ np.float32([0.45, 0.40, 0.15])) ** 0.72  # fur is pale in the near infrared
        flash = flash_on(place, distance)[animal.window] * (0.08 + 0.92 * normal[..., 2])
        lit = tone[..., None] * (light.ambient * (0.7 + 0.3 * up) + flash[..., None])
    else:
        facing = np.clip(normal @ np.float32([0.55 * place.sun_side, 0.70, 0.46]), 0, None)[..., None]
        lit = colour * (light.ambient * (0.72 + 0.28 * up) + 1.25 * light.sun * (0.25 + 0.75 * dapple) * facing)
        lit += haze_before(distance) * (light.haze - lit)
    y, x = np.ogrid[animal.cut]
    for ex, ey, er in sprite.eyes:
        gap = np.sqrt((x + 0.5 - ex) ** 2 + (y + 0.5 - ey) ** 2).astype(np.float32)
        if light.infrared:  # eyes throw the flash back
            shine = np.clip(np.clip(1.1 * er, 1.0, 3.5) + 0.5 - gap, 0, 1) + 0.35 * np.exp(
                -((gap / np.clip(3 * er, 2, 5)) ** 2)
            )
            lit += 1.6 * shine[..., None]
        else:
            lit *= 1 - 0.93 * np.clip(er + 0.5 - gap, 0, 1)[..., None]
    return lit


def box_of(shown: np.ndarray, left: int, top: int) -> Box:
    """The tight box round what shows of an animal, in pixels of the picture; ``left``, ``top`` is where (h, w) lies."""
    rows, columns = np.nonzero(shown.max(axis=1) > 0.35)[0], np.nonzero(shown.max(axis=0) > 0.35)[0]
    return Box(float(left + columns[0]), float(top + rows[0]), float(left + columns[-1] + 1), float(top + rows[-1] + 1))


def cast_shadow(scene: np.ndarray, animal: Staged, place: Place, light: Light) -> None:
    """Darken the ground under an animal: its silhouette, pressed flat and blurred."""
    height, width = scene.shape[:2]
    h, w = animal.sprite.alpha.shape
    depth = max(3, int(0.15 * h))
    flat = Image.fromarray((animal.sprite.alpha[::-1] * 255).astype(np.uint8)).resize((w, depth))
    soft = Image.new("L", (w + 2 * depth, 3 * depth))
    soft.paste(flat, (depth, depth))
    soft = np.asarray(soft.filter(ImageFilter.GaussianBlur(0.3 * depth)), dtype=np.float32) / 255
    left = animal.left - depth - int(0.5 * depth * place.sun_side)
    top = round(animal.walker.row * height) - depth - depth // 3
    x0, x1, y0, y1 = max(0, left), min(width, left + soft.shape[1]), max(0, top), min(height, top + soft.shape[0])
    if x0 >= x1 or y0 >= y1:
        return
    dark = np.minimum(1, 1.5 * soft[y0 - top : y1 - top, x0 - left : x1 - left])
    dark = dark * (place.rows[2 * y0 : 2 * y1 : 2, 2 * x0 : 2 * x1 : 2] <= 255 * animal.walker.row + 30)
    scene[y0:y1, x0:x1] *= (1 - min(0.75, 0.30 + 0.35 * float(np.mean(light.sun))) * dark)[..., None]


def smear(colour: np.ndarray, cover: np.ndarray, length: float) -> tuple[np.ndarray, np.ndarray]:
    """Blur a premultiplied colour and its cover along the rows, as a moving animal does during the exposure."""
    steps = int(length)
    if steps < 2:
        return colour, cover
    both = np.concatenate([colour, cover], axis=-1)
    padded = np.pad(both, ((0, 0), (steps // 2, steps - steps // 2 - 1), (0, 0)))
    total = sum(padded[:, k : k + both.shape[1]] for k in range(steps)) / np.float32(steps)
    return total[..., :-1], total[..., -1:]


def develop(linear: np.ndarray, light: Light, rng: np.random.Generator, place: Place) -> Image.Image:
    """Exposure, lens, sensor: linear light (H, W, 3 or 1) to an 8-bit RGB picture."""
    height, width, channels = linear.shape
    target = 0.26 if light.infrared else place.biome.brightness
    gain = min(3.5, target / max(float(linear.mean()), 0.02)) * float(np.exp(rng.normal(0, 0.05)))
    y, x = pixel_centres(height, width)
    vignette = 1 - (0.75 if light.infrared else 0.45) * ((y / height - 0.5) ** 2 + (x / width - 0.5) ** 2)
    scale = (vignette * gain)[..., None] * (1 if light.infrared else place.tint)
    tone = TONES[np.minimum(linear * (scale * (len(TONES) / 4)), len(TONES) - 1).astype(np.uint16)]
    grain = rng.standard_normal(height * width + 2 * channels, dtype=np.float32)  # read thrice, shifted: colour noise
    for k in range(channels):
        own = grain[2 * k : 2 * k + height * width].reshape(height, width)
        tone[..., k] += own * (10.5 - 0.024 * tone[..., k]) if light.infrared else 3.5 * own
    tone = np.clip(tone, 0, 255).astype(np.uint8)
    return Image.fromarray(np.repeat(tone, 3, axis=2) if channels == 1 else tone)


# The film's curve: light from 0 to 4 becomes 0 to 255, with a soft shoulder.
TONES = (255 * (1 - np.exp(-1.25 * np.linspace(0, 4, 8192))) ** (1 / 1.55)).astype(np.float32)


# -- the strip ---------------------------------------------------------------------------------------------------------

STRIP = 0.040  # each bar's share of the height
GLYPHS = {  # 5 x 7 dots, a row a number, the left dot is 16
    "0": (14, 17, 19, 21, 25, 17, 14),
    "1": (4, 12, 4, 4, 4, 4, 14),
    "2": (14, 17, 1, 2, 4, 8, 31),
    "3": (31, 2, 4, 2, 1, 17, 14),
    "4": (2, 6, 10, 18, 31, 2, 2),
    "5": (31, 16, 30, 1, 1, 17, 14),
    "6": (6, 8, 16, 30, 17, 17, 14),
    "7": (31, 1, 2, 4, 8, 8, 8),
    "8": (14, 17, 17, 14, 17, 17, 14),
    "9": (14, 17, 17, 15, 1, 2, 12),
    "A": (14, 17, 17, 31, 17, 17, 17),
    "C": (14, 17, 16, 16, 16, 17, 14),
    "M": (17, 27, 21, 21, 17, 17, 17),
    "P": (30, 17, 17, 30, 16, 16, 16),
    ":": (0, 4, 4, 0, 4, 4, 0),
    "-": (0, 0, 0, 14, 0, 0, 0),
    "/": (0, 1, 2, 4, 8, 16, 0),
    "°": (6, 9, 9, 6, 0, 0, 0),
    " ": (0, 0, 0, 0, 0, 0, 0),
}


def set_text(text: str, height: int) -> Image.Image:
    """White dot-matrix text on black, ``height`` pixels high."""
    dots = np.zeros((9, 6 * len(text)), dtype=np.uint8)
    for k, letter in enumerate(text):
        for row, bits in enumerate(GLYPHS[letter]):
            dots[1 + row, 6 * k : 6 * k + 5] = [255 * (bits >> (4 - column) & 1) for column in range(5)]
    big = Image.fromarray(np.kron(dots, np.ones((6, 6), dtype=np.uint8)))
    return big.resize((max(1, round(dots.shape[1] * height / 9)), height), Image.Resampling.BOX)


def stamp_strip(picture: Image.Image, moment: datetime, counter: str, warmth: int, camera: str) -> None:
    """Burn two bars into the picture: date, time, burst ``counter``, moon and temperature above, ``camera`` below.

    ``warmth`` is the noon temperature of the season in degrees Celsius; days and hours move it.
    """
    width, height = picture.size
    bar = round(STRIP * height)
    inset = round(0.4 * bar)
    picture.paste((0, 0, 0), (0, 0, width, bar))
    picture.paste((0, 0, 0), (0, height - bar, width, height))
    clock = f"{moment:%Y-%m-%d} {moment.hour % 12 or 12:2d}:{moment:%M:%S} {'AP'[moment.hour >= 12]}M"
    degrees = round(warmth + 5 * cos(pi * hours_past_noon(moment) / 12) + (moment.day * 7) % 9 - 5)
    temperature = set_text(f"{degrees:3d}°C", bar)
    picture.paste(set_text(f"{clock}  {counter}", bar), (inset, 0))
    picture.paste(temperature, (width - temperature.width - inset // 2, 0))
    picture.paste(
        draw_moon(moment, round(0.7 * bar)), (width - temperature.width - round(1.4 * bar), round(0.12 * bar))
    )
    picture.paste(set_text(camera, bar), (inset, height - bar))


def draw_moon(moment: datetime, size: int) -> Image.Image:
    """The moon in its phase, ``size`` pixels across."""
    age = ((moment - datetime(2000, 1, 6, 18)) / timedelta(days=29.530588)) % 1  # 0 new, 0.5 full
    v, u = np.mgrid[-1:1:42j, -1:1:42j]
    rim = np.cos(2 * pi * age) * np.sqrt(np.maximum(0, 1 - v**2))  # where light meets dark
    bright = u > rim if age < 0.5 else u < -rim
    disc = np.where(u**2 + v**2 > 1, 0, np.where(bright, 255, 70)).astype(np.uint8)
    return Image.fromarray(disc).resize((max(1, size),) * 2, Image.Resampling.BOX)
