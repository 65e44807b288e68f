"""Checkpoint files of the reference as models: outputs are the recorded ones, whatever the file is fine-tuned for."""

import copy

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModel

from modeling_d2v import (
    Data2VecForCTC,
    Data2VecForImageClassification,
    Data2VecForPreTraining,
    Data2VecForSequenceClassification,
    Data2VecModel,
)
from modeling_d2v.conversion.fairseq.convert import convert_checkpoint
from modeling_d2v.modalities import modality_of_input
from tests.modeling_d2v.reference_fixtures import UNPADDED, V1, V2, load_reference, relative_error
from tests.modeling_d2v.source_checkpoints import (
    cast,
    content_of,
    image_classifier,
    recogniser,
    text_classifier,
    write,
)


def convert(content, tmp_path, **options):
    return convert_checkpoint(write(content, tmp_path / "source.pt"), **options)


def sample_of(name):
    """The recorded features of a sample in which nothing is padding, and that sample as input."""
    reference, sample = load_reference(name), UNPADDED.get(name, 0)
    batch = {key: value for key, value in reference.batch(sample).items() if modality_of_input(key)}
    return batch, reference.tensors["out.features.x"][sample : sample + 1]


@pytest.mark.parametrize("name", V2 + V1)
@pytest.mark.parametrize(("dtype", "tolerance"), [(None, 1e-5), (torch.float16, 1e-3)], ids=["float32", "float16"])
def test_pretrained(name, dtype, tolerance, tmp_path):
    """Loss under the recorded mask, and features of the encoder, of files in float32 and in half precision."""
    converted = convert(content_of(name, dtype), tmp_path)
    converted.save(tmp_path / "model")
    model, info = Data2VecForPreTraining.from_pretrained(
        tmp_path / "model", output_loading_info=True, fairseq_compatible_padding=True, **without_noise(converted)
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert model.dtype == torch.float32 and int(model.ema_step) == 3
    reference = load_reference(name)
    with torch.no_grad():
        output = model(**reference.batch())
    recorded = [value for key, value in reference.tensors.items() if key.endswith("loss_sum")]
    assert output.loss.item() == pytest.approx(sum(recorded).item() / reference.num_items, rel=tolerance)
    inputs, features = sample_of(name)
    encoder = AutoModel.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        hidden = encoder(**inputs).last_hidden_state[:, -features.shape[1] :]
    # Rounding the weights of these tiny models moves a loss by less than 1e-3, but a single feature by up to 3e-3.
    assert relative_error(hidden, features) < (tolerance if dtype is None else 4e-3)
    name = "encoder.blocks.1.attention.qkv.weight"
    rounded = dict(load_reference(reference.name).model().data2vec.named_parameters())[name]
    assert torch.equal(dict(encoder.named_parameters())[name], cast(rounded, dtype or torch.float32).float())


def without_noise(converted):
    """The recording had no noise in the decoder."""
    part = f"{converted.config.modalities[0]}_config"
    return {part: {"mask_noise_std": 0.0}}


def test_cls_loss_is_summed_over_as_many_rows_as_a_device_of_the_checkpoint_took(tmp_path):
    reference = load_reference("d2v2_image_base")
    content, batch = content_of("d2v2_image_base"), reference.batch()
    untold = convert(content, tmp_path)
    assert untold.config.vision_config.cls_loss_rows is None and "dataset.batch_size" in untold.notes[-1]
    content["cfg"]["dataset"] = {"batch_size": len(batch["pixel_values"])}
    converted = convert(content, tmp_path)
    rows = batch["mask"].shape[:2].numel()
    assert converted.config.vision_config.cls_loss_rows == rows and "cls_loss_rows" not in " ".join(converted.notes)
    converted.save(tmp_path / "model")
    model = Data2VecForPreTraining.from_pretrained(tmp_path / "model", **without_noise(converted))
    with torch.no_grad():
        alone, one_of_two = model(**batch), model(**batch, num_rows=2 * rows)
    recorded = reference.tensors["out.cls.loss_sum"].item() / reference.num_items
    assert alone.losses["cls"].item() == pytest.approx(recorded, rel=1e-5)
    assert one_of_two.losses["cls"].item() == pytest.approx(recorded / 2, rel=1e-5)


@pytest.mark.parametrize("name", ["d2v2_audio_base", "d2v1_audio_base"])
def test_speech_recognition(name, tmp_path):
    content, head = recogniser(name)
    converted = convert(content, tmp_path)
    assert converted.model_class is Data2VecForCTC and not converted.unused
    audio = converted.config.audio_config
    assert (audio.vocab_size, audio.pad_token_id, audio.final_dropout) == (9, 0, 0.1)
    assert (audio.mask_time_prob, audio.mask_feature_prob, audio.mask_feature_length) == (0.5, 0.25, 64)
    assert audio.apply_spec_augment
    inputs, features = sample_of(name)
    with torch.no_grad():
        logits = converted.build()(**inputs).logits
    assert relative_error(logits, F.linear(features, head["weight"], head["bias"])) < 1e-5


def test_image_classification(tmp_path):
    content, head = image_classifier()
    converted = convert(content, tmp_path)
    assert converted.model_class is Data2VecForImageClassification
    assert converted.config.drop_path_rate == 0.1 and converted.config.num_labels == 6
    inputs, features = sample_of("d2v2_image_base")
    pooled = F.layer_norm(features.mean(dim=1), features.shape[2:], head["fc_norm.weight"], head["fc_norm.bias"], 1e-6)
    with torch.no_grad():
        logits = converted.build()(**inputs).logits
    assert relative_error(logits, F.linear(pooled, head["head.weight"], head["head.bias"])) < 1e-5


@pytest.mark.parametrize("name", ["d2v2_text_base", "d2v1_text_base"])
@pytest.mark.parametrize("rows", [3, 1])
def test_text_classification(name, rows, tmp_path):
    content, head = text_classifier(name, rows)
    converted = convert(content, tmp_path)
    assert converted.model_class is Data2VecForSequenceClassification
    expected = "regression" if rows == 1 else "single_label_classification"
    assert (converted.config.num_labels, converted.config.problem_type) == (rows, expected)
    assert {unused.name.partition(".")[0] for unused in converted.unused} <= {"_ema", "encoder"}
    inputs, features = sample_of(name)
    hidden = torch.tanh(F.linear(features[:, 0], head["dense.weight"], head["dense.bias"]))
    with torch.no_grad():
        logits = converted.build()(**inputs).logits
    assert relative_error(logits, F.linear(hidden, head["out_proj.weight"], head["out_proj.bias"])) < 1e-5


@pytest.mark.parametrize("weights", ["student", "teacher"])
@pytest.mark.parametrize("name", ["d2v2_audio_base", "d2v2_image_base", "d2v1_text_base"])
def test_the_encoder_alone(name, weights, tmp_path):
    converted = convert(content_of(name), tmp_path, encoder_only=True, weights=weights)
    model = converted.build()
    assert type(model) is Data2VecModel
    whole = load_reference(name).model()
    expected = whole.data2vec if weights == "student" else whole.trained_encoder("teacher")
    actual = dict(model.named_parameters())
    assert all(torch.equal(actual[key], value) for key, value in expected.named_parameters())
    unused = {unused.name for unused in converted.unused if unused.reason.startswith("only the encoder")}
    left = {name for name in whole.state_dict() if not name.startswith("data2vec.")} - {"ema_step"}
    if weights == "teacher":
        left = {name for name in left if name.startswith("decoders.")}
        left |= {f"data2vec.{name}" for name, _ in whole.teacher.named_parameters()}
    assert unused == left


def test_a_missing_teacher_starts_as_the_student(tmp_path):
    content = content_of("d2v2_audio_base")
    del content["model"]["_ema"]
    converted = convert(content, tmp_path)
    tensors, name = converted.tensors, "encoder.blocks.1.mlp.fc1.weight"
    assert torch.equal(tensors[f"teacher.{name}"], tensors[f"data2vec.{name}"]) and int(tensors["ema_step"]) == 0
    assert any("starts as a copy" in note for note in converted.notes)
    with pytest.raises(ValueError, match="teacher"):
        convert(content, tmp_path, encoder_only=True, weights="teacher")


def test_a_missing_decoder_is_said(tmp_path):
    content = content_of("d2v2_text_base")
    content["model"] = {key: value for key, value in content["model"].items() if "decoder" not in key}
    with pytest.raises(ValueError, match="`encoder_only`"):
        convert(content, tmp_path)
    assert type(convert(content, tmp_path, encoder_only=True).build()) is Data2VecModel


def test_the_teacher_stays_in_float32(tmp_path):
    converted = convert(content_of("d2v2_text_base"), tmp_path)
    converted.save(tmp_path / "half", torch.float16)
    model = Data2VecForPreTraining.from_pretrained(tmp_path / "half")
    assert model.data2vec.dtype == torch.float16 and model.config.dtype == torch.float16
    assert {p.dtype for p in model.teacher.parameters()} == {torch.float32}
    built = converted.build(torch.float16)
    assert all(torch.equal(value, built.state_dict()[key]) for key, value in model.state_dict().items())


def test_numbers_of_the_source_are_kept_when_asked_for(tmp_path):
    converted = convert(content_of("d2v2_text_base", torch.bfloat16), tmp_path)
    converted.save(tmp_path / "model", None)
    assert Data2VecModel.from_pretrained(tmp_path / "model").dtype == torch.bfloat16


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(value, tmp_path):
    content = copy.deepcopy(content_of("d2v2_text_base"))
    content["model"]["blocks.1.mlp.fc1.weight"][3, 4] = value
    converted = convert(content, tmp_path)
    with pytest.raises(ValueError, match=r"1.*data2vec\.encoder\.blocks\.1\.mlp\.fc1\.weight"):
        converted.save(tmp_path / "model")
    converted.save(tmp_path / "model", allow_nonfinite=True)


def test_numbers_too_large_for_the_type_are_refused(tmp_path):
    content = copy.deepcopy(content_of("d2v2_text_base"))
    content["model"]["blocks.1.mlp.fc1.weight"][3, 4] = 1e6
    with pytest.raises(ValueError, match="large"):
        convert(content, tmp_path).save(tmp_path / "model", torch.float16)


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


def test_the_settings_are_doubted_only_where_tensors_do_not_fit_them(tmp_path):
    content = copy.deepcopy(content_of("d2v2_text_base"))
    del content["model"]["_ema"]
    with pytest.raises(ValueError, match="has no teacher") as caught:
        convert(content, tmp_path, encoder_only=True, weights="teacher")
    assert "its settings do not describe" not in str(caught.value)
    with_missing_tensor(content)
    with pytest.raises(ValueError, match="nothing fills(.|\\n)*its settings do not describe its tensors"):
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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: image_classifier(prediction_mode="LIN_SOFTMAX")[0], "prediction_mode=LIN_SOFTMAX"),
        (lambda: image_classifier(prediction_mode="CLS_TOKEN")[0], "prediction_mode=CLS_TOKEN"),
        (lambda: text_classifier("d2v2_text_base", pooler_activation_fn="relu")[0], "pooler_activation_fn='relu'"),
    ],
)
def test_heads_that_compute_something_else(make, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        convert(make(), tmp_path)


def test_heads_that_are_not_whole_or_not_alone(tmp_path):
    content, head = text_classifier("d2v2_text_base")
    content["model"] |= {f"classification_heads.other.{key}": value for key, value in head.items()}
    with pytest.raises(ValueError, match="classification"):
        convert(content, tmp_path)
    content, _ = recogniser("d2v1_audio_base")
    del content["model"]["w2v_encoder.proj.weight"]
    with pytest.raises(ValueError, match="output"):
        convert(content, tmp_path)


def test_options_that_do_not_fit_together(tmp_path):
    with pytest.raises(ValueError, match="`encoder_only`"):
        convert({}, tmp_path, weights="teacher")
    with pytest.raises(ValueError, match='"student"'):
        convert({}, tmp_path, weights="both")
    with pytest.raises(ValueError, match="fine-tuned"):
        convert(recogniser("d2v1_audio_base")[0], tmp_path, encoder_only=True)
