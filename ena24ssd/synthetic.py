"""What can I train on with nothing downloaded?

Drawn camera-trap pictures with their true boxes: any number, from any number of cameras, by day and by infrared flash,
in bursts, some of them blank. Everything follows from the seed; nothing is read from disk or network.

`write_dataset` makes a folder like a published data set, pictures and a COCO Camera Traps json; `draw_scene` makes one
picture. Here is decided what happens: when which camera fires, and who walks by. What it looks like is settled in
`scenery` (the places), `fauna` (the animals) and `exposure` (light, lens, sensor, strip).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import chain
from math import pi
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ena24ssd.boxes import Box, LabelledBox
from ena24ssd.exposure import (
    NOON,
    STRIP,
    Staged,
    Walker,
    box_of,
    develop,
    expose,
    half_day,
    light_at,
    sprite_of,
    stage,
    stamp_strip,
)
from ena24ssd.fauna import ALL_SPECIES, Sprite
from ena24ssd.files import replace_file
from ena24ssd.scenery import BIOMES, Biome, Place, paint_place

SPECIES: tuple[str, ...] = tuple(species.name for species in ALL_SPECIES)
SERIAL_UP_TO = 50  # pictures; for so few, starting processes costs more than it saves
RECIPE = 1  # raised whenever the same request would give other pictures
NEAREST = 0.92  # of the way from the horizon to the lower edge; nearer, the info strip hides the feet
NEAR = 0.17  # of that way, nearer than which every animal is that does not stand far off
FARTHEST = 1 / 5  # of its distance from the horizon that is left to an animal far off
FEWEST = 7  # pixels that an animal far off is high, about; fewer show nothing
SKETCH = 64  # the height of a picture in which placements are tried
TURKEY = SPECIES.index("Wild Turkey")


class Shot(NamedTuple):
    """One release of the shutter: frame ``frame`` (from 0) of ``frames`` in burst ``burst`` of a camera."""

    camera: int
    burst: int
    frame: int
    frames: int
    taken_at: datetime
    blank: bool

    @property
    def location(self) -> str:
        return f"cam{self.camera + 1:02d}"

    @property
    def sequence(self) -> str:
        return f"{self.location}-{self.burst + 1:04d}"

    @property
    def name(self) -> str:
        return f"{self.sequence}-{self.frame + 1}"


class Scene(NamedTuple):
    """A picture with its truth: ``boxes[k]`` is round what shows of ``staged[k]``."""

    picture: Image.Image
    boxes: list[LabelledBox]
    staged: list[Staged]


# -- planning ----------------------------------------------------------------------------------------------------------


def plan_shots(images: int, cameras: int, blank_share: float, seed: int, burst: int | None = None) -> list[Shot]:
    """When each camera fires and which pictures are blank: ``images`` shots, by camera, then by time.

    Exactly ``round(images * blank_share)`` are blank: up to two thirds of them as whole bursts (wind, sun), the rest at
    the end of a burst, when the animal has left.
    """
    planned: list[list[Shot]] = []
    for camera in range(cameras):
        rng = np.random.default_rng([seed, camera])
        left = images // cameras + (camera < images % cameras)
        own = int(rng.choice([3, 3, 3, 4, 2]))  # pictures a trigger, as set on this camera
        setting = burst or own
        lengths = [setting] * (left // setting) + ([left % setting] if left % setting else [])
        month = datetime(2015 + seed % 9, int(rng.choice(biome_of(camera, seed).months)), 1)
        starts = sorted(trigger_time(month, rng) for _ in lengths)
        for number, (start, frames) in enumerate(zip(starts, lengths)):
            start += timedelta(minutes=number)  # so that no two bursts meet
            planned.append(
                [Shot(camera, number, k, frames, start + timedelta(seconds=k), False) for k in range(frames)]
            )
    rng = np.random.default_rng([seed, cameras, images])
    wanted, blanks = round(images * blank_share), set()
    bursts_left = [planned[k] for k in rng.permutation(len(planned))]
    while bursts_left and len(blanks) + len(bursts_left[-1]) <= 0.67 * wanted:
        blanks.update(bursts_left.pop())
    last_first = sorted(chain.from_iterable(bursts_left), key=lambda shot: shot.frames - shot.frame)
    blanks.update(last_first[: wanted - len(blanks)])
    return [shot._replace(blank=shot in blanks) for shot in chain.from_iterable(planned)]


def trigger_time(month: datetime, rng: np.random.Generator) -> datetime:
    """A moment in the first 27 days of a month, rather by day than by night."""
    half = half_day(month.month) - 0.3
    past_noon = rng.uniform(-half, half) if rng.random() < 0.62 else rng.uniform(half, 24 - half)
    return month + timedelta(days=int(rng.integers(26)), seconds=int(3600 * (NOON + past_noon)))


def biome_of(camera: int, seed: int) -> Biome:
    """Neighbouring cameras look out on different kinds of country."""
    return BIOMES[np.random.default_rng([seed, 7]).permutation(len(BIOMES))[camera % len(BIOMES)]]


@lru_cache(maxsize=4)
def place_of(camera: int, seed: int, size: tuple[int, int]) -> Place:
    return paint_place([seed, camera, 1], size, biome_of(camera, seed))


def cast_animals(
    place: Place,
    rng: np.random.Generator,
    frames: int,
    species: Sequence[int],
    close: float = 0.0,
    far: float = 0.0,
) -> list[Walker]:
    """Choose who walks where, so that in every frame enough of everybody can be seen. The first always finds room."""
    walkers: list[Walker] = []
    for label in species:
        veiled = rng.random() < 0.35  # to stand partly behind something, or partly out of the picture
        nearness = FARTHEST ** rng.random() if far and rng.random() < far else 1.0
        best: tuple[float, Walker] | None = None
        for attempt in range(14):
            walker = propose_walk(label, place, rng, frames, veiled, close, nearness)
            if any(overlap(walker, other, frame, place) > 0.2 for other in walkers for frame in range(frames)):
                continue
            height = sketch_height(walker, place)
            sketches = {p: sprite_of(walker, walker.postures.index(p), place, height) for p in set(walker.postures)}
            shown = min(share_shown(place, walker, k, sketches[p], height) for k, p in enumerate(walker.postures))
            if best is None or shown > best[0]:
                best = shown, walker
            if 0.5 <= shown < 0.92 if veiled and attempt < 7 else shown >= 0.92:
                best = shown, walker
                break
        if best is not None and best[0] >= 0.5:
            walkers.append(best[1])
        elif not walkers:
            centre = 0.5 * place.aspect - 0.5 * walker.speed * (frames - 1)
            walkers.append(walker._replace(column=centre, hidden_by_things=False))
    return walkers


def propose_walk(
    label: int,
    place: Place,
    rng: np.random.Generator,
    frames: int,
    veiled: bool,
    close: float = 0.0,
    nearness: float = 1.0,
) -> Walker:
    """Anywhere in the picture, not too far off to be told apart, the middle of the walk inside the frame.

    A ``nearness`` below 1 leaves that share of its distance from the horizon, and so of its size.
    """
    kind = ALL_SPECIES[label]
    posture = str(rng.choice(kind.postures))
    moving = posture in kind.moving
    faces_left = bool(rng.random() < 0.5)
    near = 0.26 + 0.62 * rng.random() ** 1.2 if kind.size < 0.5 else 0.18 + 0.56 * rng.random() ** 1.2
    near += close * (NEAREST - near)
    if nearness < 1:
        near = min(near, max(near * nearness, FEWEST / (kind.size * len(place.infrared))))
    pace = near * (rng.uniform(0.06, 0.18) if moving else rng.uniform(0, 0.01))
    speed = -pace if faces_left else pace
    margin = 0.0 if veiled else 0.25 * kind.size
    postures = [posture] * frames
    if not moving and frames > 2 and rng.random() < 0.35:  # it looks up, or sits down
        postures[-1] = str(rng.choice([other for other in kind.postures if other not in kind.moving]))
    return Walker(
        species=label,
        postures=tuple(postures),
        column=rng.uniform(margin, place.aspect - margin) - 0.5 * speed * (frames - 1),
        row=place.horizon + (1 - place.horizon) * near,
        speed=speed,
        phase=rng.uniform(0, 2 * pi),
        faces_left=faces_left,
        squeeze=rng.uniform(0.74, 1.0),
        seed=int(rng.integers(2**31)),
    )


def overlap(first: Walker, second: Walker, frame: int, place: Place) -> float:
    """About which share of the smaller animal's box the other's covers."""
    a, b = (rough_box(walker, frame, place) for walker in (first, second))
    width, height = min(a.right, b.right) - max(a.left, b.left), min(a.bottom, b.bottom) - max(a.top, b.top)
    return max(0.0, width) * max(0.0, height) / min(a.area, b.area)


def rough_box(walker: Walker, frame: int, place: Place) -> Box:
    """About where an animal is; shares of the picture's height."""
    size = ALL_SPECIES[walker.species].size * (walker.row - place.horizon) / (1 - place.horizon)
    column = walker.column_at(frame)
    return Box(column - 0.8 * size, walker.row - 1.1 * size, column + 0.8 * size, walker.row)


