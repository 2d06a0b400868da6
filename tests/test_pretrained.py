"""Are pretrained weights read whole, by either engine's network, and is nothing in their file executed?"""

from __future__ import annotations

import importlib.util
import io
import pickle
import struct
import sys
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ena24ssd import torchfile
from ena24ssd.efficientnet import EPSILON, VARIANTS
from ena24ssd.pretrained import ORIGINS, PretrainedError, read_classifier, read_pretrained
from ena24ssd.torchfile import MAGIC, PROTOCOL, TorchFileError, read_torch_file

# -- files by hand --------------------------------------------------------------------------------------------------


class Stored(tuple):
    """What a pickle shall refer to as a storage."""


class Naming:
    """Calls what a pickle may name: a stand-in that pickles as ``module.name(*arguments)``."""

    def __init__(self, place: str, *arguments: Any):
        self.place, self.arguments = place, arguments

    def __reduce__(self):
        return _Global(self.place), self.arguments


class _Global:
    def __init__(self, place: str):
        self.place = place

    def __call__(self):
        raise AssertionError("it is written, not called")


class Pickler(pickle._Pickler):
    """Python's own, in Python, which writes a name without looking for what it names."""

    def persistent_id(self, value: Any) -> Any:
        return tuple(value) if isinstance(value, Stored) else None

    def save_global(self, value: Any, name: str | None = None) -> None:
        if isinstance(value, _Global):
            module, _, name = value.place.rpartition(".")
            self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())
            self.memoize(value)
        else:
            super().save_global(value, name)

    def save(self, value: Any, save_persistent_id: bool = True) -> None:
        if isinstance(value, _Global) and id(value) not in self.memo:
            self.save_global(value)
        else:
            super().save(value, save_persistent_id)


def pickled(value: Any) -> bytes:
    file = io.BytesIO()
    Pickler(file, 2).dump(value)
    return file.getvalue()


FLOATS = _Global("torch.FloatStorage")


def storage(key: str = "a", size: int = 6, kind: Any = FLOATS, view: Any = None) -> Stored:
    return Stored(("storage", kind, key, "cpu", size, view))


def tensor(where: Any = None, start: Any = 0, shape: Any = (2, 3), strides: Any = (3, 1)) -> Naming:
    whole = storage() if where is None else where
    return Naming("torch._utils._rebuild_tensor_v2", whole, start, shape, strides, False, OrderedDict())


def a_file(tensors: Any, keys: Any = ("a",), sizes: tuple[int, ...] = (6,), magic: int = MAGIC) -> bytes:
    """A file of these tensors, with storages that count up."""
    head = [magic, PROTOCOL, {"little_endian": True}, tensors, list(keys) if isinstance(keys, tuple) else keys]
    body = (struct.pack("<q", size) + np.arange(size, dtype="<f4").tobytes() for size in sizes)
    return b"".join(map(pickled, head)) + b"".join(body)


def read(content: bytes, folder: Path) -> dict[str, np.ndarray]:
    file = folder / "file.pth"
    file.write_bytes(content)
    return read_torch_file(file)


