"""How does a run go from config to checkpoint, and on from where it was interrupted?

All that decides what comes next is a pure function of the config and of the `Standing` kept with the weights: the order
of the pictures of (seed, epoch), their augmentation of (seed, epoch, step), the learning rate of step and losses, the
end of epochs, scores and seconds. So a run that was interrupted anywhere goes on to the same weights, bit for bit where
the device computes the same twice.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ena24ssd.balance import epoch_length, repeat_factors, species_weights
from ena24ssd.cache import cache_pictures
from ena24ssd.cameratraps import CameraTrapDataset, Problem
from ena24ssd.choosing import SPLIT_RULES, choose_split
from ena24ssd.config import ConfigError, RunConfig, change_config, dump_config, override_config
from ena24ssd.data import Batch, Examples, count_batches, read_examples, shuffle_batches
from ena24ssd.doctor import can_work, preflight
from ena24ssd.engine import Board, Engine, EngineError, Step, load_engine
from ena24ssd.epoch import DivergedError, Pass, run_epoch
from ena24ssd.evaluation import anchor_figures, draw_sheet, max_boxes, measure, save_sheet
from ena24ssd.metrics import AnchorSums
from ena24ssd.runs import Checkpoint, Run, RunError, Standing, State, create_run, open_run, require_free
from ena24ssd.schedules import learning_rate
from ena24ssd.sources import read_source
from ena24ssd.splits import SIDES, Split
from ena24ssd.stopping import Request, StoppedError, listening

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

# What makes a run the one it is. Another value would not go on with it but start another.
FIXED = (
    *("engine", "seed", "split", "model", "train.batch", "train.drop_last", "optim.name"),
    *("data.image_side", "data.fit", "data.mean", "data.std", "data.max_boxes", "data.exclude_species"),
)

# What may differ between workers that train the same run: where things are.
PLACES = {f"data.{name}": None for name in ("path", "pictures", "cache")} | {"device": "auto", "split.file": None}


@dataclass(frozen=True)
class Work:
    """What does not change while a run is trained."""

    run: Run
    engine: Engine
    dataset: CameraTrapDataset
    examples: Mapping[str, Examples]
    factors: np.ndarray | None  # how often each training picture is shown, if not once
    steps: int  # of an epoch
    quiet: bool

    @property
    def config(self) -> RunConfig:
        return self.run.config

    @property
    def writes(self) -> bool:
        """Of several workers that train together, one measures and writes."""
        return self.engine.rank == 0

    def say(self, line: str) -> None:
        if not self.quiet and self.writes:
            tqdm.write(line)


def train(config: RunConfig, folder: Path | str, *, quiet: bool = False) -> Run:
    """Train the configured network, and leave everything in a new run folder (see `ena24ssd.runs`).

    After every epoch the validation and test splits are measured and logged. Validation mAP chooses the weights that
    are kept as ``best``; test figures decide nothing. The closing rows of metrics.jsonl are those of ``best``.

    Raises ConfigError, AnnotationError, RunError, EngineError or DivergedError, each saying the way out; StoppedError
    where a signal asked for an early end, OSError where the disk is full: the run can then be resumed.
    """
    folder = Path(folder)
    require_free(folder)
    config = _absolute(config)
    source = read_source(config.data)
    _require_room(config, folder, source.dataset, quiet)
    looking = (
        None if quiet else lambda jobs: tqdm(jobs, "looking for bursts", leave=False, unit="picture", disable=None)
    )
    split, doubts = choose_split(source, config.split, config.seed, config.data.cache, looking)
    config = _weigh_species(config, source.dataset, split)
    engine = load_engine(config, source.dataset.class_names)
    examples, problems = _read_sides(source.dataset, split, config, quiet)
    config = _settle_batch(config, source.dataset, len(examples["train"]), quiet)
    _require_batches(examples["train"], config)
    make = create_run if engine.rank == 0 else Run
    run = make(folder, config, source.dataset.class_names, split)
    problems = [*doubts, *problems]
    if engine.rank == 0:
        run.keep_problems(problems)
    return _run(run, engine, source.dataset, examples, problems, None, quiet)


def resume(folder: Path | str, overrides: Sequence[str] = (), *, quiet: bool = False) -> Run:
    """Go on with a run that was interrupted, as if it had not been; `train` says what it does and raises.

    ``overrides`` (``section.field=value``) may change how it goes on: more epochs, another rate or device, the place
    of the data. Raises ConfigError for a change that would make it another run, RunError for one that has finished.
    """
    run = open_run(folder)
    config = _absolute(override_config(run.config, overrides))
    _require_same(run.config, config)
    state, doubt = run.load_state()
    if run.is_finished and (state is None or _reason_to_end(config, state.standing) is not None):
        raise RunError(f"{run.folder}: has finished; to train it further, give it more: train.epochs=N, for example")
    run = replace(run, config=config)
    source = read_source(config.data)
    if source.dataset.class_names != run.class_names:
        raise RunError(f"{run.folder}: was trained on other species than those of {source.dataset.name}; name its data")
    _require_room(config, run.folder, source.dataset, quiet)
    split, gone = _still_there(run, source.dataset)
    engine = load_engine(config, run.class_names)
    examples, problems = _read_sides(source.dataset, split, config, quiet)
    _require_batches(examples["train"], config)
    if engine.rank == 0:
        run.keep_config()
    for doubts in (doubt, gone):
        if doubts is not None:
            tqdm.write(doubts)
    return _run(run, engine, source.dataset, examples, problems, state, quiet)


def _run(
    run: Run,
    engine: Engine,
    dataset: CameraTrapDataset,
    examples: Mapping[str, Examples],
    problems: Sequence[Problem],
    state: State | None,
    quiet: bool,
) -> Run:
    """Everything after the preparations, which differ between a new run and a resumed one."""
    config, factors = run.config, None
    if config.train.repeat_below is not None:
        factors = repeat_factors(examples["train"].images, len(dataset.class_names), config.train.repeat_below)
    shown = len(examples["train"]) if factors is None else epoch_length(factors)
    steps = count_batches(shown, config.train.batch, config.train.drop_last)
    work = Work(run, engine, dataset, examples, factors, steps, quiet)
    sizes = ", ".join(f"{len(some)} {side}" for side, some in examples.items())
    work.say(f"{sizes} pictures of {len(dataset.class_names)} species; on {engine.device}")
    for rule, count in Counter(problem.rule for problem in problems).items():
        detail = next(problem.detail for problem in problems if problem.rule == rule)
        known = SPLIT_RULES.get(rule)
        work.say(f"{detail}. {known}" if known else f"{count} x {rule}: see {run.problems_file}")
    try:
        with run.held() if work.writes else nullcontext():
            _train(work, _take_up(work, state))
        engine.close()
    except StoppedError:
        engine.close()  # all workers stop at the same step
        raise
    except OSError as fault:
        raise OSError(f"{fault}. Nothing that was kept before is lost: mend that, then {_way_on(run)}") from fault
    except DivergedError as fault:
        way_on = f"The last state with finite weights is kept; with other choices: {_way_on(run)} optim.lr=..."
        raise DivergedError(f"{fault}. {way_on}") from fault
    return run


def _train(work: Work, standing: Standing) -> None:
    """Epoch after epoch until there is a reason to end, and the closing figures."""
    _require_one_view(work, standing)
    work.engine.align()
    with listening(work.say) as request:
        clock, board = Clock(standing.seconds), LastingBoard(work)
        try:
            while (reason := _reason_to_end(work.config, standing)) is None:
                standing = _one_epoch(work, standing, board, request, clock)
        finally:
            board.close()
    work.say(f"training ends: {reason}")
    if work.writes:
        _close(work, standing)


class Clock:
    """Seconds of a run over all of its sittings."""

    def __init__(self, before: float):
        self._zero = time.monotonic() - before

    def __call__(self) -> float:
        return time.monotonic() - self._zero


def _reason_to_end(config: RunConfig, standing: Standing) -> str | None:
    """Why nothing more is to be learnt; None while there is."""
    portion = config.train
    if standing.epoch >= portion.epochs:
        return f"{standing.epoch} epochs are done"
    waited = standing.epoch - 1 - (standing.best_epoch if standing.best_epoch is not None else standing.epoch)
    if portion.patience is not None and waited >= portion.patience:
        return f"no better validation mAP for {waited} epochs (train.patience)"
    if portion.max_minutes is not None and standing.seconds >= 60 * portion.max_minutes:
        return f"{portion.max_minutes:g} minutes are over (train.max_minutes)"
    return None


# -- an epoch ---------------------------------------------------------------------------------------------------------


def _one_epoch(work: Work, standing: Standing, board: LastingBoard, request: Request, clock: Clock) -> Standing:
    """Learn from every picture once, measure, write it all down. Raises StoppedError once the state is kept."""
    epoch = standing.epoch
    standing = _learn(work, standing, request, clock)
    if standing.step < work.steps:  # time is up
        return standing
    sums = AnchorSums.from_vector(work.engine.agree(np.array(standing.sums)))
    figures = {"train": anchor_figures(sums, work.run.class_names)}
    measured, score, seconds = _measure(work, standing, request, clock)
    figures |= measured
    is_best = score is None or standing.best_score is None or score >= standing.best_score
    done = Standing(
        epoch=epoch + 1,
        seconds=seconds,
        epoch_began=seconds,
        losses=(*standing.losses, figures["train"]["anchor/log_loss"]),
        best_epoch=epoch if is_best else standing.best_epoch,
        best_score=score if is_best else standing.best_score,
        pictures=standing.pictures,
    )
    if not work.writes:
        return done
    weights, training = _finite_weights(work), max(standing.training, 1e-9)
    speed = {
        "seconds": round(seconds - standing.epoch_began, 3),
        "pictures_per_second": round(sums.pictures / training, 3),
        "waiting": round(standing.waiting / training, 4),
        "peak_memory": work.engine.peak_memory(),
    }
    work.run.add_rows(*({"epoch": epoch, "split": side, **values} for side, values in figures.items()))
    work.run.add_speed({"epoch": epoch, **speed})
    work.say(_epoch_line(epoch, figures, speed["seconds"]))
    board.log(epoch, weights, figures, speed)
    done = replace(done, board=work.run.board_sizes())
    work.run.keep_state(State(weights, work.engine.optimizer_state(), done))
    if is_best:  # after the state, which knows of it: whoever resumes can then make up for it
        work.run.keep_best(Checkpoint(weights, epoch, score))
    return done


def _learn(work: Work, standing: Standing, request: Request, clock: Clock) -> Standing:
    """The steps of an epoch that are left. The state is kept now and then; a signal or the time may end it early."""
    engine, config, epoch = work.engine, work.config, standing.epoch
    batches = shuffle_batches(
        work.examples["train"],
        config.train.batch,
        config.augment,
        seed=config.seed,
        epoch=epoch,
        drop_last=config.train.drop_last,
        workers=config.data.workers,
        factors=work.factors,
        start=standing.step,
        shard=(engine.rank, engine.workers),
    )
    taken = epoch * work.steps + standing.step

    def step(batch: Batch) -> Step:
        nonlocal taken
        engine.learning_rate = learning_rate(config.optim, taken, work.steps, config.train.epochs, standing.losses)
        taken += 1
        return engine.train_step(batch)

    limit = float("inf") if config.train.max_minutes is None else 60 * config.train.max_minutes
    due = 0.0
    stop = time_up = False

    def until() -> bool:
        nonlocal stop, time_up
        now = clock() if work.writes else 0.0
        # All workers must leave a step together, or one would wait for another's gradient for ever.
        votes = engine.agree(np.array([bool(request), now >= limit, work.writes and now >= due], dtype=np.float64))
        stop, time_up = votes[0] > 0, votes[1] > 0
        return bool(votes.any())

    while standing.step < work.steps and not time_up:
        due = clock() + 60 * config.train.checkpoint_minutes
        so_far = Pass(_sums(work, standing), standing.step, standing.training, standing.waiting)
        show = not work.quiet and work.writes
        passed = run_epoch(step, batches, work.steps, so_far, f"epoch {epoch} train", until=until, show=show)
        standing = replace(
            standing,
            step=passed.steps,
            sums=tuple(passed.sums.to_vector().tolist()),
            training=passed.seconds,
            waiting=passed.waiting,
            seconds=max(clock(), limit) if time_up else clock(),
        )
        if stop or time_up or standing.step < work.steps:
            _keep_within(work, standing)
        if stop:
            raise _stopped(work, standing, request)
    return standing


def _sums(work: Work, standing: Standing) -> AnchorSums:
    if not standing.sums:
        return AnchorSums.zero(len(work.run.class_names))
    return AnchorSums.from_vector(np.array(standing.sums))


def _measure(
    work: Work, standing: Standing, request: Request, clock: Clock
) -> tuple[dict[str, dict[str, float]], float | None, float]:
    """The figures of the splits that do not learn (of the worker that measures), the score, and the run's seconds."""
    figures: dict[str, dict[str, float]] = {}
    for side in ("validation", "test") if work.writes else ():
        if len(work.examples[side]) and not request:
            name = f"epoch {standing.epoch} {side}"
            options = {"show": not work.quiet, "until": lambda: bool(request)}
            values = measure(work.engine, work.examples[side], work.config, work.run.class_names, name, **options)
            figures |= {} if values is None else {side: values}
    score = figures.get("validation", {}).get("detection/map50", 0.0)
    mine = [bool(request), score if work.writes else 0, clock() if work.writes else 0]
    stop, score, seconds = work.engine.agree(np.array(mine, dtype=np.float64))
    if stop:
        standing = replace(standing, seconds=float(seconds))
        _keep_within(work, standing)
        raise _stopped(work, standing, request)
    return figures, float(score) if len(work.examples["validation"]) else None, float(seconds)


