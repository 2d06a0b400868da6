"""Does a graph say what the network says, wherever it runs?  And is anything else refused before it runs?"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import re
import subprocess
import sys
import textwrap
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the onnx extra is not installed")
pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")

import onnx
import onnxruntime
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from ena24ssd.boxes import iou
from ena24ssd.config import EvaluationConfig, RunConfig, change_config, read_config
from ena24ssd.engine import EngineError, load_engine, load_graph
from ena24ssd.onnx import engine as engine_module
from ena24ssd.onnx import quantize as quantize_module
from ena24ssd.onnx.engine import OnnxEngine, choose_runtime
from ena24ssd.onnx.graph import INPUT, build_graph, count_anchors, draw_skeleton
from ena24ssd.onnx.quantize import quantize
from ena24ssd.onnx.reading import OUTPUT, set_reading
from ena24ssd.onnx.safety import STRUCTURE, read_graph, require_safe
from ena24ssd.prior import prior

NAMES = ("Bird", "Coyote", "Dog")
SMALL = ("device=cpu", "precision=float32", "model.width=0.04", "data.image_side=48", "evaluation.candidates=60")
LITE = ("model.backbone=efficientnet_lite0", "model.width=1", "data.image_side=64", "model.pyramid=16")
PYRAMID = (
    *LITE,
    *("model.levels=[8,16,32,64]", "model.sizes=[[0.1,0.15],[0.2,0.3],[0.4,0.6],[0.8,0.9]]", "model.ratios=[1,0.5,2]"),
)
RUNTIMES = ("onnxruntime", "openvino")
HAS_OPENVINO = importlib.util.find_spec("openvino") is not None
ENGINES = {"gluon": "mxnet", "pytorch": "torch"}


def a_config(*overrides: str) -> RunConfig:
    return read_config(None, [*SMALL, *overrides])


def some_weights(config: RunConfig, classes: int = len(NAMES), seed: int = 0) -> dict[str, np.ndarray]:
    """A network whose every kernel, bias and statistic is its own, and whose answers are neither all alike nor huge."""
    random, weights, skeleton = np.random.default_rng(seed), {}, draw_skeleton(config, classes)
    for layer in (*skeleton.layers, *skeleton.idle):
        spread = np.sqrt((2 if layer.has_bias else 1) / np.prod(layer.kernel[1:]))
        weights[f"{layer.source}.weight"] = random.normal(0, spread, layer.kernel)
        if layer.has_bias:
            weights[f"{layer.source}.bias"] = random.normal(0, 0.1, layer.leaving)
        for part in ("beta", "running_mean") if layer.norm else ():
            weights[f"{layer.norm}.{part}"] = random.normal(0, 0.1, layer.leaving)
        for part in ("gamma", "running_var") if layer.norm else ():
            weights[f"{layer.norm}.{part}"] = random.uniform(0.5, 1.5, layer.leaving)
    return {name: values.astype(np.float32) for name, values in weights.items()}


def some_pictures(count: int = 3, side: int = 48, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)


def open_graph(model: onnx.ModelProto, config: RunConfig, names=NAMES, runtime: str = "onnxruntime") -> OnnxEngine:
    if runtime == "openvino":
        pytest.importorskip("openvino", reason="the openvino extra is not installed")
    return OnnxEngine(model.SerializeToString(), config, names, runtime=runtime, device="cpu", threads=1)


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return a_config()


@pytest.fixture(scope="module")
def model(config) -> onnx.ModelProto:
    return build_graph(some_weights(config), config, NAMES)


@pytest.fixture(scope="module")
def pyramid() -> tuple[RunConfig, onnx.ModelProto]:
    config = a_config(*PYRAMID)
    return config, build_graph(some_weights(config), config, NAMES)


@pytest.fixture(scope="module")
def int8(model) -> onnx.ModelProto:
    return quantize(model, some_pictures(4, seed=5))


# -- the same as the engines -----------------------------------------------------------------------------------------

NETWORKS = {
    "the usual one": (),
    "wider": ("model.width=0.1", "data.image_side=64"),
    "as narrow as can be": ("model.width=0.001",),
    "an odd side": ("data.image_side=67",),
    "a side of a cell more than six": ("data.image_side=97",),
    "BatchNorm on what it answers": ("model.output_batchnorm=true",),
    "one size and one ratio": ("model.sizes=[0.4]", "model.ratios=[0.7]"),
    "many ratios, the first of them not 1": ("model.sizes=[0.2,0.5]", "model.ratios=[2,1,0.5,0.3,3]"),
    "other pixels": ("data.mean=[0.1,0.5,0.9]", "data.std=[1,0.5,0.1]"),
    "any box suppresses any": ("evaluation.class_agnostic_nms=true",),
    "little overlap allowed": ("evaluation.nms=0.2",),
    "the best few": ("evaluation.candidates=7",),
    "more candidates than anchors": ("evaluation.candidates=5000", "model.sizes=[0.4]", "model.ratios=[1]"),
    "a floor that some pass": ("evaluation.floor=0.6",),
    "a floor that nothing passes": ("evaluation.floor=1",),
    "a pretrained backbone's, four levels": PYRAMID,
    "one level, no towers": (*LITE, "model.levels=[32]", "model.sizes=[0.3,0.5]", "model.towers=0"),
    "the coarsest level alone": (*LITE, "model.levels=[32]", "model.sizes=[0.5]", "model.towers=1"),
    "lite1, three levels": (
        *LITE,
        *("model.backbone=efficientnet_lite1", "model.levels=[8,16,32]", "data.image_side=96", "model.towers=0"),
        *("model.sizes=[[0.1,0.2],[0.3,0.35],[0.6,0.5]]", "model.ratios=[[1,2,0.5],[1,3,0.2],[2,1,0.3]]"),
    ),
    "lite2, levels above the backbone's": (
        *LITE,
        *("model.backbone=efficientnet_lite2", "model.levels=[16,32,64,128]", "data.image_side=128"),
        *("model.sizes=[[0.1],[0.2],[0.4],[0.8]]", "model.ratios=[1]", "evaluation.class_agnostic_nms=true"),
    ),
}


def are_clear(rows: np.ndarray, config: RunConfig) -> bool:
    """Whether no two scores, no overlap and its threshold are so near that rounding may put them either way."""
    for picture in rows.astype(np.float64):
        candidates = picture[picture[:, 1] >= 0]
        overlaps = iou(candidates[:, 2:], candidates[:, 2:])
        margins = [
            np.diff(candidates[:, 1]),
            candidates[:, 1] - config.evaluation.floor,
            overlaps - config.evaluation.nms,
        ]
        if any((np.abs(values) < 2e-6).any() for values in margins):
            return False
    return True


def assert_same_rows(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype == np.float32
    assert np.array_equal(ours[..., 0], theirs[..., 0])
    assert np.abs(ours - theirs).max(initial=0) < 1e-5


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("overrides", NETWORKS.values(), ids=NETWORKS)
def test_a_graph_finds_what_the_engine_finds(engine, overrides):
    pytest.importorskip(ENGINES[engine], reason="its extra is not installed", exc_type=ImportError)
    config = a_config(f"engine={engine}", *overrides)
    names = NAMES[:1] if "model.width=0.1" in overrides else NAMES
    native, pictures = load_engine(config, names), some_pictures(side=config.data.image_side)
    for seed in itertools.count():
        weights = some_weights(config, len(names), seed)
        native.load_weights(weights)
        rows = native.detect(pictures)
        if are_clear(rows, config):
            break
    assert set(weights) == set(native.weights())
    model = build_graph(native.weights(), config, names)
    for runtime in ("onnxruntime", *["openvino"] * HAS_OPENVINO):
        assert_same_rows(open_graph(model, config, names, runtime).detect(pictures), rows)
    if config.evaluation.floor == 1:
        assert (rows == -1).all()
    else:
        assert (rows[..., 0] >= 0).any(axis=1).all()


def test_the_posts_network_is_drawn_as_ever():
    """Graphs that earlier releases exported are held against what is drawn now, node by node."""
    digest = hashlib.sha256()
    for overrides in ((), ("model.output_batchnorm=true", "data.image_side=67"), ("model.sizes=[0.4]",)):
        skeleton = draw_skeleton(a_config(*overrides), 3)
        for node in skeleton.nodes:
            attributes = sorted(attribute.SerializeToString(deterministic=True) for attribute in node.attribute)
            digest.update(repr((node.op_type, list(node.input), list(node.output), attributes)).encode())
        for name, values in skeleton.constants.items():
            digest.update(f"{name} {values.dtype} {values.shape}".encode() + values.tobytes())
        for layer in skeleton.layers:
            digest.update(repr((layer.name, layer.kernel, layer.arrays)).encode())
    assert digest.hexdigest() == "91d14c83383f5cd27b6aaa808ceb0a8dc01e9b171445bf0545d6c73809a5835e"


# -- reading boxes off what the heads say: against ten lines of NumPy ------------------------------------------------


def softmax(logits: np.ndarray) -> np.ndarray:
    exact = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exact / exact.sum(axis=-1, keepdims=True)


def naive_rows(logits: np.ndarray, offsets: np.ndarray, anchors: np.ndarray, reading: EvaluationConfig) -> np.ndarray:
    """The rows of one picture, of logits (N, C+1), offsets (N, 4) and anchors (N, 4)."""
    scores = softmax(logits)[:, 1:]
    shown = min(reading.candidates, len(anchors))
    rows, kept = np.full((shown, 6), -1.0), []
    best = scores.max(axis=1)
    for place, one in enumerate(np.argsort(-best, kind="stable")[:shown]):
        if best[one] < reading.floor:
            break
        size, centre = anchors[one, 2:] - anchors[one, :2], (anchors[one, 2:] + anchors[one, :2]) / 2
        middle, half = offsets[one, :2] * 0.1 * size + centre, np.exp(offsets[one, 2:] * 0.2) * size / 2
        box, label = np.clip([*(middle - half), *(middle + half)], 0, 1), scores[one].argmax()
        rows[place] = -1, best[one], *box
        rivals = [other for species, other in kept if species == label or reading.class_agnostic_nms]
        if not rivals or iou(np.array(rivals), box[None]).max() < reading.nms:
            kept.append((label, box))
            rows[place, 0] = label
    return rows


GRID = ("model.sizes=[0.5]", "model.ratios=[1]", "data.image_side=64")  # 4 x 4 anchors
SAME = {name: np.zeros_like(values) for name, values in some_weights(a_config(*GRID)).items()}
SAME["class_predict.0.bias"][:] = 0, 3, 1, 3  # two species alike: it is the first


def reading_alone(config: RunConfig, names=NAMES) -> onnx.ModelProto:
    """The part of a graph behind the heads."""
    skeleton = draw_skeleton(config, len(names))
    last = max(place for place, node in enumerate(skeleton.nodes) if node.op_type == "Conv")
    heads = ("class_predict.0", "bbox_predict.9")
    nodes = skeleton.nodes[last + 1 :] + [n for n in skeleton.nodes[:last] if "class_predict.0" in n.input]
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "reading",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in heads],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["B", None, 6])],
        [numpy_helper.from_array(values, name) for name, values in skeleton.constants.items() if name in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    set_reading(model, config.evaluation)
    return model


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    spread=st.sampled_from([0.5, 2.0, 5.0]),
    repeated=st.sampled_from([0, 2, 10]),
    alike=st.booleans(),
    agnostic=st.booleans(),
    nms=st.sampled_from([0.3, 0.5, 0.7, 1.0]),
    floor=st.sampled_from([0.0, 0.01, 0.3, 0.9]),
    candidates=st.sampled_from([1, 5, 200]),
)
def test_boxes_are_read_off_as_ten_lines_of_numpy_do(seed, spread, repeated, alike, agnostic, nms, floor, candidates):
    """With exact ties: one of so many rows of logits is ``repeated`` from its neighbour, and two species are ``alike``.

    What is within a rounding of float32 of another score, or of a threshold, is not asked for, unless equal.
    """
    config = a_config("model.sizes=[0.4,0.25]", "model.ratios=[1,2]")
    reading = EvaluationConfig(nms=nms, class_agnostic_nms=agnostic, floor=floor, candidates=candidates)
    config = config.model_copy(update={"evaluation": reading})
    random, anchors = np.random.default_rng(seed), prior(3, 3, config.model.sizes, config.model.ratios)
    logits = (spread * random.standard_normal((2, len(anchors), 4))).astype(np.float32)
    offsets = random.standard_normal((2, len(anchors), 4)).astype(np.float32)
    if repeated:
        logits[:, 1::repeated] = logits[:, ::repeated][:, : logits[:, 1::repeated].shape[1]]
    if alike:
        logits[:, ::3, 2] = logits[:, ::3, 1]
    first, second = np.sort(softmax(logits.astype(np.float64))[..., 1:], axis=-1)[..., :-3:-1].T
    assume(((first == second) | (first - second > 1e-6)).all())
    wanted = np.stack([naive_rows(*each, anchors, reading) for each in zip(*map(np.float64, (logits, offsets)))])
    for rows in wanted:
        gaps, boxes = np.abs(np.diff(rows[:, 1])), rows[rows[:, 1] >= 0, 2:]
        assume(((gaps == 0) | (gaps > 1e-6)).all() and (np.abs(rows[:, 1] - floor) > 1e-6).all())
        assume((np.abs(iou(boxes, boxes) - nms)[~np.eye(len(boxes), dtype=bool)] > 1e-6).all())

    heads = [each.reshape(2, 3, 3, -1).transpose(0, 3, 1, 2) for each in (logits, offsets)]
    session = onnxruntime.InferenceSession(
        reading_alone(config).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found = session.run(None, dict(zip(("class_predict.0", "bbox_predict.9"), heads)))[0]
    assert np.array_equal(found[..., 0], wanted[..., 0])
    assert np.abs(found - wanted).max() < 1e-5


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("candidates", [5, 16])
def test_of_equal_scores_the_first_anchor_comes_first(runtime, candidates):
    """A network that says the same everywhere: every anchor is a tie, and boxes are the anchors."""
    config = a_config(*GRID, f"evaluation.candidates={candidates}", "evaluation.nms=0.3")
    found = open_graph(build_graph(SAME, config, NAMES), config, runtime=runtime).detect(some_pictures(2, 64))
    logits = np.tile(SAME["class_predict.0.bias"].astype(np.float64), (16, 1))
    wanted = naive_rows(logits, np.zeros((16, 4)), prior(4, 4, (0.5,), (1,)).astype(np.float64), config.evaluation)
    assert np.abs(found - wanted).max() < 1e-6
    assert set(found[..., 0].flat) == {0, -1}


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_what_overlaps_just_enough_falls(runtime):
    first, second = prior(4, 4, (0.5,), (1,)).astype(np.float64).clip(0, 1)[:2]
    exactly = np.float32(iou(first[None], second[None])[0, 0])
    # OpenVINO has its own last bit.
    more = np.nextafter(exactly, np.float32(1)) if runtime == "onnxruntime" else exactly * np.float32(1 + 1e-6)
    for nms, label in ((exactly, -1), (more, 0)):
        config = a_config(*GRID, f"evaluation.nms={nms.item()!r}")
        found = open_graph(build_graph(SAME, config, NAMES), config, runtime=runtime).detect(some_pictures(1, 64))
        assert found[0, :2, 0].tolist() == [0, label]


# -- what a graph takes and gives ------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("kind", ["model", "int8"])
def test_what_is_found_on_a_picture_does_not_depend_on_the_others(kind, runtime, config, request):
    engine = open_graph(request.getfixturevalue(kind), config, runtime=runtime)
    pictures = some_pictures(11)
    together = engine.detect(pictures)
    assert together.shape == (11, 60, 6)
    assert np.array_equal(together, np.concatenate([engine.detect(pictures[:4]), engine.detect(pictures[4:])]))
    assert np.array_equal(together[5:6], engine.detect(pictures[5:6]))
    assert np.array_equal(together[::-2], engine.detect(pictures[::-2]))  # whatever their layout in memory
    assert engine.detect(pictures[:0]).shape == (0, 60, 6)


def test_the_batch_of_the_graph_itself_is_open(model, config):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    pictures = some_pictures(3)
    assert [given.shape for given in session.get_inputs()] == [["B", 48, 48, 3]]
    assert [(given.name, given.shape) for given in session.get_outputs()] == [(OUTPUT, ["B", 60, 6])]
    assert np.abs(session.run(None, {INPUT: pictures})[0] - open_graph(model, config).detect(pictures)).max() < 1e-5


@pytest.mark.parametrize(
    "pictures",
    [some_pictures().astype(np.float32), some_pictures(side=49), some_pictures()[0], some_pictures()[..., :2]],
    ids=["floats", "another side", "a single picture", "two colours"],
)
def test_other_pictures_are_refused(model, config, pictures):
    with pytest.raises(ValueError, match=r"takes \(B, 48, 48, 3\) uint8"):
        open_graph(model, config).detect(pictures)


@pytest.mark.parametrize("kind", ["model", "int8"])
@pytest.mark.parametrize(
    "changes",
    [
        {"nms": 0.25},
        {"class_agnostic_nms": True},
        {"floor": 0.55},
        {"candidates": 9},
        {"candidates": 100_000, "nms": 1.0, "floor": 0.0},
    ],
    ids=lambda changes: ", ".join(changes),
)
def test_how_boxes_are_read_off_can_be_changed_in_a_finished_graph(kind, changes, config, model, int8):
    other = change_config(config, {f"evaluation.{name}": value for name, value in changes.items()})
    anew = build_graph(some_weights(config), other, NAMES)
    pictures = some_pictures()
    wanted = (anew if kind == "model" else quantize(anew, some_pictures(4, seed=5))).SerializeToString()
    graph = {"model": model, "int8": int8}[kind].SerializeToString()
    rows = OnnxEngine(graph, other, NAMES, runtime="onnxruntime").detect(pictures)
    assert np.array_equal(rows, OnnxEngine(wanted, other, NAMES, runtime="onnxruntime").detect(pictures))
    assert not np.array_equal(rows, OnnxEngine(graph, config, NAMES, runtime="onnxruntime").detect(pictures))


def test_the_seam_opens_it_and_it_says_what_it_runs_on(model, config, capfd):
    engine = load_graph(model.SerializeToString(), config, NAMES, threads=2)
    engine.detect(some_pictures())
    assert engine.device == f"cpu, 2 threads, float32, ONNX Runtime {onnxruntime.__version__}"
    assert engine.batch >= 1 and engine.reason
    assert capfd.readouterr() == ("", "")


# -- int8 ------------------------------------------------------------------------------------------------------------


def test_int8_says_nearly_the_same(config):
    config = change_config(config, {"evaluation.nms": 1.0, "evaluation.floor": 0.0, "evaluation.candidates": 81})
    model = build_graph(some_weights(config), config, NAMES)
    int8, pictures = quantize(model, some_pictures(6, seed=5)), some_pictures(5, seed=9)
    rows = open_graph(model, config).detect(pictures)
    others = open_graph(int8, config).detect(pictures)
    assert 1e-5 < np.abs(rows[..., 1] - others[..., 1]).max() < 0.1
    assert np.abs(np.sort(rows[..., 2:], axis=1) - np.sort(others[..., 2:], axis=1)).mean() < 0.02
    assert "int8" in open_graph(int8, config).device
    if HAS_OPENVINO:
        elsewhere = open_graph(int8, config, runtime="openvino").detect(pictures)
        assert np.abs(others[..., 1] - elsewhere[..., 1]).max() < 0.01


def test_in_int8_sums_of_two_products_fit_into_16_bits_and_heads_stay_as_they_are(int8):
    arrays = {array.name: numpy_helper.to_array(array) for array in int8.graph.initializer}
    kernels = [values for values in arrays.values() if values.ndim == 4 and values.dtype == np.int8]
    floats = [name for name, values in arrays.items() if values.ndim == 4 and values.dtype == np.float32]
    assert len(kernels) == 11 and max(abs(values.astype(int)).max() for values in kernels) <= 64
    assert sorted(floats) == ["bbox_predict.9.weight", "class_predict.0.weight"]
    assert 2 * 255 * 64 < 2**15


def scale_of(model: onnx.ModelProto, name: str) -> np.ndarray:
    """The scale of what comes out of a node that takes bytes for numbers."""
    (node,) = [node for node in model.graph.node if node.output[0] == name]
    assert node.op_type == "DequantizeLinear"
    return numpy_helper.to_array(array_of(model, node.input[1]))


def test_what_is_joined_has_one_scale(int8):
    (join,) = [node for node in int8.graph.node if node.name == "features.joined"]
    assert len({scale_of(int8, name).item() for name in join.input}) == 1


def test_of_a_pyramid_the_fine_blocks_and_the_last_convolutions_stay_as_they_are(pyramid):
    config, model = pyramid
    int8 = quantize(model, some_pictures(2, 64))
    require_safe(int8, config, NAMES)
    arrays = {array.name: numpy_helper.to_array(array) for array in int8.graph.initializer}
    floats = {name for name, values in arrays.items() if values.ndim == 4 and name.endswith(".weight")}
    fine = [f"features.blocks.{block}.{part}.weight" for block in range(3) for part in ("depthwise", "project")]
    fine += ["features.stem.weight", "features.blocks.1.expand.weight", "features.blocks.2.expand.weight"]
    assert floats == {*fine, "class_predict.0.weight", "bbox_predict.0.weight"}
    for name, values in arrays.items():
        if values.ndim == 4 and values.dtype == np.int8:
            assert abs(values.astype(int)).max() <= (127 if values.shape[1] == 1 else 64), name
    doubled = resize_of(int8)
    assert scale_of(int8, doubled.input[0]) == scale_of(int8, f"{doubled.output[0]}.again")
    left = {node.output[0] for node in int8.graph.node if node.op_type == "Clip"}
    assert "features.blocks.2.expand" in left and "features.blocks.3.expand" not in left


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_depthwise_kernel_of_eight_bits_overflows_nowhere(runtime):
    """All kernels at their largest, all activations at theirs: sums of products are as large as they can be."""
    config = a_config(*PYRAMID)
    weights = some_weights(config)
    for name, values in weights.items():
        if "depthwise" in name and values.ndim == 4:
            values[:] = np.sign(values) * np.abs(values).max()
            values[0] = np.abs(values).max()
        if name.startswith("features.blocks") and name.endswith("expand.norm.beta"):
            values[:8] = 50  # ReLU6 gives 6 everywhere
    config = change_config(config, {"evaluation.nms": 1.0, "evaluation.floor": 0.0, "evaluation.candidates": 900})
    model = build_graph(weights, config, NAMES)
    pictures = some_pictures(4, 64)
    rows, others = (
        np.sort(open_graph(each, config, runtime=runtime).detect(pictures)[..., 1], axis=1)
        for each in (model, quantize(model, pictures))
    )
    assert np.abs(rows - others).mean() < 0.03


def test_rounding_takes_nothing_from_the_mean_of_a_channel(pyramid):
    model = pyramid[1]
    pictures = some_pictures(8, 64)
    int8 = quantize(model, pictures)
    plain = quantise_without_means(model, pictures)
    wanted, *found = (heads_of(each, pictures) for each in (model, int8, plain))
    errors = [np.abs((each - wanted).mean(axis=(0, 2, 3))).mean() for each in found]
    assert errors[0] < errors[1]


def quantise_without_means(model: onnx.ModelProto, pictures: np.ndarray) -> onnx.ModelProto:
    true = quantize_module._show
    with pytest.MonkeyPatch.context() as patch:

        def show(*arguments):
            return {name: seen._replace(means=seen.means * 0) for name, seen in true(*arguments).items()}

        patch.setattr(quantize_module, "_show", show)
        return quantize(model, pictures)


def heads_of(model: onnx.ModelProto, pictures: np.ndarray) -> np.ndarray:
    """What the class head says, (B, A * (C+1), H, W)."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.append(helper.make_tensor_value_info("class_predict.0", TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["class_predict.0"], {INPUT: pictures})[0]


