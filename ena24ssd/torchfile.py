"""Which arrays does a file of PyTorch's hold?

A ``.pth`` of before PyTorch 1.6: pickles one after another, then the bytes of every storage. Unpickling runs whatever a
file asks for; here it may ask for nothing but dictionaries and tensors, and those are made by this module, without
PyTorch.
"""

from __future__ import annotations

import io
import math
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
TYPES = {"FloatStorage": "<f4", "LongStorage": "<i8"}  # texts, because a pickle can change what NumPy's types are
LARGEST = 2**31  # bytes of a file, and of its arrays


class TorchFileError(ValueError):
    """A file that is not what it should be; the message says how."""


class _Storage(NamedTuple):
    key: str
    kind: str  # of `TYPES`
    size: int  # in elements


class _Tensor(NamedTuple):
    """Which part of a storage an array is."""

    storage: _Storage
    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements

    @classmethod
    def rebuild(cls, storage: Any, start: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
        """In place of ``torch._utils._rebuild_tensor_v2``."""
        whole = isinstance(storage, _Storage) and isinstance(shape, tuple) and isinstance(strides, tuple)
        if not whole or not all(isinstance(each, int) and each >= 0 for each in (start, *shape, *strides)):
            raise TorchFileError("a tensor in it is made of something else than a storage")
        if math.prod(shape) > storage.size:  # so that a few bytes cannot become many
            raise TorchFileError("a tensor in it is larger than its storage")
        return cls(storage, start, shape, strides)

    def cut(self, values: np.ndarray) -> np.ndarray:
        """The array of these values of its storage, row by row. Raises ValueError where it reaches beyond them."""
        steps = tuple(stride * values.itemsize for stride in self.strides)
        return np.ndarray(self.shape, values.dtype, values, self.start * values.itemsize, steps).copy("C")


# All that a pickle may name, and what stands in for it.
KNOWN = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _Tensor.rebuild,
    **{("torch", name): kind for name, kind in TYPES.items()},
}


class _Unpickler(pickle._Unpickler):
    """Python's own, but not the one in C: a few bytes may tell that one to reserve many gigabytes."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in KNOWN:
            raise TorchFileError(f"it asks for {f'{module}.{name}'[:80]!r}, which weights do not need")
        return KNOWN[module, name]

    def persistent_load(self, key: Any) -> _Storage:
        if not (isinstance(key, tuple) and len(key) == 6 and key[0] == "storage" and key[5] is None):
            raise TorchFileError("it refers to something else than a storage")
        _, kind, name, _, size, _ = key
        if not (kind in TYPES.values() and isinstance(name, str) and isinstance(size, int) and size >= 0):
            raise TorchFileError("it refers to a storage of an unknown kind")
        return _Storage(name, kind, size)


def read_torch_file(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file that ``torch.save`` wrote of a state dict in its old format, float32 and int64.

    Nothing in the file is executed. Raises TorchFileError for any other file, and OSError where it cannot be read.
    """
    if path.stat().st_size > LARGEST:
        raise TorchFileError(f"{path}: has {path.stat().st_size:,} bytes, and {LARGEST:,} are read at most")
    file = io.BytesIO(path.read_bytes())
    try:
        magic, protocol, _, tensors, keys = (_Unpickler(file).load() for _ in range(5))
        if (magic, protocol) != (MAGIC, PROTOCOL):
            raise TorchFileError("it is not in PyTorch's format of before 1.6")
        return _take_arrays(tensors, keys, file)
    except TorchFileError as fault:
        raise TorchFileError(f"{path}: {fault}") from fault
    except Exception as fault:  # a damaged pickle raises nearly anything
        said = " ".join(str(fault).split())[:200]
        raise TorchFileError(f"{path}: is damaged, or no file of PyTorch's ({said})") from fault


def _take_arrays(tensors: Any, keys: Any, file: io.BytesIO) -> dict[str, np.ndarray]:
    """The tensors by name, of the storages that follow in the order of ``keys``: a number of elements, and those."""
    if not isinstance(tensors, dict) or not all(isinstance(each, _Tensor) for each in tensors.values()):
        raise TorchFileError("it holds something else than named tensors")
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    if not all(isinstance(name, str) and each.storage == storages[each.storage.key] for name, each in tensors.items()):
        raise TorchFileError("its tensors have no names, or do not agree about their storages")
    if not isinstance(keys, list) or sorted(keys) != sorted(storages):
        raise TorchFileError("its storages are not those of its tensors")
    sizes = (math.prod(tensor.shape) * np.dtype(tensor.storage.kind).itemsize for tensor in tensors.values())
    if sum(sizes) > LARGEST:
        raise TorchFileError(f"its tensors have more than {LARGEST:,} bytes")
    content, place, values = file.getbuffer(), file.tell(), {}
    for key in keys:
        kind, size = np.dtype(storages[key].kind), storages[key].size
        if int.from_bytes(content[place : place + 8], "little") != size:
            raise TorchFileError(f"storage {key[:40]!r} is not as long as its tensors say")
        values[key] = np.frombuffer(content, kind, size, place + 8)
        place += 8 + size * kind.itemsize
    return {name: tensor.cut(values[tensor.storage.key]) for name, tensor in tensors.items()}
