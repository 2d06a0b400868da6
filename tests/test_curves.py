"""Is what happened in training drawn, all of it, and the same way every time?"""

from __future__ import annotations

import math
import sys
import xml.etree.ElementTree as xml
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex

from ena24ssd import curves
from ena24ssd.charts import LIGHT
from ena24ssd.config import read_config
from ena24ssd.curves import PANELS, RUN_COLOURS, draw_curves, plot_curves, unknown_letters
from ena24ssd.runs import Run, RunError, create_run
from ena24ssd.splits import SIDES, Split

FLOOR = {"train": 0.97, "validation": 0.98, "test": 0.975}


def make_run(folder: Path, *, epochs: int = 5, done: int | None = None, close=True, splits=SIDES, **figures) -> Run:
    """A run folder whose figures fall or rise evenly; ``figures`` are functions of the epoch that replace some."""
    done = epochs if done is None else done
    ids = {side: (f"{side}0",) if side in splits else () for side in SIDES}
    run = create_run(folder, read_config(overrides=[f"train.epochs={epochs}"]), ("Bird",), Split(**ids))
    rows = [make_row(epoch, side, figures) for epoch in range(done) for side in splits]
    run.add_rows(*rows, *({**row, "closing": True} for row in rows if close and row["epoch"] == done - 1))
    return run


def make_row(epoch: int, side: str, figures) -> dict:
    part = (epoch + 1) / (epoch + 2)
    row = {"epoch": epoch, "split": side, "anchor/accuracy_all_background": FLOOR[side]}
    row |= {"anchor/log_loss": 9 - 8 * part, "anchor/accuracy": 0.9 + 0.09 * part, "anchor/micro_f1": 0.8 * part}
    row |= {"anchor/mae": 0.03 - 0.02 * part, "anchor/mae_per_positive": 1 - 0.5 * part}
    if side != "train":
        row["detection/map50"] = 0.7 * part
    return row | {f"anchor/{name}": value(epoch) for name, value in figures.items()}


def panel_of(sheet, title: str):
    return next(axes for axes in sheet.axes if axes.get_title(loc="left").startswith(title))


def words_of(sheet) -> list[str]:
    """What the legends say: the name of the one run first, or the names of several last."""
    texts = [text for legend in sheet.legends for text in (legend.get_title(), *legend.get_texts())]
    return [text.get_text() for text in texts if text.get_text()]


def floors_of(sheet) -> list[tuple[str, float]]:
    """The colour and height of every line that says what answering "background" scores."""
    thin = [line for line in panel_of(sheet, "Accuracy").lines if line.get_linewidth() == 0.9]
    return [(line.get_color(), line.get_ydata()[0]) for line in thin]


def solid_lines(axes) -> list:
    return [line for line in axes.lines if line.get_linestyle() == "-" and len(line.get_xdata()) > 1]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("curves") / "first")


@pytest.fixture(scope="module")
def sheet(run):
    return plot_curves([run])


def test_the_posts_four_plots_come_first_and_map_is_called_the_figure_to_read(sheet):
    titles = [axes.get_title(loc="left") for axes in sheet.axes]
    assert titles[:4] == ["Log loss", "Accuracy", "MAE", "Micro-F1"]
    assert titles[4:] == ["mAP at IoU .5 (the figure to read)", "MAE of positive anchors alone"]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.title)
def test_a_line_is_what_the_rows_say(run, sheet, panel):
    lines = solid_lines(panel_of(sheet, panel.title))
    sides = [side for side in SIDES if panel.name.startswith("anchor") or side != "train"]
    rows = [row for row in run.rows() if "closing" not in row]
    expected = [[row[panel.name] for row in rows if row["split"] == side] for side in sides]
    assert [list(line.get_ydata()) for line in lines] == expected
    assert all(list(line.get_xdata()) == [0, 1, 2, 3, 4] for line in lines)


def test_one_run_has_a_colour_for_each_split_and_its_name_above(sheet):
    assert words_of(sheet) == ["first", *SIDES, "all background", "checkpoint kept"]
    assert len({line.get_color() for line in solid_lines(panel_of(sheet, "Log loss"))}) == 3


def test_several_runs_have_a_colour_each_and_splits_a_style(tmp_path):
    runs = [make_run(tmp_path / name) for name in "abc"]
    sheet = plot_curves(runs)
    assert words_of(sheet) == [*SIDES, "all background", "checkpoint kept", "a", "b", "c"]
    lines = [line for line in panel_of(sheet, "Log loss").lines if len(line.get_xdata()) > 1]
    assert [line.get_color() for line in lines] == list(RUN_COLOURS[:3]) * 3
    styles = [line._dash_pattern for line in lines]
    assert len({str(style) for style in styles}) == 3 and styles[0] == styles[1] != styles[3]


