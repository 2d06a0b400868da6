"""What did the post measure, and what does each of its shortcuts add?"""

from __future__ import annotations

import math

import numpy as np
import pytest

from ena24ssd.metrics import AnchorSums
from ena24ssd.protocol import PUBLISHED, TITLES, post_protocol_table, protocol_rows, two_digits

HONEST = {"map50": 0.31, "presence_f1": 0.42, "blank_sensitivity": 0.9}
HELD_OUT = {"accuracy": 0.985, "log_loss": 3.1, "mae": 0.0104, "micro_f1": 0.712}
LAST_HELD_OUT = {"accuracy": 0.987, "log_loss": 2.9, "mae": 0.0098, "micro_f1": 0.744}
LAST_TRAIN = {"accuracy": 0.9985, "log_loss": 1.9, "mae": 0.0024, "micro_f1": 0.8761}
ROWS = protocol_rows(HONEST, HELD_OUT, LAST_HELD_OUT, LAST_TRAIN, train_loss_sum=140.0, test_loss_sum=40.5)


def row(accuracy=None, log_loss=None, mae=None, micro_f1=None, map50=None, presence_f1=None):
    return dict(zip(TITLES, (accuracy, log_loss, mae, micro_f1, map50, presence_f1)))


@pytest.mark.parametrize(
    "place, figures",
    [
        pytest.param(0, row(map50=0.31, presence_f1=0.42), id="the honest figures: animals, and nothing of anchors"),
        pytest.param(1, row(0.985, 3.1, 0.0104, 0.712), id="anchors: all held-out pictures"),
        pytest.param(2, row(0.987, 3.1, 0.0098, 0.744), id="last batch: the loss is still of all of them"),
        pytest.param(3, row(0.9985, 1.9, 0.0024, 0.8761), id="training pictures"),
        pytest.param(4, row(0.9985, 180.5, 0.0024, 0.8761), id="the loss is the sum of both loops"),
        pytest.param(5, row(0.9985, 180.5, 0.0024, 0.88), id="the F1 is rounded, nothing else"),
    ],
)
def test_each_row_adds_one_shortcut(place, figures):
    assert ROWS[place].figures == figures


def test_there_are_six_rows_with_a_title_each():
    assert len({row.title for row in ROWS}) == len(ROWS) == 6


def test_figures_of_anchor_sums_fit_in():
    anchors = AnchorSums.from_vector(np.arange(1.0, 17.0)).metrics()
    rows = protocol_rows(HONEST, anchors, anchors, anchors, 1.0, 2.0)
    assert rows[1].figures == row(anchors["accuracy"], anchors["log_loss"], anchors["mae"], anchors["micro_f1"])


@pytest.mark.parametrize("missing", ["map50", "accuracy"])
def test_a_figure_that_nobody_measured_is_an_error(missing):
    honest, anchors = ({key: value for key, value in some.items() if key != missing} for some in (HONEST, HELD_OUT))
    with pytest.raises(KeyError, match=missing):
        protocol_rows(honest, anchors, LAST_HELD_OUT, LAST_TRAIN, 1.0, 2.0)


@pytest.mark.parametrize(
    "value, rounded",
    [
        pytest.param(0.8761, 0.88, id="as published"),
        pytest.param(0.795, 0.8, id="passes the post's gate of .8"),
        pytest.param(0.79499, 0.79, id="does not"),
        pytest.param(0.0, 0.0, id="zero"),
        pytest.param(1.0, 1.0, id="one"),
        pytest.param(0.99501, 1.0, id="as good as perfect"),
        pytest.param(0.01234, 0.012, id="digits that count, not decimals"),
    ],
)
def test_two_digits_are_two_that_count(value, rounded):
    assert two_digits(value) == rounded


def test_two_digits_of_no_number_are_none():
    assert math.isnan(two_digits(float("nan")))


# -- the table ---------------------------------------------------------------------------------------------------------


def test_the_table_ends_with_what_the_post_published():
    lines = post_protocol_table(ROWS).get_string().splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    assert cells[0] == ["how it is measured", *TITLES.values()]
    assert cells[1][1:] == ["", "", "", "", "0.31", "0.42"]
    assert cells[6][1:] == ["0.9985", "180.5", "0.0024", "0.88", "", ""]
    assert cells[7][1:] == ["0.9985", "1.4", "0.0024", "0.88", "", ""]
    assert len(cells) == 8 and max(map(len, lines)) <= 120
    assert [PUBLISHED[name] for name in list(TITLES)[:4]] == [float(cell) for cell in cells[7][1:5]]


def test_a_figure_without_meaning_leaves_its_cell_empty():
    rows = protocol_rows({"map50": math.nan, "presence_f1": 0.5}, HELD_OUT, LAST_HELD_OUT, LAST_TRAIN, 1.0, 2.0)
    assert "nan" not in post_protocol_table(rows).get_string()
