"""What can I type?  ``ena24ssd check | synth | train | evaluate | predict``

Every verb parses, calls one importable function and prints. Exit codes: 0 done, 1 a mistake that the message explains
(check: problems were found), 2 a command line that does not parse.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from prettytable import PrettyTable
from tqdm import tqdm

from ena24ssd.cameratraps import RULES
from ena24ssd.config import ConfigError, DataConfig, change_config, read_config
from ena24ssd.detector import predict
from ena24ssd.engine import EngineError
from ena24ssd.epoch import DivergedError
from ena24ssd.evaluation import closing_split, evaluate
from ena24ssd.files import replace_file
from ena24ssd.sources import read_source
from ena24ssd.synthetic import write_dataset
from ena24ssd.tables import figure_table, post_table
from ena24ssd.training import train

# What a user can mend. ENA24SSD_TRACEBACK=1 shows where it came from all the same.
MISTAKES = (ValueError, OSError, EngineError, DivergedError)


def main(arguments: Sequence[str] | None = None) -> int:
    """The ``ena24ssd`` command; returns its exit code."""
    parser = _parser()
    choice, rest = parser.parse_known_args(arguments)
    # argparse takes the words before the first option only; overrides may also follow it.
    if rest and (choice.verb is not _train or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if choice.verb is _train:
        choice.choices += rest
    try:
        return choice.verb(choice)
    except MISTAKES as mistake:
        if os.environ.get("ENA24SSD_TRACEBACK"):
            raise
        print(f"ena24ssd: {mistake}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ena24ssd: interrupted", file=sys.stderr)
        return 130


def _check(choice: argparse.Namespace) -> int:
    place = DataConfig(path=choice.dataset, pictures=choice.pictures)
    dataset = read_source(place, check_files=not choice.no_pictures).dataset
    boxes = sum(len(image.boxes) for image in dataset.images)
    print(
        f"{dataset.name}: {len(dataset.images):,} usable pictures ({dataset.blanks:,} blank), {boxes:,} boxes, "
        f"at most {dataset.max_boxes} on one picture, {len(dataset.class_names)} species, below {dataset.root}"
    )
    species = PrettyTable(["species", "boxes"], align="r")
    species.align["species"] = "l"
    counts = [0] * len(dataset.class_names)
    for image in dataset.images:
        for label, _ in image.boxes:
            counts[label] += 1
    species.add_rows(sorted(zip(dataset.class_names, counts), key=lambda row: -row[1]))
    print(species)
    if not dataset.problems:
        print("no problems")
        return 0
    problems = PrettyTable(["rule", "count", "what is done", "first case"], align="l", max_width=60)
    for rule, count in dataset.problem_counts().items():
        first = next(problem.detail for problem in dataset.problems if problem.rule == rule)
        problems.add_row([rule, count, RULES[rule], first], divider=True)
    print(problems)
    return 1


def _synth(choice: argparse.Namespace) -> int:
    width, _, height = choice.size.partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise ValueError(f"--size {choice.size}: write it as WIDTHxHEIGHT in pixels, for example 640x480")
    file = write_dataset(
        choice.folder,
        images=choice.images,
        cameras=choice.cameras,
        size=(int(width), int(height)),
        blank_share=choice.blanks,
        burst=choice.burst,
        close=choice.close,
        seed=choice.seed,
        progress=lambda jobs: tqdm(jobs, "drawing", leave=False),
    )
    print(f"wrote {choice.images} pictures and {file}")
    return 0


def _train(choice: argparse.Namespace) -> int:
    overrides = [word for word in choice.choices if "=" in word]
    files = [word for word in choice.choices if "=" not in word]
    if len(files) > 1:
        raise ConfigError(f"one config file at most, not {' and '.join(files)}; overrides are section.field=value")
    config = read_config(files[0] if files else None, overrides)
    if choice.data is not None:
        config = change_config(config, {"data.path": choice.data})
    name = Path(files[0]).stem if files else "default"
    folder = Path(choice.out or f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    print(f"training into {folder}; watch it with: tensorboard --logdir {folder / 'board'}")
    run = train(config, folder, quiet=choice.quiet)
    closing = [row for row in run.rows() if row.get("closing")]
    metrics = {row["split"]: row for row in closing}
    how = "the best on validation" if run.split.validation else "the last; there is no validation split"
    print(f"checkpoint of epoch {closing[0]['epoch']} ({how}):")
    print(post_table({side: row for side, row in metrics.items() if side in ("train", closing_split(run))}))
    print(figure_table(metrics))
    print(f"detections beside the truth: {run.sheet_file}")
    return 0


def _evaluate(choice: argparse.Namespace) -> int:
    report = evaluate(
        choice.run,
        choice.split,
        choice.checkpoint,
        data=choice.data,
        device=choice.device,
        sheet=choice.sheet,
        quiet=choice.quiet,
    )
    left_out = f", {report.unreadable} unreadable ones left out" if report.unreadable else ""
    print(f"{choice.run}: checkpoint of epoch {report.epoch}, {report.pictures} {report.split} pictures{left_out}")
    print(post_table({report.split: report.metrics}))
    print(figure_table({report.split: report.metrics}))
    if choice.json is not None:
        replace_file(choice.json, json.dumps({"split": report.split, "epoch": report.epoch} | report.metrics))
    return 0


def _predict(choice: argparse.Namespace) -> int:
    done = predict(
        choice.run,
        choice.paths,
        choice.out,
        draw_into=choice.draw,
        threshold=choice.threshold,
        checkpoint=choice.checkpoint,
        device=choice.device,
        quiet=choice.quiet,
    )
    print(f"{done.pictures} pictures, {done.detections} detections, {len(done.failures)} failed; wrote {choice.out}")
    print(f"file names in it start from {done.root}")
    for result in done.failures:
        print(f"  {result.file}: {result.failure}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ena24ssd", description="Train and use an SSD animal detector.")
    verbs = parser.add_subparsers(required=True, metavar="check | synth | train | evaluate | predict")

    def add(name: str, verb, text: str) -> argparse.ArgumentParser:
        door = verbs.add_parser(name, help=text, description=text)
        door.set_defaults(verb=verb)
        return door

    door = add("check", _check, "Read a dataset's json, and tell what is in it and what is wrong with it.")
    door.add_argument("dataset", type=Path, help="dataset folder, or its COCO Camera Traps json")
    door.add_argument("--pictures", type=Path, help="folder the json's file names are relative to")
    door.add_argument("--no-pictures", action="store_true", help="look at the json file alone")

    door = add("synth", _synth, "Draw a synthetic camera-trap dataset.")
    door.add_argument("folder", type=Path)
    door.add_argument("--images", type=int, default=600, help="pictures to draw (%(default)s)")
    door.add_argument("--cameras", type=int, default=20, help="places they were taken at (%(default)s)")
    door.add_argument("--size", default="640x480", help="pixels, WIDTHxHEIGHT (%(default)s)")
    door.add_argument("--blanks", type=float, default=0.15, help="share of pictures without an animal (%(default)s)")
    door.add_argument("--burst", type=int, help="pictures a trigger takes (default: 2 to 4, as set on each camera)")
    door.add_argument("--close", type=float, default=0.0, help="how near the animals come, 0 to 1 (%(default)s)")
    door.add_argument("--seed", type=int, default=0)

    door = add("train", _train, "Train a detector into a new run folder.")
    door.add_argument("choices", nargs="*", metavar="CONFIG.yaml | section.field=value", help="preset and overrides")
    door.add_argument("--data", type=Path, help="dataset folder or json (data.path)")
    door.add_argument("--out", type=Path, help="run folder to make (default: runs/<preset>-<time>)")
    door.add_argument("--quiet", action="store_true", help="no progress, only the result")

    door = add("evaluate", _evaluate, "Measure a run's checkpoint on a split.")
    door.add_argument("run", type=Path)
    door.add_argument("--split", choices=("train", "validation", "test"), help="default: test, else validation")
    door.add_argument("--data", type=Path, help="where the dataset lies now, if it moved")
    door.add_argument("--sheet", type=Path, help="picture file to draw detections beside the truth into")
    door.add_argument("--json", type=Path, help="file to write the figures to")
    _add_model_options(door)

    door = add("predict", _predict, "Find animals in pictures; write MegaDetector JSON and drawn pictures.")
    door.add_argument("run", type=Path)
    door.add_argument("paths", nargs="+", metavar="picture-or-folder")
    door.add_argument("--out", type=Path, default=Path("results.json"), help="MegaDetector JSON (%(default)s)")
    door.add_argument("--draw", type=Path, help="folder for pictures with the detections drawn on them")
    door.add_argument("--threshold", type=float, help="lowest score to keep (default: the run's evaluation.score)")
    _add_model_options(door)
    return parser


def _add_model_options(door: argparse.ArgumentParser) -> None:
    door.add_argument("--checkpoint", choices=("best", "last"), default="best")
    door.add_argument("--device", help="cpu, gpu, gpu:N or auto (default: as in training)")
    door.add_argument("--quiet", action="store_true", help="no progress, only the result")


if __name__ == "__main__":
    sys.exit(main())
