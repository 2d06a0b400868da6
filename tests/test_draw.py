"""Does every picture get drawn, readably, and is the original left alone?"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ena24ssd.boxes import Box, LabelledBox
from ena24ssd.detections import Detection, ImageDetections
from ena24ssd.draw import (
    PALETTE,
    PAPER,
    colour,
    contact_sheet,
    draw_anchors,
    draw_boxes,
    draw_detections,
    draw_truth,
    text_colour,
)

GREY = (120, 120, 120)


def blank(width: int = 200, height: int = 200, ground=GREY) -> Image.Image:
    return Image.new("RGB", (width, height), ground)


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


def changed(before: Image.Image, after: Image.Image) -> np.ndarray:
    return (pixels(before) != pixels(after)).any(axis=-1)  # (H, W)


# -- colours --------------------------------------------------------------------------------------------------------


def contrast(first, second) -> float:
    """WCAG 2.2 contrast ratio, 1..21."""

    def luminance(rgb):
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in np.array(rgb) / 255]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    bright, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("label", [*range(len(PALETTE)), 100, 382, 10_000])
def test_tags_can_be_read_on_the_colour_of_every_label(label):
    assert contrast(colour(label), text_colour(colour(label))) >= 4.5


@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_text_can_be_read_on_any_ground(ground):
    assert contrast(ground, text_colour(ground)) >= 4.5


def test_labels_have_colours_of_their_own():
    assert len({colour(label) for label in range(200)}) == 200


# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB
DEUTERANOPIA = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
PROTANOPIA = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
TO_XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]


@pytest.mark.parametrize(
    "sight",
    [
        pytest.param(np.eye(3), id="full colour vision"),
        pytest.param(DEUTERANOPIA, id="deuteranopia"),
        pytest.param(PROTANOPIA, id="protanopia"),
    ],
)
def test_the_first_24_colours_can_be_told_apart(sight):
    values = np.array(PALETTE) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    xyz = np.clip(linear @ np.transpose(sight), 0, 1) @ np.transpose(TO_XYZ) / (0.95047, 1.0, 1.08883)
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=-1)  # (24, 3)
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
    assert apart[~np.eye(len(PALETTE), dtype=bool)].min() > 16  # CIE76; about 2 is the smallest difference seen


# -- boxes ----------------------------------------------------------------------------------------------------------

edge = st.one_of(st.floats(-50, 250), st.sampled_from([0.0, 1.0, 64.0, 1e30, -1e30, float("inf"), float("nan")]))
any_box = st.builds(Box, edge, edge, edge, edge)
any_caption = st.one_of(st.text(max_size=12), st.just("a name much too long for any picture " * 5))
any_size = st.tuples(st.integers(1, 90), st.integers(1, 90))


@settings(deadline=None)
@given(
    any_size,
    st.lists(st.tuples(st.integers(0, 500), any_caption, any_box), max_size=12),
    st.sampled_from(["solid", "dashed"]),
)
def test_any_box_is_drawn_on_any_picture_and_the_picture_is_left_alone(size, boxes, style):
    picture = blank(*size)
    drawn = draw_boxes(picture, boxes, style=style)
    assert drawn is not picture
    assert (drawn.mode, drawn.size) == ("RGB", size)
    assert picture.tobytes() == blank(*size).tobytes()


@pytest.mark.parametrize("style", ["solid", "dashed"])
@pytest.mark.parametrize(
    ("size", "box"),
    [
        pytest.param((200, 200), Box(50, 60, 120, 130), id="a box inside"),
        pytest.param((200, 200), Box(100, 100, 101, 101), id="a box of one pixel"),
        pytest.param((200, 200), Box(0, 0, 200, 200), id="the whole picture"),
        pytest.param((200, 200), Box(-40, 150, 30, 260), id="a box over the corner"),
        pytest.param((6, 6), Box(2, 2, 4, 4), id="a tiny picture"),
        pytest.param((2400, 1600), Box(500, 500, 900, 800), id="a large picture"),
    ],
)
def test_a_frame_in_the_colour_of_its_label_can_be_seen(size, box, style):
    drawn = draw_boxes(blank(*size), [(5, "", box)], style=style)
    assert (pixels(drawn) == colour(5)).all(axis=-1).any()


def test_the_frame_leaves_what_is_in_the_box_to_be_seen():
    picture = blank()
    touched = changed(picture, draw_boxes(picture, [(0, "", Box(50, 60, 120, 130))]))
    assert not touched[60:130, 50:120].any()
    assert touched[59, 50:120].all() and touched[130, 50:120].all()
    assert touched[60:130, 49].all() and touched[60:130, 120].all()


def test_a_box_outside_the_picture_is_not_drawn():
    picture = blank()
    assert not changed(picture, draw_boxes(picture, [(0, "away", Box(300, 300, 400, 400))])).any()


@pytest.mark.parametrize(
    ("box", "style", "where"),
    [
        pytest.param(Box(40, 80, 160, 150), "solid", np.s_[60:78, 40:60], id="above the box"),
        pytest.param(Box(40, 0, 160, 150), "solid", np.s_[2:14, 42:60], id="inside where there is nothing above"),
        pytest.param(Box(40, 80, 160, 150), "dashed", np.s_[152:164, 40:60], id="below a dashed box"),
        pytest.param(Box(195, 80, 200, 150), "solid", np.s_[66:78, 175:200], id="pushed in from the right border"),
    ],
)
def test_the_tag_lies(box, style, where):
    tagged = draw_boxes(blank(), [(0, "Bird", box)], style=style)
    plain = draw_boxes(blank(), [(0, "", box)], style=style)
    assert changed(plain, tagged)[where].mean() > 0.5


def test_tags_of_two_boxes_in_one_place_are_both_seen():
    box = Box(40, 80, 160, 150)
    drawn = pixels(draw_boxes(blank(), [(0, "Bird", box), (7, "Raccoon", box)]))
    for label in (0, 7):
        assert (drawn == colour(label)).all(axis=-1).sum() > 200  # a filled tag, not only a line of one pixel


def test_the_first_box_lies_on_top():
    box = Box(50, 50, 150, 150)
    drawn = pixels(draw_boxes(blank(), [(0, "", box), (1, "", box)]))
    assert (drawn == colour(0)).all(axis=-1).any()
    assert not (drawn == colour(1)).all(axis=-1).any()


def test_lines_grow_with_the_picture():
    def thickness(side):
        box = Box(side * 0.25, side * 0.25, side * 0.75, side * 0.75)
        middle = pixels(draw_boxes(blank(side, side), [(0, "", box)]))[:, side // 2]
        return (middle == colour(0)).all(axis=-1).sum() / 2

    assert thickness(100) == 1
    assert thickness(3000) == pytest.approx(10 * thickness(300), rel=0.2)


def test_an_unknown_style_is_refused():
    with pytest.raises(ValueError, match=r"'dotted'.*'solid' or 'dashed'"):
        draw_boxes(blank(), [], style="dotted")


# -- detections and truth -------------------------------------------------------------------------------------------


def test_detections_are_captioned_with_name_and_score():
    box = Box(40, 80, 160, 150)
    drawn = draw_detections(blank(), [Detection(3, "Raccoon", 0.876, box)])
    assert drawn.tobytes() == draw_boxes(blank(), [(3, "Raccoon 0.88", box)]).tobytes()


def test_detections_are_scaled_to_a_smaller_copy_of_their_picture():
    found = ImageDetections("a.jpg", 400, 800, (Detection(3, "Raccoon", 0.88, Box(80, 320, 320, 600)),))
    expected = draw_boxes(blank(), [(3, "Raccoon 0.88", Box(40, 80, 160, 150))])
    assert draw_detections(blank(), found).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "found",
    [
        pytest.param([], id="no detections"),
        pytest.param(ImageDetections("a.jpg", 200, 200), id="nothing found"),
        pytest.param(ImageDetections("a.jpg", None, None, failure="truncated"), id="a picture that failed"),
    ],
)
def test_nothing_to_draw_gives_an_equal_picture(found):
    assert draw_detections(blank(), found).tobytes() == blank().tobytes()


@pytest.mark.parametrize("count", [10, 11, 30])
def test_there_may_be_more_boxes_than_the_ten_the_post_had_colours_for(count):
    found = [Detection(i % 23, "Bird", 0.9, Box(i, i, 100 + i, 100 + i)) for i in range(count)]
    assert changed(blank(), draw_detections(blank(), found)).any()


def test_truth_is_white_and_dashed_on_dark_and_on_bright_ground():
    for ground in ((0, 0, 0), (255, 255, 255)):
        drawn = draw_truth(blank(ground=ground), [LabelledBox(1, Box(40, 40, 160, 160))], ("Bird", "Raccoon"))
        top = pixels(drawn)[39, 40:160]
        assert (top == (255, 255, 255)).all(axis=-1).any() and (top == (0, 0, 0)).all(axis=-1).any()


# -- anchors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("corners", "wider", "higher"),
    [
        pytest.param([], 0, 0, id="no anchors"),
        pytest.param([[0.1, 0.1, 0.9, 0.9]], 0, 0, id="anchors inside"),
        pytest.param([[-0.387, 0, 1.387, 1]], 155, 0, id="anchors over both sides"),
        pytest.param([[0, -0.5, 1, 1]], 0, 50, id="an anchor over the top"),
        pytest.param([[-9, -9, 9, 9]], 400, 200, id="far anchors are cut off"),
    ],
)
def test_the_canvas_grows_to_show_the_anchors(corners, wider, higher):
    plain = draw_anchors(blank(200, 100), np.empty((0, 4)))
    drawn = draw_anchors(blank(200, 100), np.array(corners, dtype=float).reshape(-1, 4))
    assert drawn.width - plain.width == pytest.approx(wider, abs=1)
    assert drawn.height - plain.height == pytest.approx(higher, abs=1)


def test_the_picture_stands_in_a_white_frame_on_the_wider_canvas():
    drawn = pixels(draw_anchors(blank(200, 100), np.array([[-0.5, 0.2, 0.5, 0.8]])))
    white = (drawn == (255, 255, 255)).all(axis=-1)
    rows, columns = np.nonzero(white.sum(axis=1) > 190)[0], np.nonzero(white.sum(axis=0) > 90)[0]
    assert rows[-1] - rows[0] - 1 == 100
    assert columns[-1] - columns[0] - 1 == 200
    assert tuple(drawn[0, 0]) == PAPER


@pytest.mark.parametrize(
    "corners",
    [
        pytest.param(np.zeros((1, 3, 4)), id="anchors still in their batch"),
        pytest.param(np.full((2, 4), np.nan), id="anchors that are not finite"),
    ],
)
def test_corners_that_are_no_anchors_are_refused(corners):
    with pytest.raises(ValueError, match=r"\(K, 4\) finite"):
        draw_anchors(blank(), corners)


@settings(deadline=None)
@given(any_size, st.lists(st.tuples(*[st.floats(-3, 4)] * 4), max_size=5))
def test_any_anchors_are_drawn_and_the_picture_is_left_alone(size, corners):
    picture = blank(*size)
    draw_anchors(picture, np.array(corners).reshape(-1, 4))
    assert picture.tobytes() == blank(*size).tobytes()


# -- contact sheets -------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.lists(any_size, min_size=1, max_size=7),
    st.integers(1, 5),
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.booleans(),
)
def test_any_pictures_fit_on_a_sheet_and_are_left_alone(sizes, columns, cell, captioned):
    originals = [blank(*size) for size in sizes]
    sheet = contact_sheet(originals, ["a caption"] * len(sizes) if captioned else None, columns, cell)
    used = min(columns, len(sizes))
    assert sheet.width >= used * cell[0]
    assert sheet.height >= -(-len(sizes) // used) * cell[1]
    assert all(picture.tobytes() == blank(*size).tobytes() for picture, size in zip(originals, sizes, strict=True))


@pytest.mark.parametrize(
    ("size", "drawn"),
    [
        pytest.param((200, 100), (80, 40), id="a wide picture fills the width"),
        pytest.param((100, 200), (30, 60), id="a tall picture fills the height"),
        pytest.param((8, 6), (80, 60), id="a small picture is enlarged"),
        pytest.param((5000, 1), (80, 1), id="a line is at least a pixel high"),
    ],
)
def test_a_sheet_keeps_the_aspect(size, drawn):
    red = (200, 0, 0)
    sheet = pixels(contact_sheet([blank(*size, ground=red)], columns=1, cell=(80, 60)))
    found = np.argwhere((sheet == red).all(axis=-1))
    height, width = found.max(axis=0) - found.min(axis=0) + 1
    assert (width, height) == drawn


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({"pictures": []}, "0 pictures", id="no pictures"),
        pytest.param({"pictures": [blank()], "columns": 0}, "0 columns", id="no columns"),
        pytest.param({"pictures": [blank()], "cell": (0, 9)}, "0 x 9 px", id="cells without width"),
        pytest.param({"pictures": [blank()], "captions": ["a", "b"]}, "2 captions for 1", id="captions left over"),
    ],
)
def test_a_sheet_that_cannot_be_made_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        contact_sheet(**arguments)
