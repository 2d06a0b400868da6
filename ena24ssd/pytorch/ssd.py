"""Where does the network think the animals are?

`Ena24SSD`: `CustomConv`, a class head and a box head on its single feature map, and the map's anchors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from ena24ssd.prior import prior
from ena24ssd.pytorch.backbone import CustomConv, channels
from ena24ssd.pytorch.layers import BatchNorm, Conv2d
from ena24ssd.pytorch.pyramid import PyramidSSD

if TYPE_CHECKING:
    from ena24ssd.config import ModelConfig


def build_network(classes: int, config: ModelConfig) -> Ena24SSD | PyramidSSD:
    """The network of a config for so many species, not yet initialised."""
    return (Ena24SSD if config.backbone == "custom_conv" else PyramidSSD)(classes, config)


class Ena24SSD(nn.Module):
    """The post's detector. The names in its `state_dict` are the package's structural names.

    Maps pictures (B, 3, S, S), normalised float32, to

    * anchors (1, N, 4) in unit corners, not clipped to the picture,
    * class logits (B, N, C+1), class 0 is background,
    * box offsets (B, 4N), relative to the anchors.

    With the post's configuration N = 13 * 13 * 9 = 1521 and C = 23.
    """

    def __init__(self, classes: int, config: ModelConfig):
        super().__init__()
        (self._level,) = config.anchors
        self.num_anchors = self._level.per_cell  # of a feature-map cell
        self.num_classes = classes
        self.features = CustomConv(config.width, config.freezes_backbone)
        self.class_predict, self.bbox_predict = nn.Sequential(), nn.Sequential()
        self.class_predict.append(Conv2d(self.features.channels, self.num_anchors * (classes + 1), 3, padding=1))
        entering = self.features.channels
        for count in (channels(count, config.width) for count in (380, 220, 120)):
            self.bbox_predict.append(Conv2d(entering, count, 3, padding=1))
            self.bbox_predict.append(BatchNorm(count, config.freezes_heads))
            self.bbox_predict.append(nn.ReLU(inplace=True))
            entering = count
        self.bbox_predict.append(Conv2d(entering, self.num_anchors * 4, 3, padding=1))
        if config.output_batchnorm:
            self.class_predict.append(BatchNorm(self.num_anchors * (classes + 1), config.freezes_heads))
            self.bbox_predict.append(BatchNorm(self.num_anchors * 4, config.freezes_heads))
        self._anchors: dict[tuple, torch.Tensor] = {}

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        feature = self.features(x)
        # Cell by cell, as the anchors are laid out.
        logits = self.class_predict(feature).permute(0, 2, 3, 1)
        offsets = self.bbox_predict(feature).permute(0, 2, 3, 1)
        count = self.num_anchors * feature.shape[2] * feature.shape[3]
        return (
            self.anchors(feature),
            logits.reshape(len(x), count, self.num_classes + 1),
            offsets.reshape(len(x), 4 * count),
        )

    def anchors(self, feature: torch.Tensor) -> torch.Tensor:
        """(1, N, 4) of a feature map (B, c, H, W), on its device."""
        kind = (*feature.shape[2:], feature.device)
        if kind not in self._anchors:
            corners = prior(*feature.shape[2:], self._level.sizes, self._level.ratios)
            self._anchors[kind] = torch.from_numpy(corners)[None].to(feature.device)
        return self._anchors[kind]
