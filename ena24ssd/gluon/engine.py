"""How does MXNet train, measure and detect?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path

import mxnet
import numpy
from mxnet import autograd, np, npx

from ena24ssd.config import RunConfig
from ena24ssd.data import Batch
from ena24ssd.engine import EngineError, require_weights, weigh_species
from ena24ssd.gluon.average import GluonAverage
from ena24ssd.gluon.board import MxBoard
from ena24ssd.gluon.cluster import join_cluster
from ena24ssd.gluon.devices import open_devices
from ena24ssd.gluon.faults import find_fault
from ena24ssd.gluon.losses import multibox_loss, normalisers
from ena24ssd.gluon.multibox import Targets, decode, match
from ena24ssd.gluon.ssd import build_network
from ena24ssd.gluon.update import Update
from ena24ssd.memory import is_shortage, peak_memory
from ena24ssd.metrics import AnchorSums
from ena24ssd.stages import STATISTICS, Stage, changes, learns, rate_of, stage_of


@contextmanager
def telling() -> Iterator[None]:
    """What MXNet says of a device, in one line and with a way out."""
    try:
        yield
    except mxnet.MXNetError as fault:
        said = " ".join(str(fault).split())
        way_out = "'ena24ssd doctor' looks at the devices"
        if is_shortage(fault):
            way_out = "a larger train.accumulate needs less memory, as does a smaller train.batch in a new run"
        raise EngineError(f"MXNet gave up: {said[:300]}; {way_out}") from fault


class GluonStep:
    """A step's sums, still on the device; `read` is the only place of a step that waits for it."""

    learns = False

    def __init__(self, engine: GluonEngine, batch: Batch, sums: Sequence[np.ndarray]):
        self._engine, self._batch, self._sums = engine, batch, sums

    def read(self) -> AnchorSums:
        with self._engine.awaiting(), telling():
            vectors = [sums.asnumpy() for sums in self._sums]
        self._read = AnchorSums.from_vector(numpy.sum(vectors, axis=0, dtype=numpy.float64))
        return self._read

    def fault(self) -> str | None:
        if numpy.isfinite(self._read.loss):
            return None
        return f"the loss became {self._read.loss}; {self._culprit()}"

    def _culprit(self) -> str:
        return f"first not finite was {self._engine.find_fault(self._batch, self.learns)}"


class GluonMeasuredStep(GluonStep):
    """A step that has only looked."""

    def __init__(self, engine: GluonEngine, batch: Batch, sums: np.ndarray, rows: np.ndarray):
        super().__init__(engine, batch, [sums])
        self._rows = rows

    def rows(self) -> numpy.ndarray:
        return self._rows.asnumpy()


class GluonTrainedStep(GluonStep):
    """A step that has moved the weights; it holds on to those from before until it has been read."""

    learns = True

    def __init__(
        self,
        engine: GluonEngine,
        batch: Batch,
        sums: Sequence[np.ndarray],
        norm: np.ndarray,
        before: Mapping[str, np.ndarray],
    ):
        super().__init__(engine, batch, sums)
        self._norm, self._before = norm, before

    def fault(self) -> str | None:
        with self._engine.awaiting(), telling():  # unlike the sums, the norm has to do with every worker's gradient
            norm = float(self._norm.asnumpy())
        if numpy.isfinite(self._read.loss) and numpy.isfinite(norm):
            return None
        self._engine.put_back(self._before)
        return super().fault() or f"the gradient's norm became {norm}; {self._culprit()}"


