"""What can be done with runs from the command line: make one, go on with it, measure, compare, draw, use it?

Each verb is a function that adds its options, and one that calls the package and prints what came of it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from ena24ssd.commands.choices import choose_config, preset_of
from ena24ssd.config import ConfigError, change_config
from ena24ssd.engine import ENGINES
from ena24ssd.files import replace_file
from ena24ssd.splits import SIDES


def add_verbs(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add every verb of this module by ``add(name, function, help)``, which returns the verb's parser."""
    door = add("train", _train, "Train a detector into a new run folder, or go on with an interrupted run.")
    door.add_argument("choices", nargs="*", metavar="CONFIG.yaml | section.field=value", help="preset and overrides")
    door.add_argument("--resume", type=Path, metavar="RUN", help="go on with this run, as if it had never stopped")
    door.add_argument("--data", type=Path, help="dataset folder or json (data.path)")
    door.add_argument("--out", type=Path, help="run folder to make (default: runs/<preset>-<time>)")
    door.add_argument("--quiet", action="store_true", help="no progress, only the result")

    door = add("runs", _runs, "Compare the runs in a folder: which is best, and how do they differ?")
    door.add_argument("folder", type=Path, nargs="?", default=Path("runs"), help="where they are (%(default)s)")
    door.add_argument("--json", metavar="FILE", help="write the comparison to this file as json; -: print it as json")

    door = add("curves", _curves, "Draw how training went, for one run or up to twelve.")
    door.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    door.add_argument(
        "--out", type=Path, default=Path("curves.png"), help="picture to make, .png or .svg (%(default)s)"
    )
    door.add_argument("--splits", nargs="+", choices=SIDES, default=SIDES, help="splits to draw (default: all)")

    door = add("evaluate", _evaluate, "Measure a run, or a results file of any model, on labelled pictures.")
    door.add_argument("model", type=Path, metavar="RUN | RESULTS.json", help="run folder, or MegaDetector json")
    door.add_argument("choices", nargs="*", metavar="evaluation.field=value", help="overrides, as for train")
    _add_judging_options(door)
    door.add_argument("--report", type=Path, metavar="DIR", help="folder for report.html and report.json")
    door.add_argument("--sheet", type=Path, help="picture file to draw detections beside the truth into")
    door.add_argument("--json", type=Path, help="file to write the figures to, in short")
    add_model_options(door)

    door = add("compare", _compare, "Is one model better than another, or was it luck?")
    door.add_argument("choices", nargs="+", metavar="RUN | RESULTS.json | evaluation.field=value")
    _add_judging_options(door)
    door.add_argument("--json", type=Path, help="file to write the verdicts to")
    add_model_options(door)


def _add_judging_options(door: argparse.ArgumentParser) -> None:
    door.add_argument("--split", choices=SIDES, help="default: test, else validation")
    door.add_argument("--data", type=Path, help="labelled pictures; of a run: where they lie now, if they moved")
    door.add_argument("--split-file", type=Path, help="saved split for results files")


def add_model_options(door: argparse.ArgumentParser) -> None:
    door.add_argument("--checkpoint", choices=("best", "last"), default="best")
    door.add_argument("--device", help="cpu, gpu, gpu:N or auto (default: as in training)")
    door.add_argument("--engine", choices=ENGINES, help="default: the one that trained it, where it can run here")
    door.add_argument("--quiet", action="store_true", help="no progress, only the result")


def _train(choice: argparse.Namespace) -> int:
    from ena24ssd.tables import figure_table, post_table
    from ena24ssd.training import resume, train

    if choice.resume is not None:
        run = resume(choice.resume, _changes(choice), data=choice.data, quiet=choice.quiet)
    else:
        config, preset = choose_config(choice.choices), preset_of(choice.choices)
        if choice.data is not None:
            config = change_config(config, {"data.path": choice.data})
        name = Path(preset).stem if preset else "default"
        folder = Path(choice.out or f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}")
        run = train(config, folder, quiet=choice.quiet)
    closing = [row for row in run.rows() if row.get("closing")]
    if not closing:  # this was one of several workers; another has the figures
        return 0
    metrics = {row["split"]: row for row in closing}
    measured = run.load_checkpoint("best").score is not None
    how = "the best on validation" if measured else "the last; validation chose none"
    print(f"checkpoint of epoch {closing[0]['epoch']} ({how}):")
    print(post_table({side: row for side, row in metrics.items() if side in ("train", run.split.judging)}))
    print(figure_table(metrics))
    if run.config.evaluation.protocol == "post":
        from ena24ssd.assessment import evaluate
        from ena24ssd.protocol import post_protocol_table

        report = evaluate(run.folder, overrides=["evaluation.resamples=0"], quiet=choice.quiet)
        print(post_protocol_table(report.protocol))
    print(f"detections beside the truth: {run.sheet_file}")
    return 0


