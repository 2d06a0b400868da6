"""Which picture is meant by a name?

The same picture is ``/media/card/site7/a.jpg`` on disk, ``site7/a.jpg`` in a results file and ``2024/site7/a.jpg`` in
somebody's annotations, as every tool starts names at another folder. What they have in common is the end.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath


def relative_name(file: str, root: str | os.PathLike[str]) -> str:
    """A file as result files name it: relative to ``root`` with forward slashes; one that lies elsewhere, as it is."""
    path = Path(file)
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


class PictureNames:
    """The names by which some pictures are known, relative and with forward slashes."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        self._by_ending: dict[str, str | None] | None = None  # None: of several

    def find(self, name: str) -> str | None:
        """The known name of the picture that is called ``name`` elsewhere.

        That is the very name, else the one that shares the longest end (of whole folders) with it; None where no name
        or more than one does.
        """
        name = name.replace("\\", "/")
        if name in self._names:
            return name
        if self._by_ending is None:
            self._by_ending = {}
            for known in self._names:
                for ending in _endings(known):
                    self._by_ending[ending] = None if ending in self._by_ending else known
        return next((self._by_ending[ending] for ending in _endings(name) if ending in self._by_ending), None)


def _endings(name: str) -> list[str]:
    """``a/b/c.jpg``, ``b/c.jpg``, ``c.jpg``."""
    parts = PurePosixPath(name).parts
    return ["/".join(parts[start:]) for start in range(len(parts))]