class GluonEngine:
    """`ena24ssd.engine.Engine` on MXNet: the reference the others are held against."""

    @telling()
    def __init__(self, config: RunConfig, class_names: Sequence[str], *, together: bool = False):
        _require_known(config)
        mxnet.npx.set_np()  # MXNet keeps this setting per thread, and this may be another than the importing one
        self._config, self._classes = config, len(class_names)
        self._contexts = open_devices(config.device)
        self._context = self._contexts[0]  # that measures and detects
        self.device = ", ".join(map(str, self._contexts))
        self.batch = 16 if self._context.device_type == "gpu" else 8
        mxnet.random.seed(config.seed)
        self.net = build_network(self._classes, config.model)
        self.net.initialize(ctx=self._contexts)
        self.net.hybridize(static_alloc=True, static_shape=True)
        side = config.data.image_side
        blank = numpy.zeros((1, side, side, 3), dtype=numpy.uint8)
        for context in self._contexts:  # shapes become known: parameters get their values
            anchors, *_ = self.net(self._normalise(blank, context))
        self._anchors = anchors.as_in_ctx(self._context)  # (1, N, 4): of the feature map's size alone
        self._species_weights = weigh_species(class_names, config)
        self._cluster = join_cluster() if together and config.kvstore else None
        self.rank = self._cluster.rank if self._cluster else 0
        self.workers = self._cluster.workers if self._cluster else 1
        kvstore = "device" if self._context.device_type == "gpu" else "local"
        self._learnable = self._learnt()
        self._update = Update(self._learnable, config.optim, self._cluster.kvstore if self._cluster else kvstore)
        self._average = GluonAverage(config.optim.average, self._parameters())
        self.begin_stage(stage_of(config.optim, 0, config.train.epochs))

    @property
    def learning_rate(self) -> float:
        return self._update.learning_rate

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        self._update.learning_rate = rate

    def hold(self, pixels: numpy.ndarray) -> bool:
        return False  # pictures come from the host, batch by batch

    def holds(self, pixels: numpy.ndarray) -> bool:
        return False

    @telling()
    def begin_stage(self, stage: Stage) -> None:
        model, request = self._config.model, "write" if self._config.train.accumulate == 1 else "add"
        for name, parameter in self._learnable.items():
            parameter.grad_req = request if learns(name, stage.share, model) else "null"
            parameter.lr_mult = rate_of(name, stage)
        self._update.begin(stage.lr)
        parameters = self._parameters().items()
        self._changing = {name: each for name, each in parameters if changes(name, stage.share, model)}
        self._average.cover({name: parameter.data(self._context) for name, parameter in self._changing.items()})
        is_averaged = self._config.optim.average is not None
        self._averages_statistics = is_averaged and any(name.endswith(STATISTICS) for name in self._changing)
        self._has_stepped = False

    @telling()
    def train_step(self, batch: Batch) -> GluonStep:
        self._average.begin()
        before = {name: parameter.data(self._context).copy() for name, parameter in self._changing.items()}
        whole, counts = self._match(batch)
        if self._cluster:
            counts = self._cluster.add_up(counts)
        if self._config.train.accumulate > 1:
            for parameter in self._learnt().values():
                for gradient in parameter.list_grad():
                    gradient[:] = 0
        sums, idle = [np.zeros((AnchorSums.size(self._classes),))], set(self._contexts)
        for context, images, targets in self._portions(batch, whole):
            here = counts.as_in_ctx(context)
            with autograd.record():
                _, logits, offsets = self.net(self._normalise(images, context))
                losses = multibox_loss(logits, offsets, targets, here[:2], self._config.loss, self._weigh(context))
                loss = losses[0] + losses[1]
            loss.backward()
            sums.append(self._sums(logits, offsets, targets, here, *losses))
            idle.discard(context)
        self._settle(idle)
        norm, self._has_stepped = self._update.step(), True
        if self._averages_statistics:
            # A compiled graph's backward pass writes the running statistics without telling MXNet, which would let
            # the average read them before; the norm is there when all gradients are.
            with self.awaiting():
                norm.wait_to_read()
        self._average.follow()
        return GluonTrainedStep(self, batch, sums, norm, before)

    @telling()
    def measure_step(self, batch: Batch) -> GluonMeasuredStep:
        self._average.show(True)
        anchors, logits, offsets = self.net(self._normalise(batch.images, self._context))
        targets, counts = self._match(batch)
        weights = self._weigh(self._context)
        losses = multibox_loss(logits, offsets, targets, counts[:2], self._config.loss, weights)
        sums = self._sums(logits, offsets, targets, counts, *losses)
        return GluonMeasuredStep(self, batch, sums, decode(anchors, logits, offsets, self._config.evaluation))

    @telling()
    def detect(self, images: numpy.ndarray) -> numpy.ndarray:
        self._average.show(True)
        return decode(*self.net(self._normalise(images, self._context)), self._config.evaluation).asnumpy()

    @telling()
    def weights(self) -> dict[str, numpy.ndarray]:
        arrays = {name: parameter.data(self._context) for name, parameter in self._parameters().items()}
        return {name: array.asnumpy() for name, array in (arrays | self._average.averaged()).items()}

    def load_weights(self, weights: dict[str, numpy.ndarray]) -> None:
        parameters = self._parameters()
        require_weights(weights, {name: parameter.shape for name, parameter in parameters.items()})
        for name, parameter in parameters.items():
            parameter.set_data(np.array(weights[name]))
        self._average.forget()

    def gradients(self) -> dict[str, numpy.ndarray]:
        return self._update.gradients() if self._has_stepped else {}

    def optimizer_state(self) -> dict[str, numpy.ndarray]:
        return self._update.state() | self._average.state()

    def load_optimizer_state(self, state: dict[str, numpy.ndarray]) -> None:
        self._update.load(self._average.load(state))

    def agree(self, values: numpy.ndarray) -> numpy.ndarray:
        return self._cluster.agree(values) if self._cluster else values

    def align(self) -> None:
        if self._cluster:
            for parameter in self._parameters().values():
                parameter.set_data(self._cluster.share(parameter.data(self._context)))
            for array in self._average.away():
                array[:] = self._cluster.share(array)

    def awaiting(self) -> AbstractContextManager:
        """Around a wait for what depends on other workers: it ends some time after one of them fell silent."""
        return self._cluster.awaiting() if self._cluster else nullcontext()

    def close(self) -> None:
        if self._cluster:
            self._cluster.close()

    def peak_memory(self) -> int:
        if self._context.device_type == "cpu":
            return peak_memory()
        used = 0
        for context in self._contexts:  # MXNet gives nothing back to the device: what is in use is the most there was
            free, total = mxnet.context.gpu_memory_info(context.device_id)
            used += total - free
        return used

    def open_board(self, folder: Path) -> MxBoard:
        return MxBoard(folder, self.net)

    def put_back(self, weights: Mapping[str, np.ndarray]) -> None:
        """Set what learns to values from before a step, which are on the device already."""
        self._average.show(False)
        for name, values in weights.items():
            self._parameters()[name].set_data(values)

    def find_fault(self, batch: Batch, learns: bool) -> str:
        """The layer that was the first to give something that is no number, with the weights as they are."""
        if not len(batch.images):
            return "a layer on another worker"
        self._average.show(not learns)
        whole, counts = self._match(batch)
        for _, images, targets in self._portions(batch, whole):
            images, targets = self._normalise(images, self._context), _on(targets, self._context)

            def forward(images=images, targets=targets):
                _, logits, offsets = self.net(images)
                parts = multibox_loss(
                    logits, offsets, targets, counts[:2], self._config.loss, self._weigh(self._context)
                )
                return parts[0] + parts[1], {"class loss": parts[0], "box loss": parts[1]}

            if fault := find_fault(self.net, forward, learns):
                return fault
        return "no layer by itself, but the sum over all layers, devices or workers"

    def _parameters(self) -> dict[str, mxnet.gluon.Parameter]:
        # collect_params() would number the layers of every model this process ever made
        return self.net._collect_params_with_prefix()

    def _learnt(self) -> dict[str, mxnet.gluon.Parameter]:
        return {name: parameter for name, parameter in self._parameters().items() if parameter.grad_req != "null"}

    def _normalise(self, images: numpy.ndarray, context: mxnet.Context) -> np.ndarray:
        """(B, S, S, 3) uint8 -> (B, 3, S, S) float32 on the device; the bytes travel, not the floats."""
        pixels = npx.image.to_tensor(np.array(images, dtype="uint8", ctx=context))
        return npx.image.normalize(pixels, mean=self._config.data.mean, std=self._config.data.std)

    def _match(self, batch: Batch) -> tuple[Targets | None, np.ndarray]:
        """The targets of a batch, and what its sums are divided by: the loss's `normalisers` and the pictures, (3,)."""
        if not len(batch.images):
            return None, np.zeros((3,), ctx=self._context)
        targets = match(self._anchors, np.array(batch.truth, ctx=self._context), self._config.loss.overlap)
        pictures = np.full((1,), float(len(batch.images)), ctx=self._context)
        return targets, np.concatenate([normalisers(targets, self._config.loss), pictures])

    def _portions(
        self, batch: Batch, targets: Targets | None
    ) -> Iterator[tuple[mxnet.Context, numpy.ndarray, Targets]]:
        """A batch spread over the devices, in the configured number of rounds; parts without a picture are left out."""
        parts = len(self._contexts) * self._config.train.accumulate
        if parts == 1:
            if len(batch.images):
                yield self._context, batch.images, targets
            return
        bounds = [len(batch.images) * part // parts for part in range(parts + 1)]
        for part, (start, end) in enumerate(pairwise(bounds)):
            context = self._contexts[part % len(self._contexts)]
            if start < end:
                yield context, batch.images[start:end], _on(Targets(*(each[start:end] for each in targets)), context)

    def _settle(self, idle: set[mxnet.Context]) -> None:
        """Let devices that got no picture of a batch take part in its update all the same."""
        for parameter in self._learnt().values() if idle else ():
            for context in idle:
                parameter.grad(context)[:] = 0
                parameter.data(context)._fresh_grad = True

    def _weigh(self, context: mxnet.Context) -> np.ndarray | None:
        weights = self._species_weights
        return None if weights is None else np.array(weights, ctx=context)

    def _sums(self, logits, offsets, targets: Targets, counts: np.ndarray, class_loss, box_loss) -> np.ndarray:
        """The fields of AnchorSums in one vector, so that reading a step is one transfer."""
        truth = targets.anchor_classes
        answer = np.argmax(logits, axis=-1).astype("float32")  # (B, N)
        right = answer == truth
        positive = truth > 0
        pictures = float(truth.shape[0])
        scalars = [
            *(np.full((1,), pictures, ctx=truth.ctx), class_loss * counts[2], box_loss * counts[2]),
            *(np.full((1,), float(truth.size), ctx=truth.ctx), right.sum(), (truth == 0).sum()),
            *(positive.sum(), (right * positive).sum(), np.full((1,), float(offsets.size), ctx=truth.ctx)),
            (np.abs(offsets - targets.box_offsets) * targets.box_mask).sum(),
        ]
        species = np.arange(1, self._classes + 1, ctx=truth.ctx).reshape(-1, 1)  # (C, 1)
        guessed, actual = answer.reshape(1, -1) == species, truth.reshape(1, -1) == species  # (C, B*N)
        both = (guessed * actual).sum(axis=1)
        counts = [both, guessed.sum(axis=1) - both, actual.sum(axis=1) - both]
        return np.concatenate([part.astype("float32").reshape(-1) for part in (*scalars, *counts)])


def _require_known(config: RunConfig) -> None:
    """Raise EngineError for what only the other engine does."""
    for name, value, known in (
        ("precision", config.precision, ("auto", "float32")),
        ("compile", config.compile, ("auto", "eager")),
        ("model.shared_statistics", config.model.shared_statistics, (False,)),
    ):
        if value not in known:
            said = str(value).lower()
            raise EngineError(f"{name} is {said}, which engine 'gluon' cannot do; set engine=pytorch, or leave it out")


def _on(targets: Targets, context: mxnet.Context) -> Targets:
    return Targets(*(each.as_in_ctx(context) for each in targets))
