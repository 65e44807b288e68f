import gzip
import json

import pytest

from d2v_train.data.json_tables import read_json_table
from d2v_train.data.listing import EncodingError


ROWS = [{"text": "a", "label": 1}, {"text": "b", "label": None}]
COLUMNS = {"text": ["a", "b"], "label": [1, None]}


@pytest.mark.parametrize(
    "content",
    [
        ROWS,
        COLUMNS,
        {"data": ROWS},
        {"version": "1", "notes": ["x"], "data": ROWS},
        {"text": {"0": "a", "1": "b"}, "label": {"0": 1, "1": None}},
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_every_layout_of_json_is_a_table(tmp_path, content, indent):
    (tmp_path / "a.json").write_text(json.dumps(content, indent=indent))
    part = read_json_table(str(tmp_path / "a.json"))
    assert (part.columns, part.size, part.problems) == (COLUMNS, 2, {})


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json", "a.jsonl.gz"])
def test_objects_on_lines_with_damage_between(tmp_path, name):
    text = '\ufeff{"text": "a\\u2028\u2028b", "label": 1}\r\n\n{broken\n[1]\n{"text": "c"}'
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    part = read_json_table(str(tmp_path / name))
    assert part.columns == {"text": ["a\u2028\u2028b", None, None, "c"], "label": [1, None, None, None]}
    assert "line 3" in part.problems[1].detail and "line 4: expected an object" in part.problems[2].detail


def test_elements_of_a_list_that_are_not_objects_are_named(tmp_path):
    (tmp_path / "a.json").write_text('[{"text": "a"}, 3]')
    assert "element 1" in read_json_table(str(tmp_path / "a.json")).problems[1].detail


@pytest.mark.parametrize("content", [b"", b"[1, 2", b"hello", b"{"])
def test_files_without_any_object_say_so(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match="a.json is not a table"):
        read_json_table(str(tmp_path / "a.json"))


def test_another_encoding_is_named_with_the_line(tmp_path):
    (tmp_path / "a.jsonl").write_bytes('{"text": "a"}\n{"text": "é"}\n'.encode("latin-1"))
    with pytest.raises(EncodingError, match="Line 2 of .*a.jsonl"):
        read_json_table(str(tmp_path / "a.jsonl"))


@pytest.mark.parametrize("odd", [7, "x", None, [1]])
def test_an_odd_element_of_a_wrapped_list_is_one_bad_row(tmp_path, odd):
    (tmp_path / "a.json").write_text(json.dumps({"version": 1, "data": [{"text": "a"}, odd, {"text": "b"}]}))
    part = read_json_table(str(tmp_path / "a.json"))
    assert part.columns == {"text": ["a", None, "b"]} and "element 1" in part.problems[1].detail
