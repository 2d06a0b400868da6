"""What learns when?

A pretrained backbone knows more than a few hundred pictures could teach it, and heads that know nothing yet would spoil
it. So it stays as it is in the first stage; in the second its last blocks, which are the least general, learn too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ena24ssd.efficientnet import blocks_of

if TYPE_CHECKING:  # engines ask, which need no more than their framework and NumPy
    from ena24ssd.config import ModelConfig, OptimConfig

BACKBONE = "features."  # the names of its weights begin with this
STATISTICS = ("running_mean", "running_var")  # the names of what BatchNorm keeps end with these


class Stage(NamedTuple):
    """A part of training with one set of weights that learn; its optimizer and its schedule begin with it."""

    first: int  # epoch
    epochs: int
    lr: float  # peak
    share: float  # of the backbone's blocks, the last ones, that learn; 0: none, 1: all and the stem
    backbone_rate: float  # their learning rate, as a share of that of the rest


def stage_of(config: OptimConfig, epoch: int, epochs: int) -> Stage:
    """The stage of an epoch, where so many ``epochs`` are planned in all."""
    if epoch < config.head_epochs:
        return Stage(0, min(config.head_epochs, epochs), config.lr, 0.0, config.backbone_rate)
    rate = config.late_lr if config.head_epochs else config.lr
    return Stage(config.head_epochs, max(epochs - config.head_epochs, 1), rate, config.late_share, config.backbone_rate)


def learns(name: str, share: float, config: ModelConfig) -> bool:
    """Whether the weights of this structural name learn where this ``share`` of the backbone does."""
    if not name.startswith(BACKBONE) or share == 1:
        return True
    if config.backbone == "custom_conv":  # it has no blocks: all of it, or nothing
        return share > 0
    part, _, rest = name.removeprefix(BACKBONE).partition(".")
    count = len(blocks_of(config.backbone))
    return part == "blocks" and int(rest.partition(".")[0]) >= count - round(share * count)


def changes(name: str, share: float, config: ModelConfig) -> bool:
    """Whether training changes what has this structural name: weights that learn, or statistics that are not frozen."""
    if name.endswith(STATISTICS):
        return not (config.freezes_backbone if name.startswith(BACKBONE) else config.freezes_heads)
    return learns(name, share, config)


def rate_of(name: str, stage: Stage) -> float:
    """The learning rate of the weights of this structural name, as a share of that of a step."""
    return stage.backbone_rate if name.startswith(BACKBONE) else 1.0
