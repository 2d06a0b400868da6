"""How good is it?  Held against naive counting, and against gluoncv's VOC metric."""

from __future__ import annotations

import numpy as np
import pytest

from ena24ssd.boxes import Box, LabelledBox
from ena24ssd.detections import Detection
from ena24ssd.metrics import SCALARS, AnchorSums, average_precision, detection_metrics


def sums_of(predicted: np.ndarray, true: np.ndarray, classes: int, pictures: int = 1) -> AnchorSums:
    """Naive counting over anchors."""
    counts = [
        [sum((p == c) and (t == c) for p, t in zip(predicted, true)) for c in range(1, classes + 1)],
        [sum((p == c) and (t != c) for p, t in zip(predicted, true)) for c in range(1, classes + 1)],
        [sum((p != c) and (t == c) for p, t in zip(predicted, true)) for c in range(1, classes + 1)],
    ]
    scalars = {
        "pictures": pictures,
        "class_loss": 3.0,
        "box_loss": 1.0,
        "anchors": len(true),
        "correct": np.sum(predicted == true),
        "background": np.sum(true == 0),
        "positives": np.sum(true > 0),
        "correct_positives": np.sum((predicted == true) & (true > 0)),
        "coordinates": 4 * len(true),
        "absolute_error": 2.0,
    }
    return AnchorSums.from_vector(np.concatenate([[scalars[name] for name in SCALARS], *counts]))


def post_micro_f1(predicted: np.ndarray, true: np.ndarray, classes: int) -> float:
    """The post's MicroF1Score, without its rounding."""
    tp = fp = fn = 0.0
    for i in range(1, classes + 1):
        p, t = predicted == i, true == i
        tp, fp, fn = (
            tp + float((p * t).sum()),
            fp + float(((true != i) * p).sum()),
            fn + float((t * (predicted != i)).sum()),
        )
    precision = tp / (tp + fp) if tp + fp else 0
    recall = tp / (tp + fn) if tp + fn else 0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0


@pytest.mark.parametrize("seed", range(5))
def test_the_figures_of_a_split_are_those_of_all_its_anchors_together(seed):
    random = np.random.default_rng(seed)
    true = random.choice(4, 300, p=[0.9, 0.05, 0.03, 0.02])
    predicted = np.where(random.random(300) < 0.8, true, random.integers(0, 4, 300))
    parts = [sums_of(predicted[i : i + 60], true[i : i + 60], 3) for i in range(0, 300, 60)]
    total = sum(parts, AnchorSums.zero(3))
    figures = total.metrics()
    assert figures["accuracy"] == pytest.approx(np.mean(predicted == true))
    assert figures["accuracy_all_background"] == pytest.approx(np.mean(true == 0))
    assert figures["accuracy_positives"] == pytest.approx(np.mean(predicted[true > 0] == true[true > 0]))
    assert figures["micro_f1"] == pytest.approx(post_micro_f1(predicted, true, 3))
    assert figures["mae"] == pytest.approx(10 / (4 * 300))
    assert figures["mae_per_positive"] == pytest.approx(10 / (4 * np.sum(true > 0)))
    assert figures["log_loss"] == pytest.approx(20 / 5)


def test_nothing_measured_gives_zeros_and_no_division_by_zero():
    assert set(AnchorSums.zero(3).metrics().values()) == {0.0}


def test_all_background_scores_its_baseline_and_no_f1():
    true = np.array([0] * 97 + [1, 2, 3])
    figures = sums_of(np.zeros(100, int), true, 3).metrics()
    assert figures["accuracy"] == figures["accuracy_all_background"] == 0.97
    assert figures["micro_f1"] == 0


def box(left, top, right, bottom):
    return Box(float(left), float(top), float(right), float(bottom))


TRUTH = [LabelledBox(0, box(0, 0, 10, 10)), LabelledBox(1, box(20, 20, 40, 40))]


def seen(label, score, *corners):
    return Detection(label, str(label), score, box(*corners))


HIT = seen(0, 0.9, 0, 0, 10, 10)


