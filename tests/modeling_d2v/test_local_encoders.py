"""Local encoders: as many features as the configuration says, each from its own part of the input."""

import pytest
import torch
from model_factory import MODALITIES, SPECTROGRAM, inputs_for, randomise, tiny_config

from modeling_d2v import Data2VecModel
from modeling_d2v.local_encoders import AudioLocalEncoder, TextLocalEncoder, VisionLocalEncoder, check_token_ids
from modeling_d2v.perceiver_groups import GroupedPerceiver


def local_encoder(modality, **settings):
    model = randomise(Data2VecModel(tiny_config(modality, **{f"{modality}_config": settings})))
    return model.modality_encoders[modality].local_encoder.eval()


@torch.no_grad()
def test_a_patch_becomes_one_token_wherever_it_lies():
    encoder = local_encoder("vision")
    pixels = torch.randn(1, 3, 32, 32)
    features = encoder(pixels, None)
    assert features.grid == (4, 4) and features.features.shape == (1, 16, 32)
    moved = encoder(pixels.roll((8, 16), dims=(2, 3)), None).features.view(1, 4, 4, 32)
    torch.testing.assert_close(moved, features.features.view(1, 4, 4, 32).roll((1, 2), dims=(1, 2)))


@torch.no_grad()
def test_a_frame_hears_its_window_alone():
    encoder = local_encoder("audio")
    waves = torch.randn(1, 4000)
    changed = waves.clone()
    changed[:, 5 * 320 + 400 :] += 1.0  # behind the window of frame 5
    first, second = (encoder(wave, None).features for wave in (waves, changed))
    assert first.shape[1] == (4000 - 400) // 320 + 1
    torch.testing.assert_close(first[:, :6], second[:, :6])
    assert not torch.isclose(first[:, 6:], second[:, 6:]).all()


@torch.no_grad()
def test_the_token_mask_of_speech_has_a_frame_for_each_whole_window():
    mask = torch.arange(4000)[None] < torch.tensor([[4000], [1040], [400]])
    found = local_encoder("audio")(torch.randn(3, 4000), mask.long()).token_mask
    assert found.sum(dim=1).tolist() == [12, 3, 1]


@torch.no_grad()
def test_a_token_of_text_is_its_word_and_its_place():
    encoder = local_encoder("text")
    ids = torch.tensor([[5, 6, 5, 1, 1]])
    out = encoder(ids, None)
    assert out.token_mask.tolist() == [[True, True, True, False, False]]
    assert not torch.allclose(out.features[0, 0], out.features[0, 2])
    other = encoder(torch.tensor([[5, 9, 5, 1, 1]]), None).features
    assert torch.equal(out.features[0, [0, 2]], other[0, [0, 2]]) and not torch.equal(out.features[0, 1], other[0, 1])
    assert encoder(ids[:, :3], None).token_mask is None


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_first_layer_reads_the_input_and_the_extractor_belongs_to_the_encoder(modality):
    encoder = local_encoder(modality)
    kinds = {
        "text": TextLocalEncoder,
        "vision": VisionLocalEncoder,
        "audio": AudioLocalEncoder,
        "arrays": GroupedPerceiver,
    }
    assert type(encoder) is kinds[modality]
    seen = []
    encoder.first_layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    ((_, values),) = inputs_for(modality, size=96 if modality == "arrays" else None).items()
    encoder(values, None)
    assert len(seen) == 1 and seen[0].numel() == values.numel()
    assert {id(p) for p in encoder.extractor.parameters()} <= {id(p) for p in encoder.parameters()}


def test_ids_without_a_row_are_named():
    table = torch.nn.Embedding(10, 4)
    check_token_ids(torch.tensor([[0, 9]]), table)
    for wrong in (10, -1):
        with pytest.raises(ValueError, match=f"{wrong};.*0 to 9"):
            check_token_ids(torch.tensor([[3, wrong]]), table)


def test_the_front_end_decides_the_encoder():
    assert type(local_encoder("audio", **SPECTROGRAM)) is not AudioLocalEncoder


