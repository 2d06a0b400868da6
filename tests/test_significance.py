"""Is one model better than another, or was it luck?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ena24ssd.bootstrap import Groups, draw_weights, group_singly
from ena24ssd.cases import Cases, Found, Truth
from ena24ssd.matching import match
from ena24ssd.ranking import average_precision
from ena24ssd.significance import DRAWS_A_PAIR, TITLES, Contender, Verdict, conclude, find_verdicts, holm, verdict_table

SPECIES = ("fox", "deer")
NOTHING = Found(*np.zeros((2, 0), dtype=np.int64), np.zeros(0), np.zeros((0, 4)))


def pictures(labels):
    """A picture for each of ``labels``: one animal of that species (-1: blank), top left; nothing found."""
    labels = np.asarray(labels, dtype=np.int64)
    place = np.flatnonzero(labels >= 0)
    truth = Truth(place, labels[place], np.tile([0.0, 0.0, 50.0, 50.0], (len(place), 1)))
    return Cases(SPECIES, tuple(map(str, range(len(labels)))), np.full((len(labels), 2), 100.0), truth, NOTHING)


def seen(cases, hit, invented=(), score=0.9):
    """The ``cases`` as seen by a model that finds the animals on the pictures ``hit`` (P,) bool, more or less closely,
    and invents foxes.
    """
    right, wrong = np.flatnonzero(np.asarray(hit)[cases.truth.picture]), np.asarray(invented, dtype=np.int64)
    boxes = cases.truth.box[right]
    boxes[:, 2] *= 0.55 + 0.05 * (np.arange(len(right)) % 10)  # IoU .55 to 1
    return cases.with_found(
        Found(
            np.r_[cases.truth.picture[right], wrong],
            np.r_[cases.truth.label[right], np.zeros_like(wrong)],
            np.r_[score - 0.001 * np.arange(len(right)), np.full(len(wrong), 0.6)],
            np.r_[boxes, np.tile([60.0, 60.0, 90.0, 90.0], (len(wrong), 1))],
        )
    )


def world(seed, *skills, bursts=60, longest=5):
    """``bursts`` of one species each, a fifth blank; each model finds the animals of a burst, or it does not."""
    random = np.random.default_rng(seed)
    of = np.repeat(np.arange(bursts), random.integers(1, longest + 1, bursts))
    cases = pictures(random.choice([-1, 0, 1], bursts, p=[0.2, 0.5, 0.3])[of])
    models = []
    for number, skill in enumerate(skills):
        invented = np.flatnonzero(random.random(len(of)) < 0.15)
        hit = (random.random(bursts) < skill)[of]
        models.append(Contender("ABCDEF"[number], seen(cases, hit, invented)))
    return models, Groups(of, "sequences")


def of_figure(verdicts, figure):
    return [one for one in verdicts if one.figure == figure]


# -- verdicts ----------------------------------------------------------------------------------------------------------


def test_a_model_is_no_better_than_itself():
    (one,), groups = world(0, 0.6)
    verdicts = find_verdicts([one, replace(one, name="again")], groups, 200)
    assert [verdict.figure for verdict in verdicts] == list(TITLES)
    for verdict in verdicts:
        assert (verdict.difference, verdict.p, verdict.p_adjusted, verdict.certain) == (0, 1, 1, False)
        assert (verdict.first, verdict.second) == ("again", "A")  # the one named first counts as the best
        assert np.isnan(verdict.interval).all()  # it never varied


def test_a_clearly_better_model_is_found_better():
    models, groups = world(1, 0.9, 0.4)
    verdicts = find_verdicts(models, groups, 300)
    for verdict in verdicts:
        assert (verdict.first, verdict.second) == ("B", "A")
        assert verdict.difference == verdict.second_value - verdict.first_value
        assert verdict.p_adjusted == verdict.p  # of one pair
        if verdict.figure == "blank/specificity":  # both invent at random
            assert not verdict.certain
        else:
            low, high = verdict.interval
            assert verdict.certain and 0 < low < verdict.difference < high
    swapped = find_verdicts(models[::-1], groups, 300)
    assert swapped == verdicts


def test_equal_models_are_told_apart_one_time_in_twenty():
    """40 pairs of equal models: 5 false alarms or fewer in 49 of 50 such tests."""
    alarms = {figure: 0 for figure in TITLES}
    for seed in range(40):
        models, groups = world(seed, 0.6, 0.6)
        for verdict in find_verdicts(models, groups, DRAWS_A_PAIR, seed):
            alarms[verdict.figure] += verdict.certain
    assert max(alarms.values()) <= 5


def test_bursts_make_a_verdict_less_certain():
    models, groups = world(3, 0.7, 0.55, longest=12)
    of_bursts, singly = (
        of_figure(find_verdicts(models, some, 500), "blank/sensitivity")[0]
        for some in (groups, group_singly(len(groups.of)))
    )
    assert np.ptp(of_bursts.interval) > 1.8 * np.ptp(singly.interval)
    assert of_bursts.difference == singly.difference and of_bursts.p > 0.1 and singly.p < 0.02


def test_figures_are_those_of_the_evaluation():
    (one, other), groups = world(4, 0.8, 0.5)
    values = {verdict.figure: verdict.second_value for verdict in find_verdicts([one, other], groups, 100)}
    matches, found = match(one.cases), one.cases.found
    precisions = [
        [
            average_precision(found.score[found.label == label], right[found.label == label], boxes)
            for label, boxes in enumerate(one.cases.boxes_of_species)
        ]
        for right in matches.right
    ]
    assert values["detection/map50"] == pytest.approx(np.mean(precisions[0]), abs=1e-12)
    assert values["detection/map"] == pytest.approx(np.mean(precisions), abs=1e-12)
    right = matches.right[0].sum()
    assert values["detection/f1"] == pytest.approx(2 * right / (len(found.label) + len(one.cases.truth.label)))
    blank = one.cases.blank
    assert values["blank/specificity"] == pytest.approx(np.mean(one.cases.best_score[blank] == 0))
    assert values["blank/sensitivity"] == pytest.approx(np.mean(one.cases.best_score[~blank] > 0))


def test_both_models_see_the_same_draws():
    models, groups = world(5, 0.7, 0.6)
    verdict = of_figure(find_verdicts(models, groups, 250, seed=9), "blank/sensitivity")[0]
    weights = np.concatenate(list(draw_weights(groups, 250, seed=9)))
    animal = ~models[0].cases.blank
    draws = [weights[:, animal] @ (model.cases.best_score > 0)[animal] / weights[:, animal].sum(1) for model in models]
    turned = draws[1] - draws[0] if verdict.second == "B" else draws[0] - draws[1]
    against = min((turned <= 1e-12).sum(), (turned >= -1e-12).sum())
    assert verdict.p == pytest.approx(2 * (against + 1) / 251, abs=0.02)  # but for Student's correction


def test_each_model_has_its_own_threshold():
    cases = pictures([0, 1, -1, 0] * 10)
    sure, shy = seen(cases, [True] * 40, score=0.9), seen(cases, [True] * 40, score=0.4)
    models = Contender("sure", sure), Contender("shy", shy), Contender("shy, shown all", shy, threshold=0.1)
    verdicts = of_figure(find_verdicts(models, group_singly(40), 100), "presence/f1")
    assert [(one.first, one.first_value) for one in verdicts] == [("shy", 0), ("shy, shown all", 1)]


def test_the_best_stands_against_each_other_one():
    models, groups = world(6, 0.3, 0.9, 0.5)
    verdicts = find_verdicts(models, groups, 100)
    assert [(one.first, one.second) for one in verdicts[:: len(TITLES)]] == [("A", "B"), ("C", "B")]
    assert [one.figure for one in verdicts] == list(TITLES) * 2
    clear = of_figure(verdicts, "detection/map50")[0]
    assert clear.p_adjusted == 3 * clear.p  # of three pairs, though two are shown
    assert clear.certain  # 600 draws were made, so that 3 p can be small


@pytest.mark.parametrize(
    "labels, figures",
    [
        pytest.param([0, 1] * 10, set(TITLES) - {"blank/specificity"}, id="no blank picture"),
        pytest.param([-1] * 20, {"presence/f1", "blank/specificity", "detection/f1"}, id="blank pictures only"),
        pytest.param([0, *[-1] * 19], {"presence/f1", "blank/specificity", "detection/f1"}, id="one animal in all"),
        pytest.param([0, -1] * 10, set(TITLES), id="a species absent"),
        pytest.param([], set(), id="no picture"),
    ],
)
def test_what_is_not_defined_is_left_out(labels, figures):
    cases = pictures(labels)
    models = [
        Contender(name, seen(cases, [right] * len(labels), range(0, len(labels), 2)))
        for name, right in (("A", True), ("B", False))
    ]
    verdicts = find_verdicts(models, group_singly(len(labels)), 200)
    assert {one.figure for one in verdicts} == figures
    assert conclude(verdicts) == () if not figures else len(conclude(verdicts)) == 1


def test_models_that_find_nothing():
    cases = pictures([0, 1, -1] * 10)
    verdicts = find_verdicts([Contender("A", cases), Contender("B", cases)], group_singly(30), 100)
    assert {one.figure: one.second_value for one in verdicts} == {
        **dict.fromkeys(TITLES, 0.0),
        "blank/specificity": 1.0,
    }
    assert all(one.p == 1 for one in verdicts)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_few_bursts_prove_nothing(count):
    cases = pictures([0, 1, -1, 0] * 10)
    models = Contender("A", seen(cases, [True] * 40)), Contender("B", seen(cases, [False] * 40))
    verdicts = find_verdicts(models, Groups(np.arange(40) // 4 % count, "cameras"), 1000)
    assert verdicts and not any(one.certain for one in verdicts)
    assert all(np.isnan(one.interval).all() for one in verdicts)


# -- what cannot be compared -------------------------------------------------------------------------------------------

CASES = pictures([0, 1, -1])
OTHER_TRUTH = replace(CASES, truth=CASES.truth._replace(label=1 - CASES.truth.label))


@pytest.mark.parametrize(
    "contenders, groups, message",
    [
        pytest.param([], 3, "there are 0 models; it takes two", id="none"),
        pytest.param([("a", CASES)], 3, "there are 1 models; it takes two", id="one"),
        pytest.param([("a", CASES), ("b", CASES), ("a", CASES)], 3, "'a' is named 2 times", id="one twice"),
        pytest.param(
            [("a", CASES), ("b", replace(CASES, class_names=("fox", "elk")))],
            3,
            "'a' and 'b' know different species .only the first has 'deer'",
            id="species",
        ),
        pytest.param(
            [("a", CASES), ("b", replace(CASES, class_names=("deer", "fox")))], 3, "in another order", id="their order"
        ),
        pytest.param(
            [("a", CASES.take(np.array([True, False, False]))), ("b", CASES)],
            1,
            "different pictures .only the second has '1' and 1 more",
            id="pictures",
        ),
        pytest.param([("a", CASES), ("b", OTHER_TRUTH)], 3, "judged by different boxes", id="truth"),
        pytest.param([("a", CASES), ("b", CASES)], 2, "groups for 2 pictures, and 3 pictures", id="groups"),
    ],
)
def test_what_cannot_be_compared(contenders, groups, message):
    with pytest.raises(ValueError, match=message):
        find_verdicts([Contender(*one) for one in contenders], group_singly(groups))


# -- many tests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "p, adjusted",
    [
        pytest.param([0.03], [0.03], id="one test"),
        pytest.param([0.01, 0.04, 0.03], [0.03, 0.06, 0.06], id="never below that of a smaller p"),
        pytest.param([0.5, 0.6], [1.0, 1.0], id="at most 1"),
        pytest.param([0.02, np.nan, 0.03], [0.04, np.nan, 0.04], id="one not made"),
        pytest.param([np.nan], [np.nan], id="none made"),
        pytest.param([], [], id="none"),
    ],
)
def test_holm(p, adjusted):
    assert holm(np.array(p)) == pytest.approx(adjusted, nan_ok=True)


@given(st.lists(st.floats(0.001, 1), max_size=8), st.sampled_from([0.01, 0.05, 0.1]))
def test_holm_steps_down(p, level):
    """Holm's own procedure: reject the smallest p at level / K, the next at level / (K - 1), ... until one fails."""
    rejected = set()
    for step, place in enumerate(np.argsort(p, kind="stable").tolist()):
        if p[place] * (len(p) - step) > level:
            break
        rejected.add(place)
    assert set(np.flatnonzero(holm(np.array(p)) <= level).tolist()) == rejected