@pytest.mark.parametrize(
    ("splits", "shown"),
    [(SIDES, SIDES), (("test",), ("test",)), (("test", "train"), ("train", "test"))],
    ids=["all", "one", "two, in any order"],
)
def test_only_the_splits_that_are_asked_for_are_drawn(run, splits, shown):
    assert tuple(word for word in words_of(plot_curves([run], splits)) if word in SIDES) == shown


def test_the_floor_of_accuracy_is_that_of_the_split_that_judges_once_where_all_runs_share_it(tmp_path):
    runs = [make_run(tmp_path / name) for name in "ab"]
    assert floors_of(plot_curves(runs[:1])) == floors_of(plot_curves(runs)) == [(LIGHT.ink, FLOOR["test"])]


def test_runs_with_other_test_pictures_have_a_floor_each_in_their_colour(tmp_path):
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", accuracy_all_background=lambda epoch: 0.5)]
    assert floors_of(plot_curves(runs)) == [(RUN_COLOURS[0], FLOOR["test"]), (RUN_COLOURS[1], 0.5)]


@pytest.mark.parametrize(
    ("close", "kept"), [(True, 4), (False, 4)], ids=["closing rows say it", "the best on validation until now"]
)
def test_the_kept_epoch_is_marked(tmp_path, close, kept):
    sheet = plot_curves([make_run(tmp_path / "run", close=close)])
    marks = [line for line in panel_of(sheet, "mAP").lines if line.get_marker() == "o"]
    assert [list(line.get_xdata()) for line in marks] == [[kept], [kept]]


def test_a_value_that_was_not_finite_breaks_the_line_and_is_marked(tmp_path):
    bad = (1, 3)
    run = make_run(tmp_path / "run", log_loss=lambda epoch: math.nan if epoch in bad else 5.0 - epoch)
    sheet = plot_curves([run], ["test"])
    line, alone, marks, _ = panel_of(sheet, "Log loss").lines
    assert np.isnan(line.get_ydata()).tolist() == [epoch in bad for epoch in range(5)]
    assert list(alone.get_xdata()) == [0, 2, 4] and list(marks.get_xdata()) == [1, 3]
    assert words_of(sheet)[-1] == "not finite"


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (dict(epochs=1), None),
        (dict(epochs=300), None),
        (dict(splits=("train",)), "measured on validation and test alone"),
        (dict(log_loss=lambda epoch: math.inf), "no value"),
        (dict(log_loss=lambda epoch: 0.0, micro_f1=lambda epoch: 0.0, accuracy=lambda epoch: 1.0), None),
        (dict(log_loss=lambda epoch: 1e6 if epoch == 2 else 1e-3), "(logarithmic)"),
        (dict(epochs=50, done=2, close=False), "2 of 50 epochs so far"),
    ],
    ids=[
        "one epoch",
        "many epochs",
        "training alone",
        "no finite loss",
        "figures that never change",
        "a loss of many sizes",
        "still running",
    ],
)
def test_whatever_happened_is_drawn_and_said(tmp_path, how, said, recwarn):
    sheet = plot_curves([make_run(tmp_path / "run", **how)])
    sheet.canvas.draw()
    width, height = sheet.canvas.get_width_height()
    assert width == 1152 and 900 < height < 1100
    texts = [text.get_text() for axes in sheet.axes for text in (*axes.texts, axes.title, axes._left_title)]
    assert said is None or said in " ".join(texts + words_of(sheet))
    assert not list(recwarn)  # of matplotlib: limits that are equal, a layout that collapsed
    for axes in sheet.axes:
        low, high = axes.get_ylim()
        values = np.concatenate([line.get_ydata() for line in axes.lines if line.get_marker() != "x"] or [[low]])
        assert low < high and np.all(np.isnan(values) | ((low <= values) & (values <= high)))


@pytest.mark.parametrize(
    ("name", "others"),
    [("x" * 200, 9), ("W" * 120, 0), ("_x", 1), ("$\\frac{1}{0}$ <b> \x07 " + "ヤマネコ" * 16, 0)],
    ids=["long, one of ten", "wide letters", "an underscore", "a formula, a bell, letters the font lacks"],
)
def test_no_name_leaves_the_sheet_or_is_read_as_a_formula(tmp_path, name, others, recwarn):
    runs = [make_run(tmp_path / name, epochs=2), *(make_run(tmp_path / f"r{k}", epochs=2) for k in range(others))]
    sheet = plot_curves(runs)
    with unknown_letters():
        sheet.canvas.draw()
    shown = "".join("".join(words_of(sheet)).split("\n"))
    assert "".join(letter if letter.isprintable() else "\\x07" for letter in name) in shown
    across, up = sheet.canvas.get_width_height()
    boxes = [legend.get_window_extent() for legend in sheet.legends]
    assert all(min(box.x0, box.y0) >= 0 and box.x1 <= across and box.y1 <= up for box in boxes)
    panels = [axes.get_tightbbox() for axes in sheet.axes]
    assert not any(box.overlaps(panel) for box in boxes for panel in panels)
    assert min(panel.height for panel in panels) > 150 and not list(recwarn)


