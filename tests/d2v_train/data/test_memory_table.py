import pytest

from d2v_train.data.bad_samples import BadSample
from d2v_train.data.memory_table import MemoryTable, TablePart
from d2v_train.data.tables import ColumnNotFoundError


def test_parts_are_joined_by_the_names_of_their_columns():
    bad = BadSample("unreadable", "b.csv, line 2")
    parts = [TablePart("x/a.csv", {"a": ["1", ""], "b": ["u", "v"]}, 2)]
    parts += [TablePart("y/b.csv", {"b": [None, "w"]}, 2, {0: bad}), TablePart("z/c.csv", {}, 1, {0: bad})]
    rows = MemoryTable(parts, is_untyped=True)
    assert len(rows) == 5 and rows.column("a") == ["1", "", None, None, None] and rows.problems() == {2: bad, 4: bad}
    rows.columns = ["b", "a"]
    assert rows[0] == ("u", "1") and rows[1] == ("v", None) and rows[3] == ("w", None) and rows.folder(3) == "y"
    with pytest.raises(BadSample, match="line 2"):
        rows[2]
    with pytest.raises(IndexError):
        rows[5]
    rows.check(["b"])
    with pytest.raises(ColumnNotFoundError, match=r"'a' in y/b\.csv"):
        rows.check(["a"])


def test_columns_of_text_are_numbers_if_all_cells_are_unless_their_name_says_text():
    cells = {"idx": ["1", "2.5", ""], "text": ["1", "2", "3"], "word": ["1", "nan", ""], "none": ["", "", " "]}
    schema = MemoryTable([TablePart("a.csv", cells, 3)], is_untyped=True).schema
    assert {name: column.type for name, column in schema.items()} == {
        "idx": "number",
        "text": "string",
        "word": "string",
        "none": "string",
    }


def test_columns_of_values_are_what_most_cells_are():
    cells = {"a": ["x", None, "y", 3], "b": [1, 2.5, None, None], "c": [{}, None, {}, {}], "d": [[1], [2], [], None]}
    schema = MemoryTable([TablePart("a.json", cells | {"e": [None] * 4, "f": [True] * 4}, 4)]).schema
    assert [column.type for column in schema.values()] == ["string", "number", "struct", "list", "null", "boolean"]


def test_the_stamp_changes_with_the_files_and_paths_have_no_identity(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a\nx\n")
    rows = MemoryTable([TablePart(str(path), {"a": ["x"]}, 1)])
    rows.columns = ["a"]
    before = rows.identity
    path.write_text("a\nlonger\n")
    assert before != rows.identity is not None
    rows.finish = lambda cells, folder: cells[0]
    assert rows.identity is None, "the files that a table names may change while it does not"
