"""Is this checkpoint whole, and which arrays does it hold?

A safetensors file: named arrays and a few words in its header. Nothing in it is executed. A digest in the header covers
the rest, so that a byte that went bad on the disk is noticed on reading and not three epochs later.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from ena24ssd.files import replace_file

DIGEST = "digest"


class CheckpointError(ValueError):
    """A file that is no whole checkpoint; the message says which, why, and the way out."""


def write_checkpoint(path: Path, arrays: Mapping[str, np.ndarray], notes: Mapping[str, str]) -> None:
    """Put arrays and notes under ``path``, whole or not at all."""
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    sealed = {**notes, DIGEST: _digest(arrays, notes)}
    replace_file(path, safetensors.numpy.save(arrays, metadata=sealed))


def read_checkpoint(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and notes of `write_checkpoint`. Raises CheckpointError if the file is missing or damaged."""
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such checkpoint; did the run get that far?")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            notes = dict(file.metadata() or {})
            names = file.keys()  # the file is no mapping: it cannot be iterated itself
            arrays = {name: file.get_tensor(name) for name in names}
    except (safetensors.SafetensorError, OSError, TypeError, ValueError) as fault:
        raise CheckpointError(f"{path}: not a whole safetensors file ({fault}); copy it anew or train again") from fault
    if notes.pop(DIGEST, None) != _digest(arrays, notes):
        raise CheckpointError(
            f"{path}: its content does not match its digest, so some of it went bad on the disk or was changed; "
            "copy it anew or train again"
        )
    return arrays, notes


def _digest(arrays: Mapping[str, np.ndarray], notes: Mapping[str, str]) -> str:
    digest = hashlib.sha256()
    for name in sorted(notes):
        digest.update(repr((name, notes[name])).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(repr((name, array.shape, array.dtype.str)).encode())
        digest.update(array.reshape(-1).view(np.uint8))
    return digest.hexdigest()
