"""Is every picture found once, in the same order each time, whatever lies around?"""

from __future__ import annotations

import os

import pytest

from ena24ssd.picturewalk import PictureWalk, mark


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


def test_what_an_earlier_prediction_put_there_is_left_out_unless_it_is_named(tmp_path):
    make(tmp_path, "a.jpg", "sorted/Fox/a.jpg")
    mark(tmp_path / "sorted")
    walk = PictureWalk([tmp_path])
    assert found_in(walk, tmp_path) == ["a.jpg"] and walk.left_out.folders[0][0] == tmp_path / "sorted"
    assert found_in(PictureWalk([tmp_path / "sorted"]), tmp_path) == ["sorted/Fox/a.jpg"]


def test_links_are_followed_but_not_in_circles_and_no_picture_is_given_twice(tmp_path):
    cards, elsewhere = tmp_path / "cards", tmp_path / "elsewhere"
    make(cards, "real/a.jpg", "real/deep/b.jpg")
    make(elsewhere, "c.jpg", "deep/d.jpg")
    (elsewhere / "deep" / "back").symlink_to(elsewhere)
    (elsewhere / "round").symlink_to(cards)
    (cards / "again").symlink_to(cards / "real")
    (cards / "real" / "deep" / "up").symlink_to(cards / "real")
    (cards / "real" / "self").symlink_to(cards / "real" / "self")
    (cards / "there").symlink_to(elsewhere)
    (cards / "there too").symlink_to(elsewhere)
    (cards / "therein").symlink_to(elsewhere / "deep")
    walk = PictureWalk([cards])
    for _ in range(2):
        expected = ["real/a.jpg", "real/deep/b.jpg", "there/c.jpg", "there/deep/d.jpg"]
        assert found_in(walk, cards) == expected
        assert [folder.name for folder, _ in walk.left_out.folders] == [
            *("again", "up", "back", "round", "there too", "therein")
        ]


def test_links_among_many_folders_are_no_maze(tmp_path):
    names = [str(number) for number in range(12)]
    for name in names:
        make(tmp_path, f"{name}/a.jpg")
    for one in names:
        for other in names:
            (tmp_path / one / f"to {other}").symlink_to(tmp_path / other)
    assert PictureWalk([tmp_path]).count() == 12
    assert PictureWalk([tmp_path / "0"]).count() == 12, "the others by links alone"


def test_a_hidden_file_that_is_named_is_given_beside_its_folder(tmp_path):
    make(tmp_path, ".a.jpg", "b.jpg")
    assert found_in(PictureWalk([tmp_path, tmp_path / ".a.jpg"]), tmp_path) == ["b.jpg", ".a.jpg"]


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
