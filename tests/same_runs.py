"""When are two runs the same?"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ena24ssd.runs import open_run

# A network and data so small that an epoch takes a blink; the state is kept after every step.
SMALL = (
    *("device=cpu", "data.image_side=48", "model.width=0.04", "model.sizes=[0.3,0.6]", "model.ratios=[1]"),
    *("split.kind=grouped", "split.train=0.5", "split.validation=0.2", "split.test=0.3", "train.batch=4"),
    *("train.epochs=4", "optim.lr=0.01", "log.pictures=1", "log.graph=false", "train.checkpoint_minutes=0"),
)
EPOCHS = 4
STEPS = 6  # an epoch: 24 training pictures


def steps_of(board: Path) -> dict[str, list[int]]:
    """Every curve, histogram and picture of a board, and the steps it has."""
    return {name: [step for step, _ in points] for name, points in points_of(board).items()}


@cache
def points_of(board: Path) -> dict[str, list[tuple[int, object]]]:
    """Every curve, histogram and picture of a board, with steps and, but for times and memory, values."""
    points = {}
    for folder in {file.parent for file in board.rglob("*tfevents*")}:
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0, "images": 0})
        events.Reload()
        tags = events.Tags()
        for kind, read, value in (
            ("scalars", events.Scalars, lambda event: event.value),
            ("histograms", events.Histograms, lambda event: tuple(event.histogram_value.bucket)),
            ("images", events.Images, lambda event: event.encoded_image_string),
        ):
            for tag in tags[kind]:
                differs = tag.startswith(("Speed/", "Memory/"))
                name = f"{folder.relative_to(board)} {tag}"
                points[name] = [(event.step, None if differs else value(event)) for event in read(tag)]
    return points


def assert_same(run: Path, whole: Path, *, board: bool = True) -> None:
    """The figures byte for byte, the weights and the optimizer's memory bit for bit, the board point for point."""
    assert (run / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    (ours, _), (theirs, _) = open_run(run).load_state(), open_run(whole).load_state()
    for mine, other in ((ours.weights, theirs.weights), (ours.optimizer, theirs.optimizer)):
        assert mine.keys() == other.keys() and mine
        assert all(np.array_equal(mine[name], other[name]) for name in mine)
    best = [open_run(folder).load_checkpoint("best") for folder in (run, whole)]
    assert best[0].epoch == best[1].epoch and best[0].score == best[1].score
    assert all(np.array_equal(best[0].weights[name], best[1].weights[name]) for name in best[0].weights)
    if board:
        ours, theirs = points_of(run / "board"), points_of(whole / "board")
        assert ours.keys() == theirs.keys()
        for name, points in theirs.items():
            # A sitting that found no step left to take in an epoch has no gradient to show of it.
            known = [point for point in points if point[0] in dict(ours[name])] if "gradient/" in name else points
            assert ours[name] == known, name
    assert [json.loads(line)["epoch"] for line in (run / "speed.jsonl").read_text().splitlines()] == [*range(EPOCHS)]
