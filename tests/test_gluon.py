"""Is the network the post's, and does the engine do what MXNet's operators and Gluon's losses say?"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as onp
import pytest

pytest.importorskip("mxnet", reason="the gluon extra is not installed", exc_type=ImportError)

import mxnet
from mxnet import autograd, gluon, np, npx

from ena24ssd.boxes import iou
from ena24ssd.config import EvaluationConfig, LossConfig, ModelConfig, read_config
from ena24ssd.data import Batch
from ena24ssd.engine import EngineError, load_engine
from ena24ssd.gluon.backbone import CustomConv
from ena24ssd.gluon.devices import check_gpu, open_device
from ena24ssd.gluon.losses import multibox_loss, normalisers
from ena24ssd.gluon.multibox import decode, match, mine
from ena24ssd.gluon.ssd import Ena24SSD

BLOG = "configs/blog.yaml"
SIZES, RATIOS = [0.27, 0.44, 0.52, 0.62, 0.71, 0.85], [1, 1.5, 2, 2.2]
POST_MODEL = ModelConfig(output_batchnorm=True)


def values(block) -> tuple[int, int]:
    """All values of a block's parameters, and those that are trained."""
    parameters = block.collect_params().values()
    sizes = [(p.data().size, p.grad_req != "null") for p in parameters]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)


@pytest.fixture(scope="module")
def post_net():
    net = Ena24SSD(23, POST_MODEL)
    net.initialize()
    return net, net(np.ones((1, 3, 200, 200)))


def test_custom_conv_has_the_posts_shape_and_counts():
    backbone = CustomConv()
    backbone.initialize()
    assert backbone(np.ones((1, 3, 200, 200))).shape == (1, 500, 13, 13)
    assert values(backbone) == (5_987_000, 5_982_300)


def test_ena24ssd_has_the_posts_shapes_and_counts(post_net):
    net, (anchors, logits, offsets) = post_net
    assert (anchors.shape, logits.shape, offsets.shape) == ((1, 1521, 4), (1, 1521, 24), (1, 6084))
    assert values(net) == (9_702_740, 9_696_096)


def test_the_parameters_are_those_of_the_posts_listing_in_its_order(post_net):
    shapes = [(name, p.shape) for name, p in post_net[0]._collect_params_with_prefix().items()]
    assert shapes[:2] == [("class_predict.0.weight", (216, 500, 3, 3)), ("class_predict.0.bias", (216,))]
    assert ("class_predict.1.gamma", (216,)) in shapes, "BatchNorm on the logits (batchnorm8 of the listing)"
    convolutions = [shape for name, shape in shapes if name.startswith("bbox_predict") and len(shape) == 4]
    assert convolutions == [(380, 500, 3, 3), (220, 380, 3, 3), (120, 220, 3, 3), (36, 120, 3, 3)]
    norms = [shape for name, shape in shapes if name.startswith("bbox_predict") and name.endswith("gamma")]
    assert norms == [(380,), (220,), (120,), (36,)], "BatchNorm after every convolution (batchnorm9 to 12)"
    backbone = [shape for name, shape in shapes if name.startswith("features") and len(shape) == 4]
    assert backbone == [
        *((200, 3, 3, 3), (100, 3, 5, 5), (50, 3, 7, 7), (300, 350, 1, 1)),
        *((350, 300, 3, 3), (400, 350, 3, 3), (450, 400, 3, 3), (500, 450, 3, 3)),
    ]


def test_anchors_reach_beyond_the_picture_and_sizes_are_sides(post_net):
    anchors = post_net[1][0].asnumpy()[0]
    assert anchors.min() == pytest.approx(-0.387, abs=1e-3) and anchors.max() == pytest.approx(1.387, abs=1e-3)
    first_cell = anchors[:9]
    assert first_cell[0, 2] - first_cell[0, 0] == pytest.approx(0.27, abs=1e-6)
    sides = first_cell[:6, 2] - first_cell[:6, 0]
    assert sides == pytest.approx(SIZES, abs=1e-6)
    widths, heights = first_cell[6:, 2] - first_cell[6:, 0], first_cell[6:, 3] - first_cell[6:, 1]
    assert widths / heights == pytest.approx(RATIOS[1:], rel=1e-5)


