"""Texts as bytes: the ids of the tokenizer, packed, cut and saved."""

import numpy as np
import pytest
from transformers import AutoTokenizer

from d2v_train.data.records import RawDataset
from d2v_train.data.tables import Table
from d2v_train.inputs.byte_tokens import BYTE_IDS, byte_ids, byte_tokenizer, reads_bytes, tokenizer_rules
from d2v_train.inputs.packing import PackedTextDataset
from d2v_train.inputs.text import TextTransform
from d2v_train.inputs.tokenizer import build_tokenizer, load_tokenizer


TEXTS = ["plain", "", "ümläut — 漢字 🙂", "tabs\tand\nlines\r\n", "\x00 zero", "\x7f\x80ÿ"]


def texts(*documents) -> RawDataset:
    return RawDataset("text", Table(list(documents)))


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_the_tokenizer(text):
    tokenizer = byte_tokenizer()
    assert byte_ids([text])[0].tolist() == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_names_of_special_tokens_in_a_text_are_its_bytes():
    assert byte_ids(["</s><pad>"])[0].min() >= 3
    assert bytes(byte_ids(["</s><pad>"])[0].astype(np.uint8) - 3).decode() == "</s><pad>"


def test_the_configuration_has_the_ids_of_the_tokenizer():
    tokenizer = byte_tokenizer()
    assert len(tokenizer) == BYTE_IDS["vocab_size"]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (BYTE_IDS["pad_token_id"], BYTE_IDS["eos_token_id"])


def test_it_is_saved_and_loaded_by_the_auto_class(tmp_path):
    byte_tokenizer(77).save_pretrained(tmp_path)
    for loaded in (AutoTokenizer.from_pretrained(tmp_path), load_tokenizer(str(tmp_path))):
        assert reads_bytes(loaded) and len(loaded) == 259 and loaded.model_max_length == 77
        assert loaded("añ")["input_ids"] == [*byte_ids(["añ"])[0], 1]
    assert not reads_bytes(build_tokenizer(TEXTS * 3, 300))


def test_rules_tell_tokenizers_apart():
    assert tokenizer_rules(byte_tokenizer()) != tokenizer_rules(build_tokenizer(TEXTS * 3, 300))


def test_documents_are_packed_with_an_end_and_no_start():
    packed = PackedTextDataset(texts("abc", "défg", "hij"), byte_tokenizer(), 6)
    stream = [*byte_ids(["abc"])[0], 1, *byte_ids(["défg"])[0], 1, *byte_ids(["hij"])[0], 1]
    assert packed.tokens.tolist() == stream and len(packed) == len(stream) // 5
    assert packed[1]["input_ids"].tolist() == [*stream[5:10], 1]
    assert packed[0]["input_ids"].dtype == np.int64


def test_packed_bytes_are_kept_and_read_again(tmp_path):
    first = PackedTextDataset(texts("abc", "de"), byte_tokenizer(), 4, tmp_path)
    again = PackedTextDataset(texts("abc", "de"), byte_tokenizer(), 4, tmp_path)
    assert first.tokens.tolist() == again.tokens.tolist() and len(list(tmp_path.glob("*.int32"))) == 1
    PackedTextDataset(texts("abc", "de"), build_tokenizer(TEXTS * 3, 300), 4, tmp_path)
    assert len(list(tmp_path.glob("*.int32"))) == 2


@pytest.mark.parametrize(("length", "pair"), [(8, None), (8, "漢字"), (400, "漢字"), (3, None)])
def test_long_texts_are_cut_to_bytes(length, pair):
    tokenizer = byte_tokenizer()
    transform = TextTransform(tokenizer, max_length=length, train=False)
    record = {"id": 0, "text": "ümläut " * 20, **({} if pair is None else {"text_pair": pair})}
    found = transform(record)["input_ids"].tolist()
    whole = tokenizer(record["text"], pair, truncation=True, max_length=length)["input_ids"]
    assert found == whole and len(found) <= length and found[-1] == 1
