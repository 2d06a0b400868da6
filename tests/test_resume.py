"""Is a run that was killed and resumed the run that was never interrupted, byte for byte?"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorboard", reason="no extra with an engine is installed")

from same_runs import EPOCHS, SMALL, STEPS, assert_same, steps_of

from ena24ssd.config import read_config
from ena24ssd.runs import Run, State, open_run
from ena24ssd.training import resume, train

pytestmark = pytest.mark.slow

# Twenty kills, four of each run; where the reference is missing, which has had its twenty elsewhere, eight.
RUNS, KILLS = (5 if importlib.util.find_spec("mxnet") else 2), 4


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "ena24ssd.cli", "train", "--quiet", *map(str, words)]


def start(words: list[str], log: Path) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with log.open("ab") as out:
        return subprocess.Popen(words, stdout=out, stderr=out, env=environment)


def finish(words: list[str], log: Path) -> None:
    process = start(words, log)
    try:
        assert process.wait(timeout=120) == 0, log.read_text()
    finally:
        process.kill()


@pytest.fixture(scope="module")
def whole(scenes, tmp_path_factory) -> Path:
    """A run that nobody interrupted. It fills the cache that the others read."""
    folder = tmp_path_factory.mktemp("whole")
    words = command(*SMALL, f"data.path={scenes}", f"data.cache={folder / 'cache'}", "--out", folder / "run")
    finish(words, folder / "log")
    steps = steps_of(folder / "run" / "board")
    of_training = {name: each for name, each in steps.items() if not name.startswith("evaluation-")}
    assert of_training and all(each == [0, 1, 2, 3] for each in of_training.values())
    assert all(len(each) == 1 for name, each in steps.items() if name not in of_training)
    return folder / "run"


@pytest.fixture(scope="module")
def seconds(whole) -> float:
    """How long the uninterrupted run took from its first step to its last."""
    return open_run(whole).load_state()[0].standing.seconds


def kill_within(words: list[str], log: Path, sign: Path, seconds: float) -> int:
    """Start training, and kill it so long after it first wrote ``sign`` anew. Its exit code."""
    before = sign.stat().st_mtime_ns if sign.exists() else None
    process = start(words, log)
    try:
        deadline = time.monotonic() + 60
        while (sign.stat().st_mtime_ns if sign.exists() else None) == before and process.poll() is None:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.002)
        time.sleep(seconds)
    finally:
        process.kill()
    return process.wait(timeout=20)


@pytest.mark.parametrize("number", range(RUNS))
def test_a_run_killed_at_random_moments_goes_on_as_if_nothing_had_happened(number, whole, seconds, scenes, tmp_path):
    random, run, log = np.random.default_rng(number), tmp_path / "run", tmp_path / "log"
    words = command(*SMALL, f"data.path={scenes}", f"data.cache={whole.parent / 'cache'}", "--out", run)
    sign, moments = run / "config.yaml", []
    for _ in range(KILLS):
        code = kill_within(words, log, sign, random.uniform(0, 0.8 * seconds / KILLS))
        state = open_run(run).load_state()[0]
        moments.append((code, state and (state.standing.epoch, state.standing.step)))
        words, sign = command("--resume", run), run / "last.safetensors"
    assert {code for code, _ in moments} == {-signal.SIGKILL}, f"it was not killed each time: {moments}"
    assert not open_run(run).is_finished
    finish(words, log)
    assert_same(run, whole)


# -- two stages -----------------------------------------------------------------------------------------------------

STAGED = ("optim.name=adamw", "optim.average=0.8", "optim.late_lr=0.005", "optim.backbone_rate=0.5", "seed=2")
STAGED += ("model.frozen_statistics=backbone", "log.histograms=false", "log.pictures=0")
# A network of blocks, of which half learn late.
LITE = ("model.backbone=efficientnet_lite0", "model.levels=[16,32]", "model.pyramid=8", "model.towers=1")
LITE += (
    "model.sizes=[[0.3],[0.6]]",
    "model.ratios=[1,2]",
    "model.width=1",
    "data.image_side=64",
    "optim.late_share=0.5",
)
LITE += ("train.batch=12",)
RECIPES = {
    "two stages": ("optim.head_epochs=2",),
    "two stages, of another optimizer without an average": (
        "optim.head_epochs=2",
        "optim.name=sgd",
        "optim.average=null",
    ),
    "a first stage that lasts": ("optim.head_epochs=9",),
    "an average alone": ("model.frozen_statistics=false",),
    "a network of blocks": (*LITE, "optim.head_epochs=2"),
}
# Finished epochs and steps: in the first stage, at its end, and in the second.
MOMENTS = [(1, 3), (2, 0), (2, 1)]
ENGINES = [engine for engine, of in (("gluon", "mxnet"), ("pytorch", "torch")) if importlib.util.find_spec(of)]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_goes_on_in_any_stage_as_if_nothing_had_happened(recipe, engine, scenes, tmp_path, monkeypatch):
    """From copies of the run folder as it was each time that the state had been kept."""
    monkeypatch.setattr("ena24ssd.learning.save_sheet", lambda sheet, file: None)  # takes longer than all the rest
    keep, moments = Run.keep_state, MOMENTS[1:] if "blocks" in recipe else MOMENTS

    def keep_copies(run: Run, state: State) -> None:
        keep(run, state)
        moment = state.standing.epoch, state.standing.step
        if run.folder.name == "whole" and moment in moments:
            shutil.copytree(run.folder, tmp_path / f"from {moment}")

    monkeypatch.setattr(Run, "keep_state", keep_copies)
    choices = [*SMALL, *STAGED, *RECIPES[recipe], f"data.path={scenes}", f"engine={engine}"]
    whole = train(read_config(None, choices), tmp_path / "whole", quiet=True).folder
    copies = [tmp_path / f"from {moment}" for moment in moments]
    assert all(copy.exists() for copy in copies)
    for copy in copies:
        assert_same(resume(copy, quiet=True).folder, whole, board=False)


def test_more_epochs_after_a_run_that_ended_in_its_first_stage_begin_the_second(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr("ena24ssd.learning.save_sheet", lambda sheet, file: None)
    # A rate that does not depend on how many epochs there are to be.
    choices = [
        *SMALL,
        *STAGED,
        "optim.head_epochs=2",
        "optim.schedule=constant",
        "optim.warmup=0",
        f"data.path={scenes}",
    ]
    config = read_config(None, choices)
    whole = train(config, tmp_path / "whole", quiet=True).folder
    short = config.model_copy(update={"train": config.train.model_copy(update={"epochs": 2})})
    run = train(short, tmp_path / "short", quiet=True)
    weights = [open_run(folder).load_checkpoint("last").weights for folder in (run.folder, whole)]
    moved = {name for name in weights[0] if not np.array_equal(weights[0][name], weights[1][name])}
    assert any(name.startswith("features.") for name in moved), "the backbone learns in the second stage"
    assert_same(resume(run.folder, [f"train.epochs={EPOCHS}"], quiet=True).folder, whole, board=False)


def test_a_state_holds_the_average_and_the_weights_that_learn(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr("ena24ssd.learning.save_sheet", lambda sheet, file: None)
    choices = [*SMALL, *STAGED, "optim.head_epochs=2", f"data.path={scenes}"]
    run = train(read_config(None, choices), tmp_path / "run", quiet=True)
    state, best = run.load_state()[0], run.load_checkpoint("best")
    assert state.optimizer["averaged"] == EPOCHS * STEPS and state.optimizer["updates"] == (EPOCHS - 2) * STEPS
    raw = {name.removeprefix("raw/"): each for name, each in state.optimizer.items() if name.startswith("raw/")}
    frozen = {name for name in state.weights if name.startswith("features.") and "running" in name}
    assert raw.keys() == state.weights.keys() - frozen
    assert any(not np.array_equal(raw[name], state.weights[name]) for name in raw)
    assert best.weights.keys() == state.weights.keys(), "what is used has no second set of weights in it"
    if best.epoch == EPOCHS - 1:
        assert all(np.array_equal(best.weights[name], state.weights[name]) for name in raw)