def test_a_forward_pass_costs_19_6_billion_multiply_adds(post_net):
    outputs = {"conv31": 200, "conv51": 200, "conv71": 200, "conv11": 200, "conv32": 100, "conv33": 50, "conv34": 25}
    cost = 0
    for name, parameter in post_net[0]._collect_params_with_prefix().items():
        if len(parameter.shape) == 4:  # a convolution's weights, used once for every output pixel
            cost += outputs.get(name.split(".")[1], 13) ** 2 * parameter.data().size
    assert cost == pytest.approx(19.6e9, rel=0.005)


@pytest.mark.parametrize("side, overlapping", [(0.05, 0), (0.1, 0), (0.15, 0), (0.18, 0), (0.3, 1), (0.5, 1)])
def test_an_animal_smaller_than_the_anchors_gets_one_forced_positive_and_no_more(post_net, side, overlapping):
    anchors = post_net[1][0]
    random = onp.random.default_rng(0)
    for left, top in random.uniform(0, 1 - side, (20, 2)):
        truth = np.array([[[4, left, top, left + side, top + side]]])
        best = iou([truth[0, 0, 1:].asnumpy()], anchors[0].asnumpy()).max()
        positives = int((match(anchors, truth, 0.5).anchor_classes > 0).sum())
        assert (best > 0.5) == overlapping and (positives > 1 if overlapping else positives == 1)


@pytest.mark.parametrize(
    "side, width, classes, cells", [(200, 0.1, 1, 13), (128, 0.05, 6, 8), (160, 0.3, 2, 10), (97, 0.02, 3, 7)]
)
def test_any_side_width_and_number_of_classes(side, width, classes, cells):
    net = Ena24SSD(classes, ModelConfig(width=width))
    net.initialize()
    anchors, logits, offsets = net(np.ones((2, 3, side, side)))
    count = cells * cells * 9
    assert (anchors.shape, logits.shape, offsets.shape) == ((1, count, 4), (2, count, classes + 1), (2, 4 * count))


def test_the_toy_ssd_of_the_letter_h_has_the_posts_shapes():
    feature = gluon.nn.HybridSequential()
    for _ in range(2):
        feature.add(gluon.nn.Conv2D(3, 3, padding=1, strides=2), gluon.nn.BatchNorm(), gluon.nn.Activation("relu"))
    classes, offsets = gluon.nn.Conv2D(9 * 2, 3, padding=1), gluon.nn.Conv2D(9 * 4, 3, padding=1)
    for block in (feature, classes, offsets):
        block.initialize()
    x = feature(np.ones((1, 3, 200, 200)))
    assert classes(x).shape == (1, 18, 50, 50)
    assert npx.multibox_prior(x, SIZES, RATIOS).shape == (1, 22_500, 4)
    assert classes(x).transpose(0, 2, 3, 1).reshape(1, -1, 2).shape == (1, 22_500, 2)
    assert offsets(x).reshape(1, -1).shape == (1, 90_000)


def test_the_edge_filters_extremes_are_those_of_a_white_border():
    kernel = np.array([[1, 1, 1], [0, 0, 0], [-1, -1, -1]])
    filters = gluon.nn.Conv2D(3, 3, padding=1, in_channels=3, use_bias=False)
    filters.initialize()
    filters.weight.set_data(np.stack([np.stack([kernel] * 3)] * 3))
    answer = filters(np.full((1, 3, 200, 200), 255.0))
    assert (float(answer.min()), float(answer.max())) == (-2295, 2295)


def test_hybridized_and_exported_nets_answer_exactly_as_the_eager_one(tmp_path):
    net = Ena24SSD(3, ModelConfig(width=0.1, output_batchnorm=True))
    net.initialize()
    x = np.random.uniform(size=(1, 3, 96, 96))
    eager = [part.asnumpy() for part in net(x)]
    net.hybridize(static_alloc=True, static_shape=True)
    compiled = [part.asnumpy() for part in net(x)]
    net.export(str(tmp_path / "net"))
    block = gluon.SymbolBlock.imports(str(tmp_path / "net-symbol.json"), ["data"], str(tmp_path / "net-0000.params"))
    exported = [part.asnumpy() for part in block(x)]
    for a, b, c in zip(eager, compiled, exported):
        assert onp.abs(a - b).max() == 0 and onp.abs(a - c).max() == 0


