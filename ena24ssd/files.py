"""How does a file appear whole or not at all?"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary file that takes the place of ``path`` once it is whole; until then, and after a failure, ``path`` is as
    it was. Makes the folder where it is missing.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; name a file in it")
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.touch(exist_ok=False)
    except OSError as error:
        raise OSError(f"{path}: cannot be written ({error.strerror}); name another place") from error
    try:
        with naming(path), unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the new name on an empty file
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Where the system says what failed but not on which file, as a full disk does, say that it was ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def replace_file(path: Path, content: bytes | str) -> None:
    """Put ``content`` (text as UTF-8) under ``path`` in one step."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)