def test_an_int8_graph_of_an_earlier_release_is_still_read(model, config, tmp_path):
    """Those were written by ONNX Runtime's own quantizer."""
    quantization = pytest.importorskip("onnxruntime.quantization")

    class Reader(quantization.CalibrationDataReader):
        coming = iter(some_pictures(4, seed=5))

        def get_next(self):
            return next(({INPUT: square[None]} for square in self.coming), None)

    before, after = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    onnx.save(model, before)
    rectified = {node.input[0] for node in model.graph.node if node.op_type == "Relu"}
    inner = [n.name for n in model.graph.node if n.op_type == "Relu" or rectified & {*n.output} or "joined" in n.name]
    quantization.quantize_static(
        *(before, after, Reader()),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        reduce_range=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        op_types_to_quantize=["Conv", "Relu", "Concat"],
        nodes_to_quantize=inner,
    )
    old = onnx.load(after)
    used = {name for node in old.graph.node for name in node.input}
    arrays = [
        numpy_helper.from_array(numpy_helper.to_array(a), a.name) for a in old.graph.initializer if a.name in used
    ]
    del old.graph.initializer[:], old.graph.value_info[:], old.metadata_props[:], old.opset_import[:]
    old.graph.initializer.extend(arrays)
    old.opset_import.append(helper.make_opsetid("", 17))
    old.producer_version = ""
    rows = open_graph(old, config).detect(some_pictures())
    assert (rows[..., 0] >= 0).any(axis=1).all()