# -- matching and mining --------------------------------------------------------------------------------------------

ANCHORS = npx.multibox_prior(np.zeros((1, 1, 7, 7)), [0.2, 0.4, 0.6], [1, 2, 0.5])
TRUTH = np.array(
    [
        [[1, 0.1, 0.1, 0.4, 0.5], [0, 0.5, 0.5, 0.9, 0.9], [-1] * 5],
        [[2, 0.02, 0.02, 0.05, 0.05], [-1] * 5, [-1] * 5],
        [[-1] * 5, [-1] * 5, [-1] * 5],
    ]
)


def naive_match(anchors, truth, overlap):
    """The best anchor of each box, then every anchor over the threshold; offsets with variances .1 and .2."""
    truth = truth[truth[:, 0] >= 0]
    classes, offsets = onp.zeros(len(anchors)), onp.zeros((len(anchors), 4))
    if not len(truth):
        return classes, offsets
    overlaps = iou(anchors, truth[:, 1:])
    owner = onp.where(overlaps.max(1) > overlap, overlaps.argmax(1), -1)
    left = overlaps.copy()
    for _ in truth:
        a, b = onp.unravel_index(left.argmax(), left.shape)
        owner[a] = b
        left[a], left[:, b] = -1, -1
    for a, b in enumerate(owner):
        if b < 0:
            continue
        (left_edge, top, right, bottom), box = anchors[a], truth[b, 1:]
        w, h = right - left_edge, bottom - top
        centre = [(box[0] + box[2] - left_edge - right) / 2 / w / 0.1, (box[1] + box[3] - top - bottom) / 2 / h / 0.1]
        size = [onp.log((box[2] - box[0]) / w) / 0.2, onp.log((box[3] - box[1]) / h) / 0.2]
        classes[a], offsets[a] = truth[b, 0] + 1, centre + size
    return classes, offsets


def test_matching_equals_a_naive_matcher():
    targets = match(ANCHORS, TRUTH, 0.5)
    for row in range(3):
        classes, offsets = naive_match(ANCHORS.asnumpy()[0], TRUTH.asnumpy()[row], 0.5)
        assert onp.array_equal(targets.anchor_classes[row].asnumpy(), classes)
        assert targets.box_offsets[row].asnumpy().reshape(-1, 4) == pytest.approx(offsets, abs=1e-4)
        assert onp.array_equal(targets.box_mask[row].asnumpy().reshape(-1, 4)[:, 0], classes > 0)


def test_a_blank_picture_is_background_not_ignored():
    unread = np.zeros((3, 2, ANCHORS.shape[1]))
    assert (npx.multibox_target(ANCHORS, TRUTH, unread)[2][2] == -1).all(), "what the operator does by itself"
    assert (match(ANCHORS, TRUTH, 0.5).anchor_classes[2] == 0).all()


def test_mining_equals_the_operators_own_where_the_operator_mines():
    logits = np.array(onp.random.default_rng(0).normal(size=(3, ANCHORS.shape[1], 4)), dtype="float32")
    mined = npx.multibox_target(
        ANCHORS, TRUTH, logits.transpose(0, 2, 1), negative_mining_ratio=3, negative_mining_thresh=0.5
    )[2].asnumpy()
    classes = match(ANCHORS, TRUTH, 0.5).anchor_classes
    kept = mine(logits, classes, 3, 0).asnumpy()
    for row in range(2):
        assert onp.array_equal(kept[row] > 0, mined[row] == 0)
        assert kept[row].sum() == 3 * (mined[row] > 0).sum()
    assert kept[2].sum() == 0
    hardest = mine(logits, classes, 3, 5).asnumpy()[2] > 0
    background = npx.log_softmax(logits, axis=-1)[2, :, 0].asnumpy()
    assert hardest.sum() == 5 and background[hardest].max() <= background[~hardest].min()


