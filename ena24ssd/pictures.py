"""How does a file become RGB pixels?

One path for training, evaluation and prediction: decode (orientation applied, any colour mode, size limit), then squash
to a square. The network never sees a picture that came another way.
"""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image as Pillow
from PIL import ImageFile

MAX_PIXELS = 178_000_000  # more is refused before it is decoded; Pillow's own limit lies just above
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


def read_picture(path: Path | str, *, stored_size: tuple[int, int] | None = None, least: int = 0) -> Pillow.Image:
    """Decode a file to an RGB picture.

    The EXIF orientation is applied, except where the file as stored has exactly ``stored_size`` (width, height; what
    the annotations say) and the oriented one has not: then the boxes refer to the stored picture.

    ``least``: side in pixels below which detail is of no use; JPEGs are then decoded at 1/2, 1/4 or 1/8 as far as both
    sides stay at least twice as long. The picture's ``info["full_size"]`` always holds the oriented full size.

    Raises PictureError for anything that gives no picture.
    """
    path = Path(path)
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # gluoncv switches it on for everybody; half a picture is a failure here
    try:
        with Pillow.open(path) as source:
            full_size = source.size
            if full_size[0] * full_size[1] > MAX_PIXELS:
                raise PictureError(f"{full_size[0]} x {full_size[1]} pixels; the limit is {MAX_PIXELS:,} pixels")
            if least:
                source.draft("RGB", (2 * least, 2 * least))
            orientation = _orientation(source)
            turned = orientation >= 5 and full_size[0] != full_size[1]
            if turned and stored_size == full_size:
                orientation = 1
            picture = _to_rgb(source)
    except PictureError:
        raise
    except FileNotFoundError:
        raise PictureError("no such file") from None
    except Pillow.UnidentifiedImageError:
        reason = "the file is empty" if path.stat().st_size == 0 else "not a picture format this package reads"
        raise PictureError(reason) from None
    except Pillow.DecompressionBombError:
        raise PictureError(f"more than {MAX_PIXELS:,} pixels") from None
    except DAMAGE as fault:
        raise PictureError(f"damaged or unreadable ({fault})") from fault
    if orientation != 1:
        picture = picture.transpose(TURN[orientation])
        full_size = full_size[::-1] if orientation >= 5 else full_size
    picture.info["full_size"] = full_size
    return picture


def squash(picture: Pillow.Image, side: int) -> np.ndarray:
    """The whole picture resized to (side, side, 3) uint8 with antialiasing; the aspect is not kept (the post's way)."""
    return np.asarray(picture.resize((side, side), Pillow.Resampling.BILINEAR))


def read_square(path: Path | str, side: int, *, stored_size: tuple[int, int] | None = None) -> Square:
    """Decode and squash one file, at the lowest cost that keeps the square sharp. Raises PictureError."""
    picture = read_picture(path, stored_size=stored_size, least=side)
    return Square(squash(picture, side), *picture.info["full_size"])


def _orientation(source: Pillow.Image) -> int:
    try:
        orientation = source.getexif().get(0x0112, 1)
    except DAMAGE:  # a picture with unreadable notes is still a picture
        return 1
    return orientation if orientation in TURN else 1


def _to_rgb(source: Pillow.Image) -> Pillow.Image:
    if source.mode.startswith("I") or source.mode == "F":  # 16-bit and float scans: keep the brightest 8 bits
        values = np.asarray(source, dtype=np.float64)
        top = 65535.0 if values.max(initial=0) > 255 else 255.0
        return Pillow.fromarray(np.clip(values * (255.0 / top), 0, 255).astype(np.uint8)).convert("RGB")
    if "transparency" in source.info or source.mode in ("RGBA", "LA", "PA"):
        layered = source.convert("RGBA")
        return Pillow.alpha_composite(Pillow.new("RGBA", layered.size, (0, 0, 0, 255)), layered).convert("RGB")
    return source.convert("RGB")
