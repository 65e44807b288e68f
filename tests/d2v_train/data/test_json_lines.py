"""Lines of JSON: what is in them, and which of their fields are the text."""

import pytest

from d2v_train.data.bad_samples import BadSample
from d2v_train.data.json_lines import choose_fields, parse_line, pick_fields
from d2v_train.data.tables import SourceSettings, UnclearColumnError


def test_a_line_is_any_value_and_a_broken_one_an_error_to_raise():
    assert parse_line('{"text": "a\\u2028b"}\r') == {"text": "a\u2028b"} and parse_line('"a\u2028b"') == "a\u2028b"
    for line in ('{"text": "cut', "[" * 100_000, "{'text': 1}"):
        broken = parse_line(line)
        assert isinstance(broken, BadSample) and broken.reason == "unreadable"


def test_fields_are_found_by_name_and_type():
    objects = [{"id": 1, "text": None}, {"id": 2, "text": "a", "label": "x", "speaker": 7}]
    choice = choose_fields(objects, SourceSettings(), "a.jsonl")
    assert pick_fields(objects[0], choice) == {"value": None}
    assert pick_fields(objects[1], choice) == {"value": "a", "label": "x", "group": "7"}
    pair = choose_fields([{"premise": "a", "hypothesis": "b"}], SourceSettings(), "a.jsonl")
    assert pick_fields({"premise": "a", "hypothesis": "b"}, pair) == {"value": ("a", "b")}
    with pytest.raises(UnclearColumnError, match="a.jsonl"):
        choose_fields([{"one": "a", "two": "b"}], SourceSettings(), "a.jsonl")
