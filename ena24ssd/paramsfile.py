"""Which arrays are in an MXNet .params file?

MXNet's own reader believes whatever the file says: a few patched bytes let it take 23 GB. This one needs no MXNet, adds
up every number before it acts on it, and refuses what does not come out even. It knows what `net.export` and
`save_parameters` of MXNet 1.x write for a network of dense float32 arrays, and nothing else
(apache/mxnet 1.9, src/ndarray/ndarray.cc).
"""

from __future__ import annotations

import math
import struct

import numpy as np

LIST_MAGIC = 0x112
ARRAY_MAGICS = (0xF993FAC9, 0xF993FACA)  # NDARRAY_V2; NDARRAY_V3, written in NumPy mode
DENSE = 0  # storage type
FLOAT32 = 0  # type flag
MOST_ARRAYS = 100_000  # Python needs more for an array than the file does
MOST_DIMENSIONS = 32  # NumPy's own limit before 2.0


class ParamsError(ValueError):
    """Bytes that are no whole .params file; the message says at which byte, what, and the way out."""


def read_params(content: bytes) -> dict[str, np.ndarray]:
    """The arrays of a .params file by the names in it (``arg:conv0_weight``, ``aux:batchnorm0_running_mean``).

    Arrays are float32, copied out of ``content``; together they take no more memory than it does. Raises ParamsError.
    """
    cursor = _Cursor(content)
    if cursor.number("<Q", "the magic number") != LIST_MAGIC:
        raise ParamsError(
            "does not begin as a .params file of MXNet does; name the one that net.export or 'ena24ssd export' wrote"
        )
    if cursor.number("<Q", "a reserved number") != 0:
        raise cursor.fault("the reserved number is not 0")
    arrays = [_read_array(cursor) for _ in range(cursor.count("arrays"))]
    names = cursor.count("names")
    if names != len(arrays):
        raise cursor.fault(f"there are {len(arrays)} arrays and {names} names; every array must have one")
    found: dict[str, np.ndarray] = {}
    for array in arrays:
        name = _read_name(cursor)
        if name in found:
            raise cursor.fault(f"the name {name[:80]!r} is there twice")
        found[name] = array
    if cursor.left:
        raise cursor.fault(f"{cursor.left} more bytes follow after the last name")
    return found


class _Cursor:
    """A place in the bytes, which never leaves them."""

    def __init__(self, content: bytes):
        self._content, self._place = content, 0

    @property
    def left(self) -> int:
        return len(self._content) - self._place

    def fault(self, what: str) -> ParamsError:
        return ParamsError(f"at byte {self._place} {what}; it is damaged or made by hand: export again")

    def take(self, size: int, what: str) -> memoryview:
        if size > self.left:
            raise self.fault(f"{what} should take {size} bytes, and {self.left} are left")
        self._place += size
        return memoryview(self._content)[self._place - size : self._place]

    def number(self, kind: str, what: str) -> int:
        return struct.unpack(kind, self.take(struct.calcsize(kind), what))[0]

    def count(self, what: str) -> int:
        count = self.number("<Q", f"the number of {what}")
        if count > MOST_ARRAYS:
            raise self.fault(f"the number of {what} is {count}; a network has {MOST_ARRAYS:,} at most")
        return count


def _read_array(cursor: _Cursor) -> np.ndarray:
    magic = cursor.number("<I", "an array's magic number")
    if magic not in ARRAY_MAGICS:
        raise cursor.fault(f"an array has the magic number {magic:#x}, which MXNet 1.5 to 1.9 do not write")
    storage = cursor.number("<i", "an array's storage type")
    if storage != DENSE:
        raise cursor.fault(f"an array has storage type {storage}; this network's are all dense (0)")
    dimensions = cursor.number("<i", "an array's number of dimensions")
    if not 0 < dimensions <= MOST_DIMENSIONS:
        raise cursor.fault(f"an array has {dimensions} dimensions; one has 1 to {MOST_DIMENSIONS}")
    shape = struct.unpack(f"<{dimensions}q", cursor.take(8 * dimensions, "an array's shape"))
    if min(shape) < 1:
        raise cursor.fault(f"an array has the shape {shape}; sides are 1 or more")
    cursor.take(8, "an array's device")  # the type and number of the one it was on; a file is on none
    kind = cursor.number("<i", "an array's type")
    if kind != FLOAT32:
        raise cursor.fault(f"an array has the type number {kind}; weights are float32 (0)")
    values = cursor.take(4 * math.prod(shape), f"an array of shape {shape}")
    return np.frombuffer(values, dtype="<f4").reshape(shape).astype(np.float32)


def _read_name(cursor: _Cursor) -> str:
    size = cursor.number("<Q", "the length of a name")
    raw = cursor.take(size, "a name")
    try:
        return str(raw, "utf-8")
    except UnicodeDecodeError as error:
        raise cursor.fault(f"the name {bytes(raw[:40])!r} is no text") from error
