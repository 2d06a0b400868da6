"""What can be done with a dataset from the command line?

Each verb is a function that adds its options, and one that calls the package and prints what came of it. What a verb
needs is imported when it runs: asking for help must not wait for plotting libraries.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from ena24ssd.ahead import Progress
from ena24ssd.cameratraps import Problem
from ena24ssd.commands.choices import choose_config
from ena24ssd.config import DataConfig, change_config, check_config
from ena24ssd.files import replace_file
from ena24ssd.formats import SOURCES, TARGETS
from ena24ssd.splits import KINDS, SIDES

if TYPE_CHECKING:
    from ena24ssd.sources import Source


def add_verbs(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add every verb of this module by ``add(name, function, help)``, which returns the verb's parser."""
    door = add("check", _check, "Read a dataset's json, and tell what is in it and what is wrong with it.")
    _add_dataset(door)
    door.add_argument("--no-pictures", action="store_true", help="look at the json file alone")
    door.add_argument("--deep", action="store_true", help="decode every picture, and compare it with its record")
    door.add_argument("--json", type=Path, metavar="FILE", help="also write what was found there; - prints only that")
    door.add_argument("--quiet", action="store_true", help="no progress, only the result")

    door = add("explore", _explore, "Write a report on a dataset: species, boxes, light, and what anchors can match.")
    _add_dataset(door)
    door.add_argument(
        "choices", nargs="*", metavar="CONFIG.yaml | section.field=value", help="the network whose anchors are judged"
    )
    door.add_argument("--out", type=Path, default=Path("explored"), help="folder for report.html (%(default)s)")
    door.add_argument("--no-pictures", action="store_true", help="look at the json file alone")
    door.add_argument("--sample", type=int, default=500, help="pictures to tell colour from grey by (%(default)s)")
    door.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    door.add_argument("--quiet", action="store_true", help="no progress, only the result")

    door = add("synth", _synth, "Draw a synthetic camera-trap dataset.")
    door.add_argument("folder", type=Path)
    door.add_argument("--images", type=int, default=600, help="pictures to draw (%(default)s)")
    door.add_argument("--cameras", type=int, default=20, help="places they were taken at (%(default)s)")
    door.add_argument("--size", default="640x480", help="pixels, WIDTHxHEIGHT (%(default)s)")
    door.add_argument("--blanks", type=float, default=0.15, help="share of pictures without an animal (%(default)s)")
    door.add_argument("--burst", type=int, help="pictures a trigger takes (default: 2 to 4, as set on each camera)")
    door.add_argument("--close", type=float, default=0.0, help="how near the animals come, 0 to 1 (%(default)s)")
    door.add_argument(
        "--far", type=float, default=0.0, help="share of the animals that stand far off and are small (%(default)s)"
    )
    door.add_argument("--seed", type=int, default=0)

    door = add("split", _split, "Split a dataset, and tell how much of the test each way to split gives away.")
    _add_dataset(door)
    door.add_argument(
        "--kind", choices=KINDS, help="how to split for --out (default: as the data brings along, else grouped)"
    )
    door.add_argument(
        "--shares", type=float, nargs=3, default=(0.7, 0.1, 0.2), metavar=("TRAIN", "VALIDATION", "TEST"),
        help="shares of the pictures (0.7 0.1 0.2)",
    )  # fmt: skip
    door.add_argument("--seed", type=int, default=0, help="another seed, another split (%(default)s)")
    door.add_argument("--out", type=Path, metavar="FILE", help="write the split there, for split.file of a config")
    door.add_argument(
        "--report", type=Path, metavar="FOLDER", help="compare all ways to split, and draw there what leaks"
    )
    door.add_argument("--examples", type=int, default=6, help="leaking pairs to draw for each way (%(default)s)")
    door.add_argument("--cache", type=Path, metavar="FOLDER", help="keeps what was seen (default: the user's cache)")
    door.add_argument("--quiet", action="store_true", help="no progress, only the result")

    door = add("download", _download, "Fetch ENA24, 3.6 GB of pictures; goes on where it was interrupted.")
    door.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="folder to put the dataset into")
    door.add_argument("--mirror", metavar="URL", help="web folder with ena24.json and ena24.zip, in place of LILA's")
    door.add_argument("--metadata-only", action="store_true", help="the json alone, without the pictures")
    door.add_argument("--quiet", action="store_true", help="no progress, only the result")

    door = add("convert", _convert, "Turn labels made elsewhere into a dataset, and a dataset into labels for others.")
    door.add_argument("source", type=Path, help="folder of VOC xml or YOLO txt, a data.yaml, or a json")
    door.add_argument("target", type=Path, help="json to write (camera-traps, coco), or folder to fill (voc, yolo)")
    door.add_argument("--from", dest="from_", choices=SOURCES, help="the source's format (default: told by its files)")
    door.add_argument("--to", choices=TARGETS, default="camera-traps", help="the format to write (%(default)s)")
    door.add_argument("--pictures", type=Path, metavar="FOLDER", help="where the pictures are, if not near the labels")
    door.add_argument("--no-pictures", action="store_true", help="do without; sizes come from the labels (not YOLO)")
    door.add_argument("--bring", choices=("copy", "link"), help="put the pictures where the target's tools look, too")
    door.add_argument("--overwrite", action="store_true", help="replace files that exist")
    door.add_argument(
        "--missing-is-blank",
        action="store_true",
        help="VOC, YOLO: a picture without a label file shows no animal (default: not labelled yet, left out)",
    )
    door.add_argument(
        "--threshold",
        type=float,
        metavar="SCORE",
        help="MegaDetector: lowest score that makes a label; 0 where reviewers deleted what was wrong, "
        "1 where they set what is right to 1",
    )
    door.add_argument("--names", type=Path, metavar="FILE", help="YOLO: file with the class names")
    door.add_argument(
        "--first-pixel",
        type=int,
        choices=(0, 1),
        default=0,
        help="VOC: the number of the first pixel; 0 as LabelImg writes it, 1 as the VOC challenge (%(default)s)",
    )
    door.add_argument("--split", type=Path, metavar="FILE", help="to YOLO: a split by 'ena24ssd split --out'")
    door.add_argument("--round", action="store_true", help="to VOC: whole pixels; the largest move is reported")
    door.add_argument("--quiet", action="store_true", help="no progress, only the result")


