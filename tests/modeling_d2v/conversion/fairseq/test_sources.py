"""What a file of the reference holds."""

import copy

import pytest
import torch

from modeling_d2v import (
    Data2VecForPreTraining,
)
from modeling_d2v.conversion.fairseq.convert import convert_checkpoint
from tests.modeling_d2v.source_checkpoints import (
    content_of,
    write,
)


def convert(content, tmp_path, **options):
    return convert_checkpoint(write(content, tmp_path / "source.pt"), **options)


def without_settings(content):
    content["cfg"] = None


def without_weights(content):
    del content["model"]


def with_unknown_setting(content):
    content["cfg"]["model"]["brand_new"] = 3


def with_missing_tensor(content):
    del content["model"]["blocks.0.norm1.weight"]


def with_extra_tensor(content):
    content["model"]["blocks.0.extra"] = torch.ones(1)


def with_other_shape(content):
    content["model"]["blocks.0.norm1.weight"] = torch.ones(5)


def with_whole_numbers(content):
    content["model"]["blocks.0.norm1.weight"] = content["model"]["blocks.0.norm1.weight"].int()


def with_number_as_name(content):
    content["model"][5] = torch.ones(1)


def with_list_as_teacher(content):
    content["model"]["_ema"] = [1]


def with_nameless_tensor_of_the_teacher(content):
    content["model"]["_ema"][""] = torch.ones(1)


@pytest.mark.parametrize("record", [5, [5], [{"num_updates": "many"}], []])
def test_records_that_tell_nothing_of_the_model_do_not_stop_it(record, tmp_path):
    content = content_of("d2v2_text_base") | {"optimizer_history": record}
    converted = convert(content | {"task_state": {"source_dictionary": {"symbols": 5}}}, tmp_path)
    assert converted.source.step == 0 and converted.source.symbols is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_settings, r"data2vec \(fairseq-v2\)"),
        (without_weights, "`model`"),
        (with_unknown_setting, "brand_new.*ignore_settings"),
        (with_missing_tensor, r"data2vec\.encoder\.blocks\.0\.norm1\.weight"),
        (with_extra_tensor, r"blocks\.0\.extra"),
        (with_other_shape, r"norm1\.weight.*\(5,\).*\(32,\)"),
        (with_whole_numbers, r"norm1\.weight.*torch\.int32"),
        (with_number_as_name, "5.*`model`"),
        (with_list_as_teacher, "'_ema'"),
        (with_nameless_tensor_of_the_teacher, r"teacher\."),
        (lambda content: content.update(cfg="text"), "'cfg'"),
        (lambda content: content["cfg"].update(model=[1]), "'model'"),
        (lambda content: content["cfg"]["model"].update(modalities=3), "'modalities'"),
    ],
)
def test_sources_that_do_not_fit(change, message, tmp_path):
    content = copy.deepcopy(content_of("d2v2_text_base"))
    change(content)
    with pytest.raises(ValueError, match=message):
        convert(content, tmp_path)


def test_settings_can_be_given_and_left_out(tmp_path):
    content = copy.deepcopy(content_of("d2v2_text_base"))
    settings = content["cfg"]
    settings["model"] |= {"brand_new": 3, "switched_off": False}
    content["cfg"] = None
    for given in (settings, settings["model"]):
        converted = convert(content, tmp_path, settings=given, ignore_settings=["brand_new"])
        assert any("switched_off=False: unknown here" in note for note in converted.notes)
        assert converted.model_class is Data2VecForPreTraining


@pytest.mark.parametrize(
    ("names", "settings", "what"),
    [
        (["quantizer.vars", "encoder.pos_conv.0.weight_g", "mask_emb"], {"_name": "wav2vec2"}, "wav2vec 2.0"),
        (["encoder.pos_conv.0.weight_v", "mask_emb"], {}, "wav2vec 2.0, HuBERT or WavLM"),
        (["label_embs_concat", "mask_emb"], {}, "HuBERT"),
        (["w2v_encoder.w2v_model.mask_emb", "w2v_encoder.proj.weight"], {"w2v_args": {"model": {"_name": "wav2vec2"}}},
         "wav2vec 2.0"),
        (["encoder.sentence_encoder.embed_tokens.weight", "encoder.lm_head.dense.weight"], {}, "RoBERTa"),
        (["encoder.sentence_encoder.embed_tokens.weight"], {"_name": "roberta"}, "RoBERTa"),
        (["data2vec_audio.encoder.layer_norm.weight"], {}, "transformers"),
        (["decoder_pos_embed", "patch_embed.proj.weight"], {}, "MAE"),
    ],
)  # fmt: skip
def test_other_models_are_named(names, settings, what, tmp_path):
    content = {"model": {name: torch.ones(2, 2) for name in names}, "cfg": {"model": settings}}
    with pytest.raises(ValueError, match=f"{what}.*data2vec") as caught:
        convert(content, tmp_path)
    assert "\n" not in str(caught.value)


def test_something_else_entirely(tmp_path):
    with pytest.raises(ValueError, match="converted"):
        convert({"model": {"conv1.weight": torch.ones(2)}}, tmp_path)
