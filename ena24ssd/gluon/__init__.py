"""What must be true before MXNet can be imported?

MXNet 1.9.1 is the last release of an archived project. It needs NumPy below 1.24 and, for its CUDA builds, libraries
that nobody else puts on its path. mxboard's generated protobuf modules do not load on any current protobuf. This
package settles all of that once, before the first `import mxnet`, and switches MXNet to NumPy semantics, as the post
does.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import sys
from pathlib import Path

import numpy

from ena24ssd.engine import EngineError
from ena24ssd.threads import count_threads

INSTALL = "Install with the tested pins, in the checkout: pip install '.[gluon]' -c constraints.txt"

# The CUDA 11 libraries that mxnet-cu112 links against, in an order in which each finds the ones before it loaded.
CUDA_LIBRARIES = (
    ("nvidia.cuda_runtime", "libcudart.so.11.0"),
    ("nvidia.nvtx", "libnvToolsExt.so.1"),
    ("nvidia.cuda_nvrtc", "libnvrtc.so.11.2"),
    ("nvidia.cublas", "libcublasLt.so.11"),
    ("nvidia.cublas", "libcublas.so.11"),
    ("nvidia.cufft", "libcufft.so.10"),
    ("nvidia.curand", "libcurand.so.10"),
    ("nvidia.cusparse", "libcusparse.so.11"),
    ("nvidia.cusolver", "libcusolver.so.11"),
    ("nvidia.cudnn", "libcudnn.so.8"),
    ("nvidia.nccl", "libnccl.so.2"),
)

# mxboard.proto.<left>_pb2 was generated for protobuf 3; TensorBoard carries the same messages for today's protobuf.
MXBOARD_MESSAGES = {
    f"mxboard.proto.{name}_pb2": f"tensorboard.compat.proto.{name}_pb2"
    for name in (
        *("attr_value", "event", "graph", "node_def", "resource_handle"),
        *("summary", "tensor", "tensor_shape", "types", "versions"),
    )
} | {"mxboard.proto.plugin_pr_curve_pb2": "tensorboard.plugins.pr_curve.plugin_data_pb2"}


def preload_cuda_libraries() -> None:
    """Load the CUDA 11 libraries of the ``gluon-cu112`` extra, where installed, so that MXNet finds them.

    MXNet's own search path is its folder alone; a library already loaded under the same name satisfies it.
    """
    for package, library in CUDA_LIBRARIES:
        try:
            spec = importlib.util.find_spec(package)
        except ModuleNotFoundError:  # not even the parent package `nvidia`
            return
        for folder in spec.submodule_search_locations or () if spec else ():
            path = Path(folder, "lib", library)
            if path.exists():
                ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


def lend_mxboard_messages() -> None:
    """Put TensorBoard's protobuf modules where mxboard will look for its own."""
    for theirs, ours in MXBOARD_MESSAGES.items():
        sys.modules.setdefault(theirs, importlib.import_module(ours))


def use_all_cores() -> None:
    """Let MXNet's CPU operators use every core.

    Left alone, MXNet takes two hardware threads for one core wherever it runs, and starts half as many.
    """
    threads = count_threads()
    if threads is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def _import_mxnet() -> None:
    if sys.version_info >= (3, 12):
        raise EngineError(
            f"engine 'gluon' needs Python 3.10 or 3.11, for which MXNet 1.9.1 was made; this is "
            f"{sys.version_info[0]}.{sys.version_info[1]}. Make a virtual environment with one of those"
        )
    if tuple(int(part) for part in numpy.__version__.split(".")[:2]) >= (1, 24):
        raise EngineError(f"MXNet 1.9.1 cannot run on NumPy {numpy.__version__}: it needs NumPy below 1.24. {INSTALL}")
    role = os.environ.get("DMLC_ROLE")
    if role in ("scheduler", "server"):  # MXNet would become one on import, and never come back
        raise EngineError(
            f"DMLC_ROLE is '{role}': start that one with 'python -m ena24ssd.cluster'; training is a worker's"
        )
    use_all_cores()
    preload_cuda_libraries()
    try:
        import mxnet

        lend_mxboard_messages()
    except ModuleNotFoundError as fault:
        raise EngineError(
            f"engine 'gluon' needs the package {fault.name}, which is not installed. {INSTALL}"
        ) from fault
    except OSError as fault:
        raise EngineError(
            f"MXNet's library does not load: {fault}. On Debian or Ubuntu the CPU build needs "
            "'apt-get install libgomp1 libquadmath0'; a CUDA build needs an NVIDIA driver and the 'gluon-cu112' extra."
        ) from fault
    mxnet.npx.set_np()


_import_mxnet()