@pytest.mark.parametrize(
    "squares", [some_pictures(0), some_pictures(2, 47), some_pictures(2).astype(float)], ids=["none", "size", "kind"]
)
def test_int8_is_learnt_from_squares_of_the_network(model, squares):
    with pytest.raises(ValueError, match=r"int8 is learnt from one or more of \(48, 48, 3\) uint8"):
        quantize(model, squares)


def test_a_dead_channel_can_be_quantised(config):
    weights = some_weights(config)
    for name in ("features.conv32.weight", "features.conv32.bias", "features.bn5.beta", "features.bn5.running_mean"):
        weights[name][:2] = 0
    model = build_graph(weights, config, NAMES)
    require_safe(quantize(model, some_pictures(2)), config, NAMES)


def test_quantising_prints_nothing(model, capfd, caplog):
    quantize(model, some_pictures(1))
    assert capfd.readouterr() == ("", "") and not caplog.records


# -- a network that has diverged -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, value",
    [("features.conv33.weight", np.nan), ("bbox_predict.9.bias", np.inf), ("features.bn3.running_var", -1)],
)
def test_weights_that_are_no_numbers_are_not_exported(config, name, value):
    weights = some_weights(config)
    weights[name].flat[1 % weights[name].size] = value
    with pytest.raises(EngineError, match="no finite numbers: the network has diverged"):
        build_graph(weights, config, NAMES)


