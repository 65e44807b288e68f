"""Models of ours become models of transformers: the same outputs and losses, the same bits after a round trip."""

from typing import Any

import pytest
import torch
import transformers
from head_factory import head_inputs, head_labels, padded_head_inputs, results
from model_factory import inputs_for, padded_inputs, randomise, relative_error, tiny_config
from torch.nn import functional
from transformers_factory import EXPORTED, SHAPED, encoder, inputs_of, ours, shaped

from modeling_d2v import Data2VecForPreTraining, Data2VecModel
from modeling_d2v.conversion.hf.export import to_transformers
from modeling_d2v.conversion.hf.load import KINDS, from_transformers


def check_same(mine: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    for name, tensor in other.items():
        assert mine[name].shape == tensor.shape and relative_error(mine[name], tensor) < 1e-5, name


@pytest.mark.parametrize("name", EXPORTED)
def test_heads_compute_the_same(name):
    model = ours(name)
    exported, unused, _ = to_transformers(model)
    assert type(exported).__module__.startswith("transformers.models.data2vec.") and not exported.training
    batch, labels = inputs_of(name), head_labels(name)
    if name == "Data2VecForAudioFrameClassification":  # theirs takes one-hot labels, and counts those of padding
        labels = {"labels": functional.one_hot(labels["labels"].clamp(min=0), 3)}
    with torch.no_grad():
        mine, other = model(**batch, **labels), exported(**batch, **labels)
    check_same(results(mine), results(other))
    assert all(entry.reason and entry.name.partition("#")[0] in model.state_dict() for entry in unused)
    if name == "Data2VecForCTC":
        assert model.config.audio_config.ctc_loss_reduction == exported.config.ctc_loss_reduction == "mean"
    torch.testing.assert_close(mine.loss, other.loss, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("modality", SHAPED)
def test_encoders_compute_the_same(modality):
    model = encoder(modality)
    exported, _, notes = to_transformers(model)
    batch = inputs_for(modality)
    with torch.no_grad():
        check_same(
            {"last": model(**batch).last_hidden_state},
            {"last": exported(**batch).last_hidden_state},
        )
    assert bool(notes) == (modality != "vision")


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("kernel", [10, 9, 1])
def test_positions_and_layer_sums_of_speech(kernel, weighted):
    settings = {"conv_pos_width": kernel, "use_weighted_layer_sum": weighted, "conv_bias": True}
    model = ours("Data2VecForAudioFrameClassification", audio_config=settings)
    exported = to_transformers(model).model
    check_same(results(model(**head_inputs("Data2VecForCTC"))), results(exported(**head_inputs("Data2VecForCTC"))))


@pytest.mark.parametrize(
    "overrides",
    [
        {"vision_config": {"relative_position_bias_per_layer": True}},
        {"vision_config": {"relative_position_bias": False}},
        {"vision_config": {"use_mean_pooling": False}},
        {"layer_scale_init_value": None},
        {"layer_scale_init_value": 0.0, "hidden_act": "relu"},
    ],
    ids=str,
)
def test_variants_of_images(overrides):
    model = ours("Data2VecForImageClassification", **overrides)
    batch = inputs_of("Data2VecForImageClassification")
    check_same(results(model(**batch)), results(to_transformers(model).model(**batch)))


def test_an_encoder_of_images_keeps_its_final_norm_or_has_none():
    for final_norm in (True, False):
        model = encoder("vision", final_norm=final_norm)
        exported = to_transformers(model).model
        assert exported.config.use_mean_pooling is not final_norm
        batch = inputs_for("vision")
        check_same({"x": model(**batch).last_hidden_state}, {"x": exported(**batch).last_hidden_state})


def test_padding_is_as_the_note_says():
    """Text with a mask is equal; speech is equal in what is not padding only if padding is treated as it is there."""
    batch, _ = padded_inputs("text")
    model = encoder("text")
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        exported = to_transformers(model).model(**batch).last_hidden_state
        check_same({"x": model(**batch).last_hidden_state[real]}, {"x": exported[real]})
    batch, _ = padded_head_inputs("Data2VecForCTC")
    frames = ours("Data2VecForCTC").config.audio_config.num_frames(batch["attention_mask"].sum(1))
    for alike in (True, False):
        model = ours("Data2VecForCTC", fairseq_compatible_padding=alike)
        exported, _, notes = to_transformers(model)
        assert any("fairseq_compatible_padding" in note for note in notes)
        with torch.no_grad():
            mine, other = model(**batch).logits, exported(**batch).logits
        real = torch.arange(mine.shape[1]) < frames[:, None]
        assert (relative_error(mine[real], other[real]) < 1e-5) is alike


# Round trips


SIZES = dict(hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64)
THEIRS: dict[str, dict[str, Any]] = {
    "data2vec-text": dict(
        vocab_size=60, max_position_embeddings=42, type_vocab_size=1, layer_norm_eps=1e-5, classifier_dropout=0.3
    ),
    "data2vec-audio": dict(
        conv_dim=[8] * 7,
        num_conv_pos_embeddings=2,
        conv_pos_kernel_size=5,
        num_conv_pos_embedding_groups=4,
        classifier_proj_size=24,
        tdnn_dim=[16, 16],
        tdnn_kernel=[3, 2],
        tdnn_dilation=[1, 2],
        xvector_output_dim=12,
        use_weighted_layer_sum=True,
        mask_feature_prob=0.2,
        apply_spec_augment=False,
    ),
    "data2vec-vision": dict(image_size=64, auxiliary_channels=12, out_indices=[1, 2, 4, 5], drop_path_rate=0.2)
    | dict(auxiliary_concat_input=True, auxiliary_num_convs=2, pool_scales=[1, 3]),
}
CLASSES = [(kind, name) for kind, known in KINDS.items() for name in known.classes]
LABELS = {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}


def theirs(kind: str, name: str, **overrides: Any) -> torch.nn.Module:
    """A model of transformers whose every tensor is random, except what data2vec has no place for."""
    if kind == "data2vec-vision" and "use_relative_position_bias" not in overrides:
        overrides["use_shared_relative_position_bias"] = True
    config = transformers.CONFIG_MAPPING[kind](**{**SIZES, **THEIRS[kind], **LABELS, **overrides})
    model = randomise(getattr(transformers, name)(config)).eval()
    for key, tensor in model.state_dict().items():
        if key.endswith("token_type_embeddings.weight"):
            tensor.zero_()
    return model


@pytest.mark.parametrize("kind, name", CLASSES)
def test_theirs_to_ours_to_theirs_is_the_same_bit_by_bit(kind, name):
    source = theirs(kind, name)
    again = to_transformers(from_transformers(source)[0]).model
    assert type(again) is type(source)
    before, after = source.state_dict(), again.state_dict()
    pooler = {f"pooler.dense.{end}" for end in ("weight", "bias")} if name == "Data2VecTextModel" else set()
    assert before.keys() - after.keys() == pooler and after.keys() <= before.keys()
    assert all(torch.equal(tensor, before[key]) for key, tensor in after.items())
    left = {"architectures", "dtype"} | ({"use_mean_pooling"} if name.endswith("Segmentation") else set())
    settings = [
        {key: value for key, value in each.config.to_dict().items() if key not in left} for each in (again, source)
    ]
    assert settings[0] == settings[1]


@pytest.mark.parametrize("bias", ["use_relative_position_bias", "use_shared_relative_position_bias"])
def test_a_round_trip_with_a_mask_token_and_either_bias(bias):
    source = theirs(
        "data2vec-vision", "Data2VecVisionModel", use_mask_token=True, use_mean_pooling=False, **{bias: True}
    )
    again = to_transformers(from_transformers(source)[0], mask_token=True).model
    assert all(torch.equal(tensor, source.state_dict()[key]) for key, tensor in again.state_dict().items())
    assert again.state_dict().keys() == source.state_dict().keys()


def test_a_segment_embedding_becomes_part_of_the_positions_for_good():
    source = theirs("data2vec-text", "Data2VecTextForMaskedLM")
    embeddings = source.data2vec_text.embeddings
    embeddings.token_type_embeddings.weight.data.normal_()
    again = to_transformers(from_transformers(source)[0]).model
    wanted = embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0]
    assert torch.equal(again.data2vec_text.embeddings.position_embeddings.weight, wanted)
    assert not again.data2vec_text.embeddings.token_type_embeddings.weight.any()
    ids = torch.arange(4, 24)[None]
    torch.testing.assert_close(again(ids).logits, source(ids).logits, atol=1e-5, rtol=1e-5)
    third = to_transformers(from_transformers(again)[0]).model
    assert all(torch.equal(tensor, third.state_dict()[key]) for key, tensor in again.state_dict().items())


@pytest.mark.parametrize("name", EXPORTED)
def test_ours_to_theirs_to_ours_loses_what_is_listed_alone(name):
    model = ours(name)
    exported, unused, _ = to_transformers(model)
    again = from_transformers(exported)[0]
    assert type(again) is type(model)
    left = {entry.name for entry in unused}
    for key, tensor in again.state_dict().items():
        mine = model.state_dict()[key]
        if f"{key}#k" in left:
            tensor, mine = (torch.cat([x.chunk(3)[0], x.chunk(3)[2]]) for x in (tensor, mine))
        assert key in left or torch.equal(tensor, mine), key
    assert left <= {key for key in model.state_dict() if key.endswith("mask_token")} | {
        f"{key}#k" for key in model.state_dict()
    }


# Pretraining models, joint models, types of numbers


@pytest.mark.parametrize("scope", ["blocks", "context", "all"])
@pytest.mark.parametrize("modality", SHAPED)
def test_student_or_teacher_of_a_pretraining_model(modality, scope):
    config = tiny_config(modality, **shaped(modality, **{f"{modality}_config": {"ema_scope": scope}}))
    model = randomise(Data2VecForPreTraining(config)).eval()
    batch = inputs_for(modality)
    outputs = {}
    for weights in ("student", "teacher"):
        exported, unused, _ = to_transformers(model, weights=weights)
        outputs[weights] = exported(**batch).last_hidden_state
        mine = model.trained_encoder(weights).eval()(**batch).last_hidden_state
        check_same({"x": mine}, {"x": outputs[weights]})
        assert not any(entry.name.startswith(("teacher", "decoders")) for entry in unused)
    assert relative_error(*outputs.values()) > 1e-3


def test_one_modality_of_a_joint_model():
    config = tiny_config(("text", "audio"), masked_tokens="replaced", audio_config=SHAPED["audio"]["audio_config"])
    model = randomise(Data2VecModel(config)).eval()
    with pytest.raises(ValueError, match="`modality`"):
        to_transformers(model)
    for modality in ("text", "audio"):
        exported, unused, _ = to_transformers(model, modality=modality)
        batch = inputs_for(modality)
        check_same({"x": model(**batch).last_hidden_state}, {"x": exported(**batch).last_hidden_state})
        assert len(unused) > 1 and {entry.reason for entry in unused} == {
            f"belongs to {'audio' if modality == 'text' else 'text'}, which is not exported"
        }


def test_spans_of_speech_hidden_in_place_and_dropped():
    """A model that leaves masked frames out has no vector for them: it hides them with zeros, and so does theirs."""
    hidden = torch.rand(2, 18, generator=torch.Generator().manual_seed(0)) < 0.4
    for masked_tokens in ("replaced", "dropped"):
        model = encoder("audio", masked_tokens=masked_tokens, audio_config={"conv_pos_width": 6})
        exported = to_transformers(model).model
        mine = model(**inputs_for("audio"), mask=hidden).last_hidden_state
        other = exported(**inputs_for("audio"), mask_time_indices=hidden).last_hidden_state
        check_same({"x": mine}, {"x": other})
        assert bool(exported.masked_spec_embed.any()) == (masked_tokens == "replaced")


def test_the_type_of_numbers_is_kept_and_memory_is_not_shared():
    model = encoder("text").bfloat16()
    exported = to_transformers(model).model
    assert exported.dtype == torch.bfloat16
    for parameter in exported.parameters():
        parameter.data.zero_()
    assert all(parameter.any() for parameter in model.parameters())


# Settings


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"vision_config": {"patch_size": 8, "image_size": 64}}, "patches.*8"),
        ({"num_hidden_layers": 2}, r"\[1, 1, 1, 2\]"),
    ],
)
def test_segmentation_that_differs_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        to_transformers(ours("Data2VecForSemanticSegmentation", **settings))


