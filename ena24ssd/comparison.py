"""Which of my runs is the best, and how do they differ?

Runs stand best first by the test figures of their closing rows, for whoever reports them. Whoever still chooses among
them should read the validation column: a test that chooses is no test any more.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import textwrap
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from string import ascii_uppercase
from typing import Any, Literal, NamedTuple

from prettytable import PrettyTable

from ena24ssd.config import flatten_config
from ena24ssd.runs import Run, RunError, open_run
from ena24ssd.tables import printable

PARTS = frozenset(("config.yaml", "classes.json", "split.json"))  # what makes a folder a run
MOST_FOLDERS = 20_000  # looked into; a home folder has more
WIDTH = 120  # letters of a line
SHORTEST_NAME = 12  # letters to which the names of runs are broken, lest the table be too wide

Row = Mapping[str, Any]


class History(NamedTuple):
    """What the metrics.jsonl of a run says, as far as the run came."""

    epochs: dict[str, dict[int, Row]]  # split -> epoch -> row, epochs rising
    closing: dict[str, Row]  # split -> row of the kept checkpoint; empty until training has ended
    finished: bool  # whether all closing rows are there

    @property
    def epochs_done(self) -> int:
        return len(set().union(*self.epochs.values()))

    @property
    def kept(self) -> int | None:
        """The epoch whose checkpoint is the kept one: it did best on validation; without validation, the last."""
        if self.closing:
            return next(iter(self.closing.values()))["epoch"]
        scores = {epoch: figure(row, "detection/map50") for epoch, row in self.epochs.get("validation", {}).items()}
        known = {epoch: score for epoch, score in scores.items() if score is not None}
        if known:
            return max(known, key=lambda epoch: (known[epoch], epoch))  # of equal ones training keeps the later
        return max(set().union(*self.epochs.values()), default=None)


@dataclass(frozen=True)
class RunSummary:
    """What a person who compares runs wants to know of one. None where the run does not say it, or not yet."""

    name: str  # its folder, as seen from the one that was looked into
    folder: Path
    state: Literal["finished", "unfinished", "broken"]  # unfinished: still running, or stopped
    fault: str | None = None  # why a broken one cannot be read; it says nothing else
    epochs: int = 0  # that are over
    planned_epochs: int = 0
    best_epoch: int | None = None  # 0 is the first
    validation_map50: float | None = None  # of the best epoch
    test_map50: float | None = None  # this and what follows: of the closing row
    test_micro_f1: float | None = None
    test_loss: float | None = None
    test_pictures: int = 0
    test_fingerprint: str | None = None  # equal where two runs are judged by the same pictures and species
    seconds: float | None = None  # of all epochs that are over
    pictures_per_second: float | None = None  # the median epoch's
    data: str = ""  # the dataset's name
    choices: Mapping[str, Any] = field(default_factory=dict)  # dotted path -> value, as json has it


def compare_runs(folder: Path | str) -> tuple[RunSummary, ...]:
    """Every run in ``folder`` and below it, best first: finished ones by test mAP, then the others by validation mAP.

    A folder with config.yaml, classes.json and split.json is a run. One that cannot be read, or that has lost one of
    the three, is listed last with its fault. Links are followed, but nothing is listed twice; hidden folders are not
    looked into. Raises RunError where there is no such folder or no run, or where there are too many folders.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RunError(f"{folder}: there is no such folder; name the one your runs are in, such as runs")
    found = [_summarise(place, _name(place, folder), fault) for place, fault in _find(folder)]
    if not found:
        raise RunError(f"{folder}: holds no run; 'ena24ssd train --out {folder / 'first'}' makes one")
    return tuple(sorted(found, key=_rank))