@pytest.mark.parametrize("name", ["class_predict.0", "bbox_predict.9"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_answers_that_are_no_numbers_are_said_to_be_so(config, name, runtime):
    weights = some_weights(config)
    for layer in ("features.conv35", name):
        weights[f"{layer}.weight"][:] = 3e37
    engine = open_graph(build_graph(weights, config, NAMES), config, runtime=runtime)
    with pytest.raises(EngineError, match="no number: it has diverged"):
        engine.detect(some_pictures(2))


def test_weights_of_another_network_are_refused(config):
    weights = some_weights(config)
    del weights["features.bn3.gamma"]
    with pytest.raises(ValueError, match=r"missing features\.bn3\.gamma"):
        build_graph(weights, config, NAMES)


# -- what runs it ----------------------------------------------------------------------------------------------------

CHOICES = {
    "float32": (("auto", "cpu", False), {}, "onnxruntime", "no faster with float32"),
    "int8": (("auto", "cpu", True), {}, "openvino", "faster with int8"),
    "int8 without OpenVINO": (
        ("auto", "auto", True),
        {"missing": "openvino"},
        "onnxruntime",
        r"pip install 'ena24ssd\[openvino\]'",
    ),
    "OpenVINO alone": (("auto", "cpu", False), {"missing": "onnxruntime"}, "openvino", "onnxruntime is not installed"),
    "as asked": (("openvino", "auto", False), {}, "openvino", "asked for"),
    "as asked, the other": (("onnxruntime", "cpu", True), {}, "onnxruntime", "asked for"),
    "a GPU": (("auto", "auto", True), {"gpu": True}, "onnxruntime", "GPU"),
    "a GPU that is not wanted": (("auto", "cpu", False), {"gpu": True}, "onnxruntime", "float32"),
}


@pytest.mark.parametrize("asked, machine, runtime, reason", CHOICES.values(), ids=CHOICES)
def test_the_runtime_that_suits_is_chosen_and_why_is_said(monkeypatch, asked, machine, runtime, reason):
    pytest.importorskip("openvino", reason="the openvino extra is not installed")
    _pretend(monkeypatch, **machine)
    choice = choose_runtime(*asked)
    assert choice.runtime == runtime and re.search(reason, choice.reason)


HALVES = {
    "a CPU that multiplies it": ({}, True, "model", None),
    "a CPU that does not": ({}, False, "model", "this CPU does not multiply it .*; leave it at auto"),
    "a graph of bytes": ({}, True, "int8", "computes in bytes already"),
    "the other runtime": ({"runtime": "onnxruntime"}, True, "model", "it is for OpenVINO, on a CPU"),
    "a GPU": ({"device": "gpu"}, True, "model", "it is for OpenVINO, on a CPU"),
}


@pytest.mark.parametrize("options, multiplies, kind, said", HALVES.values(), ids=HALVES)
def test_bfloat16_is_computed_where_it_is_asked_for_and_can_be(
    monkeypatch, request, config, options, multiplies, kind, said
):
    openvino = pytest.importorskip("openvino", reason="the openvino extra is not installed")
    graph = request.getfixturevalue(kind).SerializeToString()
    can = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert engine_module._multiplies_bfloat16() == can
    monkeypatch.setattr(engine_module, "_multiplies_bfloat16", lambda: multiplies)
    in_bfloat16 = change_config(config, {"precision": "bfloat16"})
    if said is not None:
        with pytest.raises(EngineError, match=f"precision 'bfloat16': .*{said}"):
            OnnxEngine(graph, in_bfloat16, NAMES, **options)
        return
    engine = OnnxEngine(graph, in_bfloat16, NAMES, threads=1, **options)
    assert engine.device.startswith("cpu, 1 thread, bfloat16, OpenVINO") and "bfloat16" in engine.reason
    rows, pictures = engine.detect(some_pictures()), some_pictures()
    assert (
        np.abs(rows[:, 0, 1] - open_graph(request.getfixturevalue(kind), config).detect(pictures)[:, 0, 1]).max() < 0.05
    )


def _pretend(monkeypatch, missing: str | None = None, gpu: bool = False) -> None:
    if missing:
        monkeypatch.setitem(sys.modules, missing, None)
    if gpu:
        providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)


REFUSED = {
    "another runtime": ({"runtime": "tensorrt"}, "is auto or one of onnxruntime, openvino"),
    "two devices": ({"device": ("gpu:0", "gpu:1")}, "runs on one device"),
    "a device with another name": ({"device": "cuda"}, "runs on one device"),
    "no thread": ({"threads": 0}, "takes 1 at least"),
    "a GPU for OpenVINO": ({"runtime": "openvino", "device": "gpu"}, "on CPUs alone; take onnxruntime"),
    "a GPU that is not there": (
        {"device": "gpu:1"},
        "device 'gpu:1': .*put onnxruntime-gpu in its place; or take device cpu",
    ),
}


@pytest.mark.parametrize("options, said", REFUSED.values(), ids=REFUSED)
def test_what_cannot_run_here_is_said_with_a_way_out(model, config, options, said):
    with pytest.raises(EngineError, match=said):
        OnnxEngine(model.SerializeToString(), config, NAMES, **options)


def test_a_gpu_that_does_not_work_is_a_reason_for_the_cpu(monkeypatch, model, config):
    _pretend(monkeypatch, gpu=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ONNX Runtime's, of a provider that it does not have
        engine = OnnxEngine(model.SerializeToString(), config, NAMES)
        assert engine.device.startswith("cpu")
        assert "not on a GPU, for ONNX Runtime" in engine.reason
        with pytest.raises(EngineError, match=r"device 'gpu:0': .* check nvidia-smi"):
            OnnxEngine(model.SerializeToString(), config, NAMES, device="gpu")


@pytest.mark.parametrize("package", ["onnxruntime", "openvino"])
def test_a_missing_runtime_is_said_with_the_way_to_it(monkeypatch, model, config, package):
    for name in RUNTIMES:
        monkeypatch.setitem(sys.modules, name, None)
    extra = {"onnxruntime": "onnx", "openvino": "openvino"}[package]
    for runtime in (package, "auto") if package == "onnxruntime" else (package,):
        with pytest.raises(EngineError, match=rf"{package} is not installed: pip install 'ena24ssd\[{extra}\]'"):
            OnnxEngine(model.SerializeToString(), config, NAMES, runtime=runtime)


def test_a_missing_onnx_is_said_with_the_way_to_it(monkeypatch, config):
    for name in [name for name in sys.modules if name.startswith("ena24ssd.onnx")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(EngineError, match=r"need the package onnx, .* pip install 'ena24ssd\[onnx\]'"):
        load_graph(b"", config, NAMES)


# -- what is no graph of ours ----------------------------------------------------------------------------------------


def node_of(model: onnx.ModelProto, kind: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == kind)


def resize_of(model: onnx.ModelProto, place: int = 0) -> onnx.NodeProto:
    return [node for node in model.graph.node if node.op_type == "Resize"][place]


def array_of(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(array for array in model.graph.initializer if array.name == name)


def attribute_of(node: onnx.NodeProto, name: str) -> onnx.AttributeProto:
    return next(attribute for attribute in node.attribute if attribute.name == name)


def set_numbers(model: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    array = array_of(model, name)
    array.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(array).copy()), name))


def external(model):
    array = array_of(model, "features.conv31.weight")
    array.ClearField("raw_data")
    array.data_location = TensorProto.EXTERNAL
    array.external_data.add(key="location", value="../../etc/passwd")


def function(model):
    model.functions.add(name="Conv", domain="ours")


def subgraph(model):
    node = node_of(model, "Softmax")
    node.op_type = "If"
    node.attribute.append(helper.make_attribute("then_branch", helper.make_graph([], "inner", [], [])))


def custom_domain(model):
    node_of(model, "Softmax").domain = "com.microsoft"


def other_domains(model):
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def another_operator(model):
    node_of(model, "Softmax").op_type = "LogSoftmax"


def far_padding(model):
    attribute_of(node_of(model, "Conv"), "pads").ints[0] = 10**9


def dilated(model):
    node_of(model, "Conv").attribute.append(helper.make_attribute("dilations", [10**6, 10**6]))


def attribute_twice(model):
    node_of(model, "Conv").attribute.append(attribute_of(node_of(model, "Conv"), "pads"))


def one_node_more(model):
    model.graph.node.append(helper.make_node("Concat", [OUTPUT] * 1000, ["huge"], axis=0))


def quantised_over_and_over(model):
    for number in range(100):
        inputs = [OUTPUT, "a scale", "a zero"]
        model.graph.node.append(helper.make_node("QuantizeLinear", inputs, [f"bytes{number}"]))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1), "a scale"))
    model.graph.initializer.append(numpy_helper.from_array(np.uint8(0), "a zero"))


