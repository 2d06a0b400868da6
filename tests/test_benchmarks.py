"""Does the benchmark of the engines run where little is installed, and does it count what it says it counts?"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from ena24ssd.config import read_config

ROOT = Path(__file__).resolve().parents[1]

# Finds nothing but the standard library, NumPy, and PyTorch with what its wheel asks for.
BARE = """
import sys
from importlib.machinery import PathFinder

KNOWN = {*sys.stdlib_module_names, "ena24ssd", "machine", "numpy", "sitecustomize", "torch", "torchgen", "functorch"}
KNOWN |= {"cuda", "filelock", "fsspec", "jinja2", "markupsafe", "mpmath", "networkx", "nvidia", "setuptools", "sympy"}
KNOWN |= {"triton", "typing_extensions"}


class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        known = name.partition(".")[0] in KNOWN or name.startswith("_sysconfigdata")
        return super().find_spec(name, path, target) if known else None


sys.meta_path[sys.meta_path.index(PathFinder)] = Bare
"""


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmark, to be asked for its parts."""
    pytest.importorskip("torch", reason="the pytorch extra is not installed")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import engines

    return engines


def test_a_plain_checkout_with_torch_and_numpy_answers_every_question(tmp_path: Path):
    pytest.importorskip("torch", reason="the pytorch extra is not installed")
    (tmp_path / "sitecustomize.py").write_text(BARE)
    figures = tmp_path / "figures.json"
    command = ["benchmarks/engines.py", "--quick", "--device", "cpu", "--json", str(figures)]
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 0, run.stderr
    parts = run.stdout.split("\n## ")
    assert [part.partition(":")[0] for part in parts[1:]] == ["floor", "step", "post", "profile", "curves"]
    assert all("| --- |" in part for part in parts[1:]) and "no answer" not in run.stdout
    reasons = "needs the package mxnet|cannot run on NumPy|needs Python 3.10 or 3.11"
    assert "gluon" in parts[2] and re.search(reasons, parts[2])  # a row that says why
    found = json.loads(figures.read_text())
    sides = {(row["precision"], row["batch"]) for row in found["step"] if row["fault"] is None}
    assert sides == {(precision, batch) for precision in ("float32", "bfloat16") for batch in (2, 4)}
    assert sum(found["profile"][0]["kinds_s"].values()) == pytest.approx(found["profile"][0]["busy_s"])
    assert found["machine"] in run.stdout and "mxnet" not in found["machine"].lower()


def test_the_choices_are_those_of_the_presets(engines: ModuleType):
    post, ours = read_config(ROOT / "configs/blog.yaml"), engines.post_config()
    augmentation = read_config(ROOT / "configs/ena24.yaml").augment
    theirs = SimpleNamespace(**{name: getattr(post, name) for name in vars(ours)})
    theirs.device, theirs.augment = "cpu", augmentation
    for name, mine in vars(ours).items():
        other = getattr(theirs, name)
        if isinstance(mine, SimpleNamespace):
            assert vars(mine) == {field: getattr(other, field) for field in vars(mine)}, name
        else:
            assert mine == other, name
    assert vars(ours.augment).keys() == type(augmentation).model_fields.keys()
    assert vars(ours.loss).keys() == type(post.loss).model_fields.keys()  # an engine reads all of them
    assert (post.train.batch, post.train.epochs) == (engines.POST.batch, engines.POST.epochs)
    assert int(post.split.train * engines.PICTURES) == engines.POST.pictures == int(engines.TRAINED * engines.PICTURES)


@pytest.mark.parametrize(
    ("side", "width"),
    [
        pytest.param(200, 1.0, id="the post's network does what is said of it"),
        pytest.param(75, 0.1, id="sides that do not halve evenly are rounded up"),
    ],
)
def test_work_is_counted_as_the_network_does_it(engines: ModuleType, side: int, width: float):
    import torch

    from ena24ssd.pytorch.ssd import Ena24SSD

    net = Ena24SSD(23, engines.post_config(width=width, side=side).model).to("meta").eval()
    seen, first = {}, set()

    def count(layer: torch.nn.Module, given: tuple[torch.Tensor], made: torch.Tensor) -> None:
        seen[layer] = made[0].numel() * given[0].shape[1] * layer.weight.shape[2] * layer.weight.shape[3]
        if given[0].shape[1] == 3:
            first.add(layer)

    for layer in net.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(count)
    net(torch.zeros(2, 3, side, side, device="meta"))

    shapes = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    named = {layer: name for name, layer in net.named_modules()}
    assert engines.forward_products(shapes, side) == {named[layer]: products for layer, products in seen.items()}
    without = sum(seen[layer] for layer in first)
    assert engines.training_products(shapes, side) == 3 * sum(seen.values()) - without
    if width == 1:
        assert sum(seen.values()) == pytest.approx(19.6e9, rel=0.01)  # configs/blog.yaml


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize128x256x64_cudnn", "convolution"),
        ("void cutlass__5x_cudnn::Kernel<cutlass_tensorop_bf16_s16816wgrad_optimized_bf16_128x256>", "convolution"),
        ("void cudnn::engines_precompiled::nchwToNhwcKernel<float, float, float, false, true>", "copies"),
        ("void cudnn::bn_fw_tr_1C11_kernel_NCHW<float, float, int, 512, true, 1, true>", "BatchNorm, pointwise"),
        ("triton_red_fused__native_batch_norm_legit_functional__to_copy_relu_3", "BatchNorm, pointwise"),
        (
            "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>>",
            "BatchNorm, pointwise",
        ),
        (
            "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<FusedSgdMathFunctor<float, 1>>",
            "optimizer",
        ),
        ("Memcpy HtoD (Pinned -> Device)", "copies"),
        ("aten::convolution_backward", "convolution"),
        ("aten::mm", "convolution"),
        ("void at::native::radixSortKVInPlace<-2, -1, 32, 4, float, long, unsigned int>", "other"),
    ],
)
def test_kernels_are_told_apart_by_name(engines: ModuleType, kernel: str, kind: str):
    assert engines.kind_of(kernel) == kind


def test_the_time_of_kernels_side_by_side_counts_once(engines: ModuleType):
    assert engines.covered([(0, 4), (1, 2), (3, 5), (7, 8)]) == 6