def test_decoding_matched_offsets_gives_the_boxes_back():
    targets = match(ANCHORS, TRUTH, 0.5)
    logits = npx.one_hot(targets.anchor_classes, 4) * 20
    rows = decode(ANCHORS, logits, targets.box_offsets, EvaluationConfig(candidates=100)).asnumpy()
    for row in range(2):
        found = rows[row][rows[row][:, 0] >= 0]
        truth = TRUTH[row].asnumpy()
        truth = truth[truth[:, 0] >= 0]
        assert sorted(found[:, 0]) == sorted(truth[:, 0])
        for label, *corners in truth:
            assert found[found[:, 0] == label][0, 2:] == pytest.approx(corners, abs=1e-4)
            assert found[found[:, 0] == label][0, 1] > 0.99
    assert (rows[2][:, 0] == -1).all()


# -- loss -----------------------------------------------------------------------------------------------------------


SPECIES = ["Bird", "Coyote", "Dog"]


def numpy_loss(logits, offsets, targets, config: LossConfig, species_weights=(1, 1, 1)) -> float:
    """The loss from its definition, anchor by anchor, in float64."""
    classes = targets.anchor_classes.asnumpy().astype(int)
    logits, offsets = logits.astype("float64"), offsets.astype("float64")
    entropy = onp.log(onp.exp(logits).sum(-1)) - onp.take_along_axis(logits, classes[..., None], -1)[..., 0]
    weights = onp.zeros(classes.shape)
    for row, own in enumerate(classes):
        weights[row][own > 0] = config.foreground_weight
        negatives = [a for a in range(len(own)) if own[a] == 0]
        if config.negatives_per_positive is not None:
            background = logits[row, :, 0] - onp.log(onp.exp(logits[row]).sum(-1))
            negatives.sort(key=lambda a: background[a])
            negatives = negatives[: int(max(config.minimum_negatives, config.negatives_per_positive * (own > 0).sum()))]
        weights[row][negatives] = config.background_weight
    weights *= onp.array([1, *species_weights])[classes]
    error = onp.abs(offsets - targets.box_offsets.asnumpy()) * targets.box_mask.asnumpy()
    if config.box_error == "smooth_l1":
        beta = config.smooth_l1_beta
        error = onp.where(error < beta, error**2 / (2 * beta), error - beta / 2)
    if config.normalise_by == "anchors":
        return float((weights * entropy).mean() + config.box_weight * error.mean())
    return float(((weights * entropy).sum() + config.box_weight * error.sum()) / max((classes > 0).sum(), 1))


LOSSES = {
    "the post's": read_config(BLOG).loss,
    "the default": LossConfig(),
    "the default without mining": LossConfig(negatives_per_positive=None),
    "mined, averaged over anchors": LossConfig(normalise_by="anchors", foreground_weight=3, box_weight=0.5),
    "plain L1": LossConfig(box_error="l1", background_weight=0.2),
}


def random_answers(seed=0):
    random = onp.random.default_rng(seed)
    count = ANCHORS.shape[1]
    return random.normal(size=(3, count, 4)).astype("float32"), random.normal(size=(3, 4 * count)).astype("float32")


@pytest.mark.parametrize("species_weights", [(1, 1, 1), (0.5, 2, 3)], ids=["species weigh the same", "species weigh"])
@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_and_its_gradient_equal_an_independent_numpy_reference(name, species_weights):
    config, targets = LOSSES[name], match(ANCHORS, TRUTH, 0.5)
    weigh = np.array(species_weights, dtype="float32") if species_weights != (1, 1, 1) else None

    def numpy_loss(*answers):
        return globals()["numpy_loss"](*answers[:2], targets, config, species_weights)

    answers = random_answers()
    arrays = [np.array(answer) for answer in answers]
    for array in arrays:
        array.attach_grad()
    with autograd.record():
        loss = sum(multibox_loss(*arrays, targets, normalisers(targets, config), config, weigh))
    loss.backward()
    assert float(loss) == pytest.approx(numpy_loss(*answers), rel=1e-5)

    positives = onp.flatnonzero(targets.anchor_classes.asnumpy() > 0)
    random = onp.random.default_rng(1)
    for which, array in enumerate(arrays):
        gradient = array.grad.asnumpy().ravel()
        per_anchor = array.size // (3 * ANCHORS.shape[1])
        chosen = [*(positives[:4] * per_anchor), *random.integers(0, array.size, 6)]
        for place in chosen:
            moved = [answer.astype("float64") for answer in answers]
            step = 1e-5
            moved[which].ravel()[place] += step
            above = numpy_loss(*moved)
            moved[which].ravel()[place] -= 2 * step
            slope = (above - numpy_loss(*moved)) / (2 * step)
            assert gradient[place] == pytest.approx(slope, rel=1e-3, abs=1e-6)


