"""Does every plot get drawn, whatever is in the data, and does it leave the rest of the program alone?"""

from __future__ import annotations

import io
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from ena24ssd.boxes import Box, LabelledBox
from ena24ssd.cameratraps import CameraTrapDataset, Image
from ena24ssd.charts import DARK, LIGHT, to_png
from ena24ssd.config import RunConfig, change_config
from ena24ssd.exploration import Exploration, examine, read_for_exploration
from ena24ssd.plots import (
    MOST_SIZES,
    PLOTS,
    box_areas,
    boxes_per_picture,
    coverage,
    coverage_by_size,
    draw_plots,
    draw_samples,
    shapes_and_anchors,
    species_counts,
)
from ena24ssd.sources import Source

ON_BOXES = {name for name in PLOTS if name not in ("boxes-per-picture", "hours")}


def look(names: tuple[str, ...], *counts: int, config: RunConfig | None = None, **more) -> Exploration:
    """A dataset with so many boxes of each species, on as many pictures as the first has, and a blank one."""
    rng = np.random.default_rng(1)
    pictures: list[list[LabelledBox]] = [[] for _ in range(max([1, *counts[:1]]) + 1)]
    for label, count in enumerate(counts):
        for number in range(count):
            left, top, width, height = rng.uniform((0, 0, 20, 20), (300, 200, 300, 200))
            box = LabelledBox(label, Box(left, top, left + width, top + height))
            pictures[number % max(len(pictures) - 1, 1)].append(box)
    images = [Image(str(k), f"{k}.jpg", 640, 480, tuple(boxes), **more) for k, boxes in enumerate(pictures)]
    source = Source(CameraTrapDataset(names, tuple(images), Path(), (), "x"), None)
    return examine(source, config or RunConfig(), sample=0)


def size(png: bytes) -> tuple[int, int]:
    with Pillow.open(io.BytesIO(png)) as picture:
        picture.load()
        return picture.size


