"""Is what was seen kept to the pixel, and can the tools of the field read it?"""

from __future__ import annotations

import json
import math
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ena24ssd.boxes import Box
from ena24ssd.detections import (
    Detection,
    ImageDetections,
    read_megadetector,
    rows_to_detections,
    write_megadetector,
)

NAMES = ("Bird", "Eastern Chipmunk", "Raccoon")
PADDING = [-1.0] * 6


def broken_rules(document: object) -> list[str]:
    """Every rule of https://lila.science/megadetector-output-format (1.6, still pictures) the document breaks."""
    broken = []

    def rule(holds: bool, text: str) -> None:
        if not holds:
            broken.append(text)

    rule(set(document) <= {"info", "detection_categories", "images"}, "no keys of our own at file level")
    rule(document["info"]["format_version"] == "1.6", "format_version is the string 1.6")
    for category, name in document["detection_categories"].items():
        rule(re.fullmatch(r"0|[1-9]\d*", category) is not None, "category ids are whole numbers as strings")
        rule(category != "0", "category 0 is left to empty pictures")
        rule(isinstance(name, str) and name.strip() != "", "category names are not blank")
    for image in document["images"]:
        rule(isinstance(image["file"], str), "file is a string")
        rule("max_detection_conf" not in image, "max_detection_conf is gone since 1.3")
        if image.get("failure") is not None:
            rule(isinstance(image["failure"], str), "failure is a string")
            rule("detections" in image and image["detections"] is None, "a failed picture has null detections")
            continue
        rule(isinstance(image["detections"], list), "a processed picture has a list of detections")
        for found in image["detections"]:
            rule(found["category"] in document["detection_categories"], "categories are listed")
            rule(type(found["conf"]) is float and 0 <= found["conf"] <= 1, "conf is a float in 0..1")
            x, y, width, height = found["bbox"]
            rule(0 <= x <= 1 and 0 <= y <= 1 and width >= 0 and height >= 0, "bbox is relative to the picture")
            rule(x + width <= 1 + 1e-12 and y + height <= 1 + 1e-12, "bbox ends inside the picture")
    return broken


def image(*detections: Detection, file: str = "a.jpg", width: int | None = 100, height: int | None = 50):
    return ImageDetections(file, width, height, detections)


def written(path: Path, *results: ImageDetections, names=NAMES, **options) -> dict:
    write_megadetector(path, results, names, detector="test", **options)
    return json.loads(path.read_bytes().decode("utf-8"))


BIRD = Detection(0, "Bird", 0.5, Box(10.0, 5.0, 30.0, 25.0))


# -- rows of an engine ----------------------------------------------------------------------------------------------


def naive_detections(rows, names, width, height, threshold):
    kept = []
    for label, score, left, top, right, bottom in rows:
        if label < 0 or score < threshold:
            continue
        box = Box(left, top, right, bottom).clip(1.0, 1.0)
        box = Box(box.left * width, box.top * height, box.right * width, box.bottom * height)
        if box.left < box.right and box.top < box.bottom:
            kept.append(Detection(int(label), names[int(label)], score, box))
    return tuple(sorted(kept, key=lambda found: -found.score))


coordinate = st.floats(-0.5, 1.5, width=32)
score = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 1, width=32))
row = st.tuples(st.integers(-1, 2).map(float), score, coordinate, coordinate, coordinate, coordinate)


