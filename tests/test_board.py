"""Does TensorBoard read what the boards wrote?  Through its own reader, of every engine's board."""

from __future__ import annotations

import errno
import functools
import importlib
import io
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("tensorboard", reason="no extra with an engine is installed")

from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.pr_curve import metadata as pr_curve_metadata
from tensorboard.util.tensor_util import make_ndarray
from test_tally import FIVE, LEFT, RIGHT, SPECIES, cases_of, random_cases

from ena24ssd.cases import Cases
from ena24ssd.engine import Board
from ena24ssd.logbook import THRESHOLDS, log_evaluation
from ena24ssd.matching import match
from ena24ssd.ranking import pooled_curve, species_curves
from ena24ssd.runs import Run, Standing

STEPS = np.linspace(0, 1, THRESHOLDS)
ROWS = ("right", "wrong", "rightly left out", "missed", "precision", "recall")  # in the order TensorBoard's plugin has


BOARDS = {
    "gluon": ("mxnet", "ena24ssd.gluon.board", "MxBoard", (None,)),
    "pytorch": ("torch", "ena24ssd.pytorch.board", "TorchBoard", (None, None)),
}


def opener(engine: str) -> Callable[[Path], Board]:
    """What opens a board of this engine, without a network. Skips the test where the engine is not installed."""
    framework, module, maker, parts = BOARDS[engine]
    pytest.importorskip(framework, reason=f"the {engine} extra is not installed", exc_type=ImportError)
    board = getattr(importlib.import_module(module), maker)
    return lambda folder: board(folder, *parts)


@pytest.fixture(params=BOARDS)
def open_board(request) -> Callable[[Path], Board]:
    return opener(request.param)


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0, "scalars": 0, "histograms": 0, "images": 0})
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


def write_curve(board: Board, right: list[int], wrong: list[int], boxes: int, tag: str = "fox", step: int = 7) -> None:
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
def test_a_curve_is_read_back_as_it_was_written(open_board, tmp_path, written, expected):
    write_curve(open_board(tmp_path), *written)
    (curve,) = curves_of(tmp_path).values()
    assert curve["right"].tolist() == written[0] and curve["wrong"].tolist() == written[1]
    for name, values in expected.items():
        assert curve[name] == pytest.approx(values), name
        assert curve[name].dtype == np.float32


def test_tensorboard_takes_it_for_a_precision_recall_curve(open_board, tmp_path):
    write_curve(open_board(tmp_path), [1, 0], [1, 0], 1, tag="Precision_recall_test/Wild cat, 狐", step=12)
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


def test_curves_of_many_species_and_steps_do_not_mix(open_board, tmp_path):
    board = open_board(tmp_path)
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


@pytest.fixture
def log(open_board):
    return functools.partial(log_with, open_board)


