"""What does it look like?

Every function takes a picture and returns a new one; the picture it was given stays as it was. Lines and letters grow
with the picture, so that a drawn 12 megapixel picture reads like a drawn thumbnail. The letters are the font that comes
with Pillow, which knows ASCII only: accents are dropped from captions, other signs become "?".
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from math import ceil, floor, sqrt
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ena24ssd.boxes import Box, LabelledBox
from ena24ssd.detections import Detection, ImageDetections
from ena24ssd.pictures import PictureError, read_picture

RGB = tuple[int, int, int]
Style = Literal["solid", "dashed"]

WHITE: RGB = (255, 255, 255)
BLACK: RGB = (0, 0, 0)
PAPER: RGB = (58, 58, 58)  # behind and between pictures: dark enough for night pictures, and neither black nor white

MINIMUM_FONT_SIZE = 10  # pixels; smaller letters cannot be read

# The seven colours of Okabe and Ito (2008), then 17 found by always adding the colour that is farthest from those
# before it (CIE76) to the eye that sees it worst: a full one, a deuteranope's or a protanope's (Machado 2009).
PALETTE: tuple[RGB, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
    (0, 0, 255),
    (170, 255, 170),
    (136, 0, 17),
    (51, 34, 170),
    (85, 51, 85),
    (221, 238, 238),
    (102, 119, 255),
    (102, 187, 102),
    (204, 238, 119),
    (102, 68, 68),
    (255, 153, 170),
    (34, 51, 136),
    (0, 85, 255),
    (204, 68, 51),
    (170, 221, 255),
    (119, 153, 255),
    (68, 119, 119),
)


def colour(label: int) -> RGB:
    """The colour of a species, the same in every picture.

    The first 24 labels can be told apart with red-green blindness too; later ones are blends of those.
    """
    turn, place = divmod(label, len(PALETTE))
    if turn == 0:
        return PALETTE[place]
    pure, other = PALETTE[place], PALETTE[(place + turn) % len(PALETTE)]
    return tuple((2 * a + b) // 3 for a, b in zip(pure, other, strict=True))


def text_colour(background: RGB) -> RGB:
    """Black or white, whichever reads better; their contrast (WCAG 2) with any background is at least 4.58 to 1."""
    return BLACK if _luminance(background) > sqrt(1.05 * 0.05) - 0.05 else WHITE


def read_thumbnail(path: Path, size: tuple[int, int], most: tuple[int, int]) -> Image.Image:
    """A picture, annotated as ``size`` (width, height), at ``most`` that large, for drawing on it: words and lines then
    stay as large as they are shown. Blank where it cannot be read: no drawing is worth stopping for.
    """
    try:
        picture = read_picture(path, stored_size=size, least=most[0])
    except PictureError:
        picture = Image.new("RGB", (most[0], max(1, round(most[0] * size[1] / size[0]))), PAPER)
    picture.thumbnail(most)
    return picture


def draw_boxes(picture: Image.Image, boxes: Sequence[tuple[int, str, Box]], *, style: Style = "solid") -> Image.Image:
    """Each box as a frame in the colour of its label, with its caption on a tag.

    Parameters: ``boxes``, any number of (label, caption, box in pixels), the most important first: it comes to lie on
    top and takes the best place for its tag. The frame runs around the box and leaves what is inside to be seen. A box
    outside the picture is not drawn; nor is a tag when the picture is too small for words, or the caption empty.
    ``style`` is "solid", or "dashed" with tags below, so that two sets of boxes go into one picture.
    """
    return _draw(picture, [_Mark(colour(label), caption, box) for label, caption, box in boxes], style)


def draw_detections(picture: Image.Image, detections: ImageDetections | Sequence[Detection]) -> Image.Image:
    """What a detector found, with names and scores.

    `ImageDetections` know the size of their picture and may be drawn on a smaller or larger copy of it.
    """
    scale_x = scale_y = 1.0
    if isinstance(detections, ImageDetections):
        if detections.width and detections.height:
            scale_x, scale_y = picture.width / detections.width, picture.height / detections.height
        detections = detections.detections
    boxes = [
        (
            found.label,
            f"{found.name} {found.score:.2f}",
            found.box.scale(scale_x, scale_y),
        )
        for found in detections
    ]
    return draw_boxes(picture, boxes)


def draw_truth(picture: Image.Image, boxes: Sequence[LabelledBox], class_names: Sequence[str]) -> Image.Image:
    """What the annotators drew, in white dashes with the tags below.

    Drawn first, it stays visible under `draw_detections`, whose tags lie above their boxes.
    """
    return _draw(picture, [_Mark(WHITE, class_names[label], box) for label, box in boxes], "dashed")


def draw_anchors(picture: Image.Image, corners: np.ndarray) -> Image.Image:
    """Anchors where they are, also beyond the picture: the canvas grows to show them, the picture is framed in white.

    Parameters: ``corners`` (K, 4), unit corners. Beyond -1 and 2, one picture's width on either side, they are cut off.
    Raises ValueError for corners of another shape or that are not finite.
    """
    corners = np.asarray(corners, dtype=np.float64)
    if corners.ndim != 2 or corners.shape[1] != 4 or not np.isfinite(corners).all():
        raise ValueError(
            f"corners have shape {corners.shape}; they must be (K, 4) finite unit corners. "
            "Take the first of a batch of anchors: anchors[0]"
        )
    size = np.array([picture.width, picture.height])
    pixels = corners.clip(-1.0, 2.0).reshape(-1, 2, 2) * size  # (K, 2, 2): two corners, x and y
    line = _line_width(picture)
    margin = 4 * line
    low = np.floor(np.minimum(pixels.min(axis=(0, 1), initial=0.0), 0.0)).astype(int) - margin
    high = np.ceil(np.maximum(pixels.max(axis=(0, 1), initial=0.0), size)).astype(int) + margin

    left, top = (-low).tolist()
    canvas = Image.new("RGB", tuple((high - low).tolist()), PAPER)
    canvas.paste(picture.convert("RGB"), (left, top))
    frame = _Mark(WHITE, "", Box(left, top, left + picture.width, top + picture.height))
    marks = [_Mark(colour(index), "", Box(*box)) for index, box in enumerate((pixels - low).reshape(-1, 4).tolist())]
    return _draw(canvas, [*marks, frame], "solid", line)


def contact_sheet(
    pictures: Sequence[Image.Image],
    captions: Sequence[str] | None = None,
    columns: int = 4,
    cell: tuple[int, int] = (320, 240),
) -> Image.Image:
    """Pictures side by side, each scaled into a cell of (width, height) pixels with its aspect kept, caption below.

    Raises ValueError without pictures, for captions of another number, and for columns or cells below 1.
    """
    if not pictures or columns < 1 or min(cell) < 1:
        raise ValueError(
            f"{len(pictures)} pictures, {columns} columns and cells of {cell[0]} x {cell[1]} px make no contact sheet; "
            "each must be at least 1"
        )
    if captions is not None and len(captions) != len(pictures):
        raise ValueError(
            f"{len(captions)} captions for {len(pictures)} pictures; pass one each, or None for no captions"
        )
    columns = min(columns, len(pictures))
    rows = ceil(len(pictures) / columns)
    gap = max(2, min(cell) // 24)
    font_size = max(MINIMUM_FONT_SIZE, min(cell) // 15)
    text_height = 0 if captions is None else _font(font_size).size * 3 // 2
    pitch_x, pitch_y = cell[0] + gap, cell[1] + text_height + gap

    sheet = Image.new("RGB", (gap + columns * pitch_x, gap + rows * pitch_y), PAPER)
    canvas = ImageDraw.Draw(sheet)
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        left, top = gap + column * pitch_x, gap + row * pitch_y
        scale = min(cell[0] / picture.width, cell[1] / picture.height)
        size = tuple(max(1, min(round(side * scale), limit)) for side, limit in zip(picture.size, cell, strict=True))
        scaled = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
        sheet.paste(scaled, (left + (cell[0] - size[0]) // 2, top + (cell[1] - size[1]) // 2))
        if captions is not None:
            words = _shorten(captions[index], _font(font_size), cell[0])
            centre = (left + cell[0] / 2, top + cell[1] + text_height / 2)
            canvas.text(centre, words, fill=WHITE, font=_font(font_size), anchor="mm")
    return sheet


class _Mark(NamedTuple):
    """One box to draw."""

    colour: RGB
    caption: str
    box: Box


class _Tag(NamedTuple):
    """A filled label and where it lies: pixels left, top (inclusive) to right, bottom (exclusive)."""

    mark: _Mark
    words: str
    left: int
    top: int
    right: int
    bottom: int

    def overlap(self, other: _Tag) -> int:
        """The area, in pixels, that both tags cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(width, 0) * max(height, 0)


