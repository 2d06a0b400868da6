"""Does every picture come to lie where it belongs, once, and is everything else left alone?"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ena24ssd import sorting
from ena24ssd.boxes import Box
from ena24ssd.crops import Crops
from ena24ssd.detections import Detection, ImageDetections
from ena24ssd.drawings import Drawings
from ena24ssd.pictures import read_picture
from ena24ssd.sorting import Sorting, clear_unfinished, make_folder_of, name_below, name_folders, require_apart
from ena24ssd.thresholds import Thresholds

SPECIES = ("Bird", "Raccoon", "Red Fox")
THRESHOLDS = Thresholds(0.5, {"Red Fox": 0.8})
posix = pytest.mark.skipif(os.name == "nt", reason="names, links and permissions as only POSIX has them")
linux = pytest.mark.skipif(sys.platform != "linux", reason="names that are no text, as only Linux has them")


def seen(file: Path, *found: tuple[str, float]) -> ImageDetections:
    """A picture of 40 x 30 pixels with these species and scores."""
    detections = [Detection(SPECIES.index(name), name, score, Box(5, 5, 20, 20)) for name, score in found]
    return ImageDetections(str(file), 40, 30, tuple(detections))


def failed(file: Path) -> ImageDetections:
    return ImageDetections(str(file), None, None, failure="damaged")


def photograph(file: Path, colour: tuple[int, int, int] = (90, 120, 60)) -> Path:
    """A small picture, taken in 2015."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), colour).save(file, "PNG" if file.suffix == ".png" else "JPEG")
    os.utime(file, ns=(1_430_000_000_000_000_000, 1_430_000_001_123_456_000))
    return file


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def no_picture() -> Image.Image:
    raise AssertionError("sorting has no need to decode")


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    return tmp_path / "trap"


def sort(trap: Path, how: sorting.How = "copy", class_names=SPECIES) -> Sorting:
    return Sorting(trap.parent / "sorted", trap, THRESHOLDS, class_names, how)


# -- where a picture comes to lie --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["copy", "hardlink", "symlink"])
@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param([("Bird", 0.9)], {"Bird"}, id="one species"),
        pytest.param([("Bird", 0.9), ("Bird", 0.7)], {"Bird"}, id="two of one species: one file"),
        pytest.param([("Bird", 0.9), ("Raccoon", 0.6)], {"Bird", "Raccoon"}, id="two species: in both folders"),
        pytest.param([("Raccoon", 0.5)], {"Raccoon"}, id="a score just at the threshold counts"),
        pytest.param([("Raccoon", 0.49)], {"blank"}, id="what does not count leaves a blank"),
        pytest.param([("Red Fox", 0.7), ("Bird", 0.6)], {"Bird"}, id="a species with a threshold of its own"),
        pytest.param([], {"blank"}, id="nothing found"),
    ],
)
def test_a_picture_lies_in_the_folder_of(how, found, expected, trap):
    file = photograph(trap / "cam1" / "IMG_1.JPG")
    sort(trap, how)(seen(file, *found), no_picture)
    assert names_in(trap.parent / "sorted") == {f"{folder}/cam1/IMG_1.JPG" for folder in expected}
    for folder in expected:
        target = trap.parent / "sorted" / folder / "cam1" / "IMG_1.JPG"
        assert target.read_bytes() == file.read_bytes()
        assert target.stat().st_mtime_ns == file.stat().st_mtime_ns
        assert target.is_symlink() == (how == "symlink")
        assert target.samefile(file) == (how != "copy")


@pytest.mark.parametrize("how", ["copy", "hardlink", "symlink"])
def test_what_gave_no_picture_lies_with_the_unreadable(how, trap):
    file = trap / "a.jpg"
    trap.mkdir()
    for name, content in (("a.jpg", b"<html>"), ("empty.jpg", b"")):
        (trap / name).write_bytes(content)
        sort(trap, how)(failed(trap / name), no_picture)
    assert names_in(trap.parent / "sorted") == {"unreadable/a.jpg", "unreadable/empty.jpg"}
    assert (trap.parent / "sorted/unreadable/a.jpg").read_bytes() == file.read_bytes()