COUNT = np.arange(6, dtype=np.float32)
WHOLE = {
    "row by row": (tensor(), COUNT.reshape(2, 3)),
    "column by column": (tensor(shape=(3, 2), strides=(1, 3)), COUNT.reshape(2, 3).T),
    "a part": (tensor(start=2, shape=(3,), strides=(1,)), COUNT[2:5]),
    "every other": (tensor(start=1, shape=(3,), strides=(2,)), COUNT[1::2]),
    "a number": (tensor(start=4, shape=(), strides=()), COUNT[4]),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_tensor_is_its_part_of_a_storage(tmp_path, name):
    written, expected = WHOLE[name]
    (array,) = read(a_file({"x": written}), tmp_path).values()
    assert array.dtype == np.float32 and array.shape == expected.shape and np.array_equal(array, expected)


def test_tensors_may_share_a_storage(tmp_path):
    shared = storage()
    arrays = read(a_file(OrderedDict(x=tensor(shared), y=tensor(shared, 3, (3,), (1,)))), tmp_path)
    assert np.array_equal(arrays["x"][1], arrays["y"])


EMPTY = {
    "without rows": tensor(shape=(0, 3), strides=(3, 1)),
    "without rows, anywhere": tensor(start=6, shape=(0,), strides=(1,)),
    "of a storage without any": tensor(storage(size=0), shape=(0,), strides=(1,)),
}


@pytest.mark.parametrize("name", EMPTY)
def test_a_tensor_without_a_value_is_one_or_a_message(tmp_path, name):
    size = 0 if "storage" in name else 6
    assert read(a_file({"x": EMPTY[name]}, sizes=(size,)), tmp_path)["x"].size == 0


HUGE = 2**62
HOSTILE = {
    "asks for os.system": {"x": Naming("os.system", "touch executed")},
    "asks for posix.system": {"x": Naming("posix.system", "touch executed")},
    "asks for eval": {"x": Naming("builtins.eval", "open('executed', 'w')")},
    "asks for getattr": {"x": Naming("builtins.getattr", tensor(), "rebuild")},
    "asks for a class inside one it may name": {"x": Naming("collections.OrderedDict.fromkeys", [1])},
    "asks for another rebuilding": {"x": Naming("torch._utils._rebuild_parameter", tensor(), True, OrderedDict())},
    "asks for another storage": {"x": tensor(storage(kind=_Global("torch.HalfStorage")))},
    "calls a storage's kind": {"x": Naming("torch.FloatStorage", 6)},
    "a list of tensors": [tensor()],
    "no tensors but numbers": {"x": 3},
    "a dictionary of dictionaries": {"x": {"y": tensor()}},
    "a number for a dictionary": 3,
    "a name that is no text": {5: tensor()},
    "a storage that is a text": {"x": tensor(Stored("storage"))},
    "a storage of a view": {"x": tensor(storage(view=("b", 0, 3)))},
    "a storage of an unknown kind": {"x": tensor(storage(kind="FloatStorage"))},
    "a storage named by a number": {"x": tensor(storage(key=3))},
    "a storage of less than nothing": {"x": tensor(storage(size=-6))},
    "a storage of half an element": {"x": tensor(storage(size=6.5))},
    "no storage": {"x": tensor((1, 2))},
    "beyond its storage": {"x": tensor(start=1)},
    "beyond its storage by strides": {"x": tensor(strides=(4, 1))},
    "far beyond its storage": {"x": tensor(start=HUGE)},
    "strides beyond any memory": {"x": tensor(strides=(HUGE, HUGE))},
    "a shape beyond any memory": {"x": tensor(shape=(HUGE, HUGE), strides=(0, 0))},
    "a shape of many zeros": {"x": tensor(shape=(HUGE, 0, HUGE), strides=(0, 0, 0))},
    "more dimensions than any array has": {"x": tensor(shape=(1,) * 100, strides=(0,) * 100)},
    "strides back": {"x": tensor(start=5, strides=(-3, -1))},
    "zero strides that make much of little": {"x": tensor(shape=(10**4, 10**5), strides=(0, 0))},
    "before its storage": {"x": tensor(start=-1)},
    "a stride too few": {"x": tensor(strides=(1,))},
    "a shape that is a list": {"x": tensor(shape=[2, 3])},
    "a shape of fractions": {"x": tensor(shape=(2.0, 3.0))},
}


def assert_refused(content: bytes, folder: Path) -> str:
    """With a message that names the file, in no more memory than a few times the file."""
    tracemalloc.start()
    try:
        with pytest.raises(TorchFileError) as refusal:
            read(content, folder)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(content) + 2**20
    finally:
        tracemalloc.stop()
    assert str(refusal.value).startswith(str(folder / "file.pth")) and "\n" not in str(refusal.value)
    return str(refusal.value)


@pytest.mark.parametrize("name", HOSTILE)
def test_what_weights_do_not_need_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert_refused(a_file(HOSTILE[name]), tmp_path)
    assert not Path("executed").exists()


def test_a_call_is_refused_before_it_is_looked_up(tmp_path, monkeypatch):
    called = []
    monkeypatch.setitem(sys.modules, "trap", SimpleNamespace(spring=lambda *_: called.append(1)))
    for place in range(5):  # whichever pickle of the file it is in
        head: list[Any] = [MAGIC, PROTOCOL, {}, {"x": tensor()}, ["a"]]
        head[place] = Naming("trap.spring", 1)
        message = assert_refused(b"".join(map(pickled, head)), tmp_path)
        assert "asks for 'trap.spring'" in message
    assert not called


UNEQUAL = {
    "another key": (("b",), (6,)),
    "a key too many": (("a", "b"), (6, 6)),
    "a key too few": ((), ()),
    "keys in a dictionary": ({"a": 1}, (6,)),
    "a key twice": (("a", "a"), (6, 6)),
    "keys that are numbers": ((1,), (6,)),
    "keys that are a text": ("a", (6,)),
    "keys of several kinds": ((1, "a"), (6, 6)),
    "a storage shorter than said": (("a",), (5,)),
    "a storage longer than said": (("a",), (7,)),
    "no storage": (("a",), ()),
}


@pytest.mark.parametrize("name", UNEQUAL)
def test_storages_that_are_not_those_of_the_tensors_are_refused(tmp_path, name):
    assert_refused(a_file({"x": tensor()}, *UNEQUAL[name]), tmp_path)


def test_tensors_that_disagree_about_their_storage_are_refused(tmp_path):
    """The last one said would decide how far the first may reach."""
    assert_refused(
        a_file({"x": tensor(storage(size=6)), "y": tensor(storage(size=2), shape=(2,), strides=(1,))}), tmp_path
    )
    far = tensor(storage(size=600), 500, (100,), (1,))
    assert_refused(a_file({"x": far, "y": tensor()}), tmp_path)


def test_a_file_cut_short_anywhere_is_refused(tmp_path):
    content = a_file({"x": tensor(), "y": tensor(storage("b", 4), shape=(4,), strides=(1,))}, ("a", "b"), (6, 4))
    assert len(read(content, tmp_path)) == 2
    for length in range(len(content)):
        assert_refused(content[:length], tmp_path)


def test_another_format_is_refused(tmp_path):
    file = tmp_path / "new.pth"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled({"x": 1}))
    assert_refused(file.read_bytes(), tmp_path)
    assert "before 1.6" in assert_refused(a_file({"x": tensor()}, magic=MAGIC + 1), tmp_path)
    assert_refused(b"", tmp_path)


