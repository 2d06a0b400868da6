"""Are pictures of one scene found, and only those?"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from PIL import ImageDraw, ImageEnhance, ImageFilter

from ena24ssd.cameratraps import CameraTrapDataset, Image, read
from ena24ssd.neighbours import (
    BITS,
    SCENE,
    Closeness,
    Hashes,
    Links,
    find_links,
    find_neighbours,
    group_linked,
    hash_pictures,
    natural_order,
    scene_hashes,
)
from ena24ssd.synthetic import draw_scene


@pytest.fixture(scope="module")
def dataset(scenes) -> CameraTrapDataset:
    """The scenes as ENA24 would tell of them: no location, no sequence."""
    told = read(scenes / "scenes.json")
    return replace(told, images=tuple(image._replace(location=None, sequence=None) for image in told.images))


@pytest.fixture(scope="module")
def truth(scenes) -> dict[str, Image]:
    return {image.id: image for image in read(scenes / "scenes.json").images}


@pytest.fixture(scope="module")
def picture() -> Pillow.Image:
    return draw_scene(5, size=(640, 480), night=False)[0]


def bits_apart(first: Pillow.Image, second: Pillow.Image) -> int:
    return count(scene_hashes(first)[0], scene_hashes(second)[0])


def count(first: np.ndarray, second: np.ndarray) -> int:
    """The naive way to count differing bits."""
    return sum(bin(int(a) ^ int(b)).count("1") for a, b in zip(first, second))


def partition(groups: dict[str, int]) -> set[frozenset[str]]:
    return {frozenset(key for key in groups if groups[key] == group) for group in groups.values()}


def pack(bits: np.ndarray) -> np.ndarray:
    return np.packbits(bits.astype(np.uint8), axis=1).view(np.uint64)


# -- groups of a dataset -----------------------------------------------------------------------------------------------


def test_every_burst_is_in_one_group_and_no_group_mixes_cameras(dataset, truth, tmp_path):
    groups = find_neighbours(dataset, tmp_path).groups
    for sequence in {image.sequence for image in truth.values()}:
        assert len({groups[i] for i, image in truth.items() if image.sequence == sequence}) == 1, sequence
    for group in partition(groups):
        assert len({truth[image_id].location for image_id in group}) == 1, sorted(group)


def test_the_order_of_the_images_changes_nothing(dataset, tmp_path):
    shuffled = replace(dataset, images=dataset.images[::-1])
    found, again = find_neighbours(dataset, tmp_path), find_neighbours(shuffled, tmp_path)
    assert partition(found.groups) == partition(again.groups)
    assert found.cut == again.cut and len(found.links) == len(again.links)


@pytest.mark.parametrize("images", [0, 1, 2])
def test_the_smallest_datasets(dataset, tmp_path, images):
    few = replace(dataset, images=dataset.images[:images])
    assert len(find_neighbours(few, tmp_path).groups) == images


# -- hashes ------------------------------------------------------------------------------------------------------------


def strip(picture: Pillow.Image) -> Pillow.Image:
    """The picture with other strips burnt in: white instead of black, other text."""
    stamped = picture.copy()
    pen, (width, height) = ImageDraw.Draw(stamped), picture.size
    pen.rectangle((0, 0, width, 0.035 * height), fill="white")
    pen.rectangle((0, 0.9 * height, width, height), fill="white")
    pen.text((9, 0.93 * height), "Cam11 35F 1C 03-03-2015 06:10:52", fill="black")
    return stamped


def vignette(picture: Pillow.Image) -> Pillow.Image:
    """The picture with light that falls off to the edge, as an infrared flash's does."""
    across = np.hypot(*np.meshgrid(np.linspace(-1, 1, picture.width), np.linspace(-1, 1, picture.height)))
    return Pillow.fromarray((np.asarray(picture) * (1 - 0.5 * across[..., None])).astype(np.uint8))


