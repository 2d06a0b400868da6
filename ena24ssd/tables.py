"""What should a person read at the end?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from prettytable import PrettyTable

if TYPE_CHECKING:
    from ena24ssd.assessment import Report
    from ena24ssd.exported import Exported
    from ena24ssd.leaks import Leaks
    from ena24ssd.outcome import Outcome
    from ena24ssd.repeatspage import RepeatReport
    from ena24ssd.scores import Range, Scores

Metrics = Mapping[str, float]
SHOWN = 20  # folders that are named one by one

POST_COLUMNS = {
    "Accuracy": "anchor/accuracy",
    "Log_loss": "anchor/log_loss",
    "MAe": "anchor/mae",
    "Micro_F1": "anchor/micro_f1",
}

# What is shown of a model, in this order; a new section is a new idea.
SECTIONS = {
    "boxes": (
        ("mAP, IoU .5 to .95", "detection/map"),
        ("mAP at IoU .5", "detection/map50"),
        ("average recall (AR100)", "detection/ar100"),
        ("precision", "detection/precision"),
        ("recall", "detection/recall"),
        ("F1", "detection/f1"),
        ("mean IoU of what is shown", "detection/mean_iou"),
    ),
    "species on a picture": (
        ("precision", "presence/precision"),
        ("recall", "presence/recall"),
        ("F1", "presence/f1"),
        ("F1, mean over species", "presence/macro_f1"),
        ("pictures exactly right", "presence/exact"),
    ),
    "animal or blank": (
        ("animal pictures flagged", "blank/sensitivity"),
        ("blank pictures left alone", "blank/specificity"),
        ("boxes on 100 blank pictures", "blank/false_boxes_per_100"),
    ),
    "review": (
        ("animal pictures still looked at", "review/recall"),
        ("pictures that nobody looks at", "review/skipped"),
    ),
    "scores at their word": (
        ("expected error of scores from .1 on", "calibration/ece"),
        ("the same, recalibrated", "calibration/ece_calibrated"),
    ),
    "anchors (the post's figures)": (
        ("accuracy", "anchor/accuracy"),
        ("accuracy, positives only", "anchor/accuracy_positives"),
        ("micro-F1", "anchor/micro_f1"),
        ("offset error, all anchors (MAe)", "anchor/mae"),
        ("offset error, per positive", "anchor/mae_per_positive"),
    ),
}
ALL_BACKGROUND = "anchor/accuracy_all_background"
LONGEST_NAME = 40  # letters
FLOOR = 0.05  # a results file without lower scores lacks much of what mAP asks about
ENOUGH_GROUPS = 200  # from which ranges of means over species are not optimistic: `ena24ssd.bootstrap.interval`
MISTAKES = {  # by the names of `ena24ssd.mistakes.KINDS`
    "species": "right place, wrong species",
    "box": "right species, poor box (IoU .1 to .5)",
    "species and box": "wrong species and poor box",
    "duplicate": "an animal found twice",
    "background": "nothing there",
    "missed": "an animal missed",
}


def printable(text: object) -> str:
    """The text with what would steer a terminal written out: names come from files that anybody may have made."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in str(text))


def post_table(metrics: Mapping[str, Metrics]) -> PrettyTable:
    """The post's closing table: one row, every figure for every split."""
    table = PrettyTable()
    table.field_names = [f"{title}/{side}" for title in POST_COLUMNS for side in metrics]
    table.add_row([f"{values[name]:.4g}" for name in POST_COLUMNS.values() for values in metrics.values()])
    return table


def figure_table(metrics: Mapping[str, Metrics]) -> PrettyTable:
    """The figures by split, beside what the answer "background" for every anchor scores on the last split."""
    table = PrettyTable(["figure", *metrics, "all background"], align="r")
    table.align["figure"] = "l"
    *_, judged = metrics.values()
    for name, title in _rows(metrics.values()):
        floor = judged.get(ALL_BACKGROUND) if name == "anchor/accuracy" else None
        cells = [_figure(values.get(name)) for values in metrics.values()]
        table.add_row([title, *cells, _figure(floor)])
    return table


