"""What was found so far, should the power fail now?

A journal is a file that only grows: a header that says what the work is, then a line for every portion of pictures that
is done. Each line carries its checksum, so that one which a crash cut short, or a bad sector changed, is known for what
it is: reading stops before it, and whoever goes on does that portion again.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ena24ssd.boxes import Box
from ena24ssd.detections import Detection, ImageDetections
from ena24ssd.files import naming, replace_file

FORMAT = "ena24ssd journal 1"


class JournalError(ValueError):
    """A journal that cannot be gone on with; the message says which, why, and the way out."""


class Journal:
    """Where portions are noted down as they are done. `start` makes one, `resume` goes on with one."""

    def __init__(self, path: Path, lock: FileLock, done: set[str]):
        self.path = path
        self.done = done  # names of the files that are noted down
        self._lock = lock
        self._file = path.open("ab")

    @classmethod
    def start(cls, path: Path, header: Mapping[str, Any]) -> Journal:
        """A new journal. Raises JournalError where there is one already."""
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _hold(path)
        try:
            if os.path.lexists(path):
                raise JournalError(f"{path}: there is a journal already; go on with it by --resume, or delete it")
            replace_file(path, _to_line({"journal": FORMAT, **header}))
            return cls(path, lock, set())
        except BaseException:
            lock.release()
            raise

    @classmethod
    def resume(cls, path: Path, header: Mapping[str, Any], free: Sequence[str] = ()) -> Journal:
        """The journal that was begun with this header, without a last line that is not whole.

        Raises JournalError where there is none, and where the header says otherwise: which word of it, and how. The
        words in ``free`` may differ.
        """
        if not path.exists():
            raise JournalError(f"{path}: there is no journal to go on with; begin anew")
        lock = _hold(path)
        try:
            lines = _read_lines(path)
            known, end = next(lines)
            wanted = json.loads(json.dumps({"journal": FORMAT, **header}))
            _require_same(path, known, wanted | {word: known[word] for word in free if word in known})
            done: set[str] = set()
            for portion, end in lines:  # noqa: B007  (where the last whole line ends)
                done.update(entry[0] for entry in portion)
            if end < path.stat().st_size:
                os.truncate(path, end)
            return cls(path, lock, done)
        except BaseException:
            lock.release()
            raise

    def add(self, portion: Sequence[ImageDetections]) -> None:
        """Note down a portion. After this it outlives the process; after `sync`, a power cut too."""
        with naming(self.path):
            self._file.write(_to_line([_to_entry(image) for image in portion]))
            self._file.flush()

    def sync(self) -> None:
        """Bring what was added to the disk."""
        with naming(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Leave the journal, for others or for later."""
        try:
            with naming(self.path):
                self._file.close()
        finally:
            self._lock.release()

    def remove(self) -> None:
        """All of it is written elsewhere."""
        self._file.close()
        self.path.unlink()
        self._lock.release()
        Path(self._lock.lock_file).unlink(missing_ok=True)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_journal(path: Path) -> Iterator[ImageDetections]:
    """The pictures of a journal, in the order they were done. Raises JournalError where it is none."""
    lines = _read_lines(path)
    next(lines)
    for portion, _ in lines:
        for entry in portion:
            yield _from_entry(entry)


def read_header(path: Path) -> dict[str, Any]:
    """What the work is that a journal is about. Raises JournalError where it is none."""
    return next(_read_lines(path))[0]


def _hold(path: Path) -> FileLock:
    """Nobody else may write to the journal meanwhile. Raises JournalError where somebody does."""
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise JournalError(f"{path}: another process is at this work; wait for it, or end it") from None
    except NotImplementedError:  # a disk over the network, or in memory
        raise JournalError(f"{path}: the disk it is on knows no locks; name one that does with --out") from None
    return lock


def _require_same(path: Path, known: Mapping[str, Any], wanted: Mapping[str, Any], of: str = "") -> None:
    """Raise JournalError where the work is not the one that was begun: which word of it, and how."""
    for word in sorted(known.keys() | wanted.keys()):
        begun, now = known.get(word), wanted.get(word)
        if isinstance(begun, dict) and isinstance(now, dict):
            _require_same(path, begun, now, f"{of}{word} ")
        elif begun != now:
            raise JournalError(
                f"{path}: was begun with {of}{word} {_shown(begun)}, not {_shown(now)}; go on with what it was begun "
                "with, or delete it to begin anew"
            )


def _to_line(content: Any) -> bytes:
    written = json.dumps(content, separators=(",", ":"), allow_nan=False).encode("ascii")
    return b"%08x %b\n" % (zlib.crc32(written), written)


def _read_lines(path: Path) -> Iterator[tuple[Any, int]]:
    """The content of every whole line and where it ends in the file; the header is the first."""
    with path.open("rb") as file:
        first = True
        for line in file:
            checksum, _, written = line.rstrip(b"\n").partition(b" ")
            if not line.endswith(b"\n") or not written or checksum != b"%08x" % zlib.crc32(written):
                break
            content = json.loads(written)
            if first and (not isinstance(content, dict) or content.get("journal") != FORMAT):
                break
            first = False
            yield content, file.tell()
    if first:
        raise JournalError(f"{path}: no journal of this package, or its beginning is damaged; delete it to begin anew")


def _to_entry(image: ImageDetections) -> list[Any]:
    taken_at = image.taken_at and image.taken_at.isoformat()
    found = [[each.label, each.name, each.score, *each.box] for each in image.detections]
    return [image.file, image.width, image.height, taken_at, image.failure, found]


def _from_entry(entry: Sequence[Any]) -> ImageDetections:
    file, width, height, taken_at, failure, found = entry
    detections = tuple(Detection(label, name, score, Box(*corners)) for label, name, score, *corners in found)
    return ImageDetections(file, width, height, detections, failure, taken_at and datetime.fromisoformat(taken_at))


def _shown(value: Any) -> str:
    return "nothing" if value is None else repr(value)
