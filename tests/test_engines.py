"""Do both engines compute the same?  Step for step, box for box, and one after the other in the same run."""

from __future__ import annotations

import json
import shutil
from typing import NamedTuple

import numpy as np
import pytest

pytest.importorskip("mxnet", reason="the gluon extra is not installed", exc_type=ImportError)
pytest.importorskip("torch", reason="the pytorch extra is not installed")

import mxnet  # before torch: they get along in this order alone
import torch
from asked import TINY, a_batch, assert_equal, tiny_engine, truths
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from same_runs import SMALL

import ena24ssd.gluon.devices
import ena24ssd.pytorch.devices
from ena24ssd.boxes import iou
from ena24ssd.config import EvaluationConfig, LossConfig, read_config
from ena24ssd.data import Batch
from ena24ssd.detector import Detector
from ena24ssd.engine import Engine, EngineError, choose_engine
from ena24ssd.gluon import losses as gluon_losses
from ena24ssd.gluon import multibox as gluon_multibox
from ena24ssd.prior import prior
from ena24ssd.pytorch import losses as torch_losses
from ena24ssd.pytorch import multibox as torch_multibox
from ena24ssd.runs import Run, open_run
from ena24ssd.stages import stage_of
from ena24ssd.training import resume, train

BLOG, ENA24 = "configs/blog.yaml", "configs/custom_conv.yaml"
ENGINES = ("gluon", "pytorch")
# Of a network's loss, relative. MXNet adds up thousands of float32 one after another, and is off by up to 2e-6 by
# itself (against float64; PyTorch by 2e-8). Where losses of the same answers are compared, it is 1e-6.
LOSS = 4e-6


class Pair(NamedTuple):
    """Both engines with the same weights and statistics."""

    gluon: Engine
    pytorch: Engine
    idle: frozenset[str]  # biases in front of a BatchNorm that learns: nothing depends on them


def make_pair(*overrides: str, preset: str | None = None) -> Pair:
    """Both, with weights that are nobody's first: every statistic, gamma and beta is its own."""
    ours, theirs = (tiny_engine(engine, *overrides, preset=preset) for engine in ENGINES)
    random, weights = np.random.default_rng(1), ours.weights()
    for name, values in weights.items():
        if name.endswith(("running_mean", "beta", "bias")):
            weights[name] = random.normal(0, 0.1, values.shape).astype(np.float32)
        elif name.endswith(("running_var", "gamma")):
            weights[name] = random.uniform(0.5, 2, values.shape).astype(np.float32)
    for engine in (ours, theirs):
        engine.load_weights(weights)
    idle = {name for name in weights if name.startswith("features.conv") and name.endswith("bias")}
    idle |= {f"bbox_predict.{number}.bias" for number in (0, 3, 6)}
    if "class_predict.1.gamma" in weights:
        idle |= {"class_predict.0.bias", "bbox_predict.9.bias"}
    frozen = "model.frozen_statistics=true" in overrides
    return Pair(ours, theirs, frozenset() if frozen else frozenset(idle))


def step(engines: Pair, batch: Batch) -> list[np.ndarray]:
    """A step of each; their sums as vectors."""
    steps = [engine.train_step(batch) for engine in engines[:2]]
    vectors = [each.read().to_vector() for each in steps]
    assert [each.fault() for each in steps] == [None, None]
    return vectors


def assert_same_gradients(engines: Pair, least: float = 1e-4) -> None:
    """Every tensor's, relative to its largest entry. What the engines have for idle biases, whose gradient is zero, are
    roundings; they are held against the largest entry of all gradients.
    """
    ours, theirs = engines.gluon.gradients(), engines.pytorch.gradients()
    assert ours.keys() == theirs.keys()
    largest = max(np.abs(values).max() for values in ours.values())
    for name, values in ours.items():
        scale = largest if name in engines.idle else np.abs(values).max()
        assert np.abs(values - theirs[name]).max() <= least * scale, name


# -- the network, and a step of it ----------------------------------------------------------------------------------

