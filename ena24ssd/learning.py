"""How does a network learn, epoch after epoch, and what is kept of it on the way?

All that decides what comes next is a pure function of the config and of the `Standing` kept with the weights: the order
of the pictures of (seed, epoch), their augmentation of (seed, epoch, step), the learning rate of step and losses, the
end of epochs, scores and seconds. So a run that was interrupted anywhere goes on to the same weights, bit for bit where
the device computes the same twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from ena24ssd.calibration import fit, save_calibration
from ena24ssd.cameratraps import CameraTrapDataset
from ena24ssd.config import RunConfig, change_config, dump_config
from ena24ssd.data import Batch, Examples, shuffle_batches
from ena24ssd.engine import Engine, EngineError, Step
from ena24ssd.epoch import DivergedError, Pass, run_epoch
from ena24ssd.evaluation import anchor_figures, draw_sheet, figures_of, measure, save_sheet
from ena24ssd.logbook import Logbook, log_evaluation
from ena24ssd.matching import match
from ena24ssd.metrics import AnchorSums
from ena24ssd.runs import Checkpoint, Run, RunError, Standing, State
from ena24ssd.schedules import learning_rate
from ena24ssd.splits import SIDES
from ena24ssd.stages import stage_of
from ena24ssd.stopping import Request, StoppedError, listening

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

    @property
    def shown(self) -> Examples:
        """Those of which some are drawn after every epoch: of validation, if there are any."""
        return next(self.examples[side] for side in ("validation", "test", "train") if len(self.examples[side]))

    def say(self, line: str) -> None:
        if not self.quiet and self.writes:
            tqdm.write(line)
            sys.stdout.flush()  # whoever reads a log of it must not take it for hung


def learn(work: Work, state: State | None) -> None:
    """Train epoch after epoch, on from where ``state`` was kept (None: from the beginning), and measure what is kept.

    Raises StoppedError where a signal asked for an end, OSError where a disk is full, EngineError or MemoryError where
    a device or the machine gives up, DivergedError where numbers are none any more. What was kept before stays, and
    each says how to go on.
    """
    way_on = _way_on(work.run)
    try:
        with listening() as request:
            _train(work, _take_up(work, state), request)
    except StoppedError:
        work.engine.close()  # all workers stop at the same step
        raise
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"what was kept before is whole: {way_on}") from None
    except DivergedError as fault:
        kept = "What was kept before is finite" if work.run.checkpoint_file("last").exists() else "Nothing was kept yet"
        slower = f"{way_on} optim.lr={work.config.optim.lr / 10:g}"
        raise DivergedError(f"{fault}. {kept}; with a lower rate: {slower}") from fault
    except (OSError, EngineError, MemoryError) as fault:
        kind = OSError if isinstance(fault, OSError) else type(fault)
        raise kind(f"{fault}. Nothing that was kept before is lost: mend that, then {way_on}") from fault
    work.engine.close()


def _train(work: Work, standing: Standing, request: Request) -> None:
    """Epoch after epoch until there is a reason to end, and the closing figures."""
    clock = Clock(standing.seconds)
    logbook = Logbook(work.run, work.engine, work.dataset, work.shown, work.writes)
    try:
        while not _ends(work, standing, request):
            standing = _one_epoch(work, standing, logbook, request, clock)
    finally:
        logbook.close()
    if work.writes:
        _close(work, standing, request)


class Clock:
    """Seconds of a run over all of its sittings."""

    def __init__(self, before: float):
        self._zero = time.monotonic() - before

    def __call__(self) -> float:
        return time.monotonic() - self._zero


def reason_to_end(config: RunConfig, standing: Standing) -> str | None:
    """Why nothing more is to be learnt; None while there is."""
    portion = config.train
    if standing.epoch >= portion.epochs:
        return f"{standing.epoch} epochs are done (train.epochs)"
    if portion.patience is not None and standing.risen_epoch is not None:
        waited = standing.epoch - 1 - standing.risen_epoch
        if waited >= portion.patience:
            return f"no better validation mAP for {waited} epochs (train.patience)"
    if portion.max_minutes is not None and standing.seconds >= 60 * portion.max_minutes:
        return f"{portion.max_minutes:g} minutes are over (train.max_minutes)"
    return None


def _ends(work: Work, standing: Standing, request: Request) -> bool:
    """Whether training ends here: of several workers, the one that writes decides. Raises StoppedError."""
    reason = reason_to_end(work.config, standing)
    votes = work.engine.agree(np.array([work.writes and reason is not None, bool(request)], dtype=np.float64))
    if votes[1]:
        raise _stopped(work, standing, request)
    if votes[0]:
        work.say(f"training ends: {reason}")
    return bool(votes[0])


# -- an epoch ----------------------------------------------------------------------------------------------------------


def _one_epoch(work: Work, standing: Standing, logbook: Logbook, request: Request, clock: Clock) -> Standing:
    """Learn from every picture once, measure, judge, write it all down. Raises StoppedError once the state is kept."""
    standing = _learn(work, standing, request, clock)
    if standing.step < work.steps:  # time is up
        return standing
    sums = AnchorSums.from_vector(work.engine.agree(np.array(standing.sums)))
    measured, score, seconds = _measure(work, standing, request, clock)
    figures = {"train": anchor_figures(sums, work.run.class_names), **measured}
    done = judge(replace(standing, seconds=seconds), figures["train"]["anchor/log_loss"], score)
    return _write_down(work, standing, done, sums.pictures, figures, logbook) if work.writes else done


def judge(standing: Standing, loss: float, score: float | None) -> Standing:
    """Where a run stands once the epoch of ``standing`` has this training loss and this score (None: not measured)."""
    before = standing.best_score
    is_best = score is None or before is None or score >= before  # of equals the later: it has learnt longer
    has_risen = score is not None and (before is None or score > before)
    return Standing(
        epoch=standing.epoch + 1,
        seconds=standing.seconds,
        epoch_began=standing.seconds,
        sums=(0.0,) * len(standing.sums),
        losses=(*standing.losses, loss),
        best_epoch=standing.epoch if is_best else standing.best_epoch,
        best_score=score if is_best else before,
        risen_epoch=standing.epoch if has_risen else standing.risen_epoch,
        pictures=standing.pictures,
    )


def _write_down(
    work: Work,
    standing: Standing,
    done: Standing,
    pictures: float,
    figures: Mapping[str, Mapping[str, float]],
    logbook: Logbook,
) -> Standing:
    """Everything about the epoch that ``standing`` is in, and as the last but one thing the state after it."""
    epoch, weights, training = standing.epoch, _finite_weights(work), max(standing.training, 1e-9)
    speed = {
        "seconds": round(done.seconds - standing.epoch_began, 3),
        "pictures_per_second": round(pictures / training, 3),
        "waiting": round(standing.waiting / training, 4),
        "peak_memory": work.engine.peak_memory(),
    }
    last = (epoch + 1) * work.steps - 1
    rate = learning_rate(work.config.optim, last, work.steps, work.config.train.epochs, standing.losses)
    work.run.add_rows(*({"epoch": epoch, "split": side, **values} for side, values in figures.items()))
    work.run.add_speed({"epoch": epoch, **speed})
    work.say(_epoch_line(epoch, figures, speed["seconds"]))
    logbook.log(epoch, weights, figures, speed | {"learning_rate": rate})
    done = replace(done, board=work.run.board_sizes())
    work.run.keep_state(State(weights, work.engine.optimizer_state(), done))
    if done.best_epoch == epoch:  # after the state, which knows of it: whoever resumes can then make up for it
        work.run.keep_best(Checkpoint(weights, epoch, done.best_score))
    return done


class Votes(NamedTuple):
    """What the workers want after a step, each of them in the same words."""

    stop: bool  # a signal asked for it
    time_up: bool
    due: bool  # the state is to be kept


def _learn(work: Work, standing: Standing, request: Request, clock: Clock) -> Standing:
    """The steps of an epoch that are left. The state is kept now and then; a signal or the time may end it early."""
    engine, config, epoch = work.engine, work.config, standing.epoch
    stage = stage_of(config.optim, epoch, config.train.epochs)
    if epoch and epoch == stage.first and not standing.step:
        engine.begin_stage(stage)
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
        held=engine.hold(work.examples["train"].pixels),
    )
    taken = epoch * work.steps + standing.step

    def step(batch: Batch) -> Step:
        nonlocal taken
        engine.learning_rate = learning_rate(config.optim, taken, work.steps, config.train.epochs, standing.losses)
        taken += 1
        return engine.train_step(batch)

    limit = float("inf") if config.train.max_minutes is None else 60 * config.train.max_minutes
    votes, due = Votes(False, False, False), 0.0

    def until() -> bool:
        nonlocal votes
        votes = _vote(work, request, clock(), limit, due)
        return any(votes)

    while standing.step < work.steps and not votes.time_up:
        due = clock() + 60 * config.train.checkpoint_minutes
        so_far = Pass(
            AnchorSums.from_vector(np.array(standing.sums)), standing.step, standing.training, standing.waiting
        )
        show = not work.quiet and work.writes
        passed = run_epoch(step, batches, work.steps, so_far, f"epoch {epoch} train", until=until, show=show)
        standing = replace(
            standing,
            step=passed.steps,
            sums=tuple(passed.sums.to_vector().tolist()),
            training=passed.seconds,
            waiting=passed.waiting,
            seconds=max(clock(), limit) if votes.time_up else clock(),
        )
        if any(votes):
            _keep_within(work, standing)
        if votes.stop:
            raise _stopped(work, standing, request)
    return standing


def _vote(work: Work, request: Request, now: float, limit: float, due: float) -> Votes:
    """All workers leave a step together, or one would wait for another's gradient for ever. One has the clock."""
    wanted = bool(request), work.writes and now >= limit, work.writes and now >= due
    return Votes(*(bool(votes) for votes in work.engine.agree(np.array(wanted, dtype=np.float64))))


