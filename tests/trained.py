"""Which run do several test files look at?"""

from __future__ import annotations

from ena24ssd.config import read_config

EPOCHS = 3
SMALL = (
    *("device=cpu", "data.image_side=64", "model.width=0.05", "model.sizes=[0.2,0.35,0.6]", "model.ratios=[1,1.5]"),
    *("split.kind=grouped", "split.train=0.5", "split.validation=0.2", "split.test=0.3"),
    *(f"train.epochs={EPOCHS}", "optim.name=adam", "optim.lr=0.01", "log.pictures=2", "seed=1"),
)


def small_config(scenes, *overrides):
    return read_config(None, [f"data.path={scenes}", *SMALL, *overrides])
