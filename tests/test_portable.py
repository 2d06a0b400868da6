"""Does a model that left the training machine find the same, from Python and from the command line?"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the onnx extra is not installed")
pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")

from ena24ssd import cli
from ena24ssd.config import read_config
from ena24ssd.detections import read_megadetector
from ena24ssd.detector import Detector
from ena24ssd.engine import RUNTIMES
from ena24ssd.exported import Check, write_exported
from ena24ssd.files import replace_file
from ena24ssd.onnx.graph import build_graph, draw_skeleton, shapes_of_weights

SPECIES = ("Red Fox", "White-Tailed Deer", "Wild Turkey")


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """A small model of random weights, made without any training framework."""
    choices = ["data.image_side=64", "model.width=0.05", "model.sizes=[0.2,0.35,0.6]", "model.ratios=[1,1.5]"]
    config = read_config(None, choices)
    random, weights = np.random.default_rng(5), {}
    for name, shape in shapes_of_weights(draw_skeleton(config, len(SPECIES))).items():
        spread = random.normal(0, (2 / max(np.prod(shape[1:]), 1)) ** 0.5, shape) if name.endswith("weight") else 0.0
        around = random.uniform(0.5, 1.5, shape) if name.endswith(("gamma", "running_var")) else spread
        weights[name] = np.broadcast_to(np.asarray(around, np.float32), shape).copy()
    path = tmp_path_factory.mktemp("models") / "random.onnx"
    replace_file(path, build_graph(weights, config, SPECIES).SerializeToString())
    check = Check("nothing", "nothing", 0, "drawn", 0, 0.0, 0.0)
    return write_exported(path, "onnx", config, SPECIES, run="random", checkpoint="best", epoch=0, check=check).path


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_folder_is_predicted_with_no_training_framework(exported, scenes, tmp_path, runtime):
    pytest.importorskip(runtime, reason=f"{runtime} is not installed")
    out = tmp_path / "found.json"
    words = [exported, scenes / "images", "--out", out, "--threshold", "0.2", "--engine", runtime, "--quiet"]
    assert cli.main(["predict", *map(str, words), "--format", "megadetector,csv,coco", "--tiles", "2x1"]) == 0
    results, names = read_megadetector(out)
    assert names == SPECIES and len(results) == 48 and all(one.failure is None for one in results)
    assert any(one.detections for one in results)
    about = json.loads(out.read_text())["info"]
    assert about["detector"] == "ena24ssd random.onnx"
    assert about["detector_metadata"]["typical_detection_threshold"] == 0.2
    found = list(Detector.load(exported, engine=runtime).detect(scenes / "images", 0.2))
    assert [Path(one.file).name for one in found] == [Path(one.file).name for one in results]


def test_the_runtimes_find_the_same(exported, scenes):
    pytest.importorskip("openvino", reason="openvino is not installed")
    found = [list(Detector.load(exported, engine=runtime).detect(scenes / "images", 0.1)) for runtime in RUNTIMES]
    assert_same(*found)


@pytest.mark.parametrize("pictures", ["drawn", "photographs"])
@pytest.mark.parametrize("kind, runtime", [("onnx", "onnxruntime"), ("onnx", "openvino"), ("symbol", None)])
def test_an_exported_model_finds_what_its_run_finds(
    trained_run, scenes, request, tmp_path_factory, kind, runtime, pictures
):
    from ena24ssd.exports import export_run

    pytest.importorskip(runtime or "mxnet", reason="not installed", exc_type=ImportError)
    if pictures == "photographs":
        folder = request.getfixturevalue("shared_data") / "ena24-dev14" / "images"
    else:
        folder = scenes / "images"
    (model,) = export_run(trained_run.folder, tmp_path_factory.mktemp("exports"), [kind], quiet=True)
    native = list(Detector.load(trained_run.folder, device="cpu").detect(folder, 0.05))
    assert_same(native, list(Detector.load(model.path, device="cpu", engine=runtime).detect(folder, 0.05)))


def assert_same(native, other):
    """The same boxes in the same order: scores to 1e-4, edges to half a pixel."""
    assert any(one.detections for one in native)
    for mine, theirs in zip(native, other, strict=True):
        assert (mine.file, mine.width, mine.height) == (theirs.file, theirs.width, theirs.height)
        assert [found.name for found in mine.detections] == [found.name for found in theirs.detections]
        for one, two in zip(mine.detections, theirs.detections):
            assert one.score == pytest.approx(two.score, abs=1e-4)
            assert tuple(one.box) == pytest.approx(tuple(two.box), abs=0.5)
