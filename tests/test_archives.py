"""Does a zip become exactly its pictures, and does a hostile or damaged one become nothing?"""

from __future__ import annotations

import stat
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ena24ssd import archives
from ena24ssd.archives import ArchiveError, check, read_unpacked, survey, unpack

PICTURES = {f"{n}.jpg": bytes(range(n, 200)) * 20 for n in range(1, 6)}


def pack(folder: Path, files: dict[str, bytes], *, change: Callable[[zipfile.ZipInfo], None] | None = None) -> Path:
    """A stored zip of ``files``; ``change`` may touch the entry of the last."""
    path = folder / "traps.zip"
    with zipfile.ZipFile(path, "w") as target:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            if change is not None and name == list(files)[-1]:
                change(entry)
            target.writestr(entry, content)
    return path


def patch(path: Path, offset: int, value: bytes, *, local: int | None = None) -> Path:
    """Overwrite a field of the last entry in the table of contents (``offset``) and at the entry itself (``local``)."""
    raw = bytearray(path.read_bytes())
    for signature, place in ((b"PK\x01\x02", offset), (b"PK\x03\x04", local)):
        if place is not None:
            start = raw.rindex(signature) + place
            raw[start : start + len(value)] = value
    path.write_bytes(raw)
    return path


def unpack_in(folder: Path, archive: Path, **options) -> archives.Unpacked:
    return unpack(archive, folder / "images", folder / "staging", sha256="0" * 64, quiet=True, **options)


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != archives.MARKER)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


LAYOUTS = {
    "pictures at the top stay there": ("{}", ()),
    "a folder around all of them is cut off": ("ena24/{}", ()),
    "so are three": ("lila/ena24/images/{}", ()),
    "as much is cut off as the annotations do not know": ("ena24/cam1/{}", ("cam1/1.jpg", "cam1/2.jpg", "cam1/99.jpg")),
    "nothing is cut off where they know it all": ("images/cam1/{}", ("images/cam1/1.jpg",)),
}


@pytest.mark.parametrize(("layout", "wanted"), LAYOUTS.values(), ids=LAYOUTS)
def test_every_picture_comes_out_as_it_went_in(tmp_path, layout, wanted):
    archive = pack(tmp_path, {layout.format(name): data for name, data in PICTURES.items()})
    prefix = wanted[0].removesuffix("1.jpg") if wanted else ""
    result = unpack_in(tmp_path, archive, wanted=wanted)
    assert content(tmp_path / "images") == {prefix + name: data for name, data in PICTURES.items()}
    assert result.files == {prefix + name: len(data) for name, data in PICTURES.items()}
    assert read_unpacked(tmp_path / "images") == result
    assert not (tmp_path / "staging").exists()


def test_deflated_pictures_in_folders_of_their_own(tmp_path):
    path = tmp_path / "traps.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        target.mkdir("a") if hasattr(target, "mkdir") else target.writestr("a/", b"")
        target.writestr("a/1.jpg", bytes(range(256)))
        target.writestr("b/1.JPEG", bytes(range(255)))
    check(path, quiet=True)
    unpack_in(tmp_path, path)
    assert content(tmp_path / "images") == {"a/1.jpg": bytes(range(256)), "b/1.JPEG": bytes(range(255))}


def test_what_is_no_picture_stays_in_the_zip(tmp_path):
    others = {"__MACOSX/._1.jpg": b"x", "x/.2.jpg": b"x", "readme.txt": b"x", "Thumbs.db": b"x", "run.exe": b"MZ"}
    unpack_in(tmp_path, pack(tmp_path, {f"x/{name}": data for name, data in PICTURES.items()} | others))
    assert content(tmp_path / "images") == PICTURES


def link(entry: zipfile.ZipInfo) -> None:
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16


def device(entry: zipfile.ZipInfo) -> None:
    entry.external_attr = (stat.S_IFBLK | 0o600) << 16


