"""How fast does each engine train, and what keeps it from being faster?

    python benchmarks/engines.py [--device gpu] [--only floor step post profile curves] [--json FILE]

Pictures are made up: bright rectangles stand for animals. A GPU holds as many as ENA24 has. The network is the post's,
at full width, with the choices of configs/blog.yaml and the augmentation of configs/ena24.yaml. Answered are

* floor: what the machine can do: products of large matrices in float32 (never TF32) and bfloat16, copies of memory;
* step: a training step of each engine, by precision, batch, `compile` and where the pictures lie. Sides take turns,
  after a check that they compute the same;
* post: what the post's 50 epochs over 7,031 pictures take, at its batch of 8 and at the one that suits the device:
  whole epochs, batches drawn by threads ahead of the device as in training. On a CPU worked out from the step;
* profile: what the device does meanwhile, by kind of kernel, and for how much of the time it does nothing;
* curves: whether bfloat16 learns as float32 does. On a CPU only where asked for.

A step's work is counted from the shapes of its convolutions, two operations for every multiplication: forward,
gradients of weights and of inputs, without those of the pictures. What an engine computes beyond that does not count.

PyTorch and NumPy are all it takes. Where MXNet is installed and runs on the device, the gluon engine stands beside.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # of a plain checkout nothing is installed

import numpy as np
from machine import forget_peak, machine, memory

from ena24ssd.ahead import run_ahead
from ena24ssd.changes import Changes, draw_changes
from ena24ssd.engine import Engine, EngineError, load_engine
from ena24ssd.prior import LevelAnchors

try:
    from ena24ssd.gluon.devices import open_devices  # before torch: they get along in this order alone

    NO_GLUON = None
except EngineError as fault:
    NO_GLUON = str(fault)

# isort: split
import torch

from ena24ssd.pytorch.devices import multiplies_bfloat16, open_device, use_all_cores
from ena24ssd.pytorch.pictures import render

QUESTIONS = ("floor", "step", "post", "profile", "curves")
SPECIES = tuple(f"species {label}" for label in range(23))
PICTURES = 8789  # of ENA24
FEW = 256  # where no epoch is run
TRAINED = 0.8  # of them: the post's 7,031
POST = SimpleNamespace(epochs=50, pictures=7031, batch=8)
BATCHES = (8, 32, 64, 128, 256)  # tried on a GPU, as long as they fit and pay
SUITS = 128  # taken to suit a GPU, where that is not asked
PAYS = 1.05  # a larger batch must be faster by this, or no larger one is tried
MODES = ("eager", "fuse", "graphs")
AGREE = {"float32": 1e-4, "bfloat16": 0.05}  # relative difference of first losses
FIRST = 3  # steps before anything is timed; their losses are compared
CAREFUL = 1e-5  # learning rate of steps that are compared: it moves the loss by a percent; the post's is chaos
TURN = 0.5  # seconds that a turn lasts at least
LONGEST = 50  # steps that a turn lasts at most
PREPARED = 4  # batches that steps are timed with, one after another
HALVED = {"conv11": 0, "conv31": 0, "conv51": 0, "conv71": 0, "conv32": 1, "conv33": 2, "conv34": 3}  # others: 4 times
SEES_PIXELS = ("conv31", "conv51", "conv71")


@dataclass(frozen=True)
class Variant:
    """One way to take a training step."""

    engine: str
    precision: str
    batch: int
    compile: str = "eager"
    pixels: str = "host"  # or "held": by the device


@dataclass(frozen=True)
class Measured:
    """What a variant's steps took; or why there were none."""

    variant: Variant
    fault: str | None = None
    losses: tuple[float, ...] = ()  # of the first steps
    started: float = 0.0  # seconds until these were taken, compiling included
    memory: float = 0.0  # bytes at the peak of that, the pictures included that the device holds
    seconds: tuple[float, ...] = ()  # a step, of every turn
    cores: tuple[float, ...] = ()  # seconds of all the host's cores for it

    @property
    def step(self) -> float:
        return statistics.median(self.seconds)

    @property
    def rate(self) -> float:
        """Pictures a second."""
        return self.variant.batch / self.step


class Held:
    """A batch's pictures, as `ena24ssd.data.Held`, which needs more than NumPy."""

    def __init__(self, rows: np.ndarray, changes: Changes):
        self.rows, self.changes = rows, changes

    def __len__(self) -> int:
        return len(self.rows)


class Batch(NamedTuple):
    """As `ena24ssd.data.Batch`."""

    images: np.ndarray | Held
    truth: np.ndarray
    ids: tuple[str, ...]


