"""How does a network compute with bytes, in half of the time?

ONNX Runtime's own quantizer learns from training pictures which values every layer gives, and writes the convolutions
down in bytes: activations in 8 bits, weights in 7, each output channel with a scale of its own. With 7 bits the sums of
two products fit into the 16 bits that CPUs without VNNI have for them; with 8 they overflow, and boxes go astray.

The last convolution of each head stays in float32, and so does all that reads boxes off them: scores and corners are
what little time they cost should not be saved on.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ena24ssd.engine import EngineError
from ena24ssd.onnx import INSTALL
from ena24ssd.onnx.graph import INPUT, JOINED, OPSET

try:
    from onnxruntime import quantization
except ImportError as fault:
    said = " ".join(str(fault).split())
    raise EngineError(f"int8 needs the package onnxruntime, which does not load ({said}). {INSTALL}") from fault

KINDS = ("Conv", "Relu", "Concat")  # of the nodes that may work in bytes


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
    with tempfile.TemporaryDirectory(prefix="ena24ssd-") as folder, _hushed():
        before, after = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        onnx.save(model, before)
        quantization.quantize_static(
            before,
            after,
            _Reader(squares),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            op_types_to_quantize=list(KINDS),
            nodes_to_quantize=_inner_nodes(model),
            calibrate_method=quantization.CalibrationMethod.MinMax,
            extra_options={"CalibStridedMinMax": 1},  # pictures one by one: memory does not grow with them
        )
        made = onnx.load(after)
    _share_scale(made)
    _tidy(made)
    return made


class _Reader(quantization.CalibrationDataReader):
    """Squares one by one, as the quantizer asks for them."""

    def __init__(self, squares: np.ndarray):
        self._squares = squares
        self.set_range(0, len(squares))

    def __len__(self) -> int:
        return len(self._squares)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._coming = iter(self._squares[start_index:end_index])

    def get_next(self) -> dict[str, np.ndarray] | None:
        square = next(self._coming, None)
        return None if square is None else {INPUT: square[None]}


def _inner_nodes(model: onnx.ModelProto) -> list[str]:
    """The convolutions with a ReLU behind them, their ReLUs, and what joins them."""
    rectified = {node.input[0] for node in model.graph.node if node.op_type == "Relu"}
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "Relu" or node.output[0] in rectified or node.name == JOINED
    ]


def _share_scale(model: onnx.ModelProto) -> None:
    """Have what is joined use the scale of all together, so that joining copies bytes instead of rescaling them."""
    (join,) = [node for node in model.graph.node if node.name == JOINED]
    giver = {output: node for node in model.graph.node for output in node.output}
    for name in join.input:  # dequantised <- quantised <- a convolution
        dequantised = giver[name]
        for node in (dequantised, giver[dequantised.input[0]]):
            del node.input[1:]
            node.input.extend([f"{JOINED}_scale", f"{JOINED}_zero_point"])


def _tidy(model: onnx.ModelProto) -> None:
    """Leave out what nothing refers to, and what the quantizer noted for itself; write all arrays in one way."""
    graph, used = model.graph, {name for node in model.graph.node for name in node.input}
    arrays = [numpy_helper.from_array(numpy_helper.to_array(a), a.name) for a in graph.initializer if a.name in used]
    del graph.initializer[:], graph.value_info[:], model.metadata_props[:], model.opset_import[:]
    graph.initializer.extend(arrays)
    model.opset_import.append(helper.make_opsetid("", OPSET))
    model.producer_name, model.producer_version = "ena24ssd", ""


@contextmanager
def _hushed() -> Iterator[None]:
    """Without the quantizer's advice to preprocess what needs none."""
    logger = logging.getLogger()

    def is_ours(record: logging.LogRecord) -> bool:
        return "pre-process" not in record.getMessage()

    logger.addFilter(is_ours)
    try:
        yield
    finally:
        logger.removeFilter(is_ours)
