"""How does a network compute with bytes?

Training pictures show which values go through every layer; those of a tensor then share a scale, and become 8 bits.
Kernels become 7 bits, each output channel with a scale of its own: so the sums of two products fit into the 16 bits
that CPUs without VNNI have for them; with 8 they overflow, and boxes go astray. A depthwise kernel, whose products
nobody adds in pairs, has 8. Ranges leave out the few outermost values where the error over all of them is less, and
what rounding a kernel adds to the mean of a channel, its bias takes away again (Nagel et al. 2019).

The last convolution of each head stays in float32, and so does all that reads boxes off them: scores and corners are
what little time they cost should not be saved on. In an EfficientNet so do the first blocks, whose few channels differ
most in range.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from ena24ssd.engine import EngineError
from ena24ssd.onnx import INSTALL
from ena24ssd.onnx.graph import INPUT
from ena24ssd.onnx.safety import DEQUANTIZE, QUANTIZE

try:
    import onnxruntime
except ImportError as fault:
    said = " ".join(str(fault).split())
    raise EngineError(f"int8 needs the package onnxruntime, which does not load ({said}). {INSTALL}") from fault

MOST, MOST_DEPTHWISE = 64, 127  # of a kernel's numbers, either way
STEPS = 255  # of a tensor's range
SHARES = np.linspace(1, 0.4, 13)  # of a range that may do for all of it
SAMPLE = 2_000  # values of a tensor from each picture, by which that is judged
FINE = 8  # pixels between two cells: blocks of an EfficientNet that look more closely stay in float32
LARGEST_BIAS = 2**30


def quantize(model: onnx.ModelProto, squares: np.ndarray) -> onnx.ModelProto:
    """The int8 graph of a graph of `build_graph`.

    Parameters: ``squares`` (n, S, S, 3) uint8, training pictures as the network sees them; about a hundred. Raises
    ValueError for none, or for squares of another size.
    """
    shape = [each.dim_value for each in model.graph.input[0].type.tensor_type.shape.dim][1:]
    squares = np.asarray(squares)
    if not len(squares) or list(squares.shape[1:]) != shape or squares.dtype != np.uint8:
        raise ValueError(
            f"squares are {squares.shape} {squares.dtype}; int8 is learnt from one or more of {tuple(shape)} uint8"
        )
    inner = _inner_layers(model)
    nodes = list(_without_rectifiers(model.graph.node, inner))
    inside = _inside(nodes, inner)
    names = [name for node in nodes if node.output[0] in inside for name in (*_data(node), node.output[0])]
    seen = _show(model, squares, list(dict.fromkeys(names)))
    return _Writer(model, nodes, inside, seen).write()


class _Seen(NamedTuple):
    """What went through a tensor while pictures were shown."""

    low: float  # 0 at most
    high: float  # 0 at least
    means: np.ndarray  # (channels,)
    values: np.ndarray  # some of them


class _Writer:
    """The int8 graph, node by node."""

    def __init__(self, model: onnx.ModelProto, nodes: Sequence[NodeProto], inside: set[str], seen: dict[str, _Seen]):
        self._model, self._old, self._inside, self._seen = model, nodes, inside, seen
        self._floats = {array.name: array for array in model.graph.initializer}
        self._scales = {name: _scale_of(each) for name, each in seen.items()}
        for node in nodes:  # where bytes are only copied, they are not rescaled
            if node.output[0] in inside and node.op_type == "Concat":
                self._scales |= dict.fromkeys(node.input, self._scales[node.output[0]])
            if node.output[0] in inside and node.op_type == "Resize":
                self._scales[node.output[0]] = self._scales[node.input[0]]
        self._nodes: list[NodeProto] = []
        self._integers: dict[str, np.ndarray] = {}

    def write(self) -> onnx.ModelProto:
        for old in self._old:
            node = NodeProto()
            node.CopyFrom(old)
            node.input[:] = [self._through_bytes(name) if name in self._scales else name for name in old.input]
            if node.op_type == "Conv" and node.output[0] in self._inside:
                node.input[1:] = self._round_weights(old)
            self._nodes.append(node)
        made = onnx.ModelProto()
        made.CopyFrom(self._model)
        del made.graph.node[:], made.graph.initializer[:]
        made.graph.node.extend(self._nodes)
        kept = (array for name, array in self._floats.items() if _bytes(name) not in self._integers)
        made.graph.initializer.extend(kept)
        made.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in self._integers.items())
        return made

    def _through_bytes(self, name: str) -> str:
        """What a tensor is called behind the bytes that it becomes here, at the first who asks for it."""
        if f"{name}_scale" not in self._integers:
            how = self._note_scale(name, *self._scales[name])
            self._nodes.append(helper.make_node(QUANTIZE, [name, *how], [_bytes(name)], name=_bytes(name)))
            self._nodes.append(helper.make_node(DEQUANTIZE, [_bytes(name), *how], [_again(name)], name=_again(name)))
        return _again(name)

    def _round_weights(self, node: NodeProto) -> list[str]:
        """What the kernel of a convolution, and its bias if it has one, are called behind their integers."""
        kernel, *biases = (numpy_helper.to_array(self._floats[name]).astype(np.float64) for name in node.input[1:])
        seen, (of_input, _) = self._seen[node.input[0]], self._scales[node.input[0]]
        is_depthwise = kernel.shape[1] == 1 < len(seen.means)
        most = MOST_DEPTHWISE if is_depthwise else MOST
        scale = _scales_of_kernel(kernel, most)
        for bias in biases:  # whose step is that of the products, and which must not overflow either
            scale = np.maximum(scale, np.abs(bias) / LARGEST_BIAS / of_input)
        scale = scale.astype(np.float32).astype(np.float64)
        step = scale[:, None, None, None]
        rounded = np.rint(kernel / step).clip(-most, most)
        names = [self._note_integers(node.input[1], rounded, scale, np.int8)]
        for name, bias in zip(node.input[2:], biases):
            means = seen.means[:, None] if is_depthwise else seen.means[None]
            added = ((rounded * step - kernel).sum(axis=(2, 3)) * means).sum(axis=1)
            names.append(
                self._note_integers(name, np.rint((bias - added) / scale / of_input), scale * of_input, np.int32)
            )
        return names

    def _note_integers(self, name: str, values: np.ndarray, scale: np.ndarray, kind: type) -> str:
        if f"{name}_scale" not in self._integers:
            self._integers[_bytes(name)] = values.astype(kind)
            how = self._note_scale(name, scale.astype(np.float32), np.zeros(len(scale), kind))
            inputs = [_bytes(name), *how]
            self._nodes.append(helper.make_node(DEQUANTIZE, inputs, [_again(name)], name=_again(name), axis=0))
        return _again(name)

    def _note_scale(self, name: str, scale: np.ndarray, zero: np.ndarray) -> tuple[str, str]:
        self._integers[f"{name}_scale"], self._integers[f"{name}_zero"] = scale, zero
        return f"{name}_scale", f"{name}_zero"


def _inner_layers(model: onnx.ModelProto) -> set[str]:
    """The convolutions that work in bytes, by what comes out of them."""
    heads = {name for node in model.graph.node if node.op_type == "Transpose" for name in node.input}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    stride, strides = 1, {}  # of blocks
    for node in convolutions:
        (own,) = (attribute.ints[0] for attribute in node.attribute if attribute.name == "strides")
        if (block := _block(node)) is not None:
            stride = strides[block] = stride * own
    return {
        node.output[0]
        for node in convolutions
        if node.output[0] not in heads and strides.get(_block(node), FINE) >= FINE
    }


def _block(node: NodeProto) -> str | None:
    """The block of an EfficientNet that a convolution belongs to."""
    name = node.output[0]
    return ".".join(name.split(".")[:3]) if name.startswith(("features.stem", "features.blocks.")) else None


def _without_rectifiers(nodes: Sequence[NodeProto], inner: set[str]) -> list[NodeProto]:
    """The nodes, but a rectifier behind an inner convolution is left to the bytes, whose range ends where it cuts."""
    rectifiers = {node.input[0]: node.output[0] for node in nodes if node.op_type in ("Relu", "Clip")}
    made = []
    for old in nodes:
        if old.output[0] in inner and old.output[0] in rectifiers:
            node = NodeProto()
            node.CopyFrom(old)
            node.output[0] = rectifiers[old.output[0]]
            made.append(node)
        elif not (old.op_type in ("Relu", "Clip") and old.input[0] in inner):
            made.append(old)
    return made


def _inside(nodes: Sequence[NodeProto], inner: set[str]) -> set[str]:
    """What works in bytes, by what it gives: inner convolutions, and what adds, joins or doubles nothing else."""
    inside: set[str] = set()
    for node in nodes:
        is_inner = node.op_type == "Conv" and not inner.isdisjoint((node.output[0], f"{node.output[0]}.sum"))
        if is_inner or (node.op_type in ("Add", "Concat", "Resize") and inside.issuperset(_data(node))):
            inside.add(node.output[0])
    return inside


def _data(node: NodeProto) -> Sequence[str]:
    """The inputs of a node that are neither weights nor settings."""
    return node.input[:1] if node.op_type in ("Conv", "Resize") else node.input


def _show(model: onnx.ModelProto, squares: np.ndarray, names: Sequence[str]) -> dict[str, _Seen]:
    """What goes through the tensors ``names`` of a graph, (1, channels, H, W) each, for pictures one by one."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    low, high = np.zeros(len(names)), np.zeros(len(names))
    means: list[list[np.ndarray]] = [[] for _ in names]
    sample: list[list[np.ndarray]] = [[] for _ in names]
    for square in squares:
        for place, values in enumerate(session.run(None, {INPUT: square[None]})):
            low[place] = min(low[place], values.min())
            high[place] = max(high[place], values.max())
            means[place].append(values.mean(axis=(0, 2, 3), dtype=np.float64))
            sample[place].append(values.reshape(-1)[:: values.size // SAMPLE | 1].copy())  # odd, so that rows differ
    return {
        name: _Seen(low[place], high[place], np.mean(means[place], axis=0), np.concatenate(sample[place]))
        for place, name in enumerate(names)
    }


def _scale_of(seen: _Seen) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point of a tensor, those with the least squared error."""

    def measure(share: float) -> tuple[float, np.float32, np.uint8]:
        scale = np.float32((seen.high - seen.low) * share / STEPS or 1)
        zero = np.rint(-seen.low * share / scale).clip(0, STEPS)
        again = ((np.rint(seen.values / scale) + zero).clip(0, STEPS) - zero) * scale
        return float(np.square(again - seen.values, dtype=np.float64).sum()), scale, np.uint8(zero)

    _, scale, zero = min(map(measure, SHARES), key=lambda measured: measured[0])
    return np.asarray(scale), np.asarray(zero)


def _scales_of_kernel(kernel: np.ndarray, most: int) -> np.ndarray:
    """Of every output channel, the one with the least squared error: (leaving,)."""
    flat = kernel.reshape(len(kernel), 1, -1)
    largest = np.abs(flat).max(axis=2)
    tried = np.where(largest > 0, largest, 1e-12) / most * SHARES  # (leaving, shares)
    step = tried[:, :, None]
    again = np.rint(flat / step).clip(-most, most) * step
    best = np.square(again - flat).sum(axis=2).argmin(axis=1)
    return tried[np.arange(len(tried)), best]


def _bytes(name: str) -> str:
    return f"{name}.bytes"


def _again(name: str) -> str:
    return f"{name}.again"
