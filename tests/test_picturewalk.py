"""Is every picture found once, in the same order each time, whatever lies around?"""

from __future__ import annotations

import os

import pytest

from ena24ssd.picturewalk import PictureWalk


def make(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def found_in(walk, folder):
    return [path.relative_to(folder).as_posix() for path in walk]


def test_pictures_are_found_in_folders_whatever_the_case_of_their_extension(tmp_path):
    make(tmp_path, "b.JPG", "a.jpg", "deep/er/c.Png", "notes.txt", "clip.mp4", "._a.jpg", ".hidden/d.jpeg")
    (tmp_path / "folder.jpg").mkdir()
    make(tmp_path, "folder.jpg/e.TIF")
    walk = PictureWalk([tmp_path, tmp_path / "a.jpg", tmp_path / "notes.txt"])
    expected = [".hidden/d.jpeg", "a.jpg", "b.JPG", "deep/er/c.Png", "folder.jpg/e.TIF", "notes.txt"]
    assert found_in(walk, tmp_path) == expected
    assert walk.count() == len(expected)
    assert (walk.left_out.videos, walk.left_out.first_video, walk.left_out.others) == (1, tmp_path / "clip.mp4", 2)


@pytest.mark.parametrize(
    "paths, expected",
    [
        (["."], ["a.jpg", "in/b.jpg", "in/c.txt.jpg"]),
        (["in", "."], ["a.jpg", "in/b.jpg", "in/c.txt.jpg"]),
        (["in", "in"], ["in/b.jpg", "in/c.txt.jpg"]),
        (["in/b.jpg", "a.jpg", "in/b.jpg"], ["in/b.jpg", "a.jpg"]),
        (["in/b.jpg", "in"], ["in/b.jpg", "in/c.txt.jpg"]),
    ],
    ids=[
        "all",
        "a folder and the one around it",
        "twice the same",
        "files in the order named",
        "a file and its folder",
    ],
)
def test_what_is_named_twice_is_given_once(tmp_path, monkeypatch, paths, expected):
    make(tmp_path, "a.jpg", "in/b.jpg", "in/c.txt.jpg")
    monkeypatch.chdir(tmp_path)
    assert found_in(PictureWalk(paths), tmp_path) == expected


def test_folders_that_are_named_are_left_out(tmp_path):
    make(tmp_path, "a.jpg", "drawn/a.jpg.jpg", "drawn/deep/b.jpg")
    assert found_in(PictureWalk([tmp_path], leave_out=[tmp_path / "drawn", tmp_path / "absent"]), tmp_path) == ["a.jpg"]


def test_links_are_followed_but_not_in_circles(tmp_path):
    make(tmp_path, "real/a.jpg", "real/deep/b.jpg")
    (tmp_path / "again").symlink_to(tmp_path / "real", target_is_directory=True)
    (tmp_path / "real/deep/up").symlink_to(tmp_path / "real", target_is_directory=True)
    (tmp_path / "real/self").symlink_to(tmp_path / "real/self")
    walk = PictureWalk([tmp_path])
    assert found_in(walk, tmp_path) == ["again/a.jpg", "again/deep/b.jpg", "real/a.jpg", "real/deep/b.jpg"]
    assert [folder.name for folder, _ in walk.left_out.folders] == ["up", "up"]


def test_a_link_to_nothing_is_given_for_somebody_else_to_fail_at(tmp_path):
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert found_in(PictureWalk([tmp_path]), tmp_path) == ["gone.jpg"]


def test_folders_deeper_than_python_calls_functions(tmp_path):
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        for _ in range(1500):
            os.mkdir("d")
            os.chdir("d")
        open("a.jpg", "w").close()
        (file,) = PictureWalk([tmp_path])
        assert file.name == "a.jpg" and len(file.parts) > 1500
        os.unlink("a.jpg")
        for _ in range(1500):  # no library removes so deep a tree
            os.chdir("..")
            os.rmdir("d")
    finally:
        os.chdir(here)


def test_a_folder_that_cannot_be_listed_is_named_and_holds_nobody_up(tmp_path, monkeypatch):
    make(tmp_path, "a.jpg", "locked/b.jpg", "z.jpg")
    listing = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return listing(path)

    monkeypatch.setattr(os, "scandir", refuse)
    walk = PictureWalk([tmp_path])
    assert found_in(walk, tmp_path) == ["a.jpg", "z.jpg"]
    assert walk.left_out.folders == [(tmp_path / "locked", "Permission denied")]


def test_a_path_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.jpg"):
        PictureWalk([tmp_path / "absent.jpg"])