# -- what a person reads -----------------------------------------------------------------------------------------------


def verdict(figure, difference, p, ends=None, adjusted=None):
    ends = ends or (difference - 0.021, difference + 0.021)
    return Verdict(figure, "A", "B", 0.5, 0.5 + difference, difference, ends, p, adjusted or p)


@pytest.mark.parametrize(
    "verdicts, sentence",
    [
        pytest.param(
            [verdict("detection/map50", 0.031, 0.004)],
            "B is better than A: mAP50 by .031 (95 % interval .010 to .052, p = .004).",
            id="better",
        ),
        pytest.param(
            [
                verdict("detection/map50", 0.031, 0.01, adjusted=0.03),
                verdict("presence/f1", 0.04, 0.002),
                verdict("blank/specificity", -0.1, 0.0001),
                verdict("blank/sensitivity", 0.01, 0.3),
                verdict("detection/f1", 0.01, 0.4),
            ],
            "B is better than A: mAP50 by .031 (95 % interval .010 to .052, p = .030). Hints, no more: that B is "
            "better on presence F1 by .040 (95 % interval .019 to .061, p = .002), and that B is worse on blank "
            "specificity by .100 (95 % interval .079 to .121, p < .001).",
            id="better, worse and neither",
        ),
        pytest.param(
            [verdict("detection/map50", 0.003, 0.61, (-0.0102, 0.02)), verdict("detection/f1", -0.1, 0.2)],
            "B and A cannot be told apart: mAP50 differs by .003 (95 % interval -.010 to .020, p = .610).",
            id="neither",
        ),
        pytest.param(
            [verdict("detection/map50", 0.0, 1.0, (np.nan, np.nan))],
            "B and A cannot be told apart: mAP50 differs by .000 (p = 1.000).",
            id="no interval",
        ),
        pytest.param(
            [verdict("detection/map50", 0.0, 0.7), verdict("blank/specificity", -0.1, 0.002)],
            "B and A cannot be told apart: mAP50 differs by .000 (95 % interval -.021 to .021, p = .700). Hints, no "
            "more: that B is worse on blank specificity by .100 (95 % interval .079 to .121, p = .002).",
            id="worse on what was not asked",
        ),
        pytest.param(
            [verdict("detection/f1", 0.1, 0.2)],
            "B and A cannot be told apart: these pictures do not define their mAP50.",
            id="the question has no answer",
        ),
    ],
)
def test_conclusion(verdicts, sentence):
    assert conclude(verdicts) == (sentence,)


def test_one_sentence_for_each_pair_and_names_that_steer_no_terminal():
    some = [replace(verdict("detection/map50", 0.031, 0.004), first=name) for name in ("A", "\x1b[2JC")]
    first, second = conclude(some)
    assert "better than A" in first and "better than \\x1b[2JC" in second
    assert "\x1b" not in verdict_table(some).get_string()


def test_table():
    rows = [verdict("detection/map50", 0.031, 0.004, adjusted=0.012), verdict("presence/f1", 0, 1, (np.nan, np.nan))]
    table = verdict_table(rows)
    assert table.field_names[:3] == ["best", "against", "figure"]
    assert table.rows == [
        ["B", "A", "mAP50", "0.5310", "0.5000", "+0.0310", "+0.0100 to +0.0520", ".004", ".012"],
        ["B", "A", "presence F1", "0.5000", "0.5000", "+0.0000", "", "1.000", "1.000"],
    ]
    assert verdict_table([]).rows == []