def sketch_height(walker: Walker, place: Place) -> float:
    """The height of a picture small enough to be quick, and large enough to show anything of an animal far off."""
    near = (walker.row - place.horizon) / (1 - place.horizon)
    return SKETCH * max(1, NEAR / near)


def share_shown(place: Place, walker: Walker, frame: int, sketch: Sprite, height: float = SKETCH) -> float:
    """How much of the animal would be seen, judged by a small sketch of it: a share of its area."""
    rows, columns = np.nonzero(sketch.alpha > 0.5)
    if not len(rows):
        return 0.0
    scale, bar = len(place.rows) / height, STRIP * height
    y = ((rows + 0.5 - sketch.foot[1] + walker.row * height) * scale).astype(int)
    x = ((columns + 0.5 - sketch.foot[0] + walker.column_at(frame) * height) * scale).astype(int)
    inside = (x >= 0) & (x < place.rows.shape[1]) & (y >= bar * scale) & (y < len(place.rows) - bar * scale)
    stands = place.rows[y[inside], x[inside]]
    return float(np.sum(stands <= 255 * walker.row + 3) / len(rows))


# -- pictures ----------------------------------------------------------------------------------------------------------


def shoot(
    shot: Shot,
    seed: int,
    size: tuple[int, int],
    species: tuple[int, ...] | None = None,
    close: float = 0.0,
    far: float = 0.0,
) -> Scene:
    """Draw the picture of a shot. All frames of a burst share their cast, light and place, so they differ little."""
    place = place_of(shot.camera, seed, size)
    burst = np.random.default_rng([seed, shot.camera, shot.burst])
    light = light_at(shot.taken_at, place, burst)
    if species is None:
        species = choose_species(shot, seed, burst, night=light.infrared)
    walkers = () if shot.blank else cast_of(shot.camera, shot.burst, shot.frames, species, seed, size, close, far)
    rng = np.random.default_rng([seed, shot.camera, shot.burst, shot.frame])
    staged = stage(place, walkers, shot.frame)
    picture = develop(expose(place, staged, light, rng), light, rng, place)
    stamp_strip(picture, shot.taken_at, f"M {shot.frame + 1}/{shot.frames}", place.biome.warmth, shot.location.upper())
    boxes = [
        LabelledBox(animal.walker.species, box_of(animal.shown, max(0, animal.left), max(0, animal.top)))
        for animal in staged
    ]
    return Scene(picture, boxes, staged)


