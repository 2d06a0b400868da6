"""How does PyTorch train, measure and detect?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
import torch
from torch import nn

from ena24ssd.engine import EngineError, require_weights, weigh_species
from ena24ssd.metrics import AnchorSums
from ena24ssd.pytorch.average import TorchAverage
from ena24ssd.pytorch.cluster import join_cluster
from ena24ssd.pytorch.devices import can_compile, describe, multiplies_bfloat16, open_devices, use_all_cores
from ena24ssd.pytorch.faults import find_fault
from ena24ssd.pytorch.layers import share_statistics
from ena24ssd.pytorch.losses import multibox_loss, normalisers
from ena24ssd.pytorch.multibox import Targets, decode, match
from ena24ssd.pytorch.pictures import Squares, normalise, render, send
from ena24ssd.pytorch.ssd import build_network
from ena24ssd.pytorch.update import Update
from ena24ssd.stages import changes, learns, stage_of

if TYPE_CHECKING:
    from ena24ssd.config import RunConfig, TrainConfig
    from ena24ssd.data import Batch, Held
    from ena24ssd.pytorch.board import TorchBoard
    from ena24ssd.stages import Stage

OF_THE_DEVICE = re.compile(r"CUDA|cuDNN|NCCL|gloo|out of memory|allocate|Connection|timed out", re.IGNORECASE)
HELD_SHARE = 0.4  # of a GPU's free memory that all pictures may take
INITIAL = 0.07  # weights begin evenly between -this and this, as Gluon's do


@contextmanager
def telling() -> Iterator[None]:
    """What PyTorch says of a device, in one line and with a way out."""
    try:
        yield
    except EngineError:
        raise
    except RuntimeError as fault:
        if not OF_THE_DEVICE.search(str(fault)):
            raise
        said = " ".join(str(fault).split())
        way_out = "'ena24ssd doctor' looks at the devices"
        if re.search(r"memory|allocate", said, re.IGNORECASE):
            way_out = "a larger train.accumulate needs less memory, as does a smaller train.batch in a new run"
        elif re.search(r"gloo|Connection|timed out", said, re.IGNORECASE):
            way_out = "another worker has ended or fallen silent; what it said last says why"
        raise EngineError(f"PyTorch gave up: {said[:300]}; {way_out}") from fault


class TorchStep:
    """A step's sums, on their way from the device; `read` is the only place of a step that waits for it."""

    learns = False

    def __init__(self, engine: PytorchEngine, batch: Batch, numbers: torch.Tensor):
        """``numbers``: the vector of `AnchorSums`, and after it the norm of the gradient, if there is one."""
        self._engine, self._batch, self._arrival = engine, batch, None
        self._numbers = numbers
        if numbers.is_cuda:
            self._numbers = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            self._numbers.copy_(numbers, non_blocking=True)
            self._arrival = torch.cuda.Event()
            self._arrival.record(torch.cuda.current_stream(numbers.device))  # not the current device's

    def read(self) -> AnchorSums:
        with telling():
            if self._arrival is not None:
                self._arrival.synchronize()
        size = AnchorSums.size(self._engine.classes)
        self._read = AnchorSums.from_vector(self._numbers[:size].numpy())
        return self._read

    def fault(self) -> str | None:
        if numpy.isfinite(self._read.loss):
            return None
        return f"the loss became {self._read.loss}; {self._culprit()}"

    def _culprit(self) -> str:
        return f"first not finite was {self._engine.find_fault(self._batch, self.learns)}"


class TorchMeasuredStep(TorchStep):
    """A step that has only looked."""

    def __init__(self, engine: PytorchEngine, batch: Batch, numbers: torch.Tensor, answer: tuple[torch.Tensor, ...]):
        super().__init__(engine, batch, numbers)
        self._answer = answer

    def rows(self) -> numpy.ndarray:
        with telling():
            return self._engine.decode(*self._answer)


class TorchTrainedStep(TorchStep):
    """A step that has moved the weights; it holds on to those from before until it has been read."""

    learns = True

    def __init__(self, engine: PytorchEngine, batch: Batch, numbers: torch.Tensor, before: Sequence[torch.Tensor]):
        super().__init__(engine, batch, numbers)
        self._before = before

    def fault(self) -> str | None:
        norm = float(self._numbers[-1])
        if numpy.isfinite(self._read.loss) and numpy.isfinite(norm):
            return None
        self._engine.put_back(self._before)
        return super().fault() or f"the gradient's norm became {norm}; {self._culprit()}"