@pytest.mark.parametrize("how", ["copy", "hardlink", "symlink"])
@pytest.mark.parametrize("kind", ["gone", "folder", "dangling", pytest.param("pipe", marks=posix)])
def test_what_is_no_file_is_left_out(kind, how, trap):
    trap.mkdir()
    file = trap / "a.jpg"
    make = {"gone": lambda: None, "folder": file.mkdir, "dangling": lambda: file.symlink_to("nowhere")}
    (make | {"pipe": lambda: os.mkfifo(file)})[kind]()
    for image in (failed(file), seen(file, ("Bird", 0.9))):
        sort(trap, how)(image, no_picture)
    assert not (trap.parent / "sorted").exists()


def test_a_picture_on_a_bad_sector_is_left_out(trap, monkeypatch):
    file = photograph(trap / "a.jpg")

    class Broken:
        def read(self, size):
            raise OSError(errno.EIO, "Input/output error")

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    open_ = Path.open
    monkeypatch.setattr(Path, "open", lambda path, mode: Broken() if path == file else open_(path, mode))
    sort(trap)(failed(file), no_picture)
    assert not (trap.parent / "sorted").exists()


# -- the same again ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["copy", "hardlink", "symlink"])
@pytest.mark.parametrize("again", ["copy", "hardlink", "symlink"])
def test_a_picture_that_is_there_is_left_as_it_is(first, again, trap):
    file = photograph(trap / "a.jpg")
    target = trap.parent / "sorted" / "Bird" / "a.jpg"
    sort(trap, first)(seen(file, ("Bird", 0.9)), no_picture)
    before = target.lstat()
    sort(trap, again)(seen(file, ("Bird", 0.9)), no_picture)
    assert (target.lstat().st_ino, target.lstat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert names_in(trap.parent / "sorted") == {"Bird/a.jpg"}


@pytest.mark.parametrize("how", ["copy", "hardlink", "symlink"])
@pytest.mark.parametrize("there", ["shorter", "longer", "other", "folder", "dangling link", "link to another picture"])
def test_what_is_there_and_is_not_the_picture_is_refused_and_kept(there, how, trap):
    file, other = photograph(trap / "a.jpg"), photograph(trap / "b.jpg", (0, 0, 0))
    content, target = file.read_bytes(), trap.parent / "sorted" / "Bird" / "a.jpg"
    target.parent.mkdir(parents=True)
    if there == "folder":
        target.mkdir()
    elif there.endswith("picture"):
        target.symlink_to(other)
    elif there == "dangling link":
        target.symlink_to("nowhere")
    else:
        target.write_bytes({"shorter": content[:-1], "longer": content + b"!", "other": bytes(len(content))}[there])
    before = (target.lstat(), other.read_bytes())
    with pytest.raises(FileExistsError, match=r"Bird.a\.jpg: is there already and is not .*another folder"):
        sort(trap, how)(seen(file, ("Bird", 0.9)), no_picture)
    assert (target.lstat(), other.read_bytes()) == before
    assert not [name for name in names_in(trap.parent / "sorted") if name.endswith(".part")]


def test_two_cards_with_the_same_names_do_not_mix(tmp_path):
    first, second = photograph(tmp_path / "card1/a.jpg"), photograph(tmp_path / "card2/a.jpg", (0, 0, 9))
    Sorting(tmp_path / "sorted", tmp_path / "card1", THRESHOLDS, SPECIES)(seen(first), no_picture)
    with pytest.raises(FileExistsError, match="card2"):
        Sorting(tmp_path / "sorted", tmp_path / "card2", THRESHOLDS, SPECIES)(seen(second), no_picture)


class PowerCut(BaseException):
    """Not an Exception: nothing in the code is meant to catch it."""


@pytest.mark.parametrize("call", ["fsync", "utime", "link"])
def test_after_a_crash_there_is_nothing_or_the_whole_picture_and_it_can_come_again(call, trap, monkeypatch):
    file = photograph(trap / "a.jpg")
    sorted_ = trap.parent / "sorted"

    def crash(*_, **__):
        raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(os, call, crash)
        with pytest.raises(PowerCut):
            sort(trap)(seen(file, ("Bird", 0.9)), no_picture)
    assert names_in(sorted_) == set()
    sort(trap)(seen(file, ("Bird", 0.9)), no_picture)
    assert names_in(sorted_) == {"Bird/a.jpg"}


KILLED = """
import os, sys
from pathlib import Path
from ena24ssd.detections import ImageDetections
from ena24ssd.sorting import Sorting
from ena24ssd.thresholds import Thresholds
os.link = lambda *_: os._exit(9)
Sorting(Path("sorted"), Path("trap"), Thresholds(0.5), ())(ImageDetections("trap/a.jpg", 40, 30), None)
"""


def test_what_a_killed_process_leaves_can_be_cleared(trap):
    photograph(trap / "a.jpg")
    code = subprocess.run([sys.executable, "-c", KILLED], cwd=trap.parent, check=False).returncode
    assert code == 9
    assert len(names_in(trap.parent / "sorted")) == 1
    sorted_ = trap.parent / "sorted"
    own = [".hidden", "x.part", ".x.part", ".x.holiday1.part", "a.12345678.part"]
    for name in own:
        (sorted_ / name).touch()
    (sorted_ / ".a b.jpg.0123abcd.part").touch()
    assert clear_unfinished(sorted_) == 2
    assert names_in(sorted_) == set(own)
    assert clear_unfinished(sorted_ / "nowhere") == 0


def test_another_process_that_sorts_the_same_picture_does_no_harm(trap, monkeypatch):
    file = photograph(trap / "a.jpg")
    target = trap.parent / "sorted" / "Bird" / "a.jpg"
    monkeypatch.setattr(os.path, "lexists", lambda _: False)  # looked just before the other one was done
    for content, faulty in ((file.read_bytes(), False), (b"else", True)):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        for how in ("copy", "hardlink", "symlink"):
            if faulty:
                with pytest.raises(FileExistsError):
                    sort(trap, how)(seen(file, ("Bird", 0.9)), no_picture)
            else:
                sort(trap, how)(seen(file, ("Bird", 0.9)), no_picture)
            assert target.read_bytes() == content
    assert names_in(trap.parent / "sorted") == {"Bird/a.jpg"}


# -- disks -------------------------------------------------------------------------------------------------------------


def refuse(code: int):
    def call(*arguments, **_):
        raise OSError(code, os.strerror(code), *map(str, arguments[:1]))

    return call


@pytest.mark.parametrize(
    ("how", "call", "code", "message"),
    [
        pytest.param("hardlink", "link", errno.EXDEV, "--sort-as copy or symlink", id="another disk"),
        pytest.param("hardlink", "link", errno.EPERM, "--sort-as copy or symlink", id="a disk without hard links"),
        pytest.param("hardlink", "link", errno.EMLINK, "--sort-as copy or symlink", id="too many links"),
        pytest.param("symlink", "symlink", errno.EPERM, "--sort-as copy or hardlink", id="a disk without symlinks"),
        pytest.param("copy", "fsync", errno.ENOSPC, r"Bird.a\.jpg", id="a full disk"),
    ],
)
def test_what_the_disk_cannot_do_is_said_and_nothing_else_is_done_instead(how, call, code, message, trap, monkeypatch):
    file = photograph(trap / "a.jpg")

    def full(*_):
        raise OSError(code, os.strerror(code))  # a full disk names no file

    monkeypatch.setattr(os, call, full if call == "fsync" else refuse(code))
    with pytest.raises(OSError, match=message) as error:
        sort(trap, how)(seen(file, ("Bird", 0.9)), no_picture)
    assert os.strerror(code) in str(error.value)
    assert names_in(trap.parent / "sorted") == set()


def test_a_copy_onto_a_memory_card_that_knows_no_links(trap, monkeypatch):
    file = photograph(trap / "a.jpg")
    monkeypatch.setattr(os, "link", refuse(errno.EPERM))
    for _ in range(2):
        sort(trap)(seen(file, ("Bird", 0.9)), no_picture)
    assert names_in(trap.parent / "sorted") == {"Bird/a.jpg"}
    assert (trap.parent / "sorted/Bird/a.jpg").read_bytes() == file.read_bytes()


def test_a_file_where_a_folder_must_be_is_named(trap):
    file = photograph(trap / "a.jpg")
    (trap.parent / "sorted").mkdir()
    (trap.parent / "sorted" / "Bird").write_text("notes")
    with pytest.raises(OSError, match=r"sorted.Bird.a\.jpg: its folder cannot be made .*sorted.Bird"):
        sort(trap)(seen(file, ("Bird", 0.9)), no_picture)
    assert (trap.parent / "sorted" / "Bird").read_text() == "notes"


def test_links_survive_when_pictures_and_sorted_are_moved_together(tmp_path):
    file = photograph(tmp_path / "disk" / "trap" / "cam1" / "a.jpg")
    Sorting(tmp_path / "disk/sorted", tmp_path / "disk/trap", THRESHOLDS, SPECIES, "symlink")(seen(file), no_picture)
    content = file.read_bytes()
    (tmp_path / "disk").rename(tmp_path / "disk2")
    assert (tmp_path / "disk2/sorted/blank/cam1/a.jpg").read_bytes() == content


def test_links_lead_to_the_picture_through_folders_that_are_links(tmp_path):
    file = photograph(tmp_path / "far" / "away" / "trap" / "a.jpg")
    (tmp_path / "deep" / "down").mkdir(parents=True)
    (tmp_path / "near").symlink_to(tmp_path / "far" / "away")
    (tmp_path / "out").symlink_to(tmp_path / "deep" / "down")
    image = seen(tmp_path / "near" / "trap" / "a.jpg")
    Sorting(tmp_path / "out" / "sorted", tmp_path / "near", THRESHOLDS, SPECIES, "symlink")(image, no_picture)
    assert (tmp_path / "deep/down/sorted/blank/trap/a.jpg").samefile(file)


def test_on_two_disks_a_link_has_the_whole_path(trap, monkeypatch):
    file = photograph(trap / "a.jpg")
    stat = os.stat

    def other_disk(path, **options):
        status = stat(path, **options)
        return os.stat_result((*status[:2], 4711, *status[3:])) if str(path) == str(file) else status

    monkeypatch.setattr(os, "stat", other_disk)
    sort(trap, "symlink")(seen(file), no_picture)
    assert os.readlink(trap.parent / "sorted/blank/a.jpg") == os.path.realpath(file)


@pytest.mark.parametrize("how", ["copy", "hardlink", "symlink"])
def test_an_original_that_is_a_link_itself_is_followed(how, trap):
    file = photograph(trap.parent / "store" / "0001.jpg")
    trap.mkdir()
    (trap / "a.jpg").symlink_to(file)
    sort(trap, how)(seen(trap / "a.jpg"), no_picture)
    target = trap.parent / "sorted/blank/a.jpg"
    assert target.read_bytes() == file.read_bytes()
    assert target.is_symlink() == (how == "symlink")
    if how == "hardlink":
        assert target.stat().st_ino == file.stat().st_ino


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["copy", "hardlink", "symlink"])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("a\nb\tc.jpg", id="newline and tab", marks=posix),
        pytest.param("\u00c4\u00f6\u732b\U0001f98a/e\u0301.jpg", id="letters beyond ASCII"),
        pytest.param(os.fsdecode(b"\xff\xfe/caf\xe9.jpg"), id="bytes that are no text", marks=linux),
        pytest.param("x" * 251 + ".jpg", id="as long as a name can be", marks=posix),
        pytest.param("/".join(["y" * 100] * 9) + "/a.jpg", id="900 letters deep", marks=posix),
        pytest.param(" .hidden /..a.jpg", id="dots and spaces", marks=posix),
        pytest.param("a.jpg/b.jpg", id="in a folder called a.jpg"),
        pytest.param("-rf", id="like an option, without extension"),
    ],
)
def test_a_picture_keeps_its_name_whatever_that_is(name, how, trap):
    file = photograph(trap / name)
    for _ in range(2):
        sort(trap, how)(seen(file, ("Raccoon", 0.9)), no_picture)
    assert names_in(trap.parent / "sorted") == {f"Raccoon/{name}"}


