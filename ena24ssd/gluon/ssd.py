"""Where does the network think the animals are?

`Ena24SSD`: `CustomConv`, a class head and a box head on its single feature map, and the map's anchors.
"""

from __future__ import annotations

from mxnet.gluon import nn

from ena24ssd.config import ModelConfig
from ena24ssd.gluon.backbone import CustomConv, channels
from ena24ssd.gluon.pyramid import PyramidSSD


def build_network(classes: int, config: ModelConfig) -> Ena24SSD | PyramidSSD:
    """The network of a config for so many species, not yet initialised."""
    return (Ena24SSD if config.backbone == "custom_conv" else PyramidSSD)(classes, config)


class Ena24SSD(nn.HybridBlock):
    """The post's detector.

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
        self.class_predict = nn.HybridSequential()
        self.bbox_predict = nn.HybridSequential()
        self.class_predict.add(nn.Conv2D(self.num_anchors * (classes + 1), 3, padding=1))
        frozen = config.freezes_heads
        for count in (380, 220, 120):
            self.bbox_predict.add(
                nn.Conv2D(channels(count, config.width), 3, padding=1),
                nn.BatchNorm(use_global_stats=frozen),
                nn.Activation("relu"),
            )
        self.bbox_predict.add(nn.Conv2D(self.num_anchors * 4, 3, padding=1))
        if config.output_batchnorm:
            self.class_predict.add(nn.BatchNorm(use_global_stats=frozen))
            self.bbox_predict.add(nn.BatchNorm(use_global_stats=frozen))
        self.features = CustomConv(config.width, config.freezes_backbone)

    def hybrid_forward(self, F, x):
        feature = self.features(x)
        # One (1, H*W*A, 4) block, cell by cell; the heads are laid out the same way before they are flattened.
        anchors = F.npx.multibox_prior(feature, list(self._level.sizes), list(self._level.ratios))
        logits = F.np.transpose(self.class_predict(feature), (0, 2, 3, 1))
        offsets = F.np.transpose(self.bbox_predict(feature), (0, 2, 3, 1))
        return (
            F.np.reshape(anchors, (1, -1, 4)),
            F.npx.reshape(F.npx.batch_flatten(logits), (-2, -1, self.num_classes + 1)),
            F.npx.batch_flatten(offsets),
        )
