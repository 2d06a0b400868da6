"""Where does the network think the animals are, large and small?

`PyramidSSD`: a pretrained backbone, a feature pyramid (Lin et al. 2017) over several of its maps, and two small towers
of separable convolutions that all maps share but for their BatchNorm, as in EfficientDet (Tan et al. 2020).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from ena24ssd.efficientnet import EPSILON
from ena24ssd.prior import prior
from ena24ssd.pytorch.efficientnet import ConvNorm, EfficientNetLite
from ena24ssd.pytorch.layers import BatchNorm

if TYPE_CHECKING:
    from ena24ssd.config import ModelConfig


class Separable(nn.Module):
    """A depthwise 3x3 and a 1x1 convolution that several maps share; each map has a BatchNorm of its own. ReLU6."""

    def __init__(self, channels: int, maps: int, frozen: bool):
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.norms = nn.ModuleList(BatchNorm(channels, frozen, EPSILON) for _ in range(maps))

    def forward(self, maps: list[torch.Tensor]) -> list[torch.Tensor]:
        return [F.relu6(norm(self.pointwise(self.depthwise(x))), inplace=True) for norm, x in zip(self.norms, maps)]


class Pyramid(nn.Module):
    """Maps of a backbone, finest first -> as many maps of ``channels`` each that know of the coarser ones.

    Each map is brought to ``channels`` by a 1x1 convolution, and the one above is added, every pixel of it as four.
    Levels above the backbone's coarsest are halved from the one before.
    """

    def __init__(self, entering: dict[int, int], levels: tuple[int, ...], channels: int, frozen: bool):
        super().__init__()
        self._own = [stride for stride in levels if stride in entering]
        self.lateral = nn.ModuleList(ConvNorm(entering[stride], channels, frozen=frozen) for stride in self._own)
        above = len(levels) - len(self._own)
        self.coarser = nn.ModuleList(ConvNorm(channels, channels, 3, 2, channels, frozen) for _ in range(above))
        self.smooth = Separable(channels, len(levels), frozen)

    def forward(self, maps: dict[int, torch.Tensor]) -> list[torch.Tensor]:
        maps = [lateral(maps[stride]) for lateral, stride in zip(self.lateral, self._own)]
        for coarser in self.coarser:
            maps.append(coarser(maps[-1]))
        for place in range(len(maps) - 2, -1, -1):
            maps[place] = maps[place] + F.interpolate(maps[place + 1], scale_factor=2, mode="nearest")
        return self.smooth(maps)


class PyramidSSD(nn.Module):
    """A detector of small and large animals. The names in its `state_dict` are the package's structural names.

    Maps pictures as `ena24ssd.pytorch.ssd.Ena24SSD` does, with the anchors of its levels one after another, finest
    first.
    """

    def __init__(self, classes: int, config: ModelConfig):
        super().__init__()
        self.num_classes, self._levels = classes, config.anchors
        self.features = EfficientNetLite(config.backbone, config.freezes_backbone)
        frozen, count, maps = config.freezes_heads, config.pyramid, len(config.levels)
        self.pyramid = Pyramid(self.features.channels, config.levels, count, frozen)
        self.class_tower = nn.Sequential(*(Separable(count, maps, frozen) for _ in range(config.towers)))
        self.bbox_tower = nn.Sequential(*(Separable(count, maps, frozen) for _ in range(config.towers)))
        self.num_anchors = self._levels[0].per_cell  # of a cell, on every level
        self.class_predict = nn.Sequential(nn.Conv2d(count, self.num_anchors * (classes + 1), 1))
        self.bbox_predict = nn.Sequential(nn.Conv2d(count, self.num_anchors * 4, 1))
        self._anchors: dict[tuple, torch.Tensor] = {}

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        maps = self.pyramid(self.features(x))
        logits = [self.class_predict(each).permute(0, 2, 3, 1).flatten(1) for each in self.class_tower(maps)]
        offsets = [self.bbox_predict(each).permute(0, 2, 3, 1).flatten(1) for each in self.bbox_tower(maps)]
        logits = torch.cat(logits, dim=1).reshape(len(x), -1, self.num_classes + 1)
        return self.anchors(maps), logits, torch.cat(offsets, dim=1)

    def anchors(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """(1, N, 4) of the pyramid's maps, on their device."""
        kind = (*(tuple(each.shape[2:]) for each in maps), maps[0].device)
        if kind not in self._anchors:
            corners = [prior(*each.shape[2:], level.sizes, level.ratios) for each, level in zip(maps, self._levels)]
            self._anchors[kind] = torch.cat([torch.from_numpy(each) for each in corners])[None].to(maps[0].device)
        return self._anchors[kind]
