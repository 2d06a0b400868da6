"""How many pictures a second are augmented on one core: by the package, and by GluonCV's SSD recipe?

GluonCV is the library beside the post's framework. Its `SSDDefaultTrainTransform` changes light and colour, puts half
of the pictures on a canvas up to four times as wide (the package: twice), cuts a window out, resizes and flips; written
out here up to the uint8 square, for pictures already at that size, as the package's cache holds them. Same pictures,
same boxes, turn by turn. The package's steps are also timed alone, each done to every picture. Seconds are the
processor's, all threads together.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import patch

import mxnet
import numpy as np
from machine import machine
from prettytable import PrettyTable

from ena24ssd.augment import augment
from ena24ssd.boxes import truth_rows
from ena24ssd.cameratraps import read
from ena24ssd.config import AugmentConfig, read_config
from ena24ssd.pictures import read_square, view_of
from ena24ssd.synthetic import write_dataset

with patch.dict(sys.modules, {"torch": None}):  # GluonCV does not load beside a PyTorch of version 2
    from gluoncv.data.transforms import bbox as tbbox
    from gluoncv.data.transforms import experimental
    from gluoncv.data.transforms import image as timage

PRESET = Path(__file__).resolve().parents[1] / "configs" / "ena24.yaml"
FILL = [255 * mean for mean in (0.485, 0.456, 0.406)]
OFF = AugmentConfig(flip=False, crop=0, expand=0, light=0, colour=0, infrared=0)


def draw_batch(side: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Drawn scenes with animals: (B, S, S, 3) uint8, and their truth (B, M, 5)."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = read(write_dataset(Path(folder), images=3 * count, cameras=4, size=(480, 270)))
        images = [image for image in dataset.images if image.boxes][:count]
        most = max(len(image.boxes) for image in images)
        pixels = np.stack([read_square(dataset.path(image), side).pixels for image in images])
        views = [view_of(image.width, image.height, side, "squash") for image in images]
        return pixels, np.stack([truth_rows(image.boxes, view, most) for image, view in zip(images, views)])


def gluoncv_recipe(image: mxnet.nd.NDArray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`SSDDefaultTrainTransform.__call__` up to its ToTensor; ``boxes`` (n, 5): corners in pixels, then the label."""
    side = image.shape[0]
    image = experimental.image.random_color_distort(image)
    if np.random.uniform(0, 1) > 0.5:
        image, (x, y, *_) = timage.random_expand(image, fill=FILL)
        boxes = tbbox.translate(boxes, x_offset=x, y_offset=y)
    boxes, crop = experimental.bbox.random_crop_with_constraints(boxes, image.shape[1::-1])
    image = mxnet.image.fixed_crop(image, *crop)
    size = image.shape[1::-1]
    image = timage.imresize(image, side, side, interp=np.random.randint(0, 5))
    boxes = tbbox.resize(boxes, size, (side, side))
    image, (flipped, _) = timage.random_flip(image, px=0.5)
    boxes = tbbox.flip(boxes, (side, side), flip_x=flipped)
    return image.clip(0, 255).astype("uint8").asnumpy(), boxes


def pictures_a_second(change: Callable[[], object], pictures: int, seconds: float) -> float:
    """How many pictures pass through ``change``, which changes ``pictures`` of them a call."""
    start, calls = time.process_time(), 0
    while time.process_time() - start < seconds:
        change()
        calls += 1
    return calls * pictures / (time.process_time() - start)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=200, help="pixels of the squares")
    parser.add_argument("--repeats", type=int, default=5, help="timed turns of each row")
    parser.add_argument("--seconds", type=float, default=0.5, help="how long a turn lasts")
    choices = parser.parse_args(arguments)
    images, truth = draw_batch(choices.side, 8)
    random = np.random.default_rng(0)
    recipe = read_config(PRESET).augment
    steps = {
        "mirror half": {"flip": True},
        "cut all": {"crop": 1},
        "shrink all onto a canvas": {"expand": 1},
        "light and colour of all": {"light": recipe.light, "colour": recipe.colour},
        "infrared look for all": {"infrared": 1},
    }
    configs = {name: OFF.model_copy(update=step) for name, step in steps.items()} | {"configs/ena24.yaml": recipe}
    rows: dict[str, tuple[Callable[[], object], int]] = {
        name: (lambda config=config: augment(images, truth, random, config), len(images))
        for name, config in configs.items()
    }
    examples = [
        (mxnet.nd.array(image, dtype="uint8"), np.hstack([block[:, 1:] * choices.side, block[:, :1]])[block[:, 0] >= 0])
        for image, block in zip(images, truth)
    ]
    rows["GluonCV's SSD recipe"] = (lambda: [gluoncv_recipe(*example) for example in examples], len(examples))

    rates: dict[str, list[float]] = {name: [] for name in rows}
    for turn in range(choices.repeats + 1):
        for name, (change, pictures) in rows.items():
            rate = pictures_a_second(change, pictures, choices.seconds)
            if turn:  # the first warms up
                rates[name].append(rate)
    table = PrettyTable(["step", "pictures/s"], align="r")
    table.align["step"] = "l"
    for name, values in rates.items():
        table.add_row([name, f"{statistics.median(values):,.0f}"])
    print(f"Squares of {choices.side} pixels, batches of {len(images)}; medians of {choices.repeats}.")
    print(f"{table}\n{machine()}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
