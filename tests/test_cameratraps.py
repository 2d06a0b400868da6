"""Does the reader say what the file says, and does it name whatever is odd?"""

from __future__ import annotations

import codecs
import copy
import gc
import json
import os
import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ena24ssd.boxes import Box, LabelledBox, truth_rows
from ena24ssd.cameratraps import NOTICES, RULES, AnnotationError, CameraTrapDataset, Image, NoPicturesError, read

PLAIN = {
    "images": [
        {"id": "a", "file_name": "a.jpg", "width": 200, "height": 100},
        {"id": "b", "file_name": "b.jpg", "width": 200, "height": 100},
        {"id": "c", "file_name": "c.jpg", "width": 200, "height": 100},
    ],
    "annotations": [
        {"id": 1, "image_id": "a", "category_id": 0, "bbox": [10, 20, 30.5, 40]},
        {"id": 2, "image_id": "b", "category_id": 1, "bbox": [0, 0, 200, 100]},
    ],
    "categories": [{"id": 0, "name": "Bird"}, {"id": 1, "name": "Red Fox"}, {"id": 2, "name": "empty"}],
}
"""One bird, one fox that fills its picture, one blank; nothing is odd."""


def write(folder: Path, document: object, name: str = "traps.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def read_document(folder: Path, document: object) -> CameraTrapDataset:
    return read(write(folder, document), check_files=False)


def odd(part: str, position: int | None = None, **changes: object) -> dict:
    """The plain document with one entry changed (``...`` deletes a key), or one added at the end."""
    document = copy.deepcopy(PLAIN)
    if position is None:
        document[part].append(changes)
    else:
        entry = document[part][position]
        entry.update(changes)
        for key in [key for key, value in entry.items() if value is ...]:
            del entry[key]
    return document


def annotated(**changes: object) -> dict:
    """The plain document with one more annotation: a box on picture c."""
    entry = {"id": "extra", "image_id": "c", "category_id": 0, "bbox": [1, 2, 3, 4], **changes}
    return odd("annotations", **{key: value for key, value in entry.items() if value is not ...})


def replaced(part: str, position: int, entry: object) -> dict:
    document = copy.deepcopy(PLAIN)
    document[part][position] = entry
    return document


def both(first: dict, second: dict) -> dict:
    """Two documents that each append to the plain one, as one."""
    document = copy.deepcopy(first)
    for part, entries in document.items():
        entries.extend(entry for entry in second[part] if entry not in entries)
    return document


# --- what a plain file says ------------------------------------------------------------------------------------------


def test_a_plain_file_becomes_records_in_the_order_of_the_file(tmp_path):
    dataset = read_document(tmp_path, PLAIN)
    assert dataset.class_names == ("Bird", "Red Fox")
    assert dataset.images == (
        Image("a", "a.jpg", 200, 100, (LabelledBox(0, Box(10.0, 20.0, 40.5, 60.0)),)),
        Image("b", "b.jpg", 200, 100, (LabelledBox(1, Box(0.0, 0.0, 200.0, 100.0)),)),
        Image("c", "c.jpg", 200, 100),
    )
    assert (dataset.problems, dataset.problem_counts()) == ((), {})
    assert (dataset.name, dataset.root, dataset.max_boxes, dataset.blanks) == ("traps.json", tmp_path, 1, 1)
    assert dataset.path(dataset.images[0]) == tmp_path / "a.jpg"


def test_mixed_counts_pictures_of_more_than_one_species(tmp_path):
    assert read_document(tmp_path, annotated(image_id="b")).mixed == 1
    assert read_document(tmp_path, annotated(image_id="a")).mixed == 0, "two birds are one species"
    assert read_document(tmp_path, PLAIN).mixed == 0


def test_context_is_kept_as_written_and_ids_become_text(tmp_path):
    document = odd(
        "images", 0, id=7, location=3, seq_id="s1", datetime="2016:05:01 04:00:01", width=200.0, file_name="./x//a.jpg"
    )
    document["annotations"][0].update(image_id="7", category_id="0")
    image = read_document(tmp_path, document).images[0]
    assert image[:4] == ("7", "x/a.jpg", 200, 100)
    assert (image.location, image.sequence, image.taken_at) == ("3", "s1", "2016:05:01 04:00:01")
    assert len(image.boxes) == 1
    assert type(image.width) is int


def test_labels_are_contiguous_and_follow_the_numeric_category_ids(tmp_path):
    document = copy.deepcopy(PLAIN)
    document["categories"] = [
        {"id": 10, "name": "  Skunk "},
        {"id": 9, "name": "Blank"},
        {"id": 1, "name": "Red Fox"},
        {"id": 0, "name": "Bird"},
    ]
    document["annotations"][0]["category_id"] = 10
    dataset = read_document(tmp_path, document)
    assert dataset.class_names == ("Bird", "Red Fox", "Skunk")
    assert dataset.images[0].boxes[0].label == 2


def test_labels_follow_the_file_where_an_id_is_text(tmp_path):
    document = copy.deepcopy(PLAIN)
    document["categories"] = [{"id": "zz", "name": "Zebra"}, {"id": 1, "name": "Fox"}, {"id": 0, "name": "Bird"}]
    assert read_document(tmp_path, document).class_names == ("Zebra", "Fox", "Bird")


def test_without_leaves_out_pictures_that_show_the_species_and_keeps_the_labels(tmp_path):
    dataset = read_document(tmp_path, annotated(image_id="b"))
    kept = dataset.without("Red Fox")
    assert [image.id for image in kept.images] == ["a", "c"]
    assert kept.class_names == dataset.class_names
    assert dataset.without("Red Fox", "Bird").blanks == 1
    assert dataset.without() == dataset
    with pytest.raises(ValueError, match=r"no species is called 'red fox'; the file knows 'Bird', 'Red Fox'"):
        dataset.without("red fox")


def test_records_are_frozen_hashable_and_travel_to_worker_processes(tmp_path):
    dataset = read_document(tmp_path, PLAIN)
    assert pickle.loads(pickle.dumps(dataset)) == dataset
    assert len(set(dataset.images)) == 3
    with pytest.raises(AttributeError):
        dataset.images[0].width = 1
    with pytest.raises(AttributeError):
        dataset.name = "other"


@pytest.mark.parametrize("name", ["empty", "Empty", "BLANK", "none", " empty "])
def test_an_annotation_of_an_empty_category_makes_a_blank_picture(tmp_path, name):
    document = annotated(category_id=2, bbox=...)
    document["categories"][2]["name"] = name
    dataset = read_document(tmp_path, document)
    assert (dataset.class_names, dataset.blanks, dataset.problems) == (("Bird", "Red Fox"), 1, ())


# --- the rules -------------------------------------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")
FOX = {"image_id": "c", "category_id": 1}

ONE_BROKEN_THING = [
    # sentence, document, rule, ids of the pictures that stay
    ("two categories of one name", odd("categories", id=5, name="Bird "), "duplicate-species", "abc"),
    ("a picture that is a number", replaced("images", 2, 5), "not-a-picture", "ab"),
    ("a picture that is null", replaced("images", 2, None), "not-a-picture", "ab"),
    ("a picture without an id", odd("images", 2, id=...), "picture-without-id", "ab"),
    ("a picture whose id is true", odd("images", 2, id=True), "picture-without-id", "ab"),
    ("a picture whose id is half a surrogate pair", odd("images", 2, id="\ud800"), "picture-without-id", "ab"),
    ("a picture written twice", odd("images", **PLAIN["images"][0]), "duplicate-image-id", "abc"),
    ("two files of one id", odd("images", **PLAIN["images"][0] | {"file_name": "d.jpg"}), "ambiguous-image-id", "bc"),
    ("two sizes of one id", odd("images", **PLAIN["images"][0] | {"width": 9}), "ambiguous-image-id", "bc"),
    ("a usable and an unusable picture of one id", odd("images", id="a"), "ambiguous-image-id", "bc"),
    ("no file name", odd("images", 2, file_name=...), "unusable-file-name", "ab"),
    ("an empty file name", odd("images", 2, file_name=""), "unusable-file-name", "ab"),
    ("a file name of spaces", odd("images", 2, file_name="  "), "unusable-file-name", "ab"),
    ("a file name that is a number", odd("images", 2, file_name=3), "unusable-file-name", "ab"),
    ("an absolute file name", odd("images", 2, file_name="/etc/passwd"), "unusable-file-name", "ab"),
    ("a file name that climbs out", odd("images", 2, file_name="../c.jpg"), "unusable-file-name", "ab"),
    ("a file name that climbs out later", odd("images", 2, file_name="x/../../c.jpg"), "unusable-file-name", "ab"),
    ("a file name that is a folder", odd("images", 2, file_name="x/"), "unusable-file-name", "ab"),
    ("a file name that is the folder itself", odd("images", 2, file_name="x/.."), "unusable-file-name", "ab"),
    ("a file name with backslashes", odd("images", 2, file_name="..\\c.jpg"), "unusable-file-name", "ab"),
    ("a file name with a drive letter", odd("images", 2, file_name="C:c.jpg"), "unusable-file-name", "ab"),
    ("a hidden drive letter", odd("images", 2, file_name="./C:/c.jpg"), "unusable-file-name", "ab"),
    ("a file name with NUL", odd("images", 2, file_name="c\0.jpg"), "unusable-file-name", "ab"),
    ("a file name no disk can hold", odd("images", 2, file_name="\udfff.jpg"), "unusable-file-name", "ab"),
    ("two ids for one file", odd("images", 2, file_name="a.jpg"), "duplicate-file-name", "ab"),
    ("two ids for one file, spelt twice", odd("images", 2, file_name="./a.jpg"), "duplicate-file-name", "ab"),
    ("no width", odd("images", 2, width=...), "unusable-size", "ab"),
    ("a width of zero", odd("images", 2, width=0), "unusable-size", "ab"),
    ("a negative height", odd("images", 2, height=-1), "unusable-size", "ab"),
    ("a height in text", odd("images", 2, height="100"), "unusable-size", "ab"),
    ("half a pixel of height", odd("images", 2, height=99.5), "unusable-size", "ab"),
    ("a NaN width", odd("images", 2, width=NAN), "unusable-size", "ab"),
    ("an infinite width", odd("images", 2, width=INF), "unusable-size", "ab"),
    ("a width of ten to the 400", odd("images", 2, width=10**400), "unusable-size", "ab"),
    ("a width that is true", odd("images", 2, width=True), "unusable-size", "ab"),
    ("a location that is a list", odd("images", 2, location=["x"]), "unreadable-context", "abc"),
    ("an annotation that is a number", replaced("annotations", 1, 7), "not-an-annotation", "abc"),
    ("an annotation of an unknown picture", annotated(image_id="zz"), "unknown-image", "abc"),
    ("an annotation without a picture", annotated(image_id=...), "unknown-image", "abc"),
    ("an annotation whose picture is a list", annotated(image_id=["a"]), "unknown-image", "abc"),
    ("an unknown category", annotated(category_id=99), "unknown-category", "ab"),
    ("no category", annotated(category_id=...), "unknown-category", "ab"),
    ("a category that is an object", annotated(category_id={}), "unknown-category", "ab"),
    ("true is not category 1", annotated(category_id=True), "unknown-category", "ab"),
    ("an animal without a box", annotated(bbox=...), "unboxed-animal", "ab"),
    ("an animal with a null box", annotated(bbox=None), "unboxed-animal", "ab"),
    ("an empty picture with a box", annotated(category_id=2), "empty-with-box", "abc"),
    ("an empty picture with a bird", annotated(image_id="a", category_id=2, bbox=...), "empty-with-animal", "abc"),
    ("a bbox of three", annotated(bbox=[1, 2, 3]), "unusable-box", "ab"),
    ("a bbox of nothing", annotated(bbox=[]), "unusable-box", "ab"),
    ("a bbox of text", annotated(bbox="1 2 3 4"), "unusable-box", "ab"),
    ("a bbox of texts", annotated(bbox=["1", "2", "3", "4"]), "unusable-box", "ab"),
    ("a bbox as an object", annotated(bbox={"x": 1, "y": 2, "w": 3, "h": 4}), "unusable-box", "ab"),
    ("NaN in a bbox", annotated(bbox=[1, NAN, 3, 4]), "unusable-box", "ab"),
    ("infinity in a bbox", annotated(bbox=[1, 2, INF, 4]), "unusable-box", "ab"),
    ("null in a bbox", annotated(bbox=[1, 2, None, 4]), "unusable-box", "ab"),
    ("true in a bbox", annotated(bbox=[True, 2, 3, 4]), "unusable-box", "ab"),
    ("a number too large for a float in a bbox", annotated(bbox=[1, 2, 10**400, 4]), "unusable-box", "ab"),
    ("a box of no width", annotated(bbox=[1, 2, 0, 4]), "box-without-area", "ab"),
    ("a box of negative height", annotated(bbox=[1, 2, 3, -4]), "box-without-area", "ab"),
    ("a box too thin for float32", annotated(bbox=[1, 2, 1e-9, 4]), "box-without-area", "ab"),
    ("a box right of the picture", annotated(bbox=[200, 2, 30, 4]), "box-off-picture", "ab"),
    ("a box above the picture", annotated(bbox=[1, -9, 3, 4]), "box-off-picture", "ab"),
    ("a box in another galaxy", annotated(bbox=[1e308, 1e308, 1e308, 1e308]), "box-off-picture", "ab"),
    ("a box of which a sliver is on the picture", annotated(bbox=[199.9, 2, 30, 4]), "box-off-picture", "ab"),
    ("a box half outside", annotated(bbox=[190, 2, 20, 4]), "box-outside", "abc"),
    ("a box around everything", annotated(bbox=[-1e300, -1, 2e300, 400]), "box-outside", "abc"),
    ("a box a hundredth over the edge", annotated(bbox=[190, 2, 10.01, 4]), "box-overrun", "abc"),
    ("a box a hundredth before the edge", annotated(bbox=[-0.01, 2, 10, 4]), "box-overrun", "abc"),
    ("a box written twice", annotated(image_id="a", bbox=[10.0, 20, 30.5, 40]), "duplicate-box", "abc"),
]  # fmt: skip


@pytest.mark.parametrize(("document", "rule", "kept"), [pytest.param(*row[1:], id=row[0]) for row in ONE_BROKEN_THING])
def test_one_broken_thing_is_one_problem(tmp_path, document, rule, kept):
    dataset = read_document(tmp_path, document)
    assert dataset.problem_counts() == {rule: 1}
    assert [image.id for image in dataset.images] == list(kept)
    problem = dataset.problems[0]
    assert problem.detail.isprintable()
    assert problem.image_id is None or type(problem.image_id) is str


@pytest.mark.parametrize("document", [pytest.param(row[1], id=row[0]) for row in ONE_BROKEN_THING if row[2] in NOTICES])
def test_a_notice_costs_no_picture_and_no_box(tmp_path, document):
    written = {tuple(entry["bbox"][:2]) for entry in document["annotations"]}
    dataset = read_document(tmp_path, document)
    assert len(dataset.images) == 3
    found = {(box.left, box.top) for image in dataset.images for _, box in image.boxes}
    assert found == {(max(x, 0), max(y, 0)) for x, y in written}


def test_every_rule_has_a_broken_fixture():
    rules = [row[2] for row in ONE_BROKEN_THING] + [row[3] for row in ODD_ON_DISK]
    rules += [rule for row in TWINS for rule in row[3]]
    assert set(rules) == set(RULES)


def test_every_rule_says_what_is_odd_what_is_done_and_the_way_out():
    assert set(RULES) > NOTICES
    for rule, sentences in RULES.items():
        assert rule == rule.lower()
        odd_and_done, _, way_out = sentences.partition(". ")
        assert len(odd_and_done.split("; ")) == 2, rule
        assert way_out.endswith("."), rule


def test_a_problem_names_the_picture_by_id_and_file(tmp_path):
    (problem,) = read_document(tmp_path, annotated(bbox=[1, 2, 0, 4])).problems
    assert (problem.image_id, problem.file_name) == ("c", "c.jpg")
    (problem,) = read_document(tmp_path, odd("images", 2, file_name=3)).problems
    assert (problem.image_id, problem.file_name, problem.detail) == ("c", None, "the file name is 3; left out")


BOXES_THAT_STAY = [
    ("a box that ends at the edge stays as written", [190, 90, 10, 10], (190, 90, 200, 100)),
    ("a box over the right edge ends there", [190, 2, 20, 4], (190, 2, 200, 6)),
    ("a box over the top left corner begins there", [-5, -6, 20, 14], (0, 0, 15, 8)),
    ("a box around everything is the picture", [-1e300, -1, 2e300, 400], (0, 0, 200, 100)),
    ("a rounding overrun ends at the edge", [190, 2, 10.01, 4], (190, 2, 200, 6)),
    ("half a pixel is a box", [0, 0, 0.5, 0.5], (0, 0, 0.5, 0.5)),
]


@pytest.mark.parametrize(("bbox", "expected"), [pytest.param(*row[1:], id=row[0]) for row in BOXES_THAT_STAY])
def test_boxes_are_clipped_to_their_picture(tmp_path, bbox, expected):
    ((_, box),) = read_document(tmp_path, annotated(bbox=bbox)).images[2].boxes
    assert box == expected
    assert all(type(edge) is float for edge in box)


def test_a_picture_with_several_lost_animals_is_counted_once_and_says_which_annotation(tmp_path):
    document = both(annotated(bbox=[1, 2, 0, 4]), annotated(id="later", bbox=None))
    (problem,) = read_document(tmp_path, document).problems
    detail = "annotation 'extra' has a box of 0 x 4 px; the picture is left out"
    assert problem == ("c", "box-without-area", detail, "c.jpg")


def test_an_animal_next_to_a_lost_one_does_not_bring_the_picture_back(tmp_path):
    document = annotated(image_id="a", bbox=[1, 2, NAN, 4])
    assert [image.id for image in read_document(tmp_path, document).images] == ["b", "c"]


def test_the_annotations_of_a_picture_written_twice_stay(tmp_path):
    document = both(odd("images", **PLAIN["images"][2], location="ridge"), annotated(bbox=[150, 50, 20, 20]))
    image = read_document(tmp_path, document).images[2]
    assert (image.id, len(image.boxes)) == ("c", 1)


def test_whatever_an_ambiguous_id_may_mean_is_left_out(tmp_path):
    document = odd("images", id="a", file_name="b.jpg", width=200, height=100)
    document["images"].append({"id": "a", "file_name": "a.jpg", "width": 200, "height": 100})
    dataset = read_document(tmp_path, document)
    assert [image.id for image in dataset.images] == ["c"], "the boxes of 'a' may be those of 'b', which has this file"
    assert dataset.problem_counts() == {"ambiguous-image-id": 3}
    assert dataset.problems[0].detail == (
        "it is the id of 'a.jpg' of 200 x 100 px and, as picture 4, of 'b.jpg' of 200 x 100 px; all are left out"
    )


def test_a_second_record_written_twice_does_not_cost_the_first(tmp_path):
    document = odd("images", 2, file_name="a.jpg")
    document["images"].append(document["images"][2])
    dataset = read_document(tmp_path, document)
    assert [image.id for image in dataset.images] == ["a", "b"]
    assert dataset.problem_counts() == {"ambiguous-image-id": 1, "duplicate-file-name": 1}
    document["annotations"].append({"image_id": "c", "category_id": 0, "bbox": [1, 2, 3, 4]})
    assert [image.id for image in read_document(tmp_path, document).images] == ["b"]


def test_names_that_differ_only_in_how_accents_are_written_are_one_file(tmp_path):
    document = odd("images", 0, file_name=normalize("NFC", "é.jpg"))
    document["images"][2]["file_name"] = normalize("NFD", "é.jpg")
    assert read_document(tmp_path, document).problem_counts() == {"duplicate-file-name": 1}


def test_annotations_of_a_left_out_picture_are_not_counted_again(tmp_path):
    document = odd("images", 0, width=0)
    assert read_document(tmp_path, document).problem_counts() == {"unusable-size": 1}


TWINS = [
    # picture c is a second record of a.jpg, which shows a bird at [10, 20, 30.5, 40]
    ("the twin is blank: the first is believed", [], "ab", {}),
    ("the twin has the same box", [dict(category_id=0, bbox=[10, 20, 30.5, 40])], "ab", {}),
    ("the twin has another box", [dict(category_id=0, bbox=[1, 2, 3, 4])], "b", {"conflicting-records": 1}),
    ("the twin has another species", [dict(category_id=1, bbox=[10, 20, 30.5, 40])], "b", {"conflicting-records": 1}),
    ("the twin has an unboxed animal", [dict(category_id=1)], "b", {"unboxed-animal": 1}),
]


@pytest.mark.parametrize(("annotations", "kept", "counts"), [pytest.param(*row[1:], id=row[0]) for row in TWINS])
def test_no_animal_is_lost_with_the_second_record_of_a_file(tmp_path, annotations, kept, counts):
    document = odd("images", 2, file_name="a.jpg", width=50)
    document["annotations"] += [{"image_id": "c", **annotation} for annotation in annotations]
    dataset = read_document(tmp_path, document)
    assert [image.id for image in dataset.images] == list(kept)
    assert dataset.problem_counts() == {"duplicate-file-name": 1, **counts}


def test_species_of_one_name_share_a_label(tmp_path):
    document = both(odd("categories", id=5, name="Bird "), annotated(category_id=5))
    dataset = read_document(tmp_path, document)
    assert dataset.class_names == ("Bird", "Red Fox")
    assert dataset.images[2].boxes[0].label == 0


def test_problem_counts_stand_in_the_order_of_the_rules(tmp_path):
    document = both(annotated(bbox=[190, 2, 10.01, 4]), odd("images", id=None))
    assert list(read_document(tmp_path, document).problem_counts().items()) == [
        ("picture-without-id", 1),
        ("box-overrun", 1),
    ]


# --- files that cannot be used at all --------------------------------------------------------------------------------


def without_key(key: str) -> dict:
    return {part: entries for part, entries in PLAIN.items() if part != key}


UNUSABLE_DOCUMENTS = [
    ("a list", [], "must be one json object"),
    ("a number", 3, "must be one json object"),
    ("null", None, "must be one json object"),
    ("no images", without_key("images"), "has no 'images'"),
    ("no annotations: not even blanks are sure", without_key("annotations"), "has no 'annotations'"),
    ("no categories", without_key("categories"), "has no 'categories'"),
    ("images as an object", {**PLAIN, "images": {}}, "'images' must be a list"),
    ("annotations as null", {**PLAIN, "annotations": None}, "'annotations' must be a list"),
    ("categories as an object", {**PLAIN, "categories": {"0": "Bird"}}, "'categories' must be a list"),
    ("categories that are empty", {**PLAIN, "categories": []}, "names no species"),
    ("nothing but empty categories", {**PLAIN, "categories": [{"id": 0, "name": "empty"}]}, "names no species"),
    ("a category that is text", {**PLAIN, "categories": ["Bird"]}, "category 1 must be an object"),
    ("a category without id", {**PLAIN, "categories": [{"name": "Bird"}]}, "category 1 has the id None"),
    ("a category without name", {**PLAIN, "categories": [{"id": 0}]}, "category '0' has the name None"),
    ("a category with a blank name", {**PLAIN, "categories": [{"id": 0, "name": " "}]}, "has the name ' '"),
    ("a category named by a number", {**PLAIN, "categories": [{"id": 0, "name": 5}]}, "has the name 5"),
    ("two categories of one id", odd("categories", id="1", name="Wolf"), "two categories have the id '1'"),
    ("no pictures", {**PLAIN, "images": []}, "leaves no picture to use"),
    ("no usable pictures", {**PLAIN, "images": [5]}, r"leaves no picture to use \(not-a-picture 1"),
]  # fmt: skip


@pytest.mark.parametrize(("document", "message"), [pytest.param(*row[1:], id=row[0]) for row in UNUSABLE_DOCUMENTS])
def test_a_file_of_the_wrong_shape_is_an_annotation_error(tmp_path, document, message):
    with pytest.raises(AnnotationError, match=rf"^traps\.json: .*{message}"):
        read_document(tmp_path, document)


LATIN = json.dumps({**PLAIN, "info": "Bärentatze"}, ensure_ascii=False)
UNREADABLE_BYTES = [
    ("an empty file", b"", "not valid json"),
    ("a file cut short", json.dumps(PLAIN).encode()[:-20], "not valid json .*cut short"),
    ("a web page", b"<!DOCTYPE html>", "not valid json"),
    ("latin-1", LATIN.encode("latin-1"), rf"byte {LATIN.index('ä')} \(0xe4, after .*save it as UTF-8"),
    ("broken UTF-8 behind a byte order mark", codecs.BOM_UTF8 + b'{"\xff', r"byte 5 \(0xff"),
    ("UTF-16 cut in half", codecs.BOM_UTF16_LE + b"{\0\"", r"byte 4 "),
    ("a control character in a text", b'{"images": "\n"}', "not valid json"),
    ("a thousand lists in each other", b"[" * 100_000, "nested too deeply"),
    ("a number of ten thousand digits", b'{"images": ' + b"1" * 10_000 + b"}", "traps.json"),
    ("one key twice", b'{"images": [], "images": []}', "has the key 'images' twice"),
    ("one key twice further in", b'{"images": [{"id": 1, "id": 2}]}', "has the key 'id' twice"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "message"), [pytest.param(*row[1:], id=row[0]) for row in UNREADABLE_BYTES])
def test_bytes_that_are_no_annotations_are_an_annotation_error(tmp_path, content, message):
    (tmp_path / "traps.json").write_bytes(content)
    with pytest.raises(AnnotationError, match=message):
        read(tmp_path / "traps.json", check_files=False)
    assert gc.isenabled()


@pytest.mark.parametrize("name", ["absent.json", ".", "nul\0.json"])
def test_a_file_that_cannot_be_opened_is_an_annotation_error(tmp_path, name):
    with pytest.raises(AnnotationError, match="cannot be read"):
        read(tmp_path / name)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_unicode_files_are_read_with_their_byte_order_mark_and_windows_line_ends(tmp_path, encoding):
    document = copy.deepcopy(PLAIN)
    document["categories"][0]["name"] = "Bärentatze 熊"
    text = json.dumps(document, ensure_ascii=False, indent=1).replace("\n", "\r\n")
    mark = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}.get(encoding, b"")
    (tmp_path / "traps.json").write_bytes(mark + text.encode(encoding))
    assert read(tmp_path / "traps.json", check_files=False).class_names[0] == "Bärentatze 熊"


