"""What does a network look like that has left the training machine?

One ONNX graph, from the bytes of pictures to boxes: normalisation, the network with its BatchNorm folded into the
convolutions, softmax, offsets to corners, non-maximum suppression. It gives the rows of `Network.detect`, in the same
order of float32 operations, so that ties fall the same way.

What reads boxes off the network stays changeable in a finished graph: see `set_reading`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ena24ssd.anchors import count_cells
from ena24ssd.engine import EngineError, require_weights

if TYPE_CHECKING:
    from ena24ssd.config import EvaluationConfig, ModelConfig, RunConfig

INPUT, OUTPUT = "pictures", "detections"
JOINED = "features.joined"  # what the convolutions on the picture give, together
OPSET, IR_VERSION = 17, 8  # what ONNX Runtime 1.12 and OpenVINO 2023 read, and all after them
EPSILON = 1e-5  # of BatchNorm
VARIANCES = (0.1, 0.2)  # of centres and of sizes: offsets are multiples of these
LARGEST = 3e38  # of float32; what is not below it is no number, or no finite one
READING = "reading/"  # the names of the constants that `set_reading` replaces start with it
NO_NUMBER = "no number"  # the constant that stands for a diverged network


class Layer(NamedTuple):
    """A convolution of the network, and the BatchNorm that follows it."""

    name: str  # as in the weights; in the graph, of what comes out of it
    norm: str | None
    entering: int  # channels
    leaving: int
    size: int  # of the kernel
    stride: int
    relu: bool

    @property
    def kernel(self) -> tuple[int, ...]:
        return self.leaving, self.entering, self.size, self.size


class Layers(NamedTuple):
    """The network's convolutions, in the order they compute."""

    side_by_side: tuple[Layer, ...]  # on the picture; their channels are joined
    backbone: tuple[Layer, ...]
    classes: tuple[Layer, ...]
    boxes: tuple[Layer, ...]

    @property
    def all(self) -> tuple[Layer, ...]:
        return self.side_by_side + self.backbone + self.classes + self.boxes


class Skeleton(NamedTuple):
    """A graph but for kernels and biases, which it calls ``<layer>.weight`` and ``<layer>.bias``."""

    layers: Layers
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
    require_weights(weights, _shapes_of_weights(skeleton.layers))
    arrays = skeleton.constants.copy()
    for layer in skeleton.layers.all:
        arrays[f"{layer.name}.weight"], arrays[f"{layer.name}.bias"] = _fold(weights, layer)
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


def set_reading(model: onnx.ModelProto, evaluation: EvaluationConfig) -> None:
    """Have a graph of `build_graph`, quantised or not, read boxes off the network in this way.

    Of the config's evaluation section: ``floor``, ``nms``, ``class_agnostic_nms`` and ``candidates``.
    """
    arrays = {array.name: array for array in model.graph.initializer}
    shown = min(evaluation.candidates, arrays["anchors"].dims[0])
    values = {
        "floor": np.float32(evaluation.floor),
        # The operator suppresses what is above the threshold, the engines what reaches it.
        "overlap": np.nextafter(np.float32([evaluation.nms]), np.float32(0)),
        "species": np.int64(not evaluation.class_agnostic_nms),
        "candidates": np.int64([shown]),
    }
    for name, value in values.items():
        arrays[READING + name].CopyFrom(numpy_helper.from_array(np.asarray(value), READING + name))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = shown


def draw_skeleton(config: RunConfig, classes: int) -> Skeleton:
    """The graph for so many species, without weights."""
    layers, graph = layers_of(config.model, classes), _Graph()
    corners = prior(count_cells(config.data.image_side), config.model.sizes, config.model.ratios)

    x = graph.add("Cast", graph.add("Transpose", INPUT, perm=[0, 3, 1, 2]), to=TensorProto.FLOAT)
    scales = {"level": [255.0] * 3, "mean": config.data.mean, "std": config.data.std}
    for (name, values), kind in zip(scales.items(), ("Div", "Sub", "Div")):
        x = graph.add(kind, x, graph.constant(name, np.float32(values).reshape(-1, 1, 1)))

    x = graph.add("Concat", *(graph.convolve(layer, x) for layer in layers.side_by_side), name=JOINED, axis=1)
    for layer in layers.backbone:
        x = graph.convolve(layer, x)
    logits, offsets = x, x
    for layer in layers.classes:
        logits = graph.convolve(layer, logits)
    for layer in layers.boxes:
        offsets = graph.convolve(layer, offsets)
    _read_off(graph, logits, offsets, corners, classes)
    return Skeleton(layers, graph.nodes, graph.constants, len(corners))


