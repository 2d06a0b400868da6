"""Does ENA24 come whole over a line that drops, lies and stalls, and is nothing less ever taken for it?

A server on this machine misbehaves as told: each request for a file takes the next `Act` of that file's list, and the
last of the list for good.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import http.server
import json
import os
import random
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
from filelock import FileLock

from ena24ssd import archives, transfer
from ena24ssd import download as room
from ena24ssd.cameratraps import read
from ena24ssd.download import DownloadError, download

PICTURES = {f"{n}.jpg": random.Random(n).randbytes(5_000 + n) for n in range(1, 9)}
ZIP, JSON = "ena24.zip", "ena24.json"


def annotations() -> bytes:
    """The pictures with a box each: deer on all, and a person on one that is published nowhere."""
    names = [*PICTURES, "person.jpg"]
    document = {
        "images": [{"id": name, "file_name": name, "width": 200, "height": 100} for name in names],
        "annotations": [
            {"id": n, "image_id": name, "category_id": int(name == "person.jpg"), "bbox": [10, 10, 50, 50]}
            for n, name in enumerate(names)
        ],
        "categories": [{"id": 0, "name": "White_Tailed_Deer"}, {"id": 1, "name": "Human"}],
    }
    return json.dumps(document).encode()


def packed(pictures: dict[str, bytes]) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        for name, data in pictures.items():
            target.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


GOOD = packed(PICTURES)
OTHER = packed({name: data[::-1] for name, data in PICTURES.items()})  # as long, and a whole zip as well
SIZE = len(GOOD)


@dataclass(frozen=True)
class Act:
    """How to answer one request; the defaults are how a good server does."""

    status: int | None = None  # in place of 200 or 206
    content: bytes | None = None  # in place of the file
    drop_after: int | None = None  # bytes, then the connection is cut
    stall_after: int | None = None  # bytes, then nothing more comes
    claim: int = 0  # bytes added to the true Content-Length
    ignore_range: bool = False
    ignore_if_range: bool = False
    headers: dict[str, str | None] = field(default_factory=dict)  # None leaves one out


class Site:
    """A server of files, with a log of what it was asked for: (name, start of the range or None)."""

    def __init__(self) -> None:
        self.files = {ZIP: GOOD, JSON: annotations()}
        self.acts: dict[str, list[Act]] = {ZIP: [Act()], JSON: [Act()]}
        self.log: list[tuple[str, int | None]] = []
        self.encodings: set[str | None] = set()
        self.closing = threading.Event()
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            timeout = 5

            def do_GET(self) -> None:
                with contextlib.suppress(OSError):  # the client has gone away
                    site.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/ena24"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(5)

    def misbehave(self, *acts: Act, file: str = ZIP) -> None:
        self.acts[file] = list(acts)

    def asked(self, file: str = ZIP) -> list[int | None]:
        return [start for name, start in self.log if name == file]

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        name = request.path.rpartition("/")[2]
        acts = self.acts[name]
        act = acts.pop(0) if len(acts) > 1 else acts[0]
        asked = request.headers.get("Range")
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else None
        self.log.append((name, start))
        self.encodings.add(request.headers.get("Accept-Encoding"))
        data = self.files[name] if act.content is None else act.content
        etag = act.headers.get("ETag", f'"{hashlib.md5(data).hexdigest()}"')
        same = act.ignore_if_range or request.headers.get("If-Range") == etag
        partial = start is not None and same and not act.ignore_range
        body = data[start:] if partial else data
        headers = {"ETag": etag, "Content-Type": "application/zip", "Content-Length": str(len(body) + act.claim)}
        if partial:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        status = 200
        if partial:
            status = 416 if start >= len(data) else 206
        request.send_response(act.status or status)
        for key, value in {**headers, **act.headers}.items():
            if value is not None:
                request.send_header(key, value)
        request.end_headers()
        stop = act.drop_after if act.drop_after is not None else act.stall_after
        request.wfile.write(body[:stop])
        request.wfile.flush()
        if act.stall_after is not None:
            self.closing.wait(5)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name, value in {"FIRST_WAIT": 0.001, "LONGEST_WAIT": 0.002, "TIMEOUTS": (2.0, 0.2)}.items():
        monkeypatch.setattr(transfer, name, value)
    monkeypatch.setattr(transfer, "BLOCK", 1_000)
    monkeypatch.setattr(transfer, "KEEP_EVERY", 6_000)
    monkeypatch.setenv("NO_PROXY", "*")
    served = Site()
    yield served
    served.close()


def fetch(site: Site, to: Path, **options) -> room.Downloaded:
    return download(to, **{"mirror": site.url, "quiet": True, **options})


def finals(folder: Path) -> set[str]:
    """What stands under its final name."""
    return {path.name for path in folder.iterdir()} - {".download"}


def part(folder: Path) -> Path:
    return folder / ".download" / "ena24.zip.part"


def assert_whole(folder: Path) -> None:
    assert (folder / ZIP).read_bytes() == GOOD and (folder / JSON).read_bytes() == annotations()
    dataset = read(folder / JSON)
    assert {dataset.path(image).name: dataset.path(image).read_bytes() for image in dataset.images} == PICTURES
    assert {path.name for path in (folder / ".download").iterdir()} <= {"first-seen.json", "lock"}


def test_a_download_says_what_it_did(site, tmp_path):
    done = fetch(site, tmp_path)
    assert_whole(tmp_path)
    assert done == room.Downloaded(
        folder=tmp_path,
        annotations=tmp_path / JSON,
        pictures=tmp_path / "images",
        fetched=(JSON, ZIP, "images"),
        kept=(),
        digests={JSON: hashlib.sha256(annotations()).hexdigest(), ZIP: hashlib.sha256(GOOD).hexdigest()},
        records=9,
        found=8,
        withheld=1,
        missing=(),
    )
    assert site.log == [(JSON, None), (ZIP, None)]
    seen = json.loads((tmp_path / ".download" / "first-seen.json").read_text())
    assert seen[ZIP]["sha256"] == hashlib.sha256(GOOD).hexdigest() and seen[ZIP]["source"] == f"{site.url}/{ZIP}"


def test_a_second_call_asks_for_nothing(site, tmp_path):
    first = fetch(site, tmp_path)
    site.log.clear()
    assert fetch(site, tmp_path) == replace(first, fetched=(), kept=(JSON, "images"))
    (tmp_path / ZIP).unlink()  # 3.6 GB that are no longer needed
    assert fetch(site, tmp_path) == replace(first, fetched=(), kept=(JSON, "images"))
    assert site.log == []


def test_metadata_only_leaves_the_pictures_for_later(site, tmp_path):
    done = fetch(site, tmp_path, metadata_only=True)
    assert (done.pictures, done.fetched, done.records, done.found) == (None, (JSON,), 9, 0)
    assert finals(tmp_path) == {JSON} and site.log == [(JSON, None)]
    assert fetch(site, tmp_path).kept == (JSON,)
    assert_whole(tmp_path)


def test_pictures_the_zip_lacks_are_named(site, tmp_path):
    site.files[ZIP] = packed({name: data for name, data in PICTURES.items() if name != "3.jpg"})
    done = fetch(site, tmp_path)
    assert (done.found, done.withheld, done.missing) == (7, 1, ("3.jpg",))


CUT = Act(drop_after=10_000)
OLD = Act(content=OTHER, drop_after=10_000)
RANGED = "Content-Range"
SURVIVED = {
    "the line drops once": ([CUT, Act()], [None, 10_000]),
    "the line drops before the first byte": ([Act(drop_after=0), Act()], [None, None]),
    "the line drops at the last byte": ([Act(drop_after=SIZE - 1), Act()], [None, SIZE - 1]),
    "the line drops more often than tries are left": (
        [Act(drop_after=3_000)] * 12 + [Act()],
        [None, *range(3_000, 36_001, 3_000)],
    ),
    "the line goes dead": ([Act(stall_after=10_000), Act()], [None, 10_000]),
    "the server is down for a moment": ([Act(status=500), Act(status=503), Act()], [None] * 3),
    "the server asks to wait": ([Act(status=429, headers={"Retry-After": "60"}), Act()], [None] * 2),
    "the server is down in the middle": ([CUT, Act(status=502), Act()], [None, 10_000, 10_000]),
    "the server knows no ranges": ([CUT, Act(ignore_range=True)], [None, 10_000]),
    "the server knows no ranges and the line drops": (
        [CUT, Act(ignore_range=True, drop_after=20_000), Act()],
        [None, 10_000, 20_000],
    ),
    "the server gives nothing to know the file by": (
        [replace(CUT, headers={"ETag": None}), Act(headers={"ETag": None})],
        [None, None],
    ),
    "the server's name for the file is a weak one": (
        [replace(CUT, headers={"ETag": 'W/"x"'}), Act(headers={"ETag": 'W/"x"'})],
        [None, None],
    ),
    "the answer starts elsewhere": (
        [CUT, Act(headers={RANGED: f"bytes 9999-{SIZE - 1}/{SIZE}"}, claim=1), Act()],
        "anew",
    ),
    "the answer ends elsewhere": ([CUT, Act(headers={RANGED: f"bytes 10000-{SIZE - 2}/{SIZE}"}), Act()], "anew"),
    "the answer is of a longer file": ([CUT, Act(headers={RANGED: f"bytes 10000-{SIZE}/{SIZE + 1}"}), Act()], "anew"),
    "the answer does not say where it starts": ([CUT, Act(headers={RANGED: None}), Act()], "anew"),
    "the answer says it in no known way": ([CUT, Act(headers={RANGED: "10000 onwards"}), Act()], "anew"),
    "the server says there is no more": ([CUT, Act(status=416), Act()], "anew"),
    "the file changes meanwhile": ([OLD, Act()], [None, 10_000]),
    "the file changes and the server does not care": ([OLD, Act(ignore_if_range=True), Act()], "anew"),
    "the file changes and the line drops at once": ([OLD, Act(drop_after=0), Act()], [None, 10_000, None]),
}


@pytest.mark.parametrize(("acts", "asked"), SURVIVED.values(), ids=SURVIVED)
def test_the_file_comes_whole_though(site, tmp_path, acts, asked):
    site.misbehave(*acts)
    fetch(site, tmp_path)
    assert_whole(tmp_path)
    assert site.asked() == ([None, 10_000, None] if asked == "anew" else asked)


def google_hash(data: bytes) -> dict[str, str]:
    return {"x-goog-hash": f"crc32c=AAAAAA==,md5={base64.b64encode(hashlib.md5(data).digest()).decode()}"}


def test_the_md5_that_google_promises_is_looked_at(site, tmp_path):
    site.misbehave(replace(CUT, headers=google_hash(GOOD)), Act(headers=google_hash(GOOD)))
    fetch(site, tmp_path)
    assert_whole(tmp_path)


PAGE = b"<!DOCTYPE html><title>Log in to the station's network</title>"
DAMAGED = GOOD[:1_000] + bytes([GOOD[1_000] ^ 1]) + GOOD[1_001:]
CHUNKED = {
    "Transfer-Encoding": "chunked",
    "Content-Length": None,
    "Content-Range": f"bytes 10000-{SIZE - 1}/{SIZE}",
    "ETag": f'"{hashlib.md5(GOOD).hexdigest()}"',
}
SURPLUS = b"%x\r\n%s\r\n0\r\n\r\n" % (SIZE - 9_990, GOOD[10_000:] + b"ten  more!")
HOPELESS = {
    "it is not there": ([Act(status=404)], "answers 404 Not Found"),
    "it is not for everybody": ([Act(status=403)], "answers 403"),
    "the server is down for good": ([Act(status=500)], "gave up after 8 tries .* answers 500"),
    "the line drops at the same byte each time": (
        [Act(drop_after=10_000), Act(drop_after=0)],
        "gave up after 8 tries .* 10,000 bytes are kept",
    ),
    "the server knows no ranges and the line drops each time": (
        [Act(ignore_range=True, drop_after=10_000)],
        "gave up after 8 tries",
    ),
    "the file is another one each time": (
        [Act(headers={"ETag": f'"{n}"'}, drop_after=10_000) for n in range(20)],
        "gave up after 8 tries",
    ),
    "the server promises more than it has": ([Act(claim=100, ignore_range=True)], "gave up after 8 tries"),
    "the server promises less than it has": ([Act(claim=-100)], "no whole zip"),
    "the server sends more than it promised": (
        [CUT, Act(status=206, content=SURPLUS, headers=CHUNKED, ignore_range=True)],
        f"sends more than the {SIZE:,} bytes",
    ),
    "the server does not say how long it is": ([Act(headers={"Content-Length": None})], "does not say how long"),
    "it is a web page": ([Act(content=PAGE, headers={"Content-Type": "text/html; charset=utf-8"})], "a web page"),
    "it is a web page under another name": ([Act(content=PAGE)], "begins with b'<!DOCTYPE html><title>.* no whole zip"),
    "it is empty": ([Act(content=b"")], "no whole zip"),
    "it comes packed": ([Act(headers={"Content-Encoding": "gzip"})], "packed as gzip"),
    "it is not what google says": ([Act(headers=google_hash(OTHER))], "MD5 .* the server says"),
    "its table of contents is cut off": ([Act(content=GOOD[:-100])], "no whole zip"),
    "a picture in it is damaged": ([Act(content=DAMAGED)], "'1.jpg' is damaged"),
    "it has other pictures": ([Act(content=packed({"a.jpg": b"a"}))], "none of its 1 pictures"),
    "it climbs out of the folder": ([Act(content=packed({"../1.jpg": b"a"}))], "leads out"),
}


@pytest.mark.parametrize(("acts", "reason"), HOPELESS.values(), ids=HOPELESS)
def test_the_file_is_not_taken_when(site, tmp_path, acts, reason):
    site.misbehave(*acts)
    with pytest.raises(DownloadError, match=reason) as refusal:
        fetch(site, tmp_path)
    assert str(refusal.value).startswith(f"{site.url}/{ZIP}: ") and "--mirror" in str(refusal.value)
    assert finals(tmp_path) == {JSON}
    assert ZIP not in json.loads((tmp_path / ".download" / "first-seen.json").read_text())
    site.misbehave(Act())
    fetch(site, tmp_path)
    assert_whole(tmp_path)


BAD_JSON = {
    "it is cut short": (Act(content=annotations()[:-50]), "not valid json"),
    "it is a web page": (Act(content=PAGE), "not valid json"),
    "it is another json": (Act(content=b'{"images": []}'), "annotations"),
}


@pytest.mark.parametrize(("act", "reason"), BAD_JSON.values(), ids=BAD_JSON)
def test_the_json_is_not_taken_when(site, tmp_path, act, reason):
    site.misbehave(act, file=JSON)
    with pytest.raises(DownloadError, match=reason):
        fetch(site, tmp_path)
    assert finals(tmp_path) == set() and site.asked() == []


def test_a_login_page_in_the_middle_costs_nothing(site, tmp_path):
    site.misbehave(CUT, Act(content=PAGE, headers={"Content-Type": "text/html"}, ignore_range=True))
    with pytest.raises(DownloadError, match="login"):
        fetch(site, tmp_path)
    assert part(tmp_path).read_bytes() == GOOD[:10_000]
    site.misbehave(Act())
    fetch(site, tmp_path)
    assert site.asked() == [None, 10_000, 10_000]
    assert_whole(tmp_path)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


STATES = {
    "as it was": (lambda file: None, 10_000),
    "with bytes behind it that a power cut left": (
        lambda file: file.write_bytes(file.read_bytes() + bytes(5_000)),
        10_000,
    ),
    "longer than the whole": (lambda file: file.write_bytes(file.read_bytes() + bytes(SIZE)), 10_000),
    "shorter than noted": (lambda file: os.truncate(file, 9_000), None),
    "with a damaged note": (lambda file: file.with_name(file.name + ".json").write_bytes(b"{"), None),
    "without a note": (lambda file: file.with_name(file.name + ".json").unlink(), None),
    "gone": (lambda file: file.unlink(), None),
}


@pytest.mark.parametrize(("change", "start"), STATES.values(), ids=STATES)
def test_an_interrupted_download_goes_on_from_a_part_that_is(site, tmp_path, monkeypatch, change, start):
    site.misbehave(CUT)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(transfer.time, "sleep", interrupt)
        fetch(site, tmp_path)
    assert finals(tmp_path) == {JSON}
    change(part(tmp_path))
    site.misbehave(Act())
    fetch(site, tmp_path)
    assert site.asked() == [None, start]
    assert_whole(tmp_path)


def test_a_part_from_another_mirror_is_not_gone_on_with(site, tmp_path, monkeypatch):
    site.misbehave(CUT)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(transfer.time, "sleep", interrupt)
        fetch(site, tmp_path)
    site.misbehave(Act())
    fetch(site, tmp_path, mirror=site.url.replace("/ena24", "/copy/"))
    assert site.asked() == [None, None]
    assert_whole(tmp_path)


MOMENTS = {
    "while the zip is verified": (room, "_measure", 1),
    "while the digest is written down": (room, "_write_down", 1),
    "before the zip gets its name": (room.os, "replace", None),
    "while pictures are unpacked": (archives, "replacing", 3),
    "while the marker is written": (archives, "replace_file", 0),
}


@pytest.mark.parametrize(("module", "name", "calls"), MOMENTS.values(), ids=MOMENTS)
def test_what_is_interrupted_is_never_taken_for_whole(site, tmp_path, monkeypatch, module, name, calls):
    real, seen = getattr(module, name), []

    def stop(*arguments, **options):
        if calls is None and str(arguments[1]).endswith(ZIP):
            raise KeyboardInterrupt
        if calls is not None and len(seen) == calls:
            raise KeyboardInterrupt
        seen.append(name)
        return real(*arguments, **options)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(module, name, stop)
        fetch(site, tmp_path)
    assert finals(tmp_path) <= {JSON, ZIP}
    fetch(site, tmp_path)
    assert_whole(tmp_path)
    assert site.asked() == [None]


def test_a_lost_picture_is_mended_from_the_zip(site, tmp_path):
    fetch(site, tmp_path)
    (tmp_path / "images" / "3.jpg").unlink()
    done = fetch(site, tmp_path)
    assert (done.fetched, done.kept) == (("images",), (JSON, ZIP))
    assert_whole(tmp_path)
    assert site.asked() == [None]


IMPOSTORS = {
    "of another length": (Act(content=OTHER + b"more"), "has the size"),
    "of another MD5": (Act(content=OTHER, headers=google_hash(OTHER)), "has the md5"),
    "that shows only when it is here": (Act(content=OTHER), "has the sha256"),
}


@pytest.mark.parametrize(("act", "reason"), IMPOSTORS.values(), ids=IMPOSTORS)
def test_a_mirror_must_have_what_was_first_seen_not_a_zip(site, tmp_path, act, reason):
    fetch(site, tmp_path)
    (tmp_path / ZIP).unlink()
    (tmp_path / "images" / "3.jpg").unlink()
    site.misbehave(act)
    with pytest.raises(DownloadError, match=f"{reason}.*first-seen.json"):
        fetch(site, tmp_path)
    assert not (tmp_path / ZIP).exists()
    site.misbehave(Act())
    fetch(site, tmp_path)
    assert_whole(tmp_path)


def test_a_json_changed_by_hand_is_neither_overwritten_nor_taken(site, tmp_path):
    fetch(site, tmp_path)
    (tmp_path / JSON).write_bytes(b"my labels")
    with pytest.raises(DownloadError, match=r"changed or damaged. Move it away"):
        fetch(site, tmp_path)
    assert (tmp_path / JSON).read_bytes() == b"my labels"


def test_files_put_there_by_hand_are_taken_without_a_line(site, tmp_path):
    (tmp_path / ZIP).write_bytes(GOOD)
    (tmp_path / JSON).write_bytes(annotations())
    assert fetch(site, tmp_path).kept == (JSON, ZIP)
    assert site.log == []
    assert_whole(tmp_path)


def test_half_a_zip_put_there_by_hand_is_not(site, tmp_path):
    (tmp_path / ZIP).write_bytes(GOOD[:20_000])
    with pytest.raises(DownloadError, match=r"no whole zip.*Delete it"):
        fetch(site, tmp_path)
    assert (tmp_path / ZIP).read_bytes() == GOOD[:20_000] and finals(tmp_path) == {JSON, ZIP}


def test_a_picture_folder_of_somebody_else_is_not_touched(site, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.jpg").write_bytes(b"mine")
    with pytest.raises(DownloadError, match="not made by this command"):
        fetch(site, tmp_path)
    assert site.asked() == [] and (tmp_path / "images" / "1.jpg").read_bytes() == b"mine"
    (tmp_path / "images" / "1.jpg").unlink()  # an empty one is nobody's
    fetch(site, tmp_path)
    assert_whole(tmp_path)


def test_a_disk_too_small_is_seen_before_the_zip_is_fetched(site, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(archives.shutil, "disk_usage", lambda _: SimpleNamespace(free=int(1.9 * SIZE)))
        with pytest.raises(DownloadError, match=r"fetching ena24.zip needs 83\.\dkB of disk and 77\.\dkB are free"):
            fetch(site, tmp_path)
    assert not part(tmp_path).exists()
    fetch(site, tmp_path)
    assert_whole(tmp_path)


def test_a_disk_that_fills_up_all_the_same_keeps_what_came(site, tmp_path, monkeypatch):
    def blocks(answer: object) -> Iterator[bytes]:
        for number, block in enumerate(real(answer)):
            if number == 5 and part(tmp_path).exists():
                raise OSError(errno.ENOSPC, "No space left on device")
            yield block

    real = transfer._blocks
    with monkeypatch.context() as patched:
        patched.setattr(transfer, "_blocks", blocks)
        with pytest.raises(DownloadError, match=r"disk filled up .*run the same command again"):
            fetch(site, tmp_path)
    assert part(tmp_path).stat().st_size == 5_000
    fetch(site, tmp_path)
    assert site.asked() == [None, 5_000]
    assert_whole(tmp_path)


def test_no_server_is_asked_to_pack_what_is_packed_already(site, tmp_path):
    fetch(site, tmp_path)
    assert site.encodings == {"identity"}, "ranges of a file and of its packed form are not the same bytes"


def test_two_at_once_do_not_fight(site, tmp_path):
    (tmp_path / ".download").mkdir()
    with FileLock(tmp_path / ".download" / "lock"), pytest.raises(DownloadError, match="another download"):
        fetch(site, tmp_path)
    assert site.log == []
    fetch(site, tmp_path)


def test_a_damaged_list_of_digests_is_not_passed_over(site, tmp_path):
    fetch(site, tmp_path)
    (tmp_path / ".download" / "first-seen.json").write_text("{}{")
    with pytest.raises(DownloadError, match="not the list of digests"):
        fetch(site, tmp_path)


@pytest.mark.parametrize("mirror", ["ftp://host/x", "host/x", "https://", "file:///x", " "])
def test_a_mirror_is_a_web_address(tmp_path, mirror):
    with pytest.raises(DownloadError, match="must be a web address"):
        download(tmp_path, mirror=mirror)


def test_a_file_is_no_place_for_a_dataset(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DownloadError, match="needs a folder"):
        download(tmp_path / "file")


def test_a_secure_address_must_not_lead_to_an_open_one(site, tmp_path, monkeypatch):
    real = requests.Session.get
    monkeypatch.setattr(requests.Session, "get", lambda s, url, **o: real(s, url.replace("https", "http"), **o))
    with pytest.raises(DownloadError, match="leads on to http://"):
        fetch(site, tmp_path, mirror=site.url.replace("http", "https"))


def test_nobody_there(site, tmp_path):
    site.close()
    with pytest.raises(DownloadError, match="gave up after 8 tries"):
        fetch(site, tmp_path)


def test_progress_is_shown_unless_quiet(site, tmp_path, capsys):
    site.misbehave(CUT, Act())
    fetch(site, tmp_path / "loud", quiet=False)
    shown = capsys.readouterr()
    assert all(word in shown.err for word in ("ena24.zip", "try 2", "10.0k/", "verifying", "unpacking"))
    fetch(site, tmp_path / "quiet")
    silent = capsys.readouterr()
    assert shown.out + silent.out + silent.err == ""
