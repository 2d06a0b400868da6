"""What does the COCO Camera Traps file say?

One json file lists the pictures, the boxes people drew on them, and the species (https://lila.science, COCO Camera
Traps format). `read` turns it into a `CameraTrapDataset` of frozen records. Such files are made by many hands, so
whatever is odd in one is counted as a `Problem` and dealt with by one of the `RULES`; what makes the whole file
unusable is an `AnnotationError`. Nothing is skipped in silence.

One thought decides the rules: a picture is left out whenever an animal on it has no usable box, because the network
would learn that animal as background. A picture without any annotation is a blank picture, and welcome.
"""

from __future__ import annotations

import gc
import os
import posixpath
import re
import reprlib
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from ena24ssd.boxes import Box, LabelledBox
from ena24ssd.jsonfiles import JsonError, read_json
from ena24ssd.picturefiles import PictureFolder, normal

RULES: dict[str, str] = {
    "duplicate-species": "Two category ids carry one name; they become one label. "
    "If they are two species, give one another name.",
    "not-a-picture": "An entry of 'images' is not an object; dropped. Delete it, or write the picture it stands for.",
    "picture-without-id": "A picture has no id, or one that is neither text nor a whole number; left out. "
    "Give it the id that its annotations use.",
    "duplicate-image-id": "An entry repeats the id, file and size of an earlier one; one stays. Delete the other.",
    "ambiguous-image-id": "Entries of one id differ in file or size, or one was left out; all are left out, "
    "as nobody knows whose the boxes are. Give each picture its own id, there and in its annotations.",
    "unusable-file-name": "A file name is missing, no text, or leads out of the picture folder; left out. "
    "Write the path from the picture folder, with forward slashes.",
    "duplicate-file-name": "A second id names the file of an earlier picture; only the first counts, lest one picture "
    "end up on both sides of a split. Delete one entry, and give its annotations the other's id.",
    "conflicting-records": "The second record of a file has boxes that the first lacks; the picture is left out. "
    "Make the two one record that has all boxes.",
    "unusable-size": "Width or height is not a whole number of pixels from 1 to 1,000,000; left out. "
    "Write the size of the picture itself.",
    "unreadable-context": "A location, sequence or time is neither text nor a whole number; the picture stays without. "
    "Write it as text.",
    "not-an-annotation": "An entry of 'annotations' is not an object; dropped. Delete it, or write what it stands for.",
    "unknown-image": "An annotation names no picture of this file; dropped. "
    "Add the picture to 'images', mend the image_id, or delete the annotation.",
    "unknown-category": "An annotation names no category of this file: an unknown animal; its picture is left out. "
    "Add the category to 'categories', or mend the category_id.",
    "unboxed-animal": "An animal is named but has no box; its picture is left out, never learnt as blank. "
    "Draw the box, or call the picture empty if no animal is there.",
    "unusable-box": "A bbox is not four finite numbers; its picture is left out. "
    "Write left, top, width, height in pixels.",
    "box-without-area": "A box has a side below half a pixel, zero or negative; its picture is left out. "
    "Draw it again: a bbox is left, top, width, height in pixels, not the corners and not shares of the picture.",
    "box-off-picture": "Less than half a pixel of a box lies inside its picture; the picture is left out. "
    "Draw it again, or mend the width and height of the picture.",
    "box-outside": "A box reaches more than half a pixel past the edge of its picture; clipped. "
    "If many do, the width and height are not those of the pictures that the boxes were drawn on.",
    "box-overrun": "A box reaches up to half a pixel past the edge, as rounding leaves behind; clipped. "
    "Nothing needs mending.",
    "duplicate-box": "The same box with the same label is written twice; one stays. Nothing needs mending.",
    "empty-with-box": "An annotation of the category 'empty' has a box; the box is dropped. "
    "Name the animal in it, or delete the box.",
    "empty-with-animal": "A picture is called empty and has an animal's box as well; the box is believed. "
    "Delete the annotation that is wrong.",
    "file-missing": "The picture is not on disk under exactly this name; left out. "
    "Mend the name, bring the file, or name the folder that file names start from.",
    "file-name-accents": "The name on disk has its accents written another way (Unicode NFC or NFD); found all the "
    "same. Nothing needs mending.",
}
"""Every `Problem.rule`: what is odd, what is done about it, and the way out."""

NOTICES = frozenset({"duplicate-species", "duplicate-image-id", "box-overrun", "duplicate-box", "file-name-accents"})
"""The rules by which nothing is lost: every picture, box and word of the file is in the dataset all the same."""

EMPTY_NAMES = frozenset({"empty", "blank", "none"})
"""Category names (any case) that say no animal is there. They are no species and get no label."""

