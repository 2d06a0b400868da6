"""How are labels written in Pascal VOC xml, as LabelImg saves them?

One xml a picture. ``<size>`` is the picture's, each ``<object>`` has a ``<name>`` and a ``<bndbox>`` of four edges; an
xml without objects is a blank picture. The xml's own name tells the picture: ``<filename>``, ``<folder>`` and
``<path>`` go stale as soon as somebody moves or renames files.

**Where pixels start.** LabelImg, and nearly every tool after it, writes edges as it draws them: 0 is the picture's left
edge, its width the right one. (LabelImg cuts them to whole pixels and writes 1 for 0; that pixel is gone for good.) The
VOC challenge itself counted pixels, the first is 1 and both ends are included: ``xmin - 1`` and ``xmax`` are the edges.
``origin=0``, the default, is the first reading, ``origin=1`` the second; they differ by one pixel, on two sides.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from xml.etree import ElementTree

import defusedxml.ElementTree
from defusedxml import DefusedXmlException

from ena24ssd.ahead import Progress
from ena24ssd.boxes import Box
from ena24ssd.cameratraps import CameraTrapDataset, Image
from ena24ssd.formats.pairs import (
    TRANSPARENT,
    Pairs,
    files_below,
    pair_up,
    picture_size,
    pictures_among,
    read_pairs,
    stem,
    without_suffix,
)
from ena24ssd.formats.reading import (
    Conflict,
    LabelError,
    Labelled,
    Reading,
    odd_boxes,
    odd_classes,
    to_dataset,
    to_number,
)
from ena24ssd.formats.writing import Writing, context_losses, one_label_each
from ena24ssd.pictures import same_shape

# What XML 1.0 cannot hold, and the carriage return, which every parser turns into a line feed.
UNWRITABLE = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Annotation(NamedTuple):
    """What one xml says; ``size`` is None where it gives none, ``boxes`` are in edges from 0."""

    file_name: str
    size: tuple[int, int] | None
    boxes: tuple[tuple[str, Box], ...]
    losses: Counter[str]


def read(
    source: Path,
    *,
    root: Path | None = None,
    check_files: bool = True,
    missing_is_blank: bool = False,
    origin: int = 0,
    progress: Progress | None = None,
) -> Reading:
    """Read every xml below ``source``; class names come in alphabetical order, as VOC has no list of them.

    Parameters: ``root``, the folder with the pictures if it is another. ``check_files=False`` believes each xml about
    its picture's ending and size, and needs no pictures. ``missing_is_blank``: see
    `ena24ssd.formats.pairs.read_pairs`. ``origin``: the number of the first pixel, see above.
    """
    losses: Counter[str] = Counter()
    names: set[str] = set()

    def parse(name: str, label: Path) -> tuple[Labelled, list[Conflict]]:
        annotation = parse_annotation(label, origin)
        names.update(species for species, _ in annotation.boxes)
        size, conflicts = annotation.size, []
        if check_files:
            on_disk = picture_size(pairs.root / name, size)
            if size and size != on_disk:
                ratio = f"{on_disk[0] / size[0]:.4g} x {on_disk[1] / size[1]:.4g}"
                detail = f"labelled at {size[0]} x {size[1]} px, now {on_disk[0]} x {on_disk[1]} px, a ratio of {ratio}"
                if not same_shape(size, on_disk):
                    raise LabelError("shape-mismatch", detail)
                conflicts.append(Conflict(str(label), "size-mismatch", detail))
            size = size or on_disk
        if size is None:
            raise LabelError("unusable-size", "<size> is missing or zero")
        if annotation.file_name and stem(annotation.file_name) != label.stem:
            detail = f"<filename> is {annotation.file_name!r}, the picture is {name!r}"
            conflicts.append(Conflict(str(label), "stale-file-name", detail))
        losses.update(annotation.losses)
        return Labelled(Image(without_suffix(name), name, *size), annotation.boxes), conflicts

    pairs = pair_up(source, ".xml", root=root, named_in=_picture_named_in) if check_files else _without_pictures(source)
    pictures, conflicts = read_pairs(pairs, parse, missing_is_blank=missing_is_blank, progress=progress)
    dataset = to_dataset(pictures, sorted(names), pairs.root, source.name)
    conflicts += [*odd_boxes(dataset), *odd_classes(dataset, str(source))]
    return Reading(dataset, tuple(conflicts), +losses)


def parse_annotation(path: Path, origin: int = 0) -> Annotation:
    """What one xml file says. Raises LabelError for a file, a name or a box that cannot be used.

    Entities and external references are refused: no label needs them, and xml bombs are made of them.
    """
    try:
        top = defusedxml.ElementTree.fromstring(path.read_bytes())
    except DefusedXmlException as error:
        raise LabelError("unreadable-label", f"entities are refused ({type(error).__name__})") from error
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise LabelError("unreadable-label", f"no xml ({error})") from error
    if top.tag != "annotation":
        raise LabelError("unreadable-label", f"the xml is a <{top.tag}>, not an <annotation>")
    boxes = []
    losses = Counter({"segmented flag": _flag(top, "segmented"), "verified flag": int(top.get("verified") == "yes")})
    for number, entry in enumerate(top.findall("object"), start=1):
        name = entry.findtext("name") or ""
        if not name.strip():
            raise LabelError("unknown-class", f"object {number} has no name")
        bounds = entry.find("bndbox")
        if bounds is None:
            others = ", ".join(f"<{part.tag}>" for part in entry) or "nothing"
            raise LabelError("not-a-box", f"object {number} ({name!r}) has no <bndbox>, but {others}")
        texts = [bounds.findtext(edge) for edge in ("xmin", "ymin", "xmax", "ymax")]
        edges = [to_number(text) for text in texts]
        if None in edges:
            raise LabelError("unusable-box", f"object {number} ({name!r}) has the bndbox {texts}")
        left, top_edge, right, bottom = edges
        boxes.append((name, Box(left - origin, top_edge - origin, right, bottom)))
        for flag in ("difficult", "truncated", "occluded"):
            losses[f"{flag} flag"] += _flag(entry, flag)
        losses["pose"] += int((entry.findtext("pose") or "Unspecified").strip() not in ("", "Unspecified"))
        losses["parts of an object"] += len(entry.findall("part"))
    sides = [to_number(top.findtext(f"size/{side}")) for side in ("width", "height")]
    usable = all(side is not None and side >= 1 and side == int(side) for side in sides)
    file_name = (top.findtext("filename") or "").strip()
    return Annotation(file_name, (int(sides[0]), int(sides[1])) if usable else None, tuple(boxes), losses)


def write(dataset: CameraTrapDataset, *, origin: int = 0, whole_pixels: bool = False) -> Writing:
    """One xml for every picture, in the folders of the picture's name, so that they lie beside the pictures where the
    target is the picture folder.

    Edges are written to their last digit. ``whole_pixels`` rounds them to the nearest pixel (a box that would vanish
    grows to the pixels it touches) for tools that read whole numbers only; ``largest_move`` then says how far.
    """
    labels, conflicts = one_label_each(dataset.images, ".xml")
    forbidden = {label for label, name in enumerate(dataset.class_names) if UNWRITABLE.search(name)}
    files, kept, move = {}, [], 0.0
    for name, image in labels.items():
        names = [image.file_name, *(dataset.class_names[label] for label, _ in image.boxes if label in forbidden)]
        unwritable = [text for text in names if UNWRITABLE.search(text)]
        if unwritable:
            conflicts.append(Conflict(image.file_name, "unwritable-name", f"xml cannot hold {unwritable[-1]!r}"))
            continue
        if whole_pixels:
            whole = tuple(labelled._replace(box=_to_whole(labelled.box)) for labelled in image.boxes)
            moves = [abs(a - b) for was, now in zip(image.boxes, whole) for a, b in zip(was.box, now.box)]
            move = max([move, *moves])
            files[name] = partial(_to_xml, image._replace(boxes=whole), dataset.class_names, origin)
        else:
            files[name] = partial(_to_xml, image, dataset.class_names, origin)
        kept.append(image)
    losses = context_losses(tuple(kept))
    used = {label for image in kept for label, _ in image.boxes}
    losses["class without a box"] = len(dataset.class_names) - len(used)
    in_order = [name for label, name in enumerate(dataset.class_names) if label in used]
    losses["order of the classes"] = int(in_order != sorted(in_order))
    written = CameraTrapDataset(dataset.class_names, tuple(kept), dataset.root, (), dataset.name)
    pictures = {image.file_name: image.file_name for image in kept}
    return Writing(written, files, pictures, tuple(conflicts), +losses, move)


def _without_pictures(source: Path) -> Pairs:
    """Each xml with the name its picture must have had."""
    labelled, conflicts = {}, []
    for label in (name for name in files_below(source) if name.lower().endswith(".xml")):
        try:
            named = parse_annotation(source / label).file_name
        except LabelError as error:
            conflicts.append(Conflict(str(source / label), error.rule, str(error)))
            continue
        ending = PurePosixPath(named).suffix if pictures_among([named]) else ""
        folders = [part for part in PurePosixPath(label).parent.parts if part.lower() not in TRANSPARENT]
        name = "/".join([*folders, PurePosixPath(label).stem + ending])
        if not ending or name in labelled:
            why = f"{name!r} is also the picture of {labelled[name]}" if ending else f"<filename> is {named!r}"
            conflicts.append(Conflict(str(source / label), "label-without-picture", why))
            continue
        labelled[name] = source / label
    return Pairs(source, tuple(sorted(labelled.items())), (), tuple(conflicts))


def _picture_named_in(label: Path) -> str | None:
    try:
        return parse_annotation(label).file_name
    except LabelError:  # said when the file is read
        return None


def _flag(element: Any, name: str) -> int:
    return int((element.findtext(name) or "0").strip().lower() not in ("", "0", "no", "false"))


def _to_whole(box: Box) -> Box:
    left, top, right, bottom = (float(math.floor(edge + 0.5)) for edge in box)
    if left == right:
        left, right = float(math.floor(box.left)), float(math.ceil(box.right))
    if top == bottom:
        top, bottom = float(math.floor(box.top)), float(math.ceil(box.bottom))
    return Box(left, top, right, bottom)


def _to_xml(image: Image, class_names: tuple[str, ...], origin: int) -> str:
    """The xml of one picture, in LabelImg's order."""
    path = PurePosixPath(image.file_name)
    top = ElementTree.Element("annotation")
    _add(top, "folder", path.parent.name)
    _add(top, "filename", path.name)
    _add(_add(top, "source"), "database", "Unknown")
    size = _add(top, "size")
    for tag, value in (("width", image.width), ("height", image.height), ("depth", 3)):
        _add(size, tag, str(value))
    _add(top, "segmented", "0")
    for label, box in image.boxes:
        entry = _add(top, "object")
        at_edge = box.left <= 0 or box.top <= 0 or box.right >= image.width or box.bottom >= image.height
        _add(entry, "name", class_names[label])
        _add(entry, "pose", "Unspecified")
        _add(entry, "truncated", str(int(at_edge)))  # LabelImg's rule
        _add(entry, "difficult", "0")
        bounds = _add(entry, "bndbox")
        edges = (box.left + origin, box.top + origin, box.right, box.bottom)
        for tag, edge in zip(("xmin", "ymin", "xmax", "ymax"), edges):
            _add(bounds, tag, str(int(edge)) if edge == int(edge) else repr(float(edge)))
    ElementTree.indent(top, "\t")
    return ElementTree.tostring(top, encoding="unicode") + "\n"


def _add(parent: Any, tag: str, text: str | None = None) -> Any:
    child = ElementTree.SubElement(parent, tag)
    child.text = text
    return child
