"""Which split does a run get, and is what is doubtful about it said?"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from ena24ssd.choosing import SPLIT_RULES, choose_split
from ena24ssd.config import DataConfig, SplitConfig
from ena24ssd.sources import Source, read_source
from ena24ssd.synthetic import write_dataset

SHARES = SplitConfig(train=0.5, validation=0.2, test=0.3)


@pytest.fixture(scope="module")
def one_camera(tmp_path_factory):
    """A source of 40 pictures of one camera."""
    folder = tmp_path_factory.mktemp("one")
    write_dataset(folder / "one", images=40, cameras=1, size=(160, 120), seed=5)
    return read_source(DataConfig(path=folder / "one"))


def without(source: Source, **fields) -> Source:
    images = tuple(image._replace(**fields) for image in source.dataset.images)
    return Source(replace(source.dataset, images=images), None)


def save(split, path):
    path.write_text(json.dumps(split.to_json()))
    return SplitConfig(file=path)


def test_a_saved_split_is_used_as_it_is(scenes, tmp_path):
    source = read_source(DataConfig(path=scenes))
    made = choose_split(source, SplitConfig(kind="random"), 3).split
    assert choose_split(source, save(made, tmp_path / "split.json"), 9) == (made, ())


def test_a_saved_split_serves_a_dataset_less_some_species(scenes, tmp_path):
    whole = read_source(DataConfig(path=scenes))
    species = whole.dataset.class_names[0]
    some = read_source(DataConfig(path=scenes, exclude_species=(species,)))
    chosen = choose_split(some, save(choose_split(whole, SHARES, 0).split, tmp_path / "split.json"), 0)
    assert not chosen.problems
    ids = {key for side in chosen.split.to_json().values() for key in side}
    assert ids == {image.id for image in some.dataset.images} and some.excluded and not ids & some.excluded


def test_pictures_on_no_side_of_a_saved_split_are_counted(scenes, tmp_path):
    source = read_source(DataConfig(path=scenes))
    made = choose_split(source, SHARES, 0).split
    (problem,) = choose_split(source, save(replace(made, test=()), tmp_path / "split.json"), 0).problems
    assert problem.rule == "on-no-side" and f"{len(made.test)} of 48 pictures of scenes.json" in problem.detail


@pytest.mark.parametrize(
    "content, words",
    [
        (None, "is not a saved split"),
        ("[]", "is not a saved split"),
        ("[" * 100_000, "is not a saved split"),
        ('{"train": ["nobody"], "validation": [], "test": []}', "first: 'nobody'.*scenes.json"),
    ],
    ids=["no such file", "no split", "nested too deeply", "of other data"],
)
def test_what_is_no_split_of_this_data_says_so(scenes, tmp_path, content, words):
    if content is not None:
        (tmp_path / "split.json").write_text(content)
    with pytest.raises(ValueError, match=words):
        choose_split(read_source(DataConfig(path=scenes)), SplitConfig(file=tmp_path / "split.json"), 0)


def test_pictures_are_looked_at_only_where_the_json_names_no_camera(scenes, tmp_path):
    source = read_source(DataConfig(path=scenes))
    choose_split(source, SHARES, 0, tmp_path)
    assert not list(tmp_path.iterdir())
    bare = without(source, location=None, sequence=None)
    split = choose_split(bare, SHARES, 0, tmp_path).split
    assert list(tmp_path.iterdir()), "what was seen is kept"
    assert split == choose_split(bare, SHARES, 0, tmp_path).split
    bursts = {image.id: image.sequence for image in source.dataset.images}
    sides = [{bursts[key] for key in getattr(split, side)} for side in ("train", "validation", "test")]
    assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]


def test_one_camera_is_split_by_its_sequences_and_said_to_show_no_new_place(one_camera, tmp_path):
    split, (problem,) = choose_split(one_camera, SHARES, 0, tmp_path)
    assert problem.rule == "too-few-cameras" and "scenes.json has 1 camera for 3 sides" in problem.detail
    sequence = {image.id: image.sequence for image in one_camera.dataset.images}
    assert not {sequence[key] for key in split.train} & {sequence[key] for key in split.test}
    assert split.train and split.validation and split.test


def test_a_split_that_leaks_because_groups_were_cut_says_so(one_camera, tmp_path):
    names = {"location": None, "sequence": None}
    split, problems = choose_split(without(one_camera, **names), SHARES, 0, tmp_path)
    (problem,) = problems
    assert (
        problem.rule == "twins-in-train" and f"of {len(split.validation) + len(split.test)} pictures" in problem.detail
    )


def test_every_doubt_has_a_rule(scenes):
    assert all(text.count(". ") >= 1 for text in SPLIT_RULES.values())


def test_a_split_report_beside_the_annotations_is_not_taken_for_them(scenes, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(scenes, folder)
    save(choose_split(read_source(DataConfig(path=folder)), SHARES, 0).split, folder / "split.json")
    assert read_source(DataConfig(path=folder)).dataset.name == "scenes.json"
