"""What does the COCO Camera Traps file say?

One json file lists the pictures, the boxes people drew on them, and the species (https://lila.science, COCO Camera
Traps format). `read` turns it into a `CameraTrapDataset` of frozen records. Such files are made by many hands, so
whatever is odd in one is counted as a `Problem` and dealt with by one of the `RULES`; what makes the whole file
unusable is an `AnnotationError`. Nothing is skipped in silence.

One thought decides the rules: a picture is left out whenever an animal on it has no usable box, because the network
would learn that animal as background. A picture without any annotation is a blank picture, and welcome.
"""

from __future__ import annotations

import codecs
import gc
import json
import os
import posixpath
import re
import reprlib
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from ena24ssd.boxes import Box, LabelledBox

RULES: dict[str, str] = {
    "duplicate-species": "Two category ids carry one name; they become one label.",
    "not-a-picture": "An entry of 'images' is not an object; dropped.",
    "picture-without-id": "A picture has no id, or one that is neither text nor a whole number; left out.",
    "duplicate-image-id": "A second picture has the id of an earlier one; the first stays and keeps the annotations.",
    "unusable-file-name": "A file name is missing, no text, or leads out of the picture folder; left out.",
    "duplicate-file-name": "A second id names the file of an earlier picture; the first stays, lest one picture "
    "end up on both sides of a split.",
    "conflicting-records": "The second record of a file has boxes that the first lacks; the picture is left out.",
    "unusable-size": "Width or height is not a whole number of pixels from 1 to 1,000,000; left out.",
    "unreadable-context": "A location, sequence or time is neither text nor a whole number; the picture stays without.",
    "not-an-annotation": "An entry of 'annotations' is not an object; dropped.",
    "unknown-image": "An annotation names no picture of this file; dropped.",
    "unknown-category": "An annotation names no category of this file: an unknown animal; its picture is left out.",
    "unboxed-animal": "An animal is named but has no box; its picture is left out, never learnt as blank.",
    "unusable-box": "A bbox is not four finite numbers; its picture is left out.",
    "box-without-area": "A box has a side below half a pixel, zero or negative; its picture is left out.",
    "box-off-picture": "Less than half a pixel of a box lies inside its picture; the picture is left out.",
    "box-outside": "A box reaches more than half a pixel past the edge of its picture; clipped.",
    "box-overrun": "A box reaches up to half a pixel past the edge, as rounding leaves behind; clipped.",
    "duplicate-box": "The same box with the same label is written twice; one stays.",
    "empty-with-box": "An annotation of the category 'empty' has a box; the box is dropped.",
    "empty-with-animal": "A picture is called empty and has an animal's box as well; the box is believed.",
    "file-missing": "The picture is not on disk under exactly this name; left out.",
}
"""Every `Problem.rule`, and one sentence on what is odd and what is done about it."""

EMPTY_NAMES = frozenset({"empty", "blank", "none"})
"""Category names (any case) that say no animal is there. They are no species and get no label."""

BLANK = -1  # stands where a label would for the categories of EMPTY_NAMES
HALF_PIXEL = 0.5  # below this an overrun is rounding, and a box shows nothing
LONGEST_SIDE = 1_000_000  # pixels
LARGEST = sys.float_info.max
# What nearly every file name looks like: no part starts with a dot, nothing is Windows.
PLAIN_PATH = re.compile(r"[^\s./\\:\0][^/\\:\0]*(?:/[^\s./\\:\0][^/\\:\0]*)*")
BYTE_ORDER_MARKS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (b"", "utf-8"),
)
SHORT = reprlib.Repr()  # whatever a broken file holds fits on a line of an error message
SHORT.maxstring = SHORT.maxother = 80


class AnnotationError(ValueError):
    """The annotation file as a whole cannot be used; the message names the file, the rule, the value, the way out."""


