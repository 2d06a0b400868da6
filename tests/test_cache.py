"""Do the squares on disk stay those of the files, whatever happens?"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from filelock import FileLock, Timeout

from ena24ssd import cache as room
from ena24ssd.cache import cache_pictures
from ena24ssd.cameratraps import CameraTrapDataset, read
from ena24ssd.data import read_examples
from ena24ssd.pictures import PictureError, read_square

SIDE = 40


@pytest.fixture
def dataset(scenes, tmp_path):
    shutil.copytree(scenes, tmp_path / "scenes")  # for these tests change the files
    return read(tmp_path / "scenes" / "scenes.json")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the pictures that are decoded from now on."""
    names: list[str] = []

    def counting(image, path, side, fit="squash", real=room.examine):
        names.append(image.file_name)
        return real(image, path, side, fit)

    monkeypatch.setattr(room, "examine", counting)
    return names


def is_whole(cache: room.Cache, dataset: CameraTrapDataset) -> bool:
    """Every square is what its file gives now."""
    squares = [read_square(dataset.path(image), SIDE).pixels for image in dataset.images]
    return np.array_equal(cache.pixels, np.stack(squares))


def test_the_cache_holds_what_decoding_gives_and_a_second_call_decodes_nothing(dataset, folder, monkeypatch):
    assert is_whole(cache_pictures(dataset, SIDE, folder=folder), dataset)
    names = decoded(monkeypatch)
    assert is_whole(cache_pictures(dataset, SIDE, folder=folder), dataset)
    assert names == []


def test_only_the_file_that_changed_is_decoded_again(dataset, folder, monkeypatch):
    before = cache_pictures(dataset, SIDE, folder=folder)
    old = np.array(before.pixels[7])
    changed = dataset.images[7]
    dataset.path(changed).write_bytes(dataset.path(dataset.images[30]).read_bytes())
    names = decoded(monkeypatch)
    after = cache_pictures(dataset, SIDE, folder=folder)
    assert names == [changed.file_name]
    assert is_whole(after, dataset)
    assert np.array_equal(before.pixels[7], old), "a run that still reads the old squares keeps them"
    assert len(list(folder.glob("*.npy"))) == 1, "nothing superseded stays on disk"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda data: (data, SIDE + 1, "squash"), id="another side"),
        pytest.param(lambda data: (data, SIDE, "letterbox"), id="another way to fit"),
        pytest.param(lambda data: (replace(data, images=data.images[1:]), SIDE, "squash"), id="fewer pictures"),
        pytest.param(
            lambda data: (replace(data, images=(data.images[0]._replace(width=80), *data.images[1:])), SIDE, "squash"),
            id="another size in the json",
        ),
    ],
)
def test_other_squares_get_a_cache_of_their_own(dataset, folder, change):
    cache_pictures(dataset, SIDE, folder=folder)
    other, side, fit = change(dataset)
    assert cache_pictures(other, side, fit, folder).pixels.shape == (len(other.images), side, side, 3)
    assert len(list(folder.glob("*.npy"))) == 2


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(lambda pixels, notes: notes.unlink(), id="the notes are lost"),
        pytest.param(lambda pixels, notes: pixels.unlink(), id="the pixels are lost"),
        pytest.param(lambda pixels, notes: notes.write_bytes(notes.read_bytes()[:100]), id="the notes are cut short"),
        pytest.param(lambda pixels, notes: notes.write_bytes(b""), id="the notes are empty"),
        pytest.param(lambda pixels, notes: os.truncate(pixels, 5000), id="the pixels are cut short"),
        pytest.param(lambda pixels, notes: np.save(pixels, np.zeros((2, 2))), id="the pixels are another array"),
    ],
)
def test_a_damaged_cache_is_built_anew(dataset, folder, harm):
    cache_pictures(dataset, SIDE, folder=folder)
    harm(next(folder.glob("*.npy")), next(folder.glob("*.npz")))
    assert is_whole(cache_pictures(dataset, SIDE, folder=folder), dataset)
    assert len(list(folder.glob("*.npy"))) == 1


