"""How long do an epoch's batches take: the post's loader, and the package's cache?

The post decodes every file again in every epoch. The package decodes it once, keeps the resized bytes on disk, and
slices batches from them. Same files, same batch size, one process, turn by turn; two figures for each side:

* pixels: batches of (B, 200, 200, 3) bytes and their truth in main memory;
* floats: batches of (B, 3, 200, 200) normalised float32 and their truth on the device, as the network eats them.

Files and cache were read just before, so that neither side waits for the disk. The package's epoch lists every picture
many times over, to be long enough for a clock.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy
from PIL import Image as Pillow
from prettytable import PrettyTable

from ena24ssd.gluon.devices import open_device  # before mxnet: has MXNet use every core, for the post's loader too

# isort: split
import mxnet
from machine import machine
from mxnet import np
from mxnet.gluon.data.vision import transforms

from ena24ssd.boxes import Box, truth_rows
from ena24ssd.cache import cache_pictures
from ena24ssd.cameratraps import CameraTrapDataset
from ena24ssd.config import RunConfig, read_config
from ena24ssd.data import Batch, Examples, read_examples, shuffle_batches
from ena24ssd.engine import Engine, load_engine
from ena24ssd.sources import read_source
from ena24ssd.synthetic import write_dataset

PRESET = Path(__file__).resolve().parents[1] / "configs" / "blog.yaml"
LONGER = 40  # the package's epoch lists every picture this often
SAME_PICTURE = 30  # grey levels between the two resizes (OpenCV's does not antialias); strangers differ by twice that


# -- the post ----------------------------------------------------------------------------------------------------------


class Ena24TrainDataset(mxnet.gluon.data.Dataset):
    def __init__(self, train_indices, images, annotations, root):
        super().__init__()
        self.train_indices = train_indices
        self.images = images
        self.annotations = annotations
        self.root = root

    def __len__(self):
        return len(self.train_indices)

    def __getitem__(self, idx):
        index = self.train_indices[idx]
        image = mxnet.image.imread(os.path.join(self.root, self.images[index]))
        bbox = self.annotations[index]["bbox"]
        return image, bbox


def custom_transformations(device: mxnet.Context) -> Callable:
    def transform(*sample):
        mean = np.array([0.485, 0.456, 0.406]).reshape(3, 1, 1)
        std = np.array([0.229, 0.224, 0.225]).reshape(3, 1, 1)
        img = sample[0]
        bbox = sample[1]
        img = transforms.Resize(200)(img)
        img = transforms.ToTensor()(img)
        img[:] -= mean
        img[:] /= std
        return img.as_np_ndarray().as_in_context(device), bbox.as_in_context(device)

    return transform


def only_resize(*sample):
    """The post's transformation up to the pixels."""
    return transforms.Resize(200)(sample[0]), sample[1]


def post_loader(dataset: CameraTrapDataset, config: RunConfig, transform: Callable) -> mxnet.gluon.data.DataLoader:
    most = config.data.max_boxes
    annotations = [{"bbox": np.array(truth_rows(i.boxes, Box(0, 0, i.width, i.height), most))} for i in dataset.images]
    names = [str(dataset.path(image)) for image in dataset.images]
    data = Ena24TrainDataset(range(len(names)), names, annotations, "")
    size = config.train.batch
    return mxnet.gluon.data.DataLoader(data.transform(transform), size, shuffle=True, last_batch="discard")


# -- the package -------------------------------------------------------------------------------------------------------


def package_batches(examples: Examples, config: RunConfig) -> Iterable[Batch]:
    """An epoch as `training.train` asks for it; the preset changes no picture, as the post does not."""
    return shuffle_batches(
        examples, config.train.batch, config.augment, seed=0, epoch=1, drop_last=True, workers=config.data.workers
    )


def package_floats(batches: Iterable[Batch], engine: Engine, device: mxnet.Context) -> Iterable:
    """What `GluonEngine.train_step` does with a batch before the network sees it."""
    return ((engine._normalise(batch.images), np.array(batch.truth, ctx=device)) for batch in batches)


# -- the comparison ----------------------------------------------------------------------------------------------------


def draw_pictures(folder: Path, count: int) -> Path:
    """A drawn dataset of 1920x1080 JPEGs; drawn at a quarter of the side and enlarged, which is much quicker."""
    described = write_dataset(folder, images=count, cameras=4, size=(480, 270))
    content = json.loads(described.read_text())
    # Without grain, enlarged pictures would be too smooth to cost what a photograph does.
    grain = Pillow.effect_noise((1920, 1080), 12).convert("RGB")
    for image in content["images"]:
        path = folder / "images" / image["file_name"]
        with Pillow.open(path) as small:
            large = small.resize((1920, 1080), Pillow.Resampling.BICUBIC)
        Pillow.blend(large, grain, 0.15).save(path, quality=90)
        image.update(width=1920, height=1080)
    for annotation in content["annotations"]:
        annotation["bbox"] = [4 * value for value in annotation["bbox"]]
    described.write_text(json.dumps(content))
    return described


