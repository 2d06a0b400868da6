"""Is every way in which a file can differ from its record noticed, and nothing else?"""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image as Pillow

from ena24ssd.boxes import Box, LabelledBox
from ena24ssd.cameratraps import RULES, CameraTrapDataset, Image
from ena24ssd.inspection import PICTURE_NOTICES, PICTURE_RULES, examine, inspect_pictures

# What is on disk (width, height, EXIF orientation; or bytes), the json's size, the rule, what the message says.
CASES = {
    "as the json says": ((80, 40, 1), (80, 40), None, ""),
    "no such file": (None, (80, 40), "picture-unreadable", "no such file"),
    "an empty file": (b"", (80, 40), "picture-unreadable", "empty"),
    "a web page": (b"<html>", (80, 40), "picture-unreadable", "not a picture"),
    "half the size": ((80, 40, 1), (160, 80), "size-mismatch", "0.5"),
    "a resized copy, rounded to whole pixels": ((67, 33, 1), (160, 80), "size-mismatch", "67 x 33"),
    "the strip cut off": ((1920, 1060, 1), (1920, 1080), "shape-mismatch", "0.981 of the height"),
    "another picture's shape": ((80, 40, 1), (80, 60), "shape-mismatch", "0.667 of the height"),
    "upright in the json, turned on disk": ((80, 40, 6), (40, 80), None, ""),
    "a quarter turn at half the size": ((80, 40, 6), (80, 160), "size-mismatch", "40 x 80 px"),
    "as stored in the json, turned on disk": ((80, 40, 6), (80, 40), "stored-orientation", "orientation 6"),
    "as stored at twice the size": ((80, 40, 8), (160, 80), "size-mismatch", "80 x 40 px"),
    "turned by half": ((80, 40, 3), (80, 40), "unproven-orientation", "orientation 3"),
    "square and turned by a quarter": ((40, 40, 6), (40, 40), "unproven-orientation", "orientation 6"),
    "nearly square, turned, and as stored": ((100, 99, 6), (100, 99), "stored-orientation", "orientation 6"),
    "nearly square, turned and resized": ((100, 99, 6), (50, 50), "unproven-orientation", "50 x 50"),
    "neither way round": ((80, 40, 6), (50, 50), "shape-mismatch", "left out"),
}


def put(path, content) -> None:
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        width, height, orientation = content
        exif = Pillow.Exif()
        exif[0x0112] = orientation
        Pillow.fromarray(np.zeros((height, width, 3), np.uint8)).save(path, exif=exif)


@pytest.mark.parametrize("content, said, rule, words", CASES.values(), ids=CASES)
def test_what_differs_has_its_rule(tmp_path, content, said, rule, words):
    put(tmp_path / "a.jpg", content)
    square, problem = examine(Image("7", "a.jpg", *said), tmp_path / "a.jpg", 16)
    assert (problem and problem.rule) == rule
    assert (square is None) == (rule in PICTURE_RULES.keys() - PICTURE_NOTICES)
    if problem is not None:
        assert problem.image_id == "7" and problem.file_name == "a.jpg" and words in problem.detail


def test_every_rule_has_a_case_and_a_name_of_its_own():
    assert {rule for _, _, rule, _ in CASES.values()} - {None} == set(PICTURE_RULES)
    assert set(PICTURE_NOTICES) < set(PICTURE_RULES)
    assert not RULES.keys() & PICTURE_RULES.keys()


def test_a_whole_dataset_is_gone_through_in_its_order(tmp_path):
    images = []
    for number, (content, said, _, _) in enumerate(CASES.values()):
        put(tmp_path / f"{number}.jpg", content)
        images.append(Image(str(number), f"{number}.jpg", *said, (LabelledBox(0, Box(0, 0, 9, 9)),)))
    seen = []

    def progress(jobs):
        for job in jobs:
            seen.append(job)
            yield job

    problems = inspect_pictures(CameraTrapDataset(("Bear",), tuple(images), tmp_path, (), "a.json"), progress)
    assert [problem.rule for problem in problems] == [rule for _, _, rule, _ in CASES.values() if rule]
    assert len(seen) == len(images)
