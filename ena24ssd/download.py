"""Where do the real pictures come from, and are they whole?

ENA24 is published by LILA (https://lila.science) as one json and one zip of 3.6 GB. `download` brings both over a line
that may drop at any byte, and under their final names nothing ever stands that is not whole:

    ena24.json              the annotations
    ena24.zip               the pictures as they came; no longer needed once ``images`` is there
    images/                 the pictures; appears when all of them are unpacked and checked
    .download/              what is unfinished, a lock, and `first-seen.json`

No digest of these files is known in advance. So the SHA-256 of the first whole download is written down, and whatever
comes later, from here or from a mirror, must have the same.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, TypeAdapter, ValidationError
from tqdm import tqdm

from ena24ssd import archives
from ena24ssd.archives import ArchiveError
from ena24ssd.cameratraps import AnnotationError, read
from ena24ssd.files import replace_file
from ena24ssd.transfer import DownloadError, discard, fetch

HOME = "https://storage.googleapis.com/public-datasets-lila/ena24"
ANNOTATIONS, ARCHIVE, PICTURES = "ena24.json", "ena24.zip", "images"
UNFINISHED, FIRST_SEEN = ".download", "first-seen.json"
WITHHELD = "Human"  # the json lists pictures of people, the zip does not have them


class Digest(BaseModel, frozen=True):
    """What a whole file was when it was first seen: its digests, its length in bytes, and whence it came."""

    sha256: str
    md5: str
    size: int
    source: str
    day: str


@dataclass(frozen=True)
class Downloaded:
    """What stands in ``folder`` after a download."""

    folder: Path
    annotations: Path
    pictures: Path | None  # None where only the metadata was asked for
    fetched: tuple[str, ...]  # what this call brought in
    kept: tuple[str, ...]  # what was there and whole already
    digests: dict[str, str]  # SHA-256 by file name
    records: int  # usable pictures that the json lists
    found: int  # of these, in the picture folder
    withheld: int  # not there, and listed with a person; LILA publishes none of these
    missing: tuple[str, ...]  # not there for no known reason


def download(
    to: str | os.PathLike[str], *, mirror: str | None = None, metadata_only: bool = False, quiet: bool = False
) -> Downloaded:
    """Bring ENA24 into the folder ``to``, so that `ena24ssd.cameratraps.read` finds its pictures.

    Where everything is there and whole, nothing is asked of any server. Where a run before this one was interrupted,
    it goes on from there. A file put there by hand is taken if it is whole.

    Parameters: ``mirror``, address of a folder that has the two files, in place of LILA's. ``metadata_only`` leaves the
    pictures where they are. ``quiet`` shows no progress.

    Files under their final names are never overwritten, but for pictures that lost or gained bytes since they were
    unpacked. Raises DownloadError with a way out.
    """
    folder, base = Path(to), (mirror or HOME).rstrip("/")
    if not re.match(r"https?://[^/]", base):
        raise DownloadError(f"mirror {mirror!r}: must be a web address; write it as https://host/folder")
    if folder.exists() and not folder.is_dir():
        raise DownloadError(f"{folder}: is a file; ENA24 needs a folder. Name another one with --to")
    try:
        (folder / UNFINISHED).mkdir(parents=True, exist_ok=True)
        with FileLock(folder / UNFINISHED / "lock", timeout=0):
            return _download(folder, base, metadata_only, quiet)
    except Timeout as error:
        raise DownloadError(
            f"{folder}: another download is at work there ({UNFINISHED}/lock is held); one at a time. Wait for it, or "
            "name another folder with --to"
        ) from error
    except (ArchiveError, AnnotationError) as error:
        raise DownloadError(str(error)) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DownloadError(
            f"{folder}: the disk filled up on the way ({error.strerror}); what came so far is kept. "
            "Free some space and run the same command again"
        ) from error


def _download(folder: Path, base: str, metadata_only: bool, quiet: bool) -> Downloaded:
    fetched, kept, digests = [], [], {}
    annotations, pictures = folder / ANNOTATIONS, folder / PICTURES

    def obtain(name: str, check: Callable[[Path], object], copies: int) -> None:
        digest, is_new = _obtain(folder / name, f"{base}/{name}", check, copies, quiet)
        (fetched if is_new else kept).append(name)
        digests[name] = digest.sha256

    obtain(ANNOTATIONS, lambda path: read(path, check_files=False), copies=1)
    dataset = read(annotations, check_files=False)
    wanted = [image.file_name for image in dataset.images]
    unpacked = archives.read_unpacked(pictures)
    if unpacked is not None:
        kept.append(PICTURES)
        digests[ARCHIVE] = unpacked.sha256
    elif not metadata_only:
        if (
            pictures.exists()
            and not (pictures / archives.MARKER).exists()
            and (not pictures.is_dir() or any(pictures.iterdir()))
        ):
            raise DownloadError(
                f"{pictures}: exists and was not made by this command; what is in it must not be overwritten. "
                "Move it away, or name another folder with --to"
            )
        obtain(ARCHIVE, lambda path: archives.check(path, wanted, quiet=quiet), copies=2)
        staging, sha256 = folder / UNFINISHED / PICTURES, digests[ARCHIVE]
        unpacked = archives.unpack(folder / ARCHIVE, pictures, staging, sha256=sha256, wanted=wanted, quiet=quiet)
        fetched.append(PICTURES)
    there = unpacked.files if unpacked is not None else {}
    person = dataset.class_names.index(WITHHELD) if WITHHELD in dataset.class_names else None
    absent = [image for image in dataset.images if image.file_name not in there]
    missing = [image.file_name for image in absent if person not in {label for label, _ in image.boxes}]
    return Downloaded(
        folder=folder,
        annotations=annotations,
        pictures=None if unpacked is None else pictures,
        fetched=tuple(fetched),
        kept=tuple(kept),
        digests=digests,
        records=len(wanted),
        found=len(wanted) - len(absent),
        withheld=len(absent) - len(missing),
        missing=tuple(missing),
    )


def _obtain(path: Path, url: str, check: Callable[[Path], object], copies: int, quiet: bool) -> tuple[Digest, bool]:
    """Have ``path`` whole: what it is, and whether it had to be fetched. ``check`` raises for a file of no use."""
    known = _first_seen(path).get(path.name)
    if path.exists():
        digest = _measure(path, "a file found in the folder", quiet)
        if known is None:
            check(path)
            _write_down(path, digest)
        elif known.sha256 != digest.sha256:
            raise DownloadError(
                f"{path}: is not the file that was downloaded on {known.day} (SHA-256 {digest.sha256}, was "
                f"{known.sha256}); it was changed or damaged. Move it away and run this again to fetch the original"
            )
        return known or digest, False
    part = path.parent / UNFINISHED / f"{path.name}.part"

    def accept(size: int, md5: str | None) -> None:
        if known is not None:
            _compare(url, known, size=size, md5=md5)

    promised_md5 = fetch(url, part, accept=accept, copies=copies, quiet=quiet)
    digest = _measure(part, url, quiet)
    try:
        if promised_md5 not in (None, digest.md5):
            raise DownloadError(
                f"{url}: came with MD5 {digest.md5}, and the server says {promised_md5}; they must be equal. "
                "Run this again, on another line or with --mirror if it comes back"
            )
        if known is not None:
            _compare(url, known, sha256=digest.sha256)
        try:
            check(part)
        except (ArchiveError, AnnotationError) as error:
            with part.open("rb") as file:
                start = file.read(40)
            raise DownloadError(
                f"{url}: what came in {digest.size:,} bytes is of no use, and was thrown away (it begins with "
                f"{start!r}): {error}. Run this again, or name another source with --mirror"
            ) from error
    except DownloadError:
        discard(part)
        raise
    _write_down(path, digest)
    os.replace(part, path)
    discard(part)
    return digest, True


def _measure(path: Path, source: str, quiet: bool) -> Digest:
    """The digests of a file as it lies on disk."""
    sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), path.stat().st_size
    with (
        path.open("rb") as file,
        tqdm(total=size, desc="verifying", unit="B", unit_scale=True, leave=False, disable=quiet) as bar,
    ):
        while block := file.read(1 << 20):
            sha256.update(block)
            md5.update(block)
            bar.update(len(block))
    day = time.strftime("%Y-%m-%d")
    return Digest(sha256=sha256.hexdigest(), md5=md5.hexdigest(), size=size, source=source, day=day)


_DIGESTS = TypeAdapter(dict[str, Digest])


def _first_seen(path: Path) -> dict[str, Digest]:
    """What was written down about the files beside ``path``."""
    file = path.parent / UNFINISHED / FIRST_SEEN
    if not file.exists():
        return {}
    try:
        return _DIGESTS.validate_json(file.read_bytes())
    except ValidationError as error:
        raise DownloadError(
            f"{file}: is not the list of digests it should be ({error.error_count()} faults); files are checked "
            "against it. Put back a copy, or delete it to trust the files as they are"
        ) from error


def _write_down(path: Path, digest: Digest) -> None:
    digests = {**_first_seen(path), path.name: digest}
    replace_file(path.parent / UNFINISHED / FIRST_SEEN, _DIGESTS.dump_json(digests, indent=1))


def _compare(url: str, known: Digest, **found: object) -> None:
    """Raise DownloadError where what is on offer is not what was first seen; None stands for what nobody said."""
    for what, value in found.items():
        if value not in (None, getattr(known, what)):
            raise DownloadError(
                f"{url}: has the {what} {value}; what came on {known.day} from {known.source} had "
                f"{getattr(known, what)}, and both must be one file. Find out which is the original; to take this one, "
                f"delete the other's entry in {UNFINISHED}/{FIRST_SEEN}"
            )