@dataclass
class Bench:
    """What all questions share, and what is known so far."""

    device: torch.device
    choices: argparse.Namespace
    pixels: np.ndarray  # (n, S, S, 3) uint8
    truth: np.ndarray  # (n, 8, 5) float32
    began: float = field(default_factory=time.perf_counter)
    start: dict[str, np.ndarray] | None = None  # the weights that every side begins with
    rates: dict[str, float] = field(default_factory=dict)  # operations a second, by precision
    measured: dict[Variant, Measured] = field(default_factory=dict)
    expected: dict[int, tuple[Variant, list[float]]] = field(
        default_factory=dict
    )  # by batch: whose first losses the others must have

    @property
    def is_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def trained(self) -> int:
        """Pictures of an epoch."""
        return int(TRAINED * len(self.pixels))

    @property
    def flops(self) -> float:
        """Of a training step, a picture."""
        return 2.0 * training_products({name: array.shape for name, array in self.start.items()}, self.pixels.shape[1])

    def say(self, what: str) -> None:
        print(f"[{time.perf_counter() - self.began:5.0f} s] {what}", file=sys.stderr, flush=True)


ONE_STAGE = {"head_epochs": 0, "late_share": 1.0, "late_lr": 0.001, "backbone_rate": 1.0, "average": None}


def post_config(device: str = "cpu", width: float = 1.0, side: int = 200, batch: int = POST.batch) -> SimpleNamespace:
    """What an engine reads of configs/blog.yaml, and `draw_changes` of configs/ena24.yaml, without what reads YAML."""
    return SimpleNamespace(
        engine="auto",
        device=device,
        precision="auto",
        compile="auto",
        seed=0,
        data=SimpleNamespace(
            image_side=side, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), max_boxes=8, workers=2
        ),
        augment=SimpleNamespace(flip=True, crop=0.4, expand=0.3, light=0.3, colour=0.3, infrared=0.1),
        model=SimpleNamespace(
            backbone="custom_conv",
            width=width,
            anchors=(LevelAnchors(16, (0.27, 0.44, 0.52, 0.62, 0.71, 0.85), (1.0, 1.5, 2.0, 2.2)),),
            output_batchnorm=True,
            freezes_backbone=False,
            freezes_heads=False,
            shared_statistics=False,
        ),
        loss=SimpleNamespace(
            overlap=0.5,
            normalise_by="anchors",
            foreground_weight=900.0,
            background_weight=1.0,
            species_weights="equal",
            box_weight=2.0,
            box_error="l1",
            smooth_l1_beta=0.5,
            negatives_per_positive=None,
            minimum_negatives=8,
        ),
        optim=SimpleNamespace(name="sgd", lr=0.01, momentum=0.0, weight_decay=0.0, clip_norm=None, **ONE_STAGE),
        train=SimpleNamespace(epochs=50, batch=batch, accumulate=1),
        evaluation=SimpleNamespace(nms=0.5, class_agnostic_nms=False, floor=0.01, candidates=200),
    )


def training_products(shapes: Mapping[str, Sequence[int]], side: int) -> int:
    """Multiplications of a training step's convolutions, a picture of ``side`` pixels.

    Parameters: ``shapes`` of the weights, by name. Forward, gradients of weights and gradients of inputs take as many
    each, but nobody asks for the gradient of the pictures.
    """
    by_layer = forward_products(shapes, side)
    return 3 * sum(by_layer.values()) - sum(by_layer[f"features.{name}"] for name in SEES_PIXELS)


def forward_products(shapes: Mapping[str, Sequence[int]], side: int) -> dict[str, int]:
    """Multiplications of every convolution, a picture."""
    products = {}
    for name, shape in shapes.items():
        if len(shape) == 4:
            layer = name.removesuffix(".weight")
            width = side
            for _ in range(HALVED.get(layer.removeprefix("features."), 4)):
                width = (width + 1) // 2
            products[layer] = int(np.prod(shape)) * width * width
    return products


# -- pictures ----------------------------------------------------------------------------------------------------------


