"""Do label files of other tools say the same here, and is whatever does not fit named?"""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from ena24ssd.boxes import Box, LabelledBox
from ena24ssd.cameratraps import AnnotationError, CameraTrapDataset, Image
from ena24ssd.formats import coco, megadetector, voc, yolo
from ena24ssd.formats.pairs import pair_up, picture_size
from ena24ssd.formats.reading import CONFLICTS, LabelError, Reading, to_number

LABELIMG = """<annotation>
	<folder>Kamera 7</folder>
	<filename>IMG_0042.JPG</filename>
	<path>C:\\Users\\Å. Bär\\Kamera 7\\IMG_0042.JPG</path>
	<source>
		<database>Unknown</database>
	</source>
	<size>
		<width>1920</width>
		<height>1080</height>
		<depth>3</depth>
	</size>
	<segmented>0</segmented>
	<object>
		<name>White_Tailed_Deer</name>
		<pose>Unspecified</pose>
		<truncated>0</truncated>
		<difficult>0</difficult>
		<bndbox>
			<xmin>100</xmin>
			<ymin>200</ymin>
			<xmax>400</xmax>
			<ymax>500</ymax>
		</bndbox>
	</object>
	<object>
		<name>Füchsin &amp; Welpe</name>
		<pose>Left</pose>
		<truncated>1</truncated>
		<difficult>1</difficult>
		<bndbox>
			<xmin>1700.25</xmin>
			<ymin>1</ymin>
			<xmax>1920</xmax>
			<ymax>90.5</ymax>
		</bndbox>
	</object>
</annotation>
"""
ENTITY_BOMB = (
    '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;&x;">]><annotation><filename>&y;</filename></annotation>'
)
EXTERNAL = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><filename>&x;</filename></annotation>'


