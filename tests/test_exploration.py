"""Are the figures right, and is nothing said that was not measured?"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from PIL import ImageDraw

from ena24ssd.anchors import Anchors, count_cells, level_iou
from ena24ssd.boxes import Box, LabelledBox, iou
from ena24ssd.cameratraps import AnnotationError, CameraTrapDataset, Image
from ena24ssd.config import RunConfig, change_config
from ena24ssd.exploration import (
    AREA_EDGES,
    BORDER,
    examine,
    heat_map,
    measure_light,
    read_for_exploration,
    spread_evenly,
    tabulate,
)
from ena24ssd.pictures import is_grey, view_of
from ena24ssd.sources import Source

SPECIES = ("deer", "fox", "lynx")


def random_dataset(seed: int = 0, pictures: int = 60, species: tuple[str, ...] = SPECIES) -> CameraTrapDataset:
    rng = np.random.default_rng(seed)
    images = []
    for number in range(pictures):
        width, height = ((640, 480), (480, 640), (1920, 1080))[number % 3]
        boxes = []
        for _ in range(int(rng.integers(0, 4))):
            left, top = rng.uniform(0, 0.8) * width, rng.uniform(0, 0.8) * height
            box = Box(left, top, rng.uniform(left + 5, width), rng.uniform(top + 5, height))
            boxes.append(LabelledBox(int(rng.integers(0, len(species) - 1)), box))  # the last one is never seen
        images.append(Image(str(number), f"{number}.jpg", width, height, tuple(boxes)))
    return CameraTrapDataset(species, tuple(images), Path("nowhere"), (), "random.json")


def look(dataset: CameraTrapDataset, **changes):
    return examine(Source(dataset, None), change_config(RunConfig(), changes), sample=0)


@pytest.fixture(scope="module")
def dataset() -> CameraTrapDataset:
    return random_dataset()


@pytest.fixture(scope="module")
def found(dataset):
    return look(dataset)


# -- counts, against counting by hand ---------------------------------------------------------------------------------


def test_pictures_by_number_of_boxes(dataset, found):
    assert found.box_counts.tolist() == [sum(len(i.boxes) == n for i in dataset.images) for n in range(4)]
    assert found.blanks == dataset.blanks and found.mixed == dataset.mixed


def test_species_by_boxes_and_by_pictures(dataset, found):
    for row in found.species:
        labels = [[label for label, _ in image.boxes] for image in dataset.images]
        assert row.name == SPECIES[row.label]
        assert row.boxes == sum(each.count(row.label) for each in labels)
        assert row.pictures == sum(row.label in each for each in labels)
    assert [row.boxes for row in found.species] == sorted((row.boxes for row in found.species), reverse=True)


def test_a_species_without_boxes_is_listed_and_has_no_figures(found):
    assert found.species[-1] == (2, "lynx", 0, 0, None, None, None, None, None)


def test_sizes_shapes_and_borders(dataset, found):
    for row in found.species[:-1]:
        boxes = [(i, box) for i in dataset.images for label, box in i.boxes if label == row.label]
        sides = [(box.area / (i.width * i.height)) ** 0.5 for i, box in boxes]
        shapes = [box.width / box.height for _, box in boxes]
        assert row.side == pytest.approx(np.quantile(sides, [0.05, 0.25, 0.5, 0.75, 0.95]))
        assert row.shape == pytest.approx(np.quantile(shapes, [0.05, 0.25, 0.5, 0.75, 0.95]))
    near = [
        min(b.left / i.width, b.top / i.height, 1 - b.right / i.width, 1 - b.bottom / i.height) < BORDER
        for i in dataset.images
        for _, b in i.boxes
    ]
    assert found.near_border == pytest.approx(np.mean(near))


def test_areas_are_counted_once_each_and_the_smallest_too(dataset, found):
    areas = [box.area / (i.width * i.height) for i in dataset.images for _, box in i.boxes]
    by_hand = [sum(low <= a < high for a in areas) for low, high in pairwise(AREA_EDGES)]
    assert found.area_counts.tolist() == by_hand
    speck = LabelledBox(0, Box(0, 0, 0.5, 0.5))
    whole = LabelledBox(0, Box(0, 0, 4000, 3000))
    tiny = look(CameraTrapDataset(("a",), (Image("1", "1.jpg", 4000, 3000, (speck, whole)),), Path(), (), "x"))
    assert (tiny.area_counts[0], tiny.area_counts[-1]) == (1, 1)


@pytest.mark.parametrize("fit", ["squash", "letterbox"])
def test_corners_in_the_square_are_those_of_every_single_box(dataset, fit):
    table = tabulate(dataset.images, 96, fit)
    by_hand = [
        box.relative_to(view_of(image.width, image.height, 96, fit))
        for image in dataset.images
        for _, box in image.boxes
    ]
    assert np.allclose(table.square, np.array(by_hand), atol=1e-12)
    assert [dataset.images[k].id for k in table.picture] == [i.id for i in dataset.images for _ in i.boxes]


@pytest.mark.parametrize("fit", ["squash", "letterbox"])
def test_coverage_is_that_of_comparing_every_box_with_every_anchor(dataset, fit):
    found = look(dataset, **{"data.image_side": 96, "data.fit": fit, "loss.overlap": 0.4})
    config = RunConfig()
    anchors = Anchors(count_cells(96), config.model.sizes, config.model.ratios)
    assert found.anchors.configured == (anchors,)
    (suggested,) = found.anchors.suggested
    for scored, shares in ((anchors, "covered"), (suggested, "suggested")):
        matched = iou(found.boxes.square, scored.corners).max(axis=1) > 0.4
        for row in found.species[:-1]:
            assert getattr(row, shares) == pytest.approx(matched[found.boxes.label == row.label].mean())
    assert found.anchors.covered <= found.anchors.covered_by_suggested <= found.anchors.reachable
    assert suggested.per_cell == anchors.per_cell  # the same cost
    assert found.anchors.served == (found.anchors.covered,)


LEVELS = {
    "model.backbone": "efficientnet_lite0",
    "data.image_side": 64,
    "model.levels": [8, 16, 32],
    "model.sizes": [[0.3, 0.4], [0.5, 0.6], [0.9, 1.1]],
    "model.ratios": [1, 0.5],
}


def test_coverage_over_levels_is_that_of_comparing_every_box_with_all_their_anchors(dataset):
    fit = look(dataset, **LEVELS).anchors
    square = tabulate(dataset.images, 64, "squash").square
    assert fit.strides == (8, 16, 32) and [level.cells for level in fit.configured] == [8, 4, 2]
    for levels, covered, served, matches in (
        (fit.configured, fit.covered, fit.served, fit.matches[0]),
        (fit.suggested, fit.covered_by_suggested, fit.served_by_suggested, fit.matches[1]),
    ):
        each = np.stack([iou(square, level.corners).max(axis=1) for level in levels], axis=1)
        assert np.array_equal(matches, each.max(axis=1) > 0.5) and covered == matches.mean()
        best = level_iou(square, levels).argmax(axis=1)
        assert served == tuple(((best == level) & matches).mean() for level in range(3))
        assert sum(served) == pytest.approx(covered)
    assert fit.covered < fit.covered_by_suggested <= fit.reachable == fit.matches[2].mean()


def test_plain_data_of_levels_is_what_a_config_takes(dataset):
    figures = json.loads(json.dumps(look(dataset, **LEVELS).to_json(), allow_nan=False))["anchors"]
    assert figures["configured"] == {"sizes": LEVELS["model.sizes"], "ratios": [1, 0.5]}
    pasted = change_config(
        RunConfig(), {**LEVELS, **{f"model.{name}": value for name, value in figures["suggested"].items()}}
    )
    again = look(dataset, **LEVELS).anchors
    assert [level.sizes for level in pasted.model.anchors] == [level.sizes for level in again.suggested]
    assert [level["stride"] for level in figures["levels"]] == [8, 16, 32]


boxes_in_frame = st.tuples(*[st.floats(0, 1)] * 4).map(
    lambda four: (min(four[0], four[1]), min(four[2], four[3]), max(four[0], four[1]), max(four[2], four[3]))
)


@settings(max_examples=60, deadline=None)
@given(st.lists(boxes_in_frame, max_size=5))
def test_the_heat_map_is_the_share_of_each_cell_that_boxes_cover(boxes):
    def covered(low, high, cell, cells):
        return max(0.0, min(high, (cell + 1) / cells) - max(low, cell / cells)) * cells

    by_hand = [
        [
            sum(covered(l, r, x, 6) * covered(t, b, y, 4) for l, t, r, b in boxes) / max(len(boxes), 1)  # noqa: E741
            for x in range(6)
        ]
        for y in range(4)
    ]
    assert np.allclose(heat_map(np.array(boxes).reshape(-1, 4), (4, 6)), by_hand)


def test_the_heat_map_is_the_same_however_the_boxes_are_parted(monkeypatch, found):
    whole = heat_map(found.boxes.frame)
    monkeypatch.setattr("ena24ssd.exploration.BLOCK", 7)
    assert np.allclose(heat_map(found.boxes.frame), whole)


@given(st.integers(1, 5000), st.integers(1, 600))
def test_a_sample_is_even_and_no_larger_than_asked(count, sample):
    places = spread_evenly(count, sample)
    assert len(places) == min(count, sample) and places[0] == 0 and places[-1] < count
    assert len(places) < 2 or np.ptp(np.diff(places)) <= 1


# -- datasets that lack something --------------------------------------------------------------------------------------


def single(*boxes: LabelledBox, **more) -> CameraTrapDataset:
    return CameraTrapDataset(("deer",), (Image("1", "1.jpg", 640, 480, boxes, **more),), Path(), (), "one.json")


def test_one_picture_with_one_box():
    found = look(single(LabelledBox(0, Box(10, 10, 200, 200))))
    assert (found.blanks, found.mixed, len(found.boxes), found.box_counts.tolist()) == (0, 0, 1, [0, 1])
    assert found.anchors.covered_by_suggested >= found.anchors.covered


def test_only_blank_pictures():
    found = look(single())
    assert found.anchors is None and found.near_border is None and found.side_pixels is None
    assert found.blanks == 1 and found.box_counts.tolist() == [1] and not found.heat.any()
    json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2015-12-18 13:38:13", "2015-12-18T13:38:13"),
        ("2015:12:18 13:38:13", "2015-12-18T13:38:13"),
        ("2015-12-18T13:38:13Z", "2015-12-18T13:38:13"),
        ("2015-12-18T13:38:13+02:00", "2015-12-18T13:38:13"),
        ("yesterday", None),
        ("", None),
    ],
    ids=["plain", "EXIF", "Zulu", "with a zone, as its own clock said", "words", "nothing"],
)
def test_times_as_cameras_write_them(written, read):
    places = look(single(taken_at=written)).places
    assert (places.first and places.first.isoformat()) == read
    assert (places.dated, places.undated) == ((1, 0) if read else (0, 1))


def test_dates_alone_say_nothing_of_the_hour():
    assert look(single(taken_at="2015-12-18")).places.by_hour is None


def test_cameras_and_sequences():
    images = [Image(str(k), f"{k}.jpg", 64, 48, (), f"cam{k % 3}", f"burst{k // 4}") for k in range(10)]
    places = look(CameraTrapDataset(("deer",), tuple(images), Path(), (), "x")).places
    assert (places.locations, places.sequences, places.largest_sequence) == (3, 3, 4)
    assert places.largest_location == pytest.approx(0.4)


# -- pictures ----------------------------------------------------------------------------------------------------------


def painted(kind: str) -> Pillow.Image:
    ramp = np.tile(np.linspace(20, 220, 160), (120, 1))
    picture = np.stack([ramp] * 3, axis=-1)
    if kind == "coloured":
        picture[:60, :, 2] *= 0.6
    if kind == "pink cast":
        picture += (12, -6, -2)
    image = Pillow.fromarray(picture.clip(0, 255).astype(np.uint8))
    if kind == "coloured strips":
        ImageDraw.Draw(image).rectangle((0, 0, 160, 8), fill=(255, 120, 0))
        ImageDraw.Draw(image).rectangle((0, 107, 160, 120), fill=(0, 60, 200))
    return image


@pytest.mark.parametrize(
    ("kind", "grey"), [("plain", True), ("coloured", False), ("pink cast", True), ("coloured strips", True)]
)
def test_grey_is_what_has_no_colours_of_its_own(kind, grey):
    assert is_grey(painted(kind)) is grey


def test_unreadable_pictures_are_counted_and_named(tmp_path):
    painted("plain").save(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    images = tuple(Image(name, name, 160, 120) for name in ("a.jpg", "b.jpg"))
    light = measure_light(CameraTrapDataset(("deer",), images, tmp_path, (), "x"), 10)
    assert (light.looked_at, light.readable, light.grey, light.grey_share) == (2, 1, 1, 1.0)
    assert light.unreadable[0][0] == "b.jpg" and light.unreadable[0][1]


def test_light_of_drawn_scenes_is_that_of_their_hour(scenes):
    source, has_pictures = read_for_exploration(change_config(RunConfig(), {"data.path": scenes}))
    found = examine(source, RunConfig(), sample=48)
    assert has_pictures and found.light.looked_at == 48
    assert 0 < found.light.grey < 48
    assert len(found.light.unreadable) == 0


def test_the_json_alone_will_do(scenes, tmp_path):
    (tmp_path / "scenes.json").write_bytes(next(scenes.glob("*.json")).read_bytes())
    config = change_config(RunConfig(), {"data.path": tmp_path})
    source, has_pictures = read_for_exploration(config)
    assert not has_pictures and len(source.dataset.images) == 48
    assert read_for_exploration(change_config(RunConfig(), {"data.path": scenes}), json_alone=True)[1] is False
    with pytest.raises(AnnotationError):  # a folder that was named must hold them
        read_for_exploration(change_config(config, {"data.pictures": tmp_path}))


def test_plain_data_is_json(found):
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert document["boxes"] == len(found.boxes)
    assert document["species"][0]["side"]["median"] == found.species[0].side.median
