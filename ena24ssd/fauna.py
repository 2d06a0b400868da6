"""What does each animal look like, and how does it hold itself?

An animal is a list of tubes: a smooth spine whose points carry a radius, with a colour. Legs, necks, tails, ears and
bodies are all tubes, painted far side first. The distance to a tube's skin gives the antialiased silhouette, and the
height above the picture plane gives the surface normal that scenery's light falls on.

Animal units: x forward, y up, the ground at y = 0, about one body length to a unit; every animal is built facing right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import cos, sin
from typing import NamedTuple

import numpy as np
from PIL import Image

Point = tuple[float, float, float]
Colour = tuple[float, float, float]


class Tube(NamedTuple):
    """One body part: ``spine`` holds (x, y, radius) in animal units, colours are RGB in [0, 1]."""

    spine: Sequence[Point]
    colour: Colour
    under: Colour | None = None  # the pale lower side
    bands: Sequence[tuple[float, Colour]] = ()  # from this share of the length on, that colour
    soft: float = 0.6  # the share of the radius over which it melts into what lies beneath
    mark: bool = False  # a marking: recolours what is there and adds no body
    shade: float = 1.0  # below 1: the far side


class Body(NamedTuple):
    """All of one animal in one posture. ``eyes`` hold (x, y, radius)."""

    tubes: list[Tube]
    eyes: list[Point]


class Sprite(NamedTuple):
    """A drawn animal, unlit: what `draw_animal` hands to the scene.

    ``colour`` (h, w, 3) in [0, 1], ``normal`` (h, w, 3) unit vectors (x right, y up, z towards the camera), ``alpha``
    (h, w) in [0, 1], ``eyes`` (x, y, radius) in sprite pixels, ``foot`` (x, y) the pixel of the ground beneath it.
    """

    colour: np.ndarray
    normal: np.ndarray
    alpha: np.ndarray
    eyes: list[Point]
    foot: tuple[float, float]


# -- anatomy -----------------------------------------------------------------------------------------------------------


def turn(points: Sequence[Point], at: tuple[float, float], angle: float, scale: float = 1.0) -> list[Point]:
    """The points turned anticlockwise by ``angle`` radians about the origin, scaled, and moved to ``at``."""
    c, s = cos(angle) * scale, sin(angle) * scale
    return [(at[0] + c * x - s * y, at[1] + s * x + c * y, r * scale) for x, y, r in points]


def foreleg(
    shoulder: tuple[float, float], foot: tuple[float, float], radii: Sequence[float], toe: float
) -> list[Point]:
    """Shoulder, elbow, wrist, foot; the elbow points backwards. ``toe`` is the length of the paw."""
    (x, y), (fx, fy) = shoulder, foot
    length = y - fy
    top, elbow, wrist, paw = radii
    return [
        (x, y, top),
        (x + 0.45 * (fx - x) - 0.05 * length, y - 0.42 * length, elbow),
        (x + 0.78 * (fx - x) + 0.02 * length, y - 0.74 * length, wrist),
        (fx, fy + paw + 0.02, paw),
        (fx + toe, fy + 0.85 * paw, 0.8 * paw),
    ]


def hindleg(hip: tuple[float, float], foot: tuple[float, float], radii: Sequence[float], toe: float) -> list[Point]:
    """Hip, knee (forwards), hock (backwards), foot."""
    (x, y), (fx, fy) = hip, foot
    length = y - fy
    top, knee, hock, paw = radii
    return [
        (x, y, top),
        (x + 0.42 * (fx - x) + 0.10 * length, y - 0.36 * length, knee),
        (x + 0.85 * (fx - x) - 0.13 * length, y - 0.66 * length, hock),
        (fx - 0.02 * length, fy + paw + 0.02, paw),
        (fx + toe, fy + 0.85 * paw, 0.8 * paw),
    ]


def stride(phase: float, reach: float, lift: float) -> list[tuple[float, float]]:
    """Where the four feet are relative to their joints: near fore, far fore, near hind, far hind."""
    return [
        (reach * sin(phase + lag), lift * max(0.0, cos(phase + lag))) for lag in (0.0, np.pi, 0.6 * np.pi, 1.6 * np.pi)
    ]


def four_legs(shoulder, hip, feet, fore, hind, toe, colour, bands=(), shade=0.62) -> tuple[list[Tube], list[Tube]]:
    """(far legs, near legs) of a walker; ``fore`` and ``hind`` are the radii from the body down to the foot."""
    far, near = [], []
    for side, joint, radii, leg, (dx, dy) in (
        (near, shoulder, fore, foreleg, feet[0]),
        (far, shoulder, fore, foreleg, feet[1]),
        (near, hip, hind, hindleg, feet[2]),
        (far, hip, hind, hindleg, feet[3]),
    ):
        offset = 0.07 if side is far else 0.0  # the far pair shows beside the near one even when they stand square
        spine = leg((joint[0] + offset, joint[1]), (joint[0] + offset + dx, dy + 0.2 * offset), radii, toe)
        side.append(Tube(spine, colour, bands=bands, shade=shade if side is far else 1.0, soft=0.9))
    return far, near


# -- species -----------------------------------------------------------------------------------------------------------

BLACK, WHITE, NOSE = (0.05, 0.045, 0.045), (0.93, 0.90, 0.85), (0.04, 0.035, 0.035)


def deer(posture: str, phase: float, rng: np.random.Generator) -> Body:
    coat, pale, dark = (0.57, 0.43, 0.30), (0.92, 0.86, 0.76), (0.20, 0.14, 0.10)
    still = posture in ("graze", "alert")
    feet = stride(phase, 0.05 if still else 0.38 if posture == "flee" else 0.24, 0 if still else 0.12)
    far, near = four_legs(
        (0.40, 0.74),
        (-0.46, 0.80),
        feet,
        (0.125, 0.060, 0.032, 0.027),
        (0.185, 0.080, 0.036, 0.027),
        0.035,
        coat,
        bands=[(0.93, dark)],
    )
    body = Tube(
        [
            (-0.60, 0.86, 0.10),
            (-0.47, 0.85, 0.19),
            (-0.15, 0.79, 0.195),
            (0.15, 0.77, 0.21),
            (0.40, 0.80, 0.205),
            (0.50, 0.84, 0.14),
        ],
        coat,
        under=pale,
    )
    bend = 0.06 * sin(2 * phase)
    poll, pitch = {
        "walk": ((0.80, 1.22 + bend), -0.25),
        "alert": ((0.66, 1.36), 0.0),
        "graze": ((0.88, 0.36), -1.05 + bend),
        "flee": ((0.86, 1.22 + bend), -0.1),
    }[posture]
    middle = (0.5 * (0.47 + poll[0]) + (0.06 if posture == "graze" else 0.03), 0.5 * (0.88 + poll[1]) - 0.02)
    neck = Tube([(0.40, 0.84, 0.17), (*middle, 0.115), (*poll, 0.085)], coat, under=pale)

    def on_head(points):
        return turn(points, poll, pitch, 1.1)

    ear = [(-0.03, 0.05, 0.022), (-0.10, 0.12, 0.045), (-0.17, 0.17, 0.010)]
    if posture == "alert":
        ear = [(-0.02, 0.06, 0.022), (-0.05, 0.15, 0.045), (-0.09, 0.23, 0.010)]
    head = [
        Tube(on_head([(x + 0.05, y + 0.02, r) for x, y, r in ear]), coat, shade=0.6),
        Tube(on_head([(0, 0, 0.085), (0.08, -0.005, 0.078), (0.18, -0.03, 0.05), (0.26, -0.045, 0.040)]), coat),
        Tube(on_head([(0.22, -0.075, 0.03), (0.14, -0.085, 0.025)]), pale, mark=True),
        Tube(on_head([(0.285, -0.035, 0.022)]), NOSE),
        Tube(on_head(ear), (0.55, 0.38, 0.25), soft=0.2),
        Tube(on_head([(x, y, 0.4 * r) for x, y, r in ear]), (0.80, 0.66, 0.55), mark=True),
    ]
    if rng.random() < 0.35 and posture != "flee":
        beam = [(-0.02, 0.08, 0.016), (-0.09, 0.24, 0.015), (0.00, 0.38, 0.012), (0.12, 0.44, 0.007)]
        tines = [[(-0.08, 0.22, 0.012), (0.02, 0.27, 0.006)], [(-0.03, 0.34, 0.011), (-0.05, 0.46, 0.006)]]
        bone = (0.72, 0.62, 0.46)
        for shift, shade in ((0.05, 0.6), (0.0, 1.0)):
            head += [Tube(on_head([(x + shift, y, r) for x, y, r in p]), bone, shade=shade) for p in (beam, *tines)]
    if posture == "flee":
        tail = Tube([(-0.62, 0.92, 0.05), (-0.70, 1.06, 0.085), (-0.72, 1.22, 0.03)], WHITE)
    else:
        tail = Tube([(-0.64, 0.92, 0.04), (-0.72, 0.80, 0.055), (-0.72, 0.66, 0.02)], coat, under=WHITE)
    rump = Tube([(-0.63, 0.74, 0.05), (-0.60, 0.62, 0.04)], pale, mark=True)
    eyes = on_head([(0.085, 0.03, 0.018)])
    return Body([*far, tail, neck, body, *near, rump, *head], eyes)


def fox(posture: str, phase: float, rng: np.random.Generator) -> Body:
    coat, pale, sock = (0.76, 0.39, 0.15), (0.95, 0.90, 0.82), (0.10, 0.07, 0.06)
    bend = 0.03 * sin(2 * phase)
    tail_bands = [(0.80, WHITE)]
    if posture == "sit":
        poll, pitch = (0.30, 0.84), -0.12
        parts = [
            Tube(
                [(-0.20, 0.10, 0.07), (-0.45, 0.09, 0.10), (-0.70, 0.12, 0.10), (-0.88, 0.17, 0.03)],
                coat,
                bands=tail_bands,
            ),
            Tube(
                [(0.20, 0.42, 0.08), (0.27, 0.22, 0.04), (0.29, 0.05, 0.032), (0.34, 0.03, 0.03)],
                coat,
                bands=[(0.5, sock)],
                shade=0.6,
            ),
            Tube(
                [(-0.14, 0.18, 0.17), (-0.04, 0.34, 0.17), (0.10, 0.52, 0.135), (0.20, 0.66, 0.11), (*poll, 0.09)], coat
            ),
            Tube(
                [(-0.12, 0.17, 0.15), (0.02, 0.10, 0.10), (0.10, 0.035, 0.035), (0.16, 0.03, 0.03)],
                coat,
                bands=[(0.72, sock)],
            ),
            Tube(
                [(0.13, 0.46, 0.09), (0.18, 0.24, 0.042), (0.20, 0.05, 0.034), (0.26, 0.03, 0.03)],
                coat,
                bands=[(0.5, sock)],
            ),
            Tube([(0.33, 0.70, 0.06), (0.27, 0.57, 0.06), (0.22, 0.47, 0.02)], pale, mark=True),
        ]
    else:
        still = posture == "sniff"
        reach = 0.06 if still else 0.19 if posture == "walk" else 0.30
        far, near = four_legs(
            (0.30, 0.46),
            (-0.33, 0.50),
            stride(phase, reach, 0 if still else 0.09),
            (0.085, 0.048, 0.032, 0.030),
            (0.115, 0.060, 0.034, 0.030),
            0.05,
            coat,
            bands=[(0.52, sock)],
        )
        poll, pitch = {
            "walk": ((0.55, 0.70 + bend), -0.12),
            "trot": ((0.60, 0.66 + bend), -0.05),
            "sniff": ((0.58, 0.33), -0.75),
        }[posture]
        sway = 0.05 * sin(phase)
        parts = [
            *far,
            Tube(
                [
                    (-0.40, 0.56, 0.05),
                    (-0.56, 0.52, 0.085),
                    (-0.78, 0.44 + sway, 0.115),
                    (-0.98, 0.40 + 1.6 * sway, 0.10),
                    (-1.14, 0.40 + 2 * sway, 0.02),
                ],
                coat,
                bands=tail_bands,
            ),
            Tube(
                [(0.22, 0.54, 0.14), (0.5 * (0.30 + poll[0]), 0.5 * (0.56 + poll[1]), 0.11), (*poll, 0.09)],
                coat,
                under=pale,
            ),
            Tube(
                [
                    (-0.42, 0.56, 0.09),
                    (-0.33, 0.55, 0.135),
                    (0.0, 0.52, 0.125),
                    (0.24, 0.52, 0.145),
                    (0.36, 0.55, 0.11),
                ],
                coat,
                under=(0.70, 0.50, 0.34),
            ),
            *near,
            Tube(
                [(0.40, 0.50, 0.055), (0.46 if not still else 0.50, 0.54 if not still else 0.38, 0.05)], pale, mark=True
            ),
        ]

    def on_head(points):
        return turn(points, poll, pitch, 1.12)

    ear = [(-0.03, 0.06, 0.058), (-0.045, 0.13, 0.038), (-0.05, 0.21, 0.006)]
    parts += [
        Tube(on_head([(x + 0.09, y, r) for x, y, r in ear]), sock, shade=0.8),
        Tube(on_head([(0, 0, 0.105), (0.06, -0.015, 0.095), (0.16, -0.045, 0.046), (0.27, -0.065, 0.024)]), coat),
        Tube(on_head([(-0.02, -0.09, 0.05), (0.08, -0.085, 0.05), (0.24, -0.09, 0.022)]), pale, mark=True),
        Tube(on_head([(0.285, -0.06, 0.020)]), NOSE),
        Tube(on_head(ear), coat, bands=[(0.45, sock)], soft=0.2),
    ]
    return Body(parts, on_head([(0.095, 0.015, 0.017)]))


def bear(posture: str, phase: float, rng: np.random.Generator) -> Body:
    coat, muzzle = (0.085, 0.072, 0.068), (0.52, 0.36, 0.22)
    bend = 0.03 * sin(2 * phase)
    if posture == "stand":
        poll, pitch = (0.14, 1.38), -0.08
        parts = [
            Tube([(0.02, 0.50, 0.18), (0.10, 0.26, 0.13), (0.10, 0.09, 0.09), (0.22, 0.06, 0.06)], coat, shade=0.6),
            Tube([(0.14, 1.08, 0.12), (0.32, 0.92, 0.085), (0.40, 0.78, 0.07)], coat, shade=0.6),
            Tube(
                [(-0.10, 0.42, 0.27), (-0.08, 0.70, 0.30), (-0.02, 1.00, 0.26), (0.06, 1.22, 0.18), (*poll, 0.15)], coat
            ),
            Tube([(-0.12, 0.46, 0.22), (-0.06, 0.26, 0.14), (-0.08, 0.09, 0.10), (0.06, 0.06, 0.07)], coat),
            Tube([(0.02, 1.06, 0.14), (0.16, 0.86, 0.095), (0.28, 0.72, 0.075)], coat),
        ]
    else:
        still = posture == "forage"
        far, near = four_legs(
            (0.40, 0.56),
            (-0.46, 0.58),
            stride(phase, 0.06 if still else 0.19, 0 if still else 0.07),
            (0.21, 0.135, 0.10, 0.085),
            (0.26, 0.155, 0.105, 0.085),
            0.09,
            coat,
        )
        poll, pitch = ((0.80, 0.40), -0.75) if still else ((0.80, 0.76 + bend), -0.28)
        parts = [
            *far,
            Tube([(0.36, 0.68, 0.27), (0.60, 0.5 * (0.68 + poll[1]), 0.215), (*poll, 0.17)], coat),
            Tube(
                [
                    (-0.66, 0.60, 0.15),
                    (-0.46, 0.66, 0.28),
                    (-0.05, 0.66, 0.285),
                    (0.28, 0.72, 0.28),
                    (0.46, 0.70, 0.23),
                ],
                coat,
            ),
            Tube([(-0.72, 0.66, 0.05), (-0.78, 0.60, 0.03)], coat),
            *near,
        ]

    def on_head(points):
        return turn(points, poll, pitch)

    parts += [
        Tube(on_head([(0.05, 0.16, 0.055)]), coat, shade=0.6),
        Tube(on_head([(0, 0, 0.175), (0.09, -0.01, 0.155), (0.21, -0.055, 0.095)]), coat),
        Tube(on_head([(0.21, -0.06, 0.088), (0.33, -0.075, 0.066)]), muzzle, soft=0.9),
        Tube(on_head([(0.385, -0.055, 0.032)]), NOSE),
        Tube(on_head([(-0.06, 0.15, 0.062), (-0.065, 0.18, 0.055)]), coat, soft=0.15),
        Tube(on_head([(-0.06, 0.165, 0.025)]), (0.17, 0.13, 0.11), mark=True),
    ]
    return Body(parts, on_head([(0.155, 0.03, 0.017)]))


def raccoon(posture: str, phase: float, rng: np.random.Generator) -> Body:
    coat, pale, dark, ring = (0.46, 0.41, 0.36), (0.88, 0.85, 0.80), (0.08, 0.07, 0.07), (0.66, 0.60, 0.52)
    bend = 0.02 * sin(2 * phase)
    rings = [(0.12 + 0.115 * k, dark if k % 2 == 0 else ring) for k in range(8)]
    if posture == "sit":
        poll, pitch = (0.20, 0.72), -0.15
        parts = [
            Tube(
                [(-0.22, 0.10, 0.08), (-0.45, 0.085, 0.085), (-0.66, 0.10, 0.085), (-0.84, 0.13, 0.04)],
                ring,
                bands=rings,
            ),
            Tube([(0.16, 0.46, 0.07), (0.28, 0.38, 0.04), (0.34, 0.44, 0.03)], dark, shade=0.8),
            Tube([(-0.10, 0.20, 0.20), (-0.06, 0.34, 0.205), (0.06, 0.54, 0.15), (*poll, 0.11)], coat, under=ring),
            Tube(
                [(-0.06, 0.18, 0.15), (0.06, 0.10, 0.08), (0.14, 0.035, 0.036), (0.22, 0.03, 0.032)],
                coat,
                bands=[(0.7, dark)],
            ),
            Tube([(0.08, 0.48, 0.08), (0.18, 0.34, 0.045), (0.27, 0.40, 0.032)], coat, bands=[(0.6, dark)]),
        ]
    else:
        still = posture == "forage"
        far, near = four_legs(
            (0.26, 0.32),
            (-0.28, 0.34),
            stride(phase, 0.05 if still else 0.14, 0 if still else 0.05),
            (0.095, 0.055, 0.038, 0.034),
            (0.14, 0.075, 0.042, 0.034),
            0.06,
            coat,
            bands=[(0.66, dark)],
        )
        poll, pitch = ((0.46, 0.22), -0.62) if still else ((0.47, 0.42 + bend), -0.30)
        sway = 0.04 * sin(phase)
        parts = [
            *far,
            Tube(
                [(-0.38, 0.34, 0.06), (-0.56, 0.27, 0.09), (-0.78, 0.22 + sway, 0.092), (-0.98, 0.24 + 2 * sway, 0.05)],
                ring,
                bands=rings,
            ),
            Tube([(0.18, 0.40, 0.15), (0.34, 0.5 * (0.40 + poll[1]), 0.13), (*poll, 0.11)], coat),
            Tube(
                [
                    (-0.42, 0.36, 0.10),
                    (-0.28, 0.42, 0.185),
                    (-0.05, 0.45, 0.195),
                    (0.18, 0.40, 0.165),
                    (0.28, 0.38, 0.12),
                ],
                coat,
                under=ring,
            ),
            *near,
        ]

    def on_head(points):
        return turn(points, poll, pitch, 1.15)

    ear = [(-0.03, 0.085, 0.045), (-0.04, 0.13, 0.038)]
    parts += [
        Tube(on_head([(x + 0.10, y, r) for x, y, r in ear]), coat, shade=0.7),
        Tube(on_head([(0, 0, 0.125), (0.06, -0.02, 0.108), (0.16, -0.06, 0.048), (0.235, -0.075, 0.026)]), coat),
        Tube(on_head([(-0.08, -0.03, 0.055), (0.02, 0.05, 0.035), (0.10, 0.045, 0.026)]), pale, mark=True),
        Tube(on_head([(0.08, -0.10, 0.04), (0.22, -0.085, 0.030)]), pale, mark=True),
        Tube(on_head([(-0.06, -0.055, 0.040), (0.04, -0.02, 0.045), (0.10, -0.005, 0.038)]), dark, mark=True),
        Tube(on_head([(0.245, -0.065, 0.022)]), NOSE),
        Tube(on_head(ear), pale, soft=0.15),
        Tube(on_head([(x, y - 0.01, 0.65 * r) for x, y, r in ear]), (0.25, 0.22, 0.20), mark=True),
    ]
    return Body(parts, on_head([(0.085, 0.0, 0.016)]))


def rabbit(posture: str, phase: float, rng: np.random.Generator) -> Body:
    coat, pale, rust = (0.52, 0.42, 0.31), (0.90, 0.87, 0.82), (0.60, 0.38, 0.22)
    if posture == "hop":
        tuck = 0.5 + 0.5 * sin(phase)
        rise, poll, pitch, lean = 0.12, (0.50, 0.52), -0.1, 0.5
        parts = [
            Tube(
                [(0.28, 0.36 + rise, 0.07), (0.40 + 0.1 * tuck, 0.20, 0.045), (0.48 + 0.12 * tuck, 0.05, 0.04)],
                coat,
                shade=0.65,
            ),
            Tube(
                [
                    (-0.32, 0.26 + rise, 0.15),
                    (-0.08, 0.33 + rise, 0.19),
                    (0.18, 0.34 + rise, 0.165),
                    (0.34, 0.40 + rise, 0.12),
                ],
                coat,
                under=pale,
            ),
            Tube(
                [
                    (-0.28, 0.26 + rise, 0.16),
                    (-0.34, 0.16 + 0.3 * rise, 0.10),
                    (-0.55 - 0.15 * tuck, 0.10, 0.05),
                    (-0.70 - 0.15 * tuck, 0.05, 0.04),
                ],
                coat,
            ),
            Tube([(0.22, 0.34 + rise, 0.08), (0.32 + 0.1 * tuck, 0.18, 0.048), (0.38 + 0.12 * tuck, 0.05, 0.04)], coat),
        ]
        tail = (-0.47, 0.32 + rise, 0.085)
    elif posture == "alert":
        poll, pitch, lean = (0.22, 0.72), -0.1, -0.1
        parts = [
            Tube([(0.14, 0.40, 0.07), (0.22, 0.24, 0.045), (0.22, 0.05, 0.04), (0.27, 0.035, 0.035)], coat, shade=0.65),
            Tube([(-0.16, 0.22, 0.21), (-0.04, 0.36, 0.20), (0.10, 0.54, 0.145), (*poll, 0.10)], coat, under=pale),
            Tube([(-0.14, 0.19, 0.175), (0.02, 0.12, 0.09), (0.08, 0.04, 0.045), (-0.12, 0.04, 0.045)], coat),
            Tube([(0.08, 0.42, 0.08), (0.14, 0.22, 0.048), (0.15, 0.05, 0.042), (0.21, 0.035, 0.035)], coat),
        ]
        tail = (-0.37, 0.17, 0.09)
    else:
        poll, pitch, lean = ((0.38, 0.26), -0.55, 0.0) if posture == "graze" else ((0.34, 0.48), -0.15, 0.25)
        parts = [
            Tube([(0.20, 0.22, 0.07), (0.28, 0.10, 0.045), (0.32, 0.035, 0.038)], coat, shade=0.65),
            Tube(
                [
                    (-0.28, 0.24, 0.19),
                    (-0.10, 0.31, 0.235),
                    (0.12, 0.30, 0.185),
                    (0.26, 0.5 * (0.32 + poll[1]), 0.13),
                    (*poll, 0.10),
                ],
                coat,
                under=pale,
            ),
            Tube([(-0.22, 0.20, 0.18), (-0.06, 0.13, 0.10), (0.06, 0.045, 0.048), (-0.14, 0.04, 0.045)], coat),
            Tube([(0.14, 0.22, 0.08), (0.20, 0.10, 0.05), (0.25, 0.038, 0.040)], coat),
        ]
        tail = (-0.48, 0.22, 0.095)

    def on_head(points):
        return turn(points, poll, pitch, 1.12)

    ear = turn(
        [(0.0, 0.0, 0.032), (0.0, 0.12, 0.054), (0.0, 0.24, 0.044), (0.0, 0.31, 0.010)], (-0.04, 0.09), lean + 0.12
    )
    parts += [
        Tube([tail], WHITE, soft=0.3),
        Tube([(0.5 * poll[0] + 0.08, 0.5 * poll[1] + 0.22, 0.05)], rust, mark=True),
        Tube(on_head([(x + 0.06, y, r) for x, y, r in ear]), coat, shade=0.65),
        Tube(on_head([(0, 0, 0.125), (0.09, -0.02, 0.105), (0.16, -0.045, 0.070)]), coat, under=pale),
        Tube(on_head([(0.07, 0.03, 0.034)]), (0.66, 0.56, 0.44), mark=True),
        Tube(on_head([(0.225, -0.03, 0.014)]), (0.40, 0.24, 0.20)),
        Tube(on_head(ear), coat, soft=0.15),
        Tube(on_head([(x, y, 0.5 * r) for x, y, r in ear[:3]]), (0.78, 0.58, 0.50), mark=True),
    ]
    return Body(parts, on_head([(0.075, 0.03, 0.022)]))


def turkey(posture: str, phase: float, rng: np.random.Generator) -> Body:
    coat, sheen, tip = (0.19, 0.145, 0.11), (0.33, 0.22, 0.12), (0.72, 0.58, 0.40)
    skin, red, leg = (0.52, 0.55, 0.62), (0.70, 0.17, 0.14), (0.62, 0.38, 0.32)
    step = 0.0 if posture == "strut" else 0.16
    fan = [(0.52, sheen), (0.66, coat), (0.86, tip)]
    parts = []
    for lag, shade in ((np.pi, 0.65), (0.0, 1.0)):
        foot = (
            0.02 + (0.08 if shade < 1 else 0.0) + step * sin(phase + lag),
            0.05 * max(0.0, cos(phase + lag)) * (step > 0),
        )
        shank = [
            (0.0, 0.42, 0.10),
            (0.06 + 0.3 * foot[0], 0.26, 0.032),
            (foot[0], foot[1] + 0.03, 0.022),
            (foot[0] + 0.12, foot[1] + 0.018, 0.014),
        ]
        parts.append(Tube(shank, coat, bands=[(0.36, leg)], shade=shade))
        parts.append(
            Tube([(foot[0], foot[1] + 0.025, 0.018), (foot[0] - 0.07, foot[1] + 0.015, 0.012)], leg, shade=shade)
        )
    if posture == "strut":
        parts += [
            Tube(
                [(-0.20, 0.58, 0.05), (-0.20 + 0.72 * cos(a), 0.58 + 0.72 * sin(a), 0.085)],
                coat,
                bands=fan,
                soft=0.1,
                shade=0.8 + 0.2 * (k % 2),
            )
            for k, a in enumerate(np.linspace(0.30 * np.pi, 1.12 * np.pi, 13))
        ]
        poll, girth = (0.40, 0.98), 1.18
        neck = [(0.24, 0.72, 0.15), (0.40, 0.84, 0.075), (*poll, 0.055)]
    else:
        droop = 0.06 * sin(phase)
        parts += [
            Tube(
                [(-0.32, 0.56, 0.12), (-0.92, 0.40 - 0.04 * k + droop, 0.075)],
                coat,
                bands=fan,
                soft=0.15,
                shade=0.78 + 0.1 * (k % 3),
            )
            for k in range(3)
        ]
        poll, girth = ((0.66, 0.20), 1.0) if posture == "peck" else ((0.47 + 0.03 * sin(2 * phase), 1.16), 1.0)
        bow = (0.52, 0.46) if posture == "peck" else (0.40, 0.94)
        neck = [(0.22, 0.70, 0.14), (*bow, 0.060), (*poll, 0.046)]
    parts += [
        Tube(neck, coat, bands=[(0.55, skin)]),
        Tube(
            [(-0.46, 0.56, 0.09), (-0.24, 0.57, 0.21 * girth), (0.04, 0.60, 0.24 * girth), (0.24, 0.68, 0.17 * girth)],
            coat,
            under=(0.12, 0.08, 0.06),
        ),
        Tube([(0.14, 0.66, 0.13), (-0.10, 0.57, 0.14), (-0.44, 0.48, 0.055)], sheen, soft=0.5),
    ]
    parts += [  # the barred flight feathers
        Tube(
            [(-0.02 - 0.075 * k, 0.47 - 0.002 * k, 0.014), (-0.06 - 0.075 * k, 0.395 + 0.006 * k, 0.012)],
            (0.80, 0.74, 0.64),
            mark=True,
        )
        for k in range(5)
    ]
    pitch = -0.9 if posture == "peck" else -0.1

    def on_head(points):
        return turn(points, poll, pitch, 1.1)

    parts += [
        Tube(on_head([(0, 0, 0.058), (0.05, 0.0, 0.046)]), skin),
        Tube(on_head([(0.07, -0.005, 0.026), (0.145, -0.03, 0.008)]), (0.62, 0.52, 0.36)),
        Tube(on_head([(0.06, -0.03, 0.022), (0.05, -0.10, 0.026), (0.02, -0.16, 0.022)]), red, soft=0.3),
        Tube(on_head([(0.0, 0.045, 0.022), (0.05, 0.035, 0.018)]), red, soft=0.3),
    ]
    return Body(parts, on_head([(0.035, 0.012, 0.011)]))


class Species(NamedTuple):
    """A species' ``name``, the builder of its bodies, the ``postures`` it takes, its pixel size and its fur.

    ``size`` is one animal unit, as a share of the picture's height, for an animal standing at the bottom edge.
    ``moving`` are the postures in which it crosses the picture.
    """

    name: str
    build: Callable[[str, float, np.random.Generator], Body]
    postures: tuple[str, ...]
    moving: tuple[str, ...]
    size: float
    fur: float


ALL_SPECIES = (
    Species(
        "White-Tailed Deer", deer, ("walk", "graze", "alert", "walk", "graze", "flee"), ("walk", "flee"), 0.62, 0.010
    ),
    Species("Red Fox", fox, ("walk", "trot", "sniff", "sit"), ("walk", "trot"), 0.46, 0.016),
    Species("American Black Bear", bear, ("walk", "forage", "walk", "stand"), ("walk",), 0.60, 0.018),
    Species("Northern Raccoon", raccoon, ("walk", "forage", "sit"), ("walk",), 0.46, 0.020),
    Species("Eastern Cottontail", rabbit, ("rest", "alert", "graze", "hop"), ("hop",), 0.42, 0.016),
    Species("Wild Turkey", turkey, ("walk", "peck", "strut"), ("walk",), 0.52, 0.009),
)


# -- drawing -----------------------------------------------------------------------------------------------------------


def smooth(spine: Sequence[Point], steps: int = 4) -> np.ndarray:
    """A Catmull-Rom curve through the spine: (n, 3) to ((n - 1) * steps + 1, 3)."""
    points = np.asarray(spine, dtype=np.float64)
    if len(points) < 3:
        return points
    padded = np.vstack([2 * points[0] - points[1], points, 2 * points[-1] - points[-2]])
    t = np.arange(steps)[:, None] / steps  # (steps, 1)
    curve = [
        0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
        for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:])
    ]
    curve = np.vstack([*curve, points[-1:]])
    curve[:, 2] = np.maximum(curve[:, 2], 0.5 * points[:, 2].min())
    return curve


def measure_tube(curve: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
    """For each point of the grid ``x`` (w,), ``y`` (h,): the signed distance to the skin (negative inside), the radius
    at the nearest point of the spine, that point's share of the length, and its x and y; each (h, w) float32."""
    if len(curve) == 1:
        curve = np.vstack([curve, curve + np.float64([1e-4, 0, 0])])
    curve = curve.astype(np.float32)
    start, step = curve[:-1], np.diff(curve, axis=0)  # (n, 3)
    lengths = np.maximum(np.hypot(step[:, 0], step[:, 1]), np.float32(1e-6))
    ends = np.cumsum(lengths)
    block = max(1, 120_000 // (len(start) * len(x)))  # rows at a time: the temporaries stay in the cache
    parts = [_measure_rows(start, step, lengths, ends, x, y[k : k + block]) for k in range(0, len(y), block)]
    return tuple(np.concatenate(field) for field in zip(*parts))


def _measure_rows(start, step, lengths, ends, x, y) -> tuple[np.ndarray, ...]:
    unit = step[:, :2] / lengths[:, None]
    across = x[None, :] - start[:, :1]  # (n, w)
    down = y[None, :] - start[:, 1:2]  # (n, h)
    t = (across * unit[:, :1])[:, None, :] + (down * unit[:, 1:])[:, :, None]  # (n, h, w), in length
    t /= lengths[:, None, None]
    np.clip(t, 0, 1, out=t)
    distance = (across[:, None, :] - t * step[:, 0, None, None]) ** 2 + (
        down[:, :, None] - t * step[:, 1, None, None]
    ) ** 2
    np.sqrt(distance, out=distance)
    distance -= start[:, 2, None, None] + t * step[:, 2, None, None]
    best = distance.argmin(axis=0)  # (h, w)
    t = np.take_along_axis(t, best[None], axis=0)[0]
    nearest = start[best] + t[..., None] * step[best]  # (h, w, 3)
    along = (ends[best] - (1 - t) * lengths[best]) / ends[-1]
    return np.take_along_axis(distance, best[None], axis=0)[0], nearest[..., 2], along, nearest[..., 0], nearest[..., 1]


def hairs(rng: np.random.Generator, shape: tuple[int, int], pixels: float, length: float = 3.0) -> np.ndarray:
    """Fur as a field of streaks, ``length`` times as long as thick: (h, w) float32 of about unit variance."""
    height, width = shape
    field = np.zeros(shape, dtype=np.float32)
    for across in (0.008, 0.018):
        rows, columns = (
            max(2, int(n / max(1.0, cell * pixels))) for n, cell in ((height, across), (width, length * across))
        )
        coarse = rng.standard_normal((rows, columns)).astype(np.float32)
        field += np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    return field * 0.8


def smoothstep(low: float, high: float, value: np.ndarray) -> np.ndarray:
    t = np.clip((value - low) / (high - low), 0.0, 1.0)
    return t * t * (3 - 2 * t)


def draw_animal(
    species: Species,
    posture: str,
    phase: float,
    pixels: float,
    rng: np.random.Generator,
    *,
    faces_left: bool = False,
    squeeze: float = 1.0,
) -> Sprite:
    """Draw one animal, ``pixels`` to an animal unit.

    ``phase`` (radians) is where it is in its stride; ``rng`` settles the individual (tone of the coat, antlers, hairs);
    ``squeeze`` in (0, 1] foreshortens it along its length, as when it stands at an angle to the camera.
    """
    tone = np.exp(rng.normal(0.0, 0.10)) * np.exp(rng.normal(0.0, 0.02, size=3))  # each individual's coat
    body = species.build(posture, phase, rng)
    curves = [smooth(tube.spine) * (squeeze, 1, 1) for tube in body.tubes]
    everything = np.vstack(curves)
    pad = 3.0 / pixels + 2 * species.fur
    left, bottom = (everything[:, :2] - everything[:, 2:]).min(axis=0) - pad
    right, top = (everything[:, :2] + everything[:, 2:]).max(axis=0) + pad
    width, height = int(np.ceil((right - left) * pixels)), int(np.ceil((top - bottom) * pixels))
    x = (left + (np.arange(width) + 0.5) / pixels).astype(np.float32)
    y = (top - (np.arange(height) + 0.5) / pixels).astype(np.float32)

    colour = np.zeros((height, width, 3), dtype=np.float32)
    normal = np.zeros((height, width, 3), dtype=np.float32)
    alpha = np.zeros((height, width), dtype=np.float32)
    fur = hairs(rng, (height, width), pixels)
    rim = max(1 / pixels, 0.9 * species.fur)  # how far the silhouette fades: a pixel, or the tips of the fur
    fringe = hairs(rng, (height, width), pixels, length=1.0)
    for tube, curve in zip(body.tubes, curves):
        reach = curve[:, 2].max() + pad
        columns = slice(*np.searchsorted(x, [curve[:, 0].min() - reach, curve[:, 0].max() + reach]))
        rows = slice(*np.searchsorted(-y, [-curve[:, 1].max() - reach, -curve[:, 1].min() + reach]))
        skin, radius, along, near_x, near_y = measure_tube(curve, x[columns], y[rows])
        skin = skin + 0.45 * species.fur * np.minimum(1, radius / 0.12) * fringe[rows, columns]
        cover = np.clip(0.5 - skin / rim, 0, 1)
        here = alpha[rows, columns]
        melt = smoothstep(0.0, 1.0, -skin / (tube.soft * radius))
        inner = smoothstep(-0.25, 0.35, -skin / radius) * here
        weight = inner if tube.mark else cover * (1 - here + here * melt)
        paint = np.empty((*skin.shape, 3), dtype=np.float32)
        paint[:] = tube.colour
        for start, band in tube.bands:
            paint += smoothstep(start - 0.02, start + 0.02, along)[..., None] * (np.float32(band) - paint)
        across_y = (y[rows][:, None] - near_y) / radius
        if tube.under is not None:
            paint += smoothstep(0.35, 0.95, -across_y)[..., None] * (np.float32(tube.under) - paint)
        patch = colour[rows, columns]
        patch += weight[..., None] * (paint * tube.shade - patch)
        if tube.mark:
            continue
        across_x = (x[columns] - near_x) / radius
        flat = np.sqrt(across_x**2 + across_y**2)
        limit = np.minimum(1, 0.97 / np.maximum(flat, 1e-6))  # keep hairs beyond the skin from tilting past the rim
        facing = np.stack(
            [across_x * limit, across_y * limit, np.sqrt(np.maximum(0.05, 1 - (flat * limit) ** 2))], axis=-1
        )
        patch = normal[rows, columns]
        patch += weight[..., None] * (facing - patch)
        alpha[rows, columns] = here + cover * (1 - here)
    colour *= (1 + 0.065 * fur)[..., None] * tone.astype(np.float32)
    normal[..., 1] += 0.06 * fur
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-6)
    eyes = [((ex * squeeze - left) * pixels, (top - ey) * pixels, er * pixels) for ex, ey, er in body.eyes]
    foot = (-left * pixels, top * pixels)
    if faces_left:
        colour, normal, alpha = colour[:, ::-1], normal[:, ::-1] * np.float32([-1, 1, 1]), alpha[:, ::-1]
        eyes = [(width - ex, ey, er) for ex, ey, er in eyes]
        foot = (width - foot[0], foot[1])
    return Sprite(np.clip(colour, 0, 1), normal, alpha, eyes, foot)
