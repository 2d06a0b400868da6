"""Which pictures are in this bucket?

Millions of pictures rather lie in an object store than on a disk. A `StoreWalk` gives them as a `PictureWalk` gives
files: once, in the same order, videos left out. Addresses are those that PyArrow knows: ``s3://``, ``gs://``,
``abfs://``, ``hdfs://`` and ``file://``; who may read, and where the store is, says the machine's own environment
(AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL and their like).
"""

from __future__ import annotations

import io
import os
import posixpath
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import quote

from ena24ssd.pictures import EXTENSIONS, PictureError
from ena24ssd.picturewalk import VIDEOS, LeftOut

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem

WHOLE = 2**28  # bytes up to which a file is fetched in one go; a larger one is read where the decoder asks
TRIES = 3  # networks have moods
PAUSE = 1.0  # seconds before the second try, and twice as long before the third


class StoreError(ValueError):
    """An address that cannot be read from; the message says which, why, and the way out."""


def is_address(path: Path | str) -> bool:
    """Whether this names something in a store, and nothing on this machine's disks."""
    return isinstance(path, str) and re.match(r"[a-z][a-z0-9+.-]+://", path) is not None


class Store:
    """A store, as it is reached from any machine. It travels to other processes.

    Files in it have names that start like the addresses, ``s3://bucket/site 7/a.jpg``, without any %20 in them.
    """

    def __init__(self, addresses: Sequence[str]):
        """The store of all these addresses. Raises StoreError where they are of several, or of none that is known."""
        found = [_locate(address) for address in addresses]
        self.files: FileSystem = found[0][0]
        self.paths = [path.rstrip("/") or "/" for _, path in found]
        self._scheme = addresses[0].partition("://")[0] + "://"
        for address, (files, _) in zip(addresses, found):
            if not files.equals(self.files):
                raise StoreError(f"{address} and {addresses[0]} are in two stores; predict them apart")

    def name(self, path: str) -> str:
        """What a path in the store is called elsewhere."""
        return self._scheme + path

    def open(self, name: str) -> BinaryIO:
        """A file of the store, for `ena24ssd.pictures.read_picture`. Raises PictureError."""
        for tried in range(1, TRIES + 1):
            try:
                file = self.files.open_input_file(name.removeprefix(self._scheme))
                return io.BytesIO(file.read()) if file.size() <= WHOLE else file
            except FileNotFoundError:
                raise PictureError("no such file") from None
            except OSError as fault:
                if tried == TRIES:
                    raise PictureError(f"cannot be fetched ({_first_line(fault)})") from fault
                time.sleep(PAUSE * tried)
        raise AssertionError("every try returns or raises")


class StoreWalk:
    """The pictures at some addresses, and below them, by name; iterate as often as you like.

    The order and the rules are those of `ena24ssd.picturewalk.PictureWalk`; it holds one folder at a time.
    Raises FileNotFoundError for an address at which there is nothing, StoreError for a store that does not answer.
    """

    def __init__(self, store: Store):
        self.store = store
        self.left_out = LeftOut()
        from pyarrow.fs import FileType

        self._kinds = FileType
        with _asking(store):
            entries = store.files.get_file_info(store.paths)
        for entry in entries:
            if entry.type == FileType.NotFound:
                raise FileNotFoundError(f"{store.name(entry.path)}: no such picture or folder")
        folders = {entry.path for entry in entries if entry.type == FileType.Directory}
        self._roots = [
            entry
            for entry in {entry.path: entry for entry in entries}.values()
            if not any(above in folders for above in _above(entry.path))
        ]
        holders = [path if path in folders else posixpath.dirname(path) for path in store.paths]
        self.root = Path(store.name(posixpath.commonpath(holders)))  # where names in the results start

    def __iter__(self) -> Iterator[str]:
        self.left_out = LeftOut()
        for root in self._roots:
            if root.type == self._kinds.Directory:
                yield from self._walk(root.path)
            else:
                yield self.store.name(root.path)

    def _walk(self, root: str) -> Iterator[str]:
        under_way = [self._look_into(root)]
        while under_way:
            for entry in under_way[-1]:
                if entry.type == self._kinds.Directory:
                    under_way.append(self._look_into(entry.path))
                    break
                if self._is_picture(entry.base_name, entry.path):
                    yield self.store.name(entry.path)
            else:
                under_way.pop()

    def _look_into(self, folder: str) -> Iterator[FileInfo]:
        from pyarrow.fs import FileSelector

        with _asking(self.store):
            entries = self.store.files.get_file_info(FileSelector(folder, allow_not_found=True))
        return iter(sorted(entries, key=lambda entry: entry.base_name))

    def _is_picture(self, name: str, path: str) -> bool:
        extension = os.path.splitext(name)[1].lower()
        if extension in EXTENSIONS and not name.startswith("."):
            return True
        if extension in VIDEOS:
            self.left_out.videos += 1
            self.left_out.first_video = self.left_out.first_video or Path(self.store.name(path))
        else:
            self.left_out.others += 1
        return False


@contextmanager
def _asking(store: Store) -> Iterator[None]:
    """Whatever a store answers instead of what it was asked for becomes a StoreError."""
    try:
        yield
    except OSError as fault:
        raise StoreError(
            f"{store.name(store.paths[0])}: cannot be listed ({_first_line(fault)}); check the address, and that this "
            "machine may read there"
        ) from fault


def _locate(address: str) -> tuple[FileSystem, str]:
    from pyarrow.fs import FileSystem

    plain = address if "%" in address else quote(address, safe=":/?&=@,;+$!*'()~[]")
    try:
        return FileSystem.from_uri(plain)
    except (ValueError, OSError) as fault:  # ArrowInvalid is a ValueError
        raise StoreError(
            f"{address}: no store can be reached by that ({_first_line(fault)}); an address looks like "
            "s3://bucket/folder, gs://bucket/folder or file:///folder"
        ) from fault


def _above(path: str) -> Iterator[str]:
    while (path := posixpath.dirname(path)) not in ("", "/"):
        yield path
    yield path


def _first_line(fault: BaseException) -> str:
    return (str(fault).strip().splitlines() or [type(fault).__name__])[0]
