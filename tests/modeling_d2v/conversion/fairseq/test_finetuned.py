"""Heads of fine-tuned checkpoints."""

import pytest
import torch
from torch.nn import functional as F

from modeling_d2v import (
    Data2VecForCTC,
    Data2VecForImageClassification,
    Data2VecForSequenceClassification,
)
from modeling_d2v.conversion.fairseq.convert import convert_checkpoint
from modeling_d2v.modalities import modality_of_input
from tests.modeling_d2v.reference_fixtures import UNPADDED, load_reference, relative_error
from tests.modeling_d2v.source_checkpoints import (
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


@torch.no_grad()
def test_an_image_classifier_of_the_first_version(tmp_path):
    """Its encoder has no final norm, and its mean leaves out the first patch."""
    reference = load_reference("d2v1_image_classifier")
    content = {"cfg": {"model": reference.record["config"]}, "model": reference.state}
    converted = convert_checkpoint(write(content, tmp_path / "source.pt"))
    vision = converted.config.vision_config
    assert vision.use_mean_pooling and vision.pooling_start == 1 and not converted.config.final_norm
    logits = converted.build()(pixel_values=reference.tensors["in.source"]).logits
    assert relative_error(logits, reference.tensors["out.logits"]) < 1e-5