def test_the_posts_loss_is_gluons_two_losses_weighted():
    config, targets = LOSSES["the post's"], match(ANCHORS, TRUTH, 0.5)
    logits, offsets = (np.array(answer) for answer in random_answers(1))
    weights = (targets.anchor_classes > 0) * 900.0 + (targets.anchor_classes == 0) * 1.0
    mask = targets.box_mask
    class_loss = gluon.loss.SoftmaxCrossEntropyLoss()(logits, targets.anchor_classes, np.expand_dims(weights, -1))
    box_loss = gluon.loss.L1Loss()(offsets * mask, targets.box_offsets * mask, np.full(mask.shape, 2.0))
    ours = multibox_loss(logits, offsets, targets, normalisers(targets, config), config)
    assert float(ours[0]) == pytest.approx(float(class_loss.mean()), rel=1e-5)
    assert float(ours[1]) == pytest.approx(float(box_loss.mean()), rel=1e-5)


def test_the_posts_own_weighting_explodes_on_a_blank_picture_and_ours_does_not():
    blank = TRUTH[2:]
    logits, offsets = (np.array(answer[2:]) for answer in random_answers())
    untreated = npx.multibox_target(ANCHORS, blank, np.zeros((1, 2, ANCHORS.shape[1])))[2]
    weights = ((untreated != 0) * 900.0) + 1  # the post's, with its `!= 0`
    post = gluon.loss.SoftmaxCrossEntropyLoss()(logits, untreated, np.expand_dims(weights, -1)).mean()
    targets, config = match(ANCHORS, blank, 0.5), LOSSES["the post's"]
    ours = sum(multibox_loss(logits, offsets, targets, normalisers(targets, config), config))
    assert float(post) == pytest.approx(901 * float(ours), rel=1e-4)


# -- engine ---------------------------------------------------------------------------------------------------------


def small_engine(*overrides):
    return load_engine(read_config(None, ["device=cpu", "data.image_side=64", "model.width=0.05", *overrides]), SPECIES)


def a_batch(seed=0, pictures=4, side=64, blank=False):
    random = onp.random.default_rng(seed)
    truth = onp.full((pictures, 2, 5), -1, dtype=onp.float32)
    if not blank and pictures:
        truth[:, 0] = [1, 0.2, 0.3, 0.6, 0.8]
        truth[0, 1] = [2, 0.5, 0.1, 0.9, 0.5]
    images = random.integers(0, 255, (pictures, side, side, 3), dtype=onp.uint8)
    return Batch(images, truth, tuple(str(i) for i in range(pictures)))