def _draw(picture: Image.Image, marks: Sequence[_Mark], style: Style, line: int | None = None) -> Image.Image:
    if style not in ("solid", "dashed"):
        raise ValueError(f"style is {style!r}; it must be 'solid' or 'dashed'")
    drawn = picture.convert("RGB")  # a copy also of a picture that is RGB already
    canvas = ImageDraw.Draw(drawn)
    line = line or _line_width(picture)
    font = _font(max(MINIMUM_FONT_SIZE, round(_scale(picture) / 46)))

    framed = [(mark, frame) for mark in marks if (frame := _frame(mark.box, line, picture)) is not None]
    tags: list[_Tag] = []
    for mark, frame in framed:
        tag = _place_tag(mark, frame, picture, font, style, tags)
        if tag is not None:
            tags.append(tag)
    # Frames first, tags over them, and both from the back: no frame strikes out a name, and the first mark is on top.
    for mark, frame in reversed(framed):
        _draw_frame(canvas, frame, line, mark.colour, style)
    for tag in reversed(tags):
        _draw_tag(canvas, tag, font)
    return drawn


def _scale(picture: Image.Image) -> float:
    """The side, in pixels, of a square with the area of the picture."""
    return sqrt(picture.width * picture.height)


def _line_width(picture: Image.Image) -> int:
    return max(1, round(_scale(picture) / 300))


@lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _frame(box: Box, line: int, picture: Image.Image) -> tuple[int, int, int, int] | None:
    """The outer pixels (left, top, right, bottom; inclusive) of a frame around the box; None if nothing is in sight."""
    left, right = sorted((box.left, box.right))
    top, bottom = sorted((box.top, box.bottom))
    if not (left <= picture.width and right >= 0 and top <= picture.height and bottom >= 0):
        return None
    return (
        max(floor(max(left, 0)) - line, 0),
        max(floor(max(top, 0)) - line, 0),
        min(ceil(min(right, picture.width)) - 1 + line, picture.width - 1),
        min(ceil(min(bottom, picture.height)) - 1 + line, picture.height - 1),
    )


def _draw_frame(
    canvas: ImageDraw.ImageDraw, frame: tuple[int, int, int, int], line: int, colour: RGB, style: Style
) -> None:
    """A frame with a thin edge of the opposite brightness: without it, it would vanish on ground of its own colour."""
    left, top, right, bottom = frame
    edge, edge_colour = (line + 1) // 3, text_colour(colour)
    around = (left - edge, top - edge, right + edge, bottom + edge)
    if style == "dashed":
        canvas.rectangle(frame, outline=edge_colour, width=line)
        for dash in _dashes(frame, line):
            canvas.rectangle(dash, fill=colour)
    else:
        canvas.rectangle(around, outline=edge_colour, width=line + 2 * edge)
        canvas.rectangle(frame, outline=colour, width=line)