def _measure(
    work: Work, standing: Standing, request: Request, clock: Clock
) -> tuple[dict[str, dict[str, float]], float | None, float]:
    """The figures of the splits that do not learn (of the worker that measures), the score, and the run's seconds."""
    figures: dict[str, dict[str, float]] = {}
    for side in ("validation", "test") if work.writes else ():
        if len(work.examples[side]) and not request:
            name = f"epoch {standing.epoch} {side}"
            options = {"show": not work.quiet, "until": lambda: bool(request)}
            seen = measure(work.engine, work.examples[side], work.config, work.run.class_names, name, **options)
            figures |= {} if seen is None else {side: figures_of(seen, work.config.evaluation.score)}
    score = figures.get("validation", {}).get("detection/map50", 0.0)
    score = score if np.isfinite(score) else 0.0  # no box to find
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
    number = request.signal_number or signal.SIGTERM  # another worker was asked
    where = f"epoch {standing.epoch}, after step {standing.step} of {work.steps}"
    if standing.epoch >= work.config.train.epochs:
        where = "the closing, after the last epoch"
    return StoppedError(f"stopped in {where}; nothing is lost: {_way_on(work.run)}", number)


def _way_on(run: Run) -> str:
    command = f"ena24ssd train --resume {shlex.quote(str(run.folder))}"
    if run.config.kvstore is not None:
        return f"{command} (on every worker; alone: with kvstore=null)"
    return command if int(os.environ.get("WORLD_SIZE") or 1) < 2 else f"{command} (started with torchrun as before)"


