"""Which pictures does a run use, and which side is each on?"""

from __future__ import annotations

import json
import shutil

import pytest

from ena24ssd.cameratraps import AnnotationError
from ena24ssd.choosing import choose_split
from ena24ssd.config import DataConfig, SplitConfig
from ena24ssd.sources import read_source


def document(scenes, keep):
    whole = json.loads((scenes / "scenes.json").read_text())
    images = [image for image in whole["images"] if keep(image)]
    ids = {image["id"] for image in images}
    boxes = [annotation for annotation in whole["annotations"] if annotation["image_id"] in ids]
    return {**whole, "images": images, "annotations": boxes}


@pytest.fixture
def parted(scenes, tmp_path):
    """A folder that brings its own split: pictures of the first cameras train, of the last validate."""
    cameras = sorted({image["location"] for image in document(scenes, bool)["images"]})
    shutil.copytree(scenes / "images", tmp_path / "images")
    (tmp_path / "train.json").write_text(json.dumps(document(scenes, lambda i: i["location"] in cameras[:4])))
    (tmp_path / "valid.json").write_text(json.dumps(document(scenes, lambda i: i["location"] in cameras[4:])))
    return tmp_path


def test_a_folder_with_one_json_is_read_and_split_as_configured(scenes):
    source = read_source(DataConfig(path=scenes))
    assert len(source.dataset.images) == 48 and source.split is None
    split = choose_split(source, SplitConfig(kind="grouped", train=0.5, validation=0.2, test=0.3), 0).split
    camera = {image.id: image.location for image in source.dataset.images}
    sides = [{camera[i] for i in side} for side in (split.train, split.validation, split.test)]
    assert sum(map(len, sides)) == 6 == len(set.union(*sides)), "no camera is on two sides"


def test_a_json_may_be_named_itself(scenes):
    assert len(read_source(DataConfig(path=scenes / "scenes.json")).dataset.images) == 48


def test_a_folder_with_train_and_valid_brings_its_own_split(parted):
    source = read_source(DataConfig(path=parted))
    split = choose_split(source, SplitConfig(kind="listing"), 0).split
    assert split.train and split.validation and not split.test
    assert all(image_id.startswith("train/") for image_id in split.train)
    assert {image.id for image in source.dataset.images} == {*split.train, *split.validation}
    assert all(source.dataset.path(image).exists() for image in source.dataset.images)


def test_labels_follow_names_where_the_files_number_them_differently(parted):
    valid = json.loads((parted / "valid.json").read_text())
    count = len(valid["categories"])
    for category in valid["categories"]:
        category["id"] = count - 1 - category["id"]
    for annotation in valid["annotations"]:
        annotation["category_id"] = count - 1 - annotation["category_id"]
    before = {image.id: image.boxes for image in read_source(DataConfig(path=parted)).dataset.images}
    (parted / "valid.json").write_text(json.dumps(valid))
    assert {image.id: image.boxes for image in read_source(DataConfig(path=parted)).dataset.images} == before


def test_excluded_species_leave_both_dataset_and_split(parted):
    source = read_source(DataConfig(path=parted))
    name = source.dataset.class_names[
        source.dataset.images[-1].boxes[0].label if source.dataset.images[-1].boxes else 0
    ]
    less = read_source(DataConfig(path=parted, exclude_species=(name,)))
    label = less.dataset.class_names.index(name)
    assert all(box.label != label for image in less.dataset.images for box in image.boxes)
    kept = {image.id for image in less.dataset.images}
    assert {*less.split.train, *less.split.validation} == kept < {image.id for image in source.dataset.images}


def test_files_of_a_split_must_list_the_same_species(parted):
    valid = json.loads((parted / "valid.json").read_text())
    valid["categories"][0]["name"] = "Yeti"
    (parted / "valid.json").write_text(json.dumps(valid))
    with pytest.raises(AnnotationError, match="Yeti"):
        read_source(DataConfig(path=parted))


def test_a_picture_on_two_sides_stays_on_the_first_and_is_reported(parted):
    valid, train = (json.loads((parted / f"{side}.json").read_text()) for side in ("valid", "train"))
    valid["images"].append(train["images"][0] | {"id": "again"})
    (parted / "valid.json").write_text(json.dumps(valid))
    source = read_source(DataConfig(path=parted))
    assert "validation/again" not in source.split.validation and source.dataset.path(source.dataset.images[0]).exists()
    assert source.dataset.problem_counts() == {"duplicate-file-name": 1}


@pytest.mark.parametrize("content, words", [([], "found none"), (["a.json", "b.json"], r"a\.json, b\.json")])
def test_a_folder_that_does_not_say_which_json_is_asked_to(tmp_path, content, words):
    for name in content:
        (tmp_path / name).write_text("{}")
    with pytest.raises(AnnotationError, match=words):
        read_source(DataConfig(path=tmp_path))


@pytest.mark.parametrize("path, words", [(None, "--data"), ("absent", "no such file")])
def test_no_data_says_how_to_give_some(tmp_path, path, words):
    with pytest.raises(AnnotationError, match=words):
        read_source(DataConfig(path=path and tmp_path / path))


def test_real_data_with_its_own_split(shared_data):
    source = read_source(DataConfig(path=shared_data / "wild6"))
    assert (len(source.split.train), len(source.split.validation), len(source.split.test)) == (433, 116, 0)