def _dashes(frame: tuple[int, int, int, int], line: int) -> list[tuple[int, int, int, int]]:
    """The dashes of a frame as filled rectangles (inclusive pixels); they meet at the four corners."""
    left, top, right, bottom = frame
    thick_x, thick_y = min(line - 1, right - left), min(line - 1, bottom - top)
    dashes = []
    for start, end in _spans(left, right, 5 * line):
        dashes += [(start, top, end, top + thick_y), (start, bottom - thick_y, end, bottom)]
    for start, end in _spans(top, bottom, 5 * line):
        dashes += [(left, start, left + thick_x, end), (right - thick_x, start, right, end)]
    return dashes


def _spans(start: int, end: int, length: int) -> list[tuple[int, int]]:
    """Dashes of about ``length`` pixels with equal gaps, the first and the last at the ends of the edge."""
    count = max(1, round(((end - start + 1) / length + 1) / 2))
    step = (end - start + 1) / (2 * count - 1)
    return [
        (
            start + round(2 * index * step),
            max(start + round((2 * index + 1) * step) - 1, start + round(2 * index * step)),
        )
        for index in range(count)
    ]


def _place_tag(
    mark: _Mark,
    frame: tuple[int, int, int, int],
    picture: Image.Image,
    font: ImageFont.FreeTypeFont,
    style: Style,
    taken: Sequence[_Tag],
) -> _Tag | None:
    """A tag inside the picture where it hides least of the tags before it; None where no words fit."""
    padding = font.size // 4
    height = sum(font.getmetrics()) + padding
    words = _shorten(mark.caption, font, picture.width - 2 * padding)
    if not words or height * 2 > picture.height:
        return None
    width = ceil(font.getlength(words)) + 2 * padding
    left, top, right, bottom = frame
    above, below, inside_top, inside_bottom = top - height, bottom + 1, top, bottom + 1 - height
    at_left, at_right = left, right + 1 - width

    rows = (above, inside_top, below) if style == "solid" else (below, inside_bottom, above)
    places = [(x, y) for y in rows for x in (at_left, at_right)]
    for step in range(1, (bottom - top) // height):  # where it is crowded, a stack of tags inside the box
        places.append((at_left, inside_top + step * height if style == "solid" else inside_bottom - step * height))
    candidates = []
    for x, y in places:
        x = min(max(x, 0), picture.width - width)
        if 0 <= y <= picture.height - height:
            candidates.append(_Tag(mark, words, x, y, x + width, y + height))
    if not candidates:  # a box as tall as the picture
        y = min(max(inside_top, 0), picture.height - height)
        x = min(max(at_left, 0), picture.width - width)
        candidates.append(_Tag(mark, words, x, y, x + width, y + height))
    return min(candidates, key=lambda tag: sum(tag.overlap(other) for other in taken))


def _draw_tag(canvas: ImageDraw.ImageDraw, tag: _Tag, font: ImageFont.FreeTypeFont) -> None:
    canvas.rectangle((tag.left, tag.top, tag.right - 1, tag.bottom - 1), fill=tag.mark.colour)
    middle = (tag.left + tag.right) / 2, (tag.top + tag.bottom) / 2
    canvas.text(middle, tag.words, fill=text_colour(tag.mark.colour), font=font, anchor="mm")


def _shorten(caption: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The caption in one line of letters the font knows, cut short with "..." to at most ``width`` pixels."""
    letters = (letter for letter in unicodedata.normalize("NFKD", caption) if not unicodedata.combining(letter))
    ascii_only = "".join(letter if letter.isascii() else "?" for letter in letters)
    words = " ".join("".join(letter if letter.isprintable() else " " for letter in ascii_only).split())
    if font.getlength(words) <= width:
        return words
    for length in range(min(len(words), int(width)), 0, -1):
        short = words[:length].rstrip() + "..."
        if font.getlength(short) <= width:
            return short
    return ""


def _luminance(colour: RGB) -> float:
    """Relative luminance in 0..1 (WCAG 2, sRGB)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (value / 255 for value in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