# --- pictures on disk ------------------------------------------------------------------------------------------------


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.mark.parametrize("folder", [".", "images", "traps"])
def test_the_picture_folder_is_found_beside_the_json(tmp_path, folder):
    touch(tmp_path / folder, "a.jpg", "b.jpg", "c.jpg")
    dataset = read(write(tmp_path, PLAIN))
    assert dataset.path(dataset.images[0]) == tmp_path / folder / "a.jpg"
    assert len(dataset.images) == 3


def test_the_folder_with_the_most_pictures_wins(tmp_path):
    touch(tmp_path, "a.jpg")
    touch(tmp_path / "images", "b.jpg", "c.jpg")
    dataset = read(write(tmp_path, PLAIN))
    assert dataset.root == tmp_path / "images"
    assert dataset.problem_counts() == {"file-missing": 1}


def test_no_pictures_anywhere_says_where_was_looked_and_what_to_do(tmp_path):
    with pytest.raises(NoPicturesError, match=r"none of its first 3 pictures \(such as 'a.jpg'\).*check_files=False"):
        read(write(tmp_path, PLAIN))
    touch(tmp_path / "images", "A.JPG")
    with pytest.raises(NoPicturesError, match=r"\('A.JPG' is there, but capitals count\)"):
        read(write(tmp_path, PLAIN))


