"""How long do an epoch's batches take: the post's loader, and the package's cache?

The post decodes every file again in every epoch. The package decodes it once, keeps the resized bytes on disk, and slices
batches from those. Both sides see the same files, batch size, order of magnitude of truth rows, and process; two
figures each:

* pixels: batches of (B, 200, 200, 3) bytes in main memory, with their truth;
* floats: batches of (B, 3, 200, 200) normalised float32 on the device, with their truth there: what the network eats.

The package's epoch lists every picture many times over, so that it is long enough to be timed; everything is read once
before, so that no side waits for the disk.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy
from PIL import Image as Pillow
from prettytable import PrettyTable

from ena24ssd.gluon.devices import open_device  # before mxnet: has MXNet use every core, for the post's loader too

# isort: split
import mxnet
from mxnet import np
from mxnet.gluon.data.vision import transforms

from ena24ssd.boxes import truth_rows
from ena24ssd.cameratraps import CameraTrapDataset
from ena24ssd.config import RunConfig, read_config
from ena24ssd.data import cache_pictures, read_examples, shuffle_batches
from ena24ssd.engine import Engine, load_engine
from ena24ssd.evaluation import max_boxes
from ena24ssd.sources import read_source
from ena24ssd.synthetic import write_dataset

PRESET = Path(__file__).resolve().parents[1] / "configs" / "blog.yaml"
LONGER = 40  # the package's epoch lists every picture this often
SAME_PICTURE = 12  # mean difference in grey levels; OpenCV's resize does not antialias, Pillow's does


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
    rows = max_boxes(dataset, config)
    annotations = [{"bbox": np.array(truth_rows(i.boxes, i.width, i.height, rows))} for i in dataset.images]
    names = [str(dataset.path(image)) for image in dataset.images]
    data = Ena24TrainDataset(range(len(names)), names, annotations, "")
    size = config.train.batch_size
    return mxnet.gluon.data.DataLoader(data.transform(transform), size, shuffle=True, last_batch="discard")


# -- the package -------------------------------------------------------------------------------------------------------


def package_batches(examples, config: RunConfig) -> Iterable:
    """An epoch as `training.train` asks for it, without mirroring (as in the preset)."""
    choice = {"drop_last": True, "flip": config.data.flip, "workers": config.data.workers}
    return shuffle_batches(examples, config.train.batch_size, seed=0, epoch=1, **choice)


def package_floats(batches: Iterable, engine: Engine, device: mxnet.Context) -> Iterable:
    """What `GluonEngine.train_step` does with a batch before the network sees it."""
    return ((engine._normalise(batch.images), np.array(batch.truth, ctx=device)) for batch in batches)


# -- the comparison ----------------------------------------------------------------------------------------------------


def draw_pictures(folder: Path, count: int) -> Path:
    """A drawn dataset of 1920x1080 JPEGs; drawn at a quarter of the side and enlarged, which is much quicker."""
    described = write_dataset(folder, images=count, cameras=4, size=(480, 270))
    content = json.loads(described.read_text())
    grain = Pillow.effect_noise((1920, 1080), 12).convert("RGB")  # without it, too smooth to cost what a photograph does
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
    """The mean difference of the two sides' pixels in grey levels. Raises SystemExit where they are not the same job."""
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


def machine() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    threads = os.environ.get("OMP_NUM_THREADS", "MXNet's choice of")
    return (
        f"{found[1] if found else platform.processor()}, {os.cpu_count()} cores, {threads} threads; Python "
        f"{platform.python_version()}, NumPy {numpy.__version__}, Pillow {Pillow.__version__}, MXNet {mxnet.__version__}"
    )


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
    engine, device = load_engine(config, 23), open_device(choices.device)
    path = choices.data or draw_pictures(room / "drawn", choices.images)
    source = read_source(config.data.model_copy(update={"path": path})).dataset
    dataset = source.select([image.id for image in source.images][: choices.images])
