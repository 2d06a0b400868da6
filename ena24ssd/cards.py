"""Which NVIDIA cards are there, and which engine's wheels run on them?

What the wheels hold code for is known: of MXNet's from the code inside them, of PyTorch's from the table of
architectures that it publishes with its releases. Whether a card really computes, `ena24ssd.probes` finds out.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ena24ssd.findings import Finding
from ena24ssd.programs import Outcome, describe_end, run_program
from ena24ssd.wheels import (
    BUILDS,
    ENGINES,
    cuda_of_torch,
    install_command,
    installed_builds,
    is_there,
    numbers,
    pip_command,
    swap_command,
)

PCI = Path("/sys/bus/pci/devices")
PATIENCE = 20.0  # seconds for a program that answers in one
TURING = (7, 5)  # compute capability at which PyTorch's wheels of the package index begin


class Reach(NamedTuple):
    """What PyTorch's wheels for a CUDA, and for those up to the next one listed, run on."""

    cuda: tuple[int, ...]
    oldest: tuple[int, int]  # compute capability; of two accounts the one that refuses less
    newest: tuple[int, int] | None  # None: those to come will tell
    driver: str  # the oldest that this CUDA works with


REACHES = (
    Reach((13,), TURING, None, "580"),
    Reach((12, 8), (7, 0), None, "525.60.13"),  # PyTorch 2.8 to 2.10; later ones begin with Turing
    Reach((12,), (5, 0), (9, 0), "525.60.13"),
)

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
HELPLESS = "Set device=cpu; what a card needs is in the README's table of GPUs"
NO_WHEEL = "Set device=cpu: neither MXNet nor PyTorch has a wheel for this card"


class Card(NamedTuple):
    name: str
    capability: tuple[int, int] | None
    driver: str
    memory: str


class Doubt(NamedTuple):
    """Why an engine cannot use a card as things are; empty where nothing speaks against it."""

    why: str = ""
    way_out: str = ""


def judge_cards(devices: Sequence[str], engine: str) -> tuple[list[Finding], dict[str, str]]:
    """Each NVIDIA card held against the wheels of ``engine``, and for each engine the way out where it uses none.

    To 'auto', a card is sound that one of the engines can use. ``devices``: as the config names them.
    """
    engines = ENGINES if engine == "auto" else (engine,)
    ways_out = dict.fromkeys(engines, HELPLESS)
    program = shutil.which("nvidia-smi")
    if program is None:
        if is_card_plugged_in():
            return [_driverless("a card, but no driver (no nvidia-smi)")], ways_out
        return [Finding("GPU", "ok", "no NVIDIA GPU")], ways_out
    asked = "name,compute_cap,driver_version,memory.total"
    outcome = _ask_driver(program, asked)
    if outcome.code not in (0, None) and "compute_cap" in outcome.output + outcome.errors:  # a driver before 510
        outcome = _ask_driver(program, asked.replace("compute_cap,", ""))
    if "no devices were found" in (outcome.output + outcome.errors).lower():
        return [Finding("GPU", "ok", "no NVIDIA GPU (nvidia-smi finds none)")], ways_out
    cards = [_read_card(line) for line in outcome.output.splitlines() if line.strip()]
    if outcome.code != 0 or not cards or None in cards:
        return [_driverless(f"nvidia-smi: {describe_end(outcome, PATIENCE)}")], ways_out
    findings = []
    for index, card in enumerate(cards):
        doubts = {name: _DOUBTS[name](card) for name in engines}
        ways_out |= {name: doubt.way_out for name, doubt in doubts.items() if doubt.why and ways_out[name] == HELPLESS}
        findings.append(_judge_card(f"gpu:{index}", card, doubts, devices))
    return findings, ways_out


def is_card_plugged_in() -> bool:
    """Whether there is an NVIDIA card, driver or not."""
    for device in PCI.glob("*"):
        try:
            vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "class"))
        except OSError:
            continue
        if vendor == "0x10de" and kind.startswith("0x03"):  # NVIDIA, display controller
            return True
    return False


def _ask_driver(program: str, fields: str) -> Outcome:
    return run_program([program, f"--query-gpu={fields}", "--format=csv,noheader,nounits"], PATIENCE)


def _driverless(detail: str) -> Finding:
    return Finding("GPU", "doubtful", detail, DRIVER)


def _read_card(line: str) -> Card | None:
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
        known = next((figures for pattern, figures in CAPABILITIES if re.search(pattern, name)), None)
    return Card(name, known, driver, f"{int(memory) / 1024:.0f} GiB" if memory.isdigit() else "memory unknown")


