"""Equality with the data2vec-vision classes of transformers: features, logits, losses and gradients."""

import pytest
import torch
import transformers
from model_factory import relative_error
from transformers import Data2VecVisionConfig

from modeling_d2v import Data2VecForImageClassification, Data2VecForPreTraining, Data2VecForSemanticSegmentation
from modeling_d2v.conversion.hf.load import from_transformers
from modeling_d2v.conversion.hf.vision import place, settings


SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 64,
    "auxiliary_channels": 12,
    "out_indices": [1, 2, 4, 5],
    "num_labels": 5,
    "drop_path_rate": 0.0,
}
BIAS = {
    "no bias": {},
    "shared bias": {"use_shared_relative_position_bias": True},
    "bias per layer": {"use_relative_position_bias": True},
}
MASK_TOKEN = "modality_encoders.vision.mask_token"


def make(head: str, **overrides) -> torch.nn.Module:
    """A model of transformers in which no weight and no statistic has its start value."""
    torch.manual_seed(0)
    model = getattr(transformers, f"Data2VecVision{head}")(Data2VecVisionConfig(**{**SMALL, **overrides}))
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape) * 0.05)
    return model.eval()


def images(size: int = 64, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def pixel_labels(height: int = 48, width: int = 40) -> torch.Tensor:
    labels = torch.randint(0, 5, (2, height, width), generator=torch.Generator().manual_seed(2))
    labels[:, :4] = 255
    return labels


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [64, 96, 32])
@pytest.mark.parametrize("mean_pooling", [True, False])
@pytest.mark.parametrize("bias", BIAS)
def test_encoder(bias, mean_pooling, size):
    theirs = make("Model", use_mean_pooling=mean_pooling, **BIAS[bias])
    ours, unused = from_transformers(theirs)
    expected = theirs(images(size), output_hidden_states=True, interpolate_pos_encoding=True)
    actual = ours(pixel_values=images(size), output_hidden_states=True)
    close(actual.last_hidden_state, expected.last_hidden_state)
    for mine, other in zip(actual.hidden_states, expected.hidden_states, strict=True):
        close(mine, other)
    assert not unused


@pytest.mark.parametrize("mean_pooling", [True, False])
@pytest.mark.parametrize("bias", BIAS)
def test_image_classification(bias, mean_pooling):
    theirs = make("ForImageClassification", use_mean_pooling=mean_pooling, **BIAS[bias])
    ours, unused = from_transformers(theirs)
    assert type(ours) is Data2VecForImageClassification and not unused
    for size in (64, 80):
        expected, actual = (
            model(pixel_values=images(size), labels=torch.tensor([0, 4]), output_hidden_states=True)
            for model in (theirs, ours)
        )
        close(actual.logits, expected.logits)
        close(actual.loss, expected.loss)


def test_without_layer_scale_and_with_other_kinds_of_labels():
    theirs = make("ForImageClassification", layer_scale_init_value=0.0, problem_type="multi_label_classification")
    ours, _ = from_transformers(theirs)
    assert ours.config.layer_scale_init_value is None
    labels = torch.tensor([[0.0, 1, 1, 0, 1], [1, 0, 0, 0, 0]])
    expected, actual = (model(pixel_values=images(), labels=labels) for model in (theirs, ours))
    close(actual.logits, expected.logits)
    close(actual.loss, expected.loss)


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize(
    "overrides",
    [
        {"use_relative_position_bias": True},
        {"use_shared_relative_position_bias": True, "auxiliary_num_convs": 2, "auxiliary_concat_input": True},
        {"use_auxiliary_head": False, "pool_scales": [1, 3], "semantic_loss_ignore_index": 3},
    ],
)
def test_semantic_segmentation(overrides, training):
    theirs = make("ForSemanticSegmentation", **overrides).train(training)
    ours, unused = from_transformers(theirs)
    ours.train(training)
    assert type(ours) is Data2VecForSemanticSegmentation and not unused
    labels = pixel_labels()
    labels[labels == 255] = theirs.config.semantic_loss_ignore_index
    expected, actual = (model(pixel_values=images(), labels=labels) for model in (theirs, ours))
    close(actual.logits, expected.logits)
    close(actual.loss, expected.loss)
    if training:
        expected.loss.backward()
        actual.loss.backward()
        for name, parameter in theirs.named_parameters():
            there = place(name)
            mine = ours.get_parameter(there.name).grad
            if there.part in ("q", "k", "v"):
                mine = mine.chunk(3)["qkv".index(there.part)]
            elif there.part is not None:
                mine = mine[int(there.part)]
            assert relative_error(mine, parameter.grad) < 1e-3, name