@posix
def test_folders_may_be_deeper_than_python_calls_functions(trap):
    file, into = trap.joinpath(*["d"] * 1100, "a.jpg"), trap.parent / "into"
    try:
        make_folder_of(file)
        photograph(file)
        for _ in range(2):
            Sorting(into / "sorted", trap, THRESHOLDS, SPECIES)(seen(file, ("Bird", 0.9)), no_picture)
            Drawings(into / "drawn", trap, THRESHOLDS)(seen(file), lambda: read_picture(file))
        assert (into / "sorted" / "Bird" / file.relative_to(trap)).read_bytes() == file.read_bytes()
        assert clear_unfinished(into) == 0
    finally:
        subprocess.run(["rm", "-r", trap, into], check=True)  # pytest removes no tree so deep


def test_a_picture_outside_the_root_is_refused(trap):
    outside = photograph(trap.parent / "elsewhere" / "a.jpg")
    for path in (outside, trap / ".." / "elsewhere" / "a.jpg"):
        with pytest.raises(ValueError, match="does not lie in"):
            sort(trap)(seen(path, ("Bird", 0.9)), no_picture)
    assert not (trap.parent / "sorted").exists()


def test_a_way_round_gives_the_plain_name(trap):
    assert name_below(trap / "cam1" / ".." / "cam2" / "a.jpg", trap) == Path("cam2/a.jpg")


