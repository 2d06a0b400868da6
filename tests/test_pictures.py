"""How does a file become RGB pixels, and what does a bad one say?"""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ena24ssd.boxes import Box, LabelledBox, truth_rows
from ena24ssd.detections import rows_to_detections
from ena24ssd.pictures import BAR, FITS, PictureError, fit_square, is_as_stored, read_picture, read_square, view_of

RED_LEFT = np.zeros((40, 80, 3), dtype=np.uint8)
RED_LEFT[:, :40, 0] = 255


def save(path, array, mode="RGB", **options):
    Image.fromarray(array).convert(mode).save(path, **options)
    return path


@pytest.mark.parametrize(
    "name, mode, options",
    [
        ("a.jpg", "RGB", {"quality": 95}),
        ("a.JPG", "RGB", {"quality": 95, "format": "JPEG"}),
        ("cmyk.jpg", "CMYK", {"quality": 95}),
        ("palette.png", "P", {}),
        ("alpha.png", "RGBA", {}),
        ("a.bmp", "RGB", {}),
        ("a.webp", "RGB", {"lossless": True}),
        ("a.tif", "RGB", {}),
    ],
)
def test_any_colour_mode_becomes_the_same_rgb(tmp_path, name, mode, options):
    pixels = np.asarray(read_picture(save(tmp_path / name, RED_LEFT, mode, **options))).astype(int)
    assert pixels.shape == (40, 80, 3)
    assert np.abs(pixels - RED_LEFT)[:, [5, 20, 60, 75]].max() < 12


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey_pictures_have_three_equal_channels(tmp_path, mode):
    pixels = np.asarray(read_picture(save(tmp_path / "grey.png", RED_LEFT, mode)))
    assert pixels.shape == (40, 80, 3)
    assert (pixels[..., 0] == pixels[..., 2]).all()


def test_sixteen_bit_pictures_keep_their_brightness(tmp_path):
    ramp = np.linspace(0, 65535, 80 * 40).reshape(40, 80).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    pixels = np.asarray(read_picture(tmp_path / "deep.png"))[..., 0]
    assert pixels[0, 0] == 0 and pixels[-1, -1] == 255
    assert np.abs(pixels - ramp / 257.0).max() <= 1


def test_how_bright_a_sixteen_bit_picture_is_does_not_hang_on_its_brightest_pixel(tmp_path):
    night = np.full((40, 80), 200, dtype=np.uint16)
    Image.fromarray(night).save(tmp_path / "night.png")
    night[0, 0] = 60_000
    Image.fromarray(night).save(tmp_path / "eye.png")
    first, second = (np.asarray(read_picture(tmp_path / name)) for name in ("night.png", "eye.png"))
    assert first.max() <= 1 and np.array_equal(first[5:], second[5:])


def test_a_float_picture_of_shares_is_not_black(tmp_path):
    Image.fromarray(np.linspace(0, 1, 3200, dtype=np.float32).reshape(40, 80)).save(tmp_path / "a.tif")
    assert np.ptp(np.asarray(read_picture(tmp_path / "a.tif"))) == 255


@pytest.mark.parametrize(
    "orientation, size, red",
    [
        (1, (80, 40), "left"),
        (2, (80, 40), "right"),
        (3, (80, 40), "right"),
        (6, (40, 80), "top"),
        (8, (40, 80), "bottom"),
    ],
)
def test_orientation_is_applied(tmp_path, orientation, size, red):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = read_picture(save(tmp_path / "turned.jpg", RED_LEFT, exif=exif, quality=95))
    assert picture.size == size and picture.info["full_size"] == size
    middle = {"left": (10, 20), "right": (70, 20), "top": (20, 10), "bottom": (20, 70)}[red]
    assert picture.getpixel(middle)[0] > 200


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10**9), kind=st.sampled_from(["JPEG", "PNG", "TIFF", "WEBP"]))
def test_a_damaged_file_gives_a_picture_or_a_picture_error_and_nothing_else(tmp_path_factory, seed, kind):
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x0132] = 6, "a description", "2016:05:17 21:32:34"
    buffer = io.BytesIO()
    Image.fromarray(RED_LEFT).save(buffer, kind, exif=exif)
    content, random = bytearray(buffer.getvalue()), np.random.default_rng(seed)
    for place in random.integers(0, min(len(content), 200), random.integers(1, 6)):
        content[place] = random.integers(256)
    path = tmp_path_factory.mktemp("damaged") / "a.img"
    path.write_bytes(content)
    try:
        assert read_square(path, 16).pixels.shape == (16, 16, 3)
    except PictureError as failure:
        assert str(failure)


def test_a_picture_annotated_as_stored_stays_as_stored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "turned.jpg", RED_LEFT, exif=exif)
    assert read_picture(path, stored_size=(80, 40)).size == (80, 40)
    assert read_picture(path, stored_size=(40, 80)).size == (40, 80)


@pytest.mark.parametrize(
    "said, stored, orientation, expected",
    [
        (None, (80, 40), 6, False),
        ((80, 40), (80, 40), 1, False),
        ((80, 40), (80, 40), 3, False),
        ((80, 40), (80, 40), 6, True),
        ((40, 80), (80, 40), 6, False),
        ((160, 80), (80, 40), 6, True),
        ((1000, 995), (1000, 995), 6, True),
        ((995, 1000), (1000, 995), 6, False),
        ((500, 498), (1000, 995), 6, True),
        ((50, 50), (100, 99), 6, False),
        ((50, 50), (50, 50), 6, False),
        ((30, 70), (80, 40), 6, False),
    ],
    ids=[
        "nothing is said of the size",
        "not turned at all",
        "turned by half, which exchanges nothing",
        "the size as stored",
        "the size as shown",
        "twice the size as stored",
        "nearly square, and exactly as stored",
        "nearly square, and exactly as shown",
        "nearly square and half as large",
        "nearly square and so small that nobody can know",
        "square: nobody can know",
        "neither way",
    ],
)
def test_whether_annotations_describe_the_stored_picture(said, stored, orientation, expected):
    assert is_as_stored(said, stored, orientation) is expected


