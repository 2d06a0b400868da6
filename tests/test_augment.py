"""Does the truth stay true when pictures are changed?"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ena24ssd.augment import KEPT, augment, crop_to, keeps_boxes, mirror, relight


def a_batch(seed: int, count: int = 3, side: int = 24) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    truth = np.full((count, 3, 5), -1.0, dtype=np.float32)
    for rows in truth:
        for row in rows[: random.integers(0, 4)]:
            left, top = random.uniform(0, 0.7, 2)
            row[:] = random.integers(5), left, top, left + random.uniform(0.1, 0.3), top + random.uniform(0.1, 0.3)
    return random.integers(0, 255, (count, side, side, 3), dtype=np.uint8), truth


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), flip=st.booleans(), crop=st.floats(0, 0.9), light=st.floats(0, 0.9))
def test_boxes_stay_valid_keep_their_labels_and_none_appears_or_vanishes(seed, flip, crop, light):
    images, truth = a_batch(seed)
    before = images.copy(), truth.copy()
    changed, moved = augment(images, truth, np.random.default_rng(seed), flip=flip, crop=crop, light=light)
    assert np.array_equal(images, before[0]) and np.array_equal(truth, before[1]), "input was changed in place"
    assert changed.shape == images.shape and changed.dtype == np.uint8
    assert np.array_equal(moved[..., 0], truth[..., 0])
    real = moved[moved[..., 0] >= 0][:, 1:]
    assert (real >= 0).all() and (real <= 1).all() and (real[:, 2:] > real[:, :2]).all()
    assert (moved[moved[..., 0] < 0] == -1).all()


def test_no_change_asked_for_is_no_change():
    images, truth = a_batch(0)
    changed, moved = augment(images, truth, np.random.default_rng(0), flip=False, crop=0, light=0)
    assert np.array_equal(changed, images) and np.array_equal(moved, truth)


def test_mirroring_twice_changes_nothing_and_boxes_follow_their_pixels():
    images, _ = a_batch(0, side=20)
    truth = np.full((3, 2, 5), -1.0, dtype=np.float32)
    truth[0, 0], truth[1, 0], truth[1, 1] = [2, 0.1, 0.2, 0.5, 0.6], [0, 0, 0, 1, 1], [1, 0.25, 0, 0.5, 0.5]
    chosen = np.array([True, True, False])
    flipped, moved = mirror(images, truth, chosen)
    assert np.allclose(moved[0, 0], [2, 0.5, 0.2, 0.9, 0.6]) and np.allclose(moved[1, 1], [1, 0.5, 0, 0.75, 0.5])
    assert np.array_equal(flipped[1, :, 5:10], images[1, :, 10:15][:, ::-1])
    assert np.array_equal(flipped[2], images[2]) and (moved[2] == -1).all() and (moved[0, 1] == -1).all()
    again, back = mirror(flipped, moved, chosen)
    assert np.array_equal(again, images) and np.allclose(back, truth, atol=1e-6)


def test_a_box_follows_its_pixels_through_a_crop():
    image = np.zeros((100, 100, 3), dtype=np.uint8)
    image[30:60, 40:80] = 255
    truth = np.array([[1, 0.4, 0.3, 0.8, 0.6], [-1] * 5], dtype=np.float32)
    cut, moved = crop_to(image, truth, np.array([0.2, 0.1, 0.9, 0.9]))
    rows, columns = np.nonzero(cut[..., 0] > 127)
    assert moved[0, 1:] * 100 == pytest.approx([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], abs=1)
    assert (moved[1] == -1).all()


@pytest.mark.parametrize(
    "window, kept",
    [
        ((0, 0, 1, 1), True),
        ((0.2, 0.2, 0.6, 0.6), True),
        ((0.2, 0.2, 0.2 + 0.4 * KEPT + 0.001, 0.6), True),
        ((0.2, 0.2, 0.2 + 0.4 * KEPT - 0.001, 0.6), False),
        ((0.7, 0.7, 1, 1), False),
    ],
    ids=["the whole picture", "just the box", "hardly enough of it", "not quite enough", "none of it"],
)
def test_a_crop_is_made_only_where_every_animal_stays_in(window, kept):
    truth = np.array([[1, 0.2, 0.2, 0.6, 0.6], [-1] * 5], dtype=np.float32)
    assert keeps_boxes(truth, np.array(window)) is kept


def test_a_blank_picture_may_be_cut_anywhere():
    assert keeps_boxes(np.full((2, 5), -1.0), np.array([0.4, 0.4, 0.5, 0.5]))


def test_light_changes_each_picture_by_its_own_factors():
    images = np.full((2, 4, 4, 3), 100, dtype=np.uint8)
    images[:, :2] = 200
    lit = relight(images, np.array([1.0, 0.5]), np.array([0.5, 1.0]))
    assert np.unique(lit[0]).tolist() == [125, 175]
    assert np.unique(lit[1]).tolist() == [50, 100]
