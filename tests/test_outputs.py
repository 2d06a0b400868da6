"""Do the programs that ecologists use read in our files what was found, whatever the pictures are called?"""

from __future__ import annotations

import csv
import json
import math
import os
import random
import re
import weakref
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ena24ssd.boxes import Box, LabelledBox
from ena24ssd.cameratraps import Image
from ena24ssd.cases import gather
from ena24ssd.cocoeval import evaluate_coco
from ena24ssd.detections import Detection, ImageDetections, read_megadetector, write_megadetector
from ena24ssd.outputs.camtrapdp import FILES, write_camtrapdp
from ena24ssd.outputs.cocoresults import companion_of, write_coco_results
from ena24ssd.outputs.csvtable import COLUMNS, STEERING, write_csv
from ena24ssd.outputs.project import CamtrapError, read_project
from ena24ssd.picturenames import PictureNames, relative_name

NAMES = ("Red Fox", "Human", "Roe Deer")
ROOT = Path(os.sep) / "card"
NOON = datetime(2024, 5, 1, 12, 0, 0)
FOX = Detection(0, "Red Fox", 0.9, Box(10.0, 5.0, 30.0, 25.0))
MAN = Detection(1, "Human", 0.75, Box(0.0, 0.0, 100.0, 50.0))

WRITERS: dict[str, Callable[..., object]] = {
    "MegaDetector": lambda path, images: write_megadetector(path, images, NAMES, detector="test", root=ROOT),
    "csv": lambda path, images: write_csv(path, images, NAMES, root=ROOT),
    "COCO": lambda path, images: write_coco_results(path, images, NAMES, root=ROOT),
}


def picture(*found: Detection, file: str = "CAM1/a.jpg", taken_at: datetime | None = NOON, **fields) -> ImageDetections:
    size = {"width": 100, "height": 50} | fields
    return ImageDetections(str(ROOT / file), detections=found, taken_at=taken_at, **size)


def failed(file: str = "CAM1/b.jpg", reason: str = "the file is empty", taken_at: datetime | None = None):
    return ImageDetections(str(ROOT / file), None, None, failure=reason, taken_at=taken_at)


# Whatever a disk may hold but / and NUL: line breaks, quotes, formulas, bytes that are no UTF-8, 300 characters.
hostile = st.one_of(
    st.text(st.sampled_from("a=+-@\t\r\n,;\"'|\\. Ä漢\udce9\u202e\uff1d"), min_size=1, max_size=8),
    st.just("n" * 250),
    st.sampled_from(
        ["=cmd|' /C calc'!A0", "-1+2", "@SUM(1,2)", "+a", "\t=1", "a\nb", 'say "hi"', "..jpg", "NA", "1e5"]
    ),
).filter(lambda part: part.strip() and part not in (".", "..") and "/" not in part)
files = st.lists(hostile, min_size=1, max_size=3).map("/".join)


@st.composite
def pictures(draw):
    file = draw(files)
    if draw(st.integers(0, 3)) == 0:
        return failed(file, draw(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)))
    width, height = draw(st.integers(1, 12000)), draw(st.integers(1, 12000))
    found = []
    for _ in range(draw(st.integers(0, 3))):
        (left, right), (top, bottom) = (
            sorted(draw(st.tuples(st.floats(0, side), st.floats(0, side)))) for side in (width, height)
        )
        label = draw(st.integers(0, len(NAMES) - 1))
        found.append(Detection(label, NAMES[label], draw(st.floats(0, 1)), Box(left, top, right, bottom)))
    taken_at = draw(st.none() | st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1)))
    taken_at = None if taken_at is None else taken_at.replace(microsecond=0, fold=0)
    return picture(*found, file=file, width=width, height=height, taken_at=taken_at)


several = st.lists(pictures(), max_size=4, unique_by=lambda image: image.file)


# -- what all of them share -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_name", WRITERS)
def test_an_interrupted_writer_leaves_what_was_there(tmp_path, format_name):
    path = tmp_path / "out"
    path.write_text("older")

    def interrupted():
        yield picture(FOX)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        WRITERS[format_name](path, interrupted())
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("format_name", [*WRITERS, "Camtrap DP"])
def test_pictures_are_let_go_as_they_are_written(tmp_path, format_name):
    write = WRITERS.get(format_name)
    if write is None:
        project = a_project(tmp_path)

        def write(path, images):
            write_camtrapdp(path, images, NAMES, root=ROOT, project=project, detector="test")

    alive, most = weakref.WeakSet(), 0

    def images():
        nonlocal most
        for number in range(200):
            image = picture(FOX, file=f"CAM1/{number}.jpg")
            alive.add(image)
            most = max(most, len(alive))
            yield image
            del image

    write(tmp_path / "out", images())
    assert most <= 2  # the one at hand, and the one before it


