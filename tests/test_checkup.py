"""Does the checkup find what is wrong, say what it costs, and find nothing else?"""

from __future__ import annotations

import json
import shutil

import pytest

from ena24ssd.cameratraps import AnnotationError, NoPicturesError
from ena24ssd.checkup import EVERY_NOTICE, EVERY_RULE, check_dataset
from ena24ssd.config import DataConfig


@pytest.fixture
def folder(scenes, tmp_path):
    """A dataset to break: 48 pictures."""
    shutil.copytree(scenes, tmp_path / "scenes")
    return tmp_path / "scenes"


def change(folder, edit) -> None:
    file = folder / "scenes.json"
    document = json.loads(file.read_text())
    edit(document)
    file.write_text(json.dumps(document))


def first_picture(folder):
    document = json.loads((folder / "scenes.json").read_text())
    return folder / "images" / document["images"][0]["file_name"]


def test_a_sound_dataset_has_no_problems_however_deep_one_looks(scenes):
    for deep in (False, True):
        found = check_dataset(DataConfig(path=scenes), deep=deep)
        assert found.problems == () and found.lossless and len(found.dataset.images) == 48
    assert found.looked_at == "the json and every picture"


def test_a_truncated_picture_is_seen_by_a_deep_look_only(folder):
    file = first_picture(folder)
    file.write_bytes(file.read_bytes()[:2000])
    assert check_dataset(DataConfig(path=folder)).problems == ()
    seen = []

    def progress(jobs):
        for job in jobs:
            seen.append(job)
            yield job

    found = check_dataset(DataConfig(path=folder), deep=True, progress=progress)
    assert [problem.rule for problem in found.problems] == ["picture-unreadable"]
    assert not found.lossless and not found.passed and len(seen) == 48
    assert len(found.dataset.images) == 47, "what is left out is not counted as usable"
    assert file.name in found.problems[0].file_name and "left out" in found.problems[0].detail


def test_notices_cost_nothing(folder):
    def overrun(document):
        box = document["annotations"][0]["bbox"]
        width = next(i for i in document["images"] if i["id"] == document["annotations"][0]["image_id"])["width"]
        box[2] = width - box[0] + 0.01

    change(folder, overrun)
    found = check_dataset(DataConfig(path=folder))
    assert list(found.by_rule) == ["box-overrun"] and found.lossless


def test_its_plain_data_counts_by_rule_with_examples(folder):
    def harm(document):
        for annotation in document["annotations"][:7]:
            annotation["bbox"][2] = -3

    change(folder, harm)
    found = check_dataset(DataConfig(path=folder))
    document = json.loads(json.dumps(found.to_json(examples=2)))
    (problem,) = document["problems"]
    assert problem["rule"] == "box-without-area" and not problem["notice"] and len(problem["examples"]) == 2
    assert problem["count"] == len(found.problems) and problem["meaning"] == EVERY_RULE["box-without-area"]
    assert "-3" in problem["examples"][0]["detail"]
    assert document["pictures"] == len(found.dataset.images) and not document["lossless"]
    assert sum(document["species"].values()) == document["boxes"]


def test_without_pictures_near_the_json_it_alone_is_looked_at(folder, tmp_path):
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(folder / "scenes.json", alone)
    found = check_dataset(DataConfig(path=alone))
    assert found.looked_at == "the json alone" and len(found.dataset.images) == 48
    assert found.lossless and not found.passed and "none of its first 48 pictures" in found.not_found
    assert check_dataset(DataConfig(path=alone), json_alone=True).passed


@pytest.mark.parametrize(
    "choice, error",
    [
        pytest.param({"deep": True}, NoPicturesError, id="a deep look needs pictures"),
        pytest.param({"deep": True, "json_alone": True}, ValueError, id="a deep look at the json alone"),
    ],
)
def test_a_deep_look_at_no_pictures_is_refused(folder, tmp_path, choice, error):
    shutil.copy(folder / "scenes.json", tmp_path)
    with pytest.raises(error):
        check_dataset(DataConfig(path=tmp_path / "scenes.json"), **choice)


def test_a_named_picture_folder_must_hold_pictures(folder, tmp_path):
    with pytest.raises(AnnotationError):
        check_dataset(DataConfig(path=folder, pictures=tmp_path / "nowhere"))


def test_every_notice_is_a_rule():
    assert EVERY_RULE.keys() > EVERY_NOTICE


def test_ena24_has_its_48_overruns_and_585_mixed_pictures_and_nothing_else(shared_data):
    found = check_dataset(DataConfig(path=shared_data / "ena24" / "ena24.json"))
    assert {rule: len(problems) for rule, problems in found.by_rule.items()} == {"box-overrun": 48}
    assert found.lossless and found.dataset.mixed == 585 and len(found.dataset.images) == 9676
    assert found.looked_at == "the json alone"


def test_the_fourteen_real_pictures_are_sound(shared_data):
    found = check_dataset(DataConfig(path=shared_data / "ena24-dev14"), deep=True)
    assert found.lossless and len(found.dataset.images) == 14
