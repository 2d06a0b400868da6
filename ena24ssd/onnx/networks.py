"""Which convolutions lie between a picture and its boxes?

The networks of the engines (`Ena24SSD`, `PyramidSSD`), drawn from the same tables. What all levels of a pyramid share
but for BatchNorm has a kernel for each of them here, with that BatchNorm in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ena24ssd import efficientnet
from ena24ssd.efficientnet import STEM, Block, blocks_of, map_ends
from ena24ssd.onnx.nodes import Graph, Layer

if TYPE_CHECKING:
    from ena24ssd.config import ModelConfig

JOINED = "features.joined"  # what the post's convolutions on the picture give, together
EPSILON = 1e-5  # of the post's BatchNorm


def draw_network(graph: Graph, x: str, config: ModelConfig, classes: int) -> tuple[str, str]:
    """From pixels ``x`` (B, 3, S, S) to class logits (B, A * (C+1), H, W) and box offsets (B, A * 4, H, W).

    Of several levels, the cells of all are one column: H is their number, W is 1.
    """
    draw = _draw_posts if config.backbone == "custom_conv" else _draw_pyramid
    return draw(graph, x, config, classes)


# -- the post's ------------------------------------------------------------------------------------------------------


def _draw_posts(graph: Graph, x: str, config: ModelConfig, classes: int) -> tuple[str, str]:
    def channels(count: int) -> int:
        return max(1, round(count * config.width))

    def plain(
        name: str, norm: str | None, entering: int, leaving: int, size: int, stride: int, rectifier: str
    ) -> Layer:
        kernel, pads = (leaving, entering, size, size), (size // 2,) * 2
        return Layer(name, name, norm, kernel, pads, EPSILON, stride, has_bias=True, rectifier=rectifier)

    def feature(name: str, norm: str, entering: int, leaving: int, size: int, stride: int = 1) -> Layer:
        return plain(f"features.{name}", f"features.{norm}", entering, leaving, size, stride, "Relu")

    on_picture = [("conv31", "bn1", 200, 3), ("conv51", "bn2", 100, 5), ("conv71", "bn3", 50, 7)]
    first = [feature(name, norm, 3, channels(count), size) for name, norm, count, size in on_picture]
    x = graph.add("Concat", *(graph.convolve(layer, x) for layer in first), name=JOINED, axis=1)
    entering = sum(layer.leaving for layer in first)
    for name, norm, count, size, stride in (
        ("conv11", "bn4", 300, 1, 1),
        ("conv32", "bn5", 350, 3, 2),
        ("conv33", "bn6", 400, 3, 2),
        ("conv34", "bn7", 450, 3, 2),
        ("conv35", "bn8", 500, 3, 2),
    ):
        x = graph.convolve(feature(name, norm, entering, channels(count), size, stride), x)
        entering = channels(count)

    (level,) = config.anchors
    norms = ("class_predict.1", "bbox_predict.10") if config.output_batchnorm else (None, None)
    classes_head = plain("class_predict.0", norms[0], entering, level.per_cell * (classes + 1), 3, 1, "")
    logits, offsets = graph.convolve(classes_head, x), x
    for number, count in zip((0, 3, 6), (380, 220, 120)):
        name, norm = f"bbox_predict.{number}", f"bbox_predict.{number + 1}"
        offsets = graph.convolve(plain(name, norm, entering, channels(count), 3, 1, "Relu"), offsets)
        entering = channels(count)
    boxes_head = plain("bbox_predict.9", norms[1], entering, level.per_cell * 4, 3, 1, "")
    return logits, graph.convolve(boxes_head, offsets)


# -- EfficientNet-Lite with a pyramid --------------------------------------------------------------------------------


def _draw_pyramid(graph: Graph, x: str, config: ModelConfig, classes: int) -> tuple[str, str]:
    count = config.pyramid
    seen = _draw_backbone(graph, x, config)
    maps = [
        graph.convolve(_conv_norm(f"pyramid.lateral.{number}", channels, count), x)
        for number, (x, channels) in enumerate(seen)
    ]
    for number in range(len(config.levels) - len(seen)):
        coarser = _conv_norm(f"pyramid.coarser.{number}", count, count, 3, 2, is_depthwise=True)
        maps.append(graph.convolve(coarser, maps[-1]))
    for place in range(len(maps) - 2, -1, -1):
        maps[place] = graph.add("Add", maps[place], _double(graph, maps[place + 1]))
    maps = _draw_separable(graph, "pyramid.smooth", maps, count)

    answers, per_cell = [], config.anchors[0].per_cell  # as on every other level
    for kind, each in (("class", classes + 1), ("bbox", 4)):
        column = maps
        for number in range(config.towers):
            column = _draw_separable(graph, f"{kind}_tower.{number}", column, count)
        shape = graph.integers("shape/column", 0, count, -1, 1)
        # All cells in a column, so that the last convolution, which they share, is one.
        x = graph.add("Concat", *(graph.add("Reshape", head, shape) for head in column), axis=2)
        name, kernel = f"{kind}_predict.0", (per_cell * each, count, 1, 1)
        answers.append(graph.convolve(Layer(name, name, None, kernel, (0, 0), 0, has_bias=True), x))
    return answers[0], answers[1]


def _draw_backbone(graph: Graph, x: str, config: ModelConfig) -> list[tuple[str, int]]:
    """The maps of the levels that the backbone has, finest first, and their channels."""
    ends, seen = map_ends(config.backbone), []
    own = [ends[stride] for stride in config.levels if stride in ends]
    x = graph.convolve(_conv_norm("features.stem", 3, STEM, 3, 2, rectifier="Clip"), x)
    for place, block in enumerate(blocks_of(config.backbone)):
        layers = _layers_of(block, f"features.blocks.{place}")
        if place > own[-1]:
            graph.idle.extend(layers)
            continue
        entering = x
        for layer in layers:
            x = graph.convolve(layer, x)
        x = graph.add("Add", entering, x) if block.is_residual else x
        if place in own:
            seen.append((x, block.leaving))
    return seen


def _layers_of(block: Block, name: str) -> list[Layer]:
    layers = [
        _conv_norm(f"{name}.depthwise", block.inner, block.inner, block.kernel, block.stride, True, "Clip"),
        _conv_norm(f"{name}.project", block.inner, block.leaving),
    ]
    return [_conv_norm(f"{name}.expand", block.entering, block.inner, rectifier="Clip")] * block.expands + layers


def _conv_norm(
    name: str,
    entering: int,
    leaving: int,
    size: int = 1,
    stride: int = 1,
    is_depthwise: bool = False,
    rectifier: str = "",
) -> Layer:
    """A convolution with TensorFlow's "same" padding: what is odd in it lies behind."""
    groups = entering if is_depthwise else 1
    kernel, padding = (leaving, entering // groups, size, size), size - stride
    pads = (padding // 2, padding - padding // 2)
    epsilon = efficientnet.EPSILON
    return Layer(name, f"{name}.conv", f"{name}.norm", kernel, pads, epsilon, stride, groups, rectifier=rectifier)


def _draw_separable(graph: Graph, name: str, maps: Sequence[str], count: int) -> list[str]:
    """A depthwise and a pointwise convolution that all maps share, but for the BatchNorm behind them."""
    done = []
    for number, x in enumerate(maps):
        around = Layer(
            f"{name}.depthwise.{number}", f"{name}.depthwise", None, (count, 1, 3, 3), (1, 1), 0, groups=count
        )
        across = Layer(
            f"{name}.{number}",
            f"{name}.pointwise",
            f"{name}.norms.{number}",
            (count, count, 1, 1),
            (0, 0),
            efficientnet.EPSILON,
            rectifier="Clip",
        )
        done.append(graph.convolve(across, graph.convolve(around, x)))
    return done


def _double(graph: Graph, x: str) -> str:
    """Every pixel as four."""
    scales = graph.constant("doubled", (1, 1, 2, 2))
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return graph.add("Resize", x, "", scales, **how)
