"""How does a file come over a line that may drop at any byte?

`fetch` asks a web server for a file, and for the rest of it after every interruption (HTTP ranges, RFC 9110).
Beside the unfinished file stands a note: what the server called the file, and how many of its bytes are safe on disk.
A server that has another file by now, that lies about lengths, or that answers with a web page, never gets its bytes
joined to those of before.
"""

from __future__ import annotations

import base64
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import requests
import urllib3
from pydantic import BaseModel, ValidationError
from tqdm import tqdm

from ena24ssd.archives import require_room
from ena24ssd.files import replace_file

TIMEOUTS = 20.0, 60.0  # seconds: to connect, and without a byte
TRIES = 8  # in a row that bring no byte more than any before
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds between two tries; doubled each time
PASSING = {408, 425, 429, 500, 502, 503, 504}  # states of a server that may be other ones in a minute
BLOCK = 1 << 16  # bytes; as much is lost when the line drops
KEEP_EVERY = 16 << 20  # bytes; as much is lost in a power cut


class DownloadError(ValueError):
    """What was asked for is not there, or not what it should be; says where, which rule, which value, which way out."""


class _Note(BaseModel, frozen=True):
    """What is known about an unfinished file: what the server called it, and how much of it is safe on disk."""

    url: str
    size: int
    etag: str | None
    modified: str | None
    md5: str | None
    on_disk: int = 0

    @property
    def validator(self) -> str | None:
        """What to ask the rest by; a weak ETag does not promise the same bytes."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified

    def is_of_same_file(self, other: _Note) -> bool:
        pairs = (self.etag, other.etag), (self.modified, other.modified), (self.md5, other.md5)
        return self.size == other.size and all(a == b for a, b in pairs if a and b)


class _Dropped(Exception):
    """A try failed in a way that may pass. ``anew``: what is on disk does not fit the answer; ask for all of it."""

    def __init__(self, reason: object, *, anew: bool = False, wait: float = 0.0):
        super().__init__(str(reason))
        self.anew, self.wait = anew, wait


def fetch(
    url: str, part: Path, *, accept: Callable[[int, str | None], object], copies: int = 1, quiet: bool = False
) -> str | None:
    """Bring ``part`` to its full length, going on from what is there; the MD5 that the server promises, if any.

    Parameters: ``accept`` is told the length in bytes and the MD5, or None, before anything is written, and raises
    where this is not the file that is wanted. ``copies``: how many times the length must be free on the disk.

    Raises DownloadError; what has come by then stays for the next call, unless it cannot be of use.
    """
    tries, furthest, anew = 0, 0, False
    with (
        requests.Session() as session,
        tqdm(desc=part.stem, unit="B", unit_scale=True, leave=False, disable=quiet) as bar,
    ):
        session.headers.update({"Accept-Encoding": "identity", "User-Agent": "ena24ssd"})
        while True:
            note = _read_note(part, url)
            if note is not None and note.on_disk == note.size and not anew:
                return note.md5
            try:
                with _ask(session, url, None if anew else note) as (answer, note):
                    anew = False
                    accept(note.size, note.md5)
                    held = part.stat().st_size if part.exists() else 0
                    require_room(part.parent, note.size * copies - held, f"fetching {part.stem}")
                    bar.total, bar.n, bar.initial = note.size, note.on_disk, note.on_disk
                    bar.set_postfix_str("")
                    _append(part, note, answer, bar)
            except _Dropped as drop:
                note, anew = _read_note(part, url), anew or drop.anew
                here = note.on_disk if note else 0
                tries, furthest = (1, here) if here > furthest else (tries + 1, furthest)
                if tries >= TRIES:
                    raise DownloadError(
                        f"{url}: gave up after {TRIES} tries that brought nothing new; the last one: {drop}. "
                        f"{here:,} bytes are kept: run the same command again to go on, or name another source with "
                        "--mirror"
                    ) from drop
                wait = max(min(FIRST_WAIT * 2 ** (tries - 1), LONGEST_WAIT), min(drop.wait, LONGEST_WAIT))
                bar.set_postfix_str(f"interrupted, try {tries + 1} in {wait:.0f} s")
                time.sleep(wait)


@contextmanager
def _ask(session: requests.Session, url: str, note: _Note | None) -> Iterator[tuple[requests.Response, _Note]]:
    """Ask for the file, or for the rest of it; the answer, and the note to go on with (``on_disk``: where it starts).

    Raises _Dropped where trying again may help, DownloadError where it cannot.
    """
    resume = note is not None and note.on_disk > 0 and note.validator is not None
    headers = {"Range": f"bytes={note.on_disk}-", "If-Range": note.validator} if resume else {}
    try:
        answer = session.get(url, headers=headers, stream=True, timeout=TIMEOUTS)
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise _Dropped(error) from error
    except requests.RequestException as error:
        raise DownloadError(f"{url}: cannot be asked for ({error}); name another source with --mirror") from error
    with answer:
        status, told = answer.status_code, answer.headers
        if status in PASSING:
            seconds = told.get("Retry-After", "")
            raise _Dropped(f"the server answers {status}", wait=float(seconds) if seconds.isdecimal() else 0.0)
        if status == 416 and resume:
            raise _Dropped("the server says that there is no more of it", anew=True)
        if status not in (200, 206):
            raise _unusable(url, f"the server answers {status} {answer.reason}; 200 means that it has the file")
        if url.startswith("https:") and not answer.url.startswith("https:"):
            raise _unusable(url, f"leads on to {answer.url}, where anybody on the way can change it")
        if "html" in told.get("Content-Type", ""):
            raise _unusable(url, "the answer is a web page, not the file; does this network want a login first?")
        if told.get("Content-Encoding", "identity") != "identity":
            raise _unusable(url, f"comes packed as {told['Content-Encoding']}; it must come as it is")
        length = told.get("Content-Length", "")
        md5 = re.search(r"\bmd5=([A-Za-z0-9+/]{22}==)", told.get("x-goog-hash", ""))
        offer = _Note(
            url=url,
            size=int(length) if length.isdecimal() else -1,
            etag=told.get("ETag"),
            modified=told.get("Last-Modified"),
            md5=base64.b64decode(md5[1]).hex() if md5 else None,
        )
        if status == 206:
            span = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", told.get("Content-Range", ""))
            start, last, size = map(int, span.groups()) if span else (-1, -1, -1)
            offer = offer.model_copy(update={"size": size, "on_disk": start})
            fits = resume and start == note.on_disk and last == size - 1 and length in ("", str(size - start))
            if not fits or not offer.is_of_same_file(note):
                raise _Dropped(f"asked from byte {note.on_disk if note else 0:,}, got another piece", anew=True)
            offer = offer.model_copy(
                update={"etag": note.etag, "modified": note.modified, "md5": note.md5 or offer.md5}
            )
        elif offer.size < 0:
            raise _unusable(url, "the server does not say how long it is, so its end looks like a dropped line")
        yield answer, offer


def _append(part: Path, note: _Note, answer: requests.Response, bar: tqdm) -> None:
    """Write an answer behind what is safe on disk, and keep note of how far it came whatever happens."""
    with part.open("r+b" if note.on_disk else "wb") as file:
        file.seek(note.on_disk)
        file.truncate()
        _keep(file, part, note)  # only now: a new note beside old bytes would join two files
        kept = note.on_disk
        try:
            for block in _blocks(answer):
                if file.tell() + len(block) > note.size:
                    file.truncate(0)
                    file.seek(0)
                    raise _unusable(note.url, f"the server sends more than the {note.size:,} bytes it promised")
                file.write(block)
                bar.update(len(block))
                if file.tell() >= kept + KEEP_EVERY:
                    _keep(file, part, note)
                    kept = file.tell()
            if file.tell() < note.size:
                raise _Dropped(f"the line dropped at byte {file.tell():,} of {note.size:,}")
        finally:
            _keep(file, part, note)


def _blocks(answer: requests.Response) -> Iterator[bytes]:
    try:
        yield from answer.raw.stream(BLOCK, decode_content=False)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise _Dropped(error) from error


def _keep(file: BinaryIO, part: Path, note: _Note) -> None:
    file.flush()
    os.fsync(file.fileno())
    replace_file(_note_file(part), note.model_copy(update={"on_disk": file.tell()}).model_dump_json())


def _read_note(part: Path, url: str) -> _Note | None:
    """The note beside an unfinished file, if both are of this address and hold together."""
    try:
        note = _Note.model_validate_json(_note_file(part).read_bytes())
        fits = note.url == url and 0 <= note.on_disk <= min(part.stat().st_size, note.size)
    except (OSError, ValidationError):
        return None
    return note if fits else None


def _note_file(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def discard(part: Path) -> None:
    """Delete an unfinished file and the note beside it."""
    _note_file(part).unlink(missing_ok=True)
    part.unlink(missing_ok=True)


def _unusable(url: str, fault: str) -> DownloadError:
    return DownloadError(f"{url}: {fault}. Run this again later, or name another source with --mirror")
