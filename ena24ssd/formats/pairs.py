"""Which label file belongs to which picture, and how large is that picture?

Label tools agree on one thing: the label file is called like the picture. Where it lies differs: beside the picture
(LabelImg), in ``Annotations`` with the pictures in ``JPEGImages`` (VOC), in ``labels/train`` for ``images/train``
(Ultralytics) or ``train/labels`` for ``train/images`` (Roboflow). Folders with such names say what is in them rather
than whose it is, so they are left out of the comparison, and what remains of the two paths must be equal:
``camera7/0001.xml`` is never taken for the label of ``camera9/0001.jpg``. A label that lies in no folder of its own
also finds a picture anywhere, if only one has its name, because LabelImg saves the labels of nested folders flat.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from PIL import Image as Pillow

from ena24ssd.ahead import Progress
from ena24ssd.cameratraps import Image
from ena24ssd.formats.reading import Conflict, LabelError, Labelled, is_portable
from ena24ssd.pictures import DAMAGE, EXTENSIONS, FORMATS, MAX_PIXELS, is_as_stored, orientation_of

TRANSPARENT = frozenset({"annotations", "images", "jpegimages", "labels", "xml", "xmls"})
"""Folder names (any case) that say what is in a folder, not whose."""

Key = tuple[str, ...]
Parse = Callable[[str, Path], tuple[Labelled, list[Conflict]]]


class Pairs(NamedTuple):
    """Labels with their pictures, in the order of the pictures' names.

    ``labelled`` holds (file name below ``root``, label file), ``unlabelled`` the names of pictures without a label
    file.
    """

    root: Path
    labelled: tuple[tuple[str, Path], ...]
    unlabelled: tuple[str, ...]
    conflicts: tuple[Conflict, ...]


def files_below(folder: Path) -> list[str]:
    """Every file below a folder, relative to it with forward slashes, sorted; hidden ones and unreadable folders not.

    Links to folders are followed, each folder is entered once.
    """
    found, entered = [], set()
    for path, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(path)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        prefix = "" if Path(path) == folder else Path(path).relative_to(folder).as_posix() + "/"
        found += [prefix + name for name in files if not name.startswith(".")]
    return sorted(found)


def pictures_among(names: Iterable[str]) -> list[str]:
    """The names that end like a picture's."""
    return [name for name in names if os.path.splitext(name)[1].lower() in EXTENSIONS]


def stem(file_name: str) -> str:
    """The name less folder and a picture's ending: ``S1/a.b.jpg`` and LabelImg's ``a.b`` are both ``a.b``."""
    name = PurePosixPath(file_name.replace("\\", "/")).name
    root, ending = os.path.splitext(name)
    return root if ending.lower() in EXTENSIONS else name


def key_of(name: str) -> Key:
    """What a picture and its label have in common: the folders that say whose they are, and the name's stem."""
    path = PurePosixPath(name)
    return (*(part for part in path.parent.parts if part.lower() not in TRANSPARENT), path.stem)