@given(st.lists(row, max_size=12), st.integers(1, 12000), st.integers(1, 12000), st.sampled_from([0.0, 0.25, 0.5]))
def test_rows_become_what_the_naive_loop_makes_of_them(rows, width, height, threshold):
    array = np.array(rows, dtype=np.float32).reshape(-1, 6)
    expected = naive_detections(array.tolist(), NAMES, width, height, threshold)
    assert rows_to_detections(array, NAMES, width, height, threshold) == expected


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        pytest.param([], [], id="no rows are nothing found"),
        pytest.param([PADDING, PADDING], [], id="rows of -1 are padding"),
        pytest.param([PADDING, [1, 0.9, 0, 0, 1, 1]], [(1, 0.9, (0, 0, 100, 50))], id="padding may come first"),
        pytest.param([[0, 0.5, 0, 0, 1, 1]], [(0, 0.5, (0, 0, 100, 50))], id="a score at the threshold is kept"),
        pytest.param([[0, 0.49, 0, 0, 1, 1]], [], id="a score below the threshold is not"),
        pytest.param([[0, 0.9, -0.4, 0.5, 0.5, 1.4]], [(0, 0.9, (0, 25, 50, 50))], id="boxes are clipped"),
        pytest.param([[0, 0.9, 1.1, 0, 1.4, 1]], [], id="a box outside the picture is dropped"),
        pytest.param([[0, 0.9, 0.5, 0, 0.5, 1]], [], id="a box without width is dropped"),
        pytest.param([[0, 0.9, 0.6, 0, 0.5, 1]], [], id="a box turned inside out is dropped"),
        pytest.param([[0, 0.9, -np.inf, 0, np.inf, 1]], [(0, 0.9, (0, 0, 100, 50))], id="infinity ends at the border"),
        pytest.param(
            [[2, 0.6, 0, 0, 1, 1], [0, 0.8, 0, 0, 1, 1], [1, 0.6, 0, 0, 1, 1]],
            [(0, 0.8, (0, 0, 100, 50)), (2, 0.6, (0, 0, 100, 50)), (1, 0.6, (0, 0, 100, 50))],
            id="best first, equal scores in the order of their rows",
        ),
    ],
)
def test_rows(rows, expected):
    found = rows_to_detections(np.array(rows, dtype=np.float64).reshape(-1, 6), NAMES, 100, 50, 0.5)
    assert found == tuple(Detection(label, NAMES[label], value, Box(*box)) for label, value, box in expected)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        pytest.param(np.zeros((2, 5)), r"\(2, 5\)", id="rows of five values"),
        pytest.param(
            [PADDING, [0, np.nan, 0, 0, 1, 1]], "row 1 .*nan.*diverged", id="a diverged network is not silent"
        ),
        pytest.param([[3, 0.9, 0, 0, 1, 1]], "label 3 .*3 class names", id="a label without a name"),
    ],
)
def test_rows_that_cannot_be_detections_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        rows_to_detections(np.array(rows, dtype=float), NAMES, 100, 50, 0.5)


def test_hundreds_of_equal_scores_keep_the_order_of_their_rows():
    """Short lists keep their order under any sort; from 17 rows on only a stable one does it."""
    rows = np.array([[0, 0.5 + 0.1 * (i % 2), 0, 0, 1, (i + 1) / 300] for i in range(300)])
    assert rows_to_detections(rows, NAMES, 100, 50, 0.5) == naive_detections(rows.tolist(), NAMES, 100, 50, 0.5)


# -- the file -------------------------------------------------------------------------------------------------------


@st.composite
def pictures(draw):
    file = draw(st.lists(st.text("abcÄ漢 \udce9", min_size=1, max_size=5), min_size=1, max_size=3).map("/".join))
    if draw(st.booleans()) and draw(st.booleans()):
        return ImageDetections(file, None, None, failure=draw(st.text(max_size=20)))
    width, height = draw(st.integers(1, 12000)), draw(st.integers(1, 12000))
    found = []
    for _ in range(draw(st.integers(0, 4))):
        (left, right), (top, bottom) = (
            sorted(draw(st.tuples(st.floats(0, side), st.floats(0, side)))) for side in (width, height)
        )
        label = draw(st.integers(0, len(NAMES) - 1))
        found.append(Detection(label, NAMES[label], draw(st.floats(0, 1)), Box(left, top, right, bottom)))
    return ImageDetections(file, width, height, tuple(found))


