"""Do several workers under torchrun train what one process trains on the joint batch?"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the pytorch extra is not installed")

import psutil
from asked import SPECIES, TINY, a_batch, assert_equal
from same_runs import SMALL

from ena24ssd.config import read_config
from ena24ssd.engine import load_engine
from ena24ssd.runs import open_run
from ena24ssd.stages import stage_of
from ena24ssd.training import resume, train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="torchrun with Gloo over loopback: Linux and macOS"),
]

LIMIT = 100.0  # seconds; a failing test ends by itself
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "ENA24SSD_CLUSTER_SILENCE": "60"}


def start(*words: object) -> subprocess.Popen:
    """Two workers on loopback, each of which is such a Python."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = ["--master-addr", "127.0.0.1", "--master-port", str(free.getsockname()[1])]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *place, *map(str, words)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, **streams, env=os.environ | ENVIRONMENT)


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """How it ended, and what it said; it and its workers are gone then."""
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    try:
        said, _ = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
        left = [child for child in family if child.is_running()]
        for child in left:
            child.kill()
    assert not left, said
    return process.returncode, said


def wait_for(happened, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + LIMIT
    while not happened():
        assert process.poll() is None and time.monotonic() < deadline, finish(process)[1]
        time.sleep(0.02)


# -- steps ----------------------------------------------------------------------------------------------------------

# Choices, and the numbers of pictures of the joint batches: where it is one, a worker has none.
STEPS = {
    "statistics frozen": (("model.frozen_statistics=true",), (5, 4, 1, 2)),
    "statistics frozen, in portions": (("model.frozen_statistics=true", "train.accumulate=2"), (5, 1, 3)),
    "statistics shared": (("model.shared_statistics=true",), (5, 4, 1, 3)),
    "statistics shared, in portions": (("model.shared_statistics=true", "train.accumulate=2"), (3, 1)),
    "each its own statistics": ((), (5, 1)),
    "statistics frozen, in two stages and averaged": (
        ("model.frozen_statistics=true", "optim.head_epochs=1", "optim.average=0.5", "optim.backbone_rate=0.5"),
        (5, 4, 3, 1),
    ),
}
COMMON = (*TINY, "engine=pytorch", "optim.name=sgd", "optim.momentum=0.9", "optim.lr=0.01")

WORKER = f"""
import json, os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import numpy as np
from torch import distributed
from asked import SPECIES, a_batch
from ena24ssd.config import read_config
from ena24ssd.data import Batch
from ena24ssd.engine import EngineError, load_engine
from ena24ssd.stages import stage_of

folder, steps, common = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
rank = int(os.environ["RANK"])
for number, (choices, sizes) in enumerate(steps.values()):
    # Every worker begins elsewhere; rank 0's weights are what counts.
    engine = load_engine(read_config(None, [*common, *choices, f"seed={{rank}}"]), SPECIES, together=True)
    distributed.init_process_group = lambda *_, **__: None  # the next engine joins the same workers
    engine.align()
    sums = []
    for seed, size in enumerate(sizes):
        if seed == 2:
            if rank == 0:
                engine.detect(a_batch().images)  # one measures, and shows its average
            engine.begin_stage(stage_of(engine._config.optim, 1, 2))
        batch, mine = a_batch(seed, size), np.array_split(np.arange(size), 2)[rank]
        step = engine.train_step(Batch(batch.images[mine], batch.truth[mine], tuple(batch.ids[i] for i in mine)))
        sums.append(engine.agree(step.read().to_vector()))
        assert step.fault() is None, step.fault()
    arrays = {{f"weights/{{name}}": array for name, array in engine.weights().items()}}
    arrays |= {{f"gradients/{{name}}": array for name, array in engine.gradients().items()}}
    np.savez(os.path.join(folder, f"{{number}}-{{rank}}.npz"), sums=sums, **arrays)
engine.agree(np.zeros(1))
if rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it comes from the launcher, and may be faster
try:
    engine.agree(np.zeros(1))
except EngineError as fault:
    with open(os.path.join(folder, "told"), "w") as file:
        file.write(str(fault))
"""


@pytest.fixture(scope="module")
def joint(tmp_path_factory) -> Path:
    """What each of two workers had after those steps, ``number-rank.npz``; one was killed when all was done."""
    folder = tmp_path_factory.mktemp("joint")
    (folder / "worker.py").write_text(WORKER)
    code, said = finish(start(folder / "worker.py", folder, json.dumps(STEPS), json.dumps(COMMON)))
    assert code != 0 and "Signal 9 (SIGKILL)" in said, said
    assert len(list(folder.glob("*.npz"))) == 2 * len(STEPS), said
    assert "FutureWarning" not in said, said
    return folder


def read_joint(folder: Path, name: str, rank: int) -> dict[str, np.ndarray]:
    return dict(np.load(folder / f"{list(STEPS).index(name)}-{rank}.npz"))


def test_a_worker_that_is_killed_ends_the_others_who_say_so(joint):
    assert (joint / "told").read_text().startswith("PyTorch gave up: ")


def part_of(arrays: dict[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    return {name.partition("/")[2]: each for name, each in arrays.items() if name.startswith(kind)}


@pytest.mark.parametrize("name", [name for name in STEPS if name != "each its own statistics"])
def test_two_workers_take_the_steps_of_one_process_on_the_joint_batch(joint, name):
    choices, sizes = STEPS[name]
    engine = load_engine(read_config(None, [*COMMON, *choices]), SPECIES)
    sums = []
    for seed, size in enumerate(sizes):
        if seed == 2:
            engine.begin_stage(stage_of(engine._config.optim, 1, 2))
        sums.append(engine.train_step(a_batch(seed, size)).read().to_vector())
    least = 1e-5 if "frozen" in name else 1e-4
    for rank in (0, 1):
        arrays = read_joint(joint, name, rank)
        assert arrays["sums"] == pytest.approx(np.array(sums), rel=least, abs=least)
        assert_equal(part_of(arrays, "weights"), engine.weights(), least)


@pytest.mark.parametrize("name", STEPS)
def test_workers_have_the_same_weights_and_gradients_to_the_bit(joint, name):
    """But for statistics, where each has its own."""
    ours, theirs = (read_joint(joint, name, rank) for rank in (0, 1))
    own = name == "each its own statistics"
    for kind in ("weights", "gradients"):
        mine, others = part_of(ours, kind), part_of(theirs, kind)
        kept = [key for key in mine if not (own and "running" in key)]
        assert_equal({key: mine[key] for key in kept}, {key: others[key] for key in kept}, 0)


# -- a run ----------------------------------------------------------------------------------------------------------

RUN = (*SMALL, "engine=pytorch", "precision=float32", "model.frozen_statistics=true", "train.batch=5", "train.epochs=1")
RUN += ("optim.schedule=constant", "optim.warmup=0", "log.pictures=0", "log.histograms=false")
RUN += tuple(f"augment.{name}=0" for name in ("flip", "crop", "expand", "light", "colour", "infrared"))


def test_a_run_changes_between_one_process_and_two_workers_that_are_told_to_stop(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr("ena24ssd.learning.save_sheet", lambda sheet, file: None)  # takes longer than all the rest
    alone = train(read_config(None, [*RUN, f"data.path={scenes}"]), tmp_path / "alone", quiet=True).folder
    run = Path(shutil.copytree(alone, tmp_path / "together"))

    state = run / "last.safetensors"
    before = state.stat().st_mtime_ns
    process = start("-m", "ena24ssd.cli", "train", "--quiet", "--resume", run, "train.epochs=50")
    wait_for(lambda: state.stat().st_mtime_ns > before, process)
    process.send_signal(signal.SIGTERM)
    code, said = finish(process)
    assert code != 0 and f"nothing is lost: ena24ssd train --resume {run}" in said, said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "together"], "only rank 0 writes"
    standing = open_run(run).load_state()[0].standing
    assert 1 <= standing.epoch < 50 and not open_run(run).is_finished

    done = [resume(each, [f"train.epochs={standing.epoch + 1}"], quiet=True) for each in (run, alone)]
    assert [each.is_finished for each in done] == [True, True]
    assert_equal(*(each.load_state()[0].weights for each in done), 1e-5)
    figures = [[row for row in each.rows() if row["split"] == "train" and "closing" not in row] for each in done]
    assert len(figures[0]) == standing.epoch + 1
    for mine, other in zip(*figures, strict=True):
        assert mine["anchor/log_loss"] == pytest.approx(other["anchor/log_loss"], rel=1e-4)