def log_with(
    open_board, folder: Path, cases: Cases, figures: dict[str, float], epoch: int = 4, side: str = "test"
) -> Path:
    """With as much of an engine and of a run as is asked for; returns where it wrote."""
    engine, run = (
        SimpleNamespace(open_board=open_board),
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
def test_the_curves_of_an_evaluation_are_those_of_its_detections(log, tmp_path, cases):
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


def test_no_animal_leaves_the_curve_of_all_species_alone(log, tmp_path):
    (tag,) = curves_of(log(tmp_path, cases_of(([], [("fox", 0.9, LEFT)])), {}))
    assert tag == "Precision_recall_test/(all species)"


def test_every_figure_that_is_a_number_is_a_curve_of_one_point(log, tmp_path):
    figures = {"detection/map50": 0.25, "ap50/Wild cat": 0.5, "blank/specificity": float("nan"), "detection/boxes": 4}
    events = read(log(tmp_path, FIVE, figures, epoch=11))
    points = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert points == {
        "Evaluation_test/detection/map50": [(11, 0.25)],
        "Evaluation_test/ap50/Wild_cat": [(11, 0.5)],
        "Evaluation_test/detection/boxes": [(11, 4)],
    }


def test_a_later_evaluation_takes_the_place_of_an_earlier_one_of_its_split(log, tmp_path):
    for side, epoch in (("test", 3), ("validation", 3), ("test", 9)):
        log(tmp_path, FIVE, {"detection/map50": 0.5}, epoch, side)
    for side, epoch in (("test", 9), ("validation", 3)):
        events = read(tmp_path / f"evaluation-{side}")
        assert [event.step for event in events.Scalars(f"Evaluation_{side}/detection/map50")] == [epoch]
        assert [event.step for event in events.Tensors(f"Precision_recall_{side}/fox")] == [epoch]


def test_where_the_board_cannot_be_written_the_evaluation_goes_on(log, tmp_path, capsys):
    (tmp_path / "board").write_text("no folder")
    log(tmp_path / "board", FIVE, {"detection/map50": 0.5})
    said = "".join(capsys.readouterr())
    assert "evaluation-test: " in said and "The evaluation goes on without TensorBoard's curves" in said


# -- what else there is to see -----------------------------------------------------------------------------------------

HALF_EMPTY = np.concatenate([np.linspace(-1, 0, 300), np.linspace(3, 3.5, 100)]).astype(np.float32)


def write_all(board: Board) -> None:
    board.text("config", "    seed: 0", 0)
    for step in (0, 1):
        board.scalars("Log_loss", {"train": 3.0 - step, "test": 4.0 - step}, step)
        board.scalar("AP50_test/Wild cat, 狐", step / 2, step)
        board.histogram("features.conv31.weight", HALF_EMPTY, step)
        board.picture("Detections", np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3), step)
    board.flush()
    board.close()


def test_every_tag_is_in_its_folder_and_every_point_at_its_step(open_board, tmp_path):
    write_all(open_board(tmp_path))
    found = {}
    for folder in {file.parent for file in tmp_path.rglob("*tfevents*")}:
        events = read(folder)
        for kind in ("Scalars", "Histograms", "Images", "Tensors"):
            for tag in events.Tags()[kind.lower()]:
                steps = [event.step for event in getattr(events, kind)(tag)]
                found[folder.relative_to(tmp_path).as_posix(), kind, tag] = steps
    assert found == {
        (".", "Scalars", "AP50_test/Wild_cat__狐"): [0, 1],
        (".", "Histograms", "features.conv31.weight"): [0, 1],
        (".", "Images", "Detections"): [0, 1],
        (".", "Tensors", "config"): [0],
        ("Log_loss/train", "Scalars", "Log_loss"): [0, 1],
        ("Log_loss/test", "Scalars", "Log_loss"): [0, 1],
    }


def test_every_value_is_what_was_given(open_board, tmp_path):
    write_all(open_board(tmp_path))
    events = read(tmp_path)
    assert [event.value for event in read(tmp_path / "Log_loss" / "train").Scalars("Log_loss")] == [3, 2]
    (text,) = events.Tensors("config")
    assert make_ndarray(text.tensor_proto).tolist() == [b"    seed: 0"]
    assert events.SummaryMetadata("config").plugin_data.plugin_name == "text"
    with Image.open(io.BytesIO(events.Images("Detections")[0].encoded_image_string)) as picture:
        assert np.array_equal(np.asarray(picture).ravel(), np.arange(5 * 7 * 3))


def test_a_histogram_has_fifty_even_bins(open_board, tmp_path):
    write_all(open_board(tmp_path))
    histogram = read(tmp_path).Histograms("features.conv31.weight")[0].histogram_value
    counts, edges = np.histogram(HALF_EMPTY.astype(float), bins=50)
    assert histogram.bucket[-50:] == counts.tolist() and not any(histogram.bucket[:-50])
    assert histogram.bucket_limit[-50:] == pytest.approx(edges[1:])
    assert (histogram.min, histogram.max, histogram.num) == (-1, 3.5, 400)