def test_runs_of_one_name_are_told_apart_and_one_run_named_twice_is_one(tmp_path):
    first, second = make_run(tmp_path / "a" / "run"), make_run(tmp_path / "b" / "run")
    assert words_of(plot_curves([first, second]))[-2:] == ["a/run", "b/run"]
    assert words_of(plot_curves([first, first]))[0] == "run"


def test_a_run_without_an_epoch_is_named_beside_the_others(tmp_path):
    runs = [make_run(tmp_path / "new", epochs=7, done=0), make_run(tmp_path / "old")]
    assert words_of(plot_curves(runs))[-2:] == ["new (0 of 7 epochs so far)", "old"]


def draw_twice(runs: list[Run], folder: Path, name: str) -> bytes:
    """The file, which is the same both times and alone in its folder."""
    for place in ("1", "2"):
        draw_curves(runs, folder / place / name)
        assert [path.name for path in (folder / place).iterdir()] == [name]
    one, other = ((folder / place / name).read_bytes() for place in ("1", "2"))
    assert one == other
    return one


def test_the_same_rows_give_the_same_png_to_the_byte(run, tmp_path):
    assert draw_twice([run], tmp_path, "curves.png").startswith(b"\x89PNG")


def test_the_same_rows_give_the_same_svg_which_holds_names_as_text_and_no_date(tmp_path):
    runs = [make_run(tmp_path / "runs" / name) for name in ("ヤマネコ", "<i>&", "$a$")]
    text = draw_twice(runs, tmp_path, "curves.SVG").decode()
    words = {element.text for element in xml.fromstring(text).iter() if element.text}
    assert words >= {"ヤマネコ", "<i>&", "$a$", "Micro-F1"} and "date>" not in text


def test_colours_of_runs_can_be_seen_on_white_and_are_all_different():
    def brightness(colour: str) -> float:
        parts = [int(to_hex(colour)[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    assert len(set(RUN_COLOURS)) == len(RUN_COLOURS)
    assert all(1.05 / (brightness(colour) + 0.05) > 2.1 for colour in RUN_COLOURS)


@pytest.mark.parametrize(
    ("name", "why"),
    [("curves.jpg", r"\.png or \.svg.*curves\.png"), ("curves", "has no ending"), ("a.b/curves", "has no ending")],
    ids=["a kind that is not drawn", "no ending", "a dot in the folder alone"],
)
def test_another_kind_of_file_is_refused_with_those_that_are_drawn(run, tmp_path, name, why):
    with pytest.raises(ValueError, match=why):
        draw_curves([run], tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_drawn_says_why(tmp_path):
    new = make_run(tmp_path / "new", done=0)
    with pytest.raises(RunError, match="new: no finished epoch"):
        plot_curves([new])
    with pytest.raises(RunError, match="no finished epoch of test"):
        plot_curves([make_run(tmp_path / "train-only", splits=("train",))], ["test"])
    with pytest.raises(RunError, match=r"13 runs: .* 12 colours"):
        plot_curves([make_run(tmp_path / f"{number}", done=1) for number in range(13)])
    new.metrics_file.write_text("rubbish\n")
    with pytest.raises(RunError, match="line 1 is no row"):
        plot_curves([new])


@pytest.mark.parametrize("place", ["a folder", "below a file"])
def test_a_place_that_cannot_be_written_to_is_a_clear_mistake(run, tmp_path, monkeypatch, place):
    monkeypatch.setattr(curves, "to_png", lambda sheet: b"new")
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    file = tmp_path / "folder.png" if place == "a folder" else tmp_path / "file" / "curves.png"
    with pytest.raises(RunError, match=r"\.png: "):
        draw_curves([run], file)


def test_a_full_disk_leaves_the_old_file(run, tmp_path, monkeypatch):
    monkeypatch.setattr(curves, "to_png", lambda sheet: b"new")
    (tmp_path / "curves.png").write_bytes(b"old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunError, match="No space left on device"):
        draw_curves([run], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes() == b"old"


def test_pyplot_stays_out_of_it(run):
    plot_curves([run])
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
