"""How long does one training step take: the post's loop, and the package's?

Both train the post's network at full width on the same batch of drawn pictures, in one process, with the same threads,
turn by turn. The post's loop is written out here as the post writes it, and runs twice: eager, and hybridized. (The
post calls `hybridize()` before training, to draw the graph: run from top to bottom it trains hybridized; with the cells
about the graph left out, eager.) Before anything is timed, all sides take two steps from the same weights, and the
losses must agree.

A step ends when all its work has. The package's also turns bytes into normalised floats, which the post's loader has
done by then, and sums up the batch's metrics, which the post does for the last batch of an epoch only.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy
from prettytable import PrettyTable

from ena24ssd.gluon.devices import open_device  # before mxnet: has MXNet use every core, for the post's loop too

# isort: split
import mxnet
from machine import machine
from mxnet import np, npx
from mxnet.gluon import nn

from ena24ssd.boxes import Box, truth_rows
from ena24ssd.config import RunConfig, read_config
from ena24ssd.data import Batch
from ena24ssd.engine import Engine, load_engine
from ena24ssd.pictures import fit_square
from ena24ssd.synthetic import draw_scene

PRESET = Path(__file__).resolve().parents[1] / "configs" / "blog.yaml"
AGREE = 1e-4  # relative difference of losses
OURS = "ena24ssd"
Step = Callable[[], float]  # takes a training step, returns its loss


# -- the post ----------------------------------------------------------------------------------------------------------


class CustomConv(nn.HybridBlock):
    def __init__(self):
        super().__init__()
        self.conv31 = nn.Conv2D(200, 3, padding=1)
        self.conv51 = nn.Conv2D(100, 5, padding=2)
        self.conv71 = nn.Conv2D(50, 7, padding=3)
        self.conv11 = nn.Conv2D(300, 1)
        self.conv32 = nn.Conv2D(350, 3, padding=1, strides=2)
        self.conv33 = nn.Conv2D(400, 3, padding=1, strides=2)
        self.conv34 = nn.Conv2D(450, 3, padding=1, strides=2)
        self.conv35 = nn.Conv2D(500, 3, padding=1, strides=2)
        for number in range(1, 9):  # bn1 to bn8
            setattr(self, f"bn{number}", nn.BatchNorm())

    def hybrid_forward(self, F, x):
        y = F.npx.relu(self.bn1(self.conv31(x)))
        z = F.npx.relu(self.bn2(self.conv51(x)))
        t = F.npx.relu(self.bn3(self.conv71(x)))
        x = F.np.concatenate((y, z, t), axis=1)
        x = F.npx.relu(self.bn4(self.conv11(x)))
        x = F.npx.relu(self.bn5(self.conv32(x)))
        x = F.npx.relu(self.bn6(self.conv33(x)))
        x = F.npx.relu(self.bn7(self.conv34(x)))
        return F.npx.relu(self.bn8(self.conv35(x)))


class Ena24SSD(nn.HybridBlock):
    def __init__(self):
        super().__init__()
        self.sizes = [[0.27, 0.44, 0.52, 0.62, 0.71, 0.85]]
        self.ratios = [[1, 1.5, 2, 2.2]]
        self.num_anchors = len(self.sizes[0]) + len(self.ratios[0]) - 1
        self.num_classes = 23
        self.class_predict, self.bbox_predict = nn.HybridSequential(), nn.HybridSequential()
        self.class_predict.add(nn.Conv2D(self.num_anchors * (self.num_classes + 1), 3, padding=1), nn.BatchNorm())
        for count in (380, 220, 120):
            self.bbox_predict.add(nn.Conv2D(count, 3, padding=1), nn.BatchNorm(), nn.Activation("relu"))
        self.bbox_predict.add(nn.Conv2D(4 * self.num_anchors, 3, padding=1), nn.BatchNorm())
        self.features = CustomConv()

    def hybrid_forward(self, F, x):
        feature = self.features(x)
        cls_preds = F.npx.batch_flatten(F.np.transpose(self.class_predict(feature), (0, 2, 3, 1)))
        bbox_preds = F.npx.batch_flatten(F.np.transpose(self.bbox_predict(feature), (0, 2, 3, 1)))
        anchors = F.np.reshape(F.npx.multibox_prior(feature, self.sizes[0], self.ratios[0]), (1, -1, 4))
        cls_preds = F.npx.reshape(cls_preds, (-2, -1, self.num_classes + 1))
        bbox_preds = F.npx.reshape(bbox_preds, (-2, -1))
        return anchors, cls_preds, bbox_preds


class LossBox:
    def __init__(self, batch_size, num_anchors, device):
        self.class_loss = mxnet.gluon.loss.SoftmaxCrossEntropyLoss()
        self.bbox_loss = mxnet.gluon.loss.L1Loss()
        self.weight = np.ones(shape=(batch_size, num_anchors)).as_in_context(device)
        self.weight1 = (np.ones(shape=(batch_size, num_anchors * 4)) * 2).as_in_context(device)

    def calculate_loss(self, class_preds, class_labels, bbox_preds, bbox_labels, bbox_masks):
        # The line of the weights is cut off in the post's text; read as 900 for foreground, 1 for background.
        weights = self.weight * (class_labels != 0) * 900 + self.weight * (class_labels == 0)
        loss_class = self.class_loss(class_preds, class_labels, np.expand_dims(weights, axis=-1))
        loss_bbox = self.bbox_loss(bbox_preds * bbox_masks, bbox_labels * bbox_masks, self.weight1)
        return loss_bbox + loss_class


def post_loop(model: Ena24SSD, image: np.ndarray, label: np.ndarray) -> Step:
    """The body of the post's training loop; each call takes a step and returns its loss."""
    losses = LossBox(len(image), 13 * 13 * model.num_anchors, image.ctx)
    trainer = mxnet.gluon.Trainer(model.collect_params(), "sgd", {"learning_rate": 0.01})

    def step() -> float:
        with mxnet.autograd.record():
            anchors, class_predictions, bbox_predictions = model(image)
            bbox_labels, bbox_masks, class_labels = npx.multibox_target(
                anchors, label, np.transpose(class_predictions, (0, 2, 1))
            )
            l = losses.calculate_loss(class_predictions, class_labels, bbox_predictions, bbox_labels, bbox_masks)  # noqa: E741
            loss = l.mean().item()
        l.backward()
        trainer.step(len(image))
        return loss

    return step


