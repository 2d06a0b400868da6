"""Do the engines' own examiners find what is wrong, and tell it whatever happens?"""

from __future__ import annotations

import json
import time

import pytest

from ena24ssd import trials
from ena24ssd.config import read_config
from ena24ssd.doctor import Finding, examine, finding_table
from ena24ssd.trials import judge_board, judge_cores, judge_driver, judge_gpu

# -- what both share ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        pytest.param({}, None, id="no control group"),
        pytest.param({"cpu.max": "max 100000"}, None, id="version 2, no limit"),
        pytest.param({"cpu.max": "250000 100000"}, 2.5, id="version 2"),
        pytest.param({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None, id="version 1, no limit"),
        pytest.param({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5, id="version 1"),
    ],
)
def test_the_share_of_cores_that_a_container_gets(monkeypatch, tmp_path, files, quota):
    monkeypatch.setattr(trials, "CGROUP", tmp_path)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{content}\n")
    assert trials._quota() == quota


@pytest.mark.parametrize(
    ("threads", "wanted", "quota", "busy", "state", "way_out"),
    [
        pytest.param(8, 8, None, 7.5, "ok", "", id="all are busy"),
        pytest.param(1, 8, None, 1.0, "doubtful", "unset OMP_NUM_THREADS", id="the user allows one"),
        pytest.param(64, 64, 2.0, 2.0, "doubtful", "export OMP_NUM_THREADS=2", id="64 threads in a 2-core container"),
        pytest.param(2, 64, 2.0, 1.9, "ok", "", id="as many as the container may use"),
        pytest.param(1, 64, 0.5, 0.5, "ok", "", id="half a core is one thread"),
        pytest.param(8, 8, None, 1.5, "doubtful", "See with 'top' what else", id="somebody else uses them"),
    ],
)
def test_cores(monkeypatch, threads, wanted, quota, busy, state, way_out):
    monkeypatch.setattr(trials, "_quota", lambda: quota)
    monkeypatch.setattr(trials, "_busy_cores", lambda work: busy)
    judgement = judge_cores(threads, wanted, lambda: None)
    assert (judgement[0], judgement[2][: len(way_out) or None]) == (state, way_out)


@pytest.mark.parametrize(
    ("first", "is_right", "state", "detail"),
    [
        pytest.param(2.0, True, "ok", "2.0 s, again in 5 ms", id="libraries are loaded first"),
        pytest.param(trials.SLOW + 1, True, "doubtful", "compiles it at every start", id="minutes are a compiler's"),
        pytest.param(2.0, False, "cannot work", "a wrong result, in 2.0 s", id="a card that computes wrongly"),
        pytest.param(trials.SLOW + 1, False, "cannot work", "a wrong result", id="slowly, and wrongly"),
    ],
)
def test_a_gradient_on_a_gpu(first, is_right, state, detail):
    judgement = judge_gpu(first, 0.005, is_right)
    assert judgement[0] == state
    assert detail in judgement[1]


@pytest.mark.parametrize(
    ("chosen", "count", "fault", "judgement"),
    [
        pytest.param(None, 2, None, ("ok", "2", ""), id="two GPUs"),
        pytest.param("1", 1, None, ("ok", "1; CUDA_VISIBLE_DEVICES is '1'", ""), id="one of them"),
        pytest.param(None, 0, "no answer", ("doubtful", "no answer", ""), id="none"),
        pytest.param(
            *("7", 0, "no answer"),
            ("doubtful", "no answer; CUDA_VISIBLE_DEVICES is '7'", "unset CUDA_VISIBLE_DEVICES"),
            id="none, by the user's own choice",
        ),
    ],
)
def test_the_gpus_that_are_seen(monkeypatch, chosen, count, fault, judgement):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert judge_driver(count, fault) == judgement


class SilentBoard:
    """Writes nothing at all."""

    def __init__(self, folder):
        pass

    def __getattr__(self, name):
        return lambda *_: None


def test_a_board_that_writes_nothing():
    assert judge_board(SilentBoard, lambda file: None) == (
        *("cannot work", "it found values [] for 0.5, and no graph, histograms, images, scalars"),
        "",
    )


# -- each engine -------------------------------------------------------------------------------------------------------


@pytest.fixture
def gluon():
    pytest.importorskip("mxnet", reason="the gluon extra is not installed", exc_type=ImportError)
    from ena24ssd.gluon import health

    return health


