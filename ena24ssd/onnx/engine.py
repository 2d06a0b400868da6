"""How does an exported graph run here?

With ONNX Runtime, on a GPU where it can, or with OpenVINO: whichever suits the graph and the machine. No training
framework is needed. What is said of a picture does not depend on those beside it: a CPU takes pictures one by one
(which costs no time, and keeps memory flat), a GPU always as many at once, the last ones filled up with blank ones.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import os
import re
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ena24ssd.engine import RUNTIMES, EngineError
from ena24ssd.memory import is_shortage
from ena24ssd.onnx import INSTALL
from ena24ssd.onnx.graph import INPUT
from ena24ssd.onnx.reading import set_reading
from ena24ssd.onnx.safety import QUANTIZE, read_graph
from ena24ssd.threads import count_threads

if TYPE_CHECKING:
    from ena24ssd.config import RunConfig

EXTRAS = {"onnxruntime": INSTALL, "openvino": "pip install 'ena24ssd[openvino]'"}
CUDA = "CUDAExecutionProvider"
DEVICE = re.compile(r"(auto|cpu|gpu)(?::(\d+))?")
AT_HAND = 8  # pictures that a CPU is well served with at a time
ON_GPU = 16


class Choice(NamedTuple):
    """A runtime by name, where it runs, and why."""

    runtime: str
    place: str  # cpu or gpu
    reason: str


class OnnxEngine:
    """`ena24ssd.engine.Network` of an exported graph.

    ``device`` says what it runs on and with, and ``reason`` why with that.
    """

    def __init__(
        self,
        model: bytes,
        config: RunConfig,
        class_names: Sequence[str],
        *,
        runtime: str = "auto",
        device: str | Sequence[str] = "auto",
        threads: int | None = None,
    ):
        """``model``: the bytes of a file, which need not be trusted. How boxes are read off the network is for
        ``config.evaluation`` to say.

        ``runtime``: ``onnxruntime``, ``openvino`` or ``auto``. ``device``: ``auto``, ``cpu``, ``gpu`` or ``gpu:N``.
        ``threads`` of a CPU (left out: OMP_NUM_THREADS, or one for every core). ``config.precision`` bfloat16: for a
        float graph, with OpenVINO, where the CPU multiplies it; auto is float32, so that a file says the same
        everywhere. Raises EngineError for a file that is no graph of this config, and for what cannot run here.
        """
        kind, index = _parse_device(device)
        if threads is not None and threads < 1:
            raise EngineError(f"threads is {threads}; it takes 1 at least. Leave it out for one on every core")
        graph = read_graph(model, config, class_names)
        set_reading(graph, config.evaluation)
        is_int8 = any(node.op_type == QUANTIZE for node in graph.graph.node)
        self._side = config.data.image_side
        self._shown = graph.graph.output[0].type.tensor_type.shape.dim[1].dim_value
        graph = graph.SerializeToString()

        in_bfloat16 = config.precision == "bfloat16"
        choice, fault = choose_runtime(runtime, kind, is_int8, in_bfloat16), ""
        if choice.place == "gpu":
            try:
                self._runner: Any = _OnnxRuntimeOnGpu(graph, self._side, index)
            except EngineError as error:
                if kind == "gpu":
                    raise EngineError(f"device 'gpu:{index}': {error}; or take device cpu") from error
                choice, fault = choose_runtime(runtime, "cpu", is_int8), f"; not on a GPU, for {error}"
        if choice.place == "cpu":
            threads = threads or count_threads() or os.cpu_count() or 1
            with _telling():
                if choice.runtime == "openvino":
                    self._runner = _OpenVino(graph, self._side, threads, "bf16" if in_bfloat16 else "f32")
                else:
                    self._runner = _OnnxRuntimeOnCpu(graph, self._side, threads)
        self.batch: int = self._runner.batch
        numbers = "int8" if is_int8 else "bfloat16" if in_bfloat16 else "float32"
        self.device = f"{self._runner.device}, {numbers}, {self._runner.name}"
        self.reason = choice.reason + fault

    def detect(self, images: np.ndarray) -> np.ndarray:
        """As `Network.detect`; of any number of pictures, none too.

        Raises ValueError for pictures of another shape, and EngineError for a network that has diverged.
        """
        images = np.ascontiguousarray(images)
        if images.shape[1:] != (self._side, self._side, 3) or images.dtype != np.uint8:
            wanted = f"(B, {self._side}, {self._side}, 3) uint8"
            raise ValueError(f"pictures are {images.shape} {images.dtype}; this network takes {wanted}")
        rows = np.empty((len(images), self._shown, 6), np.float32)
        with _telling():
            self._runner.run(images, rows)
        if np.isnan(rows).any():
            raise EngineError(
                "what the network says of a picture is no number: it has diverged in training. Export an earlier "
                "checkpoint, or train again with a lower optim.lr"
            )
        return rows


def choose_runtime(runtime: str, device: str, is_int8: bool, in_bfloat16: bool = False) -> Choice:
    """What runs a graph on device ``auto``, ``cpu`` or ``gpu``.

    Raises EngineError where nothing does, or not what is asked for.
    """
    if in_bfloat16:
        _require_bfloat16(runtime, device, is_int8)
        return Choice("openvino", "cpu", "it computes in bfloat16")
    if runtime not in ("auto", *RUNTIMES):
        raise EngineError(f"runtime '{runtime}' is not known; it is auto or one of {', '.join(RUNTIMES)}")
    if runtime == "openvino":
        if device == "gpu":
            raise EngineError("device 'gpu': OpenVINO is used on CPUs alone; take onnxruntime, or device cpu")
        _load("openvino")
        return Choice("openvino", "cpu", "it was asked for")
    has_openvino = importlib.util.find_spec("openvino") is not None
    try:
        providers = _load("onnxruntime").get_available_providers()
    except EngineError as fault:
        if runtime == "onnxruntime" or device == "gpu" or not has_openvino:
            raise
        return Choice("openvino", "cpu", str(fault))
    if device == "gpu" or (device == "auto" and CUDA in providers):
        return Choice("onnxruntime", "gpu", "it runs on GPUs")
    if runtime == "onnxruntime":
        return Choice("onnxruntime", "cpu", "it was asked for")
    if not is_int8:
        return Choice("onnxruntime", "cpu", "OpenVINO is no faster with float32")
    # A quarter faster on a CPU with AVX2 alone, and up to three times on one that multiplies bytes in one instruction.
    if not has_openvino:
        return Choice("onnxruntime", "cpu", f"OpenVINO would be faster with int8: {EXTRAS['openvino']}")
    return Choice("openvino", "cpu", "it is faster with int8")


def _require_bfloat16(runtime: str, device: str, is_int8: bool) -> None:
    """Raise EngineError where a graph cannot be run in bfloat16."""
    why = ""
    if is_int8:
        why = "the graph computes in bytes already"
    elif device == "gpu" or runtime == "onnxruntime":
        why = "it is for OpenVINO, on a CPU"
    elif not _multiplies_bfloat16():  # OpenVINO would take float32, and say nothing
        why = "this CPU does not multiply it (it takes AVX512_BF16 or AMX)"
    if why:
        raise EngineError(f"precision 'bfloat16': {why}; leave it at auto")


def _multiplies_bfloat16() -> bool:
    return "BF16" in _load("openvino").Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class _OnnxRuntimeOnCpu:
    def __init__(self, graph: bytes, side: int, threads: int):
        runtime = _load("onnxruntime")
        self.name, self.device = f"ONNX Runtime {runtime.__version__}", _on_cpu(threads)
        self.batch = AT_HAND
        self._session = _open_session(runtime, graph, ["CPUExecutionProvider"], threads)

    def run(self, images: np.ndarray, rows: np.ndarray) -> None:
        """Fill ``rows`` (B, K, 6) with what is on ``images`` (B, S, S, 3)."""
        for place in range(len(images)):
            rows[place] = self._session.run(None, {INPUT: images[place : place + 1]})[0][0]


class _OnnxRuntimeOnGpu:
    def __init__(self, graph: bytes, side: int, index: int):
        """Raises EngineError where there is no GPU of this number that works."""
        runtime = _load("onnxruntime")
        self.name, self.device, self.batch = f"ONNX Runtime {runtime.__version__}", f"gpu:{index}", ON_GPU
        if CUDA not in runtime.get_available_providers():
            raise EngineError(f"{self.name} as it is installed is for CPUs; put onnxruntime-gpu in its place")
        if hasattr(runtime, "preload_dlls"):  # of CUDA, where it came as packages; it prints what it does not find
            with contextlib.redirect_stdout(io.StringIO()):
                runtime.preload_dlls()
        # TF32 would round what convolutions of float32 take to 10 bits of fraction.
        providers = [(CUDA, {"device_id": index, "use_tf32": 0}), "CPUExecutionProvider"]
        self._blank = np.zeros((ON_GPU, side, side, 3), np.uint8)
        try:
            self._session = _open_session(runtime, graph, providers, 1)
            used = self._session.get_providers()
            self._session.run(None, {INPUT: self._blank})
        except Exception as fault:  # of kinds that are the runtime's own
            raise EngineError(f"{self.name} cannot use it ({_said(fault)}); check nvidia-smi") from fault
        if CUDA not in used:
            raise EngineError(f"{self.name} cannot use it; check nvidia-smi, and that its CUDA libraries are installed")

    def run(self, images: np.ndarray, rows: np.ndarray) -> None:
        for start in range(0, len(images), ON_GPU):
            part = images[start : start + ON_GPU]
            filled = np.concatenate([part, self._blank[len(part) :]])
            rows[start : start + ON_GPU] = self._session.run(None, {INPUT: filled})[0][: len(part)]


class _OpenVino:
    def __init__(self, graph: bytes, side: int, threads: int, precision: str):
        openvino = _load("openvino")
        self.name, self.device = f"OpenVINO {openvino.__version__.partition('-')[0]}", _on_cpu(threads)
        core = openvino.Core()
        model = core.read_model(graph)
        # Of a shape that is known: with an open one, int8 crashes on CPUs with AMX (openvino issue 37577).
        model.reshape([1, side, side, 3])
        _rank_stably(model)
        settings = {
            "INFERENCE_PRECISION_HINT": precision,  # not what the CPU likes best: a file says the same everywhere
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "THROUGHPUT",
        }
        self._queue = openvino.AsyncInferQueue(core.compile_model(model, "CPU", settings))
        self._queue.set_callback(_take_rows)
        self.batch = max(AT_HAND, 2 * len(self._queue))

    def run(self, images: np.ndarray, rows: np.ndarray) -> None:
        for place in range(len(images)):
            self._queue.start_async([images[place : place + 1]], userdata=rows[place])
        self._queue.wait_all()


def _rank_stably(model: Any) -> None:
    """Of equal scores the first comes first, as ONNX has it; OpenVINO, left to itself, takes any."""
    operators = importlib.import_module("openvino.opset11")
    for node in model.get_ops():
        if node.get_type_name() == "TopK":
            how = node.get_attributes() | {"sort": "value", "stable": True}
            stable = operators.topk(node.input_value(0), node.input_value(1), **how)
            for old, new in zip(node.outputs(), stable.outputs()):
                old.replace(new)


def _take_rows(request: Any, rows: np.ndarray) -> None:
    rows[:] = request.get_output_tensor().data[0]


def _open_session(runtime: ModuleType, graph: bytes, providers: list, threads: int) -> Any:
    runtime.set_default_logger_severity(4)  # what matters is raised
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Threads that wait for work would take the cores from those that decode pictures.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return runtime.InferenceSession(graph, options, providers=providers)


def _load(runtime: str) -> ModuleType:
    """The runtime's package. Raises EngineError where it does not load."""
    try:
        return importlib.import_module(runtime)
    except ImportError as fault:
        why = "is not installed" if fault.name == runtime else f"does not load ({_said(fault)})"
        raise EngineError(f"the package {runtime} {why}: {EXTRAS[runtime]}") from fault


def _parse_device(device: str | Sequence[str]) -> tuple[str, int]:
    """Its kind, and its number."""
    names = [device] if isinstance(device, str) else list(device)
    found = DEVICE.fullmatch(names[0]) if len(names) == 1 else None
    if found is None:
        raise EngineError(f"device {device!r}: an exported graph runs on one device: auto, cpu, gpu or gpu:N")
    return found[1], int(found[2] or 0)


@contextlib.contextmanager
def _telling() -> Iterator[None]:
    """What a runtime says, in one line and with a way out."""
    try:
        yield
    except EngineError:
        raise
    except Exception as fault:  # of kinds that are the runtimes' own
        way_out = "take another runtime, or export the run again"
        if is_shortage(fault):
            way_out = "fewer threads need less memory, and so does an int8 export"
        raise EngineError(f"the graph does not run: {_said(fault)}; {way_out}") from fault


def _said(fault: Exception) -> str:
    return " ".join(str(fault).split())[:300]


def _on_cpu(threads: int) -> str:
    return f"cpu, {threads} thread{'s' * (threads > 1)}"
