"""Does TensorBoard read what the board wrote of an evaluation?  Through its own reader."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("mxnet", reason="the gluon extra is not installed", exc_type=ImportError)

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.pr_curve import metadata as pr_curve_metadata
from tensorboard.util.tensor_util import make_ndarray
from test_tally import FIVE, LEFT, RIGHT, SPECIES, cases_of, random_cases

from ena24ssd.cases import Cases
from ena24ssd.gluon.board import MxBoard
from ena24ssd.logbook import THRESHOLDS, log_evaluation
from ena24ssd.matching import match
from ena24ssd.ranking import pooled_curve, species_curves

STEPS = np.linspace(0, 1, THRESHOLDS)
ROWS = ("right", "wrong", "rightly left out", "missed", "precision", "recall")  # in the order TensorBoard's plugin has


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0, "scalars": 0})
    events.Reload()
    return events


def curves_of(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Every curve's rows, by its tag."""
    events = read(folder)
    curves = {}
    for tag in events.Tags()["tensors"]:
        (event,) = events.Tensors(tag)
        curves[tag] = dict(zip(ROWS, make_ndarray(event.tensor_proto), strict=True))
    return curves


def write_curve(folder: Path, right: list[int], wrong: list[int], boxes: int, tag: str = "fox", step: int = 7) -> None:
    board = MxBoard(folder, None)
    board.pr_curve(tag, np.array(right), np.array(wrong), boxes, step)
    board.flush()
    board.close()


# -- one curve ---------------------------------------------------------------------------------------------------------

CURVES = {
    "detections that get fewer as the threshold rises": (
        ([3, 2, 0], [5, 1, 0], 4),
        {
            "rightly left out": [0, 4, 5],
            "missed": [1, 2, 4],
            "precision": [3 / 8, 2 / 3, 1],
            "recall": [3 / 4, 2 / 4, 0],
        },
    ),
    "nothing found: nothing shown is nothing wrong": (
        ([0, 0, 0], [0, 0, 0], 2),
        {"rightly left out": [0, 0, 0], "missed": [2, 2, 2], "precision": [1, 1, 1], "recall": [0, 0, 0]},
    ),
    "nothing to find": (
        ([0, 0, 0], [4, 1, 0], 0),
        {"rightly left out": [0, 3, 4], "missed": [0, 0, 0], "precision": [0, 0, 1], "recall": [0, 0, 0]},
    ),
    "all right": (
        ([2, 2, 2], [0, 0, 0], 2),
        {"rightly left out": [0, 0, 0], "missed": [0, 0, 0], "precision": [1, 1, 1], "recall": [1, 1, 1]},
    ),
}


@pytest.mark.parametrize(("written", "expected"), CURVES.values(), ids=CURVES)
def test_a_curve_is_read_back_as_it_was_written(tmp_path, written, expected):
    write_curve(tmp_path, *written)
    (curve,) = curves_of(tmp_path).values()
    assert curve["right"].tolist() == written[0] and curve["wrong"].tolist() == written[1]
    for name, values in expected.items():
        assert curve[name] == pytest.approx(values), name
        assert curve[name].dtype == np.float32


def test_tensorboard_takes_it_for_a_precision_recall_curve(tmp_path):
    write_curve(tmp_path, [1, 0], [1, 0], 1, tag="Precision_recall_test/Wild cat, 狐", step=12)
    events = read(tmp_path)
    (tag,) = events.Tags()["tensors"]
    (event,) = events.Tensors(tag)
    assert (tag, event.step) == ("Precision_recall_test/Wild cat, 狐", 12)
    assert make_ndarray(event.tensor_proto).shape == (len(ROWS), 2)
    order = ("TRUE_POSITIVES", "FALSE_POSITIVES", "TRUE_NEGATIVES", "FALSE_NEGATIVES", "PRECISION", "RECALL")
    assert [getattr(pr_curve_metadata, f"{name}_INDEX") for name in order] == [*range(len(ROWS))]
    metadata = events.SummaryMetadata(tag)
    assert metadata.plugin_data.plugin_name == pr_curve_metadata.PLUGIN_NAME
    content = pr_curve_metadata.parse_plugin_metadata(events.PluginTagToContent("pr_curves")[tag])
    assert content.num_thresholds == 2


def test_curves_of_many_species_and_steps_do_not_mix(tmp_path):
    board = MxBoard(tmp_path, None)
    for tag, boxes in (("fox", 1), ("deer", 2)):
        for step in (0, 1):
            board.pr_curve(tag, np.array([step, 0]), np.array([0, 0]), boxes, step)
    board.close()
    events = read(tmp_path)
    for tag, boxes in (("fox", 1), ("deer", 2)):
        points = [(event.step, make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)]
        assert [step for step, _ in points] == [0, 1]
        assert [(rows[0, 0], rows[5, 0]) for _, rows in points] == [(step, step / boxes) for step in (0, 1)]