@lru_cache(maxsize=4)
def cast_of(
    camera: int,
    burst: int,
    frames: int,
    species: tuple[int, ...],
    seed: int,
    size: tuple[int, int],
    close: float,
    far: float,
) -> tuple[Walker, ...]:
    """The animals of a burst; kept because its frames are drawn one after another."""
    rng = np.random.default_rng([seed, camera, burst, 99])
    return tuple(cast_animals(place_of(camera, seed, size), rng, frames, species, close, far))


def choose_species(shot: Shot, seed: int, rng: np.random.Generator, night: bool) -> tuple[int, ...]:
    """Who passes: each camera sees every species in turn, one to three animals, turkeys by day only."""
    order = np.random.default_rng([seed, shot.camera, 2]).permutation(len(SPECIES))
    awake = [int(label) for label in order if not (night and label == TURKEY)]
    first = TURKEY if not night and rng.random() < 0.12 else awake[shot.burst % len(awake)]
    count = int(rng.choice([1, 2, 3], p=[0.74, 0.18, 0.08]))
    return (first, *(first if rng.random() < 0.6 else int(rng.choice(awake)) for _ in range(count - 1)))


def draw_scene(
    seed: int = 0,
    *,
    size: tuple[int, int] = (640, 480),
    species: Sequence[str] | None = None,
    night: bool | None = None,
) -> tuple[Image.Image, list[LabelledBox]]:
    """Draw one camera-trap picture.

    Parameters: ``seed`` settles everything left open; ``size`` (width, height) in pixels; ``species`` names from
    `SPECIES`, one an animal, empty for a blank picture; ``night`` asks for an infrared picture or for daylight.
    Returns the RGB picture and the boxes of its animals; an animal that finds no room to be seen is left out.

    Raises ValueError for an unknown species or a size out of range.
    """
    check_size(size)
    unknown = sorted(set(species or ()) - set(SPECIES))
    if unknown:
        raise ValueError(f"draw_scene: species {unknown[0]!r} is not drawn; known are {', '.join(SPECIES)}")
    rng = np.random.default_rng([seed, 3])
    if night is None:
        night = bool(rng.random() < 0.45)
    hour = rng.uniform(22, 27) if night else rng.uniform(9, 16)
    camera = int(rng.integers(1000))
    month = int(rng.choice(biome_of(camera, seed).months))
    moment = datetime(2019, month, int(rng.integers(1, 28))) + timedelta(seconds=int(3600 * hour))
    frame = int(rng.integers(3))
    labels = None if species is None else tuple(SPECIES.index(name) for name in species)
    scene = shoot(Shot(camera, 0, frame, 3, moment, labels == ()), seed, tuple(size), labels)
    return scene.picture, scene.boxes


