"""Which boxes stay the same, and what does a person do about them?

`report_repeats` looks for repeats (`ena24ssd.repeats`) and writes a page that shows each on some of its pictures, a
list of them for programs, and the results without them. Originals, pictures and results, stay as they are: whether a
repeat is a stump or a nest is for a person to say.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image as Pillow
from tqdm import tqdm

from ena24ssd.ahead import run_ahead
from ena24ssd.boxes import Box
from ena24ssd.detections import ImageDetections, read_megadetector
from ena24ssd.draw import contact_sheet, draw_boxes
from ena24ssd.files import replace_file, replacing
from ena24ssd.jsonfiles import read_json
from ena24ssd.pages import render_page
from ena24ssd.pictures import DAMAGE, FORMATS, PictureError, read_picture, time_of
from ena24ssd.repeats import Repeat, RepeatFilter, Rule, find_repeats
from ena24ssd.thresholds import Thresholds

USUAL_THRESHOLD = 0.5  # where a results file advises none
MOST_SHOWN = 60  # repeats on the page, those on most pictures; with four pictures each it has about 5 MB
CROPS = 3  # of each, besides one whole picture
TRIED = 12  # pictures of a repeat that are looked at for these
SURROUNDINGS = 3.0  # times as wide and high as the box is what a crop shows, at least
CELL = (320, 240)
LINE = 3  # pixels
FILES = ("report.html", "repeats.json", "filtered.json")

Pictures = Iterable[ImageDetections] | Callable[[], Iterable[ImageDetections]]
"""All pictures: a list, or what gives every picture anew each time it is called."""


@dataclass(frozen=True)
class RepeatReport:
    """What was found, and what is left without it. Detections are counted where they reach their threshold."""

    repeats: tuple[Repeat, ...]
    spared: frozenset[int]  # numbers, from 1 on, of those that a person knows to be animals
    pictures: int
    detections: int
    removed: int  # of the detections
    emptied: int  # pictures on which something counted, and nothing does without the repeats
    files: tuple[Path, ...]  # that were written, the page first

    @property
    def cameras(self) -> int:
        """How many cameras have a repeat."""
        return len({one.camera for one in self.repeats})


def report_repeats(
    results: str | os.PathLike[str] | Pictures,
    out: Path | str,
    *,
    root: Path | str | None = None,
    thresholds: Thresholds | None = None,
    rule: Rule | None = None,
    spared: Collection[int] = (),
    write: Callable[[Path, Iterable[ImageDetections]], None] | None = None,
    quiet: bool = False,
) -> RepeatReport:
    """Look for boxes that stay the same; write ``out/report.html``, ``repeats.json`` and ``filtered.json``.

    Parameters: ``results``, a MegaDetector JSON, of this package or any other tool, or pictures in memory, in the order
    they were taken; they are walked through three times. ``root``, the folder that file names start from; left out,
    that of the JSON; pictures elsewhere are not opened. ``thresholds``, what counts (left out: what the JSON advises,
    else .5). ``rule``, what a repeat is. ``spared``, numbers of repeats on the page that are animals, and stay in the
    results. ``write``, called as ``write(path, images)``, writes what is left of pictures in memory; without it that is
    not written.

    A filtered JSON has all that the original has, but for the boxes. Raises ValueError for a JSON that is none or would
    be written over, for pictures that can be walked through once only, and for numbers that no repeat has.
    """
    out, rule = Path(out), rule or Rule()
    document = path = None
    images: Pictures
    if isinstance(results, (str, os.PathLike)):
        path = Path(results)
        if path.resolve() in [(out / name).resolve() for name in FILES]:
            raise ValueError(f"{path}: would be written over, and originals stay as they are; name another folder")
        images, _ = read_megadetector(path, relative=True)
        document = read_json(path)
        root = path.parent if root is None else root
        thresholds = thresholds or advised_thresholds(document)
    elif isinstance(results, Iterator):
        raise ValueError("the pictures can be walked through once only; pass a list, or a function that gives them")
    else:
        images = results
    thresholds = thresholds or Thresholds(USUAL_THRESHOLD)
    root = None if root is None else Path(os.path.abspath(root))

    def pictures(doing: str) -> Iterable[ImageDetections]:
        return tqdm(images() if callable(images) else images, doing, leave=False, unit="picture", disable=quiet or None)

    def when(file: str) -> datetime | None:
        place = locate(file, root)
        return place and read_time(place)

    repeats = find_repeats(pictures("looking for repeats"), thresholds, rule, root=root, time_of=when)
    unknown = [number for number in spared if not 1 <= number <= len(repeats)]
    if unknown:
        raise ValueError(
            f"there is no repeat number {unknown[0]}; there are {len(repeats)} of them, counted from 1 as on the page. "
            "Numbers hold for the same results and options only"
        )
    taken_out = [one for number, one in enumerate(repeats, 1) if number not in spared]
    sieve = RepeatFilter(taken_out, rule, root=root)
    report = _count(pictures("taking them out"), repeats, frozenset(spared), sieve, thresholds)
    out.mkdir(parents=True, exist_ok=True)
    filtered = out / "filtered.json"
    if document is not None:
        _write_filtered(filtered, document, sieve)
    elif write is not None:
        write(filtered, map(sieve.clean, pictures("writing the others")))
    has_filtered = document is not None or write is not None
    report = replace(report, files=tuple(out / name for name in FILES if has_filtered or name != filtered.name))
    replace_file(out / "repeats.json", json.dumps(to_json(report, rule), indent=1))
    write_page(out / "report.html", report, root, rule, results=path, quiet=quiet)
    return report


def advised_thresholds(document: Any) -> Thresholds:
    """What counts, as the author of a MegaDetector JSON advises; .5 where nobody does."""
    about = document["info"].get("detector_metadata")
    about = about if isinstance(about, dict) else {}
    score, own = about.get("typical_detection_threshold", USUAL_THRESHOLD), about.get("species_thresholds", {})
    try:
        return Thresholds(score, own)
    except (ValueError, TypeError, AttributeError):  # other tools may mean something else by these words
        return Thresholds(USUAL_THRESHOLD)


def to_json(report: RepeatReport, rule: Rule) -> dict[str, Any]:
    """The repeats for programs; boxes as in MegaDetector JSON: left, top, width, height in units of the picture."""
    rules = {name: value.total_seconds() if name == "rest" else value for name, value in vars(rule).items()}
    return {
        "rule": rules,
        "pictures": report.pictures,
        "detections": report.detections,
        "removed": report.removed,
        "repeats": [
            {
                "number": number,
                "camera": one.camera,
                "bbox": [round(float(value), 6) for value in one.box.xywh],
                "spared": number in report.spared,
                "visits": one.visits,
                "species": dict(one.names),
                "scores": dict(zip(("least", "median", "best"), one.scores)),
                "first": one.first and one.first.isoformat(),
                "last": one.last and one.last.isoformat(),
                "files": list(one.files),
            }
            for number, one in enumerate(report.repeats, 1)
        ],
    }


def locate(file: str, root: Path | None) -> Path | None:
    """Where a picture of the results lies; None for one outside ``root``, which nobody asked to be opened."""
    if root is None:
        return None
    for name in dict.fromkeys((file, file.replace("\\", "/"))):  # results written on Windows
        place = Path(os.path.normpath(root / name))
        if place.is_relative_to(root) and os.path.exists(place):
            return place
    return None


def read_time(path: Path) -> datetime | None:
    """When a picture was taken, by the camera's clock; None where it does not say, or is none."""
    try:
        if not path.is_file():
            return None
        with Pillow.open(path, formats=FORMATS) as opened:
            return time_of(opened)
    except (*DAMAGE, Pillow.DecompressionBombError):
        return None


