"""What does a fault cost a run?  A clear message or nothing, and never what was kept before."""

from __future__ import annotations

import errno
import functools
import importlib
import importlib.util
import os
import signal
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorboard", reason="no extra with an engine is installed")

from same_runs import EPOCHS, SMALL, STEPS, assert_same

from ena24ssd import cli, learning
from ena24ssd.config import ConfigError, override_config, read_config
from ena24ssd.data import Batch
from ena24ssd.engine import ENGINES, EngineError, load_engine
from ena24ssd.epoch import DivergedError
from ena24ssd.evaluation import measure
from ena24ssd.runs import Run, RunError, open_run
from ena24ssd.stopping import StoppedError
from ena24ssd.training import resume, train

pytestmark = pytest.mark.slow


FRAMEWORKS = {"gluon": "mxnet", "pytorch": "torch"}
both = pytest.mark.parametrize("engine", FRAMEWORKS, indirect=True)
ENGINE = "the engine"  # stands for its class in tables


@pytest.fixture
def engine(request) -> str:
    """The first that is installed, but for tests of `both`: most of what can go wrong is outside of the engines."""
    installed = [name for name, framework in FRAMEWORKS.items() if importlib.util.find_spec(framework)]
    name = getattr(request, "param", (installed or ["gluon"])[0])
    pytest.importorskip(FRAMEWORKS[name], reason=f"the {name} extra is not installed", exc_type=ImportError)
    return name


@pytest.fixture
def engine_class(engine) -> type:
    module, name = ENGINES[engine]
    return getattr(importlib.import_module(module), name)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def small(engine, scenes, cache) -> list[str]:
    return [f"data.path={scenes}", f"data.cache={cache}", *SMALL, f"engine={engine}", "precision=float32"]


@pytest.fixture
def config(small):
    return read_config(None, small)


@pytest.fixture(scope="module")
def train_whole(tmp_path_factory):
    @functools.cache
    def train_once(small: tuple[str, ...]) -> Path:
        return train(read_config(None, small), tmp_path_factory.mktemp("whole") / "run", quiet=True).folder

    return train_once


@pytest.fixture
def whole(train_whole, small) -> Path:
    """A run to which nothing happened."""
    return train_whole(tuple(small))


class Fault(Exception):
    """Not to be caught by anything but these tests."""


def at_call(monkeypatch, owner, name: str, number: int, happen) -> None:
    """Let something happen at the start of one call of a function; the others are as they were."""
    really, calls = getattr(owner, name), []

    def counted(*positional, **named):
        calls.append(None)
        if len(calls) == number:
            happen(*positional, **named)
        return really(*positional, **named)

    monkeypatch.setattr(owner, name, counted)


def fail_with(error: BaseException):
    def fail(*_positional, **_named):
        raise error

    return fail


def interrupt(number: int):
    return lambda *_positional, **_named: os.kill(os.getpid(), number)


NO_SPACE = OSError(errno.ENOSPC, "No space left on device")


# -- signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "owner, name, call, where",
    [
        (ENGINE, "train_step", 1, "epoch 0, after step 1 of 6"),
        (ENGINE, "train_step", STEPS + 3, "epoch 1, after step 3 of 6"),
        (ENGINE, "train_step", 2 * STEPS, "epoch 1, after step 6 of 6"),
        (ENGINE, "measure_step", 2, "epoch 0, after step 6 of 6"),
        (learning, "measure", 4, "epoch 1, after step 6 of 6"),
        (Run, "add_rows", 2, "epoch 2, after step 0 of 6"),
        (learning, "measure", 2 * EPOCHS + 2, "the closing, after the last epoch"),
    ],
    ids=[
        *("in the first step", "amid an epoch", "in an epoch's last step", "while measuring", "between two splits"),
        *("while an epoch is written down", "in the closing"),
    ],
)
def test_a_signal_ends_training_at_a_safe_point(
    config, whole, engine_class, tmp_path, monkeypatch, number, owner, name, call, where
):
    owner = engine_class if owner == ENGINE else owner
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    with monkeypatch.context() as patch:
        at_call(patch, owner, name, call, interrupt(number))
        with pytest.raises(StoppedError, match=rf"{where}.*ena24ssd train --resume {tmp_path}") as stopped:
            train(config, tmp_path / "run", quiet=True)
    assert stopped.value.signal_number == number
    assert {each: signal.getsignal(each) for each in before} == before
    resume(tmp_path / "run", quiet=True)
    assert_same(tmp_path / "run", whole)


