"""Quantisation of heads: the encoder alone, so that the head can be trained."""

import pytest
from head_factory import HEADS, make_head
from model_factory import FRONT_ENDS
from transformers import QuantoConfig

from modeling_d2v import Data2VecForCTC
from modeling_d2v.heads import HEAD_PARTS, _without_head


@pytest.mark.parametrize("name", HEADS)
def test_every_part_of_a_head_with_weights_is_named(name):
    children = {child for child, module in make_head(name).named_children() if list(module.parameters())}
    assert children - {"data2vec"} <= set(HEAD_PARTS)
    encoder = {part for key, _ in make_head(name).data2vec.named_modules() for part in key.split(".")}
    assert not encoder & set(HEAD_PARTS)


def test_named_parts_exist():
    heads = [make_head(name) for name in HEADS]
    heads.append(make_head("Data2VecForTokenClassification", text_config=FRONT_ENDS["text perceiver"][1]))
    found = {child for head in heads for child, _ in head.named_children()}
    assert set(HEAD_PARTS) <= found


def test_modules_that_are_named_are_kept():
    config = QuantoConfig(weights="int8", modules_to_not_convert=["lm_head"])
    assert _without_head(config).modules_to_not_convert == ["lm_head"]
    plain = QuantoConfig(weights="int8")
    assert _without_head(plain).modules_to_not_convert == list(HEAD_PARTS)
    assert plain.modules_to_not_convert is None


def test_fields_in_a_dictionary_are_a_configuration():
    given = {"quant_method": "quanto", "weights": "int8"}
    assert _without_head(given).modules_to_not_convert == list(HEAD_PARTS)
    assert given == {"quant_method": "quanto", "weights": "int8"}
    assert _without_head({"load_in_4bit": True}).llm_int8_skip_modules == list(HEAD_PARTS)
    assert _without_head({"load_in_8bit": True, "llm_int8_skip_modules": ["x"]}).llm_int8_skip_modules == ["x"]


@pytest.mark.parametrize("given", [QuantoConfig(weights="int8"), {"quant_method": "quanto", "weights": "int8"}])
def test_loading_leaves_the_head_out(given, tmp_path, monkeypatch):
    make_head("Data2VecForCTC").save_pretrained(tmp_path)
    seen = {}

    def load(cls, *args, **kwargs):
        seen.update(kwargs)

    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", classmethod(load))
    Data2VecForCTC.from_pretrained(tmp_path, quantization_config=given)
    assert "lm_head" in seen["quantization_config"].modules_to_not_convert
