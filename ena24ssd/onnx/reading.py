"""How are boxes read off what the network says?

In the order of float32 operations of the engines, so that ties fall the same way. How it is done stays changeable in a
finished graph: see `set_reading`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from ena24ssd.onnx.nodes import Graph

if TYPE_CHECKING:
    from ena24ssd.config import EvaluationConfig

OUTPUT = "detections"
VARIANCES = (0.1, 0.2)  # of centres and of sizes: offsets are multiples of these
LARGEST = 3e38  # of float32; what is not below it is no number, or no finite one
READING = "reading/"  # the names of the constants that `set_reading` replaces start with it
NO_NUMBER = "no number"  # the constant that stands for a diverged network


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


def read_off(graph: Graph, logits: str, offsets: str, corners: np.ndarray, classes: int) -> None:
    """Softmax, candidates, offsets to corners, NMS; the last node gives `OUTPUT`.

    ``logits`` (B, A * (C+1), H, W) and ``offsets`` (B, A * 4, H, W) are what the heads give, for the anchors
    ``corners`` (H * W * A, 4).
    """
    add, number, integers, count = graph.add, graph.constant, graph.integers, len(corners)

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
