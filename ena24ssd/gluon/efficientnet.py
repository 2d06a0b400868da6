"""What does a network see in a picture that has seen a million others?

`EfficientNetLite`, built from the table in `ena24ssd.efficientnet`: (B, 3, S, S) -> maps of strides 8, 16 and 32.
"""

from __future__ import annotations

from mxnet.gluon import nn

from ena24ssd.efficientnet import EPSILON, LIMIT, STEM, Block, blocks_of, map_ends


class ConvNorm(nn.HybridBlock):
    """A convolution without bias and the BatchNorm behind it, with TensorFlow's "same" padding, for even sides.

    ``groups`` as in Gluon.
    """

    def __init__(
        self, entering: int, leaving: int, kernel: int = 1, stride: int = 1, groups: int = 1, frozen: bool = False
    ):
        super().__init__()
        # TensorFlow begins at the first pixel where a stride of 2 meets an even side. Begun one stride before it, the
        # same outputs come behind a row and a column too many: to cut those off costs a fraction of padding the input.
        self._is_halved = stride == 2
        padding = kernel // 2 + self._is_halved
        self.conv = nn.Conv2D(leaving, kernel, stride, padding, groups=groups, use_bias=False, in_channels=entering)
        self.norm = nn.BatchNorm(epsilon=EPSILON, use_global_stats=frozen, in_channels=leaving)

    def hybrid_forward(self, F, x):
        x = self.conv(x)
        if self._is_halved:
            x = F.npx.slice(x, begin=(None, None, 1, 1), end=(None, None, None, None))
        return self.norm(x)


def relu6(F, x):
    """max(0, min(x, 6)): two operators for the one, ``clip``, because oneDNN has the first of them (measured on a CPU:
    a third less for the whole forward pass, and ``clip``'s own gradient was a fifth of a training step).
    """
    return F.np.minimum(F.npx.activation(x, act_type="relu"), LIMIT)


class InvertedResidual(nn.HybridBlock):
    """One `Block` of the table."""

    def __init__(self, block: Block, frozen: bool):
        super().__init__()
        if block.expands:
            self.expand = ConvNorm(block.entering, block.inner, frozen=frozen)
        self.depthwise = ConvNorm(block.inner, block.inner, block.kernel, block.stride, block.inner, frozen)
        self.project = ConvNorm(block.inner, block.leaving, frozen=frozen)
        self._expands, self._is_residual = block.expands, block.is_residual

    def hybrid_forward(self, F, x):
        y = relu6(F, self.expand(x)) if self._expands else x
        y = self.project(relu6(F, self.depthwise(y)))
        return x + y if self._is_residual else y


class EfficientNetLite(nn.HybridBlock):
    """A variant of `ena24ssd.efficientnet.VARIANTS`.

    ``frozen_statistics``: BatchNorm uses its running statistics in training too, and leaves them as they are.
    ``channels`` of each map by its stride.
    """

    def __init__(self, variant: str, frozen_statistics: bool = False):
        super().__init__()
        table = blocks_of(variant)
        self.stem = ConvNorm(3, STEM, 3, 2, frozen=frozen_statistics)
        self.blocks = nn.HybridSequential()
        self.blocks.add(*(InvertedResidual(block, frozen_statistics) for block in table))
        self._strides = {end: stride for stride, end in map_ends(variant).items()}
        self.channels = {stride: table[end].leaving for end, stride in self._strides.items()}

    def hybrid_forward(self, F, x):
        """The maps (B, c, ceil(S / stride), ceil(S / stride)), finest first."""
        x, maps = relu6(F, self.stem(x)), []
        for place, block in enumerate(self.blocks):
            x = block(x)
            if place in self._strides:
                maps.append(x)
        return maps