def test_a_second_signal_ends_training_at_once_and_costs_no_more_than_a_step(
    config, whole, tmp_path, engine_class, monkeypatch
):
    def twice(*_positional, **_named):  # to this very thread, or both might come as one
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        at_call(patch, engine_class, "train_step", STEPS + 3, twice)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "run", quiet=True)
    standing = open_run(tmp_path / "run").load_state()[0].standing
    assert (standing.epoch, standing.step) == (1, 2)
    resume(tmp_path / "run", quiet=True)
    assert_same(tmp_path / "run", whole)


def test_the_command_says_how_to_go_on_and_its_exit_code_names_the_signal(
    small, engine_class, tmp_path, monkeypatch, capsys
):
    with monkeypatch.context() as patch:
        at_call(patch, engine_class, "train_step", 2, interrupt(signal.SIGTERM))
        assert cli.main(["train", *small, "--quiet", "--out", str(tmp_path / "run")]) == 128 + signal.SIGTERM
    assert f"nothing is lost: ena24ssd train --resume {tmp_path / 'run'}" in capsys.readouterr().err
    assert cli.main(["train", "--resume", str(tmp_path / "run"), "--quiet", "train.epochs=1"]) == 0
    assert "checkpoint of epoch 0" in capsys.readouterr().out


@both
def test_training_outside_the_main_thread_works_without_signals(config, whole, tmp_path):
    thread = threading.Thread(target=train, args=(config, tmp_path / "run"), kwargs={"quiet": True})
    thread.start()
    thread.join(timeout=120)
    assert_same(tmp_path / "run", whole)


@pytest.mark.parametrize(
    "engine, choices",
    [
        ("gluon", ["optim.schedule=plateau", "optim.lr=0.5", "optim.name=sgd"]),
        ("gluon", ["optim.schedule=divide_when_loss_rises", "optim.lr=0.5", "optim.name=sgd"]),
        ("gluon", ["optim.schedule=step", "optim.clip_norm=0.5"]),
        ("gluon", ["train.accumulate=2", "train.drop_last=true", "train.batch=5"]),
        ("pytorch", ["train.accumulate=2", "train.drop_last=true", "train.batch=5", "optim.clip_norm=0.5"]),
        ("gluon", ["device=[cpu:0,cpu:1]", "data.workers=0"]),
        ("gluon", ["train.repeat_below=0.9", "loss.species_weights=balanced"]),
    ],
    ids=[
        *("plateau", "the post's rule", "steps, short gradients", "portions", "portions with pytorch"),
        *("two devices", "rare species"),
    ],
    indirect=["engine"],
)
def test_a_stop_changes_nothing_whatever_was_chosen(config, tmp_path, engine_class, monkeypatch, choices):
    chosen = override_config(config, choices)
    train(chosen, tmp_path / "whole", quiet=True)
    for call in (2, STEPS + 2):
        with monkeypatch.context() as patch:
            at_call(patch, engine_class, "train_step", call, interrupt(signal.SIGTERM))
            with pytest.raises(StoppedError):
                if (tmp_path / "run").exists():
                    resume(tmp_path / "run", quiet=True)
                else:
                    train(chosen, tmp_path / "run", quiet=True)
    resume(tmp_path / "run", quiet=True)
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_balanced_species_and_repeats_reach_training(config, tmp_path):
    run = train(override_config(config, ["train.repeat_below=0.9", "loss.species_weights=balanced"]), tmp_path / "run")
    weights = open_run(run.folder).config.loss.species_weights
    assert weights.keys() == set(run.class_names) and len(set(weights.values())) > 1
    assert run.load_state()[0].optimizer["updates"] > EPOCHS * STEPS, "an epoch shows some pictures twice"