@pytest.fixture
def pytorch():
    pytest.importorskip("torch", reason="the pytorch extra is not installed")
    from ena24ssd.pytorch import health

    return health


@pytest.fixture(params=["gluon", "pytorch"])
def health(request):
    """The examiner of one engine after the other."""
    return request.getfixturevalue(request.param)


def ask(health, capsys, *probes) -> list[Finding]:
    """The findings of `health.main`, which must have gone to its end."""
    health.main([str(time.time()), *probes])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows[-1] == {"probe": "", "what": ""}
    return [Finding(**row) for row in rows if "state" in row]


@pytest.fixture
def two_gpus(health, monkeypatch):
    """The framework as if it saw two GPUs, which are the CPU."""
    if health.__name__.startswith("ena24ssd.gluon"):
        monkeypatch.setattr(health.mxnet.runtime.Features, "is_enabled", lambda self, name: True)
        monkeypatch.setattr(health.mxnet.context, "num_gpus", lambda: 2)
        monkeypatch.setattr(health.mxnet, "gpu", health.mxnet.cpu)
    else:
        monkeypatch.setattr(health.torch.backends.cuda, "is_built", lambda: True)
        monkeypatch.setattr(health.torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(health, "_gpu", lambda index: health.CPU)
    monkeypatch.setattr(health, "check_gpu", lambda index: None)
    for name in ("CUDA_VISIBLE_DEVICES", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def test_every_gpu_that_the_framework_sees_is_tried(health, capsys, two_gpus):
    _, driver, *gpus = ask(health, capsys, "gpus")
    assert (driver.what[:9], driver.state, driver.detail) == ("GPUs that", "ok", "2")
    tried = [gpu.what for gpu in gpus if gpu.what.endswith("gradient")]
    assert tried == ["gpu:0: a gradient", "gpu:1: a gradient"]
    assert {gpu.state for gpu in gpus} == {"ok"}


@pytest.mark.parametrize(("probe", "state"), [("gpus", "doubtful"), ("gpu", "cannot work"), ("gpu:0", "cannot work")])
def test_a_gpu_that_fails_stops_only_who_asked_for_it(health, capsys, monkeypatch, two_gpus, probe, state):
    monkeypatch.setattr(health, "check_gpu", lambda index: f"no code for this card, {health.CPU_HINT}")
    first, *others = [finding for finding in ask(health, capsys, probe) if finding.what.startswith("gpu:")]
    assert first == Finding("gpu:0: a gradient", state, "no code for this card")
    assert [other.what for other in others] == (["gpu:1: a gradient"] if probe == "gpus" else [])


def test_a_device_that_computes_wrongly_is_refused(health, capsys, monkeypatch, two_gpus):
    monkeypatch.setattr(health, "_gradient", lambda device: (0.01, False))
    findings = [finding for finding in ask(health, capsys, "gpus", "cpu") if "gradient" in finding.what]
    assert [finding.state for finding in findings] == ["cannot work"] * 3


def test_a_driver_that_does_not_answer_costs_no_other_probe(gluon, capsys, monkeypatch):
    def fail():
        raise gluon.mxnet.MXNetError("CUDA: no answer")

    monkeypatch.setattr(gluon.mxnet.runtime.Features, "is_enabled", lambda self, name: True)
    monkeypatch.setattr(gluon.mxnet.context, "num_gpus", fail)
    monkeypatch.setattr(gluon, "check_gpu", lambda index: f"the driver does not answer, {gluon.CPU_HINT}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    _, driver, cpu = ask(gluon, capsys, "gpus", "cpu")
    assert driver == Finding("GPUs that MXNet sees", "doubtful", "the driver does not answer")
    assert cpu.state == "ok"


@pytest.mark.parametrize("engine", ["gluon", "pytorch"])
def test_a_probe_that_raises_costs_no_other_probe(request, capsys, monkeypatch, engine):
    def write(*_):
        raise TypeError("Descriptors cannot be created directly.\nIf this call came from a _pb2.py file")

    health = request.getfixturevalue(engine)
    monkeypatch.setattr(
        {"gluon": "ena24ssd.gluon.board.MxBoard", "pytorch": "ena24ssd.pytorch.board.TorchBoard"}[engine] + ".__init__",
        write,
    )
    _, board, cpu, *_ = ask(health, capsys, "board", "cpu")
    assert board.state == "cannot work"
    assert board.detail == "TypeError: Descriptors cannot be created directly."
    assert cpu.state == "ok"


def test_mxnet_says_last_what_matters(gluon, capsys, monkeypatch):
    def fail(device):
        raise gluon.mxnet.MXNetError("Traceback (most recent call last):\n  File somewhere\nCheck failed: no memory\n")

    monkeypatch.setattr(gluon, "_gradient", fail)
    assert ask(gluon, capsys, "cpu")[-1].detail == "MXNetError: Check failed: no memory"


def test_tensorboard_reads_what_the_engine_writes(health, capsys):
    finding = ask(health, capsys, "board")[-1]
    assert (finding.state, finding.detail) == ("ok", "a curve, a histogram, a picture and a graph")


def test_events_that_tensorboard_does_not_find_are_a_fault(gluon, capsys, monkeypatch):
    monkeypatch.setattr("ena24ssd.gluon.board.MxBoard.scalars", lambda *_: None)
    finding = ask(gluon, capsys, "board")[-1]
    assert (finding.state, finding.detail) == ("cannot work", "it found values [] for 0.5, and no scalars")


@pytest.mark.parametrize(
    ("variable", "threads"),
    [
        pytest.param("3", 3, id="as many as the user says"),
        pytest.param("3,2", 3, id="nested: the outer number counts"),
    ],
)
def test_threads_are_those_that_training_would_use(health, capsys, monkeypatch, variable, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    monkeypatch.setattr(trials, "judge_cores", lambda threads, wanted, work: ("ok", f"{threads} of {wanted}", ""))
    monkeypatch.setattr(health, "count_cores", lambda: 8)
    assert ask(health, capsys, "cores")[-1].detail == f"{threads} of 8"


def test_a_system_that_does_not_say_how_many_threads(gluon, capsys, monkeypatch):
    monkeypatch.setattr(gluon, "count_threads", lambda: None)
    assert ask(gluon, capsys, "cores")[-1].state == "ok"


@pytest.mark.parametrize(
    ("is_native", "values", "state", "detail"),
    [
        pytest.param(True, 1.0, "ok", "multiplied natively", id="native and right"),
        pytest.param(False, 1.0, "ok", "not multiplied natively: float32 is faster here", id="not native"),
        pytest.param(True, 2.0, "cannot work", "a product of ones is 1024 instead of 256", id="native and wrong"),
    ],
)
def test_bfloat16(pytorch, capsys, monkeypatch, is_native, values, state, detail):
    monkeypatch.setattr(pytorch, "multiplies_bfloat16", lambda device: is_native)
    ones = pytorch.torch.ones

    def filled(*shape, **options):
        return ones(*shape, **options) * values if "dtype" in options else ones(*shape, **options)

    monkeypatch.setattr(pytorch.torch, "ones", filled)
    finding = ask(pytorch, capsys, "cpu")[-1]
    assert (finding.what, finding.state, finding.detail) == ("CPU: bfloat16", state, detail)


@pytest.mark.parametrize("engine", ["gluon", "pytorch"])
def test_the_real_machine(request, tmp_path, engine):
    """Without a GPU a config that names one is refused, for that reason alone."""
    health = request.getfixturevalue(engine)
    if engine == "gluon":
        has_gpus = health.mxnet.runtime.Features().is_enabled("CUDA")
    else:
        has_gpus = health.torch.backends.cuda.is_built()
    config = read_config(None, [f"engine={engine}", f"device={'cpu' if has_gpus else 'gpu:3'}"])
    findings = {finding.what: finding for finding in examine(config, tmp_path / "run", limit=120)}
    board = {"gluon": "mxboard", "pytorch": "torch"}[engine]
    for what in (
        "engine can be imported",
        "CPU: a gradient",
        f"TensorBoard reads {board}",
        "tensorboard can be started",
    ):
        assert findings[what].state == "ok", finding_table(list(findings.values()))
    refused = [finding for finding in findings.values() if finding.state == "cannot work"]
    assert [finding.what for finding in refused] == ([] if has_gpus else ["gpu:3: a gradient"])
    assert all("CPU build" in finding.detail and "device=cpu" in finding.way_out for finding in refused)
