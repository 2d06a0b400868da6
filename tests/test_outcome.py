"""Is what was found counted rightly, and does each format stand where it should, with all that it needs?"""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from predicting import SPECIES, stub_model

from ena24ssd.boxes import Box
from ena24ssd.detections import Detection, ImageDetections, read_megadetector
from ena24ssd.outcome import SHOWN, Wanted, count_outcome, file_of, threshold_advice, write_outcome
from ena24ssd.tables import describe_outcome
from ena24ssd.thresholds import Thresholds

ROOT = Path("/cards/7")
BOX = Box(1.0, 2.0, 30.0, 20.0)
THRESHOLDS = Thresholds(0.5, {"Emu": 0.2})


def found(*pairs: tuple[int, float]) -> tuple[Detection, ...]:
    return tuple(Detection(label, SPECIES[label], score, BOX) for label, score in pairs)


PICTURES = [
    ImageDetections("/cards/7/a.jpg", 48, 36, found((0, 0.9), (0, 0.6), (1, 0.3)), None, datetime(2024, 5, 1, 12)),
    ImageDetections("/cards/7/b/c.jpg", 48, 36, found((0, 0.4), (2, 0.49999))),
    ImageDetections("/cards/7/b/d.jpg", 48, 36),
    ImageDetections("/cards/7/b/e.jpg", None, None, failure="the file is empty"),
    ImageDetections("/cards/7/b/f.jpg", 48, 36, found((1, 0.2))),
]


def pictures():
    return iter(PICTURES)


def write(out: Path, *formats: str, model=None, images=PICTURES, **options):
    wanted = Wanted(formats or ("megadetector",), **options)
    return write_outcome(lambda: iter(images), out, ROOT, model or stub_model(), THRESHOLDS, 0.05, wanted, None)


def test_what_counts_is_counted():
    outcome = count_outcome(pictures, THRESHOLDS, ROOT)
    assert (outcome.pictures, outcome.with_animals, outcome.blank, outcome.failed) == (5, 2, 2, 1)
    assert outcome.species == {"Ox": 2, "Emu": 2}
    assert outcome.failures == [PICTURES[3]]


def test_of_many_failures_the_first_are_shown(tmp_path):
    failed = [ImageDetections(f"/cards/7/{n}.jpg", None, None, failure="gone") for n in range(SHOWN + 1_300)]
    outcome = write(tmp_path / "x.json", images=failed)
    assert outcome.failed == SHOWN + 1_300 and outcome.failures == failed[:SHOWN]
    said = describe_outcome(outcome)
    assert "1,320 failed" in said and "and 1,300 more, which the results name" in said and len(said) < 3000
    assert sum(one.failure == "gone" for one in read_megadetector(tmp_path / "x.json")[0]) == SHOWN + 1_300


def test_each_format_holds_what_it_is_for(tmp_path):
    out = tmp_path / "deep" / "found.json"
    outcome = write(out, "csv", "megadetector", "coco")
    assert outcome.files == [
        *(out.with_suffix(".csv"), out, out.with_suffix(".coco.json"), out.with_suffix(".coco.images.json"))
    ]
    results, names = read_megadetector(out)
    assert names == SPECIES
    assert [len(one.detections) for one in results] == [3, 2, 0, 0, 1], "all that was kept"
    assert [one.file for one in results] == ["a.jpg", "b/c.jpg", "b/d.jpg", "b/e.jpg", "b/f.jpg"]
    assert len(json.loads(out.with_suffix(".coco.json").read_text())) == 6, "all that was kept"
    with out.with_suffix(".csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["species"] for row in rows] == ["Ox", "Ox", "Emu", "", "", "", "Emu"], "what counts"


def test_the_same_pictures_give_the_same_bytes(tmp_path):
    formats = ("megadetector", "csv", "coco")
    first, second = (write(tmp_path / name / "x.json", *formats).files for name in ("a", "b"))
    for ours, theirs in zip(first, second):
        assert ours.read_bytes() == theirs.read_bytes(), ours.name
    companion = "x.coco.images.json"
    assert (tmp_path / "a" / companion).read_bytes() == (tmp_path / "b" / companion).read_bytes()


def test_a_format_named_twice_is_written_once(tmp_path):
    assert write(tmp_path / "x.json", "csv", "csv").files == [tmp_path / "x.csv"]


@pytest.mark.parametrize(
    "name, out, expected",
    [
        ("megadetector", "r.json", "r.json"),
        ("megadetector", "results", "results"),
        ("csv", "r.json", "r.csv"),
        ("csv", "card.7.json", "card.7.csv"),
        ("coco", "r.json", "r.coco.json"),
        ("coco", "r", "r.coco.json"),
        ("camtrap-dp", "r.json", "r-camtrap-dp"),
    ],
)
def test_names_follow_from_that_of_the_json(name, out, expected):
    assert file_of(name, Path("to") / out) == Path("to") / expected


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Wanted(()), "format none is not known"),
        (lambda: Wanted(("csv", "xml")), "format xml is not known; choose of megadetector, csv, coco, camtrap-dp"),
        (lambda: Wanted(("camtrap-dp",)), "--deployment"),
        (lambda: Wanted(("csv", "megadetector")).files(Path("a.csv")), "would hold both csv and megadetector"),
        (lambda: Wanted(("coco", "megadetector")).files(Path("a.coco.json")), None),
        (lambda: Wanted().files(Path("a.JPG")), "the name of a picture"),
        (lambda: Wanted().files(Path(".")), "is a folder"),
        (lambda: Wanted(("coco",), annotations=Path("none.json")).prepare(SPECIES), "there are no such annotations"),
    ],
)
def test_what_cannot_be_written_is_said_at_once(make, words):
    if words is None:
        assert make()
        return
    with pytest.raises(ValueError, match=words):
        make()


