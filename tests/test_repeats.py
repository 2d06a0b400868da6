"""Are stumps told from animals, and does a person get to see why?"""

from __future__ import annotations

import itertools
import json
import math
import random
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ena24ssd.boxes import Box, iou
from ena24ssd.detections import Detection, ImageDetections, read_megadetector, write_megadetector
from ena24ssd.repeats import Repeat, Rule, _Cells, camera_of, find_repeats, without_repeats
from ena24ssd.repeatspage import FILES, TRIED, locate, report_repeats
from ena24ssd.thresholds import Thresholds

NAMES = ("Deer", "Boar", "<Fox> & {{ friends }}")
HALF = Thresholds(0.5)
STUMP = Box(0.1, 0.6, 0.2, 0.75)
NOON = datetime(2019, 5, 3, 12)
SIZE = (320, 240)


def spot(box, label=0, score=0.8, size=SIZE):
    return Detection(label, NAMES[label], score, Box(*box).scale(*size))


def shot(number, *found, camera="cam1", taken_at=None, size=SIZE, file=None):
    return ImageDetections(file or f"{camera}/{number:05}.jpg", *size, found, taken_at=taken_at)


def daily(number):
    return NOON + timedelta(days=number)


def stumps(count, camera="cam1", box=STUMP, clock=daily, **kwargs):
    return [shot(n, spot(box, **kwargs), camera=camera, taken_at=clock(n)) for n in range(count)]


def jittered(box, by, rng):
    """The box with every edge off by up to the share ``by`` of the box."""
    move = rng.uniform(-by, by, 4) * np.tile([box.width, box.height], 2)
    return Box(*np.add(box, move).tolist())


def scattered(rng):
    """A box anywhere, of any size up to a fifth of the picture."""
    width, height = rng.uniform(0.03, 0.4, 2)
    left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    return Box(left, top, left + width, top + height)


def of(repeat):
    return repeat.camera, len(repeat.files), repeat.visits


# -- what is a repeat -------------------------------------------------------------------------------------------------


def test_a_stump_is_found_whatever_it_is_taken_for():
    images = [shot(n, spot(STUMP, label=n % 2, score=0.5 + n / 100), taken_at=daily(n)) for n in range(12)]
    (only,) = find_repeats(images, HALF)
    assert of(only) == ("cam1", 12, 12)
    assert np.allclose(only.box, STUMP)
    assert only.names == (("Boar", 6), ("Deer", 6)) and only.scores == pytest.approx((0.5, 0.555, 0.61))
    assert only.files == tuple(image.file for image in images)
    assert (only.first, only.last) == (daily(0), daily(11))


HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    "images, rule, expected",
    [
        (stumps(9), Rule(), []),
        (stumps(9), Rule(pictures=9), [("cam1", 9, 9)]),
        (stumps(200, clock=lambda n: NOON + n * timedelta(minutes=3)), Rule(), []),
        (stumps(200, clock=lambda n: NOON + n * timedelta(minutes=3)), Rule(visits=1), [("cam1", 200, 1)]),
        (stumps(200, clock=lambda n: NOON + n * timedelta(minutes=30)), Rule(), [("cam1", 200, 8)]),
        (stumps(20, clock=lambda n: NOON + (n % 2) * HOUR * 24), Rule(), []),
        (stumps(100, clock=lambda n: None), Rule(), []),
        (stumps(101, clock=lambda n: None), Rule(), [("cam1", 101, 3)]),
        ([shot(n, *([spot(STUMP)] if n % 60 < 4 else [])) for n in range(180)], Rule(), [("cam1", 12, 3)]),
        ([shot(n, *([spot(STUMP)] if n < 40 else [])) for n in range(180)], Rule(), []),
        (stumps(40, clock=lambda n: daily(n) if n else None), Rule(), []),
        (stumps(5) + stumps(5, camera="cam2"), Rule(), []),
        (stumps(12, camera="b") + stumps(10, camera="a"), Rule(), [("a", 10, 10), ("b", 12, 12)]),
        (stumps(6, camera="a/1") + stumps(6, camera="a/2"), Rule(), []),
        (stumps(6, camera="a/1") + stumps(6, camera="a/2"), Rule(camera_folders=1), [("a", 12, 6)]),
        (stumps(20, score=0.4), Rule(), []),
        (stumps(20, box=Box(0, 0, 0.5, 0.5)), Rule(), []),
        (stumps(20, box=Box(0, 0, 0.5, 0.5)), Rule(largest=0.3), [("cam1", 20, 20)]),
        ([replace(image, detections=image.detections * 3) for image in stumps(4)], Rule(), []),
        ([shot(n, size=(None, None)) for n in range(20)], Rule(), []),
        ([], Rule(), []),
    ],
    ids=[
        "on too few pictures",
        "on as many as are asked for",
        "a deer that rests for ten hours",
        "the same, where one visit is enough",
        "a stump on a time-lapse camera, for four days",
        "on twenty pictures of two moments",
        "no times: in two times fifty pictures in a row",
        "no times: in one more",
        "no times: in three visits far apart",
        "no times: a deer that fills forty pictures",
        "one time missing: order is asked",
        "the same place on two cameras",
        "two cameras in the order of their names",
        "folders of one camera, taken for cameras",
        "folders of one camera",
        "below the threshold",
        "what fills the picture",
        "what fills the picture, if it shall count",
        "three times on every picture, which are too few",
        "pictures that could not be read",
        "no pictures",
    ],
)
def test_what_is_a_repeat(images, rule, expected):
    assert [of(one) for one in find_repeats(images, HALF, rule)] == expected


def test_thresholds_of_species_say_what_counts():
    images = stumps(20, score=0.4, label=1)
    assert not find_repeats(images, Thresholds(0.3, {"Boar": 0.6}))
    assert find_repeats(images, Thresholds(0.6, {"Boar": 0.3}))


def test_where_the_results_know_no_time_the_files_are_asked_but_only_those_that_matter():
    rng = np.random.default_rng(0)
    images = [shot(n, *([spot(STUMP)] if n < 12 else [spot(scattered(rng))])) for n in range(60)]
    asked = []

    def time_of(file):
        asked.append(file)
        return daily(len(asked))

    (only,) = find_repeats(images, HALF, time_of=time_of)
    assert of(only) == ("cam1", 12, 12) and only.first == daily(1)
    assert sorted(asked) == [image.file for image in images[:12]]


@pytest.mark.parametrize(
    "file, root, folders, camera",
    [
        ("a/b/c.jpg", None, None, "a/b"),
        ("a/b/c.jpg", None, 1, "a"),
        ("a/b/c.jpg", None, 0, ""),
        ("c.jpg", None, None, ""),
        ("./a//c.jpg", None, None, "a"),
        ("a\\b\\c.jpg", None, None, "a/b"),
        ("/home/x/card/a/c.jpg", "/home/x/card", None, "a"),
        ("/home/x/cards/a/c.jpg", "/home/x/card", None, "home/x/cards/a"),
        ("a\n/<b>/c.jpg", None, None, "a\n/<b>"),
    ],
)
def test_a_camera_is_the_folders_of_its_pictures(file, root, folders, camera):
    assert camera_of(file, root, folders) == camera


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"overlap": 1.0}, "overlap is 1.0; it must be 0.5 to 0.99"),
        ({"overlap": math.nan}, "overlap is nan"),
        ({"pictures": 1}, "pictures is 1; it must be 2 or more"),
        ({"visits": 0}, "visits is 0"),
        ({"largest": 2}, "largest is 2"),
        ({"camera_folders": -1}, "camera_folders is -1"),
        ({"rest": -HOUR}, "it must not be negative"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        Rule(**changes)


def naive_neighbours(boxes, overlap):
    """How many overlap each enough, itself among them, pair by pair."""
    return (iou(boxes, boxes) >= overlap).sum(axis=1)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), overlap=st.sampled_from([0.25, 0.5, 0.7, 0.85, 0.9801, 0.99]))
