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
from pathlib import Path

import pytest

from ena24ssd import doctor
from ena24ssd.config import read_config
from ena24ssd.doctor import Finding, can_work, examine, finding_table, preflight

SOUND = {"mxnet": "1.9.1", "numpy": "1.23.5", "mxboard": "0.1.0", "tensorboard": "2.21.0"}
CLUSTER = {
    **{"DMLC_ROLE": "worker", "DMLC_PS_ROOT_URI": "127.0.0.1", "DMLC_PS_ROOT_PORT": "9091"},
    **{"DMLC_NUM_SERVER": "1", "DMLC_NUM_WORKER": "2"},
}
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
        raise doctor.metadata.PackageNotFoundError(name)

    def change(packages=None, python=None, system=("Linux", "x86_64", "glibc"), nvidia_smi=None, health=None):
        for name, value in (packages or {}).items():
            if value is None:
                versions.pop(name, None)
            else:
                versions[name] = value
        if python is not None:
            monkeypatch.setattr(doctor.sys, "version_info", (*python, 0, "final", 0))
        monkeypatch.setattr(platform, "system", lambda: system[0])
        monkeypatch.setattr(platform, "machine", lambda: system[1])
        monkeypatch.setattr(platform, "libc_ver", lambda: (system[2], "2.36" if system[2] else ""))
        if nvidia_smi is not None:
            script = programs / "nvidia-smi"
            script.write_text(f"#!/bin/sh\n{nvidia_smi}\n")
            script.chmod(0o755)
        if health is not None:
            monkeypatch.setattr(doctor, "HEALTH", ("-c", health))

    monkeypatch.setattr(doctor.metadata, "version", version)
    monkeypatch.setattr(doctor.util, "find_spec", lambda name: object() if name in versions else None)
    monkeypatch.setattr(doctor, "PCI", tmp_path / "no devices")
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.chdir(tmp_path)
    for name in CLUSTER:
        monkeypatch.delenv(name, raising=False)
    change(python=(3, 11))
    return change


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
def test_packages(world, tmp_path, changes, what, state, detail, way_out):
    world(**changes)
    finding = row(preflight(read_config(), tmp_path / "run"), what)
    assert finding.state == state
    assert re.search(detail, finding.detail)
    assert re.search(way_out, finding.way_out) if way_out else finding.way_out == ""


def test_a_sound_machine_has_no_row_that_is_not_ok(world, tmp_path):
    findings = preflight(read_config(), tmp_path / "run")
    assert [finding for finding in findings if finding.state != "ok"] == []
    assert can_work(findings)


def test_what_is_not_sound_has_a_way_out_and_what_is_has_none(world, tmp_path):
    world(packages=dict.fromkeys(SOUND), python=(3, 13))
    findings = preflight(read_config(None, ["kvstore=dist_sync"]), tmp_path / "run")
    assert all(bool(finding.way_out) == (finding.state != "ok") for finding in findings)
    assert not can_work(findings)


def test_preflight_is_fast_and_imports_no_framework(tmp_path):
    code = (
        "import sys, time\n"
        "from ena24ssd.config import read_config\n"
        "from ena24ssd.doctor import preflight\n"
        "config = read_config(None, ['device=cpu'])\n"
        f"preflight(config, {str(tmp_path / 'run')!r}, 9000)\n"
        "started = time.perf_counter()\n"
        f"preflight(config, {str(tmp_path / 'run')!r}, 9000)\n"
        "print(time.perf_counter() - started)\n"
        "print({'mxnet', 'mxboard', 'tensorboard', 'gluoncv', 'torch'} & sys.modules.keys())\n"
    )
    environment = dict(os.environ, PYTHONPATH=str(doctor.CHECKOUT))
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
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: asked)
    (finding,) = doctor._base_packages()
    assert (finding.state, finding.detail) == (state, detail)


