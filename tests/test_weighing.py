"""What do the figures come to, if some pictures count more than others?  As if they were there so many times."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tally import LEFT, RIGHT, SPECIES, cases_of, figures_of, random_cases

from ena24ssd.cases import Cases, Found, Truth
from ena24ssd.cocoeval import evaluate_coco
from ena24ssd.matching import match
from ena24ssd.tally import species_figures, tally
from ena24ssd.weighing import mean_known, weigh, weigh_all

NAN = np.nan


def pick(cases: Cases, places: list[int]) -> Cases:
    """The cases of the pictures at these positions, in this order and as often as they are named."""
    truth, found = (
        [(new, *row[1:]) for new, place in enumerate(places) for row in zip(*rows) if row[0] == place]
        for rows in (cases.truth, cases.found)
    )
    columns = [
        [
            np.array([row[at] for row in some], dtype=old.dtype).reshape(-1, *old.shape[1:])
            for at, old in enumerate(rows)
        ]
        for some, rows in ((truth, cases.truth), (found, cases.found))
    ]
    ids = tuple(f"{new}: {cases.ids[place]}" for new, place in enumerate(places))
    return Cases(cases.class_names, ids, cases.sizes[places], Truth(*columns[0]), Found(*columns[1]))


def without_ties(cases: Cases, seed: int = 0) -> Cases:
    """The same detections, no two of the same score."""
    scores = np.random.default_rng(seed).permutation(np.linspace(0.01, 0.99, len(cases.found.score)))
    return cases.with_found(cases.found._replace(score=scores))


def counted(cases: Cases, threshold: float) -> dict[str, np.ndarray]:
    """What `weigh` should say of these pictures, each once, without any weights."""
    coco = evaluate_coco(cases)
    totals = tally(cases, match(cases), threshold).sums.sum(axis=0)
    return {
        **{f"detection/{name}": getattr(coco, name) for name in ("map50", "map75", "map")},
        **figures_of(cases, threshold),
        "species/ap50": np.array([one.ap50 for one in coco.species]),
        "species/f1": species_figures(totals, cases.class_names)["f1"],
    }


LITTLE = {
    "no picture": cases_of(),
    "blank pictures, nothing found": cases_of(([], []), ([], [])),
    "blank pictures, something found": cases_of(([], [("fox", 0.9, LEFT)]), ([], [])),
    "animals, nothing found": cases_of(([("fox", LEFT)], []), ([], [])),
    "one box a picture": cases_of(([("fox", LEFT)], [("fox", 0.9, LEFT)]), ([("deer", LEFT)], [("fox", 0.8, LEFT)])),
    "equal scores": cases_of(
        ([("fox", LEFT)], [("fox", 0.5, RIGHT), ("fox", 0.5, LEFT)]), ([("fox", LEFT)], [("fox", 0.5, LEFT)])
    ),
}
SOME = LITTLE | {f"random pictures {seed}": random_cases(seed, pictures=25) for seed in range(3)}


@pytest.mark.parametrize("threshold", [0, 0.5, 1.1], ids="threshold {}".format)
@pytest.mark.parametrize("cases", SOME.values(), ids=SOME)
def test_every_picture_once_gives_the_figures_as_they_are_counted(cases, threshold):
    expected = counted(cases, threshold)
    measured = weigh(cases, match(cases), threshold)(np.ones((1, len(cases))))
    assert measured.keys() == expected.keys()
    for name, values in measured.items():
        assert values[0] == pytest.approx(expected[name], nan_ok=True), name
    plain = {name: value for name, value in expected.items() if not name.startswith("species/")}
    assert weigh_all(cases, match(cases), threshold) == pytest.approx(plain, nan_ok=True)
    assert all(type(value) is float for value in weigh_all(cases, match(cases), threshold).values())


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 5), st.lists(st.integers(0, 3), min_size=12, max_size=12))
def test_a_weight_is_how_often_the_picture_is_there(seed, times):
    cases = without_ties(random_cases(seed, pictures=12), seed)
    repeated = pick(cases, np.repeat(np.arange(12), times).tolist())
    expected = counted(repeated, 0.4)
    for name, values in weigh(cases, match(cases), 0.4)(np.array([times], dtype=float)).items():
        assert values[0] == pytest.approx(expected[name], nan_ok=True), name


def test_a_weight_of_zero_leaves_the_picture_out_even_where_scores_are_equal():
    cases = random_cases(7, pictures=30)
    chosen = np.arange(30) % 3 > 0
    measured = weigh(cases, match(cases), 0.5)(chosen[None].astype(float))
    for name, expected in counted(cases.take(chosen), 0.5).items():
        assert measured[name][0] == pytest.approx(expected, nan_ok=True), name


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64, np.uint8, bool], ids=lambda kind: kind.__name__)
def test_many_draws_at_once_are_one_after_the_other(kind):
    cases = random_cases(1, pictures=20)
    weights = np.random.default_rng(0).integers(0, 4, (7, 20)).astype(kind)
    measure = weigh(cases, match(cases), 0.5)
    alone = [measure(row[None].astype(float)) for row in weights]
    for name, values in measure(weights).items():
        assert values.shape == ((7, len(SPECIES)) if name.startswith("species/") else (7,)), name
        assert values == pytest.approx(np.concatenate([one[name] for one in alone]), nan_ok=True), name


def test_the_whole_weighed_alike_says_the_same_as_weighed_once():
    cases = random_cases(2, pictures=20)
    measure = weigh(cases, match(cases), 0.5)
    once, thrice = measure(np.ones((1, 20))), measure(np.full((1, 20), 3.0))
    counts = ("detection/detections", "detection/boxes")
    for name in once.keys() - set(counts):
        assert thrice[name] == pytest.approx(once[name], nan_ok=True), name
    assert [thrice[name] for name in counts] == [3 * once[name] for name in counts]


def test_no_draws_give_no_figures():
    cases = random_cases(3, pictures=5)
    assert {len(values) for values in weigh(cases, match(cases), 0.5)(np.ones((0, 5))).values()} == {0}


def test_without_cocos_overlaps_there_is_nothing_to_weigh():
    cases = LITTLE["one box a picture"]
    with pytest.raises(ValueError, match=r"matches: overlap 0\.75 was not matched; it must be one of 0\.5\."):
        weigh(cases, match(cases, [0.5]), 0.5)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param([0.2, 0.4], 0.3, id="all known"),
        pytest.param([0.2, NAN, 0.4], 0.3, id="one unknown is left out, and is no 0"),
        pytest.param([NAN, NAN], NAN, id="none known"),
        pytest.param([], NAN, id="none at all"),
        pytest.param([[0.5, NAN], [NAN, NAN], [0, 1]], [0.5, NAN, 0.5], id="row by row"),
    ],
)
def test_the_mean_of_what_is_known(values, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mean_known(np.array(values, dtype=float)) == pytest.approx(np.array(expected), nan_ok=True)
