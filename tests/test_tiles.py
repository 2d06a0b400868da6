"""Is a small animal seen once, whole and where it is, whatever tiles it lies in?"""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ena24ssd.boxes import Box, iou
from ena24ssd.detections import Detection, rows_to_detections
from ena24ssd.pictures import FITS, fit_square, read_picture, view_of
from ena24ssd.tiles import MOST_OVERLAP, Tiling, cut, merge

NAMES = ("Deer", "Boar", "Fox")
WIDE = Tiling(3, 2).views(2592, 1944)  # tiles of 1038 x 1111 that begin at 0, 777, 1555 and 0, 833

COUNT, OVERLAP = st.integers(1, 8), st.floats(0, MOST_OVERLAP)
TILINGS = st.builds(Tiling, st.integers(1, 4), st.integers(1, 4), st.sampled_from([0.1, 0.25, 0.5]))
SCORE = st.integers(1, 99).map(lambda percent: percent / 100)


def spot(box, score=0.8, label=0):
    return Detection(label, NAMES[label], score, Box(*map(float, box)))


def sight(box, view):
    """What a view shows of a box: in pixels of the view, None where that is nothing."""
    left, top = max(box.left, view.left), max(box.top, view.top)
    right, bottom = min(box.right, view.right), min(box.bottom, view.bottom)
    if left >= right or top >= bottom:
        return None
    return Box(left - view.left, top - view.top, right - view.left, bottom - view.top)


def report(views, *sightings):
    """For each view its detections, of (number of the view, box in pixels of the picture, score, label)."""
    found = [[] for _ in views]
    for number, box, *rest in sightings:
        found[number].append(spot(sight(Box(*box), views[number]), *rest))
    return [sorted(some, key=lambda one: -one.score) for some in found]


def holds(outer, inner):
    return (
        outer.left <= inner.left
        and outer.top <= inner.top
        and outer.right >= inner.right
        and (outer.bottom >= inner.bottom)
    )


