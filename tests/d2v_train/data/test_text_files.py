from d2v_train.data.tables import SourceSettings
from d2v_train.data.text_files import open_text_files


def test_blank_lines_separate_the_documents_of_a_text_file(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\ntwo\r\n\r\nthree\n")
    table = open_text_files(tmp_path, "train", SourceSettings(), (".txt", ".jsonl"))
    assert [table.values[row] for row in range(2)] == [b"one\ntwo", b"three"]
    assert table.values.names == ["a.txt, document 1", "a.txt, document 2"]