# -- the comparison ----------------------------------------------------------------------------------------------------


def draw_batch(config: RunConfig) -> Batch:
    """As many drawn pictures as a batch holds, each with one to four animals."""
    images, truth, seed = [], [], 0
    while len(images) < config.train.batch:
        picture, boxes = draw_scene(seed, size=(480, 270))
        seed += 1
        if 1 <= len(boxes) <= 4:
            images.append(fit_square(picture, config.data.image_side, config.data.fit))
            truth.append(truth_rows(boxes, Box(0, 0, picture.width, picture.height), config.data.max_boxes))
    return Batch(numpy.stack(images), numpy.stack(truth), tuple(f"drawn {row}" for row in range(len(images))))


def post_side(batch: Batch, weights: dict[str, numpy.ndarray], device: mxnet.Context, hybridized: bool) -> Step:
    mean = numpy.array([0.485, 0.456, 0.406], "float32").reshape(3, 1, 1)
    std = numpy.array([0.229, 0.224, 0.225], "float32").reshape(3, 1, 1)
    image = np.array((batch.images.transpose(0, 3, 1, 2) / numpy.float32(255) - mean) / std, ctx=device)
    model = Ena24SSD()
    model.initialize(ctx=device)
    model(image[:1])
    for name, parameter in model._collect_params_with_prefix().items():
        parameter.set_data(np.array(weights[name]))
    model.hybridize(hybridized)
    return post_loop(model, image, np.array(batch.truth, ctx=device))


def package_side(batch: Batch, engine: Engine) -> Step:
    return lambda: engine.train_step(batch).read().loss


def timed(step: Step) -> tuple[float, float, float]:
    """Seconds on the clock, seconds of all cores, and the loss of one step."""
    clock, cores = time.perf_counter(), time.process_time()
    loss = step()
    mxnet.npx.waitall()
    return time.perf_counter() - clock, time.process_time() - cores, loss


def memory(field: str) -> float:
    """``VmRSS`` (now) or ``VmHWM`` (peak) of this process in GB; nan where there is no /proc."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1e6


def warm_up(step: Step) -> tuple[list[float], float]:
    """The losses of the first two steps, and by how many GB memory grew at their peak."""
    before = memory("VmRSS")
    if before == before:
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    return [timed(step)[2] for _ in range(2)], memory("VmHWM") - before


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each side")
    parser.add_argument("--device", default="cpu", help="cpu, gpu, gpu:1")
    choices = parser.parse_args(arguments)

    config = read_config(PRESET, [f"device={choices.device}"])
    batch, device = draw_batch(config), open_device(choices.device)
    engine = load_engine(config, [f"species {label}" for label in range(23)])
    weights = engine.weights()
    sides = {OURS: package_side(batch, engine)}
    warm = {OURS: warm_up(sides[OURS])}
    for name, hybridized in (("the post, eager", False), ("the post, hybridize()", True)):
        sides[name] = post_side(batch, weights, device, hybridized)
        warm[name] = warm_up(sides[name])
    for name, (losses, _) in warm.items():
        if not numpy.allclose(losses, warm[OURS][0], rtol=AGREE, atol=0):
            raise SystemExit(f"{name} loses {losses}, {OURS} {warm[OURS][0]}: not the same step, nothing to compare")

    times = {name: [] for name in sides}
    for _ in range(choices.repeats):
        for name, step in sides.items():
            times[name].append(timed(step)[:2])
    table = PrettyTable(["", "s a step", "from", "to", "pictures/s", "core s", "GB", f"{OURS} is faster"], align="r")
    median = {name: statistics.median(clock for clock, _ in rows) for name, rows in times.items()}
    for name, rows in times.items():
        clocks, cores = zip(*rows)
        table.add_row(
            [
                *(name, f"{median[name]:.2f}", f"{min(clocks):.2f}", f"{max(clocks):.2f}"),
                *(f"{len(batch.ids) / median[name]:.2f}", f"{statistics.median(cores):.2f}", f"{warm[name][1]:.1f}"),
                f"{median[name] / median[OURS]:.2f} x",
            ]
        )
    table.align[""] = "l"
    print(f"One step, batch of {len(batch.ids)}, full width; medians of {choices.repeats}, sides in turn.")
    print(f"{table}\nlosses of the first two steps: {warm[OURS][0]} on every side\n{machine()}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