def comparison_table(summaries: Sequence[RunSummary], width: int = WIDTH) -> str:
    """The summaries as text: a table, and what cannot be said in it.

    The choices in which the runs differ are columns where that fits into ``width`` letters, else a list below.
    """
    runs = [summary for summary in summaries if summary.state != "broken"]
    broken = [summary for summary in summaries if summary.state == "broken"]
    parts = [_headline(summaries)]
    if runs:
        differing = [path for path in differing_choices(runs) if path != "data.path"]  # that one is the column `data`
        columns = _columns(runs)
        table = _render(columns | _choice_columns(runs, differing), runs, width)
        if not differing or _width(table) <= width:
            parts.append(table)
        else:
            parts += [_render(columns, runs, width), _choice_list(runs, differing, width)]
        if len({run.test_fingerprint for run in runs if run.test_fingerprint}) > 1:
            parts.append("Test figures can be compared only where the letter beside the test pictures is the same.")
    parts += [f"Cannot be read: {printable(one.fault)}" for one in broken]
    return "\n".join(parts)


def comparison_records(summaries: Sequence[RunSummary]) -> list[dict[str, Any]]:
    """The summaries as plain values for json; ``differs`` holds those choices in which the runs differ."""
    differing = differing_choices(summaries)
    records = []
    for summary in summaries:
        record = {key: value for key, value in vars(summary).items() if key != "choices"}
        differs = {path: summary.choices[path] for path in differing if path in summary.choices}
        records.append(record | {"folder": str(summary.folder), "differs": differs})
    return records


def differing_choices(summaries: Sequence[RunSummary]) -> tuple[str, ...]:
    """The dotted paths of the config fields that are not the same in all of the runs that can be read."""
    seen: dict[str, set[str]] = {}
    for summary in summaries:
        for path, value in summary.choices.items():
            seen.setdefault(path, set()).add(json.dumps(value, sort_keys=True))
    return tuple(path for path, values in seen.items() if len(values) > 1)


def read_history(run: Run) -> History:
    """What metrics.jsonl says; of rows for the same epoch and split, the last. Raises RunError where it is damaged."""
    epochs: dict[str, dict[int, Row]] = {}
    closing: dict[str, Row] = {}
    for row in run.rows():
        if row.get("closing"):
            closing[row["split"]] = row
        else:
            epochs.setdefault(row["split"], {})[row["epoch"]] = row
    epochs = {split: dict(sorted(by_epoch.items())) for split, by_epoch in epochs.items()}
    return History(epochs, closing, run.is_finished)


def figure(row: Row, name: str) -> float | None:
    """A figure of a row; None where it is missing or was not finite."""
    value = row.get(name)
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None


def tell_apart(paths: Iterable[Path]) -> dict[Path, str]:
    """A name for each path: as many of its last parts as it takes for no two to be called the same."""
    paths = dict.fromkeys(paths)
    for depth in range(1, max((len(path.parts) for path in paths), default=0) + 1):
        names = {path: "/".join(path.parts[-depth:]) for path in paths}
        if len(set(names.values())) == len(paths):
            return names
    return {path: str(path) for path in paths}


# -- from folders to summaries ---------------------------------------------------------------------------------------


def _find(folder: Path) -> Iterator[tuple[Path, str | None]]:
    """Run folders, and folders that cannot be looked into with the reason. Links come last: a run that can be reached
    both ways goes by its own name.
    """
    waiting, seen = deque([folder]), set()
    while waiting:
        place = waiting.popleft()
        held, below = set(), []
        try:
            status = place.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.name in PARTS:
                        held.add(entry.name)
                    elif entry.name.startswith("."):
                        continue
                    elif entry.is_dir(follow_symlinks=False):
                        below.append(place / entry.name)
                    elif entry.is_symlink() and os.path.isdir(entry.path):  # not entry.is_dir: it fails on loops
                        waiting.append(place / entry.name)
        except OSError as error:
            yield place, f"{place}: cannot be looked into ({error.strerror}); mend its permissions or move it away"
            continue
        if len(seen) > MOST_FOLDERS:
            raise RunError(
                f"{folder}: has more than {MOST_FOLDERS:,} folders in it, which is more than are looked into; "
                "name a folder nearer to the runs"
            )
        if len(held) > 1:  # config.yaml alone is anybody's
            yield place, None
        waiting.extendleft(below)