def _keep_within(work: Work, standing: Standing) -> None:
    """Keep the state within an epoch, of which nothing is on the board yet. All workers come here together."""
    sums = tuple(work.engine.agree(np.array(standing.sums)).tolist())
    if work.writes:
        standing = replace(standing, sums=sums, board=work.run.board_sizes())
        work.run.keep_state(State(_finite_weights(work), work.engine.optimizer_state(), standing))


def _finite_weights(work: Work) -> dict[str, np.ndarray]:
    """The weights, but no others than numbers may replace what is kept."""
    weights = work.engine.weights()
    for name, values in weights.items():
        if not np.isfinite(values).all():
            raise DivergedError(f"the weights {name} are no longer finite after the last update")
    return weights


def _stopped(work: Work, standing: Standing, request: Request) -> StoppedError:
    number = request.signal_number or 15  # another worker was asked
    where = f"epoch {standing.epoch}, after step {standing.step} of {work.steps}"
    return StoppedError(f"stopped in {where}; nothing is lost: {_way_on(work.run)}", number)


def _way_on(run: Run) -> str:
    return f"ena24ssd train --resume {run.folder}"


# -- before the first epoch, and after the last -----------------------------------------------------------------------


def _absolute(config: RunConfig) -> RunConfig:
    """The config with whole paths, so that the run can be used from any working directory."""
    paths = {f"data.{name}": getattr(config.data, name) for name in ("path", "pictures", "cache")}
    paths["split.file"] = config.split.file
    return change_config(config, {name: path and path.resolve() for name, path in paths.items()})