def flip(file: Path, at: int, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1 << bit
    file.write_bytes(content)


def test_a_bit_flipped_in_a_square_is_noticed_and_that_picture_alone_is_decoded_again(
    dataset, folder, monkeypatch, caplog
):
    cache_pictures(dataset, SIDE, folder=folder)
    pixels, size = next(folder.glob("*.npy")), 3 * SIDE * SIDE
    head = pixels.stat().st_size - 48 * size
    random = np.random.default_rng(5)
    for row in (0, 47, *random.integers(48, size=6)):
        flip(pixels, head + row * size + random.integers(size), random.integers(8))
        names = decoded(monkeypatch)
        assert is_whole(cache_pictures(dataset, SIDE, folder=folder), dataset)
        assert names == [dataset.images[row].file_name]
        assert f"{pixels.name}: 1 of 48 squares in the picture cache are damaged" in caplog.text
        (pixels,) = folder.glob("*.npy")


def test_damage_in_squares_that_are_stale_besides_is_not_carried_over(dataset, folder):
    cache_pictures(dataset, SIDE, folder=folder)
    flip(next(folder.glob("*.npy")), 128 + 3 * 3 * SIDE * SIDE, 7)
    dataset.path(dataset.images[9]).write_bytes(dataset.path(dataset.images[30]).read_bytes())
    assert is_whole(cache_pictures(dataset, SIDE, folder=folder), dataset)
    assert is_whole(cache_pictures(dataset, SIDE, folder=folder), dataset)


def test_the_empty_square_of_a_left_out_picture_is_checked_too(dataset, folder, caplog):
    dataset.path(dataset.images[2]).write_bytes(b"broken")
    cache_pictures(dataset, SIDE, folder=folder)
    cache_pictures(dataset, SIDE, folder=folder)
    assert "damaged" not in caplog.text
    flip(next(folder.glob("*.npy")), 128 + 2 * 3 * SIDE * SIDE, 0)
    cache = cache_pictures(dataset, SIDE, folder=folder)
    assert not cache.pixels[2].any() and cache.left_out == {dataset.images[2].id}
    assert "1 of 48 squares" in caplog.text


def test_squares_that_the_disk_does_not_give_back_are_decoded_anew(dataset, folder, monkeypatch):
    cache_pictures(dataset, SIDE, folder=folder)

    def failing(file, *arguments):
        if str(file).endswith(".npy"):
            raise OSError(5, "Input/output error")
        return open(file, *arguments)

    monkeypatch.setattr(room, "open", failing, raising=False)
    names = decoded(monkeypatch)
    assert is_whole(cache_pictures(dataset, SIDE, folder=folder), dataset)
    assert len(names) == 48


@pytest.mark.parametrize("pattern", ["*.npz", "*.npy"])
def test_whatever_bit_is_flipped_in_the_notes_or_the_header_the_squares_are_right(dataset, folder, pattern):
    cache_pictures(dataset, SIDE, folder=folder)
    random = np.random.default_rng(7)
    for _ in range(12):
        file = next(folder.glob(pattern))
        end = 128 if pattern == "*.npy" else file.stat().st_size
        flip(file, random.integers(end), random.integers(8))
        assert is_whole(cache_pictures(dataset, SIDE, folder=folder), dataset)
        assert len(list(folder.glob("*.npy"))) == 1


def test_a_picture_whose_file_is_gone_is_left_out_and_back_when_it_is(dataset, folder, monkeypatch):
    cache_pictures(dataset, SIDE, folder=folder)
    gone = dataset.path(dataset.images[4])
    gone.rename(gone.with_suffix(".away"))
    cache = cache_pictures(dataset, SIDE, folder=folder)
    assert [(problem.image_id, problem.rule) for problem in cache.problems] == [
        (dataset.images[4].id, "picture-unreadable")
    ]
    gone.with_suffix(".away").rename(gone)
    names = decoded(monkeypatch)
    cache = cache_pictures(dataset, SIDE, folder=folder)
    assert not cache.problems and is_whole(cache, dataset)
    assert names == [dataset.images[4].file_name]


def test_an_unreadable_picture_is_left_out_and_reported(dataset, folder):
    broken = dataset.images[2]
    dataset.path(broken).write_bytes(b"broken")
    cache = cache_pictures(dataset, SIDE, folder=folder)
    examples, problems = read_examples(dataset, cache, [image.id for image in dataset.images], 4)
    assert [image.id for image in examples.images] == [image.id for image in dataset.images if image is not broken]
    assert [(p.image_id, p.rule) for p in problems] == [(broken.id, "picture-unreadable")]
    assert problems[0].file_name == broken.file_name and "not a picture" in problems[0].detail
    after = examples.take(np.array([2])).images[0]
    assert np.array_equal(after, read_square(dataset.path(dataset.images[3]), SIDE).pixels)


def test_a_picture_that_can_be_read_again_is_no_failure_any_more(dataset, folder, monkeypatch):
    def away(path, *_, **__):
        raise PictureError("disk away")

    with monkeypatch.context() as trouble:
        trouble.setattr("ena24ssd.inspection.read_square", away)
        assert len(cache_pictures(dataset, SIDE, folder=folder).left_out) == 48
    cache = cache_pictures(dataset, SIDE, folder=folder)
    assert not cache.problems and is_whole(cache, dataset)


KILLED = """
import os, signal, sys
from pathlib import Path
from ena24ssd import cache
from ena24ssd.cameratraps import read
done, real = [], cache.examine
def examine(*arguments):
    done.append(0)
    if len(done) == 20:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)
cache.examine = examine
cache.cache_pictures(read(sys.argv[1]), 40, folder=Path(sys.argv[2]))
"""


def test_a_build_that_is_killed_leaves_nothing_that_passes_for_whole_and_no_rubbish(dataset, folder):
    json_file = dataset.root.parent / dataset.name
    killed = subprocess.run([sys.executable, "-c", KILLED, json_file, folder], timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert not list(folder.glob("*.npz")) and len(list(folder.glob("*.npy"))) == 1
    assert is_whole(cache_pictures(dataset, SIDE, folder=folder), dataset)
    assert len(list(folder.glob("*.npy"))) == 1


def test_runs_that_want_the_same_cache_at_once_build_it_once(dataset, folder, monkeypatch, caplog):
    names, built = decoded(monkeypatch), []
    threads = [
        threading.Thread(target=lambda: built.append(cache_pictures(dataset, SIDE, folder=folder))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(built) == 4 and all(is_whole(cache, dataset) for cache in built)
    assert len(names) == 48
    assert "another run is filling or checking" in caplog.text


HOLDER = """
import sys, time
from filelock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_a_lock_left_by_a_killed_process_holds_nobody_up(dataset, folder):
    cache_pictures(dataset, SIDE, folder=folder)
    file = next(folder.glob(".*.lock"))
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, file], stdout=subprocess.PIPE)
    holder.stdout.readline()
    with pytest.raises(Timeout):
        FileLock(file).acquire(timeout=0)
    holder.kill()
    holder.communicate(timeout=10)
    assert is_whole(cache_pictures(dataset, SIDE, folder=folder), dataset)


def test_a_full_disk_is_a_sentence_and_leaves_nothing(dataset, folder, monkeypatch):
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match=r"needs .* GB and .* are free.*data\.cache"):
        cache_pictures(dataset, SIDE, folder=folder)
    assert not list(folder.glob("*.np*"))


def test_caches_nobody_asked_for_in_a_month_are_deleted_and_others_are_not(dataset, folder):
    cache_pictures(dataset, SIDE, folder=folder)
    cache_pictures(dataset, SIDE + 1, folder=folder)
    (folder / "notes.npz").write_bytes(b"somebody else's")
    old, kept = (next(folder.glob(f"*{side}px*.npz")) for side in (SIDE, SIDE + 1))
    for file in (old, folder / "notes.npz"):
        os.utime(file, (time.time() - 40 * 86_400,) * 2)
    cache_pictures(dataset, SIDE + 2, folder=folder)
    assert not old.exists() and kept.exists() and (folder / "notes.npz").exists()
    assert len(list(folder.glob("*.npy"))) == 2


def test_a_cache_that_is_being_filled_anew_is_not_swept_away_by_another_run(dataset, folder, monkeypatch):
    cache_pictures(dataset, SIDE, folder=folder)
    notes = next(folder.glob("*.npz"))
    os.utime(notes, (time.time() - 40 * 86_400,) * 2)
    dataset.path(dataset.images[0]).touch()
    begun, real = [], room.examine

    def examine(*arguments):
        if not begun:  # in the middle of filling, another run looks for a cache of its own
            begun.append(0)
            cache_pictures(dataset, SIDE + 1, folder=folder)
        return real(*arguments)

    monkeypatch.setattr(room, "examine", examine)
    assert is_whole(cache_pictures(dataset, SIDE, folder=folder), dataset)


def test_pixels_of_a_killed_build_that_nobody_finished_go_after_a_month(dataset, folder):
    folder.mkdir()
    orphan = folder / "gone.json-40px-squash-0123456789abcdef-01234567.npy"
    for age, there in ((20, True), (40, False)):
        orphan.write_bytes(b"half")
        os.utime(orphan, (time.time() - age * 86_400,) * 2)
        cache_pictures(dataset, SIDE, folder=folder)
        assert orphan.exists() == there


def test_a_persons_own_files_are_never_swept_away(dataset, folder):
    folder.mkdir()
    own = [folder / name for name in ("my-survey-640px-results.npz", "a-40px-squash-final.npy", "b-scenes-new.npz")]
    for file in own:
        file.write_bytes(b"mine")
        os.utime(file, (time.time() - 400 * 86_400,) * 2)
    cache_pictures(dataset, SIDE, folder=folder)
    assert all(file.exists() for file in own)


def test_what_a_killed_build_took_is_given_back_before_room_is_asked_for(dataset, folder, monkeypatch):
    json_file = dataset.root.parent / dataset.name
    subprocess.run([sys.executable, "-c", KILLED, json_file, folder], timeout=60)
    (orphan,) = folder.glob("*.npy")

    def disk_usage(_):
        return SimpleNamespace(free=0 if orphan.exists() else 10**9)

    monkeypatch.setattr(room.shutil, "disk_usage", disk_usage)
    assert is_whole(cache_pictures(dataset, SIDE, folder=folder), dataset)


def test_an_interrupted_build_leaves_no_pixels(dataset, folder, monkeypatch):
    def interrupted(rows):
        yield from rows[:5]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache_pictures(dataset, SIDE, folder=folder, progress=interrupted)
    assert not list(folder.glob("*.np*"))


def test_a_cache_folder_that_cannot_be_is_a_sentence(dataset, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match=r"file: the picture cache cannot be written .*data\.cache"):
        cache_pictures(dataset, SIDE, folder=tmp_path / "file")


def test_a_picture_takes_three_bytes_a_pixel_on_disk(dataset, folder):
    cache_pictures(dataset, SIDE, folder=folder)
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert size < 48 * (3 * SIDE * SIDE + 20) + 2000