# -- the data set ------------------------------------------------------------------------------------------------------


def check_size(size: tuple[int, int]) -> None:
    """Raise ValueError for a picture too small to show anything, or too large to draw."""
    if len(size) != 2 or not all(isinstance(side, (int, np.integer)) and 48 <= side <= 4096 for side in size):
        raise ValueError(f"size is {size!r}; it must be (width, height), 48 to 4096 pixels each. Try (640, 480)")


def check_request(
    images: int,
    cameras: int,
    size: tuple[int, int],
    blank_share: float,
    burst: int | None,
    close: float,
    far: float,
    seed: int,
) -> None:
    """Raise ValueError for a data set that cannot be drawn."""
    check_size(size)
    if images < 1:
        raise ValueError(f"images is {images}; a data set needs at least 1 picture. Try 600")
    if not 1 <= cameras <= images:
        raise ValueError(f"cameras is {cameras}; there must be 1 to {images}, as many as pictures. Ask for fewer")
    if not 0 <= blank_share <= 1:
        raise ValueError(f"blank_share is {blank_share}; a share of the pictures lies from 0 to 1. Try 0.15")
    if burst is not None and burst < 1:
        raise ValueError(f"burst is {burst}; a trigger takes at least 1 picture. Try 3")
    if not 0 <= close <= 1:
        raise ValueError(f"close is {close}; it goes from 0, anywhere, to 1, right at the camera. Try 0.5")
    if not 0 <= far <= 1:
        raise ValueError(f"far is {far}; a share of the animals lies from 0 to 1. Try 0.4")
    if seed < 0:
        raise ValueError(f"seed is {seed}; seeds are not negative. Try 0")


def write_camera(
    folder: Path, shots: Sequence[Shot], seed: int, size: tuple[int, int], close: float, far: float
) -> list[list[LabelledBox]]:
    """Draw and save the pictures of one camera; returns their boxes, picture by picture."""
    boxes = []
    for shot in shots:
        scene = shoot(shot, seed, size, close=close, far=far)
        path = folder / shot.location / f"{shot.name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        scene.picture.save(path, quality=88)
        boxes.append(scene.boxes)
    return boxes


