"""What does a wrong answer cost?"""

from __future__ import annotations

from mxnet import autograd, np, npx

from ena24ssd.config import LossConfig
from ena24ssd.gluon.multibox import Targets, mine


def normalisers(targets: Targets, config: LossConfig) -> np.ndarray:
    """What the loss of these pictures is divided by: (2,), for classes and for boxes.

    ``normalise_by: anchors`` is the post's: the number of anchors, and of their 4N coordinates (Gluon's
    SoftmaxCrossEntropyLoss and L1Loss, averaged over the batch). ``positives`` is SSD's: the number of positive anchors
    for both (Liu et al. 2016, eq. 1), so that a picture's many background anchors do not drown its few others.

    They are numbers of a whole batch: where several devices share it, the sum over all of them.
    """
    classes = targets.anchor_classes
    if config.normalise_by == "anchors":
        return np.array([classes.size, targets.box_offsets.size], dtype="float32", ctx=classes.ctx)
    positives = (classes > 0).astype("float32").sum().reshape(1)
    return np.concatenate([positives, positives])


def multibox_loss(
    class_logits: np.ndarray,
    box_offsets: np.ndarray,
    targets: Targets,
    divisors: np.ndarray,
    config: LossConfig,
    species_weights: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Class loss and box loss, each a scalar of which the gradient is taken as it is.

    ``divisors`` are the `normalisers` of the batch, of which these pictures may be a part: the losses of its parts add
    up to its loss. ``species_weights`` (C,) weighs the anchors of each species.
    """
    with autograd.pause():
        positive = (targets.anchor_classes > 0).astype("float32")
        negative = 1 - positive
        if config.negatives_per_positive is not None:
            quota = config.negatives_per_positive, config.minimum_negatives
            negative = mine(class_logits, targets.anchor_classes, *quota)
        weights = config.foreground_weight * positive + config.background_weight * negative  # (B, N)
        if species_weights is not None:
            per_class = np.concatenate([np.ones((1,), ctx=species_weights.ctx), species_weights])
            weights = weights * np.take(per_class, targets.anchor_classes.astype("int32"))
        divisors = np.maximum(divisors, 1)
    entropy = -npx.pick(npx.log_softmax(class_logits, axis=-1), targets.anchor_classes, axis=-1)  # (B, N)

    error = np.abs(box_offsets - targets.box_offsets) * targets.box_mask  # (B, 4N)
    if config.box_error == "smooth_l1":
        beta = config.smooth_l1_beta
        error = np.where(error < beta, 0.5 / beta * error * error, error - 0.5 * beta)
    return (weights * entropy).sum() / divisors[0], config.box_weight * error.sum() / divisors[1]
