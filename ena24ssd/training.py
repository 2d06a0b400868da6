"""How does a run go from config to checkpoint?"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ena24ssd.cache import cache_pictures
from ena24ssd.cameratraps import CameraTrapDataset, Problem
from ena24ssd.choosing import SPLIT_RULES, choose_split
from ena24ssd.config import RunConfig, change_config
from ena24ssd.data import Batch, Examples, count_batches, read_examples, shuffle_batches
from ena24ssd.engine import Board, Engine, Step, load_engine
from ena24ssd.epoch import run_epoch
from ena24ssd.evaluation import draw_sheet, max_boxes, measure, save_sheet
from ena24ssd.runs import Checkpoint, Run, create_run, require_free
from ena24ssd.schedules import learning_rate
from ena24ssd.sources import read_source
from ena24ssd.splits import SIDES, Split

# Curves on TensorBoard: the post's names for the post's figures, then what tells more.
CURVES = {
    "Log_loss": "anchor/log_loss",
    "Accuracy": "anchor/accuracy",
    "MAe": "anchor/mae",
    "Micro_F1": "anchor/micro_f1",
    "MAe_per_positive": "anchor/mae_per_positive",
    "Accuracy_all_background": "anchor/accuracy_all_background",
    "mAP50": "detection/map50",
}


def train(config: RunConfig, folder: Path | str, *, quiet: bool = False) -> Run:
    """Train the configured network, and leave everything in a new run folder (see `ena24ssd.runs`).

    After every epoch the validation and test splits are measured and logged. Validation mAP chooses the checkpoint
    that is kept as ``best``; test figures decide nothing. The closing rows of metrics.jsonl are those of ``best``.

    Raises ConfigError, AnnotationError, RunError, EngineError or DivergedError, each saying the way out.
    """
    folder = Path(folder)
    require_free(folder)
    paths = {f"data.{name}": getattr(config.data, name) for name in ("path", "pictures", "cache")}
    here = {name: path and path.resolve() for name, path in (paths | {"split.file": config.split.file}).items()}
    config = change_config(config, here)  # so that the run can be evaluated from any working directory
    source = read_source(config.data)
    looking = None if quiet else lambda jobs: tqdm(jobs, "looking for bursts", leave=False, unit="picture")
    split, doubts = choose_split(source, config.split, config.seed, config.data.cache, looking)
    dataset = source.dataset
    engine = load_engine(config, len(dataset.class_names))
    examples, problems = _read_sides(dataset, split, config, quiet)
    _require_batches(examples["train"], config)
    run = create_run(folder, config, dataset.class_names, split)
    run.keep_problems([*doubts, *problems])
    if not quiet:
        sizes = ", ".join(f"{len(some)} {side}" for side, some in examples.items())
        tqdm.write(f"{sizes} pictures of {len(dataset.class_names)} species; on {engine.device}")
        for doubt in doubts:
            tqdm.write(f"{doubt.detail}. {SPLIT_RULES[doubt.rule]}")
        for rule, count in Counter(problem.rule for problem in problems).items():
            tqdm.write(f"{count} x {rule}: see {run.problems_file}")

    measured = {side: some for side, some in examples.items() if len(some) and side != "train"}
    board = engine.open_board(run.board_folder)
    losses: list[float] = []
    best: float | None = None
    try:
        for epoch in range(config.train.epochs):
            started = time.monotonic()
            trained = _train_epoch(engine, examples["train"], config, epoch, losses, len(dataset.class_names), quiet)
            losses.append(trained["anchor/log_loss"])
            metrics = {"train": trained} | {
                side: measure(engine, some, config, dataset.class_names, None if quiet else f"{epoch} {side}")
                for side, some in measured.items()
            }
            score = metrics["validation"]["detection/map50"] if "validation" in metrics else None
            checkpoint = Checkpoint(engine.weights(), epoch, score)
            run.save_checkpoint("last", checkpoint)
            if score is None or best is None or score >= best:
                run.save_checkpoint("best", checkpoint)
                best = score
            seconds = round(time.monotonic() - started, 3)
            for side, values in metrics.items():
                run.add_row({"epoch": epoch, "split": side, "seconds": seconds, **values})
            if not quiet:
                tqdm.write(_epoch_line(epoch, metrics, seconds))
            shown = next(iter(measured.values()), examples["train"])
            _log_epoch(board, engine, dataset, shown, config, checkpoint, metrics)
    finally:
        board.close()
    _close(run, engine, dataset, examples, quiet)
    return run


def _read_sides(
    dataset: CameraTrapDataset, split: Split, config: RunConfig, quiet: bool
) -> tuple[dict[str, Examples], list[Problem]]:
    """The examples of each side of the split, and every problem met on the way."""
    show = None if quiet else lambda jobs: tqdm(jobs, "decoding", leave=False, unit="picture")
    cache = cache_pictures(dataset, config.data.image_side, config.data.fit, config.data.cache, show)
    examples, problems = {}, list(dataset.problems)
    for side in SIDES:
        ids = getattr(split, side)
        examples[side], odd = read_examples(dataset, cache, ids, max_boxes(dataset, config), config.data.fit)
        problems += odd
    return examples, problems


def _train_epoch(
    engine: Engine, examples: Examples, config: RunConfig, epoch: int, losses: list[float], classes: int, quiet: bool
) -> dict[str, float]:
    """One pass of learning; the anchor metrics of the answers given on the way."""
    portion = config.train
    steps = count_batches(len(examples), portion.batch_size, portion.drop_last)
    batches = shuffle_batches(
        examples,
        portion.batch_size,
        config.augment,
        seed=config.seed,
        epoch=epoch,
        drop_last=portion.drop_last,
        workers=config.data.workers,
    )
    taken = epoch * steps

    def step(batch: Batch) -> Step:
        nonlocal taken
        engine.learning_rate = learning_rate(config.optim, taken, steps * portion.epochs, losses)
        taken += 1
        return engine.train_step(batch)

    sums = run_epoch(step, batches, steps, classes, None if quiet else f"{epoch} train")
    return {f"anchor/{name}": value for name, value in sums.metrics().items()}


def _close(run: Run, engine: Engine, dataset: CameraTrapDataset, examples: Mapping[str, Examples], quiet: bool) -> None:
    """Measure the kept checkpoint on every split, so that the closing figures are those of the weights one will use."""
    kept = run.load_checkpoint("best")
    engine.load_weights(kept.weights)
    for side, some in examples.items():
        if len(some):
            metrics = measure(engine, some, run.config, dataset.class_names, None if quiet else f"closing {side}")
            run.add_row({"epoch": kept.epoch, "split": side, "closing": True, **metrics})
    judged = next(examples[side] for side in reversed(SIDES) if len(examples[side]))
    save_sheet(draw_sheet(engine, dataset, judged, run.config, 12), run.sheet_file)


def _require_batches(examples: Examples, config: RunConfig) -> None:
    """Raise ValueError where the train split does not fill one batch."""
    if not any(image.boxes for image in examples.images):
        what = (
            f"the {len(examples)} readable pictures of the train split have no box"
            if len(examples)
            else ("the train split has no readable picture")
        )
        raise ValueError(f"{what}; nothing can be learnt. 'ena24ssd check --deep' says what is there")
    if count_batches(len(examples), config.train.batch_size, config.train.drop_last) == 0:
        raise ValueError(
            f"the train split has {len(examples)} readable pictures, not one batch of {config.train.batch_size}; "
            "lower train.batch_size, set train.drop_last=false, or give more pictures"
        )


def _log_epoch(
    board: Board,
    engine: Engine,
    dataset: CameraTrapDataset,
    shown: Examples,
    config: RunConfig,
    checkpoint: Checkpoint,
    metrics: Mapping[str, Mapping[str, float]],
) -> None:
    """Curves, histograms of weights and biases (as the post logs them), drawn detections, and once the graph."""
    epoch = checkpoint.epoch
    for tag, name in CURVES.items():
        values = {side: figures[name] for side, figures in metrics.items() if name in figures}
        if values:
            board.scalars(tag, values, epoch)
    board.scalars("Learning_rate", {"train": engine.learning_rate}, epoch)
    if config.log.histograms:
        for name, values in checkpoint.weights.items():
            if name.endswith(("weight", "bias")):
                board.histogram(name, values, epoch)
    if config.log.pictures:
        sheet = draw_sheet(engine, dataset, shown, config, config.log.pictures)
        board.picture("Detections", np.asarray(sheet), epoch)
    if epoch == 0 and config.log.graph:
        board.graph()
    board.flush()


def _epoch_line(epoch: int, metrics: Mapping[str, Mapping[str, float]], seconds: float) -> str:
    parts = [f"epoch {epoch:3d}  {seconds:6.1f} s"]
    for side, values in metrics.items():
        part = f"{side} loss {values['anchor/log_loss']:.4g} micro-F1 {values['anchor/micro_f1']:.3f}"
        if "detection/map50" in values:
            part += f" mAP50 {values['detection/map50']:.3f}"
        parts.append(part)
    return "  |  ".join(parts)