NAMES = {
    "climbs out": ("../evil.jpg", "leads out"),
    "climbs out half-way": ("a/../../evil.jpg", "leads out"),
    "climbs and comes back": ("a/../evil.jpg", "leads out"),
    "is absolute": ("/etc/evil.jpg", "leads out"),
    "is a network share": ("//host/share/evil.jpg", "leads out"),
    "climbs out with backslashes": ("..\\evil.jpg", "every system"),
    "is absolute with backslashes": ("\\evil.jpg", "every system"),
    "names a drive": ("C:/evil.jpg", "every system"),
    "names a drive without a slash": ("C:evil.jpg", "every system"),
    "hides in a stream of another file": ("1.jpg:evil.jpg", "every system"),
    "is a device of Windows": ("nul.jpg", "every system"),
    "has a folder that is one": ("com1/evil.jpg", "every system"),
    "has an empty part": ("a//evil.jpg", "every system"),
    "has a part that means here": ("./evil.jpg", "every system"),
    "ends a folder in a dot, which Windows drops": ("a./evil.jpg", "every system"),
    "ends in a space, which Windows drops": ("a /evil.jpg", "every system"),
    "writes to the terminal": ("evil\x1b[2J.jpg", "every system"),
    "is too long for a disk": ("e" * 300 + ".jpg", "more than 200 bytes"),
    "is there twice": ("1.jpg", "twice"),
    "is there twice but for capitals": ("1.JPG", "twice"),
    "lies in a folder that is a file": ("1.jpg/evil.jpg", "both as a file and as a folder"),
    "is no picture and climbs out all the same": ("../evil.txt", "leads out"),
    "is a folder outside": ("../evil/", "leads out"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(("name", "reason"), NAMES.values(), ids=NAMES)
def test_a_zip_is_refused_for_a_name_that(tmp_path, name, reason):
    inside = tmp_path / "inside"
    inside.mkdir()
    archive = pack(inside, PICTURES)
    with zipfile.ZipFile(archive, "a") as target:
        target.writestr(zipfile.ZipInfo(name), b"evil")
    before = content(tmp_path)
    with pytest.raises(ArchiveError, match=reason):
        unpack_in(inside, archive)
    assert content(tmp_path) == before


def nul_in_name(path: Path) -> Path:
    path.write_bytes(path.read_bytes().replace(b"evil#.txt", b"evil\0.txt"))
    return path


EVIL = PICTURES | {"evil.jpg": b"evil" * 100}
ATTACKS = {
    "a link": (lambda f: pack(f, EVIL, change=link), "link or a device"),
    "a device": (lambda f: pack(f, EVIL, change=device), "link or a device"),
    "a name with a NUL": (lambda f: nul_in_name(pack(f, PICTURES | {"evil#.txt": b""})), "every system"),
    "an encrypted entry": (lambda f: patch(pack(f, EVIL), 8, b"\x01\0", local=6), "encrypted"),
    "an unknown compression": (lambda f: patch(pack(f, EVIL), 10, b"\x0c\0", local=8), "method 12"),
    "a table that says gigabytes": (
        lambda f: patch(pack(f, EVIL), 24, struct.pack("<L", 4_000_000_000)),
        "4,000,000,000 bytes",
    ),
    "a table that says more than is there": (lambda f: patch(pack(f, EVIL), 24, struct.pack("<L", 500)), "damaged"),
    "a table that says less than is there": (lambda f: patch(pack(f, EVIL), 24, struct.pack("<L", 300)), "damaged"),
    "another checksum": (lambda f: patch(pack(f, EVIL), 16, b"\1\2\3\4", local=14), "damaged"),
    "another name at the entry than in the table": (lambda f: patch(pack(f, EVIL), 46, b"x"), "damaged"),
    "no picture": (lambda f: pack(f, {"readme.txt": b"x"}), "no picture among 1"),
    "nothing": (lambda f: pack(f, {}), "no picture among 0"),
}


@pytest.mark.parametrize(("build", "reason"), ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize("verb", [check, None], ids=["checked", "unpacked"])
def test_a_zip_is_refused_for(tmp_path, build, reason, verb):
    archive = build(tmp_path)
    with pytest.raises(ArchiveError, match=reason) as refusal:
        check(archive, quiet=True) if verb else unpack_in(tmp_path, archive)
    assert "traps.zip" in str(refusal.value) and "elete it" in str(refusal.value).replace("the zip", "it")
    assert not (tmp_path / "images").exists() and not (tmp_path / "staging" / "evil.jpg").exists()


LIMITS = {
    "entries": ("MOST_ENTRIES", 4, "lists 5 entries; 4"),
    "bytes in all": ("LARGEST_TOTAL", 10_000, "unpacks to"),
    "bytes of a file": ("LARGEST_FILE", 3_000, "limit for one file"),
}


@pytest.mark.parametrize(("limit", "value", "reason"), LIMITS.values(), ids=LIMITS)
def test_a_zip_is_refused_for_too_many(tmp_path, monkeypatch, limit, value, reason):
    monkeypatch.setattr(archives, limit, value)
    with pytest.raises(ArchiveError, match=reason):
        survey(pack(tmp_path, PICTURES))


def test_a_zip_bomb_is_refused_by_its_ratio(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("1.jpg", bytes(1_000_000))
    with pytest.raises(ArchiveError, match="20 to 1"):
        survey(tmp_path / "bomb.zip")


def test_a_zip_of_other_pictures_is_refused(tmp_path):
    with pytest.raises(ArchiveError, match=r"none of its 5 pictures .* is one of the 1 that the annotations list"):
        check(pack(tmp_path, PICTURES), ["other.jpg"], quiet=True)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9, 0.999], ids="{:.1%} of the bytes".format)
def test_a_cut_zip_is_no_zip(tmp_path, share):
    archive = pack(tmp_path, PICTURES)
    whole = archive.read_bytes()
    archive.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ArchiveError, match="no whole zip"):
        survey(archive)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 255))
