"""Is the batch that is found the largest that fits, and does no trial harm whoever asks?"""

from __future__ import annotations

import os
import sys
import time

import numpy as np
import psutil
import pytest

from ena24ssd import fitting
from ena24ssd.config import RunConfig, read_config
from ena24ssd.engine import EngineError
from ena24ssd.fitting import Fit, FitError, find_batch

SPECIES = 2

# A process that answers as the real one does; the body says what becomes of a number of pictures.
CHILD = """
import json, os, sys, time
task = json.load(sys.stdin)
pictures, begun = task["pictures"], time.monotonic()
def say(**message):
    seconds = time.monotonic() - begun
    print(json.dumps({{"device": {device!r}, "start": 100_000_000, "seconds": seconds}} | message), flush=True)
{body}
"""
MB = 10**6


def child(body: str, device: str = "cpu(0)") -> tuple[str, ...]:
    return sys.executable, "-c", CHILD.format(device=device, body=body)


def grows(each: int, fixed: int = 100) -> str:
    """Memory along a straight line, in MB."""
    return f"say(peak=({fixed} + {each} * pictures) * {MB})"


def runs_out(most: int) -> str:
    return (
        f"if pictures > {most}: say(failure='cudaMalloc failed: out of memory', is_memory=True)\n"
        f"else: say(peak={MB} * pictures)"
    )


def config(*choices: str, memory: float | None = 1.0) -> RunConfig:
    return read_config(None, [f"train.memory_gb={memory or 'null'}", "train.batch=auto", *choices])


@pytest.fixture
def find(monkeypatch):
    """`find_batch` with a process that plays the engine's part."""

    def find(command: tuple[str, ...], chosen: RunConfig | None = None, limit: int = 5000, **more) -> Fit:
        monkeypatch.setattr(fitting, "CHILD", command)
        return find_batch(chosen or config(), SPECIES, 4, limit, quiet=True, **more)

    return find


