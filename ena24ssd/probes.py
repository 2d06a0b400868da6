"""Does an engine really do here what training will ask of it?

It is tried in processes of its own (`ena24ssd.trials`): that one hangs, or is taken down, is a finding.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Sequence
from typing import get_args

from ena24ssd.cards import DRIVER, is_card_plugged_in
from ena24ssd.findings import Finding, State
from ena24ssd.programs import Outcome, describe_end, lone_environment, run_program
from ena24ssd.wheels import CHECKOUT, extra_of, install_command, installed_builds, swap_command

# By name, as `ena24ssd.engine.ENGINES`: importing them would import the frameworks.
HEALTH = {"gluon": ("-m", "ena24ssd.gluon.health"), "pytorch": ("-m", "ena24ssd.pytorch.health")}
SYSTEM_LIBRARIES = {  # Debian's packages
    "libgomp.so": "libgomp1 libquadmath0",
    "libquadmath.so": "libgomp1 libquadmath0",
    "libGL.so": "libgl1",
    "libgthread": "libglib2.0-0",
}


def probe_engine(engine: str, devices: Sequence[str], card_way_out: str, limit: float) -> list[Finding]:
    """What the engine's ``health`` finds on these devices, as a config names them.

    After a probe that it did not outlive, it is started again for the others; each start may take ``limit`` seconds.
    ``card_way_out``: what helps where a card fails.
    """
    probes = ["cpu", "cores", "board", *(["gpus"] if "auto" in devices else ())]
    probes += [device for device in devices if device.startswith("gpu")]
    repair = install_command(extra_of(engine))
    environment = lone_environment()  # MXNet would begin to serve on being imported, where that says so
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(CHECKOUT), os.environ.get("PYTHONPATH"))))
    found: dict[str, Finding] = {}
    while probes:
        outcome = run_program([sys.executable, *HEALTH[engine], str(time.time()), *probes], limit, environment)
        probe = what = None
        for row in _rows(outcome.output, probes):
            if "probe" in row:
                probe, what = row["probe"], row["what"]
                continue
            finding = Finding(**row)
            if finding.state != "ok" and not finding.way_out:
                finding = finding._replace(way_out=card_way_out if (probe or "").startswith("gpu") else repair)
            found[finding.what] = finding
        if probe is None:
            found["engine can be imported"] = _import_fault(engine, outcome, limit, repair)
        if not probe:
            break
        way_out = card_way_out if probe.startswith("gpu") else repair
        found[what] = Finding(what, "cannot work", describe_end(outcome, limit), way_out)
        probes = probes[probes.index(probe) + 1 :]
    return list(found.values())


def probe_tensorboard(limit: float, repair: str) -> Finding:
    """Whether TensorBoard itself starts."""
    outcome = run_program([sys.executable, "-m", "tensorboard.main", "--version"], limit)
    if outcome.code == 0 and outcome.output.strip():
        return Finding("tensorboard can be started", "ok", outcome.output.split()[-1])
    return Finding("tensorboard can be started", "doubtful", describe_end(outcome, limit), repair)


def _rows(output: str, probes: Sequence[str]) -> list[dict[str, str]]:
    """The lines of the child that keep to what was agreed; libraries may print theirs between them."""
    rows = []
    for line in output.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if not isinstance(row, dict) or not all(isinstance(value, str) for value in row.values()):
            continue
        announces = row.keys() == {"probe", "what"} and row["probe"] in ("", *probes)
        if announces or (row.keys() == set(Finding._fields) and row["state"] in get_args(State)):
            rows.append(row)
    return rows


def _import_fault(engine: str, outcome: Outcome, limit: float, repair: str) -> Finding:
    what = "engine can be imported"
    if "EngineError: " not in outcome.errors:
        return Finding(what, "cannot work", describe_end(outcome, limit), repair)
    message = outcome.errors.rpartition("EngineError: ")[2].strip()
    library = re.search(r"(lib[\w+-]+\.so[.\d]*): cannot open", message)
    if library is None:
        return Finding(what, "cannot work", message, repair)
    return Finding(what, "cannot work", f"{library[1]} is missing", _fetch_library(engine, library[1], repair))


def _fetch_library(engine: str, library: str, repair: str) -> str:
    package = next((package for start, package in SYSTEM_LIBRARIES.items() if library.startswith(start)), None)
    if package is not None and shutil.which("apt-get"):
        sudo = "" if hasattr(os, "geteuid") and os.geteuid() == 0 else "sudo "
        return f"{sudo}apt-get install {package}"
    if package is not None:
        return f"Install what Debian calls {package} with your system's package manager"
    if engine == "pytorch":  # its other libraries are packages that it asks for
        return repair
    build = next(iter(installed_builds()), "mxnet")
    if library.startswith("libcuda.so"):
        return DRIVER if is_card_plugged_in() else swap_command(build, "gluon")
    if build == "mxnet-cu112":
        return install_command("gluon-cu112")
    if build.startswith("mxnet-cu"):
        return swap_command(build, "gluon-cu112")
    return f"Install the system library {library} with your system's package manager"