def one_node_less(model):
    model.graph.node.remove(node_of(model, "Softmax"))


def crossed(model):
    node_of(model, "TopK").input[0] = node_of(model, "ReduceMax").output[0]


def in_a_ring(model):
    node_of(model, "Cast").input[0] = OUTPUT


def in_disorder(model):
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def given_twice(model):
    model.graph.node.append(node_of(model, "Softmax"))


def array_in_place_of_a_node(model):
    model.graph.initializer.append(
        numpy_helper.from_array(np.zeros(1, np.float32), node_of(model, "Softmax").output[0])
    )


def lying_shape(model):
    array_of(model, "features.conv31.weight").dims[0] = 10**12


def negative_shape(model):
    dims = array_of(model, "features.conv31.weight").dims
    dims[0], dims[1] = -dims[0], -dims[1]


def numbers_elsewhere(model):
    array = array_of(model, "two")
    array.ClearField("raw_data")
    array.float_data.append(2)


def strings(model):
    array_of(model, "two").data_type = TensorProto.STRING


def not_a_number(model):
    set_numbers(model, "features.conv31.weight", lambda values: values * np.nan)


def another_kernel(model):
    set_numbers(model, "features.conv31.weight", lambda values: values[:, :, :1])


def bytes_for_floats(model):
    set_numbers(model, "features.conv31.weight", lambda values: values.astype(np.int8))


