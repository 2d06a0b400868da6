"""Do boxes keep their shape through every space, and is overlap counted right?"""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ena24ssd.boxes import Box, LabelledBox, iou, truth_rows

EDGE = st.integers(-50, 150).map(float)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    left, top = draw(EDGE), draw(EDGE)
    return Box(left, top, left + draw(st.integers(1, 80)), top + draw(st.integers(1, 80)))


def pixels(box: Box) -> set[tuple[int, int]]:
    """The unit squares a box with whole-number edges covers: the naive oracle of every area."""
    return {(x, y) for x in range(int(box.left), int(box.right)) for y in range(int(box.top), int(box.bottom))}


@given(boxes())
def test_xywh_there_and_back_is_the_same_box(box):
    assert Box.from_xywh(*box.xywh) == box
    assert box.area == box.width * box.height == len(pixels(box))


CLIPS = [
    # on a picture of 100 x 50
    ("inside: as it was", Box(1, 2, 3, 4), Box(1, 2, 3, 4)),
    ("over the right and lower edge", Box(90, 40, 120, 60), Box(90, 40, 100, 50)),
    ("over the left and upper edge", Box(-5, -5, 5, 5), Box(0, 0, 5, 5)),
    ("around the picture", Box(-5, -5, 500, 500), Box(0, 0, 100, 50)),
    ("the picture itself", Box(0, 0, 100, 50), Box(0, 0, 100, 50)),
]


@pytest.mark.parametrize(("box", "expected"), [pytest.param(*row[1:], id=row[0]) for row in CLIPS])
def test_clip_cuts_at_the_edges(box, expected):
    assert box.clip(100, 50) == expected


@given(boxes())
def test_clip_keeps_exactly_the_pixels_of_the_picture(box):
    clipped = box.clip(100, 50)
    assert pixels(clipped) == pixels(box) & pixels(Box(0, 0, 100, 50))
    assert clipped.area == len(pixels(clipped)), "no area where nothing overlaps"
    assert clipped.clip(100, 50) == clipped


OVERLAPS = [
    ("the same box", (0, 0, 2, 2), (0, 0, 2, 2), 1.0),
    ("a quarter of it", (0, 0, 2, 2), (0, 0, 1, 1), 0.25),
    ("one square of seven", (0, 0, 2, 2), (1, 1, 3, 3), 1 / 7),
    ("a shared edge", (0, 0, 2, 2), (2, 0, 4, 2), 0.0),
    ("a shared corner", (0, 0, 2, 2), (2, 2, 4, 4), 0.0),
    ("apart in both directions, where two negatives would multiply", (0, 0, 1, 1), (5, 5, 6, 6), 0.0),
    ("two boxes without area", (1, 1, 1, 1), (1, 1, 1, 1), 0.0),
    ("a box without area in another", (1, 1, 1, 1), (0, 0, 2, 2), 0.0),
    ("a box turned inside out", (2, 2, 0, 0), (0, 0, 2, 2), 0.0),
]


@pytest.mark.parametrize(("first", "second", "expected"), [pytest.param(*row[1:], id=row[0]) for row in OVERLAPS])
def test_iou_of_two(first, second, expected):
    assert iou(np.array([first]), np.array([second])) == pytest.approx(expected)
    assert iou(np.array([second]), np.array([first])) == pytest.approx(expected)


@given(st.lists(boxes(), max_size=4), st.lists(boxes(), max_size=4))
def test_iou_of_all_pairs_is_what_counting_pixels_says(first, second):
    found = iou(np.array(first), np.array(second))
    assert found.shape == (len(first), len(second))
    expected = [[len(pixels(a) & pixels(b)) / len(pixels(a) | pixels(b)) for b in second] for a in first]
    np.testing.assert_allclose(found, np.array(expected).reshape(found.shape))


def test_iou_does_not_depend_on_the_unit():
    first, second = np.array([[0, 0, 40, 30]]), np.array([[10, 10, 60, 50]])
    assert iou(first / 1000, second / 1000) == pytest.approx(iou(first, second))


def test_truth_rows_are_unit_corners_with_the_padding_at_the_end():
    rows = truth_rows(
        [LabelledBox(3, Box(0, 10, 100, 20)), LabelledBox(0, Box(50, 0, 75, 40))], Box(0, 0, 100, 40), rows=4
    )
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(
        rows,
        np.float32([[3, 0, 0.25, 1, 0.5], [0, 0.5, 0, 0.75, 1], [-1, -1, -1, -1, -1], [-1, -1, -1, -1, -1]]),
    )


@pytest.mark.parametrize("rows", [0, 2], ids=["no room asked for", "nothing but padding"])
def test_a_blank_picture_is_padding_only(rows):
    assert np.array_equal(truth_rows([], Box(0, 0, 100, 40), rows), np.full((rows, 5), -1, np.float32))


def test_boxes_that_fill_the_rows_leave_no_padding_and_one_more_is_refused():
    many = [LabelledBox(0, Box(0, 0, 1, 1))] * 3
    assert (truth_rows(many, Box(0, 0, 2, 2), rows=3)[:, 0] == 0).all()
    with pytest.raises(ValueError, match=r"3 boxes do not fit into 2 truth rows; raise data\.max_boxes to 3"):
        truth_rows(many, Box(0, 0, 2, 2), rows=2)


def test_gluoncv_agrees_on_overlap_and_on_corners_of_a_resized_picture(monkeypatch):
    pytest.importorskip("mxnet")
    monkeypatch.setitem(sys.modules, "torch", None)  # GluonCV does not load beside a PyTorch of version 2
    pytest.importorskip("gluoncv")
    from gluoncv.data.transforms.bbox import resize
    from gluoncv.utils.bbox import bbox_iou

    draw = np.random.default_rng(0)
    corner = draw.uniform(0, 50, (20, 2))
    many = np.hstack([corner, corner + draw.uniform(1, 50, (20, 2))])
    np.testing.assert_allclose(iou(many[:8], many[8:]), bbox_iou(many[:8], many[8:]))
    rows = truth_rows([LabelledBox(0, Box(*box)) for box in many], Box(0, 0, 120, 110), rows=20)
    np.testing.assert_allclose(rows[:, 1:] * 512, resize(many, (120, 110), (512, 512)), rtol=1e-5)