@settings(deadline=None)
@given(st.lists(pictures(), max_size=4))
def test_what_is_written_follows_the_format_and_reads_back(results):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.json"
        assert broken_rules(written(path, *results)) == []
        back, names = read_megadetector(path)
    assert names == NAMES
    assert len(back) == len(results)
    for was, now in zip(results, back, strict=True):
        assert (now.file, now.width, now.height, now.failure) == (was.file, was.width, was.height, was.failure)
        assert len(now.detections) == len(was.detections)
        for a, b in zip(was.detections, now.detections, strict=True):
            assert (b.label, b.name) == (a.label, a.name)
            assert math.isclose(b.score, a.score, abs_tol=0.5000001e-5)
            assert np.allclose(b.box, a.box, rtol=0, atol=0.01)


@pytest.mark.parametrize(
    ("results", "entry"),
    [
        pytest.param(
            image(BIRD),
            {
                "file": "a.jpg",
                "width": 100,
                "height": 50,
                "detections": [{"category": "1", "conf": 0.5, "bbox": [0.1, 0.1, 0.2, 0.4]}],
            },
            id="label 0 is category 1, boxes are relative x, y, width, height",
        ),
        pytest.param(
            image(), {"file": "a.jpg", "width": 100, "height": 50, "detections": []}, id="nothing found is a list"
        ),
        pytest.param(
            ImageDetections("a.jpg", None, None, failure="truncated"),
            {"file": "a.jpg", "failure": "truncated", "detections": None},
            id="a failed picture has a reason and null detections",
        ),
    ],
)
def test_entry(tmp_path, results, entry):
    assert written(tmp_path / "r.json", results)["images"] == [entry]


def test_categories_and_info_describe_the_detector(tmp_path):
    metadata = {"typical_detection_threshold": 0.5}
    document = written(tmp_path / "r.json", detector_metadata=metadata)
    assert document["detection_categories"] == {"1": "Bird", "2": "Eastern Chipmunk", "3": "Raccoon"}
    assert document["info"] == {"format_version": "1.6", "detector": "test", "detector_metadata": metadata}


@pytest.mark.parametrize(
    ("file", "root", "expected"),
    [
        pytest.param("site/a.jpg", None, "site/a.jpg", id="a relative file stays"),
        pytest.param("photos/site/a.jpg", "photos", "site/a.jpg", id="the searched folder is left out"),
        pytest.param("photos2/a.jpg", "photos", "photos2/a.jpg", id="a folder that begins alike is another"),
    ],
)
def test_files_are_relative_to_the_searched_folder(tmp_path, file, root, expected):
    assert written(tmp_path / "r.json", image(file=file), root=root)["images"][0]["file"] == expected


@pytest.mark.parametrize(
    ("results", "names", "message"),
    [
        pytest.param(
            image(Detection(0, "Bird", 46.2, BIRD.box)),
            NAMES,
            r"score 46\.2.*0\.\.1",
            id="a score that is no probability",
        ),
        pytest.param(image(Detection(0, "Bird", math.nan, BIRD.box)), NAMES, "score nan", id="a score of NaN"),
        pytest.param(image(Detection(3, "Fox", 0.5, BIRD.box)), NAMES, "label 3", id="a label beyond the names"),
        pytest.param(image(BIRD), ("Raccoon", "Bird"), "'Bird'.*'Raccoon'", id="class names of another detector"),
        pytest.param(image(BIRD, width=None, height=None), NAMES, "None x None", id="detections without a size"),
        pytest.param(image(), ("Bird", " "), "class 1 .*blank", id="a blank class name"),
    ],
)
def test_what_the_format_cannot_hold_is_refused_and_nothing_is_left_behind(tmp_path, results, names, message):
    with pytest.raises(ValueError, match=message):
        write_megadetector(tmp_path / "r.json", [results], names, detector="test")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_leaves_the_older_file_as_it_was(tmp_path):
    path = tmp_path / "r.json"
    written(path, image())
    before = path.read_bytes()

    def interrupted():
        yield image(BIRD)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_megadetector(path, interrupted(), NAMES, detector="test")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_folder_of_the_file_is_made(tmp_path):
    assert written(tmp_path / "new" / "r.json")["images"] == []