def _require_same(before: RunConfig, after: RunConfig) -> None:
    """Raise ConfigError for a change that would make it another run."""
    old, new = _fields(before.model_dump()), _fields(after.model_dump())
    for path, value in new.items():
        is_fixed = any(path == fixed or path.startswith(f"{fixed}.") for fixed in FIXED)
        if is_fixed and old[path] != value:
            raise ConfigError(
                f"{path}: is {old[path]} in this run and cannot become {value} on the way; start another run for that"
            )


def _fields(section: Mapping[str, object], path: str = "") -> dict[str, object]:
    """Every field by its dotted path."""
    found: dict[str, object] = {}
    for name, value in section.items():
        found |= _fields(value, f"{path}{name}.") if isinstance(value, Mapping) else {path + name: value}
    return found


def _require_room(config: RunConfig, folder: Path, dataset: CameraTrapDataset, quiet: bool) -> None:
    """Raise EngineError for what `ena24ssd.doctor` is certain will fail, before hours have gone into it."""
    findings = preflight(config, folder, len(dataset.images))
    for finding in findings:
        if finding.state == "doubtful" and not quiet:
            tqdm.write(f"{finding.what}: {finding.detail}. {finding.way_out}")
    if not can_work(findings):
        faults = [f"{f.what}: {f.detail}. {f.way_out}" for f in findings if f.state == "cannot work"]
        raise EngineError("\n".join([*faults, "'ena24ssd doctor' looks at the whole machine"]))