def test_the_tested_versions_are_those_of_pyproject():
    tomllib = pytest.importorskip("tomllib")
    extras = tomllib.loads((doctor.CHECKOUT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = {re.match(r"[\w-]+", line)[0]: line for line in extras["gluon-parts"]}
    for name, (tested, _) in doctor.ENGINE_PACKAGES.items():
        assert re.search(rf"[>=]={re.escape(tested)}\b", asked[name])
    for name, build in doctor.BUILDS.items():
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
        pytest.param({}, H100, "gpu:0", "doubtful", "9.0.*no MXNet wheel", "device=cpu", id="an H100"),
        pytest.param(CU112, H100, "gpu:0", "doubtful", "9.0.*no MXNet wheel", "device=cpu", id="an H100 with cu112"),
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
def test_cards(world, monkeypatch, packages, script, what, state, detail, way_out):
    monkeypatch.delenv("MXNET_USE_FUSION", raising=False)
    world(packages=packages, nvidia_smi=script)
    findings, _ = doctor._cards(read_config())
    finding = row(findings, what)
    assert finding.state == state
    assert re.search(detail, finding.detail)
    assert re.search(way_out, finding.way_out) if way_out else finding.way_out == ""


@needs_posix
def test_every_card_has_its_row(world):
    world(packages=CU112, nvidia_smi="\n".join([T4, H100]))
    findings, way_out = doctor._cards(read_config())
    assert [(finding.what, finding.state) for finding in findings] == [("gpu:0", "ok"), ("gpu:1", "doubtful")]
    assert way_out == doctor.NO_WHEEL


@needs_posix
def test_a_card_that_is_not_asked_for_is_no_fault(world):
    world(nvidia_smi=H100)
    for device, state in {"[cpu:0, cpu:1]": "ok", "[cpu:0, gpu:0]": "doubtful"}.items():
        (finding,), _ = doctor._cards(read_config(None, [f"device={device}"]))
        assert finding.state == state


@needs_posix
def test_an_nvidia_smi_that_hangs_is_not_waited_for(world, monkeypatch):
    world(nvidia_smi="exec sleep 60")
    monkeypatch.setattr(doctor, "PATIENCE", 0.2)
    started = time.monotonic()
    (finding,), _ = doctor._cards(read_config())
    assert time.monotonic() - started < 4
    assert finding.state == "doubtful"
    assert "no answer in 0.2 s" in finding.detail


def test_a_card_without_a_driver_is_seen_on_the_bus(world, monkeypatch, tmp_path):
    (tmp_path / "pci" / "0000:01:00.0").mkdir(parents=True)
    (tmp_path / "pci" / "0000:01:00.0" / "vendor").write_text("0x10de\n")
    (tmp_path / "pci" / "0000:01:00.0" / "class").write_text("0x030000\n")
    monkeypatch.setattr(doctor, "PCI", tmp_path / "pci")
    (finding,), _ = doctor._cards(read_config())
    assert finding == Finding("GPU", "doubtful", "a card, but no driver (no nvidia-smi)", doctor.DRIVER)


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
    findings = doctor._engine(read_config(), "another wheel", limit)
    assert {finding.what for finding in findings if finding.state == "cannot work"} == set(faults)
    for what, detail in faults.items():
        assert re.search(detail, row(findings, what).detail)
        assert row(findings, what).way_out == ("another wheel" if what == "gpus" else doctor._install())
    if "engine can be imported" not in faults:
        assert [finding.what for finding in findings] == ["engine can be imported", "cpu", "cores", "board", "gpus"]


@pytest.mark.parametrize(
    ("device", "probes"),
    [
        pytest.param("auto", ["gpus"], id="auto: all of them"),
        pytest.param("cpu", [], id="cpu: none"),
        pytest.param("[gpu:0, gpu:1]", ["gpu:0", "gpu:1"], id="those that are named"),
    ],
)
def test_the_gpus_that_the_config_wants_are_tried(world, device, probes):
    world(health=child())
    findings = doctor._engine(read_config(None, [f"device={device}"]), "", 20.0)
    assert [finding.what for finding in findings] == ["engine can be imported", "cpu", "cores", "board", *probes]


def test_the_child_is_no_server_of_a_cluster(world, monkeypatch):
    monkeypatch.setenv("DMLC_ROLE", "server")
    world(health=child("'DMLC_ROLE' in os.environ and os._exit(5)"))
    assert can_work(doctor._engine(read_config(), "", 20.0))


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
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}" if name == "apt-get" else None)
    world(packages=packages, health=failing(LIBRARY.format(library)))
    (finding,) = doctor._engine(read_config(), "", 20.0)
    assert (finding.state, finding.detail) == ("cannot work", f"{library} is missing")
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
    ],
)
def test_memory(world, monkeypatch, tmp_path, available, overrides, state, way_out):
    monkeypatch.setattr(doctor, "available_memory", lambda: available)
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
    finding = row(preflight(read_config(None, ["kvstore=dist_sync"]), tmp_path), "several machines")
    assert finding.state == state
    assert detail in finding.detail


