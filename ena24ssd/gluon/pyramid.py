"""Where does the network think the animals are, large and small?

`PyramidSSD`: a pretrained backbone, a feature pyramid (Lin et al. 2017) over several of its maps, and two small towers
of separable convolutions that all maps share but for their BatchNorm, as in EfficientDet (Tan et al. 2020).
"""

from __future__ import annotations

from mxnet.gluon import nn

from ena24ssd.config import ModelConfig
from ena24ssd.efficientnet import EPSILON, MAPS
from ena24ssd.gluon.efficientnet import ConvNorm, EfficientNetLite, relu6


class Separable(nn.HybridBlock):
    """A depthwise 3x3 and a 1x1 convolution that several maps share; each map has a BatchNorm of its own. ReLU6."""

    def __init__(self, channels: int, maps: int, frozen: bool):
        super().__init__()
        self.depthwise = nn.Conv2D(channels, 3, padding=1, groups=channels, use_bias=False, in_channels=channels)
        self.pointwise = nn.Conv2D(channels, 1, use_bias=False, in_channels=channels)
        self.norms = nn.HybridSequential()
        for _ in range(maps):
            self.norms.add(nn.BatchNorm(epsilon=EPSILON, use_global_stats=frozen, in_channels=channels))

    def hybrid_forward(self, F, *maps):
        return [relu6(F, norm(self.pointwise(self.depthwise(x)))) for norm, x in zip(self.norms, maps)]


class Pyramid(nn.HybridBlock):
    """Maps of a backbone, finest first -> as many maps of ``channels`` each that know of the coarser ones.

    Each map is brought to ``channels`` by a 1x1 convolution, and the one above is added, every pixel of it as four.
    Levels above the backbone's coarsest are halved from the one before.
    """

    def __init__(self, entering: dict[int, int], levels: tuple[int, ...], channels: int, frozen: bool):
        super().__init__()
        self._own = [stride for stride in levels if stride in entering]
        self.lateral, self.coarser = nn.HybridSequential(), nn.HybridSequential()
        for stride in self._own:
            self.lateral.add(ConvNorm(entering[stride], channels, frozen=frozen))
        for _ in levels[len(self._own) :]:
            self.coarser.add(ConvNorm(channels, channels, 3, 2, channels, frozen))
        self.smooth = Separable(channels, len(levels), frozen)

    def hybrid_forward(self, F, *maps):
        maps = [lateral(maps[MAPS.index(stride)]) for lateral, stride in zip(self.lateral, self._own)]
        for coarser in self.coarser:
            maps.append(coarser(maps[-1]))
        for place in range(len(maps) - 2, -1, -1):
            maps[place] = maps[place] + _double(F, maps[place + 1])
        return self.smooth(*maps)


def _double(F, x):
    """Every pixel of (B, c, H, W) as four."""
    return F.np.repeat(F.np.repeat(x, 2, axis=2), 2, axis=3)


class PyramidSSD(nn.HybridBlock):
    """A detector of small and large animals.

    Maps pictures as `ena24ssd.gluon.ssd.Ena24SSD` does, with the anchors of its levels one after another, finest first.
    """

    def __init__(self, classes: int, config: ModelConfig):
        super().__init__()
        self.num_classes, self._levels = classes, config.anchors
        self.num_anchors = self._levels[0].per_cell  # of a cell, on every level
        self.features = EfficientNetLite(config.backbone, config.freezes_backbone)
        frozen, count, maps = config.freezes_heads, config.pyramid, len(config.levels)
        self.pyramid = Pyramid(self.features.channels, config.levels, count, frozen)
        self.class_tower, self.bbox_tower = nn.HybridSequential(), nn.HybridSequential()
        for _ in range(config.towers):
            self.class_tower.add(Separable(count, maps, frozen))
            self.bbox_tower.add(Separable(count, maps, frozen))
        self.class_predict, self.bbox_predict = nn.HybridSequential(), nn.HybridSequential()
        self.class_predict.add(nn.Conv2D(self.num_anchors * (classes + 1), 1, in_channels=count))
        self.bbox_predict.add(nn.Conv2D(self.num_anchors * 4, 1, in_channels=count))

    def hybrid_forward(self, F, x):
        maps = self.pyramid(*self.features(x))
        anchors = [
            F.np.reshape(F.npx.multibox_prior(each, list(level.sizes), list(level.ratios)), (1, -1, 4))
            for each, level in zip(maps, self._levels)
        ]
        logits, offsets = maps, maps
        for for_classes, for_boxes in zip(self.class_tower, self.bbox_tower):
            logits, offsets = for_classes(*logits), for_boxes(*offsets)
        logits = _flatten(F, [self.class_predict(each) for each in logits])
        offsets = _flatten(F, [self.bbox_predict(each) for each in offsets])
        return (
            F.np.concatenate(anchors, axis=1),
            F.npx.reshape(logits, (-2, -1, self.num_classes + 1)),
            offsets,
        )


def _flatten(F, maps):
    """(B, n, H, W) each -> (B, all of them): map by map and cell by cell, as the anchors are laid out."""
    return F.np.concatenate([F.npx.batch_flatten(F.np.transpose(each, (0, 2, 3, 1))) for each in maps], axis=1)
