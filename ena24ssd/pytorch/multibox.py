"""Which anchor answers for which animal, and back?

The arithmetic of MXNet's multibox operators (apache/mxnet 1.9, src/operator/contrib/multibox_*.cc), in whole batches
and in the same order of float32 operations, so that ties fall the same way. Two things that those leave to their
callers are done here as the gluon engine does them: blank pictures are background, and hard-negative mining knows of
them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from ena24ssd.config import EvaluationConfig

VARIANCES = (0.1, 0.1, 0.2, 0.2)  # offsets are divided by these
LEAST_OVERLAP = 1e-6  # a box that overlaps every anchor by no more than this gets none


class Targets(NamedTuple):
    """What the network should have answered."""

    box_offsets: torch.Tensor  # (B, 4N)
    box_mask: torch.Tensor  # (B, 4N): 1 on the four offsets of positive anchors
    anchor_classes: torch.Tensor  # (B, N) int64: 0 background, label + 1 for a species


@torch.no_grad()
def match(anchors: torch.Tensor, truth: torch.Tensor, overlap: float) -> Targets:
    """Assign every anchor a class and, where it is positive, offsets.

    An anchor is positive when its IoU with a box exceeds ``overlap``, or when it is the best anchor of some box: of all
    pairs that are left, the one of highest IoU is taken, until no box is left.
    Parameters: ``anchors`` (1, N, 4) and ``truth`` (B, M, 5) in unit corners, rows of -1 at the end.
    """
    count, boxes = anchors.shape[1], truth.shape[1]
    # Reading stops at the first row of -1.
    real = (truth[:, :, 0] != -1).cumprod(dim=1).bool()  # (B, M)
    iou = overlaps(anchors, truth[:, :, 1:])  # (B, N, M)
    iou = torch.where(iou.isnan() | ~real[:, None], -1.0, iou)

    # The boxes' own anchors, one pair a round. Of equals the first anchor, of its equals the first box.
    left = iou.clone()
    partner = torch.full(left.shape[:2], -1, dtype=torch.int64, device=truth.device)  # (B, N): the anchor's box
    picture = torch.arange(len(truth), device=truth.device)
    for _ in range(boxes):
        best, place = left.flatten(1).max(dim=1)  # (B,)
        anchor, box = place // boxes, place % boxes
        found = best > LEAST_OVERLAP
        partner[picture, anchor] = torch.where(found, box, partner[picture, anchor])
        left[picture, anchor] = torch.where(found[:, None], -1.0, left[picture, anchor])
        left[picture, :, box] = torch.where(found[:, None], -1.0, left[picture, :, box])

    highest, nearest = iou.max(dim=2)
    partner = torch.where((partner < 0) & (highest > overlap), nearest, partner)
    positive = partner >= 0
    own = truth.gather(1, partner.clamp(min=0)[:, :, None].expand(-1, -1, 5))  # (B, N, 5): each anchor's box
    classes = torch.where(positive, own[:, :, 0].long() + 1, 0)
    mask = positive[:, :, None].expand(-1, -1, 4)
    offsets = torch.where(mask, encode(anchors, own[:, :, 1:]), 0.0)
    return Targets(offsets.reshape(-1, 4 * count), mask.reshape(-1, 4 * count).float(), classes)


def overlaps(anchors: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """IoU of every anchor (1, N, 4) with every box (B, M, 4): (B, N, M)."""
    a, b = anchors[:, :, None], boxes[:, None]
    width = (torch.minimum(a[..., 2], b[..., 2]) - torch.maximum(a[..., 0], b[..., 0])).clamp(min=0)
    height = (torch.minimum(a[..., 3], b[..., 3]) - torch.maximum(a[..., 1], b[..., 1])).clamp(min=0)
    common = width * height
    return common / (area(a) + area(b) - common)


def area(boxes: torch.Tensor) -> torch.Tensor:
    """(..., 4) corners -> (...)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def encode(anchors: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """The offsets that turn anchors (1, N, 4) into boxes (B, N, 4)."""
    size, wanted = anchors[..., 2:] - anchors[..., :2], boxes[..., 2:] - boxes[..., :2]
    centre, target = (anchors[..., :2] + anchors[..., 2:]) * 0.5, (boxes[..., :2] + boxes[..., 2:]) * 0.5
    return torch.cat(
        [(target - centre) / size / VARIANCES[0], torch.log(wanted / size) / VARIANCES[2]],
        dim=-1,
    )


@torch.no_grad()
def mine(
    class_logits: torch.Tensor, anchor_classes: torch.Tensor, negatives_per_positive: float, minimum: int
) -> torch.Tensor:
    """Which background anchors to learn from: picture by picture, the ones least believed to be background.

    Keeps ``max(minimum, negatives_per_positive * positives)`` of them.
    Parameters: ``class_logits`` (B, N, C+1), ``anchor_classes`` (B, N). Returns (B, N): 1 keep, 0 leave out.
    """
    negative = (anchor_classes == 0).float()
    doubt = -torch.log_softmax(class_logits, dim=-1)[:, :, 0]
    doubt = (doubt + 1) * negative  # doubt is never below 0, so that positives come last
    rank = torch.argsort(torch.argsort(-doubt, dim=1, stable=True), dim=1, stable=True).float()
    quota = ((1 - negative).sum(dim=1, keepdim=True) * negatives_per_positive).clamp(min=minimum)
    return (rank < quota).float() * negative


@torch.no_grad()
def decode(
    anchors: torch.Tensor, class_logits: torch.Tensor, box_offsets: torch.Tensor, config: EvaluationConfig
) -> torch.Tensor:
    """Softmax, offsets to corners, NMS.

    Returns (B, K, 6) rows ``[label, score, left, top, right, bottom]`` in unit corners clipped to the picture,
    best first, -1 padded; K is ``config.candidates`` or N, whichever is less.
    """
    scores, labels = torch.softmax(class_logits, dim=-1)[:, :, 1:].max(dim=2)  # (B, N)
    shown = min(config.candidates, scores.shape[1])
    candidate = scores >= config.floor
    # A stable sort: of equal scores the first anchor.
    order = torch.where(candidate, scores, -1.0).argsort(dim=1, descending=True, stable=True)[:, :shown]  # (B, K)
    candidate, scores, labels = (part.gather(1, order) for part in (candidate, scores, labels))
    offsets = box_offsets.reshape(len(order), anchors.shape[1], 4).gather(1, order[:, :, None].expand(-1, -1, 4))
    corners = to_corners(anchors[0][order], offsets)  # (B, K, 4)
    alive = suppress(corners, labels, candidate, config.nms, config.class_agnostic_nms)
    rows = torch.cat([labels[:, :, None].float(), scores[:, :, None], corners], dim=2)
    rows[:, :, 0] = torch.where(alive, rows[:, :, 0], -1.0)
    return torch.where(candidate[:, :, None], rows, -1.0)


def to_corners(anchors: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """The inverse of `encode`, clipped to the picture: (..., 4) anchors and offsets -> (..., 4) unit corners."""
    size, centre = anchors[..., 2:] - anchors[..., :2], (anchors[..., :2] + anchors[..., 2:]) / 2
    middle = offsets[..., :2] * VARIANCES[0] * size + centre
    half = torch.exp(offsets[..., 2:] * VARIANCES[2]) * size / 2
    return torch.cat([middle - half, middle + half], dim=-1).clamp(0, 1)


def suppress(
    corners: torch.Tensor, labels: torch.Tensor, candidate: torch.Tensor, overlap: float, agnostic: bool
) -> torch.Tensor:
    """Greedy non-maximum suppression of boxes (B, K, 4), best first: which of the candidates (B, K) stay.

    A box falls to a better one that itself stays, is of the same species (or of any, where ``agnostic``) and overlaps
    it by at least ``overlap``. Starting from all, each round settles at least the next box, and usually nearly all.
    """
    width = corners.shape[1]
    a, b = corners[:, :, None], corners[:, None]
    sides = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    common = sides[..., 0] * sides[..., 1]
    union = area(a) + area(b) - common
    iou = torch.where(union <= 0, 0.0, common / union)
    better = torch.ones((width, width), dtype=torch.bool, device=corners.device).triu(1)
    beats = (iou >= overlap) & better & candidate[:, :, None]  # (B, K, K): row i beats column j
    if not agnostic:
        beats &= labels[:, :, None] == labels[:, None]
    alive, before = candidate, None
    while before is None or not torch.equal(alive, before):
        before = alive
        alive = candidate & ~(beats & before[:, :, None]).any(dim=1)
    return alive