def _add_dataset(door: argparse.ArgumentParser) -> None:
    door.add_argument("dataset", type=Path, help="dataset folder, or its COCO Camera Traps json")
    door.add_argument("--pictures", type=Path, help="folder the json's file names are relative to")


def _check(choice: argparse.Namespace) -> int:
    from ena24ssd.checkup import EVERY_RULE, check_dataset
    from ena24ssd.tables import printable, problem_table, species_table

    found = check_dataset(
        DataConfig(path=choice.dataset, pictures=choice.pictures),
        json_alone=choice.no_pictures,
        deep=choice.deep,
        progress=lambda jobs: tqdm(jobs, "decoding", leave=False, unit="picture", disable=choice.quiet or None),
    )
    document = found.to_json()
    if choice.json == Path("-"):
        print(json.dumps(document, indent=1))
        return int(not found.passed)
    if choice.json is not None:
        replace_file(choice.json, json.dumps(document, indent=1))
    print(
        "{dataset}: {pictures:,} usable pictures ({blank:,} blank, {mixed_species:,} with more than one species), "
        "{boxes:,} boxes, at most {most_boxes} on one picture, below {root}\nlooked at {looked_at}".format(**document)
    )
    print(species_table(found.boxes_by_species()))
    if found.problems:
        rows = [(rule, problems, problems[0]) for rule, problems in found.by_rule.items()]
        print(problem_table([(rule, len(every), EVERY_RULE[rule], _case(first)) for rule, every, first in rows]))
    else:
        print("no problems" if found.not_found is None else "no problems in the json")
    if found.problems and found.lossless:
        print("these are notices: nothing was left out")
    if not document["boxes"]:
        print("no picture has a box: there is nothing to learn from")
    if found.not_found is not None:
        print(f"the pictures were not looked at: {printable(found.not_found)}")
    return int(not found.passed)


def _case(problem: Problem) -> str:
    if problem.image_id is None:
        return problem.detail
    file = "" if problem.file_name is None else f" ({problem.file_name})"
    return f"picture {problem.image_id!r}{file}: {problem.detail}"


def _explore(choice: argparse.Namespace) -> int:
    from ena24ssd.report import explore, overrides, snippet

    config = choose_config(choice.choices)
    place = {"data.path": choice.dataset} | ({"data.pictures": choice.pictures} if choice.pictures else {})
    config = change_config(config, place)
    found = explore(choice.out, config, sample=choice.sample, json_alone=choice.no_pictures, quiet=choice.quiet)
    if choice.json is not None:
        replace_file(choice.json, json.dumps(found.to_json(), indent=1))
    if found.anchors is not None:
        fit = found.anchors
        print(f"{fit.covered:.1%} of the boxes overlap an anchor by more than {config.loss.overlap:g} (IoU);")
        print(f"with the anchors below {fit.covered_by_suggested:.1%}, with any shapes at most {fit.reachable:.1%}")
        print(snippet(fit.suggested) + f"# or in one line: {overrides(fit.suggested)}\n")
    print(f"wrote {choice.out / 'report.html'}")
    return 0


def _synth(choice: argparse.Namespace) -> int:
    from ena24ssd.synthetic import write_dataset

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
        far=choice.far,
        seed=choice.seed,
        progress=lambda jobs: tqdm(jobs, "drawing", leave=False, disable=None),
    )
    print(f"wrote {choice.images} pictures and {file}")
    return 0