@pytest.mark.parametrize(
    ("species", "folder"),
    [
        pytest.param("Red Fox", "Red Fox", id="a plain name stays"),
        pytest.param("Rotf\u00fcchsin \u72d0", "Rotf\u00fcchsin \u72d0", id="so do letters of any script"),
        pytest.param("bear/cub", "bear_cub", id="slash"),
        pytest.param('a\\b:c*d?e"f<g>h|i', "a_b_c_d_e_f_g_h_i", id="what Windows forbids"),
        pytest.param("a\nb\0c\u2028d", "a_b_c_d", id="control characters and line ends"),
        pytest.param("..", "_", id="the folder above"),
        pytest.param("../../etc", "_.._.._etc", id="a way out"),
        pytest.param(".git", "_.git", id="a hidden folder"),
        pytest.param("", "_", id="no name"),
        pytest.param("   ", "_", id="blanks only"),
        pytest.param(" Fox. ", "Fox", id="blanks and dots around"),
        pytest.param("CON", "_CON", id="a Windows device"),
        pytest.param("nul.txt", "_nul.txt", id="a device with an ending"),
        pytest.param("COM\u00b9", "_COM\u00b9", id="a device with a raised digit"),
        pytest.param("\udcff", "_", id="half a letter"),
    ],
)
def test_a_species_becomes_a_folder(species, folder):
    assert name_folders([species]) == {species: folder}


