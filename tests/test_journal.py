"""Is all there that was noted down, and nothing else, whatever befalls the file?"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import zlib
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ena24ssd.boxes import Box
from ena24ssd.detections import Detection, ImageDetections
from ena24ssd.journal import Journal, JournalError, read_header, read_journal

HEADER = {"model": "abc", "reading": {"nms": None, "keep": 0.05}, "paths": ["/cards/7"], "threshold": 0.3}


def picture(name: str, *scores: float) -> ImageDetections:
    found = tuple(Detection(1, "Ox", score, Box(0.1, 2.0, 3.3, 1 / 3 + 4)) for score in scores)
    return ImageDetections(name, 160, 120, found, None, datetime(2024, 2, 29, 23, 59, 59))


PORTIONS = [
    [picture("/cards/7/a.jpg", 0.9, 0.1), picture("/cards/7/b\nc.jpg")],
    [ImageDetections("/cards/7/d\udcff.jpg", None, None, failure="the file is empty"), picture("/cards/7/é.jpg", 0.5)],
    [picture("/cards/7/z.jpg", 2 / 3)],
]


def write(path: Path, portions=PORTIONS, header=HEADER) -> list[int]:
    """A journal of these portions; returns where the header and each of them ends."""
    with Journal.start(path, header) as journal:
        ends = [path.stat().st_size]
        for portion in portions:
            journal.add(portion)
            ends.append(path.stat().st_size)
        journal.sync()
    return ends


def flat(portions) -> list[ImageDetections]:
    return [image for portion in portions for image in portion]


def test_what_was_noted_down_is_read_back(tmp_path):
    write(tmp_path / "j")
    assert list(read_journal(tmp_path / "j")) == flat(PORTIONS)
    assert {word: read_header(tmp_path / "j")[word] for word in HEADER} == HEADER


scores = st.floats(0, 1) | st.sampled_from([5e-324, 0.1 + 0.2, 1 - 2**-53])
sides = st.floats(-1e6, 1e6) | st.sampled_from([0.1, 1 / 3, -0.0, 5e-324, 2**53 + 1.0])
names = st.text(st.characters(), min_size=1)  # among them lone surrogates: bytes of a name that are no UTF-8
pictures = st.builds(
    ImageDetections,
    file=names,
    width=st.none() | st.integers(1, 10**6),
    height=st.none() | st.integers(1, 10**6),
    detections=st.lists(
        st.builds(Detection, st.integers(0, 99), names, scores, st.builds(Box, sides, sides, sides, sides)), max_size=3
    ).map(tuple),
    failure=st.none() | st.text(),
    taken_at=st.none() | st.datetimes().map(lambda moment: moment.replace(fold=0)),
)


@settings(max_examples=60, deadline=None)
@given(portions=st.lists(st.lists(pictures, max_size=3), max_size=4))
def test_any_picture_comes_back_to_the_last_bit(tmp_path_factory, portions):
    path = tmp_path_factory.mktemp("any") / "j"
    write(path, portions)
    back = list(read_journal(path))
    assert back == flat(portions) and repr(back) == repr(flat(portions))  # 0.0 is not -0.0


def test_a_journal_cut_at_any_byte_is_whole_up_to_there(tmp_path):
    """A power cut leaves as much of the file as had reached the disk."""
    path = tmp_path / "j"
    ends = write(path)
    content = path.read_bytes()
    with Journal.resume(path, HEADER) as journal:
        assert journal.done == {image.file for image in flat(PORTIONS)}
    for size in range(ends[0], len(content) + 1):
        path.write_bytes(content[:size])
        whole = sum(end <= size for end in ends) - 1  # portions
        assert list(read_journal(path)) == flat(PORTIONS[:whole])
        with Journal.resume(path, HEADER) as journal:
            assert journal.done == {image.file for image in flat(PORTIONS[:whole])}
            assert path.stat().st_size == ends[whole], "what is not whole is gone"
            for portion in PORTIONS[whole:]:
                journal.add(portion)
        assert path.read_bytes() == content, f"cut after {size} of {len(content)} bytes"


def test_a_journal_whose_beginning_is_cut_is_refused(tmp_path):
    path = tmp_path / "j"
    end, *_ = write(path)
    content = path.read_bytes()
    for size in range(end):
        path.write_bytes(content[:size])
        with pytest.raises(JournalError, match="beginning is damaged"):
            Journal.resume(path, HEADER)


@settings(max_examples=150, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
def test_a_changed_byte_costs_the_portions_from_there_on(tmp_path_factory, place, change):
    path = tmp_path_factory.mktemp("flip") / "j"
    ends = write(path)
    content = bytearray(path.read_bytes())
    at = int(place * len(content))
    content[at] ^= change
    path.write_bytes(content)
    whole = sum(end <= at for end in ends) - 1
    if whole < 0:
        with pytest.raises(JournalError, match="beginning is damaged"):
            list(read_journal(path))
        return
    assert list(read_journal(path)) == flat(PORTIONS[:whole])
    with Journal.resume(path, HEADER) as journal:
        for portion in PORTIONS[whole:]:
            journal.add(portion)
    assert list(read_journal(path)) == flat(PORTIONS)


@pytest.mark.parametrize(
    "tail",
    [
        pytest.param(b"\0" * 5000, id="zeros, as some file systems leave them"),
        pytest.param(b"\n\n\n", id="empty lines"),
        pytest.param(b"00000000 \n", id="a checksum of nothing"),
        pytest.param(b"00000000\n", id="a checksum without anything"),
        pytest.param(b"\xff\xfe" * 99 + b"\n", id="no text"),
        pytest.param(b"%08x []" % zlib.crc32(b"[]"), id="a line without its end"),
    ],
)
def test_what_is_no_line_ends_the_journal(tmp_path, tail):
    path = tmp_path / "j"
    write(path)
    content = path.read_bytes()
    path.write_bytes(content + tail)
    assert list(read_journal(path)) == flat(PORTIONS)
    with Journal.resume(path, HEADER):
        assert path.read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"no journal\n", b"[1]\n", b'{"journal": "other"}\n'])
def test_a_file_that_is_no_journal_is_left_as_it_is(tmp_path, content):
    path = tmp_path / "j"
    line = content if b"no" in content or not content else b"%08x %b" % (zlib.crc32(content.strip()), content)
    path.write_bytes(line)
    for _ in range(2):
        with pytest.raises(JournalError, match="no journal of this package"):
            Journal.resume(path, HEADER)
    with pytest.raises(JournalError, match="there is a journal already"):
        Journal.start(path, HEADER)
    assert path.read_bytes() == line


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"threshold": 0.4}, "was begun with threshold 0.3, not 0.4"),
        ({"reading": {"nms": 0.5, "keep": 0.05}}, "was begun with reading nms nothing, not 0.5"),
        ({"device": "gpu"}, "was begun with device nothing, not 'gpu'"),
        ({"model": None}, "was begun with model 'abc', not nothing"),
    ],
    ids=["a number", "one of several words", "a word more", "a word less"],
)
def test_other_work_is_refused_and_can_be_set_right(tmp_path, changed, words):
    path = tmp_path / "j"
    write(path)
    with pytest.raises(JournalError, match=words) as refused:
        Journal.resume(path, HEADER | changed)
    with Journal.resume(path, HEADER) as journal:  # refusing has not kept the lock, though the exception lives
        assert len(journal.done) == 5
    assert "delete it to begin anew" in str(refused.value)


def test_a_header_is_compared_as_it_was_written(tmp_path):
    write(tmp_path / "j", [], {"pair": (1, 2.0), "of": {"a": None}})
    Journal.resume(tmp_path / "j", {"of": {}, "pair": [1.0, 2]}).close()


def test_nobody_else_writes_to_a_journal_meanwhile(tmp_path):
    path = tmp_path / "in" / "j"
    with Journal.start(path, HEADER) as journal:
        for again in (Journal.start, Journal.resume):
            with pytest.raises(JournalError, match="another process is at this work"):
                again(path, HEADER)
        command = "import sys; from pathlib import Path; from ena24ssd.journal import Journal; "
        command += f"Journal.resume(Path(sys.argv[1]), {HEADER!r})"
        done = subprocess.run([sys.executable, "-c", command, path], capture_output=True, text=True)
        assert done.returncode == 1 and "another process is at this work" in done.stderr
        journal.add(PORTIONS[0])
    with Journal.resume(path, HEADER) as journal:
        assert len(journal.done) == 2


def test_what_is_noted_outlives_the_process_at_once(tmp_path):
    path = tmp_path / "j"
    command = "import os, sys; from pathlib import Path; from ena24ssd.journal import Journal; "
    command += "from ena24ssd.detections import ImageDetections; "
    command += f"j = Journal.start(Path(sys.argv[1]), {HEADER!r}); j.add([ImageDetections('a', 1, 1)]); "
    command += "os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", command, path]).returncode == -9
    with Journal.resume(path, HEADER) as journal:  # nor does a lock stay behind
        assert journal.done == {"a"}


def test_a_journal_that_is_no_longer_needed_leaves_nothing(tmp_path):
    with Journal.start(tmp_path / "j", HEADER) as journal:
        journal.add(PORTIONS[0])
        journal.remove()
    assert os.listdir(tmp_path) == []
    with pytest.raises(JournalError, match="begin anew"):
        Journal.resume(tmp_path / "j", HEADER)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_said_with_the_name_and_costs_the_portion_under_way(tmp_path):
    path = tmp_path / "j"
    ends = write(path, PORTIONS[:1])

    def little_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (ends[-1] + 40,) * 2)

    command = "import signal, sys; from pathlib import Path; from ena24ssd.journal import Journal; "
    command += "from ena24ssd.detections import ImageDetections; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    command += f"with Journal.resume(Path(sys.argv[1]), {HEADER!r}) as j: j.add([ImageDetections('a' * 100, 1, 1)])"
    done = subprocess.run([sys.executable, "-c", command, path], capture_output=True, text=True, preexec_fn=little_room)
    assert done.returncode == 1 and done.stderr.rstrip().endswith(f"File too large: '{path}'")
    assert path.stat().st_size == ends[-1] + 40, "half a line is there"
    with Journal.resume(path, HEADER) as journal:
        assert len(journal.done) == 2
        journal.add(PORTIONS[1])
    assert list(read_journal(path)) == flat(PORTIONS[:2])


def test_numbers_that_are_none_are_not_noted_down(tmp_path):
    with Journal.start(tmp_path / "j", HEADER) as journal:
        with pytest.raises(ValueError):
            journal.add([picture("a.jpg", float("nan"))])
        journal.add(PORTIONS[0])
    assert list(read_journal(tmp_path / "j")) == flat(PORTIONS[:1])