NETWORKS = {
    "the post's, with BatchNorm on what it answers": (BLOG, ()),
    "the one for ENA24": (ENA24, ()),
    "BatchNorm on what it answers, all statistics frozen": (BLOG, ("model.frozen_statistics=true",)),
    "statistics frozen": (ENA24, ("model.frozen_statistics=true",)),
    "an odd side": (ENA24, ("data.image_side=67",)),
    "a side of a cell more than six": (BLOG, ("data.image_side=97", "model.width=0.02")),
    "one size and one ratio": (ENA24, ("model.sizes=[0.4]", "model.ratios=[0.7]")),
    "many ratios, the first of them not 1": (BLOG, ("model.sizes=[0.2,0.5]", "model.ratios=[2,1,0.5,0.3,3]")),
    "wide enough for every way to a gradient": (ENA24, ("model.width=0.1", "data.image_side=64")),
}


@pytest.fixture(params=NETWORKS, scope="module")
def network(request) -> tuple[Pair, Batch]:
    preset, overrides = NETWORKS[request.param]
    (side,) = [word.partition("=")[2] for word in (*TINY, *overrides) if word.startswith("data.image_side")][-1:]
    return make_pair("optim.name=sgd", "optim.lr=0.001", *overrides, preset=preset), a_batch(side=int(side))


def test_the_same_weights_give_the_same_answers(network):
    engines, batch = network
    pixels = np.random.default_rng(0).normal(size=(2, 3, *batch.images.shape[1:3])).astype(np.float32)
    ours = [part.asnumpy() for part in engines.gluon.net(mxnet.np.array(pixels))]
    engines.pytorch.net.eval()
    with torch.inference_mode():
        theirs = [part.numpy() for part in engines.pytorch.net(torch.from_numpy(pixels))]
    assert [part.shape for part in ours] == [part.shape for part in theirs]
    assert np.array_equal(ours[0], theirs[0]), "anchors, bit for bit"
    for mine, other in zip(ours[1:], theirs[1:]):
        assert np.abs(mine - other).max() <= 1e-5


def test_a_measured_batch_has_the_same_figures_and_detections(network):
    engines, batch = network
    ours, theirs = (engine.measure_step(batch) for engine in engines[:2])
    rows = [each.rows() for each in (ours, theirs)]
    assert np.array_equal(rows[0][..., 0], rows[1][..., 0]) and np.abs(rows[0] - rows[1]).max() <= 1e-5
    assert theirs.read().to_vector() == pytest.approx(ours.read().to_vector(), rel=1e-5, abs=1e-6)
    assert np.array_equal(engines.pytorch.detect(batch.images), rows[1])


def test_a_training_step_has_the_same_loss_figures_gradient_weights_and_statistics(network):
    """What the network answers in training shows in its loss and in the statistics that it learns."""
    engines, batch = network
    ours, theirs = step(engines, batch)
    assert theirs[1:3] == pytest.approx(ours[1:3], rel=LOSS), "class loss and box loss"
    assert theirs == pytest.approx(ours, rel=1e-5, abs=1e-6), "all sums; counts are whole numbers"
    assert_same_gradients(engines)
    weights = [engine.weights() for engine in engines[:2]]
    assert_equal(*({name: each[name] for name in each if name not in engines.idle} for each in weights), 1e-5)


def test_blank_pictures_alone_give_the_same_step():
    engines, batch = make_pair(preset=ENA24), a_batch()
    ours, theirs = step(engines, batch._replace(truth=np.full_like(batch.truth, -1)))
    assert theirs == pytest.approx(ours, rel=1e-6, abs=1e-6) and ours[6] == 0, "no anchor is positive"
    assert_same_gradients(engines)


# -- targets and mining ---------------------------------------------------------------------------------------------

CELLS = 5
MODELS = {preset: read_config(preset).model for preset in (BLOG, ENA24)}
ANCHORS = {name: prior(CELLS, CELLS, model.sizes, model.ratios)[None] for name, model in MODELS.items()}


