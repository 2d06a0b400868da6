"""How does the network leave as MXNet's own files?

As in the post: `net.export` writes the graph as json and the arrays as .params, and `SymbolBlock.imports` makes a
network of both, in any language that MXNet speaks, without this package.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import mxnet
import numpy
from mxnet import gluon, np, npx

from ena24ssd.config import RunConfig
from ena24ssd.engine import require_weights
from ena24ssd.gluon.engine import telling
from ena24ssd.gluon.multibox import decode
from ena24ssd.gluon.ssd import build_network
from ena24ssd.paramsfile import ParamsError, read_params

INPUT = "data"  # what MXNet calls the pictures of a graph
BATCH = 8


def export_symbol(
    weights: Mapping[str, numpy.ndarray], config: RunConfig, class_names: Sequence[str], folder: Path, stem: str
) -> dict[str, str]:
    """Write ``folder/stem-symbol.json`` and ``folder/stem-0000.params``; the same weights give the same bytes.

    The graph maps pictures (B, 3, S, S), normalised float32, to what the network says: anchors, class logits and
    box offsets. Returns the structural name of every parameter by the name that MXNet gave it. Raises ValueError for
    weights of another network, and OSError where the files do not come out whole.
    """
    with telling():
        net, names = _build(weights, config, class_names)
    folder.mkdir(parents=True, exist_ok=True)
    params = folder / f"{stem}-0000.params"
    try:
        net.export(str(folder / stem), epoch=0)
        # MXNet says nothing of the last bytes that a full disk did not take.
        written = {name.partition(":")[2]: array for name, array in read_params(params.read_bytes()).items()}
        is_whole = all(numpy.array_equal(written[name], weights[own], equal_nan=True) for name, own in names.items())
    except (mxnet.MXNetError, ParamsError, KeyError) as fault:
        raise OSError(f"{params}: did not come out whole; is the disk full?") from fault
    if not is_whole:
        raise OSError(f"{params}: holds other values than were written; look after the disk")
    return names


def _build(
    weights: Mapping[str, numpy.ndarray], config: RunConfig, class_names: Sequence[str]
) -> tuple[gluon.HybridBlock, dict[str, str]]:
    """The network on the CPU, ready for export, and the structural name of every parameter by MXNet's."""
    npx.set_np()
    with mxnet.name.NameManager():  # MXNet numbers layers over all networks of a process; these start from 0
        net = build_network(len(class_names), config.model)
    net.initialize(ctx=mxnet.cpu())
    net.hybridize()
    blank = np.zeros((1, 3, config.data.image_side, config.data.image_side), ctx=mxnet.cpu())
    net(blank)  # shapes become known
    parameters = net._collect_params_with_prefix()
    require_weights(weights, {name: parameter.shape for name, parameter in parameters.items()})
    for name, parameter in parameters.items():
        parameter.set_data(np.array(weights[name], ctx=mxnet.cpu()))
    net(blank)
    return net, {parameter.name: name for name, parameter in parameters.items()}


class SymbolNetwork:
    """A network of exported files, on the CPU: `ena24ssd.engine.Network`.

    MXNet believes what the files say, and a graph may be any program that its operators make: this is for files that
    were just written, to see whether they are right, and for those of one's own.
    """

    device, batch = "MXNet graph, cpu", BATCH

    @telling()
    def __init__(self, graph: Path, params: Path, config: RunConfig, class_names: Sequence[str]):
        npx.set_np()
        self._config, self._classes = config, len(class_names)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Cannot decide type")  # pictures have none before they come
            self._net = gluon.SymbolBlock.imports(str(graph), [INPUT], str(params), ctx=mxnet.cpu())
        self._net.hybridize(static_alloc=True, static_shape=True)

    @telling()
    def detect(self, images: numpy.ndarray) -> numpy.ndarray:
        """(B, S, S, 3) uint8 -> (B, K, 6) as `Engine.detect`. Raises ValueError for a graph of other species."""
        pixels = npx.image.to_tensor(np.array(images, dtype="uint8"))
        pixels = npx.image.normalize(pixels, mean=self._config.data.mean, std=self._config.data.std)
        anchors, logits, offsets = self._net(pixels)
        if logits.shape[-1] != self._classes + 1:
            raise ValueError(
                f"the graph tells {logits.shape[-1] - 1} species apart, and {self._classes} are named; "
                "use the class names it was exported with"
            )
        return decode(anchors, logits, offsets, self._config.evaluation).asnumpy()