def _epoch_line(epoch: int, metrics: Mapping[str, Mapping[str, float]], seconds: float) -> str:
    parts = [f"epoch {epoch:3d}  {seconds:6.1f} s"]
    for side, values in metrics.items():
        part = f"{side} loss {values['anchor/log_loss']:.4g}"
        if "detection/map50" in values:
            part += f" mAP50 {values['detection/map50']:.3f}"
        parts.append(part)
    return "  |  ".join(parts)


# -- before the first epoch, and after the last ------------------------------------------------------------------------


def _take_up(work: Work, state: State | None) -> Standing:
    """Put everything back to where ``state`` was kept; where none was, to the very beginning.

    The run folder is touched last, when nothing can be refused any more.
    """
    nothing = tuple(AnchorSums.zero(len(work.run.class_names)).to_vector().tolist())
    standing, pictures = Standing() if state is None else state.standing, digest_of(work.examples["train"])
    if state is not None:
        try:
            work.engine.load_weights(state.weights)
            last = standing.epoch - (standing.step == 0)  # the epoch of the last step, whose memory this is
            work.engine.begin_stage(stage_of(work.config.optim, last, work.config.train.epochs))
            work.engine.load_optimizer_state(state.optimizer)
        except ValueError as fault:
            raise RunError(f"{work.run.checkpoint_file('last')}: {fault}") from fault
        if standing.pictures != pictures:
            work.say(
                "the training pictures are not those the run had before ('ena24ssd check --deep' says what is "
                "missing); it goes on, but not to the same weights"
            )
        within = f", step {standing.step} of {work.steps}" if standing.step else ""
        work.say(f"going on from epoch {standing.epoch}{within}")
    standing = replace(standing, pictures=pictures, step=min(standing.step, work.steps), sums=standing.sums or nothing)
    _require_one_view(work, standing)
    work.engine.align()
    if not work.writes:
        return replace(standing, sums=nothing)  # those of all workers together are with the one that kept them
    work.run.cut_back(standing)
    return standing if state is None else _same_best(work, state.weights, standing)


