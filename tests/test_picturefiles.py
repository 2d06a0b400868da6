"""Is a file found under the name asked for, whichever way its accents are written, and never under another?"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ena24ssd.picturefiles import PictureFolder, normal

ON_DISK = ["a.jpg", "A.jpg", "s/b.JPG", "e\u0301t\u00e9/c.jpg", "both\u00e9.jpg", "bothe\u0301.jpg", "Stra\u00dfe.jpg"]
FINDS = [
    # sentence, name, what find says, what nearest says
    ("a name as it is", "a.jpg", "a.jpg", "a.jpg"),
    ("another case", "s/B.jpg", None, "s/b.JPG"),
    ("another case, of two names", "a.JPG", None, "A.jpg"),
    ("a folder with accents", "\u00e9te\u0301/c.jpg", "e\u0301t\u00e9/c.jpg", "e\u0301t\u00e9/c.jpg"),
    ("the same with another case", "\u00e9te\u0301/C.jpg", None, "e\u0301t\u00e9/c.jpg"),
    ("a name whose twin is there as well", "both\u00e9.jpg", "both\u00e9.jpg", "both\u00e9.jpg"),
    ("letters that only capitals make equal", "STRASSE.jpg", None, "Stra\u00dfe.jpg"),
    ("a folder", "s", None, None),
    ("no such file", "b.jpg", None, None),
    ("no such folder", "t/b.jpg", None, None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "found", "nearest"), [pytest.param(*row[1:], id=row[0]) for row in FINDS])
def test_a_file_is_found_by_its_name(tmp_path: Path, name: str, found: str | None, nearest: str | None):
    for path in ON_DISK:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    folder = PictureFolder(tmp_path)
    assert (folder.find(name), folder.nearest(name)) == (found, nearest)
    if nearest is not None and found is None:
        assert folder.why_not(name) == f"there as {nearest!r}; capitals count"
    elif found is None:
        where = (tmp_path / name).parent
        expected = f"in {where}, but no file" if (tmp_path / name).exists() else f"not in {where}"
        assert folder.why_not(name) == expected


def test_names_that_are_no_unicode_do_not_disturb(tmp_path: Path):
    (tmp_path / os.fsdecode(b"\xff\xc3\xa9.jpg")).touch()
    (tmp_path / "e\u0301.jpg").touch()
    assert PictureFolder(tmp_path).find("\u00e9.jpg") == "e\u0301.jpg"


def test_normal_names_are_equal_where_a_person_sees_no_difference():
    assert normal("e\u0301.jpg") == normal("\u00e9.jpg") == "\u00e9.jpg"
    assert normal("E.jpg") != normal("e.jpg")
