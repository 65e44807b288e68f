"""The tokenizer of a run is trained on its texts, kept, and replaced only where no checkpoint needs it."""

import pytest
import yaml

from d2v_train.data.records import RawDataset, open_dataset
from d2v_train.data.tables import Table
from d2v_train.inputs.byte_tokens import byte_tokenizer, reads_bytes
from d2v_train.inputs.tokenizer import build_tokenizer
from d2v_train.options.errors import OptionError
from d2v_train.options.files import load_options
from d2v_train.pretraining.run_tokenizer import _first_texts, prepare_tokenizer
from d2v_train.runs.checkpoints import CheckpointFolder


def test_what_is_bad_for_a_new_tokenizer_is_not_said(tmp_path, caplog):
    options = load_options("tiny_text", [])
    documents = RawDataset("text", Table(["some words", b"\xe9", "more words"] * 4))
    prepare_tokenizer(options, documents, tmp_path / "tokenizer")
    assert documents.bad.total == 4 and "Bad text" not in caplog.text


def text_options(tmp_path):
    tree = {"output_dir": str(tmp_path / "run"), "text": {"batch_size": 2},
            "model": {"text_config": {"vocab_size": 300}}}  # fmt: skip
    (tmp_path / "text.yaml").write_text(yaml.safe_dump(tree))
    return load_options(tmp_path / "text.yaml")


def documents(tmp_path, word):
    path = tmp_path / f"{word}.txt"
    path.write_text("\n\n".join(f"{word} {number} {word}{word}" for number in range(30)))
    return open_dataset("text", str(path))


def spelled(tokenizer):
    return tokenizer.backend_tokenizer.to_str()


@pytest.mark.parametrize("left_over", ["whole", "empty", "config only", "half", "draft"])
def test_left_over_tokenizer_is_replaced_unless_the_run_has_a_checkpoint(tmp_path, left_over):
    options, folder = text_options(tmp_path), tmp_path / "run" / "tokenizer"
    old, new = documents(tmp_path, "old"), documents(tmp_path, "new")
    first = prepare_tokenizer(options, old, folder)
    assert spelled(prepare_tokenizer(options, new, folder, write=False)) == spelled(first), "another process reads it"
    if left_over == "draft":
        folder.rename(folder.with_name(".tokenizer.draft"))
    for path in folder.glob("*"):
        if left_over == "empty" or (left_over == "config only" and path.name != "tokenizer_config.json"):
            path.unlink()
        elif left_over == "half":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    second = prepare_tokenizer(options, new, folder)
    assert spelled(second) != spelled(first)

    CheckpointFolder(tmp_path / "run" / "checkpoints").save(1, {}, {}, {})
    assert spelled(prepare_tokenizer(options, old, folder)) == spelled(second)
    for path in folder.glob("*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert spelled(prepare_tokenizer(options, new, folder)) == spelled(second), "made again from the same data"


def test_parts_of_long_documents_count_as_one_up_to_a_number_of_characters(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("d2v_train.data.text_lines.PART_BYTES", 100)
    (tmp_path / "a.txt").write_text("\n\n".join(["one and two " * 50, "three and four " * 50, "five and six " * 50]))
    dataset = open_dataset("text", str(tmp_path))
    texts = list(_first_texts(dataset, 2, 10_000))
    assert " ".join(texts) == ("one and two " * 50 + "three and four " * 50).strip() and len(texts) > 8
    caplog.set_level("INFO")
    assert 150 <= len(" ".join(_first_texts(dataset, 2, 150))) <= 260
    assert f"on the first 2 of {len(dataset)} samples" in caplog.text


def byte_options(tmp_path, **text):
    tree = {"output_dir": str(tmp_path / "run"), "text": {"batch_size": 2, **text},
            "model": {"text_config": {"front_end": "perceiver"}}}  # fmt: skip
    (tmp_path / "bytes.yaml").write_text(yaml.safe_dump(tree))
    return load_options(tmp_path / "bytes.yaml")


def test_the_front_end_of_raw_elements_reads_bytes(tmp_path):
    options, folder = byte_options(tmp_path), tmp_path / "run" / "tokenizer"
    tokenizer = prepare_tokenizer(options, documents(tmp_path, "old"), folder)
    assert reads_bytes(tokenizer) and len(tokenizer) == 259
    assert [path.name for path in folder.iterdir()] == ["tokenizer_config.json"]
    CheckpointFolder(tmp_path / "run" / "checkpoints").save(1, {}, {}, {})
    assert reads_bytes(prepare_tokenizer(options, documents(tmp_path, "new"), folder))


def test_a_tokenizer_of_words_is_refused_for_bytes(tmp_path):
    build_tokenizer(["words"] * 9, 300).save_pretrained(tmp_path / "words")
    options = byte_options(tmp_path, tokenizer=str(tmp_path / "words"))
    with pytest.raises(OptionError, match="reads bytes. Set text.tokenizer=null"):
        prepare_tokenizer(options, documents(tmp_path, "old"), tmp_path / "run" / "tokenizer")
    byte_tokenizer().save_pretrained(tmp_path / "bytes")
    options = byte_options(tmp_path, tokenizer=str(tmp_path / "bytes"))
    assert reads_bytes(prepare_tokenizer(options, documents(tmp_path, "old"), tmp_path / "run" / "tokenizer"))
