"""How does a file become RGB pixels?

One path for training, evaluation and prediction: decode (orientation applied, any colour mode, size limit), then fit
into a square. The network never sees a picture that came another way.

Two ways to fit: ``squash`` resizes the whole picture to the square and gives up its aspect (the post's way);
``letterbox`` keeps the aspect and fills the rest with grey bars. What the square then shows, as a rectangle in pixels
of the picture, is its `view_of`: boxes go to the network and come back through it.
"""

from __future__ import annotations

import os
import stat
import struct
import warnings
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image as Pillow
from PIL import ImageFile

from ena24ssd.boxes import Box

PREPROCESSING = 1  # counts up when the same file gives other pixels: a model must see what it was trained on
FITS = ("squash", "letterbox")
BAR = (124, 116, 104)  # the mean of ImageNet: with the default data.mean, bars are zeros to the network
STRIP_TOP, STRIP_BOTTOM = 0.05, 0.12  # shares of the height; what Reconyx and Bushnell cameras print on lies in these
THUMBNAIL = 64  # pixels square, enough to tell a grey picture
COLOURED = 3.5  # levels of 255 by which a tenth of a coloured picture differs from its typical colour, at the least
MAX_PIXELS = 178_000_000  # more is refused before it is decoded; Pillow's own limit lies just above
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP")  # no others: Pillow would hand EPS to Ghostscript
EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"})

# A damaged file ends in a PictureError or gives a picture; Pillow's musings on its tags help nobody.
warnings.filterwarnings("ignore", module=r"PIL\.")

# What Pillow's decoders raise for damaged files.
DAMAGE = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, AttributeError),
    *(OverflowError, ZeroDivisionError, MemoryError, struct.error),
)

TURN = {  # EXIF orientation -> what sets the picture upright
    2: Pillow.Transpose.FLIP_LEFT_RIGHT,
    3: Pillow.Transpose.ROTATE_180,
    4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE,
    6: Pillow.Transpose.ROTATE_270,
    7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_90,
}


class PictureError(ValueError):
    """A file that gives no picture; the message says why in words for a person."""


class Square(NamedTuple):
    """A picture as the network sees it."""

    pixels: np.ndarray  # (S, S, 3) uint8, RGB
    width: int  # of the original picture, oriented
    height: int
    orientation: int = 1  # EXIF's, 2 to 8 where the camera was not held upright
    as_stored: bool = False  # the orientation was left alone, because the annotations describe the stored picture
    taken_at: datetime | None = None  # by the camera's clock


def read_picture(
    source: Path | str | BinaryIO, *, stored_size: tuple[int, int] | None = None, least: int = 0
) -> Pillow.Image:
    """Decode a file, named or opened, to an RGB picture.

    The EXIF orientation is applied, except where the annotations describe the file as it is stored: where
    ``stored_size``, their (width, height), has the shape of the stored picture and not that of the oriented one.

    ``least``: side in pixels below which detail is of no use; JPEGs are then decoded at 1/2, 1/4 or 1/8 as far as both
    sides stay at least twice as long. The picture's ``info`` holds ``full_size`` (width and height, oriented),
    ``orientation`` (EXIF's, 1 to 8), ``as_stored`` (whether it was left alone) and ``taken_at`` (a datetime, or None).

    Raises PictureError for anything that gives no picture.
    """
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # gluoncv switches it on for everybody; half a picture is a failure here
    try:
        if isinstance(source, (str, Path)) and not stat.S_ISREG(os.stat(source).st_mode):
            raise PictureError("not a file")  # reading from a pipe would wait for ever
        with Pillow.open(source, formats=FORMATS) as opened:
            return upright(opened, stored_size=stored_size, least=least)
    except PictureError:
        raise
    except FileNotFoundError:
        raise PictureError("no such file") from None
    except Pillow.UnidentifiedImageError:
        reason = "the file is empty" if _size_of(source) == 0 else "not a picture format this package reads"
        raise PictureError(reason) from None
    except Pillow.DecompressionBombError:
        raise PictureError(f"more than {MAX_PIXELS:,} pixels") from None
    except DAMAGE as fault:
        # Whoever gets the results need not know where the file lay, as the system would tell.
        words = getattr(fault, "strerror", None) or fault
        raise PictureError(f"damaged or unreadable ({words})") from fault


