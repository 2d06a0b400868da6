"""What does the network see in a picture?

`CustomConv`, the post's Inception-like backbone: three kernel sizes side by side at full resolution, then four strided
convolutions. (1, 3, 200, 200) -> (1, 500, 13, 13) at width 1.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ena24ssd.pytorch.layers import BatchNorm, Conv2d


def channels(count: int, width: float) -> int:
    """``count`` channels of the post's network at ``width``, at least one."""
    return max(1, round(count * width))


class CustomConv(nn.Module):
    """The post's backbone, attribute by attribute; ``width`` scales every channel count.

    ``frozen_statistics``: BatchNorm uses its running statistics in training too, and leaves them as they are.
    """

    def __init__(self, width: float = 1.0, frozen_statistics: bool = False):
        super().__init__()
        side = [channels(count, width) for count in (200, 100, 50)]
        self.conv31 = Conv2d(3, side[0], 3, padding=1)
        self.conv51 = Conv2d(3, side[1], 5, padding=2)
        self.conv71 = Conv2d(3, side[2], 7, padding=3)
        deep = [channels(count, width) for count in (300, 350, 400, 450, 500)]
        self.conv11 = Conv2d(sum(side), deep[0], 1)
        self.conv32 = Conv2d(deep[0], deep[1], 3, padding=1, stride=2)
        self.conv33 = Conv2d(deep[1], deep[2], 3, padding=1, stride=2)
        self.conv34 = Conv2d(deep[2], deep[3], 3, padding=1, stride=2)
        self.conv35 = Conv2d(deep[3], deep[4], 3, padding=1, stride=2)
        self.channels = deep[4]
        for number, count in enumerate([*side, *deep], 1):
            setattr(self, f"bn{number}", BatchNorm(count, frozen_statistics))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv31(x)), inplace=True)
        z = F.relu(self.bn2(self.conv51(x)), inplace=True)
        t = F.relu(self.bn3(self.conv71(x)), inplace=True)
        x = torch.cat((y, z, t), dim=1)  # (B, 350, S, S)
        x = F.relu(self.bn4(self.conv11(x)), inplace=True)
        x = F.relu(self.bn5(self.conv32(x)), inplace=True)
        x = F.relu(self.bn6(self.conv33(x)), inplace=True)
        x = F.relu(self.bn7(self.conv34(x)), inplace=True)
        return F.relu(self.bn8(self.conv35(x)), inplace=True)  # (B, 500, ceil(S/16), ceil(S/16))
