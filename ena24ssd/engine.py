"""What does the package ask of a framework?

`Engine` is all of it. Training, evaluation and detection are written once, against this; the frameworks live behind it
and are imported only when `load_engine` is asked for one.
"""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:  # an engine needs no more than its framework and NumPy
    from ena24ssd.config import RunConfig
    from ena24ssd.data import Batch
    from ena24ssd.metrics import AnchorSums
    from ena24ssd.stages import Stage

# By name, so that importing this module imports no framework. The reference is the first.
ENGINES = {
    "gluon": ("ena24ssd.gluon.engine", "GluonEngine"),
    "pytorch": ("ena24ssd.pytorch.engine", "PytorchEngine"),
}


RUNTIMES = ("onnxruntime", "openvino")  # that run exported graphs


class EngineError(RuntimeError):
    """The framework or the device cannot be used; the message says what to install or to change."""


class Step(Protocol):
    """A step that the device may still be working on."""

    def read(self) -> AnchorSums:
        """Wait for the device, and return what the step contributes to the anchor metrics."""

    def fault(self) -> str | None:
        """After `read`: what is not finite, and the layer where that began; None where all is well."""


class MeasuredStep(Step, Protocol):
    """A step that has only looked."""

    def rows(self) -> np.ndarray:
        """What was detected, as `Engine.detect` gives it."""