def pair_up(
    source: Path,
    ending: str,
    *,
    root: Path | None = None,
    no_labels: frozenset[str] = frozenset(),
    named_in: Callable[[Path], str | None] = lambda _: None,
) -> Pairs:
    """Find the label files below ``source`` and the picture of each below ``root`` (left out: ``source``, or the folder
    around it where ``source`` itself is called ``Annotations`` or the like and holds no picture).

    Parameters: ``ending`` of label files, such as ``.xml``. ``no_labels``: file names (lower case) that are labels only
    if there is such a picture. ``named_in`` gives the picture that a label file names inside; it is asked only where
    several pictures could be meant.
    """
    listing = files_below(source)
    base, names = (source, pictures_among(listing)) if root is None else (root, pictures_among(files_below(root)))
    if root is None and not names and source.name.lower() in TRANSPARENT:
        base, names = source.parent, pictures_among(files_below(source.parent))
    label_names = [name for name in listing if os.path.splitext(name)[1].lower() == ending]
    unusable = [name for name in (*names, *label_names) if not is_portable(name)]
    conflicts = [Conflict(repr(name), "unusable-name", f"below {base}") for name in unusable]
    names, label_names = ([name for name in some if is_portable(name)] for some in (names, label_names))
    of_key: dict[Key, list[str]] = defaultdict(list)
    of_stem: dict[str, list[str]] = defaultdict(list)
    for name in names:
        key = key_of(name)
        of_key[key].append(name)
        of_stem[key[-1]].append(name)
    labels: dict[Key, list[str]] = defaultdict(list)
    for name in label_names:
        key = key_of(name)
        if key in of_key or PurePosixPath(name).name.lower() not in no_labels:
            labels[key].append(name)

    labelled: dict[str, Path] = {}
    settled: set[str] = set()
    for key, (first, *others) in labels.items():
        meant = of_key.get(key, [])
        if not meant and len(key) == 1:
            meant = [name for name in of_stem.get(key[0], []) if key_of(name) not in labels]
        if not meant:
            conflicts.append(Conflict(first, "label-without-picture", f"no picture below {base} is called {key[-1]!r}"))
            continue
        if others and len({_content(source / label) for label in (first, *others)}) > 1:
            detail = f"{', '.join(meant)} is labelled in {' and in '.join((first, *others))}, differently"
            conflicts.append(Conflict(first, "duplicate-label", detail))
            settled.update(meant)
            continue
        if len(meant) > 1:
            named = named_in(source / first)
            exactly = [name for name in meant if PurePosixPath(name).name == named]
            if len(exactly) != 1:
                conflicts.append(Conflict(first, "duplicate-stem", f"could be the label of {' or '.join(meant)}"))
                settled.update(meant)
                continue
            meant = exactly
        labelled[meant[0]] = source / first
    unlabelled = [name for name in names if name not in labelled and name not in settled]
    kept = [*labelled, *unlabelled]
    if kept and all(name.startswith("images/") for name in kept):  # where a dataset's reader looks by itself
        base, cut = base / "images", len("images/")
        labelled = {name[cut:]: label for name, label in labelled.items()}
        unlabelled = [name[cut:] for name in unlabelled]
    return Pairs(base, tuple(sorted(labelled.items())), tuple(unlabelled), tuple(conflicts))


def read_pairs(
    pairs: Pairs, parse: Parse, *, missing_is_blank: bool = False, progress: Progress | None = None
) -> tuple[list[Labelled], list[Conflict]]:
    """Every picture with its boxes, by name; one bad file never stops the others.

    ``parse`` turns the picture's name and the label file into the picture with its boxes, and what was odd; it raises
    LabelError. ``missing_is_blank``: a picture without a label file shows no animal; else it is left out.
    """
    pictures, conflicts = [], list(pairs.conflicts)
    for name, label in progress(pairs.labelled) if progress else pairs.labelled:
        try:
            picture, odd = parse(name, label)
        except LabelError as error:
            conflicts.append(Conflict(str(label), error.rule, str(error)))
        else:
            pictures.append(picture)
            conflicts += odd
    for name in pairs.unlabelled:
        if not missing_is_blank:
            conflicts.append(Conflict(name, "picture-without-label", f"{pairs.root / name} has no label file"))
            continue
        try:
            size = picture_size(pairs.root / name)
        except LabelError as error:
            conflicts.append(Conflict(name, error.rule, str(error)))
        else:
            pictures.append(Labelled(Image(without_suffix(name), name, *size), ()))
    return sorted(pictures, key=lambda picture: picture.image.file_name), conflicts


def without_suffix(file_name: str) -> str:
    """``S1/a.b.jpg`` -> ``S1/a.b``: the id of a picture whose label file gives none."""
    return str(PurePosixPath(file_name).with_suffix(""))


def picture_size(path: Path, labelled: tuple[int, int] | None = None) -> tuple[int, int]:
    """Width and height that boxes of a picture refer to, from the file's head alone.

    Upright, as the EXIF orientation has it; but where the ``labelled`` size has the shape of the picture as stored and
    not as shown, then as stored (`ena24ssd.pictures.read_picture` decides alike).

    Raises LabelError for a file that gives no size.
    """
    try:
        with Pillow.open(path, formats=FORMATS) as source:
            stored = source.size
            # Pillow would decode the whole of a PNG in search of an orientation.
            noted = source.format != "PNG" or "exif" in source.info
            orientation = orientation_of(source) if noted else 1
    except (*DAMAGE, Pillow.DecompressionBombError) as error:
        raise LabelError("unreadable-picture", f"{path}: {error}") from error
    if stored[0] * stored[1] > MAX_PIXELS:
        raise LabelError("unreadable-picture", f"{path}: {stored[0]} x {stored[1]} px; the limit is {MAX_PIXELS:,} px")
    turned = orientation >= 5 and not is_as_stored(labelled, stored, orientation)
    return stored[::-1] if turned else stored


def _content(path: Path) -> bytes | str:
    try:
        return path.read_bytes()
    except OSError as error:  # an unreadable file is like no other
        return str(error)