def picture(path: Path, width: int = 200, height: int = 100) -> Path:
    """A PNG of any size in 70 bytes: a whole head and no pixels, which is all that reading a size takes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    return path


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8", newline="")
    return path


def xml(*objects: str, size: tuple[object, object] | None = (200, 100), file_name: str = "") -> str:
    sides = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
    return f"<annotation><filename>{file_name}</filename>{sides}{''.join(objects)}</annotation>"


def box(*edges: object, name: str = "fox") -> str:
    tags = ("xmin", "ymin", "xmax", "ymax")
    bounds = "".join(f"<{tag}>{edge}</{tag}>" for tag, edge in zip(tags, edges))
    return f"<object><name>{name}</name><bndbox>{bounds}</bndbox></object>"


def rules(reading: Reading) -> list[str]:
    assert {conflict.rule for conflict in reading.conflicts} <= set(CONFLICTS)
    return [conflict.rule for conflict in reading.conflicts]


def by_name(dataset: CameraTrapDataset) -> dict[str, list[tuple[str, Box]]]:
    return {
        image.file_name: [(dataset.class_names[label], box) for label, box in image.boxes] for image in dataset.images
    }


# --- VOC -------------------------------------------------------------------------------------------------------------


def test_a_labelimg_file_keeps_names_and_edges_as_they_are(tmp_path):
    picture(tmp_path / "IMG_0042.png", 1920, 1080)
    text(tmp_path / "IMG_0042.xml", LABELIMG)
    reading = voc.read(tmp_path)
    assert reading.dataset.class_names == ("Füchsin & Welpe", "White_Tailed_Deer")
    assert reading.dataset.images == (
        Image(
            "IMG_0042",
            "IMG_0042.png",
            1920,
            1080,
            (LabelledBox(1, Box(100, 200, 400, 500)), LabelledBox(0, Box(1700.25, 1, 1920, 90.5))),
        ),
    )
    assert rules(reading) == []
    assert reading.losses == {"difficult flag": 1, "truncated flag": 1, "pose": 1}


def test_pixels_counted_from_one_begin_one_pixel_earlier(tmp_path):
    picture(tmp_path / "a.png")
    text(tmp_path / "a.xml", xml(box(1, 1, 200, 100)))
    assert by_name(voc.read(tmp_path, origin=1).dataset) == {"a.png": [("fox", Box(0, 0, 200, 100))]}
    assert by_name(voc.read(tmp_path).dataset) == {"a.png": [("fox", Box(1, 1, 200, 100))]}


LEFT_OUT = [
    pytest.param("", "unreadable-label", id="an empty file"),
    pytest.param("<annotation><object>", "unreadable-label", id="half a file"),
    pytest.param("<html/>", "unreadable-label", id="another kind of xml"),
    pytest.param('<?xml version="1.0" encoding="klingon"?><annotation/>', "unreadable-label", id="no such encoding"),
    pytest.param(ENTITY_BOMB, "unreadable-label", id="an entity bomb"),
    pytest.param(EXTERNAL, "unreadable-label", id="an entity that reads another file"),
    pytest.param(xml("<object><bndbox/></object>"), "unknown-class", id="an object without a name"),
    pytest.param(xml(box(1, 2, 3, 4, name="  ")), "unknown-class", id="an object with a blank name"),
    pytest.param(xml("<object><name>a</name><robndbox/></object>"), "not-a-box", id="a rotated box"),
    pytest.param(xml("<object><name>a</name></object>"), "not-a-box", id="an object without a place"),
    pytest.param(xml(box(1, 2, 3)), "unusable-box", id="three edges"),
    pytest.param(xml(box(1, "nan", 3, 4)), "unusable-box", id="an edge that is no number"),
    pytest.param(xml(box(1, 2, "1e999", 4)), "unusable-box", id="an infinite edge"),
    pytest.param(xml(box(1, 2, "1_0", 4)), "unusable-box", id="Python's own way to write 10"),
    pytest.param(xml(box(1, 2, 30, 40), size=(100, 100)), "shape-mismatch", id="a picture of another shape"),
]


@pytest.mark.parametrize(("content", "rule"), LEFT_OUT)
def test_a_broken_xml_is_named_and_stops_no_other(tmp_path, content, rule):
    for name in ("bad", "good"):
        picture(tmp_path / f"{name}.png")
    text(tmp_path / "bad.xml", content)
    text(tmp_path / "good.xml", xml(box(10, 20, 30, 40)))
    reading = voc.read(tmp_path)
    assert by_name(reading.dataset) == {"good.png": [("fox", Box(10, 20, 30, 40))]}
    found = [conflict for conflict in reading.conflicts if conflict.rule == rule]
    assert len(found) == 1 and found[0].file.endswith("bad.xml") and found[0].detail


KEPT = [
    pytest.param(xml(box(30, 20, 10, 40)), ["flat-box"], id="left and right exchanged"),
    pytest.param(xml(box(10, 20, 10, 40)), ["flat-box"], id="no width"),
    pytest.param(xml(box(300, 20, 310, 40)), ["stray-box"], id="beside the picture"),
    pytest.param(xml(box(150, 20, 210, 40)), ["overhanging-box"], id="ten pixels past the edge"),
    pytest.param(xml(box(150, 20, 200.25, 40)), [], id="a quarter of a pixel past the edge, which is rounding"),
    pytest.param(xml(box(1, 2, 30, 40), size=(0, 0)), [], id="a size of zero: the picture's own is taken"),
    pytest.param(xml(box(1, 2, 30, 40), size=None), [], id="no size: the picture's own is taken"),
    pytest.param(xml(box(1, 2, 30, 40), size=(400, 200)), ["size-mismatch"], id="a copy at half the size"),
    pytest.param(xml(file_name="other.png"), ["stale-file-name"], id="another picture named inside"),
    pytest.param(xml(file_name="a"), [], id="the picture named without its ending, as old LabelImg does"),
    pytest.param(xml(box(1, 2, 30, 40), box(5, 6, 70, 80, name="Fox")), ["similar-classes"], id="capitals differ"),
    pytest.param(xml(box(1, 2, 30, 40), box(5, 6, 70, 80, name=" fox")), ["similar-classes"], id="a space more"),
    pytest.param(xml(box(1, 2, 30, 40, name="none")), ["class-reads-as-empty"], id="boxes of nothing"),
]


@pytest.mark.parametrize(("content", "expected"), KEPT)
def test_what_is_odd_in_an_xml_is_kept_and_named(tmp_path, content, expected):
    picture(tmp_path / "a.png")
    text(tmp_path / "a.xml", content)
    reading = voc.read(tmp_path)
    assert rules(reading) == expected
    assert [image.file_name for image in reading.dataset.images] == ["a.png"]
    assert sum(len(image.boxes) for image in reading.dataset.images) == content.count("<object>")


def test_boxes_on_a_resized_copy_stay_right_relative_to_the_picture(tmp_path):
    picture(tmp_path / "a.png", 200, 100)
    text(tmp_path / "a.xml", xml(box(100, 50, 400, 200), size=(400, 200)))
    reading = voc.read(tmp_path)
    assert reading.dataset.images[0][:4] == ("a", "a.png", 400, 200)
    assert "0.5 x 0.5" in reading.conflicts[0].detail


@pytest.mark.parametrize(
    ("labelled", "expected"),
    [
        pytest.param(None, (20, 40), id="no size given: upright"),
        pytest.param((20, 40), (20, 40), id="labelled upright"),
        pytest.param((40, 20), (40, 20), id="labelled as stored"),
        pytest.param((80, 40), (40, 20), id="labelled on a larger copy, as stored"),
    ],
)
def test_boxes_refer_to_the_upright_picture_unless_the_label_says_otherwise(tmp_path, labelled, expected):
    exif = Pillow.Exif()
    exif[0x0112] = 6
    Pillow.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert picture_size(tmp_path / "a.jpg", labelled) == expected


def test_without_pictures_the_xml_is_believed(tmp_path):
    text(tmp_path / "Annotations/S1/a.xml", xml(box(1, 2, 3, 4), file_name="a.JPG"))
    text(tmp_path / "Annotations/S1/b.xml", xml(file_name="b.jpg", size=(0, 0)))
    text(tmp_path / "Annotations/S1/c.xml", xml(file_name="c"))
    text(tmp_path / "Annotations/S1/d.xml", "")
    reading = voc.read(tmp_path, check_files=False)
    assert by_name(reading.dataset) == {"S1/a.JPG": [("fox", Box(1, 2, 3, 4))]}
    assert sorted(rules(reading)) == ["label-without-picture", "unreadable-label", "unusable-size"]


def test_whole_pixels_never_make_a_box_vanish():
    boxes = (LabelledBox(0, Box(10.4, 20.6, 30.5, 40.49)), LabelledBox(0, Box(50.1, 60.2, 50.4, 90)))
    dataset = CameraTrapDataset(("fox",), (Image("a", "a.png", 200, 100, boxes),), Path(), (), "x")
    writing = voc.write(dataset, whole_pixels=True)
    content = writing.files["a.xml"]()
    assert "<xmin>10</xmin>" in content and "<ymin>21</ymin>" in content and "<xmax>31</xmax>" in content
    assert "<xmin>50</xmin>" in content and "<xmax>51</xmax>" in content
    assert writing.largest_move == pytest.approx(0.6)


# --- which label belongs to which picture ----------------------------------------------------------------------------

LAYOUTS = [
    pytest.param(["a.jpg"], ["a.xml"], {"a.jpg": "a.xml"}, [], id="beside the picture"),
    pytest.param(["JPEGImages/a.jpg"], ["Annotations/a.xml"], {"JPEGImages/a.jpg": "Annotations/a.xml"}, [], id="VOC"),
    pytest.param(["images/t/a.jpg"], ["labels/t/a.xml"], {"t/a.jpg": "labels/t/a.xml"}, [], id="Ultralytics"),
    pytest.param(["t/images/a.jpg"], ["t/labels/a.xml"], {"t/images/a.jpg": "t/labels/a.xml"}, [], id="Roboflow"),
    pytest.param(["S1/a.jpg"], ["S1/Annotations/a.xml"], {"S1/a.jpg": "S1/Annotations/a.xml"}, [], id="in each folder"),
    pytest.param(["S1/B/a.jpg"], ["Annotations/a.xml"], {"S1/B/a.jpg": "Annotations/a.xml"}, [], id="saved flat"),
    pytest.param(["a.b c.JPG"], ["a.b c.XML"], {"a.b c.JPG": "a.b c.XML"}, [], id="dots, spaces and capitals"),
    pytest.param(["ä/Luchs (1).png"], ["ä/Luchs (1).xml"], {"ä/Luchs (1).png": "ä/Luchs (1).xml"}, [], id="unicode"),
    pytest.param(["a.jpg"], ["A.xml"], {}, ["label-without-picture"], id="capitals count"),
    pytest.param(["S2/a.jpg"], ["S1/a.xml"], {}, ["label-without-picture"], id="never another camera's picture"),
    pytest.param(["S1/a.jpg", "S2/a.jpg"], ["a.xml"], {}, ["duplicate-stem"], id="flat, and two could be meant"),
    pytest.param(
        ["S1/a.jpg", "S2/a.jpg"],
        ["a.xml", "S1/a.xml"],
        {"S1/a.jpg": "S1/a.xml", "S2/a.jpg": "a.xml"},
        [],
        id="flat, and the other one has a label of its own",
    ),
    pytest.param(["a.jpg", "a.png"], ["a.xml"], {}, ["duplicate-stem"], id="two endings"),
    pytest.param(["a.jpg"], ["a.xml", "Annotations/a.xml"], {}, ["duplicate-label"], id="two labels that differ"),
    pytest.param([], ["a.xml"], {}, ["label-without-picture"], id="no picture at all"),
    pytest.param(
        [".a.jpg", "b.jpg"], ["._a.xml", "b.xml"], {"b.jpg": "b.xml"}, [], id="hidden files are not looked at"
    ),
]


@pytest.mark.parametrize(("pictures", "labels", "expected", "conflicts"), LAYOUTS)
def test_a_label_finds_its_picture(tmp_path, pictures, labels, expected, conflicts):
    for name in (*pictures, *labels):
        text(tmp_path / name, name)
    pairs = pair_up(tmp_path, ".xml")
    assert {name: label.relative_to(tmp_path).as_posix() for name, label in pairs.labelled} == expected
    assert [conflict.rule for conflict in pairs.conflicts] == conflicts
    assert all((pairs.root / name).is_file() for name, _ in pairs.labelled)


def test_two_equal_labels_of_a_picture_are_one(tmp_path):
    picture(tmp_path / "a.png")
    for folder in (".", "Annotations"):
        text(tmp_path / folder / "a.xml", xml(box(1, 2, 3, 4)))
    reading = voc.read(tmp_path)
    assert len(reading.dataset.images) == 1 and rules(reading) == []


def test_the_picture_named_inside_decides_between_two_endings(tmp_path):
    for name in ("a.png", "a.jpg"):
        picture(tmp_path / name)
    text(tmp_path / "a.xml", xml(box(1, 2, 30, 40), file_name="a.jpg"))
    reading = voc.read(tmp_path)
    assert [image.file_name for image in reading.dataset.images] == ["a.jpg"]
    assert rules(reading) == ["picture-without-label"]


def test_names_that_a_json_cannot_hand_on_are_left_out(tmp_path):
    for name in ("a\\b", "b\udce4r", "c"):
        try:
            picture(tmp_path / f"{name}.png")
        except OSError:
            pytest.skip("this file system takes no such names")
        text(tmp_path / f"{name}.xml", xml())
    reading = voc.read(tmp_path)
    assert [image.file_name for image in reading.dataset.images] == ["c.png"]
    assert rules(reading) == ["unusable-name"] * 4
    assert all(conflict.file.isascii() for conflict in reading.conflicts)


@pytest.mark.parametrize(
    ("source", "root"),
    [
        pytest.param("Annotations", None, id="the folder around Annotations is looked through"),
        pytest.param("Annotations", "pics", id="the pictures' folder is named"),
    ],
)
def test_labels_and_pictures_may_lie_apart(tmp_path, source, root):
    picture(tmp_path / "pics/S1/a.png")
    text(tmp_path / "Annotations" / ("S1" if root else "pics/S1") / "a.xml", xml())
    reading = voc.read(tmp_path / source, root=root and tmp_path / root)
    assert [reading.dataset.path(image) for image in reading.dataset.images] == [tmp_path / "pics/S1/a.png"]


def test_a_link_back_to_a_folder_above_is_not_followed_for_ever(tmp_path):
    picture(tmp_path / "S1/a.png")
    text(tmp_path / "S1/a.xml", xml())
    (tmp_path / "S1/back").symlink_to(tmp_path, target_is_directory=True)
    assert len(voc.read(tmp_path).dataset.images) == 1


# --- YOLO ------------------------------------------------------------------------------------------------------------


def ultralytics(folder: Path) -> Path:
    """A dataset as Ultralytics lays it out: three sides, a blank picture, names as a mapping."""
    for name in ("train/a b", "train/Blank", "val/c", "test/d"):
        picture(folder / f"images/{name}.png")
    text(folder / "labels/train/a b.txt", "1 0.5 0.5 0.5 0.25\n0 0.1 0.2 0.1 0.2\n")
    text(folder / "labels/train/Blank.txt", "")
    text(folder / "labels/val/c.txt", "\ufeff1\t0.5 0.5  1 1\r\n\r\n")
    text(folder / "labels/test/d.txt", "0.0 0.25 0.5 0.5 1")
    names = "names:\n  0: Red Fox\n  1: no\n"
    text(folder / "data.yaml", f"path: .\ntrain: images/train\nval: images/val\ntest:\n{names}")
    return folder


def test_the_layout_of_ultralytics_is_read_with_its_folders(tmp_path):
    reading = yolo.read(ultralytics(tmp_path))
    assert reading.dataset.root == tmp_path / "images"
    assert reading.dataset.class_names == ("Red Fox", "no")
    assert by_name(reading.dataset) == {
        "test/d.png": [("Red Fox", Box(0, 0, 100, 100))],
        "train/Blank.png": [],
        "train/a b.png": [("no", Box(50, 37.5, 150, 62.5)), ("Red Fox", pytest.approx((10, 10, 30, 30)))],
        "val/c.png": [("no", Box(0, 0, 200, 100))],
    }
    assert rules(reading) == []
    assert reading.losses == {"sides of a split (train, val, test)": 4}


BROKEN_ROWS = [
    pytest.param("0 0.5 0.5 0.1", "unusable-box", id="four columns"),
    pytest.param("0 0.5 0.5 0.1 x", "unusable-box", id="a word among the numbers"),
    pytest.param("0 0.5 0.5 nan 0.1", "unusable-box", id="not a number"),
    pytest.param("2 0.5 0.5 0.1 0.1", "unknown-class", id="a class past the end of the names"),
    pytest.param("-1 0.5 0.5 0.1 0.1", "unknown-class", id="a negative class, never the last name"),
    pytest.param("0.5 0.5 0.5 0.1 0.1", "unknown-class", id="half a class"),
    pytest.param("0 0.5 0.5 0.1 0.1 0.98", "not-a-box", id="a prediction with its score"),
    pytest.param("0 0 0 1 0 1 1", "not-a-box", id="a triangle"),
    pytest.param("0 0 0 1 0 1 1 0 1", "not-a-box", id="a rotated box"),
]


@pytest.mark.parametrize(("row", "rule"), BROKEN_ROWS)
def test_a_broken_row_leaves_its_picture_out(tmp_path, row, rule):
    for name in ("bad", "good"):
        picture(tmp_path / f"{name}.png")
    text(tmp_path / "classes.txt", "fox\nhare\n")
    text(tmp_path / "bad.txt", f"0 0.5 0.5 0.1 0.1\n{row}\n")
    text(tmp_path / "good.txt", "0 0.5 0.5 0.5 0.5\n1 0.5 0.5 0.5 0.5\n")
    reading = yolo.read(tmp_path)
    assert [image.file_name for image in reading.dataset.images] == ["good.png"]
    assert rules(reading) == [rule]
    assert "line 2" in reading.conflicts[0].detail and reading.conflicts[0].file.endswith("bad.txt")


def test_bytes_that_are_no_text_and_pictures_that_are_none_are_named(tmp_path):
    for name in ("a", "b", "c"):
        picture(tmp_path / f"{name}.png")
        text(tmp_path / f"{name}.txt", "0 0.5 0.5 0.5 0.5")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe0\x00")
    (tmp_path / "b.png").write_bytes(b"not a picture")
    text(tmp_path / "classes.txt", "fox")
    reading = yolo.read(tmp_path)
    assert [image.file_name for image in reading.dataset.images] == ["c.png"]
    assert rules(reading) == ["unreadable-label", "unreadable-picture"]


def test_a_missing_txt_is_no_blank_picture_unless_somebody_says_so(tmp_path):
    for name in ("empty", "missing", "broken"):
        picture(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes(b"")
    text(tmp_path / "empty.txt", "")
    text(tmp_path / "classes.txt", "fox")
    reading = yolo.read(tmp_path)
    assert by_name(reading.dataset) == {"empty.png": []}
    assert rules(reading) == ["picture-without-label", "picture-without-label", "unused-class"]
    reading = yolo.read(tmp_path, missing_is_blank=True)
    assert by_name(reading.dataset) == {"empty.png": [], "missing.png": []}
    assert rules(reading) == ["unreadable-picture", "unused-class"]


def test_lists_among_the_labels_are_no_labels_but_a_picture_may_be_called_train(tmp_path):
    picture(tmp_path / "train.png")
    text(tmp_path / "train.txt", "0 0.5 0.5 1 1")
    for name in ("val.txt", "README.txt"):
        text(tmp_path / name, "./images/a.jpg")
    text(tmp_path / "obj.names", "fox\n")
    reading = yolo.read(tmp_path)
    assert by_name(reading.dataset) == {"train.png": [("fox", Box(0, 0, 200, 100))]} and rules(reading) == []


NAMES = [
    pytest.param("data.yaml", "names: [Fox, no, 1, null, 'it''s']", ("Fox", "no", "1", "null", "it's"), id="a list"),
    pytest.param("data.yaml", "names: {1: b, 0: a}", ("a", "b"), id="a mapping in any order"),
    pytest.param("classes.txt", "Red Fox\r\n Fox \nŁoś\n\n", ("Red Fox", " Fox ", "Łoś"), id="one a line"),
]


@pytest.mark.parametrize(("file", "content", "expected"), NAMES)
def test_class_names_are_text_to_the_letter(tmp_path, file, content, expected):
    assert yolo.read_names(text(tmp_path / file, content)) == expected


BAD_NAMES = [
    pytest.param({"data.yaml": "names: {0: a, 2: b}"}, "map 0, 1, 2", id="a gap"),
    pytest.param({"data.yaml": "nc: 3"}, "must list", id="no names"),
    pytest.param({"data.yaml": "names: [[a], b]"}, "class 0", id="a name that is a list"),
    pytest.param({"data.yaml": "names: {"}, "no YAML", id="half a yaml"),
    pytest.param({"classes.txt": "a\n\nb\n"}, "class 1", id="a blank line between"),
    pytest.param({"classes.txt": ""}, "lists no class names", id="an empty list"),
    pytest.param({}, "no class names", id="no list at all"),
    pytest.param(
        {"data.yaml": "names: [a]", "classes.txt": "b"}, "different class names", id="two lists that disagree"
    ),
]


@pytest.mark.parametrize(("files", "message"), BAD_NAMES)
def test_labels_without_names_mean_nothing(tmp_path, files, message):
    for name, content in files.items():
        text(tmp_path / name, content)
    with pytest.raises(ValueError, match=message):
        yolo.read(tmp_path)


def test_one_name_for_two_numbers_is_one_class(tmp_path):
    picture(tmp_path / "a.png")
    text(tmp_path / "a.txt", "0 0.5 0.5 1 1\n2 0.5 0.5 0.5 0.5")
    reading = yolo.read(tmp_path, names=text(tmp_path / "my names", "fox\nhare\nfox"))
    assert reading.dataset.class_names == ("fox", "hare")
    assert [label for label, _ in reading.dataset.images[0].boxes] == [0, 0]
    assert rules(reading) == ["same-class-twice", "unused-class"]


@given(
    size=st.tuples(st.integers(1, 12_000), st.integers(1, 12_000)),
    corners=st.tuples(*[st.floats(0, 1)] * 4),
)
def test_yolo_moves_no_edge_by_a_hundredth_of_a_pixel(tmp_path_factory, size, corners):
    left, right = sorted((corners[0] * size[0], corners[1] * size[0]))
    top, bottom = sorted((corners[2] * size[1], corners[3] * size[1]))
    image = Image("a", "a.png", *size, (LabelledBox(0, Box(left, top, right, bottom)),))
    writing = yolo.write(CameraTrapDataset(("fox",), (image,), Path(), (), "x"))
    if min(right - left, bottom - top) < 0.5:
        assert "unwritable-box" in [conflict.rule for conflict in writing.conflicts]
        return
    _, x, y, w, h = map(float, writing.files["labels/a.txt"]().split())
    back = ((x - w / 2) * size[0], (y - h / 2) * size[1], (x + w / 2) * size[0], (y + h / 2) * size[1])
    assert max(abs(was - now) for was, now in zip(image.boxes[0].box, back)) < 0.0001


def test_yolo_clips_what_its_trainers_would_refuse():
    boxes = (LabelledBox(0, Box(-10, 0, 100, 100)), LabelledBox(0, Box(0, 0, 200, 100)))
    images = (Image("a", "a.png", 200, 100, boxes), Image("b", "b\n.png", 200, 100), Image("c", "a.jpg", 200, 100))
    writing = yolo.write(CameraTrapDataset(("fox",), images, Path(), (), "x"))
    assert writing.files["labels/a.txt"]().splitlines()[0].split()[1:4:2] == ["0.250000000", "0.500000000"]
    expected = ["shared-label-file", "clipped-box", "unwritable-name", "no-validation-side"]
    assert [conflict.rule for conflict in writing.conflicts] == expected
    assert writing.files["train.txt"]() == "./images/a.png\n"


@pytest.mark.parametrize(
    ("name", "label"),
    [
        pytest.param("a.b.jpg", "labels/a.b.txt", id="a dot in the name"),
        pytest.param("S1/images/a.jpg", "images/S1/labels/a.txt", id="the last 'images' of a path is the one replaced"),
        pytest.param("my images/a.jpg", "labels/my images/a.txt", id="a folder that only ends so"),
    ],
)
def test_labels_lie_where_ultralytics_looks(name, label):
    images = (Image("a", name, 200, 100), Image("z", "z.jpg", 200, 100))
    writing = yolo.write(CameraTrapDataset(("fox",), images, Path(), (), "x"))
    place = f"/root/{writing.pictures[name]}"
    looked_for = "/labels/".join(place.rsplit("/images/", 1)).rsplit(".", 1)[0] + ".txt"  # as in ultralytics.data.utils
    assert label in writing.files and f"/root/{label}" == looked_for


# --- COCO ------------------------------------------------------------------------------------------------------------

COCO = {
    "info": {"year": 2020},
    "licenses": [],
    "images": [
        {"id": 7, "file_name": "7.jpg", "width": 200, "height": 100, "license": 3, "date_captured": "2020-01-02 03:04"},
        {"id": 9, "file_name": "9.jpg", "width": 200, "height": 100},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 90, "bbox": [1, 2, 30, 40], "area": 1200, "iscrowd": 0},
        {
            "id": 2,
            "image_id": 7,
            "category_id": 3,
            "bbox": [5, 6, 70, 80],
            "iscrowd": 1,
            "segmentation": {"counts": "x"},
        },
    ],
    "categories": [
        {"id": 3, "name": "fox", "supercategory": "canid"},
        {"id": 90, "name": "hare", "supercategory": "none"},
    ],
}


def test_plain_coco_keeps_crowds_as_boxes_and_counts_what_is_lost(tmp_path):
    path = text(tmp_path / "coco.json", json.dumps(COCO))
    reading = coco.read(path, check_files=False)
    assert by_name(reading.dataset) == {
        "7.jpg": [("hare", Box(1, 2, 31, 42)), ("fox", Box(5, 6, 75, 86))],
        "9.jpg": [],
    }
    assert rules(reading) == ["crowd"] and "annotation 2 of image 7" in reading.conflicts[0].detail
    lost = {"annotation id": 2, "annotation segmentation": 1, "category supercategory": 2, "picture license": 1}
    assert reading.losses == lost | {"info": 1}
    assert reading.dataset.images[0].taken_at == "2020-01-02 03:04"


def test_a_json_that_is_no_coco_is_refused_as_a_whole(tmp_path):
    with pytest.raises(AnnotationError):
        coco.read(text(tmp_path / "x.json", "{}"))


@pytest.mark.parametrize(
    ("ids", "expected", "losses"),
    [
        pytest.param(["7", "12"], [7, 12], {}, id="whole numbers stay"),
        pytest.param(["7", "a"], [1, 2], {"picture id (text; numbered from 1 instead)": 2}, id="text is numbered"),
        pytest.param(["07", "7"], [1, 2], {"picture id (text; numbered from 1 instead)": 2}, id="a zero in front"),
    ],
)
def test_coco_ids_are_whole_numbers(ids, expected, losses):
    images = tuple(Image(image_id, f"{image_id}.jpg", 200, 100) for image_id in ids)
    writing = coco.write_coco(CameraTrapDataset(("fox",), images, Path(), (), "x"), "out.json")
    assert [entry["id"] for entry in json.loads(writing.files["out.json"]())["images"]] == expected
    assert writing.losses == losses


def test_camera_traps_say_that_a_blank_picture_is_empty():
    images = (Image("a", "a.jpg", 200, 100), Image("b", "b.jpg", 200, 100, (LabelledBox(0, Box(-1, 2, 3, 4)),)))
    writing = coco.write_camera_traps(CameraTrapDataset(("fox",), images, Path(), (), "x"), "out.json")
    document = json.loads(writing.files["out.json"]())
    assert document["annotations"] == [
        {"id": "a-0", "image_id": "a", "category_id": 0},
        {"id": "b-0", "image_id": "b", "category_id": 1, "bbox": [-1, 2, 4, 2]},
    ]
    assert document["categories"] == [{"id": 0, "name": "empty"}, {"id": 1, "name": "fox"}]


# --- MegaDetector ----------------------------------------------------------------------------------------------------


def batch(*images: object, **more: object) -> str:
    categories = {"1": "animal", "2": "person", "3": "vehicle"}
    return json.dumps({"info": {"format_version": "1.4"}, "detection_categories": categories, "images": images} | more)


def found(conf: object = 1.0, category: object = "1", bbox: object = (0.25, 0.5, 0.5, 0.5), **more: object) -> dict:
    return {"category": category, "conf": conf, "bbox": bbox} | more


SIZED = {"width": 200, "height": 100}


def test_detections_over_the_threshold_become_boxes(tmp_path):
    picture(tmp_path / "b/c.png", 400, 100)
    entries = (
        {"file": "a.jpg", "detections": [found(0.2), found(0.19, "2")], "datetime": "2024:01:02 03:04:05"} | SIZED,
        {"file": "b\\c.png", "detections": [found(1, "2")], "failure": None},
        {"file": "blank.jpg", "detections": []} | SIZED,
    )
    reading = megadetector.read(text(tmp_path / "md.json", batch(*entries)), 0.2)
    assert by_name(reading.dataset) == {
        "a.jpg": [("animal", Box(50, 50, 150, 100))],
        "b/c.png": [("person", Box(100, 50, 300, 100))],
        "blank.jpg": [],
    }
    assert reading.dataset.images[0].taken_at == "2024:01:02 03:04:05"
    assert rules(reading) == []
    assert reading.losses == {"detection below the threshold": 1, "category without a box": 1}


def test_the_best_classification_names_the_box(tmp_path):
    entries = (
        {"file": "a.jpg", "detections": [found(classifications=[["5", 0.1], ["4", 0.8]]), found()]} | SIZED,
        {"file": "b.jpg", "detections": [found(classifications=[["6", 0.9]]), found(category="9")]} | SIZED,
    )
    names = {"4": "Red Fox", "5": "hare", "6": "blank"}
    reading = megadetector.read(text(tmp_path / "md.json", batch(*entries, classification_categories=names)), 0)
    assert reading.dataset.class_names == ("animal", "Red Fox")
    assert [name for name, _ in by_name(reading.dataset)["a.jpg"]] == ["Red Fox", "animal"]
    assert by_name(reading.dataset)["b.jpg"] == []
    assert rules(reading) == ["unclassified"]
    assert reading.losses["detection called empty"] == reading.losses["detection of a category that is not listed"] == 1


BROKEN_ENTRIES = [
    pytest.param(
        {"file": "bad.jpg", "failure": "Failure image access", "detections": None}, "failed-picture", id="failed"
    ),
    pytest.param({"file": "bad.jpg", "detections": None} | SIZED, "unusable-entry", id="no list of detections"),
    pytest.param({"detections": []} | SIZED, "unusable-entry", id="no file"),
    pytest.param("bad.jpg", "unusable-entry", id="no object"),
    pytest.param({"file": "good.jpg", "detections": [found()]} | SIZED, "unusable-entry", id="listed twice"),
    pytest.param({"file": "bad.mp4", "detections": [], "frame_rate": 5} | SIZED, "not-a-still", id="a video"),
    pytest.param({"file": "bad.mp4", "detections": [found(frame_number=3)]} | SIZED, "not-a-still", id="frames"),
    pytest.param({"file": ".", "detections": []} | SIZED, "outside-root", id="a folder"),
    pytest.param({"file": "\ud800.jpg", "detections": []} | SIZED, "unusable-name", id="half a surrogate pair"),
    pytest.param({"file": "/elsewhere/bad.jpg", "detections": []} | SIZED, "outside-root", id="an absolute path"),
    pytest.param({"file": "C:\\bad.jpg", "detections": []} | SIZED, "outside-root", id="a Windows drive"),
    pytest.param({"file": "../bad.jpg", "detections": []} | SIZED, "outside-root", id="a path that climbs"),
    pytest.param({"file": "bad.jpg", "detections": [found()]}, "unreadable-picture", id="no size and no picture"),
    pytest.param({"file": "bad.jpg", "detections": [found(None)]} | SIZED, "unusable-box", id="no score"),
    pytest.param(
        {"file": "bad.jpg", "detections": [found(bbox=[0, 0, 1])]} | SIZED, "unusable-box", id="three numbers"
    ),
    pytest.param({"file": "bad.jpg", "detections": [3]} | SIZED, "unusable-box", id="a detection that is a number"),
    pytest.param(
        {"file": "bad.jpg", "detections": [found(classifications=[["99", 1]])]} | SIZED, "unknown-class", id="no name"
    ),
    pytest.param(
        {"file": "bad.jpg", "detections": [found(classifications=[7])]} | SIZED, "unknown-class", id="no pair"
    ),
]


@pytest.mark.parametrize(("entry", "rule"), BROKEN_ENTRIES)
def test_a_broken_entry_is_named_and_stops_no_other(tmp_path, entry, rule):
    good = {"file": "good.jpg", "detections": [found()]} | SIZED
    reading = megadetector.read(text(tmp_path / "md.json", batch(good, entry)), 0.5)
    assert [image.file_name for image in reading.dataset.images] == ["good.jpg"]
    assert rules(reading) == [rule]


def test_an_absolute_path_below_the_root_is_relative_to_it(tmp_path):
    entry = {"file": str(tmp_path / "S1/a.jpg"), "detections": []} | SIZED
    reading = megadetector.read(text(tmp_path / "md.json", batch(entry)), 1, root=tmp_path)
    assert [image.file_name for image in reading.dataset.images] == ["S1/a.jpg"]


@pytest.mark.parametrize(
    ("content", "threshold", "message"),
    [
        pytest.param(batch(), 1.5, "between 0 and 1", id="a threshold above 1"),
        pytest.param("{", 1, "not valid json", id="half a file"),
        pytest.param("[]", 1, "'images'", id="a list"),
        pytest.param(batch(detection_categories={"1": ""}), 1, "detection_categories", id="a category without a name"),
    ],
)
def test_a_file_that_is_no_batch_output_is_refused(tmp_path, content, threshold, message):
    with pytest.raises(ValueError, match=message):
        megadetector.read(text(tmp_path / "md.json", content), threshold)


# --- the rules themselves --------------------------------------------------------------------------------------------


def test_every_rule_has_a_test_and_a_sentence():
    tests = "".join(
        path.read_text(encoding="utf-8")
        for path in map(Path(__file__).with_name, ("test_formats.py", "test_conversion.py"))
    )
    assert [rule for rule in CONFLICTS if f'"{rule}"' not in tests] == []
    assert all(sentence.endswith(".") for sentence in CONFLICTS.values())


@pytest.mark.parametrize("value", [True, None, [], "", "x", "inf", "1_0", 10**400, "0x1"])
def test_only_finite_numbers_are_numbers(value):
    assert to_number(value) is None


def test_a_label_error_carries_its_rule():
    assert LabelError("unusable-box", "why").rule == "unusable-box"


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi"))
        + "names: {1: *i}\n",
        "names: " + "[" * 3000,
    ],
    ids=["an alias bomb", "nested too deeply"],
)
def test_a_yaml_made_to_harm_is_a_sentence(tmp_path, text):
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(ValueError) as found:
        yolo.read_names(tmp_path / "data.yaml")
    assert "data.yaml" in str(found.value) and len(str(found.value)) < 3000


def test_a_megadetector_file_with_a_key_written_twice_is_refused(tmp_path):
    (tmp_path / "a.json").write_text('{"images": [{"file": "a.jpg", "detections": [], "detections": []}]}')
    with pytest.raises(ValueError, match=r"a\.json: .*'detections' twice"):
        megadetector.parse(tmp_path / "a.json")
