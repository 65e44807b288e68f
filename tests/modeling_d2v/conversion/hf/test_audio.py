"""Speech models of transformers become ours: the same outputs, losses and gradients, and clear refusals."""

import pytest
import torch
import transformers
from model_factory import randomise, relative_error
from torch.nn import functional as F

import modeling_d2v
from modeling_d2v.conversion.hf.audio import SAME, place
from modeling_d2v.conversion.hf.load import config_from_transformers, from_transformers


MODELS = ("Model", "ForCTC", "ForSequenceClassification", "ForAudioFrameClassification", "ForXVector")
OURS = {"ForSequenceClassification": "ForAudioClassification"}
LABELS = 3
SMALL = dict(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    conv_dim=[8] * 7,
    num_conv_pos_embeddings=2,
    conv_pos_kernel_size=5,
    num_conv_pos_embedding_groups=4,
    classifier_proj_size=24,
    tdnn_dim=[16, 16, 20],
    tdnn_kernel=[3, 2, 1],
    tdnn_dilation=[1, 2, 1],
    xvector_output_dim=12,
)
# Nothing random happens in a training step.
STILL = dict(
    hidden_dropout=0.0,
    activation_dropout=0.0,
    attention_dropout=0.0,
    final_dropout=0.0,
    layerdrop=0.0,
    mask_time_prob=0.0,
    mask_feature_prob=0.0,
)


def theirs(model: str, sizes: dict = SMALL, **overrides) -> torch.nn.Module:
    """A model of transformers whose every tensor is random, those that start at 0 or 1 included."""
    config = transformers.Data2VecAudioConfig(**{**sizes, "num_labels": LABELS, **overrides})
    return randomise(getattr(transformers, f"Data2VecAudio{model}")(config)).eval()


def recordings(samples: int, lengths: tuple[int, ...] | None = None) -> dict[str, torch.Tensor]:
    """Two recordings, or padded ones of the given lengths."""
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(len(lengths or (0, 0)), samples, generator=generator)
    if lengths is None:
        return {"input_values": values}
    real = torch.arange(samples) < torch.tensor(lengths)[:, None]
    return {"input_values": values * real, "attention_mask": real.long()}


