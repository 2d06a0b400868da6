"""What works here, and what is the one command that mends the rest?

`preflight` asks the disk, the memory and the package metadata, which takes milliseconds; training asks it before it
starts. `examine` really does what training will do, in processes of their own: a CUDA wheel on a card it holds no code
for may hang for minutes, and libraries that do not fit take their process down with them. Such an end is a finding.

With ``engine: auto`` one engine that works is enough. The other is examined where it is installed, and only told of.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from prettytable import PrettyTable

from ena24ssd.cards import judge_cards
from ena24ssd.config import RunConfig
from ena24ssd.findings import Finding, can_work
from ena24ssd.probes import probe_engine, probe_tensorboard
from ena24ssd.room import devices_of, judge_room
from ena24ssd.tables import printable
from ena24ssd.wheels import (
    extra_of,
    install_command,
    judge_base,
    judge_packages,
    likely_engine,
    quote,
    usable_engines,
    version_of,
)

LIMIT = 180.0  # seconds: longer than any card with code in its wheel needs to start
TORCHRUN = "'torchrun --nproc-per-node 2 scripts/train.py ...'"


def examine(
    config: RunConfig | None = None, out: Path | str | None = None, *, limit: float = LIMIT
) -> tuple[Finding, ...]:
    """Everything there is to find out: for ``config``, where given, and for a run folder at ``out``.

    Takes seconds; where something hangs, up to ``limit`` seconds for each thing that does. What fails is a finding, not
    an exception.
    """
    wanted = config or RunConfig()
    pictures, data = _data(wanted) if wanted.data.path is not None else (None, ())
    repair = install_command(extra_of(likely_engine(wanted.engine)))
    cards, ways_out = judge_cards(devices_of(wanted), wanted.engine)
    findings = [*judge_packages(wanted.engine), judge_base(repair), *cards]
    findings += _engines(wanted, ways_out, limit)
    if version_of("tensorboard") is not None:
        findings.append(probe_tensorboard(limit, repair))
    return (*findings, *data, *judge_room(wanted, Path(out or "runs"), pictures), *_workers(wanted))


def preflight(config: RunConfig, out: Path | str, pictures: int | None = None) -> tuple[Finding, ...]:
    """What can be known within milliseconds, before a run into ``out``: 'cannot work' is what is certain to fail.

    ``pictures``: how many the dataset has, where that is known. Imports no framework, starts no process.
    """
    return (*judge_packages(config.engine), *judge_room(config, Path(out), pictures), *_workers(config))


def finding_table(findings: Sequence[Finding]) -> str:
    """The findings as a table for a terminal of 100 columns; below it, numbered, the ways out to copy from."""
    ways_out = list(dict.fromkeys(finding.way_out for finding in findings if finding.way_out))
    table = PrettyTable(["what", "state", "found", "way out"], align="l")
    table.max_width.update({"what": 26, "found": 43})
    for finding in findings:
        number = f"[{ways_out.index(finding.way_out) + 1}]" if finding.way_out else ""
        table.add_row([printable(cell) for cell in (finding.what, finding.state, finding.detail, number)])
    return "\n".join([str(table), *(f"[{n}] {printable(way_out)}" for n, way_out in enumerate(ways_out, 1))])


def _engines(config: RunConfig, ways_out: dict[str, str], limit: float) -> list[Finding]:
    """What those engines do that no package speaks against."""
    engines = usable_engines(config.engine)
    probed = {engine: probe_engine(engine, devices_of(config), ways_out[engine], limit) for engine in engines}
    if len(engines) < 2:
        return [finding for findings in probed.values() for finding in findings]
    working = [engine for engine in engines if can_work(probed[engine])]
    rows = []
    for engine, findings in probed.items():
        for finding in findings:
            if finding.state == "cannot work" and working:  # the other one will do
                way_out = f"Set engine={working[0]}" if engine == engines[0] else finding.way_out
                finding = finding._replace(state="doubtful", way_out=way_out)
            rows.append(finding._replace(what=f"{engine}: {finding.what.removeprefix('engine ')}"))
    return rows


def _data(config: RunConfig) -> tuple[int | None, tuple[Finding, ...]]:
    """How many pictures the config's dataset has, and what there is to say of it."""
    from ena24ssd.sources import read_source

    try:
        dataset = read_source(config.data).dataset
    except (OSError, ValueError) as fault:
        way_out = f"ena24ssd check {quote(str(config.data.path))}"
        return None, (Finding("data", "cannot work", str(fault), way_out),)
    detail = f"{len(dataset.images):,} pictures of {len(dataset.class_names)} species"
    return len(dataset.images), (Finding("data", "ok", detail),)


def _workers(config: RunConfig) -> list[Finding]:
    """Whether this process can know its place among several: of MXNet's parameter server, or of torchrun."""
    engine, findings = likely_engine(config.engine), []
    if config.kvstore is not None:
        findings.append(_worker_of_server(engine))
    if os.environ.get("WORLD_SIZE", "") not in ("", "0", "1"):
        findings.append(_worker_of_torchrun(config.engine, engine))
    return findings


def _worker_of_server(engine: str) -> Finding:
    what = "several machines"
    if engine == "pytorch":
        way_out = f"Set kvstore=null, and start the workers with {TORCHRUN}"
        return Finding(what, "cannot work", "kvstore is MXNet's, and the engine is pytorch", way_out)
    from ena24ssd.cluster import read_membership
    from ena24ssd.engine import EngineError

    try:
        member = read_membership(os.environ)
    except EngineError as fault:
        way_out = "start the same command with 'python -m ena24ssd.cluster --workers 2 --' in front of it"
        return Finding(what, "cannot work", str(fault), way_out)
    said = f"{member.role}; {member.workers} workers and {member.servers} servers meet at {member.host}:{member.port}"
    return Finding(what, "ok", said)


def _worker_of_torchrun(asked: str, engine: str) -> Finding:
    what, workers = "workers of torchrun", os.environ["WORLD_SIZE"]
    if engine == "gluon":
        said = f"WORLD_SIZE is {workers}, but with engine gluon every worker would train by itself"
        way_out = "Set engine=pytorch"
        if asked == "gluon":
            way_out += ", or kvstore=dist_sync and start them with 'python -m ena24ssd.cluster'"
        return Finding(what, "cannot work", said, way_out)
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        said = f"WORLD_SIZE is {workers}, but not set: {', '.join(missing)}"
        return Finding(what, "cannot work", said, f"Start the workers with {TORCHRUN}, or unset WORLD_SIZE")
    rank, host, port = (os.environ[name] for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"))
    return Finding(what, "ok", f"rank {rank} of {workers}; they meet at {host}:{port}")