def test_segmentation_needs_no_final_norm():
    theirs = make("ForSemanticSegmentation", use_mean_pooling=False)
    ours, unused = from_transformers(theirs)
    close(ours(pixel_values=images()).logits, theirs(images()).logits)
    assert {entry.name for entry in unused} == {"data2vec_vision.layernorm.weight", "data2vec_vision.layernorm.bias"}


def test_a_mask_token_is_kept_and_a_missing_one_is_initialised():
    theirs = make("Model", use_mask_token=True, use_shared_relative_position_bias=True, use_mean_pooling=False)
    ours, _ = from_transformers(theirs)
    assert torch.equal(ours.get_parameter(MASK_TOKEN), theirs.embeddings.mask_token[0, 0])
    mask = torch.rand(2, 16, generator=torch.Generator().manual_seed(0)) < 0.5
    expected = theirs(images(), bool_masked_pos=mask).last_hidden_state
    close(ours(pixel_values=images(), mask=mask).last_hidden_state, expected)
    fresh, _ = from_transformers(make("Model"))
    assert torch.isfinite(fresh.get_parameter(MASK_TOKEN)).all()


def test_a_converted_encoder_can_be_pretrained_further(tmp_path):
    ours, _ = from_transformers(make("Model", use_shared_relative_position_bias=True, use_mean_pooling=False))
    ours.save_pretrained(tmp_path)
    model = Data2VecForPreTraining.from_pretrained(tmp_path)
    for name, tensor in ours.state_dict().items():
        assert torch.equal(model.data2vec.state_dict()[name], tensor), name
    model(pixel_values=images()).loss.backward()
    assert model.data2vec.get_parameter(MASK_TOKEN).grad.abs().sum() > 0


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"use_absolute_position_embeddings": True}, "absolute"),
        ({"use_relative_position_bias": True, "use_shared_relative_position_bias": True}, "either"),
        ({"image_size": [64, 32]}, r"`image_size`.*data2vec-vision.*\[64.*32\]"),
    ],
)
def test_settings_without_a_counterpart(overrides, message):
    with pytest.raises(ValueError, match=message):
        settings(Data2VecVisionConfig(**{**SMALL, **overrides}).to_dict())


def test_settings_of_a_smaller_model_than_the_default_levels():
    source = Data2VecVisionConfig(num_hidden_layers=2, image_size=[64, 64], hidden_dropout_prob=0.1)
    fields = settings(source.to_dict())
    assert fields["out_indices"] is None and fields["vision_config"]["image_size"] == 64
    assert fields["vision_config"]["prenet_dropout"] == fields["hidden_dropout"] == fields["mlp_dropout"] == 0.1
    assert settings(Data2VecVisionConfig().to_dict())["out_indices"] == [2, 4, 6, 10]


@pytest.mark.slow
@pytest.mark.parametrize(
    "head, bias, mean_pooling",
    [
        ("Model", "shared bias", False),
        ("ForImageClassification", "bias per layer", True),
        ("ForSemanticSegmentation", "bias per layer", True),
    ],
)
def test_base_size(head, bias, mean_pooling):
    base = Data2VecVisionConfig().to_dict() | {"num_labels": 5}
    theirs = make(head, **{name: base[name] for name in SMALL}, use_mean_pooling=mean_pooling, **BIAS[bias])
    ours, _ = from_transformers(theirs)
    labels = {
        "Model": {},
        "ForImageClassification": {"labels": torch.tensor([0, 4])},
        "ForSemanticSegmentation": {"labels": pixel_labels(224, 224)},
    }[head]
    with torch.no_grad():
        expected, actual = (model(pixel_values=images(224), **labels) for model in (theirs, ours))
    if head == "Model":
        close(actual.last_hidden_state, expected.last_hidden_state)
    else:
        close(actual.logits, expected.logits)
        close(actual.loss, expected.loss)
