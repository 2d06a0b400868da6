"""How good are the anchors?  Held against naive counting and the post's own formula."""

from __future__ import annotations

import numpy as np
import pytest

from ena24ssd.metrics import SCALARS, AnchorSums


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