def layers_of(config: ModelConfig, classes: int) -> Layers:
    """The network's layers for so many species."""

    def channels(count: int) -> int:
        return max(1, round(count * config.width))

    on_picture = [("conv31", "bn1", 200, 3), ("conv51", "bn2", 100, 5), ("conv71", "bn3", 50, 7)]
    first = tuple(
        Layer(f"features.{name}", f"features.{norm}", 3, channels(count), size, 1, True)
        for name, norm, count, size in on_picture
    )
    entering, deep = sum(layer.leaving for layer in first), []
    for name, norm, count, size, stride in (
        ("conv11", "bn4", 300, 1, 1),
        ("conv32", "bn5", 350, 3, 2),
        ("conv33", "bn6", 400, 3, 2),
        ("conv34", "bn7", 450, 3, 2),
        ("conv35", "bn8", 500, 3, 2),
    ):
        deep.append(Layer(f"features.{name}", f"features.{norm}", entering, channels(count), size, stride, True))
        entering = channels(count)

    each = len(config.sizes) + len(config.ratios) - 1  # anchors of a cell
    norms = ("class_predict.1", "bbox_predict.10") if config.output_batchnorm else (None, None)
    classes_head = Layer("class_predict.0", norms[0], entering, each * (classes + 1), 3, 1, False)
    boxes = []
    for number, count in zip((0, 3, 6), (380, 220, 120)):
        name, norm = f"bbox_predict.{number}", f"bbox_predict.{number + 1}"
        boxes.append(Layer(name, norm, entering, channels(count), 3, 1, True))
        entering = channels(count)
    boxes.append(Layer("bbox_predict.9", norms[1], entering, each * 4, 3, 1, False))
    return Layers(first, tuple(deep), (classes_head,), tuple(boxes))


def prior(cells: int, sizes: Sequence[float], ratios: Sequence[float]) -> np.ndarray:
    """The anchors of a square feature map, row by row, cell by cell: (N, 4) float32 unit corners.

    In float32 throughout, as the engines compute them: NMS compares overlaps that the last bit may decide.
    """
    one, half = np.float32(1), np.float32(0.5)
    sizes, roots = np.asarray(sizes, np.float32), np.sqrt(np.asarray(ratios, np.float32))
    size = np.concatenate([sizes, np.repeat(sizes[:1], len(roots) - 1)])
    root = np.concatenate([np.repeat(roots[:1], len(sizes)), roots[1:]])
    across = size * np.float32(cells) / np.float32(cells) * root  # which is not always size * root
    extent = np.stack([across, size / root], axis=1) / np.float32(2)  # (A, 2)
    centre = (np.arange(cells, dtype=np.float32) + half) * (one / np.float32(cells))
    y, x = np.meshgrid(centre, centre, indexing="ij")
    middle = np.stack([x, y], axis=-1)[:, :, None]  # (cells, cells, 1, 2)
    return np.concatenate([middle - extent, middle + extent], axis=-1).reshape(-1, 4)