class Image(NamedTuple):
    """One picture as the file describes it; ``width`` and ``height`` in pixels, ``boxes`` clipped to the picture.

    ``file_name`` is relative to the picture folder, with forward slashes. ``location`` (the camera), ``sequence`` (the
    burst) and ``taken_at`` (the time as written) are None where the file does not say.
    """

    id: str
    file_name: str
    width: int
    height: int
    boxes: tuple[LabelledBox, ...] = ()
    location: str | None = None
    sequence: str | None = None
    taken_at: str | None = None


class Problem(NamedTuple):
    """Something odd in the file: the picture (None where there is none), the rule of `RULES`, and the particulars."""

    image_id: str | None
    rule: str
    detail: str


@dataclass(frozen=True)
class CameraTrapDataset:
    """Labelled pictures: ``class_names[label]`` names the species, ``images`` stand in the order of the file.

    ``root`` is the folder that file names start from, ``problems`` what was odd in the file, ``name`` the file's name.
    """

    class_names: tuple[str, ...]
    images: tuple[Image, ...]
    root: Path
    problems: tuple[Problem, ...]
    name: str

    @property
    def max_boxes(self) -> int:
        """The most boxes on one picture."""
        return max((len(image.boxes) for image in self.images), default=0)

    @property
    def blanks(self) -> int:
        """How many pictures show no animal."""
        return sum(not image.boxes for image in self.images)

    def without(self, *species: str) -> CameraTrapDataset:
        """The dataset less every picture that shows one of these species; labels stay as they are.

        Raises ValueError for a name that is not among ``class_names``.
        """
        unknown = sorted(set(species).difference(self.class_names))
        if unknown:
            raise ValueError(
                f"{self.name}: no species is called {', '.join(map(repr, unknown))}; "
                f"the file knows {', '.join(map(repr, self.class_names))}, and capitals count"
            )
        unwanted = {self.class_names.index(name) for name in species}
        kept = (image for image in self.images if unwanted.isdisjoint(label for label, _ in image.boxes))
        return replace(self, images=tuple(kept))

    def path(self, image: Image) -> Path:
        """Where the picture lies on disk."""
        return self.root / image.file_name

    def problem_counts(self) -> dict[str, int]:
        """How often each rule was needed, in the order of `RULES`; rules that were not are left out."""
        counts = Counter(problem.rule for problem in self.problems)
        return {rule: counts[rule] for rule in RULES if rule in counts}


