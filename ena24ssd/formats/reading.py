"""What did somebody's label files say, and what was odd about them?

Every reader gives a `Reading`: a dataset, a `Conflict` for whatever did not fit, and a count of what the dataset
cannot hold. Labels are kept as their author wrote them: names to the letter, boxes to the last digit, unclipped. One
thought is shared with `ena24ssd.cameratraps`: where an animal on a picture has no usable box, the picture is left out,
because a detector would learn that animal as background.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ena24ssd.boxes import Box, LabelledBox
from ena24ssd.cameratraps import EMPTY_NAMES, HALF_PIXEL, CameraTrapDataset, Image

CONFLICTS: dict[str, str] = {
    # which label belongs to which picture
    "picture-without-label": "A picture has no label file: not labelled yet, so neither learnt nor taken for blank; "
    "left out. Label it, or say that a missing label means blank.",
    "label-without-picture": "A label file has no picture; left out. Name the folder with the pictures, or delete "
    "the label.",
    "unusable-name": "A file name is no Unicode text or holds a backslash, which a json cannot hand on safely; left "
    "out. Rename the file.",
    "duplicate-stem": "Several pictures share the one label file of their name; nobody knows whose it is, all are "
    "left out. Give the pictures different names.",
    "duplicate-label": "Several label files of one picture disagree; the picture is left out. Keep one of them.",
    "stale-file-name": "The xml names another picture inside than its own name does; its own name is believed.",
    # what a label file says
    "unreadable-label": "A label file cannot be read as one; its picture is left out. Mend it or label anew.",
    "unreadable-picture": "A picture gives no size; left out. Replace it by a whole copy.",
    "unusable-size": "A label file gives no size of its picture and the picture is not there; left out.",
    "size-mismatch": "The picture is a larger or smaller copy of the one that was labelled. Size and boxes stay as "
    "labelled: relative to the picture they are right.",
    "shape-mismatch": "The picture has another shape than the one that was labelled; left out. Find the picture that "
    "was labelled.",
    "unusable-box": "A box is not made of finite numbers; its picture is left out. Mend the label file.",
    "not-a-box": "A polygon, a rotated box or a prediction stands where a box should; its picture is left out. "
    "Export upright boxes.",
    "unknown-class": "A box is of a class without a name; its picture is left out. Complete the list of names.",
    "flat-box": "A box has a side below half a pixel, zero or negative; kept as written, so that 'check' reports it.",
    "stray-box": "Less than half a pixel of a box lies inside its picture; kept as written, so that 'check' reports "
    "it.",
    "overhanging-box": "A box reaches more than half a pixel past the edge of its picture; kept as written, and "
    "clipped when the dataset is read.",
    "crowd": "A box is marked as a crowd (iscrowd), one box around many; kept as a box like any other.",
    # what MegaDetector says of a picture
    "unusable-entry": "An entry of 'images' is not what the format asks for; left out.",
    "failed-picture": "The detector could not read the picture; left out.",
    "not-a-still": "The entry is a video; left out. Extract the frames and detect in those.",
    "outside-root": "The file name leads out of the picture folder; left out. Name the folder it starts from.",
    "unclassified": "Boxes without a classification stand beside classified ones; they keep the detector's own name.",
    # classes
    "same-class-twice": "Two class numbers carry exactly one name; they become one class.",
    "similar-classes": "Class names differ in capitals, spaces or underscores only; kept apart. Rename one if they "
    "are the same.",
    "unused-class": "No box is of this class; it is kept, so that class numbers stay. Delete it from the list of "
    "names if it is a leftover (LabelImg brings 15 of its own).",
    "class-reads-as-empty": "The class has boxes and a name by which COCO Camera Traps says that nothing is there; "
    "kept as written, and its boxes will be dropped when the dataset is read. Rename it.",
    # what the target cannot take
    "shared-label-file": "Another picture's label file would have the same name; this picture is left out. Rename one.",
    "unwritable-name": "A name holds a control character or a line break that the format cannot hold; the picture is "
    "left out. Rename it.",
    "clipped-box": "A box reached past the edge; clipped, because YOLO trainers refuse the whole picture otherwise.",
    "unwritable-box": "A box has no area inside its picture, which YOLO cannot say; the picture is left out.",
    "pictures-elsewhere": "YOLO trainers look for the pictures in 'images' beside 'labels', and they are not there. "
    "Convert with pictures linked or copied, or put them there.",
    "no-validation-side": "data.yaml names no 'val' pictures, which Ultralytics insists on. Name a saved "
    "split (--split; from Python, sides), or add the line.",
    "picture-on-no-side": "The split puts the picture on no side; its label is written, and no list names it.",
}
"""Every `Conflict.rule` of this package's own, and a sentence: what is odd, what is done, and the way out."""


