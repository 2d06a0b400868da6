"""Is every picture on exactly one side, and always the same one?"""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ena24ssd.boxes import Box, LabelledBox
from ena24ssd.cameratraps import Image, read
from ena24ssd.splits import (
    SIDES,
    Split,
    count_groups,
    split_at_random,
    split_by_group,
    split_by_listing,
    split_images,
)

ENA24 = Path(__file__).parents[2] / "shared" / "data" / "ena24" / "ena24.json"
KINDS = ("listing", "random", "grouped")


def pictures(count: int, cameras: int = 7) -> list[Image]:
    return [Image(str(number), f"{number}.jpg", 8, 8, location=f"camera {number % cameras}") for number in range(count)]


def sizes(split: Split) -> tuple[int, int, int]:
    return len(split.train), len(split.validation), len(split.test)


SHARES = st.tuples(st.integers(1, 10), st.integers(0, 10), st.integers(0, 10)).map(
    lambda parts: tuple(part / sum(parts) for part in parts)
)


@settings(deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    cameras=st.lists(st.integers(0, 9), min_size=1, max_size=60),
    shares=SHARES,
    seed=st.integers(0, 2**32),
    shuffle=st.randoms(use_true_random=False),
)
def test_a_split_is_complete_disjoint_filled_and_blind_to_the_order(kind, cameras, shares, seed, shuffle):
    images = [Image(str(i), f"{i}.jpg", 8, 8, location=str(camera)) for i, camera in enumerate(cameras)]
    try:
        split = split_images(images, kind, shares, seed)
    except ValueError:  # only where a side with a share must go without
        if kind == "grouped":
            assert len(set(cameras)) < sum(share > 0 for share in shares)
        else:
            assert any(0 < share * len(images) < 1.001 for share in shares)
        return
    assert Counter(split.train + split.validation + split.test) == Counter(image.id for image in images)
    for count, share in zip(sizes(split), shares, strict=True):
        assert (count > 0) == (share > 0)
    shuffled = shuffle.sample(images, len(images))
    assert split_images(shuffled, kind, shares, seed) == split
    if kind != "grouped":
        assert all(abs(count - len(images) * share) < 1.001 for count, share in zip(sizes(split), shares, strict=True))
    else:
        side_of = {image_id: side for side in SIDES for image_id in getattr(split, side)}
        for camera in set(cameras):
            assert len({side_of[image.id] for image in images if image.location == str(camera)}) == 1


def test_the_listing_is_the_natural_order_of_file_names_cut_without_shuffling():
    names = ["b/1.jpg", "10.jpg", "9.jpg", "a2.jpg", "a10.jpg", "a20x.jpg", "09.jpg", "1" * 5000 + ".jpg"]
    images = [Image(name, name, 8, 8) for name in names]
    split = split_by_listing(images, (0.5, 0.25, 0.25))
    assert split.train == ("09.jpg", "9.jpg", "10.jpg", "1" * 5000 + ".jpg")
    assert split.validation == ("a2.jpg", "a10.jpg")
    assert split.test == ("a20x.jpg", "b/1.jpg")


CUTS = [
    ("the post: 8,789 pictures at 0.8", 8789, (0.8, 0.0, 0.2), (7031, 0, 1758)),
    ("0.29 of 100 is 29, though not in floats", 100, (0.29, 0.0, 0.71), (29, 0, 71)),
    ("tenths that do not add up in floats", 10, (0.7, 0.2, 0.1), (7, 2, 1)),
    ("no test: nothing is left over for it", 7, (0.5, 0.5, 0.0), (3, 4, 0)),
    ("everything is learnt", 3, (1, 0, 0), (3, 0, 0)),
]


@pytest.mark.parametrize("split", [split_by_listing, split_at_random])
@pytest.mark.parametrize(("count", "shares", "expected"), [pytest.param(*row[1:], id=row[0]) for row in CUTS])
def test_cuts_are_rounded_down(split, count, shares, expected):
    assert sizes(split(pictures(count), shares)) == expected


