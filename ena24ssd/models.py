"""Which networks are there to use?

A model is a run folder, with weights as they were trained, or a file that left the training machine (`export`), with a
sidecar that says how to use it. Either way `open_model` says what it knows, and `load_network` makes it work.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

from ena24ssd.calibration import Calibration, load_calibration
from ena24ssd.config import RunConfig, change_config
from ena24ssd.engine import ENGINES, RUNTIMES, EngineError, Network, choose_engine, load_engine, load_graph
from ena24ssd.exported import Exported, open_exported
from ena24ssd.runs import Checkpoint, CheckpointName, open_run
from ena24ssd.thresholds import Thresholds

THRESHOLDS = ("best", "species", "review")  # those that were chosen on validation pictures, by name


@dataclass(frozen=True)
class Model:
    """What is known of a trained network before it is loaded."""

    path: Path
    class_names: tuple[str, ...]
    config: RunConfig
    epoch: int | None  # of the weights
    digest: str  # of the file that holds them
    calibration: Calibration | None  # chosen for these weights
    content: Checkpoint | Exported

    def thresholds(self, choice: float | str | None = None) -> Thresholds:
        """From which score on detections count.

        ``choice``: a score; ``best`` (F1 over all species) or ``species`` (F1 of each), ``review`` (as few pictures of
        animals are lost as `evaluation.recall` asks). Left out: ``best``, or where nothing was calibrated
        `evaluation.score`. Raises ValueError where what is asked for was not calibrated.
        """
        if isinstance(choice, str) and choice not in THRESHOLDS:
            raise ValueError(f"threshold {choice!r} is not known; give a score, or one of {', '.join(THRESHOLDS)}")
        if isinstance(choice, Real):
            return Thresholds(choice)
        known = self.calibration
        best, review = (known.threshold, known.review_threshold) if known else (None, None)
        if choice is None:
            return Thresholds(self.config.evaluation.score if best is None else best)
        chosen = review if choice == "review" else best
        if known is None or chosen is None:
            raise ValueError(
                f"{self.path}: has no threshold {choice!r}, because nothing was calibrated for these weights; give a "
                "score, or run 'ena24ssd evaluate' on the run, and export it anew"
            )
        own = known.species_thresholds if choice == "species" else {}
        return Thresholds(chosen, {name: score for name, score in own.items() if score is not None})


def open_model(path: Path | str, checkpoint: CheckpointName = "best") -> Model:
    """The run in a folder, or the exported model at ``path``. Raises RunError or ExportedError."""
    path = Path(path)
    if (path / "config.yaml").exists():
        run = open_run(path)
        kept, calibration = run.load_checkpoint(checkpoint), load_calibration(path)
        digest = hashlib.sha256(run.checkpoint_file(checkpoint).read_bytes()).hexdigest()
        if calibration is not None and calibration.epoch != kept.epoch:
            calibration = None  # it is of other weights
        return Model(path, run.class_names, run.config, kept.epoch, digest, calibration, kept)
    found = open_exported(path)
    names = found.class_names
    return Model(found.path, names, found.config, found.epoch, found.digest, found.calibration, found)


def load_network(
    model: Model,
    *,
    device: str | None = None,
    engine: str | None = None,
    threads: int | None = None,
    precision: str | None = None,
) -> Network:
    """The network, ready for pictures.

    Parameters: ``engine``, of `ENGINES` for weights (left out: the one that trained them; where that cannot run here,
    the other) and of `RUNTIMES` for a graph; ``threads`` of a CPU (left out: every core); ``precision``, of
    `RunConfig.precision` (left out: of weights the one they were trained in; of a graph ``auto``, float32, so that a
    file says the same everywhere). Raises EngineError, ConfigError.
    """
    is_graph = isinstance(model.content, Exported) and model.content.kind != "symbol"
    wanted = {"device": device, "precision": precision or ("auto" if is_graph else None)}
    config = change_config(model.config, {name: value for name, value in wanted.items() if value})
    fitting = RUNTIMES if is_graph else tuple(ENGINES)
    if engine is not None and engine not in fitting:
        what = "an ONNX graph runs" if is_graph else "weights run"
        raise EngineError(f"{model.path}: engine {engine} cannot be had; {what} with {' or '.join(fitting)}")
    if is_graph:
        graph = model.content.read()
        return load_graph(graph, config, model.class_names, runtime=engine or "auto", threads=threads)
    if threads is not None:  # MXNet and PyTorch read it when they begin
        os.environ["OMP_NUM_THREADS"] = str(threads)
    trained_by = config.engine if config.engine in ENGINES else "gluon"
    config = change_config(config, {"engine": engine or "auto"})
    config = change_config(config, {"engine": choose_engine(config, trained_by).engine})
    network = load_engine(config, model.class_names)
    weights = model.content.weights
    network.load_weights(weights() if callable(weights) else weights)
    return network