def upright(opened: Pillow.Image, *, stored_size: tuple[int, int] | None = None, least: int = 0) -> Pillow.Image:
    """An opened picture in RGB as a person would look at it; parameters and ``info`` as of `read_picture`.

    Raises PictureError for one that is too large, and whatever Pillow raises for a damaged one.
    """
    full_size = opened.size
    if full_size[0] * full_size[1] > MAX_PIXELS:
        raise PictureError(f"{full_size[0]} x {full_size[1]} pixels; the limit is {MAX_PIXELS:,} pixels")
    if least:
        opened.draft("RGB", (2 * least, 2 * least))
    orientation, taken_at = orientation_of(opened), time_of(opened)
    picture = _to_rgb(opened)
    as_stored = is_as_stored(stored_size, full_size, orientation)
    if orientation != 1 and not as_stored:
        picture = picture.transpose(TURN[orientation])
        full_size = full_size[::-1] if orientation >= 5 else full_size
    picture.info |= {"full_size": full_size, "orientation": orientation, "as_stored": as_stored, "taken_at": taken_at}
    return picture


def is_as_stored(said: tuple[int, int] | None, stored: tuple[int, int], orientation: int) -> bool:
    """Whether annotations that give the size ``said`` describe a picture as it is ``stored``, not as EXIF turns it.

    An exact size proves it; else the shape must tell, and where it does not, the picture is taken to be upright.
    """
    turned = stored[::-1]
    if said is None or orientation < 5 or stored == turned:
        return False
    if said in (stored, turned):
        return said == stored
    return same_shape(said, stored) and not same_shape(said, turned)


def same_shape(first: tuple[int, int], second: tuple[int, int]) -> bool:
    """Whether two pictures of these (width, height) can be the same one, resized."""
    # A copy is off by the part of a pixel that was rounded away: w * (h * s + e) - h * (w * s + e), with e below 1.
    return abs(first[0] * second[1] - first[1] * second[0]) <= max(sum(first), sum(second))


def view_of(width: int, height: int, side: int, fit: str) -> Box:
    """What a square of ``side`` pixels shows of a picture of ``width`` x ``height``, in pixels of the picture.

    Squashed it is the picture itself; letterboxed it reaches beyond, by what the bars cover.
    """
    if fit == "squash":
        return Box(0.0, 0.0, float(width), float(height))
    left, top, shown_width, shown_height = _place(width, height, side)
    x, y = width / shown_width, height / shown_height  # pixels of the picture in one of the square
    return Box(-left * x, -top * y, (side - left) * x, (side - top) * y)


def fit_square(picture: Pillow.Image, side: int, fit: str, size: tuple[int, int] | None = None) -> np.ndarray:
    """The picture in a square: (side, side, 3) uint8, resized with antialiasing.

    ``size``: the (width, height) whose `view_of` the square shall show; left out, the picture's own.
    """
    if fit == "squash":
        return np.asarray(picture.resize((side, side), Pillow.Resampling.BILINEAR))
    left, top, width, height = _place(*(size or picture.size), side)
    square = Pillow.new("RGB", (side, side), BAR)
    square.paste(picture.resize((width, height), Pillow.Resampling.BILINEAR), (left, top))
    return np.asarray(square)


def uncover(square: np.ndarray, width: int, height: int, fit: str) -> Pillow.Image:
    """What a square (S, S, 3) uint8 shows of a picture of ``width`` x ``height``, without the bars."""
    shown = Pillow.fromarray(np.ascontiguousarray(square))
    if fit == "squash":
        return shown
    left, top, shown_width, shown_height = _place(width, height, len(square))
    return shown.crop((left, top, left + shown_width, top + shown_height))