@example(29, 7)  # an entry that seems to lie behind the end of the zip
@example(1947, 1)  # one that seems to lie before its start
def test_no_flipped_byte_yields_a_changed_picture(place, flip):
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        archive = pack(folder, {name: data[:300] for name, data in PICTURES.items()})
        raw = bytearray(archive.read_bytes())
        raw[place % len(raw)] ^= flip
        archive.write_bytes(raw)
        try:
            unpack_in(folder, archive)
        except ArchiveError:
            assert not (folder / "images").exists()
        else:  # the flip hit a date, a right, a comment or a name
            assert set(content(folder / "images").values()) <= {data[:300] for data in PICTURES.values()}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@settings(max_examples=150, deadline=None)
@given(st.text(max_size=12), st.sampled_from(["", ".jpg", "/x.jpg"]))
@example("..", "/x.jpg")
@example("C:", "/x.jpg")
@example(archives.MARKER, "/x.jpg")
def test_whatever_the_name_nothing_leaves_the_folder(name, ending):
    with tempfile.TemporaryDirectory() as scratch:
        outer = Path(scratch)
        inner = outer / "inner"
        inner.mkdir()
        archive = outer / "traps.zip"
        try:
            with zipfile.ZipFile(archive, "w") as target:
                target.writestr(zipfile.ZipInfo("0.jpg"), b"first")
                target.writestr(zipfile.ZipInfo(name + ending), b"second")
        except (UnicodeEncodeError, ValueError):
            return  # cannot even be written
        try:
            unpack_in(inner, archive)
        except ArchiveError:
            pass
        else:
            assert content(inner / "images")["0.jpg"] == b"first"
        assert sorted(path.name for path in outer.iterdir()) == ["inner", "traps.zip"]
        assert {path.name for path in inner.iterdir()} <= {"images", "staging"}


def test_an_interrupted_unpacking_goes_on_where_it_was(tmp_path, monkeypatch):
    archive = pack(tmp_path, PICTURES)
    real, written = archives.replacing, []

    def replacing(path: Path):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path.name)
        return real(path)

    monkeypatch.setattr(archives, "replacing", replacing)
    with pytest.raises(KeyboardInterrupt):
        unpack_in(tmp_path, archive)
    assert not (tmp_path / "images").exists() and len(content(tmp_path / "staging")) == 3
    # What a crash may leave: a half-written file, one cut to nothing, one of the right length and wrong bytes.
    (tmp_path / "staging" / ".4.jpg.123.part").write_bytes(b"half")
    (tmp_path / "staging" / "1.jpg").write_bytes(bytes(len(PICTURES["1.jpg"])))
    (tmp_path / "staging" / "2.jpg").write_bytes(b"")

    written.clear()
    monkeypatch.setattr(archives, "replacing", lambda path: written.append(path.name) or real(path))
    unpack_in(tmp_path, archive)
    assert sorted(written) == ["1.jpg", "2.jpg", "4.jpg", "5.jpg"]
    assert content(tmp_path / "images") == PICTURES


LOSSES = {
    "a picture is gone": lambda folder: (folder / "2.jpg").unlink(),
    "a picture is cut short": lambda folder: (folder / "2.jpg").write_bytes(b"short"),
    "the marker is damaged": lambda folder: (folder / archives.MARKER).write_bytes(b"{"),
}


@pytest.mark.parametrize("lose", LOSSES.values(), ids=LOSSES)
def test_a_folder_is_not_whole_and_is_mended_when(tmp_path, lose):
    archive = pack(tmp_path, PICTURES)
    unpack_in(tmp_path, archive)
    (tmp_path / "images" / "my notes.txt").write_text("kept")
    lose(tmp_path / "images")
    assert read_unpacked(tmp_path / "images") is None
    result = unpack_in(tmp_path, archive)
    assert content(tmp_path / "images") == PICTURES | {"my notes.txt": b"kept"}
    assert read_unpacked(tmp_path / "images") == result


def test_a_full_disk_is_seen_before_anything_is_written(tmp_path, monkeypatch):
    archive = pack(tmp_path, PICTURES)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(ArchiveError, match=r"needs 20\.\dk?B .*1\.00kB are free.*--to"):
        unpack_in(tmp_path, archive)
    assert not content(tmp_path / "staging")
