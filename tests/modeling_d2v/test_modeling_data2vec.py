"""The encoder: padding invariance, attention implementations, checkpointing, compilation, sizes, bad input."""

import copy

import pytest
import torch
from model_factory import (
    MODALITIES,
    VERSIONS,
    inputs_for,
    padded_inputs,
    randomise,
    relative_error,
    tiny_config,
    version_config,
)

from modeling_d2v import Data2VecConfig, Data2VecForPreTraining, Data2VecModel


@pytest.fixture(params=[(v, m) for v in VERSIONS for m in MODALITIES], ids=lambda p: f"{p[0]}-{p[1]}")
def model_and_modality(request):
    version, modality = request.param
    return randomise(Data2VecModel(version_config(version, modality))).eval(), modality


@torch.no_grad()
def test_output_shapes_and_recorded_states(model_and_modality):
    model, modality = model_and_modality
    model.set_attn_implementation("eager")
    out = model(**inputs_for(modality), output_hidden_states=True, output_attentions=True)
    tokens = {"text": 20, "vision": 16, "audio": 18, "arrays": 12}[modality]
    extra = model.config.modality_config(modality).num_extra_tokens
    assert out.last_hidden_state.shape == (2, extra + tokens, 32)
    assert out.attention_mask.shape == (2, extra + tokens) and out.attention_mask.all()
    torch.testing.assert_close(out.pooler_output, out.last_hidden_state[:, extra:].mean(dim=1))
    assert len(out.hidden_states) == 3 and len(out.attentions) == 2
    assert out.attentions[0].shape == (2, 4, extra + tokens, extra + tokens)
    torch.testing.assert_close(model.encoder.norm(out.hidden_states[-1]), out.last_hidden_state)
    as_tuple = model(**inputs_for(modality), return_dict=False)
    torch.testing.assert_close(as_tuple[0], out.last_hidden_state)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("modality", ["text", "audio"])
@pytest.mark.parametrize("version", VERSIONS)
def test_padding_changes_nothing(version, modality, attention):
    model = randomise(Data2VecModel(version_config(version, modality))).eval()
    model.set_attn_implementation(attention)
    batch, alone = padded_inputs(modality)
    together = model(**batch)
    for i, sample in enumerate(alone):
        out = model(**sample)
        length = out.last_hidden_state.shape[1]
        assert together.attention_mask[i].sum() == length
        assert relative_error(together.last_hidden_state[i, :length], out.last_hidden_state[0]) < 1e-5
        assert relative_error(together.pooler_output[i], out.pooler_output[0]) < 1e-5


@torch.no_grad()
def test_left_padding_of_audio_changes_nothing_either():
    model = randomise(Data2VecModel(tiny_config("audio"))).eval()
    alone = inputs_for("audio", batch=1, size=3920)["input_values"]
    shift = model.config.audio_config.frame_stride * 4
    padded = torch.cat([torch.zeros(1, shift), alone], dim=1)
    mask = torch.cat([torch.zeros(1, shift), torch.ones_like(alone)], dim=1).long()
    out = model(input_values=padded, attention_mask=mask)
    assert relative_error(out.last_hidden_state[:, 4:], model(input_values=alone).last_hidden_state) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("modality", ["text", "audio"])
def test_reference_padding_is_another_computation_and_the_same_without_padding(modality):
    config = tiny_config(modality)
    model = randomise(Data2VecModel(config)).eval()
    compatible = Data2VecModel(Data2VecConfig(**{**config.to_dict(), "fairseq_compatible_padding": True})).eval()
    compatible.load_state_dict(model.state_dict())
    plain = inputs_for(modality)
    torch.testing.assert_close(model(**plain).last_hidden_state, compatible(**plain).last_hidden_state)
    batch, _ = padded_inputs(modality)
    real = model(**batch).attention_mask.bool()
    mine, other = (each(**batch).last_hidden_state[real] for each in (model, compatible))
    # What stands at the end of a text is hidden from the words in both; frames of speech see theirs by convolutions.
    assert (relative_error(mine, other) > 1e-3) == (modality == "audio")