# -- disks ------------------------------------------------------------------------------------------------------------

KILLED_WHILE_KEEPING = """
import os, signal, sys
from ena24ssd import cli
owner, name, call = sys.argv[1:4]
really, calls = getattr(os, name), []
def counted(*words, **more):
    if any(".safetensors" in str(word) for word in words):
        calls.append(None)
        if len(calls) == int(call):
            if name == "fsync":
                os.ftruncate(words[0], 1000)
            os.kill(os.getpid(), signal.SIGKILL)
    return really(*words, **more)
if name == "fsync":  # it gets a number, not a name
    def counted(handle, really=really):
        if ".safetensors" in os.readlink(f"/proc/self/fd/{handle}"):
            calls.append(None)
            if len(calls) == int(call):
                os.ftruncate(handle, 1000)
                os.kill(os.getpid(), signal.SIGKILL)
        return really(handle)
setattr(os, name, counted)
sys.exit(cli.main(sys.argv[4:]))
"""


@pytest.mark.parametrize(
    "name, call",
    [("fsync", 9), ("replace", 10), ("replace", 17), ("link", 4)],
    ids=["half of it is written", "before it takes its name", "as the one before gets another name", "before that"],
)
def test_a_kill_while_a_state_is_written_loses_no_more_than_that(small, whole, tmp_path, name, call):
    run = tmp_path / "run"
    words = ["train", *small, "--quiet", "--out", str(run)]
    script = [sys.executable, "-c", KILLED_WHILE_KEEPING, "os", name, str(call), *words]
    assert subprocess.run(script, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"}).returncode == -signal.SIGKILL
    state, doubt = open_run(run).load_state()
    assert state is not None and doubt is None
    resume(run, quiet=True)
    assert_same(run, whole)
    assert not list(run.glob(".*part")), "what the kill left half-written is swept away"


@pytest.mark.parametrize(
    "owner, name, call, kept",
    [
        (Run, "keep_state", STEPS + 5, (1, 3)),
        (Run, "add_rows", 2, (1, 6)),
        (Run, "add_speed", 3, (2, 6)),
        (Run, "keep_best", 1, (1, 0)),
    ],
    ids=["for the state", "for the figures", "for the times", "for the best weights"],
)
def test_a_full_disk_stops_the_run_and_room_lets_it_go_on(
    config, whole, tmp_path, monkeypatch, owner, name, call, kept
):
    with monkeypatch.context() as patch:
        at_call(patch, owner, name, call, fail_with(NO_SPACE))
        with pytest.raises(OSError, match=rf"No space left.*kept before.*ena24ssd train --resume {tmp_path}"):
            train(config, tmp_path / "run", quiet=True)
    standing = open_run(tmp_path / "run").load_state()[0].standing
    assert (standing.epoch, standing.step) == kept
    resume(tmp_path / "run", quiet=True)
    assert_same(tmp_path / "run", whole)


def test_a_disk_with_room_for_less_than_a_checkpoint_ends_in_a_message(small, tmp_path):
    """A limit on the size of files is a disk that is full for all but the small ones, the curves' among them."""
    limited = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)); "
    limited += "from ena24ssd import cli; sys.exit(cli.main(sys.argv[1:]))"
    run = tmp_path / "run"
    words = ["train", *small, "--quiet", "--out", str(run)]
    done = subprocess.run([sys.executable, "-c", limited, *words], timeout=120, capture_output=True, text=True)
    assert done.returncode == 1
    assert "File too large" in done.stderr and f"--resume {run}" in done.stderr and "Traceback" not in done.stderr
    assert not list(run.glob(".*part"))
    resume(run, ["train.epochs=1"], quiet=True)
    assert open_run(run).is_finished


def writer_of(engine: str) -> tuple[type, str]:
    """The method that writes an event."""
    if engine == "gluon":
        from ena24ssd.gluon.board import event_file_writer  # mxboard, with the messages that it needs

        return event_file_writer.EventsWriter, "write_event"
    from torch.utils.tensorboard import RecordWriter

    return RecordWriter, "write"