SAME = [
    ("other strips burnt in", strip, 0),
    ("another exposure", lambda p: ImageEnhance.Brightness(p).enhance(0.6), 12),
    ("less contrast", lambda p: ImageEnhance.Contrast(p).enhance(0.5), 12),
    ("without colour", lambda p: p.convert("L").convert("RGB"), 0),
    ("light falling off to the edge", vignette, SCENE.anywhere),
    ("half the size", lambda p: p.resize((320, 240)), 12),
    ("out of focus", lambda p: p.filter(ImageFilter.GaussianBlur(2)), SCENE.anywhere),
]


@pytest.mark.parametrize(("change", "most"), [pytest.param(*row[1:], id=row[0]) for row in SAME])
def test_a_scene_keeps_its_hash(picture, change, most):
    assert bits_apart(picture, change(picture)) <= most


def test_other_scenes_are_far_apart_by_day_and_by_night():
    for night in (False, True):
        scenes = [draw_scene(seed, size=(160, 120), night=night)[0] for seed in range(5)]
        assert min(bits_apart(*pair) for pair in combinations(scenes, 2)) > 70


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (48, 2000)])
def test_any_size_gives_a_hash(size):
    scene, check, relief = scene_hashes(Pillow.new("RGB", size, (90, 90, 90)))
    assert scene.shape == check.shape == (4,) and relief == 0


# -- what is kept ------------------------------------------------------------------------------------------------------


