"""What should a person read at the end?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from prettytable import PrettyTable

if TYPE_CHECKING:
    from ena24ssd.leaks import Leaks

Metrics = Mapping[str, float]

POST_COLUMNS = {
    "Accuracy": "anchor/accuracy",
    "Log_loss": "anchor/log_loss",
    "MAe": "anchor/mae",
    "Micro_F1": "anchor/micro_f1",
}

# What is shown, and what answering "background" everywhere would score (None: nothing to compare with).
FIGURES = (
    ("anchor accuracy", "anchor/accuracy", "anchor/accuracy_all_background"),
    ("anchor accuracy, positives only", "anchor/accuracy_positives", 0.0),
    ("anchor micro-F1", "anchor/micro_f1", 0.0),
    ("offset error, all anchors (MAe)", "anchor/mae", None),
    ("offset error, per positive", "anchor/mae_per_positive", None),
    ("mAP at IoU .5", "detection/map50", 0.0),
    ("precision at the score threshold", "detection/precision", None),
    ("recall at the score threshold", "detection/recall", 0.0),
    ("mean IoU of detections over it", "detection/mean_iou", None),
)


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
    """Every figure by split, beside what the answer "background everywhere" scores on the last split."""
    table = PrettyTable(align="r")
    table.field_names = ["figure", *metrics, "all background"]
    table.align["figure"] = "l"
    *_, judged = metrics.values()
    for title, name, baseline in FIGURES:
        floor = judged[baseline] if isinstance(baseline, str) else baseline
        row = [f"{values[name]:.4f}" if name in values else "" for values in metrics.values()]
        table.add_row([title, *row, "" if floor is None else f"{floor:.4f}"])
    return table


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