@both
@pytest.mark.parametrize("call", [1, 60], ids=["from the first byte", "later"])
def test_curves_that_cannot_be_written_cost_only_the_curves(config, engine, whole, tmp_path, monkeypatch, capsys, call):
    at_call(monkeypatch, *writer_of(engine), call, fail_with(NO_SPACE))
    train(config, tmp_path / "run", quiet=True)
    assert_same(tmp_path / "run", whole, board=False)
    said = capsys.readouterr()
    assert "Training goes on without TensorBoard's curves" in said.out + said.err


@pytest.mark.parametrize("place", ["a file", "a folder in a file"])
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_done(config, tmp_path, place):
    (tmp_path / "file").write_text("mine")
    out = tmp_path / "file" / "run" if place == "a folder in a file" else tmp_path / "file"
    with pytest.raises((OSError, RuntimeError, ValueError), match="file"):
        train(config, out, quiet=True)
    assert (tmp_path / "file").read_text() == "mine"


# -- damage -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def stopped(config, tmp_path, engine_class, monkeypatch) -> Run:
    """A run that was stopped in its second epoch, after its fourth step."""
    with monkeypatch.context() as patch:
        at_call(patch, engine_class, "train_step", STEPS + 4, interrupt(signal.SIGTERM))
        with pytest.raises(StoppedError):
            train(config, tmp_path / "run", quiet=True)
    return open_run(tmp_path / "run")


