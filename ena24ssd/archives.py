"""How does a zip become files without doing harm?

Three steps that each stand alone: `survey` looks at the table of contents and refuses the whole zip if a single entry
could do harm; `check` reads every picture against its checksum; `unpack` writes the pictures into a staging folder and
renames that once all are there. So the picture folder is whole or absent, and an interrupted `unpack` goes on where it
was. Only pictures are ever written: whatever else lies in the zip stays there.
"""

from __future__ import annotations

import os
import posixpath
import re
import shutil
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Collection, Iterator
from itertools import takewhile
from pathlib import Path

from pydantic import BaseModel, ValidationError
from tqdm import tqdm

from ena24ssd.files import replace_file, replacing
from ena24ssd.pictures import EXTENSIONS

# ENA24 has 8,789 pictures, none above a few MB, 3.6 GB in all; JPEGs hardly shrink in a zip.
MOST_ENTRIES = 100_000
LARGEST_FILE = 64 << 20  # bytes
LARGEST_TOTAL = 16 << 30
HIGHEST_RATIO = 20  # bytes out for each byte in
LONGEST_NAME = 200  # bytes of one part of a path; leaves room for the suffix of a file being written

BLOCK = 1 << 18
MARKER = ".whole.json"  # the last file written into a picture folder
PLAIN_PART = re.compile(r'[^\x00-\x1f\x7f\\/:*?"<>|]*[^\x00-\x1f\x7f\\/:*?"<>|. ]')  # a name on any system
DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))}
UNFINISHED = re.compile(r"\..*\.[0-9a-f]+\.part")  # what `files.replacing` leaves behind when it is killed
# What zipfile raises for damaged files.
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, OverflowError, struct.error)


class ArchiveError(ValueError):
    """A zip that is damaged, or that no honest person would make; the message names zip, rule, entry and way out."""


class Unpacked(BaseModel, frozen=True):
    """What `unpack` wrote into a folder: the zip's name and SHA-256, and the size in bytes of each picture by name."""

    archive: str
    sha256: str
    files: dict[str, int]


def survey(archive: Path) -> list[zipfile.ZipInfo]:
    """The pictures in a zip, from its table of contents alone; nothing is written.

    Raises ArchiveError where the table is damaged, where it lists no picture, or where any entry is unsafe: a path that
    leads out of the folder or means another thing on another system, a link or device, a name used twice (capitals
    aside), encryption, an unknown compression, more than the limits above.
    """
    try:
        with zipfile.ZipFile(archive) as source:
            entries = source.infolist()
    except (*DAMAGE, OSError) as error:
        raise ArchiveError(
            f"{archive}: is no whole zip ({error}); it must end in a readable table of contents. "
            "Delete it and download it again"
        ) from error
    if len(entries) > MOST_ENTRIES:
        raise _refused(archive, f"lists {len(entries):,} entries; {MOST_ENTRIES:,} is the limit")
    total = sum(entry.file_size for entry in entries)
    if total > LARGEST_TOTAL:
        raise _refused(archive, f"unpacks to {total:,} bytes; {LARGEST_TOTAL:,} is the limit")
    files: set[str] = set()
    folders: set[str] = set()
    for entry in entries:
        if fault := _fault(entry):
            raise _refused(archive, f"entry {entry.orig_filename!r} {fault}")
        name = unicodedata.normalize("NFC", entry.filename.rstrip("/")).casefold()
        if not entry.is_dir():
            if name in files:
                raise _refused(archive, f"entry {entry.filename!r} is there twice (capitals aside); names must differ")
            files.add(name)
            name = posixpath.dirname(name)
        while name and name not in folders:
            folders.add(name)
            name = posixpath.dirname(name)
    if both := files & folders:
        raise _refused(archive, f"has {min(both)!r} both as a file and as a folder")
    pictures = [entry for entry in entries if _is_picture(entry)]
    if not pictures:
        raise _refused(archive, f"holds no picture among {len(entries):,} entries")
    return pictures