class _Graph:
    """Nodes and constants as they come; a node is called as what it gives."""

    def __init__(self):
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def add(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """A node, and the name of what it gives."""
        name = name or f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def add_twofold(self, kind: str, *inputs: str, **attributes: Any) -> tuple[str, str]:
        """A node that gives two things."""
        name = f"{kind.lower()}{len(self.nodes)}"
        names = f"{name}.0", f"{name}.1"
        self.nodes.append(helper.make_node(kind, inputs, names, name=name, **attributes))
        return names

    def constant(self, name: str, values: Any, kind: type = np.float32) -> str:
        self.constants[name] = np.asarray(values, dtype=kind)
        return name

    def convolve(self, layer: Layer, x: str) -> str:
        """A layer, with the ReLU behind it."""
        shape = {"kernel_shape": [layer.size] * 2, "strides": [layer.stride] * 2, "pads": [layer.size // 2] * 4}
        name = f"{layer.name}.sum" if layer.relu else layer.name
        x = self.add("Conv", x, f"{layer.name}.weight", f"{layer.name}.bias", name=name, **shape)
        return self.add("Relu", x, name=layer.name) if layer.relu else x


def _read_off(graph: _Graph, logits: str, offsets: str, corners: np.ndarray, classes: int) -> None:
    """Softmax, candidates, offsets to corners, NMS.

    ``logits`` (B, A * (C+1), H, W) and ``offsets`` (B, A * 4, H, W) are what the heads give.
    """
    add, number, count = graph.add, graph.constant, len(corners)

    def integers(name: str, *values: int) -> str:
        return graph.constant(name, values, np.int64)

    def lay_out(x: str, last: int) -> str:
        """Cell by cell, as the anchors are."""
        return add("Reshape", add("Transpose", x, perm=[0, 2, 3, 1]), integers(f"shape/{x}", 0, count, last))

    logits, offsets = lay_out(logits, classes + 1), lay_out(offsets, 4)  # (B, N, C+1), (B, N, 4)
    first, second, last = integers("axis/0", 0), integers("axis/1", 1), integers("axis/-1", -1)
    padding = number("padding", -1)

    species = add("Slice", add("Softmax", logits, axis=-1), second, integers("end", 2**31), last)  # (B, N, C)
    scores = add("ReduceMax", species, axes=[2], keepdims=0)
    labels = add("ArgMax", species, axis=2, keepdims=0)  # (B, N) int64, of equals the first
    ranked = add("Where", add("GreaterOrEqual", scores, number(f"{READING}floor", 0)), scores, padding)
    candidates = integers(f"{READING}candidates", 0)
    scores, order = graph.add_twofold("TopK", ranked, candidates, axis=1)  # (B, K), of equals the first
    is_candidate = add("Greater", scores, number("no candidate", -0.5))
    labels = add("GatherElements", labels, order, axis=1)

    anchors = np.concatenate([(corners[:, :2] + corners[:, 2:]) / np.float32(2), corners[:, 2:] - corners[:, :2]], 1)
    anchors = add("Gather", number("anchors", anchors), order)  # (B, K, 4): centres and sizes
    offsets = add("GatherND", offsets, add("Unsqueeze", order, last), batch_dims=1)
    halves = integers("shape/halves", 2, 2)
    centres, sizes = graph.add_twofold("Split", anchors, halves, axis=2)
    moves, growths = graph.add_twofold("Split", offsets, halves, axis=2)
    middle = add("Add", add("Mul", add("Mul", moves, number("variance/centre", VARIANCES[0])), sizes), centres)
    growth = add("Exp", add("Mul", growths, number("variance/size", VARIANCES[1])))
    half = add("Div", add("Mul", growth, sizes), number("two", 2))
    boxes = add("Concat", add("Sub", middle, half), add("Add", middle, half), axis=2)
    boxes = add("Clip", boxes, number("zero", 0), number("one", 1))  # (B, K, 4)

    # The operator takes a table of scores by species, (B, C, K). A box's rank stands in for its score, so that no two
    # are equal; where species shall not matter, all are of the first.
    ranks = add("Slice", number("ranks", np.arange(count, 0, -1)), first, candidates, first)
    groups = add("Mul", labels, graph.constant(f"{READING}species", 1, np.int64))
    table = integers("species", *range(classes))
    own = add("Equal", add("Unsqueeze", groups, second), add("Unsqueeze", table, last))
    table = add("Where", add("And", own, add("Unsqueeze", is_candidate, second)), ranks, padding)
    overlap, least = number(f"{READING}overlap", [0]), number("least rank", [0])
    kept = add("NonMaxSuppression", boxes, table, candidates, overlap, least)  # (n, 3): picture, species, box
    places = add("Gather", kept, integers("columns", 0, 2), axis=1)  # (n, 2)
    labels = add("Cast", labels, to=TensorProto.FLOAT)
    padded = add("Expand", padding, add("Shape", scores))
    labels = add("ScatterND", padded, places, add("GatherND", labels, places))

    rows = add("Concat", add("Unsqueeze", labels, last), add("Unsqueeze", scores, last), boxes, axis=2)
    rows = add("Where", add("Unsqueeze", is_candidate, last), rows, padding)
    # A comparison with what is no number is false, so a diverged network looks as if it had found nothing: say so.
    picture = integers("axes/picture", 1, 2)
    extents = [add("ReduceSum", add("Abs", x), picture, keepdims=1) for x in (logits, offsets)]  # (B, 1, 1)
    is_finite = add("Less", add("Add", *extents), number("largest", LARGEST))
    add("Where", is_finite, rows, number(NO_NUMBER, np.nan), name=OUTPUT)


def _shapes_of_weights(layers: Layers) -> dict[str, tuple[int, ...]]:
    """Every array of the weights."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in layers.all:
        shapes[f"{layer.name}.weight"], shapes[f"{layer.name}.bias"] = layer.kernel, (layer.leaving,)
        if layer.norm:
            for part in ("gamma", "beta", "running_mean", "running_var"):
                shapes[f"{layer.norm}.{part}"] = (layer.leaving,)
    return shapes


def _fold(weights: Mapping[str, np.ndarray], layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias of a convolution that has the BatchNorm behind it in them, float32. Computed in float64."""

    def parts(name: str, *names: str) -> list[np.ndarray]:
        return [np.asarray(weights[f"{name}.{part}"], np.float64) for part in names]

    kernel, bias = parts(layer.name, "weight", "bias")
    with np.errstate(invalid="ignore", over="ignore"):
        if layer.norm:
            gamma, beta, mean, variance = parts(layer.norm, "gamma", "beta", "running_mean", "running_var")
            scale = gamma / np.sqrt(variance + EPSILON)
            kernel, bias = kernel * scale[:, None, None, None], (bias - mean) * scale + beta
        kernel, bias = kernel.astype(np.float32), bias.astype(np.float32)
    if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
        raise EngineError(
            f"the weights of {layer.name} are no finite numbers: the network has diverged. Export an earlier "
            "checkpoint, or train with a lower optim.lr"
        )
    return kernel, bias
