"""Folders of text: which files are read, as which split, and what becomes of the others."""

import gzip
import json

import pytest

from d2v_train.data.records import open_dataset
from d2v_train.data.tables import SourceSettings, SplitNotFoundError
from d2v_train.data.text_files import open_text_files, split_of_name, training_kinds


SUFFIXES = (".txt", ".text", ".jsonl", ".ndjson")


def write(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def read(root, split="train", **settings):
    """Texts in memory, which must be those of a stream."""
    found = []
    for block in (None, 2):
        dataset = open_dataset("text", str(root), split, stream_block=block, cache=False, **settings)
        found.append([dataset.load(index)["text"] for index in range(len(dataset))])
        assert dataset.inventory.files == len([path for path in root.rglob("*") if path.is_file()])
    assert found[0] == found[1]
    return found[0]


def test_blank_lines_separate_the_documents_of_a_text_file(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\ntwo\r\n\r\nthree\n")
    table = open_text_files(tmp_path, "train", SourceSettings(), (".txt", ".jsonl"))
    assert [table.values[row].strip() for row in range(2)] == ["one\ntwo", "three"]
    assert list(table.values.names) == ["a.txt, document 1", "a.txt, document 2"]


def test_a_document_is_a_paragraph_a_line_or_a_file(tmp_path):
    write(tmp_path, {"a.txt": "one\n\ntwo\nthree\n", "b.txt": "  four\n"})
    assert read(tmp_path) == ["one", "two\nthree", "four"]
    assert read(tmp_path, documents="lines") == ["one", "two", "three", "four"]
    assert read(tmp_path, documents="files") == ["one\n\ntwo\nthree", "four"]
    table = open_text_files(tmp_path, "train", SourceSettings(documents="lines"), SUFFIXES)
    assert list(table.values.names) == ["a.txt, line 1", "a.txt, line 3", "a.txt, line 4", "b.txt, line 1"]
    assert "a document a line" in table.inventory.layout
    with pytest.raises(ValueError, match="documents is 'sentences'; it must be one of paragraphs, lines, files"):
        SourceSettings(documents="sentences")


@pytest.mark.parametrize(
    "names",
    [
        ["test_plan.txt", "dev_notes.txt", "Val_d_Isere.txt", "novel.txt"],
        ["the test.txt", "eval.2024.txt", "trained.txt", "devil.txt", "latest.txt"],
        ["test_1.txt", "test_2.txt", "dev-7.txt"],
        ["my_test.txt", "your_train.txt", "a.validation.jsonl"],
        ["novels/a.txt", "test/b.txt", "poems/c.txt"],
        ["books/my_tests/a.txt", "devices/test_plan/b.txt", "validity/c.txt"],
    ],
)
def test_words_in_names_make_no_split(tmp_path, names):
    write(tmp_path, {name: '"a text"' for name in names})
    assert len(read(tmp_path)) == len(names)
    with pytest.raises(SplitNotFoundError, match="It has: train"):
        open_dataset("text", str(tmp_path), "test")


@pytest.mark.parametrize(
    "files",
    [
        {"train": ["train.txt", "more.txt"], "test": ["test.txt"], "dev": ["dev.jsonl"]},
        {"train": ["TRAIN.TXT"], "validation": ["Validation.txt.gz"]},
        {"train": ["train-00000-of-00002.txt", "train-00001-of-00002.txt"], "test": ["test-00000-of-00001.txt"]},
        {"train": ["train_1.txt", "train_2.txt", "x.txt"], "test": ["test_1.txt"]},
        {"train": ["wiki.train.txt", "test_plan.txt"], "valid": ["wiki.valid.txt"], "test": ["wiki.test.txt"]},
        {"train": ["train/a.txt", "Train/b/test.txt"], "test": ["TEST/a.txt"]},
        {"train": ["train/a.txt"], "dev": ["dev/a.txt"], "extra": ["extra/a.txt"]},
        {"train": ["train/a.txt"], "test": ["test.txt"]},
        {"train": ["books/my/train/a.txt"], "test": ["books/my/test/train.txt"]},
        {"train-clean": ["train-clean/a.txt"], "test-other": ["test-other/a.txt"]},
        {"train": ["a/train.txt", "b/c.txt"], "test": ["a/test.txt"]},
    ],
)
def test_whole_names_shards_and_folders_are_splits(tmp_path, files):
    for names in files.values():
        for name in names:
            content = json.dumps(name.lower()).encode()
            write(tmp_path, {name: gzip.compress(content) if name.endswith(".gz") else content})
    for split, names in files.items():
        texts = [json.loads(text) if text.startswith('"') else text for text in read(tmp_path, split)]
        assert sorted(texts) == sorted(name.lower() for name in names)
    layout = open_dataset("text", str(tmp_path), "train").inventory.layout
    assert all(f"; {split}: " in layout for split in files)


def test_files_beside_folders_of_splits_are_left_out(tmp_path):
    write(tmp_path, {"train/a.txt": "one", "dev/a.txt": "two", "notes.txt": "x", "test.txt": "three"})
    assert read(tmp_path) == ["one"] and read(tmp_path, "dev") == ["two"] and read(tmp_path, "test") == ["three"]
    (reason,) = open_dataset("text", str(tmp_path)).inventory.left_out
    assert "beside the folders of the splits (dev, train)" in reason


def test_a_split_of_several_folders_is_all_of_them(tmp_path):
    write(tmp_path, {"train-a/x.txt": "one", "train-b/x.jsonl": '"two"', "test-a/x.txt": "three"})
    assert read(tmp_path) == ["one", "two"] and read(tmp_path, "train-b") == ["two"]


def test_a_number_or_a_word_before_needs_a_training_file_of_its_kind():
    beside = training_kinds(["train_1", "wiki.train", "other"])
    assert split_of_name("test_3", beside) == "test" and split_of_name("wiki.dev", beside) == "dev"
    assert split_of_name("wiki.test_3", beside) is None and split_of_name("my.test", beside) is None
    assert split_of_name("test") == "test" and split_of_name("test-00001-of-00002") == "test"
    assert split_of_name("test_1") is split_of_name("test-of-2") is split_of_name("testing") is None


def test_every_file_is_read_or_named_with_the_reason(tmp_path):
    files = {
        "a.txt": "one", "b.TXT": "two", "c.text": "three", "d.ndjson": '"four"\n', "e.txt.gz": gzip.compress(b"five"),
        "e/f.jsonl.GZ": gzip.compress(b'{"text": "six"}'), "README": "x", "readme.txt": "x", "e/README.md": "x",
        "empty.txt": "", "blank.txt": " \n\r\n\t\n", "mark.txt": b"\xef\xbb\xbf", "notes.md": "x", "picture.png": "x",
        "f.txt.zst": "x", "g.jsonl.zip": "x", "broken.txt.gz": "x", "wide.txt": "plain words".encode("utf-16-le"),
    }  # fmt: skip
    write(tmp_path, files)
    assert sorted(read(tmp_path)) == sorted(["one", "two", "three", "four", "five", "six"])
    inventory = open_dataset("text", str(tmp_path)).inventory
    reasons = {name: reason for reason, names in inventory.left_out.items() for name in names}
    expected = {
        "README": "a README", "readme.txt": "a README", "e/README.md": "a README", "empty.txt": "empty",
        "blank.txt": "empty", "mark.txt": "empty", "notes.md": "not a text file by its suffix",
        "picture.png": "pictures in a source of texts", "f.txt.zst": "zstd -d", "g.jsonl.zip": "unzip",
        "broken.txt.gz": "cannot be read (BadGzipFile)", "wide.txt": "set the option `encoding` to utf-16-le",
    }  # fmt: skip
    assert reasons.keys() == expected.keys()
    assert all(expected[name] in reason for name, reason in reasons.items())
    assert sorted(inventory.used) == sorted(files.keys() - expected.keys()) and inventory.samples == {"train": 6}


def test_files_without_text_are_an_error_that_names_them(tmp_path):
    write(tmp_path, {"a.txt": "", "b.jsonl": "\n\n"})
    for block in (None, 2):
        with pytest.raises(ValueError, match=r"There is no text in (.|\n)*empty: 2 \(a.txt, b.jsonl\)"):
            open_dataset("text", str(tmp_path), stream_block=block)


def test_a_file_that_is_named_is_read_whatever_it_is_called(tmp_path):
    write(tmp_path, {"README.txt": "one", "test.txt": "two", "c.jsonl": '{"text": "three"}'})
    for name, text in (("README.txt", "one"), ("test.txt", "two"), ("c.jsonl", "three")):
        assert open_dataset("text", str(tmp_path / name))[0]["text"] == text


def test_the_encoding_is_an_option_of_plain_text_and_json(tmp_path):
    lines = '{"text": "caf\xe9"}\n{"text": "na\xefve \x85"}\n'
    write(tmp_path, {"a.txt": "\xe9l\xe8ve\r\n\r\nzwei".encode("latin-1"), "b.jsonl": lines.encode("latin-1")})
    assert read(tmp_path, encoding="latin-1") == ["\xe9l\xe8ve", "zwei", "caf\xe9", "na\xefve"]
    write(tmp_path, {"a.txt": "\xe9l\xe8ve\n\nzwei".encode("utf-16-le"), "b.jsonl": lines.encode("utf-16")})
    assert read(tmp_path, encoding="utf-16-le") == ["\xe9l\xe8ve", "zwei", "caf\xe9", "na\xefve"]


def test_a_long_document_is_noted_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("d2v_train.data.text_lines.PART_BYTES", 1000)
    write(tmp_path, {"a.txt": "A sentence a line.\n" * 200, "b.txt": "short\n"})
    for block in (None, 4):
        dataset = open_dataset("text", str(tmp_path), stream_block=block)
        assert len(dataset) == 5 and dataset.name_of(1) == "a.txt, document 1, part 2"
        (note,) = dataset.inventory.notes
        assert note.startswith("a.txt, document 1 is 3.7 KiB long, which is read in 4 parts; there is no blank line")
        assert "documents=lines" in note and note in "\n".join(dataset.inventory.lines())
        assert len(open_dataset("text", str(tmp_path), stream_block=block, documents="lines")) == 201


def test_labels_of_json_lines_are_those_of_all_splits(tmp_path):
    write(tmp_path, {"train.jsonl": '{"text": "a", "label": "y"}\n', "test.jsonl": '{"text": "b", "label": "x"}\n'})
    write(tmp_path, {"plain.txt": "no label"})
    dataset = open_dataset("text", str(tmp_path))
    assert dataset.label_names == ["x", "y"] and dataset.labels.tolist() == [-1, 1]
    assert open_dataset("text", str(tmp_path), read_labels=False).labels is None


@pytest.mark.parametrize("labels", [[[0, 1], [1]], [None, ["a", "b"]], [{"a": 1}, 3], [True, "x"]])
def test_labels_of_any_kind_do_not_matter_without_them(tmp_path, labels):
    lines = [json.dumps({"text": f"text {number}", "label": label}) for number, label in enumerate(labels)]
    write(tmp_path, {"a.jsonl": "\n".join(lines)})
    assert read(tmp_path, read_labels=False) == ["text 0", "text 1"]