def _judge_card(what: str, card: Card, doubts: dict[str, Doubt], devices: Sequence[str]) -> Finding:
    number = "unknown" if card.capability is None else "{}.{}".format(*card.capability)
    said = f"{card.name}, compute capability {number}, driver {card.driver}, {card.memory}"
    fit = [engine for engine, doubt in doubts.items() if not doubt.why]
    if fit:
        return Finding(what, "ok", f"{said}; for engine {' and '.join(fit)}" if len(doubts) > 1 else said)
    if all(device.startswith("cpu") for device in devices):
        return Finding(what, "ok", f"{said}; not asked for")
    # PyTorch's wheels are easier to come by, in every Python.
    doubt = doubts["pytorch" if "pytorch" in doubts and _suits_torch(card) else next(iter(doubts))]
    return Finding(what, "doubtful", f"{said}; {doubt.why}", doubt.way_out)


def _doubt_mxnet(card: Card) -> Doubt:
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return Doubt("MXNet's CUDA wheels are for Linux x86_64", _leave_mxnet(card))
    fitting = [
        name
        for name, wheel in BUILDS.items()
        if wheel.driver and (card.capability is None or wheel.oldest <= card.capability <= wheel.newest)
    ]
    if not fitting:
        return Doubt("no MXNet wheel holds code for it", _leave_mxnet(card))
    build = next(iter(installed_builds()), None)
    extra = "gluon-cu112" if "mxnet-cu112" in fitting else "gluon-cu101"
    needs = ", with a system-wide CUDA 10.1, cuDNN 7, NCCL 2" if extra == "gluon-cu101" else ""
    if build is None:
        return Doubt(f"takes the extra {extra}{needs}", install_command(extra))
    if build not in fitting:
        held = "is the CPU build" if build == "mxnet" else "holds no code for it"
        return Doubt(f"the installed MXNet {held}; takes the extra {extra}{needs}", swap_command(build, extra))
    oldest = BUILDS[build].driver
    if numbers(card.driver) < numbers(oldest):
        return Doubt(f"{build} needs driver {oldest}", _update_driver(oldest))
    if card.capability == (8, 9) and os.environ.get("MXNET_USE_FUSION") != "0":
        return Doubt("MXNet cannot compile its fused operators for it", "export MXNET_USE_FUSION=0")
    return Doubt()


def _doubt_torch(card: Card) -> Doubt:
    cuda = cuda_of_torch() if is_there("torch") else ""
    if cuda == "":
        if not _suits_torch(card):
            return Doubt("PyTorch's wheels begin with 7.5", _leave_torch(card))
        if not is_there("torch"):
            return Doubt("takes a CUDA build of PyTorch", install_command("pytorch"))
        why = "the installed PyTorch is no CUDA build"
        if platform.system() == "Windows":  # for which the package index has no other
            return Doubt(why, "Install PyTorch by the command that its own 'Get Started' gives for CUDA")
        return Doubt(why, f"{pip_command('uninstall -y torch')} && {pip_command('install torch')}")
    reach = next((reach for reach in REACHES if cuda and numbers(cuda) >= reach.cuda), None)
    if reach is None:  # a build of one's own
        return Doubt()
    if card.capability is not None and card.capability < reach.oldest:
        return Doubt(f"PyTorch for CUDA {cuda} begins with {'{}.{}'.format(*reach.oldest)}", _leave_torch(card))
    if card.capability is not None and reach.newest is not None and card.capability > reach.newest:
        why = f"PyTorch for CUDA {cuda} ends with {'{}.{}'.format(*reach.newest)}"
        return Doubt(why, pip_command("install --upgrade torch"))
    if numbers(card.driver) < numbers(reach.driver):
        return Doubt(f"CUDA {cuda} needs driver {reach.driver}", _update_driver(reach.driver))
    return Doubt()


_DOUBTS = {"gluon": _doubt_mxnet, "pytorch": _doubt_torch}


def _suits_torch(card: Card) -> bool:
    return card.capability is None or card.capability >= TURING


def _leave_mxnet(card: Card) -> str:
    if not _suits_torch(card):
        return NO_WHEEL
    first = _doubt_torch(card).way_out
    return f"Set engine=pytorch, after: {first}" if first else "Set engine=pytorch"


def _leave_torch(card: Card) -> str:
    fitting = [
        wheel.extra for wheel in BUILDS.values() if wheel.driver and wheel.oldest <= card.capability <= wheel.newest
    ]
    if not fitting:
        return NO_WHEEL
    return f"Set engine=gluon, with Python 3.10 or 3.11 and the extra {fitting[-1]}, or device=cpu"


def _update_driver(oldest: str) -> str:
    return f"Update the NVIDIA driver to {oldest} or newer (Ubuntu: sudo ubuntu-drivers install)"