def test_the_picture_folder_is_found_though_its_disk_writes_accents_another_way(tmp_path):
    document = {**PLAIN, "images": [PLAIN["images"][0] | {"file_name": normalize("NFC", "fôret/é.jpg")}]}
    touch(tmp_path / "images", normalize("NFD", "fôret/é.jpg"))
    dataset = read(write(tmp_path, document))
    assert dataset.root == tmp_path / "images"
    assert dataset.path(dataset.images[0]).is_file()


def test_a_given_root_is_used_and_must_be_a_folder(tmp_path):
    path = write(tmp_path, PLAIN)
    touch(tmp_path / "elsewhere", "a.jpg")
    assert [image.id for image in read(path, root=str(tmp_path / "elsewhere")).images] == ["a"]
    with pytest.raises(AnnotationError, match="is not a folder"):
        read(path, root=tmp_path / "nowhere")
    (tmp_path / "void").mkdir()
    with pytest.raises(AnnotationError, match=r"leaves no picture to use \(file-missing 3\)"):
        read(path, root=tmp_path / "void")
    assert len(read(path, root=tmp_path / "nowhere", check_files=False).images) == 3


ODD_ON_DISK = [
    # sentence, what the json says, what else is on disk, rule, detail
    ("another case of letters", "A.JPG", (), "file-missing", "there as 'a.jpg'; capitals count; left out"),
    ("another case of a folder", "S1/d.jpg", (), "file-missing", "there as 's1/d.jpg'; capitals count; left out"),
    ("no such name", "c.jpg", (), "file-missing", "not in "),
    ("a folder that is not there", "x/c.jpg", (), "file-missing", "not in "),
    ("a folder that is a file", "a.jpg/c.jpg", (), "file-missing", "not in "),
    ("a folder in place of the picture", "folder.jpg", (), "file-missing", "but no file"),
    ("a link that leads nowhere", "dead.jpg", (), "file-missing", "but no file"),
    ("a link in a circle", "circle.jpg", (), "file-missing", "but no file"),
    ("a folder name longer than a disk allows", "x" * 300 + "/c.jpg", (), "file-missing", "out of reach"),
    ("accents in two code points", "é.jpg", ("e\u0301.jpg",), "file-name-accents", "how accents are written"),
    ("accents in one code point", "e\u0301.jpg", ("é.jpg",), "file-name-accents", "how accents are written"),
    ("accents of a folder", "é/c.jpg", ("e\u0301/c.jpg",), "file-name-accents", "how accents are written"),
    ("accents and capitals", "é.jpg", ("E\u0301.jpg",), "file-missing", "capitals count; left out"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("file_name", "others", "rule", "detail"), [pytest.param(*row[1:], id=row[0]) for row in ODD_ON_DISK]
)
def test_what_is_odd_on_disk_is_one_problem(tmp_path, file_name, others, rule, detail):
    touch(tmp_path, "a.jpg", "b.jpg", "s1/d.jpg", *others)
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "dead.jpg").symlink_to("gone.jpg")
    (tmp_path / "circle.jpg").symlink_to("circle.jpg")
    dataset = read(write(tmp_path, odd("images", 2, file_name=file_name)))
    (problem,) = dataset.problems
    assert (problem.image_id, problem.rule, problem.file_name) == ("c", rule, file_name)
    assert detail in problem.detail
    assert problem.detail.isprintable()
    assert [image.id for image in dataset.images] == (["a", "b", "c"] if rule in NOTICES else ["a", "b"])
    assert all(dataset.path(image).is_file() for image in dataset.images)