def _same_best(work: Work, weights: dict[str, np.ndarray], standing: Standing) -> Standing:
    """See to it that ``best`` holds the weights that the state says are kept there."""
    try:
        if standing.best_epoch is None or work.run.load_checkpoint("best").epoch == standing.best_epoch:
            return standing
        doubt = f"{work.run.checkpoint_file('best')}: is of another epoch than the state says"
    except RunError as fault:
        doubt = str(fault)
    if standing.best_epoch == standing.epoch - 1 and not standing.step:  # killed between the two files
        work.run.keep_best(Checkpoint(weights, standing.best_epoch, standing.best_score))
        return standing
    tqdm.write(f"{doubt}. Later weights take its place, whether they are better or not")
    return replace(standing, best_epoch=None, best_score=None)


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


def digest_of(examples: Examples) -> str:
    """A mark of which pictures these are, in their order."""
    return hashlib.sha256(json.dumps([image.id for image in examples.images]).encode()).hexdigest()[:16]


def _close(work: Work, standing: Standing, request: Request) -> None:
    """Measure the kept weights on every split, so that the closing figures are those of the weights one will use."""
    run, engine, names = work.run, work.engine, work.run.class_names
    if standing.best_epoch is None:  # no whole epoch gave any, or they went bad on the disk: these are all there are
        run.keep_best(Checkpoint(_finite_weights(work), standing.epoch - (standing.step == 0), None))
    kept = run.load_checkpoint("best")
    engine.load_weights(kept.weights)
    judged = next(side for side in reversed(SIDES) if len(work.examples[side]))  # some may be unreadable
    rows = []
    for side, some in work.examples.items():
        if not len(some):
            continue
        options = {"show": not work.quiet, "until": lambda: bool(request)}
        seen = measure(engine, some, work.config, names, f"closing {side}", **options)
        if seen is None or request:
            raise _stopped(work, standing, request)
        figures = figures_of(seen, work.config.evaluation.score, closing=True)
        rows.append({"epoch": kept.epoch, "split": side, "closing": True, **figures})
        if side == "validation":
            choices = work.config.evaluation
            chosen = fit(seen.cases, match(seen.cases), choices.recall, side, kept.epoch, choices.reading)
            save_calibration(run.folder, chosen)
        if side == judged:
            log_evaluation(engine, run, side, kept.epoch, seen.cases, figures)
    save_sheet(draw_sheet(engine, work.dataset, work.examples[judged], work.config, 12), run.sheet_file)
    run.add_rows(*rows)
