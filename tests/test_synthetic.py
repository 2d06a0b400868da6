"""Drawn camera-trap pictures: the same request gives the same bytes, and the json tells the truth about them."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ena24ssd import synthetic
from ena24ssd.exposure import GLYPHS, STRIP, half_day, hours_past_noon, set_text
from ena24ssd.fauna import ALL_SPECIES, draw_animal, measure_tube
from ena24ssd.scenery import BIOMES, paint_place
from ena24ssd.synthetic import SPECIES, draw_scene, plan_shots, shoot, write_dataset

SMALL = {"images": 26, "cameras": 4, "size": (96, 72), "blank_share": 0.25, "seed": 5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("scenes"), **SMALL).parent


@pytest.fixture(scope="module")
def described(folder: Path) -> dict:
    return json.loads((folder / "scenes.json").read_text(encoding="utf-8"))


def all_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# -- the same request, the same bytes -------------------------------------------------------------------------------


def test_several_processes_write_the_same_bytes_as_one(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "SERIAL_UP_TO", 0)
    monkeypatch.setattr(synthetic.os, "cpu_count", lambda: 2)
    write_dataset(tmp_path / "again", **SMALL)
    assert all_bytes(tmp_path / "again") == all_bytes(folder)


def test_another_seed_gives_other_pictures(described):
    first, second = (draw_scene(seed, size=(96, 72))[0].tobytes() for seed in (1, 2))
    assert first != second
    assert first == draw_scene(1, size=(96, 72))[0].tobytes()


def test_the_same_request_returns_at_once_and_touches_nothing(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert write_dataset(folder, **SMALL) == folder / "scenes.json"
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize(
    "change", [{"seed": 6}, {"images": 27}, {"size": (96, 80)}], ids=lambda change: next(iter(change))
)
def test_a_folder_with_another_data_set_is_refused(folder, change):
    before = all_bytes(folder)
    with pytest.raises(FileExistsError, match=r"scenes\.json.*Choose another folder"):
        write_dataset(folder, **{**SMALL, **change})
    assert all_bytes(folder) == before


def test_a_json_that_is_not_ours_is_refused(tmp_path):
    (tmp_path / "scenes.json").write_text('{"images": []}', encoding="utf-8")
    with pytest.raises(FileExistsError, match="holds another one"):
        write_dataset(tmp_path, **SMALL)


def test_the_json_comes_last_so_a_broken_run_can_be_repeated(tmp_path, monkeypatch):
    def break_down(*_):
        raise KeyboardInterrupt

    request = {**SMALL, "images": 3, "cameras": 1}
    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "describe", break_down)
        with pytest.raises(KeyboardInterrupt):
            write_dataset(tmp_path, **request)
    assert not list(tmp_path.glob("scenes.json*"))
    assert write_dataset(tmp_path, **request).exists()
    assert not list(tmp_path.glob("*.part"))


def test_progress_sees_every_picture_once(tmp_path):
    seen = []

    def watch(steps):
        assert len(steps) == 3
        for step in steps:
            seen.append(step)
            yield step

    write_dataset(tmp_path, images=3, cameras=2, size=(64, 48), progress=watch)
    assert len(set(seen)) == 3


# -- the json -------------------------------------------------------------------------------------------------------


def test_exactly_the_pictures_asked_for_are_there_and_have_the_size_they_claim(folder, described):
    assert len(described["images"]) == SMALL["images"]
    assert {entry["file_name"] for entry in described["images"]} == {
        path.relative_to(folder / "images").as_posix() for path in (folder / "images").rglob("*.jpg")
    }
    for entry in described["images"]:
        with Image.open(folder / "images" / entry["file_name"]) as picture:
            assert picture.size == (entry["width"], entry["height"]) == SMALL["size"]
            assert (picture.format, picture.mode) == ("JPEG", "RGB")


def test_ids_are_strings_and_unique_and_point_to_something(described):
    images = [entry["id"] for entry in described["images"]]
    boxes = [entry["id"] for entry in described["annotations"]]
    for ids in (images, boxes):
        assert len(set(ids)) == len(ids)
        assert all(isinstance(one, str) for one in ids)
    assert {entry["image_id"] for entry in described["annotations"]} <= set(images)


def test_categories_count_from_zero_and_zero_is_an_animal(described):
    assert described["categories"] == [{"id": label, "name": name} for label, name in enumerate(SPECIES)]
    assert {entry["category_id"] for entry in described["annotations"]} <= set(range(len(SPECIES)))


def test_boxes_are_positive_and_lie_between_the_bars(described):
    width, height = SMALL["size"]
    bar = round(STRIP * height)
    for entry in described["annotations"]:
        x, y, w, h = entry["bbox"]
        assert all(isinstance(value, float) for value in entry["bbox"])
        assert w > 0 and h > 0
        assert x >= 0 and x + w <= width
        assert y >= bar and y + h <= height - bar


def test_the_asked_share_is_blank_and_everything_else_has_a_box(described):
    blank = len(described["images"]) - len({entry["image_id"] for entry in described["annotations"]})
    assert blank == round(SMALL["blank_share"] * SMALL["images"])


def test_bursts_are_whole_seconds_apart_and_from_one_camera(described):
    bursts: dict[str, list[dict]] = {}
    for entry in described["images"]:
        bursts.setdefault(entry["seq_id"], []).append(entry)
    for frames in bursts.values():
        assert [entry["frame_num"] for entry in frames] == list(range(len(frames)))
        assert {entry["seq_num_frames"] for entry in frames} == {len(frames)}
        assert len({entry["location"] for entry in frames}) == 1
        times = [datetime.strptime(entry["datetime"], "%Y-%m-%d %H:%M:%S") for entry in frames]
        assert all((b - a).seconds == 1 for a, b in pairwise(times))
    assert len({entry["location"] for entry in described["images"]}) == SMALL["cameras"]
    assert all(entry["file_name"].startswith(entry["location"] + "/") for entry in described["images"])


# -- the plan -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.1, 0.15, 0.5, 1.0])
@pytest.mark.parametrize(("images", "cameras"), [(1, 1), (7, 3), (600, 20)])
def test_a_plan_has_the_asked_pictures_and_blanks_over_all_cameras(images, cameras, share):
    shots = plan_shots(images, cameras, share, seed=3)
    assert len(shots) == len({shot.name for shot in shots}) == images
    assert sum(shot.blank for shot in shots) == round(images * share)
    spread = Counter(shot.camera for shot in shots)
    assert len(spread) == cameras and max(spread.values()) - min(spread.values()) <= 1


def test_blanks_come_as_whole_bursts_and_at_the_end_of_bursts():
    bursts: dict[str, list[bool]] = {}
    for shot in plan_shots(600, 20, 0.15, seed=0):
        bursts.setdefault(shot.sequence, []).append(shot.blank)
    assert all(blanks == sorted(blanks) for blanks in bursts.values())  # once blank, blank to the end
    assert any(all(blanks) for blanks in bursts.values())
    assert any(blanks[-1] and not blanks[0] for blanks in bursts.values())


def test_a_camera_fires_one_burst_after_the_other():
    shots = plan_shots(400, 3, 0.15, seed=1)
    for a, b in pairwise(shots):
        assert a.camera != b.camera or a.taken_at < b.taken_at


# -- the pictures ---------------------------------------------------------------------------------------------------


def test_a_burst_is_nearly_the_same_picture_and_another_camera_another():
    shots = [shot for shot in plan_shots(60, 6, 0.0, seed=2) if shot.frames == 3]
    first, second = shots[0], shots[1]
    other = next(shot for shot in shots if shot.camera != first.camera)
    size = (128, 96)
    a, b, c = (np.asarray(shoot(shot, 2, size).picture, dtype=float) for shot in (first, second, other))
    assert np.abs(a - b).mean() < 0.5 * np.abs(a - c).mean()


@pytest.mark.parametrize(("night", "grey"), [(True, True), (False, False)], ids=["infrared is grey", "daylight is not"])
def test_infrared_pictures_have_no_colour(night, grey):
    pixels = np.asarray(draw_scene(3, size=(96, 72), night=night)[0], dtype=int)
    assert (np.ptp(pixels, axis=-1).max() == 0) == grey


def test_pictures_are_infrared_exactly_when_the_sun_is_down():
    for shot in plan_shots(36, 12, 1.0, seed=4)[::3]:
        pixels = np.asarray(shoot(shot, 4, (64, 48)).picture, dtype=int)
        dark = abs(hours_past_noon(shot.taken_at)) >= half_day(shot.taken_at.month) - 0.3
        assert (np.ptp(pixels, axis=-1).max() == 0) == dark


@pytest.mark.parametrize("seed", range(4))
def test_boxes_are_tight_round_what_shows_of_the_animals(seed):
    shot = plan_shots(8, 8, 0.0, seed)[seed]
    scene = shoot(shot, seed, (160, 120))
    assert len(scene.boxes) == len(scene.staged) > 0
    for (label, box), animal in zip(scene.boxes, scene.staged):
        visible = np.zeros((120, 160))
        visible[animal.window] = animal.shown
        left, top, right, bottom = (int(side) for side in box)
        assert label == animal.walker.species
        assert visible[top:bottom, left:right].sum() > 0.97 * visible.sum()
        for edge in (visible[top, :], visible[bottom - 1, :], visible[:, left], visible[:, right - 1]):
            assert edge.max() > 0.35


def test_the_box_is_where_the_picture_differs_from_the_empty_place():
    shot = plan_shots(2, 1, 0.0, seed=11)[0]
    size = (160, 120)
    scene = shoot(shot, 11, size, (SPECIES.index("American Black Bear"),))
    empty = shoot(shot._replace(blank=True), 11, size)
    change = np.abs(np.asarray(scene.picture, dtype=float) - np.asarray(empty.picture, dtype=float)).mean(axis=-1)
    ((_, box),) = scene.boxes
    inside = np.zeros(change.shape, dtype=bool)
    inside[int(box.top) : int(box.bottom), int(box.left) : int(box.right)] = True
    assert change[inside].mean() > 4 * change[~inside].mean()


@pytest.mark.parametrize("size", [(48, 48), (64, 48), (50, 97), (240, 135)], ids=str)
def test_any_size_can_be_drawn(size):
    picture, boxes = draw_scene(7, size=size, species=["Red Fox"])
    assert picture.size == size
    assert [label for label, _ in boxes] == [SPECIES.index("Red Fox")]


def boxes_of(far: float, size: tuple[int, int], bursts: int) -> list[list]:
    """The boxes of the first picture of so many bursts, all of them with animals."""
    shots = plan_shots(bursts, 6, 0.0, 5, burst=1)
    return [shoot(shot, 5, size, far=far).boxes for shot in shots]


@pytest.mark.parametrize("size", [(48, 48), (97, 50), (240, 135)], ids=str)
def test_animals_far_off_are_small_and_still_seen(size):
    pictures = boxes_of(1.0, size, 12)
    assert all(pictures), "each picture shows one at least"
    for _, box in (row for boxes in pictures for row in boxes):
        assert 0 <= box.left < box.right <= size[0] and 0 <= box.top < box.bottom <= size[1]


def test_far_animals_are_smaller_and_some_are_smaller_than_any_other():
    (least, median), (far_least, far_median) = (
        np.quantile(
            [box.area / (240 * 180) for picture in boxes_of(far, (240, 180), 12) for _, box in picture], (0, 0.5)
        )
        for far in (0.0, 1.0)
    )
    assert far_median < 0.5 * median
    assert far_least < 0.3 * least


def test_a_data_set_without_far_animals_says_nothing_of_them(described, tmp_path):
    assert "far" not in described["info"]["request"], "as those drawn before there was the choice"
    one = {"images": 1, "cameras": 1, "size": (64, 48), "far": 0.5}
    file = write_dataset(tmp_path, **one)
    assert json.loads(file.read_text(encoding="utf-8"))["info"]["request"]["far"] == 0.5
    assert write_dataset(tmp_path, **one) == file
    with pytest.raises(FileExistsError, match="holds another one"):
        write_dataset(tmp_path, **{**one, "far": 0.0})


def test_an_empty_cast_makes_a_blank_picture():
    assert draw_scene(1, size=(64, 48), species=[])[1] == []


# -- animals and places ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("species", "posture"),
    [(species, posture) for species in ALL_SPECIES for posture in dict.fromkeys(species.postures)],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_every_animal_stands_on_the_ground_and_turns_round(species, posture):
    right, left = (
        draw_animal(species, posture, 1.0, 40, np.random.default_rng(0), faces_left=side) for side in (False, True)
    )
    np.testing.assert_array_equal(right.alpha, left.alpha[:, ::-1])
    lowest = np.nonzero((right.alpha > 0.5).any(axis=1))[0][-1]
    assert abs(lowest + 1 - right.foot[1]) < 0.12 * 40
    assert right.colour.min() >= 0 and right.colour.max() <= 1
    assert set(species.moving) <= set(species.postures)
    solid = right.normal[right.alpha > 0.9]
    np.testing.assert_allclose(np.linalg.norm(solid, axis=-1), 1, atol=1e-3)


def test_distance_to_a_tube_is_that_to_a_capsule():
    curve = np.float64([[0, 0, 0.5], [2, 0, 0.5]])
    x, y = np.float32([-1, 0, 1, 3]), np.float32([1, 0])
    skin, radius, along, near_x, near_y = measure_tube(curve, x, y)
    expected = [[np.hypot(max(0, -a, a - 2), b) - 0.5 for a in x] for b in y]
    np.testing.assert_allclose(skin, expected, atol=1e-5)
    np.testing.assert_allclose(along, [np.clip(x / 2, 0, 1)] * 2, atol=1e-5)
    np.testing.assert_allclose(near_x, [np.clip(x, 0, 2)] * 2, atol=1e-5)
    assert (radius == 0.5).all() and (near_y == 0).all()


@pytest.mark.parametrize("biome", BIOMES, ids=lambda biome: biome.name)
def test_a_place_holds_reflectances_and_distances(biome):
    place = paint_place(1, (64, 48), biome)
    assert place.albedo.shape == (48, 64, 3) and place.infrared.shape == place.distance.shape == place.sky.shape == (
        48,
        64,
    )
    assert place.rows.shape == (96, 128) and place.dapple.shape == (48, 128)
    for field in (place.albedo, place.infrared, place.dapple, place.sky):
        assert field.min() >= 0 and field.max() <= 1
    assert place.distance.min() >= 0.9 and place.distance[-1].mean() < place.distance[30].mean()
    assert (place.sky.mean() > 0.05) == (biome.sky is not None)


def test_the_strip_can_write_all_it_needs():
    text = "2016-05-17 10:32:34 AM PM M 4/5 -8°C CAM07"
    assert set(text) <= set(GLYPHS)
    assert set_text(text, 19).height == 19
    assert np.asarray(set_text(" ", 19)).max() == 0 < np.asarray(set_text("1", 19)).max()


# -- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": 0}, "images is 0"),
        ({"cameras": 0}, "cameras is 0"),
        ({"cameras": 27}, "cameras is 27"),
        ({"blank_share": 1.2}, "blank_share is 1.2"),
        ({"blank_share": float("nan")}, "blank_share is nan"),
        ({"size": (40, 480)}, "size is"),
        ({"size": (640, 480, 3)}, "size is"),
        ({"size": (640.5, 480)}, "size is"),
        ({"seed": -1}, "seed is -1"),
        ({"far": 1.5}, "far is 1.5"),
        ({"far": float("nan")}, "far is nan"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_request_out_of_range_is_refused_before_anything_is_written(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        write_dataset(tmp_path / "new", **{**SMALL, **change})
    assert not (tmp_path / "new").exists()


def test_an_unknown_species_is_refused_by_name():
    with pytest.raises(ValueError, match="'Unicorn' is not drawn; known are White-Tailed Deer"):
        draw_scene(species=["Unicorn"])