def _summarise(folder: Path, name: str, fault: str | None) -> RunSummary:
    if fault is not None:
        return RunSummary(name, folder, "broken", fault)
    try:
        run = open_run(folder)
        history = read_history(run)
        seconds, speeds = _read_speed(run)
    except (OSError, ValueError) as error:
        return RunSummary(name, folder, "broken", str(error))
    kept, test = history.kept, history.closing.get("test", {}) if history.finished else {}
    best = history.epochs.get("validation", {}).get(kept, {})
    return RunSummary(
        name,
        folder,
        "finished" if history.finished else "unfinished",
        epochs=history.epochs_done,
        planned_epochs=run.config.train.epochs,
        best_epoch=kept,
        validation_map50=figure(best, "detection/map50"),
        test_map50=figure(test, "detection/map50"),
        test_micro_f1=figure(test, "anchor/micro_f1"),
        test_loss=figure(test, "anchor/log_loss"),
        test_pictures=len(run.split.test),
        test_fingerprint=_fingerprint(run) if run.split.test else None,
        seconds=math.fsum(seconds) if seconds else None,
        pictures_per_second=median(speeds) if speeds else None,
        data="" if run.config.data.path is None else run.config.data.path.name,
        choices=flatten_config(run.config),
    )


def _read_speed(run: Run) -> tuple[list[float], list[float]]:
    """Seconds, and pictures a second, of every epoch. Lines that cannot be read do not count: times decide nothing."""
    path = run.speed_file
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    seconds, speeds = ([figure(row, name) for row in rows] for name in ("seconds", "pictures_per_second"))
    return [value for value in seconds if value is not None], [value for value in speeds if value is not None]


def _fingerprint(run: Run) -> str:
    judged = json.dumps([run.class_names, sorted(run.split.test)])
    return hashlib.sha256(judged.encode()).hexdigest()[:12]


def _name(place: Path, folder: Path) -> str:
    return place.name or str(place) if place == folder else place.relative_to(folder).as_posix()


def _rank(summary: RunSummary) -> tuple[int, float, str]:
    if summary.state == "broken":
        return 3, 0.0, summary.name
    if summary.test_map50 is not None:
        return 0, -summary.test_map50, summary.name
    score = -1.0 if summary.validation_map50 is None else summary.validation_map50
    return (1 if summary.state == "finished" else 2), -score, summary.name


# -- from summaries to words -----------------------------------------------------------------------------------------


def _headline(summaries: Sequence[RunSummary]) -> str:
    counts = Counter(summary.state for summary in summaries)
    kinds = {"finished": "finished, best first", "unfinished": "unfinished", "broken": "broken"}
    parts = [f"{counts[state]} {words}" for state, words in kinds.items() if counts[state]]
    line = f"{len(summaries)} run{'s' * (len(summaries) != 1)}: {'; '.join(parts)}"
    runs = [summary for summary in summaries if summary.state != "broken"]
    if len({run.choices["data.path"] for run in runs}) == 1 and runs[0].data:
        line += f". Data: {runs[0].data}"
    if len({run.test_fingerprint for run in runs}) == 1 and runs[0].test_pictures:
        line += f". Test: {runs[0].test_pictures:,} pictures"
    return printable(line)


def _columns(runs: Sequence[RunSummary]) -> dict[str, list[str]]:
    """What every comparison shows: heading -> a cell for each run. Columns that would say nothing are left out."""
    columns = {
        "run": [run.name for run in runs],
        "epochs": [_epochs(run) for run in runs],
        "best\nepoch": [_figure(run.best_epoch, "d") for run in runs],
        "valid.\nmAP50": [_figure(run.validation_map50, ".3f") for run in runs],
        "test\nmAP50": [_figure(run.test_map50, ".3f") for run in runs],
        "test\nmicro-F1": [_figure(run.test_micro_f1, ".3f") for run in runs],
        "test\nloss": [_figure(run.test_loss, ".4g") for run in runs],
        "time": ["" if run.seconds is None else _duration(run.seconds) for run in runs],
        "pict.\n/s": [
            _figure(run.pictures_per_second, ".3g" if (run.pictures_per_second or 0) < 100 else ",.0f") for run in runs
        ],
        "data": _data_names(runs),
        "test\npictures": _test_sets(runs),
    }
    return {heading: cells for heading, cells in columns.items() if any(cells)}


