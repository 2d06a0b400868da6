"""What does TensorBoard get to see of an epoch?"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
from tqdm import tqdm

from ena24ssd.cameratraps import CameraTrapDataset
from ena24ssd.cases import Cases
from ena24ssd.config import dump_config
from ena24ssd.data import Examples
from ena24ssd.engine import Board, Engine
from ena24ssd.evaluation import draw_sheet
from ena24ssd.matching import match
from ena24ssd.runs import Run

# Curves on TensorBoard: the post's names for the post's figures, then what tells more.
CURVES = {
    "Log_loss": "anchor/log_loss",
    "Accuracy": "anchor/accuracy",
    "MAe": "anchor/mae",
    "Micro_F1": "anchor/micro_f1",
    "MAe_per_positive": "anchor/mae_per_positive",
    "Accuracy_all_background": "anchor/accuracy_all_background",
    "mAP50": "detection/map50",
    "mAP": "detection/map",
    "Species_F1": "presence/f1",
    "Blank_specificity": "blank/specificity",
    "Blank_sensitivity": "blank/sensitivity",
}


PER_SPECIES = {"f1": "F1", "ap50": "AP50"}  # of its anchors, as the post counts; of its boxes
THRESHOLDS = 201  # of a precision-recall curve


class Logbook:
    """The board of a run. Where it cannot be written, training goes on without: metrics.jsonl has the figures.

    ``shown`` are the examples of which some are drawn; ``writes`` is False for a worker that leaves that to another.
    """

    def __init__(self, run: Run, engine: Engine, dataset: CameraTrapDataset, shown: Examples, writes: bool):
        self._run, self._engine, self._dataset, self._shown = run, engine, dataset, shown
        self._board: Board | None = None
        if writes:
            with self._enduring():
                self._board = engine.open_board(run.board_folder)

    def log(
        self,
        epoch: int,
        weights: Mapping[str, np.ndarray],
        figures: Mapping[str, Mapping[str, float]],
        speed: Mapping[str, float],
    ) -> None:
        """Everything there is to see of one epoch, and on the disk when this returns.

        ``speed`` holds pictures_per_second, waiting, peak_memory and learning_rate. The gradients are those of the last
        step; after a resume that found none to take they are left out.
        """
        if self._board is None:
            return
        board, choices = self._board, self._run.config.log
        with self._enduring():
            if epoch == 0:
                board.text("config", _indented(dump_config(self._run.config)), 0)
            _log_figures(board, epoch, figures)
            board.scalars("Learning_rate", {"train": speed["learning_rate"]}, epoch)
            board.scalar("Speed/pictures_per_second", speed["pictures_per_second"], epoch)
            board.scalar("Speed/share_waiting_for_data", speed["waiting"], epoch)
            board.scalar("Memory/peak_GB", speed["peak_memory"] / 1e9, epoch)
            if choices.histograms:
                _log_histograms(board, epoch, "", weights)
                _log_histograms(board, epoch, "gradient/", self._engine.gradients())
            if choices.pictures:
                sheet = draw_sheet(self._engine, self._dataset, self._shown, self._run.config, choices.pictures)
                board.picture("Detections", np.asarray(sheet), epoch)
            if epoch == 0 and choices.graph:
                board.graph()
            board.flush()

    def close(self) -> None:
        if self._board is not None:
            self._board.close()
            self._board = None

    @contextmanager
    def _enduring(self) -> Iterator[None]:
        try:
            yield
        except OSError as fault:
            tqdm.write(f"{self._run.board_folder}: {fault}. Training goes on without TensorBoard's curves")
            self.close()


def log_evaluation(engine: Engine, run: Run, side: str, epoch: int, cases: Cases, figures: Mapping[str, float]) -> None:
    """The figures of one split, and the precision-recall curve of every species it shows, on a board of their own.

    It replaces that of an earlier evaluation. Where it cannot be written, nothing else is lost.
    """
    folder = run.evaluation_folder(side)
    try:
        shutil.rmtree(folder, ignore_errors=True)
        board = engine.open_board(folder)
        try:
            for name, value in figures.items():
                if np.isfinite(value):
                    board.scalar(f"Evaluation_{side}/{name}", value, epoch)
            for name, right, wrong, boxes in _by_score(cases):
                board.pr_curve(f"Precision_recall_{side}/{name}", right, wrong, boxes, epoch)
            board.flush()
        finally:
            board.close()
    except OSError as fault:
        tqdm.write(f"{folder}: {fault}. The evaluation goes on without TensorBoard's curves")


def _by_score(cases: Cases) -> Iterator[tuple[str, np.ndarray, np.ndarray, int]]:
    """Of all species together, then of each that is there: how many detections are right, and how many wrong, that
    score at least each of `THRESHOLDS` even steps from 0 to 1; and how many boxes there were to find.
    """
    matches, boxes = match(cases, [0.5]), cases.boxes_of_species
    rows = [("(all species)", matches.counted, boxes.sum())]
    for label in np.flatnonzero(boxes):
        rows.append((cases.class_names[label], matches.counted & (cases.found.label == label), boxes[label]))
    for name, chosen, count in rows:
        right, wrong = (np.sort(cases.found.score[chosen & (matches.right[0] == kind)]) for kind in (True, False))
        steps = np.linspace(0, 1, THRESHOLDS)
        yield name, *(len(scores) - np.searchsorted(scores, steps) for scores in (right, wrong)), int(count)


def _log_figures(board: Board, epoch: int, figures: Mapping[str, Mapping[str, float]]) -> None:
    for tag, name in CURVES.items():
        values = {side: some[name] for side, some in figures.items() if np.isfinite(some.get(name, np.nan))}
        if values:
            board.scalars(tag, values, epoch)
    for side, some in figures.items():
        for name, value in some.items():
            kind, _, species = name.partition("/")
            if kind in PER_SPECIES:
                board.scalar(f"{PER_SPECIES[kind]}_{side}/{species}", value, epoch)


def _log_histograms(board: Board, epoch: int, prefix: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Of weights and biases, as the post logs them."""
    for name, values in arrays.items():
        if name.endswith(("weight", "bias")):
            board.histogram(prefix + name, values, epoch)


def _indented(text: str) -> str:
    """As Markdown that is shown as it stands."""
    return "".join(f"    {line}\n" for line in text.splitlines())
