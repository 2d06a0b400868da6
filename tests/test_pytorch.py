"""Does the PyTorch engine do what the post's operators, losses and optimizers say?  Without any other engine."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("torch", reason="the pytorch extra is not installed")

import torch
from asked import SPECIES, a_batch, assert_equal, tiny_config, tiny_engine, truths
from hypothesis import given, settings
from hypothesis import strategies as st
from same_runs import SMALL, assert_same

from ena24ssd.augment import render
from ena24ssd.changes import draw_changes
from ena24ssd.config import LossConfig, read_config
from ena24ssd.data import Batch, Held
from ena24ssd.engine import EngineError, load_engine
from ena24ssd.prior import prior
from ena24ssd.pytorch import devices, layers
from ena24ssd.pytorch import engine as engine_room
from ena24ssd.pytorch.losses import multibox_loss, normalisers
from ena24ssd.pytorch.multibox import Targets, encode, match, suppress, to_corners
from ena24ssd.pytorch.pictures import Squares
from ena24ssd.runs import open_run
from ena24ssd.stopping import StoppedError
from ena24ssd.training import resume, train

BLOG, ENA24 = "configs/blog.yaml", "configs/custom_conv.yaml"


def small_engine(*overrides: str, preset: str | None = None):
    return tiny_engine("pytorch", *overrides, preset=preset)


# -- anchors, targets and suppression -------------------------------------------------------------------------------

ANCHORS = prior(3, 3, [0.3, 0.5], [1, 2, 0.5])[None]


def overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU of all pairs of (N, 4) and (M, 4), in the order of float32 operations that MXNet has."""
    with np.errstate(invalid="ignore"):
        a, b = first[:, None], second[None]
        sides = np.maximum(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0)
        common = sides[..., 0] * sides[..., 1]
        areas = [(box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1]) for box in (a, b)]
        return common / (areas[0] + areas[1] - common)


def naive_owners(iou: np.ndarray, overlap: float) -> dict[int, int]:
    """Which box each positive anchor answers for, of all pairs' ``iou`` (N, M).

    Of equal pairs that of the first anchor counts, and of its equals that of the first box.
    """
    owners: dict[int, int] = {}
    for _ in range(iou.shape[1]):
        best, pair = np.float32(1e-6), None
        for anchor, box in itertools.product(*map(range, iou.shape)):
            if anchor not in owners and box not in owners.values() and iou[anchor, box] > best:
                best, pair = iou[anchor, box], (anchor, box)
        if pair is not None:
            owners[pair[0]] = pair[1]
    for anchor in set(range(len(iou))) - owners.keys():
        best = np.float32(-1)
        for box in range(iou.shape[1]):
            if iou[anchor, box] > best:
                best, nearest = iou[anchor, box], box
        if best > np.float32(overlap):
            owners[anchor] = nearest
    return owners


@settings(max_examples=60, deadline=None)
@given(truth=truths(), overlap=st.sampled_from([0.3, 0.5, 0.7]))
def test_targets_equal_a_double_loop_over_anchors_and_boxes(truth, overlap):
    targets = match(torch.from_numpy(ANCHORS), torch.from_numpy(truth), overlap)
    for rows, classes, mask, offsets in zip(truth, targets.anchor_classes, targets.box_mask, targets.box_offsets):
        boxes = rows[: list(rows[:, 0]).index(-1)]
        owners = naive_owners(overlaps(ANCHORS[0], boxes[:, 1:]), overlap)
        expected = [boxes[owners[anchor], 0] + 1 if anchor in owners else 0 for anchor in range(len(ANCHORS[0]))]
        assert classes.tolist() == expected
        positive = mask.reshape(-1, 4).bool()
        assert (positive.all(dim=1) == (classes > 0)).all() and (positive.any(dim=1) == (classes > 0)).all()
        assert (offsets.reshape(-1, 4)[~positive] == 0).all()
        for anchor, box in owners.items():
            left, top, right, bottom = ANCHORS[0, anchor].astype(float)
            corners, size = boxes[box, 1:].astype(float), np.array([right - left, bottom - top])
            centre = ((corners[:2] + corners[2:]) / 2 - [(left + right) / 2, (top + bottom) / 2]) / size / 0.1
            sides = np.log((corners[2:] - corners[:2]) / size) / 0.2
            assert offsets.reshape(-1, 4)[anchor].numpy() == pytest.approx([*centre, *sides], rel=1e-4, abs=1e-4)


