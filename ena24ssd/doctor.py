"""What works here, and what is the one command that mends the rest?

`preflight` asks the disk, the memory and the package metadata, which takes milliseconds; training asks it before it
starts. `examine` really does what training will do, in processes of their own: a CUDA wheel on a card it holds no code
for may hang for minutes, and libraries that do not fit take their process down with them. Such an end is a finding.
"""

from __future__ import annotations

import json
import operator
import os
import platform
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import metadata, util
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import platformdirs
from prettytable import PrettyTable

from ena24ssd.config import RunConfig
from ena24ssd.memory import available_memory
from ena24ssd.tables import printable

State = Literal["ok", "doubtful", "cannot work"]


class Finding(NamedTuple):
    """One row of the examination."""

    what: str
    state: State
    detail: str  # what was found: a version, a time, free space
    way_out: str = ""  # a command, or a sentence where no command can; empty where all is well


HEALTH = ("-m", "ena24ssd.gluon.health")  # by name, as `ena24ssd.engine.ENGINES`: importing it would import MXNet
CHECKOUT = Path(__file__).parents[1]
PCI = Path("/sys/bus/pci/devices")

LIMIT = 180.0  # seconds: longer than any card with code in its wheel needs to start
PATIENCE = 20.0  # seconds for programs that answer in one


class Build(NamedTuple):
    """A wheel of MXNet 1.9.1."""

    extra: str  # of this package, which installs it
    oldest: tuple[int, int] = (0, 0)  # compute capability of the cards that its code runs on
    newest: tuple[int, int] = (0, 0)
    driver: str = ""  # the oldest that its CUDA works with


BUILDS = {
    "mxnet": Build("gluon"),
    "mxnet-cu101": Build("gluon-cu101", (3, 7), (7, 5), "418.39"),
    "mxnet-cu102": Build("gluon-cu101", (3, 7), (7, 5), "440.33"),
    "mxnet-cu112": Build("gluon-cu112", (6, 0), (8, 9), "450.80.02"),
}
# Drivers before 510, the last for a K80 among them, do not tell the capability; these are the cards of their time.
CAPABILITIES = (
    (r"\bK80\b", (3, 7)),
    (r"\bM\d+\b|GTX 9\d\d", (5, 2)),
    (r"\bP100\b", (6, 0)),
    (r"\bP\d+\b|GTX 10\d\d", (6, 1)),
    (r"\bV100\b", (7, 0)),
    (r"\bT4\b|RTX 20\d\d|GTX 16\d\d|Quadro RTX", (7, 5)),
    (r"\bA(100|30)\b", (8, 0)),
    (r"\bA\d+\b|RTX (30\d\d|A\d+)", (8, 6)),
)
DRIVER = "Restart the machine if its driver was just updated; else install one (Ubuntu: sudo ubuntu-drivers install)"
NO_WHEEL = (
    "Set device=cpu, or train on a card from K80 to RTX 40: MXNet will have no newer wheels, and this package no other "
    "engine yet"
)

# What the gluon engine needs besides MXNet and NumPy: the version it is tested with, and what is lost without.
ENGINE_PACKAGES = {
    "mxboard": ("0.1.0", "training writes its curves with it"),
    "tensorboard": ("2.16", "mxboard cannot write without it"),
}
OPTIONAL_PACKAGES = {
    "gluoncv": "only tests and benchmarks use it",
    "d2l": "only the post's own notebook uses it",
}
SYSTEM_LIBRARIES = {  # Debian's packages
    "libgomp.so": "libgomp1 libquadmath0",
    "libquadmath.so": "libgomp1 libquadmath0",
    "libGL.so": "libgl1",
    "libgthread": "libglib2.0-0",
}

# The network of the post, whose values grow with model.width squared at most; its extractor alone is surely needed.
LEAST_BYTES = 4 * 5_987_000
RUN_BYTES = 40 * 9_702_740  # checkpoints with the optimizer's state, twice while one is replaced, and the curves
# Measured while training it on a CPU; the second grows with model.width.
PROCESS_BYTES = 400_000_000
BYTES_PER_PIXEL = 15_000