@torch.no_grad()
@pytest.mark.parametrize("compatible", [False, True])
def test_a_group_norm_sees_padding_only_as_the_reference_does(compatible):
    config = tiny_config("audio", audio_config={"conv_norm": "group"}, fairseq_compatible_padding=compatible)
    encoder = randomise(Data2VecModel(config)).modality_encoders["audio"].local_encoder.eval()
    waves, mask = torch.randn(2, 6000), torch.ones(2, 6000, dtype=torch.long)
    waves[1, 4000:], mask[1, 4000:] = 0, 0
    batch, alone = encoder(waves, mask), encoder(waves[1:, :4000], mask[1:, :4000])
    real = alone.features.shape[1]
    assert batch.token_mask.sum(dim=1).tolist() == [batch.features.shape[1], real]
    assert torch.allclose(batch.features[1, :real], alone.features[0], atol=1e-5) is not compatible
    assert encoder.conv_layers[1].group_norm is None and isinstance(
        encoder.conv_layers[0].layer_norm, torch.nn.Identity
    )


def test_a_group_norm_is_that_of_torch():
    encoder = local_encoder("audio", conv_norm="group", conv_bias=True)
    layer, x = encoder.conv_layers[0], torch.randn(2, 900, 1)
    torch.nn.init.normal_(layer.group_norm.weight)
    torch.nn.init.normal_(layer.group_norm.bias)
    expected = torch.nn.functional.group_norm(
        layer.conv(x).transpose(1, 2), 8, layer.group_norm.weight, layer.group_norm.bias, eps=1e-5
    )
    torch.testing.assert_close(layer(x), torch.nn.functional.gelu(expected).transpose(1, 2), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("scale", [0.5, 0.1, 0.0])
def test_gradients_of_the_local_encoder_are_scaled(modality, scale):
    """Of audio those of its convolutions alone; with 0 nothing is trained."""

    def make(factor):
        return Data2VecModel(tiny_config(modality, **{f"{modality}_config": {"local_grad_scale": factor}})).eval()

    inputs, model, other = inputs_for(modality), randomise(make(1.0)), make(scale)
    other.load_state_dict(model.state_dict())
    for each in (model, other):
        each(**inputs).last_hidden_state.square().sum().backward()
    local = other.modality_encoders[modality].local_encoder
    extractor = {id(parameter) for parameter in local.extractor.parameters()}
    whole = dict(model.modality_encoders[modality].local_encoder.named_parameters())
    for name, parameter in local.named_parameters():
        if id(parameter) not in extractor:
            torch.testing.assert_close(parameter.grad, whole[name].grad)
        elif scale == 0:
            assert parameter.grad is None and not parameter.requires_grad
        else:
            torch.testing.assert_close(parameter.grad, whole[name].grad * scale)


@torch.no_grad()
def test_text_without_norm_and_positions_is_its_scaled_tokens():
    encoder = local_encoder("text", embedding_norm=False, position_embedding="none", scale_embedding=True)
    ids = inputs_for("text")["input_ids"]
    torch.testing.assert_close(encoder(ids, None).features, encoder.token_embeddings(ids) * 32**0.5)
    with_positions = local_encoder("text", embedding_norm=False, position_embedding="sinusoidal")
    added = with_positions(ids, None).features - with_positions.token_embeddings(ids)
    torch.testing.assert_close(added[0, 0], with_positions.position_embeddings.table[2], atol=1e-6, rtol=1e-5)


def test_unknown_parts_of_front_ends_are_refused():
    for modality, settings in (
        ("audio", {"conv_norm": "batch"}),
        ("text", {"position_embedding": "rotary"}),
        ("audio", {"local_grad_scale": -1.0}),
        ("vision", {"layer_target_norm": ["layer", "time"]}),
    ):
        with pytest.raises(ValueError, match=next(iter(settings))):
            tiny_config(modality, **{f"{modality}_config": settings})
