"""How does TensorBoard want what the frameworks' own writers cannot give it?

For the engines' boards alone: it takes TensorBoard, which the rest of the package does without.
"""

from __future__ import annotations

import re

import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_FLOAT, DT_STRING
from tensorboard.plugins.pr_curve import metadata as pr_curve_metadata
from tensorboard.plugins.text import metadata as text_metadata


def plain(tag: str) -> str:
    """The tag of a scalar, with an underscore for every letter that mxboard replaces, and warns of, every time."""
    return re.sub(r"[^-/\w.]", "_", tag)


def pr_curve(tag: str, right: np.ndarray, wrong: np.ndarray, boxes: int) -> Summary:
    """The parameters are those of `ena24ssd.engine.Board.pr_curve`.

    mxboard's own fails in today's protobuf, and torch's says of more than 127 thresholds that they were 127. The rows
    are those that TensorBoard's plugin reads.
    """
    shown = right + wrong
    precision = np.where(shown > 0, right / np.maximum(shown, 1), 1.0)  # nothing shown is nothing wrong
    counts = np.stack([right, wrong, wrong[0] - wrong, boxes - right, precision, right / max(boxes, 1)])
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in counts.shape])
    tensor = TensorProto(dtype=DT_FLOAT, tensor_content=counts.astype(np.float32).tobytes(), tensor_shape=shape)
    return _summary(tag, tensor, pr_curve_metadata.create_summary_metadata(tag, "", len(right)))


def text(tag: str, markdown: str) -> Summary:
    """mxboard's own writes fields that protobuf no longer takes, and torch's takes another tag than it is given."""
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    tensor = TensorProto(dtype=DT_STRING, string_val=[markdown.encode()], tensor_shape=shape)
    return _summary(tag, tensor, text_metadata.create_summary_metadata(display_name=tag, description=""))


def _summary(tag: str, tensor: TensorProto, metadata: SummaryMetadata) -> Summary:
    return Summary(value=[Summary.Value(tag=tag, metadata=metadata, tensor=tensor)])
