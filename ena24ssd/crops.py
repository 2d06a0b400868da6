"""What was found, cut out?

`Crops` writes a JPEG for every detection that counts: ``into/Raccoon/cam1/IMG_0001.JPG-002.jpg`` is the second of the
detections that the results list for ``cam1/IMG_0001.JPG``. It is cut from the picture at its full size. Which picture,
box and score that was is noted in the file too (`ena24ssd.drawings.read_note`); of the original's own notes it has
none: no EXIF, so no place.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image as Pillow

from ena24ssd.boxes import Box
from ena24ssd.detections import ImageDetections
from ena24ssd.drawings import digest_of, with_ending, write_jpeg
from ena24ssd.pictures import PictureError
from ena24ssd.sorting import name_below, name_folders
from ena24ssd.thresholds import Thresholds

MARGIN = 0.1


@dataclass(frozen=True)
class Crops:
    """Cuts out what counts, into a folder for each species below ``into``.

    Parameters: ``root``, where the pictures' names start; ``thresholds``, what counts; ``class_names``, all species the
    detector knows; ``margin``, how much is shown around a box on every side, as a share of the box's longer side.
    Several pictures may be cut at once. Raises ValueError for a margin that is negative or no number.
    """

    into: Path
    root: Path
    thresholds: Thresholds
    class_names: Sequence[str]
    margin: float = MARGIN
    folders: Mapping[str, str] = field(init=False, repr=False)  # of each species

    def __post_init__(self) -> None:
        if not (math.isfinite(self.margin) and self.margin >= 0):
            raise ValueError(f"margin is {self.margin}; it is a share of the box, 0 or more. Try {MARGIN}")
        object.__setattr__(self, "folders", name_folders(self.class_names))

    def __call__(self, image: ImageDetections, picture: Callable[[], Pillow.Image]) -> None:
        """Cut up one picture, which ``picture`` gives as `read_picture` does. What gives no picture is left out.

        Raises ValueError for a picture outside ``root``, FileExistsError where something else has its name, and OSError
        where the disk does not play along.
        """
        name = name_below(image.file, self.root)
        # The number is a detection's place in the results, whatever the thresholds.
        counted = [(k, d) for k, d in enumerate(image.detections, 1) if d.score >= self.thresholds.of(d.name)]
        if not counted:
            return
        try:
            shown, digest = picture(), digest_of(image.file)
        except PictureError:
            return
        for number, found in counted:
            frame = frame_of(found.box, *shown.size, self.margin)
            target = Path(os.path.abspath(self.into), self.folders[found.name], with_ending(name, f"-{number:03}.jpg"))
            note = {"ena24ssd": "crop", "picture": name.as_posix(), "digest": digest, "detection": number}
            said = {"species": found.name, "score": found.score, "box": [*found.box], "crop": [*frame]}
            write_jpeg(shown.crop(frame), target, note | said)


def frame_of(box: Box, width: int, height: int, margin: float) -> tuple[int, int, int, int]:
    """The whole pixels of a picture (``width`` x ``height``) that show a box with a margin, at least one of them.

    Returns left, top, right and bottom, the last two not included.
    """
    wider = margin * max(box.width, box.height)
    left, top, right, bottom = Box(box.left - wider, box.top - wider, box.right + wider, box.bottom + wider)
    first_x, first_y = (min(max(math.floor(v), 0), side - 1) for v, side in ((left, width), (top, height)))
    last_x, last_y = (min(max(math.ceil(v), 1), side) for v, side in ((right, width), (bottom, height)))
    return first_x, first_y, max(last_x, first_x + 1), max(last_y, first_y + 1)
