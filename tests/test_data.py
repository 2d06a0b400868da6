"""How do files become batches?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ena24ssd.boxes import Box, truth_rows
from ena24ssd.cache import cache_pictures
from ena24ssd.cameratraps import read
from ena24ssd.config import AugmentConfig
from ena24ssd.data import count_batches, iterate_batches, read_examples, shuffle_batches
from ena24ssd.pictures import read_square, view_of

SIDE = 40


@pytest.fixture(scope="module")
def dataset(scenes):
    return read(scenes / "scenes.json")


@pytest.fixture
def examples(dataset, tmp_path):
    ids = [image.id for image in dataset.images]
    return read_examples(dataset, cache_pictures(dataset, SIDE, folder=tmp_path), ids, 4)[0]


def test_the_cache_holds_exactly_what_decoding_gives(dataset, examples):
    for position in (0, 17, 47):
        image = dataset.images[position]
        batch = examples.take(np.array([position]))
        assert np.array_equal(batch.images[0], read_square(dataset.path(image), SIDE).pixels)
        assert np.array_equal(batch.truth[0], truth_rows(image.boxes, Box(0, 0, image.width, image.height), 4))
        assert batch.ids == (image.id,)


def test_letterboxed_examples_keep_the_aspect_of_their_boxes(dataset, tmp_path):
    cache = cache_pictures(dataset, SIDE, "letterbox", tmp_path)
    examples, _ = read_examples(dataset, cache, [image.id for image in dataset.images], 4, "letterbox")
    for image, truth in zip(examples.images, examples.truth):
        assert np.array_equal(truth, truth_rows(image.boxes, view_of(image.width, image.height, SIDE, "letterbox"), 4))
        for row, (_, box) in zip(truth, image.boxes):
            wide, high = row[3] - row[1], row[4] - row[2]
            assert wide / high == pytest.approx(box.width / box.height, rel=1e-4)


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("size", [1, 7, 8, 48, 50])
def test_batches_come_in_order_and_none_is_lost(examples, size, workers):
    batches = list(iterate_batches(examples, size, workers=workers))
    assert len(batches) == count_batches(48, size, False)
    ids = [image_id for batch in batches for image_id in batch.ids]
    assert ids == [image.id for image in examples.images]


@pytest.mark.parametrize("size, batches", [(1, 48), (7, 6), (48, 1), (50, 0)])
def test_an_epochs_last_smaller_batch_can_be_left_out(examples, size, batches):
    sizes = [len(b.ids) for b in shuffle_batches(examples, size, AugmentConfig(), seed=0, epoch=0, drop_last=True)]
    assert sizes == [size] * batches and len(sizes) == count_batches(48, size, True)


def test_more_boxes_than_rows_name_the_picture(dataset, tmp_path):
    crowded = next(image for image in dataset.images if image.boxes)
    with pytest.raises(ValueError, match=rf"'{crowded.id}'.*data\.max_boxes"):
        read_examples(dataset, cache_pictures(dataset, SIDE, folder=tmp_path), [crowded.id], 0)


def test_an_epochs_order_depends_on_seed_and_epoch_alone(examples):
    def order(**choice):
        workers = choice.pop("workers", 0)
        batches = shuffle_batches(examples, 8, AugmentConfig(), drop_last=False, workers=workers, **choice)
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