def test_pictures_in_folders_and_behind_links_are_found_with_one_listing_a_folder(tmp_path, monkeypatch):
    touch(tmp_path, "s1/a.jpg", "s1/b.jpg", "s2/real.jpg")
    (tmp_path / "s2" / "c.jpg").symlink_to("real.jpg")
    document = copy.deepcopy(PLAIN)
    for image, folder in zip(document["images"], ("s1", "s1", "s2"), strict=True):
        image["file_name"] = f"{folder}/{image['file_name']}"
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: listed.append(Path(folder).name) or scandir(folder))
    assert len(read(write(tmp_path, document), root=tmp_path).images) == 3
    assert sorted(listed) == ["s1", "s2"]


# --- anything at all -------------------------------------------------------------------------------------------------

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.sampled_from(["a", "b", 0, 1]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["id", "name", "bbox"]), inner),
    max_leaves=6,
)
NUMBER = st.floats(-300, 300) | st.integers(-300, 300)
IMAGE_ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "id": st.sampled_from(["a", "b", 0, "0", 0.0]) | JUNK,
        "file_name": st.sampled_from(["a.jpg", "b.jpg", "../a.jpg", "x/a.jpg"]) | st.text(max_size=6) | JUNK,
        "width": st.sampled_from([200, 100.0]) | JUNK,
        "height": st.sampled_from([200, 100.0]) | JUNK,
        "location": JUNK,
    },
)
ANNOTATION_ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "image_id": st.sampled_from(["a", "b", 0, "0"]) | JUNK,
        "category_id": st.sampled_from([0, 1, "1"]) | JUNK,
        "bbox": st.lists(NUMBER, min_size=4, max_size=4) | st.lists(JUNK, max_size=5) | JUNK,
    },
)
CATEGORY_ENTRY = st.fixed_dictionaries({"id": st.integers(0, 3), "name": st.sampled_from(["Bird", "Fox", "empty"])})
DOCUMENT = st.fixed_dictionaries(
    {
        "images": st.lists(IMAGE_ENTRY | JUNK, max_size=6) | JUNK,
        "annotations": st.lists(ANNOTATION_ENTRY | JUNK, max_size=8) | JUNK,
        "categories": st.lists(CATEGORY_ENTRY, max_size=3, unique_by=lambda entry: entry["id"])
        | st.lists(CATEGORY_ENTRY | JUNK, max_size=3),
    }
)


