"""Does a memory card come to the same results whatever happens meanwhile, and whatever lies on it?"""

from __future__ import annotations

import csv
import gc
import io
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import predicting
import pytest
from PIL import Image
from predicting import (
    SIDE,
    SPECIES,
    Stub,
    all_words,
    chunk,
    predict_with_stub,
    stub_model,
    stubbed,
    tree,
    write_huge_png,
    write_pictures,
)

from ena24ssd import cli, prediction
from ena24ssd.detections import read_megadetector
from ena24ssd.detector import Detector
from ena24ssd.journal import read_journal
from ena24ssd.picturewalk import MARK
from ena24ssd.prediction import KEEP, Handling, Reading, predict

PICTURES = 22
JOURNAL = "found.json.journal"


class Interrupted(Stub):
    """A stub that asks for an end, by a signal to this process, when it has worked for a while."""

    def __init__(self, number: int, calls: int):
        self.number, self.calls = number, calls

    def detect(self, images: np.ndarray) -> np.ndarray:
        self.calls -= 1
        if self.calls == 0:
            os.kill(os.getpid(), self.number)
        return super().detect(images)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cards") / "7"
    write_pictures(folder, PICTURES)
    (folder / "cam1" / "broken.jpg").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def whole(pictures, tmp_path_factory) -> dict[str, bytes | str]:
    """What comes of a prediction that nobody interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    assert predict_with_stub(all_words(pictures, folder)) == 0
    found = tree(folder)
    assert not any("journal" in name or name.endswith(".part") for name in found)
    return found


def stop(words: list[object], calls: int = 3, number: int = signal.SIGTERM) -> int:
    return predict_with_stub(words, Interrupted(number, calls))


def journal_of(folder: Path) -> Path:
    return folder / JOURNAL


def assert_same(folder: Path, whole: dict[str, bytes | str]) -> None:
    found = tree(folder)
    assert found.keys() == whole.keys()
    for name, content in whole.items():
        assert found[name] == content, name


# -- ended early -------------------------------------------------------------------------------------------------------


def test_a_second_prediction_gives_the_same_files(pictures, whole, tmp_path):
    assert predict_with_stub(all_words(pictures, tmp_path)) == 0
    assert_same(tmp_path, whole)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_any_file_operation_nothing_is_lost(pictures, tmp_path, seed):
    command = [sys.executable, predicting.__file__, pictures, tmp_path, str(seed), "4"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[0]) >= 3, done.stdout


@pytest.mark.parametrize("number, name", [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "SIGINT")])
@pytest.mark.parametrize("calls", [1, 4, 6], ids=["in the first portion", "in the middle", "in the last portion"])
def test_who_is_asked_to_end_says_how_to_go_on(pictures, whole, tmp_path, capfd, number, name, calls):
    words = all_words(pictures, tmp_path)
    assert stop(words, calls, number) == 128 + number
    said = capfd.readouterr().err
    assert f"{name}: stopping" in said and f"of {PICTURES + 1} pictures" in said and "--resume goes on" in said
    noted = list(read_journal(journal_of(tmp_path)))
    assert 4 * (calls - 2) <= len(noted) <= 4 * calls, "handling goes on behind the network"
    assert not (tmp_path / "found.json").exists()
    assert predict_with_stub([*words, "--resume"]) == 0
    assert_same(tmp_path, whole)


@pytest.mark.parametrize("writer", ["write_megadetector", "write_csv", "write_coco_results"])
def test_an_end_while_the_results_are_written_costs_no_picture(pictures, whole, tmp_path, capsys, writer):
    from ena24ssd import outcome

    real, words = getattr(outcome, writer), all_words(pictures, tmp_path)

    def interrupted(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments, **options)

    with mock.patch.object(outcome, writer, interrupted):
        assert predict_with_stub(words) == 143
    assert "all pictures are noted" in (said := capsys.readouterr().err) and "--resume" in said
    with mock.patch.object(Stub, "detect", side_effect=AssertionError("nothing is left to detect")):
        assert predict_with_stub([*words, "--resume"]) == 0
    assert_same(tmp_path, whole)


def test_stopped_again_and_again_it_comes_to_an_end(pictures, whole, tmp_path):
    words = all_words(pictures, tmp_path)
    codes = [stop(words, 2)]
    while codes[-1]:
        codes.append(stop([*words, "--resume"], 2))
    assert set(codes[:-1]) == {143} and len(codes) > 2
    assert_same(tmp_path, whole)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: content[:-1], id="the last line lacks its end"),
        pytest.param(lambda content: content[:-200], id="the last line is torn"),
        pytest.param(lambda content: content[:-9] + b"#" + content[-8:], id="a byte of the last line is another"),
        pytest.param(
            lambda content: content[: (cut := len(content) // 2)] + b"\0" + content[cut + 1 :], id="a zero in"
        ),
        pytest.param(lambda content: content + b"\0" * 4096, id="zeros at the end"),
        pytest.param(lambda content: content[: content.index(b"\n") + 1], id="nothing but the header is left"),
    ],
)
def test_what_the_journal_has_lost_is_done_again(pictures, whole, tmp_path, damage):
    words, journal = all_words(pictures, tmp_path), journal_of(tmp_path)
    assert stop(words, 5) == 143
    journal.write_bytes(damage(journal.read_bytes()))
    assert predict_with_stub([*words, "--resume"]) == 0
    assert_same(tmp_path, whole)


def test_a_journal_without_a_beginning_is_refused(pictures, tmp_path, capsys):
    words, journal = all_words(pictures, tmp_path), journal_of(tmp_path)
    stop(words)
    journal.write_bytes(journal.read_bytes()[5:])
    assert predict_with_stub([*words, "--resume"]) == 1
    assert "beginning is damaged; delete it to begin anew" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change, words",
    [
        (["--threshold", "0.6"], "threshold 0.5, not 0.6"),
        (["--keep", "0.1"], "reading keep 0.05, not 0.1"),
        (["--nms", "0.3"], "reading nms nothing, not 0.3"),
        (["--class-agnostic"], "reading class_agnostic nothing, not True"),
        (["--tiles", "2x2"], "reading tiles nothing, not '2x2'"),
        (["--draw", "elsewhere"], "handling draw_into .*drawn', not '.*elsewhere'"),
        (["--sort-as", "symlink"], "handling sort_how 'copy', not 'symlink'"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_who_goes_on_must_want_the_same(pictures, tmp_path, capsys, change, words):
    asked = all_words(pictures, tmp_path)
    stop(asked)
    before = tree(tmp_path)
    assert predict_with_stub([*asked, "--resume", *change]) == 1
    said = capsys.readouterr().err
    assert re.search(words, said) and "go on with what it was begun with" in said
    assert tree(tmp_path) == before


def test_who_goes_on_must_have_the_same_model_and_pictures(pictures, whole, tmp_path, capsys):
    asked = all_words(pictures, tmp_path)
    stop(asked)
    other = replace(stub_model(), digest="1" * 64)
    assert predict_with_stub([*asked, "--resume"], model=other) == 1
    assert "was begun with model '000" in capsys.readouterr().err
    assert predict_with_stub([pictures / "cam0", *all_words(pictures / "cam1", tmp_path), "--resume"]) == 1
    assert "was begun with paths" in capsys.readouterr().err
    assert predict_with_stub([*asked, "--resume", "--batch", "4", "--keep", "0.05"]) == 0, "what was chosen by itself"
    assert_same(tmp_path, whole)


def test_whoever_goes_on_may_write_other_formats_from_another_folder(pictures, whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    assert stop(all_words(pictures, Path("a"))) == 143
    monkeypatch.chdir("a")
    words = all_words(pictures, Path("."))
    words[words.index("megadetector,csv,coco")] = "megadetector,csv"
    assert predict_with_stub([*words, "--resume"]) == 0
    assert_same(tmp_path / "a", {name: content for name, content in whole.items() if ".coco" not in name})


def test_whoever_goes_on_may_ask_for_fewer_pictures_at_once(pictures, tmp_path):
    """As when memory did not last for as many."""
    words = all_words(pictures, tmp_path)
    assert stop(words) == 143
    assert predict_with_stub([*words, "--resume", "--batch", "1"]) == 0
    results, _ = read_megadetector(tmp_path / "found.json")
    assert len(results) == PICTURES + 1


def test_a_journal_is_not_overwritten_unasked(pictures, tmp_path, capsys):
    words = all_words(pictures, tmp_path)
    stop(words)
    before = tree(tmp_path)
    assert predict_with_stub(words) == 1
    assert "there is a journal already" in capsys.readouterr().err
    assert tree(tmp_path) == before


def test_going_on_where_nothing_was_begun_begins(pictures, whole, tmp_path):
    assert predict_with_stub([*all_words(pictures, tmp_path), "--resume"]) == 0
    assert_same(tmp_path, whole)


@pytest.mark.parametrize("formats", [["megadetector"], ["csv"], ["coco", "csv"]], ids=" ".join)
def test_going_on_where_all_is_done_says_so(pictures, tmp_path, capsys, formats):
    words = [pictures, "--out", tmp_path / "found.json", "--format", ",".join(formats), "--quiet"]
    assert predict_with_stub(words) == 0
    before = tree(tmp_path)
    assert predict_with_stub([*words, "--resume"]) == 1
    assert "is finished" in capsys.readouterr().err and tree(tmp_path) == before
    assert predict_with_stub(words) == 0 and tree(tmp_path) == before, "anew"


def test_two_processes_do_not_do_the_same_work(pictures, tmp_path, capsys):
    words = all_words(pictures, tmp_path)
    stop(words)
    with mock.patch.object(prediction, "note_down", side_effect=lambda *_, **__: codes.append(again())):
        codes: list[int] = []

        def again() -> int:
            return predict_with_stub([*words, "--resume"])

        predict_with_stub([*words, "--resume"])
    assert codes == [1] and "another process is at this work" in capsys.readouterr().err


def test_pictures_that_came_and_went_meanwhile(pictures, tmp_path):
    cards = shutil.copytree(pictures, tmp_path / "cards")
    words = [cards, "--out", tmp_path / "found.json", "--quiet"]
    assert stop(words) == 143
    noted = [image.file for image in read_journal(journal_of(tmp_path))]
    os.unlink(noted[0])
    shutil.copy(cards / "cam1" / "IMG_0001.png", cards / "cam0" / "new.png")
    assert predict_with_stub([*words, "--resume"]) == 0
    results, _ = read_megadetector(tmp_path / "found.json")
    files = [one.file for one in results]
    assert len(set(files)) == len(files) == PICTURES + 2, "what was noted counts, what is new is found"
    assert {"cam0/new.png", os.path.relpath(noted[0], cards)} <= set(files)


def test_a_failure_of_an_action_is_no_end(pictures, whole, tmp_path, capsys):
    """A disk that is full, a name that is taken: what was done is kept, and once it is mended it goes on."""
    words = all_words(pictures, tmp_path)
    taken = tmp_path / "drawn" / "cam2" / "IMG_0011.png.jpg"
    taken.parent.mkdir(parents=True)
    taken.write_text("mine")
    assert predict_with_stub(words) == 1
    assert f"{taken}: is there already" in capsys.readouterr().err and taken.read_text() == "mine"
    taken.unlink()
    assert predict_with_stub([*words, "--resume"]) == 0
    assert_same(tmp_path, whole)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="signals of Unix")
def test_a_real_prediction_survives_being_killed_at_random(trained_run, scenes, tmp_path):
    chance = random.Random(os.environ.get("PYTEST_RANDOM", "7"))

    def start(folder: Path, *words: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "ena24ssd.cli", "predict", trained_run.folder, *all_words(scenes, folder)]
        command += ["--batch", "2", "--threads", "1", "--threshold", "0.12", *words]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
        return subprocess.Popen(list(map(str, command)), env=environment, stderr=subprocess.PIPE, text=True)

    def seconds_of_work(process: subprocess.Popen, folder: Path) -> float:
        while not journal_of(folder).exists() and process.poll() is None:
            time.sleep(0.005)
        began = time.monotonic()
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
        return time.monotonic() - began

    length = seconds_of_work(start(tmp_path / "whole"), tmp_path / "whole")
    expected = tree(tmp_path / "whole")
    folder, words = tmp_path / "killed", []
    journal = journal_of(folder)
    for number in (signal.SIGKILL, signal.SIGTERM):
        noted = journal.stat().st_size if journal.exists() else 0
        process = start(folder, *words)
        while process.poll() is None and (not journal.exists() or journal.stat().st_size <= noted):
            time.sleep(0.005)
        time.sleep(chance.uniform(0, length / 3))
        process.send_signal(number)
        _, said = process.communicate(timeout=300)
        if number == signal.SIGTERM and not journal.exists():  # it was done, and about to leave
            assert process.returncode in (0, -number, 128 + number), said
            break
        assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), said
        assert number == signal.SIGKILL or "--resume" in said
        words = ["--resume"]
    else:
        seconds_of_work(start(folder, "--resume"), folder)
    assert tree(folder) == expected


# -- what may lie on a card --------------------------------------------------------------------------------------------


def test_strange_files_are_failures_and_hold_nobody_up(tmp_path, capsys):
    cards, to = tmp_path / "cards", tmp_path / "to"
    write_pictures(cards, 3)
    good = (cards / "cam1" / "IMG_0001.png").read_bytes()
    head, rest = good[:33], good[33:]
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 60, 3), np.uint8))
    deep = cards.joinpath(*("d" * 100, "e" * 100, "f" * 100))
    deep.mkdir(parents=True)
    for name in (
        "new\nline.png",
        "esc\x1b[31m.png",
        "ünï 鹿.png",
        "=cmd().png",
        "-rf.png",
        "%s.png",
        " .png",
        "CON.png",
    ):
        (cards / name).write_bytes(good)
    (deep / f"{'x' * 251}.png").write_bytes(good)
    undecodable = os.fsencode(cards) + b"/bad\xff\xfe.png"
    with suppress(OSError), open(undecodable, "wb") as file:  # some systems have no such names
        file.write(good)
    (cards / "folder.jpg").mkdir()
    (cards / "folder.jpg" / "in.png").write_bytes(good)
    noise.convert("CMYK").save(cards / "cmyk.jpg")
    Image.fromarray((np.arange(4800).reshape(80, 60) * 13).astype(np.uint16)).save(cards / "deep16.png")
    exif = Image.Exif()
    exif[0x112] = 6
    noise.save(cards / "turned.jpg", exif=exif)
    readable = sum(len(files) for _, _, files in os.walk(cards))

    (cards / "up").symlink_to(cards)
    (cards / "self.jpg").symlink_to(cards / "self.jpg")
    (cards / "gone.jpg").symlink_to(cards / "nowhere.jpg")
    (cards / "empty.jpg").touch()
    (cards / "page.jpg").write_text("<!doctype html><html><body>Not found</body></html>")
    os.mkfifo(cards / "pipe.jpg")
    noise.save(cards / "whole.tmp", "JPEG")
    (cards / "cut.jpg").write_bytes((cards / "whole.tmp").read_bytes()[:900])
    noise.save(cards / "gif.jpg", "GIF")
    (cards / "heic.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    bomb = zlib.compress(bytes(30_000_000), 9)
    (cards / "text.png").write_bytes(head + chunk(b"zTXt", b"Comment\0\0" + bomb) + rest)
    (cards / "profile.png").write_bytes(head + chunk(b"iCCP", b"icc\0\0" + bomb) + rest)
    texts = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1_000_000), 9)) * 100
    (cards / "texts.png").write_bytes(head + texts + rest)
    (cards / "claims.png").write_bytes(head[:16] + struct.pack(">II", 10**9, 10**9) + head[24:] + rest)
    write_huge_png(cards / "huge.png", 30_000, 30_000, depth=1)
    (cards / "clip.MP4").touch()
    failures = {
        "self.jpg": "symbolic links",
        "gone.jpg": "no such file",
        "empty.jpg": "the file is empty",
        "page.jpg": "not a picture format",
        "pipe.jpg": "not a file",
        "cut.jpg": "truncated",
        "gif.jpg": "not a picture format",
        "heic.jpg": "not a picture format",
        "text.png": "too large",
        "profile.png": "too large",
        "texts.png": "text chunks",
        "claims.png": "",
        "huge.png": "178,000,000 pixels",
    }

    assert predict_with_stub(all_words(cards, to)) == 0
    said = capsys.readouterr().out
    assert f"{readable + len(failures)} pictures" in said and f"{len(failures)} failed" in said
    assert "1 video," in said and "clip.MP4" in said and "up: a link" in said and "\x1b" not in said
    results, _ = read_megadetector(to / "found.json")
    assert {one.file for one in results if one.failure} == failures.keys()
    for one in results:
        if one.failure is not None:
            assert failures[one.file] in one.failure and str(tmp_path) not in one.failure
    names = {one.file for one in results}
    assert {"new\nline.png", "folder.jpg/in.png", "ünï 鹿.png"} <= names
    sizes = {one.file: (one.width, one.height) for one in results}
    assert sizes["turned.jpg"] == (80, 60) and sizes["cmyk.jpg"] == (60, 80)
    with open(to / "found.csv", encoding="utf-8-sig", newline="") as file:
        assert {row["file"].removeprefix("./") for row in csv.DictReader(file)} == {
            name.encode("utf-8", "backslashreplace").decode() for name in names
        }
    assert predict_with_stub(all_words(cards, to)) == 0, "and once more into the same folders"


def test_a_picture_that_may_not_be_read_is_a_failure(pictures, tmp_path, monkeypatch):
    real = Image.open

    def refuse(file, *arguments, **options):
        if str(file).endswith("IMG_0004.JPG"):
            raise PermissionError(13, "Permission denied", str(file))
        return real(file, *arguments, **options)

    monkeypatch.setattr(Image, "open", refuse)
    assert predict_with_stub([pictures, "--out", tmp_path / "found.json", "--quiet"]) == 0
    results, _ = read_megadetector(tmp_path / "found.json")
    assert [one.failure for one in results if one.file == "cam1/IMG_0004.JPG"] == [
        "damaged or unreadable (Permission denied)"
    ]


def test_pictures_that_vanish_between_finding_and_reading(pictures, tmp_path):
    cards = shutil.copytree(pictures, tmp_path / "cards")

    class Deleting(Stub):
        def detect(self, images):
            shutil.rmtree(cards / "cam2", ignore_errors=True)
            (cards / "cam1" / "IMG_0019.png").unlink(missing_ok=True)
            return super().detect(images)

    words = all_words(cards, tmp_path / "to")
    with mock.patch("ena24ssd.detector.run_ahead", lambda work, items, *_, **__: map(work, items)):  # one by one
        assert predict_with_stub(words, Deleting()) == 0
    results, _ = read_megadetector(tmp_path / "to" / "found.json")
    files = {one.file for one in results}
    assert not any(file.startswith("cam2") for file in files) and "cam0/IMG_0021.png" in files


@pytest.mark.slow
@pytest.mark.parametrize("depth, most", [(8, 1500), (16, 2500)], ids=["grey", "16 bits"])
def test_memory_is_bounded_by_the_largest_picture_that_is_read(tmp_path, depth, most):
    """17,000 x 10,000 pixels are read (510 MB in RGB), 30,000 x 30,000 are not."""
    write_huge_png(tmp_path / "huge.png", 30_000, 30_000, depth)
    write_huge_png(tmp_path / "large.png", 17_000, 10_000, depth)
    command = "import sys; sys.path.insert(0, sys.argv[1]); from predicting import predict_with_stub\n"
    command += "code = predict_with_stub([*sys.argv[2:], '--quiet'])\n"
    command += "from ena24ssd.memory import peak_memory; print(peak_memory() // 2**20); sys.exit(code)"
    arguments = [Path(__file__).parent, tmp_path, "--out", tmp_path / "found.json"]
    done = subprocess.run([sys.executable, "-c", command, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results, _ = read_megadetector(tmp_path / "found.json")
    assert [(one.file, one.width, one.failure is None) for one in results] == [
        ("huge.png", None, False),
        ("large.png", 17_000, True),
    ]
    assert int(done.stdout.split()[-1]) < most, "MB at most"


# -- originals, and what lies among them -------------------------------------------------------------------------------


def stamps(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_mode)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("how", ["copy", "hardlink", "symlink"])
def test_originals_are_never_touched_and_what_is_made_among_them_is_never_looked_at(pictures, tmp_path, how):
    cards = shutil.copytree(pictures, tmp_path / "cards")
    before = stamps(cards)
    words = [*all_words(cards, cards), "--sort-as", how]
    for _ in range(2):
        assert predict_with_stub(words) == 0
        results, _ = read_megadetector(cards / "found.json")
        assert len(results) == PICTURES + 1
    after = stamps(cards)
    assert {name: after[name] for name in before} == before
    assert not any("sorted" in one.file or "drawn" in one.file or "crops" in one.file for one in results)
    assert any((cards / "crops").rglob("*.jpg"))


def test_a_folder_made_during_the_walk_is_not_looked_into(tmp_path):
    cards = tmp_path / "cards"
    write_pictures(cards / "a", 12)
    write_pictures(cards / "z", 12)
    words = [cards, "--out", tmp_path / "found.json", "--sort-into", cards / "m", "--batch", "1", "--quiet"]
    with mock.patch("ena24ssd.detector.run_ahead", lambda work, items, *_, **__: map(work, items)):
        assert predict_with_stub(words) == 0
    results, _ = read_megadetector(tmp_path / "found.json")
    assert len(results) == 24 and len([path for path in (cards / "m").rglob("*") if path.is_file()]) >= 24


@pytest.mark.parametrize("option", ["--draw", "--crops", "--sort-into", "--repeats"])
def test_what_is_made_does_not_lie_above_the_pictures(pictures, option, capsys, tmp_path):
    words = [pictures / "cam1", "--out", tmp_path / "found.json", option, pictures, "--quiet"]
    assert predict_with_stub(words) == 1
    assert "must not lie among them" in capsys.readouterr().err and not os.listdir(tmp_path)


@pytest.mark.parametrize(
    "words, said",
    [
        (["--out", "a.csv", "--format", "megadetector,csv"], "would hold both megadetector and csv"),
        (["--out", "folder"], "is a folder"),
        (["--out", "x.json", "--format", "csv"], "x.csv: is a folder"),
        (["--out", "cards/cam0/IMG_0000.JPG"], "the name of a picture"),
        (["--threshold", "1.5"], "threshold is 1.5"),
        (["--threshold", "nan"], "threshold is nan"),
        (["--threshold", "finest"], "best, species, review"),
        (["--threshold", "species"], "nothing was calibrated"),
        (["--keep", "0.6"], "keep is 0.6, but detections count from 0.5 on"),
        (["--keep", "nan"], "keep is nan"),
        (["--keep", "-1"], "-1"),
        (["--nms", "2"], "nms"),
        (["--tiles", "0x2"], "tiles are 0x2"),
        (["--tiles", "many"], "as in 3x2"),
        (["--format", "camtrap-dp"], "--deployment"),
        (["--format", "coco", "--annotations", "none.json"], "none.json: there are no such annotations"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_is_said_before_anything_is_begun(pictures, tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(pictures, "cards")
    for name in ("folder", "x.csv"):
        Path(name).mkdir()
    before = tree(tmp_path)
    with mock.patch.object(Stub, "detect", side_effect=AssertionError("too late")):
        assert predict_with_stub(["cards", "--quiet", *words]) == 1
    assert said in capsys.readouterr().err and tree(tmp_path) == before


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda folder: None, "no pictures in"),
        (lambda folder: (folder / "a.MOV").touch(), "1 videos: take frames"),
        (lambda folder: folder.rmdir(), "no such picture or folder"),
    ],
    ids=["empty", "only videos", "absent"],
)
def test_where_there_is_nothing_it_says_so(tmp_path, capsys, make, said):
    (tmp_path / "cards").mkdir()
    make(tmp_path / "cards")
    assert predict_with_stub([tmp_path / "cards", "--out", tmp_path / "found.json"]) == 1
    assert said in capsys.readouterr().err and not (tmp_path / "found.json").exists()


# -- which options do what ---------------------------------------------------------------------------------------------


def test_everything_at_once(pictures, tmp_path, capsys):
    words = [*all_words(pictures, tmp_path), "--tiles", "2x2", "--batch", "3", "--threads", "1", "--keep", "0.2"]
    words += ["--nms", "0.4", "--class-agnostic", "--repeats", tmp_path / "repeats"]
    assert predict_with_stub(words) == 0
    said = capsys.readouterr().out
    results, names = read_megadetector(tmp_path / "found.json")
    assert names == SPECIES and len(results) == PICTURES + 1
    counting = [[one for one in image.detections if one.score >= 0.5] for image in results]
    kept = [one for image in results for one in image.detections]
    assert kept and min(one.score for one in kept) >= 0.2 and min(one.score for one in kept) < 0.5
    with_animals, some = sum(map(bool, counting)), sum(map(len, counting))
    assert f"{PICTURES + 1} pictures: {with_animals} with animals ({some:,} detections)" in said and "1 failed" in said
    coco = json.loads((tmp_path / "found.coco.json").read_text())
    assert len(coco) == len(kept)
    with open(tmp_path / "found.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(bool(row["species"]) for row in rows) == some and len({row["file"] for row in rows}) == PICTURES + 1
    assert len(list((tmp_path / "drawn").rglob("*.jpg"))) == PICTURES
    assert len(list((tmp_path / "crops").rglob("*.jpg"))) == some
    sorted_ = [path for path in (tmp_path / "sorted").rglob("*") if path.is_file() and path.name != MARK]
    assert len(sorted_) == sum(max(1, len({one.name for one in image})) for image in counting)
    info = json.loads((tmp_path / "found.json").read_text())["info"]["detector_metadata"]
    assert (info["typical_detection_threshold"], info["conservative_detection_threshold"]) == (0.5, 0.2)


@pytest.mark.parametrize(
    "threshold, keep, lowest, kept",
    [(0.5, None, KEEP, KEEP), (0.01, None, 0.01, 0.01), (0.5, 0.5, 0.5, 0.5), (0.9, 0, 0, 0)],
    ids=["as usual", "what counts is kept, however low", "only what counts", "all"],
)
def test_how_much_is_kept(pictures, tmp_path, threshold, keep, lowest, kept):
    with stubbed():
        predict("stub", [pictures], tmp_path / "a.json", threshold=threshold, reading=Reading(keep), quiet=True)
    info = json.loads((tmp_path / "a.json").read_text())["info"]["detector_metadata"]
    assert info["conservative_detection_threshold"] == kept
    scores = [one.score for image in read_megadetector(tmp_path / "a.json")[0] for one in image.detections]
    assert min(scores) >= lowest and min(scores) < lowest + 0.3


def test_results_are_those_of_the_detector(pictures, tmp_path):
    with stubbed():
        predict("stub", [pictures], tmp_path / "a.json", reading=Reading(keep=0), quiet=True)
        expected = list(Detector.load(stub_model()).detect(pictures, 0))
    results, _ = read_megadetector(tmp_path / "a.json")
    assert [one.file for one in results] == [os.path.relpath(one.file, pictures) for one in expected]
    for found, truth in zip(results, expected):
        assert (found.failure, found.width, found.height) == (truth.failure, truth.width, truth.height)
        assert [each.name for each in found.detections] == [each.name for each in truth.detections]
        for ours, theirs in zip(found.detections, truth.detections):
            assert ours.score == pytest.approx(theirs.score, abs=1e-7)
            assert tuple(ours.box) == pytest.approx(tuple(theirs.box), abs=0.01)


def test_folders_of_a_handling_are_known_wherever_one_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    handling = Handling(draw_into=Path("drawn"), sort_into=Path("..") / "sorted")
    assert handling.folders == [tmp_path / "drawn", tmp_path.parent / "sorted"]


def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path):
    write_pictures(tmp_path / "one", 1, (SIDE, SIDE))
    (file,) = (tmp_path / "one").rglob("*.JPG")
    peaks = []
    for count in (200, 200, 800):  # the first is for what is made once
        cards = tmp_path / f"{len(peaks)}"
        for number in range(count):
            # the names in a folder are held, a folder at a time; and pathlib interns those it has not met before
            link = cards / f"{number // 50}" / f"{number % 50}.jpg"
            link.parent.mkdir(parents=True, exist_ok=True)
            os.link(file, link)
        gc.collect()
        tracemalloc.start()
        words = [cards, "--out", cards / "found.json", "--format", "megadetector,csv,coco", "--quiet"]
        assert predict_with_stub(words) == 0
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    _, few, many = peaks
    assert many - few < 600 * 250, "what is known of a picture takes 1,000 bytes and more"


# -- whoever reads the results -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_predicts_and_its_results_are_judged_as_itself(trained_run, scenes, tmp_path, capsys):
    from ena24ssd.assessment import evaluate

    run = shutil.copytree(trained_run.folder, tmp_path / "run")
    out = tmp_path / "found.json"
    assert cli.main(["predict", str(run), str(scenes), "--out", str(out), "--quiet"]) == 0
    options = {"overrides": ["evaluation.resamples=0", f"evaluation.floor={KEEP}"], "quiet": True}
    ours = evaluate(run, **options)
    theirs = evaluate(out, "test", data=scenes, split_file=run / "split.json", **options)
    for name in ("detection/map50", "detection/map", "presence/f1", "blank/sensitivity", "detection/recall"):
        assert theirs.metrics[name] == pytest.approx(ours.metrics[name], abs=1e-3, nan_ok=True)
    assert theirs.unreadable == 0


def test_the_summary_steers_no_terminal(tmp_path, capsys):
    write_pictures(tmp_path / "cards", 2)
    (tmp_path / "cards" / "\x1b]0;owned\x07.jpg").write_bytes(b"no")
    assert predict_with_stub([tmp_path / "cards", "--out", tmp_path / "found.json"]) == 0
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err.replace("\x1b[A", "") and "owned" in out


def test_nothing_is_printed_on_the_way_when_it_shall_be_quiet(pictures, tmp_path):
    with mock.patch("sys.stderr", new_callable=io.StringIO) as said:
        assert predict_with_stub([pictures, "--out", tmp_path / "found.json", "--quiet"]) == 0
    assert said.getvalue() == ""
