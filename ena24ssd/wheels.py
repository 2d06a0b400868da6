"""Which packages are installed, do they fit together, and which command mends that?

All of it by the packages' own words, within milliseconds: no framework is imported, no process started.
"""

from __future__ import annotations

import operator
import os
import platform
import re
import shlex
import shutil
import sys
from importlib import metadata, util
from pathlib import Path
from typing import NamedTuple

from ena24ssd.findings import Finding, State, can_work

CHECKOUT = Path(__file__).parents[1]

ENGINES = ("gluon", "pytorch")  # in the order in which 'auto' prefers them
FRAMEWORKS = {"gluon": ("mxnet", "MXNet"), "pytorch": ("torch", "PyTorch")}  # package and name
PLATFORMS = {  # that have a wheel of the framework: system, machine, C library
    "gluon": (("Linux", "x86_64", "glibc"), ("Linux", "aarch64", "glibc"), ("Darwin", "x86_64", "")),
    "pytorch": (
        *(("Linux", "x86_64", "glibc"), ("Linux", "aarch64", "glibc")),
        *(("Darwin", "arm64", ""), ("Windows", "AMD64", "")),
    ),
}


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

OLDEST_TORCH = "2.8"  # of those tested
# What an engine needs besides its framework and NumPy: the version it is tested with, and what is lost without.
COMPANIONS = {
    "gluon": {
        "mxboard": ("0.1.0", "training writes its curves with it"),
        "tensorboard": ("2.16", "mxboard cannot write without it"),
    },
    "pytorch": {"tensorboard": ("2.16", "training writes its curves with it")},
}
OPTIONAL_PACKAGES = {
    "gluoncv": "only tests and benchmarks use it",
    "d2l": "only the post's own notebook uses it",
}


# -- Engines -----------------------------------------------------------------------------------------------------------


def judge_packages(engine: str) -> list[Finding]:
    """Python, the platform and the packages that ``engine`` needs.

    'auto' needs one engine that can work; what the other lacks is told in one row, and stands in nobody's way.
    """
    chosen, *others = _order(engine)
    rows = _judge(chosen)
    for other in others:
        more = _judge(other)
        if can_work(more):  # then the chosen one can, too
            rows += [row for row in more if row.what not in {known.what for known in rows}]
        else:
            rows.append(_tell(other, more))
    return rows


def usable_engines(engine: str) -> tuple[str, ...]:
    """Those that ``engine`` can mean and no package speaks against, the one that 'auto' prefers first."""
    return tuple(name for name in _order(engine) if can_work(_judge(name)))


def likely_engine(engine: str) -> str:
    """``engine``; where that is 'auto', the one it will be, or that is the easiest to bring here."""
    return _order(engine)[0]


def _order(engine: str) -> list[str]:
    """The engines that ``engine`` can mean, first those that work, then those that fit into this Python."""

    def shortcomings(name: str) -> tuple[bool, ...]:
        rows = _judge(name)
        fits = all(row.state == "ok" for row in rows if row.what in ("Python", "platform"))
        return not can_work(rows), not fits, not is_there(FRAMEWORKS[name][0])

    return sorted(ENGINES, key=shortcomings) if engine == "auto" else [engine]


def _tell(engine: str, rows: list[Finding]) -> Finding:
    """That an engine cannot work, for one who has another."""
    fault = next(row for row in rows if row.state == "cannot work")
    package, name = FRAMEWORKS[engine]
    if is_there(package):
        said = f"{name} is installed, but not usable: {fault.what} is {fault.detail}"
        return Finding(f"engine {engine}", "doubtful", said, fault.way_out)
    misfits = fault.what in ("Python", "platform")
    why = f"{name} is not made for this {fault.what}" if misfits else f"the extra {extra_of(engine)} brings it"
    return Finding(f"engine {engine}", "ok", f"not installed; {why}")


def _judge(engine: str) -> list[Finding]:
    python, system = _python(engine), _platform(engine)
    # In the wrong Python, or on the wrong system, no package can be mended.
    mend = python.way_out or system.way_out or install_command(extra_of(engine))
    framework = _mxnet if engine == "gluon" else _torch
    return [python, system, framework(mend), _numpy(engine, mend), *_companions(engine, mend)]


