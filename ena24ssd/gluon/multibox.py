"""Which anchor answers for which animal, and back?

Thin, named doors to MXNet's multibox operators, with the two things they leave to their callers: blank pictures, which
`multibox_target` leaves without any target, and hard-negative mining that knows of them.
"""

from __future__ import annotations

from typing import NamedTuple

from mxnet import np, npx

from ena24ssd.config import EvaluationConfig


class Targets(NamedTuple):
    """What the network should have answered."""

    box_offsets: np.ndarray  # (B, 4N)
    box_mask: np.ndarray  # (B, 4N): 1 on the four offsets of positive anchors
    anchor_classes: np.ndarray  # (B, N): 0 background, label + 1 for a species


def match(anchors: np.ndarray, truth: np.ndarray, overlap: float) -> Targets:
    """Assign every anchor a class and, where it is positive, offsets.

    An anchor is positive when its IoU with a box exceeds ``overlap``, or when it is the best anchor of some box.
    Parameters: ``anchors`` (1, N, 4) and ``truth`` (B, M, 5) in unit corners, rows of -1 at the end.
    """
    # The operator reads the class predictions only for mining, which `mine` does; their shape is all it wants here.
    unread = np.zeros((truth.shape[0], 2, anchors.shape[1]), ctx=truth.ctx)
    offsets, mask, classes = npx.multibox_target(anchors, truth, unread, overlap_threshold=overlap)
    # A picture without a box comes back as -1 ("ignore") on every anchor. It is a picture of background.
    return Targets(offsets, mask, np.maximum(classes, 0))


def mine(
    class_logits: np.ndarray, anchor_classes: np.ndarray, negatives_per_positive: float, minimum: int
) -> np.ndarray:
    """Which background anchors to learn from: picture by picture, the ones least believed to be background.

    Keeps ``max(minimum, negatives_per_positive * positives)`` of them.
    Parameters: ``class_logits`` (B, N, C+1), ``anchor_classes`` (B, N). Returns (B, N): 1 keep, 0 leave out.
    """
    negative = (anchor_classes == 0).astype("float32")
    doubt = -npx.log_softmax(class_logits, axis=-1)[:, :, 0]
    doubt = (doubt + 1) * negative  # doubt is never below 0, so that positives come last
    rank = np.argsort(np.argsort(-doubt, axis=1), axis=1).astype("float32")
    quota = np.maximum((1 - negative).sum(axis=1, keepdims=True) * negatives_per_positive, minimum)
    return (rank < quota).astype("float32") * negative


def decode(
    anchors: np.ndarray, class_logits: np.ndarray, box_offsets: np.ndarray, config: EvaluationConfig
) -> np.ndarray:
    """Softmax, offsets to corners, NMS.

    Returns (B, K, 6) rows ``[label, score, left, top, right, bottom]`` in unit corners clipped to the picture,
    best first, -1 padded; K is ``config.candidates`` or N, whichever is less.
    """
    scores = npx.softmax(class_logits, axis=-1).transpose(0, 2, 1)  # (B, C+1, N)
    rows = npx.multibox_detection(
        scores,
        box_offsets,
        anchors,
        threshold=config.floor,
        nms_threshold=config.nms,
        force_suppress=config.class_agnostic_nms,
        nms_topk=config.candidates,
    )
    return rows[:, : config.candidates]  # the operator sorts valid rows first, and brings no more than these to NMS
