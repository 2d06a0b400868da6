"""How do labels made elsewhere get in, and how do ours get out?

`convert` reads Pascal VOC, YOLO, COCO, COCO Camera Traps or MegaDetector output and writes COCO Camera Traps, VOC,
YOLO or COCO. Names stay to the letter and nothing is rounded unless asked for. Whatever does not fit is a
`ena24ssd.formats.reading.Conflict` that names file, rule and value; `RULES` says what was done about it and the way
out. What the target has no place for is counted in `Conversion.losses`.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ena24ssd import cameratraps
from ena24ssd.ahead import Progress
from ena24ssd.cameratraps import CameraTrapDataset
from ena24ssd.files import replace_file, replacing
from ena24ssd.formats import SOURCES, TARGETS, coco, megadetector, voc, yolo
from ena24ssd.formats.pairs import files_below
from ena24ssd.formats.reading import CONFLICTS, Conflict, Reading
from ena24ssd.formats.writing import Writing
from ena24ssd.jsonfiles import JsonError, read_json

RULES: dict[str, str] = cameratraps.RULES | CONFLICTS
"""Every `Conflict.rule`, and a sentence on what is odd and what is done about it."""

OPTIONS = {  # option: the format it is for, and on which side
    "threshold": ("megadetector", "from"),
    "names": ("yolo", "from"),
    "missing_is_blank": ("voc yolo", "from"),
    "origin": ("voc", "from or to"),
    "whole_pixels": ("voc", "to"),
    "sides": ("yolo", "to"),
}
FLAGS = {  # option: what it is called on the command line
    "threshold": "--threshold",
    "names": "--names",
    "missing_is_blank": "--missing-is-blank",
    "origin": "--first-pixel",
    "whole_pixels": "--round",
    "sides": "--split",
}


@dataclass(frozen=True)
class Conversion:
    """What `convert` did.

    ``source`` and ``target`` are formats. ``pictures`` and ``boxes`` were written, ``blank`` pictures among them show
    nothing; ``classes`` counts the boxes of each class. ``losses`` counts what the target does not hold, by kind.
    ``largest_move`` is the farthest an edge was moved by ``whole_pixels``, in pixels. ``written`` lists the label files
    and ``copies`` the pictures that were copied or linked; file names start from ``root``.
    """

    source: str
    target: str
    pictures: int
    boxes: int
    blank: int
    classes: Mapping[str, int]
    problems: tuple[Conflict, ...]
    losses: Mapping[str, int]
    largest_move: float
    written: tuple[Path, ...]
    copies: tuple[Path, ...]
    root: Path

    def problem_counts(self) -> dict[str, int]:
        """How often each rule was needed, in the order of `RULES`."""
        counts = Counter(problem.rule for problem in self.problems)
        return {rule: counts[rule] for rule in RULES if rule in counts}


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    from_: str | None = None,
    to: str = "camera-traps",
    root: str | os.PathLike[str] | None = None,
    check_files: bool = True,
    pictures: Literal["copy", "link"] | None = None,
    overwrite: bool = False,
    missing_is_blank: bool = False,
    threshold: float | None = None,
    names: str | os.PathLike[str] | None = None,
    origin: int = 0,
    whole_pixels: bool = False,
    sides: Mapping[str, Collection[str]] | None = None,
    progress: Progress | None = None,
) -> Conversion:
    """Read labels of one format and write them in another.

    Parameters: ``source``, a folder of VOC xml or YOLO txt (or its data.yaml), or a json file. ``target``, the json
    file to write (``to`` camera-traps or coco) or the folder to fill (``to`` voc or yolo). ``from_``, one of
    `ena24ssd.formats.SOURCES`; left out, it is told by the files. ``root``, the folder with the pictures, where it is
    not found near the source. ``check_files=False`` does without pictures, where the labels hold their sizes (not
    YOLO). ``pictures`` puts a copy of each picture, or a symbolic link, where the target's tools expect it.
    ``overwrite`` replaces files that exist; others that lie there stay.

    ``missing_is_blank`` (VOC, YOLO): a picture without a label file shows no animal, else it is left out.
    ``threshold`` (MegaDetector): the lowest score that makes a label, see `ena24ssd.formats.megadetector`.
    ``names`` (YOLO): the file with the class names. ``origin`` (VOC): 0 or 1, see `ena24ssd.formats.voc`.
    ``whole_pixels`` (to VOC): round the edges. ``sides`` (to YOLO): image ids of train, validation and test.

    Nothing is written when an error is raised before the first file; each file appears whole or not at all.

    Raises ValueError for choices that do not go together, a source that cannot be told or read as a whole
    (AnnotationError for a COCO json), or one that leaves no picture; FileExistsError, FileNotFoundError.
    """
    source, target = Path(source), Path(target)
    root = None if root is None else Path(root)
    for folder in (source, root):
        if folder is not None and not folder.exists():
            raise FileNotFoundError(f"{folder}: no such file or folder; name the labels to convert, and their pictures")
    from_ = from_ or detect(source)
    given = {"threshold": threshold is not None, "names": names is not None, "missing_is_blank": missing_is_blank}
    given |= {"origin": origin != 0, "whole_pixels": whole_pixels, "sides": sides is not None}
    _check(from_, to, target, given, check_files, pictures, origin)
    reading = _read(source, from_, root, check_files, missing_is_blank, threshold, names, origin, progress)
    if not reading.dataset.images:
        raise ValueError(_nothing_left(source, from_, reading.conflicts))
    if all(name.strip().lower() in cameratraps.EMPTY_NAMES for name in reading.dataset.class_names):
        raise ValueError(
            f"{source}: none of its {len(reading.dataset.images)} pictures names a species; a dataset needs one at "
            "least. Convert blank pictures together with labelled ones"
        )
    writing = _write(reading.dataset, to, target, origin, whole_pixels, sides)
    if not writing.dataset.images:
        raise ValueError(_nothing_left(source, to, writing.conflicts))

    folder = target.parent if to in ("camera-traps", "coco") else target
    jobs = {folder / name: render for name, render in writing.files.items()}
    places = {reading.dataset.root / name: folder / place for name, place in writing.pictures.items()}
    copies = {where: to_ for where, to_ in places.items() if not _is_same(where, to_)} if pictures else {}
    missing = [where for where in copies if not where.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{missing[0]}: no such picture, nor are {len(missing) - 1} others of {len(copies)} to {pictures}; nothing "
            "was written. Name the folder with the pictures as root (--pictures), or leave them where they are"
        )
    if not overwrite:
        _refuse_existing([*jobs, *copies.values()])
    for path, render in progress(jobs.items()) if progress else jobs.items():
        replace_file(path, render())
    for original, copy in progress(copies.items()) if progress and copies else copies.items():
        _put(original, copy, pictures)
    conflicts = reading.conflicts + writing.conflicts
    if to == "yolo" and not pictures and not all(map(_is_same, places, places.values())):
        detail = f"the pictures are in {reading.dataset.root}, the labels for those in {folder / 'images'}"
        conflicts += (Conflict("data.yaml", "pictures-elsewhere", detail),)
    return _summary(from_, to, reading, writing, conflicts, (tuple(jobs), tuple(copies.values())))


def detect(source: Path) -> str:
    """The format of a file or folder, one of `ena24ssd.formats.SOURCES`.

    Raises ValueError where it could be none of them, or several.
    """
    ways = f"say which with from_ (--from): {', '.join(SOURCES)}"
    if source.is_file():
        if source.suffix.lower() in (".yaml", ".yml"):
            return "yolo"
        if source.suffix.lower() != ".json":
            raise ValueError(f"{source}: labels are a folder of xml or txt files, a data.yaml, or a json file; {ways}")
        try:
            document = read_json(source)
        except JsonError as error:
            raise ValueError(f"{source}: {error}. Or name another file") from error
        if megadetector.is_batch_output(document):
            return "megadetector"
        annotations = document.get("annotations") if isinstance(document, dict) else None
        first = annotations[0] if isinstance(annotations, list) and annotations else None
        plain = isinstance(first, dict) and ("iscrowd" in first or "segmentation" in first)
        return "coco" if plain else "camera-traps"
    names = [Path(name) for name in files_below(source)]
    found = set()
    if any(name.suffix.lower() == ".xml" for name in names):
        found.add("voc")
    lists = {*yolo.YAML_NAMES, *yolo.TEXT_NAMES}
    texts = [name for name in names if name.suffix.lower() == ".txt" and name.name.lower() not in yolo.NO_LABELS]
    if texts and any(name.name.lower() in lists or name.parent.name.lower() == "labels" for name in names):
        found.add("yolo")
    if len(found) == 1:
        return found.pop()
    seen = " and ".join(sorted(found)) if found else "neither xml nor YOLO's txt with a list of names"
    raise ValueError(f"{source}: holds {seen}; {ways}. A json is named itself, not its folder")


def _check(
    from_: str, to: str, target: Path, given: Mapping[str, bool], check_files: bool, pictures: str | None, origin: int
) -> None:
    """Refuse what does not go together, before anything is read."""
    if from_ not in SOURCES or to not in TARGETS:
        raise ValueError(
            f"from {from_!r} to {to!r}: can be read {', '.join(SOURCES)}; can be written {', '.join(TARGETS)}"
        )
    formats = {"from": {from_}, "to": {to}, "from or to": {from_, to}}
    for option, (wanted, side) in OPTIONS.items():
        if given[option] and formats[side].isdisjoint(wanted.split()):
            raise ValueError(
                f"{option} ({FLAGS[option]}) is for converting {side} {wanted.replace(' ', ' and ')}, not from "
                f"{from_} to {to}: leave it out"
            )
    if origin not in (0, 1):
        raise ValueError(f"origin {origin}: the first pixel has the number 0 (LabelImg) or 1 (VOC challenge)")
    if pictures not in (None, "copy", "link"):
        raise ValueError(f"pictures {pictures!r}: 'copy' or 'link', or left out to leave them where they are")
    if not check_files and (from_ == "yolo" or pictures):
        why = (
            "YOLO's boxes are relative to the picture's size" if from_ == "yolo" else f"there is nothing to {pictures}"
        )
        raise ValueError(
            f"check_files=False (--no-pictures): {why}; name the folder with the pictures as root (--pictures)"
        )
    if (to in ("camera-traps", "coco")) != (target.suffix.lower() == ".json"):
        kind = "one json file, named *.json" if to in ("camera-traps", "coco") else "a folder"
        raise ValueError(f"{target}: {to} is written as {kind}; name that")
    if to in ("voc", "yolo") and target.exists() and not target.is_dir():
        raise ValueError(f"{target}: {to} is written as a folder, and this is a file; name another")


def _read(
    source: Path,
    from_: str,
    root: Path | None,
    check_files: bool,
    missing_is_blank: bool,
    threshold: float | None,
    names: str | os.PathLike[str] | None,
    origin: int,
    progress: Progress | None,
) -> Reading:
    if from_ == "voc":
        return voc.read(
            source,
            root=root,
            check_files=check_files,
            missing_is_blank=missing_is_blank,
            origin=origin,
            progress=progress,
        )
    if from_ == "yolo":
        if source.is_file():
            names, source = names or source, source.parent
        listed = None if names is None else Path(names)
        return yolo.read(source, root=root, names=listed, missing_is_blank=missing_is_blank, progress=progress)
    if from_ == "megadetector":
        if threshold is None:
            found = megadetector.scores(megadetector.parse(source))
            have = f"{min(found):g} to {max(found):g}" if found else "none"
            raise ValueError(
                f"{source.name}: needs a threshold, the lowest score that makes a label (its scores: {have}); "
                "0 if reviewers deleted what was wrong, 1 if they set what is right to 1"
            )
        return megadetector.read(source, threshold, root=root, progress=progress)
    return coco.read(source, root=root, check_files=check_files)


def _write(
    dataset: CameraTrapDataset,
    to: str,
    target: Path,
    origin: int,
    whole_pixels: bool,
    sides: Mapping[str, Collection[str]] | None,
) -> Writing:
    if to == "voc":
        return voc.write(dataset, origin=origin, whole_pixels=whole_pixels)
    if to == "yolo":
        return yolo.write(dataset, sides=sides)
    return (coco.write_camera_traps if to == "camera-traps" else coco.write_coco)(dataset, target.name)


def _summary(
    from_: str,
    to: str,
    reading: Reading,
    writing: Writing,
    conflicts: tuple[Conflict, ...],
    paths: tuple[tuple[Path, ...], tuple[Path, ...]],
) -> Conversion:
    dataset = writing.dataset
    counts = Counter(label for image in dataset.images for label, _ in image.boxes)
    losses = Counter(reading.losses) + Counter(writing.losses)
    return Conversion(
        source=from_,
        target=to,
        pictures=len(dataset.images),
        boxes=counts.total(),
        blank=dataset.blanks,
        classes={name: counts[label] for label, name in enumerate(dataset.class_names)},
        problems=conflicts,
        losses=dict(losses),
        largest_move=writing.largest_move,
        written=paths[0],
        copies=paths[1],
        root=dataset.root,
    )


def _nothing_left(source: Path, format_: str, conflicts: tuple[Conflict, ...]) -> str:
    counts = Counter(conflict.rule for conflict in conflicts)
    why = ", ".join(f"{rule} {count}" for rule, count in counts.items()) or "there are none"
    first = next((conflict for conflict in conflicts if conflict.rule in RULES), None)
    told = f"; the first: {first.file}: {first.detail}. {RULES[first.rule]}" if first else ""
    return f"{source}: leaves no picture to convert as {format_} ({why}){told}"


def _refuse_existing(paths: list[Path]) -> None:
    existing = [path for path in paths if os.path.lexists(path)]
    if existing:
        raise FileExistsError(
            f"{existing[0]}: exists, as do {len(existing) - 1} others of the {len(paths)} files to write; nothing was "
            "written. Choose another target, or overwrite them with overwrite=True (--overwrite)"
        )


def _is_same(first: Path, second: Path) -> bool:
    try:
        return os.path.samefile(first, second)
    except OSError:
        return False


def _put(original: Path, copy: Path, how: str | None) -> None:
    """A copy of a picture, or a link to it, whole or not at all."""
    if how == "copy":
        with original.open("rb") as reader, replacing(copy) as writer:
            shutil.copyfileobj(reader, writer)
        return
    copy.parent.mkdir(parents=True, exist_ok=True)
    unfinished = copy.with_name(f".{copy.name}.{secrets.token_hex(4)}.part")
    try:
        os.symlink(original.resolve(), unfinished)
        os.replace(unfinished, copy)
    finally:
        unfinished.unlink(missing_ok=True)