def pictures_a_second(epoch: Callable[[], Iterable]) -> float:
    start, count = time.perf_counter(), 0
    for images, *_ in epoch():
        count += len(images)
    mxnet.npx.waitall()
    return count / (time.perf_counter() - start)


def check(dataset: CameraTrapDataset, config: RunConfig, pixels: numpy.ndarray, engine: Engine) -> float:
    """The mean difference of the two sides' pixels in grey levels. Raises SystemExit where their jobs differ."""
    differences = []
    for row, image in enumerate(dataset.images[:8]):
        decoded = mxnet.image.imread(str(dataset.path(image)))
        theirs, _ = only_resize(decoded, None)
        differences.append(numpy.abs(theirs.asnumpy().astype(float) - pixels[row]).mean())
        floats, _ = custom_transformations(mxnet.cpu())(decoded, np.zeros(1))
        if not numpy.allclose(floats.asnumpy(), engine._normalise(theirs.asnumpy()[None]).asnumpy()[0], atol=1e-4):
            raise SystemExit(f"{image.id}: the two sides normalise the same pixels differently; nothing to compare")
    if max(differences) > SAME_PICTURE:
        raise SystemExit(f"the two sides' pixels differ by {max(differences):.1f} grey levels; nothing to compare")
    return statistics.mean(differences)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="dataset folder or json; left out: pictures are drawn")
    parser.add_argument("--images", type=int, default=48, help="how many pictures are drawn, or taken from --data")
    parser.add_argument("--repeats", type=int, default=5, help="timed epochs of each side")
    parser.add_argument("--device", default="cpu", help="cpu, gpu, gpu:1")
    choices = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as room:
        compare(choices, Path(room))
    return 0


def compare(choices: argparse.Namespace, room: Path) -> None:
    # A network of one channel: only its normalisation is used.
    config = read_config(PRESET, [f"device={choices.device}", "model.width=0.001"])
    engine, device = load_engine(config, [f"species {label}" for label in range(23)]), open_device(choices.device)
    path = choices.data or draw_pictures(room / "drawn", choices.images)
    dataset = read_source(config.data.model_copy(update={"path": path})).dataset
    dataset = replace(dataset, images=dataset.images[: choices.images])
    stored = sum(len(dataset.path(image).read_bytes()) for image in dataset.images)  # now in the page cache

    start = time.perf_counter()
    cache = cache_pictures(dataset, config.data.image_side, folder=room / "cache")
    building = time.perf_counter() - start
    if cache.failures:
        raise SystemExit(f"not every picture can be read: {cache.failures}")
    difference = check(dataset, config, cache.pixels, engine)
    examples, _ = read_examples(dataset, cache, [i.id for i in dataset.images] * LONGER, config.data.max_boxes)

    resizing, whole = (post_loader(dataset, config, job) for job in (only_resize, custom_transformations(device)))
    sides = {
        "the post": {"pixels": lambda: resizing, "floats": lambda: whole},
        "ena24ssd": {
            "pixels": lambda: ((batch.images,) for batch in package_batches(examples, config)),
            "floats": lambda: package_floats(package_batches(examples, config), engine, device),
        },
    }
    rates = {(side, kind): [] for side, kinds in sides.items() for kind in kinds}
    for turn in range(choices.repeats + 1):
        for side, kind in rates:
            rate = pictures_a_second(sides[side][kind])
            if turn:  # the first warms up
                rates[side, kind].append(rate)
    median = {key: statistics.median(values) for key, values in rates.items()}

    count, size = len(dataset.images), config.train.batch
    table = PrettyTable(["pictures/s", *sides, "ena24ssd is faster", "cache pays after"], align="r")
    table.align["pictures/s"] = "l"
    for kind in ("pixels", "floats"):
        theirs, ours = median["the post", kind], median["ena24ssd", kind]
        saved = count / theirs - count / ours  # seconds an epoch
        after = f"{building / saved:.2f} epochs" if saved > 0 else "never"
        table.add_row([kind, f"{theirs:,.0f}", f"{ours:,.0f}", f"{ours / theirs:.1f} x", after])
    kilobytes = stored / count / 1e3
    print(f"Batches of {size}, {count} JPEGs of {kilobytes:.0f} kB on average; medians of {choices.repeats}.")
    print(f"{table}\nbuilding the cache, once: {building:.2f} s, {count / building:.0f} pictures/s")
    print(f"the two sides' pixels differ by {difference:.1f} of 255 grey levels on average (OpenCV's resize, Pillow's)")
    print(machine())


if __name__ == "__main__":
    raise SystemExit(main())
