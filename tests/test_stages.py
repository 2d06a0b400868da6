"""What learns in which epoch, and how far does its average follow?"""

from __future__ import annotations

import pytest

from ena24ssd.averages import kept_share
from ena24ssd.config import ModelConfig, OptimConfig, read_config
from ena24ssd.stages import Stage, changes, learns, rate_of, stage_of

PYRAMID = {"levels": (16, 32), "sizes": ((0.2,), (0.5,)), "ratios": (1.0, 2.0)}
LITE = {f"lite{size}": ModelConfig(backbone=f"efficientnet_lite{size}", **PYRAMID) for size in (0, 1, 2)}
POST = ModelConfig()


@pytest.mark.parametrize(
    "network, share, first",
    [
        pytest.param("lite0", 0.33, 11, id="a third of 16 blocks"),
        pytest.param("lite0", 0.5, 8, id="half of them"),
        pytest.param("lite0", 0.01, 16, id="less than half a block is none"),
        pytest.param("lite0", 0.99, 0, id="nearly all: every block, but not the stem"),
        pytest.param("lite1", 0.33, 14, id="a third of the 21 of a larger one"),
        pytest.param("lite2", 0.33, 14, id="and of the largest, which has as many"),
    ],
)
def test_the_last_blocks_of_a_backbone_learn_first(network, share, first):
    for block in range(16 if network == "lite0" else 21):
        for part in ("depthwise.conv.weight", "project.norm.gamma"):
            assert learns(f"features.blocks.{block}.{part}", share, LITE[network]) == (block >= first), block
    assert not learns("features.stem.conv.weight", share, LITE[network])


@pytest.mark.parametrize(
    "name, share, model, expected",
    [
        pytest.param("features.stem.conv.weight", 1, LITE["lite0"], True, id="all of it is the stem, too"),
        pytest.param("features.blocks.15.project.conv.weight", 0, LITE["lite0"], False, id="none is not even the last"),
        pytest.param("pyramid.lateral.0.conv.weight", 0, LITE["lite0"], True, id="the pyramid always learns"),
        pytest.param("class_predict.0.bias", 0, LITE["lite0"], True, id="the heads always learn"),
        pytest.param("features.conv31.weight", 0, POST, False, id="the post's backbone stays"),
        pytest.param("features.conv31.weight", 0.1, POST, True, id="or learns as a whole: it has no blocks"),
        pytest.param("bbox_predict.9.weight", 0, POST, True, id="the post's heads always learn"),
    ],
)
def test_what_learns(name, share, model, expected):
    assert learns(name, share, model) is expected


@pytest.mark.parametrize(
    "frozen, backbone, heads",
    [(False, True, True), ("backbone", False, True), (True, False, False)],
    ids=["no statistics frozen", "those of the backbone", "all"],
)
def test_statistics_change_unless_they_are_frozen_whatever_learns(frozen, backbone, heads):
    model = POST.model_copy(update={"frozen_statistics": frozen})
    for share in (0, 1):
        assert changes("features.bn1.running_mean", share, model) is backbone
        assert changes("bbox_predict.1.running_var", share, model) is heads
        assert changes("features.bn1.gamma", share, model) is (share == 1)
        assert changes("bbox_predict.1.gamma", share, model)


def test_the_backbone_has_a_rate_of_its_own():
    stage = stage_of(OptimConfig(backbone_rate=0.1), 0, 5)
    assert rate_of("features.conv31.weight", stage) == 0.1 and rate_of("class_predict.0.bias", stage) == 1


ONE, TWO = {"lr": 0.02, "late_lr": 0.003, "late_share": 0.4, "backbone_rate": 0.5}, {"head_epochs": 4}


@pytest.mark.parametrize(
    "choices, epoch, epochs, expected",
    [
        pytest.param({}, 7, 10, Stage(0, 10, 0.02, 0.4, 0.5), id="one stage only: at the rate of the first"),
        pytest.param(TWO, 0, 10, Stage(0, 4, 0.02, 0.0, 0.5), id="the heads' first epoch"),
        pytest.param(TWO, 3, 10, Stage(0, 4, 0.02, 0.0, 0.5), id="and their last"),
        pytest.param(TWO, 4, 10, Stage(4, 6, 0.003, 0.4, 0.5), id="the late stage's first epoch"),
        pytest.param(TWO, 9, 10, Stage(4, 6, 0.003, 0.4, 0.5), id="and its last"),
        pytest.param(TWO, 2, 3, Stage(0, 3, 0.02, 0.0, 0.5), id="a run that ends within the first stage"),
        pytest.param(TWO, 4, 4, Stage(4, 1, 0.003, 0.4, 0.5), id="no epoch is left for the second"),
    ],
)
def test_an_epoch_is_of_a_stage(choices, epoch, epochs, expected):
    assert stage_of(OptimConfig(**ONE, **choices), epoch, epochs) == expected


def test_presets_of_before_have_one_stage_in_which_everything_learns():
    config = read_config("configs/blog.yaml")
    stage = stage_of(config.optim, 0, config.train.epochs)
    assert stage == (0, config.train.epochs, config.optim.lr, 1.0, 1.0)
    assert learns("features.conv31.weight", stage.share, config.model)


@pytest.mark.parametrize(
    "update, share",
    [(1, 2 / 11), (2, 0.25), (10, 0.55), (80, 0.9), (81, 0.9), (10**9, 0.9)],
    ids=["the first", "the second", "the tenth", "as long as it is young", "then what was asked for", "for ever"],
)
def test_an_average_keeps_little_while_there_is_little_to_keep(update, share):
    assert kept_share(0.9, update) == pytest.approx(share)