def targets_of(anchors: np.ndarray, truth: np.ndarray, overlap: float):
    return (
        gluon_multibox.match(mxnet.np.array(anchors), mxnet.np.array(truth), overlap),
        torch_multibox.match(torch.from_numpy(anchors), torch.from_numpy(truth), overlap),
    )


@pytest.mark.parametrize("height, width", [(1, 1), (3, 3), (5, 7), (13, 13), (64, 2)])
@pytest.mark.parametrize("preset", [BLOG, ENA24])
def test_anchors_are_the_same_bit_for_bit(preset, height, width):
    model = MODELS[preset]
    ours = mxnet.npx.multibox_prior(mxnet.np.zeros((1, 1, height, width)), list(model.sizes), list(model.ratios))
    theirs = prior(height, width, model.sizes, model.ratios)
    assert np.array_equal(ours.asnumpy().reshape(-1, 4), theirs)


@settings(max_examples=120, deadline=None)
@given(truth=truths(), overlap=st.sampled_from([0.3, 0.5, 0.7]), preset=st.sampled_from([BLOG, ENA24]))
def test_targets_are_identical(truth, overlap, preset):
    ours, theirs = targets_of(ANCHORS[preset], truth, overlap)
    assert np.array_equal(ours.anchor_classes.asnumpy(), theirs.anchor_classes.numpy())
    assert np.array_equal(ours.box_mask.asnumpy(), theirs.box_mask.numpy())
    assert np.allclose(ours.box_offsets.asnumpy(), theirs.box_offsets.numpy(), rtol=1e-6, atol=1e-6, equal_nan=True)


def test_an_overlap_of_exactly_the_threshold_is_over_it_for_neither():
    anchors = np.array([[[0, 0, 0.5, 0.5], [0, 0.5, 0.5, 1]]], np.float32)
    truth = np.array([[[2, 0, 0, 0.5, 1], [-1] * 5]], np.float32)
    for overlap, classes in ((0.5, [[3, 0]]), (0.4999, [[3, 3]])):
        ours, theirs = targets_of(anchors, truth, overlap)
        assert ours.anchor_classes.tolist() == theirs.anchor_classes.tolist() == classes


def are_apart(values: np.ndarray, least: float) -> bool:
    """Whether any two values are the same, or differ by more than this."""
    gaps = np.diff(np.sort(values.ravel()))
    return bool(((gaps == 0) | (gaps > least)).all())


