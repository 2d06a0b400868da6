"""How are labels written in YOLO txt?

One txt a picture, one line a box: ``class cx cy w h``, the class counted from 0, the rest divided by the picture's
width and height (upright, as the EXIF orientation has it). The names stand elsewhere: in ``data.yaml`` (Ultralytics),
in ``classes.txt`` (LabelImg) or in ``obj.names`` (Darknet). An empty txt is a blank picture. A missing one may mean
the same (Ultralytics takes it so) or that nobody has labelled the picture yet; what it means is asked, not guessed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path

import yaml

from ena24ssd.ahead import Progress
from ena24ssd.boxes import Box, LabelledBox
from ena24ssd.cameratraps import HALF_PIXEL, SHORT, CameraTrapDataset, Image
from ena24ssd.formats.pairs import files_below, pair_up, picture_size, read_pairs, without_suffix
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

DIGITS = 9  # moves an edge of a 12,000 px picture by 0.00001 px; LabelImg's 6 digits move it by 0.009 px

YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
TEXT_NAMES = ("classes.txt", "obj.names")
NO_LABELS = frozenset(
    {"classes.txt", "predefined_classes.txt", "train.txt", "val.txt", "valid.txt", "validation.txt", "test.txt"}
    | {"readme.txt", "readme.dataset.txt", "readme.roboflow.txt", "license.txt", "notes.txt", "requirements.txt"}
)
"""Files (lower case) that lie among labels and are none, unless a picture is called like them."""

SIDES = {"train": "train", "validation": "val", "test": "test"}  # a split's name of a side: YOLO's


def read(
    source: Path,
    *,
    root: Path | None = None,
    names: Path | None = None,
    missing_is_blank: bool = False,
    progress: Progress | None = None,
) -> Reading:
    """Read every txt below ``source``; pictures must be there, because only they know their size.

    Parameters: ``root``, the folder with the pictures if it is another. ``names``, the file with the class names; left
    out, it is looked for in ``source``. ``missing_is_blank``: see `ena24ssd.formats.pairs.read_pairs`.

    Raises ValueError where there are no class names, or several lists that disagree.
    """
    listed, class_names = find_names(source) if names is None else (names, read_names(names))
    pairs = pair_up(source, ".txt", root=root, no_labels=NO_LABELS)

    def parse(name: str, label: Path) -> tuple[Labelled, list[Conflict]]:
        rows = parse_rows(label, len(class_names))
        width, height = picture_size(pairs.root / name)
        boxes = tuple(
            (
                class_names[index],
                Box((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height),
            )
            for index, x, y, w, h in rows
        )
        return Labelled(Image(without_suffix(name), name, width, height), boxes), []

    pictures, conflicts = read_pairs(pairs, parse, missing_is_blank=missing_is_blank, progress=progress)
    for name in dict.fromkeys(name for name in class_names if class_names.count(name) > 1):
        indexes = [index for index, other in enumerate(class_names) if other == name]
        conflicts.append(Conflict(str(listed), "same-class-twice", f"{name!r} is class {indexes}"))
    dataset = to_dataset(pictures, class_names, pairs.root, source.name)
    conflicts += [*odd_boxes(dataset), *odd_classes(dataset, str(listed))]
    losses = {"sides of a split (train, val, test)": len(pictures)} if _names_sides(listed) else {}
    return Reading(dataset, tuple(conflicts), losses)


def parse_rows(path: Path, classes: int) -> list[tuple[int, float, float, float, float]]:
    """The lines of one txt: class, then centre and size in parts of the picture. Raises LabelError."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LabelError("unreadable-label", f"no text ({error})") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        shown = line if len(line) < 80 else f"{line[:77]}..."
        if len(words) > 5:
            what = {6: "a box with a score", 9: "a rotated box or four corners"}.get(
                len(words), "a polygon or keypoints"
            )
            raise LabelError("not-a-box", f"line {number} has {len(words)} columns, as {what}: {shown!r}")
        values = [to_number(word) for word in words]
        if len(words) < 5 or None in values:
            raise LabelError("unusable-box", f"line {number} is not 'class cx cy w h': {shown!r}")
        index = int(values[0])
        if index != values[0] or not 0 <= index < classes:
            raise LabelError("unknown-class", f"line {number} is of class {words[0]}; the names are 0 to {classes - 1}")
        rows.append((index, *values[1:]))
    return rows


