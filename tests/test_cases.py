"""What was there, and what was found, over many pictures?  Held against plain lists, one for each picture."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ena24ssd.boxes import Box, LabelledBox
from ena24ssd.cameratraps import Image
from ena24ssd.cases import Cases, Found, Truth, gather
from ena24ssd.detections import Detection

NAMES = ("fox", "deer", "hare")
PLACE, OTHER = Box(10.0, 10.0, 50.0, 50.0), Box(60.5, 60.0, 90.0, 80.25)


def picture(key: str, *animals: tuple[int, Box], size: tuple[int, int] = (100, 80)) -> Image:
    return Image(key, f"{key}.jpg", *size, tuple(LabelledBox(*animal) for animal in animals))


def seen(label: int, score: float, box: Box = PLACE) -> Detection:
    return Detection(label, NAMES[label], score, box)


# A blank one among the others, two animals on one, detections that do not come best first, and one found twice alike.
IMAGES = (
    picture("a", (1, PLACE)),
    picture("b", size=(64, 48)),
    picture("c", (2, OTHER), (0, PLACE), size=(2048, 1536)),
    picture("d", (0, OTHER)),
)
DETECTIONS = (
    (seen(1, 0.25), seen(0, 0.75, OTHER)),
    (seen(2, 0.5),),
    (),
    (seen(0, 0.5, OTHER), seen(1, 0.5, PLACE), seen(0, 0.125), seen(2, 1.0)),
)
CASES = gather(IMAGES, DETECTIONS, NAMES)


def rows(columns: Truth | Found) -> list[tuple]:
    """One tuple a box: picture, label, (score,) left, top, right, bottom."""
    return [(*head, *box) for *head, box in zip(*(column.tolist() for column in columns))]


def assert_well_formed(cases: Cases) -> None:
    assert cases.sizes.shape == (len(cases), 2)
    for columns in (cases.truth, cases.found):
        assert columns.picture.dtype == columns.label.dtype == np.int64
        assert columns.box.dtype == np.float64 and columns.box.shape == (len(columns.label), 4)
        assert {len(column) for column in columns} == {len(columns.label)}
        assert np.all(np.diff(columns.picture) >= 0)
        assert np.all((columns.picture >= 0) & (columns.picture < len(cases)))
    same_picture = np.diff(cases.found.picture) == 0
    assert np.all(np.diff(cases.found.score)[same_picture] <= 0), "within a picture best first"


# -- gathering ---------------------------------------------------------------------------------------------------------


def test_boxes_stand_in_the_order_of_their_pictures_and_detections_best_first():
    assert_well_formed(CASES)
    assert CASES.class_names == NAMES and CASES.ids == ("a", "b", "c", "d") and len(CASES) == 4
    assert CASES.sizes.tolist() == [[100, 80], [64, 48], [2048, 1536], [100, 80]]
    assert rows(CASES.truth) == [(0, 1, *PLACE), (2, 2, *OTHER), (2, 0, *PLACE), (3, 0, *OTHER)]
    assert rows(CASES.found) == [
        (0, 0, 0.75, *OTHER),
        (0, 1, 0.25, *PLACE),
        (1, 2, 0.5, *PLACE),
        (3, 2, 1.0, *PLACE),
        (3, 0, 0.5, *OTHER),  # of equal scores the one that came first
        (3, 1, 0.5, *PLACE),
        (3, 0, 0.125, *PLACE),
    ]


LITTLE = {
    "no picture": ([], []),
    "no animal and no detection": ([picture("a"), picture("b")], [(), ()]),
    "animals, nothing found": (IMAGES, [()] * 4),
    "blank pictures, something found": ([picture("a"), picture("b")], [(seen(0, 0.5),), (seen(1, 0.25),)]),
    "one box on each": ([picture("a", (0, PLACE)), picture("b", (1, PLACE))], [(seen(0, 1.0),), (seen(1, 0.0),)]),
    "only the last picture has anything": ([picture("a"), picture("b", (0, PLACE))], [(), (seen(0, 0.5),)]),
}


@pytest.mark.parametrize(("images", "detections"), LITTLE.values(), ids=LITTLE)
def test_where_there_is_little_or_nothing(images, detections):
    cases = gather(images, detections, NAMES)
    assert_well_formed(cases)
    assert cases.ids == tuple(image.id for image in images)
    assert cases.blank.tolist() == [not image.boxes for image in images]
    assert cases.best_score.tolist() == [max((one.score for one in some), default=0) for some in detections]
    assert cases.boxes_of_species.tolist() == [
        sum(box.label == label for image in images for box in image.boxes) for label in range(len(NAMES))
    ]
    assert [cases.detections(place) for place in range(len(cases))] == [tuple(some) for some in detections]


def test_detections_may_come_one_picture_at_a_time():
    lazy = gather(IMAGES, (iter(some) for some in DETECTIONS), iter(NAMES))
    assert rows(lazy.found) == rows(CASES.found) and lazy.class_names == NAMES


def test_a_blank_picture_is_one_without_truth_whatever_was_found():
    assert CASES.blank.tolist() == [False, True, False, False] and CASES.blank.dtype == bool


def test_the_best_score_is_zero_where_nothing_was_found():
    assert CASES.best_score.tolist() == [0.75, 0.5, 0, 1]


def test_species_that_no_picture_shows_have_no_boxes():
    assert gather(IMAGES, DETECTIONS, (*NAMES, "bear")).boxes_of_species.tolist() == [2, 1, 1, 0]


# -- what was found on one picture -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "threshold", "expected"),
    [
        pytest.param(0, 0.0, (seen(0, 0.75, OTHER), seen(1, 0.25)), id="best first"),
        pytest.param(0, 0.5, (seen(0, 0.75, OTHER),), id="those of the threshold or more"),
        pytest.param(1, 0.5, (seen(2, 0.5),), id="a score at the threshold counts"),
        pytest.param(2, 0.0, (), id="nothing was found there"),
        pytest.param(3, 0.5, (seen(2, 1.0), seen(0, 0.5, OTHER), seen(1, 0.5)), id="equal scores as they came"),
        pytest.param(3, 1.1, (), id="none reaches the threshold"),
    ],
)
def test_the_detections_of_one_picture(place, threshold, expected):
    found = CASES.detections(place, threshold)
    assert found == expected
    assert all(type(one.score) is float and type(one.label) is int and isinstance(one.box, Box) for one in found)


# -- some of the pictures, other detections ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "chosen",
    [
        pytest.param([True] * 4, id="all"),
        pytest.param([False] * 4, id="none"),
        pytest.param([False, True, False, False], id="a blank one alone"),
        pytest.param([False, False, True, True], id="the last two"),
        pytest.param([True, False, True, False], id="every other"),
    ],
)
def test_some_pictures_are_what_gathering_these_alone_gives(chosen):
    taken = CASES.take(np.array(chosen))
    images, detections = ([one for one, wanted in zip(some, chosen) if wanted] for some in (IMAGES, DETECTIONS))
    expected = gather(images, detections, NAMES)
    assert_well_formed(taken)
    assert (taken.ids, taken.class_names, taken.sizes.tolist()) == (expected.ids, NAMES, expected.sizes.tolist())
    assert rows(taken.truth) == rows(expected.truth) and rows(taken.found) == rows(expected.found)


def test_other_detections_are_put_in_order_and_nothing_else_changes():
    other = Found(
        np.array([3, 0, 3, 0]), np.array([0, 1, 2, 0]), np.array([0.25, 0.5, 0.75, 0.5]), np.tile(PLACE, (4, 1))
    )
    cases = CASES.with_found(other)
    assert_well_formed(cases)
    assert [row[:3] for row in rows(cases.found)] == [(0, 1, 0.5), (0, 0, 0.5), (3, 2, 0.75), (3, 0, 0.25)]
    assert cases.truth is CASES.truth and cases.sizes is CASES.sizes and cases.ids == CASES.ids
    assert rows(CASES.found)[0] == (0, 0, 0.75, *OTHER), "the cases themselves stay"
    assert rows(cases.with_found(CASES.found).found) == rows(CASES.found)


def test_without_detections_all_that_was_there_is_still_there():
    cases = CASES.with_found(Found(*(column[:0] for column in CASES.found)))
    assert_well_formed(cases)
    assert cases.best_score.tolist() == [0] * 4 and cases.boxes_of_species.tolist() == [2, 1, 1]


# -- any pictures at all -----------------------------------------------------------------------------------------------

LABELS, SCORES = st.integers(0, len(NAMES) - 1), st.integers(0, 8).map(lambda eighths: eighths / 8)
BOXES = st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(41, 99), st.integers(41, 79)).map(
    lambda b: Box(*b)
)
ANY = st.lists(
    st.tuples(
        st.lists(st.tuples(LABELS, BOXES), max_size=3),
        st.lists(st.builds(seen, LABELS, SCORES, BOXES), max_size=5),
        st.booleans(),
    ),
    max_size=6,
)


@settings(max_examples=50)
@given(ANY)
def test_gathered_and_taken_apart_again(pictures):
    images = [picture(str(key), *animals) for key, (animals, *_) in enumerate(pictures)]
    detections = [some for _, some, _ in pictures]
    cases = gather(images, detections, NAMES)
    assert_well_formed(cases)
    for place, some in enumerate(detections):
        assert cases.detections(place) == tuple(
            sorted(some, key=lambda one: -one.score)
        )  # sorted keeps equals in order
    for place, image in enumerate(images):
        mine = cases.truth.picture == place
        there = [LabelledBox(label, Box(*box)) for label, box in zip(cases.truth.label[mine], cases.truth.box[mine])]
        assert there == list(image.boxes)
    chosen = np.array([wanted for *_, wanted in pictures], dtype=bool)
    taken = cases.take(chosen)
    assert_well_formed(taken)
    for name in ("blank", "best_score"):
        assert getattr(taken, name).tolist() == getattr(cases, name)[chosen].tolist()
    places = np.flatnonzero(chosen).tolist()
    assert [taken.detections(place) for place in range(len(taken))] == [cases.detections(place) for place in places]
