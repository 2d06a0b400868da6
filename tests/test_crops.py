"""Is what was found cut out and drawn whole, under a name of its own, without what nobody asked to give away?"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from ena24ssd.boxes import Box
from ena24ssd.crops import Crops, frame_of
from ena24ssd.detections import Detection, ImageDetections
from ena24ssd.draw import draw_detections
from ena24ssd.drawings import Drawings, read_note, with_ending
from ena24ssd.pictures import PictureError, read_picture
from ena24ssd.synthetic import SPECIES, draw_scene
from ena24ssd.thresholds import Thresholds

THRESHOLDS = Thresholds(0.5, {"Raccoon": 0.8})
CLASSES = ("Bird", "Raccoon")
RED = (220, 10, 10)
posix = pytest.mark.skipif(os.name == "nt", reason="names as only POSIX has them")
linux = pytest.mark.skipif(sys.platform != "linux", reason="names that are no text, as only Linux has them")


def photograph(file: Path, size=(200, 100), square=(50, 40, 90, 60), **options) -> Path:
    """A grey picture with something red in it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", size, (120, 120, 120))
    picture.paste(RED, square)
    picture.save(file, {".png": "PNG", ".webp": "WEBP"}.get(file.suffix.lower(), "JPEG"), **options)
    return file


def seen(file: Path, *found: tuple[str, float, Box], size=(200, 100)) -> ImageDetections:
    detections = [Detection(CLASSES.index(name), name, score, box) for name, score, box in found]
    return ImageDetections(str(file), *size, tuple(detections))


BIRD = ("Bird", 0.9, Box(50, 40, 90, 60))


def run(action, image: ImageDetections) -> None:
    action(image, lambda: read_picture(image.file))


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    return tmp_path / "trap"


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "into"


def both(into: Path, trap: Path):
    return Crops(into, trap, THRESHOLDS, CLASSES), Drawings(into, trap, THRESHOLDS)


# -- what is cut -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param([], set(), id="nothing found"),
        pytest.param([BIRD], {"Bird/c/a.jpg-001.jpg"}, id="one"),
        pytest.param([BIRD, BIRD], {"Bird/c/a.jpg-001.jpg", "Bird/c/a.jpg-002.jpg"}, id="two of a species"),
        pytest.param(
            [("Raccoon", 0.85, Box(0, 0, 9, 9)), BIRD],
            {"Raccoon/c/a.jpg-001.jpg", "Bird/c/a.jpg-002.jpg"},
            id="two species: numbered as the results list them",
        ),
        pytest.param(
            [("Raccoon", 0.7, Box(0, 0, 9, 9)), ("Bird", 0.6, Box(0, 0, 9, 9)), ("Bird", 0.4, Box(0, 0, 9, 9))],
            {"Bird/c/a.jpg-002.jpg"},
            id="what does not count keeps its number",
        ),
    ],
)
def test_each_detection_that_counts_is_a_file(found, expected, trap, into):
    file = photograph(trap / "c" / "a.jpg")
    run(Crops(into, trap, THRESHOLDS, CLASSES), seen(file, *found))
    assert names_in(into) == expected


@pytest.mark.parametrize(
    ("box", "margin", "frame"),
    [
        pytest.param(Box(50, 40, 90, 60), 0, (50, 40, 90, 60), id="exactly the box"),
        pytest.param(Box(50, 40, 90, 60), 0.1, (46, 36, 94, 64), id="a tenth of the longer side around it"),
        pytest.param(Box(50.2, 40.9, 89.1, 59.5), 0, (50, 40, 90, 60), id="pixels that are shown in part"),
        pytest.param(Box(0, 0, 200, 100), 0.1, (0, 0, 200, 100), id="the whole picture"),
        pytest.param(Box(180, 90, 200, 100), 1, (160, 70, 200, 100), id="cut off at the border"),
        pytest.param(Box(10.4, 10.4, 10.6, 10.6), 0, (10, 10, 11, 11), id="less than a pixel"),
        pytest.param(Box(10, 10, 10, 10), 0, (10, 10, 11, 11), id="nothing at all is a pixel"),
        pytest.param(Box(200, 100, 200, 100), 0, (199, 99, 200, 100), id="at the last corner"),
        pytest.param(Box(300, -80, 400, -20), 0, (199, 0, 200, 1), id="outside"),
    ],
)
def test_a_frame_shows_the_box(box, margin, frame):
    assert frame_of(box, 200, 100, margin) == frame