# -- Packages ----------------------------------------------------------------------------------------------------------


def _python(engine: str) -> Finding:
    version = f"{platform.python_version()} ({sys.executable})"
    if engine == "pytorch" or sys.version_info[:2] in ((3, 10), (3, 11)):
        return Finding("Python", "ok", version)
    found = next((name for name in ("python3.11", "python3.10") if shutil.which(name)), None)
    first = "" if found else "Install Python 3.11 or 3.10, and then: "
    before = f"{found or 'python3.11'} -m venv .venv && "
    way_out = first + install_command(extra_of(engine), python=".venv/bin/python", before=before)
    return Finding("Python", "cannot work", f"{version}; MXNet needs 3.10 or 3.11", way_out)


def _platform(engine: str) -> Finding:
    system, machine, (libc, version) = platform.system(), platform.machine(), platform.libc_ver()
    said = " ".join(part for part in (system, machine, libc, version) if part)
    package, name = FRAMEWORKS[engine]
    if (system, machine, libc) in PLATFORMS[engine]:
        return Finding("platform", "ok", said)
    if is_there(package):  # somebody has built it
        return Finding("platform", "ok", f"{said}, for which {name} has no wheel")
    ways_out = {"Windows": "wsl --install -d Ubuntu-22.04", "Darwin": "docker run --rm -it python:3.11"}
    way_out = ways_out.get(system, "Use a Linux with glibc on x86_64 or aarch64, as Debian and Ubuntu are")
    return Finding("platform", "cannot work", f"{said}, for which {name} has no wheel", way_out)


def installed_builds() -> list[str]:
    """The wheels of MXNet that are installed: one, or none."""
    return [name for name in BUILDS if version_of(name) is not None]


def _mxnet(mend: str) -> Finding:
    builds = installed_builds()
    if len(builds) > 1:
        way_out = swap_command(" ".join(builds), BUILDS[builds[-1]].extra)
        return Finding("mxnet", "doubtful", f"{' and '.join(builds)} have overwritten each other's files", way_out)
    if not is_there("mxnet"):
        return Finding("mxnet", "cannot work", "not installed: no training, evaluation or detection", mend)
    if not builds:
        return Finding("mxnet", "doubtful", "from no known wheel; tested is 1.9.1", mend)
    version = version_of(builds[0])
    said = f"{version}, {'CPU build' if builds[0] == 'mxnet' else f'CUDA build ({builds[0]})'}"
    if version != "1.9.1":
        return Finding("mxnet", "doubtful", f"{said}; tested is 1.9.1", mend)
    return Finding("mxnet", "ok", said)


def cuda_of_torch() -> str | None:
    """The CUDA that the installed PyTorch is built with, as '13.0'; '' for a build without, None where unknown."""
    spec = util.find_spec("torch")
    try:
        # Wheels say it in their local version ('+cpu', '+cu130'), but those of the package index have none.
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except (AttributeError, TypeError, OSError):
        return None
    told = re.search(r"^cuda\b.*= *(?:None|'([\d.]+)')$", text, re.MULTILINE)
    return (told[1] or "") if told else None


def _torch(mend: str) -> Finding:
    if not is_there("torch"):
        return Finding("torch", "cannot work", "not installed: no training, evaluation or detection", mend)
    version, cuda = version_of("torch"), cuda_of_torch()
    local = (version or "").partition("+")[2]
    build = f"CUDA {cuda} build" if cuda else "" if cuda is None else f"{local} build" if local else "CPU build"
    said = ", ".join(part for part in ((version or "unknown").partition("+")[0], build.replace("cpu", "CPU")) if part)
    if version is None or numbers(version) < numbers(OLDEST_TORCH):
        return Finding("torch", "doubtful", f"{said}; tested from {OLDEST_TORCH} on", mend)
    return Finding("torch", "ok", said)


def _numpy(engine: str, mend: str) -> Finding:
    version = version_of("numpy")
    if version is None:
        return Finding("numpy", "cannot work", "not installed", mend)
    if engine == "gluon" and numbers(version) >= (1, 24):
        return Finding("numpy", "cannot work", f"{version}; MXNet 1.9.1 needs one below 1.24", mend)
    return Finding("numpy", "ok", version)