def test_data_that_cannot_be_read(world):
    world(packages=dict.fromkeys(SOUND))
    finding = row(examine(read_config(None, ["data.path=no/such/place", "device=cpu"])), "data")
    assert (finding.state, finding.way_out) == ("cannot work", "ena24ssd check no/such/place")


def test_the_datas_pictures_are_counted(world, tmp_path, free):
    images = [{"id": str(n), "file_name": f"{n}.jpg", "width": 64, "height": 48} for n in range(3)]
    categories = [{"id": 0, "name": "Bird"}]
    (tmp_path / "some.json").write_text(json.dumps({"images": images, "annotations": [], "categories": categories}))
    for image in images[:2]:
        (tmp_path / image["file_name"]).write_bytes(b"never opened")
    world(packages=dict.fromkeys(SOUND))
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


# -- what the child tries ----------------------------------------------------------------------------------------------


@pytest.fixture
def health():
    pytest.importorskip("mxnet", reason="the gluon extra is not installed", exc_type=ImportError)
    from ena24ssd.gluon import health

    return health


def ask(health, capsys, *probes) -> list[Finding]:
    """The findings of `health.main`, which must have gone to its end."""
    health.main([str(time.time()), *probes])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows[-1] == {"probe": "", "what": ""}
    return [Finding(**row) for row in rows if "state" in row]


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        pytest.param({}, None, id="no control group"),
        pytest.param({"cpu.max": "max 100000"}, None, id="version 2, no limit"),
        pytest.param({"cpu.max": "250000 100000"}, 2.5, id="version 2"),
        pytest.param({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None, id="version 1, no limit"),
        pytest.param({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5, id="version 1"),
    ],
)
def test_the_share_of_cores_that_a_container_gets(health, monkeypatch, tmp_path, files, quota):
    monkeypatch.setattr(health, "CGROUP", tmp_path)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{content}\n")
    assert health._quota() == quota


@pytest.mark.parametrize(
    ("threads", "wanted", "quota", "busy", "state", "way_out"),
    [
        pytest.param("8", 8, None, 7.5, "ok", "", id="all are busy"),
        pytest.param("1", 8, None, 1.0, "doubtful", "unset OMP_NUM_THREADS", id="the user allows one"),
        pytest.param("64", 64, 2.0, 2.0, "doubtful", "export OMP_NUM_THREADS=2", id="64 threads in a 2-core container"),
        pytest.param("2", 64, 2.0, 1.9, "ok", "", id="as many as the container may use"),
        pytest.param("1", 64, 0.5, 0.5, "ok", "", id="half a core is one thread"),
        pytest.param("8", 8, None, 1.5, "doubtful", "See with 'top' what else", id="somebody else uses them"),
        pytest.param("8,2", 8, None, 8.0, "ok", "", id="nested: the outer number counts"),
        pytest.param("", 8, None, 8.0, "ok", "", id="a system that does not say"),
    ],
)
def test_cores(health, capsys, monkeypatch, threads, wanted, quota, busy, state, way_out):
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    monkeypatch.setattr(health, "use_all_cores", lambda: os.environ.setdefault("OMP_NUM_THREADS", str(wanted)))
    monkeypatch.setattr(health, "_quota", lambda: quota)
    monkeypatch.setattr(health, "_busy_cores", lambda: busy)
    finding = ask(health, capsys, "cores")[-1]
    assert (finding.state, finding.way_out[: len(way_out) or None]) == (state, way_out)
    assert os.environ["OMP_NUM_THREADS"] == threads


