"""What was found out about this machine?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

State = Literal["ok", "doubtful", "cannot work"]


class Finding(NamedTuple):
    """One row of the examination."""

    what: str
    state: State
    detail: str  # what was found: a version, a time, free space
    way_out: str = ""  # a command, or a sentence where no command can; empty where all is well


def can_work(findings: Sequence[Finding]) -> bool:
    """Whether nothing stands in the way, doubts aside."""
    return all(finding.state != "cannot work" for finding in findings)
