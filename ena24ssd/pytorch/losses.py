"""What does a wrong answer cost?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ena24ssd.pytorch.multibox import Targets, mine

if TYPE_CHECKING:
    from ena24ssd.config import LossConfig


def normalisers(targets: Targets, config: LossConfig) -> torch.Tensor:
    """What the loss of these pictures is divided by: (2,), for classes and for boxes.

    ``normalise_by: anchors`` is the post's: the number of anchors, and of their 4N coordinates (Gluon's
    SoftmaxCrossEntropyLoss and L1Loss, averaged over the batch). ``positives`` is SSD's: the number of positive anchors
    for both (Liu et al. 2016, eq. 1), so that a picture's many background anchors do not drown its few others.

    They are numbers of a whole batch: where several workers share it, the sum over all of them.
    """
    classes = targets.anchor_classes
    if config.normalise_by == "anchors":
        counts = classes.numel(), targets.box_offsets.numel()
        return torch.cat([targets.box_offsets.new_full((1,), float(count)) for count in counts])
    return (classes > 0).sum().float().expand(2)


def multibox_loss(
    class_logits: torch.Tensor,
    box_offsets: torch.Tensor,
    targets: Targets,
    divisors: torch.Tensor,
    config: LossConfig,
    species_weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Class loss and box loss, each a float32 scalar of which the gradient is taken as it is.

    ``divisors`` are the `normalisers` of the batch, of which these pictures may be a part: the losses of its parts add
    up to its loss. ``species_weights`` (C,) weighs the anchors of each species.
    """
    class_logits, box_offsets = class_logits.float(), box_offsets.float()
    classes = targets.anchor_classes
    positive = (classes > 0).float()
    negative = 1 - positive
    if config.negatives_per_positive is not None:
        quota = config.negatives_per_positive, config.minimum_negatives
        negative = mine(class_logits, classes, *quota)
    weights = config.foreground_weight * positive + config.background_weight * negative  # (B, N)
    if species_weights is not None:
        weights = weights * torch.cat([species_weights.new_ones(1), species_weights])[classes]
    divisors = divisors.clamp(min=1)
    entropy = -torch.log_softmax(class_logits, dim=-1).gather(2, classes[:, :, None])[:, :, 0]  # (B, N)

    error = (box_offsets - targets.box_offsets).abs() * targets.box_mask  # (B, 4N)
    if config.box_error == "smooth_l1":
        beta = config.smooth_l1_beta
        error = torch.where(error < beta, 0.5 / beta * error * error, error - 0.5 * beta)
    return (weights * entropy).sum() / divisors[0], config.box_weight * error.sum() / divisors[1]