def test_an_overlap_of_exactly_the_threshold_is_not_over_it():
    """Both halves of a box overlap it by a half; the first is its own anchor."""
    anchors = torch.tensor([[[0, 0, 0.5, 0.5], [0, 0.5, 0.5, 1.0]]])
    truth = torch.tensor([[[2, 0, 0, 0.5, 1.0], [-1] * 5]])
    assert match(anchors, truth, 0.5).anchor_classes.tolist() == [[3, 0]]
    assert match(anchors, truth, 0.4999).anchor_classes.tolist() == [[3, 3]]


def test_anchors_are_the_posts():
    """Sizes are sides of squares in the frame; ratios after the first apply to the first size."""
    model = read_config(BLOG).model
    anchors = prior(13, 13, model.sizes, model.ratios)
    assert anchors.shape == (13 * 13 * 9, 4) and anchors.dtype == np.float32
    cell = anchors.reshape(13, 13, 9, 4)[4, 7]
    width, height = (cell[:, 2:] - cell[:, :2]).T
    assert width[:6] == pytest.approx(model.sizes, abs=1e-6) and height[:6] == pytest.approx(model.sizes, abs=1e-6)
    assert width[6:] / height[6:] == pytest.approx(model.ratios[1:], rel=1e-5)
    assert width[6:] * height[6:] == pytest.approx(3 * [model.sizes[0] ** 2], rel=1e-5)
    assert (cell[:, 2:] + cell[:, :2]) / 2 == pytest.approx(np.tile([7.5 / 13, 4.5 / 13], (9, 1)), abs=1e-6)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_offsets_turn_anchors_into_the_boxes_they_were_made_from(seed):
    random = np.random.default_rng(seed)
    low = random.uniform(0, 0.8, ANCHORS[0][:, :2].shape)
    boxes = torch.from_numpy(np.concatenate([low, low + random.uniform(0.01, 0.2, low.shape)], axis=1).astype("f"))
    anchors = torch.from_numpy(ANCHORS[0])
    assert torch.allclose(to_corners(anchors, encode(anchors, boxes)), boxes, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 40),
    agnostic=st.booleans(),
    overlap=st.sampled_from([0.3, 0.5, 0.7, 1.0]),
    grid=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_suppression_equals_a_greedy_double_loop(count, agnostic, overlap, grid, seed):
    """On a grid many overlaps are exactly the threshold, many boxes the same, and some without area."""
    random = np.random.default_rng(seed)
    corners = np.sort(random.random((2, count, 2, 2)), axis=2).reshape(2, count, 4).astype(np.float32)
    corners = np.round(corners * 4) / 4 if grid else corners
    labels, candidate = random.integers(0, 2, (2, count)), random.random((2, count)) < 0.9
    alive = suppress(*map(torch.from_numpy, (corners, labels, candidate)), overlap, agnostic)
    for number in range(2):
        iou, kept = overlaps(corners[number], corners[number]), list[int]()
        for box in np.flatnonzero(candidate[number]):
            rivals = [other for other in kept if agnostic or labels[number, other] == labels[number, box]]
            if not any(iou[other, box] >= np.float32(overlap) for other in rivals):
                kept.append(box)
        assert np.flatnonzero(alive[number]).tolist() == kept


# -- loss -----------------------------------------------------------------------------------------------------------

LOSSES = {
    "the post's": read_config(BLOG).loss,
    "the default": LossConfig(),
    "the default without mining": LossConfig(negatives_per_positive=None),
    "mined, averaged over anchors": LossConfig(normalise_by="anchors", foreground_weight=3, box_weight=0.5),
    "plain L1": LossConfig(box_error="l1", background_weight=0.2),
}


