"""What is on millions of pictures, if many machines look?

`predict_together` is `ena24ssd.prediction.predict` over a Ray cluster. The pictures are listed once, and cut by their
place in the list into shards. A worker takes a shard, with a detector that it loaded once, and sends back what it
found; the journal of that shard is then written here, whole or not at all, into a folder beside the results::

    results.json.shards/plan.gz                what is asked, and the names of all pictures
    results.json.shards/shard-000123.journal   what was found on those of one shard

Shards that are there are never done again. Once all of them are, the results are written from them, and are those that
`predict` writes; `merge` writes what is there so far. Only the pictures must be where every worker reaches them, in a
shared folder or an object store: the network travels to the workers, and what they found travels back.

A worker that dies, or whose machine is taken away, costs the shard that it was at: others do it again. Where that ends
workers time and again, the shard is done portion by portion, and the portion where they end picture by picture; the
picture that still ends them is a recorded failure like any other.
"""

from __future__ import annotations

import logging
import os
import pickle
import queue
import shutil
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from ena24ssd import __version__
from ena24ssd.config import RunConfig
from ena24ssd.detections import ImageDetections
from ena24ssd.detector import Detector
from ena24ssd.engine import EngineError
from ena24ssd.exported import Exported
from ena24ssd.journal import JournalError
from ena24ssd.models import Model, open_model
from ena24ssd.objectstore import Store, StoreWalk, is_address
from ena24ssd.outcome import Outcome, Wanted, write_outcome
from ena24ssd.picturewalk import PictureWalk, common_folder
from ena24ssd.prediction import AS_EVALUATED, JSON_ONLY, NOTHING_ELSE, Handling, Reading, act_on, nothing_in
from ena24ssd.raycluster import Pool, connected, require, translate
from ena24ssd.runs import CheckpointName
from ena24ssd.shards import Plan, Unit, folder_of, hold, make_plan, not_done, open_plan, unpack
from ena24ssd.sorting import clear_unfinished, require_apart
from ena24ssd.stopping import Request, listening
from ena24ssd.thresholds import Thresholds
from ena24ssd.tiles import Tiling

SHARD = 1024  # pictures; at 300 ms each, what is lost with a worker is five minutes
TRIES = (3, 2, 2)  # for whole shards, for portions of those that ended workers, for pictures of such portions
FAULTS = 5  # shards that fail one after another: then it is not the pictures


class Merged(NamedTuple):
    """What the shards hold so far."""

    outcome: Outcome
    missing: int  # pictures in shards that are not done


@dataclass(frozen=True)
class _Job:
    """What every worker must know."""

    model: Model
    reading: Reading
    keep: float
    handling: Handling
    root: Path
    thresholds: Thresholds
    store: Store | None
    device: str | None
    engine: str | None
    precision: str | None
    threads: int
    batch: int = 0  # not known yet
    version: str = __version__

    def load(self) -> Detector:
        if self.version != __version__:
            raise EngineError(
                f"a worker has ena24ssd {__version__}, and is asked by {self.version}; install the same on all machines"
            )
        choice: dict[str, Any] = {name: getattr(self, name) for name in ("device", "engine", "precision", "threads")}
        if self.store:
            choice["opening"] = self.store.open
        tiling = Tiling.parse(self.reading.tiles or "1x1")
        return Detector.load(self.model, reading=self.reading.changes, tiling=tiling, **choice)


@dataclass(frozen=True)
class _Carried(Exported):
    """An exported model with its bytes, for machines that do not have the file."""

    content: bytes = b""

    def read(self) -> bytes:
        return self.content


