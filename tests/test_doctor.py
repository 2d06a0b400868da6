"""Does the doctor tell what works from what does not, and survive what it examines?"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from importlib import metadata, util
from pathlib import Path
from types import SimpleNamespace

import pytest

from ena24ssd import cards, probes, room, wheels
from ena24ssd.config import RunConfig, read_config
from ena24ssd.doctor import Finding, can_work, examine, finding_table, preflight
from ena24ssd.wheels import install_command

SOUND = {"mxnet": "1.9.1", "numpy": "1.23.5", "mxboard": "0.1.0", "tensorboard": "2.21.0"}
BARE = dict.fromkeys(SOUND)
TORCH = {"mxnet": None, "mxboard": None, "numpy": "2.1.0", "torch": "2.13.0+cpu"}
CLUSTER = {
    **{"DMLC_ROLE": "worker", "DMLC_PS_ROOT_URI": "127.0.0.1", "DMLC_PS_ROOT_PORT": "9091"},
    **{"DMLC_NUM_SERVER": "1", "DMLC_NUM_WORKER": "2"},
}
TORCHRUN = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
needs_posix = pytest.mark.skipif(os.name != "posix", reason="uses shell scripts and signals")


@pytest.fixture
def world(monkeypatch, tmp_path):
    """A machine that has what the gluon engine needs, and no GPU; returns a function that changes it."""
    programs = tmp_path / "programs"
    programs.mkdir()
    versions = dict(SOUND)

    def version(name):
        if name in versions:
            return versions[name]
        raise metadata.PackageNotFoundError(name)

    def find_spec(name):
        return SimpleNamespace(origin=str(tmp_path / name / "__init__.py")) if name in versions else None

    def change(
        packages=None,
        python=None,
        system=("Linux", "x86_64", "glibc"),
        nvidia_smi=None,
        health=None,
        torch_cuda=None,
        engine="gluon",
    ):
        for name, value in (packages or {}).items():
            if value is None:
                versions.pop(name, None)
            else:
                versions[name] = value
        if python is not None:
            monkeypatch.setattr(sys, "version_info", (*python, 0, "final", 0))
        monkeypatch.setattr(platform, "system", lambda: system[0])
        monkeypatch.setattr(platform, "machine", lambda: system[1])
        monkeypatch.setattr(platform, "libc_ver", lambda: (system[2], "2.36" if system[2] else ""))
        if nvidia_smi is not None:
            script = programs / "nvidia-smi"
            script.write_text(f"#!/bin/sh\n{nvidia_smi}\n")
            script.chmod(0o755)
        if health is not None:
            monkeypatch.setitem(probes.HEALTH, engine, ("-c", health))
        if "torch" in versions:
            (tmp_path / "torch").mkdir(exist_ok=True)
            words = f"__version__ = '{versions['torch']}'\ncuda: Optional[str] = {torch_cuda!r}\nhip = None\n"
            (tmp_path / "torch" / "version.py").write_text(words)

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(util, "find_spec", find_spec)
    monkeypatch.setattr(cards, "PCI", tmp_path / "no devices")
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.chdir(tmp_path)
    for name in (*CLUSTER, *TORCHRUN):
        monkeypatch.delenv(name, raising=False)
    change(python=(3, 11))
    return change


def gluon(*overrides: str) -> RunConfig:
    return read_config(None, ["engine=gluon", *overrides])


def pytorch(*overrides: str) -> RunConfig:
    return read_config(None, ["engine=pytorch", *overrides])


def row(findings, what) -> Finding:
    (found,) = [finding for finding in findings if finding.what == what]
    return found


# -- packages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "what", "state", "detail", "way_out"),
    [
        pytest.param({}, "mxnet", "ok", "1.9.1, CPU build", "", id="a sound machine"),
        pytest.param({"python": (3, 10)}, "Python", "ok", "", "", id="Python 3.10 is as good"),
        pytest.param(
            *({"python": (3, 13)}, "Python", "cannot work", "needs 3.10 or 3.11"),
            '-m venv .venv && .venv/bin/python -m pip install -e ".*gluon\\]" -c .*constraints.txt',
            id="MXNet has no wheel for Python 3.13",
        ),
        pytest.param(
            *({"packages": {"mxnet": None}}, "mxnet", "cannot work", "not installed"),
            'pip install -e ".*gluon\\]" -c .*constraints.txt',
            id="the base install trains nothing",
        ),
        pytest.param(
            *({"packages": {"mxnet": None}, "python": (3, 12)}, "mxnet", "cannot work", "not installed", "-m venv"),
            id="in the wrong Python, the right one mends the packages too",
        ),
        pytest.param(
            *({"packages": {"numpy": "2.1.0"}}, "numpy", "cannot work", "2.1.0; MXNet 1.9.1 needs one below 1.24"),
            "pip install",
            id="NumPy 2 beside MXNet",
        ),
        pytest.param({"packages": {"numpy": "1.24.0rc1"}}, "numpy", "cannot work", "1.24.0rc1", "pip", id="NumPy 1.24"),
        pytest.param({"packages": {"numpy": "1.23.0"}}, "numpy", "ok", "1.23.0", "", id="another NumPy below 1.24"),
        pytest.param(
            {"packages": {"mxnet": "1.8.0"}}, "mxnet", "doubtful", "1.8.0.*tested is 1.9.1", "pip", id="an older MXNet"
        ),
        pytest.param(
            *({"packages": {"mxnet": None, "mxnet-cu112": "1.9.1"}}, "mxnet", "ok", "CUDA build .mxnet-cu112.", ""),
            id="a CUDA build is MXNet too",
        ),
        pytest.param(
            *({"packages": {"mxnet-cu112": "1.9.1"}}, "mxnet", "doubtful", "mxnet and mxnet-cu112 have overwritten"),
            "pip uninstall -y mxnet mxnet-cu112 && .*gluon-cu112",
            id="two builds of MXNet in one place",
        ),
        pytest.param(
            *({"packages": {"mxnet": None, "mxnet-cu112": "1.9.1", "numpy": "2.0"}}, "numpy", "cannot work", "2.0"),
            "gluon-cu112",
            id="what mends NumPy leaves the CUDA build where it is",
        ),
        pytest.param(
            {"packages": {"mxboard": None}}, "mxboard", "cannot work", "writes its curves", "pip", id="no mxboard"
        ),
        pytest.param(
            {"packages": {"tensorboard": "2.9.1"}}, "tensorboard", "doubtful", "2.9.1", "pip", id="an old TensorBoard"
        ),
        pytest.param({}, "d2l", "ok", "not installed; only the post's", "", id="d2l is for a notebook"),
        pytest.param(
            *({"system": ("Windows", "AMD64", ""), "packages": {"mxnet": None}}, "platform", "cannot work"),
            *("no wheel", "wsl --install"),
            id="Windows",
        ),
        pytest.param(
            *({"system": ("Darwin", "arm64", ""), "packages": {"mxnet": None}}, "platform", "cannot work"),
            *("no wheel", "docker run"),
            id="Apple silicon",
        ),
        pytest.param(
            {"system": ("Darwin", "arm64", "")}, "platform", "ok", "no wheel", "", id="somebody built MXNet himself"
        ),
        pytest.param({"system": ("Linux", "aarch64", "glibc")}, "platform", "ok", "", "", id="64-bit Arm has a wheel"),
        pytest.param(
            *({"system": ("Linux", "x86_64", ""), "packages": {"mxnet": None}}, "platform", "cannot work"),
            *("no wheel", "glibc"),
            id="a Linux without glibc",
        ),
    ],
)
def test_packages_of_gluon(world, tmp_path, changes, what, state, detail, way_out):
    world(**changes)
    finding = row(preflight(gluon(), tmp_path / "run"), what)
    assert finding.state == state
    assert re.search(detail, finding.detail)
    assert re.search(way_out, finding.way_out) if way_out else finding.way_out == ""


def test_a_sound_machine_has_no_row_that_is_not_ok(world, tmp_path):
    findings = preflight(gluon(), tmp_path / "run")
    assert [finding for finding in findings if finding.state != "ok"] == []
    assert can_work(findings)


def test_what_is_not_sound_has_a_way_out_and_what_is_has_none(world, tmp_path):
    world(packages=BARE, python=(3, 13))
    findings = preflight(gluon("kvstore=dist_sync"), tmp_path / "run")
    assert all(bool(finding.way_out) == (finding.state != "ok") for finding in findings)
    assert not can_work(findings)


@pytest.mark.parametrize(
    ("changes", "what", "state", "detail", "way_out"),
    [
        pytest.param({}, "torch", "ok", "^2.13.0, CPU build$", "", id="a sound machine"),
        pytest.param({"python": (3, 13)}, "Python", "ok", "", "", id="Python 3.13"),
        pytest.param({}, "numpy", "ok", "2.1.0", "", id="NumPy 2"),
        pytest.param(
            *(
                {"packages": TORCH | {"torch": "2.13.0"}, "torch_cuda": "13.0"},
                "torch",
                "ok",
                "^2.13.0, CUDA 13.0 build$",
            ),
            *("",),
            id="a wheel of the package index does not say CUDA in its version, but in its files",
        ),
        pytest.param(
            *({"packages": TORCH | {"torch": "2.13.0+rocm6.4"}}, "torch", "ok", "^2.13.0, rocm6.4 build$", ""),
            id="a build for other cards",
        ),
        pytest.param(
            *({"packages": TORCH | {"torch": None}}, "torch", "cannot work", "not installed"),
            'pip install -e ".*pytorch\\]"$',
            id="the base install trains nothing; no pins, which are MXNet's",
        ),
        pytest.param(
            {"packages": TORCH | {"torch": "2.3.1+cpu"}},
            "torch",
            "doubtful",
            "2.3.1, .*from 2.8 on",
            "pip",
            id="too old",
        ),
        pytest.param(
            *({"packages": TORCH | {"tensorboard": None}}, "tensorboard", "cannot work", "curves", "pytorch"),
            id="no TensorBoard",
        ),
        pytest.param({"packages": TORCH | {"numpy": None}}, "numpy", "cannot work", "", "pytorch", id="no NumPy"),
        pytest.param({"system": ("Windows", "AMD64", "")}, "platform", "ok", "", "", id="Windows"),
        pytest.param({"system": ("Darwin", "arm64", "")}, "platform", "ok", "", "", id="Apple silicon"),
        pytest.param(
            *({"packages": TORCH | {"torch": None}, "system": ("Darwin", "x86_64", "")}, "platform", "cannot work"),
            *("PyTorch has no wheel", "docker run"),
            id="a Mac with an Intel processor",
        ),
    ],
)
def test_packages_of_pytorch(world, tmp_path, changes, what, state, detail, way_out):
    world(**{"packages": TORCH} | changes)
    finding = row(preflight(pytorch(), tmp_path / "run"), what)
    assert finding.state == state
    assert re.search(detail, finding.detail)
    assert re.search(way_out, finding.way_out) if way_out else finding.way_out == ""


def test_pytorch_asks_for_nothing_of_mxnets(world, tmp_path):
    world(packages=TORCH)
    findings = preflight(pytorch(), tmp_path / "run")
    assert {finding.state for finding in findings} == {"ok"}
    assert not {"mxnet", "mxboard", "gluoncv", "d2l"} & {finding.what for finding in findings}


def test_a_torch_whose_files_say_nothing_is_left_to_the_trial(world, tmp_path):
    world(packages=TORCH)
    (tmp_path / "torch" / "version.py").unlink()
    finding = row(preflight(pytorch(), tmp_path / "run"), "torch")
    assert (finding.state, finding.detail) == ("ok", "2.13.0")


@pytest.mark.parametrize(
    ("changes", "faults", "told", "way_out"),
    [
        pytest.param({}, [], "ok: not installed; the extra pytorch brings it", "", id="gluon alone"),
        pytest.param(
            {"packages": TORCH, "python": (3, 13)},
            *([], "ok: not installed; MXNet is not made for this Python", ""),
            id="pytorch alone, in a Python that MXNet has never seen",
        ),
        pytest.param({"packages": {"torch": "2.13.0+cpu"}}, [], None, "", id="both"),
        pytest.param(
            {"packages": {"torch": "2.13.0+cpu", "numpy": "2.1.0"}},
            *([], "doubtful: MXNet is installed, but not usable: numpy is 2.1.0; MXNet", r"gluon\].*constraints"),
            id="a NumPy that MXNet cannot use does not stand in PyTorch's way",
        ),
        pytest.param(
            {"packages": BARE | {"numpy": "2.1.0"}},
            ["mxnet", "numpy", "mxboard", "tensorboard"],
            *("ok: not installed; the extra pytorch brings it", r"gluon\]\" -c .*constraints.txt$"),
            id="neither, in Python 3.11",
        ),
        pytest.param(
            {"packages": BARE | {"numpy": "2.1.0"}, "python": (3, 12)},
            ["torch", "tensorboard"],
            *("ok: not installed; MXNet is not made for this Python", r"pytorch\]\"$"),
            id="neither, in Python 3.12",
        ),
        pytest.param(
            {"packages": {"mxboard": None, "tensorboard": None, "mxnet": None, "torch": "2.13.0+cpu"}},
            *(["tensorboard"], "ok: not installed; the extra gluon brings it", r"pytorch\]\"$"),
            id="PyTorch lacks one package only",
        ),
    ],
)
def test_auto_needs_one_engine(world, tmp_path, changes, faults, told, way_out):
    world(**changes)
    findings = preflight(read_config(), tmp_path / "run")
    assert [finding.what for finding in findings if finding.state == "cannot work"] == faults
    other = [finding for finding in findings if finding.what.startswith("engine ")]
    assert (f"{other[0].state}: {other[0].detail}" if other else "").startswith(told or "")
    assert bool(other) == (told is not None)
    for finding in findings:
        assert re.search(way_out, finding.way_out) if finding.state != "ok" else finding.way_out == ""


@pytest.mark.parametrize("engine", ["auto", "gluon", "pytorch"])
def test_preflight_is_fast_and_imports_no_framework(tmp_path, engine):
    code = (
        "import sys, time\n"
        "from ena24ssd.config import read_config\n"
        "from ena24ssd.doctor import preflight\n"
        f"config = read_config(None, ['device=cpu', 'engine={engine}'])\n"
        f"preflight(config, {str(tmp_path / 'run')!r}, 9000)\n"
        "started = time.perf_counter()\n"
        f"preflight(config, {str(tmp_path / 'run')!r}, 9000)\n"
        "print(time.perf_counter() - started)\n"
        "print({'mxnet', 'mxboard', 'tensorboard', 'gluoncv', 'torch'} & sys.modules.keys())\n"
    )
    environment = dict(os.environ, PYTHONPATH=str(wheels.CHECKOUT))
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    seconds, imported = ran.stdout.splitlines()
    assert float(seconds) < 0.2
    assert imported == "set()"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("asked", "state", "detail"),
    [
        pytest.param(["numpy<3,>=1.23"], "ok", "all 1", id="as asked"),
        pytest.param(["numpy (>=1.23,<3)"], "ok", "all 1", id="in older metadata's brackets"),
        pytest.param(["numpy>=1.24"], "doubtful", "numpy is 1.23.5, not >=1.24", id="too old"),
        pytest.param(["numpy<1.23.5"], "doubtful", "numpy is 1.23.5, not <1.23.5", id="too new"),
        pytest.param(["tqdm>=4", "numpy"], "cannot work", "tqdm is not installed", id="missing"),
        pytest.param(['tqdm>=4; extra == "test"'], "ok", "all 0", id="what only an extra asks for"),
    ],
)
def test_base_packages(world, monkeypatch, asked, state, detail):
    monkeypatch.setattr(metadata, "requires", lambda name: asked)
    finding = wheels.judge_base("mend")
    assert (finding.state, finding.detail, finding.way_out) == (state, detail, "" if state == "ok" else "mend")


def test_the_tested_versions_are_those_of_pyproject():
    tomllib = pytest.importorskip("tomllib")
    extras = tomllib.loads((wheels.CHECKOUT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for engine, extra in {"gluon": "gluon-parts", "pytorch": "pytorch"}.items():
        asked = {re.match(r"[\w-]+", line)[0]: line for line in extras[extra]}
        for name, (tested, _) in wheels.COMPANIONS[engine].items():
            assert re.search(rf"[>=]={re.escape(tested)}(?![.\d])", asked[name])
    assert f"torch>={wheels.OLDEST_TORCH}" in extras["pytorch"]
    for name, build in wheels.BUILDS.items():
        assert name == "mxnet-cu102" or f"{name}==1.9.1" in " ".join(extras[build.extra])


# -- GPUs --------------------------------------------------------------------------------------------------------------


def answer(*lines: str) -> str:
    return "\n".join(f"echo '{line}'" for line in lines)


def old_driver(line: str) -> str:
    """As a driver before 510 answers: asked for the compute capability, it knows no such field."""
    refusal = "echo 'Field \"compute_cap\" is not a valid field to query.'; exit 2"
    return f"""case "$*" in *compute_cap*) {refusal};; esac\necho '{line}'"""


K80 = old_driver("Tesla K80, 470.57, 11441")
T4 = answer("Tesla T4, 7.5, 535.54.03, 15360")
RTX3090 = answer("NVIDIA GeForce RTX 3090, 8.6, 535.54.03, 24576")
RTX4090 = answer("NVIDIA GeForce RTX 4090, 8.9, 550.54, 24564")
H100 = answer("NVIDIA H100 80GB HBM3, 9.0, 550.54, 81559")
CU101 = {"mxnet": None, "mxnet-cu101": "1.9.1"}
CU112 = {"mxnet": None, "mxnet-cu112": "1.9.1"}


@needs_posix
@pytest.mark.parametrize(
    ("packages", "script", "what", "state", "detail", "way_out"),
    [
        pytest.param({}, None, "GPU", "ok", "^no NVIDIA GPU$", "", id="a laptop without nvidia-smi"),
        pytest.param({}, answer("No devices were found"), "GPU", "ok", "no NVIDIA GPU", "", id="a driver without card"),
        pytest.param(
            *({}, K80, "gpu:0", "doubtful", "K80, compute capability 3.7, .* 11 GiB; .* CPU build"),
            "uninstall -y mxnet && .*gluon-cu101",
            id="a K80, whose driver does not tell the capability, needs cu101",
        ),
        pytest.param(CU101, K80, "gpu:0", "ok", "3.7", "", id="a K80 with cu101"),
        pytest.param(
            *(CU112, K80, "gpu:0", "doubtful", "holds no code for it; .* system-wide CUDA 10.1"),
            "uninstall -y mxnet-cu112 && .*gluon-cu101",
            id="a K80 with cu112",
        ),
        pytest.param({}, T4, "gpu:0", "doubtful", "7.5.*15 GiB; .*CPU build", "gluon-cu112", id="a T4 lies idle"),
        pytest.param(CU101, T4, "gpu:0", "ok", "7.5", "", id="a T4 with cu101"),
        pytest.param(CU112, T4, "gpu:0", "ok", "7.5", "", id="a T4 with cu112"),
        pytest.param(CU101, RTX3090, "gpu:0", "doubtful", "8.6.*no code", "gluon-cu112", id="a 3090 with cu101"),
        pytest.param(CU112, RTX3090, "gpu:0", "ok", "8.6", "", id="a 3090 with cu112"),
        pytest.param(
            *(CU112, RTX4090, "gpu:0", "doubtful", "8.9.*fused", "export MXNET_USE_FUSION=0"),
            id="a 4090 with cu112 must not fuse",
        ),
        pytest.param(
            {}, H100, "gpu:0", "doubtful", "9.0.*no MXNet wheel", "^Set engine=pytorch, after: .*pytorch", id="an H100"
        ),
        pytest.param(
            CU112, H100, "gpu:0", "doubtful", "9.0.*no MXNet wheel", "engine=pytorch", id="an H100 with cu112"
        ),
        pytest.param(
            {"mxnet": None}, T4, "gpu:0", "doubtful", "takes the extra gluon-cu112", "gluon-cu112", id="a T4, no MXNet"
        ),
        pytest.param(
            *(CU112, answer("NVIDIA GeForce RTX 3090, 8.6, 440.33, 24576"), "gpu:0", "doubtful", "needs driver 450"),
            "Update the NVIDIA driver",
            id="a driver older than CUDA 11",
        ),
        pytest.param(
            *(
                CU112,
                old_driver("Quadro FX Unheard, 460.10, [N/A]"),
                "gpu:0",
                "ok",
                "capability unknown.*memory unknown",
            ),
            "",
            id="a card that nobody knows is left to the operation on it",
        ),
        pytest.param(
            *({}, "echo 'NVIDIA-SMI has failed because it could not reach the driver.'; exit 9", "GPU", "doubtful"),
            *("exit code 9: NVIDIA-SMI has failed", "Restart the machine"),
            id="the driver does not answer",
        ),
        pytest.param({}, answer("<html>"), "GPU", "doubtful", "<html>", "driver", id="nvidia-smi talks garbage"),
        pytest.param({}, "exit 0", "GPU", "doubtful", "exit code 0", "driver", id="nvidia-smi says nothing"),
        pytest.param({}, "kill -SEGV $$", "GPU", "doubtful", "signal 11", "driver", id="nvidia-smi crashes"),
    ],
)
def test_cards_of_gluon(world, monkeypatch, packages, script, what, state, detail, way_out):
    monkeypatch.delenv("MXNET_USE_FUSION", raising=False)
    world(packages=packages, nvidia_smi=script)
    findings, _ = cards.judge_cards(["auto"], "gluon")
    finding = row(findings, what)
    assert finding.state == state
    assert re.search(detail, finding.detail)
    assert re.search(way_out, finding.way_out) if way_out else finding.way_out == ""


CPU = {"torch": "2.13.0+cpu"}
CUDA = {"torch": "2.13.0"}
P100 = answer("Tesla P100-PCIE-16GB, 6.0, 580.65.06, 16384")
V100 = answer("Tesla V100-SXM2-16GB, 7.0, 580.65.06, 16384")
B200 = answer("NVIDIA B200, 10.0, 580.95.05, 183359")
H100_NEW = answer("NVIDIA H100 80GB HBM3, 9.0, 580.65.06, 81559")
GLUON = r"^Set engine=gluon, with Python 3.10 or 3.11 and the extra gluon-cu"


@needs_posix
@pytest.mark.parametrize(
    ("packages", "cuda", "script", "state", "detail", "way_out"),
    [
        pytest.param(CUDA, "13.0", H100_NEW, "ok", "9.0, driver 580.65.06, 80 GiB$", "", id="an H100"),
        pytest.param(CUDA, "13.0", B200, "ok", "10.0", "", id="a B200"),
        pytest.param(
            *(CPU, None, H100, "doubtful", "no CUDA build"),
            "pip uninstall -y torch && .* -m pip install torch$",
            id="an H100 lies idle",
        ),
        pytest.param({}, None, H100, "doubtful", "takes a CUDA build", r'install -e ".*pytorch\]"$', id="no PyTorch"),
        pytest.param(CUDA, "13.0", H100, "doubtful", "CUDA 13.0 needs driver 580", "Update the N", id="an old driver"),
        pytest.param(CUDA, "12.8", H100, "ok", "driver 550.54", "", id="the driver is old, and so is the CUDA"),
        pytest.param(
            CUDA, "12.6", B200, "doubtful", "12.6 ends with 9.0", "install --upgrade torch", id="an old wheel"
        ),
        pytest.param(CUDA, "12.6", P100, "ok", "6.0", "", id="an old wheel for an old card"),
        pytest.param(CUDA, "12.8", V100, "ok", "7.0", "", id="some of PyTorch's wheels for CUDA 12.8 know a V100"),
        pytest.param(CUDA, "13.0", V100, "doubtful", "13.0 begins with 7.5", GLUON + "112", id="later ones do not"),
        pytest.param({}, None, K80, "doubtful", "begin with 7.5", GLUON + "101", id="a K80 is MXNet's"),
        pytest.param(
            *({}, None, answer("Tesla K40c, 3.5, 470.57, 11441"), "doubtful", "begin with 7.5", "neither MXNet nor"),
            id="a K40 is nobody's",
        ),
        pytest.param(
            *(CUDA, "14.2", answer("NVIDIA R100, 13.0, 700.1, 300000"), "ok", "13.0", ""),
            id="what nobody has heard of yet is left to the operation on it",
        ),
    ],
)
def test_cards_of_pytorch(world, packages, cuda, script, state, detail, way_out):
    world(packages=packages, torch_cuda=cuda, nvidia_smi=script)
    (finding,), ways_out = cards.judge_cards(["auto"], "pytorch")
    assert finding.state == state
    assert re.search(detail, finding.detail)
    assert re.search(way_out, finding.way_out) if way_out else finding.way_out == ""
    assert ways_out == {"pytorch": finding.way_out or cards.HELPLESS}


def test_the_index_has_no_cuda_build_for_windows(world):
    world(packages=CPU, system=("Windows", "AMD64", ""))
    assert "Get Started" in cards._doubt_torch(cards.Card("RTX 4090", (8, 9), "580.1", "24 GiB")).way_out


@needs_posix
@pytest.mark.parametrize(
    ("packages", "cuda", "script", "state", "detail", "way_out"),
    [
        pytest.param(CUDA, "13.0", H100_NEW, "ok", "for engine pytorch$", "", id="PyTorch can, MXNet cannot"),
        pytest.param(CU101, None, K80, "ok", "for engine gluon$", "", id="MXNet can, PyTorch cannot"),
        pytest.param(CU112 | CUDA, "12.8", T4, "ok", "for engine gluon and pytorch$", "", id="both can"),
        pytest.param(CPU, None, H100, "doubtful", "no CUDA build", "-m pip install torch$", id="neither"),
        pytest.param({}, None, T4, "doubtful", "takes a CUDA build of P", "pytorch", id="PyTorch is the easier way"),
        pytest.param({}, None, K80, "doubtful", "extra gluon-cu101", "gluon-cu101", id="and no way for an old card"),
    ],
)
def test_a_card_that_one_engine_can_use_is_sound_to_auto(world, packages, cuda, script, state, detail, way_out):
    world(packages=packages, torch_cuda=cuda, nvidia_smi=script)
    (finding,), _ = cards.judge_cards(["auto"], "auto")
    assert finding.state == state
    assert re.search(detail, finding.detail)
    assert re.search(way_out, finding.way_out) if way_out else finding.way_out == ""


@needs_posix
def test_every_card_has_its_row(world):
    world(packages=CU112 | CUDA, torch_cuda="12.8", nvidia_smi="\n".join([T4, H100]))
    findings, ways_out = cards.judge_cards(["auto"], "gluon")
    assert [(finding.what, finding.state) for finding in findings] == [("gpu:0", "ok"), ("gpu:1", "doubtful")]
    assert ways_out == {"gluon": "Set engine=pytorch"}


@needs_posix
def test_a_card_that_is_not_asked_for_is_no_fault(world):
    world(nvidia_smi=H100)
    for devices, state in {("cpu:0", "cpu:1"): "ok", ("cpu:0", "gpu:0"): "doubtful"}.items():
        (finding,), _ = cards.judge_cards(devices, "gluon")
        assert finding.state == state


@needs_posix
def test_an_nvidia_smi_that_hangs_is_not_waited_for(world, monkeypatch):
    world(nvidia_smi="exec sleep 60")
    monkeypatch.setattr(cards, "PATIENCE", 0.2)
    started = time.monotonic()
    (finding,), _ = cards.judge_cards(["auto"], "gluon")
    assert time.monotonic() - started < 4
    assert finding.state == "doubtful"
    assert "no answer in 0.2 s" in finding.detail


def test_a_card_without_a_driver_is_seen_on_the_bus(world, monkeypatch, tmp_path):
    (tmp_path / "pci" / "0000:01:00.0").mkdir(parents=True)
    (tmp_path / "pci" / "0000:01:00.0" / "vendor").write_text("0x10de\n")
    (tmp_path / "pci" / "0000:01:00.0" / "class").write_text("0x030000\n")
    monkeypatch.setattr(cards, "PCI", tmp_path / "pci")
    (finding,), _ = cards.judge_cards(["auto"], "gluon")
    assert finding == Finding("GPU", "doubtful", "a card, but no driver (no nvidia-smi)", cards.DRIVER)


# -- the child that tries things ---------------------------------------------------------------------------------------

# A stand-in for ena24ssd.gluon.health: every probe succeeds, except that `act` may do something in the middle of one.
CHILD = """
import json, os, signal, sys, time
def act(probe): {act}
started, *probes = sys.argv[1:]
def say(**row): print(json.dumps(row), flush=True)
say(what="engine can be imported", state="ok", detail="", way_out="")
for probe in probes:
    say(probe=probe, what=probe)
    act(probe)
    say(what=probe, state="ok", detail="", way_out="")