def naive_loss(logits, offsets, targets: Targets, config: LossConfig, species) -> float:
    """From its definition, anchor by anchor, in float64."""
    costs, errors, positives = 0.0, 0.0, 0
    for rows, boxes, truth, wanted in zip(logits, offsets, targets.anchor_classes, targets.box_offsets.numpy()):
        believed = rows - np.log(np.exp(rows).sum(axis=-1, keepdims=True))
        background = np.flatnonzero(truth == 0)
        if config.negatives_per_positive is not None:
            quota = max(config.minimum_negatives, config.negatives_per_positive * int((truth > 0).sum()))
            background = sorted(background, key=lambda anchor: believed[anchor, 0])[: int(quota)]
        costs -= config.background_weight * believed[background, 0].sum()
        for anchor in np.flatnonzero(truth > 0):
            label = int(truth[anchor])
            costs -= config.foreground_weight * species[label - 1] * believed[anchor, label]
            for error in np.abs(boxes - wanted).reshape(-1, 4)[anchor]:
                beta = config.smooth_l1_beta if config.box_error == "smooth_l1" else 0
                errors += error**2 / (2 * beta) if error < beta else error - beta / 2
            positives += 1
    if config.normalise_by == "anchors":
        return costs / logits[..., 0].size + config.box_weight * errors / offsets.size
    return (costs + config.box_weight * errors) / max(positives, 1)


@pytest.mark.parametrize("species", [(1, 1, 1), (0.5, 2, 3)], ids=["species weigh the same", "species weigh"])
@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_and_its_gradient_equal_a_naive_one(name, species):
    config, random = LOSSES[name], np.random.default_rng(0)
    targets = match(torch.from_numpy(ANCHORS), torch.from_numpy(a_batch().truth), config.overlap)
    arrays = [random.normal(size=(3, ANCHORS.shape[1], 4)), random.normal(size=(3, 4 * ANCHORS.shape[1]))]
    tensors = [torch.tensor(each, dtype=torch.float32, requires_grad=True) for each in arrays]
    weigh = None if species == (1, 1, 1) else torch.tensor(species, dtype=torch.float32)
    loss = sum(multibox_loss(*tensors, targets, normalisers(targets, config), config, weigh))
    loss.backward()
    assert loss.item() == pytest.approx(naive_loss(*arrays, targets, config, species), rel=1e-6)
    positive = np.flatnonzero(targets.anchor_classes.numpy() > 0)[:3] * 4
    for array, tensor in zip(arrays, tensors):
        for place in (*positive, *random.integers(0, array.size, 4)):
            sides = []
            for step in (1e-5, -1e-5):
                array.ravel()[place] += step
                sides.append(naive_loss(*arrays, targets, config, species))
                array.ravel()[place] -= step
            slope = (sides[0] - sides[1]) / 2e-5
            assert tensor.grad.numpy().ravel()[place] == pytest.approx(slope, rel=1e-3, abs=1e-6)


# -- layers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["planes", "channels last"])
@pytest.mark.parametrize("shape", [(4, 3, 5, 7), (1, 2, 2, 2), (2, 1, 1, 3)])
def test_batchnorm_is_the_papers_and_keeps_the_batchs_own_variance(shape, layout):
    random = np.random.default_rng(0)
    norm, x = layers.BatchNorm(shape[1]), random.normal(2, 3, shape).astype(np.float32)
    with torch.no_grad():
        norm.gamma.copy_(torch.linspace(0.5, 2, shape[1]))
        norm.beta.copy_(torch.linspace(-1, 1, shape[1]))
    mean, variance = np.zeros(shape[1]), np.ones(shape[1])
    for _ in range(3):
        y = norm(torch.from_numpy(x).to(memory_format=layout))
        mean = 0.9 * mean + 0.1 * x.mean(axis=(0, 2, 3), dtype=float)
        variance = 0.9 * variance + 0.1 * x.var(axis=(0, 2, 3), dtype=float)
    assert norm.running_mean.numpy() == pytest.approx(mean, rel=1e-5)
    assert norm.running_var.numpy() == pytest.approx(variance, rel=1e-5)
    own = [each.reshape(1, -1, 1, 1) for each in (x.mean(axis=(0, 2, 3)), x.var(axis=(0, 2, 3)))]
    gamma, beta = (each.detach().numpy().reshape(1, -1, 1, 1) for each in (norm.gamma, norm.beta))
    expected = gamma * (x - own[0]) / np.sqrt(own[1] + 1e-5) + beta
    assert np.abs(y.detach().numpy() - expected).max() < 1e-4


