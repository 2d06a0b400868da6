"""What can I type?

``ena24ssd download | convert | check | explore | split | synth | doctor | train | runs | curves | evaluate | compare |
predict | merge | repeats | export``

Every verb parses, calls one importable function and prints. Exit codes: 0 done, 1 a mistake that the message explains
(check: something had to be left out; doctor: training cannot work), 2 a command line that does not parse, 128 + n
stopped by signal n, with everything kept.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from ena24ssd.commands import data, machine, models, runs
from ena24ssd.engine import EngineError
from ena24ssd.epoch import DivergedError
from ena24ssd.stopping import StoppedError
from ena24ssd.tables import printable

# What a user can mend. ENA24SSD_TRACEBACK=1 shows where it came from all the same.
MISTAKES = (ValueError, OSError, MemoryError, EngineError, DivergedError)

OVERRIDDEN = ("compare", "doctor", "evaluate", "explore", "train")  # the verbs that take a config


def main(arguments: Sequence[str] | None = None) -> int:
    """The ``ena24ssd`` command; returns its exit code."""
    for stream in (sys.stdout, sys.stderr):  # a name that a terminal has no letters for is no mistake
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    parser = _parser()
    choice, rest = parser.parse_known_args(arguments)
    # argparse takes the words before the first option only; overrides may also follow it.
    if rest and (choice.name not in OVERRIDDEN or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if choice.name in OVERRIDDEN:
        choice.choices += rest
    try:
        return choice.verb(choice)
    except BrokenPipeError:  # whoever read along has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MISTAKES as mistake:
        if os.environ.get("ENA24SSD_TRACEBACK"):
            raise
        print(f"ena24ssd: {printable(mistake)}", file=sys.stderr)
        return 1
    except StoppedError as stopped:
        print(f"ena24ssd: {printable(stopped)}", file=sys.stderr)
        return 128 + stopped.signal_number  # as the shell says of one that a signal ended
    except KeyboardInterrupt as interrupted:
        print(f"ena24ssd: interrupted{'; ' if interrupted.args else ''}{printable(interrupted)}", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ena24ssd", description="Train and use an SSD animal detector.")
    verbs = parser.add_subparsers(required=True, dest="name", metavar="verb")

    def add(name: str, verb, text: str) -> argparse.ArgumentParser:
        door = verbs.add_parser(name, help=text, description=text)
        door.set_defaults(verb=verb)
        return door

    data.add_verbs(add)
    machine.add_verbs(add)
    runs.add_verbs(add)
    models.add_verbs(add)
    return parser


if __name__ == "__main__":
    sys.exit(main())