def test_models_without_a_counterpart_are_refused():
    backbone = ours("Data2VecBackbone")
    with pytest.raises(ValueError, match="Data2VecBackbone"):
        to_transformers(backbone)
    assert type(to_transformers(backbone.data2vec).model) is transformers.Data2VecVisionModel


def test_an_output_matrix_of_its_own():
    model = ours("Data2VecForMaskedLM", tie_word_embeddings=False)
    exported, unused, _ = to_transformers(model)
    check_same(
        results(model(**head_inputs("Data2VecForMaskedLM"))), results(exported(**head_inputs("Data2VecForMaskedLM")))
    )
    assert not unused and not torch.equal(
        exported.lm_head.decoder.weight, exported.data2vec_text.embeddings.word_embeddings.weight
    )


def test_labels_and_problem_are_kept():
    model = ours(
        "Data2VecForSequenceClassification", id2label={0: "a", 1: "b", 2: "c"}, label2id={"a": 0, "b": 1, "c": 2}
    )
    model.config.problem_type = "multi_label_classification"
    config = to_transformers(model).model.config
    assert config.id2label == {0: "a", 1: "b", 2: "c"} and config.label2id == {"a": 0, "b": 1, "c": 2}
    assert config.problem_type == "multi_label_classification"


# Full size


