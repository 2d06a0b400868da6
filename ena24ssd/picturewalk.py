"""Which pictures are in these folders?

Memory cards are copied folder upon folder: names in capitals, videos among the pictures, links that lead in circles. A
`PictureWalk` gives every picture once, in the same order each time, and remembers what it left out. It holds one folder
at a time, however many there are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ena24ssd.pictures import EXTENSIONS

MARK = ".ena24ssd"  # the name of an empty file in folders that this package fills with pictures made of pictures

Place = tuple[int, int]  # device and number of a folder on it: what a path and a link to it have in common

VIDEOS = frozenset(
    {".mp4", ".m4v", ".avi", ".mov", ".mkv", ".mpg", ".mpeg", ".wmv", ".mts", ".m2ts", ".3gp", ".flv", ".webm", ".asf"}
)


@dataclass
class LeftOut:
    """What a walk passed by."""

    videos: int = 0
    first_video: Path | None = None
    folders: list[tuple[Path, str]] = field(default_factory=list)  # that could not be looked into, and why
    others: int = 0  # files that are neither pictures nor videos


class PictureWalk:
    """The pictures among files and, recursively, in folders, as absolute paths; iterate as often as you like.

    Folders give what has a picture's extension, in any case, sorted by name, and folders among them at their place.
    Hidden files (``.name``, which Apple's systems leave beside every picture) are no pictures. Links are followed, but
    not into a folder that is searched without them, or by way of another: a few folders with links to one another would
    have millions of ways through them. A file named outright is given whatever its extension. What is named twice,
    itself or with its folder, is given once. ``leave_out``: folders not to look into; one that was filled by an earlier
    prediction (`mark`) is left out too, unless it is named itself.

    Raises FileNotFoundError for a path that does not exist.
    """

    def __init__(self, paths: Sequence[Path | str], leave_out: Sequence[Path | str] = ()):
        self._roots = _without_repetition([Path(os.path.abspath(path)) for path in paths])
        self._leave_out = {os.path.realpath(folder) for folder in leave_out}
        self.left_out = LeftOut()
        self._searched: set[str] = set()  # folders, by their paths without links, in which all is found anyway

    def __iter__(self) -> Iterator[Path]:
        self.left_out = LeftOut()
        self._searched = {os.path.realpath(root) for root in self._roots if root.is_dir()}
        for root in self._roots:
            if root.is_dir():
                yield from self._walk(root)
            else:
                yield root

    def count(self) -> int:
        """How many there are now."""
        return sum(1 for _ in self)

    def _walk(self, root: Path) -> Iterator[Path]:
        under_way = [self._look_into(root, os.path.realpath(root), frozenset())]
        while under_way:
            folder, real, places, entries = under_way[-1]
            for name, is_folder, is_link in entries:
                path = folder / name
                if is_folder:
                    inside = os.path.realpath(path) if is_link else os.path.join(real, name)
                    if is_link and not self._is_new(path, inside):
                        continue
                    under_way.append(self._look_into(path, inside, places))
                    break
                if self._is_picture(path):
                    yield path
            else:
                under_way.pop()

    def _is_new(self, link: Path, real: str) -> bool:
        """Whether nothing else leads to the folder that a link leads to."""
        if self._searched.isdisjoint(map(str, (real, *Path(real).parents))):
            self._searched.add(real)
            return True
        self.left_out.folders.append((link, "a link to a folder that is searched anyway"))
        return False

    def _look_into(
        self, folder: Path, real: str, above: frozenset[Place]
    ) -> tuple[Path, str, frozenset[Place], Iterator[tuple[str, bool, bool]]]:
        """A folder, which lies in those ``above``: its path, its path without links, where it and those above are on
        disk, and the names in it, of which some are folders and some links.
        """
        names: list[tuple[str, bool, bool]] = []
        place = None
        try:
            status = os.stat(folder)
            place = status.st_dev, status.st_ino
            if place in above:
                self.left_out.folders.append((folder, "a link back to a folder that it lies in"))
            elif real not in self._leave_out:  # it may have been made since the walk began
                with os.scandir(folder) as entries:
                    names = sorted((entry.name, _is_folder(entry), entry.is_symlink()) for entry in entries)
                if above and any(name == MARK for name, *_ in names):
                    names = []
                    self.left_out.folders.append((folder, "made by ena24ssd of pictures that lie elsewhere"))
        except OSError as error:
            self.left_out.folders.append((folder, error.strerror or str(error)))
        return folder, real, above | {place}, iter(names)

    def _is_picture(self, file: Path) -> bool:
        extension = file.suffix.lower()
        if extension in EXTENSIONS and not file.name.startswith("."):
            return True
        if extension in VIDEOS:
            self.left_out.videos += 1
            self.left_out.first_video = self.left_out.first_video or file
        else:
            self.left_out.others += 1
        return False


def mark(folder: Path) -> None:
    """Make a folder for pictures made of pictures, known as such by its mark."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).touch()


def common_folder(paths: Sequence[Path | str]) -> Path:
    """The deepest folder that holds all of the pictures and folders. Raises ValueError where they share no drive."""
    folders = [path if os.path.isdir(path) else os.path.dirname(path) for path in map(os.path.abspath, paths)]
    try:
        return Path(os.path.commonpath(folders))
    except ValueError as error:
        raise ValueError(f"{' and '.join(map(str, paths))}: no folder holds all of them; predict them apart") from error


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _without_repetition(paths: Sequence[Path]) -> list[Path]:
    """The paths without those that another one gives too."""
    folders = {path for path in paths if path.is_dir()}
    kept: dict[Path, None] = {}
    for path in paths:
        if not path.exists() and not path.is_symlink():
            raise FileNotFoundError(f"{path}: no such picture or folder")
        is_found = path in folders or (path.suffix.lower() in EXTENSIONS and not path.name.startswith("."))
        if not (is_found and any(folder in path.parents for folder in folders)):
            kept[path] = None
    return list(kept)
