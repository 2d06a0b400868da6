"""What does a network look like that has left the training machine?

One ONNX graph, from the bytes of pictures to boxes: normalisation, the network with its BatchNorm folded into the
convolutions, softmax, offsets to corners, non-maximum suppression. It gives the rows of `Network.detect`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ena24ssd.anchors import lay_out
from ena24ssd.engine import EngineError, require_weights
from ena24ssd.onnx.networks import draw_network
from ena24ssd.onnx.nodes import Graph, Layer
from ena24ssd.onnx.reading import OUTPUT, read_off, set_reading
from ena24ssd.prior import prior

if TYPE_CHECKING:
    from ena24ssd.config import RunConfig

INPUT = "pictures"
OPSET, IR_VERSION = 17, 8  # what ONNX Runtime 1.12 and OpenVINO 2023 read, and all after them


class Skeleton(NamedTuple):
    """A graph but for kernels and biases, which it calls as `Layer.arrays` says."""

    layers: tuple[Layer, ...]  # in the order they compute
    idle: tuple[Layer, ...]  # which are in the weights, but not in the graph: no box depends on them
    nodes: list[onnx.NodeProto]
    constants: dict[str, np.ndarray]
    anchors: int  # N


def build_graph(weights: Mapping[str, np.ndarray], config: RunConfig, class_names: Sequence[str]) -> onnx.ModelProto:
    """The graph of a network with these weights (`Engine.weights`).

    Input ``pictures`` (B, S, S, 3) uint8, RGB, of any B. Output ``detections`` (B, K, 6) float32 as `Network.detect`
    gives them; all NaN for a picture whose answers are no finite numbers. Raises ValueError for weights of another
    network, and EngineError for weights that are no finite numbers.
    """
    skeleton = draw_skeleton(config, len(class_names))
    require_weights(weights, shapes_of_weights(skeleton))
    arrays = skeleton.constants.copy()
    for layer in skeleton.layers:
        arrays |= zip(layer.arrays, _fold(weights, layer))
    side = config.data.image_side
    graph = helper.make_graph(
        skeleton.nodes,
        "ena24ssd",
        [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["B", side, side, 3])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["B", skeleton.anchors, 6])],
        [numpy_helper.from_array(values, name) for name, values in arrays.items()],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="ena24ssd")
    set_reading(model, config.evaluation)
    return model


def draw_skeleton(config: RunConfig, classes: int) -> Skeleton:
    """The graph for so many species, without weights."""
    graph = Graph()
    levels = lay_out(config.model.anchors, config.data.image_side)
    corners = np.concatenate([prior(level.cells, level.cells, level.sizes, level.ratios) for level in levels])

    x = graph.add("Cast", graph.add("Transpose", INPUT, perm=[0, 3, 1, 2]), to=TensorProto.FLOAT)
    scales = {"level": [255.0] * 3, "mean": config.data.mean, "std": config.data.std}
    for (name, values), kind in zip(scales.items(), ("Div", "Sub", "Div")):
        x = graph.add(kind, x, graph.constant(name, np.float32(values).reshape(-1, 1, 1)))
    logits, offsets = draw_network(graph, x, config.model, classes)
    read_off(graph, logits, offsets, corners, classes)
    return Skeleton(tuple(graph.layers), tuple(graph.idle), graph.nodes, graph.constants, len(corners))


def count_anchors(config: RunConfig) -> int:
    """N, of all levels."""
    return sum(level.cells**2 * level.per_cell for level in lay_out(config.model.anchors, config.data.image_side))


def shapes_of_weights(skeleton: Skeleton) -> dict[str, tuple[int, ...]]:
    """Every array of the weights that a graph is made of."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in (*skeleton.layers, *skeleton.idle):
        shapes[f"{layer.source}.weight"] = layer.kernel
        if layer.has_bias:
            shapes[f"{layer.source}.bias"] = (layer.leaving,)
        if layer.norm:
            for part in ("gamma", "beta", "running_mean", "running_var"):
                shapes[f"{layer.norm}.{part}"] = (layer.leaving,)
    return shapes


def _fold(weights: Mapping[str, np.ndarray], layer: Layer) -> list[np.ndarray]:
    """Kernel of a convolution that has the BatchNorm behind it in it, float32, and its bias if it has one.

    Computed in float64.
    """

    def parts(name: str, *names: str) -> list[np.ndarray]:
        return [np.asarray(weights[f"{name}.{part}"], np.float64) for part in names]

    (kernel,) = parts(layer.source, "weight")
    bias = parts(layer.source, "bias")[0] if layer.has_bias else np.zeros(layer.leaving)
    with np.errstate(invalid="ignore", over="ignore"):
        if layer.norm:
            gamma, beta, mean, variance = parts(layer.norm, "gamma", "beta", "running_mean", "running_var")
            scale = gamma / np.sqrt(variance + layer.epsilon)
            kernel, bias = kernel * scale[:, None, None, None], (bias - mean) * scale + beta
        kernel, bias = kernel.astype(np.float32), bias.astype(np.float32)
    if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
        raise EngineError(
            f"the weights of {layer.name} are no finite numbers: the network has diverged. Export an earlier "
            "checkpoint, or train with a lower optim.lr"
        )
    return [kernel, bias][: len(layer.arrays)]
