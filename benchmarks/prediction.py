"""How many pictures become boxes in a file each second: by the post's loop, and by the package?

The same 1920x1080 JPEGs, the same full-width network with the same weights, one process, the same threads, side by side
in turn. The post's `prediction()` is written out as the post writes it, but that it hands its boxes back instead of
drawing them, and that the anchors, which the post forgets, go to the operator that needs them. The package's sides are
what `ena24ssd predict` does between loading the model and MegaDetector JSON on disk: files read, decoded and fitted,
network, journal, results. Beside each stands the bare network, given squares that are ready: what is left of its rate
when pictures come from files is how well the rest hides behind it.

Before anything is timed, the post's loop and every exact side must find the same boxes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy
from prettytable import PrettyTable

from ena24ssd.gluon.devices import open_device  # before mxnet: has MXNet use every core, for the post's loop too

# isort: split
import mxnet
from data_loading import draw_pictures
from machine import machine
from mxnet import np, npx
from mxnet.gluon.data.vision import transforms
from training_step import PRESET
from training_step import Ena24SSD as PostSSD

from ena24ssd.config import read_config
from ena24ssd.detector import Detector
from ena24ssd.engine import EngineError, load_engine
from ena24ssd.exports import export_run
from ena24ssd.journal import Journal, read_journal
from ena24ssd.models import open_model
from ena24ssd.outcome import Wanted, write_outcome
from ena24ssd.pictures import read_square
from ena24ssd.picturewalk import PictureWalk
from ena24ssd.prediction import KEEP, note_down
from ena24ssd.runs import Checkpoint, create_run
from ena24ssd.sources import read_source
from ena24ssd.splits import Split
from ena24ssd.stopping import Request

PLACE = 60  # the score of the candidate in that place is the threshold: random weights find much, an animal is rare
SPECIES = 23  # as many as the post's network tells apart
AGREE = 1e-3  # unit corners


def post_prediction(model: PostSSD) -> Callable[[str, float], list]:
    """The post's function for one picture."""
    image_transform = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
    )

    def prediction(image_location: str, threshold: float) -> list:
        image = mxnet.image.imread(image_location)
        image = transforms.Resize((200, 200))(image)
        image = np.expand_dims(image_transform(image), axis=0)
        anchors, class_predictions, bbox_offsets = model(image)
        class_predictions = npx.softmax(class_predictions)  # the post's np.exp gives scores of any size
        output = npx.multibox_detection(class_predictions.transpose(0, 2, 1), bbox_offsets, anchors)
        output = output[0]
        bbox = []
        for i in output:
            if i[0] != -1 and i[1] >= threshold:
                bbox.append(i[[0, 2, 3, 4, 5]])
        return bbox

    return prediction


def make_run(folder: Path, data: Path, seed: int = 0):
    """A run of the post's network as if it had been trained: random weights and statistics."""
    config = read_config(PRESET, [f"data.path={data}", "device=cpu", "engine=gluon"])
    dataset = read_source(config.data).dataset
    ids = [image.id for image in dataset.images]
    half = len(ids) // 2
    engine = load_engine(config, dataset.class_names)
    random, weights = numpy.random.default_rng(seed), engine.weights()
    for name, values in weights.items():
        if name.endswith(("running_mean", "beta")):
            weights[name] = random.normal(0, 0.1, values.shape).astype(numpy.float32)
        elif name.endswith(("running_var", "gamma")):
            weights[name] = random.uniform(0.5, 1.5, values.shape).astype(numpy.float32)
        elif name.endswith("weight"):
            deviation = (2 / numpy.prod(values.shape[1:])) ** 0.5
            weights[name] = random.normal(0, deviation, values.shape).astype(numpy.float32)
    run = create_run(folder, config, dataset.class_names, Split(tuple(ids[:half]), tuple(ids[half:]), ()))
    run.keep_best(Checkpoint(weights, 0, None))
    return run


class Side:
    """One way to predict: pictures a second from files, and from squares that are ready."""

    def __init__(self, name: str, model: Path, engine: str, room: Path, batch: int | None):
        self.name, self._room = name, room
        self.detector = Detector.load(open_model(model), device="cpu", engine=engine)
        self.batch = batch or self.detector.batch

    def files(self, pictures: Path, count: int) -> float:
        """Pictures a second, from files to MegaDetector JSON."""
        out, journal_file = self._room / "results.json", self._room / "results.json.journal"
        start = time.perf_counter()
        walk = PictureWalk([pictures])
        with Journal.start(journal_file, {}) as journal:
            portions = self.detector.detect_portions(walk, self.batch, KEEP)
            note_down(portions, journal, walk.count(), Request(), sync_every=100, quiet=True)
            model, thresholds = self.detector.model, self.detector.thresholds
            notes = lambda: read_journal(journal_file)  # noqa: E731
            write_outcome(notes, out, pictures, model, thresholds, KEEP, Wanted(), None)
            journal.remove()
        return count / (time.perf_counter() - start)

    def squares(self, ready: numpy.ndarray, count: int) -> float:
        """Pictures a second of the network alone."""
        start = time.perf_counter()
        for first in range(0, count, self.batch):
            self.detector._network.detect(ready[first : first + self.batch])
        return count / (time.perf_counter() - start)


