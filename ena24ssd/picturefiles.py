"""Is a picture on disk, and under which spelling of its name?

Names are compared as the disk has them: letter by letter, capitals counting, also where the disk itself would not care.
One exception: a letter with an accent is written as one code point or as two (Unicode's NFC and NFD; Apple's disks
prefer the second), and a person cannot see which.
"""

from __future__ import annotations

import os
import posixpath
from pathlib import Path
from unicodedata import normalize


class PictureFolder:
    """The files below a folder, by names relative to it with forward slashes. Each folder is listed once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._files: dict[str, frozenset[str] | OSError] = {}
        self._names: dict[str, dict[str, list[str]]] = {}

    def find(self, name: str) -> str | None:
        """The name of a file as the disk spells it: the one asked for, or one whose accents are written another way."""
        if self._holds(name):
            return name
        if name.isascii():
            return None
        other = self.nearest(name)
        return other if other is not None and normal(other) == normal(name) else None

    def nearest(self, name: str) -> str | None:
        """The file with this name but for capitals and accents, or None. (Of several, the one that differs least.)"""
        found = ""
        for part in name.split("/"):
            if found not in self._names:
                self._names[found] = _names_in(self.root / found)
            alike = self._names[found].get(normal(part).casefold())
            if not alike:
                return None
            least = min(alike, key=lambda other: (other != part, normal(other) != normal(part), other))
            found = posixpath.join(found, least)
        return found if self._holds(found) else None

    def why_not(self, name: str) -> str:
        """Why there is no such file: ``not in pictures/cam1``, ``there as 'IMG_1.JPG'; capitals count`` or the like."""
        folder = name.rpartition("/")[0]
        error = self._files.get(folder)
        if isinstance(error, OSError) and not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            return f"out of reach ({error})"
        if os.path.lexists(self.root / name):
            return f"in {self.root / folder}, but no file"
        other = self.nearest(name)
        return f"not in {self.root / folder}" if other is None else f"there as {other!r}; capitals count"

    def _holds(self, name: str) -> bool:
        folder, _, file_name = name.rpartition("/")
        files = self._files.get(folder)
        if files is None:
            files = self._files[folder] = _files_in(self.root / folder)
        return not isinstance(files, OSError) and file_name in files


def normal(name: str) -> str:
    """A name with every accent written in one way (Unicode NFC): two names are one to a person if these are equal."""
    return name if name.isascii() else normalize("NFC", name)


def _files_in(folder: Path) -> frozenset[str] | OSError:
    """The names of the files in a folder, or why it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            # DirEntry.is_file raises on a circular link, os.path.isfile does not
            return frozenset(e.name for e in entries if (os.path.isfile(e.path) if e.is_symlink() else e.is_file()))
    except OSError as error:
        return error


def _names_in(folder: Path) -> dict[str, list[str]]:
    """The names of the files and folders in a folder, by what they are without capitals; none if it is out of reach."""
    names: dict[str, list[str]] = {}
    try:
        for name in os.listdir(folder):
            names.setdefault(normal(name).casefold(), []).append(name)
    except OSError:
        return {}
    return names
