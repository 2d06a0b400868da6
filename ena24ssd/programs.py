"""What became of a program that may hang or crash?"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import NamedTuple

# Set for a worker: by whoever starts several with MXNet's parameter server, and by torchrun.
MEMBERSHIP = (
    *("DMLC_", "TORCHELASTIC_", "MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK"),
    *("LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME"),
)


class Outcome(NamedTuple):
    output: str
    errors: str
    code: int | None  # None: it did not end in time


def run_program(command: Sequence[str], limit: float, environment: Mapping[str, str] | None = None) -> Outcome:
    """Run a program for at most ``limit`` seconds. What it wrote until then is kept however it ended."""
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )
    except OSError as fault:
        return Outcome("", f"{command[0]}: {fault.strerror}", 127)
    code = None
    try:
        output, errors = process.communicate(timeout=limit)
        code = process.returncode
    except subprocess.TimeoutExpired:
        process.kill()
        try:
            output, errors = process.communicate(timeout=5)
        except subprocess.TimeoutExpired as stuck:  # within the driver, where no signal reaches it
            output, errors = stuck.output or b"", stuck.stderr or b""
    finally:
        if process.returncode is None:  # the user has had enough
            process.kill()
    return Outcome(output.decode(errors="replace"), errors.decode(errors="replace"), code)


def describe_end(outcome: Outcome, limit: float) -> str:
    """How a program ended that should have answered within ``limit`` seconds."""
    lines = [line.strip() for line in (outcome.errors or outcome.output).splitlines() if line.strip()]
    # A traceback's own line, rather than the advice that may follow it.
    errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception): ", line)]
    words = f": {(errors or lines)[-1][:200]}" if lines else ""
    if outcome.code is None:
        return f"no answer in {limit:g} s"
    if outcome.code < 0:
        cause = ", as a system does that runs out of memory" if outcome.code == -9 else ""
        return f"killed by signal {-outcome.code} ({signal.strsignal(-outcome.code)}){cause}"
    return f"ended with exit code {outcome.code}{words}"


def lone_environment() -> dict[str, str]:
    """This process's environment, but for what would make a child one more worker, or a server, of several."""
    return {
        name: value
        for name, value in os.environ.items()
        if not any(name.startswith(own) if own.endswith("_") else name == own for own in MEMBERSHIP)
    }