def examine(
    config: RunConfig | None = None, out: Path | str | None = None, *, limit: float = LIMIT
) -> tuple[Finding, ...]:
    """Everything there is to find out: for ``config``, where given, and for a run folder at ``out``.

    Takes seconds; where something hangs, up to ``limit`` seconds for each thing that does. What fails is a finding, not
    an exception.
    """
    wanted = config or RunConfig()
    pictures, data = _data(wanted) if wanted.data.path is not None else (None, ())
    software = _software()
    cards, card_way_out = _cards(wanted)
    findings = [*software, *_base_packages(), *cards]
    if all(finding.state != "cannot work" for finding in software):
        findings += _engine(wanted, card_way_out, limit)
    if _version("tensorboard") is not None:
        findings.append(_tensorboard(limit))
    return (*findings, *data, *_room(wanted, Path(out or "runs"), pictures), *_workers(wanted))


def preflight(config: RunConfig, out: Path | str, pictures: int | None = None) -> tuple[Finding, ...]:
    """What can be known within milliseconds, before a run into ``out``: 'cannot work' is what is certain to fail.

    ``pictures``: how many the dataset has, where that is known. Imports no framework, starts no process.
    """
    return (*_software(), *_room(config, Path(out), pictures), *_workers(config))


def can_work(findings: Sequence[Finding]) -> bool:
    """Whether nothing stands in the way, doubts aside."""
    return all(finding.state != "cannot work" for finding in findings)


def finding_table(findings: Sequence[Finding]) -> str:
    """The findings as a table for a terminal of 100 columns; below it, numbered, the ways out to copy from."""
    ways_out = list(dict.fromkeys(finding.way_out for finding in findings if finding.way_out))
    table = PrettyTable(["what", "state", "found", "way out"], align="l")
    table.max_width.update({"what": 26, "found": 43})
    for finding in findings:
        number = f"[{ways_out.index(finding.way_out) + 1}]" if finding.way_out else ""
        table.add_row([printable(cell) for cell in (finding.what, finding.state, finding.detail, number)])
    return "\n".join([str(table), *(f"[{n}] {printable(way_out)}" for n, way_out in enumerate(ways_out, 1))])


# -- Packages ----------------------------------------------------------------------------------------------------------


def _software() -> list[Finding]:
    """Python, the platform, and the engine's packages by their metadata."""
    python, system = _python(), _platform()
    # In the wrong Python, or on the wrong system, no package can be mended.
    mend = python.way_out or system.way_out or _install()
    return [python, system, _mxnet(mend), _numpy(mend), *_companions(mend)]


def _builds() -> list[str]:
    """The wheels of MXNet that are installed: one, or none."""
    return [name for name in BUILDS if _version(name) is not None]


def _python() -> Finding:
    version = f"{platform.python_version()} ({sys.executable})"
    if sys.version_info[:2] in ((3, 10), (3, 11)):
        return Finding("Python", "ok", version)
    found = next((name for name in ("python3.11", "python3.10") if shutil.which(name)), None)
    first = "" if found else "Install Python 3.11 or 3.10, and then: "
    way_out = first + _install(python=".venv/bin/python", before=f"{found or 'python3.11'} -m venv .venv && ")
    return Finding("Python", "cannot work", f"{version}; MXNet needs 3.10 or 3.11", way_out)


def _platform() -> Finding:
    system, machine, (libc, version) = platform.system(), platform.machine(), platform.libc_ver()
    name = " ".join(part for part in (system, machine, libc, version) if part)
    wheels = {("Linux", "x86_64", "glibc"), ("Linux", "aarch64", "glibc"), ("Darwin", "x86_64", "")}
    if (system, machine, libc) in wheels:
        return Finding("platform", "ok", name)
    if _is_there("mxnet"):  # somebody has built it
        return Finding("platform", "ok", f"{name}, for which MXNet has no wheel")
    ways_out = {"Windows": "wsl --install -d Ubuntu-22.04", "Darwin": "docker run --rm -it python:3.11"}
    way_out = ways_out.get(system, "Use a Linux with glibc on x86_64 or aarch64, as Debian and Ubuntu are")
    return Finding("platform", "cannot work", f"{name}, for which MXNet has no wheel", way_out)


def _mxnet(mend: str) -> Finding:
    builds = _builds()
    if len(builds) > 1:
        way_out = _swap(" ".join(builds), BUILDS[builds[-1]].extra)
        return Finding("mxnet", "doubtful", f"{' and '.join(builds)} have overwritten each other's files", way_out)
    if not _is_there("mxnet"):
        return Finding("mxnet", "cannot work", "not installed: no training, evaluation or detection", mend)
    if not builds:
        return Finding("mxnet", "doubtful", "from no known wheel; tested is 1.9.1", mend)
    version = _version(builds[0])
    said = f"{version}, {'CPU build' if builds[0] == 'mxnet' else f'CUDA build ({builds[0]})'}"
    if version != "1.9.1":
        return Finding("mxnet", "doubtful", f"{said}; tested is 1.9.1", mend)
    return Finding("mxnet", "ok", said)