def _companions(engine: str, mend: str) -> list[Finding]:
    findings = []
    for name, (tested, loss) in COMPANIONS[engine].items():
        version = version_of(name)
        if not is_there(name):
            findings.append(Finding(name, "cannot work", f"not installed: {loss}", mend))
        elif version is None or numbers(version) < numbers(tested):
            findings.append(Finding(name, "doubtful", f"{version or 'unknown'}; tested from {tested} on", mend))
        else:
            findings.append(Finding(name, "ok", version))
    for name, use in OPTIONAL_PACKAGES.items() if engine == "gluon" else ():
        findings.append(Finding(name, "ok", version_of(name) or f"not installed; {use}"))
    return findings


def judge_base(mend: str) -> Finding:
    """The packages without which not even the base works, by what this package's own metadata asks for."""
    try:
        asked = metadata.requires("ena24ssd") or []
    except metadata.PackageNotFoundError:
        return Finding("base packages", "doubtful", "ena24ssd itself is not installed", mend)
    missing, unfit, count = [], [], 0
    for requirement in asked:
        match = re.fullmatch(r"([\w.-]+)(?:\[[^]]*])?\s*([^;]*)(;.*)?", requirement)
        if match is None or match[3]:  # with a marker, it is an extra's
            continue
        name, limits, version = match[1], match[2].strip("() "), version_of(match[1])
        count += 1
        if version is None:
            missing.append(f"{name} is not installed")
        elif not _satisfies(version, limits):
            unfit.append(f"{name} is {version}, not {limits}")
    if missing or unfit:
        state: State = "cannot work" if missing else "doubtful"
        return Finding("base packages", state, "; ".join([*missing, *unfit]), mend)
    return Finding("base packages", "ok", f"all {count}")


def _satisfies(version: str, limits: str) -> bool:
    signs = {">=": operator.ge, "<": operator.lt, "==": operator.eq}
    found = re.findall(r"(>=|<|==)\s*([\w.]+)", limits)
    return all(signs[sign](numbers(version), numbers(limit)) for sign, limit in found)


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, without closing zeros: (1, 24) for 1.24.0rc1."""
    found = [int(number) for number in re.match(r"(?:\d+\.?)*", version)[0].split(".") if number]
    while found and found[-1] == 0:
        found.pop()
    return tuple(found)


def version_of(name: str) -> str | None:
    """The version of an installed package."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def is_there(name: str) -> bool:
    """Whether a package could be imported, whoever has put it there."""
    return bool(installed_builds() if name == "mxnet" else version_of(name)) or util.find_spec(name) is not None


# -- Commands ----------------------------------------------------------------------------------------------------------


def extra_of(engine: str) -> str:
    """The extra of this package that installs an engine: of gluon's, that whose MXNet is there, else the CPU's."""
    return "pytorch" if engine == "pytorch" else BUILDS[next(iter(installed_builds()), "mxnet")].extra


def install_command(extra: str, *, python: str | None = None, before: str = "") -> str:
    """The command that installs this package with an extra, gluon's with tested pins, after a command ``before``."""
    what, pins = f".[{extra}]", "constraints.txt"
    command = f"{before}{pip_command('install', python)}"
    is_pinned = extra.startswith("gluon")  # the pins are MXNet's, which takes no newer NumPy
    if not (CHECKOUT / pins).exists():
        return f'In a checkout of ena24ssd: {command} "{what}"' + (f" -c {pins}" if is_pinned else "")
    if Path.cwd() != CHECKOUT:
        what, pins = f"{CHECKOUT}{what[1:]}", quote(str(CHECKOUT / pins))
    return f'{command} -e "{what}"' + (f" -c {pins}" if is_pinned else "")


def swap_command(builds: str, extra: str) -> str:
    """The command that puts another build of MXNet in the place of ``builds``: all write the same files."""
    return install_command(extra, before=f"{pip_command(f'uninstall -y {builds}')} && ")


def pip_command(words: str, python: str | None = None) -> str:
    """What to type for pip to do something in this Python, or in ``python``."""
    return f"{python or quote(sys.executable)} -m pip {words}"


def quote(path: str) -> str:
    """A path as a shell of this system takes it."""
    return shlex.quote(path) if os.name == "posix" else f'"{path}"' if " " in path else path