@pytest.mark.parametrize(
    "truths, found, expected",
    [
        ([TRUTH], [[HIT, seen(1, 0.8, 20, 20, 40, 40)]], {"map50": 1, "precision": 1, "recall": 1, "mean_iou": 1}),
        ([TRUTH], [[]], {"map50": 0, "precision": 0, "recall": 0, "mean_iou": 0}),
        ([[]], [[]], {"map50": 0, "precision": 0, "recall": 0}),
        ([[]], [[seen(0, 0.9, 0, 0, 5, 5)]], {"map50": 0, "precision": 0, "mean_iou": 0, "detections": 1}),
        ([TRUTH], [[seen(1, 0.9, 0, 0, 10, 10)]], {"precision": 0, "recall": 0, "mean_iou": 0}),
        (
            [TRUTH],
            [[HIT, seen(0, 0.8, 0, 0, 10, 9)]],
            {"precision": 0.5, "recall": 0.5, "map50": 0.5, "mean_iou": 0.95},
        ),
        ([TRUTH], [[seen(0, 0.4, 0, 0, 10, 10)]], {"precision": 0, "recall": 0, "map50": 0.5, "detections": 0}),
        ([TRUTH], [[seen(0, 0.9, 0, 0, 10, 4.9)]], {"precision": 0, "mean_iou": 0.49}),
    ],
    ids=[
        "both found",
        "nothing found",
        "a blank picture left alone",
        "a detection on a blank picture",
        "the right place, the wrong species",
        "one animal found twice",
        "right but below the threshold",
        "a box too poor",
    ],
)
def test_detections_are_judged_one_by_one(truths, found, expected):
    figures = detection_metrics(truths, found, 2, score=0.5)
    assert {name: figures[name] for name in expected} == pytest.approx(expected)


def test_average_precision_of_a_hand_computed_curve():
    # right, wrong, right, of 3 boxes: precision 1, 1/2, 2/3 at recall 1/3, 1/3, 2/3
    ap = average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), 3)
    assert ap == pytest.approx(1 / 3 + 2 / 3 * 1 / 3)


def random_scenes(seed):
    random = np.random.default_rng(seed)
    truths, found = [], []
    for _ in range(12):
        corners = random.uniform(0, 70, (random.integers(0, 4), 2))
        truth = [
            LabelledBox(int(random.integers(3)), box(x, y, x + w, y + h))
            for (x, y), (w, h) in zip(corners, random.uniform(10, 30, (len(corners), 2)))
        ]
        guesses = []
        for label, b in truth * 2:
            moved = np.array(b) + random.normal(0, 3, 4)
            label = label if random.random() < 0.8 else int(random.integers(3))
            guesses.append(seen(label, float(random.random()), *moved))
        truths.append(truth)
        found.append(guesses)
    return truths, found


@pytest.mark.parametrize("seed", range(6))
def test_map_equals_gluoncvs_voc_metric(seed):
    pytest.importorskip("gluoncv")
    from gluoncv.utils.metrics.voc_detection import VOCMApMetric

    truths, found = random_scenes(seed)
    scale = 1e6  # gluoncv adds one pixel to every side, as VOC's whole-pixel boxes want it; make that pixel vanish
    oracle = VOCMApMetric(iou_thresh=0.5, class_names=["a", "b", "c"])
    for truth, guesses in zip(truths, found):
        if not truth and not guesses:
            continue
        oracle.update(
            scale * np.array([d.box for d in guesses], dtype=float).reshape(1, -1, 4),
            np.array([[d.label for d in guesses]], dtype=float).reshape(1, -1, 1),
            np.array([[d.score for d in guesses]], dtype=float).reshape(1, -1, 1),
            scale * np.array([b for _, b in truth], dtype=float).reshape(1, -1, 4),
            np.array([[label for label, _ in truth]], dtype=float).reshape(1, -1, 1),
        )
    assert detection_metrics(truths, found, 3, 0.5)["map50"] == pytest.approx(oracle.get()[1][-1])