def test_a_steps_sums_equal_counting_the_nets_answers():
    engine, batch = small_engine(), a_batch()
    sums = engine.measure_step(batch).read()
    pixels = (batch.images / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    anchors, logits, offsets = engine.net(np.array(pixels.transpose(0, 3, 1, 2), dtype="float32"))
    targets = match(anchors, np.array(batch.truth), 0.5)
    true, answer = targets.anchor_classes.asnumpy(), logits.asnumpy().argmax(-1)
    assert (sums.pictures, sums.anchors, sums.coordinates) == (4, true.size, 4 * true.size)
    assert sums.correct == (answer == true).sum()
    assert (sums.background, sums.positives) == ((true == 0).sum(), (true > 0).sum())
    assert sums.correct_positives == ((answer == true) & (true > 0)).sum()
    for label in range(3):
        guessed, actual = answer == label + 1, true == label + 1
        assert sums.true_positives[label] == (guessed & actual).sum()
        assert sums.false_positives[label] == (guessed & ~actual).sum()
        assert sums.false_negatives[label] == (actual & ~guessed).sum()
    error = onp.abs(offsets.asnumpy() - targets.box_offsets.asnumpy()) * targets.box_mask.asnumpy()
    assert sums.absolute_error == pytest.approx(error.sum(), rel=1e-4)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_training_on_one_batch_learns_it(optimizer):
    engine = small_engine(f"optim.name={optimizer}", "optim.lr=0.01")
    first, *_, last = [engine.train_step(a_batch()).read().loss for _ in range(25)]
    assert last < 0.5 * first


def test_measuring_changes_nothing():
    engine = small_engine()
    before = engine.weights()
    figures = [engine.measure_step(a_batch()).read().metrics() for _ in range(2)]
    assert figures[0] == figures[1]
    assert all(onp.array_equal(before[name], after) for name, after in engine.weights().items())


@pytest.mark.parametrize("preset", [None, BLOG])
def test_a_batch_of_blanks_trains_with_a_finite_small_loss(preset):
    small = ["device=cpu", "data.image_side=64", "model.width=0.05"]
    engine = load_engine(read_config(preset, small), SPECIES)
    losses = [engine.train_step(a_batch(blank=True)).read().loss for _ in range(8)]
    assert all(onp.isfinite(losses))
    # mean cross-entropy of an untrained net is about log(4); mining looks at 8 of the hardest a picture, 4 pictures
    assert losses[0] < (8 * 4 * 4 if preset is None else 4)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("preset", [None, BLOG])
def test_some_blanks_in_a_batch_do_not_explode_the_loss(preset):
    small = ["device=cpu", "data.image_side=64", "model.width=0.05"]
    mixed = a_batch()
    mixed.truth[2:] = -1
    losses = []
    for batch in (a_batch(), mixed):
        losses.append(load_engine(read_config(preset, small), SPECIES).train_step(batch).read().loss)
    assert losses[1] < 2.5 * losses[0]


def test_weights_leave_and_come_back_under_structural_names():
    engine, other = small_engine(), small_engine("seed=5")
    weights = engine.weights()
    assert {"features.conv31.weight", "class_predict.0.bias", "bbox_predict.1.running_var"} <= weights.keys()
    assert weights.keys() == other.weights().keys(), "names do not depend on how many nets were made before"
    assert engine.measure_step(a_batch()).read().loss != other.measure_step(a_batch()).read().loss
    other.load_weights(weights)
    assert engine.measure_step(a_batch()).read().loss == other.measure_step(a_batch()).read().loss


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda w: w.pop("features.conv31.weight"), "missing features.conv31.weight"),
        (lambda w: w.update(extra=onp.zeros(1)), "unknown extra"),
        (lambda w: w.update({"features.conv31.bias": onp.zeros(99)}), "shape"),
    ],
    ids=["an array too few", "an array too many", "an array of another shape"],
)
def test_weights_of_another_network_are_refused(change, words):
    engine = small_engine()
    weights = engine.weights()
    change(weights)
    with pytest.raises(ValueError, match=words):
        engine.load_weights(weights)


def test_detections_are_rows_of_unit_corners_best_first():
    rows = small_engine().detect(a_batch().images)
    assert rows.ndim == 3 and rows.shape[0] == 4 and rows.shape[2] == 6
    for picture in rows:
        real = picture[picture[:, 0] >= 0]
        assert (onp.diff(real[:, 1]) <= 0).all()
        assert real[:, 2:].min(initial=0) >= 0 and real[:, 2:].max(initial=0) <= 1


def test_a_measured_step_detects_what_detect_detects():
    engine, batch = small_engine(), a_batch()
    assert onp.array_equal(engine.measure_step(batch).rows(), engine.detect(batch.images))


def test_the_same_seed_gives_the_same_training():
    def losses():
        engine = small_engine("seed=3")
        return [engine.train_step(a_batch(i)).read().loss for i in range(4)]

    assert losses() == losses()


# -- updates: shortened, in portions, on several devices, interrupted -------------------------------------------------


def gradients_of(engine, batch):
    engine.train_step(batch).read()
    return engine.gradients()