def _numpy(mend: str) -> Finding:
    version = _version("numpy")
    if version is None:
        return Finding("numpy", "cannot work", "not installed", mend)
    if _numbers(version) >= (1, 24):
        return Finding("numpy", "cannot work", f"{version}; MXNet 1.9.1 needs one below 1.24", mend)
    return Finding("numpy", "ok", version)


def _companions(mend: str) -> list[Finding]:
    findings = []
    for name, (tested, loss) in ENGINE_PACKAGES.items():
        version = _version(name)
        if not _is_there(name):
            findings.append(Finding(name, "cannot work", f"not installed: {loss}", mend))
        elif version is None or _numbers(version) < _numbers(tested):
            findings.append(Finding(name, "doubtful", f"{version or 'unknown'}; tested from {tested} on", mend))
        else:
            findings.append(Finding(name, "ok", version))
    for name, use in OPTIONAL_PACKAGES.items():
        findings.append(Finding(name, "ok", _version(name) or f"not installed; {use}"))
    return findings


def _base_packages() -> list[Finding]:
    """The packages without which not even the base works, by what this package's own metadata asks for."""
    try:
        asked = metadata.requires("ena24ssd") or []
    except metadata.PackageNotFoundError:
        return [Finding("base packages", "doubtful", "ena24ssd itself is not installed", _install())]
    missing, unfit, count = [], [], 0
    for requirement in asked:
        match = re.fullmatch(r"([\w.-]+)(?:\[[^]]*])?\s*([^;]*)(;.*)?", requirement)
        if match is None or match[3]:  # with a marker, it is an extra's
            continue
        name, limits, version = match[1], match[2].strip("() "), _version(match[1])
        count += 1
        if version is None:
            missing.append(f"{name} is not installed")
        elif not _satisfies(version, limits):
            unfit.append(f"{name} is {version}, not {limits}")
    if missing or unfit:
        state: State = "cannot work" if missing else "doubtful"
        return [Finding("base packages", state, "; ".join([*missing, *unfit]), _install())]
    return [Finding("base packages", "ok", f"all {count}")]