@pytest.fixture
def copied(dataset, scenes, tmp_path) -> CameraTrapDataset:
    """Eight pictures in a folder of their own."""
    few = dataset.images[:8]
    for image in few:
        (tmp_path / "images" / image.file_name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(scenes / "images" / image.file_name, tmp_path / "images" / image.file_name)
    return replace(dataset, images=few, root=tmp_path / "images")


def looked_at(dataset: CameraTrapDataset, folder) -> tuple[Hashes, int]:
    """The hashes, and how many pictures were decoded for them."""
    seen: list[int] = []

    def progress(rows):
        seen.extend(rows)
        return rows

    return hash_pictures(dataset, folder, progress), len(seen)


def same(first: Hashes, second: Hashes) -> bool:
    return all(
        np.array_equal(getattr(first, name), getattr(second, name), equal_nan=name == "relief")
        for name in ("scene", "check", "relief")
    )


def test_the_second_time_nothing_is_decoded(copied, tmp_path):
    first, decoded = looked_at(copied, tmp_path / "kept")
    second, decoded_again = looked_at(copied, tmp_path / "kept")
    assert (decoded, decoded_again) == (8, 0) and same(first, second) and first.readable.all()


def test_only_what_changed_is_decoded_anew(copied, tmp_path):
    first, _ = looked_at(copied, tmp_path / "kept")
    changed, other = copied.path(copied.images[3]), copied.path(copied.images[7])
    shutil.copy(other, changed)
    os.utime(changed, ns=(1, 1))
    fewer = replace(copied, images=copied.images[2:])
    second, decoded = looked_at(fewer, tmp_path / "kept")
    assert decoded == 1
    assert np.array_equal(second.scene[1], first.scene[7]) and np.array_equal(second.scene[2:], first.scene[4:])


def test_an_unreadable_picture_stops_nothing_and_is_tried_again(copied, tmp_path):
    path = copied.path(copied.images[4])
    whole = path.read_bytes()
    path.write_bytes(whole[:500])
    found = find_neighbours(copied, tmp_path / "kept")
    broken = copied.images[4].id
    assert list(found.hashes.failures) == [broken] and "damaged" in found.hashes.failures[broken]
    assert [group for group in partition(found.groups) if broken in group] == [{broken}]
    assert looked_at(copied, tmp_path / "kept")[1] == 1
    path.write_bytes(whole)
    assert not find_neighbours(copied, tmp_path / "kept").hashes.failures


def test_a_missing_picture_is_a_failure_too(copied, tmp_path):
    copied.path(copied.images[0]).unlink()
    assert hash_pictures(copied, tmp_path / "kept").failures == {copied.images[0].id: "no such file"}


DAMAGE = [
    ("empty", lambda whole: b""),
    ("cut short", lambda whole: whole[: len(whole) // 2]),
    ("something else", lambda whole: b"GIF89a" + bytes(100)),
    ("flipped bytes", lambda whole: whole[:200] + bytes(60) + whole[260:]),
]


@pytest.mark.parametrize("damage", [pytest.param(row[1], id=row[0]) for row in DAMAGE])
def test_a_damaged_file_of_hashes_is_made_anew(copied, tmp_path, damage):
    first, _ = looked_at(copied, tmp_path / "kept")
    (file,) = (tmp_path / "kept").iterdir()
    file.write_bytes(damage(file.read_bytes()))
    second, decoded = looked_at(copied, tmp_path / "kept")
    assert decoded == 8 and same(first, second)
    assert looked_at(copied, tmp_path / "kept")[1] == 0


def test_what_an_interrupted_run_has_seen_is_kept(copied, tmp_path, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 1)

    def interrupted(rows):
        yield from rows[:6]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hash_pictures(copied, tmp_path / "kept", interrupted)
    assert looked_at(copied, tmp_path / "kept")[1] <= 4, "four of the six handed out were seen for certain"


def test_hashes_that_are_asked_for_are_marked_as_in_use(copied, tmp_path):
    looked_at(copied, tmp_path / "kept")
    (file,) = (tmp_path / "kept").iterdir()
    os.utime(file, (0, 0))
    assert looked_at(copied, tmp_path / "kept")[1] == 0
    assert time.time() - file.stat().st_mtime < 1000


def test_a_look_at_some_pictures_forgets_none_of_the_others(copied, tmp_path):
    looked_at(copied, tmp_path / "kept")
    some = replace(copied, images=copied.images[:3])
    copied.path(copied.images[0]).touch()
    assert looked_at(some, tmp_path / "kept")[1] == 1
    assert looked_at(copied, tmp_path / "kept")[1] == 0


# -- links -------------------------------------------------------------------------------------------------------------


def pairs(links: Links) -> set[tuple[int, int]]:
    return {tuple(sorted(pair)) for pair in zip(links.first.tolist(), links.second.tolist())}


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(0, 40),
    seed=st.integers(0, 2**32),
    flips=st.integers(0, 60),
    limits=st.tuples(st.integers(0, 128), st.integers(0, 128), st.integers(0, 5)),
)
def test_of_few_pictures_exactly_the_close_pairs_are_linked(n, seed, flips, limits):
    random, closeness = np.random.default_rng(seed), Closeness(*limits)
    scenes = random.integers(0, 2, (4, BITS))
    bits = scenes[random.integers(0, 4, n)] ^ (random.random((n, BITS)) < flips / BITS)
    hashes, order = pack(bits), random.permutation(n)
    readable = random.random(n) < 0.9
    telling = readable & (random.random(n) < 0.8)
    links = find_links(hashes, readable, telling, order, closeness)
    rank = np.argsort(order)
    expected = set()
    for a, b in combinations(range(n), 2):
        apart = int((bits[a] != bits[b]).sum())
        anywhere = telling[a] and telling[b] and apart <= closeness.anywhere
        adjacent = abs(rank[a] - rank[b]) <= closeness.reach and apart <= closeness.adjacent
        if readable[a] and readable[b] and (anywhere or adjacent):
            expected.add((a, b))
    assert pairs(links) == expected and len(links) == len(expected)
    assert all(count(hashes[a], hashes[b]) == d for a, b, d in zip(links.first, links.second, links.distance))


def test_among_many_pictures_the_planted_twins_are_found_fast():
    random = np.random.default_rng(1)
    bits = random.integers(0, 2, (20_000, BITS))
    twins = np.arange(0, 20_000, 20)
    bits[twins + 10] = bits[twins]
    for twin in twins:
        bits[twin + 10, random.choice(BITS, 32, replace=False)] ^= 1
    there = np.ones(20_000, dtype=bool)
    hashes = pack(bits)
    begin = time.perf_counter()
    links = find_links(hashes, there, there, np.arange(20_000))
    assert time.perf_counter() - begin < 10
    found, planted = pairs(links), {(int(twin), int(twin) + 10) for twin in twins}
    assert found <= planted and len(found) > 0.99 * len(planted)


def test_names_stand_in_their_natural_order():
    names = ["b/1.jpg", "10.jpg", "9.jpg", "a2.jpg"]
    assert natural_order([Image(name, name, 8, 8) for name in names]).tolist() == [2, 1, 3, 0]


# -- nothing chains together -------------------------------------------------------------------------------------------


def test_fog_ties_nothing_together(dataset, scenes, tmp_path):
    """Pictures of fog between the scenes: grey without relief, a little different each."""
    images, random = [], np.random.default_rng(0)
    for number, image in enumerate(dataset.images):
        fog = 120 + 20 * random.random((120, 160, 3)) * 0.1 + number % 7
        Pillow.fromarray(fog.astype(np.uint8)).save(tmp_path / f"{2 * number + 1}.png")
        shutil.copy(scenes / "images" / image.file_name, tmp_path / f"{2 * number}.jpg")
        images += [Image(str(2 * number + k), f"{2 * number + k}{'.png' if k else '.jpg'}", 160, 120) for k in (0, 1)]
    foggy = replace(dataset, images=tuple(images), root=tmp_path)
    found = find_neighbours(foggy, tmp_path / "kept")
    assert found.hashes.telling.sum() == len(dataset.images)
    assert not any(int(a) % 2 != int(b) % 2 for group in partition(found.groups) for a, b in combinations(group, 2))
    assert max(map(len, partition(found.groups))) <= 12


def test_dark_frames_of_one_burst_stay_together(tmp_path):
    for number in range(4):
        Pillow.new("RGB", (64, 48)).save(tmp_path / f"{number}.png")
    images = tuple(Image(str(n), f"{n}.png", 64, 48) for n in range(4))
    dark = CameraTrapDataset(("Fox",), images, tmp_path, (), "dark.json")
    found = find_neighbours(dark, tmp_path / "kept")
    assert partition(found.groups) == {frozenset("0123")} and not found.hashes.telling.any()


def bursts(random: np.random.Generator, lengths: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Bits of one camera's bursts, and the burst of each: frames differ in 5 % of the bits, bursts in 20 %."""
    place = random.integers(0, 2, BITS)
    burst = np.repeat(np.arange(len(lengths)), lengths)
    firsts = place ^ (random.random((len(lengths), BITS)) < 0.11)
    return firsts[burst] ^ (random.random((len(burst), BITS)) < 0.025), burst


@pytest.mark.parametrize("seed", range(5))
def test_a_group_too_large_is_cut_between_bursts(seed):
    random = np.random.default_rng(seed)
    bits, burst = bursts(random, random.integers(2, 6, 60).tolist())
    hashes, there, order = pack(bits), np.ones(len(bits), dtype=bool), np.arange(len(bits))
    links = find_links(hashes, there, there, order, Closeness(80, 80))
    assert len(np.unique(group_linked(hashes, order, links, len(bits))[0])) == 1, "uncut, all hang together"
    labels, cut = group_linked(hashes, order, links, 40)
    assert np.bincount(labels).max() <= 40 and len(np.unique(labels)) < 14
    assert cut == sum(labels[a] != labels[b] for a, b in zip(links.first, links.second)) > 0
    assert all(len(np.unique(labels[burst == one])) == 1 for one in np.unique(burst))


def test_where_names_tell_no_order_the_closest_stay_together():
    random = np.random.default_rng(0)
    bits, burst = bursts(random, [3] * 60)
    hashes, there, order = pack(bits), np.ones(180, dtype=bool), random.permutation(180)
    links = find_links(hashes, there, there, order, Closeness(80, 80))
    labels, _ = group_linked(hashes, order, links, 40)
    assert np.bincount(labels).max() <= 40
    assert np.mean([len(np.unique(labels[burst == one])) == 1 for one in range(60)]) > 0.9


def test_only_the_group_too_large_is_cut():
    random = np.random.default_rng(0)
    bits = np.concatenate([bursts(random, [3] * 30)[0], bursts(random, [2] * 5)[0]])
    hashes, there, order = pack(bits), np.ones(100, dtype=bool), np.arange(100)
    labels, _ = group_linked(hashes, order, find_links(hashes, there, there, order, Closeness(80, 80)), 30)
    assert len(np.unique(labels[90:])) == 1 and labels[90] not in labels[:90]
