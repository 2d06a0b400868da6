"""Does an engine learn in stages, and show an average of what it has learnt?  Each engine by itself."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from asked import a_batch, assert_equal, tiny_engine

from ena24ssd.averages import AVERAGED, RAW
from ena24ssd.engine import Engine, EngineError
from ena24ssd.stages import Stage, changes, stage_of

STAGED = ("model.frozen_statistics=backbone", "optim.head_epochs=2", "optim.late_lr=0.02", "train.epochs=4")
LITE = ("model.backbone=efficientnet_lite0", "model.levels=[16,32]", "model.pyramid=8", "model.towers=1")
LITE += ("model.sizes=[[0.3],[0.6]]", "model.ratios=[1,2]", "model.width=1", "data.image_side=64")
AVERAGE = 0.3  # the first steps keep less, later ones this


@pytest.fixture(params=["gluon", "pytorch"])
def make(request):
    """Maker of small engines on one framework."""
    framework = {"gluon": "mxnet", "pytorch": "torch"}[request.param]
    pytest.importorskip(framework, reason=f"the {request.param} extra is not installed", exc_type=ImportError)
    importlib.import_module("ena24ssd.gluon.engine" if framework == "mxnet" else "ena24ssd.pytorch.engine")
    return lambda *overrides: tiny_engine(request.param, *overrides)


def learn(engine: Engine, *seeds: int, side: int = 48) -> None:
    for seed in seeds:
        step = engine.train_step(a_batch(seed, side=side))
        step.read()
        assert step.fault() is None


def second(engine: Engine) -> Stage:
    return stage_of(engine._config.optim, 2, 4)


def raw(engine: Engine) -> dict[str, np.ndarray]:
    """The weights that learn, and all others."""
    kept = {key.removeprefix(RAW): each for key, each in engine.optimizer_state().items() if key.startswith(RAW)}
    return engine.weights() | kept


def moved(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> set[str]:
    return {name for name, values in before.items() if not np.array_equal(values, after[name])}


# -- stages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [(), LITE], ids=["the post's", "a pretrained kind"])
def test_what_does_not_learn_stays_to_the_bit(make, network):
    side = 64 if network else 48
    engine = make(*STAGED, "optim.name=adamw", "optim.late_share=0.33", *network)
    random, before = np.random.default_rng(0), engine.weights()
    for name, values in before.items():  # that as much leaves each layer as enters it
        if values.ndim > 1:
            before[name] = random.normal(0, np.sqrt(2 / values[0].size), values.shape).astype(np.float32)
    engine.load_weights(before)
    first = stage_of(engine._config.optim, 0, 4)
    for stage in (first, second(engine)):
        if stage != first:
            engine.begin_stage(stage)
            assert engine.learning_rate == 0.02 and engine.gradients() == {}
            assert engine.optimizer_state().keys() == {"updates"} and engine.optimizer_state()["updates"] == 0
        learn(engine, 0, 1, 2, side=side)
        after = engine.weights()
        may = {name for name in before if changes(name, stage.share, engine._config.model)}
        assert moved(before, after) == may
        learnt = {name for name in may if "running" not in name}
        assert engine.gradients().keys() == learnt
        state = engine.optimizer_state()
        assert state["updates"] == 3
        assert {key.rpartition("/")[0] for key in state if key != "updates"} == learnt
        before = after


def test_an_engine_begins_the_first_stage_of_its_config_by_itself(make):
    free = "optim.clip_norm=null"  # or the one would be shortened by the gradient of more
    plain, staged = make("model.frozen_statistics=backbone", free), make(*STAGED, free)
    learn(plain, 0)
    learn(staged, 0)
    assert any(name.startswith("features.") for name in plain.gradients())
    assert not any(name.startswith("features.") for name in staged.gradients())
    shared = staged.gradients().keys()
    ours, theirs = ({name: each.gradients()[name] for name in shared} for each in (plain, staged))
    scale = max(np.abs(values).max() for values in ours.values())
    for name in shared:
        assert np.abs(ours[name] - theirs[name]).max() < 1e-4 * scale, name


@pytest.mark.parametrize(
    "spread",
    [(), ("train.accumulate=2",), ("device=[cpu:0, cpu:1]", "model.frozen_statistics=true")],
    ids=["at once", "in portions", "on two devices"],
)
def test_a_later_stage_learns_as_an_engine_that_begins_with_it(make, spread):
    """Whatever gradients were asked for before."""
    choices = (*STAGED, "optim.name=adamw", "optim.backbone_rate=0.3", f"optim.average={AVERAGE}", *spread)
    try:
        engine = make(*choices)
    except EngineError:
        pytest.skip("this engine has one device")
    learn(engine, 0, 1)
    engine.detect(a_batch().images)
    engine.begin_stage(second(engine))
    other = make(*choices)
    other.begin_stage(second(engine))
    other.load_weights(raw(engine))
    for each in (engine, other):
        learn(each, 2, 3)
    assert_equal(engine.gradients(), other.gradients(), 0)
    assert_equal(raw(engine), raw(other), 0)
    states = [each.optimizer_state() for each in (engine, other)]
    assert [state.pop(AVERAGED) for state in states] == [4, 2]
    assert_equal(*states, 0)


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_the_backbone_moves_at_its_own_rate(make, optimizer):
    """As with another rate altogether, which shows as long as nothing else has changed: in the first step."""
    fixed = (f"optim.name={optimizer}", "optim.weight_decay=0.1", "optim.clip_norm=null", "optim.momentum=0.5")
    slow, whole = make(*fixed, "optim.backbone_rate=0.25"), make(*fixed)
    whole.load_weights(slow.weights())
    before = slow.weights()
    for engine, rate in ((slow, 0.02), (whole, 0.005)):
        engine.learning_rate = rate
        learn(engine, 0)
    ours, theirs = slow.weights(), whole.weights()
    for name in (name for name in before if "running" not in name):
        way, other = (each[name].astype(float) - before[name] for each in (ours, theirs))
        scale = 1 if name.startswith("features.") else 4
        assert np.abs(way - scale * other).max() <= 3e-7 + 1e-4 * np.abs(way).max(), name


def test_adamw_takes_weight_decay_beside_the_gradient_and_of_kernels_alone(make):
    """From its definition, in float64 (Loshchilov and Hutter 2019, algorithm 2, with MXNet's epsilon)."""
    engine = make("optim.name=adamw", "optim.weight_decay=0.3", "optim.backbone_rate=0.5")
    known = {key: values.astype(float) for key, values in engine.weights().items() if "running" not in key}
    memory = {key: [np.zeros_like(values) for _ in range(2)] for key, values in known.items()}
    for count, rate in enumerate((0, 0.01, 0.02, 0, 0.001), 1):
        engine.learning_rate = rate
        learn(engine, count)
        for key, gradient in engine.gradients().items():
            own, (mean, square) = rate * (0.5 if key.startswith("features.") else 1), memory[key]
            mean += 0.1 * (gradient - mean)
            square += 0.001 * (gradient.astype(float) ** 2 - square)
            if gradient.ndim > 1:
                known[key] -= own * 0.3 * known[key]
            corrected = own * np.sqrt(1 - 0.999**count) / (1 - 0.9**count)
            known[key] -= corrected * mean / (np.sqrt(square) + 1e-8)
    weights = engine.weights()
    assert_equal({key: weights[key] for key in known}, known, 2e-5)


# -- the average ----------------------------------------------------------------------------------------------------


def naive_average(average, weights, update):
    """After an update, counted from 1 over the whole run."""
    kept = min(AVERAGE, (1 + update) / (10 + update))
    return {name: average[name] + (1 - kept) * (values - average[name]) for name, values in weights.items()}


def test_the_average_is_what_is_measured_kept_and_detected_and_learning_goes_on_beside_it(make):
    """Over both stages, with looks in between; against an engine without an average, and one that holds it."""
    choices = (*STAGED, "optim.name=adamw")
    engine, plain, holder = make(*choices, f"optim.average={AVERAGE}"), make(*choices), make(*choices)
    plain.load_weights(engine.weights())
    average = {name: values.astype(float) for name, values in engine.weights().items()}
    for update in range(1, 9):
        if update == 5:
            for each in (engine, plain):
                each.begin_stage(second(engine))
        for each in (engine, plain):
            learn(each, update)
        assert_equal(raw(engine), plain.weights(), 0)
        average = naive_average(average, plain.weights(), update)
        assert_equal(engine.weights(), average, 1e-6)
        assert engine.optimizer_state()[AVERAGED] == update
        if update in (2, 4, 7):
            holder.load_weights(engine.weights())
            batch = a_batch(20)
            ours, theirs = (each.measure_step(batch) for each in (engine, holder))
            assert np.array_equal(ours.rows(), theirs.rows()) and np.array_equal(
                engine.detect(batch.images), ours.rows()
            )
            assert np.array_equal(ours.read().to_vector(), theirs.read().to_vector()) and ours.fault() is None
            assert_equal(engine.weights(), holder.weights(), 0)
            assert_equal(raw(engine), plain.weights(), 0)
    assert not np.array_equal(plain.detect(batch.images), engine.detect(batch.images))


@pytest.mark.parametrize(
    "moment, looks",
    [(1, False), (4, False), (4, True), (6, True)],
    ids=["in the first stage", "at its end", "and after a look at the average", "in the second"],
)
def test_training_goes_on_from_what_was_kept_bit_for_bit(make, moment, looks):
    """In the midst of eight updates, four a stage."""
    choices = (*STAGED, "optim.name=adamw", f"optim.average={AVERAGE}", "optim.backbone_rate=0.3")
    engine = make(*choices)
    for update in range(8):
        if update == 4:
            engine.begin_stage(second(engine))
        learn(engine, update)
        if update == 2 or looks:
            engine.measure_step(a_batch()).read()
        if update + 1 == moment:
            weights, memory = engine.weights(), engine.optimizer_state()
    other = make(*choices, "seed=5")
    other.load_weights(weights)
    if moment > 4:
        other.begin_stage(second(engine))
    other.load_optimizer_state(memory)
    assert_equal(other.weights(), weights, 0)
    assert_equal(other.optimizer_state(), memory, 0)
    for update in range(moment, 8):
        if update == 4:
            other.begin_stage(second(engine))
        learn(other, update)
    assert_equal(other.weights(), engine.weights(), 0)
    assert_equal(other.optimizer_state(), engine.optimizer_state(), 0)


def test_before_the_first_update_there_is_one_set_of_weights(make):
    engine = make(f"optim.average={AVERAGE}")
    weights = engine.weights()
    engine.detect(a_batch().images)
    assert engine.optimizer_state().keys() == {"updates", AVERAGED}
    other = make(f"optim.average={AVERAGE}", "seed=3")
    other.load_weights(weights)
    other.load_optimizer_state(engine.optimizer_state())
    assert_equal(raw(other), weights, 0)


def test_weights_that_are_loaded_are_both(make):
    engine, other = make(f"optim.average={AVERAGE}"), make("seed=5")
    learn(engine, 0, 1)
    engine.detect(a_batch().images)
    engine.load_weights(other.weights())
    assert_equal(engine.weights(), other.weights(), 0)
    assert_equal(raw(engine), other.weights(), 0)
    assert np.array_equal(engine.detect(a_batch().images), other.detect(a_batch().images))


@pytest.mark.parametrize(
    "kept_with, gone_on_with, words",
    [
        ("null", AVERAGE, "kept without an average"),
        (AVERAGE, "null", "another optimizer: unknown averaged"),
    ],
    ids=["it had none", "it had one"],
)
def test_a_run_cannot_begin_or_cease_to_average_on_the_way(make, kept_with, gone_on_with, words):
    engine = make(f"optim.average={kept_with}")
    learn(engine, 0)
    with pytest.raises(ValueError, match=words):
        make(f"optim.average={gone_on_with}").load_optimizer_state(engine.optimizer_state())


def test_raw_weights_of_another_network_are_refused(make):
    engine = make(f"optim.average={AVERAGE}")
    learn(engine, 0)
    state = engine.optimizer_state()
    state[f"{RAW}class_predict.0.bias"] = np.zeros(1, np.float32)
    with pytest.raises(ValueError, match=r"class_predict\.0\.bias has shape"):
        make(f"optim.average={AVERAGE}").load_optimizer_state(state)


def test_a_step_that_fails_is_taken_back_where_it_was_learnt(make):
    """Between the raw weights and their average, and where the next step is already under way."""
    engine = make(*STAGED, f"optim.average={AVERAGE}", "loss.box_weight=1e33", "model.frozen_statistics=true")
    before = engine.weights()
    step = engine.train_step(a_batch())
    engine.train_step(a_batch(1))
    engine.measure_step(a_batch(2))
    step.read()
    assert "no layer by itself" in step.fault() or "the gradient of" in step.fault()
    assert_equal(raw(engine), before, 0)


@pytest.mark.parametrize("where", ["the average", "what learns"])
def test_what_is_not_finite_is_looked_for_where_it_is(make, where):
    engine = make(f"optim.average={AVERAGE}", "model.frozen_statistics=true")
    learn(engine, 0)
    weights, state = engine.weights(), engine.optimizer_state()
    kept, name = (weights, "bbox_predict.9.bias") if where == "the average" else (state, f"{RAW}class_predict.0.bias")
    kept[name] = np.full_like(kept[name], np.nan)
    engine = make(f"optim.average={AVERAGE}", "model.frozen_statistics=true")
    engine.load_weights(weights)
    engine.load_optimizer_state(state)
    step = (engine.measure_step if where == "the average" else engine.train_step)(a_batch(1))
    step.read()
    assert f"the weights {name.removeprefix(RAW)}" in step.fault()