def test_boxes_near_one_are_found_as_if_all_were_looked_at(seed, overlap):
    rng = np.random.default_rng(seed)
    places = [scattered(rng) for _ in range(4)] + [Box(0, 0, 1, 1), Box(0.5, 0.5, 0.5002, 0.5002)]
    boxes = np.array([jittered(places[n % 6], 1.2 * (1 - overlap), rng) for n in range(300)]).clip(0, 1)
    boxes = boxes[(boxes[:, 2:] - boxes[:, :2]).min(axis=1) >= 1e-4]
    cells, near = _Cells(boxes, overlap), iou(boxes, boxes) >= overlap
    assert all(sorted(cells.near(box)) == np.flatnonzero(row).tolist() for box, row in zip(boxes, near))
    crowd = cells.count_near(2)
    assert (crowd[near.sum(axis=1) > 1] == near.sum(axis=1)[near.sum(axis=1) > 1]).all()
    assert (crowd >= near.sum(axis=1)).all()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    overlap=st.sampled_from([0.5, 0.7, 0.85, 0.95, 0.99]),
    by=st.sampled_from([0.002, 0.03, 0.1]),
)
def test_every_place_where_boxes_are_alike_is_found_and_nothing_else(seed, overlap, by):
    """Against all pairs: no box that has enough others near it is left over, and groups are what they claim to be."""
    rng = np.random.default_rng(seed)
    places = [scattered(rng) for _ in range(3)]
    boxes = [jittered(places[n % 3], by, rng) if n % 2 else scattered(rng) for n in range(240)]
    rule = Rule(overlap=overlap, visits=1, largest=1.0)
    images = [shot(n, spot(box), taken_at=daily(n)) for n, box in enumerate(boxes)]
    repeats = find_repeats(images, HALF, rule)
    clipped = np.clip(boxes, 0, 1)
    number = {image.file: n for n, image in enumerate(images)}
    members = [[number[file] for file in one.files] for one in repeats]
    taken = list(itertools.chain.from_iterable(members))
    assert len(set(taken)) == len(taken)
    for one, some in zip(repeats, members):
        assert len(some) >= rule.pictures and iou(one.box, clipped[some]).min() >= overlap - 1e-9
    alone = np.setdiff1d(np.arange(len(boxes)), taken)
    crowd = naive_neighbours(clipped[alone], overlap) if len(alone) else np.zeros(0)
    # A tight group that nothing surrounds is never taken for chance; wide ones may be.
    if by == 0.002 and overlap <= 0.95:
        assert len(repeats) >= 1 and crowd.max(initial=0) < rule.pictures


def test_animals_along_a_path_are_not_taken_for_a_stump_however_many_they_are():
    """2,000 boxes of about one size on a narrow band heap up by chance; a stump among them stands out."""
    rng = np.random.default_rng(0)

    def animal():
        x, width = rng.uniform(0.2, 0.8), rng.uniform(0.12, 0.18)
        y, height = rng.normal(0.6, 0.03), rng.uniform(0.12, 0.18)
        return Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)

    images = [shot(n, spot(animal()), taken_at=daily(n)) for n in range(2000)]
    crowd = naive_neighbours(np.array([image.detections[0].box for image in images]) / np.tile(SIZE, 2), 0.85)
    assert crowd.max() >= 10  # as many than a repeat needs
    assert find_repeats(images, HALF) == ()
    for n in range(0, 2000, 50):
        images[n] = shot(n, spot(jittered(STUMP, 0.02, rng)), taken_at=daily(n))
    (only,) = find_repeats(images, HALF)
    assert 38 <= len(only.files) <= 44 and iou(only.box, STUMP)[0, 0] > 0.95


def test_the_answer_is_the_same_every_time_and_two_cameras_may_be_mixed():
    rng = np.random.default_rng(0)
    images = [
        shot(n, spot(jittered(STUMP, 0.05, rng)), spot(scattered(rng)), camera=camera, taken_at=daily(n))
        for camera in ("a", "b")
        for n in range(100)
    ]
    expected = find_repeats(images, HALF)
    assert expected and find_repeats(images, HALF) == expected
    mixed = [image for pair in zip(images[:100], images[100:]) for image in pair]
    assert find_repeats(mixed, HALF) == expected