say(probe="", what="")
"""
LIBRARY = "ena24ssd.engine.EngineError: MXNet's library does not load: {}: cannot open shared object file: No such file"


def child(act: str = "pass") -> str:
    return CHILD.format(act=act)


def failing(message: str) -> str:
    return f"import sys; sys.exit({message!r})"


@needs_posix
@pytest.mark.parametrize(
    ("health", "faults"),
    [
        pytest.param(child(), {}, id="all is well"),
        pytest.param(child("print('a library chatters', flush=True)"), {}, id="libraries print between the rows"),
        pytest.param(child("print('[1, 2]'); print('{}'); print('\"x\"')"), {}, id="even what looks like JSON"),
        pytest.param(
            child("say(what='cpu', state='splendid', detail='', way_out=''); say(probe='dance', what='')"),
            {},
            id="and what looks like a row",
        ),
        pytest.param(
            child("probe == 'board' and os.kill(os.getpid(), signal.SIGSEGV)"),
            {"board": "killed by signal 11"},
            id="a segfault costs its own probe, and the others are tried in a new process",
        ),
        pytest.param(
            child("probe in ('cpu', 'gpus') and os._exit(3)"),
            {"cpu": "exit code 3", "gpus": "exit code 3"},
            id="two probes end the process",
        ),
        pytest.param(
            child("probe == 'cpu' and time.sleep(60)"), {"cpu": "no answer in 2 s"}, id="a probe hangs and is named"
        ),
        pytest.param(
            child("probe == 'cpu' and os.kill(os.getpid(), signal.SIGKILL)"),
            {"cpu": "runs out of memory"},
            id="killed by the system",
        ),
        pytest.param(
            "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
            {"engine can be imported": "killed by signal 11"},
            id="the import crashes",
        ),
        pytest.param(
            "import time; time.sleep(60)", {"engine can be imported": "no answer in 2 s"}, id="the import hangs"
        ),
        pytest.param(
            "print('what a day')", {"engine can be imported": "exit code 0: what a day"}, id="it prints garbage"
        ),
        pytest.param(
            failing("Traceback\nTypeError: Descriptors cannot be created directly.\n1. Downgrade\n2. See the web"),
            {"engine can be imported": "exit code 1: TypeError: Descriptors cannot be created directly.$"},
            id="an exception that goes on with advice",
        ),
        pytest.param(
            failing("Traceback\nena24ssd.engine.EngineError: MXNet 1.9.1 cannot run on this. Do that"),
            {"engine can be imported": "^MXNet 1.9.1 cannot run on this. Do that$"},
            id="the engine says itself why it cannot be imported",
        ),
    ],
)
def test_whatever_becomes_of_the_child_is_a_finding(world, health, faults):
    world(health=health)
    limit = 2.0 if any("no answer" in detail for detail in faults.values()) else 60.0
    findings = probes.probe_engine("gluon", ["auto"], "another wheel", limit)
    assert {finding.what for finding in findings if finding.state == "cannot work"} == set(faults)
    for what, detail in faults.items():
        assert re.search(detail, row(findings, what).detail)
        assert row(findings, what).way_out == ("another wheel" if what == "gpus" else install_command("gluon"))
    if "engine can be imported" not in faults:
        assert [finding.what for finding in findings] == ["engine can be imported", "cpu", "cores", "board", "gpus"]


@pytest.mark.parametrize(
    ("devices", "tried"),
    [
        pytest.param(["auto"], ["gpus"], id="auto: all of them"),
        pytest.param(["cpu"], [], id="cpu: none"),
        pytest.param(["gpu:0", "gpu:1"], ["gpu:0", "gpu:1"], id="those that are named"),
    ],
)
def test_the_gpus_that_the_config_wants_are_tried(world, devices, tried):
    world(health=child())
    findings = probes.probe_engine("gluon", devices, "", 20.0)
    assert [finding.what for finding in findings] == ["engine can be imported", "cpu", "cores", "board", *tried]


@pytest.mark.parametrize("name", [*CLUSTER, *TORCHRUN, "TORCHELASTIC_RUN_ID"])
def test_the_child_is_none_of_several_workers(world, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    world(health=child(f"{name!r} in os.environ and os._exit(5)"))
    assert can_work(probes.probe_engine("gluon", ["cpu"], "", 20.0))


SAYS_WHY = failing("ena24ssd.engine.EngineError: no such GPU here")


@needs_posix
@pytest.mark.parametrize(
    ("of_gluon", "of_pytorch", "faults", "ways_out"),
    [
        pytest.param(child(), child(), {}, {}, id="both work"),
        pytest.param(
            *(SAYS_WHY, child(), {"gluon: can be imported": "doubtful"}),
            {"gluon: can be imported": "^Set engine=pytorch$"},
            id="the one that auto prefers does not, the other does",
        ),
        pytest.param(
            *(child(), child("probe == 'board' and os._exit(5)"), {"pytorch: board": "doubtful"}),
            {"pytorch: board": r"pytorch\]"},
            id="the other does not",
        ),
        pytest.param(
            child("probe == 'cpu' and os._exit(5)"),
            child("probe == 'cpu' and os._exit(5)"),
            {"gluon: cpu": "cannot work", "pytorch: cpu": "cannot work"},
            {"gluon: cpu": r"gluon\]", "pytorch: cpu": r"pytorch\]"},
            id="neither does",
        ),
    ],
)
def test_auto_tries_both_engines(world, of_gluon, of_pytorch, faults, ways_out):
    world(packages={"torch": "2.13.0+cpu", "tensorboard": "2.21.0"}, health=of_gluon)
    world(health=of_pytorch, engine="pytorch")
    findings = [f for f in examine(read_config(None, ["device=cpu"]), limit=20) if ": " in f.what]
    if not faults:
        tried = ("can be imported", "cpu", "cores", "board")
        assert [f.what for f in findings] == [f"{engine}: {what}" for engine in ("gluon", "pytorch") for what in tried]
    assert {f.what: f.state for f in findings if f.state != "ok"} == faults
    for what, way_out in ways_out.items():
        assert re.search(way_out, row(findings, what).way_out)


def test_auto_tries_only_what_is_installed(world):
    world(packages=TORCH, health=failing("was started"))
    world(health=child(), engine="pytorch")
    findings = examine(read_config(None, ["device=cpu"]), limit=20)
    assert row(findings, "engine can be imported").state == "ok"
    assert not any(finding.what.startswith(("gluon: ", "pytorch: ")) for finding in findings)


@needs_posix
@pytest.mark.parametrize(
    ("packages", "library", "way_out"),
    [
        pytest.param({}, "libgomp.so.1", "apt-get install libgomp1 libquadmath0", id="GNU OpenMP"),
        pytest.param({}, "libquadmath.so.0", "apt-get install libgomp1 libquadmath0", id="quad precision"),
        pytest.param({}, "libodd.so", "system library libodd.so", id="a library that nobody expected"),
        pytest.param(CU112, "libcuda.so.1", "uninstall -y mxnet-cu112 && .*gluon\\]", id="a CUDA build, no driver"),
        pytest.param(CU112, "libcudnn.so.8", "install -e .*gluon-cu112", id="half of the extra is missing"),
        pytest.param(CU101, "libcudart.so.10.1", "uninstall -y mxnet-cu101 .*gluon-cu112", id="no system-wide CUDA"),
    ],
)
def test_a_missing_library_names_what_brings_it(world, monkeypatch, packages, library, way_out):
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name == "apt-get" else None)
    world(packages=packages, health=failing(LIBRARY.format(library)))
    (finding,) = probes.probe_engine("gluon", ["auto"], "", 20.0)
    assert (finding.state, finding.detail) == ("cannot work", f"{library} is missing")
    assert re.search(way_out, finding.way_out)


@needs_posix
@pytest.mark.parametrize(
    ("library", "way_out"),
    [
        pytest.param("libgomp.so.1", "apt-get install libgomp1", id="a system's library"),
        pytest.param("libcudart.so.13", r'install -e ".*pytorch\]"$', id="one that comes as a package"),
    ],
)
def test_a_library_that_pytorch_misses(world, monkeypatch, library, way_out):
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name == "apt-get" else None)
    message = f"ena24ssd.engine.EngineError: PyTorch does not load: {library}: cannot open shared object file"
    world(packages=TORCH, health=failing(message), engine="pytorch")
    (finding,) = probes.probe_engine("pytorch", ["auto"], "", 20.0)
    assert finding.detail == f"{library} is missing"
    assert re.search(way_out, finding.way_out)


def test_examine_does_not_try_what_cannot_be_imported(world):
    world(packages={"numpy": "2.1.0", "tensorboard": None}, health="raise SystemExit('was started')")
    findings = examine(read_config(None, ["device=cpu"]), limit=20)
    assert not any("imported" in finding.what for finding in findings)
    assert not can_work(findings)


# -- room --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def free(monkeypatch):
    """A function that fills the disks up to so many free bytes."""

    def fill(bytes_):
        monkeypatch.setattr(
            shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 10**12 - bytes_, bytes_)
        )

    return fill


@pytest.mark.parametrize(
    ("left", "pictures", "overrides", "states"),
    [
        pytest.param(10**11, 9000, [], ("ok", "ok"), id="room for everything"),
        pytest.param(10**6, None, [], ("cannot work", "ok"), id="no room for a single checkpoint"),
        pytest.param(10**8, None, [], ("doubtful", "ok"), id="room for a checkpoint or two"),
        pytest.param(10**8, None, ["model.width=0.1"], ("ok", "ok"), id="a small network needs little"),
        pytest.param(5 * 10**8, 9000, [], ("ok", "cannot work"), id="the squares do not fit: 9000 * 3 * 200 * 200"),
        pytest.param(5 * 10**8, 9000, ["data.image_side=64"], ("ok", "ok"), id="smaller squares do"),
        pytest.param(5 * 10**8, None, [], ("ok", "ok"), id="nobody knows how many pictures there are"),
    ],
)
def test_disk(world, free, tmp_path, left, pictures, overrides, states):
    free(left)
    findings = preflight(read_config(None, overrides), tmp_path / "runs" / "new", pictures)
    assert (row(findings, "run folder").state, row(findings, "picture cache").state) == states
    assert not (tmp_path / "runs").exists()


PYRAMID = [
    "model.backbone=efficientnet_lite0",
    "data.image_side=256",
    "model.levels=[8,16,32,64]",
    "model.sizes=[[0.1],[0.2],[0.4],[0.8]]",
    "model.ratios=[1,0.5,2]",
]
HEADS = ["model.frozen_statistics=backbone", "optim.head_epochs=50"]  # of 50


@pytest.mark.parametrize(
    ("overrides", "values"),
    [
        pytest.param([], 4 * 4 * 9_702_740 + 3 * 8 * 9_702_740, id="the post's network with Adam"),
        pytest.param(["model.width=0.5"], 10 * 9_702_740, id="half as wide, a quarter of it"),
        pytest.param(PYRAMID, 40 * 3_060_000, id="all of the other one learns"),
        pytest.param([*PYRAMID, "optim.average=0.99"], 52 * 3_060_000, id="raw weights beside their average"),
        pytest.param([*PYRAMID, *HEADS], 16 * 3_060_000 + 24 * 142_000, id="nothing is kept of what does not learn"),
    ],
)
def test_a_run_folder_takes_what_its_checkpoints_hold(world, free, tmp_path, overrides, values):
    free(10**12)
    for factor, state in ((1.02, "ok"), (0.98, "doubtful")):
        free(round(values * factor))
        finding = row(preflight(read_config(None, overrides), tmp_path / "run"), "run folder")
        assert (finding.state, finding.detail.endswith("needed")) == (state, True)


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "efficientnet_lite2"])
def test_the_values_of_a_network_are_about_those_it_has(backbone):
    pytest.importorskip("torch", reason="the pytorch extra is not installed")
    from ena24ssd.pytorch.ssd import build_network

    model = read_config(None, [*PYRAMID[2:], "data.image_side=256", f"model.backbone={backbone}"]).model
    sizes = {name: array.numel() for name, array in build_network(22, model).state_dict().items()}
    own = sum(size for name, size in sizes.items() if name.startswith("features."))
    counted = room._count_values(model)
    assert counted[0] == pytest.approx(own, rel=0.05)
    assert sum(counted) == pytest.approx(sum(sizes.values()), rel=0.05)


def test_a_cache_that_is_filled_needs_no_room(world, free, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "ena24-32px-squash-0123456789abcdef-01234567.npy").write_bytes(bytes(3 * 32 * 32 * 10 + 128))
    config = read_config(None, [f"data.cache={cache}", "data.image_side=32"])
    free(1000)
    assert row(preflight(config, tmp_path, 10), "picture cache").state == "ok"
    assert row(preflight(config, tmp_path, 11), "picture cache").state == "cannot work"


def no_write(self, *_, **__):
    raise OSError(30, "Read-only file system")


@pytest.mark.parametrize("call", [pytest.param("touch", id="no file"), pytest.param("write_bytes", id="no content")])
def test_a_folder_that_takes_no_files(world, monkeypatch, tmp_path, call):
    monkeypatch.setattr(Path, call, no_write)
    findings = preflight(read_config(), tmp_path / "run")
    for what in ("run folder", "picture cache"):
        assert row(findings, what).state == "cannot work"
        assert "Read-only file system" in row(findings, what).detail
    assert row(findings, "temporary files").state == "doubtful"
    assert "data.cache=FOLDER" in row(findings, "picture cache").way_out


def test_a_file_in_the_place_of_the_folder(world, tmp_path):
    (tmp_path / "runs").write_text("")
    finding = row(preflight(read_config(), tmp_path / "runs" / "new"), "run folder")
    assert finding.state == "cannot work"
    assert str(tmp_path / "runs") in finding.detail


def test_looking_leaves_nothing_behind(world, tmp_path):
    (tmp_path / "out").mkdir()
    preflight(read_config(None, [f"data.cache={tmp_path / 'out'}"]), tmp_path / "out", 10)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("available", "overrides", "state", "way_out"),
    [
        pytest.param(8 * 10**9, [], "ok", "", id="enough"),
        pytest.param(3 * 10**9, [], "doubtful", "train.accumulate=2", id="half a batch at a time"),
        pytest.param(12 * 10**8, [], "doubtful", "train.accumulate=8", id="a picture at a time"),
        pytest.param(8 * 10**8, [], "doubtful", "model.width", id="not even one picture"),
        pytest.param(3 * 10**9, ["train.accumulate=2"], "ok", "", id="in portions already"),
        pytest.param(3 * 10**9, ["train.batch=auto"], "ok", "", id="auto finds out itself"),
        pytest.param(3 * 10**9, ["device=gpu"], "ok", "", id="on a GPU it is the GPU's memory that counts"),
        pytest.param(3 * 10**9, [*PYRAMID, "engine=pytorch", "train.batch=16"], "ok", "", id="a light network"),
        pytest.param(3 * 10**9, [*PYRAMID, "train.batch=16"], "doubtful", "accumulate=3", id="which MXNet makes heavy"),
        pytest.param(15 * 10**8, [*PYRAMID, "engine=pytorch", "train.batch=16"], "doubtful", "=2", id="all learns"),
        pytest.param(15 * 10**8, [*PYRAMID, *HEADS, "engine=pytorch", "train.batch=16"], "ok", "", id="the heads do"),
        pytest.param(4 * 10**8, [*PYRAMID, "engine=pytorch"], "doubtful", "or lower data.image", id="nor a light one"),
    ],
)
def test_memory(world, monkeypatch, tmp_path, available, overrides, state, way_out):
    monkeypatch.setattr(room, "available_memory", lambda: available)
    finding = row(preflight(read_config(None, overrides), tmp_path), "memory")
    assert finding.state == state
    assert way_out in finding.way_out


@pytest.mark.parametrize(
    ("variables", "state", "detail"),
    [
        pytest.param(CLUSTER, "ok", "worker; 2 workers and 1 servers meet at 127.0.0.1:9091", id="all is said"),
        pytest.param({}, "cannot work", "DMLC_ROLE is not set", id="nothing is said"),
        pytest.param(CLUSTER | {"DMLC_NUM_WORKER": "two"}, "cannot work", "DMLC_NUM_WORKER is 'two'", id="no number"),
    ],
)
def test_several_machines(world, monkeypatch, tmp_path, variables, state, detail):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    finding = row(preflight(gluon("kvstore=dist_sync"), tmp_path), "several machines")
    assert finding.state == state
    assert detail in finding.detail


@pytest.mark.parametrize(
    ("packages", "overrides", "variables", "what", "state", "detail", "way_out"),
    [
        pytest.param(
            *({}, ["engine=pytorch", "kvstore=dist_sync"], CLUSTER, "several machines", "cannot work"),
            *("MXNet's", "kvstore=null, .* 'torchrun --nproc-per-node"),
            id="PyTorch knows no parameter server",
        ),
        pytest.param(
            *(
                {},
                ["engine=gluon"],
                TORCHRUN,
                "workers of torchrun",
                "cannot work",
                "every worker would train by itself",
            ),
            "engine=pytorch, or kvstore=dist_sync .* -m ena24ssd.cluster",
            id="MXNet knows no torchrun",
        ),
        pytest.param(
            *(
                {"torch": "2.13.0"},
                [],
                TORCHRUN,
                "workers of torchrun",
                "cannot work",
                "by itself",
                "^Set engine=pytorch$",
            ),
            id="auto would be MXNet, which knows no torchrun",
        ),
        pytest.param(
            *(
                TORCH,
                ["engine=auto"],
                TORCHRUN,
                "workers of torchrun",
                "ok",
                "rank 1 of 2; they meet at 127.0.0.1:29500",
            ),
            *("",),
            id="auto, where there is PyTorch only",
        ),
        pytest.param(
            *(TORCH, ["engine=pytorch"], {"WORLD_SIZE": "2", "RANK": "0"}, "workers of torchrun", "cannot work"),
            *("not set: MASTER_ADDR, MASTER_PORT", "torchrun"),
            id="half of what torchrun says",
        ),
    ],
)
def test_engines_keep_company_each_in_its_way(
    world, monkeypatch, tmp_path, packages, overrides, variables, what, state, detail, way_out
):
    world(packages=packages)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    finding = row(preflight(read_config(None, overrides), tmp_path), what)
    assert finding.state == state
    assert detail in finding.detail
    assert re.search(way_out, finding.way_out) if way_out else finding.way_out == ""


@pytest.mark.parametrize("size", ["", "1"])
def test_a_worker_of_torchruns_that_is_alone_is_no_matter(world, monkeypatch, tmp_path, size):
    monkeypatch.setenv("WORLD_SIZE", size)
    assert not any("torchrun" in finding.what for finding in preflight(gluon(), tmp_path))


def test_data_that_cannot_be_read(world):
    world(packages=BARE)
    finding = row(examine(read_config(None, ["data.path=no/such/place", "device=cpu"])), "data")
    assert (finding.state, finding.way_out) == ("cannot work", "ena24ssd check no/such/place")


def test_the_datas_pictures_are_counted(world, tmp_path, free):
    images = [{"id": str(n), "file_name": f"{n}.jpg", "width": 64, "height": 48} for n in range(3)]
    categories = [{"id": 0, "name": "Bird"}]
    (tmp_path / "some.json").write_text(json.dumps({"images": images, "annotations": [], "categories": categories}))
    for image in images[:2]:
        (tmp_path / image["file_name"]).write_bytes(b"never opened")
    world(packages=BARE)
    free(10**9)
    findings = examine(read_config(None, [f"data.path={tmp_path}", "data.image_side=2048", "device=cpu"]))
    assert row(findings, "data") == Finding("data", "ok", "2 pictures of 1 species")
    assert "25.2 MB needed" in row(findings, "picture cache").detail


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_the_table_fits_100_columns_and_lists_each_way_out_once():
    long = "a word " * 40
    findings = [
        Finding("tensorboard can be started", "cannot work", long, "first --with " + "x" * 200),
        Finding("b", "ok", "\x1b[31mred"),
        Finding("c", "doubtful", "", "second"),
        Finding("d", "cannot work", "", "second"),
    ]
    text = finding_table(findings)
    table = [line for line in text.splitlines() if line.startswith(("|", "+"))]
    assert max(map(len, table)) <= 100
    assert text.splitlines()[len(table) :] == ["[1] first --with " + "x" * 200, "[2] second"]
    assert "\x1b" not in text
    assert sum("[2]" in line for line in table) == 2


def test_a_finding_can_be_written_as_json():
    assert json.loads(json.dumps([Finding("a", "ok", "b")._asdict()])) == [
        {"what": "a", "state": "ok", "detail": "b", "way_out": ""}
    ]