@pytest.mark.parametrize(
    "species",
    [
        pytest.param(["Fox", "fox", "FOX"], id="capitals"),
        pytest.param(["a/b", "a_b", "a:b"], id="signs that became one"),
        pytest.param(["B\u00e4r", "Ba\u0308r"], id="accents written in two ways"),
        pytest.param(["Stra\u00dfe", "STRASSE"], id="capitals of a sharp s"),
        pytest.param(["blank", "Unreadable"], id="the names of our own folders"),
        pytest.param(["", " ", ".."], id="nothing left"),
        pytest.param(["x" * 300, "x" * 301], id="long names"),
        pytest.param(["\u72d0" * 100, "\u72d0" * 101], id="long names of long letters"),
    ],
)
def test_names_that_would_fall_together_are_kept_apart_whatever_their_order(species):
    folders = name_folders(species)
    assert folders == {name: name_folders(reversed(species))[name] for name in species}
    assert len({folder.casefold() for folder in [*folders.values(), "blank", "unreadable"]}) == len(species) + 2


@settings(deadline=None)
@given(st.lists(st.text(st.characters(), max_size=12) | st.text("aA./ \u00e4\udcff", max_size=4), unique=True))
def test_any_names_become_folders_of_their_own_that_every_system_takes(species):
    folders = name_folders(species)
    alike = {unicodedata.normalize("NFC", folder).casefold() for folder in folders.values()}
    assert len(alike) == len(species)
    assert not alike & {"blank", "unreadable"}
    for folder in folders.values():
        assert 0 < len(folder.encode()) <= 100
        assert folder == folder.strip(" ").rstrip(".") and folder[0] != "."
        assert not set(folder) & set('<>:"/\\|?*\0\n')


