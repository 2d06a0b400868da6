"""Does a file appear whole or not at all, whoever else is writing it?"""

from __future__ import annotations

import threading

import pytest

from ena24ssd.files import replace_file, replacing


def test_a_file_is_there_only_when_it_is_whole(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    with replacing(path) as file:
        file.write(b"half")
        assert not path.exists()
    assert path.read_bytes() == b"half"


def test_after_a_failure_everything_is_as_it_was(tmp_path):
    path = tmp_path / "a.txt"
    replace_file(path, "before")
    with pytest.raises(KeyError), replacing(path) as file:
        file.write(b"after")
        raise KeyError
    assert path.read_text() == "before" and [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(OSError, match=r"deep: is a folder"):
        (tmp_path / "deep").mkdir()
        replace_file(tmp_path / "deep", "content")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file/a\.txt: cannot be written"):
        replace_file(tmp_path / "file" / "a.txt", "content")


def test_writers_of_one_file_do_not_mix_their_bytes(tmp_path):
    path, contents = tmp_path / "a.txt", [letter * 20_000 for letter in "abcdefgh"]
    threads = [threading.Thread(target=replace_file, args=(path, content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert path.read_text() in contents and [file.name for file in tmp_path.iterdir()] == ["a.txt"]
