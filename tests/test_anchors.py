"""Are the anchors MXNet's, is the best of them found for every box, and are suggested ones better?"""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ena24ssd import anchors as module
from ena24ssd.anchors import Anchors, best_iou, cluster_shapes, count_cells, ideal_iou, suggest
from ena24ssd.boxes import Box, iou
from ena24ssd.cameratraps import read
from ena24ssd.config import ModelConfig, read_config

POST = Anchors(13, (0.27, 0.44, 0.52, 0.62, 0.71, 0.85), (1.0, 1.5, 2.0, 2.2))
FAMILIES = [
    ("the post's", POST),
    ("one shape a cell", Anchors(3, (0.5,), (1.0,))),
    ("a first ratio that is not 1", Anchors(4, (0.2, 0.9), (0.5, 3.0))),
    ("one cell only", Anchors(1, (0.4, 1.2), (1.0, 0.25, 4.0))),
    ("ratios only", Anchors(7, (0.3,), (2.0, 1.0, 0.5))),
]
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


def covered(boxes: np.ndarray, anchors: Anchors) -> tuple[int, float]:
    """How many boxes match, and the mean IoU, by comparing every box with every anchor."""
    best = iou(boxes, anchors.corners).max(axis=1)
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
    assert best_iou(np.array([box]), POST) == pytest.approx([expected])


@settings(max_examples=150, deadline=None)
@given(some_boxes(), some_anchors)
def test_best_iou_is_the_best_of_all_the_grids_anchors(boxes, anchors):
    found = best_iou(boxes, anchors)
    np.testing.assert_allclose(found, iou(boxes, anchors.corners).max(axis=1), atol=1e-12)
    assert ((found >= 0) & (found <= 1)).all()


@pytest.mark.parametrize("measure", [lambda boxes: best_iou(boxes, POST), lambda boxes: ideal_iou(boxes, 13)])
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
    best = best_iou(boxes, POST)
    peak = tracemalloc.get_traced_memory()[1] - best.nbytes
    tracemalloc.stop()
    assert peak < 8 * module.BLOCK * POST.per_cell * 8, "a few tables of one block's boxes and a cell's anchors"


@settings(max_examples=80, deadline=None)
@given(some_boxes(), some_anchors)
def test_no_anchors_exceed_the_ideal(boxes, anchors):
    ideal = ideal_iou(boxes, anchors.cells)
    assert (ideal >= best_iou(boxes, anchors) - 1e-12).all()
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
    ideal = ideal_iou(boxes, 5)
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
@given(some_boxes(), some_anchors, st.sampled_from([0.3, 0.5, 0.7]))
def test_a_suggestion_is_never_worse_nor_larger_and_reads_well(boxes, anchors, overlap):
    found = suggest(boxes, anchors, overlap=overlap)
    ModelConfig(sizes=found.sizes, ratios=found.ratios)
    suggested = Anchors(anchors.cells, found.sizes, found.ratios)
    if suggested != anchors:
        before, after = best_iou(boxes, anchors), best_iou(boxes, suggested)
        assert ((after > overlap).sum(), after.mean()) > ((before > overlap).sum(), before.mean())
        assert suggested.per_cell <= anchors.per_cell
        for figures in (found.sizes, found.ratios):
            assert list(figures) == [float(f"{figure:.2g}") for figure in figures]


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
    found = suggest(boxes, unlike)
    matched, mean = covered(boxes, Anchors(10, found.sizes, found.ratios))
    assert matched == len(boxes)
    assert mean > 0.85
    assert len(found.sizes) + len(found.ratios) == len(sizes) + len(ratios)


def test_of_many_boxes_some_are_searched_with_and_all_are_measured(monkeypatch):
    small, large = [CENTRE - 0.05, CENTRE - 0.05, CENTRE + 0.05, CENTRE + 0.05], [0.1, 0.1, 0.9, 0.9]
    boxes = np.array([small, *[large] * 9, small])
    configured = Anchors(13, (0.8,), (1.0,))
    assert suggest(boxes, configured).searched == 11
    monkeypatch.setattr(module, "SEARCHED", 2)  # the first and the last, to which the rest is unlike
    assert suggest(boxes, configured) == ((0.8,), (1.0,), 2), "what is configured matches more of all"


def test_a_suggestion_minds_where_the_boxes_lie():
    between = np.full((6, 2), 6 / 13) + np.arange(6)[:, None] / 13  # on the corners of four cells
    boxes = around(np.full((6, 2), 0.1), between)
    found = suggest(boxes, Anchors(13, (0.1,), (1.0,)))
    assert found.sizes[0] > 0.1, "of the size of the boxes, no anchor overlaps them enough: IoU 0.23"
    assert covered(boxes, Anchors(13, found.sizes, found.ratios))[1] == pytest.approx(ideal_iou(boxes, 13).mean(), 0.05)


def test_a_suggestion_is_the_same_every_time_and_has_no_shape_twice():
    boxes = draw_boxes(60)
    found = suggest(boxes, POST, seed=3)
    assert found == suggest(boxes.copy(), POST, seed=3)
    shapes = Anchors(13, found.sizes, found.ratios).shapes
    assert len(np.unique(shapes.round(6), axis=0)) == len(shapes)
    assert list(found.sizes[1:]) == sorted(found.sizes[1:])


def test_one_box_gets_no_shape_twice():
    found = suggest(np.array([[0.1, 0.1, 0.5, 0.3]]), Anchors(13, (0.9, 0.9, 0.9), (1.0, 1.0)))
    assert len(set(found.sizes)) == len(found.sizes) and len(set(found.ratios)) == len(found.ratios)


def test_a_match_counts_more_than_a_close_fit():
    side = np.repeat([0.2, 0.36], [10, 9])[:, None] * np.ones(2)
    found = suggest(around(side, np.full((19, 2), CENTRE)), Anchors(13, (0.9,), (1.0,)))
    assert 0.255 < found.sizes[0] < 0.283, "at 0.2, mean IoU would be 0.67, but only ten would match"


def test_nothing_can_be_suggested_for_no_boxes():
    with pytest.raises(ValueError, match=r"no boxes to suggest anchors for; it takes one at least"):
        suggest(np.zeros((0, 4)), POST)


REAL = [
    ("blog", 0.593, 0.25),
    ("ena24", 0.330, 0.25),
]


@pytest.mark.parametrize(("preset", "unmatched", "after"), [pytest.param(*row, id=row[0]) for row in REAL])
def test_the_real_boxes_that_no_anchor_matches(shared_data, preset, unmatched, after):
    images = read(shared_data / "ena24" / "ena24.json", check_files=False).images
    unit = [row.box.relative_to(Box(0, 0, image.width, image.height)) for image in images for row in image.boxes]
    boxes, config = np.array(unit), read_config(f"configs/{preset}.yaml")
    anchors = Anchors(count_cells(config.data.image_side), config.model.sizes, config.model.ratios)
    assert (best_iou(boxes, anchors) <= 0.5).mean() == pytest.approx(unmatched, abs=0.001)
    found = suggest(boxes, anchors)
    assert (best_iou(boxes, anchors._replace(sizes=found.sizes, ratios=found.ratios)) <= 0.5).mean() < after
    assert (ideal_iou(boxes, anchors.cells) <= 0.5).mean() == pytest.approx(0.130, abs=0.001)