# -- the folder must be one of its own ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "paths", "apart"),
    [
        pytest.param("out", ["trap"], True, id="beside the pictures"),
        pytest.param("new", ["trap"], True, id="not there yet"),
        pytest.param("trap/out", ["trap"], True, id="in the pictures' folder: the walk leaves it out"),
        pytest.param("trap", ["trap"], False, id="the pictures' folder"),
        pytest.param("trap/../trap/", ["trap"], False, id="the same, said in another way"),
        pytest.param(".", ["trap"], False, id="above the pictures"),
        pytest.param("link", ["trap"], False, id="a link to the pictures' folder"),
        pytest.param("trap", ["link"], False, id="pictures named by a link"),
        pytest.param("trap", ["trap/a.jpg"], False, id="where a picture lies"),
        pytest.param("trap", ["out", "trap/cam1"], False, id="above the second"),
        pytest.param("trap/cam1", ["trap/a.jpg"], True, id="below a picture that was named itself"),
    ],
)
def test_the_folder_lies_apart_from_the_pictures(folder, paths, apart, trap, monkeypatch):
    photograph(trap / "a.jpg")
    for name in ("cam1", "out", "../out"):
        (trap / name).mkdir()
    (trap.parent / "link").symlink_to(trap)
    monkeypatch.chdir(trap.parent)
    for base in (Path(), trap.parent):
        if apart:
            require_apart([base / folder], [base / path for path in paths])
        else:
            with pytest.raises(ValueError, match="must not lie among them"):
                require_apart([base / folder], [base / path for path in paths])


def test_a_file_is_no_folder_to_sort_into(trap):
    file = photograph(trap / "a.jpg")
    with pytest.raises(NotADirectoryError, match=r"a\.jpg: is a file"):
        require_apart([trap.parent / "new", file], [trap])


def test_another_way_to_sort_is_refused(trap):
    with pytest.raises(ValueError, match=r"'move'.*copy, hardlink, symlink"):
        sort(trap, "move")


# -- all three at once -------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=12)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a.jpg", "b.png", "cam1/a.jpg", "cam1/deep/\u00e9\n.JPG", "a.jpg.jpg"]),
            st.lists(st.tuples(st.sampled_from(SPECIES), st.sampled_from([0.06, 0.5, 0.79, 0.8, 1.0])), max_size=4),
            st.booleans(),
        ),
        unique_by=lambda row: row[0],
    ),
    st.sampled_from(["copy", "hardlink", "symlink"]),
)
def test_originals_and_what_lay_in_the_folder_stay_as_they_were(tmp_path_factory, rows, how):
    trap = tmp_path_factory.mktemp("any") / "trap"
    into = trap.parent / "into"
    photograph(into / "a.jpg", (1, 2, 3))
    photograph(into / "Bird" / "mine.jpg", (1, 2, 3))
    files = [photograph(trap / name, (40 * k, 9, 9)) for k, (name, _, _) in enumerate(rows)]

    def state(folder: Path):
        return {p: (p.read_bytes(), p.stat().st_mtime_ns, p.stat().st_mode) for p in folder.rglob("*") if p.is_file()}

    before, foreign = state(trap), state(into)
    actions = [
        Sorting(into, trap, THRESHOLDS, SPECIES, how),
        Crops(into / "cut", trap, THRESHOLDS, SPECIES),
        Drawings(into / "drawn", trap, THRESHOLDS),
    ]
    results = []
    for _ in range(2):
        for file, (_, found, broken) in zip(files, rows, strict=True):
            for action in actions:
                action(failed(file) if broken else seen(file, *found), lambda file=file: read_picture(file))
        results.append(state(into))
    assert state(trap) == before
    assert results[0] == results[1]
    assert {path: what for path, what in results[0].items() if path in foreign} == foreign
    assert not [path for path in results[0] if path.name.endswith(".part")]


def test_many_pictures_at_once_come_out_as_one_after_the_other(trap):
    files = [photograph(trap / f"cam{k % 3}" / f"{k}.jpg", (k, 0, 0)) for k in range(24)]
    images = [seen(file, (SPECIES[k % 3], 0.9), ("Bird", 0.6)) for k, file in enumerate(files)]
    trees = []
    for folder, threads in (("alone", 1), ("together", 8)):
        into = trap.parent / folder
        actions = [
            Sorting(into / "sorted", trap, THRESHOLDS, SPECIES),
            Crops(into / "cut", trap, THRESHOLDS, SPECIES),
            Drawings(into / "drawn", trap, THRESHOLDS),
        ]
        start = threading.Barrier(threads)

        def work(image, k, actions=actions, start=start, threads=threads):
            if k < threads:
                start.wait(timeout=10)
            for action in actions:
                action(image, lambda: read_picture(image.file))

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, images, range(len(images))))
        trees.append({name: (into / name).read_bytes() for name in names_in(into)})
    assert trees[0] == trees[1]
    assert len(trees[0]) > 3 * len(files)
