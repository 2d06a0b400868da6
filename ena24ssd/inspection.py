"""Is the file on disk the picture that the annotations speak of?

The json says how large a picture is and where its animals are; the file says what is there to see. `examine` compares
the two for one picture, `inspect_pictures` decodes all of them. What does not fit is a `Problem` by one of the
`PICTURE_RULES`, and a picture whose boxes cannot be placed is left out rather than learnt from.
"""

from __future__ import annotations

from pathlib import Path

from ena24ssd.ahead import Progress, run_ahead
from ena24ssd.cameratraps import CameraTrapDataset, Image, Problem
from ena24ssd.pictures import PictureError, Square, read_square, same_shape

PICTURE_RULES: dict[str, str] = {
    "picture-unreadable": "The file gives no picture: damaged, cut short, empty, too large or something else; left "
    "out. Copy it again from the card, or delete its record.",
    "shape-mismatch": "The file has not the shape that the json gives, so its boxes cannot be placed; left out. "
    "Correct width and height in the json, or put the right picture there.",
    "size-mismatch": "The file has another size than the json gives, in the same shape; the boxes are scaled along.",
    "stored-orientation": "EXIF calls the picture turned, but the json describes it as it is stored; used as stored.",
    "unproven-orientation": "EXIF calls the picture mirrored or turned in a way that its size cannot show; it is set "
    "upright, and the boxes are believed to refer to that. Look at one with its boxes drawn ('ena24ssd explore').",
}
"""Every `Problem.rule` of a picture on disk, and one sentence on what is odd and what is done about it."""

PICTURE_NOTICES = frozenset({"size-mismatch", "stored-orientation", "unproven-orientation"})
"""The rules by which no picture is lost."""

SMALL = 32  # pixels: the inspection needs no detail, but it reads every byte of every file


def examine(image: Image, path: Path, side: int, fit: str = "squash") -> tuple[Square | None, Problem | None]:
    """The picture of a record as a square, or None where it cannot be used; and what is odd about it, if anything."""
    said = image.width, image.height
    try:
        square = read_square(path, side, fit, stored_size=said)
    except PictureError as failure:
        return None, _problem(image, "picture-unreadable", f"{failure}; the picture is left out")
    found = square.width, square.height
    sizes = f"the file is {found[0]} x {found[1]} px, the json says {said[0]} x {said[1]}"
    if not same_shape(said, found):
        ratios = f"{found[0] / said[0]:.3g} of the width, {found[1] / said[1]:.3g} of the height"
        return None, _problem(image, "shape-mismatch", f"{sizes} ({ratios}); the picture is left out")
    if not square.as_stored and not _proves_upright(said, found, square.orientation):
        detail = f"EXIF orientation {square.orientation}; set upright, its boxes believed; {sizes}"
        return square, _problem(image, "unproven-orientation", detail)
    if said != found:
        return square, _problem(image, "size-mismatch", f"{sizes} ({found[0] / said[0]:.3g} of it); boxes scaled along")
    if square.as_stored:
        detail = f"EXIF orientation {square.orientation}, but the json describes the stored picture; not turned"
        return square, _problem(image, "stored-orientation", detail)
    return square, None


def _proves_upright(said: tuple[int, int], found: tuple[int, int], orientation: int) -> bool:
    """Whether the size ``said`` shows that the annotations describe the picture as set upright, which is ``found``."""
    if orientation < 5:  # mirroring and half a turn change no size
        return orientation == 1
    stored = found[::-1]
    return stored != found and (said == found or not same_shape(said, stored))


def inspect_pictures(dataset: CameraTrapDataset, progress: Progress | None = None) -> tuple[Problem, ...]:
    """Decode every picture, as many at once as there are cores; what is odd, in the order of the dataset."""

    def look(image: Image) -> Problem | None:
        return examine(image, dataset.path(image), SMALL)[1]

    problems = run_ahead(look, (progress or iter)(dataset.images), name="inspect")  # Pillow decodes without the GIL
    return tuple(problem for problem in problems if problem is not None)


def _problem(image: Image, rule: str, detail: str) -> Problem:
    return Problem(image.id, rule, detail, image.file_name)
