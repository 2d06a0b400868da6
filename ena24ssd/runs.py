"""What is kept of a run, to judge it, to use it and to go on with it?

A run folder::

    config.yaml            every choice, resolved
    classes.json           species names, in label order
    split.json             image ids of train, validation, test
    problems.json          every odd thing in the data, and what was done about it
    metrics.jsonl          one row per epoch and split, then the closing rows of the kept checkpoint
    speed.jsonl            one row per epoch: how long it took, how much memory
    best.safetensors       the weights that did best on validation (the last ones, where there is no validation split)
    last.safetensors       the weights of now, and all that it takes to go on from them
    previous.safetensors   the same, one step of keeping earlier, in case `last` goes bad
    calibration.json       thresholds and a temperature for the best weights, chosen on validation
    board/                 TensorBoard's event files
    sheet.png              detections on held-out pictures

Files are replaced whole: a reader, after a crash too, finds the old one or the new one and never half of one. Only the
two .jsonl files and the board grow. What they hold beyond the state in `last` is cut off when a run is resumed, so that
what was under way is written once.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from ena24ssd.cameratraps import Problem
from ena24ssd.checkpoints import CheckpointError, read_checkpoint, write_checkpoint
from ena24ssd.config import RunConfig, dump_config, read_config
from ena24ssd.files import naming, replace_file
from ena24ssd.splits import Split

CheckpointName = Literal["best", "last"]
CALIBRATION = "calibration.json"
EVALUATION = "evaluation-"  # the names of boards that hold no part of the training start with it
OPTIMIZER = "optimizer/"  # the names in a state that are no weights start with it


class RunError(ValueError):
    """A folder that is no usable run; the message says which rule and the way out."""


class Checkpoint(NamedTuple):
    """Weights, and how they came about: the same names and arrays in every engine."""

    weights: dict[str, np.ndarray]
    epoch: int  # of the last step; 0 is the first, -1 is before any
    score: float | None  # what `best` was chosen by; None where nothing was measured


@dataclass(frozen=True)
class Standing:
    """How far a run has come."""

    epoch: int = 0  # finished epochs
    step: int = 0  # updates taken in the epoch under way
    sums: tuple[float, ...] = ()  # what they add up to: metrics.AnchorSums as a vector
    training: float = 0.0  # seconds they took
    waiting: float = 0.0  # seconds of these spent waiting for data
    seconds: float = 0.0  # of the whole run until now, over all sittings, measuring included
    epoch_began: float = 0.0  # how many of these had passed when the epoch under way began
    losses: tuple[float, ...] = ()  # training loss of every finished epoch
    best_epoch: int | None = None  # whose weights are kept as `best`
    best_score: float | None = None
    risen_epoch: int | None = None  # the last one whose score was above all before it
    pictures: str = ""  # a digest of the training pictures, in order
    board: Mapping[str, int] = field(default_factory=dict)  # bytes of every file of the board


class State(NamedTuple):
    """All that it takes to go on as if nothing had happened."""

    weights: dict[str, np.ndarray]
    optimizer: dict[str, np.ndarray]
    standing: Standing


@dataclass(frozen=True)
class Run:
    """A run folder and the choices it was made with."""

    folder: Path
    config: RunConfig
    class_names: tuple[str, ...]
    split: Split

    @property
    def board_folder(self) -> Path:
        return self.folder / "board"

    @property
    def sheet_file(self) -> Path:
        return self.folder / "sheet.png"

    @property
    def problems_file(self) -> Path:
        return self.folder / "problems.json"

    @property
    def metrics_file(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def speed_file(self) -> Path:
        return self.folder / "speed.jsonl"

    def checkpoint_file(self, name: CheckpointName | Literal["previous"]) -> Path:
        return self.folder / f"{name}.safetensors"

    def keep_problems(self, problems: Sequence[Problem]) -> None:
        """Note down what was odd in the data."""
        replace_file(self.problems_file, json.dumps([problem._asdict() for problem in problems], indent=1))

    def keep_config(self) -> None:
        """Note down the choices, which a resumed run may change."""
        replace_file(self.folder / "config.yaml", dump_config(self.config))

    # -- rows that grow -------------------------------------------------------------------------------------------

    def add_rows(self, *rows: Mapping[str, Any]) -> None:
        """Append rows to metrics.jsonl. A value that is not finite is written as null."""
        _append(self.metrics_file, rows)

    def add_speed(self, row: Mapping[str, Any]) -> None:
        """Append one row to speed.jsonl."""
        _append(self.speed_file, [row])

    def rows(self) -> list[dict[str, Any]]:
        """Every whole row of metrics.jsonl, in order; a last line that a crash cut short is no row."""
        rows = [row for _, row in _read_rows(self.metrics_file)]
        for number, row in enumerate(rows, 1):
            if not isinstance(row.get("split"), str):
                raise RunError(f"{self.metrics_file}: row {number} names no split; put back a whole file")
        return rows

    @property
    def is_finished(self) -> bool:
        """Whether the run has its closing rows: one for every split that was measured."""
        rows = self.rows()
        closing = {row["split"] for row in rows if row.get("closing")}
        return bool(closing) and closing >= {row["split"] for row in rows}

    @contextmanager
    def held(self) -> Iterator[None]:
        """No other process may go on with the run meanwhile. Raises RunError where one is at it already."""
        lock = FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RunError(
                f"{self.folder}: another process is training this run; wait for it, or end it, and then resume"
            ) from None
        try:  # the lock's own file stays: without it, two could hold the lock
            for rubbish in self.folder.glob(".*.part"):  # of a process that was killed while it wrote
                rubbish.unlink()
            yield
        finally:
            lock.release()

    def cut_back(self, standing: Standing) -> None:
        """Forget what was written about anything after ``standing``: rows of later epochs, closing rows, the board."""
        for path in (self.metrics_file, self.speed_file):
            if path.exists():
                rows = _read_rows(path)
                kept = (line for line, row in rows if row["epoch"] < standing.epoch and not row.get("closing"))
                replace_file(path, "".join(kept))
        for folder in self.board_folder.glob(f"{EVALUATION}*"):
            shutil.rmtree(folder, ignore_errors=True)
        (self.folder / CALIBRATION).unlink(missing_ok=True)  # of weights that may change under the same epoch
        for name, size in self.board_sizes().items():
            path = self.board_folder / name
            if name not in standing.board:
                path.unlink()
            elif size > standing.board[name]:
                os.truncate(path, standing.board[name])

    def board_sizes(self) -> dict[str, int]:
        """Bytes of every file of the board, by its path inside it."""
        files = (path for path in self.board_folder.rglob("*") if path.is_file() and not self._is_of_evaluation(path))
        return {path.relative_to(self.board_folder).as_posix(): path.stat().st_size for path in files}

    def evaluation_folder(self, side: str) -> Path:
        """The board of an evaluation, which may be written anew at any time."""
        return self.board_folder / f"{EVALUATION}{side}"

    def _is_of_evaluation(self, path: Path) -> bool:
        return path.relative_to(self.board_folder).parts[0].startswith(EVALUATION)

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def keep_best(self, checkpoint: Checkpoint) -> None:
        """Write the weights to use, whole or not at all."""
        notes = self._notes(checkpoint.epoch)
        if checkpoint.score is not None:
            notes["score"] = repr(checkpoint.score)
        write_checkpoint(self.checkpoint_file("best"), checkpoint.weights, notes)

    def keep_state(self, state: State) -> None:
        """Write what it takes to go on, whole or not at all; the one before stays as `previous`."""
        standing, last, coming = state.standing, self.checkpoint_file("last"), self.folder / ".coming.safetensors.part"
        notes = self._notes(standing.epoch - (standing.step == 0)) | {"standing": json.dumps(asdict(standing))}
        optimizer = {OPTIMIZER + name: array for name, array in state.optimizer.items()}
        write_checkpoint(coming, state.weights | optimizer, notes)
        if last.exists():  # only now, with the new one whole: there are two good ones at any moment
            replace_link(last, self.checkpoint_file("previous"))
        os.replace(coming, last)

    def forget_damaged_state(self) -> None:
        """Put a `last` that cannot be read out of the way of the good `previous`."""
        with suppress(FileNotFoundError):
            os.replace(self.checkpoint_file("last"), self.folder / "damaged.safetensors")

    def load_checkpoint(self, name: CheckpointName = "best") -> Checkpoint:
        """Read weights; nothing in the file is executed. Raises RunError if missing, damaged or of another run."""
        arrays, notes = self._read(name)
        weights = {key: array for key, array in arrays.items() if not key.startswith(OPTIMIZER)}
        score = float(notes["score"]) if "score" in notes else None
        return Checkpoint(weights, int(notes.get("epoch", 0)), score)

    @property
    def has_state(self) -> bool:
        """Whether there is a file that should hold a state."""
        return bool(self._states())

    def load_state(self) -> tuple[State | None, str | None]:
        """What `keep_state` kept, and a sentence if it is not the latest because that is damaged.

        None for the state where none was kept yet. Raises RunError where no kept state is whole.
        """
        files = self._states()
        doubt = None
        for name in files:
            try:
                return self._read_state(name), doubt and f"{doubt}. Going on from {self.checkpoint_file(name)} instead"
            except RunError as fault:
                doubt, refusal = str(fault), fault
        if not files:
            return None, None
        raise refusal

    def _states(self) -> list[Literal["last", "previous"]]:
        return [name for name in ("last", "previous") if self.checkpoint_file(name).exists()]

    def _read_state(self, name: Literal["last", "previous"]) -> State:
        arrays, notes = self._read(name)
        try:
            known = {key: tuple(v) if isinstance(v, list) else v for key, v in json.loads(notes["standing"]).items()}
            standing = Standing(**{f.name: known[f.name] for f in fields(Standing) if f.name in known})
        except (KeyError, ValueError, AttributeError) as fault:
            raise RunError(
                f"{self.checkpoint_file(name)}: does not say how far the run had come ({fault!r}); start a new run"
            ) from fault
        optimizer = {key.removeprefix(OPTIMIZER): arrays.pop(key) for key in list(arrays) if key.startswith(OPTIMIZER)}
        return State(arrays, optimizer, standing)

    def _notes(self, epoch: int) -> dict[str, str]:
        return {"format": "ena24ssd", "epoch": str(epoch), "classes": json.dumps(self.class_names)}

    def _read(self, name: CheckpointName | Literal["previous"]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        path = self.checkpoint_file(name)
        try:
            arrays, notes = read_checkpoint(path)
        except CheckpointError as fault:
            raise RunError(str(fault)) from fault
        if json.loads(notes.get("classes", "[]")) != list(self.class_names):
            raise RunError(f"{path}: its species differ from classes.json of the run; it belongs to another run")
        return arrays, notes


def create_run(folder: Path, config: RunConfig, class_names: tuple[str, ...], split: Split) -> Run:
    """Start a run folder. Raises RunError where the folder already holds a run: runs are never overwritten."""
    require_free(folder)
    replace_file(folder / "classes.json", json.dumps(class_names, indent=1, ensure_ascii=False))
    replace_file(folder / "split.json", json.dumps(split.to_json(), indent=1))
    replace_file(folder / "config.yaml", dump_config(config))  # last: its presence makes the folder a run
    return Run(folder, config, class_names, split)


def require_free(folder: Path) -> None:
    """Raise RunError where ``folder`` already holds a run."""
    if (folder / "config.yaml").exists():
        raise RunError(f"{folder}: already holds a run; name another folder with --out, or move this one away")


def open_run(folder: Path | str) -> Run:
    """Open an existing run folder. Raises RunError where it is none."""
    folder = Path(folder)
    parts = {}
    for name in ("config.yaml", "classes.json", "split.json"):
        path = folder / name
        if not path.is_file():
            raise RunError(f"{folder}: not a run folder ({name} is missing)")
        try:
            parts[name] = read_config(path) if name == "config.yaml" else json.loads(path.read_text(encoding="utf-8"))
            if name == "split.json":
                parts[name] = Split.from_json(parts[name])
        except (OSError, ValueError, TypeError, KeyError) as fault:
            raise RunError(f"{folder}: not a usable run folder: {path}: {fault}; put a whole one back") from fault
    return Run(folder, parts["config.yaml"], tuple(parts["classes.json"]), parts["split.json"])


def replace_link(path: Path, name: Path) -> None:
    """Let ``name`` stand for the file at ``path`` as well, whatever it stood for; a copy where there are no links."""
    unfinished = name.with_name(f".{name.name}.part")
    unfinished.unlink(missing_ok=True)
    try:
        os.link(path, unfinished)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, unfinished)
    os.replace(unfinished, name)
    unfinished.unlink(missing_ok=True)  # it is still there where both were names of one file already


def _append(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    lines = []
    for row in rows:
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        lines.append(json.dumps(clean) + "\n")
    with naming(path), open(path, "ab") as file:
        file.write("".join(lines).encode())
        file.flush()
        os.fsync(file.fileno())


def _read_rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Every whole line and what it says. Raises RunError for one that is no row."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            continue  # cut short by a crash
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or not isinstance(row.get("epoch"), int):
                raise ValueError("it has no epoch")
        except ValueError as fault:
            raise RunError(f"{path}: line {number} is no row ({fault}); delete that line") from fault
        rows.append((line.decode(), row))
    return rows