@pytest.mark.parametrize("kind", ["all on one stump", "anywhere", "in a smear"])
def test_a_camera_with_very_many_detections_is_no_trouble(kind):
    """Quadratic, this would be 200 million pairs."""
    rng, size = np.random.default_rng(0), 20_000
    edges = {
        "all on one stump": np.array(STUMP) + rng.normal(0, 0.003, (size, 4)),
        "anywhere": np.array([scattered(rng) for _ in range(size)]),
        "in a smear": np.array(STUMP) + np.tile(rng.uniform(0, 0.5, (size, 1)) * [1, 0.3], 2),
    }[kind]
    images = (
        shot(n, Detection(0, "Deer", 0.9, Box(*box)), taken_at=daily(n), size=(1, 1))
        for n, box in enumerate(edges.tolist())
    )
    repeats = find_repeats(images, HALF)
    assert bool(repeats) == (kind != "anywhere")
    assert sum(len(one.files) for one in repeats) >= {"all on one stump": 0.95 * size}.get(kind, 0)


# -- without them -----------------------------------------------------------------------------------------------------


def test_without_repeats_everything_else_stays_as_it_was():
    animal, other = spot(Box(0.5, 0.5, 0.6, 0.6)), spot(Box(0.1, 0.6, 0.2, 0.8))
    images = [
        *stumps(12),
        shot(90, spot(STUMP, score=0.1), animal, taken_at=daily(90)),
        shot(91, other, taken_at=daily(91)),
        shot(92),
        shot(93, spot(STUMP), camera="cam2"),
        ImageDetections("cam1/bad.jpg", None, None, failure="the file is empty"),
    ]
    repeats = find_repeats(images, HALF)
    left = list(without_repeats(images, repeats))
    assert [image.file for image in left] == [image.file for image in images]
    assert all(image.detections == () for image in left[:12])
    assert left[12].detections == (animal,)  # the stump goes where it scored low, too
    assert left[13:] == images[13:]
    assert find_repeats(left, HALF) == ()


def test_absolute_names_are_of_the_camera_that_their_root_says(tmp_path):
    images = [replace(image, file=str(tmp_path / image.file)) for image in stumps(12)]
    repeats = find_repeats(images, HALF, root=tmp_path)
    assert repeats[0].camera == "cam1"
    assert not any(image.detections for image in without_repeats(images, repeats, root=tmp_path))


# -- the report -------------------------------------------------------------------------------------------------------


@pytest.fixture
def card(tmp_path):
    """A card with a stump on a camera of 14 pictures, an animal on two of them, and its results as JSON."""
    rng = random.Random(0)
    root = tmp_path / "card"
    images = []
    for n in range(14):
        found = [spot(STUMP, label=2 * (n % 2), score=0.9 - n / 50)]
        found += [spot(Box(0.5, 0.5, 0.6 + n / 100, 0.6), label=1)] if n in (3, 4) else []
        images.append(shot(n, *found, taken_at=daily(n)))
        path = root / images[-1].file
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0132] = f"{daily(n):%Y:%m:%d %H:%M:%S}"
        Image.new("RGB", SIZE, tuple(rng.randrange(256) for _ in range(3))).save(path, exif=exif)
    results = root / "results.json"
    advice = {"typical_detection_threshold": 0.6, "species_thresholds": {"Deer": 0.7}}
    write_megadetector(results, images, NAMES, detector="test", detector_metadata=advice)
    return results, images


