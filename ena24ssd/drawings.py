"""How does what was found look on its picture?

`Drawings` draws every picture with the boxes that count: ``into/cam1/IMG_0001.JPG.jpg``, the picture's own path and an
ending, so that ``a.jpg`` and ``a.png`` stay apart. A picture on which nothing counts is drawn without boxes.

A file made from a picture says in its JPEG comment which picture that was (`read_note`). By that, only what was made of
the same picture is ever replaced. It has nothing else of the original's notes: no EXIF, so no place.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

from PIL import Image as Pillow

from ena24ssd.detections import ImageDetections
from ena24ssd.draw import draw_detections
from ena24ssd.files import replace_file
from ena24ssd.pictures import DAMAGE, PictureError
from ena24ssd.sorting import cut, make_folder_of, name_below, read_blocks
from ena24ssd.thresholds import Thresholds

QUALITY = 90  # of JPEG, 0 to 95
LONGEST_SIDE = 65_500  # pixels; JPEG has no more
LONGEST_NAME = 240  # bytes of a file name; files have 255, and one being written has 15 more than its name


@dataclass(frozen=True)
class Drawings:
    """Draws pictures with what counts on them, below the folder ``into``.

    ``root``: where the pictures' names start; ``thresholds``: what counts. Several pictures may be drawn at once.
    """

    into: Path
    root: Path
    thresholds: Thresholds

    def __call__(self, image: ImageDetections, picture: Callable[[], Pillow.Image]) -> None:
        """Draw one picture, which ``picture`` gives as `read_picture` does. What gives no picture is left out.

        Raises ValueError for a picture outside ``root``, FileExistsError where something else has its name, and OSError
        where the disk does not play along.
        """
        name = name_below(image.file, self.root)
        if image.failure is not None:
            return
        try:
            shown, digest = picture(), digest_of(image.file)
        except PictureError:
            return
        note = {"ena24ssd": "drawing", "picture": name.as_posix(), "digest": digest}
        drawn = draw_detections(shown, self.thresholds.select(image))
        write_jpeg(drawn, Path(os.path.abspath(self.into), with_ending(name, ".jpg")), note)


def with_ending(name: Path, ending: str) -> Path:
    """A name with an ending; one that grows too long for a file is cut, and marked so that it stays unlike others."""
    if len(os.fsencode(name.name + ending)) <= LONGEST_NAME:
        return name.with_name(name.name + ending)
    mark = "~" + sha256(os.fsencode(name.name)).hexdigest()[:16]
    return name.with_name(cut(name.name, LONGEST_NAME - len(mark) - len(ending)) + mark + ending)


def digest_of(file: Path | str) -> str:
    """Sixteen digits that tell the bytes of a picture from those of others. Raises PictureError."""
    digest = blake2b(digest_size=8)
    for block in read_blocks(Path(file)):
        digest.update(block)
    return digest.hexdigest()


def write_jpeg(picture: Pillow.Image, target: Path, note: dict[str, Any]) -> None:
    """Write what was made of a picture, whole or not at all, with ``note`` as its comment.

    ``note`` names what the file is (``ena24ssd``), of which ``picture``, and that one's ``digest``. What is there with
    the same three is replaced, or left where it is the same already. Raises FileExistsError for anything else.
    """
    picture = picture.copy()
    picture.info = {}  # where Pillow would find what was noted in the original
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=QUALITY, comment=json.dumps(note).encode())
    if os.path.lexists(target):
        there = read_note(target) if target.is_file() and not target.is_symlink() else None
        if there is None or any(there.get(key) != note[key] for key in ("ena24ssd", "picture", "digest")):
            raise FileExistsError(
                f"{target}: is there already and is no {note['ena24ssd']} of this picture; nothing else is replaced. "
                "Name another folder, or move that file away"
            )
        if target.read_bytes() == content.getvalue():
            return
    make_folder_of(target)
    replace_file(target, content.getvalue())


def read_note(file: Path | str) -> dict[str, Any] | None:
    """What a drawing or a crop says of itself; None for any other file."""
    try:
        with Pillow.open(file, formats=("JPEG",)) as opened:
            note = json.loads(opened.info["comment"])
    except (*DAMAGE, Pillow.DecompressionBombError, RecursionError):  # OSError, KeyError and ValueError among them
        return None
    return note if isinstance(note, dict) and "ena24ssd" in note else None