def describe_report(report: Report) -> str:
    """What was measured, in a sentence or two."""
    scores, cases = report.scores, report.scores.cases
    which = "" if report.epoch is None else f"checkpoint of epoch {report.epoch}, "
    blanks = f" ({int(cases.blank.sum()):,} blank)" if cases.blank.any() else ""
    split = "" if report.split == "all" else f" {report.split}"
    grouped = f" in {scores.groups.count:,} {scores.groups.words}" if scores.resamples or scores.ranges else ""
    lines = [
        f"{report.model}: {which}{len(cases):,}{split} pictures{blanks}"
        f"{grouped}, {len(cases.truth.label):,} boxes. What scores {scores.threshold:g} or more counts as shown"
    ]
    if report.split == "train":
        lines.append("the network has learnt these pictures: the figures say how well it remembers, not how good it is")
    if report.split == "validation" and report.is_best:
        lines.append("the checkpoint was chosen on these pictures, which flatters it a little")
    if report.unreadable:
        lines.append(f"{report.unreadable:,} pictures could not be read, or have no result, and are left out")
    if report.floor > FLOOR:
        lines.append(
            f"nothing was noted down that scores below {report.floor:.3f}: mAP and AR count the rest as missed"
        )
    if not report.knows_training:
        lines.append("nobody says what it learnt from: what scores without looking knows these very pictures instead")
    if scores.resamples and not scores.ranges:
        lines.append("no ranges: there are too few groups of pictures to draw from")
    elif scores.ranges and scores.groups.count < ENOUGH_GROUPS:
        lines.append(
            f"from fewer than {ENOUGH_GROUPS} groups the ranges of mAP and of means over species are optimistic"
        )
    kept, skipped, at = (scores.figures[f"review/{name}"] for name in ("recall", "skipped", "threshold"))
    if at == 0 and cases.blank.any():
        unseen = float((cases.best_score[~cases.blank] == 0).mean())
        lines.append(
            f"nobody can be spared a look: no score keeps {scores.recall:.0%} of the pictures with animals, as nothing "
            f"at all is found on {unseen:.1%} of them"
        )
    elif _is_number(kept) and cases.blank.any():
        lines.append(
            f"whoever looks only at pictures that score {at:.3f} or more sees {kept:.1%} of those with animals and "
            f"skips {skipped:.1%} of all (threshold chosen on {_chosen_on(report, scores.review_split)}, to keep "
            f"{scores.recall:.0%})"
        )
    if scores.calibration is not None and scores.calibration.threshold is not None:
        lines.append(
            f"a threshold of {scores.calibration.threshold:.3f} has the best F1 of boxes (chosen on "
            f"{_chosen_on(report, scores.calibration.split)}); what it gives stands beside the rest"
        )
    if scores.calibration is not None and scores.calibration.note is not None:
        lines.append(f"calibration: {scores.calibration.note}")
    return printable("\n".join(lines))


def _chosen_on(report: Report, split: str | None) -> str:
    return "these very pictures, so it is flattered" if split in (None, report.split) else split


def score_table(report: Report) -> PrettyTable:
    """Every figure of a model: its range in 95 of 100 draws of whole bursts, and what scores without looking."""
    scores, metrics = report.scores, report.metrics
    blind = {name: dict(figures) for name, figures in scores.baselines.items()}
    blind["all background"]["anchor/accuracy"] = metrics.get(ALL_BACKGROUND)
    others = blind
    if scores.tuned is not None and scores.calibration is not None:  # figures that a threshold changes
        others = {f"tuned: from {scores.calibration.threshold:.3f} on": scores.tuned} | blind
    table = PrettyTable(["figure", f"from {scores.threshold:g} on", "95 % range", *others], align="r")
    table.align["figure"] = "l"
    for name, title in _rows([metrics, scores.tuned or {}]):
        cells = [_figure(metrics.get(name)), _range(scores.ranges.get(name))]
        table.add_row([title, *cells, *(_figure(figures.get(name)) for figures in others.values())])
    return table


