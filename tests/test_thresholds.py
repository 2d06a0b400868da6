"""Does a detection count exactly where its species' score is reached?"""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ena24ssd.boxes import Box
from ena24ssd.detections import Detection, ImageDetections
from ena24ssd.thresholds import Thresholds

BOX = Box(0.0, 0.0, 1.0, 1.0)
scores = st.floats(0, 1)
species = st.sampled_from(["Ox", "Emu", "Elk", ""])


@given(
    found=st.lists(st.tuples(species, scores), max_size=8),
    overall=scores,
    own=st.dictionaries(species, scores),
)
def test_what_counts_reaches_the_score_of_its_species(found, overall, own):
    image = ImageDetections("a.jpg", 1, 1, tuple(Detection(0, name, score, BOX) for name, score in found))
    thresholds = Thresholds(overall, own)
    expected = [(name, score) for name, score in found if score >= own.get(name, overall)]
    selected = thresholds.select(image)
    assert [(each.name, each.score) for each in selected.detections] == expected
    assert replace(selected, detections=image.detections) == image, "all else is as it was"
    assert thresholds.lowest == min([overall, *own.values()])
    assert not any(score < thresholds.lowest for _, score in expected)


def test_a_picture_that_failed_stays_a_failure():
    image = ImageDetections("a.jpg", None, None, failure="the file is empty")
    assert Thresholds(0.5).select(image) == image


@pytest.mark.parametrize(
    "overall, own, words",
    [
        (1.1, {}, "threshold is 1.1"),
        (-0.1, {}, "threshold is -0.1"),
        (float("nan"), {}, "threshold is nan"),
        ("0.5", {}, "threshold is 0.5"),
        (None, {}, "threshold is None"),
        (0.5, {"Ox": float("inf")}, "threshold of Ox is inf"),
        (0.5, {"Ox": None}, "threshold of Ox is None"),
        (7, {"": 0.5}, "threshold is 7"),
    ],
)
def test_what_is_no_score_is_refused(overall, own, words):
    with pytest.raises(ValueError, match=words):
        Thresholds(overall, own)


@pytest.mark.parametrize("score", [np.float32(0.25), np.float64(0.25), 0.25])
def test_scores_of_numpy_are_scores(score):
    thresholds = Thresholds(score, {"Ox": score})
    assert type(thresholds.overall) is float and thresholds.of("Ox") == thresholds.of("Emu") == 0.25


def test_nobody_changes_thresholds_and_they_travel():
    own = {"Ox": 0.2}
    thresholds = Thresholds(0.5, own)
    own["Ox"] = 0.9
    assert thresholds.of("Ox") == 0.2
    with pytest.raises(TypeError):
        thresholds.species["Ox"] = 0.9
    for same in (pickle.loads(pickle.dumps(thresholds)), copy.deepcopy(thresholds)):
        assert same == thresholds and same.of("Ox") == 0.2 and same.of("Emu") == 0.5
