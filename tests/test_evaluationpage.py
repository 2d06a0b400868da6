"""Does the page of an evaluation say what the figures say, in words, whoever wrote the names in it?"""

from __future__ import annotations

import re
from dataclasses import replace
from math import nan

import numpy as np
import pytest
from PIL import Image as Pillow
from test_evaluationplots import HEIGHT, NAMES, WIDTH, make_cases, make_scores
from test_report import EVIL, Page

from ena24ssd.boxes import Box, LabelledBox
from ena24ssd.cameratraps import Image
from ena24ssd.cases import Found, gather
from ena24ssd.detections import Detection
from ena24ssd.evaluationpage import Heading, Pair, choose_pictures, draw_pairs, render, write_page
from ena24ssd.evaluationplots import PLOTS
from ena24ssd.pages import percent, two_digits
from ena24ssd.protocol import protocol_rows
from ena24ssd.scores import Scores

SUBJECT = Heading("runs/a", "traps", "test", 7)
ANCHORS = {"accuracy": 0.994, "log_loss": 1.25, "mae": 0.003, "micro_f1": 0.41}
DRAWN = dict.fromkeys(PLOTS, b"a plot")  # drawing takes most of the time and is tested by itself


def page_of(scores: Scores, heading: Heading = SUBJECT, **more) -> Page:
    return Page(render(scores, heading, DRAWN, DRAWN, **more))


def quote(page: Page, start: str) -> str:
    """The sentence that starts so."""
    return re.search(re.escape(start) + r".*?[.:] ", page.text + " ")[0]


@pytest.fixture(scope="module")
def scores() -> Scores:
    return make_scores(make_cases(), resamples=100)


@pytest.mark.parametrize(
    ("cases", "says"),
    [
        (make_cases(9, ("deer",), blanks=0), "These pictures show one species, deer"),
        (make_cases(9, blanks=0), "There is no blank picture among these"),
        (make_cases(9, skill=0), "At this threshold it names no species at all."),
        (make_cases(30, blanks=1), "No picture shows an animal"),
        (make_cases(0), "No picture shows an animal"),
        (make_cases(60, (*NAMES, "unicorn")).take(np.arange(60) < 2), "more species that these pictures do not show"),
    ],
    ids=["one species", "no blanks", "nothing found", "only blank pictures", "no pictures", "species that are absent"],
)
@pytest.mark.parametrize("calibrated", [False, True], ids=["as it is", "calibrated"])
def test_a_page_of_whatever_there_is(cases, says, calibrated):
    scores = make_scores(cases, calibrated=calibrated)
    drawn = {name: b"" for name, (_, has_data) in PLOTS.items() if has_data(scores)}
    page = Page(render(scores, SUBJECT, drawn, drawn))
    assert says in page.text
    assert not re.search(r"\b(nan|None|inf)\b", page.text)


def test_the_sentences_hold_the_figures(scores):
    page, figures = page_of(scores), scores.figures
    assert percent(figures["presence/recall"]).replace("\xa0", " ") in quote(page, "Where a species is on a picture")
    assert percent(1 - figures["blank/specificity"]).replace("\xa0", " ") in quote(page, "Of the blank pictures")
    assert f"{scores.confusion[:, -1].sum()} of {len(scores.cases.truth.label)} animals are missed" in page.text
    assert f"from {figures['detection/map50']:.2f}." in page.text and "20 there are: pictures of one burst" in page.text
    truly, found = np.unravel_index(np.argmax(scores.confusion[:-1, :-1] * (1 - np.eye(4))), (4, 4))
    assert f"boxes of {NAMES[truly]} are found as {NAMES[found]}" in page.text


def test_the_table_shows_each_figure_with_range_and_baselines(scores):
    low, high = scores.ranges["presence/f1"]
    rest = [scores.tuned["presence/f1"], *(figures["presence/f1"] for figures in scores.baselines.values())]
    row = f"species on pictures: F1{scores.figures['presence/f1']:.2f}{low:.2f} to {high:.2f}"
    assert row + "".join(f"{value:.2f}" for value in rest) in page_of(scores).text
    alone = page_of(replace(scores, ranges={}, tuned=None, baselines={}, resamples=0)).text
    assert f"species on pictures: F1{scores.figures['presence/f1']:.2f} species" in alone and "Ranges hold" not in alone


@pytest.mark.parametrize(
    ("subject", "says"),
    [
        (SUBJECT, "Measured on traps, split test, with the weights of epoch 7. A detection"),
        (Heading("found.json", "traps"), "Measured on traps. A detection"),
        (SUBJECT._replace(split="train"), "The model learnt from these very pictures."),
        (SUBJECT._replace(unreadable=1), "1 picture that could not be read is left out."),
        (SUBJECT._replace(unreadable=1200), "1,200 pictures that could not be read are left out."),
    ],
    ids=["a run", "a file of detections", "training pictures", "one unreadable", "many unreadable"],
)
def test_the_head_says_what_was_measured_on_what(scores, subject, says):
    assert says in page_of(scores, subject).text


def test_the_ways_of_the_post_stand_beside_the_true_figures(scores):
    rows = protocol_rows({"map50": 0.41, "presence_f1": 0.52}, ANCHORS, ANCHORS, ANCHORS, 1.5, 6.0)
    anchors = {f"anchor/{name}": value for name, value in ANCHORS.items()}
    anchors |= {"anchor/accuracy_all_background": 0.993, "anchor/accuracy_positives": 0.6}
    text = page_of(scores, protocol=rows, anchors=anchors).text
    assert "accuracy is 0.9940. Calling every anchor background scores 0.9930" in text
    assert all(row.title in text for row in rows) and "published in the post" in text
    assert "As the post measured" not in page_of(scores).text


