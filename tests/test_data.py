"""How do files become batches?"""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest

from ena24ssd.boxes import truth_rows
from ena24ssd.cameratraps import read
from ena24ssd.config import DataConfig
from ena24ssd.data import cache_pictures, count_batches, iterate_batches, read_examples, shuffle_batches
from ena24ssd.pictures import PictureError, read_square

SIDE = 40


@pytest.fixture(scope="module")
def dataset(scenes):
    return read(scenes / "scenes.json")


@pytest.fixture
def examples(dataset, tmp_path):
    ids = [image.id for image in dataset.images]
    return read_examples(dataset, cache_pictures(dataset, SIDE, tmp_path), ids, 4)[0]


def test_the_cache_holds_exactly_what_decoding_gives(dataset, examples):
    for position in (0, 17, 47):
        image = dataset.images[position]
        batch = examples.take(np.array([position]))
        assert np.array_equal(batch.images[0], read_square(dataset.path(image), SIDE).pixels)
        assert np.array_equal(batch.truth[0], truth_rows(image.boxes, image.width, image.height, 4))
        assert batch.ids == (image.id,)


def test_a_second_reading_decodes_nothing(dataset, tmp_path, monkeypatch):
    cache_pictures(dataset, SIDE, tmp_path)
    monkeypatch.setattr("ena24ssd.data.read_square", lambda *_, **__: pytest.fail("decoded again"))
    assert cache_pictures(dataset, SIDE, tmp_path).pixels.shape == (48, SIDE, SIDE, 3)


@pytest.mark.parametrize("change", ["another side", "a changed file", "fewer pictures"])
def test_the_cache_is_built_anew_when_what_it_was_made_from_changes(dataset, tmp_path, change):
    cache_pictures(dataset, SIDE, tmp_path)
    side = SIDE + 1 if change == "another side" else SIDE
    if change == "a changed file":
        os.utime(dataset.path(dataset.images[0]))
    if change == "fewer pictures":
        dataset = replace(dataset, images=dataset.images[1:])
    assert cache_pictures(dataset, side, tmp_path).pixels.shape == (len(dataset.images), side, side, 3)
    assert len(list(tmp_path.glob("*.npy"))) == 2


def test_a_build_that_is_killed_leaves_nothing_that_looks_whole(dataset, tmp_path, monkeypatch):
    def die(path, side, **_):
        raise KeyboardInterrupt

    monkeypatch.setattr("ena24ssd.data.read_square", die)
    with pytest.raises(KeyboardInterrupt):
        cache_pictures(dataset, SIDE, tmp_path)
    assert not list(tmp_path.glob("*.npy"))


def test_an_unreadable_picture_is_left_out_and_reported(dataset, tmp_path):
    photos = tmp_path / "photos"
    for image in dataset.images[:6]:
        target = photos / image.file_name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(dataset.path(image).read_bytes() if image is not dataset.images[2] else b"broken")
    some = replace(dataset, images=dataset.images[:6], root=photos)
    cache = cache_pictures(some, SIDE, tmp_path / "cache")
    examples, problems = read_examples(some, cache, [image.id for image in some.images], 4)
    assert [image.id for image in examples.images] == [image.id for image in some.images if image is not some.images[2]]
    assert [(p.image_id, p.rule) for p in problems] == [(some.images[2].id, "picture-unreadable")]
    assert "not a picture" in problems[0].detail
    assert np.array_equal(examples.take(np.array([2])).images[0], read_square(some.path(some.images[3]), SIDE).pixels)


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("size", [1, 7, 8, 48, 50])
def test_batches_come_in_order_and_none_is_lost(examples, size, workers):
    batches = list(iterate_batches(examples, size, workers=workers))
    assert len(batches) == count_batches(48, size, False)
    ids = [image_id for batch in batches for image_id in batch.ids]
    assert ids == [image.id for image in examples.images]


@pytest.mark.parametrize("size, batches", [(1, 48), (7, 6), (48, 1), (50, 0)])
def test_an_epochs_last_smaller_batch_can_be_left_out(examples, size, batches):
    sizes = [len(b.ids) for b in shuffle_batches(examples, size, DataConfig(), seed=0, epoch=0, drop_last=True)]
    assert sizes == [size] * batches and len(sizes) == count_batches(48, size, True)


def test_a_picture_that_can_be_read_again_is_no_failure_any_more(dataset, tmp_path, monkeypatch):
    def away(path, side, **_):
        raise PictureError("disk away")

    with monkeypatch.context() as trouble:
        trouble.setattr("ena24ssd.data.read_square", away)
        assert len(cache_pictures(dataset, SIDE, tmp_path).failures) == 48
    assert not cache_pictures(dataset, SIDE, tmp_path).failures


def test_more_boxes_than_rows_name_the_picture(dataset, tmp_path):
    crowded = next(image for image in dataset.images if image.boxes)
    with pytest.raises(ValueError, match=rf"'{crowded.id}'.*data\.max_boxes"):
        read_examples(dataset, cache_pictures(dataset, SIDE, tmp_path), [crowded.id], 0)


def test_an_epochs_order_depends_on_seed_and_epoch_alone(examples):
    def order(**choice):
        workers = choice.pop("workers", 0)
        batches = shuffle_batches(examples, 8, DataConfig(workers=workers), drop_last=False, **choice)
        return [(batch.ids, batch.images.tobytes(), batch.truth.tobytes()) for batch in batches]

    first = order(seed=1, epoch=0)
    assert first == order(seed=1, epoch=0, workers=3)
    assert first != order(seed=1, epoch=1)
    assert first != order(seed=2, epoch=0)
    assert sorted(i for ids, *_ in first for i in ids) == sorted(image.id for image in examples.images)


def test_a_workers_exception_reaches_the_one_who_iterates(examples):
    broken = replace(examples, rows=np.full(len(examples), 10**6))
    with pytest.raises(IndexError):
        list(iterate_batches(broken, 8, workers=2))


def test_stopping_early_leaves_no_thread_working(examples):
    batches = iterate_batches(examples, 1, workers=2)
    next(batches)
    batches.close()


def test_failures_are_kept_with_the_cache(dataset, tmp_path):
    cache_pictures(dataset, SIDE, tmp_path)
    (notes,) = tmp_path.glob("*.json")
    assert json.loads(notes.read_text()) == {}