@given(
    st.tuples(*[st.floats(-50, 250)] * 4), st.integers(1, 200), st.integers(1, 200), st.floats(0, 3, allow_nan=False)
)
def test_any_frame_lies_in_the_picture_and_holds_the_box(corners, width, height, margin):
    x, y = sorted(corners[::2]), sorted(corners[1::2])
    box = Box(x[0], y[0], x[1], y[1])
    left, top, right, bottom = frame_of(box, width, height, margin)
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    inside = box.clip(width, height)
    if inside.area:
        assert left <= inside.left and top <= inside.top and right >= inside.right and bottom >= inside.bottom


def test_a_crop_shows_what_is_in_the_box_at_full_size(trap, into):
    file = photograph(trap / "a.jpg", (2000, 1000), (500, 400, 900, 600), quality=95)
    run(Crops(into, trap, THRESHOLDS, CLASSES, margin=0), seen(file, ("Bird", 0.9, Box(500, 400, 900, 600))))
    pixels = np.asarray(Image.open(into / "Bird/a.jpg-001.jpg")).astype(int)
    assert pixels.shape == (200, 400, 3)
    assert np.abs(pixels - RED).max() < 40 and np.abs(pixels.mean(axis=(0, 1)) - RED).max() < 4


def test_a_picture_that_was_taken_on_edge_is_cut_upright(trap, into):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    file = photograph(trap / "a.jpg", exif=exif, quality=95)
    upright = Box(40, 50, 60, 90)  # of (50, 40, 90, 60) in a picture 100 high
    run(Crops(into, trap, THRESHOLDS, CLASSES, margin=0), seen(file, ("Bird", 0.9, upright), size=(100, 200)))
    cut = Image.open(into / "Bird/a.jpg-001.jpg")
    assert cut.size == (20, 40)
    assert np.abs(np.asarray(cut).astype(int).mean(axis=(0, 1)) - RED).max() < 15


def test_a_crop_says_which_picture_and_box_it_is_of(trap, into):
    file = photograph(trap / "c" / "a.jpg")
    run(Crops(into, trap, THRESHOLDS, CLASSES), seen(file, BIRD))
    note = read_note(into / "Bird/c/a.jpg-001.jpg")
    assert len(note.pop("digest")) == 16
    assert note == {
        "ena24ssd": "crop",
        "picture": "c/a.jpg",
        "detection": 1,
        "species": "Bird",
        "score": 0.9,
        "box": [50, 40, 90, 60],
        "crop": [46, 36, 94, 64],
    }


@pytest.mark.parametrize("margin", [-0.1, float("nan"), float("inf")])
def test_a_margin_that_is_none_is_refused(margin, trap, into):
    with pytest.raises(ValueError, match=r"margin is .*0 or more"):
        Crops(into, trap, THRESHOLDS, CLASSES, margin)


# -- what is drawn -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "counted"),
    [
        pytest.param([BIRD, ("Raccoon", 0.85, Box(100, 20, 150, 80))], 2, id="what counts"),
        pytest.param([BIRD, ("Raccoon", 0.7, Box(100, 20, 150, 80))], 1, id="not what does not"),
        pytest.param([], 0, id="a blank without boxes"),
    ],
)
def test_a_drawing_shows(found, counted, trap, into):
    file = photograph(trap / "c" / "a.png")
    run(Drawings(into, trap, THRESHOLDS), seen(file, *found))
    assert names_in(into) == {"c/a.png.jpg"}
    expected = draw_detections(read_picture(file), seen(file, *found[:counted]))
    drawn = Image.open(into / "c/a.png.jpg")
    assert drawn.size == (200, 100)
    assert np.abs(np.asarray(drawn).astype(int) - np.asarray(expected)).mean() < 3


def test_a_picture_longer_than_a_jpeg_can_be_is_made_smaller(trap, into):
    file = photograph(trap / "a.png", (70_000, 3), (0, 0, 9, 3))
    image = seen(file, ("Bird", 0.9, Box(0, 0, 70_000, 3)), size=(70_000, 3))
    for action in both(into, trap):
        run(action, image)
    for name in ("a.png.jpg", "Bird/a.png-001.jpg"):
        assert Image.open(into / name).width == 65_500


# -- what neither gives away, nor loses --------------------------------------------------------------------------------


