"""Is what a run keeps whole, and what does a damaged one say?"""

from __future__ import annotations

import json
import math
import os

import numpy as np
import pytest

from ena24ssd.checkpoints import read_checkpoint, write_checkpoint
from ena24ssd.config import RunConfig, read_config
from ena24ssd.files import replace_file
from ena24ssd.runs import Checkpoint, RunError, Standing, State, create_run, open_run
from ena24ssd.splits import Split

SPLIT = Split(("a", "b"), ("c",), ())


@pytest.fixture
def run(tmp_path):
    config = read_config(overrides=["data.path=/somewhere", "optim.lr=0.123"])
    return create_run(tmp_path / "run", config, ("Bird", "Red Fox"), SPLIT)


def weights(seed=0):
    random = np.random.default_rng(seed)
    return {"a.weight": random.normal(size=(3, 2)).astype("float32"), "a.bias": np.zeros(3, "float32")}


def test_an_opened_run_is_the_one_that_was_made(run):
    assert open_run(run.folder) == run


def test_a_checkpoint_comes_back_bit_for_bit(run):
    run.keep_best(Checkpoint(weights(), 7, 0.1 + 0.2))
    kept = run.load_checkpoint("best")
    assert (kept.epoch, kept.score) == (7, 0.1 + 0.2)
    assert all(np.array_equal(kept.weights[name], array) for name, array in weights().items())


def test_rows_are_kept_in_order_and_a_value_that_is_no_number_becomes_null(run):
    run.add_rows({"epoch": 0, "split": "train", "loss": 1.5})
    run.add_rows({"epoch": 1, "split": "train", "loss": math.inf})
    assert [row["loss"] for row in run.rows()] == [1.5, None]


def test_a_row_that_a_crash_cut_short_is_no_row(run):
    run.add_rows({"epoch": 0, "split": "train"})
    with open(run.folder / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 1, "lo')
    assert run.rows() == [{"epoch": 0, "split": "train"}]


def test_a_folder_that_holds_a_run_is_never_overwritten(run):
    with pytest.raises(RunError, match="already holds a run"):
        create_run(run.folder, RunConfig(), ("Bird",), SPLIT)


@pytest.mark.parametrize("missing", ["config.yaml", "classes.json", "split.json"])
def test_a_folder_without_a_part_is_no_run(run, missing):
    (run.folder / missing).unlink()
    with pytest.raises(RunError, match=missing):
        open_run(run.folder)


@pytest.mark.parametrize(
    "part, content", [("config.yaml", "optim: {rate: 1}"), ("classes.json", "{"), ("split.json", "[]")]
)
def test_a_damaged_part_is_named(run, part, content):
    (run.folder / part).write_text(content)
    with pytest.raises(RunError, match="not a usable run folder"):
        open_run(run.folder)


@pytest.mark.parametrize("damage", ["absent", "cut short", "not safetensors", "other species"])
def test_a_checkpoint_that_cannot_be_used_says_why(run, damage, tmp_path):
    run.keep_best(Checkpoint(weights(), 0, None))
    path = run.checkpoint_file("best")
    if damage == "absent":
        path.unlink()
    elif damage == "cut short":
        path.write_bytes(path.read_bytes()[:-4])
    elif damage == "not safetensors":
        path.write_bytes(b"\xff" * 100)
    else:
        other = create_run(tmp_path / "other", RunConfig(), ("Dog",), SPLIT)
        other.keep_best(Checkpoint(weights(), 0, None))
        path.write_bytes(other.checkpoint_file("best").read_bytes())
    with pytest.raises(RunError, match=r"best\.safetensors"):
        run.load_checkpoint("best")


def test_a_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    target = tmp_path / "file"
    replace_file(target, b"old")

    def full_disk(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        replace_file(target, b"new")
    assert target.read_bytes() == b"old" and list(tmp_path.iterdir()) == [target]


# -- states -----------------------------------------------------------------------------------------------------------


def state(step: int) -> State:
    return State(
        weights(step), {"a.weight/0": np.full((3, 2), step, "float32")}, Standing(step=step, sums=(0.1, 1e-300))
    )


def test_a_state_comes_back_bit_for_bit_and_the_one_before_stays(run):
    for step in (1, 2, 3):
        run.keep_state(state(step))
    kept, doubt = run.load_state()
    assert doubt is None and kept.standing == Standing(step=3, sums=(0.1, 1e-300))
    assert np.array_equal(kept.weights["a.weight"], weights(3)["a.weight"])
    assert kept.optimizer.keys() == {"a.weight/0"}
    run.checkpoint_file("last").unlink()
    assert run.load_state()[0].standing.step == 2
    assert not list(run.folder.glob(".*.part"))


@pytest.mark.parametrize(
    "moment", ["while it is written", "before the one before is linked", "before it takes its name"]
)
def test_a_good_state_is_there_at_any_moment(run, monkeypatch, moment):
    """Even where the last one had gone bad before."""
    for step in (1, 2):
        run.keep_state(state(step))
    run.checkpoint_file("last").unlink()
    run.checkpoint_file("last").write_bytes(b"gone bad")
    assert "previous.safetensors instead" in run.load_state()[1]
    run.forget_damaged_state()
    owner, name = {
        "while it is written": (os, "fsync"),
        "before the one before is linked": (os, "link"),
        "before it takes its name": (os, "replace"),
    }[moment]

    def full(*_positional, **_named):
        raise OSError(28, "No space left on device")

    run.keep_state(state(3))
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, full)
        patch.setattr("shutil.copyfile", full)
        with pytest.raises(OSError, match="No space left"):
            run.keep_state(state(4))
    kept, doubt = run.load_state()
    assert doubt is None and kept.standing.step == 3


def test_a_state_of_an_older_version_lacks_what_is_new_and_nothing_else(run):
    run.keep_state(state(1))
    arrays, notes = read_checkpoint(run.checkpoint_file("last"))
    known = json.loads(notes["standing"])
    del known["risen_epoch"]
    write_checkpoint(run.checkpoint_file("last"), arrays, notes | {"standing": json.dumps(known | {"unknown": 1})})
    assert run.load_state()[0].standing == state(1).standing


def test_what_was_written_after_the_state_is_cut_off(run):
    run.add_rows({"epoch": 0, "split": "train"}, {"epoch": 1, "split": "train"})
    run.add_rows({"epoch": 0, "split": "train", "closing": True})
    run.add_speed({"epoch": 1, "seconds": 2.0})
    (run.board_folder / "curve").mkdir(parents=True)
    (run.board_folder / "events").write_bytes(b"12345")
    (run.board_folder / "curve" / "events").write_bytes(b"new")
    run.cut_back(Standing(epoch=1, board={"events": 3}))
    assert run.rows() == [{"epoch": 0, "split": "train"}]
    assert run.speed_file.read_bytes() == b""
    assert run.board_sizes() == {"events": 3}


def test_a_run_is_finished_once_every_split_that_was_measured_has_its_closing_row(run):
    run.add_rows({"epoch": 0, "split": "train"}, {"epoch": 0, "split": "validation"})
    assert not run.is_finished
    run.add_rows({"epoch": 0, "split": "train", "closing": True})
    assert not run.is_finished
    run.add_rows({"epoch": 0, "split": "validation", "closing": True})
    assert run.is_finished