def targets(model: str, batch: int, frames: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    if model == "Model":
        return {}
    if model == "ForCTC":
        labels = torch.randint(1, 30, (batch, 4), generator=generator)
        labels[-1, 1:] = -100
        return {"labels": labels}
    if model == "ForAudioFrameClassification":
        return {"labels": F.one_hot(torch.randint(0, LABELS, (batch, frames), generator=generator), LABELS)}
    return {"labels": torch.arange(batch) % LABELS}


def frames_of(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Frames of each sample in a model of ours."""
    audio = model.config.audio_config
    if "attention_mask" in inputs:
        return audio.num_frames(inputs["attention_mask"].sum(1))
    return torch.full((len(inputs["input_values"]),), audio.num_frames(inputs["input_values"].shape[1]))


def check_equal(ours, source, model, inputs, loss: bool = True) -> None:
    """Outputs at real frames, and the loss, to 1e-5 of the largest value."""
    frames = frames_of(ours, inputs)
    longest = ours.config.audio_config.num_frames(inputs["input_values"].shape[1])
    wanted = targets(model, len(frames), longest)
    with torch.no_grad():
        mine, other = ours(**inputs, **wanted), source(**inputs, **wanted)
    for name in ("last_hidden_state", "logits", "embeddings"):
        assert (name in mine) == (name in other)
        if name in other:
            assert mine[name].shape == other[name].shape
            rows = torch.arange(longest) < frames[:, None] if mine[name].dim() == 3 else slice(None)
            assert relative_error(mine[name][rows], other[name][rows]) < 1e-5, name
    if wanted and loss:
        torch.testing.assert_close(mine.loss, other.loss, atol=0, rtol=1e-5)


@pytest.mark.parametrize("weighted", [False, True], ids=["last", "weighted"])
@pytest.mark.parametrize("model", MODELS)
def test_small_models_are_equal(model, weighted):
    source = theirs(model, use_weighted_layer_sum=weighted)
    ours, unused = from_transformers(source)
    assert type(ours) is getattr(modeling_d2v, f"Data2Vec{OURS.get(model, model)}") and not unused
    for samples in (9000, 6017):
        check_equal(ours, source, model, recordings(samples))


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_models_of_base_size_are_equal(model):
    source = theirs(model, {}, use_weighted_layer_sum=model == "ForXVector")
    ours, _ = from_transformers(source)
    check_equal(ours, source, model, recordings(16000))


@pytest.mark.parametrize(
    "overrides",
    [
        dict(conv_bias=True, layer_norm_eps=1e-3, hidden_act="relu"),
        dict(conv_pos_kernel_size=4, num_conv_pos_embeddings=3, pad_token_id=31, vocab_size=50),
        dict(conv_dim=(8, 12), conv_kernel=(10, 8), conv_stride=(5, 4), num_hidden_layers=1),
        dict(ctc_loss_reduction="mean", ctc_zero_infinity=True, mask_time_prob=0.0, mask_feature_prob=0.0),
    ],
    ids=["bias", "positions", "convolutions", "loss"],
)
def test_other_settings_are_equal(overrides):
    source = theirs("ForCTC", **overrides)
    ours, _ = from_transformers(source)
    check_equal(ours, source, "ForCTC", recordings(9000))


def with_compatible_padding(converted):
    config = converted.config
    config.fairseq_compatible_padding = True
    ours = type(converted)(config).eval()
    ours.load_state_dict(converted.state_dict())
    return ours


@pytest.mark.parametrize("model", MODELS)
def test_padded_batches_are_equal_where_padding_is_treated_alike(model):
    """With `fairseq_compatible_padding` real frames agree, and what is pooled from them.

    Their frame loss counts padding, and so is not ours.
    """
    source = theirs(model, tdnn_dilation=[1, 1, 1])
    converted, _ = from_transformers(source)
    batch = recordings(9000, (9000, 7000, 4321))
    check_equal(with_compatible_padding(converted), source, model, batch, loss=model != "ForAudioFrameClassification")
    with pytest.raises(AssertionError):  # the default keeps padding out
        check_equal(converted, source, model, batch)


def test_their_dilated_layers_over_time_pool_what_sees_padding():
    """They take these layers for shorter than the dilation makes them: only samples without padding are equal."""
    source = theirs("ForXVector", tdnn_dilation=[1, 2, 1])
    ours = with_compatible_padding(from_transformers(source)[0])
    batch = recordings(9000, (9000, 7000, 4321))
    with pytest.raises(AssertionError):
        check_equal(ours, source, "ForXVector", batch)
    check_equal(ours, source, "ForXVector", {name: value[:1] for name, value in batch.items()})


@pytest.mark.parametrize("model", MODELS)
def test_gradients_are_equal(model):
    """The loss reaches every weight as it does there: joined and renamed tensors have the gradients of their parts."""
    source = theirs(model, use_weighted_layer_sum=True, **STILL).train()
    ours, _ = from_transformers(source)
    ours.train()
    batch = recordings(6000)
    wanted = targets(model, 2, ours.config.audio_config.num_frames(6000))
    for each in (ours, source):
        output = each(**batch, **wanted)
        (output.loss if wanted else output.last_hidden_state.square().mean()).backward()
    gradients = {name: p.grad for name, p in ours.named_parameters()}
    compared = set()
    for name, parameter in source.named_parameters():
        spot = place(name if model != "Model" else f"data2vec_audio.{name}")
        mine = gradients[spot.name.removeprefix("data2vec.") if model == "Model" else spot.name]
        mine = mine if spot.part is None else mine.chunk(3)["qkv".index(spot.part)]
        scale = parameter.grad.abs().max().item()
        torch.testing.assert_close(mine, parameter.grad, atol=2e-5 * max(scale, 1e-2), rtol=1e-4, msg=name)
        compared.add(spot.name if model != "Model" else spot.name.removeprefix("data2vec."))
    token = {name for name in gradients if name.endswith("mask_token")}
    assert compared == set(gradients) - token
    assert all(gradients[name].count_nonzero() == 0 for name in token)


def test_hidden_frames_are_equal():
    source = theirs("Model")
    ours, _ = from_transformers(source)
    batch = recordings(9000)
    hidden = torch.rand(2, ours.config.audio_config.num_frames(9000), generator=torch.Generator().manual_seed(3)) < 0.4
    mine = ours(**batch, mask=hidden).last_hidden_state
    torch.testing.assert_close(mine, source(**batch, mask_time_indices=hidden)[0], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(mine, ours(**batch).last_hidden_state, atol=1e-2)
    source = theirs("ForAudioFrameClassification")
    ours, _ = from_transformers(source)
    mine = ours(**batch, mask_time_indices=hidden).logits
    torch.testing.assert_close(mine, source(**batch, mask_time_indices=hidden)[0], atol=1e-5, rtol=1e-5)


def test_a_model_without_a_mask_token_gets_a_fresh_one(tmp_path):
    source = theirs("ForCTC", **STILL)
    assert "data2vec_audio.masked_spec_embed" not in source.state_dict()
    source.save_pretrained(tmp_path)
    ours, unused = from_transformers(tmp_path)
    token = ours.data2vec.modality_encoders["audio"].mask_token
    assert token.min() >= 0 and token.max() <= 1 and token.std() > 0 and not unused


# Settings


def test_settings_become_ours():
    values = dict(
        vocab_size=44,
        pad_token_id=43,
        feat_proj_dropout=0.11,
        final_dropout=0.12,
        hidden_dropout=0.13,
        attention_dropout=0.14,
        activation_dropout=0.15,
        layerdrop=0.16,
        initializer_range=0.01,
        mask_time_prob=0.2,
        mask_time_length=7,
        mask_time_min_masks=3,
        mask_feature_prob=0.3,
        mask_feature_length=5,
        mask_feature_min_masks=4,
        ctc_loss_reduction="mean",
        ctc_zero_infinity=True,
        use_weighted_layer_sum=True,
        apply_spec_augment=False,
        id2label={0: "a", 1: "b", 2: "c"},
    )
    source = transformers.Data2VecAudioConfig(**{**SMALL, **values}).to_dict()
    config = config_from_transformers(source)
    audio = config.audio_config
    assert {name: getattr(audio, name) for name in SAME} == {
        name: list(source[name]) if isinstance(source[name], tuple) else source[name] for name in SAME
    }
    assert audio.pad_token_id == 43 and audio.apply_spec_augment is False
    assert (config.hidden_dropout, config.mlp_dropout, audio.prenet_dropout) == (0.13, 0.13, 0.13)
    assert (config.attention_dropout, config.activation_dropout, config.layerdrop) == (0.14, 0.15, 0.16)
    assert config.initializer_range == 0.01 and config.id2label == {0: "a", 1: "b", 2: "c"}
    published = modeling_d2v.Data2VecConfig.preset("audio-base-v1").audio_config
    for field in ("mask_prob", "mask_length", "layer_target_norm", "ema_scope", "ema_copied"):
        assert getattr(audio, field) == getattr(published, field)
    assert config_from_transformers({"model_type": "data2vec-audio"}).audio_config.ctc_loss_reduction == "sum"


# Refusals


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(add_adapter=True), "adapter"),
        (dict(feat_extract_activation="relu"), "feat_extract_activation='relu'"),
        (dict(conv_pos_kernel_size=2), "conv_pos_kernel_size=2.*3"),
        (dict(num_conv_pos_embeddings=0), "num_conv_pos_embeddings=0"),
    ],
)
def test_what_has_no_counterpart_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        config_from_transformers({"model_type": "data2vec-audio", **settings})