# -- which views ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text, across, down", [("3x2", 3, 2), (" 1X8 ", 1, 8), ("4×4", 4, 4), ("1x1", 1, 1)])  # noqa: RUF001
def test_a_tiling_is_read_as_a_person_writes_it(text, across, down):
    tiling = Tiling.parse(text)
    assert (tiling.across, tiling.down, tiling.overlap) == (across, down, 0.25)
    assert Tiling.parse(str(tiling)) == tiling


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("", "write how many across and how many down, as in 3x2"),
        ("3", "as in 3x2"),
        ("3x2x1", "as in 3x2"),
        ("-1x2", "as in 3x2"),
        ("٣x٢", "as in 3x2"),
        ("99999999999x1", "as in 3x2"),
        ("0x2", "1 to 8 across and 1 to 8 down"),
        ("9x1", "tiles are 9x1"),
    ],
)
def test_a_silly_tiling_is_refused_with_a_sentence(text, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        Tiling.parse(text)


@pytest.mark.parametrize("overlap", [-0.1, 0.9, float("nan")])
def test_tiles_that_overlap_by_a_silly_share_are_refused(overlap):
    with pytest.raises(ValueError, match=r"share of a tile's side, 0 to 0\.75"):
        Tiling(2, 2, overlap)


def test_one_tile_is_the_picture_by_itself():
    assert Tiling(1, 1).views(640, 480) == (Box(0, 0, 640, 480),)
    assert Tiling(1, 1).squares == 1 and Tiling(3, 2).squares == 7


@settings(max_examples=300, deadline=None)
@given(across=COUNT, down=COUNT, overlap=OVERLAP, width=st.integers(1, 6000), height=st.integers(1, 6000))
def test_tiles_cover_every_pixel_and_overlap_as_asked(across, down, overlap, width, height):
    whole, *tiles = Tiling(across, down, overlap).views(width, height)
    assert whole == (0, 0, width, height)
    assert all(edge == int(edge) for tile in tiles for edge in tile)
    assert all(holds(whole, tile) and tile.area > 0 for tile in tiles)
    assert len({(tile.width, tile.height) for tile in tiles}) <= 1
    assert len(set(tiles)) == len(tiles) <= across * down and whole not in tiles
    for low, high, side in ((0, 2, width), (1, 3, height)):
        spans = sorted({(tile[low], tile[high]) for tile in tiles} or {(0, side)})
        assert spans[0][0] == 0 and spans[-1][1] == side
        for (first, end), (second, _) in itertools.pairwise(spans):
            assert end - second >= overlap * (end - first) - 1e-6


def test_pictures_of_usual_size_give_as_many_tiles_as_asked_for():
    assert all(
        len(Tiling(across, down).views(640, 480)) == Tiling(across, down).squares
        for across in range(1, 9)
        for down in range(1, 9)
    )


@settings(max_examples=100, deadline=None)
@given(tiling=st.builds(Tiling, COUNT, COUNT, OVERLAP), side=st.integers(32, 1024), data=st.data())
def test_a_picture_decoded_as_small_as_is_allowed_is_sharp_in_every_tile(tiling, side, data):
    """Twice as long as the square, both sides of every tile, wherever both sides of the picture are twice `least`."""
    least = tiling.least(side)
    width, height = data.draw(st.integers(2 * least, 20_000)), data.draw(st.integers(2 * least, 20_000))
    for scale in (2 * least / min(width, height), 1.0):  # the smallest that read_picture may give, and all of it
        for view in tiling.views(width, height):
            assert min(view.width, view.height) * scale >= 2 * side - 1e-6


def test_without_tiles_a_picture_is_decoded_as_it_always_is():
    assert Tiling(1, 1).least(300) == 300


# -- what the network gets to see --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photograph(tmp_path_factory):
    """A picture of 1297 x 971 with something to see at every size, as JPEG."""
    random = np.random.default_rng(0)
    blocks = [
        np.kron(random.integers(0, 86, (-(-971 // size), -(-1297 // size), 3)), np.ones((size, size, 1)))[:971, :1297]
        for size in (3, 17, 101)
    ]
    path = tmp_path_factory.mktemp("p") / "a.jpg"
    Image.fromarray(sum(blocks).astype(np.uint8)).save(path, quality=92)
    return path


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("least", [0, 60, 200], ids=["decoded at full size", "at an eighth", "at a half"])
def test_the_first_square_is_what_the_picture_gives_without_tiles(photograph, fit, least):
    picture = read_picture(photograph, least=least)
    views = Tiling(3, 2).views(*picture.info["full_size"])
    squares = cut(picture, views, 96, fit)
    assert squares.shape == (7, 96, 96, 3) and squares.dtype == np.uint8
    assert np.array_equal(squares[0], fit_square(picture, 96, fit, picture.info["full_size"]))


@pytest.mark.parametrize("fit", FITS)
def test_a_tile_is_what_a_picture_of_its_pixels_gives(photograph, fit):
    picture = read_picture(photograph)
    views = Tiling(3, 2).views(*picture.size)
    for square, view in zip(cut(picture, views, 96, fit), views):
        assert np.array_equal(square, fit_square(picture.crop(tuple(map(int, view))), 96, fit))


@pytest.mark.parametrize("fit", FITS)
def test_a_tile_of_a_picture_decoded_small_shows_the_same(photograph, fit):
    tiling = Tiling(2, 2)
    sharp, small = read_picture(photograph), read_picture(photograph, least=tiling.least(64))
    assert small.width < sharp.width
    views = tiling.views(*sharp.size)
    off = np.abs(cut(small, views, 64, fit).astype(int) - cut(sharp, views, 64, fit))
    assert np.mean(off) < 2.5


@pytest.mark.parametrize("size", [(1, 1), (3, 1), (1, 700), (2, 2)])
@pytest.mark.parametrize("fit", FITS)
def test_pictures_of_a_few_pixels_are_cut_too(size, fit):
    views = Tiling(8, 8).views(*size)
    assert cut(Image.new("RGB", size, (9, 9, 9)), views, 32, fit).shape == (len(views), 32, 32, 3)


@settings(max_examples=60, deadline=None)
@given(fit=st.sampled_from(FITS), tiling=TILINGS, width=st.integers(60, 500), height=st.integers(60, 500), d=st.data())
def test_what_is_seen_in_a_tile_lies_where_it_is_in_the_picture(fit, tiling, width, height, d):
    """A white rectangle, found by its pixels in each square that shows it whole, comes back to where it was drawn."""
    left, top = d.draw(st.integers(0, width - 20)), d.draw(st.integers(0, height - 20))
    right, bottom = left + d.draw(st.integers(12, 20)), top + d.draw(st.integers(12, 20))
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[top:bottom, left:right] = 255
    side, views = 128, tiling.views(width, height)
    squares = cut(Image.fromarray(pixels), views, side, fit)
    for square, view in zip(squares, views):
        if not holds(view, Box(left, top, right, bottom)):
            continue
        rows, columns = np.nonzero(square.min(axis=2) > 127)
        if not len(rows):  # too thin for the squashed square
            continue
        corners = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / side
        shown = view_of(view.width, view.height, side, fit)
        rows = np.array([[0, 0.9, *corners]])
        found = [rows_to_detections(rows, NAMES, view.width, view.height, 0.5, shown)]
        (only,) = merge([(), *found], [Box(0, 0, width, height), view], 0.5)
        allowed = np.tile((shown.width, shown.height), 2) / side * 0.75 + 1e-9
        assert (np.abs(np.subtract(only.box, (left, top, right, bottom))) <= allowed).all()


# -- each animal once -------------------------------------------------------------------------------------------------


def rows(*found):
    return [(one.name, one.score, tuple(one.box)) for one in found]


@pytest.mark.parametrize(
    "sightings, agnostic, expected",
    [
        ([], False, []),
        ([(1, (20, 30, 60, 90), 0.7)], False, [("Deer", 0.7, (20, 30, 60, 90))]),
        (
            [(0, (100, 100, 300, 200), 0.6), (1, (104, 102, 298, 204), 0.9)],
            False,
            [("Deer", 0.9, (104, 102, 298, 204))],
        ),
        (
            [(0, (700, 100, 1300, 500), 0.4), (1, (700, 100, 1300, 500), 0.9)],
            False,
            [("Deer", 0.9, (700, 100, 1300, 500))],
        ),
        (
            [(0, (700, 100, 1300, 500), 0.5), (1, (900, 250, 1300, 350), 0.4)],
            False,
            [("Deer", 0.5, (700, 100, 1300, 500))],
        ),
        (
            [(0, (700, 100, 1300, 500), 0.1), (1, (900, 250, 1300, 350), 0.9)],
            False,
            [("Deer", 0.9, (900, 250, 1038, 350)), ("Deer", 0.1, (700, 100, 1300, 500))],
        ),
        (
            [(1, (500, 100, 1300, 500), 0.4), (2, (500, 110, 1300, 490), 0.6)],
            False,
            [("Deer", 0.6, (500, 100, 1300, 500))],
        ),
        (
            [(1, (500, 100, 1300, 500), 0.4), (2, (500, 600, 1300, 800), 0.6)],
            False,
            [("Deer", 0.6, (777, 600, 1300, 800)), ("Deer", 0.4, (500, 100, 1038, 500))],
        ),
        (
            [(number, (600, 600, 1300, 1400), 0.5 + number / 100) for number in (1, 2, 4, 5)],
            False,
            [("Deer", 0.55, (600, 600, 1300, 1400))],
        ),
        (
            [(1, (900, 100, 1300, 500), 0.9)],
            False,
            [("Deer", 0.9, (900, 100, 1038, 500))],
        ),
        (
            [(0, (100, 100, 300, 200), 0.6, 0), (1, (100, 100, 300, 200), 0.9, 1)],
            False,
            [("Boar", 0.9, (100, 100, 300, 200)), ("Deer", 0.6, (100, 100, 300, 200))],
        ),
        (
            [(0, (700, 100, 1300, 500), 0.6, 0), (1, (700, 100, 1300, 500), 0.9, 1)],
            True,
            [("Boar", 0.9, (700, 100, 1300, 500))],
        ),
        (
            [(1, (100, 100, 300, 200), 0.9), (1, (101, 100, 300, 200), 0.8)],
            False,
            [("Deer", 0.9, (100, 100, 300, 200)), ("Deer", 0.8, (101, 100, 300, 200))],
        ),
        (
            [(0, (500, 100, 1100, 700), 0.9), (1, (600, 400, 700, 500), 0.7)],
            False,
            [("Deer", 0.9, (500, 100, 1100, 700)), ("Deer", 0.7, (600, 400, 700, 500))],
        ),
        (
            [(1, (0, 0, 2592, 1944), 0.5), (2, (0, 0, 2592, 1944), 0.6), (0, (0, 0, 2592, 1944), 0.3)],
            False,
            [("Deer", 0.6, (0, 0, 2592, 1944))],
        ),
    ],
    ids=[
        "nothing anywhere",
        "a small animal that only a tile shows",
        "whole in two views: the surer box",
        "cut in a tile, and whole in the picture: the whole box with the surer score",
        "only its head seen in a tile, and less surely: part of the whole",
        "its head seen much surer than the whole: nothing that counts is lost",
        "two fragments that agree on what both show: joined",
        "two fragments that do not agree: two animals",
        "an animal over the corner of four tiles, missed by the whole: joined",
        "a fragment alone: half an animal is one",
        "another species is another animal",
        "any species, class-agnostic: the surer name",
        "two alike in one view: its engine left them both",
        "a small animal before a large one, cut by nothing: both",
        "an animal that fills the picture, and each of its tiles",
    ],
)
def test_each_animal_once(sightings, agnostic, expected):
    assert rows(*merge(report(WIDE, *sightings), WIDE, 0.5, agnostic)) == expected


def test_every_view_needs_its_detections():
    with pytest.raises(ValueError, match="there are 7 views and detections of 2"):
        merge([(), ()], WIDE, 0.5)


@st.composite
def boxes_in(draw, width, height):
    left, top = draw(st.integers(0, width - 2)), draw(st.integers(0, height - 2))
    return Box(*map(float, (left, top, draw(st.integers(left + 1, width)), draw(st.integers(top + 1, height)))))


@st.composite
def scattered(draw):
    """Views, and detections in them that have nothing to do with one another."""
    tiling = draw(TILINGS)
    views = tiling.views(draw(st.integers(40, 400)), draw(st.integers(40, 400)))
    found = []
    for view in views:
        box = boxes_in(int(view.width), int(view.height))
        some = draw(st.lists(st.builds(spot, box, SCORE, st.integers(0, 1)), max_size=4))
        found.append(sorted(some, key=lambda one: -one.score))
    return views, found


@settings(max_examples=60, deadline=None)
@given(case=scattered(), nms=st.sampled_from([0.3, 0.5, 0.9]), agnostic=st.booleans(), random=st.randoms())
def test_the_order_of_the_tiles_plays_no_part(case, nms, agnostic, random):
    views, found = case
    order = list(range(1, len(views)))
    random.shuffle(order)
    order = [0, *order]
    turned = merge([found[place] for place in order], [views[place] for place in order], nms, agnostic)
    assert turned == merge(found, views, nms, agnostic)


@settings(max_examples=60, deadline=None)
@given(case=scattered(), nms=st.sampled_from([0.3, 0.5, 0.9]), agnostic=st.booleans())
def test_nothing_that_counts_is_lost_and_nothing_is_made_up(case, nms, agnostic):
    """For whatever a view saw, there is an animal there that scores no less; no more animals than sightings."""
    views, found = case
    animals = merge(found, views, nms, agnostic)
    given_ = [
        (one, Box(*np.add(one.box, np.tile(view[:2], 2)).tolist())) for some, view in zip(found, views) for one in some
    ]
    assert len(animals) <= len(given_)
    assert list(animals) == sorted(animals, key=lambda one: -one.score)
    assert all(holds(views[0], animal.box) for animal in animals)
    assert {(one.name, one.score) for one in animals} <= {(one.name, one.score) for one, _ in given_}
    for one, box in given_:
        assert any(
            sight(animal.box, box) is not None and animal.score >= one.score and (agnostic or animal.label == one.label)
            for animal in animals
        )


@settings(max_examples=100, deadline=None)
@given(data=st.data(), width=st.integers(20, 3000), height=st.integers(20, 3000), nms=st.floats(0.01, 1))
def test_one_whole_view_is_not_changed(data, width, height, nms):
    whole = Box(0.0, 0.0, float(width), float(height))
    found = data.draw(st.lists(st.builds(spot, boxes_in(width, height), SCORE, st.integers(0, 1)), max_size=6))
    found = tuple(sorted(found, key=lambda one: -one.score))
    assert merge([found], [whole], nms) == found
    views = Tiling(2, 2).views(width, height)
    assert merge([found, *[()] * (len(views) - 1)], views, nms, class_agnostic=True) == found


@settings(max_examples=200, deadline=None)
@given(tiling=TILINGS, width=st.integers(100, 3000), height=st.integers(100, 3000), data=st.data())
def test_an_animal_that_some_tile_shows_whole_is_found_once_and_whole(tiling, width, height, data):
    """Whoever sees it reports what it sees, with any score; the whole picture may miss it."""
    views = tiling.views(width, height)
    tile = data.draw(st.sampled_from(views[1:] or views))
    inside = data.draw(boxes_in(int(tile.width), int(tile.height)))
    box = Box(*np.add(inside, np.tile(tile[:2], 2)).tolist())
    seen = [sight(box, view) for view in views]
    if len(views) > 1 and data.draw(st.booleans()):
        seen[0] = None
    scores = [data.draw(SCORE) for _ in views]
    found = [[spot(part, score)] if part else [] for part, score in zip(seen, scores)]
    nms = data.draw(st.sampled_from([0.3, 0.5, 0.95]))
    (only,) = merge(found, views, nms)
    assert iou(only.box, box)[0, 0] > 1 - 1e-9
    assert only.score == max(score for part, score in zip(seen, scores) if part)


def naive_suppression(found, nms):
    """The engines' rule, box by box: best first, and each falls to a better one that stays."""
    kept = []
    for one in sorted(found, key=lambda one: -one.score):
        if not any(other.label == one.label and iou(other.box, one.box)[0, 0] >= nms for other in kept):
            kept.append(one)
    return kept


@settings(max_examples=100, deadline=None)
@given(data=st.data(), nms=st.sampled_from([0.3, 0.5, 0.9]))
def test_where_no_border_cuts_anything_it_is_plain_suppression(data, nms):
    """One box at most in each view, none near a border inside: what is left is what the engines would leave."""
    views = Tiling(2, 2, 0.75).views(1000, 1000)  # each tile 800 x 800; 240 to 760 is in all, and far from borders
    middle = st.builds(
        lambda x, y, w, h: Box(*map(float, (x, y, x + w, y + h))),
        *[st.integers(260, 600)] * 2,
        *[st.integers(1, 140)] * 2,
    )
    scores = data.draw(st.lists(SCORE, min_size=5, max_size=5, unique=True))
    placed = [spot(data.draw(middle), score, data.draw(st.integers(0, 1))) for score in scores]
    found = [
        [spot(sight(one.box, view), one.score, one.label)] if data.draw(st.booleans()) else []
        for one, view in zip(placed, views)
    ]
    given_ = [one for one, some in zip(placed, found) if some]
    assert rows(*merge(found, views, nms)) == rows(*naive_suppression(given_, nms))