@settings(deadline=None, max_examples=50)
@given(groups=st.lists(st.integers(0, 9), min_size=3, max_size=60), shares=SHARES, seed=st.integers(0, 2**32))
def test_groups_stay_whole(groups, shares, seed):
    images = [Image(str(i), f"{i}.jpg", 8, 8) for i in range(len(groups))]
    named = {str(i): group for i, group in enumerate(groups)}
    if len(set(groups)) < sum(share > 0 for share in shares):
        with pytest.raises(ValueError, match="cannot fill"):
            split_images(images, "grouped", shares, seed, named)
        return
    split = split_images(images, "grouped", shares, seed, named)
    side_of = {image_id: side for side in SIDES for image_id in getattr(split, side)}
    assert sorted(side_of) == sorted(named)
    assert all((count > 0) == (share > 0) for count, share in zip(sizes(split), shares, strict=True))
    assert len({(group, side_of[image_id]) for image_id, group in named.items()}) == len(set(groups))


@pytest.mark.parametrize("kind", ["random", "grouped"])
def test_another_seed_is_another_split(kind):
    images = pictures(200, cameras=40)
    assert len({split_images(images, kind, seed=seed).test for seed in range(10)}) > 5


def test_a_random_split_never_changes():
    split = split_at_random(pictures(10), (0.6, 0.2, 0.2), seed=3)
    assert split == Split(("9", "6", "0", "2", "1", "4"), ("7", "5"), ("3", "8"))