def test_nothing_that_the_camera_noted_goes_along(trap, into):
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "SECRET description", 1
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 8.0, 15.0)})
    notes = PngImagePlugin.PngInfo()
    notes.add_text("comment", "SECRET comment")
    files = [
        photograph(trap / "a.jpg", exif=exif, comment=b"SECRET comment", icc_profile=b"SECRET profile"),
        photograph(trap / "b.png", exif=exif, pnginfo=notes, icc_profile=b"SECRET profile"),
        photograph(trap / "c.webp", exif=exif, xmp=b"SECRET xmp", icc_profile=b"SECRET profile"),
    ]
    for file in files:
        assert b"SECRET" in file.read_bytes()
        for action in both(into, trap):
            run(action, seen(file, BIRD))
    assert len(names_in(into)) == 6
    for name in names_in(into):
        content = (into / name).read_bytes()
        assert not any(word in content for word in (b"SECRET", b"Exif", b"ICC_PROFILE", b"ns.adobe.com"))


def test_the_picture_that_others_use_too_is_left_alone(trap, into):
    file = photograph(trap / "a.jpg", comment=b"from the camera")
    picture = read_picture(file)
    pixels, info = picture.tobytes(), dict(picture.info)
    for action in both(into, trap):
        action(seen(file, BIRD), lambda: picture)
    assert (picture.tobytes(), picture.info) == (pixels, info)


def test_a_picture_on_which_nothing_counts_is_not_decoded_for_crops(trap, into):
    file = photograph(trap / "a.jpg")
    Crops(into, trap, THRESHOLDS, CLASSES)(seen(file, ("Bird", 0.1, Box(0, 0, 9, 9))), lambda: 1 / 0)
    assert not into.exists()


@pytest.mark.parametrize("case", ["it failed", "it is gone", "it went after it was decoded"])
def test_what_gives_no_picture_is_left_out(case, trap, into):
    file = photograph(trap / "a.jpg")
    picture, image = read_picture(file), seen(file, BIRD)
    if case == "it failed":
        image = ImageDetections(str(file), None, None, failure="damaged")
    else:
        file.unlink()
    for action in both(into, trap):
        action(image, (lambda: picture) if case.startswith("it went") else (lambda: read_picture(file)))
    assert not into.exists()


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("a\nb.jpg", id="newline", marks=posix),
        pytest.param("\u732b\U0001f98a/e\u0301.jpg", id="letters beyond ASCII"),
        pytest.param(os.fsdecode(b"\xff/caf\xe9.jpg"), id="bytes that are no text", marks=linux),
        pytest.param("x" * 251 + ".jpg", id="as long as a name can be", marks=posix),
        pytest.param("\u732b" * 83 + ".jpg", id="as long, in long letters", marks=posix),
        pytest.param(os.fsdecode(b"\xff" * 251 + b".jpg"), id="as long, and no text", marks=linux),
        pytest.param("/".join(["y" * 100] * 9) + "/a.jpg", id="900 letters deep", marks=posix),
        pytest.param("a.jpg/b.jpg", id="in a folder called a.jpg"),
    ],
)
def test_a_picture_of_any_name_is_cut_and_drawn_once(name, trap, into):
    file = photograph(trap / name)
    for _ in range(2):
        for action in both(into, trap):
            run(action, seen(file, BIRD))
    made = names_in(into)
    assert len(made) == 2
    for path in made:
        assert read_note(into / path)["picture"] == name


def test_pictures_that_differ_in_their_ending_or_only_at_the_end_stay_apart(trap, into):
    names = ["a.jpg", "a.png", "a.JPEG", "x" * 246 + "1.jpg", "x" * 246 + "2.jpg"]
    for name in names:
        for action in both(into, trap):
            run(action, seen(photograph(trap / name), BIRD))
    assert len(names_in(into)) == 2 * len(names)


@given(st.lists(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1), unique=True))
def test_no_two_names_become_one(names):
    names = [name for name in names if name not in (".", "..")]
    made = {with_ending(Path("c") / name, f"-{k:03}.jpg") for name in names for k in (1, 12)}
    assert len(made) == 2 * len(names)
    assert all(len(os.fsencode(path.name)) <= 240 and path.parent == Path("c") for path in made)


# -- the same again ----------------------------------------------------------------------------------------------------


def test_the_same_again_changes_nothing(trap, into):
    file = photograph(trap / "a.jpg")
    states = []
    for _ in range(2):
        for action in both(into, trap):
            run(action, seen(file, BIRD))
        states.append({name: (into / name).stat() for name in names_in(into)})
    assert {k: (s.st_ino, s.st_mtime_ns) for k, s in states[0].items()} == {
        k: (s.st_ino, s.st_mtime_ns) for k, s in states[1].items()
    }


