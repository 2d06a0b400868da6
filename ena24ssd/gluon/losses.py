"""What does a wrong answer cost?"""

from __future__ import annotations

from mxnet import autograd, np, npx

from ena24ssd.config import LossConfig
from ena24ssd.gluon.multibox import Targets, mine


def multibox_loss(
    class_logits: np.ndarray, box_offsets: np.ndarray, targets: Targets, config: LossConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Class loss and box loss of a batch, each a scalar of which the gradient is taken as it is.

    ``normalise_by: anchors`` is the post's: cross-entropy averaged over all anchors of the batch, offset error over all
    4N coordinates (Gluon's SoftmaxCrossEntropyLoss and L1Loss, averaged over the batch). ``positives`` is SSD's: both
    divided by the number of positive anchors (Liu et al. 2016, eq. 1), so that a picture's many background anchors do
    not drown its few others.
    """
    with autograd.pause():
        positive = (targets.anchor_classes > 0).astype("float32")
        negative = 1 - positive
        if config.negatives_per_positive is not None:
            quota = config.negatives_per_positive, config.minimum_negatives
            negative = mine(class_logits, targets.anchor_classes, *quota)
        weights = config.foreground_weight * positive + config.background_weight * negative  # (B, N)
        positives = np.maximum(positive.sum(), 1)
    entropy = -npx.pick(npx.log_softmax(class_logits, axis=-1), targets.anchor_classes, axis=-1)  # (B, N)

    error = np.abs(box_offsets - targets.box_offsets) * targets.box_mask  # (B, 4N)
    if config.box_error == "smooth_l1":
        beta = config.smooth_l1_beta
        error = np.where(error < beta, 0.5 / beta * error * error, error - 0.5 * beta)

    if config.normalise_by == "anchors":
        return (weights * entropy).mean(), config.box_weight * error.mean()
    return (weights * entropy).sum() / positives, config.box_weight * error.sum() / positives