def read_square(
    source: Path | str | BinaryIO, side: int, fit: str = "squash", *, stored_size: tuple[int, int] | None = None
) -> Square:
    """Decode one file and fit it into a square, at the lowest cost that keeps it sharp.

    Where ``stored_size``, the size in the annotations, has the shape of the picture, the square shows exactly what
    `view_of` says of that size. Raises PictureError.
    """
    picture = read_picture(source, stored_size=stored_size, least=side)
    width, height = picture.info["full_size"]
    annotated = stored_size is not None and same_shape(stored_size, (width, height))
    pixels = fit_square(picture, side, fit, stored_size if annotated else (width, height))
    said = (picture.info[name] for name in ("orientation", "as_stored", "taken_at"))
    return Square(pixels, width, height, *said)


def _place(width: int, height: int, side: int) -> tuple[int, int, int, int]:
    """Where a letterboxed picture lies in its square: left, top, width and height in whole pixels of the square."""
    scale = side / max(width, height)
    shown_width, shown_height = max(1, round(width * scale)), max(1, round(height * scale))
    return (side - shown_width) // 2, (side - shown_height) // 2, shown_width, shown_height


def orientation_of(source: Pillow.Image) -> int:
    """EXIF's orientation of an opened picture, 1 to 8; 1 where it has none."""
    try:
        orientation = source.getexif().get(0x0112, 1)
    except DAMAGE:  # a picture with unreadable notes is still a picture
        return 1
    return orientation if orientation in TURN else 1


def time_of(source: Pillow.Image) -> datetime | None:
    """When an opened picture was taken, by the camera's clock; None where EXIF does not say."""
    try:
        notes = source.getexif()
        said = notes.get_ifd(0x8769).get(0x9003) or notes.get(0x0132)  # DateTimeOriginal, else DateTime
        return datetime.strptime(str(said).strip("\0 "), "%Y:%m:%d %H:%M:%S")
    except DAMAGE:  # among them a time that is none: cameras whose battery ran out write zeros
        return None


def _size_of(source: Path | str | BinaryIO) -> int:
    """Bytes of a file."""
    if isinstance(source, (str, Path)):
        return Path(source).stat().st_size
    return source.seek(0, 2)


def _to_rgb(source: Pillow.Image) -> Pillow.Image:
    if source.mode.startswith("I") or source.mode == "F":  # 16-bit and float scans
        values = np.asarray(source)
        top = 65535.0  # whatever a single picture holds: else its brightness would hang on its brightest pixel
        if source.mode == "F" or (source.mode == "I" and source.format != "PNG"):  # nothing says what is white there
            highest = values.max(initial=0)
            top = 1.0 if source.mode == "F" and highest <= 1 else 255.0 if highest <= 255 else 65535.0
        grey = np.empty(values.shape, np.uint8)
        for row, shown in zip(values, grey):  # one by one: of all together, float64 takes eight times the room
            shown[:] = np.clip(row.astype(np.float64) * (255.0 / top), 0, 255)
        return Pillow.fromarray(grey).convert("RGB")
    if "transparency" in source.info or source.mode in ("RGBA", "LA", "PA"):
        layered = source.convert("RGBA")
        return Pillow.alpha_composite(Pillow.new("RGBA", layered.size, (0, 0, 0, 255)), layered).convert("RGB")
    return source.convert("RGB")


def is_grey(picture: Pillow.Image) -> bool:
    """Whether an RGB picture has no colours of its own, as those taken by infrared flash."""
    small = picture.resize((THUMBNAIL, THUMBNAIL), Pillow.Resampling.BOX)
    pixels = np.asarray(small, dtype=np.float32)[round(STRIP_TOP * THUMBNAIL) : -round(STRIP_BOTTOM * THUMBNAIL)]
    hue = (pixels - pixels.mean(axis=-1, keepdims=True)).reshape(-1, 3)  # what is left without the brightness
    difference = np.abs(hue - np.median(hue, axis=0)).max(axis=-1)
    return bool(np.quantile(difference, 0.9) < COLOURED)
