"""Does a comparison of runs say what their folders say, and does it get through whatever stands between them?"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from ena24ssd import comparison
from ena24ssd.comparison import (
    compare_runs,
    comparison_records,
    comparison_table,
    differing_choices,
    figure,
    read_history,
    tell_apart,
)
from ena24ssd.config import read_config
from ena24ssd.runs import Run, RunError, create_run
from ena24ssd.splits import Split

ALL = ("train", "validation", "test")


def make_run(folder: Path, *choices: str, epochs: int = 2, done: int = 2, close=True, splits=ALL, gain=0.1) -> Run:
    """A run folder as training leaves it: epoch e scores gain * (e + 1) on validation, half of it on test."""
    config = read_config(overrides=[f"train.epochs={epochs}", "data.path=/data/ena24", *choices])
    ids = {side: tuple(f"{side}{number}" for number in range(3)) if side in splits else () for side in ALL}
    run = create_run(folder, config, ("Bird", "Red Fox"), Split(**ids))
    rows = [make_row(epoch, side, gain) for epoch in range(done) for side in splits]
    run.add_rows(*rows, *({**row, "closing": True} for row in rows if close and row["epoch"] == done - 1))
    for epoch in range(done):
        run.add_speed({"epoch": epoch, "seconds": 30.0 + epoch, "pictures_per_second": 4.0 + epoch})
    return run


def make_row(epoch: int, side: str, gain: float) -> dict:
    row = {"epoch": epoch, "split": side, "anchor/log_loss": 1 / (epoch + 1), "anchor/micro_f1": gain}
    return row if side == "train" else row | {"detection/map50": gain * (epoch + 1) / (2 if side == "test" else 1)}


def lines_of(table: str, name: str) -> list[str]:
    return [line for line in table.splitlines() if name in line]


def test_a_summary_is_what_the_run_folder_says(tmp_path):
    make_run(tmp_path / "runs" / "first", gain=0.3)
    (summary,) = compare_runs(tmp_path / "runs")
    plain = {key: value for key, value in vars(summary).items() if key not in ("choices", "test_fingerprint")}
    assert plain == {
        **{"name": "first", "folder": tmp_path / "runs" / "first", "state": "finished", "fault": None},
        **{"epochs": 2, "planned_epochs": 2, "best_epoch": 1, "validation_map50": 0.6},
        **{"test_map50": 0.3, "test_micro_f1": 0.3, "test_loss": 0.5, "test_pictures": 3},
        **{"seconds": 61.0, "pictures_per_second": 4.5, "data": "ena24"},
    }
    assert summary.choices["optim.lr"] == 0.002 and summary.choices["seed"] == 0


@pytest.mark.parametrize(
    ("run", "state", "epochs", "best", "validation", "test"),
    [
        (dict(done=0), "unfinished", 0, None, None, None),
        (dict(close=False), "unfinished", 2, 1, 0.2, None),
        (dict(epochs=9), "finished", 2, 1, 0.2, 0.1),
        (dict(splits=("train", "test")), "finished", 2, 1, None, 0.1),
        (dict(splits=("train", "validation")), "finished", 2, 1, 0.2, None),
        (dict(splits=("train",)), "finished", 2, 1, None, None),
        (dict(splits=("train",), close=False), "unfinished", 2, 1, None, None),
        (dict(gain=-0.1), "finished", 2, 1, -0.2, -0.1),
        (dict(gain=-0.1, close=False), "unfinished", 2, 0, -0.1, None),
        (dict(gain=0.0, close=False), "unfinished", 2, 1, 0.0, None),
    ],
    ids=[
        "no epoch is over",
        "no closing rows",
        "ended early",
        "no validation split: the last epoch is kept",
        "no test split",
        "training alone",
        "training alone, under way",
        "the closing rows name the kept epoch",
        "before they are there, the best on validation does",
        "of equals the later",
    ],
)
def test_how_far_a_run_came(tmp_path, run, state, epochs, best, validation, test):
    make_run(tmp_path / "run", **run)
    (summary,) = compare_runs(tmp_path)
    found = summary.state, summary.epochs, summary.best_epoch, summary.validation_map50, summary.test_map50
    assert found == (state, epochs, best, validation, test)


def test_finished_runs_come_first_by_test_then_by_validation_and_broken_ones_last(tmp_path):
    for number, gain in enumerate((0.2, 0.4, 0.3)):
        make_run(tmp_path / f"tested-{number}", gain=gain)
        make_run(tmp_path / f"not-tested-{number}", gain=gain, splits=("train", "validation"))
        make_run(tmp_path / f"under-way-{number}", gain=gain, close=False)
    make_run(tmp_path / "a-new-one", done=0)
    (make_run(tmp_path / "a-broken-one").folder / "config.yaml").write_text("optim: {rate: 1}")
    order = [f"{kind}-{number}" for kind in ("tested", "not-tested", "under-way") for number in (1, 2, 0)]
    assert [summary.name for summary in compare_runs(tmp_path)] == [*order, "a-new-one", "a-broken-one"]


@pytest.mark.parametrize(
    ("part", "content", "fault"),
    [
        ("config.yaml", "optim: {rate: 1}", "optim.rate: no such field"),
        ("classes.json", None, "classes.json is missing"),
        ("config.yaml", None, "config.yaml"),
        ("split.json", "{", "not a usable run folder"),
        ("metrics.jsonl", "rubbish\n", "line 1 is no row"),
        ("metrics.jsonl", "[1]\n", "line 1 is no row"),
        ("metrics.jsonl", '{"epoch": "one", "split": "test"}\n', "no epoch"),
        ("metrics.jsonl", b"\xff\xfe\n", "line 1 is no row"),
    ],
    ids=[
        "a config of another version",
        "no classes",
        "killed while it was made",
        "half a file",
        "a row that is no json",
        "a row that is a list",
        "a row without an epoch",
        "no text at all",
    ],
)
def test_a_broken_run_is_listed_with_its_fault_beside_the_others(tmp_path, part, content, fault):
    make_run(tmp_path / "whole")
    path = make_run(tmp_path / "broken").folder / part
    path.unlink() if content is None else path.write_bytes(content if isinstance(content, bytes) else content.encode())
    whole, broken = compare_runs(tmp_path)
    assert (whole.state, broken.state, broken.name) == ("finished", "broken", "broken")
    assert re.search(fault, broken.fault)
    assert "Cannot be read: " in comparison_table([whole, broken])
    assert json.dumps(comparison_records([whole, broken]))


@pytest.mark.parametrize(
    ("speed", "seconds", "rate"),
    [
        (None, None, None),
        ("", None, None),
        ('rubbish\n[3]\n{"epoch": 0, "seconds": 5, "pictures_per_second": null}\n{"seco', 5.0, None),
        ('{"seconds": true, "pictures_per_second": "fast"}\n', None, None),
    ],
    ids=["absent", "empty", "damaged lines do not count", "what is no number does not count"],
)
def test_times_decide_nothing_and_may_be_missing(tmp_path, speed, seconds, rate):
    run = make_run(tmp_path / "run")
    run.speed_file.unlink()
    if speed is not None:
        run.speed_file.write_text(speed)
    (summary,) = compare_runs(tmp_path)
    assert (summary.state, summary.seconds, summary.pictures_per_second) == ("finished", seconds, rate)
    assert ("time" in comparison_table([summary])) == (seconds is not None)


def test_runs_are_found_at_any_depth_once_each_and_links_do_not_lead_in_circles(tmp_path):
    make_run(tmp_path / "runs" / "a" / "b" / "deep")
    make_run(tmp_path / "runs" / "a" / "b" / "deep" / "inside")
    make_run(tmp_path / "runs" / ".hidden")
    make_run(tmp_path / "elsewhere")
    (tmp_path / "runs" / "config.yaml").write_text("of something else")
    for name, target in (("1", "runs"), ("2", "runs/2"), ("3", "runs/a/b/deep"), ("4", "elsewhere"), ("5", "gone")):
        os.symlink(tmp_path / target, tmp_path / "runs" / name)
    assert {summary.name for summary in compare_runs(tmp_path / "runs")} == {"a/b/deep", "a/b/deep/inside", "4"}


def test_the_folder_may_itself_be_the_run(tmp_path):
    make_run(tmp_path / "only")
    assert [summary.name for summary in compare_runs(tmp_path / "only")] == ["only"]


def test_a_folder_that_may_not_be_looked_into_is_listed_with_that(tmp_path, monkeypatch):
    make_run(tmp_path / "whole")
    (tmp_path / "locked").mkdir()
    look = os.scandir

    def refuse(place):
        if Path(place).name == "locked":
            raise PermissionError(13, "Permission denied")
        return look(place)

    monkeypatch.setattr(comparison.os, "scandir", refuse)
    whole, locked = compare_runs(tmp_path)
    assert (whole.state, locked.state, locked.name) == ("finished", "broken", "locked")
    assert "cannot be looked into (Permission denied)" in locked.fault


@pytest.mark.parametrize(
    ("made", "asked", "why"),
    [((), "gone", "no such folder"), ((), ".", "train --out"), (("a", "b", "c", "d"), ".", "more than 3 folders")],
    ids=["no such folder", "no run in it", "too many folders"],
)
def test_what_cannot_be_compared_says_why(tmp_path, monkeypatch, made, asked, why):
    monkeypatch.setattr(comparison, "MOST_FOLDERS", 3)
    for name in made:
        (tmp_path / name).mkdir()
    with pytest.raises(RunError, match=why):
        compare_runs(tmp_path / asked)


@pytest.mark.parametrize(
    ("first", "second", "differing"),
    [
        ((), (), ()),
        (("optim.lr=0.004",), (), ("optim.lr",)),
        (("seed=1", "model.sizes=[0.1,0.2]"), (), ("seed", "model.sizes")),
        (("loss.species_weights={Bird: 2}",), ("loss.species_weights=balanced",), ("loss.species_weights",)),
        (("loss.species_weights={Bird: 2, Red Fox: 1}",), ("loss.species_weights={Red Fox: 1, Bird: 2}",), ()),
        (("optim.clip_norm=null",), (), ("optim.clip_norm",)),
    ],
    ids=["nothing", "one", "in the order of the config", "a mapping is one value", "in any order", "null is a value"],
)
def test_only_choices_that_differ_are_shown(tmp_path, first, second, differing):
    make_run(tmp_path / "a", *first)
    make_run(tmp_path / "b", *second)
    summaries = compare_runs(tmp_path)
    assert differing_choices(summaries) == differing
    assert all(tuple(record["differs"]) == differing for record in comparison_records(summaries))
    table = comparison_table(summaries)
    assert all((path in table or path.rpartition(".")[0] + "." in table) for path in differing)
    assert "momentum" not in table and "patience" not in table


def test_few_differences_are_columns_and_many_are_a_list_to_be_typed(tmp_path):
    make_run(tmp_path / "a", "optim.lr=0.004", gain=0.4)
    make_run(tmp_path / "b", gain=0.3)
    make_run(tmp_path / "c", "optim.lr=0.004", gain=0.2)
    narrow = comparison_table(compare_runs(tmp_path))
    assert "Where they differ" not in narrow and lines_of(narrow, " a ")[0].endswith(" 0.004 |")
    for name in "ab":
        folder = tmp_path / name
        choices = ("model.sizes=[0.1,0.2,0.3,0.4,0.5,0.6]", "augment.crop=0.11", "loss.species_weights={Red Fox: 2.5}")
        config = read_config(folder / "config.yaml", choices if name == "a" else ())
        Run(folder, config, (), Split((), (), ())).keep_config()
    wide = comparison_table(compare_runs(tmp_path))
    assert max(map(len, wide.splitlines())) <= 120
    words = " ".join(wide[wide.index("Where they differ") :].split())
    assert 'a: augment.crop=0.11 model.sizes=[0.1,0.2,0.3,0.4,0.5,0.6] loss.species_weights={"Red Fox":2.5}' in words
    assert "c: as the first, but augment.crop=0.4 model.sizes=[0.27,0.44,0.52,0.62,0.71,0.85]" in words


@pytest.mark.parametrize(
    "name", ["x" * 200, "lr-" * 40, "ヤマネコの実験" * 8, "with\x1b[31mcolour", "a b\tc", "%s {0}"], ids=repr
)
def test_no_name_makes_the_table_too_wide_or_steers_the_terminal(tmp_path, name):
    make_run(tmp_path / name)
    make_run(tmp_path / "short", "seed=1")
    table = comparison_table(compare_runs(tmp_path))
    assert len(lines_of(table, "--+--")[0]) <= 120
    assert not {letter for letter in table if not letter.isprintable()} - {"\n"}


def test_datasets_and_test_pictures_are_told_apart_where_they_differ(tmp_path):
    make_run(tmp_path / "a", "data.path=/one/ena24", gain=0.4)
    make_run(tmp_path / "b", "data.path=/other/ena24", gain=0.3)
    alike = comparison_table(compare_runs(tmp_path))
    assert "one/ena24" in alike and "other/ena24" in alike and "can be compared only" not in alike
    make_run(tmp_path / "c", splits=("train", "test"), gain=0.2)
    (tmp_path / "c" / "split.json").write_text(json.dumps({"train": ["x"], "validation": [], "test": ["y", "z"]}))
    mixed = comparison_table(compare_runs(tmp_path))
    assert "3 A" in lines_of(mixed, "| a ")[0] and "3 A" in lines_of(mixed, "| b ")[0]
    assert "2 B" in lines_of(mixed, "| c ")[0] and "can be compared only" in mixed


def test_what_all_runs_share_stands_above_the_table(tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", close=False)
    first, *_ = comparison_table(compare_runs(tmp_path)).splitlines()
    assert first == "2 runs: 1 finished, best first; 1 unfinished. Data: ena24. Test: 3 pictures"


@pytest.mark.parametrize(
    ("run", "cell"),
    [(dict(), "| 2, done |"), (dict(epochs=50), "| 2 of 50, done |"), (dict(epochs=50, close=False), "| 2 of 50 |")],
    ids=["to the end", "ended early", "not ended"],
)
def test_the_table_says_how_far_a_run_came(tmp_path, run, cell):
    make_run(tmp_path / "run", **run)
    assert cell in comparison_table(compare_runs(tmp_path))


@pytest.mark.parametrize(
    ("seconds", "words"), [(44.4, "44 s"), (100, "1.7 min"), (7200, "2.0 h"), (400_000, "4.6 d")], ids=str
)
def test_times_are_in_units_that_can_be_read(tmp_path, seconds, words):
    run = make_run(tmp_path / "run")
    run.speed_file.write_text(json.dumps({"epoch": 0, "seconds": seconds}) + "\n")
    assert f"| {words} |" in comparison_table(compare_runs(tmp_path))


def test_of_two_rows_for_one_epoch_the_later_counts_and_epochs_are_in_order(tmp_path):
    run = make_run(tmp_path / "run", done=0)
    run.add_rows(*(make_row(epoch, "train", gain) for epoch, gain in ((1, 0.1), (0, 0.2), (1, 0.3))))
    history = read_history(run)
    assert [(epoch, row["anchor/micro_f1"]) for epoch, row in history.epochs["train"].items()] == [(0, 0.2), (1, 0.3)]


@pytest.mark.parametrize(
    ("value", "read"), [(1, 1.0), (0.5, 0.5), (None, None), ("1", None), (True, None), (float("nan"), None)], ids=repr
)
def test_a_figure_is_a_finite_number_or_none(value, read):
    assert figure({"x": value}, "x") == read and figure({}, "x") is None


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/a/b"], ["b"]),
        (["/a/b", "/a/c"], ["b", "c"]),
        (["/a/x/b", "/a/y/b"], ["x/b", "y/b"]),
        (["b", "/b"], ["b", "//b"]),
        ([], []),
    ],
    ids=["one", "by the last part", "by the last two", "one at the root", "none"],
)
def test_paths_are_called_by_as_little_as_tells_them_apart(paths, names):
    assert list(tell_apart(map(Path, paths)).values()) == names