def flip_a_bit(path: Path, where: float = 0.7) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * where)] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("damage", ["a bit", "half of it", "all of it", "it is gone"])
def test_a_damaged_state_gives_way_to_the_one_before(stopped, whole, capsys, damage):
    last = stopped.checkpoint_file("last")
    if damage == "a bit":
        flip_a_bit(last)
    elif damage == "it is gone":
        last.unlink()
    else:
        content = last.read_bytes()
        last.unlink()  # the one before may be the same file
        last.write_bytes(content[: len(content) // 2] if damage == "half of it" else b"")
    resume(stopped.folder, quiet=True)
    said = capsys.readouterr()
    assert damage == "it is gone" or "previous.safetensors instead" in said.out + said.err
    assert_same(stopped.folder, whole)


def test_where_no_state_is_whole_the_run_is_refused_and_stays_as_it_is(stopped):
    for name in ("last", "previous"):
        flip_a_bit(stopped.checkpoint_file(name))
    figures = stopped.metrics_file.read_bytes()
    with pytest.raises(RunError, match=r"previous\.safetensors.*(digest|whole)"):
        resume(stopped.folder, quiet=True)
    assert stopped.metrics_file.read_bytes() == figures
    assert open_run(stopped.folder).load_checkpoint("best").epoch == 0


def test_damaged_best_weights_are_replaced_by_the_next_epochs(stopped, capsys):
    flip_a_bit(stopped.checkpoint_file("best"))
    resume(stopped.folder, quiet=True)
    assert "best.safetensors" in (said := capsys.readouterr()).out + said.err
    assert open_run(stopped.folder).load_checkpoint("best").epoch >= 1


def test_a_damaged_cache_is_mended(stopped, cache, whole):
    (pixels,) = [file for file in cache.glob("*.npy") if "-48px-" in file.name]
    flip_a_bit(pixels, 0.4)
    resume(stopped.folder, quiet=True)
    assert_same(stopped.folder, whole)


def test_a_damaged_row_of_figures_is_named(stopped):
    stopped.metrics_file.write_text('{"epoch": 0,\n' + stopped.metrics_file.read_text())
    with pytest.raises(RunError, match=r"metrics\.jsonl: line 1"):
        resume(stopped.folder, quiet=True)


# -- pictures and workers ---------------------------------------------------------------------------------------------


@pytest.fixture
def own_scenes(scenes, tmp_path) -> Path:
    """A copy of the scenes of which pictures may be deleted."""
    import shutil

    return Path(shutil.copytree(scenes, tmp_path / "scenes"))


def test_a_picture_deleted_while_training_goes_on_costs_nothing(
    config, own_scenes, tmp_path, engine_class, monkeypatch
):
    config = override_config(config, [f"data.path={own_scenes}", f"data.cache={tmp_path / 'cache'}"])
    pictures = sorted(own_scenes.rglob("*.jpg"))

    def delete(*_positional, **_named):
        for picture in pictures:
            picture.unlink()

    at_call(monkeypatch, engine_class, "train_step", 3, delete)
    run = train(config, tmp_path / "run", quiet=True)
    assert run.is_finished and run.sheet_file.exists()


def test_a_run_whose_pictures_are_partly_gone_goes_on_and_says_so(
    config, own_scenes, tmp_path, engine_class, monkeypatch, capsys
):
    config = override_config(config, [f"data.path={own_scenes}", f"data.cache={tmp_path / 'cache'}"])
    with monkeypatch.context() as patch:
        at_call(patch, engine_class, "train_step", STEPS + 4, interrupt(signal.SIGTERM))
        with pytest.raises(StoppedError):
            train(config, tmp_path / "run", quiet=True)
    pictures = sorted(own_scenes.rglob("*.jpg"))
    for picture in pictures[::5]:
        picture.unlink()
    assert resume(tmp_path / "run", quiet=True).is_finished
    said = capsys.readouterr()
    assert "pictures of the run's split are gone" in said.out + said.err


def test_a_run_most_of_whose_pictures_are_gone_is_refused(config, own_scenes, tmp_path, engine_class, monkeypatch):
    config = override_config(config, [f"data.path={own_scenes}", f"data.cache={tmp_path / 'cache'}"])
    with monkeypatch.context() as patch:
        at_call(patch, engine_class, "train_step", STEPS + 4, interrupt(signal.SIGTERM))
        with pytest.raises(StoppedError):
            train(config, tmp_path / "run", quiet=True)
    for picture in sorted(own_scenes.rglob("*.jpg"))[2:]:
        picture.unlink()
    with pytest.raises(RunError, match="46 of the 48 pictures"):
        resume(tmp_path / "run", quiet=True)


def test_a_worker_that_dies_is_told_with_step_and_pictures_and_costs_one_step(config, whole, tmp_path, monkeypatch):
    from ena24ssd import data

    with monkeypatch.context() as patch:
        at_call(patch, data, "augment", STEPS + 4, fail_with(MemoryError("no room for a batch")))
        with pytest.raises(MemoryError, match=r"epoch 1, step \d: the batch of pictures .* no room for a batch"):
            train(config, tmp_path / "run", quiet=True)
    resume(tmp_path / "run", quiet=True)
    assert_same(tmp_path / "run", whole)


# -- what is no number ------------------------------------------------------------------------------------------------


@both
def test_a_loss_that_is_no_number_names_step_pictures_and_layer_and_the_state_before_it_is_kept(
    config, whole, tmp_path, engine_class, monkeypatch
):
    def spoil(engine, batch):
        weights = engine.weights()
        weights["class_predict.0.weight"][:] = np.inf
        engine.load_weights(weights)

    with monkeypatch.context() as patch:
        at_call(patch, engine_class, "train_step", STEPS + 4, spoil)
        with pytest.raises(DivergedError) as diverged:
            train(config, tmp_path / "run", quiet=True)
    said = str(diverged.value)
    assert "epoch 1 train, step 4: the loss became nan; first not finite was the weights class_predict.0.weight" in said
    assert sum(image in said for image in open_run(tmp_path / "run").split.train) == 4
    assert f"ena24ssd train --resume {tmp_path / 'run'}" in said
    resume(tmp_path / "run", quiet=True)
    assert_same(tmp_path / "run", whole)


@both
def test_weights_that_are_no_numbers_never_replace_what_is_kept(config, tmp_path, engine_class, monkeypatch):
    """The update after the last finite gradient may overflow, and no loss has seen it yet."""
    weights_of = engine_class.weights

    def weights(engine):
        found = weights_of(engine)
        found["features.bn3.gamma"][0] = np.nan
        return found

    monkeypatch.setattr(engine_class, "weights", weights)
    with pytest.raises(DivergedError, match=r"the weights features\.bn3\.gamma are no longer finite"):
        train(config, tmp_path / "run", quiet=True)
    assert not list((tmp_path / "run").glob("*.safetensors"))


# -- going on otherwise -----------------------------------------------------------------------------------------------


def test_a_run_is_trained_by_one_process_at_a_time(stopped):
    with stopped.held(), pytest.raises(RunError, match="another process is training this run"):
        resume(stopped.folder, quiet=True)


def test_a_full_disk_after_a_damaged_state_leaves_the_good_one(stopped, whole, monkeypatch):
    flip_a_bit(stopped.checkpoint_file("last"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail_with(NO_SPACE))
        with pytest.raises(OSError, match="No space left"):
            resume(stopped.folder, quiet=True)
    resume(stopped.folder, quiet=True)
    assert_same(stopped.folder, whole)


def test_a_resume_that_is_refused_changes_nothing(stopped):
    before = {path.name: path.read_bytes() for path in stopped.folder.iterdir() if path.is_file()}
    for overrides in (["model.width=0.1"], ["loss.species_weights={Zebra: 9}"], ["train.epochs=9", "device=gpu:7"]):
        with pytest.raises((ConfigError, RuntimeError)):
            resume(stopped.folder, overrides, quiet=True)
    with stopped.held(), pytest.raises(RunError):
        resume(stopped.folder, ["train.epochs=9"], quiet=True)
    assert {path.name: path.read_bytes() for path in stopped.folder.iterdir() if path.is_file()} == before


def test_a_run_without_any_state_is_not_begun_anew_over_its_figures(config, tmp_path, engine_class, monkeypatch):
    with monkeypatch.context() as patch:
        at_call(patch, engine_class, "train_step", 2 * STEPS + 2, interrupt(signal.SIGTERM))
        with pytest.raises(StoppedError):
            train(config, tmp_path / "run", quiet=True)
    for name in ("last", "previous"):
        (tmp_path / "run" / f"{name}.safetensors").unlink()
    with pytest.raises(RunError, match="no state to go on from"):
        resume(tmp_path / "run", quiet=True)


@both
def test_an_error_of_the_framework_says_how_to_go_on(config, engine, engine_class, whole, tmp_path, monkeypatch):
    error = RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")
    if engine == "gluon":
        import mxnet

        error = mxnet.MXNetError("cudaMalloc failed: out of memory")
    with monkeypatch.context() as patch:
        at_call(patch, engine_class, "_match", 2 * STEPS, fail_with(error))
        with pytest.raises(EngineError, match=r"out of memory.*; a larger train\.accumulate.*--resume"):
            train(config, tmp_path / "run", quiet=True)
    resume(tmp_path / "run", quiet=True)
    assert_same(tmp_path / "run", whole)


def test_a_rate_too_small_for_float32_is_none(config, tmp_path):
    small = override_config(config, ["optim.lr=1e-38", "optim.warmup=0", "train.epochs=1"])
    assert train(small, tmp_path / "run", quiet=True).is_finished


@pytest.mark.parametrize("engine", ["gluon"], indirect=True)
def test_a_worker_that_was_not_told_of_the_others_is_refused(config, tmp_path, monkeypatch):
    monkeypatch.setenv("DMLC_ROLE", "worker")
    with pytest.raises(EngineError, match="kvstore=dist_sync"):
        train(config, tmp_path / "run", quiet=True)


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["model.width=0.1"], "model.width"),
        (["seed=3"], "seed"),
        (["train.batch=8"], "train.batch"),
        (["data.image_side=64"], "data.image_side"),
        (["optim.name=sgd"], "optim.name"),
        (["optim.rate=1"], "no such field"),
    ],
)
def test_a_change_that_would_make_it_another_run_is_refused(stopped, overrides, words):
    with pytest.raises(ConfigError, match=words):
        resume(stopped.folder, overrides, quiet=True)


