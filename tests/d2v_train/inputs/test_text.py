"""Texts: alone and in pairs, cut to the length of the model."""

import pytest

from d2v_train.data.records import RawDataset
from d2v_train.data.tables import Table
from d2v_train.inputs.tokenizer import build_tokenizer
from d2v_train.inputs.transforms import build_transform
from modeling_d2v import Data2VecConfig


DOCUMENTS = [f"document {word} speaks of {word} and of nothing else" for word in ("one", "two", "three", "four")]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(DOCUMENTS * 3, 320)


@pytest.fixture(scope="module")
def config():
    return Data2VecConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        vision_config={"image_size": 16, "patch_size": 4, "num_channels": 1},
        text_config={"vocab_size": 320, "max_position_embeddings": 34},
    )


def test_single_texts_and_pairs_are_cut_to_length(config, tokenizer):
    text = build_transform("text", {"max_length": 9}, config, tokenizer, train=False)
    data = RawDataset("text", Table([DOCUMENTS[0], ("one", "two")]))
    assert text.prepare(data) is data
    ids = text(data[0])["input_ids"]
    assert len(ids) == 9 and ids[0] == 0 and ids[-1] == 2
    assert text(data[1])["input_ids"].tolist() == tokenizer("one", "two")["input_ids"]


@pytest.mark.parametrize(
    "text",
    [
        "document one speaks of nothing else. " * 100,
        "document\n\n  one \u4f60\u597d " * 100,
        " " * 2000 + "document one",
        "-" * 2000,
        "x" * 2000 + " y",
    ],
)
def test_only_the_beginning_of_a_long_text_is_tokenized_with_the_same_result(config, tokenizer, text):
    transform = build_transform("text", {"max_length": 9}, config, tokenizer, train=False)
    assert len(transform.head(text)) <= len(text)
    for pair in (None, "two", "and two " * 12):
        record = {"id": 0, "text": text} | ({} if pair is None else {"text_pair": pair})
        expected = tokenizer(text, pair, truncation=True, max_length=9)["input_ids"]
        assert transform(record)["input_ids"].tolist() == expected
    assert len(transform.head("document one speaks of nothing else. " * 300)) <= 9 * 64
    assert transform.head("short") == "short"