class Board(Protocol):
    """Where the curves go: TensorBoard's event files, written by the framework's own writer."""

    def scalars(self, tag: str, values: dict[str, float], step: int) -> None:
        """One point on each of the curves ``tag/<key>``."""

    def scalar(self, tag: str, value: float, step: int) -> None:
        """One point on the curve ``tag``."""

    def histogram(self, tag: str, values: np.ndarray, step: int) -> None: ...

    def pr_curve(self, tag: str, right: np.ndarray, wrong: np.ndarray, boxes: int, step: int) -> None:
        """Precision and recall by score: how many detections are right and wrong, (K,) each, that score at least
        0, ..., 1 in K even steps, where there were ``boxes`` to find.
        """

    def text(self, tag: str, markdown: str, step: int) -> None: ...

    def picture(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """One (H, W, 3) uint8 picture."""

    def graph(self) -> None:
        """The network's graph."""

    def flush(self) -> None:
        """Bring everything to the disk. Raises OSError where that fails."""

    def close(self) -> None: ...


class Network(Protocol):
    """A network that finds animals."""

    device: str
    batch: int  # pictures at once that suit it

    def detect(self, images: np.ndarray) -> np.ndarray:
        """Forward, softmax, decode, NMS.

        ``images`` (B, S, S, 3) uint8. Returns (B, K, 6) float32 rows ``[label, score, left, top, right, bottom]``
        in unit corners, best first; rows with label -1 are padding.
        """


class Engine(Network, Protocol):
    """A network on one or more devices, with its optimizer; perhaps one of several workers that learn together.

    Where ``optim.average`` says so there are two sets of weights: those that learn, and their running average
    (`ena24ssd.averages`), which is meant wherever weights are only used: to measure, to detect, as `weights`.
    """

    learning_rate: float  # of the step to come; the backbone's is a share of it (`ena24ssd.stages.rate_of`)
    rank: int  # of this worker: 0 measures and writes
    workers: int

    def hold(self, pixels: np.ndarray) -> bool:
        """Take all squares there are, (n, S, S, 3) uint8, onto the device for good; False where that does not pay, or
        they do not fit. Batches may then say which of them they mean (`ena24ssd.data.Held`).
        """

    def holds(self, pixels: np.ndarray) -> bool:
        """Whether these very pixels are held."""

    def begin_stage(self, stage: Stage) -> None:
        """From here on the weights of ``stage`` learn, and no others; the optimizer begins anew.

        A new engine has begun the stage of epoch 0. All workers begin a stage at the same point.
        """

    def train_step(self, batch: Batch) -> Step:
        """Forward, match, loss, backward, update.

        The gradient is that of the mean loss over the pictures of all devices and workers. ``batch`` is this worker's
        part, and may be empty.
        """

    def measure_step(self, batch: Batch) -> MeasuredStep:
        """Forward with running statistics, match, loss, detections of the same forward; nothing changes."""

    def weights(self) -> dict[str, np.ndarray]:
        """Every parameter and running statistic under its structural name, e.g. ``features.conv31.weight``."""

    def load_weights(self, weights: dict[str, np.ndarray]) -> None:
        """The inverse of `weights`; the average and what learns are the same then.

        Raises ValueError naming arrays that are missing, unknown or of another shape.
        """

    def gradients(self) -> dict[str, np.ndarray]:
        """The gradient of the last step, after clipping, under the names of `weights`, of those that learn; nothing
        before the first step of a stage.
        """

    def optimizer_state(self) -> dict[str, np.ndarray]:
        """What the optimizer remembers from step to step, of what learns, and the weights themselves where `weights`
        are their average.
        """

    def load_optimizer_state(self, state: dict[str, np.ndarray]) -> None:
        """The inverse of `optimizer_state`, after `load_weights` and `begin_stage` and before the first step.

        Raises ValueError for that of another optimizer.
        """

    def align(self) -> None:
        """Give every worker the weights of rank 0, before the first step."""

    def agree(self, values: np.ndarray) -> np.ndarray:
        """The sum of ``values`` (float64) over all workers, who must all ask at the same point; alone: as they are."""

    def close(self) -> None:
        """Take leave of the other workers, who all must do so; a process that ends without fails them."""

    def peak_memory(self) -> int:
        """The most bytes in use so far: of the devices (whoever uses them), or of the process on a CPU."""

    def open_board(self, folder: Path) -> Board: ...


class Choice(NamedTuple):
    """An engine by name, and why it is not the one that comes first; None where it is."""

    engine: str
    reason: str | None


def suit_network(config: RunConfig) -> str:
    """The engine to prefer for the network of ``config``: the reference, but the light one takes half of the time and
    an eighth of the memory with pytorch.
    """
    return "gluon" if config.model.backbone == "custom_conv" else "pytorch"


def choose_engine(config: RunConfig, first: str | None = None) -> Choice:
    """The engine that ``config`` names. For 'auto': ``first`` where it can run on the device, else the other.

    Left out, ``first`` is the one that suits the network. Where the device is left open too ('auto'), a GPU that only
    the other one can use decides for that. Raises EngineError where neither can run.
    """
    if config.engine != "auto":
        return Choice(config.engine, None)
    first = first or suit_network(config)
    (other,) = ENGINES.keys() - {first}
    fault = _fault(first, config.device)
    if fault is not None:
        worse = _fault(other, config.device)
        if worse is None:
            return Choice(other, fault)
        raise EngineError(f"no engine can run here. {first}: {fault}. {other}: {worse}")
    is_open = config.device == "auto" and shutil.which("nvidia-smi") is not None
    if is_open and (fault := _fault(first, "gpu")) is not None and _fault(other, "gpu") is None:
        return Choice(other, fault)
    return Choice(first, None)


def load_engine(config: RunConfig, class_names: Sequence[str], *, together: bool = False) -> Engine:
    """A freshly initialised network for these species on ``config.device``.

    ``together``: as one of several workers, where the environment says that there are some. Raises EngineError.
    """
    module, maker = ENGINES[choose_engine(config).engine]
    return getattr(importlib.import_module(module), maker)(config, class_names, together=together)


def load_graph(
    model: bytes, config: RunConfig, class_names: Sequence[str], *, runtime: str = "auto", threads: int | None = None
) -> Network:
    """The network of an exported ONNX file. Raises EngineError where it cannot run here, or is not what it should be.

    ``runtime``: one of `RUNTIMES`, or auto.
    """
    from_file = importlib.import_module("ena24ssd.onnx.engine").OnnxEngine
    return from_file(model, config, class_names, runtime=runtime, device=config.device, threads=threads)


def require_weights(weights: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError unless there is an array of every name and shape, and no other."""
    faults = [f"missing {name}" for name in shapes.keys() - weights.keys()]
    faults += [f"unknown {name}" for name in weights.keys() - shapes.keys()]
    faults += [
        f"{name} has shape {weights[name].shape} instead of {shape}"
        for name, shape in shapes.items()
        if name in weights and weights[name].shape != shape
    ]
    if faults:
        shown = "; ".join(sorted(faults)[:3]) + (" ..." if len(faults) > 3 else "")
        raise ValueError(f"weights of another network: {shown}; use the config they were trained with")


def weigh_species(class_names: Sequence[str], config: RunConfig) -> np.ndarray | None:
    """The weight of every species by name, (C,) float32; None where all weigh the same. Raises EngineError."""
    choice = config.loss.species_weights
    if isinstance(choice, str):
        if choice != "equal":  # it is a matter of the training pictures, which training knows
            raise EngineError(f"loss.species_weights '{choice}' is for training to work out; give weights by name")
        return None
    return np.array([choice.get(name, 1.0) for name in class_names], dtype=np.float32)


def _fault(engine: str, device: str | Sequence[str]) -> str | None:
    """Why an engine cannot run on this device; None if it can."""
    try:
        importlib.import_module(f"ena24ssd.{engine}.devices").open_devices(device)
    except EngineError as fault:
        return str(fault)
    return None