def species_score_table(scores: Scores) -> PrettyTable:
    """Every species that is there or was found: its boxes, and its presence on pictures."""
    columns = ["species", "boxes", "pictures", "AP50", "95 % range", "AP"]
    columns += ["on pictures: P", "R", "F1", "best from", "box F1 so"]
    table = PrettyTable(columns, align="r")
    table.align["species"] = "l"
    for one in sorted(scores.species, key=lambda one: (-one.boxes, one.name)):
        if not one.boxes and not _is_number(one.precision):
            continue
        here, elsewhere = (one.threshold, one.best_f1), (one.tuned_threshold, one.tuned_f1)
        tuned = here if scores.calibration is None else elsewhere
        figures = (one.precision, one.recall, one.f1, *tuned)
        boxes = (_figure(one.ap50, 3), _range(one.ap50_range), _figure(one.ap, 3))
        row = [_name(one.name), f"{one.boxes:,}", f"{one.pictures:,}", *boxes]
        table.add_row([*row, *(_figure(value, 3) for value in figures)])
    return table


def mistake_table(scores: Scores) -> PrettyTable:
    """What is wrong, how often, and the mAP at IoU .5 that mending it alone would bring."""
    table = PrettyTable(["mistake", "count", "mAP50 it costs, at any score"], align="r")
    table.align["mistake"] = "l"
    for kind, count in scores.mistakes.counts.items():
        table.add_row([MISTAKES[kind], f"{count:,}", _figure(scores.mistakes.costs[kind], 3)])
    return table


def light_table(scores: Scores) -> PrettyTable:
    """The same model by day and by night."""
    table = PrettyTable(
        ["figure", *(part for light in scores.light for part in (light, f"95 % range, {light}"))], align="r"
    )
    table.align["figure"] = "l"
    row = ["pictures"]
    for figures in scores.light.values():
        row += [f"{figures['pictures']:,.0f}", ""]
    table.add_row(row)
    for title, name in (
        ("mAP at IoU .5", "detection/map50"),
        ("F1 of species on a picture", "presence/f1"),
        ("animal pictures flagged", "blank/sensitivity"),
        ("blank pictures left alone", "blank/specificity"),
    ):
        if any(_is_number(values.get(name)) for values in scores.light.values()):
            row = [title]
            for light, figures in scores.light.items():
                row += [_figure(figures.get(name), 3), _range(scores.light_ranges.get(light, {}).get(name))]
            table.add_row(row)
    return table


def _name(text: str) -> str:
    """On one line, and no longer than a table bears."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= LONGEST_NAME else line[: LONGEST_NAME - 1].rstrip() + "…"


def _rows(metrics: Iterable[Metrics]) -> Iterator[tuple[str, str]]:
    """The figures that any of the metrics has, by name and title; a section's own title has no name."""
    known = {name for values in metrics for name, value in values.items() if _is_number(value)}
    for section, figures in SECTIONS.items():
        rows = [(name, f"  {title}") for title, name in figures if name in known]
        if rows:
            yield from [("", section), *rows]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _figure(value: float | None, digits: int = 4) -> str:
    return f"{value:.{digits}f}" if _is_number(value) else ""


def _range(both: Range | None) -> str:
    return "" if both is None or not _is_number(both.low) else f"{both.low:.3f} to {both.high:.3f}"