def test_what_annotations_do_not_know_is_said(tmp_path):
    annotations = {
        "images": [{"id": "x1", "file_name": "7/a.jpg"}, {"id": "x2", "file_name": "7/b/f.jpg"}],
        "categories": [{"id": 3, "name": "Ox"}],
        "annotations": [],
    }
    (tmp_path / "truth.json").write_text(json.dumps(annotations))
    outcome = write(tmp_path / "x.json", "coco", annotations=tmp_path / "truth.json")
    said = describe_outcome(outcome)
    assert "left out 3 pictures that the annotations do not have" in said
    assert "left out 2 detections of Emu, which the annotations do not have" in said


def test_what_other_tools_are_told_of_the_scores():
    advice = threshold_advice(stub_model(), THRESHOLDS, 0.05)
    assert (advice["typical_detection_threshold"], advice["conservative_detection_threshold"]) == (0.5, 0.05)
    assert advice["species_thresholds"] == {"Emu": 0.2} and advice["image_size"] == 32 and advice["epoch"] == 7
    json.dumps(advice, allow_nan=False)
    assert "species_thresholds" not in threshold_advice(stub_model(), Thresholds(0.5), 0.05)


def test_a_failure_while_writing_leaves_what_was_there(tmp_path):
    out = tmp_path / "x.json"
    write(out, "megadetector", "csv", "coco")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def breaking():
        yield from PICTURES[:2]
        raise OSError(28, "No space left on device")

    for name in ("megadetector", "csv", "coco"):
        with pytest.raises(OSError, match="No space"):
            calls = iter([iter(PICTURES), breaking()])
            write_outcome(
                lambda calls=calls: next(calls), out, ROOT, stub_model(), THRESHOLDS, 0.05, Wanted((name,)), None
            )
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_species_that_steers_terminals_and_tables_does_not(tmp_path):
    evil = "Ox\x1b[2J\n| forged | 99 |"
    model = replace(stub_model(), class_names=(evil, *SPECIES[1:]))
    image = ImageDetections("/cards/7/\x1b]0;owned\x07.jpg", 48, 36, (Detection(0, evil, 0.9, BOX),))
    failed = ImageDetections("/cards/7/\x9b31m.jpg", None, None, failure="damaged \x1b[31m")
    said = describe_outcome(write(tmp_path / "x.json", model=model, images=[image, failed]))
    assert not any(letter in said for letter in "\x1b\x07\x9b") and "\n| forged" not in said


def test_scores_at_the_border_count_in_every_format_alike(tmp_path):
    """What counts is decided on the score itself, not on the rounded one that is written."""
    below = float(np.nextafter(0.5, 0))
    images = [ImageDetections("/cards/7/a.jpg", 48, 36, found((0, 0.5), (0, below)))]
    outcome = write(tmp_path / "x.json", "megadetector", "csv", images=images)
    assert outcome.species == {"Ox": 1}
    assert (tmp_path / "x.csv").read_text(encoding="utf-8-sig").count("Ox") == 1
    assert [one.score for one in read_megadetector(tmp_path / "x.json")[0][0].detections] == [0.5, 0.5]