def another_constant(model):
    set_numbers(model, "columns", lambda values: values + 10**6)


def endless_candidates(model):
    set_numbers(model, "reading/candidates", lambda values: np.repeat(values, 10**5))


def array_nobody_wants(model):
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "more"))


def array_twice(model):
    model.graph.initializer.append(array_of(model, "two"))


def sparse(model):
    model.graph.sparse_initializer.add().dims.append(10**12)


def another_opset(model):
    model.opset_import[0].version = 9


def another_format(model):
    model.ir_version = 999


def training(model):
    model.training_info.add()


def larger_pictures(model):
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 10**6


def two_inputs(model):
    model.graph.input.append(model.graph.input[0])


def another_output(model):
    model.graph.output[0].name = node_of(model, "Softmax").output[0]


def more_outputs(model):
    model.graph.output.append(model.graph.output[0])


def claims(model):
    model.graph.value_info.append(helper.make_tensor_value_info("cast1", TensorProto.FLOAT, [10**9]))


HOSTILE = {
    external: "field 'data_location'|field 'external_data'",
    function: "a ModelProto in it has the field 'functions'",
    subgraph: r"node 'softmax\d+' \('If'\) is not the one",
    custom_domain: r"\('Softmax'\) is not the one",
    other_domains: r"with operators \[\('', 17\), \('com.microsoft', 1\)\] instead of",
    another_operator: r"\('LogSoftmax'\) is not the one",
    far_padding: r"'features.conv31.sum' \('Conv'\) is not the one",
    dilated: r"\('Conv'\) is not the one",
    attribute_twice: r"\('Conv'\) is not the one",
    one_node_more: r"\('Concat'\) is none of this network",
    quantised_over_and_over: "has 100 nodes that quantise, for 13 layers",
    one_node_less: "needs what comes later",
    crossed: r"\('TopK'\) is not the one",
    in_a_ring: "needs what comes later",
    in_disorder: "needs what comes later",
    given_twice: "gives what is there already",
    array_in_place_of_a_node: "gives what is there already",
    lying_shape: r"'features.conv31.weight' of type 1 and shape \[1000000000000, 3, 3, 3\] has 864 bytes",
    negative_shape: r"shape \[-8, -3, 3, 3\] has 864 bytes",
    numbers_elsewhere: "field 'float_data'",
    strings: "'two' of type 8",
    not_a_number: "'features.conv31.weight' holds what is no finite number",
    another_kernel: r"features.conv31 are \(8, 3, 1, 3\) float32, and for its config and species \(8, 3, 3, 3\)",
    bytes_for_floats: r"features.conv31 are \(8, 3, 3, 3\) int8",
    another_constant: "constant 'columns' is not that of its config",
    endless_candidates: "constant 'reading/candidates' is not that",
    array_nobody_wants: "nothing refers to its array 'more'",
    array_twice: "two of its arrays have the same name",
    sparse: "a GraphProto in it has the field 'sparse_initializer'",
    another_opset: r"with operators \[\('', 9\)\] instead of",
    another_format: "is of format 999",
    training: "field 'training_info'",
    larger_pictures: r"input is not 'pictures' of shape \[None, 48, 48, 3\]",
    two_inputs: "input is not 'pictures'",
    another_output: "output is not 'detections'",
    more_outputs: "output is not 'detections'",
    claims: "field 'value_info'",
}