class PytorchEngine:
    """`ena24ssd.engine.Engine` on PyTorch: the gluon engine's equal, on today's devices.

    ``together``: join the other workers, where torchrun has started several.
    """

    @telling()
    def __init__(self, config: RunConfig, class_names: Sequence[str], *, together: bool = False):
        self._config, self.classes = config, len(class_names)
        self._device = open_devices(config.device)[0]
        if self._device.type == "cpu":
            use_all_cores()
        precision = config.precision
        if precision == "auto":
            precision = "bfloat16" if multiplies_bfloat16(self._device) else "float32"
        self._is_half = precision == "bfloat16"
        self.batch = 16 if self._device.type == "cuda" else 8
        self.device = f"{describe(self._device)}, {precision}"
        self.net = build_network(self.classes, config.model)
        _initialise(self.net, config.seed)
        self.net.to(self._device, memory_format=torch.channels_last)
        with torch.no_grad(), self._computing(learns=False):  # the device works, and knows its anchors
            self._anchors = self.net(torch.zeros(1, 3, *[config.data.image_side] * 2, device=self._device))[0].clone()
        self._scale = [torch.tensor(values, device=self._device) for values in (config.data.mean, config.data.std)]
        weights = weigh_species(class_names, config)
        self._species_weights = None if weights is None else torch.from_numpy(weights).to(self._device)
        self._squares: Squares | None = None
        self._held: numpy.ndarray | None = None
        self._cluster = join_cluster(self._device) if together else None
        self.rank = self._cluster.rank if self._cluster else 0
        self.workers = self._cluster.workers if self._cluster else 1
        if config.model.shared_statistics:
            share_statistics(self.net, self.workers)
        self._average = TorchAverage(config.optim.average)
        self._compiled_sizes = _portion_sizes(config.train, self.workers)
        self.begin_stage(stage_of(config.optim, 0, config.train.epochs))

    @property
    def learning_rate(self) -> float:
        return self._update.learning_rate

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        self._update.learning_rate = rate

    def hold(self, pixels: numpy.ndarray) -> bool:
        if self.holds(pixels):
            return True
        if self._device.type != "cuda":
            return False  # they are at hand already
        free, _ = torch.cuda.mem_get_info(self._device)
        if pixels.nbytes > HELD_SHARE * free:
            return False
        with telling():
            self._squares, self._held = Squares(pixels, self._device), pixels
        return True

    def holds(self, pixels: numpy.ndarray) -> bool:
        return self._held is pixels

    @telling()
    def begin_stage(self, stage: Stage) -> None:
        model = self._config.model
        self._average.show(False)  # one that measured shows another than the rest, who are given rank 0's now
        for name, parameter in self.net.named_parameters():
            parameter.requires_grad_(learns(name, stage.share, model))
            parameter.grad = None
        arrays = {name: tensor for name, tensor in self.net.state_dict().items() if changes(name, stage.share, model)}
        self._average.cover(arrays)
        self._changing = list(arrays.values())
        self._update, self._has_stepped = Update(self.net, self._config.optim, stage), False
        self._spread = self.net  # the one before lets go of the gradients
        if self._cluster:
            self._spread = self._cluster.spread(self.net)
        self._compiled = self._compile()

    @telling()
    def train_step(self, batch: Batch) -> TorchStep:
        self._average.begin()
        before = [torch.empty_like(tensor) for tensor in self._changing]
        torch._foreach_copy_(before, self._changing)
        targets, counts = self._match(batch)
        if self._cluster:
            counts = self._cluster.add_up(counts)
        self._update.forget_gradients()
        portions = self._portions(batch, targets)
        sums = torch.zeros(AnchorSums.size(self.classes), device=self._device)
        for number, (squares, part) in enumerate(portions, 1):
            is_last = number == len(portions)
            with nullcontext() if is_last or not self._cluster else self._spread.no_sync():
                with self._computing(learns=True):
                    loss, more = self._learner(len(squares))(self._normalise(squares), part, counts)
                loss.backward()
            sums = sums + more
        norm, self._has_stepped = self._update.step(), True
        self._average.follow()
        return TorchTrainedStep(self, batch, torch.cat([sums, norm]), before)

    @telling()
    def measure_step(self, batch: Batch) -> TorchMeasuredStep:
        self._average.show(True)
        targets, counts = self._match(batch)
        with torch.inference_mode(), self._computing(learns=False):
            _, logits, offsets = self.net(self._normalise(self._squares_of(batch.images)))
        with torch.inference_mode():
            logits, offsets = logits.float(), offsets.float()
            numbers = self._cost(logits, offsets, targets, counts)[1]
        return TorchMeasuredStep(self, batch, numbers, (logits, offsets))

    @telling()
    def detect(self, images: numpy.ndarray) -> numpy.ndarray:
        self._average.show(True)
        with torch.inference_mode(), self._computing(learns=False):
            _, logits, offsets = self.net(self._normalise(self._squares_of(images)))
        return self.decode(logits, offsets)

    def decode(self, logits: torch.Tensor, offsets: torch.Tensor) -> numpy.ndarray:
        """The rows of `detect` for what the network has answered."""
        return decode(self._anchors, logits.float(), offsets.float(), self._config.evaluation).cpu().numpy()

    @telling()
    def weights(self) -> dict[str, numpy.ndarray]:
        tensors = self.net.state_dict() | self._average.averaged()
        return {name: tensor.cpu().contiguous().numpy().copy() for name, tensor in tensors.items()}

    def load_weights(self, weights: dict[str, numpy.ndarray]) -> None:
        require_weights(weights, {name: tuple(tensor.shape) for name, tensor in self.net.state_dict().items()})
        self.net.load_state_dict({name: torch.from_numpy(numpy.array(array)) for name, array in weights.items()})
        self._average.forget()

    def gradients(self) -> dict[str, numpy.ndarray]:
        return self._update.gradients() if self._has_stepped else {}

    def optimizer_state(self) -> dict[str, numpy.ndarray]:
        return self._update.state() | self._average.state()

    def load_optimizer_state(self, state: dict[str, numpy.ndarray]) -> None:
        self._update.load(self._average.load(state))

    def agree(self, values: numpy.ndarray) -> numpy.ndarray:
        with telling():
            return self._cluster.agree(values) if self._cluster else values

    @telling()
    def align(self) -> None:
        if self._cluster:
            self._cluster.share([*self.net.state_dict().values(), *self._average.away()])

    @telling()
    def close(self) -> None:
        if self._cluster:
            self._cluster.close()

    def peak_memory(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_reserved(self._device)
        from ena24ssd.memory import peak_memory

        return peak_memory()

    def open_board(self, folder: Path) -> TorchBoard:
        from ena24ssd.pytorch.board import TorchBoard

        side = self._config.data.image_side
        return TorchBoard(folder, self.net, torch.zeros(1, 3, side, side, device=self._device))

    def put_back(self, state: Sequence[torch.Tensor]) -> None:
        """Set what learns to values from before a step, which are on the device already."""
        self._average.show(False)
        torch._foreach_copy_(self._changing, list(state))

    def find_fault(self, batch: Batch, learns: bool) -> str:
        """The layer that was the first to give something that is no number, with the weights as they are."""
        if not len(batch.images):
            return "a layer on another worker"
        self._average.show(not learns)
        targets, counts = self._match(batch)
        for squares, part in self._portions(batch, targets):

            def forward(squares=squares, part=part):
                _, logits, offsets = self.net(self._normalise(squares))
                costs = multibox_loss(logits, offsets, part, counts[:2], self._config.loss, self._species_weights)
                return costs[0] + costs[1], {"class loss": costs[0], "box loss": costs[1]}

            if fault := find_fault(self.net, forward, learns):
                return fault
        return "no layer by itself, but the sum over all layers or workers"

    # -- a step --------------------------------------------------------------------------------------------------------

    @contextmanager
    def _computing(self, learns: bool) -> Iterator[None]:
        """The network in the mode and precision of training or measuring."""
        self.net.train(learns)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._is_half):
            yield

    def _learn(self, pixels: torch.Tensor, targets: Targets, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss to differentiate, and the vector of `AnchorSums`."""
        _, logits, offsets = self._spread(pixels)
        return self._cost(logits.float(), offsets.float(), targets, counts)

    def _cost(
        self, logits: torch.Tensor, offsets: torch.Tensor, targets: Targets, counts: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        losses = multibox_loss(logits, offsets, targets, counts[:2], self._config.loss, self._species_weights)
        with torch.no_grad():
            numbers = self._sums(logits, offsets, targets, counts, *losses)
        # What the workers' gradients become is their mean, and their sum is wanted.
        return (losses[0] + losses[1]) * self.workers, numbers

    def _compile(self):
        """The compiled form of `_learn`; None where it does not pay."""
        choice = self._config.compile
        if choice == "auto":
            choice = "fuse" if self._device.type == "cuda" and can_compile(self._device) else "eager"
        # A BatchNorm that talks to other workers would break the step into dozens of pieces.
        if choice == "eager" or (self.workers > 1 and self._config.model.shared_statistics):
            return None
        # Gradients that add up over portions would lie in memory that the next replay overwrites.
        has_graphs = choice == "graphs" and self._config.train.accumulate == 1
        return torch.compile(self._learn, mode="reduce-overhead" if has_graphs else None, dynamic=False)

    def _learner(self, pictures: int):
        """`_learn`, compiled for the portions of whole batches; an epoch's last few pictures are learnt as they are."""
        if pictures and not self._compiled_sizes:  # the batch is yet to be found
            self._compiled_sizes = {pictures}
        return self._compiled if self._compiled is not None and pictures in self._compiled_sizes else self._learn

    def _squares_of(self, images: numpy.ndarray | Held) -> torch.Tensor:
        """Pictures that come as bytes, or are held, on the device: (B, S, S, 3), 0 to 255."""
        if isinstance(images, numpy.ndarray):
            return send(images, self._device)
        squares = self._squares.take(images.rows)
        return squares if images.changes is None or not len(images) else render(squares, images.changes)

    def _normalise(self, squares: torch.Tensor) -> torch.Tensor:
        """What the network sees of them: (B, 3, S, S) float32."""
        return normalise(squares, *self._scale)

    def _match(self, batch: Batch) -> tuple[Targets, torch.Tensor]:
        """The targets of a batch, and what its sums are divided by: the loss's `normalisers` and the pictures, (3,)."""
        targets = match(self._anchors, send(batch.truth, self._device), self._config.loss.overlap)
        pictures = torch.full((1,), float(len(batch.images)), device=self._device)
        return targets, torch.cat([normalisers(targets, self._config.loss), pictures])

    def _portions(self, batch: Batch, targets: Targets) -> list[tuple[torch.Tensor, Targets]]:
        """A batch in the configured number of rounds.

        Those without a picture are left out, but for a batch of none, and where every worker's BatchNorm waits for the
        others' in every round.
        """
        squares, count, parts = self._squares_of(batch.images), len(batch.images), self._config.train.accumulate
        bounds = [count * part // parts for part in range(parts + 1)]
        spans = [slice(start, end) for start, end in pairwise(bounds)]
        if self.workers == 1 or not self._config.model.shared_statistics:
            spans = [span for span in spans if span.start < span.stop] or spans[:1]
        return [(squares[span], Targets(*(each[span] for each in targets))) for span in spans]

    def _sums(self, logits, offsets, targets: Targets, counts: torch.Tensor, class_loss, box_loss) -> torch.Tensor:
        """The fields of AnchorSums in one vector, so that reading a step is one transfer."""
        truth = targets.anchor_classes  # (B, N)
        answer = logits.argmax(dim=-1)
        right, positive = answer == truth, truth > 0
        scalars = [
            *(counts.new_full((), float(len(truth))), class_loss * counts[2], box_loss * counts[2]),
            *(counts.new_full((), float(truth.numel())), right.sum(), (truth == 0).sum()),
            *(positive.sum(), (right & positive).sum(), counts.new_full((), float(offsets.numel()))),
            ((offsets - targets.box_offsets).abs() * targets.box_mask).sum(),
        ]
        species = torch.arange(1, self.classes + 1, device=truth.device)[:, None]  # (C, 1)
        guessed, actual = answer.flatten() == species, truth.flatten() == species  # (C, B*N)
        both = (guessed & actual).sum(dim=1)
        counts = [both, guessed.sum(dim=1) - both, actual.sum(dim=1) - both]
        return torch.cat([part.float().reshape(-1) for part in (*scalars, *counts)])


def _portion_sizes(config: TrainConfig, workers: int) -> set[int]:
    """How many pictures a worker may learn from at once of a whole batch, none left out."""
    if not isinstance(config.batch, int):
        return set()
    shares = config.batch // workers, -(-config.batch // workers)
    return {size for share in shares for size in (share // config.accumulate, -(-share // config.accumulate)) if size}


def _initialise(net: nn.Module, seed: int) -> None:
    """Gluon's first values: convolutions evenly drawn, their biases zero."""
    random = torch.Generator().manual_seed(seed)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.uniform_(layer.weight, -INITIAL, INITIAL, generator=random)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