def _satisfies(version: str, limits: str) -> bool:
    signs = {">=": operator.ge, "<": operator.lt, "==": operator.eq}
    found = re.findall(r"(>=|<|==)\s*([\w.]+)", limits)
    return all(signs[sign](_numbers(version), _numbers(limit)) for sign, limit in found)


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, without closing zeros: (1, 24) for 1.24.0rc1."""
    numbers = [int(number) for number in re.match(r"(?:\d+\.?)*", version)[0].split(".") if number]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _is_there(name: str) -> bool:
    return bool(_builds() if name == "mxnet" else _version(name)) or util.find_spec(name) is not None


def _install(extra: str | None = None, *, python: str | None = None, before: str = "") -> str:
    """The command that installs this package with its tested pins, after the command ``before``.

    ``extra``: left out, the one whose MXNet is there, else the CPU's.
    """
    if extra is None:
        extra = BUILDS[next(iter(_builds()), "mxnet")].extra
    what, pins = f".[{extra}]", "constraints.txt"
    command = f"{before}{python or _quote(sys.executable)} -m pip install"
    if not (CHECKOUT / pins).exists():
        return f'In a checkout of ena24ssd: {command} "{what}" -c {pins}'
    if Path.cwd() != CHECKOUT:
        what, pins = f"{CHECKOUT}{what[1:]}", _quote(str(CHECKOUT / pins))
    return f'{command} -e "{what}" -c {pins}'


def _swap(builds: str, extra: str) -> str:
    """The command that puts another build of MXNet in the place of ``builds``: all write the same files."""
    return _install(extra, before=f"{_quote(sys.executable)} -m pip uninstall -y {builds} && ")


def _quote(path: str) -> str:
    return shlex.quote(path) if os.name == "posix" else f'"{path}"' if " " in path else path


# -- GPUs --------------------------------------------------------------------------------------------------------------


class _Card(NamedTuple):
    name: str
    capability: tuple[int, int] | None
    driver: str
    memory: str


def _cards(config: RunConfig) -> tuple[list[Finding], str]:
    """Each NVIDIA card held against the installed wheel, and the way out where MXNet cannot use one."""
    helpless = "Set device=cpu; what a card needs is in the README's table of GPUs"
    program = shutil.which("nvidia-smi")
    if program is None:
        if _is_card_plugged_in():
            return [_driverless("a card, but no driver (no nvidia-smi)")], helpless
        return [Finding("GPU", "ok", "no NVIDIA GPU")], helpless
    asked = "name,compute_cap,driver_version,memory.total"
    outcome = _ask_driver(program, asked)
    if outcome.code not in (0, None) and "compute_cap" in outcome.output + outcome.errors:  # a driver before 510
        outcome = _ask_driver(program, asked.replace("compute_cap,", ""))
    if "no devices were found" in (outcome.output + outcome.errors).lower():
        return [Finding("GPU", "ok", "no NVIDIA GPU (nvidia-smi finds none)")], helpless
    cards = [_read_card(line) for line in outcome.output.splitlines() if line.strip()]
    if outcome.code != 0 or not cards or None in cards:
        return [_driverless(f"nvidia-smi: {_ending(outcome, PATIENCE)}")], helpless
    findings = [_judge_card(f"gpu:{index}", card, config) for index, card in enumerate(cards) if card]
    return findings, next((finding.way_out for finding in findings if finding.way_out), helpless)


def _ask_driver(program: str, fields: str) -> _Outcome:
    return _run([program, f"--query-gpu={fields}", "--format=csv,noheader,nounits"], PATIENCE)


def _driverless(detail: str) -> Finding:
    return Finding("GPU", "doubtful", detail, DRIVER)


def _is_card_plugged_in() -> bool:
    for device in PCI.glob("*"):
        try:
            vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "class"))
        except OSError:
            continue
        if vendor == "0x10de" and kind.startswith("0x03"):  # NVIDIA, display controller
            return True
    return False


def _read_card(line: str) -> _Card | None:
    fields = [field.strip() for field in line.split(",")]
    if len(fields) == 3:
        fields.insert(1, "")
    if len(fields) != 4 or not re.match(r"\d+\.\d", fields[2]):
        return None
    name, capability, driver, memory = fields
    told = re.fullmatch(r"(\d+)\.(\d+)", capability)
    if told:
        known = int(told[1]), int(told[2])
    else:
        known = next((numbers for pattern, numbers in CAPABILITIES if re.search(pattern, name)), None)
    return _Card(name, known, driver, f"{int(memory) / 1024:.0f} GiB" if memory.isdigit() else "memory unknown")


def _judge_card(what: str, card: _Card, config: RunConfig) -> Finding:
    number = "unknown" if card.capability is None else "{}.{}".format(*card.capability)
    said = f"{card.name}, compute capability {number}, driver {card.driver}, {card.memory}"
    doubt, way_out = _doubt_card(card, next(iter(_builds()), None))
    if doubt and all(device.startswith("cpu") for device in _devices(config)):
        return Finding(what, "ok", f"{said}; not asked for")
    return Finding(what, "doubtful" if doubt else "ok", f"{said}; {doubt}" if doubt else said, way_out)


def _doubt_card(card: _Card, build: str | None) -> tuple[str, str]:
    """Why MXNet cannot use a card as things are, and the way out; both empty where nothing speaks against it."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return "MXNet's CUDA wheels are for Linux x86_64", NO_WHEEL
    fitting = [
        name
        for name, wheel in BUILDS.items()
        if wheel.driver and (card.capability is None or wheel.oldest <= card.capability <= wheel.newest)
    ]
    if not fitting:
        return "no MXNet wheel holds code for it", NO_WHEEL
    extra = "gluon-cu112" if "mxnet-cu112" in fitting else "gluon-cu101"
    needs = ", with a system-wide CUDA 10.1, cuDNN 7, NCCL 2" if extra == "gluon-cu101" else ""
    if build is None:
        return f"takes the extra {extra}{needs}", _install(extra)
    if build not in fitting:
        held = "is the CPU build" if build == "mxnet" else "holds no code for it"
        return f"the installed MXNet {held}; takes the extra {extra}{needs}", _swap(build, extra)
    oldest = BUILDS[build].driver
    if _numbers(card.driver) < _numbers(oldest):
        update = f"Update the NVIDIA driver to {oldest} or newer (Ubuntu: sudo ubuntu-drivers install)"
        return f"{build} needs driver {oldest}", update
    if card.capability == (8, 9) and os.environ.get("MXNET_USE_FUSION") != "0":
        return "MXNet cannot compile its fused operators for it", "export MXNET_USE_FUSION=0"
    return "", ""