def test_what_an_earlier_run_made_of_the_picture_is_replaced(trap, into):
    file = photograph(trap / "a.jpg")
    for action in both(into, trap):
        run(action, seen(file, BIRD))
    before = {name: (into / name).read_bytes() for name in names_in(into)}
    for action in both(into, trap):
        run(action, seen(file, ("Bird", 0.8, Box(0, 0, 30, 30))))
    after = {name: (into / name).read_bytes() for name in names_in(into)}
    assert before.keys() == after.keys()
    assert not any(before[name] == after[name] for name in before)


@pytest.mark.parametrize(
    "there", ["words", "a photograph", "of another card", "the original", "folder", "link", "pipe"]
)
def test_what_is_not_made_of_the_picture_is_refused_and_kept(there, trap, into, tmp_path):
    file = photograph(trap / "a.jpg")
    for action, name in zip(both(into, trap), ("Bird/a.jpg-001.jpg", "a.jpg.jpg"), strict=True):
        target = into / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if there == "words":
            target.write_bytes(b"my notes")
        elif there == "a photograph":
            photograph(target, comment=b'{"mine": true}')
        elif there == "of another card":
            other = photograph(tmp_path / "card2" / "a.jpg", square=(0, 0, 5, 5))
            root = {"root": other.parent}
            run(
                type(action)(**{k: getattr(action, k) for k in vars(action) if k != "folders"} | root),
                seen(other, BIRD),
            )
        elif there == "the original":
            os.link(file, target)
        elif there == "folder":
            target.mkdir()
        elif there == "link":
            target.symlink_to(file)
        else:
            os.mkfifo(target)
        content = target.read_bytes() if there not in ("folder", "pipe") else None
        before = target.lstat()
        with pytest.raises(FileExistsError, match=r"is there already and is no (crop|drawing) of this picture"):
            run(action, seen(file, BIRD))
        assert target.lstat() == before
        assert content is None or target.read_bytes() == content


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_after_a_crash_there_is_nothing_or_the_whole_file_and_it_can_come_again(call, trap, into, monkeypatch):
    file = photograph(trap / "a.jpg")

    def crash(*_):
        raise KeyboardInterrupt

    for action in both(into, trap):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, crash)
            with pytest.raises(KeyboardInterrupt):
                run(action, seen(file, BIRD))
    assert names_in(into) == set()
    for action in both(into, trap):
        run(action, seen(file, BIRD))
    assert names_in(into) == {"Bird/a.jpg-001.jpg", "a.jpg.jpg"}


def test_a_full_disk_is_said_with_the_file(trap, into, monkeypatch):
    file = photograph(trap / "a.jpg")

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    for action in both(into, trap):
        with pytest.raises(OSError, match=r"No space left.*a\.jpg") as error:
            run(action, seen(file, BIRD))
        assert error.value.errno == errno.ENOSPC
    assert names_in(into) == set()


def test_a_note_is_read_of_our_own_files_only(tmp_path):
    for name, comment in (("a.jpg", b"[1]"), ("b.jpg", b"[" * 60_000), ("c.jpg", b"\xff"), ("d.jpg", b"{}")):
        assert read_note(photograph(tmp_path / name, comment=comment)) is None
    (tmp_path / "e.jpg").write_bytes(b"")
    assert read_note(tmp_path / "e.jpg") is None
    assert read_note(tmp_path / "nowhere.jpg") is None


# -- a drawn scene, from end to end ------------------------------------------------------------------------------------


def test_the_animals_of_a_drawn_scene_are_cut_out(trap, into):
    scene, boxes = draw_scene(3, size=(320, 240), species=["Northern Raccoon", "Wild Turkey"], night=False)
    trap.mkdir()
    scene.save(trap / "scene.png")
    found = [Detection(label, SPECIES[label], 0.95, box) for label, box in boxes]
    image = ImageDetections(str(trap / "scene.png"), 320, 240, tuple(found))
    run(Crops(into, trap, Thresholds(0.5), SPECIES, margin=0), image)
    for number, (label, box) in enumerate(boxes, 1):
        cut = np.asarray(Image.open(into / SPECIES[label] / f"scene.png-{number:03}.jpg")).astype(int)
        left, top, right, bottom = frame_of(box, 320, 240, 0)
        assert np.abs(cut - np.asarray(scene)[top:bottom, left:right]).mean() < 8
    assert len(boxes) == 2


def test_a_picture_that_raises_anything_but_a_picture_error_is_not_hidden(trap, into):
    file = photograph(trap / "a.jpg")

    def broken():
        raise RuntimeError("a mistake of ours")

    for action in both(into, trap):
        with pytest.raises(RuntimeError):
            action(seen(file, BIRD), broken)

    def gone():
        raise PictureError("no such file")

    for action in both(into, trap):
        action(seen(file, BIRD), gone)