def test_one_file_without_scripts_or_requests(scores, tmp_path):
    earlier = tmp_path / "plots" / "review.png"
    earlier.parent.mkdir()
    earlier.write_bytes(b"of other data")
    pair = Pair("a.jpg. deer: found", Pillow.new("RGB", (20, 10)))
    blank = make_scores(make_cases(30, blanks=1), calibrated=False)
    path = write_page(tmp_path, blank, SUBJECT, worst=[pair], best=[pair])
    assert path == tmp_path / "report.html"
    assert {file.stem for file in earlier.parent.iterdir()} == {"confusion", "mistakes", "reliability"}
    page = Page(path.read_text("utf-8"))
    assert not {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object", "form", "a", "base"}
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "srcset", "href"):
            assert attributes.get(name, "data:image/").startswith("data:image/"), (tag, name)
    policy = [each["content"] for _, each in page.elements if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    assert len(images) == 5 and all(image["alt"] for image in images)


@pytest.mark.parametrize("name", [EVIL, "\"><img src=x onerror='1'>", "{{ 7 * 7 }}", "{% for %}"])
def test_names_from_files_are_only_text(name):
    scores = make_scores(make_cases(40, (name, "deer", name + "!")))
    pair = Pair(name, Pillow.new("RGB", (4, 4)))
    page = page_of(scores, Heading(name, name, name), worst=[pair], best=[pair])
    assert "".join(page.words).count(name) > 6
    assert "script" not in {tag for tag, _ in page.elements}
    assert not any("onerror" in attributes for _, attributes in page.elements)


def scenes() -> tuple[Scores, list[Image]]:
    """Six pictures in three bursts, each with what its name says."""
    here, there = Box(20, 20, 220, 220), Box(300, 20, 500, 220)
    deer, fox = ((label, NAMES[label]) for label in (0, 1))
    rows = [  # file, truth, detections
        ("perfect deer.jpg", [(0, here)], [(*deer, 0.95, here)]),
        ("missed deer.jpg", [(0, here), (0, there)], [(*deer, 0.9, here)]),
        ("sure of a fox.jpg", [(0, here)], [(*fox, 0.9, here)]),
        ("faint deer.jpg", [(0, here)], [(*deer, 0.6, here), (*deer, 0.4, there)]),
        ("perfect fox.jpg", [(1, there)], [(*fox, 0.8, there)]),
        ("ghost.jpg", [], [(*fox, 0.7, here)]),
    ]
    images = [
        Image(str(number), name, WIDTH, HEIGHT, tuple(LabelledBox(*box) for box in truth))
        for number, (name, truth, _) in enumerate(rows)
    ]
    detections = [[Detection(*one) for one in found] for *_, found in rows]
    cases = gather(images, detections, NAMES)
    return make_scores(cases, calibrated=False), images


def test_the_worst_and_the_best_pictures_are_of_different_kinds_first():
    scores, images = scenes()
    names = [[images[place].file_name for place in chosen] for chosen in choose_pictures(scores, 9, 9)]
    # The fox that is a deer costs most, and is of the first burst; so the ghost of the second comes before its sibling.
    assert names[0] == ["sure of a fox.jpg", "ghost.jpg", "missed deer.jpg"]
    assert names[1] == ["perfect deer.jpg", "perfect fox.jpg", "faint deer.jpg"]
    worst, best = choose_pictures(scores, 1, 2)
    assert ([*worst], [*best]) == ([2], [0, 4])
    assert choose_pictures(make_scores(make_cases(0))) == ([], [])


def test_nothing_found_has_worst_pictures_and_no_best():
    cases = make_cases(9).with_found(Found(*(column[:0] for column in make_cases(9).found)))
    worst, best = choose_pictures(make_scores(cases))
    assert len(worst) == 6 and best == []


def test_a_pair_shows_truth_and_detections_and_says_what_is_wrong(tmp_path):
    scores, images = scenes()
    for image in images[:-1]:
        Pillow.new("RGB", (WIDTH, HEIGHT), (90, 120, 90)).save(tmp_path / image.file_name)
    pairs = draw_pairs(scores, images, range(len(images)), lambda image: tmp_path / image.file_name, 200)
    assert [pair.caption.split(". ")[1] for pair in pairs] == [
        "deer: found",
        "deer: 1 of 2 found",
        "deer: not found; wrong: fox 0.90 (wrong species)",
        "deer: found",
        "fox: found",
        "blank; wrong: fox 0.70 (nothing there)",
    ]
    assert {pair.picture.size for pair in pairs} == {(200 + 6 + 200, 150)}
    half = [np.asarray(pairs[0].picture)[:, start : start + 200].astype(int) for start in (0, 206)]
    assert np.ptp(half[0], axis=2).max() < 40  # truth is white and black on the picture's own green
    assert np.ptp(half[1], axis=2).max() > 100  # a detection has the colour of its species


@pytest.mark.parametrize(
    ("share", "says"),
    [
        (0.0, "0 %"),
        (1.0, "100 %"),
        (0.9996, "99.9 %"),
        (0.5, "50 %"),
        (0.0321, "3.2 %"),
        (0.00012, "0.012 %"),
        (nan, "–"),  # noqa: RUF001
    ],
)
def test_a_share_is_never_rounded_to_none_or_to_all(share, says):
    assert percent(share).replace("\xa0", " ") == says


def test_a_figure_without_meaning_is_a_dash():
    assert [two_digits(value) for value in (0.125, nan, None)] == ["0.12", "–", "–"]  # noqa: RUF001