def _split(choice: argparse.Namespace) -> int:
    from ena24ssd.choosing import SPLIT_RULES, choose_split
    from ena24ssd.sources import Source, read_source
    from ena24ssd.tables import printable

    shares = dict(zip(SIDES, choice.shares))
    config = check_config({"seed": choice.seed, "split": {"kind": choice.kind or "grouped", **shares}}, "options")
    source = read_source(DataConfig(path=choice.dataset, pictures=choice.pictures))

    def progress(jobs):
        return tqdm(jobs, "looking", leave=False, unit="picture", disable=choice.quiet or None)

    if choice.report is not None:
        _report_leaks(choice, source, progress)
    if choice.report is None or choice.out is not None:
        brought = source.split is not None and choice.kind is None
        chosen = source if brought else Source(source.dataset, None)
        split, doubts = choose_split(chosen, config.split, config.seed, choice.cache, progress)
        for doubt in doubts:
            print(f"{printable(doubt.detail)}. {SPLIT_RULES[doubt.rule]}")
        title = "the split that came with the data (--kind makes another)" if brought else config.split.kind
        print(f"{title}: " + ", ".join(f"{side} {len(getattr(split, side)):,}" for side in SIDES) + " pictures")
    if choice.out is not None:
        replace_file(choice.out, json.dumps(split.to_json(), indent=1))
        print(f"wrote {choice.out}; train on it with split.file={choice.out}")
    return 0


def _report_leaks(choice: argparse.Namespace, source: Source, progress: Progress) -> None:
    from ena24ssd.leaks import compare_splits
    from ena24ssd.neighbours import find_neighbours
    from ena24ssd.tables import leak_table

    neighbours = find_neighbours(source.dataset, choice.cache, progress)
    found = compare_splits(
        source.dataset,
        neighbours,
        choice.report,
        shares=choice.shares,
        seed=choice.seed,
        brought=source.split,
        examples=choice.examples,
    )
    print(
        f"{found.dataset}: {found.pictures:,} pictures; {found.grouped:,} of them in {found.groups:,} groups that "
        f"show nearly the same scene, {found.largest:,} in the largest; {found.unreadable:,} cannot be read"
    )
    if found.cut:
        print(f"groups too large for one side were cut, and with them {found.cut:,} links between near-duplicates")
    print("share of the pictures with a twin in train:")
    print(leak_table(found.splits))
    for kind, reason in found.refused.items():
        print(f"not {kind}: {reason}")
    sheets = [str(split.sheet) for split in found.splits if split.sheet]
    print(f"wrote {', '.join([*sheets, str(choice.report / 'leaks.json')])}")


def _download(choice: argparse.Namespace) -> int:
    from ena24ssd.download import download

    done = download(choice.to, mirror=choice.mirror, metadata_only=choice.metadata_only, quiet=choice.quiet)
    print(f"fetched {', '.join(done.fetched) or 'nothing'}; was there already: {', '.join(done.kept) or 'nothing'}")
    for name, digest in done.digests.items():
        print(f"sha256 of {name}: {digest}")
    if done.pictures is None:
        print(f"{done.records:,} pictures are described in {done.annotations}")
        return 0
    print(f"{done.found:,} of {done.records:,} pictures are in {done.pictures}")
    if done.withheld:
        print(f"{done.withheld:,} show a person and are not published")
    if done.missing:
        print(f"{len(done.missing):,} others are not in the archive; 'ena24ssd check {done.folder}' names them")
    return 0


def _convert(choice: argparse.Namespace) -> int:
    from ena24ssd.choosing import read_split
    from ena24ssd.conversion import RULES, convert
    from ena24ssd.tables import problem_table

    done = convert(
        choice.source,
        choice.target,
        from_=choice.from_,
        to=choice.to,
        root=choice.pictures,
        check_files=not choice.no_pictures,
        pictures=choice.bring,
        overwrite=choice.overwrite,
        missing_is_blank=choice.missing_is_blank,
        threshold=choice.threshold,
        names=choice.names,
        origin=choice.first_pixel,
        whole_pixels=choice.round,
        sides=None if choice.split is None else read_split(choice.split).to_json(),
        progress=lambda jobs: tqdm(jobs, "converting", leave=False, disable=choice.quiet or None),
    )
    print(
        f"{done.source} -> {done.target}: {done.pictures:,} pictures ({done.blank:,} blank), {done.boxes:,} boxes, "
        f"{len(done.classes)} classes; wrote {len(done.written):,} files, brought {len(done.copies):,} pictures"
    )
    print(f"file names start from {done.root}")
    if choice.round:
        print(f"rounding moved an edge by {done.largest_move:g} px at most")
    if done.problems:
        first = {problem.rule: problem for problem in reversed(done.problems)}
        rows = [(rule, count, RULES[rule], first[rule]) for rule, count in done.problem_counts().items()]
        print(problem_table([(rule, count, meaning, f"{p.file}: {p.detail}") for rule, count, meaning, p in rows]))
    for kind, count in done.losses.items():
        print(f"not held by {done.target}: {kind} ({count:,})")
    return 0
