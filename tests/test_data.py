"""How do files become batches?"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ena24ssd.augment import augment, render
from ena24ssd.balance import epoch_length
from ena24ssd.boxes import Box, truth_rows
from ena24ssd.cache import cache_pictures
from ena24ssd.cameratraps import Image, read
from ena24ssd.config import AugmentConfig
from ena24ssd.data import Batch, Examples, Held, count_batches, iterate_batches, read_examples, shuffle_batches
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


# -- an epoch, by the book ---------------------------------------------------------------------------------------------

DRAWN = AugmentConfig()
ROUGH = AugmentConfig(crop=0.5, expand=0.5, light=0.5, colour=0.5, infrared=0.5)
NONE = AugmentConfig(flip=False, crop=0, expand=0, light=0, colour=0, infrared=0)


def some_examples(count, side=16):
    """Pictures of noise with a box each, in memory."""
    random = np.random.default_rng(count)
    truth = np.full((count, 2, 5), -1.0, dtype=np.float32)
    truth[:, 0] = [0, 0.25, 0.25, 0.75, 0.875]
    images = tuple(Image(f"p{i}", f"{i}.jpg", side, side) for i in range(count))
    pixels = random.integers(0, 256, (count, side, side, 3)).astype(np.uint8)
    return Examples(images, pixels, np.arange(count)[::-1].copy(), truth)


def content(batches):
    return [(batch.ids, batch.images.tobytes(), batch.truth.tobytes()) for batch in batches]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("count, size", [(48, 8), (48, 7), (5, 8), (1, 1)])
def test_an_epoch_is_to_the_bit_what_the_published_figures_were_made_with(count, size, drop_last):
    examples = some_examples(count)
    order = np.random.default_rng((7, 3)).permutation(count)
    expected = []
    for step in range(count // size + (count % size > 0 and not drop_last)):
        batch = examples.take(order[step * size : (step + 1) * size])
        images, truth = augment(batch.images, batch.truth, np.random.default_rng((7, 3, step + 1)), ROUGH)
        expected.append(Batch(images, truth, batch.ids))
    found = shuffle_batches(examples, size, ROUGH, seed=7, epoch=3, drop_last=drop_last)
    assert content(found) == content(expected)


def test_an_epochs_order_stays_the_same_over_versions():
    batch = next(shuffle_batches(some_examples(10), 10, NONE, seed=1, epoch=2, drop_last=False))
    assert batch.ids == tuple(f"p{i}" for i in [8, 5, 6, 0, 9, 1, 4, 3, 7, 2])


EPOCHS = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**31 - 1),
        "epoch": st.integers(0, 5000),
        "drop_last": st.booleans(),
        "factors": st.one_of(st.none(), st.lists(st.floats(1, 4), min_size=11, max_size=11).map(np.array)),
    }
)


@settings(deadline=None, max_examples=60)
@given(
    choice=EPOCHS,
    size=st.integers(1, 14),
    start=st.integers(0, 12),
    shard=st.sampled_from([(0, 1), (0, 2), (1, 2), (2, 3)]),
    workers=st.integers(0, 2),
)
def test_starting_later_gives_what_an_uninterrupted_epoch_gives_from_there_on(choice, size, start, shard, workers):
    examples = some_examples(11)
    whole = content(shuffle_batches(examples, size, ROUGH, shard=shard, **choice))
    rest = shuffle_batches(examples, size, ROUGH, shard=shard, start=start, workers=workers, **choice)
    assert content(rest) == whole[start:]


def test_skipped_batches_are_not_prepared():
    class Counting(Examples):
        def take(self, chosen, held=False):
            taken.append(len(chosen))
            return super().take(chosen, held)

    plain, taken = some_examples(20), []
    examples = Counting(plain.images, plain.pixels, plain.rows, plain.truth)
    assert len(list(shuffle_batches(examples, 4, DRAWN, seed=0, epoch=0, drop_last=False, start=3))) == 2
    assert taken == [4, 4]


@settings(deadline=None, max_examples=60)
@given(choice=EPOCHS, size=st.integers(1, 14), parts=st.integers(1, 5))
def test_the_parts_of_all_who_train_together_are_the_joint_batches(choice, size, parts):
    examples = some_examples(11)
    joint = list(shuffle_batches(examples, size, NONE, **choice))
    shares = [list(shuffle_batches(examples, size, NONE, shard=(rank, parts), **choice)) for rank in range(parts)]
    assert [len(share) for share in shares] == [len(joint)] * parts
    for batch, *cut in zip(joint, *shares):
        sizes = [len(part.ids) for part in cut]
        assert max(sizes) - min(sizes) <= 1
        assert sum((part.ids for part in cut), ()) == batch.ids
        assert np.array_equal(np.concatenate([part.images for part in cut]), batch.images)
        assert np.array_equal(np.concatenate([part.truth for part in cut]), batch.truth)


@pytest.mark.parametrize("augmentation", [NONE, ROUGH], ids=["as they are", "augmented"])
def test_a_part_without_pictures_is_a_batch_of_none(augmentation):
    examples = some_examples(5)  # batches of 4 and 1
    parts = [
        list(shuffle_batches(examples, 4, augmentation, seed=0, epoch=0, drop_last=False, shard=(rank, 3)))
        for rank in range(3)
    ]
    assert [[len(batch.ids) for batch in part] for part in parts] == [[2, 1], [1, 0], [1, 0]]
    empty = parts[2][1]
    assert empty.images.shape == (0, 16, 16, 3) and empty.images.dtype == np.uint8
    assert empty.truth.shape == (0, 2, 5) and empty.truth.dtype == np.float32 and empty.ids == ()


# -- for an engine that holds the squares ------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(
    choice=EPOCHS,
    size=st.integers(1, 14),
    shard=st.sampled_from([(0, 1), (0, 2), (1, 2), (2, 3)]),
    workers=st.integers(0, 2),
    augmentation=st.sampled_from([NONE, DRAWN, ROUGH]),
)
def test_held_pictures_get_the_changes_that_would_else_be_done_to_their_pixels(
    choice, size, shard, workers, augmentation
):
    examples = some_examples(11)
    found = []
    for images, truth, ids in shuffle_batches(
        examples, size, augmentation, shard=shard, workers=workers, held=True, **choice
    ):
        assert isinstance(images, Held) and len(images) == len(ids) and images.rows.dtype == np.int64
        found.append(Batch(render(examples.pixels[images.rows], images.changes), truth, ids))
    assert content(found) == content(shuffle_batches(examples, size, augmentation, shard=shard, **choice))


def test_held_pictures_are_measured_as_they_are():
    examples = some_examples(10)
    held, plain = (list(iterate_batches(examples, 4, held=held)) for held in (True, False))
    assert [len(batch.images) for batch in held] == [len(batch.images) for batch in plain] == [4, 4, 2]
    assert all(batch.images.changes is None for batch in held)
    assert content(Batch(examples.pixels[images.rows], *rest) for images, *rest in held) == content(plain)


def test_no_two_who_train_together_draw_the_same_augmentation():
    same = some_examples(6)
    same.pixels[:] = same.pixels[0]
    choice = {"seed": 0, "epoch": 0, "drop_last": False}
    first, second = (next(shuffle_batches(same, 6, ROUGH, shard=(rank, 2), **choice)) for rank in range(2))
    assert not np.array_equal(first.images, second.images)


def test_repeats_change_nothing_where_every_picture_is_shown_once():
    examples, choice = some_examples(20), {"seed": 4, "epoch": 2, "drop_last": False}
    once = shuffle_batches(examples, 6, ROUGH, factors=np.ones(20), **choice)
    assert content(once) == content(shuffle_batches(examples, 6, ROUGH, **choice))


@pytest.mark.parametrize("drop_last", [False, True])
def test_every_epoch_with_repeats_has_the_same_number_of_steps(drop_last):
    examples = some_examples(20)
    factors = np.linspace(1, 3, 20)
    shown = Counter()
    for epoch in range(60):
        batches = list(shuffle_batches(examples, 6, NONE, seed=1, epoch=epoch, drop_last=drop_last, factors=factors))
        assert len(batches) == count_batches(epoch_length(factors), 6, drop_last)
        shown.update(image_id for batch in batches for image_id in batch.ids)
    if not drop_last:
        assert [shown[f"p{i}"] / 60 for i in range(20)] == pytest.approx(factors, abs=0.15)


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_an_exception_on_the_way_names_the_step_and_its_pictures_and_stays_of_its_kind(workers):
    examples = some_examples(20)
    order = np.random.default_rng((0, 5)).permutation(20)
    rows = examples.rows.copy()
    rows[order[9]] = 10**6
    batches = shuffle_batches(replace(examples, rows=rows), 4, DRAWN, seed=0, epoch=5, drop_last=False, workers=workers)
    assert [len(next(batches).ids) for _ in range(2)] == [4, 4]
    with pytest.raises(IndexError, match="epoch 5, step 2: the batch of pictures ") as caught:
        next(batches)
    named = ", ".join(f"p{i}" for i in order[8:12])
    assert f" {named} could not be prepared (IndexError: index 1000000" in str(caught.value)
    assert isinstance(caught.value.__cause__, IndexError)


def test_measuring_names_the_pictures_too():
    broken = replace(some_examples(8), rows=np.array([0, 1, 2, 3, 10**6, 5, 6, 7]))
    with pytest.raises(IndexError, match="batch 1: the batch of pictures p3, p4, p5 could not be prepared"):
        list(iterate_batches(broken, 3, workers=2))


def too_large():
    """What NumPy raises for an array that no memory holds."""
    with pytest.raises(MemoryError) as caught:
        np.empty((2**27, 2**30))
    return caught.value


@pytest.mark.parametrize(
    "fault, kind",
    [
        pytest.param(MemoryError(), MemoryError, id="a plain one"),
        pytest.param(too_large(), MemoryError, id="NumPy's own takes a shape"),
        pytest.param(FileNotFoundError(2, "gone", "a.npy"), FileNotFoundError, id="a file's"),
        pytest.param(UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"), UnicodeError, id="one that takes five arguments"),
    ],
)
def test_every_kind_of_exception_can_still_be_caught(fault, kind):
    class Failing(Examples):
        def take(self, chosen, held=False):
            raise fault

    plain = some_examples(4)
    examples = Failing(plain.images, plain.pixels, plain.rows, plain.truth)
    with pytest.raises(kind, match=f"epoch 0, step 0: .*{type(fault).__name__}"):
        next(shuffle_batches(examples, 4, DRAWN, seed=0, epoch=0, drop_last=False))
