"""Does every json file give what Python's own reader gives, or a message, and never one of two values?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ena24ssd.jsonfiles import JsonError, read_json

TEXT = st.text(alphabet='a,:"\\{é ', max_size=4)
SCALAR = st.none() | st.booleans() | st.integers(-9, 9) | TEXT
# An object is a list of its pairs behind a mark, so that a key may stand in it twice.
OBJECT = "object"


def objects(inner: st.SearchStrategy) -> st.SearchStrategy:
    return st.tuples(
        st.just(OBJECT), st.lists(st.tuples(st.sampled_from(["a", "b", "c, d"]) | TEXT, inner), max_size=3)
    )


VALUE = st.recursive(SCALAR, lambda inner: st.lists(inner, max_size=3) | objects(inner), max_leaves=12)
ROWS = st.lists(objects(SCALAR | st.lists(SCALAR, max_size=4)), max_size=4)
DOCUMENT = st.tuples(st.just(OBJECT), st.lists(st.tuples(st.sampled_from("abcd"), ROWS | VALUE), max_size=4))


def written(value: object, space: str, comma: str) -> str:
    """The value as json, with commas inside texts written as ``comma``."""
    if isinstance(value, tuple):
        pairs = (f"{written(key, space, comma)}{space}:{written(part, space, comma)}" for key, part in value[1])
        return "{" + f"{space},".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + f",{space}".join(written(part, space, comma) for part in value) + "]"
    return json.dumps(value).replace(",", comma)


def has_twins(value: object) -> bool:
    if isinstance(value, tuple):
        keys = [key for key, _ in value[1]]
        return len(set(keys)) < len(keys) or any(has_twins(part) for _, part in value[1])
    return isinstance(value, list) and any(has_twins(part) for part in value)


@settings(max_examples=600, deadline=None)
@given(value=DOCUMENT | VALUE, space=st.sampled_from(["", " ", "\n\t"]), comma=st.sampled_from([",", ",", r"\u002c"]))
def test_a_key_written_twice_is_always_found_and_nothing_else_changes(tmp_path_factory, value, space, comma):
    path = tmp_path_factory.getbasetemp() / "any.json"
    text = written(value, space, comma)
    path.write_text(text, encoding="utf-8")
    if has_twins(value):
        with pytest.raises(JsonError, match=r"(?s)^an object has the key .* twice; which value holds cannot be known"):
            read_json(path)
    else:
        assert read_json(path) == json.loads(text)


HIDDEN_TWINS = [
    ("two commas fewer in a text, as escapes, and a key twice", r'{"a": "\u002c\u002c", "b": 1, "b": 2}'),
    ("in one row of many", '{"rows": [{"id": 1, "box": [1, 2]}, {"id": 2, "id": 3, "box": [1, 2]}]}'),
    ("in place of a part of the box", '{"rows": [{"id": 1, "box": [1, 2]}, {"id": 2, "id": 3, "box": [1]}]}'),
    ("beside an empty row", '{"rows": [{"id": 1}, {}, {"id": 2, "id": 3}]}'),
    ("beside an empty list", '{"rows": [{"box": []}, {"box": [], "box": [1, 2]}]}'),
    ("one of the two spelt with an escape", r'{"a": 1, "\u0061": 2}'),
    ("deep inside", '{"info": {"a": [{"b": 1, "b": 1}]}}'),
    ("a whole list twice", '{"rows": [{"id": 1}], "rows": []}'),
]


@pytest.mark.parametrize("text", [pytest.param(text, id=sentence) for sentence, text in HIDDEN_TWINS])
def test_hidden_twins_are_found(tmp_path: Path, text: str):
    (tmp_path / "any.json").write_text(text)
    with pytest.raises(JsonError, match="twice"):
        read_json(tmp_path / "any.json")