def test_a_finished_run_is_left_alone_unless_it_gets_more_to_do(config, tmp_path):
    shorter = config.model_copy(update={"train": config.train.model_copy(update={"epochs": 2})})
    run = train(shorter, tmp_path / "run", quiet=True)
    with pytest.raises(RunError, match="has finished"):
        resume(run.folder, quiet=True)
    longer = resume(run.folder, ["train.epochs=3"], quiet=True)
    assert [row["epoch"] for row in longer.rows() if row["split"] == "train" and "closing" not in row] == [0, 1, 2]
    assert sum(row.get("closing", False) for row in longer.rows()) == 3
    assert open_run(run.folder).config.train.epochs == 3


def test_a_resume_into_nothing_says_so(tmp_path, capsys):
    assert cli.main(["train", "--resume", str(tmp_path / "absent")]) == 1
    assert "not a run folder" in capsys.readouterr().err
    assert cli.main(["train", "preset.yaml", "--resume", str(tmp_path)]) == 1
    assert "leave out the preset" in capsys.readouterr().err


# -- ends -------------------------------------------------------------------------------------------------------------


def test_a_run_whose_time_is_up_keeps_its_state_closes_and_can_be_given_more(config, whole, tmp_path, monkeypatch):
    clock = iter(range(10_000))
    monkeypatch.setattr(learning.time, "monotonic", lambda: float(next(clock)))
    run = train(
        config.model_copy(update={"train": config.train.model_copy(update={"max_minutes": 0.5})}),
        tmp_path / "run",
        quiet=True,
    )
    standing = run.load_state()[0].standing
    assert (standing.epoch, standing.step) < (EPOCHS, 0) and run.is_finished
    monkeypatch.undo()
    resume(run.folder, ["train.max_minutes=null"], quiet=True)
    assert_same(run.folder, whole)