def test_a_random_split_tests_every_part_of_the_listing():
    split = split_at_random(pictures(1000), (0.8, 0.0, 0.2), seed=1)
    quarters = Counter(int(image_id) // 250 for image_id in split.test)
    assert min(quarters.values()) > 25


def test_locations_of_all_sizes_meet_the_shares_closely():
    draw = random.Random(0)
    images = [
        Image(f"{camera}-{n}", f"{camera}-{n}.jpg", 8, 8, location=str(camera))
        for camera in range(60)
        for n in range(draw.randrange(1, 100))
    ]
    for seed in range(20):
        split = split_by_group(images, (0.7, 0.1, 0.2), seed)
        for count, share in zip(sizes(split), (0.7, 0.1, 0.2), strict=True):
            assert count / len(images) == pytest.approx(share, abs=0.03)


def test_the_largest_camera_does_not_swamp_a_small_share():
    images = pictures(100, cameras=10) + [Image(f"x{n}", f"x{n}.jpg", 8, 8, location="x") for n in range(100)]
    for seed in range(20):
        assert "x0" in split_by_group(images, (0.8, 0.1, 0.1), seed).train


def test_a_sequence_stands_in_for_a_location_and_borrows_one_it_is_known_by():
    images = [
        Image("1", "1.jpg", 8, 8, location="oak", sequence="s1"),
        Image("2", "2.jpg", 8, 8, location=None, sequence="s1"),
        Image("3", "3.jpg", 8, 8, location="oak", sequence=None),
        Image("4", "4.jpg", 8, 8, location=None, sequence="oak"),
        Image("5", "5.jpg", 8, 8, location=None, sequence="oak"),
    ]
    for seed in range(8):
        split = split_by_group(images, (0.5, 0.0, 0.5), seed)
        assert {frozenset(split.train), frozenset(split.test)} == {frozenset("123"), frozenset("45")}


def sides_of(split: Split) -> dict[str, str]:
    return {image_id: side for side in SIDES for image_id in getattr(split, side)}


def together(images: list[Image], groups: dict[str, int] | None) -> set[str]:
    """Which pictures are on the same side whatever the seed, among cameras enough for the others to differ."""
    others = [Image(f"other {n}", f"other {n}.jpg", 8, 8, location=f"camera {n % 20}") for n in range(50)]
    splits = [sides_of(split_by_group(images + others, (0.5, 0.0, 0.5), seed, groups)) for seed in range(16)]
    return {"".join(b.id for b in images if all(split[a.id] == split[b.id] for split in splits)) for a in images}


def known(image_id: str, location: str | None = None, sequence: str | None = None) -> Image:
    return Image(image_id, f"{image_id}.jpg", 8, 8, location=location, sequence=sequence)


TOGETHER = [
    (
        "without location and sequence, groups decide, and a picture in none is alone",
        [known(i) for i in "abcdef"],
        dict(a=7, b=7, c=3, d=3, e=1),
        {"ab", "cd", "e", "f"},
    ),
    (
        "where everything has a location, groups change nothing",
        [known("a", "oak"), known("b", "oak"), known("c", "elm"), known("d", "ash")],
        dict(a=1, b=2, c=1, d=1),
        {"ab", "c", "d"},
    ),
    (
        "a picture without goes with the camera that most of its group are of",
        [known("a", "oak"), known("b", "elm"), known("c", "elm"), known("d"), known("e"), known("f", "ash")],
        dict(a=1, b=1, c=1, d=1, e=2, f=3),
        {"a", "bcd", "e", "f"},
    ),
    (
        "a sequence with two locations makes them one camera",
        [known("a", "oak", "1"), known("b", "elm", "1"), known("c", "elm", "2"), known("d", "ash", "3")]
        + [known(f"{n}", "fir", f"s{n}") for n in range(9)],
        None,
        {"abc", "d", "012345678"},
    ),
    (
        "sequences that every camera numbers anew tie nothing",
        [known("a", "oak", "1"), known("b", "elm", "1"), known("c", "elm", "2"), known("d", "oak", "2")],
        None,
        {"ad", "bc"},
    ),
]


@pytest.mark.parametrize(("images", "groups", "expected"), [pytest.param(*row[1:], id=row[0]) for row in TOGETHER])
def test_what_is_kept_together(images, groups, expected):
    assert together(images, groups) == expected


def test_the_numbers_of_groups_mean_nothing():
    images = [known(str(n)) for n in range(60)]
    groups = {str(n): n // 4 for n in range(60)}
    renamed = {image_id: 1000 - 3 * group for image_id, group in groups.items()}
    assert split_images(images, "grouped", groups=groups) == split_images(images, "grouped", groups=renamed)


NEEDS = [
    ("nothing is known", [known("a"), known("b")], True),
    ("one picture of many is lost", [known("a", "oak"), known("b")], True),
    ("sequences will do", [known("a", "oak"), known("b", None, "s")], False),
    ("no pictures", [], False),
]


@pytest.mark.parametrize(("images", "expected"), [pytest.param(*row[1:], id=row[0]) for row in NEEDS])
def test_pictures_are_looked_at_only_where_the_json_is_silent(images, expected):
    assert (count_groups(images) is None) == expected


def unevenness(images: list[Image], split: Split) -> float:
    """The mean over species and sides of how far off a side is from what is due to it."""
    side_of, shares = sides_of(split), dict(zip(SIDES, (0.7, 0.1, 0.2), strict=True))
    shown = Counter((box.label, side_of[image.id]) for image in images for box in image.boxes)
    totals = Counter(box.label for image in images for box in image.boxes)
    off = [abs(shown[label, side] / (shares[side] * totals[label]) - 1) for label in totals for side in SIDES]
    return sum(off) / len(off)


def test_species_are_spread_far_more_evenly_than_by_chance():
    """Cameras of 5 to 40 pictures, three of ten species at each, common and rare ones."""
    chance, placed = [], []
    for seed in range(10):
        draw = random.Random(seed)
        images = []
        for camera in range(80):
            residents = draw.choices(range(10), weights=[0.75**k for k in range(10)], k=3)
            for n in range(draw.randrange(5, 40)):
                boxes = (LabelledBox(draw.choice(residents), Box(0, 0, 4, 4)),) if n % 5 else ()
                images.append(Image(f"{camera}-{n}", f"{camera}-{n}.jpg", 8, 8, boxes, str(camera)))
        placed.append(unevenness(images, split_by_group(images, (0.7, 0.1, 0.2), seed)))
        cameras = [str(camera) for camera in range(80)]
        draw.shuffle(cameras)
        by_chance = [
            tuple(image.id for image in images if image.location in own)
            for own in (cameras[:56], cameras[56:64], cameras[64:])
        ]
        chance.append(unevenness(images, Split(*by_chance)))
    assert sum(placed) < 0.4 * sum(chance), (placed, chance)


def test_a_species_at_one_camera_only_is_learnt():
    images = pictures(100, cameras=10)
    images += [Image(f"x{n}", f"x{n}.jpg", 8, 8, (LabelledBox(3, Box(0, 0, 4, 4)),), "x") for n in range(10)]
    for seed in range(10):
        assert "x0" in split_by_group(images, (0.8, 0.1, 0.1), seed).train


def test_sides_with_tiny_shares_still_get_a_location():
    split = split_by_group(pictures(100, cameras=10), (0.98, 0.01, 0.01))
    assert sizes(split) == (80, 10, 10)


REFUSED = [
    ("an unknown kind", dict(kind="blog"), "there is no kind 'blog'; choose listing, random or grouped"),
    ("two shares", dict(shares=(0.8, 0.2)), r"shares are \(0.8, 0.2\)"),
    ("shares above one", dict(shares=(0.8, 0.2, 0.2)), "sum to 1"),
    ("shares below one", dict(shares=(0.7, 0.1, 0.1)), "sum to 1"),
    ("a negative share", dict(shares=(1.2, 0.0, -0.2)), "each be 0 or more"),
    ("a NaN share", dict(shares=(float("nan"), 0.5, 0.5)), "each be 0 or more"),
    ("nothing to learn from", dict(shares=(0.0, 0.5, 0.5)), "train share of 0"),
    ("too few pictures", dict(images=pictures(2), shares=(0.8, 0.1, 0.1)), "gives validation none"),
    ("no pictures", dict(images=[]), "of 0 pictures gives train none"),
    ("too few locations", dict(kind="grouped", images=pictures(9, cameras=1)), "1 groups .* cannot fill 2 sides"),
    ("no locations", dict(kind="grouped", images=[Image("7", "7.jpg", 8, 8)]), r"first: image '7'\) have neither"),
]  # fmt: skip


@pytest.mark.parametrize(("choices", "message"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED])
def test_senseless_choices_are_refused_with_a_way_out(choices, message):
    with pytest.raises(ValueError, match=message):
        split_images(**{"images": pictures(50), "kind": "random", **choices})


def test_a_split_survives_json():
    split = split_at_random(pictures(20), (0.5, 0.25, 0.25))
    assert Split.from_json(json.loads(json.dumps(split.to_json()))) == split


NOT_A_SPLIT = [
    ("a list", [], "must be an object with the keys train, validation, test"),
    ("a side too few", {"train": [], "test": []}, "must be an object with the keys"),
    ("a side that is text", {"train": "ab", "validation": [], "test": []}, "'train' must be a list of image ids"),
    ("ids that are numbers", {"train": [], "validation": [], "test": [1]}, "'test' must be a list of image ids"),
    ("a picture on two sides", {"train": ["a"], "validation": [], "test": ["b", "a"]}, "image 'a' is listed twice"),
]


@pytest.mark.parametrize(("document", "message"), [pytest.param(*row[1:], id=row[0]) for row in NOT_A_SPLIT])
def test_json_that_is_no_split_is_refused(document, message):
    with pytest.raises(ValueError, match=message):
        Split.from_json(document)


@pytest.mark.skipif(not ENA24.is_file(), reason=f"the real annotation file is not at {ENA24}")
def test_ena24_splits_as_in_the_post_and_needs_a_look_to_be_grouped():
    images = read(ENA24, check_files=False).without("Human").images
    split = split_by_listing(images)
    assert sizes(split) == (7_031, 0, 1_758)
    assert split.train[:3] == ("1", "2", "3")
    assert count_groups(images) is None
    with pytest.raises(ValueError, match=r"8789 of 8789 pictures .* neither a location nor a sequence"):
        split_by_group(images)


def test_where_each_camera_numbers_its_own_sequences_a_lost_picture_is_nobodys():
    images = [
        Image(f"{camera}{sequence}{frame}", f"{camera}{sequence}{frame}.jpg", 8, 8, location=camera, sequence=sequence)
        for camera in ("oak", "elm")
        for sequence in "01234"
        for frame in "ab"
    ]
    lost = Image("lost", "lost.jpg", 8, 8, sequence="3")
    assert count_groups([*images, lost]) is None and count_groups(images) == 2
    with pytest.raises(ValueError, match="first: image 'lost'"):
        split_by_group([*images, lost], (0.5, 0, 0.5))
    groups = {image.id: 0 for image in images if image.location == "elm" and image.sequence == "3"} | {"lost": 0}
    for seed in range(5):
        split = split_by_group([*images, lost], (0.5, 0, 0.5), seed, groups)
        assert ("lost" in split.train) == ("elm3a" in split.train)
