"""Do several processes train as one, and end as one?"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import psutil
import pytest

from ena24ssd.cluster import launch, read_membership, role_environment
from ena24ssd.engine import EngineError

PATIENCE = 50.0  # seconds; only a test that fails needs them

# What a worker has to agree on, by rank: values whose float64 sum depends on every bit and on the order.
VOTES = np.array([[1 / 3, 1e300, 1.0, np.inf], [1e-12, 1e284, 1e-16, -1.0]])

TRAINS = """
import sys
import mxnet, numpy
from mxnet import autograd, gluon, np
from ena24ssd.gluon.cluster import join_cluster

folder = sys.argv[1]
mxnet.npx.set_np()

def train(inputs, targets, seed, cluster):
    mxnet.random.seed(seed)
    net = gluon.nn.Sequential()
    net.add(gluon.nn.Dense(7, activation="tanh", in_units=5), gluon.nn.Dense(2, in_units=7))
    net.initialize(mxnet.init.Xavier())
    trainer = gluon.Trainer(
        net.collect_params(), "sgd", {"learning_rate": 0.2, "momentum": 0.9},
        kvstore=cluster and cluster.kvstore, update_on_kvstore=False if cluster else None,
    )
    own = net[0].weight.data().asnumpy()
    if cluster:
        for parameter in net.collect_params().values():
            parameter.set_data(cluster.share(parameter.data()))
    for _ in range(5):
        count = np.array(float(len(inputs)))
        if cluster:
            count = cluster.add_up(count)
        with autograd.record():
            loss = ((net(np.array(inputs)) - np.array(targets)) ** 2).sum() / count
        loss.backward()
        trainer.step(1)
    return own, numpy.concatenate([value.data().asnumpy().ravel() for value in net.collect_params().values()])

def first_values(cluster):
    "Rank 0's value, broadcast under a new key, and untouched by the gradients pushed right after it."
    values = []
    for key in range(1000, 1100):
        value, gradient = np.full((20,), cluster.rank + 5.0), np.ones((20,))
        cluster.kvstore.broadcast(key, value, [value])
        cluster.kvstore.pushpull(key, [gradient])
        values.append(value)
    return np.stack(values).asnumpy()

random = numpy.random.RandomState(3)
inputs, targets = random.randn(8, 5).astype("float32"), random.randn(8, 2).astype("float32")
votes = numpy.load(f"{folder}/votes.npy")
with join_cluster() as cluster:
    agreed = cluster.agree(votes[cluster.rank])
    shaped = cluster.agree(numpy.full((2, 1, 3), cluster.rank + 1.0)[:, :, ::2])
    alone = cluster.agree(numpy.float64(cluster.rank))
    none = cluster.agree(numpy.zeros((0, 4)))
    flow = [cluster.add_up(np.array([step + cluster.rank, 1.0])) for step in range(40)]  # nobody waits in between
    firsts = first_values(cluster)
    mine = slice(0, 5) if cluster.rank == 0 else slice(5, None)  # shards of different sizes
    own, joint = train(inputs[mine], targets[mine], seed=cluster.rank, cluster=cluster)
_, single = train(inputs, targets, seed=0, cluster=None)
numpy.savez(
    f"{folder}/{cluster.rank}.npz", agreed=agreed, shaped=shaped, alone=alone, none=none, flow=np.stack(flow).asnumpy(),
    firsts=firsts, own=own, joint=joint, single=single,
)
print(f"rank {cluster.rank} of {cluster.workers} is done")
"""

WAITS = """
import sys, pathlib, numpy, os
from ena24ssd.gluon.cluster import join_cluster

cluster = join_cluster()
cluster.agree(numpy.ones(3))
pathlib.Path(sys.argv[1], f"worker {cluster.rank} is {os.getpid()}").touch()
while True:
    cluster.agree(numpy.ones(3))
"""

# Workers that need no MXNet: they say that they are there, and wait.
STOPS = """
import os, pathlib, signal, sys, time

def stop(number, frame):
    pathlib.Path(sys.argv[1], f"stopped {os.getpid()}").touch()
    sys.exit(5)