@pytest.fixture(scope="module")
def many() -> Exploration:
    names = tuple(f"Species number {number} of a genus with a very long name indeed" for number in range(60))
    return look(names, *(2000 // (number + 1) for number in range(60)))


@pytest.mark.parametrize(
    ("found", "names"),
    [
        (look(("deer",), 1, taken_at="2015-12-18 13:38:13"), set(PLOTS)),
        (look(("deer",)), {"boxes-per-picture"}),
    ],
    ids=["one box, and a time", "only blank pictures"],
)
def test_what_can_be_drawn_is_drawn(found, names):
    plots = draw_plots(found)
    assert plots.keys() == names
    for png in plots.values():
        width, height = size(png)
        assert 1000 <= width <= 1300 and 200 <= height <= 1000


@pytest.mark.parametrize("draw", [species_counts, coverage], ids=lambda draw: draw.__name__)
def test_60_species_with_long_names_have_a_line_each(many, draw):
    figure = draw(many, LIGHT)
    width, height = size(to_png(figure))
    names = figure.axes[0].get_yticklabels()
    assert width < 1300 and height > 60 * 30 and len(names) == 60
    assert max(label.get_window_extent().width for label in names) < width / 3
    edges = sorted((label.get_window_extent().y0, label.get_window_extent().y1) for label in names)
    assert all(below[1] < above[0] for below, above in pairwise(edges))  # none lies over another


@pytest.mark.parametrize(
    "name", ["$\\frac{1}{0}$", "$x$ and $y$", "_", "<b>", "ヤマネコ", "a\nb", "%s {0} \\"], ids=repr
)
def test_names_are_names_whatever_they_look_like(name, recwarn):
    assert size(to_png(species_counts(look((name, "deer"), 2, 1), LIGHT)))[0] > 1000
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_long_tails_are_drawn_by_powers_of_ten_and_short_ones_from_zero():
    tailed, even = look(("a", "b"), 400, 2), look(("a", "b"), 20, 10)
    assert species_counts(tailed, LIGHT).axes[0].get_xscale() == "log"
    axes = species_counts(even, LIGHT).axes[0]
    assert axes.get_xscale() == "linear" and axes.get_xlim()[0] == 0


def test_bars_are_sorted_and_as_long_as_the_counts():
    axes = species_counts(look(("a", "b", "c"), 4, 9, 6), LIGHT).axes[0]
    assert [bar.get_width() for bar in axes.patches[:3]] == [9, 6, 4]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", "c", "a"]


def test_crowded_pictures_share_the_last_bar():
    found = look(("a",), 2)
    crowd = found.dataset.images[0]._replace(boxes=found.dataset.images[0].boxes * 30)
    dataset = CameraTrapDataset(("a",), (crowd, *found.dataset.images), Path(), (), "x")
    axes = boxes_per_picture(examine(Source(dataset, None), RunConfig(), sample=0), LIGHT).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()][-1] == "20+"
    assert [bar.get_height() for bar in axes.patches] == [1, 2, *[0] * 18, 1]


def test_areas_are_those_that_were_counted():
    found = look(("a",), 50)
    values, edges, _ = box_areas(found, LIGHT).axes[0].patches[0].get_data()
    assert values.sum() == 50 and len(edges) == len(values) + 1


@pytest.mark.parametrize("name", ["species", "places-in-picture"])
def test_dark_plots_are_dark_and_as_large_and_the_same_data_give_the_same_files(name):
    found, (draw, _) = look(("a", "b"), 5, 3), PLOTS[name]
    light, dark, again = (to_png(draw(found, theme)) for theme in (LIGHT, DARK, LIGHT))
    assert size(light) == size(dark) and light == again
    corner = [Pillow.open(io.BytesIO(png)).convert("L").getpixel((0, 0)) for png in (light, dark)]
    assert corner[0] == 255 and corner[1] < 40


PYRAMID = change_config(
    RunConfig(),
    {
        "model.backbone": "efficientnet_lite0",
        "data.image_side": 128,
        "model.levels": [8, 16, 32, 64],
        "model.sizes": [[0.2], [0.4], [0.6], [0.9]],
        "model.ratios": [1, 0.5],
    },
)


@pytest.mark.parametrize("boxes", [1, 500])
@pytest.mark.parametrize("config", [None, PYRAMID], ids=["one level", "four levels"])
def test_coverage_by_size_is_that_of_equally_many_boxes_from_the_smallest_on(boxes, config):
    found = look(("a",), boxes, config=config)
    perfect, configured, suggested = coverage_by_size(found, LIGHT).axes[0].lines[:3]
    square = found.boxes.square
    side = np.sqrt((square[:, 2] - square[:, 0]) * (square[:, 3] - square[:, 1])) * found.image_side
    for line, matches in zip((configured, suggested, perfect), found.anchors.matches):
        assert len(line.get_ydata()) == (1 if boxes == 1 else MOST_SIZES)
        assert (np.diff(line.get_xdata()) > 0).all()
        smallest = np.argsort(side)[: -(-boxes // len(line.get_ydata()))]
        assert line.get_ydata()[0] == pytest.approx(matches[smallest].mean())
        assert line.get_xdata()[0] == pytest.approx(np.median(side[smallest]))


def test_levels_are_named_where_their_scales_are_and_drawn_as_stars():
    found = look(("a",), 300, config=PYRAMID)
    words = [text.get_text() for text in coverage_by_size(found, LIGHT).axes[0].texts]
    assert words and set(words) <= {f"cells of {stride} px" for stride in (8, 16, 32, 64)}
    assert not coverage_by_size(look(("a",), 300), LIGHT).axes[0].texts
    axes = shapes_and_anchors(found, LIGHT).axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["configured anchors", "suggested anchors"]
    markers = [line for line in axes.lines if line.get_linestyle() == "None"]
    assert [len(line.get_xdata()) for line in markers] == [2] * 8


def test_pyplot_stays_out_of_it():
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_samples_show_every_species_once_at_least_and_skip_what_cannot_be_read(scenes, tmp_path):
    source, _ = read_for_exploration(change_config(RunConfig(), {"data.path": scenes}))
    found = examine(source, RunConfig(), sample=5)
    sheet = draw_samples(found)
    assert sheet.width > 900 and len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)) > 1000
    lost = examine(
        Source(CameraTrapDataset(("a",), (Image("1", "no.jpg", 9, 9),), tmp_path, (), "x"), None), RunConfig()
    )
    assert draw_samples(lost) is None and len(lost.light.unreadable) == 1
