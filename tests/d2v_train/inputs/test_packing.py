"""Packing: documents become blocks of tokens, in memory or on disk, made once."""

import numpy as np
import pytest
from broken_data import write_texts

from d2v_train.data.records import RawDataset, open_dataset
from d2v_train.data.report import DataReport
from d2v_train.data.tables import Table
from d2v_train.inputs.packing import PackedTextDataset, _batches
from d2v_train.inputs.tokenizer import build_tokenizer


def test_tokens_that_another_run_kept_come_with_what_it_met(tmp_path):
    reasons = write_texts(tmp_path / "text")
    tokenizer = build_tokenizer(["a few words"], 300)
    reports = []
    for _ in range(2):
        documents = open_dataset("text", str(tmp_path / "text"), stream_block=8)
        report = DataReport()
        PackedTextDataset(documents, tokenizer, 8, tmp_path / "tokens", report)
        reports.append(report)
    assert {record.name: record.reason for record in reports[0].bad.values()} == reasons
    assert reports[0].bad == reports[1].bad and reports[0].draws == reports[1].draws == {"text": 43}
    assert reports[0].bad_draws == reports[1].bad_draws == {"text": 6}


DOCUMENTS = [f"document {word} speaks of {word} and of nothing else" for word in ("one", "two", "three", "four")]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(DOCUMENTS * 3, 320)


def test_blocks_hold_all_documents_in_order(tokenizer):
    data = RawDataset("text", Table([DOCUMENTS[0], "", *DOCUMENTS[1:]]))
    packed = PackedTextDataset(data, tokenizer, 10)
    blocks = [packed[i]["input_ids"] for i in range(len(packed))]
    assert {len(block) for block in blocks} == {10}
    assert all(block[0] == 0 and block[-1] == 2 for block in blocks)
    stream = [token for text in DOCUMENTS for token in [*tokenizer(text, add_special_tokens=False)["input_ids"], 2]]
    body = np.concatenate([block[1:-1] for block in blocks])
    assert body.tolist() == stream[: len(body)] and len(stream) - len(body) < 8
    assert data.bad.counts() == {"empty": 1}
    assert packed[-1]["id"] == len(packed) - 1
    with pytest.raises(IndexError):
        packed[len(packed)]


def test_too_little_text_gives_one_short_block(tokenizer):
    packed = PackedTextDataset(RawDataset("text", Table(["one"])), tokenizer, 500)
    assert len(packed) == 1 and len(packed[0]["input_ids"]) < 20
    with pytest.raises(ValueError, match="2 documents"):
        PackedTextDataset(RawDataset("text", Table(["", " "])), tokenizer, 500)
    with pytest.raises(ValueError, match="at least 3"):
        PackedTextDataset(RawDataset("text", Table(["one"])), tokenizer, 2)


def test_tokens_on_disk_are_those_in_memory_and_follow_the_documents(tokenizer, tmp_path, monkeypatch):
    data = RawDataset("text", Table(DOCUMENTS))
    memory = PackedTextDataset(data, tokenizer, 10)
    disk = PackedTextDataset(data, tokenizer, 10, cache_dir=tmp_path)
    np.testing.assert_array_equal(memory.tokens, disk.tokens)
    other = PackedTextDataset(RawDataset("text", Table(DOCUMENTS[:2])), tokenizer, 10, cache_dir=tmp_path)
    assert len(other.tokens) < len(disk.tokens) and len(list(tmp_path.glob("*.int32"))) == 2
    monkeypatch.setattr("d2v_train.inputs.packing._tokenise", None)  # a third run may not tokenise again
    np.testing.assert_array_equal(PackedTextDataset(data, tokenizer, 10, cache_dir=tmp_path).tokens, memory.tokens)


LONG = {
    "a sentence a line": "The cat sat on the mat.\n" * 90,
    "one line": "The dog sat, it's  on the log \u4f60\u597d and more. " * 40,
    "carriage returns": "The cat sat on the mat.\r\n" * 90,
    "paragraphs": "short\n\n" + "The cat sat on the mat. " * 60 + "\n\nshort\n\n" + "a log\n" * 150,
}


@pytest.mark.parametrize("stream_block", [None, 4])
@pytest.mark.parametrize("kind", LONG)
def test_parts_of_a_long_document_are_packed_as_the_whole(kind, stream_block, tmp_path, monkeypatch):
    tokenizer = build_tokenizer([LONG[kind]], 320)
    (tmp_path / "a.txt").write_bytes(LONG[kind].encode())
    whole = open_dataset("text", str(tmp_path))
    expected = PackedTextDataset(whole, tokenizer, 10).tokens
    assert np.sum(expected == 2) == len(whole)
    monkeypatch.setattr("d2v_train.data.text_lines.PART_BYTES", 300)
    parts = open_dataset("text", str(tmp_path), stream_block=stream_block)
    assert len(parts) >= len(whole) + 2
    for cache_dir in (tmp_path / "tokens", None if stream_block is None else tmp_path / "other"):
        found = PackedTextDataset(parts, tokenizer, 10, cache_dir)
        np.testing.assert_array_equal(found.tokens, expected)


def test_a_bad_part_ends_the_document_and_the_rest_is_packed(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("d2v_train.data.text_lines.PART_BYTES", 300)
    (tmp_path / "a.txt").write_bytes(b"one of the words " * 20 + b"caf\xe9 " + b"two of the words " * 40)
    documents = open_dataset("text", str(tmp_path))
    packed = PackedTextDataset(documents, tokenizer, 10)
    assert documents.bad.counts() == {"not UTF-8": 1} and len(documents) == 4
    assert np.sum(packed.tokens == tokenizer.eos_token_id) == 2
    half = documents.select([0, 2])
    assert np.sum(PackedTextDataset(half, tokenizer, 10).tokens == tokenizer.eos_token_id) == 2


def test_batches_are_limited_in_texts_and_characters(monkeypatch):
    monkeypatch.setattr("d2v_train.inputs.packing.CHARACTERS_AT_ONCE", 100)
    monkeypatch.setattr("d2v_train.inputs.packing.DOCUMENTS_AT_ONCE", 5)
    texts = [("x" * 60, True), ("y" * 60, False), *[("z", True)] * 12]
    batches = list(_batches(texts))
    assert [len(batch) for batch in batches] == [2, 5, 5, 2]
    assert [text for batch in batches for text in batch] == texts
