"""May this ONNX file be run?

A model file comes from anywhere, and a runtime trusts it: nodes that make terabytes of a few bytes, arrays that lie in
other files, operators of other libraries. So before a runtime sees it, a graph is held against the one that this
package draws for the config and the species: the same nodes with the same attributes, the same constants, weights of
the same shapes. Layers may work in bytes (QuantizeLinear and DequantizeLinear between them); nothing else may differ.
Its memory and time are then those of the network that the config describes.

Reading alone may cost a hundred times a file's size, where it is made of empty parts. So it is measured first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from ena24ssd.engine import EngineError
from ena24ssd.onnx.graph import INPUT, OPSET, count_anchors, draw_skeleton
from ena24ssd.onnx.nodes import Layer
from ena24ssd.onnx.reading import OUTPUT, READING

if TYPE_CHECKING:
    from ena24ssd.config import RunConfig

STRUCTURE = 2**20  # bytes of all that is no number in an array; a graph has 40,000, and with bytes 110,000
VERSIONS = range(7, 12)  # of the file format
QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
INTEGERS = ("int8", "uint8", "int32")  # what a kernel or a bias may be made of, besides float32
# All that may be set. Anything else changes what a graph does, or points outside the file.
FIELDS = {
    "ModelProto": {"ir_version", "opset_import", "producer_name", "producer_version", "graph"},
    "OperatorSetIdProto": {"domain", "version"},
    "GraphProto": {"name", "node", "initializer", "input", "output"},
    "NodeProto": {"name", "op_type", "domain", "input", "output", "attribute"},
    "TensorProto": {"name", "dims", "data_type", "raw_data"},
}
TYPES = {
    TensorProto.FLOAT: np.dtype(np.float32),
    TensorProto.INT64: np.dtype(np.int64),
    TensorProto.INT32: np.dtype(np.int32),
    TensorProto.INT8: np.dtype(np.int8),
    TensorProto.UINT8: np.dtype(np.uint8),
}
OF_EACH_OUTPUT = helper.make_attribute("axis", 0).SerializeToString(deterministic=True)
NUMBERS = (7, 5, 9)  # the field of a model that is its graph, of that the arrays, of these the numbers


def read_graph(content: bytes, config: RunConfig, class_names: Sequence[str]) -> onnx.ModelProto:
    """The graph in the bytes of a file, as `require_safe` wants it.

    Raises EngineError for any other. Memory stays within a few times what the graph of the config takes.
    """
    anchors = count_anchors(config)
    if 16 * anchors > len(content):  # the config may be a stranger's, too: nothing is drawn that the file cannot hold
        raise _refusal(
            f"it has {len(content):,} bytes, and the {anchors:,} anchors of its config take {16 * anchors:,}"
        )
    skeleton = draw_skeleton(config, len(class_names))
    most = STRUCTURE + sum(values.nbytes for values in skeleton.constants.values())
    # In bytes, a layer has scales and zero points for every output beside its weights.
    most += sum(4 * int(np.prod(layer.kernel)) + 32 * layer.leaving for layer in skeleton.layers)
    if len(content) > most:
        raise _refusal(f"it has {len(content):,} bytes, and one of its config {most:,} at most")
    try:
        if _measure_structure(memoryview(content), NUMBERS) > STRUCTURE:
            raise _refusal(f"more than {STRUCTURE:,} bytes of it are no weights; 110,000 are usual")
        model = onnx.ModelProto.FromString(content)
        model.DiscardUnknownFields()
        require_safe(model, config, class_names)
    except (DecodeError, UnicodeDecodeError, IndexError):
        raise _refusal("it is damaged, or cut short") from None
    return model


def require_safe(model: onnx.ModelProto, config: RunConfig, class_names: Sequence[str]) -> None:
    """Raise EngineError unless this is a graph of `build_graph`, perhaps quantised, for this config and these species.

    It then computes nothing else, and no more, than the network does. Its weights may be any finite numbers: whether
    they are the right ones is for a digest to say.
    """
    for part in (model, *model.opset_import, model.graph, *model.graph.node, *model.graph.initializer):
        name = type(part).__name__
        strange = {field.name for field, _ in part.ListFields()} - FIELDS[name]
        if strange:
            raise _refusal(f"a {name} in it has the field '{min(strange)}'")
    opsets = [(opset.domain, opset.version) for opset in model.opset_import]
    if model.ir_version not in VERSIONS or opsets != [("", OPSET)]:
        raise _refusal(f"it is of format {model.ir_version}, with operators {opsets[:3]} instead of {[('', OPSET)]}")
    _require_signature(model.graph, config.data.image_side)

    skeleton = draw_skeleton(config, len(class_names))
    layers = {layer.arrays[0]: layer for layer in skeleton.layers}
    arrays = _Arrays(model.graph.initializer)
    arrays.require_constants(skeleton.constants, len(class_names))
    nodes = _Nodes(model.graph.node, arrays.names)
    for wanted in nodes.as_quantised(skeleton.nodes):
        node = nodes.require(wanted)
        if wanted.op_type == "Conv":
            layer = layers[wanted.input[1]]
            for name, shape in zip(node.input[1:], (layer.kernel, (layer.leaving,))):
                arrays.require_weights(nodes.origin(name), name in arrays.names, shape, layer)
    for scale, zero in nodes.require_no_others(len(skeleton.layers)):
        arrays.require_scale(scale, zero)
    arrays.require_no_others()


class _Arrays:
    """The arrays of a graph, all of them inline and whole."""

    def __init__(self, arrays: Sequence[TensorProto]):
        self._arrays = {array.name: array for array in arrays}
        self._known: set[str] = set()
        if len(self._arrays) < len(arrays):
            raise _refusal("two of its arrays have the same name")
        for name, array in self._arrays.items():
            kind, size = TYPES.get(array.data_type), 1
            for extent in array.dims:
                size *= max(extent, 0)
            if kind is None or len(array.dims) > 4 or size * kind.itemsize != len(array.raw_data):
                raise _refusal(
                    f"array {_short(name)} of type {array.data_type} and shape {list(array.dims[:5])} has "
                    f"{len(array.raw_data):,} bytes"
                )

    @property
    def names(self) -> Collection[str]:
        return self._arrays.keys()

    def take(self, name: str) -> np.ndarray:
        """An array that something refers to."""
        if name not in self._arrays:
            raise _refusal(f"it has no array {_short(name)}")
        self._known.add(name)
        return numpy_helper.to_array(self._arrays[name])

    def take_finite(self, name: str) -> np.ndarray:
        values = self.take(name)
        if values.dtype == np.float32 and not np.isfinite(values).all():
            raise _refusal(f"array {_short(name)} holds what is no finite number; the network may have diverged")
        return values

    def require_constants(self, constants: Mapping[str, np.ndarray], classes: int) -> None:
        """What does not depend on the weights must be as it is drawn."""
        species, anchors = self.take("species").size, self.take("anchors").size // 4
        if species != classes:
            raise _refusal(f"it tells {species} species apart, and its config names {classes}")
        if anchors != len(constants["anchors"]):
            raise _refusal(f"it has {anchors:,} anchors, and a network of its config {len(constants['anchors']):,}")
        for name, wanted in constants.items():
            values = self.take(name)
            same = values.dtype == wanted.dtype and values.shape == wanted.shape
            if same and not name.startswith(READING):
                same = np.allclose(values, wanted, rtol=1e-6, atol=1e-7, equal_nan=True)
            if not same:
                raise _refusal(f"its constant '{name}' is not that of its config")

    def require_weights(self, name: str, is_plain: bool, shape: tuple[int, ...], layer: Layer) -> None:
        """A kernel or a bias; in float32 where it ``is_plain``, else in integers."""
        values, kinds = self.take_finite(name), ("float32",) if is_plain else INTEGERS
        if values.shape != shape or values.dtype.name not in kinds:
            raise _refusal(
                f"weights of {layer.name} are {values.shape} {values.dtype}, and for its config and species "
                f"{shape} {' or '.join(kinds)}"
            )

    def require_scale(self, scale: str, zero: str) -> None:
        """What turns bytes into numbers: one scale and zero point, or one for each output of a layer."""
        values, zeros = self.take_finite(scale), self.take(zero)
        is_scale = values.dtype == np.float32 and values.ndim <= 1 and (values > 0).all()
        if not is_scale or zeros.dtype.name not in INTEGERS or zeros.shape != values.shape:
            raise _refusal(f"array {_short(scale)} is no scale of bytes")

    def require_no_others(self) -> None:
        if others := self._arrays.keys() - self._known:
            raise _refusal(f"nothing refers to its array {_short(min(others))}")


class _Nodes:
    """The nodes of a graph by what they give; those that quantise are looked through."""

    def __init__(self, nodes: Sequence[NodeProto], arrays: Collection[str]):
        self._nodes, self._known = nodes, set()
        self._givers = {name: node for node in nodes for name in node.output}
        ready = {INPUT, "", *arrays}  # nothing is called "", but what an operator can do without
        for node in nodes:
            if not ready.issuperset(node.input) or not ready.isdisjoint(node.output):
                raise _refusal(f"its node {_short(node.name)} needs what comes later, or gives what is there already")
            ready.update(node.output)

    def origin(self, name: str) -> str:
        """What was quantised, and is taken for numbers again under this name; the name itself where nothing was."""
        for kind in (DEQUANTIZE, QUANTIZE):
            node = self._givers.get(name)
            if node is not None and node.op_type == kind and node.input:
                name = node.input[0]
        return name

    def as_quantised(self, wanted: Sequence[NodeProto]) -> Iterator[NodeProto]:
        """These nodes, but for rectifiers that this graph has no nodes for: in bytes they are the ends of a range."""
        left_out = set()
        for node in wanted:
            if node.op_type == "Conv" and node.output[0] not in self._givers:
                rectified = NodeProto()
                rectified.CopyFrom(node)
                rectified.output[0] = node.output[0].removesuffix(".sum")
                left_out.add(rectified.output[0])
                yield rectified
            elif node.output[0] not in left_out:
                yield node

    def require(self, wanted: NodeProto) -> NodeProto:
        """The node that does the same; which weights a convolution refers to is left open."""
        node = self._givers.get(wanted.output[0])
        if node is None:
            raise _refusal(f"nothing in it gives '{wanted.output[0]}'")
        inputs, expected = [self.origin(name) for name in node.input], list(wanted.input)
        if wanted.op_type == "Conv":
            inputs[1:], expected[1:] = ["weights"] * (len(inputs) - 1), ["weights"] * (len(expected) - 1)
        given = node.op_type, node.domain, list(node.output), inputs, _attributes(node)
        if given != (wanted.op_type, "", list(wanted.output), expected, _attributes(wanted)):
            raise _refusal(
                f"its node {_short(node.name)} ({_short(node.op_type)}) is not the one that gives "
                f"'{wanted.output[0]}' in a network of its config"
            )
        self._known.add(wanted.output[0])
        return node

    def require_no_others(self, layers: int) -> Iterator[tuple[str, str]]:
        """All but the required nodes quantise. Gives the names of their scales and zero points."""
        others = [node for node in self._nodes if self._known.isdisjoint(node.output)]
        for node in others:
            is_usual = len(node.input) == 3 and len(node.output) == 1 and _attributes(node) in ([], [OF_EACH_OUTPUT])
            if node.op_type not in (QUANTIZE, DEQUANTIZE) or node.domain or not is_usual:
                raise _refusal(f"its node {_short(node.name)} ({_short(node.op_type)}) is none of this network")
            yield node.input[1], node.input[2]
        if len(others) > 5 * layers:  # two for what goes in, two for its weights
            raise _refusal(f"it has {len(others)} nodes that quantise, for {layers} layers")


def _require_signature(graph: GraphProto, side: int) -> None:
    """Pictures go in, any number of them, and detections come out."""
    for values, name, kind, known in (
        (graph.input, INPUT, TensorProto.UINT8, [None, side, side, 3]),
        (graph.output, OUTPUT, TensorProto.FLOAT, [None, None, 6]),
    ):
        found = [(value.name, value.type.tensor_type) for value in values]
        shapes = [[dim.dim_value for dim in tensor.shape.dim] for _, tensor in found]
        is_known = [(name, tensor.elem_type) for name, tensor in found] == [(name, kind)]
        if not is_known or len(shapes[0]) != len(known) or any(b not in (None, a) for a, b in zip(shapes[0], known)):
            raise _refusal(f"its {'input' if name == INPUT else 'output'} is not '{name}' of shape {known}")


def _measure_structure(content: memoryview, fields: Sequence[int]) -> int:
    """The bytes of a message but for those of the field at the end of the path ``fields``.

    Raises IndexError where the message is cut short, or is none. Ends early once there are too many.
    """
    place, size = 0, 0
    while place < len(content) and size <= STRUCTURE:
        start = place
        key, place = _read_number(content, place)
        number, kind = key >> 3, key & 7
        if kind == 2:
            length, place = _read_number(content, place)
        elif kind == 0:
            length, (_, place) = 0, _read_number(content, place)
        else:
            length = {1: 8, 5: 4}.get(kind, len(content))
        size += place - start
        if number == fields[0] and kind == 2:
            size += _measure_structure(content[place : place + length], fields[1:]) if fields[1:] else 0
        else:
            size += length
        place += length
    if place > len(content):
        raise IndexError("the message is cut short")
    return size


def _read_number(content: memoryview, place: int) -> tuple[int, int]:
    """A number of seven bits a byte, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = content[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise IndexError("no number is as long")


def _attributes(node: NodeProto) -> list[bytes]:
    return sorted(attribute.SerializeToString(deterministic=True) for attribute in node.attribute)


def _short(name: str) -> str:
    return repr(name[:60])


def _refusal(what: str) -> EngineError:
    return EngineError(
        f"the ONNX graph is not that of a network of its config: {what}. Take the file as 'ena24ssd export' wrote it, "
        "or export the run again"
    )