def write_dataset(
    folder: str | Path,
    *,
    images: int = 600,
    cameras: int = 20,
    size: tuple[int, int] = (640, 480),
    blank_share: float = 0.15,
    burst: int | None = None,
    close: float = 0.0,
    far: float = 0.0,
    seed: int = 0,
    progress: Callable[[Iterable], Iterable] | None = None,
) -> Path:
    """Write a drawn camera-trap data set: ``folder/scenes.json`` and ``folder/images/<camera>/<name>.jpg``.

    Parameters: exactly ``images`` pictures of ``size`` (width, height) pixels from ``cameras`` fixed places, of which
    the share ``blank_share`` shows no animal; ``burst`` pictures a trigger (left out: each camera's own setting, 2 to
    4); ``close`` draws the animals nearer to the camera, from 0 (anywhere) to 1 (as near as can be); ``far`` is the
    share of the animals that stand far off, the farthest a fifth as large; ``progress`` wraps the list of pictures
    while it is worked off, as `tqdm.tqdm` does. The same request gives the same bytes, on one process or many. (More
    than 50 pictures are drawn by several processes; where these are spawned, a script needs its
    ``if __name__ == "__main__"``.) Returns the path of the json, in COCO Camera Traps format with file names relative
    to ``folder/images``. It is written last: where it stands, the pictures are complete.

    A folder that holds the same request already is left as it is. Raises FileExistsError for one that holds another,
    ValueError for a request out of range.
    """
    check_request(images, cameras, size, blank_share, burst, close, far, seed)
    folder = Path(folder)
    target = folder / "scenes.json"
    request = {
        "recipe": RECIPE,
        "images": int(images),
        "cameras": int(cameras),
        "size": [int(side) for side in size],
        "blank_share": float(blank_share),
        "burst": burst,
        "close": float(close),
        "seed": int(seed),
        **({"far": float(far)} if far else {}),  # left out as in data sets drawn before there was such a choice
    }
    if target.exists():
        present = json.loads(target.read_text(encoding="utf-8")).get("info", {}).get("request")
        if present == request:
            return target
        raise FileExistsError(
            f"{target}: a data set is written once, and this folder holds another one, {present}; asked for was "
            f"{request}. Choose another folder, or delete this one"
        )
    shots = plan_shots(images, cameras, blank_share, seed, burst)
    by_camera = [[shot for shot in shots if shot.camera == camera] for camera in range(cameras)]
    same = (seed, tuple(size), close, far)
    jobs = ([folder / "images"] * cameras, by_camera, *([choice] * cameras for choice in same))
    steps = progress(shots) if progress else shots
    if images <= SERIAL_UP_TO or (os.cpu_count() or 1) == 1:
        boxes = take(steps, map(write_camera, *jobs))
    else:
        with ProcessPoolExecutor() as pool:
            boxes = take(steps, pool.map(write_camera, *jobs))
    content = describe(shots, boxes, size, request)
    replace_file(target, json.dumps(content, indent=1))
    return target


def take(steps: Iterable, per_camera: Iterable[list]) -> list:
    """As many results as there are steps; stepping through ``steps`` is what moves a progress bar."""
    results: Iterator = chain.from_iterable(per_camera)
    return [next(results) for _ in steps]


def describe(shots: Sequence[Shot], boxes: Sequence[list[LabelledBox]], size: tuple[int, int], request: dict) -> dict:
    """The COCO Camera Traps description of the pictures."""
    width, height = (int(side) for side in size)
    pictures = [
        {
            "id": shot.name,
            "file_name": f"{shot.location}/{shot.name}.jpg",
            "width": width,
            "height": height,
            "location": shot.location,
            "seq_id": shot.sequence,
            "seq_num_frames": shot.frames,
            "frame_num": shot.frame,
            "datetime": f"{shot.taken_at:%Y-%m-%d %H:%M:%S}",
        }
        for shot in shots
    ]
    annotations = [
        {"id": f"{shot.name}-{k}", "image_id": shot.name, "category_id": label, "bbox": list(box.xywh)}
        for shot, found in zip(shots, boxes)
        for k, (label, box) in enumerate(found)
    ]
    return {
        "info": {
            "description": "Drawn camera-trap scenes",
            "version": "1.0",
            "year": shots[0].taken_at.year,
            "request": request,
        },
        "categories": [{"id": label, "name": name} for label, name in enumerate(SPECIES)],
        "images": pictures,
        "annotations": annotations,
    }