@pytest.mark.parametrize("each", [1, 30, 299, 450])
def test_on_a_cpu_the_batch_fills_the_limit_to_an_eighth_and_no_trial_exceeds_it(find, each):
    fit = find(child(grows(each)))
    best = min(900 // each, fitting.LARGEST)
    assert best - best // 8 <= fit.batch <= best
    assert all(trial.peak <= 10**9 and trial.failure is None for trial in fit.trials)
    assert fit.is_tried and fit.batch in {trial.pictures for trial in fit.trials}
    assert fit.per_picture == pytest.approx(each * MB) and fit.fixed == pytest.approx(100 * MB)
    assert fit.limit == 10**9


@pytest.mark.parametrize("most", [1, 2, 7, 100])
def test_on_a_gpu_the_search_goes_on_between_what_ran_and_what_did_not(find, most):
    fit = find(child(runs_out(most), "gpu(0)"))
    assert max(1, int((most - most // 8 - 1) * 0.9)) <= fit.batch <= most
    assert fit.batch < most or most < 3, "a little is left over"
    assert fit.limit is None and len(fit.trials) < 20


@pytest.mark.parametrize(
    ("choices", "limit", "pictures", "batch"),
    [
        pytest.param([], 5, 5, 5, id="no more than there are pictures"),
        pytest.param([], 9000, 1024, 1024, id="no more than is sane"),
        pytest.param(["train.accumulate=4"], 100, 25, 100, id="portions one after another"),
        pytest.param(["train.accumulate=4"], 3, 1, 3, id="more portions than pictures"),
        pytest.param(["device=[cpu:0,cpu:1]"], 40, 20, 40, id="two devices"),
        pytest.param(["device=[cpu:0,cpu:1]", "train.accumulate=2"], 30, 7, 28, id="devices and portions"),
    ],
)
def test_what_fits_at_once_is_multiplied_and_capped(find, choices, limit, pictures, batch):
    fit = find(child("say(peak=150_000_000)"), config(*choices), limit)
    assert (fit.pictures, fit.batch) == (pictures, batch)


def test_devices_that_are_cpus_share_the_memory(find):
    one = find(child(grows(10)))
    two = find(child(grows(10)), config("device=[cpu:0,cpu:1]"))
    assert two.limit == one.limit // 2
    assert 2 * (40 - 5) <= two.batch <= 2 * 40


def test_the_limit_is_four_fifths_of_what_is_free_and_never_more_than_is_free(find, monkeypatch):
    monkeypatch.setattr(fitting, "available_memory", lambda: 500 * MB)
    assert find(child(grows(50)), config(memory=None)).limit == 400 * MB
    assert find(child(grows(50)), config(memory=64)).limit == 500 * MB


def test_memory_that_bends_upwards_is_overshot_once_and_settled_below(find):
    fit = find(child(f"say(peak=100 * {MB} + {MB} * pictures ** 2)"))
    assert 27 <= fit.batch <= 30
    assert all(trial.peak < 2 * 10**9 for trial in fit.trials)
    assert next(trial for trial in fit.trials if trial.pictures == fit.batch).failure is None


@pytest.mark.parametrize(
    "death",
    [
        pytest.param("os.kill(os.getpid(), 9)", id="the system kills it"),
        pytest.param("sys.exit('std::bad_alloc')", id="it gives up"),
        pytest.param("say(failure='MemoryError: ', is_memory=True)", id="it says so"),
        pytest.param("time.sleep(60)", id="it hangs"),
    ],
)
def test_a_trial_that_dies_or_hangs_is_one_that_does_not_fit(find, monkeypatch, death):
    monkeypatch.setattr(fitting, "PATIENCE", 2.0)
    fit = find(child(f"if pictures > 2: {death}\nelse: {grows(1)}"), limit=3)
    assert fit.batch == 2 and fit.is_tried
    assert [trial.failure is None for trial in fit.trials] == [True, True, False]


@pytest.mark.parametrize(
    ("command", "kind", "words"),
    [
        pytest.param(
            child("sys.exit('no such thing')"), FitError, r"1 picture .*exit code 1: no such thing", id="dies"
        ),
        pytest.param(
            child(grows(1000)), FitError, r"not even 1 picture .*1\.1 GB, and 1 GB are.*image_side", id="too large"
        ),
        pytest.param(child("print('hello')"), FitError, r"answered b'hello.*name a number", id="garbage"),
        pytest.param(child("print('[1]')"), FitError, r"answered b'\[1\]", id="garbage in JSON"),
        pytest.param(child("print('{}')"), FitError, r"answered b'\{\}", id="an answer to something else"),
        pytest.param(child("pass"), FitError, r"answered b''", id="silence"),
        pytest.param(child("say(failure='bad shape', is_memory=False)"), FitError, "failed: bad shape", id="a bug"),
        pytest.param((sys.executable, "-c", "1/0"), FitError, r"exit code 1: ZeroDivisionError", id="no start"),
        pytest.param(
            child("say(failure='no GPU here', is_memory=False, is_engine=True)"),
            EngineError,
            "^no GPU here$",
            id="no engine",
        ),
    ],
)
def test_what_cannot_be_tried_is_a_sentence(find, command, kind, words):
    with pytest.raises(kind, match=words):
        find(command)


def test_a_fault_that_is_no_lack_of_memory_is_not_taken_for_one(find):
    with pytest.raises(FitError, match=r"trial with 4 pictures failed: bad shape; name a number as train\.batch"):
        find(child(f"if pictures > 2: say(failure='bad shape', is_memory=False)\nelse: {grows(1)}"))


def test_where_trials_are_slow_the_line_is_drawn_on_and_it_is_said(find, monkeypatch):
    monkeypatch.setattr(fitting, "BUDGET", 2.0)
    begun = time.monotonic()
    fit = find(child(f"time.sleep(0.1 * pictures); {grows(1)}"))
    assert time.monotonic() - begun < 6
    assert 700 <= fit.batch <= 900 * (1 - fitting.LEFT_OVER), "with something left over, as it was not tried"
    assert not fit.is_tried and "too long to try" in str(fit)


def test_where_there_is_time_for_one_large_trial_the_small_ones_between_are_left_out(find, monkeypatch):
    monkeypatch.setattr(fitting, "BUDGET", 3.0)
    fit = find(child(f"time.sleep(0.02 * pictures); {grows(10)}"))
    assert fit.is_tried and fit.batch == 90
    assert 64 not in {trial.pictures for trial in fit.trials}


def test_on_a_gpu_nothing_is_drawn_on_for_want_of_time(find, monkeypatch):
    monkeypatch.setattr(fitting, "BUDGET", 1.5)
    fit = find(child(f"time.sleep(0.1 * pictures); {grows(1)}", "gpu(0)"))
    assert fit.batch in {trial.pictures for trial in fit.trials} and fit.batch <= 8


def test_no_process_is_left_behind_when_a_trial_hangs(find, monkeypatch, tmp_path):
    monkeypatch.setattr(fitting, "PATIENCE", 1.5)
    note = tmp_path / "pid"
    with pytest.raises(FitError, match="not done after 2 s"):
        find(child(f"open({str(note)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)"))
    assert not psutil.pid_exists(int(note.read_text()))


def test_the_other_process_is_told_of_one_device_and_no_cluster(find, monkeypatch, tmp_path):
    monkeypatch.setenv("DMLC_ROLE", "worker")
    note = tmp_path / "task.json"
    body = f"open({str(note)!r}, 'w').write(json.dumps([task, sorted(os.environ)]))\nsay(peak=10**12)"  # none fits
    with pytest.raises(FitError):
        find(child(body), config("device=[cpu:1,cpu:0]", "train.accumulate=3"))
    task, environment = fitting.json.loads(note.read_text())
    assert task["config"]["device"] == "cpu:1" and task["config"]["kvstore"] is None
    assert task["config"]["train"]["accumulate"] == 1
    assert task["class_count"] == SPECIES and task["max_boxes"] == 4
    assert "DMLC_ROLE" not in environment and "PATH" in environment


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        pytest.param(
            child(grows(100)),
            "train.batch is 8: 8 pictures at once on cpu(0) take 0.9 GB (100 MB a picture, 0.1 GB besides) of 1 GB; "
            "tried 1, 2, 4, 8",
            id="a CPU",
        ),
        pytest.param(
            child(runs_out(3), "gpu(1)"),
            "train.batch is 2: 2 pictures at once on gpu(1) take 0.002 GB (1 MB a picture, 0 GB besides); "
            "tried 1, 2, 4 (too many), 3",
            id="a GPU",
        ),
    ],
)
def test_the_finding_is_told_in_a_sentence(find, command, sentence):
    assert str(find(command)) == sentence


@pytest.mark.parametrize("max_boxes", [1, 7])
def test_made_up_pictures_are_a_batch_as_the_engine_gets_it(max_boxes):
    batch = fitting._made_up(40, 3, max_boxes, 5)
    assert batch.images.shape == (5, 40, 40, 3) and batch.images.dtype == np.uint8
    assert batch.truth.shape == (5, max_boxes, 5) and batch.truth.dtype == np.float32
    assert len(batch.ids) == 5
    for rows in batch.truth:
        valid = rows[:, 0] >= 0
        assert valid[0] and (np.diff(valid.astype(int)) <= 0).all(), "padding only at the end"
        assert set(rows[valid, 0]) <= {0, 1, 2}
        corners = rows[valid, 1:]
        assert (corners >= 0).all() and (corners <= 1).all() and (corners[:, 2:] > corners[:, :2]).all()


@pytest.mark.skipif(not os.path.exists("/proc/self/oom_score_adj"), reason="needs Linux")
def test_the_other_process_offers_itself_where_memory_runs_out():
    code = "from ena24ssd.fitting import _volunteer; _volunteer(); print(open('/proc/self/oom_score_adj').read())"
    assert fitting.subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split() == [
        "1000"
    ]


@pytest.mark.slow
def test_with_the_real_network_a_few_pictures_fit_into_little_memory():
    pytest.importorskip("mxnet")
    # MXNet alone takes .3, and .04 more beside the package onnx, which it imports where it is.
    small = config("model.width=0.05", "data.image_side=64", "device=cpu", memory=0.45)
    fit = find_batch(small, SPECIES, 4, 2, quiet=True)
    assert fit.device == "cpu(0)" and 1 <= fit.batch <= 2 and fit.is_tried
    ran = [trial for trial in fit.trials if trial.failure is None]
    assert ran and all(100 * MB < trial.peak <= fit.limit for trial in ran)


@pytest.mark.parametrize(
    ("fault", "is_memory"),
    [
        (MemoryError(), True),
        (RuntimeError("[12:00] src/storage: cudaMalloc retry failed: out of memory"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("shapes differ"), False),
        (EngineError("no such device"), False),
        (EngineError("MXNet gave up: cudaMalloc retry failed: out of memory"), True),
    ],
    ids=str,
)
def test_the_other_process_tells_lack_of_memory_from_other_faults(monkeypatch, tmp_path, fault, is_memory):
    def fail(*_):
        raise fault

    code = fitting.check_config({}).model_dump(mode="json")
    task = {"config": code, "class_count": 1, "max_boxes": 1, "pictures": 1}
    with (tmp_path / "in").open("w+") as source, (tmp_path / "out").open("w+") as target:
        source.write(fitting.json.dumps(task))
        source.seek(0)
        monkeypatch.setattr(fitting, "load_engine", fail)
        monkeypatch.setattr(fitting, "_volunteer", lambda: None)
        monkeypatch.setattr(fitting.os, "dup2", lambda *_: None)
        monkeypatch.setattr(fitting.sys, "stdin", source)
        monkeypatch.setattr(fitting.sys, "stdout", target)
        fitting.main()
        target.seek(0)
        answer = fitting.json.load(target)
    assert answer["is_memory"] == is_memory
    assert answer["is_engine"] == (isinstance(fault, EngineError) and not is_memory)
    assert str(fault) in answer["failure"]
