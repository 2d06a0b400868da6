"""Is every leak counted, and does the grouped split have none?"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from ena24ssd.boxes import Box, LabelledBox
from ena24ssd.cameratraps import CameraTrapDataset, Image, read
from ena24ssd.config import DataConfig
from ena24ssd.leaks import Imbalance, Leak, compare_splits, find_imbalance, measure_leaks
from ena24ssd.neighbours import Hashes, Links, Neighbours, find_neighbours
from ena24ssd.sources import read_source
from ena24ssd.splits import SIDES, Split, split_images
from ena24ssd.synthetic import write_dataset

SHARES = (0.7, 0.1, 0.2)


def linked(*pairs: tuple[int, int, int]) -> Links:
    first, second, bits = (np.array(column, dtype=np.int64) for column in zip(*pairs, strict=True))
    return Links(first, second, bits)


def test_leaks_are_counted_by_hand():
    """Five train, two validate, four test; 'x' is on no side."""
    where = {"a": "oak", "b": "oak", "c": "elm", "d": "ash", "e": None, "v": "oak", "w": "fir"}
    where |= {"p": "ash", "q": "fir", "r": None, "s": "fir", "x": "fir"}
    sequences = {"a": "1", "v": "1", "c": "2", "p": "3", "q": "4", "r": "2"}
    images = tuple(Image(i, f"{i}.jpg", 8, 8, location=where[i], sequence=sequences.get(i)) for i in where)
    row = {image.id: number for number, image in enumerate(images)}
    nothing = np.zeros((12, 4), dtype=np.uint64)
    neighbours = Neighbours(
        tuple(row),
        Hashes(nothing, nothing, np.ones(12, dtype=np.float32), {}),
        linked(
            (row["a"], row["b"], 1),  # inside train
            (row["p"], row["d"], 9),
            (row["c"], row["p"], 5),  # closer
            (row["q"], row["s"], 0),  # inside test
            (row["s"], row["v"], 0),  # test and validation
            (row["x"], row["a"], 0),  # on no side
            (row["e"], row["r"], 20),
        ),
        np.arange(12),
        0,
    )
    dataset = CameraTrapDataset(("Fox",), images, Path(), (), "d.json")
    found = measure_leaks(
        dataset,
        Split(tuple("abcde"), tuple("vw"), tuple("pqrs")),
        neighbours,
        "random",
        linked((row["w"], row["a"], 3)),
    )
    assert found.sizes == {"train": 5, "validation": 2, "test": 4}
    assert found.leaks["test"] == Leak(scene=2 / 4, check=0, sequence=1 / 3, camera=1 / 3)
    assert found.leaks["validation"] == Leak(scene=0, check=1 / 2, sequence=1, camera=1 / 2)
    assert [tuple(twins) for twins in found.twins] == [("p", "test", "c", 5), ("r", "test", "e", 20)]


def test_the_least_evenly_spread_species_is_named():
    def shows(*labels: int) -> tuple[LabelledBox, ...]:
        return tuple(LabelledBox(label, Box(0, 0, 4, 4)) for label in labels)

    images = [Image(f"f{n}", "", 8, 8, shows(0, 0)) for n in range(40)]
    images += [Image(f"b{n}", "", 8, 8) for n in range(40)]
    images += [Image(f"r{n}", "", 8, 8, shows(1)) for n in range(4)]
    train = [f"f{n}" for n in range(26)] + [f"b{n}" for n in range(16)]
    rest = [image.id for image in images if image.id not in train]
    found = find_imbalance(images, Split(tuple(train), (), tuple(rest)), ("Fox", "Rat"))
    # 42 of 84 on each side: 20 foxes and 20 blanks are due, 14 foxes and 16 blanks are there; too few rats to judge.
    assert found == Imbalance("Fox", "train", 26, 20.0) and found.deviation == pytest.approx(0.3)
    assert find_imbalance(images[:4], Split(("f0", "f1"), (), ("f2", "f3")), ("Fox", "Rat")) is None


# -- the whole report --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dataset(scenes) -> CameraTrapDataset:
    return read(scenes / "scenes.json")


@pytest.fixture(scope="module")
def neighbours(dataset, tmp_path_factory) -> Neighbours:
    return find_neighbours(dataset, tmp_path_factory.mktemp("kept"))


def test_the_report_compares_every_way_to_split(dataset, neighbours, tmp_path):
    brought = Split(*(tuple(i.id for n, i in enumerate(dataset.images) if n % 3 == side) for side in range(3)))
    found = compare_splits(dataset, neighbours, tmp_path, shares=SHARES, brought=brought)
    assert [leaks.kind for leaks in found.splits] == [
        "brought along",
        "listing",
        "random",
        "grouped",
        "grouped by scene",
    ]
    by_kind = {leaks.kind: leaks for leaks in found.splits}
    assert by_kind["random"].leaks["test"].sequence > 0.5 and by_kind["brought along"].leaks["test"].scene > 0.9
    assert by_kind["grouped"].leaks["test"].camera == 0
    assert by_kind["grouped by scene"].leaks["test"].sequence == by_kind["grouped by scene"].leaks["test"].scene == 0
    assert (found.pictures, found.unreadable, found.plain, found.cut, found.refused) == (48, 0, 0, 0, {})
    sizes = Counter(neighbours.groups.values())
    assert found.largest == max(sizes.values()) and found.grouped == sum(n for n in sizes.values() if n > 1)

    written = json.loads((tmp_path / "leaks.json").read_text())
    assert written["splits"][2]["leaks"]["test"]["camera"] == by_kind["random"].leaks["test"].camera
    assert written["splits"][2]["sheet"] == "leaks-random.png" and written["splits"][3]["sheet"] is None
    assert sorted(file.name for file in tmp_path.iterdir() if "grouped" in file.name) == []
    with Pillow.open(by_kind["random"].sheet) as sheet:
        assert sheet.width > 800 and sheet.height > 300


def test_examples_show_one_pair_a_group_animals_and_the_test_first(dataset, neighbours, tmp_path, monkeypatch):
    from ena24ssd import leaks

    drawn = []
    draw = leaks.contact_sheet
    monkeypatch.setattr(
        leaks, "contact_sheet", lambda p, captions, **how: drawn.append(captions) or draw(p, captions, **how)
    )
    found = compare_splits(dataset, neighbours, tmp_path, shares=SHARES, examples=3)
    captions = drawn[[leaks.kind for leaks in found.splits if leaks.sheet].index("random")]
    assert len(captions) == 6 and captions[0].startswith("test: ") and captions[1].startswith("train: ")
    image = {image.file_name: image for image in dataset.images}
    shown = [image[caption.partition(": ")[2]] for caption in captions]
    assert all(one.location == other.location for one, other in zip(shown[::2], shown[1::2]))
    assert shown[0].boxes and len({neighbours.groups[one.id] for one in shown[::2]}) == 3


def test_what_cannot_be_split_is_noted_and_an_old_sheet_goes(dataset, neighbours, tmp_path):
    one = replace(dataset, images=tuple(i._replace(location="oak", sequence=None) for i in dataset.images))
    (tmp_path / "leaks-grouped-by-scene.png").write_bytes(b"old")
    found = compare_splits(one, neighbours, tmp_path, shares=SHARES)
    assert list(found.refused) == ["grouped"] and "cannot fill 3 sides" in found.refused["grouped"]
    assert not (tmp_path / "leaks-grouped-by-scene.png").exists()
    assert all(leaks.leaks["test"].sequence is None for leaks in found.splits)


# -- what it is all for ------------------------------------------------------------------------------------------------


def silent_copy(folder: Path, target: Path) -> tuple[CameraTrapDataset, dict[str, Image]]:
    """A dataset as ENA24 comes: no location, no sequence, files in one folder and numbered; and the truth by id."""
    told = read(folder / "scenes.json")
    target.mkdir()
    images, truth = [], {}
    for number, image in enumerate(told.images, start=1):
        shutil.copy(told.path(image), target / f"{number}.jpg")
        images.append(image._replace(id=str(number), file_name=f"{number}.jpg", location=None, sequence=None))
        truth[str(number)] = image
    return replace(told, images=tuple(images), root=target), truth


def leaking(split: Split, truth: dict[str, Image]) -> float:
    """The share of test pictures whose burst, in truth, has a picture in train."""
    learnt = {truth[image_id].sequence for image_id in split.train}
    return sum(truth[image_id].sequence in learnt for image_id in split.test) / len(split.test)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("images", "cameras", "scene_seed"),
    [pytest.param(240, 12, 0, id="twelve cameras"), pytest.param(120, 3, 21, id="three cameras, whose groups are cut")],
)
def test_without_location_no_burst_leaks_from_the_grouped_split(tmp_path, images, cameras, scene_seed):
    write_dataset(tmp_path / "scenes", images=images, cameras=cameras, size=(160, 120), seed=scene_seed)
    dataset, truth = silent_copy(tmp_path / "scenes", tmp_path / "silent")
    groups = find_neighbours(dataset, tmp_path / "kept").groups
    for seed in range(5):
        grouped = split_images(dataset.images, "grouped", SHARES, seed, groups)
        assert leaking(grouped, truth) == 0
        assert leaking(split_images(dataset.images, "random", SHARES, seed), truth) > 0.5
        for side, share in zip(SIDES, SHARES, strict=True):
            assert len(getattr(grouped, side)) / images == pytest.approx(share, abs=0.1)


def test_unrelated_photographs_are_not_grouped(shared_data, tmp_path):
    source = read_source(DataConfig(path=shared_data / "wild6"))
    neighbours = find_neighbours(source.dataset, tmp_path / "kept")
    found = compare_splits(source.dataset, neighbours, tmp_path / "report", shares=SHARES, brought=source.split)
    assert found.grouped <= 0.02 * found.pictures
    assert found.splits[0].kind == "brought along" and found.splits[0].leaks["validation"].scene <= 0.02
    assert "test" not in found.splits[0].leaks, "wild6 has no test side"


def test_two_visits_to_one_real_camera_are_grouped_and_nothing_else(shared_data, tmp_path):
    """Weeks apart, by another light, and neighbours by name only because the 14 pictures are a sample."""
    groups = find_neighbours(read(shared_data / "ena24-dev14" / "ena24.json"), tmp_path).groups
    sizes = Counter(groups.values())
    assert groups["5840"] == groups["5899"] and groups["352"] == groups["596"]
    assert sorted(sizes.values()) == [1] * 10 + [2, 2]