def test_a_file_beyond_the_limit_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(torchfile, "LARGEST", 10)
    with pytest.raises(TorchFileError, match="are read at most"):
        read(a_file({"x": tensor()}), tmp_path)


def test_a_pickle_cannot_change_what_the_types_of_numpy_are(tmp_path):
    state = pickled((3, ">", None, None, None, -1, -1, 0)).removeprefix(b"\x80\x02").removesuffix(b".")
    assert_refused(b"\x80\x02ctorch\nFloatStorage\n" + state + b"b.", tmp_path)
    assert np.dtype("<f4").byteorder == "=" and np.float32(1).tobytes() == struct.pack("<f", 1)


def test_many_tensors_of_one_storage_have_a_limit_together(tmp_path, monkeypatch):
    monkeypatch.setattr(torchfile, "LARGEST", 2**13)
    content = a_file({str(number): tensor(shape=(6,), strides=(1,)) for number in range(30)})
    assert len(content) < 2**13 and len(read(content, tmp_path)) == 30
    monkeypatch.setattr(torchfile, "LARGEST", len(content))
    shared = storage(size=1000)
    many = a_file({str(number): tensor(shared, 0, (1000,), (1,)) for number in range(30)}, sizes=(1000,))
    monkeypatch.setattr(torchfile, "LARGEST", len(many))
    assert "more than" in assert_refused(many, tmp_path)


BOMBS = {
    "a text of a terabyte": b"\x80\x02\x8a\x01\x01X" + struct.pack("<I", 2**32 - 1) + b"a.",
    "bytes of an exabyte": b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"a.",
    "a place in the memo that is far off": b"\x80\x02K\x01r" + struct.pack("<I", 2**31 - 1) + b".",
    "a frame of an exabyte": b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"K\x01.",
    "a number of two gigabytes": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"a.",
    "lists in lists": b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".",
    "a list that holds itself": b"\x80\x02]q\x00h\x00a.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_few_bytes_do_not_take_much_memory(tmp_path, name):
    assert_refused(BOMBS[name], tmp_path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300), begins=st.booleans())