@pytest.mark.parametrize("state", ["measuring", "frozen", "no picture"])
def test_batchnorm_leaves_its_statistics_where_it_does_not_learn_them(state):
    norm = layers.BatchNorm(2, frozen=state == "frozen").train(state != "measuring")
    x = torch.randn(0 if state == "no picture" else 3, 2, 4, 4, requires_grad=True)
    norm(x).sum().backward()
    assert norm.running_mean.tolist() == [0, 0] and norm.running_var.tolist() == [1, 1]
    assert norm.gamma.grad is not None and norm.beta.grad is not None


CONVOLUTIONS = [
    (kernel, stride, padding, side)
    for kernel, stride, side in itertools.product((1, 3, 5), (1, 2), ((5, 8), (7, 7), (3, 2)))
    for padding in sorted({0, kernel // 2, 1})
    if min(side) + 2 * padding >= kernel
]


@pytest.mark.parametrize("layout", ["planes", "channels last", "a part of a larger one"])
@pytest.mark.parametrize("kernel, stride, padding, side", CONVOLUTIONS)
def test_a_convolutions_own_gradient_is_pytorchs(kernel, stride, padding, side, layout):
    torch.manual_seed(0)
    x = torch.randn(2, 3, *side, dtype=torch.float64)
    if layout == "channels last":
        x = x.to(memory_format=torch.channels_last)
    elif layout == "a part of a larger one":
        x = torch.randn(4, 6, side[0], 2 * side[1], dtype=torch.float64)[::2, 1:4, :, ::2]
    weight, bias = torch.randn(4, 3, kernel, kernel, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    gradients = []
    for convolve in (layers._Convolution.apply, torch.nn.functional.conv2d):
        parts = [each.detach().requires_grad_() for each in (x, weight, bias)]
        y = convolve(*parts, (stride, stride), (padding, padding))
        gradients.append(torch.autograd.grad((y * y.detach().cos()).sum(), parts))
    for ours, theirs in zip(*gradients):
        assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-10)


# -- optimizers -----------------------------------------------------------------------------------------------------

OPTIMIZERS = {
    "plain SGD": ("optim.name=sgd", "optim.momentum=0"),
    "SGD with momentum": ("optim.name=sgd", "optim.momentum=0.9"),
    "Adam": ("optim.name=adam",),
}


def naive_update(name: str, weight, gradient, memory: list, rate: float, count: int):
    """A weight after a step of MXNet's SGD or Adam; ``memory`` is changed in place."""
    if name == "Adam":
        memory[0] += 0.1 * (gradient - memory[0])
        memory[1] += 0.001 * (gradient**2 - memory[1])
        rate *= np.sqrt(1 - 0.999**count) / (1 - 0.9**count)
        return weight - rate * memory[0] / (np.sqrt(memory[1]) + 1e-8)
    memory[0] *= 0.9 if name == "SGD with momentum" else 0
    memory[0] -= rate * gradient
    return weight + memory[0]


@pytest.mark.parametrize("longest", [None, 0.5], ids=["any length", "shortened"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weights_move_as_mxnets_optimizers_move_them(name, longest):
    """With rates that change and are 0 for a while; the optimizer's memory is MXNet's as well."""
    clip = "null" if longest is None else longest
    engine = small_engine(*OPTIMIZERS[name], "optim.weight_decay=0.01", f"optim.clip_norm={clip}")
    known = {key: values.astype(float) for key, values in engine.weights().items() if "running" not in key}
    memory = {key: [np.zeros_like(values) for _ in range(2)] for key, values in known.items()}
    for count, rate in enumerate((0, 0.01, 0.02, 0, 0.001), 1):
        engine.learning_rate = rate
        engine.train_step(a_batch(count)).read()
        gradients = engine.gradients()
        norm = np.sqrt(sum((values.astype(float) ** 2).sum() for values in gradients.values()))
        assert longest is None or norm < longest * (1 + 1e-5)
        for key, gradient in gradients.items():
            decayed = gradient + 0.01 * known[key]
            known[key] = naive_update(name, known[key], decayed, memory[key], rate, count)
    weights, state = engine.weights(), engine.optimizer_state()
    assert_equal({key: weights[key] for key in known}, known, 2e-5 if name == "Adam" else 2e-6)
    assert state.pop("updates") == 5
    for key, values in state.items():
        name, _, number = key.rpartition("/")
        kept = memory[name][int(number)]
        assert np.abs(values - kept).max() <= 1e-4 * np.abs(kept).max() + 1e-9, key


@pytest.mark.parametrize("before", [0, 3], ids=["before the first step", "after three steps"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_that_is_taken_up_again_goes_on_bit_for_bit(name, before):
    engine, other = (small_engine(*OPTIMIZERS[name], f"seed={seed}") for seed in (0, 1))
    for number in range(before):
        engine.learning_rate = 0.01 / (number + 1)
        engine.train_step(a_batch(number)).read()
    other.load_weights(engine.weights())
    other.load_optimizer_state(engine.optimizer_state())
    for number in range(3, 6):
        for each in (engine, other):
            each.learning_rate = 0.003 * number
            each.train_step(a_batch(number)).read()
    assert_equal(engine.weights(), other.weights(), 0)
    assert_equal(engine.optimizer_state(), other.optimizer_state(), 0)


def test_the_memory_of_another_optimizer_is_refused():
    adam, sgd = small_engine("optim.name=adam"), small_engine("optim.name=sgd")
    for each in (adam, sgd):
        each.train_step(a_batch()).read()
    with pytest.raises(ValueError, match="another optimizer"):
        small_engine("optim.name=sgd").load_optimizer_state(adam.optimizer_state())
    with pytest.raises(ValueError, match="for this optimizer"):
        small_engine("optim.name=adam").load_optimizer_state(sgd.optimizer_state())


# -- the engine -----------------------------------------------------------------------------------------------------


def test_measuring_changes_nothing_and_detects_what_detect_detects():
    engine, batch = small_engine(preset=BLOG), a_batch()
    engine.train_step(batch).read()
    before = engine.weights()
    measured = engine.measure_step(batch)
    sums, rows = measured.read(), measured.rows()
    assert measured.fault() is None and np.isfinite(sums.loss)
    assert np.array_equal(rows, engine.detect(batch.images))
    assert (np.diff(rows[..., 1], axis=1) <= 0).all(), "best first"
    assert_equal(before, engine.weights(), 0)


@pytest.mark.parametrize("weights", [{}, {"extra": np.zeros(1)}], ids=["missing", "unknown"])
def test_weights_of_another_network_are_refused(weights):
    engine = small_engine()
    known = {} if not weights else engine.weights() | weights
    with pytest.raises(ValueError, match="weights of another network"):
        engine.load_weights(known)


def test_a_worker_without_a_picture_takes_a_step_that_changes_nothing():
    engine = small_engine("optim.name=sgd", "optim.weight_decay=0")
    before = engine.weights()
    sums = engine.train_step(a_batch(pictures=0)).read()
    assert sums.pictures == 0 and sums.loss == 0
    assert_equal(before, engine.weights(), 0)


@pytest.mark.filterwarnings("error:.*not writable")
def test_pictures_may_be_mirrored_views_or_read_only():
    engine, images = small_engine(), a_batch().images
    still = images.copy()
    still.flags.writeable = False
    assert np.array_equal(engine.detect(images[..., ::-1]), engine.detect(images[..., ::-1].copy()))
    assert np.array_equal(engine.detect(still), engine.detect(images))


def test_bfloat16_computes_convolutions_and_nothing_else(monkeypatch):
    """On a CPU that has to emulate it as well."""
    full, half = small_engine(), small_engine("precision=bfloat16")
    half.load_weights(full.weights())
    assert (full.device, half.device) == ("cpu, float32", "cpu, bfloat16")
    seen, kinds = set(), []
    for layer in half.net.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(lambda layer, given, answer: seen.add(answer.dtype))

    def costs(logits, offsets, targets, *others):
        kinds.extend([logits.dtype, offsets.dtype, targets.box_offsets.dtype])
        losses = multibox_loss(logits, offsets, targets, *others)
        kinds.extend(loss.dtype for loss in losses)
        return losses

    monkeypatch.setattr(engine_room, "multibox_loss", costs)
    for number in range(3):
        ours, theirs = (engine.train_step(a_batch(number)).read() for engine in (full, half))
        assert theirs.loss == pytest.approx(ours.loss, rel=0.03) and theirs.loss != ours.loss
    assert seen == {torch.bfloat16} and set(kinds) == {torch.float32}
    arrays = [*half.weights().values(), *half.gradients().values(), *half.optimizer_state().values()]
    assert {array.dtype.name for array in arrays} == {"float32", "int64"}
    rows = [engine.detect(a_batch().images) for engine in (full, half)]
    assert rows[1].dtype == np.float32 and np.abs(rows[0][:, :5, 1] - rows[1][:, :5, 1]).max() < 0.05


@pytest.mark.slow
def test_a_compiled_step_is_the_step(monkeypatch):
    """It is one graph, captured as for any backend. To compile it with inductor takes minutes on a CPU."""
    compiling = torch.compile

    def capture(function, *, mode=None, dynamic=None):
        return compiling(function, backend="eager", fullgraph=True, dynamic=dynamic)

    monkeypatch.setattr(torch, "compile", capture)
    plain, fused = small_engine("optim.name=sgd"), small_engine("optim.name=sgd", "compile=fuse")
    for number, pictures in enumerate((2, 2, 1)):  # one picture is another shape, and goes another way
        ours, theirs = (engine.train_step(a_batch(number, pictures)).read() for engine in (plain, fused))
        assert theirs.to_vector() == pytest.approx(ours.to_vector(), rel=1e-5, abs=1e-6)
    assert_equal(plain.weights(), fused.weights(), 1e-4)


@pytest.mark.parametrize("word", ["eager", "auto", "fuse", "graphs"])
def test_every_way_to_compile_can_be_named_on_the_command_line(word):
    assert tiny_config("pytorch", f"compile={word}").compile == word


def test_pictures_stay_on_the_host_of_a_cpu():
    engine, pixels = small_engine(), a_batch().images
    assert engine.hold(pixels) is False and engine.holds(pixels) is False


def holding(pixels: np.ndarray, *overrides: str):
    """An engine that holds the pictures as one on a GPU does."""
    engine = small_engine(*overrides)
    engine._squares, engine._held = Squares(pixels, "cpu"), pixels
    return engine


def test_a_step_on_pictures_that_are_held_is_the_step_on_their_pixels():
    pixels, rows = a_batch(pictures=6).images, np.array([4, 0, 5])
    engine, other = holding(pixels), small_engine()
    assert engine.holds(pixels) and engine.hold(pixels) and not engine.holds(pixels.copy())
    batch = a_batch()
    sums = [
        each.train_step(batch._replace(images=images)).read().to_vector()
        for each, images in ((engine, Held(rows)), (other, pixels[rows]))
    ]
    assert np.array_equal(*sums)
    assert_equal(engine.weights(), other.weights(), 0)
    measured = [
        each.measure_step(batch._replace(images=images)).rows()
        for each, images in ((engine, Held(rows)), (other, pixels[rows]))
    ]
    assert np.array_equal(*measured)


def test_a_step_on_held_pictures_that_are_changed_on_the_device_is_close_to_that_on_the_host():
    pixels, rows, batch = a_batch(pictures=6).images, np.array([4, 0, 5, 1]), a_batch(pictures=4)
    augmentation = tiny_config("pytorch").augment
    changes, truth = draw_changes(batch.truth, pixels.shape[1], np.random.default_rng(5), augmentation)
    engine, other = holding(pixels, "train.accumulate=2"), small_engine("train.accumulate=2")
    ours = engine.train_step(Batch(Held(rows, changes), truth, batch.ids)).read()
    theirs = other.train_step(Batch(render(pixels[rows], changes), truth, batch.ids)).read()
    assert (ours.pictures, ours.positives) == (theirs.pictures, theirs.positives)
    assert ours.loss == pytest.approx(theirs.loss, rel=0.01)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_same_seed_gives_the_same_training_bit_for_bit(precision):
    engines = [small_engine(f"precision={precision}", "seed=4") for _ in range(2)]
    for number in range(4):
        sums = [engine.train_step(a_batch(number)).read().to_vector() for engine in engines]
        assert np.array_equal(*sums)
    assert_equal(*(engine.weights() for engine in engines), 0)
    assert not np.array_equal(*(small_engine(f"seed={seed}").detect(a_batch().images) for seed in (4, 5)))


def test_an_engine_may_be_made_in_another_thread():
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: len(small_engine().detect(a_batch().images))).result() == 3


# -- what is no number ----------------------------------------------------------------------------------------------


def with_weight(name: str, value: float):
    def spoil(engine):
        weights = engine.weights()
        weights[name] = np.full_like(weights[name], value)
        engine.load_weights(weights)

    return spoil


@pytest.mark.parametrize(
    "spoil, words",
    [
        (with_weight("bbox_predict.9.weight", np.nan), "the loss became nan; .*the weights bbox_predict.9.weight"),
        (with_weight("features.conv31.weight", 3e38), "the output of features.conv31"),
        (with_weight("features.bn1.running_var", -1), "the output of features.bn1"),
        (with_weight("bbox_predict.9.bias", 3e38), "the box loss"),
    ],
    ids=["a weight that is no number", "a convolution overflows", "a statistic that cannot be", "the loss overflows"],
)
def test_a_step_that_diverges_is_taken_back_and_names_where_it_began(spoil, words):
    engine = small_engine("model.frozen_statistics=true")
    engine.train_step(a_batch()).read()
    spoil(engine)
    before = engine.weights()
    step = engine.train_step(a_batch(1))
    engine.train_step(a_batch(2))  # the next step is already under way, and has moved the weights
    step.read()
    assert re.search(words, step.fault())
    for name, values in engine.weights().items():
        assert np.array_equal(values, before[name], equal_nan=True), name


def test_a_gradient_that_is_not_finite_is_noticed_where_the_loss_is_finite():
    engine = small_engine("model.frozen_statistics=true", "loss.box_weight=1e33")
    before = engine.weights()
    step = engine.train_step(a_batch())
    assert np.isfinite(step.read().loss)
    assert re.search(r"the gradient's norm became (inf|nan)", step.fault())
    assert_equal(before, engine.weights(), 0)


def test_statistics_go_back_as_well_and_a_measured_loss_is_named():
    engine = small_engine()
    with_weight("class_predict.0.bias", np.inf)(engine)
    before = engine.weights()
    for take in (engine.measure_step, engine.train_step):
        step = take(a_batch())
        step.read()
        assert "first not finite was the weights class_predict.0.bias" in step.fault()
    statistics = [{n: each[n] for n in each if "running" in n} for each in (before, engine.weights())]
    assert_equal(*statistics, 0)


# -- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "is_built, is_there, name, words",
    [
        (
            False,
            False,
            "gpu",
            r"^device 'gpu': this PyTorch \(.*\) is a CPU build; install one for CUDA, or set device=cpu$",
        ),
        (True, False, "gpu:1", r"^device 'gpu:1': PyTorch sees no GPU on this machine; .*, or set device=cpu$"),
        (True, True, "gpu:7", r"^device 'gpu:7': PyTorch sees 2 GPU\(s\), numbered from 0; choose one of them, or "),
    ],
)
def test_a_gpu_that_cannot_be_used_says_what_to_do(monkeypatch, is_built, is_there, name, words):
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: is_built)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: is_there)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.version, "hip", None)
    with pytest.raises(EngineError, match=words):
        devices.open_devices(name)
    if not is_there:
        assert devices.open_devices("auto") == [torch.device("cpu")]


def test_several_devices_are_refused_with_the_way_to_have_them():
    with pytest.raises(
        EngineError, match=r"one device a process; start one for each with 'torchrun --nproc-per-node 2 "
    ):
        load_engine(tiny_config("pytorch", "device=[cpu:0, cpu:1]"), SPECIES)


@pytest.mark.parametrize(
    "override, workers, words",
    [
        ("kvstore=dist_sync", "1", "kvstore is 'dist_sync', MXNet's, but engine is 'pytorch': set kvstore=null"),
        ("engine=gluon", "2", "torchrun has started several workers, but engine is 'gluon'"),
    ],
)
def test_workers_of_the_other_engines_kind_are_refused(override, workers, words, scenes, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", workers)
    config = read_config(None, [*SMALL, "engine=pytorch", f"data.path={scenes}", override])
    with pytest.raises(EngineError, match=words):
        train(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


# -- whole runs -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_that_was_interrupted_twice_is_the_run_that_was_not(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr("ena24ssd.learning.save_sheet", lambda sheet, file: None)  # takes longer than all the rest
    choices = [*SMALL, "engine=pytorch", f"data.path={scenes}", f"data.cache={tmp_path / 'cache'}"]
    choices += ["train.batch=8", "optim.name=sgd"]  # 3 steps an epoch
    whole = train(read_config(None, choices), tmp_path / "whole", quiet=True)
    taken, really = itertools.count(1), engine_room.PytorchEngine.train_step

    def counted(engine, batch):
        if next(taken) in (2, 8):
            os.kill(os.getpid(), signal.SIGTERM)
        return really(engine, batch)

    monkeypatch.setattr(engine_room.PytorchEngine, "train_step", counted)
    with pytest.raises(StoppedError):
        train(read_config(None, choices), tmp_path / "run", quiet=True)
    with pytest.raises(StoppedError):
        resume(tmp_path / "run", quiet=True)
    standing = open_run(tmp_path / "run").load_state()[0].standing
    assert (standing.epoch, standing.step) == (2, 2)
    assert_same(resume(tmp_path / "run", quiet=True).folder, whole.folder)


# -- on its own -----------------------------------------------------------------------------------------------------

# What there is on a machine where torch was installed and nothing else.
ALONE = """
import importlib.util, json, pkgutil, sys
from importlib.machinery import PathFinder
from types import SimpleNamespace

class Bare(PathFinder):
    # Finds the standard library, torch with what its package asks for, NumPy and this.
    allowed = {"ena24ssd", "numpy", "torch", "torchgen", "functorch", "triton", "nvidia", "cuda", "filelock", "fsspec"}
    allowed |= {"typing_extensions", "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "setuptools"}

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        root = name.partition(".")[0]
        known = root in cls.allowed or root in sys.stdlib_module_names or root.startswith("_")
        return super().find_spec(name, path, target) if known else None

sys.meta_path[:] = [Bare if finder is PathFinder else finder for finder in sys.meta_path]
for name in ("pydantic", "PIL", "psutil", "yaml", "requests", "matplotlib", "tensorboard", "mxnet"):
    assert importlib.util.find_spec(name) is None, name
import ena24ssd.pytorch
for room in pkgutil.iter_modules(ena24ssd.pytorch.__path__):
    if room.name != "board":  # TensorBoard's
        importlib.import_module(f"ena24ssd.pytorch.{room.name}")
import numpy as np
from ena24ssd.engine import load_engine
from ena24ssd.prior import LevelAnchors

config = json.loads(sys.argv[1], object_hook=lambda fields: SimpleNamespace(**fields))
model = config.model  # what it is asked for besides its fields
model.anchors = (LevelAnchors(16, model.sizes, model.ratios),)
model.freezes_backbone = model.freezes_heads = False
engine = load_engine(config, ["a", "b"])
images = np.zeros((2, 48, 48, 3), np.uint8)
truth = np.array([[[1, 0.1, 0.1, 0.6, 0.7]], [[-1] * 5]], np.float32)
step = engine.train_step(SimpleNamespace(images=images, truth=truth, ids=("1", "2")))
assert np.isfinite(step.read().loss) and step.fault() is None and len(engine.detect(images)) == 2
"""


@pytest.mark.slow
def test_the_engine_needs_nothing_but_torch_and_numpy():
    config = tiny_config("pytorch", "optim.name=sgd").model_dump_json()
    done = subprocess.run([sys.executable, "-c", ALONE, config], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
