"""How does MXNet train, measure and detect?"""

from __future__ import annotations

from pathlib import Path

import mxnet
import numpy
from mxnet import autograd, gluon, np, npx

from ena24ssd.config import RunConfig
from ena24ssd.data import Batch
from ena24ssd.gluon.board import MxBoard
from ena24ssd.gluon.devices import open_device
from ena24ssd.gluon.losses import multibox_loss
from ena24ssd.gluon.multibox import Targets, decode, match
from ena24ssd.gluon.ssd import Ena24SSD
from ena24ssd.metrics import AnchorSums


class GluonStep:
    """A step's sums, still on the device; `read` is the only place of a step that waits for it."""

    def __init__(self, sums: np.ndarray, rows: np.ndarray | None = None):
        self._sums, self._rows = sums, rows

    def read(self) -> AnchorSums:
        return AnchorSums.from_vector(self._sums.asnumpy())

    def rows(self) -> numpy.ndarray:
        return self._rows.asnumpy()


class GluonEngine:
    """`ena24ssd.engine.Engine` on MXNet: the reference the others are held against."""

    def __init__(self, config: RunConfig, class_count: int):
        mxnet.npx.set_np()  # MXNet keeps this setting per thread, and this may be another than the importing one
        self._config, self._classes = config, class_count
        self._context = open_device(config.device)
        self.device = str(self._context)
        mxnet.random.seed(config.seed)
        self.net = Ena24SSD(class_count, config.model)
        self.net.initialize(ctx=self._context)
        self.net.hybridize(static_alloc=True, static_shape=True)
        side = config.data.image_side
        blank = numpy.zeros((1, side, side, 3), dtype=numpy.uint8)
        self.net(self._normalise(blank))  # shapes become known: parameters get their values
        optim = config.optim
        options = {"learning_rate": optim.lr, "wd": optim.weight_decay}
        if optim.name == "sgd":
            options["momentum"] = optim.momentum
        self._trainer = gluon.Trainer(self.net.collect_params(), optim.name, options, kvstore=None)

    @property
    def learning_rate(self) -> float:
        return self._trainer.learning_rate

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        self._trainer.set_learning_rate(rate)

    def train_step(self, batch: Batch) -> GluonStep:
        images, truth = self._normalise(batch.images), np.array(batch.truth, ctx=self._context)
        with autograd.record():
            anchors, logits, offsets = self.net(images)
            with autograd.pause():
                targets = match(anchors, truth, self._config.loss.overlap)
            class_loss, box_loss = multibox_loss(logits, offsets, targets, self._config.loss)
            loss = class_loss + box_loss
        loss.backward()
        self._trainer.step(1)  # the loss is already a mean
        return GluonStep(self._sums(logits, offsets, targets, class_loss, box_loss))

    def measure_step(self, batch: Batch) -> GluonStep:
        anchors, logits, offsets = self.net(self._normalise(batch.images))
        targets = match(anchors, np.array(batch.truth, ctx=self._context), self._config.loss.overlap)
        losses = multibox_loss(logits, offsets, targets, self._config.loss)
        sums = self._sums(logits, offsets, targets, *losses)
        return GluonStep(sums, decode(anchors, logits, offsets, self._config.evaluation))

    def detect(self, images: numpy.ndarray) -> numpy.ndarray:
        return decode(*self.net(self._normalise(images)), self._config.evaluation).asnumpy()

    def weights(self) -> dict[str, numpy.ndarray]:
        return {name: parameter.data().asnumpy() for name, parameter in self._parameters().items()}

    def load_weights(self, weights: dict[str, numpy.ndarray]) -> None:
        parameters = self._parameters()
        faults = [f"missing {name}" for name in parameters.keys() - weights.keys()]
        faults += [f"unknown {name}" for name in weights.keys() - parameters.keys()]
        faults += [
            f"{name} has shape {weights[name].shape} instead of {parameter.shape}"
            for name, parameter in parameters.items()
            if name in weights and weights[name].shape != parameter.shape
        ]
        if faults:
            shown = "; ".join(sorted(faults)[:3]) + (" ..." if len(faults) > 3 else "")
            raise ValueError(f"weights of another network: {shown}; use the config they were trained with")
        for name, parameter in parameters.items():
            parameter.set_data(np.array(weights[name]))

    def open_board(self, folder: Path) -> MxBoard:
        return MxBoard(folder, self.net)

    def _parameters(self) -> dict[str, gluon.Parameter]:
        # collect_params() would number the layers of every model this process ever made
        return self.net._collect_params_with_prefix()

    def _normalise(self, images: numpy.ndarray) -> np.ndarray:
        """(B, S, S, 3) uint8 -> (B, 3, S, S) float32 on the device; the bytes travel, not the floats."""
        pixels = npx.image.to_tensor(np.array(images, dtype="uint8", ctx=self._context))
        return npx.image.normalize(pixels, mean=self._config.data.mean, std=self._config.data.std)

    def _sums(self, logits, offsets, targets: Targets, class_loss, box_loss) -> np.ndarray:
        """The fields of AnchorSums in one vector, so that reading a step is one transfer."""
        truth = targets.anchor_classes
        answer = np.argmax(logits, axis=-1).astype("float32")  # (B, N)
        right = answer == truth
        positive = truth > 0
        pictures = float(truth.shape[0])
        scalars = [
            *(np.full((1,), pictures, ctx=truth.ctx), class_loss * pictures, box_loss * pictures),
            *(np.full((1,), float(truth.size), ctx=truth.ctx), right.sum(), (truth == 0).sum()),
            *(positive.sum(), (right * positive).sum(), np.full((1,), float(offsets.size), ctx=truth.ctx)),
            (np.abs(offsets - targets.box_offsets) * targets.box_mask).sum(),
        ]
        species = np.arange(1, self._classes + 1, ctx=truth.ctx).reshape(-1, 1)  # (C, 1)
        guessed, actual = answer.reshape(1, -1) == species, truth.reshape(1, -1) == species  # (C, B*N)
        both = (guessed * actual).sum(axis=1)
        counts = [both, guessed.sum(axis=1) - both, actual.sum(axis=1) - both]
        return np.concatenate([part.astype("float32").reshape(-1) for part in (*scalars, *counts)])