def test_any_bytes_are_refused(tmp_path, content, begins):
    head = b"".join(map(pickled, (MAGIC, PROTOCOL, {})))
    with pytest.raises(TorchFileError):
        read(head + content if begins else content, tmp_path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_changed_file_is_refused_or_still_arrays(tmp_path, changes):
    content = bytearray(a_file({"x": tensor(), "y": tensor(start=3, shape=(3,), strides=(1,))}))
    for place, byte in changes:
        content[place % len(content)] = byte
    try:
        arrays = read(bytes(content), tmp_path)
    except TorchFileError:
        return
    assert all(array.size <= 6 for array in arrays.values())


def test_a_file_of_pytorch_is_read_as_pytorch_reads_it(tmp_path):
    torch = pytest.importorskip("torch", reason="the pytorch extra is not installed")
    whole = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    tensors = {"whole": whole, "turned": whole.permute(2, 0, 1), "part": whole[:, 1:, ::2]}
    tensors |= {"number": torch.tensor(7), "empty": torch.zeros(0, 3), "last": torch.nn.Linear(3, 2).weight.data}
    tensors["channels last"] = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    file = tmp_path / "file.pth"
    torch.save(OrderedDict(tensors), file, _use_new_zipfile_serialization=False)
    arrays, theirs = read_torch_file(file), torch.load(file, weights_only=True)
    assert list(arrays) == list(theirs) == list(tensors)
    for name, array in arrays.items():
        other = theirs[name].numpy()
        assert array.dtype == other.dtype and array.shape == other.shape and np.array_equal(array, other)
    torch.save(tensors, file)
    with pytest.raises(TorchFileError):
        read_torch_file(file)


# -- the published weights ------------------------------------------------------------------------------------------


def file_of(backbone: str) -> Path:
    package = pytest.importorskip(ORIGINS[backbone].package.replace("-", "_"), reason="the weights are not installed")
    return Path(package.__path__[0], "models", ORIGINS[backbone].file)


@pytest.mark.parametrize("backbone", VARIANTS)
def test_published_weights_are_those_that_pytorch_reads(backbone):
    torch = pytest.importorskip("torch", reason="the pytorch extra is not installed")
    file = file_of(backbone)
    arrays, theirs = read_torch_file(file), torch.load(file, weights_only=True)
    assert arrays.keys() == theirs.keys()
    assert all(np.array_equal(array, theirs[name].numpy()) for name, array in arrays.items())


def shapes_in_gluon(backbone: str) -> dict[str, tuple[int, ...]]:
    pytest.importorskip("mxnet", reason="the gluon extra is not installed", exc_type=ImportError)
    from ena24ssd.gluon.efficientnet import EfficientNetLite

    parameters = EfficientNetLite(backbone)._collect_params_with_prefix()
    return {name: parameter.shape for name, parameter in parameters.items()}


def shapes_in_pytorch(backbone: str) -> dict[str, tuple[int, ...]]:
    pytest.importorskip("torch", reason="the pytorch extra is not installed")
    from ena24ssd.pytorch.efficientnet import EfficientNetLite

    return {name: tuple(tensor.shape) for name, tensor in EfficientNetLite(backbone).state_dict().items()}


@pytest.mark.parametrize("shapes_in", [shapes_in_gluon, shapes_in_pytorch])
@pytest.mark.parametrize("backbone", VARIANTS)
def test_published_weights_are_what_the_network_asks_for(backbone, shapes_in):
    file_of(backbone)
    weights, shapes = read_pretrained(backbone), shapes_in(backbone)
    assert {name: array.shape for name, array in weights.items()} == {
        f"features.{name}": shape for name, shape in shapes.items()
    }
    assert {array.dtype for array in weights.values()} == {np.dtype(np.float32)}
    assert all(np.isfinite(array).all() for array in weights.values())
    assert all((array >= 0).all() for name, array in weights.items() if name.endswith("running_var"))


def maps_in_gluon(backbone: str, weights: dict[str, np.ndarray], pixels: np.ndarray) -> np.ndarray:
    mxnet = pytest.importorskip("mxnet", reason="the gluon extra is not installed", exc_type=ImportError)
    from ena24ssd.gluon.efficientnet import EfficientNetLite

    mxnet.npx.set_np()
    net = EfficientNetLite(backbone)
    net.initialize()
    for name, parameter in net._collect_params_with_prefix().items():
        parameter.set_data(mxnet.np.array(weights[name]))
    net.hybridize()
    return net(mxnet.np.array(pixels))[-1].asnumpy()


def maps_in_pytorch(backbone: str, weights: dict[str, np.ndarray], pixels: np.ndarray) -> np.ndarray:
    torch = pytest.importorskip("torch", reason="the pytorch extra is not installed")
    from ena24ssd.pytorch.efficientnet import EfficientNetLite

    net = EfficientNetLite(backbone).eval()
    net.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    with torch.inference_mode():
        return net(torch.from_numpy(pixels))[32].numpy()


UNIFORM = 652  # "military uniform"


@pytest.mark.parametrize("coarsest_map", [maps_in_gluon, maps_in_pytorch])
def test_the_network_knows_a_uniform_when_it_sees_one(coarsest_map):
    """Grace Hopper, whose portrait comes with matplotlib, seen by all of the classifier that was published."""
    cbook, backbone = pytest.importorskip("matplotlib.cbook"), "efficientnet_lite0"
    file_of(backbone)
    with Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)) as picture:
        side = min(picture.size)
        picture = picture.convert("RGB").crop((0, 0, side, side)).resize((224, 224), Image.Resampling.BICUBIC)
    pixels = ((np.asarray(picture, np.float32) - 127) / 128).transpose(2, 0, 1)[None]
    weights = {name.removeprefix("features."): array for name, array in read_pretrained(backbone).items()}
    classifier = read_classifier(backbone)
    x = np.einsum("bchw,oc->bohw", coarsest_map(backbone, weights, pixels), classifier["_conv_head.weight"][..., 0, 0])
    mean, var, gamma, beta = (
        classifier[f"_bn1.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
    )
    x = np.clip((x - mean) / np.sqrt(var + EPSILON) * gamma + beta, 0, 6).mean(axis=(2, 3))[0]
    logits = classifier["_fc.weight"] @ x + classifier["_fc.bias"]
    assert logits.argmax() == UNIFORM
    probabilities = np.exp(logits - logits.max())
    assert probabilities[UNIFORM] / probabilities.sum() > 0.25


# -- what is missing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", VARIANTS)
def test_a_missing_package_is_named_with_both_ways_out(monkeypatch, backbone):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PretrainedError) as refusal:
        read_pretrained(backbone)
    for part in (ORIGINS[backbone].package, "ena24ssd[pretrained]", "model.pretrained=false"):
        assert part in str(refusal.value)