def test_training_ends_once_validation_has_not_improved_for_long_enough(config, tmp_path, monkeypatch):
    scores = iter([0.1, 0.3, 0.2, 0.3, 0.9, 0.9, 0.9])  # a tie is no progress
    really = learning.figures_of
    of_validation = []

    def measured(engine, examples, config, names, name, **options):
        of_validation[:] = ["validation" in name and "closing" not in name]
        return measure(engine, examples, config, names, name, **options)

    def figures_of(*measured, **options):
        return really(*measured, **options) | ({"detection/map50": next(scores)} if of_validation[0] else {})

    monkeypatch.setattr(learning, "measure", measured)
    monkeypatch.setattr(learning, "figures_of", figures_of)
    patient = config.model_copy(update={"train": config.train.model_copy(update={"patience": 2, "epochs": 9})})
    run = train(patient, tmp_path / "run", quiet=True)
    assert run.load_checkpoint("best").epoch == 3 and run.load_state()[0].standing.epoch == 4


# -- the post's rule --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule, freezes", [("divide_when_loss_rises", True), ("plateau", False)])
def test_the_posts_rule_ends_all_learning_and_the_sound_one_does_not(
    engine, scenes, cache, tmp_path, schedule, freezes
):
    """ERRATA B1: after the first epoch that is no better, the rate is divided at every batch."""
    blog = Path(__file__).parents[1] / "configs" / "blog.yaml"
    assert read_config(blog).optim.schedule == "divide_when_loss_rises"
    small = ["model.width=0.04", "data.image_side=48", "train.batch=1", "train.epochs=1", "device=cpu", "optim.lr=1"]
    small += ["log.graph=false", "log.pictures=0", "log.histograms=false", f"data.path={scenes}", f"data.cache={cache}"]
    small += [f"engine={engine}"]
    run = train(read_config(blog, [*small, f"optim.schedule={schedule}"]), tmp_path / "run", quiet=True)
    weights = [run.load_state()[0].weights]
    for epochs in range(2, 9):
        run = resume(run.folder, [f"train.epochs={epochs}"], quiet=True)
        weights.append(run.load_state()[0].weights)
    losses = [row["anchor/log_loss"] for row in run.rows() if row["split"] == "train" and "closing" not in row]
    rise = next(epoch for epoch in range(1, 6) if losses[epoch] >= losses[epoch - 1])
    learnt = [name for name in weights[0] if "running" not in name]
    moved = [any(not np.array_equal(one[name], other[name]) for name in learnt) for one, other in pairwise(weights)]
    assert all(moved[: rise + 1]), "until then it learns"
    assert any(moved[rise + 1 :]) != freezes


