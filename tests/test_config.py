"""Which choices make a run, and what does a wrong one say?"""

from __future__ import annotations

from pathlib import Path

import pytest

from ena24ssd.config import ConfigError, RunConfig, check_config, dump_config, flatten_config, read_config

PRESETS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_every_preset_is_valid_and_survives_being_written(preset, tmp_path):
    config = read_config(preset)
    (tmp_path / "again.yaml").write_text(dump_config(config))
    assert read_config(tmp_path / "again.yaml") == config


@pytest.mark.parametrize(
    "path, value",
    [
        ("model.sizes", (0.27, 0.44, 0.52, 0.62, 0.71, 0.85)),
        ("model.ratios", (1, 1.5, 2, 2.2)),
        ("model.width", 1.0),
        ("model.output_batchnorm", True),
        ("data.image_side", 200),
        ("data.max_boxes", 8),
        *((f"augment.{name}", 0) for name in ("flip", "crop", "expand", "light", "colour", "infrared")),
        ("data.mean", (0.485, 0.456, 0.406)),
        ("data.std", (0.229, 0.224, 0.225)),
        ("split.kind", "listing"),
        ("split.train", 0.8),
        ("loss.foreground_weight", 900),
        ("loss.background_weight", 1),
        ("loss.box_weight", 2),
        ("loss.box_error", "l1"),
        ("loss.normalise_by", "anchors"),
        ("loss.negatives_per_positive", None),
        ("optim.name", "sgd"),
        ("optim.lr", 0.01),
        ("optim.momentum", 0),
        ("optim.clip_norm", None),
        ("optim.schedule", "divide_when_loss_rises"),
        ("optim.divide_by", 5),
        ("train.batch", 8),
        ("train.epochs", 50),
        ("train.drop_last", True),
    ],
)
def test_blog_yaml_holds_the_posts_hyper_parameters(path, value):
    config = read_config(Path(__file__).parents[1] / "configs" / "blog.yaml")
    section, field = path.split(".")
    assert getattr(getattr(config, section), field) == value


@pytest.mark.parametrize(
    "override, path, value",
    [
        ("optim.lr=0.005", "optim.lr", 0.005),
        ("optim.lr=1e-3", "optim.lr", 0.001),  # YAML 1.1 reads this as text; it must still be a number
        ("model.sizes=[0.1, 0.2]", "model.sizes", (0.1, 0.2)),
        ("data.max_boxes=null", "data.max_boxes", None),
        ("data.path=/somewhere", "data.path", Path("/somewhere")),
        ("data.exclude_species=[Human]", "data.exclude_species", ("Human",)),
    ],
)
def test_an_override_lays_one_value_over_the_preset(override, path, value):
    section, field = path.split(".")
    assert getattr(getattr(read_config(overrides=[override]), section), field) == value


@pytest.mark.parametrize(
    "choices, words",
    [
        ({"optim": {"lr": 0}}, ["optim.lr", "greater than 0", "got 0"]),
        ({"optim": {"rate": 1}}, ["optim.rate", "no such field"]),
        ({"optimizer": {}}, ["optimizer", "no such field"]),
        ({"split": {"train": 0.9, "test": 0.2}}, ["split", "add up to 1"]),
        ({"device": "cuda"}, ["device", "got 'cuda'"]),
        ({"data": {"image_side": 4}, "train": {"epochs": 0}}, ["2 mistake", "data.image_side", "train.epochs"]),
        ({"model": {"sizes": []}}, ["model.sizes"]),
        ({"optim": {"lr": float("nan")}}, ["optim.lr", "finite"]),
    ],
)
def test_a_mistake_is_named_by_its_dotted_path_and_all_at_once(choices, words):
    with pytest.raises(ConfigError) as caught:
        check_config(choices, "x.yaml")
    for word in ["x.yaml", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "content, word",
    [(b"a: [1", "cannot be read as YAML"), (b"- 1\n- 2\n", "mapping"), (b"\xff\xfe\x00", "cannot be read as YAML")],
)
def test_a_file_that_is_no_config_says_so(tmp_path, content, word):
    (tmp_path / "bad.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=word):
        read_config(tmp_path / "bad.yaml")


@pytest.mark.parametrize("override", ["optim.lr", "=3", "optim.lr.deep=3", "optim.lr=[1"])
def test_an_override_that_does_not_parse_says_how_to_write_one(override):
    with pytest.raises(ConfigError, match="override"):
        read_config(overrides=["optim.lr=0.1", override])


def test_a_config_cannot_be_changed():
    with pytest.raises(Exception, match="frozen"):
        RunConfig().seed = 1


@pytest.mark.parametrize(
    "override, words",
    [
        ("train.batch=autp", r"1 mistake\(s\)\n  train\.batch: .*auto.* \(got 'autp'\)"),
        ("device=cuda", r"1 mistake\(s\)\n  device: .* \(got 'cuda'\)"),
        ("loss.species_weights={Fox: -1}", r"1 mistake\(s\)\n  loss\.species_weights: "),
        ("kvstore=dist_sync train.batch=auto", "kvstore with train.batch auto"),
    ],
    ids=["a number or a word", "a name or a list", "a word or a mapping", "two fields that do not go together"],
)
def test_a_field_of_several_kinds_is_one_mistake_under_its_own_name(override, words):
    with pytest.raises(ConfigError, match=words):
        read_config(overrides=override.split() if "dist" in override else [override])


def test_flattened_choices_have_dotted_paths_and_mappings_are_values():
    flat = flatten_config(read_config(overrides=["loss.species_weights={Fox: 2}"]))
    assert flat["optim.lr"] == 0.002 and flat["loss.species_weights"] == {"Fox": 2.0} and flat["device"] == "auto"