def _still_there(run: Run, dataset: CameraTrapDataset) -> tuple[Split, str | None]:
    """The run's split without the pictures that are gone since, and a sentence about those."""
    known, named = {image.id for image in dataset.images}, [key for side in SIDES for key in getattr(run.split, side)]
    gone = sorted(set(named) - known)
    if not gone:
        return run.split, None
    if 2 * len(gone) > len(named):
        raise RunError(
            f"{run.folder}: {len(gone)} of the {len(named)} pictures of its split (first: {gone[0]!r}) are not among "
            f"the usable ones of {dataset.name}; 'ena24ssd check' says why, --data names another place for the data"
        )
    left = Split(*(tuple(key for key in getattr(run.split, side) if key in known) for side in SIDES))
    return (
        left,
        f"{len(gone)} pictures of the run's split are gone (first: {gone[0]!r}); put back, they take part again",
    )


def _weigh_species(config: RunConfig, dataset: CameraTrapDataset, split: Split) -> RunConfig:
    """The config with the weight of every species by name, which "balanced" takes from the training pictures."""
    learnt = set(split.train)
    images = [image for image in dataset.images if image.id in learnt]
    weights = species_weights(images, dataset.class_names, config.loss.species_weights)
    if weights is None:
        return config
    return change_config(config, {"loss.species_weights": dict(zip(dataset.class_names, map(float, weights)))})