def test_the_report_of_a_json(card, tmp_path):
    results, _ = card
    before = results.read_bytes()
    report = report_repeats(results, tmp_path / "out", quiet=True)
    assert results.read_bytes() == before
    (only,) = report.repeats
    # Deer counts from .7 on: on pictures 0, 2, ..., 10; the other from .6 on: 1, 3, ..., 13.
    assert of(only) == ("cam1", 13, 13) and only.first == daily(0)
    assert (report.pictures, report.detections, report.removed, report.emptied) == (14, 15, 13, 11)
    assert report.cameras == 1
    assert [path.name for path in report.files] == list(FILES) and all(path.exists() for path in report.files)

    left, names = read_megadetector(tmp_path / "out" / "filtered.json")
    assert names == NAMES
    assert [len(image.detections) for image in left] == [int(n in (3, 4)) for n in range(14)]
    document, original = (json.loads(path.read_text()) for path in (report.files[2], results))
    assert document["info"] == original["info"]
    listed = json.loads(report.files[1].read_text())
    assert listed["repeats"][0]["files"] == list(only.files)
    assert listed["repeats"][0]["bbox"] == pytest.approx(STUMP.xywh, abs=1e-5)
    assert listed["repeats"][0]["first"] == "2019-05-03T12:00:00" and listed["rule"]["rest"] == 12 * 3600

    page = report.files[0].read_text("utf-8")
    assert "data:image/jpeg" in page and "<script" not in page and "2019-05-03 12:00" in page
    assert "&lt;Fox&gt; &amp; {{ friends }}" in page and "<Fox>" not in page


def test_what_a_person_knows_to_be_an_animal_stays(card, tmp_path):
    results, _ = card
    report = report_repeats(results, tmp_path / "out", spared=[1], quiet=True)
    assert report.removed == report.emptied == 0
    assert json.loads((tmp_path / "out" / "filtered.json").read_text()) == json.loads(results.read_text())
    assert "an animal: left in" in report.files[0].read_text("utf-8")
    with pytest.raises(ValueError, match="there is no repeat number 2; there are 1 of them"):
        report_repeats(results, tmp_path / "out", spared=[2], quiet=True)


def test_the_results_of_other_tools_keep_all_that_is_theirs(tmp_path):
    found = {"category": "1", "conf": 0.9, "bbox": [*STUMP.xywh], "classifications": [["3", 0.8]]}
    stranger = {"category": "7", "conf": 0.2, "bbox": [0.5, 0.5, 0.1, 0.1]}
    document = {
        "info": {"format_version": "1.0", "detector_metadata": "none of ours"},
        "detection_categories": {"1": "animal"},
        "classification_categories": {"3": "Reh"},
        "images": [
            {"file": f"a\\{n}.jpg", "max_detection_conf": 0.9, "detections": [found, stranger], "datetime": "x"}
            for n in range(120)
        ]
        + [{"file": "a\\bad.jpg", "failure": "Failure image access", "detections": None}],
    }
    (tmp_path / "md.json").write_text(json.dumps(document))
    report = report_repeats(tmp_path / "md.json", tmp_path / "out", quiet=True)
    assert [of(one) for one in report.repeats] == [("a", 120, 3)]
    left = json.loads((tmp_path / "out" / "filtered.json").read_text())
    for entry in document["images"][:-1]:
        entry |= {"detections": [stranger], "max_detection_conf": 0.2}
    assert left == document
    assert "None of its pictures could be read below" in report.files[0].read_text("utf-8")


def test_the_report_of_pictures_in_memory(card, tmp_path):
    results, images = card
    root = results.parent
    absolute = [replace(image, file=str(root / image.file)) for image in images]
    written = []

    def write(path, some):
        written.extend(some)
        path.write_text("{}")

    options = {"root": root, "thresholds": HALF, "quiet": True}
    first = report_repeats(lambda: iter(absolute), tmp_path / "out", write=write, **options)
    second = report_repeats(absolute, tmp_path / "out2", **options)
    assert first.repeats == second.repeats and first.removed == 14 and len(written) == 14
    assert len(first.files) == 3 and len(second.files) == 2 and "filtered.json" not in second.files[0].read_text()
    assert "data:image/jpeg" in first.files[0].read_text("utf-8")
    with pytest.raises(ValueError, match="can be walked through once only"):
        report_repeats(iter(absolute), tmp_path / "out3", **options)


def test_no_repeat_is_a_report_too(tmp_path):
    report = report_repeats(list, tmp_path / "out", quiet=True)
    assert report.repeats == () and "There is nothing to do" in report.files[0].read_text("utf-8")