def predict_together(
    model: Path | str,
    paths: Sequence[Path | str],
    out: Path,
    *,
    address: str | None = None,
    workers: int | None = None,
    shard: int = SHARD,
    wanted: Wanted = JSON_ONLY,
    threshold: float | str | None = None,
    reading: Reading = AS_EVALUATED,
    handling: Handling = NOTHING_ELSE,
    resume: bool = False,
    threads: int | None = None,
    checkpoint: CheckpointName = "best",
    device: str | None = None,
    engine: str | None = None,
    precision: str | None = None,
    quiet: bool = False,
) -> Outcome:
    """Detect in pictures and folders with all machines of a Ray cluster; the results are those of `predict`.

    Parameters, where they are not those of `ena24ssd.prediction.predict`: ``paths``, folders that all machines share,
    or addresses in one object store (`ena24ssd.objectstore`); ``address``, host and port of the cluster's head, or
    ``auto`` on one of its machines (left out: RAY_ADDRESS, or else a Ray of this machine's own, which ends with this
    call; where Ray is connected already, that is used); ``workers``, how many at most (left out: as fit, one core stays
    free); ``threads``, cores of each; ``shard``, pictures of a shard, made a multiple of those at once; ``resume``, go
    on with the shards that lie beside ``out``, if there are any, with the pictures that were listed then. What is
    drawn, cut out or sorted goes to folders that all machines share.

    Results are the same to the last bit where the machines are of one kind and have as many threads.

    Raises what `predict` raises; EngineError too where Ray is missing, not reached or too small, and for shards that
    failed, once all others are done; StoreError for an address that is none. StoppedError: finished shards stay.
    """
    out = Path(os.path.abspath(out))
    folder = folder_of(out)
    walk, root, store = _look_for(paths, handling)
    known = open_model(model, checkpoint)
    thresholds = known.thresholds(threshold)
    keep = reading.kept(thresholds)
    project = wanted.prepare(known.class_names)
    files = wanted.files(out)
    begun = (folder / "plan.gz").exists()
    if begun and not resume:
        raise JournalError(f"{folder}: there are shards already; go on with them by --resume, or delete the folder")
    if resume and not begun and (done := [file for file in files if file.exists()]):
        raise ValueError(f"{done[0]}: is finished, nothing is left to go on with; leave out --resume to do it anew")
    if not begun and next(iter(walk), None) is None:
        raise ValueError(nothing_in(paths, walk.left_out))
    if project is not None and not wanted.partial and not begun:
        project.require_deployments(walk, root)

    asked_for = {
        "model": known.digest,
        "paths": [str(path) if is_address(path) else os.path.abspath(path) for path in paths],
        "threshold": thresholds.overall,
        "species thresholds": dict(thresholds.species),
        "reading": asdict(reading) | {"keep": keep},
        "precision": precision,
        "handling": {name: value and str(value) for name, value in asdict(handling).items()},
        "version": __version__,
    }
    job = _Job(_carry(known), reading, keep, handling, root, thresholds, store, device, engine, precision, threads or 0)
    with ExitStack() as stack:
        stack.enter_context(hold(folder))
        plan = open_plan(folder, asked_for) if begun else None
        missing = not_done(plan) if plan else None
        if missing != []:
            pool = stack.enter_context(connected(address, workers, threads, device or known.config.device))
            job = replace(job, threads=pool.threads)
            batch = reading.batch or (plan.header["batch"] if plan else _ask_batch(job, pool))
            job = replace(job, batch=batch)
        asked = stack.enter_context(listening())  # not before Ray, which listens too
        if plan is None:
            header = asked_for | {"batch": batch, "merge": _describe(known, wanted, root)}
            plan = make_plan(folder, header, walk, max(shard // batch, 1) * batch)
            missing = list(range(len(plan.shards)))
        else:
            for place in handling.folders:
                clear_unfinished(place)
        if missing:
            _work(plan, missing, job, pool, asked, quiet)
        outcome = write_outcome(
            lambda: plan.read(range(len(plan.shards)), asked), out, root, known, thresholds, keep, wanted, project
        )
        shutil.rmtree(folder)
    outcome.left_out = plan.left_out
    return outcome


def merge(out: Path, wanted: Wanted | None = None) -> Merged:
    """Write what the shards beside ``out`` hold so far, while workers are at others or after all have ended.

    While some are missing the files have ``-so-far`` in their names, so that nobody takes them for the whole.
    ``wanted``, left out, is what was wanted at the beginning. Nothing is removed; `predict_together` with ``resume``
    does that at the end. Raises JournalError where there are no shards.
    """
    out = Path(os.path.abspath(out))
    folder = folder_of(out)
    if not (folder / "plan.gz").exists():
        raise JournalError(f"{folder}: holds no shards; they are there from the begin of 'predict --ray' to its end")
    plan = open_plan(folder)
    said = plan.header["merge"]
    missing = not_done(plan)
    done = [shard for shard in range(len(plan.shards)) if shard not in set(missing)]
    lacking = sum(plan.shards[shard].count for shard in missing)
    config = RunConfig.model_validate(said["config"])
    model = Model(
        *(Path(said["model"]), tuple(said["class_names"]), config, said["epoch"], plan.header["model"], None, None)
    )
    if wanted is None:
        wanted = Wanted(
            **{name: Path(value) if name in said["paths"] else value for name, value in said["wanted"].items()}
        )
    into = out.with_name(f"{out.stem}-so-far{out.suffix}") if missing else out
    outcome = write_outcome(
        lambda: plan.read(done),
        into,
        Path(said["root"]),
        model,
        Thresholds(plan.header["threshold"], plan.header["species thresholds"]),
        plan.header["reading"]["keep"],
        wanted,
        wanted.prepare(model.class_names),
    )
    outcome.left_out = plan.left_out
    return Merged(outcome, lacking)


# -- what is asked, and of which pictures


def _look_for(paths: Sequence[Path | str], handling: Handling) -> tuple[PictureWalk | StoreWalk, Path, Store | None]:
    """The pictures, the folder where their names start, and the store that they are in, if it is one."""
    if not any(map(is_address, paths)):
        require_apart(handling.folders, paths)
        return PictureWalk(paths, leave_out=handling.folders), common_folder(paths), None
    if not all(map(is_address, paths)):
        raise ValueError(f"{', '.join(map(str, paths))}: some are in a store and some are not; predict them apart")
    if handling.folders:
        raise ValueError(
            f"{paths[0]}: pictures in a store cannot be drawn on, cut out or sorted; that takes a folder that all "
            "machines share, or leave it out"
        )
    require("pyarrow.fs")
    store = Store([str(path) for path in paths])
    walk = StoreWalk(store)
    return walk, walk.root, store


def _carry(model: Model) -> Model:
    """The model with all that it takes to use it elsewhere."""
    found = model.content
    if not isinstance(found, Exported):
        return model  # weights are at hand already
    said = {field.name: getattr(found, field.name) for field in fields(Exported)}
    return replace(model, content=_Carried(**said, content=found.read()))


def _describe(model: Model, wanted: Wanted, root: Path) -> dict[str, Any]:
    """What `merge` must know."""
    said = {field.name: getattr(wanted, field.name) for field in fields(wanted)}
    paths = [name for name, value in said.items() if isinstance(value, Path)]
    return {
        "root": str(root),
        "model": str(model.path),
        "class_names": list(model.class_names),
        "config": model.config.model_dump(mode="json"),
        "epoch": model.epoch,
        "wanted": {name: os.path.abspath(value) if name in paths else value for name, value in said.items()},
        "paths": paths,
    }


# -- the work


def _work(plan: Plan, missing: Sequence[int], job: _Job, pool: Pool, asked: Request, quiet: bool) -> None:
    """Have the missing shards done.

    Raises StoppedError once an end is ``asked`` for, and EngineError for what failed, when all others are done.
    """
    waiting = {shard: plan.shards[shard].count for shard in missing}  # pictures of it that have no result yet
    pieces: dict[int, dict[int, list[list[ImageDetections]]]] = {shard: {} for shard in missing}
    faults: list[str] = []
    begun, noted = plan.pictures - sum(waiting.values()), 0
    how = {"unit": "picture", "leave": False, "disable": quiet or None}
    with tqdm(desc="detecting", total=plan.pictures, initial=begun, **how) as bar:

        def keep(unit: Unit, portions: list[list[ImageDetections]]) -> None:
            nonlocal noted
            pieces[unit.shard][unit.start] = portions
            waiting[unit.shard] -= unit.count
            if not waiting[unit.shard]:
                found = pieces.pop(unit.shard)
                plan.write(unit.shard, chain.from_iterable(found[start] for start in sorted(found)))
                noted += plan.shards[unit.shard].count
            bar.update(unit.count)

        lost = [plan.shards[shard] for shard in missing]
        for size, tries in zip((None, job.batch, 1), TRIES):
            units = {piece.key: piece for unit in lost for piece in unit.cut(size)}
            came, failed, in_a_row = 0, set(), 0
            for key, found in _results(list(units.values()), job, pool, tries, asked):
                if isinstance(found, str):
                    faults.append(found)
                    failed.add(key)
                    in_a_row += 1
                    if in_a_row == FAULTS:
                        raise EngineError(f"{FAULTS} shards failed one after another, the last of them: {found}")
                elif found is not None:
                    keep(units.pop(key), found)
                    came, in_a_row = came + 1, 0
            if asked:
                raise plan.stopped(asked, f"after {begun + noted:,} of {plan.pictures:,} pictures")
            lost = [unit for key, unit in units.items() if key not in failed]
            if not came and len(lost) > 1:
                raise EngineError(
                    f"{len(lost):,} times {lost[0].count:,} pictures, and every worker ended at each; does the network "
                    "run on these machines? Ray's logs say how they ended. --resume tries again"
                )
            if not lost:
                break
        for unit in lost:  # single pictures by now
            words = "ends the process that reads it, each time"
            keep(unit, [[ImageDetections(unpack(unit.names)[0], None, None, failure=words)]])
    if faults:
        raise EngineError(
            f"{len(faults):,} shards failed, for one because of {faults[0]}; all others are in {plan.folder}. --resume "
            "tries those again"
        )


def _results(
    units: Sequence[Unit], job: _Job, pool: Pool, tries: int, asked: Request
) -> Iterator[tuple[tuple[int, int], list[list[ImageDetections]] | str | None]]:
    """What was found in each unit, in the order they are done, until somebody asks for an end.

    A text is why it failed; None says that it ended ``tries`` workers.
    """
    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    job_at, tally = ray.put(job), ray.remote(num_cpus=0)(_Tally).remote()
    with ray.data.DataContext.current(context):
        rows = [{"shard": unit.shard, "start": unit.start, "names": unit.names} for unit in units]
        # One row a block: a block is what a worker gets at once, and what it does again after another one died.
        found = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            _Worker,
            compute=ray.data.ActorPoolStrategy(
                min_size=1,
                max_size=pool.workers,
                initial_size=min(pool.workers, len(rows)),
                max_tasks_in_flight_per_actor=1,
            ),
            fn_constructor_args=(job_at, tally, tries),
            num_cpus=pool.threads,
            num_gpus=pool.gpus or None,
        )
    arrived: queue.Queue[Any] = queue.Queue()
    over = threading.Event()

    def follow() -> None:
        try:
            for row in found.iter_rows():
                arrived.put(row)
                if over.is_set():
                    return
            arrived.put(None)
        except BaseException as fault:
            arrived.put(fault)

    # In a thread of its own, since nothing wakes who waits for a row when a signal comes.
    threading.Thread(target=follow, name="results", daemon=True).start()
    try:
        while not asked:
            try:
                row = arrived.get(timeout=0.2)
            except queue.Empty:
                continue
            if row is None:
                return
            if isinstance(row, BaseException):
                raise translate(row) from row
            yield (row["shard"], row["start"]), pickle.loads(row["found"])
    finally:
        over.set()


class _Worker:
    """Detects, on one of the machines."""

    def __init__(self, job_at: Any, tally: Any, tries: int):
        import ray

        self._ray, self._tally, self._tries = ray, tally, tries
        self._job: _Job = ray.get(job_at)
        self._fault: str | None = None
        self._detector: Detector | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        key = row["shard"], row["start"]
        found: Any = None
        if self._ray.get(self._tally.begin.remote(key)) <= self._tries:
            try:
                found = self._detect(unpack(row["names"]))
            except Exception as fault:  # one shard's trouble is not that of the others
                found = _words_of(fault)
        return {"shard": row["shard"], "start": row["start"], "found": pickle.dumps(found)}

    def _detect(self, names: Sequence[str]) -> list[list[ImageDetections]]:
        job = self._job
        if self._detector is None:
            self._detector = job.load()
        portions = self._detector.detect_portions(names, job.batch, job.keep)
        actions = job.handling.actions(job.root, job.thresholds, job.model.class_names)
        return [list(portion) for portion in act_on(portions, actions, job.batch)]


class _Tally:
    """How often was each unit begun? Ray begins again what ended a worker, without end and without a word."""

    def __init__(self) -> None:
        self._begun: Counter[tuple[int, int]] = Counter()

    def begin(self, key: tuple[int, int]) -> int:
        self._begun[key] += 1
        return self._begun[key]


def _ask_batch(job: _Job, pool: Pool) -> int:
    """How many pictures at once suit the network there. Raises EngineError where it cannot run."""
    import ray

    ask = ray.remote(num_cpus=pool.threads, num_gpus=pool.gpus, max_retries=1)(_say_batch)
    try:
        answer = ray.get(ask.remote(job))
    except ray.exceptions.RayError as fault:
        raise translate(fault) from fault
    if isinstance(answer, str):
        raise EngineError(answer)
    return answer


def _say_batch(job: _Job) -> int | str:
    try:
        return job.load().batch
    except Exception as fault:
        return _words_of(fault)


def _words_of(fault: Exception) -> str:
    return str(fault) if isinstance(fault, (EngineError, ValueError)) else f"{type(fault).__name__}: {fault}"