def _changes(choice: argparse.Namespace) -> list[str]:
    """What a resumed run shall do otherwise. Raises ConfigError for what it cannot."""
    if preset_of(choice.choices) is not None or choice.out is not None:
        raise ConfigError(
            f"--resume {choice.resume}: a run goes on with its own config, in its own folder; leave out the preset and "
            "--out, and give changes as section.field=value"
        )
    return choice.choices


def _runs(choice: argparse.Namespace) -> int:
    from ena24ssd.comparison import compare_runs, comparison_records, comparison_table

    found = compare_runs(choice.folder)
    written = json.dumps(comparison_records(found), indent=1)
    if choice.json == "-":
        print(written)
    else:
        print(comparison_table(found, max(80, shutil.get_terminal_size((120, 24)).columns)))
        if choice.json is not None:
            replace_file(Path(choice.json), written)
    return 0


def _curves(choice: argparse.Namespace) -> int:
    from ena24ssd.curves import draw_curves
    from ena24ssd.runs import open_run

    draw_curves([open_run(folder) for folder in choice.runs], choice.out, choice.splits)
    print(f"wrote {choice.out}")
    return 0


def _evaluate(choice: argparse.Namespace) -> int:
    from ena24ssd.assessment import evaluate, require_folder, write_report
    from ena24ssd.protocol import post_protocol_table
    from ena24ssd.tables import describe_report, light_table, mistake_table, score_table, species_score_table

    if choice.report is not None:
        require_folder(choice.report)
    report = evaluate(
        choice.model,
        choice.split,
        choice.checkpoint,
        data=choice.data,
        device=choice.device,
        overrides=[*choice.choices, *_engine(choice)],
        split_file=choice.split_file,
        sheet=choice.sheet,
        quiet=choice.quiet,
    )
    print(describe_report(report))
    print(score_table(report))
    print(species_score_table(report.scores))
    print(mistake_table(report.scores))
    if len(report.scores.light) > 1:
        print(light_table(report.scores))
    if report.protocol:
        print(post_protocol_table(report.protocol))
    if choice.json is not None:
        from ena24ssd.scores import plain

        figures = plain({"split": report.split, "epoch": report.epoch} | report.metrics)
        replace_file(choice.json, json.dumps(figures, allow_nan=False))
    if choice.report is not None:  # after the tables, which shall not be lost if it cannot be written
        write_report(choice.report, report)
        print(f"wrote {choice.report / 'report.html'} and report.json beside it")
    return 0


def _compare(choice: argparse.Namespace) -> int:
    from ena24ssd.contest import compare_models
    from ena24ssd.significance import verdict_table
    from ena24ssd.tables import FLOOR

    contest = compare_models(
        [word for word in choice.choices if not _is_override(word)],
        choice.split,
        choice.checkpoint,
        data=choice.data,
        device=choice.device,
        overrides=[*(word for word in choice.choices if _is_override(word)), *_engine(choice)],
        split_file=choice.split_file,
        quiet=choice.quiet,
    )
    left_out = f"; {contest.left_out:,} more are not for all of them to judge by" if contest.left_out else ""
    groups = contest.groups
    split = "" if contest.split == "all" else f" {contest.split}"
    print(f"{contest.pictures:,}{split} pictures in {groups.count:,} {groups.words}{left_out}")
    print(verdict_table(contest.verdicts))
    if contest.floor > FLOOR:
        print(f"counted from a score of {contest.floor:.3f} on: below, one of them has noted nothing down")
    for sentence in contest.conclusions:
        print(sentence)
    if choice.json is not None:
        replace_file(choice.json, json.dumps(contest.to_json(), indent=1, allow_nan=False))
    return 0


def _engine(choice: argparse.Namespace) -> list[str]:
    """The chosen engine as an override."""
    return [] if choice.engine is None else [f"engine={choice.engine}"]


def _is_override(word: str) -> bool:
    return "=" in word and not Path(word).exists()
