"""How does a file become RGB pixels?

One path for training, evaluation and prediction: decode (orientation applied, any colour mode, size limit), then squash
to a square. The network never sees a picture that came another way.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image as Pillow
from PIL import ImageOps

MAX_PIXELS = 180_000_000  # a 12,000 x 15,000 scan; more is refused before it is decoded
EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"})


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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Pillow.DecompressionBombWarning)  # MAX_PIXELS rules, below
            with Pillow.open(path) as source:
                full_size = source.size
                if full_size[0] * full_size[1] > MAX_PIXELS:
                    raise PictureError(f"{full_size[0]} x {full_size[1]} pixels; the limit is {MAX_PIXELS:,} pixels")
                if least:
                    source.draft("RGB", (2 * least, 2 * least))
                turned = source.getexif().get(0x0112, 1) in (5, 6, 7, 8)  # orientations that swap the sides
                if turned and stored_size == full_size and full_size[0] != full_size[1]:
                    picture = _to_rgb(source)
                else:
                    picture = _to_rgb(ImageOps.exif_transpose(source))
                    full_size = full_size[::-1] if turned else full_size
    except PictureError:
        raise
    except FileNotFoundError:
        raise PictureError("no such file") from None
    except Pillow.UnidentifiedImageError:
        reason = "the file is empty" if path.stat().st_size == 0 else "not a picture format this package reads"
        raise PictureError(reason) from None
    except Pillow.DecompressionBombError:
        raise PictureError(f"more than {MAX_PIXELS:,} pixels") from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, OverflowError, MemoryError) as fault:
        # Pillow's decoders report damaged files by any of these.
        raise PictureError(f"damaged or unreadable ({fault})") from fault
    picture.info["full_size"] = full_size
    return picture


def squash(picture: Pillow.Image, side: int) -> np.ndarray:
    """The whole picture resized to (side, side, 3) uint8 with antialiasing; the aspect is not kept (the post's way)."""
    return np.asarray(picture.resize((side, side), Pillow.Resampling.BILINEAR))


def read_square(path: Path | str, side: int, *, stored_size: tuple[int, int] | None = None) -> Square:
    """Decode and squash one file, at the lowest cost that keeps the square sharp. Raises PictureError."""
    picture = read_picture(path, stored_size=stored_size, least=side)
    return Square(squash(picture, side), *picture.info["full_size"])


def _to_rgb(source: Pillow.Image) -> Pillow.Image:
    if source.mode.startswith("I") or source.mode == "F":  # 16-bit and float scans: keep the brightest 8 bits
        values = np.asarray(source, dtype=np.float64)
        top = 65535.0 if values.max(initial=0) > 255 else 255.0
        return Pillow.fromarray(np.clip(values * (255.0 / top), 0, 255).astype(np.uint8)).convert("RGB")
    if "transparency" in source.info or source.mode in ("RGBA", "LA", "PA"):
        layered = source.convert("RGBA")
        return Pillow.alpha_composite(Pillow.new("RGBA", layered.size, (0, 0, 0, 255)), layered).convert("RGB")
    return source.convert("RGB")