def read(
    annotations: str | os.PathLike[str], root: str | os.PathLike[str] | None = None, *, check_files: bool = True
) -> CameraTrapDataset:
    """Read a COCO Camera Traps json file.

    Parameters: ``annotations``, the json file. ``root``, the folder its file names start from; left out, it is
    whichever holds the most of the first 100 pictures: the json's own folder, ``images`` in it, or the folder beside
    it that is named like it. ``check_files`` leaves out pictures that are not on disk; with False nothing but the
    json is looked at, all usable pictures stay, and ``root`` is the json's folder unless given.

    Labels are 0..C-1 in the order of the category ids (of the file, where ids are not all whole numbers). Ids become
    text: 1 and ``"1"`` are the same. `RULES` says what happens to whatever is odd.

    Raises AnnotationError when the file cannot be read as such a file, or leaves no picture to use.
    """
    path = Path(annotations)
    problems: list[Problem] = []
    with _collector_paused():
        document = _parse(path)
        class_names, labels = _species(document, path.name, problems)
        pictures, strangers = _pictures(document, problems)
        images = _label(document, pictures, strangers, labels, problems)
    folder = path.parent if root is None else Path(root)
    if check_files and images:
        folder = _picture_folder(path, images) if root is None else folder
        images = _on_disk(folder, path.name, images, problems)
    dataset = CameraTrapDataset(class_names, tuple(images), folder, tuple(problems), path.name)
    if not images:
        counts = ", ".join(f"{rule} {count}" for rule, count in dataset.problem_counts().items())
        first = f"; the first is: {problems[0].detail}" if problems else ""
        raise AnnotationError(
            f"{path.name}: leaves no picture to use ({counts or 'it lists none'}){first}. "
            f"One at least must be usable: mend the file, or name another file or picture folder (now {folder})"
        )
    return dataset


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Make no search for reference cycles: reading makes none, and looking over millions of records costs a third."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _parse(path: Path) -> dict[str, Any]:
    """The file as one json object whose three lists are there."""
    name = path.name
    try:
        raw = path.read_bytes()
    except (OSError, ValueError) as error:
        raise AnnotationError(f"{path}: cannot be read ({error}); name the annotation json file itself") from error
    mark, encoding = next(pair for pair in BYTE_ORDER_MARKS if raw.startswith(pair[0]))
    try:
        text = str(memoryview(raw)[len(mark) :], encoding)
    except UnicodeDecodeError as error:
        offset = len(mark) + error.start
        before = raw[max(len(mark), offset - 24) : offset].decode(encoding, "replace")
        raise AnnotationError(
            f"{name}: byte {offset} (0x{raw[offset]:02x}, after {before!r}) is not {encoding}; "
            "the file must be Unicode text: open it with the encoding it was written in and save it as UTF-8"
        ) from error
    del raw  # a large file need not be held twice

    def one_value_per_key(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise AnnotationError(
                f"{name}: an object has the key {_show(twice)} twice; which value holds cannot be known: delete one"
            )
        return found

    try:
        document = json.loads(text, object_pairs_hook=one_value_per_key)
    except AnnotationError:
        raise
    except RecursionError as error:
        raise AnnotationError(
            f"{name}: lists or objects are nested too deeply for annotations; these need four levels"
        ) from error
    except ValueError as error:  # JSONDecodeError, or an integer of thousands of digits
        raise AnnotationError(
            f"{name}: is not valid json ({error}); "
            "mend it there, or download or export it again if it was cut short or is a web page"
        ) from error
    if type(document) is not dict:
        raise AnnotationError(
            f"{name}: must be one json object with 'images', 'annotations' and 'categories', not {_show(document)}"
        )
    for key in ("images", "annotations", "categories"):
        if key not in document:
            raise AnnotationError(
                f"{name}: has no {key!r}, only {_show(sorted(document))}; "
                "a COCO Camera Traps file has 'images', 'annotations' and 'categories', if need be as empty lists"
            )
        if type(document[key]) is not list:
            raise AnnotationError(f"{name}: {key!r} must be a list, not {_show(document[key])}; see COCO Camera Traps")
    return document


def _species(document: dict[str, Any], name: str, problems: list[Problem]) -> tuple[tuple[str, ...], dict[str, int]]:
    """The class names, and the label (or BLANK) of each category id."""
    named: dict[str, str] = {}
    for number, category in enumerate(document["categories"], start=1):
        if type(category) is not dict:
            raise AnnotationError(
                f"{name}: category {number} must be an object with 'id' and 'name', not {_show(category)}"
            )
        category_id, species = _text(category.get("id")), _text(category.get("name"))
        if category_id is None:
            raise AnnotationError(
                f"{name}: category {number} has the id {_show(category.get('id'))}; "
                "an id is text or a whole number: give it the one its annotations use"
            )
        if type(category.get("name")) is not str or species is None or not species.strip():
            raise AnnotationError(
                f"{name}: category {category_id!r} has the name {_show(category.get('name'))}; "
                "a species needs a name: write one, or delete the category if no annotation uses it"
            )
        if category_id in named:
            raise AnnotationError(
                f"{name}: two categories have the id {category_id!r} ({named[category_id]!r} and {species.strip()!r}); "
                "ids must be unique, or labels mean nothing: give one of them another id"
            )
        named[category_id] = species.strip()
    if all(type(category["id"]) is int for category in document["categories"]):
        named = dict(sorted(named.items(), key=lambda item: int(item[0])))
    label_of: dict[str, int] = {}
    labels: dict[str, int] = {}
    for category_id, species in named.items():
        if species.lower() in EMPTY_NAMES:
            labels[category_id] = BLANK
            continue
        if species in label_of:
            detail = f"category {_show(category_id)} is called {species!r} like an earlier one; both are one label"
            problems.append(Problem(None, "duplicate-species", detail))
        labels[category_id] = label_of.setdefault(species, len(label_of))
    if not label_of:
        raise AnnotationError(
            f"{name}: names no species ({_show(sorted(named.values()))}); "
            "a detector needs at least one: list them under 'categories' with 'id' and 'name'"
        )
    return tuple(label_of), labels


def _pictures(document: dict[str, Any], problems: list[Problem]) -> tuple[dict[str, Image], dict[str, str | None]]:
    """The usable pictures by id, without boxes; and for every other id the picture that owns its file, if any."""
    pictures: dict[str, Image] = {}
    strangers: dict[str, str | None] = {}
    owners: dict[str, str] = {}  # file name -> id of its first record
    shared: dict[str, str] = {}  # one string for the thousands of pictures of one camera
    for number, entry in enumerate(_drain(document["images"]), start=1):
        if type(entry) is not dict:
            problems.append(Problem(None, "not-a-picture", f"picture {number} is {_show(entry)}; dropped"))
            continue
        image_id = _text(entry.get("id"))
        if image_id is None:
            detail = f"picture {number} has the id {_show(entry.get('id'))}; left out"
            problems.append(Problem(None, "picture-without-id", detail))
            continue
        if image_id in pictures or image_id in strangers:
            detail = f"picture {number} ({_show(entry.get('file_name'))}) has the id of an earlier one; left out"
            problems.append(Problem(image_id, "duplicate-image-id", detail))
            continue
        file_name = _path_below_root(entry.get("file_name"))
        if file_name is None:
            detail = f"the file name is {_show(entry.get('file_name'))}; left out"
            problems.append(Problem(image_id, "unusable-file-name", detail))
            strangers[image_id] = None
            continue
        owner = owners.setdefault(file_name, image_id)
        if owner != image_id:
            detail = f"{_show(file_name)} already belongs to picture {_show(owner)}; this record is left out"
            problems.append(Problem(image_id, "duplicate-file-name", detail))
            strangers[image_id] = owner
            continue
        width, height = entry.get("width"), entry.get("height")
        if not (_is_side(width) and _is_side(height)):
            detail = f"it is {_show(width)} x {_show(height)} px; left out"
            problems.append(Problem(image_id, "unusable-size", detail))
            strangers[image_id] = None
            continue
        get = entry.get
        context = get("location"), get("seq_id"), get("datetime") or get("date_captured")
        if context != (None, None, None):
            texts = [None if value is None else _text(value) for value in context]
            for value, text in zip(context, texts, strict=True):
                if text is None and value is not None and value != "":
                    detail = f"its location, seq_id or datetime is {_show(value)}; the picture stays without it"
                    problems.append(Problem(image_id, "unreadable-context", detail))
            context = tuple(None if text is None else shared.setdefault(text, text) for text in texts)
        pictures[image_id] = Image(image_id, file_name, int(width), int(height), (), *context)
    return pictures, strangers


def _label(
    document: dict[str, Any],
    pictures: dict[str, Image],
    strangers: dict[str, str | None],
    labels: dict[str, int],
    problems: list[Problem],
) -> list[Image]:
    """The pictures with their boxes, less those with an animal nobody could learn."""
    drawn: dict[str, list[LabelledBox]] = defaultdict(list)  # by the image id as the annotation has it
    called_empty: dict[str, None] = {}
    left_out: set[str] = set()

    def leave_out(image: Image, rule: str, detail: str) -> None:
        if image.id not in left_out:
            left_out.add(image.id)
            problems.append(Problem(image.id, rule, f"{detail}; the picture is left out"))

    for number, entry in enumerate(_drain(document["annotations"]), start=1):
        if type(entry) is not dict:
            problems.append(Problem(None, "not-an-annotation", f"annotation {number} is {_show(entry)}; dropped"))
            continue
        image_id = _text(entry.get("image_id"))
        image = pictures.get(image_id)
        if image is None:
            if image_id not in strangers:
                detail = f"annotation {_name(entry, number)} names the picture {_show(entry.get('image_id'))}; dropped"
                problems.append(Problem(image_id, "unknown-image", detail))
                continue
            image = pictures.get(strangers[image_id])
            if image is None:  # its picture was left out, and said to be
                continue
        label, bbox = labels.get(_text(entry.get("category_id"))), entry.get("bbox")
        if label is None:
            value = _show(entry.get("category_id"))
            leave_out(image, "unknown-category", f"annotation {_name(entry, number)} is of category {value}")
            continue
        if label == BLANK:
            called_empty[image.id] = None
            if bbox is not None:
                detail = f"annotation {_name(entry, number)} says empty and has the box {_show(bbox)}; box dropped"
                problems.append(Problem(image.id, "empty-with-box", detail))
            continue
        if bbox is None:
            leave_out(image, "unboxed-animal", f"annotation {_name(entry, number)} has no box")
            continue
        corner_and_size = _four_numbers(bbox)
        if corner_and_size is None:
            leave_out(image, "unusable-box", f"annotation {_name(entry, number)} has the bbox {_show(bbox)}")
            continue
        x, y, width, height = corner_and_size
        if width < HALF_PIXEL or height < HALF_PIXEL:
            detail = f"annotation {_name(entry, number)} has a box of {width:g} x {height:g} px"
            leave_out(image, "box-without-area", detail)
            continue
        box = Box(x, y, x + width, y + height)
        if x < 0 or y < 0 or box.right > image.width or box.bottom > image.height:
            overrun = max(-x, -y, box.right - image.width, box.bottom - image.height)
            box = box.clip(float(image.width), float(image.height))
            if box.width < HALF_PIXEL or box.height < HALF_PIXEL:
                detail = f"annotation {_name(entry, number)} has the bbox {_show(bbox)} on a picture of"
                leave_out(image, "box-off-picture", f"{detail} {image.width} x {image.height} px")
                continue
            rule = "box-outside" if overrun > HALF_PIXEL else "box-overrun"
            detail = f"annotation {_name(entry, number)} reaches {overrun:.3g} px past the edge; clipped"
            problems.append(Problem(image.id, rule, detail))
        drawn[image_id].append(LabelledBox(label, box))

    for image_id, owner in strangers.items():
        if owner in pictures and not set(drawn.get(image_id, ())) <= set(drawn.get(owner, ())):
            detail = f"{_show(pictures[owner].file_name)} has boxes under the id {_show(image_id)} that this id lacks"
            leave_out(pictures[owner], "conflicting-records", detail)
    for image_id in called_empty:
        if image_id in drawn and image_id not in left_out:
            detail = f"it is called empty and has {len(drawn[image_id])} boxes; the boxes are believed"
            problems.append(Problem(image_id, "empty-with-animal", detail))
    images = []
    for image in pictures.values():
        if image.id in left_out:
            continue
        boxes = drawn.pop(image.id, ())
        if len(boxes) > 1 and len(set(boxes)) < len(boxes):
            for labelled, count in Counter(boxes).items():
                detail = f"label {labelled.label} has the box {_show(labelled.box.xywh)} more than once; one stays"
                problems.extend([Problem(image.id, "duplicate-box", detail)] * (count - 1))
            boxes = dict.fromkeys(boxes)
        images.append(Image(*image[:4], tuple(boxes), *image[5:]) if boxes else image)
    return images


def _picture_folder(path: Path, images: list[Image]) -> Path:
    """The folder near the json that holds the most of the first 100 pictures."""
    sample = [image.file_name for image in images[:100]]
    candidates = (path.parent, path.parent / "images", path.parent / path.stem)
    held = [sum(os.path.isfile(folder / file_name) for file_name in sample) for folder in candidates]
    if not any(held):
        raise AnnotationError(
            f"{path.name}: none of its first {len(sample)} pictures (such as {_show(sample[0])}) is in any of "
            f"{', '.join(map(str, candidates))}; name the folder its file names start from as root, "
            "or read the json alone (check --no-pictures; check_files=False)"
        )
    return candidates[held.index(max(held))]


def _on_disk(root: Path, name: str, images: list[Image], problems: list[Problem]) -> list[Image]:
    """The pictures whose file is there, by one listing of each folder rather than a look-up of each picture."""
    if not root.is_dir():
        raise AnnotationError(
            f"{name}: the picture folder {root} is not a folder; name the one its file names start from"
        )
    listings: dict[str, frozenset[str] | OSError] = {}
    found = []
    for image in images:
        folder, _, file_name = image.file_name.rpartition("/")
        if folder not in listings:
            listings[folder] = _files_in(root / folder)
        listing = listings[folder]
        if isinstance(listing, OSError):
            detail = f"{_show(image.file_name)} is out of reach ({listing}); left out"
            problems.append(Problem(image.id, "file-missing", detail))
        elif file_name not in listing:
            detail = f"{_show(image.file_name)} is not in {root / folder}; left out"
            problems.append(Problem(image.id, "file-missing", detail))
        else:
            found.append(image)
    return found


def _files_in(folder: Path) -> frozenset[str] | OSError:
    """The names of the files in a folder, or why it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            # DirEntry.is_file raises on a circular link, os.path.isfile does not
            return frozenset(e.name for e in entries if (os.path.isfile(e.path) if e.is_symlink() else e.is_file()))
    except OSError as error:
        return error


def _path_below_root(name: object) -> str | None:
    """A file name as a plain relative path, or None where it names no file inside the picture folder."""
    if type(name) is not str or not (name.isascii() or _is_unicode(name)):
        return None
    if PLAIN_PATH.fullmatch(name):
        return name
    if not name.strip() or "\0" in name or "\\" in name or name.endswith(("/", "/.", "/..")):
        return None
    plain = posixpath.normpath(name)  # './1.jpg' and 'a//1.jpg' are other spellings of a file
    if plain in (".", "..") or plain.startswith(("/", "../")) or (plain[1:2] == ":" and plain[0].isalpha()):
        return None
    return plain


def _text(value: object) -> str | None:
    """An id as text, so that 1, 1.0 and '1' are one id; None where the value cannot be an id."""
    if type(value) is str:
        return value if value and (value.isascii() or _is_unicode(value)) else None
    if type(value) is int or (type(value) is float and value.is_integer()):
        return str(int(value))
    return None


def _is_unicode(text: str) -> bool:
    """Whether the text can be written down: json escapes allow half a surrogate pair, file systems and UTF-8 do not."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _is_side(value: object) -> bool:
    """Whether a json value can be the width or height of a picture: 1920 or 1920.0, not 0, "1920" or true."""
    return (type(value) is int or (type(value) is float and value.is_integer())) and 1 <= value <= LONGEST_SIDE


def _four_numbers(bbox: object) -> tuple[float, float, float, float] | None:
    """A json value as four finite floats; None where it is anything else: text, a truth value, NaN, infinity, three."""
    if type(bbox) is not list or len(bbox) != 4:
        return None
    for value in bbox:
        if (type(value) is not float and type(value) is not int) or not -LARGEST <= value <= LARGEST:
            return None
    x, y, width, height = bbox
    return float(x), float(y), float(width), float(height)


def _drain(entries: list[Any]) -> Iterator[Any]:
    """Each entry in order, let go as it is handed out: a large file and its records need not fill memory together."""
    entries.reverse()
    while entries:
        yield entries.pop()


def _name(annotation: dict[str, Any], number: int) -> str:
    """How to find an annotation in the file: by its id, or else by its place, counted from 1."""
    return _show(annotation["id"]) if annotation.get("id") is not None else f"number {number}"


def _show(value: object) -> str:
    return SHORT.repr(value)