# The fields of an Image, with a list for the boxes still to come.
Draft = tuple[str, str, int, int, list[LabelledBox], str | None, str | None, str | None]
BLANK = -1  # stands where a label would for the categories of EMPTY_NAMES
HALF_PIXEL = 0.5  # below this an overrun is rounding, and a box shows nothing
LONGEST_SIDE = 1_000_000  # pixels
LARGEST = sys.float_info.max
# What nearly every file name looks like: no part starts with a dot, nothing is Windows.
PLAIN_PATH = re.compile(r"[^\s./\\:\0][^/\\:\0]*(?:/[^\s./\\:\0][^/\\:\0]*)*")
SHORT = reprlib.Repr()  # whatever a broken file holds fits on a line of an error message
SHORT.maxstring = SHORT.maxother = 80
SHORT.maxlevel = 2


class AnnotationError(ValueError):
    """The annotation file as a whole cannot be used; the message names the file, the rule, the value, the way out."""


class NoPicturesError(AnnotationError):
    """The annotations are fine as far as they go, but no folder near them holds their pictures."""


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
    """Something odd in the file: the picture (None where there is none), the rule of `RULES`, and the particulars.

    ``file_name`` is the picture's, where it has a usable one.
    """

    image_id: str | None
    rule: str
    detail: str
    file_name: str | None = None


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

    @property
    def mixed(self) -> int:
        """How many pictures show more than one species."""
        return sum(len({label for label, _ in image.boxes}) > 1 for image in self.images)

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

    Raises AnnotationError when the file cannot be read as such a file, or leaves no picture to use. One kind of it is
    NoPicturesError: ``root`` was left out, and none of those folders holds any of the first pictures.
    """
    path = Path(annotations)
    problems: list[Problem] = []
    with _collector_paused():
        document = _document(path)
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
        first = f"; the first is: {problems[0].detail}. {RULES[problems[0].rule]}" if problems else ""
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


def _document(path: Path) -> dict[str, Any]:
    """The file as one json object whose three lists are there."""
    name = path.name
    try:
        document = read_json(path)
    except JsonError as error:
        raise AnnotationError(f"{name}: {error}") from error
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


def _pictures(document: dict[str, Any], problems: list[Problem]) -> tuple[dict[str, Draft], dict[str, str | None]]:
    """The usable pictures by id, without boxes; and for every other id the picture that owns its file, if any."""
    pictures: dict[str, Draft] = {}
    strangers: dict[str, str | None] = {}
    owners: dict[str, str] = {}  # file name, however its accents are written -> id of its first record
    doubtful: dict[str, str] = {}  # file name of an ambiguous id -> that id
    shared: dict[Any, Any] = {}  # one object for the thousands of pictures of one camera, or of one size
    for number, entry in enumerate(_drain(document["images"]), start=1):
        if type(entry) is not dict:
            problems.append(Problem(None, "not-a-picture", f"picture {number} is {_show(entry)}; dropped"))
            continue
        get = entry.get
        image_id, file_name = _text(get("id")), _path_below_root(get("file_name"))
        width, height = _side(get("width")), _side(get("height"))
        if image_id is None:
            detail = f"picture {number} has the id {_show(get('id'))}; left out"
            problems.append(Problem(None, "picture-without-id", detail, file_name))
            continue
        if image_id in pictures or image_id in strangers:
            earlier = pictures.get(image_id)
            if earlier is not None and earlier[1:4] == (file_name, width, height):
                detail = f"picture {number} repeats the id, file and size of an earlier one; one stays"
                problems.append(Problem(image_id, "duplicate-image-id", detail, file_name))
                continue
            other = "a picture left out" if earlier is None else "{!r} of {} x {} px".format(*earlier[1:4])
            this = f"{_show(get('file_name'))} of {_show(get('width'))} x {_show(get('height'))} px"
            detail = f"it is the id of {other} and, as picture {number}, of {this}; all are left out"
            problems.append(Problem(image_id, "ambiguous-image-id", detail, file_name))
            pictures.pop(image_id, None)
            owner = strangers.setdefault(image_id, None)
            if file_name is not None and (owner is None or owners.get(normal(file_name)) != owner):
                doubtful[normal(file_name)] = image_id
            continue
        if file_name is None:
            detail = f"the file name is {_show(get('file_name'))}; left out"
            problems.append(Problem(image_id, "unusable-file-name", detail))
            strangers[image_id] = None
            continue
        owner = owners.setdefault(file_name if file_name.isascii() else normal(file_name), image_id)
        if owner != image_id:
            detail = f"{_show(file_name)} already belongs to picture {_show(owner)}; this record is left out"
            problems.append(Problem(image_id, "duplicate-file-name", detail, file_name))
            strangers[image_id] = owner
            continue
        if width is None or height is None:
            detail = f"it is {_show(get('width'))} x {_show(get('height'))} px; left out"
            problems.append(Problem(image_id, "unusable-size", detail, file_name))
            strangers[image_id] = None
            continue
        width, height = shared.setdefault(width, width), shared.setdefault(height, height)
        context = get("location"), get("seq_id"), get("datetime") or get("date_captured")
        if context == (None, None, None):
            pictures[image_id] = image_id, file_name, width, height, [], None, None, None
            continue
        location, sequence, taken_at = map(_text, context)
        if location is None or sequence is None or taken_at is None:
            for value in context:
                if value is not None and value != "" and _text(value) is None:
                    detail = f"its location, seq_id or datetime is {_show(value)}; the picture stays without it"
                    problems.append(Problem(image_id, "unreadable-context", detail, file_name))
        location, sequence = shared.setdefault(location, location), shared.setdefault(sequence, sequence)
        pictures[image_id] = image_id, file_name, width, height, [], location, sequence, taken_at
    for image_id, file_name, *_ in list(pictures.values()) if doubtful else ():
        if normal(file_name) in doubtful:
            detail = f"its file is also one of those of picture {_show(doubtful[normal(file_name)])}; left out"
            problems.append(Problem(image_id, "ambiguous-image-id", detail, file_name))
            del pictures[image_id]
            strangers[image_id] = None
    return pictures, strangers


def _label(
    document: dict[str, Any],
    pictures: dict[str, Draft],
    strangers: dict[str, str | None],
    labels: dict[str, int],
    problems: list[Problem],
) -> list[Image]:
    """The pictures with their boxes, less those with an animal nobody could learn."""
    twins: dict[str, list[LabelledBox]] = defaultdict(list)  # the boxes of the later records of a file, by their id
    called_empty: dict[str, None] = {}
    left_out: set[str] = set()

    def leave_out(image_id: str, rule: str, detail: str) -> None:
        if image_id not in left_out:
            left_out.add(image_id)
            problems.append(Problem(image_id, rule, f"{detail}; the picture is left out", pictures[image_id][1]))

    for number, entry in enumerate(_drain(document["annotations"]), start=1):
        if type(entry) is not dict:
            problems.append(Problem(None, "not-an-annotation", f"annotation {number} is {_show(entry)}; dropped"))
            continue
        image_id = _text(entry.get("image_id"))
        picture = pictures.get(image_id)
        if picture is None and image_id in strangers:
            picture = pictures.get(strangers[image_id])
            if picture is None:  # it was left out, and said to be
                continue
            picture = *picture[:4], twins[image_id], *picture[5:]
        if picture is None:
            detail = f"annotation {_name(entry, number)} names the picture {_show(entry.get('image_id'))}; dropped"
            problems.append(Problem(image_id, "unknown-image", detail))
            continue
        image_id, file_name, image_width, image_height, boxes, _, _, _ = picture
        label, bbox = labels.get(_text(entry.get("category_id"))), entry.get("bbox")
        if label is None:
            value = _show(entry.get("category_id"))
            leave_out(image_id, "unknown-category", f"annotation {_name(entry, number)} is of category {value}")
            continue
        if label == BLANK:
            called_empty[image_id] = None
            if bbox is not None:
                detail = f"annotation {_name(entry, number)} says empty and has the box {_show(bbox)}; box dropped"
                problems.append(Problem(image_id, "empty-with-box", detail, file_name))
            continue
        if bbox is None:
            leave_out(image_id, "unboxed-animal", f"annotation {_name(entry, number)} has no box")
            continue
        corner_and_size = _four_numbers(bbox)
        if corner_and_size is None:
            leave_out(image_id, "unusable-box", f"annotation {_name(entry, number)} has the bbox {_show(bbox)}")
            continue
        x, y, width, height = corner_and_size
        if width < HALF_PIXEL or height < HALF_PIXEL:
            detail = f"annotation {_name(entry, number)} has a box of {width:g} x {height:g} px"
            leave_out(image_id, "box-without-area", detail)
            continue
        box = Box(x, y, x + width, y + height)
        if x < 0 or y < 0 or box.right > image_width or box.bottom > image_height:
            overrun = max(-x, -y, box.right - image_width, box.bottom - image_height)
            box = box.clip(float(image_width), float(image_height))
            if box.width < HALF_PIXEL or box.height < HALF_PIXEL:
                detail = f"annotation {_name(entry, number)} has the bbox {_show(bbox)} on a picture of"
                leave_out(image_id, "box-off-picture", f"{detail} {image_width} x {image_height} px")
                continue
            rule = "box-outside" if overrun > HALF_PIXEL else "box-overrun"
            detail = f"annotation {_name(entry, number)} reaches {overrun:.3g} px past the edge; clipped"
            problems.append(Problem(image_id, rule, detail, file_name))
        boxes.append(LabelledBox(label, box))

    for image_id, boxes in twins.items():
        owner = strangers[image_id]
        if not set(boxes) <= set(pictures[owner][4]):
            leave_out(
                owner, "conflicting-records", f"its file has boxes under the id {_show(image_id)} that this id lacks"
            )
    for image_id in called_empty:
        _, file_name, _, _, boxes, _, _, _ = pictures[image_id]
        if boxes and image_id not in left_out:
            detail = f"it is called empty and has {len(boxes)} boxes; the boxes are believed"
            problems.append(Problem(image_id, "empty-with-animal", detail, file_name))
    drafts = list(pictures.values())
    pictures.clear()
    images = []
    for image_id, file_name, width, height, boxes, location, sequence, taken_at in _drain(drafts):
        if image_id in left_out:
            continue
        if len(boxes) > 1 and len(set(boxes)) < len(boxes):
            for labelled, count in Counter(boxes).items():
                detail = f"label {labelled.label} has the box {_show(labelled.box.xywh)} more than once; one stays"
                problems.extend([Problem(image_id, "duplicate-box", detail, file_name)] * (count - 1))
            boxes = dict.fromkeys(boxes)
        images.append(Image(image_id, file_name, width, height, tuple(boxes), location, sequence, taken_at))
    return images


def _picture_folder(path: Path, images: list[Image]) -> Path:
    """The folder near the json that holds the most of the first 100 pictures."""
    sample = [image.file_name for image in images[:100]]
    folders = [PictureFolder(folder) for folder in (path.parent, path.parent / "images", path.parent / path.stem)]
    held = [sum(folder.find(name) is not None for name in sample) for folder in folders]
    if not any(held):
        nearest = next((name for folder in folders if (name := folder.nearest(sample[0])) is not None), None)
        hint = "" if nearest is None else f" ({nearest!r} is there, but capitals count)"
        raise NoPicturesError(
            f"{path.name}: none of its first {len(sample)} pictures (such as {_show(sample[0])}) is in any of "
            f"{', '.join(str(folder.root) for folder in folders)}{hint}; name the folder its file names start from as "
            "root, or read the json alone (check --no-pictures; check_files=False)"
        )
    return folders[held.index(max(held))].root


def _on_disk(root: Path, name: str, images: list[Image], problems: list[Problem]) -> list[Image]:
    """The pictures whose file is there, each under the name it has on disk."""
    if not root.is_dir():
        raise AnnotationError(
            f"{name}: the picture folder {root} is not a folder; name the one its file names start from"
        )
    folder = PictureFolder(root)
    found = []
    for image in images:
        there = folder.find(image.file_name)
        if there is None:
            detail = f"{_show(image.file_name)} is {folder.why_not(image.file_name)}; left out"
            problems.append(Problem(image.id, "file-missing", detail, image.file_name))
            continue
        if there != image.file_name:
            detail = f"{_show(image.file_name)} is {there!a} on disk, the same but for how accents are written"
            problems.append(Problem(image.id, "file-name-accents", detail, image.file_name))
            image = image._replace(file_name=there)
        found.append(image)
    return found


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
    if type(value) is int:
        return str(value)
    if type(value) is float and value.is_integer():
        return str(int(value))
    return None


def _is_unicode(text: str) -> bool:
    """Whether the text can be written down: json escapes allow half a surrogate pair, file systems and UTF-8 do not."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _side(value: object) -> int | None:
    """The width or height of a picture: 1920 for 1920 and 1920.0; None for 0, "1920", true and the like."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 1 <= value <= LONGEST_SIDE else None


def _four_numbers(bbox: object) -> tuple[float, float, float, float] | None:
    """A json value as four finite floats; None where it is anything else: text, a truth value, NaN, infinity, three."""
    if type(bbox) is not list or len(bbox) != 4:
        return None
    x, y, width, height = bbox
    if type(x) is type(y) is type(width) is type(height) is float and isfinite(x + y + width + height):
        return x, y, width, height  # nearly always; what follows is for whole numbers and for the far end of floats
    for value in bbox:
        if (type(value) is not float and type(value) is not int) or not -LARGEST <= value <= LARGEST:
            return None
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