@pytest.mark.slow
@pytest.mark.parametrize("kind, name", CLASSES)
def test_models_of_base_size(kind, name):
    """The sizes of the released models: equal outputs, and equal bits there and back."""
    base = {
        "data2vec-text": dict(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5)
    }
    shared = {"use_shared_relative_position_bias": True} if kind == "data2vec-vision" else {}
    config = transformers.CONFIG_MAPPING[kind](**base.get(kind, {}), **shared)
    source = randomise(getattr(transformers, name)(config)).eval()
    mine = from_transformers(source)[0]
    again = to_transformers(mine).model
    assert all(
        torch.equal(tensor, source.state_dict()[key])
        for key, tensor in again.state_dict().items()
        if "token_type" not in key and "position_embeddings" not in key
    )
    batch = inputs_for(
        kind.removeprefix("data2vec-"), 2, size={"data2vec-audio": 16000, "data2vec-vision": 224}.get(kind)
    )
    if name == "Data2VecTextForMultipleChoice":
        batch = {"input_ids": batch["input_ids"][:, None].repeat(1, 2, 1)}
    with torch.no_grad():
        outputs = [each(**batch) for each in (mine, again, source)]
    computed = {"last_hidden_state", "logits", "start_logits", "end_logits", "embeddings"} & outputs[2].keys()
    assert computed
    for key in computed:
        check_same({key: outputs[0][key]}, {key: outputs[2][key]})
        check_same({key: outputs[1][key]}, {key: outputs[2][key]})