def _devices(config: RunConfig) -> tuple[str, ...]:
    return (config.device,) if isinstance(config.device, str) else config.device


# -- What is really tried ----------------------------------------------------------------------------------------------


class _Outcome(NamedTuple):
    output: str
    errors: str
    code: int | None  # None: it did not end in time


def _run(command: Sequence[str], limit: float, environment: Mapping[str, str] | None = None) -> _Outcome:
    """Run a program for at most ``limit`` seconds. What it wrote until then is kept however it ended."""
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )
    except OSError as fault:
        return _Outcome("", f"{command[0]}: {fault.strerror}", 127)
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
    return _Outcome(output.decode(errors="replace"), errors.decode(errors="replace"), code)


def _ending(outcome: _Outcome, limit: float) -> str:
    """How a program ended that should have answered."""
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


def _engine(config: RunConfig, card_way_out: str, limit: float) -> list[Finding]:
    """What `ena24ssd.gluon.health` finds. After a probe that it did not outlive, it is started again for the others."""
    devices = _devices(config)
    probes = ["cpu", "cores", "board", *(["gpus"] if "auto" in devices else ())]
    probes += [device for device in devices if device.startswith("gpu")]
    repair = _install()
    # A scheduler or server of several machines would begin its service on importing MXNet.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DMLC_")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(CHECKOUT), os.environ.get("PYTHONPATH"))))
    found: dict[str, Finding] = {}
    while probes:
        outcome = _run([sys.executable, *HEALTH, str(time.time()), *probes], limit, environment)
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
            found["engine can be imported"] = _import_fault(outcome, limit)
        if not probe:
            break
        way_out = card_way_out if probe.startswith("gpu") else repair
        found[what] = Finding(what, "cannot work", _ending(outcome, limit), way_out)
        probes = probes[probes.index(probe) + 1 :]
    return list(found.values())


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


def _import_fault(outcome: _Outcome, limit: float) -> Finding:
    what, repair = "engine can be imported", _install()
    if "EngineError: " not in outcome.errors:
        return Finding(what, "cannot work", _ending(outcome, limit), repair)
    message = outcome.errors.rpartition("EngineError: ")[2].strip()
    library = re.search(r"(lib[\w+-]+\.so[.\d]*): cannot open", message)
    if library is None:
        return Finding(what, "cannot work", message, repair)
    return Finding(what, "cannot work", f"{library[1]} is missing", _fetch_library(library[1]))


def _fetch_library(library: str) -> str:
    build = next(iter(_builds()), "mxnet")
    package = next((package for start, package in SYSTEM_LIBRARIES.items() if library.startswith(start)), None)
    if package is not None and shutil.which("apt-get"):
        sudo = "" if hasattr(os, "geteuid") and os.geteuid() == 0 else "sudo "
        return f"{sudo}apt-get install {package}"
    if package is not None:
        return f"Install what Debian calls {package} with your system's package manager"
    if library.startswith("libcuda.so"):
        return DRIVER if _is_card_plugged_in() else _swap(build, "gluon")
    if build == "mxnet-cu112":
        return _install("gluon-cu112")
    if build.startswith("mxnet-cu"):
        return _swap(build, "gluon-cu112")
    return f"Install the system library {library} with your system's package manager"


def _tensorboard(limit: float) -> Finding:
    outcome = _run([sys.executable, "-m", "tensorboard.main", "--version"], limit)
    if outcome.code == 0 and outcome.output.strip():
        return Finding("tensorboard can be started", "ok", outcome.output.split()[-1])
    return Finding("tensorboard can be started", "doubtful", _ending(outcome, limit), _install())


# -- Room and company --------------------------------------------------------------------------------------------------


def _data(config: RunConfig) -> tuple[int | None, tuple[Finding, ...]]:
    """How many pictures the config's dataset has, and what there is to say of it."""
    from ena24ssd.sources import read_source

    try:
        dataset = read_source(config.data).dataset
    except (OSError, ValueError) as fault:
        way_out = f"ena24ssd check {_quote(str(config.data.path))}"
        return None, (Finding("data", "cannot work", str(fault), way_out),)
    detail = f"{len(dataset.images):,} pictures of {len(dataset.class_names)} species"
    return len(dataset.images), (Finding("data", "ok", detail),)