def write_page(
    path: Path,
    report: RepeatReport,
    root: Path | None,
    rule: Rule,
    *,
    results: Path | None = None,
    quiet: bool = False,
) -> None:
    """Write the page: every repeat on some of its pictures, and what to do about it.

    ``results``: the file that the repeats are of, where it is one. Pictures that cannot be read are left out.
    """
    numbered = list(enumerate(report.repeats, 1))
    shown = sorted(sorted(numbered, key=lambda pair: -len(pair[1].files))[:MOST_SHOWN])
    drawn = run_ahead(lambda pair: draw_repeat(pair[1], root), shown, name="draw")
    drawn = tqdm(drawn, "drawing", len(shown), leave=False, unit="repeat", disable=quiet or None)
    views = [
        _View(number, one, number in report.spared, picture, [plain(file) for file in files])
        for (number, one), (picture, files) in zip(shown, drawn)
    ]
    page = render_page(
        "repeats.html",
        {},
        {},
        report=report,
        rule=rule,
        rest=f"{rule.rest.total_seconds() / 3600:g}",
        cameras=[(plain(name), list(some)) for name, some in groupby(views, key=lambda view: view.repeat.camera)],
        hidden=len(numbered) - len(shown),
        results=results and plain(results.name),
        root=root and plain(str(root)),
        has_filtered=FILES[2] in [file.name for file in report.files],
        moment=moment,
        plain=plain,
    )
    replace_file(path, page)


def draw_repeat(repeat: Repeat, root: Path | None) -> tuple[Pillow.Image | None, list[str]]:
    """One whole picture and some crops, with the box, side by side; and the files they are of.

    They are spread over the time of the repeat. None where no picture can be read.
    """
    count = len(repeat.files)
    tried = np.unique(np.linspace(0, count - 1, min(TRIED, count)).round().astype(int)).tolist()
    coarse = np.unique(np.linspace(0, len(tried) - 1, min(CROPS, len(tried))).round().astype(int)).tolist()
    order = [tried[one] for one in coarse] + [one for place, one in enumerate(tried) if place not in coarse]
    pictures: dict[int, Pillow.Image] = {}
    for place in order:
        if len(pictures) < CROPS and (file := locate(repeat.files[place], root)) is not None:
            try:
                pictures[place] = read_picture(file, least=_least(repeat.box))
            except PictureError:
                continue
    if not pictures:
        return None, []
    places = sorted(pictures)
    cells = [_whole(pictures[places[0]], repeat.box), *(_crop(pictures[place], repeat.box) for place in places)]
    captions = ["all of the first", *(_caption(repeat, place) for place in places)]
    return contact_sheet(cells, captions, columns=CROPS + 1, cell=CELL), [repeat.files[place] for place in places]