def draw_pictures(count: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (n, S, S, 3) uint8 of noise with one to three rectangles, a colour for each species, and their truth."""
    random = np.random.default_rng(0)
    noise = random.integers(0, 56, (64, side, side, 3), dtype=np.uint8)
    coats = noise[: len(SPECIES)] + random.integers(60, 200, (len(SPECIES), 1, 1, 3), dtype=np.uint8)
    pixels, truth = noise[np.arange(count) % len(noise)], np.full((count, 8, 5), -1, dtype=np.float32)
    for picture, rows in zip(pixels, truth):
        for row in rows[: random.integers(1, 4)]:
            label, size = random.integers(len(SPECIES)), random.integers(side // 5, side * 2 // 3, 2)
            left, top = random.integers(0, side - size, endpoint=True)
            right, bottom = left + size[0], top + size[1]
            picture[top:bottom, left:right] = coats[label, top:bottom, left:right]
            row[:] = label, *(np.array([left, top, right, bottom]) / side)
    return pixels, truth


def draw_batch(bench: Bench, rows: np.ndarray, seed: tuple[int, ...]) -> Batch:
    """The pictures at ``rows``, and what is to be done to them."""
    changes, truth = draw_changes(
        bench.truth[rows], bench.pixels.shape[1], np.random.default_rng(seed), post_config().augment
    )
    return Batch(Held(rows, changes), truth, tuple(str(row) for row in rows))


def with_pixels(bench: Bench, batch: Batch) -> Batch:
    """The same batch, made on the host. (In training Pillow does this.)"""
    squares = torch.from_numpy(bench.pixels[batch.images.rows])
    return batch._replace(images=render(squares, batch.images.changes).numpy())


def shuffle(bench: Bench, engine: Engine, size: int, epoch: int) -> Iterator[Batch]:
    """An epoch's batches, drawn by threads while the device is at work; the last, smaller one is left out."""
    order = np.random.default_rng((1, epoch)).permutation(bench.trained)
    is_held = engine.holds(bench.pixels)

    def prepare(step: int) -> Batch:
        batch = draw_batch(bench, order[step * size : (step + 1) * size], (1, epoch, step))
        return batch if is_held else with_pixels(bench, batch)

    return run_ahead(prepare, range(len(order) // size), post_config().data.workers)


# -- steps -------------------------------------------------------------------------------------------------------------


def open_engine(bench: Bench, variant: Variant) -> Engine:
    """An engine with the weights that all begin with; it holds the pictures where it is to."""
    name = "cpu" if not bench.is_gpu else f"gpu:{bench.device.index}"
    config = post_config(name, bench.choices.width, bench.pixels.shape[1], variant.batch)
    config.engine, config.precision, config.compile = variant.engine, variant.precision, variant.compile
    engine = load_engine(config, SPECIES)
    if bench.start is None:
        bench.start = engine.weights()
    engine.load_weights(bench.start)
    if variant.pixels == "held" and not engine.hold(bench.pixels):
        raise EngineError(f"{len(bench.pixels)} pictures do not fit on the device; hold fewer with --pictures")
    return engine


def learn(engine: Engine, batches: Iterable[Batch]) -> list[float]:
    """A step with every batch, each read while the device is at the next, as in training; their losses.

    Returns when the device has done everything. Raises ArithmeticError where a loss is no number.
    """
    losses, behind = [], None
    for batch in itertools.chain(batches, [None]):
        ahead = None if batch is None else engine.train_step(batch)
        if behind is not None:
            losses.append(behind.read().loss)
            if fault := behind.fault():
                raise ArithmeticError(fault)
        behind = ahead
    finish()
    return losses


def finish() -> None:
    """Wait for all devices."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    if "mxnet" in sys.modules:
        sys.modules["mxnet"].npx.waitall()


def release() -> None:
    """Give back the memory that nobody needs any more."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def begin_anew() -> None:
    """Let go of what earlier engines have left, when they are gone."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()  # else compiled steps add up, and beyond a number of them none are compiled
    release()


class Side:
    """An engine that has taken its first steps, and goes on in turns."""

    def __init__(self, bench: Bench, variant: Variant, batches: Sequence[Batch]):
        release()  # pictures are held where enough memory is free
        began, before = time.perf_counter(), begin_memory(bench, variant)
        self.engine, self.variant = open_engine(bench, variant), variant
        self.engine.learning_rate = CAREFUL
        self._batches = itertools.cycle(batches)
        self.losses = [*self._learn(FIRST - 1), *self._timed(1)]
        self.started, self.memory = time.perf_counter() - began, end_memory(bench, variant) - before
        self.turn = 1 if bench.choices.quick else max(1, min(LONGEST, round(TURN / self.last)))
        self.seconds: list[float] = []
        self.cores: list[float] = []

    def take_turn(self) -> Side:
        if torch.cuda.is_initialized():  # another side may have taken all memory
            torch.cuda.empty_cache()
            self._learn(1)
        before = time.process_time()
        self._timed(self.turn)
        self.cores.append((time.process_time() - before) / self.turn)
        self.seconds.append(self.last / self.turn)
        return self

    def _learn(self, steps: int) -> list[float]:
        return learn(self.engine, itertools.islice(self._batches, steps))

    def _timed(self, steps: int) -> list[float]:
        began = time.perf_counter()
        losses = self._learn(steps)
        self.last = time.perf_counter() - began
        return losses

    def measured(self) -> Measured:
        turns = tuple(self.seconds), tuple(self.cores)
        return Measured(self.variant, None, tuple(self.losses), self.started, self.memory, *turns)


def begin_memory(bench: Bench, variant: Variant) -> float:
    """Bytes in use, of the device; what was at an earlier peak is forgotten."""
    if not bench.is_gpu:
        forget_peak()
        return memory("VmRSS")
    torch.cuda.reset_peak_memory_stats()
    return end_memory(bench, variant)


def end_memory(bench: Bench, variant: Variant) -> float:
    """Bytes at the peak."""
    if not bench.is_gpu:
        return memory("VmHWM")
    if variant.engine == "pytorch":
        return torch.cuda.max_memory_allocated()
    free, total = torch.cuda.mem_get_info()  # MXNet gives nothing back
    return total - free


def measure(bench: Bench, variants: Sequence[Variant]) -> None:
    """Time variants of one batch size, turn by turn. Who fails is told of, and does not hold up the others.

    Raises SystemExit where sides that should compute the same do not.
    """
    begin_anew()
    size = variants[0].batch
    random = np.random.default_rng(size)
    drawn = [
        draw_batch(bench, random.choice(bench.trained, size, replace=False), (2, size, number))
        for number in range(PREPARED)
    ]
    made = [with_pixels(bench, batch) for batch in drawn] if any(each.pixels == "host" for each in variants) else []
    sides: list[Side] = []
    for variant in variants:
        if fault := refusal(bench, variant):
            bench.measured[variant] = Measured(variant, fault)
            continue
        bench.say(f"step: {describe(variant)}")
        if side := attempt(bench, variant, lambda v=variant: Side(bench, v, drawn if v.pixels == "held" else made)):
            require_agreement(bench, side)
            sides.append(side)
    for number in range(bench.choices.repeats if sides else 0):
        bench.say(f"step: batch {size}, turn {number + 1} of {bench.choices.repeats}")
        sides = [side for side in sides if attempt(bench, side.variant, side.take_turn)]
    bench.measured |= {side.variant: side.measured() for side in sides}
    bench.measured |= {variant: bench.measured.pop(variant) for variant in variants}  # in this order


def attempt(bench: Bench, variant: Variant, work: Callable[[], Side]) -> Side | None:
    """What ``work`` returns; None where it failed, and then it is kept why."""
    try:
        return work()
    except Exception as fault:  # whatever a framework, a compiler or a driver may raise
        bench.measured[variant] = Measured(variant, in_words(fault))
        bench.say(f"      failed: {in_words(fault)}")
    release()
    return None


def in_words(fault: Exception) -> str:
    said = " ".join(str(fault).split())
    return f"{type(fault).__name__}: {said[:160] or 'no word of why'}"


def refusal(bench: Bench, variant: Variant) -> str | None:
    """Why a variant is not even tried."""
    minutes = bench.choices.minutes
    if time.perf_counter() - bench.began > 60 * minutes:
        return f"left out: the {minutes:g} minutes for steps are over (--minutes)"
    if variant.engine == "gluon":
        return NO_GLUON or gluon_fault(bench)
    if variant.precision == "bfloat16" and not multiplies_bfloat16(bench.device) and not bench.choices.quick:
        return "left out: this device does not multiply bfloat16 itself but converts it, which is slower than float32"
    return None


def gluon_fault(bench: Bench) -> str | None:
    try:
        open_devices("cpu" if not bench.is_gpu else f"gpu:{bench.device.index}")
    except EngineError as fault:
        return str(fault)
    return None


def require_agreement(bench: Bench, side: Side) -> None:
    """Raise SystemExit unless its first losses are those of the first side that had these batches."""
    first, expected = bench.expected.setdefault(side.variant.batch, (side.variant, side.losses))
    limit = max(AGREE[each.precision] for each in (side.variant, first))
    if not np.allclose(side.losses, expected, rtol=limit, atol=0):
        raise SystemExit(
            f"{describe(side.variant)} loses {side.losses}, {describe(first)} {expected} on the same batches with the "
            "same weights: not the same step, nothing to compare"
        )


def describe(variant: Variant) -> str:
    return (
        f"{variant.engine} {variant.precision}, batch {variant.batch}, compile {variant.compile}, "
        f"pictures {variant.pixels}"
    )


# -- the questions -----------------------------------------------------------------------------------------------------


def answer_floor(bench: Bench) -> dict[str, Any]:
    """Operations a second in products of square matrices, and bytes a second in copies, read and written."""
    quick, repeats = bench.choices.quick, max(bench.choices.repeats, 5)
    sides = (64, 128) if quick else (4096, 8192, 16384) if bench.is_gpu else (512, 1024, 2048)
    rates: dict[str, dict[int, float]] = {}
    for precision in ("float32", "bfloat16"):
        kind = getattr(torch, precision)
        if precision == "bfloat16" and not multiplies_bfloat16(bench.device):
            sides = sides[:1]  # it may take minutes
        for side in sides:
            bench.say(f"floor: {precision} product of {side} x {side}")
            left, right = (torch.randn(side, side, device=bench.device).to(kind) for _ in range(2))
            out = torch.empty_like(left)
            seconds = seconds_of(bench, lambda a=left, b=right, c=out: torch.mm(a, b, out=c), repeats)
            rates.setdefault(precision, {})[side] = 2 * side**3 / seconds
    size = 2**20 if quick else 2**31 if bench.is_gpu else 2**29
    source = torch.randint(0, 256, (size,), dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    copied = 2 * size / seconds_of(bench, lambda: target.copy_(source), repeats)
    bench.rates = {precision: max(by_side.values()) for precision, by_side in rates.items()}
    return {"products": rates, "copied": copied, "copied_bytes": size}


def seconds_of(bench: Bench, work: Callable[[], Any], repeats: int) -> float:
    """The median of how long the device takes, after two calls that are not counted."""
    for _ in range(2):
        work()
    if bench.is_gpu:
        marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
        for before, after in marks:
            before.record()
            work()
            after.record()
        torch.cuda.synchronize()
        return statistics.median(before.elapsed_time(after) / 1000 for before, after in marks)
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def show_floor(bench: Bench, found: dict[str, Any]) -> str:
    rows = [
        [f"product of {side} x {side}, {precision}", f"{rate / 1e12:.3g} TFLOP/s"]
        for precision, by_side in found["products"].items()
        for side, rate in by_side.items()
    ]
    size, rate = found["copied_bytes"], found["copied"]
    rows.append([f"copy of {size / 2**20:.0f} MiB, bytes read and written", f"{rate / 1e9:.3g} GB/s"])
    return table(["on random numbers", "rate"], rows)


LEGEND = """{:.3g} GFLOP a picture. turns: how far slowest and fastest lie apart. core s: of all cores of the host.
rate: share of what products of large matrices reach in that precision. GB: at the peak of the first steps.
x: times as fast as the first float32 line of that batch. start s: until the third step is done, compiled or not."""


def answer_step(bench: Bench) -> list[dict[str, Any]]:
    """Every variant's figures."""
    need_rates(bench)
    rates: dict[int, float] = {}
    for batch in batches_to_try(bench):
        measure(bench, variants_to_try(bench, batch)[0])
        rates[batch] = max((each.rate for each in of_batch(bench, batch)), default=0.0)
        if bench.choices.batch is None and rates[batch] < PAYS * max([0, *list(rates.values())[:-1]]):
            break  # larger ones pay even less, or do not fit either
    for batch in dict.fromkeys([min(rates), max(rates, key=rates.get)]):
        if later := variants_to_try(bench, batch)[1]:
            measure(bench, later)
    return [figures(bench, each) for each in sorted(bench.measured.values(), key=lambda each: each.variant.batch)]


def batches_to_try(bench: Bench) -> Sequence[int]:
    sizes = (2, 4) if bench.choices.quick else BATCHES if bench.is_gpu else (POST.batch,)
    sizes = sorted(size for size in bench.choices.batch or sizes if 0 < size <= bench.trained)
    if not sizes:
        raise SystemExit(f"{len(bench.pixels)} pictures leave {bench.trained} to learn from; no batch is that small")
    return sizes


def variants_to_try(bench: Bench, batch: int) -> tuple[list[Variant], list[Variant]]:
    """The variants of a batch size, one that all others are compared with first; and those to be tried if time is left.

    Compiling takes the time: CUDA graphs spare a device the wait for launches, which only small batches have, and
    float32 is what one leaves behind.
    """
    first, *others = bench.choices.compile or (MODES if bench.is_gpu else MODES[:1])
    if bench.choices.compile is None and batch > POST.batch:
        others = [mode for mode in others if mode != "graphs"]
    pixels = "held" if bench.is_gpu else "host"
    now = [Variant("gluon", "float32", batch)] if batch == batches_to_try(bench)[0] else []
    now += [Variant("pytorch", precision, batch, first, pixels) for precision in ("float32", "bfloat16")]
    now += [Variant("pytorch", "bfloat16", batch, first, "host")] if bench.is_gpu else []
    now += [Variant("pytorch", "bfloat16", batch, mode, pixels) for mode in others]
    return now, [Variant("pytorch", "float32", batch, mode, pixels) for mode in others]


def of_batch(bench: Bench, batch: int) -> list[Measured]:
    return [each for each in bench.measured.values() if each.variant.batch == batch and each.fault is None]


def figures(bench: Bench, found: Measured) -> dict[str, Any]:
    """All that is known of a variant, and how it compares."""
    known = asdict(found.variant) | {"fault": found.fault}
    if found.fault is not None:
        return known
    flops, peak = found.rate * bench.flops, bench.rates[found.variant.precision]
    same = of_batch(bench, found.variant.batch)
    first = next((each for each in same if each.variant.precision == "float32"), None)  # gluon's, where it runs
    return known | {
        "step_s": found.step,
        "turns_s": found.seconds,
        "cores_s": statistics.median(found.cores),
        "pictures_per_second": found.rate,
        "flops_per_second": flops,
        "share_of_matrix_rate": flops / peak,
        "memory_bytes": found.memory,
        "times_as_fast": None if first is None else first.step / found.step,
        "as": None if first is None else describe(first.variant),
        "started_s": found.started,
        "first_losses": found.losses,
    }


def show_step(bench: Bench, found: list[dict[str, Any]]) -> str:
    rows = []
    for each in found:
        row = [each[name] for name in ("engine", "precision", "batch", "compile", "pixels")]
        if each["fault"] is not None:
            rows.append([*row, *["-"] * 9, each["fault"]])
            continue
        ratio, spread = each["times_as_fast"], (max(each["turns_s"]) - min(each["turns_s"])) / each["step_s"]
        rows.append(
            [
                *(*row, f"{each['step_s']:.4g}", f"{spread:.1%}", f"{each['cores_s']:.3g}"),
                f"{each['pictures_per_second']:.4g}",
                *(f"{each['flops_per_second'] / 1e12:.3g}", f"{each['share_of_matrix_rate']:.1%}"),
                *(f"{each['memory_bytes'] / 1e9:.2f}", "-" if ratio is None else f"{ratio:.2f}"),
                *(f"{each['started_s']:.1f}", ""),
            ]
        )
    header = ["engine", "precision", "batch", "compile", "pictures", "s/step", "turns", "core s", "pictures/s"]
    lines = [table([*header, "TFLOP/s", "rate", "GB", "x", "start s", ""], rows)]
    if bench.start is not None:
        lines.append(LEGEND.format(bench.flops / 1e9))
    return "\n".join(lines)


def answer_post(bench: Bench) -> list[dict[str, Any]]:
    """Epochs of the fastest variant of each engine, at the smallest batch and at the one that suits."""
    need_steps(bench)
    return [train_epochs(bench, found) for found in fastest_of(bench, ("gluon", "pytorch"))]


def train_epochs(bench: Bench, found: Measured) -> dict[str, Any]:
    variant, count = found.variant, bench.choices.epochs_measured
    steps = POST.pictures // variant.batch
    known = asdict(variant) | {"measured": count, "started_s": found.started}
    if not count:
        epoch = steps * found.step
        return known | {"pictures": POST.pictures, "epochs_s": [epoch], "all_s": POST.epochs * epoch}
    begin_anew()
    bench.say(f"post: {describe(variant)}")
    engine, seconds, losses = open_engine(bench, variant), [], []
    learn(engine, itertools.islice(shuffle(bench, engine, variant.batch, 0), FIRST))
    for epoch in range(1, count + 1):
        began = time.perf_counter()
        losses.append(statistics.fmean(learn(engine, shuffle(bench, engine, variant.batch, epoch))))
        seconds.append(time.perf_counter() - began)
    taken = bench.trained // variant.batch
    whole = found.started + POST.epochs * statistics.fmean(seconds) * steps / taken
    return known | {"pictures": taken * variant.batch, "epochs_s": seconds, "losses": losses, "all_s": whole}


def show_post(bench: Bench, found: list[dict[str, Any]]) -> str:
    header = ["engine", "precision", "batch", "compile", "an epoch, s", "mean losses", f"{POST.epochs} epochs"]
    rows = [
        [
            *(row[name] for name in ("engine", "precision", "batch", "compile")),
            *(", ".join(f"{seconds:.4g}" for seconds in row["epochs_s"]),),
            *(", ".join(f"{loss:.3g}" for loss in row.get("losses", ())) or "-", duration(row["all_s"])),
        ]
        for row in found
    ]
    how = "worked out from the steps above: no epoch was run, and no picture prepared"
    if bench.choices.epochs_measured:
        pictures = sorted({row["pictures"] for row in found})
        how = (
            f"epochs of {' or '.join(map(str, pictures))} pictures run as a whole; the start, which compiles, "
            "counted once"
        )
    return f"{table(header, rows)}\n{POST.epochs} epochs of {POST.pictures} pictures: {how}."


def duration(seconds: float) -> str:
    return (
        f"{seconds:.1f} s"
        if seconds < 600
        else f"{seconds / 60:.1f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


# What a kernel (of a GPU) or an operator (of a CPU) is for; the first that fits.
KINDS = (
    ("BatchNorm, pointwise", r"^triton_(?!tem|mm)"),  # what torch.compile has merged
    ("optimizer", r"fused_?(sgd|adam)|lp_?norm|foreach_norm|Optimizer"),
    ("copies", r"mem(cpy|set)|copy|clone|contiguous|aten::to\b|fill|zero_|cat\b|CatArray|nchwToNhwc|nhwcToNchw"),
    ("BatchNorm, pointwise", r"batch_?norm|(^|\W)bn_"),
    ("convolution", r"conv|xmma|gemm|gemv|cutlass|nvjet|[wd]grad|fprop|aten::(addmm|b?mm|baddbmm)\b"),
    (
        "BatchNorm, pointwise",
        r"elementwise|reduce|relu|threshold|clamp|aten::(add|sub|mul|div|rsub|sum|mean|where|exp|log)_?\b",
    ),
)


def answer_profile(bench: Bench) -> list[dict[str, Any]]:
    """What the device does in the steps of the fastest PyTorch variants, by kind and by kernel."""
    need_steps(bench)
    return [profile_steps(bench, found) for found in fastest_of(bench, ("pytorch",))]


def profile_steps(bench: Bench, found: Measured) -> dict[str, Any]:
    begin_anew()
    bench.say(f"profile: {describe(found.variant)}")
    engine, steps = open_engine(bench, found.variant), 5 if bench.is_gpu else 1
    batches = list(itertools.islice(shuffle(bench, engine, found.variant.batch, 0), steps))
    learn(engine, itertools.islice(itertools.cycle(batches), FIRST))
    kernels, busy, clock = watch(bench, lambda: learn(engine, itertools.islice(itertools.cycle(batches), steps)))
    # A profiler slows down who launches kernels, but not the kernels.
    step, busy = found.step if bench.is_gpu else clock / steps, busy / steps
    kinds: dict[str, float] = {}
    for name, seconds in kernels.items():
        kinds[kind_of(name)] = kinds.get(kind_of(name), 0) + seconds / steps
    longest = sorted(kernels.items(), key=lambda pair: -pair[1])[:8]
    return asdict(found.variant) | {
        "step_s": step,
        "busy_s": busy,
        "idle_share": max(0.0, 1 - busy / step),
        "kinds_s": kinds,
        "longest_s": {name: seconds / steps for name, seconds in longest},
    }


def watch(bench: Bench, work: Callable[[], Any]) -> tuple[dict[str, float], float, float]:
    """Seconds by kernel or operator, seconds in which there was any, and seconds by the clock."""
    kinds = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[kinds.CUDA if bench.is_gpu else kinds.CPU]) as seen:
        began = time.perf_counter()
        work()
        clock = time.perf_counter() - began
    if not bench.is_gpu:
        kernels = {row.key: row.self_cpu_time_total / 1e6 for row in seen.key_averages()}
        return kernels, sum(kernels.values()), clock
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "trace.json")
        seen.export_chrome_trace(str(file))
        events = json.loads(file.read_text())["traceEvents"]
    events = [each for each in events if each.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    kernels: dict[str, float] = {}
    for each in events:
        kernels[each["name"]] = kernels.get(each["name"], 0) + each["dur"] / 1e6
    if not events:
        raise RuntimeError("the profiler saw no kernel; it may be that this user is not allowed to profile the GPU")
    spans = sorted((each["ts"], each["ts"] + each["dur"]) for each in events)
    return kernels, covered(spans) / 1e6, clock


def covered(spans: Sequence[tuple[float, float]]) -> float:
    """The length of what lies in any of the spans, which are in the order of their beginnings."""
    total, reached = 0.0, float("-inf")
    for start, end in spans:
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def kind_of(kernel: str) -> str:
    return next((kind for kind, words in KINDS if re.search(words, kernel, re.IGNORECASE)), "other")


def show_profile(bench: Bench, found: list[dict[str, Any]]) -> str:
    kinds = list(dict.fromkeys([*(kind for kind, _ in reversed(KINDS)), "other"]))
    titles = [f"{row['precision']}, batch {row['batch']}, {row['compile']}" for row in found]
    nothing = "device idle" if bench.is_gpu else "outside operators"
    shares = [[kind, *(f"{row['kinds_s'].get(kind, 0) / (row['busy_s'] or 1):.1%}" for row in found)] for kind in kinds]
    idle = [f"{nothing} (of a step)", *(f"{row['idle_share']:.1%}" for row in found)]
    seconds = ["a step, s", *(f"{row['step_s']:.4g}" for row in found)]
    parts = [table(["share of the time at work", *titles], [*shares, idle, seconds])]
    for title, row in zip(titles, found):
        longest = [
            [name if len(name) <= 100 else f"{name[:97]}...", kind_of(name), f"{time_taken / (row['busy_s'] or 1):.1%}"]
            for name, time_taken in row["longest_s"].items()
        ]
        parts.append(table([f"longest: {title}", "taken for", "share"], longest))
    return "\n\n".join(parts)


def answer_curves(bench: Bench) -> dict[str, Any]:
    """Mean losses of every 25 steps, by precision, from the same weights on the same batches."""
    steps, every = (4, 2) if bench.choices.quick else (300, 25)
    size, pixels = batches_to_try(bench)[0], "held" if bench.is_gpu else "host"
    variants = {name: Variant("pytorch", name, size, "auto", pixels) for name in ("float32", "bfloat16")}
    if bench.is_gpu:  # how far two runs of float32 come apart that round otherwise
        variants["float32, eager"] = Variant("pytorch", "float32", size, "eager", pixels)
    curves = {name: draw_curve(bench, variant, steps, every) for name, variant in variants.items()}
    apart = {
        name: max(abs(one / other - 1) for one, other in zip(curve, curves["float32"]))
        for name, curve in curves.items()
        if name != "float32"
    }
    return {"batch": size, "every": every, "losses": curves, "largest_relative_difference": apart}


def draw_curve(bench: Bench, variant: Variant, steps: int, every: int) -> list[float]:
    begin_anew()
    bench.say(f"curves: {steps} steps of {describe(variant)}")
    engine = open_engine(bench, variant)
    epochs = (shuffle(bench, engine, variant.batch, 100 + epoch) for epoch in itertools.count())
    losses = learn(engine, itertools.islice(itertools.chain.from_iterable(epochs), steps))
    return [statistics.fmean(losses[start : start + every]) for start in range(0, steps, every)]


def show_curves(bench: Bench, found: dict[str, Any]) -> str:
    every, curves = found["every"], found["losses"]
    rows = [
        [f"{every * number + 1} to {every * number + every}", *(f"{loss:.4f}" for loss in losses)]
        for number, losses in enumerate(zip(*curves.values()))
    ]
    apart = found["largest_relative_difference"].items()
    ends = "; ".join(f"{name}: {difference:.2%}" for name, difference in apart)
    return f"{table(['mean loss of steps', *curves], rows)}\nlargest relative difference from float32: {ends}"


def need_rates(bench: Bench) -> None:
    if not bench.rates:
        answer_floor(bench)


def need_steps(bench: Bench) -> None:
    """What engines choose by themselves, timed where nobody has asked about steps."""
    if bench.measured:
        return
    fast = "bfloat16" if multiplies_bfloat16(bench.device) else "float32"
    pixels = "held" if bench.is_gpu else "host"
    sizes = batches_to_try(bench)
    for batch in sizes if bench.choices.batch else [size for size in sizes if size in (sizes[0], SUITS)]:
        measure(bench, [Variant("pytorch", fast, batch, (bench.choices.compile or ["auto"])[0], pixels)])


def fastest_of(bench: Bench, engines: Sequence[str]) -> list[Measured]:
    """Of each engine the fastest variant at the smallest batch, and at any, if that is another."""
    chosen = {}
    for engine in engines:
        known = [each for each in bench.measured.values() if each.variant.engine == engine and each.fault is None]
        smallest = min((each.variant.batch for each in known), default=0)
        for some in ([each for each in known if each.variant.batch == smallest], known):
            if some:
                best = max(some, key=lambda each: each.rate)
                chosen[best.variant] = best
    return list(chosen.values())


def table(header: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    """Markdown that is aligned; the first column to the left, the last one without padding."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = [
        [cell.ljust(width) if not place else cell.rjust(width) for place, (cell, width) in enumerate(zip(row, widths))]
        for row in cells
    ]
    if not any(row[-1] for row in cells[1:]):
        lines = [line[:-1] for line in lines]
    elif not cells[0][-1]:
        lines = [[*line[:-1], row[-1]] for line, row in zip(lines, cells)]
    rule = ["---" if not place else "--:" for place in range(len(lines[0]))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))


ANSWERS = {
    "floor": ("What can the machine do?", answer_floor, show_floor),
    "step": ("How long does a training step take?", answer_step, show_step),
    "post": ("How long does the post's training take?", answer_post, show_post),
    "profile": ("Where does the time of a step go?", answer_profile, show_profile),
    "curves": ("Does bfloat16 learn as float32 does?", answer_curves, show_curves),
}


def read_choices(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto", help="auto (a GPU if it works), cpu, gpu, gpu:1")
    parser.add_argument("--only", nargs="+", choices=QUESTIONS, metavar="QUESTION", help=f"of {', '.join(QUESTIONS)}")
    parser.add_argument("--batch", nargs="+", type=int, help="pictures a step; left out: 8, and on a GPU what suits it")
    parser.add_argument("--compile", nargs="+", choices=MODES, help="left out: eager, on a GPU all three")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each side")
    parser.add_argument("--pictures", type=int, help=f"made up; left out: {PICTURES}, or {FEW} if no epoch is run")
    parser.add_argument("--epochs-measured", type=int, help="run as a whole; left out: 2 on a GPU, none on a CPU")
    parser.add_argument("--minutes", type=float, default=5, help="after these no other variant of a step is begun")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--quick", action="store_true", help="a tiny network, to see that all of it runs")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    choices = read_choices(arguments)
    try:
        device = open_device(choices.device)
    except EngineError as fault:
        raise SystemExit(str(fault)) from fault
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        use_all_cores()
    torch.backends.cuda.matmul.allow_tf32 = False
    choices.width, side = (0.05, 64) if choices.quick else (1.0, 200)
    if choices.quick:
        choices.repeats, choices.pictures = 1, 24
    if choices.epochs_measured is None:
        choices.epochs_measured = 1 if choices.quick else 2 if device.type == "cuda" else 0
    if choices.pictures is None:
        choices.pictures = PICTURES if choices.epochs_measured else FEW
    questions = choices.only or (QUESTIONS if device.type == "cuda" or choices.quick else QUESTIONS[:-1])

    bench = Bench(device, choices, *draw_pictures(choices.pictures, side))
    print(machine(), flush=True)
    answers, unanswered = {}, 0
    for name in QUESTIONS:
        if name not in questions:
            continue
        title, answer, show = ANSWERS[name]
        print(f"\n## {name}: {title}\n", flush=True)
        try:
            answers[name] = answer(bench)
            print(show(bench, answers[name]), flush=True)
        except Exception as fault:  # the other questions may be answered all the same
            answers[name] = {"fault": in_words(fault)}
            print(f"no answer: {in_words(fault)}", flush=True)
            unanswered = 1
        if choices.json:
            choices.json.write_text(json.dumps({"machine": machine(), **answers}, indent=1) + "\n")
    bench.say("done")
    return unanswered


if __name__ == "__main__":
    raise SystemExit(main())