# -- going on ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engines", [("gluon",), ("pytorch",), ("gluon", "pytorch")], ids="-".join)
def test_files_of_sittings_within_a_second_are_read_in_their_order(tmp_path, engines):
    """The eleventh and twelfth sort behind the ninth as well."""
    openers = [opener(engine) for engine in engines]
    for step in range(12):
        board = openers[step % len(openers)](tmp_path)
        board.scalars("Log_loss", {"train": step}, step)
        board.close()
    events = read(tmp_path / "Log_loss" / "train")
    assert [(event.step, event.value) for event in events.Scalars("Log_loss")] == [(step, step) for step in range(12)]


def test_what_comes_after_a_kept_state_is_cut_off_and_written_anew(open_board, tmp_path):
    run = Run(tmp_path, None, (), None)
    board = open_board(run.board_folder)
    for step in range(3):
        board.scalars("Accuracy", {"train": step}, step)
        board.scalar("Speed", step, step)
        board.flush()
        if step == 1:
            sizes = run.board_sizes()
    board.scalars("Accuracy", {"validation": 0}, 3)
    board.close()
    run.cut_back(Standing(board=sizes))
    assert run.board_sizes() == sizes
    board = open_board(run.board_folder)
    board.scalars("Accuracy", {"train": 22}, 2)
    board.scalar("Speed", 22, 2)
    board.close()
    for folder, tag in (("Accuracy/train", "Accuracy"), ("", "Speed")):
        events = read(run.board_folder / folder)
        assert [event.value for event in events.Scalars(tag)] == [0, 1, 22]


# -- full disks --------------------------------------------------------------------------------------------------------


@contextmanager
def small_files() -> Iterator[None]:
    """Files cannot grow beyond 300 bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_an_error_of_flush_and_of_nothing_else(open_board, tmp_path, capfd):
    board = open_board(tmp_path)
    board.scalar("Speed", 0, 0)
    board.flush()
    with small_files():
        for step in range(100):
            board.scalar("Speed", step, step)
            board.scalars("Accuracy", {"train": 1}, step)
        for _ in range(2):
            with pytest.raises(OSError) as fault:
                board.flush()
            assert fault.value.errno == errno.EFBIG
        board.close()
    assert capfd.readouterr() == ("", "")


UNFLUSHED = """
import resource, sys
from pathlib import Path
from ena24ssd.pytorch.board import TorchBoard

boards = [TorchBoard(Path(folder), None, None) for folder in sys.argv[1:]]
resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
for step in range(100):
    for board in boards:
        board.scalar("Speed", step, step)
boards[0].close()  # and the other is left to the interpreter's end
"""


def test_a_full_disk_and_no_flush_end_in_silence(tmp_path):
    pytest.importorskip("torch", reason="the pytorch extra is not installed")
    words = [sys.executable, "-c", UNFLUSHED, *(str(tmp_path / name) for name in ("closed", "open"))]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# -- the network's graph -----------------------------------------------------------------------------------------------


def test_the_graph_names_the_layers_and_leaves_the_network_as_it_is(tmp_path, recwarn, capfd):
    torch = pytest.importorskip("torch", reason="the pytorch extra is not installed")
    from ena24ssd.config import ModelConfig
    from ena24ssd.pytorch.board import TorchBoard
    from ena24ssd.pytorch.ssd import Ena24SSD

    net = Ena24SSD(2, ModelConfig(width=0.04))
    net.train()
    net.features.bn3.eval()  # a mode of its own
    with torch.inference_mode():
        net(torch.zeros(1, 3, 48, 48))
    modes, before = [layer.training for layer in net.modules()], {n: t.clone() for n, t in net.state_dict().items()}
    board = TorchBoard(tmp_path, net, torch.zeros(1, 3, 48, 48))
    board.graph()
    board.flush()
    board.close()
    nodes = [node.name for node in read(tmp_path).Graph().node]
    for layer in ("CustomConv[features]/Conv2d[conv31]/", "Sequential[class_predict]/", "Sequential[bbox_predict]/"):
        assert any(layer in name for name in nodes), layer
    assert [layer.training for layer in net.modules()] == modes
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert len(net._anchors) == 1 and not recwarn and capfd.readouterr() == ("", "")