@torch.no_grad()
@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("attention", ["sdpa", pytest.param("flex_attention", marks=pytest.mark.slow)])
def test_attention_implementations_agree_with_eager(modality, attention):
    model = randomise(Data2VecModel(tiny_config(modality))).eval()
    batch = padded_inputs(modality)[0] if modality != "vision" else inputs_for(modality)
    model.set_attn_implementation("eager")
    eager = model(**batch).last_hidden_state[model(**batch).attention_mask.bool()]
    model.set_attn_implementation(attention)
    out = model(**batch)
    assert relative_error(out.last_hidden_state[out.attention_mask.bool()], eager) < 1e-5


@pytest.mark.parametrize("modality", ["audio", "vision"])
def test_flash_attention_is_refused_with_a_reason_where_there_is_a_bias(modality):
    version = "1.0" if modality == "vision" else "2.0"
    with pytest.raises(ValueError, match=f"{modality}.*sdpa"):
        Data2VecModel._from_config(version_config(version, modality), attn_implementation="flash_attention_2")
    model = Data2VecModel(version_config(version, modality))
    with pytest.raises(ValueError, match="bias"):
        model.set_attn_implementation("flash_attention_2")


def test_flash_attention_is_not_refused_for_its_bias_where_there_is_none():
    # Where the flash_attn package is missing, that is what transformers complains about, not the model.
    with pytest.raises(ImportError, match="[Ff]lash"):
        Data2VecModel._from_config(tiny_config("text"), attn_implementation="flash_attention_2")


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(modality, reentrant):
    model = randomise(Data2VecModel(tiny_config(modality))).train()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
        model.zero_grad()
        model(**inputs_for(modality)).last_hidden_state.square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert set(gradients[0]) == set(gradients[1]) and len(gradients[0]) > 20
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


@pytest.mark.parametrize("modality", MODALITIES)
def test_bfloat16_is_close_to_float32(modality):
    model = randomise(Data2VecModel(tiny_config(modality))).eval()
    batch = inputs_for(modality)
    with torch.no_grad():
        exact = model(**batch).last_hidden_state
        with torch.autocast("cpu", dtype=torch.bfloat16):
            autocast = model(**batch).last_hidden_state
        pure = copy.deepcopy(model).bfloat16()(**batch).last_hidden_state
    assert pure.dtype == torch.bfloat16
    assert relative_error(autocast.float(), exact) < 0.05
    assert relative_error(pure.float(), exact) < 0.05