def check(archive: Path, wanted: Collection[str] = (), *, quiet: bool = False) -> None:
    """Read every picture of a zip against its size and checksum; nothing is written.

    ``wanted``: the names that annotations know the pictures by; one at least must be there.
    Raises ArchiveError where anything is wrong, as `survey` does.
    """
    pictures = _name(archive, survey(archive), wanted)
    with zipfile.ZipFile(archive) as source, _bar("checking", pictures, quiet) as bar:
        for entry in pictures.values():
            for block in _blocks(archive, source, entry):
                bar.update(len(block))


def unpack(
    archive: Path, folder: Path, staging: Path, *, sha256: str, wanted: Collection[str] = (), quiet: bool = False
) -> Unpacked:
    """Write the pictures of a zip into ``folder``, which appears whole or not at all.

    Leading folders shared by all pictures are cut off as far as that makes their names those of ``wanted``; without
    ``wanted``, all are. ``staging`` is a folder on the same disk that keeps what is done when this is interrupted:
    files there with the right size and checksum are not written again. Where ``folder`` was unpacked before, it is
    mended. ``sha256`` is the zip's, for the record.

    Raises ArchiveError as `check` does, and OSError where the disk does not play along.
    """
    pictures = _name(archive, survey(archive), wanted)
    if (folder / MARKER).exists():
        shutil.rmtree(staging, ignore_errors=True)
        os.replace(folder, staging)  # not whole, so not to be seen until it is
    staging.mkdir(parents=True, exist_ok=True)
    todo = [entry.file_size for name, entry in pictures.items() if _size(staging / name) != entry.file_size]
    require_room(staging, sum(-(-size // 4096) * 4096 for size in todo), "unpacking the pictures")  # disks have blocks
    with zipfile.ZipFile(archive) as source, _bar("unpacking", pictures, quiet) as bar:
        for name, entry in pictures.items():
            path = staging / name
            if not _is_done(path, entry):
                with replacing(path) as file:
                    for block in _blocks(archive, source, entry):
                        file.write(block)
            bar.update(entry.file_size)
    for path in [path for path in staging.rglob(".*.part") if UNFINISHED.fullmatch(path.name)]:
        path.unlink()
    sizes = {name: entry.file_size for name, entry in pictures.items()}
    result = Unpacked(archive=archive.name, sha256=sha256, files=sizes)
    replace_file(staging / MARKER, result.model_dump_json())
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()  # Windows renames onto nothing that exists
    os.replace(staging, folder)
    return result


def read_unpacked(folder: Path) -> Unpacked | None:
    """What was unpacked into ``folder``, if every picture of it is still there with its size; else None."""
    try:
        result = Unpacked.model_validate_json((folder / MARKER).read_bytes())
        whole = all(_size(folder / name) == size for name, size in result.files.items())
    except (OSError, ValidationError):
        return None
    return result if whole else None


def require_room(folder: Path, need: int, what: str) -> None:
    """Raises ArchiveError where the disk of ``folder`` has less than ``need`` bytes free, and two in a hundred more."""
    need, free = int(need * 1.02), shutil.disk_usage(folder).free
    if free < need:
        raise ArchiveError(
            f"{folder}: {what} needs {tqdm.format_sizeof(need, 'B')} of disk and {tqdm.format_sizeof(free, 'B')} are "
            "free; all of it must fit before it is begun. Free some space, or name a folder on another disk with --to"
        )


def _refused(archive: Path, fault: str) -> ArchiveError:
    return ArchiveError(
        f"{archive}: {fault}. Nothing of it was unpacked; an archive of camera-trap pictures has no such thing: "
        "delete it and fetch it from a source you trust"
    )


def _fault(entry: zipfile.ZipInfo) -> str | None:
    """Why an entry could do harm, or None."""
    # zipfile cuts names at a NUL, and turns Windows' backslashes into slashes: judge what is really written there.
    parts = entry.orig_filename.removesuffix("/").split("/")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if ".." in parts or parts[0] == "":
        return "leads out of the folder; paths must be relative and go down"
    if not all(PLAIN_PART.fullmatch(part) and part.split(".")[0].rstrip().upper() not in DEVICES for part in parts):
        return "is not a name on every system; drives, backslashes, control characters and the like are refused"
    if max(len(part.encode("utf-8", "surrogatepass")) for part in parts) > LONGEST_NAME:
        return f"has a name of more than {LONGEST_NAME} bytes"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device; only plain files are unpacked"
    if entry.flag_bits & 0x2041:
        return "is encrypted, and this package asks for no password"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"is compressed by method {entry.compress_type}; only stored and deflated entries are read"
    if entry.file_size > LARGEST_FILE:
        return f"unpacks to {entry.file_size:,} bytes; {LARGEST_FILE:,} is the limit for one file"
    if entry.file_size > HIGHEST_RATIO * max(entry.compress_size, 1):
        return f"makes {entry.file_size:,} bytes out of {entry.compress_size:,}; {HIGHEST_RATIO} to 1 is the limit"
    return None


def _is_picture(entry: zipfile.ZipInfo) -> bool:
    """Whether to unpack it: not a folder, a note, or one of the shadows a Mac adds (__MACOSX/._1.jpg)."""
    parts = entry.filename.split("/")
    hidden = parts[0] == "__MACOSX" or any(part.startswith(".") for part in parts)  # nor may any take MARKER's place
    return not entry.is_dir() and not hidden and posixpath.splitext(parts[-1])[1].lower() in EXTENSIONS


def _name(archive: Path, pictures: list[zipfile.ZipInfo], wanted: Collection[str]) -> dict[str, zipfile.ZipInfo]:
    """The pictures by the path each will have below the picture folder."""
    paths = [entry.filename.split("/") for entry in pictures]
    levels = zip(*(path[:-1] for path in paths))  # as deep as the shallowest picture lies
    shared = len(list(takewhile(lambda level: len(set(level)) == 1, levels)))
    choices = [["/".join(path[depth:]) for path in paths] for depth in range(shared, -1, -1)]
    known = set(wanted)
    best = max(choices, key=lambda names: len(known.intersection(names)))
    if known and known.isdisjoint(best):
        raise ArchiveError(
            f"{archive}: none of its {len(pictures):,} pictures (such as {pictures[0].filename!r}) is one of the "
            f"{len(known):,} that the annotations list (such as {min(known)!r}); zip and json must belong together. "
            "Delete both and download them from one place"
        )
    return dict(zip(best, pictures))


def _blocks(archive: Path, source: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[bytes]:
    """An entry's bytes; raises ArchiveError unless they have the size and checksum that the zip says."""
    count = 0
    try:
        with source.open(entry) as file:
            while block := file.read(BLOCK):  # at most file_size bytes; the checksum is looked at with the last
                count += len(block)
                yield block
        fault = None if count == entry.file_size else f"{count:,} of {entry.file_size:,} bytes"
    except (*DAMAGE, OSError) as error:  # OSError: an entry that lies before the start of the zip
        fault = str(error) or "its end is missing"  # EOFError says nothing
    if fault is not None:
        raise ArchiveError(
            f"{archive}: entry {entry.filename!r} is damaged ({fault}); size and checksum must be those written beside "
            "it. Delete the zip and download it again"
        )


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _is_done(path: Path, entry: zipfile.ZipInfo) -> bool:
    """Whether a file is there that has an entry's size and checksum."""
    if _size(path) != entry.file_size:
        return False
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            checksum = zlib.crc32(block, checksum)
    return checksum == entry.CRC


def _bar(verb: str, pictures: dict[str, zipfile.ZipInfo], quiet: bool) -> tqdm:
    total = sum(entry.file_size for entry in pictures.values())
    return tqdm(total=total, desc=verb, unit="B", unit_scale=True, leave=False, disable=quiet)
