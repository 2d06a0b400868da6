"""Do labels survive the way there and back, and is nothing lost, rounded or overwritten in silence?"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_formats import COCO, batch, box, by_name, found, picture, text, ultralytics, xml

from ena24ssd import cameratraps
from ena24ssd.boxes import Box, LabelledBox
from ena24ssd.cameratraps import EMPTY_NAMES, CameraTrapDataset, Image
from ena24ssd.conversion import RULES, convert, detect
from ena24ssd.detections import Detection, ImageDetections, write_megadetector
from ena24ssd.formats import coco

LETTERS = st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp"), blacklist_characters='/\\:*?"<>|\x85')
WORDS = st.text(LETTERS, min_size=1, max_size=8).map(str.strip).filter(bool)
SPECIES = WORDS.filter(lambda name: name.lower() not in EMPTY_NAMES)
STEMS = WORDS.filter(lambda name: not name.startswith(".") and not name.endswith(".") and len(name.encode()) < 60)


@st.composite
def datasets(draw) -> CameraTrapDataset:
    """A dataset as `cameratraps.read` gives it: boxes inside their picture, of half a pixel at least, none twice."""
    names = tuple(draw(st.lists(SPECIES, min_size=1, max_size=4, unique=True)))
    stems = draw(st.lists(STEMS, min_size=1, max_size=4, unique_by=str.casefold))
    images = []
    for number, stem in enumerate(stems):
        width, height = draw(st.integers(1, 12_000)), draw(st.integers(1, 12_000))
        boxes = []
        for _ in range(draw(st.integers(0, 3))):
            left, top = draw(st.floats(0, width - 1)), draw(st.floats(0, height - 1))
            right, bottom = draw(st.floats(left + 0.6, width)), draw(st.floats(top + 0.6, height))
            boxes.append(LabelledBox(draw(st.integers(0, len(names) - 1)), Box(left, top, right, bottom)))
        folder = draw(st.sampled_from(["", "Kamera 1/", "S1/B04/"]))
        unlike = {(label, tuple(round(edge, 3) for edge in box)): LabelledBox(label, box) for label, box in boxes}
        context = (draw(st.none() | WORDS), draw(st.none() | WORDS), draw(st.none() | WORDS))
        images.append(Image(str(number), f"{folder}{stem}.png", width, height, tuple(unlike.values()), *context))
    return CameraTrapDataset(names, tuple(images), Path(), (), "drawn")


def save(dataset: CameraTrapDataset, folder: Path) -> Path:
    for image in dataset.images:
        picture(folder / image.file_name, image.width, image.height)
    return text(folder / "traps.json", coco.write_camera_traps(dataset, "traps.json").files["traps.json"]())


@pytest.mark.parametrize(
    ("to", "tolerance"),
    [
        pytest.param("voc", 1e-9, id="VOC keeps every digit"),
        pytest.param("yolo", 1e-4, id="YOLO moves edges by less than a ten-thousandth of a pixel"),
        pytest.param("coco", 1e-9, id="COCO keeps every digit"),
    ],
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(dataset=datasets())
def test_there_and_back_again(to, tolerance, dataset):
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        source = save(dataset, folder / "there")
        away = folder / ("away.json" if to == "coco" else "away")
        there = convert(source, away, to=to, pictures="link")
        if to == "voc" and there.boxes == 0:
            with pytest.raises(ValueError, match="names a species"):
                convert(away, folder / "back.json", pictures="link")
            return
        back = convert(away, folder / "back.json", from_=to, pictures="link")
        result = cameratraps.read(folder / "back.json")
    assert not {"shared-label-file", "unwritable-name", "unwritable-box"} & set(there.problem_counts())
    assert (there.pictures, there.boxes, there.blank) == (back.pictures, back.boxes, back.blank)
    expected, got = by_name(dataset), by_name(result)
    assert got.keys() == expected.keys()
    for name, boxes in expected.items():
        assert [species for species, _ in got[name]] == [species for species, _ in boxes]
        for (_, was), (_, now) in zip(boxes, got[name]):
            assert max(abs(a - b) for a, b in zip(was, now)) < tolerance
    if to != "voc":
        assert result.class_names == dataset.class_names
    if to == "coco":
        assert [image[5:] for image in result.images] == [image[5:] for image in dataset.images]
        assert [image.id for image in result.images] == [image.id for image in dataset.images]
    else:
        assert there.losses.get("location", 0) == sum(image.location is not None for image in dataset.images)


@pytest.fixture
def traps(tmp_path: Path) -> Path:
    """Two pictures with what only camera traps hold, and a blank one."""
    boxes = (LabelledBox(0, Box(10.25, 20, 30.5, 40)), LabelledBox(1, Box(0, 0, 200, 100)))
    images = (
        Image("1", "S1/a.png", 200, 100, boxes, "cam 1", "s1", "2024-01-02"),
        Image("2", "S1/b.png", 200, 100, boxes[:1], "cam 1"),
        Image("3", "c.png", 200, 100),
    )
    return save(CameraTrapDataset(("Red Fox", "hare", "lynx"), images, Path(), (), "x"), tmp_path / "traps")


LOST = [
    pytest.param(
        "voc",
        {"location": 2, "sequence": 1, "date and time": 1, "picture id (other than the file's name)": 3}
        | {"class without a box": 1, "annotation id": 4, "info": 1},
        id="VOC",
    ),
    pytest.param(
        "yolo",
        {"location": 2, "sequence": 1, "date and time": 1, "picture id (other than the file's name)": 3}
        | {"annotation id": 4, "info": 1},
        id="YOLO",
    ),
    pytest.param("coco", {"annotation id": 4, "info": 1}, id="COCO"),
]


@pytest.mark.parametrize(("to", "losses"), LOST)
def test_what_the_target_cannot_hold_is_counted(traps, tmp_path, to, losses):
    done = convert(traps, tmp_path / ("out.json" if to == "coco" else "out"), to=to)
    assert done.losses == losses
    assert (done.pictures, done.boxes, done.blank) == (3, 3, 1)
    assert done.classes == {"Red Fox": 2, "hare": 1, "lynx": 0}
    assert all(path.is_file() for path in done.written)
    assert "unused-class" not in done.problem_counts(), "a json lists its classes on purpose"


def test_rounding_is_asked_for_and_measured(traps, tmp_path):
    assert convert(traps, tmp_path / "exact", to="voc").largest_move == 0
    assert "<xmin>10.25</xmin>" in (tmp_path / "exact/S1/a.xml").read_text()
    assert convert(traps, tmp_path / "whole", to="voc", whole_pixels=True).largest_move == 0.5
    assert "<xmin>10</xmin>" in (tmp_path / "whole/S1/a.xml").read_text()


@pytest.mark.parametrize("to", ["camera-traps", "voc", "yolo", "coco"])
def test_nothing_is_overwritten_unless_asked(traps, tmp_path, to):
    target = tmp_path / ("out.json" if to in ("camera-traps", "coco") else "out")
    from_ = "coco" if to == "camera-traps" else "camera-traps"
    done = convert(traps, target, from_=from_, to=to)
    done.written[-1].write_text("mine")
    kept = {path: path.read_bytes() for path in done.written}
    several = len(done.written) > 1
    if several:
        done.written[0].unlink()
    with pytest.raises(FileExistsError, match="overwrite"):
        convert(traps, target, from_=from_, to=to)
    assert not (several and done.written[0].exists()), "nothing is written where something must not be overwritten"
    assert all(path.read_bytes() == kept[path] for path in done.written if path.exists())
    convert(traps, target, from_=from_, to=to, overwrite=True)
    assert done.written[-1].read_text() != "mine"


@pytest.mark.parametrize("how", ["copy", "link"])
@pytest.mark.parametrize(
    ("to", "place"),
    [("voc", "out/S1/a.png"), ("yolo", "out/images/S1/a.png"), ("coco", "images/S1/a.png")],
)
def test_pictures_come_along_where_the_tools_expect_them(traps, tmp_path, to, place, how):
    done = convert(traps, tmp_path / ("out.json" if to == "coco" else "out"), to=to, pictures=how)
    there = tmp_path / place
    assert there in done.copies and len(done.copies) == 3
    assert there.is_symlink() == (how == "link")
    assert there.read_bytes() == (traps.parent / "S1/a.png").read_bytes()
    assert "pictures-elsewhere" not in done.problem_counts()
    again = convert(traps, tmp_path / ("out.json" if to == "coco" else "out"), to=to, pictures=how, overwrite=True)
    assert again.pictures == 3 and there.read_bytes() == (traps.parent / "S1/a.png").read_bytes()


def test_yolo_in_place_needs_no_second_copy_of_the_pictures(tmp_path):
    source = text(tmp_path / "data/coco.json", json.dumps(COCO))
    for name in ("7", "9"):
        picture(tmp_path / f"data/images/{name}.jpg")
    done = convert(source, tmp_path / "data", to="yolo", pictures="copy")
    assert done.copies == () and "pictures-elsewhere" not in done.problem_counts()
    assert convert(source, tmp_path / "other", to="yolo").problem_counts()["pictures-elsewhere"] == 1


def test_a_split_becomes_lists_of_pictures(traps, tmp_path):
    done = convert(traps, tmp_path / "out", to="yolo", sides={"train": ["1"], "validation": ["2"], "test": []})
    assert (tmp_path / "out/train.txt").read_text() == "./images/S1/a.png\n"
    assert (tmp_path / "out/val.txt").read_text() == "./images/S1/b.png\n"
    assert not (tmp_path / "out/test.txt").exists()
    text_of_yaml = (tmp_path / "out/data.yaml").read_text()
    assert text_of_yaml == "train: train.txt\nval: val.txt\nnames:\n  0: Red Fox\n  1: hare\n  2: lynx\n"
    counts = done.problem_counts()
    assert counts["picture-on-no-side"] == 1 and "no-validation-side" not in counts


def test_boxes_reach_camera_traps_as_they_were_and_are_judged_there(tmp_path):
    picture(tmp_path / "a.png")
    text(tmp_path / "a.xml", xml(box(150, 20, 210, 40)))
    done = convert(tmp_path, tmp_path / "out.json")
    assert done.problem_counts() == {"overhanging-box": 1}
    assert json.loads((tmp_path / "out.json").read_text())["annotations"][0]["bbox"] == [150, 20, 60, 20]
    assert cameratraps.read(tmp_path / "out.json").problem_counts() == {"box-outside": 1}


def test_an_ultralytics_folder_becomes_a_dataset_that_finds_its_pictures(tmp_path):
    done = convert(ultralytics(tmp_path), tmp_path / "traps.json")
    dataset = cameratraps.read(tmp_path / "traps.json")
    assert (done.source, done.target, done.pictures, done.blank) == ("yolo", "camera-traps", 4, 1)
    assert dataset.class_names == ("Red Fox", "no") and dataset.problems == ()
    assert all(dataset.path(image).is_file() for image in dataset.images)


def test_reviewed_detections_become_a_dataset(tmp_path):
    entry = {"file": "a.jpg", "width": 200, "height": 100, "detections": [found(0.7), found(0.1)]}
    source = text(tmp_path / "md.json", batch(entry, {"file": "b.jpg", "failure": "no", "detections": None}))
    with pytest.raises(ValueError, match=r"threshold.*0\.1 to 0\.7"):
        convert(source, tmp_path / "out.json")
    done = convert(source, tmp_path / "out.json", threshold=0.5)
    assert (done.source, done.pictures, done.boxes) == ("megadetector", 1, 1)
    assert done.problem_counts() == {"failed-picture": 1}


def test_what_this_package_predicted_can_be_reviewed_and_learnt(tmp_path):
    seen = Detection(1, "Red Fox", 0.9, Box(10, 20, 30.5, 40))
    results = [ImageDetections("S1/a.jpg", 200, 100, (seen,)), ImageDetections("b.jpg", 200, 100)]
    write_megadetector(tmp_path / "results.json", results, ("hare", "Red Fox"), detector="x")
    convert(tmp_path / "results.json", tmp_path / "traps.json", threshold=0.5)
    dataset = cameratraps.read(tmp_path / "traps.json", check_files=False)
    assert by_name(dataset) == {"S1/a.jpg": [("Red Fox", pytest.approx(seen.box, abs=0.001))], "b.jpg": []}


def test_names_that_xml_cannot_hold_leave_their_picture_out(tmp_path):
    boxes = (LabelledBox(0, Box(1, 2, 30, 40)),)
    images = (Image("1", "a.png", 200, 100, boxes), Image("2", "b.png", 200, 100))
    source = save(CameraTrapDataset(("bell \x07 bird",), images, Path(), (), "x"), tmp_path)
    done = convert(source, tmp_path / "out", to="voc")
    assert done.pictures == 1 and done.problem_counts() == {"unwritable-name": 1}


FORMATS = [
    pytest.param({"a.xml": "", "b.json": ""}, ".", "voc", id="a folder with xml"),
    pytest.param({"a.txt": "", "classes.txt": ""}, ".", "yolo", id="a folder with txt and names"),
    pytest.param({"data.yaml": ""}, "data.yaml", "yolo", id="a data.yaml"),
    pytest.param({"labels/a.txt": ""}, ".", "yolo", id="a folder with labels"),
    pytest.param({"x.json": json.dumps(COCO)}, "x.json", "coco", id="a json with iscrowd"),
    pytest.param({"x.json": '{"annotations": [{"bbox": 1}]}'}, "x.json", "camera-traps", id="a json without"),
    pytest.param({"x.json": batch()}, "x.json", "megadetector", id="batch output without a picture"),
]


@pytest.mark.parametrize(("files", "source", "expected"), FORMATS)
def test_files_tell_their_format(tmp_path, files, source, expected):
    for name, content in files.items():
        text(tmp_path / name, content)
    assert detect(tmp_path / source) == expected


UNTOLD = [
    pytest.param({"a.xml": "", "labels/a.txt": ""}, ".", "voc and yolo", id="two formats in one folder"),
    pytest.param({"notes.txt": ""}, ".", "neither", id="none"),
    pytest.param({"a.csv": ""}, "a.csv", "json file", id="a table"),
    pytest.param({"a.json": "{"}, "a.json", "not valid json", id="half a json"),
]


@pytest.mark.parametrize(("files", "source", "message"), UNTOLD)
def test_a_format_that_cannot_be_told_is_asked_for(tmp_path, files, source, message):
    for name, content in files.items():
        text(tmp_path / name, content)
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / source, tmp_path / "out.json")


REFUSED = [
    pytest.param({"from_": "labelme"}, "can be read", id="a format nobody knows"),
    pytest.param({"to": "csv"}, "can be written", id="a target nobody knows"),
    pytest.param({"threshold": 0.0}, "threshold \\(.*\\) is for", id="a threshold for boxes people drew"),
    pytest.param({"missing_is_blank": True}, "missing_is_blank \\(.*\\) is for", id="missing labels in a json"),
    pytest.param({"origin": 1}, "origin \\(.*\\) is for", id="an origin without VOC"),
    pytest.param({"whole_pixels": True}, "whole_pixels \\(.*\\) is for", id="whole pixels in a json"),
    pytest.param({"names": "n.txt"}, "names \\(.*\\) is for", id="class names beside class names"),
    pytest.param({"sides": {}}, "sides \\(.*\\) is for", id="sides of a split in one json"),
    pytest.param({"to": "voc", "origin": 2, "target": "out"}, "origin 2", id="an origin of 2"),
    pytest.param({"pictures": "move"}, "pictures 'move'", id="moving pictures"),
    pytest.param(
        {"pictures": "copy", "check_files": False}, "nothing to copy", id="copies of pictures that are not there"
    ),
    pytest.param({"target": "out"}, "named \\*.json", id="a json without its ending"),
    pytest.param({"to": "yolo", "target": "out.json"}, "a folder", id="a folder called like a json"),
    pytest.param({"to": "voc", "target": "traps/c.png"}, "this is a file", id="a folder that is a file"),
    pytest.param({"to": "yolo", "target": "o", "sides": {"val": ["1"]}}, "side 'val'", id="a side of another name"),
    pytest.param(
        {"to": "yolo", "target": "o", "sides": {"train": ["1"], "test": ["1"]}}, "one only", id="a picture on two sides"
    ),
]


@pytest.mark.parametrize(("choices", "message"), REFUSED)
def test_choices_that_do_not_go_together_are_refused_before_anything_is_written(traps, tmp_path, choices, message):
    before = sorted(tmp_path.rglob("*"))
    choices = {"target": "out.json", "to": "camera-traps"} | choices
    target = tmp_path / choices.pop("target")
    with pytest.raises(ValueError, match=message):
        convert(traps, target, **choices)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_source_that_leaves_nothing_says_why(tmp_path):
    picture(tmp_path / "a.png")
    text(tmp_path / "a.xml", "<annotation>")
    with pytest.raises(ValueError, match=r"no picture.*unreadable-label 1.*Mend it"):
        convert(tmp_path, tmp_path / "out.json")
    with pytest.raises(FileNotFoundError):
        convert(tmp_path / "nowhere", tmp_path / "out.json")


def test_copies_of_pictures_that_are_not_there_are_refused_before_anything_is_written(tmp_path):
    entry = {"file": "a.jpg", "width": 200, "height": 100, "detections": [found()]}
    source = text(tmp_path / "md.json", batch(entry))
    with pytest.raises(FileNotFoundError, match=r"a\.jpg: no such picture"):
        convert(source, tmp_path / "out", to="voc", threshold=1, pictures="copy")
    assert not (tmp_path / "out").exists()


def test_progress_sees_every_label_read_and_file_written(traps, tmp_path):
    seen: list[int] = []

    def progress(things):
        things = list(things)
        seen.append(len(things))
        return things

    convert(traps, tmp_path / "out", to="voc", pictures="copy", progress=progress)
    convert(tmp_path / "out", tmp_path / "out.json", progress=progress)
    assert seen == [3, 3, 3, 1]


def test_every_rule_of_a_conversion_is_explained(traps, tmp_path):
    done = convert(traps, tmp_path / "out", to="yolo")
    assert done.problems and {problem.rule for problem in done.problems} <= set(RULES)
    assert sum(done.problem_counts().values()) == len(done.problems)


def test_the_real_annotations_survive_voc(shared_data, tmp_path):
    source = shared_data / "ena24-dev14" / "ena24.json"
    convert(source, tmp_path / "out", to="voc", pictures="link")
    convert(tmp_path / "out", tmp_path / "back.json")
    was, now = cameratraps.read(source), cameratraps.read(tmp_path / "back.json", tmp_path / "out")
    assert by_name(now) == by_name(was)