def read_soundly(path: Path, **how: object) -> CameraTrapDataset | None:
    """Whatever the file, reading it gives a sound dataset, or an AnnotationError (here None) that names the file."""
    try:
        dataset = read(path, **how)
    except AnnotationError as error:
        assert str(error).startswith("traps.json: ")
        return None
    assert dataset.images
    assert len({image.id for image in dataset.images}) == len(dataset.images)
    assert len({normalize("NFC", image.file_name) for image in dataset.images}) == len(dataset.images)
    assert sum(dataset.problem_counts().values()) == len(dataset.problems)
    assert {problem.rule for problem in dataset.problems} <= set(RULES)
    lost = {problem.image_id for problem in dataset.problems if problem.rule in ("ambiguous-image-id", "file-missing")}
    for problem in dataset.problems:
        json.dumps(problem).encode()
        assert problem.detail.isprintable()
    for image in dataset.images:
        assert image.id not in lost
        assert type(image.width) is type(image.height) is int and min(image.width, image.height) > 0
        for text in (image.id, image.file_name, image.location or "", image.sequence or "", image.taken_at or ""):
            text.encode()
        below = os.path.relpath(os.path.normpath(dataset.path(image)), dataset.root)
        assert not os.path.isabs(image.file_name) and below.split(os.sep)[0] not in (os.pardir, os.curdir)
        assert len(set(image.boxes)) == len(image.boxes)
        for label, box in image.boxes:
            assert 0 <= label < len(dataset.class_names)
            assert 0 <= box.left < box.right <= image.width
            assert 0 <= box.top < box.bottom <= image.height
            assert box.area > 0
        rows = truth_rows(image.boxes, Box(0, 0, image.width, image.height), dataset.max_boxes)
        assert np.isfinite(rows).all()
        assert (rows[: len(image.boxes), 1:3] < rows[: len(image.boxes), 3:]).all(), "float32 keeps every box a box"
    return dataset


