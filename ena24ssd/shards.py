"""Which part of a long work is whose, and which part is done?

The pictures are listed once, and cut by their place in the list into shards. Each has a journal of its own, written
whole or not at all, beside the results.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from ena24ssd.detections import ImageDetections
from ena24ssd.files import replacing
from ena24ssd.journal import FORMAT, Journal, JournalError, read_header, read_journal
from ena24ssd.objectstore import StoreWalk
from ena24ssd.picturewalk import LeftOut, PictureWalk
from ena24ssd.stopping import Request, StoppedError

PLAN = "ena24ssd shards 1"


class Unit(NamedTuple):
    """What a worker does at a time: a shard, or some of its pictures."""

    shard: int
    start: int  # which picture of the shard is its first
    count: int
    names: bytes  # packed

    def cut(self, size: int | None) -> Iterator[Unit]:
        """The same in pieces of so many pictures."""
        if size is None:
            yield self
            return
        names = unpack(self.names)
        for start in range(0, len(names), size):
            piece = names[start : start + size]
            yield Unit(self.shard, self.start + start, len(piece), _pack(piece))

    @property
    def key(self) -> tuple[int, int]:
        return self.shard, self.start


@dataclass(frozen=True)
class Plan:
    """What is asked, of which pictures; it is written once, and stays as it is."""

    folder: Path
    header: Mapping[str, Any]
    shards: Sequence[Unit]
    pictures: int
    left_out: LeftOut

    def file(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:06}.journal"

    def shard_header(self, shard: int, names: Sequence[str]) -> dict[str, Any]:
        asked_for = {word: value for word, value in self.header.items() if word != "merge"}
        return {"shard": shard, "asked": _digest(asked_for), "names": _digest(names)}

    def is_done(self, shard: int) -> bool:
        """Whether the shard's journal is there and whole. Raises JournalError for one of other work."""
        path, names = self.file(shard), unpack(self.shards[shard].names)
        if not path.exists():
            return False
        try:
            known = read_header(path)
        except JournalError:  # damaged from the beginning
            return False
        wanted = {"journal": FORMAT, **self.shard_header(shard, names)}
        if known != wanted:
            odd = ", ".join(word for word in wanted.keys() | known.keys() if wanted.get(word) != known.get(word))
            raise JournalError(f"{path}: is a shard of other work (see {odd} in its first line); delete or move it")
        return [image.file for image in read_journal(path)] == names

    def write(self, shard: int, portions: Iterable[Sequence[ImageDetections]]) -> None:
        """The shard's journal, whole or not at all."""
        path = self.file(shard)
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".unfinished-") as folder:
            unfinished = Path(folder) / path.name
            with Journal.start(unfinished, self.shard_header(shard, unpack(self.shards[shard].names))) as journal:
                for portion in portions:
                    journal.add(portion)
                journal.sync()
            os.replace(unfinished, path)

    def read(self, shards: Iterable[int], asked: Request | None = None) -> Iterator[ImageDetections]:
        """What was found in these shards. Raises StoppedError once an end is ``asked`` for."""
        for shard in shards:
            if asked:
                raise self.stopped(asked, "while the results were written")
            yield from read_journal(self.file(shard))

    def stopped(self, asked: Request, when: str) -> StoppedError:
        return StoppedError(
            f"stopped {when}; finished shards are in {self.folder}, and the same command with --resume goes on",
            asked.signal_number,
        )


def make_plan(folder: Path, header: Mapping[str, Any], walk: PictureWalk | StoreWalk, size: int) -> Plan:
    """List the pictures, for good."""
    with replacing(folder / "plan.gz") as file, gzip.GzipFile(fileobj=file, mode="wb", filename="", mtime=0) as packed:
        packed.write(_to_line({"plan": PLAN, **header}))
        names, pictures = map(str, walk), 0
        while shard := list(islice(names, size)):
            packed.write(_to_line(shard))
            pictures += len(shard)
        passed = walk.left_out
        first = passed.first_video and str(passed.first_video)
        folders = [[str(path), why] for path, why in passed.folders]
        packed.write(_to_line({"pictures": pictures, "left_out": [passed.videos, first, folders, passed.others]}))
    return open_plan(folder)


def open_plan(folder: Path, asked_for: Mapping[str, Any] | None = None) -> Plan:
    """The plan of these shards. Raises JournalError where it is damaged, or something else is ``asked_for``: what."""
    path = folder / "plan.gz"
    shards: list[Unit] = []
    try:
        with gzip.open(path, "rb") as lines:
            header = json.loads(next(lines))
            if header["plan"] != PLAN:
                raise JournalError(f"{path}: was written by another ena24ssd; use that one, or delete {folder}")
            for line in lines:
                names = json.loads(line)
                if isinstance(names, dict):
                    closing = names
                else:
                    shards.append(Unit(len(shards), 0, len(names), _pack(names)))
        videos, first, folders, others = closing["left_out"]
        left_out = LeftOut(videos, first and Path(first), [(Path(path), why) for path, why in folders], others)
    except JournalError:
        raise
    except (OSError, EOFError, ValueError, zlib.error, StopIteration, KeyError, TypeError, UnboundLocalError) as fault:
        raise JournalError(f"{path}: is damaged ({fault}); delete {folder} to begin anew") from fault
    for word, value in json.loads(json.dumps(asked_for or {})).items():
        known = header.get(word)
        if word == "reading":  # pictures at once, where nobody says how many, are those of then
            known, value = (each | {"batch": each["batch"] or header["batch"]} for each in (known, value))
        if known != value:
            raise JournalError(
                f"{folder}: was begun with {word} {known!r}, not {value!r}; go on with what it was begun with, or "
                "delete it to begin anew"
            )
    return Plan(folder, header, shards, closing["pictures"], left_out)


def not_done(plan: Plan) -> list[int]:
    return [unit.shard for unit in plan.shards if not plan.is_done(unit.shard)]


def folder_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.shards")


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Nobody else may hand out these shards meanwhile. Raises JournalError where somebody does."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise JournalError(f"{folder}: another process is at these shards; wait for it, or end it") from None
    try:
        yield
    finally:
        lock.release()
        if not folder.exists():
            Path(lock.lock_file).unlink(missing_ok=True)


def _to_line(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode("ascii") + b"\n"


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode("ascii")).hexdigest()


def _pack(names: Sequence[str]) -> bytes:
    return zlib.compress(json.dumps(names).encode("ascii"))


def unpack(names: bytes) -> list[str]:
    return json.loads(zlib.decompress(names))