def test_a_large_jpeg_is_decoded_small_but_reports_its_full_size(tmp_path):
    path = save(tmp_path / "large.jpg", np.kron(RED_LEFT, np.ones((20, 20, 1), np.uint8)))
    picture = read_picture(path, least=100)
    assert picture.info["full_size"] == (1600, 800)
    assert min(picture.size) >= 200 and picture.width < 1600


def test_a_square_holds_the_whole_picture_squashed(tmp_path):
    square = read_square(save(tmp_path / "a.png", RED_LEFT), 16)
    assert square.pixels.shape == (16, 16, 3) and square.pixels.dtype == np.uint8
    assert (square.width, square.height) == (80, 40)
    assert square.pixels[:, :7, 0].min() > 250 and square.pixels[:, 9:, 0].max() < 5
    assert np.array_equal(square.pixels, fit_square(Image.fromarray(RED_LEFT), 16, "squash"))


def test_a_letterboxed_square_keeps_the_aspect_between_bars(tmp_path):
    square = read_square(save(tmp_path / "a.png", RED_LEFT), 16, "letterbox")
    assert (square.pixels[:4] == BAR).all() and (square.pixels[12:] == BAR).all()
    assert square.pixels[4:12, :7, 0].min() > 250 and square.pixels[4:12, 9:, 0].max() < 5
    assert view_of(80, 40, 16, "letterbox") == Box(0, -20, 80, 60)


SIDES = st.integers(1, 6000)


@settings(max_examples=300, deadline=None)
@given(fit=st.sampled_from(FITS), width=SIDES, height=SIDES, side=st.integers(32, 2048), data=st.data())
def test_a_box_comes_back_from_the_square_to_where_it_was(fit, width, height, side, data):
    unit = st.floats(0, 1)
    left, right = sorted((data.draw(unit) * width, data.draw(unit) * width))
    top, bottom = sorted((data.draw(unit) * height, data.draw(unit) * height))
    view = view_of(width, height, side, fit)
    ((label, *corners),) = truth_rows([LabelledBox(0, Box(left, top, right, bottom))], view, 1).tolist()
    assert all(-1e-6 <= corner <= 1 + 1e-6 for corner in corners)
    found = rows_to_detections(np.array([[label, 0.9, *corners]]), ["Bear"], width, height, 0.5, view)
    if found:
        assert np.abs(np.subtract(found[0].box, (left, top, right, bottom))).max() < 0.01
    else:
        assert right - left < 0.01 or bottom - top < 0.01


@settings(max_examples=40, deadline=None)
@given(fit=st.sampled_from(FITS), width=st.integers(40, 400), height=st.integers(40, 400), data=st.data())
def test_what_is_seen_in_the_square_lies_where_it_is_in_the_picture(tmp_path_factory, fit, width, height, data):
    """A white rectangle, found by its pixels in the square, maps back onto itself to within a pixel of the square."""
    side = 64
    left, top = data.draw(st.integers(0, width // 2)), data.draw(st.integers(0, height // 2))
    right, bottom = data.draw(st.integers(left + width // 4, width)), data.draw(st.integers(top + height // 4, height))
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[top:bottom, left:right] = 255
    square = read_square(save(tmp_path_factory.mktemp("p") / "a.png", pixels), side, fit).pixels
    rows, columns = np.nonzero(square.min(axis=2) > 127)
    corners = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / side
    view = view_of(width, height, side, fit)
    ((*_, box),) = (
        (found.box,) for found in rows_to_detections(np.array([[0, 0.9, *corners]]), ["Bear"], width, height, 0.5, view)
    )
    allowed = np.tile((view.width / side, view.height / side), 2) * 0.75 + 1e-9
    assert (np.abs(np.subtract(box, (left, top, right, bottom))) <= allowed).all()


def huge_png() -> bytes:
    """A PNG of a hundred bytes that claims 30,000 x 30,000 pixels."""

    def chunk(content: bytes) -> bytes:
        return struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR" + header) + chunk(b"IDAT" + zlib.compress(bytes(1000)))


def half_a_jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()[: len(buffer.getvalue()) // 2]


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "the file is empty"),
        (b"<html>not a picture</html>", "not a picture format"),
        (half_a_jpeg(), "damaged"),
        (half_a_jpeg()[:20], "not a picture format|damaged"),
        (huge_png(), "more than 178,000,000 pixels"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not a picture format"),
    ],
    ids=[
        "an empty file",
        "a web page",
        "half a JPEG",
        "a JPEG's first bytes",
        "a decompression bomb",
        "a program for Ghostscript",
    ],
)
def test_what_is_no_picture_says_why(tmp_path, content, reason):
    (tmp_path / "bad.jpg").write_bytes(content)
    with pytest.raises(PictureError, match=reason):
        read_square(tmp_path / "bad.jpg", 32)


@pytest.mark.parametrize("name", ["absent.jpg", "folder.jpg"])
def test_what_is_no_file_says_so(tmp_path, name):
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(PictureError):
        read_picture(tmp_path / name)