FUZZ = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@FUZZ
@given(document=DOCUMENT | JUNK, check_files=st.booleans())
def test_a_broken_document_gives_a_sound_dataset_or_an_annotation_error(document, check_files):
    with tempfile.TemporaryDirectory() as folder:
        touch(Path(folder), "a.jpg", "x/a.jpg")
        path = write(Path(folder), document)
        dataset = read_soundly(path, check_files=check_files)
        if dataset is not None:
            assert read(path, dataset.root, check_files=check_files) == dataset


RICH = {
    "info": {"version": 1, "contributor": "Nobody, of Nowhere"},
    "categories": [{"id": 0, "name": "empty"}, {"id": 1, "name": "Fox"}, {"id": 7, "name": "Bärentatze"}],
    "images": [
        {"id": "a", "file_name": "s1/a.jpg", "width": 200, "height": 100, "location": "ridge", "seq_id": "s"},
        {"id": 2, "file_name": "s1/b.jpg", "width": 640.0, "height": 480, "datetime": "2019-05-01 04:00:00"},
        {"id": "c", "file_name": "é, c.jpg", "width": 1, "height": 1},
        {"id": "d", "file_name": "d.jpg", "width": 200, "height": 100, "location": 5, "seq_num_frames": 3},
    ],
    "annotations": [
        {"id": 1, "image_id": "a", "category_id": 1, "bbox": [10, 20, 30.5, 40]},
        {"id": 2, "image_id": "a", "category_id": 7, "bbox": [0, 0, 200, 100.01]},
        {"id": 3, "image_id": 2, "category_id": "1", "bbox": [600, 400, 100, 10]},
        {"id": 4, "image_id": "d", "category_id": 0},
    ],
}
"""A little of everything."""