# -- files of other tools -------------------------------------------------------------------------------------------

ANIMAL = {"category": "1", "conf": 0.926, "bbox": [0.1, 0.2, 0.3, 0.4]}


def foreign(path: Path, *images: object, categories=None, version="1.4") -> Path:
    categories = {"1": "animal", "2": "person"} if categories is None else categories
    document = {"info": {"format_version": version}, "detection_categories": categories, "images": list(images)}
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_sizes_are_taken_from_the_caller_where_the_file_has_none(tmp_path):
    path = foreign(tmp_path / "md.json", {"file": "a.jpg", "detections": [ANIMAL]})
    (result,), _ = read_megadetector(path, sizes={"a.jpg": (100, 50)})
    assert (result.width, result.height) == (100, 50)
    assert result.detections[0].box == pytest.approx((10, 10, 40, 30))


def test_labels_are_the_ranks_of_category_ids(tmp_path):
    entry = {"file": "a.jpg", "width": 10, "height": 10, "detections": [ANIMAL | {"category": "10"}]}
    path = foreign(tmp_path / "md.json", entry, categories={"10": "deer", "9": "bear"})
    (result,), names = read_megadetector(path)
    assert names == ("bear", "deer")
    assert [(found.label, found.name) for found in result.detections] == [(1, "deer")]


def test_detections_of_unlisted_categories_are_left_out(tmp_path):
    path = foreign(tmp_path / "md.json", {"file": "a.jpg", "detections": [ANIMAL | {"category": "7"}]})
    assert read_megadetector(path)[0] == [ImageDetections("a.jpg", None, None)]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        pytest.param({"file": "a.jpg", "detections": [ANIMAL]}, "'a.jpg'.*sizes", id="a picture without a size"),
        pytest.param({"file": "a.jpg"}, "'detections' is missing", id="neither detections nor a failure"),
        pytest.param({"file": "a.jpg", "detections": None}, "without failure", id="null detections, no failure"),
        pytest.param({"detections": []}, "image 0: 'file' is missing", id="a picture without a file"),
        pytest.param(
            {"file": "a.jpg", "width": 9, "height": 9, "detections": [ANIMAL | {"bbox": [0.1, 0.1, -0.1, 0.1]}]},
            "extent",
            id="a negative width",
        ),
        pytest.param(
            {"file": "a.jpg", "width": 9, "height": 9, "detections": [ANIMAL | {"conf": 1.5}]},
            "0..1",
            id="a conf of 1.5",
        ),
    ],
)
def test_broken_pictures_are_named(tmp_path, entry, message):
    with pytest.raises(ValueError, match=f"md.json.*{message}"):
        read_megadetector(foreign(tmp_path / "md.json", entry))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"file,score", "no JSON", id="a CSV file"),
        pytest.param(b"\xff\xfe", "no JSON", id="not UTF-8"),
        pytest.param(b"[]", "'info'", id="a list"),
        pytest.param(b'{"info": {}, "images": [], "categories": []}', "detection_categories", id="a COCO file"),
        pytest.param(b'{"info": {}, "detection_categories": {}, "images": []}', "format_version None", id="no version"),
        pytest.param(
            b'{"info": {"format_version": "1.6"}, "detection_categories": {"deer": "deer"}, "images": []}',
            "whole numbers",
            id="a category that is no number",
        ),
    ],
)
def test_other_files_are_refused_by_name(tmp_path, content, message):
    path = tmp_path / "other.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"other.json: .*{message}"):
        read_megadetector(path)