# -- those of an evaluation --------------------------------------------------------------------------------------------


def log(folder: Path, cases: Cases, figures: dict[str, float], epoch: int = 4, side: str = "test") -> Path:
    """With as much of an engine and of a run as is asked for; returns where it wrote."""
    engine, run = (
        SimpleNamespace(open_board=lambda place: MxBoard(place, None)),
        SimpleNamespace(evaluation_folder=lambda side: folder / f"evaluation-{side}"),
    )
    log_evaluation(engine, run, side, epoch, cases, figures)
    return folder / f"evaluation-{side}"


NUMBER = {name: label for label, name in enumerate(SPECIES)}
SCENES = {
    "five pictures": FIVE,
    "random pictures": random_cases(3),
    "equal scores": cases_of(([("fox", LEFT)], [("fox", 0.5, LEFT), ("fox", 0.5, RIGHT)]), ([], [("fox", 0.5, LEFT)])),
    "scores of exactly 0 and 1": cases_of(([("fox", LEFT)], [("fox", 1, LEFT), ("fox", 0, RIGHT)])),
    "nothing found": cases_of(([("fox", LEFT)], []), ([], [])),
    "more than a hundred detections of a species": cases_of(
        ([("fox", RIGHT)], [("fox", 0.99, LEFT)] * 104 + [("fox", 0.6, RIGHT)])
    ),
}


@pytest.mark.parametrize("cases", SCENES.values(), ids=SCENES)
def test_the_curves_of_an_evaluation_are_those_of_its_detections(tmp_path, cases):
    curves = curves_of(log(tmp_path, cases, {}))
    matches = match(cases)
    names = [name for name, boxes in zip(cases.class_names, cases.boxes_of_species) if boxes]
    assert list(curves) == [f"Precision_recall_test/{name}" for name in ("(all species)", *names)]
    by_name = {
        "(all species)": pooled_curve(cases, matches),
        **dict(zip(cases.class_names, species_curves(cases, matches))),
    }
    for tag, curve in curves.items():
        name = tag.split("/")[1]
        mine = matches.counted & ((cases.found.label == NUMBER.get(name)) | (name == "(all species)"))
        for kind, row in ((True, "right"), (False, "wrong")):
            scores = cases.found.score[mine & (matches.right[0] == kind)]
            assert curve[row].tolist() == [int((scores >= step).sum()) for step in STEPS]
        whole = by_name[name]
        for place, step in enumerate(STEPS):  # at a threshold stands what the last score that reaches it has
            reached = np.flatnonzero(whole.scores >= step)
            precision, recall = (whole.precision[reached[-1]], whole.recall[reached[-1]]) if len(reached) else (1, 0)
            assert (curve["precision"][place], curve["recall"][place]) == pytest.approx((precision, recall), rel=1e-6)


def test_no_animal_leaves_the_curve_of_all_species_alone(tmp_path):
    (tag,) = curves_of(log(tmp_path, cases_of(([], [("fox", 0.9, LEFT)])), {}))
    assert tag == "Precision_recall_test/(all species)"


def test_every_figure_that_is_a_number_is_a_curve_of_one_point(tmp_path):
    figures = {"detection/map50": 0.25, "ap50/Wild cat": 0.5, "blank/specificity": float("nan"), "detection/boxes": 4}
    events = read(log(tmp_path, FIVE, figures, epoch=11))
    points = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert points == {
        "Evaluation_test/detection/map50": [(11, 0.25)],
        "Evaluation_test/ap50/Wild_cat": [(11, 0.5)],
        "Evaluation_test/detection/boxes": [(11, 4)],
    }


def test_a_later_evaluation_takes_the_place_of_an_earlier_one_of_its_split(tmp_path):
    for side, epoch in (("test", 3), ("validation", 3), ("test", 9)):
        log(tmp_path, FIVE, {"detection/map50": 0.5}, epoch, side)
    for side, epoch in (("test", 9), ("validation", 3)):
        events = read(tmp_path / f"evaluation-{side}")
        assert [event.step for event in events.Scalars(f"Evaluation_{side}/detection/map50")] == [epoch]
        assert [event.step for event in events.Tensors(f"Precision_recall_{side}/fox")] == [epoch]


def test_where_the_board_cannot_be_written_the_evaluation_goes_on(tmp_path, capsys):
    (tmp_path / "board").write_text("no folder")
    log(tmp_path / "board", FIVE, {"detection/map50": 0.5})
    said = "".join(capsys.readouterr())
    assert "evaluation-test: " in said and "The evaluation goes on without TensorBoard's curves" in said
