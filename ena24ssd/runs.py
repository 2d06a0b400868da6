"""What is kept of a run, to judge it and to use it?

A run folder::

    config.yaml            every choice, resolved
    classes.json           species names, in label order
    split.json             image ids of train, validation, test
    problems.json          every odd thing in the data, and what was done about it
    metrics.jsonl          one row per epoch and split, then the closing rows of the kept checkpoint
    best.safetensors       the checkpoint that did best on validation (the last one, where there is no validation split)
    last.safetensors       the checkpoint of the last finished epoch
    board/                 TensorBoard's event files
    sheet.png              detections on held-out pictures

Files are replaced whole: a reader, after a crash too, finds the old one or the new one and never half of one. Only
metrics.jsonl grows, row by row.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from ena24ssd.cameratraps import Problem
from ena24ssd.config import RunConfig, dump_config, read_config
from ena24ssd.files import replace_file
from ena24ssd.splits import Split

CheckpointName = Literal["best", "last"]


class RunError(ValueError):
    """A folder that is no usable run; the message says which rule and the way out."""


class Checkpoint(NamedTuple):
    """The weights after one epoch: the same names and arrays in every engine."""

    weights: dict[str, np.ndarray]
    epoch: int  # 0 is the first
    score: float | None  # what `best` was chosen by; None where nothing was measured


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

    def keep_problems(self, problems: Sequence[Problem]) -> None:
        """Note down what was odd in the data."""
        replace_file(self.problems_file, json.dumps([problem._asdict() for problem in problems], indent=1))

    def checkpoint_file(self, name: CheckpointName) -> Path:
        return self.folder / f"{name}.safetensors"

    def add_row(self, row: Mapping[str, Any]) -> None:
        """Append one row to metrics.jsonl. A value that is not finite is written as null."""
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(clean) + "\n")

    def rows(self) -> list[dict[str, Any]]:
        """Every whole row of metrics.jsonl, in order; a last line that a crash cut short is no row."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def save_checkpoint(self, name: CheckpointName, checkpoint: Checkpoint) -> None:
        """Write a checkpoint atomically."""
        notes = {"format": "ena24ssd", "epoch": str(checkpoint.epoch), "classes": json.dumps(self.class_names)}
        if checkpoint.score is not None:
            notes["score"] = repr(checkpoint.score)
        arrays = {key: np.ascontiguousarray(value) for key, value in checkpoint.weights.items()}
        replace_file(self.checkpoint_file(name), safetensors.numpy.save(arrays, metadata=notes))

    def load_checkpoint(self, name: CheckpointName = "best") -> Checkpoint:
        """Read a checkpoint; nothing in it is executed. Raises RunError if missing, damaged or of another run."""
        path = self.checkpoint_file(name)
        if not path.exists():
            raise RunError(f"{path}: there is no such checkpoint; did the run finish its first epoch?")
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                notes = file.metadata() or {}
                names = file.keys()  # the file is no mapping: it cannot be iterated itself
                weights = {name: file.get_tensor(name) for name in names}
        except safetensors.SafetensorError as fault:
            raise RunError(f"{path}: not a whole safetensors file ({fault}); copy it anew or train again") from fault
        if json.loads(notes.get("classes", "[]")) != list(self.class_names):
            raise RunError(f"{path}: its species differ from classes.json of the run; it belongs to another run")
        score = float(notes["score"]) if "score" in notes else None
        return Checkpoint(weights, int(notes.get("epoch", 0)), score)


def create_run(folder: Path, config: RunConfig, class_names: tuple[str, ...], split: Split) -> Run:
    """Start a run folder. Raises RunError where the folder already holds a run: runs are never overwritten."""
    require_free(folder)
    folder.mkdir(parents=True, exist_ok=True)
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
    try:
        names = json.loads((folder / "classes.json").read_text(encoding="utf-8"))
        split = Split.from_json(json.loads((folder / "split.json").read_text(encoding="utf-8")))
        return Run(folder, read_config(folder / "config.yaml"), tuple(names), split)
    except FileNotFoundError as fault:
        raise RunError(f"{folder}: not a run folder ({Path(fault.filename).name} is missing)") from None
    except (OSError, ValueError, TypeError, KeyError) as fault:
        raise RunError(f"{folder}: not a usable run folder: {fault}") from fault
