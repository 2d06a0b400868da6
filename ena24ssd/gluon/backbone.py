"""What does the network see in a picture?

`CustomConv`, the post's Inception-like backbone: three kernel sizes side by side at full resolution, then four strided
convolutions. (1, 3, 200, 200) -> (1, 500, 13, 13) at width 1.
"""

from __future__ import annotations

from mxnet.gluon import nn


def channels(count: int, width: float) -> int:
    """``count`` channels of the post's network at ``width``, at least one."""
    return max(1, round(count * width))


class CustomConv(nn.HybridBlock):
    """The post's backbone, attribute by attribute; ``width`` scales every channel count.

    ``frozen_statistics``: BatchNorm uses its running statistics in training too, and leaves them as they are.
    """

    def __init__(self, width: float = 1.0, frozen_statistics: bool = False):
        super().__init__()
        self.conv31 = nn.Conv2D(channels(200, width), 3, padding=1)
        self.conv51 = nn.Conv2D(channels(100, width), 5, padding=2)
        self.conv71 = nn.Conv2D(channels(50, width), 7, padding=3)
        self.conv11 = nn.Conv2D(channels(300, width), 1)
        self.conv32 = nn.Conv2D(channels(350, width), 3, padding=1, strides=2)
        self.conv33 = nn.Conv2D(channels(400, width), 3, padding=1, strides=2)
        self.conv34 = nn.Conv2D(channels(450, width), 3, padding=1, strides=2)
        self.conv35 = nn.Conv2D(channels(500, width), 3, padding=1, strides=2)
        self.bn1 = nn.BatchNorm(use_global_stats=frozen_statistics)
        self.bn2 = nn.BatchNorm(use_global_stats=frozen_statistics)
        self.bn3 = nn.BatchNorm(use_global_stats=frozen_statistics)
        self.bn4 = nn.BatchNorm(use_global_stats=frozen_statistics)
        self.bn5 = nn.BatchNorm(use_global_stats=frozen_statistics)
        self.bn6 = nn.BatchNorm(use_global_stats=frozen_statistics)
        self.bn7 = nn.BatchNorm(use_global_stats=frozen_statistics)
        self.bn8 = nn.BatchNorm(use_global_stats=frozen_statistics)

    def hybrid_forward(self, F, x):
        y = F.npx.activation(self.bn1(self.conv31(x)), act_type="relu")
        z = F.npx.activation(self.bn2(self.conv51(x)), act_type="relu")
        t = F.npx.activation(self.bn3(self.conv71(x)), act_type="relu")
        x = F.np.concatenate((y, z, t), axis=1)  # (B, 350, S, S)
        x = F.npx.activation(self.bn4(self.conv11(x)), act_type="relu")
        x = F.npx.activation(self.bn5(self.conv32(x)), act_type="relu")
        x = F.npx.activation(self.bn6(self.conv33(x)), act_type="relu")
        x = F.npx.activation(self.bn7(self.conv34(x)), act_type="relu")
        return F.npx.activation(self.bn8(self.conv35(x)), act_type="relu")  # (B, 500, ceil(S/16), ceil(S/16))