def describe_outcome(outcome: Outcome) -> str:
    """What was found on pictures nobody has labelled, what failed, and where it stands."""
    some = sum(outcome.species.values())
    lines = [
        f"{_count(outcome.pictures, 'picture')}: {outcome.with_animals:,} with animals "
        f"({_count(some, 'detection')}), {outcome.blank:,} without, {outcome.failed:,} failed"
    ]
    if outcome.species:
        table = PrettyTable(["species", "pictures", "detections"], align="r")
        table.align["species"] = "l"
        for name, count in outcome.species.most_common():
            table.add_row([_name(name), f"{outcome.species_pictures[name]:,}", f"{count:,}"])
        lines.append(str(table))
    lines += [f"  {_line(image.file)}: {_line(image.failure)}" for image in outcome.failures]
    if outcome.failed > len(outcome.failures):
        lines.append(f"  ... and {outcome.failed - len(outcome.failures):,} more, which the results name")
    lines += map(_line, outcome.notes)
    left_out = outcome.left_out
    if left_out.videos:
        lines.append(
            f"left out {_count(left_out.videos, 'video')}, such as {_line(left_out.first_video)}: take frames of them "
            "out first"
        )
    lines += [f"left out the folder {_line(folder)}: {_line(why)}" for folder, why in left_out.folders[:SHOWN]]
    if len(left_out.folders) > SHOWN:
        lines.append(f"left out {len(left_out.folders) - SHOWN:,} more folders")
    lines.append(f"file names start from {_line(outcome.root)}; written:")
    lines += [f"  {_line(file)}" for file in outcome.files]
    return "\n".join(lines)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _line(text: object) -> str:
    """As `printable`, in one line: what a name holds must not pass for a line of its own."""
    return printable(text).replace("\n", "\\n")


def describe_export(exported: Exported) -> str:
    """What was written, and how near it is to the network it was made from."""
    check = exported.check
    size = sum(file.size for file in exported.files) / 1e6
    if check.native_map is None:
        kept = (
            f"scores within {check.score_difference:.1g}, boxes within {check.box_difference:.1g} px "
            f"({check.detections:,} detections)"
        )
    else:
        kept = (
            f"mAP {check.exported_map:.4f} where the network has {check.native_map:.4f}, mAP50 "
            f"{check.exported_map50:.4f} where it has {check.native_map50:.4f}"
        )
    return f"wrote {printable(exported.path)} ({size:.1f} MB): {kept}, on {check.pictures:,} {check.source} pictures"


def describe_repeats(report: RepeatReport) -> str:
    """How many boxes stay the same, and what is left without them."""
    if not report.repeats:
        return f"no box stays the same on many pictures of a camera ({report.detections:,} detections)"
    return (
        f"{len(report.repeats):,} boxes stay the same on many pictures of {report.cameras:,} cameras; without them "
        f"{report.detections - report.removed:,} of {report.detections:,} detections are left, and {report.emptied:,} "
        "pictures more are blank"
    )


def species_table(boxes: Mapping[str, int]) -> PrettyTable:
    """How many boxes each species has."""
    table = PrettyTable(["species", "boxes"], align="r")
    table.align["species"] = "l"
    table.add_rows([(printable(name), count) for name, count in boxes.items()])
    return table


def problem_table(rows: Sequence[tuple[str, int, str, str]]) -> PrettyTable:
    """Problems counted by rule: (rule, count, what the rule means, a first case)."""
    table = PrettyTable(["rule", "count", "what is done", "first case"], align="l", max_width=60)
    for row in rows:
        table.add_row([printable(cell) for cell in row], divider=True)
    return table


def leak_table(splits: Sequence[Leaks]) -> PrettyTable:
    """What each way to split a dataset gives away, by hash and by what the json knows (`ena24ssd.leaks`)."""
    table = PrettyTable(
        ["split", "side", "pictures", "same scene", "by another hash", "same sequence", "same camera", "least even"],
        align="r",
    )
    table.align["split"] = table.align["side"] = table.align["least even"] = "l"
    for split in splits:
        worst = split.imbalance
        uneven = ""
        if worst is not None:
            uneven = f"{worst.species or 'blank'} {worst.pictures} of {worst.due:.0f} on {worst.side}"
        for side, leak in split.leaks.items():
            shares = ["unknown" if share is None else f"{share:.1%}" for share in leak]
            table.add_row([split.kind, side, f"{split.sizes[side]:,}", *shares, printable(uneven)])
    return table