def enlarged_a_thousandfold(model):
    set_numbers(model, "doubled", lambda values: values * 1000)


def enlarged_to_a_size(model):
    resize_of(model).input.append("doubled")


def enlarged_from_elsewhere(model):
    resize_of(model, 1).input[0] = resize_of(model).input[0]


def enlarged_smoothly(model):
    attribute_of(resize_of(model), "mode").s = b"cubic"


def a_part_enlarged(model):
    resize_of(model).input[1] = "doubled"


def a_nameless_array(model):
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(8, np.float32), ""))


def a_nameless_output(model):
    node_of(model, "Softmax").output.append("")


def unlimited(model):
    set_numbers(model, "six", lambda values: values * np.float32(1e30))


def every_channel_sees_every_other(model):
    depthwise = next(node for node in model.graph.node if node.output[0] == "features.blocks.0.depthwise.sum")
    attribute_of(depthwise, "group").i = 1


def padded_on_the_other_side(model):
    attribute_of(node_of(model, "Conv"), "pads").ints[:] = [1, 1, 0, 0]


def a_level_twice(model):
    column = next(node for node in model.graph.node if node.output[0] == "class_predict.0").input[0]
    joined = next(node for node in model.graph.node if node.output[0] == column)
    joined.input[1] = joined.input[0]


def added_to_itself(model):
    add = next(node for node in model.graph.node if node.op_type == "Add")
    add.input[0] = add.input[1]


def another_column(model):
    set_numbers(model, "shape/column", lambda values: values[::-1])


def a_shared_kernel_of_another_shape(model):
    set_numbers(model, "class_tower.0.depthwise.weight", lambda values: values[:, :, :1])


def a_bias_where_there_is_none(model):
    depthwise = next(node for node in model.graph.node if node.output[0] == "class_tower.0.depthwise.1")
    depthwise.input.append("class_tower.0.1.bias")


HOSTILE_PYRAMID = {
    enlarged_a_thousandfold: "constant 'doubled' is not that of its config",
    enlarged_to_a_size: r"\('Resize'\) is not the one",
    enlarged_from_elsewhere: r"\('Resize'\) is not the one",
    enlarged_smoothly: r"\('Resize'\) is not the one",
    a_part_enlarged: r"\('Resize'\) is not the one",
    a_nameless_array: "nothing refers to its array ''",
    a_nameless_output: "gives what is there already",
    unlimited: "constant 'six' is not that of its config",
    every_channel_sees_every_other: r"\('Conv'\) is not the one that gives 'features.blocks.0.depthwise.sum'",
    padded_on_the_other_side: r"\('Conv'\) is not the one that gives 'features.stem.sum'",
    a_level_twice: r"\('Concat'\) is not the one",
    added_to_itself: r"\('Add'\) is not the one",
    another_column: "constant 'shape/column' is not that of its config",
    a_shared_kernel_of_another_shape: r"weights of class_tower.0.depthwise.\d are \(16, 1, 1, 3\) float32",
    a_bias_where_there_is_none: r"\('Conv'\) is not the one that gives 'class_tower.0.depthwise.1'",
}


@pytest.mark.parametrize("change", HOSTILE_PYRAMID, ids=lambda change: change.__name__.replace("_", " "))
def test_another_pyramid_is_refused_with_a_sentence(pyramid, change):
    config, model = pyramid
    other = onnx.ModelProto()
    other.CopyFrom(model)
    read_graph(other.SerializeToString(), config, NAMES)
    change(other)
    with pytest.raises(EngineError, match=HOSTILE_PYRAMID[change]) as refusal:
        OnnxEngine(other.SerializeToString(), config, NAMES)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 500


def test_a_file_is_not_held_against_more_than_it_can_be(model):
    """A sidecar of a few bytes can describe a graph that no memory holds."""
    sizes = [np.linspace(0.1, 0.9, 2000).tolist()] * 4
    huge = a_config(*PYRAMID, "data.image_side=2048", f"model.sizes={sizes}")
    assert count_anchors(huge) == 2002 * (256**2 + 128**2 + 64**2 + 32**2)
    tracemalloc.start()
    try:
        with pytest.raises(EngineError, match=r"it has [\d,]+ bytes, and the 174,254,080 anchors of its config take"):
            read_graph(model.SerializeToString(), huge, NAMES)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_even_the_largest_network_has_room_for_its_structure():
    config = a_config(
        *LITE,
        *("model.backbone=efficientnet_lite2", "model.pyramid=8", "model.towers=8", "data.image_side=128"),
        *("model.levels=[8,16,32,64,128]", "model.sizes=[[0.1],[0.2],[0.3],[0.4],[0.5]]", "model.ratios=[1]"),
    )
    int8 = quantize(build_graph(some_weights(config), config, NAMES), some_pictures(1, 128))
    bare = sum(len(array.raw_data) for array in int8.graph.initializer)
    assert len(int8.SerializeToString()) - bare < STRUCTURE / 2
    require_safe(int8, config, NAMES)


@pytest.mark.parametrize("change", HOSTILE, ids=lambda change: change.__name__.replace("_", " "))
def test_another_graph_is_refused_with_a_sentence(model, config, change):
    other = onnx.ModelProto()
    other.CopyFrom(model)
    change(other)
    with pytest.raises(EngineError, match=HOSTILE[change]) as refusal:
        OnnxEngine(other.SerializeToString(), config, NAMES)
    assert str(refusal.value).endswith("Take the file as 'ena24ssd export' wrote it, or export the run again")
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 500


def quantised_otherwise(model):
    node_of(model, "QuantizeLinear").attribute.append(helper.make_attribute("axis", 3))


def scale_of_zero(model):
    set_numbers(model, "features.joined_scale", np.zeros_like)


def scale_of_many(model):
    set_numbers(model, "features.joined_scale", lambda values: np.ones((2, 2), np.float32))


def another_bias(model):
    name = next(node.input[0] for node in model.graph.node if node.output[:1] == ["features.conv31.bias.again"])
    set_numbers(model, name, lambda values: values[:3])


