"""What should a person read at the end?  Every figure in its own row, and nothing where there is none."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from prettytable import PrettyTable
from test_scores import CHOSEN, CHOSEN_ON_NOTHING, SCENES, quickly, scored
from test_tally import FIVE, LEFT, cases_of, random_cases
from test_weighing import pick

from ena24ssd.assessment import Report
from ena24ssd.bootstrap import Groups
from ena24ssd.mistakes import KINDS
from ena24ssd.scores import Range, Scores, score
from ena24ssd.tables import (
    MISTAKES,
    describe_report,
    figure_table,
    light_table,
    mistake_table,
    printable,
    score_table,
    species_score_table,
)

NAN = math.nan

# What stands where: section, row, figure.  Written down once more, as a row under the wrong title is the worst mistake.
ROWS = (
    ("boxes", "mAP, IoU .5 to .95", "detection/map"),
    ("boxes", "mAP at IoU .5", "detection/map50"),
    ("boxes", "average recall (AR100)", "detection/ar100"),
    ("boxes", "precision", "detection/precision"),
    ("boxes", "recall", "detection/recall"),
    ("boxes", "F1", "detection/f1"),
    ("boxes", "mean IoU of what is shown", "detection/mean_iou"),
    ("species on a picture", "precision", "presence/precision"),
    ("species on a picture", "recall", "presence/recall"),
    ("species on a picture", "F1", "presence/f1"),
    ("species on a picture", "F1, mean over species", "presence/macro_f1"),
    ("species on a picture", "pictures exactly right", "presence/exact"),
    ("animal or blank", "animal pictures flagged", "blank/sensitivity"),
    ("animal or blank", "blank pictures left alone", "blank/specificity"),
    ("animal or blank", "boxes on 100 blank pictures", "blank/false_boxes_per_100"),
    ("review", "animal pictures still looked at", "review/recall"),
    ("review", "pictures that nobody looks at", "review/skipped"),
    ("scores at their word", "expected error of scores from .1 on", "calibration/ece"),
    ("scores at their word", "the same, recalibrated", "calibration/ece_calibrated"),
    ("anchors (the post's figures)", "accuracy", "anchor/accuracy"),
    ("anchors (the post's figures)", "accuracy, positives only", "anchor/accuracy_positives"),
    ("anchors (the post's figures)", "micro-F1", "anchor/micro_f1"),
    ("anchors (the post's figures)", "offset error, all anchors (MAe)", "anchor/mae"),
    ("anchors (the post's figures)", "offset error, per positive", "anchor/mae_per_positive"),
)
PLACE = {name: (section, title) for section, title, name in ROWS}
FIGURES = {name: (number + 1) / 100 for number, (*_, name) in enumerate(ROWS)}  # no two alike
ANCHORS = {name: value for name, value in FIGURES.items() if name.startswith("anchor/")}
HOSTILE = "fox\x1b[31m\x9b2J\u202e\x07\r"


def rows_of(table: PrettyTable) -> dict[tuple[str, str], list[str]]:
    """The cells by section and title; as they are printed, without the blanks around them."""
    rows, section = {}, ""
    for title, *cells in table.rows:
        if title.startswith("  "):
            rows[section, title.strip()] = [str(cell) for cell in cells]
        else:
            assert cells == [""] * len(cells), f"{title} is a section, or has lost its indent"
            section = title
    return rows


def report_of(scores: Scores, **changes) -> Report:
    return replace(Report("runs/one", "test", 3, 0, {}, scores), **changes)


def printed(report: Report) -> Iterator[str]:
    """All that `ena24ssd evaluate` prints of a report."""
    yield describe_report(report)
    yield str(figure_table({"test": report.metrics}))
    yield str(score_table(report))
    yield str(species_score_table(report.scores))
    yield str(mistake_table(report.scores))
    yield str(light_table(report.scores))


# -- of a whole report -------------------------------------------------------------------------------------------------


@pytest.fixture(params=SCENES)
def report(request: pytest.FixtureRequest) -> Report:
    return report_of(scored(request.param))


def test_whatever_there_is_reads_well(report):
    for text in printed(report):
        assert not re.search(r"\b(nan|inf|None|array|np|float64)\b", text), text
        widths = {len(line) for line in text.splitlines() if line.startswith(("|", "+"))}
        assert len(widths) <= 1, "a table is a rectangle"


def test_every_figure_that_there_is_has_its_row_and_no_other_has(report):
    scores, rows = report.scores, rows_of(score_table(report))
    columns = [report.metrics, scores.tuned, *scores.baselines.values()]
    known = [name for name in PLACE if any(math.isfinite(some.get(name, NAN)) for some in columns[:2])]
    assert list(rows) == [PLACE[name] for name in known]
    for name in known:
        first, *others = ("" if math.isnan(some.get(name, NAN)) else f"{some[name]:.4f}" for some in columns)
        ends = scores.ranges.get(name)
        assert rows[PLACE[name]] == [first, f"{ends.low:.3f} to {ends.high:.3f}" if ends else "", *others]


def test_no_figure_stands_in_the_wrong_row_or_column():
    ranges = {name: Range(value + 0.3, value + 0.6) for name, value in FIGURES.items()}
    names = ("all background", "most frequent species", "random boxes")
    blind = {one: {name: value + shift for name, value in FIGURES.items()} for shift, one in enumerate(names, 1)}
    tuned = {name: value + 9 for name, value in FIGURES.items()}
    scores = replace(
        quickly(FIVE, calibration=CHOSEN), figures=FIGURES, ranges=ranges, baselines=blind, tuned=tuned
    )  # fmt: skip
    table = score_table(report_of(scores, anchors=ANCHORS | {"anchor/accuracy_all_background": 7}))
    assert table.field_names == ["figure", "from 0.5 on", "95 % range", "tuned: from 0.550 on", *names]
    rows = rows_of(table)
    assert list(rows) == list(PLACE.values())
    for name, value in FIGURES.items():
        shown, spread, *others = rows[PLACE[name]]
        assert shown == f"{value:.4f}" and spread == f"{value + 0.3:.3f} to {value + 0.6:.3f}", name
        floor = 7 if name == "anchor/accuracy" else value + 1
        assert others == [f"{value + 9:.4f}", f"{floor:.4f}", f"{value + 2:.4f}", f"{value + 3:.4f}"], name


def test_without_a_tuned_threshold_there_is_no_column_for_it():
    for calibration in (None, replace(CHOSEN, threshold=None)):
        names = score_table(report_of(quickly(FIVE, calibration=calibration))).field_names
        assert names == [
            "figure",
            "from 0.5 on",
            "95 % range",
            "all background",
            "most frequent species",
            "random boxes",
        ]


def test_what_answers_background_knows_its_accuracy_only_where_anchors_were_judged():
    for anchors, expected in (
        ({}, None),
        ({"anchor/accuracy": 0.9, "anchor/accuracy_all_background": 0.8}, ["0.9000", "", "0.8000", "", ""]),
    ):
        rows = rows_of(score_table(report_of(quickly(FIVE), anchors=anchors)))
        assert rows.get(PLACE["anchor/accuracy"]) == expected


def test_a_figure_without_a_meaning_leaves_its_cell_empty_or_its_row_out():
    scores = quickly(FIVE)
    unknown = dict.fromkeys(("detection/map", *(name for name in PLACE if name.startswith("blank/"))), NAN)
    ranges = {"detection/map50": Range(0.25, 0.5), "detection/precision": Range(NAN, NAN)}
    table = score_table(report_of(replace(scores, figures=scores.figures | unknown, ranges=ranges)))
    rows = rows_of(table)
    assert not {PLACE[name] for name in unknown} & rows.keys()
    assert rows[PLACE["detection/map50"]][1] == "0.250 to 0.500"
    assert rows[PLACE["detection/precision"]][1] == "", "a range without a meaning"
    assert rows[PLACE["detection/precision"]][2] == "", "the precision of one who shows nothing"
    assert "animal or blank" not in str(table), "no title without a row"


# -- figures by split, after training ----------------------------------------------------------------------------------


def test_figures_of_every_split_stand_beside_one_another():
    sides = {"train": FIGURES, "test": {name: value + 1 for name, value in FIGURES.items()}}
    sides["train"] = sides["train"] | {"anchor/accuracy_all_background": 8}
    sides["test"] |= {"anchor/accuracy_all_background": 9}
    table = figure_table(sides)
    assert table.field_names == ["figure", "train", "test", "all background"]
    rows = rows_of(table)
    assert list(rows) == list(PLACE.values())
    for name, value in FIGURES.items():
        floor = "9.0000" if name == "anchor/accuracy" else ""  # of the last split
        assert rows[PLACE[name]] == [f"{value:.4f}", f"{value + 1:.4f}", floor], name


def test_a_figure_that_one_split_lacks_is_an_empty_cell_there():
    table = figure_table({"train": {"anchor/accuracy": 0.5}, "test": {"detection/map": 0.25, "blank/unheard_of": 1.0}})
    assert rows_of(table) == {
        PLACE["detection/map"]: ["", "0.2500", ""],
        PLACE["anchor/accuracy"]: ["0.5000", "", ""],
    }
    assert figure_table({"test": {}}).rows == [] == figure_table({"test": {"detection/map": NAN}}).rows
    table = figure_table({"train": {"detection/map": None}, "test": {"detection/map": 0.5}})  # null, in metrics.jsonl
    assert rows_of(table) == {PLACE["detection/map"]: ["", "0.5000", ""]}


# -- species -----------------------------------------------------------------------------------------------------------


def test_every_cell_of_a_species_is_its_own():
    (one, *_) = quickly(FIVE).species
    one = replace(
        one, name="fox", boxes=1234, pictures=1000, ap50=0.11, ap50_range=Range(0.21, 0.22), ap=0.31, ar=0.41,
        precision=0.51, recall=0.61, f1=0.71, threshold=0.81, best_f1=0.91, f1_range=Range(0.01, 0.02),
    )  # fmt: skip
    table = species_score_table(replace(quickly(FIVE), species=(one,)))
    assert dict(zip(table.field_names, table.rows[0])) == {
        "species": "fox",
        "boxes": "1,234",
        "pictures": "1,000",
        "AP50": "0.110",
        "95 % range": "0.210 to 0.220",
        "AP": "0.310",
        "on pictures: P": "0.510",
        "R": "0.610",
        "F1": "0.710",
        "best from": "0.810",
        "box F1 so": "0.910",
    }


def test_species_that_are_there_or_were_shown_the_most_frequent_first():
    cases = cases_of(
        ([("deer", LEFT)], [("fox", 0.9, LEFT)]),
        ([("deer", LEFT), ("cat", LEFT)], []),
        ([("boar", LEFT)], [("hare", 0.4, LEFT)]),
        species=("fox", "deer", "hare", "cat", "boar"),
    )
    table = species_score_table(quickly(cases))
    assert [row[0] for row in table.rows] == ["deer", "boar", "cat", "fox"], "the hare was not shown, nor is it there"
    invented = dict(zip(table.field_names, table.rows[-1]))
    assert (invented["boxes"], invented["pictures"], invented["on pictures: P"]) == ("0", "0", "0.000")
    assert [invented[name] for name in ("AP50", "95 % range", "AP", "R", "best from")] == [""] * 5
    assert species_score_table(quickly(cases_of())).rows == []


# -- mistakes, day and night -------------------------------------------------------------------------------------------


def test_every_kind_of_mistake_with_its_count_and_cost():
    kinds = (*KINDS, "missed")
    scores = quickly(FIVE)
    counts, costs = ({kind: start + number for number, kind in enumerate(kinds)} for start in (1000, 0.125))
    costs["duplicate"] = NAN
    table = mistake_table(replace(scores, mistakes=replace(scores.mistakes, counts=counts, costs=costs)))
    assert table.rows == [
        ["right place, wrong species", "1,000", "0.125"],
        ["right species, poor box (IoU .1 to .5)", "1,001", "1.125"],
        ["wrong species and poor box", "1,002", "2.125"],
        ["an animal found twice", "1,003", ""],
        ["nothing there", "1,004", "4.125"],
        ["an animal missed", "1,005", "5.125"],
    ]
    assert list(MISTAKES) == list(kinds)


def test_five_pictures_went_wrong_so():
    table = mistake_table(quickly(FIVE))
    assert {title: count for title, count, _ in table.rows if count != "0"} == {
        "right place, wrong species": "1",  # a hare for a deer
        "an animal found twice": "1",
        "nothing there": "2",
        "an animal missed": "1",
    }


def test_day_and_night_side_by_side():
    figures = ("detection/map50", "presence/f1", "blank/sensitivity", "blank/specificity")
    day, night = ({name: start + number / 10 for number, name in enumerate(figures)} for start in (1, 2))
    light = {"day": day | {"pictures": 12345.0}, "night": night | {"pictures": 6.0}}
    ranges = {"day": {}, "night": {"presence/f1": Range(0.1, 0.2)}}
    table = light_table(replace(quickly(FIVE), light=light, light_ranges=ranges))
    assert table.field_names == ["figure", "day", "95 % range, day", "night", "95 % range, night"]
    assert table.rows == [
        ["pictures", "12,345", "", "6", ""],
        ["mAP at IoU .5", "1.000", "", "2.000", ""],
        ["F1 of species on a picture", "1.100", "", "2.100", "0.100 to 0.200"],
        ["animal pictures flagged", "1.200", "", "2.200", ""],
        ["blank pictures left alone", "1.300", "", "2.300", ""],
    ]


def test_by_night_alone_and_what_the_day_lacks():
    cases = cases_of(([("fox", LEFT)], [("fox", 0.9, LEFT)]), ([], []))
    table = light_table(quickly(cases, night=np.array([False, True])))
    assert table.rows == [
        ["pictures", "1", "", "1", ""],
        ["mAP at IoU .5", "1.000", "", "", ""],
        ["F1 of species on a picture", "1.000", "", "", ""],
        ["animal pictures flagged", "1.000", "", "", ""],
        ["blank pictures left alone", "", "", "1.000", ""],
    ]
    alone = light_table(quickly(cases, night=np.array([True, True])))
    assert alone.field_names == ["figure", "night", "95 % range, night"] and alone.rows[0] == ["pictures", "2", ""]


# -- the sentences -----------------------------------------------------------------------------------------------------


def test_what_was_measured_is_said_first():
    cases = pick(random_cases(3), [place % 40 for place in range(1234)])
    scores = replace(
        quickly(FIVE), cases=cases, groups=Groups(np.arange(1234) // 2, "sequences"), ranges={"x": Range(0, 1)}
    )
    first, *_ = describe_report(report_of(scores)).splitlines()
    assert first == (
        f"runs/one: checkpoint of epoch 3, 1,234 test pictures ({cases.blank.sum()} blank) in 617 sequences, "
        f"{len(cases.truth.label):,} boxes. What scores 0.5 or more counts as shown"
    )
    of_a_file = describe_report(report_of(scores, model="found.json", epoch=None, split="all"))
    assert of_a_file.startswith("found.json: 1,234 pictures (")
    assert describe_report(report_of(scores, epoch=-1)).startswith("runs/one: checkpoint of epoch -1, ")


SAID = {
    "left out": (lambda r: replace(r, unreadable=1200), "1,200 pictures could not be read", True),
    "nothing left out": (lambda r: r, "could not be read", False),
    "no draws": (lambda r: r, "no ranges", False),
    "draws in vain": (lambda r: replace(r, scores=replace(r.scores, resamples=100)), "too few groups", True),
    "draws": (lambda r: replace(r, scores=replace(r.scores, ranges={"x": Range(0, 1)})), "no ranges", False),
    "the review, flattered": (
        lambda r: r,
        "whoever looks only at pictures that score 0.500 or more sees 100.0% of those with animals and skips 20.0% of "
        "all (threshold chosen on these very pictures, so it is flattered, to keep 95%)",
        True,
    ),
    "the review": (
        lambda r: replace(r, scores=quickly(FIVE, recall=CHOSEN.recall, calibration=CHOSEN)),
        "pictures that score 0.450 or more sees 100.0% of those with animals and skips 0.0% of all "
        "(threshold chosen on validation, to keep 90%)",
        True,
    ),
    "no blank picture, no review": (
        lambda r: replace(r, scores=quickly(FIVE.take(~FIVE.blank))),
        "whoever looks only at",
        False,
    ),
    "no animal, no review": (lambda r: replace(r, scores=quickly(FIVE.take(FIVE.blank))), "whoever looks only", False),
    "the best score": (
        lambda r: replace(r, scores=quickly(FIVE, calibration=CHOSEN)),
        "a threshold of 0.550 has the best F1 of boxes (chosen on validation)",
        True,
    ),
    "no best score": (
        lambda r: replace(r, scores=quickly(FIVE, calibration=replace(CHOSEN, threshold=None))),
        "best F1",
        False,
    ),
    "a note": (
        lambda r: replace(r, scores=quickly(FIVE, calibration=replace(CHOSEN, note="only 3 detections"))),
        "calibration: only 3 detections",
        True,
    ),
    "no note": (lambda r: replace(r, scores=quickly(FIVE, calibration=CHOSEN)), "calibration:", False),
}


@pytest.mark.parametrize(("change", "sentence", "there"), SAID.values(), ids=SAID)
def test_what_else_is_to_be_said(change, sentence, there):
    text = describe_report(change(report_of(quickly(FIVE))))
    assert (sentence in text) == there, text


# -- names from anywhere -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("White-tailed deer", "White-tailed deer", id="a name"),
        pytest.param("Wildkatze, Gämse, 狐", "Wildkatze, Gämse, 狐", id="letters of any script"),
        pytest.param("a\nb", "a\nb", id="lines stay"),
        pytest.param("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m", id="colours"),
        pytest.param("\x9b2J", "\\x9b2J", id="clears the screen in one letter"),
        pytest.param("gpj.\u202egpj", "gpj.\\u202egpj", id="written from right to left"),
        pytest.param("over\rwritten\x08\x07", "over\\rwritten\\x08\\x07", id="moves the cursor, rings the bell"),
        pytest.param("\udcff.jpg", "\\udcff.jpg", id="no letter at all, as from a file name that is no UTF-8"),
        pytest.param(7, "7", id="a number"),
    ],
)
def test_what_steers_a_terminal_is_written_out(text, expected):
    assert printable(text) == expected
    printable(text).encode()


def test_hostile_names_are_printed_harmless():
    cases = cases_of(
        ([(HOSTILE, LEFT)], [(HOSTILE, 0.9, LEFT)]), ([], []), species=("deer", HOSTILE)
    )  # fmt: skip
    scores = score(cases, Groups(np.arange(2), "pictures"), threshold=0.5, resamples=0, night=np.array([True, False]))
    for text in printed(report_of(scores, model=f"runs/{HOSTILE}")):
        assert all(letter.isprintable() or letter == "\n" for letter in text)
    assert species_score_table(scores).rows[0][0] == "fox\\x1b[31m\\x9b2J\\u202e\\x07"


# -- what the words promise --------------------------------------------------------------------------------------------


def test_thresholds_that_print_alike_do_not_clash():
    table = score_table(report_of(quickly(FIVE, threshold=0.125, calibration=replace(CHOSEN, threshold=0.1251))))
    assert table.field_names[1:4] == ["from 0.125 on", "95 % range", "tuned: from 0.125 on"]


def test_the_f1_of_a_species_is_that_of_the_threshold_beside_it():
    table = species_score_table(quickly(FIVE, calibration=replace(CHOSEN, species_thresholds={"fox": 0.85})))
    row = next(row for row in table.rows if row[0] == "fox")
    assert row[-2:] == ["0.850", "0.667"]


def test_a_threshold_that_nothing_elsewhere_could_choose_is_called_flattered():
    text = describe_report(report_of(quickly(FIVE, calibration=CHOSEN_ON_NOTHING)))
    assert "chosen on these very pictures" in text


def test_what_calibration_json_says_is_printed_harmless():
    text = describe_report(report_of(quickly(FIVE, calibration=replace(CHOSEN, note="\x1b[31mx", split="\x1b[2J"))))
    assert "\x1b" not in text


def test_a_name_of_two_lines_stays_in_its_row():
    table = species_score_table(quickly(cases_of(([("fox\n| deer", LEFT)], []), species=("fox\n| deer",))))
    assert table.rows[0][0] == "fox | deer"
