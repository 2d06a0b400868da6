"""What did the post measure, and what does each of its shortcuts add?

The post closes with an accuracy of .9985 and a micro-F1 of .88. Its code gets there by a row of shortcuts: it judges
anchors, not animals (nearly all are background); the last batch alone; one of training pictures; it never starts the
test loss at zero; and it rounds. `protocol_rows` takes them one after the other, on one set of weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prettytable import PrettyTable

ANCHOR_FIGURES = ("accuracy", "log_loss", "mae", "micro_f1")
ANIMAL_FIGURES = ("map50", "presence_f1")
TITLES = {
    "accuracy": "accuracy",
    "log_loss": "log loss",
    "mae": "MAe",
    "micro_f1": "micro-F1",
    "map50": "mAP@.5",
    "presence_f1": "species F1",
}
PUBLISHED = {"accuracy": 0.9985, "log_loss": 1.40, "mae": 0.0024, "micro_f1": 0.88}
"""The test columns of the post's closing table."""


@dataclass(frozen=True)
class ProtocolRow:
    """What one way to measure says; ``figures`` has every name of `TITLES`, None where this way does not ask."""

    title: str
    figures: Mapping[str, float | None]


def protocol_rows(
    honest: Mapping[str, float],
    held_out: Mapping[str, float],
    last_held_out: Mapping[str, float],
    last_train: Mapping[str, float],
    train_loss_sum: float,
    test_loss_sum: float,
) -> tuple[ProtocolRow, ...]:
    """From the honest figures to the post's, each row adding a shortcut to the row above.

    Parameters: ``honest`` holds ``map50`` and ``presence_f1`` of the held-out pictures. The next three are
    `metrics.AnchorSums.metrics()` of all held-out pictures, of the last batch of them, and of the last training batch.
    ``train_loss_sum`` and ``test_loss_sum`` are sums over batches, not means: of the training loop, and of the test
    loop as the post runs it, where every batch is the last training batch again.
    """
    anchors = _some(held_out, ANCHOR_FIGURES)
    # The post's loss alone is no figure of the last batch: it runs on over all of them.
    last_batch = _some(last_held_out, ANCHOR_FIGURES) | {"log_loss": anchors["log_loss"]}
    of_training = _some(last_train, ANCHOR_FIGURES)
    summed = of_training | {"log_loss": train_loss_sum + test_loss_sum}
    rounded = summed | {"micro_f1": two_digits(summed["micro_f1"])}
    return (
        _row("every animal of the held-out pictures", _some(honest, ANIMAL_FIGURES)),
        _row("anchors instead of animals", anchors),
        _row("... of the last batch only", last_batch),
        _row("... which is of training pictures", of_training),
        _row("... the loss a sum that training began", summed),
        _row("... the F1 rounded to two digits", rounded),
    )


def two_digits(value: float) -> float:
    """``value`` to two significant digits, as the post's ``format(f1score, '.2g')`` has it: .795 passes for .8."""
    return float(format(value, ".2g"))


def post_protocol_table(rows: Sequence[ProtocolRow]) -> PrettyTable:
    """The rows with a column a figure, and below them what the post published for its own run."""
    table = PrettyTable(["how it is measured", *TITLES.values()], align="r")
    table.align["how it is measured"] = "l"
    published = _row("published in the post, of its own run", PUBLISHED)
    for row in (*rows, published):
        cells = [_cell(row.figures[name]) for name in TITLES]
        table.add_row([row.title, *cells], divider=row is rows[-1])
    return table


def _row(title: str, figures: Mapping[str, float]) -> ProtocolRow:
    return ProtocolRow(title, {name: figures.get(name) for name in TITLES})


def _some(figures: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    return {name: figures[name] for name in names}


def _cell(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.4g}"