signal.signal(signal.SIGTERM, stop)
pathlib.Path(sys.argv[1], f"{os.getpid()} knows {os.environ['DMLC_PS_ROOT_PORT']}").touch()
time.sleep(60)
"""

FAILS = """
import os, sys, time
try:
    os.mkdir(sys.argv[1])
except FileExistsError:
    time.sleep(60)
print("no more film")
sys.exit(3)
"""


@pytest.fixture
def mxnet() -> None:
    pytest.importorskip("mxnet", reason="the gluon extra is not installed", exc_type=ImportError)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a process that does not outlive the test, nor do its children."""
    started: list[subprocess.Popen[str]] = []

    def start(*command: str, **variables: str) -> subprocess.Popen[str]:
        environment = os.environ | variables
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        started.append(subprocess.Popen([sys.executable, *command], env=environment, text=True, **pipes))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            family = [*psutil.Process(process.pid).children(recursive=True), process]
            for member in family:
                member.kill()
        process.communicate()


def wait_for(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


GOOD = role_environment("worker", "127.0.0.1", 9091, workers=2)


def test_the_variables_are_read_as_they_were_written():
    membership = read_membership(role_environment("server", "10.0.0.5", 9091, workers=3, servers=2))
    assert (membership.role, membership.host, membership.port) == ("server", "10.0.0.5", 9091)
    assert (membership.workers, membership.servers) == (3, 2)
    assert (membership.timeout, membership.silence) == (20, 3600)


@pytest.mark.parametrize(
    ("changes", "complaints"),
    [
        pytest.param(dict.fromkeys(GOOD), [f"{name} is not set" for name in GOOD], id="nothing is set: all are listed"),
        pytest.param({"DMLC_ROLE": "boss"}, ["DMLC_ROLE is 'boss'"], id="a role that does not exist"),
        pytest.param(
            {"DMLC_PS_ROOT_URI": "node1"}, ["DMLC_PS_ROOT_URI is 'node1'", "IPv4"], id="a name for an address"
        ),
        pytest.param({"DMLC_PS_ROOT_PORT": "0"}, ["DMLC_PS_ROOT_PORT is '0'"], id="a port below the range"),
        pytest.param({"DMLC_PS_ROOT_PORT": "65536"}, ["DMLC_PS_ROOT_PORT is '65536'"], id="a port above the range"),
        pytest.param(
            {"DMLC_NUM_WORKER": "two", "DMLC_NUM_SERVER": "-1"},
            ["DMLC_NUM_WORKER is 'two'", "DMLC_NUM_SERVER is '-1'"],
            id="counts that are none: both are named",
        ),
        pytest.param(
            {"ENA24SSD_CLUSTER_TIMEOUT": "soon"}, ["ENA24SSD_CLUSTER_TIMEOUT is 'soon'"], id="a limit in words"
        ),
    ],
)
def test_wrong_variables_are_named(changes, complaints):
    variables = {name: value for name, value in (GOOD | changes).items() if value is not None}
    with pytest.raises(EngineError) as caught:
        read_membership(variables)
    for complaint in (*complaints, "--help"):
        assert complaint in str(caught.value)
    assert str(caught.value).count(" must be ") == len(changes)


@pytest.mark.slow
def test_a_worker_without_its_variables_gets_a_message_and_no_crash(mxnet, start):
    process = start("-c", "from ena24ssd.gluon.cluster import join_cluster; join_cluster()", DMLC_PS_ROOT_PORT="x")
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "DMLC_ROLE is not set" in errors and "DMLC_PS_ROOT_PORT is 'x'" in errors


@pytest.mark.slow
def test_two_workers_are_one(mxnet, start, tmp_path):
    np.save(tmp_path / "votes.npy", VOTES)
    command = ("-m", "ena24ssd.cluster", "--workers", "2", "--", sys.executable, "-c", TRAINS, str(tmp_path))
    output, errors = start(*command).communicate(timeout=PATIENCE)
    assert output == "rank 0 of 2 is done\n", errors  # the other's output is not shown
    first, second = (np.load(tmp_path / f"{rank}.npz") for rank in range(2))
    for name in set(first.files) - {"own"}:
        np.testing.assert_array_equal(first[name], second[name])
    np.testing.assert_array_equal(first["agreed"], VOTES[0] + VOTES[1])
    np.testing.assert_array_equal(first["shaped"], np.full((2, 1, 2), 3.0))
    assert first["alone"].shape == () and first["alone"] == 1.0
    assert first["none"].shape == (0, 4)
    np.testing.assert_array_equal(first["flow"], [[2 * step + 1, 2] for step in range(40)])
    assert (first["firsts"] == 5.0).all()
    np.testing.assert_allclose(first["joint"], first["single"], rtol=0, atol=1e-5)
    assert np.abs(first["own"] - second["own"]).max() > 0.1  # the weights before rank 0 shared its own


@pytest.mark.slow
def test_a_killed_worker_ends_all_the_others(mxnet, start, tmp_path):
    port = free_port()

    def member(role: str, *command: str) -> subprocess.Popen[str]:
        variables = role_environment(role, "127.0.0.1", port, workers=2)
        return start(*command, **variables, ENA24SSD_CLUSTER_TIMEOUT="2")

    scheduler, server = (member(role, "-m", "ena24ssd.cluster") for role in ("scheduler", "server"))
    workers = [member("worker", "-c", WAITS, str(tmp_path)) for _ in range(2)]
    wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
    addresses = [c.laddr for w in workers for c in psutil.Process(w.pid).net_connections() if c.status == "LISTEN"]
    assert {address.ip for address in addresses} == {"127.0.0.1"}
    (victim,) = [worker for worker in workers if (tmp_path / f"worker 1 is {worker.pid}").exists()]
    (survivor,) = [worker for worker in workers if worker is not victim]
    os.kill(victim.pid, signal.SIGKILL)
    _, told = survivor.communicate(timeout=25)  # twice the limit of 2 s, and generously
    assert survivor.returncode == 1
    assert "worker 0 of 2 ends" in told and "--resume" in told
    _, told = scheduler.communicate(timeout=25)
    assert scheduler.returncode == 1 and "worker 1 of 2 has not answered for 2 s" in told
    server.communicate(timeout=25)
    assert server.returncode == 1


@pytest.mark.slow
def test_a_worker_that_fails_ends_the_launch_with_its_code(mxnet, capfd, tmp_path):
    before = time.monotonic()
    code = launch([sys.executable, "-c", FAILS, str(tmp_path / "first")], workers=2, patience=1.0)
    assert code == 3
    assert time.monotonic() - before < PATIENCE
    assert psutil.Process().children(recursive=True) == []
    shown = capfd.readouterr()
    assert re.search(r"worker [01] \(process \d+\) ended with code 3; all others were ended", shown.err)
    assert "no more film" in shown.out + shown.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "stopped"),
    [
        pytest.param(signal.SIGTERM, 5, 2, id="a signal reaches every worker, which ends in its own way"),
        pytest.param(signal.SIGKILL, -9, 0, id="a launcher that is killed takes all with it"),
    ],
)
def test_nothing_outlives_the_launcher(mxnet, start, tmp_path, number, code, stopped):
    if number == signal.SIGKILL and sys.platform != "linux":
        pytest.skip("only Linux ends a process with its parent")
    command = ("-m", "ena24ssd.cluster", "--workers", "2", "--", sys.executable, "-c", STOPS, str(tmp_path))
    launcher = start(*command)
    wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
    (port,) = {int(path.name.split()[-1]) for path in tmp_path.iterdir()}
    family = psutil.Process(launcher.pid).children(recursive=True)
    assert len(family) == 4
    launcher.send_signal(number)
    assert launcher.wait(timeout=PATIENCE) == code
    wait_for(lambda: not any(process.is_running() and process.status() != "zombie" for process in family), 10)
    assert len(list(tmp_path.glob("stopped *"))) == stopped
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