def install(monkeypatch, folder: Path, content: bytes | None) -> Path:
    """As if a package were in ``folder``, with this as its file of Lite0."""
    file = folder / "models" / ORIGINS["efficientnet_lite0"].file
    file.parent.mkdir()
    if content is not None:
        file.write_bytes(content)
    found = SimpleNamespace(submodule_search_locations=[str(folder)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    return file


@pytest.mark.parametrize("content", [None, b"", b"something else"], ids=["no file", "an empty file", "another file"])
def test_a_file_that_is_not_the_published_one_is_refused(monkeypatch, tmp_path, content):
    file = install(monkeypatch, tmp_path, content)
    with pytest.raises(PretrainedError, match="anew") as refusal:
        read_pretrained("efficientnet_lite0")
    assert str(file) in str(refusal.value)


def test_a_file_with_one_changed_bit_is_refused_unread(monkeypatch, tmp_path):
    content = bytearray(file_of("efficientnet_lite0").read_bytes())
    content[len(content) // 2] ^= 1
    install(monkeypatch, tmp_path, bytes(content))
    monkeypatch.setattr("ena24ssd.pretrained.read_torch_file", lambda path: pytest.fail("it was read"))
    with pytest.raises(PretrainedError, match="changed or cut short"):
        read_pretrained("efficientnet_lite0")


def test_weights_need_no_framework(monkeypatch):
    file_of("efficientnet_lite0")
    for framework in ("torch", "mxnet"):
        monkeypatch.setitem(sys.modules, framework, None)  # whoever imports it fails
    assert read_pretrained("efficientnet_lite0") and read_classifier("efficientnet_lite0")
