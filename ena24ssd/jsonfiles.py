"""What does a json file made by other hands say?

`read_json` takes any Unicode encoding that says so at its start, and refuses what Python's own reader lets pass in
silence: one key written twice, where the last would win.
"""

from __future__ import annotations

import codecs
import json
import os
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

BYTE_ORDER_MARKS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (b"", "utf-8"),
)


class JsonError(ValueError):
    """A file that cannot be read as json; the message says where in the file, why, and the way out."""


def read_json(path: str | os.PathLike[str]) -> Any:
    """The value that a json file holds. ``NaN`` and ``Infinity`` pass, as many programs write them.

    Raises JsonError; its message does not name the file.
    """
    text = _decode(_bytes(path))
    try:
        value = json.loads(text)
        if _surely_without_twins(value, text):
            return value
        del value
        return json.loads(text, object_pairs_hook=_one_value_per_key)
    except JsonError:
        raise
    except RecursionError as error:
        raise JsonError("lists or objects are nested too deeply to be read; a few levels are all it needs") from error
    except ValueError as error:  # JSONDecodeError, or an integer of thousands of digits
        raise JsonError(
            f"is not valid json ({error}); "
            "mend it there, or download or export it again if it was cut short or is a web page"
        ) from error


def _bytes(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise JsonError(f"cannot be read ({error}); name the json file itself") from error


def _decode(raw: bytes) -> str:
    mark, encoding = next(pair for pair in BYTE_ORDER_MARKS if raw.startswith(pair[0]))
    try:
        return str(memoryview(raw)[len(mark) :], encoding)
    except UnicodeDecodeError as error:
        offset = len(mark) + error.start
        before = raw[max(len(mark), offset - 24) : offset].decode(encoding, "replace")
        raise JsonError(
            f"byte {offset} (0x{raw[offset]:02x}, after {before!r}) is not {encoding}; "
            "the file must be Unicode text: open it with the encoding it was written in and save it as UTF-8"
        ) from error


# Asking about every object while it is read makes the reading a third slower. So the commas are counted first: written
# without a key twice, a value takes a known number of them, and each key that is there again takes one more.


def _surely_without_twins(value: Any, text: str) -> bool:
    """Whether the commas of a text prove that no object in it has a key twice; False is no proof that one has."""
    if "\\u002" in text:  # a comma inside a text may be written as \u002c, and then is none to count
        return False
    written = text.count(",")
    return written == _commas_of_rows(value) or written == _commas(value)


def _commas_of_rows(document: Any) -> int:
    """What `_commas` says of an object with lists of flat rows, at a tenth of the cost; of anything else, no more."""
    if type(document) is not dict:
        return -1
    commas = len(document) - 1
    for rows in document.values():
        if type(rows) is list and set(map(type, rows)) == {dict}:
            commas += sum(map(len, rows)) - 1
            for key in [key for key, value in rows[0].items() if type(value) is list]:
                commas += sum([len(value) - 1 for row in rows if type(value := row.get(key)) is list])
        else:
            commas += _commas(rows)
    return commas


def _commas(value: Any) -> int:
    """How many commas it takes to write a value: between the parts of objects and lists, and inside texts."""
    commas, parts = 0, [value]
    while parts:
        objects = [part for part in parts if type(part) is dict and part]
        lists = [part for part in parts if type(part) is list and part]
        commas += sum(map(len, objects)) - len(objects) + sum(map(len, lists)) - len(lists)
        commas += "".join([part for part in parts if type(part) is str]).count(",")
        commas += sum(key.count(",") * often for key, often in Counter(chain.from_iterable(objects)).items())
        parts = [*chain.from_iterable(map(dict.values, objects)), *chain.from_iterable(lists)]
    return commas


def _one_value_per_key(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
    raise JsonError(f"an object has the key {twice[:80]!r} twice; which value holds cannot be known: delete one")