def plain(text: str) -> str:
    """A name that can be written: names on disk need not be Unicode."""
    return text.encode("utf-8", "replace").decode()


def moment(time: datetime | None) -> str:
    """2019-05-03 17:20; nothing for None."""
    return time.strftime("%Y-%m-%d %H:%M") if time else ""


class _View(NamedTuple):
    """A repeat as the page shows it."""

    number: int
    repeat: Repeat
    spared: bool
    picture: Pillow.Image | None
    files: list[str]  # that are shown


def _count(
    images: Iterable[ImageDetections],
    repeats: tuple[Repeat, ...],
    spared: frozenset[int],
    sieve: RepeatFilter,
    thresholds: Thresholds,
) -> RepeatReport:
    pictures = detections = removed = emptied = 0
    for image in images:
        before = thresholds.select(image).detections
        after = thresholds.select(sieve.clean(image)).detections if before else ()
        pictures += 1
        detections += len(before)
        removed += len(before) - len(after)
        emptied += bool(before) and not after
    return RepeatReport(repeats, spared, pictures, detections, removed, emptied, ())


def _write_filtered(path: Path, document: dict[str, Any], sieve: RepeatFilter) -> None:
    """The results as they were, without the boxes that are repeats; one line a picture."""
    with replacing(path) as file:
        for number, (key, value) in enumerate(document.items()):
            file.write(f"{',' if number else '{'}\n{json.dumps(key)}: ".encode())
            if key == "images":
                lines = (json.dumps(_without(entry, sieve)) for entry in value)
                for place, line in enumerate(lines):
                    file.write(f"{',' if place else '['}\n{line}".encode())
                file.write(b"\n]" if value else b"[]")
            else:
                file.write(json.dumps(value).encode())
        file.write(b"\n}\n")


def _without(entry: dict[str, Any], sieve: RepeatFilter) -> dict[str, Any]:
    """One member of the format's ``images`` without repeats."""
    found = entry.get("detections")
    if not found:
        return entry
    boxes = [Box.from_xywh(*map(float, one["bbox"])).clip(1.0, 1.0) for one in found]
    keep = sieve.keep(entry["file"], boxes)
    if all(keep):
        return entry
    entry = entry | {"detections": [one for one, stays in zip(found, keep) if stays]}
    if "max_detection_conf" in entry:  # in files of old versions
        entry["max_detection_conf"] = max((one["conf"] for one in entry["detections"]), default=0.0)
    return entry


# -- pictures ---------------------------------------------------------------------------------------------------------


def _least(box: Box) -> int:
    """How large to decode a picture for a crop to be sharp."""
    return math.ceil(CELL[1] / min(1.0, max(SURROUNDINGS * box.height, 0.2)) / 2)


def _whole(picture: Pillow.Image, box: Box) -> Pillow.Image:
    small = picture.copy()
    small.thumbnail(CELL)
    return _frame(small, box.scale(*small.size))


def _crop(picture: Pillow.Image, box: Box) -> Pillow.Image:
    """The box with its surroundings, in the shape of a cell as far as the picture goes."""
    box = box.scale(*picture.size)
    aspect = CELL[0] / CELL[1]
    height = max(SURROUNDINGS * box.height, SURROUNDINGS * box.width / aspect, 0.2 * picture.height)
    height = min(height, picture.height, picture.width / aspect)
    width = height * aspect
    width, height = max(width, min(box.width * 1.1, picture.width)), max(height, min(box.height * 1.1, picture.height))
    left = min(max((box.left + box.right - width) / 2, 0), picture.width - width)
    top = min(max((box.top + box.bottom - height) / 2, 0), picture.height - height)
    scale = min(CELL[0] / width, CELL[1] / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    shown = picture.resize(size, Pillow.Resampling.BILINEAR, box=(left, top, left + width, top + height))
    drawn = Box(box.left - left, box.top - top, box.right - left, box.bottom - top).scale(scale, scale)
    return _frame(shown, drawn)


def _frame(picture: Pillow.Image, box: Box) -> Pillow.Image:
    """A frame round the box, thick enough to be seen on a picture as small as a cell."""
    grown = [Box(box.left - by, box.top - by, box.right + by, box.bottom + by) for by in range(LINE)]
    return draw_boxes(picture, [(0, "", one) for one in grown])


def _caption(repeat: Repeat, place: int) -> str:
    return moment(repeat.taken_at[place]) or repeat.files[place].replace("\\", "/").rpartition("/")[2]
