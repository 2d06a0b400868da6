"""What may the outside world use?

These names; each is imported when it is first asked for, so that `import ena24ssd` costs nothing and needs no
framework.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ena24ssd.assessment import evaluate
    from ena24ssd.cameratraps import read as read_dataset
    from ena24ssd.checkup import check_dataset
    from ena24ssd.comparison import compare_runs
    from ena24ssd.config import RunConfig, read_config
    from ena24ssd.contest import compare_models
    from ena24ssd.conversion import convert
    from ena24ssd.curves import draw_curves
    from ena24ssd.detector import Detector
    from ena24ssd.doctor import examine as examine_machine
    from ena24ssd.download import download as download_ena24
    from ena24ssd.exports import export_run
    from ena24ssd.outcome import Wanted
    from ena24ssd.prediction import Handling, Reading, predict
    from ena24ssd.report import explore
    from ena24ssd.runs import open_run
    from ena24ssd.synthetic import write_dataset
    from ena24ssd.training import resume, train

__version__ = "0.1.0"

__all__ = [
    "Detector",
    "Handling",
    "Reading",
    "RunConfig",
    "Wanted",
    "check_dataset",
    "compare_models",
    "compare_runs",
    "convert",
    "download_ena24",
    "draw_curves",
    "evaluate",
    "examine_machine",
    "explore",
    "export_run",
    "open_run",
    "predict",
    "read_config",
    "read_dataset",
    "resume",
    "train",
    "write_dataset",
]

_HOMES = {
    "Detector": ("detector", "Detector"),
    "Handling": ("prediction", "Handling"),
    "Reading": ("prediction", "Reading"),
    "RunConfig": ("config", "RunConfig"),
    "Wanted": ("outcome", "Wanted"),
    "check_dataset": ("checkup", "check_dataset"),
    "compare_models": ("contest", "compare_models"),
    "compare_runs": ("comparison", "compare_runs"),
    "convert": ("conversion", "convert"),
    "download_ena24": ("download", "download"),
    "draw_curves": ("curves", "draw_curves"),
    "evaluate": ("assessment", "evaluate"),
    "examine_machine": ("doctor", "examine"),
    "explore": ("report", "explore"),
    "export_run": ("exports", "export_run"),
    "open_run": ("runs", "open_run"),
    "predict": ("prediction", "predict"),
    "read_config": ("config", "read_config"),
    "read_dataset": ("cameratraps", "read"),
    "resume": ("training", "resume"),
    "train": ("training", "train"),
    "write_dataset": ("synthetic", "write_dataset"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ena24ssd' has no attribute {name!r}; it has {', '.join(__all__)}")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(f"ena24ssd.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