def find_names(source: Path) -> tuple[Path, tuple[str, ...]]:
    """The file with the class names, and the names: ``data.yaml``, ``classes.txt`` or ``obj.names``, wherever they lie.

    Raises ValueError where there is none, or where two disagree.
    """
    places = [source / name for name in files_below(source)]
    if source.name.lower() == "labels":  # Ultralytics' data.yaml lies in the folder around it
        places += [source.parent / name for name in YAML_NAMES + TEXT_NAMES if (source.parent / name).is_file()]
    found = {
        path: read_names(path)
        for path in sorted(places, key=lambda path: (len(path.parts), path))
        if path.name.lower() in (*YAML_NAMES, *TEXT_NAMES)
    }
    if not found:
        raise ValueError(
            f"{source}: no class names; YOLO labels are numbers, and data.yaml, classes.txt or obj.names must say of "
            "what. Put one there, or give the file that lists them"
        )
    first, *others = found
    for other in others:
        if found[other] != found[first]:
            raise ValueError(
                f"{source}: {first.relative_to(first.parents[1])} and {other} list different class names, "
                f"{list(found[first])} and {list(found[other])}; give the file to believe"
            )
    return first, found[first]


def read_names(path: Path) -> tuple[str, ...]:
    """The class names of a yaml (``names``: a list, or a mapping from numbers) or of a text with one name a line.

    Names are taken as text, to the letter: a class ``no`` is not read as a truth value. Raises ValueError.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); the class names must be text in UTF-8") from error
    if path.suffix.lower() not in (".yaml", ".yml"):
        names = text.split("\n")
        while names and not names[-1].strip():  # a file ends in a line feed
            names.pop()
        names = [name.rstrip("\r") for name in names]
    else:
        try:
            document = yaml.load(text, Loader=yaml.BaseLoader)
        except (yaml.YAMLError, RecursionError) as error:
            raise ValueError(
                f"{path}: is no YAML to be read ({error}); mend it, or give a file with one name a line"
            ) from error
        names = document.get("names") if isinstance(document, dict) else None
        if isinstance(names, dict) and sorted(names) == sorted(map(str, range(len(names)))):
            names = [names[str(index)] for index in range(len(names))]
        if not isinstance(names, list):
            raise ValueError(
                f"{path}: 'names' is {SHORT.repr(names)}; it must list the class names, or map 0, 1, 2 and "
                "so on to them"
            )
    for index, name in enumerate(names):
        if not isinstance(name, str) or not name.strip():
            raise ValueError(
                f"{path}: class {index} has the name {SHORT.repr(name)}; every class needs a name: write it"
            )
    if not names:
        raise ValueError(f"{path}: lists no class names; one at least is needed: write one a line")
    return tuple(names)


def write(dataset: CameraTrapDataset, *, sides: Mapping[str, Collection[str]] | None = None) -> Writing:
    """The labels in ``labels``, for pictures in ``images``, with ``data.yaml`` and lists of pictures, as Ultralytics
    has it.

    ``sides``: image ids of ``train``, ``validation`` and ``test`` (`ena24ssd.splits.Split.to_json`); left out, every
    picture is for training. Boxes are clipped to the picture, as trainers refuse pictures with others.

    Raises ValueError for a side of another name, or an id on two sides.
    """
    side_of: dict[str, str] = {}
    for side, ids in (sides or {}).items():
        if side not in SIDES or not side_of.keys().isdisjoint(ids):
            raise ValueError(
                f"the split puts {len(ids)} pictures on the side {side!r}; sides are {', '.join(SIDES)}, and a picture "
                "is on one only: split anew"
            )
        side_of |= dict.fromkeys(ids, side)
    places = _places(dataset.images)
    labels, conflicts = one_label_each(dataset.images, ".txt")
    files, kept = {}, []
    for image in labels.values():
        place = places[image.file_name]
        if len(f"{place}.".splitlines()) > 1:
            conflicts.append(Conflict(image.file_name, "unwritable-name", "a list of pictures has one name a line"))
            continue
        clipped = image._replace(
            boxes=tuple(LabelledBox(b.label, b.box.clip(image.width, image.height)) for b in image.boxes)
        )
        odd = [(was.box, now.box) for was, now in zip(image.boxes, clipped.boxes) if was.box != now.box]
        flat = [box for _, box in clipped.boxes if box.width < HALF_PIXEL or box.height < HALF_PIXEL]
        if flat:
            detail = f"a box of {flat[0].width:g} x {flat[0].height:g} px is left inside the picture"
            conflicts.append(Conflict(image.file_name, "unwritable-box", detail))
            continue
        for was, now in odd:
            moved = max(abs(a - b) for a, b in zip(was, now))
            conflicts.append(Conflict(image.file_name, "clipped-box", f"a box reached {moved:.3g} px past the edge"))
        files[_label_of(place)] = partial(_to_txt, clipped)
        kept.append(clipped)
    lists: dict[str, list[str]] = {side: [] for side in (SIDES if sides else ("train",))}
    for image in kept:
        side = side_of.get(image.id) if sides else "train"
        if side is None:
            conflicts.append(Conflict(image.file_name, "picture-on-no-side", f"image {image.id!r} is on no side"))
        else:
            lists[side].append(f"./{places[image.file_name]}\n")
    yaml_lines: dict[str, object] = {}
    for side, lines in lists.items():
        if lines:
            yaml_lines[SIDES[side]] = f"{SIDES[side]}.txt"
            files[f"{SIDES[side]}.txt"] = partial("".join, lines)
    if not lists.get("validation"):
        conflicts.append(
            Conflict("data.yaml", "no-validation-side", f"only {', '.join(yaml_lines) or 'nothing'} is listed")
        )
    yaml_lines["names"] = dict(enumerate(dataset.class_names))
    files["data.yaml"] = partial(yaml.safe_dump, yaml_lines, allow_unicode=True, sort_keys=False)
    written = CameraTrapDataset(dataset.class_names, tuple(kept), dataset.root, (), dataset.name)
    pictures = {image.file_name: places[image.file_name] for image in kept}
    return Writing(written, files, pictures, tuple(conflicts), +context_losses(tuple(kept)))


def _places(images: tuple[Image, ...]) -> dict[str, str]:
    """Where each picture belongs: below ``images``, which is not written twice."""
    inside = all(image.file_name.startswith("images/") for image in images)
    return {image.file_name: image.file_name if inside else f"images/{image.file_name}" for image in images}


def _label_of(place: str) -> str:
    """Where Ultralytics looks for the label of a picture: in ``labels`` instead of the last ``images`` of its path."""
    before, after = f"/{place}".rsplit("/images/", 1)
    return without_suffix(f"{before}/labels/{after}".lstrip("/")) + ".txt"


def _to_txt(image: Image) -> str:
    def line(label: int, box: Box) -> str:
        x, y = (box.left + box.right) / 2 / image.width, (box.top + box.bottom) / 2 / image.height
        parts = (x, y, box.width / image.width, box.height / image.height)
        return " ".join([str(label), *(f"{part:.{DIGITS}f}" for part in parts)]) + "\n"

    return "".join(line(label, box) for label, box in image.boxes)


def _names_sides(path: Path) -> bool:
    """Whether a list of names is a data.yaml that tells training pictures from others."""
    if path.suffix.lower() not in (".yaml", ".yml"):
        return False
    document = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=yaml.BaseLoader)
    return sum(bool(document.get(side)) for side in ("train", "val", "test")) > 1