def places(value: object) -> Iterator[tuple[dict | list, object]]:
    """Every container in a json value, with every key or index in it."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from places(value[key])


@st.composite
def mutated(draw: st.DrawFn) -> dict:
    """The rich document with a few of its parts replaced, deleted, doubled or exchanged."""
    document = copy.deepcopy(RICH)
    for _ in range(draw(st.integers(1, 4))):
        everywhere = list(places(document))
        if not everywhere:
            break
        container, key = everywhere[draw(st.integers(0, len(everywhere) - 1))]
        other, other_key = everywhere[draw(st.integers(0, len(everywhere) - 1))]
        match draw(st.sampled_from(["replace", "delete", "double", "copy"])):
            case "replace":
                container[key] = draw(JUNK | NUMBER)
            case "delete":
                del container[key]
            case "double" if isinstance(container, list):
                container.insert(draw(st.integers(0, len(container))), copy.deepcopy(container[key]))
            case _:
                container[key] = copy.deepcopy(other[other_key])
    return document


@FUZZ
@given(document=mutated())
def test_a_mutated_document_gives_a_sound_dataset_or_an_annotation_error(document):
    with tempfile.TemporaryDirectory() as folder:
        read_soundly(write(Path(folder), document), check_files=False)


ENCODINGS = ["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "utf-7"]
SPLINTERS = [
    *(b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e308", b"9" * 5_000, b"1" * 400, b"0.1e-400", b"-0", b"01"),
    *(b"[" * 3_000, b'{"a":' * 3_000, b"[" * 500 + b"]" * 500, b"null", b"true", b"[]", b"{}", b'""', b"\x00"),
    *(codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF32_BE, "é".encode("latin-1"), b"\xed\xa0\x80", b"\xff"),
    *(b'"\\ud800"', b"\\ud800", b"\\u0000", b"\\u002c", b"\\", b'"', b",", b":", b"}", b"]", b"//", b"\n", b"../"),
    *(b'"id": "a",', b'"\\u0069d": 3,', b'"bbox": [1, 2, 3, 4],', b'"images": [],', b'"a": {"b": 1, "b": 2},'),
]


@st.composite
def splintered(draw: st.DrawFn) -> bytes:
    """The rich document as bytes, cut short, with bytes flipped or taken out, or with something pushed in."""
    text = json.dumps(RICH, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1])))
    content = text.encode(draw(st.sampled_from(ENCODINGS)))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(content)))
        match draw(st.sampled_from(["cut", "flip", "drop", "push", "push", "push before a key", "push for a value"])):
            case "cut":
                content = content[:at]
            case "flip":
                content = (
                    content[:at] + bytes(byte ^ (1 << at % 8) for byte in content[at : at + 1]) + content[at + 1 :]
                )
            case "drop":
                content = content[:at] + content[at + draw(st.integers(1, 40)) :]
            case "push":
                content = content[:at] + draw(st.sampled_from(SPLINTERS)) + content[at:]
            case "push before a key":
                at = content.rfind(b"{", 0, at) + 1
                content = content[:at] + draw(st.sampled_from(SPLINTERS[-5:])) + content[at:]
            case "push for a value":
                at = content.find(b": ", at) + 2
                end = (
                    min(found for mark in b",}]" if (found := content.find(mark, at)) >= 0)
                    if at > 1 and any(mark in content[at:] for mark in b",}]")
                    else at
                )
                content = content[:at] + draw(st.sampled_from(SPLINTERS[:19])) + content[end:]
    return content


@FUZZ
@given(content=splintered())
def test_splintered_bytes_give_a_sound_dataset_or_an_annotation_error(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "traps.json"
        path.write_bytes(content)
        read_soundly(path, check_files=False)


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=40) | st.text(alphabet='{}[]":,01 \ufeff', max_size=40).map(str.encode))
def test_any_bytes_give_an_annotation_error(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "traps.json"
        path.write_bytes(content)
        with pytest.raises(AnnotationError):
            read(path, check_files=False)


# --- the real files --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ena24(shared_data: Path) -> CameraTrapDataset:
    return read(shared_data / "ena24" / "ena24.json", check_files=False)


def test_ena24_says_what_its_publishers_say(ena24):
    assert len(ena24.images) == 9_676
    assert sum(len(image.boxes) for image in ena24.images) == 11_596
    assert len(ena24.class_names) == 23
    assert (ena24.class_names[8], ena24.class_names[10]) == ("Human", "Striped Skunk")
    assert ena24.problem_counts() == {"box-overrun": 48}
    assert set(ena24.problem_counts()) <= NOTICES
    assert (ena24.blanks, ena24.mixed) == (0, 585)


def test_ena24_without_humans_is_what_can_be_downloaded(ena24):
    published = ena24.without("Human")
    assert len(published.images) == 8_789
    assert sum(len(image.boxes) for image in published.images) == 9_772
    assert (ena24.max_boxes, published.max_boxes) == (8, 6)


def test_the_first_annotation_is_the_one_the_post_prints(ena24):
    image = ena24.images[0]
    (label, box), *_ = image.boxes
    assert (image.id, label) == ("1", 0)
    assert box.xywh == pytest.approx((5.47008, 974.41704, 162.279168, 72.973008))


def test_picture_3_normalised_is_what_the_post_feeds_the_network(ena24):
    (image,) = (image for image in ena24.images if image.id == "3")
    row = truth_rows(image.boxes, Box(0, 0, image.width, image.height), ena24.max_boxes)[0]
    assert row == pytest.approx([0, 0.149744, 0.824874, 0.2211249, 0.96404], abs=1e-6)


@pytest.mark.parametrize(
    ("name", "images", "boxes", "folder", "problems"),
    [
        ("wild6/train.json", 433, 698, "train", {"box-overrun": 52}),
        ("wild6/valid.json", 116, 170, "valid", {"box-overrun": 15}),
        ("ena24-dev14/ena24.json", 14, 14, "images", {}),
    ],
)
def test_real_pictures_are_found_beside_their_file(shared_data, name, images, boxes, folder, problems):
    dataset = read(shared_data / name)
    assert (len(dataset.images), sum(len(image.boxes) for image in dataset.images)) == (images, boxes)
    assert dataset.root.name == folder
    assert all(dataset.path(image).is_file() for image in dataset.images)
    assert dataset.problem_counts() == problems