@pytest.mark.parametrize("loss", ["positives", "anchors"])
@pytest.mark.parametrize(
    "spread",
    [["device=[cpu:0, cpu:1]"], ["train.accumulate=3"], ["device=[cpu:0, cpu:1]", "train.accumulate=2"]],
    ids=["two devices", "three portions", "two devices, two portions each"],
)
@pytest.mark.parametrize("pictures", [5, 1], ids=["more pictures than parts", "fewer pictures than parts"])
def test_a_batch_in_parts_gives_the_gradient_and_the_figures_of_the_whole(spread, pictures, loss):
    choices = ("model.frozen_statistics=true", f"loss.normalise_by={loss}", "optim.clip_norm=null")
    whole, parts = small_engine(*choices), small_engine(*choices, *spread)
    assert parts.device == ("cpu(0), cpu(1)" if "device" in spread[0] else "cpu(0)")
    for number in range(3):  # the weights stay together, too
        batch = a_batch(number, pictures)
        steps = whole.train_step(batch), parts.train_step(batch)
        figures = [step.read().metrics() for step in steps]
        assert figures[0] == pytest.approx(figures[1], rel=1e-4, abs=1e-6)
    ours, theirs = whole.gradients(), parts.gradients()
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        assert theirs[name] == pytest.approx(gradient, rel=1e-3, abs=1e-5 * max(1, abs(gradient).max())), name


def test_a_device_can_be_named_only_once():
    with pytest.raises(EngineError, match="named twice"):
        small_engine("device=[cpu, cpu:0]")


@pytest.mark.parametrize("longest, shortened", [(None, False), (1e6, False), (0.1, True)])
def test_a_gradient_over_clip_norm_is_shortened_and_keeps_its_direction(longest, shortened):
    free = gradients_of(small_engine("optim.clip_norm=null"), a_batch())
    ours = gradients_of(small_engine(f"optim.clip_norm={longest or 'null'}"), a_batch())
    length = onp.sqrt(sum((gradient**2).sum() for gradient in free.values()))
    assert length > 0.2
    for name, gradient in free.items():
        assert ours[name] == pytest.approx(gradient * (0.1 / length if shortened else 1), rel=1e-4, abs=1e-7)


def test_weights_of_species_given_by_name_reach_the_loss():
    light, heavy = (small_engine(f"loss.species_weights={{Coyote: {weight}}}") for weight in (1, 4))
    assert heavy.measure_step(a_batch()).read().class_loss > 1.5 * light.measure_step(a_batch()).read().class_loss


@pytest.mark.parametrize(
    "choices",
    [["optim.name=adam"], ["optim.name=sgd"], ["optim.name=sgd", "optim.momentum=0"]],
    ids=["adam", "sgd with momentum", "sgd without"],
)
@pytest.mark.parametrize("device", ["cpu", "[cpu:0, cpu:1]"])
@pytest.mark.parametrize("before", [0, 3], ids=["before the first step", "after three steps"])
def test_an_optimizer_that_is_taken_up_again_goes_on_bit_for_bit(choices, device, before):
    engine, other = (small_engine(*choices, f"device={device}", f"seed={seed}") for seed in (0, 1))
    for number in range(before):
        engine.train_step(a_batch(number)).read()
    other.load_weights(engine.weights())
    other.load_optimizer_state(engine.optimizer_state())
    for number in range(3, 6):
        for each in (engine, other):
            each.learning_rate = 0.01
            each.train_step(a_batch(number)).read()
    ours, theirs = engine.weights(), other.weights()
    assert all(onp.array_equal(ours[name], theirs[name]) for name in ours)
    ours, theirs = engine.optimizer_state(), other.optimizer_state()
    assert ours.keys() == theirs.keys() and all(onp.array_equal(ours[name], theirs[name]) for name in ours)


def test_the_memory_of_another_optimizer_is_refused():
    adam, sgd = small_engine("optim.name=adam"), small_engine("optim.name=sgd")
    adam.train_step(a_batch()).read()
    sgd.train_step(a_batch()).read()
    with pytest.raises(ValueError, match="another optimizer"):
        small_engine("optim.name=sgd").load_optimizer_state(adam.optimizer_state())
    with pytest.raises(ValueError, match="for this optimizer"):
        small_engine("optim.name=adam").load_optimizer_state(sgd.optimizer_state())