def _data_names(runs: Sequence[RunSummary]) -> list[str]:
    """The datasets, where they are not all the same."""
    paths = [run.choices["data.path"] for run in runs]
    names = tell_apart(Path(path) for path in paths if path is not None)
    return [names[Path(path)] if path else "none" for path in paths] if len(set(paths)) > 1 else []


def _test_sets(runs: Sequence[RunSummary]) -> list[str]:
    """How many pictures test, and a letter for which, where they are not all the same."""
    prints = dict.fromkeys(run.test_fingerprint for run in runs if run.test_fingerprint)
    letters = {key: f"{ascii_uppercase[number % 26]}{number // 26 or ''}" for number, key in enumerate(prints)}
    cells = [f"{run.test_pictures:,} {letters[run.test_fingerprint]}" if run.test_pictures else "" for run in runs]
    return cells if len(letters) > 1 else []


def _choice_columns(runs: Sequence[RunSummary], paths: Sequence[str]) -> dict[str, list[str]]:
    """The named choices as columns, each headed by its section above its field."""
    return {path.replace(".", ".\n"): [_value(run.choices[path]) for run in runs] for path in paths}


def _choice_list(runs: Sequence[RunSummary], paths: Sequence[str], width: int) -> str:
    """The named choices as they would be typed: all of the first run's, and where the others depart from it."""
    first = runs[0].choices
    lines = ["Where they differ:"]
    for run in runs:
        tokens = [
            f"{path}={_value(run.choices[path])}"
            for path in paths
            if run is runs[0] or run.choices[path] != first[path]
        ]
        words = "" if run is runs[0] else "as the first, but " if tokens else "as the first"
        lines += textwrap.wrap(
            f"{printable(run.name)}: {words}{' '.join(tokens)}",
            width,
            initial_indent="  ",
            subsequent_indent="      ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(lines)


def _render(columns: Mapping[str, Sequence[str]], runs: Sequence[RunSummary], width: int) -> str:
    """The columns as a table, with a line between runs that are finished and those that are not. Where it is wider than
    ``width``, names are broken, but nothing else is.

    The headings are a row of their own: PrettyTable's cannot have two lines.
    """
    table = PrettyTable(list(columns), header=False, align="r")
    for heading in ("run", "data"):
        if heading in columns:
            table.align[heading] = "l"
    table.add_row(list(columns), divider=True)
    for number, row in enumerate(zip(*columns.values()), start=1):
        last = number < len(runs) and runs[number].state != runs[number - 1].state
        table.add_row([printable(cell) for cell in row], divider=last)
    text = table.get_string()
    if _width(text) > width:
        longest = max(len(name) for name in columns["run"])
        table.max_width["run"] = max(SHORTEST_NAME, longest - (_width(text) - width))
        text = table.get_string()
    return text


def _width(table: str) -> int:
    return len(table.partition("\n")[0])  # the border: one sign a place, whatever the names are written in


def _epochs(run: RunSummary) -> str:
    whole = run.state == "finished" and run.epochs == run.planned_epochs
    count = f"{run.epochs}" if whole else f"{run.epochs} of {run.planned_epochs}"
    return f"{count}, done" if run.state == "finished" else count


def _figure(value: float | None, how: str) -> str:
    return "" if value is None else format(value, how)


def _value(value: Any) -> str:
    """A choice, as it may be typed after its path and an equals sign."""
    return printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def _duration(seconds: float) -> str:
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    if minutes < 1:
        return f"{seconds:.0f} s"
    if hours < 1:
        return f"{minutes:.1f} min"
    return f"{hours:.1f} h" if days < 2 else f"{days:.1f} d"