class Conflict(NamedTuple):
    """Something that did not fit: the ``file``, the ``rule`` (of `CONFLICTS` or `ena24ssd.cameratraps.RULES`), and the
    particulars, which name the value."""

    file: str
    rule: str
    detail: str


class Reading(NamedTuple):
    """What label files say. Boxes of ``dataset`` may reach past the picture's edge; they are as written.

    ``losses`` counts what a dataset cannot hold, by kind.
    """

    dataset: CameraTrapDataset
    conflicts: tuple[Conflict, ...]
    losses: Mapping[str, int]


class LabelError(ValueError):
    """A label file, or an entry of one, that cannot be used: one of `CONFLICTS`, and the particulars."""

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(detail)
        self.rule = rule


class Labelled(NamedTuple):
    """One picture with its boxes, each with the name of its class rather than a label."""

    image: Image
    boxes: Sequence[tuple[str, Box]]


def to_dataset(labelled: Sequence[Labelled], class_names: Sequence[str], root: Path, name: str) -> CameraTrapDataset:
    """The dataset of these pictures; a name that ``class_names`` lists twice is one class."""
    names = tuple(dict.fromkeys(class_names))
    label_of = {species: label for label, species in enumerate(names)}
    images = tuple(
        image._replace(boxes=tuple(LabelledBox(label_of[species], box) for species, box in boxes))
        for image, boxes in labelled
    )
    return CameraTrapDataset(names, images, root, (), name)


def odd_boxes(dataset: CameraTrapDataset) -> Iterator[Conflict]:
    """The boxes that reach past their picture's edge or have no area; they stay."""
    for image in dataset.images:
        for label, box in image.boxes:
            found = (
                f"{dataset.class_names[label]!r} has the box {box.left:g}, {box.top:g}, {box.right:g}, {box.bottom:g}"
            )
            where = f"{found} (edges) on a picture of {image.width} x {image.height} px"
            if box.width < HALF_PIXEL or box.height < HALF_PIXEL:
                yield Conflict(image.file_name, "flat-box", where)
                continue
            inside = box.clip(image.width, image.height)
            if inside.width < HALF_PIXEL or inside.height < HALF_PIXEL:
                yield Conflict(image.file_name, "stray-box", where)
            elif max(abs(was - now) for was, now in zip(box, inside)) > HALF_PIXEL:
                yield Conflict(image.file_name, "overhanging-box", where)


def odd_classes(dataset: CameraTrapDataset, file: str) -> Iterator[Conflict]:
    """Class names that are easily taken for one another, or that no box uses. ``file``: where the names stand."""
    counts = Counter(label for image in dataset.images for label, _ in image.boxes)
    alike: dict[str, list[str]] = defaultdict(list)
    for label, name in enumerate(dataset.class_names):
        alike["".join(name.casefold().replace("_", " ").replace("-", " ").split())].append(name)
        if not counts[label]:
            yield Conflict(file, "unused-class", f"class {name!r} has no box")
        elif name.strip().lower() in EMPTY_NAMES:
            yield Conflict(file, "class-reads-as-empty", f"class {name!r} has {counts[label]} boxes")
    for names in alike.values():
        if len(names) > 1:
            yield Conflict(file, "similar-classes", " and ".join(map(repr, names)))


def is_portable(file_name: str) -> bool:
    """Whether a file name means the same in every json and on every system: Unicode text, without a backslash."""
    return "\\" not in file_name and is_unicode(file_name)


def is_unicode(text: str) -> bool:
    """Whether the text can be written as UTF-8: json may hold half a surrogate pair, and so do odd names on disk."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def to_number(text: object) -> float | None:
    """A finite number, or None. Neither ``nan`` nor Python's ``1_000`` is one."""
    if isinstance(text, bool) or not isinstance(text, (str, int, float)) or (isinstance(text, str) and "_" in text):
        return None
    try:
        number = float(text)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
