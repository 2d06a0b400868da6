"""How are detections written as a table?

One row for each detection, best first, and one for a picture without any, or that could not be read (then with the
reason under ``failure``). The columns are those of `COLUMNS`, whatever was found; ``detection`` counts 1, 2, ... within
a picture, so that it and ``file`` say which row is meant. Pixels are those of the original, times the camera's own.

What the columns look like is decided for the two programs that ecologists open them with:

* Excel takes a csv for UTF-8 only if it starts with a byte order mark, so it does. R, pandas and LibreOffice know the
  mark and drop it; in Python's own csv module, open the file with the encoding ``utf-8-sig``.
* Times have a space between day and hour (``2024-05-01 06:12:33``): Excel and R's ``as.POSIXct`` know that by
  themselves, and not the letter T.
* A cell that begins with one of ``= + - @``, a tab or a line end may be run by a spreadsheet as a formula. A file of
  such a name is written as ``./=a.jpg``: the same file to every program that opens it. A species or failure is written
  with an apostrophe before it.
* Bytes of a file name that are no UTF-8 are written out (``caf\\udce9.jpg``), because one such byte would keep R and
  pandas from reading the table at all.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ena24ssd.detections import SCORE_DIGITS, ImageDetections
from ena24ssd.files import replacing
from ena24ssd.picturenames import relative_name

COLUMNS = (
    "file",
    "width",
    "height",
    "taken_at",
    "detection",
    "species",
    "score",
    "left",
    "top",
    "right",
    "bottom",
    "failure",
)
PIXEL_DIGITS = 2
STEERING = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001  (Excel takes the wide ones too)


def write_csv(
    path: str | os.PathLike[str], images: Iterable[ImageDetections], class_names: Sequence[str], *, root: Path
) -> int:
    """Write ``images`` to ``path`` and return the number of rows below the header.

    ``images`` may be a generator: rows are written as they come, and the file appears when it is whole.

    Raises ValueError for a detection whose name is not one of ``class_names``.
    """
    species = {name: _harmless(name) for name in class_names}
    rows = 0
    with replacing(Path(path)) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="backslashreplace", newline="")
        try:
            writer = csv.writer(text)
            writer.writerow(COLUMNS)
            for image in images:
                picture = _picture(image, root)
                for cells in _detections(image, species) or [[None] * 7]:
                    writer.writerow([*picture, *cells, _harmless((image.failure or "").replace("\0", "\\0"))])
                    rows += 1
        finally:
            text.detach()  # writes what is left, and does not close what `replacing` still needs
    return rows


def _picture(image: ImageDetections, root: Path) -> list[Any]:
    name = relative_name(image.file, root)
    taken_at = None if image.taken_at is None else image.taken_at.isoformat(sep=" ", timespec="seconds")
    return [f"./{name}" if name.startswith(STEERING) else name, image.width, image.height, taken_at]


def _detections(image: ImageDetections, species: dict[str, str]) -> list[list[Any]]:
    cells = []
    for number, found in enumerate(image.detections, start=1):
        if found.name not in species:
            raise ValueError(
                f"image {image.file!r} has a detection called {found.name!r}; names must be among {list(species)}. "
                "Pass the class names the detector was trained with"
            )
        corners = (round(float(edge), PIXEL_DIGITS) for edge in found.box)
        cells.append([number, species[found.name], round(float(found.score), SCORE_DIGITS), *corners])
    return cells


def _harmless(text: str) -> str:
    """The text so that no spreadsheet takes it for a formula."""
    return f"'{text}" if text.startswith(STEERING) else text