@settings(max_examples=60, deadline=None)
@given(
    truth=truths(),
    quota=st.sampled_from([(3.0, 8), (0.0, 0), (0.5, 1), (1000.0, 0)]),
    repeated=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_mining_is_identical(truth, quota, repeated, seed):
    """With every other row of the logits that of its neighbour, if ``repeated``: MXNet's sort then takes any of equals,
    PyTorch's the first; they are as hard. Doubts that differ by a rounding of float32 may fall either way.
    """
    logits = np.random.default_rng(seed).normal(size=(len(truth), ANCHORS[BLOG].shape[1], 4)).astype(np.float32)
    if repeated:
        logits[:, 1::2] = logits[:, :-1:2]
    exact = logits.astype(np.float64)
    assume(all(are_apart(each, 1e-5) for each in np.log(np.exp(exact).sum(axis=-1)) - exact[..., 0]))
    ours, theirs = targets_of(ANCHORS[BLOG], truth, 0.5)
    ours = gluon_multibox.mine(mxnet.np.array(logits), ours.anchor_classes, *quota).asnumpy()
    theirs = torch_multibox.mine(torch.from_numpy(logits), theirs.anchor_classes, *quota).numpy()
    assert repeated or np.array_equal(ours, theirs)
    for answers, mine, other in zip(logits, ours, theirs):
        assert np.array_equal(*(np.sort(answers[kept > 0], axis=0) for kept in (mine, other)))


# -- loss -----------------------------------------------------------------------------------------------------------

LOSSES = {
    "the post's": read_config(BLOG).loss,
    "the default": LossConfig(),
    "no mining": LossConfig(negatives_per_positive=None),
    "no mining, over all anchors": LossConfig(negatives_per_positive=None, normalise_by="anchors"),
    "mining over all anchors": LossConfig(normalise_by="anchors", foreground_weight=3),
    "plain L1": LossConfig(box_error="l1"),
    "a narrow and heavy box error": LossConfig(smooth_l1_beta=0.1, box_weight=7),
    "no box error": LossConfig(box_weight=0),
    "no negatives at all": LossConfig(negatives_per_positive=0, minimum_negatives=0),
    "light background": LossConfig(background_weight=0.1, negatives_per_positive=1, minimum_negatives=30),
    "a low overlap": LossConfig(overlap=0.2),
}


@pytest.mark.parametrize("weigh", [None, (0.5, 2.0, 3.0)], ids=["species weigh the same", "species weigh"])
@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_and_its_gradient_are_the_same(name, weigh):
    config, batch, random = LOSSES[name], a_batch(pictures=4), np.random.default_rng(2)
    shape = 4, ANCHORS[ENA24].shape[1]
    logits, offsets = (random.normal(size=size).astype(np.float32) for size in ((*shape, 4), (4, 4 * shape[1])))
    ours, theirs = targets_of(ANCHORS[ENA24], batch.truth, config.overlap)

    arrays = [mxnet.np.array(each) for each in (logits, offsets)]
    for each in arrays:
        each.attach_grad()
    with mxnet.autograd.record():
        species = None if weigh is None else mxnet.np.array(weigh)
        losses = gluon_losses.multibox_loss(*arrays, ours, gluon_losses.normalisers(ours, config), config, species)
        (losses[0] + losses[1]).backward()

    tensors = [torch.from_numpy(each).requires_grad_() for each in (logits, offsets)]
    species = None if weigh is None else torch.tensor(weigh)
    others = torch_losses.multibox_loss(*tensors, theirs, torch_losses.normalisers(theirs, config), config, species)
    (others[0] + others[1]).backward()

    assert [each.item() for each in others] == pytest.approx([each.item() for each in losses], rel=1e-6)
    for array, tensor in zip(arrays, tensors):
        mine = array.grad.asnumpy()
        assert np.abs(mine - tensor.grad.numpy()).max() <= 1e-5 * np.abs(mine).max()


STEPS = {  # of what the presets have not
    "species that weigh": ("loss.species_weights={Bird: 0.3, Dog: 4}",),
    "a gradient that is shortened": ("optim.clip_norm=0.1",),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_with_other_choices_is_the_same(name):
    engines = make_pair(*STEPS[name], preset=ENA24)
    for seed in range(2):
        ours, theirs = step(engines, a_batch(seed))
        assert theirs[1:3] == pytest.approx(ours[1:3], rel=LOSS)
        assert_same_gradients(engines)
        engines.pytorch.load_weights(engines.gluon.weights())


# -- many steps -----------------------------------------------------------------------------------------------------

# Rounding errors grow from step to step; a loss without corners and a rate that suits keep them small.
CALM = ("loss.box_error=smooth_l1", "loss.negatives_per_positive=null", "optim.weight_decay=0.001")
OPTIMIZERS = {
    "plain SGD": (("optim.name=sgd", "optim.momentum=0"), 20, 0.01),
    "SGD with momentum": (("optim.name=sgd", "optim.momentum=0.9"), 20, 0.002),
    "Adam": (("optim.name=adam",), 10, 1e-4),
    "AdamW": (("optim.name=adamw",), 10, 1e-4),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_many_steps_on_the_same_data_end_at_the_same_weights(name):
    choices, steps, rate = OPTIMIZERS[name]
    engines = make_pair(*choices, *CALM)
    before = engines.gluon.weights()
    for engine in engines[:2]:
        engine.learning_rate = rate
    for number in range(steps):
        step(engines, a_batch(number % 4, pictures=2))
    ours, theirs = (engine.weights() for engine in engines[:2])
    assert_equal(*({n: each[n] for n in each if n not in engines.idle} for each in (ours, theirs)), 1e-3)
    moved = max(np.abs(ours[n] - before[n]).max() for n in ours if "running" not in n)
    assert moved > 5 * 1e-3 or name.startswith("Adam"), "or nothing was shown"


def test_two_stages_and_an_average_end_at_the_same_weights():
    """The heads for ten steps, then everything for ten more, the backbone at a tenth of the rate."""
    choices = ("optim.name=adamw", "optim.head_epochs=1", "optim.backbone_rate=0.1", "optim.average=0.9")
    choices += ("model.frozen_statistics=true", "train.epochs=2", "optim.weight_decay=0.1")
    engines = make_pair(*choices, *[choice for choice in CALM if "decay" not in choice])
    before = engines.gluon.weights()
    for epoch in range(2):
        for engine in engines[:2]:
            engine.begin_stage(stage_of(engine._config.optim, epoch, 2))
            engine.learning_rate = 1e-4
        for number in range(10):
            step(engines, a_batch(number % 4, pictures=2))
        ours, theirs = (engine.weights() for engine in engines[:2])
        assert_equal(ours, theirs, 2e-5)
        states = [engine.optimizer_state() for engine in engines[:2]]
        assert states[0].keys() == states[1].keys() and states[0]["averaged"] == states[1]["averaged"]
        moved = [name for name in before if not np.array_equal(ours[name], before[name])]
        assert any(name.startswith("features.") for name in moved) == (epoch == 1)
        assert max(np.abs(ours[name] - before[name]).max() for name in moved) > 5e-4, "or nothing was shown"


@pytest.mark.parametrize("preset", [BLOG, ENA24])
def test_every_step_of_a_rough_way_is_the_same_from_the_same_weights(preset):
    """With the presets' own losses and rates; weights are made equal before each step."""
    engines = make_pair(preset=preset)
    for number in range(8):
        engines.pytorch.load_weights(engines.gluon.weights())
        ours, theirs = step(engines, a_batch(number))
        assert theirs[1:3] == pytest.approx(ours[1:3], rel=LOSS)
        assert_same_gradients(engines)


KEPT = {
    "plain SGD": ("optim.name=sgd", "optim.momentum=0"),
    "SGD with momentum": ("optim.name=sgd", "optim.momentum=0.9"),
    "Adam": ("optim.name=adam", "optim.weight_decay=0.01"),
    "AdamW and an average": ("optim.name=adamw", "optim.weight_decay=0.01", "optim.average=0.9"),
}
# Learning rates before and after handing over; a schedule may begin and end with none.
BEFORE, AFTER = (0.02, 0, 0.003), (0, 0.05, 0.001)


@pytest.mark.parametrize("name", KEPT)
def test_what_an_optimizer_remembers_goes_from_one_engine_to_the_other(name):
    """Three steps in each engine; then both go on, from the weights and the memory of one and then of the other."""
    choices = (*KEPT[name], *CALM, "model.frozen_statistics=true")
    scale = 0.1 if name.startswith("Adam") else 1
    first = make_pair(*choices)
    for number, rate in enumerate(BEFORE):
        for engine in first[:2]:
            engine.learning_rate = scale * rate
        step(first, a_batch(number))
    for origin, heir in (("gluon", "pytorch"), ("pytorch", "gluon")):
        source = getattr(first, origin)
        memory, weights = source.optimizer_state(), source.weights()
        heirs = [tiny_engine(engine, *choices) for engine in (origin, heir)]
        for engine in heirs:
            engine.load_weights(weights)
            engine.load_optimizer_state(memory)
        assert_equal(heirs[0].optimizer_state(), heirs[1].optimizer_state(), 0)
        for number, rate in enumerate(AFTER):
            for engine in heirs:
                engine.learning_rate = scale * rate
                engine.train_step(a_batch(10 + number)).read()
            assert_equal(*(engine.weights() for engine in heirs), 1e-6)
        memories = [engine.optimizer_state() for engine in heirs]
        assert memories[0]["updates"] == memories[1]["updates"] == 6
        assert_equal(*memories, 1e-5)


def test_a_batch_in_three_portions_is_the_batch_in_one():
    """In both engines, where statistics are frozen; five pictures, so that the portions differ."""
    steps = []
    for accumulate in (1, 3):
        engines = make_pair("model.frozen_statistics=true", f"train.accumulate={accumulate}")
        vectors = step(engines, a_batch(pictures=5))
        assert vectors[1] == pytest.approx(vectors[0], rel=1e-5, abs=1e-6)
        assert_same_gradients(engines)
        steps.append((vectors[1], engines.pytorch.gradients()))
    (whole, gradients), (sum_of_parts, others) = steps
    assert sum_of_parts == pytest.approx(whole, rel=1e-5, abs=1e-6)
    for name, values in gradients.items():
        assert np.abs(values - others[name]).max() <= 1e-4 * np.abs(values).max(), name


# -- detections -----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    spread=st.sampled_from([0.5, 2.0, 5.0]),
    repeated=st.sampled_from([0, 2, 10]),
    alike=st.booleans(),
    agnostic=st.booleans(),
    nms=st.sampled_from([0.3, 0.5, 0.7]),
    floor=st.sampled_from([0.0, 0.01, 0.3]),
    candidates=st.sampled_from([1, 5, 200, 5000]),
)
def test_detections_are_the_same_rows_in_the_same_order(
    seed, spread, repeated, alike, agnostic, nms, floor, candidates
):
    """With exact ties: one of so many rows of logits is ``repeated`` from its neighbour, and two species are ``alike``.

    Scores that differ by a rounding of float32, or a score or an overlap that is within one of its threshold, may fall
    either way: such answers are not asked for.
    """
    random, anchors = np.random.default_rng(seed), ANCHORS[ENA24][:, 100:180]
    logits = (spread * random.standard_normal((2, anchors.shape[1], 4))).astype(np.float32)
    offsets = random.standard_normal((2, 4 * anchors.shape[1])).astype(np.float32)
    if repeated:
        logits[:, 1::repeated] = logits[:, ::repeated][:, : logits[:, 1::repeated].shape[1]]
    if alike:
        logits[:, ::3, 2] = logits[:, ::3, 1]
    config = EvaluationConfig(nms=nms, class_agnostic_nms=agnostic, floor=floor, candidates=candidates)

    exact = np.exp(logits.astype(np.float64))
    exact = (exact / exact.sum(axis=-1, keepdims=True))[..., 1:].max(axis=-1)
    assume(all(are_apart(scores, 1e-6) for scores in exact) and np.abs(exact - floor).min() > 1e-6)
    corners = torch_multibox.to_corners(torch.from_numpy(anchors), torch.from_numpy(offsets.reshape(2, -1, 4))).numpy()
    assume(all(np.abs(iou(boxes, boxes) - nms).min() > 1e-6 for boxes in corners.astype(np.float64)))

    ours = gluon_multibox.decode(*map(mxnet.np.array, (anchors, logits, offsets)), config).asnumpy()
    theirs = torch_multibox.decode(*map(torch.from_numpy, (anchors, logits, offsets)), config).numpy()
    assert ours.shape == theirs.shape == (2, min(candidates, anchors.shape[1]), 6)
    assert np.array_equal(ours[..., 0], theirs[..., 0])
    assert np.abs(ours - theirs).max() <= 1e-6


# -- whole runs -----------------------------------------------------------------------------------------------------

# A rate that does not depend on how many epochs there are to be; nothing on the board that takes time.
RUN = (*SMALL, "optim.schedule=constant", "optim.warmup=0", "optim.lr=0.002", "train.epochs=2", "train.batch=8")
RUN += ("precision=float32", "seed=3", "log.histograms=false", "log.pictures=0", "train.checkpoint_minutes=10")


@pytest.fixture(scope="module")
def runs(scenes, tmp_path_factory) -> dict[str, Run]:
    """Four runs of four epochs by engines' names: each begun in one and gone on with in the same or in the other."""
    folder, done = tmp_path_factory.mktemp("engines"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setattr("ena24ssd.learning.save_sheet", lambda sheet, file: None)  # takes longer than all the rest
        for first in ENGINES:
            config = read_config(None, [*RUN, f"data.path={scenes}", f"engine={first}"])
            begun = train(config, folder / first, quiet=True)
            for then in ENGINES:
                name = f"{first} and {then}"
                shutil.copytree(begun.folder, folder / name)
                done[name] = resume(folder / name, [f"engine={then}", "train.epochs=4"], quiet=True)
    return done


def losses_of(run: Run, side: str) -> list[float]:
    rows = [row for row in run.rows() if row["split"] == side and "closing" not in row]
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3]
    return [row["anchor/log_loss"] for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("first, then", [ENGINES, ENGINES[::-1]])
def test_a_run_begun_in_one_engine_goes_on_in_the_other(runs, first, then):
    run, stayed = runs[f"{first} and {then}"], runs[f"{first} and {first}"]
    assert open_run(run.folder).config.engine == then and run.is_finished
    assert losses_of(run, "train")[:2] == losses_of(stayed, "train")[:2]
    for side in ("train", "validation", "test"):
        assert losses_of(run, side) == pytest.approx(losses_of(stayed, side), rel=0.01)
    state = run.load_state()[0]
    assert state.optimizer["updates"] == stayed.load_state()[0].optimizer["updates"] == 4 * 3
    assert json.loads((run.folder / "speed.jsonl").read_text().splitlines()[-1])["epoch"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gluon and pytorch", "pytorch and gluon"])
def test_a_detector_finds_the_same_with_either_engine(runs, scenes, name):
    pictures = sorted((scenes / "images").rglob("*.jpg"))[:6]
    detectors = [Detector.load(runs[name].folder, engine=engine) for engine in ENGINES]
    for ours, theirs in zip(*(detector.detect(pictures, threshold=0.05) for detector in detectors), strict=True):
        assert len(ours.detections) == len(theirs.detections) > 5
        for mine in ours.detections:
            near = [other for other in theirs.detections if other.label == mine.label]
            near = [other for other in near if other.score == pytest.approx(mine.score, abs=1e-4)]
            assert [other for other in near if other.box == pytest.approx(mine.box, abs=1e-4 * ours.width)], mine


# -- the choice -----------------------------------------------------------------------------------------------------


def test_auto_is_gluon_where_mxnet_works():
    assert choose_engine(read_config(None, ["device=cpu"])) == ("gluon", None)


def test_auto_is_the_engine_that_began_where_that_works():
    assert choose_engine(read_config(None, ["device=cpu"]), "pytorch") == ("pytorch", None)


def test_left_to_itself_the_light_network_gets_the_engine_it_is_faster_with():
    assert choose_engine(read_config("configs/demo.yaml", ["device=cpu"])) == ("pytorch", None)
    assert choose_engine(read_config("configs/demo.yaml", ["device=cpu"]), "gluon") == ("gluon", None)


def cannot(monkeypatch, engine: str, reason: str) -> None:
    def refuse(device):
        raise EngineError(reason)

    monkeypatch.setattr(getattr(ena24ssd, engine).devices, "open_devices", refuse)


def test_auto_is_pytorch_where_mxnet_cannot_run_and_says_why(monkeypatch):
    cannot(monkeypatch, "gluon", "no MXNet for this Python")
    choice = choose_engine(read_config(None, ["device=cpu"]))
    assert choice == ("pytorch", "no MXNet for this Python")


def test_where_neither_can_run_both_reasons_are_given(monkeypatch):
    cannot(monkeypatch, "gluon", "no MXNet for this Python")
    cannot(monkeypatch, "pytorch", "no torch either")
    with pytest.raises(EngineError, match=r"gluon: no MXNet for this Python\. pytorch: no torch either"):
        choose_engine(read_config(None, ["device=cpu"]))


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_that_is_named_is_taken_without_a_try(monkeypatch, engine):
    cannot(monkeypatch, engine, "broken")
    assert choose_engine(read_config(None, [f"engine={engine}"])) == (engine, None)
