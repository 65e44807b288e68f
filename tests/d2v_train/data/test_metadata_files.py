"""Tables that describe files: separators, quotes, encodings, and rows that are not what the header says."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from media_files import write_parquet

from d2v_train.data.metadata_files import read_metadata
from d2v_train.data.tables import SourceSettings


def read(content, name="metadata.csv", **settings):
    content = content.encode() if isinstance(content, str) else content
    return read_metadata(content, name, SourceSettings(**settings))


ROWS = [("a.wav", {"label": "x"}), ("b c.wav", {"label": "y"})]


@pytest.mark.parametrize("separator", [",", ";", "|", "\t"])
@pytest.mark.parametrize("name", ["metadata.csv", "metadata.tsv", "METADATA.CSV"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_separator_is_that_of_the_header(separator, name, end):
    lines = ["file_name,label", "a.wav,x", "b c.wav,y"]
    content = "".join(line.replace(",", separator) + end for line in lines)
    assert read(content, name) == read("\ufeff" + content, name) == read(content.rstrip(), name) == ROWS


def test_a_header_may_hold_other_separators():
    assert read('label;"file_name";a, b|c\nx;a.wav;1\n') == [("a.wav", {"label": "x", "a, b|c": "1"})]
    assert read("file_name\na.wav\n") == [("a.wav", {})]
    assert read("\n\n file_name , label\na.wav,x\n") == [("a.wav", {"label": "x"})]
    assert read(",file_name,label\n0,a.wav,x\n") == [("a.wav", {"label": "x"})]


def test_quotes_count_between_commas_and_not_between_tabs_and_bars():
    assert read('file_name,text\n"a, b.wav","He said ""no"",\nthen left"\n') == [
        ("a, b.wav", {"text": 'He said "no",\nthen left'})
    ]
    for separator in "\t|":
        content = f'file_name{separator}text\na.wav{separator}"open\nb.wav{separator}closed"\n'
        assert read(content) == [("a.wav", {"text": '"open'}), ("b.wav", {"text": 'closed"'})]


@pytest.mark.parametrize(
    "content",
    [
        'file_name,text\na.wav,"open\nb.wav,one\n',
        'file_name,text\na.wav,"open\nb.wav,closed" again\n',
        'file_name;text\na.wav;"x"y\n',
    ],
)
def test_a_quote_that_would_merge_rows_is_an_error(content):
    with pytest.raises(ValueError, match="metadata.csv is not CSV.*line"):
        read(content)


def test_a_row_with_more_cells_than_the_header_is_an_error_where_they_are_read():
    content = "file_name,text\na.wav,Well, yes\nb.wav\nc.wav,z,,\n"
    with pytest.raises(ValueError, match="Row 1 of metadata.csv has 3 cells, its header 2"):
        read(content)
    with pytest.raises(ValueError, match="Row 1"):
        read(content, read_labels=False, text_column="text")
    assert [file for file, _ in read(content, read_labels=False)] == ["a.wav", "b.wav", "c.wav"]
    assert read(content.replace("Well,", "Well"))[1:] == [("b.wav", {}), ("c.wav", {"text": "z"})]


def test_a_column_that_the_header_names_twice_is_an_error():
    with pytest.raises(ValueError, match="'label' twice"):
        read("file_name,label,label\na.wav,x,y\n")


def test_other_encodings():
    content = "file_name,label\ngrün.wav,Bär\n"
    assert read(content) == read(content.encode("latin-1"), encoding="latin-1") == [("grün.wav", {"label": "Bär"})]
    assert read(content.encode("utf-16"), encoding="utf-16") == read(content.encode("utf-8-sig"))
    with pytest.raises(ValueError, match="Line 2 of metadata.csv.*`encoding`"):
        read(content.encode("cp1252"))


@pytest.mark.parametrize("column", ["file_name", "File_Name", "filename", "path", "audio_filepath", "image"])
def test_usual_names_of_the_column_of_files(column):
    assert read(f"{column},label\na.wav,x\n") == ROWS[:1]
    assert read(json.dumps({column: "a.wav", "label": "x"}), "metadata.jsonl") == ROWS[:1]


def test_lines_of_json_a_list_of_objects_and_parquet_are_the_same():
    rows = [{"file_name": file, **columns} for file, columns in ROWS]
    table = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), table)
    assert read("\n".join(map(json.dumps, rows)), "metadata.jsonl") == ROWS
    assert read(json.dumps(rows), "metadata.json") == read(table.getvalue(), "metadata.parquet") == ROWS


def test_a_table_of_something_else_is_none():
    table = io.BytesIO()
    write_parquet(table, x=[1])
    assert read(table.getvalue(), "metadata.parquet") is read('{"version": 1}', "metadata.json") is None
    assert read("name,x\na,1\n") is read('{"audio": [0.5]}', "a.jsonl") is read("[1]", "metadata.json") is None


@pytest.mark.parametrize(
    "content, name",
    [
        ("file_name,label\n,x\n", "metadata.csv"),
        ('{"file_name": "a"}\n{"label": 1}', "metadata.jsonl"),
        ('{"file_name": null}', "metadata.jsonl"),
        ("7", "metadata.jsonl"),
        ('{"file_name": ', "metadata.jsonl"),
        (b"PAR1", "metadata.parquet"),
    ],
)
def test_a_row_without_a_file_and_a_broken_file_are_errors(content, name):
    with pytest.raises(ValueError, match=name):
        read(content, name)


def test_cells_are_stripped_but_names_of_files_are_literal():
    assert read("file_name,label\n a.wav ,  cat \n") == [(" a.wav ", {"label": "cat"})]


@pytest.mark.parametrize("rows", [",,\n", "\n , ,\n\n", ",\n,,,\n", "\r\n,,\r\n"])
def test_rows_of_empty_cells_do_not_count(rows):
    content = f"file_name,label,x\na.png,cat,1\n{rows}b.png,dog,2\n{rows}"
    assert [name for name, _ in read(content)] == ["a.png", "b.png"]
    with pytest.raises(ValueError, match="Row 2 of metadata.csv has no `file_name`"):
        read("file_name,label\na.png,cat\n,dog\n")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_that_tell_themselves_and_all_line_ends(encoding, end):
    content = end.join(["file_name\tlabel", "ä.png\tgrün", ""]).encode(encoding)
    assert read(content) == [("ä.png", {"label": "grün"})]
