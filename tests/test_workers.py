"""Do several workers train the run that one process trains?"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mxnet", reason="the gluon extra is not installed", exc_type=ImportError)

from same_runs import SMALL

from ena24ssd.runs import open_run

pytestmark = pytest.mark.slow

# What makes the joint batch's answer independent of who saw which part of it.
JOINT = ("model.frozen_statistics=true", "train.epochs=2", "log.pictures=0", "log.histograms=false", "train.batch=5")
JOINT += tuple(f"augment.{name}=0" for name in ("flip", "crop", "expand", "light", "colour", "infrared"))
LIMIT = 150.0  # seconds; a failing test ends by itself


def start(words: list[str], workers: int) -> subprocess.Popen:
    train = [sys.executable, "-m", "ena24ssd.cli", "train", "--quiet", *words]
    if workers > 1:
        train = [sys.executable, "-m", "ena24ssd.cluster", "--workers", str(workers), "--", *train, "kvstore=dist_sync"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ENA24SSD_CLUSTER_TIMEOUT": "5"}
    return subprocess.Popen(train, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def finish(process: subprocess.Popen) -> tuple[int, str]:
    try:
        said, _ = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    return process.returncode, said


def wait_for(happened, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + LIMIT
    while not happened():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.02)


@pytest.fixture(scope="module")
def choices(scenes, tmp_path_factory) -> list[str]:
    return [*SMALL, f"data.path={scenes}", f"data.cache={tmp_path_factory.mktemp('cache')}", *JOINT]


@pytest.fixture(scope="module")
def alone(choices, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "run"
    code, said = finish(start([*choices, "--out", str(folder)], 1))
    assert code == 0, said
    return folder


def assert_equal(run: Path, other: Path) -> None:
    ours, theirs = open_run(run), open_run(other)
    weights = [each.load_state()[0].weights for each in (ours, theirs)]
    for name, values in weights[0].items():
        assert np.allclose(values, weights[1][name], rtol=0, atol=1e-5), name
    # A measured loss depends on how many pictures one device sees at once; the joint batch's does not.
    figures = [[r for r in each.rows() if r["split"] == "train" and "closing" not in r] for each in (ours, theirs)]
    for mine, other in zip(*figures, strict=True):
        assert mine.keys() == other.keys()
        assert mine["anchor/log_loss"] == pytest.approx(other["anchor/log_loss"], rel=1e-4)


def test_two_workers_train_what_one_process_trains_on_the_joint_batch(choices, alone, tmp_path):
    """Five pictures a batch, so that the parts differ; four in the last batch of an epoch."""
    code, said = finish(start([*choices, "--out", str(tmp_path / "run")], 2))
    assert code == 0, said
    assert_equal(tmp_path / "run", alone)
    assert open_run(tmp_path / "run").is_finished and "checkpoint of epoch" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"], "only rank 0 writes"


def test_a_signal_stops_all_workers_after_the_same_step_and_they_go_on_together(choices, alone, tmp_path):
    run = tmp_path / "run"
    process = start([*choices, "--out", str(run)], 2)
    wait_for(lambda: (run / "last.safetensors").exists(), process)
    process.send_signal(signal.SIGTERM)
    code, said = finish(process)
    assert code == 128 + signal.SIGTERM and f"nothing is lost: ena24ssd train --resume {run}" in said, said
    assert not open_run(run).is_finished
    code, said = finish(start(["--resume", str(run)], 2))
    assert code == 0, said
    assert_equal(run, alone)


STOPS_IN_THE_LAST_STEP = """
import os, signal, sys
from ena24ssd import cli
from ena24ssd.gluon.engine import GluonEngine
really, calls = GluonEngine.train_step, []
def counted(engine, batch):
    calls.append(None)
    if len(calls) == 5 and engine.rank == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return really(engine, batch)
GluonEngine.train_step = counted
sys.exit(cli.main(sys.argv[1:]))
"""


def test_one_worker_asked_to_stop_in_an_epochs_last_step_stops_all_and_they_go_on(choices, alone, tmp_path):
    run = tmp_path / "run"
    words = ["train", "--quiet", *choices, "kvstore=dist_sync", "--out", str(run)]
    command = [sys.executable, "-m", "ena24ssd.cluster", "--workers", "2", "--"]
    command += [sys.executable, "-c", STOPS_IN_THE_LAST_STEP, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 128 + signal.SIGTERM and "epoch 0, after step 5 of 5" in done.stderr, done.stderr
    code, said = finish(start(["--resume", str(run)], 2))
    assert code == 0, said
    assert_equal(run, alone)


def test_a_worker_that_dies_ends_the_others_and_the_run_can_go_on(choices, alone, tmp_path):
    import psutil

    run = tmp_path / "run"
    process = start([*choices, "--out", str(run)], 2)
    wait_for(lambda: (run / "last.safetensors").exists(), process)
    children = psutil.Process(process.pid).children()
    workers = [child for child in children if "train" in child.cmdline()]
    victim = next(each for each in workers if each.environ().get("PORT") == max(w.environ()["PORT"] for w in workers))
    victim.kill()
    code, said = finish(process)
    assert code == 128 + signal.SIGKILL and "was killed by SIGKILL" in said, said
    assert not any(child.is_running() for child in children)
    code, said = finish(start(["--resume", str(run)], 2))
    assert code == 0, said
    assert_equal(run, alone)


def test_workers_that_see_different_data_are_told(choices, scenes, tmp_path):
    """Each worker takes its port as the seed."""
    script = "import os, sys; from ena24ssd import cli; "
    script += "seed = 'seed=' + os.environ['PORT']; sys.exit(cli.main([*sys.argv[1:], seed]))"
    words = ["train", "--quiet", *choices, "kvstore=dist_sync", "--out", str(tmp_path / "run")]
    command = [sys.executable, "-m", "ena24ssd.cluster", "--workers", "2", "--", sys.executable, "-c", script, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 1 and "the workers differ in their config" in done.stderr
