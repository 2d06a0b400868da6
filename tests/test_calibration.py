"""Does a score of .8 mean right eight times in ten?"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ena24ssd.boxes import Box, LabelledBox
from ena24ssd.calibration import (
    COLDEST,
    HOTTEST,
    LOWEST,
    Calibration,
    fit,
    fit_temperature,
    fit_temperature_and_shift,
    load_calibration,
    nothing_to_fit,
    recalibrate,
    reliability,
    save_calibration,
)
from ena24ssd.cameratraps import Image
from ena24ssd.cases import gather
from ena24ssd.detections import Detection
from ena24ssd.matching import match

NAMES = ("Deer", "Raccoon")
PLACE, ELSEWHERE = Box(10, 10, 50, 50), Box(60, 60, 90, 90)
CHOSEN = Calibration(
    temperature=1.5,
    shift=0.0,
    note=None,
    threshold=0.25,
    species_thresholds={"Deer": 0.5, "Raccoon": None},
    review_threshold=0.1,
    recall=0.95,
    split="validation",
    pictures=12,
    detections=40,
    epoch=7,
    reading={"nms": 0.5, "class_agnostic_nms": False, "floor": 0.01, "candidates": 200},
)
READING = CHOSEN.reading


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, dtype=float)))


def draw(count, temperature, seed=0):
    """Detections that are right as often as their odds say, and their scores by a network that says ``temperature``
    times those odds in logs."""
    random = np.random.default_rng(seed)
    odds = random.normal(-0.5, 1.5, count)
    return sigmoid(odds * temperature), random.random(count) < sigmoid(odds)


def cases_of(*pictures):
    """Pictures of 100 px: each a label or None for a blank, and (label, score, box) for everything found."""
    images, detections = [], []
    for key, (label, found) in enumerate(pictures):
        boxes = () if label is None else (LabelledBox(label, PLACE),)
        images.append(Image(str(key), f"{key}.jpg", 100, 100, boxes))
        detections.append([Detection(kind, NAMES[kind], score, box) for kind, score, box in found])
    return gather(images, detections, NAMES)


# -- reliability -------------------------------------------------------------------------------------------------------


def test_a_table_by_hand():
    found = reliability([0.1, 0.2, 0.7, 0.9], [False, True, True, True], bins=2)
    assert found.edges.tolist() == [0, 0.5, 1]
    assert found.count.tolist() == [2, 2]
    assert found.score == pytest.approx([0.15, 0.8])
    assert found.right.tolist() == [0.5, 1]
    assert found.ece == pytest.approx((0.35 + 0.2) / 2)
    assert found.max_error == pytest.approx(0.35)


@pytest.mark.parametrize(
    "score, place",
    [
        pytest.param(0.0, 0, id="0 is in the first bin"),
        pytest.param(1.0, 9, id="1 is in the last bin"),
        pytest.param(0.05, 0, id="inside a bin"),
        pytest.param(0.5, 4, id="a score on an edge belongs below it"),
        pytest.param(np.nextafter(0.5, 1), 5, id="a hair above the edge belongs above it"),
    ],
)
def test_every_score_has_its_bin(score, place):
    assert np.flatnonzero(reliability([score], [True]).count).tolist() == [place]


def test_empty_bins_have_no_share():
    found = reliability([0.95], [True])
    assert np.isnan(found.right[:9]).all() and np.isnan(found.score[:9]).all()
    assert (found.right[9], found.ece, found.max_error) == (1, pytest.approx(0.05), pytest.approx(0.05))


def test_without_detections_there_is_no_error_to_speak_of():
    found = reliability([], [])
    assert found.count.tolist() == [0] * 10
    assert np.isnan([found.ece, found.max_error]).all() and np.isnan(found.right).all()


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40), st.integers(1, 12))
def test_the_error_is_that_of_naive_counting(rows, bins):
    found = reliability([score for score, _ in rows], [right for _, right in rows], bins)
    errors = []
    for low, high in zip(found.edges, found.edges[1:]):
        inside = [(score, right) for score, right in rows if low < score <= high or (score == 0 == low)]
        if inside:
            scores, rights = zip(*inside)
            errors.append((len(inside), abs(np.mean(scores) - np.mean(rights))))
    assert sum(count for count, _ in errors) == len(rows) == found.count.sum()
    assert found.ece == pytest.approx(sum(count * error for count, error in errors) / len(rows))
    assert found.max_error == pytest.approx(max(error for _, error in errors))
    assert 0 <= found.ece <= found.max_error + 1e-12 <= 1 + 1e-9


# -- temperature -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5, 6.0])
def test_the_temperature_of_a_network_is_found_again(temperature):
    scores, right = draw(40_000, temperature)
    assert fit_temperature(scores, right) == pytest.approx(temperature, rel=0.04)
    after = reliability(recalibrate(scores, temperature), right)
    assert after.ece < 0.02
    assert temperature == 1 or after.ece < reliability(scores, right).ece / 3


def test_no_other_temperature_is_likelier():
    scores, right = draw(300, 3.0, seed=5)

    def surprise(temperature):
        odds = np.log(scores / (1 - scores)) / temperature
        return np.mean(np.log1p(np.exp(np.where(right, -odds, odds))))

    fitted = fit_temperature(scores, right)
    grid = np.geomspace(COLDEST, HOTTEST, 2000)
    assert surprise(fitted) <= min(map(surprise, grid)) + 1e-9


@pytest.mark.parametrize(
    "scores, right, why",
    [
        pytest.param([], [], "only 0 detections", id="nothing found"),
        pytest.param([0.4] * 19, [True] * 9 + [False] * 10, "only 19 detections", id="too few"),
        pytest.param([0.4] * 30, [True] * 30, "are right", id="all right"),
        pytest.param([0.4] * 30, [False] * 30, "are wrong", id="all wrong"),
        pytest.param([0.0, 1.0] * 50 + [0.4] * 5, [True, False] * 50 + [True] * 5, "only 5", id="only 0s and 1s"),
    ],
)
def test_where_nothing_can_be_fitted_scores_stay_and_the_reason_is_given(scores, right, why):
    assert fit_temperature(scores, right) == 1
    assert why in nothing_to_fit(scores, right)


@pytest.mark.parametrize(
    "scores, right, end",
    [
        pytest.param([0.4] * 30 + [0.6] * 30, [False] * 30 + [True] * 30, COLDEST, id="a clean cut at .5"),
        pytest.param([0.9] * 60, [True] * 10 + [False] * 50, HOTTEST, id="all too sure, and mostly wrong"),
    ],
)
def test_a_temperature_stays_in_its_range(scores, right, end):
    assert nothing_to_fit(scores, right) is None
    assert fit_temperature(scores, right) == pytest.approx(end, rel=1e-3)


@given(st.lists(st.floats(0, 1), max_size=20), st.floats(COLDEST, HOTTEST))
def test_recalibrating_keeps_the_order_the_middle_and_the_ends(scores, temperature):
    after = recalibrate(np.sort(scores), temperature)
    assert np.all(np.diff(after) >= -1e-15)
    assert recalibrate([0, 0.5, 1], temperature).tolist() == [0, 0.5, 1]


@given(st.floats(0.001, 0.999), st.floats(COLDEST, HOTTEST))
def test_a_temperature_divides_log_odds(score, temperature):
    odds = (score / (1 - score)) ** (1 / temperature)
    assert recalibrate(score, temperature) == pytest.approx(odds / (1 + odds), rel=1e-9)


def test_a_temperature_of_one_changes_nothing():
    scores = np.random.default_rng(0).random(100)
    assert np.array_equal(recalibrate(scores, 1.0), scores)


# -- what is kept with a run -------------------------------------------------------------------------------------------


def test_the_thresholds_are_those_of_the_curves():
    cases = cases_of(
        (0, [(0, 0.9, PLACE), (0, 0.3, ELSEWHERE)]),
        (0, [(0, 0.6, PLACE)]),
        (1, [(1, 0.2, PLACE), (0, 0.1, PLACE)]),
        (None, [(0, 0.15, PLACE)]),
    )
    found = fit(cases, match(cases), recall=0.66, split="validation", epoch=3, reading=READING)
    # At .6: 2 right of 2, 2 of 3 found, F1 .8. At .2: 3 right of 4, 3 of 3 found, F1 6/7.
    assert found.threshold == 0.2
    assert found.species_thresholds == {"Deer": 0.6, "Raccoon": 0.2}
    assert found.review_threshold == 0.6  # keeps two of the three pictures with animals
    assert (found.pictures, found.detections, found.split, found.epoch, found.recall) == (4, 6, "validation", 3, 0.66)
    assert (found.temperature, found.note) == (1, "only 6 detections, and 20 are the fewest to fit a temperature to")


@pytest.mark.parametrize(
    "pictures, threshold, species, review",
    [
        pytest.param([], None, (None, None), None, id="no pictures"),
        pytest.param([(None, []), (None, [])], None, (None, None), None, id="blanks only, nothing found"),
        pytest.param([(None, [(0, 0.4, PLACE)])], None, (None, None), None, id="blanks only"),
        pytest.param([(0, []), (0, [])], None, (None, None), 0, id="no detection: only looking at all keeps animals"),
        pytest.param([(0, [(0, 0.4, ELSEWHERE)])], None, (None, None), 0.4, id="nothing right"),
        pytest.param([(0, [(0, 0.4, PLACE)])], 0.4, (0.4, None), 0.4, id="one picture, and a species that is absent"),
        pytest.param([(0, [(0, 0.4, PLACE)]), (1, [(1, 0.4, PLACE)])], 0.4, (0.4, 0.4), 0.4, id="equal scores"),
    ],
)
def test_a_choice_with_nothing_to_go_by_is_none(pictures, threshold, species, review):
    cases = cases_of(*pictures)
    found = fit(cases, match(cases), recall=0.95, split="validation", epoch=0, reading=READING)
    assert found.threshold == threshold
    assert tuple(found.species_thresholds.values()) == species
    assert found.review_threshold == review
    assert found.temperature == 1 and found.note is not None


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("count", [400, 2_000])
def test_a_temperature_is_fitted_to_the_detections_of_many_pictures(count, seed):
    scores, right = draw(count, 2.0, seed)
    cases = cases_of(*((0, [(0, score, PLACE if hit else ELSEWHERE)]) for score, hit in zip(scores, right)))
    found = fit(cases, match(cases), recall=0.9, split="validation", epoch=0, reading=READING)
    heard = scores >= LOWEST
    assert found.temperature == fit_temperature(scores[heard], right[heard])
    assert found.note is None and found.detections == heard.sum() < count


def test_a_temperature_that_might_as_well_be_1_is_1():
    scores, right = draw(400, 1.0)
    cases = cases_of(*((0, [(0, score, PLACE if hit else ELSEWHERE)]) for score, hit in zip(scores, right)))
    found = fit(cases, match(cases), recall=0.9, split="validation", epoch=0)
    assert found.temperature == 1 and "cannot tell a temperature of" in found.note


def shifted_scores(count=300):
    """Scores as a heavy foreground weight leaves them, every one too high and many above .5, and which are right."""
    odds = np.random.default_rng(2).normal(-3, 1, count)
    return sigmoid(odds + 4), np.random.default_rng(3).random(count) < sigmoid(odds)


def test_scores_that_no_temperature_mends_are_shifted_too():
    scores, hits = shifted_scores()
    alone = recalibrate(scores, fit_temperature(scores, hits))
    assert alone.mean() - hits.mean() > 0.3
    cases = cases_of(*((0, [(0, score, PLACE if hit else ELSEWHERE)]) for score, hit in zip(scores, hits)))
    found = fit(cases, match(cases), recall=0.9, split="validation", epoch=0, reading=READING)
    assert f"scores of {alone.mean():.2f} on average, where {hits.mean():.2f} of the detections" in found.note
    assert found.shift < -2
    assert found.apply(scores).mean() == pytest.approx(hits.mean(), abs=0.001)
    assert reliability(found.apply(scores), hits).ece < reliability(scores, hits).ece / 10


def test_a_shift_is_found_again_and_nothing_else_is_likelier():
    scores, hits = shifted_scores(40_000)
    temperature, shift = fit_temperature_and_shift(scores, hits)
    assert (temperature, shift) == (pytest.approx(1, rel=0.1), pytest.approx(-4, rel=0.1))

    def surprise(temperature, shift):
        after = recalibrate(scores, temperature, shift)
        return -np.mean(np.log(np.where(hits, after, 1 - after)))

    around = [(temperature * a, shift + b) for a in (0.97, 1, 1.03) for b in (-0.05, 0, 0.05)]
    assert surprise(temperature, shift) <= min(surprise(*other) for other in around) + 1e-9


def test_without_right_and_wrong_there_is_no_shift():
    assert fit_temperature_and_shift(np.full(50, 0.7), np.ones(50, dtype=bool)) == (1, 0)


# -- on disk -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "calibration",
    [
        pytest.param(CHOSEN, id="everything chosen"),
        pytest.param(replace(CHOSEN, threshold=None, review_threshold=None, note="few"), id="nothing to go by"),
        pytest.param(replace(CHOSEN, temperature=1, epoch=-1, species_thresholds={}), id="whole numbers, no species"),
        pytest.param(replace(CHOSEN, threshold=0.1 + 0.2, species_thresholds={"Waschbär": 1e-9}), id="every digit"),
    ],
)
def test_what_is_saved_is_loaded(tmp_path, calibration):
    path = save_calibration(tmp_path, calibration)
    assert path == tmp_path / "calibration.json"
    assert load_calibration(tmp_path) == calibration
    assert list(load_calibration(tmp_path).species_thresholds) == list(calibration.species_thresholds)
    assert [file.name for file in tmp_path.iterdir()] == ["calibration.json"]


def test_a_run_without_calibration_has_none(tmp_path):
    assert load_calibration(tmp_path) is None


@pytest.mark.parametrize(
    "changes, words",
    [
        pytest.param({"temperature": 0}, ["temperature (it is '0')", "0.05"], id="no temperature of 0"),
        pytest.param({"temperature": float("nan")}, ["temperature"], id="NaN"),
        pytest.param({"temperature": "2"}, ["temperature", "number"], id="text for a number"),
        pytest.param({"temperature": True}, ["temperature", "number"], id="true for a number"),
        pytest.param({"threshold": 1.2}, ["threshold (it is '1.2')", "less than or equal to 1"], id="no score"),
        pytest.param({"species_thresholds": {"Deer": -1}}, ["species_thresholds.Deer"], id="a species' threshold"),
        pytest.param({"recall": 0}, ["recall"], id="a recall of 0"),
        pytest.param({"epoch": 1.5}, ["epoch"], id="half an epoch"),
        pytest.param({"split": None}, ["split"], id="no split"),
    ],
)
def test_a_broken_file_is_named_with_field_and_value(tmp_path, changes, words):
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(CHOSEN.to_json() | changes))
    with pytest.raises(ValueError) as caught:
        load_calibration(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and message.endswith("'ena24ssd evaluate' makes it anew")
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    "text, words",
    [
        pytest.param("{", "is not valid json", id="cut short"),
        pytest.param("[]", "the whole of it", id="a list"),
        pytest.param("{}", "temperature: Field required", id="empty"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(tmp_path, text, words):
    (tmp_path / "calibration.json").write_text(text)
    with pytest.raises(ValueError, match=words):
        load_calibration(tmp_path)


def test_fields_of_later_versions_are_passed_over():
    assert Calibration.from_json(CHOSEN.to_json() | {"weather": "fine"}) == CHOSEN
