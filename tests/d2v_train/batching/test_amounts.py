"""How much data there is: counted where that is known, else close to it from a part, and nothing is read for it."""

import numpy as np
import pytest
import soundfile

from d2v_train.batching import amounts
from d2v_train.batching.amounts import Amount, amount_of, total
from d2v_train.data.records import open_dataset
from d2v_train.data.source_list import JoinedDataset
from d2v_train.inputs.packing import PackedTextDataset
from d2v_train.inputs.text import TextTransform
from d2v_train.inputs.tokenizer import build_tokenizer


@pytest.fixture
def recordings(tmp_path):
    for number in range(12):
        soundfile.write(tmp_path / f"{number:02d}.wav", np.zeros(16000 * (1 + number % 3)), 16000)
    return str(tmp_path)


def test_pictures_are_counted():
    assert amount_of(open_dataset("vision", None, max_samples=30)) == Amount(30, "pictures", True)


def test_hours_come_from_headers(recordings, monkeypatch):
    dataset = open_dataset("audio", recordings)
    assert amount_of(dataset) == pytest.approx((24 / 3600, "hours", True))
    monkeypatch.setattr(amounts, "MEASURED", 6)
    found = amount_of(dataset)
    assert not found.exact and 12 / 3600 < found.value < 36 / 3600
    assert found == amount_of(dataset)  # the same part each time


def test_what_has_no_header_counts_like_the_others(recordings, tmp_path):
    (tmp_path / "12.wav").write_bytes(b"no header")
    found = amount_of(open_dataset("audio", recordings))
    assert not found.exact and found.value == pytest.approx(13 * 2 / 3600)


def test_a_column_tells_the_hours(recordings):
    dataset = open_dataset("audio", recordings)
    dataset.lengths = np.full(12, 16000 * 60)
    assert amount_of(dataset) == Amount(12 / 60, "hours", True)


def test_what_would_have_to_be_read_is_unknown(recordings):
    dataset = open_dataset("audio", recordings)
    dataset.table.values.is_remote = True
    assert amount_of(dataset) is None
    joined = JoinedDataset([open_dataset("audio", recordings), dataset], ["a", "b"], [None, None])
    assert amount_of(joined) is None


def test_tokens_are_those_that_the_model_sees(monkeypatch):
    dataset = open_dataset("text", None, max_samples=40)
    tokenizer = build_tokenizer((dataset[i]["text"] for i in range(len(dataset))), 300)
    transform = TextTransform(tokenizer, max_length=16, train=False)
    lengths = [len(transform(dataset[i], seed=0)["input_ids"]) for i in range(len(dataset))]
    assert amount_of(dataset, transform) == Amount(sum(lengths), "tokens", True)
    packed = PackedTextDataset(dataset, tokenizer, 16)
    assert amount_of(packed, transform) == Amount(len(packed.tokens), "tokens", True)
    monkeypatch.setattr(amounts, "MEASURED", 10)
    found = amount_of(dataset, transform)
    assert not found.exact and found.value == pytest.approx(sum(lengths), rel=0.5)


def test_sources_are_summed(recordings):
    dataset = open_dataset("audio", recordings)
    joined = JoinedDataset([dataset, dataset], ["a", "b"], [None, None])
    assert amount_of(joined).value == pytest.approx(2 * amount_of(dataset).value)
    assert total([Amount(1, "hours", True), Amount(2, "hours", False)]) == Amount(3, "hours", False)
