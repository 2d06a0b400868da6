"""What is a graph made of while it is drawn?"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper


class Layer(NamedTuple):
    """A convolution, and the BatchNorm that follows it."""

    name: str  # in the graph, of what comes out of it
    source: str  # in the weights; several layers may have one
    norm: str | None  # in the weights
    kernel: tuple[int, int, int, int]  # leaving channels, entering ones of a group, height, width
    pads: tuple[int, int]  # before and behind, along both sides
    epsilon: float  # of BatchNorm
    stride: int = 1
    groups: int = 1
    has_bias: bool = False  # in the weights
    rectifier: str = ""  # Relu, Clip (ReLU6) or none

    @property
    def leaving(self) -> int:
        return self.kernel[0]

    @property
    def arrays(self) -> tuple[str, ...]:
        """What its kernel, and its bias where it has one, are called in the graph.

        Layers that share a kernel share its array, unless each has another BatchNorm in it.
        """
        owner = self.name if self.norm else self.source
        return (f"{owner}.weight", f"{owner}.bias") if self.norm or self.has_bias else (f"{owner}.weight",)


class Graph:
    """Nodes and constants as they come; a node is called as what it gives."""

    def __init__(self):
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.layers: list[Layer] = []  # in the order they compute
        self.idle: list[Layer] = []  # which the weights have as well, and no box depends on

    def add(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """A node, and the name of what it gives."""
        name = name or f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def add_twofold(self, kind: str, *inputs: str, **attributes: Any) -> tuple[str, str]:
        """A node that gives two things."""
        name = f"{kind.lower()}{len(self.nodes)}"
        names = f"{name}.0", f"{name}.1"
        self.nodes.append(helper.make_node(kind, inputs, names, name=name, **attributes))
        return names

    def constant(self, name: str, values: Any, kind: type = np.float32) -> str:
        self.constants[name] = np.asarray(values, dtype=kind)
        return name

    def integers(self, name: str, *values: int) -> str:
        return self.constant(name, values, np.int64)

    def convolve(self, layer: Layer, x: str) -> str:
        """A layer, with what rectifies behind it."""
        self.layers.append(layer)
        before, behind = layer.pads
        shape = {
            "kernel_shape": list(layer.kernel[2:]),
            "strides": [layer.stride] * 2,
            "pads": [before, before, behind, behind],
        }
        if layer.groups > 1:
            shape["group"] = layer.groups
        name = f"{layer.name}.sum" if layer.rectifier else layer.name
        x = self.add("Conv", x, *layer.arrays, name=name, **shape)
        if not layer.rectifier:
            return x
        ends = (self.constant("zero", 0), self.constant("six", 6)) if layer.rectifier == "Clip" else ()
        return self.add(layer.rectifier, x, *ends, name=layer.name)