@torch.no_grad()
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("size", [(24, 40), (64, 64), (8, 16)])
def test_images_of_other_sizes(version, size):
    model = randomise(Data2VecModel(version_config(version, "vision"))).eval()
    pixels = torch.randn(2, 3, *size)
    out = model(pixel_values=pixels).last_hidden_state
    assert out.shape == (2, 1 + size[0] * size[1] // 64, 32)
    # Where things are must still matter: a flipped image is not the flipped sequence.
    flipped = model(pixel_values=pixels.flip(3)).last_hidden_state[:, 1:].unflatten(1, (size[0] // 8, size[1] // 8))
    assert not torch.allclose(flipped.flip(2).flatten(1, 2), out[:, 1:], atol=1e-3)


@torch.no_grad()
def test_masked_tokens_are_hidden_in_place():
    model = randomise(Data2VecModel(tiny_config("audio"))).eval()
    audio = inputs_for("audio")["input_values"]
    mask = torch.zeros(2, 18, dtype=torch.bool)
    torch.testing.assert_close(
        model(input_values=audio, mask=mask).last_hidden_state, model(input_values=audio).last_hidden_state
    )
    mask[:, 6:9] = True
    changed = audio.clone()
    # The samples that only frames 6 to 8 see: no other frame may notice them.
    stride, width = 320, 400
    changed[:, 5 * stride + width : 9 * stride] = 7.0
    a, b = (model(input_values=x, mask=mask).last_hidden_state for x in (audio, changed))
    torch.testing.assert_close(a, b)
    assert relative_error(model(input_values=changed).last_hidden_state, a) > 1e-2


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "`input_ids`.*`pixel_values`.*`input_values`"),
        (inputs_for("text") | inputs_for("audio"), "`input_ids`.*`input_values`"),
        ({"input_ids": torch.zeros(2, 41, dtype=torch.long)}, "41 tokens"),
        ({"input_ids": torch.zeros(2, 0, dtype=torch.long)}, "0 tokens"),
        ({"input_ids": torch.zeros(0, 5, dtype=torch.long)}, "empty"),
        ({"input_ids": torch.zeros(2, 5)}, "integers"),
        ({"input_ids": torch.full((2, 5), 51)}, "51.*0.*49.*resize_token"),
        ({"input_ids": torch.full((2, 5), -100)}, "`input_ids`.*-100"),
        ({"pixel_values": torch.zeros(2, 3, 32, 33)}, "32 x 33"),
        ({"pixel_values": torch.zeros(2, 1, 32, 32)}, r"\(batch, 3"),
        ({"pixel_values": torch.zeros(3, 32, 32)}, r"\(batch, 3"),
        ({"input_values": torch.zeros(2, 399)}, "399 samples"),
        ({"input_values": torch.zeros(2, 0)}, "0 samples"),
        ({"input_values": torch.zeros(2, 1, 4000)}, "channel"),
        ({"input_values": torch.zeros(2, 4000, dtype=torch.int16)}, "floats"),
        ({"input_values": torch.zeros(2, 4000), "attention_mask": torch.ones(2, 12)}, "they must be the same"),
        ({"pixel_values": torch.zeros(2, 3, 32, 32), "attention_mask": torch.ones(2, 3, 32, 32)}, "padd"),
        (inputs_for("text") | {"mask": torch.zeros(2, 19, dtype=torch.bool)}, r"\(2, 20\)"),
        (inputs_for("text") | {"mask": torch.zeros(2, 20)}, "bool"),
    ],
)
def test_bad_input_is_a_sentence(inputs, message):
    with pytest.raises(ValueError, match=message):
        Data2VecModel(tiny_config())(**inputs)


@pytest.mark.parametrize("kind", [Data2VecModel, Data2VecForPreTraining])
def test_a_misspelt_argument_is_named(kind):
    inputs = inputs_for("text")
    with pytest.raises(TypeError, match=f"{kind.__name__}.*`atention`.*`attention_mask`"):
        kind(tiny_config("text"))(**inputs, atention=torch.ones_like(inputs["input_ids"]))


def test_a_modality_that_the_model_lacks_is_named():
    with pytest.raises(ValueError, match="`input_ids`"):
        Data2VecModel(tiny_config("text"))(**inputs_for("audio"))


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("modality", ["text", "audio"])
def test_a_sample_of_padding_only_leaves_the_others_alone(modality, attention):
    model = randomise(Data2VecModel(tiny_config(modality))).eval()
    model.set_attn_implementation(attention)
    batch, alone = padded_inputs(modality)
    batch["attention_mask"][2] = 0
    out = model(**batch)
    assert torch.isfinite(out.last_hidden_state).all()
    assert out.pooler_output[2].abs().max() == 0
    assert relative_error(out.pooler_output[0], model(**alone[0]).pooler_output[0]) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("modality", MODALITIES[1:])
def test_a_sample_of_nan_leaves_the_others_alone(modality):
    model = randomise(Data2VecModel(tiny_config(modality))).eval()
    ((name, values),) = inputs_for(modality).items()
    expected = model(**{name: values[:1]}).pooler_output[0]
    values[1] = float("nan")
    out = model(**{name: values}).pooler_output
    assert relative_error(out[0], expected) < 1e-5 and out[1].isnan().all()


@torch.no_grad()
def test_a_single_frame_is_enough():
    out = Data2VecModel(tiny_config("audio")).eval()(input_values=torch.randn(2, 400))
    assert out.last_hidden_state.shape == (2, 1, 32) and torch.isfinite(out.last_hidden_state).all()