def chain(model):
    node_of(model, "DequantizeLinear").op_type = "Relu"


@pytest.mark.parametrize(
    "change, said",
    [
        (quantised_otherwise, "is none of this network"),
        (scale_of_zero, "'features.joined_scale' is no scale of bytes"),
        (scale_of_many, "'features.joined_scale' is no scale of bytes"),
        (another_bias, r"features.conv31 are \(3,\) int32"),
        (chain, "ONNX graph is not that of a network of its config"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_another_int8_graph_is_refused_with_a_sentence(int8, config, change, said):
    other = onnx.ModelProto()
    other.CopyFrom(int8)
    change(other)
    with pytest.raises(EngineError, match=said):
        read_graph(other.SerializeToString(), config, NAMES)


@pytest.mark.parametrize("kind", ["model", "int8"])
@pytest.mark.parametrize(
    "overrides, names, said",
    [
        ((), NAMES[:2], "tells 3 species apart, and its config names 2"),
        (("model.sizes=[0.2]",), NAMES, r"has 81 anchors, and a network of its config 36"),
        (("data.image_side=47",), NAMES, "of shape \\[None, 47, 47, 3\\]"),
        (("data.mean=[0,0,0]",), NAMES, "'mean' is not that of its config"),
        (("model.width=0.08",), NAMES, r"weights of features.conv31 are \(8, 3, 3, 3\)"),
        (("model.sizes=[0.2,0.44,0.52,0.62,0.71,0.85]",), NAMES, "'anchors' is not that of its config"),
    ],
    ids=["species", "anchors", "side", "pixels", "width", "sizes"],
)
def test_a_graph_of_another_config_is_refused(kind, overrides, names, said, request):
    content = request.getfixturevalue(kind).SerializeToString()
    with pytest.raises(EngineError, match=said):
        read_graph(content, a_config(*overrides), names)


NO_GRAPHS = {
    "nothing": (b"", "has 0 bytes, and the 81 anchors of its config take 1,296"),
    "a page": (b"<!DOCTYPE html>" + b"<p>404</p>" * 200, "damaged, or cut short"),
    "noise": (np.random.default_rng(0).bytes(5000), "damaged, or cut short"),
    "zeros": (bytes(5000), "damaged, or cut short"),
    "a text that is no text": (b"\x12\x02\xff\xff\x08\x08" + b"\x1a\x00" * 1000, "damaged|of format 8"),
}


@pytest.mark.parametrize("content, said", NO_GRAPHS.values(), ids=NO_GRAPHS)
def test_what_is_no_graph_is_refused_with_a_sentence(config, content, said):
    with pytest.raises(EngineError, match=said):
        OnnxEngine(content, config, NAMES)


def test_a_file_that_is_cut_short_anywhere_is_refused(int8, config):
    content = int8.SerializeToString()
    for length in (*range(0, 200, 7), *np.linspace(200, len(content) - 1, 40).astype(int)):
        with pytest.raises(EngineError):
            read_graph(content[:length], config, NAMES)


def test_a_larger_file_than_the_network_needs_is_not_even_parsed(model, config, monkeypatch):
    monkeypatch.setattr(onnx.ModelProto, "FromString", None, raising=False)
    content = model.SerializeToString()
    with pytest.raises(EngineError, match=r"it has [\d,]+ bytes, and one of its config [\d,]+ at most"):
        read_graph(content + bytes(2**21), config, NAMES)


HARM = """
import random, sys
from pathlib import Path
import numpy as np
from ena24ssd.config import read_config
from ena24ssd.engine import EngineError
from ena24ssd.memory import peak_memory
from ena24ssd.onnx.engine import OnnxEngine
from ena24ssd.onnx.safety import read_graph

names, config = {names}, read_config(None, {overrides})
contents, dice = [open(file, "rb").read() for file in sys.argv[1:]], random.Random(1)
pictures = np.zeros((1, 48, 48, 3), np.uint8)
for content in contents:
    OnnxEngine(content, config, names, runtime="onnxruntime", threads=1).detect(pictures)
before, refused, ran = peak_memory(), 0, 0
if Path("/proc/self/statm").exists():
    import resource
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + 2**30, resource.RLIM_INFINITY))

def number(value):
    parts = b""
    while value > 127:
        parts, value = parts + bytes([value & 127 | 128]), value >> 7
    return parts + bytes([value])

def nested(*parts):  # field by field, each in the one before
    content = parts[-1]
    for field in parts[-2::-1]:
        content = number(field << 3 | 2) + number(len(content)) + content
    return content

large = read_config(None)  # whose graph may have 39 MB
node, array, attribute = b"\\x0a\\x00", b"\\x2a\\x00", b"\\x2a\\x00"
extent, opset = b"\\x08\\x01", b"\\x42\\x00"
for path, filling in (((7,), node), ((7,), array), ((7, 1), attribute), ((7, 5), extent), ((), opset)):
    try:
        read_graph(nested(*path, filling * 10_000_000), large, names)
    except EngineError as refusal:
        assert "no weights" in str(refusal), refusal
        refused += 1
assert refused == 5

for _ in range(300):
    content = bytearray(dice.choice(contents))
    for _ in range(dice.choice((1, 1, 3, 30))):
        # Where the structure is, more often than in the weights.
        place = dice.choice((dice.randrange(len(content)), dice.randrange(12_000), -dice.randrange(1, 2_000)))
        how = dice.randrange(4)
        if how == 0:
            content[place] ^= 1 << dice.randrange(8)
        elif how == 1:
            content[place] = dice.choice((0, 127, 128, 255))
        elif how == 2:
            del content[place : place + dice.randrange(1, 50)]
        else:
            content[place:place] = content[dice.randrange(len(content)) :][: dice.randrange(1, 50)]
    try:
        rows = OnnxEngine(bytes(content), config, names, runtime="onnxruntime", threads=1).detect(pictures)
        assert rows.shape == (1, 60, 6)
        ran += 1
    except EngineError as refusal:
        assert "\\n" not in str(refusal)
        refused += 1
print(refused, ran, (peak_memory() - before) // 2**20)
"""


def test_damaged_files_neither_fill_the_memory_nor_crash(model, int8, tmp_path):
    for kind, content in (("float", model), ("int8", int8)):
        (tmp_path / f"{kind}.onnx").write_bytes(content.SerializeToString())
    code = textwrap.dedent(HARM).format(names=NAMES, overrides=list(SMALL))
    command = [sys.executable, "-c", code, *map(str, sorted(tmp_path.glob("*.onnx")))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    refused, ran, megabytes = map(int, done.stdout.split())
    assert refused > 150 and ran > 5
    assert megabytes < 300