@pytest.fixture
def two_gpus(health, monkeypatch):
    """MXNet as if it saw two GPUs, which are the CPU."""
    monkeypatch.setattr(health.mxnet.runtime.Features, "is_enabled", lambda self, name: True)
    monkeypatch.setattr(health.mxnet.context, "num_gpus", lambda: 2)
    monkeypatch.setattr(health.mxnet, "gpu", health.mxnet.cpu)
    monkeypatch.setattr(health, "check_gpu", lambda index: None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_every_gpu_that_mxnet_sees_is_tried(health, capsys, two_gpus):
    _, driver, *gpus = ask(health, capsys, "gpus")
    assert driver == Finding("GPUs that MXNet sees", "ok", "2")
    assert [(gpu.what, gpu.state) for gpu in gpus] == [("gpu:0: a gradient", "ok"), ("gpu:1: a gradient", "ok")]


@pytest.mark.parametrize(("probe", "state"), [("gpus", "doubtful"), ("gpu", "cannot work"), ("gpu:0", "cannot work")])
def test_a_gpu_that_fails_stops_only_who_asked_for_it(health, capsys, monkeypatch, two_gpus, probe, state):
    monkeypatch.setattr(health, "check_gpu", lambda index: f"no code for this card, {health.CPU_HINT}")
    finding = next(finding for finding in ask(health, capsys, probe) if finding.what == "gpu:0: a gradient")
    assert finding == Finding("gpu:0: a gradient", state, "no code for this card")


def test_a_gpu_that_computes_wrongly_is_refused(health, capsys, monkeypatch, two_gpus):
    monkeypatch.setattr(health, "_gradient", lambda context: (0.01, False))
    assert all(finding.state == "cannot work" for finding in ask(health, capsys, "gpus", "cpu")[2:])


def test_a_first_operation_of_minutes_is_a_compiler(health, capsys, monkeypatch, two_gpus):
    monkeypatch.setattr(health, "_gradient", lambda context: (health.SLOW + 1, True))
    finding = ask(health, capsys, "gpu:0")[-1]
    assert finding.state == "doubtful"
    assert "compiles it at every start" in finding.detail


def test_a_driver_that_does_not_answer_costs_no_other_probe(health, capsys, monkeypatch, two_gpus):
    def fail():
        raise health.mxnet.MXNetError("CUDA: no answer")

    monkeypatch.setattr(health.mxnet.context, "num_gpus", fail)
    monkeypatch.setattr(health, "check_gpu", lambda index: f"the driver does not answer, {health.CPU_HINT}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    _, driver, cpu = ask(health, capsys, "gpus", "cpu")
    assert driver == Finding(
        *("GPUs that MXNet sees", "doubtful", "the driver does not answer; CUDA_VISIBLE_DEVICES is '7'"),
        "unset CUDA_VISIBLE_DEVICES",
    )
    assert cpu.state == "ok"


def test_a_probe_that_raises_costs_no_other_probe(health, capsys, monkeypatch):
    def write(*_):
        raise TypeError("Descriptors cannot be created directly.\nIf this call came from a _pb2.py file")

    monkeypatch.setattr("ena24ssd.gluon.board.MxBoard.__init__", write)
    _, board, cpu = ask(health, capsys, "board", "cpu")
    assert board.state == "cannot work"
    assert board.detail == "TypeError: Descriptors cannot be created directly."
    assert cpu.state == "ok"


def test_events_that_tensorboard_does_not_find_are_a_fault(health, capsys, monkeypatch):
    monkeypatch.setattr("ena24ssd.gluon.board.MxBoard.scalars", lambda *_: None)
    finding = ask(health, capsys, "board")[-1]
    assert (finding.state, finding.detail) == ("cannot work", "it found values [] for 0.5, and no scalars")


def test_the_real_machine_with_mxnet(health, tmp_path):
    """Without a GPU a config that names one is refused, for that reason alone."""
    has_gpus = health.mxnet.runtime.Features().is_enabled("CUDA")
    config = read_config(None, [f"device={'cpu' if has_gpus else 'gpu:3'}"])
    findings = examine(config, tmp_path / "run", limit=120)
    for what in (
        "engine can be imported",
        "CPU: a gradient",
        "TensorBoard reads mxboard",
        "tensorboard can be started",
    ):
        assert row(findings, what).state == "ok", finding_table(findings)
    refused = [finding for finding in findings if finding.state == "cannot work"]
    assert [finding.what for finding in refused] == ([] if has_gpus else ["gpu:3: a gradient"])
    assert all("CPU build" in finding.detail and "device=cpu" in finding.way_out for finding in refused)
