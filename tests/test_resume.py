"""Is a run that was killed and resumed the run that was never interrupted, byte for byte?"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorboard", reason="no extra with an engine is installed")

from same_runs import SMALL, assert_same, steps_of

from ena24ssd.runs import open_run

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
