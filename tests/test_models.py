"""Is it known what a model is before it is loaded, and is what cannot be used refused in a sentence?"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from predicting import stub_model

from ena24ssd.calibration import Calibration
from ena24ssd.engine import EngineError
from ena24ssd.models import THRESHOLDS, load_network, open_model
from ena24ssd.thresholds import Thresholds

CHOSEN = Calibration(
    temperature=1.0,
    shift=0.0,
    note=None,
    threshold=0.4,
    species_thresholds={"Ox": 0.3, "Emu": None},
    review_threshold=0.1,
    recall=0.99,
    split="validation",
    pictures=9,
    detections=20,
    epoch=7,
    reading={"nms": 0.5},
)


def calibrated(**changes):
    return replace(stub_model(), calibration=replace(CHOSEN, **changes))


@pytest.mark.parametrize(
    "model, choice, expected",
    [
        (stub_model(), None, Thresholds(0.5)),
        (stub_model(), 0.25, Thresholds(0.25)),
        (stub_model(), 0, Thresholds(0)),
        (calibrated(), None, Thresholds(0.4)),
        (calibrated(), "best", Thresholds(0.4)),
        (calibrated(), "species", Thresholds(0.4, {"Ox": 0.3})),
        (calibrated(), "review", Thresholds(0.1)),
        (calibrated(), 0.9, Thresholds(0.9)),
        (calibrated(), np.float32(0.25), Thresholds(0.25)),
        (calibrated(threshold=None), None, Thresholds(0.5)),
        (calibrated(threshold=None), "review", Thresholds(0.1)),
    ],
    ids=[
        "nothing chosen: the config's score",
        "a score",
        "a whole number",
        "chosen: best",
        "best by name",
        "each species' own, where it has one",
        "review",
        "a score, though others were chosen",
        "a score of NumPy",
        "nothing was right: the config's score",
        "review does not need the best",
    ],
)
def test_from_which_score_on_detections_count(model, choice, expected):
    assert model.thresholds(choice) == expected


@pytest.mark.parametrize(
    "model, choice, words",
    [
        (calibrated(), "finest", "threshold 'finest' is not known; give a score, or one of best, species, review"),
        (calibrated(), 1.5, "threshold is 1.5"),
        (calibrated(), float("nan"), "threshold is nan"),
        *((stub_model(), name, f"no threshold '{name}', because nothing was calibrated") for name in THRESHOLDS),
        (calibrated(threshold=None), "species", "no threshold 'species'"),
        (calibrated(review_threshold=None), "review", "no threshold 'review'"),
    ],
)
def test_thresholds_that_are_not_there_are_refused(model, choice, words):
    with pytest.raises(ValueError, match=words):
        model.thresholds(choice)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda path: None, id="nothing there"),
        pytest.param(lambda path: path.mkdir(), id="an empty folder"),
        pytest.param(lambda path: path.write_bytes(b"\x08\x07onnx"), id="a model without a sidecar"),
        pytest.param(lambda path: os.mkfifo(path), id="a pipe"),
        pytest.param(lambda path: (path.mkdir(), (path / "config.yaml").write_text("seed: [")), id="a broken run"),
        pytest.param(lambda path: (path.mkdir(), (path / "config.yaml").write_text("")), id="a run without weights"),
        pytest.param(lambda path: path.symlink_to(path), id="a link to itself"),
    ],
)
def test_what_is_no_model_is_refused_in_a_sentence(tmp_path, make):
    path = tmp_path / "model"
    make(path)
    with pytest.raises((ValueError, OSError)) as refused:
        open_model(path)
    said = str(refused.value)
    assert "model" in said and len(said) < 600


def test_weights_run_with_no_runtime_of_graphs():
    with pytest.raises(EngineError, match="stub: engine openvino cannot be had; weights run with gluon or pytorch"):
        load_network(stub_model(), engine="openvino")


@pytest.fixture
def run(trained_run, tmp_path) -> Path:
    """A copy, to be damaged."""
    return Path(shutil.copytree(trained_run.folder, tmp_path / "run"))


@pytest.mark.slow
def test_a_run_says_what_it_is(run, trained_run):
    model = open_model(str(run))
    best = trained_run.load_checkpoint("best")
    assert (model.path, model.class_names, model.epoch) == (run, trained_run.class_names, best.epoch)
    weights = trained_run.checkpoint_file("best").read_bytes()
    assert model.digest == hashlib.sha256(weights).hexdigest()
    assert model.calibration is not None and model.calibration.epoch == best.epoch
    assert open_model(run, "last").epoch == 2


@pytest.mark.slow
def test_choices_that_were_made_for_other_weights_do_not_count(run):
    file = run / "calibration.json"
    document = json.loads(file.read_text())
    file.write_text(json.dumps(document | {"epoch": document["epoch"] + 5}))
    model = open_model(run)
    assert model.calibration is None
    assert model.thresholds() == Thresholds(model.config.evaluation.score)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["truncated", "empty", "other bytes", "gone", "a folder"])
def test_damaged_weights_are_refused_in_a_sentence(run, trained_run, damage):
    file = run / trained_run.checkpoint_file("best").relative_to(trained_run.folder)
    content = file.read_bytes()
    file.unlink()
    if damage == "a folder":
        file.mkdir()
    elif damage != "gone":
        file.write_bytes({"truncated": content[: len(content) // 2], "empty": b""}.get(damage, b"\xff" * len(content)))
    with pytest.raises((ValueError, OSError)) as refused:
        load_network(open_model(run))
    said = str(refused.value)
    assert file.name in said or "run" in said
    assert len(said) < 600 and "\n" not in said


@pytest.mark.slow
def test_class_names_that_are_not_those_of_the_weights_are_refused(run):
    names = json.loads((run / "classes.json").read_text())
    (run / "classes.json").write_text(json.dumps([*names, "Yeti"]))
    with pytest.raises((ValueError, EngineError), match=r"class_predict|classes|Yeti|species"):
        load_network(open_model(run))


@pytest.mark.slow
def test_a_device_that_is_none_is_refused_before_the_weights_are_loaded(run):
    with pytest.raises((EngineError, ValueError), match="toaster"):
        load_network(open_model(run), device="toaster")