# -- which layer was the first ----------------------------------------------------------------------------------------


def a_batch(seed: int = 0) -> Batch:
    random = np.random.default_rng(seed)
    truth = np.full((4, 2, 5), -1, dtype=np.float32)
    truth[:, 0] = [1, 0.2, 0.3, 0.6, 0.8]
    images = random.integers(0, 255, (4, 48, 48, 3), dtype=np.uint8)
    return Batch(images, truth, tuple("abcd"))


SPOILT = {
    "nothing": ({}, "no layer by itself, but the sum over all layers or workers"),
    "a weight": ({"bbox_predict.9.weight": np.nan}, "the weights bbox_predict.9.weight"),
    "a running variance": ({"features.bn2.running_var": np.inf}, "the weights features.bn2.running_var"),
    "a convolution's output": ({"features.conv31.weight": 3e38}, "the output of features.conv31"),
    "a normalisation's output": (
        {"features.conv31.weight": 0, "features.conv31.bias": 2, "features.bn1.gamma": 3e38},
        "the output of features.bn1",
    ),
    "two outputs": ({"features.bn4.gamma": 3e38, "features.conv51.weight": 3e38}, "the output of features.conv51"),
    "the loss": ({"bbox_predict.9.bias": 3e38}, "the box loss"),
    "a gradient": (
        {"bbox_predict.7.gamma": 0, "bbox_predict.7.beta": 1e-30, "bbox_predict.9.weight": 3e8},
        "the gradient of bbox_predict.7.gamma",
    ),
}


@both
@pytest.mark.parametrize("spoilt, words", SPOILT.values(), ids=SPOILT)
def test_the_first_place_that_is_not_finite_is_named(config, spoilt, words):
    box_weight = 1e33 if "gradient" in words else 1
    choices = ["model.frozen_statistics=true", f"loss.box_weight={box_weight}"]
    engine = load_engine(override_config(config, choices), ["fox", "deer"])
    weights = engine.weights()
    for name, value in spoilt.items():
        weights[name] = np.full_like(weights[name], value)
    engine.load_weights(weights)
    assert engine.find_fault(a_batch(), learns=True).replace("layers, devices or", "layers or") == words


def test_a_search_leaves_the_network_as_it_is(config):
    torch = pytest.importorskip("torch", reason="the pytorch extra is not installed")
    from ena24ssd.pytorch.faults import find_fault

    engine = load_engine(override_config(config, ["engine=pytorch"]), ["fox", "deer"])
    engine.train_step(a_batch()).read()
    net = engine.net
    net.train()
    net.features.bn3.eval()
    for layer in net.modules():
        layer.workers = 7

    def all_of_it() -> dict[str, object]:
        tensors = net.state_dict() | {f"gradient {name}": each.grad for name, each in net.named_parameters()}
        return {name: (tensor.data_ptr(), tensor.numpy(force=True).tobytes()) for name, tensor in tensors.items()} | {
            f"state of {name}": (layer.training, layer.workers, len(layer._forward_hooks))
            for name, layer in net.named_modules()
        }

    def forward():
        _, logits, offsets = net(torch.from_numpy(a_batch(1).images).permute(0, 3, 1, 2) / 255)
        return logits.square().sum() + offsets.sum(), {"scores": logits}

    def fail():
        forward()
        raise RuntimeError("out of something\nout of memory")

    before = all_of_it()
    for learns in (True, False):
        assert find_fault(net, forward, learns) is None
        assert find_fault(net, fail, learns) == "a layer that could not be looked for (out of memory)"
    assert all_of_it() == before
