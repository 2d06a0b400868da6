"""What can be asked about this machine from the command line?"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from ena24ssd.commands.choices import choose_config
from ena24ssd.config import change_config
from ena24ssd.files import replace_file


def add_verbs(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add every verb of this module by ``add(name, function, help)``, which returns the verb's parser."""
    door = add("doctor", _doctor, "Find out what works on this machine, and how to mend what does not.")
    door.add_argument("choices", nargs="*", metavar="CONFIG.yaml | section.field=value", help="the run to examine for")
    door.add_argument("--data", type=Path, help="dataset folder or json (data.path)")
    door.add_argument("--out", type=Path, help="run folder that is planned (default: runs)")
    door.add_argument(
        "--limit", type=float, default=180.0, metavar="SECONDS", help="patience with what hangs (%(default)g)"
    )
    door.add_argument("--json", metavar="FILE", help="write the findings to this file as json; -: print them as json")


def _doctor(choice: argparse.Namespace) -> int:
    from ena24ssd.doctor import can_work, examine, finding_table

    config = choose_config(choice.choices)
    if choice.data is not None:
        config = change_config(config, {"data.path": choice.data})
    print(f"trying what is installed; what hangs is given up after {choice.limit:g} s", file=sys.stderr, flush=True)
    findings = examine(config, choice.out, limit=choice.limit)
    written = json.dumps([finding._asdict() for finding in findings], indent=1)
    if choice.json == "-":
        print(written)
    else:
        print(finding_table(findings))
        if choice.json is not None:
            replace_file(Path(choice.json), written)
    return 0 if can_work(findings) else 1