def test_a_worker_without_a_picture_takes_a_step_that_changes_nothing():
    engine = small_engine("optim.name=sgd", "optim.weight_decay=0")
    before = engine.weights()
    sums = engine.train_step(a_batch(pictures=0)).read()
    assert sums.pictures == 0 and sums.metrics()["log_loss"] == 0
    assert all(onp.array_equal(before[name], after) for name, after in engine.weights().items())


# -- what is no number ------------------------------------------------------------------------------------------------


def with_weight(name, value, **others):
    def spoil(engine):
        weights = engine.weights()
        for each, filling in {name: value, **others}.items():
            weights[each] = onp.full_like(weights[each], filling)
        engine.load_weights(weights)

    return spoil


@pytest.mark.parametrize(
    "spoil, words",
    [
        (with_weight("bbox_predict.9.weight", onp.nan), "the loss became nan; .*the weights bbox_predict.9.weight"),
        (with_weight("features.conv31.weight", 3e38), "the output of features.conv31"),
        (with_weight("features.bn1.gamma", 3e38), "the output of features.bn1"),
        (with_weight("bbox_predict.9.bias", 3e38), "the box loss"),
    ],
    ids=["a weight that is no number", "a convolution overflows", "a normalisation overflows", "the loss overflows"],
)
def test_what_is_not_finite_names_where_it_began(spoil, words):
    engine = small_engine("model.frozen_statistics=true")
    taken = engine.train_step(a_batch())
    taken.read()
    assert taken.fault() is None
    spoil(engine)
    taken = engine.train_step(a_batch(1))
    engine.train_step(a_batch(2))  # the next step is already under way, and has moved the weights
    taken.read()
    assert re.search(words, taken.fault())


def test_a_measured_loss_that_is_not_finite_names_where_it_began():
    engine = small_engine()
    with_weight("bbox_predict.9.weight", onp.nan)(engine)
    taken = engine.measure_step(a_batch())
    taken.read()
    assert "the loss became nan; first not finite was the weights bbox_predict.9.weight" in taken.fault()


@pytest.mark.parametrize(
    "choice, spoil, words",
    [
        ("loss.box_weight=1", with_weight("features.conv34.weight", onp.nan), "the weights features.conv34.weight"),
        (
            "loss.box_weight=1e33",
            with_weight("bbox_predict.7.gamma", 0, **{"bbox_predict.7.beta": 1e-30, "bbox_predict.9.weight": 3e8}),
            "first not finite was the gradient of bbox_predict.7",
        ),
        ("loss.box_weight=1e33", lambda engine: None, "no layer by itself, but the sum"),
    ],
    ids=["ReLU makes 0 of what is no number", "a layer's gradient overflows", "the gradient's length overflows"],
)
def test_a_gradient_that_is_not_finite_is_noticed_where_the_loss_is_finite(choice, spoil, words):
    engine = small_engine("model.frozen_statistics=true", choice)
    spoil(engine)
    step = engine.train_step(a_batch())
    assert onp.isfinite(step.read().loss)
    assert re.search(f"norm became (inf|nan).*{words}", step.fault())


def test_the_blogs_choices_take_a_full_width_step():
    engine = load_engine(read_config(BLOG, ["device=cpu"]), [f"species {label}" for label in range(23)])
    assert engine.learning_rate == 0.01
    batch = a_batch(pictures=8, side=200)
    before = engine.weights()
    sums = engine.train_step(batch).read()
    assert onp.isfinite(sums.loss) and (sums.pictures, sums.anchors) == (8, 8 * 1521)
    moved = [name for name, array in engine.weights().items() if not onp.array_equal(array, before[name])]
    assert any(name.startswith("features.conv31") for name in moved)
    assert sum(array.size for array in before.values()) == 9_702_740


@pytest.mark.skipif(mxnet.runtime.Features().is_enabled("CUDA"), reason="this MXNet can use a GPU")
@pytest.mark.parametrize("device", ["gpu", "gpu:1"])
def test_a_gpu_that_cannot_be_used_says_what_to_install(device):
    assert "CPU build" in check_gpu(0)
    with pytest.raises(EngineError, match=r"gluon-cu112.*device=cpu"):
        open_device(device)
    assert open_device("auto") == mxnet.cpu()


def test_an_engine_may_be_made_in_another_thread():
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: small_engine().detect(a_batch().images).shape[0]).result() == 4