@pytest.mark.parametrize(
    ("found", "match"),
    [
        pytest.param(Detection(0, "Wolf", 0.9, FOX.box), "'Wolf'", id="a name of another detector"),
    ],
)
@pytest.mark.parametrize("format_name", WRITERS)
def test_detections_of_another_detector_are_refused(tmp_path, format_name, found, match):
    with pytest.raises(ValueError, match=match):
        WRITERS[format_name](tmp_path / "out", [picture(found)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("file", "name"),
    [
        pytest.param("/card/site/a.jpg", "site/a.jpg", id="below the root, relative to it"),
        pytest.param("/card2/a.jpg", "/card2/a.jpg", id="a folder that begins alike is another"),
        pytest.param("a.jpg", "a.jpg", id="a relative name stays"),
        pytest.param("/card/a\nb.jpg", "a\nb.jpg", id="a line break stays"),
    ],
)
def test_names_are_relative_to_the_root(file, name):
    assert relative_name(file, "/card") == name


@pytest.mark.parametrize(
    ("known", "name", "found"),
    [
        pytest.param(["a/b.jpg"], "a/b.jpg", "a/b.jpg", id="the very name"),
        pytest.param(["b.jpg"], "x/a/b.jpg", "b.jpg", id="the results start names farther up"),
        pytest.param(["x/a/b.jpg"], "a/b.jpg", "x/a/b.jpg", id="the annotations start names farther up"),
        pytest.param(["1/b.jpg", "2/b.jpg"], "2/b.jpg", "2/b.jpg", id="the longest common end decides"),
        pytest.param(["1/b.jpg", "2/b.jpg"], "3/b.jpg", None, id="two that share as much are none"),
        pytest.param(["ab.jpg"], "b.jpg", None, id="only whole names of folders and files are compared"),
        pytest.param(["a/b.jpg"], "a\\b.jpg", "a/b.jpg", id="backslashes of Windows"),
    ],
)
def test_pictures_are_found_by_the_end_of_their_names(known, name, found):
    assert PictureNames(known).find(name) == found


# -- csv ------------------------------------------------------------------------------------------------------------


def table_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def without_bytes(text: str) -> str:
    """What stands for a text in a file that must be UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def plain(name: str) -> str:
    """What a path of the table is to a program that opens files."""
    return str(PurePosixPath(name))


def test_the_table_to_the_letter(tmp_path):
    images = [
        picture(FOX, MAN, file="CAM1/é.jpg"),
        picture(taken_at=None),
        failed(),
    ]
    assert write_csv(tmp_path / "t.csv", images, NAMES, root=ROOT) == 4
    assert (tmp_path / "t.csv").read_bytes().decode("utf-8").split("\r\n") == [
        "\ufefffile,width,height,taken_at,detection,species,score,left,top,right,bottom,failure",
        "CAM1/é.jpg,100,50,2024-05-01 12:00:00,1,Red Fox,0.9,10.0,5.0,30.0,25.0,",
        "CAM1/é.jpg,100,50,2024-05-01 12:00:00,2,Human,0.75,0.0,0.0,100.0,50.0,",
        "CAM1/a.jpg,100,50,,,,,,,,,",
        "CAM1/b.jpg,,,,,,,,,,,the file is empty",
        "",
    ]


def test_a_table_of_nothing_has_its_header(tmp_path):
    assert write_csv(tmp_path / "t.csv", [], NAMES, root=ROOT) == 0
    assert (tmp_path / "t.csv").read_text(encoding="utf-8-sig").strip() == ",".join(COLUMNS)


@settings(deadline=None, max_examples=60)
@given(several)
def test_the_table_gives_back_what_was_found(tmp_path_factory, images):
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    write_csv(path, images, NAMES, root=ROOT)
    rows = table_of(path)
    expected = []
    for image in images:
        for number, found in enumerate(image.detections or [None], start=1):
            expected.append((image, number, found))
    assert len(rows) == len(expected)
    for row, (image, number, found) in zip(rows, expected):
        assert plain(row["file"]) == without_bytes(relative_name(image.file, ROOT))
        assert row["width"] == ("" if image.width is None else str(image.width))
        assert (row["taken_at"] and datetime.fromisoformat(row["taken_at"])) == (image.taken_at or "")
        if found is None:
            assert [row[column] for column in COLUMNS[4:11]] == [""] * 7
        else:
            assert (row["detection"], row["species"]) == (str(number), found.name)
            assert math.isclose(float(row["score"]), found.score, abs_tol=1e-7)
            corners = [float(row[edge]) for edge in ("left", "top", "right", "bottom")]
            assert corners == pytest.approx(found.box, abs=0.0051)
        assert bool(row["failure"]) == (image.failure is not None)


@settings(deadline=None, max_examples=60)
@given(several, st.text(min_size=1, max_size=5))
def test_no_cell_is_a_formula(tmp_path_factory, images, reason):
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    images = [*images, *(failed(f"{n}.jpg", f"{sign}{without_bytes(reason)}") for n, sign in enumerate(STEERING))]
    write_csv(path, images, NAMES, root=ROOT)
    for row in table_of(path):
        assert not [cell for cell in row.values() if cell.startswith(STEERING)]


def test_a_species_that_looks_like_a_formula_gets_an_apostrophe(tmp_path):
    write_csv(tmp_path / "t.csv", [picture(replace(FOX, name="=fox"))], ["=fox"], root=ROOT)
    assert table_of(tmp_path / "t.csv")[0]["species"] == "'=fox"


def test_a_file_that_looks_like_a_formula_is_still_that_file(tmp_path):
    (tmp_path / "=1+2.jpg").touch()
    write_csv(tmp_path / "t.csv", [ImageDetections(str(tmp_path / "=1+2.jpg"), 1, 1)], NAMES, root=tmp_path)
    name = table_of(tmp_path / "t.csv")[0]["file"]
    assert name == "./=1+2.jpg"
    assert (tmp_path / name).is_file()


@settings(deadline=None, max_examples=25)
@given(several)
def test_pandas_reads_the_same_table(tmp_path_factory, images):
    pandas = pytest.importorskip("pandas")
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    write_csv(path, images, NAMES, root=ROOT)
    frame = pandas.read_csv(path, dtype=str, keep_default_na=False)
    assert list(frame.columns) == list(COLUMNS)
    assert frame.to_dict("records") == table_of(path)


# -- COCO -----------------------------------------------------------------------------------------------------------


def scene(seed: int = 3, count: int = 30) -> tuple[list[Image], list[ImageDetections]]:
    """Pictures with animals at random, and what an indifferent detector finds on them."""
    chance = random.Random(seed)

    def box() -> Box:
        left, top = chance.uniform(0, 60), chance.uniform(0, 30)
        return Box(left, top, left + chance.uniform(5, 40), top + chance.uniform(5, 20))

    images, results = [], []
    for number in range(count):
        truth = tuple(LabelledBox(chance.randrange(3), box()) for _ in range(chance.randrange(4)))
        images.append(Image(f"{number}", f"CAM{number % 3}/{number}.jpg", 100, 50, truth))
        found = [(label, Box(*(edge + chance.gauss(0, 1.5) for edge in place))) for label, place in truth]
        found += [(chance.randrange(3), box()) for _ in range(2)]
        detections = [Detection(label, NAMES[label], chance.random(), place) for label, place in found]
        detections.sort(key=lambda one: -one.score)
        results.append(picture(*detections, file=images[-1].file_name))
    return images, results


def annotations(images: list[Image], first: int = 1, *, text: bool = False, scale: float = 1.0) -> dict:
    """The truth as COCO, with ids from ``first`` on, or of text, and drawn on copies ``scale`` times as large."""

    def name_id(number: int) -> int | str:
        return f"p{number}" if text else number

    return {
        "info": {},
        "images": [
            {"id": name_id(n), "file_name": f"2024/{i.file_name}", "width": i.width * scale, "height": i.height * scale}
            for n, i in enumerate(images, first)
        ],
        "annotations": [
            {
                "id": 1000 * n + m,
                "image_id": name_id(n),
                "category_id": 7 + label,
                "bbox": [value * scale for value in box.xywh],
                "area": box.area * scale**2,
                "iscrowd": 0,
            }
            for n, image in enumerate(images, first)
            for m, (label, box) in enumerate(image.boxes, start=1)
        ],
        "categories": [
            {"id": 0, "name": "empty"},
            *({"id": 7 + label, "name": name} for label, name in enumerate(NAMES)),
        ],
    }


def pycocotools_map(truth: Path, results: Path) -> float:
    coco, evaluate = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    known = coco.COCO(str(truth))
    judge = evaluate.COCOeval(known, known.loadRes(str(results)), "bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    return judge.stats[0]


def faster_map(truth: Path, results: Path) -> float:
    from faster_coco_eval import COCO, COCOeval_faster

    known = COCO(str(truth))
    judge = COCOeval_faster(known, known.loadRes(str(results)), "bbox", print_function=lambda *_: None)
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    return judge.stats[0]


@pytest.mark.parametrize(
    ("options", "evaluate"),
    [
        pytest.param({}, pycocotools_map, id="pycocotools"),
        pytest.param({}, faster_map, id="faster-coco-eval"),
        pytest.param({"text": True}, pycocotools_map, id="ids that are text, as COCO Camera Traps has"),
        pytest.param({"scale": 4.0}, pycocotools_map, id="annotations drawn on larger copies"),
        pytest.param({"first": 4711}, faster_map, id="ids of their own"),
    ],
)
def test_evaluators_get_the_figures_of_the_detections_themselves(tmp_path, options, evaluate, capsys):
    images, results = scene()
    direct = evaluate_coco(gather(images, [one.detections for one in results], NAMES)).map
    document = annotations(images, **options)
    for entry in document["images"]:
        entry |= {"width": int(entry["width"]), "height": int(entry["height"])}
    (tmp_path / "truth.json").write_text(json.dumps(document))
    outcome = write_coco_results(
        tmp_path / "results.json", iter(results), NAMES, root=ROOT, annotations=tmp_path / "truth.json"
    )
    assert (outcome.pictures, outcome.strangers, outcome.unknown) == (30, 0, {})
    assert outcome.detections == sum(len(one.detections) for one in results)
    assert 0.1 < direct < 0.9
    assert evaluate(tmp_path / "truth.json", tmp_path / "results.json") == pytest.approx(direct, abs=1e-9)
    assert not companion_of(tmp_path / "results.json").exists()


def test_without_annotations_a_companion_says_which_picture_each_number_means(tmp_path, capsys):
    _, results = scene()
    results.insert(3, failed())
    path = tmp_path / "results.json"
    outcome = write_coco_results(path, iter(results), NAMES, root=ROOT)
    assert (outcome.pictures, outcome.failures) == (30, 1)
    for coco in (pytest.importorskip("pycocotools.coco"), pytest.importorskip("faster_coco_eval")):
        known = coco.COCO(str(companion_of(path)))
        opened = known.loadRes(str(path))
        named = {entry["id"]: entry["name"] for entry in known.loadCats(known.getCatIds())}
        assert sorted(known.getImgIds()) == list(range(1, 31))
        back = {}
        for entry in known.loadImgs(known.getImgIds()):
            found = opened.loadAnns(opened.getAnnIds(imgIds=[entry["id"]]))
            back[entry["file_name"]] = [(named[one["category_id"]], one["score"], one["bbox"]) for one in found]
        assert back == {
            relative_name(one.file, ROOT): [(d.name, d.score, list(d.box.xywh)) for d in one.detections]
            for one in results
            if one.failure is None
        }


def test_what_annotations_do_not_have_is_counted(tmp_path):
    images, _ = scene()
    document = annotations(images)
    del document["categories"][2]  # Human
    (tmp_path / "truth.json").write_text(json.dumps(document))
    results = [picture(FOX, MAN, file="CAM0/0.jpg"), picture(FOX, file="CAM9/x.jpg"), failed("CAM1/1.jpg")]
    outcome = write_coco_results(tmp_path / "r.json", results, NAMES, root=ROOT, annotations=tmp_path / "truth.json")
    assert (outcome.pictures, outcome.detections, outcome.failures) == (1, 1, 1)
    assert (outcome.strangers, outcome.unknown) == (1, {"Human": 1})
    assert json.loads((tmp_path / "r.json").read_text()) == [
        {"image_id": 1, "category_id": 7, "bbox": [10.0, 5.0, 20.0, 20.0], "score": 0.9}
    ]


@pytest.mark.parametrize(
    ("change", "results", "message"),
    [
        pytest.param({}, [picture(file="x.jpg")], "none of the 1 pictures.*x.jpg", id="no picture in common"),
        pytest.param(
            {"categories": [{"id": 1, "name": "fox"}]}, [], r"species \(fox\).*to the letter", id="no species in common"
        ),
        pytest.param(
            {},
            [picture(file="CAM0/0.jpg"), picture(file="x/CAM0/0.jpg")],
            "two results",
            id="two results of one picture",
        ),
        pytest.param({"images": {}}, [], "no list 'images'", id="no list of pictures"),
        pytest.param({"images": [{"id": 1}]}, [], "entry 1 of 'images'.*file_name", id="a picture without a name"),
        pytest.param({"images": [{"id": True, "file_name": "a"}]}, [], "entry 1", id="an id that is none"),
    ],
)
def test_annotations_that_do_not_fit_are_refused(tmp_path, change, results, message):
    (tmp_path / "truth.json").write_text(json.dumps(annotations(scene()[0]) | change))
    with pytest.raises(ValueError, match=f"truth.json: .*{message}"):
        write_coco_results(tmp_path / "r.json", results, NAMES, root=ROOT, annotations=tmp_path / "truth.json")
    assert [file.name for file in tmp_path.iterdir()] == ["truth.json"]


@settings(deadline=None, max_examples=40)
@given(several)
def test_hostile_names_reach_the_companion_whole(tmp_path_factory, images):
    path = tmp_path_factory.mktemp("coco") / "r.json"
    write_coco_results(path, images, NAMES, root=ROOT)
    known = json.loads(companion_of(path).read_text(encoding="ascii"))["images"]
    assert [entry["file_name"] for entry in known] == [
        relative_name(image.file, ROOT) for image in images if image.failure is None
    ]


# -- Camtrap DP -----------------------------------------------------------------------------------------------------

PROJECT = """
deployments: cameras.csv
species: species.csv
contributors: [{title: Ada Byron, role: contact}]
project:
  title: Foxes of the old quarry
  samplingDesign: opportunistic
  captureMethod: [activityDetection]
  individualAnimals: false
"""
CAMERAS = """deploymentID,folder,latitude,longitude,deploymentStart,deploymentEnd,cameraModel,notes
d1,CAM1,52.5,13.4,2024-04-30T10:00:00+02:00,2024-06-01 10:00,Reconyx-HF2X,by the gate
d2,west/CAM2,52.75,13.25,2024-04-30 11:00+02:00,2024-06-01,,
"""
SPECIES = "class,scientificName,taxonRank\nRed Fox,Vulpes vulpes,species\nWolf,Canis lupus,species\n"


def a_project(folder: Path, project: str = PROJECT, cameras: str | bytes = CAMERAS, species: str = SPECIES):
    (folder / "project.yaml").write_text(project, encoding="utf-8")
    (folder / "cameras.csv").write_bytes(cameras if isinstance(cameras, bytes) else cameras.encode())
    (folder / "species.csv").write_text(species, encoding="utf-8")
    return read_project(folder / "project.yaml", NAMES)


def packaged(folder: Path, *images: ImageDetections, project=None, **options):
    """The tables and the description of a package of these pictures."""
    project = a_project(folder) if project is None else project
    out = folder / "package"
    options = {"detector": "ena24ssd foxes", "when": datetime(2024, 7, 1, tzinfo=timezone.utc)} | options
    outcome = write_camtrapdp(out, iter(images), NAMES, root=ROOT, project=project, **options)
    tables = {}
    for name in ("deployments", "media", "observations"):
        with (out / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            tables[name] = list(csv.DictReader(file, strict=True))
    return outcome, tables, json.loads((out / "datapackage.json").read_text())


# The standard's table schemas, 1.0.2: (column, type, required, rules). Taken down from the standard.
MOMENT = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)"
SCHEMAS = {
    "deployments": [
        ("deploymentID", "string", True, {"unique": True}),
        ("locationID", "string", False, {}),
        ("locationName", "string", False, {}),
        ("latitude", "number", True, {"minimum": -90, "maximum": 90}),
        ("longitude", "number", True, {"minimum": -180, "maximum": 180}),
        ("coordinateUncertainty", "integer", False, {"minimum": 1}),
        ("deploymentStart", "datetime", True, {}),
        ("deploymentEnd", "datetime", True, {}),
        ("setupBy", "string", False, {}),
        ("cameraID", "string", False, {}),
        ("cameraModel", "string", False, {}),
        ("cameraDelay", "integer", False, {"minimum": 0}),
        ("cameraHeight", "number", False, {"minimum": 0}),
        ("cameraDepth", "number", False, {"minimum": 0}),
        ("cameraTilt", "integer", False, {"minimum": -90, "maximum": 90}),
        ("cameraHeading", "integer", False, {"minimum": 0, "maximum": 360}),
        ("detectionDistance", "number", False, {"minimum": 0}),
        ("timestampIssues", "boolean", False, {}),
        ("baitUse", "boolean", False, {}),
        (
            "featureType",
            "string",
            False,
            {
                "enum": [
                    "roadPaved",
                    "roadDirt",
                    "trailHiking",
                    "trailGame",
                    "roadUnderpass",
                    "roadOverpass",
                    "roadBridge",
                    "culvert",
                    "burrow",
                    "nestSite",
                    "carcass",
                    "waterSource",
                    "fruitingTree",
                ]
            },
        ),
        ("habitat", "string", False, {}),
        ("deploymentGroups", "string", False, {}),
        ("deploymentTags", "string", False, {}),
        ("deploymentComments", "string", False, {}),
    ],
    "media": [
        ("mediaID", "string", True, {"unique": True}),
        ("deploymentID", "string", True, {"refers": "deployments"}),
        ("captureMethod", "string", False, {"enum": ["activityDetection", "timeLapse"]}),
        ("timestamp", "datetime", True, {}),
        ("filePath", "string", True, {"pattern": r"^(?=^[^./~])(^((?!\.{2}).)*$).*$"}),
        ("filePublic", "boolean", True, {}),
        ("fileName", "string", False, {}),
        ("fileMediatype", "string", True, {"pattern": r"^(image|video|audio)/.*$"}),
        ("exifData", "string", False, {}),
        ("favorite", "boolean", False, {}),
        ("mediaComments", "string", False, {}),
    ],
    "observations": [
        ("observationID", "string", True, {"unique": True}),
        ("deploymentID", "string", True, {"refers": "deployments"}),
        ("mediaID", "string", False, {"refers": "media"}),
        ("eventID", "string", False, {}),
        ("eventStart", "datetime", True, {}),
        ("eventEnd", "datetime", True, {}),
        ("observationLevel", "string", True, {"enum": ["media", "event"]}),
        (
            "observationType",
            "string",
            True,
            {"enum": ["animal", "human", "vehicle", "blank", "unknown", "unclassified"]},
        ),
        ("cameraSetupType", "string", False, {"enum": ["setup", "calibration"]}),
        ("scientificName", "string", False, {}),
        ("count", "integer", False, {"minimum": 1}),
        ("lifeStage", "string", False, {"enum": ["adult", "subadult", "juvenile"]}),
        ("sex", "string", False, {"enum": ["female", "male"]}),
        ("behavior", "string", False, {}),
        ("individualID", "string", False, {}),
        ("individualPositionRadius", "number", False, {"minimum": 0}),
        ("individualPositionAngle", "number", False, {"minimum": -90, "maximum": 90}),
        ("individualSpeed", "number", False, {"minimum": 0}),
        ("bboxX", "number", False, {"minimum": 0, "maximum": 1}),
        ("bboxY", "number", False, {"minimum": 0, "maximum": 1}),
        ("bboxWidth", "number", False, {"minimum": 1e-15, "maximum": 1}),
        ("bboxHeight", "number", False, {"minimum": 1e-15, "maximum": 1}),
        ("classificationMethod", "string", False, {"enum": ["human", "machine"]}),
        ("classifiedBy", "string", False, {}),
        ("classificationTimestamp", "datetime", False, {}),
        ("classificationProbability", "number", False, {"minimum": 0, "maximum": 1}),
        ("observationTags", "string", False, {}),
        ("observationComments", "string", False, {}),
    ],
}
TYPES = {
    "string": ".*",
    "number": r"-?\d+(\.\d+)?(e-?\d+)?",
    "integer": r"-?\d+",
    "boolean": "true|false",
    "datetime": MOMENT,
}


def broken_rules(tables: dict[str, list[dict[str, str]]], package: dict) -> list[str]:
    """Every rule of Camtrap DP 1.0.2 that a package breaks."""
    broken = []
    for name, schema in SCHEMAS.items():
        identity = schema[0][0]
        identities = {table: {row[SCHEMAS[table][0][0]] for row in rows} for table, rows in tables.items()}
        for row in tables[name]:
            if list(row) != [column for column, *_ in schema]:
                broken.append(f"{name}: columns {list(row)}")
            for column, kind, required, rules in schema:
                text, where = row[column], f"{name} {row[identity]} {column}"
                if text == "":
                    if required:
                        broken.append(f"{where}: missing")
                    continue
                checks = {
                    "type": re.fullmatch(TYPES[kind], text, re.DOTALL) is not None,
                    "enum": text in rules.get("enum", [text]),
                    "pattern": re.search(rules.get("pattern", ""), text) is not None,
                    "minimum": kind not in ("number", "integer") or float(text) >= rules.get("minimum", -math.inf),
                    "maximum": kind not in ("number", "integer") or float(text) <= rules.get("maximum", math.inf),
                    "reference": "refers" not in rules or text in identities[rules["refers"]],
                }
                broken += [f"{where}: {rule} of {text!r}" for rule, holds in checks.items() if not holds]
                if kind == "datetime":
                    datetime.fromisoformat(text.replace("Z", "+00:00"))
        if len(identities[name]) < len(tables[name]):
            broken.append(f"{name}: {identity} twice")

    def rule(holds: bool, text: str) -> None:
        if not holds:
            broken.append(text)

    required = {"resources", "profile", "created", "contributors", "project", "spatial", "temporal", "taxonomic"}
    rule(required <= set(package), f"datapackage.json lacks {required - set(package)}")
    base = "https://raw.githubusercontent.com/tdwg/camtrap-dp/1.0.2/"
    rule(package["profile"] == f"{base}camtrap-dp-profile.json", "profile")
    for resource, name in zip(package["resources"], SCHEMAS, strict=True):
        rule(resource["name"] == name and resource["path"] == f"{name}.csv", f"resource {name}")
        rule(resource["profile"] == "tabular-data-resource", "profile of a resource")
        rule(resource["schema"] == f"{base}{name}-table-schema.json", "schema of a resource")
    rule(re.fullmatch(MOMENT, package["created"]) is not None, "created")
    rule(all(one["title"] for one in package["contributors"]), "contributors")
    project = package["project"]
    facts = {"title", "samplingDesign", "captureMethod", "individualAnimals", "observationLevel"}
    rule(facts <= set(project), "facts of the project")
    rule(set(project["captureMethod"]) <= {"activityDetection", "timeLapse"}, "captureMethod")
    levels = {row["observationLevel"] for row in tables["observations"]}
    rule(levels <= set(project["observationLevel"]) <= {"media", "event"}, "observationLevel")
    rule(package["spatial"]["type"] in ("Point", "Polygon", "MultiPoint"), "spatial")
    rule(all(re.fullmatch(r"\d{4}-\d\d-\d\d", package["temporal"][key]) for key in ("start", "end")), "temporal")
    named = {row["scientificName"] for row in tables["observations"]} - {""}
    rule({one["scientificName"] for one in package["taxonomic"]} == named, "taxonomic")
    return broken


def test_a_package_says_what_was_found(tmp_path):
    outcome, tables, package = packaged(
        tmp_path,
        picture(FOX, MAN),
        picture(file="west/CAM2/c.png", taken_at=datetime(2023, 1, 1)),
        failed(taken_at=NOON),
        failed("CAM1/e.jpg"),
    )
    assert broken_rules(tables, package) == []
    assert (outcome.deployments, outcome.media, outcome.observations) == (2, 3, 4)
    assert outcome.left_out == {"nothing that can be read, not even a time": 1}
    assert outcome.outside == 1
    media = [(row["filePath"], row["timestamp"], row["fileMediatype"], row["mediaComments"]) for row in tables["media"]]
    assert media == [
        ("CAM1/a.jpg", "2024-05-01T12:00:00+02:00", "image/jpeg", ""),
        ("west/CAM2/c.png", "2023-01-01T00:00:00+02:00", "image/png", ""),
        ("CAM1/b.jpg", "2024-05-01T12:00:00+02:00", "image/jpeg", "the file is empty"),
    ]
    columns = ("observationType", "scientificName", "count", "bboxX", "bboxY", "bboxWidth", "bboxHeight")
    columns += ("classificationProbability", "observationTags")
    assert [tuple(row[column] for column in columns) for row in tables["observations"]] == [
        ("animal", "Vulpes vulpes", "1", "0.1", "0.1", "0.2", "0.4", "0.9", "class:Red Fox"),
        ("human", "", "1", "0.0", "0.0", "1.0", "1.0", "0.75", "class:Human"),
        ("blank", "", "", "", "", "", "", "", ""),
        ("unclassified", "", "", "", "", "", "", "", ""),
    ]
    assert {row["captureMethod"] for row in tables["media"]} == {"activityDetection"}
    assert [row["classifiedBy"] for row in tables["observations"]] == ["ena24ssd foxes"] * 3 + [""]
    assert package["taxonomic"] == [{"scientificName": "Vulpes vulpes", "taxonRank": "species"}]
    assert package["temporal"] == {"start": "2024-04-30", "end": "2024-06-01"}
    assert package["spatial"]["bbox"] == [13.25, 52.5, 13.4, 52.75]
    assert package["created"] == "2024-07-01T00:00:00+00:00"


def test_a_project_says_what_it_cannot_say(tmp_path):
    project = a_project(tmp_path)
    assert project.ignored == ("notes",)
    assert project.unnamed == ("Roe Deer",)


@settings(deadline=None, max_examples=40)
@given(several)
def test_every_package_follows_the_standard(tmp_path_factory, images):
    folder = tmp_path_factory.mktemp("dp")
    sure = picture(FOX, file="CAM1/sure.jpg")  # so that there is something to write
    there = [replace(image, file=str(ROOT / "CAM1" / relative_name(image.file, ROOT))) for image in images]
    outcome, tables, package = packaged(folder, sure, *there, partial=True)
    assert broken_rules(tables, package) == []
    listed = {row["filePath"] for row in tables["media"]}
    for image in there:
        name = relative_name(image.file, ROOT)
        allowed = ".." not in name and not re.search("[\n\r\u2028\u2029\ud800-\udfff]", name)
        assert (name in listed) == (allowed and image.taken_at is not None)
    assert outcome.media == len(listed)


def test_a_package_of_the_same_pictures_is_the_same(tmp_path):
    packaged(tmp_path, picture(FOX), picture(file="CAM1/c.jpg"))
    before = {name: (tmp_path / "package" / name).read_bytes() for name in FILES}
    packaged(tmp_path, picture(FOX), picture(file="CAM1/c.jpg"))
    assert before == {name: (tmp_path / "package" / name).read_bytes() for name in FILES}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cameras.csv", "package", "project.yaml", "species.csv"]


def test_a_refusal_says_all_that_is_missing(tmp_path):
    images = [
        picture(file="CAM9/a.jpg"),
        picture(file="CAM9/b.jpg"),
        picture(taken_at=None),
        picture(file="CAM1/x..jpg"),
        picture(file="CAM1/line\nbreak.jpg"),
        failed(),
    ]
    with pytest.raises(CamtrapError) as refused:
        packaged(tmp_path, *images)
    assert len(refused.value.complaints) == 3
    assert re.search(r"2 pictures have no deployment \(first: 'CAM9/a.jpg', 'CAM9/b.jpg'\)", str(refused.value))
    assert re.search(r"1 pictures have no time .*\(first: 'CAM1/a.jpg'\)", str(refused.value))
    assert re.search(r"2 pictures have a name.*'CAM1/line\\nbreak.jpg'", str(refused.value))
    assert not (tmp_path / "package").exists()
    assert len(list(tmp_path.iterdir())) == 3


def test_pictures_without_a_deployment_are_known_before_any_is_looked_at(tmp_path):
    project = a_project(tmp_path)
    project.require_deployments([ROOT / "CAM1/a.jpg"], ROOT)
    with pytest.raises(CamtrapError, match=r"2 pictures have no deployment \(first: 'CAM9/a.jpg'\)"):
        project.require_deployments([ROOT / "CAM1/a.jpg", ROOT / "CAM9/a.jpg", ROOT / "CAM9/b.jpg"], ROOT)


@pytest.mark.parametrize(
    ("folders", "file", "root", "found"),
    [
        pytest.param(["CAM1", "CAM2"], "/card/CAM2/a.jpg", "/card", "CAM2", id="the folder counted from the root"),
        pytest.param(["CAM1", "CAM1/new"], "/card/CAM1/new/a.jpg", "/card", "CAM1/new", id="the longest decides"),
        pytest.param(["CAM1"], "/card/CAM1/100RECNX/a.jpg", "/card", "CAM1", id="folders that the camera makes"),
        pytest.param(["CAM1"], "/card/CAM1/a.jpg", "/card/CAM1", "CAM1", id="only that camera's folder was given"),
        pytest.param(["CAM1"], "/card/2024/CAM1/a.jpg", "/card", "CAM1", id="the table starts deeper than the root"),
        pytest.param(["CAM1", "x"], "/x/card/CAM1/a.jpg", "/x/card", "CAM1", id="below the root before above it"),
        pytest.param(["CAM1"], "/card/CAM10/a.jpg", "/card", None, id="a folder that begins alike is another"),
        pytest.param(["a/CAM1", "b/CAM1"], "/card/b/CAM1/a.jpg", "/card", "b/CAM1", id="two cameras called alike"),
        pytest.param(["."], "/card/x/a.jpg", "/card", ".", id="one camera took all"),
        pytest.param(["west\\CAM1"], "/card/west/CAM1/a.jpg", "/card", "west\\CAM1", id="written on Windows"),
        pytest.param(["Cafe\u0301"], "/card/Caf\u00e9/a.jpg", "/card", "Cafe\u0301", id="accents written another way"),
    ],
)
def test_pictures_find_their_deployment_by_folder(tmp_path, folders, file, root, found):
    rows = [f"{folder},{folder},1,1,2024-01-01,2024-12-31,Z" for folder in folders]
    head = "deploymentID,folder,latitude,longitude,deploymentStart,deploymentEnd,utcOffset"
    project = a_project(tmp_path, cameras="\n".join([head, *rows]))
    deployment = project.deployment_in(str(Path(file).parent), Path(root))
    assert (deployment and deployment.id) == found


def test_without_a_folder_the_deployment_is_called_like_it(tmp_path):
    cameras = "deploymentID,latitude,longitude,deploymentStart,deploymentEnd\nCAM1,1,1,2024-01-01Z,2024-12-31\n"
    project = a_project(tmp_path, cameras=cameras)
    assert project.deployment_in("/card/CAM1", ROOT).id == "CAM1"


@pytest.mark.parametrize(
    ("start", "end", "offset", "starts", "ends", "clock"),
    [
        pytest.param(
            "2024-05-01T10:00:00+02:00",
            "2024-06-01T10:00:00+02:00",
            "",
            "2024-05-01T10:00:00+02:00",
            "2024-06-01T10:00:00+02:00",
            2,
            id="as the standard writes them",
        ),
        pytest.param(
            "2024-05-01 10:00",
            "2024-06-01 10:00",
            "+02:00",
            "2024-05-01T10:00:00+02:00",
            "2024-06-01T10:00:00+02:00",
            2,
            id="by the camera's clock",
        ),
        pytest.param(
            "2024-05-01",
            "2024-05-01",
            "Z",
            "2024-05-01T00:00:00+00:00",
            "2024-05-01T23:59:59+00:00",
            0,
            id="whole days",
        ),
        pytest.param(
            "2024-05-01T10:00Z",
            "2024-06-01T10:00Z",
            "-3:30",
            "2024-05-01T10:00:00+00:00",
            "2024-06-01T10:00:00+00:00",
            -3.5,
            id="the column says how the camera's clock was set",
        ),
        pytest.param(
            "2024-05-01",
            "2024-06-01",
            "2",
            "2024-05-01T00:00:00+02:00",
            "2024-06-01T23:59:59+02:00",
            2,
            id="the + that a spreadsheet swallowed",
        ),
    ],
)
def test_times_of_deployments(tmp_path, start, end, offset, starts, ends, clock):
    head = "deploymentID,latitude,longitude,deploymentStart,deploymentEnd,utcOffset"
    (deployment,) = a_project(tmp_path, cameras=f"{head}\nCAM1,1,1,{start},{end},{offset}\n").deployments
    assert (deployment.row["deploymentStart"], deployment.row["deploymentEnd"]) == (starts, ends)
    assert deployment.clock.utcoffset(None) == timedelta(hours=clock)


@pytest.mark.parametrize(
    "cameras",
    [
        pytest.param("\ufeff" + CAMERAS, id="a byte order mark"),
        pytest.param(CAMERAS.replace(",", ";"), id="semicolons"),
        pytest.param(CAMERAS.replace("\n", "\r\n"), id="line ends of Windows"),
        pytest.param(CAMERAS + ",,,,,,,\n\n", id="empty rows at the end"),
        pytest.param(CAMERAS.replace(",52", " , 52"), id="spaces around cells"),
    ],
)
def test_tables_as_spreadsheets_save_them(tmp_path, cameras):
    assert [one.row for one in a_project(tmp_path, cameras=cameras).deployments] == [
        one.row for one in a_project(tmp_path).deployments
    ]


def with_cell(column: str, text: str) -> str:
    """The table of cameras with one more cell."""
    head, first, second, *_ = CAMERAS.splitlines()
    return "\n".join([f"{head},{column}", f"{first},{text}", f"{second},"])


@pytest.mark.parametrize(
    ("parts", "complaints"),
    [
        pytest.param(
            {"project": "deployments: cameras.csv"},
            ["contributors: is missing", "project: is missing"],
            id="nothing but a table",
        ),
        pytest.param(
            {"project": PROJECT.replace("opportunistic", "random").replace("title: Foxes", "name: Foxes")},
            ["project.title: is missing", "project.samplingDesign: is 'random'; .*'opportunistic'"],
            id="a wrong choice",
        ),
        pytest.param(
            {"project": PROJECT + "taxonomic: []\nspeceis: a.csv"},
            ["taxonomic: is no property", "speceis: is no property"],
            id="a word that is none",
        ),
        pytest.param(
            {"project": PROJECT + "licenses: [{name: CC0-1.0, scope: data}]"},
            ["licenses must be at least two"],
            id="a license for the data alone",
        ),
        pytest.param(
            {"project": PROJECT + "licenses: [{scope: data}]"}, ["neither a name"], id="a license without a name"
        ),
        pytest.param({"project": "a: [b"}, ["cannot be read as YAML", "deployments: is missing"], id="no YAML"),
        pytest.param({"project": "- a"}, ["holds list"], id="a list"),
        pytest.param(
            {"project": PROJECT.replace("cameras.csv", "other.csv")}, [r"other.csv: cannot be read"], id="no such table"
        ),
        pytest.param(
            {"cameras": "deploymentID,latitude\nCAM1,1"},
            ["no column 'longitude'", "no column 'deploymentStart'", "no column 'deploymentEnd'"],
            id="columns are missing",
        ),
        pytest.param({"cameras": CAMERAS.splitlines()[0]}, ["cameras.csv: has no row"], id="no deployment"),
        pytest.param({"cameras": with_cell("folder", "")}, ["column 'folder' twice"], id="a column twice"),
        pytest.param({"cameras": "é".encode("latin-1")}, ["is not UTF-8"], id="an encoding of old"),
        pytest.param(
            {"cameras": CAMERAS.replace("52.5", "'52,5'").replace("13.25", "200")},
            [r"row 2 \(d1\): latitude is", r"row 3 \(d2\): longitude is '200'; it must be .* -180 to 180"],
            id="coordinates that are none",
        ),
        pytest.param(
            {"cameras": CAMERAS.replace("+02:00", "")},
            [r"row 2 \(d1\): no UTC offset.*utcOffset", r"row 3 \(d2\): no UTC offset"],
            id="no offset anywhere",
        ),
        pytest.param(
            {"cameras": CAMERAS.replace("2024-04-30T10:00:00", "30/04/2024 ")},
            ["deploymentStart is '30/04/2024 .*such as 2024-05-01T06:12:33"],
            id="a date that may be two",
        ),
        pytest.param(
            {"cameras": CAMERAS.replace("2024-06-01 10:00", "2023-06-01")},
            ["End lies before"],
            id="ends before it starts",
        ),
        pytest.param({"cameras": CAMERAS.replace("d2", "d1")}, ["second deployment 'd1'"], id="one id twice"),
        pytest.param({"cameras": CAMERAS.replace("west/CAM2", "CAM1")}, ["that of 'd1'"], id="one folder twice"),
        pytest.param({"cameras": with_cell("baitUse", "yes")}, ["baitUse is 'yes'; it must be true"], id="no truth"),
        pytest.param({"cameras": with_cell("featureType", "road")}, ["must be one of roadPaved"], id="no such feature"),
        pytest.param({"cameras": with_cell("cameraTilt", "4.5")}, ["must be a whole number"], id="no whole number"),
        pytest.param(
            {"cameras": with_cell("utcOffset", "+25:00")}, ["utcOffset is '.25:00'"], id="an offset of 25 hours"
        ),
        pytest.param({"cameras": with_cell("utcOffset", "CEST")}, ["utcOffset is 'CEST'"], id="the name of a zone"),
        pytest.param({"species": "class\nRed Fox"}, ["species.csv: has no column 'scientificName'"], id="no names"),
        pytest.param(
            {"species": SPECIES + "Red Fox,Vulpes lagopus,genre\n"},
            ["second row for class 'Red Fox'", "taxonRank is 'genre'"],
            id="a class twice",
        ),
        pytest.param(
            {"cameras": "x", "project": "deployments: cameras.csv\nspecies: species.csv", "species": "y"},
            ["contributors", "project", "deploymentID", "latitude", "scientificName"],
            id="everything at once",
        ),
    ],
)
def test_a_project_that_does_not_do_is_refused_with_all_reasons(tmp_path, parts, complaints):
    with pytest.raises(CamtrapError) as refused:
        a_project(tmp_path, **parts)
    for complaint in complaints:
        assert re.search(complaint, str(refused.value)), str(refused.value)
    assert len(str(refused.value)) < 3000


def test_a_table_in_place_of_the_project_is_told_what_is_missing(tmp_path):
    (tmp_path / "cameras.csv").write_text(CAMERAS)
    with pytest.raises(CamtrapError, match="contributors: is missing"):
        read_project(tmp_path / "cameras.csv", NAMES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param({"notes.txt": "mine"}, "holds 'notes.txt'", id="a folder with something else"),
        pytest.param({"media.csv": "mine"}, "another program", id="a table of that name"),
        pytest.param(
            {"datapackage.json": '{"sources": [{"title": "Agouti"}]}'}, "another program", id="of another program"
        ),
        pytest.param({"datapackage.json": "[]"}, "another program", id="no description"),
    ],
)
def test_a_folder_that_is_not_ours_stays(tmp_path, content, message):
    out = tmp_path / "package"
    out.mkdir()
    for name, text in content.items():
        (out / name).write_text(text)
    with pytest.raises(FileExistsError, match=message):
        packaged(tmp_path, picture(FOX))
    assert {path.name: path.read_text() for path in out.iterdir()} == content
    assert len(list(tmp_path.iterdir())) == 4


def test_a_file_and_a_link_in_the_way_stay(tmp_path):
    out = tmp_path / "package"
    out.write_text("mine")
    with pytest.raises(FileExistsError, match="is a file"):
        packaged(tmp_path, picture(FOX))
    out.rename(tmp_path / "other")
    out.symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError, match="is a link"):
        packaged(tmp_path, picture(FOX))
    assert out.is_symlink()


def test_what_comes_into_the_way_meanwhile_stays(tmp_path):
    project = a_project(tmp_path)
    out = tmp_path / "package"

    def images():
        yield picture(FOX)
        out.mkdir()
        (out / "notes.txt").write_text("mine")

    with pytest.raises(FileExistsError, match="notes"):
        write_camtrapdp(out, images(), NAMES, root=ROOT, project=project, detector="test")
    assert [path.name for path in out.iterdir()] == ["notes.txt"]
    assert len(list(tmp_path.iterdir())) == 4


def test_an_interrupted_package_leaves_the_older_one(tmp_path):
    packaged(tmp_path, picture(FOX))
    before = (tmp_path / "package" / "media.csv").read_bytes()

    def interrupted():
        yield picture(FOX)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_camtrapdp(
            tmp_path / "package", interrupted(), NAMES, root=ROOT, project=a_project(tmp_path), detector="test"
        )
    assert (tmp_path / "package" / "media.csv").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 4


def test_a_package_needs_a_picture(tmp_path):
    with pytest.raises(CamtrapError, match="no picture can be listed"):
        packaged(tmp_path, failed(), partial=True)
    assert not (tmp_path / "package").exists()


# -- MegaDetector JSON ----------------------------------------------------------------------------------------------


def megadetector_errors(document: object) -> list[str]:
    """What the validator of the format's authors would say of batch output 1.6, and of what they only warn of."""
    errors = []

    def rule(holds: bool, text: str) -> None:
        if not holds:
            errors.append(text)

    rule(isinstance(document, dict), "the document is an object")
    known = {"info", "detection_categories", "images", "classification_categories"}
    rule({"info", "detection_categories", "images"} <= set(document), "info, categories and images are there")
    rule(set(document) <= known | {"classification_category_descriptions"}, "only known keys at file level")
    info = document["info"]
    version = info.get("format_version")
    rule(isinstance(version, str) and float(version) >= 1.3, "the version is a number written as text")
    for category, name in document["detection_categories"].items():
        rule(category.isdecimal() and str(int(category)) == category, "a category id is a whole number as text")
        rule(isinstance(name, str) and bool(name.strip()), "a category has a name")
    metadata = info.get("detector_metadata", {})
    for key in ("typical_detection_threshold", "conservative_detection_threshold"):
        rule(key not in metadata or 0 <= metadata[key] <= 1, f"{key} is a score")
    rule(isinstance(document["images"], list), "images are a list")
    for image in document["images"]:
        rule(isinstance(image, dict) and isinstance(image.get("file"), str), "an image names its file")
        failure, detections = image.get("failure"), image.get("detections")
        rule(failure is None or isinstance(failure, str), "a failure is a text")
        rule(isinstance(detections, list) if failure is None else detections is None, "detections, or a failure")
        for found in detections or []:
            rule(found["category"] in document["detection_categories"], "a category is listed")
            rule(type(found["conf"]) is float and 0 <= found["conf"] <= 1, "conf is a float from 0 to 1")
            rule(all(type(part) is float for part in found["bbox"]) and len(found["bbox"]) == 4, "bbox: four floats")
            x, y, width, height = found["bbox"]
            rule(0 <= x <= 1 and 0 <= y <= 1 and 0 <= width <= 1 and 0 <= height <= 1, "bbox is relative")
            rule(x + width <= 1 + 1e-12 and y + height <= 1 + 1e-12, "bbox lies inside")
            rule("classifications" not in found and "frame_number" not in found, "nothing is classified, no video")
    return errors


@settings(deadline=None, max_examples=80)
@given(several)
def test_megadetector_json_follows_the_format_and_gives_back_what_was_found(tmp_path_factory, images):
    path = tmp_path_factory.mktemp("md") / "r.json"
    advice = {"typical_detection_threshold": 0.5, "conservative_detection_threshold": 0.05}
    write_megadetector(path, images, NAMES, detector="test", detector_metadata=advice, root=ROOT)
    text = path.read_bytes().decode("ascii")
    document = json.loads(text)
    assert megadetector_errors(document) == []
    assert document["info"]["detector_metadata"] == advice
    back, names = read_megadetector(path)
    assert names == NAMES
    for was, now in zip(images, back, strict=True):
        assert now.file == relative_name(was.file, ROOT)
        assert (now.width, now.height, now.failure) == (was.width, was.height, was.failure)
        for a, b in zip(was.detections, now.detections, strict=True):
            assert (b.label, b.name) == (a.label, a.name)
            assert b.score == pytest.approx(a.score, abs=0.51e-7)
            assert b.box == pytest.approx(a.box, abs=0.01)


@pytest.mark.parametrize("score", [0, 1, 0.0, 1.0, 1e-9])
def test_a_whole_score_is_written_as_a_float(tmp_path, score):
    write_megadetector(tmp_path / "r.json", [picture(replace(FOX, score=score))], NAMES, detector="test")
    assert megadetector_errors(json.loads((tmp_path / "r.json").read_text())) == []