def _room(config: RunConfig, out: Path, pictures: int | None) -> list[Finding]:
    """Disk and memory."""
    scale = config.model.width**2
    run = _place(
        *("run folder", out, round(LEAST_BYTES * scale), round(RUN_BYTES * scale)),
        "Make room, or name a folder elsewhere with --out",
    )
    cache = config.data.cache or platformdirs.user_cache_path("ena24ssd")
    squares = _squares_to_come(config, cache, pictures)
    way_out = "Make room, or name a folder elsewhere: data.cache=FOLDER"
    return [run, _place("picture cache", cache, squares, squares, way_out), _temporary(), _memory(config)]


def _squares_to_come(config: RunConfig, cache: Path, pictures: int | None) -> int:
    """Bytes that the picture cache will need; 0 where it looks filled, or where nobody knows."""
    side = config.data.image_side
    needed = 3 * side * side * (pictures or 0)
    with suppress(OSError):  # another run may be sweeping
        if any(file.stat().st_size >= needed for file in cache.glob(f"*-{side}px-{config.data.fit}-*.npy")):
            return 0
    return needed


def _place(what: str, folder: Path, needed: int, comfortable: int, way_out: str) -> Finding:
    """Whether files can be written to a folder, which need not exist yet, and whether ``needed`` bytes fit."""
    there = Path(os.path.abspath(folder))
    while not os.path.exists(there) and there != there.parent:
        there = there.parent
    try:
        _write_a_little(there)
        free = shutil.disk_usage(there).free
    except OSError as fault:
        return Finding(what, "cannot work", f"{there} cannot be written to: {fault.strerror}", way_out)
    said = f"{folder}: {_size(free)} free"
    if free < needed:
        return Finding(what, "cannot work", f"{said}, {_size(needed)} needed", way_out)
    if free < comfortable:
        return Finding(what, "doubtful", f"{said}, about {_size(comfortable)} needed", way_out)
    return Finding(what, "ok", said + (f", about {_size(comfortable)} needed" if comfortable else ""))


def _write_a_little(folder: Path) -> None:
    file = folder / f".ena24ssd-{secrets.token_hex(4)}"  # not by tempfile, which tries for ever where Windows refuses
    file.touch(exist_ok=False)
    try:
        file.write_bytes(bytes(4096))
    finally:
        file.unlink(missing_ok=True)


def _temporary() -> Finding:
    what, way_out = "temporary files", "Make room, or name a folder elsewhere: export TMPDIR=FOLDER"
    try:
        folder = Path(tempfile.gettempdir())
    except OSError as fault:
        return Finding(what, "doubtful", str(fault.strerror), way_out)
    finding = _place(what, folder, 0, 0, way_out)
    return finding if finding.state == "ok" else finding._replace(state="doubtful")  # training needs none


def _memory(config: RunConfig) -> Finding:
    free = available_memory()
    batch = config.train.batch if isinstance(config.train.batch, int) else 1
    picture = BYTES_PER_PIXEL * config.model.width * config.data.image_side**2
    needed, said = PROCESS_BYTES, f"{_size(free)} free"
    if all(device == "auto" or device.startswith("cpu") for device in _devices(config)):
        needed += round(picture * -(-batch // config.train.accumulate))
        said += f"; on the CPU a batch of {batch} needs about {_size(needed)}"
    if needed <= free:
        return Finding("memory", "ok", said)
    portions = next((n for n in range(2, batch + 1) if PROCESS_BYTES + picture * -(-batch // n) <= free), None)
    way_out = "End other programs, or lower model.width or data.image_side"
    if portions is not None:
        way_out = f"Set train.accumulate={portions}: the same batch in {portions} portions"
    return Finding("memory", "doubtful", said, way_out)


def _workers(config: RunConfig) -> tuple[Finding, ...]:
    """Whether this process can know its place among several machines."""
    if config.kvstore is None:
        return ()
    from ena24ssd.cluster import read_membership
    from ena24ssd.engine import EngineError

    try:
        member = read_membership(os.environ)
    except EngineError as fault:
        way_out = "start the same command with 'python -m ena24ssd.cluster --workers 2 --' in front of it"
        return (Finding("several machines", "cannot work", str(fault), way_out),)
    said = f"{member.role}; {member.workers} workers and {member.servers} servers meet at {member.host}:{member.port}"
    return (Finding("several machines", "ok", said),)


def _size(bytes_: int) -> str:
    return f"{bytes_ / 1e9:.3g} GB" if bytes_ >= 1e9 else f"{bytes_ / 1e6:.3g} MB"