def sides_of(run: Path, data: Path, room: Path, batch: int | None) -> Iterator[Side]:
    """The package's ways to predict that can be had here, the exact ones first."""
    yield Side("run folder, gluon", run, "gluon", room, batch)
    for kind in ("onnx", "onnx-int8"):
        try:
            (exported,) = export_run(run, room / "exports", [kind], data=data, device="cpu", quiet=True)
        except EngineError as missing:
            print(f"left out: {missing}")
            return
        for engine in ("onnxruntime", "openvino"):
            try:
                yield Side(f"{kind}, {engine}", exported.path, engine, room, batch)
            except EngineError as missing:
                print(f"left out: {kind}, {engine}: {missing}")


def check(side: Side, files: Sequence[Path], prediction: Callable[[str, float], list], threshold: float) -> None:
    """Raises SystemExit where the post's loop finds something else than ``side`` on the squares it makes itself."""
    for file in files:
        theirs = numpy.array([row.asnumpy()[1:] for row in prediction(str(file), threshold)]).reshape(-1, 4)
        square = transforms.Resize((200, 200))(mxnet.image.imread(str(file))).asnumpy()
        rows = side.detector._network.detect(square[None])[0]
        ours = rows[(rows[:, 0] >= 0) & (rows[:, 1] >= threshold), 2:]
        if len(ours) != len(theirs) or not numpy.allclose(ours, theirs.clip(0, 1), atol=AGREE):
            raise SystemExit(
                f"{file.name}: the post finds {len(theirs)} boxes, {side.name} {len(ours)}, not the same; nothing to "
                "compare"
            )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=48, help="1920x1080 JPEGs (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds in which each side has its turn (%(default)s)")
    parser.add_argument("--batch", type=int, help="pictures at once (default: what each engine says suits it)")
    choices = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        compare(choices, Path(name))
    return 0


def compare(choices: argparse.Namespace, room: Path) -> None:
    device = open_device("cpu")
    described = draw_pictures(room / "data", choices.pictures)
    data = described.parent
    content = json.loads(described.read_text())
    drawn = len(content["categories"])
    content["categories"] += [{"id": 100 + extra, "name": f"species {extra}"} for extra in range(SPECIES - drawn)]
    described.write_text(json.dumps(content))
    run = make_run(room / "run", data)
    pictures = data / "images"
    files = list(PictureWalk([pictures]))
    ready = numpy.stack([read_square(file, run.config.data.image_side, run.config.data.fit).pixels for file in files])

    post = PostSSD()
    post.initialize(ctx=device)
    post(np.zeros((1, 3, 200, 200)))
    weights = run.load_checkpoint("best").weights
    for name, parameter in post._collect_params_with_prefix().items():
        parameter.set_data(np.array(weights[name]))
    prediction = post_prediction(post)
    sides = list(sides_of(run.folder, data, room, choices.batch))
    rows = sides[0].detector._network.detect(ready[:4])
    threshold = float(rows[:, PLACE, 1].max())
    for side in sides:
        if "int8" not in side.name:
            check(side, files[:2], prediction, threshold)
    rates: dict[str, list[tuple[float, float]]] = {side.name: [] for side in sides}
    posts = []
    for _ in range(choices.repeats):
        few = files[: max(4, len(files) // 4)]  # it is slow, and each picture takes as long as the next
        start = time.perf_counter()
        for file in few:
            prediction(str(file), threshold)
        posts.append(len(few) / (time.perf_counter() - start))
        for side in sides:
            rates[side.name].append((side.files(pictures, len(files)), side.squares(ready, len(files))))

    table = PrettyTable(
        ["", "batch", "pictures/s", "from", "to", "of the post's", "bare network", "of the bare"], align="r"
    )
    table.align[""] = "l"
    base = statistics.median(posts)
    table.add_row(
        ["the post's prediction()", 1, f"{base:.2f}", f"{min(posts):.2f}", f"{max(posts):.2f}", "1 x", "", ""]
    )
    for side in sides:
        whole, bare = zip(*rates[side.name])
        middle, alone = statistics.median(whole), statistics.median(bare)
        shares = f"{middle / base:.1f} x", f"{alone:.2f}", f"{middle / alone:.0%}"
        table.add_row([side.name, side.batch, f"{middle:.2f}", f"{min(whole):.2f}", f"{max(whole):.2f}", *shares])
    print(f"{len(files)} pictures of 1920x1080 to JSON, full width; medians of {choices.repeats} rounds.")
    print(f"{table}\n{machine()}")


if __name__ == "__main__":
    raise SystemExit(main())
