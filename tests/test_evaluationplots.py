"""Is every plot of an evaluation drawn, whatever was found, and does it show the figures that it is given?"""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image as Pillow

from ena24ssd.bootstrap import group_by
from ena24ssd.calibration import fit
from ena24ssd.cases import Cases, Found, Truth
from ena24ssd.charts import DARK, LIGHT, to_png
from ena24ssd.evaluationplots import (
    MISTAKES,
    MOST_CELLS,
    MOST_PANELS,
    PLOTS,
    _fold,
    confusion,
    draw_plots,
    f1_by_threshold,
    mistakes,
    precision_recall,
    reliability,
    review,
    species_scores,
)
from ena24ssd.matching import match
from ena24ssd.scores import Scores, score

NAMES = ("deer", "fox", "raccoon", "opossum")
WIDTH, HEIGHT = 640, 480


def make_cases(
    pictures: int = 60, names: tuple[str, ...] = NAMES, *, blanks: float = 0.3, skill: float = 0.8, seed: int = 0
) -> Cases:
    """Pictures of one or two animals, of which a share ``skill`` is found, some misnamed, and false alarms."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for picture in range(pictures):
        for _ in range(int(rng.integers(1, 3)) if rng.random() >= blanks else 0):
            label = int(rng.integers(len(names)))
            left, top = rng.uniform(0, 300, 2)
            box = np.array([left, top, left + rng.uniform(20, 300), top + rng.uniform(20, 170)])
            truth.append((picture, label, *box))
            if rng.random() < skill:
                named = label if rng.random() < 0.8 else int(rng.integers(len(names)))
                found.append((picture, named, rng.beta(5, 2), *(box + rng.normal(0, 3, 4))))
        if skill and rng.random() < 0.4:
            found.append((picture, int(rng.integers(len(names))), rng.beta(1, 4), 10, 10, 90, 90))
    real, seen = np.array(truth).reshape(-1, 6), np.array(found).reshape(-1, 7)
    cases = Cases(
        names,
        tuple(str(number) for number in range(pictures)),
        np.tile([float(WIDTH), float(HEIGHT)], (pictures, 1)),
        Truth(real[:, 0].astype(np.int64), real[:, 1].astype(np.int64), real[:, 2:]),
        Found(seen[:, 0].astype(np.int64), seen[:, 1].astype(np.int64), seen[:, 2], seen[:, 3:]),
    )
    return cases.with_found(cases.found)


def make_scores(cases: Cases, *, calibrated: bool = True, threshold: float = 0.5, **more) -> Scores:
    """Bursts of three pictures; calibrated on other pictures of the same kind."""
    other = make_cases(40, cases.class_names, seed=1)
    calibration = fit(other, match(other), 0.95, "validation", 7) if calibrated else None
    bursts = group_by((place // 3 for place in range(len(cases))), "sequences")
    return score(
        cases, bursts, threshold=threshold, resamples=more.pop("resamples", 0), calibration=calibration, **more
    )


def size(png: bytes) -> tuple[int, int]:
    with Pillow.open(io.BytesIO(png)) as picture:
        picture.load()
        return picture.size


def words(figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


@pytest.fixture(scope="module")
def scores() -> Scores:
    return make_scores(make_cases(), resamples=100)


ON_BOXES = {"species", "precision-recall", "confusion", "mistakes", "sizes", "review"}


@pytest.mark.parametrize(
    ("cases", "names"),
    [
        (make_cases(), set(PLOTS)),
        (make_cases(9, ("deer",), blanks=0), set(PLOTS)),
        (make_cases(9, skill=0), ON_BOXES),
        (make_cases(30, blanks=1), {"confusion", "mistakes", "reliability"}),
        (make_cases(9, blanks=1, skill=0), set()),
        (make_cases(0), set()),
    ],
    ids=["a usual case", "one species", "nothing found", "only blank pictures", "blank and silent", "no pictures"],
)
def test_what_can_be_drawn_is_drawn(cases, names):
    plots = draw_plots(make_scores(cases, calibrated=False))
    assert plots.keys() == names
    for png in plots.values():
        width, height = size(png)
        assert 1100 <= width <= 1200 and 200 <= height <= 1300


def test_every_species_has_a_panel_until_there_are_too_many():
    few, many = (make_scores(make_cases(120, tuple(f"species {k}" for k in range(n)))) for n in (6, 40))
    assert len(precision_recall(few, LIGHT).axes) == 1 + sum(one.boxes > 0 for one in few.species)
    figure = precision_recall(many, LIGHT)
    assert len(figure.axes) == MOST_PANELS
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    boxes = {one.name: one.boxes for one in many.species}
    assert titles[0] == "all species"
    assert [boxes[name] for name in titles[1:]] == sorted(boxes.values(), reverse=True)[: MOST_PANELS - 1]


def test_the_dot_on_a_curve_is_the_threshold_in_use(scores):
    figure = precision_recall(scores, LIGHT)
    [recall], [precision] = figure.axes[0].lines[1].get_data()
    assert recall == pytest.approx(scores.figures["detection/recall"])
    assert precision == pytest.approx(scores.figures["detection/precision"])


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5, 0.61803, 0.9])
def test_the_f1_drawn_at_a_threshold_is_the_f1_there(scores, threshold):
    [line] = [line for line in f1_by_threshold(scores, LIGHT).axes[0].lines if line.get_label() == "F1"]
    at, f1 = line.get_data()
    drawn = f1[np.searchsorted(at, threshold)]  # steps: what holds at a score holds from the score before it on
    there = make_scores(scores.cases, calibrated=False, threshold=threshold).figures["detection/f1"]
    assert drawn == pytest.approx(there)


def test_the_matrix_shows_every_count_once(scores):
    counts = sorted(str(count) for count in scores.confusion.ravel() if count)
    assert sorted(words(confusion(scores, LIGHT))) == counts


@pytest.mark.parametrize("species", [MOST_CELLS, MOST_CELLS + 1, MOST_CELLS + 13])
def test_rare_species_share_a_row_when_there_are_many(species):
    counts = np.random.default_rng(0).integers(1, 9, (species + 1, species + 1))
    counts[-1, -1] = 0
    folded, names = _fold(counts, [f"species {k}" for k in range(species)])
    assert folded.shape == (min(species, MOST_CELLS) + 1,) * 2 and len(names) == len(folded) - 1
    assert folded.sum() == counts.sum() and folded[-1, -1] == 0
    rows = folded.sum(axis=1)[: len(names) - (species > MOST_CELLS)]
    assert (np.diff(rows) <= 0).all()
    if species > MOST_CELLS:
        assert names[-1] == f"{species - MOST_CELLS + 1} other species"


def test_species_neither_there_nor_found_have_no_row():
    counts = np.zeros((4, 4), dtype=np.int64)
    counts[0, 3] = counts[3, 2] = 1
    folded, names = _fold(counts, ["missed", "neither", "invented"])
    assert names == ["missed", "invented"] and folded.tolist() == [[0, 0, 1], [0, 0, 0], [0, 1, 0]]


def test_ranges_are_drawn_where_they_are_known(scores):
    best = max(scores.species, key=lambda one: one.ap50)
    spans, _ = species_scores(scores, LIGHT).axes[0].collections
    assert spans.get_segments()[0][:, 0].tolist() == pytest.approx(list(best.ap50_range))
    without = make_scores(scores.cases)
    assert size(to_png(species_scores(without, LIGHT)))[0] > 1000


def test_every_kind_of_mistake_has_its_count_and_its_cost(scores):
    assert list(MISTAKES) == list(scores.mistakes.counts)
    left, right = mistakes(scores, LIGHT).axes
    assert [bar.get_width() for bar in left.patches] == list(scores.mistakes.counts.values())
    assert [bar.get_width() for bar in right.patches] == pytest.approx(list(scores.mistakes.costs.values()))


def test_the_review_marks_what_the_figures_say(scores):
    [dot] = [line for line in review(scores, LIGHT).axes[0].lines if line.get_marker() == "o"]
    skipped, recall = (float(value[0]) for value in dot.get_data())
    assert (skipped, recall) == (scores.figures["review/skipped"], scores.figures["review/recall"])


@pytest.mark.parametrize(("calibrated", "curves"), [(False, 1), (True, 2)])
def test_scores_are_shown_before_and_after_the_temperature(scores, calibrated, curves):
    figure = reliability(make_scores(scores.cases, calibrated=calibrated), LIGHT)
    assert len(figure.axes[0].lines) == 1 + curves


@pytest.mark.parametrize("name", ["$\\frac{1}{0}$", "_", "ヤマネコ", "a\nb", "%s {0} \\", "very long " * 9], ids=repr)
def test_names_are_names_whatever_they_look_like(name, recwarn):
    odd = make_scores(make_cases(20, (name, "deer")))
    for draw in (species_scores, confusion, precision_recall):
        assert size(to_png(draw(odd, LIGHT)))[0] > 1000
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_dark_plots_are_dark_and_as_large_and_the_same_scores_give_the_same_files(scores):
    light, dark, again = (to_png(confusion(scores, theme)) for theme in (LIGHT, DARK, LIGHT))
    assert size(light) == size(dark) and light == again
    corner = [Pillow.open(io.BytesIO(png)).convert("L").getpixel((0, 0)) for png in (light, dark)]
    assert corner[0] == 255 and corner[1] < 40


def test_pyplot_stays_out_of_it():
    code = "import sys, ena24ssd.evaluationplots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
