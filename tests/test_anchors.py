"""Are the anchors MXNet's, is the best of them found for every box, and are suggested ones better?"""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ena24ssd import anchors as module
from ena24ssd.anchors import (
    COARSE,
    OWN_RATIOS,
    RATIOS,
    REACH,
    SIZES,
    SMALLEST,
    Anchors,
    as_choices,
    best_iou,
    cluster_shapes,
    count_cells,
    ideal_iou,
    lay_out,
    level_iou,
    suggest,
)
from ena24ssd.boxes import Box, iou
from ena24ssd.cameratraps import read
from ena24ssd.config import ModelConfig, RunConfig, change_config, read_config
from ena24ssd.prior import LevelAnchors

POST = Anchors(13, (0.27, 0.44, 0.52, 0.62, 0.71, 0.85), (1.0, 1.5, 2.0, 2.2))
FAMILIES = [
    ("the post's", POST),
    ("one shape a cell", Anchors(3, (0.5,), (1.0,))),
    ("a first ratio that is not 1", Anchors(4, (0.2, 0.9), (0.5, 3.0))),
    ("one cell only", Anchors(1, (0.4, 1.2), (1.0, 0.25, 4.0))),
    ("ratios only", Anchors(7, (0.3,), (2.0, 1.0, 0.5))),
]
PYRAMID = tuple(
    Anchors(256 // stride, (4 * stride / 256, 4 * stride * 2**0.5 / 256), (1.0, 0.5, 2.0)) for stride in (8, 16, 32, 64)
)
of_families = pytest.mark.parametrize("anchors", [pytest.param(row[1], id=row[0]) for row in FAMILIES])


def naive_corners(anchors: Anchors) -> list[list[float]]:
    """Every anchor by itself, as the documentation of multibox_prior describes it."""
    shapes = [(size, anchors.ratios[0]) for size in anchors.sizes]
    shapes += [(anchors.sizes[0], ratio) for ratio in anchors.ratios[1:]]
    corners = []
    for row in range(anchors.cells):
        for column in range(anchors.cells):
            x, y = (column + 0.5) / anchors.cells, (row + 0.5) / anchors.cells
            for size, ratio in shapes:
                width, height = size * ratio**0.5, size / ratio**0.5
                corners.append([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
    return corners


def every_corner(levels: tuple[Anchors, ...]) -> np.ndarray:
    """All anchors of all levels, one after another."""
    return np.array([corners for level in levels for corners in naive_corners(level)])


def covered(boxes: np.ndarray, *levels: Anchors) -> tuple[int, float]:
    """How many boxes match, and the mean IoU, by comparing every box with every anchor."""
    best = iou(boxes, every_corner(levels)).max(axis=1)
    return int((best > 0.5).sum()), float(best.mean())


def around(shapes: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return np.concatenate([centres - shapes / 2, centres + shapes / 2], axis=1)


def draw_boxes(count: int, seed: int = 0) -> np.ndarray:
    """Boxes of all sizes and shapes in the square."""
    random = np.random.default_rng(seed)
    shapes = np.exp(random.uniform(np.log(0.03), np.log(0.9), (count, 2)))
    return around(shapes, shapes / 2 + random.random((count, 2)) * (1 - shapes))


@st.composite
def some_boxes(draw: st.DrawFn) -> np.ndarray:
    """Boxes with edges on hundredths, in the square and over its edges, some without area, some inside out."""
    edge = st.integers(-30, 130).map(lambda hundredths: hundredths / 100)
    return np.array(draw(st.lists(st.tuples(edge, edge, edge, edge), min_size=1, max_size=12)))


some_anchors = st.builds(
    Anchors,
    st.integers(1, 9),
    st.lists(st.integers(2, 130).map(lambda size: size / 100), min_size=1, max_size=4).map(tuple),
    st.lists(st.integers(2, 50).map(lambda ratio: ratio / 10), min_size=1, max_size=4).map(tuple),
)


@st.composite
def some_levels(draw: st.DrawFn) -> tuple[Anchors, ...]:
    """One to four grids, each half as fine as the one before, as many sizes and ratios on each."""
    count, sizes, ratios = (draw(st.integers(1, most)) for most in (4, 3, 3))
    finest = draw(st.integers(1, 3)) * 2 ** (count - 1)
    percents = st.lists(st.integers(2, 130).map(lambda size: size / 100), min_size=sizes, max_size=sizes).map(tuple)
    tenths = st.lists(st.integers(2, 50).map(lambda ratio: ratio / 10), min_size=ratios, max_size=ratios).map(tuple)
    shared = draw(st.none() | tenths)
    return tuple(Anchors(finest // 2**k, draw(percents), shared or draw(tenths)) for k in range(count))


@pytest.mark.parametrize("side", [32, 33, 100, 199, 200, 208, 209, 2048])
def test_cells_are_what_four_strided_convolutions_leave(side):
    left = side
    for _ in range(4):
        left = (left + 2 * 1 - 3) // 2 + 1  # kernel 3, padding 1, stride 2
    assert count_cells(side) == left


def test_the_posts_network_has_1521_anchors_that_leave_the_picture():
    corners = POST._replace(cells=count_cells(200)).corners
    assert corners.shape == (1521, 4)
    assert POST.per_cell == len(POST.shapes) == 9
    assert (round(corners.min(), 3), round(corners.max(), 3)) == (-0.387, 1.387)


@of_families
def test_corners_are_those_of_every_anchor_by_itself(anchors):
    np.testing.assert_allclose(anchors.corners, naive_corners(anchors), atol=1e-12)


@of_families
def test_corners_are_those_of_multibox_prior(anchors):
    pytest.importorskip("mxnet", reason="the gluon extra is not installed", exc_type=ImportError)
    from mxnet import np as mxnp
    from mxnet import npx

    feature = mxnp.zeros((1, 1, anchors.cells, anchors.cells))
    expected = npx.multibox_prior(feature, list(anchors.sizes), list(anchors.ratios)).asnumpy()[0]
    np.testing.assert_allclose(anchors.corners, expected, atol=1e-6)


@pytest.mark.parametrize("side", [40, 200], ids=["a side that 16 does not divide, small", "the post's side"])
def test_corners_are_those_the_network_returns(side):
    pytest.importorskip("mxnet", reason="the gluon extra is not installed", exc_type=ImportError)
    from mxnet import np as mxnp

    from ena24ssd.gluon.ssd import Ena24SSD

    config = ModelConfig(width=0.01, sizes=(0.3, 0.12), ratios=(0.74, 2.0))
    network = Ena24SSD(2, config)
    network.initialize()
    expected = network(mxnp.zeros((1, 3, side, side)))[0].asnumpy()[0]
    anchors = Anchors(count_cells(side), config.sizes, config.ratios)
    np.testing.assert_allclose(anchors.corners, expected, atol=1e-6)


CENTRE = 6.5 / 13  # of the post's middle cell
BEST = [
    ("an anchor itself", [CENTRE - 0.22, CENTRE - 0.22, CENTRE + 0.22, CENTRE + 0.22], 1.0),
    ("a square of side 0.18, as close as can be", [CENTRE - 0.09, CENTRE - 0.09, CENTRE + 0.09, CENTRE + 0.09], 4 / 9),
    ("a box without area", [0.3, 0.3, 0.3, 0.6], 0.0),
    ("a box turned inside out", [0.6, 0.6, 0.3, 0.3], 0.0),
    ("a box far off", [3.0, 3.0, 4.0, 4.0], 0.0),
    ("the whole picture", [0.0, 0.0, 1.0, 1.0], 0.85**2),
]


@pytest.mark.parametrize(("box", "expected"), [pytest.param(*row[1:], id=row[0]) for row in BEST])
def test_best_iou_of_one(box, expected):
    assert best_iou(np.array([box]), (POST,)) == pytest.approx([expected])


@settings(max_examples=150, deadline=None)
@given(some_boxes(), some_anchors)
def test_best_iou_is_the_best_of_all_the_grids_anchors(boxes, anchors):
    found = best_iou(boxes, (anchors,))
    np.testing.assert_allclose(found, iou(boxes, anchors.corners).max(axis=1), atol=1e-12)
    assert ((found >= 0) & (found <= 1)).all()


@settings(max_examples=80, deadline=None)
@given(some_boxes(), some_levels())
def test_over_several_grids_it_is_the_best_of_all_their_anchors(boxes, levels):
    np.testing.assert_allclose(best_iou(boxes, levels), iou(boxes, every_corner(levels)).max(axis=1), atol=1e-12)
    each = np.stack([iou(boxes, np.array(naive_corners(level))).max(axis=1) for level in levels], axis=1)
    np.testing.assert_allclose(level_iou(boxes, levels), each, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(some_boxes(), some_levels())
def test_a_further_level_takes_nothing_away(boxes, levels):
    for measure in (best_iou, ideal_iou):
        assert (measure(boxes, levels) >= measure(boxes, levels[:1])).all()
        assert np.array_equal(measure(boxes, levels), measure(boxes, levels[::-1]))


@pytest.mark.parametrize("measure", [lambda boxes: best_iou(boxes, PYRAMID), lambda boxes: ideal_iou(boxes, PYRAMID)])
def test_every_block_counts_and_the_last_may_be_short(measure, monkeypatch):
    boxes = draw_boxes(10)
    whole = measure(boxes)
    monkeypatch.setattr(module, "BLOCK", 4)
    assert np.array_equal(measure(boxes), whole)
    assert np.array_equal(measure(boxes.astype(np.float32).astype(np.float64)), measure(boxes.astype(np.float32)))
    assert measure(np.zeros((0, 4))).shape == (0,)


def test_memory_does_not_grow_with_the_boxes():
    boxes = draw_boxes(5 * module.BLOCK)
    tracemalloc.start()
    best = best_iou(boxes, (POST,))
    peak = tracemalloc.get_traced_memory()[1] - best.nbytes
    tracemalloc.stop()
    assert peak < 8 * module.BLOCK * POST.per_cell * 8, "a few tables of one block's boxes and a cell's anchors"


@settings(max_examples=80, deadline=None)
@given(some_boxes(), some_levels())
def test_no_anchors_exceed_the_ideal(boxes, levels):
    ideal = ideal_iou(boxes, levels)
    assert (ideal >= best_iou(boxes, levels) - 1e-12).all()
    assert (ideal <= 1).all()


def test_the_ideal_is_what_trying_every_shape_finds():
    boxes = draw_boxes(40)
    steps = np.arange(1, 251) / 200
    width, height = (side.ravel() for side in np.meshgrid(steps, steps))
    tried = np.zeros(len(boxes))
    for number, (left, top, right, bottom) in enumerate(boxes):
        x, y = ((np.floor(np.array([left + right, top + bottom]) / 2 * 5) + 0.5) / 5).tolist()
        common = np.minimum(x + width / 2, right) - np.maximum(x - width / 2, left)
        common = common.clip(0) * (np.minimum(y + height / 2, bottom) - np.maximum(y - height / 2, top)).clip(0)
        tried[number] = (common / ((right - left) * (bottom - top) + width * height - common)).max()
    ideal = ideal_iou(boxes, (POST._replace(cells=5),))
    assert (ideal >= tried - 1e-12).all()
    np.testing.assert_allclose(ideal, tried, atol=0.06)  # as far as half a step of the smallest shapes goes


def test_clusters_are_the_groups_that_were_put_in():
    random = np.random.default_rng(1)
    groups = np.array([[0.05, 0.1], [0.3, 0.12], [0.6, 0.7]])
    shapes = np.repeat(groups, 50, axis=0) * random.uniform(0.95, 1.05, (150, 2))
    np.testing.assert_allclose(cluster_shapes(shapes, 3), groups, rtol=0.03)
    assert np.array_equal(cluster_shapes(shapes, 3, seed=4), cluster_shapes(shapes, 3, seed=4))


def test_more_clusters_than_shapes_repeat_some():
    found = cluster_shapes(np.array([[0.2, 0.2], [0.5, 0.5]]), 5)
    assert found.shape == (5, 2)
    assert {tuple(shape) for shape in found.tolist()} == {(0.2, 0.2), (0.5, 0.5)}


@settings(max_examples=25, deadline=None)
@given(some_boxes(), st.one_of(st.tuples(some_anchors), some_levels()), st.sampled_from([0.3, 0.5, 0.7]))
def test_a_suggestion_is_never_worse_nor_larger_and_reads_well(boxes, levels, overlap):
    found = suggest(boxes, levels, overlap=overlap).levels
    strides = (8, 16, 32, 64)[max(0, 3 - len(levels)) :][: len(levels)]  # with 32 among them
    many = {} if len(levels) == 1 else {"backbone": "efficientnet_lite0", "levels": strides}
    config = ModelConfig(**many, **as_choices(found))
    assert [(level.sizes, level.ratios) for level in config.anchors] == [level[1:] for level in found]
    if found != levels:
        before, after = best_iou(boxes, levels), best_iou(boxes, found)
        assert ((after > overlap).sum(), after.mean()) > ((before > overlap).sum(), before.mean())
        assert [level.cells for level in found] == [level.cells for level in levels]
        assert all(level.per_cell <= levels[0].per_cell for level in found)
        for level in found:
            for figures in level[1:]:
                assert list(figures) == [float(f"{figure:.2g}") for figure in figures]
                assert len(set(figures)) == len(figures) and list(figures[1:]) == sorted(figures[1:])


PLANTED = [
    ("one shape", (0.2,), (1.0,)),
    ("sizes", (0.25, 0.08, 0.6), (1.0,)),
    ("sizes of a wide animal", (0.12, 0.3, 0.7), (2.0,)),
    ("ratios", (0.25,), (1.0, 0.3, 3.3)),
    ("both", (0.3, 0.1), (1.0, 0.3, 3.3)),
]


@pytest.mark.parametrize(("sizes", "ratios"), [pytest.param(*row[1:], id=row[0]) for row in PLANTED])
def test_a_suggestion_matches_every_box_that_such_anchors_can(sizes, ratios):
    planted = Anchors(10, sizes, ratios)
    boxes = planted.corners + np.random.default_rng(0).uniform(-0.004, 0.004, (len(planted.corners), 4))
    unlike = Anchors(10, (0.9,) * len(sizes), (1.0,) * len(ratios))  # as many, to be replaced
    (found,) = suggest(boxes, (unlike,)).levels
    matched, mean = covered(boxes, found)
    assert matched == len(boxes)
    assert mean > 0.85
    assert len(found.sizes) + len(found.ratios) == len(sizes) + len(ratios)


def test_of_many_boxes_some_are_searched_with_and_all_are_measured(monkeypatch):
    small, large = [CENTRE - 0.05, CENTRE - 0.05, CENTRE + 0.05, CENTRE + 0.05], [0.1, 0.1, 0.9, 0.9]
    boxes = np.array([small, *[large] * 9, small])
    configured = Anchors(13, (0.8,), (1.0,))
    assert suggest(boxes, (configured,)).searched == 11
    monkeypatch.setattr(module, "SEARCHED", 2)  # the first and the last, to which the rest is unlike
    assert suggest(boxes, (configured,)) == ((configured,), 2), "what is configured matches more of all"


def test_a_suggestion_minds_where_the_boxes_lie():
    between = np.full((6, 2), 6 / 13) + np.arange(6)[:, None] / 13  # on the corners of four cells
    boxes = around(np.full((6, 2), 0.1), between)
    (found,) = suggest(boxes, (Anchors(13, (0.1,), (1.0,)),)).levels
    assert found.sizes[0] > 0.1, "of the size of the boxes, no anchor overlaps them enough: IoU 0.23"
    assert covered(boxes, found)[1] == pytest.approx(ideal_iou(boxes, (found,)).mean(), 0.05)


def test_a_suggestion_is_the_same_every_time_and_has_no_shape_twice():
    boxes = draw_boxes(60)
    for levels in ((POST,), PYRAMID):
        found = suggest(boxes, levels, seed=3)
        assert found == suggest(boxes.copy(), levels, seed=3)
        for level in found.levels:
            assert len(np.unique(level.shapes.round(6), axis=0)) == len(level.shapes)


def test_one_box_gets_no_shape_twice():
    (found,) = suggest(np.array([[0.1, 0.1, 0.5, 0.3]]), (Anchors(13, (0.9, 0.9, 0.9), (1.0, 1.0)),)).levels
    assert len(set(found.sizes)) == len(found.sizes) and len(set(found.ratios)) == len(found.ratios)


def test_a_match_counts_more_than_a_close_fit():
    side = np.repeat([0.2, 0.36], [10, 9])[:, None] * np.ones(2)
    (found,) = suggest(around(side, np.full((19, 2), CENTRE)), (Anchors(13, (0.9,), (1.0,)),)).levels
    assert 0.255 < found.sizes[0] < 0.283, "at 0.2, mean IoU would be 0.67, but only ten would match"


def test_nothing_can_be_suggested_for_no_boxes():
    with pytest.raises(ValueError, match=r"no boxes to suggest anchors for; it takes one at least"):
        suggest(np.zeros((0, 4)), (POST,))


# -- several levels ----------------------------------------------------------------------------------------------------


def test_each_level_has_the_cells_of_its_stride():
    shared = LevelAnchors(8, (0.1,), (1.0, 0.5)), LevelAnchors(16, (0.2,), (1.0, 0.5))
    assert lay_out(shared, 64) == (Anchors(8, (0.1,), (1.0, 0.5)), Anchors(4, (0.2,), (1.0, 0.5)))
    assert lay_out(ModelConfig().anchors, 200) == (POST,)


@pytest.mark.parametrize(
    ("levels", "choices"),
    [
        pytest.param((POST,), {"sizes": list(POST.sizes), "ratios": list(POST.ratios)}, id="one level: plain lists"),
        pytest.param(
            (Anchors(8, (0.1, 0.2), (1.0,)), Anchors(4, (0.3, 0.4), (1.0,))),
            {"sizes": [[0.1, 0.2], [0.3, 0.4]], "ratios": [1.0]},
            id="shared ratios stand once",
        ),
        pytest.param(
            (Anchors(8, (0.1,), (1.0,)), Anchors(4, (0.3,), (2.0,))),
            {"sizes": [[0.1], [0.3]], "ratios": [[1.0], [2.0]]},
            id="ratios of their own stand each",
        ),
    ],
)
def test_anchors_as_a_config_takes_them(levels, choices):
    assert as_choices(levels) == choices


@pytest.mark.parametrize("strides", [(16, 32), (8, 16, 32, 64), (32, 64)], ids=str)
def test_corners_over_levels_are_those_the_network_returns(strides):
    torch = pytest.importorskip("torch", reason="the pytorch extra is not installed")
    from ena24ssd.pytorch.ssd import build_network

    sizes = tuple((4 * stride / 128, 5 * stride / 128) for stride in strides)
    choices = {"levels": strides, "sizes": sizes, "ratios": (1.0, 0.5), "pyramid": 8, "towers": 0}
    network = build_network(2, ModelConfig(backbone="efficientnet_lite0", **choices)).eval()
    with torch.no_grad():
        returned = network(torch.zeros(1, 3, 128, 128))[0][0].numpy()
    levels = lay_out(ModelConfig(backbone="efficientnet_lite0", **choices).anchors, 128)
    np.testing.assert_allclose(np.concatenate([level.corners for level in levels]), returned, atol=1e-6)


def reach_of(levels: tuple[Anchors, ...]) -> list[tuple[float, float]]:
    """The smallest and the largest size that may be suggested on each of several levels."""
    reach = [[min(REACH[0] / level.cells, COARSE), REACH[1] / level.cells] for level in levels]
    reach[0][0], reach[-1][1] = SMALLEST / levels[0].cells, SIZES[-1]
    return [(low, high) for low, high in reach]


@pytest.mark.parametrize("side", [64, 256, 640, 2048])
def test_a_level_gets_the_sizes_that_its_cells_can_see(side):
    levels = tuple(level._replace(cells=count_cells(side, stride)) for level, stride in zip(PYRAMID, (8, 16, 32, 64)))
    found = suggest(draw_boxes(300), levels).levels
    assert found != levels
    for level, (low, high) in zip(found, reach_of(levels)):
        assert low <= min(level.sizes) and max(level.sizes) <= high
    assert {level.per_cell for level in found} == {PYRAMID[0].per_cell}


def test_a_suggestion_over_levels_is_near_the_best_of_every_choice_there_is():
    boxes = draw_boxes(40, seed=5)
    levels = (Anchors(4, (0.4,), (1.0,)), Anchors(2, (0.9,), (1.0,)))
    (_, low), (high, _) = reach_of(levels)[0], reach_of(levels)[1]
    choices = [
        (finer, coarser, ratio)
        for finer in [size for size in SIZES.tolist() if 0.125 <= size <= low][::2]
        for coarser in [size for size in SIZES.tolist() if size >= high][::2]
        for ratio in RATIOS[::2]
    ]
    best = max(
        float((best_iou(boxes, (Anchors(4, (a,), (ratio,)), Anchors(2, (b,), (ratio,)))) > 0.5).sum())
        for a, b, ratio in choices
    )
    assert covered(boxes, *suggest(boxes, levels).levels)[0] >= best


def test_small_and_large_animals_are_matched_by_levels_of_their_own():
    small, large = Anchors(32, (0.08,), (1.5,)).corners[::7], Anchors(4, (0.8,), (1.5,)).corners
    boxes = np.concatenate([small, large])
    levels = (Anchors(32, (0.2,), (1.0,)), Anchors(4, (1.2,), (1.0,)))
    found = suggest(boxes, levels).levels
    ious = level_iou(boxes, found)
    assert (ious[: len(small)].argmax(axis=1) == 0).all() and (ious[len(small) :].argmax(axis=1) == 1).all()
    assert ious.max(axis=1).min() > 0.9
    assert found[0].ratios == found[1].ratios


def test_levels_get_ratios_of_their_own_where_that_matches_more():
    wide, tall = Anchors(16, (0.2,), (4.0,)).corners, Anchors(4, (0.8,), (0.25,)).corners
    boxes = np.concatenate([wide, np.repeat(tall, 16, axis=0)])
    levels = (Anchors(16, (0.2,), (1.0,)), Anchors(4, (0.8,), (1.0,)))
    found = suggest(boxes, levels).levels
    assert found[0].ratios != found[1].ratios
    assert covered(boxes, *found)[0] == len(boxes)
    few = np.concatenate([np.repeat(wide, 4, axis=0), tall[: int(OWN_RATIOS * 4 * len(wide)) - 2]])
    found = suggest(few, levels).levels
    assert found[0].ratios == found[1].ratios, "for so few boxes, one list of ratios does"


def test_a_level_that_no_box_is_for_gets_as_many_anchors_as_the_others():
    boxes = draw_boxes(30) * 0.1
    found = suggest(boxes, PYRAMID).levels
    assert {level.per_cell for level in found} == {4}
    ModelConfig(backbone="efficientnet_lite0", levels=(8, 16, 32, 64), **as_choices(found))


def test_blocks_and_samples_of_several_levels(monkeypatch):
    boxes = draw_boxes(300)
    whole = suggest(boxes, PYRAMID)
    assert whole.searched == 300
    monkeypatch.setattr(module, "SEARCHED", 50)
    some = suggest(boxes, PYRAMID)
    assert some.searched == 50
    assert covered(boxes, *PYRAMID) < covered(boxes, *some.levels) <= covered(boxes, *whole.levels)


REAL_LEVELS = [("ena24/ena24.json", 0.118, 0.04, 0.004), ("wild6/train.json", 0.099, 0.045, 0.013)]


@pytest.mark.parametrize(
    ("file", "unmatched", "after", "never"), [pytest.param(*row, id=row[0].split("/")[0]) for row in REAL_LEVELS]
)
def test_the_real_boxes_that_no_anchor_of_a_pyramid_matches(shared_data, file, unmatched, after, never):
    images = read(shared_data / file, check_files=False).images
    boxes = np.array(
        [row.box.relative_to(Box(0, 0, image.width, image.height)) for image in images for row in image.boxes]
    )
    choices = {"backbone": "efficientnet_lite0", "levels": [8, 16, 32, 64]} | as_choices(PYRAMID)
    many = {f"model.{name}": value for name, value in choices.items()}
    config = change_config(RunConfig(), {"data.image_side": 256} | many)
    levels = lay_out(config.model.anchors, 256)
    assert levels == PYRAMID
    assert (best_iou(boxes, levels) <= 0.5).mean() == pytest.approx(unmatched, abs=0.001)
    assert (best_iou(boxes, suggest(boxes, levels).levels) <= 0.5).mean() < after
    assert (ideal_iou(boxes, levels) <= 0.5).mean() == pytest.approx(never, abs=0.001)


REAL = [
    ("blog", 0.593, 0.25),
    ("custom_conv", 0.330, 0.25),
]


@pytest.mark.parametrize(("preset", "unmatched", "after"), [pytest.param(*row, id=row[0]) for row in REAL])
def test_the_real_boxes_that_no_anchor_matches(shared_data, preset, unmatched, after):
    images = read(shared_data / "ena24" / "ena24.json", check_files=False).images
    unit = [row.box.relative_to(Box(0, 0, image.width, image.height)) for image in images for row in image.boxes]
    boxes, config = np.array(unit), read_config(f"configs/{preset}.yaml")
    levels = (Anchors(count_cells(config.data.image_side), config.model.sizes, config.model.ratios),)
    assert (best_iou(boxes, levels) <= 0.5).mean() == pytest.approx(unmatched, abs=0.001)
    assert (best_iou(boxes, suggest(boxes, levels).levels) <= 0.5).mean() < after
    assert (ideal_iou(boxes, levels) <= 0.5).mean() == pytest.approx(0.130, abs=0.001)
