"""Which pictures does a run use, and which side is each on?"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from ena24ssd.cameratraps import AnnotationError
from ena24ssd.config import DataConfig, SplitConfig
from ena24ssd.sources import Source, read_source


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
    split = source.choose(SplitConfig(kind="grouped", train=0.5, validation=0.2, test=0.3), seed=0)
    camera = {image.id: image.location for image in source.dataset.images}
    sides = [{camera[i] for i in side} for side in (split.train, split.validation, split.test)]
    assert sum(map(len, sides)) == 6 == len(set.union(*sides)), "no camera is on two sides"


def test_a_json_may_be_named_itself(scenes):
    assert len(read_source(DataConfig(path=scenes / "scenes.json")).dataset.images) == 48


def test_a_folder_with_train_and_valid_brings_its_own_split(parted):
    source = read_source(DataConfig(path=parted))
    split = source.choose(SplitConfig(kind="listing"), seed=0)
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


def test_a_saved_split_is_used_as_it_is(scenes, tmp_path):
    source = read_source(DataConfig(path=scenes))
    made = source.choose(SplitConfig(kind="random"), seed=3)
    (tmp_path / "split.json").write_text(json.dumps(made.to_json()))
    assert source.choose(SplitConfig(file=tmp_path / "split.json"), seed=9) == made


@pytest.mark.parametrize(
    "content, words",
    [
        (None, "is not a saved split"),
        ("[]", "is not a saved split"),
        ('{"train": ["nobody"], "validation": [], "test": []}', "first: 'nobody'.*scenes.json"),
    ],
    ids=["no such file", "no split", "of other data"],
)
def test_what_is_no_split_of_this_data_says_so(scenes, tmp_path, content, words):
    if content is not None:
        (tmp_path / "split.json").write_text(content)
    with pytest.raises(ValueError, match=words):
        read_source(DataConfig(path=scenes)).choose(SplitConfig(file=tmp_path / "split.json"), seed=0)


def test_pictures_are_looked_at_only_where_the_json_names_no_camera(scenes, tmp_path):
    source, shares = read_source(DataConfig(path=scenes)), SplitConfig(train=0.5, validation=0.2, test=0.3)
    source.choose(shares, 0, tmp_path)
    assert not list(tmp_path.iterdir())
    nameless = tuple(image._replace(location=None, sequence=None) for image in source.dataset.images)
    bare = Source(replace(source.dataset, images=nameless), None)
    split = bare.choose(shares, 0, tmp_path)
    assert list(tmp_path.iterdir()), "what was seen is kept"
    assert split == bare.choose(shares, 0, tmp_path)
    bursts = {image.id: image.sequence for image in source.dataset.images}
    sides = [{bursts[key] for key in getattr(split, side)} for side in ("train", "validation", "test")]
    assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]