def _settle_batch(config: RunConfig, dataset: CameraTrapDataset, pictures: int, quiet: bool) -> RunConfig:
    """The config with a number for batch 'auto'."""
    if config.train.batch != "auto":
        return config
    from ena24ssd.fitting import find_batch

    most = max(1, pictures // 10)  # else an epoch would hold next to no updates
    fit = find_batch(config, len(dataset.class_names), max_boxes(dataset, config), most, quiet=quiet)
    if not quiet:
        tqdm.write(str(fit))
    return change_config(config, {"train.batch": fit.batch})


def _read_sides(
    dataset: CameraTrapDataset, split: Split, config: RunConfig, quiet: bool
) -> tuple[dict[str, Examples], list[Problem]]:
    """The examples of each side of the split, and every problem met on the way."""
    show = None if quiet else lambda jobs: tqdm(jobs, "decoding", leave=False, unit="picture", disable=None)
    cache = cache_pictures(dataset, config.data.image_side, config.data.fit, config.data.cache, show)
    examples, problems = {}, list(dataset.problems)
    for side in SIDES:
        ids = getattr(split, side)
        examples[side], odd = read_examples(dataset, cache, ids, max_boxes(dataset, config), config.data.fit)
        problems += odd
    return examples, problems


def _require_batches(examples: Examples, config: RunConfig) -> None:
    """Raise ValueError where the train split does not fill one batch."""
    if not any(image.boxes for image in examples.images):
        what = (
            f"the {len(examples)} readable pictures of the train split have no box"
            if len(examples)
            else ("the train split has no readable picture")
        )
        raise ValueError(f"{what}; nothing can be learnt. 'ena24ssd check --deep' says what is there")
    if count_batches(len(examples), config.train.batch, config.train.drop_last) == 0:
        raise ValueError(
            f"the train split has {len(examples)} readable pictures, not one batch of {config.train.batch}; "
            "lower train.batch, set train.drop_last=false, or give more pictures"
        )


def _require_one_view(work: Work, standing: Standing) -> None:
    """Raise EngineError where workers that train together would not train on the same, or not from the same on."""
    place = standing.epoch, standing.step, standing.losses, standing.pictures
    seen = f"{dump_config(change_config(work.config, PLACES))} {place}"
    mark = float(int(hashlib.sha256(seen.encode()).hexdigest()[:8], 16))
    if work.engine.agree(np.array([mark]))[0] != mark * work.engine.workers:
        raise EngineError(
            f"worker {work.engine.rank}: the workers differ in their config, their training pictures or in how far "
            "they have come; start all with the same choices on the same data (and resume from one run folder that "
            "all of them see), and let 'ena24ssd check --deep' look at each machine's pictures"
        )


def _digest(examples: Examples) -> str:
    return hashlib.sha256(json.dumps([image.id for image in examples.images]).encode()).hexdigest()[:16]


def _take_up(work: Work, state: State | None) -> Standing:
    """Put everything back to where ``state`` was kept; where none was, to the very beginning."""
    pictures = _digest(work.examples["train"])
    standing = Standing() if state is None else state.standing
    if work.writes:
        work.run.cut_back(standing)
    if state is None:
        return replace(standing, pictures=pictures)
    try:
        work.engine.load_weights(state.weights)
        work.engine.load_optimizer_state(state.optimizer)
    except ValueError as fault:
        raise RunError(f"{work.run.checkpoint_file('last')}: {fault}") from fault
    if standing.pictures != pictures:
        work.say(
            "the training pictures are not those the run had before ('ena24ssd check --deep' says what is missing); "
            "it goes on, but not to the same weights"
        )
    where = f"epoch {standing.epoch}" + (f", step {standing.step} of {work.steps}" if standing.step else "")
    work.say(f"going on from {where}")
    standing = replace(standing, pictures=pictures, step=min(standing.step, work.steps))
    if not work.writes:
        return replace(standing, sums=())  # those of all workers together are with the one that kept them
    return _same_best(work, state.weights, standing)


def _same_best(work: Work, weights: dict[str, np.ndarray], standing: Standing) -> Standing:
    """See to it that ``best`` holds the weights that the state says are kept there."""
    try:
        if standing.best_epoch is None or work.run.load_checkpoint("best").epoch == standing.best_epoch:
            return standing
        doubt = "best.safetensors is of another epoch than the state says"
    except RunError as fault:
        doubt = str(fault)
    if standing.best_epoch == standing.epoch - 1 and not standing.step:  # killed between the two files
        work.run.keep_best(Checkpoint(weights, standing.best_epoch, standing.best_score))
        return standing
    tqdm.write(f"{doubt}. The next epoch's weights take its place")
    return replace(standing, best_epoch=None, best_score=None)


def _close(work: Work, standing: Standing) -> None:
    """Measure the kept weights on every split, so that the closing figures are those of the weights one will use."""
    run, engine, names = work.run, work.engine, work.run.class_names
    if standing.best_epoch is None:  # no epoch was finished: these are all there are
        run.keep_best(Checkpoint(_finite_weights(work), standing.epoch, None))
    kept = run.load_checkpoint("best")
    engine.load_weights(kept.weights)
    rows = []
    for side, some in work.examples.items():
        if len(some):
            figures = measure(engine, some, work.config, names, f"closing {side}", show=not work.quiet)
            rows.append({"epoch": kept.epoch, "split": side, "closing": True, **figures})
    judged = next(work.examples[side] for side in reversed(SIDES) if len(work.examples[side]))
    save_sheet(draw_sheet(engine, work.dataset, judged, work.config, 12), run.sheet_file)
    run.add_rows(*rows)


# -- TensorBoard ------------------------------------------------------------------------------------------------------


class LastingBoard:
    """The board of a run. Where it cannot be written, training goes on without: metrics.jsonl has the figures."""

    def __init__(self, work: Work):
        self._work, self._board = work, None
        if work.writes:
            self._try(self._open)

    def log(
        self,
        epoch: int,
        weights: Mapping[str, np.ndarray],
        figures: Mapping[str, Mapping[str, float]],
        speed: Mapping[str, float],
    ) -> None:
        if self._board is not None:
            self._try(lambda: _log_epoch(self._board, self._work, epoch, weights, figures, speed))

    def close(self) -> None:
        if self._board is not None:
            self._board.close()
            self._board = None

    def _open(self) -> None:
        self._board = self._work.engine.open_board(self._work.run.board_folder)

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as fault:
            tqdm.write(f"{self._work.run.board_folder}: {fault}. Training goes on without TensorBoard's curves")
            self.close()


def _log_epoch(
    board: Board,
    work: Work,
    epoch: int,
    weights: Mapping[str, np.ndarray],
    figures: Mapping[str, Mapping[str, float]],
    speed: Mapping[str, float],
) -> None:
    """Curves, histograms of weights and biases (as the post logs them) and of their gradients, and drawn detections."""
    log, engine = work.config.log, work.engine
    if epoch == 0:
        board.text("config", _indented(dump_config(work.config)), 0)
    for tag, name in CURVES.items():
        values = {side: some[name] for side, some in figures.items() if name in some}
        if values:
            board.scalars(tag, values, epoch)
    for side, some in figures.items():
        for name in (name for name in some if name.startswith("f1/")):
            board.scalar(f"F1_{side}/{name.removeprefix('f1/')}", some[name], epoch)
    board.scalars("Learning_rate", {"train": engine.learning_rate}, epoch)
    board.scalar("Speed/pictures_per_second", speed["pictures_per_second"], epoch)
    board.scalar("Speed/share_waiting_for_data", speed["waiting"], epoch)
    board.scalar("Memory/peak_GB", speed["peak_memory"] / 1e9, epoch)
    if log.histograms:
        for prefix, arrays in (("", weights), ("gradient/", engine.gradients())):
            for name, values in arrays.items():
                if name.endswith(("weight", "bias")):
                    board.histogram(prefix + name, values, epoch)
    if log.pictures:
        shown = next(work.examples[side] for side in ("validation", "test", "train") if len(work.examples[side]))
        sheet = draw_sheet(engine, work.dataset, shown, work.config, log.pictures)
        board.picture("Detections", np.asarray(sheet), epoch)
    if epoch == 0 and log.graph:
        board.graph()
    board.flush()


def _indented(text: str) -> str:
    """As Markdown that is shown as it stands."""
    return "".join(f"    {line}\n" for line in text.splitlines())


def _epoch_line(epoch: int, metrics: Mapping[str, Mapping[str, float]], seconds: float) -> str:
    parts = [f"epoch {epoch:3d}  {seconds:6.1f} s"]
    for side, values in metrics.items():
        part = f"{side} loss {values['anchor/log_loss']:.4g} micro-F1 {values['anchor/micro_f1']:.3f}"
        if "detection/map50" in values:
            part += f" mAP50 {values['detection/map50']:.3f}"
        parts.append(part)
    return "  |  ".join(parts)
