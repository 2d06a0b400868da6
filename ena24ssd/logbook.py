"""What does TensorBoard get to see of an epoch?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
from tqdm import tqdm

from ena24ssd.cameratraps import CameraTrapDataset
from ena24ssd.config import dump_config
from ena24ssd.data import Examples
from ena24ssd.engine import Board, Engine
from ena24ssd.evaluation import draw_sheet
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
}


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


def _log_figures(board: Board, epoch: int, figures: Mapping[str, Mapping[str, float]]) -> None:
    for tag, name in CURVES.items():
        values = {side: some[name] for side, some in figures.items() if name in some}
        if values:
            board.scalars(tag, values, epoch)
    for side, some in figures.items():
        for name in (name for name in some if name.startswith("f1/")):
            board.scalar(f"F1_{side}/{name.removeprefix('f1/')}", some[name], epoch)


def _log_histograms(board: Board, epoch: int, prefix: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Of weights and biases, as the post logs them."""
    for name, values in arrays.items():
        if name.endswith(("weight", "bias")):
            board.histogram(prefix + name, values, epoch)


def _indented(text: str) -> str:
    """As Markdown that is shown as it stands."""
    return "".join(f"    {line}\n" for line in text.splitlines())