def test_results_are_not_written_over(tmp_path):
    (tmp_path / "filtered.json").write_text("{}")
    with pytest.raises(ValueError, match="would be written over"):
        report_repeats(tmp_path / "filtered.json", tmp_path, quiet=True)
    assert (tmp_path / "filtered.json").read_text() == "{}"


@pytest.mark.parametrize(
    "name",
    [
        "<script>alert(1)</script>.jpg",
        "a\nb\r\x1b[31m.jpg",
        "ü\udce4\u202e.jpg",
        "x" * 300 + ".jpg",
        "a\0b.jpg",
        "../../x.jpg",
    ],
    ids=["html", "newlines", "no Unicode, and turned round", "300 letters", "a zero", "out of the folder"],
)
def test_hostile_names_are_shown_and_nothing_more(tmp_path, name):
    images = [
        replace(image, file=f"{name}/{number}" + name.replace("/", "-")) for number, image in enumerate(stumps(12))
    ]
    report = report_repeats(images, tmp_path / "out", root=tmp_path, thresholds=HALF, quiet=True)
    assert len(report.repeats) == 1
    page = report.files[0].read_text("utf-8")
    assert "<script" not in page and "\u202e" not in page and "\x1b" not in page
    assert json.loads(report.files[1].read_text())["repeats"][0]["files"] == [image.file for image in images]


def test_pictures_that_are_gone_or_broken_are_passed_over(card, tmp_path):
    results, images = card
    root = results.parent
    broken = [b"", b"<html>", (root / images[2].file).read_bytes()[:300]]
    for image, content in zip(images, broken):
        (root / image.file).write_bytes(content)
    (root / images[3].file).unlink()
    (root / images[4].file).unlink()
    (root / images[4].file).mkdir()
    report = report_repeats(images, tmp_path / "out", root=root, thresholds=HALF, quiet=True)
    page = report.files[0].read_text("utf-8")
    assert "data:image/jpeg" in page and f"{images[-1].file}" in page and f"{images[0].file}<" not in page


def test_only_pictures_below_the_root_are_opened(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    Image.new("RGB", SIZE).save(tmp_path / "secret.png")
    Image.new("RGB", SIZE).save(root / "a.png")
    assert locate("a.png", root) == root / "a.png" and locate(".\\a.png", root) == root / "a.png"
    assert locate("../secret.png", root) is None and locate(str(tmp_path / "secret.png"), root) is None
    assert locate("a.png", None) is None


def test_a_box_at_any_place_of_any_picture_is_drawn(tmp_path):
    for number, (size, box) in enumerate(
        [
            ((40, 900), Box(0, 0, 1, 0.01)),
            ((900, 40), Box(0.5, 0, 0.502, 1)),
            ((1, 1), Box(0, 0, 0.4, 0.4)),
            ((2000, 1500), Box(0.999, 0.999, 1, 1)),
            ((300, 300), Box(0.3, 0.3, 0.7, 0.7)),
        ]
    ):
        Image.new("RGB", size, (90, 90, 90)).save(tmp_path / f"{number}.jpg")
        images = [
            shot(n, spot(box, size=size), file=f"{number}.jpg", size=size, taken_at=daily(n)) for n in range(TRIED)
        ]
        report = report_repeats(images, tmp_path / "out", root=tmp_path, thresholds=HALF, quiet=True)
        assert "data:image/jpeg" in report.files[0].read_text("utf-8")


def test_a_page_of_many_repeats_shows_those_on_most_pictures(tmp_path):
    images = [image for camera in range(63) for image in stumps(10 + camera, camera=f"c{camera:02}")]
    report = report_repeats(images, tmp_path / "out", root=tmp_path, thresholds=HALF, quiet=True)
    page = report.files[0].read_text("utf-8")
    assert page.count("<section>") == 60 and "3 more stand in" in page
    assert "63: on 72 pictures" in page and "1: on 10 pictures" not in page.split("<section>")[1]
    assert isinstance(report.repeats[0], Repeat) and len(report.repeats) == 63
