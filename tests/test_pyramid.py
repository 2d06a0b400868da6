"""Do both engines compute the same with the light network, on every level?  And what a convolution should?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

pytest.importorskip("mxnet", reason="the gluon extra is not installed", exc_type=ImportError)
pytest.importorskip("torch", reason="the pytorch extra is not installed")

import mxnet  # before torch: they get along in this order alone
import torch
from asked import SPECIES, a_batch, assert_equal, tiny_config, tiny_engine
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import ena24ssd.gluon.efficientnet
import ena24ssd.pytorch.efficientnet
from ena24ssd.data import Batch
from ena24ssd.efficientnet import EPSILON, Block
from ena24ssd.engine import Engine
from ena24ssd.gluon.symbol import SymbolNetwork, export_symbol

ENGINES = ("gluon", "pytorch")


# -- one block, by hand ---------------------------------------------------------------------------------------------


def convolve(x: np.ndarray, weight: np.ndarray, stride: int, groups: int) -> np.ndarray:
    """TensorFlow's "same" convolution of (B, c, S, S), pixel by pixel: what is missing is padded, the less in front."""
    kernel, side = weight.shape[-1], x.shape[-1]
    leaving = -(-side // stride)
    missing = max((leaving - 1) * stride + kernel - side, 0)
    around = missing // 2, missing - missing // 2
    padded = np.pad(x, ((0, 0), (0, 0), around, around))
    each = weight.shape[1]  # entering channels of a group
    answer = np.zeros((len(x), len(weight), leaving, leaving))
    for channel, taps in enumerate(weight):
        first = channel // (len(weight) // groups) * each
        for row in range(leaving):
            for column in range(leaving):
                top, left = row * stride, column * stride
                window = padded[:, first : first + each, top : top + kernel, left : left + kernel]
                answer[:, channel, row, column] = (window * taps).sum(axis=(1, 2, 3))
    return answer


def block_by_hand(x: np.ndarray, block: Block, weights: dict[str, np.ndarray]) -> np.ndarray:
    y, layers = x, ("expand", "depthwise", "project") if block.expands else ("depthwise", "project")
    for layer in layers:
        stride, groups = (block.stride, block.inner) if layer == "depthwise" else (1, 1)
        y = convolve(y, weights[f"{layer}.conv.weight"], stride, groups)
        gamma, beta, mean, var = (
            weights[f"{layer}.norm.{part}"][:, None, None] for part in ("gamma", "beta", "running_mean", "running_var")
        )
        y = (y - mean) / np.sqrt(var + EPSILON) * gamma + beta
        y = y if layer == "project" else np.clip(y, 0, 6)
    return x + y if block.is_residual else y


BLOCKS = {
    "3x3, residual": Block(4, 24, 4, 3, 1),
    "5x5, residual": Block(4, 24, 4, 5, 1),
    "3x3, halved": Block(4, 24, 6, 3, 2),
    "5x5, halved": Block(4, 24, 6, 5, 2),
    "not widened": Block(8, 8, 4, 3, 1),
    "other channels at the same side": Block(4, 24, 8, 5, 1),
}


@pytest.mark.parametrize("side", [2, 4, 8])
@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_is_what_is_computed_by_hand(name, side):
    block, random = BLOCKS[name], np.random.default_rng(side)
    x = random.normal(size=(2, block.entering, side, side)).astype(np.float32)
    ours = ena24ssd.gluon.efficientnet.InvertedResidual(block, frozen=False)
    ours.initialize()
    ours.hybridize(static_alloc=True, static_shape=True)
    theirs = ena24ssd.pytorch.efficientnet.InvertedResidual(block, frozen=False).eval()
    weights = lifelike({name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()}, random)
    weights["depthwise.norm.beta"] += 4  # some beyond 6
    theirs.load_state_dict({name: torch.from_numpy(values) for name, values in weights.items()})
    for name, parameter in ours._collect_params_with_prefix().items():
        parameter.set_data(mxnet.np.array(weights[name]))
    expected = block_by_hand(x, block, weights)
    assert np.abs(ours(mxnet.np.array(x)).asnumpy() - expected).max() <= 1e-5
    with torch.inference_mode():
        assert np.abs(theirs(torch.from_numpy(x)).numpy() - expected).max() <= 1e-5


# -- the network, and a step of it ----------------------------------------------------------------------------------


def lifelike(shapes: dict[str, tuple[int, ...]], random: np.random.Generator) -> dict[str, np.ndarray]:
    """Weights with which a signal goes through many layers and neither dies nor grows; every value is its own."""
    weights = {}
    for name, shape in shapes.items():
        if name.endswith(("running_mean", "beta", "bias")):
            values = random.normal(0, 0.1, shape)
        elif name.endswith(("running_var", "gamma")):
            values = random.uniform(0.8, 1.2, shape)
        else:
            values = random.normal(0, np.sqrt(1.5 / np.prod(shape[1:])), shape)
        weights[name] = values.astype(np.float32)
    return weights


class Network(NamedTuple):
    """Both engines with the same weights and statistics, and what they are asked."""

    name: str
    gluon: Engine
    pytorch: Engine
    batch: Batch

    @property
    def engines(self) -> tuple[Engine, Engine]:
        return self.gluon, self.pytorch

    def pixels(self) -> np.ndarray:
        return np.random.default_rng(0).normal(size=(2, 3, *self.batch.images.shape[1:3])).astype(np.float32)


def choices(variant: int, levels: list[int], towers: int, frozen: str, side: int, *others: str) -> tuple[str, ...]:
    """A config's, with two sizes and three ratios on every level."""
    sizes = [[round(3 * stride / side, 2), round(5 * stride / side, 2)] for stride in levels]
    model = {
        "backbone": f"efficientnet_lite{variant}",
        "width": 1,
        "levels": levels,
        "sizes": sizes if len(sizes) > 1 else sizes[0],
        "ratios": [1, 0.5, 2],
        "pyramid": 16,
        "towers": towers,
        "frozen_statistics": frozen,
    }
    network = (*(f"model.{name}={value}" for name, value in model.items()), f"data.image_side={side}")
    return (*network, "optim.name=sgd", "optim.lr=0.001", *others)


def make_network(*overrides: str, name: str = "") -> Network:
    ours, theirs = (tiny_engine(engine, *overrides) for engine in ENGINES)
    shapes = [{name: values.shape for name, values in engine.weights().items()} for engine in (ours, theirs)]
    assert shapes[0] == shapes[1], "the same structural names"
    weights = lifelike(shapes[0], np.random.default_rng(2))
    for engine in (ours, theirs):
        engine.load_weights(weights)
    (side,) = [word.partition("=")[2] for word in overrides if word.startswith("data.image_side")]
    return Network(name, ours, theirs, a_batch(side=int(side)))


NETWORKS = {
    "one level, all statistics frozen": choices(0, [32], 2, "true", 64),
    "one level without towers": choices(0, [32], 0, "true", 64),
    "the backbone's levels": choices(0, [8, 16, 32], 2, "true", 64),
    "a level above, statistics of the backbone frozen": choices(0, [8, 16, 32, 64], 2, "backbone", 64),
    "levels from its last on, statistics of the backbone frozen": choices(0, [32, 64, 128], 2, "backbone", 128),
    "levels from its last on, without towers": choices(0, [32, 64, 128], 0, "true", 128),
    "Lite1": choices(1, [8, 16, 32, 64], 2, "true", 64),
    "Lite2": choices(2, [8, 16, 32, 64], 0, "true", 64),
    "all statistics learn": choices(0, [8, 16, 32, 64], 2, "false", 128),
    "all statistics learn, with one pixel on the coarsest level": choices(0, [16, 32, 64], 0, "false", 64),
    "a list of ratios for each level": choices(
        0, [16, 32], 0, "backbone", 64, "model.sizes=[[0.2],[0.4,0.6]]", "model.ratios=[[1,2],[0.7]]"
    ),
}


@pytest.fixture(params=NETWORKS, scope="module")
def network(request) -> Network:
    return make_network(*NETWORKS[request.param], name=request.param)


def test_the_same_weights_see_the_same(network):
    pixels, net = network.pixels(), network.pytorch.net.eval()
    ours = network.gluon.net.features(mxnet.np.array(pixels))
    with torch.inference_mode():
        theirs = net.features(torch.from_numpy(pixels))
    assert list(theirs) == [8, 16, 32]
    for map_, (stride, other) in zip(ours, theirs.items()):
        assert (
            map_.shape == tuple(other.shape) == (2, net.features.channels[stride], *(pixels.shape[-1] // stride,) * 2)
        )
        assert np.abs(map_.asnumpy() - other.numpy()).max() <= 1e-5 * np.abs(other.numpy()).max()


def test_the_same_weights_give_the_same_answers(network):
    pixels = network.pixels()
    ours = [part.asnumpy() for part in network.gluon.net(mxnet.np.array(pixels))]
    with torch.inference_mode():
        theirs = [part.numpy() for part in network.pytorch.net.eval()(torch.from_numpy(pixels))]
    assert [part.shape for part in ours] == [part.shape for part in theirs]
    assert np.array_equal(ours[0], theirs[0]), "anchors, bit for bit"
    for mine, other in zip(ours[1:], theirs[1:]):
        assert np.abs(mine - other).max() <= 1e-5 * np.abs(other).max()


def test_a_measured_batch_has_the_same_figures_and_detections(network):
    ours, theirs = (engine.measure_step(network.batch) for engine in network.engines)
    rows = [each.rows() for each in (ours, theirs)]
    assert np.array_equal(rows[0][..., 0], rows[1][..., 0]) and np.abs(rows[0] - rows[1]).max() <= 1e-4
    assert (rows[0][..., 0] >= 0).any(), "or nothing was found"
    assert theirs.read().to_vector() == pytest.approx(ours.read().to_vector(), rel=1e-5, abs=1e-6)
    assert np.array_equal(network.pytorch.detect(network.batch.images), rows[1])


def test_a_training_step_has_the_same_loss_figures_gradient_weights_and_statistics(network):
    steps = [engine.train_step(network.batch) for engine in network.engines]
    ours, theirs = (each.read().to_vector() for each in steps)
    assert [each.fault() for each in steps] == [None, None]
    assert theirs == pytest.approx(ours, rel=2e-5, abs=1e-6), "all sums; counts are whole numbers"
    assert_equal(*(engine.weights() for engine in network.engines), 1e-4)
    gradients = [engine.gradients() for engine in network.engines]
    assert_near(*gradients, 0.05)
    config = tiny_config("gluon", *NETWORKS[network.name])
    if config.data.image_side == 64 and config.model.freezes_backbone:
        assert_same_gradients(*gradients)


def assert_near(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], least: float) -> None:
    """The gradient as a whole, relative to its length.

    No more can be asked of many pixels: a few are within a rounding of a corner of ReLU6, where the engines, and either
    of them and float64, take different slopes. So it is with statistics of three pixels.
    """
    assert ours.keys() == theirs.keys() and ours
    ours, theirs = (np.concatenate([each[name].ravel() for name in ours]) for each in (ours, theirs))
    assert np.linalg.norm(ours - theirs) <= least * np.linalg.norm(ours)


def assert_same_gradients(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    """Every tensor's, relative to its largest entry. What a BatchNorm that learns takes away again has a gradient of
    nothing but roundings; they are held against the largest entry of all.
    """
    largest = max(np.abs(values).max() for values in ours.values())
    for name, values in ours.items():
        assert np.abs(values - theirs[name]).max() <= 1e-4 * np.abs(values).max() + 1e-6 * largest, name


# -- the gluon network by itself ------------------------------------------------------------------------------------

LIGHT = choices(0, [16, 32, 64], 1, "backbone", 64)


def test_an_exported_graph_finds_the_same_to_the_last_bit(tmp_path):
    engine, config = tiny_engine("gluon", *LIGHT), tiny_config("gluon", *LIGHT)
    weights = lifelike({name: values.shape for name, values in engine.weights().items()}, np.random.default_rng(3))
    engine.load_weights(weights)
    names = export_symbol(weights, config, SPECIES, tmp_path, "net")
    assert set(names.values()) == set(weights)
    graph = SymbolNetwork(tmp_path / "net-symbol.json", tmp_path / "net-0000.params", config, SPECIES)
    for pictures in (1, 3):
        images = a_batch(pictures=pictures, side=64).images
        assert np.array_equal(graph.detect(images), engine.detect(images))
    export_symbol(weights, config, SPECIES, tmp_path / "again", "net")
    for file in ("net-symbol.json", "net-0000.params"):
        assert (tmp_path / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


def test_what_is_behind_a_backbone_that_does_not_learn_learns_as_before():
    batch, steps = a_batch(side=64), []
    weights = lifelike(
        {name: values.shape for name, values in tiny_engine("gluon", *LIGHT).weights().items()},
        np.random.default_rng(3),
    )
    for head_epochs in (0, 1):
        engine = tiny_engine("gluon", *LIGHT, f"optim.head_epochs={head_epochs}", "optim.clip_norm=null")
        engine.load_weights(weights)
        engine.train_step(batch).read()
        steps.append((engine.gradients(), engine.weights()))
    (whole, _), (heads, after) = steps
    assert set(heads) == {name for name in whole if not name.startswith("features.")}
    assert_same_gradients(heads, whole)
    for name, values in after.items():
        assert name.startswith("features.") == np.array_equal(values, weights[name]), name


def test_two_devices_make_the_step_of_one():
    batch, steps = a_batch(side=64, pictures=4), []
    frozen = (*LIGHT, "model.frozen_statistics=true")
    weights = None
    for device in ("cpu", "[cpu:0,cpu:1]"):
        engine = tiny_engine("gluon", *frozen, f"device={device}")
        weights = weights or lifelike(
            {name: values.shape for name, values in engine.weights().items()}, np.random.default_rng(3)
        )
        engine.load_weights(weights)
        loss = engine.train_step(batch).read().loss
        steps.append((loss, engine.gradients()))
    assert steps[1][0] == pytest.approx(steps[0][0], rel=1e-5)
    assert_same_gradients(*(gradients for _, gradients in steps))


def test_statistics_follow_those_of_the_pictures_in_both_engines():
    """Of every layer, after three steps that move nothing else."""
    network = make_network(*choices(0, [8, 16, 32], 1, "false", 128, "optim.weight_decay=0"))
    for engine in network.engines:
        engine.learning_rate = 0
        for seed in range(3):
            engine.train_step(a_batch(seed, side=128)).read()
    ours, theirs = (engine.weights() for engine in network.engines)
    statistics = [name for name in ours if "running" in name]
    assert len(statistics) > 100
    before = lifelike({name: values.shape for name, values in ours.items()}, np.random.default_rng(2))
    for name, values in ours.items():
        assert np.array_equal(values, before[name]) == (name not in statistics), name
        assert np.abs(values - theirs[name]).max() <= 1e-4 * np.abs(values).max(), name


def test_the_graph_reaches_tensorboard(tmp_path):
    board = tiny_engine("gluon", *LIGHT).open_board(tmp_path)
    board.graph()
    board.flush()
    board.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    operators = [node.op for node in events.Graph().node]
    assert sum("Convolution" in each for each in operators) > 60


FAULTS = {
    "a weight": (
        "features.blocks.3.depthwise.conv.weight",
        np.nan,
        "the weights features.blocks.3.depthwise.conv.weight",
    ),
    "a layer of the backbone": ("features.blocks.3.project.norm.gamma", 3e38, "features.blocks.3.project.norm"),
    "a layer of the pyramid": ("pyramid.lateral.1.norm.gamma", 3e38, "pyramid.lateral.1.norm"),
    "a level's own layer": ("class_tower.0.norms.2.beta", 3e38, "class_predict.0"),
    "an answer": ("bbox_predict.0.weight", 3e38, "bbox_predict.0"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_by_its_layer(fault):
    name, value, layer = FAULTS[fault]
    engine = tiny_engine("gluon", *LIGHT)
    weights = lifelike({each: values.shape for each, values in engine.weights().items()}, np.random.default_rng(3))
    weights[name][...] = value
    if fault == "a level's own layer":  # ReLU6 has cut it off before anybody could see it
        weights["class_predict.0.weight"][...] = 3e38
    engine.load_weights(weights)
    assert layer in engine.find_fault(a_batch(side=64), learns=True)
